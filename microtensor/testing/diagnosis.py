"""What a wrong gradient looks like: a guess at the mistake from the pattern of the numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

_SAME = 1e-4  # relative: patterns are told from numbers that are right to a few digits
_BLOCKS = (2, 3, 4)


class Guess(NamedTuple):
    """A code and a sentence."""

    cause: str
    text: str


class Evidence(NamedTuple):
    """One input's gradient by the chain rule and by numbers, and what else there is to see.

    `numeric` may hold NaN where nothing was measured.
    """

    which: int  # of the inputs below
    analytic: np.ndarray
    numeric: np.ndarray
    labels: Sequence[str]
    inputs: Sequence[np.ndarray]  # those that are differentiated
    numerics: Sequence[np.ndarray]  # the gradients of all of them, by numbers
    analytics: Sequence[np.ndarray]  # and by the chain rule
    outputs: Sequence[np.ndarray]
    spread: Callable[[], np.ndarray | None]  # the gradient of the input repeated to the output


def same(a: Any, b: Any) -> bool:
    """Whether the numbers of two arrays agree to a few digits, each of them."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.size == 0:
        return False
    sizes = np.maximum(np.abs(a), np.abs(b))
    size = float(np.max(sizes))
    return size > 0 and bool(np.all(np.abs(a - b) <= _SAME * sizes + 1e-9 * size))


def guess(evidence: Evidence) -> Guess:
    """The first pattern that fits, the most telling first; ("", "") if none does."""
    measured = np.isfinite(evidence.numeric) & np.isfinite(evidence.analytic)
    complete = bool(measured.all())
    looks: list[Callable[[Evidence], Guess | None]] = [_constant_ratio]
    if complete:
        looks = [
            _nothing,
            _rounded,
            _constant_ratio,
            _moved,
            _another_input,
            _missing_sum,
            _signs,
            _factor,
            _parts,
        ]
    for look in looks:
        found = look(evidence)
        if found is not None:
            return found
    return Guess("", "")


def _nothing(e: Evidence) -> Guess | None:
    if np.any(e.analytic):
        return None
    return Guess(
        "cut",
        "Nothing arrives: the way to this input is cut (a detach, a constant, a forgotten "
        "contribution), or its rule returns zeros.",
    )


def _rounded(e: Evidence) -> Guess | None:
    size = float(np.max(np.abs(e.numeric), initial=0))
    if not size:
        return None
    error = float(
        np.max(np.abs(e.analytic - e.numeric) / np.maximum(np.abs(e.numeric), 1e-12 * size))
    )
    if not 1e-10 < error < 1e-6:
        return None
    return Guess(
        "precision",
        f"Every number is right to {error:.0e}: that is float32's precision. "
        "Something on the way computes in float32, or holds a constant of that precision.",
    )


def _constant_ratio(e: Evidence) -> Guess | None:
    numeric, analytic = e.numeric.ravel(), e.analytic.ravel()
    keep = np.isfinite(numeric) & np.isfinite(analytic)
    numeric, analytic = numeric[keep], analytic[keep]
    total = float(np.sum(numeric * numeric))
    if not total:
        return None
    ratio = float(np.sum(analytic * numeric)) / total
    if abs(ratio) < 1e-3 or abs(ratio - 1) < _SAME or not same(analytic, ratio * numeric):
        return None
    if abs(ratio + 1) < _SAME:
        return Guess("sign", "Everywhere the ratio is -1: the sign is wrong.")
    return Guess("scale", f"Everywhere the ratio is {ratio:.6g}: {_of_scale(ratio, e)}.")


def _of_scale(ratio: float, e: Evidence) -> str:
    lengths = sorted({n for array in (*e.inputs, *e.outputs) for n in array.shape if n > 1})
    lengths += sorted({array.size for array in (*e.inputs, *e.outputs)} - {0, 1, *lengths})
    for n in lengths:
        if n > 2 and abs(abs(ratio) - n) < _SAME * n:
            return (
                f"{n} is the length of an axis: a sum where the mean is due, or {n} times too much"
            )
        if n > 2 and abs(abs(ratio) * n - 1) < _SAME:
            return f"1/{n}, and {n} is the length of an axis: a mean where the sum is due"
    if abs(ratio - 2) < _SAME:
        return "a contribution is added twice, or a factor 2 is too much"
    if abs(ratio - round(ratio)) < _SAME and ratio > 2:
        return f"a contribution is added {ratio:.0f} times, or a factor {ratio:.0f} is too much"
    if abs(ratio - 0.5) < _SAME:
        return "one of two equal contributions is missing, or a factor 2"
    return "a constant factor is wrong"


def _moved(e: Evidence) -> Guess | None:
    """The right numbers at wrong places."""
    a, n = e.analytic, e.numeric
    if a.size < 2:
        return None
    for axes in itertools.permutations(range(a.ndim)) if a.ndim < 4 else ():
        if axes != tuple(range(a.ndim)) and same(n.transpose(axes), a):
            return Guess("transpose", f"It is the transpose of what is right (axes {axes}).")
    for axis in range(a.ndim):
        if a.shape[axis] > 1 and same(np.flip(n, axis), a):
            return Guess("reversed", f"It is what is right, but backward along axis {axis}.")
    for axis, by in itertools.product(range(a.ndim), (1, -1)):
        if a.shape[axis] > 2 and _shifted(a, n, axis, by):
            return Guess("shift", f"It is what is right, but one step off along axis {axis}.")
    for axis, count in itertools.product(range(a.ndim), _BLOCKS):
        if a.shape[axis] % count == 0 and a.shape[axis] >= count:
            blocks = np.split(n, count, axis)
            for order in itertools.permutations(range(count)):
                inverted = np.concatenate([blocks[i] for i in order], axis)
                if order != tuple(range(count)) and same(inverted, a):
                    return Guess(
                        "blocks",
                        f"Its {count} blocks along axis {axis} (gates?) are exchanged: in place of "
                        f"blocks {(*range(count),)} stand {order}.",
                    )
    return _flat_orders(a, n)


def _flat_orders(a: np.ndarray, n: np.ndarray) -> Guess | None:
    if a.ndim > 1 and (
        same(n.ravel(order="F").reshape(a.shape), a) or same(n.ravel(), a.ravel(order="F"))
    ):
        return Guess(
            "transpose", "The right numbers in another order of axes: reshaped, not transposed."
        )
    return None


def _shifted(a: np.ndarray, n: np.ndarray, axis: int, by: int) -> bool:
    length = a.shape[axis]
    front, back = range(length - 1), range(1, length)
    mine, right = (back, front) if by == 1 else (front, back)
    return same(np.take(a, mine, axis), np.take(n, right, axis))


def _another_input(e: Evidence) -> Guess | None:
    for j, other in enumerate(e.numerics):
        if j != e.which and same(other, e.analytic) and same(e.analytics[j], e.numeric):
            return Guess(
                "exchanged", f"It is the gradient of {e.labels[j]}: two rules are exchanged."
            )
    return None


def _missing_sum(e: Evidence) -> Guess | None:
    """Whether the gradient is one slice, where the sum over a repeated axis is due."""
    spread = e.spread()
    if spread is None:
        return None
    shape = e.analytic.shape
    extra = spread.ndim - len(shape)
    axes = [i for i in range(spread.ndim) if i < extra or shape[i - extra] != spread.shape[i]]
    for chosen in _subsets(axes):
        rest = tuple(i for i in axes if i not in chosen)
        summed = spread.sum(rest, keepdims=True)
        for what, picked in (
            ("the first", np.take(summed, [0], chosen[0])),
            ("the last", np.take(summed, [-1], chosen[0])),
        ):
            for axis in chosen[1:]:
                picked = np.take(picked, [0] if what == "the first" else [-1], axis)
            if same(picked.reshape(shape), e.analytic):
                where = ", ".join(map(str, chosen))
                return Guess(
                    "broadcast",
                    f"This input is repeated along axis {where} of the result, and the gradient "
                    f"is that of {what} repetition alone: a sum over the axis is missing.",
                )
    return None


def _subsets(axes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    for count in range(1, len(axes) + 1):
        yield from itertools.combinations(axes, count)


def _signs(e: Evidence) -> Guess | None:
    """Right but for the sign of some."""
    if not same(np.abs(e.analytic), np.abs(e.numeric)):
        return None
    count = int(np.sum(e.analytic * e.numeric < 0))
    if not count:
        return None
    return Guess(
        "sign", f"At {count} of {e.analytic.size} numbers the sign is wrong; right elsewhere."
    )


def _factor(e: Evidence) -> Guess | None:
    """Whether some input or output is a factor too much, too little, or in another's place."""
    if e.analytic.size < 2:
        return None
    named = [(label, x) for label, x in zip(e.labels, e.inputs, strict=True)]
    named += [(f"output {i}", y) for i, y in enumerate(e.outputs)]
    fitting = [(label, x) for label, x in named if x.shape == e.analytic.shape and np.all(x)]
    a, n = e.analytic, e.numeric
    for label, x in fitting:
        if same(n * x, a):
            return Guess(
                "factor", f"The ratio is everywhere the value of {label}: a factor too much."
            )
        if same(n, a * x):
            return Guess("factor", f"The ratio is everywhere 1 / {label}: that factor is missing.")
        if same(-n * x, a) or same(-n, a * x):
            return Guess("factor", f"But for the sign, {label} is a factor too much or missing.")
    for (label, x), (other, y) in itertools.permutations(fitting, 2):
        if same(n * x, a * y):
            return Guess(
                "factor", f"The ratio is everywhere {label} / {other}: one stands for the other."
            )
    return None


def _parts(e: Evidence) -> Guess | None:
    """Where it is right and where it is wrong."""
    a, n = e.analytic, e.numeric
    size = float(np.max(np.abs(n), initial=0))
    wrong = np.abs(a - n) > _SAME * np.maximum(np.abs(n), 1e-3 * size)
    count = int(wrong.sum())
    if not 0 < count < a.size:
        return None
    where = [np.unique(indices) for indices in np.nonzero(wrong)]
    places = [
        f"index {', '.join(map(str, found))} of axis {axis}"
        for axis, found in enumerate(where)
        if len(found) < a.shape[axis]
    ]
    zero = " (it is zero there)" if not np.any(a[wrong]) else ""
    at = f", all at {' and '.join(places)}" if places else ""
    return Guess(
        "partial", f"It is wrong at {count} of {a.size} numbers{at}{zero}; right elsewhere."
    )
