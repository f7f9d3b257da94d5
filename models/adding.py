"""The network of the adding problem: a recurrent layer, and one number read off its last step.

    h_1 … h_T = layer(x_1 … x_T)
    y = w · h_T + b                 linear output
    y = sigma(w · h_T + b)          logistic output, as the paper's text has it

The paper (Hochreiter and Schmidhuber 1997, experiment 4) uses a logistic output unit. Its targets,
0.5 + (X1 + X2) / 4, fill the whole of (0, 1), whose ends a logistic unit reaches with infinite
weights only.
"""

from __future__ import annotations

import numpy as np

import microtensor as mt
from microtensor import nn


class Adding(nn.Module):
    """A layer over pairs (value, marker), and its reading.

    Parameters
    ----------
    layer
        A recurrent layer, time first, that reads two numbers a step.
    width
        Numbers a step of its output.
    logistic
        Whether the output unit is logistic; else linear.
    generator
        Where the weights of the output unit are drawn from.
    """

    knows_trials = True

    def __init__(
        self, layer: nn.Module, width: int, *, logistic: bool = False, generator: mt.Generator
    ) -> None:
        self.layer = layer
        self.readout = nn.Linear(width, 1, generator=generator)
        self.logistic = logistic

    def forward(self, x: mt.Tensor, lengths: np.ndarray) -> mt.Tensor:
        """From x (T, B, 2) and each sequence's number of steps (B,) to the answers (B,).

        Each shape has a leading K in a stack of K trials.

        What stands behind a sequence's end is run over and never read: the layer sees the past
        only, so it changes nothing.
        """
        states, _ = self.layer(x)
        *trials, sequences = np.indices(lengths.shape, sparse=True)
        last = states[(*trials, lengths - 1, sequences)]
        answer = self.readout(last)[..., 0]
        return mt.sigmoid(answer) if self.logistic else answer
