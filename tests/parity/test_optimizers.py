"""Fifty steps of every optimizer, with all its options, against PyTorch's."""

import numpy as np
import pytest
from parity.against_torch import TOLERANCE, close, generator, torch

import microtensor as mt
from microtensor import nn, optim

pytestmark = pytest.mark.parity

RUNS = [
    ("SGD", {"lr": 0.05}),
    ("SGD", {"lr": 0.05, "momentum": 0.9}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.001, "maximize": True, "momentum": 0.5}),
    ("Adagrad", {"lr": 0.1}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.02, "weight_decay": 0.1}),
    ("Adagrad", {"lr": 0.1, "initial_accumulator_value": 0.1, "eps": 1e-7}),
    ("Adagrad", {"lr": 0.01, "maximize": True}),
    ("RMSprop", {"lr": 0.01}),
    ("RMSprop", {"lr": 0.01, "alpha": 0.9, "eps": 1e-6, "weight_decay": 0.1}),
    ("RMSprop", {"lr": 0.01, "momentum": 0.7}),
    ("RMSprop", {"lr": 0.01, "centered": True}),
    ("RMSprop", {"lr": 0.01, "centered": True, "momentum": 0.7, "maximize": True}),
    ("Adam", {"lr": 0.02}),
    ("Adam", {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.02, "amsgrad": True}),
    ("Adam", {"lr": 0.02, "amsgrad": True, "weight_decay": 0.05, "maximize": True}),
    ("Adam", {"lr": 0.01, "betas": (0.5, 0.0), "eps": 0.1}),
]
# Every hyperparameter in one group only, or another one there.
GROUPS = {
    "SGD": (
        {"momentum": 0.9, "dampening": 0.2, "lr": 0.003},
        {"weight_decay": 0.2, "momentum": 0.5, "nesterov": True},
    ),
    "Adagrad": (
        {"lr": 0.003, "lr_decay": 0.1},  # PyTorch ignores a group's initial_accumulator_value
        {"weight_decay": 0.2, "eps": 1e-3},
    ),
    "RMSprop": (
        {"lr": 0.003, "alpha": 0.9, "momentum": 0.5},
        {"weight_decay": 0.2, "centered": True, "eps": 1e-4},
    ),
    "Adam": (
        {"lr": 0.003, "betas": (0.8, 0.9), "amsgrad": True},
        {"weight_decay": 0.2, "eps": 1e-4},
    ),
}


def problem(dtype):
    """A least-squares fit of a small network; one parameter has no gradient every other step."""
    rng = generator(5)
    shapes = ((6, 4), (6,), (1, 6), (1,))
    start = [rng.normal(size=s).astype(dtype) for s in shapes]
    return start, rng.normal(size=(50, 8, 4)).astype(dtype)


def run(name, options, groups=None, maximum=None, later=(), set_to_none=True, dtype="float64"):
    start, batches = problem(dtype)
    tolerance = TOLERANCE if dtype == "float64" else 2e-5
    ours = [mt.tensor(a, requires_grad=True) for a in start]
    theirs = [torch.tensor(a, requires_grad=True) for a in start]
    parameters = (ours, theirs)
    if groups:
        parameters = [
            [{"params": ps[:2], **groups[0]}, {"params": ps[2:], **groups[1]}] for ps in parameters
        ]
    mine = getattr(optim, name)(parameters[0], **options)
    torchs = getattr(torch.optim, name)(parameters[1], **options)
    for i, batch in enumerate(batches):
        target = np.sin(batch.sum(axis=1, keepdims=True))
        for library, ps, optimizer in ((mt, ours, mine), (torch, theirs, torchs)):
            if i == 20:
                optimizer.param_groups[0].update(later)
            optimizer.zero_grad(set_to_none=set_to_none)
            w1, b1, w2, b2 = ps
            hidden = library.tanh(library.tensor(batch) @ w1.T + b1)
            out = hidden @ w2.T + (b2 if i % 2 == 0 else 0.0)
            ((out - library.tensor(target)) ** 2).mean().backward()
            if maximum is not None:
                utils = nn.utils if library is mt else torch.nn.utils
                utils.clip_grad_norm_(ps, maximum)
            optimizer.step()
        for a, b in zip(ours, theirs, strict=True):
            assert a.dtype == dtype
            close(a, b, tolerance, f"step {i}")
    moved = max(float(np.abs(p.data - a).max()) for p, a in zip(ours, start, strict=True))
    assert moved > 1e-3


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("name", "options"), RUNS, ids=lambda v: str(v))
def test_fifty_steps(name, options, dtype):
    run(name, options, dtype=dtype)


@pytest.mark.parametrize(
    ("name", "options"),
    [("SGD", {"lr": 0.05, "momentum": 0.9}), ("Adam", {"lr": 0.02, "weight_decay": 0.1})],
    ids=str,
)
def test_zeros_for_gradients_move_a_parameter_where_none_would_not(name, options):
    run(name, options, set_to_none=False)


@pytest.mark.parametrize(
    "later",
    [
        {"momentum": 0.9},
        {"momentum": 0.5, "dampening": 0.5},
        {"momentum": 0.9, "nesterov": True},
        {"lr": 0.01, "weight_decay": 0.1},
    ],
    ids=str,
)
def test_hyperparameters_changed_on_the_way(later):
    run("SGD", {"lr": 0.05}, later=later)


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("maximum", [None, 0.1], ids=["free", "clipped"])
def test_fifty_steps_in_groups(name, maximum):
    run(name, {"lr": 0.01}, GROUPS[name], maximum)


@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.0, float("inf")])
@pytest.mark.parametrize("maximum", [0.5, 100.0])
def test_clipping_by_norm(maximum, norm_type):
    rng = generator(6)
    arrays = [rng.normal(size=s) for s in ((3, 4), (5,), ())]
    ours = [mt.tensor(a, requires_grad=True) for a in arrays]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    for library, ps in ((mt, ours), (torch, theirs)):
        sum((library.sum(p * p * p) for p in ps), library.tensor(0.0)).backward()
    norm = nn.utils.clip_grad_norm_(ours, maximum, norm_type)
    close(norm, torch.nn.utils.clip_grad_norm_(theirs, maximum, norm_type))
    for a, b in zip(ours, theirs, strict=True):
        close(a.grad, b.grad)


def test_clipping_by_value():
    x = generator(7).normal(size=(4, 5))
    ours, theirs = mt.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    (ours * ours).sum().backward()
    (theirs * theirs).sum().backward()
    nn.utils.clip_grad_value_([ours], 0.7)
    torch.nn.utils.clip_grad_value_([theirs], 0.7)
    close(ours.grad, theirs.grad)
