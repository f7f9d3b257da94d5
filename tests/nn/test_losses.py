"""Losses as modules: values against their formulas, reductions, and what they refuse."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import microtensor as mt
from microtensor import nn

RNG = np.random.default_rng(0)


def plain(name, x, y):
    p = 1 / (1 + np.exp(-x))
    return {
        "MSELoss": (x - y) ** 2,
        "L1Loss": abs(x - y),
        "BCEWithLogitsLoss": -(y * np.log(p) + (1 - y) * np.log(1 - p)),
    }[name]


REDUCE = {"mean": np.mean, "sum": np.sum, "none": lambda values: values}


@pytest.mark.parametrize("reduction", REDUCE)
@pytest.mark.parametrize("name", ["MSELoss", "L1Loss", "BCEWithLogitsLoss"])
def test_elementwise_losses(name, reduction):
    x, y = RNG.normal(size=(3, 4)), RNG.uniform(size=(3, 4))
    loss = getattr(nn, name)(reduction=reduction)
    expected = REDUCE[reduction](plain(name, x, y))
    np.testing.assert_allclose(loss(mt.tensor(x), mt.tensor(y)).numpy(), expected, rtol=1e-12)
    with pytest.raises(ValueError, match=r"\(3, 4\).*\(4,\)"):
        loss(mt.tensor(x), mt.tensor(y[0]))
    with pytest.raises(ValueError, match=r"\(3, 1\).*\(3,\)"):
        loss(mt.zeros((3, 1)), mt.zeros(3))


@pytest.mark.parametrize("reduction", REDUCE)
def test_bce_of_probabilities(reduction):
    p, y = RNG.uniform(0.01, 0.99, size=(5, 2)), RNG.integers(0, 2, size=(5, 2)).astype(float)
    expected = REDUCE[reduction](-(y * np.log(p) + (1 - y) * np.log(1 - p)))
    loss = nn.BCELoss(reduction=reduction)
    np.testing.assert_allclose(loss(mt.tensor(p), mt.tensor(y)).numpy(), expected, rtol=1e-12)


def test_bce_is_bounded_at_the_ends():
    p = mt.tensor([0.0, 1.0], requires_grad=True)
    loss = nn.BCELoss(reduction="none")(p, mt.tensor([1.0, 0.0]))
    assert loss.detach().numpy().tolist() == [100.0, 100.0]
    loss.sum().backward()
    assert np.all(np.isfinite(p.grad.numpy()))


@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    classes=st.integers(2, 5),
    last=st.booleans(),
    reduction=st.sampled_from(list(REDUCE)),
    seed=st.integers(0, 99),
)
def test_cross_entropy_over_either_axis(shape, classes, last, reduction, seed):
    rng = np.random.default_rng(seed)
    scores, labels = rng.normal(size=(*shape, classes)) * 5, rng.integers(0, classes, shape)
    logs = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    losses = np.array([-logs[(*at, labels[at])] for at in np.ndindex(shape)]).reshape(shape)
    x = scores if last else np.moveaxis(scores, -1, 1)
    loss = nn.CrossEntropyLoss(reduction=reduction, axis=-1 if last else 1)
    got = loss(mt.tensor(x.copy()), mt.tensor(labels)).numpy()
    np.testing.assert_allclose(got, REDUCE[reduction](losses), rtol=1e-10, atol=1e-12)


def test_cross_entropy_weights_and_ignores():
    scores, labels = RNG.normal(size=(4, 3)), np.array([0, 2, -100, 1])
    weight = np.array([1.0, 2.0, 5.0])
    loss = nn.CrossEntropyLoss(weight=mt.tensor(weight))
    logs = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    expected = -(logs[0, 0] * 1 + logs[1, 2] * 5 + logs[3, 1] * 2) / 8
    got = loss(mt.tensor(scores), mt.tensor(labels)).item()
    assert got == pytest.approx(expected, rel=1e-12)
    assert list(loss.state_dict()) == ["weight"]
    assert list(loss.parameters()) == []


def test_labels_out_of_range_are_refused_with_value_position_and_range():
    loss = nn.CrossEntropyLoss()
    with pytest.raises(ValueError, match=r"label 3 at position \(1,\).*0 ... 2"):
        loss(mt.zeros((2, 3)), mt.tensor([0, 3]))
    with pytest.raises(ValueError, match="label -1"):
        loss(mt.zeros((2, 3)), mt.tensor([-1, 0]))
    with pytest.raises(ValueError, match=r"\(2,\)"):
        loss(mt.zeros((2, 3)), mt.tensor([[0], [1]]))


def test_reductions_are_checked_at_construction():
    for loss in (nn.MSELoss, nn.L1Loss, nn.BCELoss, nn.BCEWithLogitsLoss, nn.CrossEntropyLoss):
        with pytest.raises(ValueError, match="reduction must be one of"):
            loss(reduction="average")
        assert repr(loss(reduction="sum")) == f"{loss.__name__}(reduction='sum')"


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint64])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_labels_of_any_integer_type_mean_the_same(dtype, reduction):
    """Many positions and classes: their products do not fit the smallest types."""
    n, classes = 700, 100
    scores = RNG.normal(size=(n, classes))
    labels = RNG.integers(0, classes, n)
    weight, found = RNG.uniform(1, 2, classes), []
    for given_labels in (labels, labels.astype(dtype), mt.tensor(labels.astype(dtype))):
        x = mt.tensor(scores, requires_grad=True)
        y = mt.cross_entropy(x, given_labels, weight=weight, reduction=reduction)
        found.append((y.detach().numpy(), mt.grad(y.sum(), x).numpy()))
    for values in found[1:]:
        np.testing.assert_array_equal(values[0], found[0][0])
        np.testing.assert_array_equal(values[1], found[0][1])


@pytest.mark.parametrize("shape", [(), (1,), (2,), (4,), (3, 1), (1, 3)])
def test_a_class_weight_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"weight of shape .* must be \(3,\)"):
        mt.cross_entropy(mt.zeros((2, 3)), np.array([0, 1]), weight=mt.ones(shape))


def test_a_class_weight_that_needs_a_gradient_is_refused():
    """It would get none, and nobody would notice."""
    scores, weight = mt.zeros((2, 3), requires_grad=True), mt.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match=r"weight\.detach\(\)"):
        mt.cross_entropy(scores, np.array([0, 1]), weight=weight)


ELEMENTWISE = ["mse_loss", "l1_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits"]


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_operands_that_are_no_arrays_are_refused(name):
    t, loss = mt.tensor([0.5]), getattr(mt, name)
    for x, y in (([0.5], t), (t, [1.0]), (t, 1.0), ("0.5", t)):
        with pytest.raises(TypeError, match=rf"{name} compares tensors or arrays, not a .*tensor"):
            loss(x, y)


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_])
def test_targets_of_integers_do_not_promote(name, dtype):
    loss, target = getattr(mt, name), np.array([1, 0, 1], dtype)
    for given_target in (target, mt.tensor(target)):
        x = mt.tensor(np.array([0.25, 0.5, 0.75], np.float32), requires_grad=True)
        y = loss(x, given_target)
        assert y.dtype == np.float32
        assert y.item() == loss(x, target.astype(np.float32)).item()
        assert mt.grad(y, x).dtype == np.float32
