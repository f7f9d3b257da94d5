"""Comparisons: arrays of booleans, without derivatives."""

from __future__ import annotations

from typing import Any

from microtensor.backend import Array
from microtensor.engine import primitive


@primitive(differentiable=False)
def equal(xp: Any, a: Array, b: Array) -> Array:
    """a == b, for each pair of numbers."""
    return xp.equal(a, b)


@primitive(differentiable=False)
def not_equal(xp: Any, a: Array, b: Array) -> Array:
    """a != b, for each pair of numbers."""
    return xp.not_equal(a, b)


@primitive(differentiable=False)
def less(xp: Any, a: Array, b: Array) -> Array:
    """a < b, for each pair of numbers."""
    return xp.less(a, b)


@primitive(differentiable=False)
def less_equal(xp: Any, a: Array, b: Array) -> Array:
    """a <= b, for each pair of numbers."""
    return xp.less_equal(a, b)


@primitive(differentiable=False)
def greater(xp: Any, a: Array, b: Array) -> Array:
    """a > b, for each pair of numbers."""
    return xp.greater(a, b)


@primitive(differentiable=False)
def greater_equal(xp: Any, a: Array, b: Array) -> Array:
    """a >= b, for each pair of numbers."""
    return xp.greater_equal(a, b)
