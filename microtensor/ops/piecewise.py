"""Operations on each number by itself that have kinks or steps.

At a kink the rule gives one of the subgradients, PyTorch's choice: `abs` and `relu` give 0 at 0,
`maximum` and `minimum` give half to each of two equal arguments, `clip` gives 1 at its bounds.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from microtensor.backend import Array
from microtensor.engine import primitive
from microtensor.ops.comparison import equal, greater


@primitive(broadcasts=True, constant=("condition",))
def where(xp: Any, condition: Array, a: Array, b: Array) -> Array:
    """`a` where `condition` holds, else `b`."""
    return xp.where(condition, a, b)


where.vjp("a", lambda g, condition: where(condition, g, 0))
where.vjp("b", lambda g, condition: where(condition, 0, g))


@primitive
def sign(xp: Any, x: Array) -> Array:
    """-1, 0 or 1; its derivative is 0."""
    return xp.sign(x)


sign.vjp("x", lambda g: g * 0)


@primitive
def abs(xp: Any, x: Array) -> Array:
    """The absolute value."""
    return xp.absolute(x)


abs.vjp("x", lambda g, x: g * sign(x))


@primitive
def relu(xp: Any, x: Array) -> Array:
    """max(x, 0)."""
    # NumPy compares with an array several times faster than with a number.
    return xp.maximum(x, xp.zeros(x.shape, x.dtype))


relu.vjp("x", lambda g, out: g * (out > 0))


@primitive(broadcasts=True)
def maximum(xp: Any, a: Array, b: Array) -> Array:
    """The greater of a and b."""
    return xp.maximum(a, b)


@primitive(broadcasts=True)
def minimum(xp: Any, a: Array, b: Array) -> Array:
    """The smaller of a and b."""
    return xp.minimum(a, b)


def _share(g: Any, a: Any, b: Any, a_wins: Any) -> Any:
    return where(equal(a, b), g * 0.5, g * a_wins)


maximum.vjp("a", lambda g, a, b: _share(g, a, b, greater(a, b)))
maximum.vjp("b", lambda g, a, b: _share(g, a, b, greater(b, a)))
minimum.vjp("a", lambda g, a, b: _share(g, a, b, greater(b, a)))
minimum.vjp("b", lambda g, a, b: _share(g, a, b, greater(a, b)))


@primitive
def _clip(xp: Any, x: Array, *, a_min: Any, a_max: Any) -> Array:
    return xp.clip(x, a_min, a_max)


_clip.vjp("x", lambda g, x, out: g * equal(x, out))


def clip(x: Any, a_min: Any = None, a_max: Any = None) -> Any:
    """`x` held between the numbers `a_min` and `a_max`; None is no bound.

    Raises
    ------
    TypeError
        If a bound is an array or a tensor: `maximum` and `minimum` take those.
    """
    low, high = [b.item() if isinstance(b, np.generic) else b for b in (a_min, a_max)]
    for bound in (low, high):
        if bound is not None and not isinstance(bound, (int, float)):
            raise TypeError(
                f"clip: a bound is a {type(bound).__name__}; it must be a number or None (for a "
                "bound at each position use mt.maximum and mt.minimum)"
            )
    return _clip(x, a_min=low, a_max=high)
