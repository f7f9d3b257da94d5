"""The cells of the documents, as equations; sigma is the logistic function.

The conventions are PyTorch's (the documentation of `torch.nn.RNN`, `LSTM` and `GRU`): gate order
i, f, g, o and r, z, n, and z keeps the old state, h' = (1 - z) n + z h.
"""

from __future__ import annotations

from typing import Any

from microtensor.ops import relu, sigmoid, tanh
from microtensor.recurrence.cell import cell

__all__ = [
    "gru",
    "lstm",
    "memory_cell",
    "memory_cell_bptt",
    "peephole_lstm",
    "rnn_relu",
    "rnn_tanh",
]


@cell(gates=("a",), state=("h",))
def rnn_tanh(a: Any) -> Any:
    """The simple recurrent network: h' = tanh(a). (Elman 1990, "Finding structure in time".)"""
    return tanh(a)


@cell(gates=("a",), state=("h",))
def rnn_relu(a: Any) -> Any:
    """The simple recurrent network with h' = max(a, 0). (Le, Jaitly and Hinton 2015.)"""
    return relu(a)


@cell(gates=("i", "f", "g", "o"), state=("h", "c"))
def lstm(i: Any, f: Any, g: Any, o: Any, c: Any) -> Any:
    """The LSTM with a forget gate (Gers, Schmidhuber and Cummins 2000).

    c' = sigma(f) c + sigma(i) tanh(g),   h' = sigma(o) tanh(c')
    """
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), c


@cell(gates=("r", "z", "n"), apart=("n",), state=("h",))
def gru(r: Any, z: Any, n_x: Any, n_h: Any, h: Any) -> Any:
    """The GRU whose reset gate acts on the recurrent product (PyTorch's and cuDNN's form).

    h' = (1 - sigma(z)) tanh(n_x + sigma(r) n_h) + sigma(z) h

    The form of Cho et al. 2014 multiplies h by the reset gate *before* the product with the
    weights. Its product depends on a gate of the same step, so it is not a cell of this kind:
    see `nn.GRU(reset="before")`.
    """
    z = sigmoid(z)
    return (1 - z) * tanh(n_x + sigmoid(r) * n_h) + z * h


@cell(gates=("i", "f", "g", "o"), state=("h", "c"), per_unit=("p_i", "p_f", "p_o"))
def peephole_lstm(i: Any, f: Any, g: Any, o: Any, c: Any, p_i: Any, p_f: Any, p_o: Any) -> Any:
    """The LSTM whose gates see the cell (Gers, Schraudolph and Schmidhuber 2002, JMLR 3).

    c' = sigma(f + p_f c) c + sigma(i + p_i c) tanh(g),   h' = sigma(o + p_o c') tanh(c')

    The input and forget gates look at the old cell, the output gate at the new one.
    """
    new = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * tanh(g)
    return sigmoid(o + p_o * new) * tanh(new), new


@cell(
    gates=("i", "g", "o"),
    state=("h", "c"),
    per_block=("i", "o"),
    feeds=("h", "i", "o"),
    truncated=True,
)
def memory_cell(i: Any, g: Any, o: Any, c: Any) -> Any:
    """The memory cell of 1997 (Hochreiter and Schmidhuber, section 4 and appendix A.1).

    c' = c + y_i (4 sigma(g) - 2),   h' = y_o (2 sigma(c') - 1),   y_i = sigma(i), y_o = sigma(o)

    There is no forget gate: the edge from c to c' is exactly 1, the constant error carousel. The
    cells of a block share its input and its output gate, which are fed back beside h. The gradient
    is the paper's truncated one: error goes through time along that edge only.
    """
    y_i, y_o = sigmoid(i), sigmoid(o)
    c = c + y_i * (4 * sigmoid(g) - 2)
    return y_o * (2 * sigmoid(c) - 1), c, y_i, y_o


@cell(gates=("i", "g", "o"), state=("h", "c"), per_block=("i", "o"), feeds=("h", "i", "o"))
def memory_cell_bptt(i: Any, g: Any, o: Any, c: Any) -> Any:
    """The same cell with the whole gradient, by back-propagation through time."""
    return memory_cell(i, g, o, c)
