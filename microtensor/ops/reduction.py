"""Operations that make fewer numbers of many: sums, means, extremes, softmax.

`axis` is None (all axes), an integer or a tuple of them, negative ones counting from the end, as in
NumPy; with `keepdims=True` the reduced axes stay with length 1.
"""

from __future__ import annotations

import math
from typing import Any

from numpy.lib.array_utils import normalize_axis_tuple

from microtensor.backend import Array
from microtensor.engine import broadcast_to, primitive
from microtensor.ops.comparison import equal
from microtensor.ops.elementwise import exp, square
from microtensor.ops.piecewise import where
from microtensor.ops.shape import flip, reshape, transpose

Axis = int | tuple[int, ...] | None


def _axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    if axis is None or ndim == 0:  # NumPy lets a number be reduced over "axis 0"
        return tuple(range(ndim))
    return tuple(sorted(normalize_axis_tuple(axis, ndim)))


def _kept(shape: tuple[int, ...], axis: Axis) -> tuple[int, ...]:
    """The shape with its reduced axes kept at length 1."""
    axes = _axes(axis, len(shape))
    return tuple([1 if i in axes else n for i, n in enumerate(shape)])


def _spread(g: Any, shape: tuple[int, ...], axis: Axis) -> Any:
    """A reduced array, repeated to the shape it was reduced from."""
    if axis is not None:
        g = reshape(g, _kept(shape, axis))
    return broadcast_to(g, shape=shape)


def _count(shape: tuple[int, ...], axis: Axis) -> int:
    return math.prod(shape[a] for a in _axes(axis, len(shape)))


@primitive(residuals=("shape",))
def sum(xp: Any, x: Array, axis: Axis = None, keepdims: bool = False) -> Any:
    """The sum over `axis`."""
    return xp.add.reduce(x, axis, keepdims=keepdims), x.shape


sum.vjp("x", _spread)


@primitive(residuals=("shape",))
def mean(xp: Any, x: Array, axis: Axis = None, keepdims: bool = False) -> Any:
    """The mean over `axis`."""
    return xp.add.reduce(x, axis, keepdims=keepdims) / _count(x.shape, axis), x.shape


mean.vjp("x", lambda g, shape, axis: _spread(g / _count(shape, axis), shape, axis))


def var(x: Any, axis: Axis = None, keepdims: bool = False, ddof: int = 0) -> Any:
    """The variance over `axis`: the sum of squared deviations, divided by n - `ddof`.

    `ddof` is 0 as in NumPy (PyTorch's default is 1).
    """
    squares = square(x - mean(x, axis=axis, keepdims=True))
    return sum(squares, axis=axis, keepdims=keepdims) / (_count(x.shape, axis) - ddof)


@primitive
def _root(xp: Any, x: Array) -> Array:
    """The square root, whose derivative at 0 is taken to be 0."""
    return xp.sqrt(x)


def _root_rule(g: Any, out: Any) -> Any:
    zero = equal(out, 0)
    return where(zero, 0, g * 0.5 / where(zero, 1, out))


_root.vjp("x", _root_rule)


def std(x: Any, axis: Axis = None, keepdims: bool = False, ddof: int = 0) -> Any:
    """The standard deviation over `axis` (see `var`).

    Where all numbers are equal it is 0 and has no derivative; the gradient given there is 0, one
    of its subgradients.
    """
    return _root(var(x, axis=axis, keepdims=keepdims, ddof=ddof))


@primitive
def max(xp: Any, x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    """The greatest number over `axis`; equal ones share the gradient evenly."""
    return xp.max(x, axis=axis, keepdims=keepdims)


@primitive
def min(xp: Any, x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    """The smallest number over `axis`; equal ones share the gradient evenly."""
    return xp.min(x, axis=axis, keepdims=keepdims)


def _extreme_rule(g: Any, x: Any, out: Any, axis: Axis) -> Any:
    shape = x.shape
    hit = equal(x, reshape(out, _kept(shape, axis)))
    shared = where(hit, 1.0, 0.0).astype(g.dtype)
    return _spread(g, shape, axis) * shared / sum(shared, axis=axis, keepdims=True)


max.vjp("x", _extreme_rule)
min.vjp("x", _extreme_rule)


@primitive(differentiable=False)
def argmax(xp: Any, x: Array, axis: int | None = None) -> Array:
    """The position of the greatest number along `axis` (of equal ones the first)."""
    return xp.argmax(x, axis=axis)


@primitive
def _cumsum(xp: Any, x: Array, *, axis: int) -> Array:
    return xp.cumsum(x, axis=axis)


_cumsum.vjp("x", lambda g, axis: flip(_cumsum(flip(g, axis), axis=axis), axis))


def cumsum(x: Any, axis: int | None = None) -> Any:
    """The running sum along `axis`; of all numbers, taken flat, if it is None (as NumPy's)."""
    return _cumsum(reshape(x, (-1,)) if axis is None else x, axis=0 if axis is None else axis)


def prod(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """The product over `axis`.

    Multiplied in pairs, then pairs of pairs: so the derivatives, to any order, are products too,
    and exact where some of the numbers are zero.
    """
    axes, n = _axes(axis, x.ndim), _count(x.shape, axis)
    rest = [i for i in range(x.ndim) if i not in axes]
    shape = _kept(x.shape, axis) if keepdims else tuple([x.shape[i] for i in rest])
    factors = reshape(transpose(x, (*axes, *rest)), (n, *[x.shape[i] for i in rest]))
    odd = []
    while n > 1:
        if n % 2:
            odd.append(factors[n - 1])
        n //= 2
        factors = factors[:n] * factors[n : 2 * n]
    result = factors[0] if n else sum(factors, axis=0) + 1
    for factor in odd:
        result = result * factor
    return reshape(result, shape)


@primitive
def logsumexp(xp: Any, x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    """log(sum(exp(x))) over `axis`, without overflow."""
    top = xp.max(x, axis=axis, keepdims=True)
    total = xp.add.reduce(xp.exp(x - xp.where(xp.isfinite(top), top, 0)), axis, keepdims=keepdims)
    # The greatest adds 1 to the total, unless all are -inf: then so is the result.
    return xp.log(xp.maximum(total, 1)) + top.reshape(total.shape)


logsumexp.vjp(
    "x",
    lambda g, x, out, axis: _spread(g, x.shape, axis) * exp(x - reshape(out, _kept(x.shape, axis))),
)


@primitive
def softmax(xp: Any, x: Array, axis: int = -1) -> Array:
    """exp(x) / sum(exp(x)) along `axis`, without overflow."""
    weights = xp.exp(x - xp.max(x, axis=axis, keepdims=True))
    return weights / xp.add.reduce(weights, axis, keepdims=True)


softmax.vjp("x", lambda g, out, axis: out * (g - sum(g * out, axis=axis, keepdims=True)))


@primitive
def log_softmax(xp: Any, x: Array, axis: int = -1) -> Array:
    """log(softmax(x)) along `axis`, exact also where the softmax is tiny."""
    centred = x - xp.max(x, axis=axis, keepdims=True)
    return centred - xp.log(xp.add.reduce(xp.exp(centred), axis, keepdims=True))


log_softmax.vjp("x", lambda g, out, axis: g - exp(out) * sum(g, axis=axis, keepdims=True))
