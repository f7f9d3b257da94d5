"""Real-time recurrent learning, and the networks that the paper of 1997 had it train.

Williams and Zipser 1989, "A learning algorithm for continually running fully recurrent neural
networks", Neural Computation 1(2). Units k see the input and one another, without biases, sigma
the logistic function:

    z_t = [y_(t-1); x_t]        net_t = W z_t        y_t = sigma(net_t)        y_0 = 0

Beside its activation each unit carries along how it depends on every weight, as if all steps so
far had used the same weights:

    p^k_ij(t) = dy_k/dw_ij = sigma'(net_k) (sum_l w_kl p^l_ij(t-1) + delta_ki z_j)     p(0) = 0

With the error at a step, E_t, the gradient is there at once, dE_t/dw_ij = sum_k dE_t/dy_k p^k_ij.
Nothing goes back in time, and no step need be remembered; each one costs n^4 for n units.

Two networks of Hochreiter and Schmidhuber 1997, "Long short-term memory", table 1 and table 2:

- `FullyRecurrent`: some of the units are the outputs, (h + o)(i + h + o) weights;
- `Layered`: recurrent hidden units, and output units that see the hidden ones and, if `direct`, the
  input: "each layer sees all layers below".

Both are in a form that `recurrence.fit_online` trains. What it does with update="step" is the same
rule by another way: from every step it goes back through all before it, each with the weights that
it was computed with. With update="sequence" it is back-propagation through time, and so is `RTRL`
with update="sequence". `RTRL` is the algorithm as published; where a compiler is at hand,
`fit_online` is about six times as fast for the network of table 2 with 101 symbols, sixty times for
that of table 1 with 12 hidden units.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

import microtensor as mt
from microtensor.recurrence import Cell, Errors, Sequences
from models.vanishing import logistic


@dataclass(frozen=True, kw_only=True)
class FullyRecurrent:
    """Hidden and output units that all see each other's last activations, and the input.

    Attributes
    ----------
    inputs, hidden, outputs
        Input lines, hidden units, output units; the output units are the last.
    initial
        First weights are uniform in [-initial, initial].
    """

    inputs: int
    hidden: int
    outputs: int
    initial: float = 0.2

    size = 1  # of a block, for fit_online
    cell = logistic
    output = "linear"
    masks: ClassVar[Mapping[str, float]] = {"readout_weight": 0.0}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of one network's weights, by the names of `recurrence.fit_online`."""
        units = self.hidden + self.outputs
        return {
            "weight_ih": (units, self.inputs),
            "weight_hh": (units, units),
            "readout_weight": (self.outputs, units),
        }

    @property
    def count(self) -> int:
        """How many weights are trained: "#weights" of table 1."""
        units = self.hidden + self.outputs
        return units * (self.inputs + units)

    def first_weights(self, generator: mt.Generator, dtype: Any = np.float32) -> dict[str, Any]:
        """First weights as arrays; the readout only picks the output units, and stays as it is."""
        limit = self.initial
        return {
            name: np.eye(*shape, self.hidden, dtype=dtype)
            if name == "readout_weight"
            else generator.uniform(-limit, limit, shape, dtype)
            for name, shape in self.shapes.items()
        }


@dataclass(frozen=True, kw_only=True)
class Layered:
    """Hidden units that see the input and each other's last activations; output units above.

    Attributes
    ----------
    inputs, hidden, outputs
        Input lines, hidden units, output units.
    direct
        Whether the output units see the input, too.
    initial
        First weights are uniform in [-initial, initial].
    """

    inputs: int
    hidden: int
    outputs: int
    direct: bool = True
    initial: float = 0.2

    size = 1
    output = "sigmoid"
    masks: ClassVar[Mapping[str, float]] = {}

    @property
    def cell(self) -> Cell:
        """The hidden units, for `nn.Recurrent` and `recurrence.fit_online`."""
        return logistic

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of one network's weights, by the names of `recurrence.fit_online`."""
        seen = self.hidden + (self.inputs if self.direct else 0)
        return {
            "weight_ih": (self.hidden, self.inputs),
            "weight_hh": (self.hidden, self.hidden),
            "readout_weight": (self.outputs, seen),
        }

    @property
    def count(self) -> int:
        """How many weights there are: "#weights" of table 2."""
        return sum([rows * columns for rows, columns in self.shapes.values()])

    def first_weights(self, generator: mt.Generator, dtype: Any = np.float32) -> dict[str, Any]:
        """First weights as arrays, by the names of `shapes`."""
        limit = self.initial
        return {
            name: generator.uniform(-limit, limit, shape, dtype)
            for name, shape in self.shapes.items()
        }


class Amid(ABC):
    """K networks amid a sequence, and the gradient of what they do at this step.

    Inputs are symbols, which stand for one-hot vectors: a product with one is a column of weights.
    `at` is everywhere which of the networks are meant, (n,) integers, each once. How an error finds
    its way to the weights of the recurrent units is for subclasses to say.

    Parameters
    ----------
    network
        What they are made like, a `FullyRecurrent` or a `Layered`.
    weights
        By the names of its `shapes`, with the axis K in front.

    Attributes
    ----------
    y
        (K, H), the activations of the recurrent units.
    out
        (K, O), the outputs.
    """

    def __init__(
        self, network: FullyRecurrent | Layered, weights: Mapping[str, np.ndarray]
    ) -> None:
        self.network, self.weights = network, dict(weights)
        trials, units, self.inputs = self.weights["weight_ih"].shape
        dtype = self.weights["weight_ih"].dtype
        self.y = np.zeros((trials, units), dtype)
        self.out = np.zeros((trials, network.outputs), dtype)
        self.symbols = np.zeros(trials, int)

    def start(self) -> None:
        """Begin a sequence: all activations are 0, and depend on nothing."""
        self.y[:] = 0

    def step(self, symbols: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Read a symbol (n,) each; returns the outputs (n, O)."""
        before, units = self.y[at], self.y.shape[1]
        net = (self.weights["weight_hh"][at] @ before[..., None])[..., 0]
        y = mt.sigmoid(net + self.weights["weight_ih"][at, :, symbols])
        self._carry(before, y, symbols, at)
        readout = self.weights["readout_weight"]
        out = (readout[at, :, :units] @ y[..., None])[..., 0]
        if readout.shape[2] > units:
            out += readout[at, :, units + symbols]
        if self.network.output == "sigmoid":
            out = mt.sigmoid(out)
        self.y[at], self.symbols[at], self.out[at] = y, symbols, out
        return out

    def add_gradient(
        self, into: Mapping[str, np.ndarray], e: np.ndarray, at: np.ndarray, factor: Any
    ) -> None:
        """Add `factor` (n,) times the gradient of 1/2 |e|^2 to arrays shaped as the weights.

        e : (n, O), the outputs of the last step, less their targets.
        """
        units, out = self.y.shape[1], self.out[at]
        delta = e * (out * (1 - out)) if self.network.output == "sigmoid" else e
        delta = delta * factor[:, None]
        readout = self.weights["readout_weight"][at, :, :units]
        self._add_recurrent(into, (delta[:, None] @ readout)[:, 0], at)
        if "readout_weight" in self.network.masks:
            return
        into["readout_weight"][at, :, :units] += delta[..., None] * self.y[at][:, None]
        if self.weights["readout_weight"].shape[2] > units:
            into["readout_weight"][at, :, units + self.symbols[at]] += delta

    @abstractmethod
    def _carry(
        self, before: np.ndarray, y: np.ndarray, symbols: np.ndarray, at: np.ndarray
    ) -> None:
        """Note a step: activations (n, H) before and after it, and what was read."""

    @abstractmethod
    def _add_recurrent(
        self, into: Mapping[str, np.ndarray], error: np.ndarray, at: np.ndarray
    ) -> None:
        """Add to `weight_hh` and `weight_ih` what an error (n, H) at y makes of them."""


class Traced(Amid):
    """Networks that carry p along: p (K, H, H, H + I), each unit by every weight of every unit."""

    def __init__(
        self, network: FullyRecurrent | Layered, weights: Mapping[str, np.ndarray]
    ) -> None:
        super().__init__(network, weights)
        trials, units = self.y.shape
        self.p = np.zeros((trials, units, units, units + self.inputs), self.y.dtype)

    def start(self) -> None:
        """Begin a sequence."""
        super().start()
        self.p[:] = 0

    def _carry(
        self, before: np.ndarray, y: np.ndarray, symbols: np.ndarray, at: np.ndarray
    ) -> None:
        n, units = y.shape
        own = np.arange(units)
        p = self.weights["weight_hh"][at] @ self.p[at].reshape(n, units, -1)
        p = p.reshape(n, units, units, -1)
        p[:, own, own, :units] += before[:, None]
        p[np.arange(n)[:, None], own, own, units + symbols[:, None]] += 1
        self.p[at] = p * (y * (1 - y))[..., None, None]

    def _add_recurrent(
        self, into: Mapping[str, np.ndarray], error: np.ndarray, at: np.ndarray
    ) -> None:
        n, units = error.shape
        d = (error[:, None] @ self.p[at].reshape(n, units, -1)).reshape(n, units, -1)
        into["weight_hh"][at] += d[..., :units]
        into["weight_ih"][at] += d[..., units:]


class OneByOne(Iterator[Any]):
    """K trials trained online, each on one sequence of symbols after another; chunk by chunk.

    Parameters
    ----------
    weights
        By name, with the axis K in front; trained in place.
    data
        Chunks: `recurrence.Sequences` of symbols (K, N, T), with a class (K, N, T) as the target of
        every step, and lengths (K, N) or None.
    lr
        Learning rate of all trials, or K of them.

    Attributes
    ----------
    lr
        (K,): the learning rates, to be changed between two chunks. Where it is 0 nothing is learnt.

    Raises
    ------
    ValueError
        If the weights have not all the same K; when its turn comes, if a chunk is of another form.
    """

    def __init__(
        self,
        weights: Mapping[str, np.ndarray],
        data: Iterable[Sequences],
        lr: float | np.ndarray,
    ) -> None:
        self.weights = dict(weights)
        lengths = {name: len(array) for name, array in self.weights.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(
                f"all weights need the same axis K of trials in front; its length is {lengths}"
            )
        trials = next(iter(lengths.values()))
        self.lr = np.array(np.broadcast_to(np.asarray(lr, np.float64), (trials,)))
        self._data = iter(data)

    def __next__(self) -> Any:
        """Train on the next chunk."""
        arrays = _checked(next(self._data), len(self.lr))
        sequences = zip(*[np.moveaxis(array, 1, 0) for array in arrays], strict=True)
        found = [self._sequence(*one) for one in sequences]
        return self._result(*[np.stack(values, 1) for values in zip(*found, strict=True)])

    @abstractmethod
    def _sequence(self, symbols: np.ndarray, classes: np.ndarray, lengths: np.ndarray) -> Any:
        """Train on one sequence of each trial, (K, T) and (K,); returns arrays (K,)."""

    def _result(self, *arrays: np.ndarray) -> Any:
        """Arrays (K, N) of what `_sequence` returned, together."""
        return Errors(*arrays)


def _checked(chunk: Sequences, trials: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Symbols (K, N, T), classes (K, N, T) and lengths (K, N) of a chunk, or why it is none."""
    symbols, classes, lengths, mask = Sequences(*map(_array, chunk))
    if mask is not None or not all(
        array.ndim == 3 and array.dtype.kind in "iu" and len(array) in (1, trials)
        for array in (symbols, classes)
    ):
        raise ValueError(
            f"a chunk must be symbols (K = {trials}, N, T) with a class (K, N, T) for every step, "
            f"without a mask; got inputs {symbols.shape} of {symbols.dtype}, targets "
            f"{classes.shape} of {classes.dtype}"
        )
    shape = (trials, *symbols.shape[1:])
    lengths = np.full(shape[:2], shape[2]) if lengths is None else lengths
    return (
        np.broadcast_to(symbols, shape),
        np.broadcast_to(classes, shape),
        np.broadcast_to(lengths, shape[:2]),
    )


def _array(array: Any) -> Any:
    return None if array is None else np.asarray(array)


class RTRL(OneByOne):
    """Train K networks online by real-time recurrent learning; yields `Errors`.

    Parameters
    ----------
    network
        What they are made like.
    weights, data, lr
        See `OneByOne`; the weights by the names of the network's `shapes`.
    update
        "step": after every step, as published. "sequence": the sum, after every sequence.

    Raises
    ------
    ValueError
        If `update` is neither.
    """

    def __init__(
        self,
        network: FullyRecurrent | Layered,
        weights: Mapping[str, np.ndarray],
        data: Iterable[Sequences],
        lr: float | np.ndarray,
        *,
        update: Literal["step", "sequence"] = "step",
    ) -> None:
        if update not in ("step", "sequence"):
            raise ValueError(f"update must be 'step' or 'sequence', got {update!r}")
        super().__init__(weights, data, lr)
        self.update = update
        self.networks = Traced(network, weights)
        self._sum = {name: np.zeros_like(array) for name, array in self.weights.items()}

    def _sequence(
        self, symbols: np.ndarray, classes: np.ndarray, lengths: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Train on one sequence each, (K, T); returns its loss and its largest error, (K,)."""
        rates = self.lr.astype(self.networks.y.dtype)
        loss, worst = np.zeros_like(rates), np.zeros_like(rates)
        self.networks.start()
        for t in range(lengths.max()):
            at = np.flatnonzero(t < lengths)
            e = self.networks.step(symbols[at, t], at)
            e[np.arange(len(at)), classes[at, t]] -= 1
            loss[at] += 0.5 * (e * e).sum(1)
            worst[at] = np.maximum(worst[at], np.abs(e).max(1))
            if self.update == "step":
                self.networks.add_gradient(self.weights, e, at, -rates[at])
            else:
                self.networks.add_gradient(self._sum, e, at, -rates[at])
        if self.update == "sequence":
            for name, total in self._sum.items():
                self.weights[name] += total
                total[:] = 0
        return loss, worst
