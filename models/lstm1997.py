"""The LSTM of 1997: memory cell blocks, trained online by the truncated gradient.

Hochreiter and Schmidhuber, "Long short-term memory", Neural Computation 9(8), 1735-1780: section 4
and appendix A.1; the networks of the experiments are those of tables 10 and 11.

A block of S cells shares one input gate and one output gate. There is no forget gate. With sigma
the logistic function, for cell v of block j at every step

    y_in  = sigma(W_in z + b_in)       y_out = sigma(W_out z + b_out)          one of each a block
    s_v  <- s_v + y_in g(W_v z + b_v)                                          s_v = 0 at the start
    y_v   = y_out h(s_v)
    z     = [the input; y_v of all cells; y_in and y_out of all blocks], all but the input of the
            step before

and the output units read the cells, y_k = sigma(w_k y + b_k): connectivity "F", for which cells and
gates see each other. In connectivity "B" each layer sees all layers below it instead: the output
units the cells and the inputs, the cells the inputs only; nothing but the cell's own state goes
from step to step.

The paper contradicts itself in one point. By its equations (4) and (5) g has values in [-2, 2] and
h in [-1, 1]; by the legend of its table 10 it is the other way round. `squashing` chooses.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

import microtensor as mt
from microtensor import nn
from microtensor.recurrence import Cell

Squashing = Literal["text", "table", "none"]
Connectivity = Literal["F", "B"]
Biases = Literal["none", "gates", "hidden", "all"]

SQUASHING: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "text": (lambda x: 4 * mt.sigmoid(x) - 2, lambda s: 2 * mt.sigmoid(s) - 1),
    "table": (lambda x: 2 * mt.sigmoid(x) - 1, lambda s: 4 * mt.sigmoid(s) - 2),
    "none": (mt.sigmoid, lambda s: s),
}
"""g and h: as the text has them, as table 10 has them, and as experiments 2a and 2b have them."""


@functools.cache
def declare(
    squashing: Squashing = "text",
    connectivity: Connectivity = "F",
    output_gate: bool = True,
    biased: tuple[str, ...] = ("i", "g", "o"),
    truncated: bool = True,
) -> Cell:
    """The memory cell as a `recurrence.Cell`: gates i, g and (unless there is none) o.

    Parameters
    ----------
    squashing
        Which g and h, a key of `SQUASHING`.
    connectivity
        "F": cells and gates see all cells and gates of the step before. "B": they do not.
    output_gate
        Whether there is one; else y = h(s).
    biased
        Which of the gates have a bias.
    truncated
        Whether error goes back in time through s only, as in the paper; else wherever it can.
    """
    g_of, h_of = SQUASHING[squashing]
    recurrent = connectivity == "F"

    def memory_cell(i: Any, g: Any, o: Any, c: Any) -> Any:
        y_i, y_o = mt.sigmoid(i), mt.sigmoid(o)
        c = c + y_i * g_of(g)
        h = y_o * h_of(c)
        return (h, c, y_i, y_o) if recurrent else (h, c)

    def memory_cell_without_output_gate(i: Any, g: Any, c: Any) -> Any:
        y_i = mt.sigmoid(i)
        c = c + y_i * g_of(g)
        return (h_of(c), c, y_i) if recurrent else (h_of(c), c)

    gates = ("i", "o") if output_gate else ("i",)
    return Cell(
        memory_cell if output_gate else memory_cell_without_output_gate,
        gates=("i", "g", "o") if output_gate else ("i", "g"),
        state=("h", "c"),
        per_block=gates,
        feeds=("h", *gates) if recurrent else (),
        truncated=truncated,
        biased=tuple([name for name in biased if name != "o" or output_gate]),
    )


@dataclass(frozen=True, kw_only=True)
class Network:
    """One of the paper's networks: its size, what sees what, its biases and first weights.

    Attributes
    ----------
    inputs, blocks, size, outputs
        I input lines, B memory cell blocks of S cells each, O output units.
    biases
        Who has one: "none", "gates", "hidden" (gates and cells) or "all" (output units too).
    input_gate, output_gate
        First biases of the blocks' gates; None: drawn like all other weights.
    gated
        Whether there are output gates.
    initial
        First weights are uniform in [-initial, initial].
    output
        Of the output units: "sigmoid", as in the paper, "linear", or "softmax".
    squashing, connectivity, truncated
        See `declare`.
    """

    inputs: int
    blocks: int
    size: int
    outputs: int
    biases: Biases = "all"
    input_gate: tuple[float, ...] | None = None
    output_gate: tuple[float, ...] | None = None
    gated: bool = True
    initial: float = 0.1
    output: str = "sigmoid"
    squashing: Squashing = "text"
    connectivity: Connectivity = "F"
    truncated: bool = True

    def __post_init__(self) -> None:
        for name in ("input_gate", "output_gate"):
            first = getattr(self, name)
            if first is not None and (len(first) != self.blocks or self.biases == "none"):
                raise ValueError(
                    f"{name} must be {self.blocks} numbers, a bias for each block, and there must "
                    f"be biases; got {first} with biases {self.biases!r}"
                )

    @property
    def cells(self) -> int:
        """How many memory cells there are, B S."""
        return self.blocks * self.size

    @property
    def cell(self) -> Cell:
        """The declaration for `nn.Recurrent` and `recurrence.fit_online`."""
        biased = {"none": (), "gates": ("i", "o")}.get(self.biases, ("i", "g", "o"))
        return declare(self.squashing, self.connectivity, self.gated, biased, self.truncated)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all weights of one network, by the names of `recurrence.fit_online`."""
        cell, size = self.cell, self.size
        rows = sum([cell.width(gate, self.cells, size) for gate in cell.gates])
        fed = sum([cell.width(name, self.cells, size) for name in cell.fed])
        biased = sum([cell.width(gate, self.cells, size) for gate in cell.biased])
        seen = self.cells + (self.inputs if self.connectivity == "B" else 0)
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (rows, self.inputs),
            "weight_hh": (rows, fed),
        }
        if biased:
            shapes["bias_ih"] = (biased,)
        shapes["readout_weight"] = (self.outputs, seen)
        if self.biases == "all":
            shapes["readout_bias"] = (self.outputs,)
        return shapes

    @property
    def count(self) -> int:
        """How many weights and biases there are: "#weights" of the paper's tables."""
        return sum([int(np.prod(shape)) for shape in self.shapes.values()])

    def first_weights(self, generator: mt.Generator, dtype: Any = np.float32) -> dict[str, Any]:
        """First weights as arrays, by the names of `shapes`."""
        weights = {
            name: generator.uniform(-self.initial, self.initial, shape, dtype)
            for name, shape in self.shapes.items()
        }
        at = 0
        for gate in self.cell.biased:
            width = self.cell.width(gate, self.cells, self.size)
            first = {"i": self.input_gate, "o": self.output_gate}.get(gate)
            if first is not None:
                weights["bias_ih"][at : at + width] = first
            at += width
        return weights

    def module(self, weights: Mapping[str, Any]) -> Lstm1997:
        """A module with these weights: for looking into a network, and for gradients."""
        return Lstm1997(self, weights)


class Lstm1997(nn.Module):
    """A `Network` with its weights: a recurrent layer, and the output units.

    Parameters
    ----------
    network
        What it is made like.
    weights
        Arrays by the names of `Network.shapes`.
    """

    def __init__(self, network: Network, weights: Mapping[str, Any]) -> None:
        self.network = network
        self.layer = nn.Recurrent(
            network.cell,
            network.inputs,
            network.cells,
            bias="single" if "bias_ih" in weights else False,
            block_size=network.size,
            dtype=weights["weight_ih"].dtype,
        )
        own = {n: w for n, w in weights.items() if not n.startswith("readout")}
        self.layer.load_state_dict({f"{name}_l0": value for name, value in own.items()})
        self.readout_weight = nn.Parameter(weights["readout_weight"].copy())
        bias = weights.get("readout_bias")
        self.readout_bias = None if bias is None else nn.Parameter(bias.copy())

    def forward(self, x: Any) -> tuple[Any, Any]:
        """From x (T, B, I) to the outputs of every step (T, B, O), and the cells' (T, B, H)."""
        seen, _ = self.layer(x)
        read = seen
        if self.network.connectivity == "B":
            read = mt.concatenate([seen, x], axis=-1)
        net = nn.functional.linear(read, self.readout_weight, self.readout_bias)
        if self.network.output == "linear":
            return net, seen
        return (mt.sigmoid(net) if self.network.output == "sigmoid" else mt.softmax(net)), seen

    def inside(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """What goes on over one sequence x (T, I), as arrays.

        Returns "output" (T, O); "h" and "c" (T, H), what the cells give and what they keep; "y_i"
        and, if there are output gates, "y_o" (T, B), the gates.
        """
        network, layer = self.network, self.layer
        cell, size = network.cell, network.size
        state = [np.zeros(cell.width(name, network.cells, size), x.dtype) for name in cell.state]
        bias = layer.bias_ih_l0.data if layer.bias else 0
        product = x @ layer.weight_ih_l0.data.T
        whole = np.zeros(product.shape[1], x.dtype)
        at = row = 0
        for gate in cell.gates:
            width = cell.width(gate, network.cells, size)
            if gate in cell.biased:
                whole[row : row + width] = bias[at : at + width]
                at += width
            row += width
        kept: dict[str, list[np.ndarray]] = {name: [] for name in cell.state}
        for row_of_inputs in product + whole:
            fed = layer.weight_hh_l0.data @ cell.recurrent_vector(state)
            state = list(cell.step(row_of_inputs, fed, state, block_size=size))
            for name, value in zip(cell.state, state, strict=True):
                kept[name].append(value)
        found = {name: np.array(values) for name, values in kept.items()}
        with mt.no_grad(), mt.recurrence.driver("arrays"):  # one look is not worth compiling for
            found["output"] = self(mt.tensor(x[:, None]))[0].numpy()[:, 0]
        return found
