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


# What each function draws, as (what the generator gives) * factor + shift; of shape (6, 4, 5),
# where fan_in is 4 * 5 and fan_out 6 * 5. With the defaults, and with every argument given.
DRAWN = [
    (init.uniform_, {}, "uniform", 1.0, 0.0),
    (init.uniform_, {"a": -3.0, "b": 1.0}, "uniform", 4.0, -3.0),
    (init.normal_, {}, "normal", 1.0, 0.0),
    (init.normal_, {"mean": 5.0, "std": 0.5}, "normal", 0.5, 5.0),
    (init.xavier_uniform_, {}, "symmetric", math.sqrt(6 / 50), 0.0),
    (init.xavier_uniform_, {"gain": 3.0}, "symmetric", 3 * math.sqrt(6 / 50), 0.0),
    (init.xavier_normal_, {}, "normal", math.sqrt(2 / 50), 0.0),
    (init.xavier_normal_, {"gain": 3.0}, "normal", 3 * math.sqrt(2 / 50), 0.0),
    (init.kaiming_uniform_, {}, "symmetric", math.sqrt(3 * 2 / 20), 0.0),
    (init.kaiming_uniform_, {"a": 2.0}, "symmetric", math.sqrt(3 * 2 / 5 / 20), 0.0),
    (init.kaiming_uniform_, {"mode": "fan_out"}, "symmetric", math.sqrt(3 * 2 / 30), 0.0),
    (init.kaiming_uniform_, {"nonlinearity": "linear"}, "symmetric", math.sqrt(3 / 20), 0.0),
    (init.kaiming_normal_, {}, "normal", math.sqrt(2 / 20), 0.0),
    (init.kaiming_normal_, {"a": 2.0}, "normal", math.sqrt(2 / 5 / 20), 0.0),
    (init.kaiming_normal_, {"mode": "fan_out"}, "normal", math.sqrt(2 / 30), 0.0),
    (init.kaiming_normal_, {"nonlinearity": "tanh"}, "normal", 5 / 3 / math.sqrt(20), 0.0),
]


@pytest.mark.parametrize(("fill", "options", "kind", "factor", "shift"), DRAWN)
def test_every_number_is_the_generators_scaled(fill, options, kind, factor, shift):
    shape, seed = (6, 4, 5), 11
    got = fill(mt.zeros(shape, dtype="float64"), **options, generator=mt.Generator(seed)).numpy()
    if kind == "normal":
        drawn = mt.Generator(seed).normal(shape, "float64")
    else:
        low = 0.0 if kind == "uniform" else -1.0
        drawn = mt.Generator(seed).uniform(low, 1.0, shape, "float64")
    np.testing.assert_allclose(got, factor * drawn + shift, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("arguments", "gain"),
    [
        (("linear",), 1.0),
        (("sigmoid",), 1.0),
        (("tanh",), 5 / 3),
        (("relu",), math.sqrt(2)),
        (("selu",), 3 / 4),
        (("leaky_relu",), math.sqrt(2 / (1 + 0.01**2))),
        (("leaky_relu", 0.0), math.sqrt(2)),
        (("leaky_relu", 1.0), 1.0),
        (("leaky_relu", -3.0), math.sqrt(1 / 5)),
    ],
)
def test_gains(arguments, gain):
    assert init.calculate_gain(*arguments) == pytest.approx(gain, rel=1e-14)


def test_arrays_are_filled_where_they_are(backend):
    for dtype in ("float32", "float64"):
        with backend():
            tensor = mt.zeros((3, 2), dtype=dtype, requires_grad=True)
        array = tensor.data
        for fill in (init.uniform_, init.orthogonal_, init.xavier_normal_, init.ones_):
            assert fill(tensor) is tensor
            assert tensor.data is array
            assert array.dtype == dtype
        assert backend.host(tensor).tolist() == [[1.0, 1.0]] * 3
        assert tensor.requires_grad


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
    with pytest.raises(ValueError, match=r"known activations: leaky_relu, linear, relu, selu"):
        init.calculate_gain("swish")
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
