"""The memory cell of 1997, against the paper's own algorithm; blocks, feeds, truncation, biases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recurrence.layers import as_state, draw_state, host, spread

import microtensor as mt
from microtensor import nn
from microtensor.recurrence import Cell, cell, driver, memory_cell, memory_cell_bptt
from microtensor.testing import check_grads

seeds = st.integers(0, 2**32 - 1)
drivers = st.sampled_from(["arrays", "steps"])


def sigma(x):
    return 1 / (1 + np.exp(-x))


# -- appendix A.1 of the paper, in its own terms


def appendix(w_in, w_cell, w_out, w_k, xs, targets, given_at):
    """Outputs and -dE/dw of one sequence, by the paper's rule; E = 1/2 sum of squares.

    Units are indexed as there: block j, cell v of it. No error is carried back in time. Carried
    *forward* in time are the derivatives of the internal states by the weights, ds/dw. A weight
    matrix has one row a unit, and a column for each of z = [x; cells; in gates; out gates; 1].
    """
    blocks, size = w_cell.shape[:2]
    s, y_cell = np.zeros((blocks, size)), np.zeros((blocks, size))
    y_in, y_out = np.zeros(blocks), np.zeros(blocks)
    ds_in, ds_cell = np.zeros((blocks, size, w_in.shape[1])), np.zeros(w_cell.shape)
    change = [np.zeros(w.shape) for w in (w_in, w_cell, w_out, w_k)]
    outputs = []
    for x, target, has_target in zip(xs, targets, given_at, strict=True):
        z = np.concatenate([x, y_cell.ravel(), y_in, y_out, [1.0]])
        net_in, net_cell, net_out = w_in @ z, w_cell @ z, w_out @ z
        y_in, y_out = sigma(net_in), sigma(net_out)
        g, dg = 4 * sigma(net_cell) - 2, 4 * sigma(net_cell) * (1 - sigma(net_cell))
        for j in range(blocks):
            for v in range(size):
                ds_in[j, v] += g[j, v] * y_in[j] * (1 - y_in[j]) * z
                ds_cell[j, v] += dg[j, v] * y_in[j] * z
        s = s + y_in[:, None] * g
        h, dh = 2 * sigma(s) - 1, 2 * sigma(s) * (1 - sigma(s))
        y_cell = y_out[:, None] * h
        y_k = sigma(w_k @ np.append(y_cell.ravel(), 1.0))
        outputs.append(y_k)
        if not has_target:
            continue
        e_k = y_k * (1 - y_k) * (target - y_k)
        change[3] += np.outer(e_k, np.append(y_cell.ravel(), 1.0))
        back = (e_k @ w_k[:, :-1]).reshape(blocks, size)
        for j in range(blocks):
            e_out = y_out[j] * (1 - y_out[j]) * (h[j] @ back[j])
            change[2][j] += e_out * z
            for v in range(size):
                e_s = y_out[j] * dh[j, v] * back[j, v]
                change[0][j] += e_s * ds_in[j, v]
                change[1][j, v] += e_s * ds_cell[j, v]
    return np.array(outputs), change


@given(
    seed=seeds,
    sizes=st.tuples(*[st.integers(1, n) for n in (3, 3, 4, 3)]),
    steps=st.integers(1, 9),
    batch=st.integers(1, 3),
    name=drivers,
)
def test_the_truncated_gradient_is_the_algorithm_of_the_paper(seed, sizes, steps, batch, name):
    blocks, size, inputs, results = sizes
    units = blocks * size
    rng = np.random.default_rng(seed)
    layer = nn.Recurrent(
        memory_cell, inputs, units, bias="single", block_size=size, dtype="float64"
    )
    readout = nn.Linear(units, results, dtype="float64")
    spread(layer, rng)
    spread(readout, rng)
    xs, targets = rng.normal(size=(steps, batch, inputs)), rng.random((steps, batch, results))
    given_at = rng.random((steps, batch)) < 0.6

    with driver(name):
        found = mt.sigmoid(readout(layer(mt.tensor(xs))[0]))
    error = 0.5 * mt.sum((found - targets) ** 2 * given_at[..., None].astype("float64"))
    error.backward()

    rows = np.concatenate(
        [host(layer.weight_ih_l0), host(layer.weight_hh_l0), host(layer.bias_ih_l0)[:, None]], 1
    )
    w_in, w_cell, w_out = np.split(rows, [blocks, blocks + units])
    w_cell = w_cell.reshape(blocks, size, -1)
    w_k = np.concatenate([host(readout.weight), host(readout.bias)[:, None]], 1)
    total = [0.0] * 4
    for b in range(batch):
        outputs, change = appendix(
            w_in, w_cell, w_out, w_k, xs[:, b], targets[:, b], given_at[:, b]
        )
        np.testing.assert_allclose(host(found)[:, b], outputs, rtol=0, atol=1e-10)
        total = [a + b for a, b in zip(total, change, strict=True)]
    expected = np.concatenate([total[0], total[1].reshape(units, -1), total[2]])
    mine = np.concatenate(
        [
            host(layer.weight_ih_l0.grad),
            host(layer.weight_hh_l0.grad),
            host(layer.bias_ih_l0.grad)[:, None],
        ],
        1,
    )
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(-mine, expected, rtol=0, atol=1e-10 * scale)
    of_k = np.concatenate([host(readout.weight.grad), host(readout.bias.grad)[:, None]], 1)
    np.testing.assert_allclose(-of_k, total[3], rtol=0, atol=1e-10)


def test_truncation_changes_the_gradient_and_nothing_else():
    """And the whole gradient is the one that finite differences find, in second order too."""
    rng = np.random.default_rng(0)
    options = {"block_size": 2, "dtype": "float64"}
    cut = spread(nn.Recurrent(memory_cell, 3, 4, **options), rng)
    whole = nn.Recurrent(memory_cell_bptt, 3, 4, **options)
    whole.load_state_dict(cut.state_dict())
    x, state = rng.normal(size=(5, 3, 3)), draw_state(cut, rng, 3)
    results = []
    for layer in (cut, whole):
        output, final = layer(mt.tensor(x), as_state(state))
        results.append([host(value) for value in (output, *final)])
        mt.sum(output).backward()
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.allclose(host(cut.weight_hh_l0.grad), host(whole.weight_hh_l0.grad))
    check_grads(whole, x, state, [5, 2, 3], order=2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_on_both_backends_and_dtypes(dtype, backend):
    """The truncated cell gives what it gives step by step; the other what differences give."""
    rng = np.random.default_rng(2)
    with backend():
        layers = [
            spread(nn.Recurrent(one, 3, 4, block_size=2, dtype=dtype), rng)
            for one in (memory_cell, memory_cell_bptt)
        ]
        x = backend.tensor(rng.normal(size=(5, 3, 3)), dtype)
        state = tuple([backend.tensor(s, dtype) for s in draw_state(layers[0], rng, 3)])
        found = []
        for name in ("arrays", "steps"):
            with driver(name):
                output, final = layers[0](x, state, [5, 1, 3])
            total = mt.sum(output) + mt.sum(final[1])
            found.append([output, *mt.grad(total, list(layers[0].parameters()))])
        for a, b in zip(*found, strict=True):
            assert a.dtype == dtype
            tolerance = 1e-5 if dtype == "float32" else 1e-12
            np.testing.assert_allclose(
                a.detach().numpy(), b.detach().numpy(), rtol=0, atol=tolerance
            )
        check_grads(layers[1], x, state, [5, 1, 3])


def test_error_flows_back_through_the_cell_alone_and_undiminished():
    """d c_T / d c_0 is 1, whatever the weights and however many steps; the vector fed gets none."""
    rng = np.random.default_rng(1)
    layer = spread(nn.Recurrent(memory_cell, 2, 4, block_size=2, dtype="float64"), rng)
    for name in ("arrays", "steps"):
        start = [mt.tensor(s, requires_grad=True) for s in draw_state(layer, rng, 1)]
        with driver(name):
            _, final = layer(mt.tensor(rng.normal(size=(50, 1, 2))), tuple(start))
        h, c, y_i, y_o = mt.grad(mt.sum(final[1]), start, allow_unused=True)
        np.testing.assert_allclose(host(c), 1.0, rtol=1e-12)
        assert all(value is None or not np.any(host(value)) for value in (h, y_i, y_o))


@cell(gates=("i", "g"), state=("h", "m"), per_block=("i",))
def of_its_block(i, g, m):
    h = mt.tanh(i)
    return h, h * g + 0.5 * m


def test_a_value_of_units_may_be_computed_from_those_of_blocks_alone():
    rng = np.random.default_rng(4)
    layer = spread(nn.Recurrent(of_its_block, 3, 4, block_size=2, dtype="float64"), rng)
    check_grads(layer, rng.normal(size=(4, 2, 3)), draw_state(layer, rng, 2))
    assert of_its_block.program is not None


# -- shapes


@cell(
    gates=("i", "g", "o"),
    state=("h", "c"),
    per_block=("i", "o"),
    feeds=("h", "i", "o"),
    truncated=True,
    biased=("i", "o"),
)
def with_biased_gates(i, g, o, c):
    return memory_cell(i, g, o, c)


@cell(gates=("i", "g"), state=("h",), feeds=())
def without_recurrent_weights(i, g, h):
    return h + mt.sigmoid(i) * mt.sigmoid(g)


@pytest.mark.parametrize(
    ("one", "blocks", "size", "inputs", "outputs", "bias", "output_bias", "weights"),
    [
        (with_biased_gates, 4, 1, 7, 7, "single", False, 264),
        (with_biased_gates, 3, 2, 7, 7, "single", False, 276),
        (memory_cell, 2, 1, 104, 2, False, False, 6 * (100 + 4 + 6) + 4),
        (memory_cell, 3, 1, 1, 1, "single", False, 102),
        (memory_cell, 2, 2, 2, 1, "single", True, 93),
        (memory_cell, 2, 2, 8, 4, "single", True, 156),
        (memory_cell, 3, 2, 8, 8, "single", True, 308),
        (without_recurrent_weights, 1, 1, 101, 0, False, False, 10504 - 101 * 102),
    ],
)
def test_the_numbers_of_weights_are_those_of_the_papers_tables(
    one, blocks, size, inputs, outputs, bias, output_bias, weights
):
    layer = nn.Recurrent(one, inputs, blocks * size, bias=bias, block_size=size)
    found = sum(parameter.size for parameter in layer.parameters())
    assert found + outputs * (blocks * size + output_bias) == weights


def test_a_layer_of_blocks():
    layer = nn.Recurrent(memory_cell, 3, 6, num_layers=2, block_size=2, bidirectional=True)
    shapes = {name: parameter.shape for name, parameter in layer.named_parameters()}
    assert shapes["weight_ih_l0"] == (3 + 6 + 3, 3)
    assert shapes["weight_hh_l1_reverse"] == (3 + 6 + 3, 6 + 3 + 3)
    assert shapes["weight_ih_l1"] == (12, 12)
    assert shapes["bias_hh_l0"] == (12,)
    assert repr(layer) == (
        "Recurrent(memory_cell, 3, 6, num_layers=2, bidirectional=True, block_size=2)"
    )
    output, state = layer(mt.ones((5, 2, 3)))
    assert output.shape == (5, 2, 12)
    assert [value.shape for value in state] == [(4, 2, 6), (4, 2, 6), (4, 2, 3), (4, 2, 3)]
    assert "(5, 2, 12)" in str(mt.summary(layer, mt.ones((5, 2, 3))))
    assert repr(memory_cell) == (
        "<cell memory_cell: gates i, g, o; state h, c, y_i, y_o; per block i, o; "
        "feeds h, i, o; truncated>"
    )
    assert "biased i, o; truncated" in repr(with_biased_gates)
    assert "feeds nothing" in repr(without_recurrent_weights)


@given(cut=st.integers(1, 6), seed=seeds, name=drivers)
def test_a_sequence_can_be_continued_where_it_was_left(cut, seed, name):
    """What is fed of the gates is part of the state."""
    rng = np.random.default_rng(seed)
    layer = spread(nn.Recurrent(memory_cell_bptt, 2, 4, block_size=2, dtype="float64"), rng)
    x, start = rng.normal(size=(7, 3, 2)), as_state(draw_state(layer, rng, 3))
    with driver(name):
        output, final = layer(mt.tensor(x), start)
        first, between = layer(mt.tensor(x[:cut]), start)
        second, end = layer(mt.tensor(x[cut:]), between)
    np.testing.assert_allclose(
        np.concatenate([host(first), host(second)]), host(output), rtol=0, atol=1e-12
    )
    for a, b in zip(end, final, strict=True):
        np.testing.assert_allclose(host(a), host(b), rtol=0, atol=1e-12)


def test_the_fed_gates_are_values_of_the_state_that_equations_may_use():
    @cell(gates=("a", "b"), per_block=("a",), feeds=("b", "h", "a"))
    def one(a, b, y_a):
        return mt.tanh(b) * y_a, b + y_a, a * y_a

    assert one.state == ("h", "y_b", "y_a")
    assert one.fed == ("y_b", "h", "y_a")
    assert [one.width(name, 6, 2) for name in (*one.gates, *one.state)] == [3, 6, 6, 6, 3]
    rng = np.random.default_rng(3)
    a, b, y_a = rng.normal(size=(2, 3)), rng.normal(size=(2, 6)), rng.normal(size=(2, 3))
    state = (rng.normal(size=(2, 6)), rng.normal(size=(2, 6)), y_a)
    rows = np.concatenate([a, b], 1)
    h, y_b, new = one.step(rows, 0 * rows, state, block_size=2)
    of_units = np.repeat(y_a, 2, 1)
    np.testing.assert_allclose(h, np.tanh(b) * of_units, rtol=1e-14)
    np.testing.assert_allclose(y_b, b + of_units, rtol=1e-14)
    np.testing.assert_allclose(new, a * y_a, rtol=1e-14)
    vector = np.concatenate([state[1], state[0], y_a], 1)
    np.testing.assert_array_equal(one.recurrent_vector(state), vector)


# -- what is refused


@pytest.mark.parametrize(
    ("declaration", "message"),
    [
        ({"per_block": ("b",)}, r"per_block names \['b'\], which are no gates.*\['a'\]"),
        ({"per_block": ("h",)}, "no gates"),
        ({"biased": ("b",)}, r"biased names \['b'\]"),
        ({"feeds": ("h", "q")}, r"feeds names \['q'\].*values of the state or gates.*'h', 'a'"),
        ({"feeds": ("h", "h")}, "twice"),
        ({"gates": ("y_a", "a"), "feeds": ("a",)}, "'y_a'.* two things"),
        ({"gates": ("a", "b"), "biased": ("b", "a")}, "order of the gates"),
    ],
)
def test_a_contradictory_declaration_is_refused(declaration, message):
    with pytest.raises(ValueError, match=message):

        @cell(**{"gates": ("a",), **declaration})
        def faulty(a, h):
            return a


def test_layers_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="5 units cannot stand in blocks of 2"):
        nn.Recurrent(memory_cell, 3, 5, block_size=2)
    with pytest.raises(ValueError, match="cell lstm has no gates per block"):
        nn.Recurrent(mt.recurrence.lstm, 3, 4, block_size=2)
    with pytest.raises(ValueError, match="block_size must be"):
        nn.Recurrent(memory_cell, 3, 4, block_size=0)
    with pytest.raises(ValueError, match="or blocks"):
        nn.Recurrent(nn.LSTMCell(3, 4), block_size=2)
    layer = nn.Recurrent(memory_cell, 3, 4, block_size=2)
    x = mt.ones((5, 2, 3))
    with pytest.raises(ValueError, match=r"\(h, c, y_i, y_o\); got a tuple of 2"):
        layer(x, (mt.ones((1, 2, 4)), mt.ones((1, 2, 4))))
    state = [mt.ones((1, 2, 4)) for _ in range(4)]
    with pytest.raises(ValueError, match=r"value 2.*H / block_size\) = \(1, 2, 2\)"):
        layer(x, tuple(state))


def test_what_is_fed_for_a_block_is_computed_from_what_blocks_have():
    @cell(gates=("i", "g"), per_block=("i",), feeds=("h", "i"))
    def mistaken(i, g):
        return mt.tanh(g), mt.sigmoid(i + g)

    layer = nn.Recurrent(mistaken, 3, 4, block_size=2)
    with pytest.raises(ValueError, match=r"one y_i for each block.*\['i'\]"):
        layer(mt.ones((5, 2, 3)))


def test_a_missing_return_is_noticed():
    one = Cell(lambda a: a, gates=("a",), feeds=("h", "a"))
    with pytest.raises(ValueError, match=r"'y_a'.*returned 1 values"):
        nn.Recurrent(one, 3, 4)(mt.ones((5, 2, 3)))
    with pytest.raises(ValueError, match="have 12 rows, but the product has 16"):
        memory_cell.step(np.ones((1, 16)), np.ones((1, 16)), [np.ones((1, 4))] * 4)
