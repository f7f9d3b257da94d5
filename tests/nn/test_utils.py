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


@pytest.mark.parametrize("norm_type", [0.5, 1.0, 2.0, 3.0, math.inf])
@given(
    seed=st.integers(0, 99),
    max_norm=st.floats(0, 20),
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


@pytest.mark.parametrize("norm_type", [2.0, math.inf])
def test_nothing_to_clip(norm_type):
    assert clip_grad_norm_([nn.Parameter(np.ones(2))], 1.0, norm_type).item() == 0.0
    empty = with_gradients([np.zeros((0, 3))])
    assert clip_grad_norm_(empty, 1.0, norm_type).item() == 0.0
    some = with_gradients([np.zeros((0, 3)), np.array([3.0, -4.0])])
    assert clip_grad_norm_(some, 1.0, norm_type).item() == pytest.approx(norm_of(norm_type))
    np.testing.assert_allclose(
        some[1].grad.numpy(), [3 / norm_of(norm_type), -4 / norm_of(norm_type)], rtol=1e-6
    )


def norm_of(norm_type):
    return 5.0 if norm_type == 2.0 else 4.0


@given(seed=st.integers(0, 99), scale=st.sampled_from([1e-6, 1.0, 1e6]), share=st.floats(0.01, 2))
def test_clipping_keeps_the_direction_and_reaches_the_norm(seed, scale, share):
    rng = np.random.Generator(np.random.Philox(seed))
    arrays = [scale * rng.normal(size=shape) for shape in ((3, 4), (5,), (), (0, 2))]
    flat = np.concatenate([array.ravel() for array in arrays])
    norm = float(np.linalg.norm(flat))
    parameters = with_gradients(arrays)
    assert clip_grad_norm_(parameters, share * norm).item() == pytest.approx(norm, rel=1e-12)
    after = np.concatenate([p.grad.numpy().ravel() for p in parameters])
    factor = min(1.0, share * norm / (norm + 1e-6))
    np.testing.assert_allclose(after, factor * flat, rtol=1e-12)
    assert np.linalg.norm(after) <= share * norm * (1 + 1e-12)


def test_clipping_stays_on_its_backend(backend):
    arrays = [np.array([3.0, -4.0]), np.array(12.0)]
    for norm_type, norm in ((1.0, 19.0), (2.0, 13.0), (math.inf, 12.0)):
        parameters = [nn.Parameter(backend.array(np.zeros_like(array))) for array in arrays]
        for parameter, array in zip(parameters, arrays, strict=True):
            parameter.grad = backend.tensor(array.copy())
        with backend.device_only():
            total = clip_grad_norm_(parameters, 1.0, norm_type)
            clip_grad_value_(parameters, 0.5)
        assert backend.host(total) == pytest.approx(norm)
        for parameter, array in zip(parameters, arrays, strict=True):
            wanted = np.clip(array / norm, -0.5, 0.5)
            np.testing.assert_allclose(backend.host(parameter.grad), wanted, rtol=1e-6)


@pytest.mark.parametrize(
    "clip", [lambda p: clip_grad_norm_(p, 1.0), lambda p: clip_grad_value_(p, 1)]
)
def test_clipping_a_gradient_that_a_graph_needs_is_noticed(clip):
    (parameter,) = with_gradients([np.array([3.0, 4.0])])
    x = mt.ones(2, dtype="float64", requires_grad=True)
    loss = (x * parameter.grad).sum()
    clip(parameter)
    with pytest.raises(mt.GradientStateError, match="changed in place"):
        loss.backward()


def test_a_norm_that_is_not_finite():
    for bad in (np.nan, np.inf):
        (parameter,) = with_gradients([np.array([1.0, bad])])
        with pytest.raises(RuntimeError, match="cannot be clipped"):
            clip_grad_norm_(parameter, 1.0, error_if_nonfinite=True)
        assert parameter.grad.numpy()[0] == 1.0
        with np.errstate(invalid="ignore"):
            assert not np.isfinite(clip_grad_norm_(parameter, 1.0).item())  # told, and no error
    (parameter,) = with_gradients([np.array([3.0, 4.0])])
    assert clip_grad_norm_(parameter, 1.0, error_if_nonfinite=True).item() == pytest.approx(5.0)


def test_values_are_clipped_in_place():
    (parameter,) = with_gradients([np.array([-3.0, 0.5, 2.0], np.float32)])
    array = parameter.grad.data
    clip_grad_value_(parameter, 1.0)
    assert parameter.grad.data is array
    assert array.tolist() == [-1.0, 0.5, 1.0]
    clip_grad_value_([parameter], 0.25)
    assert array.tolist() == [-0.25, 0.25, 0.25]
    clip_grad_value_([parameter], 0)
    assert array.tolist() == [0.0, 0.0, 0.0]


def test_faults_are_refused():
    (parameter,) = with_gradients([np.ones(2)])
    for value in (-1.0, math.nan):
        with pytest.raises(ValueError, match="max_norm"):
            clip_grad_norm_(parameter, value)
        with pytest.raises(ValueError, match="clip_value"):
            clip_grad_value_(parameter, value)
    for norm_type in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="norm_type"):
            clip_grad_norm_(parameter, 1.0, norm_type)
    clip_grad_norm_(parameter, 0.0)
    assert parameter.grad.numpy().tolist() == [0.0, 0.0]
