"""Running an experiment: units of work through an executor, then tables, rows and figures.

A unit of work is one stack of trials of one variant. Where it runs changes nothing about what it
computes: in this process (`--jobs 1`), in local worker processes, or on a Dask cluster.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import microtensor as mt
from tasks import BLAS_THREADS, registry
from tasks.folder import RunFolder, UnitResult, configuration, row_to_dict
from tasks.harness import Metric, Row, Run, Task, Trial, UsageError
from tasks.work import Hooks, Interrupted, Work

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


@dataclass(frozen=True)
class Unit:
    """One unit of work as it travels to a worker: plain values only."""

    task: str
    settings: Any
    variant: str
    trials: tuple[int, ...]
    seed: int
    backend: str
    data: str | None
    folder: str | None
    resume: bool
    save_every: float

    @property
    def name(self) -> str:
        """Its name in the folder of checkpoints: the variant and the trials."""
        first, last = self.trials[0], self.trials[-1]
        numbers = f"{first}" if first == last else f"{first}-{last}"
        return f"{self.variant}-{numbers}" if self.variant else numbers


class Progress(Protocol):
    """What a console is told while units run."""

    def update(self, done: float, *, total: int) -> None:
        """`done` of `total` units, the running ones counted by the part they have done."""


class Stopped(Exception):
    """The run was interrupted; what was computed is saved."""


def run_task(task: Task, settings: Any, options: Options, progress: Progress) -> dict[str, Any]:
    """Carry out one experiment and write its folder; returns the content of result.json.

    Raises
    ------
    UsageError
        The folder, the backend or the cluster cannot be used.
    Stopped
        Interrupted; `--resume` goes on from here.
    """
    check(task, settings, options)
    folder = RunFolder(options.folder)
    config = configuration(task, settings, options.preset, options.seed, options.backend)
    if folder.begin(config, resume=options.resume):
        return folder.load_result()
    started = time.perf_counter()
    results = _run_units(task, settings, options, folder, progress)
    run = Run(
        settings=settings, preset=options.preset, seed=options.seed, backend=options.backend,
        trials=tuple(trial for result in results for trial in result.trials),
        metrics=tuple(metric for result in results for metric in result.metrics),
    )
    return _finish(task, run, options, folder, time.perf_counter() - started)


def _finish(
    task: Task, run: Run, options: Options, folder: RunFolder, seconds: float
) -> dict[str, Any]:
    rows = task.rows(run)
    _check_rows(task, rows)
    printout = task.printout(run) if task.printout else ""
    folder.write_tables(run)
    folder.write_model(task, run)
    figures: list[str] = []
    if options.plots and task.figures:
        figures = folder.write_figures(task.figures(run))
    result = {
        "task": task.name, "documents": list(task.documents), "title": task.title,
        "preset": run.preset, "seed": run.seed, "backend": run.backend,
        "rows": [row_to_dict(row) for row in rows], "figures": figures,
        "seconds": round(seconds, 3), "printout": printout,
    }
    folder.finish(result, printout)
    return folder.load_result()


def _check_rows(task: Task, rows: list[Row]) -> None:
    names = [row.name for row in rows]
    twice = {name for name in names if names.count(name) > 1}
    if not rows or twice:
        raise ValueError(f"{task.name}: rows need distinct names and there must be one; got {names}")


def check(task: Task, settings: Any, options: Options) -> None:
    """Refuse what cannot be run, before anything is.

    Raises
    ------
    UsageError
        The backend is missing, the folder cannot be used, or there is no live picture.
    """
    if not mt.backend_available(options.backend):
        raise UsageError(
            f"--backend {options.backend} needs CuPy and an NVIDIA GPU, and one of them is missing "
            "here; use --backend numpy"
        )
    if options.live and task.live is None:
        raise UsageError(f"--live: {task.name} has no live picture; leave --live out")
    config = configuration(task, settings, options.preset, options.seed, options.backend)
    RunFolder(options.folder).check(config, resume=options.resume)


# -- one unit, here or in a worker -------------------------------------------------------------


_one_unit = threading.Lock()


def train_unit(unit: Unit, hooks: Hooks | None = None) -> UnitResult:
    """Train one unit of work and keep its result in the run's folder, if it has one."""
    task = registry.load(unit.task)
    folder = RunFolder(Path(unit.folder)) if unit.folder else None
    work = Work(
        settings=unit.settings, variant=unit.variant, trials=unit.trials, seed=unit.seed,
        backend=unit.backend, data=unit.data, resume=unit.resume, save_every=unit.save_every,
        checkpoint=folder.checkpoint(unit.name) if folder else None, hooks=hooks or Hooks(),
    )
    # Draws that no generator was named for follow from the key, too. That generator is the process's
    # own, and a Dask worker may run several threads: hence one unit at a time in a process.
    with _one_unit, mt.use_backend(unit.backend):
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


def _train_in_worker(unit: Unit) -> UnitResult:
    """`train_unit` in another process: progress and the wish to stop go through small files."""
    if unit.folder is None:
        return train_unit(unit)
    folder = RunFolder(Path(unit.folder))
    file = folder.progress_file(unit.name)
    told = asked = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told > 0.5:
            told = time.monotonic()
            file.write_text(f"{done} {total}")

    def stop() -> bool:
        nonlocal asked
        if time.monotonic() - asked < 0.2:
            return False
        asked = time.monotonic()
        return folder.stop_file.exists()

    return train_unit(unit, Hooks(progress=progress, stop=stop))


def _start_worker() -> None:
    """A terminal sends Ctrl-C to the whole process group; only the parent acts on it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


# -- all units ---------------------------------------------------------------------------------


def _run_units(
    task: Task, settings: Any, options: Options, folder: RunFolder, progress: Progress
) -> list[UnitResult]:
    """Every unit's result in order of variant and trial, whoever computed it and when."""
    units = [
        Unit(
            task=task.name, settings=settings, variant=variant, trials=trials, seed=options.seed,
            backend=options.backend, data=options.data, resume=options.resume,
            folder=None if options.cluster else str(options.folder),
            save_every=options.save_every,
        )
        for variant in task.variants(settings) for trials in _stacks(task, settings)
    ]
    finished: dict[str, UnitResult] = {}
    if options.resume:
        for unit in units:
            result = folder.load_unit(unit.name)
            if result is not None:
                finished[unit.name] = result
    pending = [unit for unit in units if unit.name not in finished]
    board = _Board(folder) if options.tensorboard else None
    if board:
        for result in finished.values():
            board.replay(result)
    with _interruptible() as interrupted, contextlib.ExitStack() as closing:
        if board:
            closing.callback(board.close)
        if options.live:
            _train_here(task, pending, finished, progress, interrupted, board, live=True,
                        folder=folder)
        elif options.cluster is None and (options.jobs == 1 or len(pending) <= 1):
            _train_here(task, pending, finished, progress, interrupted, board, live=False,
                        folder=folder)
        else:
            executor = closing.enter_context(_executor(options, len(pending)))
            run = train_unit if options.cluster else _train_in_worker
            futures = {executor.submit(run, unit): unit for unit in pending}
            _gather(futures, finished, folder, progress, interrupted, board)
    progress.update(len(units), total=len(units))
    return [finished[unit.name] for unit in units]


def _stacks(task: Task, settings: Any) -> list[tuple[int, ...]]:
    """The trials in order, cut into stacks of `task.stack`."""
    numbers = range(settings.trials)
    return [tuple(numbers[i : i + task.stack]) for i in range(0, settings.trials, task.stack)]


def _train_here(
    task: Task, pending: list[Unit], finished: dict[str, UnitResult], progress: Progress,
    interrupted: Callable[[], bool], board: _Board | None, *, live: bool, folder: RunFolder,
) -> None:
    before, total = len(finished), len(finished) + len(pending)
    shown = None
    if live:
        from tasks.live import LivePicture

        shown = LivePicture(task, folder.path / "live.png").draw
    for position, unit in enumerate(pending):
        progress.update(before + position, total=total)

        def step_done(done: int, of: int, start: int = before + position) -> None:
            progress.update(start + done / of, total=total)

        hooks = Hooks(
            progress=step_done, stop=interrupted, shown=shown,
            logged=board.write if board else None,
        )
        try:
            finished[unit.name] = train_unit(unit, hooks)
        except Interrupted:
            raise Stopped from None
        if interrupted() and position + 1 < len(pending):
            raise Stopped


def _gather(
    futures: dict[Future[UnitResult], Unit], finished: dict[str, UnitResult], folder: RunFolder,
    progress: Progress, interrupted: Callable[[], bool], board: _Board | None,
) -> None:
    total, waiting, stopping = len(finished) + len(futures), set(futures), False
    while waiting:
        ready, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
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
        running = sum(_part_done(folder, futures[future]) for future in waiting)
        progress.update(len(finished) + running, total=total)
    if len(finished) < total:
        raise Stopped


def _part_done(folder: RunFolder, unit: Unit) -> float:
    try:
        done, total = folder.progress_file(unit.name).read_text().split()
        return int(done) / int(total)
    except (OSError, ValueError):  # not begun, or just being written
        return 0.0


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
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as executor:
        yield executor


@contextlib.contextmanager
def _cluster_executor(address: str) -> Iterator[Executor]:
    try:
        from distributed import Client
    except ImportError:
        raise UsageError(
            "--cluster needs Dask's distributed: install the extra, python -m pip install "
            "-e '.[cluster]'"
        ) from None
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
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, handle)
    except ValueError:  # not in the main thread: whoever owns it handles signals
        pass
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Board:
    """TensorBoard event files, one series a trial, under tensorboard/ in the run's folder."""

    def __init__(self, folder: RunFolder) -> None:
        from tensorboardX import SummaryWriter

        self._make, self._path = SummaryWriter, folder.path / "tensorboard"
        self._writers: dict[str, Any] = {}

    def write(self, metric: Metric) -> None:
        """Add one line of metrics.csv."""
        name = f"{metric.variant or 'run'}-trial-{metric.trial}"
        if name not in self._writers:
            self._writers[name] = self._make(str(self._path / name))
        for key, value in metric.values.items():
            self._writers[name].add_scalar(key, value, metric.step)

    def replay(self, result: UnitResult) -> None:
        """Add a unit that was computed elsewhere."""
        for metric in result.metrics:
            self.write(metric)

    def close(self) -> None:
        """Flush everything to disk."""
        for writer in self._writers.values():
            writer.close()
