"""What an experiment is made of.

An experiment is one file, `tasks/NAME.py`, that ends in a module-level `TASK = Task(...)`. It holds

- a frozen dataclass of settings (a subclass of `Settings`) with the presets `quick` and `document`;
- `train(work)`, which trains one unit of work and returns its `Trial`s;
- `rows(run)`, which turns the finished trials into `Row`s: ours beside the document's figure;
- `figures(run)`, which draws them.

The command line (`tasks/cli.py`), the execution (`tasks/runner.py`, `tasks/work.py`), the files
of a run (`tasks/folder.py`) and the report (`tasks/report.py`) are the same for all experiments.
A file with a `TASK` in this folder is found by itself: nothing has to be registered.

    @dataclass(frozen=True, kw_only=True)
    class EchoSettings(Settings):
        learning_rate: float = 0.1
        "Step size of Adagrad."

    def train(work: Work) -> list[Trial]:
        [number] = work.trials
        model = Echo(generator=work.generator("weights"))
        optimizer = mt.optim.Adagrad(model.parameters(), lr=work.settings.learning_rate)
        carried = {"state": None}
        for step in work.steps(1000, model=model, optimizer=optimizer, carried=carried):
            x, y = batch(work.generator("data", step))
            loss, state = …
            carried["state"] = mt.detach(state)
            work.log(step, loss=loss.item())
        return [Trial(number, values={"loss": …}, model=model.state_dict())]
"""

from __future__ import annotations

import ast
import inspect
import itertools
import math
import statistics
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tasks.datasets import DataSet, Found
    from tasks.work import Work

__all__ = [
    "Level",
    "Metric",
    "Row",
    "Run",
    "Settings",
    "Task",
    "Trial",
    "UsageError",
    "at_least",
    "at_most",
    "check_counts",
    "check_learning_rate",
    "check_named_once",
    "highest_of",
    "judged",
    "mean_of",
    "median_of",
    "success_rate",
    "wilson",
    "wilson_tolerance",
    "within",
]

Source = Literal["document", "upstream", "paper", "computed"]
"""Where a target comes from: printed in the `document`; `upstream`, the original that the document
retells; the `paper` of 1997; or `computed` from the definition of the task."""


class UsageError(Exception):
    """Something the user asked for cannot be done; the message is one line and says what to do.

    The command line prints it and exits with code 2.
    """


@dataclass(frozen=True)
class Level:
    """A reference level, which makes a figure readable.

    `name` says what reaches the level ("predicting zero", "only t-3 learnt"), `value` is on the
    scale of the row it belongs to.
    """

    name: str
    value: float


@dataclass(frozen=True)
class Row:
    """One line of the comparison: what is measured, the target, ours, the verdict.

    Parameters
    ----------
    name : what is measured, with the conditions ("cost, iterations 180 to 199").
    value : ours: the median of the trials, a rate between 0 and 1, or a single number.
    target, source : the figure to compare with and where it was printed. None for a row that only
        informs.
    tolerance : the closed interval in which `value` passes; see `within`, `at_most`, `at_least`.
        A row with a target has one, and a row without a target has none.
    spread : the lowest and the highest trial; for a success rate its Wilson 95 % interval.
    trials : how many trials stand behind `value`.
    solved : for a success rate, how many of them succeeded.
    levels : reference levels on the scale of `value`.
    unit : unit of `value` and `target` ("nats", "cost"); empty for counts and rates.
    note : one sentence on how to read the row.

    Raises
    ------
    ValueError : a target without a tolerance or a source, or the other way round.
    """

    name: str
    value: float
    target: float | None = None
    source: Source | None = None
    tolerance: tuple[float, float] | None = None
    spread: tuple[float, float] | None = None
    trials: int | None = None
    solved: int | None = None
    levels: tuple[Level, ...] = ()
    unit: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        given = [x is not None for x in (self.target, self.source, self.tolerance)]
        if any(given) and not all(given):
            raise ValueError(
                f"row {self.name!r}: target, source and tolerance come together or not at all; got "
                f"target={self.target}, source={self.source}, tolerance={self.tolerance}"
            )
        if self.tolerance is not None and not self.tolerance[0] <= self.tolerance[1]:
            raise ValueError(
                f"row {self.name!r}: the tolerance {self.tolerance} is an empty interval"
            )

    @property
    def ok(self) -> bool | None:
        """True or False for a row with a target (a value that is not a number fails), else None."""
        if self.tolerance is None:
            return None
        low, high = self.tolerance
        return bool(low <= self.value <= high)


def within(target: float, margin: float) -> tuple[float, float]:
    """The tolerance `target - margin … target + margin`."""
    return (target - margin, target + margin)


def at_most(limit: float) -> tuple[float, float]:
    """The tolerance "no more than `limit`"."""
    return (-math.inf, limit)


def at_least(limit: float) -> tuple[float, float]:
    """The tolerance "no less than `limit`"."""
    return (limit, math.inf)


def median_of(values: Sequence[float]) -> dict[str, Any]:
    """The arguments `value`, `spread` and `trials` of a `Row` over one number for each trial.

    The spread is the lowest and the highest. One trial that is not a number makes all three so:
    a diverged trial is never averaged away.
    """
    numbers = [float(v) for v in values]
    if not numbers:
        raise ValueError("median_of needs at least one trial; got none")
    if any(math.isnan(v) for v in numbers):
        return {"value": math.nan, "spread": (math.nan, math.nan), "trials": len(numbers)}
    spread = (min(numbers), max(numbers))
    return {"value": statistics.median(numbers), "spread": spread, "trials": len(numbers)}


def mean_of(values: Sequence[float]) -> dict[str, Any]:
    """As `median_of`, but `value` is the mean: for comparison with a table of means."""
    return median_of(values) | {"value": statistics.fmean(map(float, values))}


def highest_of(values: Sequence[float]) -> dict[str, Any]:
    """As `median_of`, but `value` is the highest: for an error that no trial may exceed."""
    found = median_of(values)
    return found | {"value": found["spread"][1]}


def judged(
    target: float, source: Source, tolerance: tuple[float, float], *, when: bool = True
) -> dict[str, Any]:
    """The arguments `target`, `source` and `tolerance` of a `Row`; none of them unless `when`.

    `when` says whether the run can speak about the target: not at `quick`, for instance, where so
    little training shows nothing, nor at other sizes than the published figure belongs to.
    """
    return {"target": target, "source": source, "tolerance": tolerance} if when else {}


def success_rate(solved: Sequence[bool]) -> dict[str, Any]:
    """The arguments `value`, `spread`, `trials`, `solved` of a `Row` over one verdict a trial."""
    count, trials = sum(map(bool, solved)), len(solved)
    if not trials:
        raise ValueError("success_rate needs at least one trial; got none")
    return {
        "value": count / trials,
        "spread": wilson(count, trials),
        "trials": trials,
        "solved": count,
    }


_Z95 = statistics.NormalDist().inv_cdf(0.975)


def wilson(solved: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a success rate: the p with |solved/trials − p| ≤ z·√(p(1−p)/n)."""
    rate, z2 = solved / trials, _Z95 * _Z95
    middle = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z95 / (1 + z2 / trials) * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials**2))
    # At 0 and at n the interval ends in 0 and 1, which rounding would miss.
    return (middle - half if solved else 0.0, middle + half if solved < trials else 1.0)


def wilson_tolerance(target: float, trials: int) -> tuple[float, float]:
    """The tolerance "Wilson's 95 % interval contains `target`", as an interval of observed rates.

    Wilson's interval is the score test turned around, so it contains p exactly when the observed
    rate lies within z·√(p(1−p)/n) of p.
    """
    return within(target, _Z95 * math.sqrt(target * (1 - target) / trials))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings every experiment has; an experiment subclasses it and adds its own.

    Conventions. A subclass is `@dataclass(frozen=True, kw_only=True)`; its defaults are the
    document's settings; every field has a string under it, which `--help` and `show` print. A
    field is an int, a float, a bool, a str, a `Literal` or a tuple of those, because the command
    line and config.json must be able to say it. A subclass refuses what makes no sense in
    `__post_init__` (ValueError with one sentence), after calling `super().__post_init__()`.
    """

    trials: int = 10
    """Independent repetitions; each has its own weights and data."""

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise ValueError(f"trials must be at least 1; got {self.trials}")

    def to_dict(self) -> dict[str, Any]:
        """The settings as a JSON-able dictionary, in the order of the fields."""
        return asdict(self)

    @classmethod
    def names(cls) -> list[str]:
        """The names of all settings, in order."""
        return [f.name for f in fields(cls)]

    @classmethod
    def describe(cls) -> dict[str, str]:
        """Each setting's name and the string that stands under it in the source, in order."""
        about = dict.fromkeys(cls.names(), "")
        for owner in reversed(cls.__mro__[:-1]):
            [tree] = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
            assert isinstance(tree, ast.ClassDef)
            for statement, below in itertools.pairwise(tree.body):
                match statement, below:
                    case (
                        ast.AnnAssign(target=ast.Name(id=name)),
                        ast.Expr(value=ast.Constant(value=str(text))),
                    ):
                        about[name] = " ".join(text.split())
        return about


# What `__post_init__` of several `Settings` refuses; each raises ValueError with one sentence.


def check_counts(settings: Settings, *names: str) -> None:
    """Refuse a setting of these names that is below 1."""
    for name in names:
        if getattr(settings, name) < 1:
            raise ValueError(f"{name} must be at least 1; got {getattr(settings, name)}")


def check_learning_rate(rate: float, name: str = "learning_rate") -> None:
    """Refuse a step size that is negative, infinite or not a number."""
    if not 0 <= rate < math.inf:
        raise ValueError(f"{name} must be a number from 0 up; got {rate}")


def check_named_once(name: str, chosen: Sequence[str]) -> None:
    """Refuse a choice of nothing, or of the same thing twice."""
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"{name} must name one or more, each once; got {chosen}")


@dataclass(frozen=True)
class Trial:
    """What one trial leaves behind.

    number : the trial, counted from 0.
    values : one number (or word) a column of trials.csv: the results that rows are made of.
    model : the trained parameters by name, as `Module.state_dict()` gives them; written to
        model.safetensors as `VARIANT.trial.NUMBER.NAME` (no `VARIANT.` where there is one variant).
    arrays : whatever the figures need beyond the logged metrics; kept until they are drawn.
    variant : filled in by the harness.
    """

    number: int
    values: Mapping[str, float | int | bool | str] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    variant: str = ""


@dataclass(frozen=True)
class Metric:
    """One line of metrics.csv: what `work.log` was told about one trial at one step."""

    variant: str
    trial: int
    step: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Run:
    """A finished run, as `rows`, `figures` and `printout` receive it.

    Trials and metrics are in order of variant, trial, step, however they were computed; `data` are
    the files of the data sets that were used.
    """

    settings: Any
    preset: str
    seed: int
    backend: str
    trials: tuple[Trial, ...]
    metrics: tuple[Metric, ...]
    data: tuple[Found, ...] = ()

    def of(self, variant: str = "") -> tuple[Trial, ...]:
        """The trials of one variant, by number.

        Raises KeyError naming the variants there are.
        """
        found = tuple(t for t in self.trials if t.variant == variant)
        if not found:
            known = sorted({t.variant for t in self.trials})
            raise KeyError(f"no trial of variant {variant!r}; this run has {known}")
        return found

    def values(self, name: str, variant: str = "") -> list[Any]:
        """`name` of every trial of a variant (a column of trials.csv)."""
        return [t.values[name] for t in self.of(variant)]

    def curve(self, name: str, variant: str = "") -> tuple[np.ndarray, np.ndarray]:
        """A logged metric over the steps.

        Returns the steps, shape (n,), and the values, shape (trials, n), float64. Steps at which
        the metric was not logged are left out; a trial that ended earlier is filled with NaN.
        """
        logged = [m for m in self.metrics if m.variant == variant and name in m.values]
        steps = sorted({m.step for m in logged})
        column = {step: i for i, step in enumerate(steps)}
        line = {t.number: i for i, t in enumerate(self.of(variant))}
        values = np.full((len(line), len(steps)), np.nan)
        for m in logged:
            values[line[m.trial], column[m.step]] = m.values[name]
        return np.array(steps, dtype=np.int64), values


def _one_variant(settings: Any) -> Sequence[str]:
    return ("",)


def _no_data(settings: Any) -> Sequence[DataSet]:
    return ()


@dataclass(frozen=True)
class Task:
    """One experiment.

    name : the file's name without `.py`.
    documents : the documents it belongs to ("000" … "004").
    title : one line for the list: what it shows. No capital first, no full stop.
    claim : what the document says happens, in a paragraph or two (for `show`).
    equations : the model and the task as formulas (for `show`).
    look_for : what to look at in the figures and rows (for `show`).
    settings : the dataclass of settings.
    presets : "quick" (seconds: proves the wiring, and no more) and "document" (the document's own).
        At `quick`, give a row that so little training cannot speak about no target: a verdict is
        only ever printed where it means something.
    durations : how long each preset takes on two cores, in words ("2 s", "4 min").
    levels : the reference levels at given settings (for `show`); rows carry their own.
    variants : the configurations trained side by side at given settings. Each (variant, trial) is a
        unit of work of its own. An experiment of one configuration leaves this alone.
    data : the data sets that a run at given settings reads; they are found, or fetched, and
        verified before anything is trained. `train` reads them by `work.dataset`.
    stack : how many trials of a variant make a unit of work, or a function of the variant that
        says so. More than one where `train` trains them side by side, on an axis of their own, and
        each to the same bits as alone.
    train : trains the trials of one unit of work; see `tasks.work.Work` for what it is given.
    rows : the comparison, made from the finished run.
    figures : matplotlib figures by file name without ".png"; draw with `tasks.plots`.
    printout : what the original program prints, as text; shown on standard error and kept as
        printout.txt.
    live : draws one frame of `--live` into a figure, from what `work.show` was given.
    tour : True if `tour` runs it, since the document preset takes seconds.
    tour_trials : how many trials the tour runs, if all of the document preset's take too long.
    """

    name: str
    documents: tuple[str, ...]
    title: str
    claim: str
    equations: str
    look_for: str
    settings: type[Settings]
    presets: Mapping[str, Settings]
    durations: Mapping[str, str]
    train: Callable[[Work], list[Trial]]
    rows: Callable[[Run], list[Row]]
    levels: Callable[[Any], Sequence[Level]] = lambda settings: ()
    variants: Callable[[Any], Sequence[str]] = _one_variant
    data: Callable[[Any], Sequence[DataSet]] = _no_data
    figures: Callable[[Run], Mapping[str, Figure]] | None = None
    printout: Callable[[Run], str] | None = None
    live: Callable[[Figure, int, Mapping[str, np.ndarray]], None] | None = None
    tour: bool = False
    tour_trials: int | None = None
    stack: int | Callable[[str], int] = 1
