"""Gradients have memory of their own, and are copied only where somebody else holds it too."""

import weakref

import numpy as np
import pytest

import microtensor as mt
from microtensor.declaration import REGISTRY


@pytest.fixture
def watched():
    """An operation whose rule makes a new array, and the list of those that are alive."""
    made = []

    @mt.primitive
    def same(xp, x):
        return x.copy()

    def rule(g):
        array = g * 2
        made.append(weakref.ref(array))
        return array

    same.vjp("x", rule)
    yield same, made
    del REGISTRY[f"{same.declaration.forward.__module__}.same"]


def test_an_array_that_nobody_else_holds_becomes_the_gradient_without_a_copy(watched):
    same, made = watched
    x = mt.ones(3, requires_grad=True)
    same(x).sum().backward()
    (array,) = [reference() for reference in made]
    assert array is x.grad.data


def test_an_array_that_somebody_else_holds_is_copied(watched):
    same, _ = watched
    x, y = (mt.ones(3, requires_grad=True) for _ in range(2))
    (same(x + y)).sum().backward()  # one array arrives at both
    assert not np.shares_memory(x.grad.data, y.grad.data)
    assert [g.data.tolist() for g in (x.grad, y.grad)] == [[2, 2, 2], [2, 2, 2]]


@pytest.mark.parametrize("create_graph", [False, True])
def test_the_cotangent_that_was_given_is_never_handed_back(create_graph):
    x, y = (mt.tensor(np.ones(3), requires_grad=True) for _ in range(2))
    seed = mt.tensor(np.array([1.0, 2.0, 3.0]))
    gradients = mt.grad(x + y, [x, y], seed, create_graph=create_graph)
    for g in gradients:
        assert g is not seed
        assert not np.shares_memory(g.data, seed.data)
        assert g.data.tolist() == [1, 2, 3]
    (x + y).backward(seed, create_graph=create_graph)
    for leaf in (x, y):
        assert not np.shares_memory(leaf.grad.data, seed.data)


@pytest.mark.parametrize("create_graph", [False, True])
def test_what_an_identity_hands_on_is_not_the_users(create_graph):
    x = mt.tensor(np.ones(3), requires_grad=True)
    seed = mt.tensor(np.array([1.0, 2.0, 3.0]))
    g = mt.grad(x * 1.0 + 0.0, x, seed, create_graph=create_graph)
    seed.data[:] = 7
    assert g.detach().data.tolist() == [1, 2, 3]


def test_a_gradient_that_is_not_recorded_is_a_constant_also_for_a_cotangent_that_is_recorded():
    x = mt.tensor(np.ones(3), requires_grad=True)
    seed = mt.tensor(np.ones(3), requires_grad=True)
    g = mt.grad(x * 2.0, x, seed)
    assert not g.requires_grad
    assert g.is_leaf


STARTS = {
    "backward": lambda x, seed: (x * 2.0).backward(seed),
    "grad": lambda x, seed: mt.grad([x * 2.0], [x], [seed]),
}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("seed", [None, np.ones(2), [1.0, 1.0, 1.0]], ids=repr)
def test_a_cotangent_that_does_not_fit_is_refused_in_the_name_of_who_was_called(start, seed):
    with pytest.raises((ValueError, TypeError), match=f"^{start}: the "):
        STARTS[start](mt.ones(3, requires_grad=True), seed)


def test_a_node_that_many_paths_lead_to_is_looked_at_once():
    """There are 2 ** 200 paths from the output to the leaf."""
    x = mt.tensor(np.array(1.0), requires_grad=True)
    y = x
    for _ in range(200):
        y = y + y
    assert mt.grad(y, x).item() == 2.0**200
