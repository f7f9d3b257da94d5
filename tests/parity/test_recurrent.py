"""RNN, LSTM and GRU with PyTorch's weights: outputs, states and all gradients."""

import numpy as np
import pytest
from parity.against_torch import close, generator, torch

import microtensor as mt
from microtensor import nn

pytestmark = pytest.mark.parity

T, B, I, H = 6, 4, 3, 5
TOLERANCE = 1e-10
LENGTHS = np.array([4, 6, 1, 3])
KINDS = {
    "RNN": {},
    "relu": {"nonlinearity": "relu"},
    "LSTM": {},
    "GRU": {},
}


def pair(kind, **options):
    """The same layer in both libraries; PyTorch's weights, loaded here by name."""
    name = "RNN" if kind == "relu" else kind
    torch.manual_seed(0)
    theirs = getattr(torch.nn, name)(I, H, **KINDS[kind], **options, dtype=torch.float64)
    ours = getattr(nn, name)(I, H, **KINDS[kind], **options, dtype=np.float64)
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    return ours, theirs


def states(kind, layers, rng):
    count = 2 if kind == "LSTM" else 1
    return [rng.normal(size=(layers, B, H)) for _ in range(count)]


def weighted(values, weights, library):
    return sum(
        (library.sum(v * library.tensor(w)) for v, w in zip(values, weights, strict=True)),
        library.tensor(0.0),
    )


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
@pytest.mark.parametrize("initial", [False, True], ids=["zeros", "initial state"])
@pytest.mark.parametrize("batch_first", [False, True], ids=["time first", "batch first"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "both ways"])
@pytest.mark.parametrize("kind", KINDS)
def test_two_layers(kind, bidirectional, batch_first, initial, lengths):
    rng = generator(3)
    ours, theirs = pair(kind, num_layers=2, bidirectional=bidirectional, batch_first=batch_first)
    x = rng.normal(size=(B, T, I) if batch_first else (T, B, I))
    start = states(kind, 4 if bidirectional else 2, rng) if initial else []
    xs, us = mt.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    ss = [mt.tensor(s, requires_grad=True) for s in start]
    rs = [torch.tensor(s, requires_grad=True) for s in start]

    def packed(values):
        return (tuple(values) if kind == "LSTM" else values[0]) if values else None

    y, state = ours(xs, packed(ss), lengths=lengths)
    if lengths is None:
        z, torchs_state = theirs(us, packed(rs))
    else:
        sequence = torch.nn.utils.rnn.pack_padded_sequence(
            us, torch.tensor(lengths), batch_first=batch_first, enforce_sorted=False
        )
        z, torchs_state = theirs(sequence, packed(rs))
        z, _ = torch.nn.utils.rnn.pad_packed_sequence(z, batch_first=batch_first, total_length=T)

    mine = [y, *(state if kind == "LSTM" else [state])]
    others = [z, *(torchs_state if kind == "LSTM" else [torchs_state])]
    for i, (a, b) in enumerate(zip(mine, others, strict=True)):
        close(a, b, TOLERANCE, f"output {i}")
    weights = [rng.normal(size=a.shape) for a in mine]
    weighted(mine, weights, mt).backward()
    weighted(others, weights, torch).backward()
    close(xs.grad, us.grad, TOLERANCE, "gradient of the input")
    for i, (a, b) in enumerate(zip(ss, rs, strict=True)):
        close(a.grad, b.grad, TOLERANCE, f"gradient of initial state {i}")
    torchs = dict(theirs.named_parameters())
    for name, p in ours.named_parameters():
        close(p.grad, torchs.pop(name).grad, TOLERANCE, f"gradient of {name}")
    assert not torchs


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_one_sequence_without_a_batch_axis(kind, bias):
    ours, theirs = pair(kind, bias=bias)
    x = generator(4).normal(size=(T, I))
    y, state = ours(mt.tensor(x))
    z, torchs = theirs(torch.tensor(x))
    close(y, z, TOLERANCE)
    for a, b in zip(
        state if kind == "LSTM" else [state], torchs if kind == "LSTM" else [torchs], strict=True
    ):
        close(a, b, TOLERANCE)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_cells(kind):
    rng = generator(5)
    theirs = getattr(torch.nn, f"{kind}Cell")(I, H, dtype=torch.float64)
    ours = getattr(nn, f"{kind}Cell")(I, H, dtype=np.float64)
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    x, start = rng.normal(size=(B, I)), [s[0] for s in states(kind, 1, rng)]
    mine = ours(mt.tensor(x), tuple(map(mt.tensor, start)) if kind == "LSTM" else mt.tensor(*start))
    torchs = theirs(
        torch.tensor(x), tuple(map(torch.tensor, start)) if kind == "LSTM" else torch.tensor(*start)
    )
    for a, b in zip(
        mine if kind == "LSTM" else [mine], torchs if kind == "LSTM" else [torchs], strict=True
    ):
        close(a, b, TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives(kind):
    """PyTorch's recurrent layers on the CPU are made of differentiable operations too."""
    rng = generator(6)
    ours, theirs = pair(kind)
    x, w = rng.normal(size=(T, B, I)), rng.normal(size=(T, B, H))
    xs, us = mt.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    mine = mt.grad([weighted([ours(xs)[0]], [w], mt)], [xs, ours.weight_hh_l0], create_graph=True)
    torchs = torch.autograd.grad(
        weighted([theirs(us)[0]], [w], torch), [us, theirs.weight_hh_l0], create_graph=True
    )
    for a, b in zip(mine, torchs, strict=True):
        close(a, b, TOLERANCE)
    mt.sum(mine[0] * mine[0]).backward()
    (torchs[0] * torchs[0]).sum().backward()
    named = [("x", xs, us)]
    mine = dict(ours.named_parameters())
    named += [(name, mine[name], p) for name, p in theirs.named_parameters()]
    for name, p, q in named:  # without a gradient: the derivative is zero, as with relu
        a, b = (np.zeros(p.shape) if t.grad is None else t.grad for t in (p, q))
        close(a, b, TOLERANCE, name)


def test_training_an_lstm_for_twenty_steps():
    """Rounding does not pile up: the same losses and weights after twenty steps of Adam."""
    rng = generator(8)
    ours, theirs = pair("LSTM", num_layers=2)
    adam = mt.optim.Adam(ours.parameters(), lr=0.01)
    torchs = torch.optim.Adam(theirs.parameters(), lr=0.01)
    for _ in range(20):
        x, target = rng.normal(size=(T, B, I)), rng.normal(size=(T, B, H))
        adam.zero_grad()
        torchs.zero_grad()
        mine = mt.mse_loss(ours(mt.tensor(x))[0], mt.tensor(target))
        other = torch.nn.functional.mse_loss(theirs(torch.tensor(x))[0], torch.tensor(target))
        mine.backward()
        other.backward()
        close(mine, other, TOLERANCE)
        adam.step()
        torchs.step()
    for name, p in theirs.named_parameters():
        close(dict(ours.named_parameters())[name], p, TOLERANCE, name)
