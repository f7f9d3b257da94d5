"""Recurrent cells as equations: `cell` declares one, and the documents' cells are declared here.

`nn.Recurrent(cell, ...)` turns a cell into a layer. All steps of such a layer are one operation,
whose backward pass is derived from the equations by the engine itself (derivation.py); `driver`
tells and chooses how layers run.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from microtensor.recurrence.cell import Cell, cell
from microtensor.recurrence.cells import (
    gru,
    lstm,
    memory_cell,
    memory_cell_bptt,
    peephole_lstm,
    rnn_relu,
    rnn_tanh,
)
from microtensor.recurrence.driver import driver

if TYPE_CHECKING:
    from microtensor.recurrence.online import Errors, OnlineFit, Sequences, fit_online

__all__ = [
    "Cell",
    "Errors",
    "OnlineFit",
    "Sequences",
    "cell",
    "driver",
    "fit_online",
    "gru",
    "lstm",
    "memory_cell",
    "memory_cell_bptt",
    "peephole_lstm",
    "rnn_relu",
    "rnn_tanh",
]


def __getattr__(name: str) -> Any:
    """Online learning brings drivers of its own, so it is imported when first asked for."""
    if name in ("Errors", "OnlineFit", "Sequences", "fit_online"):
        return getattr(import_module("microtensor.recurrence.online"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
