"""microtensor, as its users write it."""

from __future__ import annotations

import itertools
from typing import Any

import microtensor as mt
from benchmarks.contenders import Task
from benchmarks.courses import Course
from benchmarks.trainings import CAPTURED, Training


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


LARGEST = 100_000  # numbers of an output; above, Python is not what takes the time

_captures = [False]


def choose(how: str) -> None:
    """Where everything is computed, with "cupy", or else which driver runs recurrent layers."""
    if how == "cupy":
        mt.use_backend(how)
        return
    _captures[0] = how.endswith(CAPTURED)
    mt.recurrence.driver(how.removesuffix(CAPTURED))


class _Network(mt.nn.Module):
    def __init__(self, t: Training) -> None:
        self.first = mt.nn.Embedding(t.first, t.inputs) if t.symbols else None
        if t.first and not t.symbols:
            self.first = mt.nn.Linear(t.first, t.inputs)
        layer = {"rnn": mt.nn.RNN, "lstm": mt.nn.LSTM, "gru": mt.nn.GRU}[t.cell]
        self.recurrent = layer(t.inputs, t.hidden, batch_first=True)
        self.readout = mt.nn.Linear(t.hidden, t.outputs)
        self.last = t.last

    def forward(self, x: Any, state: Any) -> Any:
        if self.first is not None:
            x = self.first(x)
        x, state = self.recurrent(x, state)
        return self.readout(x[:, -1] if self.last else x), state


def _criterion(loss: str) -> Any:
    if loss == "cross_entropy":
        return mt.nn.CrossEntropyLoss(axis=-1)
    return {"mse": mt.nn.MSELoss, "mae": mt.nn.L1Loss, "bce": mt.nn.BCEWithLogitsLoss}[loss]()


def _optimizer(t: Training, parameters: Any) -> Any:
    if t.optimizer == "rmsprop":
        return mt.optim.RMSprop(parameters, lr=t.lr, alpha=0.9, eps=1e-7)
    kinds = {"adam": mt.optim.Adam, "adagrad": mt.optim.Adagrad, "sgd": mt.optim.SGD}
    return kinds[t.optimizer](parameters, lr=t.lr)


def training(t: Training, x: Any, y: Any, weights: Any) -> Task | None:
    if _captures[0] and t.steps * t.batch * t.hidden > LARGEST:
        return None
    model, criterion = _Network(t), _criterion(t.loss)
    model.load_state_dict(weights)
    optimizer = _optimizer(t, model.parameters())
    x, y = mt.tensor(x), mt.tensor(y)
    state, last = None, [None]

    def update(x: Any, y: Any, state: Any) -> Any:
        out, new = model(x, state)
        loss = criterion(out, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss, mt.detach(new)

    if _captures[0]:
        update = mt.capture(update, model, optimizer)

    def step() -> None:
        nonlocal state
        last[0], new = update(x, y, state)
        if t.carried:
            state = new
        if last[0].backend != "numpy":
            last[0].item()  # waits for the card

    return Task({"total": step}, lambda: [last[0].item()])


def online(course: Course, x: Any, targets: Any, weights: Any) -> Task:
    network, last = course.network, [None]
    fit = mt.recurrence.fit_online(
        mt.recurrence.lstm if network is None else network.cell,
        {name: value.copy() for name, value in weights.items()},
        itertools.repeat(mt.recurrence.Sequences(x, targets)),
        course.lr,
        output="linear" if network is None else network.output,
        block_size=1 if network is None else network.size,
    )

    def run() -> None:
        last[0] = next(fit)

    return Task({"total": run}, lambda: [last[0].loss[0]])
