"""The 1997 paper's rivals, each against the engine or against an independent loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import microtensor as mt
from microtensor import nn
from microtensor.recurrence import Sequences, fit_online
from models.chunker import Chunking, TwoNets
from models.elman import Elman
from models.guessing import Guessed, run, search, within
from models.rtrl import RTRL, FullyRecurrent, Layered

NETWORKS = {
    170: FullyRecurrent(inputs=7, hidden=3, outputs=7),
    494: FullyRecurrent(inputs=7, hidden=12, outputs=7),
    435: Elman(inputs=7, hidden=15, outputs=7),
} | {
    count: Layered(inputs=p + 1, hidden=1, outputs=p + 1)
    for p, count in ((4, 36), (10, 144), (100, 10404))
}
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("count", NETWORKS)
def test_the_papers_weight_counts(count: int) -> None:
    """Tables 1 and 2, column "#weights"."""
    network = NETWORKS[count]
    assert network.count == count
    shapes = {name: shape for name, shape in network.shapes.items() if name not in network.masks}
    assert sum([np.prod(shape) for shape in shapes.values()]) == count
    weights = network.first_weights(mt.Generator(0))
    assert {name: array.shape for name, array in weights.items()} == network.shapes


def test_the_automatizer_has_the_papers_weight_count() -> None:
    """Which counts one net of the two."""
    assert TwoNets(symbols=101).automatizer.count == 10506


networks = st.one_of(
    st.builds(
        FullyRecurrent,
        inputs=st.integers(1, 4),
        hidden=st.integers(0, 3),
        outputs=st.integers(1, 3),
        initial=st.just(2.0),
    ),
    st.builds(
        Layered,
        inputs=st.integers(1, 4),
        hidden=st.integers(1, 3),
        outputs=st.integers(1, 3),
        direct=st.booleans(),
        initial=st.just(2.0),
    ),
)


def stacked(network: Any, trials: int, seed: int) -> dict[str, Any]:
    """First weights of K trials in float64."""
    drawn = [network.first_weights(mt.Generator((seed, k)), np.float64) for k in range(trials)]
    return {name: np.stack([weights[name] for weights in drawn]) for name in network.shapes}


def draw(rng: Any, network: Any, trials: int, sequences: int, steps: int) -> Sequences:
    """Symbols, and a class for every step."""
    shape = (trials, sequences, steps)
    return Sequences(
        rng.integers(0, network.inputs, shape),
        rng.integers(0, network.outputs, shape),
        rng.integers(1, steps + 1, shape[:2]),
    )


def close(a: Any, b: Any) -> None:
    """To 1e-10."""
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


# -- real-time recurrent learning, back-propagation through time, and Elman's gradient


def by_engine(network: Any, weights: dict[str, Any], x: Any, classes: Any) -> dict[str, Any]:
    """The gradient of 1/2 the squared error over a sequence by the layer and `backward`."""
    units = len(weights["weight_hh"])
    layer = nn.Recurrent(network.cell, network.inputs, units, bias=False, dtype="float64")
    layer.load_state_dict({f"{n}_l0": w for n, w in weights.items() if n != "readout_weight"})
    readout = mt.tensor(weights["readout_weight"], requires_grad=True)
    one_hot = np.eye(network.inputs)[x][:, None]
    read, _ = layer(mt.tensor(one_hot))
    if weights["readout_weight"].shape[1] > units:
        read = mt.concatenate([read, mt.tensor(one_hot)], axis=-1)
    out = nn.functional.linear(read, readout)
    if network.output == "sigmoid":
        out = mt.sigmoid(out)
    (0.5 * ((out[:, 0] - np.eye(network.outputs)[classes]) ** 2).sum()).backward()
    found = {"weight_ih": layer.weight_ih_l0, "weight_hh": layer.weight_hh_l0}
    found["readout_weight"] = readout
    return {n: w.grad.numpy() for n, w in found.items() if n not in network.masks}


@given(seed=seeds, network=networks, steps=st.integers(1, 7))
def test_rtrls_gradient_is_that_of_back_propagation_through_time(
    seed: int, network: Any, steps: int
) -> None:
    """Carried forwards, it is what the engine finds going backwards."""
    chunk = draw(np.random.default_rng(seed), network, 1, 1, steps)
    x, classes = chunk.inputs[0, 0, :steps], chunk.targets[0, 0, :steps]
    before, after = stacked(network, 1, seed), stacked(network, 1, seed)
    next(RTRL(network, after, [chunk._replace(lengths=None)], 1.0, update="sequence"))
    found = by_engine(network, {n: w[0] for n, w in before.items()}, x, classes)
    for name, gradient in found.items():
        close((before[name] - after[name])[0], gradient)


def both(network: Any, seed: int, chunk: Sequences, lr: Any, update: Any) -> tuple[Any, Any]:
    """Errors and weights by RTRL, and by `fit_online`."""
    trials = len(chunk.inputs)
    mine, theirs = stacked(network, trials, seed), stacked(network, trials, seed)
    [errors] = RTRL(network, mine, [chunk], lr, update=update)
    fit = fit_online(
        network.cell,
        theirs,
        [chunk],
        lr,
        output=network.output,
        masks=network.masks,
        update=update,
        driver="arrays",
    )
    [wanted] = fit
    return (errors, mine), (wanted, theirs)


@given(seed=seeds, network=networks, update=st.sampled_from(["step", "sequence"]))
def test_rtrl_is_online_learning_as_the_library_has_it(
    seed: int, network: Any, update: Any
) -> None:
    """An update after every step or sequence, sequences of several lengths, several trials."""
    chunk = draw(np.random.default_rng(seed), network, 3, 3, 5)
    (errors, mine), (wanted, theirs) = both(network, seed, chunk, [0.7, 0.0, 0.2], update)
    close(errors.loss, wanted.loss)
    close(errors.worst, wanted.worst)
    for name, array in theirs.items():
        close(mine[name], array)
        assert (mine[name][1] == stacked(network, 3, seed)[name][1]).all()  # its rate is 0
    fixed = list(network.masks)
    assert all((mine[name] == stacked(network, 3, seed)[name]).all() for name in fixed)


@given(seed=seeds, hidden=st.integers(1, 4), steps=st.integers(1, 6))
def test_elmans_error_goes_no_further_than_to_the_copy(seed: int, hidden: int, steps: int) -> None:
    """Against a feed-forward network that is shown a copy, one step at a time."""
    network = Elman(inputs=3, hidden=hidden, outputs=2, initial=2.0)
    chunk = draw(np.random.default_rng(seed), network, 1, 1, steps)._replace(lengths=None)
    before, after = stacked(network, 1, seed), stacked(network, 1, seed)
    options = {"output": network.output, "driver": "arrays"}
    next(fit_online(network.cell, after, [chunk], 1.0, **options))
    w = {name: mt.tensor(array[0], requires_grad=True) for name, array in before.items()}
    copy = np.zeros(hidden)
    for x, target in zip(chunk.inputs[0, 0], chunk.targets[0, 0], strict=True):
        h = mt.sigmoid(w["weight_ih"] @ np.eye(3)[x] + w["weight_hh"] @ copy)
        out = mt.sigmoid(w["readout_weight"] @ h)
        (0.5 * ((out - np.eye(2)[target]) ** 2).sum()).backward()
        copy = h.detach().numpy()
    for name, weight in w.items():
        close((before[name] - after[name])[0], weight.grad.numpy())


# -- the chunker


def sigma(x: Any) -> Any:
    """The logistic function."""
    return 1 / (1 + np.exp(-x))


class OneUnit:
    """A network with one hidden unit: its derivatives written out, w of the unit itself first."""

    def __init__(self, weights: dict[str, Any], depth: int | None) -> None:
        self.w = np.concatenate([weights["weight_hh"][0], weights["weight_ih"][0]])
        self.v = weights["readout_weight"].copy()
        self.depth = depth

    def start(self) -> None:
        self.h, self.p, self.steps = 0.0, np.zeros_like(self.w), []

    def step(self, symbol: int) -> Any:
        z = np.concatenate([[self.h], np.eye(len(self.w) - 1)[symbol]])
        self.h = sigma(self.w @ z)
        self.p = self.h * (1 - self.h) * (self.w[0] * self.p + z)
        self.steps.append((self.h * (1 - self.h), z))
        self.seen = np.concatenate([[self.h], z[1:]])[: self.v.shape[1]]
        self.out = sigma(self.v @ self.seen)
        return self.out

    def learn(self, target: Any, lr: float) -> None:
        delta = lr * (target - self.out) * self.out * (1 - self.out)
        back = delta @ self.v[:, 0]
        self.v += np.outer(delta, self.seen)
        if self.depth is not None:
            self.p, through = np.zeros_like(self.w), 1.0
            for slope, z in self.steps[: -self.depth - 2 : -1]:
                through *= slope
                self.p = self.p + through * z
                through *= self.w[0]
        self.w += back * self.p


def pair(nets: TwoNets, weights: dict[str, Any], k: int, depth: int | None) -> list[OneUnit]:
    """The two networks of a trial."""
    return [
        OneUnit({n: weights[f"{part}.{n}"][k] for n in nets.chunker.shapes}, depth)
        for part in ("automatizer", "chunker")
    ]


def one_by_one(
    nets: TwoNets, a: OneUnit, c: OneUnit, string: list[int], lr: float, threshold: float
) -> tuple[float, float, int]:
    """The whole procedure for a string of symbols; its loss, worst error, unexpected symbols."""
    one_hot = np.eye(nets.symbols)
    a.start()
    c.start()
    loss, worst, unexpected, prediction = 0.0, 0.0, 0, None
    for t, symbol in enumerate(string):
        far = np.inf if prediction is None else np.abs(prediction - one_hot[symbol]).max()
        if far >= threshold:
            unexpected += 1
            if t > 0:
                c.learn(one_hot[symbol], lr)
            if t < len(string) - 1:
                seen = c.step(symbol)
                state = np.concatenate([[c.h], seen]) if nets.state == "all" else [c.h]
        if t < len(string) - 1:
            out = a.step(symbol).copy()
            target = np.concatenate([one_hot[string[t + 1]], state])
            a.learn(target, lr)
            prediction = out[: nets.symbols]
            loss += 0.5 * ((out - target) ** 2).sum()
            worst = max(worst, np.abs(out - target)[: nets.symbols].max())
    return loss, worst, unexpected


def strings(rng: Any, symbols: int, trials: int, sequences: int, steps: int) -> Sequences:
    """Random ones, each symbol to be predicted from those before."""
    drawn = rng.integers(0, symbols, (trials, sequences, steps + 1))
    lengths = rng.integers(1, steps + 1, (trials, sequences))
    return Sequences(drawn[..., :-1], drawn[..., 1:], lengths)


@given(
    seed=seeds,
    direct=st.booleans(),
    state=st.sampled_from(["hidden", "all"]),
    threshold=st.sampled_from([0.3, 0.6, 0.8]),
    depth=st.sampled_from([None, 0, 1, 3]),
)
def test_the_chunker_is_its_procedure_one_number_at_a_time(
    seed: int, direct: bool, state: Any, threshold: float, depth: int | None
) -> None:
    """Trials side by side, against each trial by itself."""
    nets = TwoNets(symbols=3, direct=direct, state=state, initial=2.0)
    weights = stacked(nets, 3, seed)
    chunk = strings(np.random.default_rng(seed), 3, 3, 4, 5)
    pairs = [pair(nets, weights, k, depth) for k in range(3)]
    rates = [1.0, 0.0, 0.4]
    [found] = Chunking(nets, weights, [chunk], rates, threshold=threshold, depth=depth)
    for k, (a, c) in enumerate(pairs):
        for n, length in enumerate(chunk.lengths[k]):
            string = [*chunk.inputs[k, n, :length], chunk.targets[k, n, length - 1]]
            loss, worst, unexpected = one_by_one(nets, a, c, string, rates[k], threshold)
            close(found.loss[k, n], loss)
            close(found.worst[k, n], worst)
            assert found.unexpected[k, n] == unexpected
        for part, net in (("automatizer", a), ("chunker", c)):
            close(weights[f"{part}.weight_hh"][k, 0, 0], net.w[0])
            close(weights[f"{part}.weight_ih"][k, 0], net.w[1:])
            close(weights[f"{part}.readout_weight"][k], net.v)


def test_what_is_predicted_never_reaches_the_chunker() -> None:
    """With the loosest threshold it reads first symbols only; with the strictest, all."""
    nets = TwoNets(symbols=3)
    chunk = strings(np.random.default_rng(0), 3, 2, 4, 5)
    for threshold in (2.0, 0.0):
        weights = stacked(nets, 2, 0)
        [found] = Chunking(nets, weights, [chunk], 1.0, threshold=threshold)
        all_of_them = chunk.lengths + 1 if threshold == 0 else np.ones_like(chunk.lengths)
        assert (found.unexpected == all_of_them).all()
        same = [(weights[n] == w).all() for n, w in stacked(nets, 2, 0).items() if "chunk" in n]
        assert all(same) == (threshold > 0)


def test_the_chunker_bridges_what_its_automatizer_alone_does_not() -> None:
    """y a b y or x a b x: the end is foreseen when A must also have in mind what C has."""
    nets = TwoNets(symbols=4, direct=False)
    first = np.random.default_rng(0).integers(2, 4, (4, 1400, 1))
    string = np.concatenate([first, np.zeros_like(first), np.ones_like(first), first], 2)
    chunk = Sequences(string[..., :-1], string[..., 1:])
    weights = stacked(nets, 4, 0)
    alone = {n: weights[f"automatizer.{n}"].copy() for n in nets.automatizer.shapes}
    alone["readout_weight"] = alone["readout_weight"][:, :4].copy()
    [found] = Chunking(nets, weights, [chunk], 4.0)
    network = Layered(inputs=4, hidden=1, outputs=4)
    [lonely] = fit_online(
        network.cell, alone, [chunk], 4.0, output="sigmoid", update="step", driver="arrays"
    )
    assert (found.worst[:, -50:].max(1) < 0.25).sum() >= 3
    assert (found.unexpected[:, -50:].max(1) == 1).sum() >= 3
    assert (lonely.worst[:, -50:].max(1) > 0.4).all()


# -- guessing


def a_class_to_remember(rng: Any, count: int, noise: float = 0.2) -> tuple[Any, Any, Any]:
    """A first element of ±1 among noise, and which it was."""
    classes = np.arange(count) % 2
    x = rng.normal(0, noise, (count, 12))
    x[:, 0] = 2 * classes - 1
    return x, classes.astype(float), rng.integers(9, 13, count)


@given(seed=seeds, hidden=st.integers(1, 3), sparse=st.booleans())
def test_a_guessed_network_is_a_logistic_one(seed: int, hidden: int, sparse: bool) -> None:
    """Against a layer of the library; what is not connected has no weight."""
    network = Guessed(hidden=hidden, sparse=sparse, limit=3.0)
    weights = network.guess(mt.Generator(seed), 2, np.float64)
    assert ((weights != 0) == network.connected).all()
    x, _, lengths = a_class_to_remember(np.random.default_rng(seed), 4)
    found = run(weights, x, lengths)
    units = hidden + 1
    for g, w in enumerate(weights):
        layer = nn.Recurrent(
            FullyRecurrent.cell, 1, units, bias="single", batch_first=True, dtype="float64"
        )
        layer.load_state_dict(
            {"weight_hh_l0": w[:, :units], "weight_ih_l0": w[:, -2:-1], "bias_ih_l0": w[:, -1]}
        )
        states, _ = layer(mt.tensor(x[..., None]))
        close(found[g], states.detach().numpy()[np.arange(4), lengths - 1, -1])


@given(seed=seeds, hidden=st.integers(1, 3))
def test_in_order_the_output_unit_sees_what_is_new(seed: int, hidden: int) -> None:
    """Unit by unit, the output unit last."""
    network = Guessed(hidden=hidden, limit=3.0, in_order=True)
    [weights] = network.guess(mt.Generator(seed), 1, np.float64)
    x, _, lengths = a_class_to_remember(np.random.default_rng(seed), 4)
    [found] = run(weights[None], x, lengths, in_order=True)
    for sequence, steps, output in zip(x, lengths, found, strict=True):
        y = np.zeros(hidden + 1)
        for value in sequence[:steps]:
            before = y.copy()
            for unit, row in enumerate(weights):
                seen = y if unit == hidden else before
                y[unit] = 1 / (1 + np.exp(-(row @ np.concatenate([seen, [value, 1]]))))
        close(output, y[-1])


def test_the_networks_of_the_book() -> None:
    """A1: n (n + 3) weights of the hidden units, n + 2 of the output's; A2: n = 10."""
    assert [Guessed(hidden=n).count for n in (1, 3)] == [4 + 3, 18 + 5]
    assert Guessed(hidden=10, sparse=True).count == 10 * 4 + 12


@given(seed=seeds, together=st.integers(1, 70), allowed=st.integers(0, 2))
def test_the_first_network_that_passes_is_found(seed: int, together: int, allowed: int) -> None:
    """By trying one after the other on everything; the size of the portions changes nothing."""
    network = Guessed(hidden=1)
    x, targets, lengths = a_class_to_remember(np.random.default_rng(seed), 20, noise=0.5)
    right = within(0.4)
    options = {"right": right, "cap": 50, "allowed": allowed, "together": together}
    generators = [mt.Generator((seed, k)) for k in range(2)]
    found = search(network, generators, x, targets, lengths, **options)
    for k in range(2):
        weights = network.guess(mt.Generator((seed, k)), 50)
        wrong = (~right(run(weights, x, lengths), targets)).sum(1)
        passed = np.flatnonzero(wrong <= allowed)
        assert found.solved[k] == (len(passed) > 0)
        assert found.guesses[k] == (passed[0] + 1 if len(passed) else 50)
        assert (found.weights[k] == weights[found.guesses[k] - 1]).all()


# -- what is refused


def test_bad_input_is_refused() -> None:
    """With what was wrong."""
    network = Layered(inputs=3, hidden=1, outputs=3)
    weights = stacked(network, 2, 0)
    chunk = strings(np.random.default_rng(0), 3, 2, 4, 5)
    with pytest.raises(ValueError, match="update must be"):
        RTRL(network, weights, [chunk], 0.1, update="epoch")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"same axis K .*'weight_hh': 1"):
        RTRL(network, weights | {"weight_hh": weights["weight_hh"][:1]}, [chunk], 0.1)
    for wrong in (
        chunk._replace(inputs=np.ones((2, 4, 5, 3))),
        chunk._replace(targets=np.ones((2, 4, 5, 3))),
        chunk._replace(mask=np.ones((2, 4, 5), bool)),
        chunk._replace(inputs=np.zeros((3, 4, 5), int)),
    ):
        with pytest.raises(ValueError, match="a chunk must be symbols"):
            next(RTRL(network, weights, [wrong], 0.1))
    nets = TwoNets(symbols=3)
    with pytest.raises(ValueError, match="depth must be"):
        Chunking(nets, stacked(nets, 2, 0), [chunk], 0.1, depth=-1)
    x, targets, _ = a_class_to_remember(np.random.default_rng(0), 4)
    options = {"right": within(0.2), "cap": 10}
    for inputs, wanted in ((x[0], targets), (x, targets[:2])):
        with pytest.raises(ValueError, match="inputs must be"):
            search(Guessed(), [mt.Generator(0)], inputs, wanted, **options)
    with pytest.raises(ValueError, match="must be positive"):
        search(Guessed(), [mt.Generator(0)], x, targets, right=within(0.2), cap=0)
