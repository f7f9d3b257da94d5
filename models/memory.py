"""The networks of document 003, with the habits of the Keras 2.0 that trained them.

An LSTM of 20 units reads one one-hot symbol a step, a dense layer with five sigmoids predicts
the next symbol. 2080 + 105 = 2185 parameters. What Keras 2.0 did differently from today's
libraries is written out here, because it decides what the demonstration shows:

- the gates are *hard* sigmoids, `clip(0.2 x + 0.5, 0, 1)`;
- Glorot's limit is taken over the kernel of all four gates together, `sqrt(6 / (in + 4 H))`;
- the recurrent kernel `(H, 4 H)` has orthonormal rows, so no gate's own block is orthogonal;
- the forget gate's bias starts at one, the others at zero;
- Adam adds its epsilon, 1e-8, *outside* the bias correction (the paper's "epsilon hat").

Every parameter has a leading axis K, one entry a trial, and so has every activation: forty
seeds train side by side, each with its own numbers, none of which touches another's.
Weights keep Keras' layout, `(in, out)`, and gate order i, f, g, o (Keras calls g `c`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import microtensor as mt
from microtensor import nn, optim
from microtensor.recurrence import cell

State = tuple[mt.Tensor, mt.Tensor]


def hard_sigmoid(x: mt.Tensor) -> mt.Tensor:
    """Keras' piecewise linear gate: 0 below -2.5, 1 above 2.5, `0.2 x + 0.5` between."""
    return mt.clip(0.2 * x + 0.5, 0.0, 1.0)


@cell(gates=("i", "f", "g", "o"), state=("h", "c"))
def keras_lstm(
    i: mt.Tensor, f: mt.Tensor, g: mt.Tensor, o: mt.Tensor, c: mt.Tensor
) -> tuple[mt.Tensor, mt.Tensor]:
    """The LSTM with a forget gate, its gates hard: returns the new `h` and `c`."""
    c = hard_sigmoid(f) * c + hard_sigmoid(i) * mt.tanh(g)
    return hard_sigmoid(o) * mt.tanh(c), c


def glorot_uniform(generator: mt.Generator, rows: int, columns: int) -> np.ndarray:
    """Draw `(rows, columns)` from U(-limit, limit) with limit `sqrt(6 / (rows + columns))`."""
    limit = math.sqrt(6.0 / (rows + columns))
    return generator.uniform(-limit, limit, (rows, columns), "float32")


def orthogonal(generator: mt.Generator, rows: int, columns: int) -> np.ndarray:
    """Draw `(rows, columns)`, rows orthonormal, from the SVD of noise; `rows <= columns`."""
    noise = generator.normal((rows, columns), "float64")
    return np.linalg.svd(noise, full_matrices=False)[2].astype("float32")


def cross_entropy(logits: mt.Tensor, target: mt.Tensor) -> mt.Tensor:
    """Binary cross-entropy of sigmoid outputs, the mean over the outputs of each trial: `(K,)`.

    `logits` is `(K, 1, A)`, `target` `(1, A)` of zeros and ones. Keras computes the same from the
    probabilities, clipped to [1e-7, 1 - 1e-7], which no output of this task comes near.
    """
    return (mt.softplus(logits) - logits * target).mean(axis=(1, 2))


class KerasAdam(optim.Adam):
    """Adam with its epsilon outside the bias correction, as Keras and TensorFlow 1 have it.

        p <- p - lr sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + eps)

    which is PyTorch's formula with eps / sqrt(1 - beta2^t) for its eps, in every update t. (Kingma
    and Ba 2015, the more efficient order of computation after algorithm 1.)
    """

    def _update(self, xp: Any, data: Any, gradient: Any, slot: Any, group: dict[str, Any]) -> None:
        eps = group["eps"] / math.sqrt(1.0 - group["betas"][1] ** slot.step)
        super()._update(xp, data, gradient, slot, {**group, "eps": eps})


def _side_by_side(
    generators: Sequence[mt.Generator], draw: Callable[[mt.Generator], np.ndarray]
) -> nn.Parameter:
    return nn.Parameter(mt.tensor(np.stack([draw(generator) for generator in generators])))


class MemoryLSTM(nn.Module):
    """K independent LSTMs of document 003.

    Parameters
    ----------
    generators : sequence of Generator
        One for each trial; its length is K. A trial's weights depend on its generator alone.
    symbols : int
        Size A of the alphabet (5).
    hidden_size : int
        Units H (20).
    forget_bias : float
        First bias of the forget gates; Keras' is 1, where the hard gate keeps 0.7 of a cell.
    """

    def __init__(
        self,
        generators: Sequence[mt.Generator],
        symbols: int = 5,
        hidden_size: int = 20,
        forget_bias: float = 1.0,
    ) -> None:
        trials, wide = len(generators), 4 * hidden_size
        self.kernel = _side_by_side(generators, lambda g: glorot_uniform(g, symbols, wide))
        self.recurrent_kernel = _side_by_side(
            generators, lambda g: orthogonal(g, hidden_size, wide)
        )
        bias = np.zeros((trials, 1, wide), "float32")
        bias[:, :, hidden_size : 2 * hidden_size] = forget_bias
        self.bias = nn.Parameter(mt.tensor(bias))
        self.dense_kernel = _side_by_side(
            generators, lambda g: glorot_uniform(g, hidden_size, symbols)
        )
        self.dense_bias = nn.Parameter(mt.zeros((trials, 1, symbols)))

    def initial_state(self, batch: int = 1) -> State:
        """An empty memory for B sequences: `h` and `c`, zeros of shape `(K, B, H)`."""
        trials, hidden_size, _ = self.recurrent_kernel.shape
        return mt.zeros((trials, batch, hidden_size)), mt.zeros((trials, batch, hidden_size))

    def step(self, x: mt.Tensor, state: State) -> tuple[mt.Tensor, State]:
        """Read one symbol `x`, `(B, A)`; return the logits `(K, B, A)` and the new state."""
        h, c = state
        from_input, from_state = x @ self.kernel + self.bias, h @ self.recurrent_kernel
        h, c = keras_lstm.step(from_input, from_state, (h, c))
        return h @ self.dense_kernel + self.dense_bias, (h, c)


class MemorylessMLP(nn.Module):
    """K independent perceptrons with one hidden layer, which see the current symbol alone.

    It has the interface of `MemoryLSTM` and an empty state, so that the same loop trains it.
    """

    def __init__(
        self, generators: Sequence[mt.Generator], symbols: int = 5, hidden_size: int = 20
    ) -> None:
        trials = len(generators)
        self.kernel = _side_by_side(generators, lambda g: glorot_uniform(g, symbols, hidden_size))
        self.bias = nn.Parameter(mt.zeros((trials, 1, hidden_size)))
        self.dense_kernel = _side_by_side(
            generators, lambda g: glorot_uniform(g, hidden_size, symbols)
        )
        self.dense_bias = nn.Parameter(mt.zeros((trials, 1, symbols)))

    def initial_state(self) -> tuple[()]:
        """Nothing is remembered."""
        return ()

    def step(self, x: mt.Tensor, state: tuple[()]) -> tuple[mt.Tensor, tuple[()]]:
        """Read one symbol `x` of shape `(1, A)`; return the logits `(K, 1, A)`."""
        hidden = mt.tanh(x @ self.kernel + self.bias)
        return hidden @ self.dense_kernel + self.dense_bias, state
