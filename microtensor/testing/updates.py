"""Two ways that weights went, and what kind of mistake makes the one differ so from the other.

`check_optimizer` measures them: after every step the weights of the optimizer, those of the
formula, and how far rounding may have driven them apart.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

__all__ = ["Fault", "Paths", "Problem", "errors", "first_fault", "guess"]

Gradients = list[list[Any]]  # of every step, for every parameter; None where there is none


class Problem(NamedTuple):
    """First weights, and the gradients of every step; None where a parameter has none."""

    starts: list[np.ndarray]
    gradients: Gradients

    def only(self, i: int, element: tuple[int, ...] | None = None) -> Problem:
        """Parameter i by itself; or one number of it."""

        def part(array: Any) -> Any:
            return array if array is None or element is None else np.asarray(array[element])

        return Problem([part(self.starts[i])], [[part(row[i])] for row in self.gradients])

    def until(self, step: int) -> Problem:
        """No more steps than these."""
        return Problem(self.starts, self.gradients[:step])

    def after_a_zero(self) -> Problem:
        """One step more, whose gradient is zero: it moves nothing, and is counted."""
        zeros = [np.zeros_like(start) for start in self.starts]
        return Problem(self.starts, [zeros, *self.gradients])


class Paths(NamedTuple):
    """The weights of one parameter before the first step and after each, and what may be off."""

    ours: list[np.ndarray]
    formulas: list[np.ndarray]
    allowed: list[np.ndarray]


class Fault(NamedTuple):
    """The first step that is wrong, counted from 1, and the number that is worst there."""

    step: int
    parameter: int
    element: tuple[int, ...]
    error: float


def errors(path: Paths) -> list[np.ndarray]:
    """Differences after every step, as fractions of what is allowed; infinite for a NaN of ours.

    Where the formula itself is not finite nothing can be said, and the error is 0.
    """
    found = []
    for ours, formula, allowed in zip(*path, strict=True):
        with np.errstate(all="ignore"):
            gap = np.abs(ours.astype(np.float64) - formula)
            error = np.where(gap == 0.0, 0.0, gap / allowed)
        error = np.where(np.isnan(error), np.inf, error)
        found.append(np.where(np.isfinite(formula), error, 0.0))
    return found


def first_fault(paths: list[Paths]) -> Fault | None:
    """The worst number of the first step after which one is out of tolerance."""
    of_all = [errors(path) for path in paths]
    for k in range(len(of_all[0])):
        worst = max(range(len(paths)), key=lambda i: float(of_all[i][k].max(initial=0.0)))
        found = of_all[worst][k]
        if found.size and found.max() > 1.0:
            element = tuple(int(n) for n in np.unravel_index(int(found.argmax()), found.shape))
            return Fault(k, worst, element, float(found.max()))
    return None


def guess(
    problem: Problem, paths: list[Paths], counted: list[list[np.ndarray]], fault: Fault
) -> tuple[str, str]:
    """A short code and a sentence: what kind of mistake gives such numbers.

    Parameters
    ----------
    problem, paths
        What was given and what came of it, for every parameter.
    counted
        For every parameter the formula's weights, had there been a step with zero gradients before.
    fault
        The first wrong number.
    """
    k, i = fault.step, fault.parameter
    if paths[0].ours[0].dtype == np.float64 and all(_agree(p, p.formulas, 1e-5) for p in paths):
        return "precision", "all agrees to about 1e-7: something is kept in float32"
    if all(_agree(p, path) for p, path in zip(paths, counted, strict=True)):
        return "shift", "so it would be after one step more: steps are counted from 2"
    late = [[p.formulas[0], *p.formulas[:-1]] for p in paths]
    if len(problem.gradients) > 1 and all(map(_agree, paths, late)):
        return "shift", "it is one step late: each step makes the update of the one before"
    if all(np.array_equal(weight, paths[i].ours[0]) for weight in paths[i].ours):
        return "cut", "this parameter never moves"

    here, *later = [_factor(problem, paths, j) for j in range(k, len(paths[i].ours))]
    known = [factor for factor in later if factor is not None]
    if here is not None and abs(here + 1.0) < 1e-2:
        return "sign", "all updates of this step go the other way: the sign"
    # The two bias corrections of Adam may cancel in the first step, and only there.
    if here is not None and any(abs(f - 1.0) > 1e-2 for f in (here, *(known if k == 1 else ()))):
        what = f"all updates of this step are {here:.4g} times what they should be"
        if all(abs(factor / here - 1.0) < 1e-2 for factor in known):
            return "factor", what
        shown = ", ".join(f"{factor:.4g}" for factor in known)
        return "factor", (
            f"{what}, those of later steps {shown} times: a bias correction, or a learning rate "
            "that changes"
        )
    moved, wanted, slack = _moves(paths, k)
    for cause, what, values in _suspects(problem, paths, k):
        excess = _common(moved - wanted, values, slack)
        if excess is not None:
            return cause, f"the update is off by {excess:.4g} times {what}"
    if k > 1:
        return "state", (
            "the first step is right, so what is kept from step to step is not: a decay rate, a "
            "count, a buffer"
        )
    if _worst_where_small(moved, wanted, _flat(problem, problem.gradients[0])):
        return "epsilon", (
            "the smaller the gradient, the worse: what keeps the division from zero, its size or "
            "on which side of the root it stands"
        )
    return "", "the very first step is wrong: the rule itself, or what its state starts with"


def _agree(path: Paths, other: list[np.ndarray], rtol: float = 0.0) -> bool:
    """Whether the optimizer went the other way, up to what is allowed, after every step."""
    way = np.zeros(path.ours[0].shape)
    for k in range(1, len(other)):
        way = way + np.abs(path.formulas[k] - path.formulas[k - 1])
        if not np.all(np.abs(path.ours[k] - other[k]) <= path.allowed[k] + rtol * way):
            return False
    return True


def _moves(paths: list[Paths], k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What step k did to all numbers of all parameters: by the optimizer, by the formula.

    And how far both may be apart.
    """
    moved = [(path.ours[k].astype(np.float64) - path.ours[k - 1]).ravel() for path in paths]
    wanted = [(path.formulas[k] - path.formulas[k - 1]).ravel() for path in paths]
    slack = [(path.allowed[k] + path.allowed[k - 1]).ravel() for path in paths]
    return np.concatenate(moved), np.concatenate(wanted), np.concatenate(slack)


def _factor(problem: Problem, paths: list[Paths], k: int) -> float | None:
    """By what step k has multiplied all updates; tiny gradients, where epsilons act, left out."""
    size = np.abs(_flat(problem, problem.gradients[k - 1]))
    moved, wanted, slack = _moves(paths, k)
    large = size >= np.quantile(size, 0.6) if size.size > 6 else size >= 0.0
    return _common(moved[large], wanted[large], slack[large])


def _common(above: np.ndarray, below: np.ndarray, slack: np.ndarray) -> float | None:
    """The factor from `below` to `above`, if it is the same for all numbers, three at least."""
    clear = np.abs(below) > 1e3 * slack
    if clear.sum() < 3:
        return None
    factor = float(np.median(above[clear] / below[clear]))
    gap = np.abs(above - factor * below)
    near = gap <= 5e-3 * abs(factor) * np.abs(below) + (1.0 + abs(factor)) * slack
    return factor if factor and near.all() else None


def _suspects(problem: Problem, paths: list[Paths], k: int) -> list[tuple[str, str, np.ndarray]]:
    """What an update could be off by a multiple of: a code, words, the numbers."""
    weights = _flat(problem, [path.ours[k - 1] for path in paths])
    found = [("decay", "the weight", weights)]
    gradients = _flat(problem, problem.gradients[k - 1])
    if k == 1:
        return [*found, ("factor", "the gradient", gradients)]
    before = _flat(problem, problem.gradients[k - 2])
    return [
        *found,
        ("state", "the gradient, from the second step on", gradients),
        ("state", "the gradient of the step before", before),
    ]


def _worst_where_small(moved: np.ndarray, wanted: np.ndarray, gradients: np.ndarray) -> bool:
    """Whether updates are wrong where gradients are small, and nearly right where they are not."""
    clear = (wanted != 0.0) & (gradients != 0.0)
    if clear.sum() < 4:
        return False
    order = np.argsort(np.abs(gradients[clear]))
    error = np.abs(moved[clear] / wanted[clear] - 1.0)[order]
    quarter = error.size // 4
    return bool(error[-quarter:].max() < 0.1 * error[:quarter].max())


def _flat(problem: Problem, arrays: list[Any]) -> np.ndarray:
    """The numbers of all parameters in a row; NaN for a missing gradient."""
    return np.concatenate(
        [
            np.full(start.size, np.nan) if array is None else np.float64(array).ravel()
            for array, start in zip(arrays, problem.starts, strict=True)
        ]
    )
