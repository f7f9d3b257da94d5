"""How many functions of the library a plain call enters: that is what it costs beside NumPy.

The engine treats the most frequent calls, and the most frequent turns of a backward pass, apart
from the general ones, with the same results. Were such a way not taken, nothing would be wrong, and
everything slower.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

import microtensor as mt

HOME = str(Path(mt.__file__).parent)


def entered(work):
    """The library's functions that `work()` enters, without its comprehensions."""
    names = []

    def look(frame, event, argument):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(HOME):
            names.append(code.co_name)

    sys.setprofile(look)
    try:
        work()
    finally:
        sys.setprofile(None)
    comprehensions = ("<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>")
    return [name for name in names if name not in comprehensions]


LEAF = mt.tensor([0.25, 0.5, 0.75], requires_grad=True)
OTHER = mt.tensor([1.0, 2.0, 3.0], requires_grad=True)
CONSTANT = mt.tensor([1.0, 2.0, 3.0])
ARRAY = CONSTANT.data
SQUARE = mt.ones((3, 3), requires_grad=True)

# The operation itself, its forward, and if it is recorded the function that leaves a node behind;
# if it is not, two that make a tensor.
RECORDED = {
    "one tensor": lambda: mt.exp(LEAF),
    "a minus sign": lambda: -LEAF,
    "two tensors": lambda: mt.multiply(LEAF, OTHER),
    "the same tensor twice": lambda: LEAF * LEAF,
    "an operator": lambda: LEAF + OTHER,
    "a number on the right": lambda: LEAF * 2.0,
    "a number on the right, of another kind": lambda: LEAF * 2,
    "a constant on the left": lambda: CONSTANT * LEAF,
    "a constant on the right": lambda: LEAF * CONSTANT,
    "an array on the right": lambda: mt.multiply(LEAF, ARRAY),
    "an array on the left": lambda: mt.multiply(ARRAY, LEAF),
    "a matrix product": lambda: SQUARE @ SQUARE,
}
CONSTANTS = {
    "one tensor": lambda: mt.exp(CONSTANT),
    "two tensors": lambda: CONSTANT * CONSTANT,
    "a number on the right": lambda: CONSTANT * 2.0,
}
ARRAYS = {
    "one array": lambda: mt.exp(ARRAY),
    "two arrays": lambda: mt.multiply(ARRAY, ARRAY),
    "a number on the right": lambda: mt.multiply(ARRAY, 2.0),
}


@pytest.mark.parametrize("call", RECORDED.values(), ids=RECORDED)
def test_a_recorded_call_enters_three_functions(call):
    assert len(entered(call)) == 3


@pytest.mark.parametrize("call", CONSTANTS.values(), ids=CONSTANTS)
def test_a_call_on_constants_enters_four(call):
    assert len(entered(call)) == 4


@pytest.mark.parametrize("call", ARRAYS.values(), ids=ARRAYS)
def test_a_call_on_arrays_enters_two(call):
    assert len(entered(call)) == 2


@pytest.mark.parametrize("call", ARRAYS.values(), ids=ARRAYS)
def test_on_arrays_a_switch_makes_no_difference(call):
    """Rules run on arrays, under whatever switch the backward pass was started."""
    with mt.detect_anomaly(), mt.no_grad():
        assert len(entered(call)) == 2


# Operations on many arrays, after the first call, which works out what is to be saved.
TRUTHS = np.array([True, False, True])
GENERAL = {
    "where, recorded": (lambda: mt.where(TRUTHS, LEAF, OTHER), 3),
    "where, of constants": (lambda: mt.where(TRUTHS, CONSTANT, CONSTANT), 4),
    "where, of arrays": (lambda: mt.where(TRUTHS, ARRAY, ARRAY), 2),
}


@pytest.mark.parametrize(("call", "count"), GENERAL.values(), ids=GENERAL)
def test_an_operation_on_three_arrays_enters_no_more(call, count):
    call()
    assert len(entered(call)) == count


def test_joining_arrays_enters_no_more_than_needed_however_many():
    def join(n):
        return lambda: mt.stack([LEAF] * n)

    for n in (2, 7):
        join(n)()
        # the function, the operation, its forward; the option; the node
        assert len(entered(join(n))) == 5


def test_under_a_switch_a_plain_operation_works_out_its_plan_once():
    with mt.detect_anomaly():
        names = entered(lambda: mt.exp(LEAF))
    assert "plan" not in names


def test_options_cost_one_more_for_the_values_that_are_saved():
    assert len(entered(lambda: mt.softmax(SQUARE, axis=0))) == 4
    assert len(entered(lambda: mt.softmax(SQUARE))) == 3


# One turn of a backward pass: a node is visited, its rules are called.
TURNS = {
    "one argument": (lambda y: mt.tanh(y), 1),
    "two arguments, one of them a constant": (lambda y: y * CONSTANT, 1),
    "a number": (lambda y: y * 2.0, 1),
    "two arguments, one of them a leaf": (lambda y: y * LEAF, 2),
    "two leaves": (lambda y: mt.add(y, LEAF), 2),
    "a reshape": (lambda y: y.reshape(3), 3),
}


@pytest.mark.parametrize(("step", "count"), TURNS.values(), ids=TURNS)
def test_a_turn_of_a_backward_pass_enters_the_rules_and_nothing_else(step, count):
    def backward(n):
        LEAF.grad = OTHER.grad = None
        y = OTHER * 1.0
        for _ in range(n):
            y = step(y)
        return y.sum().backward

    few, many = len(entered(backward(4))), len(entered(backward(14)))
    assert many - few == 10 * count


def test_a_further_contribution_to_a_leaf_enters_nothing_beyond_its_rules():
    def backward(n):
        LEAF.grad = None
        return sum(LEAF * float(i) for i in range(n)).sum().backward

    few, many = len(entered(backward(4))), len(entered(backward(14)))
    rules = 3  # of the product, and for either side of the sum
    assert many - few == 10 * rules
