"""All derivatives of recurrent layers: input, initial states, every parameter; both orders.

The cotangents lie on the outputs and on the final states, unless a test says otherwise.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recurrence.layers import (  # tests/recurrence/layers.py
    EVERY,
    STEPS,
    B,
    H,
    I,
    T,
    as_state,
    bare,
    build,
    build_cell,
    draw_state,
    host,
    parts,
    spread,
)

import microtensor as mt
from microtensor import nn
from microtensor.testing import check_grads

kinds = st.sampled_from(EVERY)
seeds = st.integers(0, 2**32 - 1)
some_lengths = st.none() | st.lists(st.integers(1, T), min_size=B, max_size=B)


def names_of(layer):
    return tuple(name for name, _ in layer.named_parameters())


def states_of(values):
    """How check_grads names the parts of a state that is the second argument."""
    return tuple(f"1[{i}]" for i in range(len(values))) if len(values) > 1 else (1,)


@given(
    kind=kinds,
    seed=seeds,
    layers=st.integers(1, 2),
    bidirectional=st.booleans(),
    batch_first=st.booleans(),
    bias=st.sampled_from([True, False, "single"]),
    lengths=some_lengths,
)
def test_all_gradients(kind, seed, layers, bidirectional, batch_first, bias, lengths):
    rng = np.random.Generator(np.random.Philox(seed))
    options = {"bidirectional": bidirectional, "batch_first": batch_first, "bias": bias}
    layer = spread(build(kind, num_layers=layers, **options), rng)
    x, state = rng.normal(size=(B, T, I) if batch_first else (T, B, I)), draw_state(layer, rng)
    report = check_grads(layer, x, bare(state), lengths, rng=seed)
    assert report.wrt == (0, *states_of(state), *names_of(layer))


@given(
    kind=kinds,
    seed=seeds,
    sizes=st.tuples(*[st.integers(1, 6)] * 4),
    bidirectional=st.booleans(),
    data=st.data(),
)
def test_all_gradients_of_any_size(kind, seed, sizes, bidirectional, data):
    """Also one step, one sequence, one input, one unit."""
    rng = np.random.Generator(np.random.Philox(seed))
    steps, batch, inputs, hidden = sizes
    layer = spread(build(kind, inputs, hidden, bidirectional=bidirectional), rng)
    lengths = data.draw(st.lists(st.integers(1, steps), min_size=batch, max_size=batch))
    x, state = rng.normal(size=(steps, batch, inputs)), draw_state(layer, rng, batch)
    check_grads(layer, x, bare(state), lengths, rng=seed)


@pytest.mark.parametrize("lengths", [None, [T, 1, 2], [2, 2, 2]], ids=str)
@pytest.mark.parametrize("kind", EVERY)
def test_second_derivatives(kind, lengths):
    rng = np.random.Generator(np.random.Philox(1))
    layer = spread(build(kind, bidirectional=lengths is not None), rng)
    x, state = rng.normal(size=(T, B, I)), draw_state(layer, rng)
    check_grads(layer, x, bare(state), lengths, order=2)


@pytest.mark.parametrize("kind", EVERY)
def test_second_derivatives_of_two_layers(kind):
    rng = np.random.Generator(np.random.Philox(2))
    layer = spread(build(kind, num_layers=2, bias="single"), rng)
    check_grads(layer, rng.normal(size=(T, B, I)), bare(draw_state(layer, rng)), order=2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", EVERY)
def test_both_backends_and_dtypes(kind, dtype, backend):
    rng = np.random.Generator(np.random.Philox(3))
    with backend():
        layer = spread(build(kind, dtype=dtype, num_layers=2, bidirectional=True), rng)
        x = backend.tensor(rng.normal(size=(T, B, I)), dtype)
        state = bare([backend.tensor(value, dtype) for value in draw_state(layer, rng)])
        check_grads(layer, x, state, [3, T, 1])
        output, final = layer(x, state, [3, T, 1])
    assert {value.dtype for value in (output, *parts(final))} == {np.dtype(dtype)}


class Only(nn.Module):
    """Of output and final states only those that are asked for: others get no cotangent."""

    def __init__(self, layer, chosen):
        self.layer = layer
        self.chosen = chosen

    def forward(self, x, state=None, lengths=None):
        output, final = self.layer(x, state, lengths)
        return [(output, *parts(final))[i] for i in self.chosen]


@pytest.mark.parametrize("lengths", [None, [2, T, 1]], ids=str)
@pytest.mark.parametrize("kind", EVERY)
def test_cotangents_on_some_results_only(kind, lengths):
    """The output alone, each final state alone, and all states without the output."""
    rng = np.random.Generator(np.random.Philox(4))
    layer = spread(build(kind, num_layers=2, bidirectional=True), rng)
    x, state = rng.normal(size=(T, B, I)), draw_state(layer, rng)
    finals = range(1, 1 + len(state))
    for chosen in ((0,), *[(i,) for i in finals], tuple(finals)):
        check_grads(Only(layer, chosen), x, bare(state), lengths, rng=sum(chosen))


class Given(nn.Module):
    """A module called with some arguments that are no inputs, and with others left out."""

    def __init__(self, module, **arguments):
        self.module = module
        self.arguments = arguments

    def forward(self, *inputs):
        return self.module(*inputs, **self.arguments)


@pytest.mark.parametrize("kind", EVERY)
def test_without_an_initial_state_and_without_a_batch_axis(kind):
    rng = np.random.Generator(np.random.Philox(5))
    layer = spread(build(kind, num_layers=2, bidirectional=True), rng)
    check_grads(layer, rng.normal(size=(T, B, I)))
    check_grads(Given(layer, lengths=[3]), rng.normal(size=(T, I)))
    alone = bare([value[:, 0] for value in draw_state(layer, rng)])
    check_grads(layer, rng.normal(size=(T, I)), alone)


@pytest.mark.parametrize("kind", EVERY)
def test_gradients_reach_the_initial_state_through_its_expression(kind):
    """A state that is computed, one for all sequences, as a learned one is."""
    rng = np.random.Generator(np.random.Philox(6))
    layer = spread(build(kind), rng)
    x, start = rng.normal(size=(T, B, I)), [rng.normal(size=(1, 1, H)) for _ in layer.cell.state]

    def learned(*values):
        repeated = [mt.broadcast_to(value, (1, B, H)) for value in values]
        return layer(mt.tensor(x), bare(repeated))

    check_grads(learned, *start)


# -- dropout, with the masks that a seed gives


class Seeded(nn.Module):
    """The same masks in every call."""

    def __init__(self, layer):
        self.layer = layer

    def forward(self, x, state, lengths=None):
        self.layer.generator.manual_seed(7)
        return self.layer(x, state, lengths)


@pytest.mark.parametrize("options", [{"dropout": 0.5}, {"recurrent_dropout": 0.4}], ids=str)
@pytest.mark.parametrize("kind", EVERY)
def test_dropout(kind, options):
    rng = np.random.Generator(np.random.Philox(8))
    layer = build(
        kind, num_layers=2, bidirectional=True, generator=mt.Generator(0), hidden=4, **options
    )
    spread(layer, rng)
    x, state = rng.normal(size=(T, B, I)), draw_state(layer, rng)
    check_grads(Seeded(layer), x, bare(state), [T, 2, 3])
    masked = Seeded(layer)(mt.tensor(x), as_state(state))[0]
    layer.eval()
    check_grads(layer, x, bare(state))
    assert not np.allclose(host(masked), host(layer(mt.tensor(x), as_state(state))[0]))


# -- single steps


@pytest.mark.parametrize("bias", [True, False, "single"])
@pytest.mark.parametrize("kind", STEPS)
def test_single_steps(kind, bias):
    rng = np.random.Generator(np.random.Philox(9))
    module = spread(build_cell(kind, bias=bias), rng)
    for batch in ((), (B,)):
        state = tuple(rng.normal(size=(*batch, H)) for _ in module.cell.state)
        report = check_grads(module, rng.normal(size=(*batch, I)), bare(state), order=2)
        assert report.wrt == (0, *states_of(state), *names_of(module))
        check_grads(module, rng.normal(size=(*batch, I)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", STEPS)
def test_single_steps_on_both_backends(kind, dtype, backend):
    rng = np.random.Generator(np.random.Philox(10))
    with backend():
        module = spread(build_cell(kind, dtype=dtype), rng)
        state = [backend.tensor(rng.normal(size=(B, H)), dtype) for _ in module.cell.state]
        check_grads(module, backend.tensor(rng.normal(size=(B, I)), dtype), bare(state))


# -- layers of modules that bring their own weights


class Leaky(nn.Module):
    """It returns the new state, or output and state, and learns the state to start from."""

    hidden_size = H

    def __init__(self, rng, twice):
        self.weight = nn.Parameter(rng.normal(size=(I, H)))
        self.start = nn.Parameter(rng.normal(size=H))
        self.twice = twice

    def initial_state(self, batch_size):
        return mt.broadcast_to(self.start, (batch_size, H))

    def step(self, x, state):
        state = 0.5 * state + mt.tanh(x @ self.weight)
        return (2.0 * state, state) if self.twice else state


@pytest.mark.parametrize("lengths", [None, [T, 1, 3]], ids=str)
@pytest.mark.parametrize("twice", [False, True])
def test_a_module_of_ones_own(twice, lengths):
    rng = np.random.Generator(np.random.Philox(11))
    layer = nn.Recurrent(Leaky(rng, twice))
    x = rng.normal(size=(T, B, I))
    report = check_grads(Given(layer, lengths=lengths), x, order=2)
    assert report.wrt == (0, "module.cell.weight", "module.cell.start")
    check_grads(layer, x, rng.normal(size=(1, B, H)), lengths, wrt=[0, 1, "cell.weight"])


@pytest.mark.parametrize("kind", STEPS)
def test_single_steps_run_by_a_layer(kind):
    rng = np.random.Generator(np.random.Philox(12))
    layer = nn.Recurrent(spread(build_cell(kind), rng))
    state = tuple(rng.normal(size=(1, B, H)) for _ in layer.cell.cell.state)
    check_grads(layer, rng.normal(size=(T, B, I)), bare(state), [1, T, 2], order=2)
