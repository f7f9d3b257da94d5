"""Trials side by side: K models of one kind as one model, with a leading axis K in all its numbers.

Small networks spend their time between the operations, not in them, and an experiment repeats its
training for many seeds. A stack runs all of them in each operation:

    model = nn.stack([build(mt.Generator(seed)) for seed in range(8)])
    loss = nn.MSELoss(reduction="trial")                     one loss for each trial, (8,)
    loss(model(x), target).sum().backward()                  x (8, T, B, I)

Parameters, buffers and activations get one more axis in front, of length K; all else about a model
stays as it is, its class included. No trial touches another's numbers: each ends where it would
have ended alone, to rounding, with its own dropout masks too, since a stack keeps each model's
generator. Layers that were given none draw for all trials at once, from the default one.

How many trials there are is written down, in `trials` of every module and parameter, and never
guessed from a rank. A class says with `knows_trials` that it minds them; others are refused. One
that is made of layers need only count its axes from the end.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from microtensor import backend
from microtensor.backend import Generator
from microtensor.nn.module import Module
from microtensor.nn.parameter import Parameter
from microtensor.tensor import Tensor

__all__ = ["stack", "unstack"]

AnyModule = TypeVar("AnyModule", bound=Module)


def stack(models: Sequence[AnyModule]) -> AnyModule:
    """K models as one, of the same class, in which they are trials side by side.

    Parameters
    ----------
    models
        At least one, alike in everything but the values of parameters and buffers, and the
        generators. They stay as they are; gradients are not taken over.

    Returns
    -------
    Module
        Its `trials` is K. Parameters and buffers have the names they had and a leading axis K, and
        so have inputs and outputs: (K, T, B, ...), or (K, B, T, ...) with `batch_first`, states
        (K, layers * directions, B, H). Where a model has a `Generator` the stack has a tuple of
        those of all trials, the same objects.

    Raises
    ------
    TypeError
        If a module does not know the axis of trials (see `Module.knows_trials`), with its name.
    ValueError
        If there are no models, one is a stack, or they differ. All differences are listed.

    Examples
    --------
    >>> model = stack([Linear(3, 2), Linear(3, 2)])
    >>> model.trials, model.weight.shape
    (2, (2, 2, 3))
    """
    models = list(models)
    if not models:
        raise ValueError("nn.stack needs at least one model")
    for k, model in enumerate(models):
        if not isinstance(model, Module):
            raise TypeError(f"nn.stack takes modules, but model {k} is a {type(model).__name__}")
        if model.trials is not None:
            raise ValueError(
                f"nn.stack: model {k} is a stack of {model.trials} trials already; "
                "nn.unstack gives its models"
            )
        if type(model) is not type(models[0]):
            raise ValueError(
                f"nn.stack: model 0 is a {type(models[0]).__name__} and model {k} a "
                f"{type(model).__name__}; all must be of one class"
            )
    strangers = {
        f"{name} ({type(module).__name__})" if name else type(module).__name__: None
        for model in models
        for name, module in model.named_modules()
        if not _knows_trials(type(module))
    }
    if strangers:
        raise TypeError(
            f"nn.stack: {', '.join(strangers)} does not know the axis of trials. If the class "
            "computes the same with one more axis in front of all parameters and activations "
            "(axes counted from the end), say so in it with knows_trials = True"
        )
    merge = _Merge(len(models))
    merged: AnyModule = merge.modules("", models)
    if merge.differences:
        lines = "\n  ".join(merge.differences)
        raise ValueError(f"nn.stack: these models are not alike; nothing was stacked\n  {lines}")
    return merged


def unstack(model: AnyModule) -> list[AnyModule]:
    """The K models of a stack, each by itself again, with copies of its numbers.

    `nn.unstack(model)[k].state_dict()` is trial k's, with the names and shapes of a model that
    was never stacked.

    Raises
    ------
    ValueError
        If `model` is not a stack.
    """
    trials = getattr(model, "trials", None)
    if trials is None:
        raise ValueError(f"nn.unstack takes a stack, and this {type(model).__name__} is none")
    return [_alone(model, k, {}) for k in range(trials)]


def _knows_trials(kind: type[Module]) -> bool:
    """What the class says that wrote its `forward` and `step`, or one derived from it."""
    for base in kind.__mro__:
        if "knows_trials" in vars(base):
            return bool(vars(base)["knows_trials"])
        if "forward" in vars(base) or "step" in vars(base):
            return False
    return False


_ABSENT = object()  # stands for an attribute that a module does not have


class _Merge:
    """Makes one of K values, and notes where they differ."""

    def __init__(self, trials: int) -> None:
        self.trials = trials
        self.differences: list[str] = []
        self._made: dict[tuple[int, ...], Any] = {}
        self._users: list[dict[int, tuple[int, ...]]] = [{} for _ in range(trials)]

    def modules(self, path: str, modules: Sequence[Any]) -> Any:
        """The module at `path` of the stack, from those of the K models."""
        first = modules[0]
        made = object.__new__(type(first))
        buffers = vars(first).get("_buffer_names", ())
        for name in dict.fromkeys([name for module in modules for name in vars(module)]):
            values = [
                vars(module).get(name, getattr(type(module), name, _ABSENT)) for module in modules
            ]
            inner = f"{path}.{name}" if path else name
            if self._same_type(inner, values):
                vars(made)[name] = self._value(inner, values, name in buffers)
        made.trials = self.trials
        return made

    def _same_type(self, path: str, values: Sequence[Any]) -> bool:
        for k, value in enumerate(values):
            if type(value) is not type(values[0]):
                self._differ(path, _kind(values[0]), k, _kind(value))
                return False
        return True

    def _value(self, path: str, values: Sequence[Any], is_buffer: bool) -> Any:
        first = values[0]
        if isinstance(first, Module):
            return self._once(path, values, self.modules)
        if isinstance(first, Parameter) or (is_buffer and isinstance(first, Tensor)):
            return self._once(path, values, self._tensors)
        if isinstance(first, Generator):
            return tuple(values)
        for k, value in enumerate(values):
            if not _equal(first, value):
                self._differ(path, repr(first), k, repr(value))
        return copy.deepcopy(first)

    def _once(
        self, path: str, values: Sequence[Any], make: Callable[[str, Sequence[Any]], Any]
    ) -> Any:
        """What the models use in several places, the stack uses in these places too."""
        key = tuple([id(value) for value in values])
        for k, users in enumerate(self._users):
            if users.setdefault(key[k], key) != key:
                self.differences.append(
                    f"{path}: it is one with other attributes in some of the models, not in all"
                )
                return None
        if key not in self._made:
            self._made[key] = make(path, values)
        return self._made[key]

    def _tensors(self, path: str, tensors: Sequence[Tensor]) -> Any:
        first = tensors[0]
        for k, tensor in enumerate(tensors):
            for what in ("shape", "dtype", "backend", "requires_grad"):
                one, other = getattr(first, what), getattr(tensor, what)
                if one != other:
                    self._differ(path, f"{what} {one}", k, f"{what} {other}")
                    return None
        xp = backend.namespaces[type(first.data)]
        data = xp.stack([tensor.data for tensor in tensors])
        if isinstance(first, Parameter):
            return Parameter(data, first.requires_grad, self.trials)
        return Tensor(data, first.requires_grad)

    def _differ(self, path: str, first: str, k: int, other: str) -> None:
        self.differences.append(f"{path}: {first} in model 0, {other} in model {k}")


def _alone(stacked: Any, k: int, made: dict[int, Any]) -> Any:
    """Trial k of a module."""
    if id(stacked) in made:
        return made[id(stacked)]
    module = made[id(stacked)] = object.__new__(type(stacked))
    buffers = vars(stacked).get("_buffer_names", ())
    for name, value in vars(stacked).items():
        if isinstance(value, Module):
            vars(module)[name] = _alone(value, k, made)
        elif isinstance(value, Parameter) or (name in buffers and value is not None):
            if id(value) not in made:
                made[id(value)] = type(value)(value.data[k].copy(), value.requires_grad)
            vars(module)[name] = made[id(value)]
        elif _are_generators(value):
            vars(module)[name] = value[k]
        elif name != "trials":
            vars(module)[name] = copy.deepcopy(value)
    return module


def _are_generators(value: Any) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) > 0
        and all(isinstance(item, Generator) for item in value)
    )


def _equal(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    try:
        return bool(a == b)
    except Exception:
        return False


def _kind(value: Any) -> str:
    if value is None or value is _ABSENT:
        return "None" if value is None else "nothing"
    return f"a {type(value).__name__}"
