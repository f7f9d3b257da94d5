"""The folder of a run: what is written, under which names, and how an unfinished one goes on.

    config.json         settings, preset, seed, backend, versions
    metrics.csv         variant, trial, step, and a column for each logged metric
    trials.csv          variant, trial, and a column for each result of a trial
    result.json         the rows
    model.safetensors   the trained parameters of every trial
    printout.txt        what the original program prints, where there is such a thing
    *.png               the figures
    checkpoints/        while the run is unfinished: one file a unit of work
    live.png            the picture of `--live`, where there is no window to draw it in

Every file is written beside its place and renamed: what has its name is whole.

Nothing in metrics.csv, trials.csv and model.safetensors depends on the clock, the machine or the
number of jobs: the same settings and seed give the same bytes.
"""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import math
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import microtensor as mt
from microtensor.io import TEMPORARY, write_atomically
from tasks import snapshot
from tasks.datasets import Found
from tasks.harness import Metric, Row, Run, Task, Trial, UsageError


@dataclass(frozen=True)
class UnitResult:
    """What a finished unit of work leaves: its trials, as host arrays, and its metrics."""

    trials: tuple[Trial, ...]
    metrics: tuple[Metric, ...]


class RunFolder:
    """One run's folder.

    Parameters
    ----------
    path
        The folder; made, with its parents, when the run begins.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.running_file = self.checkpoints / "running"

    @property
    def finished(self) -> bool:
        """Whether a run has ended here."""
        return (self.path / "result.json").exists()

    def check(self, config: Mapping[str, Any], *, resume: bool) -> None:
        """Refuse what `begin` could not do, before anything has been changed.

        Raises
        ------
        UsageError
            The folder cannot be written; an unfinished run stands here and `resume` was not asked
            for; or it was asked for, and the run that stands here has another configuration.
        """
        self._make_writable()
        saved = self._read_config()
        if resume:
            if saved is not None:
                _check_same(saved, config, self.path)
        elif not self.finished and any(self.checkpoints.glob("*.safetensors")):
            raise UsageError(
                f"{self.path} holds an unfinished run; go on with it by --resume, or remove the "
                "folder or name another --out to start afresh"
            )

    def begin(self, config: Mapping[str, Any], *, resume: bool) -> bool:
        """Make the folder ready for a run of this configuration; True if it is finished already.

        A finished run that stands here is replaced, unless it is to be resumed; an unfinished one
        is never thrown away. To resume a finished run with more trials makes it longer.

        Raises
        ------
        UsageError
            As `check`.
        """
        self.check(config, resume=resume)
        saved = self._read_config()
        if not resume:
            self._clear()
        elif self.finished and saved and saved["settings"] == _plain(config)["settings"]:
            return True
        (self.path / "result.json").unlink(missing_ok=True)
        self.checkpoints.mkdir(exist_ok=True)
        for folder in (self.path, self.checkpoints):  # of a run that was killed
            for leftover in folder.glob(TEMPORARY):
                leftover.unlink()
        self.running_file.touch()
        self._write("config.json", to_json(config))
        return False

    def ask_to_stop(self) -> bool:
        """Have units in other processes save and stop after their step; False if that cannot be.

        The sign is that a file goes, not that one comes: that works on a full disk, too.
        """
        try:
            self.running_file.unlink(missing_ok=True)
        except OSError:
            return False
        return True

    def load_result(self) -> dict[str, Any]:
        """The content of result.json."""
        return dict(json.loads((self.path / "result.json").read_text(encoding="utf-8")))

    # -- units of work ----------------------------------------------------------------------------

    def checkpoint(self, unit: str) -> Path:
        """Where the unit of that name saves its loop."""
        return self.checkpoints / f"{unit}.safetensors"

    def progress_file(self, unit: str) -> Path:
        """Where a unit in another process says how far it is, as two numbers."""
        return self.checkpoints / f"{unit}.progress"

    def save_unit(self, unit: str, result: UnitResult) -> None:
        """Keep a finished unit until the whole run is finished."""
        tree = {
            "trials": [
                [t.number, dict(t.values), dict(t.model), dict(t.arrays), t.variant]
                for t in result.trials
            ],
            "metrics": [[m.variant, m.trial, m.step, dict(m.values)] for m in result.metrics],
        }
        snapshot.save_tree(self.checkpoints / f"{unit}.done.safetensors", tree)
        self.checkpoint(unit).unlink(missing_ok=True)
        self.progress_file(unit).unlink(missing_ok=True)

    def load_unit(self, unit: str) -> UnitResult | None:
        """A unit that has finished before, or None."""
        path = self.checkpoints / f"{unit}.done.safetensors"
        if not path.exists():
            return None
        tree = snapshot.load_tree(path)
        trials = tuple(Trial(*fields) for fields in tree["trials"])
        return UnitResult(trials, tuple(Metric(*fields) for fields in tree["metrics"]))

    # -- the results ------------------------------------------------------------------------------

    def write_tables(self, run: Run) -> None:
        """metrics.csv and trials.csv; numbers are written so that they read back exactly."""
        self._csv(
            "metrics.csv",
            ("variant", "trial", "step"),
            (((m.variant, m.trial, m.step), m.values) for m in run.metrics),
        )
        self._csv(
            "trials.csv",
            ("variant", "trial"),
            (((t.variant, t.number), t.values) for t in run.trials),
        )

    def write_model(self, task: Task, run: Run) -> None:
        """model.safetensors: every trial's parameters as `VARIANT.trial.NUMBER.NAME`."""
        tensors = {
            ".".join(filter(None, (t.variant, "trial", str(t.number), name))): value
            for t in run.trials
            for name, value in t.model.items()
        }
        about = {
            "task": task.name,
            "preset": run.preset,
            "seed": run.seed,
            "settings": _strict(run.settings.to_dict()),
        }
        mt.save(self.path / "model.safetensors", tensors, about)

    def write_figures(self, figures: Mapping[str, Any]) -> list[str]:
        """One PNG a figure; returns the file names."""
        names = []
        for name, figure in figures.items():
            drawn = io.BytesIO()
            figure.savefig(drawn, format="png", metadata={"Software": None})
            write_atomically(self.path / f"{name}.png", drawn.getvalue())
            names.append(f"{name}.png")
        return names

    def finish(self, result: Mapping[str, Any], printout: str) -> None:
        """Write result.json, which ends the run, and drop the checkpoints."""
        if printout:
            self._write("printout.txt", printout.rstrip() + "\n")
        self._write("result.json", to_json(result))
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def _csv(
        self,
        name: str,
        keys: Sequence[str],
        lines: Iterable[tuple[tuple[Any, ...], Mapping[str, Any]]],
    ) -> None:
        lines = list(lines)
        columns = list(dict.fromkeys(column for _, values in lines for column in values))
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*keys, *columns])
        for key, values in lines:
            writer.writerow([*key, *(values.get(column, "") for column in columns)])
        self._write(name, text.getvalue())

    def _write(self, name: str, text: str) -> None:
        write_atomically(self.path / name, text.encode())

    def _make_writable(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            reason = error.strerror or str(error)
            raise UsageError(
                f"--out: cannot write into {self.path} ({reason}); name a folder you may write to"
            ) from error

    def _read_config(self) -> dict[str, Any] | None:
        try:
            return dict(json.loads((self.path / "config.json").read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UsageError(
                f"--out: {self.path / 'config.json'} cannot be read "
                f"({error.strerror or error}); name another folder"
            ) from error
        except ValueError as error:
            raise UsageError(
                f"--out: {self.path / 'config.json'} is no run's configuration ({error}); "
                "remove the folder or name another"
            ) from error

    def _clear(self) -> None:
        """Remove what a run writes, and nothing else that someone may have put here."""
        for name in (
            "config.json",
            "metrics.csv",
            "trials.csv",
            "result.json",
            "model.safetensors",
            "printout.txt",
        ):
            (self.path / name).unlink(missing_ok=True)
        for figure in self.path.glob("*.png"):
            figure.unlink()
        for folder in (self.checkpoints, self.path / "tensorboard"):
            shutil.rmtree(folder, ignore_errors=True)


def configuration(
    task: Task,
    settings: Any,
    preset: str,
    seed: int,
    backend: str,
    data: Sequence[Found] = (),
) -> dict[str, Any]:
    """What config.json holds: all that decides the result, and the versions it came from."""
    versions = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "microtensor": mt.__version__,
        "commit": _commit(),
        "driver": "arrays" if backend == "cupy" else mt.recurrence.driver(),
    }
    if versions["driver"] == "numba":
        versions["numba"] = importlib.metadata.version("numba")
    if backend == "cupy":
        import cupy

        versions["cupy"] = cupy.__version__
    return {
        "task": task.name,
        "preset": preset,
        "seed": seed,
        "backend": backend,
        "settings": settings.to_dict(),
        "data": [found.to_dict() for found in data],
        "versions": versions,
    }


def row_to_dict(row: Row) -> dict[str, Any]:
    """A row as result.json and `--json` have it."""
    return {
        "name": row.name,
        "target": row.target,
        "source": row.source,
        "value": row.value,
        "spread": row.spread,
        "trials": row.trials,
        "solved": row.solved,
        "tolerance": row.tolerance,
        "ok": row.ok,
        "unit": row.unit,
        "levels": [{"name": level.name, "value": level.value} for level in row.levels],
        "note": row.note,
    }


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """Strict JSON: what is not a finite number is null."""
    return json.dumps(_strict(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _strict(value: Any) -> Any:
    match value:
        case bool() | np.bool_():
            return bool(value)
        case float() | np.floating():
            return float(value) if math.isfinite(value) else None
        case np.integer():
            return int(value)
        case Mapping():
            return {key: _strict(item) for key, item in value.items()}
        case list() | tuple():
            return [_strict(item) for item in value]
    return value


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """As it reads back from config.json: tuples are lists."""
    return dict(json.loads(to_json(config)))


def _check_same(saved: Mapping[str, Any], config: Mapping[str, Any], path: Path) -> None:
    now = _plain(config)
    different = [
        f"{name} {saved.get(name)!r} there, {now[name]!r} here"
        for name in ("task", "preset", "seed", "backend")
        if saved.get(name) != now[name]
    ]
    files, own = ([one["hash"] for one in c.get("data", ())] for c in (saved, now))
    if files != own:
        different.append(f"data {files} there, {own} here")
    # They differ in the last bit. Runs from before there was a choice went through arrays.
    there, here = (c.get("versions", {}).get("driver", "arrays") for c in (saved, now))
    if there != here:
        different.append(f"driver {there!r} there, {here!r} here: set MICROTENSOR_DRIVER={there}")
    old = saved.get("settings", {})
    for name, value in now["settings"].items():
        # More (or fewer) trials of the same settings are the same run made longer.
        if name != "trials" and old.get(name) != value:
            different.append(f"{name} {old.get(name)!r} there, {value!r} here")
    if different:
        raise UsageError(
            f"--resume: {path} holds another run ({'; '.join(different)}); give the same settings, "
            "or name another --out"
        )


def _commit() -> str | None:
    """The commit of the checkout these experiments are run from, if it is one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
