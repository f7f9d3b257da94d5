"""The benchmarks run, compare like with like, and report what they found. No time is asserted."""

import importlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import microtensor as mt
from benchmarks import (
    _harness,
    _report,
    courses,
    gpu,
    online,
    overhead,
    recurrence,
    trainings,
    workloads,
)
from benchmarks._harness import Failure, Spread

ROOT = Path(__file__).resolve().parent.parent


def cells(markdown: str) -> list[list[list[str]]]:
    """The tables of a Markdown text: table, row, cell."""
    tables, before = [], ""
    for line in markdown.splitlines():
        if line.startswith("|"):
            if not before.startswith("|"):
                tables.append([])
            tables[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        before = line
    return tables


def test_a_tiny_run_prints_a_table_and_writes_it(tmp_path):
    out = tmp_path / "new" / "overhead.md"
    asked = ["--workloads", "W7,W8-expression,W8-chain-1000", "--contenders", "microtensor,numpy"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.overhead", "--quick", *asked, "--out", str(out)],
        cwd=ROOT,
        env={**os.environ, "OPENBLAS_CORETYPE": "Prescott"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert out.read_text(encoding="utf-8").strip() == done.stdout.strip()

    tables = cells(done.stdout)
    assert all(len(row) == len(table[0]) for table in tables for row in table)
    goals, measured, _ = tables
    assert [row[0] for row in goals[2:]] == [
        "W7, over torch",
        "W8-expression, over torch",
        "W8-chain-1000, over torch",
    ]
    assert {row[3] for row in goals[2:]} == {"not measured"}  # without torch there is no ratio
    assert measured[0] == ["", "unit", "microtensor", "numpy"]
    assert [row[1] for row in measured[2:]] == ["µs"] * 6
    for title, _, ours, floor in measured[2:]:
        assert float(ours.replace(",", "")) >= 0, title
        assert floor == "–" if title == "… free" else float(floor) > 0, title

    # The machine is described, but neither named nor are its folders; its BLAS chose for itself.
    assert platform.node() not in done.stdout.split()
    assert str(ROOT) not in done.stdout
    assert "Prescott" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--workloads", "W99"], "no workload 'W99'; there are W7, W8-expression"),
        (["--contenders", "abacus"], "no contender 'abacus'; there are microtensor, torch"),
        (["--rounds", "0"], "--rounds must be at least 1"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_runs(arguments, complaint, capsys):
    with pytest.raises(SystemExit) as exit:
        overhead.main(arguments)
    assert exit.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_contender_that_is_not_installed_is_refused_if_asked_for(monkeypatch, capsys):
    monkeypatch.setattr(_harness, "installed", lambda name: None)
    assert overhead.main(["--contenders", "torch"]) == 2
    assert "not installed: torch" in capsys.readouterr().err


SMALL = {
    "spiral": workloads.spiral_inputs,
    "expression": workloads.expression_inputs,
    "chain": lambda: workloads.chain_inputs(7),
    "linear": lambda: workloads.linear_inputs(24),
    "steps": lambda: workloads.steps_inputs(5),
}


def numbers(contender: str, function: str) -> list[float]:
    """What a contender comes to in three runs of a small workload."""
    module = importlib.import_module(f"benchmarks.contenders.{contender}")
    task = getattr(module, function)(*SMALL[function]())
    found = []
    for _ in range(3):
        for run in task.phases.values():
            run()
        found += [float(x) for value in task.read() for x in np.ravel(value)]
    return found


@pytest.mark.parametrize("contender", ["numpy", pytest.param("torch", marks=pytest.mark.parity)])
@pytest.mark.parametrize("function", SMALL)
def test_contenders_do_the_same_work(contender, function):
    ours = numbers("microtensor", function)
    assert any(ours)
    assert _harness.same_work(ours, numbers(contender, function), 1e-5)


def test_the_spiral_network_learns_in_three_steps():
    first, second, third = numbers("microtensor", "spiral")
    assert first == pytest.approx(np.log(3), abs=0.02)  # small weights: three equal classes
    assert first > second > third


def test_other_numbers_are_other_work():
    assert _harness.same_work([1.0, -100.0], [1.0009, -100.0], 1e-5)
    assert not _harness.same_work([1.0, -100.0], [1.0011, -100.0], 1e-5)
    assert not _harness.same_work([1.0, 2.0], [1.0], 1e-5)
    assert not _harness.same_work([1.0], [float("nan")], 1e-5)


def answers(**by_contender):
    """A stand-in for a measuring process that gives each contender's answers in turn."""
    turns = {name: iter(given) for name, given in by_contender.items()}
    asked = []

    def measure(contender):
        asked.append(contender)
        answer = next(turns[contender])
        if isinstance(answer, Failure):
            raise answer
        seconds, number = answer
        return {"seconds": {"total": seconds}, "samples": 1, "numbers": [number]}

    return measure, asked


def test_contenders_take_turns_and_ratios_are_formed_within_a_round():
    # The machine is three times as slow in the second round: the ratio stays the same.
    measure, asked = answers(
        microtensor=[(1.0, 7.0), (3.0, 7.0), (2.0, 7.0)], torch=[(2.0, 7.0), (6.0, 7.0), (5.0, 7.0)]
    )
    results = _harness.compare(measure, ["microtensor", "torch"], 3, 1e-6)
    assert asked == ["microtensor", "torch", "torch", "microtensor", "microtensor", "torch"]
    ours, theirs = (results.values[name, "total"] for name in ("microtensor", "torch"))
    assert _harness.paired(ours, theirs) == Spread(0.5, 0.4, 0.5, 3)
    assert _harness.paired(ours, {1: 6.0}) == Spread(0.5, 0.5, 0.5, 1)
    assert _harness.paired(ours, {}) is None


def test_a_contender_that_fails_or_cheats_has_no_numbers_and_is_not_asked_again():
    measure, asked = answers(
        microtensor=[(1.0, 7.0)] * 2, torch=[(0.1, 8.0)], jax=[(1.0, 7.0), Failure("MemoryError")]
    )
    results = _harness.compare(measure, ["microtensor", "torch", "jax"], 2, 1e-6)
    assert asked == ["microtensor", "torch", "jax", "jax", "microtensor"]
    assert set(results.values) == {("microtensor", "total")}
    assert results.failures == {
        "torch": "not the numbers of microtensor",
        "jax": "failed: MemoryError",
    }
    text = overhead.report({"W7": results}, ["microtensor", "torch", "jax"], [], False)
    assert "| not the numbers of microtensor | failed: MemoryError |" in text


def test_a_process_that_raises_is_a_failure_in_one_line(capsys):
    with pytest.raises(Failure, match=r"^ZeroDivisionError$"):
        _harness._process(["-c", "1 / 0"])
    assert "Traceback" in capsys.readouterr().err  # the whole story, on standard error


@pytest.mark.parametrize(
    ("shares", "attempts", "kept"),
    [([0.99], 1, 0.99), ([0.5, 0.97], 2, 0.97), ([0.5, 0.9, 0.7], 3, 0.9)],
)
def test_a_disturbed_process_is_repeated_and_chosen_by_its_share(
    shares, attempts, kept, monkeypatch
):
    given = iter(shares)
    asked = []

    def process(arguments):
        asked.append(arguments)
        return f'{{"share": {next(given)}}}'

    monkeypatch.setattr(_harness, "_process", process)
    assert _harness.run("W7", "torch", 1.0)["share"] == kept
    assert len(asked) == attempts


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Spread(0.4, 0.3, 0.5, 3), "reached"),
        (Spread(0.4, 0.3, 0.6, 3), "reached, not in every round"),
        (Spread(0.6, 0.4, 0.7, 3), "not reached, in some rounds only"),
        (Spread(0.6, 0.55, 0.7, 3), "not reached"),
        (None, "not measured"),
    ],
)
def test_verdicts(found, said):
    assert _report.verdict(found, 0.5) == said


def test_goals_speak_of_the_median_ratio_and_of_milliseconds():
    values = {
        ("microtensor", "total"): {0: 3.0, 1: 1.0, 2: 2.0},
        ("torch", "total"): {0: 4.0, 1: 4.0, 2: 4.0},
    }
    imports = {("microtensor", "time"): {0: 0.018}, ("microtensor", "memory"): {0: 4.5}}
    results = {
        "W7": _harness.Results(values, [], {}, {}, {}),
        "W11": _harness.Results(imports, [], {}, {}, {}),
    }
    found = {(g.workload, g.phase): _report.quantity(g, results) for g in workloads.GOALS}
    assert found["W7", "total"] == Spread(0.5, 0.25, 0.75, 3)
    assert found["W11", "time"].median == pytest.approx(18.0)
    assert found["W11", "memory"].median == 4.5
    assert found["W9", "total"] is None


def test_a_measuring_process_has_one_thread_and_its_own_kernels(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("OPENBLAS_L2_SIZE", "512")
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    inside = _harness.environment()
    assert not {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"} & inside.keys()
    assert inside["OMP_NUM_THREADS"] == inside["OPENBLAS_NUM_THREADS"] == "1"


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (1234.5, "1,234"),
        (62.84, "62.8"),
        (7.0, "7.00"),
        (0.02113, "0.0211"),
        (0, "0"),
        (1e-7, "0.0000"),
    ],
)
def test_digits(x, text):
    assert _report.digits(x) == text


def test_unknown_kernels_are_said_to_be_unknown(monkeypatch):
    from benchmarks import _process

    def refuse(path):
        raise OSError("no such library")

    assert _process.core_type()  # whatever this machine has
    monkeypatch.setattr(_process.ctypes, "CDLL", refuse)
    assert _process.core_type() == "unknown"


def test_what_is_promised_is_about_what_is_measured():
    names = {w.name for w in workloads.WORKLOADS} | {workloads.IMPORT}
    assert {goal.workload for goal in workloads.GOALS} <= names
    assert {goal.workload for goal in trainings.GOALS} <= {w.name for w in trainings.WORKLOADS}
    assert {goal.workload for goal in courses.GOALS} <= set(courses.COURSES)


def test_a_tiny_run_of_the_trainings_prints_tables(tmp_path):
    out = tmp_path / "recurrence.md"
    asked = ["--workloads", "W3", "--contenders", "microtensor:arrays", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.recurrence", "--quick", *asked],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert out.read_text(encoding="utf-8").strip() == done.stdout.strip()
    goals, measured = cells(done.stdout)
    assert [row[1:] for row in goals[2:]] == [
        ["microtensor arrays over torch", "–", "0.12", "not measured"],
        ["microtensor arrays, captured over torch", "–", "0.12", "not measured"],
        ["microtensor arrays over torch", "–", "0.08", "not measured"],
        ["microtensor arrays, captured over torch", "–", "0.08", "not measured"],
    ]
    assert measured[0] == ["", "unit", "microtensor arrays, captured", "microtensor arrays"]
    assert all(float(time.replace(",", "")) > 0 for row in measured[2:] for time in row[2:])
    assert len(measured) == 4


# A network of each kind, and small: cell, loss, optimizer, what comes first, what is read.
TRAININGS = {
    "W1": {"steps": 4, "batch": 3},
    "W2a": {"steps": 3, "batch": 4},
    "W3b": {},
    "W4-8-100-32": {"steps": 6, "batch": 3},
    "W5": {"steps": 30, "batch": 3, "first": 20},
    "W6": {"steps": 5, "batch": 3},
}


def losses(contender, workload, count=4):
    """The first losses of a small training."""
    _, training, data = trainings.TRAININGS[workload]
    small = training._replace(**TRAININGS[workload])
    module = importlib.import_module(f"benchmarks.contenders.{contender}")
    task = module.training(*trainings.inputs_of(small, data))
    found = []
    for _ in range(count):
        task.phases["total"]()
        found += task.read()
    return found


@pytest.mark.parity
@pytest.mark.parametrize("workload", TRAININGS)
def test_trainings_are_the_same_in_pytorch(workload):
    ours = losses("microtensor", workload)
    assert _harness.same_work(ours, losses("torch", workload), 5e-6)


@pytest.mark.parametrize("workload", TRAININGS)
def test_trainings_do_not_depend_on_the_driver_and_learn(workload):
    ours = losses("microtensor", workload)
    with mt.recurrence.driver("steps"):
        assert _harness.same_work(ours, losses("microtensor", workload), 5e-6)
    assert len(set(ours)) == len(ours)
    if workload not in ("W2a", "W3b"):  # the goal of each of their steps is another one
        assert ours == sorted(ours, reverse=True)


def test_subnormal_numbers_and_memory_have_rows_of_their_own():
    def results(**seconds):
        values = {(c.replace("_", ":"), "total"): {0: s} for c, s in seconds.items()}
        memory = {"microtensor:arrays": {0: 30.0}, "torch": {0: 40.0}}
        return _harness.Results(values, [], memory, {}, {})

    found = {
        "W5": results(microtensor_arrays=3.0, torch=4.0),
        "W6": results(microtensor_arrays=1.0, torch=4.0, torch_flushing=2.0),
    }
    text = recurrence.report(found, ["microtensor:arrays", "torch"], "torch", [], True)
    goals, measured, ratios = cells(text)
    assert [row[1:] for row in goals[2:]] == [
        ["microtensor arrays over torch", "0.750", "0.7", "not reached"],
        ["microtensor arrays over torch", "0.250", "0.42", "reached"],
        ["memory, microtensor arrays over torch", "0.750", "0.95", "reached"],
    ]
    assert [row[1:] for row in measured[2:]] == [
        ["µs", "3,000,000", "4,000,000"],
        ["MB", "30.0", "40.0"],
        ["µs", "1,000,000", "4,000,000"],
        ["µs", "", "2,000,000"],
    ]
    assert ratios[2:] == [
        ["W5", "0.750", "1.00"],
        ["W6", "0.250", "1.00"],
        ["W6, over torch flushing", "0.500", "2.00"],
    ]


def test_names_of_workloads_and_families():
    names = ["W1", "W10", "W2a", "W2b", "W4-8", "W4-128", "microtensor:arrays"]
    assert _report.selected("W1,W2", names, "x") == ["W1", "W2a", "W2b"]
    assert _report.selected("W4,microtensor", names, "x") == names[4:]
    assert _report.selected("W2b", names, "x") == ["W2b"]


def test_without_a_card_there_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(gpu.mt, "backend_available", lambda name: False)
    assert gpu.main([]) == 0
    assert capsys.readouterr().out == "no graphics card that CuPy can use: nothing to measure\n"


# -- online learning


def first_losses(contender, name, trials, monkeypatch):
    """The losses of trial 0 on three short sequences."""
    monkeypatch.setattr(courses, "SEQUENCES", 3)
    short = {k: course._replace(steps=5) for k, course in courses.COURSES.items()}
    monkeypatch.setattr(courses, "COURSES", short)
    module = importlib.import_module(f"benchmarks.contenders.{contender}")
    with mt.recurrence.driver("arrays"):
        task = module.online(*courses.inputs_of(name, trials))
        task.phases["total"]()
    return [float(x) for x in task.read()[0]]


@pytest.mark.parity
@pytest.mark.parametrize("name", courses.COURSES)
def test_online_learning_is_the_same_in_pytorch(name, monkeypatch):
    ours = first_losses("microtensor", name, 1, monkeypatch)
    assert _harness.same_work(ours, first_losses("torch", name, 1, monkeypatch), 1e-5)


def test_a_trial_of_online_learning_does_not_depend_on_those_beside_it(monkeypatch):
    alone = first_losses("microtensor", "6a", 1, monkeypatch)
    assert len(set(alone)) == 3
    assert alone[0] == first_losses("microtensor", "6a", 2, monkeypatch)[0]


def test_online_learning_is_told_for_a_trial_and_sequence():
    def results(**seconds):
        values = {(c.replace("_", ":"), "total"): {0: s} for c, s in seconds.items()}
        return _harness.Results(values, [], {}, {}, {})

    n = courses.SEQUENCES
    found = {
        "lstm-1": results(microtensor_numba=30e-6 * n, torch=800e-6 * n),
        "lstm-16": results(microtensor_numba=16 * 8e-6 * n),
    }
    text = online.report(found, ["microtensor:numba", "torch"], [], True)
    goals, times, speeds, ratios = cells(text)
    assert goals[2][2:] == ["0.0100", "0.0134", "reached"]
    assert times[0][1:] == ["microtensor numba, K = 1", "microtensor numba, K = 16", "torch"]
    assert times[2][1:] == ["30.0", "8.00", "800"]
    assert speeds[2][1:] == ["3.33", "12.5", "0.125"]
    assert ratios[2][1:] == ["0.0375", "0.0100"]
