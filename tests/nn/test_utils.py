"""Clipping gradients."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import microtensor as mt
from microtensor import nn
from microtensor.nn.utils import clip_grad_norm_, clip_grad_value_


def with_gradients(arrays):
    parameters = []
    for array in arrays:
        parameter = nn.Parameter(np.zeros_like(array))
        parameter.grad = mt.tensor(array.copy())
        parameters.append(parameter)
    return parameters


@given(
    seed=st.integers(0, 99),
    max_norm=st.floats(0, 20),
    norm_type=st.sampled_from([1.0, 2.0, 3.0, math.inf]),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_the_norm_of_all_gradients_together(seed, max_norm, norm_type, dtype):
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=shape).astype(dtype) for shape in ((3, 4), (5,), ())]
    parameters = [*with_gradients(arrays), nn.Parameter(np.zeros(3))]
    flat = np.concatenate([array.ravel() for array in arrays]).astype(float)
    norm = np.linalg.norm(flat, norm_type)
    got = clip_grad_norm_(iter(parameters), max_norm, norm_type)
    assert got.shape == ()
    assert got.dtype == dtype
    assert got.item() == pytest.approx(norm, rel=1e-5)
    factor = min(1.0, max_norm / (norm + 1e-6))
    for parameter, array in zip(parameters, arrays, strict=False):
        assert parameter.grad.dtype == dtype
        np.testing.assert_allclose(parameter.grad.numpy(), array * factor, rtol=1e-4, atol=1e-7)
    assert parameters[-1].grad is None


def test_gradients_within_the_norm_keep_their_bits():
    parameter = with_gradients([np.array([0.1, 0.2, 0.3])])[0]
    before = parameter.grad.numpy().copy()
    clip_grad_norm_(parameter, 1.0)
    assert parameter.grad.numpy().tobytes() == before.tobytes()


def test_a_parameter_named_twice_is_clipped_once():
    (parameter,) = with_gradients([np.array([3.0, 4.0])])
    assert clip_grad_norm_([parameter, parameter], 1.0).item() == pytest.approx(5.0)
    np.testing.assert_allclose(parameter.grad.numpy(), [0.6, 0.8], rtol=1e-5)


def test_nothing_to_clip():
    assert clip_grad_norm_([nn.Parameter(np.ones(2))], 1.0).item() == 0.0


def test_a_norm_that_is_not_finite():
    for bad in (np.nan, np.inf):
        (parameter,) = with_gradients([np.array([1.0, bad])])
        with pytest.raises(RuntimeError, match="cannot be clipped"):
            clip_grad_norm_(parameter, 1.0, error_if_nonfinite=True)
        assert parameter.grad.numpy()[0] == 1.0


def test_values_are_clipped_in_place():
    (parameter,) = with_gradients([np.array([-3.0, 0.5, 2.0], np.float32)])
    array = parameter.grad.data
    clip_grad_value_(parameter, 1.0)
    assert parameter.grad.data is array
    assert array.tolist() == [-1.0, 0.5, 1.0]


def test_faults_are_refused():
    (parameter,) = with_gradients([np.ones(2)])
    for value in (-1.0, math.nan):
        with pytest.raises(ValueError, match="max_norm"):
            clip_grad_norm_(parameter, value)
        with pytest.raises(ValueError, match="clip_value"):
            clip_grad_value_(parameter, value)
    with pytest.raises(ValueError, match="norm_type"):
        clip_grad_norm_(parameter, 1.0, 0.0)
