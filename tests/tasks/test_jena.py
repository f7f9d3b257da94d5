"""jena: the book's generator and networks as published, the levels, and faults that must show."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import microtensor as mt
from models.jena import BUILDERS, RecurrentForecaster
from tasks import jena, registry
from tasks.harness import Run, Trial, UsageError
from tasks.jena import (
    FEATURES,
    HEADER,
    NAIVE,
    PUBLISHED,
    TASK,
    TEMPERATURE,
    Climate,
    JenaSettings,
    Windows,
    divide,
    parse,
    synthetic,
    train,
    training_rows,
    validation_batches,
    validation_rows,
)
from tasks.work import Hooks, Interrupted, Work

QUICK = TASK.presets["quick"]

# -- the networks


def parameters(model: Any) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("dense", 107_585),
        ("gru", 4_641),
        ("dropout", 4_641),
        ("stacked", 23_489),
        ("reversed", 4_641),
        ("bidirectional", 9_281),
    ],
)
def test_the_networks_have_the_published_sizes(name: str, count: int) -> None:
    model = BUILDERS[name](240, 14, mt.Generator(0))
    assert sum(math.prod(p.shape) for p in model.parameters()) == count
    assert jena._parameters(name, JenaSettings()) == count


def test_the_books_count_is_that_of_one_bias_a_gate() -> None:
    layer = mt.nn.GRU(14, 32, bias="single")
    assert sum(math.prod(p.shape) for p in layer.parameters()) + 33 == 4_545


def test_weights_start_as_keras_draws_them() -> None:
    for seed in range(5):
        p = parameters(BUILDERS["stacked"](240, 14, mt.Generator(seed)))
        for layer, inputs, size in (("0", 14, 32), ("1", 32, 64)):
            kernel, recurrent = p[f"layers.{layer}.weight_ih_l0"], p[f"layers.{layer}.weight_hh_l0"]
            limit = math.sqrt(6 / (inputs + 3 * size))  # the three gates are one kernel
            assert 0.97 * limit < np.abs(kernel).max() <= np.float32(limit)
            np.testing.assert_allclose(recurrent.T @ recurrent, np.eye(size), atol=1e-5)
        assert all((value == 0).all() for name, value in p.items() if "bias" in name)
        assert np.abs(p["readout.weight"]).max() <= np.float32(math.sqrt(6 / 65))


def gru_by_hand(x: np.ndarray, p: dict[str, np.ndarray], end: str, candidate: Any) -> np.ndarray:
    """All states, (B, T, H), by the equations of Keras with `reset_after`."""
    w, u = p[f"weight_ih_l0{end}"], p[f"weight_hh_l0{end}"]
    b, b_h = p[f"bias_ih_l0{end}"], p[f"bias_hh_l0{end}"]
    h, states = np.zeros((len(x), u.shape[1])), []
    for t in range(x.shape[1]):
        x_r, x_z, x_n = np.split(x[:, t] @ w.T + b, 3, axis=1)
        h_r, h_z, h_n = np.split(h @ u.T + b_h, 3, axis=1)
        r, z = 1 / (1 + np.exp(-x_r - h_r)), 1 / (1 + np.exp(-x_z - h_z))
        h = (1 - z) * candidate(x_n + r * h_n) + z * h
        states.append(h)
    return np.stack(states, axis=1)


@pytest.mark.parametrize("name", list(BUILDERS))
def test_the_networks_compute_their_equations(name: str) -> None:
    model = BUILDERS[name](9, 5, mt.Generator(4)).astype("float64").eval()
    with mt.no_grad():
        for p in model.parameters():  # biases too
            p[...] = mt.Generator(len(p.shape)).normal(p.shape, np.float64) * 0.3
    p = parameters(model)
    x = mt.Generator(5).normal((3, 9, 5), np.float64)
    layers = [
        {key.rpartition(".")[2]: value for key, value in p.items() if key.startswith(f"layers.{k}")}
        for k in (0, 1)
    ]
    first = layers[0]
    match name:
        case "dense":
            hidden = np.maximum(x.reshape(3, -1) @ p["hidden.weight"].T + p["hidden.bias"], 0)
        case "gru" | "dropout":
            hidden = gru_by_hand(x, first, "", np.tanh)[:, -1]
        case "stacked":
            below = gru_by_hand(x, first, "", np.tanh)
            hidden = gru_by_hand(below, layers[1], "", lambda a: np.maximum(a, 0))[:, -1]
        case "reversed":
            hidden = gru_by_hand(x[:, ::-1], first, "", np.tanh)[:, -1]
        case "bidirectional":
            there = gru_by_hand(x, first, "", np.tanh)[:, -1]
            back = gru_by_hand(x[:, ::-1], first, "_reverse", np.tanh)[:, -1]
            hidden = np.concatenate([there, back], axis=1)
    expected = (hidden @ p["readout.weight"].T + p["readout.bias"])[:, 0]
    with mt.no_grad():
        ours = model(mt.tensor(x)).numpy()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-11)


def test_dropout_has_one_mask_a_sequence_and_none_in_validation() -> None:
    model = RecurrentForecaster(50, dropout=0.2, generator=mt.Generator(1))
    seen = model._with_dropout(mt.ones((40, 7, 50))).numpy()
    np.testing.assert_array_equal(seen, seen[:, :1].repeat(7, axis=1))
    assert set(np.unique(seen)) == {0, np.float32(1 / np.float32(0.8))}
    assert (seen == 0).mean() == pytest.approx(0.2, abs=0.03)
    assert (seen[0] != seen[1]).any()

    model = BUILDERS["dropout"](6, 14, mt.Generator(1))
    x = mt.tensor(mt.Generator(2).normal((4, 6, 14)))
    with mt.no_grad():
        once, twice = model(x).numpy(), model(x).numpy()
        at_rest = model.eval()(x).numpy()
        np.testing.assert_array_equal(at_rest, model(x).numpy())
    assert (once != twice).all()
    without = BUILDERS["gru"](6, 14, mt.Generator(1))  # the same key: the same weights
    with mt.no_grad():
        np.testing.assert_array_equal(at_rest, without(x).numpy())


# -- the weather file


def written(values: np.ndarray) -> bytes:
    lines = [f"01.01.2009 00:10:00,{','.join(map(repr, line.tolist()))}" for line in values]
    return "\n".join([HEADER, *lines, ""]).encode()


@given(st.lists(st.lists(st.floats(-1e4, 1e4), min_size=14, max_size=14), min_size=1, max_size=4))
def test_the_file_is_read_to_the_bit(numbers: list[list[float]]) -> None:
    content = written(np.array(numbers))
    table = list(csv.reader(io.StringIO(content.decode())))[1:]
    np.testing.assert_array_equal(
        parse(content, "x"), [[float(v) for v in row[1:]] for row in table]
    )


def test_the_header_names_fourteen_quantities() -> None:
    [names] = csv.reader([HEADER])
    assert len(names) == 1 + FEATURES
    assert names[1 + TEMPERATURE] == "T (degC)"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (HEADER, HEADER.replace("T (degC)", "T (degF)")),
        (",2.5,", ",warm,"),
        (",2.5,", ","),
        (",2.5,", ",,"),
        (",2.5,", ",nan,"),
        ("\n01", "\nx"),
    ],
    ids=["header", "word", "field missing", "field empty", "not a number", "lines end early"],
)
def test_a_malformed_file_is_one_clear_error(old: str, new: str) -> None:
    values = np.arange(42.0).reshape(3, 14)
    values[1, 4] = 2.5
    content = written(values).decode().replace(old, new, 1)
    if old == "\n01":
        content = content[: len(content) - 20]
    with pytest.raises(UsageError, match=r"jena\.csv") as error:
        parse(content.encode(), "jena.csv")
    assert "\n" not in str(error.value)


# -- the generator


def chollets_generator(data, lookback, delay, low, high, shuffle, batch_size, step, draw):  # type: ignore[no-untyped-def]
    """The book's listing 6.33, its random numbers passed in; yields rows, samples, targets."""
    if high is None:
        high = len(data) - delay - 1
    i = low + lookback
    while True:
        if shuffle:
            rows = draw(low + lookback, high, batch_size)
        else:
            if i + batch_size >= high:
                i = low + lookback
            rows = np.arange(i, min(i + batch_size, high))
            i += len(rows)
        samples = np.zeros((len(rows), lookback // step, data.shape[-1]))
        targets = np.zeros((len(rows),))
        for j, row in enumerate(rows):
            indices = range(row - lookback, row, step)
            samples[j] = data[indices]
            targets[j] = data[row + delay][1]
        yield rows, samples, targets


@given(
    st.integers(1, 5), st.integers(1, 4), st.integers(1, 9), st.integers(1, 7), st.integers(0, 30)
)
def test_the_generator_is_the_books(
    steps: int, step: int, delay: int, batch: int, more: int
) -> None:
    lookback = steps * step
    settings = JenaSettings(
        lookback=lookback,
        step=step,
        delay=delay,
        batch_size=batch,
        train_rows=lookback + 9,
        climate="synthetic",
    )
    rows = lookback + 9 + 1 + lookback + batch + more + delay + 1
    data = mt.Generator(0).normal((rows, FEATURES), np.float64)
    climate = divide("synthetic", data, settings)
    windows = Windows(climate.normalised, settings)

    def theirs(low: int, high: int | None, shuffle: bool) -> Any:
        draw = lambda a, b, n: mt.Generator(7).integers(a, b, (n,))  # noqa: E731
        arguments = (climate.normalised, lookback, delay, low, high, shuffle, batch, step, draw)
        return chollets_generator(*arguments)

    batches = validation_batches(climate, settings)
    high = rows - delay - 1
    assert batches == (high - climate.train - 1 - lookback) // batch
    published = theirs(climate.train + 1, None, False)
    for number in range(3 * batches):  # three epochs: where it starts again counts as well
        expected_rows, samples, targets = next(published)
        ours = validation_rows(number, climate, settings)
        if len(ours) > len(expected_rows):  # a part too short for a batch: not used
            assert batches == 1
            break
        np.testing.assert_array_equal(ours, expected_rows)
        for mine, other in zip(windows[ours], (samples, targets), strict=True):
            np.testing.assert_array_equal(mine, other)

    expected_rows, samples, targets = next(theirs(0, climate.train, True))
    ours = training_rows(mt.Generator(7), climate, settings)
    np.testing.assert_array_equal(ours, expected_rows)
    for mine, other in zip(windows[ours], (samples, targets), strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize(
    ("label", "rows", "parts", "batches", "first", "last"),
    [
        ("eight years", 420_551, (200_000, 200_001, 300_000), 769, 201_441, 299_872),
        ("two years", 106_727, (80_000, 80_001, 106_582), 196, 81_441, 106_528),
    ],
)
def test_the_parts_of_the_files(label, rows, parts, batches, first, last) -> None:  # type: ignore[no-untyped-def]
    settings = JenaSettings()
    climate = divide(label, np.zeros((rows, FEATURES)), settings)
    assert (climate.train, *climate.validate) == parts
    assert validation_batches(climate, settings) == batches
    for epoch in range(2):  # every epoch sees the same rows
        start = epoch * batches
        assert validation_rows(start, climate, settings)[0] == first
        assert validation_rows(start + batches - 1, climate, settings)[-1] == last


def test_the_forecast_is_25_hours_ahead() -> None:
    settings = JenaSettings()
    hours = np.arange(4000.0)[:, None] / 6 * np.ones(FEATURES)  # every quantity is the time
    samples, targets = Windows(hours, settings)[np.array([1440, 2000])]
    assert samples.shape == (2, 240, FEATURES)
    np.testing.assert_allclose(targets - samples[:, -1, TEMPERATURE], 25.0)
    np.testing.assert_allclose(targets - samples[:, 0, TEMPERATURE], 24.0 + 240)
    assert settings.horizon == 150


def test_only_training_rows_set_the_scale() -> None:
    values = synthetic(mt.Generator(0), 1000)
    one = Climate("synthetic", values, 600, (601, 900))
    other = Climate("synthetic", np.where(np.arange(1000)[:, None] < 600, values, 5.0), 600, (0, 1))
    np.testing.assert_array_equal(one.scale, other.scale)
    np.testing.assert_allclose(one.normalised[:600].mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(one.normalised[:600].std(axis=0), 1, atol=1e-12)


def test_the_synthetic_weather_has_a_day_and_a_year() -> None:
    values = synthetic(mt.Generator(3), 53_000)
    assert values.shape == (53_000, FEATURES)
    temperature = values[: 365 * 144, TEMPERATURE].reshape(365, 144)
    by_hour = temperature.mean(axis=0)
    assert by_hour.max() - by_hour.min() == pytest.approx(8, abs=0.5)
    by_month = temperature[:360].reshape(12, -1).mean(axis=1)
    assert by_month.argmax() in (5, 6)
    assert by_month.max() - by_month.min() == pytest.approx(18, abs=3)


# -- the naive forecast


def naive_by_hand(temperature: list[float], train_rows: int, rows: range) -> float:
    """From plain numbers: the temperature 25 hours on less the one now, and the sample's scale."""
    mean = math.fsum(temperature[:train_rows]) / train_rows
    variance = math.fsum((t - mean) ** 2 for t in temperature[:train_rows]) / train_rows
    changes = [abs(temperature[r + 144] - temperature[r - 6]) for r in rows]
    return math.fsum(changes) / len(changes) / math.sqrt(variance)


def test_the_naive_level_of_the_synthetic_weather() -> None:
    settings = JenaSettings(climate="synthetic", lookback=144)
    work = Work(settings, "naive")
    climate = jena.climate_of(work)
    [trial] = train(work)
    temperature = climate.values[:, TEMPERATURE].tolist()
    first, end = climate.validate
    whole = (end - first - 144) // 128 * 128
    expected = naive_by_hand(temperature, climate.train, range(first + 144, first + 144 + whole))
    assert trial.values["best_validation_mae"] == pytest.approx(expected, abs=1e-12)
    assert trial.values["naive_by_formula"] == pytest.approx(expected, abs=1e-12)


def test_the_naive_level_of_the_two_years() -> None:
    """From the file itself, where MICROTENSOR_DATA names a folder that has it; without NumPy."""
    name = "jena_climate_2009_2011.csv"
    path = Path(os.environ.get("MICROTENSOR_DATA", "")) / f"{name}.zip"
    if not path.is_file():
        pytest.skip(f"needs {path.name} in the folder MICROTENSOR_DATA")
    content = zipfile.ZipFile(path).read(name)
    temperature = [float(line.split(b",")[2]) for line in content.splitlines()[1:]]
    expected = naive_by_hand(temperature, 80_000, range(81_441, 81_441 + 196 * 128))
    assert expected == pytest.approx(NAIVE["two years"], abs=1e-9)
    np.testing.assert_array_equal(parse(content, name)[:, TEMPERATURE], temperature)


# -- training


@pytest.mark.parametrize("steps", [5, 11, 24])  # while training, while validating, a later epoch
def test_an_interruption_changes_no_bit(tmp_path: Path, steps: int) -> None:
    settings = dataclasses.replace(QUICK, long_epochs=2, updates=8)
    whole_work = Work(settings, "dropout")
    [whole] = train(whole_work)
    left = iter(range(1, 10**9))
    path = tmp_path / "unit.safetensors"
    hooks = Hooks(stop=lambda: next(left) == steps)
    with pytest.raises(Interrupted):
        train(Work(settings, "dropout", checkpoint=path, hooks=hooks))
    work = Work(settings, "dropout", checkpoint=path, resume=True)
    [again] = train(work)
    assert again.values == whole.values
    assert work.metrics == whole_work.metrics
    for name, value in whole.model.items():
        np.testing.assert_array_equal(np.asarray(again.model[name]), np.asarray(value))
    np.testing.assert_array_equal(again.arrays["forecast"], whole.arrays["forecast"])


def test_the_figures_reported_are_those_of_the_weights_kept() -> None:
    """The best epoch's validation MAE, computed once more from the weights in the result."""
    settings = dataclasses.replace(QUICK, epochs=3)
    work = Work(settings, "gru")
    [trial] = train(work)
    curve = [m.values["validation_mae"] for m in work.metrics]
    assert trial.values["best_validation_mae"] == min(curve)
    assert trial.values["best_epoch"] == 1 + int(np.argmin(curve))
    assert trial.values["last_validation_mae"] == curve[-1]
    climate = jena.climate_of(work)
    model = BUILDERS["gru"](12, FEATURES, mt.Generator(9))
    model.load_state_dict(trial.model)
    windows = Windows(climate.normalised.astype(np.float32), settings)
    first, _ = climate.validate
    rows = first + 144 + np.arange(validation_batches(climate, settings) * settings.batch_size)
    samples, targets = windows[rows]
    with mt.no_grad():
        forecast = model(mt.tensor(samples)).numpy()
    assert np.abs(forecast - targets).mean() == pytest.approx(min(curve), rel=1e-5)
    celsius = forecast * climate.degrees + climate.scale[0][TEMPERATURE]
    shown = trial.arrays["forecast"]
    np.testing.assert_allclose(shown, celsius[: len(shown)], atol=1e-3)


def test_a_gru_learns_the_synthetic_weather() -> None:
    settings = dataclasses.replace(QUICK, epochs=1, updates=150, learning_rate=0.01)
    [naive], [gru] = (train(Work(settings, name)) for name in ("naive", "gru"))
    assert gru.values["last_training_mae"] < naive.values["best_validation_mae"]


def test_the_progress_says_the_mae() -> None:
    said: list[str] = []
    settings = dataclasses.replace(QUICK, epochs=1, updates=2)
    train(Work(settings, "dense", hooks=Hooks(status=said.append)))
    assert said[0].startswith("epoch 1 of 1, MAE ")
    assert "validation MAE" in said[-1]


# -- the command


def test_quick_needs_no_file_and_judges_no_learning(tasks_cli: Any) -> None:
    done = tasks_cli("run jena --preset quick --models gru dense --check --json")
    assert done.code == 0, done.stderr
    judged = [row["name"] for row in done.json["rows"] if row["ok"] is not None]
    assert judged == [
        "synthetic, naive forecast: validation MAE",
        "synthetic, GRU 32: parameters",
        "synthetic, dense: parameters",
    ]
    assert all(row["name"].startswith("synthetic, ") for row in done.json["rows"])
    figures = sorted(path.name for path in done.out.rglob("*.png"))
    assert figures == ["forecast.png", "mae.png", "temperature.png"]
    assert "val_loss" in done.stderr


def test_a_horizon_off_by_one_makes_check_exit_with_1(tasks_cli: Any, monkeypatch: Any) -> None:
    real = Windows.__getitem__
    monkeypatch.setattr(
        Windows,
        "__getitem__",
        lambda self, rows: (real(self, rows)[0], real(self, rows - 1)[1]),
    )
    assert tasks_cli("run jena --preset quick --models dense --check --no-plots").code == 1


def test_a_diverged_run_says_so_and_nothing_else(tasks_cli: Any) -> None:
    # NumPy's and matplotlib's warnings are errors in the tests.
    done = tasks_cli("run jena --preset quick --models gru --learning-rate 1e38 --epochs 1 --json")
    assert done.code == 0
    rows = {row["name"]: row for row in done.json["rows"]}
    assert rows["synthetic, GRU 32: last training MAE"]["note"].startswith("Diverged")
    assert len(list(done.out.rglob("*.png"))) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--lookback 1441", "lookback must be a multiple of step"),
        ("--updates 0", "updates must be at least 1"),
        ("--models gru gru", "each once"),
        ("--train-rows 100", "train_rows must be more than lookback"),
        ("--train-rows 5000000", "too few for one batch"),
        ("--learning-rate -1", "learning_rate must be"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tasks_cli: Any, words: str, message: str) -> None:
    done = tasks_cli(f"run jena --climate synthetic --no-plots {words}")
    assert done.code == 2
    assert message in done.stderr


# -- verdicts


def finished(label: str, naive: float, **better: dict[str, float]) -> tuple[Any, ...]:
    """Trials as the published runs would leave them, and what to change of them."""
    facts = {
        "data": label,
        "degrees": 8.85,
        "train_rows": 80_000,
        "validation_first": 80_001,
        "validation_end": 106_582,
    }
    arrays = {name: np.zeros(10) for name in ("temperature", "truth", "forecast")}
    values = {"best_validation_mae": naive, "naive_by_formula": naive, **facts}
    trials = [Trial(0, values=values, arrays=arrays, variant="naive")]
    for name, published in PUBLISHED.items():
        values = {
            "parameters": jena._parameters(name, JenaSettings()),
            "best_validation_mae": published.best,
            "best_epoch": published.best_epoch,
            "last_validation_mae": published.last,
            "last_training_mae": published.last_training,
            **facts,
            **better.get(name, {}),
        }
        trials.append(Trial(0, values=values, variant=name))
    return tuple(trials)


def verdicts(label: str, naive: float, **better: dict[str, float]) -> dict[str, bool]:
    trials = finished(label, naive, **better)
    run = Run(JenaSettings(), "document", 0, "numpy", trials, ())
    return {row.name: row.ok for row in jena.rows(run) if row.ok is not None}


@pytest.mark.parametrize("label", list(NAIVE))
def test_the_published_figures_pass(label: str) -> None:
    found = verdicts(label, NAIVE[label])
    missed = [name for name, ok in found.items() if not ok]
    # On the two years' scale the dense network's published figure would be better than naive.
    assert missed == (["two years, dense: best validation MAE / naive"] * (label == "two years"))
    assert (f"{label}, GRU 32: best validation MAE" in found) == (label == "eight years")


@pytest.mark.parametrize("label", list(NAIVE))
@pytest.mark.parametrize(
    ("model", "ratio"),
    [("gru", 0.985), ("dropout", 1.01), ("stacked", 1.01), ("reversed", 0.99), ("dense", 0.97)],
)
def test_each_direction_can_be_missed(label: str, model: str, ratio: float) -> None:
    naive = NAIVE[label]
    found = verdicts(label, naive, **{model: {"best_validation_mae": ratio * naive}})
    assert not found[f"{label}, {PUBLISHED[model].title}: best validation MAE / naive"]


def test_no_verdict_about_learning_at_other_settings() -> None:
    for settings in (JenaSettings(updates=50), JenaSettings(train_rows=50_000)):
        trials = finished("two years", NAIVE["two years"])
        rows = jena.rows(Run(settings, "document", 0, "numpy", trials, ()))
        assert not any("best validation" in row.name for row in rows if row.ok is not None)
    names = {row.name for row in jena.rows(Run(JenaSettings(), "document", 0, "numpy", trials, ()))}
    assert len(names) == 2 + 6 * 6 + 5


def test_a_gru_no_better_than_naive_makes_check_exit_with_1(
    tasks_cli: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    level = NAIVE["two years"]

    def code(folder: str, **better: dict[str, float]) -> int:
        dense = {"dense": {"best_validation_mae": 1.02 * level}}
        trials = finished("two years", level, **{**dense, **better})
        by_variant = {trial.variant: trial for trial in trials}

        def canned(work: Work) -> list[Trial]:
            [number] = work.trials
            return [dataclasses.replace(by_variant[work.variant], number=number)]

        task = dataclasses.replace(TASK, train=canned, data=lambda settings: ())
        monkeypatch.setattr(registry, "_all", lambda: {"jena": task})
        return tasks_cli("run jena --check --no-plots", out=tmp_path / folder).code

    assert code("as published") == 0
    assert code("worse", gru={"best_validation_mae": 0.99 * level}) == 1
