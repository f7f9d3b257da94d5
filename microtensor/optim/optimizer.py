"""What all optimizers share: which parameters, in which groups, with what state.

An optimizer works on bare arrays and writes parameters in place, through scratch arrays that it
keeps, so a step allocates nothing. Gradients are read and never changed. Every write is reported
to the engine, which can then refuse a backward pass that needs the values from before.

What all small parameters need is done for all of them at once (`Bundle`).

The formulas go element by element, so the trials of a stack (see `nn.stack`) do not meet in them.
Their learning rate may be one for each trial.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from microtensor import backend, engine, writes
from microtensor.backend import Array
from microtensor.capture import recording
from microtensor.creation import zeros_like
from microtensor.tensor import Tensor

__all__ = ["Optimizer"]

NUMBERS = (float, int, np.number)
SMALL = 4096  # numbers in a parameter; up to here the calls of an update cost more than the numbers


class Slot:
    """What an optimizer keeps for one parameter: its state by name, and two arrays to work in."""

    __slots__ = ("arrays", "data", "scratch", "spare", "step")

    def __init__(self, data: Array, state: Mapping[str, float]) -> None:
        xp = backend.namespaces[data.__class__]
        self.arrays = {name: xp.full_like(data, value) for name, value in state.items()}
        self.step = 0  # updates so far
        self._work_on(data)

    def _work_on(self, data: Array) -> None:
        xp = backend.namespaces[data.__class__]
        self.data = data  # the very array of the last step: as long as it is the same, all fits
        self.scratch, self.spare = xp.empty_like(data), xp.empty_like(data)

    def array(self, name: str) -> Array:
        """State by name: zeros if a hyperparameter asks for it only since the last step."""
        if name not in self.arrays:
            self.arrays[name] = backend.namespaces[self.data.__class__].zeros_like(self.data)
        return self.arrays[name]

    def follow(self, data: Array, name: str) -> None:
        """The parameter has become another array since the last step; of the same kind, or not."""
        was = self.data
        same = (was.__class__, was.dtype, was.shape) == (data.__class__, data.dtype, data.shape)
        if self.arrays and not same:
            raise RuntimeError(
                f"parameter {name} was {was.dtype} {was.shape} when its optimizer state was made "
                f"and is {data.dtype} {data.shape} on {type(data).__module__} now; make the "
                "optimizer after the last .astype() and .to()"
            )
        self._work_on(data)


class Bundle(Slot):
    """The small parameters of a group side by side in one array, as if they were one.

    An update is a dozen calls, of which each costs more than what it computes for a few hundred
    numbers. So they are made once; gradients are copied in, and the change is subtracted piece by
    piece. The state of each member is a piece of the state here.
    """

    __slots__ = ("changes", "gradient", "gradients", "members", "owners", "rest", "values")

    def __init__(self, members: list[tuple[Tensor, Slot]], rest: list[int]) -> None:
        first = members[0][1]
        xp = backend.namespaces[first.data.__class__]
        size = sum([slot.data.size for _, slot in members])
        super().__init__(xp.empty(size, first.data.dtype), {})
        self.members, self.step = members, first.step
        self.rest = rest  # places in the group of those that are not members
        self.owners = [writes.owner(slot.data) for _, slot in members]
        self.gradient = xp.empty_like(self.data)
        self.values, self.gradients = self._pieces(self.data), self._pieces(self.gradient)
        self.changes = self._pieces(self.spare)
        for name in first.arrays:
            self.array(name)
        self.share()

    @classmethod
    def of(cls, parameters: Sequence[Tensor], slots: Sequence[Slot | None]) -> Bundle | None:
        """All parameters of a group that have come equally far; None if there are not several."""

        def alike(slot: Slot) -> tuple[Any, ...]:
            return slot.data.__class__, slot.data.dtype, slot.step, *slot.arrays

        small = [slot for slot in slots if slot is not None and slot.data.size <= SMALL]
        if not small:
            return None
        kind = alike(max(small, key=lambda slot: slot.step))
        members, rest = [], []
        for place, (parameter, slot) in enumerate(zip(parameters, slots, strict=True)):
            if slot is not None and slot.data.size <= SMALL and alike(slot) == kind:
                members.append((parameter, slot))
            else:
                rest.append(place)
        return cls(members, rest) if len(members) > 1 else None

    def _pieces(self, whole: Array) -> list[Array]:
        """For each member its part of an array, in its shape."""
        pieces, start = [], 0
        for _, slot in self.members:
            stop = start + slot.data.size
            pieces.append(whole[start:stop].reshape(slot.data.shape))
            start = stop
        return pieces

    def share(self) -> None:
        """Make the state of the members, where it is not yet, a piece of the state here."""
        for name, whole in self.arrays.items():
            for (_, slot), piece in zip(self.members, self._pieces(whole), strict=True):
                if name in slot.arrays:
                    piece[...] = slot.arrays[name]
                slot.arrays[name] = piece

    def gather(self, values: bool) -> bool:
        """Copy the gradients in, and the values if asked; False if it has fallen apart."""
        step = self.step
        for (parameter, slot), piece in zip(self.members, self.gradients, strict=True):
            gradient = parameter.grad
            if gradient is None or slot.step != step or parameter.data is not slot.data:
                return False
            if not parameter._requires_grad:
                return False
            piece[...] = gradient.data
        if values:
            for (_, slot), piece in zip(self.members, self.values, strict=True):
                piece[...] = slot.data
        return True


class Optimizer(ABC):
    """Base of the optimizers: parameters in groups, hyperparameters, state by position.

    Parameters
    ----------
    params
        Leaf tensors; or several groups of them, as dictionaries with "params" and hyperparameters
        of their own. Order is kept, and a tensor that comes twice counts once. Frozen ones, with
        requires_grad False, are accepted and stay as they are.
    defaults
        The hyperparameters of groups that do not give their own. "lr" is a number, or for the
        parameters of a stack K of them: trial k learns at lr[k], and rests at 0.

    Attributes
    ----------
    param_groups
        A list of dictionaries; `optimizer.param_groups[0]["lr"] = 0.01` changes a learning rate,
        and so does `["lr"] = (0.01, 0.0, 0.01)` those of a stack of three.

    Raises
    ------
    ValueError
        If there is no parameter or none requires a gradient, one is the result of an operation,
        or a hyperparameter is out of range or unknown.
    TypeError
        If one is not a tensor.
    """

    def __init__(
        self, params: Iterable[Tensor] | Iterable[dict[str, Any]], defaults: dict[str, Any]
    ) -> None:
        given: list[Any] = [params] if isinstance(params, Tensor | dict) else list(params)
        self.defaults = defaults
        self.param_groups: list[dict[str, Any]] = []
        self._slots: list[list[Slot | None]] = []
        self._bundles: list[Bundle | None] = []
        self._tries: list[int] = []  # a bundle that falls apart again and again is not made again
        if not given:
            raise ValueError(f"{type(self).__name__} was given no parameters to optimize")
        groups = given if isinstance(given[0], dict) else [{"params": given}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, group: Any) -> None:
        """Add parameters, with hyperparameters of their own if `group` names any."""
        if not isinstance(group, Mapping) or "params" not in group:
            raise TypeError('a parameter group is a dictionary with "params"; got ' + repr(group))
        given = group["params"]
        tensors = [given] if isinstance(given, Tensor) else list(given)
        known = {id(p) for existing in self.param_groups for p in existing["params"]}
        unique = {id(p): p for p in tensors}
        for place, parameter in enumerate(tensors):
            self._check_parameter(place, parameter)
        if not unique:
            raise ValueError(f"{type(self).__name__} was given no parameters to optimize")
        if not any(p.requires_grad for p in tensors):
            raise ValueError(
                f"{type(self).__name__}: none of the parameters requires a gradient, so nothing "
                "would ever change; call requires_grad_() on those to be trained"
            )
        if known & unique.keys():
            raise ValueError("a parameter is in more than one parameter group")
        unknown = sorted(group.keys() - self.defaults.keys() - {"params"})
        if unknown:
            raise ValueError(
                f"{type(self).__name__} has no hyperparameters {unknown}; "
                f"it has {sorted(self.defaults)}"
            )
        full = {**self.defaults, **group, "params": list(unique.values())}
        self._check(full)
        self.param_groups.append(full)
        self._slots.append([None] * len(unique))
        self._bundles.append(None)
        self._tries.append(3)

    def _check_parameter(self, place: int, parameter: Any) -> None:
        name = type(self).__name__
        if not isinstance(parameter, Tensor):
            raise TypeError(
                f"{name}: parameter {place} is a {type(parameter).__name__}, not a tensor; "
                "pass model.parameters()"
            )
        if not parameter.is_leaf:
            raise ValueError(
                f"{name}: parameter {place}, of shape {parameter.shape}, is the result of an "
                "operation; only leaf tensors can be optimized"
            )

    def _check(self, group: dict[str, Any]) -> None:
        """Refuse hyperparameters out of range; subclasses add their own."""
        check_rate(group["lr"], group["params"])
        check_number("weight_decay", group["weight_decay"])

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients: `grad` becomes None, or zeros with `set_to_none=False`."""
        for group in self.param_groups:
            for parameter in group["params"]:
                keep = parameter.grad is not None and not set_to_none
                parameter.grad = zeros_like(parameter.grad) if keep else None

    def step(self) -> None:
        """Update every parameter that has a gradient; the others stay as they are."""
        noted = recording()
        if noted is not None:
            noted.update(self)
            return
        for j, (group, slots) in enumerate(zip(self.param_groups, self._slots, strict=True)):
            rate = group["lr"]
            each = not isinstance(rate, NUMBERS)  # a rate for each trial
            parameters = group["params"]
            bundle = None if each else self._bundle(j)
            if bundle is not None:
                self._step_together(bundle, group)
            for place in range(len(parameters)) if bundle is None else bundle.rest:
                parameter = parameters[place]
                gradient = parameter.grad
                if gradient is None or not parameter.requires_grad:
                    continue
                data = parameter.data
                slot = slots[place]
                if slot is None:
                    slot = slots[place] = Slot(data, self._state(group))
                elif slot.data is not data:
                    slot.follow(data, str(place))
                slot.step += 1
                xp = backend.namespaces[data.__class__]
                if each:
                    check_lengths(rate, place, parameter)
                    rates = xp.asarray(rate, dtype=data.dtype).reshape(-1, *[1] * (data.ndim - 1))
                    self._update(xp, data, gradient.data, slot, {**group, "lr": rates})
                else:
                    self._update(xp, data, gradient.data, slot, group)
                xp.subtract(data, slot.spare, out=data)
                writes.written(data)

    def repeat(
        self, gradients: Sequence[Tensor | None], again: Callable[[], None]
    ) -> Callable[[], None]:
        """A function that does what `again` does, `step` with these gradients, with less ado.

        In their memory there may be other numbers then. It does not look whether parameters are
        still the same arrays and need gradients (see microtensor/capture.py).
        """
        given = iter(gradients)
        work = []
        for group, bundle in zip(self.param_groups, self._bundles, strict=True):
            found = [next(given) for _ in group["params"]]
            if bundle is None or bundle.rest or any(g is None for g in found):
                return again
            if not all(g.data.flags.c_contiguous for g in found if g is not None):
                return again  # as one row it would be a copy, and not the memory itself
            pieces = [g.data.reshape(-1) for g in found if g is not None]
            work.append((group, bundle, pieces))
        groups, bundles = self.param_groups[:], self._bundles[:]

        def together() -> None:
            if self._bundles != bundles or not all(map(_is_plain, groups)):
                again()
                return
            for _, bundle, _ in work:
                step = bundle.step
                for _, slot in bundle.members:
                    if slot.step != step:
                        again()
                        return
            for group, bundle, pieces in work:
                np.concatenate(pieces, out=bundle.gradient)
                self._step_together(bundle, group)

        return together

    def _bundle(self, j: int) -> Bundle | None:
        """The small parameters of group j, their gradients copied in; None if they part ways."""
        group, slots, bundle = self.param_groups[j], self._slots[j], self._bundles[j]
        if bundle is None and self._tries[j] and slots[0] is not None:  # from the second step on
            self._tries[j] -= 1
            bundle = self._bundles[j] = Bundle.of(group["params"], slots)
        if bundle is not None and not bundle.gather(values=bool(group["weight_decay"])):
            bundle = self._bundles[j] = None
        return bundle

    def _step_together(self, bundle: Bundle, group: dict[str, Any]) -> None:
        bundle.step += 1
        xp, known = backend.namespaces[bundle.data.__class__], len(bundle.arrays)
        self._update(xp, bundle.data, bundle.gradient, bundle, group)
        if len(bundle.arrays) != known:  # a hyperparameter has asked for more
            bundle.share()
        subtract, step = xp.subtract, bundle.step
        for (_, slot), change in zip(bundle.members, bundle.changes, strict=True):
            slot.step = step
            data = slot.data
            subtract(data, change, data)
        writes.all_written(bundle.owners)

    def __getstate__(self) -> dict[str, Any]:
        """For copies, whose arrays are no longer pieces of anything."""
        return {**vars(self), "_bundles": [None] * len(self._bundles)}

    @abstractmethod
    def _update(
        self, xp: Any, data: Array, gradient: Array, slot: Slot, group: dict[str, Any]
    ) -> None:
        """Leave in slot.spare what is to be subtracted from `data`; slot.step counts from 1.

        Neither `data` nor `gradient` may change.
        """

    @abstractmethod
    def _state(self, group: Mapping[str, Any]) -> dict[str, float]:
        """Names of the arrays kept for each parameter, and the number each is filled with."""

    def _gradient(
        self, xp: Any, data: Array, gradient: Array, slot: Slot, group: dict[str, Any]
    ) -> Array:
        """The gradient with `maximize` and `weight_decay`: itself, or in slot.scratch."""
        if group["maximize"]:
            gradient = xp.negative(gradient, out=slot.scratch)
        if group["weight_decay"]:
            xp.multiply(data, group["weight_decay"], out=slot.spare)
            gradient = xp.add(gradient, slot.spare, out=slot.scratch)
        return gradient

    # -- saving

    def state_dict(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, as a flat dictionary of tensors (`mt.save` takes it).

        "{i}.{name}" is the state of parameter i, counted through all groups, with the number of
        its updates as "{i}.step"; "group{j}.{name}" are the hyperparameters of group j, and
        "group{j}.params" the number of its parameters.
        """
        state = {}
        for j, group in enumerate(self.param_groups):
            state[f"group{j}.params"] = _host_tensor(len(group["params"]))
            for name in self.defaults:
                state[f"group{j}.{name}"] = _host_tensor(group[name])
        groups = [group for group in self.param_groups for _ in group["params"]]
        for i, ((_, slot), group) in enumerate(zip(self._positions(), groups, strict=True)):
            if slot is not None:
                state[f"{i}.step"] = _host_tensor(slot.step)
                for name in self._state(group):
                    state[f"{i}.{name}"] = engine.wrap(slot.array(name).copy())
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict` of the same kind of optimizer over the same parameters.

        Raises
        ------
        ValueError
            If it does not fit. All faults are listed, and nothing has been changed.
        """
        hosts = {name: _host(value) for name, value in state.items()}
        faults: list[str] = []
        groups: list[dict[str, Any]] = []
        slots: list[list[Slot | None]] = []
        i = 0
        for j, group in enumerate(self.param_groups):
            read = self._read_group(j, hosts, faults)
            groups.append(read)
            slots.append([])
            for parameter in group["params"]:
                slots[-1].append(self._read_slot(i, parameter, read, hosts, faults))
                i += 1
        faults += [f"unexpected: {name}" for name in hosts]
        if faults:
            lines = "\n  ".join(faults)
            raise ValueError(
                f"the state does not fit this {type(self).__name__}; nothing has been loaded\n"
                f"  {lines}"
            )
        for group, read in zip(self.param_groups, groups, strict=True):
            group.update(read)
        self._slots = slots
        self._bundles = [None] * len(slots)

    def _positions(self) -> list[tuple[Tensor, Slot | None]]:
        """Every parameter with its slot, through all groups."""
        return [
            pair
            for group, slots in zip(self.param_groups, self._slots, strict=True)
            for pair in zip(group["params"], slots, strict=True)
        ]

    def _read_group(
        self, j: int, hosts: dict[str, np.ndarray], faults: list[str]
    ) -> dict[str, Any]:
        """The hyperparameters of group j, taken out of `hosts`."""
        read: dict[str, Any] = {}
        for name in ("params", *self.defaults):
            value = hosts.pop(f"group{j}.{name}", None)
            if value is None:
                faults.append(f"missing: group{j}.{name}")
            elif value.ndim > 1:
                faults.append(f"wrong: group{j}.{name} has shape {value.shape}")
            else:
                read[name] = tuple(value.tolist()) if value.ndim else value.item()
        count = len(self.param_groups[j]["params"])
        saved = read.pop("params", count)
        if saved != count:
            faults.append(f"wrong: group{j} had {saved} parameters, here it has {count}")
        read = {**self.param_groups[j], **read}
        try:
            self._check(read)
        except ValueError as fault:
            faults.append(f"wrong: group{j}: {fault}")
        return read

    def _read_slot(
        self,
        i: int,
        parameter: Tensor,
        group: dict[str, Any],
        hosts: dict[str, np.ndarray],
        faults: list[str],
    ) -> Slot | None:
        """The state of parameter i, taken out of `hosts`; None if it was never updated."""
        if not any(name.startswith(f"{i}.") for name in hosts):
            return None
        data = parameter.data
        slot = Slot(data, self._state(group))
        target = backend.of(data)
        assert target is not None
        for name in ("step", *slot.arrays):
            value = hosts.pop(f"{i}.{name}", None)
            shape = () if name == "step" else data.shape
            if value is None:
                faults.append(f"missing: {i}.{name}")
            elif value.shape != shape or value.dtype.kind not in "fiu":
                faults.append(
                    f"wrong: {i}.{name} is {value.dtype} of shape {value.shape}, must be {shape}"
                )
            elif name == "step":
                slot.step = int(value)
            else:
                slot.arrays[name] = target.from_host(value.astype(data.dtype))
        return slot

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__}("]
        for j, group in enumerate(self.param_groups):
            options = ", ".join(f"{name}={group[name]!r}" for name in self.defaults)
            lines.append(f"  group {j}: {len(group['params'])} parameters, {options}")
        return "\n".join([*lines, ")"])


def _is_plain(group: dict[str, Any]) -> bool:
    """Whether a group's update asks for nothing but gradients."""
    return isinstance(group["lr"], NUMBERS) and not group["weight_decay"]


def check_number(name: str, value: Any, below: float = math.inf) -> None:
    """Refuse what is not a number in [0, below)."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise ValueError(f"{name} must be a number, got {value!r}")
    if not 0.0 <= float(value) < below:
        bound = f"and below {below:g}" if below < math.inf else "and finite"
        raise ValueError(f"{name} must be at least 0 {bound}, got {value!r}")


def check_rate(rate: Any, parameters: Sequence[Tensor]) -> None:
    """Refuse what is neither a number nor one for each trial of the parameters."""
    if not isinstance(rate, tuple | list) and np.ndim(rate) == 0:
        check_number("lr", rate)
        return
    for k, value in enumerate(rate):
        check_number(f"lr[{k}]", value)
    for place, parameter in enumerate(parameters):
        check_lengths(rate, place, parameter)


def check_lengths(rate: Sequence[float], place: int, parameter: Tensor) -> None:
    """Refuse rates that are not as many as the parameter's trials."""
    trials = getattr(parameter, "trials", None)
    if trials != len(rate):
        have = "is not of a stack" if trials is None else f"is of a stack of {trials}"
        raise ValueError(
            f"lr has {len(rate)} numbers, one for each trial, but parameter {place} {have}"
        )


def _host_tensor(value: Any) -> Tensor:
    tensor: Tensor = engine.wrap(np.asarray(value))
    return tensor


def _host(value: Any) -> np.ndarray:
    bare = value.data if isinstance(value, Tensor) else value
    found = backend.of(bare)
    return np.array(bare if found is None else found.to_host(bare))
