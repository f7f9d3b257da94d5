"""Programs at random: every value and every gradient, against the naive engine on floats."""

import numpy as np
import pytest
from backends import Place
from hypothesis import given
from hypothesis import strategies as st
from programs import naive
from programs.drawing import programs
from programs.machines import Naive, Ours

import microtensor as mt

DTYPES = st.sampled_from([("float64",), ("float32",), ("float64", "float32")])
ANY = DTYPES.flatmap(programs)


def close(found, wanted, bound, program, what):
    """Equal, but for what rounding may do."""
    assert found.shape == wanted.shape, what
    slack = bound * program.eps()
    far = np.abs(found - wanted) > slack
    assert not far.any(), f"{what}: {found[far]} instead of {wanted[far]} +- {slack[far]}"


def by_the_naive_engine(program):
    machine = Naive()
    values = machine.run(program)
    return values, machine.differentiate(program, values), machine.bounds


def check_values(machine, program, values, naives, bounds):
    place = machine.place
    behind, dtypes = program.behind(), program.dtypes()
    for i, (value, wanted) in enumerate(zip(values, naives, strict=True)):
        what = f"value {i}"
        assert value.dtype == dtypes[i], what
        assert value.requires_grad is bool(behind[i]), what
        assert value.is_leaf is (i < len(program.leaves) or not behind[i]), what
        close(place.host(value), naive.values(wanted), bounds.of_values(wanted), program, what)


def check_gradients(machine, program, values, gradients, wanted, places):
    """`gradients` of the values at `places`; None exactly where nothing depends on them."""
    behind = program.behind()
    reached = set().union(*[behind[r] for r in program.results])
    for i, g in zip(places, gradients, strict=True):
        what = f"gradient of value {i}"
        assert (g is not None) is (i in reached), what
        if g is not None:
            assert (g.shape, g.dtype) == (values[i].shape, values[i].dtype), what
            close(machine.place.host(g), *wanted[i], program, what)


@given(ANY)
def test_values_and_gradients_of_all_that_is_recorded(backend, program):
    """By `mt.grad`, with respect to leaves and to results on the way alike."""
    machine = Ours(backend)
    values = machine.run(program)
    naives, wanted, bounds = by_the_naive_engine(program)
    check_values(machine, program, values, naives, bounds)
    places = [i for i, behind in enumerate(program.behind()) if behind]
    results = [values[r] for r in program.results]
    gradients = mt.grad(
        results,
        [values[i] for i in places],
        machine.cotangents(program, values),
        allow_unused=True,
    )
    check_gradients(machine, program, values, gradients, wanted, places)
    assert all(value.grad is None for value in values)


@given(ANY)
def test_backward_with_retain_graph_and_without(backend, program):
    """Gradients add up in the leaves, pass by pass, until the graph is released."""
    machine = Ours(backend)
    values = machine.run(program)
    _, wanted, _ = by_the_naive_engine(program)
    total = machine.total(program, values)
    leaves = range(len(program.leaves))
    for passes in (1, 2, 3):
        total.backward(retain_graph=passes < 3)
        gradients = [values[i].grad for i in leaves]
        check = [(passes * g, passes * bound) for g, bound in wanted]
        check_gradients(machine, program, values, gradients, check, leaves)
    before = [g if g is None else machine.place.host(g).copy() for g in gradients]
    with pytest.raises(mt.GradientStateError, match="second time"):
        total.backward()
    for i, kept in zip(leaves, before, strict=True):
        assert (values[i].grad is None) is (kept is None)
        if kept is not None:
            np.testing.assert_array_equal(machine.place.host(values[i].grad), kept)


@given(ANY)
def test_a_graph_that_is_kept_gives_the_same_again(program):
    machine = Ours(Place("numpy"))
    values = machine.run(program)
    leaves = [value for value in values[: len(program.leaves)] if value.requires_grad]
    results = [values[r] for r in program.results]
    cotangents = machine.cotangents(program, values)
    keep = {"retain_graph": True, "allow_unused": True}
    first = mt.grad(results, leaves, cotangents, **keep)
    recorded = mt.grad(results, leaves, cotangents, create_graph=True, allow_unused=True)
    again = mt.grad(results, leaves, cotangents, allow_unused=True)
    for a, b, c in zip(first, recorded, again, strict=True):
        assert (a is None) is (b is None) is (c is None)
        if a is not None:
            np.testing.assert_array_equal(a.data, c.data)
            scale = max(1.0, float(np.max(np.abs(a.data))))
            np.testing.assert_allclose(b.data, a.data, rtol=0, atol=1e4 * program.eps() * scale)


@given(programs())
def test_what_is_printed_can_be_pasted(program):
    text = "from numpy import array\nfrom microtensor import *\n" + repr(program)
    pasted = {}
    exec(text, pasted)
    values = Ours(Place("numpy")).run(program)
    for result, r in zip(pasted["results"], program.results, strict=True):
        np.testing.assert_array_equal(result.data, values[r].data)
