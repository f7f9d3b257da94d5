"""Document 000's hand-set LSTM: the oracle, the engine against it, and faults that must show."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from backends import device  # noqa: F401 - a fixture
from hypothesis import given
from hypothesis import strategies as st

import microtensor as mt
from models.hand_lstm import HandLSTM
from tasks import hand_lstm
from tasks.cli import main
from tasks.work import Work

words = st.lists(
    st.tuples(st.integers(-9, 9), st.integers(-1, 1), st.integers(0, 1)), min_size=1, max_size=12
)


def meaning(xs):
    """What the document says the cell does, in whole numbers: write, wipe, speak."""
    memory, spoken = 0, []
    for value, command, speak in xs:
        if command == 1:
            memory += value
        if command == -1:
            memory = 0
        spoken.append(memory if speak else 0)
    return spoken


def run(xs, dtype="float64"):
    return HandLSTM(dtype)(mt.tensor(np.array(xs, dtype)))


def check(tmp_path, capsys, *options):
    code = main(
        [
            "run",
            "hand_lstm",
            "--check",
            "--json",
            "--jobs",
            "1",
            "--no-plots",
            "--out",
            str(tmp_path),
            *options,
        ]
    )
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    return code, {row["name"]: row for row in rows}


def test_the_oracle_speaks_the_documents_outputs():
    for xs, outputs in (
        (hand_lstm.FIVE_STEPS, hand_lstm.FIVE_OUTPUTS),
        (hand_lstm.NINE_STEPS, hand_lstm.NINE_OUTPUTS),
    ):
        exact = hand_lstm.exact_steps(xs)
        assert [round(step.output) for step in exact] == list(outputs)


def test_the_oracle_agrees_with_figures_worked_out_elsewhere():
    *_, fourth, last = hand_lstm.exact_steps(hand_lstm.FIVE_STEPS)
    assert float(fourth.memory) == pytest.approx(6.99950063, abs=5e-9)
    assert float(last.memory) == pytest.approx(5.7354e-39, rel=1e-4)
    assert float(last.output) == pytest.approx(2.6037e-43, rel=1e-4)


def test_the_oracles_powers_are_exact():
    for base in ("0.99", "1.01"):
        power = Fraction(base) ** 999
        slope = 999 * Fraction(base) ** 998
        assert hand_lstm.exact_power(base, 999) == (float(power), float(slope))


@given(words)
def test_the_cell_does_what_its_commands_say(xs):
    spoken = [step.output.item() for step in run(xs)]
    # The gates are open or closed to 4.5e-5; nine and twelve steps bound what that can add up to.
    assert np.abs(np.array(spoken) - meaning(xs)).max() < 12 * 12 * 9 * 5e-5


@given(words)
def test_every_gate_memory_and_output_is_exact(xs):
    for ours, exact in zip(run(xs), hand_lstm.exact_steps(xs), strict=True):
        for value, true in zip(ours[1:4], exact[:3], strict=True):
            assert value.item() == pytest.approx(float(true), rel=1e-12, abs=0.0)
        # The memory is a sum whose terms may cancel: what is left is exact against the terms.
        for value, true in zip(ours[4:], exact[3:], strict=True):
            assert value.item() == pytest.approx(float(true), rel=1e-12, abs=1e-13)


@given(words)
def test_float32_survives_logits_whose_exponentials_overflow(xs):
    for ours, exact in zip(run(xs, "float32"), hand_lstm.exact_steps(xs), strict=True):
        assert ours.output.dtype == np.float32
        assert ours.output.item() == pytest.approx(float(exact.output), rel=1e-5, abs=1e-4)


@given(st.floats(0.5, 1.5), st.integers(2, 40))
def test_repeated_multiplication_and_its_gradients(w, steps):
    flow = hand_lstm.multiply_again_and_again(w, steps)
    assert flow.output == pytest.approx(w ** (steps - 1), rel=1e-12)
    assert flow.weight_gradient == pytest.approx((steps - 1) * w ** (steps - 2), rel=1e-12)
    np.testing.assert_allclose(flow.input_gradients, w ** np.arange(steps)[::-1], rtol=1e-12)


def test_the_cells_gradient_decays_by_its_forget_gate_alone():
    flow = hand_lstm.gradient_in_the_cell(50)
    gate = 1 / (1 + math.exp(-10))
    np.testing.assert_allclose(flow, gate ** np.arange(50)[::-1], rtol=1e-12)


def test_it_passes_its_own_check(tmp_path, capsys):
    code, rows = check(tmp_path, capsys)
    assert code == 0
    assert all(row["ok"] for row in rows.values())
    assert {row["source"] for row in rows.values()} >= {"document", "computed"}


def test_a_memory_that_is_not_carried_fails(tmp_path, capsys, monkeypatch):
    step = HandLSTM.step
    monkeypatch.setattr(HandLSTM, "step", lambda self, x, memory: step(self, x, memory * 0.0))
    code, rows = check(tmp_path, capsys)
    assert code == 1
    assert not rows["5 steps: outputs that round to the printed ones"]["ok"]
    assert not rows["gradient that passes the closed forget gate"]["value"]


def test_two_rows_of_weights_exchanged_fail(tmp_path, capsys, monkeypatch):
    init = HandLSTM.__init__

    def exchanged(self, dtype="float64"):
        init(self, dtype)
        self.load_state_dict(
            {name: value.numpy()[[0, 1, 3, 2]] for name, value in self.state_dict().items()}
        )

    monkeypatch.setattr(HandLSTM, "__init__", exchanged)
    code, rows = check(tmp_path, capsys)
    assert code == 1
    assert not rows["first step: logits equal to the printed 3, 90, -10, 110"]["ok"]


def test_a_cut_in_the_recurrence_fails(tmp_path, capsys, monkeypatch):
    # One step of back-propagation: the gradient of w^999 then misses 998 of its 999 terms.
    def cut(w, steps):
        whole = hand_lstm_flow(w, steps)
        return whole._replace(weight_gradient=whole.output / w)

    hand_lstm_flow = hand_lstm.multiply_again_and_again
    monkeypatch.setattr(hand_lstm, "multiply_again_and_again", cut)
    code, rows = check(tmp_path, capsys)
    assert code == 1
    assert not rows["gradient of 0.99^999 by the weight"]["ok"]


@pytest.mark.parametrize("steps", ["1", "10001", "72000"])
def test_refuses_a_recurrence_too_short_or_too_long(steps, tmp_path, capsys):
    assert main(["run", "hand_lstm", "--steps", steps, "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said == f"tasks: hand_lstm: steps must be from 2 to 10000; got {steps}\n"


def test_the_longest_recurrence_is_exact(tmp_path, capsys):
    code, rows = check(tmp_path, capsys, "--steps", "10000")
    assert code == 0
    assert rows["1.01^9999"]["ok"]


def test_it_says_the_same_on_every_backend(device):  # noqa: F811
    settings = hand_lstm.HandSettings(steps=20)
    [host] = hand_lstm.train(Work(settings))
    with device():
        [there] = hand_lstm.train(Work(settings, backend=device.name))
    assert there.values == pytest.approx(dict(host.values), rel=1e-12)
