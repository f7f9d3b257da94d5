"""Making tensors: dtypes, copies, shapes, the generator's state."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import microtensor as mt


def test_pythons_numbers_become_float32_and_int64_and_arrays_keep_their_dtype():
    assert mt.tensor(0.5).dtype == np.float32
    assert mt.tensor([[1.0, 2.0]]).dtype == np.float32
    assert mt.tensor([1, 2]).dtype == np.int64
    assert mt.tensor(True).dtype == np.bool_
    for dtype in (np.float64, np.float32, np.int32, np.uint8):
        assert mt.tensor(np.ones(2, dtype)).dtype == dtype


@given(st.floats(-1e3, 1e3))
def test_a_dtype_that_is_asked_for_is_not_reached_through_float32(number):
    assert mt.tensor(number, dtype="float64").item() == number
    assert mt.tensor([number], dtype=np.float64).data[0] == number


def test_a_tensor_has_memory_of_its_own():
    array = np.zeros(3)
    t = mt.tensor(array)
    again = mt.tensor(t)
    array[0] = 1
    t[1] = 2
    np.testing.assert_array_equal(t.data, [0, 2, 0])
    np.testing.assert_array_equal(again.data, [0, 0, 0])


@pytest.mark.parametrize("bad", [None, "one", [[1], [2, 3]], object(), {"a": 1}])
def test_what_is_no_number_is_refused(bad):
    with pytest.raises((TypeError, ValueError)):
        mt.tensor(bad)


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.complex128, np.float16])
def test_gradients_are_for_float32_and_float64(dtype):
    with pytest.raises(TypeError, match="float32 and float64"):
        mt.tensor([1, 0], dtype=dtype, requires_grad=True)


def test_filled_tensors():
    assert mt.zeros(2, 3).shape == mt.ones((2, 3)).shape == mt.full((2, 3), 7).shape == (2, 3)
    assert mt.zeros().shape == mt.rand().shape == mt.randn().shape == ()
    np.testing.assert_array_equal(mt.full(2, 7.0).data, [7, 7])
    np.testing.assert_array_equal(mt.arange(3).data, [0, 1, 2])
    np.testing.assert_array_equal(mt.arange(1, 2, 0.5).data, [1, 1.5])
    np.testing.assert_array_equal(mt.eye(2, 3).data, np.eye(2, 3))
    like = mt.ones_like(mt.zeros(2, dtype=np.float64))
    assert like.dtype == np.float64
    assert mt.zeros_like(like, dtype=np.float32).dtype == np.float32


@given(st.integers(0, 2**31), st.integers(0, 7))
def test_a_generator_continues_from_a_state_that_json_has_held(seed, drawn):
    generator = mt.Generator(seed)
    generator.uniform(shape=drawn)
    state = json.loads(json.dumps(generator.get_state()))
    expected = generator.normal((5,))
    other = mt.Generator(0)
    other.set_state(state)
    np.testing.assert_array_equal(other.normal((5,)), expected)


def test_the_same_seed_gives_the_same_numbers_and_sequences_of_seeds_differ():
    first = mt.Generator((1, 2, 3)).normal(4)
    np.testing.assert_array_equal(first, mt.Generator((1, 2, 3)).normal(4))
    assert not np.array_equal(first, mt.Generator((1, 3, 2)).normal(4))
    mt.manual_seed(5)
    a = mt.randn(3)
    mt.manual_seed(5)
    np.testing.assert_array_equal(a.data, mt.randn(3).data)


def test_detach_reaches_into_nestings():
    x = mt.ones(2, requires_grad=True)
    state = (x * 2, [x + 1, {"c": x - 1}], 3)
    cut = mt.detach(state)
    assert not cut[0].requires_grad
    assert not cut[1][0].requires_grad
    assert not cut[1][1]["c"].requires_grad
    assert cut[2] == 3
    assert np.shares_memory(cut[0].data, state[0].data)


def test_leaves_are_copied_and_pickled_and_results_are_not():
    x = mt.tensor([1.0, 2.0], requires_grad=True)
    for again in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert again.requires_grad
        np.testing.assert_array_equal(again.data, x.data)
        assert not np.shares_memory(again.data, x.data)
    with pytest.raises(TypeError, match="detach"):
        copy.deepcopy(x * 2)


class Foreign:
    """An array of another library, as far as NumPy can see."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array.astype(dtype or self.array.dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32])
@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_arrays_of_other_libraries_keep_their_dtype(dtype, shape):
    array = np.full(shape, 3, dtype)
    t = mt.tensor(Foreign(array))
    assert t.dtype == dtype
    np.testing.assert_array_equal(t.data, array)
    assert mt.tensor(np.float64(0.1)).dtype == np.float64
    assert mt.tensor(memoryview(np.full(3, 0.1))).dtype == np.float64


@given(
    low=st.floats(-100, 100, width=32),
    ulps=st.integers(1, 4),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 2**32 - 1),
)
def test_uniform_numbers_stay_below_the_upper_end(low, ulps, dtype, seed):
    """Also in intervals so narrow that rounding to float32 meets their ends all the time."""
    high = np.float32(low)
    for _ in range(ulps):
        high = np.nextafter(high, np.float32(np.inf))
    drawn = mt.Generator(seed).uniform(float(low), float(high), (64,), dtype)
    assert drawn.dtype == dtype
    assert (drawn >= dtype(low)).all()
    assert (drawn < high).all()


@pytest.mark.parametrize("like", [mt.zeros_like, mt.ones_like])
@pytest.mark.parametrize("given_", [[1, 2], 3.0, None, "ab"])
def test_the_shape_of_what_is_no_array_is_refused(like, given_):
    with pytest.raises(TypeError, match=r"shape of a tensor or an array, not of a \w+"):
        like(given_)
