"""Units of work in other processes and on a Dask cluster: workers that die, full disks, Ctrl-C."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest

import microtensor as mt
from tasks import cli, workers
from tasks.folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]

# These run the real sin_cos, because a worker process knows no experiment of a test.


def command(out: Path, *words: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "tasks",
        "run",
        "sin_cos",
        "--no-plots",
        "--out",
        str(out),
        *words,
    ]


def contents(out: Path) -> dict[str, bytes]:
    folder = out / "sin_cos-document"
    return {
        n: (folder / n).read_bytes() for n in ("metrics.csv", "trials.csv", "model.safetensors")
    }


def finish(out: Path, *words: str) -> dict[str, bytes]:
    done = subprocess.run(
        command(out, *words), cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return contents(out)


def reached(condition: Callable[[], bool], process: subprocess.Popen[Any]) -> bool:
    """Wait for it; False if the process has come to its end before."""
    end = time.monotonic() + 120
    while not condition():
        if process.poll() is not None:
            return False
        assert time.monotonic() < end
        time.sleep(0.01)
    return True


def attempts(tmp_path: Path) -> Iterator[Path]:
    """Fresh folders: on a busy machine, a run may be over before it is met in its middle."""
    for number in range(5):
        yield tmp_path / str(number)


SHORT = ("--trials", "3", "--iterations", "150")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return finish(tmp_path_factory.mktemp("whole"), *SHORT, "--jobs", "1")


def test_two_jobs_give_the_bytes_of_one(uninterrupted: dict[str, bytes], tmp_path: Path) -> None:
    assert finish(tmp_path, *SHORT, "--jobs", "2") == uninterrupted


def begin(out: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(out, *words), cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_killed_run_resumed_gives_the_same_bytes(
    uninterrupted: dict[str, bytes], tmp_path: Path, jobs: str
) -> None:
    words = (*SHORT, "--jobs", jobs, "--save-every", "0")
    for out in attempts(tmp_path):
        process = begin(out, *words)
        checkpoints = out / "sin_cos-document" / "checkpoints"
        try:
            reached(lambda: any(checkpoints.glob("[0-9].safetensors")), process)  # noqa: B023
            process.kill()
            # Workers whose parent has gone end, too: only then is this pipe closed.
            _, said = process.communicate(timeout=120)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        middle = list(checkpoints.glob("[0-9].safetensors"))
        if middle:
            break
    assert process.returncode == -signal.SIGKILL, said
    assert middle, "it was killed in the middle of a trial"
    assert not (out / "sin_cos-document" / "model.safetensors").exists()
    assert finish(out, *SHORT, "--jobs", jobs, "--resume") == uninterrupted


@pytest.mark.skipif(os.name != "posix", reason="needs SIGINT")
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_saves_and_says_how_to_go_on(
    uninterrupted: dict[str, bytes], tmp_path: Path, jobs: str
) -> None:
    for out in attempts(tmp_path):
        process = begin(out, *SHORT, "--jobs", jobs, "--save-every", "0")
        checkpoints = out / "sin_cos-document" / "checkpoints"
        if reached(lambda: any(checkpoints.glob("[0-9].safetensors")), process):  # noqa: B023
            with contextlib.suppress(ProcessLookupError):
                # As a terminal does: to the workers as well.
                os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=120)
        # Not if the signal came when all was done, and Python was on its way out.
        if process.returncode != 0 and not (out / "sin_cos-document" / "result.json").exists():
            break
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert re.search(r"python -m tasks run sin_cos .*--resume", said)
    assert finish(out, *SHORT, "--jobs", jobs, "--resume") == uninterrupted


# -- workers that die --------------------------------------------------------------------------


@contextlib.contextmanager
def meanwhile(action: Callable[[], bool]) -> Iterator[None]:
    """Call `action` every few milliseconds in another thread, until it says that it is through."""
    over = threading.Event()

    def repeat() -> None:
        while not over.is_set() and not action():
            time.sleep(0.005)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def kill(processes: Iterable[Any]) -> bool:
    """Kill them as the system does for want of memory; whether there was one."""
    killed = False
    for process in processes:
        with contextlib.suppress(ProcessLookupError, AttributeError):
            os.kill(process.pid, signal.SIGKILL)
            killed = True
    return killed


needs_sigkill = pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")


@needs_sigkill
def test_the_trial_of_a_worker_that_dies_is_run_again(
    uninterrupted: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for out in attempts(tmp_path):
        checkpoints = out / "sin_cos-document" / "checkpoints"

        def kill_one(checkpoints: Path = checkpoints) -> bool:
            return any(checkpoints.glob("[0-9].safetensors")) and kill(active_children()[:1])

        with meanwhile(kill_one):
            assert cli.main(command(out, *SHORT, "--jobs", "2", "--save-every", "0")[3:]) == 0
        assert contents(out) == uninterrupted
        said = capsys.readouterr().err
        if "died" in said:  # else it had come to the end of its trial
            break
    assert re.search(r"the worker process of trial \d died; it is run again", said)


@needs_sigkill
def test_a_trial_that_costs_worker_after_worker_ends_the_run_and_loses_no_other(
    uninterrupted: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for out in attempts(tmp_path):
        checkpoints = out / "sin_cos-document" / "checkpoints"

        def kill_all_after_the_first_trial(checkpoints: Path = checkpoints) -> bool:
            if any(checkpoints.glob("*.done.safetensors")):
                kill(active_children())
            return False

        with meanwhile(kill_all_after_the_first_trial):
            code = cli.main(command(out, *SHORT, "--jobs", "2")[3:])
        if code != 0:  # else they were not killed often enough
            break
    assert code == 2
    said = capsys.readouterr().err.splitlines()
    assert re.match(r"tasks: the worker process of trial \d died 3 times, perhaps for", said[-1])
    assert "go on with --resume" in said[-1]
    kept = {path: path.read_bytes() for path in checkpoints.glob("*.done.safetensors")}
    assert kept
    assert not active_children()
    assert finish(out, *SHORT, "--jobs", "1", "--resume") == uninterrupted


def test_a_fault_of_a_trial_is_not_taken_for_a_dead_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the others are stopped, not waited for."""
    begun = []

    class Failing(workers.Processes):
        def submit(self, unit: Any) -> Any:
            begun.append(unit.name)
            # With no data to count, this unit raises in its worker.
            return super().submit(replace(unit, settings=None) if unit.name == "1" else unit)

    monkeypatch.setattr(workers, "Processes", Failing)
    words = ("--trials", "3", "--iterations", "100000", "--jobs", "2")
    with pytest.raises(AttributeError, match="NoneType"):
        cli.main(command(tmp_path, *words)[3:])
    assert begun == ["0", "1"]
    folder = tmp_path / "sin_cos-document"
    assert (folder / "checkpoints" / "0.safetensors").exists(), "stopped, and saved"
    assert not active_children()


# -- a cluster ---------------------------------------------------------------------------------


@pytest.fixture
def dask() -> Iterator[Any]:
    """Start a real scheduler, or a worker of its, as people do: each in a process of its own."""
    pytest.importorskip("distributed")
    started = []

    def start(what: str, *words: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{what}", "--no-dashboard", *words],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def start_cluster(dask: Any, tmp_path: Path, *, workers: int) -> tuple[str, list[Any]]:
    """The scheduler's address, and its processes: the scheduler, then the workers."""
    from distributed import Client

    file = tmp_path / "scheduler.json"
    found = ("--scheduler-file", str(file))
    started = [dask("scheduler", *found, "--host", "127.0.0.1", "--port", "0")]

    def written() -> bool:  # the scheduler may be in the middle of it
        with contextlib.suppress(FileNotFoundError, ValueError):
            return bool(json.loads(file.read_text()))
        return False

    assert reached(written, started[0]), "the scheduler has ended"
    address = json.loads(file.read_text())["address"]
    started += [
        dask("worker", address, "--nthreads", "1", "--no-nanny", "--name", str(number))
        for number in range(workers)
    ]
    if workers:
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=120)
    return address, started


@needs_sigkill
def test_a_cluster_gives_the_same_bytes_though_a_worker_is_killed(
    uninterrupted: dict[str, bytes], dask: Any, tmp_path: Path
) -> None:
    from distributed import Client

    address, (_, *started) = start_cluster(dask, tmp_path, workers=2)
    victims: list[Any] = []
    with Client(address, set_as_default=False) as client:
        pids = client.run(os.getpid)

        def kill_one_that_works() -> bool:
            busy = {pids[worker] for worker, units in client.processing().items() if units}
            victims.extend([process for process in started if process.pid in busy][:1])
            return kill(victims)

        for out in attempts(tmp_path):
            with meanwhile(kill_one_that_works):
                assert cli.main(command(out, *SHORT, "--cluster", address)[3:]) == 0
            assert contents(out) == uninterrupted
            if victims:
                break
    [victim] = victims
    assert victim.wait(timeout=120) == -signal.SIGKILL


@needs_sigkill
def test_a_cluster_that_goes_away_is_one_clear_line(
    uninterrupted: dict[str, bytes], dask: Any, tmp_path: Path, capsys: Any
) -> None:
    stream = random.getstate()  # Dask's, while it tries to connect again
    for out in attempts(tmp_path):
        out.mkdir()
        address, started = start_cluster(dask, out, workers=1)
        checkpoints = out / "sin_cos-document" / "checkpoints"

        def kill_both(checkpoints: Path = checkpoints, started: list[Any] = started) -> bool:
            return any(checkpoints.glob("*.done.safetensors")) and kill(started)

        with meanwhile(kill_both):
            code = cli.main(command(out, *SHORT, "--cluster", address)[3:])
        if code != 0:  # else the run was over before
            break
    assert code == 2
    random.setstate(stream)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"tasks: --cluster {address}: the scheduler has gone; finished trials")
    assert any(checkpoints.glob("*.done.safetensors"))
    assert finish(out, *SHORT, "--jobs", "1", "--resume") == uninterrupted


@pytest.mark.parametrize(
    ("address", "told"),
    [("nowhere", "missing port number"), ("x://y:1", "unknown address"), ("tls://y:1", "certif")],
)
def test_what_is_no_address_of_a_cluster_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], address: str, told: str
) -> None:
    pytest.importorskip("distributed")
    assert cli.main(command(tmp_path, *SHORT, "--cluster", address)[3:]) == 2
    gc.collect()  # a client that was half made says so, at length, when it goes
    _, line = capfd.readouterr().err.splitlines()
    assert line.startswith(f"tasks: --cluster {address}: no Dask scheduler answers (")
    assert told in line


def test_a_cluster_without_a_worker_is_refused(
    dask: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address, _ = start_cluster(dask, tmp_path, workers=0)
    assert cli.main(command(tmp_path, *SHORT, "--cluster", address)[3:]) == 2
    assert "the scheduler has no workers" in capsys.readouterr().err.splitlines()[-1]


# -- a full disk -------------------------------------------------------------------------------


def whole(folder: Path) -> None:
    """No file of a run is half-written."""
    for path in folder.rglob("*"):
        match path.suffix:
            case ".json":
                json.loads(path.read_text())
            case ".csv":
                assert path.read_text().endswith("\n")
            case ".safetensors":
                mt.load(path)
            case ".png":
                assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
            case ".tmp":
                pytest.fail(f"{path} was left behind")


def test_a_disk_that_is_full_at_any_moment_of_a_run(
    walk_task: Any, tasks_cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file of a run in turn is the first for which there is no room."""
    complete = tasks_cli("run walk --trials 1", tmp_path / "complete").out / "walk-document"
    real, real_replace = os.fsync, os.replace
    for room in itertools.count():
        written: list[Path] = []

        def fsync(file: int, room: int = room, written: list[Path] = written) -> None:
            if len(written) >= room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(file)

        def rename(old: str, new: str, written: list[Path] = written) -> None:
            real_replace(old, new)
            written.append(Path(new))

        out = tmp_path / str(room)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            patch.setattr(os, "replace", rename)
            full = tasks_cli("run walk --trials 1", out)
        folder = out / "walk-document"
        whole(folder)
        if full.code == 0:
            break
        assert (full.code, full.stdout) == (2, "")
        last = full.stderr.splitlines()[-1]
        assert last.startswith(f"tasks: {folder}")
        assert f": {os.strerror(errno.ENOSPC)}; nothing is half-written" in last
        assert "--resume" in last
        # Of the last file to have its name the folder's entry is not yet safe: hence the refusal.
        assert (folder / "result.json").exists() == (folder / "result.json" in written)
        assert tasks_cli("run walk --trials 1 --resume", out).code == 0
        for name in ("metrics.csv", "trials.csv", "model.safetensors", "path.png", "printout.txt"):
            assert (folder / name).read_bytes() == (complete / name).read_bytes()
    assert {path.name for path in written} >= set(os.listdir(complete))
    assert room >= len(os.listdir(complete))


LIMITED = """
import resource, sys
from tasks.cli import main
if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs limits on the size of files")
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_file_for_which_the_system_has_no_room_ends_the_run_in_one_line(
    uninterrupted: dict[str, bytes], tmp_path: Path, jobs: str
) -> None:
    """A real refusal by the system, here of a checkpoint, also in the worker processes."""
    script = tmp_path / "limited.py"
    script.write_text(LIMITED)
    out = tmp_path / "out"
    done = subprocess.run(
        [
            sys.executable,
            str(script),
            *command(out, *SHORT, "--jobs", jobs, "--save-every", "0")[3:],
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"tasks: {out / 'sin_cos-document' / 'checkpoints'}")
    assert os.strerror(errno.EFBIG) in last
    whole(out / "sin_cos-document")
    assert finish(out, *SHORT, "--jobs", jobs, "--resume") == uninterrupted


def test_event_files_on_a_full_disk_end_the_run_and_do_not_hang_it(
    walk_task: Any, tasks_cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboardX.record_writer import RecordWriter

    def write(writer: Any, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RecordWriter, "write", write)
    full = tasks_cli("run walk --tensorboard --no-plots")
    assert full.code == 2
    assert os.strerror(errno.ENOSPC) in full.stderr.splitlines()[-1]


def test_a_run_that_asks_its_units_to_stop_can_do_so_on_a_full_disk(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin({"settings": {}}, resume=False)
    assert folder.running_file.exists()
    assert folder.ask_to_stop()
    assert not folder.running_file.exists()
    folder.running_file.mkdir()  # whatever the reason for which it cannot be removed
    assert not folder.ask_to_stop()
