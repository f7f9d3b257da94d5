"""Adam."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from microtensor.backend import Array
from microtensor.optim.optimizer import Optimizer, Slot, check_number
from microtensor.tensor import Tensor

__all__ = ["Adam"]


class Adam(Optimizer):
    """Running means of gradient and squared gradient, freed of their start; PyTorch's formulas.

        g <- grad + weight_decay p
        m <- beta1 m + (1 - beta1) g
        v <- beta2 v + (1 - beta2) g^2
        u <- max(u, v)  if amsgrad, else  u <- v
        p <- p - lr m / (1 - beta1^t) / (sqrt(u / (1 - beta2^t)) + eps)      t = 1, 2, ...

    m, v and u start at zero. (Kingma and Ba 2015, "Adam: a method for stochastic optimization",
    algorithm 1; Reddi, Kale and Kumar 2018 for AMSGrad.) Keras and TensorFlow 1 add eps to sqrt(v)
    before the correction, which makes it larger in the first steps.

    Parameters
    ----------
    params
        Tensors, or groups of them; see `Optimizer`.
    lr, eps, weight_decay
        As in the formulas; none negative. `lr` may be K numbers for a stack of K trials.
    betas
        (beta1, beta2), each in [0, 1).
    amsgrad
        Whether to divide by the largest v so far.
    maximize
        Whether to climb instead: start from -grad.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float | Sequence[float] = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": tuple(betas),
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
            },
        )

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        if not isinstance(group["betas"], tuple | list) or len(group["betas"]) != 2:
            raise ValueError(f"betas must be two numbers, got {group['betas']!r}")
        for i, beta in enumerate(group["betas"]):
            check_number(f"betas[{i}]", beta, below=1.0)
        check_number("eps", group["eps"])

    def _state(self, group: Mapping[str, Any]) -> dict[str, float]:
        names = ["exp_avg", "exp_avg_sq"]
        names += ["max_exp_avg_sq"] if group["amsgrad"] else []
        return dict.fromkeys(names, 0.0)

    def _update(
        self, xp: Any, data: Array, gradient: Array, slot: Slot, group: dict[str, Any]
    ) -> None:
        arrays, spare = slot.arrays, slot.spare
        g = self._gradient(xp, data, gradient, slot, group)
        beta1, beta2 = group["betas"]
        mean, square = arrays["exp_avg"], arrays["exp_avg_sq"]
        xp.multiply(mean, beta1, out=mean)
        xp.add(mean, xp.multiply(g, 1.0 - beta1, out=spare), out=mean)
        xp.multiply(square, beta2, out=square)
        xp.multiply(xp.multiply(g, g, out=spare), 1.0 - beta2, out=spare)
        xp.add(square, spare, out=square)
        if group["amsgrad"]:
            greatest = slot.array("max_exp_avg_sq")
            square = xp.maximum(greatest, square, out=greatest)
        # sqrt(1 - beta2^t) is moved out of the array: one pass over it less.
        unbias = math.sqrt(1.0 - beta2**slot.step)
        xp.add(xp.sqrt(square, out=spare), group["eps"] * unbias, out=spare)
        xp.divide(mean, spare, out=spare)
        xp.multiply(spare, group["lr"] * unbias / (1.0 - beta1**slot.step), out=spare)
