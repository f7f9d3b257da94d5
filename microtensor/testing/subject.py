"""What is checked: a function of arrays and its backward pass, whoever wrote them.

A subject has leaves, the arrays that its value depends on, and can do two things with other arrays
in their place: compute the outputs, and pull cotangents of the outputs back to the leaves. Three
kinds of things become subjects: a function of tensors or a module, whose backward pass is the
engine's; plain array code with a backward pass written by hand; and the backward pass of a subject,
which is a function of the leaves and the cotangents, so that second derivatives need no code.
"""

from __future__ import annotations

import contextlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from microtensor import backend, engine
from microtensor.backend import Array
from microtensor.declaration import LIBRARY
from microtensor.nn.module import Module
from microtensor.tensor import Tensor

LIBRARY.add(id(globals()))  # an operation that is called here was called by whoever checks it


class Leaf(NamedTuple):
    """One array that a subject depends on."""

    key: int | str  # a position among the arguments, or a parameter's name
    label: str  # in messages
    array: Array
    parameter: Any = None  # the tensor of a module whose memory is exchanged

    @property
    def is_float(self) -> bool:
        """Whether it can be differentiated."""
        return self.array.dtype in (np.float32, np.float64)


class Pullback(NamedTuple):
    """The outputs at one point, and the way back from there, which can be gone several times."""

    outputs: list[Array]
    vjp: Callable[[list[Array]], list[Any]]  # cotangents -> gradients (None: nothing arrived)
    tensors: list[Any] = []  # noqa: RUF012  the outputs as tensors, where they are


class Subject(ABC):
    """A function of leaves. Subclasses say how to compute and how to go back."""

    leaves: list[Leaf]
    wrt: list[int]  # positions among the leaves

    @abstractmethod
    def outputs(self, arrays: Sequence[Array]) -> list[Array]:
        """The value: float (or complex) arrays only."""

    @abstractmethod
    def pullback(self, arrays: Sequence[Array]) -> Pullback:
        """The value, and the way back."""

    def loaded(self) -> contextlib.AbstractContextManager[None]:
        """Whatever was exchanged inside the block is put back at its end."""
        return contextlib.nullcontext()


# -- inputs and outputs that are nested


def _is_array(value: Any) -> bool:
    return backend.of(value.data if isinstance(value, Tensor) else value) is not None


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The arrays, tensors and other values in nested tuples, lists and dictionaries."""
    if isinstance(value, (tuple, list)):
        for i, part in enumerate(value):
            yield from flatten(part, f"{path}[{i}]")
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from flatten(part, f"{path}[{key!r}]")
    else:
        yield path, value


def _filled(value: Any, leaves: Iterator[Any]) -> Any:
    """The same nest with the arrays and tensors in it replaced, in order."""
    if isinstance(value, (tuple, list)):
        parts = [_filled(part, leaves) for part in value]
        return value._make(parts) if hasattr(value, "_make") else type(value)(parts)
    if isinstance(value, dict):
        return {key: _filled(part, leaves) for key, part in value.items()}
    return next(leaves) if _is_array(value) else value


def _with_cotangents(value: Any, left: Iterator[Any]) -> Any:
    """The nest that f returned with the next cotangent for each float in it, None for the rest."""
    if isinstance(value, (tuple, list)):
        parts = [_with_cotangents(part, left) for part in value]
        return value._make(parts) if hasattr(value, "_make") else type(value)(parts)
    if isinstance(value, dict):
        return {key: _with_cotangents(part, left) for key, part in value.items()}
    if value is None:
        return None
    dtype = value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype
    return next(left) if dtype.kind in "fc" else None


def _some(outputs: list[Any]) -> list[Any]:
    """The outputs, of which there must be one."""
    if not outputs:
        raise TypeError(
            "check_grads: f returns nothing that could be differentiated, no array or tensor of "
            "floats; was `return` forgotten?"
        )
    return outputs


def argument_names(f: Any, count: int) -> list[str]:
    """The names of the first arguments of f, as far as they are known."""
    declaration = getattr(f, "declaration", None)
    if declaration is not None and not declaration.variadic:
        names = [*declaration.arguments, *declaration.defaults]
    else:
        try:
            parameters = inspect.signature(f.forward if isinstance(f, Module) else f).parameters
        except (TypeError, ValueError):
            return [""] * count
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        names = [name for name, p in parameters.items() if p.kind in kinds]
    return [*names, *[""] * count][:count]


def leaves_of(f: Any, inputs: Sequence[Any]) -> list[Leaf]:
    """The arrays and tensors among the inputs, and the parameters of a module."""
    found = []
    for i, (value, name) in enumerate(zip(inputs, argument_names(f, len(inputs)), strict=True)):
        for path, leaf in flatten(value):
            if _is_array(leaf):
                array = leaf.data if isinstance(leaf, Tensor) else leaf
                label = f"input {i}{path}" + (f" `{name}{path}`" if name else "")
                found.append(Leaf(f"{i}{path}" if path else i, label, array))
    if isinstance(f, Module):
        for name, parameter in f.named_parameters():
            found.append(Leaf(name, f"parameter `{name}`", parameter.data, parameter))
    return found


# -- functions of tensors


class Tensors(Subject):
    """A function of tensors, or a module: the engine goes back."""

    def __init__(self, f: Callable[..., Any], inputs: Sequence[Any]) -> None:
        self.f, self.inputs = f, list(inputs)
        self.leaves = leaves_of(f, inputs)
        self.wrt = []

    def trace(self, tensors: list[Any], record: bool) -> list[Any]:
        """The outputs that are floats, as tensors."""
        outputs = []
        for _, y in flatten(self.f(*_filled(self.inputs, iter(tensors)))):
            if y is None:
                continue
            if not isinstance(y, Tensor):
                text = f"check_grads: f must return a tensor or several, not a {type(y).__name__}"
                more = "; for array code with a backward pass of its own pass vjp="
                raise TypeError(text + more * _is_array(y))
            if y.dtype.kind in "fc":
                outputs.append(y)
        return _some(outputs)

    def tensors(self, arrays: Sequence[Array], needs: Sequence[int]) -> list[Any]:
        """Leaves of the engine with these numbers, of which those in `needs` are differentiated."""
        made = []
        for i, (leaf, array) in enumerate(zip(self.leaves, arrays, strict=True)):
            tensor = leaf.parameter
            if tensor is None:
                tensor = Tensor(array)
            tensor.data = array
            tensor._requires_grad = i in needs  # also of complex numbers, for the complex step
            made.append(tensor)
        return made

    @contextlib.contextmanager
    def loaded(self) -> Iterator[None]:
        """Put back the memory, the flag and the gradient of each parameter."""
        parameters = [leaf.parameter for leaf in self.leaves if leaf.parameter is not None]
        before = [(p.data, p._requires_grad, p.grad) for p in parameters]
        try:
            yield
        finally:
            for parameter, (data, needs, grad) in zip(parameters, before, strict=True):
                parameter.data, parameter._requires_grad, parameter.grad = data, needs, grad

    def outputs(self, arrays: Sequence[Array]) -> list[Array]:
        """The value; nothing is recorded."""
        return [y.data for y in self.trace(self.tensors(arrays, ()), record=False)]

    def pullback(self, arrays: Sequence[Array]) -> Pullback:
        """The value, recorded, and the engine's way back."""
        tensors = self.tensors(arrays, self.wrt)
        outputs = self.trace(tensors, record=True)
        sources = [tensors[i] for i in self.wrt]

        def vjp(cotangents: list[Array]) -> list[Any]:
            found = gradients(outputs, sources, [Tensor(c) for c in cotangents], False)
            return [None if g is None else g.data for g in found]

        return Pullback([y.data for y in outputs], vjp, outputs)


def gradients(outputs: list[Any], sources: list[Any], cotangents: list[Any], create: bool) -> Any:
    """The engine's gradients; None where nothing arrives. The graph is kept."""
    pairs = [pair for pair in zip(outputs, cotangents, strict=True) if pair[0].requires_grad]
    if not pairs or not sources:
        return [None] * len(sources)
    ends, given = zip(*pairs, strict=True)
    return engine.grad(
        ends, sources, given, retain_graph=True, create_graph=create, allow_unused=True
    )


class Gradient(Tensors):
    """The gradient of another subject, as a function of its leaves and its cotangents."""

    def __init__(self, inner: Tensors, cotangents: list[Array]) -> None:
        self.inner = inner
        self.leaves = [
            *inner.leaves,
            *[
                Leaf(f"cotangent {i}", f"the cotangent of output {i}", c)
                for i, c in enumerate(cotangents)
            ],
        ]
        first = len(inner.leaves)
        self.wrt = [*inner.wrt, *range(first, first + len(cotangents))]

    def trace(self, tensors: list[Any], record: bool) -> list[Any]:
        """The gradients of the inner subject, themselves recorded if wanted."""
        count = len(self.inner.leaves)
        for i in self.inner.wrt:
            tensors[i]._requires_grad = True
        outputs = self.inner.trace(tensors[:count], record=True)
        sources = [tensors[i] for i in self.inner.wrt]
        found = gradients(outputs, sources, tensors[count:], record)
        return [_zeros_like(x) if g is None else g for x, g in zip(sources, found, strict=True)]


def _zeros_like(x: Any) -> Any:
    xp = backend.namespaces[x.data.__class__]
    return Tensor(xp.zeros(x.shape, x.dtype))


# -- array code with its own way back


class HandWritten(Subject):
    """Plain array code, and a backward pass written by hand."""

    def __init__(
        self, f: Callable[..., Any], vjp: Callable[..., Any], inputs: Sequence[Any]
    ) -> None:
        self.f, self.rule = f, vjp
        self.inputs = [x.data if isinstance(x, Tensor) else x for x in inputs]
        self.leaves = leaves_of(f, self.inputs)
        self.wrt = []
        parameters = inspect.signature(vjp).parameters.values()
        varied = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self.takes_inputs = varied or len(parameters) > 1

    def outputs(self, arrays: Sequence[Array]) -> list[Array]:
        """The value."""
        return self._floats(self.f(*_filled(self.inputs, iter(arrays))))

    def _floats(self, value: Any) -> list[Array]:
        found = []
        for _, y in flatten(value):
            if y is None:
                continue
            if isinstance(y, (float, complex, np.generic)):
                y = np.asarray(y)
            if not _is_array(y) or isinstance(y, Tensor):
                raise TypeError(
                    f"check_grads: with vjp= f must return an array or several, not a "
                    f"{type(y).__name__}"
                )
            if y.dtype.kind in "fc":
                found.append(y)
        return _some(found)

    def pullback(self, arrays: Sequence[Array]) -> Pullback:
        """The value, and the rule. The forward pass runs again before each way back.

        A rule that takes the cotangent alone relies on what the last forward pass remembered.
        """
        inputs = _filled(self.inputs, iter(arrays))
        value = self.f(*inputs)
        outputs = self._floats(value)

        def vjp(cotangents: list[Array]) -> list[Any]:
            g = _with_cotangents(value, iter(cotangents))
            if not self.takes_inputs:
                self.f(*inputs)
            found = self.rule(g, *inputs) if self.takes_inputs else self.rule(g)
            found = [part for _, part in flatten(found)]
            every = [i for i, leaf in enumerate(self.leaves) if leaf.is_float]
            for count, chosen in ((len(self.leaves), range(len(self.leaves))), (len(every), every)):
                if len(found) == count:
                    by_leaf = dict(zip(chosen, found, strict=True))
                    return [by_leaf[i] for i in self.wrt]
            if len(found) == len(self.wrt):
                return found
            raise ValueError(
                f"check_grads: vjp returned {len(found)} gradients for {len(every)} float inputs; "
                "return one for each (None for one that is never asked for)"
            )

        return Pullback(outputs, vjp)
