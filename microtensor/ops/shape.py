"""Operations that move numbers without changing them: reshape, transpose, join, split, pad.

Their derivatives move the cotangent back. Results may share memory with their argument, as in
NumPy; gradients never do.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from microtensor.backend import Array
from microtensor.engine import primitive


@primitive(residuals=("before",))
def _reshape(xp: Any, x: Array, *, shape: Any) -> Any:
    return x.reshape(shape), x.shape


_reshape.vjp("x", lambda g, before: _reshape(g, shape=before))


def _ints(values: tuple[Any, ...]) -> tuple[int, ...]:
    """Accept f(x, 2, 3) and f(x, (2, 3)) alike."""
    if len(values) == 1 and isinstance(values[0], (tuple, list)):
        values = tuple(values[0])
    return tuple([operator.index(value) for value in values])


def reshape(x: Any, *lengths: Any, shape: Any = None) -> Any:
    """The same numbers in another shape: (x, 2, 3), (x, (2, 3)) or shape=(2, 3); -1 infers."""
    return _reshape(x, shape=_ints(lengths if shape is None else (*lengths, shape)))


@primitive
def _transpose(xp: Any, x: Array, *, axes: tuple[int, ...]) -> Array:
    return x.transpose(axes)


def inverse(axes: tuple[int, ...]) -> tuple[int, ...]:
    """The order of axes that undoes another one."""
    return tuple(sorted(range(len(axes)), key=lambda i: axes[i]))


_transpose.vjp("x", lambda g, axes: _transpose(g, axes=inverse(axes)))


def transpose(x: Any, *order: Any, axes: Any = None) -> Any:
    """Axes in another order, all of them: (x, 1, 0), (x, (1, 0)) or axes=(1, 0); else reversed."""
    order = order or (axes,)
    order = () if order == (None,) else _ints(order)
    order = normalize_axis_tuple(order, x.ndim) or tuple(range(x.ndim))[::-1]
    return _transpose(x, axes=order)


def swapaxes(x: Any, axis1: int, axis2: int) -> Any:
    """Two axes exchanged."""
    order = list(range(x.ndim))
    a, b = normalize_axis_index(axis1, x.ndim), normalize_axis_index(axis2, x.ndim)
    order[a], order[b] = b, a
    return _transpose(x, axes=tuple(order))


def moveaxis(x: Any, source: Any, destination: Any) -> Any:
    """Axes moved to new positions, the others keeping their order."""
    to = normalize_axis_tuple(destination, x.ndim)
    moved = normalize_axis_tuple(source, x.ndim)
    if len(to) != len(moved):
        raise ValueError(f"moveaxis: {len(moved)} axes to move, but {len(to)} destinations")
    order = [i for i in range(x.ndim) if i not in moved]
    for d, s in sorted(zip(to, moved, strict=True)):
        order.insert(d, s)
    return _transpose(x, axes=tuple(order))


def _many(axis: Any) -> bool:
    return isinstance(axis, (tuple, list))


def expand_dims(x: Any, axis: int | Sequence[int]) -> Any:
    """New axes of length 1 at the positions `axis` of the result."""
    axes = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
    ndim = x.ndim + len(axes)
    new = normalize_axis_tuple(axes, ndim)
    old = iter(x.shape)
    return _reshape(x, shape=tuple([1 if i in new else next(old) for i in range(ndim)]))


def squeeze(x: Any, axis: int | Sequence[int] | None = None) -> Any:
    """Axes of length 1 removed: all of them, or those named, which must have length 1."""
    axes: Any = axis if _many(axis) else (axis,)
    if axis is None:
        axes = [i for i, n in enumerate(x.shape) if n == 1]
    drop = normalize_axis_tuple(axes, x.ndim)
    for a in drop:
        if x.shape[a] != 1:
            raise ValueError(f"squeeze: axis {a} of shape {x.shape} has length {x.shape[a]}, not 1")
    return _reshape(x, shape=tuple([n for i, n in enumerate(x.shape) if i not in drop]))


@primitive(broadcasts=True, residuals=("lengths",))
def _concatenate(xp: Any, *arrays: Array, axis: int) -> Any:
    return xp.concatenate(arrays, axis=axis), tuple([array.shape[axis] for array in arrays])


def concatenate(arrays: Sequence[Any], axis: int | None = 0) -> Any:
    """Arrays joined along an axis they have; taken flat first, if it is None (as NumPy's)."""
    if axis is None:
        arrays, axis = [reshape(array, (-1,)) for array in arrays], 0
    return _concatenate(*arrays, axis=axis)


@primitive(residuals=("shapes",))
def _pieces(xp: Any, x: Array, *, lengths: tuple[int, ...], axis: int) -> Any:
    """Cut along `axis` into pieces of the given lengths: one node with many results."""
    before = (slice(None),) * (axis % x.ndim)
    ends = itertools.accumulate(lengths)
    out = tuple([x[(*before, slice(e - n, e))] for e, n in zip(ends, lengths, strict=True)])
    return out, tuple([piece.shape for piece in out])


@primitive(differentiable=False)
def _zeros(xp: Any, x: Array, *, shape: tuple[int, ...]) -> Array:
    return xp.zeros(shape, x.dtype)


def _filled(g: tuple[Any, ...], shapes: Sequence[tuple[int, ...]]) -> list[Any]:
    """Cotangents of several results, with zeros for those that nobody used."""
    used = next(c for c in g if c is not None)
    return [_zeros(used, shape=s) if c is None else c for c, s in zip(g, shapes, strict=True)]


def _pieces_rule(g: tuple[Any, ...], shapes: Any, axis: int) -> Any:
    return _concatenate(*_filled(g, shapes), axis=axis)


_concatenate.vjp("arrays", lambda g, lengths, axis: _pieces(g, lengths=lengths, axis=axis))
_pieces.vjp("x", _pieces_rule)


def split(x: Any, indices_or_sections: int | Sequence[int], axis: int = 0) -> tuple[Any, ...]:
    """Cut along `axis`: into n equal sections, or before each of the given indices.

    Raises
    ------
    ValueError
        If the axis cannot be cut into so many equal sections, or the indices decrease.
    """
    n = x.shape[axis]
    if isinstance(indices_or_sections, (int, np.integer)):
        if indices_or_sections <= 0 or n % indices_or_sections:
            raise ValueError(
                f"split: axis {axis} has length {n}, which {indices_or_sections} equal sections "
                "cannot share; give the indices to cut at instead"
            )
        lengths = [n // indices_or_sections] * indices_or_sections
    else:
        cuts = [0, *[min(max(i + n if i < 0 else i, 0), n) for i in indices_or_sections], n]
        lengths = [b - a for a, b in itertools.pairwise(cuts)]
        if any(length < 0 for length in lengths):
            raise ValueError(
                f"split: the indices {list(indices_or_sections)} must not decrease along axis "
                f"{axis} of length {n}; their pieces would overlap"
            )
    return tuple(_pieces(x, lengths=tuple(lengths), axis=axis))


@primitive(broadcasts=True)
def _stack(xp: Any, *arrays: Array, axis: int) -> Array:
    return xp.stack(arrays, axis=axis)


def stack(arrays: Sequence[Any], axis: int = 0) -> Any:
    """Arrays of one shape, put side by side along a new axis."""
    return _stack(*arrays, axis=axis)


@primitive(residuals=("shapes",))
def unstack(xp: Any, x: Array, axis: int = 0) -> Any:
    """All slices along `axis`, as a tuple: one node, however many."""
    if x.ndim == 0:
        raise ValueError("unstack: a 0-d array has no axis to take apart")
    before = (slice(None),) * (axis % x.ndim)
    out = tuple([x[(*before, i)] for i in range(x.shape[axis])])
    return out, tuple([piece.shape for piece in out])


_stack.vjp("arrays", lambda g, axis: unstack(g, axis=axis))
unstack.vjp("x", lambda g, shapes, axis: _stack(*_filled(g, shapes), axis=axis))


@primitive
def _pad(xp: Any, x: Array, *, widths: tuple[tuple[int, int], ...], value: float) -> Array:
    return xp.pad(x, widths, constant_values=value)


@primitive
def _crop(xp: Any, x: Array, *, widths: tuple[tuple[int, int], ...]) -> Array:
    return x[tuple([slice(b, n - a) for (b, a), n in zip(widths, x.shape, strict=True)])]


_pad.vjp("x", lambda g, widths: _crop(g, widths=widths))
_crop.vjp("x", lambda g, widths: _pad(g, widths=widths, value=0))


def pad(x: Any, pad_width: Any, value: float = 0) -> Any:
    """Surround `x` with `value`.

    `pad_width` is as in NumPy: a number for all sides, (before, after) for all axes, or such a pair
    for each axis.
    """
    if isinstance(pad_width, (int, np.integer)):
        pad_width = (pad_width, pad_width)
    if isinstance(pad_width[0], (int, np.integer)):
        pad_width = (pad_width,) * x.ndim
    if len(pad_width) != x.ndim or any(b < 0 or a < 0 for b, a in pad_width):
        raise ValueError(
            f"pad: pad_width {pad_width} must hold a pair of numbers >= 0 for each of {x.ndim} axes"
        )
    return _pad(x, widths=tuple([(int(b), int(a)) for b, a in pad_width]), value=value)


@primitive
def flip(xp: Any, x: Array, axis: int | tuple[int, ...] | None = None) -> Array:
    """The order reversed along `axis` (None: all axes)."""
    return xp.flip(x, axis)


flip.vjp("x", lambda g, axis: flip(g, axis))
