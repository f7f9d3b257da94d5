"""Every operation, with its first and second derivatives, against PyTorch's."""

from pathlib import Path

import numpy as np
import pytest
from parity.against_torch import agree, generator, torch

import microtensor as mt

pytestmark = pytest.mark.parity

RNG = generator(1)
F = torch.nn.functional


def normal(*shape):
    return RNG.normal(size=shape)


def positive(*shape):
    return RNG.uniform(0.5, 2.0, shape)


ELEMENTWISE = ["exp", "log", "log1p", "expm1", "sqrt", "square", "abs", "sign", "sin", "cos",
               "tanh", "sigmoid", "relu", "negative"]  # fmt: skip


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(name):
    x = positive(3, 4)
    agree(getattr(mt, name), getattr(torch, name), x)
    if name not in ("log", "sqrt"):
        agree(getattr(mt, name), getattr(torch, name), -x / 2.5)


def test_softplus():
    agree(mt.softplus, lambda x: F.softplus(x, threshold=1e9), normal(3, 4) * 5)


@pytest.mark.parametrize("shapes", [((3, 4), (4,)), ((3, 1), (1, 4)), ((), (2, 3)), ((2,), (2,))])
def test_arithmetic_with_broadcasting(shapes):
    a, b = normal(*shapes[0]), positive(*shapes[1])
    agree(lambda a, b: a * b + a / b - b - a, lambda a, b: a * b + a / b - b - a, a, b)
    agree(mt.power, torch.pow, np.abs(a) + 0.1, b)
    agree(mt.maximum, torch.maximum, a, b)
    agree(mt.minimum, torch.minimum, a, b)
    agree(
        lambda a, b: mt.where(a > 0, a * b, b * b),
        lambda a, b: torch.where(a > 0, a * b, b * b),
        a,
        b,
    )


@pytest.mark.parametrize("p", [-2, -1, 0, 1, 2, 3, 0.5, 2.0])
def test_powers_with_plain_numbers(p):
    agree(lambda x: x**p, lambda x: x**p, positive(3))
    agree(lambda x: 2.0**x, lambda x: 2.0**x, normal(3))


def test_kinks_and_ties_are_decided_as_pytorch_decides():
    zeros = np.zeros(3)
    for name in ("abs", "relu", "sign"):
        agree(getattr(mt, name), getattr(torch, name), zeros)
    agree(mt.maximum, torch.maximum, np.ones(3), np.ones(3))
    agree(mt.minimum, torch.minimum, np.ones(3), np.ones(3))
    agree(
        lambda x: mt.clip(x, -1.0, 1.0),
        lambda x: torch.clip(x, -1.0, 1.0),
        np.array([-2.0, -1.0, 0.0, 1.0, 2.0]),
    )
    ties = np.array([[1.0, 2.0, 2.0], [3.0, 3.0, 3.0]])
    agree(lambda x: mt.max(x, axis=1), lambda x: torch.amax(x, dim=1), ties)
    agree(lambda x: mt.min(x, axis=1), lambda x: torch.amin(x, dim=1), ties)


def test_clip_with_open_ends():
    for low, high in [(-0.5, 0.5), (None, 0.3), (-0.3, None)]:
        agree(
            lambda x: mt.clip(x, low, high) * x,  # noqa: B023
            lambda x: torch.clip(x, low, high) * x,  # noqa: B023
            normal(4, 5),
        )


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 2)], ids=str)
def test_reductions(axis, keepdims):
    dim = (0, 1, 2) if axis is None else axis
    x = normal(2, 3, 4)
    for ours, theirs in [
        (mt.sum, torch.sum),
        (mt.mean, torch.mean),
        (mt.logsumexp, torch.logsumexp),
        (mt.max, torch.amax),
        (mt.min, torch.amin),
    ]:
        agree(
            lambda x: ours(x * x, axis=axis, keepdims=keepdims),  # noqa: B023
            lambda x: theirs(x * x, dim=dim, keepdim=keepdims),  # noqa: B023
            x,
        )
    for ours, theirs in [(mt.var, torch.var), (mt.std, torch.std)]:
        for ddof in (0, 1):
            agree(
                lambda x: ours(x, axis=axis, keepdims=keepdims, ddof=ddof),  # noqa: B023
                lambda x: theirs(x, dim=dim, keepdim=keepdims, correction=ddof),  # noqa: B023
                x,
            )


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_along_an_axis(axis):
    x = normal(2, 3, 4)
    agree(lambda x: mt.softmax(x, axis=axis), lambda x: torch.softmax(x, dim=axis), x)
    agree(lambda x: mt.log_softmax(x, axis=axis), lambda x: torch.log_softmax(x, dim=axis), x)
    agree(lambda x: mt.cumsum(x * x, axis=axis), lambda x: torch.cumsum(x * x, dim=axis), x)
    agree(lambda x: mt.flip(x * x, axis), lambda x: torch.flip(x * x, (axis,)), x)
    x[0, 0, 0] = x[1, 1, 1] = x[0, 1, 1] = 0.0
    agree(lambda x: mt.prod(x, axis=axis), lambda x: torch.prod(x, dim=axis), x)


SHAPES = {
    "reshape": (lambda x: mt.reshape(x, 4, 6), lambda x: x.reshape(4, 6)),
    "reshape -1": (lambda x: mt.reshape(x, (3, -1)), lambda x: x.reshape(3, -1)),
    "transpose": (lambda x: mt.transpose(x, 2, 0, 1), lambda x: x.permute(2, 0, 1)),
    "swapaxes": (lambda x: mt.swapaxes(x, 0, -1), lambda x: x.swapaxes(0, -1)),
    "moveaxis": (
        lambda x: mt.moveaxis(x, (0, 1), (-1, 0)),
        lambda x: torch.moveaxis(x, (0, 1), (-1, 0)),
    ),
    "expand_dims": (lambda x: mt.expand_dims(x, 1), lambda x: x.unsqueeze(1)),
    "squeeze": (lambda x: mt.squeeze(x[:1]), lambda x: x[:1].squeeze()),
    "broadcast_to": (
        lambda x: mt.broadcast_to(x[:1], (5, 3, 4)),
        lambda x: torch.broadcast_to(x[:1], (5, 3, 4)),
    ),
    "concatenate": (
        lambda x: mt.concatenate([x, x * x, x[:, :2]], axis=1),
        lambda x: torch.cat([x, x * x, x[:, :2]], 1),
    ),
    "stack": (lambda x: mt.stack([x, x * x], axis=-1), lambda x: torch.stack([x, x * x], -1)),
    "split": (lambda x: mt.split(x, 2, axis=2)[1], lambda x: torch.chunk(x, 2, 2)[1]),
    "split at": (lambda x: mt.split(x, [1], axis=1), lambda x: torch.split(x, [1, 2], 1)),
    "unstack": (lambda x: mt.unstack(x, 1)[::2], lambda x: torch.unbind(x, 1)[::2]),
    "pad": (
        lambda x: mt.pad(x, ((1, 2), (0, 0), (0, 1)), 1.5),
        lambda x: F.pad(x, (0, 1, 0, 0, 1, 2), value=1.5),
    ),
    "astype": (lambda x: x.astype(np.float64), lambda x: x.double()),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name):
    ours, theirs = SHAPES[name]

    def squared(f):
        return lambda x: [y**2 for y in (f(x) if isinstance(f(x), (tuple, list)) else [f(x)])]

    agree(squared(ours), squared(theirs), normal(2, 3, 4))


INDICES = {
    "integer": 1,
    "slices": (slice(1, None), slice(None, None, 2)),
    "newaxis and ellipsis": (None, ..., 1),
    "repeated": np.array([0, 0, 1]),
    "two arrays": (np.array([0, 1, 1]), np.array([2, 2, 2])),
    "apart": (np.array([0, 1]), slice(None), np.array([3, 0])),
    "mask": np.array([True, False]),
}


@pytest.mark.parametrize("name", INDICES)
def test_indexing(name):
    index = INDICES[name]
    parts = index if isinstance(index, tuple) else (index,)
    theirs = tuple(torch.tensor(p) if isinstance(p, np.ndarray) else p for p in parts)
    agree(lambda x: x[index] ** 2, lambda x: x[theirs] ** 2, normal(2, 3, 4))


def test_take():
    rows, along = np.array([2, 0, 0]), RNG.integers(0, 3, (2, 5, 4))
    x = normal(2, 3, 4)
    agree(
        lambda x: mt.take(x, rows, axis=1) ** 2,
        lambda x: torch.index_select(x, 1, torch.tensor(rows)) ** 2,
        x,
    )
    agree(
        lambda x: mt.take_along_axis(x, along, axis=1) ** 2,
        lambda x: torch.take_along_dim(x, torch.tensor(along), 1) ** 2,
        x,
    )


PRODUCTS = [
    ((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 2)), ((2, 3), (3, 4)), ((5, 2, 3), (3, 4)),
    ((5, 2, 3), (5, 3, 4)), ((3,), (5, 3, 4)), ((5, 2, 3), (3,)), ((2, 3), (5, 3, 4)),
    ((1, 2, 3), (5, 3, 4)),
]  # fmt: skip


@pytest.mark.parametrize("shapes", PRODUCTS, ids=str)
def test_matmul(shapes):
    agree(mt.matmul, torch.matmul, normal(*shapes[0]), normal(*shapes[1]))


def test_linear_and_outer():
    agree(mt.linear, F.linear, normal(5, 2, 3), normal(4, 3), normal(4))
    agree(mt.linear, F.linear, normal(2, 3), normal(4, 3))
    agree(mt.outer, torch.outer, normal(3), normal(4))


EINSUMS = {
    "ij,jk->ik": ((2, 3), (3, 4)),
    "ij->j": ((2, 3),),
    "ij->": ((2, 3),),
    "ii->i": ((3, 3),),
    "ii": ((3, 3),),
    "bij,bjk,k->bi": ((2, 3, 4), (2, 4, 5), (5,)),
    "...ij,jk->...ik": ((2, 2, 3), (3, 4)),
    "ij,kj": ((2, 3), (4, 3)),
    "i,i->i": ((3,), (3,)),
    "ij,k->i": ((2, 3), (4,)),
}


@pytest.mark.parametrize("subscripts", EINSUMS)
def test_einsum(subscripts):
    arrays = [normal(*shape) for shape in EINSUMS[subscripts]]
    agree(
        lambda *xs: mt.einsum(subscripts, *xs), lambda *xs: torch.einsum(subscripts, *xs), *arrays
    )


def test_this_file_leaves_no_operation_out():
    """What is compared here, by name; the rest has no counterpart or no numbers of its own."""
    text = Path(__file__).read_text(encoding="utf-8")
    elsewhere = {
        "add", "subtract", "multiply", "divide",  # as operators
        "getitem",  # as []
        "equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "argmax",
        "logical_and", "logical_or", "logical_not",
        "mse_loss", "l1_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits",
        "cross_entropy",  # in test_losses.py
    }  # fmt: skip
    for name in set(mt.ops.__all__) - elsewhere:
        assert f"mt.{name}" in text or f'"{name}"' in text, name
