"""Document 002's first example: a recurrent network in NumPy, and what its last output knows.

The document (after Chollet's listing) runs the forward pass once with random numbers, and says that
the last output holds information about the whole sequence. Its own numbers are the worst case:
drawn from U[0, 1), they drive every unit so far into saturation that every output is one, whatever
came in. Then the claim is put to the test with weights that do not saturate: one step of the input
is replaced, and the change of the last output is measured, for every distance between the two.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import microtensor as mt
from models.numpy_rnn import (
    Weights,
    as_layer,
    contracting_weights,
    document_weights,
    forward_in_numpy,
)
from tasks import plots
from tasks.harness import (
    Level,
    Row,
    Run,
    Settings,
    Task,
    Trial,
    at_least,
    at_most,
    check_counts,
    highest_of,
    judged,
    median_of,
    within,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tasks.work import Work

PRINTED_STEP = 2
"""The step whose output the document's listing prints, in place of the stacked outputs."""

NEARLY_ONE = 0.5 * math.log(2 / 1e-5)
"""From here on 1 - tanh(a) = 2 / (e^2a + 1) is less than 1e-5: 6.1."""

EXACTLY_ONE = 0.5 * math.log(2 * 2.0**54)
"""From here on tanh(a) is rounded to 1 in float64: 19.06."""

DTYPES = ("float64", "float32")


@dataclass(frozen=True, kw_only=True)
class NumpyRNNSettings(Settings):
    """The sizes are the document's; the weights that do not saturate are ours."""

    trials: int = 20
    """Independent repetitions; each has its own weights and inputs."""
    steps: int = 100
    """Length of the sequence."""
    input_size: int = 32
    """Features of a step."""
    hidden_size: int = 64
    """Units."""
    radii: tuple[float, ...] = (0.5, 0.9, 1.0, 1.25, 1.5)
    """Spectral radii of the recurrent weights that do not saturate."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps <= PRINTED_STEP:
            raise ValueError(f"steps must be at least {PRINTED_STEP + 1}; got {self.steps}")
        check_counts(self, "input_size", "hidden_size")
        if not self.radii or not all(0 < radius < math.inf for radius in self.radii):
            raise ValueError(f"radii must be one or more numbers above 0; got {self.radii}")
        if len(set(self.radii)) < len(self.radii):
            raise ValueError(f"radii must be distinct; got {self.radii}")


def rounding(hidden_size: int, dtype: str) -> float:
    """What rounding alone may change in an output: half a unit of one for each product of a sum."""
    return hidden_size * float(np.finfo(dtype).eps) / 2


def replaced_one_by_one(x: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Sequences `(T, T + 1, I)`: `x` itself, then `x` with one step replaced by that of `others`.

    Sequence 1 + d has its change d steps before the last, d = 0 … T - 1.
    """
    steps = len(x)
    batch = np.repeat(x[:, None], steps + 1, axis=1)
    for distance in range(steps):
        place = steps - 1 - distance
        batch[place, 1 + distance] = others[place]
    return batch


def last_outputs(weights: Weights, batch: np.ndarray, dtype: str) -> np.ndarray:
    """The layer's last output for each sequence of the batch, `(B, hidden size)`, float64."""
    layer = as_layer(weights, dtype)
    with mt.no_grad():
        outputs, _ = layer(mt.tensor(batch.astype(dtype)))
        return outputs[-1].to("numpy").numpy().astype("float64")


def changes(weights: Weights, batch: np.ndarray, dtype: str) -> np.ndarray:
    """How far the last output moves, its largest component, by distance of the change: `(T,)`."""
    last = last_outputs(weights, batch, dtype)
    return np.abs(last[1:] - last[0]).max(axis=1)


def bounds(weights: Weights, x: np.ndarray, others: np.ndarray, radius: float) -> np.ndarray:
    """What `changes` cannot exceed but for rounding, if U is `radius` times orthogonal: `(T,)`.

    A tanh moves no further than what goes into it, and U stretches every vector by `radius`: after
    d steps at most radius^d |W (x' - x)| is left.
    """
    first = np.linalg.norm((others - x) @ weights.W.T, axis=1)[::-1]
    return first * radius ** np.arange(len(x))


def train(work: Work) -> list[Trial]:
    """Run everything forward; nothing is trained."""
    settings: NumpyRNNSettings = work.settings
    [number] = work.trials
    sizes = settings.input_size, settings.hidden_size
    generator = work.generator("document")
    x = generator.uniform(0.0, 1.0, (settings.steps, settings.input_size), np.float64)
    weights = document_weights(generator, *sizes)
    others = work.generator("other inputs").uniform(0.0, 1.0, x.shape, np.float64)
    batch = replaced_one_by_one(x, others)

    before, after = forward_in_numpy(weights, x)
    layer = as_layer(weights)
    with mt.no_grad():
        ours = layer(mt.tensor(x[:, None]))[0].to("numpy").numpy()[:, 0]
    missing = (1.0 - after).max(axis=1)
    values = {
        "parameters": sum(parameter.size for parameter in layer.parameters()),
        "layer_difference": float(np.abs(ours - after).max()),
        "before_first": float(before[0].mean()),
        "before_last": float(before[-1].mean()),
        "before_least_later": float(before[1:].min()),
        "missing_first": float(missing[0]),
        "missing_printed": float(missing[PRINTED_STEP]),
        "missing_later": float(missing[1:].max()),
        "radius": float(np.abs(np.linalg.eigvals(weights.U)).max()),
        "shown_document": shown(changes(weights, batch, "float64"), 0.0),
    }
    arrays = {"before": before, "printed": after[PRINTED_STEP]}
    excess = []
    for position, radius in enumerate(settings.radii):
        weights = contracting_weights(work.generator("weights", position), *sizes, radius)
        limit = bounds(weights, x, others, radius)
        for dtype in DTYPES:
            moved = changes(weights, batch, dtype)
            floor = rounding(settings.hidden_size, dtype)
            arrays[f"{dtype}_{radius}"] = moved
            values[f"shown_{dtype}_{radius}"] = shown(moved, floor)
            if dtype == "float64":
                excess.append(float((moved / (limit + floor)).max()))
        values[f"limit_{radius}"] = shown(limit, rounding(settings.hidden_size, "float64"))
        values[f"oldest_{radius}"] = float(arrays[f"float64_{radius}"][-1])
    values["excess"] = max(excess)
    return [Trial(number, values, as_layer(weights).state_dict(), arrays)]


def shown(moved: np.ndarray, floor: float) -> int:
    """How many of the last steps show: up to the oldest whose change moves the output visibly."""
    seen = np.nonzero(moved > floor)[0]
    return int(seen[-1]) + 1 if len(seen) else 0


def rows(run: Run) -> list[Row]:
    """The saturation and its reason; then how many steps the last output knows."""
    return _saturation_rows(run) + _memory_rows(run)


def published_sizes(settings: NumpyRNNSettings) -> bool:
    """Whether the network has the document's sizes, of which the targets speak."""
    return (settings.input_size, settings.hidden_size) == (32, 64)


def _saturation_rows(run: Run) -> list[Row]:
    settings: NumpyRNNSettings = run.settings
    features, units = settings.input_size, settings.hidden_size
    formula = units * (features + units + 1)
    # Means of products of U[0, 1): 1/4 for each feature, 1/2 for each unit that is one, 1/2 for b.
    from_input, from_state = features / 4 + 0.5, units / 2
    verdict = functools.partial(judged, when=published_sizes(settings))

    def worst(name: str) -> dict[str, Any]:
        return highest_of(run.values(name))

    def saturated(name: str, what: str, note: str = "") -> Row:
        ones = verdict(0.0, "document", at_most(1e-5))
        return Row(f"U[0, 1): largest 1 - output, {what}", **worst(name), **ones, note=note)

    return [
        Row(
            "parameters",
            run.values("parameters")[0],
            target=formula,
            source="computed",
            tolerance=within(formula, 0),
            note="6,208 at the document's sizes.",
        ),
        Row(
            "largest difference between NumPy's outputs and the layer's",
            **worst("layer_difference"),
            target=0.0,
            source="computed",
            tolerance=at_most(1e-12),
        ),
        Row(
            "U[0, 1): mean that goes into the tanh, first step",
            **median_of(run.values("before_first")),
            **verdict(from_input, "computed", within(from_input, 2.0)),
            note=f"{features} products of mean 1/4 and a bias of mean 1/2.",
        ),
        Row(
            "U[0, 1): mean that goes into the tanh, last step",
            **median_of(run.values("before_last")),
            **verdict(from_input + from_state, "computed", within(from_input + from_state, 3.0)),
            note=f"The {units} units of the step before, all one, add {units} times 1/2.",
        ),
        Row(
            "U[0, 1): least that goes into a tanh, second step on, lowest of trials",
            float(np.min(run.values("before_least_later"))),
            **verdict(EXACTLY_ONE, "computed", at_least(EXACTLY_ONE)),
            trials=settings.trials,
            levels=tuple(levels(settings)),
            note="From 19.06 on float64 cannot tell a tanh from 1.",
        ),
        saturated(
            "missing_printed",
            f"step {PRINTED_STEP}, highest of trials",
            "The step that the document's listing prints: a vector of ones.",
        ),
        saturated("missing_later", "all steps but the first, highest of trials"),
        Row(
            "U[0, 1): largest 1 - output, first step, highest of trials",
            **worst("missing_first"),
            levels=(Level("the other steps", 1e-5),),
            note="No state yet: only 8.5 goes into the tanh on average, and some units stay short.",
        ),
        Row(
            "U[0, 1): spectral radius of the recurrent weights",
            **median_of(run.values("radius")),
            **verdict(units / 2, "computed", within(units / 2, 1.0)),
            note="A matrix of mean 1/2 stretches a vector of equal numbers by half its size.",
        ),
    ]


def _memory_rows(run: Run) -> list[Row]:
    settings: NumpyRNNSettings = run.settings
    steps = settings.steps
    whole = Level("the whole sequence", steps)
    of = f"steps of {steps} that show in the last output"
    table = [
        Row(
            f"U[0, 1): {of}",
            **median_of(run.values("shown_document")),
            **judged(0.0, "computed", within(0.0, 0.0), when=published_sizes(settings)),
            levels=(whole,),
            note="Against the claim: the output is ones whatever came in, not even the last input "
            "shows.",
        )
    ]
    for radius in settings.radii:
        limit = max(run.values(f"limit_{radius}"))
        verdict: dict[str, Any] = {}
        note = ""
        if limit < steps:
            verdict = judged(limit, "computed", at_most(limit))
            note = (
                "Against the claim: a change shrinks at least by the radius at every step, so at "
                "most the target can show."
            )
        elif radius >= 1.0 and steps <= 100 and published_sizes(settings):
            verdict = judged(steps, "document", at_least(steps))
            note = "As the document claims."
        if radius == 1.0:
            note += " Keras' SimpleRNN starts like this."
        table += [
            Row(
                f"radius {radius:g}: {of}, float64",
                **median_of(run.values(f"shown_float64_{radius}")),
                **verdict,
                levels=(whole,),
                note=note.strip(),
            ),
            Row(
                f"radius {radius:g}: {of}, float32",
                **median_of(run.values(f"shown_float32_{radius}")),
                levels=(whole,),
                note="The precision in which frameworks compute.",
            ),
            Row(
                f"radius {radius:g}: change of the last output by the first input, float64",
                **median_of(run.values(f"oldest_{radius}")),
                levels=(Level("rounding", rounding(settings.hidden_size, "float64")),),
            ),
        ]
    table.append(
        Row(
            "largest change of the last output over its bound",
            **median_of(run.values("excess")),
            target=1.0,
            source="computed",
            tolerance=at_most(1.0),
            note="The bound at distance d is radius^d times the change of W x, and rounding.",
        )
    )
    return table


def printout(run: Run) -> str:
    """Print what the document's listing prints, and what it means to print."""
    settings: NumpyRNNSettings = run.settings
    trial = run.of()[0]
    vector = np.array2string(trial.arrays["printed"], max_line_width=70)
    return (
        f"{vector}\n"
        f"Shape ({settings.hidden_size},): the output of step {PRINTED_STEP}, which is what the "
        f"listing prints.\nThe stacked outputs that it announces have the shape "
        f"({settings.steps}, {settings.hidden_size})."
    )


def figures(run: Run) -> Mapping[str, Figure]:
    """Draw what goes into the tanh, and the change of the last output over the distance."""
    return {"saturation": _saturation_figure(run), "memory": _memory_figure(run)}


def _saturation_figure(run: Run) -> Figure:
    figure, axes = plots.new_figure()
    count = min(10, run.settings.steps)
    before = np.stack([trial.arrays["before"][:count] for trial in run.of()])  # (trials, n, H)
    steps = np.arange(count)
    flat = before.transpose(1, 0, 2).reshape(count, -1)
    middle = flat.mean(axis=1)
    axes.errorbar(
        steps,
        middle,
        [middle - flat.min(axis=1), flat.max(axis=1) - middle],
        fmt="o",
        color=plots.PALETTE[0],
        capsize=4,
        label=f"mean, least and greatest of {flat.shape[1]:,} units",
    )
    plots.reference_levels(axes, levels(run.settings))
    axes.set_xticks(steps)
    axes.set_ylim(bottom=0)
    axes.set(
        title="Weights from U[0, 1): what goes into the tanh",
        xlabel="time step",
        ylabel="W x + U s + b",
    )
    axes.legend(loc="lower right", frameon=False)
    return figure


INVISIBLE = 1e-18  # stands for no change at all, which a logarithm cannot show


def _memory_figure(run: Run) -> Figure:
    settings: NumpyRNNSettings = run.settings
    figure, both = plots.new_figure(1, 2, width=12.0, height=5.0, sharey=True)
    distances = np.arange(settings.steps)
    for axes, dtype in zip(both, DTYPES, strict=True):
        for position, radius in enumerate(settings.radii):
            moved = np.stack([trial.arrays[f"{dtype}_{radius}"] for trial in run.of()])
            plots.curves(
                axes,
                distances,
                np.maximum(moved, INVISIBLE),
                label=f"radius {radius:g}",
                color=plots.PALETTE[position % len(plots.PALETTE)],
            )
        floor = rounding(settings.hidden_size, dtype)
        axes.axhspan(INVISIBLE / 100, floor, color="0.5", alpha=0.15, linewidth=0)
        axes.text(0.01, floor, " rounding", transform=axes.get_yaxis_transform(), va="top",
                  fontsize=9, color="0.25")  # fmt: skip
        axes.set(
            title=dtype,
            xlabel="distance of the changed input from the end (steps)",
            yscale="log",
            ylim=(2e-17, 10),
        )
        axes.margins(x=0.01)
    both[0].set_ylabel("change of the last output (largest unit)")
    figure.suptitle("How far back a changed input still shows in the last output")
    handles, labels = both[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def levels(settings: Any) -> Sequence[Level]:
    """What goes into a tanh that comes out as one, nearly and exactly."""
    return (
        Level("1 - tanh is below 1e-5 from", NEARLY_ONE),
        Level("tanh is rounded to 1 in float64 from", EXACTLY_ONE),
    )


TASK = Task(
    name="numpy_rnn",
    documents=("002",),
    title="a recurrent network in NumPy: all ones, and how far back its last output knows",
    claim=(
        "Document 002 explains the recurrent network with a few lines of NumPy, after Chollet: 100 "
        "steps of 32 numbers, 64 units, everything drawn from U[0, 1). It says that every output "
        "holds information about all steps up to its own, so that the last one is enough: it "
        "carries the whole sequence.\n\n"
        "In the example it carries nothing. All weights are positive, some 40 go into every tanh, "
        "and from the second step on every output is exactly one in float64, whatever came in. In "
        "a network that does not saturate it depends on the recurrent weights: with a spectral "
        "radius of 1/2 the input of 40 steps ago is lost in rounding, with 1, as Keras starts, "
        "all 100 steps show in float64 but only the last half in float32, and only with radii "
        "well above 1 does the first input move the last output by more than a trace. There the "
        "differences no longer fade, whichever input they come from: the output tells that "
        "something has changed, not what.\n\n"
        "A correction: the listing prints the output of step 2 instead of the stacked array that "
        "it has just made. Since all are ones, it looks the same."
    ),
    equations=(
        "s_t = tanh(W x_t + U s_(t-1) + b),   s_(-1) = 0\n"
        "mean of W x + U s + b = 32/4 + 64/2 + 1/2 = 40.5 once s is ones; 8.5 in the first step\n"
        "1 - tanh(a) = 2 / (e^(2a) + 1): below 1e-5 from a = 6.1, rounded to 0 from a = 19.06\n"
        "U = radius × orthogonal:  |s'_T - s_T| <= radius^d |W (x'_(T-d) - x_(T-d))|"
    ),
    look_for=(
        "saturation.png: from the second step on even the smallest of all units is far above the "
        "upper line. memory.png: straight lines downwards are memories that fade by a constant "
        "factor a step; where a line enters the grey, no reader of the last output can know that "
        "input. In float32 the same network forgets after less than half as many steps."
    ),
    settings=NumpyRNNSettings,
    presets={"quick": NumpyRNNSettings(trials=3), "document": NumpyRNNSettings()},
    durations={"quick": "1 s", "document": "5 s"},
    train=train,
    rows=rows,
    levels=levels,
    figures=figures,
    printout=printout,
    tour=True,
)
