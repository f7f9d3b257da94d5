"""What online learning takes: `python -m benchmarks.online`.

An LSTM of today and the networks of 1997, each updated after every sequence, by
`recurrence.fit_online` with 1 and with 16 trials side by side, beside PyTorch, eager, one trial.
Prints Markdown tables; a full run writes them to benchmarks/results/online.md too. See README.md in
this folder.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import _harness
from benchmarks._harness import Results, Spread, spread
from benchmarks._report import cell, digits, facts_of, load, parsed, publish, selected, verdict
from benchmarks.courses import COURSES, GOALS, SEQUENCES, TRIALS, WORKLOADS, workload_name
from benchmarks.recurrence import here, title_of

RESULTS = Path(__file__).resolve().parent / "results" / "online.md"
OURS = ("microtensor:numba", "microtensor:arrays")
NAMES = (*OURS, "torch")


def each(results: Results | None, contender: str, trials: int) -> dict[int, float]:
    """Seconds for a trial and sequence, by round."""
    found = {} if results is None else results.values.get((contender, "total"), {})
    return {r: seconds / (trials * SEQUENCES) for r, seconds in found.items()}


def over(ours: dict[int, float], theirs: dict[int, float]) -> Spread | None:
    """Ratios round by round; None if there is none."""
    both = ours.keys() & theirs.keys()
    return spread([ours[r] / theirs[r] for r in both]) if both else None


def report(
    all_results: dict[str, Results], contenders: list[str], facts: Sequence[str], quick: bool
) -> str:
    """Everything that was measured, as Markdown."""
    most = max(TRIALS)
    columns = [(c, k) for c in contenders for k in TRIALS if c in OURS or k == 1]
    heads = [f"{title_of(c)}, K = {k}" if c in OURS else title_of(c) for c, k in columns]
    times, speeds, ratios = [], [], []
    for name, course in COURSES.items():
        if not any(workload_name(name, k) in all_results for k in TRIALS):
            continue
        found, fast = [], []
        for contender, k in columns:
            results = all_results.get(workload_name(name, k))
            values = each(results, contender, k)
            failure = results.failures.get(contender) if results is not None else None
            median = spread(values.values()) if values else None
            found.append(failure or cell(median, 1e6))
            fast.append("–" if median is None else f"{digits(course.steps / median.median / 1e6)}")
        times.append([course.title, *found])
        speeds.append([course.title, *fast])
        torch = each(all_results.get(workload_name(name, 1)), "torch", 1)
        own = [
            over(each(all_results.get(workload_name(name, k)), c, k), torch)
            for c, k in columns
            if c in OURS
        ]
        ratios.append([course.title, *map(cell, own)])
    goals = []
    for goal in GOALS:
        ours = each(all_results.get(workload_name(goal.workload, most)), goal.contender, most)
        torch = each(all_results.get(workload_name(goal.workload, 1)), "torch", 1)
        if ours and torch:
            ratio = over(ours, torch)
            what = f"{title_of(goal.contender)}, K = {most}, over torch, one trial"
            line = [COURSES[goal.workload].title, what, cell(ratio), digits(goal.at_most)]
            goals.append([*line, verdict(ratio, goal.at_most)])
    parts = ["# Online learning: one update a sequence\n"]
    parts.append("\n".join(f"- {fact}" for fact in facts) + "\n")
    if quick:
        parts.append("A quick run, to see that everything works: the numbers mean little.\n")
    if goals:
        parts.append("## Goals\n")
        parts.append(_harness.table(["", "ratio", "measured", "at most", ""], goals) + "\n")
    parts.append("## Microseconds for a trial and sequence\n")
    parts.append(
        "Forward, loss, backward and update, with K trials side by side. Median over rounds of "
        "each process's median, with the least and the greatest of them. A dash: not run.\n"
    )
    parts.append(_harness.table(["", *heads], times) + "\n")
    parts.append("## Million time steps a second, all trials together\n")
    parts.append(_harness.table(["", *heads], speeds) + "\n")
    if "torch" in contenders:
        parts.append("## Ratios, for a trial and sequence, over torch\n")
        parts.append("Formed within each round. Below 1, it is faster.\n")
        ours = [h for h, (c, _) in zip(heads, columns, strict=True) if c in OURS]
        parts.append(_harness.table(["", *ours], ratios) + "\n")
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 1 if a contender failed or did other work than the others."""
    known = [w.name for w in WORKLOADS]
    about = f"{', '.join(known)}; 6a means 6a-1 and 6a-16"
    options = parsed(arguments, "online", __doc__, about, NAMES, 3)
    rounds = options.rounds
    workloads = selected(options.workloads, known, "workload")
    able = [c for c in NAMES if here(c)]
    contenders = selected(options.contenders, able, "contender")
    busy = load()
    all_results = {}
    for workload in WORKLOADS:
        if workload.name not in workloads:
            continue
        one = workload.name.endswith("-1")
        all_results[workload.name] = _harness.compare(
            lambda c, name=workload.name: _harness.run(name, c, 0.05 if options.quick else 1.0),
            [c for c in contenders if one or c in OURS],
            rounds,
            workload.tolerance,
            lambda line, name=workload.name: print(f"{name}: {line}", file=sys.stderr, flush=True),
        )
    packages = dict.fromkeys(["microtensor", *[c.partition(":")[0] for c in contenders], "numba"])
    versions = {p: v for p in [*packages, "numpy"] if (v := _harness.installed(p)) is not None}
    facts = facts_of(all_results, versions, rounds, busy)
    text = report(all_results, contenders, facts, options.quick)
    publish(text, options, RESULTS)
    return 1 if any(results.failures for results in all_results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
