"""Recurrent layers against a naive loop, their arguments, and what they refuse.

Their gradients and what they have in common with each other: tests/recurrence/.
"""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nn import reference  # tests/nn/reference.py
from recurrence.layers import (
    KINDS,
    STEPS,
    B,
    H,
    I,
    T,
    as_state,
    build,
    build_cell,
    draw_state,
    parts,
    spread,
)

import microtensor as mt
from microtensor import engine, nn
from microtensor.recurrence import cell

kinds = st.sampled_from(KINDS)
seeds = st.integers(0, 2**32 - 1)


def arrays_of(layer):
    return {name: value.detach().numpy() for name, value in layer.state_dict().items()}


@given(
    kind=kinds,
    seed=seeds,
    layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    batch_first=st.booleans(),
    bias=st.sampled_from([True, False, "single"]),
    lengths=st.none() | st.lists(st.integers(1, T), min_size=B, max_size=B),
    with_state=st.booleans(),
)
def test_layers_agree_with_a_naive_loop(
    kind, seed, layers, bidirectional, batch_first, bias, lengths, with_state
):
    rng = np.random.default_rng(seed)
    layer = build(
        kind, num_layers=layers, bidirectional=bidirectional, batch_first=batch_first, bias=bias
    )
    spread(layer, rng)
    x = rng.normal(size=(T, B, I))
    state = draw_state(layer, rng)
    if not with_state:
        state = tuple(np.zeros_like(value) for value in state)
    output, final = layer(
        mt.tensor(x.swapaxes(0, 1) if batch_first else x),
        as_state(state) if with_state else None,
        lengths=lengths,
    )
    expected, expected_final = reference.whole_layer(
        kind.removesuffix("_before"),
        arrays_of(layer),
        x,
        state,
        [T] * B if lengths is None else lengths,
        layers,
        layer.directions,
        "before" if kind == "gru_before" else "after",
    )
    got = output.detach().numpy().swapaxes(0, 1) if batch_first else output.detach().numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)
    assert len(parts(final)) == len(expected_final)
    for a, b in zip(parts(final), expected_final, strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_detaching_the_state_cuts_the_gradient(kind):
    layer = build(kind)
    x = mt.randn((T, B, I), dtype="float64", requires_grad=True)
    _, state = layer(x)
    output, _ = layer(mt.randn((T, B, I), dtype="float64"), mt.detach(state))
    output.sum().backward()
    assert x.grad is None


@pytest.mark.parametrize("kind", KINDS)
def test_one_sequence_without_a_batch_axis(kind):
    layer = build(kind, num_layers=2, bidirectional=True, batch_first=True)
    x = mt.randn((T, I), dtype="float64")
    state = as_state(draw_state(layer, np.random.default_rng(0), batch=1))
    alone = tuple(value[:, 0] for value in parts(state))
    output, final = layer(x, alone if len(alone) > 1 else alone[0])
    batched, batched_final = layer(mt.expand_dims(x, 0), state)
    assert output.shape == (T, 2 * H)
    np.testing.assert_array_equal(output.detach().numpy(), batched.detach().numpy()[0])
    for a, b in zip(parts(final), parts(batched_final), strict=True):
        assert a.shape == (4, H)
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy()[:, 0])


class Leaky(nn.Module):
    """A recurrence of a reader's own: it returns the new state, or output and state."""

    def __init__(self, twice):
        self.weight = nn.Parameter(np.random.default_rng(0).normal(size=(I, H)))
        self.twice = twice

    def step(self, x, state):
        state = 0.5 * state + mt.tanh(x @ self.weight)
        return (2.0 * state, state) if self.twice else state


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("lengths", [None, [5, 2, 4]])
def test_a_module_with_a_step_is_a_layer(twice, lengths):
    layer = nn.Recurrent(Leaky(twice), I, H)
    x = np.random.default_rng(1).normal(size=(T, B, I))
    output, final = layer(mt.tensor(x), lengths=lengths)
    weight = layer.cell.weight.detach().numpy()
    for b, n in enumerate(lengths or [T] * B):
        h = np.zeros(H)
        for t in range(n):
            h = 0.5 * h + np.tanh(x[t, b] @ weight)
            np.testing.assert_allclose(output.detach().numpy()[t, b], (1 + twice) * h, atol=1e-14)
        assert np.all(output.detach().numpy()[n:, b] == 0)
        np.testing.assert_allclose(final.detach().numpy()[0, b], h, atol=1e-14)
    assert [name for name, _ in layer.named_parameters()] == ["cell.weight"]


class Pair(nn.Module):
    def __init__(self, nested, form=tuple):
        self.nested = nested
        self.form = form

    def step(self, x, state):
        a, b = state
        new = self.form([x + a, x * b])
        return self.form([x, new]) if self.nested else new


@pytest.mark.parametrize("form", [tuple, list])
@pytest.mark.parametrize("nested", [False, True])
def test_a_module_may_keep_several_values(nested, form):
    layer = nn.Recurrent(Pair(nested, form))
    x = mt.ones((T, B, I))
    start = form([mt.zeros((1, B, I)), mt.ones((1, B, I))])
    output, (a, b) = layer(x, start)
    assert np.all(output.detach().numpy()[-1] == (1 if nested else T))
    assert np.all(a.detach().numpy() == T)
    assert a.shape == b.shape == (1, B, I)
    with pytest.raises(ValueError, match="hidden_size"):
        layer(x)


class Starts(nn.Module):
    """Three values of different shapes, and a method that says where they start."""

    def __init__(self, form=tuple, wide=False):
        self.form = form
        self.wide = wide

    def initial_state(self, batch_size):
        ones = mt.ones((batch_size,))
        return self.form([ones, mt.zeros((batch_size, I)), mt.zeros((batch_size, 2, I))])

    def step(self, x, state):
        count, total, both = state
        new = (count + 1, total + x, both + mt.stack([x, 2 * x], axis=1))
        return (new[2], new) if self.wide else new


@pytest.mark.parametrize("form", [tuple, list])
@pytest.mark.parametrize("lengths", [None, [5, 2, 4]])
def test_a_module_says_where_its_state_starts(form, lengths):
    """Values of any shape behind the batch are kept where a sequence has ended."""
    layer = nn.Recurrent(Starts(form))
    x = np.random.default_rng(2).normal(size=(T, B, I)).astype("float32")
    output, (count, total, both) = layer(mt.tensor(x), lengths=lengths)
    for b, n in enumerate(lengths or [T] * B):
        assert count.numpy()[0, b] == n + 1
        assert output.numpy()[: n + 1, b].tolist() == [*range(2, n + 2), 0][: min(n + 1, T)]
        np.testing.assert_allclose(total.numpy()[0, b], x[:n, b].sum(0), rtol=1e-5)
        np.testing.assert_allclose(both.numpy()[0, b, 1], 2 * x[:n, b].sum(0), rtol=1e-5)


def test_an_output_of_several_axes_is_zero_where_a_sequence_has_ended():
    x, lengths = np.random.default_rng(2).normal(size=(T, B, I)).astype("float32"), [5, 1, 3]
    output, _ = nn.Recurrent(Starts(wide=True))(mt.tensor(x), lengths=lengths)
    assert output.shape == (T, B, 2, I)
    for b, n in enumerate(lengths):
        sums = x[:n, b].cumsum(0)
        np.testing.assert_allclose(output.numpy()[:n, b, 0], sums, rtol=1e-5, atol=1e-6)
        assert not output.numpy()[n:, b].any()


def test_a_state_to_start_from_is_used():
    module = Leaky(False)
    module.initial_state = None  # an attribute of the object is no method of its class
    x = mt.tensor(np.random.default_rng(3).normal(size=(T, B, I)))
    zeros = nn.Recurrent(module, I, H)(x)[0]
    start = np.random.default_rng(4).normal(size=(1, B, H))
    np.testing.assert_allclose(
        nn.Recurrent(module)(x, mt.tensor(start))[0].detach().numpy()[0],
        zeros.detach().numpy()[0] + 0.5 * start[0],
        atol=1e-14,
    )


def test_a_modules_sizes_are_the_layers():
    layer = nn.Recurrent(nn.LSTMCell(I, H))
    assert (layer.input_size, layer.hidden_size) == (I, H)
    assert f"{I}, {H}" in repr(layer).splitlines()[1]
    with pytest.raises(ValueError, match="input_size is 4"):
        layer(mt.zeros((T, B, I + 1)))
    for sizes in ({"hidden_size": H}, {"input_size": I}):
        layer = nn.Recurrent(nn.GRUCell(I, H), **sizes)
        assert (layer.input_size, layer.hidden_size) == (I, H)
    given = nn.Recurrent(Leaky(False), I, H)
    assert (given.input_size, given.hidden_size) == (I, H)
    assert (nn.Recurrent(Leaky(False)).input_size, nn.Recurrent(Pair(True)).hidden_size) == (
        None,
        None,
    )


def test_a_module_makes_one_layer_in_one_direction():
    for options in (
        {"num_layers": 2},
        {"bidirectional": True},
        {"dropout": 0.1},
        {"recurrent_dropout": 0.1},
    ):
        with pytest.raises(ValueError, match="one layer in one direction"):
            nn.Recurrent(Leaky(False), I, H, **options)
    with pytest.raises(TypeError, match="no method step"):
        nn.Recurrent(nn.Linear(1, 1), I, H)
    with pytest.raises(TypeError, match="not str"):
        nn.Recurrent("lstm", I, H)


def test_a_cell_of_ones_own_is_a_layer():
    @cell(gates=("a",), state=("h", "m"), per_unit=("w",))
    def leaky(a, h, m, w):
        m = w * m + mt.tanh(a)
        return m - h, m

    layer = nn.Recurrent(leaky, I, H, num_layers=2, dtype="float64")
    assert [name for name, _ in layer.named_parameters()] == [
        f"{name}_l{k}"
        for k in (0, 1)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "w")
    ]
    output, (h, m) = layer(mt.randn((T, B, I), dtype="float64"))
    assert output.shape == (T, B, H)
    assert h.shape == m.shape == (2, B, H)
    output.sum().backward()
    assert layer.w_l0.grad.shape == (H,)
    assert repr(layer) == "Recurrent(leaky, 4, 2, num_layers=2)"


# -- names, shapes, counts


@pytest.mark.parametrize(("layer", "gates"), [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
def test_names_and_shapes_are_pytorchs(layer, gates):
    module = layer(I, H, num_layers=2, bidirectional=True)
    expected = {}
    for k, inputs in ((0, I), (1, 2 * H)):
        for suffix in (f"_l{k}", f"_l{k}_reverse"):
            expected[f"weight_ih{suffix}"] = (gates * H, inputs)
            expected[f"weight_hh{suffix}"] = (gates * H, H)
            expected[f"bias_ih{suffix}"] = expected[f"bias_hh{suffix}"] = (gates * H,)
    assert {name: p.shape for name, p in module.named_parameters()} == expected
    assert list(expected) == [name for name, _ in module.named_parameters()]
    bound = 1 / np.sqrt(H)
    assert all(np.all(abs(p.detach().numpy()) <= bound) for p in module.parameters())


def count(module):
    return sum(p.size for p in module.parameters())


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.RNN(32, 32, bias="single"), 2080),
        (nn.RNN(32, 32), 2112),
        (nn.LSTM(32, 32, bias="single"), 8320),
        (nn.LSTM(32, 32), 8448),
        (nn.GRU(14, 32, bias="single", reset="before"), 4512),
        (nn.GRU(14, 32), 4608),
        (nn.LSTM(5, 20, bias="single"), 2080),
        (nn.LSTM(5, 20), 2160),
        (nn.RNN(2, 4, bias="single"), 28),
        (nn.LSTM(10, 10, bias=False), 800),
        (nn.GRUCell(14, 32, bias="single"), 4512),
        (nn.LSTMCell(5, 20), 2160),
        (nn.RNNCell(2, 4, bias=False), 24),
    ],
)
def test_parameter_counts_of_the_documents(module, expected):
    assert count(module) == expected


def test_repr_says_what_is_not_default():
    assert repr(nn.LSTM(3, 5)) == "LSTM(3, 5)"
    assert repr(nn.GRU(3, 5, 2, bias="single", reset="before", batch_first=True)) == (
        "GRU(3, 5, num_layers=2, bias='single', batch_first=True, reset='before')"
    )
    assert repr(nn.RNN(3, 5, nonlinearity="relu")) == "RNN(3, 5, nonlinearity='relu')"
    assert repr(nn.RNNCell(3, 5, bias=False)) == "RNNCell(3, 5, bias=False)"


# -- dropout


def test_dropout_acts_between_layers_and_only_in_training():
    layer = nn.RNN(I, H, num_layers=2, dropout=1.0, dtype="float64")
    x = mt.randn((T, B, I), dtype="float64")
    output, _ = layer(x)
    silent, _ = layer.eval()(x)
    weights = arrays_of(layer)
    first_step = np.tanh(weights["bias_ih_l1"] + weights["bias_hh_l1"])
    np.testing.assert_allclose(output.detach().numpy()[0], np.tile(first_step, (B, 1)), atol=1e-14)
    assert not np.allclose(silent.detach().numpy(), output.detach().numpy())
    single = nn.RNN(I, H, dropout=1.0, dtype="float64")
    np.testing.assert_array_equal(
        single(x)[0].detach().numpy(), single.eval()(x)[0].detach().numpy()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_recurrent_dropout_of_everything_leaves_feed_forward_products(kind):
    layer = build(kind, recurrent_dropout=1.0)
    zeroed = build(kind)
    state = layer.state_dict()
    state["weight_hh_l0"] = np.zeros_like(state["weight_hh_l0"].detach().numpy())
    zeroed.load_state_dict(state)
    x = mt.randn((T, B, I), dtype="float64")
    np.testing.assert_allclose(
        layer(x)[0].detach().numpy(), zeroed(x)[0].detach().numpy(), atol=1e-14
    )
    layer.eval()
    assert not np.allclose(layer(x)[0].detach().numpy(), zeroed(x)[0].detach().numpy())


# -- what is refused


def test_wrong_shapes_are_refused_and_named():
    layer = nn.LSTM(I, H, num_layers=2)
    x = mt.zeros((T, B, I))
    good = mt.zeros((2, B, H))
    cases = [
        (lambda: layer(mt.zeros((T, B, I + 1))), r"input_size is 4.*\(T, B, I\).*\(5, 3, 5\)"),
        (lambda: layer(mt.zeros((T,))), r"\(T, I\) for one sequence"),
        (lambda: layer(mt.zeros((T, B, 1, I))), r"got shape \(5, 3, 1, 4\)"),
        (lambda: layer(mt.zeros((0, B, I))), "at least one step"),
        (lambda: layer(mt.zeros((T, 0, I))), "at least one step and one sequence"),
        (lambda: layer(mt.zeros((0, I))), "at least one step"),
        (lambda: layer(x, good), r"a tuple \(h, c\); got one tensor"),
        (lambda: layer(x, (good,)), "got a tuple of 1"),
        (lambda: layer(x, (good, mt.zeros((2, H, B)))), r"value 1 .* \(2, 3, 2\), got \(2, 2, 3\)"),
        (lambda: layer(x, lengths=[1, 2]), "3 integers"),
        (lambda: layer(x, lengths=[1.0, 2.0, 3.0]), "3 integers"),
        (lambda: layer(x, lengths=[1, 6, 2]), r"lengths\[1\] is 6"),
        (lambda: layer(x, lengths=[0, 5, 2]), r"lengths\[0\] is 0"),
        (lambda: nn.GRU(I, H)(x, (good, good)), r"one tensor \(h\); got a tuple of 2"),
        (lambda: nn.RNNCell(I, H)(mt.zeros((B, H))), r"\(B, 4\)"),
        (lambda: nn.RNNCell(I, H)(mt.zeros((T, B, I))), r"got shape \(5, 3, 4\)"),
        (lambda: nn.LSTMCell(I, H)(mt.zeros((B, I)), mt.zeros((B, H))), r"a tuple \(h, c\)"),
        (lambda: nn.LSTMCell(I, H)(mt.zeros((B, I)), (mt.zeros((B, H)),)), r"a tuple \(h, c\)"),
        (lambda: nn.LSTMCell(I, H)(mt.zeros(I), (mt.zeros(H),) * 3), r"a tuple \(h, c\)"),
        (lambda: nn.GRUCell(I, H)(mt.zeros(I), (mt.zeros(H),)), "one tensor h, got tuple"),
        (lambda: nn.GRUCell(I, H)(mt.zeros(I), [mt.zeros(H)]), "one tensor h, got list"),
        (lambda: nn.GRUCell(I, H)(mt.zeros((B, I)), mt.zeros((B, I))), r"\(3, 2\), got \(3, 4\)"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


def test_wrong_dtypes_are_refused():
    layer = nn.GRU(I, H)
    with pytest.raises(TypeError, match="the input is float64 and the weight float32"):
        layer(mt.zeros((T, B, I), dtype="float64"))
    with pytest.raises(TypeError, match="the state float64"):
        layer(mt.zeros((T, B, I)), mt.zeros((1, B, H), dtype="float64"))
    assert layer(mt.zeros((T, B, I)))[0].dtype == np.float32


@pytest.mark.parametrize(
    "options",
    [
        {"bias": "double"},
        {"bias": None},
        {"num_layers": 0},
        {"hidden_size": 0},
        {"input_size": 2.0},
        {"dropout": 1.5},
        {"recurrent_dropout": -0.1},
    ],
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        nn.LSTM(**{"input_size": I, "hidden_size": H, **options})


def test_unknown_variants_are_refused():
    with pytest.raises(ValueError, match="nonlinearity must be"):
        nn.RNN(I, H, nonlinearity="sigmoid")
    with pytest.raises(ValueError, match="reset must be"):
        nn.GRU(I, H, reset="never")
    with pytest.raises(ValueError, match="bias must be"):
        nn.GRUCell(I, H, bias="both")


@pytest.mark.parametrize("bias", [True, False, "single"])
@pytest.mark.parametrize("kind", STEPS)
def test_single_steps_start_with_the_weights_of_the_layer(kind, bias):
    """Names, order and numbers, all from one seed."""
    layer = build(kind, bias=bias, generator=mt.Generator(5))
    step = build_cell(kind, bias=bias, generator=mt.Generator(5))
    biases = {True: ["bias_ih", "bias_hh"], False: [], "single": ["bias_ih"]}[bias]
    assert [name for name, _ in step.named_parameters()] == ["weight_ih", "weight_hh", *biases]
    for (name, a), (other, b) in zip(
        layer.named_parameters(), step.named_parameters(), strict=True
    ):
        assert name == f"{other}_l0"
        np.testing.assert_array_equal(a.data, b.data)


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.LSTMCell, nn.GRUCell])
def test_both_biases_are_the_default(kind):
    wanted = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    assert [name for name, _ in kind(I, H).named_parameters()] == wanted
    assert kind(I, H).weight_ih.dtype == np.float32


def test_arrays_tensors_and_lists_are_taken_alike():
    layer = build("lstm", num_layers=2)
    rng = np.random.default_rng(0)
    x, state, lengths = rng.normal(size=(T, B, I)), draw_state(layer, rng), [5, 2, 4]
    expected = layer(mt.tensor(x), as_state(state), lengths)[0].detach().numpy()
    for given_state in (list(as_state(state)), list(state), state):
        for given_lengths in (lengths, np.array(lengths, np.uint8), mt.tensor(lengths)):
            for given_x in (x, mt.tensor(x)):
                output = layer(given_x, given_state, given_lengths)[0]
                np.testing.assert_array_equal(output.detach().numpy(), expected)
    step = nn.LSTMCell(I, H, dtype="float64")
    pair = [mt.tensor(value[0]) for value in state]
    for a, b in zip(step(mt.tensor(x[0]), pair), step(mt.tensor(x[0]), tuple(pair)), strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_without_dropout_nothing_is_drawn(kind):
    generator = mt.Generator(0)
    layer, x = build(kind, num_layers=2, generator=generator), mt.ones((T, B, I), dtype="float64")
    before = generator.get_state()
    layer(x)
    layer.dropout = layer.recurrent_dropout = 0.5
    layer.eval()(x)
    assert generator.get_state() == before
    layer.train()(x)
    assert generator.get_state() != before


def test_the_same_seed_gives_the_same_weights():
    one = nn.LSTM(I, H, generator=mt.Generator(5))
    two = nn.LSTM(I, H, generator=mt.Generator(5))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())
    assert not np.allclose(
        one.weight_ih_l0.detach().numpy()[:H], one.weight_ih_l0.detach().numpy()[H : 2 * H]
    )


# -- with the engine


@pytest.mark.parametrize("driver", ["arrays", "steps"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_is_freed_without_the_garbage_collector(kind, driver):
    layer = build(kind, num_layers=2, bidirectional=True)

    def nodes():
        return sum(type(thing) is engine.Node for thing in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = nodes()
        with mt.recurrence.driver(driver):
            output, state = layer(mt.ones((T, B, I), dtype="float64"), lengths=[5, 2, 3])
        assert nodes() > before + (2 * T if driver == "steps" else 4)
        watched = [weakref.ref(value.data) for value in (output, *parts(state))]
        del output, state
        assert nodes() == before
        assert all(reference() is None for reference in watched)
    finally:
        gc.enable()


def test_states_and_outputs_own_their_memory():
    layer = build("lstm")
    x = mt.randn((T, B, I), dtype="float64")
    output, (h, c) = layer(x)
    kept = output.detach().numpy().copy()
    h.detach().numpy()[...] = 7
    c.detach().numpy()[...] = 7
    x.numpy()[...] = 7
    layer(x)
    np.testing.assert_array_equal(output.detach().numpy(), kept)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("batch", [(), (B,)])
def test_every_state_of_a_single_step_has_the_inputs_dtype(which, batch):
    """A c of float64 would make the whole step, and all that follow, compute in float64."""
    values = [mt.zeros((*batch, H)), mt.zeros((*batch, H))]
    values[which] = values[which].astype("float64")
    with pytest.raises(
        TypeError, match=f"LSTMCell: the input is float32, {'hc'[which]} is float64"
    ):
        nn.LSTMCell(I, H)(mt.zeros((*batch, I)), tuple(values))
    for reset in ("before", "after"):
        with pytest.raises(TypeError, match="GRUCell: the input is float32, h is float64"):
            nn.GRUCell(I, H, reset=reset)(mt.zeros((*batch, I)), values[which])


class Careless(nn.Module):
    """A step that forgets part of its state."""

    def __init__(self, answer):
        self.answer = answer

    def step(self, x, state):
        return self.answer(x, *state)


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (lambda x, a, b: a, "a Tensor"),
        (lambda x, a, b: (a, b, a), "3 values"),
        (lambda x, a, b: (a,), "1 values"),
        (lambda x, a, b: (x, (a,)), "2 values"),
        (lambda x, a, b: (x, x, (a, b)), "3 values"),
        (lambda x, a, b: None, "a NoneType"),
    ],
)
def test_a_step_that_returns_too_little_state_is_told(answer, got):
    """A bare tensor would have been taken apart along its batch."""
    layer = nn.Recurrent(Careless(answer))
    start = (mt.zeros((1, 2, I)), mt.ones((1, 2, I)))
    with pytest.raises(TypeError, match=f"Careless has 2 values, and its step returned {got}"):
        layer(mt.ones((T, 2, I)), start)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_copied_and_pickled(kind):
    layer = build(kind, num_layers=2)
    x = mt.randn((T, B, I), dtype="float64")
    wanted = layer(x)[0].detach().numpy()
    for again in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert again.cell is layer.cell
        np.testing.assert_array_equal(again(x)[0].detach().numpy(), wanted)
        again.weight_ih_l0.data[...] = 0
    np.testing.assert_array_equal(layer(x)[0].detach().numpy(), wanted)
    module = pickle.loads(pickle.dumps(nn.Sequential(nn.LSTMCell(I, H))))
    assert module[0].cell is nn.LSTMCell(I, H).cell


@pytest.mark.parametrize("kind", ["lstm", "peephole_lstm"])  # without a gate apart
def test_a_recorded_layer_keeps_no_products_of_its_gates(kind):
    """What the equations save are the gates' values; the sums before them are half the memory."""
    layer = build(kind)
    with mt.recurrence.driver("steps"):
        output, _ = layer(mt.tensor(np.ones((T, B, I)), requires_grad=True))
    kept, nodes, stack = {}, set(), [output.place]
    while stack:
        node = stack.pop()
        node = node[0] if isinstance(node, tuple) else node
        if isinstance(node, mt.Tensor) or node in nodes:
            continue
        nodes.add(node)
        stack += node.parents
        for value in node.saved:
            for part in value if isinstance(value, tuple) else [value]:
                if isinstance(part, np.ndarray):
                    owner = part
                    while owner.base is not None:
                        owner = owner.base
                    kept[id(owner)] = owner
    assert len(nodes) > 3 * T
    assert not [o.shape for o in kept.values() if o.shape[-1:] == (len(layer.cell.gates) * H,)]
