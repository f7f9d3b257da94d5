"""Operations on each number by itself: a forward function, and beside it its derivative.

Every rule is the chain rule in one line. `g` is the cotangent, how the final output changes with
this result; the rule multiplies it by how the result changes with the argument. Arguments of
different shapes meet by NumPy's broadcasting; the engine sums each contribution back to its
argument's shape, so no rule here needs to know of it.

Functions with kinks (`abs`, `relu`, `maximum`, `where`, ...) stand in piecewise.py.
"""

from __future__ import annotations

from typing import Any

from microtensor.backend import Array
from microtensor.engine import primitive
from microtensor.ops.comparison import equal
from microtensor.ops.piecewise import where


@primitive(broadcasts=True)
def add(xp: Any, a: Array, b: Array) -> Array:
    """a + b."""
    return a + b


add.vjp("a", lambda g: g)
add.vjp("b", lambda g: g)


@primitive(broadcasts=True)
def subtract(xp: Any, a: Array, b: Array) -> Array:
    """a - b."""
    return a - b


subtract.vjp("a", lambda g: g)
subtract.vjp("b", lambda g: -g)


@primitive(broadcasts=True)
def multiply(xp: Any, a: Array, b: Array) -> Array:
    """a * b."""
    return a * b


multiply.vjp("a", lambda g, b: g * b)
multiply.vjp("b", lambda g, a: g * a)


@primitive(broadcasts=True)
def divide(xp: Any, a: Array, b: Array) -> Array:
    """a / b."""
    return a / b


divide.vjp("a", lambda g, b: g / b)
divide.vjp("b", lambda g, b, out: -g * out / b)


@primitive
def negative(xp: Any, x: Array) -> Array:
    """-x."""
    return -x


negative.vjp("x", lambda g: -g)


@primitive
def exp(xp: Any, x: Array) -> Array:
    """e ** x."""
    return xp.exp(x)


exp.vjp("x", lambda g, out: g * out)


@primitive
def expm1(xp: Any, x: Array) -> Array:
    """e ** x - 1, exact also near 0."""
    return xp.expm1(x)


expm1.vjp("x", lambda g, out: g * (out + 1))


@primitive
def log(xp: Any, x: Array) -> Array:
    """The natural logarithm."""
    return xp.log(x)


log.vjp("x", lambda g, x: g / x)


@primitive(broadcasts=True)
def power(xp: Any, x: Array, p: Array) -> Array:
    """x ** p; the derivative of x ** 0 is 0 everywhere, that of 0 ** p with respect to p too."""
    return x**p


def _base_rule(g: Any, x: Any, p: Any) -> Any:
    # Most often p is a plain number, which must stay a weak one.
    less = where(equal(p, 0) * equal(x, 0), 1, p - 1) if hasattr(p, "shape") else p and p - 1
    return g * p * x**less


def _exponent_rule(g: Any, x: Any, out: Any) -> Any:
    logarithm = log(where(equal(x, 0), 1, x))  # of a plain number NumPy's, whatever g's backend
    return g * out * (logarithm if hasattr(x, "shape") else float(logarithm))


power.vjp("x", _base_rule)
power.vjp("p", _exponent_rule)


@primitive
def log1p(xp: Any, x: Array) -> Array:
    """log(1 + x), exact also near 0."""
    return xp.log1p(x)


log1p.vjp("x", lambda g, x: g / (1 + x))


@primitive
def sqrt(xp: Any, x: Array) -> Array:
    """The square root. Its derivative at 0 is infinite, as NumPy's warning will say."""
    return xp.sqrt(x)


sqrt.vjp("x", lambda g, out: g * 0.5 / out)


@primitive
def square(xp: Any, x: Array) -> Array:
    """x * x."""
    return x * x


square.vjp("x", lambda g, x: g * 2 * x)


@primitive
def sin(xp: Any, x: Array) -> Array:
    """The sine of x radians."""
    return xp.sin(x)


@primitive
def cos(xp: Any, x: Array) -> Array:
    """The cosine of x radians."""
    return xp.cos(x)


sin.vjp("x", lambda g, x: g * cos(x))
cos.vjp("x", lambda g, x: -g * sin(x))


@primitive
def tanh(xp: Any, x: Array) -> Array:
    """The hyperbolic tangent."""
    return xp.tanh(x)


tanh.vjp("x", lambda g, out: g * (1 - out * out))


@primitive
def sigmoid(xp: Any, x: Array) -> Array:
    """1 / (1 + e ** -x), to full relative precision, and without overflow for any x."""
    largest = {2: 11.0, 4: 88.0}.get(x.dtype.itemsize, 709.0)  # e ** largest does not overflow
    return 1 / (1 + xp.exp(xp.minimum(x * -1.0, largest)))


sigmoid.vjp("x", lambda g, out: g * (out * (1 - out)))


@primitive
def softplus(xp: Any, x: Array) -> Array:
    """log(1 + e ** x), without overflow."""
    return xp.maximum(x, 0) + xp.log1p(xp.exp(xp.absolute(x) * -1.0))


softplus.vjp("x", lambda g, x: g * sigmoid(x))
