"""Losses: labels and probabilities at their limits, what is refused, and dtypes that differ."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import microtensor as mt

SCORES = np.array([[1.0, 2.0, 0.5], [0.25, -1.0, 3.0]])
LOGS = SCORES - np.log(np.exp(SCORES).sum(1, keepdims=True))


# -- cross-entropy: labels


def test_a_label_to_be_ignored_counts_for_nothing_with_and_without_weights():
    x = mt.tensor(SCORES, requires_grad=True)
    for weight in (None, np.ones(3)):
        loss = mt.cross_entropy(x, np.array([-100, 2]), weight)
        assert loss.item() == pytest.approx(-LOGS[1, 2], rel=1e-14)
        g = mt.grad(loss, x).numpy()
        np.testing.assert_array_equal(g[0], 0)
        np.testing.assert_allclose(g[1], np.exp(LOGS[1]) - [0, 0, 1], atol=1e-15)


@given(order=st.permutations(range(3)), axis=st.integers(0, 2), values=st.data())
def test_cross_entropy_is_the_same_in_whatever_order_the_scores_lie(order, axis, values):
    rng = np.random.default_rng(values.draw(st.integers(0, 99)))
    scores = rng.standard_normal((2, 3, 4))
    labels = rng.integers(0, scores.shape[axis], np.delete(scores.shape, axis))
    reduction = values.draw(st.sampled_from(["mean", "sum", "none"]))
    laid = scores.transpose(order).copy().transpose(np.argsort(order))
    found = []
    for array in (scores, laid):
        x = mt.tensor(array, requires_grad=True)
        losses = mt.cross_entropy(x, labels, axis=axis, reduction=reduction)
        found.append((losses.detach().numpy(), mt.grad(losses.sum(), x).numpy()))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-15)


def test_a_label_to_be_ignored_may_be_one_of_the_classes_or_any_other_number():
    for ignore in (0, 2, 3, 100, -1):
        labels = np.array([ignore, 1])
        loss = mt.cross_entropy(mt.tensor(SCORES), labels, ignore_index=ignore)
        assert loss.item() == pytest.approx(-LOGS[1, 1], rel=1e-14)


def test_what_is_not_the_label_to_be_ignored_is_out_of_range():
    for wrong in (100, -101, -99, 3, -1):
        with pytest.raises(ValueError, match=f"label {wrong} at position"):
            mt.cross_entropy(mt.tensor(SCORES), np.array([0, wrong]))


def test_a_single_label_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"label 3 at position \(0,\)"):
        mt.cross_entropy(mt.tensor(SCORES[:1]), np.array([3]))


def test_with_one_class_a_label_may_be_ignored():
    loss = mt.cross_entropy(mt.zeros((2, 1)), np.array([0, 7]), ignore_index=7, reduction="none")
    assert loss.data.tolist() == [0, 0]


@pytest.mark.parametrize("label", [2, np.array(2), np.uint8(2), mt.tensor(2)], ids=repr)
def test_scores_of_one_position_need_no_axis(label):
    loss = mt.cross_entropy(mt.tensor(SCORES[0]), label)
    assert loss.item() == pytest.approx(-LOGS[0, 2], rel=1e-14)


def test_a_list_of_one_label_is_not_one_label():
    with pytest.raises(ValueError, match=r"need labels of shape \(\), got \(1,\)"):
        mt.cross_entropy(mt.tensor(SCORES[0]), [2])


@pytest.mark.parametrize("weight", [None, np.array([1.0, 1.0, 1.0])])
def test_labels_may_be_a_list(weight):
    loss = mt.cross_entropy(mt.tensor(SCORES), [1, 0], weight)
    assert loss.item() == pytest.approx(-(LOGS[0, 1] + LOGS[1, 0]) / 2, rel=1e-14)


def test_labels_and_weights_may_be_arrays_of_another_backend_than_the_scores(device):
    labels, weight = np.array([1, 0]), np.array([2.0, 3.0, 4.0])
    expected = mt.cross_entropy(mt.tensor(SCORES), labels, weight).item()
    for given_labels in (labels, device.array(labels), device.tensor(labels), mt.tensor(labels)):
        for given_weight in (weight, device.array(weight), device.tensor(weight)):
            loss = mt.cross_entropy(device.tensor(SCORES), given_labels, given_weight)
            assert device.host(loss) == pytest.approx(expected, rel=1e-14)


def test_the_loss_of_no_positions_is_zero():
    x = mt.tensor(np.zeros((0, 3)), requires_grad=True)
    labels = np.zeros(0, int)
    for reduction in ("mean", "sum"):
        loss = mt.cross_entropy(x, labels, reduction=reduction)
        assert loss.item() == 0
        assert mt.grad(loss, x).shape == (0, 3)
    assert mt.cross_entropy(x, labels, reduction="none").shape == (0,)
    assert mt.cross_entropy(x, labels, ignore_index=1, reduction="sum").item() == 0


@pytest.mark.parametrize("axis", [2, 3, -3])
def test_an_axis_out_of_range_is_refused(axis):
    with pytest.raises(ValueError, match=f"axis {axis} is out of range for shape"):
        mt.cross_entropy(mt.tensor(SCORES), np.array([0, 1]), axis=axis)


def test_a_gradient_that_is_recorded_is_the_same_as_one_that_is_not():
    """The first comes from the composite, the second from the fused operation's own rule."""
    x = mt.tensor(SCORES, requires_grad=True)
    labels, weight = np.array([2, -100]), np.array([0.5, 2.0, 3.0])
    for axis, some in ((1, labels), (0, np.array([1, 0, 1]))):
        for reduction in ("mean", "sum", "none"):
            loss = mt.cross_entropy(
                x, some, weight[: x.shape[axis]], axis=axis, reduction=reduction
            )
            cotangent = mt.tensor(np.arange(1.0, 1 + loss.size).reshape(loss.shape))
            one = mt.grad(loss, x, cotangent, retain_graph=True)
            other = mt.grad(loss, x, cotangent, create_graph=True)
            np.testing.assert_allclose(other.detach().numpy(), one.numpy(), rtol=1e-14, atol=1e-16)


# -- cross-entropy: probabilities


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("weighted", [False, True])
def test_probabilities_as_targets(axis, weighted):
    scores, logs = (SCORES, LOGS) if axis == 1 else (SCORES.T, LOGS.T)
    p = np.array([[0.25, 0.25, 0.5], [1.0, 0.0, 0.0]])
    p = p if axis == 1 else p.T
    weight = np.array([1.0, 2.0, 4.0]) if weighted else None
    factors = 1.0 if weight is None else np.expand_dims(weight, 1 - axis)
    loss = mt.cross_entropy(mt.tensor(scores), p, weight, axis=axis, reduction="none")
    np.testing.assert_allclose(loss.numpy(), -(p * logs * factors).sum(axis), rtol=1e-14)


def test_probabilities_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"probabilities: prediction of shape \(2, 3\)"):
        mt.cross_entropy(mt.tensor(SCORES), np.ones((2, 1)))


# -- binary cross-entropy


@pytest.mark.parametrize("wrong", [-0.25, 1.25, 1.75, -1.0, np.nan])
def test_what_is_no_probability_is_refused_in_tensors_and_in_arrays(wrong):
    p, target = np.array([0.5, wrong]), np.array([1.0, 0.0])
    for each in (p, mt.tensor(p)):
        with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
            mt.binary_cross_entropy(each, target)


def test_the_ends_of_the_interval_are_probabilities():
    loss = mt.binary_cross_entropy(mt.tensor([0.0, 1.0]), np.array([0.0, 1.0]))
    assert loss.item() == 0


def test_a_probability_that_is_tiny_is_bounded_as_zero_is():
    p = mt.tensor(np.array([1e-300, 1e-30]))
    losses = mt.binary_cross_entropy(p, np.ones(2), "none").numpy()
    np.testing.assert_allclose(losses, [100, -np.log(1e-30)], rtol=1e-14)


# -- dtypes


@pytest.mark.parametrize(
    "name", ["mse_loss", "l1_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits"]
)
def test_a_target_of_more_precision_makes_the_loss_more_precise_and_each_gets_its_own_gradient(
    name,
):
    x = mt.tensor(np.array([0.25, 0.75], np.float32), requires_grad=True)
    target = mt.tensor(np.array([1 / 3, 2 / 3]), requires_grad=True)
    loss = getattr(mt, name)(x, target)
    assert loss.dtype == np.float64
    assert [g.dtype for g in mt.grad(loss, [x, target])] == [np.float32, np.float64]


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.bool_])
def test_a_target_of_integers_takes_the_predictions_dtype_also_half_precision(kind):
    x = mt.tensor(np.array([0.25, 0.75], np.float16))
    assert mt.mse_loss(x, np.array([0, 1], kind)).dtype == np.float16
