"""The declaration of a cell: its equations on any array, its step, and what it refuses."""

import copy
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import microtensor as mt
from microtensor.recurrence import (
    Cell,
    cell,
    gru,
    lstm,
    memory_cell,
    memory_cell_bptt,
    peephole_lstm,
    rnn_relu,
    rnn_tanh,
)

NUMBERS = st.floats(-3, 3)


def sigma(x):
    return 1 / (1 + math.exp(-x))


@given(i=NUMBERS, f=NUMBERS, g=NUMBERS, o=NUMBERS, c=NUMBERS)
def test_lstm_on_plain_numbers(i, f, g, o, c):
    h_new, c_new = lstm(i, f, g, o, c)
    expected = sigma(f) * c + sigma(i) * math.tanh(g)
    assert float(c_new) == pytest.approx(expected, abs=1e-12)
    assert float(h_new) == pytest.approx(sigma(o) * math.tanh(expected), abs=1e-12)


@given(r=NUMBERS, z=NUMBERS, n_x=NUMBERS, n_h=NUMBERS, h=NUMBERS)
def test_gru_on_plain_numbers(r, z, n_x, n_h, h):
    n = math.tanh(n_x + sigma(r) * n_h)
    expected = (1 - sigma(z)) * n + sigma(z) * h
    assert float(gru(r, z, n_x, n_h, h)) == pytest.approx(expected, abs=1e-12)


@given(st.lists(NUMBERS, min_size=8, max_size=8))
def test_peephole_lstm_on_plain_numbers(values):
    i, f, g, o, c, p_i, p_f, p_o = values
    c_new = sigma(f + p_f * c) * c + sigma(i + p_i * c) * math.tanh(g)
    h_new = sigma(o + p_o * c_new) * math.tanh(c_new)
    got = peephole_lstm(i, f, g, o, c, p_i, p_f, p_o)
    assert [float(value) for value in got] == pytest.approx([h_new, c_new], abs=1e-12)


@given(NUMBERS)
def test_simple_cells_on_plain_numbers(a):
    assert float(rnn_tanh(a)) == pytest.approx(math.tanh(a), abs=1e-12)
    assert float(rnn_relu(a)) == max(a, 0.0)


def test_step_on_bare_arrays_is_the_equations_unit_by_unit():
    rng = np.random.default_rng(0)
    x, h = rng.normal(size=(2, 12)), rng.normal(size=(2, 12))
    state = (rng.normal(size=(2, 3)), rng.normal(size=(2, 3)))
    new_h, new_c = lstm.step(x, h, state)
    assert type(new_h) is np.ndarray
    assert new_h.shape == new_c.shape == (2, 3)
    for b in range(2):
        for unit in range(3):
            gates = [(x + h)[b, gate * 3 + unit] for gate in range(4)]
            expected = lstm(*gates, state[1][b, unit])
            assert new_h[b, unit] == pytest.approx(float(expected[0]), abs=1e-14)
            assert new_c[b, unit] == pytest.approx(float(expected[1]), abs=1e-14)


def test_a_gate_apart_receives_its_two_products_separately():
    rng = np.random.default_rng(1)
    x, h, state = rng.normal(size=(2, 9)), rng.normal(size=(2, 9)), rng.normal(size=(2, 3))
    (new,) = gru.step(x, h, (state,))
    r, z = (x + h)[:, :3], (x + h)[:, 3:6]
    np.testing.assert_allclose(new, gru(r, z, x[:, 6:], h[:, 6:], state), rtol=1e-14)
    (swapped,) = gru.step(h, x, (state,))
    assert not np.allclose(new, swapped)


def test_step_records_on_tensors_and_keeps_float32():
    x = mt.tensor(np.ones((2, 12), np.float32), requires_grad=True)
    h, c = mt.zeros((2, 3)), mt.ones((2, 3))
    new_h, _ = lstm.step(x, mt.zeros((2, 12)), (h, c))
    assert new_h.dtype == np.float32
    new_h.sum().backward()
    assert x.grad.shape == (2, 12)
    assert np.all(x.grad.numpy() != 0)


def test_weights_per_unit_reach_the_equations():
    rng = np.random.default_rng(2)
    peepholes = {name: rng.normal(size=3) for name in ("p_i", "p_f", "p_o")}
    x, zero = rng.normal(size=(2, 12)), np.zeros((2, 12))
    state = (np.zeros((2, 3)), rng.normal(size=(2, 3)))
    got = peephole_lstm.step(x, zero, state, peepholes)
    i, f, g, o = np.split(x, 4, axis=-1)
    expected = peephole_lstm(i, f, g, o, state[1], **peepholes)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14)
    with pytest.raises(ValueError, match="p_f"):
        peephole_lstm.step(x, zero, state, {"p_i": peepholes["p_i"], "p_o": peepholes["p_o"]})


def test_declaring_a_cell_of_ones_own():
    @cell(gates=("a", "b"), apart=("b",), state=("h", "m"), per_unit=("w",))
    def mine(m, b_h, w, a, b_x):  # any order
        """Mine."""
        return mt.tanh(a + w * m) + b_x * b_h, m + a

    assert isinstance(mine, Cell)
    assert mine.__name__ == "mine"
    assert mine.__doc__ == "Mine."
    assert repr(mine) == "<cell mine: gates a, b; apart b; state h, m; per unit w>"
    x, h = np.array([[0.1, 2.0]]), np.array([[0.2, 3.0]])
    new_h, new_m = mine.step(x, h, (np.zeros((1, 1)), np.array([[0.5]])), {"w": np.array([4.0])})
    assert new_h.item() == pytest.approx(math.tanh(0.3 + 2.0) + 6.0)
    assert new_m.item() == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("declaration", "error", "message"),
    [
        ({"gates": "ab"}, TypeError, "sequence of names"),
        ({"gates": ()}, ValueError, "at least one gate"),
        ({"gates": ("a",), "state": ()}, ValueError, "at least one gate"),
        ({"gates": ("a", "1")}, ValueError, "'1'"),
        ({"gates": ("a", "a")}, ValueError, "two things"),
        ({"gates": ("a",), "state": ("a",)}, ValueError, "two things"),
        ({"gates": ("a",), "apart": ("b",)}, ValueError, "no gates"),
        ({"gates": ("a",), "apart": ("a",)}, TypeError, "ask for 'a'"),
        ({"gates": ("a", "b")}, TypeError, r"\['b'\].*do not take"),
        ({"gates": ("a",), "per_unit": ("p",)}, TypeError, r"\['p'\].*do not take"),
        ({"gates": ("b",)}, TypeError, "ask for 'a'"),
    ],
)
def test_a_contradictory_declaration_is_refused(declaration, error, message):
    with pytest.raises(error, match=message):

        @cell(**declaration)
        def faulty(a):
            return a


def test_parameters_that_are_not_plain_are_refused():
    with pytest.raises(TypeError, match="positional"):
        Cell(lambda *a: a, gates=("a",))


def test_the_number_of_state_values_is_checked():
    @cell(gates=("a",), state=("h", "c"))
    def short(a):
        return a

    with pytest.raises(ValueError, match="returned 1 values"):
        short.step(np.ones((1, 1)), np.ones((1, 1)), (np.ones((1, 1)), np.ones((1, 1))))
    with pytest.raises(ValueError, match="1 values were given"):
        short.step(np.ones((1, 1)), np.ones((1, 1)), (np.ones((1, 1)),))


@cell(gates=("a",))
def leaky_of_this_file(a, h):
    return 0.9 * h + 0.1 * mt.tanh(a)


EVERY = [lstm, gru, rnn_tanh, rnn_relu, peephole_lstm, memory_cell, memory_cell_bptt]


@pytest.mark.parametrize("one", [*EVERY, leaky_of_this_file])
def test_cells_are_pickled_by_name_as_functions_are(one):
    assert pickle.loads(pickle.dumps(one)) is one
    assert copy.deepcopy(one) is one


def test_a_cell_without_a_name_of_its_own_is_not_pickled():
    @cell(gates=("a",))
    def local(a):
        return a

    with pytest.raises((pickle.PicklingError, AttributeError), match="local"):
        pickle.dumps(local)
