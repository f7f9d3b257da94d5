"""Losses as modules; `microtensor.nn.functional` has the same as functions, with their formulas.

Each takes a prediction and a target and refuses operands of unequal shape. `reduction` is "mean"
(over all elements), "sum", "none", or "trial": the mean of each trial of a stack, that is over all
axes but the first. The sum of these K losses is what a stack is trained with,

    nn.MSELoss(reduction="trial")(model(x), target).sum().backward()

for a trial's parameters then get the gradient of its own loss. A loss that is itself part of
a stacked model reduces for each trial.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from microtensor.nn import functional
from microtensor.nn.module import Module
from microtensor.ops import sum
from microtensor.ops.loss import check_reduction
from microtensor.tensor import Tensor

__all__ = ["BCELoss", "BCEWithLogitsLoss", "CrossEntropyLoss", "L1Loss", "MSELoss"]


class _Loss(Module):
    """A loss without parameters."""

    def __init__(self, reduction: str = "mean") -> None:
        check_reduction(reduction)
        self.reduction = reduction

    def _of(self, loss: Callable[[Any, Any, str], Any], x: Any, target: Any) -> Any:
        """The loss reduced; in a stack for each trial."""
        if self.trials is None:
            return loss(x, target, self.reduction)
        functional.check_trials(type(self).__name__, x, self.trials)
        if self.reduction in ("none", "trial"):
            return loss(x, target, self.reduction)
        if self.reduction == "mean":
            return loss(x, target, "trial")
        losses = loss(x, target, "none")
        return sum(losses, axis=tuple(range(1, losses.ndim))) if losses.ndim > 1 else losses

    def extra_repr(self) -> str:
        """The reduction, if it is not the mean."""
        return "" if self.reduction == "mean" else f"reduction={self.reduction!r}"


class MSELoss(_Loss):
    """(x - y)^2 for prediction x and target y of one shape."""

    knows_trials = True

    def forward(self, x: Any, target: Any) -> Any:
        """0-d, (K,) with `reduction="trial"`, or of the operands' shape with "none"."""
        return self._of(functional.mse_loss, x, target)


class L1Loss(_Loss):
    """|x - y| for prediction x and target y of one shape."""

    knows_trials = True

    def forward(self, x: Any, target: Any) -> Any:
        """0-d, (K,) with `reduction="trial"`, or of the operands' shape with "none"."""
        return self._of(functional.l1_loss, x, target)


class BCELoss(_Loss):
    """-(y log p + (1 - y) log(1 - p)) for probabilities p and targets y of one shape.

    Logarithms are bounded below by -100, as PyTorch's. Where there are logits,
    `BCEWithLogitsLoss` is exact.
    """

    knows_trials = True

    def forward(self, p: Any, target: Any) -> Any:
        """0-d, (K,) with `reduction="trial"`, or of the operands' shape with "none"."""
        return self._of(functional.binary_cross_entropy, p, target)


class BCEWithLogitsLoss(_Loss):
    """Binary cross-entropy of sigma(x) against y, computed without ever forming sigma(x)."""

    knows_trials = True

    def forward(self, x: Any, target: Any) -> Any:
        """0-d, (K,) with `reduction="trial"`, or of the operands' shape with "none"."""
        return self._of(functional.binary_cross_entropy_with_logits, x, target)


class CrossEntropyLoss(_Loss):
    """-log softmax(x)_y: how improbable the scores x hold the class y.

    Parameters
    ----------
    weight
        A factor for each class, (C,); the mean is then the weighted one.
    ignore_index
        A label that counts for nothing.
    reduction
        "mean", "sum", "none" or "trial".
    axis
        The axis of the classes in the scores: 1 as in PyTorch, -1 for (..., C), as for a stack's.
    """

    knows_trials = True

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        *,
        axis: int = 1,
    ) -> None:
        super().__init__(reduction)
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.axis = axis

    def forward(self, x: Any, target: Any) -> Any:
        """Scores and labels to the loss.

        Parameters
        ----------
        x
            (N, C) or (N, C, d1, ...); or (C,) for one sample.
        target
            Integers 0, ..., C - 1 of the shape of `x` without the class axis: (N,), (N, d1, ...).

        Returns
        -------
        Tensor
            0-d, (K,) with `reduction="trial"`, or of the shape of `target` with "none".
        """
        axis = self.axis
        if self.trials is not None and axis >= 0:  # it was counted without the trials
            axis = min(axis + 1, x.ndim - 1)

        def loss(x: Any, target: Any, reduction: str) -> Any:
            return functional.cross_entropy(
                x, target, self.weight, self.ignore_index, reduction, axis
            )

        return self._of(loss, x, target)
