"""The networks of document 002 that read film reviews, with the habits of the Keras they ran in.

    e_t = E[word_t]                            (32 numbers a word; 128 in one of the networks)
    h_t = RNN or LSTM(e_t, h_(t-1))            (32 units; two sets of them if bidirectional)
    p   = σ(w · h_T + b)                       (the probability that the review is a good one)

Word 0, with which short reviews are padded in front, is a word like all others: nothing is masked.
320,000 + 2,080 + 33 = 322,113 parameters with the RNN, 320,000 + 8,320 + 33 = 328,353 with the
LSTM. What Keras does by itself, and what is therefore written out here:

- there is one bias a gate (`bias="single"`), zero at first but for the forget gate's, which is one;
- the embedding starts uniform in ±0.05;
- kernels are Glorot uniform, their limit taken over all four gates together: √(6 / (in + 4 H));
- the recurrent kernel (H, 4 H) has orthonormal rows, so that no gate's own block is orthogonal;
- Keras 2.0 has hard gates, clip(0.2 x + 0.5, 0, 1), where Keras has the logistic function since it
  came with TensorFlow 2.
"""

from __future__ import annotations

from typing import Literal

import microtensor as mt
from microtensor import nn
from models.memory import keras_lstm


class ReviewReader(nn.Module):
    """Embedding, recurrent layer, and a logit from its last state.

    Parameters
    ----------
    cell
        "rnn", "lstm" with logistic gates, or "hard_lstm" with those of Keras 2.0.
    words, embedding_size, hidden_size
        Words known, numbers a word, units of the layer.
    bidirectional
        Whether a second layer of the same kind reads from the end; the logit then comes from
        both last states.
    generator
        Where the weights are drawn from.
    """

    knows_trials = True

    def __init__(
        self,
        cell: Literal["rnn", "lstm", "hard_lstm"],
        words: int = 10000,
        embedding_size: int = 32,
        hidden_size: int = 32,
        *,
        bidirectional: bool = False,
        generator: mt.Generator,
    ) -> None:
        self.embedding = nn.Embedding(words, embedding_size, generator=generator)
        nn.init.uniform_(self.embedding.weight, -0.05, 0.05, generator)
        arguments = {"bias": "single", "bidirectional": bidirectional, "generator": generator}
        self.recurrent: nn.Recurrent
        if cell == "rnn":
            self.recurrent = nn.RNN(embedding_size, hidden_size, **arguments)
        elif cell == "lstm":
            self.recurrent = nn.LSTM(embedding_size, hidden_size, **arguments)
        else:
            self.recurrent = nn.Recurrent(keras_lstm, embedding_size, hidden_size, **arguments)
        for name, parameter in self.recurrent.named_parameters():
            if name.startswith("weight_ih"):
                nn.init.xavier_uniform_(parameter, generator=generator)
            elif name.startswith("weight_hh"):  # (4 H, H): Keras' rows are columns here
                nn.init.orthogonal_(parameter, generator=generator)
            else:
                nn.init.zeros_(parameter)
                if cell != "rnn":
                    with mt.no_grad():
                        parameter[hidden_size : 2 * hidden_size] = 1.0  # the forget gate
        self.linear = nn.Linear(hidden_size * self.recurrent.directions, 1, generator=generator)
        nn.init.xavier_uniform_(self.linear.weight, generator=generator)
        nn.init.zeros_(self.linear.bias)

    def forward(self, words: mt.Tensor) -> mt.Tensor:
        """Map word numbers of shape (T, B) to one logit a review, (B,)."""
        _, state = self.recurrent(self.embedding(words))
        last = state[0] if isinstance(state, tuple) else state  # (D, B, H)
        features = mt.concatenate(mt.unstack(last, axis=-3), axis=-1)
        return self.linear(features)[..., 0]
