"""PyTorch, eager, with its layers and optimizers as they come."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.contenders import Task
from benchmarks.courses import Course
from benchmarks.trainings import Training

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


def choose(how: str) -> None:
    """On the card, with "cuda"; with "flushing", numbers below 1e-38 are set to zero."""
    if how == "cuda":
        torch.set_default_device("cuda")
        torch.backends.cudnn.allow_tf32 = False  # else its products have ten bits
    elif not torch.set_flush_denormal(True):
        raise OSError("this processor cannot flush subnormal numbers")


class _Network(torch.nn.Module):
    def __init__(self, t: Training) -> None:
        super().__init__()
        self.first = torch.nn.Embedding(t.first, t.inputs) if t.symbols else None
        if t.first and not t.symbols:
            self.first = torch.nn.Linear(t.first, t.inputs)
        layer = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[t.cell]
        self.recurrent = layer(t.inputs, t.hidden, batch_first=True)
        self.readout = torch.nn.Linear(t.hidden, t.outputs)
        self.last = t.last

    def forward(self, x: Any, state: Any) -> Any:
        if self.first is not None:
            x = self.first(x)
        x, state = self.recurrent(x, state)
        return self.readout(x[:, -1] if self.last else x), state


def _criterion(loss: str) -> Any:
    if loss == "cross_entropy":
        criterion = torch.nn.CrossEntropyLoss()
        return lambda out, y: criterion(out.flatten(0, 1), y.flatten())
    kinds = {"mse": torch.nn.MSELoss, "mae": torch.nn.L1Loss, "bce": torch.nn.BCEWithLogitsLoss}
    return kinds[loss]()


def _optimizer(t: Training, parameters: Any) -> Any:
    if t.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=t.lr, alpha=0.9, eps=1e-7)
    kinds = {"adam": torch.optim.Adam, "adagrad": torch.optim.Adagrad, "sgd": torch.optim.SGD}
    return kinds[t.optimizer](parameters, lr=t.lr)


def training(t: Training, x: Any, y: Any, weights: Any) -> Task:
    model, criterion = _Network(t), _criterion(t.loss)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(weights[name]))
    optimizer = _optimizer(t, model.parameters())
    x, y = torch.tensor(x), torch.tensor(y)
    state, last = None, [None]

    def step() -> None:
        nonlocal state
        out, new = model(x, state)
        loss = criterion(out, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if t.carried:
            state = tuple([value.detach() for value in new])
        last[0] = loss
        if loss.is_cuda:
            torch.cuda.synchronize()

    return Task({"total": step}, lambda: [last[0].item()])


class _Network1997(torch.nn.Module):
    """The network of models/lstm1997.py, with the truncated gradient, step by step."""

    def __init__(self, network: Any, weights: dict[str, torch.nn.Parameter]) -> None:
        super().__init__()
        self.network, self.weights = network, weights
        gates = [
            (g, network.cell.width(g, network.cells, network.size)) for g in network.cell.gates
        ]
        self.widths = [width for _, width in gates]
        bias = weights.get("bias_ih")
        if bias is not None and len(network.cell.biased) < len(gates):
            self.places = torch.cat(
                [torch.full((width,), gate in network.cell.biased) for gate, width in gates]
            )
        else:
            self.places = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        network, w = self.network, self.weights
        recurrent = network.connectivity == "F"
        blocks, size = network.blocks, network.size
        bias = w.get("bias_ih")
        if self.places is not None:
            whole = torch.zeros(len(self.places))
            whole[self.places] = bias
            bias = whole
        products = torch.nn.functional.linear(x, w["weight_ih"], bias)
        c = torch.zeros(network.cells)
        fed = torch.zeros(w["weight_hh"].shape[1])
        outputs = []
        for product in products:
            net = product + w["weight_hh"] @ fed if recurrent else product
            parts = net.split(self.widths)
            y_i, g = torch.sigmoid(parts[0]), torch.sigmoid(parts[1])
            if network.squashing != "none":
                g = 4 * g - 2
            c = (c.view(blocks, size) + y_i[:, None] * g.view(blocks, size)).view(-1)
            h = c if network.squashing == "none" else 2 * torch.sigmoid(c) - 1
            if network.gated:
                y_o = torch.sigmoid(parts[2])
                h = (y_o[:, None] * h.view(blocks, size)).view(-1)
            if recurrent:
                fed = torch.cat([h, y_i, y_o]).detach()
            outputs.append(h)
        read = torch.stack(outputs)
        if not recurrent:
            read = torch.cat([read, x], 1)
        net = torch.nn.functional.linear(read, w["readout_weight"], w.get("readout_bias"))
        return torch.sigmoid(net)


class _Online(torch.nn.Module):
    """Today's LSTM with one bias, and its readout."""

    def __init__(self, weights: dict[str, torch.nn.Parameter]) -> None:
        super().__init__()
        self.layer = torch.nn.LSTM(2, 8)
        self.layer.bias_hh_l0.requires_grad_(False).zero_()
        for name in ("weight_ih", "weight_hh", "bias_ih"):
            setattr(self.layer, f"{name}_l0", weights[name])
        self.weights = weights

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.weights
        return torch.nn.functional.linear(self.layer(x)[0], w["readout_weight"], w["readout_bias"])


def online(course: Course, x: Any, targets: Any, weights: Any) -> Task:
    w = {name: torch.nn.Parameter(torch.tensor(value[0])) for name, value in weights.items()}
    net = _Online(w) if course.network is None else _Network1997(course.network, w)
    optimizer = torch.optim.SGD(list(w.values()), lr=course.lr)
    sequences = torch.tensor(x[0])
    if course.symbols:
        sequences = torch.eye(w["weight_ih"].shape[1])[sequences]
    aims, losses = torch.tensor(targets[0]), [0.0] * len(sequences)

    def run() -> None:
        for n, sequence in enumerate(sequences):
            out = net(sequence)
            loss = 0.5 * ((out if course.every else out[-1]) - aims[n]).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[n] = loss.item()

    return Task({"total": run}, lambda: [losses])
