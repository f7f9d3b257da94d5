"""One network for every cell: a recurrent layer, and a linear reading of all its steps.

    h_t = cell(x_t, h_(t-1))        y_t = W h_t + b

Which cell is the only thing that `tasks/cells.py` changes, and with it the number of units, so that
the number of parameters stays.
"""

from __future__ import annotations

from typing import Any

import microtensor as mt
from microtensor import nn


class Reading(nn.Module):
    """A layer, time first, and its reading at every step.

    Parameters
    ----------
    layer
        A recurrent layer, time first.
    width, outputs
        Numbers a step of its output, and of the reading.
    generator
        Where the weights of the reading are drawn from.
    """

    knows_trials = True

    def __init__(
        self, layer: nn.Module, width: int, outputs: int, *, generator: mt.Generator
    ) -> None:
        self.layer = layer
        self.readout = nn.Linear(width, outputs, generator=generator)

    def forward(self, x: mt.Tensor, state: Any = None) -> tuple[mt.Tensor, Any]:
        """Map x (T, B, I) to the readings (T, B, O), and the state after them.

        `state` is what the call before returned; None stands for zeros.
        """
        states, state = self.layer(x, state)
        return self.readout(states), state
