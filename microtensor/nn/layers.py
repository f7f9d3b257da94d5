"""Linear, Embedding and Dropout."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from microtensor import backend
from microtensor.backend import Generator
from microtensor.nn import functional, init
from microtensor.nn.module import Module
from microtensor.nn.parameter import Parameter

__all__ = ["Dropout", "Embedding", "Linear"]


def new_parameter(shape: tuple[int, ...], dtype: Any) -> Parameter:
    """A parameter of zeros on the default backend, to be filled by `init`."""
    dtype = np.dtype(dtype)
    if dtype.kind != "f":
        raise TypeError(f"parameters must be floating point, not {dtype}")
    return Parameter(backend.default().xp.zeros(shape, dtype))


def check_size(name: str, size: Any) -> int:
    """A positive integer, or an error that names the argument."""
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
        raise ValueError(f"{name} must be a positive integer, got {size!r}")
    return int(size)


class Linear(Module):
    """y = x W^T + b: shape (..., in_features) to (..., out_features).

    Parameters
    ----------
    in_features, out_features
        Lengths of the last axis of input and output.
    bias
        Whether there is a b.
    dtype, generator
        Of the parameters, and where their first values are drawn from.

    Attributes
    ----------
    weight
        Shape (out_features, in_features), first uniform in +-1/sqrt(in_features) as PyTorch's.
    bias
        Shape (out_features,), first uniform in the same range; or None.
    """

    knows_trials = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: Any = np.float32,
        generator: Generator | None = None,
    ) -> None:
        self.in_features = check_size("in_features", in_features)
        self.out_features = check_size("out_features", out_features)
        bound = 1.0 / math.sqrt(in_features)
        weight = new_parameter((self.out_features, self.in_features), dtype)
        self.weight = init.uniform_(weight, -bound, bound, generator)
        self.bias = None
        if bias:
            values = new_parameter((self.out_features,), dtype)
            self.bias = init.uniform_(values, -bound, bound, generator)

    def forward(self, x: Any) -> Any:
        """`x` of shape (..., in_features) to (..., out_features)."""
        return functional.linear(x, self.weight, self.bias, self.trials)

    def extra_repr(self) -> str:
        """Sizes, and whether there is a bias."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )


class Embedding(Module):
    """A table of vectors: integers of shape (...) to (..., embedding_dim).

    Parameters
    ----------
    num_embeddings, embedding_dim
        Number of vectors and their length.
    padding_idx
        A row that starts as zeros and receives no gradient; negative numbers count from the end.
    dtype, generator
        Of the parameters, and where their first values are drawn from.

    Attributes
    ----------
    weight
        Shape (num_embeddings, embedding_dim), first standard normal as PyTorch's.

    Raises
    ------
    IndexError
        If `padding_idx`, or on a call an index, is out of range.
    """

    knows_trials = True

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        dtype: Any = np.float32,
        generator: Generator | None = None,
    ) -> None:
        self.num_embeddings = check_size("num_embeddings", num_embeddings)
        self.embedding_dim = check_size("embedding_dim", embedding_dim)
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise IndexError(
                    f"padding_idx {padding_idx} is out of range for {num_embeddings} embeddings"
                )
            padding_idx %= num_embeddings
        self.padding_idx = padding_idx
        weight = new_parameter((num_embeddings, embedding_dim), dtype)
        self.weight = init.normal_(weight, generator=generator)
        if padding_idx is not None:
            self.weight.data[padding_idx] = 0

    def forward(self, indices: Any) -> Any:
        """Integers of shape (...) to vectors (..., embedding_dim)."""
        return functional.embedding(indices, self.weight, self.padding_idx, self.trials)

    def extra_repr(self) -> str:
        """Sizes, and the padding row if there is one."""
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"


class Dropout(Module):
    """While training, zero each element with probability `p` and divide the others by 1 - p.

    In evaluation (`model.eval()`) the input passes unchanged. Any shape.

    Parameters
    ----------
    p
        Probability of a zero.
    generator
        Where the masks are drawn from; `mt.default_generator()` if None.
    """

    knows_trials = True

    def __init__(self, p: float = 0.5, *, generator: Generator | None = None) -> None:
        functional.check_probability("p", p)
        self.p = p
        self.generator = generator

    def forward(self, x: Any) -> Any:
        """Same shape as `x`."""
        functional.check_trials("Dropout", x, self.trials)
        return functional.dropout(x, self.p, self.training, self.generator)

    def extra_repr(self) -> str:
        """The probability."""
        return f"p={self.p}"
