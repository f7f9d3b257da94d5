"""What holds for every operation, drawn at random: values, derivatives, dtypes, memory."""

import dataclasses
import functools
import inspect

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ops.table import NOT_NUMBERS, TABLE

import microtensor as mt
from microtensor.declaration import REGISTRY
from microtensor.testing import check_grads, given_op
from microtensor.testing.strategies import DOMAINS, LAYOUTS, laid_out

DIFFERENTIABLE = [name for name, entry in TABLE.items() if entry.differentiable]
NOT_DIFFERENTIABLE = [name for name, entry in TABLE.items() if not entry.differentiable]
REPEATED = [name for name, entry in TABLE.items() if entry.repeated is not None]

# Declared as broadcasting for the sake of dtypes alone, or what they repeat is seen elsewhere.
NOT_REPEATED = {
    "microtensor.ops.shape._concatenate": "joins arrays of several dtypes",
    "microtensor.ops.shape._stack": "joins arrays of several dtypes",
    "microtensor.ops.linalg._linear": "a weight has two axes, always",
    "microtensor.ops.linalg._affine": "the bias is repeated, the differences see its gradient",
    "microtensor.ops.linalg._linear_of_trials": "a weight has three axes, always",
    "microtensor.ops.linalg._affine_of_trials": "as for one trial",
    "microtensor.ops.linalg._einsum": "labels are repeated, the differences see the gradients",
    "microtensor.ops.loss._mse_loss": "the loss refuses shapes that differ",
    "microtensor.ops.loss._l1_loss": "as that one",
    "microtensor.ops.loss._bce_with_logits": "as that one",
}


def fewer(divisor):
    """Settings with a fraction of the profile's examples."""
    return settings(max_examples=max(settings().max_examples // divisor, 3))


# -- the table itself


# A whole layer, with tests of its own in tests/recurrence/.
ELSEWHERE = {"microtensor.nn.recurrent.sequence"}


def test_every_primitive_of_the_package_has_an_entry():
    primitives = {key for key in REGISTRY if key.startswith("microtensor.")} - ELSEWHERE
    covered = [key for entry in TABLE.values() for key in entry.covers]
    assert sorted(primitives - set(covered)) == [], "add an entry for these to ops/table.py"
    assert sorted(set(covered) - primitives) == [], "these do not exist any more"


def test_every_public_operation_has_an_entry():
    assert sorted(set(mt.ops.__all__) - TABLE.keys()) == []


def lacking(name, entry):
    """What an entry does not say, or does not say right."""
    found = []
    domains = entry.domain if isinstance(entry.domain, list) else [entry.domain]
    for domain in domains:
        interval = isinstance(domain, tuple) and len(domain) == 2
        if not interval and domain not in (*DOMAINS, *NOT_NUMBERS):
            found.append(f"domain {domain!r}")
    if not callable(entry.reference) or entry.reference is entry.op:
        found.append("reference")
    if entry.options is None:
        found.append("options")
    elif name in mt.ops.__all__:
        operation = getattr(mt, name)
        declaration = getattr(operation, "declaration", None)
        if declaration is not None:
            optional = set(declaration.defaults)
        else:
            parameters = inspect.signature(operation).parameters.values()
            optional = {p.name for p in parameters if p.default is not p.empty}
        operands = {"bias", "trials"} if name == "linear" else set()  # entries of their own
        missing = optional - entry.options.keys() - operands
        if missing:
            found.append(f"options {sorted(missing)}")
    return found


@pytest.mark.parametrize("name", TABLE)
def test_every_entry_has_domain_reference_and_options(name):
    assert lacking(name, TABLE[name]) == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"domain": None}, ["domain None"]),
        ({"domain": "reel"}, ["domain 'reel'"]),
        ({"reference": None}, ["reference"]),
        ({"reference": mt.sum}, ["reference"]),
        ({"options": None}, ["options"]),
        ({"options": {"axis": 0}}, ["options ['keepdims']"]),
    ],
)
def test_an_entry_that_lacks_one_is_noticed(change, found):
    assert lacking("sum", dataclasses.replace(TABLE["sum"], **change)) == found


# -- values and derivatives


def checked(entry, name, order, body):
    """The kit's own test of an operation."""
    body.__name__ = body.__qualname__ = name.replace(" ", "_")  # failures are kept under this name
    return given_op(
        entry.op,
        entry.operands(entry.domain),
        reference=entry.reference,
        options=entry.options,
        order=order if entry.differentiable else 0,
        wrt=entry.wrt,
    )(body)


@pytest.mark.parametrize("name", TABLE)
def test_values_and_derivatives(name, backend):
    """Shapes, dtypes and values in float32 and float64; first and second derivatives."""
    entry = TABLE[name]

    def body(out):
        for y in _tuple(out):
            assert y.backend == backend.name
            assert y.requires_grad is (entry.differentiable and y.dtype.kind == "f")

    with backend():
        fewer(1 if backend.name == "numpy" else 2)(checked(entry, name, 2, body))()


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_third_derivatives(name):
    fewer(6)(checked(TABLE[name], name, 3, lambda: None))()


def _tuple(value):
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


class Run:
    """One call on one backend: leaves, outputs, cotangents without any pattern, gradients."""

    def __init__(
        self, backend, entry, call, dtype=np.float64, operands=None, layout="C", frozen=False
    ):
        self.backend, self.call = backend, call
        self.leaves = []
        for i, host in enumerate(call.arguments if operands is None else operands):
            if not isinstance(host, np.ndarray):
                self.leaves.append(host)
                continue
            is_float = host.dtype.kind == "f"
            wanted = is_float and entry.differentiable and (entry.wrt is None or i in entry.wrt)
            host = host.astype(dtype, copy=False) if is_float else host
            array = backend.array(_frozen(host) if frozen else host)
            self.leaves.append(mt.Tensor(array, wanted))
        self.tensors = [x for x in self.leaves if isinstance(x, mt.Tensor)]
        self.sources = [x for x in self.tensors if x.requires_grad]
        self.outputs = _tuple(entry.op(*self.leaves, **call.options))
        self.recorded = [y for y in self.outputs if y.requires_grad]
        weights = [laid_out(_weights(y.shape, y.dtype), layout) for y in self.recorded]
        self.cotangents = [mt.Tensor(backend.array(_frozen(host))) for host in weights]

    def gradients(self, **how):
        if not self.recorded:
            return [None] * len(self.sources)
        return mt.grad(self.recorded, self.sources, self.cotangents, allow_unused=True, **how)

    def hosts(self, values):
        return [self.backend.host(value).copy() for value in values]


def _frozen(host):
    """The same array, which nobody can write into."""
    host = host.view()
    host.flags.writeable = False
    return host


def _weights(shape, dtype):
    """Numbers around 1, all different."""
    n = int(np.prod(shape))
    return (0.5 + (np.arange(n) * 0.618 + 0.1) % 1).astype(dtype).reshape(shape)


@pytest.mark.parametrize("name", TABLE)
@fewer(2)
@given(data=st.data())
def test_nothing_waits_for_the_device_and_gradients_of_both_dtypes_agree(name, device, data):
    entry = TABLE[name]
    call = data.draw(entry.calls)
    found = []
    for dtype in (np.float64, np.float32):
        with device.device_only() if not entry.waits else mt.enable_grad():
            run = Run(device, entry, call, dtype)
            gradients = run.gradients()
        for x, g in zip(run.sources, gradients, strict=True):
            assert (g.shape, g.dtype, g.backend) == (x.shape, x.dtype, x.backend)
        found.append(run.hosts(gradients))
    for exact, rounded in zip(*found, strict=True):
        atol = 1e-3 * max(1.0, float(np.max(np.abs(exact), initial=0)))
        np.testing.assert_allclose(rounded, exact, rtol=0, atol=atol)


@pytest.mark.parametrize("name", NOT_DIFFERENTIABLE)
@fewer(4)
@given(data=st.data())
def test_an_operation_without_derivative_gives_constants(name, backend, data):
    entry = TABLE[name]
    call = data.draw(entry.calls)
    leaves = [backend.tensor(host, requires_grad=host.dtype.kind == "f") for host in call.arguments]
    result = entry.op(*leaves, **call.options)
    assert not result.requires_grad
    assert result.is_leaf


@pytest.mark.parametrize("name", sorted(TABLE.keys() - {"astype", "to"}))  # these are methods
@fewer(4)
@given(data=st.data())
def test_on_bare_arrays_it_returns_bare_arrays(name, backend, data):
    entry = TABLE[name]
    call = data.draw(entry.calls)
    operands = [backend.array(h) if isinstance(h, np.ndarray) else h for h in call.arguments]
    outputs = _tuple(entry.op(*operands, **call.options))
    wanted = _tuple(entry.reference(*call.arguments, **call.options))
    for y, reference in zip(outputs, wanted, strict=True):
        if isinstance(y, np.generic):  # an operator of NumPy's in a composite, on 0-d arrays
            y = backend.array(y)
        assert type(y) is type(backend.array(np.zeros(1)))
        np.testing.assert_allclose(backend.host(y), reference, rtol=1e-11, atol=1e-11)


# -- broadcasting


def test_every_broadcasting_primitive_is_tested_with_repeated_operands():
    declared = {
        key
        for key, declaration in REGISTRY.items()
        if declaration.broadcasts and key.startswith("microtensor.")
    }
    repeated = {key for name in REPEATED for key in TABLE[name].covers}
    assert declared - repeated == NOT_REPEATED.keys()


def _differ(entry):
    """Whether an operand of a call is repeated at all."""

    def repeated(call):
        full = entry.repeated(*call.arguments)
        return any(a.shape != b.shape for a, b in zip(call.arguments, full, strict=True))

    return repeated


@pytest.mark.parametrize("name", REPEATED)
@fewer(2)
@given(data=st.data())
def test_the_gradient_of_a_repeated_operand_is_the_sum_over_its_repetitions(name, backend, data):
    entry = TABLE[name]
    call = data.draw(entry.calls.filter(_differ(entry)))
    short = Run(backend, entry, call)
    full = [x.copy() for x in entry.repeated(*call.arguments)]
    long = Run(backend, entry, call, operands=full)
    for y, z in zip(short.outputs, long.outputs, strict=True):
        np.testing.assert_allclose(backend.host(y), backend.host(z), rtol=1e-12, atol=1e-12)
    for x, g, h in zip(short.sources, short.gradients(), long.gradients(), strict=True):
        assert g.shape == x.shape
        extra = h.ndim - g.ndim
        every = backend.host(h)
        summed = every.sum(tuple(range(extra)))
        kept = tuple(i for i, n in enumerate(g.shape) if n != summed.shape[i])
        summed = summed.sum(kept, keepdims=True)
        atol = 1e-13 * float(np.abs(every).sum())
        np.testing.assert_allclose(backend.host(g), summed, rtol=1e-12, atol=atol)


# -- memory


def _owners(tensors):
    return [
        (mt.backend.of(x.data).owner(x.data), x) for x in tensors if x is not None and x.size > 0
    ]


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@fewer(4)
@given(data=st.data())
def test_gradients_share_memory_with_nothing(name, backend, data):
    """Neither with one another, nor with operands, results, cotangents or options."""
    entry = TABLE[name]
    run = Run(backend, entry, data.draw(entry.calls))
    gradients = run.gradients(retain_graph=True)
    for y, g in zip(run.recorded, run.cotangents, strict=True):
        y.backward(g, retain_graph=True)
    added = [x.grad for x in run.sources if run.recorded]
    theirs = {owner for owner, _ in _owners([*run.tensors, *run.outputs, *run.cotangents])}
    mine = [owner for owner, _ in _owners([*gradients, *added])]
    assert len(set(mine)) == len(mine)
    assert not theirs & set(mine)
    for g, sum_of_calls in zip(gradients, added, strict=False):
        np.testing.assert_allclose(
            backend.host(g), backend.host(sum_of_calls), rtol=1e-12, atol=1e-12
        )
    # What is written into one gradient is seen in no other place.
    others = [*run.tensors, *run.outputs, *run.cotangents, *gradients]
    before = run.hosts(others)
    for g in added:
        with mt.no_grad():
            g[...] = 7.25
    for was, now in zip(before, run.hosts(others), strict=True):
        np.testing.assert_array_equal(was, now)


@pytest.mark.parametrize("name", TABLE)
@fewer(4)
@given(data=st.data())
def test_operands_and_cotangents_are_not_written_into(name, backend, data):
    """They may be read-only, and are the same afterwards."""
    entry = TABLE[name]
    call = data.draw(entry.calls)
    options = [value for value in call.options.values() if isinstance(value, np.ndarray)]
    for value in options:
        value.flags.writeable = False
    run = Run(backend, entry, call, frozen=True)
    given_to_it = [*run.tensors, *run.cotangents]
    before = [*run.hosts(given_to_it), *[value.copy() for value in options]]
    for g in run.gradients(create_graph=True):
        if g is not None and g.requires_grad:
            mt.grad(g.sum(), run.sources, allow_unused=True, retain_graph=True)
    after = [*run.hosts(given_to_it), *options]
    for was, now in zip(before, after, strict=True):
        np.testing.assert_array_equal(was, now)


@pytest.mark.parametrize("name", [name for name in REPEATED if name != "where"])
@fewer(4)
@given(data=st.data())
def test_one_tensor_as_both_operands_receives_both_contributions(name, backend, data):
    entry = TABLE[name]
    x = data.draw(entry.calls).arguments[0]
    if name == "matmul":
        x = x.reshape(-1)
    apart = Run(backend, entry, Call(x, x.copy()))
    leaf = backend.tensor(x, requires_grad=True)
    y = entry.op(leaf, leaf)
    y.backward(apart.cotangents[0])
    a, b = (backend.host(g) for g in apart.gradients())
    np.testing.assert_allclose(backend.host(leaf.grad), a + b, rtol=1e-12, atol=1e-12)


class Call:
    """A call that nobody drew."""

    def __init__(self, *arguments):
        self.arguments, self.options = arguments, {}


@pytest.mark.parametrize("name", TABLE)
@fewer(4)
@given(data=st.data())
def test_it_does_not_matter_how_numbers_lie_in_memory(name, data):
    """Those of operands, and those of cotangents."""
    entry = TABLE[name]
    call = data.draw(entry.calls)
    place = _numpy()
    found = {}
    for layout in LAYOUTS:
        operands = [laid_out(x, layout) if isinstance(x, np.ndarray) else x for x in call.arguments]
        run = Run(place, entry, call, operands=operands, layout=layout)
        found[layout] = [*run.outputs, *run.gradients()]
    for layout in LAYOUTS[1:]:
        for a, b in zip(found["C"], found[layout], strict=True):
            if a is None:
                assert b is None
                continue
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            a, b = place.host(a), place.host(b)
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@functools.cache
def _numpy():
    from backends import Place

    return Place("numpy")


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@fewer(4)
@given(data=st.data())
def test_overwriting_an_operand_is_noticed_or_harmless(name, backend, data):
    """After a change in place a gradient is refused, or what it was: never silently another one."""
    entry = TABLE[name]
    run = Run(backend, entry, data.draw(entry.calls))
    if not run.recorded:
        return
    before = run.gradients(retain_graph=True)
    overwritten = data.draw(st.sampled_from(run.tensors), label="overwritten")
    with mt.no_grad():
        overwritten[...] = 1 if overwritten.dtype.kind in "ib" else 7.25
    try:
        after = run.gradients()
    except mt.GradientStateError as error:
        assert "changed in place" in str(error)  # noqa: PT017 (both ways are right)
        return
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(backend.host(a), backend.host(b))


# -- nothing at all


def _empty(call):
    return any(isinstance(x, np.ndarray) and x.size == 0 for x in call.arguments)


@pytest.mark.parametrize("name", TABLE)
@settings(fewer(8), suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(data=st.data())
def test_empty_operands(name, backend, data):
    """All examples have an operand without numbers."""
    entry = TABLE[name]
    call = data.draw(entry.calls.filter(_empty))
    run = Run(backend, entry, call)
    wanted = _tuple(entry.reference(*call.arguments, **call.options))
    for y, reference in zip(run.outputs, wanted, strict=True):
        assert (y.shape, y.dtype) == (np.shape(reference), np.asarray(reference).dtype)
        np.testing.assert_allclose(backend.host(y), reference, rtol=1e-12, atol=1e-12)
    for x, g in zip(run.sources, run.gradients(), strict=True):
        if g is not None:
            assert (g.shape, g.dtype, g.backend) == (x.shape, x.dtype, x.backend)
            assert np.isfinite(backend.host(g)).all()
    if run.recorded:
        check_grads(
            functools.partial(entry.op, **call.options), *run.leaves, wrt=entry.wrt, order=2
        )
