"""Initialisers: ranges and moments, orthogonality, the host generator, what is refused."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import microtensor as mt
from microtensor.nn import init

SHAPE = (300, 200)  # fan_out, fan_in
RANDOM = {
    "uniform": (lambda t, g: init.uniform_(t, -0.5, 1.5, g), 0.5, 2 / math.sqrt(12)),
    "normal": (lambda t, g: init.normal_(t, 1.0, 2.0, g), 1.0, 2.0),
    "xavier_uniform": (lambda t, g: init.xavier_uniform_(t, 3.0, g), 0, 3 * math.sqrt(2 / 500)),
    "xavier_normal": (lambda t, g: init.xavier_normal_(t, 3.0, g), 0, 3 * math.sqrt(2 / 500)),
    "kaiming_uniform": (lambda t, g: init.kaiming_uniform_(t, generator=g), 0, math.sqrt(2 / 200)),
    "kaiming_normal": (
        lambda t, g: init.kaiming_normal_(t, mode="fan_out", nonlinearity="tanh", generator=g),
        0,
        5 / 3 / math.sqrt(300),
    ),
    "kaiming_linear": (
        lambda t, g: init.kaiming_uniform_(t, a=math.sqrt(5), generator=g),
        0,
        math.sqrt(1 / 3 / 200),
    ),
    "orthogonal": (lambda t, g: init.orthogonal_(t, generator=g), 0, 1 / math.sqrt(300)),
}


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_moments(name, dtype):
    fill, mean, std = RANDOM[name]
    tensor = mt.zeros(SHAPE, dtype=dtype, requires_grad=True)
    array = tensor.data
    assert fill(tensor, mt.Generator(0)) is tensor
    assert tensor.data is array
    assert array.dtype == dtype
    assert abs(array.mean() - mean) < 0.02 * max(std, 0.1)
    assert abs(array.std() / std - 1) < 0.02


@pytest.mark.parametrize("name", ["uniform", "xavier_uniform", "kaiming_uniform"])
def test_uniform_ones_stay_in_range_and_reach_its_ends(name):
    fill, mean, std = RANDOM[name]
    half = std * math.sqrt(3)
    values = fill(mt.zeros(SHAPE, dtype="float64"), mt.Generator(1)).numpy()
    assert mean - half <= values.min() < mean - 0.99 * half
    assert mean + 0.99 * half < values.max() <= mean + half


@given(
    shape=st.lists(st.integers(1, 6), min_size=2, max_size=4).map(tuple),
    gain=st.floats(0.1, 3),
    seed=st.integers(0, 99),
)
def test_orthogonal_is_orthogonal(shape, gain, seed):
    tensor = init.orthogonal_(mt.zeros(shape, dtype="float64"), gain, mt.Generator(seed))
    flat = tensor.numpy().reshape(shape[0], -1) / gain
    small = flat @ flat.T if flat.shape[0] <= flat.shape[1] else flat.T @ flat
    np.testing.assert_allclose(small, np.eye(len(small)), atol=1e-12)


def test_orthogonal_prefers_no_sign():
    signs = [
        np.sign(init.orthogonal_(mt.zeros((1, 1)), generator=mt.Generator(seed)).item())
        for seed in range(200)
    ]
    assert 60 < signs.count(1.0) < 140


def test_constants():
    assert np.all(init.constant_(mt.zeros((2, 3)), 0.25).numpy() == 0.25)
    assert np.all(init.ones_(mt.zeros(3)).numpy() == 1)
    assert np.all(init.zeros_(mt.ones(3)).numpy() == 0)


def test_the_seed_decides_in_both_dtypes_alike():
    one = init.normal_(mt.zeros(SHAPE), generator=mt.Generator(3)).numpy()
    two = init.normal_(mt.zeros(SHAPE, dtype="float64"), generator=mt.Generator(3)).numpy()
    np.testing.assert_array_equal(one, two.astype(np.float32))
    mt.manual_seed(3)
    np.testing.assert_array_equal(init.normal_(mt.zeros(SHAPE)).numpy(), one)


def test_faults_are_refused():
    with pytest.raises(ValueError, match="two axes"):
        init.xavier_uniform_(mt.zeros(3))
    with pytest.raises(ValueError, match="two axes"):
        init.orthogonal_(mt.zeros(3))
    with pytest.raises(ValueError, match="mode must be"):
        init.kaiming_normal_(mt.zeros((2, 2)), mode="fan")
    with pytest.raises(ValueError, match="no gain for 'swish'"):
        init.kaiming_normal_(mt.zeros((2, 2)), nonlinearity="swish")
    with pytest.raises(ValueError, match="leaf"):
        init.zeros_(mt.ones(3, requires_grad=True) * 2)


def test_filling_between_forward_and_backward_is_noticed():
    x = mt.ones(3, requires_grad=True)
    y = (x * x).sum()
    init.zeros_(x)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()
