"""Every loss, with all reductions, class weights and ignored labels, against PyTorch's."""

import numpy as np
import pytest
from parity.against_torch import agree, close, generator, torch

import microtensor as mt
from microtensor import nn

pytestmark = pytest.mark.parity

RNG = generator(2)
F = torch.nn.functional
REDUCTIONS = ["mean", "sum", "none"]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(5,), (5, 3), ()], ids=str)
def test_losses_of_pairs(shape, reduction):
    x, y = RNG.normal(size=shape), RNG.normal(size=shape)
    p, q = RNG.uniform(0.1, 0.9, shape), RNG.uniform(0, 1, shape)
    for name, module, a, b in [
        ("mse_loss", nn.MSELoss, x, y),
        ("l1_loss", nn.L1Loss, x, y),
        ("binary_cross_entropy_with_logits", nn.BCEWithLogitsLoss, x * 4, q),
    ]:
        theirs = getattr(F, name)
        agree(
            lambda a, b: getattr(mt, name)(a, b, reduction),  # noqa: B023
            lambda a, b: theirs(a, b, reduction=reduction),  # noqa: B023
            a,
            b,
        )
        agree(
            lambda a, b: module(reduction)(a, b),  # noqa: B023
            lambda a, b: theirs(a, b, reduction=reduction),  # noqa: B023
            a,
            b,
        )
    # PyTorch's has no second derivative with respect to the target, and in that with respect to p
    # it adds 1e-12 to p (1 - p).
    agree(
        lambda p: nn.BCELoss(reduction)(p, mt.tensor(q)),
        lambda p: F.binary_cross_entropy(p, torch.tensor(q), reduction=reduction),
        p,
        second=1e-10,
    )


def test_bce_where_it_is_hopeless():
    """PyTorch's bound of the slope is the float32 next to 1e-12: 4e-9 away from ours."""
    p, y = np.array([0.0, 1.0, 1e-300]), np.array([1.0, 0.0, 1.0])
    ours, theirs = mt.tensor(p, requires_grad=True), torch.tensor(p, requires_grad=True)
    mine = mt.binary_cross_entropy(ours, mt.tensor(y))
    torchs = F.binary_cross_entropy(theirs, torch.tensor(y))
    close(mine, torchs)
    mine.backward()
    torchs.backward()
    close(ours.grad, theirs.grad, 5e-9)


@pytest.mark.parametrize("ignore_index", [-100, 1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 4), (2, 3, 2, 2)], ids=str)
def test_cross_entropy_of_labels(shape, reduction, weighted, ignore_index):
    labels = RNG.integers(0, 3, shape[:1] + shape[2:])
    labels.flat[0], labels.flat[1] = 0, 1
    weight = RNG.uniform(0.5, 2, 3) if weighted else None
    torchs = torch.tensor(weight) if weighted else None
    module = nn.CrossEntropyLoss(
        None if weight is None else mt.tensor(weight), ignore_index, reduction
    )
    agree(
        lambda x: module(x, labels),
        lambda x: F.cross_entropy(
            x, torch.tensor(labels), torchs, ignore_index=ignore_index, reduction=reduction
        ),
        RNG.normal(size=shape) * 3,
    )


def test_cross_entropy_of_one_sample():
    agree(
        lambda x: mt.cross_entropy(x, np.array(2)),
        lambda x: F.cross_entropy(x, torch.tensor(2)),
        RNG.normal(size=4),
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 4)], ids=str)
def test_cross_entropy_of_probabilities(shape, reduction):
    p = RNG.uniform(size=shape)
    p /= p.sum(axis=1, keepdims=True)
    weight = RNG.uniform(0.5, 2, 3)
    agree(
        lambda x, p: mt.cross_entropy(x, p, weight, reduction=reduction),
        lambda x, p: F.cross_entropy(x, p, torch.tensor(weight), reduction=reduction),
        RNG.normal(size=shape),
        p,
    )


def test_classes_last_is_the_same_loss():
    x, labels = RNG.normal(size=(5, 4, 3)), RNG.integers(0, 3, (5, 4))
    agree(
        lambda x: nn.CrossEntropyLoss(axis=-1)(x, labels),
        lambda x: F.cross_entropy(x.movedim(-1, 1), torch.tensor(labels)),
        x,
    )
