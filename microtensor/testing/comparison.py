"""Is every number of a gradient right, and if one is not, what is the matter with it?

Along a random direction all numbers are compared at once. Only where that disagrees, single numbers
are moved; and each that disagrees is judged: at a kink, drowned in rounding, or wrong.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from microtensor import backend
from microtensor.testing.diagnosis import Evidence, Guess, guess, same
from microtensor.testing.differences import (
    Estimate,
    Problem,
    Sides,
    host,
    norm,
    rounding_noise,
    slope,
    taylor_order,
)
from microtensor.testing.form import Form, repeats
from microtensor.testing.report import GradientError, Kink, at

DIRECTIONS = 2  # by one alone an error could, with bad luck, stand at a right angle to it
EACH = 512  # so many numbers are looked at one by one; among more, the wrong ones are searched
TIES = 8  # so many numbers at a kink are looked at in pairs
FOUND = 8  # and when so many of them were found, the search ends

# What a derivative may be off, relatively, by the precision of the numbers and by how the other
# derivative was had: (by central differences, by the complex step).
RTOL = {
    "float64": (1e-9, 1e-9),
    "float32": (1e-4, 1e-4),
    "coarse": (5e-3, 1e-4),  # the function itself insists on float32
}


@dataclass(frozen=True)
class Settings:
    """How to measure, and how far numbers may differ: the arguments of `check_grads`."""

    mode: str
    eps: float | None
    rtol: float | None
    atol: float | None
    kinks: str


@dataclass(frozen=True)
class Measured:
    """One derivative by numbers."""

    numeric: float  # NaN if it cannot be had
    error: float  # how far the gradient is off, as a fraction of what is allowed
    odd: bool  # needs a closer look whatever the error

    @property
    def suspect(self) -> bool:
        """Whether the gradient is not confirmed."""
        return self.odd or not self.error <= 1


class Comparison:
    """The gradients of a form against numbers."""

    def __init__(
        self,
        form: Form,
        settings: Settings,
        rng: backend.Generator,
        before: Comparison | None = None,
    ) -> None:
        self.form, self.settings, self.rng = form, settings, rng
        self.problem = Problem(form.subject, form.cotangents, form.outputs)
        if before is not None:  # a gradient is rounded like what it is the gradient of
            self.problem.size += before.problem.size
        flat = [host(g).ravel().astype(np.float64) for g in form.gradients]
        self.g = np.concatenate([np.zeros(0), *flat])
        self.kinks: list[Kink] = []
        # At a kink, or infinite: directions leave them alone.
        self.excluded = ~np.isfinite(self.problem.x)
        if before is not None:
            self.excluded[: before.excluded.size] |= before.excluded
        self.trusted = False  # whether the complex step is

    @property
    def method(self) -> str:
        """How derivatives were had."""
        return "complex step" if self.trusted else "central differences"

    def run(self) -> float:
        """Raise, or return the largest error as a fraction of what was allowed."""
        while not self.excluded.all():
            found = [self.along(self.random_direction()) for _ in range(DIRECTIONS)]
            found.append(self.along(self.balanced_direction()))
            worst = max(each.error for each in found)
            if not any(each.suspect for each in found):
                return worst
            known = int(self.excluded.sum())
            closer = self.look_closely()
            self.look_at_ties()
            if self.g.size > EACH:  # most likely all numbers of one value are at the same kink
                self.excluded |= np.isin(self.problem.x, self.problem.x[self.excluded])
            if int(self.excluded.sum()) == known:
                if self.g.size > EACH:
                    raise self.error(
                        "ill_conditioned",
                        f"along a random direction {self.form.title} is {worst:.3g} times as far "
                        "off as is allowed, but of the single numbers looked at none is",
                    )
                return closer  # every number by itself is right
        return 0.0

    def error(self, verdict: str, text: str, n: int | None = None, **more: Any) -> GradientError:
        """An error about the number n of the long vector, or about all of them."""
        if n is not None:
            k, more["element"] = self.problem.place(n)
            more["input"] = self.form.wrt[k].key
        return GradientError(text, verdict=verdict, order=self.form.order, **more)

    def label(self, n: int) -> str:
        """A number's input and index."""
        k, element = self.problem.place(n)
        return self.form.wrt[k].label + at(element)

    # -- along a direction

    def random_direction(self, start: int = 0, end: int | None = None) -> np.ndarray:
        """Normal numbers, of the inputs' size, from start to end; the others stay."""
        u = np.zeros(self.g.size)
        part = slice(start, end)
        u[part] = self.rng.normal(u[part].shape, np.float64) * self.problem.scale[part]
        u[self.excluded] = 0.0
        return u

    def balanced_direction(self) -> np.ndarray:
        """Large where the gradient is small, so that small numbers are not lost among large."""
        u = self.random_direction()
        sizes = np.abs(self.g) * self.problem.scale
        largest = float(np.max(sizes, initial=0))
        if not 0 < largest < math.inf:
            return u
        u /= np.maximum(sizes / largest, 1e-6)  # smaller steps would not be seen
        return u / float(np.max(np.abs(u / self.problem.scale), initial=1e-300))

    def relative(self, complex_step: bool) -> float:
        """The relative tolerance."""
        if self.settings.rtol is not None:
            return self.settings.rtol
        kind = "float64" if self.problem.precision < 1e-10 else "float32"
        kind = "coarse" if self.problem.working == np.float32 else kind
        return RTOL[kind][complex_step]

    def allowed(self, u: np.ndarray, complex_step: bool) -> float:
        """How far g . u may be from the derivative along u."""
        absolute = (self.settings.atol or 0.0) * norm(u)
        return self.relative(complex_step) * norm(self.g * u) + absolute + self.problem.rounding(u)

    def along(self, u: np.ndarray) -> Measured:
        """Compare along a direction, and decide whether to trust the complex step there."""
        problem, g = self.problem, self.g
        if not np.any(u):
            return Measured(0.0, 0.0, False)
        best = None
        self.trusted = False
        step = self.settings.eps or problem.step
        sides = problem.both_sides(u, step)
        if sides is None:
            return Measured(math.nan, math.inf, True)
        gap, allowed = sides.gap(g), self.allowed(u, False) + sides.noise
        left, right = sides.slopes(g)
        apart = abs(right - left)
        if apart > max(1e-3 * abs(slope(g, u)), allowed) and self.stays_apart(u, step, apart):
            return Measured(math.nan, _fraction(gap, allowed), True)  # across a kink
        gap, doubt = self.refined(u, sides)
        derivative = self.complex_step(u)
        if derivative is not None:
            accused = slope(g, u) - derivative
            error = _fraction(accused, self.allowed(u, True))
            # It is believed if central differences confirm it; closely, if it accuses the gradient.
            if abs(accused - gap) > doubt + 1e-9 * abs(derivative) or not error <= 1:
                best = Estimate(problem, u, g)
                gap, doubt = best.gap, 10 * best.error
            if abs(accused - gap) <= doubt + 1e-9 * abs(derivative):
                self.trusted = True
                return Measured(derivative, error, False)
        allowed = self.allowed(u, False)
        if abs(gap) > allowed + doubt and self.settings.eps is None:
            best = best or Estimate(problem, u, g)
            gap, doubt = best.gap, 3 * best.error
        central = slope(g, u) - gap
        vague = not doubt <= max(0.1 * abs(central), allowed, 1e-6 * self.reach(sides))
        return Measured(central, _fraction(gap, allowed + doubt), vague)

    def reach(self, *sides: Sides) -> float:
        """How large the value is, or its change where that is more."""
        return max(self.problem.size, *[abs(s.forward) + abs(s.back) for s in sides])

    def refined(self, u: np.ndarray, sides: Sides) -> tuple[float, float]:
        """The gap of a central difference without its leading error, and how sure it is."""
        gap = sides.gap(self.g)
        wider = self.problem.both_sides(u, 4 * sides.t) if self.settings.eps is None else None
        if wider is None:
            return gap, sides.noise
        change = (gap - wider.gap(self.g)) / 15
        return gap + change, sides.noise + 0.1 * abs(change)

    def complex_step(self, u: np.ndarray) -> float | None:
        """The derivative by complex step, if that is wanted and possible."""
        if self.settings.mode == "central":
            return None
        found = self.problem.by_complex_step(u)
        if found is None and self.settings.mode == "complex":
            raise ValueError(
                "check_grads: mode='complex', but the function does not take complex numbers; "
                "mode='auto' uses central differences then"
            )
        return found

    def stays_apart(self, u: np.ndarray, step: float, apart: float) -> bool:
        """Whether the one-sided slopes keep their distance at a smaller step, as at a kink."""
        closer = self.problem.both_sides(u, step / 8)
        if closer is None:
            return True
        left, right = closer.slopes(self.g)
        return abs(right - left) > max(apart / 2, 8 * closer.noise)

    # -- one number after the other

    def look_closely(self) -> float:
        """Raise for the worst number that is wrong; remember those at a kink that are not."""
        numeric = np.full(self.g.size, math.nan)
        everything = self.each_number if self.g.size <= EACH else self.search
        suspects = sorted(everything(numeric), key=lambda pair: -pair[1].error)
        worst, doubtful = 0.0, None
        for n, _ in suspects:
            verdict = self.judge(n, self.problem.unit(n), numeric)
            size = abs(float(self.problem.x[n]))
            if isinstance(verdict, GradientError) and 0 < size < 0.1:
                # Of a number as small as this steps of its own size may tell more.
                verdict = self.judge(n, self.problem.unit(n) * size, numeric)
            if isinstance(verdict, float):
                worst = max(worst, verdict)
            elif verdict is not None and verdict.verdict == "wrong_gradient":
                raise verdict
            else:
                doubtful = doubtful or verdict
        if doubtful is not None:
            raise doubtful
        return worst

    def measure(self, n: int) -> Measured:
        """One number's derivative."""
        problem, g, u = self.problem, self.g, self.problem.unit(n)
        if self.trusted:
            found = problem.by_complex_step(u)
            if found is not None:
                error = _fraction(slope(g, u) - found, self.allowed(u, True))
                return Measured(found / u[n], error, False)
        sides = problem.both_sides(u, self.settings.eps or problem.step)
        if sides is None:
            return Measured(math.nan, math.inf, True)
        gap, allowed = sides.gap(g), self.allowed(u, False) + sides.noise
        left, right = sides.slopes(g)
        size = max(abs(slope(g, u)), abs(slope(g, u) - gap))
        odd = abs(right - left) > max(1e-3 * size, allowed)
        return Measured((slope(g, u) - gap) / u[n], _fraction(gap, allowed), odd)

    def each_number(self, numeric: np.ndarray) -> Iterator[tuple[int, Measured]]:
        """All that are suspect."""
        for n in np.flatnonzero(~self.excluded):
            found = self.measure(int(n))
            numeric[n] = found.numeric
            if found.suspect:
                yield int(n), found

    def search(self, numeric: np.ndarray) -> Iterator[tuple[int, Measured]]:
        """Halve what disagrees, the worst first, until single numbers are left."""
        heap = [(-math.inf, 0, self.g.size)]
        found = looked = 0
        trusted = self.trusted
        while heap and found < FOUND and looked < EACH // 2:
            _, start, end = heapq.heappop(heap)
            middle = (start + end) // 2
            for a, b in ((start, middle), (middle, end)):
                looked += 1
                if b - a == 1 and not self.excluded[a]:
                    self.trusted = trusted
                    measured = self.measure(a)
                    numeric[a] = measured.numeric
                    if measured.suspect:
                        found += 1
                        yield a, measured
                elif b - a > 1:
                    measured = self.block(self.random_direction(a, b), trusted)
                    if measured.suspect:
                        heapq.heappush(heap, (-measured.error, a, b))
        self.trusted = trusted

    def block(self, u: np.ndarray, trusted: bool) -> Measured:
        """Along a direction; what was found about the complex step is not found out again."""
        found = self.problem.by_complex_step(u) if trusted else None
        if found is None:
            return self.along(u)
        error = _fraction(slope(self.g, u) - found, self.allowed(u, True))
        return Measured(found, error, False)

    # -- the verdict about one number

    def judge(self, n: int, u: np.ndarray, numeric: np.ndarray) -> GradientError | float | None:
        """What is the matter with one number, which moves along u.

        An error; or, if it is right after all, how far it is off as a fraction of what is allowed;
        or None for a number at a kink, and rightly so.
        """
        problem, g = self.problem, self.g
        best = Estimate(problem, u, g)
        if not best.reached:
            return self.error(
                "nan",
                f"the function is not finite, or refuses to compute, next to {self.label(n)} = "
                f"{problem.x[n]:.10g}: too near the edge of its domain",
                n,
                analytic=float(g[n]),
            )
        left, right, sure = best.one_sided(g)
        size = max(abs(g[n] * u[n]), abs(left), abs(right))
        if abs(right - left) > max(20 * sure, 1e-6 * size, 4 * best.error):
            return self.at_kink(n, u, sure / u[n])
        if self.trusted:
            found = problem.by_complex_step(u)
            central = slope(g, u) - best.gap
            if found is not None and abs(central - found) <= 10 * best.error + 1e-9 * abs(found):
                return self.by_complex_step(n, u, found, numeric)
        return self.by_differences(n, u, best, numeric)

    def by_complex_step(
        self, n: int, u: np.ndarray, found: float, numeric: np.ndarray
    ) -> GradientError | float:
        """The derivative is known to rounding; only the inputs' own rounding excuses a gap."""
        gap, analytic = slope(self.g, u) - found, float(self.g[n])
        error = _fraction(gap, self.allowed(u, True))
        if error <= 1:
            return error
        if self.shakes(u, found, gap) or self.is_rounding(gap):
            return self.error(
                "ill_conditioned",
                f"{self.label(n)}: {analytic:.10g} by the chain rule, {found / u[n]:.10g} by "
                "complex step: no further apart than rounding, of the inputs or on the way, may "
                "bring them",
                n,
                analytic=analytic,
                numeric=found / u[n],
            )
        return self.wrong(n, found / u[n], numeric, "complex step")

    def by_differences(
        self, n: int, u: np.ndarray, best: Estimate, numeric: np.ndarray
    ) -> GradientError | float:
        """The derivative is known as well as differences can tell."""
        problem, g = self.problem, self.g
        analytic, central = float(g[n]), float((slope(g, u) - best.gap) / u[n])
        allowed = self.allowed(u, False) + 3 * best.error
        reach = self.reach(*best.sides)
        noisy = not best.error <= max(1e-2 * abs(central * u[n]), 1e-6 * reach)
        if abs(best.gap) <= allowed and not noisy:
            return _fraction(best.gap, allowed)
        noise = rounding_noise(problem, u, self.rng)
        taylor = taylor_order(problem, u, g, noise)
        # Where the remainder is too small for such a gap, the differences must be mistaken.
        denied = taylor is not None and abs(best.gap) * taylor.t > 2 * taylor.remainder
        visible = abs(best.gap) > 4 * noise / best.t
        if visible and not noisy and not denied and not self.is_rounding(best.gap):
            return self.wrong(n, central, numeric, "central differences")
        share = noise / (problem.size or 1)
        text = (
            f"{self.label(n)}: {analytic:.10g} by the chain rule, {central:.10g} by differences, "
            f"give or take {abs(best.error / u[n]):.2g}. When the inputs move a little, the value "
            f"jitters by {noise:.2g}, {share:.1g} of its size"
        )
        coarse = problem.working == np.float64 and 1e-9 < share < 1e-5
        inside = coarse and self.form.has_float32_inside
        if inside:
            text += ": on the way to it numbers become float32"
        elif coarse:
            text += ": it computes in float32 on the way, or subtracts large numbers"
        return self.error(
            "dtype" if inside else "ill_conditioned",
            text,
            n,
            cause="precision" if coarse else "",
            analytic=analytic,
            numeric=central,
        )

    def is_rounding(self, gap: float) -> bool:
        """Whether a gap is what numbers of size 1 on the way, which nobody sees, may leave."""
        return abs(gap) <= 16 * self.problem.precision * self.problem.weight

    def at_kink(self, n: int, u: np.ndarray, sure: float) -> GradientError | None:
        """Is the gradient between the one-sided derivatives, give or take `sure`?

        Of several outputs each may be anywhere between its own.
        """
        analytic = float(self.g[n])
        low, high, left, right = (value / u[n] for value in self.problem.interval(u))
        slack = 4 * sure + max(self.relative(False), 1e-7) * max(abs(low), abs(high), abs(analytic))
        inside = low - slack <= analytic <= high + slack
        self.excluded[n] = True
        if self.settings.kinks == "skip":
            return None
        k, element = self.problem.place(n)
        if inside and self.settings.kinks == "subgradient":
            key = self.form.wrt[k].key
            self.kinks.append(Kink(key, element, analytic, float(left), float(right)))
            return None
        return self.error(
            "kink",
            f"{self.label(n)} = {self.problem.x[n]:.10g} is at a kink: {self.form.title} there is "
            f"{analytic:.10g}, {'between' if inside else 'outside'} the one-sided derivatives "
            f"{left:.10g} (from the left) and {right:.10g} (from the right)",
            n,
            analytic=analytic,
            numeric=(left + right) / 2,
        )

    def look_at_ties(self) -> None:
        """Raise where two numbers at a kink have gradients that are no subgradient together.

        At a tie of max(a, b) the derivative with respect to each, by itself, may be anything from
        0 to 1; but if both grow the maximum grows as fast, so that they must add up to 1. Such
        numbers are coupled: along both together the kink is another than the sum of theirs.
        """
        if self.settings.kinks == "skip":
            return
        problem, step = self.problem, self.settings.eps or self.problem.step
        some = [int(n) for n in np.flatnonzero(self.excluded)[:TIES]]
        for i, j in itertools.combinations(some, 2):
            units = problem.unit(i), problem.unit(j)
            for u in (units[0] + units[1], units[0] - units[1]):
                both = [problem.both_sides(w, step) for w in (u, *units)]
                if any(sides is None for sides in both):
                    continue
                kinks = [right - left for left, right in (s.slopes(self.g) for s in both if s)]
                if abs(kinks[0] - kinks[1] - kinks[2]) <= 0.1 * max(map(abs, kinks)):
                    continue
                _, _, sure = Estimate(problem, u, self.g).one_sided(self.g)
                low, high, left, right = problem.interval(u)
                along = slope(self.g, u)
                slack = 4 * sure + max(self.relative(False), 1e-7) * max(
                    abs(self.g[[i, j]] * u[[i, j]])
                )
                if not low - slack <= along <= high + slack:
                    raise self.error(
                        "kink",
                        f"{self.label(i)} and {self.label(j)} are at a kink together. If both "
                        f"{'grow' if u[j] > 0 else 'move apart'}, {self.form.title} says "
                        f"{along:.10g}, outside the one-sided derivatives {left:.10g} and "
                        f"{right:.10g}. At a tie, one number gets the gradient, or the numbers "
                        "share it",
                        i,
                        analytic=along,
                        numeric=(left + right) / 2,
                    )

    def shakes(self, u: np.ndarray, here: float, gap: float) -> bool:
        """Whether a change of the inputs in their last digit moves the derivative so far."""
        problem = self.problem
        x, worst = problem.x, 0.0
        try:
            for _ in range(3):
                jitter = self.rng.normal(x.shape, np.float64)
                problem.x = x + 2 * problem.precision * problem.scale * jitter
                there = problem.by_complex_step(u)
                worst = max(worst, math.inf if there is None else abs(there - here))
        finally:
            problem.x = x
        return abs(gap) <= 10 * worst

    def wrong(self, n: int, numeric: float, found: np.ndarray, method: str) -> GradientError:
        """The verdict, with all that can be said about it."""
        problem, form, analytic = self.problem, self.form, float(self.g[n])
        k, _ = problem.place(n)
        found[n] = numeric
        seen = self.guess(k, found)
        text = (
            f"{form.title} of {self.label(n)} is {analytic:.10g} by the chain rule, "
            f"{numeric:.10g} by {method}"
        )
        text += f", ratio {analytic / numeric:.6g}." if numeric else "."
        text += f"\n{seen.text}" if seen.text else ""
        u = problem.unit(n)
        taylor = taylor_order(problem, u, self.g, rounding_noise(problem, u, self.rng))
        if taylor is not None and taylor.order < 1.5:
            text += (
                f"\nThe Taylor remainder shrinks with order {taylor.order:.2f}: 2 is right, 1 is "
                "wrong."
            )
        looked = int(np.isfinite(found).sum())
        if looked < found.size:
            text += f"\nOf {found.size} numbers {looked} were looked at one by one."
        coarse = seen.cause == "precision" and problem.precision < 1e-10
        return self.error(
            "dtype" if coarse else "wrong_gradient",
            text,
            n,
            cause=seen.cause,
            analytic=analytic,
            numeric=numeric,
        )

    def guess(self, k: int, found: np.ndarray) -> Guess:
        """From the pattern of the k-th input's numbers, or if that says nothing another's."""
        problem, labels = self.problem, [leaf.label for leaf in self.form.wrt]
        numeric, analytic = problem.split(found), problem.split(self.g)
        others = [i for i in range(len(labels)) if i != k and not same(analytic[i], numeric[i])]
        for i in (k, *others):
            seen = guess(
                Evidence(
                    i,
                    analytic[i],
                    numeric[i],
                    labels,
                    problem.split(problem.x),
                    numeric,
                    analytic,
                    problem.value,
                    functools.partial(self.spread_out, i),
                )
            )
            if seen.cause and (i == k or seen.cause != "partial"):
                return seen if i == k else seen._replace(text=f"Of {labels[i]}: {seen.text}")
        return Guess("", "")

    def spread_out(self, k: int) -> np.ndarray | None:
        """The gradient of an input repeated to the shape of an output, if f takes it so."""
        problem, point = self.problem, self.problem.points[k]
        for y in problem.value:
            if not repeats(point.shape, y.shape) or y.size > EACH:
                continue
            wide = Problem(
                problem.subject,
                problem.v,
                problem.value,
                {k: np.broadcast_to(point, y.shape).astype(problem.working)},
            )
            found = np.zeros(wide.x.size)
            for n in range(wide.starts[k], wide.starts[k + 1]):
                u = wide.unit(n)
                sides = wide.both_sides(u, problem.step)
                if sides is None:  # f does not take this shape
                    return None
                found[n] = sides.rise / (2 * sides.t * u[n])
            return wide.split(found)[k]
        return None


def _fraction(gap: float, allowed: float) -> float:
    """The gap in units of what is allowed; infinite if it is not known."""
    if allowed:
        return abs(gap) / allowed if math.isfinite(gap) else math.inf
    return 0.0 if gap == 0 else math.inf
