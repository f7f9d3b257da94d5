"""The learning rule of 1997, and the harness that trains its networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import microtensor as mt
from models.forward_accumulators import accumulated
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


def test_a_probe_decides_whether_the_test_set_is_shown() -> None:
    """`due` sees the probe, the criteria see both; in today's network, too."""

    class WithProbe(FirstSymbol):
        def __init__(self, generator: Any) -> None:
            super().__init__(generator)
            self.probe = self.draw(generator("probe"), 3)

    asked: list[tuple[int, bool]] = []

    def due(look: Look) -> bool:
        assert look.test is None
        assert look.probe is not None
        assert look.probe.outputs.shape == (3, 1)
        asked.append((look.seen, bool((look.probe.worst < 0.3).all())))
        return asked[-1][1]

    def reached(look: Look) -> bool:
        assert (look.test is not None) == asked[-1][1]
        return all_of_the_test(look)

    chosen = {"stream": WithProbe, "due": due, "stages": (Stage("all", reached),), "score": None}
    problem = Problem(**{**vars(PROBLEM), **chosen})
    modern = Modern(hidden_size=4, batch=5, learning_rate=0.05)
    for train in (fit, lambda work, problem: fit_modern(work, problem, modern)):
        asked.clear()
        [trial] = train(Work(None, trials=(4,)), problem)
        assert trial.values["all"]
        assert asked[-1] == (trial.values["all_sequences"], True)
        assert not asked[0][1]


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
