"""The frameworks that are measured, one module each, under the name of the package it imports.

Each has the functions that `benchmarks.workloads` names, which receive the same NumPy arrays and
return a `Task`. A function that is missing is a workload that the framework does not run (the
README says why), and `numpy` is the bare array calls, without any framework: the floor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["NAMES", "Task"]

NAMES = ("microtensor", "torch", "jax", "autograd", "mygrad", "numpy")


class Task(NamedTuple):
    """One workload, ready to run as often as wanted.

    Attributes
    ----------
    phases
        What is timed, in the order in which it is called. A framework that cannot tell them apart
        has one phase, "total".
    read
        Called after the phases: arrays or numbers by which equal work is recognized.
    """

    phases: dict[str, Callable[[], Any]]
    read: Callable[[], list[Any]]
