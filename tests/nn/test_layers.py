"""Linear, Embedding, Dropout and the activation modules."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import microtensor as mt
from microtensor import nn
from microtensor.nn import functional as F


def host(tensor):
    return tensor.detach().numpy()


@given(
    lead=st.lists(st.integers(1, 4), max_size=3).map(tuple),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    bias=st.booleans(),
)
def test_linear_is_a_product_over_the_last_axis(lead, sizes, bias):
    layer = nn.Linear(*sizes, bias=bias, dtype="float64")
    x = mt.randn((*lead, sizes[0]), dtype="float64", requires_grad=True)
    y = layer(x)
    assert y.shape == (*lead, sizes[1])
    for at in itertools.product(*map(range, lead)):
        expected = host(layer.weight) @ host(x)[at] + (host(layer.bias) if bias else 0)
        np.testing.assert_allclose(host(y)[at], expected, atol=1e-12)
    cotangent = np.random.default_rng(0).normal(size=y.shape)
    (y * cotangent).sum().backward()
    flat, into = cotangent.reshape(-1, sizes[1]), host(x).reshape(-1, sizes[0])
    np.testing.assert_allclose(host(layer.weight.grad), flat.T @ into, atol=1e-12)
    np.testing.assert_allclose(host(x.grad), cotangent @ host(layer.weight), atol=1e-12)
    if bias:
        np.testing.assert_allclose(host(layer.bias.grad), flat.sum(0), atol=1e-12)
    else:
        assert layer.bias is None


def test_linear_starts_within_pytorchs_bounds():
    layer = nn.Linear(25, 400, generator=mt.Generator(0))
    for p in layer.parameters():
        assert p.dtype == np.float32
        assert 0.19 < abs(host(p)).max() <= 0.2
        assert abs(host(p).mean()) < 0.02


def test_linear_refuses_wrong_shapes_and_dtypes():
    layer = nn.Linear(3, 2)
    with pytest.raises(ValueError, match=r"\(4, 2\).*\(2, 3\)"):
        layer(mt.zeros((4, 2)))
    with pytest.raises(TypeError, match=r"input is float64 and the weight float32.*astype"):
        layer(mt.zeros((4, 3), dtype="float64"))
    with pytest.raises(TypeError, match="int64"):
        layer(mt.tensor([[1, 2, 3]]))
    for size in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="in_features"):
            nn.Linear(size, 2)
    with pytest.raises(TypeError, match="floating"):
        nn.Linear(2, 2, dtype="int64")


@given(st.data())
def test_embedding_picks_rows_and_adds_up_their_gradients(data):
    count, width = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 4))
    shape = data.draw(st.lists(st.integers(0, 4), max_size=3).map(tuple))
    padding = data.draw(st.none() | st.integers(-count, count - 1))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    layer = nn.Embedding(count, width, padding_idx=padding, dtype="float64")
    indices = rng.integers(0, count, shape)
    y = layer(mt.tensor(indices))
    np.testing.assert_array_equal(host(y), host(layer.weight)[indices])
    cotangent = rng.normal(size=y.shape)
    (y * cotangent).sum().backward()
    expected = np.zeros((count, width))
    for at in np.ndindex(shape):
        if padding is None or indices[at] != padding % count:
            expected[indices[at]] += cotangent[at]
    np.testing.assert_allclose(host(layer.weight.grad), expected, atol=1e-12)
    if padding is not None:
        assert np.all(host(layer.weight)[padding] == 0)


def test_embedding_accepts_arrays_lists_and_small_integers():
    layer = nn.Embedding(5, 2)
    expected = host(layer.weight)[[[1, 4]]]
    for indices in ([[1, 4]], np.array([[1, 4]], np.uint8), mt.tensor([[1, 4]])):
        np.testing.assert_array_equal(host(layer(indices)), expected)
    assert layer(3).shape == (2,)


def test_embedding_takes_indices_from_anywhere(backend):
    with backend():
        layer = nn.Embedding(5, 2, padding_idx=3, dtype="float64")
    host_indices = np.array([[1, 3], [4, 3]])
    for indices in (host_indices, host_indices.tolist(), backend.tensor(host_indices)):
        rows = layer(indices)
        np.testing.assert_array_equal(backend.host(rows), backend.host(layer.weight)[host_indices])
        layer.zero_grad()
        rows.sum().backward()
        assert backend.host(layer.weight.grad)[:, 0].tolist() == [0.0, 1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("padding", [-5, -4, -1, 0, 4])
def test_the_row_of_padding_counts_from_either_end(padding):
    weight = mt.tensor(np.ones((5, 2)), requires_grad=True)
    F.embedding(np.arange(5), weight, padding).sum().backward()
    assert [i for i in range(5) if not weight.grad.numpy()[i].any()] == [padding % 5]
    for outside in (5, -6):
        with pytest.raises(IndexError, match=f"padding_idx {outside} is out of range for 5"):
            F.embedding(np.arange(5), weight, outside)


def test_embedding_refuses_what_is_out_of_range():
    layer = nn.Embedding(5, 2)
    with pytest.raises(IndexError, match=r"index 5 at position \(1, 0\).*0, ..., 4"):
        layer(mt.tensor([[0, 1], [5, 0]]))
    with pytest.raises(IndexError, match="index -1"):
        layer(mt.tensor([-1]))
    with pytest.raises(TypeError, match="float32"):
        layer(mt.tensor([1.0]))
    for padding in (5, -6):
        with pytest.raises(IndexError, match="padding_idx"):
            nn.Embedding(5, 2, padding_idx=padding)


def test_embedding_says_what_it_is():
    for padding, row in ((None, None), (0, 0), (-7, 0), (6, 6), (-1, 6)):
        layer = nn.Embedding(7, 3, padding)
        assert (layer.num_embeddings, layer.embedding_dim, layer.padding_idx) == (7, 3, row)
        shown = "" if row is None else f", padding_idx={row}"
        assert repr(layer) == f"Embedding(7, 3{shown})"
        zeros = [i for i in range(7) if not host(layer.weight)[i].any()]
        assert zeros == ([] if row is None else [row])


def test_sizes_may_be_numpys_integers():
    layer = nn.Linear(np.int64(3), np.uint8(2))
    assert layer.weight.shape == (2, 3)
    assert type(layer.in_features) is type(layer.out_features) is int
    assert repr(layer) == "Linear(in_features=3, out_features=2, bias=True)"
    assert nn.Embedding(np.int32(4), 2).weight.shape == (4, 2)


def test_embedding_starts_standard_normal():
    weight = host(nn.Embedding(1000, 10, generator=mt.Generator(0)).weight)
    assert abs(weight.mean()) < 0.03
    assert abs(weight.std() - 1) < 0.03


@given(p=st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]), seed=st.integers(0, 1000))
def test_dropout_zeroes_or_scales(p, seed):
    layer = nn.Dropout(p, generator=mt.Generator(seed))
    x = mt.tensor(np.arange(1.0, 401.0), requires_grad=True)
    y = layer(x)
    kept = host(y) != 0
    assert abs(kept.mean() - (1 - p)) < 0.15
    if p < 1:
        np.testing.assert_allclose(host(y)[kept], host(x)[kept] / (1 - p))
    y.sum().backward()
    np.testing.assert_array_equal(host(x.grad) != 0, kept)
    layer.generator.manual_seed(seed)
    np.testing.assert_array_equal(host(layer(x)), host(y))
    assert layer.eval()(x) is x


def test_dropout_draws_from_the_default_generator_and_keeps_float32():
    x = mt.ones((50,))
    mt.manual_seed(7)
    first = F.dropout(x, 0.5)
    mt.manual_seed(7)
    np.testing.assert_array_equal(host(F.dropout(x, 0.5)), host(first))
    assert first.dtype == np.float32
    assert not np.array_equal(host(F.dropout(x, 0.5)), host(first))


def test_dropout_of_nothing_draws_nothing():
    x, generator = mt.ones(5), mt.Generator(0)
    before = generator.get_state()
    assert F.dropout(x, 0.0, True, generator) is x
    assert F.dropout(x, 0.5, False, generator) is x
    assert generator.get_state() == before
    F.dropout(x, 0.5, True, generator)
    assert generator.get_state() != before
    # Halves are kept or zeroed by default.
    mt.manual_seed(1)
    default = F.dropout(mt.ones(1000)).numpy()
    assert set(np.unique(default)) == {0.0, 2.0}
    assert set(np.unique(nn.Dropout()(mt.ones(1000)).numpy())) == {0.0, 2.0}


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_dropout_refuses_what_is_no_probability(p):
    with pytest.raises(ValueError, match="between 0 and 1"):
        nn.Dropout(p)
    with pytest.raises(ValueError, match="between 0 and 1"):
        F.dropout(mt.ones(3), p)
    with pytest.raises(TypeError, match="expected a tensor"):
        F.dropout([1.0])


@pytest.mark.parametrize(
    ("module", "function"),
    [
        (nn.Tanh(), np.tanh),
        (nn.Sigmoid(), lambda x: 1 / (1 + np.exp(-x))),
        (nn.ReLU(), lambda x: np.maximum(x, 0)),
    ],
)
def test_activations(module, function):
    x = np.linspace(-3, 3, 12).reshape(3, 4)
    np.testing.assert_allclose(host(module(mt.tensor(x))), function(x), rtol=1e-14)
    assert repr(module) == f"{type(module).__name__}()"


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1), (5, 2)])
def test_a_bias_of_another_shape_is_refused(shape):
    """(1,) would be repeated, and (5, 2) would be another bias for each row of the input."""
    x, weight = mt.ones((5, 3)), mt.ones((2, 3))
    for linear in (F.linear, mt.linear):
        with pytest.raises(ValueError, match=r"bias of shape .* must be \(2,\)"):
            linear(x, weight, mt.ones(shape))


@pytest.mark.parametrize("dtype", [np.int64, np.bool_])
@pytest.mark.parametrize("training", [True, False])
def test_dropout_of_what_is_no_float_is_refused(dtype, training):
    """A factor of 1 / (1 - p) in integers would be 1 for p below a half, or 0."""
    with pytest.raises(TypeError, match=r"dropout scales floats.*astype"):
        F.dropout(mt.ones(4, dtype=dtype), 0.25, training)


def test_an_overwritten_buffer_of_indices_is_noticed():
    """A data loader that reuses its batch would send the gradients to the wrong rows."""
    layer, batch = nn.Embedding(4, 2), np.array([0, 1])
    for indices in (batch, mt.tensor(batch)):
        rows = layer(indices)
        if isinstance(indices, mt.Tensor):
            indices[...] = np.array([2, 3])
        else:
            mt.Tensor(indices)[...] = np.array([2, 3])
        with pytest.raises(mt.GradientStateError, match="changed in place"):
            rows.sum().backward()
