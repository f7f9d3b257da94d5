"""Trials of online learning, side by side, each until it has met its criterion.

What the experiments of the 1997 paper have in common: a small network sees one sequence at a time
and is changed after each, some ten thousands to millions of times; now and then it is asked whether
it has learnt the task; and all that in ten to thirty trials. `fit` carries it out. The arithmetic
is `microtensor.recurrence.fit_online`'s, with the trials as lanes of one loop; the lane of
a finished trial takes the next one.

    problem = Problem(
        network=lstm1997.Network(inputs=8, blocks=2, size=2, outputs=4, …),
        learning_rate=0.5,
        cap=1_000_000,
        stages=(Stage("solved", all_right(0.3, mean=0.1)),),
        stream=lambda generator: TemporalOrder(),
        score=count_wrong(0.3),
    )
    def train(work: Work) -> list[Trial]:
        return fit(work, problem)

Everything random about a trial comes from generators keyed by its number, so it does not depend on
the trials beside it, on its lane, or on an interruption.

`fit_modern` trains what a reader of today would try first on the same data until the same
criteria are met: a network with any cell of the library or of the reader's, minibatches, Adam.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

import microtensor as mt
from microtensor import nn
from microtensor.recurrence import Sequences, fit_online
from models import guessing
from models.chunker import TwoNets
from models.lstm1997 import Network
from models.rtrl import FullyRecurrent, Layered
from tasks import readers_cell
from tasks.harness import Settings, Trial, check_counts, check_learning_rate
from tasks.work import Work

LANES = 16
"""Trials side by side: as many float32 numbers as the widest vector registers hold."""
WINDOW = 2000
"""How many of the last errors a criterion mostly sees: the paper's "last 2000"."""
EXAM = 2560
"""New sequences on which a trained network is tested: the paper's number."""
PIECE = 256
"""So many of them are drawn and shown at a time."""
COMPILED = 2000
"""For fewer sequences than so many no loop is compiled: that takes some seconds."""


class Generators:
    """A trial's random numbers by what they are for: `generator("data", 3)`.

    Attributes
    ----------
    number
        The trial's.
    """

    def __init__(self, work: Work, number: int) -> None:
        self.work, self.number = work, number

    def __call__(self, *block: int | str) -> mt.Generator:
        """A fresh generator; see `Work.generator`."""
        return self.work.generator(*block, trial=self.number)


class Drawn(NamedTuple):
    """N sequences of one trial; as `recurrence.Sequences`, without the axis of the trials.

    inputs : (N, T, I) floats, or symbols (N, T).
    targets : (N, O) or (N, T, O) floats, or classes (N,) or (N, T).
    lengths : (N,), or None if all have T steps.
    mask : (N, T), the steps that have a target, where targets have the axis T; None: all.
    """

    inputs: np.ndarray
    targets: np.ndarray
    lengths: np.ndarray | None = None
    mask: np.ndarray | None = None


class Stream(Protocol):
    """Where a trial's sequences come from."""

    def draw(self, generator: mt.Generator, count: int) -> Drawn:
        """Draw `count` training sequences."""
        ...


class Tested(NamedTuple):
    """What a network, unchanged, made of some sequences.

    worst : (N,), each sequence's largest |output - target| over its steps that have a target.
    outputs : (N, O) or (N, T, O), in the form of the targets.
    """

    drawn: Drawn
    worst: np.ndarray
    outputs: np.ndarray


class Look(NamedTuple):
    """What is known of a trial when its criteria are looked at.

    seen : how many sequences it was trained on.
    recent : (`Problem.window`,), the largest |output - target| of the last sequences as they came,
        before the update that each caused, the latest last; infinite where there were not so many.
    test : of the trial's test set, where its stream has one and it was time for it; else None.
    probe : of the few sequences that stand for the test set, where its stream has them.
    """

    seen: int
    recent: np.ndarray
    test: Tested | None
    probe: Tested | None = None


class Stage(NamedTuple):
    """Something to be reached: its name in the results, and the criterion."""

    name: str
    reached: Callable[[Look], bool]


def all_right(limit: float, *, mean: float = math.inf, but: int = 0) -> Callable[[Look], bool]:
    """The last sequences of a look right (error below `limit`) but for `but`; mean below `mean`."""

    def reached(look: Look) -> bool:
        wrong = np.count_nonzero(~(look.recent < limit))
        return bool(wrong <= but and (mean == math.inf or look.recent.mean() < mean))

    return reached


def count_wrong(limit: float) -> Callable[[Tested], dict[str, float]]:
    """A `score`: how many sequences are not right, and the mean of their largest errors."""

    def score(tested: Tested) -> dict[str, float]:
        wrong = int(np.count_nonzero(~(tested.worst < limit)))
        return {"wrong": wrong, "mean_error": float(tested.worst.mean())}

    return score


class Lane(NamedTuple):
    """A trial at work, as `Problem.adapt` may change it: all arrays are views, `memory` is its own.

    memory : a dictionary that is kept with the trial, empty at its start. Numbers in it join the
        trial's values, arrays its arrays.
    generator : the trial's random numbers.
    """

    look: Look
    loss: np.ndarray
    weights: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]
    memory: dict[str, Any]
    generator: Generators


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One row of a table: a network, its data, and when it has learnt them.

    Attributes
    ----------
    network, learning_rate
        What is trained: a `Network`, or one of the rivals' with the same attributes.
    cap
        The most sequences; a trial that has not reached its last stage then has failed.
    stages
        In order; the last one ends the trial.
    stream
        Makes a trial's source of data from its generators. If it has an attribute `test`, that is
        shown to the network before criteria are looked at: a `Drawn`, or a function that gives one
        for a number of sequences seen, where each look has a test set of its own. If it has one
        called `probe`, likewise, that is shown before `due` is asked. All trials' have equally many
        sequences.
    looks
        Sequences between two looks at the criteria.
    window
        How many of the last sequences a look shows.
    due
        Whether the test set is worth showing (it costs time); asked with a look without it, but
        with the probe.
    score
        What to report of a test on new sequences; None: there is none. They are drawn by
        the stream's `exam(generator, count)`, or by `draw` if it has no such method.
    exam
        How many these are.
    update, loss
        See `recurrence.fit_online`.
    outputs
        Whether criteria and scores need the outputs themselves.
    masks
        Factors of the learning rate of single weights at a trial's start (see `fit_online`).
    adapt
        Called with every trial after each look, to change its weights and masks.
    learner
        What trains in place of `recurrence.fit_online`, from weights, chunks and learning rates: an
        iterator that has an attribute `lr` and says `loss` and `worst` of each chunk. There is no
        test then. More trials are side by side, whose number costs array operations little.
    """

    network: Network | FullyRecurrent | Layered | TwoNets
    learning_rate: float
    cap: int
    stages: tuple[Stage, ...]
    stream: Callable[[Generators], Stream]
    looks: int = 100
    window: int = WINDOW
    due: Callable[[Look], bool] = lambda look: True
    score: Callable[[Tested], dict[str, float]] | None = None
    exam: int = EXAM
    update: str = "sequence"
    loss: str = "squared_error"
    outputs: bool = False
    masks: Mapping[str, np.ndarray] | None = None
    adapt: Callable[[Lane], None] | None = None
    learner: Callable[..., Any] | None = None

    @property
    def shown(self) -> tuple[tuple[str, Callable[[Look], bool]], ...]:
        """What is shown before criteria are looked at, in order, and whether it is worth it."""
        return (("probe", lambda look: True), ("test", self.due))


class Progress:
    """How far one trial has come: what criteria are shown, and which stages it has reached.

    `state` is a dictionary of plain values, which a checkpoint can hold.
    """

    def __init__(self, problem: Problem, number: int, state: dict[str, Any] | None = None) -> None:
        self.problem, self.number = problem, number
        self.state: dict[str, Any] = state or {
            "number": number,
            "chunks": 0,
            "seen": 0,
            "recent": np.full(problem.window, np.inf, np.float32),
            "stages": {},
            "memory": {},
        }

    def add(self, worst: np.ndarray) -> Look:
        """A look after more sequences: their largest errors, in order."""
        state = self.state
        state["seen"] += len(worst)
        state["recent"] = np.concatenate([state["recent"], worst])[-self.problem.window :]
        return Look(state["seen"], state["recent"], None)

    def reached(self, look: Look) -> list[str]:
        """The stages that are reached now and were not before."""
        new = []
        for stage in self.problem.stages:
            if stage.name not in self.state["stages"]:
                if not stage.reached(look):
                    break  # in order
                self.state["stages"][stage.name] = look.seen
                new.append(stage.name)
        return new

    @property
    def over(self) -> bool:
        """Whether the last stage is reached, or the cap."""
        last = self.problem.stages[-1].name
        return last in self.state["stages"] or self.state["seen"] >= self.problem.cap

    def values(self) -> dict[str, float | int | bool | str]:
        """Of each stage: whether it was reached, and after how many sequences."""
        stages, found = self.state["stages"], {}
        for stage in self.problem.stages:
            found[stage.name] = stage.name in stages
            found[f"{stage.name}_sequences"] = stages.get(stage.name, self.state["seen"])
        return found | {
            name: value
            for name, value in self.state["memory"].items()
            if not isinstance(value, np.ndarray)
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """What `Problem.adapt` has put down for the figures."""
        memory = self.state["memory"].items()
        return {name: value for name, value in memory if isinstance(value, np.ndarray)}


# ---------------------------------------------------------------------------------------------
# The paper's networks, online


def fit(work: Work, problem: Problem) -> list[Trial]:
    """Train all trials of a unit of work; returns them with their results.

    A trial's values are, for each stage, NAME (whether it was reached), NAME_sequences (after how
    many), and what `score` makes of the test on new sequences, NAME_…, with the weights as they
    were when the stage was reached. Its model is the weights at the end.
    """
    with _driver(problem):
        return _fit(work, problem)


def _driver(problem: Problem) -> Any:
    """Where a run is short, the driver that need not be compiled."""
    if problem.cap < COMPILED:
        return mt.recurrence.driver("arrays")
    return contextlib.nullcontext()


def _fit(work: Work, problem: Problem) -> list[Trial]:
    lanes = min(LANES if problem.learner is None else 2 * LANES, len(work.trials))
    state: dict[str, Any] = {"next": lanes, "lanes": {}, "kept": {}, "finished": {}, "arrays": {}}
    for lane in range(lanes):
        state["lanes"][lane] = _begin(work, problem, work.trials[lane])
    rounds = math.ceil(len(work.trials) / lanes)
    total = rounds * (math.ceil(problem.cap / problem.looks) + 1)
    training: _Training | None = None
    for _ in work.steps(total, state=state):
        training = training or _Training(work, problem, state)
        training.go_on()
        if training.done:
            break
    return _trials(work, problem, state)


def _begin(work: Work, problem: Problem, number: int) -> dict[str, Any]:
    """A trial before its first sequence."""
    generator = work.generator("weights", trial=number)
    weights = problem.network.first_weights(generator)
    masks = {
        name: np.broadcast_to(np.asarray(mask, np.float32), weights[name].shape).copy()
        for name, mask in (problem.masks or {}).items()
    }
    return Progress(problem, number).state | {"weights": weights, "masks": masks}


def _stream(work: Work, problem: Problem, number: int) -> Any:
    return problem.stream(Generators(work, number))


def _set(stream: Any, what: str, look: Look) -> Drawn | None:
    """A stream's "probe" or "test" set for a look, if it has one."""
    own = getattr(stream, what, None)
    return own(look.seen) if callable(own) else own


class _Training:
    """The lanes at work. `state` is theirs, and all that must be kept to go on another time."""

    def __init__(self, work: Work, problem: Problem, state: dict[str, Any]) -> None:
        self.work, self.problem, self.state = work, problem, state
        self.lanes: dict[int, dict[str, Any]] = state["lanes"]
        names = problem.network.shapes
        self.weights = {
            name: np.stack([lane["weights"][name] for lane in self.lanes.values()])
            for name in names
        }
        self.masks = {
            name: np.stack([lane["masks"][name] for lane in self.lanes.values()])
            for name in problem.masks or {}
        }
        for k, lane in self.lanes.items():
            self._attach(k, lane)
        self.streams = {k: _stream(work, problem, lane["number"]) for k, lane in self.lanes.items()}
        self.progress = {k: Progress(problem, s["number"], s) for k, s in self.lanes.items()}
        self.drawn = {k: lane["chunks"] for k, lane in self.lanes.items()}
        self.records: deque[dict[int, int]] = deque()  # whose chunks are on their way
        active = [lane["number"] >= 0 and not self.progress[k].over for k, lane in self._all()]
        rates = np.where(active, problem.learning_rate, 0.0)
        self.fit = self._learner(rates)
        self.logged = max(problem.looks, problem.cap // 500 // problem.looks * problem.looks)

    def _learner(self, rates: np.ndarray) -> Any:
        problem = self.problem
        if problem.learner is not None:
            return problem.learner(self.weights, _one_ahead(self._chunks()), rates)
        return fit_online(
            problem.network.cell,
            self.weights,
            self._chunks(),
            rates,
            output=problem.network.output,
            loss=problem.loss,
            update=problem.update,
            masks=self.masks,
            block_size=problem.network.size,
        )

    def _all(self) -> list[tuple[int, dict[str, Any]]]:
        return list(self.lanes.items())

    def _attach(self, k: int, lane: dict[str, Any]) -> None:
        """Put a trial's arrays into its lane; from now on its own are views."""
        for ours, theirs in ((self.weights, lane["weights"]), (self.masks, lane["masks"])):
            for name, array in ours.items():
                array[k] = theirs[name]
                theirs[name] = array[k]

    def _chunks(self) -> Iterator[Sequences]:
        """The next sequences of every lane; drawn in a second thread, one chunk ahead."""
        while True:
            record, drawn = {}, {}
            for k, lane in self._all():
                if self.progress[k].over:
                    continue
                generator = self.work.generator("data", self.drawn[k], trial=lane["number"])
                drawn[k] = self.streams[k].draw(generator, self.problem.looks)
                record[k] = lane["number"]
                self.drawn[k] += 1
            if not drawn:
                return
            some = next(iter(drawn.values()))  # for lanes that have nothing to do
            self.records.append(record)
            yield _side_by_side([drawn.get(k, some) for k in self.lanes])

    @property
    def done(self) -> bool:
        """Whether all trials are finished."""
        return len(self.state["finished"]) == len(self.work.trials)

    def go_on(self) -> None:
        """Train on a chunk, look at the criteria, and give free lanes to waiting trials."""
        errors = next(self.fit)
        record = self.records.popleft()
        looks: dict[int, Look] = {}
        for k, lane in self._all():
            if record.get(k) != lane["number"] or self.progress[k].over:
                if not self.progress[k].over:  # the last chunk of the trial before
                    self.fit.lr[k] = self.problem.learning_rate
                continue
            lane["chunks"] += 1
            looks[k] = self.progress[k].add(errors.worst[k])
        looks = self._with_tests(looks)
        for k, look in looks.items():
            self._look(k, look, errors.loss[k])
        self._tell()

    def _with_tests(self, looks: dict[int, Look]) -> dict[int, Look]:
        """The looks, with what the network makes of the trial's test set where that is due."""
        for what, wanted in self.problem.shown:
            sets = {
                k: drawn
                for k, look in looks.items()
                if wanted(look) and (drawn := _set(self.streams[k], what, look)) is not None
            }
            if sets:
                some = next(iter(sets.values()))  # for lanes that are not looked at
                every = [sets.get(k, some) for k in self.lanes]
                tested = show(self.problem.network, self.weights, every)
                looks |= {k: looks[k]._replace(**{what: tested[k]}) for k in sets}
        return looks

    def _look(self, k: int, look: Look, loss: np.ndarray) -> None:
        lane, progress = self.lanes[k], self.progress[k]
        number = lane["number"]
        new = progress.reached(look)
        for name in new:
            own = {n: array[k].copy() for n, array in self.weights.items()}
            self.state["kept"][f"{number} {name}"] = own
        if look.seen % self.logged < self.problem.looks or progress.over:
            latest = look.recent[-min(WINDOW, look.seen) :]
            self.work.log(look.seen, trial=number, error=float(latest.mean()))
        if not progress.over:
            if self.problem.adapt is not None:
                views = {n: array[k] for n, array in self.weights.items()}
                masks = {n: array[k] for n, array in self.masks.items()}
                generator = Generators(self.work, number)
                self.problem.adapt(Lane(look, loss, views, masks, lane["memory"], generator))
            return
        self.fit.lr[k] = 0.0
        own = {n: array[k].copy() for n, array in self.weights.items()}
        self.state["kept"][f"{number} "] = own
        self.state["finished"][number] = progress.values()
        self.state["arrays"][number] = progress.arrays()
        if self.state["next"] < len(self.work.trials):
            self._replace(k, self.work.trials[self.state["next"]])
            self.state["next"] += 1

    def _replace(self, k: int, number: int) -> None:
        """A new trial in a lane; the chunk that is on its way is still the old one's."""
        lane = _begin(self.work, self.problem, number)
        self._attach(k, lane)
        self.streams[k] = _stream(self.work, self.problem, number)
        self.progress[k], self.drawn[k] = Progress(self.problem, number, lane), 0
        self.lanes[k] = lane

    def _tell(self) -> None:
        finished = self.state["finished"].values()
        last = self.problem.stages[-1].name
        solved = sum([bool(values[last]) for values in finished])
        most = max([lane["seen"] for lane in self.lanes.values()])
        self.work.status(
            f"{len(finished)} of {len(self.work.trials)} trials done, {solved} of them "
            f"{last}; sequence {most:,}"
        )


def _one_ahead(chunks: Iterator[Sequences]) -> Iterator[Sequences]:
    """The chunks, each drawn before the one before it is given, as `fit_online` does."""
    ahead = next(chunks, None)
    while ahead is not None:
        now, ahead = ahead, next(chunks, None)
        yield now


def _side_by_side(drawn: Sequence[Drawn]) -> Sequences:
    """The trials' sequences as one chunk, padded to the longest."""
    steps = max([one.inputs.shape[1] for one in drawn])

    def joined(name: str) -> np.ndarray | None:
        arrays = [getattr(one, name) for one in drawn]
        if all(array is None for array in arrays):
            return None
        filled = []
        for one, array in zip(drawn, arrays, strict=True):
            n, own = one.inputs.shape[:2]
            if array is None:
                array = np.full(n, own) if name == "lengths" else np.ones((n, own), bool)
            over_time = name in ("inputs", "mask") or (name == "targets" and _has_steps(one))
            if over_time and own < steps:
                array = np.concatenate(
                    [array, np.zeros((n, steps - own, *array.shape[2:]), array.dtype)], axis=1
                )
            filled.append(array)
        return np.stack(filled)

    lengths = joined("lengths")
    if lengths is None and any(one.inputs.shape[1] < steps for one in drawn):
        lengths = np.stack([np.full(one.inputs.shape[0], one.inputs.shape[1]) for one in drawn])
    inputs, targets = joined("inputs"), joined("targets")
    assert inputs is not None
    assert targets is not None
    return Sequences(inputs, targets, lengths, joined("mask"))


def _has_steps(drawn: Drawn) -> bool:
    """Whether there are targets at every step, not only at a sequence's end."""
    classes = drawn.targets.dtype.kind in "iu"
    return drawn.targets.ndim == (2 if classes else 3)


def show(
    network: Network, weights: Mapping[str, np.ndarray], drawn: Sequence[Drawn]
) -> list[Tested]:
    """What networks, unchanged, make of sequences: K of each, weights with a leading K."""
    chunk = _side_by_side(drawn)
    [errors] = fit_online(
        network.cell,
        dict(weights),
        [chunk],
        0.0,
        output=network.output,
        block_size=network.size,
        outputs=True,
    )
    assert errors.outputs is not None
    return [
        Tested(one, errors.worst[k], _cut(one, errors.outputs[k])) for k, one in enumerate(drawn)
    ]


def _cut(drawn: Drawn, outputs: np.ndarray) -> np.ndarray:
    return outputs[:, : drawn.inputs.shape[1]] if _has_steps(drawn) else outputs


def examine(
    work: Work,
    network: Network,
    numbers: Sequence[int],
    weights: Sequence[Mapping[str, np.ndarray]],
    streams: Sequence[Any],
    count: int,
) -> list[Tested]:
    """Each trial's network on `count` new sequences of its own; several of one trial see the same.

    Returns a `Tested` for each, its sequences in one piece.
    """
    stacked = {name: np.stack([own[name] for own in weights]) for name in network.shapes}
    pieces: list[list[Tested]] = []
    for i, at in enumerate(range(0, count, PIECE)):
        drawn = []
        for number, stream in zip(numbers, streams, strict=True):
            draw = getattr(stream, "exam", stream.draw)
            drawn.append(draw(work.generator("exam", i, trial=number), min(PIECE, count - at)))
        pieces.append(show(network, stacked, drawn))
    return [_in_one_piece([piece[k] for piece in pieces]) for k in range(len(numbers))]


def _in_one_piece(pieces: Sequence[Tested]) -> Tested:
    steps = max([piece.drawn.inputs.shape[1] for piece in pieces])

    def joined(arrays: Sequence[Any], over_time: bool) -> Any:
        if arrays[0] is None:
            return None
        if over_time:
            arrays = [
                np.pad(a, [(0, 0), (0, steps - a.shape[1]), *[(0, 0)] * (a.ndim - 2)])
                for a in arrays
            ]
        return np.concatenate(arrays)

    drawn, has_steps = [piece.drawn for piece in pieces], _has_steps(pieces[0].drawn)
    whole = Drawn(
        joined([one.inputs for one in drawn], True),
        joined([one.targets for one in drawn], has_steps),
        joined([one.lengths for one in drawn], False),
        joined([one.mask for one in drawn], True),
    )
    return Tested(
        whole,
        np.concatenate([piece.worst for piece in pieces]),
        joined([piece.outputs for piece in pieces], has_steps),
    )


def _trials(work: Work, problem: Problem, state: dict[str, Any]) -> list[Trial]:
    """The results, with the tests on new sequences."""
    kept, names = state["kept"], [stage.name for stage in problem.stages]
    values = {number: dict(state["finished"][number]) for number in work.trials}
    if problem.score is not None:
        asked = [(number, name) for number in work.trials for name in names]
        streams = {number: _stream(work, problem, number) for number in work.trials}
        for at in range(0, len(asked), LANES):
            part = asked[at : at + LANES]
            weights = [kept.get(f"{n} {name}", kept[f"{n} "]) for n, name in part]
            numbers = [number for number, _ in part]
            own = [streams[number] for number in numbers]
            tested = examine(work, problem.network, numbers, weights, own, problem.exam)
            for (number, name), one in zip(part, tested, strict=True):
                scored = problem.score(one)
                values[number] |= {f"{name}_{key}": value for key, value in scored.items()}
    return [
        Trial(number, values[number], kept[f"{number} "], state["arrays"][number])
        for number in work.trials
    ]


# ---------------------------------------------------------------------------------------------
# What a reader of today would try first


@dataclass(frozen=True, kw_only=True)
class Modern:
    """A network of today: a cell with a forget gate, minibatches, Adam, clipped gradients.

    Attributes
    ----------
    cell
        A name of `readers_cell.LIBRARY`, or FILE.py:NAME.
    hidden_size, batch, learning_rate
        Units, sequences an update, and Adam's step size.
    remember
        First bias of the gate that keeps the state.
    clip
        Longest gradient.
    """

    cell: str = "lstm"
    hidden_size: int = 16
    batch: int = 32
    learning_rate: float = 0.01
    remember: float = 4.0
    clip: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ModernSettings(Settings):
    """Settings of an experiment beside whose networks one of today is trained."""

    cell: str = "lstm"
    """Of today's network, trained beside the paper's: a cell's name, or FILE.py:NAME."""
    hidden_size: int = 16
    """Its units."""
    batch: int = 32
    """Sequences an update of it."""
    learning_rate: float = 0.01
    """Its step size, of Adam."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "hidden_size", "batch")
        check_learning_rate(self.learning_rate)

    @property
    def modern(self) -> Modern:
        """What `fit_modern` trains."""
        return Modern(
            cell=self.cell,
            hidden_size=self.hidden_size,
            batch=self.batch,
            learning_rate=self.learning_rate,
        )


class ModernNetwork(nn.Module):
    """A recurrent layer over the whole sequence, and output units at every step."""

    def __init__(self, layer: nn.Module, width: int, outputs: int, generator: mt.Generator) -> None:
        self.layer = layer
        self.readout = nn.Linear(width, outputs, generator=generator)

    def forward(self, x: Any) -> Any:
        """From x (T, B, I) to the output units before their squashing, (T, B, O)."""
        seen, _ = self.layer(x)
        return self.readout(seen)


def fit_modern(work: Work, problem: Problem, modern: Modern) -> list[Trial]:
    """The same data and the same criteria for a network of today; the trials one after the other.

    Its outputs are squashed as those of `problem.network`, whose loss is the cross-entropy where
    they are probabilities, and else the squared error. Values are those of `fit`.
    """
    with readers_cell.blaming(modern.cell), _driver(problem):
        return _fit_modern(work, problem, modern)


def _fit_modern(work: Work, problem: Problem, modern: Modern) -> list[Trial]:
    inputs, outputs = problem.network.inputs, problem.network.outputs

    def made(number: int) -> ModernNetwork:
        generator = work.generator("modern weights", trial=number)
        layer, width = readers_cell.build(
            modern.cell,
            inputs,
            modern.hidden_size,
            generator=generator,
            remember=modern.remember,
        )
        return ModernNetwork(layer, width, outputs, generator)

    model = made(work.trials[0])
    optimizer = mt.optim.Adam(model.parameters(), lr=modern.learning_rate)
    fresh = optimizer.state_dict()
    first = Progress(problem, work.trials[0]).state
    state: dict[str, Any] = {"at": 0, "trial": first, "kept": {}, "finished": {}}
    each = math.ceil(problem.cap / problem.looks)
    logged = max(problem.looks, problem.cap // 500 // problem.looks * problem.looks)
    stream, of = None, -1
    for _ in work.steps(each * len(work.trials), model=model, optimizer=optimizer, state=state):
        number = work.trials[state["at"]]
        if of != number:
            stream, of = _stream(work, problem, number), number
        progress = Progress(problem, number, state["trial"])
        drawn = stream.draw(
            work.generator("data", progress.state["chunks"], trial=number), problem.looks
        )
        worst = []
        for at in range(0, problem.looks, modern.batch):
            part = _part(drawn, at, min(at + modern.batch, problem.looks))
            worst.append(_update(model, optimizer, problem, modern, part))
        progress.state["chunks"] += 1
        look = progress.add(np.concatenate(worst))
        for what, wanted in problem.shown:
            if wanted(look) and (own := _set(stream, what, look)) is not None:
                look = look._replace(**{what: _shown(model, problem, own)})
        for name in progress.reached(look):
            state["kept"][f"{number} {name}"] = _arrays(model)
        if look.seen % logged < problem.looks or progress.over:
            latest = look.recent[-min(WINDOW, look.seen) :]
            work.log(look.seen, trial=number, error=float(latest.mean()))
        if not progress.over:
            continue
        state["kept"][f"{number} "] = _arrays(model)
        state["finished"][number] = progress.values()
        state["at"] += 1
        if state["at"] == len(work.trials):
            break
        number = work.trials[state["at"]]
        model.load_state_dict(made(number).state_dict())
        optimizer.load_state_dict(fresh)
        state["trial"] = Progress(problem, number).state
    trials = []
    for number in work.trials:
        values = dict(state["finished"][number])
        stream = _stream(work, problem, number)
        for stage in problem.stages if problem.score is not None else ():
            weights = state["kept"].get(f"{number} {stage.name}", state["kept"][f"{number} "])
            model.load_state_dict(weights)
            draw = getattr(stream, "exam", stream.draw)
            tested = [
                _shown(
                    model,
                    problem,
                    draw(work.generator("exam", i, trial=number), min(PIECE, problem.exam - at)),
                )
                for i, at in enumerate(range(0, problem.exam, PIECE))
            ]
            scored = problem.score(_in_one_piece(tested))
            values |= {f"{stage.name}_{key}": value for key, value in scored.items()}
        if readers_cell.is_file(modern.cell):
            values["cell_file"] = readers_cell.version(modern.cell)
        trials.append(Trial(number, values, state["kept"][f"{number} "]))
    return trials


def _arrays(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


def _part(drawn: Drawn, start: int, stop: int) -> Drawn:
    return Drawn(*[None if array is None else array[start:stop] for array in drawn])


def _targets(problem: Problem, drawn: Drawn) -> tuple[np.ndarray, np.ndarray]:
    """Targets as numbers (N, T or 1, O), and which of them there are (N, T or 1)."""
    targets, (n, steps) = drawn.targets, drawn.inputs.shape[:2]
    if targets.dtype.kind in "iu":
        targets = np.eye(problem.network.outputs, dtype=np.float32)[targets]
    if not _has_steps(drawn):
        return targets[:, None], np.ones((n, 1), bool)
    lengths = np.full(n, steps) if drawn.lengths is None else drawn.lengths
    used = np.arange(steps) < lengths[:, None]
    return targets, used if drawn.mask is None else used & drawn.mask


def _answers(model: ModernNetwork, problem: Problem, drawn: Drawn) -> Any:
    """The output units (N, T or 1, O), before they are squashed."""
    x = drawn.inputs
    if x.dtype.kind in "iu":
        x = np.eye(problem.network.inputs, dtype=np.float32)[x]
    net = model(mt.tensor(np.ascontiguousarray(x.swapaxes(0, 1))))
    if _has_steps(drawn):
        return mt.swapaxes(net, 0, 1)
    n, steps = drawn.inputs.shape[:2]
    last = np.full(n, steps) if drawn.lengths is None else drawn.lengths
    return net[(last - 1, np.arange(n))][:, None]


def _squashed(problem: Problem, net: np.ndarray) -> np.ndarray:
    if problem.network.output == "linear":
        return net
    return mt.sigmoid(net) if problem.network.output == "sigmoid" else mt.softmax(net, axis=-1)


def _worst(found: np.ndarray, targets: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Each sequence's largest error, (N,)."""
    return np.where(used[..., None], np.abs(found - targets), 0).max((1, 2))


def _update(
    model: ModernNetwork, optimizer: Any, problem: Problem, modern: Modern, drawn: Drawn
) -> np.ndarray:
    """One update; returns each sequence's largest error before it."""
    targets, used = _targets(problem, drawn)
    net = _answers(model, problem, drawn)
    aim, weight = mt.tensor(targets.astype(np.float32)), mt.tensor(used[..., None] / used.sum())
    weight = weight.astype(np.float32)
    if problem.network.output == "linear":
        losses = (net - aim) ** 2
    elif problem.network.output == "sigmoid":
        losses = nn.functional.binary_cross_entropy_with_logits(net, aim, reduction="none")
    else:
        losses = -aim * mt.log_softmax(net, axis=-1)
    loss = (losses * weight).sum()
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), modern.clip)
    optimizer.step()
    return _worst(_squashed(problem, net.detach().numpy()), targets, used)


def _shown(model: ModernNetwork, problem: Problem, drawn: Drawn) -> Tested:
    """What the network, unchanged, makes of some sequences."""
    with mt.no_grad():
        found = _squashed(problem, _answers(model, problem, drawn).numpy())
    outputs = found if _has_steps(drawn) else found[:, 0]
    return Tested(drawn, _worst(found, *_targets(problem, drawn)), outputs)


# ---------------------------------------------------------------------------------------------
# No learning at all


def fit_guesses(
    work: Work,
    problem: Problem,
    network: guessing.Guessed,
    right: float,
    guesses: int,
    but: int = 0,
) -> list[Trial]:
    """Guess all weights of a network at random, until one meets the problem's last criterion.

    The criterion is shown the trial's test set, which the problem's stream must have, and of all
    networks those that are wrong (their error is not below `right`) on at most `but` sequences of
    it. Values are those of `fit` for the last stage, with the number of guesses, at most `guesses`,
    in the place of that of sequences.
    """
    stage, judge = problem.stages[-1], guessing.within(right)
    kept: dict[str, Any] = {"values": {}, "weights": {}}
    for at in work.steps(len(work.trials), kept=kept):
        number = work.trials[at]
        stream = _stream(work, problem, number)
        shown = stream.test.inputs[..., 0], stream.test.targets[:, 0], stream.test.lengths
        generator, tried, reached = work.generator("guesses", trial=number), 0, False
        while not reached and tried < guesses:
            cap = guesses - tried
            found = guessing.search(network, [generator], *shown, right=judge, cap=cap, allowed=but)
            tried += int(found.guesses[0])
            tested = _run_through(network, found.weights, stream.test)
            reached = stage.reached(Look(tried, tested.worst, tested))
        values = {stage.name: reached, f"{stage.name}_sequences": tried}
        if problem.score is not None:
            draw = getattr(stream, "exam", stream.draw)
            new = draw(work.generator("exam", 0, trial=number), problem.exam)
            scored = problem.score(_run_through(network, found.weights, new))
            values |= {f"{stage.name}_{key}": value for key, value in scored.items()}
        kept["values"][f"{number}"], kept["weights"][f"{number}"] = values, found.weights[0]
    return [
        Trial(n, kept["values"][f"{n}"], {"weights": kept["weights"][f"{n}"]}) for n in work.trials
    ]


def _run_through(network: guessing.Guessed, weights: np.ndarray, drawn: Drawn) -> Tested:
    outputs = guessing.run(weights, drawn.inputs[..., 0], drawn.lengths, network.in_order).T
    return Tested(drawn, np.abs(outputs - drawn.targets)[:, 0], outputs)
