"""Compare an optimizer with its formula: `check_optimizer`.

An optimizer is a function of what it has seen: the first weight and all gradients so far give the
weight now. The formula says so on plain arrays, without any state; the optimizer gets there step by
step, with state, in place and for several parameters at once. Both are given the same random
numbers, and after every step they must agree, up to the rounding of the dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from microtensor import backend
from microtensor.nn.parameter import Parameter
from microtensor.tensor import Tensor
from microtensor.testing.report import GradientError, at, literal, where_from
from microtensor.testing.updates import Fault, Paths, Problem, errors, first_fault, guess

__all__ = ["OptimizerReport", "check_optimizer"]


class Steps(Protocol):
    """What the check asks of an optimizer; `state_dict` and `load_state_dict` are used if there."""

    def step(self) -> None:
        """Update every parameter that has a gradient."""


Make = Callable[[list[Any]], Steps]
Formula = Callable[[Any, list[Any]], Any]

# Two of one shape: state that is looked up by shape is shared between them. One number, and none.
SHAPES = ((3, 2), (4,), (4,), (), (0, 3))
RTOL = {"float64": 1e-10, "float32": 1e-5}  # 1 - 0.999 has lost three digits already
NUDGES = 4  # evaluations of the formula at rounded inputs, to see how far rounding may move it
KEPT = "a gradient itself is kept as state instead of a copy"
SLACK = 64.0  # roundings within a step, and worse luck than in NUDGES random ones


@dataclass(frozen=True)
class OptimizerReport:
    """What a successful `check_optimizer` found.

    Attributes
    ----------
    dtypes
        The dtypes of the parameters that were tried.
    steps
        How many steps were compared in each.
    resumed
        Whether a run continued from a `state_dict` was compared too.
    error
        The largest difference from the formula, as a fraction of what rounding explains.
    """

    dtypes: tuple[str, ...]
    steps: int
    resumed: bool
    error: float


def check_optimizer(
    make: Make,
    formula: Formula,
    *,
    steps: int = 6,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    dtype: Any = None,
    rtol: float | None = None,
    missing: bool = True,
    falls: int = 0,
    rng: int = 0,
) -> OptimizerReport:
    """Raise `GradientError` unless the optimizer follows its formula.

    Also checked: gradients stay as they are, and are not kept as state; a parameter keeps shape,
    dtype and backend; one whose `grad` is None stays as it is, by itself and in what is remembered
    of it; parameters do not influence each other; a run that is continued from `state_dict` gives
    the same bits as one that was never interrupted.

    >>> import microtensor as mt
    >>> def descent(weight, gradients):
    ...     return weight - 0.1 * sum(gradients)
    >>> check_optimizer(lambda parameters: mt.optim.SGD(parameters, lr=0.1), descent).steps
    6

    Parameters
    ----------
    make
        Called with a list of parameters; returns an optimizer over them. Anything with a method
        `step` will do.
    formula
        `formula(weight, gradients)`: the weight after the last of the gradients, for one parameter.
        `weight` is the one before the first step, `gradients` a list of at least one array of the
        same shape; all float64 arrays of NumPy. Write it differently from the optimizer, without
        state that is carried along wherever there is a closed form.
    steps
        How many steps to compare.
    shapes
        Of the parameters.
    dtype
        Of the parameters; if None, float64 (the sharp check) and float32 one after the other.
    rtol
        What an update may be off, relative to how far the weight has moved; if None 1e-10 for
        float64 and 1e-5 for float32. What rounding explains comes on top: the formula is evaluated
        at inputs that differ in their last bit too.
    missing
        Whether also to try steps in which some parameters have no gradient. The formula is then
        given the others' gradients only. False is for an optimizer that counts such steps too.
    falls
        After so many steps the loss of a random convex quadratic, whose largest curvature is 1,
        must be smaller than before; 0 leaves this out. The learning rate must be fit for it.
    rng
        Seed of the random numbers. No global random state is touched.

    Returns
    -------
    OptimizerReport

    Raises
    ------
    GradientError
        With the verdict `wrong_update`, `nan`, `mutated_input`, `aliased_gradient`, `dtype`,
        `shape` or `backend`. `input` is the position of the parameter, `element` the number in it
        that is worst, `analytic` and `numeric` how far the optimizer and the formula moved it in
        that step, and `cause` a guess: "sign", "factor", "shift" (one step off), "state" (the first
        step is right), "shared" (right with one parameter, wrong with several), "decay" (a multiple
        of the weight), "cut" (never moves), "precision" (right up to float32's), or "".
    ValueError
        If `formula` does not return an array of the weight's shape.
    """
    if steps < 1 or not shapes:
        raise ValueError("check_optimizer: it needs a parameter and a step to compare")
    dtypes = tuple(RTOL) if dtype is None else (np.dtype(dtype).name,)
    if not set(dtypes) <= RTOL.keys():
        raise ValueError(f"check_optimizer: parameters are float64 or float32, not {dtypes[0]}")
    worst, resumed = 0.0, False
    for name in dtypes:
        check = _Check(make, formula, name, rtol, rng)
        problem = check.draw(shapes, steps)
        worst = max(worst, check.compare(problem))
        if missing:
            worst = max(worst, check.compare(check.with_gaps(problem)))
        check.overwrite(problem)
        resumed = check.resume(problem)
        if falls:
            check.fall(shapes, falls)
    return OptimizerReport(dtypes, steps, resumed, worst)


class _Check:
    """One dtype: how to make the optimizer, its formula, and where random numbers come from."""

    def __init__(
        self,
        make: Make,
        formula: Formula,
        dtype: str,
        rtol: float | None,
        rng: int,
    ) -> None:
        self.make, self.formula, self.rng = make, formula, rng
        self.generator = backend.Generator(rng)
        self.dtype = np.dtype(dtype)
        self.rtol = RTOL[dtype] if rtol is None else rtol
        self.eps = float(np.finfo(self.dtype).eps)

    # -- the numbers

    def draw(self, shapes: Sequence[tuple[int, ...]], steps: int) -> Problem:
        """Weights of about 1; gradients of every size from 1e-7 to 3, for the sake of epsilons."""
        sizes = [int(np.prod(shape, dtype=int)) for shape in shapes]
        exponents = np.linspace(-5.0, 0.0, max(sum(sizes), 1))
        exponents = exponents[self.generator.permutation(exponents.size)]
        starts: list[np.ndarray] = []
        gradients: list[list[Any]] = [[] for _ in range(steps)]
        for i, shape in enumerate(shapes):
            mine = exponents[sum(sizes[:i]) : sum(sizes[: i + 1])].reshape(shape)
            starts.append(self.short(self.signed(shape, 0.2, 2.0)))
            for row in gradients:
                # Rising and falling by itself, so that a largest value so far is one.
                swing = self.generator.uniform(-2.0, 0.5, shape, np.float64)
                row.append(self.short(self.signed(shape, 0.5, 1.0) * 10.0 ** (mine + swing)))
        return self.with_a_late_start(Problem(starts, gradients))

    def with_a_late_start(self, problem: Problem) -> Problem:
        """One number whose gradient is zero at first, if the formula can divide by its state."""
        i = next((i for i, start in enumerate(problem.starts) if start.size), None)
        if i is None:
            return problem
        again = Problem(problem.starts, [[g.copy() for g in row] for row in problem.gradients])
        for row in again.gradients[:2]:
            row[i].flat[0] = 0.0
        finite = all(np.isfinite(path).all() for path in self.by_formula(again.only(i), 0))
        return again if finite else problem

    def with_gaps(self, problem: Problem) -> Problem:
        """In every step about a third of the parameters has no gradient."""
        return Problem(
            problem.starts,
            [
                [None if (k - i) % 3 == 0 else g for i, g in enumerate(row)]
                for k, row in enumerate(problem.gradients)
            ],
        )

    def signed(self, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
        size = self.generator.uniform(low, high, shape, np.float64)
        return np.asarray(size * (2.0 * self.generator.bernoulli(0.5, shape, np.float64) - 1.0))

    def short(self, array: np.ndarray) -> np.ndarray:
        """Rounded to three digits, so that a reproducer can be read."""
        digits = [float(f"{value:.3g}") for value in array.ravel()]
        return np.array(digits, self.dtype).reshape(array.shape)

    # -- both ways

    def run(self, problem: Problem) -> list[list[np.ndarray]]:
        """For every parameter its weights before the first step and after each."""
        parameters = [Parameter(self.place(start)) for start in problem.starts]
        optimizer = self.make(parameters)
        paths = [[start] for start in problem.starts]
        given: list[tuple[int, Any, np.ndarray]] = []
        for k, row in enumerate(problem.gradients, 1):
            for parameter, gradient in zip(parameters, row, strict=True):
                parameter.grad = None
                if gradient is not None:
                    parameter.grad = Tensor(self.place(gradient))
                    given.append((k, parameter.grad, gradient))
            before = [parameter.data for parameter in parameters]
            with np.errstate(all="ignore"):  # what is not finite is looked at below
                optimizer.step()
            self.check_form(problem, k, parameters, before)
            self.check_gradients(problem, k, given)
            for path, parameter in zip(paths, parameters, strict=True):
                path.append(_host(parameter).copy())
        return paths

    def place(self, host: np.ndarray) -> Any:
        return backend.default().from_host(host.copy())

    def by_formula(
        self, problem: Problem, i: int, largest: np.ndarray | None = None
    ) -> list[np.ndarray]:
        """The weights of parameter i after every step, where it has no gradient the old ones.

        With `largest`, the largest that each weight becomes, all numbers are moved up or down by
        the precision of the dtype.
        """
        start = problem.starts[i].astype(np.float64)
        row = [None if g[i] is None else g[i].astype(np.float64) for g in problem.gradients]
        if largest is not None:
            start = self.nudged(start, largest)
            row = [None if g is None else self.nudged(g, np.abs(g)) for g in row]
        path, seen = [start], []
        for gradient in row:
            if gradient is None:
                path.append(path[-1])
                continue
            seen.append(gradient)
            with np.errstate(all="ignore"):
                found = self.formula(start.copy(), [g.copy() for g in seen])
            weight = np.asarray(found, np.float64)
            if weight.shape != start.shape:
                raise ValueError(
                    f"check_optimizer: for a weight of shape {start.shape} the formula returned "
                    f"one of shape {weight.shape}; it must be the weight after the last step"
                )
            path.append(weight)
        return path

    def nudged(self, array: np.ndarray, size: np.ndarray) -> np.ndarray:
        up = 2.0 * self.generator.bernoulli(0.5, array.shape, np.float64) - 1.0
        return np.asarray(array + self.eps * size * up)

    def paths(self, problem: Problem) -> list[Paths]:
        """Both ways for every parameter, and after every step how far they may be apart."""
        found = []
        for i, ours in enumerate(self.run(problem)):
            formulas = self.by_formula(problem, i)
            largest = np.max(np.abs(np.where(np.isfinite(formulas), formulas, 0.0)), axis=0)
            nudged = [self.by_formula(problem, i, largest) for _ in range(NUDGES)]
            allowed = [np.zeros(ours[0].shape)]
            way = np.zeros(ours[0].shape)
            for k in range(1, len(formulas)):
                with np.errstate(all="ignore"):  # where the formula is not finite
                    step = np.abs(formulas[k] - formulas[k - 1])
                    spread = np.max([np.abs(path[k] - formulas[k]) for path in nudged], axis=0)
                way = way + np.where(np.isfinite(step), step, 0.0)
                rounding = SLACK * (self.eps * (k * largest + way) + spread)
                rounding = np.where(np.isfinite(rounding), rounding, np.inf)
                allowed.append(rounding + self.rtol * way)
            found.append(Paths(ours, formulas, allowed))
        return found

    # -- the comparisons

    def compare(self, problem: Problem) -> float:
        """The largest error as a fraction of what is allowed; `GradientError` if above 1."""
        paths = self.paths(problem)
        fault = first_fault(paths)
        if fault is None:
            return max(float(e.max(initial=0.0)) for path in paths for e in errors(path))
        raise self.wrong_update(problem, paths, fault)

    def wrong_update(self, problem: Problem, paths: list[Paths], fault: Fault) -> GradientError:
        """The error, with a guess at its cause and the smallest problem that shows it."""
        k, i, element, size = fault
        (ours, formulas, _), gradient = paths[i], problem.gradients[k - 1][i]
        after, wanted = float(ours[k][element]), float(formulas[k][element])
        moves = after - float(ours[k - 1][element]), wanted - float(formulas[k - 1][element])
        alone = problem.only(i)
        shared = len(paths) > 1 and first_fault(self.paths(alone)) is None
        smallest = problem if shared else alone
        if not shared and element and first_fault(self.paths(problem.only(i, element))):
            smallest = problem.only(i, element)
        if gradient is None:
            cause, why = "state", "without a gradient it must stay as it is: no decay, no momentum"
        elif not np.isfinite(after):
            cause, why = "", "a division by zero, or the root of a negative number"
            why += "; if steps are counted from 0, 1 - beta**0 is such a zero" if k == 1 else ""
        elif shared:
            cause, why = (
                "shared",
                ("alone this parameter is right: what is kept for several gets mixed up"),
            )
        elif any(row[i] is None for row in problem.gradients):
            cause, why = (
                "state",
                ("with a gradient in every step it is right: one without is remembered or counted"),
            )
        else:
            counted = [self.by_formula(problem.after_a_zero(), j)[1:] for j in range(len(paths))]
            cause, why = guess(problem, paths, counted, fault)
        return self.error(
            f"{self.name_of(problem, i)} is wrong after step {k} of {len(problem.gradients)}"
            f"{(element and ' at ' + at(element)) or ''}: "
            f"the optimizer moved it by {moves[0]:.10g}, the formula by {moves[1]:.10g}"
            f"{f', ratio {moves[0] / moves[1]:.6g}' if moves[1] else ''}\n"
            f"  the weight is {after:.10g}, by the formula {wanted:.10g}; "
            f"{size:.3g} times the tolerance",
            "wrong_update" if np.isfinite(after) else "nan",
            cause,
            why,
            i,
            element,
            moves,
            smallest.until(k),
        )

    def overwrite(self, problem: Problem) -> None:
        """Whoever keeps a gradient itself as state sees the next one in it."""
        reference = self.run(problem)
        parameters = [Parameter(self.place(start)) for start in problem.starts]
        optimizer = self.make(parameters)
        for parameter, start in zip(parameters, problem.starts, strict=True):
            parameter.grad = Tensor(self.place(start))
        for k, row in enumerate(problem.gradients, 1):
            for parameter, gradient in zip(parameters, row, strict=True):
                parameter.grad.data[...] = self.place(gradient)
            with np.errstate(all="ignore"):
                optimizer.step()
            for i, parameter in enumerate(parameters):
                if _host(parameter).tobytes() != reference[i][k].tobytes():
                    raise self.error(
                        f"{self.name_of(problem, i)} is another one after step {k} if gradients "
                        "come in the same array in every step",
                        "aliased_gradient",
                        guess=KEPT,
                        parameter=i,
                    )

    def resume(self, problem: Problem) -> bool:
        """Continue twice from a `state_dict` taken halfway; False if there is none."""
        middle = (len(problem.gradients) + 1) // 2
        parameters = [Parameter(self.place(start)) for start in problem.starts]
        first: Any = self.make(parameters)
        if not hasattr(first, "state_dict") or not hasattr(first, "load_state_dict"):
            return False
        self.advance(first, parameters, problem.gradients[:middle])
        halfway = [_host(parameter).copy() for parameter in parameters]
        state = first.state_dict()
        self.advance(first, parameters, problem.gradients[middle:])
        for once in ("", " a second time"):
            copies = [Parameter(self.place(weight)) for weight in halfway]
            resumed: Any = self.make(copies)
            resumed.load_state_dict(state)
            self.advance(resumed, copies, problem.gradients[middle:])
            for i, (a, b) in enumerate(zip(parameters, copies, strict=True)):
                if _host(a).tobytes() != _host(b).tobytes():
                    raise self.error(
                        f"{self.name_of(problem, i)} ends with other weights if the run is "
                        f"continued{once} from the state_dict after step {middle}",
                        "wrong_update",
                        "state",
                        "load_state_dict shares memory with what it is given"
                        if once
                        else "state_dict lacks something, or shares memory with the optimizer",
                        i,
                    )
        return True

    def advance(self, optimizer: Steps, parameters: list[Any], gradients: list[list[Any]]) -> None:
        for row in gradients:
            for parameter, gradient in zip(parameters, row, strict=True):
                parameter.grad = None if gradient is None else Tensor(self.place(gradient))
            with np.errstate(all="ignore"):
                optimizer.step()

    def fall(self, shapes: Sequence[tuple[int, ...]], steps: int) -> None:
        """The loss w . H w / 2 with a random H of eigenvalues from 0.05 to 1, its minimum 0."""
        sizes = [int(np.prod(shape, dtype=int)) for shape in shapes]
        total = sum(sizes)
        q, _ = np.linalg.qr(self.generator.normal((total, total), np.float64))
        hessian = (q * self.generator.uniform(0.05, 1.0, total, np.float64)) @ q.T
        starts = [self.short(self.signed(shape, 1.0, 3.0)) for shape in shapes]
        parameters = [Parameter(self.place(start)) for start in starts]
        optimizer = self.make(parameters)

        def flat() -> np.ndarray:
            return np.concatenate([_host(p).ravel().astype(np.float64) for p in parameters])

        before = 0.5 * flat() @ hessian @ flat()
        for _ in range(steps):
            slope = np.split(hessian @ flat(), np.cumsum(sizes)[:-1])
            row = [g.reshape(s).astype(self.dtype) for g, s in zip(slope, shapes, strict=True)]
            self.advance(optimizer, parameters, [list(row)])
        after = 0.5 * flat() @ hessian @ flat()
        if not after < before:
            raise self.error(
                f"the loss of a convex quadratic does not fall: {before:.6g} before the first "
                f"step, {after:.6g} after {steps} of them",
                "wrong_update",
                guess="the sign of the update, or a learning rate too large for a curvature of 1",
            )

    # -- what a step must leave as it was

    def check_form(
        self, problem: Problem, k: int, parameters: list[Any], before: list[Any]
    ) -> None:
        for i, (parameter, old) in enumerate(zip(parameters, before, strict=True)):
            new = parameter.data
            for verdict, was, now in (
                ("backend", type(old), type(new)),
                ("dtype", old.dtype, new.dtype),
                ("shape", old.shape, new.shape),
            ):
                if was != now:
                    raise self.error(
                        f"{self.name_of(problem, i)} has changed its {verdict} in step {k}: it was "
                        f"{was} and is {now}",
                        verdict,
                        parameter=i,
                        problem=problem.only(i).until(k),
                    )

    def check_gradients(
        self, problem: Problem, k: int, given: list[tuple[int, Any, np.ndarray]]
    ) -> None:
        """None of the gradients so far has changed; one of an earlier step is kept as state."""
        for step, tensor, was in given:
            now = _host(tensor)
            if now.dtype == was.dtype and now.tobytes() == was.tobytes():
                continue
            i = next(i for i, g in enumerate(problem.gradients[step - 1]) if g is was)
            kept = step < k
            raise self.error(
                f"{self.name_of(problem, i)} was given a gradient in step {step} that step {k} "
                "changed",
                "aliased_gradient" if kept else "mutated_input",
                guess=KEPT if kept else "the step works in the memory of the gradient",
                parameter=i,
                problem=problem.only(i).until(k),
            )

    # -- words

    def name_of(self, problem: Problem, i: int) -> str:
        return f"parameter {i}, {self.dtype} {problem.starts[i].shape},"

    def error(
        self,
        message: str,
        verdict: str,
        cause: str = "",
        guess: str = "",
        parameter: int | None = None,
        element: tuple[int, ...] | None = None,
        numbers: tuple[float | None, float | None] = (None, None),
        problem: Problem | None = None,
    ) -> GradientError:
        """With the guess, if there is one, and lines that show the mistake on `problem`."""
        return GradientError(
            f"{message}\n  guess: {guess}" if guess else message,
            verdict=verdict,
            cause=cause,
            input=parameter,
            element=element,
            analytic=numbers[0],
            numeric=numbers[1],
            inputs=() if problem is None else tuple(problem),
            reproducer=self.reproducer(problem),
        )

    def reproducer(self, problem: Problem | None) -> str:
        """Both results next to each other; without a problem the call of the check again."""
        lines, names = ["import numpy as np", "import microtensor as mt"], []
        for role, f in (("make", self.make), ("formula", self.formula)):
            line, name = where_from(f)
            lines.append(line.replace("f = ", f"{role} = ", 1) if name == "f" else line)
            names.append(role if name == "f" else name)
        make, formula = names
        if problem is None:
            lines[:2] = ["from microtensor.testing import check_optimizer"]
            lines.append(
                f'check_optimizer({make}, {formula}, dtype="{self.dtype}", rng={self.rng})'
            )
            return "\n".join(lines)
        weights = [literal(start) for start in problem.starts]
        rows = [["None" if g is None else literal(g) for g in row] for row in problem.gradients]
        if len(weights) == 1:
            lines += [
                f"weight = {weights[0]}",
                f"gradients = [{', '.join([row[0] for row in rows])}]",
                "parameter = mt.nn.Parameter(weight.copy())",
                f"optimizer = {make}([parameter])",
                "for gradient in gradients:",
                "    parameter.grad = None if gradient is None else mt.tensor(gradient)",
                "    optimizer.step()",
                "seen = [gradient for gradient in gradients if gradient is not None]",
                f"print(parameter.data, {formula}(weight, seen))",
            ]
            return "\n".join(lines)
        lines += [f"weights = [{', '.join(weights)}]", "gradients = ["]
        lines += [f"    [{', '.join(row)}]," for row in rows]
        lines += [
            "]",
            "parameters = [mt.nn.Parameter(weight.copy()) for weight in weights]",
            f"optimizer = {make}(parameters)",
            "for row in gradients:",
            "    for parameter, gradient in zip(parameters, row):",
            "        parameter.grad = None if gradient is None else mt.tensor(gradient)",
            "    optimizer.step()",
            "for i, parameter in enumerate(parameters):",
            "    seen = [row[i] for row in gradients if row[i] is not None]",
            f"    print(parameter.data, {formula}(weights[i], seen))",
        ]
        return "\n".join(lines)


def _host(tensor: Any) -> np.ndarray:
    found = backend.of(tensor.data)
    assert found is not None
    return found.to_host(tensor.data)
