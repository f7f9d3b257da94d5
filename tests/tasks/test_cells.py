"""cells: equal parameters, the sketch as document 002 writes it, honest verdicts on the claims."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import microtensor as mt
from models.carry_track import CarryTrack
from models.cells import Reading
from tasks import cells, readers_cell, registry
from tasks.cells import CELLS, PROBLEMS, CellsSettings, median_interval, needed, units_of
from tasks.harness import Run, Trial
from tasks.work import Work

# -- the cells


@pytest.mark.parametrize("gate", [mt.tanh, mt.sigmoid])
def test_the_sketch_is_what_the_document_writes(gate: Any) -> None:
    """Against its four lines in NumPy."""
    cell = CarryTrack(2, 3, gate=gate, generator=mt.Generator(1)).astype("float64")
    p = {name: value.numpy() for name, value in cell.state_dict().items()}
    act = np.tanh if gate is mt.tanh else lambda a: 1 / (1 + np.exp(-a))
    weight, recurrent, bias = (
        dict(zip("oifk", np.split(p[name], 4), strict=True))
        for name in ("weight_ih", "weight_hh", "bias")
    )
    x = mt.Generator(2).normal((6, 4, 2), np.float64)
    h, c = np.zeros((4, 3)), np.zeros((4, 3))
    expected = []
    for row in x:
        sums = {n: row @ weight[n].T + h @ recurrent[n].T + bias[n] for n in "oifk"}
        h = np.tanh(sums["o"] + c @ p["weight_ch"].T)
        c = act(sums["i"]) * np.tanh(sums["k"]) + c * act(sums["f"])
        expected.append(h)
    output, (_, carry) = mt.nn.Recurrent(cell)(mt.tensor(x))
    np.testing.assert_allclose(output.detach().numpy(), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(carry.detach().numpy()[0], c, rtol=0, atol=1e-12)


def test_the_reading_reads_every_step() -> None:
    layer, width = readers_cell.build("gru", 2, 3, generator=mt.Generator(0))
    model = Reading(layer, width, 4, generator=mt.Generator(1))
    x = mt.tensor(mt.Generator(2).normal((5, 2, 2)))
    with mt.no_grad():
        whole, last = model(x)
        first, state = model(x[:2])
        second, end = model(x[2:], state)
    assert whole.shape == (5, 2, 4)
    np.testing.assert_allclose(
        np.concatenate([first.numpy(), second.numpy()]), whole.numpy(), atol=1e-6
    )
    np.testing.assert_allclose(end.numpy(), last.numpy(), atol=1e-6)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("units", [1, 5])
def test_parameters_are_counted_as_they_are_built(cell: str, units: int) -> None:
    layer, _ = readers_cell.build(cell, 2, units, generator=mt.Generator(0))
    assert sum(p.size for p in layer.parameters()) == cells.weights_of(cell, 2, units)


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=lambda p: p.title)
def test_units_come_closest_to_the_lstms_parameters(problem: Any) -> None:
    lstm = cells.parameters_of("lstm", problem, 12)
    for cell in CELLS:
        units = units_of(cell, problem, 12)
        off = abs(cells.parameters_of(cell, problem, units) - lstm)
        for other in (units - 1, units + 1):
            assert off <= abs(cells.parameters_of(cell, problem, other) - lstm)
        assert off <= 0.06 * lstm
    assert units_of("lstm", problem, 12) == 12


# -- the tests of the claims


@given(st.integers(1, 40))
def test_a_sign_test_is_as_strict_as_it_says(trials: int) -> None:
    def chance(least: int) -> float:
        return sum(math.comb(trials, k) for k in range(least, trials + 1)) / 2**trials

    asked = needed(trials)
    if asked is None:
        assert chance(trials) > 0.05
    else:
        assert chance(asked) <= 0.05 < chance(asked - 1)


def test_a_sign_test_over_ten_seeds_asks_for_nine() -> None:
    assert needed(10) == 9
    assert needed(5) == 5
    assert needed(4) is None


def test_the_interval_of_the_median_covers_as_often_as_it_says() -> None:
    """Every pattern of signs around the median of ten values is equally likely."""
    misses = 0
    for signs in itertools.product((-1.0, 1.0), repeat=10):
        low, high = median_interval(signs)
        misses += not low <= 0 <= high
    assert misses / 2**10 == pytest.approx(2 * 11 / 1024)  # 2 P(at most 1 of 10) = 2.1 %
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)


def planted(**losses: list[float]) -> list[Any]:
    """The rows of a run in which the echo's losses above the floor are these; others are alike."""
    trials = []
    count = len(next(iter(losses.values())))
    for variant in cells.variants(CellsSettings(cost=False)):
        name, _, cell = variant.rpartition("_")
        for k in range(count):
            left = losses.get(cell, [0.1] * count)[k] if name == "echo" else 0.1
            values = {"loss": PROBLEMS[name].floor + left, "solved": False, "units": 1}
            trials.append(Trial(k, values | {"parameters": 700}, variant=variant))
    settings = CellsSettings(trials=count, cost=False)
    run = Run(settings, "document", 0, "numpy", tuple(trials), ())
    return {row.name: row for row in cells.rows(run)}


GRU_LSTM = "claim, binary echo: GRU better than LSTM, of the seeds"
GRU_RNN = "claim, binary echo: GRU far better than RNN (by a factor of 2), of the seeds"


def test_the_verdicts_say_shown_not_shown_and_the_opposite() -> None:
    rows = planted(gru=[0.09] * 9 + [0.2], lstm=[0.1] * 10, rnn=[0.3] * 10)
    assert rows[GRU_LSTM].ok is True
    assert rows[GRU_LSTM].solved == 9
    assert rows[GRU_LSTM].note.startswith("Shown")
    assert rows[GRU_RNN].ok is True
    assert rows["binary echo: loss above the floor, GRU over LSTM"].value == pytest.approx(0.9)

    rows = planted(gru=[0.09] * 8 + [0.2] * 2, lstm=[0.1] * 10, rnn=[0.15] * 8 + [0.3] * 2)
    assert rows[GRU_LSTM].ok is False
    assert rows[GRU_LSTM].note.startswith("Not shown: a sign test needs 9 of 10")
    assert rows[GRU_RNN].note == "Not shown: better, but not by that factor."

    rows = planted(gru=[0.2] * 10, lstm=[0.1] * 10)
    assert rows[GRU_LSTM].ok is False
    assert "the opposite is" in rows[GRU_LSTM].note

    rows = planted(gru=[math.nan] * 10)
    assert rows[GRU_LSTM].ok is False

    rows = planted(gru=[0.01] * 4)
    assert rows[GRU_LSTM].ok is None
    assert "at least 5 trials" in rows[GRU_LSTM].note


# -- the runs


def test_all_cells_of_a_trial_see_the_same_data(monkeypatch: Any) -> None:
    seen: dict[str, list[np.ndarray]] = {}
    variant = ""

    def watching(loss: Any, model: Any, optimizer: Any, clip: float = 0.0) -> float:
        return 0.0

    real = mt.tensor

    def tensor(value: Any, *rest: Any, **other: Any) -> Any:
        seen.setdefault(variant, []).append(np.asarray(value))
        return real(value, *rest, **other)

    monkeypatch.setattr(cells, "_update", watching)
    monkeypatch.setattr(cells.mt, "tensor", tensor)
    s = CellsSettings(trials=1, echo_updates=2, adding_updates=2, sin_cos_iterations=2)
    for name in PROBLEMS:
        for cell in ("rnn", "lstm"):
            variant = f"{name}_{cell}"
            cells.train(Work(settings=s, variant=variant))
        one, other = seen[f"{name}_rnn"], seen[f"{name}_lstm"]
        assert len(one) == len(other) >= 4
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_sine_and_echo_go_on_where_the_last_batch_ended() -> None:
    """Two updates of the sine at a learning rate of 0 give what one call over 40 steps gives."""
    from tasks import sin_cos

    s = CellsSettings(trials=1, sin_cos_iterations=2, hidden_size=2)
    work = Work(settings=s, variant="sin_cos_gru")
    units = units_of("gru", PROBLEMS["sin_cos"], 2)
    layer, width = readers_cell.build("gru", 1, units, generator=mt.Generator(0))
    model = Reading(layer, width, 1, generator=mt.Generator(1))
    places = np.concatenate([sin_cos.samples(0), sin_cos.samples(1)], axis=1).T[:, :, None]
    with mt.no_grad():
        whole, _ = model(mt.tensor(np.sin(places).astype("float32")))
    expected = [
        sin_cos.cost_of(whole.numpy()[part], np.cos(places[part]))
        for part in (slice(20), slice(20, 40))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "_update", lambda loss, *rest: float(loss.item()))
        mean, _ = cells._sin_cos(work, model)
    assert mean == pytest.approx(np.mean(expected), rel=1e-5)


def test_quick_judges_counts_only(tasks_cli: Any) -> None:
    done = tasks_cli("run cells --preset quick --check --json")
    assert done.code == 0, done.stderr
    judged = {row["name"]: row["ok"] for row in done.json["rows"] if row["ok"] is not None}
    assert len(judged) == 5
    assert all(judged.values())
    assert all("parameters" in name or "weights" in name for name in judged)
    figures = sorted(path.name for path in done.out.rglob("*.png"))
    assert figures == ["learning_curves.png", "loss_against_time.png", "solved.png"]


def test_cells_that_learn_nothing_make_check_exit_with_1(tasks_cli: Any, monkeypatch: Any) -> None:
    """No update is made, so no claim can be shown; every loss is finite, and the counts hold."""
    monkeypatch.setattr(cells, "_update", lambda loss, *rest, **clip: float(loss.item()))
    words = "--echo-updates 1 --adding-updates 1 --sin-cos-iterations 1 --no-cost --trials 5"
    monkeypatch.setattr(cells.adding, "EXAM", 32)
    done = tasks_cli(f"run cells --no-plots --check --json {words}")
    assert done.code == 1
    missed = [row["name"] for row in done.json["rows"] if row["ok"] is False]
    assert missed
    assert all(name.startswith("claim, ") for name in missed)
    assert sum("far better" in name for name in missed) == 8


def test_it_is_found() -> None:
    assert registry.load("cells").documents == ("002", "000")
