"""Calls that are not the plain ones: operands of mixed kinds, or many, constants among them."""

import numpy as np
import pytest

import microtensor as mt
from microtensor.indexed import IndexedCotangent
from microtensor.ops.indexing import index_sum


def leaf(*numbers, dtype=np.float64):
    return mt.tensor(np.array(numbers, dtype), requires_grad=True)


@pytest.fixture
def declared():
    """Operations declared in a test, forgotten after it."""
    before = dict(mt.declaration.REGISTRY)
    yield mt.primitive
    mt.declaration.REGISTRY.clear()
    mt.declaration.REGISTRY.update(before)


# -- arrays beside tensors


ARRAY = np.array([1.0, 2.0])


@pytest.mark.parametrize(
    "call",
    [
        lambda t: mt.add(ARRAY, t),
        lambda t: mt.add(t, ARRAY),
        lambda t: mt.where(np.array([True, False]), ARRAY, t),
        lambda t: mt.where(np.array([True, False]), t, 0.0),
        lambda t: mt.where(t > 1, ARRAY, ARRAY),
        lambda t: mt.concatenate([ARRAY, t]),
    ],
)
def test_one_constant_tensor_among_arrays_makes_the_result_a_tensor(call):
    result = call(mt.tensor([3.0, 4.0]))
    assert isinstance(result, mt.Tensor)
    assert not result.requires_grad


@pytest.mark.parametrize(
    "call",
    [
        lambda x, t: mt.divide(x, t),
        lambda x, t: mt.divide(t, x - x),
        lambda x, t: mt.einsum("i,i->i", x * 1e200, (t + 1.0) * 1e200),
    ],
)
def test_anomalies_are_found_where_arrays_and_tensors_meet(call):
    with np.errstate(all="ignore"), mt.detect_anomaly(), pytest.raises(mt.AnomalyError):
        call(ARRAY, mt.tensor([0.0, 1.0]))


def test_arrays_alone_are_not_looked_at_for_anomalies():
    """NumPy's own results are the user's affair; rules, too, run on arrays."""
    bad = np.array([np.nan, 1.0])
    with np.errstate(all="ignore"), mt.detect_anomaly():
        assert np.isnan(mt.log(-ARRAY)).all()
        assert np.isinf(mt.divide(ARRAY, 0.0)).all()
        assert np.isnan(mt.where(np.array([True, True]), bad, bad)[0])
        assert np.isnan(mt.einsum("i,i->", ARRAY * np.inf, ARRAY * 0.0))


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("exp", lambda x: mt.exp(x * 1000.0)),
        ("einsum", lambda x: mt.einsum("i,i->", x * 1e200, x * 1e200)),
    ],
)
def test_an_anomaly_is_at_the_line_that_called_the_operation(name, call):
    line = call.__code__.co_firstlineno
    message = rf"`{name}`.*test_calls\.py:{line}\b"
    with np.errstate(all="ignore"), mt.detect_anomaly():  # noqa: SIM117 (too long for one)
        with pytest.raises(mt.AnomalyError, match=message):
            call(leaf(1.0))


@pytest.mark.parametrize(
    "call",
    [
        lambda x: mt.exp(x),
        lambda x: x * x,
        lambda x: mt.sum(x, 0),
        lambda x: mt.where(np.array([True]), x, x),
        lambda x: mt.linear(x, mt.ones((1, 1))),
        lambda x: mt.concatenate([x, x]),
        lambda x: mt.stack([x, x]),
    ],
)
@pytest.mark.parametrize("anomaly", [False, True])
def test_a_node_knows_the_line_that_called_it(call, anomaly):
    x = leaf(1.0)
    if anomaly:
        with mt.detect_anomaly():
            node = call(x).place
    else:
        node = call(x).place
    assert node.line == (__file__, call.__code__.co_firstlineno)


METHODS = {
    "sum": lambda x: x.sum(),
    "mean": lambda x: x.mean(),
    "max": lambda x: x.max(),
    "reshape": lambda x: x.reshape(3, 2),
    "T": lambda x: x.T,
    "transpose": lambda x: x.transpose(1, 0),
    "astype": lambda x: x.astype(np.float32),
    "to": lambda x: x.to("cage"),
    "an index": lambda x: x[0],
    "clip": lambda x: x.clip(0.0, 1.0),
    "split": lambda x: mt.split(x, 2)[0],
    "numpy": lambda x: np.exp(x),
    "numpy with options": lambda x: np.sum(x, axis=0),
}


@pytest.mark.parametrize("call", METHODS.values(), ids=METHODS)
def test_a_node_made_by_a_method_knows_the_users_line(call):
    result = call(mt.ones((2, 3), requires_grad=True))
    place = result.place[0] if isinstance(result.place, tuple) else result.place
    assert place.line == (__file__, call.__code__.co_firstlineno)


def test_an_anomaly_of_an_operation_on_three_arrays_is_at_the_line_that_called_it(declared):
    @declared(broadcasts=True)
    def ratio(xp, a, b, c):
        return (a - b) / c

    def helper(x):
        return ratio(x, 1.0, x * 0.0)

    line = helper.__code__.co_firstlineno + 1
    message = rf"`ratio`.*test_calls\.py:{line}\b"
    with np.errstate(all="ignore"), mt.detect_anomaly():  # noqa: SIM117 (too long for one)
        with pytest.raises(mt.AnomalyError, match=message):
            helper(leaf(3.0))


# -- arguments that never receive a gradient


def test_a_constant_argument_that_needs_a_gradient_gets_none_and_takes_none_from_the_others():
    """The condition of `where` is declared constant; here it is a leaf, and a result."""
    for condition in (leaf(1.0, 0.0), leaf(1.0, 0.0) * 1.0):
        a, b = leaf(2.0, 3.0), leaf(4.0, 5.0)
        y = mt.where(condition, a * 1.0, b)
        gradients = mt.grad(y, [a, b], mt.tensor(np.array([6.0, 7.0])), retain_graph=True)
        assert [g.data.tolist() for g in gradients] == [[6, 0], [0, 7]]
        with pytest.raises(mt.GradientStateError, match="do not depend on input 0"):
            mt.grad(y.sum(), condition)


def test_an_operation_of_one_array_that_is_constant_records_nothing(declared):
    @declared(constant=("x",))
    def rounded(xp, x):
        return xp.rint(x)

    assert not rounded(leaf(1.25)).requires_grad


def test_an_operation_without_arrays_makes_arrays_of_numpy(declared):
    @declared
    def answer(xp, scale=1.0):
        return xp.asarray(42.0 * scale)

    assert answer() == 42
    assert answer(2.0) == answer(scale=2.0) == 84
    with pytest.raises(TypeError, match="more than it takes: answer"):
        answer(1.0, 2.0)


# -- fused operations with a rule for each argument


@pytest.fixture
def cube(declared):
    """x cubed, with a rule that works on arrays only; its composite serves for the rest."""

    @declared(composite=lambda x: x * x * x)
    def cube(xp, x):
        return x**3

    def rule(g, x):
        assert isinstance(x, np.ndarray), "a recorded backward pass must take the composite"
        return g * 3 * np.square(x)

    cube.vjp("x", rule)
    return cube


def test_a_recorded_pass_walks_the_composite_also_of_an_operation_with_single_rules(cube):
    x = leaf(2.0, 3.0)
    assert mt.grad(cube(x).sum(), x).data.tolist() == [12, 27]
    (g,) = mt.grad([cube(x).sum()], [x], create_graph=True)
    assert g.data.tolist() == [12, 27]
    assert mt.grad(g.sum(), x).data.tolist() == [12, 18]


def test_an_unrecorded_pass_takes_the_rule_and_not_the_composite(declared):
    def refuses(x):
        raise AssertionError("the rule is there, and faster")

    @declared(composite=refuses)
    def twice(xp, x):
        return x + x

    twice.vjp("x", lambda g: g * 2)
    x = leaf(1.0)
    assert mt.grad(twice(x), x).item() == 2


# -- several results, and indices into them


@pytest.mark.parametrize("create_graph", [False, True])
def test_indices_into_results_of_unequal_shapes(create_graph):
    x = mt.tensor(np.arange(12.0).reshape(3, 4), requires_grad=True)
    first, second = mt.split(x, [1], axis=1)
    loss = (second[0] * 2.0).sum() + first[2, 0]
    loss = loss + (first[2] * 3.0).sum() + (second[np.array([1, 1]), 2] * 5.0).sum()
    g = mt.grad(loss, x, create_graph=create_graph)
    wanted = np.zeros((3, 4))
    wanted[0, 1:] += 2
    wanted[2, 0] += 4
    wanted[1, 3] += 10
    np.testing.assert_array_equal(g.detach().numpy(), wanted)


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_result_among_several_that_is_used_whole_and_by_index(create_graph):
    x = mt.tensor(np.arange(6.0).reshape(2, 3), requires_grad=True)
    one, two = mt.unstack(x)
    loss = (one * one).sum() + (one[1:] * two[:2]).sum() + two[0]
    g = mt.grad(loss, x, create_graph=create_graph)
    wanted = [[0, 2 + 3, 4 + 4], [1 + 1, 2, 0]]
    np.testing.assert_array_equal(g.detach().numpy(), wanted)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (lambda g: g.astype(np.float32), "for 'x' returned dtype float32"),
        (lambda g: g.astype(np.complex128), "for 'x' returned complex"),
        (lambda g: g.tolist(), "for 'x' returned a list"),
    ],
)
def test_an_indexed_contribution_of_the_wrong_kind_is_refused(declared, values, match):
    @declared
    def head(xp, x):
        return x[:2]

    head.vjp("x", lambda g: IndexedCotangent(values(g), slice(2), index_sum))
    x = leaf(1.0, 2.0, 3.0)
    with pytest.raises(TypeError, match=match):
        mt.grad(head(x).sum(), x)


def test_an_indexed_contribution_of_the_right_kind_is_taken(declared):
    @declared
    def head(xp, x):
        return x[:2]

    head.vjp("x", lambda g: IndexedCotangent(g, slice(2), index_sum))
    x = leaf(1.0, 2.0, 3.0)
    assert mt.grad(head(x).sum(), x).data.tolist() == [1, 1, 0]


# -- a rule that comes to a constant


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_rule_that_comes_to_a_bare_array_is_a_constant_gradient(declared, create_graph):
    @declared
    def marked(xp, x):
        return x.copy()

    marked.vjp("x", lambda g, x: np.full(x.shape, 3.0))
    x = leaf(1.0, 2.0)
    (g,) = mt.grad([(marked(x * x) + x).sum()], [x], create_graph=create_graph)
    assert isinstance(g, mt.Tensor)
    assert g.data.tolist() == [7, 13]
    if create_graph:
        assert mt.grad(g.sum(), x).data.tolist() == [6, 6]
    marked(x).sum().backward(create_graph=create_graph)
    assert isinstance(x.grad, mt.Tensor)
    assert x.grad.data.tolist() == [3, 3]
