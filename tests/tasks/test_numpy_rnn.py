"""Document 002's network in NumPy: why it saturates, and how far back its last output knows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import microtensor as mt
from models.numpy_rnn import as_layer, contracting_weights, document_weights, forward_in_numpy
from tasks import numpy_rnn
from tasks.numpy_rnn import (
    EXACTLY_ONE,
    NEARLY_ONE,
    PRINTED_STEP,
    bounds,
    changes,
    last_outputs,
    replaced_one_by_one,
    rounding,
    shown,
)

SHOWN = "steps of 100 that show in the last output"


def run_quick(tasks_cli: Any, words: str = "") -> tuple[int, dict[str, Any], Any]:
    done = tasks_cli(f"run numpy_rnn --preset quick --check --json {words}")
    return done.code, {row["name"]: row for row in done.json["rows"]}, done


def test_the_weights_are_the_documents() -> None:
    weights = document_weights(mt.Generator(0), 32, 64)
    assert [w.shape for w in weights] == [(64, 32), (64, 64), (64,)]
    assert sum(w.size for w in weights) == 6208
    for w in weights:
        assert w.dtype == np.float64
        assert w.min() >= 0
        assert 0.9 < w.max() < 1


def test_the_loop_is_the_documents() -> None:
    w = document_weights(mt.Generator(0), 3, 4)
    x = mt.Generator(1).uniform(0, 1, (5, 3), np.float64)
    state_t, successive_outputs = np.zeros((4,)), []
    for input_t in x:
        output_t = np.tanh(np.dot(w.W, input_t) + np.dot(w.U, state_t) + w.b)
        successive_outputs.append(output_t)
        state_t = output_t
    before, after = forward_in_numpy(w, x)
    np.testing.assert_array_equal(after, np.stack(successive_outputs, axis=0))
    np.testing.assert_array_equal(np.tanh(before), after)


def test_where_a_tanh_is_one() -> None:
    assert 1 - math.tanh(NEARLY_ONE) == pytest.approx(1e-5, rel=1e-4)
    assert math.tanh(EXACTLY_ONE + 0.01) == 1.0
    assert math.tanh(EXACTLY_ONE - 0.6) < 1.0


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 8), st.integers(0, 999))
@settings(max_examples=30)
def test_the_layer_is_the_loop(features: int, units: int, steps: int, seed: int) -> None:
    generator = mt.Generator(seed)
    x = generator.normal((steps, features), np.float64)
    weights = contracting_weights(generator, features, units, 1.5)
    _, after = forward_in_numpy(weights, x)
    output, _ = as_layer(weights)(mt.tensor(x[:, None]))
    np.testing.assert_allclose(output.detach().numpy()[:, 0], after, rtol=0, atol=1e-12)


@given(st.floats(0.1, 2.0), st.integers(1, 20), st.integers(0, 999))
@settings(max_examples=30)
def test_no_change_exceeds_its_bound(radius: float, steps: int, seed: int) -> None:
    generator = mt.Generator(seed)
    weights = contracting_weights(generator, 3, 5, radius)
    np.testing.assert_allclose(np.abs(np.linalg.eigvals(weights.U)), radius, rtol=1e-9)
    x, others = generator.uniform(0, 1, (2, steps, 3), np.float64)
    moved = changes(weights, replaced_one_by_one(x, others), "float64")
    # rounding of every step is stretched by the later ones
    floor = rounding(5, "float64") * steps * max(1.0, radius) ** steps
    assert (moved <= bounds(weights, x, others, radius) + floor).all()


def test_each_sequence_has_one_step_replaced() -> None:
    x, others = np.zeros((4, 2)), np.ones((4, 2))
    batch = replaced_one_by_one(x, others)
    assert batch.shape == (4, 5, 2)
    changed = batch[:, :, 0]
    assert changed[:, 0].tolist() == [0, 0, 0, 0]
    assert changed[:, 1].tolist() == [0, 0, 0, 1]
    assert changed[:, 4].tolist() == [1, 0, 0, 0]
    assert (batch[:, :, 0] == batch[:, :, 1]).all()


def test_changes_are_those_of_the_loop() -> None:
    generator = mt.Generator(3)
    weights = contracting_weights(generator, 3, 5, 0.9)
    x, others = generator.uniform(0, 1, (2, 6, 3), np.float64)
    moved = changes(weights, replaced_one_by_one(x, others), "float64")
    _, plain = forward_in_numpy(weights, x)
    for distance in range(6):
        y = x.copy()
        y[5 - distance] = others[5 - distance]
        _, after = forward_in_numpy(weights, y)
        assert moved[distance] == pytest.approx(np.abs(after - plain)[-1].max(), abs=1e-14)


def test_shown_counts_up_to_the_oldest_step_that_moves_the_output() -> None:
    assert shown(np.array([1.0, 0.5, 0.0, 0.2, 0.0]), 0.1) == 4
    assert shown(np.array([0.1, 0.1]), 0.1) == 0
    assert shown(np.ones(7), 0.5) == 7


def test_with_the_documents_weights_the_last_output_is_ones_whatever_came_in() -> None:
    weights = document_weights(mt.Generator(5), 32, 64)
    x, others = mt.Generator(6).uniform(0, 1, (2, 20, 32), np.float64)
    last = last_outputs(weights, replaced_one_by_one(x, others), "float64")
    assert (last == 1.0).all()


def test_quick_passes_and_says_how_far_the_claim_holds(tasks_cli: Any) -> None:
    code, rows, done = run_quick(tasks_cli)
    assert code == 0
    assert rows[f"U[0, 1): {SHOWN}"]["value"] == 0
    assert rows["U[0, 1): mean that goes into the tanh, last step"]["target"] == 40.5
    assert rows[f"radius 0.5: {SHOWN}, float64"]["value"] < 50
    assert rows[f"radius 1: {SHOWN}, float64"]["value"] == 100
    assert rows[f"radius 1: {SHOWN}, float32"]["value"] < 80
    assert rows["parameters"]["value"] == 6208
    assert f"Shape (64,): the output of step {PRINTED_STEP}" in done.stderr
    assert "(100, 64)" in done.stderr
    figures = sorted(path.name for path in done.out.rglob("*.png"))
    assert figures == ["memory.png", "saturation.png"]


def test_other_sizes_run_without_the_documents_verdicts(tasks_cli: Any) -> None:
    for words in (
        "--input-size 1 --hidden-size 1 --steps 8",
        "--steps 3 --no-plots",
        "--steps 101 --radii 0.5 --no-plots",
    ):
        code, _, _ = run_quick(tasks_cli, f"--trials 1 {words}")
        assert code == 0, words


@pytest.mark.parametrize(
    ("what", "row"),
    [
        ("centred weights", f"U[0, 1): {SHOWN}"),
        ("no recurrence", f"radius 1: {SHOWN}, float64"),
        ("another nonlinearity", "largest difference between NumPy's outputs and the layer's"),
        ("wrong radius", "largest change of the last output over its bound"),
    ],
)
def test_a_planted_fault_makes_check_exit_with_1(
    tasks_cli: Any, monkeypatch: Any, what: str, row: str
) -> None:
    layer, contracting = numpy_rnn.as_layer, numpy_rnn.contracting_weights
    if what == "centred weights":
        real = numpy_rnn.document_weights
        monkeypatch.setattr(
            numpy_rnn,
            "document_weights",
            lambda *a: (w := real(*a))._replace(W=w.W - 0.5, U=w.U - 0.5),
        )
    elif what == "wrong radius":
        monkeypatch.setattr(
            numpy_rnn, "contracting_weights", lambda g, i, h, radius: contracting(g, i, h, 2.0)
        )
    else:

        def faulty(weights: Any, dtype: str = "float64") -> Any:
            if what == "no recurrence":
                weights = weights._replace(U=0.0 * weights.U)
            made = layer(weights, dtype)
            if what == "another nonlinearity":
                relu = mt.nn.RNN(32, 64, 1, "relu", bias="single", dtype=dtype)
                relu.load_state_dict(made.state_dict())
                return relu
            return made

        monkeypatch.setattr(numpy_rnn, "as_layer", faulty)
    with np.errstate(all="ignore"):
        code, rows, _ = run_quick(tasks_cli, "--no-plots --trials 1")
    assert code == 1
    assert rows[row]["ok"] is False


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--steps 2", "steps must be at least 3; got 2"),
        ("--hidden-size 0", "hidden_size must be at least 1; got 0"),
        ("--radii 0.5 0", "radii must be one or more numbers above 0; got (0.5, 0.0)"),
        ("--radii 1 1", "radii must be distinct; got (1.0, 1.0)"),
    ],
)
def test_what_makes_no_sense_is_refused(tasks_cli: Any, words: str, said: str) -> None:
    done = tasks_cli(f"run numpy_rnn {words}")
    assert done.code == 2
    assert said in done.stderr
