"""Document 001's binary echo: how far back does a recurrent network learn to listen?

A stream of fair bits is echoed with noise: the chance that the echo is one rises with the bit of
three steps ago and falls with the bit of eight steps ago. Each dependency a network has learnt
lowers its cross-entropy to a level that follows from the definition, so the training curve says
what the network knows.

The gradient is cut between windows of a few steps while the state is carried on. In a window of n
only the positions at least d steps in can send a gradient back over a distance d: with n = 5, two
of five positions teach the network to keep the bit of three steps ago and none the bit of eight;
with n = 10, two of ten do. But what nothing taught a state to keep may still be in it. The document
changes the window and the number of units at once, (5, 4) and (10, 16); the two configurations
between, (10, 4) and (5, 16), tell that it is the units which bring the second dependency.

Upstream ("RNNs in TensorFlow I", which document 001 retells) indexes X[i - 3] and X[i - 8] from
i = 0, so the first eight echoes listen to the *end* of the stream, by Python's negative indices.
Here eight more bits are drawn before the first, and every echo follows the definition.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import microtensor as mt
from models.binary_echo import BUILDS, initial_weights
from tasks import plots
from tasks.harness import (
    Level,
    Row,
    Run,
    Settings,
    Task,
    Trial,
    at_most,
    check_counts,
    check_learning_rate,
    judged,
    median_of,
    within,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tasks.work import Work

BASE = 0.5
EFFECTS = {3: 0.5, 8: -0.25}
"""What a one, so many steps ago, adds to the chance that the echo is one."""
WARM_UP = max(EFFECTS)


def chance_of_one(bits: dict[int, Any]) -> Any:
    """P(Y_t = 1) given the bits X_(t - delay) by delay; numbers or arrays of zeros and ones."""
    return BASE + sum(effect * bits[delay] for delay, effect in EFFECTS.items())


def best_cross_entropy(known: Collection[int]) -> float:
    """The least cross-entropy, in nats, of a predictor that sees the bits at `known` delays only.

    Computed from the definition: every pattern of bits is equally likely; patterns that look alike
    to the predictor get the same forecast, best the mean of their chances.

    Raises
    ------
    ValueError
        If a delay of `known` has no effect on the echo.
    """
    strangers = set(known) - set(EFFECTS)
    if strangers:
        raise ValueError(f"the echo depends on the delays {sorted(EFFECTS)}; got {strangers}")
    alike: dict[tuple[int, ...], list[float]] = {}
    patterns = list(itertools.product((0, 1), repeat=len(EFFECTS)))
    for pattern in patterns:
        bits = dict(zip(EFFECTS, pattern, strict=True))
        seen = tuple(bits[delay] for delay in sorted(known))
        alike.setdefault(seen, []).append(chance_of_one(bits))
    return sum(
        len(chances) / len(patterns) * _entropy(math.fsum(chances) / len(chances))
        for chances in alike.values()
    )


def _entropy(p: float) -> float:
    return -sum(q * math.log(q) for q in (p, 1.0 - p) if q > 0.0)


NOTHING, ONLY_3, BOTH = best_cross_entropy(()), best_cross_entropy((3,)), best_cross_entropy((3, 8))

LADDER = (
    Level("nothing learnt", NOTHING),
    Level("only t-3 learnt", ONLY_3),
    Level("both learnt", BOTH),
)


def draw(generator: mt.Generator, symbols: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a stream and its echo: two int64 arrays of shape `(symbols,)`."""
    stream = generator.integers(0, 2, (WARM_UP + symbols,))
    bits = {delay: stream[WARM_UP - delay : WARM_UP - delay + symbols] for delay in EFFECTS}
    echo = generator.uniform(0.0, 1.0, (symbols,), "float64") < chance_of_one(bits)
    return stream[WARM_UP:], echo.astype("int64")


def side_by_side(stream: np.ndarray, batch: int) -> np.ndarray:
    """Cut a stream into `batch` consecutive stretches, time first: `(symbols // batch, batch)`."""
    length = stream.size // batch
    return np.ascontiguousarray(stream[: batch * length].reshape(batch, length).T)


@dataclass(frozen=True)
class Shape:
    """One configuration: how many steps a window has, how many units the state, how many epochs."""

    steps: int
    units: int
    epochs: int
    build: str = "layer"
    dtype: str = "float32"

    @property
    def name(self) -> str:
        """The variant's name in files: `steps5_units4`."""
        extra = "" if self.dtype == "float32" else f"_{self.build.replace(' ', '_')}_{self.dtype}"
        return f"steps{self.steps}_units{self.units}{extra}"

    @property
    def title(self) -> str:
        """The configuration in words."""
        steps = "step" if self.steps == 1 else "steps"
        return f"{self.steps} {steps}, {self.units} units"


@dataclass(frozen=True, kw_only=True)
class EchoSettings(Settings):
    """The document's settings; the epochs of each configuration are its too."""

    trials: int = 10
    """Independent repetitions; each has its own weights and data."""
    symbols: int = 1_000_000
    """Length of the stream of one epoch; every epoch draws a new one."""
    batch: int = 200
    """Stretches of the stream that are read side by side."""
    learning_rate: float = 0.1
    """Step size of Adagrad, whose accumulator starts at 0.1 as in TensorFlow 1."""
    epochs_short: int = 1
    """Epochs of the configuration (5 steps, 4 units)."""
    epochs_one_step: int = 2
    """Epochs of the configuration (1 step, 4 units)."""
    epochs_long: int = 5
    """Epochs of (10, 16), as in the document's own code (upstream: 10), and of (10, 4), (5, 16)."""
    separate: bool = True
    """Also train (10, 4) and (5, 16), which tell the length of the window from the state's size."""
    builds: bool = True
    """Also train (5, 4) in float64 by hand, statically unrolled and as a layer, and compare."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "batch", "epochs_short", "epochs_one_step", "epochs_long")
        if self.symbols < 10 * self.batch:
            raise ValueError(
                f"symbols must be at least ten for each of the {self.batch} stretches; "
                f"got {self.symbols}"
            )
        check_learning_rate(self.learning_rate)


def shapes(settings: EchoSettings) -> dict[str, Shape]:
    """The configurations to train, by variant name."""
    found = [
        Shape(5, 4, settings.epochs_short),
        Shape(10, 16, settings.epochs_long),
        Shape(1, 4, settings.epochs_one_step),
    ]
    if settings.separate:
        found += [Shape(10, 4, settings.epochs_long), Shape(5, 16, settings.epochs_long)]
    if settings.builds:
        found += [Shape(5, 4, 1, build, "float64") for build in BUILDS]
    return {shape.name: shape for shape in found}


RECENT = 500  # updates over which the final cross-entropy is averaged
PRINTED = 100  # updates between two points of the curve, as in the document


def carry(state: mt.Tensor) -> mt.Tensor:
    """Hand the state to the next window without its history: truncated back-propagation."""
    return mt.detach(state)


def train(work: Work) -> list[Trial]:
    """Train one configuration: cross-entropy over windows, the state carried between them."""
    settings: EchoSettings = work.settings
    shape = shapes(settings)[work.variant]
    [number] = work.trials
    weights = initial_weights(work.generator("weights", shape.units), shape.units, shape.dtype)
    model = BUILDS[shape.build](weights)
    optimizer = mt.optim.Adagrad(
        model.parameters(), lr=settings.learning_rate, initial_accumulator_value=0.1
    )
    loss_of = mt.nn.CrossEntropyLoss()
    one_hot = np.eye(2, dtype=shape.dtype)
    windows = settings.symbols // settings.batch // shape.steps
    total = shape.epochs * windows
    nobody = mt.zeros((settings.batch, shape.units), dtype=shape.dtype)
    carried: dict[str, Any] = {"state": nobody, "losses": np.zeros(total)}
    losses = carried["losses"]
    x = y = None
    for update in work.steps(total, model=model, optimizer=optimizer, carried=carried):
        losses = carried["losses"]
        epoch, window = divmod(update, windows)
        if window == 0:
            carried["state"] = nobody
        if window == 0 or x is None:
            stream, echo = draw(work.generator("data", epoch), settings.symbols)
            x, y = one_hot[side_by_side(stream, settings.batch)], side_by_side(echo, settings.batch)
        span = slice(window * shape.steps, (window + 1) * shape.steps)
        logits, state = model(mt.tensor(x[span]), carried["state"])
        loss = loss_of(logits.reshape((-1, 2)), mt.tensor(y[span].reshape(-1)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        carried["state"] = carry(state)
        losses[update] = loss.item()
        if (update + 1) % PRINTED == 0:
            work.log(update + 1, cross_entropy=losses[update + 1 - PRINTED : update + 1].mean())
    values = {
        "cross_entropy": float(losses[-RECENT:].mean()),
        "first_hundred": float(losses[:PRINTED].mean()),
        "parameters": sum(parameter.size for parameter in model.parameters()),
    }
    return [Trial(number, values, model.state_dict(), {"losses": losses})]


def rows(run: Run) -> list[Row]:
    """Compare each configuration's final cross-entropy with the ladder."""
    known = shapes(run.settings)
    teaches = run.preset != "quick"

    def final(shape: Shape) -> list[float]:
        return run.values("cross_entropy", shape.name)

    table = [
        Row(
            f"cross-entropy of the best predictor, {level.name}",
            level.value,
            target=printed,
            source="document",
            tolerance=within(printed, 0.005),
            unit="nats",
            note="Computed from the definition; the document prints two digits.",
        )
        for level, printed in zip(LADDER, (0.66, 0.52, 0.45), strict=True)
    ]
    targets = {
        (5, 4): (
            ONLY_3,
            "computed",
            within(ONLY_3, 0.006),
            "The document prints 0.52. Two of five positions teach t-3, none t-8.",
        ),
        (10, 16): (
            BOTH,
            "computed",
            at_most(0.465),
            "The document prints 0.45. Two of ten positions teach t-8; 0.46 after 5 epochs, still "
            "falling.",
        ),
        (1, 4): (
            (NOTHING + ONLY_3) / 2,
            "computed",
            (0.55, 0.64),
            "Upstream shows only a curve, between the two levels; the target is their middle. No "
            "gradient crosses a step, and yet the state happens to hold some of the past.",
        ),
    }
    plain = [shape for shape in known.values() if shape.dtype == "float32"]
    for shape in plain:
        name = f"cross-entropy, {shape.title}, last {RECENT} updates"
        found = median_of(final(shape))
        if (shape.steps, shape.units) in targets:
            target, source, tolerance, note = targets[shape.steps, shape.units]
            table.append(
                Row(
                    name,
                    **found,
                    **judged(target, source, tolerance, when=teaches),
                    levels=LADDER,
                    unit="nats",
                    note=note,
                )
            )
        else:
            table.append(
                Row(
                    name,
                    **found,
                    levels=LADDER,
                    unit="nats",
                    note="Not in the document: tells window from state.",
                )
            )
    if run.settings.separate:
        table += [
            Row(
                "gain from 12 more units (4 to 16), at 10 steps",
                **median_of(_gains(final, Shape(10, 4, 0), Shape(10, 16, 0))),
                unit="nats",
                note="Trial by trial: what the state's size brings.",
            ),
            Row(
                "gain from 5 more steps (5 to 10), at 16 units",
                **median_of(_gains(final, Shape(5, 16, 0), Shape(10, 16, 0))),
                unit="nats",
                note="Trial by trial: what the longer window brings.",
            ),
        ]
    for units, printed in ((4, 38), (16, 338)):
        shape = next(shape for shape in plain if shape.units == units)
        [count] = set(run.values("parameters", shape.name))
        table.append(
            Row(
                f"parameters, {units} units",
                count,
                target=printed,
                source="computed",
                tolerance=within(printed, 0),
            )
        )
    if run.settings.builds:
        table.append(
            Row(
                "largest difference between the curves of the three builds",
                _builds_differ(run),
                target=0.0,
                source="document",
                tolerance=at_most(1e-6),
                unit="nats",
                note="By hand, statically unrolled and as a layer, loss by loss, in float64.",
            )
        )
    return table


def _gains(final: Callable[[Shape], list[float]], before: Shape, after: Shape) -> list[float]:
    """How much lower each trial's cross-entropy is in the second configuration."""
    return [a - b for a, b in zip(final(before), final(after), strict=True)]


def _builds_differ(run: Run) -> float:
    """The largest difference of a loss at any update of any trial between two builds."""
    names = [shape.name for shape in shapes(run.settings).values() if shape.dtype == "float64"]
    curves = np.array([[trial.arrays["losses"] for trial in run.of(name)] for name in names])
    return float((curves.max(axis=0) - curves.min(axis=0)).max())


COLORS = dict(zip(((5, 4), (10, 16), (1, 4), (10, 4), (5, 16)), plots.PALETTE, strict=False))
"""Steps and units of a configuration to its colour, the same in both figures."""


def figures(run: Run) -> dict[str, Figure]:
    """Draw the learning curves over the ladder, and the split of steps from state."""
    known = shapes(run.settings)
    told = [Shape(5, 4, 0), Shape(10, 16, 0), Shape(1, 4, 0)]
    drawn = {
        "learning_curves": _curves_figure(
            run, [known[s.name] for s in told], "What a recurrent network of the document learns"
        )
    }
    if run.settings.separate:
        square = [Shape(10, 16, 0), Shape(10, 4, 0), Shape(5, 16, 0), Shape(5, 4, 0)]
        drawn["steps_or_state"] = _curves_figure(
            run, [known[s.name] for s in square], "Steps of the window, or size of the state?"
        )
    return drawn


def _curves_figure(run: Run, chosen: list[Shape], title: str) -> Figure:
    figure, axes = plots.new_figure()
    seen = run.settings.batch / 1e6
    for shape in chosen:
        color = COLORS[shape.steps, shape.units]
        updates, values = run.curve("cross_entropy", shape.name)
        plots.curves(axes, updates * shape.steps * seen, values, label=shape.title, color=color)
    plots.reference_levels(axes, LADDER)
    axes.set_xlabel("symbols read (millions)")
    axes.set_ylabel(f"cross-entropy (nats), mean of {PRINTED} updates")
    axes.set_ylim(0.44, 0.72)
    axes.set_xlim(0, 1.22 * axes.get_xlim()[1])  # room for the names of the levels
    axes.set_title(title)
    axes.legend(loc="center right", frameon=False, fontsize=9, bbox_to_anchor=(1.0, 0.6))
    return figure


def printout(run: Run) -> str:
    """Print the curve of the first trial as the document does, a line for every 100 updates."""
    shape = shapes(run.settings)["steps5_units4"]
    updates, values = run.curve("cross_entropy", shape.name)
    lines = [f"{shape.title}, trial {run.of(shape.name)[0].number}:"]
    lines += [
        f"  updates {update - PRINTED + 1:5d} to {update:5d}: mean cross-entropy {value:.4f}"
        for update, value in zip(updates, values[0], strict=True)
    ]
    lines.append(
        "The document's first printed mean adds 101 losses and divides by 100; ours has 100."
    )
    return "\n".join(lines)


TASK = Task(
    name="binary_echo",
    documents=("001",),
    title="how far back a network learns to listen: a noisy echo of bits 3 and 8 steps ago",
    claim=(
        "Document 001 (after r2rt's RNNs in TensorFlow I) trains a small recurrent network on a "
        "stream of bits and an echo that depends on the bits of three and of eight steps ago. The "
        "cross-entropy tells what is learnt: 0.66 nothing, 0.52 the nearer dependency, 0.45 both. "
        "With windows of 5 steps and 4 units it learns the nearer one, with 10 steps and 16 units "
        "both; replacing the hand-written cell by the framework's changes nothing.\n\n"
        "Steps and units are changed together there. Apart, the units matter: 16 of them hold most "
        "of the bit of eight steps ago even with windows of 5 steps, whose gradient never reaches "
        "it, and 4 do not with windows of 10.\n\n"
        "Accuracy would tell nothing: 0.75 is best with one dependency or with both.\n\n"
        "Corrections. The original's X[i - 3] and X[i - 8] wrap around for the first eight "
        "symbols; here eight more are drawn. Its first printed mean adds 101 losses and divides by "
        "100. The formula in the text puts the bias outside the tanh, the code, rebuilt here, "
        "inside."
    ),
    equations=(
        "P(Y_t = 1) = 0.5 + 0.5 X_(t-3) - 0.25 X_(t-8)\n"
        "s_t = tanh([x_t ; s_(t-1)] W + b)      logits_t = s_t U + b_out\n"
        "Adagrad: a += g^2,  w -= lr g / sqrt(a),  a starts at 0.1"
    ),
    look_for=(
        "learning_curves.png: the curves of 5 and of 10 steps settle near a rung of the ladder. "
        "With windows of one step no gradient crosses time; what the state happens to hold differs "
        "from trial to trial and lifts most off the first rung. steps_or_state.png: the curves "
        "pair up by units, not by steps. The small bumps of the 16-unit curves near each million "
        "symbols are the starts of an epoch, where the state is zeroed."
    ),
    settings=EchoSettings,
    presets={
        "quick": EchoSettings(
            trials=1, symbols=100_000, epochs_one_step=1, epochs_long=1, separate=False
        ),
        "document": EchoSettings(),
    },
    durations={"quick": "2 s", "document": "1.5 min"},
    train=train,
    rows=rows,
    levels=lambda settings: LADDER,
    variants=lambda settings: tuple(shapes(settings)),
    figures=figures,
    printout=printout,
    tour=True,
    tour_trials=4,
)
