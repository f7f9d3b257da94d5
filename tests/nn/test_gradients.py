"""All derivatives of layers, activations and losses as modules: their parameters are inputs too.

Recurrent layers: tests/recurrence/test_gradients.py.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import microtensor as mt
from microtensor import nn
from microtensor.testing import check_grads
from microtensor.testing.strategies import arrays, labels, shapes

seeds = st.integers(0, 2**32 - 1)
counts = st.integers(1, 5)


def philox(seed):
    return np.random.Generator(np.random.Philox(seed))


@given(lead=shapes(), inputs=counts, outputs=counts, bias=st.booleans(), seed=seeds)
def test_linear(lead, inputs, outputs, bias, seed):
    layer = nn.Linear(inputs, outputs, bias, dtype="float64", generator=mt.Generator(seed))
    report = check_grads(layer, philox(seed).normal(size=(*lead, inputs)), order=2, rng=seed)
    assert report.wrt == ((0, "weight", "bias") if bias else (0, "weight"))


@given(indices=shapes().flatmap(lambda shape: labels(shape, 4)), width=counts, seed=seeds)
def test_embedding(indices, width, seed):
    """Rows that are named several times, and rows that are not."""
    layer = nn.Embedding(4, width, dtype="float64", generator=mt.Generator(seed))
    assert check_grads(layer, indices, order=2, rng=seed).wrt == ("weight",)
    padded = nn.Embedding(5, width, padding_idx=-1, dtype="float64")  # a row that nobody names
    assert check_grads(padded, indices, order=2, rng=seed).wrt == ("weight",)


class Seeded(nn.Module):
    """The same masks in every call."""

    def __init__(self, module, generator):
        self.module = module
        self.generator = generator

    def forward(self, *inputs):
        self.generator.manual_seed(5)
        return self.module(*inputs)


@given(x=arrays(shapes()), p=st.sampled_from([0.0, 0.3, 0.5, 1.0]), seed=seeds)
def test_dropout_with_a_fixed_mask(x, p, seed):
    generator = mt.Generator(0)
    check_grads(Seeded(nn.Dropout(p, generator=generator), generator), x, order=2, rng=seed)


@pytest.mark.parametrize("module", [nn.Tanh(), nn.Sigmoid(), nn.ReLU()], ids=repr)
@given(x=arrays(shapes()), seed=seeds)
def test_activations(module, x, seed):
    check_grads(module, x, order=2, rng=seed)


@pytest.mark.parametrize(
    ("loss", "predictions", "targets"),
    [
        (nn.MSELoss, "real", "real"),
        (nn.L1Loss, "real", "real"),
        (nn.BCELoss, "unit", "unit"),
        (nn.BCEWithLogitsLoss, "real", "unit"),
    ],
)
@given(data=st.data(), reduction=st.sampled_from(["mean", "sum", "none"]), seed=seeds)
def test_losses_of_pairs(loss, predictions, targets, data, reduction, seed):
    """Gradients flow into the target too."""
    shape = data.draw(shapes(min_side=1))
    x, y = data.draw(arrays([shape, shape], domain=[predictions, targets]))
    report = check_grads(loss(reduction), x, y, order=2, rng=seed)
    assert report.wrt == (0, 1)


@given(
    shape=shapes(min_dims=1, min_side=1),
    classes=st.integers(2, 5),
    last=st.booleans(),
    weighted=st.booleans(),
    reduction=st.sampled_from(["mean", "sum", "none"]),
    data=st.data(),
    seed=seeds,
)
def test_cross_entropy(shape, classes, last, weighted, reduction, data, seed):
    """Class 0 is ignored, and one label is not of it."""
    rng = philox(seed)
    x, target = rng.normal(size=(*shape, classes)), data.draw(labels(shape, classes))
    target.flat[0] = 1
    weight = mt.tensor(rng.uniform(0.5, 2.0, classes)) if weighted else None
    loss = nn.CrossEntropyLoss(weight, 0, reduction, axis=-1 if last else 1)
    scores = x if last else np.ascontiguousarray(np.moveaxis(x, -1, 1))
    report = check_grads(loss, scores, target, order=2, rng=seed)
    assert report.wrt == (0,)


def network(dtype):
    return nn.Sequential(
        nn.Embedding(6, 4, dtype=dtype),
        nn.Linear(4, 5, dtype=dtype),
        nn.Tanh(),
        nn.ModuleList([nn.Linear(5, 3, dtype=dtype)])[0],
        nn.Sigmoid(),
    )


class WithLoss(nn.Module):
    """A network and what it is to be judged by, as one module."""

    def __init__(self, model, loss):
        self.model = model
        self.loss = loss

    def forward(self, x, target):
        return self.loss(self.model(x), target)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_whole_network_on_both_backends(dtype, backend):
    rng = philox(1)
    with backend():
        model = network(dtype)
        indices = backend.tensor(rng.integers(0, 6, (4, 2)))
        target = backend.tensor(rng.uniform(0.1, 0.9, (4, 2, 3)), dtype)
        for loss in (nn.MSELoss(), nn.BCELoss("sum"), nn.L1Loss("none")):
            report = check_grads(WithLoss(model, loss), indices, target)
            assert report.wrt == (1, *[f"model.{name}" for name, _ in model.named_parameters()])
        scores = WithLoss(model, nn.CrossEntropyLoss(axis=-1))
        check_grads(scores, indices, backend.tensor(rng.integers(0, 3, (4, 2))))


def test_second_derivatives_of_a_whole_network():
    rng = philox(2)
    indices, target = rng.integers(0, 6, (4, 2)), rng.uniform(0.1, 0.9, (4, 2, 3))
    check_grads(WithLoss(network("float64"), nn.BCEWithLogitsLoss()), indices, target, order=2)


def test_a_parameter_in_two_places_gets_both_contributions():
    layer = nn.Linear(3, 3, dtype="float64")
    twice = nn.Sequential(layer, nn.Tanh(), nn.Linear(3, 3, bias=False, dtype="float64"))
    twice[2].weight = layer.weight
    report = check_grads(twice, philox(3).normal(size=(4, 3)), order=2)
    assert report.wrt == (0, "0.weight", "0.bias")


def test_frozen_parameters_get_nothing():
    layer = nn.Linear(3, 2, dtype="float64")
    layer.bias.requires_grad_(False)
    layer(mt.tensor(philox(4).normal(size=(4, 3)))).sum().backward()
    assert layer.bias.grad is None
    assert layer.weight.grad is not None
