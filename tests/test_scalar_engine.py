"""The engine on plain numbers: right by finite differences, and equal to the one on arrays."""

import importlib.util
import math
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import microtensor as mt

PATH = Path(__file__).resolve().parent.parent / "docs" / "scalar_engine.py"
spec = importlib.util.spec_from_file_location("scalar_engine", PATH)
scalar = importlib.util.module_from_spec(spec)
spec.loader.exec_module(scalar)

# Operations that any finite numbers may enter: denominators and logarithms are kept from zero.
UNARY = {
    "neg": lambda lib, a: -a,
    "square": lambda lib, a: a**2,
    "cube": lambda lib, a: a**3,
    "inverse": lambda lib, a: (a * a + 1) ** -1,
    "exp": lambda lib, a: lib.exp(-(a * a)),
    "log": lambda lib, a: lib.log(a * a + 0.5),
    "sin": lambda lib, a: lib.sin(a),
    "tanh": lambda lib, a: lib.tanh(a),
    "relu": lambda lib, a: lib.relu(a),
    "sigmoid": lambda lib, a: lib.sigmoid(a),
    "left": lambda lib, a: 2.0 * (1.0 + a) - (3.0 - a),
    "right": lambda lib, a: (a * 0.5 - 1.0) / 4.0 + a,
    "reciprocal": lambda lib, a: 2.0 / (a * a + 1),
}
BINARY = {
    "add": lambda lib, a, b: a + b,
    "subtract": lambda lib, a, b: a - b,
    "multiply": lambda lib, a, b: a * b,
    "divide": lambda lib, a, b: a / (b * b + 1),
}


@st.composite
def programs(draw):
    """Leaves, then steps that each take any earlier values: graphs with sharing and dead ends."""
    leaves = draw(st.lists(st.floats(-2, 2), min_size=1, max_size=4))
    steps, known = [], len(leaves)
    for _ in range(draw(st.integers(1, 15))):
        before = st.integers(0, known - 1)
        steps.append(
            draw(
                st.one_of(
                    st.tuples(st.sampled_from(sorted(UNARY)), before),
                    st.tuples(st.sampled_from(sorted(BINARY)), before, before),
                )
            )
        )
        known += 1
    return leaves, steps


def run(lib, leaves, steps):
    """All values of a program, leaves first; the last is its result."""
    values = list(leaves)
    for name, *arguments in steps:
        operation = UNARY.get(name) or BINARY[name]
        values.append(operation(lib, *(values[i] for i in arguments)))
    return values


def leaves_and_gradients(leaves, steps):
    numbers = [scalar.Number(leaf) for leaf in leaves]
    values = run(scalar, numbers, steps)
    assume(all(abs(value.value) < 1e3 for value in values))
    values[-1].backward()
    return values, [number.grad for number in numbers]


@given(programs())
def test_gradients_agree_with_finite_differences(program):
    leaves, steps = program
    values, gradients = leaves_and_gradients(leaves, steps)
    relu_inputs = [values[step[1]].value for step in steps if step[0] == "relu"]
    assume(all(abs(value) > 1e-3 for value in relu_inputs))  # the kink has no slope to compare
    for i, gradient in enumerate(gradients):
        size = 1e-5

        def result(shift, i=i):
            moved = [leaf + shift * (j == i) for j, leaf in enumerate(leaves)]
            return run(scalar, [scalar.Number(leaf) for leaf in moved], steps)[-1].value

        # Two step widths: what they disagree by is the method's own error at this point.
        narrow = (result(size) - result(-size)) / (2 * size)
        wide = (result(2 * size) - result(-2 * size)) / (4 * size)
        method = abs(wide - narrow) + 1e-9 * max(1.0, *(abs(v.value) for v in values)) / size
        assume(method < 1e-2 * max(1.0, abs(gradient)))
        assert abs(gradient - narrow) <= method + 1e-7 * max(1.0, abs(gradient))


@given(programs())
def test_the_engine_on_arrays_finds_the_same(program):
    leaves, steps = program
    values, gradients = leaves_and_gradients(leaves, steps)
    tensors = [mt.tensor(leaf, dtype="float64", requires_grad=True) for leaf in leaves]
    result = run(mt, tensors, steps)[-1]
    assert math.isclose(result.item(), values[-1].value, rel_tol=1e-12, abs_tol=1e-12)
    result.backward()
    for tensor, gradient in zip(tensors, gradients, strict=True):
        found = 0.0 if tensor.grad is None else tensor.grad.item()
        assert math.isclose(found, gradient, rel_tol=1e-9, abs_tol=1e-9)


def test_the_example_of_the_prose():
    x = scalar.Number(3)
    (x * x).backward()
    assert x.grad == 6


def test_gradients_of_leaves_add_up_over_passes_and_inner_ones_start_afresh():
    x = scalar.Number(2)
    y = x * x
    z = y * 3
    z.backward()
    z.backward()
    assert x.grad == 24
    assert y.grad == 0


def test_doublings_visit_each_number_once():
    x = y = scalar.Number(1)
    for _ in range(200):
        y = y + y
    y.backward()
    assert x.grad == 2.0**200


def test_a_long_chain_needs_no_recursion():
    x = y = scalar.Number(1)
    for _ in range(20_000):
        y = y + 1
    y.backward()
    assert x.grad == 1


@pytest.mark.parametrize("exponent", [0, 1, 2, -1, 0.5])
def test_powers(exponent):
    x = scalar.Number(1.7)
    (x**exponent).backward()
    assert x.grad == pytest.approx(exponent * 1.7 ** (exponent - 1))


def test_a_power_of_zero_at_zero_has_no_slope():
    x = scalar.Number(0)
    (x**0).backward()
    assert x.grad == 0


def test_it_is_at_most_a_hundred_lines():
    assert len(PATH.read_text(encoding="utf-8").splitlines()) <= 100
