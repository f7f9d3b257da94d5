"""Document 001's styles of truncated back-propagation: how far does an error go back?

A network reads an endless stream; its errors cannot be sent back to the beginning. *Windows* cut
the stream into pieces of n steps and send no error over a border: in a window the last error goes
back n steps, the first a single one. That is what a framework does if one lets it. *True* n-step
truncation sends every error back n steps exactly: n times the work.

Document 001 retells r2rt's "Styles of truncated backpropagation", which compares the two on the
words of the Penn Treebank. That corpus is licensed, so the same comparison is made here on the
document's binary echo, whose levels are exact, and with `--corpus PATH` on any text.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import microtensor as mt
from microtensor.nn.functional import linear
from models.binary_echo import initial_weights
from models.truncated_bptt import EchoReader, WordReader
from tasks import plots
from tasks.binary_echo import BOTH, EFFECTS, LADDER, ONLY_3, draw, side_by_side
from tasks.harness import (
    Level,
    Row,
    Run,
    Settings,
    Task,
    Trial,
    UsageError,
    at_least,
    at_most,
    check_counts,
    highest_of,
    judged,
    median_of,
    within,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tasks.work import Work

Reader = EchoReader | WordReader

# -- the two styles


def through_window(
    model: Reader, embedded: mt.Tensor, state: mt.Tensor
) -> tuple[mt.Tensor, mt.Tensor]:
    """Read one window; an error goes back to the window's beginning.

    Parameters
    ----------
    embedded
        The inputs of the window, `(n, B, I)`.
    state
        The state before it, `(B, H)`; no error reaches what made it.

    Returns
    -------
    The logits `(n, B, C)` and the state after the window, `(B, H)`, both recorded.
    """
    states, last = model.rnn(embedded, mt.expand_dims(mt.detach(state), 0))
    return model.logits(states), last[0]


def through_n_steps(
    model: Reader, embedded: mt.Tensor, state: mt.Tensor, n: int, past: int = 0
) -> tuple[mt.Tensor, mt.Tensor]:
    """Read a stretch so that the error of every step goes back exactly n steps.

    First the states are computed without a record. Then every step t is read again from the state
    n steps before, all t side by side: one graph of n steps over a batch as much larger.

    Parameters
    ----------
    embedded
        `(past + W, B, I)`: the inputs of the W steps that have an error, and the `past` inputs
        before, which n - 1 steps back from the first of them reach. Where the stream has just
        begun there are fewer, and the errors go back to its beginning.
    state
        The state before all of them, `(B, H)`.
    n
        How many steps an error goes back, its own included.

    Returns
    -------
    The logits of the W steps `(W, B, C)`, recorded; and the states before and after every step,
    `(past + W + 1, B, H)`, without a record.
    """
    state = mt.detach(state)
    with mt.no_grad():
        outputs, _ = model.rnn(mt.detach(embedded), mt.expand_dims(state, 0))
        states = mt.concatenate([mt.expand_dims(state, 0), outputs])
    steps, batch, _ = embedded.shape
    ends = np.arange(past, steps)
    starts = np.maximum(ends - (n - 1), 0)
    read = np.minimum(starts + np.arange(n)[:, None], steps - 1)  # (n, W)
    windows = mt.take(embedded, read, axis=0).reshape((n, ends.size * batch, -1))
    before = mt.take(states, starts, axis=0).reshape((1, ends.size * batch, -1))
    lengths = np.repeat(ends - starts + 1, batch)
    _, last = model.rnn(windows, before, None if lengths.min() == n else lengths)
    return model.logits(last[0].reshape((ends.size, batch, -1))), states


_loss = mt.nn.CrossEntropyLoss()


def loss_of(logits: mt.Tensor, targets: np.ndarray) -> mt.Tensor:
    """Cross-entropy in nats, the mean over all steps and rows."""
    return _loss(logits.reshape((-1, logits.shape[-1])), mt.tensor(targets.reshape(-1)))


# -- what is compared

ORIGINAL_SEQUENCE = {5: 20, 10: 30, 20: 40}
"""Steps between two updates of the original's true n-step runs, by n."""

UPSTREAM = {
    ("true", 5): (5.12, 5.01, 5.09),
    ("windows", 5): (5.21, 5.04, 5.04),
    ("true", 10): (5.07, 5.00, 5.12),
    ("windows", 10): (5.15, 5.03, 5.05),
    ("true", 20): (5.05, 5.00, 5.15),
    ("windows", 20): (5.11, 4.99, 5.08),
    ("windows", 40): (5.05, 4.99, 5.15),
}
"""The original's lowest validation cross-entropies (nats a word) at its three learning rates."""
UPSTREAM_RATES = (0.003, 0.001, 0.0003)
UPSTREAM_RATIO = (97.8 / 5.29e-8) ** (1 / 19)
"""Of the original's gradient norms of neighbouring steps; geometric mean of 19, from 2.51 to
4.30."""


@dataclass(frozen=True)
class Condition:
    """One cell of the table: a style, its n, and a learning rate."""

    style: Literal["true", "windows"]
    n: int
    rate: float

    @property
    def name(self) -> str:
        """The variant's name in files: `true5_lr0.01`."""
        return f"{self.style}{self.n}_lr{self.rate:g}"

    @property
    def title(self) -> str:
        """In words, without the rate: "true 5", "windows of 10"."""
        return _title(self.style, self.n)


def _title(style: str, n: int) -> str:
    return f"true {n}" if style == "true" else f"windows of {n}"


@dataclass(frozen=True, kw_only=True)
class TruncationSettings(Settings):
    """The styles and their n are the document's; on the echo the rest is ours."""

    trials: int = 10
    """Independent repetitions; each has its own weights and data."""
    steps: tuple[int, ...] = (5, 10, 20)
    """n of both styles; windows are also tried with twice the last."""
    learning_rates: tuple[float, ...] = (0.03, 0.01, 0.003)
    """Step sizes of Adam, each tried, the best one compared (original, on words: 0.003 0.001
    0.0003)."""
    units: int = 16
    """Units of the recurrent layer (original, on words: 100)."""
    batch: int = 50
    """Stretches of the stream that are read side by side (original, on words: 32)."""
    symbols: int = 400_000
    """Length of the echo's stream of one epoch; a corpus has its own."""
    epochs: int = 1
    """Passes over the stream; the echo draws a new one for each (original, on words: 20)."""
    evaluations: int = 10
    """How often the validation stream is read; the lowest cross-entropy counts."""
    updates: Literal["equal", "original"] = "equal"
    """When true n-step updates the weights: after n steps, as windows do, or after the original's
    20, 30, 40 for n = 5, 10, 20."""
    corpus: str = ""
    """A text, or a folder with ptb.train.txt and ptb.valid.txt, whose words are read instead of the
    echo."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "units", "batch", "epochs", "evaluations")
        for name in ("steps", "learning_rates"):
            given = getattr(self, name)
            if not given or list(given) != sorted(set(given), reverse=name != "steps"):
                order = "rising" if name == "steps" else "falling"
                raise ValueError(f"{name} must be one or more {order} numbers; got {given}")
        if self.steps[0] < 1:
            raise ValueError(f"steps must be at least 1; got {self.steps}")
        if not all(0 <= rate < math.inf for rate in self.learning_rates):
            raise ValueError(f"learning_rates must be numbers from 0 up; got {self.learning_rates}")
        if not self.corpus and self.symbols < 4 * self.steps[-1] * self.batch:
            raise ValueError(
                f"symbols must be at least {4 * self.steps[-1]} for each of the {self.batch} "
                f"stretches; got {self.symbols}"
            )
        if self.corpus and not Path(self.corpus).exists():
            raise ValueError(
                f"corpus: there is no {self.corpus}; give a text file, or a folder with "
                "ptb.train.txt and ptb.valid.txt"
            )


def pairs(settings: TruncationSettings) -> list[tuple[Literal["true", "windows"], int]]:
    """Style and n of everything that is compared."""
    found: list[tuple[Literal["true", "windows"], int]] = []
    for n in settings.steps:
        found += [("true", n), ("windows", n)]
    return [*found, ("windows", 2 * settings.steps[-1])]


def conditions(settings: TruncationSettings) -> dict[str, Condition]:
    """Every cell of the table, by variant name."""
    found = [
        Condition(style, n, rate)
        for style, n in pairs(settings)
        for rate in settings.learning_rates
    ]
    return {condition.name: condition for condition in found}


def between_updates(condition: Condition, settings: TruncationSettings) -> int:
    """Steps that are read before the weights change."""
    if condition.style == "windows" or settings.updates == "equal":
        return condition.n
    return ORIGINAL_SEQUENCE.get(condition.n, 2 * condition.n)


# -- streams


@dataclass(frozen=True)
class Streams:
    """What is read and what is to be said, time first: int64 `(T, B)` each."""

    x: np.ndarray
    y: np.ndarray


def echo_streams(generator: mt.Generator, symbols: int, batch: int) -> Streams:
    """Bits and their echo; see `tasks.binary_echo`."""
    stream, echo = draw(generator, symbols)
    return Streams(side_by_side(stream, batch), side_by_side(echo, batch))


@dataclass(frozen=True)
class Corpus:
    """A text as numbers: training and validation words, and how many different ones there are."""

    train: np.ndarray
    valid: np.ndarray
    words: int


VOCABULARY = 10_000
END, UNKNOWN = "<eos>", "<unk>"


@cache
def read_corpus(path: str) -> Corpus:
    """Read a text of words between blanks; the end of a line is a word of its own.

    A folder must hold the Penn Treebank's `ptb.train.txt` and `ptb.valid.txt`, as Mikolov prepared
    them; of a single file the last tenth of the words validates. The 10,000 most frequent words of
    the training part are known, all others are one unknown word.

    Raises
    ------
    UsageError
        The text cannot be read, or has fewer than a hundred words.
    """
    place = Path(path)
    try:
        if place.is_dir():
            train, valid = (_words(place / f"ptb.{part}.txt") for part in ("train", "valid"))
        else:
            text = _words(place)
            train, valid = text[: len(text) * 9 // 10], text[len(text) * 9 // 10 :]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--corpus: {place} cannot be read as a text: {error}") from error
    if len(train) + len(valid) < 100:
        raise UsageError(
            f"--corpus: {place} has {len(train) + len(valid)} words; give at least a hundred"
        )
    counts = Counter(train)
    known = sorted(counts, key=lambda word: (-counts[word], word))[:VOCABULARY]
    number = {word: i for i, word in enumerate(known)}
    unknown = number.setdefault(UNKNOWN, min(len(known), VOCABULARY - 1))
    numbers = [np.array([number.get(word, unknown) for word in part]) for part in (train, valid)]
    return Corpus(*numbers, words=max(number.values()) + 1)


def _words(place: Path) -> list[str]:
    return place.read_text(encoding="utf-8").replace("\n", f" {END} ").split()


def word_streams(words: np.ndarray, batch: int) -> Streams:
    """Every word and the one that follows it."""
    return Streams(side_by_side(words[:-1], batch), side_by_side(words[1:], batch))


# -- training


def build(work: Work) -> Reader:
    """The network of this trial; the same first weights in every condition."""
    settings: TruncationSettings = work.settings
    generator = work.generator("weights")
    if settings.corpus:
        words = read_corpus(settings.corpus).words
        return WordReader(words, hidden_size=settings.units, generator=generator)
    return EchoReader(initial_weights(generator, settings.units))


def streams_of(work: Work, epoch: int) -> Streams:
    """What one epoch reads."""
    settings: TruncationSettings = work.settings
    if settings.corpus:
        return word_streams(read_corpus(settings.corpus).train, settings.batch)
    return echo_streams(work.generator("data", epoch), settings.symbols, settings.batch)


def validation_of(work: Work) -> Streams:
    """What all conditions of a trial are judged on: a quarter as long as the echo's epoch."""
    settings: TruncationSettings = work.settings
    if settings.corpus:
        return word_streams(read_corpus(settings.corpus).valid, settings.batch)
    return echo_streams(work.generator("validation"), settings.symbols // 4, settings.batch)


CHUNK = 20  # steps of validation at once: the scores of 10,000 words are large


def evaluate(model: Reader, streams: Streams) -> float:
    """Cross-entropy over a whole stream, its state carried on and on."""
    model.eval()
    losses = []
    units = model.readout.in_features
    state = mt.zeros((streams.x.shape[1], units), dtype=model.readout.weight.dtype)
    with mt.no_grad():
        for first in range(0, len(streams.x), CHUNK):
            span = slice(first, first + CHUNK)
            logits, state = through_window(model, model.embed(streams.x[span]), state)
            losses.append(loss_of(logits, streams.y[span]).item() * len(streams.x[span]))
    model.train()
    return sum(losses) / len(streams.x)


def train(work: Work) -> list[Trial]:
    """Train one condition, or work out what needs no training."""
    if work.variant == "exact":
        return exact(work)
    settings: TruncationSettings = work.settings
    condition = conditions(settings)[work.variant]
    [number] = work.trials
    model = build(work)
    optimizer = mt.optim.Adam(model.parameters(), lr=condition.rate)
    length = len(streams_of(work, 0).x)
    stride = between_updates(condition, settings)
    updates = length // stride
    if updates == 0:
        raise UsageError(
            f"{work.variant}: a stretch of the stream has {length} steps, and one update takes "
            f"{stride}; lower --batch or --steps"
        )
    total = settings.epochs * updates
    every = max(1, total // settings.evaluations)
    validation = validation_of(work)
    nobody = mt.zeros((settings.batch, settings.units), dtype=model.readout.weight.dtype)
    carried: dict[str, Any] = {"state": nobody, "lowest": math.inf}
    streams = None
    for update in work.steps(total, model=model, optimizer=optimizer, carried=carried):
        epoch, position = divmod(update, updates)
        position *= stride
        if position == 0:
            carried["state"] = nobody
        if position == 0 or streams is None:
            streams = streams_of(work, epoch)
        if isinstance(model, WordReader):  # masks by number, so that a resumed run draws the same
            model.dropout.generator = work.generator("dropout", update)
        loss, carried["state"] = one_loss(model, condition, streams, position, stride, carried)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (update + 1) % every == 0:
            found = evaluate(model, validation)
            carried["lowest"] = min(carried["lowest"], found) if found == found else math.nan
            read = (update + 1) * stride * settings.batch
            work.log(update + 1, validation=found, training=loss.item(), symbols=read)
    values = {
        "validation": float(carried["lowest"]),
        "parameters": sum(parameter.size for parameter in model.parameters()),
    }
    if settings.corpus:
        corpus = read_corpus(settings.corpus)
        values |= {"words": corpus.words, "training_words": corpus.train.size}
    return [Trial(number, values, model.state_dict())]


def one_loss(
    model: Reader,
    condition: Condition,
    streams: Streams,
    position: int,
    stride: int,
    carried: Mapping[str, Any],
) -> tuple[mt.Tensor, mt.Tensor]:
    """The loss of `stride` steps from `position` on, and the state to be carried to the next.

    Windows carry the state after the last step. True n-step carries the state n - 1 steps before
    the next, which the errors of the next must reach.
    """
    end = position + stride
    if condition.style == "windows":
        embedded = model.embed(streams.x[position:end])
        logits, state = through_window(model, embedded, carried["state"])
        return loss_of(logits, streams.y[position:end]), mt.detach(state)
    past, next_past = (min(condition.n - 1, at) for at in (position, end))
    embedded = model.embed(streams.x[position - past : end])
    logits, states = through_n_steps(model, embedded, carried["state"], condition.n, past)
    return loss_of(logits, streams.y[position:end]), states[past + stride - next_past]


# -- what needs no training

EQUAL_STEPS = 12
REACH = 40  # steps whose errors are traced


def gradients(model: Reader, style: str, n: int, streams: Streams) -> dict[str, np.ndarray]:
    """Gradients of the mean loss of a short stream from an empty state, by parameter name."""
    state = mt.zeros((streams.x.shape[1], model.readout.in_features), dtype="float64")
    parts = []
    if style == "true":
        logits, _ = through_n_steps(model, model.embed(streams.x), state, n)
        parts.append(logits)
    else:
        for first in range(0, len(streams.x), n):
            logits, state = through_window(model, model.embed(streams.x[first : first + n]), state)
            parts.append(logits)
    names, weights = zip(*model.named_parameters(), strict=True)
    found = mt.grad([loss_of(mt.concatenate(parts), streams.y)], weights)
    return {name: gradient.numpy() for name, gradient in zip(names, found, strict=True)}


def reach(model: EchoReader, style: str, n: int, bits: np.ndarray) -> dict[int, float]:
    """By delay of the echo: the share of errors from which a gradient reaches the bit so far back.

    `bits` has shape `(T, 1)`; the errors of its last `REACH` steps are traced, one by one.
    """
    embedded = model.embed(bits).requires_grad_()
    state = mt.zeros((1, model.readout.in_features), dtype="float64")
    parts = []
    if style == "true":
        parts.append(through_n_steps(model, embedded, state, n)[0])
    else:
        for first in range(0, len(bits), n):
            logits, state = through_window(model, embedded[first : first + n], state)
            parts.append(logits)
    says = mt.concatenate(parts)[:, 0, 1]
    arrived = dict.fromkeys(EFFECTS, 0)
    for t in range(len(bits) - REACH, len(bits)):
        [gradient] = mt.grad([says[t]], [embedded], retain_graph=True)
        for delay in EFFECTS:
            arrived[delay] += bool(np.abs(gradient.numpy()[t - delay]).max() > 0)
    return {delay: count / REACH for delay, count in arrived.items()}


def share_within(style: str, n: int, delay: int) -> float:
    """What `reach` must find: an error travels `delay` steps and is read in the step it arrives.

    True n-step: all errors or none. In a window the errors of the positions from `delay` on.
    """
    if style == "true":
        return float(n > delay)
    return max(0, n - delay) / n


def parts_by_distance(
    model: WordReader, x: mt.Tensor, state: mt.Tensor, targets: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """What each step's use of the weights adds to the gradient of the last error.

    The gradient of the last step's loss by a weight is a sum over the steps in which it was used.
    Every step is given weights of its own, equal to all others, so that the parts can be told
    apart.

    Parameters
    ----------
    x, state, targets
        The inputs `(T, B, I)`, the state before them `(B, H)`, and the words after them `(B,)`.

    Returns
    -------
    By distance from the last step: the parts of `weight_ih` and of `weight_hh`.
    """
    steps = len(x)
    of_input, of_state = (
        [mt.detach(weight).astype("float64").requires_grad_() for _ in range(steps)]
        for weight in (model.rnn.weight_ih_l0, model.rnn.weight_hh_l0)
    )
    h = state
    for x_t, w, u in zip(mt.unstack(x), of_input, of_state, strict=True):
        [h] = model.rnn.cell.step(linear(x_t, w, model.rnn.bias_ih_l0), linear(h, u), (h,))
    found = mt.grad([loss_of(model.logits(h), targets)], [*of_input, *of_state])
    parts = [gradient.numpy() for gradient in found]
    return list(zip(parts[:steps], parts[steps:], strict=True))[::-1]


def norms_by_distance(units: int, words: int, generator: mt.Generator, steps: int) -> np.ndarray:
    """The original's measurement: L1 norms of the parts, at a word model's first weights.

    The kernel is that of input and state together. Returns the norms by distance, `(steps,)`.
    """
    model = WordReader(words, hidden_size=units, dropout=0.0, dtype="float64", generator=generator)
    x = model.embed(generator.integers(0, words, (steps, 32)))
    # A state of some size, as in the middle of a text.
    state = mt.tensor(0.1 * generator.normal((32, units), np.float64))
    parts = parts_by_distance(model, x, state, generator.integers(0, words, (32,)))
    return np.array([sum(np.abs(part).sum() for part in step) for step in parts])


def exact(work: Work) -> list[Trial]:
    """Equality where n covers the sequence, what reaches how far, and the vanishing by distance."""
    settings: TruncationSettings = work.settings
    [number] = work.trials
    values: dict[str, float] = {}
    arrays: dict[str, np.ndarray] = {}
    model = EchoReader(initial_weights(work.generator("exact"), settings.units, "float64"))
    streams = echo_streams(work.generator("short"), 3 * EQUAL_STEPS, 3)
    whole = gradients(model, "windows", EQUAL_STEPS, streams)
    for name, n in (("covered", EQUAL_STEPS), ("more", 2 * EQUAL_STEPS), ("shorter", 5)):
        true = gradients(model, "true", n, streams)
        differs = [np.abs(true[key] - whole[key]).max() for key in whole]
        values[f"differs_{name}"] = float(np.max(differs))  # max would pass over a NaN
    bits = work.generator("reach").integers(0, 2, (2 * REACH, 1))
    for style, n in pairs(settings):
        for delay, share in reach(model, style, n, bits).items():
            values[f"reach_{style}{n}_{delay}"] = share
    for units in (4, 100):
        norms = norms_by_distance(units, VOCABULARY, work.generator("by distance", units), 20)
        arrays[f"norms_{units}"] = norms
        values[f"ratio_{units}"] = float((norms[0] / norms[-1]) ** (1 / (len(norms) - 1)))
        ratios = norms[:-1] / norms[1:]
        values[f"ratio_lowest_{units}"] = float(ratios.min())
        values[f"ratio_highest_{units}"] = float(ratios.max())
    return [Trial(number, values, model.state_dict(), arrays)]


# -- rows


def best_rate(run: Run, style: str, n: int) -> tuple[float, list[float]]:
    """The learning rate with the lowest median, and every trial's cross-entropy with it."""
    found = {
        c.rate: run.values("validation", name)
        for name, c in conditions(run.settings).items()
        if (c.style, c.n) == (style, n)
    }
    # A rate at which a trial diverged is never the best one while another is left.
    medians = {rate: median_of(values)["value"] for rate, values in found.items()}
    rate = min(medians, key=lambda r: medians[r] if medians[r] == medians[r] else math.inf)
    return rate, found[rate]


def rows(run: Run) -> list[Row]:
    """What holds exactly, what each style and n learns, and the document's two sentences."""
    return [*_exact_rows(run), *_learnt_rows(run), *_claim_rows(run)]


def _exact_rows(run: Run) -> list[Row]:
    def worst(name: str) -> dict[str, Any]:
        return highest_of(run.values(name, "exact"))

    zero: dict[str, Any] = {"target": 0.0, "tolerance": at_most(1e-10)}
    table = [
        Row(
            f"n = {n}, a sequence of {EQUAL_STEPS}: largest difference of the styles' gradients",
            **worst(f"differs_{name}"),
            **zero,
            source="upstream",
            note="Where n covers the sequence, both are the whole gradient.",
        )
        for name, n in (("covered", EQUAL_STEPS), ("more", 2 * EQUAL_STEPS))
    ]
    table.append(
        Row(
            f"n = 5, a sequence of {EQUAL_STEPS}: largest difference from the whole gradient",
            **worst("differs_shorter"),
        )
    )
    for style in ("true", "windows"):
        missed = [
            abs(share - share_within(style, n, delay))
            for own, n in pairs(run.settings)
            if own == style
            for delay in EFFECTS
            for share in run.values(f"reach_{style}{n}_{delay}", "exact")
        ]
        share = "1 if n > d, else 0" if style == "true" else "(n - d)/n, or 0"
        table.append(
            Row(
                f"share of errors that reach d = 3 and 8 steps back, {style}: largest error",
                max(missed),
                target=0.0,
                source="computed",
                tolerance=at_most(1e-12),
                trials=run.settings.trials,
                note=f"Against {share}.",
            )
        )
    for units in (4, 100):
        # One draw of four units may lie anywhere.
        compared = units == 4 and run.preset != "quick"
        table.append(
            Row(
                f"gradient's L1 norm, ratio a step, {units} units beside 50 inputs",
                **median_of(run.values(f"ratio_{units}", "exact")),
                **judged(UPSTREAM_RATIO, "upstream", (2.0, 5.0), when=compared),
                levels=(Level("nothing vanishes", 1.0),),
                note="Upstream 2.51 to 4.30, from 97.8 to 5.29e-8 over 19 steps."
                if units == 4
                else "The size that was trained upstream: Glorot's limit belongs to input and "
                "state together, so that a small state starts with small recurrent weights.",
            )
        )
    return table


def is_original(run: Run) -> bool:
    """Whether the original's corpus was read with the original's settings."""
    s: TruncationSettings = run.settings
    if not s.corpus or run.preset == "quick":
        return False
    size = (run.trials[-1].values["words"], run.trials[-1].values["training_words"])
    same = (s.learning_rates, s.units, s.batch, s.epochs) == (UPSTREAM_RATES, 100, 32, 20)
    return same and s.updates == "original" and size == (VOCABULARY, 929_589)


def _learnt_rows(run: Run) -> list[Row]:
    settings: TruncationSettings = run.settings
    rates = len(settings.learning_rates)
    table = []
    for style, n in pairs(settings):
        rate, values = best_rate(run, style, n)
        upstream = UPSTREAM.get((style, n))
        note = f"Best at {rate:g}. "
        about: dict[str, Any] = {"unit": "nats"}
        if is_original(run) and upstream:
            best = min(upstream)
            about |= judged(best, "upstream", within(best, 0.05))
        if not settings.corpus:
            about["levels"] = LADDER
            if run.preset != "quick":
                # Between the two rungs, nearer to the last: the bit of eight steps ago is used.
                halfway = (ONLY_3 + BOTH) / 2
                about |= judged(BOTH, "computed", (BOTH - 0.006, halfway))
            share = ", ".join(f"{share_within(style, n, d):.0%} for {d}" for d in EFFECTS)
            note += f"Errors that reach the bit they depend on: {share}. "
        if upstream:
            note += f"Upstream, on words: {min(upstream):.2f}."
        table.append(
            Row(
                f"validation cross-entropy, {_title(style, n)}, best of {rates} rates",
                **median_of(values),
                **about,
                note=note.rstrip(),
            )
        )
    return table


def _claim_rows(run: Run) -> list[Row]:
    settings: TruncationSettings = run.settings
    known = pairs(settings)

    def more(n: int, windows: int) -> dict[str, Any]:
        """By how much windows are worse, trial by trial."""
        true, cut = best_rate(run, "true", n)[1], best_rate(run, "windows", windows)[1]
        return median_of([b - a for a, b in zip(true, cut, strict=True)])

    margin = 0.02 if settings.corpus else (ONLY_3 - BOTH) / 10
    judge = run.preset != "quick" and (is_original(run) or not settings.corpus)
    table = []
    for n in settings.steps:
        upstream = ""
        if ("true", n) in UPSTREAM:
            gain = min(UPSTREAM["windows", n]) - min(UPSTREAM["true", n])
            upstream = f"Upstream {gain:+.2f}. "
        table.append(
            Row(
                f"true {n} is no worse than windows of {n}: what it gains",
                **more(n, n),
                **judged(0.0, "upstream", at_least(-margin), when=judge),
                unit="nats",
                note=f"{upstream}Trial by trial, each style at its best rate.",
            )
        )
    for n in settings.steps:
        if ("windows", 2 * n) not in known:
            continue
        upstream = ""
        if ("true", n) in UPSTREAM:
            gain = min(UPSTREAM["windows", 2 * n]) - min(UPSTREAM["true", n])
            upstream = f"Upstream {gain:+.2f}. "
        table.append(
            Row(
                f"true {n} is about as good as windows of {2 * n}: what it gains",
                **more(n, 2 * n),
                **judged(0.0, "document", within(0.0, margin), when=judge),
                unit="nats",
                note=upstream.rstrip(),
            )
        )
    return table


# -- what is shown


def printout(run: Run) -> str:
    """Print the original's table, ours beside it: styles by learning rates."""
    settings: TruncationSettings = run.settings
    rates = settings.learning_rates
    lines = ["Lowest validation cross-entropy, median of the trials, by learning rate"]
    head = "".join(f"{rate:>9g}" for rate in rates)
    lines.append(
        f"{'':15}{head}       upstream, words: " + "  ".join(f"{r:g}" for r in UPSTREAM_RATES)
    )
    for style, n in pairs(settings):
        ours = "".join(
            f"{median_of(run.values('validation', Condition(style, n, rate).name))['value']:9.4f}"
            for rate in rates
        )
        theirs = "   ".join(f"{value:.2f}" for value in UPSTREAM.get((style, n), ()))
        lines.append(f"{_title(style, n):15}{ours}{'':24}{theirs}")
    lines += ["", "Share of the errors that reach the bit of 3, of 8 steps ago, by the engine"]
    for style, n in pairs(settings):
        shares = "".join(
            f"{run.values(f'reach_{style}{n}_{delay}', 'exact')[0]:8.0%}" for delay in EFFECTS
        )
        lines.append(f"{_title(style, n):15}{shares}")
    return "\n".join(lines)


STYLES = {"true": (plots.PALETTE[0], "-"), "windows": (plots.PALETTE[1], "--")}


def figures(run: Run) -> Mapping[str, Figure]:
    """Draw what is learnt by n, how it is learnt, who reaches how far, and the vanishing."""
    return {
        "by_n": _by_n_figure(run),
        "learning_curves": _curves_figure(run),
        "reach": _reach_figure(run),
        "gradient_by_distance": _distance_figure(run),
    }


def _by_n_figure(run: Run) -> Figure:
    figure, axes = plots.new_figure()
    settings: TruncationSettings = run.settings
    for style, (color, line) in STYLES.items():
        ns = [n for own, n in pairs(settings) if own == style]
        values = np.array([best_rate(run, style, n)[1] for n in ns])  # (n, trials)
        shift = 0.97 if style == "true" else 1.03  # side by side where n is the same
        at = np.array(ns) * shift
        axes.plot(at, np.median(values, axis=1), line, color=color, linewidth=2, label=style)
        axes.plot(
            np.repeat(at, values.shape[1]), values.ravel(), "o", color=color, ms=4, alpha=0.45
        )
    axes.set_xscale("log", base=2)
    ticks = [n for style, n in pairs(settings) if style == "windows"]
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.minorticks_off()
    axes.set_xlim(0.8 * ticks[0], 2.6 * ticks[-1])
    if not settings.corpus:
        plots.reference_levels(axes, LADDER[1:])
    axes.set(
        title="Every error n steps back, or windows of n?",
        xlabel="n (steps)",
        ylabel="validation cross-entropy (nats), best rate",
    )
    axes.legend(title="line: median, dots: trials", loc="center right", frameon=False)
    return figure


def _curves_figure(run: Run) -> Figure:
    settings: TruncationSettings = run.settings
    columns = len(settings.steps)
    figure, panels = plots.new_figure(1, columns, width=4.2 * columns, height=4.4, sharey=True)
    unit = "symbols" if not settings.corpus else "words"
    for axes, n in zip(np.atleast_1d(panels), settings.steps, strict=True):
        for style, k in (("true", n), ("windows", n), ("windows", 2 * n)):
            if (style, k) not in pairs(settings):
                continue
            color, line = STYLES[style]
            if k != n:
                color, line = plots.PALETTE[2], ":"
            name = Condition(style, k, best_rate(run, style, k)[0]).name  # type: ignore[arg-type]
            _, values = run.curve("validation", name)
            _, read = run.curve("symbols", name)
            plots.curves(
                axes, read[0] / 1000, values, label=_title(style, k), color=color, style=line
            )
        axes.set(title=f"n = {n}", xlabel=f"{unit} read (thousands)")
        if not settings.corpus:
            for level in LADDER[1:]:
                axes.axhline(level.value, color="0.35", linestyle=":", linewidth=1.2)
                axes.annotate(
                    level.name, xy=(0.01, level.value), xycoords=("axes fraction", "data"),
                    xytext=(0, 2), textcoords="offset points", fontsize=8, color="0.25",
                )  # fmt: skip
        # Below: a single trial may jump anywhere.
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False, fontsize=8)
    np.atleast_1d(panels)[0].set_ylabel("validation cross-entropy (nats)")
    figure.suptitle("Each style at its best learning rate")
    return figure


def _reach_figure(run: Run) -> Figure:
    figure, axes = plots.new_figure(width=8.5)
    known = pairs(run.settings)
    at = np.arange(len(known))
    for place, (delay, hatch) in enumerate(zip(EFFECTS, ("", "//"), strict=True)):
        shares = [run.values(f"reach_{style}{n}_{delay}", "exact")[0] for style, n in known]
        bars = axes.bar(
            at + 0.4 * place - 0.2,
            shares,
            0.38,
            color=plots.PALETTE[place],
            hatch=hatch,
            edgecolor="white",
            label=f"the bit of {delay} steps ago",
        )
        axes.bar_label(bars, [f"{100 * share:.0f}" for share in shares], fontsize=8, padding=1)
    axes.set_xticks(at, [_title(style, n).replace(" of ", "\nof ") for style, n in known])
    axes.set_ylim(0, 1.25)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.set(title="From how many errors does a gradient reach …", ylabel="share of all errors")
    axes.legend(loc="upper left", ncols=2, frameon=False)
    return figure


def _distance_figure(run: Run) -> Figure:
    figure, axes = plots.new_figure()
    for units, color in ((4, plots.PALETTE[0]), (100, plots.PALETTE[1])):
        lines = np.array([t.arrays[f"norms_{units}"] for t in run.of("exact")])
        lines = lines / lines[:, :1]
        plots.curves(axes, np.arange(20), lines, label=f"{units} units, ours", color=color)
    axes.plot(
        [0, 19],
        [1.0, 5.29e-8 / 97.8],
        "o",
        color="black",
        markersize=7,
        label="4 units, the original's first and last figure",
    )
    axes.set_yscale("log")
    axes.set_xticks(range(0, 20, 2))
    axes.set(
        title="What each step adds to the gradient of the last error",
        xlabel="steps back from the last",
        ylabel="L1 norm of the kernel's gradient, last step = 1",
    )
    axes.legend(loc="lower left", frameon=False)
    return figure


TASK = Task(
    name="truncated_bptt",
    documents=("001",),
    title="styles of truncated back-propagation: every error n steps back, or windows of n",
    claim=(
        "Document 001 (after r2rt's Styles of truncated backpropagation) tells of two ways to cut "
        "an endless gradient. Frameworks cut the stream into windows of n steps, so that an error "
        "goes back n steps only if it is the window's last. True n-step truncation sends every "
        "error back n steps. On the words of the Penn Treebank the original finds true 5 better "
        "than windows of 5, and true n about as good as windows of 2n.\n\n"
        "The corpus is licensed; here the same table is made of the binary echo, whose levels are "
        "exact. Its dependencies, 3 and 8 steps back, lie on either side of n = 5: windows of 5 "
        "teach the nearer one from two of five positions, true 5 from all, and neither style with "
        "n = 5 ever sends an error to the farther one; true 10 does from everywhere, windows of 10 "
        "from two of ten positions. Whatever n = 5 shows of the farther bit was never taught: with "
        "16 units the state happens to hold it, and the read-out finds it.\n\n"
        "Corrections. The document gives the sentence on n and 2n as the original's result; it is "
        "an observation on its best learning rates, and holds there within 0.02 nats. What "
        "Williams and Peng showed in 1990 is another thing: that 2h steps back with an update "
        "after every h are as good as true h. In the original the styles also differ in how "
        "often they update (true 5 after 20 words, windows of 5 after 5); here both do after n "
        "steps, unless you ask for --updates original. Its figure of vanishing gradients, a third "
        "left a step, is that of a network of 4 units beside 50 inputs; the 100 units that were "
        "trained lose a tenth or less."
    ),
    equations=(
        "true n:     the error of step t reaches t, t-1, ..., t-n+1          (BPTT(n; 1))\n"
        "windows n:  that of position i of a window reaches i, i-1, ..., 1   (BPTT(n; n))\n"
        "errors that reach d steps back:  true 1 if n > d, else 0;  windows (n - d) / n\n"
        "h_t = tanh([x_t ; h_(t-1)] W + b),  logits_t = h_t U + b_out;  Adam\n"
        "echo: P(Y_t = 1) = 0.5 + 0.5 X_(t-3) - 0.25 X_(t-8)"
    ),
    look_for=(
        "by_n.png: the two styles at equal n, and where they meet. reach.png: from how many errors "
        "a gradient reaches each dependency, found by the engine. learning_curves.png: at equal "
        "updates, what the n-fold work of true truncation buys. gradient_by_distance.png: the "
        "original's vanishing gradient, and that of the size it trained.\n\n"
        "The original's own experiment, if you have the corpus (a day of computing): --corpus "
        "FOLDER --epochs 20 --learning-rates 0.003 0.001 0.0003 --units 100 --batch 32 --updates "
        "original. Any text of words between blanks will do."
    ),
    settings=TruncationSettings,
    presets={
        "quick": TruncationSettings(
            trials=1, symbols=20_000, learning_rates=(0.01,), evaluations=4
        ),
        "document": TruncationSettings(),
    },
    durations={"quick": "2 s", "document": "8 min"},
    train=train,
    rows=rows,
    levels=lambda settings: () if settings.corpus else LADDER,
    variants=lambda settings: ("exact", *conditions(settings)),
    figures=figures,
    printout=printout,
)
