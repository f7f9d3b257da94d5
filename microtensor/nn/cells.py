"""Single steps as modules: a cell with its weights, for loops that the reader writes.

The names are `torch.nn.RNNCell`'s and its like. Sizes: B sequences, I inputs, H hidden units,
G gates. Any of these modules can be given to `Recurrent`. In a stack of K trials (see `nn.stack`)
every shape has a leading K.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from microtensor import backend, engine
from microtensor.backend import Generator
from microtensor.nn import init
from microtensor.nn.functional import check_trials, linear
from microtensor.nn.layers import check_size, new_parameter
from microtensor.nn.module import Module
from microtensor.nn.recurrent import check_reset, parameter_shapes, reset_before, rnn_cell
from microtensor.ops import expand_dims, squeeze
from microtensor.recurrence import Cell, gru, lstm

__all__ = ["GRUCell", "LSTMCell", "RNNCell"]


class _SingleStep(Module):
    """A cell and its weights: `weight_ih` (G*H, I), `weight_hh` (G*H, H), `bias_ih`, `bias_hh`."""

    knows_trials = True

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        bias: bool | str,
        dtype: Any,
        generator: Generator | None,
    ) -> None:
        if not isinstance(bias, bool) and bias != "single":
            raise ValueError(f'bias must be True, False or "single", got {bias!r}')
        self.cell = cell
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = check_size("hidden_size", hidden_size)
        self.bias = bias
        bound = 1.0 / math.sqrt(hidden_size)
        shapes = parameter_shapes(cell, input_size, hidden_size, bias)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            parameter = None
            if name in shapes:
                parameter = new_parameter(shapes[name], dtype)
                init.uniform_(parameter, -bound, bound, generator)
            setattr(self, name, parameter)

    def initial_state(self, batch_size: int) -> Any:
        """Zeros (B, H), one tensor or a tuple of them, on the backend of the weights."""
        found = backend.of(self.weight_hh.data)
        assert found is not None
        shape = (*self._lead, batch_size, self.hidden_size)
        zeros = [engine.wrap(found.xp.zeros(shape, self.weight_hh.dtype)) for _ in self.cell.state]
        return tuple(zeros) if len(zeros) > 1 else zeros[0]

    def forward(self, x: Any, state: Any = None) -> Any:
        """One step.

        Parameters
        ----------
        x
            Shape (B, I), or (I,) for one sequence; in a stack (K, B, I), or (K, I).
        state
            A tensor (B, H), or for an LSTM a tuple of two; (H,) for one sequence. Zeros if None.

        Returns
        -------
        The new state, in the same form.
        """
        name = type(self).__name__
        lead = len(self._lead)
        if x.ndim - lead not in (1, 2) or x.shape[-1] != self.input_size:
            first = "".join([f"{k}, " for k in self._lead])
            raise ValueError(
                f"{name}: the input must be ({first}B, {self.input_size}), or "
                f"({first}{self.input_size}{'' if lead else ','}) for one sequence; "
                f"got shape {x.shape}"
            )
        check_trials(name, x, self.trials)
        alone = x.ndim - lead == 1
        several = len(self.cell.state) > 1
        if state is None:
            state = self.initial_state(1 if alone else x.shape[lead])
            values = tuple(state) if several else (state,)
        else:
            values = self._checked(x, state, several, alone)
        if alone:
            new = self._advance(expand_dims(x, lead), values)
            new = tuple([squeeze(value, lead) for value in new])
        else:
            new = self._advance(x, values)
        return new if several else new[0]

    def step(self, x: Any, state: Any) -> Any:
        """`forward`: what `Recurrent` asks of a module."""
        return self.forward(x, state)

    @property
    def _lead(self) -> tuple[int, ...]:
        return () if self.trials is None else (self.trials,)

    def _checked(self, x: Any, state: Any, several: bool, alone: bool) -> tuple[Any, ...]:
        """The state's values as (B, H), or an error that says what is wrong with it."""
        name, names = type(self).__name__, ", ".join(self.cell.state)
        if isinstance(state, tuple | list) != several or (
            several and len(state) != len(self.cell.state)
        ):
            wanted = f"a tuple ({names})" if several else f"one tensor {names}"
            raise ValueError(f"{name}: the state must be {wanted}, got {type(state).__name__}")
        values = tuple(state) if several else (state,)
        shape = (*x.shape[:-1], self.hidden_size)
        for label, value in zip(self.cell.state, values, strict=True):
            if value.shape != shape:
                raise ValueError(f"{name}: {label} must have shape {shape}, got {value.shape}")
            if value.dtype != x.dtype:
                raise TypeError(f"{name}: the input is {x.dtype}, {label} is {value.dtype}")
        return tuple([expand_dims(value, -2) for value in values]) if alone else values

    def _advance(self, x: Any, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return self.cell.step(
            linear(x, self.weight_ih, self.bias_ih, self.trials),
            linear(values[0], self.weight_hh, self.bias_hh, self.trials),
            values,
        )

    def extra_repr(self) -> str:
        """Sizes, and the biases if they are not PyTorch's."""
        extra = "" if self.bias is True else f", bias={self.bias!r}"
        return f"{self.input_size}, {self.hidden_size}{extra}"


class RNNCell(_SingleStep):
    """h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or with relu for tanh: (B, I), (B, H) to (B, H)."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool | str = True,
        nonlinearity: str = "tanh",
        *,
        dtype: Any = np.float32,
        generator: Generator | None = None,
    ) -> None:
        super().__init__(rnn_cell(nonlinearity), input_size, hidden_size, bias, dtype, generator)
        self.nonlinearity = nonlinearity

    def extra_repr(self) -> str:
        """Sizes, and what is not at its default."""
        extra = "" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity!r}"
        return super().extra_repr() + extra


class LSTMCell(_SingleStep):
    """One step of the LSTM, see `LSTM`: (B, I), ((B, H), (B, H)) to the new (h, c)."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool | str = True,
        *,
        dtype: Any = np.float32,
        generator: Generator | None = None,
    ) -> None:
        super().__init__(lstm, input_size, hidden_size, bias, dtype, generator)


class GRUCell(_SingleStep):
    """One step of the GRU, `reset` as for `GRU`: (B, I), (B, H) to the new h (B, H)."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool | str = True,
        *,
        reset: str = "after",
        dtype: Any = np.float32,
        generator: Generator | None = None,
    ) -> None:
        super().__init__(gru, input_size, hidden_size, bias, dtype, generator)
        self.reset = check_reset(reset)

    def _advance(self, x: Any, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if self.reset == "after":
            return super()._advance(x, values)
        row = linear(x, self.weight_ih, self.bias_ih, self.trials)
        advance = reset_before(self.weight_hh, self.bias_hh, trials=self.trials)
        return (advance(row, values[0]),)

    def extra_repr(self) -> str:
        """Sizes, and what is not at its default."""
        extra = "" if self.reset == "after" else f", reset={self.reset!r}"
        return super().extra_repr() + extra
