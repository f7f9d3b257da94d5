"""What a training step of the documents' networks takes: `python -m benchmarks.recurrence`.

W1 to W6, microtensor's drivers beside whatever of PyTorch, JAX, HIPS autograd, MyGrad and DeZero is
installed. Prints Markdown tables; a full run writes them to benchmarks/results/recurrence.md too.
See README.md in this folder.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import _harness
from benchmarks._harness import Results, paired, spread
from benchmarks._report import cell, facts_of, load, parsed, publish, quantity, selected, verdict
from benchmarks.trainings import CAPTURED, GOALS, WORKLOADS
from microtensor.recurrence.driver import DRIVERS

RESULTS = Path(__file__).resolve().parent / "results" / "recurrence.md"
PEERS = ("torch", "jax", "autograd", "mygrad", "dezero")
# Step by step is for reading, not for speed.
OURS = tuple(
    [
        f"microtensor:{driver}{how}"
        for how in (CAPTURED, "")
        for driver in DRIVERS
        if driver != "steps"
    ]
)
FLUSHING = "torch:flushing"  # measured where sequences are long enough for subnormal numbers
SUBNORMAL = ("W6",)
NAMES = (*OURS, *PEERS)


def here(contender: str) -> bool:
    """Whether a contender can run on this machine; a driver has the name of what it needs."""
    package, _, choice = contender.removesuffix(CAPTURED).partition(":")
    needed = package if choice in ("", "arrays") else choice
    return _harness.installed(needed) is not None


def title_of(contender: str) -> str:
    """A contender's name in the tables."""
    return contender.replace(":", " ").replace("+", ", ")


def goals_of(all_results: dict[str, Results], contenders: list[str]) -> list[list[str]]:
    """Every goal of those that were measured: promised, measured, reached or not."""
    rows = []
    titles = {w.name: w.title for w in WORKLOADS}
    for goal in GOALS:
        if goal.workload not in all_results or goal.contender not in contenders:
            continue
        found = quantity(goal, all_results)
        what = "memory, " if goal.phase == "growth" else ""
        over = f"{what}{title_of(goal.contender)} over {title_of(goal.over or '')}"
        rows.append(
            [
                titles[goal.workload],
                over,
                cell(found),
                f"{goal.at_most:g}",
                verdict(found, goal.at_most),
            ]
        )
    return rows


def report(
    all_results: dict[str, Results],
    contenders: list[str],
    reference: str,
    facts: Sequence[str],
    quick: bool,
) -> str:
    """Everything that was measured, as Markdown, with ratios over the time of `reference`."""
    titles = {w.name: w for w in WORKLOADS}
    remembered = {goal.workload for goal in GOALS if goal.phase == "growth"}
    times, ratios = [], []
    for name, results in all_results.items():
        workload = titles[name]

        def taken(contender: str, results: Results = results) -> dict[int, float]:
            return results.values.get((contender, "total"), {})

        cells = []
        for contender in contenders:
            values = taken(contender)
            found = cell(spread(values.values()) if values else None, workload.scale)
            cells.append(results.failures.get(contender, found))
        times.append([workload.title, workload.unit, *cells])
        ratios.append([name, *[cell(paired(taken(c), taken(reference))) for c in contenders]])
        if taken(FLUSHING):
            flushed = cell(spread(taken(FLUSHING).values()), workload.scale)
            cells = [flushed if c == "torch" else "" for c in contenders]
            times.append(["… flushing subnormal numbers", workload.unit, *cells])
            cells = [cell(paired(taken(c), taken(FLUSHING))) for c in contenders]
            ratios.append([f"{name}, over {title_of(FLUSHING)}", *cells])
        if name in remembered:
            grown = [results.memory.get(c) for c in contenders]
            cells = [cell(spread(values.values()) if values else None) for values in grown]
            times.append(["… memory that it takes on", "MB", *cells])

    shown = [title_of(c) for c in contenders]
    parts = ["# Recurrence: a training step of the documents' networks\n"]
    parts.append("\n".join(f"- {fact}" for fact in facts) + "\n")
    if quick:
        parts.append("A quick run, to see that everything works: the numbers mean little.\n")
    goals = goals_of(all_results, contenders)
    if goals:
        parts.append("## Goals\n")
        parts.append(_harness.table(["", "ratio", "measured", "at most", ""], goals) + "\n")
    parts.append("## Measured\n")
    parts.append(
        "Forward, loss, backward and update. Median over rounds of each process's median, with the "
        "least and the greatest of them. A dash: not run.\n"
    )
    parts.append(_harness.table(["", "unit", *shown], times) + "\n")
    if reference in contenders:
        parts.append(f"## Ratios, over {title_of(reference)}\n")
        parts.append("Formed within each round. Below 1, it is faster.\n")
        parts.append(_harness.table(["", *shown], ratios) + "\n")
    return "\n".join(parts)


def measure_all(
    names: list[str], contenders: list[str], rounds: int, seconds: float
) -> dict[str, Results]:
    """Run the workloads, one after the other, and tell on standard error how it goes."""
    tolerances = {w.name: w.tolerance for w in WORKLOADS}
    all_results = {}
    for name in names:
        turns = list(contenders)
        if "torch" in turns and name in SUBNORMAL:
            turns.append(FLUSHING)
        all_results[name] = _harness.compare(
            lambda c, name=name: _harness.run(name, c, seconds),
            turns,
            rounds,
            tolerances[name],
            lambda line, name=name: print(f"{name}: {line}", file=sys.stderr, flush=True),
        )
    return all_results


def main(
    arguments: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    reference: str = "torch",
    results: Path = RESULTS,
) -> int:
    """The command line; 1 if a contender failed or did other work than the others.

    `names` are the contenders that can run here, and `results` is where a full run is written.
    """
    known = [w.name for w in WORKLOADS]
    about = f"{', '.join(known)}; W4 means all of W4"
    options = parsed(arguments, "recurrence", __doc__, about, NAMES)
    rounds = options.rounds
    workloads = selected(options.workloads, known, "workload")
    able = [c for c in NAMES if here(c)] if names is None else names
    contenders = selected(options.contenders, able, "contender")
    busy = load()

    all_results = measure_all(workloads, contenders, rounds, 0.05 if options.quick else 1.0)

    packages = dict.fromkeys(["microtensor", *[c.partition(":")[0] for c in contenders]])
    packages |= dict.fromkeys(["numba"] if any("numba" in c for c in contenders) else [])
    versions = {p: _harness.installed(p) or "" for p in [*packages, "numpy"]}
    facts = facts_of(all_results, versions, rounds, busy)
    text = report(all_results, contenders, reference, facts, options.quick)
    publish(text, options, results)
    return 1 if any(results.failures for results in all_results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
