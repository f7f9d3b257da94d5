"""Filling parameters with their first values. Names and formulas are `torch.nn.init`'s.

Every function writes into the tensor it is given, in place, and returns it. All random numbers are
drawn on the host, from `generator` or else from `mt.default_generator()`, so a seed gives the same
weights on every backend. In a parameter of a stack (see `nn.stack`) each trial is filled by itself,
one after the other.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np

from microtensor import backend, writes
from microtensor.backend import Generator, default_generator
from microtensor.tensor import Tensor

__all__ = [
    "calculate_gain",
    "constant_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "orthogonal_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]

AnyTensor = TypeVar("AnyTensor", bound=Tensor)


def uniform_(
    tensor: AnyTensor, a: float = 0.0, b: float = 1.0, generator: Generator | None = None
) -> AnyTensor:
    """Uniform numbers from [a, b)."""
    return _fill(tensor, _of(generator).uniform(a, b, tensor.shape, tensor.dtype))


def normal_(
    tensor: AnyTensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None
) -> AnyTensor:
    """Normal numbers of the given mean and standard deviation."""
    return _fill(tensor, mean + std * _of(generator).normal(tensor.shape, np.float64))


def constant_(tensor: AnyTensor, val: float) -> AnyTensor:
    """The number `val` everywhere."""
    return _fill(tensor, np.full(tensor.shape, val))


def zeros_(tensor: AnyTensor) -> AnyTensor:
    """Zeros."""
    return constant_(tensor, 0.0)


def ones_(tensor: AnyTensor) -> AnyTensor:
    """Ones."""
    return constant_(tensor, 1.0)


def xavier_uniform_(
    tensor: AnyTensor, gain: float = 1.0, generator: Generator | None = None
) -> AnyTensor:
    """Uniform in +-gain sqrt(6 / (fan_in + fan_out)).

    Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural
    networks", equation 16. The shape is (fan_out, fan_in, ...).
    """
    bound = gain * math.sqrt(6.0 / sum(_fans(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(
    tensor: AnyTensor, gain: float = 1.0, generator: Generator | None = None
) -> AnyTensor:
    """Normal with standard deviation gain sqrt(2 / (fan_in + fan_out)); see `xavier_uniform_`."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(_fans(tensor))), generator)


def kaiming_uniform_(
    tensor: AnyTensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> AnyTensor:
    """Uniform in +-gain sqrt(3 / fan); fan is `fan_in` or `fan_out` and the gain the activation's.

    He, Zhang, Ren and Sun 2015, "Delving deep into rectifiers", section 2.2.
    """
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: AnyTensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> AnyTensor:
    """Normal with standard deviation gain / sqrt(fan); see `kaiming_uniform_`."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), generator)


def orthogonal_(
    tensor: AnyTensor, gain: float = 1.0, generator: Generator | None = None
) -> AnyTensor:
    """An orthogonal matrix times `gain`: rows orthonormal, or columns if there are more rows.

    Saxe, McClelland and Ganguli 2013, "Exact solutions to the nonlinear dynamics of learning in
    deep linear neural networks". Axes after the first are taken together. The signs are those that
    make the distribution uniform (Mezzadri 2007).
    """
    shape = _shape(tensor)
    if len(shape) < 2:
        raise ValueError(f"orthogonal_ needs at least two axes, got shape {shape}")
    size = (shape[0], math.prod(shape[1:]))
    trials = getattr(tensor, "trials", None) or 1
    drawn = [gain * _orthogonal(size, _of(generator)) for _ in range(trials)]
    return _fill(tensor, np.stack(drawn).reshape(tensor.shape))


def _orthogonal(shape: tuple[int, int], generator: Generator) -> np.ndarray:
    flat = generator.normal(shape, np.float64)
    tall = flat.T if flat.shape[0] < flat.shape[1] else flat
    q, r = np.linalg.qr(tall)
    q = q * np.sign(np.diag(r))
    return q.T if flat.shape[0] < flat.shape[1] else q


_GAINS = {
    "linear": 1.0,
    "sigmoid": 1.0,
    "tanh": 5.0 / 3.0,
    "relu": math.sqrt(2.0),
    "selu": 0.75,
}


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which weights must grow to make up for an activation; `torch.nn.init`'s table.

    `param` is the negative slope of `leaky_relu` (0.01 if not given).

    Raises
    ------
    ValueError
        If the activation is not in the table.
    """
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        return math.sqrt(2.0 / (1.0 + slope * slope))
    if nonlinearity not in _GAINS:
        known = ", ".join(sorted([*_GAINS, "leaky_relu"]))
        raise ValueError(f"no gain for {nonlinearity!r}; known activations: {known}")
    return _GAINS[nonlinearity]


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    fan_in, fan_out = _fans(tensor)
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode must be 'fan_in' or 'fan_out', not {mode!r}")
    fan = fan_in if mode == "fan_in" else fan_out
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def _fans(tensor: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight (fan_out, fan_in, ...); further axes multiply both."""
    shape = _shape(tensor)
    if len(shape) < 2:
        raise ValueError(
            f"fan_in and fan_out need at least two axes (out, in, ...), got shape {shape}"
        )
    receptive = math.prod(shape[2:])
    return shape[1] * receptive, shape[0] * receptive


def _shape(tensor: Tensor) -> tuple[int, ...]:
    """Of one trial, if it is a parameter of a stack."""
    shape: tuple[int, ...] = tensor.shape
    return shape if getattr(tensor, "trials", None) is None else shape[1:]


def _of(generator: Generator | None) -> Generator:
    return default_generator() if generator is None else generator


def _fill(tensor: AnyTensor, values: np.ndarray) -> AnyTensor:
    if not tensor.is_leaf:
        raise ValueError("only a leaf tensor can be filled; this one is the result of an operation")
    found = backend.of(tensor.data)
    assert found is not None
    tensor.data[...] = found.from_host(values.astype(tensor.dtype, copy=False))
    writes.written(tensor.data)
    return tensor
