"""DeZero, with its own layers and optimizers; W1 to W4.

Its Adam adds epsilon before the correction and not behind it, which changes little. Its LSTM has
one bias for each gate; the second one, which PyTorch's has, is put in.
"""

# ruff: noqa: E402
from __future__ import annotations

from typing import Any

import numpy as np

# DeZero asks for np.int, which NumPy no longer has, when it is imported.
vars(np).setdefault("int", int)

import dezero
import dezero.functions as F
import dezero.layers as L
from dezero import optimizers

from benchmarks.contenders import Task, _by_hand
from benchmarks.trainings import Training


def _fill(layer: L.Linear, weight: Any, bias: Any) -> None:
    layer.W.data, layer.b = np.ascontiguousarray(weight.T), dezero.Parameter(bias.copy())


class _Network(dezero.Model):
    def __init__(self, t: Training, weights: Any) -> None:
        super().__init__()
        self.t = t
        w_ih, w_hh = weights["recurrent.weight_ih_l0"], weights["recurrent.weight_hh_l0"]
        b_ih, b_hh = weights["recurrent.bias_ih_l0"], weights["recurrent.bias_hh_l0"]
        if t.first:
            self.first = L.Linear(t.inputs, in_size=t.first)
            _fill(self.first, weights["first.weight"], weights["first.bias"])
        self.recurrent = {"rnn": L.RNN, "lstm": L.LSTM}[t.cell](t.hidden, in_size=t.inputs)
        pairs = [("x2h", "h2h")] if t.cell == "rnn" else [(f"x2{g}", f"h2{g}") for g in "ifuo"]
        for k, (of_x, of_h) in enumerate(pairs):
            rows = slice(k * t.hidden, (k + 1) * t.hidden)
            _fill(getattr(self.recurrent, of_x), w_ih[rows], b_ih[rows])
            _fill(getattr(self.recurrent, of_h), w_hh[rows], b_hh[rows])
        self.readout = L.Linear(t.outputs, in_size=t.hidden)
        _fill(self.readout, weights["readout.weight"], weights["readout.bias"])
        self.start()

    def start(self) -> None:
        """A state of zeros; without one, DeZero leaves out the recurrent bias in the first step."""
        h, c = _by_hand.zero_state(self.t)
        self.recurrent.h = dezero.Variable(h)
        if self.t.cell == "lstm":
            self.recurrent.c = dezero.Variable(c)

    def forward(self, x: Any, y: Any) -> Any:
        t, loss = self.t, 0
        if not t.carried:
            self.start()
        for k in range(t.steps):
            row = self.first(x[k]) if t.first else x[k]
            h = self.recurrent(row)
            if not t.last:
                loss = loss + self.criterion(self.readout(h), y[k])
        return self.criterion(self.readout(h), y) if t.last else loss * (1 / t.steps)

    def criterion(self, out: Any, y: Any) -> Any:
        if self.t.loss == "cross_entropy":
            return F.softmax_cross_entropy(out, y)
        if self.t.loss == "mse":  # DeZero divides by the batch alone
            return F.mean_squared_error(out, y) * (1 / self.t.outputs)
        y, p = dezero.as_variable(y), F.clip(F.sigmoid(out), 1e-7, 1 - 1e-7)
        return F.sum(y * F.log(p) + (1 - y) * F.log(1 - p)) * (-1 / y.size)


def training(t: Training, x: Any, y: Any, weights: Any) -> Task | None:
    if not _by_hand.within_reach(t):
        return None
    x = [np.ascontiguousarray(x[:, k]) for k in range(t.steps)]
    y = y if t.last else [np.ascontiguousarray(y[:, k]) for k in range(t.steps)]
    model, last = _Network(t, weights), [None]
    kinds = {
        "adam": lambda: optimizers.Adam(alpha=t.lr),
        "adagrad": lambda: optimizers.AdaGrad(lr=t.lr, eps=1e-10),
        "sgd": lambda: optimizers.SGD(lr=t.lr),
    }
    optimizer = kinds[t.optimizer]().setup(model)

    def step() -> None:
        loss = model.forward(x, y)
        model.cleargrads()
        loss.backward()
        if t.carried:
            loss.unchain_backward()
        optimizer.update()
        last[0] = loss

    return Task({"total": step}, lambda: [float(last[0].data)])
