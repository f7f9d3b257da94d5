"""Data sets: found, fetched from a server of our own, refused, and recorded. No network."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tasks import datasets, registry
from tasks.datasets import DataSet, File, Found, resolve
from tasks.harness import Trial, UsageError
from tasks.units import Unit, train_unit

CONTENT = b"1,2,3\n" * 1000


class Server:
    """Answers every request as `answer` says, and counts them."""

    def __init__(self) -> None:
        self.answer: Callable[[Any], None] = lambda handler: self.send(handler, CONTENT)
        self.asked = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                outer.answer(self)

            def log_message(self, *words: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @staticmethod
    def send(handler: Any, content: bytes, *, length: int | None = None, status: int = 200) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(content) if length is None else length))
        handler.end_headers()
        handler.wfile.write(content)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = Server()
    yield running
    running.close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder for this test, and no other place named."""
    import pooch

    folder = tmp_path / "cache"
    monkeypatch.setattr(pooch, "os_cache", lambda name: folder / name)
    monkeypatch.delenv(datasets.VARIABLE, raising=False)
    return folder / "microtensor"


def numbers(*urls: str, name: str = "numbers.csv", **more: Any) -> DataSet:
    file = File(name, datasets.digest(CONTENT), len(CONTENT), urls=urls, **more)
    return DataSet("numbers", (file,), "Euclid, Elements VII", "a thousand lines")


def zipped(content: bytes = CONTENT, member: str = "numbers.csv", stored: bool = False) -> bytes:
    buffer = io.BytesIO()
    packing = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        archive.writestr(member, content)
    return buffer.getvalue()


def refusal(data: DataSet, folder: Path | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        resolve(data, str(folder) if folder else None)
    message = str(caught.value)
    assert "\n" not in message
    return message


# -- hashes ------------------------------------------------------------------------------------


def test_the_hash_of_git_is_git_s(tmp_path: Path) -> None:
    # `git hash-object` of an empty file and of "hello\n", which every git prints.
    assert datasets.digest(b"", "git-blob").endswith("e69de29bb2d1d6434b8b29ae775ad8c2e48c5391")
    assert datasets.digest(b"hello\n", "git-blob").endswith(
        "ce013625030ba8dba906f756967f9e9ca394464a"
    )
    (tmp_path / "file").write_bytes(CONTENT)
    git = subprocess.run(
        ["git", "hash-object", "--no-filters", str(tmp_path / "file")],
        capture_output=True,
        text=True,
    )
    if git.returncode == 0:
        assert datasets.digest(CONTENT, "git-blob") == f"git-blob:{git.stdout.strip()}"
    assert datasets.digest(CONTENT) == f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.mark.parametrize("kind", ["sha256", "git-blob"])
def test_one_bit_is_enough_to_be_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "numbers.csv"
    file = File(path.name, datasets.digest(CONTENT, kind), len(CONTENT))
    for place in (0, 2999, 5999):
        changed = bytearray(CONTENT)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(UsageError) as caught:
            datasets.content(path, file)
        for part in (str(path), file.digest, datasets.digest(bytes(changed), kind)):
            assert part in str(caught.value)
    path.write_bytes(CONTENT)
    assert datasets.content(path, file) == CONTENT


# -- where it lies -----------------------------------------------------------------------------


def test_folders_are_searched_in_order(tmp_path: Path, cache: Path, monkeypatch: Any) -> None:
    given, named = tmp_path / "given", tmp_path / "named"
    for folder in (given, named, cache):
        folder.mkdir(parents=True)
        (folder / "numbers.csv").write_bytes(CONTENT)
    monkeypatch.setenv(datasets.VARIABLE, str(named))
    for folder in (given, named, cache):
        assert resolve(numbers(), str(given)).path == folder / "numbers.csv"
        (folder / "numbers.csv").unlink()
    message = refusal(numbers(), given)
    for place in ("data set numbers", "numbers.csv", str(given), str(named), str(cache), "--data"):
        assert place in message
    assert "nowhere to fetch it from" in message


def test_a_folder_s_first_accepted_file_is_taken(tmp_path: Path) -> None:
    plain, part = tmp_path / "all.csv", tmp_path / "part.csv.zip"
    whole = File(plain.name, datasets.digest(CONTENT, "git-blob"), len(CONTENT))
    some = CONTENT[:600]
    half = File(part.name, datasets.digest(some), len(some), member="p.csv", about="100 lines")
    data = DataSet("lines", (whole, half), "nobody", "lines")
    part.write_bytes(zipped(some, "p.csv"))
    assert resolve(data, str(tmp_path)) == Found(data, part, half)
    part.write_bytes(zipped(some, "p.csv", stored=True))  # packed in another way: the same data
    found = resolve(data, str(tmp_path))
    assert datasets.content(found.path, found.file) == some
    plain.write_bytes(CONTENT)
    assert resolve(data, str(tmp_path)) == Found(data, plain, whole)


def test_the_named_folder_must_be_there(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv(datasets.VARIABLE, str(tmp_path / "nowhere"))
    assert f"{datasets.VARIABLE}: there is no folder" in refusal(numbers())


@pytest.mark.parametrize(
    "damage",
    [
        lambda good: good[:-20],
        lambda good: good[: len(good) // 2],
        lambda good: b"",
        lambda good: CONTENT,
        lambda good: zipped(member="other.csv"),
        lambda good: zipped(CONTENT[:-1]),
        lambda good: good[:60] + bytes([good[60] ^ 255]) + good[61:],
    ],
    ids=["end", "half", "empty", "no zip", "member", "content", "bit"],
)
def test_a_bad_archive_is_one_line_with_both_hashes(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "numbers.zip"
    path.write_bytes(damage(zipped()))
    data = numbers(name=path.name, member="numbers.csv")
    message = refusal(data, tmp_path)
    assert message.startswith(str(path))
    assert data.files[0].digest in message
    assert message.count("sha256:") == 2
    path.write_bytes(zipped())
    assert resolve(data, str(tmp_path)).path == path


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "numbers.csv").mkdir()
    message = refusal(numbers(), tmp_path)
    assert "numbers.csv cannot be read" in message


# -- fetching ----------------------------------------------------------------------------------


def test_it_is_fetched_once_into_the_cache_or_into_data(
    server: Server, cache: Path, tmp_path: Path, capsys: Any
) -> None:
    data = numbers(server.url)
    assert resolve(data).path == cache / "numbers.csv"
    assert (cache / "numbers.csv").read_bytes() == CONTENT
    assert f"fetching {server.url}" in capsys.readouterr().err
    assert resolve(data).path == cache / "numbers.csv"
    assert server.asked == 1
    (cache / "numbers.csv").unlink()
    given = tmp_path / "given"
    given.mkdir()
    assert resolve(data, str(given)).path == given / "numbers.csv"
    assert os.listdir(given) == ["numbers.csv"]
    assert os.listdir(cache) == []


def test_the_second_address_is_tried(server: Server, cache: Path) -> None:
    data = numbers(f"{server.url}/first", f"{server.url}/second")

    def answer(handler: Any) -> None:
        if handler.path == "/first":
            Server.send(handler, b"moved", status=404)
        else:
            Server.send(handler, CONTENT)

    server.answer = answer
    assert resolve(data).path.read_bytes() == CONTENT
    assert server.asked == 2


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda h: Server.send(h, CONTENT[:-100], length=len(CONTENT)), "breaks off"),
        (lambda h: Server.send(h, CONTENT[:-100]), datasets.digest(CONTENT[:-100])),
        (lambda h: Server.send(h, CONTENT.replace(b"2", b"4")), "sha256:"),
        (lambda h: Server.send(h, b"<html>sign in</html>"), "(20 bytes)"),
        (lambda h: Server.send(h, b"", status=503), "status 503"),
        (lambda h: None, "ConnectionError"),
    ],
    ids=["truncated", "truncated, length too", "another", "sign in", "error", "silent"],
)
def test_a_bad_answer_never_counts(
    server: Server, cache: Path, answer: Callable[[Any], None], says: str
) -> None:
    server.answer = answer
    message = refusal(numbers(server.url))
    assert server.url in message
    assert says in message
    assert "put it into one of these folders" in message
    assert os.listdir(cache) == []  # nothing that a later run could take for the file
    server.answer = lambda handler: Server.send(handler, CONTENT)
    assert resolve(numbers(server.url)).path == cache / "numbers.csv"


def test_without_a_server_all_is_said_in_one_line(server: Server, cache: Path) -> None:
    server.close()
    message = refusal(numbers(f"{server.url}/numbers.csv"))
    for part in ("numbers.csv", f"{server.url}/numbers.csv", str(cache), "ConnectionError"):
        assert part in message
    assert "Traceback" not in message
    server.__init__()  # type: ignore[misc]  # for the fixture, which closes it


def test_a_folder_that_cannot_take_the_file_is_said(server: Server, cache: Path) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text("a file where the folder should be")
    assert f"{cache} cannot be written" in refusal(numbers(server.url))


def test_a_full_disk_leaves_nothing(server: Server, cache: Path, monkeypatch: Any) -> None:
    import errno

    def full(*words: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(datasets.os, "replace", full)
    assert "No space left on device" in refusal(numbers(server.url))
    assert os.listdir(cache) == []


# -- in a run ----------------------------------------------------------------------------------


@pytest.fixture
def counting_task(walk_task: Any, server: Server, monkeypatch: Any) -> Any:
    """The walk, which now counts the lines of a data set."""
    data = numbers(server.url)

    def count(work: Any) -> list[Trial]:
        lines = len(work.content("numbers").splitlines())
        assert work.dataset("numbers").read_bytes() == CONTENT
        for step in work.steps(3):
            work.log(step, x=lines, y=0.0)
        return [Trial(n, values={"distance": lines}) for n in work.trials]

    task = dataclasses.replace(
        walk_task,
        data=lambda settings: () if settings.sober else (data,),
        train=count,
        rows=lambda run: [datasets_row(run)],
        figures=None,
    )
    monkeypatch.setattr(registry, "_all", lambda: {"walk": task})
    return task


def datasets_row(run: Any) -> Any:
    from tasks.harness import Row

    return Row("lines", run.values("distance", "near")[0], note=run.data[0].file.name)


def test_a_run_reads_its_data_and_records_them(
    counting_task: Any, tasks_cli: Any, tmp_path: Path
) -> None:
    given = tmp_path / "given"
    given.mkdir()
    run = tasks_cli(f"run walk --json --no-plots --data {given}")
    assert run.code == 0, run.stderr
    assert run.json["rows"][0]["value"] == 1000
    for name in ("config.json", "result.json"):
        kept = json.loads((run.out / "walk-document" / name).read_text())["data"]
        assert kept == [
            {
                "name": "numbers",
                "file": "numbers.csv",
                "member": "",
                "hash": datasets.digest(CONTENT),
                "about": "a thousand lines",
                "citation": "Euclid, Elements VII",
            }
        ]


def test_show_names_the_data(counting_task: Any, tasks_cli: Any) -> None:
    shown = tasks_cli("show walk").stdout
    assert "Data: numbers, a thousand lines: numbers.csv. Euclid, Elements VII" in shown


def test_a_run_without_its_data_is_refused_before_it_begins(
    counting_task: Any, tasks_cli: Any, server: Server, tmp_path: Path
) -> None:
    server.answer = lambda handler: Server.send(handler, b"", status=404)
    refused = tasks_cli("run walk")
    assert refused.code == 2
    assert refused.stdout == ""
    fetching, line = refused.stderr.splitlines()
    assert fetching.startswith("fetching")
    assert line.startswith("tasks: data set numbers (a thousand lines) is missing")
    assert not refused.out.exists()
    (tmp_path / "numbers.csv").write_bytes(CONTENT[:-1])
    refused = tasks_cli(f"run walk --data {tmp_path}")
    assert (refused.code, refused.stderr.count("\n")) == (2, 1)
    assert refused.stderr.count("sha256:") == 2
    assert str(tmp_path / "numbers.csv") in refused.stderr


def test_other_data_are_another_run(
    counting_task: Any, tasks_cli: Any, monkeypatch: Any, server: Server
) -> None:
    assert tasks_cli("run walk --no-plots").code == 0
    other = dataclasses.replace(counting_task, data=lambda settings: ())
    monkeypatch.setattr(registry, "_all", lambda: {"walk": other})
    refused = tasks_cli("run walk --no-plots --resume")
    assert refused.code == 2
    assert f"data ['{datasets.digest(CONTENT)}'] there, [] here" in refused.stderr


def test_a_file_that_is_changed_in_the_middle_is_noticed(
    counting_task: Any, tmp_path: Path
) -> None:
    found = resolve(counting_task.data(counting_task.presets["document"])[0])
    unit = Unit(
        task="walk",
        settings=counting_task.presets["document"],
        variant="near",
        trials=(0,),
        seed=0,
        backend="numpy",
        data=(found,),
        folder=None,
        resume=False,
        save_every=10.0,
    )
    assert train_unit(unit).trials[0].values["distance"] == 1000
    found.path.write_bytes(CONTENT + b"\n")
    with pytest.raises(UsageError, match="is not the published"):
        train_unit(unit)


def test_a_worker_elsewhere_fetches_the_same_file(
    counting_task: Any, server: Server, cache: Path, tmp_path: Path
) -> None:
    [data] = counting_task.data(counting_task.presets["document"])
    other = File("other.csv", datasets.digest(b"x"), 1)
    found = Found(
        dataclasses.replace(data, files=(other, *data.files)),
        tmp_path / "a folder of the parent's machine" / "numbers.csv",
        data.files[0],
    )
    cache.mkdir(parents=True)
    (cache / "other.csv").write_bytes(b"x")  # accepted, but not the one that the run is about
    assert datasets.at_hand(found).path == cache / "numbers.csv"
    assert server.asked == 1


def test_a_data_set_nobody_asked_for_is_no_file(counting_task: Any) -> None:
    from tasks.work import Work

    with pytest.raises(KeyError, match="no data set 'numbers'"):
        Work(settings=None).dataset("numbers")
