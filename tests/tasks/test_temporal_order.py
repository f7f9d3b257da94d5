"""Experiment 6 of the 1997 paper: its data, its verdicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import microtensor as mt
from tasks import papers_table
from tasks import temporal_order as experiment
from tasks.harness import Run, Trial
from tasks.temporal_order import PLACES, SYMBOLS, TemporalOrder, TemporalOrderSettings


@given(seed=st.integers(0, 2**30), task=st.sampled_from(sorted(PLACES)))
def test_sequences_are_those_of_the_paper(seed: int, task: str) -> None:
    """E first, B last, 100 to 110 symbols; X or Y where they may stand, in the class's order."""
    drawn = TemporalOrder(PLACES[task]).draw(mt.Generator(seed), 20)
    assert drawn.lengths is not None
    assert set(drawn.lengths) <= set(range(100, 111))
    for x, length, number in zip(drawn.inputs, drawn.lengths, drawn.targets, strict=True):
        text = "".join(SYMBOLS[symbol] for symbol in x[:length])
        assert (text[0], text[-1]) == ("E", "B")
        marked = [(place, symbol) for place, symbol in enumerate(text) if symbol in "XY"]
        assert set(text[1:-1]) - set("XY") <= set("abcd")
        for (place, _), (first, last) in zip(marked, PLACES[task], strict=True):
            assert first <= place <= last
        order = "".join(symbol for _, symbol in marked)
        assert order == format(number, f"0{len(marked)}b").replace("0", "X").replace("1", "Y")


def made_up(solved: list[bool], sequences: list[int], wrong: list[int]) -> Run:
    """A run whose trials of 6a and 6b came to these results."""
    trials = [
        Trial(
            k,
            {"solved": s, "solved_sequences": n, "solved_wrong": w, "solved_mean_error": 0.02},
            variant=variant,
        )
        for variant in experiment.variants(TemporalOrderSettings())
        for k, (s, n, w) in enumerate(zip(solved, sequences, wrong, strict=True))
    ]
    return Run(TemporalOrderSettings(), "document", 0, "numpy", tuple(trials), ())


def verdicts(run: Run) -> dict[str, Any]:
    """The rows' verdicts by name."""
    return {row.name: row.ok for row in experiment.rows(run)}


def test_verdicts_follow_the_paper() -> None:
    """Within a factor of two of the mean, at least nine in ten, at most five wrong."""
    good = verdicts(made_up([True] * 10, [62_000] * 10, [1] * 10))
    assert all(ok for name, ok in good.items() if name.startswith(("6a:", "6b:")))
    slow = verdicts(made_up([True] * 10, [63_000] * 10, [1] * 10))
    assert not slow["6a: sequences until success, mean"]
    assert slow["6b: sequences until success, mean"]
    some = verdicts(made_up([True] * 8 + [False] * 2, [30_000] * 8 + [10**6] * 2, [9] * 10))
    assert not some["6a: trials that succeed"]
    assert some["6a: sequences until success, mean"]
    assert not some["6a: wrong in the test, mean"]
    none = verdicts(made_up([False] * 10, [10**6] * 10, [999] * 10))
    assert "6a: sequences until success, mean" not in none


def test_the_table_tells_mean_median_and_how_many() -> None:
    """Only trials that succeed count for the number of sequences."""
    run = made_up([True, True, True, False], [10_000, 20_000, 60_000, 10**6], [0, 1, 2, 500])
    line = experiment.printout(run).splitlines()[1]
    for cell in ("31,390", "30,000", "20,000", "10,000 … 60,000", "3 of 4", "  1"):
        assert cell in line
    assert papers_table.number(None) == "–"
    assert papers_table.number(0.01234) == "0.0123"


def test_check_fails_on_a_planted_fault(tasks_cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Marked symbols two places too late: the rows on the data see it."""
    right = TemporalOrder.draw

    def wrong(self: Any, generator: mt.Generator, count: int) -> Any:
        drawn = right(self, generator, count)
        marked = np.isin(drawn.inputs, (4, 5))
        shifted = np.where(marked, 0, drawn.inputs)
        shifted[:, 2:][marked[:, :-2]] = drawn.inputs[:, :-2][marked[:, :-2]]
        return drawn._replace(inputs=shifted)

    monkeypatch.setattr(TemporalOrder, "draw", wrong)
    failed = tasks_cli("run temporal_order --preset quick --check --no-plots")
    assert failed.code == 1
    assert "MISSED" in failed.stdout + failed.stderr
