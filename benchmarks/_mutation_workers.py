"""How mutants are tried: in forks of a process in which pytest has collected the tests already.

A worker is a process that has imported pytest, Hypothesis and NumPy, but not the package under
test. For most mutants it has a server: a fork of it that has collected all tests. For each mutant
the server forks a child, the child plants the mutant in the live modules (`plant_source`) and runs
the tests it is told to, until the first failure. A mutant of what ran at import goes to a fresh
fork of the worker itself instead, which imports the package with the mutated source and collects
only the files it needs.

`survey` runs all tests once for their durations and once to see which lines each of them enters,
each in a fork of its own: what an earlier test has derived, compiled or cached must not hide what
this one would enter.

Some tests compile, and compiled code is kept in a folder. A mutant gets a folder of its own, with
links to what the survey has left there: machine code is found again by a hash of the text that it
was made from, so that a mutant which prints another text compiles that. Mutants of what the hash is
made by, and of what it covers only by reading a file, get an empty one.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import linecache
import multiprocessing
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

fork = multiprocessing.get_context("fork")

SPARE_MEMORY = 2 << 30  # bytes that a mutant may take more than the process had
PATIENCE = 600.0  # seconds after which even a child that sleeps is killed
CACHE = "MICROTENSOR_CACHE"  # the variable that names the folder of compiled code
# Mutants of these compile everything anew.
COMPILERS = ("recurrence/drivers/compiled.py", "recurrence/drivers/lanes.py")


@dataclass(frozen=True)
class Project:
    """What is tested with what.

    Attributes
    ----------
    root
        The folder with pytest's configuration, from which tests are run.
    package
        The package's name; it is a folder in the root.
    tests
        Folders or files of tests, relative to the root.
    examples
        How many examples a property test runs.
    files
        Those that are mutated, below the package. Their modules are imported before the first test,
        also those that the package imports when they are first wanted: what runs at import is known
        as such, and a mutant does not have to wait for it.
    compiled
        The folder for code that the survey compiles; beside it each mutant gets one of its own.
    """

    root: Path
    package: str
    tests: tuple[str, ...]
    examples: int
    files: tuple[str, ...]
    compiled: Path

    def arguments(self, tests: Sequence[str]) -> list[str]:
        """Pytest's command line."""
        quiet = ["-q", "--no-header", "--no-summary", "--tb=no", "-s", "-p", "no:cacheprovider"]
        # Hypothesis is imported by now, on purpose; pytest would have liked to be there first.
        quiet += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        return [*quiet, f"--rootdir={self.root}", *tests]

    def module(self, file: str) -> str:
        """The dotted name of a file below the package."""
        parts = Path(file).with_suffix("").parts
        return ".".join([self.package, *[part for part in parts if part != "__init__"]])

    def path(self, file: str) -> Path:
        """Where a file below the package is."""
        return self.root / self.package / file

    def import_all(self) -> None:
        """Import the modules of all files, but those that need what is not installed."""
        for file in self.files:
            with contextlib.suppress(ImportError):
                importlib.import_module(self.module(file))


@dataclass(frozen=True)
class Task:
    """One mutant to be tried."""

    file: str
    source: str
    tests: list[str]  # names, in the order in which they are to be run
    limits: list[float]  # for each of them, seconds of processor time
    fresh: bool  # whether a process is needed that has not imported the package yet


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant: killed, timeout, survived; or not live, the same."""

    status: str
    by: str = ""
    seconds: float = 0.0


def prepare(project: Project) -> None:
    """Make this process one in which the tests can be collected. Nothing is imported yet."""
    os.chdir(project.root)
    sys.path.insert(0, str(project.root))
    if project.package in sys.modules:
        raise RuntimeError(f"{project.package} is imported already, so it cannot be mutated")
    settings.register_profile(
        "mutation",
        deadline=None,
        database=None,
        derandomize=True,
        max_examples=project.examples,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
        report_multiple_bugs=False,
        print_blob=False,
    )
    settings.load_profile("mutation")
    os.environ["HYPOTHESIS_PROFILE"] = "mutation"
    os.environ[CACHE] = str(project.compiled)


def skip_tests_that_plant() -> None:
    """Let tests that plant a bug of their own skip.

    They look for a text of the library, and would fail on the mutant's line for that reason alone.
    """
    from microtensor.testing.planting import Edit

    def apply(self: Edit, source: str) -> str:
        pytest.skip("a test that plants a bug is no judge of another one")

    Edit.apply = apply  # type: ignore[method-assign]


# ---------------------------------------------------------------------------------------------
# The survey


class Tracer:
    """Which lines of some files are entered, for as long as it is on."""

    def __init__(self, files: dict[str, str]) -> None:
        self.lines: dict[str, set[int]] = {}
        self.entered: dict[str, set[int]] = {}
        self._ways = {path: self._way(short) for path, short in files.items()}
        self._files = files

    def _way(self, short: str) -> tuple[Callable[[int], None], Callable[..., Any]]:
        lines = self.lines.setdefault(short, set())
        entered = self.entered.setdefault(short, set())

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            if event == "line":
                lines.add(frame.f_lineno)
            return trace

        return entered.add, trace

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        way = self._ways.get(frame.f_code.co_filename)
        if way is None:
            return None
        way[0](frame.f_code.co_firstlineno)
        return way[1]

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Forget what was, and look: in this thread, and in those that start meanwhile."""
        for found in (*self.lines.values(), *self.entered.values()):
            found.clear()
        threading.settrace(self._enter)
        sys.settrace(self._enter)
        try:
            yield
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]

    def found(self, which: dict[str, set[int]]) -> dict[str, list[int]]:
        """By file, sorted."""
        return {short: sorted(numbers) for short, numbers in which.items() if numbers}


@dataclass(eq=False)
class _Surveyor:
    """A pytest plugin: each test traced, then timed, both in forks."""

    tracer: Tracer
    tests: list[dict[str, Any]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)  # files that cannot be collected

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.broken.append(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        skip_tests_that_plant()
        for item in session.items:
            # Traced first: that leaves compiled code in the folder, as mutants will find it.
            test, failed = _in_a_fork(lambda item=item: self.traced(item))
            seconds, also = _in_a_fork(lambda item=item: self.timed(item))
            self.tests.append({"id": item.nodeid, "seconds": seconds, **test})
            self.failed += dict.fromkeys([*failed, *also])
        return True

    def traced(self, item: pytest.Item) -> tuple[dict[str, Any], list[str]]:
        """In a fork: what a test enters, and whether it fails."""
        self.failed.clear()
        with self.tracer.on():
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        tracer = self.tracer
        found = {"lines": tracer.found(tracer.lines), "entered": tracer.found(tracer.entered)}
        return found, self.failed

    def timed(self, item: pytest.Item) -> tuple[float, list[str]]:
        """In a fork: the processor time that a test takes, and whether it fails."""
        self.failed.clear()
        begin = time.process_time()
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        return time.process_time() - begin, self.failed

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)


def survey(project: Project) -> dict[str, Any]:
    """Every test's duration, and which lines of the files it enters; and what import enters.

    Returns
    -------
    dict
        "tests", a list of {"id", "seconds", "lines": {file: [...]}, "entered": {file: [...]}};
        "at_import", {file: first lines of the functions entered before the first test};
        "failed", the tests that do not even pass without a mutant.
    """
    shutil.rmtree(project.compiled, ignore_errors=True)
    project.compiled.mkdir(parents=True)
    return _in_a_fork(lambda: _survey(project))


def _survey(project: Project) -> dict[str, Any]:
    _silence()
    tracer = Tracer({str(project.path(file)): file for file in project.files})
    surveyor = _Surveyor(tracer)
    before: dict[str, list[int]] = {}

    class Starter:
        def pytest_collection_finish(self) -> None:
            project.import_all()
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]
            before.update(tracer.found(tracer.entered))

    with tracer.on():
        code = pytest.main(project.arguments(project.tests), plugins=[Starter(), surveyor])
    if surveyor.broken or not surveyor.tests:
        what = ", ".join(surveyor.broken) or "no test was found"
        raise RuntimeError(f"the tests cannot be collected (pytest's code {int(code)}): {what}")
    return {"tests": surveyor.tests, "at_import": before, "failed": surveyor.failed}


def _in_a_fork(work: Callable[[], Any]) -> Any:
    ours, theirs = fork.Pipe()

    def run() -> None:
        try:
            theirs.send((True, work()))
        except BaseException as error:
            theirs.send((False, repr(error)))

    process = fork.Process(target=run)
    process.start()
    theirs.close()
    try:
        done, result = ours.recv()
    except EOFError:
        raise RuntimeError("the process with the tests has died") from None
    finally:
        process.join()
    if not done:
        raise RuntimeError(f"the process with the tests has failed: {result}")
    return result


# ---------------------------------------------------------------------------------------------
# One child, one mutant


def _silence() -> None:
    """Nobody reads what the tests print."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)


def _limit_memory() -> None:
    """A mutant that asks for a petabyte shall be refused, not the machine be stopped."""
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + SPARE_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _limit_time(seconds: float) -> None:
    """End this process after so much processor time: by a signal, so also within a C loop."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)


class _Child:
    """A pytest plugin for the process that runs one mutant: it ends with the first failure."""

    def __init__(self, task: Task, report: int) -> None:
        self.order = {name: i for i, name in enumerate(task.tests)}
        self.limits = dict(zip(task.tests, task.limits, strict=True))
        self.report = report

    def end(self, status: str, by: str = "") -> None:
        """Say what became of the mutant, and end the process at once."""
        os.write(self.report, f"{status}\n{by}".encode())
        os._exit(0)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.nodeid in self.order]
        items.sort(key=lambda item: self.order[item.nodeid])

    def pytest_collection_finish(self) -> None:
        skip_tests_that_plant()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.end("killed", f"collection of {report.nodeid or 'the tests'}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        _limit_time(self.limits[item.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.end("killed", report.nodeid)


def _tried(project: Project, task: Task, work: Callable[[int], None]) -> Outcome:
    """`_watched`, in a folder for compiled code that goes with the mutant."""
    with tempfile.TemporaryDirectory(dir=project.compiled.parent, prefix="mutant-") as folder:
        os.environ[CACHE] = folder
        if task.file not in COMPILERS:
            # Links: files there are only ever replaced and removed, never changed.
            shutil.copytree(project.compiled, folder, copy_function=os.link, dirs_exist_ok=True)
        return _watched(work)


def _watched(work: Callable[[int], None]) -> Outcome:
    """Fork, work there with a descriptor to report to, and wait for the report."""
    begin = time.monotonic()
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ours)
            work(theirs)
        except BaseException as error:
            os.write(theirs, f"killed\n{error!r}".encode())
        finally:
            os._exit(0)
    os.close(theirs)
    answer = b""
    while select.select([ours], [], [], max(begin + PATIENCE - time.monotonic(), 0))[0]:
        more = os.read(ours, 4096)
        if not more:
            break
        answer += more
    else:
        os.kill(pid, signal.SIGKILL)
    os.close(ours)
    _, status = os.waitpid(pid, 0)
    seconds = time.monotonic() - begin
    if answer:
        verdict, _, by = answer.decode().partition("\n")
        return Outcome(verdict, by, seconds)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGKILL):
        return Outcome("timeout", "", seconds)
    return Outcome("killed", "the process has died", seconds)


# ---------------------------------------------------------------------------------------------
# Live mutants: the server


@dataclass(eq=False)
class _Server:
    """A pytest plugin: instead of running the tests it waits for mutants, and forks for each."""

    project: Project
    connection: Connection

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        skip_tests_that_plant()
        self.project.import_all()
        items = {item.nodeid: item for item in session.items}
        self.connection.send(len(items))
        while True:
            task = self.connection.recv()
            if task is None:
                return True
            outcome = _tried(
                self.project, task, lambda report, task=task: self.work(task, items, report)
            )
            self.connection.send(outcome)

    def work(self, task: Task, items: dict[str, pytest.Item], report: int) -> None:
        """In the child: plant, run, report."""
        from microtensor.testing.planting import (
            NotLive,
            Unchanged,
            plant_source,
            source_of,
        )

        child = _Child(task, report)
        chosen = [items[name] for name in task.tests if name in items]
        module = importlib.import_module(self.project.module(task.file))
        _limit_memory()
        if source_of(module) != task.source:  # the same: a trial run
            try:
                plant_source(module, task.source)
            except NotLive:
                child.end("not live")
            except Unchanged:
                child.end("same")
        if chosen:
            manager = chosen[0].config.pluginmanager
            manager.unregister(self)
            manager.register(child)
        for item, after in zip(chosen, [*chosen[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
        child.end("survived")


def _serve(project: Project, connection: Connection) -> None:
    _silence()
    try:
        pytest.main(project.arguments(project.tests), plugins=[_Server(project, connection)])
    finally:
        connection.close()


# ---------------------------------------------------------------------------------------------
# Mutants of what runs at import: a fresh process


class _Mutated(importlib.machinery.SourceFileLoader):
    """Loads a module from its file, but with another text."""

    text = ""

    def get_code(self, fullname: str) -> Any:
        return compile(self.text, self.path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module only: the mutated one."""

    def __init__(self, name: str, path: Path, text: str) -> None:
        self.name, self.path, self.text = name, path, text

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname != self.name:
            return None
        loader = _Mutated(fullname, str(self.path))
        loader.text = self.text
        return importlib.util.spec_from_file_location(fullname, self.path, loader=loader)


def _run_fresh(project: Project, task: Task, report: int) -> None:
    _silence()
    _limit_memory()
    _limit_time(30.0 + sum(task.limits[:1]))  # for the import; each test has its own limit
    child = _Child(task, report)
    path = project.path(task.file)
    sys.meta_path.insert(0, _Finder(project.module(task.file), path, task.source))
    # Whoever asks for the module's source, as the names of compiled code do, gets the mutant's.
    lines = task.source.splitlines(keepends=True)
    linecache.cache[str(path)] = (len(task.source), None, lines, str(path))
    files = list(dict.fromkeys(name.partition("::")[0] for name in task.tests))
    code = pytest.main(project.arguments(files), plugins=[child])
    fine = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    child.end("survived" if code in fine else "killed", f"pytest ended with code {int(code)}")


# ---------------------------------------------------------------------------------------------
# The worker


def work(project: Project, connection: Connection) -> None:
    """Try mutants as they come, until None comes."""
    server: Any = None
    theirs: Any = None
    while (task := connection.recv()) is not None:
        if task.fresh:
            outcome = _tried(
                project, task, lambda report, task=task: _run_fresh(project, task, report)
            )
            connection.send(outcome)
            continue
        if server is None:
            ours, theirs = fork.Pipe()
            server = fork.Process(target=_serve, args=(project, theirs))
            server.start()
            theirs.close()
            ours.recv()  # it is ready
        ours.send(task)
        connection.send(ours.recv())
    if server is not None:
        ours.send(None)
        server.join()


class Worker:
    """The main process's end of a worker."""

    def __init__(self, project: Project) -> None:
        self.connection, theirs = fork.Pipe()
        self.process = fork.Process(target=work, args=(project, theirs))
        self.process.start()
        theirs.close()

    def start(self, task: Task) -> None:
        """Give it a mutant to try; its connection becomes readable when it is done."""
        self.connection.send(task)

    def outcome(self) -> Outcome:
        """What became of it."""
        found: Outcome = self.connection.recv()
        return found

    def stop(self) -> None:
        """Let it end."""
        with contextlib.suppress(OSError):
            self.connection.send(None)
        self.process.join()
