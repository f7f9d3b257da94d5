"""What recurrent layers have in common with each other: the same values, and the same gradients.

Each test computes one thing in two ways, draws one cotangent for everything that comes out, and
compares what comes out and what arrives at every input, state and parameter.
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

kinds = st.sampled_from(EVERY)
seeds = st.integers(0, 2**32 - 1)


class Scene:
    """A layer, an input and an initial state, whose gradients are asked for."""

    def __init__(self, kind, seed, **options):
        self.rng = np.random.Generator(np.random.Philox(seed))
        self.layer = spread(build(kind, **options), self.rng)
        shape = (B, T, I) if options.get("batch_first") else (T, B, I)
        self.x = mt.tensor(self.rng.normal(size=shape), requires_grad=True)
        self.state = as_state(draw_state(self.layer, self.rng), requires_grad=True)

    def leaves(self, *modules):
        found = {"x": self.x}
        found |= {f"state {i}": value for i, value in enumerate(parts(self.state))}
        for module in modules or (self.layer,):
            found |= dict(module.named_parameters())
        return found

    def cotangents(self, results):
        return [self.rng.normal(size=value.shape) for value in results]


def gradients(results, cotangents, leaves):
    """Of cotangents . results, by the names of the leaves; zeros where nothing arrives."""
    found = mt.grad(
        list(results), list(leaves.values()), cotangents, retain_graph=True, allow_unused=True
    )
    return {
        name: np.zeros(leaf.shape) if g is None else host(g)
        for (name, leaf), g in zip(leaves.items(), found, strict=True)
    }


def close(a, b, what=""):
    scale = max(1.0, float(np.max(np.abs(b), initial=0.0)))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * scale, err_msg=what)


def agree(ours, theirs, cotangents, leaves):
    """The results, and all gradients for the same cotangents."""
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert a.shape == b.shape
        close(host(a), host(b), f"result {i}")
    mine, others = gradients(ours, cotangents, leaves), gradients(theirs, cotangents, leaves)
    for name in leaves:
        close(mine[name], others[name], f"gradient of {name}")


def results(pair):
    """(output, state) as a flat tuple."""
    output, state = pair
    return (output, *parts(state))


def written_out(kind, layer, x, state, mask=1.0):
    """The loop over a cell's equations: two products in every step, the state's behind a mask."""
    w_ih, w_hh = layer.weight_ih_l0, layer.weight_hh_l0
    b_ih = getattr(layer, "bias_ih_l0", 0.0)
    b_hh = getattr(layer, "bias_hh_l0", None)
    b_hh = mt.zeros(len(w_hh), dtype="float64") if b_hh is None else b_hh
    per_unit = {name: getattr(layer, f"{name}_l0") for name in layer.cell.per_unit}
    state, outputs = [value[0] for value in parts(state)], []
    for t in range(T):
        from_x, seen = x[t] @ w_ih.T + b_ih, state[0] * mask
        if kind == "gru_before":
            both = mt.sigmoid(from_x + seen @ w_hh.T + b_hh)
            r, z = both[:, :H], both[:, H : 2 * H]
            n = mt.tanh(from_x[:, 2 * H :] + (r * seen) @ w_hh[2 * H :].T + b_hh[2 * H :])
            state = [(1 - z) * n + z * state[0]]
        else:
            state = layer.cell.step(from_x, seen @ w_hh.T + b_hh, state, per_unit)
        outputs.append(state[0])
    return (mt.stack(outputs), *[mt.expand_dims(value, 0) for value in state])


@given(kind=kinds, seed=seeds, bias=st.sampled_from([True, False, "single"]))
def test_a_layer_is_the_loop_over_its_cell(kind, seed, bias):
    scene = Scene(kind, seed, bias=bias)
    ours = results(scene.layer(scene.x, scene.state))
    theirs = written_out(kind, scene.layer, scene.x, scene.state)
    agree(ours, theirs, scene.cotangents(ours), scene.leaves())


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("batch_first", [False, True])
def test_recurrent_dropout_is_one_mask_for_the_whole_sequence(kind, batch_first):
    """On the state before its product, and nowhere else."""
    generator = mt.Generator(3)
    options = {"recurrent_dropout": 0.25, "generator": generator, "batch_first": batch_first}
    scene = Scene(kind, 0, **options)
    generator.manual_seed(4)
    mask = generator.bernoulli(0.75, (B, H), "float64") / 0.75
    assert set(np.unique(mask)) == {0.0, 1 / 0.75}
    generator.manual_seed(4)
    output, *final = results(scene.layer(scene.x, scene.state))
    ours = (output.swapaxes(0, 1) if batch_first else output, *final)
    x = scene.x.swapaxes(0, 1) if batch_first else scene.x
    theirs = written_out(kind, scene.layer, x, scene.state, mask)
    agree(ours, theirs, scene.cotangents(ours), scene.leaves())


@given(kind=st.sampled_from(STEPS), seed=seeds, bias=st.sampled_from([True, False, "single"]))
def test_a_layer_is_the_loop_over_the_module_of_one_step(kind, seed, bias):
    scene = Scene(kind, seed, bias=bias)
    step = build_cell(kind, bias=bias)
    for name, parameter in scene.layer.named_parameters():
        setattr(step, name.removesuffix("_l0"), parameter)  # the very same weights
    state, outputs = bare([value[0] for value in parts(scene.state)]), []
    for t in range(T):
        state = step(scene.x[t], state)
        outputs.append(parts(state)[0])
    theirs = (mt.stack(outputs), *[mt.expand_dims(value, 0) for value in parts(state)])
    ours = results(scene.layer(scene.x, scene.state))
    cotangents = scene.cotangents(ours)
    agree(ours, theirs, cotangents, scene.leaves())
    # The same module run by the layer; and one sequence alone.
    agree(ours, results(nn.Recurrent(step)(scene.x, scene.state)), cotangents, scene.leaves())
    alone = step(scene.x[0, 1], bare([value[0, 1] for value in parts(scene.state)]))
    close(host(parts(alone)[0]), host(ours[0])[0, 1])
    # Without a state both start from zeros.
    close(host(parts(step(scene.x[0]))[0]), host(scene.layer(scene.x)[0])[0])


@given(kind=kinds, seed=seeds, lengths=st.lists(st.integers(1, T), min_size=B, max_size=B))
def test_lengths_mean_running_each_sequence_alone(kind, seed, lengths):
    scene = Scene(kind, seed, num_layers=2, bidirectional=True)
    for b, n in enumerate(lengths):
        scene.x.data[n:, b] = np.nan  # padding is never read
    ours = results(scene.layer(scene.x, scene.state, lengths))
    cotangents, leaves = scene.cotangents(ours), scene.leaves()
    mine = gradients(ours, cotangents, leaves)
    sums = {name: np.zeros(leaf.shape) for name, leaf in leaves.items()}
    for b, n in enumerate(lengths):
        start = bare([value[:, b] for value in parts(scene.state)])
        output, *final = results(scene.layer(scene.x[:n, b], start))
        close(host(ours[0])[:n, b], host(output))
        assert np.all(host(ours[0])[n:, b] == 0)
        for a, e in zip(ours[1:], final, strict=True):
            close(host(a)[:, b], host(e))
        own = [cotangents[0][:n, b], *[c[:, b] for c in cotangents[1:]]]
        for name, g in gradients((output, *final), own, leaves).items():
            sums[name] += g
    for name in leaves:
        close(mine[name], sums[name], f"gradient of {name}")
    assert all(np.all(mine["x"][n:, b] == 0) for b, n in enumerate(lengths))


@given(kind=kinds, seed=seeds, length=st.integers(1, T))
def test_equal_lengths_mean_a_shorter_input(kind, seed, length):
    scene = Scene(kind, seed, bidirectional=True)
    output, *final = results(scene.layer(scene.x, scene.state, [length] * B))
    theirs = results(scene.layer(scene.x[:length], scene.state))
    ours = (output[:length], *final)
    agree(ours, theirs, scene.cotangents(ours), scene.leaves())
    assert not host(output)[length:].any()


@given(kind=kinds, seed=seeds, lengths=st.none() | st.just([T, 2, 3]))
def test_the_second_direction_reads_the_flipped_sequence(kind, seed, lengths):
    scene = Scene(kind, seed, bidirectional=True)
    one = build(kind)
    for name, parameter in scene.layer.named_parameters():
        if name.endswith("_reverse"):
            setattr(one, name.removesuffix("_reverse"), parameter)
    rows = np.array([range(T)] * B).T  # which step stands where after flipping
    for b, n in enumerate(lengths or [T] * B):
        rows[:n, b] = rows[:n, b][::-1]
    columns = np.arange(B)
    start = bare([value[1:] for value in parts(scene.state)])
    output, *final = results(one(scene.x[rows, columns], start, lengths))
    theirs = (output[rows, columns], *[value[0] for value in final])
    output, *final = results(scene.layer(scene.x, scene.state, lengths))
    ours = (output[..., H:], *[value[1] for value in final])
    agree(ours, theirs, scene.cotangents(ours), scene.leaves())


@given(kind=kinds, seed=seeds)
def test_the_first_direction_does_not_see_the_second(kind, seed):
    scene = Scene(kind, seed, bidirectional=True)
    one = build(kind)
    for name, parameter in scene.layer.named_parameters():
        if not name.endswith("_reverse"):
            setattr(one, name, parameter)
    output, *final = results(scene.layer(scene.x, scene.state))
    ours = (output[..., :H], *[value[0] for value in final])
    output, *final = results(one(scene.x, bare([value[:1] for value in parts(scene.state)])))
    theirs = (output, *[value[0] for value in final])
    agree(ours, theirs, scene.cotangents(ours), scene.leaves())


@given(kind=kinds, seed=seeds, cut=st.integers(1, T - 1), layers=st.integers(1, 2))
def test_a_carried_state_continues_the_sequence(kind, seed, cut, layers):
    scene = Scene(kind, seed, num_layers=layers)
    first, state = scene.layer(scene.x[:cut], scene.state)
    second, *final = results(scene.layer(scene.x[cut:], state))
    ours = results(scene.layer(scene.x, scene.state))
    theirs = (mt.concatenate([first, second]), *final)
    agree(ours, theirs, scene.cotangents(ours), scene.leaves())


@given(kind=kinds, seed=seeds, bidirectional=st.booleans())
def test_two_layers_are_one_after_the_other(kind, seed, bidirectional):
    scene = Scene(kind, seed, num_layers=2, bidirectional=bidirectional)
    directions = 2 if bidirectional else 1
    below = build(kind, bidirectional=bidirectional)
    above = build(kind, inputs=directions * H, bidirectional=bidirectional)
    for name, parameter in scene.layer.named_parameters():
        setattr(above if "_l1" in name else below, name.replace("_l1", "_l0"), parameter)
    states = parts(scene.state)
    middle, *first = results(below(scene.x, bare([value[:directions] for value in states])))
    output, *second = results(above(middle, bare([value[directions:] for value in states])))
    joined = [mt.concatenate(pair) for pair in zip(first, second, strict=True)]
    ours = results(scene.layer(scene.x, scene.state))
    agree(ours, (output, *joined), scene.cotangents(ours), scene.leaves())


@given(kind=kinds, seed=seeds, lengths=st.none() | st.just([2, T, 1]))
def test_batch_first_exchanges_two_axes_of_input_and_output(kind, seed, lengths):
    scene = Scene(kind, seed, num_layers=2, bidirectional=True, batch_first=True)
    usual = build(kind, num_layers=2, bidirectional=True)
    for name, parameter in scene.layer.named_parameters():
        setattr(usual, name, parameter)
    ours = results(scene.layer(scene.x, scene.state, lengths))
    output, *final = results(usual(scene.x.swapaxes(0, 1), scene.state, lengths))
    theirs = (output.swapaxes(0, 1), *final)
    agree(ours, theirs, scene.cotangents(ours), scene.leaves())


@given(kind=kinds, seed=seeds, order=st.permutations(range(B)))
def test_sequences_of_a_batch_know_nothing_of_each_other(kind, seed, order):
    scene = Scene(kind, seed, num_layers=2, bidirectional=True)
    order, lengths = list(order), np.array([T, 1, 3])
    shuffled = bare([value[:, order] for value in parts(scene.state)])
    ours = results(scene.layer(scene.x[:, order], shuffled, lengths[order]))
    theirs = [value[:, order] for value in results(scene.layer(scene.x, scene.state, lengths))]
    agree(ours, theirs, scene.cotangents(ours), scene.leaves())


@pytest.mark.parametrize("kind", [kind for kind in EVERY if kind not in ("gru", "own_cell")])
def test_one_bias_stands_for_both(kind):
    """Where no gate is apart, and before the reset gate, the two biases are always added."""
    scene = Scene(kind, 0)
    single = build(kind, bias="single")
    for name, parameter in single.named_parameters():
        parameter.data = getattr(scene.layer, name).data.copy()
    single.bias_ih_l0.data += scene.layer.bias_hh_l0.data
    ours = results(scene.layer(scene.x, scene.state))
    theirs = results(single(scene.x, scene.state))
    cotangents = scene.cotangents(ours)
    mine = gradients(ours, cotangents, scene.leaves())
    others = gradients(theirs, cotangents, scene.leaves(single))
    for name, g in others.items():
        close(mine[name], g, name)
    close(mine["bias_hh_l0"], others["bias_ih_l0"])
