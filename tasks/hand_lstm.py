"""Document 000's LSTM worked by hand: a cell that writes, keeps, speaks and wipes.

Nothing is trained. The engine evaluates the cell, and every gate, memory and output is compared
with the same formulas in 60-digit decimal arithmetic. Then the question that makes the cell worth
having: what becomes of a signal, and of its gradient, in a recurrence that multiplies by w at
every one of 1000 steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import microtensor as mt
from microtensor import nn
from models.hand_lstm import BIAS, WEIGHT, HandLSTM
from tasks import plots
from tasks.harness import Level, Row, Run, Settings, Task, Trial, at_most, within

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tasks.work import Work

FIVE_STEPS = ((3, 1, 0), (4, 1, 0), (2, 0, 0), (1, 0, 1), (3, -1, 0))
"""The document's worked example; its outputs, rounded, are 0 0 0 7 0."""
FIVE_OUTPUTS = (0, 0, 0, 7, 0)

NINE_STEPS = (
    (1, 0, 0), (3, 1, 0), (2, 0, 0), (4, 1, 0), (2, 0, 0), (1, 0, 1), (3, -1, 0), (6, 1, 0),
    (1, 0, 1),
)  # fmt: skip
"""The slide's table that the worked example abridges."""
NINE_MEMORIES = (0, 0, 3, 3, 7, 7, 7, 0, 6)  # before each step
NINE_OUTPUTS = (0, 0, 0, 0, 0, 7, 0, 0, 6)

FIRST_LOGITS = (3, 90, -10, 110)
"""As the document lists them for (3, 1, 0): z, input gate, *output* gate, *forget* gate."""

UNITS = 32  # of the document's layers, whose parameters are compared; their input has 32 features

DIGITS = 60  # of the decimal reference


class ExactStep(NamedTuple):
    """One step of the cell in decimal arithmetic."""

    input_gate: Decimal
    forget_gate: Decimal
    output_gate: Decimal
    memory: Decimal
    output: Decimal


def exact_steps(xs: Sequence[Sequence[int]]) -> list[ExactStep]:
    """Run the cell over integer inputs `(T, 3)` to 60 digits, without the library.

    The oracle of this experiment: it shares nothing with the engine but the sixteen weights.
    """
    steps: list[ExactStep] = []
    with localcontext() as context:
        context.prec = DIGITS
        memory = Decimal(0)
        for x in xs:
            z, *gates = (
                sum((Decimal(w) * v for w, v in zip(row, x, strict=True)), Decimal(b))
                for row, b in zip(WEIGHT, BIAS, strict=True)
            )
            i, f, o = (1 / (1 + (-gate).exp()) for gate in gates)
            memory = i * z + f * memory
            steps.append(ExactStep(i, f, o, memory, o * memory))
    return steps


def exact_power(base: str, exponent: int) -> tuple[float, float]:
    """Return `base ** exponent` and its derivative by the base, rounded from 60 digits."""
    with localcontext() as context:
        context.prec = DIGITS
        w = Decimal(base)
        return float(w**exponent), float(exponent * w ** (exponent - 1))


def exact_sigmoid_power(x: int, exponent: int) -> float:
    """`sigmoid(x) ** exponent`, rounded from 60 digits."""
    with localcontext() as context:
        context.prec = DIGITS
        return float((1 / (1 + Decimal(-x).exp())) ** exponent)


class Flow(NamedTuple):
    """What a recurrence with one weight does to a signal and its gradients."""

    output: float  # y_T = w ** (T - 1)
    weight_gradient: float  # dy_T/dw
    input_gradients: np.ndarray  # dy_T/dx_t for t = 1 … T, shape (T,)


def multiply_again_and_again(w: float, steps: int) -> Flow:
    """Unroll `y_t = w y_(t-1) + x_t` over the input 1, 0, 0, … and walk back, by the engine."""
    weight = mt.tensor(w, dtype="float64", requires_grad=True)
    xs = mt.tensor(np.eye(1, steps)[0], requires_grad=True)
    y, *rest = mt.unstack(xs)
    for x in rest:
        y = weight * y + x
    y.backward()
    return Flow(y.item(), weight.grad.item(), xs.grad.numpy())


def gradient_in_the_cell(steps: int) -> np.ndarray:
    """Derivatives of c_T by c_t, t = 1 … T, in the cell at rest: x = 0, forget gate at +10."""
    model = HandLSTM()
    start = mt.zeros((), dtype="float64", requires_grad=True)
    memories = [step.memory for step in model(mt.zeros((steps - 1, 3), dtype="float64"), start)]
    for memory in memories:
        memory.retain_grad()
    memories[-1].backward()
    return np.array([start.grad.item(), *(memory.grad.item() for memory in memories)])


@dataclass(frozen=True, kw_only=True)
class HandSettings(Settings):
    """There is little to set: the weights are given."""

    trials: int = 1
    """Nothing is random here, so one trial says it all."""
    steps: int = 1000
    """Length, 2 to 10000, of the recurrence that multiplies by 0.99 or 1.01 at every step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # Ten times the document's length; much longer, and 1.01^steps leaves the range of float64.
        if not 2 <= self.steps <= 10_000:
            raise ValueError(f"steps must be from 2 to 10000; got {self.steps}")


def train(work: Work) -> list[Trial]:
    """Evaluate everything the rows and figures need; there is nothing to train."""
    values: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    model = HandLSTM()
    for name, xs, outputs in (
        ("five", FIVE_STEPS, FIVE_OUTPUTS),
        ("nine", NINE_STEPS, NINE_OUTPUTS),
    ):
        steps = model(mt.tensor(np.array(xs, "float64")))
        gates = np.array(
            [[s.input_gate.item(), s.forget_gate.item(), s.output_gate.item()] for s in steps]
        )
        memory = np.array([s.memory.item() for s in steps])
        output = np.array([s.output.item() for s in steps])
        exact = np.array([[float(v) for v in step] for step in exact_steps(xs)])
        values[f"{name}_gate_error"] = float(np.abs(gates - exact[:, :3]).max())
        values[f"{name}_memory_error"] = float(np.abs(memory - exact[:, 3]).max())
        values[f"{name}_output_error"] = float(np.abs(output - exact[:, 4]).max())
        values[f"{name}_outputs_right"] = int(np.sum(np.rint(output) == outputs))
        arrays[f"{name}_logits"] = np.stack([s.logits.detach().numpy() for s in steps])
        arrays[f"{name}_gates"], arrays[f"{name}_memory"] = gates, memory
        arrays[f"{name}_output"] = output
    before = np.concatenate([[0.0], arrays["nine_memory"][:-1]])
    values["nine_memories_right"] = int(np.sum(np.rint(before) == NINE_MEMORIES))

    z, i, f, o = arrays["five_logits"][0]
    values["first_logits_right"] = int(np.sum(np.array([z, i, o, f]) == FIRST_LOGITS))
    values["wiped_memory"] = float(arrays["five_memory"][-1])
    values["wiped_gradient"] = _gradient_through_a_wipe(model)

    for name, w in (("decay", 0.99), ("growth", 1.01)):
        flow = multiply_again_and_again(w, work.settings.steps)
        values[f"{name}_output"], values[f"{name}_gradient"] = flow.output, flow.weight_gradient
        arrays[f"{name}_flow"] = flow.input_gradients
    arrays["cell_flow"] = gradient_in_the_cell(work.settings.steps)
    values["cell_gradient"] = float(arrays["cell_flow"][0])

    for name, layer in (("rnn", nn.RNN), ("gru", nn.GRU), ("lstm", nn.LSTM)):
        values[f"{name}_parameters"] = _count(layer(UNITS, UNITS, bias="single"))
    values["gru_reset_before_parameters"] = _count(
        nn.GRU(UNITS, UNITS, bias="single", reset="before")
    )
    values["gru_two_biases_parameters"] = _count(nn.GRU(UNITS, UNITS))
    [number] = work.trials
    return [Trial(number, values=values, model=model.state_dict(), arrays=arrays)]


def _gradient_through_a_wipe(model: HandLSTM) -> float:
    """Derivative of c' by c at the document's fifth step, whose forget gate is closed."""
    memory = mt.tensor(7.0, dtype="float64", requires_grad=True)
    wiped = model.step(mt.tensor(np.array(FIVE_STEPS[-1], "float64")), memory).memory
    [gradient] = mt.grad(wiped, [memory])
    return gradient.item()


def _count(module: nn.Module) -> int:
    return sum(parameter.size for parameter in module.parameters())


def rows(run: Run) -> list[Row]:
    """Compare with the document's tables, and with 60-digit arithmetic."""
    [trial] = run.of()[:1]
    v: Mapping[str, Any] = trial.values
    table = []
    for name, xs in (("five", FIVE_STEPS), ("nine", NINE_STEPS)):
        source = "document" if name == "five" else "upstream"
        steps = f"{len(xs)} steps"
        table += [
            _error(f"{steps}: largest error of a gate", v[f"{name}_gate_error"]),
            _error(f"{steps}: largest error of the memory", v[f"{name}_memory_error"]),
            _error(f"{steps}: largest error of an output", v[f"{name}_output_error"]),
            Row(
                f"{steps}: outputs that round to the printed ones",
                v[f"{name}_outputs_right"],
                target=len(xs),
                source=source,
                tolerance=within(len(xs), 0),
            ),
        ]
    table.append(
        Row(
            "9 steps: memories before a step that round to the printed ones",
            v["nine_memories_right"],
            target=9,
            source="upstream",
            tolerance=within(9, 0),
        )
    )
    table.append(
        Row(
            "first step: logits equal to the printed 3, 90, -10, 110",
            v["first_logits_right"],
            target=4,
            source="document",
            tolerance=within(4, 0),
            note="The document lists them in the order z, input, output, forget; ours are "
            "z = 3, input 90, forget 110, output -10.",
        )
    )
    kept = Level("had the memory been kept", float(exact_steps(FIVE_STEPS)[3].memory))
    wipe = exact_steps(FIVE_STEPS)[-1]
    table += [
        _relative(
            "memory after the forget gate has closed",
            v["wiped_memory"],
            float(wipe.memory),
            (kept,),
            note="The memory was 7.",
        ),
        _relative(
            "gradient that passes the closed forget gate",
            v["wiped_gradient"],
            float(wipe.forget_gate),
            (Level("an open gate", 1.0),),
            note="What is forgotten receives no blame.",
        ),
    ]
    exponent = run.settings.steps - 1
    unchanged = (Level("w = 1", 1.0),)
    for name, base in (("decay", "0.99"), ("growth", "1.01")):
        power, slope = exact_power(base, exponent)
        table += [
            _relative(f"{base}^{exponent}", v[f"{name}_output"], power, unchanged),
            _relative(
                f"gradient of {base}^{exponent} by the weight",
                v[f"{name}_gradient"],
                slope,
                (Level("w = 1", float(exponent)),),
            ),
        ]
    table.append(
        _relative(
            f"gradient left after {exponent} steps in the memory cell",
            v["cell_gradient"],
            exact_sigmoid_power(10, exponent),
            unchanged,
        )
    )
    rnn = v["rnn_parameters"]
    for name, factor, note in (
        ("lstm", 4, f"{v['lstm_parameters']} to {rnn}: four gates, each as large as the RNN."),
        (
            "gru",
            3,
            f"{v['gru_parameters']} to {rnn}. With the reset gate before the recurrent "
            f"product {v['gru_reset_before_parameters']}; with PyTorch's two biases "
            f"{v['gru_two_biases_parameters']}.",
        ),
    ):
        table.append(
            Row(
                f"parameters, {name.upper()} : RNN",
                v[f"{name}_parameters"] / rnn,
                target=factor,
                source="document",
                tolerance=within(factor, 0),
                note=note,
            )
        )
    return table


def _error(name: str, value: float) -> Row:
    return Row(
        name,
        value,
        target=0.0,
        source="computed",
        tolerance=at_most(1e-10),
        note="Against 60-digit decimal arithmetic.",
    )


def _relative(
    name: str, value: float, target: float, levels: tuple[Level, ...], note: str = ""
) -> Row:
    return Row(
        name,
        value,
        target=target,
        source="computed",
        tolerance=within(target, 1e-10 * abs(target)),
        levels=levels,
        note=note,
    )


def printout(run: Run) -> str:
    """Print both tables step by step."""
    [trial] = run.of()[:1]
    lines = []
    for name, xs in (("five", FIVE_STEPS), ("nine", NINE_STEPS)):
        lines.append(f"{len(xs)} steps        logits: z  input  forget  output      memory       y")
        before = 0.0
        for x, logits, memory, output in zip(
            xs,
            trial.arrays[f"{name}_logits"],
            trial.arrays[f"{name}_memory"],
            trial.arrays[f"{name}_output"],
            strict=True,
        ):
            z, i, f, o = logits
            spoken = f"x = ({x[0]}, {x[1]:2d}, {x[2]})"
            lines.append(
                f"{spoken}  {z:15.0f}  {i:5.0f}  {f:6.0f}  {o:6.0f}   "
                f"{round(before) + 0:d} -> {round(memory) + 0:d}   {output:9.4g}"
            )
            before = memory
    lines.append(
        "The document lists the first step's logits as 3, 90, -10, 110: z, input, output, forget."
    )
    return "\n".join(lines)


def figures(run: Run) -> dict[str, Figure]:
    """Draw the nine steps, and what 1000 multiplications leave of a gradient."""
    [trial] = run.of()[:1]
    return {"nine_steps": _trace_figure(trial), "gradient_flow": _flow_figure(trial)}


def _trace_figure(trial: Trial) -> Figure:
    figure, (above, below) = plots.new_figure(
        2, 1, height=5.0, sharex=True, height_ratios=[1.2, 1.0]
    )
    steps = np.arange(1, len(NINE_STEPS) + 1)
    rows_ = np.concatenate([np.array(NINE_STEPS).T, trial.arrays["nine_gates"].T])
    names = [
        "x1 (value)",
        "x2 (write / wipe)",
        "x3 (speak)",
        "input gate",
        "forget gate",
        "output gate",
    ]
    above.grid(False)
    for line, values in enumerate(rows_):
        is_gate = line >= 3
        for step, value in zip(steps, values, strict=True):
            if is_gate:
                above.add_patch(_square(step, line, value))
            above.text(
                step,
                line,
                f"{value:.0f}",
                ha="center",
                va="center",
                fontsize=9,
                color="white" if is_gate and value > 0.5 else "0.2",
            )
    above.set_yticks(range(6), names)
    above.set_ylim(5.6, -0.6)
    above.axhline(2.5, color="0.6", linewidth=0.8)
    above.set_title("Nine steps of the hand-set LSTM (filled: gate open)")
    below.bar(steps - 0.2, trial.arrays["nine_memory"], 0.38, label="memory c after the step")
    below.bar(
        steps + 0.2,
        trial.arrays["nine_output"],
        0.38,
        label="output y",
        color=plots.PALETTE[1],
        hatch="//",
        edgecolor="white",
    )
    below.set_xticks(steps)
    below.set_xlabel("step")
    below.set_ylabel("value")
    below.set_ylim(0, 9)
    below.legend(loc="upper left", ncols=2, frameon=False)
    return figure


def _square(step: int, line: int, value: float) -> Any:
    from matplotlib.patches import Rectangle

    color = plots.PALETTE[0] if value > 0.5 else "white"
    return Rectangle((step - 0.42, line - 0.4), 0.84, 0.8, facecolor=color, edgecolor="0.6")


def _flow_figure(trial: Trial) -> Figure:
    figure, axes = plots.new_figure()
    curves = (
        ("growth_flow", "w = 1.01 explodes", "bottom", 30),
        ("cell_flow", "memory cell with its forget gate at sigmoid(10) keeps it", "bottom", 6),
        ("decay_flow", "w = 0.99 vanishes", "top", -30),
    )
    for color, (name, label, side, away) in zip(plots.PALETTE, curves, strict=False):
        flow = trial.arrays[name]
        lag = np.arange(len(flow))[::-1]
        axes.semilogy(lag, flow, color=color, linewidth=2)
        middle = len(flow) // 2
        axes.annotate(
            f"{label}:\n{flow[0]:.3g} after {lag[0]} steps",
            xy=(lag[middle], flow[middle]),
            xytext=(0, away),
            textcoords="offset points",
            ha="right" if away != 6 else "center",
            va=side,
            fontsize=9,
            color=color,
        )
    axes.set_xlabel("steps back in time")
    axes.set_ylabel("gradient of the last value by the earlier one")
    axes.set_title("What a thousand multiplications leave of a gradient")
    return figure


TASK = Task(
    name="hand_lstm",
    documents=("000",),
    title="an LSTM with weights set by hand writes, keeps, speaks and wipes",
    claim=(
        "Document 000 works through a single memory cell whose weights are set by hand. Whatever "
        "comes with x2 = 1 is added to the memory, x2 = -1 wipes it, x3 = 1 lets it out; the five "
        "outputs, rounded, are 0 0 0 7 0. A forget gate near one keeps the memory and its gradient "
        "where a plain recurrence multiplies by its weight at every step: 0.99^999 is next to "
        "nothing, 1.01^999 is over twenty thousand. An LSTM has four times the parameters of a "
        "simple RNN, a GRU three times.\n\n"
        "A correction: the document lists the first step's logits 3, 90, -10, 110 in the order z, "
        "input, output, forget, although the gates appear as z, input, forget, output elsewhere."
    ),
    equations=(
        "z = x1    i = 100 x2 - 10    f = 100 x2 + 10    o = 100 x3 - 10\n"
        "c' = sigmoid(i) z + sigmoid(f) c\n"
        "y  = sigmoid(o) c'\n"
        "y_t = w y_(t-1) + x_t,  x = 1, 0, 0, ...:  y_T = w^(T-1),  dy_T/dw = (T-1) w^(T-2)"
    ),
    look_for=(
        "nine_steps.png: the memory changes only where x2 is not 0, is heard only where x3 = 1. "
        "gradient_flow.png: on the logarithmic scale a constant factor is a straight line; only "
        "the cell's is level."
    ),
    settings=HandSettings,
    presets={"quick": HandSettings(), "document": HandSettings()},
    durations={"quick": "1 s", "document": "1 s"},
    train=train,
    rows=rows,
    figures=figures,
    printout=printout,
    tour=True,
)
