"""Long sequences of pairs, two of which are marked: experiments 4 and 5 of the 1997 paper.

What `adding` and `multiplication` have in common: how a sequence is drawn, the paper's network of
93 weights, what is reported of a test, and the figure that shows where the errors are.

Two points are open in the paper's text. "One of the first T/2 - 1 still unmarked pairs" is read
word for word: of the pairs not yet marked, in order, the first T/2 - 1. Then no marked pair is
later than pair T/2, which gives exactly the minimal time lags that the paper's table prints (T/2
steps). And what holds for the first draw, that a marked first pair keeps its marker -1 and counts
as if it were not there, holds for the second as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import microtensor as mt
from models.lstm1997 import Network, Squashing
from tasks import plots
from tasks.online import Drawn, Tested, count_wrong

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIRST = 10
"""The first marked pair is one of so many."""
RIGHT = 0.04
"""An answer is right if its error is smaller."""
WEIGHTS = 93
"""How many weights the paper's network has: tables 7 and 8."""


def check_length(length: int) -> None:
    """Refuse a T in whose first half the two draws would not fit: below 2 · FIRST."""
    if length < 2 * FIRST:
        raise ValueError(f"length must be at least {2 * FIRST} steps; got {length}")


@dataclass(frozen=True)
class Sequences:
    """B sequences, padded behind their ends.

    x : (T + T/10, B, 2), float32: value and marker; zeros behind a sequence's end.
    lengths : (B,), the number of steps of each.
    target : (B,), float32.
    marked : (B, 2), the two marked pairs, counted from 0; the first pair (0) counts as X = 0 in a
        sum, as X = 1 in a product.
    """

    x: np.ndarray
    lengths: np.ndarray
    target: np.ndarray
    marked: np.ndarray

    def drawn(self) -> Drawn:
        """The same for `tasks.online`: inputs (B, T + T/10, 2), targets (B, 1) at the ends."""
        x = np.ascontiguousarray(self.x.swapaxes(0, 1))
        return Drawn(x, self.target[:, None], self.lengths)


def draw(
    generator: mt.Generator,
    count: int,
    length: int,
    *,
    lowest: float,
    neutral: float,
    combine: Callable[[np.ndarray], np.ndarray],
) -> Sequences:
    """Draw sequences by the definition of the paper.

    Parameters
    ----------
    generator, count, length
        Random numbers, B, and T.
    lowest
        Values are uniform from here to 1.
    neutral
        What a marked first pair counts as.
    combine
        The targets (B,), from X1 and X2 (B, 2).
    """
    longest = length + length // 10
    lengths = generator.integers(length, longest + 1, (count,))
    values = generator.uniform(lowest, 1.0, (longest, count))
    first = generator.integers(0, FIRST, (count,))
    second = generator.integers(0, length // 2 - 1, (count,))
    second = second + (second >= first)  # among those still unmarked, in order
    each = np.arange(count)
    markers = np.zeros_like(values)
    markers[first, each] = markers[second, each] = 1.0
    markers[0] = markers[lengths - 1, each] = -1.0
    inside = np.arange(longest)[:, None] < lengths
    x = np.stack([values, markers], axis=-1) * inside[..., None].astype(values.dtype)
    marked = np.stack([first, second], axis=-1)
    operands = np.where(marked == 0, np.float32(neutral), values[marked, each[:, None]])
    return Sequences(x, lengths, combine(operands), marked)


def chance_of_first_pair(length: int) -> float:
    """How likely it is that one of the two marked pairs is the first."""
    return 1 / FIRST + (1 - 1 / FIRST) / (length // 2 - 1)


@dataclass(frozen=True)
class Stream:
    """A trial's sequences, T = `length`: what an experiment's `draw` makes, in `draws`."""

    draws: Callable[[mt.Generator, int, int], Sequences]
    length: int

    def draw(self, generator: mt.Generator, count: int) -> Drawn:
        """Draw `count` of them."""
        return self.draws(generator, count, self.length).drawn()


def network(
    output: str, squashing: Squashing, input_gate: tuple[float, ...] | None = None
) -> Network:
    """The paper's: two blocks of two cells, biases everywhere, weights from ±0.1."""
    return Network(
        inputs=2,
        blocks=2,
        size=2,
        outputs=1,
        output=output,
        squashing=squashing,
        input_gate=input_gate,
    )


def score(tested: Tested) -> dict[str, float]:
    """Of a test: how many are wrong, and the error's mean, mean square and root mean square."""
    square = float(np.mean(tested.worst.astype("float64") ** 2))
    return count_wrong(RIGHT)(tested) | {"mse": square, "rmse": square**0.5}


# -- where the errors are ----------------------------------------------------------------------


def answers_figure(
    networks: Mapping[str, tuple[Network, Mapping[str, Any]]], asked: Sequences, title: str
) -> Figure:
    """The error of every answer against the target: a panel for each (network, its weights)."""
    figure, panels = plots.new_figure(
        1, len(networks), width=3.3 * len(networks) + 0.6, height=4.0, sharex=True, sharey=True
    )
    for axes, (name, (net, weights)) in zip(np.atleast_1d(panels), networks.items(), strict=True):
        with mt.no_grad(), mt.recurrence.driver("arrays"):
            output, _ = net.module(weights)(mt.tensor(asked.x))
        last = output.numpy()[asked.lengths - 1, np.arange(len(asked.target)), 0]
        error = last - asked.target
        right = np.abs(error) < RIGHT
        for those, color, label in (
            (right, 0, f"right: error below {RIGHT} (dotted)"),
            (~right, 1, "wrong"),
        ):
            axes.plot(
                asked.target[those],
                error[those],
                ".",
                color=plots.PALETTE[color],
                ms=2.5,
                label=label,
            )
        for edge in (-RIGHT, RIGHT):
            axes.axhline(edge, color="0.35", linestyle=":", linewidth=1.2)
        axes.set_title(f"{name}\n{np.count_nonzero(~right)} of {len(right)} wrong", fontsize=9)
        axes.set_xlabel("target")
    first = np.atleast_1d(panels)[0]
    first.set_ylabel("answer - target")
    figure.legend(
        *first.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=2,
        markerscale=3,
        frameon=False,
        fontsize=9,
    )
    figure.suptitle(title)
    return figure
