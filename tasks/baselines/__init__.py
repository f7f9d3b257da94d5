"""Committed results of real runs, to set a reader's own cell beside.

`tasks/baselines/NAME.json` holds, for experiment NAME, the trials of earlier runs: their settings,
each variant's results and curves, trial by trial. It is made from a finished run's folder by

    python -m tasks run adding --cell library --out runs
    python -m tasks.baselines runs/adding-document

which replaces what the file held of the same variants of a run with the same settings. Which cell
was trained, and with which output (`--cell`, `--output`), are no such settings: runs that differ in
them alone are columns of one table; nor are those of the 1997 network in `adding`, whose trials
stand beside the cells'. With `--no-curves` results are kept, a line a trial, and no curves: enough
to make a table again (see `tasks.papers_table`).
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.harness import UsageError

__all__ = ["Baseline", "Column", "committed", "load", "take"]

FOLDER = Path(__file__).parent
NAMED_BY_VARIANT = ("cell", "output", "paper", "cap", "cap_long", "cap_longest", "cap_modern")
"""Settings that say which variants are trained, or that only the paper's network has."""
DIGITS = 6
"""Significant digits of what is kept."""


@dataclass(frozen=True)
class Column:
    """One variant's trials: a dictionary of results each, and the logged curves.

    steps : (n,), the steps at which anything was logged.
    curves : by metric, (trials, n), NaN where a trial logged nothing.
    """

    trials: Sequence[Mapping[str, Any]]
    steps: np.ndarray
    curves: Mapping[str, np.ndarray]

    def values(self, name: str) -> list[Any]:
        """One result of every trial."""
        return [trial[name] for trial in self.trials]


@dataclass(frozen=True)
class Baseline:
    """One committed run: its settings, its seed, its columns by variant."""

    settings: Mapping[str, Any]
    seed: int
    columns: Mapping[str, Column]

    def differences(self, settings: Mapping[str, Any], ignore: Sequence[str]) -> list[str]:
        """What another run set otherwise, in words: "batch 32 (here 64)"."""
        return [
            f"{name} {value} (here {settings[name]})"
            for name, value in self.settings.items()
            if name not in ignore and name in settings and _plain(settings[name]) != value
        ]


def load(task: str, **wanted: Any) -> Baseline | None:
    """The committed run of an experiment whose settings have the values `wanted`, or None."""
    for run in committed(task):
        if all(run.settings.get(name) == _plain(value) for name, value in wanted.items()):
            return run
    return None


def committed(task: str) -> list[Baseline]:
    """All committed runs of an experiment."""
    path = FOLDER / f"{task}.json"
    if not path.exists():
        return []
    return [
        Baseline(
            kept["settings"],
            kept["seed"],
            {name: _column(held) for name, held in kept["columns"].items()},
        )
        for kept in json.loads(path.read_text(encoding="utf-8"))
    ]


def take(folder: Path, *, curves: bool = True, only: str = "") -> Path:
    """Keep a finished run as a baseline, with or without its curves; returns the file it is in.

    `only` is the beginning of the names of the variants that are kept.

    Raises
    ------
    UsageError
        There is no finished run in the folder.
    """
    try:
        task = json.loads((folder / "result.json").read_text(encoding="utf-8"))["task"]
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        trials = _read(folder / "trials.csv")
        metrics = _read(folder / "metrics.csv") if curves else []
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{folder} holds no finished run ({error})") from error
    columns: dict[str, Any] = {}
    for trial in trials:
        variant = trial.pop("variant")
        if not variant.startswith(only):
            continue
        column = columns.setdefault(variant, {"trials": [], "curves": []})
        column["trials"].append({name: value for name, value in trial.items() if value != ""})
        column["curves"].append({})
    for metric in metrics:
        variant, number = metric.pop("variant"), metric.pop("trial")
        if variant not in columns:
            continue
        curve = columns[variant]["curves"][number]
        for name, value in metric.items():
            if name != "step" and value != "":
                points = curve.setdefault(name, {"steps": [], "values": []})
                points["steps"].append(metric["step"])
                points["values"].append(value)
    for name in NAMED_BY_VARIANT:
        config["settings"].pop(name, None)
    entry = {"settings": config["settings"], "seed": config["seed"], "columns": columns}
    path = FOLDER / f"{task}.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    for old in kept:
        if old["settings"] == entry["settings"] and old["seed"] == entry["seed"]:
            old["columns"] |= columns
            break
    else:
        kept.append(entry)
    path.write_text(_lines(kept), encoding="utf-8")
    return path


def _lines(kept: list[dict[str, Any]]) -> str:
    """JSON with a line for each trial and for each curve, so that a diff can be read."""

    def block(items: Sequence[Any]) -> str:
        return "[\n" + ",\n".join(json.dumps(item) for item in items) + "\n]"

    runs = []
    for run in kept:
        columns = ",\n".join(
            f'{json.dumps(name)}: {{"trials": {block(column["trials"])},\n'
            f'"curves": {block(column["curves"])}}}'
            for name, column in run["columns"].items()
        )
        head = f'"settings": {json.dumps(run["settings"])},\n"seed": {run["seed"]}'
        runs.append(f'{{{head},\n"columns": {{\n{columns}\n}}}}')
    return "[\n" + ",\n".join(runs) + "\n]\n"


def _column(held: Mapping[str, Any]) -> Column:
    steps = sorted(
        {step for curve in held["curves"] for points in curve.values() for step in points["steps"]}
    )
    place = {step: i for i, step in enumerate(steps)}
    names = {name for curve in held["curves"] for name in curve}
    curves = {name: np.full((len(held["curves"]), len(steps)), np.nan) for name in sorted(names)}
    for line, curve in enumerate(held["curves"]):
        for name, points in curve.items():
            where = [place[step] for step in points["steps"]]
            curves[name][line, where] = points["values"]
    return Column(held["trials"], np.array(steps, dtype=np.int64), curves)


def _read(path: Path) -> list[dict[str, Any]]:
    with open(path, newline="", encoding="utf-8") as file:
        return [{name: _value(text) for name, text in row.items()} for row in csv.DictReader(file)]


def _value(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    try:
        number = float(text)
    except ValueError:
        return text
    if number.is_integer() and "." not in text and "e" not in text.lower():
        return int(number)
    return float(f"{number:.{DIGITS}g}") if math.isfinite(number) else number


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
