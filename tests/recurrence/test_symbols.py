"""Symbols: what is folded away when an expression is written down, and how it is printed."""

import ast
import operator
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microtensor import backend
from microtensor.recurrence import symbols
from microtensor.recurrence.derivation import parts
from microtensor.recurrence.drivers import scalars
from microtensor.recurrence.symbols import TRUTH, Symbol, constant

x, y = Symbol("input", "x"), Symbol("input", "y")
xp = symbols.xp
bent = Symbol("sigmoid", xp.tanh(x))


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
        (x + -y, x - y),
        (-x + y, y - x),
        (x - -y, x + y),
        (x - x, constant(0.0)),
        (0 - x, -x),
        (constant(2.0) ** 3, constant(8.0)),
        (xp.where(xp.greater(x, y), 0, x), x * xp.logical_not(xp.greater(x, y))),
        (1 * xp.greater(x, y), xp.greater(x, y).astype(np.float64)),
        (xp.less(xp.less(x, y), y), xp.less(xp.less(x, y).astype(np.float64), y)),
        ((1 - x) * y + x * 3, y + x * (3 - y)),
        (3 * x + y * (1 - x), y + x * (3 - y)),
        (3 * bent - 1.5, 1.5 * xp.tanh(0.5 * xp.tanh(x))),
        (xp.maximum(x, xp.zeros((), float)), Symbol("relu", x)),
        (x + xp.zeros((), float), x),
        (xp.clip(x, None, 2), xp.clip(x, -np.inf, 2)),
        (xp.clip(x, -1, None), xp.clip(x, -1, np.inf)),
    ],
)
def test_what_is_folded_away(written, folded):
    assert written is folded


def test_what_is_not_folded_away():
    for left, right in ((x / y, y / x), (x / 2, x), (1 / x, x), (x / x, constant(1.0)), (2 / x, x)):
        assert left is not right
    assert (x / 2).op == (1 / x).op == (y / x).op == "divide"
    for kept in (3 * bent - 1, 2 * Symbol("sigmoid", x) - 1, 3 * xp.tanh(x) - 1.5, bent - 0.5):
        assert kept.op == "subtract"
    for kept in ((2 - x) * y + x * 3, (1 - x) * y + 3 * y, (1 + x) * y + x * 3):
        assert {part.op for part in kept.args} == {"multiply"}


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
        lambda f, a, b: f.less(f.greater(a, b), f.greater(b, 0)) * 1.5,
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


# -- what holds of every expression

ARITHMETIC = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "negative": operator.neg,
    "power": operator.pow,
    "where": lambda condition, a, b: a if condition else b,
    "less": operator.lt,
    "less_equal": operator.le,
    "greater": operator.gt,
    "greater_equal": operator.ge,
    "equal": operator.eq,
    "not_equal": operator.ne,
}
COMPARISONS = st.sampled_from(list(ARITHMETIC)[7:])
VARIABLES = st.sampled_from(["x", "y"])


def operations_on(inner):
    compared = st.tuples(COMPARISONS, inner, inner)
    truths = compared | st.tuples(COMPARISONS, compared, compared)
    return st.one_of(
        st.tuples(st.sampled_from(["add", "subtract", "multiply"]), inner, inner),
        st.tuples(st.just("divide"), inner, VARIABLES | st.sampled_from([1.0, 2.0, 0.5])),
        st.tuples(st.just("power"), VARIABLES, st.sampled_from([0.0, 1.0, 2.0, 3.0])),
        st.tuples(st.just("negative"), inner),
        st.tuples(st.just("where"), truths, inner, inner),
    )


EXPRESSIONS = st.recursive(
    VARIABLES | st.sampled_from([0.0, 1.0, -1.0, 2.0, 0.5]), operations_on, max_leaves=10
)


def computed(tree, operation, leaf):
    if not isinstance(tree, tuple):
        return leaf(tree)
    return operation(tree[0])(*[computed(below, operation, leaf) for below in tree[1:]])


def depth(value):
    return 1 + max([depth(a) for a in value.args if isinstance(a, Symbol)], default=0)


def is_in_its_simplest_form(part):
    args = part.args
    numbers = [a.args[0] if a.op == "constant" else None for a in args]
    if part.op in ("add", "multiply"):
        assert depth(args[0]) <= depth(args[1])
    assert part.dtype == TRUTH or part.op == "where" or None in numbers
    match part.op:
        case "add":
            assert 0 not in numbers
            assert "negative" not in {a.op for a in args}
        case "subtract":
            assert 0 not in numbers
            assert args[0] is not args[1]
            assert args[1].op != "negative"
        case "multiply":
            assert not {0, 1, -1} & set(numbers)
        case "divide":
            assert numbers[0] != 0
            assert numbers[1] != 1
        case "negative":
            assert args[0].op != "negative"
        case "power":
            assert numbers[1] not in (0, 1, 2)
        case "where":
            assert args[1] is not args[2]
            assert 0 not in numbers


def is_printed_well(lines):
    """Nothing twice, no needless or missing bracket, and names only where they serve."""
    seen, right = set(), ""
    for line in lines:
        statement = ast.parse(line)
        assert ast.unparse(statement) == line
        right += line.partition(" = ")[2] + "\n"
        for node in ast.walk(statement):
            operation = isinstance(node, (ast.BinOp, ast.UnaryOp, ast.Compare, ast.Call))
            text = ast.unparse(node)
            if operation and re.search(r"\b([ab]|[tz]\d+)\b", text):  # not a number
                assert text not in seen, "printed twice"
                seen.add(text)
    for line in lines:
        name, _, value = line.partition(" = ")
        uses = len(re.findall(rf"\b{name}\b", right))
        assert name.startswith("z") or uses > 1 or (uses == 1 and len(value) > 72)


@settings(max_examples=200)
@given(trees=st.lists(EXPRESSIONS, min_size=1, max_size=3))
def test_expressions_are_simplified_printed_and_still_the_same(trees):
    """Exactly: on fractions."""
    names = {"x": x, "y": y}
    targets = {
        f"z{i}": symbols.lift(
            computed(tree, lambda name: getattr(xp, name), lambda leaf: names.get(leaf, leaf))
        )
        for i, tree in enumerate(trees)
    }
    for part in parts(targets.values()):
        if part.op not in ("input", "constant"):
            is_in_its_simplest_form(part)
    lines = scalars.statements(list(targets.items()), {x: "a", y: "b"})
    is_printed_well(lines)
    for a, b in ((Fraction(3, 2), Fraction(-1, 4)), (Fraction(1), Fraction(1))):
        space = {"a": a, "b": b, "real": Fraction, **ARITHMETIC, "logical_not": operator.not_}
        exec("\n".join(lines), space)
        leaves = {"x": a, "y": b}
        for target, tree in zip(targets, trees, strict=True):
            assert space[target] == computed(
                tree, ARITHMETIC.get, lambda leaf, leaves=leaves: leaves.get(leaf) or Fraction(leaf)
            )


def test_a_number_is_asked_for_and_there_is_none():
    with pytest.raises(symbols.UnknownOperation, match="decide by a number"):
        bool(x)
    with pytest.raises(symbols.UnknownOperation, match="one number at a time"):
        xp.zeros((2,), float)
    with pytest.raises(symbols.UnknownOperation, match="know no 'arctan'"):
        xp.arctan(x)
    with pytest.raises(symbols.UnknownOperation, match="a list among"):
        x + [1.0]  # noqa: RUF005
    symbolic = backend.by_type[Symbol]
    for convert in (symbolic.from_host, symbolic.to_host):
        with pytest.raises(symbols.UnknownOperation, match="no number"):
            convert(x)
    assert symbolic.owner(x) != symbolic.owner(y)
    assert x.copy() is x
