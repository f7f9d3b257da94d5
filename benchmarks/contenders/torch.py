"""PyTorch, eager, with its layers and optimizers as they come."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.contenders import Task

torch.set_num_threads(1)


def _filled(layer: torch.nn.Linear, weight: Any, bias: Any) -> torch.nn.Linear:
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
    return layer


def spiral(points: Any, labels: Any, layers: Any, lr: float) -> Task:
    parts: list[torch.nn.Module] = []
    for weight, bias in layers:
        parts += [_filled(torch.nn.Linear(*weight.shape[::-1]), weight, bias), torch.nn.ReLU()]
    model = torch.nn.Sequential(*parts[:-1])
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    criterion = torch.nn.CrossEntropyLoss()
    x, y, last = torch.tensor(points), torch.tensor(labels), [None]

    def step() -> None:
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        last[0] = loss

    return Task({"total": step}, lambda: [last[0].item()])


def expression(a: Any, b: Any, c: Any) -> Task:
    a, b, c = (torch.tensor(v, requires_grad=True) for v in (a, b, c))

    def run() -> None:
        a.grad = b.grad = c.grad = None
        (a * b + c).sum().backward()

    return Task({"total": run}, lambda: [v.grad.numpy() for v in (a, b, c)])


def chain(a: Any, b: Any, n: int) -> Task:
    a, b = (torch.tensor(v, requires_grad=True) for v in (a, b))
    one, kept = torch.ones(a.shape), []

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
    layer = _filled(torch.nn.Linear(*weight.shape[::-1]), weight, bias)
    x, g = torch.tensor(x, requires_grad=True), torch.tensor(cotangent)

    def run() -> None:
        layer.weight.grad = layer.bias.grad = x.grad = None
        layer(x).backward(g)

    return Task(
        {"total": run}, lambda: [t.grad.numpy().ravel()[:8] for t in (x, layer.weight, layer.bias)]
    )


def steps(x: Any) -> Task:
    x, kept = torch.tensor(x, requires_grad=True), []

    def forward() -> None:
        total = 0
        for t in range(x.shape[1]):
            total = total + torch.tanh(x[:, t]).sum()
        kept.append(total)

    def backward() -> None:
        x.grad = None
        kept[0].backward()

    phases = {"forward": forward, "backward": backward, "free": kept.clear}
    return Task(phases, lambda: [x.grad.numpy()[0, 0], x.grad.numpy()[-1, -1]])
