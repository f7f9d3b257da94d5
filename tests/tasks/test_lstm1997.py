"""The network of 1997, and the harness that trains it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import microtensor as mt
from models.lstm1997 import Network
from tasks.online import (
    WINDOW,
    Drawn,
    Look,
    Modern,
    Problem,
    Stage,
    all_right,
    count_wrong,
    fit,
    fit_modern,
)
from tasks.work import Hooks, Interrupted, Work

GATES = Network(inputs=7, blocks=4, size=1, outputs=7, biases="gates")
COUNTS = {
    264: GATES,
    276: Network(inputs=7, blocks=3, size=2, outputs=7, biases="gates"),
    10504: Network(
        inputs=101,
        blocks=1,
        size=1,
        outputs=101,
        biases="none",
        connectivity="B",
        gated=False,
        squashing="none",
    ),
    102: Network(inputs=1, blocks=3, size=1, outputs=1, biases="hidden"),
    93: Network(inputs=2, blocks=2, size=2, outputs=1),
    156: Network(inputs=8, blocks=2, size=2, outputs=4),
    308: Network(inputs=8, blocks=3, size=2, outputs=8),
} | {
    count: Network(inputs=p + 4, blocks=2, size=1, outputs=2, biases="none")
    for p, count in ((50, 364), (100, 664), (200, 1264), (500, 3064), (1000, 6064))
}


@pytest.mark.parametrize("count", COUNTS)
def test_the_papers_weight_counts(count: int) -> None:
    """Tables 1 to 9 and 11, column "#weights"."""
    network = COUNTS[count]
    assert network.count == count
    module = network.module(network.first_weights(mt.Generator(0)))
    assert sum(parameter.size for parameter in module.parameters()) == count


def sigma(x: Any) -> Any:
    """The logistic function."""
    return 1 / (1 + np.exp(-x))


def accumulated(network: Network, weights: dict[str, Any], x: Any, targets: Any) -> dict[str, Any]:
    """The truncated gradient of 1/2 the squared error, by appendix A.1: forward, step by step.

    ds/dw is carried along for the cells' and the input gates' weights; nothing goes back in time.
    Returned by the names of `weights`, for connectivity F with logistic outputs.
    """
    blocks, size, cells = network.blocks, network.size, network.cells
    biased = network.cell.biased
    rows = {"i": slice(0, blocks), "g": slice(blocks, blocks + cells)}
    rows["o"] = slice(blocks + cells, 2 * blocks + cells)
    w = np.concatenate([weights["weight_ih"], weights["weight_hh"]], 1)
    bias = np.zeros(len(w))
    at = 0
    for gate in biased:
        width = rows[gate].stop - rows[gate].start
        bias[rows[gate]] = weights["bias_ih"][at : at + width]
        at += width
    low, high = {"text": (2, 1), "table": (1, 2)}[network.squashing]  # g in ±low, h in ±high
    of = np.arange(cells) // size  # the block of each cell
    y, y_in, y_out, s = np.zeros(cells), np.zeros(blocks), np.zeros(blocks), np.zeros(cells)
    ds_in, ds_cell = (np.zeros((cells, w.shape[1] + 1)) for _ in range(2))
    d_w, d_bias = np.zeros_like(w), np.zeros(len(w))
    d_readout = np.zeros_like(weights["readout_weight"])
    d_readout_bias = np.zeros(len(d_readout))
    for x_t, target in zip(x, targets, strict=True):
        z = np.concatenate([x_t, y, y_in, y_out, [1.0]])
        net = w @ z[:-1] + bias
        y_in, y_out = sigma(net[rows["i"]]), sigma(net[rows["o"]])
        g_prime = sigma(net[rows["g"]])
        g = low * (2 * g_prime - 1)
        g_prime = 2 * low * g_prime * (1 - g_prime)
        s = s + y_in[of] * g
        h = high * (2 * sigma(s) - 1)
        h_prime = 2 * high * sigma(s) * (1 - sigma(s))
        y = y_out[of] * h
        ds_cell += (g_prime * y_in[of])[:, None] * z
        ds_in += (g * (y_in * (1 - y_in))[of])[:, None] * z
        out = sigma(weights["readout_weight"] @ y + weights.get("readout_bias", 0))
        e = out * (1 - out) * (out - target)
        d_readout += np.outer(e, y)
        d_readout_bias += e
        back = weights["readout_weight"].T @ e
        e_s = y_out[of] * h_prime * back
        e_out = np.bincount(of, h * back, blocks) * y_out * (1 - y_out)
        for gate, d in (
            ("o", np.outer(e_out, z)),
            ("g", e_s[:, None] * ds_cell),
            ("i", np.add.reduceat(e_s[:, None] * ds_in, np.arange(0, cells, size), 0)),
        ):
            d_w[rows[gate]] += d[:, :-1]
            d_bias[rows[gate]] += d[:, -1]
    split = weights["weight_ih"].shape[1]
    found = {"weight_ih": d_w[:, :split], "weight_hh": d_w[:, split:]}
    found |= {"readout_weight": d_readout, "readout_bias": d_readout_bias}
    found["bias_ih"] = np.concatenate([d_bias[:0], *[d_bias[rows[gate]] for gate in biased]])
    return {name: found[name] for name in weights}


@given(
    seed=st.integers(0, 2**20),
    blocks=st.integers(1, 3),
    size=st.integers(1, 3),
    steps=st.integers(1, 9),
    biases=st.sampled_from(["none", "gates", "hidden", "all"]),
    squashing=st.sampled_from(["text", "table"]),
)
def test_the_truncated_gradient_is_that_of_the_papers_forward_accumulators(
    seed: int, blocks: int, size: int, steps: int, biases: Any, squashing: Any
) -> None:
    """Appendix A.1 against microtensor's backward pass, to 1e-10."""
    network = Network(
        inputs=3,
        blocks=blocks,
        size=size,
        outputs=2,
        biases=biases,
        squashing=squashing,
        initial=1.0,
    )
    generator = mt.Generator(seed)
    weights = network.first_weights(generator, np.float64)
    x = generator.uniform(-1.0, 1.0, (steps, 3), np.float64)
    targets = generator.uniform(0.0, 1.0, (steps, 2), np.float64)
    module = network.module(weights)
    out, _ = module(mt.tensor(x[:, None]))
    (((out[:, 0] - mt.tensor(targets)) ** 2).sum() * 0.5).backward()
    own = {name.removeprefix("layer.").removesuffix("_l0"): p for name, p in
           module.named_parameters()}  # fmt: skip
    for name, gradient in accumulated(network, weights, x, targets).items():
        np.testing.assert_allclose(own[name].grad.numpy(), gradient, rtol=1e-9, atol=1e-10)


# -- the harness -------------------------------------------------------------------------------


class FirstSymbol:
    """Was the first symbol a 1? Learnt within a few hundred sequences."""

    def __init__(self, generator: Any) -> None:
        self.test = self.draw(generator("test"), 20)

    def draw(self, generator: mt.Generator, count: int) -> Drawn:
        """Draw sequences of 3 to 5 symbols."""
        x = generator.integers(0, 2, (count, 5))
        return Drawn(x, x[:, :1].astype(np.float32), generator.integers(3, 6, (count,)))


def all_of_the_test(look: Look) -> bool:
    """Whether all of the test set are."""
    return look.test is not None and bool((look.test.worst < 0.3).all())


PROBLEM = Problem(
    network=Network(inputs=2, blocks=1, size=2, outputs=1, initial=0.5),
    learning_rate=2.0,
    cap=1000,
    looks=25,
    stages=(
        Stage("half", lambda look: look.recent[-25:].mean() < 0.4),
        Stage("all", all_of_the_test),
    ),
    stream=FirstSymbol,
    score=count_wrong(0.3),
    exam=40,
)


@pytest.fixture(autouse=True)
def _arrays() -> Any:
    """No time is spent on compiling."""
    with mt.recurrence.driver("arrays"):
        yield


def test_a_trial_is_the_same_whatever_is_beside_it_and_however_often_it_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Three trials in two lanes, and so again with interruptions, and each alone: to the bit."""
    alone = [fit(Work(None, trials=(n,)), PROBLEM)[0] for n in range(3)]
    assert all(trial.values["all"] for trial in alone)
    assert len({trial.values["all_sequences"] for trial in alone}) > 1  # they finish apart
    monkeypatch.setattr("tasks.online.LANES", 2)
    together = fit(Work(None, trials=(0, 1, 2)), PROBLEM)
    calls = iter(range(10**6))
    hooks = Hooks(stop=lambda: next(calls) % 9 == 5)
    path = tmp_path / "kept.safetensors"
    while True:
        again = Work(None, trials=(0, 1, 2), checkpoint=path, resume=True, hooks=hooks)
        try:
            interrupted = fit(again, PROBLEM)
            break
        except Interrupted:
            continue
    for trials in (together, interrupted):
        for one, other in zip(alone, trials, strict=True):
            assert one.values == other.values
            for name, weight in one.model.items():
                np.testing.assert_array_equal(weight, other.model[name])


def test_stages_are_reached_in_order_and_a_cap_ends_what_fails() -> None:
    """Sequences are counted to the stage; where it was not reached, to the cap."""
    [trial] = fit(Work(None, trials=(5,)), PROBLEM)
    half, whole = (trial.values[f"{name}_sequences"] for name in ("half", "all"))
    assert 25 <= half <= whole <= 1000
    assert trial.values["all_wrong"] <= trial.values["half_wrong"]
    hopeless = PROBLEM.__class__(**{**vars(PROBLEM), "learning_rate": 0.0, "cap": 75})
    [failed] = fit(Work(None, trials=(5,)), hopeless)
    assert (failed.values["half"], failed.values["half_sequences"]) == (False, 75)
    assert failed.values["all_wrong"] > 0


def test_the_last_errors_decide() -> None:
    """`all_right` wants as many as the window holds, the latest last."""
    look = Look(WINDOW, np.full(WINDOW, 0.1), None)
    assert all_right(0.2)(look)
    assert not all_right(0.1)(look)
    assert not all_right(0.2, mean=0.05)(look)
    look.recent[7] = np.inf
    assert not all_right(0.2)(look)
    assert all_right(0.2, but=1)(look)


def test_todays_network_goes_through_the_same_criteria() -> None:
    """Two trials, to the same bits alone, with the columns of `fit`."""
    modern = Modern(hidden_size=4, batch=5, learning_rate=0.05)
    pair = fit_modern(Work(None, trials=(0, 1)), PROBLEM, modern)
    [second] = fit_modern(Work(None, trials=(1,)), PROBLEM, modern)
    [ours] = fit(Work(None, trials=(1,)), PROBLEM)
    assert second.values == pair[1].values
    assert second.values.keys() == ours.values.keys()
    assert second.values["all"]
    assert second.values["all_wrong"] == 0
