"""Neural networks: modules, layers, losses as modules, initialisers. Names are PyTorch's."""

from microtensor.nn import functional, init, utils
from microtensor.nn.activations import ReLU, Sigmoid, Tanh
from microtensor.nn.cells import GRUCell, LSTMCell, RNNCell
from microtensor.nn.containers import ModuleList, Sequential
from microtensor.nn.layers import Dropout, Embedding, Linear
from microtensor.nn.losses import (
    BCELoss,
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    L1Loss,
    MSELoss,
)
from microtensor.nn.module import Module, StateDictError
from microtensor.nn.parameter import Parameter
from microtensor.nn.recurrent import GRU, LSTM, RNN, Recurrent
from microtensor.nn.stacking import stack, unstack

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "BCELoss",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "Dropout",
    "Embedding",
    "GRUCell",
    "L1Loss",
    "LSTMCell",
    "Linear",
    "MSELoss",
    "Module",
    "ModuleList",
    "Parameter",
    "RNNCell",
    "ReLU",
    "Recurrent",
    "Sequential",
    "Sigmoid",
    "StateDictError",
    "Tanh",
    "functional",
    "init",
    "stack",
    "unstack",
    "utils",
]
