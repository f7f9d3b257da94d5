"""Which driver runs recurrent layers: all steps as one fused operation, or one by one."""

from __future__ import annotations

from contextvars import ContextVar, Token
from types import TracebackType
from typing import overload

DRIVERS = ("arrays", "steps")

_driver: ContextVar[str] = ContextVar("microtensor_recurrence_driver", default="arrays")


class _Choice:
    """A choice that has been made; as a context manager it ends with the block."""

    def __init__(self, token: Token[str]) -> None:
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

    "arrays", the default, computes all steps of a layer as one operation, which `mt.explain` shows
    as one node. "steps" is the loop over the cell's equations, in plain operations: several times
    slower, and every contribution can be watched. Both give the same numbers, to rounding. The
    choice belongs to the current thread or task.

    Layers of modules, `GRU(reset="before")`, cells whose equations cannot be derived (see
    `Cell.source`) and numbers other than float32 and float64 always run step by step; so does
    everything under `detect_anomaly`, which then names the step's own operation.

    Raises
    ------
    ValueError
        If there is no driver of that name.
    """
    if name is None:
        return _driver.get()
    if name not in DRIVERS:
        raise ValueError(f"unknown driver {name!r}; there are {', '.join(map(repr, DRIVERS))}")
    return _Choice(_driver.set(name))
