"""A type for Numba: a vector register full of floats, on which a cell computes as on one number.

Numba vectorizes loops where LLVM happens to see how. A value of type `Lanes(dtype, width)` is a
vector from the start: `width` floats side by side (units, sequences or trials), LLVM's
`<width x float>`, which is lowered to whatever the machine has. Operators and the functions below
act on every lane; `load`, `store`, `spread` and `real` of `of(dtype, width)` bring numbers in and
out.

Each function here is an *intrinsic*: what it computes is written down as LLVM's instructions, by
running ordinary arithmetic on `_Value`s. That compiles fast and is always inlined.

Not a number and infinities behave as usual: the only liberty is that a product and a sum may become
one instruction.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, typing
from numba.core.datamodel import models
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic, register_model


class Lanes(types.Type):
    """`width` numbers of one dtype: float32, float64, or bool for the truths of comparisons."""

    def __init__(self, dtype: Any, width: int) -> None:
        self.dtype, self.width = dtype, width
        super().__init__(name=f"{dtype}x{width}")

    @property
    def vector(self) -> Any:
        """LLVM's type."""
        if self.dtype is types.boolean:
            return ir.VectorType(ir.IntType(1), self.width)
        element = ir.FloatType() if self.dtype is types.float32 else ir.DoubleType()
        return ir.VectorType(element, self.width)

    @property
    def truths(self) -> Lanes:
        """The type of comparisons."""
        return Lanes(types.boolean, self.width)


@register_model(Lanes)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, lanes.vector)


# ---------------------------------------------------------------------------------------------
# Arithmetic that writes instructions down

_FLAGS = ("contract", "nsz")


class _Value:
    """A vector at the time of compilation; arithmetic on it adds instructions to the builder."""

    def __init__(self, builder: Any, lanes: Lanes, value: Any) -> None:
        self.builder, self.lanes, self.value = builder, lanes, value

    def like(self, number: Any) -> Any:
        """A number in every lane, or a vector as it is."""
        if isinstance(number, _Value):
            return number.value
        lanes = self.lanes
        return ir.Constant(lanes.vector, [float(lanes.dtype(number))] * lanes.width)

    def _with(self, instruction: str, a: Any, b: Any) -> _Value:
        found = getattr(self.builder, instruction)(self.like(a), self.like(b), flags=_FLAGS)
        return _Value(self.builder, self.lanes, found)

    def __add__(self, other: Any) -> _Value:
        return self._with("fadd", self, other)

    def __sub__(self, other: Any) -> _Value:
        return self._with("fsub", self, other)

    def __rsub__(self, other: Any) -> _Value:
        return self._with("fsub", other, self)

    def __mul__(self, other: Any) -> _Value:
        return self._with("fmul", self, other)

    def __truediv__(self, other: Any) -> _Value:
        return self._with("fdiv", self, other)

    def __rtruediv__(self, other: Any) -> _Value:
        return self._with("fdiv", other, self)

    def __neg__(self) -> _Value:
        return _Value(self.builder, self.lanes, self.builder.fneg(self.value))

    __radd__, __rmul__ = __add__, __mul__

    def compare(self, sign: str, other: Any) -> _Value:
        """Truths; nothing is less, greater or equal to not-a-number."""
        ordered = self.builder.fcmp_unordered if sign == "!=" else self.builder.fcmp_ordered
        found = ordered(sign, self.value, self.like(other))
        return _Value(self.builder, self.lanes.truths, found)

    def call(self, name: str) -> _Value:
        """One of LLVM's own functions of one number."""
        lanes, width = self.lanes, 32 if self.lanes.dtype is types.float32 else 64
        kind = ir.FunctionType(lanes.vector, [lanes.vector])
        function = cgutils.get_or_insert_function(
            self.builder.module, kind, f"llvm.{name}.v{lanes.width}f{width}"
        )
        return _Value(self.builder, lanes, self.builder.call(function, [self.value]))


def _where(condition: _Value, a: Any, b: Any) -> _Value:
    one = a if isinstance(a, _Value) else b
    found = one.builder.select(condition.value, one.like(a), one.like(b))
    return _Value(one.builder, one.lanes, found)


def _bounded(x: _Value, low: Any, high: Any) -> _Value:
    """Between two numbers; not-a-number stays what it is."""
    x = _where(x.compare("<", low), low, x)
    return _where(x.compare(">", high), high, x)


class _Format(NamedTuple):
    """What exp must know of a float."""

    bits: int
    fraction: int  # bits of the fraction
    bias: int
    degree: int  # of the polynomial
    largest: float  # exp of it is finite, and exp(1 - largest) is not subnormal


_FORMATS = {
    types.float32: _Format(32, 23, 127, 7, 88.0),
    types.float64: _Format(64, 52, 1023, 13, 709.0),
}


def _exp_parts(x: _Value) -> tuple[_Value, _Value]:
    """exp(x) = s (p + 1) as (s, p): s a power of two, and |p| < 0.42.

    x = n log 2 + r with |r| <= log(2) / 2, and p is Taylor's polynomial of exp(r) - 1. Adding
    1.5 * 2^fraction rounds to an integer and leaves it in the lowest bits.
    """
    kind, builder = _FORMATS[x.lanes.dtype], x.builder
    magic = 1.5 * 2.0**kind.fraction
    shifted = x * math.log2(math.e) + magic
    n = shifted - magic
    high, low = 0.69140625, 0.0017409305599453094  # log 2; n times the first is exact
    r = (x - n * high) - n * low
    p: Any = 1 / math.factorial(kind.degree)
    for k in range(kind.degree - 1, 0, -1):
        p = r * p + 1 / math.factorial(k)
    p = r * p
    integers = ir.VectorType(ir.IntType(kind.bits), x.lanes.width)

    def each(number: int) -> Any:
        return ir.Constant(integers, [number] * x.lanes.width)

    bits = builder.shl(builder.bitcast(shifted.value, integers), each(kind.fraction))
    bits = builder.add(bits, each(kind.bias << kind.fraction))
    return _Value(builder, x.lanes, builder.bitcast(bits, x.lanes.vector)), p


def _exp(x: _Value) -> _Value:
    largest = _FORMATS[x.lanes.dtype].largest
    scale, p = _exp_parts(_bounded(x, 1 - largest, largest))
    found = scale * p + scale
    found = _where(x.compare("<", 1 - largest), 0.0, found)
    return _where(x.compare(">", largest), math.inf, found)


def _expm1(x: _Value) -> _Value:
    largest = _FORMATS[x.lanes.dtype].largest
    scale, p = _exp_parts(_bounded(x, 1 - largest, largest))
    return _where(x.compare(">", largest), math.inf, scale * p + (scale - 1.0))


def _sigmoid(x: _Value) -> _Value:
    largest = _FORMATS[x.lanes.dtype].largest
    scale, p = _exp_parts(_bounded(-x, 1 - largest, largest))
    return 1.0 / (scale * p + (scale + 1.0))


def _tanh(x: _Value) -> _Value:
    """tanh(x) = e / (e + 2) with e = exp(2x) - 1, to a few units in the last place."""
    bound = 10.0 if x.lanes.dtype is types.float32 else 20.0  # beyond it is 1
    scale, p = _exp_parts(_bounded(x + x, -2 * bound, 2 * bound))
    e = scale * p + (scale - 1.0)
    return e / (e + 2.0)


def _maximum(a: _Value, b: _Value) -> _Value:
    """As NumPy's: not-a-number wins."""
    larger = _where(a.compare(">", b), a, b)
    return _where(a.compare("!=", a), a, larger)


def _minimum(a: _Value, b: _Value) -> _Value:
    smaller = _where(a.compare("<", b), a, b)
    return _where(a.compare("!=", a), a, smaller)


def _relu(x: _Value) -> _Value:
    return _where(x.compare("<", 0.0), 0.0, x)


def _sign(x: _Value) -> _Value:
    ends = _where(x.compare(">", 0.0), 1.0, x)  # a zero, and not-a-number, is what it is
    return _where(x.compare("<", 0.0), -1.0, ends)


def _clip(x: _Value, low: _Value, high: _Value) -> _Value:
    return _minimum(_maximum(x, low), high)


# ---------------------------------------------------------------------------------------------
# As functions that compiled code can call


def _lowered(build: Callable[..., _Value]) -> Callable[..., Any]:
    """The code generator of an operation on lanes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = [
            _Value(builder, lanes, value)
            for lanes, value in zip(signature.args, arguments, strict=True)
        ]
        return build(*values).value

    return generate


def _one(build: Callable[[_Value], _Value]) -> Any:
    @intrinsic
    def function(context: Any, x: Any) -> Any:
        return (x(x), _lowered(build)) if isinstance(x, Lanes) else None

    return function


def _two(build: Callable[[_Value, _Value], _Value]) -> Any:
    @intrinsic
    def function(context: Any, a: Any, b: Any) -> Any:
        return (a(a, a), _lowered(build)) if isinstance(a, Lanes) and a == b else None

    return function


def _each(scalar: Callable[..., Any], count: int) -> Any:
    """A function of Python's `math`, lane by lane: slow, and always there."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes = signature.return_type
        found = ir.Constant(lanes.vector, ir.Undefined)
        kind = typing.signature(lanes.dtype, *[lanes.dtype] * count)
        for i in range(lanes.width):
            at = ir.Constant(ir.IntType(32), i)
            parts = [builder.extract_element(value, at) for value in arguments]
            found = builder.insert_element(
                found, context.compile_internal(builder, scalar, kind, parts), at
            )
        return found

    if count == 1:

        @intrinsic
        def one(context: Any, x: Any) -> Any:
            return (x(x), generate) if isinstance(x, Lanes) else None

        return one

    @intrinsic
    def two(context: Any, a: Any, b: Any) -> Any:
        return (a(a, a), generate) if isinstance(a, Lanes) and a == b else None

    return two


exp, expm1, sigmoid, tanh = _one(_exp), _one(_expm1), _one(_sigmoid), _one(_tanh)
relu, sign = _one(_relu), _one(_sign)
sqrt, absolute = _one(lambda x: x.call("sqrt")), _one(lambda x: x.call("fabs"))
maximum, minimum = _two(_maximum), _two(_minimum)
log, log1p = _each(lambda x: np.log(x), 1), _each(lambda x: np.log1p(x), 1)
sin, cos = _each(lambda x: math.sin(x), 1), _each(lambda x: math.cos(x), 1)
power = _each(lambda x, p: x**p, 2)


@intrinsic
def where(context: Any, condition: Any, a: Any, b: Any) -> Any:
    """`a` in the lanes in which the condition holds, `b` in the others."""
    if isinstance(a, Lanes) and a == b and condition == a.truths:
        return a(condition, a, a), _lowered(_where)
    return None


@intrinsic
def clip(context: Any, x: Any, low: Any, high: Any) -> Any:
    """Held between two numbers."""
    return (x(x, x, x), _lowered(_clip)) if isinstance(x, Lanes) and x == low == high else None


def _truths(instruction: str) -> Any:
    @intrinsic
    def function(context: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return getattr(builder, instruction)(*arguments)

        return (a(a, a), generate) if isinstance(a, Lanes) and a == b else None

    return function


logical_and, logical_or = _truths("and_"), _truths("or_")


@intrinsic
def logical_not(context: Any, a: Any) -> Any:
    """Not."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.not_(arguments[0])

    return (a(a), generate) if isinstance(a, Lanes) else None


def _operator(function: Any, build: Callable[..., _Value], truths: bool = False) -> None:
    """Teach Numba an operator between two lanes."""

    @infer_global(function)
    class Template(AbstractTemplate):
        def generic(self, args: Any, keywords: Any) -> Any:
            if args and isinstance(args[0], Lanes) and all(kind == args[0] for kind in args):
                return typing.signature(args[0].truths if truths else args[0], *args)
            return None

    count = 1 if function is operator.neg else 2
    lower_builtin(function, *[Lanes] * count)(_lowered(build))


for _function in (operator.add, operator.sub, operator.mul, operator.truediv, operator.neg):
    _operator(_function, _function)
for _function, _sign_ in (
    *((operator.lt, "<"), (operator.le, "<="), (operator.gt, ">"), (operator.ge, ">=")),
    *((operator.eq, "=="), (operator.ne, "!=")),
):
    _operator(_function, lambda a, b, sign=_sign_: a.compare(sign, b), truths=True)


# ---------------------------------------------------------------------------------------------
# In and out


@intrinsic
def stay_apart(context: Any) -> Any:
    """Keeps the function that says so from being copied to where it is called: that takes time."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def address_of(context: Any, array: Any) -> Any:
    """Where the numbers of an array stand; 0 if there are none."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        made = context.make_array(array)(context, builder, arguments[0])
        address = builder.ptrtoint(made.data, made.nitems.type)
        nothing = ir.Constant(made.nitems.type, 0)
        empty = builder.icmp_signed("==", made.nitems, nothing)
        return builder.select(empty, nothing, address)

    return types.intp(array), generate


class Access(NamedTuple):
    """How lanes of one type come from flat contiguous arrays and return; offsets in elements."""

    load: Any  # load(array, i): elements i, i + 1, ... i + width - 1
    store: Any  # store(array, i, lanes)
    spread: Any  # spread(array, i): element i in every lane
    real: Any  # real(number): a float in every lane
    peek: Any  # peek(address, i): element i of the array that stands there
    poke: Any  # poke(address, i, number)


@cache
def of(dtype: str, width: int) -> Access:
    """Load and store lanes of a dtype, "float32" or "float64"."""
    element = getattr(types, dtype)
    lanes = Lanes(element, width)
    size = np.dtype(dtype).itemsize

    def pointer(context: Any, builder: Any, signature: Any, arguments: Any, kind: Any) -> Any:
        # By hand, because Numba would test whether the index is negative.
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.bitcast(builder.gep(array.data, [arguments[1]]), kind.as_pointer())

    def filled(builder: Any, number: Any) -> Any:
        undefined, index = ir.Constant(lanes.vector, ir.Undefined), ir.IntType(32)
        first = builder.insert_element(undefined, number, ir.Constant(index, 0))
        places = ir.Constant(ir.VectorType(index, width), [0] * width)
        return builder.shuffle_vector(first, undefined, places)

    @intrinsic
    def load(context: Any, array: Any, i: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            place = pointer(context, builder, signature, arguments, lanes.vector)
            return builder.load(place, align=size)

        return lanes(array, types.intp), generate

    @intrinsic
    def store(context: Any, array: Any, i: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            place = pointer(context, builder, signature, arguments, lanes.vector)
            builder.store(arguments[2], place, align=size)
            return context.get_dummy_value()

        return types.void(array, types.intp, lanes), generate

    @intrinsic
    def spread(context: Any, array: Any, i: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            place = pointer(context, builder, signature, arguments, lanes.vector.element)
            return filled(builder, builder.load(place, align=size))

        return lanes(array, types.intp), generate

    @intrinsic
    def real(context: Any, number: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return filled(builder, arguments[0])

        return lanes(element), generate

    def element_at(builder: Any, arguments: Any) -> Any:
        kind = lanes.vector.element.as_pointer()
        return builder.gep(builder.inttoptr(arguments[0], kind), [arguments[1]])

    @intrinsic
    def peek(context: Any, address: Any, i: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.load(element_at(builder, arguments), align=size)

        return element(types.intp, types.intp), generate

    @intrinsic
    def poke(context: Any, address: Any, i: Any, number: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            builder.store(arguments[2], element_at(builder, arguments), align=size)
            return context.get_dummy_value()

        return types.void(types.intp, types.intp, element), generate

    return Access(load, store, spread, real, peek, poke)
