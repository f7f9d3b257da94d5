"""The cage refuses what CuPy refuses, notices what CuPy hides, and lets the rest pass."""

import copy

import cage
import numpy as np
import pytest
from backends import Place
from cage import CageError, xp

import microtensor as mt


@pytest.fixture
def x():
    return xp.asarray(np.arange(16, dtype=np.float32).reshape(4, 4) - 7.5)


@pytest.fixture
def i():
    return xp.asarray(np.array([0, 0, 1, 2]))


REFUSED = {
    "np.asarray": (TypeError, lambda x, i: np.asarray(x)),
    "np.array": (TypeError, lambda x, i: np.array(x)),
    "np.stack": (TypeError, lambda x, i: np.stack([x, np.ones((4, 4))])),
    "operator with a NumPy array": (TypeError, lambda x, i: x * np.ones(4, np.float32)),
    "reflected operator": (TypeError, lambda x, i: np.ones(4, np.float32) * x),
    "in-place operator": (TypeError, lambda x, i: x.__iadd__(np.ones((4, 4)))),
    "function of a NumPy array": (TypeError, lambda x, i: xp.matmul(x, np.ones((4, 4)))),
    "function of a list": (TypeError, lambda x, i: xp.exp([1.0, 2.0])),
    "assignment of a NumPy array": (TypeError, lambda x, i: x.__setitem__(0, np.ones(4))),
    "out= of a NumPy array": (TypeError, lambda x, i: xp.exp(x, out=np.ones((4, 4)))),
    "add(where=)": (TypeError, lambda x, i: xp.add(x, x, where=x > 0)),
    "sum(where=)": (TypeError, lambda x, i: xp.sum(x, where=x > 0)),
    "x.sum(where=)": (TypeError, lambda x, i: x.sum(where=x > 0)),
    "max(initial=)": (TypeError, lambda x, i: xp.max(x, initial=0.0)),
    "maximum.reduce": (NotImplementedError, lambda x, i: xp.maximum.reduce(x)),
    "errstate": (AttributeError, lambda x, i: xp.errstate(all="ignore")),
    "einsum(out=)": (TypeError, lambda x, i: xp.einsum("ij->j", x, out=x[0])),
    "clip(min=)": (TypeError, lambda x, i: xp.clip(x, min=-1, max=1)),
    "take(mode=)": (TypeError, lambda x, i: xp.take(x, i, axis=0, mode="clip")),
    "zeros(device=)": (TypeError, lambda x, i: xp.zeros(3, device="cpu")),
    "vecdot": (AttributeError, lambda x, i: xp.vecdot(x, x)),
    "unstack": (AttributeError, lambda x, i: xp.unstack(x)),
    "a position in a list": (TypeError, lambda x, i: list(range(99))[xp.argmax(x)]),
    "a bound of a slice": (TypeError, lambda x, i: x[: i[3]]),
    "subtract.at of floats": (TypeError, lambda x, i: xp.subtract.at(x, i, x[i])),
    "unknown attribute": (AttributeError, lambda x, i: x.to_device("cpu")),
    "index out of range": (CageError, lambda x, i: x[i + 100]),
    "an element assigned twice": (CageError, lambda x, i: x.__setitem__(i, x[i])),
    "an address": (CageError, lambda x, i: x.data),
    "reshape to a length of -2": (CageError, lambda x, i: x.reshape(-2)),
    "reshape to a shape with -2": (CageError, lambda x, i: x.reshape((4, -2))),
    "index on the host": (CageError, lambda x, i: x[np.array([0, 1])]),
    "index as a list": (CageError, lambda x, i: x[[0, 1]]),
}

ALLOWED = {
    "rows": lambda xp, x, i: x[i],
    "add.at": lambda xp, x, i: xp.add.at(x, i, x[i]),
    "add.reduce": lambda xp, x, i: xp.add.reduce(x, (0, 1), keepdims=True),
    "einsum": lambda xp, x, i: xp.einsum("ij,kj->ik", x, x),
    "matmul": lambda xp, x, i: xp.matmul(x, x.T, out=xp.empty((4, 4), dtype=x.dtype)),
    "dot": lambda xp, x, i: x.dot(x),
    "slice": lambda xp, x, i: x[1:, ::-1] + x[..., None].reshape(4, 4)[1:],
    "reduction": lambda xp, x, i: xp.sum(x, axis=0, keepdims=True) + x.mean(axis=(0, 1)),
    "along an axis": lambda xp, x, i: xp.take_along_axis(x, xp.argsort(x, axis=1), axis=1),
    "out=": lambda xp, x, i: xp.exp(x, out=xp.empty_like(x)),
    "where": lambda xp, x, i: xp.where(x > 0, x, 0),
    "scalars": lambda xp, x, i: 1 - xp.tanh(x) ** 2 + np.float32(2) * x,
    "join": lambda xp, x, i: xp.concatenate([x, xp.stack([x[0], x[1]])], axis=0),
    "np.tanh": lambda xp, x, i: np.tanh(x),
    "np.sum": lambda xp, x, i: np.sum(x, axis=0),
    "one-hot": lambda xp, x, i: x.__setitem__((xp.arange(4), i), 1.0),
    "astype": lambda xp, x, i: x.astype("f8"),
    "in place": lambda xp, x, i: x.__iadd__(x),
    "pad": lambda xp, x, i: xp.pad(x, ((1, 2), (0, 0)), constant_values=3.0),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cupy_refuses_or_does_wrong_raises(name, x, i):
    error, program = REFUSED[name]
    with pytest.raises(error):
        program(x, i)


@pytest.mark.parametrize("name", ALLOWED)
def test_what_cupy_allows_gives_numpys_numbers_without_a_wait(name, x, i):
    program = ALLOWED[name]
    host = x.get()
    wanted = program(np, host, i.get())
    with cage.device_only():
        got = program(xp, x, i)
    np.testing.assert_array_equal(x.get(), host)
    if wanted is not None:
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got.get(), wanted)


WAITS = {
    "float": lambda x: float(x.sum()),
    "bool": lambda x: bool((x > 0).all()),
    "int": lambda x: int(x.argmax()),
    "item": lambda x: x.sum().item(),
    "tolist": lambda x: x.tolist(),
    "get": lambda x: x.get(),
    "asnumpy": lambda x: xp.asnumpy(x),
    "mask": lambda x: x[x > 0],
    "if": lambda x: 1 if x.sum() > 0 else 0,
}


@pytest.mark.parametrize("name", WAITS)
def test_a_transfer_to_the_host_is_counted_and_can_be_forbidden(name, x):
    with cage.counting_waits() as waits:
        WAITS[name](x)
    assert len(waits) == 1
    with cage.device_only(), pytest.raises(CageError, match="host"):
        WAITS[name](x)
    WAITS[name](x)  # outside the block it is allowed again


def test_reductions_stay_arrays_and_copies_are_copies(x):
    assert isinstance(x.sum(), cage.Caged)
    assert x.sum().shape == ()
    other = copy.deepcopy(x)
    other += 1
    assert x.get()[0, 0] == -7.5
    view = x[1:]
    assert cage.BACKEND.owner(view) == cage.BACKEND.owner(x)
    assert cage.BACKEND.owner(other) != cage.BACKEND.owner(x)


def test_the_cage_is_a_backend_like_any_other():
    place = Place("cage")
    with place():
        t = mt.zeros(2, 3)
    assert t.backend == "cage"
    assert t.to("numpy").backend == "numpy"
    assert mt.zeros(2).to("cage").backend == "cage"
    assert "backend='cage'" in repr(t)
    with pytest.raises(TypeError, match=r"multiply.*'b'.*'numpy'.*'cage'.*\.to\('cage'\)"):
        t * mt.zeros(2, 3)
