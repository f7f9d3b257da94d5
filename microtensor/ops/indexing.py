"""Picking elements: `x[index]` in all of NumPy's forms, and what is built on it.

The derivative touches only what the index touched (see indexed.py), and an element that was picked
twice receives both contributions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from microtensor import engine, guards, modes
from microtensor.backend import Array, namespaces
from microtensor.engine import primitive
from microtensor.indexed import IndexedCotangent, add_at, is_basic
from microtensor.ops.shape import reshape


@primitive
def _getitem(xp: Any, x: Array, *, index: Any) -> Array:
    return x[index]


@primitive
def index_sum(xp: Any, *parts: Array, indices: Any, shape: tuple[int, ...]) -> Array:
    """Zeros of `shape`, to which each part is added at its index."""
    total = xp.zeros(shape, parts[0].dtype)
    for part, index in zip(parts, indices, strict=True):
        add_at(xp, total, index, part)
    return total


_getitem.vjp("x", lambda g, index: IndexedCotangent(g, index, index_sum))
index_sum.vjp("parts", lambda g, indices: [_getitem(g, index=index) for index in indices])


def plain(index: Any, kind: type) -> Any:
    """An index with tensors, lists and NumPy integers as what arrays of `kind` understand."""
    if index.__class__ in (int, slice):
        return index
    if index.__class__ is tuple:
        return index if is_basic(index) else tuple([plain(part, kind) for part in index])
    if isinstance(index, engine.Tensor):
        index = index.data
    if modes.noting.get() is not None and isinstance(index, np.ndarray) and index.ndim:
        raise guards.untold("an index")
    if isinstance(index, list):
        index = np.asarray(index, dtype=None if index else np.intp)
    if isinstance(index, np.integer):
        return int(index)
    if isinstance(index, np.ndarray) and kind is not np.ndarray:
        return namespaces[kind].asarray(index)  # uploaded here, not hidden in the indexing
    return index


def getitem(x: Any, index: Any) -> Any:
    """`x[index]`: integers, slices, None, ..., integer arrays, masks, and tuples of them."""
    array = x.data if isinstance(x, engine.Tensor) else x
    return _getitem(x, index=plain(index, array.__class__))


def take(x: Any, indices: Any, axis: int | None = None) -> Any:
    """The elements (or slices along `axis`) at integer `indices`."""
    if axis is None:
        x, axis = reshape(x, (-1,)), 0
    indices = indices if hasattr(indices, "dtype") else np.asarray(indices)
    return getitem(x, (slice(None),) * normalize_axis_index(axis, x.ndim) + (indices,))


def take_along_axis(x: Any, indices: Any, axis: int) -> Any:
    """For each position, the element that `indices` names along `axis` (as NumPy's)."""
    if indices.ndim != x.ndim:
        raise ValueError(
            f"take_along_axis: indices of shape {indices.shape} must have as many axes as the "
            f"array of shape {x.shape}"
        )
    axis = normalize_axis_index(axis, x.ndim)
    xp = namespaces[(x.data if isinstance(x, engine.Tensor) else x).__class__]
    grid: list[Any] = []
    for i, n in enumerate(x.shape):
        if i == axis:
            grid.append(indices)
        else:
            grid.append(xp.arange(n).reshape([-1 if j == i else 1 for j in range(x.ndim)]))
    return getitem(x, tuple(grid))
