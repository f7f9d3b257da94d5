"""Weights move between the libraries in both directions, by dictionaries and by files."""

import numpy as np
import pytest
from parity.against_torch import close, generator, torch

import microtensor as mt
from microtensor import nn

pytestmark = pytest.mark.parity

RNG = generator(9)


class Ours(nn.Module):
    def __init__(self):
        self.embedding = nn.Embedding(7, 4, dtype=np.float64)
        self.rnn = nn.GRU(4, 5, num_layers=2, bidirectional=True, dtype=np.float64)
        self.head = nn.Sequential(nn.Linear(10, 6, dtype=np.float64), nn.ReLU(),
                                  nn.Linear(6, 3, bias=False, dtype=np.float64))  # fmt: skip

    def forward(self, tokens):
        output, _ = self.rnn(self.embedding(tokens))
        return self.head(output[-1])


class Theirs(torch.nn.Module):
    def __init__(self):
        super().__init__()
        double = {"dtype": torch.float64}
        self.embedding = torch.nn.Embedding(7, 4, **double)
        self.rnn = torch.nn.GRU(4, 5, num_layers=2, bidirectional=True, **double)
        self.head = torch.nn.Sequential(torch.nn.Linear(10, 6, **double), torch.nn.ReLU(),
                                        torch.nn.Linear(6, 3, bias=False, **double))  # fmt: skip

    def forward(self, tokens):
        output, _ = self.rnn(self.embedding(tokens))
        return self.head(output[-1])


TOKENS = RNG.integers(0, 7, (5, 2))


def same_function(ours, theirs):
    y, z = ours(TOKENS), theirs(torch.tensor(TOKENS))
    close(y, z, 1e-12)
    target = np.array([0, 2])
    mt.cross_entropy(y, target).backward()
    torch.nn.functional.cross_entropy(z, torch.tensor(target)).backward()
    torchs = dict(theirs.named_parameters())
    for name, p in ours.named_parameters():
        close(p.grad, torchs.pop(name).grad, 1e-10, name)
    assert not torchs


def test_a_dictionary_from_pytorch():
    ours, theirs = Ours(), Theirs()
    ours.load_state_dict(dict(theirs.state_dict()))
    same_function(ours, theirs)


def test_a_dictionary_to_pytorch():
    ours, theirs = Ours(), Theirs()
    state = {name: torch.tensor(value.numpy()) for name, value in ours.state_dict().items()}
    assert list(state) == list(theirs.state_dict())
    theirs.load_state_dict(state, strict=True)
    same_function(ours, theirs)


def test_a_dictionary_to_pytorch_through_dlpack():
    ours, theirs = Ours(), Theirs()
    theirs.load_state_dict(
        {name: torch.from_dlpack(value.detach()) for name, value in ours.state_dict().items()}
    )
    same_function(ours, theirs)


def test_a_file_from_pytorch(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    ours, theirs = Ours(), Theirs()
    path = tmp_path / "theirs.safetensors"
    safetensors.save_file(theirs.state_dict(), path, metadata={"who": "torch"})
    ours.load_state_dict(mt.load(path))
    same_function(ours, theirs)


def test_a_file_to_pytorch(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    ours, theirs = Ours(), Theirs()
    path = tmp_path / "ours.safetensors"
    mt.save(path, ours.state_dict())
    theirs.load_state_dict(safetensors.load_file(path), strict=True)
    same_function(ours, theirs)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool"])
def test_every_dtype_and_memory_layout_through_a_file(tmp_path, dtype):
    """Transposed and strided arrays too: they must be stored by their numbers, not their memory."""
    safetensors = pytest.importorskip("safetensors.torch")
    array = (RNG.normal(size=(4, 6)) * 3).astype(dtype)
    arrays = {"c": array, "t": array.T, "s": array[:, ::2], "r": array[::-1], "0": array[0, 0]}
    path = tmp_path / "layouts.safetensors"
    mt.save(path, {name: mt.Tensor(np.asarray(a)) for name, a in arrays.items()})
    loaded = safetensors.load_file(path)
    for name, a in arrays.items():
        np.testing.assert_array_equal(loaded[name].numpy(), a)
        assert str(loaded[name].dtype) == f"torch.{dtype}"
    back = tmp_path / "back.safetensors"
    safetensors.save_file({name: t.contiguous() for name, t in loaded.items()}, back)
    for name, t in mt.load(back).items():
        np.testing.assert_array_equal(t.numpy(), arrays[name])
        assert t.dtype == dtype


def test_layers_and_dropout_off():
    ours = nn.Sequential(nn.Linear(4, 6, dtype=np.float64), nn.Tanh(), nn.Dropout(0.5),
                         nn.Linear(6, 3, dtype=np.float64), nn.Sigmoid())  # fmt: skip
    theirs = torch.nn.Sequential(
        torch.nn.Linear(4, 6, dtype=torch.float64), torch.nn.Tanh(), torch.nn.Dropout(0.5),
        torch.nn.Linear(6, 3, dtype=torch.float64), torch.nn.Sigmoid(),
    )  # fmt: skip
    ours.load_state_dict(dict(theirs.state_dict()))
    x = RNG.normal(size=(5, 4))
    close(ours.eval()(mt.tensor(x)), theirs.eval()(torch.tensor(x)))


def test_embedding_with_padding_and_repeated_tokens():
    weight = RNG.normal(size=(7, 4))
    ours = nn.Embedding(7, 4, padding_idx=2, dtype=np.float64)
    theirs = torch.nn.Embedding(7, 4, padding_idx=2, dtype=torch.float64)
    ours.load_state_dict({"weight": weight})
    theirs.load_state_dict({"weight": torch.tensor(weight)})
    tokens = np.array([[2, 1, 1], [0, 2, 6]])
    c = RNG.normal(size=(2, 3, 4))
    y, z = ours(tokens), theirs(torch.tensor(tokens))
    close(y, z)
    y.backward(c)
    z.backward(torch.tensor(c))
    close(ours.weight.grad, theirs.weight.grad)
