"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from microtensor.backend import Array
from microtensor.optim.optimizer import Optimizer, Slot, check_number
from microtensor.tensor import Tensor

__all__ = ["SGD"]


class SGD(Optimizer):
    """Gradient descent, with momentum if asked for; PyTorch's formulas and defaults.

        g <- grad + weight_decay p
        b <- g                                      at the first update
        b <- momentum b + (1 - dampening) g         afterwards
        p <- p - lr b                               plain
        p <- p - lr (g + momentum b)                with nesterov

    Without momentum b is g. `maximize` starts from -grad. (Sutskever, Martens, Dahl and Hinton
    2013, "On the importance of initialization and momentum in deep learning"; there the learning
    rate stands inside the momentum, here outside, as in PyTorch.)

    Parameters
    ----------
    params
        Tensors, or groups of them; see `Optimizer`.
    lr, momentum, dampening, weight_decay
        As in the formulas; none negative. `lr` may be K numbers for a stack of K trials.
    nesterov
        Whether to look ahead; needs momentum and no dampening.
    maximize
        Whether to climb instead.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float | Sequence[float] = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
            },
        )

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        check_number("momentum", group["momentum"])
        check_number("dampening", group["dampening"])
        if group["nesterov"] and (not group["momentum"] or group["dampening"]):
            raise ValueError("nesterov needs a momentum above 0 and no dampening")

    def _state(self, group: Mapping[str, Any]) -> dict[str, float]:
        return {"momentum_buffer": 0.0} if group["momentum"] else {}

    def _update(
        self, xp: Any, data: Array, gradient: Array, slot: Slot, group: dict[str, Any]
    ) -> None:
        g, spare = self._gradient(xp, data, gradient, slot, group), slot.spare
        momentum = group["momentum"]
        if momentum:
            fresh = slot.step == 1 or "momentum_buffer" not in slot.arrays
            velocity = slot.array("momentum_buffer")
            if fresh:
                velocity[...] = g
            else:
                xp.multiply(velocity, momentum, out=velocity)
                xp.add(velocity, xp.multiply(g, 1.0 - group["dampening"], out=spare), out=velocity)
            if group["nesterov"]:
                g = xp.add(g, xp.multiply(velocity, momentum, out=spare), out=slot.scratch)
            else:
                g = velocity
        xp.multiply(g, group["lr"], out=spare)
