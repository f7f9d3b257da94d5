"""One entry for each operation: what to call, what NumPy says, and how to draw a call of it.

Strategies and functions for options are those that `microtensor.testing.given_op` takes.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import microtensor as mt
from microtensor import engine
from microtensor.ops import indexing, linalg, loss, reduction
from microtensor.ops import shape as shaping
from microtensor.testing import strategies as draw_
from microtensor.testing.given import calls
from microtensor.testing.strategies import axes, indices, labels

NOT_NUMBERS = ("booleans", "integers")  # domains of operands that have no derivative


@dataclass(frozen=True)
class Entry:
    """An operation, and everything that the tests must know of it."""

    op: Callable[..., Any]  # on tensors or arrays: what is tested
    reference: Callable[..., Any]  # the same on NumPy arrays
    domain: Any  # where the operands' numbers lie: a name, an interval, a list of them
    operands: Callable[[Any], Any]  # the strategy of the operands, in a domain
    options: dict[str, Any]  # for each option a strategy or a function of operands and options
    covers: tuple[str, ...] = ()  # the primitives that are exercised
    differentiable: bool = True
    wrt: tuple[int, ...] | None = None  # the operands to differentiate; None: all floats
    waits: bool = False  # whether it may fetch numbers from the device
    repeated: Callable[..., Any] | None = None  # the operands with every repetition written out

    @property
    def calls(self) -> Any:
        """A strategy for calls: operands and options."""
        return calls(self.op, self.operands(self.domain), options=self.options)


TABLE: dict[str, Entry] = {}


def entry(name, op, reference, domain, operands, options, *covers, **properties):
    covers = tuple(f"microtensor.{key}" for key in covers)
    TABLE[name] = Entry(op, reference, domain, operands, options, covers, **properties)


# -- operands: functions of a domain, so that an entry can say which


def shapes(min_dims=0, max_dims=3, min_side=0, max_side=3):
    """Empty arrays are among them unless an entry says otherwise."""
    return draw_.shapes(min_dims, max_dims, min_side, max_side)


def arrays(shape, domain="real"):
    """In any memory layout."""
    return draw_.arrays(shape, domain=domain, layout="any")


def one(shape=None):
    """An array of a shape, or of any."""
    return lambda domain: arrays(shapes() if shape is None else shape, domain)


def together(n):
    """Arrays that broadcast."""
    return lambda domain: draw_.broadcastable(n, domain=domain, layout="any", min_side=0)


def as_booleans(n):
    return lambda domain: together(n)("real").map(lambda found: [x > 0 for x in found])


def as_integers(n):
    """Small whole numbers as floats: many are equal."""
    return lambda domain: together(n)("real").map(lambda found: [np.floor(x) for x in found])


def lists(*shape_lists):
    """A strategy for a list of shapes, as operands."""
    return lambda domain: arrays(st.one_of(*shape_lists), domain)


# -- options


def whole(number):
    """A whole number as Python's or as NumPy's."""
    return st.sampled_from([int, np.int64, np.intp, np.int8]).map(lambda kind: kind(number))


@st.composite
def axes_of(draw, shape, empty=True, **which):
    """Axes of Python's or NumPy's integers; with empty=False none along which there is nothing."""
    usable = [i for i, n in enumerate(shape) if n or empty]
    if len(usable) < len(shape):
        which["none"] = False
    found = draw(axes((1,) * len(usable), **which))
    if found is None:
        return None
    signed = [
        draw(whole(usable[a] if a >= 0 else usable[a] - len(shape)))
        for a in (found if isinstance(found, tuple) else (found,))
    ]
    return tuple(signed) if isinstance(found, tuple) else signed[0]


def one_axis(shape, empty=True):
    return axes_of(shape, empty, none=False, several=False)


def something(min_dims=0):
    """A shape in which one axis at least is not empty."""
    return shapes(min_dims).filter(lambda shape: not shape or any(shape))


# -- each number by itself


def elementwise(name, reference, domain, *covers, count=1, **properties):
    repeated = np.broadcast_arrays if count > 1 else None
    entry(
        name,
        getattr(mt, name),
        reference,
        domain,
        together(count),
        {},
        *covers,
        repeated=repeated,
        **properties,
    )


def _stable_sigmoid(x):
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


for _name, _reference, _domain in [
    ("negative", np.negative, "real"),
    ("exp", np.exp, "real"),
    ("expm1", np.expm1, "real"),
    ("log", np.log, "positive"),
    ("log1p", np.log1p, "above -1"),
    ("sqrt", np.sqrt, "positive"),
    ("square", np.square, "real"),
    ("sin", np.sin, "real"),
    ("cos", np.cos, "real"),
    ("tanh", np.tanh, "real"),
    ("sigmoid", _stable_sigmoid, "real"),
    ("softplus", lambda x: np.logaddexp(x, x.dtype.type(0)), "real"),
]:
    elementwise(_name, _reference, _domain, f"ops.elementwise.{_name}")

for _name, _reference in [
    ("abs", np.abs),
    ("sign", np.sign),
    ("relu", lambda x: np.maximum(x, x.dtype.type(0))),
]:
    elementwise(_name, _reference, "real", f"ops.piecewise.{_name}")

for _name, _reference, _domain in [
    ("add", np.add, "real"),
    ("subtract", np.subtract, "real"),
    ("multiply", np.multiply, "real"),
    ("divide", np.divide, ["real", "nonzero"]),
    ("power", np.power, ["positive", "real"]),
]:
    elementwise(_name, _reference, _domain, f"ops.elementwise.{_name}", count=2)

for _name, _reference in [("maximum", np.maximum), ("minimum", np.minimum)]:
    elementwise(_name, _reference, "real", f"ops.piecewise.{_name}", count=2)

for _name in ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"):
    entry(
        _name,
        getattr(mt, _name),
        getattr(np, _name),
        "integers",
        as_integers(2),
        {},
        f"ops.comparison.{_name}",
        differentiable=False,
    )

for _name, _count in [("logical_and", 2), ("logical_or", 2), ("logical_not", 1)]:
    entry(
        _name,
        getattr(mt, _name),
        getattr(np, _name),
        "booleans",
        as_booleans(_count),
        {},
        f"ops.comparison.{_name}",
        differentiable=False,
    )


def _integer_powers(domain):
    exponents = st.sampled_from([-2, -1, 0, 1, 2, 3, 2.0])
    return st.tuples(arrays(shapes(), domain), exponents).map(list)


def _clip(x, a_min, a_max):
    return x.copy() if a_min is a_max is None else np.clip(x, a_min, a_max)


entry("power of a plain number", mt.power, lambda x, p: x**p, "nonzero", _integer_powers, {})
entry(
    "where",
    mt.where,
    np.where,
    "real",
    lambda domain: together(3)(domain).map(lambda found: [found[0] > 0, *found[1:]]),
    {},
    "ops.piecewise.where",
    repeated=np.broadcast_arrays,
)
entry(
    "clip",
    mt.clip,
    _clip,
    "real",
    one(),
    {
        "a_min": st.sampled_from([None, -2.0, -0.5, -1]),
        "a_max": st.sampled_from([None, 0.25, 1.0, 2]),
    },
    "ops.piecewise._clip",
)
entry("log of a probability", loss._bounded_log, np.log, "unit", one(), {})
entry(
    "log1p of minus a probability", loss._bounded_log1m, lambda p: np.log1p(-p), "unit", one(), {}
)
entry("root of a variance", reduction._root, np.sqrt, "positive", one(), {})

# -- sums and the like

ANY_AXES = {"axis": lambda x: axes_of(x.shape), "keepdims": st.booleans()}
FULL_AXES = {"axis": lambda x: axes_of(x.shape, empty=False), "keepdims": st.booleans()}
FULL_AXIS = {"axis": lambda x: one_axis(x.shape, empty=False)}


def _ddof(x, axis):
    """0 or 1, and 0 where nothing would be left to divide by."""
    along = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return st.integers(0, int(np.prod([x.shape[a] for a in along]) > 1))


def _logsumexp(x, axis=None, keepdims=False):
    return np.log(np.sum(np.exp(x), axis=axis, keepdims=keepdims))


def _softmax(x, axis):
    return np.exp(x) / np.sum(np.exp(x), axis=axis, keepdims=True)


def _running_axis(x):
    return st.none() | one_axis(x.shape) if x.ndim else st.none()


def _axis_or_none(x):
    axis = one_axis(x.shape, empty=False)
    return st.none() | axis if x.size else axis


entry("sum", mt.sum, np.sum, "real", one(), ANY_AXES, "ops.reduction.sum")
entry("mean", mt.mean, np.mean, "real", one(something()), FULL_AXES, "ops.reduction.mean")
entry("var", mt.var, np.var, "real", one(something()), {**FULL_AXES, "ddof": _ddof})
entry(
    "std",
    mt.std,
    np.std,
    "real",
    one(something()),
    {**FULL_AXES, "ddof": _ddof},
    "ops.reduction._root",
)
entry("prod", mt.prod, np.prod, "small", one(), ANY_AXES)
entry("max", mt.max, np.max, "real", one(something()), FULL_AXES, "ops.reduction.max")
entry("min", mt.min, np.min, "real", one(something()), FULL_AXES, "ops.reduction.min")
entry(
    "logsumexp",
    mt.logsumexp,
    _logsumexp,
    "real",
    one(something()),
    FULL_AXES,
    "ops.reduction.logsumexp",
)
entry(
    "softmax", mt.softmax, _softmax, "real", one(something(1)), FULL_AXIS, "ops.reduction.softmax"
)
entry(
    "log_softmax",
    mt.log_softmax,
    lambda x, axis: np.log(_softmax(x, axis)),
    "real",
    one(something(1)),
    FULL_AXIS,
    "ops.reduction.log_softmax",
)
entry(
    "cumsum", mt.cumsum, np.cumsum, "real", one(), {"axis": _running_axis}, "ops.reduction._cumsum"
)
entry(
    "argmax",
    mt.argmax,
    np.argmax,
    "real",
    one(something(1)),
    {"axis": _axis_or_none},
    "ops.reduction.argmax",
    differentiable=False,
)

# -- other shapes


def _targets(x):
    last = (2, -1) if x.size % 2 == 0 and x.size else (-1,)
    reverse = tuple(reversed(x.shape))
    return st.sampled_from([(x.size,), (1, x.size), (x.size, 1), reverse, last])


@st.composite
def _orders(draw, ndim):
    order = draw(st.permutations(range(ndim)))
    signed = [draw(st.sampled_from([a, a - ndim])) for a in order]
    return draw(st.sampled_from([None, tuple(signed)]))


def _some_axes(x):
    """As many of one as of the other."""
    count = st.integers(1, x.ndim)
    return count.flatmap(lambda n: st.permutations(range(x.ndim)).map(lambda p: tuple(p[:n])))


def _as_many(x, source):
    return st.permutations(range(x.ndim)).map(lambda p: tuple(p[: len(source)]))


def _ones(x):
    at = [i for i, n in enumerate(x.shape) if n == 1]
    return st.sampled_from([None, *at, *[i - x.ndim for i in at], tuple(at)])


@st.composite
def _wider(draw, shape):
    """A shape to which `shape` broadcasts."""
    before = draw(shapes(max_dims=3 - len(shape)))
    return (*before, *[draw(st.integers(0, 3)) if n == 1 else n for n in shape])


@st.composite
def _parts(draw):
    """Shapes that agree but for one axis."""
    shape = draw(shapes(min_dims=1, max_side=2))
    axis = draw(st.integers(0, len(shape) - 1))
    lengths = draw(st.lists(st.integers(0, 2), min_size=1, max_size=3))
    return [(*shape[:axis], n, *shape[axis + 1 :]) for n in lengths]


def _joints(xs):
    """The axes along which arrays can be joined, and None, for which they are made flat."""
    ndim = xs[0].ndim
    fit = [a for a in range(ndim) if len({(*x.shape[:a], *x.shape[a + 1 :]) for x in xs}) == 1]
    return st.sampled_from([None, *fit, *[a - ndim for a in fit]])


@st.composite
def _divisible(draw):
    shape = list(draw(shapes(min_dims=1)))
    shape[draw(st.integers(0, len(shape) - 1))] = draw(st.sampled_from([2, 4]))
    return tuple(shape)


def _even_axis(x):
    found = [a for a, n in enumerate(x.shape) if n in (2, 4)]
    return st.sampled_from([*found, *[a - x.ndim for a in found]]).flatmap(whole)


_sections = st.sampled_from([1, 2]).flatmap(whole) | st.sampled_from(
    [[1], [0, 1], [-1], [1, 1, 2], np.array([1, 2])]
)


def _widths(x):
    width = st.integers(0, 2).flatmap(whole)
    pair = st.tuples(width, width)
    return st.one_of(width, pair, st.tuples(*[pair] * x.ndim))


def _crop(x, widths):
    pairs = zip(widths, x.shape, strict=True)
    return x[tuple(slice(before, n - after) for (before, after), n in pairs)]


def _same(count, shape):
    return st.tuples(count, shape).map(lambda drawn: [drawn[1]] * drawn[0])


def _sum_to(x, shape):
    extra = x.ndim - len(shape)
    axes = tuple(i for i in range(x.ndim) if i < extra or shape[i - extra] != x.shape[i])
    return x.sum(axes).reshape(shape)


@st.composite
def _narrower(draw, shape):
    """A shape that broadcasts to `shape`."""
    kept = shape[draw(st.integers(0, len(shape))) :]
    return tuple([draw(st.sampled_from([1, n])) for n in kept])


entry(
    "reshape",
    lambda x, shape: mt.reshape(x, *shape),
    lambda x, shape: np.reshape(x, shape),
    "real",
    one(),
    {"shape": _targets},
    "ops.shape._reshape",
)
entry(
    "transpose",
    mt.transpose,
    np.transpose,
    "real",
    one(),
    {"axes": lambda x: _orders(x.ndim)},
    "ops.shape._transpose",
)
entry(
    "swapaxes",
    mt.swapaxes,
    np.swapaxes,
    "real",
    one(shapes(min_dims=1)),
    {"axis1": lambda x: one_axis(x.shape), "axis2": lambda x: one_axis(x.shape)},
)
entry(
    "moveaxis",
    mt.moveaxis,
    np.moveaxis,
    "real",
    one(shapes(min_dims=1)),
    {"source": _some_axes, "destination": _as_many},
)
entry(
    "expand_dims",
    mt.expand_dims,
    np.expand_dims,
    "real",
    one(shapes(max_dims=2)),
    {"axis": st.sampled_from([0, -1, (0, -1), (0, 1)])},
)
entry("squeeze", mt.squeeze, np.squeeze, "real", one(shapes(min_dims=1)), {"axis": _ones})
entry(
    "broadcast_to",
    mt.broadcast_to,
    lambda x, shape: np.broadcast_to(x, shape),
    "real",
    one(),
    {"shape": lambda x: _wider(x.shape)},
    "engine.broadcast_to",
)
entry(
    "sum_to",
    engine.sum_to,
    _sum_to,
    "real",
    one(),
    {"shape": lambda x: _narrower(x.shape)},
    "engine.sum_to",
)
entry(
    "concatenate",
    lambda *xs, axis: mt.concatenate(xs, axis),
    lambda *xs, axis: np.concatenate(xs, axis),
    "real",
    lists(_parts()),
    {"axis": _joints},
    "ops.shape._concatenate",
)
entry(
    "stack",
    lambda *xs, axis: mt.stack(xs, axis),
    lambda *xs, axis: np.stack(xs, axis),
    "real",
    lists(_same(st.integers(1, 3), shapes(max_dims=2))),
    {"axis": lambda xs: st.integers(-xs[0].ndim - 1, xs[0].ndim)},
    "ops.shape._stack",
)
entry(
    "split",
    mt.split,
    np.split,
    "real",
    one(_divisible()),
    {"indices_or_sections": _sections, "axis": _even_axis},
    "ops.shape._pieces",
)
entry(
    "unstack",
    mt.unstack,
    lambda x, axis: list(np.moveaxis(x, axis, 0)),
    "real",
    one(something(1)),
    FULL_AXIS,
    "ops.shape.unstack",
)
entry(
    "pad",
    mt.pad,
    lambda x, pad_width, value: np.pad(x, pad_width, constant_values=value),
    "real",
    one(shapes(min_dims=1, max_dims=2)),
    {"pad_width": _widths, "value": st.sampled_from([0, 1.5])},
    "ops.shape._pad",
)
entry(
    "crop",
    shaping._crop,
    _crop,
    "real",
    one(shapes(min_dims=1, max_dims=2)),
    {"widths": lambda x: st.tuples(*[_cuts(n) for n in x.shape])},
    "ops.shape._crop",
)
entry("flip", mt.flip, np.flip, "real", one(), {"axis": ANY_AXES["axis"]}, "ops.shape.flip")


def _cuts(n):
    """How much to take off at either end of n numbers."""
    return st.tuples(st.integers(0, min(n, 1)), st.integers(0, max(min(n - 1, 1), 0)))


# -- picking


def _has_mask(index):
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, np.ndarray) and part.dtype == np.bool_ for part in parts)


def _positions(x, axis):
    n = x.size if axis is None else x.shape[axis]
    return hnp.arrays(np.int64, shapes(max_dims=2), elements=st.integers(-n, n - 1))


@st.composite
def _positions_along(draw, x, axis):
    wanted = [draw(st.sampled_from([1, n])) for n in x.shape]  # 1: broadcast, as NumPy's
    wanted[axis] = draw(st.integers(0, 4))
    return draw(hnp.arrays(np.int64, tuple(wanted), elements=st.integers(0, x.shape[axis] - 1)))


@st.composite
def _with_positions(draw, domain, axis_of, positions):
    """Array, indices and axis as operands: the indices live where the array does."""
    x = draw(arrays(something(1), domain))
    axis = draw(axis_of(x))
    return [x, draw(positions(x, axis)), axis]


def _indexed(x, index):
    return x[index]


@st.composite
def _masked(draw, domain):
    x = draw(arrays(shapes(min_dims=1), domain))
    return [x, draw(hnp.arrays(np.bool_, x.shape[: draw(st.integers(1, x.ndim))]))]


def _index_sum(*parts, rows, kept):
    """Three parts at overlapping places of a matrix; of the second `kept` rows."""
    first = parts[0].data if isinstance(parts[0], mt.Tensor) else parts[0]
    indices = (0, indexing.plain(rows[:kept], type(first)), (2, -1))
    return indexing.index_sum(*parts, indices=indices, shape=(3, 2))


def _index_sum_of_arrays(a, b, c, rows, kept):
    total = np.zeros((3, 2), a.dtype)
    total[0] += a
    np.add.at(total, rows[:kept], b)
    total[2, -1] += c
    return total


entry(
    "getitem",
    mt.getitem,
    _indexed,
    "real",
    one(),
    {"index": lambda x: indices(x.shape, kinds="basic")},
    "ops.indexing._getitem",
)
entry(
    "getitem with arrays",
    mt.getitem,
    _indexed,
    "real",
    one(shapes(min_dims=1)),
    {"index": lambda x: indices(x.shape, kinds="array")},
)
entry(
    "getitem with arrays and slices",
    mt.getitem,
    _indexed,
    "real",
    one(),
    {"index": lambda x: indices(x.shape, kinds="mixed").filter(lambda index: not _has_mask(index))},
)
entry(
    "getitem with a mask",
    mt.getitem,
    _indexed,
    "real",
    one(shapes(min_dims=1)),
    {
        "index": lambda x: (
            indices(x.shape, kinds="mask") | indices(x.shape, kinds="mixed").filter(_has_mask)
        )
    },
    waits=True,
)
entry(
    "getitem with a mask on the device",
    mt.getitem,
    _indexed,
    "real",
    _masked,
    {},
    waits=True,
)
_full_axis = FULL_AXIS["axis"]
for _name, _axis_of, _at in [
    ("take", _axis_or_none, _positions),
    ("take_along_axis", _full_axis, lambda x, axis: _positions_along(x, axis)),
]:
    entry(
        _name,
        getattr(mt, _name),
        getattr(np, _name),
        "real",
        one(something(1)),
        {"axis": _axis_of, "indices": _at},
    )
    entry(
        f"{_name} at indices on the device",
        getattr(mt, _name),
        getattr(np, _name),
        "real",
        functools.partial(_with_positions, axis_of=_axis_of, positions=_at),
        {},
    )
entry(
    "index_sum",
    _index_sum,
    _index_sum_of_arrays,
    "real",
    lists(st.integers(0, 3).map(lambda n: [(2,), (n, 2), ()])),
    {"rows": st.just(np.array([1, 1, 0])), "kept": lambda parts: st.just(len(parts[1]))},
    "ops.indexing.index_sum",
)

# -- products

SUBSCRIPTS = [
    "ij,jk->ik",
    "ij->j",
    "ij->",
    "ii->i",
    "ii",
    "iij->j",
    "bij,bjk,k->bi",
    "...ij,jk->...ik",
    "...i,...i",
    "ij,kj",
    "i,i->i",
    "ij,k->i",
    "i,j->ij",
    "ij->ji",
    "ij,ij->",
    "i...->...",
]


@st.composite
def _einsums(draw, domain):
    subscripts = draw(st.sampled_from(SUBSCRIPTS))
    sizes = {label: draw(st.integers(0, 3)) for label in "bijk"}
    dots = draw(shapes(max_dims=1))
    found = []
    for term in subscripts.partition("->")[0].split(","):
        before, dotted, after = term.partition("...")
        sides = [sizes[label] for label in before], dots if dotted else ()
        found.append((*sides[0], *sides[1], *[sizes[label] for label in after]))
    return [subscripts, *draw(arrays(found, domain))]


@st.composite
def _linear_shapes(draw):
    features, out = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    return [(*draw(shapes(max_dims=2)), features), (out, features), (out,)]


@st.composite
def _linear_shapes_of_trials(draw):
    trials = draw(st.integers(0, 3))
    return [(trials, *shape) for shape in draw(_linear_shapes())]


def _repeated_batches(a, b):
    """Matrices repeated for all batches; vectors have none."""
    if a.ndim < 2 or b.ndim < 2:
        return a, b
    batches = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return [np.broadcast_to(x, (*batches, *x.shape[-2:])) for x in (a, b)]


entry(
    "matmul",
    mt.matmul,
    np.matmul,
    "real",
    lambda domain: draw_.matmul_pair(domain=domain, layout="any", min_side=0),
    {},
    "ops.linalg.matmul",
    repeated=_repeated_batches,
)
entry(
    "linear",
    mt.linear,
    lambda x, weight, bias: x @ weight.T + bias,
    "real",
    lists(_linear_shapes()),
    {},
    "ops.linalg._affine",
)
entry(
    "linear without a bias",
    mt.linear,
    lambda x, weight: x @ weight.T,
    "real",
    lists(_linear_shapes().map(lambda found: found[:2])),
    {},
    "ops.linalg._linear",
)
entry(
    "linear of trials",
    lambda x, weight, bias: mt.linear(x, weight, bias, len(weight)),
    lambda x, weight, bias: (
        np.einsum("k...i,koi->k...o", x, weight)
        + bias.reshape(len(bias), *[1] * (x.ndim - 2), bias.shape[1])
    ),
    "real",
    lists(_linear_shapes_of_trials()),
    {},
    "ops.linalg._affine_of_trials",
)
entry(
    "linear of trials without a bias",
    lambda x, weight: mt.linear(x, weight, None, len(weight)),
    lambda x, weight: np.einsum("k...i,koi->k...o", x, weight),
    "real",
    lists(_linear_shapes_of_trials().map(lambda found: found[:2])),
    {},
    "ops.linalg._linear_of_trials",
)
entry("einsum", mt.einsum, np.einsum, "real", _einsums, {}, "ops.linalg._einsum")
entry(
    "outer",
    mt.outer,
    np.outer,
    "real",
    lists(st.tuples(shapes(max_dims=2), shapes(max_dims=1)).map(list)),
    {},
)
entry(
    "column_sums",
    linalg._column_sums,
    lambda x: x.sum(tuple(range(x.ndim - 1))),
    "real",
    one(shapes(min_dims=1)),
    {},
    "ops.linalg._column_sums",
)

# -- losses

REDUCTIONS = {"mean": np.mean, "sum": np.sum, "none": lambda losses: losses}


def _reduction(x):
    """There is no mean of nothing."""
    return st.sampled_from([*REDUCTIONS] if x.size else ["sum", "none"])


def _pair(domain):
    return arrays(shapes().map(lambda shape: [shape, shape]), domain)


def loss_of_pairs(name, reference, domain, *covers, **properties):
    entry(
        name,
        getattr(mt, name),
        lambda x, y, reduction: REDUCTIONS[reduction](reference(x, y)),
        domain,
        _pair,
        {"reduction": lambda target: _reduction(target)},
        *covers,
        **properties,
    )


@st.composite
def _logits(draw):
    """A shape with an axis of classes."""
    shape = list(draw(shapes(min_dims=2)))
    shape[draw(st.integers(0, len(shape) - 1))] = draw(st.integers(2, 4))
    return tuple(shape)


@st.composite
def _logits_labels_weights(draw, domain):
    logits = draw(arrays(_logits(), domain))
    axis = draw(_class_axis(logits))
    return [logits, draw(_labels(logits, axis, -100)), draw(_weights(logits, axis))]


def _class_axis(logits):
    found = [i for i, n in enumerate(logits.shape) if n >= 2]
    return st.sampled_from([*found, *[i - logits.ndim for i in found]])


def _fitting_axis(logits, target, weight):
    """The class axis, when there are labels and weights already."""
    return _class_axis(logits).filter(
        lambda axis: (
            logits.shape[axis] == len(weight) and _without(logits.shape, axis) == target.shape
        )
    )


def _without(shape, axis):
    return tuple([n for i, n in enumerate(shape) if i != axis % len(shape)])


def _labels(logits, axis, ignore_index):
    """Labels of which one counts at least."""

    def counting(target):
        if target.size and (target == ignore_index).all():
            target.flat[0] = 0 if ignore_index != 0 else 1
        return target

    classes = logits.shape[axis]
    return labels(_without(logits.shape, axis), classes).map(counting)


def _weights(logits, axis):
    return st.permutations([0.5, 1.0, 2.0, 4.0]).map(
        lambda drawn: np.array(drawn[: logits.shape[axis]])
    )


def _ignored(target):
    some = [k for k in (-100, 0, 1) if not target.size or (target != k).any()]
    return st.sampled_from(some)


def _cross_entropy(x, target, weight=None, ignore_index=-100, reduction="mean", axis=1):
    x = np.moveaxis(x, axis, -1)
    logs = x - np.log(np.sum(np.exp(x), axis=-1, keepdims=True))
    ignored = target == ignore_index
    label = np.where(ignored, 0, target)
    weight = np.ones(x.shape[-1]) if weight is None else weight
    factors = np.where(ignored, 0, weight[label]).astype(x.dtype)
    losses = -np.take_along_axis(logs, label[..., None], -1)[..., 0] * factors
    if reduction == "mean":
        return losses.sum() / factors.sum()
    return REDUCTIONS[reduction](losses)


def _soft_cross_entropy(x, p, w, reduction):
    logs = x - np.log(np.sum(np.exp(x), axis=1, keepdims=True))
    weights = w.reshape([-1 if i == 1 else 1 for i in range(x.ndim)])
    losses = -np.sum(p * logs * weights, axis=1)
    return losses.sum() / losses.size if reduction == "mean" else REDUCTIONS[reduction](losses)


loss_of_pairs("mse_loss", lambda x, y: (x - y) ** 2, "real", "ops.loss._mse_loss")
loss_of_pairs("l1_loss", lambda x, y: np.abs(x - y), "real", "ops.loss._l1_loss")
loss_of_pairs(
    "binary_cross_entropy",
    lambda p, y: -(y * np.log(p) + (1 - y) * np.log1p(-p)),
    "unit",
    "ops.loss._bounded_log",
    "ops.loss._bounded_log1m",
    waits=True,
)
loss_of_pairs(
    "binary_cross_entropy_with_logits",
    lambda x, y: np.logaddexp(x.dtype.type(0), x) - x * y,
    ["real", "unit"],
    "ops.loss._bce_with_logits",
)
entry(
    "cross_entropy",
    mt.cross_entropy,
    _cross_entropy,
    "real",
    one(_logits()),
    {
        "axis": _class_axis,
        "ignore_index": st.sampled_from([-100, 0, 1]),
        "target": _labels,
        "weight": lambda logits, axis: st.none() | _weights(logits, axis),
        "reduction": lambda target: _reduction(target),
    },
    "ops.loss._cross_entropy",
)
entry(
    "cross_entropy of labels on the device",
    mt.cross_entropy,
    _cross_entropy,
    "real",
    _logits_labels_weights,
    {
        "ignore_index": _ignored,
        "reduction": lambda target: _reduction(target),
        "axis": _fitting_axis,
    },
    wrt=(0,),
    waits=True,
)
entry(
    "cross_entropy of probabilities",
    mt.cross_entropy,
    _soft_cross_entropy,
    ["real", "unit", "unit"],
    lists(
        shapes(min_dims=2)
        .map(lambda shape: (shape[0], max(shape[1], 1), *shape[2:]))
        .map(lambda shape: [shape, shape, (shape[1],)])
    ),
    {"reduction": lambda logits: _reduction(logits.sum(1))},
)

# -- what the engine and the rules need for themselves


def _there_and_back(x):
    other = "numpy" if x.backend != "numpy" else "cage"
    return (x.to(other) * 1).to(x.backend)


entry(
    "astype",
    lambda x: x.astype(np.float64),
    lambda x: np.asarray(x, np.float64),
    "real",
    one(),
    {},
    "engine.astype",
)
entry("here", engine._here, np.copy, "real", one(), {}, "engine._here")
entry("to", _there_and_back, np.copy, "real", one(), {}, "ops.conversion.transfer", waits=True)
entry(
    "zeros of a shape",
    shaping._zeros,
    lambda x, shape: np.zeros(shape, x.dtype),
    "real",
    one(),
    {"shape": shapes()},
    "ops.shape._zeros",
    differentiable=False,
)
entry(
    "identity matrix",
    linalg._identity,
    lambda x, n: np.eye(n, dtype=x.dtype),
    "real",
    one(),
    {"n": st.integers(0, 3)},
    "ops.linalg._identity",
    differentiable=False,
)
