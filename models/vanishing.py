"""The networks that show what becomes of a gradient on its long way back.

Three kinds, all of the library's own cells:

- `first_cells`: single-step cells as libraries start them, whose gradients are followed before any
  training;
- `logistic`: the conventional network that the 1997 paper analyses, h' = sigma(a);
- `StoryReader`: reads a story word by word and says at its end which dish was cooked,

      x_t = embedding[word_t]                        (16 numbers a word)
      h_t = cell(x_t, h_(t-1))                       (RNN, LSTM or GRU)
      logits = W h_T + b                             (one a dish)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import microtensor as mt
from microtensor import nn
from microtensor.recurrence import cell

EMBEDDING = 16
"""Numbers a word is turned into."""


@cell(gates=("a",))
def logistic(a: mt.Tensor) -> mt.Tensor:
    """The unit of conventional nets in Hochreiter and Schmidhuber 1997: h' = sigma(a)."""
    return mt.sigmoid(a)


def rnn_cell(size: int, generator: mt.Generator) -> nn.RNNCell:
    """A simple cell with PyTorch's first weights: all uniform in ±1/√size."""
    return nn.RNNCell(size, size, dtype="float64", generator=generator)


def orthogonal_rnn_cell(size: int, generator: mt.Generator) -> nn.RNNCell:
    """A simple cell with Keras' first weights: Glorot, orthogonal, zero biases."""
    found = nn.RNNCell(size, size, bias="single", dtype="float64", generator=generator)
    nn.init.xavier_uniform_(found.weight_ih, generator=generator)
    nn.init.orthogonal_(found.weight_hh, generator=generator)
    nn.init.zeros_(found.bias_ih)
    return found


def lstm_cell(size: int, generator: mt.Generator, forget_bias: float = 0.0) -> nn.LSTMCell:
    """An LSTM cell with PyTorch's first weights, `forget_bias` added to the forget gate's bias."""
    found = nn.LSTMCell(size, size, bias="single", dtype="float64", generator=generator)
    add_to_bias(found.bias_ih, 1, size, forget_bias)
    return found


def gru_cell(size: int, generator: mt.Generator, update_bias: float = 0.0) -> nn.GRUCell:
    """A GRU cell with PyTorch's first weights, `update_bias` added to the update gate's bias."""
    found = nn.GRUCell(size, size, dtype="float64", generator=generator)
    add_to_bias(found.bias_ih, 1, size, update_bias)
    return found


def add_to_bias(bias: mt.Tensor, gate: int, size: int, amount: float) -> None:
    """Add `amount` to the rows of one gate, counted from 0, of a bias `(G*size,)`, in place."""
    rows = slice(gate * size, (gate + 1) * size)
    with mt.no_grad():
        bias[rows] = bias[rows] + amount


first_cells: Mapping[str, Callable[[int, mt.Generator], Any]] = {
    "rnn": rnn_cell,
    "rnn_orthogonal": orthogonal_rnn_cell,
    "gru": gru_cell,
    "lstm_forget0": lstm_cell,
    "lstm_forget1": lambda size, generator: lstm_cell(size, generator, 1.0),
    "lstm_forget4": lambda size, generator: lstm_cell(size, generator, 4.0),
}
"""Cells whose gradient is followed at their first weights: name to `build(size, generator)`."""


class StoryReader(nn.Module):
    """Embedding, recurrent layer, linear read-out of the last state.

    Parameters
    ----------
    kind
        "rnn", "lstm" or "gru", with PyTorch's first weights; or "relu": the simple cell with
        max(a, 0) for the tanh, which starts at the identity matrix, zero biases and small input
        weights (Le, Jaitly and Hinton 2015, "A simple way to initialize recurrent networks of
        rectified linear units"), so that at first it keeps all and its gradient exactly.
    words, dishes
        Sizes of the vocabulary and of the answer.
    hidden_size
        Units of the recurrent layer.
    forget_bias
        Added to the first bias of an LSTM's forget gate.
    generator
        Where the weights are drawn from.

    Raises
    ------
    ValueError
        If there is no such kind.
    """

    knows_trials = True

    def __init__(
        self,
        kind: str,
        words: int,
        dishes: int,
        hidden_size: int = 32,
        *,
        forget_bias: float = 0.0,
        generator: mt.Generator,
    ) -> None:
        self.embedding = nn.Embedding(words, EMBEDDING, generator=generator)
        sizes: dict[str, Any] = {"bias": "single", "generator": generator}
        match kind:
            case "rnn":
                self.recurrent = nn.RNN(EMBEDDING, hidden_size, **sizes)
            case "gru":
                self.recurrent = nn.GRU(EMBEDDING, hidden_size, **sizes)
            case "lstm":
                self.recurrent = nn.LSTM(EMBEDDING, hidden_size, **sizes)
                add_to_bias(self.recurrent.bias_ih_l0, 1, hidden_size, forget_bias)
            case "relu":
                self.recurrent = nn.RNN(EMBEDDING, hidden_size, nonlinearity="relu", **sizes)
                _start_at_identity(self.recurrent, generator)
            case _:
                raise ValueError(f"kind must be rnn, lstm, gru or relu; got {kind!r}")
        self.readout = nn.Linear(hidden_size, dishes, generator=generator)

    def forward(self, words: Any) -> mt.Tensor:
        """Integers `(T, B)`, time first, to the logits of the dishes, `(B, dishes)`."""
        return self.read(self.embedding(words))

    def read(self, embedded: mt.Tensor) -> mt.Tensor:
        """The same from the words' vectors `(T, B, 16)`, for gradients with respect to them."""
        states, _ = self.recurrent(embedded)
        return self.readout(states[..., -1, :, :])


def _start_at_identity(layer: nn.RNN, generator: mt.Generator) -> None:
    nn.init.normal_(layer.weight_ih_l0, 0.0, 0.03, generator)
    nn.init.zeros_(layer.bias_ih_l0)
    with mt.no_grad():
        layer.weight_hh_l0[:] = np.eye(layer.hidden_size, dtype=layer.weight_hh_l0.dtype)
