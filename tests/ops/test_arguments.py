"""What operations accept beside their arrays: axes, dtypes that differ, bounds; and what not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import microtensor as mt

CALLS = {
    "transpose": lambda x, a: mt.transpose(x, a, *[i for i in range(x.ndim) if i != a % x.ndim]),
    "moveaxis from": lambda x, a: mt.moveaxis(x, a, 0),
    "moveaxis to": lambda x, a: mt.moveaxis(x, 0, a),
    "swapaxes": lambda x, a: mt.swapaxes(x, 0, a),
    "squeeze": lambda x, a: mt.squeeze(x, a),
    "prod": lambda x, a: mt.prod(x, axis=a),
    "var": lambda x, a: mt.var(x, axis=a),
    "sum": lambda x, a: mt.sum(x, axis=a),
    "max": lambda x, a: mt.max(x, axis=a),
    "take": lambda x, a: mt.take(x, np.array([0]), axis=a),
    "take_along_axis": lambda x, a: mt.take_along_axis(x, np.zeros(x.shape, int), axis=a),
    "cumsum": lambda x, a: mt.cumsum(x, axis=a),
    "split": lambda x, a: mt.split(x, 1, axis=a),
    "unstack": lambda x, a: mt.unstack(x, axis=a),
    "concatenate": lambda x, a: mt.concatenate([x, x], axis=a),
    "flip": lambda x, a: mt.flip(x, a),
}


@pytest.mark.parametrize("name", CALLS)
@given(ndim=st.integers(1, 3), beyond=st.integers(0, 4), below=st.booleans())
def test_axes_out_of_range_are_refused(name, ndim, beyond, below):
    """Never taken modulo the number of axes: axis 2 of a matrix is a mistake, not axis 0."""
    axis = -ndim - 1 - beyond if below else ndim + beyond
    x = mt.ones((1,) * ndim, requires_grad=True)
    with pytest.raises((ValueError, IndexError)):
        CALLS[name](x, axis)


def test_axes_named_twice_are_refused():
    x = mt.ones((2, 1, 1))
    for call in (
        lambda: mt.expand_dims(x, (0, 0)),
        lambda: mt.expand_dims(x, (0, -5)),
        lambda: mt.squeeze(x, (1, -2)),
        lambda: mt.transpose(x, 0, 1, -2),
        lambda: mt.moveaxis(x, (0, 0), (1, 2)),
        lambda: mt.prod(x, axis=(0, -3)),
        lambda: mt.sum(x, axis=(0, 0)),
    ):
        with pytest.raises(ValueError, match=r"repeated|duplicate"):
            call()
    with pytest.raises(ValueError, match="out of bounds"):
        mt.expand_dims(x, 5)


@pytest.mark.parametrize("name", ["sum", "mean", "prod", "max", "min", "var", "std", "logsumexp"])
@pytest.mark.parametrize("axis", [0, -1, np.int64(0)])
def test_numbers_are_reduced_over_axis_0_as_numpys(name, axis):
    """NumPy lets a number be reduced over its "axis 0"; backward must know of it too."""
    x = mt.tensor(np.array(2.5), requires_grad=True)
    y = getattr(mt, name)(x, axis=axis)
    assert y.shape == ()
    g = mt.grad(y, x)
    assert g.shape == ()
    assert g.item() == (0.0 if name in ("var", "std") else 1.0)


@given(
    kinds=st.lists(st.sampled_from([np.float32, np.float64, np.int64]), min_size=2, max_size=4),
    join=st.sampled_from(["concatenate", "stack"]),
    create_graph=st.booleans(),
)
def test_joining_several_dtypes(kinds, join, create_graph):
    """Integers promote no float; each float receives a gradient of its own dtype."""
    hosts = [np.arange(2).astype(kind) + i for i, kind in enumerate(kinds)]
    leaves = [mt.tensor(h, requires_grad=h.dtype.kind == "f") for h in hosts]
    y = getattr(mt, join)(leaves)
    wanted = getattr(np, join)(hosts)
    floats = [kind for kind in kinds if np.dtype(kind).kind == "f"]
    assert y.dtype == np.result_type(*floats or kinds)
    np.testing.assert_array_equal(y.detach().numpy(), wanted)
    sources = [x for x in leaves if x.requires_grad]
    if not sources:
        return
    weights = np.arange(y.size, dtype=y.dtype).reshape(y.shape)
    gradients = mt.grad([y], sources, [weights], create_graph=create_graph)
    pieces = dict(zip(leaves, weights.reshape(len(leaves), 2), strict=True))
    for x, g in zip(sources, gradients, strict=True):
        assert g.dtype == x.dtype
        np.testing.assert_array_equal(g.detach().numpy(), pieces[x])


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64])
def test_bounds_of_clip_are_numbers_of_any_kind_and_promote_nothing(kind):
    x = mt.tensor(np.array([-2.0, 0.5, 9.0], np.float32), requires_grad=True)
    for y in (mt.clip(x, kind(-1), kind(1)), x.clip(kind(-1)).clip(a_max=kind(1))):
        assert y.dtype == np.float32
        np.testing.assert_array_equal(y.detach().numpy(), [-1, 0.5, 1])
        g = mt.grad(y.sum(), x)
        assert g.dtype == np.float32
        np.testing.assert_array_equal(g.numpy(), [0, 1, 0])


@pytest.mark.parametrize("bound", [mt.tensor(1.0), np.ones(3), mt.tensor(1.0, requires_grad=True)])
def test_a_bound_of_clip_that_is_an_array_is_refused(bound):
    """Its gradient would be lost without a word."""
    for options in ({"a_min": bound}, {"a_max": bound}):
        with pytest.raises(TypeError, match=r"clip: a bound is a .*mt\.maximum and mt\.minimum"):
            mt.clip(mt.ones(3), **options)


def test_running_sums_without_an_axis_go_through_all_numbers():
    x = mt.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    np.testing.assert_array_equal(mt.cumsum(x).detach().numpy(), [1, 3, 6, 10])
    np.testing.assert_array_equal(mt.grad(mt.cumsum(x)[1], x).numpy(), [[1, 1], [0, 0]])


@pytest.mark.parametrize("values", [[1, 0], [1.0, 0.0]])
def test_logical_operations_take_booleans_only(values):
    """6 & 3 is 2 and 6 and 3 is True: numbers would be ambiguous, so they are refused."""
    x, b = mt.tensor(values), mt.tensor([True, False])
    for call in (
        lambda: mt.logical_and(b, x),
        lambda: mt.logical_and(x, b),
        lambda: mt.logical_or(b, 1),
        lambda: mt.logical_not(x),
        lambda: np.bitwise_and(b, x.data),
    ):
        with pytest.raises(TypeError, match=r"logical_\w+ joins booleans, not .*!= 0"):
            call()


def test_logical_operations_accept_single_truths():
    b = mt.tensor([True, False])
    assert mt.logical_and(b, True).numpy().tolist() == [True, False]
    assert mt.logical_or(np.bool_(True), b).numpy().tolist() == [True, True]
    assert mt.logical_not(np.array([True])).tolist() == [False]
