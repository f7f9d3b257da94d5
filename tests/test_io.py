"""Saving and loading: nothing is lost on the way, and nothing damaged gets in."""

import json
import os
import stat
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import microtensor as mt
from microtensor import io as mtio

DTYPES = ["bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"]
LAYOUTS = ["C", "Fortran", "transposed", "reversed", "every second", "broadcast", "big-endian"]

dtypes = st.sampled_from(DTYPES).map(np.dtype)
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
texts = st.text(max_size=8)
names = texts.filter(lambda name: name not in ("microtensor", "__metadata__"))
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
metadatas = st.dictionaries(names, json_values, max_size=4)


@st.composite
def arrays(draw):
    """Any type and shape, any value (NaN and infinity too), in any layout of memory."""
    array = draw(hnp.arrays(draw(dtypes), draw(shapes)))
    match draw(st.sampled_from(LAYOUTS)):
        case "Fortran":
            return np.asfortranarray(array) if array.ndim else array
        case "transposed":
            return array.T
        case "reversed":
            return array[::-1] if array.ndim else array
        case "every second":
            return np.repeat(array, 2, axis=-1)[..., ::2] if array.ndim else array
        case "broadcast":
            return np.broadcast_to(array, (3, *array.shape))
        case "big-endian":
            return array.astype(array.dtype.newbyteorder(">"))
    return array


states = st.dictionaries(names, arrays(), max_size=4)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("io") / "model.safetensors"


def assert_same(found, expected):
    """Bitwise: NaN payloads and signed zeros count."""
    assert type(found) is np.ndarray
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype.newbyteorder("=")
    assert found.tobytes() == np.ascontiguousarray(expected).astype(found.dtype).tobytes()


# -- what goes in comes out ---------------------------------------------------------------------


@given(states, metadatas)
def test_round_trip(path, state, metadata):
    mt.save(path, state, metadata)
    loaded = mt.load(path)
    assert list(loaded) == sorted(state)
    for name, array in state.items():
        assert isinstance(loaded[name], mt.Tensor)
        assert not loaded[name].requires_grad
        assert_same(loaded[name].numpy(), array)
    assert loaded.metadata == metadata
    # == does not tell 1 from 1.0 or from True.
    assert json.dumps(loaded.metadata, sort_keys=True) == json.dumps(metadata, sort_keys=True)


@given(states, st.dictionaries(names, texts, max_size=3))
def test_other_readers_see_the_same(path, state, metadata):
    mt.save(path, state, metadata)
    plain = safetensors.numpy.load_file(path)
    assert plain.keys() == state.keys()
    for name, array in state.items():
        assert_same(plain[name], array)
    with safetensors.safe_open(path, "np") as file:
        stored = file.metadata()
    assert {name: text for name, text in stored.items() if name != "microtensor"} == metadata


# The plain writer is given contiguous arrays and no empty metadata: its version 0.8.0 writes wrong
# numbers for the one, and a file that it cannot read itself for the other.
@given(states, st.none() | st.dictionaries(names, texts, min_size=1, max_size=3))
def test_files_of_other_writers_load(path, state, metadata):
    plain = {name: np.array(a, a.dtype.newbyteorder("="), order="C") for name, a in state.items()}
    safetensors.numpy.save_file(plain, path, metadata)
    loaded = mt.load(path)
    assert list(loaded) == sorted(state)
    for name, array in state.items():
        assert_same(loaded[name].numpy(), array)
    assert loaded.metadata == (metadata or {})


@pytest.mark.parity
def test_files_travel_to_pytorch_and_back(path):
    import safetensors.torch
    import torch

    ours = mt.nn.Linear(3, 2)
    mt.save(path, ours.state_dict(), {"epoch": 1})
    theirs = torch.nn.Linear(3, 2)
    theirs.load_state_dict(safetensors.torch.load_file(path))
    assert np.array_equal(theirs.weight.detach().numpy(), ours.weight.detach().numpy())

    theirs = torch.nn.Linear(3, 2)
    safetensors.torch.save_file(theirs.state_dict(), path)
    ours.load_state_dict(mt.load(path))
    assert np.array_equal(theirs.weight.detach().numpy(), ours.weight.detach().numpy())
    assert np.array_equal(theirs.bias.detach().numpy(), ours.bias.detach().numpy())


@given(states, metadatas, st.randoms(use_true_random=False))
def test_the_same_content_gives_the_same_bytes(path, state, metadata, random):
    mt.save(path, state, metadata)
    first = path.read_bytes()
    shuffled = [list(content.items()) for content in (state, metadata)]
    for items in shuffled:
        random.shuffle(items)
    mt.save(path, *map(dict, shuffled))
    assert path.read_bytes() == first


def test_bytes_do_not_depend_on_the_process(path):
    code = (
        "import sys, microtensor as mt; mt.save(sys.argv[1], {'b': mt.zeros(2), 'a': mt.ones(3)},"
        " {str(i): [i] for i in range(9)})"
    )
    written = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        root = Path(__file__).parent.parent
        subprocess.run([sys.executable, "-c", code, path], check=True, cwd=root, env=environment)
        written.add(path.read_bytes())
    assert len(written) == 1


def test_parameters_are_saved_without_their_gradients(path):
    layer = mt.nn.Linear(2, 1)
    layer(mt.ones(4, 2)).sum().backward()
    mt.save(path, layer.state_dict())
    loaded = mt.load(path)
    assert sorted(loaded) == ["bias", "weight"]
    assert_same(loaded["weight"].numpy(), layer.weight.detach().numpy())


def test_recorded_results_can_be_saved(path):
    x = mt.tensor([1.0, 2.0], requires_grad=True)
    mt.save(path, {"y": x * 2})
    assert_same(mt.load(path)["y"].numpy(), np.array([2, 4], np.float32))


def test_loaded_tensors_own_writable_memory(path):
    mt.save(path, {"a": mt.zeros(2), "b": mt.zeros(2)})
    loaded = mt.load(path)
    loaded["a"][...] = 1.0
    assert loaded["b"].numpy().tolist() == [0, 0]
    assert mt.load(path)["a"].numpy().tolist() == [0, 0]


def test_random_state_travels_as_metadata(path):
    generator = mt.Generator(7)
    generator.normal(5)
    mt.save(path, {}, {"generator": generator.get_state()})
    other = mt.Generator(0)
    other.set_state(mt.load(path).metadata["generator"])
    assert np.array_equal(other.normal(9), generator.normal(9))


def test_tuples_come_back_as_lists(path):
    mt.save(path, {}, {"betas": (0.9, 0.999)})
    assert mt.load(path).metadata == {"betas": [0.9, 0.999]}


def test_the_backend_to_load_to(path):
    mt.save(path, {"a": mt.zeros(2)})
    assert mt.load(path, backend="numpy")["a"].backend == "numpy"
    with pytest.raises(ValueError, match="nosuch"):
        mt.load(path, backend="nosuch")


# -- what is damaged stays out --------------------------------------------------------------------


def refused(path, *words):
    with pytest.raises(mtio.LoadError) as caught:
        mt.load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    for word in words:
        assert word in message


@given(states, metadatas, st.data())
def test_a_file_cut_short_is_refused(path, state, metadata, data):
    mt.save(path, state, metadata)
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    refused(path)


@given(states, metadatas, st.data())
def test_a_file_with_something_behind_it_is_refused(path, state, metadata, data):
    mt.save(path, state, metadata)
    path.write_bytes(path.read_bytes() + data.draw(st.binary(min_size=1, max_size=9)))
    refused(path)


@given(st.dictionaries(names, arrays(), min_size=1, max_size=3), metadatas, st.data())
def test_a_changed_byte_is_refused_or_harmless(path, state, metadata, data):
    mt.save(path, state, metadata)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    payload = 8 + struct.unpack("<Q", content[:8])[0] if place >= 8 else len(content)
    if place >= payload:
        refused(path, "checksum")
        return
    try:
        loaded = mt.load(path)
    except mtio.LoadError:
        refused(path)
        return
    # A space that became a tab, or the name of the checksum's own entry.
    assert list(loaded) == sorted(state)
    for name, array in state.items():
        assert_same(loaded[name].numpy(), array)
    assert metadata.keys() <= loaded.metadata.keys()


@given(st.binary(max_size=200))
@example(b"")
@example(b"\x00" * 8)
@example(struct.pack("<Q", 2) + b"{}" + b"tail")
@example(struct.pack("<Q", 2) + b"[]")
@example(struct.pack("<Q", 4) + b"null")
@example(struct.pack("<Q", 2**63) + b"{}")
@example(b"PK\x03\x04" + b"\x00" * 60)
@example(struct.pack("<Q", 40) + b'{"__metadata__":{"microtensor":"null"}}' + b" ")
@example(struct.pack("<Q", 40) + b'{"__metadata__":{"microtensor":"[[[["}}' + b" ")
def test_anything_else_is_refused(path, content):
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize(
    ("content", "word"), [(b"", "empty"), (b"hello", "no safetensors file"), (b"\x80", "cut short")]
)
def test_the_message_says_what_is_wrong(path, content, word):
    path.write_bytes(content)
    refused(path, word)


def test_nesting_without_end_is_refused(path):
    deep = json.dumps({"__metadata__": {"microtensor": "[" * 100_000}}).encode()
    path.write_bytes(struct.pack("<Q", len(deep)) + deep)
    refused(path, "microtensor")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    refused(tmp_path / "none.safetensors", "No such file")
    refused(tmp_path)


def test_types_that_numpy_lacks_are_refused(path):
    header = b'{"w":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0")
    refused(path, "'w'", "BF16", "float32")


def test_nothing_is_loaded_in_part(path):
    model = mt.nn.Linear(3, 3)
    before = model.weight.detach().numpy().copy()
    mt.save(path, {name: value.detach() * 2 for name, value in model.state_dict().items()})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(mtio.LoadError):
        model.load_state_dict(mt.load(path))
    assert np.array_equal(model.weight.detach().numpy(), before)


# -- what cannot be saved is refused at the door, and harms nothing -------------------------------


@pytest.mark.parametrize(
    ("state", "metadata", "error", "message"),
    [
        ({"a": 1.0}, None, TypeError, "'a'.*float"),
        ({"a": [1.0]}, None, TypeError, "'a'.*list"),
        ({"a": None}, None, TypeError, "'a'.*NoneType"),
        ({"a": np.array(["x"])}, None, TypeError, "'a'.*<U1"),
        ({"a": np.array([None])}, None, TypeError, "'a'.*object"),
        ({"a": np.array([1j])}, None, TypeError, "'a'.*complex128"),
        ({1: np.zeros(1)}, None, TypeError, "must be a string, not 1"),
        ({"__metadata__": np.zeros(1)}, None, ValueError, "reserved"),
        ({"\ud800": np.zeros(1)}, None, ValueError, "Unicode"),
        ({}, {1: "x"}, TypeError, "must be a string, not 1"),
        ({}, {"microtensor": "x"}, ValueError, "reserved"),
        ({}, {"m": float("nan")}, ValueError, "'m'.*nan"),
        ({}, {"m": [1, {"x": float("inf")}]}, ValueError, r"'m'\[1\]\['x'\].*inf"),
        ({}, {"m": {1: 2}}, TypeError, "'m'.*key 1"),
        ({}, {"m": np.zeros(2)}, TypeError, "'m'.*ndarray"),
        ({}, {"m": np.float32(1)}, TypeError, "'m'.*float32"),
        ({}, {"m": ["\ud800"]}, ValueError, "Unicode"),
    ],
)
def test_what_cannot_be_saved(tmp_path, state, metadata, error, message):
    path = tmp_path / "model.safetensors"
    mt.save(path, {"before": mt.ones(1)})
    before = path.read_bytes()
    with pytest.raises(error, match=message):
        mt.save(path, state, metadata)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_where_nothing_can_be_saved(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        mt.save(tmp_path / "none" / "model.safetensors", {})
    with pytest.raises(IsADirectoryError, match="folder"):
        mt.save(tmp_path, {})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_half_way_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, call):
    path = tmp_path / "model.safetensors"
    mt.save(path, {"a": mt.ones(1)})
    before = path.read_bytes()

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mtio.os, call, fail)
    with pytest.raises(OSError, match="No space left"):
        mt.save(path, {"a": mt.zeros(1)})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_the_new_file_is_on_the_disk_before_it_takes_the_old_ones_place(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    calls = []
    for call in ("fsync", "replace"):
        real = getattr(os, call)
        monkeypatch.setattr(
            mtio.os, call, lambda *a, call=call, real=real: (calls.append(call), real(*a))[1]
        )
    mt.save(path, {"a": mt.ones(1)})
    assert calls[:2] == ["fsync", "replace"]
    if os.name == "posix":
        assert calls[2:] == ["fsync"]  # of the folder: else the new name may be lost


@pytest.mark.skipif(os.name != "posix", reason="permissions and links as POSIX has them")
def test_permissions_and_links_are_those_of_an_ordinary_file(tmp_path):
    ordinary = tmp_path / "ordinary"
    ordinary.write_bytes(b"")
    path = tmp_path / "model.safetensors"
    (tmp_path / "link").symlink_to(path)
    mt.save(tmp_path / "link", {"a": mt.ones(1)})
    assert (tmp_path / "link").is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)
    assert mt.load(path)["a"].item() == 1


def test_strings_and_relative_paths_are_paths_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mt.save("model.safetensors", {"a": mt.ones(1)})
    assert mt.load("model.safetensors")["a"].item() == 1
    refused("none.safetensors")
