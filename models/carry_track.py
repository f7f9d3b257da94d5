"""Document 002's sketch of a carry track: what the tutorial draws before it shows an LSTM.

    o_t = act(U_o h_(t-1) + W_o x_t + V_o c_(t-1) + b_o)
    i_t = act(U_i h_(t-1) + W_i x_t + b_i)          f_t and k_t the same way
    c_t = i_t k_t + f_t c_(t-1),    h_t = o_t

The document (after Chollet's book) writes these lines to say that a second track, the carry c,
runs past the network and is mixed into its output. It is a sketch and not the LSTM, whose output
gate *multiplies* what is read, h = sigma(o) tanh(c), and reads the new c. Here c is an ordinary
input of the output, one step late, through a full matrix V.

`act` stands for "activation" and is not said. Two readings are built: one function for all four
(tanh), word for word; and sigma for i and f, since they are called the input and forget "gates".

The product V c makes it no `recurrence.Cell` (whose recurrent vector is h alone), but a module
with a `step`, which `nn.Recurrent` runs as well.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

import microtensor as mt
from microtensor import nn


class CarryTrack(nn.Module):
    """One step of the sketch; sizes: B sequences, I inputs, H units.

    Parameters
    ----------
    input_size, hidden_size
        I and H.
    gate
        `mt.tanh`, the reading word for word, or `mt.sigmoid`: the activation of i and f.
    generator
        Where the weights are drawn from, uniform in ±1/√H as in the library's own layers.

    Attributes
    ----------
    weight_ih, weight_hh, bias
        (4H, I), (4H, H), (4H,), rows in the order o, i, f, k.
    weight_ch
        V_o, (H, H).
    """

    knows_trials = True

    GATES = ("o", "i", "f", "k")
    """The blocks of rows, in order."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        gate: Callable[[Any], Any] = mt.tanh,
        generator: mt.Generator | None = None,
    ) -> None:
        self.input_size, self.hidden_size, self.gate = input_size, hidden_size, gate
        shapes = {
            "weight_ih": (4 * hidden_size, input_size),
            "weight_hh": (4 * hidden_size, hidden_size),
            "bias": (4 * hidden_size,),
            "weight_ch": (hidden_size, hidden_size),
        }
        bound = 1 / math.sqrt(hidden_size)
        for name, shape in shapes.items():
            parameter = nn.Parameter(mt.tensor(np.zeros(shape, np.float32)))
            nn.init.uniform_(parameter, -bound, bound, generator)
            setattr(self, name, parameter)

    def initial_state(self, batch_size: int) -> tuple[mt.Tensor, mt.Tensor]:
        """Zeros for h and c, each (B, H); in a stack (K, B, H)."""
        trials = () if self.trials is None else (self.trials,)
        shape = (*trials, batch_size, self.hidden_size)
        return mt.zeros(shape, dtype=self.bias.dtype), mt.zeros(shape, dtype=self.bias.dtype)

    def step(self, x: mt.Tensor, state: tuple[mt.Tensor, mt.Tensor]) -> tuple[mt.Tensor, mt.Tensor]:
        """From x (B, I) and (h, c), each (B, H), to the new (h, c)."""
        h, c = state
        linear = functools.partial(nn.functional.linear, trials=self.trials)
        rows = linear(x, self.weight_ih, self.bias) + linear(h, self.weight_hh)
        o, i, f, k = mt.split(rows, 4, axis=-1)
        output = mt.tanh(o + linear(c, self.weight_ch))
        return output, self.gate(i) * mt.tanh(k) + self.gate(f) * c
