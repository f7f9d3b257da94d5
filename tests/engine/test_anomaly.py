"""detect_anomaly: the operation, and the user's line, that first made a NaN or an infinity."""

import inspect

import numpy as np
import pytest

import microtensor as mt
from microtensor import AnomalyError, nn


def here(offset=0):
    """This file and the caller's line, as an error should name them."""
    frame = inspect.currentframe().f_back
    return rf"test_anomaly\.py:{frame.f_lineno + offset}\b"


def leaf(*numbers):
    return mt.tensor(np.array(numbers, np.float64), requires_grad=True)


@pytest.fixture(autouse=True)
def silent():
    with np.errstate(all="ignore"):
        yield


def test_forward():
    x = leaf(1.0, 0.0)
    with mt.detect_anomaly():
        h = x * 2.0
        with pytest.raises(AnomalyError, match=r"`log`.*forward.*" + here(+1)):
            mt.log(h)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("divide", lambda x: x / (x - x)),
        ("divide", lambda x: 1.0 / (x * 0.0)),
        ("exp", lambda x: mt.exp(x * 1e4)),
        ("sqrt", lambda x: mt.sqrt(-x)),
        ("power", lambda x: (-x) ** 0.5),
        ("log1p", lambda x: mt.log1p(-x / x)),
        ("matmul", lambda x: (x * 1e200) @ (x * 1e200)),
        ("multiply", lambda x: x * 1e200 * 1e200),
    ],
)
def test_forward_by_operator_or_function(name, call):
    with mt.detect_anomaly(), pytest.raises(AnomalyError, match=f"`{name}`.*test_anomaly"):
        call(leaf(1.0, 2.0))


def test_an_operation_inside_the_library_is_named_with_the_users_line():
    layer = nn.Linear(2, 2)
    with mt.no_grad():
        layer.weight[...] = 1e38
    x = mt.tensor([[10.0, 10.0]])
    with mt.detect_anomaly(), pytest.raises(AnomalyError, match=r"affine.*" + here(+1)):
        layer(x)


def test_backward_names_the_line_of_the_forward_call():
    x = leaf(0.0, 1.0)
    with mt.detect_anomaly():
        h = x * 1.0
        y = mt.sqrt(h)
        where = here(-1)
        with pytest.raises(AnomalyError, match=r"`sqrt`.*backward.*'x'.*" + where):
            y.sum().backward()
    assert x.grad is None


def test_backward_of_a_graph_that_was_built_outside_the_block():
    x = leaf(0.0, 1.0)
    y = (x**0.5).sum()
    where = here(-1)
    with mt.detect_anomaly(), pytest.raises(AnomalyError, match=r"`power`.*" + where):
        y.backward()


def test_backward_under_create_graph():
    x = leaf(0.0, 1.0)
    with mt.detect_anomaly():
        y = mt.sqrt(x).sum()
        with pytest.raises(AnomalyError, match=r"`(sqrt|divide)`"):
            mt.grad(y, x, create_graph=True)


def test_numbers_that_come_in_bad_are_not_the_operations_fault():
    x = leaf(np.nan, 1.0)
    with mt.detect_anomaly():
        y = (x * 2.0).sum()
        with pytest.raises(AnomalyError, match="`log`"):
            mt.log(leaf(0.0))
    assert np.isnan(y.item())


def test_infinities_that_are_meant():
    """A mask of -inf before a softmax is no anomaly of the softmax."""
    scores = leaf(1.0, 2.0, 3.0)
    with mt.detect_anomaly():
        masked = mt.where(np.array([True, True, False]), scores, -np.inf)
        mt.softmax(masked)[0].backward()
    assert scores.grad.numpy()[2] == 0.0


def test_a_sound_computation_passes_and_gives_the_same(backend):
    arrays = [np.linspace(-1, 1, 6).reshape(2, 3), np.ones(3)]

    def run():
        x, w = (backend.tensor(a, requires_grad=True) for a in arrays)
        y = mt.mean(mt.softmax(mt.tanh(x * w), axis=1)[:, 0] * mt.std(x, axis=1))
        return [backend.host(g.detach()) for g in (*mt.grad([y], [x, w], create_graph=True), y)]

    plain = run()
    with mt.detect_anomaly():
        checked = run()
    for a, b in zip(plain, checked, strict=True):
        np.testing.assert_array_equal(a, b)


def test_bare_arrays_and_integers_are_left_alone():
    with mt.detect_anomaly():
        assert np.isinf(mt.exp(np.array([1e4]))).all()
        assert mt.add(mt.tensor([1]), 2).item() == 3


def test_outside_the_block_nothing_is_looked_at():
    with mt.detect_anomaly():
        pass
    assert np.isinf(mt.log(leaf(0.0)).item())


def test_an_anomaly_on_a_device(device):
    with mt.detect_anomaly(), pytest.raises(AnomalyError, match="`log`"):
        mt.log(device.tensor([0.0, 1.0], requires_grad=True))


def test_backward_where_only_the_sum_of_contributions_overflows():
    """Each share is finite: what is to blame is that they were added up."""
    x = leaf(1e-3)
    h = x * 1.0
    where = here(-1)
    y = h * 1.5e308 + h * 1.5e308
    with mt.detect_anomaly(), pytest.raises(AnomalyError, match=r"`multiply`.*sum.*" + where):
        y.backward()


@pytest.mark.parametrize("create_graph", [True, False])
def test_backward_from_an_infinite_cotangent(create_graph):
    x = leaf(1.0)
    y = mt.tanh(x)
    with mt.detect_anomaly(), pytest.raises(AnomalyError, match=r"`tanh`.*started so"):
        y.backward(np.array([np.inf]), create_graph=create_graph)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("subtract", lambda x: x - x),
        ("multiply", lambda x: x * 0.0),
        ("divide", lambda x: x / x),
        ("sin", lambda x: mt.sin(x)),
        ("sum", lambda x: mt.sum(mt.stack([x, -x]))),
    ],
)
def test_a_nan_out_of_infinite_arguments(name, call):
    """An infinity explains an infinity, but no NaN."""
    with mt.detect_anomaly(), pytest.raises(AnomalyError, match=f"`{name}`.*forward"):
        call(leaf(np.inf))
