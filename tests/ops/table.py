"""One entry for each operation: how to draw a call of it, and what NumPy says to the same call."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ops.domains import arrays, one_axis, several_axes, shapes, whole, without_empty

import microtensor as mt
from microtensor import engine
from microtensor.ops import indexing, linalg, loss, reduction
from microtensor.ops import shape as shaping


@dataclass(frozen=True)
class Sample:
    """One call: `call` on tensors of `operands` must give what `reference` gives on arrays."""

    operands: tuple[np.ndarray, ...]
    call: Callable[..., Any] = field(repr=False)
    reference: Callable[..., Any] = field(repr=False)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """An operation under the name that users call, and the primitives it exercises."""

    samples: st.SearchStrategy
    covers: tuple[str, ...] = ()
    differentiable: bool = True
    wrt: tuple[int, ...] | None = None  # the operands to differentiate; None: all floats
    waits: bool = False  # whether it may fetch numbers from the device
    keeps_dtype: bool = True


TABLE: dict[str, Entry] = {}


def entry(name, samples, *covers, **properties):
    TABLE[name] = Entry(samples, tuple(f"microtensor.{key}" for key in covers), **properties)


def _made(call, reference, operands, **options):
    return Sample(
        tuple(operands),
        lambda *tensors: call(*tensors, **options),
        lambda *hosts: reference(*hosts, **options),
        options,
    )


# -- each number by itself


@st.composite
def elementwise(draw, call, reference, count=1, domains=("real",)):
    found = draw(
        hnp.mutually_broadcastable_shapes(num_shapes=count, min_side=0, max_side=3, max_dims=3)
    )
    if len(set(domains)) == 1:  # drawn together, so that there are no ties between them
        operands = draw(arrays(*found.input_shapes, domain=domains[0]))
    else:
        operands = [
            draw(arrays(s, domain=d))[0] for s, d in zip(found.input_shapes, domains, strict=True)
        ]
    return _made(call, reference, operands)


def _stable_sigmoid(x):
    return np.where(
        x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x)))
    )


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
    entry(
        _name,
        elementwise(getattr(mt, _name), _reference, domains=(_domain,)),
        f"ops.elementwise.{_name}",
    )

for _name, _reference in [
    ("abs", np.abs),
    ("sign", np.sign),
    ("relu", lambda x: np.maximum(x, x.dtype.type(0))),
]:
    entry(_name, elementwise(getattr(mt, _name), _reference), f"ops.piecewise.{_name}")

for _name, _reference, _domains in [
    ("add", np.add, ("real", "real")),
    ("subtract", np.subtract, ("real", "real")),
    ("multiply", np.multiply, ("real", "real")),
    ("divide", np.divide, ("real", "nonzero")),
    ("power", np.power, ("positive", "real")),
]:
    entry(
        _name,
        elementwise(getattr(mt, _name), _reference, 2, _domains),
        f"ops.elementwise.{_name}",
    )

for _name, _reference in [("maximum", np.maximum), ("minimum", np.minimum)]:
    entry(
        _name,
        elementwise(getattr(mt, _name), _reference, 2, ("real", "real")),
        f"ops.piecewise.{_name}",
    )

for _name in ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"):
    entry(
        _name,
        elementwise(getattr(mt, _name), getattr(np, _name), 2, ("real", "real")),
        f"ops.comparison.{_name}",
        differentiable=False,
        keeps_dtype=False,
    )


@st.composite
def truths(draw, call, reference, count):
    found = draw(
        hnp.mutually_broadcastable_shapes(num_shapes=count, min_side=0, max_side=3, max_dims=3)
    )
    return _made(call, reference, [draw(hnp.arrays(bool, s)) for s in found.input_shapes])


for _name, _count in [("logical_and", 2), ("logical_or", 2), ("logical_not", 1)]:
    entry(
        _name,
        truths(getattr(mt, _name), getattr(np, _name), _count),
        f"ops.comparison.{_name}",
        differentiable=False,
        keeps_dtype=False,
    )


@st.composite
def integer_powers(draw):
    (x,) = draw(arrays(draw(shapes()), domain="nonzero"))
    exponent = draw(st.sampled_from([-2, -1, 0, 1, 2, 3, 2.0]))
    return _made(
        lambda t, exponent: mt.power(t, exponent),
        lambda t, exponent: t**exponent,
        [x],
        exponent=exponent,
    )


@st.composite
def choices(draw):
    found = draw(
        hnp.mutually_broadcastable_shapes(num_shapes=3, min_side=0, max_side=3, max_dims=3)
    ).input_shapes
    condition = draw(hnp.arrays(bool, found[0]))
    return _made(mt.where, np.where, [condition, *draw(arrays(*found[1:]))])


@st.composite
def clips(draw):
    (x,) = draw(arrays(draw(shapes())))
    low = draw(st.sampled_from([None, -2.0, -0.5, -1]))
    high = draw(st.sampled_from([None, 0.25, 1.0, 2]))

    def reference(t, a_min, a_max):
        return t.copy() if a_min is a_max is None else np.clip(t, a_min, a_max)

    return _made(mt.clip, reference, [x], a_min=low, a_max=high)


entry("power of a number", integer_powers())
entry("where", choices(), "ops.piecewise.where")
entry("clip", clips(), "ops.piecewise._clip")

# -- fewer numbers of many


@st.composite
def reductions(draw, call, reference, empty=True, domain="real", max_side=3, **drawn):
    shape = draw(shapes(max_side=max_side))
    axis = draw(several_axes(shape))
    if not empty and shape:
        shape = without_empty(shape, axis)
    options = {name: draw(strategy) for name, strategy in drawn.items()}
    return _made(
        call,
        reference,
        draw(arrays(shape, domain=domain)),
        axis=axis,
        keepdims=draw(st.booleans()),
        **options,
    )


@st.composite
def along_an_axis(draw, call, reference, empty=True):
    shape = draw(shapes(min_dims=1))
    axis = draw(one_axis(shape))
    if not empty:
        shape = without_empty(shape, axis)
    return _made(call, reference, draw(arrays(shape)), axis=axis)


@st.composite
def running_sums(draw):
    shape = draw(shapes())
    axis = draw(st.none() | one_axis(shape)) if shape else None
    return _made(mt.cumsum, np.cumsum, draw(arrays(shape)), axis=axis)


def _logsumexp(x, axis=None, keepdims=False):
    return np.log(np.sum(np.exp(x), axis=axis, keepdims=keepdims))


def _softmax(x, axis):
    return np.exp(x) / np.sum(np.exp(x), axis=axis, keepdims=True)


entry("sum", reductions(mt.sum, np.sum), "ops.reduction.sum")
entry("mean", reductions(mt.mean, np.mean, empty=False), "ops.reduction.mean")
entry("var", reductions(mt.var, np.var, empty=False))
entry("std", reductions(mt.std, np.std, empty=False), "ops.reduction._root")
entry("prod", reductions(mt.prod, np.prod, domain="small"))
entry("max", reductions(mt.max, np.max, empty=False), "ops.reduction.max")
entry("min", reductions(mt.min, np.min, empty=False), "ops.reduction.min")
entry("logsumexp", reductions(mt.logsumexp, _logsumexp, empty=False), "ops.reduction.logsumexp")
entry("softmax", along_an_axis(mt.softmax, _softmax, empty=False), "ops.reduction.softmax")
entry(
    "log_softmax",
    along_an_axis(mt.log_softmax, lambda x, axis: np.log(_softmax(x, axis)), empty=False),
    "ops.reduction.log_softmax",
)
entry("cumsum", running_sums(), "ops.reduction._cumsum")
entry(
    "argmax",
    along_an_axis(mt.argmax, np.argmax, empty=False),
    "ops.reduction.argmax",
    differentiable=False,
    keeps_dtype=False,
)


@st.composite
def variances_of_samples(draw):
    n = draw(st.integers(2, 4))
    return _made(mt.var, np.var, draw(arrays((n, 2))), axis=0, ddof=1)


entry("var of a sample", variances_of_samples())

# -- other shapes


@st.composite
def reshapes(draw):
    shape = draw(shapes())
    size = int(np.prod(shape))
    targets = [
        (size,),
        (1, size),
        (size, 1),
        tuple(reversed(shape)),
        (2, -1) if size % 2 == 0 and size else (-1,),
    ]
    return _made(
        lambda x, shape: mt.reshape(x, *shape),
        lambda x, shape: np.reshape(x, shape),
        draw(arrays(shape)),
        shape=draw(st.sampled_from(targets)),
    )


@st.composite
def transposes(draw):
    shape = draw(shapes())
    order = draw(st.permutations(range(len(shape))))
    signed = [draw(st.sampled_from([a, a - len(shape)])) for a in order]
    axes = draw(st.sampled_from([None, tuple(signed)]))
    return _made(mt.transpose, np.transpose, draw(arrays(shape)), axes=axes)


@st.composite
def with_two_axes(draw, call, reference, first, second):
    shape = draw(shapes(min_dims=1))
    options = {first: draw(one_axis(shape)), second: draw(one_axis(shape))}
    return _made(call, reference, draw(arrays(shape)), **options)


@st.composite
def moves(draw):
    shape = draw(shapes(min_dims=1))
    count = draw(st.integers(1, len(shape)))
    source, destination = (
        tuple(draw(st.permutations(range(len(shape))))[:count]) for _ in range(2)
    )
    return _made(
        mt.moveaxis, np.moveaxis, draw(arrays(shape)), source=source, destination=destination
    )


@st.composite
def new_axes(draw):
    shape = draw(shapes(max_dims=2))
    axis = draw(st.sampled_from([0, -1, (0, -1), (0, 1)]))
    return _made(mt.expand_dims, np.expand_dims, draw(arrays(shape)), axis=axis)


@st.composite
def squeezes(draw):
    shape = draw(shapes(min_dims=1))
    ones = [i for i, n in enumerate(shape) if n == 1]
    choices = [None, *ones, *[i - len(shape) for i in ones], tuple(ones)]
    return _made(mt.squeeze, np.squeeze, draw(arrays(shape)), axis=draw(st.sampled_from(choices)))


@st.composite
def repetitions(draw):
    found = draw(
        hnp.mutually_broadcastable_shapes(num_shapes=2, min_side=0, max_side=3, max_dims=3)
    )
    return _made(
        mt.broadcast_to,
        lambda x, shape: np.broadcast_to(x, shape),
        draw(arrays(found.input_shapes[0])),
        shape=found.result_shape,
    )


@st.composite
def joins(draw):
    shape = draw(shapes(min_dims=1, max_side=2))
    axis = draw(one_axis(shape))
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        part = list(shape)
        part[axis] = draw(st.integers(0, 2))
        parts.append(tuple(part))
    return _made(
        lambda *xs, axis: mt.concatenate(xs, axis),
        lambda *xs, axis: np.concatenate(xs, axis),
        draw(arrays(*parts)),
        axis=draw(st.sampled_from([axis, None])),
    )


@st.composite
def stacks(draw):
    shape = draw(shapes(max_dims=2))
    axis = draw(st.integers(-len(shape) - 1, len(shape)))
    return _made(
        lambda *xs, axis: mt.stack(xs, axis),
        lambda *xs, axis: np.stack(xs, axis),
        draw(arrays(*[shape] * draw(st.integers(1, 3)))),
        axis=axis,
    )


@st.composite
def splits(draw):
    shape = list(draw(shapes(min_dims=1)))
    axis = draw(one_axis(shape))
    shape[axis] = draw(st.sampled_from([2, 4]))
    sections = st.sampled_from([1, 2]).flatmap(whole)
    where = draw(sections | st.sampled_from([[1], [0, 1], [-1], [1, 1, 2], np.array([1, 2])]))
    return _made(
        lambda x, where, axis: mt.split(x, where, axis),
        lambda x, where, axis: np.split(x, where, axis),
        draw(arrays(tuple(shape))),
        where=where,
        axis=axis,
    )


@st.composite
def pads(draw):
    shape = draw(shapes(min_dims=1, max_dims=2))
    width = st.integers(0, 2).flatmap(whole)
    pair = st.tuples(width, width)
    widths = draw(st.one_of(width, pair, st.tuples(*[pair] * len(shape))))
    return _made(
        mt.pad,
        lambda x, pad_width, value: np.pad(x, pad_width, constant_values=value),
        draw(arrays(shape)),
        pad_width=widths,
        value=draw(st.sampled_from([0, 1.5])),
    )


@st.composite
def flips(draw):
    shape = draw(shapes())
    return _made(mt.flip, np.flip, draw(arrays(shape)), axis=draw(several_axes(shape)))


entry("reshape", reshapes(), "ops.shape._reshape")
entry("transpose", transposes(), "ops.shape._transpose")
entry("swapaxes", with_two_axes(mt.swapaxes, np.swapaxes, "axis1", "axis2"))
entry("moveaxis", moves())
entry("expand_dims", new_axes())
entry("squeeze", squeezes())
entry("broadcast_to", repetitions(), "engine.broadcast_to")
entry("concatenate", joins(), "ops.shape._concatenate")
entry("stack", stacks(), "ops.shape._stack")
entry("split", splits(), "ops.shape._pieces")
entry(
    "unstack",
    along_an_axis(mt.unstack, lambda x, axis: list(np.moveaxis(x, axis, 0)), empty=False),
    "ops.shape.unstack",
)
entry("pad", pads(), "ops.shape._pad")
entry("flip", flips(), "ops.shape.flip")

# -- picking


@st.composite
def basic_indices(draw):
    shape = draw(shapes())
    index = draw(hnp.basic_indices(shape, allow_newaxis=True))
    return _made(mt.getitem, lambda x, index: x[index], draw(arrays(shape)), index=index)


@st.composite
def array_indices(draw):
    shape = draw(shapes(min_dims=1, min_side=1))
    index = draw(hnp.integer_array_indices(shape, result_shape=shapes(max_dims=2)))
    index = index[: draw(st.integers(1, len(index)))]
    if draw(st.booleans()):
        index = (*index, ...)
    return _made(mt.getitem, lambda x, index: x[index], draw(arrays(shape)), index=index)


@st.composite
def mixed_indices(draw):
    n, m, k = (draw(st.integers(1, 3)) for _ in range(3))
    rows = draw(hnp.arrays(np.int64, draw(st.integers(0, 4)), elements=st.integers(-n, n - 1)))
    index = draw(
        st.sampled_from(
            [
                (rows, slice(None), 0),
                (rows, slice(None, None, -1)),
                (..., rows % k),
                (None, rows),
                (slice(1), rows % m),
                (0, ..., rows % k),
                rows.tolist(),
                (rows, None, slice(None), 0),
            ]
        )
    )
    return _made(mt.getitem, lambda x, index: x[index], draw(arrays((n, m, k))), index=index)


@st.composite
def masks(draw):
    shape = draw(shapes(min_dims=1))
    mask = draw(hnp.arrays(bool, shape[: draw(st.integers(1, len(shape)))]))
    return _made(mt.getitem, lambda x, mask: x[mask], [*draw(arrays(shape)), mask])


@st.composite
def takes(draw):
    shape = draw(shapes(min_dims=1, min_side=1))
    axis = draw(st.one_of(st.none(), one_axis(shape)))
    n = int(np.prod(shape)) if axis is None else shape[axis]
    indices = draw(hnp.arrays(np.int64, draw(shapes(max_dims=2)), elements=st.integers(-n, n - 1)))
    return _made(mt.take, np.take, [*draw(arrays(shape)), indices], axis=axis)


@st.composite
def takes_along(draw):
    shape = draw(shapes(min_dims=1, min_side=1))
    axis = draw(one_axis(shape))
    wanted = [draw(st.sampled_from([1, n])) for n in shape]  # 1: broadcast, as NumPy's
    wanted[axis] = draw(st.integers(0, 4))
    elements = st.integers(0, shape[axis] - 1)
    indices = draw(hnp.arrays(np.int64, tuple(wanted), elements=elements))
    return _made(mt.take_along_axis, np.take_along_axis, [*draw(arrays(shape)), indices], axis=axis)


@st.composite
def sums_at_indices(draw):
    parts = draw(arrays((2,), (3, 2), ()))
    rows = np.array([1, 1, 0])

    def call(a, b, c):
        kind = type(a.data if isinstance(a, mt.Tensor) else a)
        indices = (0, indexing.plain(rows, kind), (2, -1))
        return indexing.index_sum(a, b, c, indices=indices, shape=(3, 2))

    def reference(a, b, c):
        total = np.zeros((3, 2), a.dtype)
        total[0] += a
        np.add.at(total, rows, b)
        total[2, -1] += c
        return total

    return Sample(tuple(parts), call, reference)


entry("getitem", basic_indices(), "ops.indexing._getitem")
entry("getitem with arrays", array_indices())
entry("getitem with arrays and slices", mixed_indices())
entry("getitem with a mask", masks(), waits=True)
entry("take", takes())
entry("take_along_axis", takes_along())
entry("index_sum", sums_at_indices(), "ops.indexing.index_sum")

# -- products


@st.composite
def products(draw):
    found = draw(
        hnp.mutually_broadcastable_shapes(
            signature=np.matmul.signature, max_dims=1, min_side=0, max_side=3
        )
    )
    return _made(mt.matmul, np.matmul, draw(arrays(*found.input_shapes)))


@st.composite
def linear_maps(draw):
    features, out = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    operands = draw(arrays((*draw(shapes(max_dims=2)), features), (out, features), (out,)))
    if draw(st.booleans()):
        return _made(mt.linear, lambda x, w, b: x @ w.T + b, operands)
    return _made(mt.linear, lambda x, w: x @ w.T, operands[:2])


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
def einsums(draw):
    subscripts = draw(st.sampled_from(SUBSCRIPTS))
    sizes = {label: draw(st.integers(1, 3)) for label in "bijk"}
    dots = draw(shapes(max_dims=1, min_side=1))
    found = []
    for term in subscripts.partition("->")[0].split(","):
        before, dotted, after = term.partition("...")
        found.append(
            (
                *[sizes[label] for label in before],
                *(dots if dotted else ()),
                *[sizes[label] for label in after],
            )
        )
    return _made(
        lambda *xs, subscripts: mt.einsum(subscripts, *xs),
        lambda *xs, subscripts: np.einsum(subscripts, *xs),
        draw(arrays(*found)),
        subscripts=subscripts,
    )


@st.composite
def outers(draw):
    return _made(
        mt.outer, np.outer, draw(arrays(draw(shapes(max_dims=2)), draw(shapes(max_dims=1))))
    )


@st.composite
def column_sums(draw):
    shape = (*draw(shapes(max_dims=2)), draw(st.integers(1, 3)))
    return _made(
        linalg._column_sums, lambda x: x.reshape(-1, shape[-1]).sum(0), draw(arrays(shape))
    )


entry("matmul", products(), "ops.linalg.matmul")
entry("linear", linear_maps(), "ops.linalg._linear", "ops.linalg._affine")
entry("einsum", einsums(), "ops.linalg._einsum")
entry("outer", outers())
entry("column_sums", column_sums(), "ops.linalg._column_sums")

# -- losses

REDUCTIONS = {"mean": np.mean, "sum": np.sum, "none": lambda losses: losses}


@st.composite
def losses_of_pairs(draw, call, reference, domain="real", targets="real"):
    shape = draw(shapes(min_side=1))
    operands = [draw(arrays(shape, domain=domain))[0], draw(arrays(shape, domain=targets))[0]]
    if domain == targets:  # together, so that no difference is 0
        operands = draw(arrays(shape, shape, domain=domain))
    return _made(
        call,
        lambda x, y, reduction: REDUCTIONS[reduction](reference(x, y)),
        operands,
        reduction=draw(st.sampled_from([*REDUCTIONS])),
    )


def _cross_entropy(x, target, weight, reduction, axis, ignore_index):
    x = np.moveaxis(x, axis, -1)
    logs = x - np.log(np.sum(np.exp(x), axis=-1, keepdims=True))
    ignored = target == ignore_index
    label = np.where(ignored, 0, target)
    factors = np.where(ignored, 0, weight[label]).astype(x.dtype)
    losses = -np.take_along_axis(logs, label[..., None], -1)[..., 0] * factors
    if reduction == "mean":
        return losses.sum() / factors.sum()
    return REDUCTIONS[reduction](losses)


@st.composite
def cross_entropies(draw, labels_on_device):
    classes = draw(st.integers(2, 4))
    shape = list(draw(shapes(min_dims=1, max_dims=2, min_side=1)))
    axis = draw(st.integers(-len(shape) - 1, len(shape)))
    position = axis % (len(shape) + 1)
    labels = draw(hnp.arrays(np.int64, tuple(shape), elements=st.integers(0, classes - 1)))
    ignore_index = draw(st.sampled_from([-100, 0, 1]))
    labels.flat[0] = 0 if ignore_index != 0 else 1  # at least one counts
    (x,) = draw(arrays((*shape[:position], classes, *shape[position:])))
    weight = np.array(draw(st.permutations([0.5, 1.0, 2.0, 4.0]))[:classes])
    options = {
        "reduction": draw(st.sampled_from([*REDUCTIONS])),
        "axis": axis,
        "ignore_index": ignore_index,
    }
    if labels_on_device:
        return _made(mt.cross_entropy, _cross_entropy, [x, labels, weight], **options)
    return _made(
        lambda t, **o: mt.cross_entropy(t, labels, weight, **o),
        lambda t, **o: _cross_entropy(t, labels, weight, **o),
        [x],
        **options,
    )


@st.composite
def soft_cross_entropies(draw):
    shape = draw(shapes(min_dims=2, min_side=1))
    operands = draw(arrays(shape)) + draw(arrays(shape, (shape[1],), domain="unit"))

    def reference(x, p, w, reduction):
        logs = x - np.log(np.sum(np.exp(x), axis=1, keepdims=True))
        weights = w.reshape([-1 if i == 1 else 1 for i in range(x.ndim)])
        losses = -np.sum(p * logs * weights, axis=1)
        return losses.sum() / losses.size if reduction == "mean" else REDUCTIONS[reduction](losses)

    return _made(
        lambda x, p, w, reduction: mt.cross_entropy(x, p, w, reduction=reduction),
        reference,
        operands,
        reduction=draw(st.sampled_from([*REDUCTIONS])),
    )


entry("mse_loss", losses_of_pairs(mt.mse_loss, lambda x, y: (x - y) ** 2))
entry("l1_loss", losses_of_pairs(mt.l1_loss, lambda x, y: np.abs(x - y)))
entry(
    "binary_cross_entropy",
    losses_of_pairs(
        mt.binary_cross_entropy,
        lambda p, y: -(y * np.log(p) + (1 - y) * np.log1p(-p)),
        "unit",
        "unit",
    ),
    "ops.loss._bounded_log",
    "ops.loss._bounded_log1m",
    waits=True,
)
entry(
    "binary_cross_entropy_with_logits",
    losses_of_pairs(
        mt.binary_cross_entropy_with_logits,
        lambda x, y: np.logaddexp(x.dtype.type(0), x) - x * y,
        "real",
        "unit",
    ),
    "ops.loss._bce_with_logits",
)
entry("cross_entropy", cross_entropies(labels_on_device=False), "ops.loss._cross_entropy")
entry(
    "cross_entropy of labels on the device",
    cross_entropies(labels_on_device=True),
    wrt=(0,),
    waits=True,
)
entry("cross_entropy of probabilities", soft_cross_entropies())

# -- what the engine and the rules need for themselves


@st.composite
def sums_to(draw):
    found = draw(
        hnp.mutually_broadcastable_shapes(num_shapes=2, min_side=0, max_side=3, max_dims=3)
    )
    shape = found.input_shapes[0]

    def reference(x, shape):
        extra = x.ndim - len(shape)
        axes = tuple(i for i in range(x.ndim) if i < extra or shape[i - extra] != x.shape[i])
        return x.sum(axes).reshape(shape)

    return _made(engine.sum_to, reference, draw(arrays(found.result_shape)), shape=shape)


@st.composite
def crops(draw):
    shape = draw(shapes(min_dims=1, max_dims=2, min_side=2))
    widths = tuple([(draw(st.integers(0, 1)), draw(st.integers(0, 1))) for _ in shape])

    def reference(x, widths):
        pairs = zip(widths, x.shape, strict=True)
        return x[tuple(slice(before, n - after) for (before, after), n in pairs)]

    return _made(shaping._crop, reference, draw(arrays(shape)), widths=widths)


@st.composite
def unchanged(draw, call):
    return _made(call, lambda x: x, draw(arrays(draw(shapes()))))


@st.composite
def constants(draw, call, reference):
    return _made(call, reference, draw(arrays(draw(shapes()))))


def _there_and_back(x):
    other = "numpy" if x.backend != "numpy" else "cage"
    return (x.to(other) * 1).to(x.backend)


entry("sum_to", sums_to(), "engine.sum_to")
entry(
    "astype",
    constants(lambda x: x.astype(np.float64), lambda x: x.astype(np.float64)),
    "engine.astype",
    keeps_dtype=False,
)
entry("here", unchanged(engine._here), "engine._here")
entry("crop", crops(), "ops.shape._crop")
entry("to", unchanged(_there_and_back), "ops.conversion.transfer", waits=True)
entry(
    "zeros of a shape",
    constants(lambda x: shaping._zeros(x, shape=(2, 3)), lambda x: np.zeros((2, 3), x.dtype)),
    "ops.shape._zeros",
    differentiable=False,
)
entry(
    "identity matrix",
    constants(lambda x: linalg._identity(x, n=3), lambda x: np.eye(3, dtype=x.dtype)),
    "ops.linalg._identity",
    differentiable=False,
)
entry("log of a probability", elementwise(loss._bounded_log, np.log, domains=("unit",)))
entry(
    "log1p of minus a probability",
    elementwise(loss._bounded_log1m, lambda p: np.log1p(-p), domains=("unit",)),
)
entry("root of a variance", elementwise(reduction._root, np.sqrt, domains=("positive",)))
