"""Which driver runs recurrent layers: all steps as one fused operation, or one by one."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Sequence
from contextvars import ContextVar, Token
from types import ModuleType, TracebackType
from typing import Any, overload

import numpy as np

from microtensor.capture import Captured, recording
from microtensor.capture import xp as captured
from microtensor.recurrence.drivers import arrays, compiled

DRIVERS = ("numba", "arrays", "steps")

_driver: ContextVar[str | None] = ContextVar("microtensor_recurrence_driver", default=None)
_told: list[Exception] = []  # why a cell is not compiled, of which there has been a warning


class _Choice:
    """A choice that has been made; as a context manager it ends with the block."""

    def __init__(self, token: Token[str | None]) -> None:
        self._token = token

    def __enter__(self) -> None:
        """Nothing is left to be done."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _driver.reset(self._token)


@overload
def driver() -> str: ...
@overload
def driver(name: str) -> _Choice: ...
def driver(name: str | None = None) -> str | _Choice:
    """Tell which driver runs recurrent layers, or choose: `driver("steps")`, also with `with`.

    "numba" and "arrays" compute all steps of a layer as one operation, which `mt.explain` shows as
    one node: "numba" in loops that Numba compiles when a cell is first used (a second or so; kept
    for later processes), "arrays" in calls of NumPy or CuPy. "steps" is the loop over the cell's
    equations, in plain operations: several times slower, and every contribution can be watched.
    All give the same numbers, to rounding.

    The default is what the environment variable MICROTENSOR_DRIVER says, or else "numba" where
    Numba can be imported and "arrays" where not. A choice belongs to the current thread or task.

    What the Numba driver cannot do runs on arrays: CuPy's arrays, and cells whose source Numba does
    not compile (of which there is a warning, once, if "numba" was chosen in so many words). The
    trials of a large stack run in two threads, unless NUMBA_NUM_THREADS is 1. Layers of modules,
    `GRU(reset="before")`, cells whose equations cannot be derived (see `Cell.source`) and numbers
    other than float32 and float64 always run step by step; so does everything under
    `detect_anomaly`, which then names the step's own operation.

    Raises
    ------
    ValueError
        If there is no driver of that name.
    ModuleNotFoundError
        If "numba" is chosen and Numba cannot be imported.
    """
    if name is None:
        noted = recording()
        if noted is not None:
            noted.watch(_current)
        return _current()
    return _Choice(_driver.set(_checked(name, "")))


def _current() -> str:
    return _driver.get() or _default()


def _checked(name: str, origin: str) -> str:
    if name not in DRIVERS:
        known = ", ".join(map(repr, DRIVERS))
        raise ValueError(f"unknown driver {name!r}{origin}; there are {known}")
    if name == "numba" and compiled.numba() is None:
        raise ModuleNotFoundError(
            f"the driver 'numba'{origin} needs Numba, which cannot be imported here: "
            "pip install microtensor[fast], or choose 'arrays'"
        )
    return name


def _default() -> str:
    chosen = os.environ.get("MICROTENSOR_DRIVER")
    if chosen:
        return _checked(chosen, " (MICROTENSOR_DRIVER)")
    return "arrays" if compiled.numba() is None else "numba"


def _compiling() -> Any:
    """The Numba driver, imported when it is first wanted."""
    return importlib.import_module("microtensor.recurrence.drivers.numba")


def _module(xp: Any, operands: Sequence[Any], call: arrays.Call) -> ModuleType:
    """What runs a call: the Numba driver, if it is wanted and can; noted, if it is."""
    if driver() != "numba" or xp is not np:
        return arrays
    loops = _compiling()
    if not loops.fits(operands, call):
        return arrays
    masked = call.mask is not None or call.valid is not None
    x, h = operands[0], operands[1]
    stacked = call.trials is not None
    error = loops.prepare(call.program, x.dtype, h.shape[-1], masked, stacked)
    if error is None:
        if call.kept is not None:
            call.kept["driver"] = loops
        return loops  # type: ignore[no-any-return]
    if _driver.get() == "numba" and error not in _told:
        _told.append(error)
        warnings.warn(
            f"Numba does not compile cell {call.program.cell.name}, which runs on arrays instead: "
            f"{type(error).__name__}: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
    return arrays


def _noting(noted: Any, run: Any) -> Any:
    """What runs a compiled pass, and notes it for a captured step (microtensor/capture.py)."""

    def noting(plan: Any, back: bool, given: Any, found: Any) -> None:
        given = [given[0], *[noted.in_rows(array) for array in given[1:]]]  # the first may lie so
        run(plan, back, given, found)
        if len(plan.shares) > 1:
            noted.compiled(run, (plan, back, given, found))
            return
        function = plan.backward if back else plan.forward
        arguments = plan.memory, plan.numbers, plan.moves, *given, *found, *plan.shares[0]
        noted.compiled(function, arguments)

    return noting


def forward(xp: Any, operands: tuple[Any, ...], call: arrays.Call) -> tuple[Any, arrays.Lease]:
    """All steps of a layer: (output, final state), and what `backward` will need."""
    noted = recording()
    module: Any
    if noted is not None and xp is captured:
        bare = tuple([array._array for array in operands])
        # Masks and lengths are the same in every step, or the step is refused.
        mask, valid = [
            value._array if value.__class__ is Captured else value
            for value in (call.mask, call.valid)
        ]
        call = call._replace(kept=None)
        plain = call._replace(mask=mask, valid=valid)
        module = _module(np, bare, plain)
        if module is not arrays:
            out, lease = module.forward(np, bare, plain, _noting(noted, module._run))
            noted.kept.append(lease)  # its memory is the step's
            return tuple([Captured(array) for array in out]), lease
    module = call.kept.get("driver") if call.kept else None
    if module is None:
        module = _module(xp, operands, call)
    found: tuple[Any, arrays.Lease] = module.forward(xp, operands, call)
    if noted is not None:
        noted.kept.append(found[1])
    return found


def backward(g: Any, needs: Any, operands: Any, lease: arrays.Lease, call: Any) -> list[Any]:
    """The gradients of a call, by the driver that has run it."""
    module: Any = arrays if isinstance(lease.plan, arrays.Plan) else _compiling()
    noted = recording()
    if noted is not None and module is not arrays and operands[0].__class__ is Captured:
        given = tuple([None if c is None else captured.ascontiguousarray(c)._array for c in g])
        bare = tuple([array._array for array in operands])
        run = _noting(noted, module._run)
        out = module.backward(given, needs, bare, lease, call, run)
        return [None if array is None else Captured(array) for array in out]
    found: list[Any] = module.backward(g, needs, operands, lease, call)
    return found
