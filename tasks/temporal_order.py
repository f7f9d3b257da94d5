"""Experiment 6 of the 1997 paper: in which order did the marked symbols come?

A sequence of 100 to 110 symbols begins with E and ends with B; between them stand random symbols
a to d and, far apart, two (6a) or three (6b) symbols X or Y. At its end the network is asked for
their order: one class of four, or of eight.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

import microtensor as mt
from models.lstm1997 import Network, Squashing
from tasks import papers_table, plots, readers_cell
from tasks.harness import (
    Level,
    Row,
    Run,
    Task,
    Trial,
    check_counts,
    judged,
    within,
)
from tasks.online import (
    EXAM,
    Drawn,
    ModernSettings,
    Problem,
    Stage,
    all_right,
    count_wrong,
    fit,
    fit_modern,
)
from tasks.papers_table import Line
from tasks.work import Work

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SYMBOLS = "abcdXYEB"
"""The order of a one-hot code: distractors, what counts, beginning, end."""
SHORTEST, LONGEST = 100, 110
PLACES = {"6a": ((10, 20), (50, 60)), "6b": ((10, 20), (33, 43), (66, 76))}
"""Where X or Y stands, first and last place: the beginning is place 0."""
RIGHT = 0.3
"""An answer is right if the error of every output is smaller."""
MEAN = 0.1
"""Solved: the last 2000 sequences right, as they came, with a mean error below this."""


@dataclass(frozen=True, kw_only=True)
class TemporalOrderSettings(ModernSettings):
    """The paper's networks and rates; its 6b has 10 trials."""

    trials: int = 20
    """Independent repetitions; each has its own weights and data."""
    cap: int = 3_000_000
    """The most sequences of the paper's networks; a trial that needs more has failed."""
    cap_modern: int = 200_000
    """The same for today's network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "cap", "cap_modern")
        readers_cell.check(self.cell, len(SYMBOLS), self.hidden_size)


class TemporalOrder:
    """The data: sequences, and which of the classes each belongs to.

    Parameters
    ----------
    places
        First and last place of each X or Y.
    """

    def __init__(self, places: Sequence[tuple[int, int]]) -> None:
        self.places = places

    def draw(self, generator: mt.Generator, count: int) -> Drawn:
        """Draw sequences (N, 110) as symbols, classes (N,), and lengths (N,).

        The class is the order read as a binary number, X = 0 and Y = 1: of XX, XY, YX, YY the paper
        calls them Q, R, S, U.
        """
        lengths = generator.integers(SHORTEST, LONGEST + 1, (count,))
        x = generator.integers(0, SYMBOLS.index("X"), (count, LONGEST))
        each, classes = np.arange(count), np.zeros(count, np.int64)
        for first, last in self.places:
            which = generator.integers(0, 2, (count,))
            x[each, generator.integers(first, last + 1, (count,))] = SYMBOLS.index("X") + which
            classes = 2 * classes + which
        x[:, 0] = SYMBOLS.index("E")
        x[each, lengths - 1] = SYMBOLS.index("B")
        return Drawn(x, classes, lengths)


# -- training ----------------------------------------------------------------------------------

LINES = {
    "6a": Line("6a", "6a", sequences=31_390, success=1.0, wrong=1, most_wrong=5),
    "6b": Line("6b", "6b", sequences=571_100, factor=4.0, success=1.0, wrong=2, most_wrong=5),
}
"""Table 9; its networks classify all sequences of the test but one to three rightly."""

READINGS: dict[str, Squashing] = {"": "text", "_table10": "table"}
"""Which ranges g and h have: see models/lstm1997.py."""


def network(task: str, squashing: Squashing = "text") -> Network:
    """The paper's network: 156 weights for 6a, 308 for 6b."""
    blocks = len(PLACES[task])
    return Network(
        inputs=len(SYMBOLS),
        blocks=blocks,
        size=2,
        outputs=2**blocks,
        input_gate=tuple([-2.0 * (block + 1) for block in range(blocks)]),
        squashing=squashing,
    )


def problem(settings: TemporalOrderSettings, variant: str) -> Problem:
    """What a variant trains, and until when."""
    task, _, reading = variant.partition("_")
    squashing: Squashing = "table" if reading == "table10" else "text"
    cap = settings.cap_modern if reading == "modern" else settings.cap
    return Problem(
        network=network(task, squashing),
        learning_rate=0.5 if task == "6a" else 0.1,
        cap=cap,
        looks=min(100, cap),
        exam=min(EXAM, cap),
        stages=(Stage("solved", all_right(RIGHT, mean=MEAN)),),
        stream=lambda generator: TemporalOrder(PLACES[task]),
        score=count_wrong(RIGHT),
    )


def variants(settings: TemporalOrderSettings) -> Sequence[str]:
    """Both tasks: the text's ranges, table 10's, and today's network."""
    return tuple(
        f"{task}{reading}" for task, reading in itertools.product(PLACES, (*READINGS, "_modern"))
    )


def train(work: Work) -> list[Trial]:
    """Train all trials of a variant until each has solved the task, or has failed."""
    settings: TemporalOrderSettings = work.settings
    chosen = problem(settings, work.variant)
    if work.variant.endswith("modern"):
        return fit_modern(work, chosen, settings.modern)
    return fit(work, chosen)


# -- the comparison ----------------------------------------------------------------------------


def lines(settings: TemporalOrderSettings) -> list[Line]:
    """The table's lines, and beside each what else was tried."""
    cell = readers_cell.title(settings.cell)
    found = []
    for task, line in LINES.items():
        found.append(line)
        aside = Line("", "", sequences=line.sequences, wrong=line.wrong)
        other = f"{task}, ranges of table 10"
        found.append(aside._replace(variant=f"{task}_table10", title=other))
        today = f"{task}, today's network ({cell})"
        found.append(aside._replace(variant=f"{task}_modern", title=today))
    return found


def rows(run: Run) -> list[Row]:
    """The weight counts, then every line: how many trials succeed, how soon, and how well."""
    counts = [
        Row(
            f"{task}: weights of the paper's network",
            network(task).count,
            target=target,
            source="paper",
            tolerance=within(target, 0),
        )
        for task, target in (("6a", 156), ("6b", 308))
    ]
    made = [*counts, *_data_rows(run)]
    for line in lines(run.settings):
        judge = run.preset != "quick" and line.success is not None
        made += papers_table.rows(run, line, judge=judge)
    return made


def _data_rows(run: Run) -> list[Row]:
    """The drawn data against their definition."""
    made = []
    for task, places in PLACES.items():
        work = Work(run.settings, seed=run.seed)
        drawn = TemporalOrder(places).draw(work.generator("data", 0), 4096)
        count = 2 ** len(places)
        shares = np.bincount(drawn.targets, minlength=count) / len(drawn.targets)
        made.append(
            Row(
                f"{task}: largest deviation of a class's share from 1/{count}, 4096 sequences",
                float(np.abs(shares - 1 / count).max()),
                **judged(0.0, "computed", within(0.0, 5 * (1 / count / 4096) ** 0.5)),
                note="The tolerance is five standard errors.",
            )
        )
        marked = np.sort(np.nonzero(np.isin(drawn.inputs, (4, 5)))[1].reshape(4096, -1), 1)
        inside = [
            ((marked[:, i] >= first) & (marked[:, i] <= last)).all()
            for i, (first, last) in enumerate(places)
        ]
        made.append(
            Row(
                f"{task}: the marked symbols stand where they may",
                sum(map(int, inside)),
                **judged(len(places), "computed", within(len(places), 0)),
            )
        )
    return made


def printout(run: Run) -> str:
    """Table 9: the paper, and ours."""
    return papers_table.text(run, "Table 9", lines(run.settings))


# -- figures -----------------------------------------------------------------------------------


def figures(run: Run) -> Mapping[str, Figure]:
    """Draw learning curves, solved trials, and what goes on inside a network."""
    drawn = {"learning_curves": _curves(run)}
    bars = [(line.title, run.values("solved", line.variant), False) for line in lines(run.settings)]
    drawn["solved"] = plots.solved_bars(bars, "Temporal order: trials that solve it")
    drawn["inside"] = _inside(run)
    return drawn


def _curves(run: Run) -> Figure:
    figure, both = plots.new_figure(1, 2, width=10.0, height=5.4, sharey=True)
    for axes, task in zip(both, PLACES, strict=True):
        mine = [line for line in lines(run.settings) if line.variant.partition("_")[0] == task]
        for line, color in zip(mine, plots.PALETTE, strict=False):
            label = line.title.partition(", ")[2] or "the paper's network"
            plots.errors(axes, run, line.variant, label=label, color=color, per=1000)
        plots.reference_levels(axes, (Level("criterion", MEAN),))
        axes.set(title=f"Experiment {task}", xlabel="sequences seen (thousands)")
        axes.set_xlim(left=0)
        plots.legend_below(axes)
    both[0].set_ylabel("largest error of an output, mean of the last 2000 sequences")
    return figure


def _inside(run: Run) -> Figure:
    """Cells and gates over one sequence, before and after learning: trial 0 of 6a."""
    net = network("6a")
    work = Work(run.settings, trials=(0,), seed=run.seed)
    before = net.first_weights(work.generator("weights"))
    after = {name: np.asarray(value) for name, value in run.of("6a")[0].model.items()}
    drawn = TemporalOrder(PLACES["6a"]).draw(work.generator("shown"), 1)
    symbols = drawn.inputs[0, : int(drawn.lengths[0])]  # type: ignore[index]
    x = np.eye(len(SYMBOLS), dtype=np.float32)[symbols]
    figure, axes = plots.new_figure(3, 2, width=10.0, height=6.5, sharex=True, sharey="row")
    for column, (title, weights) in enumerate((("before", before), ("after", after))):
        found = net.module(weights).inside(x)
        axes[0, column].set_title(f"{title} learning")
        plots.cells_and_gates(axes[:, column], found, ("c", "y_i", "y_o"))
        for panel in axes[:, column]:
            for place in np.flatnonzero(symbols // 2 == 2):
                panel.axvline(place, color="0.35", linestyle=":", linewidth=1.2)
        axes[2, column].set_xlabel("step")
    plots.name_rows(axes, ("cell state", "input gate", "output gate"))
    order = "".join([SYMBOLS[symbol] for symbol in symbols if symbol // 2 == 2])
    figure.suptitle(f"6a, one sequence; dotted lines: the two marked symbols, {order}")
    return figure


TASK = Task(
    name="temporal_order",
    documents=("004",),
    title="in which order did two or three symbols come, a hundred steps ago?",
    claim="""
        Experiment 6 of the 1997 paper, which document 004 leaves out. Among a hundred random
        symbols two (6a) or three (6b) are X or Y; the rest means nothing. At the end of the
        sequence the network names their order. So it must keep in mind not only what came
        but what came first; and which steps matter it is never told: only the last step has
        a target.

        The paper's network solves both in every trial, after 31,390 sequences in the mean (6a,
        20 trials) and 571,100 (6b, 10 trials), and in the test at most three of 2560 sequences
        are wrong. The literal text is enough to reproduce 6a: no reading has to be chosen. In
        6b it is as fast as the paper's in most trials; some get stuck. Beside it stand the same
        network with the ranges of g and h that the legend of table 10 gives, and what a reader
        of today would try first.
    """,
    equations="""
        E, 98 to 108 symbols, B;  one-hot, order a b c d X Y E B;  target at B only
        6a: X or Y at a place of 10 … 20 and of 50 … 60;  XX, XY, YX, YY are the classes
        6b: … of 10 … 20, of 33 … 43 and of 66 … 76;  eight classes
        network: 2 (6a) or 3 (6b) blocks of 2 cells, 156 or 308 weights, all units but the inputs
        have a bias; input gates' first biases -2, -4 (-6), all else uniform in ±0.1
        one update a sequence, rate 0.5 (6a) or 0.1 (6b), truncated gradient
        right: every output's error below 0.3;  solved: the last 2000 right, mean error below 0.1
        (of each sequence the largest error of an output is meant), asked every 100 sequences
    """,
    look_for="""
        inside.png: before learning nothing stands out. Afterwards the input gate of one block
        opens at the two marked symbols and nowhere else: its cells step to another level
        there and stay, the constant error carousel at work. The gate of the other block
        opens with the first marked symbol and is left open: its cells have begun to count.
        Of two equal symbols the second meets gates that the first has changed, since all
        of that is fed back: that is how order is told.

        learning_curves.png: the error stays on a plateau for a long time and then falls
        within a few thousand sequences, in each trial at another time.
    """,
    settings=TemporalOrderSettings,
    presets={
        "quick": TemporalOrderSettings(trials=1, cap=50, cap_modern=50),
        "document": TemporalOrderSettings(),
    },
    durations={"quick": "5 s", "document": "30 min"},
    stack=10_000,
    train=train,
    rows=rows,
    variants=variants,
    figures=figures,
    printout=printout,
)
