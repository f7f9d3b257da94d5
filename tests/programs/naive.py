"""The naive engine, docs/scalar_engine.py, on arrays: each element is a number of its own.

NumPy moves the numbers about (shapes, indices, broadcasting); whatever is computed, and every
derivative, is the scalar engine's. Reductions and the like are written out from their definitions,
one number after the other: slow, and too plain to be wrong.
"""

import functools
import importlib.util
import math
import operator
from pathlib import Path

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

PATH = Path(__file__).resolve().parents[2] / "docs" / "scalar_engine.py"
spec = importlib.util.spec_from_file_location("scalar_engine", PATH)
scalar = importlib.util.module_from_spec(spec)
spec.loader.exec_module(scalar)

_to_number = np.frompyfunc(scalar.number, 1, 1)
_value = np.frompyfunc(lambda n: scalar.number(n).value, 1, 1)


def _copy(number):
    copy = scalar.Number(number.value)
    copy.copied = number  # for rounding.py: what its value owes to the past
    return copy


_without_past = np.frompyfunc(_copy, 1, 1)


class Numbers(np.ndarray):
    """An array of the scalar engine's numbers; unlike NumPy's, one of no axes stays an array."""

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        return numbers(getattr(ufunc, method)(*[np.asarray(x, object) for x in inputs], **options))

    def __iadd__(self, other):  # as in microtensor: not in place
        return self + other

    def __isub__(self, other):
        return self - other

    def __imul__(self, other):
        return self * other

    def __itruediv__(self, other):
        return self / other

    def __gt__(self, other):
        return values(self) > values(other)

    def __pow__(self, exponent):
        if isinstance(exponent, Numbers):
            return exp(exponent * log(self))
        return super().__pow__(exponent)

    def __rpow__(self, base):
        return exp(self * math.log(base))

    def astype(self, dtype):
        return self.copy()


def numbers(array):
    """Anything as an array of numbers."""
    return np.asarray(_to_number(np.asarray(array, object)), object).view(Numbers)


def values(array):
    """The plain numbers."""
    return np.asarray(_value(np.asarray(array, object)), np.float64)


def without_past(array):
    return numbers(_without_past(np.asarray(array, object)))


# -- functions: of one number


def _each(function):
    function = np.frompyfunc(function, 1, 1)
    return lambda x: numbers(function(np.asarray(x, object)))


exp, log = _each(scalar.exp), _each(scalar.log)
ONE = {
    **{n: _each(getattr(scalar, n)) for n in ("exp", "log", "sin", "tanh", "relu", "sigmoid")},
    "cos": _each(scalar.function(math.cos, lambda x, y: -math.sin(x))),
    "negative": _each(lambda n: -n),
    "square": _each(lambda n: n * n),
    "sqrt": _each(lambda n: n**0.5),
    "expm1": _each(lambda n: scalar.exp(n) - 1),
    "log1p": _each(lambda n: scalar.log(1 + n)),
    "softplus": _each(lambda n: scalar.log(1 + scalar.exp(n))),
    "abs": _each(lambda n: n if n.value > 0 else -n),
    "sign": _each(lambda n: math.copysign(1.0, n.value)),
}

# -- of two


def _greater(a, b):
    a, b = scalar.number(a), scalar.number(b)
    return a if a.value > b.value else b


def _smaller(a, b):
    a, b = scalar.number(a), scalar.number(b)
    return a if a.value < b.value else b


def _pair(function):
    function = np.frompyfunc(function, 2, 1)
    return lambda a, b: numbers(function(np.asarray(a, object), np.asarray(b, object)))


def where(condition, a, b):
    return numbers(np.where(condition, np.asarray(a, object), np.asarray(b, object)))


def clip(x, low, high):
    return _pair(_smaller)(_pair(_greater)(x, float(low)), float(high))


# -- of many


def _total(row):
    return functools.reduce(operator.add, row)


def _mean(row):
    return _total(row) / len(row)


def _variance(row, ddof=0):
    middle = _mean(row)
    return _total([(n - middle) ** 2 for n in row]) / (len(row) - ddof)


def _over(function):
    """A reduction, of a function of a list of numbers."""

    def reduction(x, axis=None, keepdims=False, **options):
        x = np.asarray(x, object)
        axes = normalize_axis_tuple(range(x.ndim) if axis is None else axis, x.ndim)
        rest = [i for i in range(x.ndim) if i not in axes]
        rows = x.transpose(*rest, *axes).reshape(*[x.shape[i] for i in rest], -1)
        out = np.empty(rows.shape[:-1], object)
        for i in np.ndindex(out.shape):
            out[i] = function(list(rows[i]), **options)
        if keepdims:
            out = out.reshape([1 if i in axes else n for i, n in enumerate(x.shape)])
        return numbers(out)

    return reduction


def _along(function):
    """A function of a row of numbers to a row of numbers."""

    def along(x, axis):
        x = np.moveaxis(np.asarray(x, object), axis, -1).copy()
        for i in np.ndindex(x.shape[:-1]):
            x[i] = function(list(x[i]))
        return numbers(np.moveaxis(x, -1, axis))

    return along


def _weights(row):
    """exp(x), up to a common factor, so that it overflows nowhere; and log(1 / factor)."""
    top = max(n.value for n in row)
    return [scalar.exp(n - top) for n in row], top


def _softmax(row):
    weights, _ = _weights(row)
    return [weight / _total(weights) for weight in weights]


def _logsumexp(row):
    weights, top = _weights(row)
    return scalar.log(_total(weights)) + top


MANY = {
    "sum": _over(_total),
    "mean": _over(_mean),
    "prod": _over(lambda row: functools.reduce(operator.mul, row)),
    "max": _over(lambda row: functools.reduce(_greater, row)),
    "min": _over(lambda row: functools.reduce(_smaller, row)),
    "var": _over(_variance),
    "std": _over(lambda row, ddof=0: _variance(row, ddof) ** 0.5),
    "logsumexp": _over(_logsumexp),
    "softmax": _along(_softmax),
    "log_softmax": _along(lambda row: [n - _logsumexp(row) for n in row]),
    "cumsum": _along(lambda row: [_total(row[: i + 1]) for i in range(len(row))]),
}

# -- NumPy's, which only move


def _numpys(name):
    function = getattr(np, name)

    def moved(*args, **options):
        args = [np.asarray(a, object) if isinstance(a, Numbers) else a for a in args]
        found = function(*args, **options)
        return tuple(map(numbers, found)) if isinstance(found, (tuple, list)) else numbers(found)

    return moved


MOVES = ("reshape", "transpose", "swapaxes", "moveaxis", "expand_dims", "squeeze", "broadcast_to",
         "flip", "concatenate", "stack", "split", "take", "take_along_axis", "einsum")  # fmt: skip


def pad(x, widths, value):
    return numbers(np.pad(np.asarray(x, object), widths, constant_values=value))


def unstack(x, axis):
    return tuple(numbers(part) for part in np.moveaxis(x, axis, 0))


NAMES = {
    **ONE,
    **MANY,
    **{name: _numpys(name) for name in MOVES},
    "maximum": _pair(_greater),
    "minimum": _pair(_smaller),
    "where": where,
    "clip": clip,
    "pad": pad,
    "unstack": unstack,
    "array": np.array,
    "detach": without_past,
    "tensor": lambda x: numbers(x.copy()),
}
