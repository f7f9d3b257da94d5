"""W1 to W6 for frameworks of operations without recurrent layers: the cells, written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.trainings import Training


def within_reach(t: Training) -> bool:
    """Whether a framework that runs the cell one operation at a time takes milliseconds for it."""
    return t.steps <= 100 and t.steps * t.hidden * t.batch <= 40_000


def network(xp: Any, sigmoid: Callable[[Any], Any], t: Training, p: Any, x: Any, state: Any) -> Any:
    """The readout's outputs and the last state, in the operations of a namespace."""
    H = t.hidden
    if t.first:
        x = xp.matmul(x, p["first.weight"].T) + p["first.bias"]
    rows = xp.matmul(x, p["recurrent.weight_ih_l0"].T) + p["recurrent.bias_ih_l0"]
    rows = xp.transpose(rows, (1, 0, 2))  # a step is one block of memory
    weight, bias = p["recurrent.weight_hh_l0"].T, p["recurrent.bias_hh_l0"]
    (h, c), outputs = state, []
    for k in range(t.steps):
        z = rows[k] + (xp.matmul(h, weight) + bias)
        if t.cell == "rnn":
            h = xp.tanh(z)
        else:
            i, f, o = sigmoid(z[:, :H]), sigmoid(z[:, H : 2 * H]), sigmoid(z[:, 3 * H :])
            c = f * c + i * xp.tanh(z[:, 2 * H : 3 * H])
            h = o * xp.tanh(c)
        outputs.append(h)
    out = h if t.last else xp.transpose(xp.stack(outputs), (1, 0, 2))
    return xp.matmul(out, p["readout.weight"].T) + p["readout.bias"], (h, c)


def zero_state(t: Training) -> tuple[np.ndarray, np.ndarray]:
    """h and c before the first step."""
    return np.zeros((t.batch, t.hidden), np.float32), np.zeros((t.batch, t.hidden), np.float32)


class Optimizer:
    """PyTorch's formulas on arrays, one parameter after the other, in place."""

    def __init__(self, t: Training, parameters: dict[str, np.ndarray]) -> None:
        self.t, self.parameters, self.k = t, parameters, 0
        self.mean = {name: np.zeros_like(p) for name, p in parameters.items()}
        self.square = {name: np.zeros_like(p) for name, p in parameters.items()}

    def step(self, gradients: dict[str, np.ndarray]) -> None:
        self.k += 1
        kind, lr = self.t.optimizer, self.t.lr
        a, b = 1 - 0.9**self.k, 1 - 0.999**self.k
        for name, p in self.parameters.items():
            g, m, v = gradients[name], self.mean[name], self.square[name]
            if kind == "sgd":
                p -= lr * g
            elif kind == "adam":
                m *= 0.9
                m += 0.1 * g
                v *= 0.999
                v += 0.001 * g * g
                p -= lr / a * m / (np.sqrt(v / b) + 1e-8)
            elif kind == "adagrad":
                v += g * g
                p -= lr * g / (np.sqrt(v) + 1e-10)
