"""Where units of work run when not in this process: local processes, or a Dask cluster.

Both are executors of `concurrent.futures` behind the same four methods, and both survive the death
of a worker, the local ones by the rules of `tasks.scheduling`, a cluster by its own.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tasks import BLAS_THREADS
from tasks.folder import RunFolder, UnitResult
from tasks.harness import UsageError
from tasks.units import Unit, start_worker, train_in_worker, train_unit

if TYPE_CHECKING:
    from distributed import Client


class WorkerDied(Exception):
    """The process that trained a unit is no more; nothing is wrong with the other units."""


class Workers(Protocol):
    """Takes units of work, and gives their results."""

    @property
    def free(self) -> bool:
        """Whether a unit may be submitted now."""

    def submit(self, unit: Unit) -> Future[Any]:
        """Begin with a unit."""

    def result(self, future: Future[Any]) -> UnitResult:
        """The result of a future that is done.

        Raises
        ------
        WorkerDied
            Its process has died; submit the unit again.
        UsageError
            The cluster has given it up.
        Exception
            Whatever the unit raised.
        """

    def kill(self) -> None:
        """Stop at once whatever is running; nothing may be submitted afterwards."""


class Processes:
    """Local processes, each an executor of its own.

    A pool of several processes breaks as a whole when one of them dies: the others are ended in the
    middle of their units, and nobody knows whose unit was the cause. With a pool for each process,
    a death concerns one unit, and it is known which.

    Parameters
    ----------
    count
        How many processes; each is started when it is first needed.
    """

    def __init__(self, count: int) -> None:
        self._not_started = count
        self._idle: list[ProcessPoolExecutor] = []
        self._busy: dict[Future[None], tuple[Unit, ProcessPoolExecutor]] = {}
        self._others = set(multiprocessing.active_children())

    @property
    def free(self) -> bool:
        """Whether one of them has nothing to do."""
        return bool(self._idle or self._not_started)

    def submit(self, unit: Unit) -> Future[None]:
        """Begin with a unit in a process that has nothing to do."""
        while self._idle:
            pool = self._idle.pop()
            try:
                return self._begun(pool, unit)
            except BrokenProcessPool:  # it has died since its last unit
                self._bury(pool)
        self._not_started -= 1
        # fork would copy locks held by BLAS threads.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(1, mp_context=context, initializer=start_worker)
        with _deaf_to_ctrl_c(), _one_blas_thread():
            return self._begun(pool, unit)

    def result(self, future: Future[None]) -> UnitResult:
        """The result of a unit; its process is free again, or is replaced by a fresh one."""
        unit, pool = self._busy.pop(future)
        try:
            future.result()
        except BrokenProcessPool as error:
            self._bury(pool)
            raise WorkerDied from error
        except BaseException:
            self._idle.append(pool)
            raise
        self._idle.append(pool)
        assert unit.folder is not None
        result = RunFolder(Path(unit.folder)).load_unit(unit.name)
        assert result is not None, "kept before the future was done"
        return result

    def kill(self) -> None:
        """Kill the processes; their pools then notice by themselves."""
        for process in set(multiprocessing.active_children()) - self._others:
            process.kill()

    def close(self) -> None:
        """Wait until every process has come to its end."""
        for pool in [*self._idle, *(pool for _, pool in self._busy.values())]:
            pool.shutdown(wait=True, cancel_futures=True)

    def _begun(self, pool: ProcessPoolExecutor, unit: Unit) -> Future[None]:
        future = pool.submit(train_in_worker, unit)
        self._busy[future] = unit, pool
        return future

    def _bury(self, pool: ProcessPoolExecutor) -> None:
        pool.shutdown(wait=False)
        self._not_started += 1


class Cluster:
    """The workers of a Dask cluster, which need not see this machine's disk.

    The scheduler itself gives the unit of a worker that died to another one. After so many deaths
    as its setting `allowed-failures` says (3) it gives the unit up.

    Parameters
    ----------
    client
        Connected to the scheduler.
    """

    free = True  # the scheduler has a queue of its own

    def __init__(self, client: Client) -> None:
        self._address = client.scheduler.address if client.scheduler else "?"
        self._executor = client.get_executor(pure=False)

    def submit(self, unit: Unit) -> Future[UnitResult]:
        """Hand a unit to the scheduler."""
        return self._executor.submit(train_unit, unit)

    def result(self, future: Future[UnitResult]) -> UnitResult:
        """The result of a unit, whichever worker has come to its end."""
        from distributed import CancelledError, KilledWorker

        if future.cancelled():
            raise UsageError(
                f"--cluster {self._address}: the scheduler has gone; finished trials are kept: go "
                "on with --resume and another --cluster, or with --jobs"
            )
        try:
            return future.result()
        except (KilledWorker, CancelledError) as error:
            raise UsageError(
                f"--cluster {self._address}: workers died again and again, perhaps for want of "
                "memory; finished trials are kept: go on with --resume, and with fewer threads "
                f"a worker ({error})"
            ) from error

    def kill(self) -> None:
        """Nothing: units that nobody waits for are dropped by the scheduler."""


@contextlib.contextmanager
def processes(count: int) -> Iterator[Processes]:
    """So many local processes; whatever goes wrong within the block, none of them outlives it."""
    workers = Processes(count)
    try:
        yield workers
    except BaseException:
        workers.kill()
        raise
    finally:
        workers.close()


@contextlib.contextmanager
def cluster(address: str) -> Iterator[Cluster]:
    """The workers of the Dask scheduler at an address.

    Raises
    ------
    UsageError
        Nobody answers there, there are no workers, or they cannot import the experiments.
    """
    from distributed import Client

    with _no_log():
        try:
            _check_address(address)
            client = Client(address, timeout=10, set_as_default=False)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--cluster {address}: no Dask scheduler answers ({error}); start one with "
                "`dask scheduler`, its workers with `dask worker ADDRESS` in a checkout"
            ) from error
        try:
            _check_workers(client, address)
            yield Cluster(client)
        finally:
            with contextlib.suppress(OSError):  # a scheduler that has gone was told already
                client.close()


@contextlib.contextmanager
def _no_log() -> Iterator[None]:
    """Dask logs a lost connection with its traceback; we tell it in one line."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def _check_address(address: str) -> None:
    """Refuse (ValueError) what no scheduler can be reached by.

    A `Client` refuses it too, but then waits for itself, and ends in a traceback of Dask's.
    """
    from distributed.comm import get_address_host_port
    from distributed.security import Security

    get_address_host_port(address)
    tls = address.startswith("tls://")
    if tls and not Security().get_connection_args("client").get("ssl_context"):
        raise ValueError("Dask's configuration names no certificates, which tls:// needs")


def _check_workers(client: Client, address: str) -> None:
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
def _one_blas_thread() -> Iterator[None]:
    """Processes started within share the cores among them, one each, unless the user chose."""
    ours = [name for name in BLAS_THREADS if name not in os.environ]
    os.environ.update(dict.fromkeys(ours, "1"))
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]


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
