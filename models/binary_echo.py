"""The recurrent network of document 001, built in three ways.

    s_t = tanh([x_t ; s_(t-1)] W + b)          W (2 + H, H), b (H,)
    logits_t = s_t U + b_out                    U (H, 2), b_out (2,)

The document's text prints the bias outside the tanh; its code, meant here, adds it inside.
The input is one-hot over {0, 1}, and the softmax over the two logits predicts the echoed symbol.

The document writes the cell by hand, then replaces it by TensorFlow's `static_rnn` and
`dynamic_rnn` and says that nothing changes. The three classes below are those three stages.
They hold the same numbers, start from the same `Weights`, and must give the same curve.

Shapes: `x` is `(T, B, 2)`, `state` `(B, H)`, `logits` `(T, B, 2)`; with a leading K in a stack of K
trials.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

import microtensor as mt
from microtensor import nn


class Weights(NamedTuple):
    """The starting point that all three builds share, in the document's layout."""

    kernel: np.ndarray  # W, (2 + H, H)
    bias: np.ndarray  # b, (H,)
    readout: np.ndarray  # U, (H, 2)
    readout_bias: np.ndarray  # b_out, (2,)


def initial_weights(generator: mt.Generator, hidden_size: int, dtype: str = "float32") -> Weights:
    """Draw weights as TensorFlow 1's `get_variable` does: Glorot uniform, biases zero.

    Glorot's limit `sqrt(6 / (rows + columns))` is taken over the whole concatenated kernel,
    not over its input and recurrent parts one by one.
    """

    def glorot(rows: int, columns: int) -> np.ndarray:
        limit = math.sqrt(6.0 / (rows + columns))
        return generator.uniform(-limit, limit, (rows, columns), dtype)

    return Weights(
        glorot(2 + hidden_size, hidden_size),
        np.zeros(hidden_size, dtype),
        glorot(hidden_size, 2),
        np.zeros(2, dtype),
    )


class EchoByHand(nn.Module):
    """The hand-written cell: one kernel for the concatenation of input and state."""

    knows_trials = True

    def __init__(self, weights: Weights) -> None:
        self.kernel = nn.Parameter(mt.tensor(weights.kernel))
        self.bias = nn.Parameter(mt.tensor(weights.bias))
        self.readout = nn.Parameter(mt.tensor(weights.readout))
        self.readout_bias = nn.Parameter(mt.tensor(weights.readout_bias))

    def forward(self, x: mt.Tensor, state: mt.Tensor) -> tuple[mt.Tensor, mt.Tensor]:
        """Return the logits `(T, B, 2)` and the last state `(B, H)`."""
        bias, readout_bias = mt.expand_dims(self.bias, -2), mt.expand_dims(self.readout_bias, -2)
        logits = []
        for x_t in mt.unstack(x, axis=-3):
            state = mt.tanh(mt.concatenate([x_t, state], axis=-1) @ self.kernel + bias)
            logits.append(state @ self.readout + readout_bias)
        return mt.stack(logits, axis=-3), state


class EchoStatic(nn.Module):
    """The static unrolling: the library's cell, written out once for every step of the window."""

    knows_trials = True

    def __init__(self, weights: Weights) -> None:
        hidden_size, dtype = weights.bias.size, weights.bias.dtype
        self.cell = nn.RNNCell(2, hidden_size, bias="single", dtype=dtype)
        self.readout = nn.Linear(hidden_size, 2, dtype=dtype)
        self.load_state_dict(_torch_layout(weights, "cell.", ""))

    def forward(self, x: mt.Tensor, state: mt.Tensor) -> tuple[mt.Tensor, mt.Tensor]:
        """Return the logits `(T, B, 2)` and the last state `(B, H)`."""
        states = []
        for x_t in mt.unstack(x, axis=-3):
            state = self.cell(x_t, state)
            states.append(state)
        return self.readout(mt.stack(states, axis=-3)), state


class EchoLayer(nn.Module):
    """The dynamic recurrence: one layer that runs over however many steps it is given."""

    knows_trials = True

    def __init__(self, weights: Weights) -> None:
        hidden_size, dtype = weights.bias.size, weights.bias.dtype
        self.rnn = nn.RNN(2, hidden_size, bias="single", dtype=dtype)
        self.readout = nn.Linear(hidden_size, 2, dtype=dtype)
        self.load_state_dict(_torch_layout(weights, "rnn.", "_l0"))

    def forward(self, x: mt.Tensor, state: mt.Tensor) -> tuple[mt.Tensor, mt.Tensor]:
        """Return the logits `(T, B, 2)` and the last state `(B, H)`."""
        states, last = self.rnn(x, mt.expand_dims(state, -3))
        return self.readout(states), mt.squeeze(last, -3)


def _torch_layout(weights: Weights, prefix: str, suffix: str) -> dict[str, np.ndarray]:
    """Split the concatenated kernel and transpose everything to PyTorch's (out, in)."""
    return {
        f"{prefix}weight_ih{suffix}": weights.kernel[:2].T,
        f"{prefix}weight_hh{suffix}": weights.kernel[2:].T,
        f"{prefix}bias_ih{suffix}": weights.bias,
        "readout.weight": weights.readout.T,
        "readout.bias": weights.readout_bias,
    }


BUILDS = {"by hand": EchoByHand, "static": EchoStatic, "layer": EchoLayer}
