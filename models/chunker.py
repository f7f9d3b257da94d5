"""The two networks of the chunker, which experiment 2a of the 1997 paper compares with.

Schmidhuber 1992, "Learning complex, extended sequences using the principle of history
compression", Neural Computation 4(2). What can be predicted carries no information. So an
*automatizer* A reads every symbol and learns to predict the next one, and a *chunker* C reads those
symbols only that A did not expect; where much is predictable, C's sequence is short, and what was
long ago for A is C's last step but one. What C makes of it, A learns to have as well: A also
predicts C's state. So its hidden units are told at every step what is worth keeping.

    at every step: a symbol arrives
        if A failed to predict it (at a sequence's start nothing was predicted):
            C is trained to have predicted it, then reads it
        A reads it, and predicts the next symbol and the state of C
        A is trained: what really comes next, what C's state is

Both are networks like those of `models.rtrl`, trained "in an online fashion", that is, with an
update at every step: by real-time recurrent learning, or as in the experiment of 1992 by
back-propagation through the last few steps only. In experiment 2a each has one hidden unit, and A
one more output than C, for C's hidden unit: 10,404 + 102 weights.

Open in both papers: when a prediction has failed. Here, if an output is `threshold` or more from
what it should be; experiment 2a calls a sequence right if none is 0.25 off.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

import microtensor as mt
from microtensor.recurrence import Sequences
from models.rtrl import Amid, Layered, OneByOne, Traced


@dataclass(frozen=True, kw_only=True)
class TwoNets:
    """Automatizer and chunker.

    Attributes
    ----------
    symbols
        How many there are: inputs, and as many outputs that predict.
    hidden
        Hidden units of each.
    direct
        Whether C's output units see its input, too, as A's do ("each layer sees all layers below").
        If so, C can predict from its last input what need not have passed its hidden units,
        and A is told of nothing; if not, they must hold it.
    state
        What A predicts of C: "hidden", as in 1997, or "all", its outputs as well, as in 1992.
    initial
        First weights are uniform in [-initial, initial].
    """

    symbols: int
    hidden: int = 1
    direct: bool = True
    state: Literal["hidden", "all"] = "hidden"
    initial: float = 0.2

    @property
    def automatizer(self) -> Layered:
        """A: its outputs are a prediction of the next symbol, and one of C's state."""
        outputs = self.symbols + self.hidden + (self.symbols if self.state == "all" else 0)
        return Layered(
            inputs=self.symbols, hidden=self.hidden, outputs=outputs, initial=self.initial
        )

    @property
    def chunker(self) -> Layered:
        """C: its outputs are a prediction of what it reads next."""
        return Layered(
            inputs=self.symbols,
            hidden=self.hidden,
            outputs=self.symbols,
            direct=self.direct,
            initial=self.initial,
        )

    @property
    def parts(self) -> tuple[tuple[str, Layered], ...]:
        """Both by name."""
        return ("automatizer", self.automatizer), ("chunker", self.chunker)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all weights of one pair, by "automatizer." or "chunker." and their names there."""
        return {
            f"{part}.{name}": shape
            for part, network in self.parts
            for name, shape in network.shapes.items()
        }

    def first_weights(self, generator: mt.Generator, dtype: Any = np.float32) -> dict[str, Any]:
        """First weights as arrays, by the names of `shapes`."""
        return {
            f"{part}.{name}": array
            for part, network in self.parts
            for name, array in network.first_weights(generator, dtype).items()
        }


class Remembered(Amid):
    """Networks that remember their last steps, for an error to go back through `depth` of them.

    Truncated back-propagation through time at every step, BPTT(h) of Williams and Peng 1990, "An
    efficient gradient-based algorithm for on-line training of recurrent network trajectories",
    Neural Computation 2(4): through the weights as they are now.
    """

    def __init__(self, network: Layered, weights: Mapping[str, np.ndarray], depth: int) -> None:
        super().__init__(network, weights)
        trials, units = self.y.shape
        self.past = np.zeros((trials, depth + 2, units), self.y.dtype)  # the latest first
        self.read = np.zeros((trials, depth + 1), int)

    def start(self) -> None:
        """Begin a sequence."""
        super().start()
        self.past[:] = 0

    def _carry(
        self, before: np.ndarray, y: np.ndarray, symbols: np.ndarray, at: np.ndarray
    ) -> None:
        for memory, now in ((self.past, y), (self.read, symbols)):
            memory[at, 1:] = memory[at, :-1]
            memory[at, 0] = now

    def _add_recurrent(
        self, into: Mapping[str, np.ndarray], error: np.ndarray, at: np.ndarray
    ) -> None:
        w, past, read = self.weights["weight_hh"][at], self.past[at], self.read[at]
        for d in range(read.shape[1]):
            y = past[:, d]  # 0 before the first step, where nothing arrives, then
            error = error * (y * (1 - y))
            into["weight_hh"][at] += error[..., None] * past[:, d + 1, None]
            into["weight_ih"][at, :, read[:, d]] += error
            error = (error[:, None] @ w)[:, 0]


class Predicted(NamedTuple):
    """What K pairs did in a chunk, each step measured before its own update.

    loss : (K, N), of A: half the squared error of each sequence, C's state included.
    worst : (K, N), of A: each sequence's largest error in predicting a symbol.
    unexpected : (K, N): how many symbols of each sequence A failed to predict, the first included.
    """

    loss: np.ndarray
    worst: np.ndarray
    unexpected: np.ndarray


class Chunking(OneByOne):
    """Train K pairs online; yields `Predicted`.

    Parameters
    ----------
    nets
        What they are made like.
    weights, data, lr
        See `OneByOne`: the weights by the names of the nets' `shapes`, as targets the symbols that
        come next.
    threshold
        A symbol was not predicted if an output of A was so far off, or more.
    depth
        Through how many steps an error goes back; None: through all, by real-time recurrent
        learning. (1992: 3 steps, a lag of 20.)

    Raises
    ------
    ValueError
        If `depth` is negative.
    """

    def __init__(
        self,
        nets: TwoNets,
        weights: Mapping[str, np.ndarray],
        data: Iterable[Sequences],
        lr: float | np.ndarray,
        *,
        threshold: float = 0.25,
        depth: int | None = None,
    ) -> None:
        if depth is not None and depth < 0:
            raise ValueError(f"depth must be a number of steps from 0, or None; got {depth}")
        super().__init__(weights, data, lr)
        self.nets, self.threshold = nets, threshold
        found: list[Amid] = []
        for part, network in nets.parts:
            own = {name: weights[f"{part}.{name}"] for name in network.shapes}
            found.append(Traced(network, own) if depth is None else Remembered(network, own, depth))
        self.automatizer, self.chunker = found

    def _result(self, *arrays: np.ndarray) -> Predicted:
        return Predicted(*arrays)

    def _sequence(
        self, symbols: np.ndarray, classes: np.ndarray, lengths: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Train on one sequence each, (K, T)."""
        A, C, trials = self.automatizer, self.chunker, len(lengths)
        rates = self.lr.astype(A.y.dtype)
        loss, worst = np.zeros_like(rates), np.zeros_like(rates)
        unexpected = np.zeros(trials, int)
        state = np.zeros((trials, A.network.outputs - self.nets.symbols), A.y.dtype)
        failed = np.ones(trials, bool)
        A.start()
        C.start()
        for t in range(lengths.max() + 1):
            at = np.flatnonzero(failed & (t <= lengths))
            unexpected[at] += 1
            if t > 0:
                self._train_chunker(at, classes[at, t - 1], rates)
            at = at[t < lengths[at]]
            if len(at):
                out = C.step(symbols[at, t], at)
                seen = [C.y[at], out] if self.nets.state == "all" else [C.y[at]]
                state[at] = np.concatenate(seen, 1)
            at = np.flatnonzero(t < lengths)
            if not len(at):
                break
            e = A.step(symbols[at, t], at)
            e[np.arange(len(at)), classes[at, t]] -= 1
            e[:, self.nets.symbols :] -= state[at]
            far = np.abs(e[:, : self.nets.symbols]).max(1)
            A.add_gradient(A.weights, e, at, -rates[at])
            failed[at] = far >= self.threshold
            loss[at] += 0.5 * (e * e).sum(1)
            worst[at] = np.maximum(worst[at], far)
        return loss, worst, unexpected

    def _train_chunker(self, at: np.ndarray, symbols: np.ndarray, rates: np.ndarray) -> None:
        """Train C, where it has read something, to predict what it is going to read."""
        if not len(at):
            return
        e = self.chunker.out[at]
        e[np.arange(len(at)), symbols] -= 1
        self.chunker.add_gradient(self.chunker.weights, e, at, -rates[at])
