"""Online learning, one update a sequence: an LSTM of today, and the networks of 1997.

All contenders get the same sequences and the same first weights, and update by plain gradient
descent after each. K trials are independent networks, each with sequences of its own. A framework
without a trial axis trains one: a second would take it as long again. Everything is float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import microtensor as mt
from benchmarks.workloads import Goal, Workload
from models.lstm1997 import Network

__all__ = ["COURSES", "GOALS", "WORKLOADS", "Course"]

TRIALS = (1, 16)
SEQUENCES = 20  # of each trial, in one call


class Course(NamedTuple):
    """A network and the shape of its sequences.

    Attributes
    ----------
    title
        For the table.
    network
        One of 1997; or None: an LSTM of today, 8 units, 2 inputs, a linear output.
    steps, lr
        T, and the learning rate.
    every
        Whether there is a target at every step, and not only at the last.
    symbols
        Whether an input is one of I symbols, a one-hot vector, and not I numbers.
    """

    title: str
    network: Network | None
    steps: int
    lr: float
    every: bool = False
    symbols: bool = True


COURSES = {
    "lstm": Course("LSTM 8, input 2, T 100", None, 100, 0.1, symbols=False),
    "1": Course(
        "experiment 1: 4 blocks of 1, 7 symbols, T 12, a target at every step",
        Network(inputs=7, blocks=4, size=1, outputs=7, biases="gates", initial=0.2),
        12,
        0.1,
        every=True,
    ),
    "2a": Course(
        "experiment 2a: 1 cell, 101 symbols, T 100, a target at every step",
        Network(
            inputs=101,
            blocks=1,
            size=1,
            outputs=101,
            biases="none",
            initial=0.2,
            connectivity="B",
            gated=False,
            squashing="none",
        ),
        100,
        1.0,
        every=True,
    ),
    "2c": Course(
        "experiment 2c: 2 blocks of 1, 104 symbols, T 113",
        Network(inputs=104, blocks=2, size=1, outputs=2, biases="none", initial=0.2),
        113,
        0.01,
    ),
    "3": Course(
        "experiment 3: 3 blocks of 1, input 1, T 105",
        Network(inputs=1, blocks=3, size=1, outputs=1, biases="hidden"),
        105,
        1.0,
        symbols=False,
    ),
    "4": Course(
        "experiments 4 and 5: 2 blocks of 2, input 2, T 105",
        Network(inputs=2, blocks=2, size=2, outputs=1),
        105,
        0.5,
        symbols=False,
    ),
    "6a": Course(
        "experiment 6a: 2 blocks of 2, 8 symbols, T 105",
        Network(inputs=8, blocks=2, size=2, outputs=4),
        105,
        0.5,
    ),
    "6b": Course(
        "experiment 6b: 3 blocks of 2, 8 symbols, T 105",
        Network(inputs=8, blocks=3, size=2, outputs=8),
        105,
        0.1,
    ),
}


def weights_of(course: Course, trials: int) -> dict[str, np.ndarray]:
    """First weights of K networks, by the names of `fit_online`."""
    if course.network is not None:
        own = [course.network.first_weights(mt.Generator(k)) for k in range(trials)]
        return {name: np.stack([weights[name] for weights in own]) for name in own[0]}
    shapes = {"weight_ih": (32, 2), "weight_hh": (32, 8), "bias_ih": (32,)}
    shapes |= {"readout_weight": (1, 8), "readout_bias": (1,)}
    drawn = {
        name: np.stack([mt.Generator(k).uniform(-0.3, 0.3, shape) for k in range(trials)])
        for name, shape in shapes.items()
    }
    drawn["bias_ih"][:, 8:16] = 1
    return drawn


def inputs_of(name: str, trials: int) -> tuple[Any, ...]:
    """What a contender's `online` is called with: the course, x, targets, first weights.

    x is (K, N, T) symbols or (K, N, T, I); targets are (K, N, O) or (K, N, T, O).
    """
    course, weights = COURSES[name], weights_of(COURSES[name], trials)
    inputs, outputs = weights["weight_ih"].shape[2], weights["readout_weight"].shape[1]
    shape = (SEQUENCES, course.steps)
    seen, wanted = [], []
    for k in range(trials):  # the same whatever trials are beside it
        rng = np.random.default_rng(k)
        if course.symbols:
            seen.append(rng.integers(0, inputs, shape))
        else:
            seen.append(rng.standard_normal((*shape, inputs), np.float32))
        wanted.append(rng.random((*(shape if course.every else shape[:1]), outputs), np.float32))
    x, targets = np.stack(seen), np.stack(wanted)
    return course, x, targets, weights


def workload_name(name: str, trials: int) -> str:
    """Of a course with K trials: "6a-16"."""
    return f"{name}-{trials}"


WORKLOADS = tuple(
    Workload(
        workload_name(name, trials),
        course.title,
        "online",
        lambda name=name, trials=trials: inputs_of(name, trials),
        "µs",
        1e6 / (trials * SEQUENCES),
        tolerance=1e-4,
        samples=3,
    )
    for name, course in COURSES.items()
    for trials in TRIALS
)

GOALS = (
    Goal("lstm", "total", "torch", 6 / 449, "microtensor:numba"),
    Goal("lstm", "total", "torch", 60 / 449, "microtensor:arrays"),
)
