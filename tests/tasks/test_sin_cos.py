"""sin_cos: the network is the published one, the levels are right, the verdict can be "missed"."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import microtensor as mt
from models.sin_cos import SinCos
from tasks import sin_cos
from tasks.sin_cos import PUBLISHED, TASK, SinCosSettings, cost_of, levels, samples, train
from tasks.work import Work


def test_the_network_is_the_published_one() -> None:
    model = SinCos(generator=mt.Generator(1))
    shapes = {name: p.shape for name, p in model.named_parameters()}
    assert shapes == {
        "linear_in.weight": (10, 1),
        "linear_in.bias": (10,),
        "lstm.weight_ih_l0": (40, 10),
        "lstm.weight_hh_l0": (40, 10),
        "lstm.bias_ih_l0": (40,),
        "linear_out.weight": (1, 10),
        "linear_out.bias": (1,),
    }
    assert sum(math.prod(shape) for shape in shapes.values()) == 871
    state = {name: p.numpy() for name, p in model.state_dict().items()}
    assert (state["linear_in.bias"] == np.float32(0.1)).all()
    assert (state["linear_out.bias"] == np.float32(0.1)).all()
    # forget_bias = 1, and only there; rows in the order i, f, g, o
    assert state["lstm.bias_ih_l0"].tolist() == [0.0] * 10 + [1.0] * 10 + [0.0] * 20


def test_weights_are_drawn_as_tensorflow_1_drew_them() -> None:
    kernel, linear = [], []
    for seed in range(40):
        state = SinCos(generator=mt.Generator(seed)).state_dict()
        kernel += [state["lstm.weight_ih_l0"].numpy(), state["lstm.weight_hh_l0"].numpy()]
        linear += [state["linear_in.weight"].numpy(), state["linear_out.weight"].numpy()]
    limit = math.sqrt(6 / (20 + 40))
    weights = np.array(kernel)
    assert 0.999 * limit < np.abs(weights).max() <= np.float32(limit)
    assert weights.std() == pytest.approx(limit / math.sqrt(3), rel=0.02)
    normal = np.concatenate([w.ravel() for w in linear])
    assert normal.std() == pytest.approx(1.0, abs=0.08)
    assert abs(normal).max() > 2.0, "a normal, not a uniform distribution"


def test_the_network_computes_its_equations() -> None:
    """Against the equations of the document written out in NumPy, state carried over two calls."""
    model = SinCos(generator=mt.Generator(4)).astype("float64")
    p = {name: value.numpy() for name, value in model.state_dict().items()}
    x = mt.Generator(5).normal((3, 7, 1), np.float64)
    h, c = np.zeros((3, 10)), np.zeros((3, 10))
    expected = []
    for t in range(7):
        u = x[:, t] * p["linear_in.weight"][:, 0] + p["linear_in.bias"]
        z = u @ p["lstm.weight_ih_l0"].T + h @ p["lstm.weight_hh_l0"].T + p["lstm.bias_ih_l0"]
        i, f, g, o = np.split(z, 4, axis=1)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
        expected.append(h @ p["linear_out.weight"][0] + p["linear_out.bias"][0])
    with mt.no_grad():
        first, state = model(mt.tensor(x[:, :4]))
        second, (h_n, c_n) = model(mt.tensor(x[:, 4:]), state)
    ours = np.concatenate([first.numpy(), second.numpy()], axis=1)[:, :, 0]
    np.testing.assert_allclose(ours, np.array(expected).T, rtol=0, atol=1e-12)
    np.testing.assert_allclose(h_n.numpy()[0], h, rtol=0, atol=1e-12)
    np.testing.assert_allclose(c_n.numpy()[0], c, rtol=0, atol=1e-12)


def test_every_batch_continues_the_one_before() -> None:
    for iteration in (0, 1, 100):
        now, after = samples(iteration), samples(iteration + 1)
        assert now.shape == (50, 20)
        np.testing.assert_allclose(np.diff(now.ravel()), 1 / (10 * np.pi), rtol=1e-9)
        np.testing.assert_allclose(after[:, 0] - now[:, -1], 1 / (10 * np.pi), rtol=1e-9)
        np.testing.assert_array_equal(after[:-1], now[1:])


def test_the_cost_is_twenty_times_the_mean_squared_error() -> None:
    generator = mt.Generator(0)
    y, target = generator.normal((50, 20, 1)), generator.normal((50, 20, 1))
    assert cost_of(y, target) == pytest.approx(20 * np.mean((y - target) ** 2), rel=1e-5)


def test_reference_levels() -> None:
    zero, two = levels(SinCosSettings())
    # Σ cos²(k δ) = N/2 + ½ Σ cos 2kδ, and the last sum is sin(Nδ) cos((N−1)δ) / sin δ.
    d, n = 1 / (10 * math.pi), 1000
    exact = (n / 2 + 0.5 * math.sin(n * d) * math.cos((n - 1) * d) / math.sin(d)) / 50
    assert zero.value == pytest.approx(exact, abs=1e-9)
    assert zero.value == pytest.approx(10.1, abs=0.05)
    assert two.value == 0.0


def test_quick_judges_nothing_but_the_count(tasks_cli: Any) -> None:
    done = tasks_cli("run sin_cos --preset quick --check --json")
    assert done.code == 0, done.stderr
    rows = {row["name"]: row for row in done.json["rows"]}
    assert rows["trainable parameters"]["value"] == 871
    assert [name for name, row in rows.items() if row["ok"] is not None] == ["trainable parameters"]
    assert len(rows) == 5
    figures = sorted(path.name for path in done.out.rglob("*.png"))
    assert figures == ["cost.png", "prediction.png"]
    for iteration, cost in PUBLISHED.items():
        assert f"{iteration:9} {cost:11.4f}" in done.stderr


def test_the_documents_settings_are_within_tolerance(tasks_cli: Any) -> None:
    done = tasks_cli("run sin_cos --trials 3 --no-plots --check --json")
    assert done.code == 0, done.stderr
    rows = {row["name"]: row for row in done.json["rows"]}
    final = rows["cost, mean of iterations 180 to 199, median of trials"]
    worst = rows["cost, mean of iterations 180 to 199, highest of trials"]
    peak = rows["cost, highest single one of iterations 180 to 199, highest of trials"]
    assert final["ok"] is worst["ok"] is True
    assert "one run's cost at iteration 180" in final["note"]
    assert peak["ok"] is None
    assert peak["value"] > worst["value"] >= final["value"]


def test_a_diverged_run_says_so_and_nothing_else(tasks_cli: Any) -> None:
    # NumPy's and matplotlib's warnings are errors in the tests.
    done = tasks_cli("run sin_cos --preset quick --learning-rate 1e30 --json")
    assert done.code == 0
    rows = {row["name"]: row for row in done.json["rows"]}
    for name, row in rows.items():
        assert row["note"].startswith("Diverged") == name.startswith("cost, "), name
    assert "Warning" not in done.stderr
    assert len(list(done.out.rglob("*.png"))) == 2


@pytest.mark.parametrize(
    "fault",
    [
        "--learning-rate 0",
        "--no-carry-state --gradient-steps 1",
        "--no-carry-state",
    ],
)
def test_a_planted_fault_makes_check_exit_with_1(tasks_cli: Any, fault: str) -> None:
    done = tasks_cli(f"run sin_cos --trials 2 --no-plots --check --json {fault}")
    assert done.code == 1
    ok = {row["name"]: row["ok"] for row in done.json["rows"]}
    assert ok["trainable parameters"] is True
    assert ok["cost, mean of iterations 180 to 199, median of trials"] is False


def test_a_broken_optimizer_makes_check_exit_with_1(tasks_cli: Any, monkeypatch: Any) -> None:
    """The same by tampering with the program instead of a setting: every update goes uphill."""
    real = mt.optim.Adam

    class Uphill(real):  # type: ignore[valid-type, misc]
        def step(self) -> None:
            for group in self.param_groups:
                for p in group["params"]:
                    p.grad = -p.grad
            super().step()

    monkeypatch.setattr(mt.optim, "Adam", Uphill)
    assert tasks_cli("run sin_cos --no-plots --check --trials 1").code == 1


def test_the_window_cut_into_stretches_is_the_same_function_with_a_shorter_gradient() -> None:
    settings = [SinCosSettings(trials=1, iterations=2, gradient_steps=n) for n in (20, 10, 3, 1)]
    trials = [train(Work(settings=s))[0] for s in settings]
    for other in trials[1:]:
        np.testing.assert_allclose(other.arrays["first"], trials[0].arrays["first"], atol=1e-5)
        moved = np.abs(
            other.model["lstm.weight_hh_l0"].numpy() - trials[0].model["lstm.weight_hh_l0"].numpy()
        )
        assert moved.max() > 1e-5


def test_the_state_is_carried_without_gradient(monkeypatch: Any) -> None:
    seen: list[Any] = []

    class Watched(SinCos):
        def forward(self, x: Any, state: Any = None) -> Any:
            seen.append(state)
            return super().forward(x, state)

    monkeypatch.setattr(sin_cos, "SinCos", Watched)
    train(Work(settings=SinCosSettings(trials=1, iterations=3)))
    first, _, second, third = (
        seen  # iteration 0 predicts twice: its cost after the update is logged
    )
    assert first is None
    for h, c in (second, third):
        assert h.shape == c.shape == (1, 50, 10)
        assert not h.requires_grad
        assert not c.requires_grad
        assert np.abs(c.numpy()).max() > 0
    seen.clear()
    train(Work(settings=SinCosSettings(trials=1, iterations=3, carry_state=False)))
    assert seen == [None] * 4


def test_no_verdict_where_nothing_was_published(tasks_cli: Any) -> None:
    for words in ("--iterations 40", "--hidden-size 4"):
        done = tasks_cli(f"run sin_cos --no-plots --check --json --trials 1 {words}")
        assert done.code == 0
        assert all(row["target"] is None and row["ok"] is None for row in done.json["rows"])


def test_tensorboard_has_the_cost_as_the_original_wrote_it(
    tasks_cli: Any, read_events: Any
) -> None:
    done = tasks_cli("run sin_cos --no-plots --tensorboard --trials 1 --iterations 45")
    [events] = done.out.rglob("events.out.*")
    written = [(step, v) for step, name, v in read_events(events) if name == "cost_after_update"]
    assert [step for step, _ in written] == [0, 20, 40]
    with open(done.out / "sin_cos-document" / "metrics.csv", newline="") as file:
        own = [
            float(m["cost_after_update"]) for m in csv.DictReader(file) if m["cost_after_update"]
        ]
    np.testing.assert_allclose([v for _, v in written], own, rtol=1e-6)


def test_live_rewrites_a_picture_where_there_is_no_display(
    tasks_cli: Any, monkeypatch: Any
) -> None:
    from tasks import live

    monkeypatch.setattr(live, "_window", lambda: None)
    drawn: list[int] = []
    real = sin_cos.live

    def counted(figure: Any, step: int, arrays: Any) -> None:
        drawn.append(step)
        real(figure, step, arrays)
        assert figure.axes[0].get_title().startswith(f"Iteration {step}, cost ")

    import dataclasses

    from tasks import registry

    monkeypatch.setattr(
        registry, "_all", lambda: {"sin_cos": dataclasses.replace(TASK, live=counted)}
    )
    done = tasks_cli("run sin_cos --live --no-plots --trials 1 --iterations 3")
    assert done.code == 0, done.stderr
    assert drawn
    assert drawn[0] == 0
    picture = Path(done.out) / "sin_cos-document" / "live.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "rewritten in" in done.stderr
