"""Indexing: every kind of index, elements picked twice, a cost that grows with what is touched."""

import numpy as np
import pytest
from backends import Place

import microtensor as mt
from microtensor import indexed
from microtensor.testing import check_grads

KINDS = {
    "an integer": 1,
    "a negative integer": -1,
    "a NumPy integer": np.int64(1),
    "a slice": slice(1, None),
    "a negative step": slice(None, None, -2),
    "an empty slice": slice(2, 2),
    "several": (slice(None), 1, slice(None, None, -1)),
    "every axis": (1, 2, 3),
    "newaxis": (None, 1, None, ..., None),
    "an ellipsis": (..., 0),
    "nothing": (),
    "a list": [0, 0, 1],
    "an array": np.array([2, 0, 2]),
    "an array of two axes": np.array([[0, 1], [1, 1]]),
    "an empty array": np.array([], np.int64),
    "an empty list": [],
    "a 0-d array": np.array(1),
    "two arrays": (np.array([0, 1, 0]), np.array([1, 1, 1])),
    "arrays apart": (np.array([0, 0]), slice(None), np.array([3, 3])),
    "arrays and an integer": (np.array([0, 0]), 1),
    "arrays that broadcast": (np.array([[0], [1]]), np.array([1, 1])),
    "an array and newaxis": (np.array([1, 1]), None, slice(1)),
    "a mask": np.array([True, False, True]),
    "a mask of two axes": np.eye(3, dtype=bool),
    "a mask and a slice": (slice(None), np.array([True, True, False]), slice(2)),
    "a mask of nothing": np.zeros(3, bool),
    "True": True,
    "a tensor": mt.tensor([0, 0, 2]),
    "a tensor within": (slice(None), mt.tensor([0, 0, 2])),
}
X = np.arange(36.0).reshape(3, 3, 4) / 8 + 1


def as_numpys(index):
    if isinstance(index, tuple):
        return tuple(as_numpys(part) for part in index)
    return index.numpy() if isinstance(index, mt.Tensor) else index


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_index_to_the_third_derivative(kind):
    index = KINDS[kind]
    np.testing.assert_array_equal(mt.tensor(X)[index].numpy(), X[as_numpys(index)])
    check_grads(lambda x: x[index] ** 3, X, order=3)
    check_grads(lambda x: x[index] * x.sum(), X.astype(np.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_index_on_a_device(kind, device):
    index = KINDS[kind]
    x = device.tensor(X, requires_grad=True)
    y = x[index]
    np.testing.assert_array_equal(device.host(y), X[as_numpys(index)])
    y.sum().backward()
    wanted = np.zeros_like(X)
    np.add.at(wanted, as_numpys(index), 1.0)
    np.testing.assert_array_equal(device.host(x.grad), wanted)


def test_an_element_picked_twice_receives_both(backend):
    x = backend.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = x[[0, 0, 1]]
    (y * backend.tensor([10.0, 20.0, 40.0])).sum().backward()
    assert backend.host(x.grad).tolist() == [30.0, 40.0, 0.0]


def test_overlapping_slices_and_a_whole_use_add_up(backend):
    x = backend.tensor(np.ones(5), requires_grad=True)
    y = x[:3].sum() + x[2:].sum() * 10.0 + (x * 100.0).sum() + x[[1, 1]].sum() * 1000.0
    y.backward()
    assert backend.host(x.grad).tolist() == [101.0, 2101.0, 111.0, 110.0, 110.0]
    x.grad = None
    y = x[:3].sum() + (x * 100.0).sum() + x[-1] * 7.0
    (g,) = mt.grad([y], [x], create_graph=True)
    assert backend.host(g.detach()).tolist() == [101.0, 101.0, 101.0, 100.0, 107.0]


def test_indexing_something_computed_adds_into_its_own_buffer():
    """The buffer must not be the cotangent of somebody else, nor the user's seed."""
    x = mt.tensor(np.ones(4), requires_grad=True)
    h = x * 1.0
    seed = mt.tensor(np.ones(4))
    (gx,) = mt.grad([h, h[:2], h[1]], [x], [seed, mt.tensor(np.ones(2)), None])
    assert gx.numpy().tolist() == [2.0, 3.0, 1.0, 1.0]
    assert seed.numpy().tolist() == [1.0] * 4


def test_results_of_unstack_and_split_that_nobody_used():
    x = mt.tensor(np.arange(6.0).reshape(3, 2), requires_grad=True)
    rows = mt.unstack(x)
    (rows[1] * rows[1]).sum().backward()
    assert x.grad.numpy().tolist() == [[0, 0], [4, 6], [0, 0]]
    left, _ = mt.split(x, [1], axis=1)
    assert mt.grad(left.sum(), x).numpy().tolist() == [[1, 0]] * 3


class Allocations:
    """Counts the elements of all arrays that a namespace is asked to make, add or sum over."""

    def __init__(self, monkeypatch):
        self.elements = 0
        for name in ("zeros", "add"):
            monkeypatch.setattr(np, name, self.counted(getattr(np, name)))

    def counted(self, function):
        class Counted:
            __name__ = function.__name__
            at = reduce = None

            def __call__(_, *args, **options):
                result = function(*args, **options)
                self.elements += np.size(result)
                return result

        counted = Counted()
        if isinstance(function, np.ufunc):
            Counted.at, Counted.reduce = function.at, function.reduce
        return counted


def touched(steps, monkeypatch):
    with monkeypatch.context() as patch:
        x = mt.tensor(np.ones((3, steps)), requires_grad=True)
        total = mt.tensor(np.zeros(3))
        for t in range(steps):
            total = total + x[:, t] * 2.0
        counted = Allocations(patch)
        total.sum().backward()
    assert x.grad.numpy().tolist() == [[2.0] * steps] * 3
    return counted.elements


def test_the_backward_pass_of_a_loop_over_time_touches_what_it_must(monkeypatch):
    """One buffer of x's size, and each step's own elements in it: not T buffers of x's size."""
    assert touched(50, monkeypatch) == 2 * 3 * 50
    assert touched(400, monkeypatch) == 2 * 3 * 400


def test_the_buffer_of_an_index_gradient_is_made_once(monkeypatch):
    made = []
    original = indexed.add_to

    def spy(total, owned, part, shape):
        result = original(total, owned, part, shape)
        made.append(result is not total)
        return result

    x = mt.tensor(np.ones((2, 300)), requires_grad=True)
    y = sum((x[:, t] for t in range(300)), mt.tensor(np.zeros(2)))
    monkeypatch.setattr(indexed, "add_to", spy)
    y.sum().backward()
    assert sum(made) == 1
    assert len(made) == 300


def test_under_create_graph_the_parts_are_one_operation():
    x = mt.tensor(np.ones((2, 50)), requires_grad=True)
    y = sum((x[:, t] ** 2 for t in range(50)), mt.tensor(np.zeros(2)))
    (g,) = mt.grad([y.sum()], [x], create_graph=True)
    (total,) = g.place.parents  # the gradient is a copy of it
    assert total.name == "index_sum"
    assert len(total.parents) == 50
    assert mt.grad(g.sum(), x).numpy().tolist() == [[2.0] * 50] * 2


def test_an_index_out_of_range_is_numpys_error():
    x = mt.tensor([1.0, 2.0])
    with pytest.raises(IndexError):
        x[2]
    with pytest.raises(IndexError):
        x[np.array([5])]
    with pytest.raises(IndexError):
        x[0, 0]


def test_a_host_index_is_uploaded_before_it_reaches_the_device():
    place = Place("cage")
    x = place.tensor([1.0, 2.0, 3.0], requires_grad=True)
    with place.device_only():
        y = x[np.array([0, 2])] * x[[1, 1]] + mt.take(x, np.array([0, 1]))
        y.sum().backward()
    assert place.host(x.grad).tolist() == [3.0, 5.0, 2.0]


@pytest.mark.parametrize(
    "pick",
    [
        lambda x, i: x[i],
        lambda x, i: x[:, i],
        lambda x, i: x[i, i],
        lambda x, i: x[..., i],
        lambda x, i: mt.take(x, i, axis=1),
        lambda x, i: mt.take(x, i),
        lambda x, i: mt.take_along_axis(x, i[None] if i.ndim == 1 else i, axis=1),
    ],
)
def test_an_index_overwritten_before_backward_is_noticed(pick, backend):
    """The derivative goes where the index points: to other elements, once it is overwritten."""
    x = backend.tensor(np.arange(9.0).reshape(3, 3), requires_grad=True)
    for overwrite in (False, True):
        i = backend.tensor(np.array([0, 2]))
        y = pick(x, i).sum()
        if not overwrite:
            mt.grad(y, x)
            continue
        i[...] = 1
        with pytest.raises(mt.GradientStateError, match=r"shape \(\d.*changed in place"):
            y.backward()
