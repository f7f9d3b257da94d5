"""Saving and loading named tensors: safetensors files, written atomically, checked when read.

A file holds tensors by name and metadata, nothing that could run: there is no pickle anywhere.

    mt.save("model.safetensors", model.state_dict(), {"epoch": 3})

    state = mt.load("model.safetensors")      # a dict: name -> Tensor
    state.metadata["epoch"]                   # 3
    model.load_state_dict(state)

The format is `safetensors <https://huggingface.co/docs/safetensors>`_: eight bytes with the length
of the header, the header as JSON (type, shape and place of every tensor), then the tensors' bytes.
Any other reader of the format reads these files, and files of other writers load here.

Three things are added to what the ``safetensors`` library does by itself.

- *Arrays are made contiguous first.* Version 0.8.0 of the library writes the wrong numbers, without
  a word, for a transposed or strided array (safetensors issue 825).
- *The same content gives the same bytes.* The library writes metadata in random order; here the
  header is written again with its keys sorted.
- *A checksum.* The format notices a file that is too short, but not a number that has changed. One
  metadata entry, ``"microtensor"``, holds the CRC-32 of header and numbers, and `load` compares it.
  Files of other writers have none, and load without that check.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from microtensor import backend as backends
from microtensor.tensor import Tensor

__all__ = ["LoadError", "SavedTensors", "load", "save"]

# What the format calls the types that both it and NumPy have and that tensors are made of.
_DTYPES = {
    "BOOL": "bool",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
}
TEMPORARY = ".microtensor-*.tmp"
"""What the temporary files of `write_atomically` are called, as a pattern."""

_METADATA = "__metadata__"  # the format's own name for the metadata entry of the header
_OURS = "microtensor"  # the one metadata entry that is ours: checksum, and which values are JSON


class LoadError(OSError):
    """A file could not be loaded: missing, cut short, corrupted, or not a safetensors file.

    The message names the file and says what is wrong with it. Nothing has been loaded: `load`
    reads and checks the whole file before it makes the first tensor.
    """


class SavedTensors(dict[str, Tensor]):
    """What `load` returns: a dictionary of tensors by name, in alphabetical order of the names.

    Attributes
    ----------
    metadata
        What was given to `save` as ``metadata``; of a file by another writer, its strings.
    """

    def __init__(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        super().__init__(tensors)
        self.metadata: dict[str, Any] = dict(metadata)


def save(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Any],
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write named tensors, and metadata about them, to one safetensors file.

    The file is written beside its final place under a temporary name, forced to the disk, then
    renamed: whoever reads ``path`` sees the old file or the new one, whole, even if the power fails
    in between. The same tensors and metadata give the same bytes, on every machine.

    Parameters
    ----------
    path
        The file to write, by custom ``NAME.safetensors``. Its folder must exist.
    tensors
        Name -> tensor or array, of any shape, strides and backend. Booleans, integers and float16,
        float32, float64 keep their type; gradients are not saved.
    metadata
        Name -> string, or whatever JSON can say: numbers, booleans, ``None``, lists and
        dictionaries with string keys, nested (tuples come back as lists). Strings are stored as
        they are, everything else as JSON text.

    Raises
    ------
    TypeError
        A value that is neither a tensor nor an array, a type that the format lacks, a name that is
        not a string, metadata that JSON cannot say.
    ValueError
        A name that is reserved, a NaN or an infinity in the metadata.
    OSError
        The file cannot be written; what stood at ``path`` before is untouched.
    """
    target = os.path.realpath(os.fspath(path))
    content = _encode(_host_arrays(tensors), dict(metadata or {}))
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"cannot save {path}: there is no folder {folder}; make it first")
    if os.path.isdir(target):
        raise IsADirectoryError(f"cannot save {path}: it is a folder; name a file in it")
    write_atomically(target, content)


def load(path: str | os.PathLike[str], *, backend: str | None = None) -> SavedTensors:
    """Read a safetensors file that `save` or any other program has written.

    The whole file is read and checked first: a file that is damaged loads not at all rather than
    in part.

    Parameters
    ----------
    path
        The file to read.
    backend
        Where the tensors go, ``"numpy"`` or ``"cupy"``; by default where new tensors live (see
        `use_backend`).

    Returns
    -------
    SavedTensors
        A dictionary, name -> `Tensor` that asks for no gradient, with the metadata as
        ``.metadata``. Each tensor owns its memory; nothing refers to the file any more.

    Raises
    ------
    LoadError
        The file is missing, a folder, unreadable, empty, cut short, corrupted, not in the
        safetensors format, or holds a type that NumPy lacks (bfloat16, 8-bit floats).
    ValueError, RuntimeError
        An unknown backend, or CuPy without a GPU.
    """
    home = backends.default() if backend is None else backends.get(backend)
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        reason = error.strerror or str(error)
        raise LoadError(f"cannot load {os.fspath(path)}: {reason}") from error
    try:
        arrays, metadata = _decode(content)
    except _Damaged as error:
        raise LoadError(f"cannot load {os.fspath(path)}: {error}") from error.__cause__
    tensors = {name: Tensor(home.from_host(arrays[name])) for name in sorted(arrays)}
    return SavedTensors(tensors, metadata)


# -- to bytes ---------------------------------------------------------------------------------


def _host_arrays(tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Every value as a contiguous NumPy array of a type that the format has."""
    arrays = {}
    for name, value in tensors.items():
        _check_name(name, "a tensor's name")
        data = value.data if isinstance(value, Tensor) else value
        home = backends.of(data)
        if home is None:
            raise TypeError(
                f"cannot save {name!r}: it is a {type(value).__name__}, not a tensor or an array; "
                "wrap numbers and lists in mt.tensor(...), or pass them as metadata"
            )
        host = home.to_host(data)
        if host.dtype.name not in _DTYPES.values():
            raise TypeError(
                f"cannot save {name!r}: its type {host.dtype} has no place in the format; "
                "convert it with .astype(...) to a boolean, integer or float type first"
            )
        # asarray, not ascontiguousarray: that one turns a 0-d array into one of shape (1,).
        arrays[name] = np.asarray(host, order="C")
    return arrays


def _encode(arrays: dict[str, np.ndarray], metadata: dict[str, Any]) -> bytes:
    """The whole file: the library lays it out, then its header is sorted and the checksum added."""
    from safetensors.numpy import save as lay_out

    texts, as_json = {}, []
    for name, value in metadata.items():
        _check_name(name, "a metadata name")
        if isinstance(value, str):
            _check_encodable(value, f"metadata {name!r}")
            texts[name] = value
        else:
            texts[name] = _json(_plain(value, f"metadata {name!r}"))
            as_json.append(name)

    header, payload = _split(lay_out(arrays, texts or None))
    header.setdefault(_METADATA, {})
    ours = {"json": sorted(as_json)}
    header[_METADATA][_OURS] = _json(ours)
    header[_METADATA][_OURS] = _json({**ours, "crc32": _checksum(header, payload)})
    text = _json(header).encode()
    text += b" " * (-len(text) % 8)  # the format asks that the numbers start at a multiple of 8
    return len(text).to_bytes(8, "little") + text + payload


def _plain(value: Any, where: str) -> Any:
    """`value` if JSON can say it and give it back (tuples as lists); an error that says where."""
    match value:
        case None | bool() | int():
            return value
        case str():
            return _check_encodable(value, where)
        case float():
            if value != value or value in (float("inf"), float("-inf")):
                raise ValueError(f"cannot save {where}: JSON has no {value}; pass a string or None")
            return value
        case list() | tuple():
            return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
        case dict():
            for key in value:
                if not isinstance(key, str):
                    raise TypeError(
                        f"cannot save {where}: its key {key!r} is not a string, and JSON would "
                        "silently make it one; use str(key)"
                    )
                _check_encodable(key, where)
            return {key: _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    raise TypeError(
        f"cannot save {where}: JSON has no {type(value).__name__}; use plain Python numbers, "
        "strings, lists and dictionaries (arrays belong among the tensors)"
    )


def _check_name(name: object, what: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"cannot save: {what} must be a string, not {name!r}")
    if name in (_METADATA, _OURS):
        raise ValueError(f"cannot save: {name!r} is reserved in this format; choose another name")
    _check_encodable(name, what)


def _check_encodable(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"cannot save {where}: {text!r} is not valid Unicode text") from None
    return text


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file so that whoever reads it sees the old content or the new one, whole.

    Temporary file in the same folder (`TEMPORARY`), fsync, rename, fsync of the folder.

    Raises
    ------
    OSError
        With the path as its `filename`; what stood there before is untouched, and no temporary
        file is left.
    """
    target = os.path.realpath(os.fspath(path))
    try:
        _write_beside_and_rename(target, content)
    except OSError as error:
        error.filename = os.fspath(path)  # a full disk names no file by itself
        raise


def _write_beside_and_rename(target: str, content: bytes) -> None:
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, TEMPORARY.replace("*", os.urandom(8).hex()))
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise
    if os.name == "posix":  # elsewhere a folder cannot be opened, and the rename itself is durable
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# -- from bytes -------------------------------------------------------------------------------


class _Damaged(Exception):
    """What is wrong with the content; `load` adds the name of the file."""


def _decode(content: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All arrays and the metadata of a file's content, every one of them checked."""
    from safetensors import SafetensorError, deserialize

    if not content:
        raise _Damaged("the file is empty")
    try:
        entries = deserialize(content)  # checks lengths, types, shapes and that nothing is missing
        header, payload = _split(content)
    except (SafetensorError, ValueError) as error:
        raise _Damaged(f"it is cut short, corrupted, or no safetensors file ({error})") from error

    texts = header.get(_METADATA) or {}
    metadata = _checked_metadata(header, payload) if _OURS in texts else texts
    arrays = {}
    for name, entry in entries:
        if entry["dtype"] not in _DTYPES:
            raise _Damaged(
                f"tensor {name!r} is of type {entry['dtype']}, which NumPy lacks; convert it to "
                "float32 with the program that wrote it"
            )
        dtype = np.dtype(_DTYPES[entry["dtype"]]).newbyteorder("<")
        stored = np.ndarray(tuple(entry["shape"]), dtype, buffer=bytearray(entry["data"]))
        arrays[name] = stored.astype(dtype.newbyteorder("="), copy=False)
    return arrays, metadata


def _checked_metadata(header: dict[str, Any], payload: memoryview) -> dict[str, Any]:
    """The metadata that was given to `save`, after the checksum has been compared."""
    texts = dict(header[_METADATA])
    try:
        ours = json.loads(texts.pop(_OURS))
        stored = ours.pop("crc32")
        unsigned = {**header, _METADATA: {**texts, _OURS: _json(ours)}}
        if stored != _checksum(unsigned, payload):
            raise _Damaged("it is corrupted: its content does not match the checksum in it")
        return {
            name: json.loads(text) if name in ours["json"] else text for name, text in texts.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _Damaged(f"it is corrupted: its {_OURS!r} entry is unreadable ({error})") from error


# -- both ways --------------------------------------------------------------------------------


def _split(content: bytes) -> tuple[dict[str, Any], memoryview]:
    """The header, read, and the bytes of the tensors behind it."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), memoryview(content)[end:]


def _json(value: Any) -> str:
    """One spelling for each value: sorted keys, no spaces, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def _checksum(header: dict[str, Any], payload: memoryview) -> str:
    """CRC-32 of the header without the checksum itself, then of all numbers; eight hex digits."""
    return f"{zlib.crc32(payload, zlib.crc32(_json(header).encode())):08x}"
