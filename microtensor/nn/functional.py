"""The layers' arithmetic as functions, with the activations and losses under PyTorch's names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from microtensor import backend, guards, modes
from microtensor.backend import Array, Generator, default_generator
from microtensor.ops import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    l1_loss,
    linalg,
    log_softmax,
    mse_loss,
    relu,
    reshape,
    sigmoid,
    softmax,
    softplus,
    take,
    tanh,
    where,
)
from microtensor.tensor import Tensor

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "dropout",
    "embedding",
    "l1_loss",
    "linear",
    "log_softmax",
    "mse_loss",
    "relu",
    "sigmoid",
    "softmax",
    "softplus",
    "tanh",
]


def linear(x: Any, weight: Any, bias: Any = None, trials: int | None = None) -> Any:
    """Return y = x W^T + b.

    Parameters
    ----------
    x
        Shape (..., in_features).
    weight
        Shape (out_features, in_features).
    bias
        Shape (out_features,), or None.
    trials
        K, if all three have a leading axis of K trials (see `nn.stack`).

    Returns
    -------
    Tensor
        Shape (..., out_features).

    Raises
    ------
    ValueError
        If the shapes do not fit.
    TypeError
        If input and weight differ in dtype: a silent conversion would make a float32 network
        compute in float64.
    """
    if x.dtype != weight.dtype:
        raise TypeError(
            f"linear: the input is {x.dtype} and the weight {weight.dtype}; convert the input "
            f"with .astype({str(weight.dtype)!r}) or the module with .astype({str(x.dtype)!r})"
        )
    return linalg.linear(x, weight, bias, trials)


def embedding(
    indices: Any, weight: Any, padding_idx: int | None = None, trials: int | None = None
) -> Any:
    """The rows of `weight` that `indices` names.

    Parameters
    ----------
    indices
        Integers 0, ..., num_embeddings - 1 of any shape (...): a tensor, an array or nested lists.
    weight
        Shape (num_embeddings, embedding_dim).
    padding_idx
        A row that receives no gradient; negative numbers count from the end.
    trials
        K, if indices (K, ...) and weight (K, num_embeddings, embedding_dim) have a leading axis of
        K trials (see `nn.stack`): each looks into its own table.

    Returns
    -------
    Tensor
        Shape (..., embedding_dim).

    Raises
    ------
    TypeError
        If the indices are not integers.
    IndexError
        If one is out of range; it is looked for on the host, since CuPy would wrap it silently.
    ValueError
        If there are trials and the indices are not theirs.
    """
    size = weight.shape[0 if trials is None else 1]
    host = _host_indices(indices)
    if host.dtype.kind not in "iu":
        raise TypeError(f"embedding: indices must be integers, not {host.dtype}")
    if host.size and (host.min() < 0 or host.max() >= size):
        wrong = np.argwhere((host < 0) | (host >= size))[0]
        where_ = tuple(int(i) for i in wrong)
        raise IndexError(
            f"embedding: index {int(host[where_])} at position {where_} is out of range; "
            f"valid are 0, ..., {size - 1}"
        )
    place = _backend_of(weight)
    if trials is None:
        rows = take(weight, _on(place, indices, host), axis=0)
    else:  # all tables in one: a look-up in it costs what it touches, forth and back
        check_trials("embedding", host, trials)
        first = size * np.arange(trials).reshape(-1, *[1] * (host.ndim - 1))
        table = reshape(weight, (trials * size, weight.shape[2]))
        rows = take(table, place.from_host(host + first), axis=0)
    if padding_idx is None:
        return rows
    if not -size <= padding_idx < size:
        raise IndexError(f"padding_idx {padding_idx} is out of range for {size} embeddings")
    padded = place.from_host((host == padding_idx % size)[..., None])
    return where(padded, rows.detach() if isinstance(rows, Tensor) else rows, rows)


def dropout(
    x: Any,
    p: float = 0.5,
    training: bool = True,
    generator: Generator | Sequence[Generator] | None = None,
) -> Any:
    """Zero each element with probability `p` and divide the others by 1 - p, if `training`.

    Parameters
    ----------
    x
        Any shape; the result has the same.
    p
        Probability of a zero, 0 <= p <= 1.
    training
        If false the result is `x` itself.
    generator
        Where the mask is drawn from, on the host; `mt.default_generator()` if None. Several are
        those of a stack's trials, the first axis of `x`: each draws its own trial's mask.

    Raises
    ------
    ValueError
        If `p` is not a probability, or there are not as many trials as generators.
    TypeError
        If `x` is neither a tensor nor an array, or holds no floats.

    Notes
    -----
    Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov 2014, JMLR 15.
    """
    check_probability("p", p)
    place = _backend_of(x)
    if x.dtype.kind != "f":
        raise TypeError(
            f"dropout scales floats by 1 / (1 - p), not {x.dtype}; convert with "
            '.astype("float32") first'
        )
    if not training or p == 0.0:
        return x
    return x * dropout_mask(x.shape, x.dtype, p, place, generator)


def dropout_mask(
    shape: tuple[int, ...],
    dtype: Any,
    p: float,
    place: backend.Backend,
    generator: Generator | Sequence[Generator] | None,
) -> Array:
    """Zeros with probability `p`, else 1 / (1 - p), as a bare array on `place`."""
    if isinstance(generator, Sequence):
        if shape[:1] != (len(generator),):
            raise ValueError(
                f"dropout: {len(generator)} generators draw for as many trials, the first axis; "
                f"got shape {shape}"
            )
        mask = np.stack([each.bernoulli(1.0 - p, shape[1:], dtype) for each in generator])
    else:
        generator = default_generator() if generator is None else generator
        mask = generator.bernoulli(1.0 - p, shape, dtype)
    return place.from_host(mask / mask.dtype.type(1.0 - p) if p < 1.0 else mask)


def check_probability(name: str, p: float) -> None:
    """Refuse what is not a probability."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"{name} is a probability and must lie between 0 and 1, got {p!r}")


def check_trials(name: str, x: Any, trials: int | None) -> None:
    """Refuse activations of a stack whose first axis is not its trials."""
    if trials is not None and x.shape[:1] != (trials,):
        raise ValueError(
            f"{name}: this is a stack of {trials} trials, so the first axis must be {trials} long; "
            f"got shape {x.shape}. What is the same for all trials is repeated with "
            f"mt.broadcast_to(x, ({trials}, *x.shape))"
        )


def _bare(x: Any) -> Any:
    return x.data if isinstance(x, Tensor) else x


def _backend_of(x: Any) -> backend.Backend:
    found = backend.of(_bare(x))
    if found is None:
        raise TypeError(f"expected a tensor or an array, got {type(x).__name__}")
    return found


def _host_indices(indices: Any) -> Any:
    bare = _bare(indices)
    found = backend.of(bare)
    if modes.noting.get() is not None and found is not None:
        if isinstance(bare, np.ndarray):
            raise guards.untold("indices")
        return bare  # in a captured step what is looked for is noted
    return np.asarray(bare if found is None else found.to_host(bare))


def _on(place: backend.Backend, indices: Any, host: np.ndarray) -> Array:
    """The indices on the weight's backend, without a copy if they are there already."""
    bare = _bare(indices)
    return bare if backend.of(bare) is place else place.from_host(host)
