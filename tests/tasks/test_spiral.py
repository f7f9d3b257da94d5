"""Document 002's spiral: the original again in plain NumPy, number by number, and faults."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import microtensor as mt
from models.spiral import ACTIVATIONS, SpiralNet, initial_weights
from tasks import registry, spiral
from tasks.spiral import (
    LISTING_FAULTS,
    ORIGINAL,
    TASK,
    SpiralSettings,
    legacy_stream,
    magnitude,
    mean_of_entries,
    train,
)
from tasks.work import Work


def original(iterations: int) -> dict[str, dict[str, Any]]:
    """CS224d's program: one stream of random numbers, both activations, gradients by hand."""
    np_random = np.random.RandomState(0)
    x, y = np.zeros((300, 2)), np.zeros(300, dtype="uint8")
    for j in range(3):
        ix = range(100 * j, 100 * (j + 1))
        r = np.linspace(0.0, 1, 100)
        t = np.linspace(j * 4, (j + 1) * 4, 100) + np_random.randn(100) * 0.2
        x[ix] = np.c_[r * np.sin(t), r * np.cos(t)]
        y[ix] = j
    found = {}
    for name in ("sigmoid", "relu"):
        w = [0.1 * np_random.randn(*shape) for shape in ((2, 50), (50, 50), (50, 3))]
        b = [np.zeros((1, 50)), np.zeros((1, 50)), np.zeros((1, 3))]
        losses, sizes = [], []
        for _ in range(iterations):
            h = [x]
            for layer in range(2):
                z = h[-1] @ w[layer] + b[layer]
                h.append(1 / (1 + np.exp(-z)) if name == "sigmoid" else np.maximum(0, z))
            e = np.exp(h[2] @ w[2] + b[2])
            p = e / e.sum(axis=1, keepdims=True)
            data = -np.log(p[range(300), y]).sum() / 300
            losses.append(data + sum(0.5 * 1e-3 * (m * m).sum() for m in w))
            p[range(300), y] -= 1
            d = p / 300
            dw: list[Any] = [None] * 3
            db: list[Any] = [None] * 3
            for layer in (2, 1, 0):
                dw[layer], db[layer] = h[layer].T @ d, d.sum(axis=0, keepdims=True)
                slope = h[layer] * (1 - h[layer]) if name == "sigmoid" else h[layer] > 0
                d = (d @ w[layer].T) * slope
            sizes.append([np.abs(m).sum() / np.abs(m.shape).sum() for m in dw[:2]])
            for layer in range(3):
                w[layer] += -0.1 * (dw[layer] + 1e-3 * w[layer])
                b[layer] += -0.1 * db[layer]
        found[name] = {"losses": losses, "sizes": np.array(sizes).T, "weights": w, "x": x, "y": y}
    return found


def run_quick(tasks_cli: Any, words: str = "") -> tuple[int, dict[str, Any], Any]:
    done = tasks_cli(f"run spiral --preset quick --check --json {words}")
    return done.code, {row["name"]: row for row in done.json["rows"]}, done


@pytest.fixture(scope="module")
def hundred() -> dict[str, dict[str, Any]]:
    return original(101)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_number_is_the_originals(name: str, hundred: Any) -> None:
    work = Work(SpiralSettings(trials=1, iterations=101), variant=name)
    [trial] = train(work)
    theirs = hundred[name]
    np.testing.assert_array_equal(trial.arrays["x"], theirs["x"])
    np.testing.assert_array_equal(trial.arrays["labels"], theirs["y"])
    np.testing.assert_allclose(trial.arrays["gradients"], theirs["sizes"], rtol=1e-9)
    for layer in range(3):
        ours = trial.model[f"layers.{layer}.weight"].numpy()
        assert ours.dtype == np.float64
        np.testing.assert_allclose(ours, theirs["weights"][layer].T, rtol=0, atol=1e-12)
    logged = {metric.step: metric.values["loss"] for metric in work.metrics}
    assert sorted(logged) == [0, 100]
    for step, loss in logged.items():
        assert loss == pytest.approx(theirs["losses"][step], abs=1e-12)
    assert ORIGINAL[name][0] == pytest.approx(theirs["losses"][0], abs=5e-7)


def test_the_network_has_2853_parameters_and_computes_its_equations() -> None:
    weights = initial_weights(legacy_stream(0, 3))
    x = mt.Generator(1).normal((5, 2), np.float64)
    w1, w2, w3 = weights
    for name, f in (
        ("sigmoid", lambda z: 1 / (1 + np.exp(-z))),
        ("relu", lambda z: np.maximum(z, 0)),
    ):
        model = SpiralNet(weights, name)
        assert sum(p.size for p in model.parameters()) == 2853
        biases = [mt.Generator(2 + i).normal((n,), np.float64) for i, n in enumerate((50, 50, 3))]
        model.load_state_dict(
            model.state_dict() | {f"layers.{i}.bias": b for i, b in enumerate(biases)}
        )
        expected = f(f(x @ w1 + biases[0]) @ w2 + biases[1]) @ w3 + biases[2]
        np.testing.assert_allclose(model(mt.tensor(x)).detach().numpy(), expected, atol=1e-13)


@given(st.sampled_from(["document", "glorot", "he"]), st.integers(1, 60), st.integers(0, 99))
@settings(max_examples=20)
def test_initialisers_scale_the_same_numbers(init: str, size: int, seed: int) -> None:
    plain = initial_weights(np.random.RandomState(seed), size)
    scaled = initial_weights(np.random.RandomState(seed), size, init)
    for (rows, columns), a, b in zip(
        [(2, size), (size, size), (size, 3)], plain, scaled, strict=True
    ):
        deviation = {"document": 0.1, "glorot": (2 / (rows + columns)) ** 0.5,
                     "he": (2 / rows) ** 0.5}[init]  # fmt: skip
        np.testing.assert_allclose(b, a / 0.1 * deviation, rtol=1e-12)


@given(st.integers(1, 12), st.integers(1, 12))
def test_the_magnitude_is_no_mean_of_entries(rows: int, columns: int) -> None:
    gradient = mt.Generator((rows, columns)).normal((columns, rows), np.float64)
    size = magnitude(mt.tensor(gradient))
    assert size == pytest.approx(np.abs(gradient).sum() / (rows + columns), rel=1e-12)
    assert mean_of_entries(size, rows, columns) == pytest.approx(np.abs(gradient).mean(), rel=1e-12)


def test_trials_are_the_legacy_seeds_and_other_seeds_are_others() -> None:
    def first(stream: np.random.RandomState) -> float:
        return float(stream.randn())

    for trial in range(3):
        assert first(legacy_stream(0, trial)) == first(np.random.RandomState(trial))
        assert first(legacy_stream(7, trial)) == first(np.random.RandomState([7, trial]))
    drawn = {first(legacy_stream(seed, trial)) for seed in range(5) for trial in range(5)}
    assert len(drawn) == 25


def test_quick_meets_the_original_and_judges_the_start_only(tasks_cli: Any) -> None:
    code, rows, done = run_quick(tasks_cli)
    assert code == 0
    exact = [row for name, row in rows.items() if "original's losses, iterations 0 to 1000" in name]
    assert len(exact) == 2
    assert all(row["ok"] and row["value"] < 1e-6 for row in exact)
    start = rows["first layer's gradient, ReLU : sigmoid, iteration 0"]
    assert start["value"] == pytest.approx(7.30, abs=0.01)
    for name, row in rows.items():
        if "mean of all iterations" in name or "accuracy" in name or ": loss" in name:
            assert row["ok"] is None, name
            assert row["target"] is None, name
    figures = sorted(path.name for path in done.out.rglob("*.png"))
    assert figures == ["data.png", "gradients.png", "loss.png", "regions.png"]
    assert "1000      1.100737      1.100737" in done.stderr


def test_other_seeds_and_settings_are_not_compared_with_trial_0(tasks_cli: Any) -> None:
    for words in ("--seed 5", "--init he", "--hidden-size 20", "--regularization 0"):
        code, rows, _ = run_quick(tasks_cli, f"--no-plots --iterations 3 {words}")
        assert code == 0, words
        assert not any("original's" in name for name in rows), words


@pytest.mark.parametrize(
    ("fault", "iterations"),
    [("reversed order", 1), ("no weight decay", 1001), ("biases decay too", 1001)],
)
def test_a_planted_fault_makes_check_exit_with_1(
    tasks_cli: Any, monkeypatch: Any, fault: str, iterations: int
) -> None:
    real = mt.optim.SGD
    if fault == "reversed order":
        monkeypatch.setattr(spiral, "ACTIVATIONS", dict(reversed(ACTIVATIONS.items())))
    else:

        def faulty(groups: Any, lr: float) -> Any:
            weights, biases = groups
            if fault == "no weight decay":
                weights = {**weights, "weight_decay": 0.0}
            if fault == "biases decay too":
                biases = {**biases, "weight_decay": 1e-3}
            return real([weights, biases], lr=lr)

        monkeypatch.setattr(mt.optim, "SGD", faulty)
    code, rows, _ = run_quick(tasks_cli, f"--no-plots --iterations {iterations}")
    assert code == 1
    failed = [name for name, row in rows.items() if row["ok"] is False]
    assert any("original's losses" in name for name in failed)


def test_gradients_with_the_penalty_in_them_fail(tasks_cli: Any, monkeypatch: Any) -> None:
    """The original takes the magnitudes before it adds the gradient of the penalty."""
    real = mt.Tensor.backward
    seen: list[Any] = []

    def with_penalty(self: Any, *args: Any, **options: Any) -> None:
        real(self, *args, **options)
        for p in seen[-1].parameters():
            if p.ndim == 2:
                p.grad = p.grad + 1e-3 * p.detach()

    class Seen(SpiralNet):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            seen.append(self)

    monkeypatch.setattr(spiral, "SpiralNet", Seen)
    monkeypatch.setattr(mt.Tensor, "backward", with_penalty)
    code, rows, _ = run_quick(tasks_cli, "--no-plots --iterations 1")
    assert code == 1
    assert [name for name, row in rows.items() if row["ok"] is False and "magnitudes" in name]


def test_a_killed_run_resumes_to_the_same_bits(tmp_path: Path) -> None:
    from tasks.work import Hooks, Interrupted

    asked = SpiralSettings(trials=1, iterations=40)
    whole = Work(asked, variant="sigmoid")
    [expected] = train(whole)
    count = iter(range(1000))
    half = Work(
        asked,
        variant="sigmoid",
        checkpoint=tmp_path / "half",
        hooks=Hooks(stop=lambda: next(count) >= 16),
    )
    with pytest.raises(Interrupted):
        train(half)
    again = Work(asked, variant="sigmoid", checkpoint=tmp_path / "half", resume=True)
    [resumed] = train(again)
    assert again.metrics == whole.metrics
    assert resumed.values == expected.values
    np.testing.assert_array_equal(resumed.arrays["gradients"], expected.arrays["gradients"])
    for name, value in expected.model.items():
        np.testing.assert_array_equal(resumed.model[name].numpy(), value.numpy())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--iterations 0", "iterations must be at least 1; got 0"),
        ("--hidden-size 0", "hidden_size must be at least 1; got 0"),
        ("--regularization -1", "regularization must be from 0 up; got -1.0"),
        ("--learning-rate -1", "learning_rate must be a number from 0 up; got -1.0"),
    ],
)
def test_what_makes_no_sense_is_refused(tasks_cli: Any, words: str, said: str) -> None:
    done = tasks_cli(f"run spiral {words}")
    assert done.code == 2
    assert said in done.stderr


def test_a_diverged_run_says_so_and_draws_its_figures(tasks_cli: Any) -> None:
    # NumPy's and matplotlib's warnings are errors in the tests.
    done = tasks_cli("run spiral --preset quick --iterations 30 --learning-rate 1e200 --json")
    assert done.code == 0
    assert any(row["note"].startswith("Diverged") for row in done.json["rows"])
    assert len(list(done.out.rglob("*.png"))) == 4


def test_live_draws_the_map_while_it_is_learnt(tasks_cli: Any, monkeypatch: Any) -> None:
    from tasks import live

    monkeypatch.setattr(live, "_window", lambda: None)
    drawn: list[int] = []

    def counted(figure: Any, step: int, arrays: Any) -> None:
        drawn.append(step)
        spiral.live(figure, step, arrays)
        assert figure.axes[0].get_title().startswith(f"Iteration {step}, loss ")

    monkeypatch.setattr(
        registry, "_all", lambda: {"spiral": dataclasses.replace(TASK, live=counted)}
    )
    done = tasks_cli("run spiral --preset quick --live --no-plots --iterations 3")
    assert done.code == 0, done.stderr
    assert 0 in drawn
    assert (done.out / "spiral-quick" / "live.png").read_bytes().startswith(b"\x89PNG")


def test_show_tells_what_is_wrong_with_the_listing(tasks_cli: Any) -> None:
    assert len(LISTING_FAULTS) == 11
    said = " ".join(tasks_cli("show spiral").stdout.split())
    for fault in LISTING_FAULTS:
        assert fault in said
