"""One unit of work: what travels to a worker, and what a worker does with it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import microtensor as mt
from tasks import registry
from tasks.datasets import Found
from tasks.folder import RunFolder, UnitResult
from tasks.harness import Trial
from tasks.work import Hooks, Work


@dataclass(frozen=True)
class Unit:
    """One unit of work as it travels to a worker: plain values only."""

    task: str
    settings: Any
    variant: str
    trials: tuple[int, ...]
    seed: int
    backend: str
    data: tuple[Found, ...]
    folder: str | None
    resume: bool
    save_every: float

    @property
    def name(self) -> str:
        """Its name in the folder of checkpoints: the variant and the trials."""
        first, last = self.trials[0], self.trials[-1]
        numbers = f"{first}" if first == last else f"{first}-{last}"
        return f"{self.variant}-{numbers}" if self.variant else numbers


_one_unit = threading.Lock()


def train_unit(unit: Unit, hooks: Hooks | None = None) -> UnitResult:
    """Train one unit of work and keep its result in the run's folder, if it has one."""
    task = registry.load(unit.task)
    folder = RunFolder(Path(unit.folder)) if unit.folder else None
    work = Work(
        settings=unit.settings,
        variant=unit.variant,
        trials=unit.trials,
        seed=unit.seed,
        backend=unit.backend,
        data=unit.data,
        resume=unit.resume,
        save_every=unit.save_every,
        checkpoint=folder.checkpoint(unit.name) if folder else None,
        hooks=hooks or Hooks(),
    )
    # Draws that no generator was named for follow from the key, too. That generator is the
    # process's own, and a Dask worker may run several threads: hence one unit at a time in a
    # process.
    # A run that diverges is told by its rows (not a number, "Diverged"), not by NumPy's warnings.
    quietly = np.errstate(over="ignore", invalid="ignore", divide="ignore")
    with _one_unit, mt.use_backend(unit.backend), quietly:
        mt.default_generator().manual_seed((unit.seed, unit.trials[0]))
        trials = task.train(work)
    if tuple(t.number for t in trials) != unit.trials:
        raise ValueError(
            f"{task.name}: train was given trials {unit.trials} and returned "
            f"{tuple(t.number for t in trials)}"
        )
    metrics = sorted(work.metrics, key=lambda m: (m.trial, m.step))
    result = UnitResult(tuple(_on_host(t, unit.variant) for t in trials), tuple(metrics))
    if folder:
        folder.save_unit(unit.name, result)
    return result


def _on_host(trial: Trial, variant: str) -> Trial:
    model = {name: _array(value) for name, value in trial.model.items()}
    arrays = {name: _array(value) for name, value in trial.arrays.items()}
    values = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in trial.values.items()
    }
    return replace(trial, model=model, arrays=arrays, values=values, variant=variant)


def _array(value: Any) -> np.ndarray:
    return value.detach().numpy() if isinstance(value, mt.Tensor) else np.asarray(value)


def train_in_worker(unit: Unit) -> None:
    """`train_unit` in another process; everything goes through files of the run's folder.

    Progress and the wish to stop, but also the result: the pipe to the parent carries it whole only
    if it is small. A worker that dies when half of it is sent would have the parent wait for ever.
    """
    assert unit.folder is not None
    folder = RunFolder(Path(unit.folder))
    file = folder.progress_file(unit.name)
    told = asked = time.monotonic()
    said = ""

    def status(text: str) -> None:
        nonlocal said
        said = text

    def progress(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told > 0.5:
            told = time.monotonic()
            with contextlib.suppress(OSError):  # no reason to stop: the next checkpoint will tell
                file.write_text(f"{done} {total} {said}", encoding="utf-8")

    def stop() -> bool:
        nonlocal asked
        if time.monotonic() - asked < 0.05:
            return False
        asked = time.monotonic()
        return not folder.running_file.exists()

    train_unit(unit, Hooks(progress=progress, status=status, stop=stop))


def start_worker() -> None:
    """What a worker process does first.

    A terminal sends Ctrl-C to the whole process group; only the parent acts on it. And a worker
    whose parent was killed ends too, so that a resumed run is alone with its checkpoints.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
