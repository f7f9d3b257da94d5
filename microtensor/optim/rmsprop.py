"""RMSprop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from microtensor.backend import Array
from microtensor.optim.optimizer import Optimizer, Slot, check_number
from microtensor.tensor import Tensor

__all__ = ["RMSprop"]


class RMSprop(Optimizer):
    """Gradients divided by a running root mean square; PyTorch's formulas and defaults.

        g <- grad + weight_decay p
        v <- alpha v + (1 - alpha) g^2
        d <- sqrt(v) + eps
        m <- alpha m + (1 - alpha) g,   d <- sqrt(v - m^2) + eps         if centered
        p <- p - lr g / d
        b <- momentum b + g / d,        p <- p - lr b                   with momentum

    v, m and b start at zero. (Tieleman and Hinton 2012, Coursera lecture 6.5; the centered form is
    Graves 2013, "Generating sequences with recurrent neural networks".)

    Parameters
    ----------
    params
        Tensors, or groups of them; see `Optimizer`.
    lr, eps, weight_decay, momentum
        As in the formulas; none negative. `lr` may be K numbers for a stack of K trials.
    alpha
        0 <= alpha < 1. Keras calls it rho, with 0.9.
    centered
        Whether to divide by the standard deviation instead.
    maximize
        Whether to climb instead: start from -grad.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float | Sequence[float] = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "alpha": alpha,
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "centered": centered,
                "maximize": maximize,
            },
        )

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        check_number("alpha", group["alpha"], below=1.0)
        check_number("eps", group["eps"])
        check_number("momentum", group["momentum"])

    def _state(self, group: Mapping[str, Any]) -> dict[str, float]:
        names = ["square_avg"]
        names += ["grad_avg"] if group["centered"] else []
        names += ["momentum_buffer"] if group["momentum"] else []
        return dict.fromkeys(names, 0.0)

    def _update(
        self, xp: Any, data: Array, gradient: Array, slot: Slot, group: dict[str, Any]
    ) -> None:
        arrays, spare = slot.arrays, slot.spare
        g = self._gradient(xp, data, gradient, slot, group)
        alpha = group["alpha"]
        square = arrays["square_avg"]
        xp.multiply(square, alpha, out=square)
        xp.multiply(xp.multiply(g, g, out=spare), 1.0 - alpha, out=spare)
        xp.add(square, spare, out=square)
        if group["centered"]:
            mean = slot.array("grad_avg")
            xp.multiply(mean, alpha, out=mean)
            xp.add(mean, xp.multiply(g, 1.0 - alpha, out=spare), out=mean)
            xp.subtract(square, xp.multiply(mean, mean, out=spare), out=spare)
            xp.sqrt(spare, out=spare)
        else:
            xp.sqrt(square, out=spare)
        xp.add(spare, group["eps"], out=spare)
        xp.divide(g, spare, out=spare)
        momentum = group["momentum"]
        if momentum:
            velocity = slot.array("momentum_buffer")
            xp.multiply(velocity, momentum, out=velocity)
            xp.add(velocity, spare, out=velocity)
            xp.multiply(velocity, group["lr"], out=spare)
        else:
            xp.multiply(spare, group["lr"], out=spare)
