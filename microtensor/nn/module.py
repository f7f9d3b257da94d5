"""Module: a function with parameters, and everything that can be done to all of them at once.

There is no registration. A module's parameters, buffers and submodules are its attributes, in the
order in which they were first assigned: `vars(module)` is the whole bookkeeping. Names are dotted
paths of attributes, `encoder.weight_ih_l0`, as PyTorch writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from microtensor import backend, engine, modes, writes
from microtensor.creation import zeros_like
from microtensor.nn.parameter import Parameter
from microtensor.tensor import Tensor

__all__ = ["IncompatibleKeys", "Module", "StateDictError"]


class StateDictError(RuntimeError, ValueError):
    """A state that does not fit the module (PyTorch raises a RuntimeError here)."""


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict(strict=False)` passed over."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """A function with parameters. Subclasses assign these in `__init__` and define `forward`.

    A `Parameter` or a `Module` that is assigned to an attribute belongs to the module. Several of
    them go into a `ModuleList`; a plain list of them is refused, because its content would be
    neither trained nor saved.

    >>> class Affine(Module):
    ...     def __init__(self):
    ...         self.weight = Parameter(np.ones((2, 3), np.float32))
    ...     def forward(self, x):
    ...         return x @ self.weight
    >>> [name for name, _ in Affine().named_parameters()]
    ['weight']

    Attributes
    ----------
    training
        Whether dropout is on; see `train`.
    trials
        K in a stack of K models (see `nn.stack`), whose parameters and activations have a leading
        axis K; else None.
    knows_trials
        Of a class: whether its `forward` and `step` also work where `trials` is K. A class that
        writes one of the two answers for itself.
    """

    training: bool = True
    trials: int | None = None
    knows_trials: ClassVar[bool] = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes; every subclass that is called defines it."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run `forward`."""
        noted = modes.noting.get()
        if noted is not None:
            noted.uses(self)
        return self.forward(*args, **kwargs)

    # -- attributes

    def __getattr__(self, name: str) -> Any:
        # Python comes here only for what is not there.
        if name.startswith("__"):
            raise AttributeError(name)
        # Two letters exchanged, or another ending: what a slip of the fingers makes of a name.
        near = [
            known
            for known in vars(self)
            if sorted(known) == sorted(name) or known[:3] == name[:3] or known[-4:] == name[-4:]
        ]
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise AttributeError(
            f"{type(self).__name__} has no attribute {name!r}{hint}", name=name, obj=self
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, list | tuple | dict):
            inside = value.values() if isinstance(value, dict) else value
            if any(isinstance(item, Module | Parameter) for item in inside):
                raise TypeError(
                    f"{type(self).__name__}.{name} is a {type(value).__name__} that holds modules "
                    "or parameters, which would be neither trained nor saved; use an "
                    "nn.ModuleList, or assign them one by one"
                )
        object.__setattr__(self, name, value)

    def register_buffer(self, name: str, tensor: Tensor | None) -> None:
        """Keep a tensor that is saved and moved with the module and is not trained.

        Raises
        ------
        TypeError
            If it is neither a tensor nor None.
        """
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"buffer {name!r} must be a tensor or None, not {type(tensor)}")
        setattr(self, name, tensor)
        names = self.__dict__.setdefault("_buffer_names", {})
        names[name] = None

    # -- walking

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules that are attributes of this one, each once, in order of assignment."""
        seen = set()
        for name, value in vars(self).items():
            if isinstance(value, Module) and id(value) not in seen:
                seen.add(id(value))
                yield name, value

    def children(self) -> Iterator[Module]:
        """The modules that are attributes of this one."""
        for _, module in self.named_children():
            yield module

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Return this module, named `prefix`, and all below it, each once, parents first."""
        seen = set()
        for name, module in self._walk(prefix):
            if id(module) not in seen:
                seen.add(id(module))
                yield name, module

    def modules(self) -> Iterator[Module]:
        """Return this module and all below it, each once, parents first."""
        for _, module in self.named_modules():
            yield module

    def _walk(self, prefix: str) -> Iterator[tuple[str, Module]]:
        yield prefix, self
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield from value._walk(f"{prefix}.{name}" if prefix else name)

    def _named_tensors(self, prefix: str = "") -> Iterator[tuple[str, Tensor, bool]]:
        """All parameters and buffers as (name, tensor, is a parameter), in order of assignment."""
        buffers = vars(self).get("_buffer_names", ())
        for name, value in vars(self).items():
            path = f"{prefix}.{name}" if prefix else name
            if isinstance(value, Module):
                yield from value._named_tensors(path)
            elif isinstance(value, Parameter):
                yield path, value, True
            elif name in buffers and value is not None:
                yield path, value, False

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(name, parameter) in order of assignment; one that is used twice comes once."""
        seen = set()
        for name, tensor, _ in self._named_tensors():
            if isinstance(tensor, Parameter) and id(tensor) not in seen:
                seen.add(id(tensor))
                yield name, tensor

    def parameters(self) -> Iterator[Parameter]:
        """The parameters in order of assignment; one that is used twice comes once."""
        for _, parameter in self.named_parameters():
            yield parameter

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """(name, buffer) in order of assignment."""
        for name, tensor, is_parameter in self._named_tensors():
            if not is_parameter:
                yield name, tensor

    # -- saving

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of all parameters and buffers by dotted name, in order of assignment."""
        return {name: engine.wrap(tensor.data.copy()) for name, tensor, _ in self._named_tensors()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy values into the parameters and buffers of the same names.

        Parameters
        ----------
        state
            Dotted name to tensor: of `state_dict`, of `mt.load`, of a `torch.nn` module, or any
            arrays that NumPy can read. Values are converted to the parameter's own dtype and
            backend.
        strict
            Whether a missing or an unexpected name is an error. A wrong shape always is one.

        Raises
        ------
        StateDictError
            If names are missing or unexpected, or a value has a wrong shape or is not made of
            real numbers. All faults are listed at once, and nothing has been changed.
        """
        own = {name: tensor for name, tensor, _ in self._named_tensors()}
        missing = [name for name in own if name not in state]
        unexpected = [name for name in state if name not in own]
        wrong = []
        values = {}
        for name, tensor in own.items():
            if name not in state:
                continue
            value = _host_array(state[name])
            if value is None:
                wrong.append(f"{name}: not an array of real numbers ({type(state[name])})")
            elif value.shape != tensor.shape:
                wrong.append(f"{name}: shape {value.shape}, must be {tensor.shape}")
            else:
                values[name] = value
        if wrong or (strict and (missing or unexpected)):
            lines = [f"the state does not fit {type(self).__name__}; nothing has been loaded"]
            if strict:
                lines += [f"  missing: {name}" for name in missing]
                lines += [f"  unexpected: {name}" for name in unexpected]
            lines += [f"  wrong: {line}" for line in wrong]
            raise StateDictError("\n".join(lines))
        for name, value in values.items():
            data = own[name].data
            data[...] = _backend_of(data).from_host(value.astype(data.dtype, copy=False))
            writes.written(data)
        return IncompatibleKeys(missing, unexpected)

    # -- changing all at once

    def train(self, mode: bool = True) -> Self:
        """Switch this module and all below it to training (dropout on), or with False off."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Switch this module and all below it to evaluation: dropout off."""
        return self.train(False)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients: `grad` becomes None, or zeros with `set_to_none=False`."""
        for parameter in self.parameters():
            keep = parameter.grad is not None and not set_to_none
            parameter.grad = zeros_like(parameter.grad) if keep else None

    def apply(self, function: Callable[[Module], Any]) -> Self:
        """Call `function` on every module below this one, children first, and on this one."""
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    def astype(self, dtype: Any) -> Self:
        """Convert all floating parameters, buffers and gradients to `dtype`, in place.

        The parameters stay the same objects. Make optimizers afterwards: the state of one that
        exists already keeps the old dtype, and it will refuse to go on.
        """
        dtype = np.dtype(dtype)
        if dtype.kind != "f":
            raise TypeError(f"parameters must be floating point, not {dtype}")
        return self._convert(
            lambda array: array.astype(dtype) if array.dtype.kind == "f" else array
        )

    def to(self, name: str) -> Self:
        """Move all parameters, buffers and gradients to a backend, "numpy" or "cupy", in place.

        The parameters stay the same objects. Make optimizers afterwards.
        """
        target = backend.get(name)

        def move(array: Any) -> Any:
            source = _backend_of(array)
            return array if source is target else target.from_host(source.to_host(array))

        return self._convert(move)

    def _convert(self, change: Callable[[Any], Any]) -> Self:
        for _, tensor, _ in self._named_tensors():
            tensor.data = change(tensor.data)
            if tensor.grad is not None:
                tensor.grad = engine.wrap(change(tensor.grad.data))
        return self

    # -- showing

    def extra_repr(self) -> str:
        """What stands between the brackets of `repr`, besides the submodules."""
        return ""

    def __repr__(self) -> str:
        lines = []
        for name, child in ((n, m) for n, m in vars(self).items() if isinstance(m, Module)):
            lines.append(f"({name}): " + repr(child).replace("\n", "\n  "))
        extra = self.extra_repr()
        if self.trials is not None:
            extra += f"{', ' if extra else ''}trials={self.trials}"
        if not lines:
            return f"{type(self).__name__}({extra})"
        if extra:
            lines.insert(0, extra)
        return f"{type(self).__name__}(\n  " + "\n  ".join(lines) + "\n)"


def _backend_of(array: Any) -> backend.Backend:
    found = backend.of(array)
    assert found is not None, "a tensor's data is always an array of a known backend"
    return found


def _host_array(value: Any) -> np.ndarray | None:
    """A tensor of ours or of PyTorch's, or an array, as real numbers on the host; else None."""
    if isinstance(value, Tensor):
        value = value.data
    found = backend.of(value)
    try:
        array = np.asarray(value if found is None else found.to_host(value))
    except (TypeError, ValueError, RuntimeError):
        return None
    return array if array.dtype.kind in "fiub" else None
