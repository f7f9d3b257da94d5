"""The adding problem: two marked numbers of a long sequence, to be summed at its end.

Experiment 4 of the 1997 paper, which document 004 retells: with the paper's own network and
learning rule, at T = 100, 500 and 1000 (table 7); and with today's cells in its place, at T = 50:
RNN, LSTM with a forget gate, GRU, peephole LSTM, in minibatches by Adam, and a cell of the reader's
own,

    python -m tasks run adding --cell my_cells.py:leaky

set beside the committed results of the library's cells (`tasks/baselines/adding.json`).

The data, and how the paper's text is read for them, are in `tasks/pairs.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import microtensor as mt
from microtensor import nn
from models.adding import Adding
from models.lstm1997 import Network, Squashing
from tasks import baselines, pairs, papers_table, plots, readers_cell
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
    check_named_once,
    judged,
    mean_of,
    median_of,
    success_rate,
    within,
)
from tasks.online import EXAM, WINDOW, Modern, Problem, Stage, all_right, fit, fit_modern
from tasks.pairs import RIGHT, Sequences, chance_of_first_pair, check_length
from tasks.papers_table import Line
from tasks.work import Work

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SOLVED = 0.01
"""Solved: the last `WINDOW` sequences right, as they came, with a mean error below this."""
NEARLY = WINDOW // 50
"""At most so many of them wrong: what the literal text comes to."""
LOGGED = 100
"""Updates between two points of the curve; fewer in a short run."""
PAPER = {100: (74_000, 1), 500: (209_000, 0), 1000: (853_000, 1)}
"""Table 7 of the paper: by T, sequences until solved and wrong of `EXAM`, means of 10 trials."""

OPTIMIZERS: dict[str, Any] = {
    "sgd": mt.optim.SGD,
    "adagrad": mt.optim.Adagrad,
    "rmsprop": mt.optim.RMSprop,
    "adam": mt.optim.Adam,
}

CELLS = {"rnn": "RNN", "lstm": "LSTM", "gru": "GRU", "peephole": "peephole LSTM"}
"""What `--cell library` trains."""

TODAY = Modern(hidden_size=32, batch=50)
"""Beside the paper's network at its T of 100; 16 units hardly begin to learn there."""


@dataclass(frozen=True)
class Reading:
    """The paper's network as it is trained for a line of table 7.

    expected : the verdict wants it as good as the paper's.
    nearly : the verdict wants what `NEARLY` says, and it is told when that was reached.
    """

    title: str
    length: int = 100
    output: str = "linear"
    squashing: Squashing = "text"
    learning_rate: float = 0.5
    expected: bool = False
    nearly: bool = False
    note: str = ""

    @property
    def network(self) -> Network:
        """The first biases of the input gates are table 11's, all else is uniform in ±0.1."""
        return pairs.network(self.output, self.squashing, (-3.0, -6.0))


Lines = Literal[
    "100", "100_logistic", "100_table10", "500", "500_logistic", "500_table10", "1000", "modern",
]  # fmt: skip
READINGS = {
    "100": Reading("linear output", expected=True),
    "100_logistic": Reading(
        "logistic output, the literal text",
        output="sigmoid",
        nearly=True,
        note="Targets near 0 and 1 are what a logistic unit comes to by very large weights only.",
    ),
    "100_table10": Reading("ranges of table 10", squashing="table"),
    "500": Reading("linear output", length=500),
    "500_logistic": Reading(
        "logistic output, the literal text",
        length=500,
        output="sigmoid",
        nearly=True,
    ),
    "500_table10": Reading("ranges of table 10", length=500, squashing="table"),
    "1000": Reading("linear output", length=1000),
    "modern": Reading("today's LSTM of 32 units"),
}
"""What `paper` may name."""


@dataclass(frozen=True, kw_only=True)
class AddingSettings(Settings):
    """The paper's network by its own rule, and today's cells in minibatches by Adam."""

    trials: int = 10
    """Independent repetitions; each has its own weights and data."""
    length: int = 50
    """T of today's cells, the least length of a sequence in steps; the longest is T + T/10."""
    cell: str = "all"
    """library (RNN, LSTM, GRU and peephole LSTM side by side), paper (the paper's network), all
    (both), one cell's name, or FILE.py:NAME."""
    paper: tuple[Lines, ...] = tuple([name for name in READINGS if name != "1000"])
    """With paper or all: which lines of table 7, by their T and reading; modern is today's LSTM
    of 32 units at T = 100. 1000 is left out: it takes up to 6 minutes a trial."""
    cap: int = 1_500_000
    """The most sequences of the paper's network at T = 100; a trial that needs more has failed."""
    cap_long: int = 800_000
    """The same at T = 500."""
    cap_longest: int = 2_500_000
    """The same at T = 1000, where the paper's slowest trial needs 2,020,000."""
    cap_modern: int = 300_000
    """The same for today's LSTM at T = 100."""
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
        check_counts(self, "cap", "cap_long", "cap_longest", "cap_modern")
        check_named_once("paper", self.paper)
        check_length(self.length)
        check_learning_rate(self.learning_rate)
        if not 0 <= self.clip < math.inf:
            raise ValueError(f"clip must be a number from 0 up; got {self.clip}")
        if not math.isfinite(self.remember):
            raise ValueError(f"remember must be a number; got {self.remember}")
        if self.cell not in ("all", "library", "paper"):
            readers_cell.check(self.cell, 2, self.hidden_size)


# -- the data ----------------------------------------------------------------------------------


def draw(generator: mt.Generator, count: int, length: int) -> Sequences:
    """Draw sequences by the definition of the paper, T = `length`."""
    return pairs.draw(
        generator,
        count,
        length,
        lowest=-1.0,
        neutral=0.0,
        combine=lambda x: np.float32(0.5) + x.sum(axis=-1) / np.float32(4.0),
    )


def variance(length: int) -> float:
    """The variance of the target, exactly: the mean squared error of always saying the mean.

    A value has variance 1/3, a marked first pair counts as 0, and the two addends have mean zero
    whichever they are: Var = (1/16) (1/3) (2 - P(one of the two is the first pair)).
    """
    return (2.0 - chance_of_first_pair(length)) / 48.0


def share_wrong_of_mean(length: int) -> float:
    """The exact share of sequences for which the mean, 0.5, is not right."""
    s = 4 * RIGHT  # right if |X1 + X2| < s; triangular density, or uniform if one of them is 0
    p = chance_of_first_pair(length)
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
    """The configurations of today's cells to train, by variant name."""
    if settings.cell == "paper":
        return {}
    if not _library(settings):
        chosen = [Column(settings.cell, settings.output)]
    else:
        chosen = [Column(cell, settings.output) for cell in CELLS]
        chosen.append(Column("lstm", "logistic" if settings.output == "linear" else "linear"))
    return {column.name: column for column in chosen}


def _library(settings: AddingSettings) -> bool:
    return settings.cell in ("all", "library")


def train(work: Work) -> list[Trial]:
    """Train a cell of today, one trial, or the paper's network, all trials, until it is solved."""
    if work.variant in lines(work.settings):
        return _train_papers(work)
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
    window = math.ceil(WINDOW / settings.batch)
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
            draw(work.generator("test"), EXAM, settings.length).target.astype("float64").var()
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
    """The absolute errors on `EXAM` new sequences, float64."""
    sequences = draw(generator, EXAM, length)
    found = []
    with mt.no_grad():
        for at in range(0, EXAM, 256):
            part = slice(at, at + 256)
            answer = model(mt.tensor(sequences.x[:, part].copy()), sequences.lengths[part])
            found.append(np.abs(answer.numpy().astype("float64") - sequences.target[part]))
    return np.concatenate(found)


test_errors.__test__ = False  # type: ignore[attr-defined]  # no test, though it is called so


# -- the paper's network ------------------------------------------------------------------------


def lines(settings: AddingSettings) -> dict[str, Line]:
    """Which lines of table 7 are trained, by variant name: when they solve the problem."""
    chosen = settings.paper if settings.cell in ("all", "paper") else ()
    return {f"paper_{name}": _line(name) for name in chosen}


def _line(name: str) -> Line:
    reading = READINGS[name]
    sequences, wrong = PAPER[reading.length]
    return Line(
        f"paper_{name}",
        f"T = {reading.length}, {reading.title}",
        sequences=sequences,
        success=1.0 if reading.expected else None,
        wrong=wrong,
        most_wrong=10,
        note=reading.note,
    )


def _reading(line: Line) -> Reading:
    return READINGS[line.variant.removeprefix("paper_")]


def problem(settings: AddingSettings, name: str) -> Problem:
    """What a line of table 7 trains, and until when."""
    reading = READINGS[name]
    caps = {100: settings.cap, 500: settings.cap_long, 1000: settings.cap_longest}
    cap = settings.cap_modern if name == "modern" else caps[reading.length]
    nearly = [Stage("nearly", all_right(RIGHT, but=NEARLY))] if reading.nearly else []
    return Problem(
        network=reading.network,
        learning_rate=reading.learning_rate,
        cap=cap,
        stages=(*nearly, Stage("solved", all_right(RIGHT, mean=SOLVED))),
        stream=lambda generator: pairs.Stream(draw, reading.length),
        score=pairs.score,
        exam=min(EXAM, cap),
    )


def _train_papers(work: Work) -> list[Trial]:
    name = work.variant.removeprefix("paper_")
    chosen = problem(work.settings, name)
    return fit_modern(work, chosen, TODAY) if name == "modern" else fit(work, chosen)


# -- the comparison ----------------------------------------------------------------------------

_NEARLY = f"At most {NEARLY} of the last {WINDOW} sequences wrong."

_ASIDE = ("trials", *baselines.NAMED_BY_VARIANT)
"""Settings in which a run may differ from a baseline and is still compared without a remark."""


def _baseline(settings: AddingSettings) -> Baseline | None:
    """The committed columns: of cells, not of the paper's network."""
    known = baselines.load("adding", length=settings.length)
    if known is None:
        return None
    cells = {name: c for name, c in known.columns.items() if not name.startswith("paper_")}
    return replace(known, columns=cells)


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
    table = [_data_row(run, next(iter(chosen)))] if chosen else []
    known = _baseline(settings)
    for name, column in chosen.items():
        own = readers_cell.is_file(column.cell) or not _library(settings)
        table += _column_rows(run, name, column, teaches, known if own else None)
    return table + _papers_rows(run)


def _data_row(run: Run, variant: str) -> Row:
    """The drawn targets against the definition: a fault in the data shows here."""
    sets = len(run.of(variant))
    found = float(np.mean(run.values("target_variance", variant)))
    name = "variance of the targets drawn for the tests"
    return _variance_row(name, found, run.settings.length, sets * EXAM, sets)


def _variance_row(
    name: str, found: float, length: int, count: int, trials: int | None = None
) -> Row:
    exact = variance(length)
    # The fourth moment of X1 + X2 is 16/15 where both count and 1/5 where one does, over 4^4.
    p = chance_of_first_pair(length)
    fourth = ((1 - p) * 16 / 15 + p / 5) / 256
    return Row(
        name,
        found,
        target=exact,
        source="computed",
        tolerance=within(exact, 4 * math.sqrt((fourth - exact**2) / count)),
        trials=trials,
        note="(2 - P(a marked pair is the first)) / 48: the error of always saying the mean.",
    )


def _papers_rows(run: Run) -> list[Row]:
    """Weights, data, and every line of table 7."""
    settings: AddingSettings = run.settings
    chosen = lines(settings)
    table = []
    if chosen:
        count = READINGS["100"].network.count
        exact = judged(pairs.WEIGHTS, "paper", within(pairs.WEIGHTS, 0))
        table.append(Row("weights of the paper's network", count, **exact))
    for length in sorted({_reading(line).length for line in chosen.values()}):
        generator = Work(settings, seed=run.seed).generator("data", 0)
        found = draw(generator, 4096, length).target.astype("float64").var()
        title = f"T = {length}: variance of 4096 targets"
        table.append(_variance_row(title, float(found), length, 4096))
    for line in chosen.values():
        judge, reading = run.preset != "quick", _reading(line)
        if reading.nearly:
            success = 1.0 if reading.length == 100 else None
            before = Line(line.variant, line.title, "nearly", success=success, note=_NEARLY)
            table += papers_table.rows(run, before, judge=judge)
            table.append(_row_at_the_end(run, line, judge=judge and success is not None))
        judge = judge and line.success is not None
        cap = problem(settings, line.variant.removeprefix("paper_")).cap
        note = f"{line.note} A trial fails after {cap:,} sequences.".strip()
        table += papers_table.rows(run, line._replace(note=note), judge=judge)
    return table


def _row_at_the_end(run: Run, line: Line, *, judge: bool) -> Row:
    """What all trials come to, those that fail included."""
    assert line.wrong is not None
    return Row(
        f"{line.title}: wrong in the test at the end, mean of all trials",
        **mean_of(run.values("solved_wrong", line.variant)),
        **judged(line.wrong, "paper", at_most(EXAM // 50), when=judge),
        note="The tolerance is 2 % of the sequences." if judge else "",
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
        verdicts["wrong"] = judged(PAPER[100][1], "paper", at_most(3))
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
    mean_wrong = Level("always saying the mean, wrong", EXAM * share_wrong_of_mean(settings.length))
    versions = set(run.values("cell_file", name)) if readers_cell.is_file(column.cell) else set()
    if len(versions) > 1:
        about += f"Trials of {len(versions)} versions of the file are mixed: run it afresh. "
    return [
        Row(
            f"{title}: solved",
            **success_rate(solved),
            **verdicts["solved"],
            levels=committed("solved", np.mean),
            note=f"{about}The last {WINDOW} sequences right as they came, mean error below "
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
                *[
                    Level("the paper's network, one update a sequence", sequences)
                    for length, (sequences, _) in PAPER.items()
                    if length == settings.length
                ],
                *committed("sequences"),
            ),
            note=late.strip(),
        ),
        Row(
            f"{title}: wrong of {EXAM}",
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
    """Table 7, and today's cells side by side."""
    trained = {trial.variant for trial in run.trials}
    parts = [_columns_text(run)] if trained & columns(run.settings).keys() else []
    if trained & {f"paper_{name}" for name in READINGS}:
        parts.append(papers_table.text(run, "Table 7", map(_line, READINGS)))
    return "\n\n".join(parts)


def _columns_text(run: Run) -> str:
    """The columns: what was trained now, then the committed ones that were not."""
    settings: AddingSettings = run.settings
    table = {
        column.title: [trial.values for trial in run.of(name)]
        for name, column in columns(settings).items()
    }
    known = _baseline(settings)
    told: list[str] = []
    if known is not None and not _library(settings):
        for name, held in known.columns.items():
            cell, _, output = name.rpartition("_")
            table[f"{Column(cell, output).title} (committed)"] = list(held.trials)
        other = known.differences(settings.to_dict(), _ASIDE)
        told.append(
            "The committed columns were trained with " + ("; ".join(other) if other else "the same")
            + (" settings." if not other else ".")
        )  # fmt: skip
    elif not _library(settings):
        others = [str(run.settings["length"]) for run in baselines.committed("adding")]
        told.append(
            f"There are no committed columns for T = {settings.length}"
            + (f"; there are for T = {', '.join(others)}." if others else ".")
        )
    cells = [
        ["", *table],
        ["solved"] + [f"{sum(bool(t['solved']) for t in c)} of {len(c)}" for c in table.values()],
    ]
    for words, name in (
        ("sequences, median", "sequences"),
        (f"wrong of {EXAM}, median", "wrong"),
        ("squared error, median", "mse"),
        ("parameters", "parameters"),
    ):
        medians = [float(np.median([t[name] for t in c])) for c in table.values()]
        cells.append(
            [words] + [f"{v:,.0f}" if abs(v) >= 1 or v == 0 else f"{v:.2g}" for v in medians]
        )
    # One configuration a line would be shorter; a column each is what is compared.
    text = papers_table.aligned(cells)
    return "\n".join([f"T = {settings.length}, median of trials", text, *told])


# -- figures -----------------------------------------------------------------------------------


def figures(run: Run) -> Mapping[str, Figure]:
    """Draw learning curves, solved trials, and what the paper's network does at T = 100."""
    drawn = {"solved": _solved_figure(run)}
    if columns(run.settings):
        drawn["learning_curves"] = _curves_figure(run)
    chosen = lines(run.settings)
    if chosen:
        drawn["papers_curves"] = _papers_curves(run)
    if "paper_100" in chosen:
        drawn["running_sum"] = _running_sum(run)
    if {"paper_100", "paper_100_logistic"} <= chosen.keys():
        drawn["answers"] = _answers(run)
    return drawn


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
            plots.filled(values),
            label=column.title,
            color=next(colors),
        )
    known = _baseline(settings)
    if known is not None and not _library(settings):
        seen = known.settings["batch"] / 1000
        for name, held in known.columns.items():
            cell, _, output = name.rpartition("_")
            axes.plot(
                held.steps * seen,
                np.median(plots.filled(held.curves["mse"]), axis=0),
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
        (f"T = {settings.length}, {column.title}", run.values("solved", name), False)
        for name, column in columns(settings).items()
    ]
    bars += [
        (line.title, run.values("solved", name), False) for name, line in lines(settings).items()
    ]
    known = _baseline(settings)
    if known is not None and not _library(settings) and columns(settings):
        for name, held in known.columns.items():
            cell, _, output = name.rpartition("_")
            title = f"T = {settings.length}, {Column(cell, output).title} (committed)"
            bars.append((title, held.values("solved"), True))
    return plots.solved_bars(bars, "The adding problem: trials that solve it")


def _papers_curves(run: Run) -> Figure:
    """The mean error of the last sequences, a panel for each T."""
    chosen = list(lines(run.settings).values())
    lengths = sorted({_reading(line).length for line in chosen})
    figure, panels = plots.new_figure(
        1, len(lengths), width=max(6.0, 4.5 * len(lengths)), height=5.0, sharey=True
    )
    for axes, length in zip(np.atleast_1d(panels), lengths, strict=True):
        own = [line for line in chosen if _reading(line).length == length]
        for line, color in zip(own, plots.PALETTE, strict=False):
            label = line.title.partition(", ")[2]
            plots.errors(axes, run, line.variant, label=label, color=color, per=1000)
        # E|X1 + X2| / 4, where X1 + X2 has a triangular density, or is one uniform number
        p = chance_of_first_pair(length)
        mean = Level("always saying the mean", ((1 - p) * 2 / 3 + p / 2) / 4)
        plots.reference_levels(axes, (mean, Level("criterion", SOLVED)))
        axes.set(title=f"T = {length}", xlabel="sequences seen (thousands)")
        axes.set(xscale="log", yscale="log")
        plots.published(axes, PAPER[length][0] / 1000, "the paper's mean")
        plots.legend_below(axes)
    np.atleast_1d(panels)[0].set_ylabel("mean error of the last 2000 sequences")
    figure.suptitle("The adding problem: the paper's network")
    return figure


def _running_sum(run: Run) -> Figure:
    """What the network would answer at every step of one sequence, before and after learning."""
    net = READINGS["100"].network
    work = Work(run.settings, trials=(0,), seed=run.seed)
    after = {name: np.asarray(value) for name, value in run.of("paper_100")[0].model.items()}
    shown = draw(work.generator("shown"), 1, 100)
    x = shown.x[: int(shown.lengths[0]), 0]
    partial = 0.5 + np.cumsum(np.where(x[:, 1] == 1, x[:, 0], 0)) / 4
    figure, axes = plots.new_figure(3, 2, width=10.0, height=7.0, sharex=True, sharey="row")
    before = net.first_weights(work.generator("weights"))
    for column, (title, weights) in enumerate((("before", before), ("after", after))):
        found = net.module(weights).inside(x)
        axes[0, column].set_title(f"{title} learning")
        axes[0, column].plot(partial, color="0.35", linestyle="--", label="sum so far")
        axes[0, column].plot(found["output"][:, 0], color=plots.PALETTE[0], label="output")
        plots.cells_and_gates(axes[1:, column], found, ("c", "y_i"))
        for row in range(3):
            for place in np.flatnonzero(x[:, 1] == 1):
                axes[row, column].axvline(place, color="0.35", linestyle=":", linewidth=1.2)
        axes[2, column].set_xlabel("step")
    plots.name_rows(axes, ("answer", "cell state", "input gate"))
    figure.suptitle("T = 100, linear output, one sequence; dotted lines: the two marked pairs")
    return figure


def _answers(run: Run) -> Figure:
    """Where the errors are, with a linear and with a logistic output: trial 0."""
    names = {"linear output": "100", "logistic output": "100_logistic"}
    work = Work(run.settings, trials=(0,), seed=run.seed)
    networks = {
        title: (READINGS[name].network, run.of(f"paper_{name}")[0].model)
        for title, name in names.items()
    }
    asked = draw(work.generator("shown answers"), EXAM, 100)
    title = "T = 100: the answers to new sequences at the end of trial 0"
    return pairs.answers_figure(networks, asked, title)


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

        That network is here, with its own learning rule and stop criterion: table 7. One
        reading of the paper stays open. Its text gives the output unit a logistic function,
        whose ends, 0 and 1, infinite weights only would reach, and targets go that far. So
        where the text is taken literally the last few of 2000 sequences stay wrong for more
        than a million sequences; with a linear output, and all else as printed, the network
        solves the problem after about as many as the paper's at T = 100, and at T = 500 not by
        800,000, where the paper's needs 209,000.

        Today's cells are trained on it, too, in minibatches by Adam, at T = 50: a simple
        RNN, which in practice cannot learn so long a dependency (document 002), the LSTM
        with a forget gate, the GRU, the peephole LSTM, and the LSTM with a logistic output.
        All that have a gate which keeps the state start with it open; without that
        (--remember 0) an LSTM of this size forgets half of its state at every step and
        learns nothing in this time.
    """,
    equations="""
        x_t = (value, marker), value uniform in [-1, 1]; length uniform in T … T + T/10
        marker 1 for one of the first ten pairs (X1) and for one of the first T/2 - 1 pairs still
        unmarked (X2); -1 for the first and the last pair; else 0.  A marked first pair: X = 0
        target 0.5 + (X1 + X2) / 4;  right if |error| < 0.04
        solved: the last 2000 sequences right, as they came, with a mean error below 0.01
        always saying the mean: squared error (2 - P) / 48, P = 1/10 + 9/10 / (T/2 - 1)
        the paper's network: 2 blocks of 2 cells, 93 weights, biases everywhere; the input gates'
        first biases -3, -6, all else uniform in ±0.1; one update a sequence, rate 0.5,
        truncated gradient; the criterion is asked every 100 sequences
    """,
    look_for="""
        learning_curves.png: every curve begins at the level of always saying the mean; those of
        cells whose open gate keeps the state leave it early and fall on and on, the RNN's stays
        there. solved.png: how many trials did it.

        papers_curves.png: the same for the paper's network, by the criterion's own measure.
        running_sum.png: what it would answer at every step; after learning the input gate opens
        at the marked pairs, the cells step there, and the answer is the sum so far.
        answers.png: with a logistic output the errors that are left are at the two ends.
        --cell paper trains the paper's network only, --paper says which lines of the table:
        --cell paper --paper 1000 is the longest.

        Your own cell: --cell FILE.py:NAME, where NAME is a recurrence.Cell (@cell) or a
        Module class with step(x, state), built as NAME(input_size, hidden_size). It stands
        beside the committed columns in the printed table, in the rows' reference levels and
        in both figures. Try also --optimizer sgd, --output logistic, --remember 0; and
        the paper's own T by --length 100 --hidden-size 32 --updates 8000 (16 units learn
        nothing at that length in a few thousand updates).
    """,
    settings=AddingSettings,
    presets={
        "quick": AddingSettings(
            trials=1, updates=25, cap=100, cap_long=100, cap_longest=100, cap_modern=100
        ),
        "document": AddingSettings(),
    },
    durations={"quick": "5 s", "document": "8 min"},
    train=train,
    rows=rows,
    levels=levels,
    variants=lambda settings: (*columns(settings), *lines(settings)),
    stack=lambda variant: 10_000 if variant.startswith("paper_") else 1,
    figures=figures,
    printout=printout,
)
