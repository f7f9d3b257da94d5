"""Document 003's demonstration of memory in an LSTM, and what it demonstrates.

Two sequences, 3 0 1 2 3 and 4 0 1 2 4: after a 2 comes what the sequence began with, so the last
symbol can only be told by a network that remembers the first. The document trains an LSTM one
symbol at a time, carrying the state over, and shows that all eight predictions come out right.

But with batches of one step the framework cuts the gradient after every step. Nothing ever tells
the network to remember; whether the leftovers in its state happen to tip the last symbol the right
way is the toss of a coin, twice over the same coin, and the loss stays above what a network without
any memory reaches. Let the gradient flow through the four steps and the task is learnt.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import microtensor as mt
from models.memory import KerasAdam, MemoryLSTM, MemorylessMLP, cross_entropy
from tasks import plots
from tasks.harness import (
    Level, Row, Run, Settings, Task, Trial, at_least, at_most, median_of, success_rate,
    wilson_tolerance, within,
)  # fmt: skip

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tasks.work import Work

SEQUENCES = ((3, 0, 1, 2, 3), (4, 0, 1, 2, 4))
SYMBOLS = 5
PUBLISHED_LOSS = 0.0925  # the last line of the document's log, on the first sequence


def encode(sequence: Sequence[int], symbols: int = SYMBOLS) -> np.ndarray:
    """One-hot rows, float32, shape `(len(sequence), symbols)`.

    Raises
    ------
    ValueError
        If a symbol is not in 0 … symbols - 1.
    """
    numbers = np.asarray(sequence)
    if numbers.size and not (0 <= numbers.min() and numbers.max() < symbols):
        raise ValueError(f"symbols must be in 0 … {symbols - 1}; got {list(sequence)}")
    return np.eye(symbols, dtype="float32")[numbers]


def pairs(sequence: Sequence[int], symbols: int = SYMBOLS) -> tuple[np.ndarray, np.ndarray]:
    """Input and target of every step: two arrays of shape `(len(sequence) - 1, symbols)`."""
    encoded = encode(sequence, symbols)
    return encoded[:-1], encoded[1:]


def memoryless_floor(sequences: Sequence[Sequence[int]], symbols: int = SYMBOLS) -> float:
    """The least mean loss, over all steps of all sequences, without memory.

    A predictor that sees the current symbol alone does best by giving each output the share of
    times it is right after that symbol; the loss is the mean of the five outputs' entropies.
    Averaged over both sequences this is a bound for *any* weights. On the first sequence alone it
    would be none: who always says 3 is always right there.
    """
    followers: dict[int, Counter[int]] = defaultdict(Counter)
    for sequence in sequences:
        for now, after in zip(sequence, sequence[1:], strict=False):
            followers[now][after] += 1
    total = 0.0
    for counts in followers.values():
        times = counts.total()
        for count in counts.values():
            share = count / times
            total += times * -(
                share * math.log(share) + ((1 - share) * math.log(1 - share) if share < 1 else 0.0)
            )
    steps = sum(counts.total() for counts in followers.values())
    return total / steps / symbols


FLOOR = memoryless_floor(SEQUENCES)  # 2 ln 2 / 5 / 4
FLOOR_LEVEL = Level("best without memory", FLOOR)
IGNORANCE = Level("every output at one half", math.log(2.0))


@dataclass(frozen=True, kw_only=True)
class MemorySettings(Settings):
    """The document's settings; the seeds and the variants beside its own are ours."""

    trials: int = 40
    """Independent repetitions, trained side by side; each has its own weights."""
    epochs: int = 250
    """Epochs as published, each one pass over both sequences: 8 updates an epoch, 2000 in all."""
    epochs_bptt: int = 1000
    """Epochs with back-propagation through time: 2 updates an epoch, again 2000 in all."""
    window: int = 4
    """Steps through which the gradient flows in the variant `bptt`: 1 is the published cut, 4 all."""
    hidden_size: int = 20
    """Units of the LSTM, and of the perceptron's hidden layer."""
    learning_rate: float = 0.001
    """Step size of Adam."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "epochs_bptt", "hidden_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        longest = len(SEQUENCES[0]) - 1
        if self.window not in (1, 2, longest):
            raise ValueError(
                f"window must divide the {longest} steps of a sequence; got {self.window}"
            )


VARIANTS = {
    "published": "LSTM, gradient cut after every step (as published)",
    "bptt": "LSTM, gradient through the sequence",
    "mlp": "perceptron without memory",
}


def train(work: Work) -> list[Trial]:
    """Train all trials of one variant side by side."""
    settings: MemorySettings = work.settings
    window = settings.window if work.variant == "bptt" else 1
    epochs = settings.epochs if work.variant == "published" else settings.epochs_bptt
    network = MemorylessMLP if work.variant == "mlp" else MemoryLSTM
    generators = [work.generator("weights", trial=trial) for trial in work.trials]
    model = network(generators, SYMBOLS, settings.hidden_size)
    optimizer = KerasAdam(model.parameters(), lr=settings.learning_rate)
    data = [tuple(map(mt.tensor, pairs(sequence))) for sequence in SEQUENCES]
    halfway = min(settings.epochs, epochs)
    then: dict[str, Any] = {}  # what must survive an interruption
    for epoch in work.steps(epochs, model=model, optimizer=optimizer, then=then):
        losses = [run_sequence(model, optimizer, x, y, window) for x, y in data]
        if (epoch + 1) % 10 == 0 or epoch == 0:
            # What the document's log prints: the loss on the first sequence, taken while training.
            work.log(epoch + 1, loss_sequence_1=losses[0], loss=evaluate(model)[0])
        if epoch + 1 == halfway:
            then["right"] = evaluate(model)[1]
        if epoch + 1 == epochs:
            then["loss_sequence_1"] = losses[0]
    loss, right, outputs = evaluate(model)
    parameters = sum(math.prod(parameter.shape[1:]) for parameter in model.parameters())
    return [
        Trial(
            number,
            values={
                "right": int(right[k]),
                "loss": float(loss[k]),
                "loss_sequence_1": float(then["loss_sequence_1"][k]),
                "remembers": bool(right[k] == 8 and loss[k] < FLOOR),
                f"right_after_{settings.epochs}": int(then["right"][k]),
                "parameters": parameters,
            },
            model={name: value[k] for name, value in model.state_dict().items()},
            arrays={"outputs": outputs[k]},
        )
        for k, number in enumerate(work.trials)
    ]


def run_sequence(model: Any, optimizer: Any, x: mt.Tensor, y: mt.Tensor, window: int) -> np.ndarray:
    """Train on one sequence from an empty state: one update for each window of steps.

    The state passes from window to window, the gradient does not. Returns each trial's mean loss
    over the steps, taken before the updates, shape `(K,)`.
    """
    state = model.initial_state()
    seen = []
    for start in range(0, len(x), window):
        state = mt.detach(state)
        losses = []
        for t in range(start, start + window):
            logits, state = model.step(x[t : t + 1], state)
            losses.append(cross_entropy(logits, y[t : t + 1]))
        loss = sum(losses[1:], losses[0]) / window  # (K,)
        optimizer.zero_grad()
        loss.sum().backward()  # the trials share no parameter: each gets its own loss's gradient
        optimizer.step()
        seen.append(loss.numpy())
    return np.mean(seen, axis=0)


def evaluate(model: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """With the weights at rest: mean loss `(K,)`, right predictions `(K,)`, outputs `(K, 2, 4, 5)`.

    The outputs are the five sigmoids at each step of each sequence; the prediction is the largest.
    """
    losses, outputs, right = [], [], []
    with mt.no_grad():
        for sequence in SEQUENCES:
            state = model.initial_state()
            x, y = map(mt.tensor, pairs(sequence))
            for t in range(len(x)):
                logits, state = model.step(x[t : t + 1], state)
                losses.append(cross_entropy(logits, y[t : t + 1]).numpy())
                outputs.append(mt.sigmoid(logits).numpy()[:, 0])
                right.append(outputs[-1].argmax(axis=-1) == sequence[t + 1])
    shaped = np.stack(outputs, axis=1)
    trials = len(shaped)
    return np.mean(losses, axis=0), np.sum(right, axis=0), shaped.reshape(trials, 2, -1, SYMBOLS)
