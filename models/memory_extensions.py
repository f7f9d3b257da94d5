"""The LSTM of document 003, reading whole sequences of symbol numbers.

The extensions that the document proposes need longer sequences, other alphabets and batches, and
each trial its own random symbols. Nothing else changes: weights, gates and their first values are
those of `models/memory.py`, in a leading axis K of trials.

A one-hot vector times a matrix is a row of the matrix, so the input product is a look-up: with a
thousand symbols nothing of size 1000 × 4H is multiplied at any step.
"""

from __future__ import annotations

import numpy as np

import microtensor as mt
from models.memory import MemoryLSTM, State, keras_lstm


class SequenceLSTM(MemoryLSTM):
    """K independent LSTMs that read sequences of numbers in 0 … A - 1; parameters as there."""

    def forward(
        self, numbers: np.ndarray, state: State | None = None, *, last: bool = False
    ) -> tuple[mt.Tensor, State]:
        """Read T symbols of each of B sequences.

        Parameters
        ----------
        numbers : integers `(T, B)`, the same for every trial, or `(K, T, B)`.
        state : `h` and `c`, each `(K, B, H)`; an empty memory if None.
        last : whether only the last step is to be answered.

        Returns
        -------
        logits : `(K, T, B, A)`; `(K, 1, B, A)` with `last`.
        state : after the last step.

        Raises
        ------
        ValueError
            If a symbol is not in the alphabet, or the trials are not K.
        """
        trials, symbols, wide = self.kernel.shape
        numbers = np.asarray(numbers)
        if numbers.size and (numbers.min() < 0 or numbers.max() >= symbols):
            raise ValueError(
                f"symbols must be in 0 … {symbols - 1}; got {numbers.min()} … {numbers.max()}"
            )
        if numbers.ndim == 3 and len(numbers) != trials:
            raise ValueError(f"{trials} trials read sequences of their own; got {numbers.shape}")
        own = np.broadcast_to(numbers, (trials, *numbers.shape[-2:]))
        # All trials' rows in one table: a look-up in it costs what it touches, forth and back.
        rows = own + symbols * np.arange(trials)[:, None, None]
        table = self.kernel.reshape((trials * symbols, wide))
        from_input = mt.take(table, rows, axis=0) + mt.expand_dims(self.bias, 1)  # (K, T, B, 4H)
        h, c = self.initial_state(own.shape[-1]) if state is None else state
        hidden = []
        for row in mt.unstack(from_input, axis=1):
            h, c = keras_lstm.step(row, h @ self.recurrent_kernel, (h, c))
            hidden.append(h)
        answered = mt.stack(hidden[-1:] if last else hidden, axis=1)
        kernel, bias = mt.expand_dims(self.dense_kernel, 1), mt.expand_dims(self.dense_bias, 1)
        return answered @ kernel + bias, (h, c)


def summed_cross_entropy(logits: mt.Tensor, target: np.ndarray) -> mt.Tensor:
    """Binary cross-entropy of sigmoid outputs, summed over the outputs: logits' shape less A.

    `logits` is `(…, A)`; `target` holds the right symbols, integers that broadcast to `(…)`.
    """
    right = np.eye(logits.shape[-1], dtype="float32")[target]
    return (mt.softplus(logits) - logits * mt.tensor(right)).sum(axis=-1)


def softmax_cross_entropy(logits: mt.Tensor, target: np.ndarray) -> mt.Tensor:
    """-log softmax(logits)[target]: Keras' categorical cross-entropy, logits' shape less A."""
    right = np.eye(logits.shape[-1], dtype="float32")[target]
    return mt.logsumexp(logits, axis=-1) - (logits * mt.tensor(right)).sum(axis=-1)


def read_numbers(
    model: MemoryLSTM, x: np.ndarray, state: State | None = None
) -> tuple[mt.Tensor, State]:
    """One step of B rows on real numbers `(B,)`, from an empty memory if `state` is None.

    The model is a `MemoryLSTM` with one input and one, linear, output; returns the output `(K, B)`
    and the new state.
    """
    values = mt.tensor(np.asarray(x, "float32")[:, None])
    output, state = model.step(values, model.initial_state(len(x)) if state is None else state)
    return mt.squeeze(output, -1), state
