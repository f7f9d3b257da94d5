"""Symbols: what is folded away when an expression is written down, and how it is printed."""

import numpy as np
import pytest

from microtensor.recurrence import symbols
from microtensor.recurrence.drivers import scalars
from microtensor.recurrence.symbols import TRUTH, Symbol, constant

x, y = Symbol("input", "x"), Symbol("input", "y")
xp = symbols.xp


@pytest.mark.parametrize(
    ("written", "folded"),
    [
        (x + 0, x),
        (0 + x, x),
        (x - 0, x),
        (x * 1, x),
        (1 * x, x),
        (x * 0, constant(0.0)),
        (x / 1, x),
        (0 / x, constant(0.0)),
        (x**1, x),
        (x**0, constant(1.0)),
        (x**2, x * x),
        (xp.negative(-x), x),
        (x * -1, -x),
        (x + y, y + x),
        (x * y, y * x),
        (xp.where(xp.greater(x, y), x, x), x),
        (xp.where(xp.greater(x, y), x, 0), x * xp.greater(x, y)),
        (constant(6.0) / constant(3.0), constant(2.0)),
    ],
)
def test_what_is_folded_away(written, folded):
    assert written is folded


def test_what_is_not_folded_away():
    for left, right in ((x / y, y / x), (x / 2, x), (1 / x, x), (x / x, constant(1.0)), (2 / x, x)):
        assert left is not right
    assert (x / 2).op == (1 / x).op == (y / x).op == "divide"


def test_a_truth_becomes_a_number_once_and_a_number_stays_what_it_is():
    truth = xp.greater(x, y)
    assert truth.dtype == TRUTH
    number = truth.astype(np.float64)
    assert (number.op, number.dtype) == ("astype", np.dtype(np.float64))
    assert truth.astype(TRUTH) is truth
    assert number.astype(np.float64) is number
    assert x.astype(np.float64) is x


@pytest.mark.parametrize(
    "expression",
    [
        lambda f, a, b: f.greater(a, b) * a,
        lambda f, a, b: f.less(a, b) * (a + b),
        lambda f, a, b: f.greater_equal(f.less(a, b) * a, b) * a,
        lambda f, a, b: f.greater(f.greater(a, 0) * 1.0, f.greater(b, 0) * 1.0) * 1.5,
        lambda f, a, b: f.less_equal(a, f.less(b, a) * 2.0) * 2.5,
        lambda f, a, b: a - (b - (a - b)),
        lambda f, a, b: a / (b / (a / b)),
        lambda f, a, b: a * (b / a) / (a * b),
        lambda f, a, b: -(a + b) * -(a - b),
        lambda f, a, b: -((-a) * b) - (-b),
        lambda f, a, b: f.equal(a, b) * 1.0 + f.not_equal(a, b) * 2,
    ],
)
def test_printed_arithmetic_has_the_brackets_it_needs(expression):
    lines = scalars.statements([("z", expression(xp, x, y))], {x: "a", y: "b"})
    for a, b in ((1.5, -0.25), (-2.0, 3.0), (0.5, 0.5)):
        space = {"a": a, "b": b, "real": float, "where": np.where}
        exec("\n".join(lines), space)
        assert float(space["z"]) == pytest.approx(
            float(expression(np, np.float64(a), np.float64(b)))
        )


def test_names_that_are_taken_are_not_given_again():
    """Long expressions are cut into parts with names; some of these names may be there already."""
    value = x
    for i in range(40):
        value = xp.tanh(value * (y + i))
    lines = scalars.statements([("z", value)], {x: "t0", y: "t2"})
    names = [line.partition(" = ")[0] for line in lines]
    assert len(names) > 2
    assert not {"t0", "t2"} & set(names)
    assert len(set(names)) == len(names)
    space = {"t0": 0.3, "t2": -0.7, "tanh": np.tanh, "real": float}
    exec("\n".join(lines), space)
    expected = 0.3
    for i in range(40):
        expected = np.tanh(expected * (-0.7 + i))
    assert space["z"] == pytest.approx(expected)
