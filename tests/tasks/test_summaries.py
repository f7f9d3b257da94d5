"""Document 002's model summaries: every shape and count, and what a second bias is for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import microtensor as mt
from microtensor import nn
from models import summaries as models
from tasks import summaries
from tasks.summaries import KERAS, as_called, merge_biases, summarize


def run_quick(tasks_cli: Any, words: str = "") -> tuple[int, dict[str, Any], Any]:
    done = tasks_cli(f"run summaries --preset quick --check --json {words}")
    return done.code, {row["name"]: row for row in done.json["rows"]}, done


def keras_count(name: str) -> int:
    """The counts by the layers' formulas, written out once more."""

    def gates(how_many: int, inputs: int, units: int, biases: int = 1) -> int:
        return how_many * units * (inputs + units + biases)

    embedding, dense = 10_000 * 32, 32 + 1
    return {
        "last_output": embedding + gates(1, 32, 32),
        "all_outputs": embedding + gates(1, 32, 32),
        "stacked": embedding + 4 * gates(1, 32, 32),
        "lstm": embedding + gates(4, 32, 32) + dense,
        "rnn": embedding + gates(1, 32, 32) + dense,
        "gru_before": gates(3, 14, 32) + dense,
        "gru_after": gates(3, 14, 32, 2) + dense,
    }[name]


def test_the_tables_add_up_to_the_documents_totals() -> None:
    totals = {name: keras.total for name, keras in KERAS.items()}
    assert totals == {name: keras_count(name) for name in KERAS}
    assert list(totals.values()) == [322_080, 322_080, 328_320, 328_353, 322_113, 4_545, 4_641]
    printed = [name for name, keras in KERAS.items() if keras.source == "document"]
    assert printed == ["last_output", "all_outputs", "stacked", "lstm"]


def test_a_layer_returns_the_last_output_or_all_of_them() -> None:
    x = mt.Generator(0).normal((2, 5, 32))
    layer = models.SimpleRNN("single", return_sequences=True)
    last = models.SimpleRNN("single")
    last.load_state_dict(layer.state_dict())
    every = layer(mt.tensor(x)).detach().numpy()
    assert every.shape == (2, 5, 32)
    np.testing.assert_array_equal(last(mt.tensor(x)).detach().numpy(), every[:, -1])
    outputs, state = nn.RNN.forward(layer, mt.tensor(x))
    np.testing.assert_array_equal(outputs.detach().numpy(), every)
    np.testing.assert_array_equal(state.detach().numpy()[0], every[:, -1])


@given(st.integers(1, 4), st.integers(1, 6))
@settings(max_examples=10, deadline=None)
def test_none_stands_for_the_sizes_of_the_call(batch: int, steps: int) -> None:
    for keras in (KERAS["stacked"], KERAS["gru_before"]):
        inputs = models.weather if keras.build is models.weather_gru else models.words
        summary = summarize(keras.build(**keras.options), inputs(batch, steps))
        shapes = [as_called(layer.shape, batch, steps) for layer in keras.layers]
        assert [row.output for row in summary.rows[1:]] == shapes
        assert summary.parameters == keras.total
    assert as_called((None, None, 32), batch, steps) == (batch, steps, 32)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 6), st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_a_second_bias_is_idle_but_after_a_reset(
    inputs: int, units: int, steps: int, seed: int
) -> None:
    generator = mt.Generator(seed)
    x = mt.tensor(generator.normal((steps, 2, inputs), np.float64))
    for name, (layer_class, options) in summaries.RECURRENT.items():
        layer = layer_class(inputs, units, dtype="float64", generator=generator, **options)
        before = layer(x)[0].detach().numpy()
        merge_biases(layer)
        assert not layer.bias_hh_l0.detach().numpy().any()
        difference = np.abs(layer(x)[0].detach().numpy() - before).max()
        assert (difference < 1e-13) == (name != "GRU, reset after"), name


def test_it_passes_its_own_check_and_prints_the_summaries(tasks_cli: Any) -> None:
    code, rows, done = run_quick(tasks_cli)
    assert code == 0
    assert all(row["ok"] for row in rows.values())
    assert len(rows) == 3 * len(KERAS) + 4
    for total in ("322,080", "328,320", "328,353", "322,113", "4,545", "4,641"):
        assert f"{total} parameters, {total} trainable" in done.stderr
    assert "(2, 20, 32)" in done.stderr
    assert len(done.stdout.splitlines()) == 1  # the JSON alone: summaries go with the rest


def test_no_count_depends_on_the_call(tasks_cli: Any) -> None:
    code, rows, _ = run_quick(tasks_cli, "--batch 1 --steps 1")
    assert code == 0
    assert rows["Embedding, LSTM, Dense: parameters"]["value"] == 328_353


@pytest.mark.parametrize(
    ("fault", "row"),
    [
        ("two biases", "Embedding, four SimpleRNN: parameters"),
        ("all outputs", "Embedding, SimpleRNN: layers whose kind, shape and count are Keras'"),
        ("other words", "Embedding, LSTM, Dense: parameters"),
        ("one layer more", "Embedding, SimpleRNN: layers whose kind, shape and count are Keras'"),
    ],
)
def test_a_planted_fault_makes_check_exit_with_1(
    tasks_cli: Any, monkeypatch: Any, fault: str, row: str
) -> None:
    if fault == "two biases":
        real = models.SimpleRNN.__init__
        monkeypatch.setattr(
            models.SimpleRNN,
            "__init__",
            lambda self, bias, return_sequences=False: real(self, True, return_sequences),
        )
    elif fault == "all outputs":
        monkeypatch.setattr(models.SimpleRNN, "forward", lambda self, x: nn.RNN.forward(self, x)[0])
    elif fault == "other words":
        monkeypatch.setattr(models, "WORDS", 10_001)
    else:
        longer = KERAS["last_output"]._replace(
            build=lambda bias="single": nn.Sequential(
                *models.last_output(bias), nn.Linear(32, 1, bias=False)
            )
        )
        monkeypatch.setitem(KERAS, "last_output", longer)
    code, rows, _ = run_quick(tasks_cli, "--trials 1")
    assert code == 1
    assert rows[row]["ok"] is False


@pytest.mark.parametrize("name", ["batch", "steps"])
def test_what_makes_no_sense_is_refused(tasks_cli: Any, name: str) -> None:
    done = tasks_cli(f"run summaries --{name} 0")
    assert done.code == 2
    assert f"{name} must be at least 1; got 0" in done.stderr
