"""Every kind of recurrent layer, with sizes that are all different, and with large weights."""

import microtensor as mt
from microtensor import nn
from microtensor.recurrence import cell, peephole_lstm

# All different, so that no transposition goes unnoticed.
T, B, I, H = 5, 3, 4, 2


@cell(gates=("a", "b"), apart=("b",), state=("h", "m"), per_unit=("w",))
def own_cell(a, b_x, b_h, h, m, w):
    """A reader's cell: a gate apart, two values to remember, of which h is used, and a weight."""
    new = w * m + mt.tanh(a + 0.5 * h)
    return mt.sigmoid(b_x * b_h) * new - 0.1 * h, new


CELLS = {"peephole_lstm": peephole_lstm, "own_cell": own_cell}
STEPS = ("rnn_tanh", "rnn_relu", "lstm", "gru", "gru_before")  # kinds with a module of one step
KINDS = (*STEPS, "peephole_lstm")
EVERY = (*STEPS, *CELLS)


def build(kind, inputs=I, hidden=H, dtype="float64", **options):
    """A layer of this kind, its weights as PyTorch starts them."""
    options = {"dtype": dtype, **options}
    if kind in CELLS:
        return nn.Recurrent(CELLS[kind], inputs, hidden, **options)
    if kind.startswith("rnn"):
        return nn.RNN(inputs, hidden, nonlinearity=kind.removeprefix("rnn_"), **options)
    if kind.startswith("gru"):
        return nn.GRU(inputs, hidden, reset="before" if "before" in kind else "after", **options)
    return nn.LSTM(inputs, hidden, **options)


def build_cell(kind, inputs=I, hidden=H, dtype="float64", **options):
    """The single step of the same kind, one of `STEPS`."""
    options = {"dtype": dtype, **options}
    if kind.startswith("rnn"):
        return nn.RNNCell(inputs, hidden, nonlinearity=kind.removeprefix("rnn_"), **options)
    if kind.startswith("gru"):
        reset = "before" if "before" in kind else "after"
        return nn.GRUCell(inputs, hidden, reset=reset, **options)
    return nn.LSTMCell(inputs, hidden, **options)


def spread(module, rng):
    """Larger weights than the initial ones, so that every nonlinearity is felt."""
    for parameter in module.parameters():
        values = rng.normal(size=parameter.shape).astype(parameter.dtype)
        parameter.data = mt.backend.of(parameter.data).from_host(values)
    return module


def draw_state(layer, rng, batch=B):
    """Arrays of an initial state, as a tuple."""
    blocks, one = layer.num_layers * layer.directions, layer.cell
    widths = [one.width(name, layer.hidden_size, layer.block_size) for name in one.state]
    return tuple(rng.normal(size=(blocks, batch, width)) for width in widths)


def as_state(values, requires_grad=False):
    tensors = tuple(mt.tensor(value, requires_grad=requires_grad) for value in values)
    return tensors if len(tensors) > 1 else tensors[0]


def parts(state):
    return tuple(state) if isinstance(state, tuple | list) else (state,)


def bare(values):
    """One value alone, several as a tuple: the form of a state."""
    return tuple(values) if len(values) > 1 else values[0]


def host(tensor):
    return tensor.detach().numpy()
