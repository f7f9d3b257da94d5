"""The adding problem: two marked numbers of a long sequence, to be summed at its end.

Experiment 4 of the 1997 paper, which document 004 retells, with today's cells in place of the
paper's network: RNN, LSTM with a forget gate, GRU, peephole LSTM, in minibatches by Adam; and with
a cell of the reader's own,

    python -m tasks run adding --cell my_cells.py:leaky

set beside the committed results of the library's cells (`tasks/baselines/adding.json`).

Two points are open in the paper's text. "One of the first T/2 - 1 still unmarked pairs" is read
word for word: of the pairs not yet marked, in order, the first T/2 - 1. Then no marked pair is
later than pair T/2, which gives exactly the minimal time lags that the paper's table prints (T/2
steps). And what holds for the first draw, that a marked first pair keeps its marker -1 and counts
as X = 0, holds for the second as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import microtensor as mt
from microtensor import nn
from models.adding import Adding
from tasks import baselines, plots, readers_cell
from tasks.baselines import Baseline
from tasks.harness import (
    Level,
    Row,
    Run,
    Settings,
    Task,
    Trial,
    at_least,
    at_most,
    check_counts,
    check_learning_rate,
    judged,
    median_of,
    success_rate,
    within,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tasks.work import Work

FIRST = 10
"""The first marked pair is one of so many."""
RIGHT = 0.04
"""An answer is right if its error is smaller."""
RECENT = 2000
"""Solved: so many sequences in a row right, as they came, with a mean error below `SOLVED`."""
SOLVED = 0.01
TEST = 2560
"""Sequences of the final test."""
LOGGED = 100
"""Updates between two points of the curve; fewer in a short run."""
PAPER = {"sequences": 74_000, "wrong": 1}
"""Table 7 of the paper, T = 100: one update a sequence, no forget gate, mean of 10 trials."""

OPTIMIZERS: dict[str, Any] = {
    "sgd": mt.optim.SGD,
    "adagrad": mt.optim.Adagrad,
    "rmsprop": mt.optim.RMSprop,
    "adam": mt.optim.Adam,
}

CELLS = {"rnn": "RNN", "lstm": "LSTM", "gru": "GRU", "peephole": "peephole LSTM"}
"""What `--cell library` trains."""


@dataclass(frozen=True, kw_only=True)
class AddingSettings(Settings):
    """The data are the paper's; the cells, the minibatches and Adam are today's."""

    trials: int = 10
    """Independent repetitions; each has its own weights and data."""
    length: int = 50
    """T, the least length of a sequence in steps; the longest is T + T/10."""
    cell: str = "library"
    """library (RNN, LSTM, GRU and peephole LSTM side by side), one cell's name, or FILE.py:NAME."""
    output: Literal["linear", "logistic"] = "linear"
    """The output unit; `library` also trains an LSTM with the other one."""
    optimizer: Literal["sgd", "adagrad", "rmsprop", "adam"] = "adam"
    """What updates the weights."""
    learning_rate: float = 0.01
    """Its step size."""
    hidden_size: int = 16
    """Units of the cell."""
    batch: int = 32
    """Sequences an update."""
    updates: int = 2000
    """The most updates; a trial stops when the problem is solved."""
    remember: float = 4.0
    """Start of the bias of the gate that keeps the state (LSTM's f, GRU's z); 0: as drawn."""
    clip: float = 1.0
    """Longest gradient, as a norm over all weights; 0: not clipped."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "hidden_size", "batch", "updates")
        check_length(self.length)
        check_learning_rate(self.learning_rate)
        if not 0 <= self.clip < math.inf:
            raise ValueError(f"clip must be a number from 0 up; got {self.clip}")
        if not math.isfinite(self.remember):
            raise ValueError(f"remember must be a number; got {self.remember}")
        if self.cell != "library":
            readers_cell.check(self.cell, 2, self.hidden_size)


def check_length(length: int) -> None:
    """Refuse a T in whose first half the two draws would not fit: below 2 · FIRST."""
    if length < 2 * FIRST:
        raise ValueError(f"length must be at least {2 * FIRST} steps; got {length}")


# -- the data ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sequences:
    """B sequences, padded behind their ends.

    x : (T + T/10, B, 2), float32: value and marker; zeros behind a sequence's end.
    lengths : (B,), the number of steps of each.
    target : (B,), float32.
    marked : (B, 2), the two marked pairs, counted from 0; a first pair (0) counts as X = 0.
    """

    x: np.ndarray
    lengths: np.ndarray
    target: np.ndarray
    marked: np.ndarray


def draw(generator: mt.Generator, count: int, length: int) -> Sequences:
    """Draw sequences by the definition of the paper, T = `length`."""
    longest = length + length // 10
    lengths = generator.integers(length, longest + 1, (count,))
    values = generator.uniform(-1.0, 1.0, (longest, count))
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
    addends = np.where(marked == 0, np.float32(0.0), values[marked, each[:, None]])
    target = np.float32(0.5) + addends.sum(axis=-1) / np.float32(4.0)
    return Sequences(x, lengths, target, marked)


def variance(length: int) -> float:
    """The variance of the target, exactly: the mean squared error of always saying the mean.

    A value has variance 1/3, a marked first pair counts as 0, and the two addends have mean zero
    whichever they are: Var = (1/16) (1/3) (2 - P(one of the two is the first pair)).
    """
    return (2.0 - _chance_of_first_pair(length)) / 48.0


def _chance_of_first_pair(length: int) -> float:
    return 1 / FIRST + (1 - 1 / FIRST) / (length // 2 - 1)


def share_wrong_of_mean(length: int) -> float:
    """The exact share of sequences for which the mean, 0.5, is not right."""
    s = 4 * RIGHT  # right if |X1 + X2| < s; triangular density, or uniform if one of them is 0
    p = _chance_of_first_pair(length)
    return (1 - p) * (2 - s) ** 2 / 4 + p * (1 - s)


def levels(settings: AddingSettings) -> Sequence[Level]:
    """What a network reaches that has learnt nothing but the mean."""
    return (Level("always saying the mean", variance(settings.length)),)


# -- training ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """One configuration that is trained: a column of the table."""

    cell: str
    output: str

    @property
    def name(self) -> str:
        """The variant's name in files: `lstm_linear`."""
        return f"{self.cell.rpartition(':')[2]}_{self.output}"

    @property
    def title(self) -> str:
        """The configuration in words."""
        cell = CELLS.get(self.cell, self.cell)
        if readers_cell.is_file(self.cell):
            cell = f"{Path(self.cell).name}"
        return cell if self.output == "linear" else f"{cell}, logistic output"


def columns(settings: AddingSettings) -> dict[str, Column]:
    """The configurations to train, by variant name."""
    if settings.cell != "library":
        chosen = [Column(settings.cell, settings.output)]
    else:
        chosen = [Column(cell, settings.output) for cell in CELLS]
        chosen.append(Column("lstm", "logistic" if settings.output == "linear" else "linear"))
    return {column.name: column for column in chosen}


def train(work: Work) -> list[Trial]:
    """Train one trial until it has solved the problem, at most `updates` times."""
    column = columns(work.settings)[work.variant]
    with readers_cell.blaming(column.cell):
        return [_train(work, column)]


def _train(work: Work, column: Column) -> Trial:
    settings: AddingSettings = work.settings
    [number] = work.trials
    generator = work.generator("weights")
    layer, width = readers_cell.build(
        column.cell, 2, settings.hidden_size, generator=generator, remember=settings.remember
    )
    logistic = column.output == "logistic"
    model = Adding(layer, width, logistic=logistic, generator=generator)
    optimizer = OPTIMIZERS[settings.optimizer](model.parameters(), lr=settings.learning_rate)
    window = math.ceil(RECENT / settings.batch)
    every = max(1, min(LOGGED, settings.updates // 5))
    # Errors of the last sequences as they came, before the update that they caused.
    kept: dict[str, Any] = {
        "errors": np.full((window, settings.batch), np.inf),
        "squares": 0.0,
        "solved": False,
        "updates": 0,
    }
    for update in work.steps(settings.updates, model=model, optimizer=optimizer, kept=kept):
        if kept["solved"]:
            break
        batch = draw(work.generator("data", update), settings.batch, settings.length)
        error = model(mt.tensor(batch.x), batch.lengths) - mt.tensor(batch.target)
        loss = (error * error).mean()
        optimizer.zero_grad()
        loss.backward()
        if settings.clip:
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        kept["errors"][update % window] = np.abs(error.detach().numpy())
        kept["squares"] += loss.item()
        kept["updates"] = update + 1
        if (update + 1) % every == 0:
            work.log(update + 1, mse=kept["squares"] / every)
            kept["squares"] = 0.0
        kept["solved"] = is_solved(kept["errors"])
        if kept["solved"] or not math.isfinite(loss.item()):
            break
    errors = test_errors(model, work.generator("test"), settings.length)
    values: dict[str, float | int | bool | str] = {
        "solved": kept["solved"],
        "sequences": kept["updates"] * settings.batch,
        "wrong": int((~(errors < RIGHT)).sum()),
        "mean_error": float(errors.mean()),
        "mse": float((errors * errors).mean()),
        "target_variance": float(
            draw(work.generator("test"), TEST, settings.length).target.astype("float64").var()
        ),
        "parameters": sum(parameter.size for parameter in model.parameters()),
    }
    if readers_cell.is_file(column.cell):
        values["cell_file"] = readers_cell.version(column.cell)
    return Trial(number, values, model.state_dict())


def is_solved(errors: np.ndarray) -> bool:
    """The paper's rule, on the absolute errors of the last sequences (inf where none came yet)."""
    return bool((errors < RIGHT).all() and errors.mean() < SOLVED)


def test_errors(model: Adding, generator: mt.Generator, length: int) -> np.ndarray:
    """The absolute errors on `TEST` new sequences, float64."""
    sequences = draw(generator, TEST, length)
    found = []
    with mt.no_grad():
        for at in range(0, TEST, 256):
            part = slice(at, at + 256)
            answer = model(mt.tensor(sequences.x[:, part].copy()), sequences.lengths[part])
            found.append(np.abs(answer.numpy().astype("float64") - sequences.target[part]))
    return np.concatenate(found)


test_errors.__test__ = False  # type: ignore[attr-defined]  # no test, though it is called so


# -- the comparison ----------------------------------------------------------------------------

_ASIDE = ("trials", "cell", "output")
"""Settings in which a run may differ from a baseline and is still compared without a remark."""


def _baseline(settings: AddingSettings) -> Baseline | None:
    return baselines.load("adding", length=settings.length)


def rows(run: Run) -> list[Row]:
    """How often, how soon and how well each column solves it."""
    settings: AddingSettings = run.settings
    documented = AddingSettings()
    teaches = run.preset != "quick" and all(
        getattr(settings, name) == getattr(documented, name)
        for name in settings.names()
        if name not in _ASIDE
    )
    chosen = columns(settings)
    table = [_data_row(run, next(iter(chosen)))]
    known = _baseline(settings)
    for name, column in chosen.items():
        own = readers_cell.is_file(column.cell) or settings.cell != "library"
        table += _column_rows(run, name, column, teaches, known if own else None)
    return table


def _data_row(run: Run, variant: str) -> Row:
    """The drawn targets against the definition: a fault in the data shows here."""
    length, sets = run.settings.length, len(run.of(variant))
    exact = variance(length)
    # The fourth moment of X1 + X2 is 16/15 where both count and 1/5 where one does, over 4^4.
    p = _chance_of_first_pair(length)
    fourth = ((1 - p) * 16 / 15 + p / 5) / 256
    margin = 4 * math.sqrt((fourth - exact**2) / (TEST * sets))
    return Row(
        "variance of the targets drawn for the tests",
        float(np.mean(run.values("target_variance", variant))),
        target=exact,
        source="computed",
        tolerance=within(exact, margin),
        trials=sets,
        note="(2 - P(a marked pair is the first)) / 48: the error of always saying the mean.",
    )


def _column_rows(
    run: Run, name: str, column: Column, teaches: bool, known: Baseline | None
) -> list[Row]:
    settings: AddingSettings = run.settings
    title, whole = column.title, settings.updates * settings.batch
    solved = run.values("solved", name)
    verdicts: dict[str, dict[str, Any]] = {"solved": {}, "wrong": {}}
    if teaches and (column.cell, column.output) == ("lstm", "linear"):
        verdicts["solved"] = judged(1.0, "paper", at_least(0.9))
        verdicts["wrong"] = judged(PAPER["wrong"], "paper", at_most(3))
    if teaches and column.cell == "rnn":
        verdicts["solved"] = judged(0.0, "document", at_most(0.1))

    def committed(result: str, pick: Any = np.median) -> tuple[Level, ...]:
        if known is None:
            return ()
        return tuple(
            Level(f"committed: {other.replace('_', ', ')} output", float(pick(c.values(result))))
            for other, c in known.columns.items()
        )

    unsolved = solved.count(False)
    late = f"{unsolved} unsolved, counted with the whole budget of {whole:,}. " if unsolved else ""
    about = ""
    if known is not None:
        other = known.differences(settings.to_dict(), _ASIDE)
        about = f"The committed runs had {', '.join(other)}. " if other else ""
    mean_wrong = Level("always saying the mean, wrong", TEST * share_wrong_of_mean(settings.length))
    versions = set(run.values("cell_file", name)) if readers_cell.is_file(column.cell) else set()
    if len(versions) > 1:
        about += f"Trials of {len(versions)} versions of the file are mixed: run it afresh. "
    return [
        Row(
            f"{title}: solved",
            **success_rate(solved),
            **verdicts["solved"],
            levels=committed("solved", np.mean),
            note=f"{about}The last {RECENT} sequences right as they came, mean error below "
            f"{SOLVED}: the paper's rule.",
        ),
        Row(
            f"{title}: sequences until solved",
            **median_of(
                [
                    seen if done else whole
                    for seen, done in zip(run.values("sequences", name), solved, strict=True)
                ]
            ),
            levels=(
                *(
                    (Level("the paper's network, one update a sequence", PAPER["sequences"]),)
                    if settings.length == 100
                    else ()
                ),
                *committed("sequences"),
            ),
            note=late.strip(),
        ),
        Row(
            f"{title}: wrong of {TEST}",
            **median_of(run.values("wrong", name)),
            **verdicts["wrong"],
            levels=(mean_wrong, *committed("wrong")),
            note="The paper's network, at T = 100: 1, in no trial more than 3."
            if verdicts["wrong"]
            else "",
        ),
        Row(
            f"{title}: mean squared error on the test",
            **median_of(run.values("mse", name)),
            levels=(*levels(settings), *committed("mse")),
        ),
        Row(f"{title}: parameters", run.values("parameters", name)[0]),
    ]


def printout(run: Run) -> str:
    """The columns side by side: what was trained now, then the committed ones that were not."""
    settings: AddingSettings = run.settings
    table = {
        column.title: [trial.values for trial in run.of(name)]
        for name, column in columns(settings).items()
    }
    known = _baseline(settings)
    told: list[str] = []
    if known is not None and settings.cell != "library":
        for name, held in known.columns.items():
            cell, _, output = name.rpartition("_")
            table[f"{Column(cell, output).title} (committed)"] = list(held.trials)
        other = known.differences(settings.to_dict(), _ASIDE)
        told.append(
            "The committed columns were trained with " + ("; ".join(other) if other else "the same")
            + (" settings." if not other else ".")
        )  # fmt: skip
    elif settings.cell != "library":
        others = [str(run.settings["length"]) for run in baselines.committed("adding")]
        told.append(
            f"There are no committed columns for T = {settings.length}"
            + (f"; there are for T = {', '.join(others)}." if others else ".")
        )
    lines = [
        ["", *table],
        ["solved"] + [f"{sum(bool(t['solved']) for t in c)} of {len(c)}" for c in table.values()],
    ]
    for words, name in (
        ("sequences, median", "sequences"),
        (f"wrong of {TEST}, median", "wrong"),
        ("squared error, median", "mse"),
        ("parameters", "parameters"),
    ):
        cells = [float(np.median([t[name] for t in c])) for c in table.values()]
        lines.append(
            [words] + [f"{v:,.0f}" if abs(v) >= 1 or v == 0 else f"{v:.2g}" for v in cells]
        )
    # One configuration a line would be shorter; a column each is what is compared.
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([f"T = {settings.length}, median of trials", *text, *told])


# -- figures -----------------------------------------------------------------------------------


def figures(run: Run) -> Mapping[str, Figure]:
    """Draw the learning curves, and how many trials were solved."""
    return {"learning_curves": _curves_figure(run), "solved": _solved_figure(run)}


def filled(values: np.ndarray) -> np.ndarray:
    """Each trial's last number carried on to the end: a solved trial stays where it stopped."""
    out = values.copy()
    for line in out:
        known = np.flatnonzero(~np.isnan(line))
        if known.size:
            line[known[-1] + 1 :] = line[known[-1]]
    return out


def _curves_figure(run: Run) -> Figure:
    settings: AddingSettings = run.settings
    figure, axes = plots.new_figure(height=5.0)
    colors = iter(plots.PALETTE)
    drawn = False
    for name, column in columns(settings).items():
        steps, values = run.curve("mse", name)
        if not len(steps):
            continue
        drawn = True
        plots.curves(
            axes,
            steps * settings.batch / 1000,
            filled(values),
            label=column.title,
            color=next(colors),
        )
    known = _baseline(settings)
    if known is not None and settings.cell != "library":
        seen = known.settings["batch"] / 1000
        for name, held in known.columns.items():
            cell, _, output = name.rpartition("_")
            axes.plot(
                held.steps * seen,
                np.median(filled(held.curves["mse"]), axis=0),
                "--",
                color=next(colors),
                linewidth=1.3,
                label=f"{Column(cell, output).title} (committed, median)",
            )
    if drawn:
        axes.set_yscale("log")
    plots.reference_levels(axes, levels(settings))
    axes.set(
        title=f"The adding problem, T = {settings.length}",
        xlabel="sequences seen (thousands)",
        ylabel="mean squared error in training",
    )
    axes.margins(x=0.01)
    axes.set_xlim(left=0)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(
            *axes.get_legend_handles_labels(),
            loc="outside lower center",
            ncols=2,
            frameon=False,
            fontsize=9,
        )
    return figure


def _solved_figure(run: Run) -> Figure:
    settings: AddingSettings = run.settings
    bars = [
        (column.title, run.values("solved", name), False)
        for name, column in columns(settings).items()
    ]
    known = _baseline(settings)
    if known is not None and settings.cell != "library":
        for name, held in known.columns.items():
            cell, _, output = name.rpartition("_")
            title = f"{Column(cell, output).title} (committed)"
            bars.append((title, held.values("solved"), True))
    return solved_bars(bars, f"The adding problem, T = {settings.length}: trials that solve it")


def solved_bars(bars: Sequence[tuple[str, Sequence[bool], bool]], title: str) -> Figure:
    """A bar and Wilson's interval for each (name, verdicts of its trials, whether to draw pale)."""
    figure, axes = plots.new_figure(height=1.6 + 0.5 * len(bars))
    draw_solved(axes, bars)
    axes.set(title=title, xlabel="share of trials (line: 95 % interval of Wilson)")
    return figure


def draw_solved(axes: Any, bars: Sequence[tuple[str, Sequence[bool], bool]]) -> None:
    """The bars of `solved_bars`, from the top down."""
    for place, (_, solved, pale) in enumerate(bars):
        rate = success_rate(solved)
        color = plots.PALETTE[5] if pale else plots.PALETTE[0]
        axes.barh(place, rate["value"], color=color, height=0.6)
        axes.plot(rate["spread"], [place, place], color="0.25", linewidth=1.5)
        axes.annotate(f"{rate['solved']} of {rate['trials']}", (1.02, place), va="center")
    axes.set_yticks(range(len(bars)), [name for name, _, _ in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, 1.28)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.grid(axis="y", visible=False)


TASK = Task(
    name="adding",
    documents=("004", "002"),
    title="the adding problem: which cell keeps two numbers over fifty steps? Or your own cell",
    claim="""
        Every step brings a value and a marker; two values are marked, and at the end of at
        least T steps the network is asked for their sum. Nothing but keeping two real
        numbers, undisturbed by all the others, for at least T/2 steps solves it. Experiment
        4 of the 1997 paper, in which its LSTM needs 74,000 sequences at T = 100; document
        004 passes over it in a line, and writes discrete where the paper says *distributed*
        representation of continuous values.

        Here today's cells are trained on it, in minibatches by Adam, at T = 50: a simple
        RNN, which in practice cannot learn so long a dependency (document 002), the LSTM
        with a forget gate, the GRU, the peephole LSTM. (The 1997 network itself, without a
        forget gate and by its own learning rule, is not among them.) All that have a gate
        which keeps the state start with it open; without that (--remember 0) an LSTM of
        this size forgets half of its state at every step and learns nothing in this time.

        One reading of the paper stays open. Its text gives the output unit a logistic
        function, whose ends the targets, up to 0 and 1, can be reached by infinite weights
        only. So the LSTM is trained with a linear and with a logistic output, a row each.
    """,
    equations="""
        x_t = (value, marker), value uniform in [-1, 1]; length uniform in T … T + T/10
        marker 1 for one of the first ten pairs (X1) and for one of the first T/2 - 1 pairs still
        unmarked (X2); -1 for the first and the last pair; else 0.  A marked first pair: X = 0
        target 0.5 + (X1 + X2) / 4;  right if |error| < 0.04
        solved: the last 2000 sequences right, as they came, with a mean error below 0.01
        always saying the mean: squared error (2 - P) / 48, P = 1/10 + 9/10 / (T/2 - 1)
    """,
    look_for="""
        learning_curves.png: every curve begins at the level of always saying the mean; those of
        cells whose open gate keeps the state leave it early and fall on and on, the RNN's stays
        there. solved.png: how many trials did it.

        Your own cell: --cell FILE.py:NAME, where NAME is a recurrence.Cell (@cell) or a
        Module class with step(x, state), built as NAME(input_size, hidden_size). It stands
        beside the committed columns in the printed table, in the rows' reference levels and
        in both figures. Try also --optimizer sgd, --output logistic, --remember 0; and
        the paper's own T by --length 100 --hidden-size 32 --updates 8000 (16 units learn
        nothing at that length in a few thousand updates).
    """,
    settings=AddingSettings,
    presets={
        "quick": AddingSettings(trials=1, updates=25),
        "document": AddingSettings(),
    },
    durations={"quick": "5 s", "document": "8 min"},
    train=train,
    rows=rows,
    levels=levels,
    variants=lambda settings: tuple(columns(settings)),
    figures=figures,
    printout=printout,
)
