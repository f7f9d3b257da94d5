"""The derivative of a cell, derived by the engine itself.

A cell's equations are run once on tensors around symbols (symbols.py). That leaves an expression
for each new value of the state. Each expression is then evaluated again on tensors that need a
gradient, and the engine, unchanged, is asked for it. The result is the *local Jacobian* of one
step: how each new value changes with each gate, old value and weight per unit.

It is free of cotangents, so a driver may evaluate it for many time steps at once. And it is kept
in factors: where one new value is computed from another, as the LSTM's h from its c, the first is
differentiated with the second held fixed, and `d h / d c` is an entry like the others. The LSTM has
six entries in this form, and nine without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextvars import Context
from typing import Any

import numpy as np

from microtensor import engine, ops
from microtensor.recurrence import symbols
from microtensor.recurrence.symbols import Symbol
from microtensor.tensor import Tensor

_ON_TENSORS: dict[str, Callable[..., Any]] = {
    "absolute": ops.abs,
    "astype": lambda x: 1.0 * x,
}


class Derivation:
    """Expressions for the new state of a cell and for its derivatives.

    Attributes
    ----------
    products
        Names of the numbers that come from matrix products, in the order of the gates.
    inputs
        The symbol of each name: products, old state, weights per unit.
    variables
        What each of `inputs` is called in printed sources.
    new
        The expression of each new value of the state, by its name.
    order
        Names of the state, those that are computed from others first.
    jacobian
        (value, name) -> d new value / d name, without the zeros; name is one of `inputs`, or
        `(value,)` for another new value.
    """

    def __init__(self, cell: Any) -> None:
        self.products = tuple(
            [
                name
                for gate in cell.gates
                for name in ((f"{gate}_x", f"{gate}_h") if gate in cell.apart else (gate,))
            ]
        )
        names = (*self.products, *cell.state, *cell.per_unit)
        self.inputs = {name: Symbol("input", name) for name in names}
        # An underscore at the end: no name of a cell is mistaken for one of a printed source.
        ascii_names = [name if name.isascii() else f"u{i}" for i, name in enumerate(names)]
        self.variables = {name: f"{plain}_" for name, plain in zip(names, ascii_names, strict=True)}
        # In a context of its own: no switch that is thrown outside, such as no_grad, matters.
        Context().run(self._run, cell)

    def _run(self, cell: Any) -> None:
        leaves = [Tensor(self.inputs[name], requires_grad=True) for name in cell.arguments]
        result = cell.equations(*leaves)
        values = result if isinstance(result, tuple) else (result,)
        if len(values) != len(cell.state):
            raise symbols.UnknownOperation(f"the equations returned {len(values)} values")
        self.new = {
            name: symbols.lift(value.data if isinstance(value, Tensor) else value)
            for name, value in zip(cell.state, values, strict=True)
        }
        for name, value in self.new.items():
            alone = {part.args[0] for part in parts([value]) if part.op == "input"}
            if name in cell.of_blocks and not alone <= cell.of_blocks:
                raise symbols.UnknownOperation(
                    f"there is one {name} for each block, but {sorted(alone - cell.of_blocks)} "
                    "are numbers of single units"
                )
        for output, value in zip(values, self.new.values(), strict=True):
            self._check_nothing_is_detached(output, value, leaves)
        inside = {name: set(parts([value])) - {value} for name, value in self.new.items()}
        self.order = sorted(self.new, key=lambda name: -len(inside[name]))
        self.jacobian: dict[tuple[str, Any], Symbol] = {}
        for name, value in self.new.items():
            held = {
                other: part
                for other, part in self.new.items()
                if part in inside[name] and part.op not in ("input", "constant")
            }
            self._differentiate(name, value, held)

    def cotangents(self, arrives: Mapping[str, Symbol]) -> dict[str, Symbol]:
        """What arrives at each of `inputs`, by what `arrives` at each new value from outside."""
        total: dict[str, Symbol] = {}  # at each new value, also through those computed from it
        for value in self.order:
            found = arrives[value]
            for other in self.order:
                if (other, (value,)) in self.jacobian:
                    share = symbols.multiply(self.jacobian[other, (value,)], total[other])
                    found = symbols.add(found, share)
            total[value] = found
        below = {name: symbols.constant(0.0) for name in self.inputs}
        for value in self.order:
            for name in self.inputs:
                if (value, name) in self.jacobian:
                    share = symbols.multiply(self.jacobian[value, name], total[value])
                    below[name] = symbols.add(below[name], share)
        return below

    def _check_nothing_is_detached(self, output: Any, value: Symbol, leaves: list[Tensor]) -> None:
        """What equations detach, their expression does not show: the numbers tell.

        The gradient of the equations as they ran is compared with that of the expression.
        """
        again = [Tensor(leaf.data, requires_grad=True) for leaf in leaves]
        known = {leaf.data: leaf for leaf in again}
        derived = _gradients(evaluate(value, known, _operation), again)
        ran = _gradients(output, leaves)
        pairs = [(a, b) for a, b in zip(ran, derived, strict=True) if a is not b]
        for point in (0.3, -0.7):
            numbers = {leaf.data: point + 0.11 * i for i, leaf in enumerate(leaves)}
            with np.errstate(all="ignore"):
                found = [[float(evaluate(g, numbers, _operation)) for g in pair] for pair in pairs]
            if any(not np.isclose(a, b, rtol=1e-9, atol=1e-12, equal_nan=True) for a, b in found):
                raise symbols.UnknownOperation("the equations detach something")

    def _differentiate(self, name: str, value: Symbol, held: dict[str, Symbol]) -> None:
        """The entries of one new value, with those new values `held` that it is computed from."""
        leaves: dict[Any, Tensor] = {}
        known: dict[Symbol, Any] = {}
        for other, symbol in self.inputs.items():
            leaves[other] = known[symbol] = Tensor(symbol, requires_grad=True)
        meant = {}  # what the symbol of a held value stands for
        for other, part in held.items():
            fixed = Symbol("input", (other,))
            leaves[other,] = known[part] = Tensor(fixed, requires_grad=True)
            meant[fixed] = part
        found = _gradients(evaluate(value, known, _operation), list(leaves.values()))
        for leaf, gradient in zip(leaves, found, strict=True):
            entry = evaluate(gradient, dict(meant), _symbolic)
            if not (entry.op == "constant" and entry.args[0] == 0):
                self.jacobian[name, leaf] = entry


def _gradients(output: Any, inputs: list[Tensor]) -> list[Symbol]:
    """The derivatives of one number by others, as expressions."""
    if not isinstance(output, Tensor) or not output.requires_grad:
        return [symbols.constant(0.0)] * len(inputs)
    one = Tensor(symbols.constant(1.0))
    # Recorded, so that contributions are added up by operations and not in place.
    found = engine.grad(output, inputs, one, create_graph=True, allow_unused=True)
    return [symbols.lift(0.0 if g is None else g.data) for g in found]


def parts(values: Iterable[Symbol]) -> list[Symbol]:
    """Everything that expressions are made of, and they themselves, arguments first."""
    seen: dict[Symbol, None] = {}

    def visit(value: Symbol) -> None:
        if value not in seen:
            for argument in value.args:
                if isinstance(argument, Symbol):
                    visit(argument)
            seen[value] = None

    for value in values:
        visit(value)
    return list(seen)


def evaluate(
    value: Symbol, known: dict[Symbol, Any], operation: Callable[[str], Callable[..., Any]]
) -> Any:
    """An expression with other things in the place of symbols that are `known`."""
    for part in parts([value]):
        if part not in known:
            if part.op == "input":
                known[part] = part
            elif part.op == "constant":
                known[part] = part.args[0] if operation is _operation else part
            else:
                known[part] = operation(part.op)(*[known[argument] for argument in part.args])
    return known[value]


def _operation(name: str) -> Callable[..., Any]:
    found: Any = _ON_TENSORS.get(name) or getattr(ops, name)
    return found  # type: ignore[no-any-return]


def _symbolic(name: str) -> Callable[..., Any]:
    found: Any = getattr(symbols, name, None)
    return found if callable(found) else lambda *args: Symbol(name, *args)
