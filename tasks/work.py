"""What `train` is given: one unit of work, its random numbers, its loop, its log.

A unit of work is a stack of trials of one variant, today a stack of one. Everything random about a
trial comes from generators keyed by (seed, trial, block), so that neither the number of jobs, nor
the stacking, nor an interruption changes a single bit of the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import microtensor as mt


class Interrupted(Exception):
    """Raised at the end of a step, after saving, when the run was asked to stop."""


class Work:
    """One unit of work, as `train` receives it.

    Attributes
    ----------
    settings : the experiment's own dataclass.
    variant : which configuration to train ("" where the experiment has one).
    trials : the trial numbers of this stack; `[number] = work.trials` where a stack is one trial.
    seed : the run's seed.
    backend : "numpy" or "cupy"; already the default backend while `train` runs.
    data : the folder of data sets (`--data`), or None.
    """

    settings: Any
    variant: str
    trials: tuple[int, ...]
    seed: int
    backend: str
    data: str | None

    def generator(self, *block: int | str, trial: int | None = None) -> mt.Generator:
        """A fresh generator keyed by (seed, trial, block): same key, same numbers, anywhere.

        block : what the numbers are for, in words and counters: `("weights",)`, `("data", epoch)`.
        trial : which trial; may be left out in a stack of one.
        """
        raise NotImplementedError

    def steps(self, total: int, **kept: Any) -> Iterator[int]:
        """Count from 0 to total − 1, saving between steps; once a unit.

        kept : everything that changes from step to step, by name: modules and optimizers (anything
            with `state_dict` and `load_state_dict`), generators, and dictionaries of tensors, arrays,
            numbers and nested tuples, lists or dictionaries of them. When a run is resumed they are
            restored in place before the first step, and counting goes on where it was saved. mt's
            default generator is always kept.

        Leaving the loop early with `break` is fine. What the loop computes must depend on the kept
        objects, the settings and keyed generators only.
        """
        raise NotImplementedError

    def log(self, step: int, **values: float | Sequence[float]) -> None:
        """Write one line a trial of metrics.csv: a number, or one for each trial of the stack."""
        raise NotImplementedError

    def show(self, step: int, **arrays: Any) -> None:
        """Give `Task.live` a frame to draw; does nothing unless `--live` was asked for.

        Call it as often as you like; `work.shows` tells beforehand whether anybody looks.
        """
        raise NotImplementedError

    @property
    def shows(self) -> bool:
        """Whether `show` will draw, so that work done only for the picture can be left out."""
        raise NotImplementedError
