"""Training on a device: the host never waits, and the numbers are NumPy's."""

import numpy as np
import pytest

import microtensor as mt
from microtensor import nn, optim

RNG = np.random.Generator(np.random.Philox(13))
X = RNG.normal(size=(6, 4, 3)).astype(np.float32)  # (T, B, I)
LABELS = np.array([0, 1, 1, 0])
BITS = RNG.integers(0, 2, (4, 1)).astype(np.float32)
LENGTHS = np.array([6, 2, 4, 1])

MODELS = {
    "layers": lambda: nn.Sequential(
        nn.Linear(3, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 5), nn.ReLU(), nn.Sigmoid()
    ),
    "rnn": lambda: nn.RNN(3, 5),
    "relu rnn": lambda: nn.RNN(3, 5, nonlinearity="relu", bias="single"),
    "lstm": lambda: nn.LSTM(3, 5, num_layers=2, dropout=0.5, recurrent_dropout=0.2),
    "gru": lambda: nn.GRU(3, 5),
    "gru, reset before": lambda: nn.GRU(3, 5, reset="before"),
    "lengths": lambda: nn.LSTM(3, 5),
    "cell": lambda: nn.Recurrent(nn.LSTMCell(3, 5)),
}
OPTIMIZERS = {
    "sgd": lambda ps: optim.SGD(ps, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adagrad": lambda ps: optim.Adagrad(ps, lr=0.1, initial_accumulator_value=0.1),
    "rmsprop": lambda ps: optim.RMSprop(ps, lr=0.01, centered=True, momentum=0.5),
    "adam": lambda ps: optim.Adam(ps, lr=0.01, amsgrad=True, weight_decay=0.01),
}
LOSSES = {
    "cross_entropy": lambda y: mt.cross_entropy(y[:, :2], LABELS),
    "mse": lambda y: mt.mse_loss(y[:, :1], _like(y, BITS)),
    "l1": lambda y: mt.l1_loss(y[:, :1], _like(y, BITS)),
    "bce": lambda y: mt.binary_cross_entropy_with_logits(y[:, :1], _like(y, BITS)),
}


def _like(y, host):
    return mt.tensor(host).to(y.backend)


def train(place, model, optimizer, loss, watch):
    """Three steps on `place`; returns all parameters and their last gradients on the host."""
    mt.manual_seed(2)
    network, head = MODELS[model](), nn.Linear(5, 2)
    network.to(place.name)
    head.to(place.name)
    parameters = [*network.parameters(), *head.parameters()]
    step = OPTIMIZERS[optimizer](parameters)
    x = place.tensor(X)
    with watch():
        for _ in range(3):
            step.zero_grad()
            options = {"lengths": LENGTHS} if model == "lengths" else {}
            y = network(x, **options)
            y = y[0] if isinstance(y, tuple) else y
            value = LOSSES[loss](head(y[-1] if model != "lengths" else mt.mean(y, axis=0)))
            value.backward()
            nn.utils.clip_grad_norm_(parameters, 0.5)
            nn.utils.clip_grad_value_(parameters, 0.3)
            step.step()
    return [place.host(t.detach()) for p in parameters for t in (p, p.grad)]


@pytest.mark.parametrize(
    ("model", "optimizer", "loss"),
    [
        *[(model, "adam", "cross_entropy") for model in MODELS],
        *[("layers", optimizer, "mse") for optimizer in OPTIMIZERS],
        *[("layers", "sgd", loss) for loss in LOSSES],
    ],
)
def test_training_waits_for_nothing_and_agrees_with_numpy(model, optimizer, loss, device):
    from backends import Place

    there = train(device, model, optimizer, loss, device.device_only)
    here = train(Place("numpy"), model, optimizer, loss, mt.enable_grad)
    for a, b in zip(there, here, strict=True):
        assert a.dtype == b.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
