"""Random guessing of weights, which solves two of the tasks of the 1997 paper's experiment 3.

    repeat: draw all weights uniformly from [-100, 100]
    until the network happens to be right on all training sequences

Schmidhuber, Hochreiter and Bengio 2001, "Evaluating benchmark problems by random guessing", in "A
field guide to dynamical recurrent networks"; Hochreiter and Schmidhuber 1996, NIPS 9. It learns
nothing, and where it succeeds the task was easy, whatever else has been said of it. Their networks
have one input line, one output unit and n hidden units, all logistic, 0 at a sequence's start:

    A1  fully connected: all units see the input and the last activations of all units; the hidden
        ones have a bias
    A2  n = 10; a hidden unit sees the input, the output unit and itself; the output unit sees all
        other units; all have a bias
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

import microtensor as mt

Judge = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From outputs (..., N) and targets (N,) to which sequences are right, (..., N) truths."""


def within(limit: float) -> Judge:
    """Right is an output that is less than `limit` off its target."""
    return lambda outputs, targets: np.abs(outputs - targets) < limit


@dataclass(frozen=True, kw_only=True)
class Guessed:
    """A network whose weights are guessed: its units are `hidden` ones, and the output unit last.

    Attributes
    ----------
    hidden
        n.
    sparse
        Whether it is A2, whatever n is; else A1.
    limit
        Weights are uniform in [-limit, limit].
    in_order
        Whether the output unit sees the hidden ones as they are now; else as they were a step ago.
        The parity of a sequence takes two layers of thresholds a step, so two units can tell it in
        order only.
    """

    hidden: int = 1
    sparse: bool = False
    limit: float = 100.0
    in_order: bool = False

    @property
    def connected(self) -> np.ndarray:
        """(H + 1, H + 3) truths: what each unit sees of the units, the input, and 1, its bias."""
        units = self.hidden + 1
        found = np.ones((units, units + 2), bool)
        if self.sparse:
            found[:-1, : self.hidden] = np.eye(self.hidden, dtype=bool)
            found[-1, self.hidden] = False
        else:
            found[-1, -1] = False
        return found

    @property
    def count(self) -> int:
        """How many weights and biases there are."""
        return int(self.connected.sum())

    def guess(self, generator: mt.Generator, guesses: int, dtype: Any = np.float32) -> np.ndarray:
        """Draw weights (G, H + 1, H + 3), 0 where there is no connection."""
        weights = np.zeros((guesses, *self.connected.shape), dtype)
        drawn = generator.uniform(-self.limit, self.limit, (guesses, self.count), dtype)
        weights[:, self.connected] = drawn
        return weights


def run(
    weights: np.ndarray,
    inputs: np.ndarray,
    lengths: np.ndarray | None = None,
    in_order: bool = False,
) -> np.ndarray:
    """The output unit of G networks at the end of N sequences, (G, N).

    Parameters
    ----------
    weights
        (G, H + 1, H + 3), as `Guessed.guess` draws them.
    inputs
        (N, T), one number a step.
    lengths
        (N,): each sequence's number of steps; None: T.
    in_order
        See `Guessed`.
    """
    guesses, units = weights.shape[:2]
    sequences, steps = inputs.shape
    y = np.zeros((guesses, units, sequences), weights.dtype)
    inputs = inputs.astype(weights.dtype)
    recurrent, of_input, bias = weights[..., :units], weights[..., -2, None], weights[..., -1, None]
    for t in range(steps):
        external = of_input * inputs[:, t] + bias
        new = mt.sigmoid(recurrent @ y + external)
        if in_order:
            seen = np.concatenate([new[:, :-1], y[:, -1:]], axis=1)
            new[:, -1:] = mt.sigmoid(recurrent[:, -1:] @ seen + external[:, -1:])
        y = new if lengths is None else np.where(t < lengths, new, y)
    return y[:, -1]


class Found(NamedTuple):
    """What K trials came to.

    guesses : (K,), how many networks were tried, the last one included.
    solved : (K,), whether the last one passed.
    weights : (K, H + 1, H + 3), of the last one.
    """

    guesses: np.ndarray
    solved: np.ndarray
    weights: np.ndarray


def search(
    network: Guessed,
    generators: Sequence[mt.Generator],
    inputs: np.ndarray,
    targets: np.ndarray,
    lengths: np.ndarray | None = None,
    *,
    right: Judge,
    cap: int,
    allowed: int = 0,
    together: int = 1000,
    dtype: Any = np.float32,
) -> Found:
    """Guess until a network is right on N sequences, or `cap` were tried; K times.

    Most guesses are wrong on the first sequences already, so all run on a few, those that may
    still pass on four times as many, and so on. Which one is found does not depend on it.

    Parameters
    ----------
    network
        What is guessed.
    generators
        One for each of the K trials.
    inputs, targets, lengths
        (N, T) numbers, (N,) what the output unit shall be at the end, and (N,) steps or None; all
        trials see them. Put examples of all classes in front.
    right
        Which outputs count as right: `within(0.2)`, or another `Judge`.
    cap
        The most guesses of one trial.
    allowed
        On how many sequences a network may be wrong: where data are noisy, none is always right.
    together
        How many are run at once.
    dtype
        Of weights and activations.

    Raises
    ------
    ValueError
        If the shapes do not fit, or a count is not positive.
    """
    inputs, targets = np.asarray(inputs), np.asarray(targets)
    lengths = None if lengths is None else np.asarray(lengths)
    shapes = [a.shape for a in (targets, lengths) if a is not None]
    if inputs.ndim != 2 or not inputs.size or any(shape != inputs.shape[:1] for shape in shapes):
        raise ValueError(
            f"inputs must be (N, T), targets and lengths (N,); got {inputs.shape} and {shapes}"
        )
    if cap < 1 or together < 1:
        raise ValueError(f"cap and together must be positive, got {cap} and {together}")
    results = []
    for generator in generators:
        tried, good = 0, np.zeros(0, int)
        while tried < cap and not len(good):
            weights = network.guess(generator, min(together, cap - tried), dtype)
            good = _passing(network, weights, inputs, targets, lengths, right, allowed)
            last = good[0] if len(good) else len(weights) - 1
            tried += int(last) + 1
        results.append((tried, len(good) > 0, weights[last]))
    return Found(*[np.array(column) for column in zip(*results, strict=True)])


def _passing(
    network: Guessed,
    weights: np.ndarray,
    inputs: np.ndarray,
    targets: np.ndarray,
    lengths: np.ndarray | None,
    right: Judge,
    allowed: int,
) -> np.ndarray:
    """Which of G networks are wrong on so many sequences at most."""
    good, wrong = np.arange(len(weights)), np.zeros(len(weights), int)
    start, stop = 0, 4
    while len(good) and start < len(inputs):
        part = slice(start, stop)
        own = None if lengths is None else lengths[part]
        steps = inputs.shape[1] if own is None else own.max()
        out = run(weights[good], inputs[part, :steps], own, network.in_order)
        wrong[good] += (~right(out, targets[part])).sum(1)
        good = good[wrong[good] <= allowed]
        start, stop = stop, 4 * stop
    return good
