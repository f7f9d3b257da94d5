"""HIPS autograd. Its `grad` is forward and backward in one."""

from __future__ import annotations

from typing import Any

import autograd.numpy as np
import numpy
from autograd import grad, value_and_grad

from benchmarks.contenders import Task, _by_hand
from benchmarks.trainings import Training


def _task(function: Any, arguments: Any, pick: Any = lambda results: results) -> Task:
    last = [None]

    def run() -> None:
        last[0] = function(*arguments)

    return Task({"total": run}, lambda: pick(last[0]))


def spiral(points: Any, labels: Any, layers: Any, lr: float) -> Task:
    hot = numpy.eye(len(layers[-1][1]), dtype=points.dtype)[labels]
    parameters = [(weight.T.copy(), bias.copy()) for weight, bias in layers]
    lr, last = numpy.float32(lr), [None]

    def loss(parameters: Any) -> Any:
        x, (weight, bias) = points, parameters[-1]
        for w, b in parameters[:-1]:
            x = np.maximum(0.0, np.dot(x, w) + b)
        x = np.dot(x, weight) + bias
        top = np.max(x, -1, keepdims=True)
        total = top + np.log(np.sum(np.exp(x - top), -1, keepdims=True))
        return -np.mean(np.sum((x - total) * hot, -1))

    both = value_and_grad(loss)

    def step() -> None:
        last[0], gradient = both(parameters)
        for layer, slopes in zip(parameters, gradient, strict=True):
            for p, g in zip(layer, slopes, strict=True):
                p -= lr * g

    return Task({"total": step}, lambda: [float(last[0])])


def expression(a: Any, b: Any, c: Any) -> Task:
    return _task(grad(lambda a, b, c: np.sum(a * b + c), (0, 1, 2)), [a, b, c])


def chain(a: Any, b: Any, n: int) -> Task:
    def summed(a: Any, b: Any) -> Any:
        for _ in range(n):
            a = a + b
        return np.sum(a)

    return _task(grad(summed, (0, 1)), [a, b])


def linear(x: Any, weight: Any, bias: Any, cotangent: Any) -> Task:
    function = grad(lambda x, w, b: np.sum((np.dot(x, w.T) + b) * cotangent), (0, 1, 2))
    return _task(function, [x, weight, bias], lambda results: [v.ravel()[:8] for v in results])


def steps(x: Any) -> Task:
    def total(x: Any) -> Any:
        total = 0.0
        for t in range(x.shape[1]):
            total = total + np.sum(np.tanh(x[:, t]))
        return total

    return _task(grad(total), [x], lambda g: [g[0, 0], g[-1, -1]])


def training(t: Training, x: Any, y: Any, weights: Any) -> Task | None:
    if not _by_hand.within_reach(t):
        return None
    parameters = {name: weight.copy() for name, weight in weights.items()}
    optimizer = _by_hand.Optimizer(t, parameters)
    hot = numpy.eye(t.outputs, dtype=x.dtype)[y] if t.loss == "cross_entropy" else None
    state, kept, last = _by_hand.zero_state(t), [None], [None]

    def loss(p: Any, state: Any) -> Any:
        sigmoid = lambda z: 0.5 * np.tanh(0.5 * z) + 0.5  # noqa: E731
        out, kept[0] = _by_hand.network(np, sigmoid, t, p, x, state)
        if hot is not None:
            top = np.max(out, -1, keepdims=True)
            total = top + np.log(np.sum(np.exp(out - top), -1, keepdims=True))
            return -np.mean(np.sum((out - total) * hot, -1))
        if t.loss == "mse":
            return np.mean((out - y) ** 2)
        return np.mean(np.maximum(out, 0) - out * y + np.log1p(np.exp(-np.abs(out))))

    both = value_and_grad(loss)

    def step() -> None:
        nonlocal state
        last[0], gradients = both(parameters, state)
        optimizer.step(gradients)
        if t.carried:
            state = tuple([value._value for value in kept[0]])

    return Task({"total": step}, lambda: [float(last[0])])
