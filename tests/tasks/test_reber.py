"""The embedded Reber grammar: its strings, when a network has learnt it, and the verdicts."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import microtensor as mt
from tasks import online, reber
from tasks.harness import Run, Trial
from tasks.online import Generators, Look
from tasks.reber import (
    EMBEDDED,
    END,
    REBER,
    SYMBOLS,
    Pair,
    ReberSettings,
    draw,
    encode,
    right,
    sets,
    state_after,
    successors,
)
from tasks.work import Work

QUICK = "run reber --preset quick --rows 1-1 --readings text --check --no-plots"
FROM_4 = "(?:XT*VP)*(?:XT*VV|S)E"
INNER = f"B(?:TS*X{FROM_4}|PT*V(?:P{FROM_4}|VE))"
WHOLE = {"inner": INNER, "embedded": f"B(?:T{INNER}T|P{INNER}P)E"}
GRAMMARS = {"inner": REBER, "embedded": EMBEDDED}


@given(
    name=st.sampled_from(sorted(GRAMMARS)),
    seed=st.integers(0, 2**32 - 1),
    place=st.integers(0, 99),
    symbol=st.sampled_from(["", *SYMBOLS]),
)
def test_strings_are_those_of_a_regular_expression(
    name: str, seed: int, place: int, symbol: str
) -> None:
    grammar = GRAMMARS[name]
    string = next(draw(grammar, mt.Generator(seed)))
    assert re.fullmatch(WHOLE[name], string)
    place %= len(string)
    changed = string[:place] + symbol + string[place + 1 :]
    for one in (string, changed, string + symbol, string[:place]):
        accepted = state_after(grammar, one) == END
        assert accepted == bool(re.fullmatch(WHOLE[name], one)), one


@given(seed=st.integers(0, 2**32 - 1))
def test_what_follows_is_among_the_successors_and_nothing_else_can(seed: int) -> None:
    string = next(draw(EMBEDDED, mt.Generator(seed)))
    for n in range(len(string)):
        follow = successors(EMBEDDED, string[:n])
        assert string[n] in follow
        assert len(follow) in (1, 2)
        for symbol in set(SYMBOLS) - set(follow):
            assert state_after(EMBEDDED, string[:n] + symbol) is None
            with pytest.raises(ValueError, match="no string of the grammar begins with"):
                successors(EMBEDDED, string[:n] + symbol)
    assert successors(EMBEDDED, string) == ""
    assert successors(EMBEDDED, string[:-2]) == string[1], "only the second symbol tells it"
    assert successors(EMBEDDED, string[:1]) == "TP"


def test_lengths_are_as_probable_as_counting_says() -> None:
    shares = reber.share_by_length(EMBEDDED, reber.LONGEST)
    assert shares[:13].tolist() == [0.0] * 9 + [1 / 4, 3 / 16, 1 / 8, 7 / 64]
    assert shares.sum() == pytest.approx(1.0, abs=1e-12)
    assert shares @ np.arange(reber.LONGEST + 1) == pytest.approx(12.0, abs=1e-9)
    # Every one of the two ways has probability 1/2: list all strings of the grammar up to 8.
    inner = dict.fromkeys(range(9), 0.0)
    for choices in itertools.product((0, 1), repeat=6):
        left, state, length = list(choices), "0", 0
        while state:
            ways = list(REBER[state].values())
            if len(ways) == 2 and not left:
                break
            state = ways[left.pop() if len(ways) == 2 else 0]
            length += 1
        if not state and length <= 8:
            inner[length] += 2.0**-6
    assert [inner[n] for n in range(5, 9)] == shares[9:13].tolist()


# -- what a network is shown, and when it is right ---------------------------------------------


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), distinct=st.booleans())
def test_no_test_string_is_a_training_string(seed: int, distinct: bool) -> None:
    training, test = sets(mt.Generator(seed), distinct)
    assert len(training) == len(test) == 256
    assert (len(set(training)) == 256) == distinct
    assert not set(training) & set(test)
    pair = Pair(mt.Generator(seed), distinct)
    drawn = pair.draw(mt.Generator(seed + 1), 20)
    for x, target, length in zip(drawn.inputs, drawn.targets, drawn.lengths, strict=True):
        string = "".join(SYMBOLS[i] for i in [*x[:length], target[length - 1]])
        assert string in training
        assert target[: length - 1].tolist() == x[1:length].tolist()
    assert len(pair.test.inputs) == 512
    assert len(pair.probe.inputs) == 64


def outputs_of_one_who_knows(strings: list[str]) -> np.ndarray:
    """(N, T, 7): 0.4 for what may follow, 0.3 for all else, and nonsense behind the end."""
    outputs = np.full((len(strings), max(map(len, strings)) - 1, 7), np.nan, np.float32)
    for own, string in zip(outputs, strings, strict=True):
        for t in range(len(string) - 1):
            follow = successors(EMBEDDED, string[: t + 1])
            own[t] = [0.4 if symbol in follow else 0.3 for symbol in SYMBOLS]
    return outputs


@given(
    seed=st.integers(0, 2**32 - 1),
    place=st.integers(0, 10**6),
    unit=st.integers(0, 6),
    value=st.sampled_from([0.2, 0.3, 0.35, 0.4, 0.5, np.nan]),
)
def test_right_is_who_has_the_legal_symbols_on_top(
    seed: int, place: int, unit: int, value: float
) -> None:
    """A step is wrong as soon as a symbol that may not follow is not below all that may."""
    strings = list(itertools.islice(draw(EMBEDDED, mt.Generator(seed)), 4))
    outputs, drawn = outputs_of_one_who_knows(strings), encode(strings)
    assert right(online.Tested(drawn, np.zeros(4), outputs)).all()
    n = place % 4
    t = place // 4 % (len(strings[n]) - 1)
    outputs[n, t, unit] = value
    found = right(online.Tested(drawn, np.zeros(4), outputs))
    legal = SYMBOLS[unit] in successors(EMBEDDED, strings[n][: t + 1])
    assert found[n, t] == (value > 0.3 if legal else value < 0.4)
    found[n, t] = True
    assert found.all()


def test_criteria_want_all_strings_and_the_inner_grammar_all_but_one_step() -> None:
    strings = list(itertools.islice(draw(EMBEDDED, mt.Generator(3)), 6))
    drawn, outputs = encode(strings), outputs_of_one_who_knows(strings)
    assert reber.score(online.Tested(drawn, np.zeros(6), outputs)) == {"wrong": 0, "wrong_outer": 0}

    def judged(test: Any) -> tuple[bool, ...]:
        tested = online.Tested(drawn, np.zeros(6), test)
        look = Look(100, np.zeros(2000), tested, tested)
        assert reber.all_of_the_probe(look) == reber.all_of_both(look)
        return reber.all_but_the_outer(look), reber.all_of_both(look)

    assert judged(outputs) == (True, True)
    outer = SYMBOLS.index(strings[2][1])
    outputs[2, len(strings[2]) - 3, outer] = 0.1  # the symbol before the last one, not foretold
    assert judged(outputs) == (True, False)
    assert reber.score(online.Tested(drawn, np.zeros(6), outputs)) == {"wrong": 1, "wrong_outer": 1}
    outputs[4, 0] = 0.0
    assert judged(outputs) == (False, False)
    assert reber.score(online.Tested(drawn, np.zeros(6), outputs)) == {"wrong": 2, "wrong_outer": 1}
    assert not reber.all_of_both(Look(100, np.zeros(2000), None, None))


def test_ten_trials_share_a_pair_and_see_it_in_orders_of_their_own() -> None:
    work = Work(ReberSettings(), trials=tuple(range(30)))
    pairs = [Pair(work.generator("pair", i, trial=0), False) for i in range(3)]
    stream = reber.problem(work.settings, "1-3_table10_step", pairs).stream
    own = [stream(Generators(work, number)) for number in range(30)]
    assert [own.count(pair) for pair in pairs] == [10, 10, 10]
    orders = [
        own[number].draw(Generators(work, number)("data", 0), 50).inputs.tobytes()
        for number in range(30)
    ]
    assert len(set(orders)) == 30


def test_a_change_is_the_only_one() -> None:
    """Without output gates, or by the cross-entropy: all else is as in line 1-3."""
    for reading in ("", "_table10_step"):
        plain, *others = (
            vars(reber.problem(ReberSettings(), f"{row}{reading}", []))
            for row in ("1-3", "no_output_gates", "cross_entropy")
        )
        changed = [{name for name in plain if plain[name] != other[name]} for other in others]
        assert changed == [{"network", "stream"}, {"loss", "stream"}]
        assert not others[0]["network"].gated


def made_up(solved: int, sequences: int, ungated: int) -> Run:
    """A run of line 1-3, with so many of 10 trials solved, all after so many sequences."""
    given = ReberSettings(
        trials=10, strings=400, rows=("1-3", "no_output_gates"), readings=("text",)
    )
    work = Work(given, trials=tuple(range(10)))
    trials = [
        Trial(t.number, t.values, arrays=t.arrays, variant="grammar")
        for t in (reber.draw_strings(work, number) for number in range(10))
    ]
    for variant, count in (("1-3", solved), ("no_output_gates", ungated)):
        for k in range(10):
            values = {"inner": True, "inner_sequences": 5000, "inner_wrong": 1200}
            values |= {"solved": k < count, "solved_wrong": 0 if k < count else 1200}
            values["solved_sequences"] = sequences if k < count else 100_000
            trials.append(Trial(k, values, variant=variant))
    return Run(given, "document", 0, "numpy", tuple(trials), ())


def test_verdicts_follow_the_paper() -> None:
    """Six in ten, four times the paper's sequences; nothing is faster without output gates."""
    some = "1-3, 3x2, rate 0.2: trials that succeed"
    soon = "1-3, 3x2, rate 0.2: sequences until success, mean"
    gates = "1-3: without output gates, times as many sequences"

    def verdicts(*of: int) -> dict[str, Any]:
        return {row.name: row.ok for row in reber.rows(made_up(*of))}

    good = verdicts(6, 56_000, 0)
    assert good[some] is good[soon] is good[gates] is True
    assert all(ok is not False for ok in good.values())
    bad = verdicts(5, 57_000, 9)
    assert bad[some] is bad[soon] is bad[gates] is False
    none = verdicts(0, 0, 0)
    assert soon not in none
    assert none[gates] is None  # where nothing is learnt nothing can be said
    line = reber.printout(made_up(6, 14_000, 0)).splitlines()[1]
    for cell in ("1-3, 3x2, rate 0.2", "14,060", "14,000 … 14,000", "6 of 10"):
        assert cell in line


def test_quick_passes_its_check_and_draws_the_same_again(tasks_cli: Callable[[str], Any]) -> None:
    done = tasks_cli(f"{QUICK} --json")
    assert done.code == 0
    assert "TP  B" in done.stderr
    again = tasks_cli(f"{QUICK} --json")
    assert again.json["rows"] == done.json["rows"]
    assert tasks_cli("run reber --strings 0").code == 2


def forgets_the_second(grammar: Mapping[str, Mapping[str, str]]) -> Any:
    found = {state: dict(follow) for state, follow in grammar.items()}
    found["T"], found["P"] = {"P": "last"}, {"T": "last"}
    return found


def one_edge_wrong(grammar: Mapping[str, Mapping[str, str]]) -> Any:
    return {**grammar, "T4": {"X": "T3", "V": "T6"}}


@pytest.mark.parametrize("fault", [forgets_the_second, one_edge_wrong])
def test_check_fails_on_a_wrong_grammar(
    tasks_cli: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, fault: Callable[..., Any]
) -> None:
    right = EMBEDDED
    if fault is one_edge_wrong:  # what is drawn is wrong, and the judge knows better
        monkeypatch.setattr(
            reber, "draw", lambda grammar, generator: draw(fault(grammar), generator)
        )
    else:
        monkeypatch.setattr(reber, "EMBEDDED", fault(right))
    assert tasks_cli(QUICK).code == 1


def test_check_fails_on_loaded_coins(
    tasks_cli: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fair = mt.Generator.integers

    def loaded(self: Any, low: int, high: int, shape: Any) -> Any:
        return fair(self, 0, 5, shape) // 2 % 2  # 0 three times in five

    monkeypatch.setattr(mt.Generator, "integers", loaded)
    assert tasks_cli(QUICK).code == 1
