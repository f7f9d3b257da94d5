"""The gradient of an embedding with many indices: rows that were sorted first."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import microtensor as mt
from microtensor import backend, nn


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([1, 3, 50, 40_000]),
    padded=st.sampled_from([0.0, 0.2, 0.6, 1.0]),
    negative=st.booleans(),
    kind=st.sampled_from(["int64", "int32", "uint8"]),
)
def test_rows_receive_all_that_was_picked(seed, size, padded, negative, kind):
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, min(size, 256), (30, 20))
    rows[rng.random(rows.shape) < padded] = 0
    if negative and kind != "uint8":
        rows = np.where(rng.random(rows.shape) < 0.5, rows - size, rows)
    values = rng.normal(size=(30, 20, 3))
    start = rng.normal(size=(size, 3))
    total, expected = start.copy(), start.copy()
    assert rows.size > backend._MANY_ROWS
    backend.scatter_add(np, total, (rows.astype(kind),), values)
    np.add.at(expected, rows, values)
    np.testing.assert_allclose(total, expected, rtol=0, atol=1e-12 * max(1, rows.size))


@pytest.mark.parametrize("count", [3, 300])
def test_the_layers_gradient_is_the_sum_over_its_uses(count):
    layer = nn.Embedding(7, 2, dtype="float64")
    ids = np.random.default_rng(0).integers(0, 7, (count, 2))
    mt.sum(layer(ids) * np.arange(1.0, 3.0)).backward()
    uses = np.bincount(ids.ravel(), minlength=7)
    np.testing.assert_allclose(layer.weight.grad.numpy(), np.outer(uses, [1.0, 2.0]))
