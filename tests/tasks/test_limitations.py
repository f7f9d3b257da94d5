"""The limitations of the 1997 network: data, verdicts, what gates cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import microtensor as mt
from models.lstm1997 import Network
from tasks import limitations as experiment
from tasks.harness import Run, Trial
from tasks.limitations import SYMBOLS, Ago, LimitationsSettings, Order, Parity, tries
from tasks.temporal_order import LONGEST, PLACES, SHORTEST
from tasks.work import Work

# -- the data


@given(seed=st.integers(0, 2**30), steps=st.sampled_from([10, 20, 35, 100]))
def test_the_two_marked_symbols_stand_where_they_may(seed: int, steps: int) -> None:
    """And both targets are what they say: the order, and whether they differ."""
    orders = Order(steps, different=False).draw(mt.Generator(seed), 20)
    different = Order(steps, different=True).draw(mt.Generator(seed), 20)
    np.testing.assert_array_equal(orders.inputs, different.inputs)
    tenth = steps // 10
    assert orders.lengths is not None
    for x, length, number, [target] in zip(
        orders.inputs, orders.lengths, orders.targets, different.targets, strict=True
    ):
        assert steps <= length <= steps + tenth
        text = "".join(SYMBOLS[symbol] for symbol in x[:length])
        assert (text[0], text[-1]) == ("E", "B")
        (first, one), (second, other) = [(i, s) for i, s in enumerate(text) if s in "XY"]
        assert tenth <= first <= steps // 5
        assert steps // 2 <= second <= steps // 2 + tenth
        assert one + other == ("XX", "XY", "YX", "YY")[number]
        assert target == (one != other)
        assert set(text[1:-1]) <= set("abcdXY")


def test_with_100_steps_they_are_those_of_experiment_6a() -> None:
    """The lengths and places of another file."""
    drawn = Order(100, different=False).draw(mt.Generator(0), 5000)
    assert drawn.lengths is not None
    assert set(drawn.lengths) == set(range(SHORTEST, LONGEST + 1))
    places = np.sort(np.nonzero(np.isin(drawn.inputs, (4, 5)))[1].reshape(5000, 2), axis=1)
    for column, (first, last) in zip(places.T, PLACES["6a"], strict=True):
        assert (column.min(), column.max()) == (first, last)


@given(seed=st.integers(0, 2**30), steps=st.sampled_from([1, 7, 500]))
def test_parity_is_that_of_the_steps_there_are(seed: int, steps: int) -> None:
    """By multiplying: minus one to the power of the ones."""
    drawn = Parity(steps).draw(mt.Generator(seed), 10)
    assert drawn.lengths is not None
    for x, length, [target] in zip(drawn.inputs[..., 0], drawn.lengths, drawn.targets, strict=True):
        assert steps <= length <= steps + steps // 5
        assert set(x[:length]) <= {-1.0, 1.0}
        assert (x[length:] == 0).all()
        assert np.prod(-x[:length]) == (-1 if target else 1)


@given(seed=st.integers(0, 2**30), pair=st.sampled_from(experiment.PAIRS))
def test_the_signal_was_so_many_steps_ago(seed: int, pair: tuple[int, int]) -> None:
    """Once, and never at the beginning of all sequences alike."""
    drawn = Ago(*pair).draw(mt.Generator(seed), 64)
    assert drawn.lengths is not None
    for x, length, [target] in zip(drawn.inputs[..., 0], drawn.lengths, drawn.targets, strict=True):
        assert np.flatnonzero(x).tolist() == [length - 1 - pair[int(target)]]
        assert x.max() == 1
    assert len(set(drawn.lengths)) > 3


@pytest.mark.parametrize("source", [Order(20, True), Parity(20), Ago(3, 11)])
def test_both_answers_are_as_frequent(source: Any) -> None:
    assert source.draw(mt.Generator(2), 20_000).targets.mean() == pytest.approx(0.5, abs=0.02)


# -- what gates cost


@pytest.mark.parametrize(("blocks", "size", "inputs"), [(1, 1, 1), (3, 2, 4), (100, 1, 1)])
def test_the_factor_is_that_of_the_formula(blocks: int, size: int, inputs: int) -> None:
    """(n + 2 B) (I + n + 2 B) over n (I + n): below 9, and nearly so where all have gates."""
    n = blocks * size
    exact = (n + 2 * blocks) * (inputs + n + 2 * blocks) / (n * (inputs + n))
    found = experiment.factor(blocks, size, inputs)
    assert found == pytest.approx(exact, rel=1e-12)
    assert found < 9
    assert (found > 8.9) == (blocks == 100)
    assert Network(inputs=inputs, blocks=blocks, size=size, outputs=1, biases="none").count > n


# -- what is tried


def test_each_try_differs_in_what_its_title_says() -> None:
    settings = LimitationsSettings()
    found = tries(settings)
    one = found["xor"]
    assert one.network.truncated
    assert one.network.initial == 0.1
    assert one.network == found["xor_modern"].network
    assert not found["xor_full"].network.truncated
    assert found["xor_wide"].network.initial == found["ago_3_11"].network.initial == 2.0
    assert (found["order"].network.outputs, one.network.outputs) == (4, 1)
    assert set(tries(LimitationsSettings(parts=("parity",)))) == {"parity", "parity_guess"}
    for name, long in (("xor", False), ("parity", True), ("ago_99_100", True), ("ago_9_10", False)):
        cap = experiment.problem(settings, found[name]).cap
        assert cap == (settings.cap_long if long else settings.cap)


def test_guessing_finds_a_network_for_parity() -> None:
    """Right on the parities of another hundred sequences, too."""
    settings = LimitationsSettings(parts=("parity",), parity_steps=20, guesses=20_000, exam=100)
    [trial] = experiment.train(Work(settings, variant="parity_guess"))
    assert trial.values["solved"]
    assert 1 < trial.values["solved_sequences"] < 20_000
    assert trial.values["solved_wrong"] == 0


# -- the verdicts


def made_up(solved: dict[str, bool]) -> Run:
    """A run in which these variants are solved by all trials, and others by none."""
    settings = LimitationsSettings()
    trials = []
    for name in tries(settings):
        done = solved.get(name, False)
        values = {"solved": done, "solved_sequences": 7000, "solved_wrong": 0 if done else 1280}
        trials += [Trial(k, values, variant=name) for k in range(10)]
    return Run(settings, "document", 0, "numpy", tuple(trials), ())


def test_verdicts_follow_the_papers_words() -> None:
    """What it says can be done is to be done, and what it says cannot is not."""
    can = ("order", "parity_guess", "ago_3_11")
    cannot = ("xor", "parity", "ago_99_100")
    titles = {name: one.title for name, one in tries(LimitationsSettings()).items()}
    as_said = {row.name: row.ok for row in experiment.rows(made_up(dict.fromkeys(can, True)))}
    other = {row.name: row.ok for row in experiment.rows(made_up(dict.fromkeys(cannot, True)))}
    for name, title in titles.items():
        row = f"{title}: trials that succeed"
        said = None if name not in (*can, *cannot) else True
        assert as_said[row] is said
        assert other[row] is (None if said is None else False)
    assert f"{titles['parity_guess']}: guesses until success, mean" in as_said


def test_quick_and_a_planted_fault(tasks_cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the data and the weights are judged; parities of the first half only are seen."""
    words = "run limitations --preset quick --json --check --parts parity counting"
    done = tasks_cli(words)
    assert done.code == 0, done.stderr
    judged = [row["name"] for row in done.json["rows"] if row["ok"] is not None]
    assert len(judged) == 3
    figures = sorted(path.stem for path in done.out.rglob("*.png"))
    assert figures == ["learning_curves", "solved", "weights"]
    right = Parity.draw

    def wrong(self: Any, generator: mt.Generator, count: int) -> Any:
        drawn = right(self, generator, count)
        return drawn._replace(targets=drawn.targets * (drawn.inputs[:, 0] > 0))

    monkeypatch.setattr(Parity, "draw", wrong)
    failed = tasks_cli(f"{words} --no-plots".replace("parity counting", "parity"))
    assert failed.code == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--parts xor xor", "parts must name one or more, each once"),
        ("--xor-steps 9", "xor_steps must be at least 10; got 9"),
        ("--cell lstn", "no cell is called 'lstn'; did you mean 'lstm'?"),
        ("--cap-long 0", "cap_long must be at least 1; got 0"),
    ],
)
def test_bad_settings_are_one_line(tasks_cli: Any, words: str, says: str) -> None:
    done = tasks_cli(f"run limitations {words}")
    assert done.code == 2
    assert says in done.stderr
