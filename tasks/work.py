"""What `train` is given: one unit of work, its random numbers, its loop, its log.

A unit of work is a stack of trials of one variant, mostly a stack of one. Everything random about a
trial comes from generators keyed by (seed, trial, block), so that neither the number of jobs, nor
the stacking, nor an interruption changes a single bit of the result.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import microtensor as mt
from tasks import datasets, snapshot
from tasks.harness import Metric


class Interrupted(Exception):
    """Raised at the end of a step, after saving, when the run was asked to stop."""


@dataclass(frozen=True)
class Hooks:
    """What the runner wants to hear from a unit while it trains; all of it optional.

    progress : called after every step with (steps done, steps in all).
    status : called before `progress` with a few words on how it goes, when they have changed.
    logged : called with every `Metric`.
    shown : called with (step, arrays) by `work.show`.
    stop : asked after every step; True saves and raises `Interrupted`.
    """

    progress: Callable[[int, int], None] | None = None
    status: Callable[[str], None] | None = None
    logged: Callable[[Metric], None] | None = None
    shown: Callable[[int, dict[str, np.ndarray]], None] | None = None
    stop: Callable[[], bool] | None = None


@dataclass
class Work:
    """One unit of work, as `train` receives it.

    Attributes
    ----------
    settings
        The experiment's own dataclass.
    variant
        Which configuration to train ("" where the experiment has one).
    trials
        The trial numbers of this stack; `[number] = work.trials` where a stack is one trial.
    seed
        The run's seed.
    backend
        "numpy" or "cupy"; already the default backend while `train` runs.
    data
        The files of the experiment's data sets; read them by `dataset` or `content`.
    """

    settings: Any
    variant: str = ""
    trials: tuple[int, ...] = (0,)
    seed: int = 0
    backend: str = "numpy"
    data: tuple[datasets.Found, ...] = ()
    checkpoint: Path | None = None
    save_every: float = 10.0
    resume: bool = False
    hooks: Hooks = field(default_factory=Hooks)
    metrics: list[Metric] = field(default_factory=list)
    _looped: bool = False
    _said: str | Metric | None = None

    def generator(self, *block: int | str, trial: int | None = None) -> mt.Generator:
        """A fresh generator keyed by (seed, trial, block): same key, same numbers, anywhere.

        Parameters
        ----------
        block
            What the numbers are for, in words and counters: `("weights",)`, `("data", epoch)`.
            The variant is not part of the key, so that variants meet the same data; add it where
            they should not.
        trial
            Which trial; may be left out in a stack of one.

        Raises
        ------
        ValueError
            No block was given, or no trial was named in a stack of several.
        """
        if trial is None:
            if len(self.trials) != 1:
                raise ValueError(f"say which trial of {self.trials}: generator(..., trial=...)")
            trial = self.trials[0]
        if not block:
            raise ValueError("say what the numbers are for: generator('weights'), ('data', 3) ...")
        # Each part of the block is two words, its kind and its value: 7 and "7" are different keys,
        # and so are ("a", 1) and ("a",), though SeedSequence pads with zeros.
        words = [part for item in block for part in _words(item)]
        return mt.Generator((self.seed, trial, len(block), *words))

    def steps(self, total: int, **kept: Any) -> Iterator[int]:
        """Count from 0 to total − 1, saving between steps; once a unit.

        Parameters
        ----------
        total
            How many steps there are.
        kept
            Everything that changes from step to step, by name: modules and optimizers (anything
            with `state_dict` and `load_state_dict`), generators, and dictionaries of tensors,
            arrays, numbers and nested tuples, lists or dictionaries of them. When a run is
            resumed they are restored in place before the first step, and counting goes on where
            it was saved. mt's default generator is always kept.

        Leaving the loop early with `break` is fine. What the loop computes must depend on the kept
        objects, the settings and keyed generators only.

        Raises
        ------
        RuntimeError
            A second loop in the same unit: make it a variant, or one loop.
        Interrupted
            The run was asked to stop; everything is saved.
        """
        if self._looped:
            raise RuntimeError("work.steps was called twice in one unit; make the second a variant")
        self._looped = True
        kept["default_generator"] = mt.default_generator()
        start = self._restored(kept)
        saved_at = time.monotonic()
        for step in range(start, total):
            yield step
            done = step + 1
            self._tell()
            if self.hooks.progress:
                self.hooks.progress(done, total)
            stop = self.hooks.stop is not None and self.hooks.stop()
            if self.checkpoint and (stop or time.monotonic() - saved_at >= self.save_every):
                self._save(done, kept)
                saved_at = time.monotonic()
            if stop and done < total:
                raise Interrupted

    def log(
        self, step: int, *, trial: int | None = None, **values: float | Sequence[float]
    ) -> None:
        """Write one line a trial of metrics.csv: a number, or one for each trial of the stack.

        With `trial` the line of that one alone: where the trials of a stack go their own ways.
        """
        for position, number in enumerate(self.trials):
            if trial not in (None, number):
                continue
            own = {
                name: float(np.asarray(value).reshape(-1)[position if np.ndim(value) else 0])
                for name, value in values.items()
            }
            metric = Metric(self.variant, number, int(step), own)
            self.metrics.append(metric)
            self._said = metric
            if self.hooks.logged:
                self.hooks.logged(metric)

    def status(self, text: str) -> None:
        """Say in a few words how it goes ("epoch 3, loss 0.31"); shown beside the progress.

        Without it, what was last logged is shown.
        """
        self._said = text

    def dataset(self, name: str) -> Path:
        """The file of one of the experiment's data sets, verified just now.

        Raises
        ------
        KeyError
            The experiment has no data set of that name at these settings (see `Task.data`).
        UsageError
            The file has gone, or is not the right one any more.
        """
        found = self._found(name)
        datasets.content(found.path, found.file)
        return found.path

    def content(self, name: str) -> bytes:
        """The content of that file (of a zip archive, of the member meant), verified just now.

        These are the very bytes whose hash was compared. Raises what `dataset` raises.
        """
        found = self._found(name)
        return datasets.content(found.path, found.file)

    def show(self, step: int, **arrays: Any) -> None:
        """Give `Task.live` a frame to draw; does nothing unless `--live` was asked for.

        Call it as often as you like; `work.shows` tells beforehand whether anybody looks.
        """
        if self.hooks.shown:
            host = {
                name: value.detach().numpy() if isinstance(value, mt.Tensor) else np.asarray(value)
                for name, value in arrays.items()
            }
            self.hooks.shown(step, host)

    @property
    def shows(self) -> bool:
        """Whether `show` will draw, so that work done only for the picture can be left out."""
        return self.hooks.shown is not None

    def _found(self, name: str) -> datasets.Found:
        for found in self.data:
            if found.name == name:
                return datasets.at_hand(found)
        raise KeyError(f"there is no data set {name!r} here; {[one.name for one in self.data]}")

    def _tell(self) -> None:
        if self._said is None or self.hooks.status is None:
            return
        match self._said:
            case Metric(values=values):
                text = ", ".join(
                    f"{name.replace('_', ' ')} {value:.4g}" for name, value in values.items()
                )
            case text:
                pass
        self.hooks.status(text)
        self._said = None

    def _save(self, done: int, kept: dict[str, Any]) -> None:
        lines = [[m.trial, m.step, dict(m.values)] for m in self.metrics]
        tree = {"step": done, "metrics": lines, "kept": snapshot.capture(kept)}
        assert self.checkpoint is not None
        snapshot.save_tree(self.checkpoint, tree)

    def _restored(self, kept: dict[str, Any]) -> int:
        """Put the checkpoint back, if there is one; returns the step to go on with."""
        if not (self.resume and self.checkpoint and os.path.exists(self.checkpoint)):
            return 0
        tree = snapshot.load_tree(self.checkpoint)
        snapshot.restore(kept, tree["kept"])
        self.metrics[:] = [Metric(self.variant, *line) for line in tree["metrics"]]
        return int(tree["step"])


def _words(item: int | str) -> tuple[int, int]:
    if isinstance(item, str):
        return (1, zlib.crc32(item.encode()))
    if item < 0:
        raise ValueError(f"a block's numbers count from 0; got {item}")
    return (0, int(item))
