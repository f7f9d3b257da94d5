"""Sequential and ModuleList: modules in a row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Self, overload

from microtensor.nn.module import Module

__all__ = ["ModuleList", "Sequential"]


class ModuleList(Module):
    """A list of modules that belong to the module it is assigned to; their names are 0, 1, ..."""

    knows_trials = True

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        self.extend(modules)

    def append(self, module: Module) -> Self:
        """Add a module at the end; returns the list."""
        if not isinstance(module, Module):
            raise TypeError(
                f"{type(self).__name__} holds modules, not {type(module).__name__}: {module!r}"
            )
        setattr(self, str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add modules at the end; returns the list."""
        for module in modules:
            self.append(module)
        return self

    def _items(self) -> list[Module]:
        return [value for value in vars(self).values() if isinstance(value, Module)]

    def __len__(self) -> int:
        return len(self._items())

    def __iter__(self) -> Iterator[Module]:
        return iter(self._items())

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> Module | Self:
        if isinstance(index, slice):
            part = type(self)()
            if self.trials is not None:
                part.trials = self.trials
            part.extend(self._items()[index])
            return part
        return self._items()[index]

    def __setitem__(self, index: int, module: Module) -> None:
        if not isinstance(module, Module):
            raise TypeError(f"{type(self).__name__} holds modules, not {type(module).__name__}")
        setattr(self, str(range(len(self))[index]), module)


class Sequential(ModuleList):
    """Modules applied one after the other: `Sequential(Linear(2, 50), ReLU(), Linear(50, 3))`."""

    knows_trials = True

    def __init__(self, *modules: Module) -> None:
        super().__init__(modules)

    def forward(self, x: Any) -> Any:
        """The last module's output; each one is given the output of the one before."""
        for module in self._items():
            x = module(x)
        return x
