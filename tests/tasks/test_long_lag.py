"""Experiment 2 of the 1997 paper: its data, when its cell is added, its verdicts."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import microtensor as mt
from tasks import long_lag, online
from tasks.harness import Run, Trial
from tasks.long_lag import FirstIsLast, LongLagSettings, RandomLag, RandomMiddle, TwoSequences
from tasks.online import Drawn, Lane, Look, Problem, fit
from tasks.work import Work

SMALL = LongLagSettings(trials=1, rows=("2a", "2a_start", "2b"), p=3, cap=1600)


@given(seed=st.integers(0, 2**30), p=st.integers(2, 20), random=st.booleans(), end=st.booleans())
def test_sequences_end_as_they_begin(seed: int, p: int, random: bool, end: bool) -> None:
    """x or y, p - 1 others, in order or random, the first again; targets are what comes next."""
    drawn = FirstIsLast(p, random=random, end=end).draw(mt.Generator(seed), 9)
    first, middle = drawn.inputs[:, 0], drawn.inputs[:, 1:]
    assert drawn.inputs.shape == (9, p)
    assert set(first) <= {p - 1, p}
    assert ((middle >= 0) & (middle < p - 1)).all()
    if not random:
        np.testing.assert_array_equal(middle, [range(p - 1)] * 9)
    if end:
        np.testing.assert_array_equal(drawn.targets, first)
    else:
        np.testing.assert_array_equal(drawn.targets, np.c_[middle, first])


def test_what_2a_and_2b_are_tested_on() -> None:
    """The two sequences; and last steps of random ones, whatever the targets in training."""
    both = TwoSequences(4).exam(mt.Generator(0), 99)
    np.testing.assert_array_equal(both.inputs, [[3, 0, 1, 2], [4, 0, 1, 2]])
    np.testing.assert_array_equal(both.targets, [[0, 1, 2, 3], [0, 1, 2, 4]])
    stream = RandomMiddle(lambda *block: mt.Generator(1), 4)
    assert stream.draw(mt.Generator(0), 5).targets.shape == (5, 4)
    assert stream.test.targets.shape == (long_lag.TEST,)
    assert stream.exam(mt.Generator(0), 7).targets.shape == (7,)


@given(seed=st.integers(0, 2**30), q=st.integers(1, 30), p=st.integers(1, 30))
def test_sequences_of_2c_are_those_of_the_paper(seed: int, q: int, p: int) -> None:
    """b, x or y, q distractors of p kinds or more, e; the class is which of x and y."""
    drawn = RandomLag(q, p).draw(mt.Generator(seed), 20)
    names = {p: "e", p + 1: "b", p + 2: "x", p + 3: "y"}
    for x, length, number in zip(drawn.inputs, drawn.lengths, drawn.targets, strict=True):
        text = "".join(names.get(int(symbol), "a") for symbol in x[:length])
        assert text[:2] == "b" + "xy"[number]
        assert text[2:] == "a" * (length - 3) + "e"
        assert length - 3 >= q


def test_more_distractors_come_with_probability_nine_tenths() -> None:
    """So there are none with 1/10, nine in the mean, and a sequence has q + 13 symbols."""
    drawn = RandomLag(5, 3).draw(mt.Generator(0), 40_000)
    more = drawn.lengths - 8
    for k in range(4):
        assert np.mean(more == k) == pytest.approx(0.1 * 0.9**k, abs=0.006)
    assert more.mean() == pytest.approx(9.0, abs=0.2)
    assert np.bincount(drawn.inputs[:, 3]) == pytest.approx([40_000 / 3] * 3, rel=0.05)


# -- the cell that is added later


def lane(network: Any, losses: list[float], memory: dict[str, Any], seen: int) -> Lane:
    """A trial of which these were the last losses."""
    weights = network.first_weights(mt.Generator(1))
    masks = {
        name: np.broadcast_to(mask, weights[name].shape).copy()
        for name, mask in long_lag.without_cell(network).items()
    }
    look = Look(seen, np.zeros(1), None)
    return Lane(look, np.array(losses), weights, masks, memory, lambda *block: mt.Generator(2))


@given(before=st.floats(0.1, 10), falls=st.floats(0.5, 1.5).filter(lambda f: abs(f - 0.99) > 1e-6))
def test_the_cell_is_added_when_the_error_has_stopped_decreasing(
    before: float, falls: float
) -> None:
    """By less than one percent from look to look; and not at the first."""
    network, memory = long_lag.network_2a(5), {}
    long_lag.grow(lane(network, [before] * 4, memory, 200))
    assert memory["cell_added"] == 0
    second = lane(network, [before * falls - 0.01, before * falls + 0.01], memory, 400)
    assert not second.weights["weight_ih"].any()
    assert not second.weights["readout_weight"][:, 0].any()
    long_lag.grow(second)
    assert memory["cell_added"] == (400 if falls > 0.99 else 0)
    drawn = np.r_[second.weights["weight_ih"].ravel(), second.weights["readout_weight"][:, 0]]
    assert drawn.all() == second.masks["weight_ih"].all() == (falls > 0.99)
    assert np.abs(drawn).max() <= 0.2


def test_before_that_the_cell_learns_nothing_and_is_not_read() -> None:
    """Trained with a hundred sequences, the cell's weights are still 0; the others are not as they
    were. Then it is there, and learns."""
    chosen = long_lag.problem(SMALL, "2a")
    kept: list[dict[str, np.ndarray]] = []

    def look_in(one: Lane) -> None:
        long_lag.grow_and_watch(one)
        kept.append({name: array.copy() for name, array in one.weights.items()})
        kept[-1]["added"] = np.array(one.memory["cell_added"])

    with mt.recurrence.driver("arrays"):
        [trial] = fit(Work(SMALL, "2a"), dataclasses.replace(chosen, adapt=look_in))
    without = [one for one in kept if not one["added"]]
    assert without
    for one in without:
        assert not one["weight_ih"].any()
        assert not one["readout_weight"][:, 0].any()
    assert (np.diff([one["readout_weight"][:, 1:] for one in without], axis=0) != 0).any()
    added = int(trial.values["cell_added"])
    assert added == len(without) * long_lag.LOOKS + long_lag.LOOKS
    assert (trial.model["weight_ih"] != 0).any()
    assert trial.arrays["trace"].shape == (len(kept) - len(without), 3)
    assert trial.arrays["trace"][:, 0].tolist() == [
        long_lag.LOOKS * k for k in range(len(kept) - len(without))
    ]


@given(seed=st.integers(0, 2**20))
def test_the_states_that_are_watched_are_the_networks(seed: int) -> None:
    """The sum of what the gate lets in, as the module has it."""
    network = long_lag.network_2a(6, later=False)
    weights = network.first_weights(mt.Generator(seed))
    symbols = TwoSequences(6).both().inputs
    module = network.module(weights)
    expected = [module.inside(np.eye(7, dtype=np.float32)[x])["c"][:, 0] for x in symbols]
    np.testing.assert_allclose(long_lag.states(weights, symbols), expected, rtol=1e-5)


# -- the rivals


def test_the_chunkers_trials_do_not_depend_on_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor on the lane, which the third trial takes over from the one that is finished first."""
    settings = LongLagSettings(trials=3, rows=("chunker",), p=2, cap_chunker=400)
    chosen = dataclasses.replace(
        long_lag.problem(settings, "chunker"),
        looks=50,
        stages=(online.Stage("solved", lambda look: look.recent[-1] < 0.5),),
    )
    alone = [fit(Work(settings, "chunker", (n,)), chosen)[0] for n in range(3)]
    assert len({trial.values["solved_sequences"] for trial in alone}) > 1
    monkeypatch.setattr("tasks.online.LANES", 1)  # and so two lanes
    together = fit(Work(settings, "chunker", (0, 1, 2)), chosen)
    for one, other in zip(alone, together, strict=True):
        assert one.values == other.values
        for name, weight in one.model.items():
            np.testing.assert_array_equal(weight, other.model[name])


def test_rivals_are_those_of_table_2() -> None:
    """Their weights, rates, and whether they learn after every step."""
    settings = LongLagSettings()
    found = {name: long_lag.problem(settings, name) for name in long_lag.RIVALS}
    counts = {name: one.network.count for name, one in found.items() if one.learner is None}
    assert counts == {
        "rtrl_4_1": 36, "rtrl_4_4": 36, "rtrl_4_10": 36, "rtrl_10": 144, "rtrl": 10_404,
        "bptt": 10_404,
    }  # fmt: skip
    assert {one.update for name, one in found.items() if name != "bptt"} == {"step"}
    assert found["bptt"].update == "sequence"
    assert [found[f"rtrl_4_{rate}"].learning_rate for rate in (1, 4, 10)] == [1.0, 4.0, 10.0]
    assert not found["chunker_apart"].network.direct
    drawn = found["rtrl_10"].stream(lambda *block: mt.Generator(0)).draw(mt.Generator(0), 3)
    assert drawn.inputs.shape == (3, 10)


def test_no_cap_is_below_the_papers_mean() -> None:
    """Or a trial as slow as the paper's could not succeed."""
    settings = LongLagSettings()
    for line in long_lag.all_lines(settings):
        if line.sequences is not None and "modern" not in line.variant:
            assert long_lag.problem(settings, line.variant).cap > line.sequences, line.name


# -- criteria and verdicts


def test_2b_may_be_judged_by_two_outputs() -> None:
    """An output that predicts a distractor counts in one reading only."""
    outputs = np.array([[0.9, 0.1, 0.9], [0.0, 0.8, 0.1]], np.float32)
    tested = online.Tested(
        Drawn(np.zeros((2, 3), int), np.array([2, 1])), np.array([0.9, 0.2]), outputs
    )
    np.testing.assert_allclose(long_lag.errors_of_two(tested), [0.1, 0.2], rtol=1e-6)
    assert long_lag.score_2b(tested) == {
        "wrong": 1, "mean_error": pytest.approx(0.55), "wrong_by_two": 0,
    }  # fmt: skip


def test_ten_thousand_right_ones_are_not_counted() -> None:
    """In 2c; a trial that fails keeps its number."""
    settings = LongLagSettings(trials=1)
    chosen: Problem = long_lag.problem(settings, "2c_50_50_literal")
    assert not chosen.stages[0].reached(Look(10_000, np.r_[[0.1] * 9_999, 0.3], None))
    assert chosen.stages[0].reached(Look(10_000, np.full(10_000, 0.1), None))
    told = long_lag._told({"solved": True, "solved_sequences": 52_000}, chosen)
    assert told["solved_sequences"] == 42_000
    told = long_lag._told({"solved": False, "solved_sequences": 52_000}, chosen)
    assert told["solved_sequences"] == 52_000


def made_up(**given: Any) -> Run:
    """A run of the document's settings whose trials came to these (solved, sequences)."""
    settings = LongLagSettings(trials=2)
    trials = []
    for variant in long_lag.variants(settings):
        solved, sequences = given.get(variant, ([False, False], [9, 9]))
        for k in range(2):
            values: dict[str, Any] = {"cell_added": 7_000}
            for stage in ("solved", "xy"):
                values |= {stage: solved[k], f"{stage}_sequences": sequences[k]}
            trials.append(Trial(k, values, variant=variant))
    return Run(settings, "document", 0, "numpy", tuple(trials), ())


def verdicts(run: Run) -> dict[str, Any]:
    """The rows' verdicts by name."""
    return {row.name: row.ok for row in long_lag.rows(run)}


def test_verdicts_follow_the_paper() -> None:
    """Four times the paper's mean, one literal line; failure where the cell is abused."""
    both = [True, True]
    good = verdicts(
        made_up(
            **{
                "2a": (both, [20_000, 20_300]),
                "2c_100_100_literal": (both, [100_000, 140_000]),
                "2c_50_50_table10": (both, [130_000, 120_000]),
            }
        )
    )
    assert good["2a, cell added on a plateau: trials that succeed"]
    assert good["2a, cell added on a plateau: sequences until success, mean"]
    assert good["2a, cell there from the start: trials that succeed"]
    assert good["2c, q = 100, p = 100, as printed: sequences until success, mean"]
    assert not good["2c, q = 50, p = 50, ranges of table 10: sequences until success, mean"]
    assert good["2c, q = 50, p = 50, ranges of table 10: trials that succeed"]
    assert not good["2c, q = 50, p = 50, as printed: trials that succeed"]
    assert good["2b, as printed, judged by two outputs, xy: trials that succeed"] is None
    abused = verdicts(made_up(**{"2a_start": (both, [9, 9])}))
    assert not abused["2a, cell there from the start: trials that succeed"]
    assert not abused["2a, cell added on a plateau: trials that succeed"]


def test_trends_are_fitted_to_what_succeeds() -> None:
    """The exponent of q, and the slope of q/p, in which failing counts with the cap."""
    both, cap = [True, True], 400_000
    solved = {f"2c_{q}_{q}_table10": (both, [1000 * math.sqrt(q)] * 2) for q in (50, 100, 200)}
    slow = {f"2c_200_{200 // r}_table10": ([True, False], [30_000 + 9_000 * r, cap])
            for r in (2, 5, 10, 20)}  # fmt: skip
    rows = {row.name: row for row in long_lag.rows(made_up(**solved, **slow))}
    exponent = rows["2c, q/p = 1, ranges of table 10: n in sequences ~ q^n"]
    assert exponent.value == pytest.approx(0.5)
    assert exponent.ok
    assert "2c, q/p = 1, as printed: n in sequences ~ q^n" not in rows
    slope = rows["2c, q = 200, ranges of table 10: sequences more a unit of q/p"]
    assert slope.ok
    assert slope.target == pytest.approx(8_400, rel=0.05)
    every = {f"2c_200_{200 // r}_table10": ([False] * 2, [cap] * 2) for r in (1, 2, 5, 10, 20)}
    nothing = {row.name: row for row in long_lag.rows(made_up(**every))}
    assert not nothing[slope.name].ok


def test_check_fails_on_a_planted_fault(tasks_cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One symbol more, the paper's slip of the pen: the rows on the data see it."""
    right = RandomLag.draw

    def wrong(self: Any, generator: mt.Generator, count: int) -> Drawn:
        drawn = right(self, generator, count)
        longer = np.insert(drawn.inputs, 2, 0, axis=1)
        return drawn._replace(inputs=longer, lengths=drawn.lengths + 1)

    monkeypatch.setattr(RandomLag, "draw", wrong)
    words = "run long_lag --preset quick --rows 2c_50_50 --readings literal --check --no-plots"
    failed = tasks_cli(f"{words} --json")
    assert failed.code == 1
    missed = [row["name"] for row in failed.json["rows"] if row["ok"] is False]
    assert missed == ["2c: symbols of a sequence less q, mean of 10,000 drawn"]


def test_bad_settings_are_refused() -> None:
    """At the door."""
    for wrong, says in (
        ({"q": 19}, "q must be at least 20"),
        ({"p": 1}, "p must be at least 2"),
        ({"p": 10}, "rtrl and rtrl_10 are the same; name one"),
        ({"p": 4}, "rtrl and rtrl_4_1 are the same; name one"),
        ({"rows": ()}, "rows must name one or more"),
        ({"cap_2c": 0}, "cap_2c must be at least 1"),
    ):
        with pytest.raises(ValueError, match=says):
            LongLagSettings(**wrong)
