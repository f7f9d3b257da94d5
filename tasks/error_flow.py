"""Document 004's beginning: why a memory cell learns what an ordinary recurrent net cannot.

Nothing is trained. The networks of the 1997 paper, with their weights as drawn, are asked what the
paper proves about them: how many weights they have, how error flows through q steps, and that its
learning rule is the gradient it claims to be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import microtensor as mt
from microtensor.nn.functional import linear
from microtensor.recurrence import Sequences, fit_online
from models.forward_accumulators import accumulated
from models.lstm1997 import Lstm1997, Network
from tasks import plots, temporal_order
from tasks.harness import (
    Row,
    Run,
    Settings,
    Task,
    Trial,
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

GATES = Network(inputs=7, blocks=4, size=1, outputs=7, biases="gates")
COUNTS: dict[str, tuple[int, Network]] = {
    "1, four blocks of one": (264, GATES),
    "1, three blocks of two": (
        276,
        Network(inputs=7, blocks=3, size=2, outputs=7, biases="gates"),
    ),
    "2a and 2b, p = 100": (
        10_504,
        Network(
            inputs=101,
            blocks=1,
            size=1,
            outputs=101,
            biases="none",
            connectivity="B",
            gated=False,
            squashing="none",
        ),
    ),
    **{
        f"2c, p = {p}": (
            count,
            Network(inputs=p + 4, blocks=2, size=1, outputs=2, biases="none"),
        )
        for p, count in ((50, 364), (100, 664), (200, 1264), (500, 3064), (1000, 6064))
    },
    "3": (102, Network(inputs=1, blocks=3, size=1, outputs=1, biases="hidden")),
    "4 and 5": (93, Network(inputs=2, blocks=2, size=2, outputs=1)),
    "6a": (156, temporal_order.network("6a")),
    "6b": (308, temporal_order.network("6b")),
}
"""The column "#weights" of the paper's tables, and the network of each."""

FOLLOWED = 50
"""Sequences over which the compiled loop is compared with the ordinary path."""


@dataclass(frozen=True, kw_only=True)
class ErrorFlowSettings(Settings):
    """Nothing is trained: the settings say how far back is looked."""

    trials: int = 10
    """Independent repetitions; each has its own weights and inputs."""
    steps: int = 100
    """The most steps between an error and what it reaches."""
    compiled: bool = True
    """Whether what can be compiled is, if Numba is there (half a minute, once)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "steps")


def flows(work: Work) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """How much error reaches what lies q steps back, in networks of experiment 6a's size."""
    settings: ErrorFlowSettings = work.settings
    truncated = temporal_order.network("6a")
    weights = truncated.first_weights(work.generator("weights"), np.float64)
    x = np.eye(truncated.inputs)[
        work.generator("inputs").integers(0, truncated.inputs, (settings.steps + 1,))
    ]
    unrolled = _Unrolled(truncated.module(weights), x)
    flow = unrolled.flow("c", "c")
    off = flow - np.eye(truncated.cells)
    values = {"carousel": float(np.abs(off).max()), "equation": unrolled.deviation()}
    whole = Network(**{**vars(truncated), "truncated": False})
    arrays = {
        "through the cell, truncated": np.abs(flow).max((1, 2)),
        "through cell and gates": np.abs(_Unrolled(whole.module(weights), x).flow("c", "c")).max(
            (1, 2)
        ),
    }
    for name, nonlinearity in (("tanh", mt.tanh), ("logistic", mt.sigmoid)):
        arrays[f"simple net, {name}"] = _simple_net(nonlinearity, truncated, x, work)
    return values, arrays


class _Unrolled:
    """A network over a sequence, step by step, with every value in between at hand."""

    def __init__(self, module: Lstm1997, x: np.ndarray) -> None:
        self.network = module.network
        cell, size = self.network.cell, self.network.size
        state: Sequence[Any] = [
            mt.zeros((1, cell.width(name, self.network.cells, size)), dtype="float64")
            for name in cell.state
        ]
        products = linear(mt.tensor(x), module.layer.weight_ih_l0, module.layer.bias_ih_l0)
        self.products: list[Any] = []
        self.states: list[Sequence[Any]] = []
        for t in range(len(x)):
            product = products[t : t + 1]
            fed = linear(cell.recurrent_vector(state), module.layer.weight_hh_l0)
            state = cell.step(product, fed, state, block_size=size)
            self.products.append((product, product + fed))
            self.states.append(state)

    def of(self, name: str) -> list[Any]:
        """One of the cell's values at all steps."""
        at = self.network.cell.state.index(name)
        return [state[at] for state in self.states]

    def flow(self, end: str, start: str) -> np.ndarray:
        """How the last value of `end` depends on that of `start` q steps before: (q, H, H)."""
        last, before = self.of(end)[-1], self.of(start)[:-1][::-1]
        return _jacobians(last, before)

    def deviation(self) -> float:
        """The largest deviation from the paper's formula for the flow into a cell and its gate.

        From the output y of a cell to the net input of the cell q steps before it is
        y_out h'(s) g'(net) y_in, to that of the input gate y_out h'(s) g(net) f'(net_in): no q.
        """
        n, size = self.network.blocks, self.network.size
        cells, of = self.network.cells, np.arange(self.network.cells) // size
        found = _jacobians(self.of("h")[-1], [product for product, _ in self.products[:-1]][::-1])
        s, y_out = (self.of(name)[-1].detach().numpy()[0] for name in ("c", "y_o"))
        sigma = 1 / (1 + np.exp(-s))
        outside = y_out[of] * 2 * sigma * (1 - sigma)
        worst = 0.0
        steps = zip(found, self.products[:-1][::-1], self.of("y_i")[:-1][::-1], strict=True)
        for jacobian, (_, net), gate in steps:
            y_in = gate.detach().numpy()[0]
            squashed = 1 / (1 + np.exp(-net.detach().numpy()[0, n : n + cells]))
            expected = np.zeros((cells, net.shape[1]))
            each = np.arange(cells)
            expected[each, n + each] = outside * 4 * squashed * (1 - squashed) * y_in[of]
            expected[each, of] = outside * (4 * squashed - 2) * (y_in * (1 - y_in))[of]
            worst = max(worst, float(np.abs(jacobian - expected).max()))
        return worst


def _jacobians(end: Any, starts: Sequence[Any]) -> np.ndarray:
    """d end / d start for each of `starts`, (n, of end, of start)."""
    found = []
    for i in range(end.shape[1]):
        grads = mt.grad(end[0, i], list(starts), retain_graph=True)
        found.append([g.numpy()[0] for g in grads])
    return np.array(found).swapaxes(0, 1)


def _simple_net(squash: Any, like: Network, x: np.ndarray, work: Work) -> np.ndarray:
    """The largest flow over q steps in a simple net of as many hidden units, w in ±1/sqrt(n)."""
    units = like.cells + 2 * like.blocks
    generator = work.generator("simple net")
    into = mt.tensor(generator.uniform(-0.1, 0.1, (units, like.inputs), "float64"))
    drawn = generator.uniform(-(units**-0.5), units**-0.5, (units, units), "float64")
    weight = mt.tensor(drawn, requires_grad=True)
    h: Any = mt.zeros((1, units), dtype="float64")
    states = []
    for row in x:
        h = squash(linear(mt.tensor(row[None]), into) + linear(h, weight))
        states.append(h)
    return np.abs(_jacobians(states[-1], states[:-1][::-1])).max((1, 2))


def gradients(work: Work) -> dict[str, float]:
    """The truncated gradient against the paper's accumulators, and against the whole one."""
    worst, apart = 0.0, []
    for name, (_, network) in COUNTS.items():
        if network.connectivity != "F" or network.inputs > 110:
            continue
        generator = work.generator("gradients", name)
        weights = network.first_weights(generator, np.float64)
        x = generator.uniform(-1.0, 1.0, (20, network.inputs), "float64")
        targets = generator.uniform(0.0, 1.0, (20, network.outputs), "float64")
        own = _gradient(network, weights, x, targets)
        theirs = accumulated(network, weights, x, targets)
        whole = _gradient(Network(**{**vars(network), "truncated": False}), weights, x, targets)
        worst = max([worst, *[float(np.abs(own[n] - theirs[n]).max()) for n in own]])
        flat = [np.concatenate([g[n].ravel() for n in sorted(own)]) for g in (own, whole)]
        apart.append(float(np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[1])))
    return {"accumulators": worst, "whole": float(np.median(apart))}


def _gradient(
    network: Network, weights: Mapping[str, np.ndarray], x: np.ndarray, targets: np.ndarray
) -> dict[str, np.ndarray]:
    """Of 1/2 the squared error of one sequence, by microtensor's backward pass."""
    module = network.module(weights)
    out, _ = module(mt.tensor(x[:, None]))
    (((out[:, 0] - mt.tensor(targets)) ** 2).sum() * 0.5).backward()
    found = {}
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None
        found[name.removeprefix("layer.").removesuffix("_l0")] = parameter.grad.numpy()
    return found


def followed(work: Work) -> float:
    """The largest relative difference of `fit_online` from the ordinary path on 6a.

    Both learn the same `FOLLOWED` sequences, one update each, in float64.
    """
    network = temporal_order.network("6a")
    weights = network.first_weights(work.generator("followed"), np.float64)
    data = temporal_order.TemporalOrder(temporal_order.PLACES["6a"])
    drawn = data.draw(work.generator("data"), FOLLOWED)
    assert drawn.lengths is not None
    online = {name: weight[None].copy() for name, weight in weights.items()}
    chunk = Sequences(drawn.inputs[None], drawn.targets[None], drawn.lengths[None])
    [errors] = fit_online(
        network.cell,
        online,
        [chunk],
        0.5,
        output="sigmoid",
        block_size=network.size,
    )
    module = network.module(weights)
    optimizer = mt.optim.SGD(module.parameters(), lr=0.5)
    losses = []
    for symbols, label, length in zip(drawn.inputs, drawn.targets, drawn.lengths, strict=True):
        out, _ = module(mt.tensor(np.eye(network.inputs)[symbols[:length], None]))
        loss = ((out[-1, 0] - mt.tensor(np.eye(network.outputs)[label])) ** 2).sum() * 0.5
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    difference = np.abs(errors.loss[0] / np.array(losses) - 1).max()
    for name, parameter in module.named_parameters():
        own = online[name.removeprefix("layer.").removesuffix("_l0")][0]
        difference = max(difference, np.abs(own - parameter.data).max())
    return float(difference)


def train(work: Work) -> list[Trial]:
    """Measure one network's flows and gradients; nothing is trained but the 50 sequences of 6a."""
    [number] = work.trials
    driver = mt.recurrence.driver() if work.settings.compiled else "arrays"
    with mt.recurrence.driver(driver):
        values, arrays = flows(work)
        values |= gradients(work)
        values["followed"] = followed(work)
    return [Trial(number, values, arrays=arrays)]


def rows(run: Run) -> list[Row]:
    """Counts, flows, gradients."""
    made = [
        Row(
            f"weights of experiment {name}",
            network.count,
            target=count,
            source="paper",
            tolerance=within(count, 0),
        )
        for name, (count, network) in COUNTS.items()
    ]
    for name, what, limit, note in (
        (
            "carousel",
            "error through q steps of the cell, largest deviation from 1",
            1e-12,
            f"q = 1 … {run.settings.steps}; between different cells, from 0.",
        ),
        (
            "equation",
            "error into a cell and its input gate, largest deviation from the paper's formula",
            1e-12,
            "y_out h'(s) g'(net) y_in and y_out h'(s) g(net) f'(net_in), whatever q is.",
        ),
        (
            "accumulators",
            "truncated gradient, largest deviation from the accumulators of appendix A.1",
            1e-10,
            "Nine networks of the tables, 20 steps, a target at each.",
        ),
        (
            "followed",
            f"6a, {FOLLOWED} updates of the online loop, largest deviation from the ordinary path",
            1e-10,
            "Losses (relative) and weights, float64.",
        ),
    ):
        made.append(
            Row(
                what,
                **highest_of(run.values(name)),
                **judged(0.0, "computed", at_most(limit)),
                note=note,
            )
        )
    made.append(
        Row(
            "truncated gradient, distance from the whole one",
            **median_of(run.values("whole")),
            note="As a share of the whole gradient's length, at the first weights.",
        )
    )
    for name in next(iter(run.of())).arrays:
        ratios = [float(trial.arrays[name][-1]) for trial in run.of()]
        made.append(
            Row(f"{name}: error after {run.settings.steps} steps", **median_of(ratios), unit="")
        )
    return made


def figures(run: Run) -> Mapping[str, Figure]:
    """Draw how much error is left after q steps."""
    figure, axes = plots.new_figure()
    steps = np.arange(1, run.settings.steps + 1)
    for (name, color), style in zip(
        zip(run.of()[0].arrays, plots.PALETTE, strict=False), ("-", "--", "-.", ":"), strict=False
    ):
        values = np.array([trial.arrays[name] for trial in run.of()])
        plots.curves(axes, steps, np.maximum(values, 1e-30), label=name, color=color, style=style)
    axes.set_yscale("log")
    axes.set_ylim(bottom=1e-16)
    axes.set(
        title="Error flowing back q steps, at first weights",
        xlabel="q (steps)",
        ylabel="largest derivative",
    )
    axes.legend(frameon=False, fontsize=9, loc="upper right", bbox_to_anchor=(1, 0.82))
    return {"error_flow": figure}


TASK = Task(
    name="error_flow",
    documents=("004",),
    title="the constant error carousel: what the 1997 paper proves of its cell, measured",
    claim="""
        An error that flows back through q steps of a simple recurrent network is multiplied q
        times by weights and slopes, and so vanishes (or explodes) exponentially in q. The
        paper's answer is a unit whose connection to itself is fixed at 1: what enters a memory
        cell as error stays there unchanged, for however many steps. Around it stand two gates
        that learn what to let in and what to let out.

        Here nothing is learnt; everything that the paper proves of this is measured. The flow
        through a cell is 1, exactly. From a cell's output to what entered the cell or its
        input gate q steps before, it is a product in which q does not occur. The learning
        rule, which the paper states as sums carried forward in time, is the gradient that a
        backward pass gives when what is fed back counts as constant: to rounding. And every
        network has as many weights as its table says.

        That gradient is not the whole one; one row tells how far they are apart.
    """,
    equations="""
        s <- s + y_in g(net)     ds(t) / ds(t - q) = 1
        dy(t) / dnet_c(t - q)  = y_out(t) h'(s(t)) g'(net_c(t - q)) y_in(t - q)
        dy(t) / dnet_in(t - q) = y_out(t) h'(s(t)) g(net_c(t - q)) f'(net_in(t - q))
        simple net: dh(t) / dh(t - q) = product of q matrices diag(f') W
    """,
    look_for="""
        error_flow.png: a level line at 1, and two nets of as many hidden units whose error is
        gone after a few steps. With the whole gradient ("through cell and gates") what a
        cell holds also acts through the gates of later steps; at first weights that is
        little.
    """,
    settings=ErrorFlowSettings,
    presets={
        "quick": ErrorFlowSettings(trials=2, steps=30, compiled=False),
        "document": ErrorFlowSettings(),
    },
    durations={"quick": "3 s", "document": "1 min"},
    train=train,
    rows=rows,
    figures=figures,
)
