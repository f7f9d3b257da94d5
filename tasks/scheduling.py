"""All units of work of a run, here or through an executor: local processes, or a Dask cluster.

Where a unit runs, and how often it must be begun again because its worker died, changes nothing
about what it computes.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tasks.datasets import Found
from tasks.folder import RunFolder, UnitResult
from tasks.harness import Task, UsageError
from tasks.tensorboard import Board
from tasks.units import Unit, train_unit
from tasks.work import Hooks, Interrupted
from tasks.workers import WorkerDied, Workers, cluster, processes

LIVES = 3
"""How often a unit of work may lose its worker process before the run is ended."""


@dataclass(frozen=True)
class Options:
    """How a run is carried out; nothing here changes its numbers but seed and backend.

    folder : the run's folder.
    jobs : worker processes; 1 means in this process.
    cluster : address of a Dask scheduler, instead of local processes.
    save_every : seconds between checkpoints of a unit.
    """

    folder: Path
    preset: str = "document"
    seed: int = 0
    backend: str = "numpy"
    jobs: int = 1
    cluster: str | None = None
    data: str | None = None
    resume: bool = False
    plots: bool = True
    tensorboard: bool = False
    live: bool = False
    save_every: float = 10.0


class Progress(Protocol):
    """What a console is told while units run."""

    def update(self, done: float, *, total: int, status: str = "") -> None:
        """`done` of `total` units, the running ones counted by the part they have done.

        `status` is what the running ones say of themselves.
        """

    def say(self, text: str) -> None:
        """One line that stays."""


class Stopped(Exception):
    """The run was interrupted; what was computed is saved."""


def run_units(
    task: Task,
    settings: Any,
    options: Options,
    folder: RunFolder,
    progress: Progress,
    data: tuple[Found, ...] = (),
) -> list[UnitResult]:
    """Every unit's result in order of variant and trial, whoever computed it and when."""
    units = [
        Unit(
            task=task.name,
            settings=settings,
            variant=variant,
            trials=trials,
            seed=options.seed,
            backend=options.backend,
            data=data,
            resume=options.resume,
            folder=None if options.cluster else str(options.folder),
            save_every=options.save_every,
        )
        for variant in task.variants(settings)
        for trials in _stacks(task, settings, variant)
    ]
    finished: dict[str, UnitResult] = {}
    if options.resume:
        for unit in units:
            result = folder.load_unit(unit.name)
            if result is not None:
                finished[unit.name] = result
    pending = [unit for unit in units if unit.name not in finished]
    board = Board(folder) if options.tensorboard else None
    if board:
        for result in finished.values():
            board.replay(result)
    with _interruptible() as interrupted, contextlib.ExitStack() as closing:
        if board:
            closing.callback(board.close)
        if options.live:
            from tasks.live import LivePicture

            picture = LivePicture(task, folder.path / "live.png")
            closing.callback(picture.close)
            _train_here(pending, finished, progress, interrupted, board, picture.draw)
        elif options.cluster is None and (options.jobs == 1 or len(pending) <= 1):
            _train_here(pending, finished, progress, interrupted, board, None)
        else:
            workers: Workers = (
                closing.enter_context(cluster(options.cluster))
                if options.cluster is not None
                else closing.enter_context(processes(min(options.jobs, len(pending))))
            )
            _gather(pending, finished, workers, folder, progress, interrupted, board)
    progress.update(len(units), total=len(units))
    return [finished[unit.name] for unit in units]


def _stacks(task: Task, settings: Any, variant: str) -> list[tuple[int, ...]]:
    """The trials in order, cut into stacks of `task.stack`."""
    size = task.stack if isinstance(task.stack, int) else task.stack(variant)
    numbers = range(settings.trials)
    return [tuple(numbers[i : i + size]) for i in range(0, settings.trials, size)]


def _train_here(
    pending: list[Unit],
    finished: dict[str, UnitResult],
    progress: Progress,
    interrupted: Callable[[], bool],
    board: Board | None,
    draw: Callable[[int, dict[str, np.ndarray]], None] | None,
) -> None:
    """One after the other, in this process; `draw` gets the frames of the first."""
    before, total = len(finished), len(finished) + len(pending)
    for position, unit in enumerate(pending):
        one = _One(unit, progress, before + position, total)
        hooks = Hooks(
            progress=one.done,
            status=one.says,
            stop=interrupted,
            shown=draw if position == 0 else None,
            logged=board.write if board else None,
        )
        try:
            finished[unit.name] = train_unit(unit, hooks)
        except Interrupted:
            raise Stopped from None
        if interrupted() and position + 1 < len(pending):
            raise Stopped


class _One:
    """The unit that trains in this process, as the console sees it: the `start`-th of `total`."""

    def __init__(self, unit: Unit, progress: Progress, start: int, total: int) -> None:
        self._unit, self._progress, self._start, self._total = unit, progress, start, total
        self._status = ""
        progress.update(start, total=total)

    def says(self, text: str) -> None:
        self._status = _named(self._unit.name, text)

    def done(self, steps: int, of: int) -> None:
        self._progress.update(self._start + steps / of, total=self._total, status=self._status)


def _gather(
    pending: list[Unit],
    finished: dict[str, UnitResult],
    workers: Workers,
    folder: RunFolder,
    progress: Progress,
    interrupted: Callable[[], bool],
    board: Board | None,
) -> None:
    """Wherever the workers are. After Ctrl-C, or when a unit fails, those that run are saved."""
    total = len(finished) + len(pending)
    waiting, running = pending[::-1], dict[Future[Any], Unit]()
    deaths = Counter[str]()
    failure: Exception | None = None
    stopping = False
    while running or waiting:
        if (failure or interrupted()) and not stopping:
            stopping = True
            waiting = []
            running = {future: unit for future, unit in running.items() if not future.cancel()}
            if not folder.ask_to_stop():
                workers.kill()
        while waiting and workers.free:
            unit = waiting.pop()
            running[workers.submit(unit)] = unit
        ready, _ = wait(running, timeout=0.1, return_when=FIRST_COMPLETED)
        for future in ready:
            unit = running.pop(future)
            try:
                result = workers.result(future)
                if unit.folder is None:  # a cluster's worker need not see this disk
                    folder.save_unit(unit.name, result)
                if board:
                    board.replay(result)
                finished[unit.name] = result
            except Interrupted:
                pass
            except WorkerDied:
                deaths[unit.name] += 1
                if stopping:
                    pass
                elif deaths[unit.name] < LIVES:
                    progress.say(f"the worker process of trial {unit.name} died; it is run again")
                    waiting.append(replace(unit, resume=True))
                else:
                    failure = failure or UsageError(
                        f"the worker process of trial {unit.name} died {LIVES} times, perhaps for "
                        "want of memory; finished trials are kept: go on with --resume, and with "
                        "fewer --jobs"
                    )
            except Exception as error:
                failure = failure or error
        told = [_how_far(folder, unit) for unit in running.values()]
        status = "  |  ".join(text for _, text in told if text)
        progress.update(len(finished) + sum(part for part, _ in told), total=total, status=status)
    if failure:
        raise failure
    if len(finished) < total:
        raise Stopped


def _how_far(folder: RunFolder, unit: Unit) -> tuple[float, str]:
    """The part of a unit in another process that is done, and what it says of itself."""
    try:
        told = folder.progress_file(unit.name).read_text(encoding="utf-8")
        done, total, *text = told.split(maxsplit=2)
        return int(done) / int(total), _named(unit.name, "".join(text))
    except (OSError, ValueError):  # not begun, or just being written
        return 0.0, ""


def _named(unit: str, text: str) -> str:
    return f"{unit}: {text}" if text else ""


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Within the block, the first Ctrl-C asks to stop after the step, the second stops at once.

    SIGTERM asks in the same way, so that a batch system's time limit saves too.
    """
    asked = False

    def handle(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = {}
    if threading.current_thread() is threading.main_thread():  # elsewhere signals are its affair
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, handle)
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
