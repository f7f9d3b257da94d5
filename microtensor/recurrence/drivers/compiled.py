"""Generated source, compiled by Numba once for each machine and kept on disk.

Numba's own cache wants a function to stand in a file. So generated source is written into the
user's cache folder, in a module whose name is a hash of the text and of everything else that the
machine code depends on; Numba keeps the machine code beside it. Folders that cannot be written and
files that are damaged cost time and nothing else: what is executed is the text at hand, never the
text of the file.

The folder is `MICROTENSOR_CACHE`, or `microtensor` in the platform's place for such things
(~/.cache, ~/Library/Caches, %LOCALAPPDATA%). It may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import sys
from _thread import RLock  # as functools does: threading takes longer to import
from collections.abc import Iterable
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

_loaded: dict[str, ModuleType] = {}  # by the name of the module
_lock = RLock()  # two threads that want the same source compile it once
_numba: Any = None  # the package; False where it cannot be imported


def numba() -> Any:
    """The package `numba`, imported when first asked for; None where that is not possible."""
    global _numba
    if _numba is None:
        try:
            import numba as found

            _numba = found
        except Exception:  # not installed, or not made for this NumPy or Python
            _numba = False
    return _numba or None


@cache
def register() -> int:
    """Bytes of a vector register of this machine."""
    from llvmlite import binding

    return 64 if binding.get_host_cpu_features().get("avx512f") else 32


def folder() -> str:
    """Where generated modules are kept."""
    chosen = os.environ.get("MICROTENSOR_CACHE")
    if chosen:
        return chosen
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return os.path.join(os.path.expanduser(base), "microtensor")


def load(name: str, source: str, uses: Iterable[ModuleType] = ()) -> ModuleType:
    """The module of a generated source, compiled, from the folder if it has been there before.

    Parameters
    ----------
    name
        What the source is about, for people who look into the folder: an identifier.
    source
        The text of a module. It finds a variable `on_disk` and passes it on:
        `@njit(signature, cache=on_disk)`. With a signature a function is compiled when the module
        is loaded, so that whatever goes wrong goes wrong here.
    uses
        Modules of microtensor that the source imports; if one changes, it is compiled again.

    Raises
    ------
    ModuleNotFoundError
        If Numba cannot be imported.
    Exception
        Whatever Numba raises if it cannot compile the source.
    """
    package = numba()
    if package is None:
        raise ModuleNotFoundError("Numba cannot be imported: pip install microtensor[fast]")
    full = f"microtensor_{name}_{_hash(package, source, uses)}"
    with _lock:
        if full not in _loaded:
            _loaded[full] = _load(package, full, source)
        return _loaded[full]


def _hash(package: Any, source: str, uses: Iterable[ModuleType]) -> str:
    import llvmlite
    from llvmlite import binding

    microtensor = sys.modules["microtensor"]
    parts = [
        *(source, microtensor.__version__, package.__version__, llvmlite.__version__),
        *(np.__version__, sys.version, binding.get_host_cpu_name()),
        *[inspect.getsource(module) for module in uses],
    ]
    sha256 = importlib.import_module("hashlib").sha256  # importing microtensor takes long enough
    found: str = sha256("\0".join(parts).encode()).hexdigest()[:20]
    return found


def _load(package: Any, full: str, source: str) -> ModuleType:
    path = os.path.join(folder(), f"{full}.py")
    if _write(path, source):
        for _ in range(2):
            try:
                return _run(full, source, path, on_disk=True)
            except package.errors.NumbaError:
                raise  # the source itself cannot be compiled
            except Exception:  # machine code that cannot be read, or not be written
                _forget(path)
    return _run(full, source, f"<{full}>", on_disk=False)


def _run(full: str, source: str, path: str, on_disk: bool) -> ModuleType:
    """A module whose text has been executed; Numba looks for it under its name."""
    module = ModuleType(full)
    module.__file__ = path
    module.__dict__["on_disk"] = on_disk
    sys.modules[full] = module
    try:
        exec(compile(source, path, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[full]
        raise
    return module


def _write(path: str, source: str) -> bool:
    """Put the text into its file unless it is there; whether it is there now.

    Written beside the file and then renamed: another process sees the whole text or none. Numba
    takes code for old when the text's time has changed, so all copies get the same time.
    """
    data = source.encode()
    beside = f"{path}.{os.getpid()}.new"
    try:
        if os.path.exists(path):
            with open(path, "rb") as file:
                if file.read() == data:
                    return True
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(beside, "wb") as file:
            file.write(data)
        os.utime(beside, (1e9, 1e9))
        os.replace(beside, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        return False
    return True


def _forget(path: str) -> None:
    """Remove what Numba keeps of a module."""
    kept = os.path.join(os.path.dirname(path), "__pycache__")
    stem = os.path.basename(path).removesuffix("py")
    with contextlib.suppress(OSError):
        for name in os.listdir(kept):
            if name.startswith(stem):
                os.unlink(os.path.join(kept, name))
