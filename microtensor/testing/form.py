"""What can be wrong with a gradient before any of its numbers is looked at.

The value is computed twice and the gradient pulled back twice; `backward` goes the way that users
take. Whoever answers differently the second time, writes into what it was given, hands out memory
that is somebody else's, or changes shape, dtype or backend on the way is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from microtensor import backend, engine
from microtensor.backend import Array
from microtensor.declaration import LIBRARY
from microtensor.tensor import Tensor
from microtensor.testing.differences import host
from microtensor.testing.report import GradientError, at
from microtensor.testing.subject import Leaf, Pullback, Subject, Tensors

LIBRARY.add(id(globals()))
_ROUNDINGS = 1000  # two ways to the same number may differ by so many units in its last place


class Form:
    """A subject at a point: its outputs, random cotangents of them, and its gradients.

    Making one raises `GradientError` if something is wrong with their form.
    """

    def __init__(
        self, subject: Subject, order: int, rng: backend.Generator, cotangent: Any
    ) -> None:
        self.subject, self.order, self.rng = subject, order, rng
        self.wrt = [subject.leaves[i] for i in subject.wrt]
        self.arrays = [leaf.array for leaf in subject.leaves]
        self.kept = [host(array).copy() for array in self.arrays]
        try:
            with np.errstate(all="ignore"):
                self._look(cotangent)
        finally:
            for array, before in zip(self.arrays, self.kept, strict=True):
                if not _same(host(array), before):
                    array[...] = _array_like(before, array)

    def _look(self, cotangent: Any) -> None:
        first = self.subject.outputs(self.arrays)
        self._inputs_are_untouched("computing the value")
        back = self.subject.pullback(self.arrays)
        self.outputs = back.outputs
        self._inputs_are_untouched("computing the value")
        self._value_is_reproduced(first)
        self.cotangents = self._cotangents(cotangent)
        self.gradients = self._pull(back)
        self._inputs_are_untouched("the backward pass")
        self._each_gradient_fits()
        self._memory_is_not_shared([*zip(self.wrt, self.gradients, strict=True)], self.title)
        self._twice_the_cotangent_gives_twice_the_gradient(back)
        if isinstance(self.subject, Tensors) and self.order == 1:
            self._backward_agrees(self.subject)
        self._inputs_are_untouched("the backward pass")
        self._float32_stays(back.tensors)
        doubles = all(
            leaf.array.dtype == np.float64 for leaf in self.subject.leaves if leaf.is_float
        )
        self.has_float32_inside = doubles and any(
            np.float32 in (node.dtype if isinstance(node.dtype, tuple) else (node.dtype,))
            for node in _nodes(back.tensors)
        )

    @property
    def title(self) -> str:
        """What is wrong if something is."""
        return "the gradient" if self.order == 1 else f"the derivative of order {self.order}"

    def _error(
        self, verdict: str, message: str, leaf: Leaf | None = None, **details: Any
    ) -> GradientError:
        key = None if leaf is None else leaf.key
        return GradientError(message, verdict=verdict, order=self.order, input=key, **details)

    # -- the value

    def _inputs_are_untouched(self, who: str) -> None:
        for leaf, array, before in zip(self.subject.leaves, self.arrays, self.kept, strict=True):
            if not _same(host(array), before):
                raise self._error("mutated_input", f"{who} changed {leaf.label} in place", leaf)

    def _value_is_reproduced(self, first: list[Array]) -> None:
        """It is the same twice, and finite."""
        one, two = [host(y) for y in first], [host(y) for y in self.outputs]
        if [(y.shape, y.dtype) for y in one] != [(y.shape, y.dtype) for y in two]:
            raise self._error("nondeterministic", "two calls with the same inputs differ in form")
        for i, (a, b) in enumerate(zip(one, two, strict=True)):
            # A gradient that is recorded is computed in another way, and may round differently.
            near = _near(a, b) if self.order > 1 else (a == b) | (np.isnan(a) & np.isnan(b))
            if not np.all(near):
                where = _first(~near)
                raise self._error(
                    "nondeterministic",
                    f"two calls with the same inputs differ: output {i}{at(where)} is "
                    f"{a[where]:.10g}, then {b[where]:.10g}. f keeps a state or draws random "
                    "numbers: start both afresh inside f, or use .eval()",
                )
            if not np.isfinite(b).all():
                where = _first(~np.isfinite(b))
                raise self._error(
                    "nan",
                    f"output {i}{at(where)} of the function is {b[where]} at these inputs; choose "
                    "inputs well inside its domain",
                )

    # -- the gradient

    def _cotangents(self, given: Any) -> list[Array]:
        if isinstance(given, str):
            if given not in ("random", "ones"):
                raise ValueError(f'check_grads: cotangent is "random", "ones" or arrays: {given!r}')
            made = []
            for y in self.outputs:
                dtype = host(y).dtype
                ones = given == "ones"
                v = np.ones(y.shape, dtype) if ones else self.rng.normal(y.shape, dtype)
                made.append(_array_like(v, y))
            return made
        given = list(given) if isinstance(given, (tuple, list)) else [given]
        bare = [v.data if isinstance(v, Tensor) else v for v in given]
        if [getattr(v, "shape", None) for v in bare] != [y.shape for y in self.outputs]:
            raise ValueError(
                f"check_grads: the outputs have shapes {[y.shape for y in self.outputs]}, the "
                f"cotangents {[getattr(v, 'shape', v) for v in bare]}"
            )
        made = [v.astype(y.dtype) for v, y in zip(bare, self.outputs, strict=True)]
        numbers = [host(v) for v in bare]
        if any(v.dtype.kind == "c" or not np.isfinite(v).all() for v in numbers):
            raise ValueError("check_grads: a cotangent must be real and finite")
        if not any(np.any(v) for v in numbers) and any(v.size for v in numbers):
            raise ValueError("check_grads: with cotangents of zeros every gradient would be right")
        return made

    def _pull(self, back: Pullback) -> list[Array]:
        """The gradients; neither the cotangents nor the outputs have changed."""
        watched = [
            *[("the cotangent", v, host(v).copy()) for v in self.cotangents],
            *[("its own result", y, host(y).copy()) for y in self.outputs],
        ]
        found = self._vjp(back, self.cotangents)
        for name, array, before in watched:
            if not _same(host(array), before):
                raise self._error(
                    "mutated_input",
                    f"the backward pass changed {name} in place: a rule that writes into its g, or "
                    "into what it saved; write into a copy",
                )
        return found

    def _vjp(self, back: Pullback, cotangents: list[Array]) -> list[Any]:
        """The gradients, zeros where nothing arrives; what the engine refuses is a verdict."""
        try:
            found = back.vjp(cotangents)
        except (TypeError, ValueError) as error:
            fault = getattr(error, "fault", None)
            if fault is None:
                raise
            raise self._error(fault, str(error)) from error
        made = []
        for g, leaf in zip(found, self.wrt, strict=True):
            if g is None:
                g = _array_like(np.zeros(leaf.array.shape, host(leaf.array).dtype), leaf.array)
            made.append(np.asarray(g) if isinstance(g, (float, np.generic)) else g)
        return made

    def _each_gradient_fits(self) -> None:
        """Shape, dtype and backend of its input, and finite."""
        for leaf, g in zip(self.wrt, self.gradients, strict=True):
            x, place, found = leaf.array, backend.of(leaf.array), backend.of(g)
            assert place is not None
            says = f"{self.title} of {leaf.label}"
            if found is not place:
                kind = type(g).__name__ if found is None else f"array of {found.name!r}"
                raise self._error("backend", f"{says} is a {kind}, not of {place.name!r}", leaf)
            if g.shape != x.shape:
                cause, text = "", f"{says} has shape {g.shape}, the input {x.shape}"
                if repeats(x.shape, g.shape):
                    cause = "broadcast"
                    text += ": a sum over the axes along which the input was repeated is missing"
                elif g.shape == x.shape[::-1]:
                    cause, text = "transpose", text + ": it is transposed"
                raise self._error("shape", text, leaf, cause=cause)
            if g.dtype != x.dtype:
                raise self._error("dtype", f"{says} is {g.dtype}, the input {x.dtype}", leaf)
            array = host(g)
            if not np.isfinite(array).all():
                element = _first(~np.isfinite(array))
                raise self._error(
                    "nan",
                    f"{says}{at(element)} is {array[element]}, where the input is "
                    f"{host(x)[element]:.10g}",
                    leaf,
                    element=element,
                    analytic=float(array[element]),
                )

    def _memory_is_not_shared(self, gradients: list[tuple[Leaf, Array]], what: str) -> None:
        others = [(leaf.label, leaf.array) for leaf in self.subject.leaves]
        others += [(f"output {i}", y) for i, y in enumerate(self.outputs)]
        others += [("the cotangent", v) for v in self.cotangents]
        for k, (leaf, g) in enumerate(gradients):
            rest = [(f"{what} of {other.label}", h) for other, h in gradients[k + 1 :]]
            for name, x in [*rest, *others]:
                if _share(g, x):
                    raise self._error(
                        "aliased_gradient",
                        f"{what} of {leaf.label} shares memory with {name}: whoever changes one in "
                        "place changes both; return a copy",
                        leaf,
                    )

    def _twice_the_cotangent_gives_twice_the_gradient(self, back: Pullback) -> None:
        """In new memory; the first gradient is still what it was."""
        before = [host(g).copy() for g in self.gradients]
        twice = self._vjp(back, [_array_like(2 * host(v), v) for v in self.cotangents])
        for leaf, g, was, other in zip(self.wrt, self.gradients, before, twice, strict=True):
            says = f"{self.title} of {leaf.label}"
            if not _same(host(g), was):
                raise self._error(
                    "aliased_gradient",
                    f"{says} was overwritten by the next backward pass: it was handed out in "
                    "memory that is used again",
                    leaf,
                )
            self._numbers_agree(
                leaf,
                host(other),
                2 * was,
                f"{says} is not proportional to the cotangent, or the backward pass changes what "
                "the next one needs: with twice the cotangent",
                "twice as much would be",
            )

    def _numbers_agree(
        self,
        leaf: Leaf,
        found: np.ndarray,
        wanted: np.ndarray,
        says: str,
        instead: str,
        size: float = 0.0,
    ) -> None:
        if found.shape != wanted.shape:
            raise self._error("shape", f"{says} it has shape {found.shape}", leaf)
        wrong = ~_near(found, wanted, size)
        if wrong.any():
            element = _first(wrong)
            a, b = float(found[element]), float(wanted[element])
            raise self._error(
                "wrong_gradient",
                f"{says}{', number ' * bool(element)}{at(element)}, is {a:.10g}; {instead} "
                f"{b:.10g}",
                leaf,
                element=element,
                analytic=a,
                numeric=b,
            )

    def _backward_agrees(self, subject: Tensors) -> None:
        """`backward` fills `.grad`, and a second one adds to it, each time in new memory."""
        tensors = subject.tensors(self.arrays, subject.wrt)
        sources = [tensors[i] for i in subject.wrt]
        # Leaves that f knows by itself, such as parameters, get gradients as well: they lose them.
        back = subject.trace(tensors, record=True)
        others = {
            place: place.grad
            for node in _nodes(back)
            for place in node.parents or ()
            if isinstance(place, Tensor) and not any(place is source for source in sources)
        }
        try:
            self._backward_twice(subject, tensors, sources)
        finally:
            for tensor, grad in others.items():
                tensor.grad = grad

    def _backward_twice(self, subject: Tensors, tensors: list[Any], sources: list[Any]) -> None:
        for source in sources:
            source.grad = None
        first: list[Any] = []
        # Here the outputs' parts are added up one after the other, there all at once: where they
        # cancel, both are rounded by the parts' size.
        size = max(float(np.max(np.abs(host(g)), initial=0)) for g in self.gradients)
        for times in (1, 2):
            outputs = subject.trace(tensors, record=True)
            for y, v in zip(outputs, self.cotangents, strict=True):
                if y.requires_grad:
                    engine.backward(y, Tensor(v), retain_graph=True)
                    parts = [host(x.grad.data) for x in sources if x.grad is not None]
                    size = max(size, *[float(np.max(np.abs(g), initial=0)) for g in parts])
            for leaf, source, g in zip(self.wrt, sources, self.gradients, strict=True):
                if source.grad is not None:
                    self._numbers_agree(
                        leaf,
                        host(source.grad.data),
                        times * host(g),
                        f"after `backward`{' twice' * (times > 1)}, .grad of {leaf.label}",
                        "grad() makes it",
                        size,
                    )
            reached = zip(self.wrt, sources, strict=True)
            self._memory_is_not_shared(
                [(leaf, x.grad.data) for leaf, x in reached if x.grad is not None], ".grad"
            )
            for leaf, earlier, g in zip(self.wrt, first, self.gradients, strict=False):
                if earlier is not None and not np.all(_near(host(earlier.data), host(g), size)):
                    raise self._error(
                        "aliased_gradient",
                        f".grad of {leaf.label} was changed by the next `backward` after it had "
                        "been handed out",
                        leaf,
                    )
            first = [source.grad for source in sources]

    def _float32_stays(self, outputs: list[Any]) -> None:
        """If all inputs are float32, nothing becomes float64 unless somebody asks for it."""
        floats = [leaf for leaf in self.subject.leaves if leaf.is_float]
        if any(leaf.array.dtype != np.float32 for leaf in floats):
            return
        for node in _nodes(outputs):
            parents = [_dtype_at(place) for place in node.parents or ()]
            made = node.dtype if isinstance(node.dtype, tuple) else (node.dtype,)
            if node.name == "astype" or np.float64 in parents or np.float64 not in made:
                continue
            raise self._error(
                "dtype",
                f"{node!r} makes float64 of float32: a constant of float64, or a forward pass that "
                "computes in it. Keep its dtype, or convert with .astype where that is meant",
            )


def repeats(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    """Whether an array of shape `small` would be repeated to have shape `large`."""
    if len(small) > len(large) or small == large:
        return False
    tail = large[len(large) - len(small) :]
    return all(a in (1, b) for a, b in zip(small, tail, strict=True))


def _near(a: np.ndarray, b: np.ndarray, size: float = 0.0) -> Any:
    """Where two arrays agree but for rounding, measured by the largest number, or by `size`."""
    size = max(size, float(np.max(np.abs(b), initial=0)))
    return np.abs(a - b) <= _ROUNDINGS * float(np.finfo(b.dtype).eps) * size


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")


def _first(where: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(where)[0])


def _array_like(value: Any, array: Array) -> Array:
    """Numbers of the host as an array where another one lives."""
    place = backend.of(array)
    assert place is not None
    return place.from_host(np.asarray(value))


def _share(x: Array, y: Array) -> bool:
    if x.size == 0 or y.size == 0:
        return False
    mine = backend.of(x)
    return mine is not None and mine is backend.of(y) and mine.owner(x) == mine.owner(y)


def _nodes(outputs: list[Any]) -> Iterator[Any]:
    """All nodes behind some tensors."""
    seen: set[Any] = set()
    stack = [y.place for y in outputs if y.place is not None]
    while stack:
        place = stack.pop()
        node = place[0] if isinstance(place, tuple) else place
        if not isinstance(node, Tensor) and node not in seen:
            seen.add(node)
            yield node
            stack.extend(node.parents or ())


def _dtype_at(place: Any) -> Any:
    return place[0].dtype[place[1]] if isinstance(place, tuple) else place.dtype
