"""microtensor, as its users write it."""

from __future__ import annotations

from typing import Any

import microtensor as mt
from benchmarks.contenders import Task


def _filled(layer: mt.nn.Linear, weight: Any, bias: Any) -> mt.nn.Linear:
    layer.weight.data[...] = weight
    layer.bias.data[...] = bias
    return layer


def spiral(points: Any, labels: Any, layers: Any, lr: float) -> Task:
    parts: list[mt.nn.Module] = []
    for weight, bias in layers:
        parts += [_filled(mt.nn.Linear(*weight.shape[::-1]), weight, bias), mt.nn.ReLU()]
    model = mt.nn.Sequential(*parts[:-1])
    optimizer = mt.optim.SGD(model.parameters(), lr=lr)
    criterion = mt.nn.CrossEntropyLoss()
    x, y, last = mt.tensor(points), mt.tensor(labels), [None]

    def step() -> None:
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        last[0] = loss

    return Task({"total": step}, lambda: [last[0].item()])


def expression(a: Any, b: Any, c: Any) -> Task:
    a, b, c = (mt.tensor(v, requires_grad=True) for v in (a, b, c))

    def run() -> None:
        a.grad = b.grad = c.grad = None
        (a * b + c).sum().backward()

    return Task({"total": run}, lambda: [v.grad.numpy() for v in (a, b, c)])


def chain(a: Any, b: Any, n: int) -> Task:
    a, b = (mt.tensor(v, requires_grad=True) for v in (a, b))
    one, kept = mt.ones(a.shape), []

    def forward() -> None:
        y = a
        for _ in range(n):
            y = y + b
        kept.append(y)

    def backward() -> None:
        a.grad = b.grad = None
        kept[0].backward(one)

    phases = {"forward": forward, "backward": backward, "free": kept.clear}
    return Task(phases, lambda: [a.grad.numpy(), b.grad.numpy()])


def linear(x: Any, weight: Any, bias: Any, cotangent: Any) -> Task:
    layer = _filled(mt.nn.Linear(*weight.shape[::-1]), weight, bias)
    x, g = mt.tensor(x, requires_grad=True), mt.tensor(cotangent)

    def run() -> None:
        layer.weight.grad = layer.bias.grad = x.grad = None
        layer(x).backward(g)

    return Task(
        {"total": run}, lambda: [t.grad.numpy().ravel()[:8] for t in (x, layer.weight, layer.bias)]
    )


def steps(x: Any) -> Task:
    x, kept = mt.tensor(x, requires_grad=True), []

    def forward() -> None:
        total = 0
        for t in range(x.shape[1]):
            total = total + mt.tanh(x[:, t]).sum()
        kept.append(total)

    def backward() -> None:
        x.grad = None
        kept[0].backward()

    phases = {"forward": forward, "backward": backward, "free": kept.clear}
    return Task(phases, lambda: [x.grad.numpy()[0, 0], x.grad.numpy()[-1, -1]])
