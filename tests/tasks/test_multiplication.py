"""Experiment 5 of the 1997 paper: its data, its two stages, its verdicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import microtensor as mt
from tasks import adding, multiplication
from tasks.harness import Run, Trial
from tasks.multiplication import MultiplicationSettings, draw, moment
from tasks.online import Look


@given(seed=st.integers(0, 2**30), length=st.integers(20, 130))
def test_sequences_are_those_of_the_paper(seed: int, length: int) -> None:
    """Values in [0, 1], markers as in the adding problem, the product of what is marked."""
    s = draw(mt.Generator(seed), 20, length)
    sums = adding.draw(mt.Generator(seed), 20, length)
    np.testing.assert_array_equal(s.x[..., 1], sums.x[..., 1])
    np.testing.assert_array_equal(s.lengths, sums.lengths)
    assert s.x.dtype == s.target.dtype == np.float32
    assert ((s.x[..., 0] >= 0) & (s.x[..., 0] <= 1)).all()
    for b, steps in enumerate(s.lengths):
        values, markers = s.x[:steps, b].T
        assert s.target[b] == pytest.approx(np.prod(values[markers == 1]), abs=1e-6)
        assert not s.x[steps:, b].any()


@pytest.mark.parametrize("length", [20, 100])
def test_moments_are_exact(length: int) -> None:
    """Against an enumeration of all pairs of marks; and of drawn data."""
    marks = [(a, b) for a in range(10) for b in range(length // 2) if a != b]
    for power in (1, 2, 4):
        each = [1 / (power + 1) ** sum(m != 0 for m in mark) for mark in marks]
        assert moment(length, power) == pytest.approx(np.mean(each), rel=1e-12)
    target = draw(mt.Generator(5), 40_000, length).target.astype("float64")
    assert target.mean() == pytest.approx(moment(length, 1), abs=0.005)
    assert (target**2).mean() == pytest.approx(moment(length, 2), abs=0.005)


def test_the_stages_are_fewer_than_140_and_fewer_than_13_wrong() -> None:
    problem = multiplication.problem(MultiplicationSettings(), "text")
    assert problem.network.count == 93
    assert problem.network.input_gate is None
    for wrong, reached in ((140, []), (139, [140]), (13, [140]), (12, [140, 13])):
        errors = np.zeros(2000)
        errors[:wrong] = 0.0401
        look = Look(2000, errors, None)
        assert [s.name for s in problem.stages if s.reached(look)] == [
            f"n_seq_{n}" for n in reached
        ]


def made_up(sequences: int, wrong: int, rmse: float, solved: bool = True) -> Run:
    """A run whose trials all came to these results at the first stage, and not to the second."""
    values: dict[str, Any] = {}
    for stage, reached in (("n_seq_140", solved), ("n_seq_13", False)):
        values |= {stage: reached, f"{stage}_sequences": sequences, f"{stage}_wrong": wrong}
        values |= {f"{stage}_rmse": rmse, f"{stage}_mse": rmse**2, f"{stage}_mean_error": 0.017}
    settings = MultiplicationSettings(trials=2)
    trials = [Trial(k, values, variant=name) for name in settings.readings for k in range(2)]
    return Run(settings, "document", 0, "numpy", tuple(trials), ())


def test_verdicts_compare_the_root_with_what_the_paper_calls_mse() -> None:
    """Within a factor of three of 482,000; the other readings and stages are told, not judged."""

    def verdicts(*results: Any) -> dict[str, bool]:
        rows = multiplication.rows(made_up(*results))
        return {row.name: row.ok for row in rows if row.ok is not None and "n_seq" in row.name}

    title = "the literal text, n_seq_140"
    good = verdicts(1_440_000, 190, 0.0225)
    assert all(good.values())
    assert len(good) == 4
    assert all(name.startswith(title) for name in good)
    bad = verdicts(1_450_000, 190, 0.0265)
    assert not bad[f"{title}: sequences until success, mean"]
    assert not bad[f"{title}: root of the mean squared error in the test, mean"]
    assert not verdicts(2_000_000, 300, 0.03, False)[f"{title}: trials that succeed"]


def test_the_table_has_both_lines_of_every_reading() -> None:
    text = multiplication.printout(made_up(1_200_000, 190, 0.0225))
    table, errors = text.split("\n\n")
    assert len(table.splitlines()) == len(errors.splitlines()) == 1 + 2 * 4
    [line] = [line for line in errors.splitlines() if "literal text, n_seq_140" in line]
    assert line.split()[-4:] == ["0.0223", "0.0225", "0.000506", "0.017"]


def test_quick_judges_data_and_weights_only_and_a_fault_in_them_shows(
    tasks_cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A marked first pair that counts with its value."""
    words = "run multiplication --preset quick --cap 20 --readings text --check --json"
    done = tasks_cli(words)
    assert done.code == 0, done.stderr
    assert len([row for row in done.json["rows"] if row["ok"] is not None]) == 3
    figures = sorted(path.name for path in done.out.rglob("*.png"))
    assert figures == ["answers.png", "learning_curves.png", "solved.png"]

    def wrong(generator: mt.Generator, count: int, length: int) -> Any:
        s = draw(generator, count, length)
        target = s.x[s.marked, np.arange(count)[:, None], 0].prod(axis=-1)
        return multiplication.Sequences(s.x, s.lengths, target, s.marked)

    monkeypatch.setattr(multiplication, "draw", wrong)
    failed = tasks_cli(f"{words} --no-plots")
    assert failed.code == 1
    missed = [row["name"] for row in failed.json["rows"] if row["ok"] is False]
    assert missed == ["mean of 4096 targets", "mean square of 4096 targets"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--length 19", "length must be at least 20 steps; got 19"),
        ("--readings text text", "readings must name one or more, each once"),
        ("--cell lstn", "did you mean 'lstm'?"),
        ("--cap 0", "cap must be at least 1; got 0"),
    ],
)
def test_bad_settings_are_one_line(tasks_cli: Any, words: str, says: str) -> None:
    done = tasks_cli(f"run multiplication {words}")
    assert done.code == 2
    assert says in done.stderr
