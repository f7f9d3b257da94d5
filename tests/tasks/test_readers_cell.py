"""--cell: cells of the library and of a reader's file, and whatever can be wrong with them."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from pathlib import Path

import numpy as np
import pytest

import microtensor as mt
from microtensor import nn
from tasks import readers_cell
from tasks.harness import UsageError
from tasks.readers_cell import LIBRARY, REMEMBERS, blaming, build, check

CELLS = '''
import numpy as np
import microtensor as mt
from microtensor import nn
from microtensor.recurrence import cell, lstm
import neighbour

@cell(gates=("a",))
def leaky(a, h):
    return neighbour.KEEP * h + 0.1 * mt.tanh(a)

@cell(gates=("i", "f"), state=("h",))
def forgetful(i, f, h):
    return mt.sigmoid(f) * h + mt.tanh(i)

@cell(gates=("i", "f"), per_block=("f",), feeds=("h", "f"), truncated=True, biased=("f",))
def blocks(i, f, h):
    return forgetful(i, f, h), mt.sigmoid(f)

@cell(gates=("a",))
def infinite(a, h):
    return mt.log(0.0 * a) + h

@cell(gates=("a",))
def broken(a, h):
    return mt.tanh(a) + missing

@cell(gates=("a",))
def detached(a, h):
    return mt.tanh(a).detach()

@cell(gates=("a",))
def steep(a, h):
    return mt.sqrt(0.0 * a)

class Wide(nn.Module):
    """Its output is wider than its hidden size."""
    def __init__(self, input_size, hidden_size, generator=None):
        self.hidden_size = 2 * hidden_size
        size = self.hidden_size
        self.linear = nn.Linear(input_size + size, size, generator=generator)

    def step(self, x, state):
        return mt.tanh(self.linear(mt.concatenate([x, state], axis=-1)))

class Unseeded(nn.Module):
    def __init__(self, input_size, hidden_size):
        self.hidden_size = hidden_size
        self.linear = nn.Linear(input_size, hidden_size)

    def step(self, x, state):
        return 0.9 * state + self.linear(x)

class Flat(Unseeded):
    def step(self, x, state):
        return super().step(x, state).sum(axis=-1)

class Dead(nn.Module):
    hidden_size = 3
    def __init__(self, input_size, hidden_size):
        pass

    def step(self, x, state):
        return state + 1.0

class NoStep(nn.Module):
    pass

class Plain:
    def step(self, x, state):
        return state

made = Unseeded(2, 3)
number = 3
def undeclared(a, h):
    return a
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("KEEP = 0.9\n")
    path = tmp_path / "cells.py"
    path.write_text(CELLS)
    return path


@pytest.mark.parametrize("name", LIBRARY)
def test_every_cell_of_the_library_is_a_layer(name: str) -> None:
    check(name, 2, 5)
    layer, width = build(name, 2, 5, generator=mt.Generator(0))
    assert width == 5
    output, _ = layer(mt.tensor(np.ones((7, 3, 2), np.float32)))
    assert output.shape == (7, 3, 5)
    (output * output).sum().backward()
    assert all(np.abs(p.grad.numpy()).max() > 0 for p in layer.parameters())


@pytest.mark.parametrize("name", LIBRARY)
def test_the_open_gate_keeps_the_state(name: str) -> None:
    """With the bias of its gate far up, and nothing let in, the state before stays."""
    plain, _ = build(name, 2, 4, generator=mt.Generator(3))
    opened, _ = build(name, 2, 4, generator=mt.Generator(3), remember=50.0)
    changed = {
        key: np.flatnonzero(value.numpy() != opened.state_dict()[key].numpy())
        for key, value in plain.state_dict().items()
    }
    moved = {key: places for key, places in changed.items() if len(places)}
    if name not in REMEMBERS:
        assert not moved
        return
    [(key, places)] = moved.items()
    assert "bias" in key
    assert len(places) == 4
    assert np.ptp(places) == 3
    with mt.no_grad():
        for other, value in opened.named_parameters():
            if "bias" not in other:  # nothing comes in but the biases
                value[...] = 0.0
        x, keeps = mt.zeros((1, 1, 2)), mt.full((1, 1, 4), 0.3)
        if name.startswith("gru"):
            _, kept = opened(x, keeps)
            np.testing.assert_allclose(kept.numpy(), 0.3, atol=1e-6)
            return
        _, (_, kept) = opened(x, (keeps * 0.0, keeps))
    bias = opened.state_dict()[key].numpy().reshape(4, 4)
    order = "oifk" if name.startswith("carry") else "ifgo"
    i, g = bias[order.index("i")], bias[order.index("k" if "k" in order else "g")]
    squash = np.tanh if name == "carry-track" else lambda a: 1 / (1 + np.exp(-a))
    np.testing.assert_allclose(kept.numpy()[0, 0], 0.3 + squash(i) * np.tanh(g), atol=1e-6)


def test_a_cell_of_a_file_is_the_same_equations(file: Path) -> None:
    layer, width = build(f"{file}:leaky", 2, 3, generator=mt.Generator(1))
    assert width == 3
    p = {name: value.numpy() for name, value in layer.state_dict().items()}
    assert set(p) == {"weight_ih_l0", "weight_hh_l0", "bias_ih_l0"}
    x = mt.Generator(2).normal((4, 2, 2))
    h = np.zeros((2, 3))
    for row in x:
        a = row @ p["weight_ih_l0"].T + p["bias_ih_l0"] + h @ p["weight_hh_l0"].T
        h = 0.9 * h + 0.1 * np.tanh(a)
    output, _ = layer(mt.tensor(x))
    np.testing.assert_allclose(output.detach().numpy()[-1], h, rtol=1e-5, atol=1e-6)


def test_a_gate_called_f_is_taken_for_a_forget_gate(file: Path) -> None:
    layer, _ = build(f"{file}:forgetful", 2, 3, generator=mt.Generator(1), remember=4.0)
    bias = layer.state_dict()["bias_ih_l0"].numpy()
    assert (bias[3:] == 4.0).all()
    assert (bias[:3] != 4.0).all()
    layer, _ = build(f"{file}:blocks", 2, 3, generator=mt.Generator(1), remember=4.0)
    assert layer.state_dict()["bias_ih_l0"].numpy().tolist() == [4.0] * 3


def test_a_module_class_has_the_width_of_its_output_and_its_generator(file: Path) -> None:
    spec = f"{file}:Wide"
    check(spec, 2, 3)
    layer, width = build(spec, 2, 3, generator=mt.Generator(1))
    assert width == 6
    again, _ = build(spec, 2, 3, generator=mt.Generator(1))
    for one, other in zip(layer.parameters(), again.parameters(), strict=True):
        np.testing.assert_array_equal(one.detach().numpy(), other.detach().numpy())
    check(f"{file}:Unseeded", 2, 3)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("infinite", "its output is not finite"),
        ("broken", r"NameError, line \d+: name 'missing' is not defined"),
        ("detached", "no gradient reaches its weights"),
        ("steep", "its gradient is not finite"),
        ("Flat", r"the output of a step must be \(B, H\)"),
        ("Dead", "it has no parameters"),
        ("NoStep", "a class that is no Module with a method step"),
        ("Plain", "a class that is no Module with a method step"),
        ("made", "a Unseeded that is built already; name its class"),
        ("number", "a int"),
        ("undeclared", "a function; declare it by @recurrence.cell"),
        ("leeky", "the file has nothing called leeky; it has leaky, forgetful, blocks"),
    ],
)
def test_what_is_wrong_with_a_cell_is_one_line(file: Path, name: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        check(f"{file}:{name}", 2, 3)
    assert str(caught.value).startswith(f"{file}:{name}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def broken(:\n", "SyntaxError, line 1"),
        ("x = 1\nimport no_such_module_here\n", "ModuleNotFoundError, line 2"),
        ("raise RuntimeError('two\\nlines')\n", "RuntimeError, line 1: two lines"),
    ],
)
def test_a_file_that_cannot_be_imported(tmp_path: Path, source: str, says: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(source)
    with pytest.raises(ValueError, match=says):
        check(f"{path}:cell", 2, 3)


def test_words_that_name_no_cell(tmp_path: Path) -> None:
    for spec, says in (
        ("lstn", "did you mean 'lstm'"),
        (f"{tmp_path}/none.py:cell", "there is no file"),
        ("cells.py", "write FILE.py:NAME"),
        ("cells.py:", "write FILE.py:NAME"),
        ("cells:leaky", "write FILE.py:NAME"),
    ):
        with pytest.raises(ValueError, match=says):
            check(spec, 2, 3)


def test_an_edited_file_is_another_cell(file: Path) -> None:
    before = readers_cell.version(f"{file}:leaky")
    old, _ = build(f"{file}:leaky", 2, 3, generator=mt.Generator(1))
    file.write_text(CELLS.replace("0.1 * mt.tanh(a)", "0.3 * mt.tanh(a)"))
    new, _ = build(f"{file}:leaky", 2, 3, generator=mt.Generator(1))
    assert before != readers_cell.version(f"{file}:leaky")
    x = mt.tensor(np.ones((1, 1, 2), np.float32))
    ratio = new(x)[0].detach().numpy() / old(x)[0].detach().numpy()
    np.testing.assert_allclose(ratio, 3.0, rtol=1e-5)
    assert readers_cell.version("lstm") == ""


def test_what_a_cell_raises_later_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "late.py"
    path.write_text("def late():\n    raise KeyError('too late')\n")
    module = readers_cell._import(path)
    says = r"late.py:cell: KeyError, line 2: 'too late'"
    with pytest.raises(UsageError, match=says), blaming(f"{path}:cell"):
        module.late()
    with pytest.raises(ZeroDivisionError), blaming(f"{path}:cell"):  # not the reader's
        _ = 1 / 0


def _width(spec: str) -> int:
    return build(spec, 2, 3, generator=mt.Generator(0))[1]


def test_a_worker_process_imports_it_too(file: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        assert executor.submit(_width, f"{file}:Wide").result() == 6


def test_a_module_of_the_library_is_a_cell_too(tmp_path: Path) -> None:
    path = tmp_path / "borrowed.py"
    path.write_text("from microtensor.nn import GRUCell\nfrom microtensor.recurrence import lstm\n")
    check(f"{path}:GRUCell", 2, 3)
    check(f"{path}:lstm", 2, 3)
    assert isinstance(build(f"{path}:GRUCell", 2, 3, generator=mt.Generator(0))[0], nn.Recurrent)
