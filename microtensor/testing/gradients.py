"""Compare derivatives with differences: `check_grads`.

Along a direction u, a step h and a cotangent v, the chain rule and the central difference

    sum(g * u)    and    (v . f(x + h u) - v . f(x - h u)) / 2h,      g = the gradient of v . f

must agree. Both v and u are random, all inputs move at once, and one comparison costs two calls of
f however many numbers there are. Only if they disagree is every number moved by itself, to say
which derivative is wrong. A second order is checked by doing the same with the gradient as the
function, a third with the gradient of that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from microtensor import backend, engine
from microtensor.tensor import Tensor

__all__ = ["GradReport", "GradientError", "check_grads"]

DIRECTIONS = 2  # by one alone an error could, with bad luck, stand at a right angle to it
_RTOL = {"float32": 5e-3, "float64": 1e-6}
_ATOL = {"float32": 1e-3, "float64": 1e-8}


class GradientError(AssertionError):
    """A derivative that is wrong, or was got in a wrong way.

    Attributes
    ----------
    order
        Which derivative: 1 for the gradient.
    input
        The position of the input among the arguments of f, or None.
    element
        The index of the number in it whose derivative is worst, or None.
    analytic, numeric
        Both values of that derivative, as floats, or None.
    """

    def __init__(
        self,
        message: str,
        order: int,
        input: int | None = None,
        element: tuple[int, ...] | None = None,
        analytic: float | None = None,
        numeric: float | None = None,
    ) -> None:
        super().__init__(message)
        self.order, self.input, self.element = order, input, element
        self.analytic, self.numeric = analytic, numeric


@dataclass(frozen=True)
class GradReport:
    """What a successful `check_grads` found.

    Attributes
    ----------
    order
        The highest derivative that was checked.
    wrt
        The positions of the inputs that were differentiated.
    error
        The largest difference along a direction, as a fraction of the tolerance: at most 1 unless
        the single derivatives had to be looked at.
    """

    order: int
    wrt: tuple[int, ...]
    error: float


def check_grads(
    f: Callable[..., Any],
    *inputs: Any,
    wrt: Sequence[int] | None = None,
    order: int = 1,
    eps: float | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    rng: int = 0,
) -> GradReport:
    """Raise `GradientError` unless the derivatives of `f` at `inputs` agree with differences.

    Also checked: a gradient has shape, dtype and backend of its input; it shares no memory with
    another, with the cotangent, with an input or an output; f and its backward pass change neither
    inputs nor cotangents.

    Parameters
    ----------
    f
        Called with a tensor for each array or tensor in `inputs`, everything else as it is. Returns
        a tensor, or a tuple or list of them. It must be differentiable in a neighbourhood of the
        inputs, and give the same result each time.
    inputs
        Tensors or arrays, of any backend. float64 is the sharp check; with float32 an error of a
        few parts in a thousand passes. Nothing is written into them.
    wrt
        Which inputs to differentiate with respect to; all float32 and float64 ones if None.
    order
        1 for the gradient; 2 checks also the gradient of the gradient, and so on.
    eps
        The step, relative to max(1, |x|); if None the cube root of the dtype's precision: 6e-6 for
        float64, 5e-3 for float32.
    rtol, atol
        The difference may be atol + rtol * |derivative|; if None 1e-6 and 1e-8 for float64,
        5e-3 and 1e-3 for float32, as the coarsest of inputs and outputs has it.
    rng
        Seed of the random cotangents and directions. No global random state is touched.

    Returns
    -------
    GradReport

    Raises
    ------
    GradientError
        Naming the input, the number in it that is worst, and both derivatives with their ratio: a
        ratio of 2, 0.5 or -1 often tells the mistake.
    ValueError, TypeError
        If there is nothing to differentiate, or f returns something that is no tensor.
    """
    values = [_as_tensor(value) for value in inputs]
    if wrt is None:
        wrt = [i for i, x in enumerate(values) if _is_float(x)]
    for i in wrt:
        if not -len(values) <= i < len(values) or not _is_float(values[i]):
            raise ValueError(f"check_grads: there is no float32 or float64 input {i}")
    chosen = tuple(dict.fromkeys([i % len(values) for i in wrt]))
    if not chosen or order < 1:
        raise ValueError("check_grads: it needs an input to differentiate, and an order from 1 up")
    generator = backend.Generator(rng)
    worst = 0.0
    for k in range(1, order + 1):
        check = _Check(f, values, chosen, k, generator, eps, rtol, atol)
        worst = max(worst, check.run())
        f, values = check.gradient_function()
    return GradReport(order, chosen, worst)


def _as_tensor(value: Any) -> Any:
    """A tensor that shares the memory of an array or tensor; anything else as it is."""
    bare = value.data if isinstance(value, Tensor) else value
    return value if backend.of(bare) is None else Tensor(bare)


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in (np.float32, np.float64)


def _host(value: Any) -> np.ndarray:
    found = backend.of(value.data)
    assert found is not None
    return found.to_host(value.data)


class _Check:
    """One order: a function, the point, the random cotangents, and how far numbers may differ."""

    def __init__(
        self,
        f: Callable[..., Any],
        values: list[Any],
        wrt: tuple[int, ...],
        order: int,
        generator: backend.Generator,
        eps: float | None,
        rtol: float | None,
        atol: float | None,
    ) -> None:
        self.f, self.values, self.wrt, self.order = f, values, wrt, order
        self.generator = generator
        self.outputs = self.evaluate(values)
        self.cotangents = [self.random_like(y) for y in self.outputs]
        dtypes = [_host(x).dtype for x in (*self.outputs, *[values[i] for i in wrt])]
        coarsest = max(dtypes, key=lambda dtype: float(np.finfo(dtype).eps)).name
        self.eps = float(np.finfo(coarsest).eps) ** (1 / 3) if eps is None else eps
        self.rtol = _RTOL[coarsest] if rtol is None else rtol
        self.atol = _ATOL[coarsest] if atol is None else atol

    def evaluate(self, values: list[Any]) -> list[Any]:
        outputs = self.f(*values)
        outputs = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
        for y in outputs:
            if not isinstance(y, Tensor):
                raise TypeError(
                    f"check_grads: f must return a tensor or several, not a {type(y).__name__}"
                )
        return [y for y in outputs if _is_float(y)]

    def random_like(self, x: Any) -> Any:
        found = backend.of(x.data)
        assert found is not None
        return Tensor(found.from_host(self.generator.normal(x.shape, x.dtype)))

    # -- by the chain rule

    def leaves(self) -> list[Any]:
        """The inputs as leaves, of which those to be differentiated require a gradient."""
        return [
            Tensor(x.data, i in self.wrt) if isinstance(x, Tensor) else x
            for i, x in enumerate(self.values)
        ]

    def gradients(self, leaves: list[Any], outputs: list[Any], create_graph: bool) -> list[Any]:
        """The gradient of cotangents . outputs with respect to each chosen leaf."""
        pairs = zip(outputs, self.cotangents, strict=True)
        recorded = [pair for pair in pairs if pair[0].requires_grad]
        sources = [leaves[i] for i in self.wrt]
        found: Any = [None] * len(sources)
        if recorded:
            ends, given = zip(*recorded, strict=True)
            found = engine.grad(ends, sources, given, create_graph=create_graph, allow_unused=True)
        return [_zeros_like(x) if g is None else g for x, g in zip(sources, found, strict=True)]

    def gradient_function(self) -> tuple[Callable[..., Any], list[Any]]:
        """The gradient as a function of the same inputs, for the next order."""

        def gradient(*values: Any) -> list[Any]:
            leaves = [
                Tensor(x.data, True) if i in self.wrt and not x.requires_grad else x
                for i, x in enumerate(values)
            ]
            return self.gradients(leaves, self.evaluate(leaves), create_graph=True)

        return gradient, self.values

    # -- by differences

    def step(self, i: int, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Input i a step forward and a step back, as arrays of the host."""
        x = _host(self.values[i])
        step = (self.eps * np.maximum(1.0, np.abs(x)) * direction).astype(x.dtype)
        return x + step, x - step

    def difference(self, moved: dict[int, tuple[np.ndarray, np.ndarray]]) -> float:
        """How much cotangents . f changes between both ends of the steps."""
        totals = []
        for end in (0, 1):
            values = list(self.values)
            for i, ends in moved.items():
                found = backend.of(values[i].data)
                assert found is not None
                values[i] = Tensor(found.from_host(np.asarray(ends[end])))
            outputs = self.evaluate(values)
            totals.append([np.asarray(_host(y), np.float64) for y in outputs])
        return math.fsum(
            float(np.sum(np.asarray(_host(v), np.float64) * (forward - back)))
            for v, forward, back in zip(self.cotangents, *totals, strict=True)
        )

    # -- the comparison

    def run(self) -> float:
        """Compare along directions, if need be number by number; the worst directional error."""
        before = [_bytes(x) for x in (*self.values, *self.cotangents)]
        leaves = self.leaves()
        outputs = self.evaluate(leaves)
        gradients = self.gradients(leaves, outputs, create_graph=False)
        after = [_bytes(x) for x in (*self.values, *self.cotangents)]
        for position, (was, now) in enumerate(zip(before, after, strict=True)):
            if was != now:
                what = f"input {position}" if position < len(self.values) else "the cotangent"
                raise GradientError(f"{self.title} changed {what} in place", self.order)
        self.check_form(gradients, outputs)
        worst = 0.0
        for _ in range(DIRECTIONS):
            moved, analytic, spread, length = {}, [], 0.0, 0.0
            for i, g in zip(self.wrt, gradients, strict=True):
                u = self.generator.normal(g.shape, np.float64)
                moved[i] = self.step(i, u)
                # What rounding left of the step, not what was asked for.
                exact = moved[i][0].astype(np.float64) - moved[i][1]
                terms = np.asarray(_host(g), np.float64) * exact
                analytic.append(float(np.sum(terms)))
                spread += float(np.sum(terms * terms))
                length += float(np.sum(exact * exact))
            allowed = self.atol * math.sqrt(length) + self.rtol * math.sqrt(spread)
            gap = abs(math.fsum(analytic) - self.difference(moved))
            error = gap / allowed if allowed else 0.0 if gap == 0 else math.inf
            if not error <= 1:
                self.look_at_each_number(gradients)
            worst = max(worst, error)
        return worst

    def look_at_each_number(self, gradients: list[Any]) -> None:
        """Raise for the worst single derivative, if one is out of tolerance."""
        worst: tuple[float, int, tuple[int, ...], float, float] = (1.0, -1, (), 0.0, 0.0)
        for i, element, analytic, numeric in self.every_number(gradients):
            error = abs(analytic - numeric) / (self.atol + self.rtol * abs(numeric))
            if not error <= worst[0]:
                worst = (math.inf if math.isnan(error) else error, i, element, analytic, numeric)
        error, i, element, analytic, numeric = worst
        if i >= 0:
            ratio = f", ratio {analytic / numeric:.4g}" if numeric else ""
            at = f"[{', '.join(map(str, element))}]" if element else ""
            raise GradientError(
                f"{self.title} is wrong at input {i}{at}: {analytic:.10g} by the chain rule, "
                f"{numeric:.10g} by differences{ratio}; {error:.3g} times the tolerance "
                f"(rtol {self.rtol:g}, atol {self.atol:g}, eps {self.eps:.2g})",
                self.order,
                i,
                element,
                analytic,
                numeric,
            )

    def every_number(
        self, gradients: list[Any]
    ) -> Iterator[tuple[int, tuple[int, ...], float, float]]:
        """(input, element, derivative by the chain rule, by differences), one after the other."""
        for i, g in zip(self.wrt, gradients, strict=True):
            host = _host(g)
            for element in np.ndindex(host.shape):
                u = np.zeros(host.shape)
                u[element] = 1.0
                forward, back = self.step(i, u)
                length = float(forward[element]) - float(back[element])
                numeric = self.difference({i: (forward, back)}) / length
                yield i, element, float(host[element]), numeric

    @property
    def title(self) -> str:
        return "the gradient" if self.order == 1 else f"the derivative of order {self.order}"

    def check_form(self, gradients: list[Any], outputs: list[Any]) -> None:
        """Shape, dtype and backend of the gradients, and that their memory is their own."""
        names = [f"the gradient of input {i}" for i in self.wrt]
        for name, i, g in zip(names, self.wrt, gradients, strict=True):
            x = self.values[i]
            if (g.shape, g.dtype, g.backend) != (x.shape, x.dtype, x.backend):
                raise GradientError(
                    f"{name} is {g.dtype} {g.shape} on {g.backend}, the input {x.dtype} {x.shape} "
                    f"on {x.backend}",
                    self.order,
                    i,
                )
        others = [(f"input {i}", x) for i, x in enumerate(self.values)]
        others += [("an output", y) for y in outputs]
        others += [("the cotangent", v) for v in self.cotangents]
        mine = list(zip(names, gradients, strict=True))
        for k, (name, g) in enumerate(mine):
            for other, x in [*mine[k + 1 :], *others]:
                if _share(g, x):
                    raise GradientError(f"{name} shares memory with {other}", self.order)


def _zeros_like(x: Any) -> Any:
    xp = backend.namespaces[x.data.__class__]
    return Tensor(xp.zeros(x.shape, x.dtype))


def _bytes(value: Any) -> bytes:
    return _host(value).tobytes() if isinstance(value, Tensor) else b""


def _share(x: Any, y: Any) -> bool:
    if not isinstance(y, Tensor) or x.size == 0 or y.size == 0:
        return False
    mine, theirs = backend.of(x.data), backend.of(y.data)
    assert mine is not None
    assert theirs is not None
    return mine is theirs and mine.owner(x.data) == theirs.owner(y.data)
