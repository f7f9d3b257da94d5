"""Experiment 3 of the 1997 paper: what the first steps said, told at the end of a long noise.

A sequence on one input line begins with N steps that say its class, +1 or -1, and goes on with
noise as strong for T steps or more. At its end the network is asked for the class. In 3a the first
steps are clean, in 3b the noise lies on them as well, and in 3c it lies on the targets instead.

The paper remarks that 3a and 3b are so easy that guessing all weights at random solves them faster,
but not 3c. That is put to the test, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np

import microtensor as mt
from models import guessing
from models.lstm1997 import Network, Squashing
from tasks import papers_table, plots, readers_cell
from tasks.harness import (
    Level,
    Row,
    Run,
    Task,
    Trial,
    at_most,
    check_counts,
    check_named_once,
    judged,
    mean_of,
    within,
)
from tasks.online import (
    EXAM,
    Drawn,
    Generators,
    Look,
    ModernSettings,
    Problem,
    Stage,
    count_wrong,
    fit,
    fit_guesses,
    fit_modern,
)
from tasks.papers_table import Line
from tasks.work import Work

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VARIANCE = 0.2
"""Of the noise on the input line."""
TESTED = 256
"""Sequences of the test set that the criteria look at."""
SURE = 5
"""Standard errors that drawn data may be from their definition."""

Entry = Literal[
    "3a_100_3", "3a_100_1", "3b_100_3", "3b_100_1", "3c_100_3", "3c_100_1", "3a_1000_3", "3b_1000_1"
]
ENTRIES: tuple[Entry, ...] = get_args(Entry)
"""The lines of tables 4, 5 and 6: experiment, T, N."""


class Kind(NamedTuple):
    """One of the three experiments.

    noisy : whether there is noise on the steps that say the class.
    targets : of the two classes, +1 and -1.
    target_variance : of the noise on them in training.
    learning_rate : of the paper's network.
    right : an answer is right if its error is smaller.
    but : so many of the test set may be wrong.
    mean : the mean error of the test set must be smaller.
    """

    noisy: bool
    targets: tuple[float, float]
    target_variance: float
    learning_rate: float
    right: float
    but: int
    mean: float


KINDS = {
    "3a": Kind(False, (1.0, 0.0), 0.0, 1.0, 0.2, 0, 0.01),
    "3b": Kind(True, (1.0, 0.0), 0.0, 1.0, 0.2, 5, 0.04),
    "3c": Kind(False, (0.2, 0.8), 0.1, 0.1, 0.1, 0, 0.015),
}

NETWORK = Network(
    inputs=1,
    blocks=3,
    size=1,
    outputs=1,
    biases="hidden",
    input_gate=(-1.0, -3.0, -5.0),
    output_gate=(-2.0, -4.0, -6.0),
)
"""The paper's, of 102 weights."""


@dataclass(frozen=True, kw_only=True)
class TwoSequenceSettings(ModernSettings):
    """The paper's; how often its criteria are looked at is not in it."""

    trials: int = 10
    """Independent repetitions; each has its own weights, data and test set."""
    rows: tuple[Entry, ...] = ENTRIES
    """Which lines of the tables, as EXPERIMENT_T_N; T = 1000 takes longer than all others."""
    others: bool = True
    """At T = 100 also: g and h as in table 10, today's network, guessing, other test sets in 3a."""
    cap: int = 500_000
    """The most sequences of 3a and 3b at T = 100; a trial that needs more has failed."""
    cap_noisy: int = 2_000_000
    """The same for 3c."""
    cap_long: int = 1_000_000
    """The same at T = 1000."""
    cap_modern: int = 100_000
    """The same for today's network."""
    guesses: int = 50_000
    """The most guesses of all weights at random."""
    looks: int = 250
    """Sequences between two looks at the criteria, at T = 100."""
    looks_long: int = 1000
    """The same at T = 1000."""
    tested: int = TESTED
    """Sequences of the test set that the criteria look at."""
    exam: int = EXAM
    """New sequences of the final test."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_named_once("rows", self.rows)
        caps = ("cap", "cap_noisy", "cap_long", "cap_modern", "guesses")
        check_counts(self, *caps, "looks", "looks_long", "tested", "exam")
        most = max([kind.but for kind in KINDS.values()])
        if self.tested <= most:
            raise ValueError(
                f"tested must be more than the {most} that may be wrong; got {self.tested}"
            )
        readers_cell.check(self.cell, 1, self.hidden_size)


# -- the data ----------------------------------------------------------------------------------


class TwoSequence:
    """The data, and the trial's own test set.

    Parameters
    ----------
    kind
        Which experiment.
    length
        T; a sequence has T to T + T/10 steps.
    informative
        N, the first steps, which say the class.
    generator, tested
        Where the test set comes from, and how many sequences it has; there is none without a
        generator.
    anew
        Whether each look has another test set.
    """

    def __init__(
        self,
        kind: Kind,
        length: int,
        informative: int,
        generator: Generators | None = None,
        tested: int = TESTED,
        anew: bool = False,
    ) -> None:
        self.kind, self.length, self.informative = kind, length, informative
        self.test: Drawn | Callable[[int], Drawn] | None = None
        if generator is not None and anew:
            self.test = lambda seen: self.exam(generator("test", seen), tested)
        elif generator is not None:
            self.test = self.exam(generator("test"), tested)

    def draw(self, generator: mt.Generator, count: int) -> Drawn:
        """Draw training sequences: inputs (N, T + T/10, 1), targets (N, 1), lengths (N,)."""
        drawn = self.exam(generator, count)
        if not self.kind.target_variance:
            return drawn
        noise = generator.normal(drawn.targets.shape) * _deviation(self.kind.target_variance)
        return drawn._replace(targets=drawn.targets + noise)

    def exam(self, generator: mt.Generator, count: int) -> Drawn:
        """The same with the targets clean, as what is learnt is judged."""
        longest = self.length + self.length // 10
        lengths = generator.integers(self.length, longest + 1, (count,))
        first = generator.bernoulli(0.5, (count,)) > 0
        x = generator.normal((count, longest)) * _deviation(VARIANCE)
        says = np.where(first, np.float32(1), np.float32(-1))[:, None]
        told = x[:, : self.informative]
        told[:] = told + says if self.kind.noisy else says
        x *= np.arange(longest) < lengths[:, None]
        one, other = self.kind.targets
        targets = np.where(first, np.float32(one), np.float32(other))[:, None]
        return Drawn(x[..., None], targets, lengths)


def turned(informative: int) -> float:
    """The share of 3b's sequences that nobody can tell: the noise turns the first steps' sign."""
    return 0.5 * math.erfc(math.sqrt(informative / VARIANCE / 2))


def _deviation(variance: float) -> np.float32:
    return np.float32(math.sqrt(variance))


# -- training ----------------------------------------------------------------------------------


def parts(variant: str) -> tuple[str, int, int, str]:
    """What a variant's name says: experiment, T, N, and what is not the paper's."""
    kind, length, informative, *other = variant.split("_")
    return kind, int(length), int(informative), "".join(other)


def few_wrong(right: float, but: int, mean: float = math.inf) -> Callable[[Look], bool]:
    """At most `but` of the test set wrong (error not below `right`), their mean error < `mean`."""

    def reached(look: Look) -> bool:
        assert look.test is not None
        errors = look.test.worst
        return bool(np.count_nonzero(~(errors < right)) <= but and errors.mean() < mean)

    return reached


def stages(kind: str) -> tuple[Stage, ...]:
    """ST1 and ST2 of 3a and 3b; 3c has one criterion."""
    k = KINDS[kind]
    last = few_wrong(k.right, k.but, k.mean)
    if kind == "3c":
        return (Stage("solved", last),)
    return (Stage("ST1", few_wrong(k.right, k.but)), Stage("ST2", last))


def problem(settings: TwoSequenceSettings, variant: str) -> Problem:
    """What a variant trains, and until when."""
    name, length, informative, other = parts(variant)
    kind = KINDS[name]
    cap, looks = settings.cap_noisy if name == "3c" else settings.cap, settings.looks
    if length > 100:
        cap, looks = settings.cap_long, settings.looks_long
    squashing: Squashing = "table" if other == "table10" else "text"
    return Problem(
        network=replace(NETWORK, squashing=squashing),
        learning_rate=kind.learning_rate,
        cap=settings.cap_modern if other == "modern" else cap,
        stages=stages(name),
        stream=lambda generator: TwoSequence(
            kind, length, informative, generator, settings.tested, other == "anew"
        ),
        looks=looks,
        score=count_wrong(kind.right),
        exam=settings.exam,
    )


def others(entry: str) -> tuple[str, ...]:
    """What is tried beside a line of T = 100; its name is put behind the line's."""
    always = ("table10", "modern", "guess")
    return ("anew", *always) if entry.startswith("3a") else always


def variants(settings: TwoSequenceSettings) -> Sequence[str]:
    """The chosen lines of the tables, and beside those of T = 100 what else is tried."""
    found = []
    for entry in settings.rows:
        found.append(entry)
        if settings.others and parts(entry)[1] == 100:
            found += [f"{entry}_{other}" for other in others(entry)]
    return tuple(found)


def train(work: Work) -> list[Trial]:
    """Train all trials of a variant until each has met the criteria, or has failed."""
    settings: TwoSequenceSettings = work.settings
    chosen = problem(settings, work.variant)
    if work.variant.endswith("guess"):
        kind = KINDS[parts(work.variant)[0]]
        network = guessing.Guessed(hidden=1)
        return fit_guesses(work, chosen, network, kind.right, settings.guesses, kind.but)
    if work.variant.endswith("modern"):
        return fit_modern(work, chosen, settings.modern)
    return fit(work, chosen)


# -- the comparison ----------------------------------------------------------------------------

PAPER: Mapping[str, tuple[tuple[str, float], ...]] = {
    "3a_100_3": (("ST1", 27_380), ("ST2", 39_850)),
    "3a_100_1": (("ST1", 58_370), ("ST2", 64_330)),
    "3a_1000_3": (("ST1", 446_850), ("ST2", 452_460)),
    "3b_100_3": (("ST1", 41_740), ("ST2", 43_250)),
    "3b_100_1": (("ST1", 74_950), ("ST2", 78_430)),
    "3b_1000_1": (("ST1", 481_060), ("ST2", 485_080)),
    "3c_100_3": (("solved", 269_650),),
    "3c_100_1": (("solved", 565_640),),
}
"""Tables 4 to 6: mean number of sequences until each criterion, of 10 trials."""

WRONG = {
    "3a_100_3": 0.000195,
    "3a_100_1": 0.000117,
    "3a_1000_3": 0.000078,
    "3b_100_3": 0.00828,
    "3b_100_1": 0.01500,
    "3b_1000_1": 0.01207,
    "3c_100_3": 0.00558,
    "3c_100_1": 0.00441,
}
"""The share of 2560 new sequences that is wrong after the last of them."""

MOST_WRONG = {"3a": 0.003, "3b": 0.04, "3c": 0.02}
"""The share that passes here."""
DIFFERENCE = {"3c_100_3": 0.014, "3c_100_1": 0.012}
"""Table 6: the mean error, against the targets without noise; here 0.02 passes."""
FACTORS = {"3a": 2.0, "3b": 2.0, "3c": 4.0}
"""So many times the paper's mean number of sequences passes."""


def title(variant: str, cell: str = "lstm") -> str:
    """A variant in words."""
    kind, length, informative, other = parts(variant)
    aside = {
        "anew": ", test set anew at every look",
        "table10": ", ranges of table 10",
        "modern": f", today's network ({cell})",
        "guess": ", random guesses",
    }
    return f"{kind}, T = {length}, N = {informative}{aside.get(other, '')}"


def fewest(trials: int) -> int:
    """So many of ours must succeed, if the paper's ten did: fewer differ by Fisher's exact test.

    With f failures among ours and none among ten, they all fall into ours by chance with
    probability C(trials, f) / C(trials + 10, f), which must not be below 5 %. One at least must.
    """
    failures = 0
    while math.comb(trials, failures + 1) >= 0.05 * math.comb(trials + 10, failures + 1):
        failures += 1
    return max(1, trials - failures)


def lines(settings: TwoSequenceSettings) -> list[Line]:
    """The tables' lines that were chosen, and beside each what else was tried."""
    found = []
    for variant in variants(settings):
        kind, length, informative, other = parts(variant)
        entry = f"{kind}_{length}_{informative}"
        last = stages(kind)[-1].name
        for stage, sequences in PAPER[entry][-1:] if other == "guess" else PAPER[entry]:
            line = Line(
                variant,
                title(variant, readers_cell.title(settings.cell)),
                stage,
                sequences=sequences,
                factor=FACTORS[kind],
            )
            if stage == last:
                line = line._replace(wrong=WRONG[entry] * EXAM, most_wrong=MOST_WRONG[kind] * EXAM)
            if not other:
                trials = settings.trials
                line = line._replace(success=1.0, least=fewest(trials) / trials)
            elif other == "guess":
                line = line._replace(
                    success=float(kind != "3c"),
                    factor=1.0,
                    wrong=None,
                    note=f"At most {settings.guesses:,} networks of two logistic units.",
                    unit="guesses",
                )
            found.append(line)
    return found


def rows(run: Run) -> list[Row]:
    """The weight count, the data, then of each line how many trials succeed, how soon, how well."""
    settings: TwoSequenceSettings = run.settings
    made = [
        Row(
            "weights of the paper's network",
            NETWORK.count,
            **judged(102, "paper", within(102, 0)),
        ),
        *_data_rows(run),
    ]
    for line in lines(settings):
        kind, length, informative, other = parts(line.variant)
        looks = settings.looks if length == 100 else settings.looks_long
        judge = run.preset != "quick" and settings.exam == EXAM and line.success is not None
        told = papers_table.rows(run, line, judge=judge)
        if kind == "3b":
            level = Level("sequences whose sign the noise turns", EXAM * turned(informative))
            told = [
                replace(row, levels=(*row.levels, level)) if "wrong in" in row.name else row
                for row in told
            ]
        if line.stage == "ST1":  # on the way; how many succeed, and how well, is told of ST2
            told = [row for row in told if "sequences until" in row.name]
        elif not other:
            told[0] = replace(
                told[0],
                note=f"At most {problem(settings, line.variant).cap:,} sequences; the criteria "
                f"were looked at every {looks:,}. The paper's means are of ten trials; fewer than "
                f"{fewest(settings.trials)} of {settings.trials} would differ from ten of ten "
                "(Fisher's exact test, 5 %).",
            )
        made += told
        if kind == "3c":
            known = DIFFERENCE[f"{kind}_{length}_{informative}"]
            off = papers_table.results(run, line, "mean_error")
            made.append(
                Row(
                    f"{line.title}: error in the test, against the targets without noise, mean",
                    **mean_of(off or run.values("solved_mean_error", line.variant)),
                    **judged(known, "paper", at_most(0.02), when=judge and not other),
                    levels=(Level("the paper", known),) if other or not judge else (),
                )
            )
    return made


def _data_rows(run: Run) -> list[Row]:
    """The drawn data against their definition."""
    made = []
    for name in dict.fromkeys(parts(entry)[0] for entry in run.settings.rows):
        kind, count, informative = KINDS[name], 4096, 3
        work = Work(run.settings, seed=run.seed)
        drawn = TwoSequence(kind, 100, informative).draw(work.generator("data", 0), count)
        clean = TwoSequence(kind, 100, informative).exam(work.generator("data", 0), count)
        x, lengths = drawn.inputs[..., 0], drawn.lengths
        assert lengths is not None
        one, _ = kind.targets
        first = np.isclose(clean.targets[:, 0], one)
        off = x[:, :informative] - np.where(first, 1.0, -1.0)[:, None]
        rest = x[:, informative:][np.arange(informative, x.shape[1]) < lengths[:, None]]
        noise = (drawn.targets - clean.targets).astype(np.float64)
        for what, found, exact, error in (
            ("share of class +1", first.mean(), 0.5, 0.5 / math.sqrt(count)),
            ("mean length", lengths.mean(), 105.0, math.sqrt(10.0 / count)),
            *(
                (what, (some.astype(np.float64) ** 2).mean(), v, v * math.sqrt(2 / some.size))
                for what, some, v in (
                    ("variance of the first N steps about +1 or -1", off, VARIANCE * kind.noisy),
                    ("variance of the other steps", rest, VARIANCE),
                    ("variance of the targets' noise", noise, kind.target_variance),
                )
            ),
        ):
            made.append(
                Row(
                    f"{name}: {what}, {count} sequences",
                    float(found),
                    **judged(exact, "paper", within(exact, SURE * error)),
                )
            )
    return made


def printout(run: Run) -> str:
    """Tables 4, 5 and 6: the paper, and ours."""
    tables = []
    for number, kind in zip((4, 5, 6), KINDS, strict=True):
        chosen = [line for line in lines(run.settings) if parts(line.variant)[0] == kind]
        if chosen:
            tables.append(papers_table.text(run, f"Table {number}", chosen))
    if run.settings.others:
        tables.append(
            "Of random guesses the paper says that they solve 3a and 3b, but not 3c, faster than "
            "its network,\nwhose numbers of sequences stand beside them here."
        )
    return "\n\n".join(tables)


# -- figures -----------------------------------------------------------------------------------


def figures(run: Run) -> Mapping[str, Figure]:
    """Draw learning curves, when each trial met its criterion, and the inside of a network."""
    return {
        "learning_curves": _curves(run),
        "sequences": _sequences(run),
        "solved": _solved(run),
        "inside": _inside(run),
    }


def _curves(run: Run) -> Figure:
    chosen = variants(run.settings)
    kinds = [kind for kind in KINDS if any(parts(v)[0] == kind for v in chosen)]
    width = 1.2 + 4.2 * len(kinds)
    figure, axes = plots.new_figure(1, len(kinds), width=width, height=5.4, squeeze=False)
    for place, kind in zip(axes.flat, kinds, strict=True):
        for variant in chosen:
            own, length, informative, other = parts(variant)
            if own != kind or other not in ("", "modern"):
                continue
            plots.errors(
                place,
                run,
                variant,
                label=f"T = {length}, N = {informative}" + (", today's" if other else ""),
                color=plots.PALETTE[{(100, 3): 0, (100, 1): 1}.get((length, informative), 2)],
                style="--" if other else "-",
            )
        place.set(title=f"Experiment {kind}", xlabel="sequences seen", xscale="log", ylim=(0, None))
        if kind == "3c":
            least = math.sqrt(2 * KINDS[kind].target_variance / math.pi)
            level = Level("the noise of the targets alone", least)
            plots.reference_levels(place, (level,), side="left")
        plots.legend_below(place)
    axes[0, 0].set_ylabel("error, mean of the last 2000 sequences")
    return figure


def _last(run: Run) -> list[Line]:
    """The lines of each variant's last criterion."""
    return [line for line in lines(run.settings) if line.stage != "ST1"]


def _sequences(run: Run) -> Figure:
    """Each trial as a dot, beside the paper's mean."""
    last = _last(run)
    figure, axes = plots.new_figure(width=9.0, height=1.8 + 0.36 * len(last))
    for place, line in enumerate(last):
        found = papers_table.reached(run, line)
        color = plots.PALETTE[0] if line.variant in run.settings.rows else plots.PALETTE[5]
        axes.plot(found, [place] * len(found), "o", color=color, markersize=5, alpha=0.5)
        if found:
            axes.plot(np.mean(found), place, "D", color=color, markersize=8, mec="black")
        if line.sequences and not line.variant.endswith("guess"):
            axes.plot(line.sequences, place, "|", color=plots.PALETTE[1], markersize=16, mew=3)
    axes.set_yticks(range(len(last)), [line.title for line in last])
    axes.set_ylim(len(last) - 0.4, -0.6)
    axes.set(
        title="Sequences until the last criterion (dark: the paper's network)",
        xlabel="sequences, or guesses\n"
        "dots: trials that succeed; diamond: their mean; bar: the paper's mean",
        xscale="log",
    )
    return figure


def _solved(run: Run) -> Figure:
    last = _last(run)
    figure, axes = plots.new_figure(width=9.0, height=1.6 + 0.36 * len(last))
    plots.draw_solved(
        axes,
        [
            (x.title, run.values(x.stage, x.variant), x.variant not in run.settings.rows)
            for x in last
        ],
    )
    axes.set(
        title="Two sequences: trials that meet the last criterion",
        xlabel="share of trials (line: 95 % interval of Wilson; dark: the paper's network)",
    )
    return figure


def _inside(run: Run) -> Figure:
    """Cells and gates over two sequences that differ in their first steps only: trial 0."""
    entry = run.settings.rows[0]
    name, length, informative, _ = parts(entry)
    weights = {key: np.asarray(value) for key, value in run.of(entry)[0].model.items()}
    work = Work(run.settings, trials=(0,), seed=run.seed)
    drawn = TwoSequence(KINDS[name], length, informative).exam(work.generator("shown"), 1)
    assert drawn.lengths is not None
    x = drawn.inputs[0, : int(drawn.lengths[0])]
    sign = np.sign(x[:informative].mean())
    figure, axes = plots.new_figure(5, 2, width=10.0, height=9.0, sharex=True, sharey="row")
    for column, says in enumerate((1, -1)):
        shown = x.copy()
        shown[:informative] *= says * sign
        found = NETWORK.module(weights).inside(shown)
        axes[0, column].plot(shown[:, 0], color="0.3", linewidth=1.0)
        axes[0, column].set_title(f"first {informative} steps say {says:+d}")
        plots.cells_and_gates(axes[1:4, column], found, ("y_i", "y_o", "c"))
        axes[4, column].plot(found["output"][:, 0], color="black", linewidth=1.4)
        axes[4, column].plot(
            len(shown) - 1, KINDS[name].targets[column], "o", color=plots.PALETTE[1], label="target"
        )
        axes[4, column].set(xlabel="step", ylim=(-0.05, 1.05))
    plots.name_rows(axes, ("input", "input gate", "output gate", "cell state", "output"))
    figure.suptitle(f"{title(entry)}, trial 0 after learning: the same noise after both beginnings")
    return figure


TASK = Task(
    name="two_sequence",
    documents=("004",),
    title="what did the first steps say, before a hundred, or a thousand, steps of noise?",
    claim="""
        Experiment 3 of the 1997 paper, which document 004 leaves out: noise and signal on
        one and the same input line. The first N steps say the class, +1 or -1; then comes
        noise of variance 0.2 to the end, a hundred (T = 100) or a thousand steps, and the
        network must say what the class was. 3a: the first steps are clean. 3b: the noise is
        on them, too; with N = 1 that turns the sign in 1.3 of 100 sequences, and no network
        can tell these. 3c: the steps are clean, but the targets, 0.2 and 0.8, have a noise of
        variance 0.1, standard deviation 0.32; the network must learn the mean of what it is
        told.

        The paper's tables are means of ten trials, from 27,380 (3a) to 565,640 (3c) sequences
        until the criteria are met. At T = 100, and in 3a at T = 1000, the literal text is
        enough to reproduce them: no reading has to be chosen. In 3b at T = 1000 no trial
        succeeds by a million sequences. The paper itself remarks that 3a and 3b are solved
        faster by guessing all weights at random, without any learning, but not 3c: the rows
        "random guesses", each guess a network of two logistic units with weights from -100 to
        100.

        Not every trial succeeds here. In 3a some networks are left with a few of 2560
        sequences wrong and so saturated that they learn no more; if one of these is among
        the trial's 256 test sequences, the criterion is never met. Whether the test set
        stays the same the paper does not say; the rows "test set anew at every look" take
        another one each time. And with so large a rate, 1.0, a single sequence can throw a
        network that has nearly learnt the task out of it.
    """,
    equations="""
        length uniform in T … T + T/10;  x_t = ±1 for t <= N, else noise of mean 0, variance 0.2
        3b: the noise also on the first N;  target at the last step only
        3a, 3b: target 1 (class +1) or 0;  rate 1.0;  wrong: |error| > 0.2 in a test set of 256
        ST1: none wrong (3b: fewer than 6);  ST2: and mean error of that set < 0.01 (3b: 0.04)
        3c: target 0.2 or 0.8, + noise of variance 0.1 in training;  rate 0.1;  wrong: > 0.1 from
        the target without noise;  solved: none of 256 wrong, mean error < 0.015
        network: 3 blocks of 1 cell, 102 weights; cells and gates have a bias, the output has none;
        first biases of input gates -1, -3, -5, of output gates -2, -4, -6, all else uniform in ±0.1
        one update a sequence, truncated gradient
    """,
    look_for="""
        inside.png: two sequences with the same noise that differ in the first steps only. In
        trial 0 of 3a, N = 3, a cell is not loaded once and then shut off. The first steps give
        its state a push up or down, and its own output, fed back, drives it on the same way,
        through an input gate so nearly closed that the noise cannot turn it round. The drift
        of states, against which the paper sets negative biases, is put to use.

        sequences.png: each trial's number of sequences beside the paper's mean. The paper
        does not say how often it looked at its criteria; here it is every 250 sequences, and
        every 1000 at T = 1000 (--looks, --looks-long).

        learning_curves.png, 3c: the error cannot fall below what the noise of the targets
        makes, and starts little above it; so little is what there is to learn from.
    """,
    settings=TwoSequenceSettings,
    presets={
        "quick": TwoSequenceSettings(
            trials=1,
            cap=20,
            cap_noisy=20,
            cap_long=4,
            cap_modern=20,
            guesses=100,
            looks=10,
            looks_long=4,
            tested=8,
            exam=8,
        ),
        "document": TwoSequenceSettings(),
    },
    durations={"quick": "5 s", "document": "1 h"},
    stack=10_000,
    train=train,
    rows=rows,
    variants=variants,
    figures=figures,
    printout=printout,
)
