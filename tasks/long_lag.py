"""Experiment 2 of the 1997 paper: a symbol is to be remembered over p or q others.

2a: two sequences, x a_1 … a_(p-1) x and the same with y; the next symbol is to be predicted at
every step, and only the last one cannot be told from the symbol before. 2b: the middle is random,
so nothing is regular but that first and last symbol agree. 2c: the distance is random as well, and
there are as many distracting symbols as steps, or few of them, each of which then comes often.

Three points are open in the paper's text, or wrong, and are settled here as follows.

- 10,000 successive sequences must be right. They are not counted in "success after": the LSTM of 2a
  needs 5,040 in all. In 2c we count what came before 10,000 right ones that came one after another
  in training. In 2a a network's answers to the two sequences decide; they are looked at in the last
  200 presentations.
- In 2a and 2b the memory cell is added when the error has stopped decreasing; by which rule is not
  said. Here: when the mean squared error of 200 sequences is less than 1 % below that of the 200
  before.
- A sequence of 2c has q + 13 symbols in the mean: b, one of x and y, q distractors, 9 more in the
  mean, e, x or y. The paper adds up q + 14. And its set of distractors runs to a_q where a_p must
  be meant, which is something else in the lower half of table 3.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

import microtensor as mt
from models.chunker import Chunking, TwoNets
from models.lstm1997 import Network, Squashing
from models.rtrl import Layered
from tasks import papers_table, plots, readers_cell
from tasks.harness import (
    Level,
    Row,
    Run,
    Task,
    Trial,
    at_least,
    at_most,
    check_counts,
    check_named_once,
    judged,
    mean_of,
    success_rate,
    within,
)
from tasks.online import (
    EXAM,
    WINDOW,
    Drawn,
    Generators,
    Lane,
    Look,
    ModernSettings,
    Problem,
    Stage,
    Tested,
    all_right,
    count_wrong,
    fit,
    fit_modern,
)
from tasks.papers_table import Line
from tasks.work import Work

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RIGHT_2A, RIGHT_2C = 0.25, 0.2
"""An answer is right if the error of every output is smaller."""
LOOKS = 200
"""Sequences whose squared error is compared with that of as many before, to add the cell."""
STOPPED = 0.99
"""The error has stopped decreasing if it is at least so many times what it was."""
TESTED = 1000
"""Sequences of 2b between two tests of the last symbol, on `TEST` sequences."""
TEST = 256
IN_A_ROW = 10_000
"""So many sequences of 2c must be right one after another."""
EARLY = 2000
"""Sequences after which the cell of 2a is looked into."""

Choice = Literal[
    "2a", "2a_start", "2b", "2b_end",
    "rtrl_4_1", "rtrl_4_4", "rtrl_4_10", "rtrl_10", "rtrl", "bptt", "chunker", "chunker_apart",
    "2c_50_50", "2c_100_100", "2c_200_200", "2c_500_500", "2c_1000_1000",
    "2c_1000_500", "2c_1000_200", "2c_1000_100", "2c_1000_50", "sweep", "modern",
]  # fmt: skip
Reading = Literal["literal", "table10", "rate1", "entropy"]


class Conditions(NamedTuple):
    """Of 2c: what the paper leaves open, or may have misprinted."""

    title: str
    squashing: Squashing = "text"
    learning_rate: float = 0.01
    loss: str = "squared_error"


class Rival(NamedTuple):
    """A line of table 2 for another network or learning algorithm, or a reading of it.

    title : in words.
    p : the time lag; None: that of the settings.
    update : after every "step", real-time recurrent learning; after every "sequence",
        back-propagation through time. None: the chunker, by the former.
    learning_rate : of all its weights.
    sequences, success : the paper's; None where no trial succeeds.
    direct : of the chunker's second network, whether its output units see its input.
    """

    title: str
    p: int | None
    update: str | None
    learning_rate: float
    sequences: float | None
    success: float
    direct: bool = True


RIVALS = {
    "rtrl_4_1": Rival("RTRL, p = 4, rate 1", 4, "step", 1.0, 1_043_000, 0.78),
    "rtrl_4_4": Rival("RTRL, p = 4, rate 4", 4, "step", 4.0, 892_000, 0.56),
    "rtrl_4_10": Rival("RTRL, p = 4, rate 10", 4, "step", 10.0, 254_000, 0.22),
    "rtrl_10": Rival("RTRL, p = 10, rate 1", 10, "step", 1.0, None, 0.0),
    "rtrl": Rival("RTRL, p = {}, rate 1", None, "step", 1.0, None, 0.0),
    "bptt": Rival("BPTT, p = {}, rate 1", None, "sequence", 1.0, None, 0.0),
    "chunker": Rival("chunker, p = {}", None, None, 1.0, 32_400, 0.33),
    "chunker_apart": Rival(
        "chunker, p = {}, its second net's outputs do not see the input",
        None, None, 1.0, 32_400, 0.33, direct=False,
    ),
}  # fmt: skip

READINGS = {
    "literal": Conditions("as printed"),
    "table10": Conditions("ranges of table 10", squashing="table"),
    "rate1": Conditions("learning rate 1.0", learning_rate=1.0),
    "entropy": Conditions("cross-entropy", squashing="table", loss="cross_entropy"),
}
TABLE_3 = {
    (50, 50): 30_000,
    (100, 100): 31_000,
    (200, 200): 33_000,
    (500, 500): 38_000,
    (1000, 1000): 49_000,
    (1000, 500): 49_000,
    (1000, 200): 75_000,
    (1000, 100): 135_000,
    (1000, 50): 203_000,
}
"""Sequences until success by (q, p), means of 20 trials."""
RATIOS = (1, 2, 5, 10, 20)
"""q/p in the lower half of table 3, and in our sweep."""


@dataclass(frozen=True, kw_only=True)
class LongLagSettings(ModernSettings):
    """The paper's networks and rates; caps are lower than its 5 million."""

    trials: int = 20
    """Independent repetitions; each has its own weights and data. The paper: 18 in 2a and 2b."""
    rows: tuple[Choice, ...] = (
        "2a", "2a_start", "2b", "2b_end", "2c_50_50", "2c_100_100", "2c_200_200", "sweep",
        "modern", "rtrl_4_1", "rtrl_4_4", "rtrl_4_10", "rtrl_10", "rtrl", "bptt", "chunker",
        "chunker_apart",
    )  # fmt: skip
    """What is trained: 2a with the cell added later, and there from the start; 2b as printed, and
    with a target at the end only; lines of table 3 by q and p; 2c at one q and five q/p; today's
    network on 2a, 2b, and 2c with q = 100; the rivals on 2a, those of p = 4 by their rates."""
    readings: tuple[Reading, ...] = ("literal", "table10", "rate1", "entropy")
    """Of 2c: as printed; table 10's ranges of g and h; a learning rate of 1.0; table 10's
    ranges and the cross-entropy, which leaves out the derivative of the output units."""
    sweep_reading: Reading = "table10"
    """The same of the sweep."""
    p: int = 100
    """Of 2a and 2b: the time lag, and the number of symbols less one."""
    q: int = 200
    """Of the sweep: steps between the symbol and where it may first be asked for."""
    cap: int = 60_000
    """The most sequences of 2a and 2b; a trial that needs more has failed."""
    cap_2c: int = 400_000
    """The same of 2c."""
    cap_modern: int = 40_000
    """The same for today's network."""
    cap_rivals: tuple[int, int, int] = (2_000_000, 500_000, 50_000)
    """The same for RTRL at p = 4, and at p = 10, and for RTRL and BPTT at the p of 2a."""
    cap_chunker: int = 100_000
    """The same for the chunker, of which the paper has means of 32,400."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "cap", "cap_2c", "cap_modern", "cap_chunker")
        if min(self.cap_rivals) < 1:
            raise ValueError(f"cap_rivals must be at least 1 each; got {self.cap_rivals}")
        check_named_once("rows", self.rows)
        check_named_once("readings", self.readings)
        if self.p < 2:
            raise ValueError(f"p must be at least 2, for there to be a middle; got {self.p}")
        for row in ("rtrl_4_1", "rtrl_10"):
            if self.p == RIVALS[row].p and {"rtrl", row} <= set(self.rows):
                raise ValueError(
                    f"with p = {self.p}, rtrl and {row} are the same; name one of them in rows"
                )
        if self.q < max(RATIOS):
            raise ValueError(f"q must be at least {max(RATIOS)}, for q/p = 20; got {self.q}")
        readers_cell.check(self.cell, self.p + 1, self.hidden_size)


# -- the data ----------------------------------------------------------------------------------


class FirstIsLast:
    """2a and 2b: x or y, a middle of p - 1 symbols, the first symbol again. And what comes next.

    Symbols are a_1 … a_(p-1), x, y, in this order.

    Parameters
    ----------
    p
        The time lag.
    random
        Whether the middle is random (2b), or a_1 … a_(p-1) (2a).
    end
        Whether there is a target at the last step only.
    """

    def __init__(self, p: int, *, random: bool = False, end: bool = False) -> None:
        self.p, self.random, self.end = p, random, end

    def draw(self, generator: mt.Generator, count: int) -> Drawn:
        """Draw sequences (N, p) as symbols, the next symbols (N, p) or the last one (N,)."""
        first = self.p - 1 + generator.integers(0, 2, (count, 1))
        if self.random:
            middle = generator.integers(0, self.p - 1, (count, self.p - 1))
        else:
            middle = np.broadcast_to(np.arange(self.p - 1), (count, self.p - 1))
        return self._of(first, middle)

    def both(self) -> Drawn:
        """The two sequences of 2a."""
        first = np.array([[self.p - 1], [self.p]])
        return self._of(first, np.broadcast_to(np.arange(self.p - 1), (2, self.p - 1)))

    def _of(self, first: np.ndarray, middle: np.ndarray) -> Drawn:
        whole = np.concatenate([first, middle, first], axis=1)
        return Drawn(whole[:, :-1], whole[:, -1] if self.end else whole[:, 1:])


class TwoSequences(FirstIsLast):
    """2a. Its test are the two sequences."""

    def exam(self, generator: mt.Generator, count: int) -> Drawn:
        """Both of them, however many are asked for."""
        return self.both()


class RandomMiddle(FirstIsLast):
    """2b. Whatever the targets in training, it is tested at the last step."""

    def __init__(self, generator: Generators, p: int, *, end: bool = False) -> None:
        super().__init__(p, random=True, end=end)
        self.at_end = FirstIsLast(p, random=True, end=True)
        self.exam = self.at_end.draw
        self.test = self.exam(generator("test"), TEST)


class RandomLag:
    """2c: b, x or y, q distractors or more, the trigger e. Which of x and y was it?

    Symbols are a_1 … a_p, e, b, x, y, in this order.

    Parameters
    ----------
    q
        The fewest distractors of a sequence; behind them comes another one with probability 9/10,
        again and again, and else e.
    p
        How many kinds of them there are.
    """

    def __init__(self, q: int, p: int) -> None:
        self.q, self.p = q, p

    def draw(self, generator: mt.Generator, count: int) -> Drawn:
        """Draw sequences (N, T) as symbols, classes (N,), 0 for x and 1 for y, and lengths (N,)."""
        # The number of failures before the first success has P(k or more) = 0.9^k.
        u = generator.uniform(0.0, 1.0, (count,), np.float64)
        more = np.floor(np.log1p(-u) / math.log(0.9)).astype(np.int64)
        lengths = self.q + more + 3
        x = generator.integers(0, self.p, (count, int(lengths.max())))
        classes = generator.integers(0, 2, (count,))
        x[:, 0], x[:, 1] = self.p + 1, self.p + 2 + classes
        x[np.arange(count), lengths - 1] = self.p
        return Drawn(x, classes, lengths)


# -- the networks ------------------------------------------------------------------------------

CELL_COLUMN = 0
"""Of the output units' weights: they see the cell, then the inputs."""


@dataclass(frozen=True, kw_only=True)
class CellLater(Network):
    """A network that begins without its cell: the weights to it and from it are 0."""

    def first_weights(self, generator: mt.Generator, dtype: Any = np.float32) -> dict[str, Any]:
        """First weights; those of the output units are drawn."""
        weights = super().first_weights(generator, dtype)
        for name in ("weight_ih", "weight_hh"):
            weights[name][:] = 0
        weights["readout_weight"][:, CELL_COLUMN] = 0
        return weights


def network_2a(p: int, *, later: bool = True) -> Network:
    """Of 2a and 2b: one cell with an input gate; everything sees all below it; 10,504 weights."""
    return (CellLater if later else Network)(
        inputs=p + 1,
        blocks=1,
        size=1,
        outputs=p + 1,
        biases="none",
        gated=False,
        initial=0.2,
        squashing="none",
        connectivity="B",
    )


def network_2c(p: int, squashing: Squashing = "text") -> Network:
    """Of 2c: two cells with their gates, 6 (p + 10) + 4 weights."""
    return Network(
        inputs=p + 4,
        blocks=2,
        size=1,
        outputs=2,
        biases="none",
        initial=0.2,
        squashing=squashing,
    )


def without_cell(network: Network) -> dict[str, np.ndarray]:
    """Masks that keep a cell's weights at 0."""
    readout = np.ones(network.shapes["readout_weight"], np.float32)
    readout[:, CELL_COLUMN] = 0
    nothing = np.zeros(1, np.float32)
    return {"weight_ih": nothing, "weight_hh": nothing, "readout_weight": readout}


def grow(lane: Lane) -> None:
    """Add the cell once the error has stopped decreasing: draw its weights, and let them learn."""
    memory = lane.memory
    if memory.setdefault("cell_added", 0):
        return
    error = float(lane.loss.mean())
    before, memory["error_before_cell"] = memory.get("error_before_cell", math.inf), error
    if error < STOPPED * before:
        return
    generator, weights = lane.generator("cell"), lane.weights
    column = weights["readout_weight"][:, CELL_COLUMN]
    for array in (weights["weight_ih"], weights["weight_hh"], column):
        array[:] = generator.uniform(-0.2, 0.2, array.shape)
    for mask in lane.masks.values():
        mask[:] = 1
    memory["cell_added"] = lane.look.seen


def states(weights: Mapping[str, np.ndarray], symbols: np.ndarray) -> np.ndarray:
    """The cell of 2a over sequences of symbols (N, T): its states (N, T).

    Nothing is fed back, so they are sums of what the input gate lets in at each step.
    """
    gate, cell = mt.sigmoid(weights["weight_ih"][:, symbols])
    return np.cumsum(gate * cell, axis=1)


def watch(lane: Lane) -> None:
    """What the cell of 2a is used for, put down for the figure.

    trace : (looks, 3): sequences; what the cell adds to the net input of an output unit a_i, in the
        mean of these units and of all steps; and by how much it tells the two sequences apart at
        their ends, in the net input of x less that of y.
    early : (p + 1,), the output units' weights from the cell after `EARLY` sequences with it.
    """
    memory, p = lane.memory, len(lane.weights["readout_weight"]) - 1
    added = memory.get("cell_added", 0)
    if "cell_added" in memory and not added:
        return
    found = states(lane.weights, FirstIsLast(p).both().inputs)
    column = lane.weights["readout_weight"][:, CELL_COLUMN]
    bias = column[: p - 1].mean() * found.mean()
    tells = (column[p - 1] - column[p]) * (found[0, -1] - found[1, -1])
    seen = lane.look.seen - added
    one = np.array([[seen, bias, tells]], np.float32)
    memory["trace"] = np.concatenate([memory.get("trace", one[:0]), one])
    if seen <= EARLY:
        memory["early"] = column.copy()


def grow_and_watch(lane: Lane) -> None:
    """Both."""
    grow(lane)
    watch(lane)


def errors_of_two(tested: Tested) -> np.ndarray:
    """Each sequence's largest error of the outputs x and y, at its last step."""
    x = tested.outputs.shape[1] - 2
    right = tested.drawn.targets[:, None] == np.arange(x, x + 2)
    return np.abs(tested.outputs[:, x:] - right).max(1)


def score_2b(tested: Tested) -> dict[str, float]:
    """How many sequences are not right, judged by all outputs, and by x and y."""
    two = tested._replace(worst=errors_of_two(tested))
    scored = count_wrong(RIGHT_2A)(tested)
    return scored | {"wrong_by_two": count_wrong(RIGHT_2A)(two)["wrong"]}


def right_2b(errors: Callable[[Tested], np.ndarray]) -> Callable[[Look], bool]:
    """Whether the test's sequences are all right at their ends."""
    return lambda look: look.test is not None and bool((errors(look.test) < RIGHT_2A).all())


# -- training ----------------------------------------------------------------------------------


def lags(settings: LongLagSettings) -> list[tuple[int, int]]:
    """The lines of table 3 that are trained, (q, p)."""
    return [(q, p) for q, p in TABLE_3 if f"2c_{q}_{p}" in settings.rows]


def sweep(settings: LongLagSettings) -> list[tuple[int, int]]:
    """The (q, p) of the sweep, by q/p."""
    return [(settings.q, settings.q // r) for r in RATIOS] if "sweep" in settings.rows else []


def trained_2c(settings: LongLagSettings) -> list[tuple[int, int, Reading]]:
    """All (q, p, reading) of 2c: of table 3, and of the sweep."""
    found = [(q, p, reading) for q, p in lags(settings) for reading in settings.readings]
    found += [(q, p, settings.sweep_reading) for q, p in sweep(settings)]
    return list(dict.fromkeys(found))


def variants(settings: LongLagSettings) -> Sequence[str]:
    """What is trained, by name: 2a, …, 2c_50_50_table10, …, 2c_100_100_modern."""
    found = [row for row in settings.rows if row.startswith(("2a", "2b")) or row in RIVALS]
    found += [f"2c_{q}_{p}_{reading}" for q, p, reading in trained_2c(settings)]
    if "modern" in settings.rows:
        found += ["2a_modern", "2b_modern", "2c_100_100_modern"]
    return tuple(found)


def problem(settings: LongLagSettings, variant: str) -> Problem:
    """What a variant trains, and until when."""
    if variant in RIVALS:
        return _rival_problem(settings, RIVALS[variant])
    experiment, *rest = variant.split("_")
    modern = rest[-1:] == ["modern"]
    if experiment == "2c":
        q, p, reading = int(rest[0]), int(rest[1]), READINGS["literal" if modern else rest[2]]
        cap = settings.cap_modern if modern else settings.cap_2c
        return Problem(
            network=network_2c(p, reading.squashing),
            learning_rate=reading.learning_rate,
            cap=cap,
            window=IN_A_ROW,
            stages=(Stage("solved", all_right(RIGHT_2C)),),
            stream=lambda generator: RandomLag(q, p),
            loss=reading.loss,
            score=count_wrong(RIGHT_2C),
            exam=min(EXAM, cap),
        )
    start = rest == ["start"]
    network = network_2a(settings.p, later=not start)
    cap = settings.cap_modern if modern else settings.cap
    common = Problem(
        network=network,
        learning_rate=1.0,
        cap=cap,
        looks=LOOKS,
        window=LOOKS,
        stages=(Stage("solved", all_right(RIGHT_2A)),),
        stream=lambda generator: TwoSequences(settings.p),
        score=count_wrong(RIGHT_2A),
        exam=2,
        masks=None if start else without_cell(network),
        adapt=watch if start else grow_and_watch,
    )
    if experiment == "2a":
        return common
    return dataclasses.replace(
        common,
        stages=(
            Stage("xy", right_2b(errors_of_two)),
            Stage("solved", right_2b(lambda tested: tested.worst)),
        ),
        stream=lambda generator: RandomMiddle(generator, settings.p, end=rest == ["end"]),
        due=lambda look: look.seen % TESTED == 0,
        score=score_2b,
        exam=min(IN_A_ROW, cap),
        adapt=grow,
    )


def _rival_problem(settings: LongLagSettings, rival: Rival) -> Problem:
    """2a for another network; judged as the paper's own."""
    p = rival.p or settings.p
    cap = settings.cap_rivals[{4: 0, 10: 1}.get(rival.p or 0, 2)]
    common = Problem(
        network=Layered(inputs=p + 1, hidden=1, outputs=p + 1),
        learning_rate=rival.learning_rate,
        cap=cap,
        looks=LOOKS if rival.p is None else min(5 * LOOKS, cap),
        window=LOOKS,
        stages=(Stage("solved", all_right(RIGHT_2A)),),
        stream=lambda generator: TwoSequences(p),
        update=rival.update or "step",
    )
    if rival.update is not None:
        return common
    nets = TwoNets(symbols=p + 1, direct=rival.direct)
    return dataclasses.replace(
        common,
        network=nets,
        cap=settings.cap_chunker,
        learner=lambda weights, chunks, rates: Chunking(nets, weights, chunks, rates),
    )


def train(work: Work) -> list[Trial]:
    """Train all trials of a variant until each has solved the task, or has failed."""
    settings: LongLagSettings = work.settings
    chosen = problem(settings, work.variant)
    if work.variant.endswith("modern"):
        trials = fit_modern(work, chosen, settings.modern)
    else:
        trials = fit(work, chosen)
    return [dataclasses.replace(t, values=_told(t.values, chosen)) for t in trials]


def _told(values: Mapping[str, Any], chosen: Problem) -> dict[str, Any]:
    """A trial's results, as the rows want them."""
    told = dict(values)
    if chosen.window == IN_A_ROW and told["solved"]:  # what came before the right ones in a row
        told["solved_sequences"] -= IN_A_ROW
    if "xy" in told:
        told["xy_wrong"] = told.pop("xy_wrong_by_two")
    return told


# -- the comparison ----------------------------------------------------------------------------


def lines_2(settings: LongLagSettings) -> list[Line]:
    """Table 2, and what the text says of 2b."""
    cell = readers_cell.title(settings.cell)
    cap = f"The cap is {settings.cap:,} sequences; the paper's is 5 million."
    paper_a = Line("", "", sequences=5_040, factor=4.0, note=cap)
    paper_b = paper_a._replace(sequences=5_680)
    return [
        paper_a._replace(variant="2a", title="2a, cell added on a plateau", success=1.0, least=0.6),
        paper_a._replace(
            variant="2a_start",
            title="2a, cell there from the start",
            sequences=None,
            success=0.0,
            note=f"{cap} The abuse problem: the outputs use the cell as a bias. The paper has "
            "words for it, and no figure.",
        ),
        paper_a._replace(variant="2a_modern", title=f"2a, today's network ({cell})", note=""),
        paper_b._replace(
            variant="2b",
            title="2b, as printed",
            success=1.0,
            note=f"{cap} There is a target at every step, and all outputs are judged at the last: "
            "to be silent till then and speak then, the network would have to count the steps.",
        ),
        paper_b._replace(variant="2b_end", title="2b, a target at the last step only"),
        paper_b._replace(variant="2b", stage="xy", title="2b, as printed, judged by two outputs"),
        paper_b._replace(variant="2b_modern", title=f"2b, today's network ({cell})", note=""),
    ]


def lines_of_rivals(settings: LongLagSettings) -> list[Line]:
    """The others of table 2."""
    found = []
    for variant, rival in RIVALS.items():
        cap = problem(settings, variant).cap
        found.append(
            Line(
                variant,
                f"2a, {rival.title.format(settings.p)}",
                sequences=rival.sequences,
                factor=3.0,
                success=None if rival.success else 0.0,
                least=1.0,
                note=f"The cap is {cap:,} sequences; the paper's is 5 million. It has "
                f"{rival.success:.0%} of 18 trials succeed"
                + ("." if rival.success else ", at rates from 1 to 10."),
            )
        )
    return found


def all_lines(settings: LongLagSettings) -> list[Line]:
    """Those of what is trained, table by table."""
    found = [*lines_2(settings), *lines_of_rivals(settings), *lines_3(settings)]
    chosen = variants(settings)
    return [line for line in found if line.variant in chosen]


def lines_3(settings: LongLagSettings) -> list[Line]:
    """Table 3, and the sweep, each line in every reading."""
    cap = f"The cap is {settings.cap_2c:,} sequences; the paper's is 5 million."
    found = [
        Line(
            f"2c_{q}_{p}_{reading}",
            f"2c, q = {q}, p = {p}, {READINGS[reading].title}",
            sequences=TABLE_3.get((q, p)),
            factor=4.0,
            success=1.0 if q <= 100 and (q, p) in TABLE_3 else None,
            note=f"{cap} With the ranges of table 10." if reading == "entropy" else cap,
        )
        for q, p, reading in trained_2c(settings)
    ]
    title = f"2c, q = 100, p = 100, today's network ({readers_cell.title(settings.cell)})"
    return [*found, Line("2c_100_100_modern", title, sequences=TABLE_3[100, 100])]


def rows(run: Run) -> list[Row]:
    """Weight counts and data; then every line: how many trials succeed, and how soon."""
    judge = run.preset != "quick"
    made = [*_count_rows(), *_data_rows(run)]
    for line in all_lines(run.settings):
        paper_size = run.settings.p == 100 or line.variant.startswith(("2c", "rtrl_"))
        own = judge and paper_size and line.success is not None
        made += papers_table.rows(run, line, judge=own)
        if line.variant == "2a":
            made += _cell_rows(run)
    return made + _rival_rows(run, judge) + _trend_rows(run, judge)


def _rival_rows(run: Run, judge: bool) -> list[Row]:
    """Of the rivals that succeed in the paper: the share of trials at the best rate, or reading."""
    made = []
    for title, start, target, size in (
        ("RTRL, p = 4, best of the rates", "rtrl_4_", 0.78, True),
        ("chunker, better of the readings", "chunker", 0.33, run.settings.p == 100),
    ):
        tried = [run.values("solved", row) for row in run.settings.rows if row.startswith(start)]
        if tried:
            made.append(
                Row(
                    f"2a, {title}: trials that succeed",
                    **success_rate(max(tried, key=sum)),
                    **judged(target, "paper", at_least(0.01), when=judge and size),
                    note="Some must, since some do in the paper.",
                )
            )
    return made


def _count_rows() -> list[Row]:
    expected = {"2a and 2b, p = 100": (network_2a(100).count, 10_504)}
    for p, count in ((4, 36), (10, 144), (100, 10_404)):
        rival = Layered(inputs=p + 1, hidden=1, outputs=p + 1)
        expected[f"2a, RTRL and BPTT, p = {p}"] = (rival.count, count)
    expected["2a, chunker, one of its two nets"] = (TwoNets(symbols=101).automatizer.count, 10_506)
    for p, count in ((50, 364), (100, 664), (200, 1264), (500, 3064), (1000, 6064)):
        expected[f"2c, p = {p}"] = (network_2c(p).count, count)
    return [
        Row(f"{name}: weights", count, **judged(target, "paper", within(target, 0)))
        for name, (count, target) in expected.items()
    ]


def _data_rows(run: Run) -> list[Row]:
    """The drawn data against their definition."""
    work, count = Work(run.settings, seed=run.seed), 10_000
    q, p = 50, 10
    drawn = RandomLag(q, p).draw(work.generator("data", 0), count)
    assert drawn.lengths is not None
    inside = np.arange(drawn.inputs.shape[1]) < drawn.lengths[:, None]
    first, second = drawn.inputs[:, 0], drawn.inputs[:, 1]
    distractors = ((drawn.inputs < p) & inside).sum(1)
    last = drawn.inputs[np.arange(count), drawn.lengths - 1]
    well_formed = (
        (first == p + 1)
        & (second == p + 2 + drawn.targets)
        & (last == p)
        & (distractors == drawn.lengths - 3)
        & (distractors >= q)
    )
    both = RandomMiddle(lambda *block: work.generator(*block), 10).exam(
        work.generator("data", 1), count
    )
    # k has variance 0.9/0.01; the tolerances of the two means are five standard errors.
    return [
        Row(
            "2c: symbols of a sequence less q, mean of 10,000 drawn",
            float(drawn.lengths.mean() + 1 - q),
            **judged(13.0, "computed", within(13.0, 5 * math.sqrt(90 / count))),
            note="The paper's sum is q + 14; but of distractors after the first q there are 9.",
        ),
        Row(
            "2c: sequences that are as defined, of 10,000",
            int(well_formed.sum()),
            **judged(count, "computed", within(count, 0)),
        ),
        Row(
            "2c: share of y",
            float(drawn.targets.mean()),
            **judged(0.5, "computed", within(0.5, 5 * math.sqrt(0.25 / count))),
        ),
        Row(
            "2b: sequences that end as they begin, of 10,000",
            int((both.inputs[:, 0] == both.targets).sum()),
            **judged(count, "computed", within(count, 0)),
        ),
    ]


def _cell_rows(run: Run) -> list[Row]:
    """When the cell of 2a was added, and how long it took from then on."""
    added = run.values("cell_added", "2a")
    found = [Row("2a: sequences before the cell was added, mean (0: never)", **mean_of(added))]
    pairs = zip(
        run.values("solved", "2a"), run.values("solved_sequences", "2a"), added, strict=True
    )
    since = [sequences - start for solved, sequences, start in pairs if solved]
    if since:
        found.append(
            Row(
                "2a: sequences with the cell until success, mean",
                **mean_of(since),
                levels=(Level("the paper", 5_040),),
                note="Of those that succeed.",
            )
        )
    return found


def mean_sequences(run: Run, q: int, p: int, reading: Reading) -> float:
    """Until success in 2c, a trial that fails counted with the cap; NaN where all fail."""
    variant = f"2c_{q}_{p}_{reading}"
    if not any(run.values("solved", variant)):
        return math.nan
    return float(np.mean(run.values("solved_sequences", variant)))


def growth(run: Run, reading: Reading) -> tuple[list[int], float, float] | None:
    """The q with q/p = 1 at which trials succeed; n in sequences ~ q^n, fitted: ours, the paper's.

    None if there are fewer than two.
    """
    found = {q: mean_sequences(run, q, p, reading) for q, p in lags(run.settings) if q == p}
    known = [q for q, value in found.items() if not math.isnan(value)]
    if len(known) < 2:
        return None
    ours, paper = (
        np.polyfit(np.log(known), np.log(values), 1)[0]
        for values in ([found[q] for q in known], [TABLE_3[q, q] for q in known])
    )
    return known, float(ours), float(paper)


def _trend_rows(run: Run, judge: bool) -> list[Row]:
    """How the number of sequences depends on q, and on q/p."""
    settings: LongLagSettings = run.settings
    made = []
    for reading in settings.readings:
        fitted = growth(run, reading)
        if fitted is None:
            continue
        known, ours, paper = fitted
        made.append(
            Row(
                f"2c, q/p = 1, {READINGS[reading].title}: n in sequences ~ q^n",
                ours,
                **judged(paper, "paper", at_most(1.0), when=judge),
                note=f"Fitted to q = {', '.join(map(str, known))}; a trial that fails counts with "
                "the cap. Below 1 the number of sequences grows more slowly than the lag.",
            )
        )
    asked = sweep(settings)
    if asked:
        reading = settings.sweep_reading
        every = [run.values("solved_sequences", f"2c_{q}_{p}_{reading}") for q, p in asked]
        ours = float(np.polyfit(RATIOS, [np.mean(values) for values in every], 1)[0])
        lower = [TABLE_3[1000, 1000 // ratio] for ratio in RATIOS]
        paper = float(np.polyfit(RATIOS, lower, 1)[0])
        made.append(
            Row(
                f"2c, q = {settings.q}, {READINGS[reading].title}: sequences more a unit of q/p",
                ours,
                **judged(paper, "paper", at_least(1.0), when=judge),
                note="Fitted to q/p = 1, 2, 5, 10, 20; a trial that fails counts with the cap, so "
                "the sign is compared: frequent distractors slow learning. The paper: q = 1000.",
            )
        )
    return made


def printout(run: Run) -> str:
    """Tables 2 and 3: the paper, and ours."""
    settings = run.settings
    tables = {
        "Table 2": [*lines_of_rivals(settings), *lines_2(settings)],
        "Table 3": lines_3(settings),
    }
    return "\n\n".join([papers_table.text(run, name, own) for name, own in tables.items()])


# -- figures -----------------------------------------------------------------------------------


def figures(run: Run) -> Mapping[str, Figure]:
    """Draw learning curves, solved trials, what the cell of 2a is used for, and table 3."""
    known, chosen = all_lines(run.settings), variants(run.settings)
    bars = [(line.name, run.values(line.stage, line.variant), False) for line in known]
    drawn = {
        "learning_curves": _curves(run, known),
        "solved": plots.solved_bars(bars, "Long time lags: trials that solve them"),
    }
    if {"2a", "2a_start"} & set(chosen):
        drawn["abuse"] = _abuse(run)
    if trained_2c(run.settings):
        drawn["table_3"] = _table_3(run)
    return drawn


def _curves(run: Run, known: Sequence[Line]) -> Figure:
    trained = lags(run.settings)
    q, p = (100, 100) if (100, 100) in trained or not trained else trained[0]
    panels = [
        (title, right, [line for line in known if f"{line.variant}_".startswith(f"{start}_")])
        for start, title, right in (
            ("2a", f"2a, p = {run.settings.p}", RIGHT_2A),
            (f"2c_{q}_{p}", f"2c, q = {q}, p = {p}", RIGHT_2C),
        )
    ]
    panels = [panel for panel in panels if panel[2]] or panels[:1]
    figure, every = plots.new_figure(
        1, len(panels), width=5.5 * len(panels), height=5.8, sharey=True
    )
    for axes, (title, right, mine) in zip(np.atleast_1d(every), panels, strict=True):
        for line, color in zip(mine, plots.PALETTE, strict=False):
            label = line.title.rpartition(", ")[2]
            plots.errors(axes, run, line.variant, label=label, color=color)
        axes.set(title=title, xlabel="sequences seen", xscale="log", ylim=(0, 1.05))
        plots.reference_levels(axes, (Level("right", right),))
        plots.legend_below(axes)
    np.atleast_1d(every)[0].set_ylabel(
        f"largest error, mean of the last {LOOKS} (2a) or {WINDOW} (2c)"
    )
    return figure


def _abuse(run: Run) -> Figure:
    """What the cell is used for when it is there from the start, and when it is added later."""
    figure, (bias, memory, weights) = plots.new_figure(1, 3, width=13.0, height=4.4)
    for variant, label, color in (
        ("2a_start", "there from the start", plots.PALETTE[1]),
        ("2a", "added on a plateau", plots.PALETTE[0]),
    ):
        if variant not in variants(run.settings):
            continue
        arrays = [trial.arrays for trial in run.of(variant) if "trace" in trial.arrays]
        if not arrays:
            continue
        longest = max([one["trace"] for one in arrays], key=len)
        for axes, column in ((bias, 1), (memory, 2)):
            lines = np.full((len(arrays), len(longest)), np.nan)
            for line, one in zip(lines, arrays, strict=True):
                line[: len(one["trace"])] = one["trace"][:, column]
            plots.curves(axes, longest[:, 0], plots.filled(lines), label=label, color=color)
        weights.plot(
            arrays[0]["early"], ".-", color=color, linewidth=0.8, markersize=4, label=label
        )
    for axes, title in (
        (bias, "as a bias: what it adds to the\nnet input of an output a_i, in the mean"),
        (memory, "as a memory: by how much it tells\nx … from y … at the end, in the net input"),
    ):
        axes.set(title=title, xlabel="sequences since the cell is there", xscale="log")
        axes.set_yscale("symlog", linthresh=1.0)
    plots.reference_levels(memory, (Level("enough to be right", 4 * math.log(3)),))
    weights.set(
        title=f"one trial: output units' weights from the\ncell after {EARLY:,} sequences with it",
        xlabel="output unit: a_1 …, then x, y",
    )
    if bias.get_legend_handles_labels()[0]:
        bias.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def _table_3(run: Run) -> Figure:
    """Sequences until success by q and by q/p: the paper, and ours in every reading."""
    settings: LongLagSettings = run.settings
    figure, (left, right) = plots.new_figure(1, 2, width=11.0, height=5.0, sharey=True)
    equal = [lag for lag in TABLE_3 if lag[0] == lag[1]]
    lower = [(1000, 1000 // ratio) for ratio in RATIOS]
    black: dict[str, Any] = {"color": "0.2", "marker": "s"}
    left.plot([q for q, _ in equal], [TABLE_3[lag] for lag in equal], label="the paper", **black)
    right.plot(RATIOS, [TABLE_3[lag] for lag in lower], label="the paper, q = 1000", **black)
    for reading, color in zip(READINGS, plots.PALETTE, strict=False):
        title = READINGS[reading].title
        if reading in settings.readings:
            own = [lag for lag in lags(settings) if lag[0] == lag[1]]
            _points(left, run, reading, own, [q for q, _ in own], label=title, color=color)
        if reading == settings.sweep_reading:
            label = f"{title}, q = {settings.q}"
            _points(right, run, reading, sweep(settings), RATIOS, label=label, color=color)
    left.set(title="As many kinds of distractors as steps, q/p = 1", xlabel="q, steps")
    right.set(title="Few kinds, each of them often", xlabel="q/p")
    left.set_ylabel("sequences until success, mean")
    for axes in (left, right):
        axes.set(xscale="log", yscale="log")
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle(
        "2c: a trial that fails counts with the cap; no point where all fail", fontsize=10
    )
    return figure


def _points(
    axes: Any,
    run: Run,
    reading: Reading,
    asked: Sequence[tuple[int, int]],
    places: Sequence[int],
    **style: Any,
) -> None:
    """Our means, and how many trials succeed where not all do."""
    found = [mean_sequences(run, q, p, reading) for q, p in asked]
    if not asked or np.isnan(found).all():
        return
    axes.plot(places[: len(found)], found, "o-", **style)
    for (q, p), place, value in zip(asked, places, found, strict=False):
        solved = run.values("solved", f"2c_{q}_{p}_{reading}")
        if any(solved) and not all(solved):
            axes.annotate(
                f"{solved.count(True)} of {len(solved)}",
                (place, value),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=7,
                color=style["color"],
            )


TASK = Task(
    name="long_lag",
    documents=("004",),
    title="one symbol kept over a hundred others, regular, random, or frequent ones",
    claim="""
        Experiment 2 of the 1997 paper, of which document 004 retells a part. In 2a two
        sequences x a_1 … a_99 x and y a_1 … a_99 y come in random order, and the next symbol
        is to be predicted at every step: only the last one asks for memory, of something
        100 steps ago. The paper's network, one memory cell with an input gate, learns it in
        all of 18 trials, after 5,040 sequences in the mean. In 2b the middle is random, and
        it needs 5,680. In 2c both the distance and the distractors are random: 30,000
        sequences at q = 50 and only 49,000 at q = 1000 if there are as many kinds of
        distractors as steps (q/p = 1), but 203,000 if each of them comes often (q/p = 20).

        The *abuse problem*: a cell that is there from the start is used by the outputs as a
        bias, because that lowers the error at once, and is no memory any more. The paper's
        remedy in 2a and 2b: the cell is added when the error has stopped decreasing. Both
        are trained here.

        The rivals of table 2 have one ordinary unit in the cell's place. Real-time recurrent
        learning succeeds in some trials at p = 4, after a million sequences, and in none at
        p = 10; at p = 100 neither it nor back-propagation through time ever does, and the
        two-net chunker in a third of its trials.

        What does not come out of the text as it stands is beside it, labelled, in other
        readings: of 2b, where a network with a target at every step would have to count
        them; of 2c, whose ranges of g and h the paper gives in two ways, and whose learning
        rate, 0.01, is a hundredth of that of 2a and 2b.
    """,
    equations="""
        2a: x a_1 … a_(p-1) x or y a_1 … a_(p-1) y;  2b: a random middle;  p = 100
        network: y_in = sigma(W_in z), s <- s + y_in sigma(W_c z), y = s, z the input alone;
        outputs see s and the input; no biases; p + 1 inputs and outputs, 10,504 weights
        right: every output's error below 0.25, at every step (2a) or at the last one (2b);
        the last 200 sequences right as they came (2a), or 256 of a test, then 10,000 more (2b)
        2c: b, x or y, q distractors a_1 … a_p and with probability 9/10 another one, again and
        again, else e;  at e the network says which of x and y it was;  error below 0.2
        network: 2 blocks of 1 cell, all connected, no biases, 6 (p + 10) + 4 weights
        10,000 right one after another; what came before them is counted
        first weights uniform in ±0.2;  rate 1.0 (2a, 2b) or 0.01 (2c), one update a sequence
        today's network: cross-entropy, minibatches, Adam; all 2b's targets, judged at the end
    """,
    look_for="""
        abuse.png: a cell that is there from the start soon pulls all outputs down, as a bias
        would; one that is added when the outputs have learnt what they can without it is
        left to tell x from y.

        table_3.png: left, how slowly the number of sequences grows with the lag; right, what
        frequent distractors do to it.

        More lines of table 3: --rows 2c_500_500 2c_1000_1000 2c_1000_500 2c_1000_200
        2c_1000_100 2c_1000_50, each in all readings, or in one: --readings table10. At
        q = 1000 a reading takes a quarter of an hour if all its trials need the whole cap.
    """,
    settings=LongLagSettings,
    presets={
        "quick": LongLagSettings(
            trials=1,
            rows=("2a", "2a_start", "2b", "2b_end", "2c_50_50", "sweep", "modern", *RIVALS),
            p=12,
            q=20,
            cap=600,
            cap_2c=100,
            cap_modern=200,
            cap_rivals=(200, 200, 200),
            cap_chunker=200,
        ),
        "document": LongLagSettings(),
    },
    durations={"quick": "10 s", "document": "1 h"},
    stack=10_000,
    train=train,
    rows=rows,
    variants=variants,
    figures=figures,
    printout=printout,
)
