"""Data sets: which file, where it lies or is fetched from, and that it is the right one.

An experiment names the data sets that it needs at given settings (`Task.data`). Before anything is
trained each is looked for in `--data DIR`, in the folder that the environment variable
MICROTENSOR_DATA names, and in the user's cache folder, in this order. A file that is nowhere is
fetched into `--data DIR` if that was given, else into the cache.

No file is used whose hash was not compared just before: not one that has lain there for a year, nor
one that has just been fetched. What is fetched gets its name only when it is whole and right.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tasks.console import say
from tasks.harness import UsageError

VARIABLE = "MICROTENSOR_DATA"
"""The environment variable that names a folder of data sets."""


@dataclass(frozen=True)
class File:
    """One file in which a data set may come.

    name : the file's name in a folder of data sets.
    digest : `sha256:HEX` or, where nobody published that, `git-blob:HEX`, the SHA-1 under which
        git keeps the content.
    size : bytes of what the digest is of.
    member : where the file is a zip archive, which file in it is meant: digest and size are its.
        How an archive was packed is nobody's concern.
    urls : where it can be fetched from, in order of preference; none if it cannot.
    about : what is particular about this file ("the first two years"), for config.json.
    """

    name: str
    digest: str
    size: int
    member: str = ""
    urls: tuple[str, ...] = ()
    about: str = ""


@dataclass(frozen=True)
class DataSet:
    """A data set that experiments read.

    name : what `work.dataset` is asked for.
    files : the files that are accepted, in order of preference within a folder. The first that has
        `urls` is the one to fetch.
    citation : whom to cite.
    about : what it is, in a few words ("50,000 film reviews").
    """

    name: str
    files: tuple[File, ...]
    citation: str
    about: str


@dataclass(frozen=True)
class Found:
    """A data set's file that is there, whole and right.

    data : which data set it is.
    path : where the file lies.
    file : which of the accepted files it is.
    """

    data: DataSet
    path: Path
    file: File

    @property
    def name(self) -> str:
        """The name of the data set."""
        return self.data.name

    def to_dict(self) -> dict[str, str]:
        """What config.json and result.json keep of it: nothing that depends on the machine."""
        return {
            "name": self.name,
            "file": self.path.name,
            "member": self.file.member,
            "hash": self.file.digest,
            "about": self.file.about or self.data.about,
            "citation": self.data.citation,
        }


class _Unusable(Exception):
    """What is wrong: with a file, the end of a sentence that begins with its name."""


def resolve(data: DataSet, folder: str | None = None) -> Found:
    """Find the data set's file, or fetch it.

    Parameters
    ----------
    data
        Which data set.
    folder
        What `--data` was given, or None.

    Raises
    ------
    UsageError
        One line: what is missing, from where it could not be fetched and where to put it; or which
        file is not what it should be.
    """
    folders = _folders(folder)
    for place in folders:
        for file in data.files:
            path = place / file.name
            if os.path.lexists(path):
                content(path, file)
                return Found(data, path, file)
    return _fetch(data, folders, folders[0] if folder else folders[-1])


def at_hand(found: Found) -> Found:
    """The file that was found, where it is to be read.

    A worker on another machine may not see the folder that it was found in: there the very same
    file, and no other, is looked for and fetched as `resolve` does without `--data`.

    Raises
    ------
    UsageError
        As `resolve`.
    """
    if os.path.lexists(found.path):
        return found
    return resolve(replace(found.data, files=(found.file,)))


def content(path: Path, file: File) -> bytes:
    """The file's content (of a zip archive, the member's), all of it and verified.

    Raises
    ------
    UsageError
        It cannot be read, or it is not the right one: one line, with both hashes.
    """
    try:
        return _content(path, file)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror or error}); make it readable or move it away"
        ) from error
    except _Unusable as error:
        advice = "it is fetched anew" if file.urls else "put the right one there"
        raise UsageError(f"{path} {error}; remove it and {advice}") from error


def digest(data: bytes, kind: str = "sha256") -> str:
    """The hash of some bytes as `KIND:HEX`; `kind` is "sha256" or "git-blob"."""
    if kind == "git-blob":
        head = b"blob %d\0" % len(data)
        return f"git-blob:{hashlib.sha1(head + data, usedforsecurity=False).hexdigest()}"
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _content(path: Path, file: File) -> bytes:
    got = path.read_bytes()
    name, had = file.name, digest(got)
    if file.member:
        name = file.member
        try:
            with zipfile.ZipFile(io.BytesIO(got)) as archive:
                got = archive.read(name)
        except (KeyError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise _Unusable(
                f"({had}) is no whole zip archive with {name} ({file.digest}) in it: "
                f"{str(error).strip(chr(39) + chr(34))}"
            ) from error
    ours = digest(got, file.digest.partition(":")[0])
    if ours != file.digest:
        raise _Unusable(
            f"is not the published {name}: {ours} ({len(got):,} bytes) is its hash, and not "
            f"{file.digest} ({file.size:,} bytes)"
        )
    return got


def _folders(folder: str | None) -> list[Path]:
    """Where to look, in order; the last is the cache."""
    named = os.environ.get(VARIABLE)
    if named and not os.path.isdir(named):
        raise UsageError(f"{VARIABLE}: there is no folder {named}; make it, or unset the variable")
    if importlib.util.find_spec("pooch") is None:
        raise UsageError(
            "data sets need pooch, which is not installed; the extra 'tasks' brings it: "
            "python -m pip install -e '.[tasks]'"
        )
    import pooch

    return [Path(place) for place in (folder, named, pooch.os_cache("microtensor")) if place]


def _fetch(data: DataSet, looked: Sequence[Path], target: Path) -> Found:
    names = " or ".join(file.name for file in data.files)
    missing = (
        f"data set {data.name} ({data.about}) is missing: no {names} in "
        f"{', '.join(map(str, looked))}"
    )
    put = f"put it into one of these folders, or name another by --data or {VARIABLE}"
    file = next((file for file in data.files if file.urls), None)
    if file is None:
        raise UsageError(f"{missing}, and there is nowhere to fetch it from; {put}")
    failed = []
    for url in file.urls:
        unpacked = " unpacked" if file.member else ""
        say(f"fetching {url} ({file.size / 1e6:.1f} MB{unpacked}) into {target}")
        try:
            target.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".fetching-", dir=target) as temporary:
                part = Path(temporary) / file.name
                _download(url, part)
                try:
                    _content(part, file)
                except _Unusable as error:
                    raise _Unusable(f"what it sends {error}") from error
                os.replace(part, target / file.name)
            return Found(data, target / file.name, file)
        except _Unusable as error:
            failed.append(f"{url} ({error})")
        except OSError as error:
            raise UsageError(
                f"{missing}, and {target} cannot be written ({error.strerror or error}); {put}"
            ) from error
    raise UsageError(f"{missing}, nor could it be fetched from {', '.join(failed)}; {put}")


def _download(url: str, path: Path) -> None:
    import pooch
    import requests

    try:
        pooch.HTTPDownloader(chunk_size=1 << 16)(url, str(path), None)
    except requests.HTTPError as error:
        raise _Unusable(f"it answers with status {error.response.status_code}") from error
    except requests.exceptions.ChunkedEncodingError as error:
        raise _Unusable("it breaks off before the end") from error
    except requests.RequestException as error:  # these are OSErrors, too
        raise _Unusable(f"no answer: {type(error).__name__}") from error
