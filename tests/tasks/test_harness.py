"""The harness: verdicts, keyed randomness, checkpoints, the folder, the command line."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import io
import itertools
import json
import math
import os
import re
import shlex
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import microtensor as mt
from tasks import cli, registry, runner, scheduling, snapshot, units
from tasks.folder import RunFolder
from tasks.harness import (
    Level,
    Row,
    Settings,
    Trial,
    at_least,
    at_most,
    check_learning_rate,
    median_of,
    success_rate,
    wilson,
    wilson_tolerance,
    within,
)
from tasks.settings import split_settings
from tasks.units import Unit, train_unit
from tasks.work import Hooks, Interrupted, Work

ROOT = Path(__file__).resolve().parents[2]


# -- rows --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "tolerance", "ok"),
    [
        (0.5, at_most(0.5), True),
        (0.51, at_most(0.5), False),
        (-9.0, at_most(0.5), True),
        (36.0, at_least(36), True),
        (35.0, at_least(36), False),
        (1.0, within(1.0, 0.0), True),
        (1.0 + 1e-12, within(1.0, 0.0), False),
        (math.nan, at_most(0.5), False),
        (math.nan, (-math.inf, math.inf), False),
    ],
)
def test_verdict_of_a_row(value: float, tolerance: tuple[float, float], ok: bool) -> None:
    assert Row("x", value, target=0.0, source="paper", tolerance=tolerance).ok is ok


def test_a_row_without_a_target_has_no_verdict_and_half_a_target_is_refused() -> None:
    assert Row("x", 1.0).ok is None
    for half in (
        {"target": 1.0},
        {"source": "paper"},
        {"tolerance": (0, 1)},
        {"target": 1.0, "source": "paper"},
    ):
        with pytest.raises(ValueError, match="come together"):
            Row("x", 1.0, **half)
    with pytest.raises(ValueError, match="empty interval"):
        Row("x", 1.0, target=1.0, source="paper", tolerance=(2.0, 1.0))


def test_one_diverged_trial_is_not_averaged_away() -> None:
    summary = median_of([0.1, math.nan, 0.2])
    assert math.isnan(summary["value"])
    assert Row("x", **summary, target=0.0, source="paper", tolerance=at_most(1.0)).ok is False
    assert median_of([3.0, 1.0, 2.0]) == {"value": 2.0, "spread": (1.0, 3.0), "trials": 3}


def test_wilson_interval_of_a_known_case() -> None:
    # 20 of 40: Newcombe (1998) gives 0.3520 to 0.6480.
    assert wilson(20, 40) == pytest.approx((0.3520, 0.6480), abs=5e-5)
    assert success_rate([True, False, True, True])["value"] == 0.75
    assert success_rate([True, False])["solved"] == 1


@given(trials=st.integers(1, 200), data=st.data(), target=st.floats(0.01, 0.99))
def test_wilson_tolerance_is_wilson_turned_around(trials: int, data: Any, target: float) -> None:
    solved = data.draw(st.integers(0, trials))
    low, high = wilson(solved, trials)
    assert 0.0 <= low <= solved / trials + 1e-12
    assert solved / trials - 1e-12 <= high <= 1.0
    if min(abs(target - low), abs(target - high)) < 1e-9:
        return  # on the border, rounding decides
    inside = wilson_tolerance(target, trials)
    assert (low <= target <= high) == (inside[0] <= solved / trials <= inside[1])


# -- keyed randomness --------------------------------------------------------------------------

blocks = st.lists(st.one_of(st.integers(0, 2**40), st.text(max_size=6)), min_size=1, max_size=3)
keys = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 10_000), blocks)


@given(one=keys, other=keys)
def test_equal_keys_give_equal_numbers_and_different_keys_different_ones(
    one: Any, other: Any
) -> None:
    def draw(key: Any) -> np.ndarray:
        seed, trial, block = key
        work = Work(settings=None, seed=seed, trials=(trial,))
        return work.generator(*block).integers(0, 2**62, (4,))

    assert (draw(one) == draw(one)).all()
    assert (draw(one) == draw(other)).all() == (one == other)


def test_keys_that_look_alike_are_different() -> None:
    work = Work(settings=None, trials=(0, 1))
    alike = [("a",), ("a", 0), ("a", "0"), (0, "a"), ("a", 0, 0), ("a0",)]
    drawn = {
        (block, trial): int(work.generator(*block, trial=trial).integers(0, 2**62))
        for block in alike
        for trial in (0, 1)
    }
    assert len(set(drawn.values())) == len(drawn)
    with pytest.raises(ValueError, match="which trial"):
        work.generator("a")
    with pytest.raises(ValueError, match="what the numbers are for"):
        work.generator(trial=0)


# -- snapshots ---------------------------------------------------------------------------------

arrays = st.sampled_from([np.float32, np.float64, np.int64, np.bool_]).flatmap(
    lambda dtype: st.lists(st.integers(0, 5), max_size=3).map(
        lambda shape: np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    )
)
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    arrays,
    arrays.map(lambda a: mt.tensor(a)),
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=4), st.integers(0, 9)), inner, max_size=3),
    ),
    max_leaves=10,
)


def same(a: Any, b: Any) -> bool:
    """Equal in type, structure and every bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, mt.Tensor):
        return a.requires_grad == b.requires_grad and same(a.numpy(), b.numpy())
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@given(tree=trees)
def test_a_tree_comes_back_to_the_bit(tmp_path_factory: Any, tree: Any) -> None:
    path = tmp_path_factory.mktemp("tree") / "tree.safetensors"
    snapshot.save_tree(path, tree)
    assert same(snapshot.load_tree(path), tree)


def test_what_a_checkpoint_cannot_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"\['a'\]\[1\] is a set"):
        snapshot.save_tree(tmp_path / "x", {"a": [1, {2}]})
    with pytest.raises(TypeError, match="keeps objects with state_dict"):
        snapshot.capture({"number": 3})
    with pytest.raises(ValueError, match="another version of the experiment"):
        snapshot.restore({"a": {}}, {"b": {}})


# -- the loop ----------------------------------------------------------------------------------


def unit_of(task: Any, folder: Path, **changes: Any) -> Unit:
    plain = Unit(
        task=task.name,
        settings=task.presets["document"],
        variant="far",
        trials=(1,),
        seed=3,
        backend="numpy",
        data=(),
        folder=str(folder),
        resume=True,
        save_every=0.0,
    )
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    return dataclasses.replace(plain, **changes)


def equal_results(one: Any, other: Any) -> bool:
    return (
        same(
            [[dict(t.values), dict(t.model), dict(t.arrays)] for t in one.trials],
            [[dict(t.values), dict(t.model), dict(t.arrays)] for t in other.trials],
        )
        and one.metrics == other.metrics
    )


@pytest.mark.parametrize("stops", [(1,), (5,), (11,), (2, 3, 9), tuple(range(1, 12))])
def test_a_unit_stopped_and_resumed_is_bitwise_the_same(
    walk_task: Any, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    straight = train_unit(unit_of(walk_task, tmp_path / "straight"))
    unit = unit_of(walk_task, tmp_path / "stopped")
    for stop in stops:
        reached: list[int] = []
        hooks = Hooks(
            progress=lambda done, total, reached=reached: reached.append(done),
            stop=lambda reached=reached, stop=stop: reached[-1] == stop,
        )
        with pytest.raises(Interrupted):
            train_unit(unit, hooks)
        assert reached[-1] == stop
        mt.manual_seed(99)  # whatever happens to the process's generator in between
    assert equal_results(train_unit(unit), straight)
    kept = RunFolder(tmp_path / "stopped").load_unit(unit.name)
    assert equal_results(kept, straight), "and once more, as it is kept on disk"


def test_the_checkpoint_is_what_the_resumed_run_uses(walk_task: Any, tmp_path: Path) -> None:
    """The test above must be able to fail: without its checkpoint the loop starts from 0."""
    unit = unit_of(walk_task, tmp_path)
    with pytest.raises(Interrupted):
        train_unit(unit, Hooks(stop=lambda: True))
    seen: list[int] = []
    train_unit(dataclasses.replace(unit, resume=False), Hooks(progress=lambda d, t: seen.append(d)))
    assert seen[0] == 1
    with pytest.raises(Interrupted):
        train_unit(unit_of(walk_task, tmp_path / "b"), Hooks(stop=lambda: True))
    seen.clear()
    train_unit(unit_of(walk_task, tmp_path / "b"), Hooks(progress=lambda d, t: seen.append(d)))
    assert seen[0] == 2


def test_a_loop_is_counted_once(walk_task: Any) -> None:
    work = Work(settings=None)
    assert list(work.steps(3)) == [0, 1, 2]
    with pytest.raises(RuntimeError, match="called twice"):
        list(work.steps(3))


def test_train_must_return_the_trials_it_was_given(walk_task: Any, monkeypatch: Any) -> None:
    wrong = dataclasses.replace(walk_task, train=lambda work: [])
    monkeypatch.setattr(registry, "_all", lambda: {"walk": wrong})
    unit = Unit(
        "walk", walk_task.presets["quick"], "near", (0,), 0, "numpy", None, None, False, 1.0
    )
    with pytest.raises(ValueError, match="was given trials"):
        train_unit(unit)


# -- a run -------------------------------------------------------------------------------------


def test_a_run_leaves_its_folder(walk_task: Any, tasks_cli: Any) -> None:
    done = tasks_cli("run walk --seed 5 --json")
    assert done.code == 0
    folder = done.out / "walk-document"
    assert sorted(os.listdir(folder)) == [
        "config.json",
        "metrics.csv",
        "model.safetensors",
        "path.png",
        "printout.txt",
        "result.json",
        "trials.csv",
    ]
    config = json.loads((folder / "config.json").read_text())
    assert config["settings"] == {
        "trials": 3,
        "length": 12,
        "stride": 1.0,
        "sober": False,
        "stops": [],
    }
    assert (config["seed"], config["backend"], config["task"]) == (5, "numpy", "walk")
    assert {"python", "numpy", "microtensor", "commit"} <= set(config["versions"])

    with open(folder / "metrics.csv", newline="") as file:
        metrics = list(csv.DictReader(file))
    assert len(metrics) == 2 * 3 * 12
    assert [(m["variant"], m["trial"], m["step"]) for m in metrics[:2]] == [
        ("near", "0", "0"),
        ("near", "0", "1"),
    ]
    with open(folder / "trials.csv", newline="") as file:
        trials = list(csv.DictReader(file))
    assert [(t["variant"], t["trial"]) for t in trials] == [
        (variant, number) for variant in ("near", "far") for number in "012"
    ]
    model = mt.load(folder / "model.safetensors")
    assert model.metadata["seed"] == 5
    assert set(model) == {
        f"{v}.trial.{n}.{p}" for v in ("near", "far") for n in range(3) for p in ("at", "sum")
    }
    at = model["near.trial.2.at"].numpy()
    assert float(trials[2]["distance"]) == np.linalg.norm(at), "CSV numbers read back exactly"
    assert float(metrics[3 * 12 - 1]["x"]) == at[0]


def test_json_is_the_last_line_and_all_else_goes_to_standard_error(
    walk_task: Any, tasks_cli: Any
) -> None:
    done = tasks_cli("run walk --json --no-plots")
    assert done.stdout.count("\n") == 1
    row = done.json["rows"][0]
    assert {"task", "preset", "seed", "rows"} <= set(done.json)
    assert {"name", "target", "source", "value", "spread", "trials", "tolerance", "ok"} <= set(row)
    assert row["tolerance"] == [None, 20.0], "what is not finite is null"
    assert row["ok"] is True
    assert done.json["rows"][1]["ok"] is None
    assert "He fell." in done.stderr
    assert "at home" in done.stderr
    assert not list(done.out.rglob("*.png"))
    assert tasks_cli("run walk --no-plots").stdout == ""


def test_check_exits_with_1_if_a_row_is_out_of_tolerance(walk_task: Any, tasks_cli: Any) -> None:
    assert tasks_cli("run walk --check --no-plots").code == 0
    far = tasks_cli("run walk --check --no-plots --stride 1000 --json")
    assert far.code == 1
    assert far.json["rows"][0]["ok"] is False
    assert "1 row is out of tolerance" in far.stderr
    assert tasks_cli("run walk --no-plots --stride 1000").code == 0, "without --check it only tells"
    lost = tasks_cli("run walk --check --no-plots --stride nan --json")
    assert lost.code == 1
    assert lost.json["rows"][0]["value"] is None


def test_a_diverged_row_says_so_and_nothing_warns(walk_task: Any, tasks_cli: Any) -> None:
    lost = tasks_cli(
        "run walk --stride 1e308 --length 40 --no-plots --json"
    )  # warnings are errors here
    distance, steps = lost.json["rows"]
    assert (distance["value"], distance["ok"]) == (None, False)
    assert distance["note"] == "Diverged: a trial is not a finite number."
    assert steps["note"] == ""


def test_the_median_of_a_curve_is_silent_where_there_is_none(walk_task: Any) -> None:
    from tasks import plots

    _, axes = plots.new_figure()
    values = np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan]])
    plots.curves(axes, np.arange(3), values, label="x", color="k", style="--")
    median = axes.lines[-1]
    np.testing.assert_array_equal(median.get_ydata(), [2.0, 5.0, np.nan])
    assert median.get_linestyle() == "--"


def test_quick_says_that_it_proves_nothing_more(walk_task: Any, tasks_cli: Any) -> None:
    assert "nothing more" in tasks_cli("run walk --preset quick --no-plots").stderr
    assert "nothing more" not in tasks_cli("run walk --no-plots").stderr


def test_the_seed_decides_and_nothing_else(walk_task: Any, tasks_cli: Any, tmp_path: Path) -> None:
    def written(words: str, name: str) -> list[bytes]:
        done = tasks_cli(f"run walk --no-plots {words}", tmp_path / name)
        return [
            (done.out / "walk-document" / file).read_bytes()
            for file in ("metrics.csv", "trials.csv", "model.safetensors")
        ]

    first = written("", "a")
    mt.manual_seed(1234)
    assert written("", "b") == first
    assert all(x != y for x, y in zip(written("--seed 1", "c"), first, strict=True))


def test_settings_reach_the_experiment(walk_task: Any, tasks_cli: Any) -> None:
    done = tasks_cli("run --length 3 walk --stops 1 2 --sober --no-plots --trials 1 --stride=-0.5")
    config = json.loads((done.out / "walk-document" / "config.json").read_text())
    assert config["settings"] == {
        "trials": 1,
        "length": 3,
        "stride": -0.5,
        "sober": True,
        "stops": [1, 2],
    }
    for words, sober in (("--sober True", True), ("--sober false", False), ("--no-sober", False)):
        done = tasks_cli(f"run walk --no-plots --trials 1 {words}")
        config = json.loads((done.out / "walk-document" / "config.json").read_text())
        assert config["settings"]["sober"] is sober


def test_splitting_a_command_line() -> None:
    options = {"--seed": True, "--json": False}
    words = shlex.split("run --lr -1e-3 a --seed 4 --flag --json --sizes 1 2 3 b --seed=5 --x=y c")
    assert split_settings(words, options, ["a", "b"]) == (
        shlex.split("run a --seed 4 --json b --seed=5"),
        [("lr", ["-1e-3"]), ("flag", []), ("sizes", ["1", "2", "3"]), ("x", ["y", "c"])],
    )


# -- unfinished, finished, resumed -------------------------------------------------------------


class _StopAfter:
    """A stand-in for Ctrl-C: asks to stop after so many steps of the whole run."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


def interrupt(monkeypatch: Any, steps: int) -> None:
    import contextlib

    @contextlib.contextmanager
    def interruptible() -> Any:
        yield _StopAfter(steps)

    monkeypatch.setattr(scheduling, "_interruptible", interruptible)


@pytest.mark.parametrize("steps", [1, 13, 40, 71])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    walk_task: Any, tasks_cli: Any, tmp_path: Path, monkeypatch: Any, steps: int
) -> None:
    whole = tasks_cli("run walk --seed 2", tmp_path / "whole").out / "walk-document"
    with monkeypatch.context() as patch:
        interrupt(patch, steps)
        stopped = tasks_cli("run walk --seed 2", tmp_path / "parts")
    assert stopped.code == 130
    assert re.search(r"python -m tasks run walk --seed 2 .*--resume", stopped.stderr)
    again = tasks_cli("run walk --seed 2", tmp_path / "parts")
    assert again.code == 2
    assert "unfinished" in again.stderr
    assert "--resume" in again.stderr
    other = tasks_cli("run walk --seed 3 --stride 2 --resume", tmp_path / "parts")
    assert other.code == 2
    assert "seed 2 there, 3 here" in other.stderr
    assert "stride 1.0 there, 2.0 here" in other.stderr
    assert tasks_cli("run walk --seed 2 --resume", tmp_path / "parts").code == 0
    parts = tmp_path / "parts" / "walk-document"
    for name in ("metrics.csv", "trials.csv", "model.safetensors", "path.png"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes(), name
    assert not (parts / "checkpoints").exists()


def test_a_finished_run_resumed_is_only_shown_and_can_be_made_longer(
    walk_task: Any, tasks_cli: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    done = tasks_cli("run walk --json --no-plots")
    with monkeypatch.context() as patch:
        patch.setattr(runner, "run_units", None)
        assert tasks_cli("run walk --json --no-plots --resume").json == done.json
    longer = tasks_cli("run walk --json --no-plots --resume --trials 5")
    assert longer.json == tasks_cli("run walk --json --no-plots --trials 5", tmp_path / "x").json


def test_a_damaged_checkpoint_is_named_in_one_line(
    walk_task: Any, tasks_cli: Any, monkeypatch: Any
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, 5)
        stopped = tasks_cli("run walk")
    [path] = (stopped.out / "walk-document" / "checkpoints").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-8])
    resumed = tasks_cli("run walk --resume")
    assert resumed.code == 2
    assert str(path) in resumed.stderr.splitlines()[-1]
    assert "; remove it" in resumed.stderr
    path.unlink()
    path.mkdir()  # any reason for which the system cannot read it
    resumed = tasks_cli("run walk --resume")
    assert resumed.code == 2
    assert str(path) in resumed.stderr.splitlines()[-1]
    assert "remove" not in resumed.stderr


def test_what_else_lies_in_the_folder_stays(walk_task: Any, tasks_cli: Any, tmp_path: Path) -> None:
    (tmp_path / "out" / "walk-document").mkdir(parents=True)
    note = tmp_path / "out" / "walk-document" / "note.txt"
    note.write_text("mine")
    tasks_cli("run walk --no-plots")
    tasks_cli("run walk --no-plots --seed 1")
    assert note.read_text() == "mine"


# -- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("run nosuch", "no experiment is called 'nosuch'"),
        ("run wakl", "did you mean 'walk'?"),
        ("run 003", "document 003 has no experiment"),
        ("run", "required: NAME"),
        ("show nosuch", "no experiment is called 'nosuch'"),
        ("nosuch", "invalid choice: 'nosuch'"),
        ("run walk --trials -1", "--trials must be at least 1; got -1"),
        ("run walk --trials 0", "--trials must be at least 1; got 0"),
        ("run walk --trials many", "--trials: invalid int value: 'many'"),
        ("run walk --jobs 0", "--jobs must be at least 1"),
        ("run walk --seed -1", "--seed must be from 0"),
        ("run walk --save-every -1", "--save-every must be at least 0"),
        ("run walk --backend abacus", "invalid choice: 'abacus'"),
        ("run walk --data /no/such/folder", "--data: there is no folder /no/such/folder; make it"),
        ("run walk --preset slow", "invalid choice: 'slow'"),
        ("run walk --strode 2", "did you mean --stride?"),
        ("run walk --colour red", "--colour is no setting of walk"),
        ("run walk --length long", "--length takes a value of type int; got long"),
        ("run walk --length", "--length takes a value of type int; got nothing"),
        ("run walk --length 3 4", "--length takes a value of type int; got 3 4"),
        ("run walk --sober perhaps", "--sober takes a value of type bool; got perhaps"),
        ("run walk --length 0", "length must be at least 1; got 0"),
        ("run walk --live", "walk has no live picture"),
        ("run walk --live --jobs 2", "--live draws what trains in this process"),
        ("run walk --cluster a --jobs 2", "exclude each other"),
        ("report /no/such/folder", "there is no folder /no/such/folder"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(
    walk_task: Any, tasks_cli: Any, words: str, message: str
) -> None:
    refused = tasks_cli(words)
    assert refused.code == 2
    assert refused.stdout == ""
    assert refused.stderr.count("\n") == 1
    assert refused.stderr.startswith("tasks: ")
    assert message in refused.stderr


@pytest.mark.parametrize("rate", [math.nan, math.inf, -math.inf, -1e-9])
def test_a_step_size_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="learning_rate must be a number from 0 up; got"):
        check_learning_rate(rate)
    for name in registry.names():
        settings = registry.load(name).settings
        if "learning_rate" in settings.names():
            with pytest.raises(ValueError, match="learning_rate must be"):
                settings(learning_rate=rate)
            settings(learning_rate=0.0)


@pytest.mark.parametrize(
    "words", [["run", "walk", "--out", ""], ["tour", "--out="], ["report", ""]]
)
def test_no_folder_is_not_the_current_folder(
    walk_task: Any, tmp_path: Path, monkeypatch: Any, capsys: Any, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert "''" in streams.err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(mt.backend_available("cupy"), reason="there is a GPU here")
def test_cupy_without_a_gpu_is_refused(walk_task: Any, tasks_cli: Any) -> None:
    refused = tasks_cli("run walk --backend cupy")
    assert (refused.code, refused.stderr.count("\n")) == (2, 1)
    assert "needs CuPy and an NVIDIA GPU" in refused.stderr


def test_a_folder_that_cannot_be_written_is_refused(
    walk_task: Any, tasks_cli: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    refused = tasks_cli("run walk", tmp_path / "file")
    assert (refused.code, refused.stderr.count("\n")) == (2, 1)
    assert "cannot write into" in refused.stderr
    folder = tmp_path / "out" / "walk-document"
    (folder / "config.json").mkdir(parents=True)
    refused = tasks_cli("run walk", tmp_path / "out")
    assert (refused.code, refused.stderr.count("\n")) == (2, 1)
    assert "cannot be read" in refused.stderr


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(walk_task: Any, tasks_cli: Any, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    refused = tasks_cli("run walk", tmp_path / "locked")
    assert (refused.code, refused.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("missing", "words", "extra"),
    [
        ("rich", "run walk", "tasks"),
        ("matplotlib", "run walk", "tasks"),
        ("tyro", "run walk --length 3", "tasks"),
        ("tensorboardX", "run walk --tensorboard", "tasks"),
        ("distributed", "run walk --cluster somewhere:1", "cluster"),
    ],
)
def test_what_is_not_installed_is_said_before_anything_runs(
    walk_task: Any, tasks_cli: Any, monkeypatch: Any, missing: str, words: str, extra: str
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else real(name)
    )
    refused = tasks_cli(words)
    assert (refused.code, refused.stderr.count("\n")) == (2, 1)
    assert f"this needs {missing}" in refused.stderr
    assert f".[{extra}]" in refused.stderr
    assert not refused.out.exists()


def test_a_fault_in_the_second_experiment_is_found_before_the_first_runs(
    walk_task: Any, tasks_cli: Any
) -> None:
    refused = tasks_cli("run walk nosuch")
    assert refused.code == 2
    assert not refused.out.exists()


# -- list, show, tour, tensorboard -------------------------------------------------------------


def test_list_show_and_tour(walk_task: Any, tasks_cli: Any) -> None:
    listed = tasks_cli("")
    assert listed.code == 0
    assert "a drunkard's walk" in listed.stdout
    assert "000" in listed.stdout
    for words in ("show walk", "show 000", "show all"):
        shown = tasks_cli(words).stdout
        for part in (
            "He walks.",
            "x' = x + n",
            "--stride",
            "Length of a step.",
            "at home",
            "Independent repetitions",
        ):
            assert part in shown
    tour = tasks_cli("tour --no-plots")
    assert tour.code == 0
    assert "That was the tour" in tour.stderr
    assert (tour.out / "walk-document" / "result.json").exists()


def test_settings_without_a_description_are_noticed() -> None:
    assert Settings.describe()["trials"].startswith("Independent repetitions")
    for name in registry.names():
        described = registry.load(name).settings.describe()
        assert all(described.values()), f"{name}: {described}"


def test_a_level_must_be_legible_in_a_figure(walk_task: Any) -> None:
    from tasks import plots

    figure, axes = plots.new_figure()
    axes.plot([0, 1], [0, 1])
    plots.reference_levels(axes, [Level("chance", 0.5)])
    assert [text.get_text() for text in axes.texts] == ["chance: 0.5"]
    assert len(figure.axes) == 1


def test_tensorboard_event_files_hold_every_metric(
    walk_task: Any, tasks_cli: Any, read_events: Any
) -> None:
    done = tasks_cli("run walk --tensorboard --no-plots --preset quick")
    folder = done.out / "walk-quick"
    files = list((folder / "tensorboard").rglob("events.out.*"))
    assert len(files) == 4
    with open(folder / "metrics.csv", newline="") as file:
        lines = [m for m in csv.DictReader(file) if (m["variant"], m["trial"]) == ("far", "1")]
    [own] = (folder / "tensorboard" / "far-trial-1").iterdir()
    expected = [(int(m["step"]), k, np.float32(m[k])) for m in lines for k in ("x", "y")]
    assert read_events(own) == expected


# -- what a person sees while it runs ----------------------------------------------------------


def test_the_unit_s_own_words_go_with_its_progress(walk_task: Any, tmp_path: Path) -> None:
    said: list[str] = []
    train_unit(unit_of(walk_task, tmp_path / "a"), Hooks(status=said.append))
    assert len(said) == walk_task.presets["document"].length  # the walk logs every step
    assert re.fullmatch(r"x -?[\d.e-]+, y -?[\d.e-]+", said[-1])

    def talk(work: Any) -> list[Trial]:
        for step in work.steps(4):
            if step % 2:
                work.log(step, x=step)
                work.status(f"step {step}: all is well")
        return [Trial(number) for number in work.trials]

    said.clear()
    work = Work(settings=None, hooks=Hooks(status=said.append))
    talk(work)
    assert said == ["step 1: all is well", "step 3: all is well"]  # told once, when it is new


class _Told:
    """A console that writes down what it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[float, str]] = []

    def update(self, done: float, *, total: int, status: str = "") -> None:
        assert 0 <= done <= total
        self.lines.append((done, status))


def test_the_console_hears_of_every_unit(walk_task: Any, tmp_path: Path) -> None:
    told = _Told()
    options = scheduling.Options(folder=tmp_path / "run", preset="quick", plots=False)
    runner.run_task(walk_task, walk_task.presets["quick"], options, told)
    for name in ("near-0", "near-1", "far-0", "far-1"):
        assert any(status.startswith(f"{name}: x ") for _, status in told.lines), name
    done = [part for part, _ in told.lines]
    assert done == sorted(done)
    assert done[-1] == 4


def test_a_worker_s_words_come_through_its_file(
    walk_task: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    folder = RunFolder(tmp_path)
    unit = unit_of(walk_task, tmp_path)
    folder.running_file.touch()
    assert scheduling._how_far(folder, unit) == (0.0, "")
    seen = []
    clock = itertools.count()
    monkeypatch.setattr(units.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(
        RunFolder,
        "save_unit",
        lambda self, name, result: seen.append(scheduling._how_far(folder, unit)),
    )
    units.train_in_worker(unit)
    [(part, status)] = seen
    assert part == 1.0
    assert status.startswith(f"{unit.name}: x ")


def test_a_worker_sends_nothing_that_its_death_could_cut_in_half(
    walk_task: Any, tmp_path: Path
) -> None:
    """Its result comes by the folder: with half a message in the pipe, the run would hang."""
    unit = unit_of(walk_task, tmp_path / "there")
    RunFolder(tmp_path / "there").running_file.touch()
    assert units.train_in_worker(unit) is None
    there = RunFolder(tmp_path / "there").load_unit(unit.name)
    here = train_unit(unit_of(walk_task, tmp_path / "here"))
    assert there is not None
    assert there.metrics == here.metrics
    assert [t.values for t in there.trials] == [t.values for t in here.trials]


def test_plain_lines_tell_the_time_left_and_the_words(monkeypatch: Any, capsys: Any) -> None:
    from tasks import console

    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.ProgressBar("walk") as bar:
        bar.update(1.0, total=4, status="one: x 1")  # a quarter was done when it went on
        now[0] = 60.0
        bar.update(2.0, total=4, status="two: x [0.5]")
        now[0] = 5000.0
        bar.update(2.0, total=4)
    assert capsys.readouterr().err.splitlines() == [
        "walk: 50 % after 1 min 0 s, 2 min 0 s left; two: x [0.5]",
        "walk: 50 % after 1 h 23 min, 2 h 46 min left",
    ]


def test_the_bar_shows_the_words(monkeypatch: Any) -> None:
    from tasks import console

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with console.ProgressBar("walk") as bar:
        bar.update(4.0, total=4, status="two: x [0.5]")
    assert "two: x [0.5]" in screen.getvalue()
