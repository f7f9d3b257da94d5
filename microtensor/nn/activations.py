"""Activation functions as modules, for `Sequential`."""

from __future__ import annotations

from typing import Any

from microtensor.nn.module import Module
from microtensor.ops import relu, sigmoid, tanh

__all__ = ["ReLU", "Sigmoid", "Tanh"]


class Tanh(Module):
    """tanh(x), element by element; any shape."""

    knows_trials = True

    def forward(self, x: Any) -> Any:
        """Same shape as `x`."""
        return tanh(x)


class Sigmoid(Module):
    """1 / (1 + exp(-x)), element by element; any shape."""

    knows_trials = True

    def forward(self, x: Any) -> Any:
        """Same shape as `x`."""
        return sigmoid(x)


class ReLU(Module):
    """max(x, 0), element by element; any shape."""

    knows_trials = True

    def forward(self, x: Any) -> Any:
        """Same shape as `x`."""
        return relu(x)
