"""How measurements are told: numbers, ranges, verdicts, the machine and the method."""

from __future__ import annotations

import argparse
import datetime
import math
import os
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import _harness
from benchmarks._harness import Results, Spread, paired, spread
from benchmarks.workloads import Goal


def digits(x: float) -> str:
    """Three significant digits, but at most four decimals."""
    if x >= 100:
        return f"{x:,.0f}"
    decimals = 2 - math.floor(math.log10(x)) if x > 0 else 0
    return f"{x:.{min(decimals, 4)}f}"


def cell(found: Spread | None, scale: float = 1.0) -> str:
    """A median with its range, or a dash."""
    if found is None:
        return "–"
    text = digits(found.median * scale)
    if found.count > 1:
        text += f" [{digits(found.least * scale)}–{digits(found.most * scale)}]"
    return text


def verdict(found: Spread | None, at_most: float) -> str:
    """Whether a goal is reached, by the median; said with reserve where rounds disagree."""
    if found is None:
        return "not measured"
    reached = found.median <= at_most
    if found.least <= at_most < found.most:
        return "reached, not in every round" if reached else "not reached, in some rounds only"
    return "reached" if reached else "not reached"


def quantity(goal: Goal, all_results: dict[str, Results]) -> Spread | None:
    """What a goal speaks of: a ratio formed in pairs, or a number in the table's unit."""
    results = all_results.get(goal.workload)
    if results is None:
        return None

    def measured(contender: str) -> dict[int, float]:
        if goal.phase == "growth":
            return results.memory.get(contender, {})
        return results.values.get((contender, goal.phase), {})

    ours = measured(goal.contender)
    if not ours:
        return None
    if goal.over is None:
        scale = 1e3 if goal.phase == "time" else 1.0
        return spread(value * scale for value in ours.values())
    return paired(ours, measured(goal.over))


def load() -> str:
    """How many processes wanted to run in the last minute, on average."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def facts_of(
    all_results: dict[str, Results], versions: dict[str, str], rounds: int, busy: str
) -> list[str]:
    """The machine and the method, without anything that names the machine or its folders."""
    inside: dict[str, object] = {}
    for results in all_results.values():
        inside.update(results.facts)
    shares = [share for results in all_results.values() for share in results.shares]
    disturbed = sum(share < _harness.DISTURBED for share in shares)
    pinned = "bound to one core" if inside.get("pinned", False) else "not bound to a core"
    return [
        f"{_harness.processor()}, {os.cpu_count()} cores, {platform.system()}; "
        f"Python {platform.python_version()}",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
        f"OpenBLAS kernels of NumPy: {inside.get('core_type', 'unknown')}",
        f"one thread, {pinned}; {rounds} {'round' if rounds == 1 else 'rounds'}, a fresh process "
        "for each workload and contender in each round, in turns; float32",
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, load average at the start {busy}; "
        f"{disturbed} of {len(shares)} processes had less than {_harness.DISTURBED:.0%} of their "
        "core, in the best of three attempts",
    ]


def selected(asked: str | None, known: Sequence[str], what: str) -> list[str]:
    """The names that a comma-separated list means; W8 is all of W8-..., W3 both W3a and W3b.

    Raises
    ------
    SystemExit
        With a line that lists the names, if one means nothing.
    """
    if asked is None:
        return list(known)
    chosen = []
    for part in asked.split(","):
        # W1 is not W10; between two letters or two digits no name ends.
        found = [
            n for n in known if n == part or re.match(rf"{re.escape(part)}(\W|(?<=\d)[a-z])", n)
        ]
        if not found:
            print(f"no {what} {part!r}; there are {', '.join(known)}", file=sys.stderr)
            raise SystemExit(2)
        chosen += found
    return [n for n in known if n in chosen]


def parsed(
    arguments: Sequence[str] | None,
    name: str,
    about: str | None,
    workloads: str,
    names: Sequence[str],
    rounds: int = 5,
) -> argparse.Namespace:
    """The command line that all these benchmarks have; `rounds` is how many without `--rounds`.

    `workloads` and `names`, of the contenders, are for the help.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    parser.add_argument("--rounds", type=int, help=f"how often each one's turn comes ({rounds})")
    parser.add_argument("--workloads", help=f"some of {workloads}")
    parser.add_argument("--contenders", help=f"some of {', '.join(names)}; all that are installed")
    parser.add_argument("--quick", action="store_true", help="one round, hardly any samples")
    parser.add_argument(
        "--out", type=Path, help="where to write the tables (a full run: benchmarks/results)"
    )
    options = parser.parse_args(arguments)
    if options.rounds is None:
        options.rounds = 1 if options.quick else rounds
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


def publish(text: str, options: argparse.Namespace, results: Path) -> None:
    """Print the tables, and write them where they were asked for, a full run's to `results`."""
    print(text)
    full = not options.quick and options.workloads is None and options.contenders is None
    out = options.out or (results if full else None)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n", encoding="utf-8")
