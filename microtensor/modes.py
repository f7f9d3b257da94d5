"""What is switched on: recording, the search for anomalies, an observer of the backward pass.

The switches are context-local: threads and tasks do not disturb one another, and a switch is put
back when its block ends, also by an exception.
"""

from __future__ import annotations

from contextlib import ContextDecorator
from contextvars import ContextVar, Token
from typing import Any, NamedTuple


class Mode(NamedTuple):
    """The state of all switches."""

    recording: bool = True
    anomaly: bool = False
    observer: Any = None


current: ContextVar[Mode] = ContextVar("microtensor_mode", default=Mode())  # noqa: B039 (immutable)


# What is being noted by `mt.capture`: a capture.Recording.
noting: ContextVar[Any] = ContextVar("microtensor_noting", default=None)


class _Switch(ContextDecorator):
    """A context manager, and decorator, that sets some switches and puts them back."""

    def __init__(self, **changes: Any) -> None:
        self._changes = changes
        self._tokens: list[Token[Mode]] = []

    def _recreate_cm(self) -> _Switch:
        return _Switch(**self._changes)  # a decorated function may run in several threads

    def __enter__(self) -> None:
        self._tokens.append(current.set(current.get()._replace(**self._changes)))

    def __exit__(self, *exception: object) -> None:
        current.reset(self._tokens.pop())


def no_grad() -> _Switch:
    """`with no_grad():` operations inside are not recorded; their results need no gradient."""
    return _Switch(recording=False)


def enable_grad() -> _Switch:
    """`with enable_grad():` records again inside a `no_grad` block."""
    return _Switch(recording=True)


def is_grad_enabled() -> bool:
    """Whether operations are being recorded here."""
    return current.get().recording


def detect_anomaly() -> _Switch:
    """`with detect_anomaly():` stop at the operation that first makes a NaN or an infinity.

    Inside the block every result of an operation on tensors, and every contribution of a backward
    pass, is checked; the first bad one raises `AnomalyError`, which names the operation and the
    user's line. Results made outside the block are named by the line that called the operation,
    which may lie in the library. Slow: for finding a fault, not for training.
    """
    return _Switch(anomaly=True)


def observing(observer: Any) -> _Switch:
    """Let `observer` watch the backward passes inside the block (`mt.explain` is built on this).

    `observer.visit(node, cotangent)` is called when a node's turn comes, then
    `observer.contribution(node, i, place, raw, fitted, total)` for each argument that needs one:
    what the rule returned, the same brought to the argument's shape, and the running sum.
    """
    return _Switch(observer=observer)
