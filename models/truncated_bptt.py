"""The two networks on which styles of truncated back-propagation are compared.

Both have the same three parts, so that one loop trains either:

    embed(symbols)   integers (T, B) to vectors (T, B, I)
    rnn              the simple recurrent layer, h_t = tanh([x_t ; h_(t-1)] W + b)
    logits(states)   states (..., H) to scores (..., C)

`EchoReader` is document 001's network for its binary echo; `WordReader` is that of the original
experiment, a language model of words: 50 numbers a word, 100 units, dropout that keeps four in
five of the inputs and of the outputs. Weights start as TensorFlow 1's do: Glorot uniform, the
recurrent kernel's limit taken over input and state together, biases zero.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import microtensor as mt
from microtensor import nn
from models.binary_echo import EchoLayer


class EchoReader(EchoLayer):
    """Document 001's network, one-hot bits in, two logits out."""

    def embed(self, bits: np.ndarray) -> mt.Tensor:
        """Bits `(T, B)` to one-hot vectors `(T, B, 2)`."""
        return mt.tensor(np.eye(2, dtype=self.readout.weight.dtype)[bits])

    def logits(self, states: mt.Tensor) -> mt.Tensor:
        """States `(..., H)` to the two logits `(..., 2)`."""
        return self.readout(states)


class WordReader(nn.Module):
    """The original's language model: which word comes next?

    Parameters
    ----------
    words
        Size of the vocabulary.
    embedding_dim, hidden_size
        Numbers a word is turned into, and units of the recurrent layer: 50 and 100 in the
        original, 50 and 4 where it looks at the gradient.
    dropout
        Share of the inputs, and of the outputs, that is dropped in training.
    dtype, generator
        Of the weights; where they and the dropout masks are drawn from.
    """

    knows_trials = True

    def __init__(
        self,
        words: int,
        embedding_dim: int = 50,
        hidden_size: int = 100,
        *,
        dropout: float = 0.2,
        dtype: str = "float32",
        generator: mt.Generator,
    ) -> None:
        options: dict[str, Any] = {"dtype": dtype, "generator": generator}
        self.embedding = nn.Embedding(words, embedding_dim, **options)
        self.rnn = nn.RNN(embedding_dim, hidden_size, bias="single", **options)
        self.readout = nn.Linear(hidden_size, words, **options)
        self.dropout = nn.Dropout(dropout, generator=generator)
        for weight in (self.embedding.weight, self.readout.weight):
            nn.init.xavier_uniform_(weight, generator=generator)
        limit = math.sqrt(6.0 / (embedding_dim + 2 * hidden_size))
        for weight in (self.rnn.weight_ih_l0, self.rnn.weight_hh_l0):
            nn.init.uniform_(weight, -limit, limit, generator)
        for bias in (self.rnn.bias_ih_l0, self.readout.bias):
            nn.init.zeros_(bias)

    def embed(self, words: np.ndarray) -> mt.Tensor:
        """Words `(T, B)` to vectors `(T, B, embedding_dim)`, some dropped in training."""
        return self.dropout(self.embedding(words))

    def logits(self, states: mt.Tensor) -> mt.Tensor:
        """States `(..., H)`, some dropped in training, to a score a word `(..., words)`."""
        return self.readout(self.dropout(states))
