"""Where arrays live: the one file of the library that knows NumPy from CuPy.

Everything else asks this file three questions. Which *namespace* belongs to this array
(`numpy` or `cupy`, found by the array's type, never by a process-wide switch)? Where do new
tensors go (`use_backend`)? How does an array cross between the host and the device?

A backend is a small record in a registry, so a third kind of array can join without a change
elsewhere: the tests add a strict imitation of CuPy, and the recurrence code adds symbols.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from microtensor import modes

Array = Any  # a bare array of some backend: np.ndarray, cupy.ndarray, ...


class Backend(NamedTuple):
    """What the library must know about one kind of array.

    `owner` gives a number for the block of memory that an array lives in, the same for all views of
    it: what was written in place is remembered by it (writes.py).
    """

    name: str
    xp: Any
    array_type: type
    from_host: Callable[[np.ndarray], Array]
    to_host: Callable[[Array], np.ndarray]
    owner: Callable[[Array], int]


namespaces: dict[type, Any] = {}  # array type -> namespace; looked up once for every operation
by_type: dict[type, Backend] = {}
_by_name: dict[str, Backend] = {}


def register(backend: Backend) -> Backend:
    """Make arrays of `backend.array_type` known to every operation."""
    namespaces[backend.array_type] = backend.xp
    by_type[backend.array_type] = backend
    _by_name[backend.name] = backend
    return backend


def _owner(array: np.ndarray) -> int:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return id(array)  # may come again, but only for memory that is younger than the old one


NUMPY = register(Backend("numpy", np, np.ndarray, lambda array: array, lambda array: array, _owner))


def _load_cupy() -> Backend | None:
    """Register CuPy if it is installed *and* sees a card: its import alone proves nothing."""
    try:
        cupy = importlib.import_module("cupy")
    except ImportError:
        return None
    if not cupy.cuda.is_available():
        return None
    return register(
        Backend(
            "cupy",
            cupy,
            cupy.ndarray,
            cupy.asarray,
            cupy.asnumpy,
            lambda array: int(array.data.mem.ptr),
        )
    )


def backend_available(name: str) -> bool:
    """Whether `use_backend(name)` would work here: known, installed and, for CuPy, with a GPU."""
    return name in _by_name or (name == "cupy" and _load_cupy() is not None)


def get(name: str) -> Backend:
    """The backend called `name`.

    Raises
    ------
    ValueError
        If there is no backend of that name.
    RuntimeError
        If it is CuPy and CuPy or a GPU is missing.
    """
    if backend_available(name):
        return _by_name[name]
    if name == "cupy":
        raise RuntimeError(
            "backend 'cupy' needs CuPy and an NVIDIA GPU, and one of them is missing here; "
            "install the extra microtensor[cupy] on a machine with a GPU, or use 'numpy'"
        )
    known = ", ".join(repr(known) for known in sorted({*_by_name, "cupy"}))
    raise ValueError(f"unknown backend {name!r}; known backends: {known}")


def of(array: Array) -> Backend | None:
    """The backend an array belongs to, or None for anything that is not an array."""
    found = by_type.get(type(array))
    if found is None and type(array).__module__.partition(".")[0] == "cupy":
        _load_cupy()
        found = by_type.get(type(array))
    return found


_default: ContextVar[str] = ContextVar("microtensor_default_backend", default="numpy")


def default() -> Backend:
    """The backend where new tensors are made (see `use_backend`)."""
    return _by_name[_default.get()]


class use_backend:
    """Choose where new tensors live: `use_backend("cupy")`, or `with use_backend("cupy"):`.

    The choice belongs to the current thread or task (a context variable), takes effect at once,
    and as a context manager ends with the block. Tensors that exist already stay where they are:
    `t.to(name)` moves one.

    Raises
    ------
    ValueError, RuntimeError
        As `get`: an unknown backend, or CuPy without a GPU. Nothing has changed then.
    """

    def __init__(self, name: str) -> None:
        self._token = _default.set(get(name).name)

    def __enter__(self) -> use_backend:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _default.reset(self._token)


def order_from(axis: int, array: Array) -> tuple[int, ...] | None:
    """The axes of an array from the slowest to the fastest in memory, if `axis` is the slowest.

    None if it is another, or the array lies row by row. Numbers of such an array are best handled
    as a matrix whose rows are the indices of `axis`: nothing has to be copied.
    """
    if array.flags.c_contiguous:
        return None
    strides = array.strides
    order = sorted(range(array.ndim), key=lambda i: (-abs(strides[i]), i != axis))
    return tuple(order) if order[0] == axis else None


def scatter_add(xp: Any, target: Array, index: Any, values: Array) -> None:
    """`target[index] += values`, where an element named twice receives both values."""
    noted = modes.noting.get()
    if noted is not None and xp is not np:
        noted.whole(functools.partial(scatter_add, np), target, index, values)
        return
    rows = index[0]
    by_rows = xp is np and len(index) == 1 and target.ndim == 2 and rows.dtype.kind in "iu"
    if by_rows and rows.size > _MANY_ROWS:
        _scatter_rows(target, rows.reshape(-1), values.reshape(rows.size, -1))
        return
    xp.add.at(target, index, values)


_MANY_ROWS = 256


def _scatter_rows(target: np.ndarray, rows: np.ndarray, values: np.ndarray) -> None:
    """The same for whole rows, sorted first: an embedding's gradient, five times as fast."""
    rows = np.where(rows < 0, rows + len(target), rows) if rows.dtype.kind == "i" else rows
    small = len(target) <= np.iinfo(np.int16).max  # 16 bits are sorted by their digits
    order = np.argsort(rows.astype(np.int16) if small else rows, kind="stable")
    ordered = rows[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    lengths = np.diff(starts, append=len(rows))
    top = int(lengths.argmax())
    if 4 * lengths[top] > len(rows):  # padding, most likely: its sum is a product
        most = ordered[starts[top]]
        target[most] += (rows == most).astype(values.dtype).dot(values)
        order = order[ordered != most]
        ordered = rows[order]
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    if len(order):
        target[ordered[starts]] += np.add.reduceat(values.take(order, axis=0), starts, axis=0)


class Generator:
    """A stream of random numbers, drawn on the host so that every backend sees the same ones.

    NumPy's Philox underneath: counter-based, and its state is a handful of integers that can be
    saved. Everything random in the library (weights, dropout masks, shuffles, data) comes from
    one of these.

    Parameters
    ----------
    seed
        A non-negative integer, or a sequence of them (all of them matter), or None for fresh
        entropy of the operating system.
    """

    def __init__(self, seed: int | tuple[int, ...] | None = None) -> None:
        self.manual_seed(seed)

    @property
    def _rng(self) -> np.random.Generator:
        if modes.noting.get() is not None:
            raise RuntimeError(
                "a captured step draws random numbers (dropout?), which would be the same in every "
                "step; draw them outside and pass them as an argument, or do not capture this step"
            )
        return self._drawing

    def manual_seed(self, seed: int | tuple[int, ...] | None) -> Generator:
        """Start again from `seed`; returns the generator itself, as PyTorch does."""
        self._drawing = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))
        return self

    def normal(self, shape: Any = (), dtype: Any = np.float32) -> np.ndarray:
        """Standard normal numbers of `shape` as a host array."""
        return np.asarray(self._rng.standard_normal(shape)).astype(dtype, copy=False)

    def uniform(
        self, low: float = 0.0, high: float = 1.0, shape: Any = (), dtype: Any = np.float32
    ) -> np.ndarray:
        """Uniform numbers from [low, high) as a host array (drawn in float64, then rounded)."""
        drawn = np.asarray(self._rng.uniform(low, high, shape)).astype(dtype, copy=False)
        last = np.nextafter(
            drawn.dtype.type(high), drawn.dtype.type(low)
        )  # rounding may reach high
        return np.asarray(np.minimum(drawn, last))

    def integers(self, low: int, high: int, shape: Any = ()) -> np.ndarray:
        """Integers from low, ..., high - 1 as a host array of int64."""
        return np.asarray(self._rng.integers(low, high, shape))

    def bernoulli(self, p: float, shape: Any = (), dtype: Any = np.float32) -> np.ndarray:
        """Ones with probability `p`, else zeros, as a host array."""
        return np.asarray(self._rng.random(shape) < p).astype(dtype)

    def permutation(self, n: int) -> np.ndarray:
        """The integers 0, ..., n - 1 in random order."""
        return np.asarray(self._rng.permutation(n))

    def get_state(self) -> dict[str, Any]:
        """The whole state as a dictionary that JSON can hold."""
        state = dict(self._rng.bit_generator.state)
        state["state"] = {name: words.tolist() for name, words in state["state"].items()}
        state["buffer"] = state["buffer"].tolist()
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a state that `get_state` gave."""
        inner = {name: np.array(words, np.uint64) for name, words in state["state"].items()}
        buffer = np.array(state["buffer"], np.uint64)
        self._rng.bit_generator.state = {**state, "state": inner, "buffer": buffer}


@functools.cache  # made when first asked for: importing numpy.random alone would cost 15 ms
def default_generator() -> Generator:
    """The generator that is used wherever none is given."""
    return Generator(0)


def manual_seed(seed: int) -> Generator:
    """Start the default generator again from `seed` and return it."""
    return default_generator().manual_seed(seed)
