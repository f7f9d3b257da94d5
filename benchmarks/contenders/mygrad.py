"""MyGrad with its memory guard off, which is its fast mode."""

from __future__ import annotations

from typing import Any

import mygrad as mg
import numpy as np
from mygrad.nnet.activations import relu, sigmoid
from mygrad.nnet.losses import softmax_crossentropy

from benchmarks.contenders import Task, _by_hand
from benchmarks.trainings import Training

mg.turn_memory_guarding_off()


def spiral(points: Any, labels: Any, layers: Any, lr: float) -> Task:
    layers = [(mg.tensor(weight.T.copy()), mg.tensor(bias)) for weight, bias in layers]
    lr, last = np.float32(lr), [None]

    def step() -> None:
        x, (weight, bias) = points, layers[-1]
        for w, b in layers[:-1]:
            x = relu(mg.matmul(x, w) + b)
        loss = softmax_crossentropy(mg.matmul(x, weight) + bias, labels)
        loss.backward()
        for layer in layers:
            for p in layer:
                p.data -= lr * p.grad
                p.null_grad()
        last[0] = loss

    return Task({"total": step}, lambda: [last[0].item()])


def expression(a: Any, b: Any, c: Any) -> Task:
    a, b, c = (mg.tensor(v) for v in (a, b, c))

    def run() -> None:
        (a * b + c).sum().backward()  # it forgets the gradients of the last time by itself

    return Task({"total": run}, lambda: [v.grad for v in (a, b, c)])


def chain(a: Any, b: Any, n: int) -> Task:
    a, b, kept = mg.tensor(a), mg.tensor(b), []

    def forward() -> None:
        y = a
        for _ in range(n):
            y = y + b
        kept.append(y)

    def backward() -> None:
        kept[0].backward()

    phases = {"forward": forward, "backward": backward, "free": kept.clear}
    return Task(phases, lambda: [a.grad, b.grad])


def linear(x: Any, weight: Any, bias: Any, cotangent: Any) -> Task:
    x, w, b = mg.tensor(x), mg.tensor(weight), mg.tensor(bias)

    def run() -> None:
        (mg.matmul(x, w.T) + b).backward(cotangent)

    return Task({"total": run}, lambda: [t.grad.ravel()[:8] for t in (x, w, b)])


def steps(x: Any) -> Task:
    x, kept = mg.tensor(x), []

    def forward() -> None:
        total = 0.0
        for t in range(x.shape[1]):
            total = total + mg.sum(mg.tanh(x[:, t]))
        kept.append(total)

    def backward() -> None:
        kept[0].backward()

    phases = {"forward": forward, "backward": backward, "free": kept.clear}
    return Task(phases, lambda: [x.grad[0, 0], x.grad[-1, -1]])


def training(t: Training, x: Any, y: Any, weights: Any) -> Task | None:
    if not _by_hand.within_reach(t):
        return None
    parameters = {name: mg.tensor(weight.copy()) for name, weight in weights.items()}
    optimizer = _by_hand.Optimizer(t, {name: p.data for name, p in parameters.items()})
    state, last = _by_hand.zero_state(t), [None]

    def criterion(out: Any) -> Any:
        if t.loss == "cross_entropy":
            return softmax_crossentropy(out.reshape(-1, t.outputs), y.reshape(-1))
        if t.loss == "mse":
            return mg.mean((out - y) ** 2)
        return mg.mean(mg.maximum(out, 0) - out * y + mg.log1p(mg.exp(-mg.abs(out))))

    def step() -> None:
        nonlocal state
        out, new = _by_hand.network(mg, sigmoid, t, parameters, x, state)
        loss = criterion(out)
        loss.backward()
        last[0] = loss.item()
        optimizer.step({name: p.grad for name, p in parameters.items()})
        for p in parameters.values():
            p.null_grad()
        if t.carried:
            state = tuple([value.data for value in new])

    return Task({"total": step}, lambda: [last[0]])
