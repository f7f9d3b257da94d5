"""The graph: long, shared, reused; visited once, freed at once, without the garbage collector."""

import contextlib
import gc
import sys
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import microtensor as mt
from microtensor import modes
from microtensor.engine import Node


@contextlib.contextmanager
def no_collector():
    """Everything inside must be freed by reference counts."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Count:
    """An observer that counts how often each operation had its turn."""

    def __init__(self):
        self.names, self.contributions = [], 0

    def visit(self, node, cotangent):
        self.names.append(node.name)

    def contribution(self, node, argument, place, raw, fitted, total):
        self.contributions += 1


def leaf(*numbers):
    return mt.tensor(np.array(numbers, np.float64), requires_grad=True)


# -- length


def test_a_million_operations_are_recorded_walked_and_freed():
    limit = sys.getrecursionlimit()
    with no_collector():
        x = leaf(1.0)
        y = x
        for _ in range(1_000_000):
            y = y + 1.0
        first = weakref.ref(y.place)
        y.backward()
        assert x.grad.item() == 1.0
        assert y.item() == 1_000_001.0
        del y
        assert first() is None
    assert sys.getrecursionlimit() == limit


def test_a_long_graph_that_was_never_walked_is_freed_without_recursion():
    with no_collector():
        x = leaf(1.0)
        y = x * 1.0
        oldest = weakref.ref(y.place)
        for _ in range(200_000):
            y = y * 1.0
        del y
        assert oldest() is None


def test_a_long_graph_is_walked_twice_and_printed():
    x = leaf(0.5)
    y = x
    for _ in range(20_000):
        y = y * 1.0001
    first = mt.grad(y, x, retain_graph=True)
    again = mt.grad(y, x)
    assert first.item() == again.item() == pytest.approx(1.0001**20_000)
    assert repr(y).startswith("tensor(")


def test_the_second_derivative_of_a_long_graph():
    x = leaf(1.0)
    y = x
    for _ in range(2_000):
        y = y * x
    (g,) = mt.grad([y], [x], create_graph=True)
    assert g.item() == 2001.0
    assert mt.grad(g, x).item() == 2001.0 * 2000.0


# -- sharing


def test_thirty_doublings_visit_each_node_once():
    x = leaf(1.0)
    y = x
    for _ in range(30):
        y = y + y
    count = Count()
    with modes.observing(count):
        y.backward()
    assert count.names == ["add"] * 30
    assert count.contributions == 60
    assert x.grad.item() == 2.0**30


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_diamond_waits_for_both_arms(create_graph):
    x = leaf(3.0)
    a = x * x
    b, c = a * 2.0, mt.exp(-a)
    count = Count()
    with modes.observing(count):
        (b * c).backward(create_graph=create_graph)
    assert len(count.names) == 5  # not 6: the square has one turn
    assert count.names[-1] == "multiply"
    assert x.grad.item() == pytest.approx((2 - 18) * np.exp(-9.0) * 6, rel=1e-14)


@pytest.mark.parametrize("k", range(1, 25))
def test_a_tensor_that_is_used_k_times(k):
    """Exact, whether contributions are taken by reference, added up, or added in place."""
    x = leaf(0.1, 0.2, 0.3)
    y = x * 1.0
    for _ in range(k - 1):
        y = y + x * 1.0
    y.sum().backward()
    assert x.grad.numpy().tolist() == [float(k)] * 3

    h = mt.tanh(x)
    total = mt.stack([h] * k).sum()
    x.grad = None
    total.backward()
    one = mt.grad(mt.tanh(x).sum(), x)
    np.testing.assert_allclose(x.grad.numpy(), k * one.numpy(), rtol=1e-14)

    with mt.enable_grad():
        z = h = mt.tanh(x)
        for _ in range(k - 1):
            z = z * h
    (g,) = mt.grad([z.sum()], [x], create_graph=True)
    t = np.tanh(x.detach().numpy())
    np.testing.assert_allclose(g.detach().numpy(), k * t ** (k - 1) * (1 - t * t), rtol=1e-12)


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=12))
def test_reuse_at_random_is_exact_on_integers(pairs):
    """Sums and differences of earlier values: every derivative is a whole number."""
    x = leaf(1.0, 2.0)
    values, slopes = [x], [1.0]
    for a, b in pairs:
        a, b = a % len(values), b % len(values)
        values.append(values[a] - values[b] * 2.0)
        slopes.append(slopes[a] - slopes[b] * 2.0)
    if values[-1].requires_grad:
        values[-1].sum().backward()
        assert x.grad.numpy().tolist() == [slopes[-1]] * 2


def test_a_parameter_reused_over_steps_and_passes_accumulates():
    w = leaf(2.0)
    h = leaf(1.0)
    for _ in range(3):
        h = h * w
    h.backward()
    assert w.grad.item() == 3 * 2.0**2
    (w * 5.0).sum().backward()
    assert w.grad.item() == 12.0 + 5.0


def test_a_leaf_as_its_own_output():
    x = leaf(2.0)
    x.backward()
    assert x.grad.item() == 1.0
    assert mt.grad([x], [x])[0].item() == 1.0


def test_several_outputs_share_one_pass():
    x = leaf(1.0, 2.0)
    a, b = x * 3.0, x * x
    count = Count()
    with modes.observing(count):
        (g,) = mt.grad([a, b], [x], [mt.ones_like(a), mt.ones_like(b)])
    assert g.numpy().tolist() == [5.0, 7.0]
    assert len(count.names) == 2


def test_inputs_on_the_way_and_outputs_below_one_another():
    x = leaf(0.5)
    a = x * x
    b = mt.exp(a)
    ga, gx = mt.grad([b], [a, x])
    assert ga.item() == pytest.approx(np.exp(0.25))
    assert gx.item() == pytest.approx(np.exp(0.25))
    a = x * x
    b = mt.exp(a)
    assert mt.grad([b, a], [x])[0].item() == pytest.approx(np.exp(0.25) + 1)


def test_grad_walks_only_what_leads_to_its_inputs():
    x, w = leaf(1.0, 2.0), leaf(3.0, 4.0)
    side = w
    for _ in range(50):
        side = mt.tanh(side)
    y = (x * x * side).sum()
    count = Count()
    with modes.observing(count):
        mt.grad(y, x)
    assert "tanh" not in count.names
    assert count.contributions == 4  # none to `side` either
    assert x.grad is None
    assert w.grad is None


def test_only_arguments_in_need_get_contributions_or_are_saved():
    x, w = leaf(1.0, 2.0), mt.tensor([3.0, 4.0])
    y = x * w
    assert len(y.place.parents) == 1
    assert len(y.place.saved) == 1
    assert y.place.saved[0] is w.data
    assert (x + w).place.saved == ()
    count = Count()
    with modes.observing(count):
        y.sum().backward()
    assert count.contributions == 2


# -- memory


def test_nodes_and_arrays_die_with_the_last_tensor():
    with no_collector():
        x = leaf(*range(100))
        h = mt.tanh(x)
        node = weakref.ref(h.place)
        y = (h * h).sum()
        del h
        assert node() is not None  # y still needs it
        del y
        assert node() is None


def test_a_pass_releases_the_graph_as_it_goes():
    with no_collector():
        x = leaf(*range(100))
        h = mt.exp(x)
        result = weakref.ref(h.data)
        y = (h * 2.0).sum()
        del h
        assert result() is not None  # the rule of exp needs its result
        y.backward()
        assert result() is None
        assert y.place.parents is None


@pytest.mark.parametrize("order", [1, 2, 3])
def test_recorded_passes_leave_no_cycles(order):
    """Also where a backward pass was recorded, and the gradient hangs on the leaf itself."""
    with no_collector():
        x = leaf(0.1, 0.2)
        y = mt.sum(mt.tanh(x) ** 2 * mt.stack([x, x])[0])
        nodes = [weakref.ref(y.place)]
        for _ in range(order):
            (g,) = mt.grad([y], [x], create_graph=True)
            nodes.append(weakref.ref(g.place))
            y = g.sum()
        del y, g
        assert [node() for node in nodes] == [None] * len(nodes)


def test_a_gradient_that_was_recorded_dies_with_its_leaf_cleared():
    with no_collector():
        x = leaf(0.5)
        mt.sum(x * x * x).backward(create_graph=True)
        node = weakref.ref(x.grad.place)
        x.grad = None
        assert node() is None


def test_state_carried_with_detach_keeps_the_number_of_nodes_constant():
    w = leaf(0.9)

    def nodes():
        return sum(type(o) is Node for o in gc.get_objects())

    gc.collect()
    state, counts = mt.zeros(1, dtype=np.float64), []
    for _ in range(50):
        state = mt.detach(state)
        for _ in range(4):
            state = mt.tanh(state * w + 1.0)
        state.sum().backward()
        counts.append(nodes())
    assert len(set(counts[1:])) == 1


def test_graphs_of_two_tensors_can_be_dropped_in_any_order():
    with no_collector():
        x = leaf(1.0, 2.0)
        h = mt.exp(x)
        a, b = (h * 2.0).sum(), (h * 3.0).sum()
        node = weakref.ref(h.place)
        del h, a
        assert node() is not None
        mt.grad(b, x)
        del b
        assert node() is None


# -- whose memory a gradient is


PASS_THROUGH = {
    "add": lambda a, b: a + b,
    "add twice": lambda a, b: a + b + a + b,
    "subtract": lambda a, b: a - b,
    "reshape": lambda a, b: (a + b).reshape(6),
    "transpose": lambda a, b: (a + b).T,
    "stack": lambda a, b: mt.stack([a, b]),
    "concatenate": lambda a, b: mt.concatenate([a, b, a]),
    "astype": lambda a, b: (a + b).astype(np.float64),
    "broadcast": lambda a, b: mt.broadcast_to(a + b, (1, 2, 3)),
    "flip": lambda a, b: mt.flip(a) + mt.flip(b),
    "unstack": lambda a, b: mt.unstack(a)[0] + mt.unstack(b)[0],
    "split": lambda a, b: mt.split(a, 3, axis=1)[1] + mt.split(b, 3, axis=1)[1],
    "getitem": lambda a, b: a[0] + b[0],
    "where": lambda a, b: mt.where(np.ones((2, 3), bool), a, b),
    "itself": lambda a, b: a * 1.0 + b,
}


@pytest.mark.parametrize("how", ["grad", "create_graph", "backward", "backward twice"])
@pytest.mark.parametrize("name", PASS_THROUGH)
def test_gradients_share_no_memory_with_anything(name, how):
    """Rules that hand the cotangent on are where this goes wrong."""
    a, b = (mt.tensor(np.ones((2, 3)), requires_grad=True) for _ in range(2))
    y = PASS_THROUGH[name](a, b)
    cotangent = mt.tensor(np.full(y.shape, 2.0))
    kept = cotangent.data.copy()
    if how.startswith("backward"):
        y.backward(cotangent, retain_graph=True)
        if how == "backward twice":
            y.backward(cotangent)
        gradients = [a.grad, b.grad]
    else:
        gradients = list(mt.grad([y], [a, b], [cotangent], create_graph=how == "create_graph"))
    everything = [*gradients, cotangent, a, b, y]
    for i, g in enumerate(gradients):
        for other in everything[:i] + everything[i + 1 :]:
            assert not np.shares_memory(g.data, other.data)
    np.testing.assert_array_equal(cotangent.data, kept)
    for g in gradients:
        g.data[...] = -1.0  # the user may do what they like with them
    np.testing.assert_array_equal(a.data, 1.0)
    np.testing.assert_array_equal(cotangent.data, kept)


def test_a_gradient_that_was_handed_out_stays_as_it_was():
    x = leaf(1.0, 2.0)
    (x * x).sum().backward()
    first = x.grad
    (x * x).sum().backward()
    assert first.numpy().tolist() == [2.0, 4.0]
    assert x.grad.numpy().tolist() == [4.0, 8.0]


def test_the_gradient_of_one_leaf_changed_in_place_leaves_the_others():
    a, b = leaf(1.0, 1.0), leaf(1.0, 1.0)
    (a + b).sum().backward()
    a.grad[...] = 7.0
    assert b.grad.numpy().tolist() == [1.0, 1.0]


def test_seeds_of_several_outputs_may_be_the_same_array():
    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
    seed = np.ones(2)
    ga, gb = mt.grad([a * 1.0, b + 0.0, a - b], [a, b], [seed, seed, seed])
    assert ga.numpy().tolist() == [2.0, 2.0]
    assert gb.numpy().tolist() == [0.0, 0.0]
    assert seed.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("cut", [lambda x: mt.split(x, 2), lambda x: mt.unstack(x)])
def test_pieces_do_not_keep_what_they_were_cut_from(cut):
    """`tanh` saves its result, so what was cut up is not needed any more once it is computed."""
    x = leaf(0.1, 0.2)
    whole = x.reshape(2, 1) * 2.0
    watched = weakref.ref(whole.data)
    a, b = cut(whole)
    y = mt.tanh(a) * mt.sigmoid(b)
    del whole, a, b
    assert watched() is None
    y.sum().backward()
    assert np.isfinite(x.grad.numpy()).all()
