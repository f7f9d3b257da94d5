"""The embedded Reber grammar: its strings against a regular expression, its lengths, its faults."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import microtensor as mt
from tasks import reber
from tasks.reber import EMBEDDED, END, REBER, SYMBOLS, draw, state_after, successors

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


def test_quick_passes_its_check_and_draws_the_same_again(tasks_cli: Callable[[str], Any]) -> None:
    done = tasks_cli("run reber --preset quick --check --json --no-plots")
    assert done.code == 0
    assert "TP  B" in done.stderr
    again = tasks_cli("run reber --preset quick --check --json --no-plots")
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
    assert tasks_cli("run reber --preset quick --check --no-plots").code == 1


def test_check_fails_on_loaded_coins(
    tasks_cli: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fair = mt.Generator.integers

    def loaded(self: Any, low: int, high: int, shape: Any) -> Any:
        return fair(self, 0, 5, shape) // 2 % 2  # 0 three times in five

    monkeypatch.setattr(mt.Generator, "integers", loaded)
    assert tasks_cli("run reber --preset quick --check --no-plots").code == 1
