"""Running an experiment: units of work, then tables, rows and figures, then result.json."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import microtensor as mt
from microtensor.io import LoadError
from tasks.datasets import Found, resolve
from tasks.folder import RunFolder, configuration, row_to_dict
from tasks.harness import Row, Run, Task, UsageError
from tasks.scheduling import Options, Progress, run_units


def run_task(task: Task, settings: Any, options: Options, progress: Progress) -> dict[str, Any]:
    """Carry out one experiment and write its folder; returns the content of result.json.

    Raises
    ------
    UsageError
        The folder, the backend, a data set or the cluster cannot be used; the disk is full.
    Stopped
        Interrupted; `--resume` goes on from here.
    """
    with _resumable(options.folder):
        return _run(task, settings, options, progress)


def _run(task: Task, settings: Any, options: Options, progress: Progress) -> dict[str, Any]:
    data = check(task, settings, options)
    folder = RunFolder(options.folder)
    config = configuration(task, settings, options.preset, options.seed, options.backend, data)
    if folder.begin(config, resume=options.resume):
        return folder.load_result()
    started = time.perf_counter()
    results = run_units(task, settings, options, folder, progress, data)
    run = Run(
        settings=settings,
        preset=options.preset,
        seed=options.seed,
        backend=options.backend,
        trials=tuple(trial for result in results for trial in result.trials),
        metrics=tuple(metric for result in results for metric in result.metrics),
        data=data,
    )
    return _finish(task, run, options, folder, time.perf_counter() - started)


@contextlib.contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """Turn what the system refuses while a run is carried out (a full disk) into one clear line."""
    try:
        yield
    except LoadError:  # says itself what is damaged
        raise
    except OSError as error:
        raise UsageError(
            f"{error.filename or folder}: {error.strerror or error}; nothing is half-written, "
            "and what was finished before is kept: when that is put right, go on with --resume"
        ) from error


def _finish(
    task: Task, run: Run, options: Options, folder: RunFolder, seconds: float
) -> dict[str, Any]:
    # Means of what diverged overflow, too.
    with np.errstate(over="ignore", invalid="ignore"):
        rows = [_telling_divergence(row) for row in task.rows(run)]
        _check_rows(task, rows)
        printout = task.printout(run) if task.printout else ""
        folder.write_tables(run)
        folder.write_model(task, run)
        figures: list[str] = []
        if options.plots and task.figures:
            figures = folder.write_figures(task.figures(run))
    result = {
        "task": task.name,
        "documents": list(task.documents),
        "title": task.title,
        "preset": run.preset,
        "seed": run.seed,
        "backend": run.backend,
        "data": [found.to_dict() for found in run.data],
        "rows": [row_to_dict(row) for row in rows],
        "figures": figures,
        "seconds": round(seconds, 3),
        "printout": printout,
    }
    folder.finish(result, printout)
    return folder.load_result()


def _telling_divergence(row: Row) -> Row:
    """The row; where a trial is behind it whose number is not finite, its note says so."""
    if all(map(math.isfinite, (row.value, *(row.spread or ())))):
        return row
    note = f"Diverged: a trial is not a finite number. {row.note}".rstrip()
    return dataclasses.replace(row, note=note)


def _check_rows(task: Task, rows: list[Row]) -> None:
    names = [row.name for row in rows]
    twice = {name for name in names if names.count(name) > 1}
    if not rows or twice:
        raise ValueError(
            f"{task.name}: rows need distinct names and there must be one; got {names}"
        )


def check(task: Task, settings: Any, options: Options) -> tuple[Found, ...]:
    """Refuse what cannot be run, before anything is; returns the data sets, found or fetched.

    Raises
    ------
    UsageError
        The backend is missing, the folder cannot be used, there is no live picture, or a data set
        is missing or not the right one.
    """
    if not mt.backend_available(options.backend):
        raise UsageError(
            f"--backend {options.backend} needs CuPy and an NVIDIA GPU, and one of them is missing "
            "here; use --backend numpy"
        )
    if options.live and task.live is None:
        raise UsageError(f"--live: {task.name} has no live picture; leave --live out")
    data = tuple(resolve(one, options.data) for one in task.data(settings))
    config = configuration(task, settings, options.preset, options.seed, options.backend, data)
    RunFolder(options.folder).check(config, resume=options.resume)
    return data
