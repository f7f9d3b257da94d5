"""A recurrent cell is its equations, written once, on one unit's numbers.

    @cell(gates=("i", "f", "g", "o"), state=("h", "c"))
    def lstm(i, f, g, o, c):
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(c), c

No weight matrix, no shape and no time is in sight. What the equations call a *gate* is one number
per unit, the sum of two products that the layer around the cell computes,

    i = (W_ih x_t + b_ih)_i + (W_hh h_{t-1} + b_hh)_i          the block of rows that belongs to i

and what they call by a name of `state` is that value of the step before. A gate listed in `apart`
arrives as two numbers instead of their sum: `n_x`, its input product, and `n_h`, its recurrent
one. Names of `per_unit` are weights with one number for each unit, such as peepholes.

The first value of the state is the cell's output and the vector that is fed back through W_hh.

The equations run on whatever they are given: numbers, arrays of any backend, tensors. That is why
they may use only operators and the functions of microtensor.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from microtensor.ops import split
from microtensor.recurrence.drivers.printing import Program

__all__ = ["Cell", "cell"]


class Cell:
    """The declaration of a recurrent cell; made by `cell`.

    Calling it evaluates the equations as they stand, `lstm(i, f, g, o, c)`; `step` evaluates them
    on whole rows of units.

    Parameters
    ----------
    equations
        A function of numbers. Its parameters are found by name among the gates, the values of
        the state and the weights per unit, in any order; it returns the new state: a tuple in
        the order of `state`, or the bare value if there is only one.
    gates
        The blocks of rows of the weight matrices, in order.
    apart
        Gates whose two products arrive separately, as `NAME_x` and `NAME_h`.
    state
        Names of the values handed from step to step; the first is the output.
    per_unit
        Names of the weights that have one number for each unit.

    Raises
    ------
    TypeError
        If the equations ask for a name that is not declared, or do not use one that is.
    ValueError
        If the declaration contradicts itself: a name twice, `apart` naming no gate.
    """

    def __init__(
        self,
        equations: Callable[..., Any],
        *,
        gates: Sequence[str],
        apart: Sequence[str] = (),
        state: Sequence[str] = ("h",),
        per_unit: Sequence[str] = (),
    ) -> None:
        self.equations = equations
        self.name = getattr(equations, "__name__", type(equations).__name__)
        self.__name__, self.__doc__ = self.name, equations.__doc__
        self.__module__, self.__qualname__ = equations.__module__, equations.__qualname__
        self.gates = _names("gates", gates)
        self.apart = _names("apart", apart)
        self.state = _names("state", state)
        self.per_unit = _names("per_unit", per_unit)
        if not self.gates or not self.state:
            raise ValueError(f"cell {self.name}: it needs at least one gate and one state value")
        strangers = [name for name in self.apart if name not in self.gates]
        if strangers:
            raise ValueError(
                f"cell {self.name}: apart names {strangers}, which are no gates; "
                f"the gates are {list(self.gates)}"
            )
        self.arguments = self._match_arguments()
        self._program: Any = None  # or the exception that says why there is none

    def _match_arguments(self) -> tuple[str, ...]:
        """The names of the equations' parameters, each of them declared, in their order."""
        products = [
            name
            for gate in self.gates
            for name in ((f"{gate}_x", f"{gate}_h") if gate in self.apart else (gate,))
        ]
        known = [*products, *self.state, *self.per_unit]
        twice = sorted({name for name in known if known.count(name) > 1})
        if twice:
            raise ValueError(
                f"cell {self.name}: {twice} stand for two things at once; gates (with _x and _h "
                "for those apart), state values and weights per unit need different names"
            )
        parameters = inspect.signature(self.equations).parameters.values()
        for parameter in parameters:
            if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
                raise TypeError(
                    f"cell {self.name}: parameter {parameter} of the equations is not a plain "
                    "positional one"
                )
            if parameter.name not in known:
                raise TypeError(
                    f"cell {self.name}: the equations ask for {parameter.name!r}, which is not "
                    f"declared; they can have {known}"
                )
        arguments = tuple(parameter.name for parameter in parameters)
        unused = [name for name in (*products, *self.per_unit) if name not in arguments]
        if unused:
            raise TypeError(
                f"cell {self.name}: {unused} are declared and the equations do not take them"
            )
        return arguments

    @property
    def program(self) -> Program | None:
        """The cell derived and printed for the fused operation; None if that cannot be done."""
        if self._program is None:
            try:
                self._program = Program(self)
            except Exception as error:
                self._program = error.with_traceback(None)
        return self._program if isinstance(self._program, Program) else None

    def source(self, driver: str = "arrays") -> str:
        """What a driver runs for this cell, to be read: derived from the equations, and printed.

        Raises
        ------
        TypeError
            If the equations cannot be derived, with the reason. Such a cell runs step by step.
        ValueError
            If the driver is unknown, or is "steps", which runs the equations as they stand.
        """
        if driver != "arrays":
            raise ValueError(f"only the driver 'arrays' runs printed source, not {driver!r}")
        program = self.program
        if program is None:
            raise TypeError(
                f"cell {self.name} cannot be derived, and runs step by step: {self._program}"
            ) from self._program
        return program.source()

    def __call__(self, *values: Any, **named: Any) -> Any:
        """The equations as they stand, on numbers, arrays or tensors of one shape."""
        return self.equations(*values, **named)

    def step(
        self,
        input_product: Any,
        recurrent_product: Any,
        state: Sequence[Any],
        per_unit: Mapping[str, Any] | None = None,
    ) -> tuple[Any, ...]:
        """One step for all units at once, in plain operations: the readable per-step version.

        Parameters
        ----------
        input_product
            W_ih x_t + b_ih, shape (..., G*H): the G gates' blocks of H units side by side.
        recurrent_product
            W_hh h_{t-1} + b_hh, shape (..., G*H).
        state
            The values of the step before, in the order of `state`, each (..., H).
        per_unit
            The weights per unit by name, each (H,).

        Returns
        -------
        tuple
            The new state, in the order of `state`, each (..., H). Its first value is the output.

        Raises
        ------
        ValueError
            If the number of state values, given or returned, is not the declared one, or the
            weights per unit are not those declared.
        """
        if len(state) != len(self.state):
            raise ValueError(
                f"cell {self.name}: state is {self.state}, but {len(state)} values were given"
            )
        values: dict[str, Any] = dict(per_unit) if per_unit else {}
        if values.keys() != set(self.per_unit):
            raise ValueError(
                f"cell {self.name}: weights per unit are {list(self.per_unit)}, "
                f"but {list(values)} were given"
            )
        values.update(zip(self.state, state, strict=True))
        if self.apart:
            from_input, from_state = self._blocks(input_product), self._blocks(recurrent_product)
            for gate, x, h in zip(self.gates, from_input, from_state, strict=True):
                if gate in self.apart:
                    values[f"{gate}_x"], values[f"{gate}_h"] = x, h
                else:
                    values[gate] = x + h
        else:
            blocks = self._blocks(input_product + recurrent_product)
            values.update(zip(self.gates, blocks, strict=True))
        result = self.equations(*[values[name] for name in self.arguments])
        new: tuple[Any, ...] = result if isinstance(result, tuple) else (result,)
        if len(new) != len(self.state):
            raise ValueError(
                f"cell {self.name}: state is {self.state}, but the equations returned "
                f"{len(new)} values"
            )
        return new

    def _blocks(self, rows: Any) -> Sequence[Any]:
        """The gates' blocks of (..., G*H), each (..., H)."""
        if len(self.gates) == 1:
            return (rows,)
        blocks: Sequence[Any] = split(rows, len(self.gates), axis=-1)
        return blocks

    def __reduce__(self) -> str:
        return self.__qualname__  # pickled by name, as functions are

    def __repr__(self) -> str:
        parts = [f"gates {', '.join(self.gates)}", f"state {', '.join(self.state)}"]
        if self.apart:
            parts.insert(1, f"apart {', '.join(self.apart)}")
        if self.per_unit:
            parts.append(f"per unit {', '.join(self.per_unit)}")
        return f"<cell {self.name}: {'; '.join(parts)}>"


def cell(
    *,
    gates: Sequence[str],
    apart: Sequence[str] = (),
    state: Sequence[str] = ("h",),
    per_unit: Sequence[str] = (),
) -> Callable[[Callable[..., Any]], Cell]:
    """Declare a recurrent cell from its equations; see `Cell` for the parameters.

    >>> from microtensor.ops import tanh
    >>> @cell(gates=("a",))
    ... def leaky(a, h):
    ...     return 0.9 * h + 0.1 * tanh(a)
    >>> leaky
    <cell leaky: gates a; state h>
    """

    def declare(equations: Callable[..., Any]) -> Cell:
        return Cell(equations, gates=gates, apart=apart, state=state, per_unit=per_unit)

    return declare


def _names(what: str, names: Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple; a bare string is the usual slip, `gates="ifgo"` or `("h")`."""
    if isinstance(names, str):
        raise TypeError(f"{what} must be a sequence of names, such as ({names!r},), not a string")
    for name in names:
        if not str(name).isidentifier():
            raise ValueError(f"{what}: {name!r} cannot be the name of a parameter")
    return tuple(names)
