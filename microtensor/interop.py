"""How tensors meet NumPy: `np.tanh(t)`, `array * t`, `np.asarray(t)`, DLPack, copying.

NumPy asks its arguments whether they would rather do a function themselves (NEP 13 and NEP 18), and
tensors would: the result is a tensor, recorded. What NumPy would have to do on its own, by turning
a recorded tensor into an array, is refused, because the gradient would be lost without a word.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from microtensor import backend, ops
from microtensor.declaration import LIBRARY

LIBRARY.add(id(globals()))  # np.exp(t) was called by the user, not from here

_NAMES = {  # NumPy's name -> ours, where they differ
    "absolute": "abs",
    "amax": "max",
    "amin": "min",
    "bitwise_and": "logical_and",  # which takes booleans only, as the tensors' & does
    "bitwise_or": "logical_or",
    "invert": "logical_not",
    "true_divide": "divide",
}


def _pad(x: Any, pad_width: Any, mode: str = "constant", constant_values: Any = 0) -> Any:
    if mode != "constant" or np.ndim(constant_values):
        raise TypeError(
            f"np.pad of tensors surrounds with one number: mode {mode!r} with constant_values "
            f"{constant_values!r} is not available; see mt.pad"
        )
    return ops.pad(x, pad_width, constant_values)


_SIGNATURES = {"pad": _pad}  # functions whose options are called otherwise in NumPy


def _ours(name: str) -> Any:
    name = name.removeprefix("cupy_")
    name = _NAMES.get(name, name)
    return getattr(ops, name) if name in ops.__all__ else None  # ops.shape is a module


class NumPyProtocols:
    """The part of a tensor that answers NumPy. `data` and `requires_grad` are the tensor's."""

    __slots__ = ()

    data: Any
    requires_grad: bool

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        function = _ours(ufunc.__name__)
        if function is None or method != "__call__" or options.get("out") is not None:
            raise TypeError(
                f"np.{ufunc.__name__} ({method}) is not available for tensors; use one of "
                "microtensor's functions, or .detach().numpy() for an array without gradient"
            )
        return function(*inputs, **options)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function in (np.shape, np.ndim, np.size) and len(args) == 1:
            return getattr(self, function.__name__)
        name = function.__name__ if function.__module__ == "numpy" else ""
        ours = _SIGNATURES.get(name) or _ours(name)
        if ours is None:
            raise TypeError(
                f"np.{function.__name__} is not available for tensors; use one of microtensor's "
                "functions, or .detach().numpy() for an array without gradient"
            )
        return ours(*args, **kwargs)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy()
        if dtype is not None and np.dtype(dtype) != array.dtype:
            if copy is False:
                raise ValueError(f"a {array.dtype} tensor becomes {dtype} only by copying")
            return array.astype(dtype)
        return array.copy() if copy else array

    def numpy(self) -> np.ndarray:
        """The numbers as a host array: the tensor's own memory, or a copy from the device.

        Raises
        ------
        TypeError
            If the tensor needs a gradient: what is done to the array would not be recorded.
        """
        if self.requires_grad:
            raise TypeError(
                "this tensor needs a gradient, and what NumPy does is not recorded; call .detach() "
                "first: t.detach().numpy()"
            )
        found = backend.of(self.data)
        assert found is not None
        return found.to_host(self.data)

    def __format__(self, spec: str) -> str:
        return format(self.data.item(), spec) if spec and self.data.ndim == 0 else str(self)

    def __dlpack__(self, **options: Any) -> Any:
        if self.requires_grad:
            raise TypeError("this tensor needs a gradient; export t.detach() through DLPack")
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.data.__dlpack_device__()
