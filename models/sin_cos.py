"""The network of document 000 that turns a sine into a cosine.

    u_t = w_in x_t + b_in                                   (10 numbers from 1)
    h_t, c_t = LSTM(u_t, h_(t-1), c_(t-1))                  (10 cells)
    y_t = w_out · h_t + b_out                               (1 number from 10)

871 parameters: 10 + 10 into the cell, 20·40 + 40 in it, 10 + 1 out of it. The document retells
Morvan Zhou's TensorFlow 1 program, and these of TensorFlow 1's habits decide how it starts:

- `BasicLSTMCell` has one kernel of shape (10 + 10, 40) for input and state together, and one bias:
  hence `bias="single"`. The kernel is Glorot uniform over that whole shape, so its limit is
  √(6 / (20 + 40)), not a limit for each gate.
- Its bias starts at zero, and the forget gate adds `forget_bias` = 1 at every step. A bias that
  starts at 1 is the same function with the same gradient, so that is where it is put here. (The
  order of the gates is i, j, f, o there and i, f, g, o here; weights drawn alike do not mind.)
- The two linear layers draw their weights from N(0, 1), much wider than today's defaults, and start
  their biases at 0.1, as the program asks.
- `AdamOptimizer` has the ε of 1e-8 that `mt.optim.Adam` has, but adds it before the bias correction
  instead of after: at a learning rate of 0.006 the difference is far below the rounding of float32.
"""

from __future__ import annotations

import math
from typing import Any

import microtensor as mt
from microtensor import nn

State = tuple[mt.Tensor, mt.Tensor]
"""(h, c) of the LSTM, each of shape (1, batch, hidden size)."""


class SinCos(nn.Module):
    """Linear layer, LSTM, linear layer, applied to every step of a sequence.

    Parameters
    ----------
    hidden_size
        Cells of the LSTM, and width of the layer before it; the document has 10.
    generator
        Where the weights are drawn from.
    """

    knows_trials = True

    def __init__(self, hidden_size: int = 10, *, generator: mt.Generator) -> None:
        self.linear_in = nn.Linear(1, hidden_size, generator=generator)
        self.lstm = nn.LSTM(
            hidden_size, hidden_size, bias="single", batch_first=True, generator=generator
        )
        self.linear_out = nn.Linear(hidden_size, 1, generator=generator)
        for linear in (self.linear_in, self.linear_out):
            nn.init.normal_(linear.weight, 0.0, 1.0, generator)
            nn.init.constant_(linear.bias, 0.1)
        limit = math.sqrt(6 / (2 * hidden_size + 4 * hidden_size))
        for weight in (self.lstm.weight_ih_l0, self.lstm.weight_hh_l0):
            nn.init.uniform_(weight, -limit, limit, generator)
        nn.init.zeros_(self.lstm.bias_ih_l0)
        with mt.no_grad():
            self.lstm.bias_ih_l0[hidden_size : 2 * hidden_size] = 1.0  # rows of the forget gate

    def forward(self, x: mt.Tensor, state: State | None = None) -> tuple[mt.Tensor, Any]:
        """Map x of shape (batch, steps, 1) to the outputs, same shape, and the state after them.

        `state` is what the call before returned; None stands for zeros.
        """
        hidden, state = self.lstm(self.linear_in(x), state)
        return self.linear_out(hidden), state
