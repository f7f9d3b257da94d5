"""Adagrad."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from microtensor.backend import Array
from microtensor.optim.optimizer import Optimizer, Slot, check_number
from microtensor.tensor import Tensor

__all__ = ["Adagrad"]


class Adagrad(Optimizer):
    """A learning rate for every number, shrinking with what it has moved; PyTorch's formulas.

        g <- grad + weight_decay p
        s <- s + g^2                                s starts at initial_accumulator_value
        p <- p - lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps)        t = 1, 2, ...

    (Duchi, Hazan and Singer 2011, JMLR 12.) TensorFlow 1 starts s at 0.1 and has no eps.

    Parameters
    ----------
    params
        Tensors, or groups of them; see `Optimizer`.
    lr, lr_decay, weight_decay, initial_accumulator_value, eps
        As in the formulas; none negative. `lr` may be K numbers for a stack of K trials.
    maximize
        Whether to climb instead: start from -grad.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float | Sequence[float] = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "lr_decay": lr_decay,
                "weight_decay": weight_decay,
                "initial_accumulator_value": initial_accumulator_value,
                "eps": eps,
                "maximize": maximize,
            },
        )

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        for name in ("lr_decay", "initial_accumulator_value", "eps"):
            check_number(name, group[name])

    def _state(self, group: Mapping[str, Any]) -> dict[str, float]:
        return {"sum": group["initial_accumulator_value"]}

    def _update(
        self, xp: Any, data: Array, gradient: Array, slot: Slot, group: dict[str, Any]
    ) -> None:
        g, spare = self._gradient(xp, data, gradient, slot, group), slot.spare
        total = slot.arrays["sum"]
        xp.add(total, xp.multiply(g, g, out=spare), out=total)
        xp.add(xp.sqrt(total, out=spare), group["eps"], out=spare)
        xp.divide(g, spare, out=spare)
        rate = group["lr"] / (1.0 + (slot.step - 1) * group["lr_decay"])
        xp.multiply(spare, rate, out=spare)
