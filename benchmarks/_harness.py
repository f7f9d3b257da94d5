"""Fair measuring: a fresh process for each number, one core, contenders in turn, ratios in pairs.

A machine is never quiet, and its disturbances last longer than a measurement. So the contenders of
a workload take turns, in a fresh process each; every round gives each of them one median; and a
ratio is formed within a round, between neighbours in time, before the median over rounds is taken.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 300.0  # seconds a process may take
DISTURBED = 0.95  # a process that had less than this share of its core is repeated
ATTEMPTS = 3
SLOW = 20.0  # a contender whose process took longer is not asked again for that workload

# With the first two set, OpenBLAS uses kernels that were not made for the processor; with the last,
# Python compiles all of a library anew at every import.
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "PYTHONDONTWRITEBYTECODE")
ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)

IMPORTING = """
import sys
from time import perf_counter
def resident():
    try:
        with open("/proc/self/status") as status:
            return [int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS:")][0]
    except OSError:
        return float("nan")
base = resident()
a = perf_counter()
import numpy
b, before = perf_counter(), resident()
import {package}
c, after = perf_counter(), resident()
if {package!r} == "numpy":
    print(b - a, before - base)
else:
    print(c - b, after - before)
"""


class Failure(Exception):
    """A process that did not deliver; the message is one line."""


class Spread(NamedTuple):
    """A median, and the least and the greatest it was taken of."""

    median: float
    least: float
    most: float
    count: int


def spread(values: Iterable[float]) -> Spread:
    """The median of some numbers, with their range.

    Raises
    ------
    ValueError
        If there are none.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("there is no median of no values")
    return Spread(statistics.median(ordered), ordered[0], ordered[-1], len(ordered))


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Spread | None:
    """Ratios ours / theirs, formed within each round that has both; None if no round has."""
    ratios = [ours[r] / theirs[r] for r in ours if r in theirs]
    return spread(ratios) if ratios else None


def same_work(ours: list[float], theirs: list[float], tolerance: float) -> bool:
    """Whether two contenders came to the same numbers, up to `tolerance` of the largest."""
    if len(ours) != len(theirs):
        return False
    largest = max(abs(x) for x in ours)
    # Written so that a NaN is a difference.
    return all(abs(a - b) <= tolerance * largest for a, b in zip(ours, theirs, strict=True))


def environment() -> dict[str, str]:
    """What a measuring process sees: this environment, with one thread and BLAS's own choices."""
    kept = {name: value for name, value in os.environ.items() if name not in UNSET}
    # XLA has threads of its own; with one core to run on they are one.
    xla = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    return {**kept, **dict.fromkeys(ONE_THREAD, "1"), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla}


def _process(arguments: list[str]) -> str:
    """What a fresh interpreter, in the checkout, prints last."""
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise Failure(f"took more than {TIMEOUT:.0f} s") from None
    if done.returncode != 0:
        sys.stderr.write(done.stderr)
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise Failure(last.partition(":")[0] if done.returncode > 0 else "killed")
    return done.stdout.strip().splitlines()[-1]


def run(workload: str, contender: str, seconds: float) -> dict[str, Any]:
    """One measuring process: what _process.py's `main` returns.

    One that had to share its core is repeated, and of all attempts the least disturbed is kept:
    they are chosen by that share, never by how fast they were.

    Raises
    ------
    Failure
        If it raised, was killed, or took too long.
    """
    best: dict[str, Any] = {}
    for _ in range(ATTEMPTS):
        begin = time.perf_counter()
        arguments = ["-m", "benchmarks._process", workload, contender, str(seconds)]
        result: dict[str, Any] = json.loads(_process(arguments))
        took = time.perf_counter() - begin
        if not best or result.get("share", 1.0) > best["share"]:
            best = {"share": 1.0, "took": took, **result}
        if best["share"] >= DISTURBED or took > SLOW:
            break
    return best


def run_import(contender: str, starts: int) -> dict[str, Any]:
    """Seconds and MB that importing costs once NumPy is there (NumPy itself: over bare Python)."""
    measured = [_process(["-c", IMPORTING.format(package=contender)]) for _ in range(starts)]
    seconds, memory = zip(*[map(float, line.split()) for line in measured], strict=True)
    return {
        "seconds": {"time": statistics.median(seconds), "memory": statistics.median(memory)},
        "samples": starts,
        "numbers": [0.0],
    }


class Results(NamedTuple):
    """Everything measured on one workload: (contender, phase) -> round -> seconds; and remarks.

    `shares` has, for each process, which part of its core's time it was given.
    """

    values: dict[tuple[str, str], dict[int, float]]
    shares: list[float]
    memory: dict[str, dict[int, float]]
    failures: dict[str, str]
    facts: dict[str, Any]


def compare(
    measure: Callable[[str], dict[str, Any]],
    contenders: list[str],
    rounds: int,
    tolerance: float,
    note: Callable[[str], None] = lambda line: None,
) -> Results:
    """Let the contenders take turns, `rounds` times, each round beginning with another one.

    The numbers that the first one comes to are what all must come to.
    """
    results = Results({}, [], {}, {}, {})
    reference: tuple[str, list[float]] | None = None
    finished: set[str] = set()
    for r in range(rounds):
        first = r % len(contenders)
        # In round 0 the first of the list comes first: it is the reference of equal work.
        for contender in contenders[first:] + contenders[:first]:
            if contender in finished:
                continue
            try:
                result = measure(contender)
            except Failure as fault:
                results.failures[contender] = f"failed: {fault}"
                finished.add(contender)
                note(f"{contender}: failed: {fault}")
                continue
            if result.get("skipped"):
                finished.add(contender)
                continue
            reference = reference or (contender, result["numbers"])
            if not same_work(reference[1], result["numbers"], tolerance):
                results.failures[contender] = f"not the numbers of {reference[0]}"
                finished.add(contender)
                note(f"{contender}: {results.failures[contender]}")
                continue
            for phase, seconds in result["seconds"].items():
                results.values.setdefault((contender, phase), {})[r] = seconds
            if result.get("memory") is not None:
                results.memory.setdefault(contender, {})[r] = result["memory"]
            results.facts.update({k: result[k] for k in ("core_type", "pinned") if k in result})
            if "share" in result:
                results.shares.append(result["share"])
            if result.get("took", 0.0) > SLOW:
                finished.add(contender)
            total = result["seconds"].get("total", result["seconds"].get("time"))
            note(f"round {r + 1}, {contender}: {total:.3g} s, {result['samples']} samples")
    for contender in results.failures:  # numbers beside a failure would be read as if it were none
        for key in [key for key in results.values if key[0] == contender]:
            del results.values[key]
    return results


def installed(contender: str) -> str | None:
    """The version of a contender, or None if it cannot be imported here."""
    if importlib.util.find_spec(contender) is None:
        return None
    try:
        return importlib.metadata.version(contender)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def processor() -> str:
    """The processor's name, as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    except OSError:
        pass
    if sys.platform == "darwin":
        asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
        found = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
        if found:
            return found
    return platform.processor() or platform.machine() or "unknown"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
