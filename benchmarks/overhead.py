"""What a framework costs beyond the arithmetic: `python -m benchmarks.overhead`.

W7 to W11, microtensor beside whatever of PyTorch, JAX, HIPS autograd and MyGrad is installed, and
beside the bare NumPy calls. Prints a Markdown table; a full run writes it to
benchmarks/results/overhead.md too. See README.md in this folder.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import _harness
from benchmarks._harness import Results, paired, spread
from benchmarks._report import cell, facts_of, load, parsed, publish, quantity, selected, verdict
from benchmarks.contenders import NAMES
from benchmarks.workloads import GOALS, IMPORT, WORKLOADS

OUR = "microtensor"
RESULTS = Path(__file__).resolve().parent / "results" / "overhead.md"
TITLES = {"total": "", "forward": "… forward", "backward": "… backward", "free": "… free"}


def rows_of(name: str, results: Results, contenders: list[str]) -> list[tuple[str, str, list[str]]]:
    """(title, unit, cells) of every line that a workload has in the table of measurements."""

    def line(phase: str, scale: float) -> list[str]:
        cells = []
        for contender in contenders:
            values = results.values.get((contender, phase))
            found = cell(spread(values.values()) if values else None, scale)
            cells.append(results.failures.get(contender, found))
        return cells

    if name == IMPORT:
        return [
            (
                "W11 import once NumPy is imported (numpy: over bare Python)",
                "ms",
                line("time", 1e3),
            ),
            ("… memory", "MB", line("memory", 1.0)),
        ]
    (workload,) = [w for w in WORKLOADS if w.name == name]
    phases = {phase for _, phase in results.values}
    rows = [
        (TITLES[phase] or workload.title, workload.unit, line(phase, workload.scale))
        for phase in TITLES
        if phase in phases or phase == "total"
    ]
    if name == "W8-chain-1000000":
        memory = [
            cell(spread(results.memory[c].values()) if results.memory.get(c) else None)
            for c in contenders
        ]
        rows.append(("… peak memory, growth", "MB", memory))
    return rows


def report(
    all_results: dict[str, Results], contenders: list[str], facts: Sequence[str], quick: bool
) -> str:
    """Everything that was measured, as Markdown."""
    peers = [c for c in contenders if c != OUR]
    times, ratios = [], []
    for name, results in all_results.items():
        for title, unit, cells in rows_of(name, results, contenders):
            times.append([title, unit, *cells])
        phases = {phase for contender, phase in results.values if contender == OUR}
        for phase in [p for p in ("total", "backward", "time") if p in phases]:
            ours = results.values[OUR, phase]
            found = [paired(ours, results.values.get((c, phase), {})) for c in peers]
            title = name if phase == "total" else f"{name} {phase}"
            if any(found):
                ratios.append([title, *[cell(f) for f in found]])
    short, long = all_results.get("W10-1000"), all_results.get("W10-4000")
    if short is not None and long is not None:
        growth = []
        for c in contenders:
            place = (c, "backward") if (c, "backward") in long.values else (c, "total")
            growth.append(cell(paired(long.values.get(place, {}), short.values.get(place, {}))))
        times.append(["W10 backward, T = 4000 over T = 1000 (linear: 4)", "×", *growth])

    goals = []
    for goal in GOALS:
        if goal.workload in all_results:
            found = quantity(goal, all_results)
            unit = {"time": " ms", "memory": " MB"}.get(goal.phase, "")
            what = goal.workload if goal.phase == "total" else f"{goal.workload} {goal.phase}"
            what += f", over {goal.over}" if goal.over else ""
            goals.append(
                [what, cell(found), f"{goal.at_most:g}{unit}", verdict(found, goal.at_most)]
            )

    parts = ["# Overhead: microtensor beside other frameworks\n"]
    parts.append("\n".join(f"- {fact}" for fact in facts) + "\n")
    if quick:
        parts.append("A quick run, to see that everything works: the numbers mean little.\n")
    parts.append("## Goals\n")
    if goals:
        parts.append(_harness.table(["ratio", "measured", "at most", ""], goals) + "\n")
    parts.append("## Measured\n")
    parts.append(
        "Median over rounds of each process's median, with the least and the greatest of them. A "
        "dash: not run.\n"
    )
    parts.append(_harness.table(["", "unit", *contenders], times) + "\n")
    if ratios:
        parts.append("## Ratios, microtensor's time over theirs\n")
        parts.append("Formed within each round. Below 1, microtensor is faster.\n")
        parts.append(_harness.table(["", *peers], ratios) + "\n")
    return "\n".join(parts)


def measure_all(
    names: list[str], contenders: list[str], rounds: int, quick: bool
) -> dict[str, Results]:
    """Run the workloads, one after the other, and tell on standard error how it goes."""
    seconds = 0.05 if quick else 1.0
    tolerances = {w.name: w.tolerance for w in WORKLOADS}
    all_results = {}
    for name in names:
        measure: Callable[[str], dict]
        if name == IMPORT:
            starts = 1 if quick else 5
            for contender in contenders:  # from the disk once, so that all come from memory
                with contextlib.suppress(_harness.Failure):  # the turns will report it
                    _harness.run_import(contender, 1)
            measure = lambda c, starts=starts: _harness.run_import(c, starts)  # noqa: E731
        else:
            measure = lambda c, name=name: _harness.run(name, c, seconds)  # noqa: E731
        all_results[name] = _harness.compare(
            measure,
            contenders,
            rounds,
            tolerances.get(name, 0.0),
            lambda line, name=name: print(f"{name}: {line}", file=sys.stderr, flush=True),
        )
    return all_results


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 1 if a contender failed or did other work than the others."""
    known = [*[w.name for w in WORKLOADS], IMPORT]
    about = f"{', '.join(known)}; W8 means all of W8-"
    options = parsed(arguments, "overhead", __doc__, about, NAMES)
    rounds = options.rounds
    names = selected(options.workloads, known, "workload")
    asked = selected(options.contenders, NAMES, "contender")
    versions = {c: v for c in NAMES if (v := _harness.installed(c)) is not None}
    missing = [c for c in asked if c not in versions]
    if missing and options.contenders is not None:
        print(f"not installed: {', '.join(missing)}", file=sys.stderr)
        return 2
    contenders = [c for c in asked if c in versions]
    busy = load()

    all_results = measure_all(names, contenders, rounds, options.quick)

    versions = {c: v for c, v in versions.items() if c in contenders or c == "numpy"}
    facts = facts_of(all_results, versions, rounds, busy)
    text = report(all_results, contenders, facts, options.quick)
    publish(text, options, RESULTS)
    return 1 if any(results.failures for results in all_results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
