"""Losses as modules; `microtensor.nn.functional` has the same as functions, with their formulas.

Each takes a prediction and a target and refuses operands of unequal shape. `reduction` is "mean"
(over all elements), "sum" or "none".
"""

from __future__ import annotations

from typing import Any

from microtensor.nn import functional
from microtensor.nn.module import Module
from microtensor.ops.loss import check_reduction
from microtensor.tensor import Tensor

__all__ = ["BCELoss", "BCEWithLogitsLoss", "CrossEntropyLoss", "L1Loss", "MSELoss"]


class _Loss(Module):
    """A loss without parameters."""

    def __init__(self, reduction: str = "mean") -> None:
        check_reduction(reduction)
        self.reduction = reduction

    def extra_repr(self) -> str:
        """The reduction, if it is not the mean."""
        return "" if self.reduction == "mean" else f"reduction={self.reduction!r}"


class MSELoss(_Loss):
    """(x - y)^2 for prediction x and target y of one shape."""

    def forward(self, x: Any, target: Any) -> Any:
        """0-d, or of the operands' shape with `reduction="none"`."""
        return functional.mse_loss(x, target, reduction=self.reduction)


class L1Loss(_Loss):
    """|x - y| for prediction x and target y of one shape."""

    def forward(self, x: Any, target: Any) -> Any:
        """0-d, or of the operands' shape with `reduction="none"`."""
        return functional.l1_loss(x, target, reduction=self.reduction)


class BCELoss(_Loss):
    """-(y log p + (1 - y) log(1 - p)) for probabilities p and targets y of one shape.

    Logarithms are bounded below by -100, as PyTorch's. Where there are logits,
    `BCEWithLogitsLoss` is exact.
    """

    def forward(self, p: Any, target: Any) -> Any:
        """0-d, or of the operands' shape with `reduction="none"`."""
        return functional.binary_cross_entropy(p, target, reduction=self.reduction)


class BCEWithLogitsLoss(_Loss):
    """Binary cross-entropy of sigma(x) against y, computed without ever forming sigma(x)."""

    def forward(self, x: Any, target: Any) -> Any:
        """0-d, or of the operands' shape with `reduction="none"`."""
        return functional.binary_cross_entropy_with_logits(x, target, reduction=self.reduction)


class CrossEntropyLoss(_Loss):
    """-log softmax(x)_y: how improbable the scores x hold the class y.

    Parameters
    ----------
    weight
        A factor for each class, (C,); the mean is then the weighted one.
    ignore_index
        A label that counts for nothing.
    reduction
        "mean", "sum" or "none".
    axis
        The axis of the classes in the scores: 1 as in PyTorch, -1 for (..., C).
    """

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
            0-d, or of the shape of `target` with `reduction="none"`.
        """
        return functional.cross_entropy(
            x,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            axis=self.axis,
        )
