"""The Keras models that document 002 builds to print their summaries.

Keras' recurrent layers return the last output alone, or with `return_sequences=True` all of them;
`nn.RNN` and its kin return the outputs and the state. `LastOutput` makes the one of the other, so
that a summary shows the shapes of the document. Each model takes whole numbers or features with the
batch first, as Keras does.

`bias` is the recurrent layers': `"single"` is Keras' count, `True` PyTorch's second bias. Keras'
own GRU has a second bias too where the reset gate acts after the recurrent product
(`reset_after=True`, the default of TensorFlow 2), and one before it (`False`, Keras 2.0).
"""

from __future__ import annotations

from typing import Any

import microtensor as mt
from microtensor import nn

WORDS, FEATURES, UNITS = 10_000, 32, 32
"""Vocabulary, length of a word's vector, and units of every recurrent layer of the document."""

WEATHER = 14
"""Columns of the Jena weather data, which the GRU reads."""


class _LastOutput(nn.Module):
    """What Keras' recurrent layers do with the outputs of a `Recurrent` layer."""

    knows_trials = True
    return_sequences: bool

    def forward(self, x: Any, state: Any = None, lengths: Any = None) -> Any:
        """All outputs `(B, T, H)` with `return_sequences`, else the last, `(B, H)`."""
        outputs, _ = super().forward(x, state, lengths)
        return outputs if self.return_sequences else outputs[..., -1, :]


class SimpleRNN(_LastOutput, nn.RNN):
    """Keras' SimpleRNN of 32 units over 32 features: `(B, T, 32)`."""

    def __init__(self, bias: bool | str, return_sequences: bool = False) -> None:
        nn.RNN.__init__(self, FEATURES, UNITS, bias=bias, batch_first=True)
        self.return_sequences = return_sequences


class LSTM(_LastOutput, nn.LSTM):
    """Keras' LSTM of 32 units over 32 features: `(B, T, 32)`."""

    def __init__(self, bias: bool | str, return_sequences: bool = False) -> None:
        nn.LSTM.__init__(self, FEATURES, UNITS, bias=bias, batch_first=True)
        self.return_sequences = return_sequences


class GRU(_LastOutput, nn.GRU):
    """Keras' GRU of 32 units over the 14 columns of the weather data: `(B, T, 14)`."""

    def __init__(self, bias: bool | str, reset: str) -> None:
        nn.GRU.__init__(self, WEATHER, UNITS, bias=bias, batch_first=True, reset=reset)
        self.return_sequences = False


def _embedding() -> nn.Embedding:
    return nn.Embedding(WORDS, FEATURES)


def last_output(bias: bool | str = "single") -> nn.Sequential:
    """Embedding, SimpleRNN: the last output."""
    return nn.Sequential(_embedding(), SimpleRNN(bias))


def all_outputs(bias: bool | str = "single") -> nn.Sequential:
    """Embedding, SimpleRNN with return_sequences=True."""
    return nn.Sequential(_embedding(), SimpleRNN(bias, return_sequences=True))


def stacked(bias: bool | str = "single") -> nn.Sequential:
    """Embedding and four SimpleRNN: all but the last return sequences."""
    below = [SimpleRNN(bias, return_sequences=True) for _ in range(3)]
    return nn.Sequential(_embedding(), *below, SimpleRNN(bias))


def lstm_classifier(bias: bool | str = "single") -> nn.Sequential:
    """Embedding, LSTM, Dense with a sigmoid: one probability."""
    return nn.Sequential(_embedding(), LSTM(bias), nn.Linear(UNITS, 1), nn.Sigmoid())


def rnn_classifier(bias: bool | str = "single") -> nn.Sequential:
    """Embedding, SimpleRNN, Dense with a sigmoid: one probability."""
    return nn.Sequential(_embedding(), SimpleRNN(bias), nn.Linear(UNITS, 1), nn.Sigmoid())


def weather_gru(bias: bool | str = "single", reset: str = "before") -> nn.Sequential:
    """GRU, Dense: one temperature."""
    return nn.Sequential(GRU(bias, reset), nn.Linear(UNITS, 1))


def words(batch: int, steps: int) -> mt.Tensor:
    """A batch of texts to call a model with, whole numbers `(B, T)`; which ones is no matter."""
    return mt.zeros((batch, steps), dtype="int64")


def weather(batch: int, steps: int) -> mt.Tensor:
    """A batch of measurements to call the GRU with, `(B, T, 14)`."""
    return mt.zeros((batch, steps, WEATHER))
