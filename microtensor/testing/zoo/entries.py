"""What an exercise consists of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from microtensor.testing.planting import Edit

__all__ = ["KINDS", "Entry"]

# The classes of mistakes, and what they have in common.
KINDS = {
    "scale": "The gradient is a multiple of what it should be.",
    "sign": "It points the other way, somewhere.",
    "broadcast": "A sum is missing, or goes over the wrong axis, where numbers were repeated.",
    "transposition": "The numbers are right, and stand in the wrong places.",
    "operand": "The rule uses another array than it should.",
    "contribution": "A branch, a term or a use of a number is left out.",
    "accumulation": "Contributions meet in memory that they should not share.",
    "dtype": "The numbers are of the wrong kind, or have lost digits.",
    "time": "The wrong step or the wrong gate.",
    "optimizer": "The gradient is right, and the step is not.",
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One bug, with the program that meets it. What would give it away is not printed.

    Attributes
    ----------
    kind
        Its class, one of `KINDS`.
    title
        One line that does not give it away.
    program
        What to check: a function, or one without parameters that makes a module.
    inputs
        The arrays to check it at, by the names of its parameters.
    vjp
        The backward pass, if it is written by hand.
    formula
        The formula, of an optimizer.
    """

    kind: str
    title: str
    program: Callable[..., Any]
    inputs: Callable[[np.random.Generator], dict[str, Any]] = lambda rng: {}
    vjp: Callable[..., Any] | None = None
    formula: Callable[..., Any] | None = None
    edits: tuple[Edit, ...] = field(repr=False)
    verdict: str = field(repr=False)
    cause: str = field(default="", repr=False)
    hints: tuple[str, ...] = field(repr=False)
    solution: str = field(repr=False)
