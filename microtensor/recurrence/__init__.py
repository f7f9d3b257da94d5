"""Recurrent cells as equations: `cell` declares one, and the documents' cells are declared here.

`nn.Recurrent(cell, ...)` turns a cell into a layer.
"""

from microtensor.recurrence.cell import Cell, cell
from microtensor.recurrence.cells import gru, lstm, peephole_lstm, rnn_relu, rnn_tanh

__all__ = ["Cell", "cell", "gru", "lstm", "peephole_lstm", "rnn_relu", "rnn_tanh"]
