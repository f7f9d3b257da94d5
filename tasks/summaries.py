"""Document 002's second example: Keras models and their summaries, layer by layer.

Nothing is trained. `mt.summary` prints what Keras' `model.summary()` prints, and every shape and
count is compared. Then the one thing in which PyTorch's counts differ, its second bias: where is it
idle, and where does it do something?
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

import microtensor as mt
from microtensor import nn
from models import summaries as models
from models.summaries import UNITS
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
    median_of,
    within,
)
from tasks.work import Work

Shape = tuple[int | None, ...]


class Layer(NamedTuple):
    """One line of a Keras summary."""

    kind: str
    shape: Shape  # None for the batch, and for a length that is not fixed
    parameters: int


class Printed(NamedTuple):
    """A Keras model with the summary that belongs to it."""

    title: str
    build: Callable[..., nn.Sequential]
    options: Mapping[str, Any]
    layers: Sequence[Layer]
    source: str  # "document" if it prints the summary
    two_biases: int  # parameters if every recurrent layer has PyTorch's second bias

    @property
    def total(self) -> int:
        """What Keras prints under the table."""
        return sum(layer.parameters for layer in self.layers)


EMBEDDING = Layer("Embedding", (None, None, 32), 320_000)
ALL_OUTPUTS = Layer("SimpleRNN", (None, None, 32), 2_080)
LAST_OUTPUT = Layer("SimpleRNN", (None, 32), 2_080)
DENSE = Layer("Linear", (None, 1), 33)

KERAS = {
    "last_output": Printed(
        "Embedding, SimpleRNN",
        models.last_output,
        {},
        (EMBEDDING, LAST_OUTPUT),
        "document",
        322_112,
    ),
    "all_outputs": Printed(
        "Embedding, SimpleRNN with return_sequences",
        models.all_outputs,
        {},
        (EMBEDDING, ALL_OUTPUTS),
        "document",
        322_112,
    ),
    "stacked": Printed(
        "Embedding, four SimpleRNN",
        models.stacked,
        {},
        (EMBEDDING, ALL_OUTPUTS, ALL_OUTPUTS, ALL_OUTPUTS, LAST_OUTPUT),
        "document",
        328_448,
    ),
    "lstm": Printed(
        "Embedding, LSTM, Dense",
        models.lstm_classifier,
        {},
        (EMBEDDING, Layer("LSTM", (None, 32), 8_320), DENSE),
        "document",
        328_481,
    ),
    "rnn": Printed(
        "Embedding, SimpleRNN, Dense",
        models.rnn_classifier,
        {},
        (EMBEDDING, LAST_OUTPUT, DENSE),
        "computed",
        322_145,
    ),
    "gru_before": Printed(
        "GRU (reset_after=False), Dense",
        models.weather_gru,
        {"reset": "before"},
        (Layer("GRU", (None, 32), 4_512), DENSE),
        "computed",
        4_641,
    ),
    "gru_after": Printed(
        "GRU (reset_after=True), Dense",
        models.weather_gru,
        {"bias": True, "reset": "after"},
        (Layer("GRU", (None, 32), 4_608), DENSE),
        "computed",
        4_641,
    ),
}
"""The first four are printed in the document; the fifth is its SimpleRNN on the film reviews, the
last two its GRU on the weather, as Keras 2.0 and as TensorFlow 2 build it."""

RECURRENT = {
    "SimpleRNN": (nn.RNN, {}),
    "LSTM": (nn.LSTM, {}),
    "GRU, reset before": (nn.GRU, {"reset": "before"}),
    "GRU, reset after": (nn.GRU, {"reset": "after"}),
}


@dataclass(frozen=True, kw_only=True)
class SummariesSettings(Settings):
    """What the models are called with: the summary needs one call, Keras none."""

    trials: int = 3
    """Independent draws of the weights; the counts are the same for all."""
    batch: int = 2
    """Sequences of the call; Keras prints None."""
    steps: int = 20
    """Length of the sequences; Keras prints None."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "batch", "steps")


def summarize(model: nn.Module, x: mt.Tensor) -> Any:
    """`mt.summary`, which prints; what it printed is `str(...)` of what it returns."""
    with contextlib.redirect_stdout(io.StringIO()):
        return mt.summary(model, x)


def as_called(shape: Shape, batch: int, steps: int) -> tuple[int, ...]:
    """A shape of Keras with the batch and the length in place of None."""
    size = {0: batch, 1: steps}
    return tuple(size[axis] if n is None else n for axis, n in enumerate(shape))


def merge_biases(layer: nn.Recurrent) -> None:
    """Add the recurrent bias to the input's and leave zeros: the same function, or not."""
    state = {name: value.numpy().copy() for name, value in layer.state_dict().items()}
    state["bias_ih_l0"] += state["bias_hh_l0"]
    state["bias_hh_l0"][:] = 0.0
    layer.load_state_dict(state)


def train(work: Work) -> list[Trial]:
    """Build every model and call it once; nothing is trained."""
    settings: SummariesSettings = work.settings
    [number] = work.trials
    values: dict[str, Any] = {}
    for name, keras in KERAS.items():
        inputs = models.weather if name.startswith("gru") else models.words
        x = inputs(settings.batch, settings.steps)
        summary = summarize(keras.build(**keras.options), x)
        values[f"{name}_parameters"] = summary.parameters
        # Keras counts the sigmoid as part of its Dense layer.
        layers = [row for row in summary.rows[1:] if row.kind != "Sigmoid"]
        wanted = [
            (layer.kind, as_called(layer.shape, settings.batch, settings.steps), layer.parameters)
            for layer in keras.layers
        ]
        got = [(row.kind, row.output, row.parameters) for row in layers]
        values[f"{name}_alike"] = sum(a == b for a, b in zip(got, wanted, strict=False))
        values[f"{name}_layers"] = len(got)
        values[f"{name}_text"] = str(summary)
        two = summarize(keras.build(**{**keras.options, "bias": True}), x)
        values[f"{name}_two_biases"] = two.parameters
    generator = work.generator("weights")
    x = mt.tensor(generator.normal((settings.steps, settings.batch, UNITS), np.float64))
    for kind, (layer_class, options) in RECURRENT.items():
        layer = layer_class(UNITS, UNITS, dtype="float64", generator=generator, **options)
        with mt.no_grad():
            before = layer(x)[0].to("numpy").numpy()
            merge_biases(layer)
            after = layer(x)[0].to("numpy").numpy()
        values[f"merged_{kind}"] = float(np.abs(after - before).max())
    return [Trial(number, values)]


def rows(run: Run) -> list[Row]:
    """Every summary beside Keras', then the second bias."""
    trial = run.of()[0]
    v: Mapping[str, Any] = trial.values
    table = []
    for name, keras in KERAS.items():
        table += [
            Row(
                f"{keras.title}: parameters",
                v[f"{name}_parameters"],
                target=keras.total,
                source=keras.source,  # type: ignore[arg-type]
                tolerance=within(keras.total, 0),
                note=_about(name),
            ),
            Row(
                f"{keras.title}: layers whose kind, shape and count are Keras'",
                v[f"{name}_alike"] - abs(v[f"{name}_layers"] - len(keras.layers)),
                target=len(keras.layers),
                source=keras.source,  # type: ignore[arg-type]
                tolerance=within(len(keras.layers), 0),
            ),
            Row(
                f"{keras.title}: parameters with PyTorch's two biases",
                v[f"{name}_two_biases"],
                target=keras.two_biases,
                source="computed",
                tolerance=within(keras.two_biases, 0),
                levels=(Level("Keras", keras.total),),
            ),
        ]
    for kind in RECURRENT:
        idle = kind != "GRU, reset after"
        table.append(
            Row(
                f"{kind}: change of the outputs if both biases are merged into one",
                **median_of(run.values(f"merged_{kind}")),
                target=0.0 if idle else 1e-3,
                source="computed",
                tolerance=at_most(1e-12) if idle else at_least(1e-3),
                note="Only the sum of the two biases counts: the second is idle."
                if idle
                else "The reset gate multiplies the second bias of the candidate: it does "
                "something, and Keras has it too. (The target says: more than rounding.)",
            )
        )
    return table


def _about(name: str) -> str:
    return {
        "gru_before": "As in Keras 2.0.",
        "gru_after": "As in TensorFlow 2: 96 more, the only layer with two biases in Keras, too.",
    }.get(name, "")


def printout(run: Run) -> str:
    """Print the summaries of the document's models, and the table of the second bias."""
    v = run.of()[0].values
    lines = []
    for name, keras in KERAS.items():
        shapes = ", ".join(str(layer.shape) for layer in keras.layers)
        lines += [keras.title, str(v[f"{name}_text"]), f"Keras: {shapes}; {keras.total:,}", ""]
    lines.append(f"{'':44}{'Keras':>10}{'PyTorch':>10}{'more':>8}")
    for name, keras in KERAS.items():
        two = int(v[f"{name}_two_biases"])
        lines.append(f"{keras.title:44}{keras.total:>10,}{two:>10,}{two - keras.total:>8,}")
    return "\n".join(lines)


TASK = Task(
    name="summaries",
    documents=("002",),
    title="Keras models and their summaries: every shape and count, and PyTorch's second bias",
    claim=(
        "Document 002 builds four Keras models and prints their summaries: an Embedding of 10,000 "
        "words and a SimpleRNN of 32 units, which returns its last output or, with "
        "return_sequences, all of them (322,080 parameters); four SimpleRNN on top of each other "
        "(328,320); an LSTM with a dense layer (328,353). All of its counts are right, and "
        '`mt.summary` prints them for layers with `bias="single"`.\n\n'
        "PyTorch gives every recurrent layer a second bias, beside the recurrent product. In RNN "
        "and LSTM it is idle: only the sum of the two counts. In a GRU whose reset gate acts after "
        "the product it is not, because the gate multiplies one of them; so Keras has it there as "
        "well, and the document's GRU on the weather has 4,641 parameters in TensorFlow 2 where "
        "Keras 2.0 counts 4,545."
    ),
    equations=(
        "Embedding:  words × features = 10,000 × 32 = 320,000\n"
        "SimpleRNN:  H (I + H + 1) = 32 (32 + 32 + 1) = 2,080\n"
        "LSTM:       4 H (I + H + 1) = 8,320          GRU:  3 H (I + H + 1) = 4,512 with I = 14\n"
        "second bias: H, 4 H, 3 H more = 32, 128, 96\n"
        "Dense:      32 + 1 = 33"
    ),
    look_for=(
        "The printed summaries: a recurrent layer that feeds another has three axes, (batch, "
        "steps, units), the last one two. Where Keras prints None, ours has the sizes of the call: "
        "--batch and --steps change them and no count. The last four rows tell which biases are "
        "idle."
    ),
    settings=SummariesSettings,
    presets={"quick": SummariesSettings(), "document": SummariesSettings()},
    durations={"quick": "1 s", "document": "1 s"},
    train=train,
    rows=rows,
    printout=printout,
    tour=True,
)
