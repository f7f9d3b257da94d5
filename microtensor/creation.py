"""Making tensors: from numbers, filled, or random.

Python's floats become float32 and its integers int64, as in PyTorch; arrays keep their dtype. New
tensors live on the default backend (`mt.use_backend`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from microtensor import backend, guards, modes
from microtensor.backend import Generator, default_generator
from microtensor.ops.shape import _ints
from microtensor.tensor import Tensor


def _host(data: Any, dtype: Any) -> Any:
    if isinstance(data, Tensor):
        return data.data
    if backend.of(data) is not None:
        return data
    if isinstance(data, (list, tuple)) and any(isinstance(part, Tensor) for part in data):
        raise TypeError("mt.tensor makes leaves; join tensors with mt.stack, which is recorded")
    array = np.asarray(data)
    if array.dtype == object or array.dtype.kind not in "biufc":
        raise TypeError(
            f"cannot make a tensor of {type(data).__name__} ({array.dtype}): it must be numbers, "
            "in an array or in lists of equal length"
        )
    # Only where no dtype is asked for: 0.1 as float64 must not have been rounded to float32 before.
    from_python = isinstance(data, (float, list, tuple)) and not isinstance(data, np.generic)
    from_python = from_python and dtype is None
    return array.astype(np.float32) if from_python and array.dtype == np.float64 else array


def tensor(data: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """A new leaf with a copy of `data`: a number, (nested) lists of numbers, an array, a tensor.

    Raises
    ------
    TypeError
        If `data` is not numbers, or a gradient is asked for numbers that are not float32 or
        float64.
    """
    array = _host(data, dtype)
    kept = backend.of(array)
    if not isinstance(data, Tensor) and kept is backend.NUMPY:
        if modes.noting.get() is not None and array.ndim:
            raise guards.untold("mt.tensor of an array, or of a list,")
        array = backend.default().from_host(np.array(array, dtype))
    else:
        array = array.astype(dtype or array.dtype)
    return Tensor(array, requires_grad)


def _put(array: Any, dtype: Any, requires_grad: bool) -> Tensor:
    return Tensor(backend.default().from_host(np.asarray(array, dtype, order="C")), requires_grad)


def zeros(*shape: Any, dtype: Any = np.float32, requires_grad: bool = False) -> Tensor:
    """Zeros: `zeros(2, 3)` or `zeros((2, 3))`."""
    return full(_ints(shape), 0, dtype=dtype, requires_grad=requires_grad)


def ones(*shape: Any, dtype: Any = np.float32, requires_grad: bool = False) -> Tensor:
    """Ones: `ones(2, 3)` or `ones((2, 3))`."""
    return full(_ints(shape), 1, dtype=dtype, requires_grad=requires_grad)


def full(
    shape: Any, fill_value: float, dtype: Any = np.float32, requires_grad: bool = False
) -> Tensor:
    """An array of `shape` filled with one number."""
    shape = shape if isinstance(shape, (tuple, list)) else (shape,)
    return Tensor(backend.default().xp.full(tuple(shape), fill_value, dtype), requires_grad)


def arange(start: float, stop: float | None = None, step: float = 1, dtype: Any = None) -> Tensor:
    """start, start + step, ... up to but without `stop`; one argument is the stop."""
    start, stop = (0, start) if stop is None else (start, stop)
    array = np.arange(start, stop, step)
    return _put(array, dtype or (np.int64 if array.dtype.kind == "i" else np.float32), False)


def eye(
    n: int, m: int | None = None, dtype: Any = np.float32, requires_grad: bool = False
) -> Tensor:
    """The n x m matrix with ones on its diagonal."""
    return _put(np.eye(n, m), dtype, requires_grad)


def zeros_like(x: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros of the shape, dtype and backend of `x`."""
    return _filled_like(x, 0, dtype, requires_grad)


def ones_like(x: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones of the shape, dtype and backend of `x`."""
    return _filled_like(x, 1, dtype, requires_grad)


def _filled_like(x: Any, value: float, dtype: Any, requires_grad: bool) -> Tensor:
    array = x.data if isinstance(x, Tensor) else x
    if backend.of(array) is None:
        raise TypeError(
            f"this takes the shape of a tensor or an array, not of a {type(x).__name__}"
        )
    xp = backend.namespaces[array.__class__]
    return Tensor(xp.full(array.shape, value, dtype or array.dtype), requires_grad)


def randn(
    *shape: Any,
    dtype: Any = np.float32,
    generator: Generator | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Standard normal numbers, drawn on the host."""
    rng = generator or default_generator()
    return _put(rng.normal(_ints(shape), dtype), dtype, requires_grad)


def rand(
    *shape: Any,
    dtype: Any = np.float32,
    generator: Generator | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Uniform numbers from [0, 1), drawn on the host."""
    rng = generator or default_generator()
    return _put(rng.uniform(0.0, 1.0, _ints(shape), dtype), dtype, requires_grad)


def detach(tree: Any) -> Any:
    """Every tensor in a nesting of tuples, lists and dictionaries, detached.

    This is truncated back-propagation through time, all of it: `state = mt.detach(state)`.
    """
    if isinstance(tree, Tensor):
        return tree.detach()
    if isinstance(tree, dict):
        return {key: detach(value) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*map(detach, tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(map(detach, tree))
    return tree
