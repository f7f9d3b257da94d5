"""Losses, from numbers that are safe to take logarithms of: each is exact for extreme logits too.

`reduction` is "mean" (over all elements), "sum", "none", or "trial": the mean over all elements but
for the first axis, a number for each trial of a stack. Prediction and target must have the same
shape: (N, 1) against (N,) would broadcast to (N, N) and be silently wrong, so it is refused.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from microtensor import backend, engine, guards, modes
from microtensor.backend import Array
from microtensor.engine import primitive
from microtensor.ops.elementwise import multiply, softplus
from microtensor.ops.indexing import take
from microtensor.ops.piecewise import maximum, sign
from microtensor.ops.reduction import log_softmax, mean, sum
from microtensor.ops.shape import inverse, reshape, transpose

_MASK = 'multiply the losses of reduction="none" by numbers that come as an argument'
REDUCTIONS = ("mean", "sum", "none", "trial")


def _reduce(losses: Any, reduction: str) -> Any:
    """A tensor, or an array, of losses, reduced."""
    check_reduction(reduction)
    if reduction == "trial":
        check_trial_axis(losses)
        return mean(losses, axis=tuple(range(1, losses.ndim))) if losses.ndim > 1 else losses
    return losses if reduction == "none" else (mean if reduction == "mean" else sum)(losses)


# A loss and its reduction are one operation: so a small network spends its time on its own work.


def _reduced(xp: Any, losses: Array, reduction: str) -> Array:
    """`_reduce` within a forward function."""
    if reduction == "mean":
        return xp.add.reduce(losses, None) / losses.size
    return losses if reduction == "none" else _reduce(losses, reduction)


def _each(g: Any, shape: tuple[int, ...], reduction: str) -> Any:
    """The cotangent of each loss, from that of the reduced ones; alike ones are left to broadcast.

    It meets (x - target), or the like, of the given shape.
    """
    if reduction == "mean":
        return g / math.prod(shape)
    if reduction == "trial":
        return reshape(g / math.prod(shape[1:]), (-1, *[1] * (len(shape) - 1)))
    return g


def check_trial_axis(losses: Any) -> None:
    """Raise a ValueError if there is no first axis that could be the trials'."""
    if losses.ndim == 0:
        raise ValueError('reduction "trial" needs a first axis, the trials; got a single number')


def check_reduction(reduction: str) -> None:
    """Raise a ValueError unless it is "mean", "sum", "none" or "trial"."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {REDUCTIONS}, not {reduction!r}")


def _matched(loss: str, x: Any, target: Any) -> Any:
    """The target, checked against the prediction; integers as floats of the prediction's dtype."""
    shape, other = getattr(x, "shape", None), getattr(target, "shape", None)
    if shape is None or other is None:
        what = x if shape is None else target
        raise TypeError(
            f"{loss} compares tensors or arrays, not a {type(what).__name__}; make one of it "
            "with mt.tensor(...)"
        )
    if shape != other:
        raise ValueError(
            f"{loss}: prediction of shape {shape} and target of shape {other} differ; "
            "reshape one of them (a difference of (N, 1) and (N,) would silently compare "
            "everything with everything)"
        )
    return target.astype(x.dtype) if target.dtype.kind in "iub" else target


@primitive(broadcasts=True)
def _mse_loss(xp: Any, x: Array, target: Array, *, reduction: str) -> Array:
    return _reduced(xp, xp.square(x - target), reduction)


def _mse_rule(g: Any, x: Any, target: Any, reduction: str) -> Any:
    return _each(g * 2, x.shape, reduction) * (x - target)


_mse_loss.vjp("x", _mse_rule)
_mse_loss.vjp("target", lambda g, x, target, reduction: -_mse_rule(g, x, target, reduction))


def mse_loss(x: Any, target: Any, reduction: str = "mean") -> Any:
    """(x - target) ** 2, for tensors of one shape."""
    target = _matched("mse_loss", x, target)
    return _mse_loss(x, target, reduction=reduction)


@primitive(broadcasts=True)
def _l1_loss(xp: Any, x: Array, target: Array, *, reduction: str) -> Array:
    return _reduced(xp, xp.absolute(x - target), reduction)


def _l1_rule(g: Any, x: Any, target: Any, reduction: str) -> Any:
    return _each(g, x.shape, reduction) * sign(x - target)


_l1_loss.vjp("x", _l1_rule)
_l1_loss.vjp("target", lambda g, x, target, reduction: -_l1_rule(g, x, target, reduction))


def l1_loss(x: Any, target: Any, reduction: str = "mean") -> Any:
    """|x - target|, for tensors of one shape."""
    target = _matched("l1_loss", x, target)
    return _l1_loss(x, target, reduction=reduction)


@primitive
def _bounded_log(xp: Any, p: Array) -> Array:
    """log(p), but never below -100 (PyTorch's bound, which keeps a hopeless loss finite)."""
    positive = p > 0
    return xp.where(positive, xp.maximum(xp.log(xp.where(positive, p, 1)), -100), -100)


@primitive
def _bounded_log1m(xp: Any, p: Array) -> Array:
    """log(1 - p), exact for small p, but never below -100."""
    below = p < 1
    return xp.where(below, xp.maximum(xp.log1p(-xp.where(below, p, 0)), -100), -100)


_bounded_log.vjp("p", lambda g, p: g / maximum(p, 1e-12))
_bounded_log1m.vjp("p", lambda g, p: -g / maximum(1 - p, 1e-12))


def binary_cross_entropy(p: Any, target: Any, reduction: str = "mean") -> Any:
    """-(target log p + (1 - target) log(1 - p)), for probabilities and targets of one shape.

    Where there are logits, `binary_cross_entropy_with_logits` is exact and this is not.

    Raises
    ------
    ValueError
        For unequal shapes, or a p outside [0, 1] (looking costs a transfer on a GPU).
    """
    target = _matched("binary_cross_entropy", p, target)
    array = p.data if isinstance(p, engine.Tensor) else p
    if not bool(((array >= 0) & (array <= 1)).all()):
        raise ValueError(
            "binary_cross_entropy takes probabilities, and some are outside [0, 1]; apply sigmoid "
            "first, or use binary_cross_entropy_with_logits on the raw scores"
        )
    return _reduce(-(target * _bounded_log(p) + (1 - target) * _bounded_log1m(p)), reduction)


def _bce_in_steps(x: Any, target: Any, reduction: str) -> Any:
    """The same loss in primitives: its composite."""
    return _reduce(softplus(x) - x * target, reduction)


@primitive(broadcasts=True, residuals=("p",), composite=_bce_in_steps)
def _bce_with_logits(xp: Any, x: Array, target: Array, *, reduction: str) -> Any:
    rest = xp.log1p(xp.exp(-xp.absolute(x)))
    positive = xp.maximum(x, 0)
    p = xp.exp(x - positive - rest)  # sigmoid(x), of what is there already
    return _reduced(xp, positive - x * target + rest, reduction), p


_bce_with_logits.vjp(
    "x", lambda g, p, target, reduction: _each(g, p.shape, reduction) * (p - target)
)
_bce_with_logits.vjp("target", lambda g, x, reduction: -_each(g, x.shape, reduction) * x)


def binary_cross_entropy_with_logits(x: Any, target: Any, reduction: str = "mean") -> Any:
    """`binary_cross_entropy(sigmoid(x), target)`, exact for any x."""
    target = _matched("binary_cross_entropy_with_logits", x, target)
    return _bce_with_logits(x, target, reduction=reduction)


# Cross-entropy: one operation for softmax, logarithm, choice of the label and mean. It works on
# (C, n), classes first, because NumPy reduces long axes faster than short ones.


def _classes_first(axis: int, ndim: int) -> tuple[int, ...]:
    return (axis, *range(axis), *range(axis + 1, ndim))


@functools.lru_cache(8)
def _positions(n: int) -> np.ndarray:
    positions = np.arange(n)
    positions.flags.writeable = False
    return positions


def _cross_entropy_in_steps(
    logits: Any, chosen: Any, weights: Any, order: tuple[int, ...], reduction: str
) -> Any:
    """The same loss in primitives: its composite."""
    flat = reshape(transpose(logits, order), (logits.shape[order[0]], -1))
    losses = -take(log_softmax(flat, axis=0), chosen) * weights
    rest = [logits.shape[i] for i in order[1:]]
    return reshape(losses, rest) if reduction == "none" else sum(losses)


@primitive(residuals=("probabilities", "shape"), composite=_cross_entropy_in_steps)
def _cross_entropy(
    xp: Any,
    logits: Array,
    *,
    chosen: Array,
    weights: Any,
    order: tuple[int, ...],
    reduction: str,
) -> Any:
    x = logits.transpose(order)
    flat = xp.ascontiguousarray(x).reshape(x.shape[0], -1)
    centred = flat - flat.max(0)
    probabilities = xp.exp(centred)
    total = xp.add.reduce(probabilities, 0)
    probabilities /= total
    losses = (xp.log(total) - centred.reshape(-1).take(chosen)) * weights
    out = losses.reshape(x.shape[1:]) if reduction == "none" else xp.add.reduce(losses)
    return out, probabilities, logits.shape


def _cross_entropy_rule(
    g: Array,
    needs: Any,
    probabilities: Array,
    shape: Any,
    chosen: Array,
    weights: Any,
    order: tuple[int, ...],
) -> Any:
    scale = g.reshape(-1) * weights
    flat = probabilities * scale
    flat.reshape(-1)[chosen] -= scale
    return (flat.reshape([shape[i] for i in order]).transpose(inverse(order)),)


_cross_entropy.vjp_all(_cross_entropy_rule)


def cross_entropy(
    logits: Any,
    target: Any,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    axis: int = 1,
) -> Any:
    """-log(softmax(logits)[target]) for each position, over the classes along `axis`.

    Parameters
    ----------
    logits
        (N, C), (N, C, d1, ...) or (C,): floats, one for each class.
    target
        Labels (integers 0 ... C-1), of the shape of `logits` without `axis`; or probabilities
        (floats) of the shape of `logits`.
    weight
        (C,): a factor for each class. The mean is then divided by the sum of the factors used.
        With "trial" and "none" also (K, C): factors for each index of the target's first axis.
    ignore_index
        A label that counts for nothing.
    reduction
        "mean", "sum", "none"; "trial": the mean for each index of the target's first axis, over
        its own labels alone.
    axis
        The axis of the classes: 1 as in PyTorch (0 for logits of one axis); -1 puts them last.
        A stack's are (K, N, C) or more: there it is -1.

    Raises
    ------
    ValueError
        If shapes do not match or a label is out of range; the message gives value and position.
    TypeError
        If labels are neither integers nor floats.
    """
    check_reduction(reduction)
    array = logits.data if isinstance(logits, engine.Tensor) else logits
    ndim = array.ndim
    axis = 0 if ndim == 1 else axis
    if not -ndim <= axis < ndim:
        raise ValueError(f"cross_entropy: axis {axis} is out of range for shape {array.shape}")
    axis %= ndim
    if reduction == "trial" and axis == 0:
        raise ValueError(
            'cross_entropy: with reduction "trial" the first axis is the trials and cannot be the '
            f"classes; logits of shape {array.shape} have these along axis 0. Pass axis=-1"
        )
    target = target if hasattr(target, "dtype") else np.asarray(target)
    labels = target.data if isinstance(target, engine.Tensor) else target
    if labels.dtype.kind == "f":
        return _soft_cross_entropy(logits, target, weight, reduction, axis)
    known = backend.of(labels)
    noted = modes.noting.get() is not None  # then what is looked for is noted (capture.py)
    if noted and isinstance(labels, np.ndarray):
        raise guards.untold("labels")
    host = labels if noted else known.to_host(labels) if known else np.asarray(labels)
    ignored = _check_labels(host, array.shape, axis, ignore_index)
    order = _classes_first(axis, ndim)
    if ignored is None and weight is None and reduction in ("mean", "sum"):
        order = backend.order_from(axis, array) or order  # the positions may come in any order
        host = host.transpose([i - (i > axis) for i in order[1:]])
    flat = host.reshape(-1).astype(np.int64, copy=False)  # of uint8, products would wrap
    averaged = reduction in ("mean", "trial")
    trials = max(host.shape[0], 1) if reduction in ("none", "trial") and host.ndim else 1
    factors: Any = trials / flat.size if averaged and flat.size else 1.0
    if noted and weight is not None:
        raise guards.not_captured("cross_entropy with weights of classes", _MASK)
    if ignored is not None or weight is not None:
        factors = np.ones((trials, flat.size // trials), array.dtype)
        if ignored is not None:
            factors[ignored.reshape(trials, -1)] = 0
            flat = np.where(ignored.reshape(-1), 0, flat)
        if weight is not None:
            classes = array.shape[axis]
            of_class = _class_weights(weight, (trials, classes), reduction)
            factors *= np.take_along_axis(of_class, flat.reshape(trials, -1), 1)
        if averaged:
            factors /= factors.sum(1, keepdims=True)
        factors = factors.reshape(-1)
    xp = backend.namespaces[array.__class__]
    positions = xp.arange(flat.size) if noted else _positions(flat.size)
    losses = _cross_entropy(
        logits,
        chosen=xp.asarray(flat * flat.size + positions),
        weights=factors if isinstance(factors, float) else xp.asarray(factors),
        order=order,
        reduction="none" if reduction in ("none", "trial") else "sum",
    )
    if reduction == "trial" and losses.ndim > 1:
        losses = sum(losses, axis=tuple(range(1, losses.ndim)))
    return losses


def _class_weights(weight: Any, shape: tuple[int, int], reduction: str) -> np.ndarray:
    """The factors of the classes as (trials, C), the given shape."""
    bare = weight.data if isinstance(weight, engine.Tensor) else weight
    known = backend.of(bare)
    host = known.to_host(bare) if known else np.asarray(bare)
    alone = reduction in ("mean", "sum")
    if host.shape != shape[1:] and (alone or host.shape != shape):
        raise ValueError(
            f"cross_entropy: weight of shape {host.shape} must be {shape[1:]}, a factor for each "
            f"class{'' if alone else f', or {shape}, for each trial its own'}"
        )
    if isinstance(weight, engine.Tensor) and weight.requires_grad:
        raise ValueError("cross_entropy: weight is a constant here; pass weight.detach()")
    return np.broadcast_to(host, shape)


def _soft_cross_entropy(logits: Any, target: Any, weight: Any, reduction: str, axis: int) -> Any:
    target = _matched("cross_entropy with probabilities", logits, target)
    logs = log_softmax(logits, axis=axis)
    if weight is not None:
        shape = [n if i == axis else 1 for i, n in enumerate(logits.shape)]
        if reduction in ("none", "trial") and weight.ndim == 2:
            shape[0] = logits.shape[0]
        logs = logs * reshape(weight, shape)
    losses = -sum(multiply(target, logs), axis=axis)
    return _reduce(losses, reduction)


_UNSIGNED = {n: np.dtype(f"u{n}") for n in (1, 2, 4, 8)}


def _check_labels(
    labels: np.ndarray, shape: tuple[int, ...], axis: int, ignore_index: int
) -> np.ndarray | None:
    """Refuse labels that do not fit; returns which are to be ignored (None: not one)."""
    classes, expected = shape[axis], shape[:axis] + shape[axis + 1 :]
    if labels.dtype.kind not in "iu":
        raise TypeError(
            f"cross_entropy: labels must be integers (or float probabilities), not {labels.dtype}"
        )
    if labels.shape != expected:
        raise ValueError(
            f"cross_entropy: logits of shape {shape} with classes along axis {axis} need labels of "
            f"shape {expected}, got {labels.shape}"
        )
    if not 0 <= ignore_index < classes:
        # Seen as unsigned, a negative label is a huge one: one look at the largest is enough.
        unsigned = labels.view(_UNSIGNED[labels.dtype.itemsize])
        if labels.size == 0 or unsigned.max() < classes:
            return None
    ignored = labels == ignore_index
    wrong = (labels < 0) | (labels >= classes)
    wrong &= ~ignored
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"cross_entropy: label {labels[at]} at position {at} is out of range; with {classes} "
            f"classes labels are 0 ... {classes - 1}"
        )
    if modes.noting.get() is not None:
        raise guards.not_captured("cross_entropy with labels to be ignored", _MASK)
    return np.asarray(ignored)
