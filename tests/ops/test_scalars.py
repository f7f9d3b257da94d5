"""float32 stays float32, whatever kind of number stands on the other side."""

import operator

import numpy as np
import pytest

import microtensor as mt

SCALARS = [2, 2.5, True, np.float32(2.5), np.float64(2.5), np.int64(2), np.int8(2), np.bool_(True)]
OPERATORS = [
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.pow,
    mt.add,
    mt.subtract,
    mt.multiply,
    mt.divide,
    mt.power,
    mt.maximum,
    mt.minimum,
    lambda a, b: mt.where(np.array([True, False, True]), a, b),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scalar", SCALARS, ids=lambda s: f"{type(s).__name__} {s}")
def test_a_number_on_either_side_never_changes_the_dtype(scalar, dtype):
    x = mt.tensor(np.array([0.5, 1.5, 2.5], dtype), requires_grad=True)
    for operate in OPERATORS:
        for y in (operate(x, scalar), operate(scalar, x)):
            assert isinstance(y, mt.Tensor)
            assert y.dtype == dtype
            (g,) = mt.grad([y.sum()], [x], create_graph=True)
            assert g.dtype == dtype
            if g.requires_grad:
                assert mt.grad(g.sum(), x, allow_unused=True).dtype == dtype


@pytest.mark.parametrize("scalar", SCALARS[:3], ids=str)
def test_a_number_beside_an_array_of_a_device(scalar, device):
    x = device.tensor(np.array([0.5, 1.5, 2.5], np.float32), requires_grad=True)
    for operate in OPERATORS[:-1]:
        for y in (operate(x, scalar), operate(scalar, x)):
            assert y.dtype == np.float32
            assert mt.grad(y.sum(), x, allow_unused=True).dtype == np.float32


def test_numbers_alone_are_numpys():
    assert mt.exp(0.0) == 1.0
    assert mt.exp(0.0).dtype == np.float64
    assert mt.add(np.float32(1), 2.5).dtype == np.float32
    assert mt.add(1, 2).dtype.kind == "i"


def test_float64_and_float32_meet_as_in_numpy_and_each_gets_its_own_gradient():
    a = mt.tensor(np.ones(3, np.float32), requires_grad=True)
    b = mt.tensor(np.ones(3, np.float64), requires_grad=True)
    y = a * b + a / b - mt.maximum(a, b) + mt.where(np.array([True, False, True]), a, b)
    assert y.dtype == np.float64
    y.sum().backward()
    assert a.grad.dtype == np.float32
    assert b.grad.dtype == np.float64


@pytest.mark.parametrize("shape", [(), (1,), (2, 2), (0,), (0, 2)])
def test_scalars_of_results_stay_in_the_dtype(shape):
    """A rule on a 0-d array meets NumPy's scalars, which must not become float64 on the way."""
    x = mt.tensor(np.full(shape, 0.5, np.float32), requires_grad=True)
    functions = [mt.sum, mt.prod, mt.exp, mt.tanh, mt.sqrt, mt.abs, mt.relu, mt.softplus]
    if x.size:
        functions += [mt.mean, mt.var, mt.std, mt.max, mt.min, mt.logsumexp]
    for function in functions:
        y = function(x)
        assert y.dtype == np.float32
        (g,) = mt.grad([y.sum()], [x], create_graph=True)
        assert (g.dtype, g.shape) == (np.float32, shape)
        if g.requires_grad:
            h = mt.grad((g * g).sum(), x, allow_unused=True)
            assert h is None or (h.dtype, h.shape) == (np.float32, shape)
