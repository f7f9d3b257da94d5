"""RNN, GRU, LSTM and their kin on the same problems with the same number of parameters.

Documents 000 and 002 say that the GRU is a little better than the LSTM, that both are far better
than the simple RNN, and that the GRU costs less. Here each claim is put to seeds: on three problems
(the binary echo of document 001, the adding problem, document 000's sine to cosine) all cells see
the same data, have as nearly as units allow the same number of parameters, and are trained alike.
Trial by trial one cell is set against the other, and a sign test says whether the claim is shown.

The cost is counted, not clocked, where there is a verdict: weights a step at equal units. The
microseconds beside it are this machine's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

import microtensor as mt
from microtensor import nn
from models.adding import Adding
from models.cells import Reading
from tasks import adding, binary_echo, plots, readers_cell, sin_cos
from tasks.harness import (
    Level,
    Row,
    Run,
    Settings,
    Task,
    Trial,
    at_least,
    check_counts,
    judged,
    median_of,
    success_rate,
    within,
)
from tasks.online import WINDOW

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tasks.work import Work

CELLS = {
    "rnn": "RNN",
    "gru": "GRU",
    "gru-before": "GRU, reset before",
    "lstm": "LSTM",
    "peephole": "peephole LSTM",
    "carry-track": "carry-track sketch",
}
"""Name in `readers_cell.LIBRARY` → in words. "GRU" alone has its reset after the product."""

FAR = 2.0
"""One cell is far better than another if what it has left to learn is smaller by this factor."""
SURE = 0.05
"""The sign test's level, one-sided."""

ECHO_STEPS, ECHO_BATCH = 10, 200
ADDING_LENGTH, ADDING_BATCH = 50, 32
COST_STEPS, COST_BATCH, COST_ROUNDS = 50, 32, 5


@dataclass(frozen=True)
class Problem:
    """What is trained on, and how its loss is read.

    inputs, outputs : numbers a step.
    floor : the least loss that is possible.
    solved : what counts as solved, in words.
    remember : start of the bias of the gate that keeps the state; 1 is TensorFlow 1's (of the
        LSTM's f and of the GRU's gates), which document 000 uses; the adding problem needs more.
    every : updates between two points of the curve.
    cells : of `CELLS`, those that are trained.
    """

    title: str
    inputs: int
    outputs: int
    unit: str
    floor: float
    levels: tuple[Level, ...]
    solved: str
    remember: float
    every: int
    cells: tuple[str, ...] = tuple(CELLS)


ECHO = Problem(
    title="binary echo",
    inputs=2,
    outputs=2,
    unit="nats",
    floor=binary_echo.BOTH,
    levels=binary_echo.LADDER,
    solved=f"cross-entropy at most {binary_echo.BOTH + 0.01:.4f}: both dependencies learnt",
    remember=1.0,
    every=20,
)

PROBLEMS = {
    "echo": ECHO,
    "echo_adam": replace(ECHO, title="binary echo by Adam", cells=("rnn", "gru", "lstm")),
    "adding": Problem(
        title=f"adding, T = {ADDING_LENGTH}",
        inputs=2,
        outputs=1,
        unit="",
        floor=0.0,
        levels=(Level("always saying the mean", adding.variance(ADDING_LENGTH)),),
        solved=f"at one time the last {WINDOW} sequences right: the paper's rule",
        remember=4.0,
        every=50,
    ),
    "sin_cos": Problem(
        title="sine to cosine",
        inputs=1,
        outputs=1,
        unit="cost",
        floor=0.0,
        levels=tuple(sin_cos.levels(sin_cos.SinCosSettings())),
        solved="cost of the last 20 iterations at most 0.5, as in `sin_cos`",
        remember=1.0,
        every=5,
    ),
}


@dataclass(frozen=True, kw_only=True)
class CellsSettings(Settings):
    """Each problem keeps its optimizer: Adagrad 0.1 (echo), Adam 0.01 (adding), 0.006 (sine).

    The echo is learnt a second time, by RNN, GRU and LSTM, with Adam 0.01 in the place of Adagrad:
    what differs then between the two is the optimizer's doing.
    """

    trials: int = 10
    """Independent repetitions; in each all cells see the same data."""
    hidden_size: int = 12
    """Units of the LSTM; the other cells get as many as come closest to its parameters."""
    echo_updates: int = 1000
    """Updates on the binary echo, each a window of 10 steps of 200 stretches."""
    adding_updates: int = 2000
    """Updates on the adding problem, T = 50, each of 32 sequences."""
    sin_cos_iterations: int = 200
    """Updates on sine to cosine, each of 50 rows of 20 steps."""
    cost: bool = True
    """Also time every cell, side by side."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "hidden_size", "echo_updates", "adding_updates", "sin_cos_iterations")


# -- equal numbers of parameters ---------------------------------------------------------------


def weights_of(cell: str, inputs: int, units: int) -> int:
    """Parameters of a cell of the library with one bias a gate.

    Every weight of a matrix is one multiplication and one addition a step, so this counts the
    work, too (peepholes and biases alike).
    """
    gate = units * (inputs + units + 1)
    gates = {"rnn": 1, "gru": 3, "gru-before": 3}.get(cell, 4) * gate
    return gates + {"peephole": 3 * units, "carry-track": units * units}.get(cell, 0)


def parameters_of(cell: str, problem: Problem, units: int) -> int:
    """Parameters of the whole network: the cell and its reading."""
    return weights_of(cell, problem.inputs, units) + (units + 1) * problem.outputs


def units_of(cell: str, problem: Problem, lstm_units: int) -> int:
    """The number of units whose parameters come closest to those of an LSTM of `lstm_units`."""
    wanted = parameters_of("lstm", problem, lstm_units)
    return min(
        range(1, 5 * lstm_units + 1),
        key=lambda units: abs(parameters_of(cell, problem, units) - wanted),
    )


def variants(settings: CellsSettings) -> list[str]:
    """`PROBLEM_CELL` for all of them, and `cost`."""
    names = [f"{name}_{cell}" for name, problem in PROBLEMS.items() for cell in problem.cells]
    return names + (["cost"] if settings.cost else [])


# -- training ----------------------------------------------------------------------------------


def train(work: Work) -> list[Trial]:
    """Train one cell on one problem; or time all of them."""
    if work.variant == "cost":
        return [_cost(work)]
    name, _, cell = work.variant.rpartition("_")
    problem = PROBLEMS[name]
    units = units_of(cell, problem, work.settings.hidden_size)
    generator = work.generator("weights")
    layer, width = readers_cell.build(
        cell, problem.inputs, units, generator=generator, remember=problem.remember
    )
    network: Any = Adding if name == "adding" else Reading
    sizes = (width,) if name == "adding" else (width, problem.outputs)
    model = network(layer, *sizes, generator=generator)
    trained = {"adding": _adding, "sin_cos": _sin_cos}.get(name, _echo)
    loss, solved = trained(work, model)
    values = {
        "loss": loss,
        "solved": solved,
        "units": units,
        "parameters": sum(parameter.size for parameter in model.parameters()),
    }
    return [Trial(work.trials[0], values, model.state_dict())]


def _update(loss: mt.Tensor, model: nn.Module, optimizer: Any, clip: float = 0.0) -> float:
    optimizer.zero_grad()
    loss.backward()
    if clip:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    return float(loss.item())


def _note(work: Work, losses: np.ndarray, update: int, every: int) -> None:
    """Log the mean of the last `every` losses (fewer in a short run), every so many updates."""
    every = min(every, max(1, len(losses) // 10))
    if (update + 1) % every == 0:
        work.log(update + 1, loss=losses[update + 1 - every : update + 1].mean())


def _echo(work: Work, model: Reading) -> tuple[float, bool]:
    """As `binary_echo` trains (10, 16), on one long stream; or with Adam."""
    total = work.settings.echo_updates
    optimizer: Any = mt.optim.Adagrad(model.parameters(), lr=0.1, initial_accumulator_value=0.1)
    if work.variant.startswith("echo_adam"):
        optimizer = mt.optim.Adam(model.parameters(), lr=0.01)
    loss_of = mt.nn.CrossEntropyLoss()
    stream, echo = binary_echo.draw(work.generator("echo"), total * ECHO_STEPS * ECHO_BATCH)
    x = np.eye(2, dtype="float32")[binary_echo.side_by_side(stream, ECHO_BATCH)]
    y = binary_echo.side_by_side(echo, ECHO_BATCH)
    kept: dict[str, Any] = {"state": None, "losses": np.zeros(total)}
    for update in work.steps(total, model=model, optimizer=optimizer, kept=kept):
        span = slice(update * ECHO_STEPS, (update + 1) * ECHO_STEPS)
        logits, state = model(mt.tensor(x[span]), kept["state"])
        loss = loss_of(logits.reshape((-1, 2)), mt.tensor(y[span].reshape(-1)))
        kept["losses"][update] = _update(loss, model, optimizer)
        kept["state"] = binary_echo.carry(state)
        _note(work, kept["losses"], update, PROBLEMS["echo"].every)
    last = float(kept["losses"][-200:].mean())
    return last, last <= binary_echo.BOTH + 0.01


def _adding(work: Work, model: Adding) -> tuple[float, bool]:
    """As `adding` trains, but to the end of the budget, so that final losses can be compared."""
    total, window = work.settings.adding_updates, math.ceil(WINDOW / ADDING_BATCH)
    optimizer = mt.optim.Adam(model.parameters(), lr=0.01)
    kept: dict[str, Any] = {
        "errors": np.full((window, ADDING_BATCH), np.inf),
        "losses": np.zeros(total),
        "solved": False,
    }
    for update in work.steps(total, model=model, optimizer=optimizer, kept=kept):
        batch = adding.draw(work.generator("adding", update), ADDING_BATCH, ADDING_LENGTH)
        error = model(mt.tensor(batch.x), batch.lengths) - mt.tensor(batch.target)
        kept["losses"][update] = _update((error * error).mean(), model, optimizer, clip=1.0)
        kept["errors"][update % window] = np.abs(error.detach().numpy())
        kept["solved"] = kept["solved"] or adding.is_solved(kept["errors"])
        _note(work, kept["losses"], update, PROBLEMS["adding"].every)
    errors = adding.test_errors(model, work.generator("test"), ADDING_LENGTH)
    return float((errors * errors).mean()), bool(kept["solved"])


def _sin_cos(work: Work, model: Reading) -> tuple[float, bool]:
    """As `sin_cos` trains: 50 rows side by side, the state carried on, 20 times the mean square."""
    total = work.settings.sin_cos_iterations
    optimizer = mt.optim.Adam(model.parameters(), lr=0.006)
    kept: dict[str, Any] = {"state": None, "losses": np.zeros(total)}
    for step in work.steps(total, model=model, optimizer=optimizer, kept=kept):
        places = sin_cos.samples(step).T[:, :, None]
        prediction, state = model(mt.tensor(np.sin(places).astype("float32")), kept["state"])
        loss = sin_cos.cost_of(prediction, mt.tensor(np.cos(places).astype("float32")))
        kept["losses"][step] = _update(loss, model, optimizer)
        kept["state"] = mt.detach(state)
        _note(work, kept["losses"], step, PROBLEMS["sin_cos"].every)
    last = float(kept["losses"][-20:].mean())
    return last, last <= 0.5


def _cost(work: Work) -> Trial:
    """Microseconds of processor time a step, forward and backward, all cells in turn.

    In turn, so that what slows the machine down for a while slows all of them; of several rounds
    the fastest counts. `same_…` has equal units instead of equal parameters.
    """
    settings: CellsSettings = work.settings
    problem = PROBLEMS["adding"]
    sizes = {cell: units_of(cell, problem, settings.hidden_size) for cell in CELLS}
    sizes |= {f"same_{cell}": settings.hidden_size for cell in CELLS}
    x = mt.tensor(work.generator("cost").normal((COST_STEPS, COST_BATCH, problem.inputs)))
    layers = {
        name: readers_cell.build(
            name.removeprefix("same_"), problem.inputs, units, generator=work.generator("weights")
        )[0]
        for name, units in sizes.items()
    }
    fastest = dict.fromkeys(layers, math.inf)
    for _ in range(COST_ROUNDS):
        for name, layer in layers.items():
            started = time.process_time()
            output, _ = layer(x)
            output.sum().backward()
            fastest[name] = min(fastest[name], time.process_time() - started)
    return Trial(
        work.trials[0],
        {f"us_{name}": 1e6 * seconds / COST_STEPS for name, seconds in fastest.items()},
    )


# -- the comparison ----------------------------------------------------------------------------


def needed(trials: int, level: float = SURE) -> int | None:
    """The least number of `trials` that a sign test at `level`, one-sided, asks for; or None."""
    tail = 0.0
    for count in range(trials, -1, -1):
        tail += math.comb(trials, count) / 2**trials
        if tail > level:
            return count + 1 if count < trials else None
    return 0


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """An interval for the median with a confidence of at least 95 %, from the order statistics.

    With fewer than 6 values it is all of their range, and the confidence less.
    """
    ordered, n = sorted(values), len(values)
    inside, tail = 0, 0.0
    for count in range(n // 2):
        tail += math.comb(n, count) / 2**n
        if 2 * tail > SURE:
            break
        inside = count
    return ordered[inside], ordered[n - 1 - inside]


def rows(run: Run) -> list[Row]:
    """Loss and success of every cell on every problem, then the documents' claims."""
    settings: CellsSettings = run.settings
    teaches = run.preset != "quick"
    table: list[Row] = []
    for name, problem in PROBLEMS.items():
        table += [_parameters_row(run, name, problem)]
        for cell in problem.cells:
            title, variant = CELLS[cell], f"{name}_{cell}"
            units, count = (run.values(v, variant)[0] for v in ("units", "parameters"))
            table += [
                Row(
                    f"{problem.title}, {title} ({units} units, {count} parameters): loss",
                    **median_of(run.values("loss", variant)),
                    levels=problem.levels,
                    unit=problem.unit,
                ),
                Row(
                    f"{problem.title}, {title}: solved",
                    **success_rate(run.values("solved", variant)),
                    note=f"Solved: {problem.solved}.",
                ),
            ]
    for name, problem in PROBLEMS.items():
        table += _claim_rows(run, name, problem, teaches)
    return table + _cost_rows(run, settings)


def _parameters_row(run: Run, name: str, problem: Problem) -> Row:
    counts = {cell: run.values("parameters", f"{name}_{cell}")[0] for cell in problem.cells}
    off = max(abs(count / counts["lstm"] - 1) for count in counts.values())
    # With few units no number of them may come close.
    comparable = run.settings.hidden_size >= 12
    return Row(
        f"{problem.title}: parameters, furthest from the LSTM's, as a share",
        off,
        **judged(0.0, "computed", within(0.0, 0.06), when=comparable),
        note="Units come in whole numbers, so the counts cannot be equal.",
    )


def _left(run: Run, name: str, cell: str) -> np.ndarray:
    """What each trial has left to learn: its loss above the floor."""
    losses = np.array(run.values("loss", f"{name}_{cell}"), dtype=np.float64)
    # A mean over a few hundred updates may by chance come out at the floor, or under it.
    return np.maximum(losses - PROBLEMS[name].floor, 1e-12)


def _ratio_row(run: Run, name: str, one: str, other: str) -> Row:
    """How much one cell has left to learn over another, trial by trial."""
    problem = PROBLEMS[name]
    ratios = (_left(run, name, one) / _left(run, name, other)).tolist()
    above = " above the floor" if problem.floor else ""
    return Row(
        f"{problem.title}: loss{above}, {CELLS[one]} over {CELLS[other]}",
        float(np.median(ratios)),
        spread=median_interval(ratios),
        trials=len(ratios),
        note="Trial by trial; median, and its interval of at least 95 % (from 6 trials).",
    )


def _claim_rows(run: Run, name: str, problem: Problem, teaches: bool) -> list[Row]:
    table = []
    for better, worse, factor, claim in (
        ("gru", "lstm", 1.0, "GRU better than LSTM"),
        ("gru", "rnn", FAR, f"GRU far better than RNN (by a factor of {FAR:g})"),
        ("lstm", "rnn", FAR, f"LSTM far better than RNN (by a factor of {FAR:g})"),
    ):
        ratios = _left(run, name, better) / _left(run, name, worse)
        wins = [bool(ratio < 1 / factor) for ratio in ratios]
        asked = needed(len(wins))
        verdict: dict[str, Any] = {}
        if teaches and asked is not None:
            share = asked / len(wins)
            verdict = judged(share, "document", at_least(share))
        told = _conclusion(wins, ratios, factor, asked)
        if not teaches:
            told = "Too little training to say."
        table += [
            Row(
                f"claim, {problem.title}: {claim}, of the seeds",
                **success_rate(wins),
                **verdict,
                note=told,
            ),
            _ratio_row(run, name, better, worse),
        ]
    kin = (("gru-before", "gru"), ("peephole", "lstm"), ("carry-track", "lstm"))
    return table + [_ratio_row(run, name, one, other) for one, other in kin if one in problem.cells]


def _conclusion(wins: Sequence[bool], ratios: np.ndarray, factor: float, asked: int | None) -> str:
    """The verdict in words: shown, not shown, or the opposite shown."""
    if asked is None:
        return "Not shown: a sign test needs at least 5 trials."
    if sum(wins) >= asked:
        return f"Shown, by a sign test ({asked} of {len(wins)} are needed)."
    if int((ratios > 1).sum()) >= asked:
        return "Not shown; the opposite is: the other cell is better."
    if factor > 1 and int((ratios < 1).sum()) >= asked:
        return "Not shown: better, but not by that factor."
    return f"Not shown: a sign test needs {asked} of {len(wins)}."


def _counted(cell: str, inputs: int, units: int) -> int:
    """The parameters that a layer of the library really has."""
    layer, _ = readers_cell.build(cell, inputs, units, generator=mt.Generator(0))
    return sum(parameter.size for parameter in layer.parameters())


def _cost_rows(run: Run, settings: CellsSettings) -> list[Row]:
    units, inputs = settings.hidden_size, PROBLEMS["adding"].inputs
    gru, lstm = (_counted(cell, inputs, units) for cell in ("gru", "lstm"))
    table = [
        Row(
            f"claim: GRU costs less, its weights over the LSTM's at {units} units",
            gru / lstm,
            target=0.75,
            source="computed",
            tolerance=within(0.75, 1e-12),
            note="Three gates for four. Each weight is a multiplication and an addition a step.",
        )
    ]
    if not settings.cost:
        return table
    clocked = "Processor time of this machine, not judged; both cells in turn, trial by trial."
    for words, prefix in ((f"{units} units each", "same_"), ("equal parameters", "")):
        gru, lstm = (np.array(run.values(f"us_{prefix}{c}", "cost")) for c in ("gru", "lstm"))
        ratios = gru / lstm
        table.append(
            Row(
                f"time a step, GRU over LSTM, {words}",
                float(np.median(ratios)),
                spread=median_interval(ratios.tolist()),
                trials=len(ratios),
                note=clocked,
            )
        )
    for cell, title in CELLS.items():
        table.append(
            Row(
                f"time a step of {COST_BATCH} sequences, {title}, equal parameters",
                **median_of(run.values(f"us_{cell}", "cost")),
                unit="µs",
                note="Forward and backward. Processor time of this machine, not judged.",
            )
        )
    return table


# -- figures -----------------------------------------------------------------------------------

COLORS = dict(zip(CELLS, plots.PALETTE, strict=False))


def figures(run: Run) -> Mapping[str, Figure]:
    """Draw learning curves, solved trials, and loss against time."""
    drawn: dict[str, Callable[[Run], Figure]] = {
        "learning_curves": _curves_figure,
        "solved": _solved_figure,
    }
    if run.settings.cost:
        drawn["loss_against_time"] = _time_figure
    return {name: draw(run) for name, draw in drawn.items()}


def _curves_figure(run: Run) -> Figure:
    figure, all_axes = plots.new_figure(2, 2, width=11.0, height=8.4)
    for axes, (name, problem) in zip(all_axes.flat, PROBLEMS.items(), strict=True):
        for cell in problem.cells:
            steps, values = run.curve("loss", f"{name}_{cell}")
            if not len(steps):
                continue
            low, high = np.quantile(values, [0.25, 0.75], axis=0)
            axes.fill_between(steps, low, high, color=COLORS[cell], alpha=0.15, linewidth=0)
            axes.plot(steps, np.median(values, axis=0), color=COLORS[cell], label=CELLS[cell])
        for level in problem.levels:
            if level.value > 0:
                axes.axhline(level.value, color="0.35", linestyle=":", linewidth=1.2)
        axes.set_yscale("linear" if problem.floor else "log")
        unit = f" ({problem.unit})" if problem.unit else ""
        axes.set(title=problem.title, xlabel="updates", ylabel=f"loss{unit}")
        axes.margins(x=0.01)
    figure.suptitle(
        f"Median and middle half of {run.settings.trials} trials; dotted: reference levels",
        fontsize="medium",
        color="0.3",
    )
    handles, labels = all_axes[0, 0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(CELLS), frameon=False)
    return figure


def _solved_figure(run: Run) -> Figure:
    figure, all_axes = plots.new_figure(2, 2, width=10.0, height=6.0)
    for axes, (name, problem) in zip(all_axes.flat, PROBLEMS.items(), strict=True):
        bars = [(CELLS[c], run.values("solved", f"{name}_{c}"), False) for c in problem.cells]
        plots.draw_solved(axes, bars)
        axes.set_title(problem.title)
    figure.supxlabel("share of trials that solve it (line: 95 % interval of Wilson)", fontsize=10)
    return figure


def _time_figure(run: Run) -> Figure:
    figure, all_axes = plots.new_figure(2, 2, width=11.0, height=8.4)
    for axes, (name, problem) in zip(all_axes.flat, PROBLEMS.items(), strict=True):
        for cell in problem.cells:
            us = float(np.median(run.values(f"us_{cell}", "cost")))
            losses = np.array(run.values("loss", f"{name}_{cell}"))
            axes.plot(np.full(len(losses), us), losses, ".", color=COLORS[cell], alpha=0.4)
            axes.plot(
                us, np.median(losses), "D", color=COLORS[cell], markersize=8, label=CELLS[cell]
            )
        if not problem.floor:
            axes.set_yscale("log")
        unit = f" ({problem.unit})" if problem.unit else ""
        least, most = axes.get_xlim()
        if most > 10 * max(least, 1):  # compiled cells beside loops in Python
            axes.set_xscale("log")
        else:
            axes.set_xlim(0, 1.05 * most)
        axes.set(
            title=problem.title,
            xlabel=f"µs a step of {COST_BATCH} sequences",
            ylabel=f"final loss{unit}",
        )
    figure.suptitle(
        "Diamond: median; dots: trials. Processor time of this machine, forward and backward",
        fontsize="medium",
        color="0.3",
    )
    handles, labels = all_axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(CELLS), frameon=False)
    return figure


TASK = Task(
    name="cells",
    documents=("002", "000"),
    title="RNN, GRU, LSTM with equal parameters: which of the documents' claims can be shown?",
    claim="""
        Documents 000 and 002 compare cells in words: the GRU is a little better than the
        LSTM, both are far better than the simple RNN, and the GRU costs less. No numbers
        are given. Here they are put to seeds, with equal numbers of parameters, equal data
        and equal optimizers.

        Document 002 also draws a carry track: output = act(W x + U h + V c + b), a carry c'
        = i k + f c. It is a sketch to explain the LSTM and not the LSTM, which has no V:
        its output gate multiplies the squashed new carry. As the document writes it, the
        sketch is a cell as well, and is trained beside the others.

        A claim is shown if a sign test over the seeds says so (9 of 10). That it is not
        shown is a verdict too, and then the row is missed: it is the document's claim that
        failed, not the run.
    """,
    equations="""
        RNN       h' = tanh(W x + U h + b)
        GRU       h' = (1 - z) tanh(W x + r (U h)) + z h      reset before: U (r h)
        LSTM      c' = f c + i tanh(g),  h' = o tanh(c')      peephole: i, f see c, o sees c'
        sketch    h' = tanh(W x + U h + V c + b),  c' = i k + f c, all four by tanh
        units such that the parameters come closest to those of the LSTM
        claim "A better than B": loss of A below that of B, seed by seed; "far": less than half of
        what is left above the least possible loss
    """,
    look_for="""
        learning_curves.png: where the curves part, and whether the bands of the middle half
        of the trials overlap. loss_against_time.png: what a cell's step costs here, and
        what it buys.

        The three problems ask for different things: the echo for a few steps of memory, the
        adding problem for an undisturbed one, sine to cosine for the last sample only. A claim
        about cells in general would have to hold on all three, and on the echo it does not: with
        its optimizer (the document's Adagrad, whose steps shrink) and in these 1000 updates the
        simple RNN nearly learns both dependencies, and the gated cells are still on their way.
        "binary echo by Adam" is the same with another optimizer: where all three learn both there,
        it was the optimizer that kept the gated cells back, and not the cell.
    """,
    settings=CellsSettings,
    presets={
        "quick": CellsSettings(trials=1, echo_updates=20, adding_updates=4, sin_cos_iterations=20),
        "document": CellsSettings(),
    },
    durations={"quick": "4 s", "document": "20 min"},
    train=train,
    rows=rows,
    levels=lambda settings: tuple(level for p in PROBLEMS.values() for level in p.levels),
    variants=variants,
    figures=figures,
)
