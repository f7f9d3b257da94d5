"""Elman's network, which experiment 1 of the 1997 paper compares with.

    h_t = sigma(W x_t + U c_t)        c_t = a copy of h_(t-1)        y_t = sigma(V h_t)

The copy is an input like any other: error is propagated through U, V and W of the step it belongs
to, and no further (Elman 1990, "Finding structure in time", Cognitive Science 14). Cleeremans,
Servan-Schreiber and McClelland 1989, "Finite state automata and simple recurrent networks", Neural
Computation 1(3), had it learn the Reber grammar: 15 hidden units, 435 weights without biases.

That nothing goes back through the recurrent product is what a cell's `truncated` says, so
`recurrence.fit_online` trains it as it stands. W, U and V are called `weight_ih`, `weight_hh` and
`readout_weight` there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import microtensor as mt
from microtensor.recurrence import Cell, cell
from models.rtrl import Layered


@cell(gates=("a",), truncated=True)
def with_copied_context(a: Any) -> Any:
    """A logistic unit, h' = sigma(a), whose recurrent input counts as a constant."""
    return mt.sigmoid(a)


@dataclass(frozen=True, kw_only=True)
class Elman(Layered):
    """The network; see `models.rtrl.Layered`. The output units see the hidden ones only."""

    direct: bool = False

    @property
    def cell(self) -> Cell:
        """The hidden units, for `nn.Recurrent` and `recurrence.fit_online`."""
        return with_copied_context
