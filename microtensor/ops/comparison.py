"""Comparisons and what joins them: arrays of booleans, without derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np

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


def _check_booleans(operation: str, *arguments: Any) -> None:
    for argument in arguments:
        if getattr(argument, "dtype", None) != np.bool_ and not isinstance(argument, bool):
            raise TypeError(
                f"{operation} joins booleans, not {getattr(argument, 'dtype', argument)}; compare "
                "first, for example x != 0"
            )


@primitive(differentiable=False)
def logical_and(xp: Any, a: Array, b: Array) -> Array:
    """Whether both hold, for each pair of booleans; other numbers are a TypeError."""
    _check_booleans("logical_and", a, b)
    return xp.logical_and(a, b)


@primitive(differentiable=False)
def logical_or(xp: Any, a: Array, b: Array) -> Array:
    """Whether at least one holds, for each pair of booleans; other numbers are a TypeError."""
    _check_booleans("logical_or", a, b)
    return xp.logical_or(a, b)


@primitive(differentiable=False)
def logical_not(xp: Any, x: Array) -> Array:
    """Whether it does not hold, for each boolean; other numbers are a TypeError."""
    _check_booleans("logical_not", x)
    return xp.logical_not(x)
