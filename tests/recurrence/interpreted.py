"""The loops that are printed for Numba, run by Python: a register of lanes is a small NumPy array.

Nothing is compiled, so that every variant can be tried, also where Numba is not installed; and what
compiled code does not look at is looked at here: nothing is read or written beyond an array's end.
The text that runs is the text that is compiled, but for one import.
"""

import ctypes
import functools
import re
import sys
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from microtensor.recurrence.drivers import compiled, online_loops
from microtensor.recurrence.drivers import loops as printed
from microtensor.recurrence.drivers import numba as numba_driver

REGISTER = 32  # bytes
_kept = {"loops": {}, "online": {}, "modules": {}}  # what was printed and executed before


def _refused(value, kind):
    """Whether compiled code would not take an array for one of this kind, "float64[:, ::1]"."""
    dtype, _, axes = kind.partition("[")
    return (
        value.dtype != dtype
        or value.ndim != axes.count(",") + 1
        or not value.flags.writeable
        or ("::1" in axes and not value.flags.c_contiguous)
    )


def njit(signature, **options):
    """Numba's: no compilation, but arrays that do not fit the signature are refused as there."""
    kinds = re.findall(r"\w+(?:\[[^]]*\])?", signature.partition("(")[2])
    arrays = [(i, kind) for i, kind in enumerate(kinds) if "[" in kind]

    def decorate(function):
        @functools.wraps(function)
        def run(*arguments):
            assert len(arguments) == len(kinds)
            for i, kind in arrays:
                if _refused(arguments[i], kind):
                    raise TypeError(f"argument {i} is no {kind}")
            with np.errstate(all="ignore"):
                return function(*arguments)

        return run

    return decorate


def of(dtype, width):
    """`lanes.of`."""
    element = np.ctypeslib.as_ctypes_type(np.dtype(dtype))
    size = ctypes.sizeof(element)

    def load(array, i):
        assert array.dtype == dtype
        assert 0 <= i <= len(array) - width
        return array[i : i + width].copy()

    def store(array, i, lanes):
        assert array.dtype == lanes.dtype == dtype
        assert 0 <= i <= len(array) - width
        array[i : i + width] = lanes

    def spread(array, i):
        assert 0 <= i < len(array)
        return np.full(width, array[i])

    def peek(address, i):
        return element.from_address(int(address) + size * i).value

    def poke(address, i, number):
        element.from_address(int(address) + size * i).value = number

    return load, store, spread, lambda number: np.full(width, number, dtype), peek, poke


def _lanes():
    module = ModuleType("microtensor.recurrence.drivers.lanes")
    for name in (
        *("tanh", "exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "sign", "absolute"),
        *("maximum", "minimum", "where", "power", "logical_and", "logical_or", "logical_not"),
    ):
        setattr(module, name, getattr(np, name))
    module.sigmoid = lambda x: 1 / (1 + np.exp(-x))
    module.relu = lambda x: np.where(x < 0, x.dtype.type(0), x)
    module.clip = lambda x, low, high: np.minimum(np.maximum(x, low), high)
    module.stay_apart = lambda: None
    module.address_of = lambda array: array.ctypes.data if array.size else 0
    module.of = of
    return module


def _load(name, source, uses=()):
    """`compiled.load`."""
    found = _kept["modules"].get(source)
    if found is None:
        found = ModuleType(f"interpreted_{name}_{len(_kept['modules'])}")
        found.on_disk = False
        _kept["modules"][source] = sys.modules[found.__name__] = found
        # Addresses are counted on beyond the first element, which Python's integers can.
        text = source.replace("from numpy import uint64", "uint64 = int")
        exec(compile(text, f"<{found.__name__}>", "exec"), found.__dict__)
    return found


def _loops(program, general):
    key = program, general
    if key not in _kept["loops"]:
        _kept["loops"][key] = printed.Loops(program, general)
    return _kept["loops"][key]


@contextmanager
def interpreted():
    """The driver "numba" without Numba, for the length of a `with` block."""
    numba = ModuleType("numba")
    numba.njit = njit
    numba.config = SimpleNamespace(NUMBA_NUM_THREADS=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "numba", numba)
        patch.setitem(sys.modules, "microtensor.recurrence.drivers.lanes", _lanes())
        patch.setattr(compiled, "numba", lambda: numba)
        patch.setattr(compiled, "load", _load)
        patch.setattr(compiled, "register", lambda: REGISTER)
        patch.setattr(numba_driver, "_loops", _loops)
        patch.setattr(online_loops, "_modules", _kept["online"])
        yield
