"""W7 to W11: what is computed, from which arrays, and what is promised of it.

Everything is float32 and drawn from fixed seeds, so all contenders get the same arrays.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["GOALS", "WORKLOADS", "Goal", "Workload"]


class Workload(NamedTuple):
    """One thing to be timed, in a process of its own.

    Attributes
    ----------
    name, title
        For the command line, and for the table.
    function, inputs
        Which function of a contender, and what makes its arguments.
    unit, scale
        Of the table: a number of seconds times `scale` is in `unit`.
    tolerance
        By how much the numbers of two contenders may differ, relative to the largest of them.
    checked
        How many calls at the start are compared: five steps of a training show that all update.
    samples
        At least so many are taken in each process.
    rehearse
        The arguments of a small run that replaces the warm-up, where one call takes seconds.
    """

    name: str
    title: str
    function: str
    inputs: Callable[[], tuple[Any, ...]]
    unit: str
    scale: float
    tolerance: float = 1e-5
    checked: int = 1
    samples: int = 5
    rehearse: Callable[[], tuple[Any, ...]] | None = None


class Goal(NamedTuple):
    """`phase` of `workload`, at most so much: times the contender `over`, or in its unit.

    The phase "growth" is the memory that the process takes on while it works.
    """

    workload: str
    phase: str
    over: str | None
    at_most: float
    contender: str = "microtensor"


def spiral_inputs() -> tuple[Any, ...]:
    """Three arms of 100 points each in the plane, and a 2-50-50-3 network.

    The data of the CS231n course notes (Karpathy, "Putting it together: minimal neural network
    case study"). Weights are (out, in).
    """
    rng = np.random.default_rng(0)
    n, classes = 100, 3
    radius = np.tile(np.linspace(0.0, 1.0, n), classes)
    angle = np.concatenate([np.linspace(4.0 * j, 4.0 * (j + 1), n) for j in range(classes)])
    angle += 0.2 * rng.standard_normal(n * classes)
    points = np.stack([radius * np.sin(angle), radius * np.cos(angle)], 1).astype(np.float32)
    labels = np.repeat(np.arange(classes), n)
    sizes = (2, 50, 50, 3)
    layers = [
        (
            (0.1 * rng.standard_normal((out, into))).astype(np.float32),
            np.zeros(out, np.float32),
        )
        for into, out in itertools.pairwise(sizes)
    ]
    return points, labels, layers, 0.1


def expression_inputs() -> tuple[Any, ...]:
    """Three vectors of ten numbers."""
    return tuple(np.random.default_rng(1).standard_normal((3, 10), np.float32))


def chain_inputs(n: int) -> tuple[Any, ...]:
    """Two vectors of ten numbers, and the number of additions."""
    return *np.random.default_rng(2).standard_normal((2, 10), np.float32), n


def linear_inputs(n: int = 1024) -> tuple[Any, ...]:
    """Input, weight, bias and cotangent of a layer of n units at a batch of n."""
    rng = np.random.default_rng(3)
    x, weight, cotangent = rng.standard_normal((3, n, n), np.float32)
    return x, weight, rng.standard_normal(n, np.float32), cotangent


def steps_inputs(length: int) -> tuple[Any, ...]:
    """A batch of 32 sequences of `length` steps of 16 numbers."""
    return (np.random.default_rng(4).standard_normal((32, length, 16), np.float32),)


WORKLOADS = (
    Workload(
        "W7",
        "W7 training step of a 2-50-50-3 ReLU network on 300 points, cross-entropy, SGD",
        "spiral",
        spiral_inputs,
        "µs",
        1e6,
        checked=5,
    ),
    Workload(
        "W8-expression",
        "W8 `(a * b + c).sum()` on 10 numbers, forward and backward",
        "expression",
        expression_inputs,
        "µs",
        1e6,
    ),
    *[
        Workload(
            f"W8-chain-{n}",
            f"W8 chain of {n:,} additions, for each addition",
            "chain",
            lambda n=n: chain_inputs(n),
            "µs",
            1e6 / n,
            samples={1000: 5, 100_000: 3}.get(n, 1),
            rehearse=(lambda: chain_inputs(1000)) if n > 1000 else None,
        )
        for n in (1000, 100_000, 1_000_000)
    ],
    Workload(
        "W9",
        "W9 Linear(1024, 1024) at batch 1024, forward and backward",
        "linear",
        linear_inputs,
        "ms",
        1e3,
        tolerance=1e-4,
    ),
    *[
        Workload(
            f"W10-{length}",
            f"W10 sum over t of `tanh(x[:, t]).sum()`, x (32, {length}, 16)",
            "steps",
            lambda length=length: steps_inputs(length),
            "ms",
            1e3,
            samples=3,
        )
        for length in (100, 1000, 4000)
    ],
)

IMPORT = "W11"  # no contender's function: the interpreter starts and imports, see _harness.py

GOALS = (
    Goal("W7", "total", "torch", 0.5),
    Goal("W8-expression", "total", "torch", 0.33),
    Goal("W8-chain-1000", "total", "torch", 0.6),
    Goal("W8-chain-1000000", "total", "torch", 0.7),
    Goal("W9", "total", "numpy", 1.04),
    Goal("W10-4000", "backward", "torch", 0.03),
    Goal(IMPORT, "time", None, 20.0),
    Goal(IMPORT, "memory", None, 5.0),
)
