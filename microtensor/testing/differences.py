"""Derivatives by numbers alone: the complex step, central differences, and how far to trust them.

All inputs that are differentiated are taken as one long vector x, and all cotangents as one long
vector v. Along a direction u the function is then a plain one of a single number, v . f(x + t u),
and its derivative at t = 0 can be had in two ways:

- the complex step: the imaginary part of v . f(x + i t u) / t with a t so small (1e-20) that
  nothing but the derivative is left of it. Exact to rounding, but only for functions that are
  analytic: not beyond an absolute value, and not where imaginary parts are dropped;
- the central difference (v . f(x + t u) - v . f(x - t u)) / 2t, good to about ten digits at best.

Numbers of float32 are moved in float64 where the function lets them: what is wanted is the
derivative at that point, not the rounding of the differences.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from microtensor import backend
from microtensor.testing.subject import Subject

_COMPLEX_STEP = 1e-20
_ROUNDINGS = 16  # how many roundings of the value a derivative may be off without being wrong


def host(array: Any) -> np.ndarray:
    """An array of any backend as NumPy's."""
    found = backend.of(array)
    assert found is not None
    return np.asarray(found.to_host(array))


class Problem:
    """A subject at a point, with fixed cotangents: a function of one vector."""

    def __init__(
        self,
        subject: Subject,
        cotangents: Sequence[Any],
        outputs: Sequence[Any],
        instead: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        self.subject = subject
        self.arrays = [leaf.array for leaf in subject.leaves]
        self.points = [host(self.arrays[i]) for i in subject.wrt]
        for k, point in (instead or {}).items():
            self.points[k] = point
        self.sizes = [point.size for point in self.points]
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)]).astype(int)
        self.x = _joined(self.points)
        self.scale = np.where(np.isfinite(self.x), np.maximum(1.0, np.abs(self.x)), 1.0)
        self.v = [np.asarray(host(v), np.float64) for v in cotangents]
        self.working: np.dtype[Any] = np.dtype(np.float64)
        self.value = [np.asarray(host(y), np.float64) for y in outputs]
        coarse = any(a.dtype == np.float32 for a in (*self.points, *outputs))
        self.precision = float(np.finfo(np.float32 if coarse else np.float64).eps)
        if coarse:
            self._find_working_dtype()
        self.eps = float(np.finfo(self.working).eps)
        # How large the numbers are whose rounding shows.
        self.size = sum(
            float(np.sum(np.abs(v * y))) for v, y in zip(self.v, self.value, strict=True)
        )
        self.weight = max([float(np.max(np.abs(v), initial=0)) for v in self.v], default=0.0)

    def _find_working_dtype(self) -> None:
        """float64, unless the function then still answers in float32."""
        found = self.at(self.x)
        if found is not None and all(y.dtype == np.float64 for y in found):
            self.value = found
        else:
            self.working = np.dtype(np.float32)

    # -- the function along a line

    def at(self, x: np.ndarray) -> list[np.ndarray] | None:
        """The outputs at another vector; None if they are not finite, or f refuses to compute."""
        dtype = self.working if x.dtype.kind == "f" else _complex(self.working)
        arrays = list(self.arrays)
        for k, i in enumerate(self.subject.wrt):
            part = x[self.starts[k] : self.starts[k + 1]].reshape(self.points[k].shape)
            place = backend.of(arrays[i])
            assert place is not None
            # The memory layout stays, so that code which depends on it is tested with it.
            moved = np.empty_like(self.points[k], dtype)
            moved[...] = part
            arrays[i] = place.from_host(moved)
        try:
            with self.subject.loaded(), np.errstate(all="ignore"):
                outputs = [host(y) for y in self.subject.outputs(arrays)]
        except Exception:  # whatever f raises where it is not defined
            return None
        fits = [y.shape for y in outputs] == [v.shape for v in self.v]
        if not fits or not all(np.isfinite(y).all() for y in outputs):
            return None
        return outputs

    def rounded(self, x: np.ndarray) -> np.ndarray:
        """The vector as the function will see it."""
        return x.astype(self.working).astype(np.float64)

    def dot(self, outputs: Sequence[np.ndarray]) -> Any:
        """v . f for these outputs."""
        return sum(np.sum(v * y) for v, y in zip(self.v, outputs, strict=True))

    def change(self, x: np.ndarray) -> float | None:
        """How much v . f changes from here to x; None if it cannot be had there."""
        outputs = self.at(x)
        if outputs is None:
            return None
        pairs = zip(self.v, outputs, self.value, strict=True)
        return math.fsum(float(np.sum(v * (y - m))) for v, y, m in pairs)

    def by_complex_step(self, u: np.ndarray) -> float | None:
        """The derivative along u, or None where complex numbers are not accepted."""
        with warnings.catch_warnings():
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            outputs = self.at(self.x + 1j * (_COMPLEX_STEP * u))
        if outputs is None or not any(y.dtype.kind == "c" for y in outputs):
            return None
        return float(np.imag(self.dot(outputs)) / _COMPLEX_STEP)

    def both_sides(self, u: np.ndarray, t: float) -> Sides | None:
        """The function a step forward and a step back, or None if it cannot be had there."""
        ends = self.rounded(self.x + t * u), self.rounded(self.x - t * u)
        found = [self.at(end) for end in ends]
        if found[0] is None or found[1] is None:
            return None
        return Sides(self, t, ends, (found[0], found[1]))

    def interval(self, u: np.ndarray) -> tuple[float, float, float, float]:
        """Both ends of what a derivative along u may be at a kink; and from left and right.

        The ends add up the lesser, and the greater, one-sided derivatives of each output.
        """
        t = 8 * self.step
        found = [
            [self.at(self.rounded(self.x + k * t * u)) for k in (sign, 2 * sign)]
            for sign in (-1, 1)
        ]
        sums = [0.0, 0.0, 0.0, 0.0]
        if any(outputs is None for pair in found for outputs in pair):
            return -math.inf, math.inf, math.nan, math.nan
        for i, (v, m) in enumerate(zip(self.v, self.value, strict=True)):
            slopes = []
            for sign, (near, far) in zip((-1, 1), found, strict=True):
                assert near is not None
                assert far is not None
                # Twice the near quotient less the far one: the leading error is gone.
                slopes.append(sign * v * (4 * (near[i] - m) - (far[i] - m)) / (2 * t))
            left, right = slopes
            parts = (np.minimum(left, right), np.maximum(left, right), left, right)
            sums = [total + float(np.sum(part)) for total, part in zip(sums, parts, strict=True)]
        return sums[0], sums[1], sums[2], sums[3]

    @property
    def step(self) -> float:
        """Where the errors of a central difference, curvature and rounding, are about equal."""
        return float(self.eps ** (1 / 3))

    def rounding(self, u: np.ndarray) -> float:
        """What rounding alone may add to a derivative along u, in the gradient's own precision."""
        return _ROUNDINGS * self.precision * self.size * norm(u / self.scale)

    def unit(self, n: int) -> np.ndarray:
        """The direction of one number."""
        u = np.zeros(self.x.size)
        u[n] = self.scale[n]
        return u

    def place(self, n: int) -> tuple[int, tuple[int, ...]]:
        """Which leaf (as a position in wrt) a number belongs to, and its index there."""
        k = int(np.searchsorted(self.starts, n, side="right")) - 1
        index = np.unravel_index(n - self.starts[k], self.points[k].shape)
        return k, tuple(int(i) for i in index)

    def split(self, vector: np.ndarray) -> list[np.ndarray]:
        """A long vector as one array for each leaf."""
        return [
            vector[a:b].reshape(point.shape)
            for a, b, point in zip(self.starts, self.starts[1:], self.points, strict=False)
        ]


class Sides:
    """The function at two points, one on each side."""

    def __init__(
        self,
        problem: Problem,
        t: float,
        ends: tuple[np.ndarray, np.ndarray],
        outputs: tuple[list[np.ndarray], list[np.ndarray]],
    ) -> None:
        self.problem, self.t, self.ends = problem, t, ends
        forward, back = outputs
        middle, v = problem.value, problem.v
        pairs = list(zip(v, forward, back, middle, strict=True))
        self.rise = math.fsum(float(np.sum(c * (a - b))) for c, a, b, _ in pairs)
        self.forward = math.fsum(float(np.sum(c * (a - m))) for c, a, _, m in pairs)
        self.back = math.fsum(float(np.sum(c * (m - b))) for c, _, b, m in pairs)
        # The rounding of the value, but of outputs that change only, and that of the ends: if one
        # is further off, curvature does not cancel.
        sizes = [np.maximum(np.abs(m), np.maximum(np.abs(a), np.abs(b))) for _, a, b, m in pairs]
        rounding = sum(
            float(np.sum(np.abs(c) * size * ((a != m) | (b != m))))
            for (c, a, b, m), size in zip(pairs, sizes, strict=True)
        )
        self.noise = problem.eps * (4 * rounding + abs(self.forward - self.back) / t) / t

    def gap(self, g: np.ndarray) -> float:
        """The derivative along the line by the gradient g, minus the central difference."""
        return (slope(g, _way(self.ends[1], self.ends[0])) - self.rise) / (2 * self.t)

    def slopes(self, g: np.ndarray) -> tuple[float, float]:
        """The difference quotients to the left and right, each less what g says."""
        x = self.problem.x
        right = self.forward - slope(g, _way(x, self.ends[0]))
        left = self.back - slope(g, _way(self.ends[1], x))
        return left / self.t, right / self.t


def _way(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """From one point to another; numbers that are infinite stay where they are."""
    return np.where(np.isfinite(start), end - start, 0.0)


def slope(g: np.ndarray, u: np.ndarray) -> float:
    """The derivative along u that the gradient g says."""
    return float(np.sum(g * u))


def norm(u: np.ndarray) -> float:
    """The Euclidean length, also of numbers whose squares overflow."""
    largest = float(np.max(np.abs(u), initial=0))
    if not 0 < largest < math.inf:
        return largest
    return largest * math.sqrt(float(np.sum((u / largest) ** 2)))


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0), *[np.asarray(a, np.float64).ravel() for a in arrays]])


def _complex(dtype: Any) -> Any:
    return np.complex128 if dtype == np.float64 else np.complex64


class Estimate:
    """The best that central differences say along a line, and how sure they are of it.

    Steps of a ladder, each four times as small as the one before: curvature fades with the square
    of the step while rounding grows as it shrinks. The best one is where two neighbours, freed of
    the leading error by Richardson's extrapolation, agree best.
    """

    def __init__(self, problem: Problem, u: np.ndarray, g: np.ndarray) -> None:
        first = problem.step * 64
        ladder = [first * 4.0**-k for k in range(11 if problem.eps < 1e-10 else 6)]
        found = [problem.both_sides(u, t) for t in ladder]
        self.sides = [sides for sides in found if sides is not None]
        self.gap, self.error, self.t = math.nan, math.inf, math.nan
        gaps = [(sides.gap(g), sides.noise, sides.t) for sides in self.sides]
        for careful in (True, False):
            for i, ((a, _, _), (b, noise, t)) in enumerate(itertools.pairwise(gaps)):
                error = max(abs(b - a), noise)
                # A step may be too long to see what the function does: shorter ones must agree.
                fits = all(abs(c - b) <= error + 16 * other for c, other, _ in gaps[i + 2 :])
                if error < self.error and (fits or not careful):
                    self.gap, self.error, self.t = b + (b - a) / 15, error, t
            if self.error < math.inf:
                break

    @property
    def reached(self) -> bool:
        """Whether the function could be computed on both sides at all."""
        return len(self.sides) > 1

    def one_sided(self, g: np.ndarray) -> tuple[float, float, float]:
        """Both one-sided derivatives less what g says, and how exact that is.

        Of the quotients at neighbouring steps the leading error, proportional to the step, is
        taken away.
        """
        best = (math.nan, math.nan, math.inf)
        quotients = [(sides.slopes(g), sides.noise) for sides in self.sides]
        previous: tuple[float, float] | None = None
        for (a, _), (b, noise) in itertools.pairwise(quotients):
            left, right = ((4 * y - x) / 3 for x, y in zip(a, b, strict=True))
            if previous is not None:
                error = max(abs(left - previous[0]), abs(right - previous[1]), 2 * noise)
                if error < best[2]:
                    best = (left, right, error)
            previous = (left, right)
        return best


class Taylor(NamedTuple):
    """How the remainder f(x + t u) - f(x) - t (g . u) shrinks with t."""

    order: float  # 2 if g is right, 1 if it is wrong
    t: float  # the smallest step where the remainder stands clear of rounding
    remainder: float  # its size there


def taylor_order(problem: Problem, u: np.ndarray, g: np.ndarray, noise: float) -> Taylor | None:
    """The order at the smallest clean step; None if there is none, as when f is linear."""
    found = None
    last: float | None = None
    t = 0.125
    while t > problem.eps:
        end = problem.rounded(problem.x + t * u)
        change, remainder = problem.change(end), None
        if change is not None:
            remainder = abs(change - slope(g, _way(problem.x, end)))
            if remainder < 100 * noise:
                break
            if last is not None:
                found = Taylor(math.log2(last / remainder), t, remainder)
        last = remainder
        t /= 2
    return found


def rounding_noise(problem: Problem, u: np.ndarray, rng: backend.Generator) -> float:
    """How much the value jitters along u, beside changing smoothly.

    The fourth difference, f(4t) - 4 f(3t) + 6 f(2t) - 4 f(t) + f(0), leaves of a smooth function
    less than its rounding if t is the fourth root of the precision, or smaller; whatever the
    gradient is. To one side only, since rounding errors on both sides are often opposite. Steps of
    several sizes, because a function that rounds on its way is constant for the smallest ones.
    """
    worst = 4 * problem.eps * problem.size
    t = problem.eps**0.25
    while t > problem.eps:
        for part in rng.uniform(-0.5, 0.5, (3,), np.float64):
            changes = [problem.change(problem.x + k * t * float(part) * u) for k in (1, 2, 3, 4)]
            if None not in changes:
                a, b, c, d = (change or 0.0 for change in changes)
                worst = max(worst, abs(d - 4 * c + 6 * b - 4 * a) / 8)
        t /= 64
    return worst
