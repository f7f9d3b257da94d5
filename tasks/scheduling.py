"""All units of work of a run, through an executor: here, in local processes, on a Dask cluster.

Where a unit runs changes nothing about what it computes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tasks import BLAS_THREADS
from tasks.datasets import Found
from tasks.folder import RunFolder, UnitResult
from tasks.harness import Task, UsageError
from tasks.tensorboard import Board
from tasks.units import Unit, start_worker, train_in_worker, train_unit
from tasks.work import Hooks, Interrupted


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
        for trials in _stacks(task, settings)
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
            executor = closing.enter_context(_executor(options, len(pending)))
            run = train_unit if options.cluster else train_in_worker
            with _deaf_to_ctrl_c():
                futures = {executor.submit(run, unit): unit for unit in pending}
            _gather(futures, finished, folder, progress, interrupted, board)
    progress.update(len(units), total=len(units))
    return [finished[unit.name] for unit in units]


def _stacks(task: Task, settings: Any) -> list[tuple[int, ...]]:
    """The trials in order, cut into stacks of `task.stack`."""
    numbers = range(settings.trials)
    return [tuple(numbers[i : i + task.stack]) for i in range(0, settings.trials, task.stack)]


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
    futures: dict[Future[UnitResult], Unit],
    finished: dict[str, UnitResult],
    folder: RunFolder,
    progress: Progress,
    interrupted: Callable[[], bool],
    board: Board | None,
) -> None:
    total, waiting, stopping = len(finished) + len(futures), set(futures), False
    while waiting:
        ready, waiting = wait(waiting, timeout=0.1, return_when=FIRST_COMPLETED)
        if interrupted() and not stopping:
            stopping = True
            folder.stop_file.touch()
            local = [future for future in waiting if futures[future].folder is not None]
            for future in waiting:
                future.cancel()
            waiting = {future for future in local if not future.cancelled()}
        for future in ready:
            if future.cancelled():
                continue
            unit = futures[future]
            try:
                result = future.result()
            except Interrupted:
                continue
            except BrokenProcessPool as error:
                raise UsageError(
                    "a worker process died, perhaps for want of memory; finished trials are kept: "
                    "go on with --resume, and with fewer --jobs"
                ) from error
            if unit.folder is None:  # a cluster's worker need not see this disk
                folder.save_unit(unit.name, result)
            finished[unit.name] = result
            if board:
                board.replay(result)
        running = [_how_far(folder, unit) for future, unit in futures.items() if future in waiting]
        status = "  |  ".join(text for _, text in running if text)
        progress.update(
            len(finished) + sum(part for part, _ in running), total=total, status=status
        )
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
def _executor(options: Options, units: int) -> Iterator[Executor]:
    if options.cluster is not None:
        with _cluster_executor(options.cluster) as executor:
            yield executor
        return
    for name in BLAS_THREADS:
        os.environ.setdefault(name, "1")
    context = multiprocessing.get_context("spawn")  # fork would copy locks held by BLAS threads
    workers = min(options.jobs, units)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker) as executor:
        yield executor


@contextlib.contextmanager
def _cluster_executor(address: str) -> Iterator[Executor]:
    from distributed import Client

    try:
        client = Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--cluster {address}: no Dask scheduler answers ({error}); start one with "
            "`dask scheduler`, its workers with `dask worker ADDRESS` in a checkout"
        ) from error
    with client:
        _check_workers(client, address)
        yield client.get_executor(pure=False)


def _check_workers(client: Any, address: str) -> None:
    """Every worker must have these experiments, and there must be one."""
    answers = client.run(_can_import, on_error="return")
    if not answers:
        raise UsageError(f"--cluster {address}: the scheduler has no workers; start `dask worker`")
    for worker, answer in answers.items():
        if answer is not True:
            raise UsageError(
                f"--cluster {address}: worker {worker} cannot import the experiments ({answer}); "
                "start it in a checkout with microtensor[tasks] installed"
            )


def _can_import() -> bool:
    import tasks.registry

    return bool(tasks.registry.names())


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes started within ignore Ctrl-C from their first moment, before Python runs in them.

    Being ignored is the one disposition of a signal that a new process inherits.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
