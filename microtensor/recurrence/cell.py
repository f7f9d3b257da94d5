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

The first value of the state is the cell's output, and the vector that is fed back through W_hh
unless `feeds` says otherwise. The cell of 1997 needs that, and the rest of the vocabulary:

    @cell(gates=("i", "g", "o"), state=("h", "c"),
          per_block=("i", "o"), feeds=("h", "i", "o"), truncated=True)
    def memory_cell(i, g, o, c):
        i, o = sigmoid(i), sigmoid(o)
        c = c + i * (4 * sigmoid(g) - 2)
        return o * (2 * sigmoid(c) - 1), c, i, o

Units stand in blocks that share the gates of `per_block`. Gates named in `feeds` are fed back too:
what became of them is returned after the state. It is handed from step to step, so it *is* state,
a value `y_i` of its own, without which a sequence could not be continued where it was left. And no
error leaves a step through W_hh: `truncated`.

The equations run on whatever they are given: numbers, arrays of any backend, tensors. That is why
they may use only operators and the functions of microtensor.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from microtensor.creation import detach
from microtensor.ops import broadcast_to, concatenate, reshape, split
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
        the order of `state`, or the bare value if there is only one; behind it what became of
        the gates that `feeds` names, in the order of `feeds`.
    gates
        The blocks of rows of the weight matrices, in order.
    apart
        Gates whose two products arrive separately, as `NAME_x` and `NAME_h`.
    state
        Names of the values handed from step to step; the first is the output.
    per_unit
        Names of the weights that have one number for each unit.
    per_block
        Gates that have one number for each block of units, which its units share. How many units
        a block has is the layer's to say, `nn.Recurrent(..., block_size=2)`; units of a block stand
        side by side. The gradient of such a gate is the sum over its units.
    feeds
        What the vector consists of that meets W_hh in the next step, in this order: values of the
        state, and gates. For a gate NAME the equations return, after the state, what is fed: a
        further value of the state, called `y_NAME`. It is one number for each block if the gate
        is, and must then be computed from such numbers only. Default: the first value of the state.
        () makes a cell without any recurrent weights.
    truncated
        Whether the gradient is the truncated one of 1997: what is fed counts as a constant, so no
        error goes through W_hh to an earlier step. W_hh itself is trained all the same. What the
        equations take from the old state by its own name stays an edge that error passes: the
        cell's c, and also peepholes. (The paper of 1997 has none; where Gers et al. 2002 cut
        theirs, equations say `detach(c)`, and run step by step.)
    biased
        The gates that have a bias, in the order of `gates`; all, if None. A layer's bias vectors
        have no rows for the others.

    Attributes
    ----------
    state
        All names of the state, those that `feeds` adds included.
    fed
        What `feeds` comes to: names of `state`.
    of_blocks
        Which of its numbers, gates and values of the state, there is one for each block of.

    Raises
    ------
    TypeError
        If the equations ask for a name that is not declared, or do not use one that is.
    ValueError
        If the declaration contradicts itself: a name twice, `apart`, `per_block` or `biased`
        naming no gate, `feeds` naming neither a gate nor a value of the state.
    """

    def __init__(
        self,
        equations: Callable[..., Any],
        *,
        gates: Sequence[str],
        apart: Sequence[str] = (),
        state: Sequence[str] = ("h",),
        per_unit: Sequence[str] = (),
        per_block: Sequence[str] = (),
        feeds: Sequence[str] | None = None,
        truncated: bool = False,
        biased: Sequence[str] | None = None,
    ) -> None:
        self.equations = equations
        self.name = getattr(equations, "__name__", type(equations).__name__)
        self.__name__, self.__doc__ = self.name, equations.__doc__
        self.__module__, self.__qualname__ = equations.__module__, equations.__qualname__
        self.gates = _names("gates", gates)
        self.apart = _names("apart", apart)
        self.state = _names("state", state)
        self.per_unit = _names("per_unit", per_unit)
        self.per_block = _names("per_block", per_block)
        self.feeds = self.state[:1] if feeds is None else _names("feeds", feeds)
        self.truncated = truncated
        self.biased = self.gates if biased is None else _names("biased", biased)
        if not self.gates or not self.state:
            raise ValueError(f"cell {self.name}: it needs at least one gate and one state value")
        for what, names, known, kind in (
            ("apart", self.apart, self.gates, "gates"),
            ("per_block", self.per_block, self.gates, "gates"),
            ("biased", self.biased, self.gates, "gates"),
            ("feeds", self.feeds, (*self.state, *self.gates), "values of the state or gates"),
        ):
            strangers = [name for name in names if name not in known]
            if strangers:
                raise ValueError(
                    f"cell {self.name}: {what} names {strangers}, which are no {kind}; "
                    f"the {kind} are {list(known)}"
                )
        if len(set(self.feeds)) < len(self.feeds):
            raise ValueError(f"cell {self.name}: feeds names a value twice: {list(self.feeds)}")
        if self.biased != tuple([gate for gate in self.gates if gate in self.biased]):
            raise ValueError(
                f"cell {self.name}: biased is {list(self.biased)}, but the rows of a bias stand in "
                f"the order of the gates, {list(self.gates)}"
            )
        fed_gates = [name for name in self.feeds if name not in self.state]
        self.fed = tuple([f"y_{name}" if name in fed_gates else name for name in self.feeds])
        self.state += tuple([f"y_{name}" for name in fed_gates])
        self._fed_at = [self.state.index(name) for name in self.fed]
        self.of_blocks = frozenset(
            [
                f"{prefix}{name}{suffix}"
                for name in self.per_block
                for prefix, suffix in (("", ""), ("", "_x"), ("", "_h"), ("y_", ""))
            ]
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
            If the equations cannot be derived, with the reason: such a cell runs step by step.
        ValueError
            If the driver is unknown, or is "steps", which runs the equations as they stand.
        """
        if driver not in ("arrays", "numba"):
            raise ValueError(f"the drivers 'arrays' and 'numba' run printed source, not {driver!r}")
        program = self.program
        if program is None:
            raise TypeError(
                f"cell {self.name} cannot be derived, and runs step by step: {self._program}"
            ) from self._program
        if driver == "arrays":
            return program.source()
        loops: Any = importlib.import_module("microtensor.recurrence.drivers.loops")
        return str(loops.Loops(program, general=False).source())

    def __call__(self, *values: Any, **named: Any) -> Any:
        """The equations as they stand, on numbers, arrays or tensors of one shape."""
        return self.equations(*values, **named)

    def width(self, name: str, hidden: int, block_size: int) -> int:
        """How many numbers a gate or a value of the state is, in a layer of `hidden` units."""
        return hidden // block_size if name in self.of_blocks else hidden

    def recurrent_vector(self, state: Sequence[Any]) -> Any:
        """What meets W_hh: the values of the state that `feeds` names, side by side, (..., F).

        A tensor of a truncated cell comes detached.
        """
        chosen = [state[i] for i in self._fed_at]
        if not chosen:
            vector = state[0][..., :0]
        else:
            vector = chosen[0] if len(chosen) == 1 else concatenate(chosen, axis=-1)
        return detach(vector) if self.truncated else vector

    def step(
        self,
        input_product: Any,
        recurrent_product: Any,
        state: Sequence[Any],
        per_unit: Mapping[str, Any] | None = None,
        block_size: int = 1,
    ) -> tuple[Any, ...]:
        """One step for all units at once, in plain operations: the readable per-step version.

        Parameters
        ----------
        input_product
            W_ih x_t + b_ih, shape (..., G*H): the G gates' blocks of H units side by side. A gate
            of `per_block` has H/block_size rows instead of H.
        recurrent_product
            W_hh times `recurrent_vector(state)` + b_hh, of the same shape.
        state
            The values of the step before, in the order of `state`, each (..., H); what is fed of a
            gate of `per_block` is (..., H/block_size).
        per_unit
            The weights per unit by name, each (H,).
        block_size
            How many units share a gate of `per_block`.

        Returns
        -------
        tuple
            The new state, in the order of `state`, in the same shapes. Its first value is the
            output.

        Raises
        ------
        ValueError
            If the number of state values, given or returned, is not the declared one, the weights
            per unit are not those declared, the products do not have as many rows as the gates, or
            what is fed for each block is computed from numbers of single units.
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
        hidden = state[0].shape[-1]
        if self.apart:
            from_input = self._rows(input_product, hidden, block_size)
            from_state = self._rows(recurrent_product, hidden, block_size)
            for gate, x, h in zip(self.gates, from_input, from_state, strict=True):
                if gate in self.apart:
                    values[f"{gate}_x"], values[f"{gate}_h"] = x, h
                else:
                    values[gate] = x + h
        else:
            rows = self._rows(input_product + recurrent_product, hidden, block_size)
            values.update(zip(self.gates, rows, strict=True))
        arguments = [values[name] for name in self.arguments]
        if block_size > 1:
            pairs = zip(self.arguments, arguments, strict=True)
            arguments = [self._in_blocks(name, value, block_size) for name, value in pairs]
        result = self.equations(*arguments)
        new: tuple[Any, ...] = result if isinstance(result, tuple) else (result,)
        if len(new) != len(self.state):
            raise ValueError(
                f"cell {self.name}: state is {self.state}, but the equations returned "
                f"{len(new)} values"
            )
        if block_size == 1:
            return new
        blocks = (*state[0].shape[:-1], hidden // block_size)
        return tuple(
            [
                self._out_of_blocks(name, value, blocks, block_size)
                for name, value in zip(self.state, new, strict=True)
            ]
        )

    def _rows(self, rows: Any, hidden: int, block_size: int) -> Sequence[Any]:
        """The gates' blocks of (..., G*H), each (..., H) or, if it is one of blocks, shorter."""
        if block_size == 1:
            widths = [hidden] * len(self.gates)
        else:
            widths = [self.width(gate, hidden, block_size) for gate in self.gates]
        if rows.shape[-1] != sum(widths):
            raise ValueError(
                f"cell {self.name}: with {hidden} units the gates {list(self.gates)} have "
                f"{sum(widths)} rows, but the product has {rows.shape[-1]}; its shape is "
                f"{rows.shape}"
            )
        if len(widths) == 1:
            return (rows,)
        cuts: Any = len(widths)
        if block_size > 1:
            cuts = list(itertools.accumulate(widths[:-1]))
        found: Sequence[Any] = split(rows, cuts, axis=-1)
        return found

    def _in_blocks(self, name: str, value: Any, block_size: int) -> Any:
        """(..., H) as (..., H/S, S), and (..., H/S) as (..., H/S, 1): arithmetic does the rest."""
        size = 1 if name in self.of_blocks else block_size
        return reshape(value, (*value.shape[:-1], value.shape[-1] // size, size))

    def _out_of_blocks(self, name: str, value: Any, blocks: Any, block_size: int) -> Any:
        """And back."""
        if name not in self.of_blocks:
            whole = (*blocks, block_size)
            value = value if value.shape == whole else broadcast_to(value, whole)
            return reshape(value, (*blocks[:-1], blocks[-1] * block_size))
        if value.shape[-1] != 1:
            raise ValueError(
                f"cell {self.name}: there is one {name} for each block, so it must be computed "
                f"from numbers of blocks alone, {sorted(self.of_blocks & {*self.arguments})}"
            )
        return reshape(value, blocks)

    def __reduce__(self) -> str:
        return self.__qualname__  # pickled by name, as functions are

    def __repr__(self) -> str:
        parts = [f"gates {', '.join(self.gates)}", f"state {', '.join(self.state)}"]
        if self.apart:
            parts.insert(1, f"apart {', '.join(self.apart)}")
        if self.per_unit:
            parts.append(f"per unit {', '.join(self.per_unit)}")
        if self.per_block:
            parts.append(f"per block {', '.join(self.per_block)}")
        if self.feeds != self.state[:1]:
            parts.append(f"feeds {', '.join(self.feeds) or 'nothing'}")
        if self.biased != self.gates:
            parts.append(f"biased {', '.join(self.biased) or 'nothing'}")
        if self.truncated:
            parts.append("truncated")
        return f"<cell {self.name}: {'; '.join(parts)}>"


def cell(
    *,
    gates: Sequence[str],
    apart: Sequence[str] = (),
    state: Sequence[str] = ("h",),
    per_unit: Sequence[str] = (),
    per_block: Sequence[str] = (),
    feeds: Sequence[str] | None = None,
    truncated: bool = False,
    biased: Sequence[str] | None = None,
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
        return Cell(
            equations,
            gates=gates,
            apart=apart,
            state=state,
            per_unit=per_unit,
            per_block=per_block,
            feeds=feeds,
            truncated=truncated,
            biased=biased,
        )

    return declare


def _names(what: str, names: Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple; a bare string is the usual slip, `gates="ifgo"` or `("h")`."""
    if isinstance(names, str):
        raise TypeError(f"{what} must be a sequence of names, such as ({names!r},), not a string")
    found = tuple(names)
    for name in found:
        if not str(name).isidentifier():
            raise ValueError(f"{what}: {name!r} cannot be the name of a parameter")
    return found
