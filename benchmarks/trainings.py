"""W1 to W6: the recurrent networks of the documents, one training step each.

Every network is [a linear layer or an embedding], a recurrent layer, a linear readout, a loss. All
contenders get the same arrays and the same first weights, by PyTorch's names: `first.`, for what
comes before the recurrent layer, `recurrent.` and `readout.`. Everything is float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from benchmarks.workloads import Goal, Workload

__all__ = ["GOALS", "WORKLOADS", "Training", "inputs_of"]

GATES = {"rnn": 1, "lstm": 4, "gru": 3}


class Training(NamedTuple):
    """A network, its task and its optimizer.

    Attributes
    ----------
    cell
        "rnn" (tanh), "lstm" or "gru"; with two bias vectors, as PyTorch's.
    inputs, hidden, outputs
        Features of the recurrent layer's input, of its state, and of the readout.
    steps, batch
        T and B. Sequences are (B, T, ·).
    loss
        "mse", "mae", "bce" (of logits) or "cross_entropy", a mean over everything.
    optimizer, lr
        "adam", "adagrad", "rmsprop" (alpha 0.9, eps 1e-7: Keras' defaults) or "sgd".
    first
        Features of a linear layer's input, or the number of an embedding's rows if `symbols`.
    last
        Whether only the output of the last step is read.
    carried
        Whether the state goes on from one training step to the next, cut off from its past.
    """

    cell: str
    inputs: int
    hidden: int
    outputs: int
    steps: int
    batch: int
    loss: str
    optimizer: str = "adam"
    lr: float = 1e-3
    first: int = 0
    symbols: bool = False
    last: bool = False
    carried: bool = False


def weights_of(training: Training) -> dict[str, np.ndarray]:
    """First weights: uniform in +-1/sqrt(H), biases zero, the LSTM's forget gates open."""
    rng, t = np.random.default_rng(0), training
    rows = GATES[t.cell] * t.hidden

    def uniform(*shape: int) -> np.ndarray:
        return rng.uniform(-(t.hidden**-0.5), t.hidden**-0.5, shape).astype(np.float32)

    weights = {}
    if t.symbols:
        weights["first.weight"] = 0.05 * rng.standard_normal((t.first, t.inputs), np.float32)
    elif t.first:
        weights["first.weight"] = uniform(t.inputs, t.first)
        weights["first.bias"] = uniform(t.inputs)
    weights["recurrent.weight_ih_l0"] = uniform(rows, t.inputs)
    weights["recurrent.weight_hh_l0"] = uniform(rows, t.hidden)
    weights["recurrent.bias_ih_l0"] = np.zeros(rows, np.float32)
    weights["recurrent.bias_hh_l0"] = np.zeros(rows, np.float32)
    if t.cell == "lstm":
        weights["recurrent.bias_ih_l0"][t.hidden : 2 * t.hidden] = 1
    weights["readout.weight"] = uniform(t.outputs, t.hidden)
    weights["readout.bias"] = np.zeros(t.outputs, np.float32)
    return weights


def waves(t: Training, rng: Any) -> tuple[np.ndarray, np.ndarray]:
    """Sine in, cosine out, at 0.1 / pi a step."""
    angle = np.arange(t.steps * t.batch).reshape(t.batch, t.steps, 1) / (10 * np.pi)
    return np.sin(angle).astype(np.float32), np.cos(angle).astype(np.float32)


def bits(t: Training, rng: Any) -> tuple[np.ndarray, np.ndarray]:
    """Random bits, one-hot; the targets are classes."""
    seen, wanted = rng.integers(0, 2, (2, t.batch, t.steps))
    return np.eye(2, dtype=np.float32)[seen], wanted


def memory(t: Training, rng: Any) -> tuple[np.ndarray, np.ndarray]:
    """One sequence of symbols, one-hot; the target is the next one."""
    sequence = np.eye(5, dtype=np.float32)[[3, 0, 1, 2, 3]][None]
    return sequence[:, : t.steps].copy(), sequence[:, 1 : t.steps + 1].copy()


def adding(t: Training, rng: Any) -> tuple[np.ndarray, np.ndarray]:
    """Numbers in [0, 1), one marked in each half; the target is 0.5 + the sum of the two / 4."""
    x = np.zeros((t.batch, t.steps, 2), np.float32)
    x[..., 0] = rng.random((t.batch, t.steps))
    half, rows = t.steps // 2, np.arange(t.batch)
    for low, high in ((0, half), (half, t.steps)):
        x[rows, rng.integers(low, high, t.batch), 1] = 1
    return x, 0.5 + (x[..., 0] * x[..., 1]).sum(1, keepdims=True) / 4


def reviews(t: Training, rng: Any) -> tuple[np.ndarray, np.ndarray]:
    """Like film reviews: words by Zipf's law, some 230 of them, zeros before the first."""
    frequency = 1 / np.arange(1, t.first - 1)
    x = np.zeros((t.batch, t.steps), np.int64)
    for row in x:
        n = int(np.clip(rng.lognormal(5.2, 0.65), 20, t.steps))
        row[-n:] = 1 + rng.choice(t.first - 2, n, p=frequency / frequency.sum())
    return x, rng.integers(0, 2, (t.batch, 1)).astype(np.float32)


def weather(t: Training, rng: Any) -> tuple[np.ndarray, np.ndarray]:
    """Noise of the size of the weather task's standardized measurements."""
    x = rng.standard_normal((t.batch, t.steps, t.inputs), np.float32)
    return x, rng.standard_normal((t.batch, 1), np.float32)


def inputs_of(training: Training, data: Any) -> tuple[Any, ...]:
    """What a contender's `training` is called with: the network, x, y and first weights."""
    x, y = data(training, np.random.default_rng(1))
    return training, x, y, weights_of(training)


_memory = Training("lstm", 5, 20, 5, 4, 1, "bce")
_adding = Training("lstm", 2, 8, 1, 100, 1, "mse", last=True)
_echo = Training("rnn", 2, 4, 2, 5, 200, "cross_entropy", "adagrad", lr=0.1)
_reviews = Training(
    "lstm", 32, 32, 1, 500, 128, "bce", "rmsprop", first=10_000, symbols=True, last=True
)
_weather = Training("gru", 14, 32, 1, 240, 128, "mae", "rmsprop", last=True)

TRAININGS: dict[str, tuple[str, Training, Any]] = {
    "W1": (
        "W1 sine to cosine: linear 1 → 10, LSTM 10, T 20, batch 50, Adam",
        Training("lstm", 10, 10, 1, 20, 50, "mse", lr=0.006, first=1),
        waves,
    ),
    "W2a": ("W2a binary echo: RNN 4, T 5, batch 200, Adagrad", _echo, bits),
    "W2b": ("W2b the same: RNN 16, T 10", _echo._replace(hidden=16, steps=10), bits),
    "W3a": ("W3a memory: LSTM 20, input 5, T 4, batch 1, Adam", _memory, memory),
    "W3b": (
        "W3b the same, one step at a time with the state carried",
        _memory._replace(steps=1, carried=True),
        memory,
    ),
    "W4-8-100-1": ("W4 adding: LSTM 8, T 100, batch 1, Adam", _adding, adding),
    "W4-8-100-32": ("W4 LSTM 8, T 100, batch 32", _adding._replace(batch=32), adding),
    "W4-8-1000-1": ("W4 LSTM 8, T 1000, batch 1", _adding._replace(steps=1000), adding),
    "W4-128-100-32": (
        "W4 LSTM 128, T 100, batch 32",
        _adding._replace(hidden=128, batch=32),
        adding,
    ),
    "W4-128-1000-32": (
        "W4 LSTM 128, T 1000, batch 32",
        _adding._replace(hidden=128, steps=1000, batch=32),
        adding,
    ),
    "W5": (
        "W5 film reviews: embedding 10,000 × 32, LSTM 32, T 500, batch 128, RMSprop",
        _reviews,
        reviews,
    ),
    "W6": ("W6 weather: GRU 32, input 14, T 240, batch 128, RMSprop", _weather, weather),
}

WORKLOADS = tuple(
    Workload(
        name,
        title,
        "training",
        lambda training=training, data=data: inputs_of(training, data),
        "µs",
        1e6,
        # Adagrad's and Adam's first steps have the size of the learning rate however small the
        # gradient is, so rounding is magnified. DeZero's Adam is a little different.
        tolerance=5e-5,
        checked=5,
        samples=3,
    )
    for name, (title, training, data) in TRAININGS.items()
)

ARRAYS, NUMBA = "microtensor:arrays", "microtensor:numba"
CAPTURED = "+captured"  # behind either: the training step is captured (mt.capture)
# Where a step is so short that most of its time is Python's.
SHORT = ("W1", "W2a", "W2b", "W3a", "W3b", "W4-8-100-1", "W4-8-100-32")

GOALS = tuple(
    Goal(name, phase, over, at_most, contender)
    for name, phase, over, limits in (
        ("W1", "total", "torch", {ARRAYS: 0.33, NUMBA: 0.20}),
        ("W2a", "total", "torch", {ARRAYS: 0.13}),
        ("W2b", "total", "torch", {ARRAYS: 0.17}),
        ("W2a", "total", ARRAYS, {NUMBA: 1.0}),
        ("W2b", "total", ARRAYS, {NUMBA: 1.0}),
        ("W3a", "total", "torch", {ARRAYS: 0.12, NUMBA: 0.07}),
        ("W3b", "total", "torch", {ARRAYS: 0.08, NUMBA: 0.07}),
        ("W4-8-100-1", "total", "torch", {ARRAYS: 0.75, NUMBA: 0.07}),
        ("W4-8-100-32", "total", "torch", {ARRAYS: 0.65, NUMBA: 0.18}),
        ("W4-8-1000-1", "total", "torch", {NUMBA: 0.11}),
        ("W4-128-100-32", "total", "torch", {ARRAYS: 1.1, NUMBA: 1.0}),
        ("W5", "total", "torch", {ARRAYS: 0.70, NUMBA: 0.55}),
        ("W6", "total", "torch", {ARRAYS: 0.42, NUMBA: 0.26}),
        ("W4-128-1000-32", "growth", "torch", {ARRAYS: 0.85, NUMBA: 0.85}),
        ("W5", "growth", "torch", {ARRAYS: 0.95, NUMBA: 0.95}),
    )
    for contender, at_most in (
        limits
        | {
            f"{c}{CAPTURED}": limit
            for c, limit in limits.items()
            if {over, name} <= {"torch", *SHORT}
        }
    ).items()
)
