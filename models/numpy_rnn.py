"""The recurrent network that document 002 writes out in NumPy, and the same as a layer.

    s_t = tanh(W x_t + U s_(t-1) + b)          W (64, 32), U (64, 64), b (64,), s_(-1) = 0

6,208 parameters. The document draws all of them from U[0, 1), which saturates every unit;
`contracting_weights` are such as a network starts with when it is to be trained.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

import microtensor as mt
from microtensor import nn


class Weights(NamedTuple):
    """The three arrays of the document, float64."""

    W: np.ndarray  # (hidden size, input size)
    U: np.ndarray  # (hidden size, hidden size)
    b: np.ndarray  # (hidden size,)


def document_weights(generator: mt.Generator, input_size: int, hidden_size: int) -> Weights:
    """Draw all weights from U[0, 1), as the document does."""
    shapes = [(hidden_size, input_size), (hidden_size, hidden_size), (hidden_size,)]
    return Weights(*(generator.uniform(0.0, 1.0, shape, np.float64) for shape in shapes))


def contracting_weights(
    generator: mt.Generator, input_size: int, hidden_size: int, radius: float
) -> Weights:
    """Draw weights that do not saturate: U is `radius` times an orthogonal matrix.

    All eigenvalues of U then have the absolute value `radius`, and U stretches every vector by it.
    W is Glorot uniform, b zero: with radius 1 it is how Keras starts its SimpleRNN.
    """
    U = nn.init.orthogonal_(
        mt.zeros((hidden_size, hidden_size), dtype=np.float64), radius, generator
    )
    limit = math.sqrt(6.0 / (input_size + hidden_size))
    W = generator.uniform(-limit, limit, (hidden_size, input_size), np.float64)
    return Weights(W, U.to("numpy").numpy(), np.zeros(hidden_size))


def forward_in_numpy(weights: Weights, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Run the document's loop over `x`, `(T, input size)`.

    Returns what goes into the tanh and what comes out, both `(T, hidden size)`.
    """
    state = np.zeros_like(weights.b)
    before, after = [], []
    for x_t in x:
        before.append(np.dot(weights.W, x_t) + np.dot(weights.U, state) + weights.b)
        state = np.tanh(before[-1])
        after.append(state)
    return np.stack(before), np.stack(after)


def as_layer(weights: Weights, dtype: str = "float64") -> nn.RNN:
    """Return the same network as a layer of the library: input `(T, B, input size)`."""
    hidden_size, input_size = weights.W.shape
    layer = nn.RNN(input_size, hidden_size, bias="single", dtype=dtype)
    layer.load_state_dict(
        {
            "weight_ih_l0": weights.W.astype(dtype),
            "weight_hh_l0": weights.U.astype(dtype),
            "bias_ih_l0": weights.b.astype(dtype),
        }
    )
    return layer
