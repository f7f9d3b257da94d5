"""Tensor: an array, and its place in the graph.

A tensor that you make is a leaf: derivatives end there, in its `.grad`, if it was made with
`requires_grad=True`. A tensor that an operation returns is a result: it knows the node that
recorded it. Everything a tensor can do is an operation of `ops` under the name that NumPy uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import numpy as np

from microtensor import backend, engine, guards, modes, ops, writes
from microtensor.backend import Array
from microtensor.interop import NumPyProtocols
from microtensor.ops.conversion import transfer


class Tensor(NumPyProtocols):
    """An array of numbers that remembers how it was computed (made by `mt.tensor`).

    Attributes
    ----------
    data
        The bare array (NumPy's or CuPy's). Changing it in place behind the tensor's back is not
        noticed; `t[...] = v` is.
    grad
        After `backward`: a tensor of the same shape and dtype, or None. Gradients add up there
        until you set it to None.
    """

    __slots__ = ("__weakref__", "_requires_grad", "data", "grad", "place")
    __hash__ = object.__hash__

    def __init__(self, data: Array, requires_grad: bool = False) -> None:
        if backend.of(data) is None:
            raise TypeError(f"Tensor wraps an array, not a {type(data).__name__}; use mt.tensor")
        self.data = data
        self.grad: Any = None
        self.place: Any = None
        self._requires_grad = False
        self.requires_grad_(requires_grad)

    shape = property(attrgetter("data.shape"), doc="The lengths of the axes.")
    dtype = property(attrgetter("data.dtype"), doc="The type of the numbers.")
    ndim = property(attrgetter("data.ndim"), doc="How many axes.")
    size = property(lambda self: int(self.data.size), doc="How many numbers.")
    T = property(lambda self: ops.transpose(self), doc="The axes in reverse order.")
    is_leaf = property(lambda self: self.place is None, doc="Whether no operation recorded it.")

    @property
    def backend(self) -> str:
        """The name of the backend it lives on."""
        found = backend.of(self.data)
        assert found is not None
        return found.name

    @property
    def requires_grad(self) -> bool:
        """Whether derivatives with respect to it are wanted (leaf) or pass through (result)."""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        self.requires_grad_(wanted)

    def requires_grad_(self, wanted: bool = True) -> Tensor:
        """Ask for the gradient of this leaf, or no longer; returns the tensor.

        Raises
        ------
        TypeError
            If its numbers are not float32 or float64.
        GradientStateError
            If it is a result: use `.detach()` to leave the graph.
        """
        if self.place is not None:
            if not wanted:
                raise guards.GradientStateError(
                    "this tensor is the result of a recorded operation; .detach() gives the same "
                    "numbers without its history"
                )
        elif wanted and self.data.dtype not in (np.float32, np.float64):
            raise TypeError(
                f"a tensor of dtype {self.data.dtype} has no gradient; only float32 and float64 "
                "have one: convert it first, .astype(np.float32)"
            )
        else:
            self._requires_grad = bool(wanted)
        return self

    # -- derivatives

    backward = engine.backward

    def detach(self) -> Tensor:
        """The same memory without history: no derivative passes."""
        return engine.wrap(self.data)  # type: ignore[no-any-return]

    def retain_grad(self) -> None:
        """Let backward set `.grad` although this is a result, not a leaf."""
        if self.place is not None:
            engine.retaining[self.place] = self

    # -- arithmetic: Python's operators are the operations themselves

    __add__ = __radd__ = ops.add
    __mul__ = __rmul__ = ops.multiply
    __sub__ = ops.subtract
    __truediv__ = ops.divide
    __pow__ = ops.power
    __neg__ = ops.negative
    __abs__ = ops.abs
    __matmul__ = ops.matmul
    __eq__, __ne__ = ops.equal, ops.not_equal
    __lt__, __le__ = ops.less, ops.less_equal
    __gt__, __ge__ = ops.greater, ops.greater_equal
    __and__, __or__, __invert__ = ops.logical_and, ops.logical_or, ops.logical_not
    __getitem__ = ops.getitem

    def __rsub__(self, other: Any) -> Any:
        return ops.subtract(other, self)

    def __rtruediv__(self, other: Any) -> Any:
        return ops.divide(other, self)

    def __rpow__(self, other: Any) -> Any:
        return ops.power(other, self)

    def __rmatmul__(self, other: Any) -> Any:
        return ops.matmul(other, self)

    # -- functions as methods, where NumPy has them, and the activations

    abs, exp, log, sqrt, square = ops.abs, ops.exp, ops.log, ops.sqrt, ops.square
    tanh, sigmoid, relu, sin, cos = ops.tanh, ops.sigmoid, ops.relu, ops.sin, ops.cos
    sum, mean, var, std, prod = ops.sum, ops.mean, ops.var, ops.std, ops.prod
    max, min, argmax, cumsum, clip = ops.max, ops.min, ops.argmax, ops.cumsum, ops.clip
    reshape, transpose, swapaxes = ops.reshape, ops.transpose, ops.swapaxes
    squeeze, take = ops.squeeze, ops.take

    # -- as a container and as a number

    def __setitem__(self, index: Any, value: Any) -> None:
        recording = modes.is_grad_enabled()
        if self.place is not None or (self._requires_grad and recording):
            raise guards.unassignable(self.place)
        if isinstance(value, Tensor):
            if value._requires_grad and recording:
                raise guards.unrecorded_value()
            value = value.data
        self.data[ops.indexing.plain(index, self.data.__class__)] = value
        writes.written(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[Any]:
        return iter(ops.unstack(self))

    def __bool__(self) -> bool:
        return bool(self.data)

    def __float__(self) -> float:
        return float(self.data)

    def __int__(self) -> int:
        return int(self.data)

    def __index__(self) -> int:
        return np.asarray(self.item()).__index__()

    def item(self) -> Any:
        """The one number it holds, as a Python number."""
        return self.data.item()

    def astype(self, dtype: Any) -> Any:
        """The numbers as another dtype; between floats it is differentiable."""
        if np.dtype(dtype).kind != "f":
            return engine.wrap(self.data.astype(dtype))
        return engine.astype(self, dtype=np.dtype(dtype))

    def to(self, name: str) -> Any:
        """The tensor on the backend `name`: itself if it is there, else a copy (differentiable)."""
        return self if name == self.backend else transfer(self, name=name)

    def __repr__(self) -> str:
        found = backend.of(self.data)
        assert found is not None
        array = found.to_host(self.data)
        text = np.array2string(array, separator=", ", prefix="tensor(")
        if array.dtype not in (np.float32, np.int64, np.bool_):
            text += f", dtype={array.dtype}"
        if found.name != "numpy":
            text += f", backend={found.name!r}"
        return f"tensor({text}{', requires_grad=True' if self.requires_grad else ''})"

    def __reduce__(self) -> Any:
        """For copying and pickling: the numbers and `requires_grad`, never a graph."""
        if self.place is not None:
            raise TypeError("only leaves can be copied or pickled; .detach() this result first")
        return type(self), (self.data.copy(), self.requires_grad)


engine.bind(Tensor, globals())
