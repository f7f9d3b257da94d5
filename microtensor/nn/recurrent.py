"""Recurrent layers: any cell, unrolled over time.

`Recurrent` makes a layer of a cell; `RNN`, `LSTM` and `GRU` are such layers with PyTorch's names
and arguments. Sizes in this file: T steps, B sequences, I inputs, H hidden units, G gates,
L layers, D directions (1, or 2 if bidirectional). In a stack of K trials (see `nn.stack`) every
shape has a leading K.

What a layer computes is an ordinary Python loop over the cell's per-step version: `in_steps`. Two
things are taken out of it: the input product of all T steps, which is one matrix product, and
cutting the sequence into steps, which is one operation (`unstack`) and not T slices.

The same loop is also one fused operation, `sequence`, several times as fast; its arithmetic stands
in recurrence/drivers. `recurrence.driver` chooses between the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from microtensor import backend, guards, modes
from microtensor.backend import Array, Generator
from microtensor.engine import primitive
from microtensor.nn import functional, init
from microtensor.nn.functional import linear
from microtensor.nn.layers import check_size, new_parameter
from microtensor.nn.module import Module
from microtensor.ops import (
    concatenate,
    expand_dims,
    sigmoid,
    split,
    squeeze,
    stack,
    tanh,
    unstack,
    where,
)
from microtensor.recurrence import Cell, driver, gru, lstm, rnn_relu, rnn_tanh
from microtensor.recurrence.driver import backward as fused_backward
from microtensor.recurrence.driver import forward as fused_forward
from microtensor.recurrence.drivers import arrays
from microtensor.tensor import Tensor

__all__ = ["GRU", "LSTM", "RNN", "Recurrent"]

# One step: what the step is given of the input, and the state before; the output, the state after.
Step = Callable[[Any, tuple[Any, ...]], tuple[Any, tuple[Any, ...]]]


class Recurrent(Module):
    """A recurrent layer, or several on top of each other, made of any cell.

    Parameters
    ----------
    cell
        A `recurrence.Cell`; or a `Module` with a method `step(x, state)`, for a recurrence that is
        not of a cell's form. `x` is then the input of one step, (B, I), and `state` a tensor or a
        tuple of tensors (B, ...). It returns the new state, whose first value is the output, as
        cells do; or (output, new state). Such a module brings its own weights, so it makes one
        layer in one direction. Where a call gives no initial state, `cell.initial_state(B)`
        is asked for one; without that method it is a tensor of zeros (B, hidden_size).
    input_size, hidden_size
        I and H. A module may leave them out.
    num_layers
        L; each layer after the first reads the outputs of the one below.
    bias
        True: `bias_ih` and `bias_hh`, as in PyTorch. "single": no `bias_hh`, the count of
        TensorFlow and Keras. False: none.
    batch_first
        Whether input and output are (B, T, ...) instead of (T, B, ...). States never are.
    dropout
        Probability of `functional.dropout` on the outputs of every layer but the last.
    bidirectional
        Whether a second set of weights reads each sequence from its end; outputs are joined.
    recurrent_dropout
        Probability of zeroing a unit of h before the recurrent product, with one mask for the
        whole sequence (Gal and Ghahramani 2016, "A theoretically grounded application of dropout
        in recurrent neural networks"). Each layer, direction and sequence has its own mask.
    dtype, generator
        Of the parameters; where their first values, and all masks, are drawn from.

    Attributes
    ----------
    weight_ih_l{k}, weight_hh_l{k}
        Shapes (G*H, I) and (G*H, H), with (G*H, D*H) for the input of layers k > 0; the second
        direction's end in `_reverse`. First values are uniform in +-1/sqrt(H), as PyTorch's.
        A gate per block has H/block_size rows instead of H; a cell that feeds something else than
        its output has a `weight_hh` with a column for each number that is fed.
    bias_ih_l{k}, bias_hh_l{k}
        Shape (G*H,), without the rows of gates that have no bias.
    {name}_l{k}
        Shape (H,), for each of the cell's weights per unit.

    Raises
    ------
    ValueError
        If a size is not a positive integer, a probability not in [0, 1], `bias` none of the three;
        if H is not a multiple of `block_size`, or the cell has nothing per block.
    TypeError
        If `cell` is neither of the two things.
    """

    knows_trials = True

    def __init__(
        self,
        cell: Cell | Module,
        input_size: int | None = None,
        hidden_size: int | None = None,
        num_layers: int = 1,
        bias: bool | str = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        recurrent_dropout: float = 0.0,
        block_size: int = 1,
        dtype: Any = np.float32,
        generator: Generator | None = None,
    ) -> None:
        if not isinstance(bias, bool) and bias != "single":
            raise ValueError(f'bias must be True, False or "single", got {bias!r}')
        functional.check_probability("dropout", dropout)
        functional.check_probability("recurrent_dropout", recurrent_dropout)
        self.cell = cell
        self.num_layers = check_size("num_layers", num_layers)
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = dropout
        self.bidirectional = bidirectional
        self.recurrent_dropout = recurrent_dropout
        self.block_size = check_size("block_size", block_size)
        self.generator = generator
        self.directions = 2 if bidirectional else 1
        if isinstance(cell, Module):
            self._check_module(cell)
            self.input_size = (
                getattr(cell, "input_size", None) if input_size is None else input_size
            )
            size = getattr(cell, "hidden_size", None) if hidden_size is None else hidden_size
            self.hidden_size = size
            return
        if not isinstance(cell, Cell):
            raise TypeError(
                f"cell must be a recurrence.Cell or a Module with a method step(x, state), "
                f"not {type(cell).__name__}"
            )
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = check_size("hidden_size", hidden_size)
        self._names = tuple(parameter_shapes(cell, 1, 1, bias))
        alone = self.num_layers * self.directions == 1
        self._only = tuple([name + _suffix(0, 0) for name in self._names]) if alone else ()
        if self.block_size > 1 and not cell.per_block:
            raise ValueError(
                f"block_size is {block_size}, but cell {cell.name} has no gates per block"
            )
        if self.hidden_size % self.block_size:
            raise ValueError(
                f"{self.hidden_size} units cannot stand in blocks of {self.block_size}: "
                "hidden_size must be a multiple of block_size"
            )
        for k in range(self.num_layers):
            inputs = self.input_size if k == 0 else self.hidden_size * self.directions
            for direction in range(self.directions):
                shapes = parameter_shapes(cell, inputs, self.hidden_size, bias, self.block_size)
                for name, shape in shapes.items():
                    parameter = new_parameter(shape, dtype)
                    bound = 1.0 / math.sqrt(self.hidden_size)
                    init.uniform_(parameter, -bound, bound, generator)
                    setattr(self, name + _suffix(k, direction), parameter)

    def _check_module(self, cell: Module) -> None:
        if not callable(getattr(type(cell), "step", None)):
            raise TypeError(f"{type(cell).__name__} has no method step(x, state)")
        several = self.num_layers > 1 or self.bidirectional or self.block_size > 1
        if several or self.recurrent_dropout or self.dropout:
            raise ValueError(
                f"{type(cell).__name__} is a module with weights of its own: it makes one layer in "
                "one direction, without dropout or blocks; put several Recurrent layers on top of "
                "each other"
            )

    def forward(self, x: Any, state: Any = None, lengths: Any = None) -> tuple[Any, Any]:
        """Run over whole sequences.

        Parameters
        ----------
        x
            Shape (T, B, I), or (B, T, I) with `batch_first`; or (T, I) for one sequence.
        state
            The state before the first step: for each of the cell's state values a tensor
            (L*D, B, H), one alone bare, several as a tuple; (L*D, H) with one sequence. Zeros if
            None. Gradients flow into it. What is fed of a gate per block is (L*D, B, H/block_size).
        lengths
            The number of valid steps of each sequence, B integers from 1 to T, in any order; the
            rest is padding. It is never read, outputs there are zero, the final state is the one
            after each sequence's own last step, and the reverse direction starts there:
            the meaning of PyTorch's packed sequences.

        Returns
        -------
        output
            (T, B, D*H), or (B, T, D*H) with `batch_first`; or (T, D*H).
        state
            The state after the last step, in the form of the argument.

        In a stack of K trials every one of these shapes has a leading K: `x` (K, T, B, I), or
        (K, B, T, I), or (K, T, I); a state (K, L*D, B, H); `lengths` (K, B).

        Raises
        ------
        ValueError
            If a shape does not fit, or a length is out of range; TypeError for a wrong dtype.
        """
        key, tensors = self._key(x, state, lengths)
        known = _made.get(self, _NONE).get(key)
        if known is not None:
            first, run = known
            output, *last = sequence(tensors[0], *first, *tensors[1:], run=run)
            return output, tuple(last) if len(last) > 1 else last[0]
        lead = len(self._lead)
        alone = x.ndim - lead == 2
        self._check_input(x, lead)
        time, of_batch = (lead + 1, lead) if self.batch_first else (lead, lead + 1)
        if alone:
            x = expand_dims(x, of_batch)
        steps, batch = x.shape[time], x.shape[of_batch]
        place = backend.of(x.data if isinstance(x, Tensor) else x)
        assert place is not None
        values, several = self._initial_state(x, state, batch, alone, place)
        padding = Padding.of(lengths, steps, (*self._lead, batch), time, place)
        if padding is not None:
            x = where(padding.valid, x, 0.0)

        finals: list[tuple[Any, ...]] = []
        for k in range(self.num_layers):
            outputs = []
            for direction in range(self.directions):
                inner = tuple([value[len(finals)] for value in values])
                output, *final = self._run(x, inner, k, direction, several, padding, place)
                outputs.append(output)
                finals.append(tuple(final))
            x = outputs[0] if len(outputs) == 1 else concatenate(outputs, axis=-1)
            if self.dropout and k < self.num_layers - 1:
                x = functional.dropout(x, self.dropout, self.training, self.generator)
        if padding is not None:
            x = where(padding.over(x.ndim), x, 0.0)

        if key is not None and not alone:
            self._remember(key, tensors, [value[0] for value in values] if state is None else [])
        new = finals[0]
        if len(finals) > 1:
            new = tuple([concatenate(list(v), axis=lead) for v in zip(*finals, strict=True)])
        if alone:
            x, new = squeeze(x, of_batch), tuple([squeeze(value, lead + 1) for value in new])
        return x, new if several else new[0]

    def _key(self, x: Any, state: Any, lengths: Any) -> tuple[Any, list[Any]]:
        """All that a call depends on beside the numbers, and its tensors; None if it is not plain.

        Plain is one layer in one direction without masks. A small one is computed in less time than
        it takes to look at what it was called with; so what was found is kept in `_made`.
        """
        mode, mine = modes.current.get(), vars(self)
        masked = lengths is not None or (self.recurrent_dropout and self.training)
        if masked or mode.anomaly or not mine.get("_only"):
            return None, []
        several = isinstance(state, tuple | list)
        states = state if several else () if state is None else (state,)
        tensors = [x, *states, *[mine[name] for name in self._only]]
        key = [driver(), mode.recording, self.cell, self.batch_first, self.block_size, self.trials]
        key.append(several)
        for tensor in tensors:
            if not isinstance(tensor, Tensor):
                return None, []
            array = tensor.data
            key += (tensor.requires_grad, type(array), array.dtype, array.shape)
        return tuple(key), tensors

    def _remember(self, key: Any, tensors: list[Any], first: list[Any]) -> None:
        """Keep what is known of a call, if it was one fused operation."""
        time = len(self._lead) + (1 if self.batch_first else 0)
        operands = (tensors[0], *first, *tensors[1:])
        run = self._run_of(operands, self._names, time, False, None, None)
        if run.call.program is not None:
            made = _made.setdefault(self, {})
            if len(made) > 100:  # lengths that may never come again
                made.clear()
            made[key] = tuple(first), run._replace(call=run.call._replace(kept={}))

    def _check_input(self, x: Any, lead: int) -> None:
        name = type(self).__name__
        layout = ("B", "T", "I") if self.batch_first else ("T", "B", "I")
        if x.ndim - lead not in (2, 3) or 0 in x.shape[:-1]:
            raise ValueError(
                f"{name}: the input must be {self._layout(*layout)}, or {self._layout('T', 'I')} "
                f"for one sequence, with at least one step and one sequence; got shape {x.shape}"
            )
        functional.check_trials(name, x, self.trials)
        if self.input_size is not None and x.shape[-1] != self.input_size:
            raise ValueError(
                f"{name}: input_size is {self.input_size}, but the last axis of the input "
                f"{self._layout(*layout)} is {x.shape[-1]} long; got shape {x.shape}"
            )

    @property
    def _lead(self) -> tuple[int, ...]:
        """What all shapes begin with: (K,) in a stack."""
        return () if self.trials is None else (self.trials,)

    def _layout(self, *axes: str) -> str:
        return f"({', '.join([*map(str, self._lead), *axes])})"

    def _run(
        self,
        x: Any,
        state: tuple[Any, ...],
        k: int,
        direction: int,
        several: bool,
        padding: Padding | None,
        place: backend.Backend,
    ) -> tuple[Any, ...]:
        """The output of layer k in one direction, and its last state, (1, B, H) as the first."""
        lead = len(self._lead)
        time = lead + (1 if self.batch_first else 0)
        if isinstance(self.cell, Module):
            rows = unstack(x, axis=time)
            step = _module_step(self.cell, several)
            return scan(step, rows, state, bool(direction), padding, time, lead)
        weights = self._weights(k, direction)
        batch = x.shape[lead + 1 - (time - lead)]
        mask = self._recurrent_mask((*self._lead, batch), x.dtype, place)
        return self._run_cell(x, state, weights, time, bool(direction), mask, padding)

    def _run_cell(
        self,
        x: Any,
        state: tuple[Any, ...],
        weights: dict[str, Any],
        time: int,
        reverse: bool,
        mask: Array | None,
        padding: Padding | None,
    ) -> tuple[Any, ...]:
        """The same for a cell: fused, or step by step."""
        operands = (x, *state, *weights.values())
        run = self._run_of(operands, tuple(weights), time, reverse, mask, padding)
        made: Any = in_steps if run.call.program is None else sequence
        return made(*operands, run=run)  # type: ignore[no-any-return]

    def _run_of(
        self,
        operands: Sequence[Any],
        names: tuple[str, ...],
        time: int,
        reverse: bool,
        mask: Array | None,
        padding: Padding | None,
    ) -> Run:
        assert isinstance(self.cell, Cell)
        program = self.cell.program if _may_fuse(operands) else None
        recorded = modes.is_grad_enabled() and any(
            operand.requires_grad for operand in operands if isinstance(operand, Tensor)
        )
        valid = None if padding is None else padding.over_time()
        call = arrays.Call(
            *(program, names, time, reverse, mask, valid, recorded),
            *(self.block_size, self.trials),
        )
        return Run(self.cell, padding, call)

    def _weights(self, k: int, direction: int) -> dict[str, Any]:
        """The parameters of layer k in one direction, by their names without the suffix."""
        mine = vars(self)
        return {name: mine[name + _suffix(k, direction)] for name in self._names}

    def _recurrent_mask(
        self, shape: tuple[int, ...], dtype: Any, place: backend.Backend
    ) -> Array | None:
        if not self.recurrent_dropout or not self.training:
            return None
        assert isinstance(self.cell, Cell)
        assert self.hidden_size is not None
        widths = [self.cell.width(n, self.hidden_size, self.block_size) for n in self.cell.fed]
        shape = (*shape, sum(widths))
        return functional.dropout_mask(shape, dtype, self.recurrent_dropout, place, self.generator)

    def _initial_state(
        self, x: Any, state: Any, batch: int, alone: bool, place: backend.Backend
    ) -> tuple[list[Sequence[Any]], bool]:
        """For each value of the state its (1, B, ...) in each layer; whether they are several."""
        name = type(self).__name__
        cell = self.cell
        blocks = self.num_layers * self.directions
        widths: list[Any] = []
        if isinstance(cell, Cell):
            assert self.hidden_size is not None
            widths = [cell.width(n, self.hidden_size, self.block_size) for n in cell.state]
        if state is None:
            if isinstance(cell, Module):
                start = self._start_of_module(cell, batch, x, place)
                several = isinstance(start, tuple | list)
                parts = start if several else [start]
                return [[expand_dims(value, len(self._lead))] for value in parts], several
            zeros = {
                width: Tensor(place.xp.zeros((*self._lead, 1, batch, width), x.dtype))
                for width in set(widths)
            }
            return [[zeros[width]] * blocks for width in widths], len(cell.state) > 1
        several = isinstance(state, tuple | list)
        given = list(state) if several else [state]
        if isinstance(cell, Cell) and (len(given), several) != (
            len(cell.state),
            len(cell.state) > 1,
        ):
            wanted = "a tuple" if len(cell.state) > 1 else "one tensor"
            got = f"a {type(state).__name__} of {len(given)}" if several else "one tensor"
            raise ValueError(f"{name}: the state is {wanted} ({', '.join(cell.state)}); got {got}")
        lead = len(self._lead)
        for i, value in enumerate(given):
            sequences = () if alone else (batch,)
            outer = (*self._lead, blocks, *sequences)
            inner = (widths[i],) if widths else value.shape[len(outer) :]
            wanted_shape: tuple[Any, ...] = (*outer, *inner)
            if value.shape != wanted_shape:
                size = "H" if inner == (self.hidden_size,) else "H / block_size"
                axes = ("layers * directions", *(() if alone else ("B",)), size)
                raise ValueError(
                    f"{name}: value {i} of the state must be {self._layout(*axes)} = "
                    f"{wanted_shape}, got {value.shape}"
                )
            if value.dtype != x.dtype:
                raise TypeError(f"{name}: the input is {x.dtype}, the state {value.dtype}")
        if alone:
            given = [expand_dims(value, lead + 1) for value in given]
        if blocks == 1:
            return [[value] for value in given], several
        return [split(value, blocks, axis=lead) for value in given], several

    def _start_of_module(self, cell: Module, batch: int, x: Any, place: backend.Backend) -> Any:
        if callable(getattr(type(cell), "initial_state", None)):
            return cell.initial_state(batch)
        if self.hidden_size is None:
            raise ValueError(
                f"{type(self).__name__}: {type(cell).__name__} has neither a hidden_size nor a "
                "method initial_state(batch_size); give a state with the call"
            )
        return Tensor(place.xp.zeros((*self._lead, batch, self.hidden_size), x.dtype))

    def extra_repr(self) -> str:
        """Sizes, and every option that is not at its default."""
        parts = [] if self.input_size is None else [str(self.input_size)]
        parts += [] if self.hidden_size is None else [str(self.hidden_size)]
        if isinstance(self.cell, Cell) and type(self) is Recurrent:
            parts.insert(0, self.cell.name)
        defaults = {
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
            "recurrent_dropout": 0.0,
            "block_size": 1,
        }
        for name, default in defaults.items():
            if getattr(self, name) != default:
                parts.append(f"{name}={getattr(self, name)!r}")
        return ", ".join(parts)


class RNN(Recurrent):
    """The simple recurrent network: h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh).

    `nonlinearity="relu"` replaces the tanh. The state is one tensor h (L*D, B, H). All else is
    `Recurrent`'s; the names and the order of the arguments are `torch.nn.RNN`'s.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool | str = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        recurrent_dropout: float = 0.0,
        dtype: Any = np.float32,
        generator: Generator | None = None,
    ) -> None:
        super().__init__(
            rnn_cell(nonlinearity),
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            recurrent_dropout=recurrent_dropout,
            dtype=dtype,
            generator=generator,
        )
        self.nonlinearity = nonlinearity

    def extra_repr(self) -> str:
        """As `Recurrent`, with the nonlinearity if it is not the tanh."""
        extra = "" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity!r}"
        return super().extra_repr() + extra


class LSTM(Recurrent):
    """The LSTM with a forget gate; rows of the weights in the order i, f, g, o.

    c_t = sigma(f) c_{t-1} + sigma(i) tanh(g),   h_t = sigma(o) tanh(c_t)

    where i, f, g, o are the blocks of W_ih x_t + b_ih + W_hh h_{t-1} + b_hh. The state is the tuple
    (h, c), each (L*D, B, H). All else is `Recurrent`'s; names and order of the arguments are
    `torch.nn.LSTM`'s.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool | str = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        recurrent_dropout: float = 0.0,
        dtype: Any = np.float32,
        generator: Generator | None = None,
    ) -> None:
        super().__init__(
            lstm,
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            recurrent_dropout=recurrent_dropout,
            dtype=dtype,
            generator=generator,
        )


class GRU(Recurrent):
    """The gated recurrent unit; rows of the weights in the order r, z, n.

    r = sigma(W_ir x + b_ir + W_hr h + b_hr),   z = sigma(W_iz x + b_iz + W_hz h + b_hz)
    n = tanh(W_in x + b_in + r (W_hn h + b_hn))           reset="after", PyTorch's and cuDNN's
    n = tanh(W_in x + b_in + W_hn (r h) + b_hn)           reset="before", Cho et al. 2014
    h' = (1 - z) n + z h

    With `reset="before"`, the form of documents 000 and 002 and of Keras before 2.1.5, the state
    meets the reset gate before the product; the weights have the same names and shapes. The state
    is one tensor h (L*D, B, H). All else is `Recurrent`'s; names and order of the other arguments
    are `torch.nn.GRU`'s.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool | str = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        reset: str = "after",
        recurrent_dropout: float = 0.0,
        dtype: Any = np.float32,
        generator: Generator | None = None,
    ) -> None:
        super().__init__(
            gru,
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            recurrent_dropout=recurrent_dropout,
            dtype=dtype,
            generator=generator,
        )
        self.reset = check_reset(reset)
        if reset == "before":
            self._only = ()

    def _run_cell(
        self,
        x: Any,
        state: tuple[Any, ...],
        weights: dict[str, Any],
        time: int,
        reverse: bool,
        mask: Array | None,
        padding: Padding | None,
    ) -> tuple[Any, ...]:
        if self.reset == "after":
            return super()._run_cell(x, state, weights, time, reverse, mask, padding)
        product = linear(x, weights["weight_ih"], weights.get("bias_ih"), self.trials)
        rows = unstack(product, axis=time)
        advance = reset_before(weights["weight_hh"], weights.get("bias_hh"), mask, self.trials)

        def step(row: Any, state: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
            h = advance(row, state[0])
            return h, (h,)

        return scan(step, rows, state, reverse, padding, time, len(self._lead))

    def extra_repr(self) -> str:
        """As `Recurrent`, with `reset` if it is not "after"."""
        extra = "" if self.reset == "after" else f", reset={self.reset!r}"
        return super().extra_repr() + extra


# -- what the layers share with the single-step modules of cells.py


def rnn_cell(nonlinearity: str) -> Cell:
    """The simple cell with this nonlinearity."""
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
    return rnn_tanh if nonlinearity == "tanh" else rnn_relu


def check_reset(reset: str) -> str:
    """Return `reset` if it is one of the two variants, else refuse it."""
    if reset not in ("after", "before"):
        raise ValueError(f'reset must be "after" or "before", got {reset!r}')
    return reset


def parameter_shapes(
    cell: Cell, input_size: int, hidden_size: int, bias: bool | str, block_size: int = 1
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters around a cell, in PyTorch's order."""
    widths = {gate: cell.width(gate, hidden_size, block_size) for gate in cell.gates}
    rows, biases = sum(widths.values()), sum([widths[gate] for gate in cell.biased])
    fed = sum([cell.width(name, hidden_size, block_size) for name in cell.fed])
    shapes: dict[str, tuple[int, ...]] = {
        "weight_ih": (rows, input_size),
        "weight_hh": (rows, fed),
    }
    if bias:
        shapes["bias_ih"] = (biases,)
    if bias is True:
        shapes["bias_hh"] = (biases,)
    return shapes | dict.fromkeys(cell.per_unit, (hidden_size,))


def reset_before(
    weight: Any, bias: Any, mask: Any = None, trials: int | None = None
) -> Callable[[Any, Any], Any]:
    """The step of the GRU whose reset gate acts before the product; see `GRU`.

    `weight` (3H, H) and `bias` (3H,) or None are the recurrent ones, `mask` a dropout mask on h or
    None. The step takes the input's product (B, 3H) and h (B, H), and returns the new h. All have
    a leading K if there are K `trials`.
    """
    size = weight.shape[-1]
    of_gates, of_candidate = weight[..., : 2 * size, :], weight[..., 2 * size :, :]
    gate_bias = candidate_bias = None
    if bias is not None:
        gate_bias, candidate_bias = bias[..., : 2 * size], bias[..., 2 * size :]

    def step(row: Any, h: Any) -> Any:
        seen = h if mask is None else h * mask
        x_r, x_z, x_n = split(row, 3, axis=-1)
        h_r, h_z = split(linear(seen, of_gates, gate_bias, trials), 2, axis=-1)
        r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
        n = tanh(x_n + linear(r * seen, of_candidate, candidate_bias, trials))
        return (1 - z) * n + z * h

    return step


_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


class Run(NamedTuple):
    """One layer in one direction, without its arrays."""

    cell: Cell
    padding: Padding | None
    call: arrays.Call


# What is known of calls that layers have made: the first state, if none was given, and the `Run`.
# It is no attribute of theirs, so that it is neither copied nor saved.
_made: WeakKeyDictionary[Recurrent, dict[Any, tuple[tuple[Any, ...], Run]]] = WeakKeyDictionary()
_NONE: dict[Any, Any] = {}


def in_steps(*operands: Any, run: Run) -> tuple[Any, ...]:
    """A cell over a whole sequence, step by step, in plain operations.

    `operands` are the input (T, B, I) or (B, T, I), the values of the state (1, B, H), and the
    weights that `run` names, all with a leading K in a stack. Returns the outputs, (T, B, H) or
    (B, T, H), and the last state.
    """
    cell, call = run.cell, run.call
    size, trials = call.block_size, call.trials
    x, state = operands[0], operands[1 : 1 + len(cell.state)]
    weights = dict(zip(call.names, operands[1 + len(cell.state) :], strict=True))
    if cell.biased != cell.gates:
        hidden = state[0].shape[-1]
        for name in [name for name in ("bias_ih", "bias_hh") if name in weights]:
            weights[name] = _whole_bias(weights[name], cell, hidden, size)
    product = linear(x, weights["weight_ih"], weights.get("bias_ih"), trials)
    rows = unstack(product, axis=call.time)
    weight, bias = weights["weight_hh"], weights.get("bias_hh")
    per_unit = {name: weights[name] for name in cell.per_unit}
    if trials is not None:  # (K, 1, H): the same for all of a trial's sequences
        per_unit = {name: expand_dims(value, 1) for name, value in per_unit.items()}

    def step(row: Any, state: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
        fed = cell.recurrent_vector(state)
        fed = fed if call.mask is None else fed * call.mask
        new = cell.step(row, linear(fed, weight, bias, trials), state, per_unit, size)
        return new[0], new

    lead = 0 if trials is None else 1
    return scan(step, rows, state, call.reverse, run.padding, call.time, lead)


def _whole_bias(bias: Any, cell: Cell, hidden: int, block_size: int) -> Any:
    """A bias with a row for each row of the gates, zeros where a gate has none."""
    place = backend.of(bias.data if isinstance(bias, Tensor) else bias)
    assert place is not None
    parts, at = [], 0
    for gate in cell.gates:
        width = cell.width(gate, hidden, block_size)
        if gate in cell.biased:
            parts.append(bias[..., at : at + width])
            at += width
        else:
            parts.append(place.xp.zeros((*bias.shape[:-1], width), bias.dtype))
    return concatenate(parts, axis=-1)


@primitive(residuals=("lease",), composite=in_steps)
def sequence(xp: Any, *operands: Array, run: Run) -> Any:
    """The same as one operation: one node for all steps (see recurrence/drivers).

    Where a sequence has ended its output is the state that it ended with.
    """
    return fused_forward(xp, operands, run.call)


def _all_gradients(g: Any, needs: Any, operands: Any, lease: Any, run: Run) -> list[Any]:
    return fused_backward(g, needs, operands, lease, run.call)


sequence.vjp_all(_all_gradients)


def _may_fuse(operands: Sequence[Any]) -> bool:
    """Whether the fused operation is wanted, and made for these numbers.

    What does not fit together is left to the operations of the loop, which refuse it in their
    own words.
    """
    if driver() == "steps" or modes.current.get().anomaly:
        return False
    bare = [value.data if isinstance(value, Tensor) else value for value in operands]
    kind, dtype = type(bare[0]), bare[0].dtype
    if dtype not in _FLOATS:
        return False
    return all(type(value) is kind and value.dtype == dtype for value in bare)


def scan(
    step: Step,
    rows: Sequence[Any],
    state: tuple[Any, ...],
    reverse: bool,
    padding: Padding | None,
    time: int,
    layer: int,
) -> tuple[Any, ...]:
    """The loop over time: the outputs in the order of `rows` along axis `time`, and the last state.

    The state comes and goes with an axis of length 1, `layer`, along which layers are joined. Where
    a sequence has ended the state stays as it is; seen from the end, it has not yet begun.
    """
    state = tuple([squeeze(value, layer) for value in state])
    outputs: list[Any] = [None] * len(rows)
    for t in reversed(range(len(rows))) if reverse else range(len(rows)):
        outputs[t], new = step(rows[t], state)
        if padding is not None and t >= padding.shortest:
            new = tuple(
                [where(padding.at(t, a.ndim), a, b) for a, b in zip(new, state, strict=True)]
            )
        state = new
    return (stack(outputs, axis=time), *[expand_dims(value, layer) for value in state])


class Padding(NamedTuple):
    """Which steps of which sequences are valid, on the backend where they are used."""

    valid: Array  # bool, (T, B, 1) or (B, T, 1), or in a stack (K, T, B, 1) or (K, B, T, 1)
    time: int
    shortest: int  # before this step all sequences are valid

    @classmethod
    def of(
        cls, lengths: Any, steps: int, shape: tuple[int, ...], time: int, place: backend.Backend
    ) -> Padding | None:
        """From lengths of `shape` (B,) or (K, B) as given; None if nothing is padded."""
        if lengths is None:
            return None
        bare = lengths.data if isinstance(lengths, Tensor) else lengths
        found = backend.of(bare)
        if modes.noting.get() is not None and found is not None:
            raise guards.not_captured(
                "a layer with lengths", "give those that never change as a list"
            )
        host = np.asarray(bare if found is None else found.to_host(bare))
        if host.dtype.kind not in "iu" or host.shape != shape:
            wanted = f"{shape[-1]} integers" if len(shape) == 1 else f"integers of shape {shape}"
            raise ValueError(
                f"lengths must be {wanted}, one for each sequence; "
                f"got shape {host.shape} of {host.dtype}"
            )
        wrong = np.argwhere((host < 1) | (host > steps))
        if len(wrong):
            i = tuple(wrong[0].tolist())
            raise ValueError(
                f"lengths[{', '.join(map(str, i))}] is {host[i]}; "
                f"with T = {steps} steps it must be 1, ..., {steps}"
            )
        if host.min() == steps:
            return None
        valid = np.arange(steps) < host[..., None]
        if time == len(shape) - 1:
            valid = np.ascontiguousarray(valid.swapaxes(-1, -2))
        return cls(place.from_host(valid[..., None]), time, int(host.min()))

    def over_time(self) -> Array:
        """Bools (T, B), or (K, T, B)."""
        valid = self.valid[..., 0]
        return valid if self.time == valid.ndim - 2 else valid.swapaxes(-1, -2)

    def over(self, ndim: int) -> Array:
        """Of all steps, for outputs with `ndim` axes (T, B, ...)."""
        shape = self.valid.shape[:-1]
        return self.valid.reshape(shape + (1,) * (ndim - len(shape)))

    def at(self, t: int, ndim: int) -> Array:
        """Of step t, for a value with `ndim` axes (B, ...)."""
        mask = self.valid[(*[slice(None)] * self.time, t, Ellipsis, 0)]
        return mask.reshape(mask.shape + (1,) * (ndim - mask.ndim))


def _suffix(k: int, direction: int) -> str:
    return f"_l{k}_reverse" if direction else f"_l{k}"


def _module_step(cell: Any, several: bool) -> Step:
    """The reader's `step(x, state)` in the form of the loop.

    What it returns is the new state, or one level around it: (output, new state).
    """

    def step(row: Any, state: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
        result = cell.step(row, state if several else state[0])
        if not several:
            output, new = result if isinstance(result, tuple) else (result, result)
            return output, (new,)
        many = isinstance(result, tuple | list)
        nested = many and isinstance(result[-1], tuple | list)
        new = result[-1] if nested else result
        if not many or len(new) != len(state) or (nested and len(result) != 2):
            got = f"{len(result)} values" if many else f"a {type(result).__name__}"
            raise TypeError(
                f"the state of {type(cell).__name__} has {len(state)} values, and its step "
                f"returned {got}; return the new state, a tuple of {len(state)}, or (output, that)"
            )
        return result[0], tuple(new)

    return step
