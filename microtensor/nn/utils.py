"""Clipping gradients, between `backward` and the optimizer's step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from microtensor import backend, writes
from microtensor.tensor import Tensor

__all__ = ["clip_grad_norm_", "clip_grad_value_"]


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Shrink all gradients by one factor so that their norm, taken together, is at most `max_norm`.

    g <- g min(1, max_norm / (|g| + 1e-6)), where |g| is the norm of all gradients as one vector.
    (Pascanu, Mikolov and Bengio 2013, "On the difficulty of training recurrent neural networks",
    algorithm 1; the 1e-6 is PyTorch's.) In a stack (see `nn.stack`) each trial has its own norm,
    and is clipped by it.

    Parameters
    ----------
    parameters
        A tensor or several; those without a gradient are passed over. Gradients change in place.
    max_norm
        The largest norm allowed, not negative.
    norm_type
        p of the p-norm: a positive number, `math.inf` for the largest absolute value.
    error_if_nonfinite
        Whether a norm that is NaN or infinite is an error.

    Returns
    -------
    Tensor
        The norm before clipping, 0-d; of a stack's K trials (K,).

    Raises
    ------
    ValueError
        If `max_norm` is negative or `norm_type` not positive, or only some of the parameters are
        of a stack.
    RuntimeError
        If `error_if_nonfinite` and the norm is NaN or infinite; nothing is changed then.
    """
    if not max_norm >= 0:
        raise ValueError(f"max_norm must not be negative, got {max_norm!r}")
    if not norm_type > 0:
        raise ValueError(f"norm_type must be positive, got {norm_type!r}")
    several = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    trials = _trials(several)
    lead = () if trials is None else (trials,)
    gradients = _gradients(several)
    if not gradients:
        return Tensor(backend.default().xp.zeros(lead, "float32"))
    xp = backend.namespaces[type(gradients[0])]
    # Of a stack one row a trial.
    flat = gradients if trials is None else [g.reshape(trials, -1) for g in gradients if g.size]
    axis = None if trials is None else 1
    if math.isinf(norm_type):
        largest = [abs(g).max(axis) for g in flat if g.size] or [xp.zeros(lead)]
        total = xp.stack(largest).max(0)
    else:
        powers = [(g * g) if norm_type == 2.0 else abs(g) ** norm_type for g in flat]
        total = sum([power.sum(axis) for power in powers], start=xp.zeros(lead, gradients[0].dtype))
        # Not **, which rounds numbers that are no arrays in another way.
        total = xp.sqrt(total) if norm_type == 2.0 else xp.power(total, 1.0 / norm_type)
    total = xp.asarray(total)
    if error_if_nonfinite and not bool(xp.isfinite(total).all()):
        shown = Tensor(total).to("numpy").data.tolist()
        raise RuntimeError(
            f"the gradients' norm is {shown}, so they cannot be clipped; "
            "detect_anomaly() finds the operation that made the first NaN or infinity"
        )
    # Kept on the device: comparing with max_norm on the host would wait for the GPU.
    factor = xp.minimum(max_norm / (total + 1e-6), 1.0)
    for g in gradients:
        mine = factor if trials is None else factor.reshape(trials, *[1] * (g.ndim - 1))
        xp.multiply(g, mine.astype(g.dtype), out=g)
        writes.written(g)
    return Tensor(total)


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Bring every element of every gradient into [-clip_value, clip_value], in place.

    Raises
    ------
    ValueError
        If `clip_value` is negative.
    """
    if not clip_value >= 0:
        raise ValueError(f"clip_value must not be negative, got {clip_value!r}")
    for g in _gradients(parameters):
        xp = backend.namespaces[type(g)]
        xp.minimum(xp.maximum(g, -clip_value), clip_value, out=g)
        writes.written(g)


def _trials(parameters: list[Tensor]) -> int | None:
    """K, if the parameters are those of a stack of K trials."""
    found = {getattr(parameter, "trials", None) for parameter in parameters}
    if len(found) > 1:
        shown = ", ".join(sorted(map(str, found)))
        raise ValueError(
            f"these parameters are of stacks of different numbers of trials ({shown}), so they "
            "have no norm in common; clip those of each model by themselves"
        )
    return found.pop() if found else None


def _gradients(parameters: Tensor | Iterable[Tensor]) -> list[Any]:
    """The bare gradients, each parameter once."""
    several = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    unique = {id(parameter): parameter for parameter in several}
    return [p.grad.data for p in unique.values() if p.grad is not None]
