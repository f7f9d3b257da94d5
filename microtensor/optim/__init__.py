"""Optimizers: PyTorch's formulas and defaults; each docstring has the formula."""

from microtensor.optim.adagrad import Adagrad
from microtensor.optim.adam import Adam
from microtensor.optim.optimizer import Optimizer
from microtensor.optim.rmsprop import RMSprop
from microtensor.optim.sgd import SGD

__all__ = ["SGD", "Adagrad", "Adam", "Optimizer", "RMSprop"]
