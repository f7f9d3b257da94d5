"""Symbols: numbers that are not known yet, as one more kind of array.

An operation asks the type of its argument for a namespace, NumPy's or CuPy's. Here is a third one,
whose functions compute nothing and write down what would be computed. A tensor around a symbol goes
through the same operations, rules and engine as any other, so that the equations of a cell, run
once on symbols, leave an expression; and the gradient of that tensor is an expression too.

Equal expressions are one object (hash-consing), so what the forward and the backward pass have in
common is computed once. Operands that may change places have an order of their own, by what they
are, so that a cell's source is the same whatever cells came before it: compiled code is found again
by its source. What is known is folded on the way: zeros, ones, numbers among themselves.
Three patterns are recognised:

    1 / (1 + exp(min(-x, 709)))   is sigmoid(x), a single operation, which drivers compute by tanh
    (1 - z) a + z b               is a + z (b - a), with one product less
    2 a sigmoid(x) - a            is a tanh(x / 2), unless x is a gate: all gates share one tanh
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from microtensor import backend

_FLOAT, TRUTH = np.dtype(np.float64), np.dtype(np.bool_)
_TRUTHS = {
    *("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"),
    *("logical_and", "logical_or", "logical_not"),
}


class UnknownOperation(TypeError):
    """Something was asked of a symbol that cannot be written down as arithmetic on one number."""


class Symbol:
    """An input `("input", name)`, a number `("constant", value)`, or an operation on symbols."""

    __slots__ = ("__weakref__", "args", "dtype", "op", "order")
    __array_ufunc__ = None  # NumPy's numbers leave operators to us
    shape, ndim, size = (), 0, 1
    args: tuple[Any, ...]
    dtype: Any
    op: str
    order: tuple[Any, ...]

    def __new__(cls, op: str, *args: Any) -> Symbol:
        """The one symbol for this expression."""
        known = _known.get((op, *args))
        if known is None:
            known = object.__new__(cls)
            known.op, known.args = op, args
            below = [x.order if isinstance(x, Symbol) else (0, repr(x)) for x in args]
            known.order = (1 + max([order[0] for order in below], default=0), op, *below)
            known.dtype = TRUTH if op in _TRUTHS else _FLOAT
            _known[(op, *args)] = known
        return known

    def copy(self) -> Symbol:
        """Itself: nobody can change it."""
        return self

    def astype(self, dtype: Any) -> Symbol:
        """A truth as 0 or 1."""
        return Symbol("astype", self) if self.dtype == TRUTH and dtype != TRUTH else self

    def __bool__(self) -> bool:
        raise UnknownOperation("a cell cannot decide by a number: use where, maximum or minimum")

    def __add__(self, other: Any) -> Symbol:
        return add(self, other)

    def __sub__(self, other: Any) -> Symbol:
        return subtract(self, other)

    def __rsub__(self, other: Any) -> Symbol:
        return subtract(other, self)

    def __mul__(self, other: Any) -> Symbol:
        return multiply(self, other)

    def __truediv__(self, other: Any) -> Symbol:
        return divide(self, other)

    def __rtruediv__(self, other: Any) -> Symbol:
        return divide(other, self)

    def __pow__(self, other: Any) -> Symbol:
        return power(self, other)

    def __rpow__(self, other: Any) -> Symbol:
        return power(other, self)

    def __neg__(self) -> Symbol:
        return negative(self)

    __radd__, __rmul__ = __add__, __mul__

    def __repr__(self) -> str:
        if self.op in ("input", "constant"):
            return str(self.args[0])
        return f"{self.op}({', '.join(map(repr, self.args))})"


_known: WeakValueDictionary[Any, Symbol] = WeakValueDictionary()


def constant(value: float) -> Symbol:
    """A number as a symbol."""
    return Symbol("constant", float(value))


def lift(value: Any) -> Symbol:
    """A symbol as it is, a number as a symbol."""
    if isinstance(value, Symbol):
        return constant(0.0) if value.op == "zeros" else value
    if isinstance(value, (int, float, np.generic)):
        return constant(float(value))
    raise UnknownOperation(f"a {type(value).__name__} among the numbers of a cell")


def _pair(a: Any, b: Any) -> tuple[Symbol, Symbol]:
    return lift(a), lift(b)


def _is(x: Symbol, value: float) -> bool:
    return x.op == "constant" and x.args[0] == value


def _folded(op: str, compute: Callable[..., Any], *args: Symbol) -> Symbol:
    """The operation, or its result if all arguments are numbers."""
    if all(x.op == "constant" for x in args):
        return constant(compute(*[x.args[0] for x in args]))
    return Symbol(op, *args)


def _commutative(op: str, compute: Callable[..., Any], a: Symbol, b: Symbol) -> Symbol:
    return _folded(op, compute, *sorted((a, b), key=lambda x: x.order))


def add(a: Symbol | float, b: Symbol | float) -> Symbol:
    """a + b."""
    a, b = _pair(a, b)
    for x, y in ((a, b), (b, a)):
        if _is(x, 0):
            return y
        if x.op == "negative":
            return subtract(y, x.args[0])
    for x, y in ((a, b), (b, a)):
        known = _mixture(x, y)
        if known is not None:
            return known
    return _commutative("add", np.add, a, b)


def _mixture(p: Symbol, q: Symbol) -> Symbol | None:
    """(1 - z) a + z b as a + z (b - a), if `p` and `q` are its two terms."""
    if p.op == q.op == "multiply":
        for i, less in enumerate(p.args):
            if less.op == "subtract" and _is(less.args[0], 1) and less.args[1] in q.args:
                z, a = less.args[1], p.args[1 - i]
                b = q.args[1 - q.args.index(z)]
                return add(a, multiply(z, subtract(b, a)))
    return None


def subtract(a: Symbol | float, b: Symbol | float) -> Symbol:
    """a - b."""
    a, b = _pair(a, b)
    if a is b:
        return constant(0.0)
    if _is(b, 0):
        return a
    if _is(a, 0):
        return negative(b)
    if b.op == "negative":
        return add(a, b.args[0])
    if a.op == "multiply" and b.op == "constant":
        for factor, x in (a.args, a.args[::-1]):
            if x.op == "sigmoid" and x.args[0].op != "input" and _is(factor, 2 * b.args[0]):
                return multiply(b, Symbol("tanh", multiply(x.args[0], 0.5)))
    return _folded("subtract", np.subtract, a, b)


def multiply(a: Symbol | float, b: Symbol | float) -> Symbol:
    """a b; zero times anything is zero."""
    a, b = _pair(a, b)
    for x, y in ((a, b), (b, a)):
        if _is(x, 0):
            return x
        if _is(x, 1):
            return y.astype(_FLOAT)
        if _is(x, -1):
            return negative(y.astype(_FLOAT))
    return _commutative("multiply", np.multiply, a, b)


def divide(a: Symbol | float, b: Symbol | float) -> Symbol:
    """a / b."""
    a, b = _pair(a, b)
    if _is(a, 0) or _is(b, 1):
        return a
    if _is(a, 1) and b.op == "add":
        one, e = b.args if _is(b.args[0], 1) else b.args[::-1]
        if _is(one, 1) and e.op == "exp" and e.args[0].op == "minimum":
            x, limit = e.args[0].args
            if x.op == "negative" and _is(limit, 709):
                return Symbol("sigmoid", x.args[0])
    return _folded("divide", np.divide, a, b)


def negative(x: Any) -> Symbol:
    """-x."""
    symbol = lift(x)
    if symbol.op == "negative":
        return lift(symbol.args[0])
    return _folded("negative", np.negative, symbol)


def power(x: Symbol | float, p: Symbol | float) -> Symbol:
    """x ** p."""
    x, p = _pair(x, p)
    if _is(p, 0) or _is(p, 1):
        return constant(1.0) if _is(p, 0) else x
    if _is(p, 2):
        return multiply(x, x)
    return _folded("power", np.power, x, p)


def where(condition: Any, a: Symbol | float, b: Symbol | float) -> Symbol:
    """`a` where the condition holds, else `b`; beside a zero it is a product."""
    condition, (a, b) = lift(condition), _pair(a, b)
    if a is b:
        return a
    if _is(b, 0):
        return multiply(a, condition)
    if _is(a, 0):
        return multiply(b, Symbol("logical_not", condition))
    return Symbol("where", condition, a, b)


def clip(x: Any, a_min: Any, a_max: Any) -> Symbol:
    """`x` held between two numbers; None is no bound."""
    low = -np.inf if a_min is None else a_min
    return Symbol("clip", lift(x), lift(low), lift(np.inf if a_max is None else a_max))


def maximum(a: Symbol | float, b: Symbol | float) -> Symbol:
    """The greater of two; beside the zeros that `relu` makes, which is smooth to one side of 0."""
    if isinstance(b, Symbol) and b.op == "zeros":
        return Symbol("relu", lift(a))
    return Symbol("maximum", lift(a), lift(b))


def _plain(op: str) -> Callable[..., Symbol]:
    if op.startswith("logical"):
        return lambda *args: Symbol(op, *[lift(x) for x in args])
    return lambda *args: Symbol(op, *[lift(x).astype(_FLOAT) for x in args])


class _Namespace:
    """What operations find where they expect NumPy."""

    add = staticmethod(add)
    subtract = staticmethod(subtract)
    multiply = staticmethod(multiply)
    divide = staticmethod(divide)
    negative = staticmethod(negative)
    power = staticmethod(power)
    where = staticmethod(where)
    clip = staticmethod(clip)
    maximum = staticmethod(maximum)

    def __getattr__(self, name: str) -> Any:
        if name in PLAIN:
            return _plain(name)
        raise UnknownOperation(f"a cell's numbers know no {name!r}")

    @staticmethod
    def zeros(shape: Any, dtype: Any) -> Symbol:
        """The zero that `relu` compares with."""
        if shape != ():
            raise UnknownOperation("a cell works on one number at a time, not on arrays")
        return Symbol("zeros")


PLAIN = _TRUTHS | {
    *("tanh", "sigmoid", "exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "sign", "absolute"),
    "minimum",
}


def _no_numbers(value: Any) -> Any:
    raise UnknownOperation("a symbol is no number, and arrays are no symbols")


xp = _Namespace()
backend.namespaces[Symbol] = xp
backend.by_type[Symbol] = backend.Backend("symbols", xp, Symbol, _no_numbers, _no_numbers, id)
