"""What holds for every operation, drawn at random: values, derivatives, dtypes, memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops.domains import fewer
from ops.table import TABLE

import microtensor as mt
from microtensor.declaration import REGISTRY
from microtensor.testing import check_grads

DIFFERENTIABLE = [name for name, entry in TABLE.items() if entry.differentiable]
NOT_DIFFERENTIABLE = [name for name, entry in TABLE.items() if not entry.differentiable]


def test_every_primitive_of_the_package_has_an_entry():
    primitives = {key for key in REGISTRY if key.startswith("microtensor.")}
    covered = [key for entry in TABLE.values() for key in entry.covers]
    assert sorted(primitives - set(covered)) == [], "add an entry for these to ops/table.py"
    assert sorted(set(covered) - primitives) == [], "these do not exist any more"
    assert len(covered) == len(set(covered))


def test_every_public_operation_has_an_entry():
    assert sorted(set(mt.ops.__all__) - TABLE.keys()) == []


def _tuple(value):
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _leaves(backend, sample, entry, dtype):
    leaves = []
    for i, host in enumerate(sample.operands):
        is_float = host.dtype.kind == "f"
        wanted = is_float and entry.differentiable and (entry.wrt is None or i in entry.wrt)
        leaves.append(backend.tensor(host, dtype if is_float else None, requires_grad=wanted))
    return leaves


def _run(backend, sample, entry, dtype):
    """Value and first derivatives as the user gets them; nothing may wait for the device."""
    leaves = _leaves(backend, sample, entry, dtype)
    calm = backend.device_only() if not entry.waits else mt.enable_grad()
    with calm:
        outputs = _tuple(sample.call(*leaves))
        inner = [y for y in outputs if y.requires_grad]
        sources = [x for x in leaves if x.requires_grad]
        cotangents = [mt.ones_like(y) for y in inner]
        gradients = mt.grad(inner, sources, cotangents, allow_unused=True) if inner else []
    return leaves, outputs, sources, gradients


@pytest.mark.parametrize("name", TABLE)
@given(data=st.data())
def test_value_dtype_and_first_derivative(name, backend, data):
    entry = TABLE[name]
    sample = data.draw(entry.samples)
    for dtype, rtol in ((np.float64, 1e-12), (np.float32, 1e-4)):
        hosts = [h.astype(dtype) if h.dtype.kind == "f" else h for h in sample.operands]
        wanted = _tuple(sample.reference(*hosts))
        leaves, outputs, sources, gradients = _run(backend, sample, entry, dtype)
        assert len(outputs) == len(wanted)
        for y, reference in zip(outputs, wanted, strict=True):
            got = backend.host(y)
            assert y.shape == np.shape(reference)
            assert y.dtype == (dtype if entry.keeps_dtype else reference.dtype)
            atol = rtol * max(1.0, float(np.max(np.abs(reference), initial=0)))
            np.testing.assert_allclose(got, reference, rtol=rtol, atol=atol)
            if got.dtype.kind == "f":
                assert y.requires_grad is any(x.requires_grad for x in leaves)
        for x, g in zip(sources, gradients, strict=True):
            assert g is not None
            assert (g.shape, g.dtype, g.backend) == (x.shape, x.dtype, x.backend)
            assert np.isfinite(backend.host(g)).all()
    if entry.differentiable:
        check_grads(sample.call, *[backend.tensor(h) for h in sample.operands], wrt=entry.wrt)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@fewer(4)
@given(data=st.data())
def test_second_and_third_derivative(name, backend, data):
    entry = TABLE[name]
    sample = data.draw(entry.samples)
    check_grads(sample.call, *[backend.tensor(h) for h in sample.operands], wrt=entry.wrt, order=3)


@pytest.mark.parametrize("name", NOT_DIFFERENTIABLE)
@fewer(4)
@given(data=st.data())
def test_an_operation_without_derivative_gives_constants(name, backend, data):
    sample = data.draw(TABLE[name].samples)
    leaves = [backend.tensor(h, requires_grad=h.dtype.kind == "f") for h in sample.operands]
    result = sample.call(*leaves)
    assert not result.requires_grad
    assert result.is_leaf


@pytest.mark.parametrize("name", sorted(TABLE.keys() - {"astype", "to"}))  # these are methods
@fewer(4)
@given(data=st.data())
def test_on_bare_arrays_it_returns_bare_arrays(name, backend, data):
    entry = TABLE[name]
    sample = data.draw(entry.samples)
    hosts = sample.operands
    outputs = _tuple(sample.call(*[backend.array(h) for h in hosts]))
    for y, reference in zip(outputs, _tuple(sample.reference(*hosts)), strict=True):
        if isinstance(y, np.generic):  # an operator of NumPy's in a composite, on 0-d arrays
            y = backend.array(y)
        assert type(y) is type(backend.array(np.zeros(1)))
        np.testing.assert_allclose(backend.host(y), reference, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@fewer(4)
@given(data=st.data())
def test_overwriting_an_operand_is_noticed_or_harmless(name, backend, data):
    """After a change in place a gradient is refused, or what it was: never silently another one."""
    entry = TABLE[name]
    sample = data.draw(entry.samples)
    leaves = _leaves(backend, sample, entry, np.float64)
    sources = [x for x in leaves if x.requires_grad]
    inner = [y for y in _tuple(sample.call(*leaves)) if y.requires_grad]
    cotangents = [mt.ones_like(y) for y in inner]
    if not inner:
        return
    before = mt.grad(inner, sources, cotangents, retain_graph=True, allow_unused=True)
    overwritten = data.draw(st.sampled_from(leaves), label="overwritten")
    with mt.no_grad():
        overwritten[...] = 1 if overwritten.dtype.kind in "ib" else 7.25
    try:
        after = mt.grad(inner, sources, cotangents, allow_unused=True)
    except mt.GradientStateError as error:
        assert "changed in place" in str(error)  # noqa: PT017 (both ways are right)
        return
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(backend.host(a), backend.host(b))
