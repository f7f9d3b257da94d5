"""float64 comes from float64 alone: integers and booleans beside float32 do not make it."""

from __future__ import annotations

import numpy as np
import pytest

import microtensor as mt

OPERATIONS = [mt.add, mt.subtract, mt.multiply, mt.divide, mt.power, mt.maximum, mt.minimum]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
@pytest.mark.parametrize("other", [np.int64, np.int32, np.uint8, np.bool_])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_integers_beside_float32_do_not_promote(operation, other, shape):
    x = mt.tensor(np.full(shape, 2.0, np.float32), requires_grad=True)
    n = mt.tensor(np.ones(shape, other))
    for y in (operation(x, n), operation(n, x)):
        assert y.dtype == np.float32
        y.sum().backward()
        assert x.grad.dtype == np.float32


def test_the_rest_of_the_operations_whose_arguments_meet():
    x = mt.ones(2, 2, requires_grad=True)
    n = mt.tensor([[1, 2], [3, 4]])
    for y in (
        x @ n,
        n @ x,
        mt.where(n > 2, x, n),
        mt.concatenate([x, n]),
        mt.stack([n, x]),
        mt.einsum("ij,jk", x, n),
    ):
        assert y.dtype == np.float32


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_float64_stays_and_wins(operation):
    x = mt.ones(2, requires_grad=True)
    y = operation(x, mt.ones(2, dtype=np.float64))
    assert y.dtype == np.float64
    y.sum().backward()
    assert x.grad.dtype == np.float32
    assert operation(mt.ones(2, dtype=np.float64), mt.tensor([1, 2])).dtype == np.float64


@pytest.mark.usefixtures("registry")
def test_an_operation_with_several_results_may_broadcast():
    @mt.primitive(broadcasts=True)
    def both(xp, a, b):
        return a + b, a * b

    both.vjp_all(lambda g, needs, a, b: (g[0] + g[1] * b, g[0] + g[1] * a))
    a, b = mt.tensor(2.0, requires_grad=True), mt.tensor(3.0, requires_grad=True)
    total, product = both(a, b)
    (total * product).backward()
    assert (a.grad.item(), b.grad.item()) == (6 + 15, 6 + 10)
