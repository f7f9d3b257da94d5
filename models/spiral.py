"""The network of document 002's third example, which tells three spiral arms apart.

    h1 = f(x W1 + b1)            W1 (2, 50)
    h2 = f(h1 W2 + b2)           W2 (50, 50)
    logits = h2 W3 + b3          W3 (50, 3)             f is the sigmoid or ReLU

2,853 parameters in float64; a softmax over the logits gives the classes' probabilities. It is the
`vanishing_grad_example` of Stanford's CS224d, which the document retells: weights 0.1 · randn,
biases zero.

The weights come from NumPy's legacy stream `numpy.random.RandomState`, because the original's do
(`np.random.seed(0)`): NumPy has frozen that stream, so its numbers can be drawn again today.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

import microtensor as mt
from microtensor import nn

ACTIVATIONS = {"sigmoid": mt.sigmoid, "relu": mt.relu}
"""In the order in which the original trains them."""


def initial_weights(
    stream: np.random.RandomState, hidden_size: int = 50, init: str = "document"
) -> list[np.ndarray]:
    """Draw W1, W2 and W3 as the original does: `(2, H)`, `(H, H)`, `(H, 3)`, float64.

    `init` scales the same normal numbers: `"document"` by 0.1, `"glorot"` by
    `sqrt(2 / (rows + columns))`, `"he"` by `sqrt(2 / rows)`.
    """
    shapes = [(2, hidden_size), (hidden_size, hidden_size), (hidden_size, 3)]
    scales = {
        "document": lambda rows, columns: 0.1,
        "glorot": lambda rows, columns: math.sqrt(2.0 / (rows + columns)),
        "he": lambda rows, columns: math.sqrt(2.0 / rows),
    }
    return [scales[init](*shape) * stream.randn(*shape) for shape in shapes]


class SpiralNet(nn.Module):
    """Two hidden layers of sigmoids or rectifiers.

    Parameters
    ----------
    weights : sequence of ndarray
        W1 `(2, H)`, W2 `(H, H)` and W3 `(H, classes)` in the document's layout.
    activation : str
        `"sigmoid"` or `"relu"`.
    """

    knows_trials = True

    def __init__(self, weights: Sequence[np.ndarray], activation: str) -> None:
        self.activation = activation
        self.layers = nn.ModuleList(
            [nn.Linear(*weight.shape, dtype=weight.dtype) for weight in weights]
        )
        for layer, weight in zip(self.layers, weights, strict=True):
            layer.load_state_dict({"weight": weight.T, "bias": np.zeros(weight.shape[1])})

    def forward(self, x: mt.Tensor) -> mt.Tensor:
        """Return the logits `(N, classes)` of points `(N, 2)`."""
        f = ACTIVATIONS[self.activation]
        first, second, readout = self.layers
        return readout(f(second(f(first(x)))))
