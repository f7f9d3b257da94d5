"""Document 004's first experiment, its data: strings of the embedded Reber grammar.

A finite grammar emits a string symbol by symbol; where two symbols may follow, each does with
probability 1/2. *Embedded*, a string stands between two symbols that must be equal:

    B  T or P  (a string of the grammar)  the same T or P  E

What may follow inside is told by the last few symbols. The last symbol but one is told by the
second alone, so many steps ago as the string between is long.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

import microtensor as mt
from tasks import plots
from tasks.harness import (
    Level,
    Row,
    Run,
    Settings,
    Task,
    Trial,
    at_most,
    check_counts,
    median_of,
    within,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tasks.work import Work

Grammar = Mapping[str, Mapping[str, str]]
"""For every state the symbols that may follow, all equally probable, and where each leads."""

START, END = "0", ""

REBER: Grammar = {
    START: {"B": "1"},
    "1": {"T": "2", "P": "3"},
    "2": {"S": "2", "X": "4"},
    "3": {"T": "3", "V": "5"},
    "4": {"X": "3", "S": "6"},
    "5": {"P": "4", "V": "6"},
    "6": {"E": END},
}
"""The grammar of Reber (1967)."""

SYMBOLS = "BTPSXVE"
"""The order of a one-hot code."""


def embed(grammar: Grammar) -> Grammar:
    """B, T or P, a string of `grammar`, the same T or P, E."""
    found: dict[str, Mapping[str, str]] = {START: {"B": "outer"}, "last": {"E": END}}
    found["outer"] = {outer: f"{outer}{START}" for outer in "TP"}
    for outer in "TP":
        for state, follow in grammar.items():
            found[f"{outer}{state}"] = {symbol: f"{outer}{to}" for symbol, to in follow.items()}
        found[f"{outer}{END}"] = {outer: "last"}
    return found


EMBEDDED = embed(REBER)

VALID = ("BTSSXXTVVE", "BPVVE", "BTXXVPSE", "BPVPXVPXVPXVVE", "BTSXXVPSE")
INVALID = ("BTSSPXSE", "BPTVVB", "BTXXVVSE", "BPVSPSE", "BTSSSE")
"""Examples of what is a string of the grammar, not embedded, and what is none, from a course's page
on it (G. Orr, Willamette University, CS449)."""

SHARES = {9: 0.250, 10: 0.187, 11: 0.125, 12: 0.110}
"""Of the embedded strings, by length, as counted elsewhere, to three digits."""


def draw(grammar: Grammar, generator: mt.Generator) -> Iterator[str]:
    """Draw strings without end."""
    coins = itertools.chain.from_iterable(
        generator.integers(0, 2, (4096,)).tolist() for _ in itertools.count()
    )
    while True:
        state, string = START, ""
        while state != END:
            ways = list(grammar[state])
            symbol = ways[next(coins)] if len(ways) == 2 else ways[0]
            string += symbol
            state = grammar[state][symbol]
        yield string


def state_after(grammar: Grammar, string: str) -> str | None:
    """Where a string leads from the start; None if it cannot begin so."""
    state: str | None = START
    for symbol in string:
        state = None if state in (None, END) else grammar[state].get(symbol)
    return state


def successors(grammar: Grammar, string: str) -> str:
    """The symbols that may follow the beginning of a string, "" after its end.

    Raises
    ------
    ValueError
        No string of the grammar begins so.
    """
    state = state_after(grammar, string)
    if state is None:
        raise ValueError(f"no string of the grammar begins with {string!r}")
    return "".join(grammar[state]) if state != END else ""


def mean_length(grammar: Grammar) -> float:
    """The expected length, exactly: a symbol, and what is expected from where it leads."""
    states = list(grammar)
    leads = np.zeros((len(states), len(states)))
    for i, state in enumerate(states):
        for to in grammar[state].values():
            if to != END:
                leads[i, states.index(to)] += 1 / len(grammar[state])
    expected = np.linalg.solve(np.eye(len(states)) - leads, np.ones(len(states)))
    return float(expected[states.index(START)])


def share_by_length(grammar: Grammar, longest: int) -> np.ndarray:
    """The probability of every length from 0 to `longest`, exactly."""
    at: dict[str, float] = {START: 1.0}
    shares = np.zeros(longest + 1)
    for length in range(1, longest + 1):
        after: dict[str, float] = defaultdict(float)
        for state, share in at.items():
            for to in grammar[state].values():
                after[to] += share / len(grammar[state])
        shares[length] = after.pop(END, 0.0)
        at = after
    return shares


LONGEST = 200
"""Longer strings have a probability below 1e-16."""
SET = 256
"""Strings in a training set and in a test set of the paper."""


@dataclass(frozen=True, kw_only=True)
class ReberSettings(Settings):
    """Nothing is trained: the settings say how many strings are drawn."""

    trials: int = 10
    """Independent repetitions, each with strings of its own."""
    strings: int = 10_000
    """Strings that a trial draws; a training set and a test set are made of them besides."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "strings")


def train(work: Work) -> list[Trial]:
    """Draw strings, and a training and a test set as the paper does; nothing is trained."""
    settings: ReberSettings = work.settings
    [number] = work.trials
    strings = list(itertools.islice(draw(EMBEDDED, work.generator("strings")), settings.strings))
    lengths = np.array([len(string) for string in strings])
    source = draw(EMBEDDED, work.generator("sets"))
    training = set(itertools.islice(source, SET))
    test, draws = _drawn_until(source, lambda found, string: string not in training)
    _, all_different = _drawn_until(source, lambda found, string: string not in found)
    values = {
        "mean": float(lengths.mean()),
        "accepted": sum(state_after(EMBEDDED, string) == END for string in strings),
        "equal": sum(string[1] == string[-2] for string in strings),
        "lag": min(len(string) - 3 for string in strings),
        "distinct": len(training),
        "draws": draws,
        "draws_all_different": all_different,
        "test_mean": float(np.mean([len(string) for string in test])),
        "test_longest": max(map(len, test)),
        "example": strings[0],
    }
    return [Trial(number, values, arrays={"lengths": lengths})]


def _drawn_until(
    source: Iterator[str], fits: Callable[[list[str], str], bool]
) -> tuple[list[str], int]:
    """A set of strings that fit, given those found so far, and how many were drawn for it."""
    found: list[str] = []
    for draws, string in enumerate(source, 1):
        if fits(found, string):
            found.append(string)
        if len(found) == SET:
            return found, draws
    raise AssertionError("strings are drawn without end")


def rows(run: Run) -> list[Row]:
    """The grammar against what is known of it, then what is drawn from it against the grammar."""
    settings: ReberSettings = run.settings
    total = settings.trials * settings.strings
    shares = share_by_length(EMBEDDED, LONGEST)
    exact = mean_length(EMBEDDED)
    spread = math.sqrt(float(shares @ (np.arange(LONGEST + 1) - exact) ** 2))
    lengths = np.concatenate([trial.arrays["lengths"] for trial in run.of()])
    drawn = np.bincount(lengths, minlength=LONGEST + 1) / total
    by_length = ", ".join(map(str, SHARES))
    table = [
        Row(
            f"examples of the page on the grammar: {what}",
            sum((state_after(REBER, string) == END) == valid for string in examples),
            target=len(examples),
            source="upstream",
            tolerance=within(len(examples), 0),
        )
        for what, valid, examples in (("valid", True, VALID), ("invalid", False, INVALID))
    ]
    table += [
        Row(
            f"{name}: mean length, by its probabilities",
            mean_length(grammar),
            target=target,
            source="computed",
            tolerance=within(target, 1e-12),
            unit="symbols",
        )
        for name, grammar, target in (
            ("the grammar", REBER, 8.0),
            ("the embedded grammar", EMBEDDED, 12.0),
        )
    ]
    table += [
        Row(
            f"embedded: probability of a length of {by_length}, furthest from those known",
            max(abs(float(shares[n]) - share) for n, share in SHARES.items()),
            target=0.0,
            source="computed",
            tolerance=at_most(0.001),
            note=f"Known to three digits: {', '.join(map(str, SHARES.values()))}.",
        ),
        Row(
            f"embedded: mean length of {total:,} drawn strings",
            float(np.mean(run.values("mean"))),
            target=exact,
            source="computed",
            tolerance=within(exact, 4 * spread / math.sqrt(total)),
            trials=settings.trials,
            unit="symbols",
            note="The tolerance is four standard errors.",
        ),
        Row(
            f"embedded: share of a length of {by_length}, largest error of the drawn strings",
            max(abs(float(drawn[n] - shares[n])) for n in SHARES),
            target=0.0,
            source="computed",
            tolerance=at_most(4 * math.sqrt(0.25 * 0.75 / total)),
            note="The tolerance is four standard errors of the most frequent length's share.",
        ),
    ]
    table += [
        Row(
            f"embedded: drawn strings {what}",
            sum(run.values(name)),
            target=total,
            source="computed",
            tolerance=within(total, 0),
        )
        for name, what in (
            ("accepted", "that the grammar accepts"),
            ("equal", "whose last symbol but one is the second"),
        )
    ]
    return [
        *table,
        Row(
            "embedded: least number of steps over which the second symbol must be kept",
            min(run.values("lag")),
            target=6,
            source="computed",
            tolerance=within(6, 0),
        ),
        Row(
            f"a training set of {SET} strings: different ones",
            **median_of(run.values("distinct")),
            levels=(Level("no string twice", SET),),
            note="The paper draws at random; that none is there twice is the document's addition.",
        ),
        Row(
            f"a training set of {SET} different strings: strings drawn for it",
            **median_of(run.values("draws_all_different")),
        ),
        Row(
            f"a test set of {SET} strings, none in the training set: strings drawn for it",
            **median_of(run.values("draws")),
        ),
        Row(
            f"a test set of {SET} strings, none in the training set: mean length",
            **median_of(run.values("test_mean")),
            levels=(Level("all strings", exact),),
            unit="symbols",
            note="The short strings are in the training set, so a test is harder than a training.",
        ),
        Row(
            f"a test set of {SET} strings, none in the training set: longest",
            **median_of(run.values("test_longest")),
            unit="symbols",
        ),
    ]


def printout(run: Run) -> str:
    """One string of each trial, and below each symbol which may follow it."""
    lines = ["A string, and below every symbol those that may follow it"]
    for string in run.values("example"):
        follow = [successors(EMBEDDED, string[:n]) for n in range(1, len(string) + 1)]
        lines += [
            "",
            "  ".join(f"{symbol:2}" for symbol in string).rstrip(),
            "  ".join(f"{symbols:2}" for symbols in follow).rstrip(),
        ]
    return "\n".join(lines)


def figures(run: Run) -> Mapping[str, Figure]:
    """Draw how long the strings are."""
    figure, axes = plots.new_figure()
    lengths = np.concatenate([trial.arrays["lengths"] for trial in run.of()])
    shown = np.arange(9, 31)
    drawn = np.bincount(lengths, minlength=shown[-1] + 1)[shown] / len(lengths)
    exact = share_by_length(EMBEDDED, LONGEST)[shown]
    axes.bar(shown, drawn, color=plots.PALETTE[5], label=f"{len(lengths):,} drawn strings")
    axes.plot(shown, exact, "o", color="black", markersize=4, label="by its probabilities")
    axes.axvline(
        mean_length(EMBEDDED), color="0.35", linestyle=":", linewidth=1.2, label="mean: 12"
    )
    axes.set(
        title="How long the strings of the embedded Reber grammar are",
        xlabel="length (symbols)",
        ylabel="share of the strings",
    )
    axes.legend(loc="upper right", frameon=False)
    return {"lengths": figure}


TASK = Task(
    name="reber",
    documents=("004",),
    title="the embedded Reber grammar: what must be kept in mind to predict its next symbol",
    claim="""
        Experiment 1 of the 1997 paper, with which document 004 begins its summary: a network
        reads a string of the embedded Reber grammar symbol by symbol and predicts after each
        one which may follow. Inside, a simple network can tell that from the last few
        symbols; the last symbol but one is the second again, and to know it the second must
        have been kept over all that stands between, six steps at least. Whoever does not
        keep it fails in half of all strings.

        This is the grammar, and the data that are drawn from it; the paper's network and
        its learning rule are not rebuilt yet.

        A correction: the document asks for 256 training strings of which no two are alike.
        The paper draws 256 at random, and about a hundred of them are different. Since the
        test strings must not be among them, these are longer than strings are on average.
    """,
    equations="""
        state 0: B→1    1: T→2 P→3    2: S→2 X→4    3: T→3 V→5    4: X→3 S→6    5: P→4 V→6    6: E
        two symbols that may follow: 1/2 each
        embedded: B, T or P, a string of the grammar, the same T or P, E
        mean lengths: 8, embedded 4 more;  shortest embedded string: 9 symbols, probability 1/4
    """,
    look_for="""
        The printed strings: where two symbols stand below one, nobody can know which comes; a
        network has learnt the grammar when the two that it finds most probable are these. Look
        at the last symbol but one: nothing near it tells T from P. lengths.png: more than
        half of the strings have at most eleven symbols, one in a hundred more than twenty-four.
    """,
    settings=ReberSettings,
    presets={"quick": ReberSettings(trials=2, strings=2000), "document": ReberSettings()},
    durations={"quick": "1 s", "document": "2 s"},
    train=train,
    rows=rows,
    figures=figures,
    printout=printout,
)
