"""The inside of a measuring process: one workload, one contender, one line of JSON.

`python -m benchmarks._process WORKLOAD CONTENDER SECONDS`, started by _harness.py with the
environment that it makes. `SECONDS` is how long to take samples. A contender is a package, or
`PACKAGE:CHOICE`, which calls the `choose` of its module with the choice first.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

SHORTEST = 5e-4  # a sample is at least so long, so that the clock's own cost is nothing beside it
LONGEST = 20.0  # after so many seconds a process stops, with the samples that it has


def pin() -> int | None:
    """Bind this process to one core, the last it may use; None where the system cannot."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


def core_type() -> str:
    """The kernels that NumPy's OpenBLAS chose for this processor, or "unknown".

    NumPy does not tell, so this asks the very library that NumPy has loaded. Matrix products run
    at half speed with another processor's kernels.
    """
    import numpy as np

    maps, home = Path("/proc/self/maps"), Path(np.__file__).parent
    if maps.exists():
        loaded = {line.split(maxsplit=5)[-1] for line in maps.read_text().splitlines()}
        libraries = sorted(path for path in loaded if "openblas" in path)
    else:
        folders = (home.parent / "numpy.libs", home / ".dylibs", home / ".libs")
        libraries = sorted(str(p) for folder in folders for p in folder.glob("*openblas*"))
    for path in libraries:
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        for prefix in ("scipy_openblas", "openblas"):
            for suffix in ("64_", "", "_"):
                try:
                    ask = getattr(library, f"{prefix}_get_corename{suffix}")
                except AttributeError:
                    continue
                ask.restype = ctypes.c_char_p
                return (ask() or b"unknown").decode()
    return "unknown"


def peak_memory() -> float | None:
    """The most memory this process held since `forget_peak`, in MB; None if nobody tells."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return None


def forget_peak() -> None:
    """Importing may have taken more for a while than is held now: the peak is to start from here.

    Where the system does not allow it, peaks count from the start of the process.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def sample(phases: dict[str, Callable[[], Any]], times: int) -> dict[str, float]:
    """Seconds per call of each phase, and of all together."""
    taken = {}
    if len(phases) == 1:
        ((name, run),) = phases.items()
        begin = perf_counter()
        for _ in range(times):
            run()
        taken[name] = (perf_counter() - begin) / times
    else:
        for name, run in phases.items():
            begin = perf_counter()
            run()
            taken[name] = perf_counter() - begin
        taken["total"] = sum(taken.values())
    return taken


def measure(
    phases: dict[str, Callable[[], Any]], seconds: float, least: int, warm: bool
) -> list[dict[str, float]]:
    """Samples for so many seconds, and at least so many; `warm` if nothing needs warming up."""
    start = perf_counter()
    one = float("inf")  # the fastest call so far
    calls = 0
    while not warm and (calls < 2 or perf_counter() - start < seconds / 3):
        one = min(one, sample(phases, 1)["total"])
        calls += 1
    times = 1 if warm else max(1, round(SHORTEST / one))
    gc.collect()
    samples: list[dict[str, float]] = []
    begin = perf_counter()
    while len(samples) < least or perf_counter() - begin < seconds:
        samples.append(sample(phases, times))
        if perf_counter() - start > LONGEST:
            break
    return samples


def main(workload_name: str, contender: str, seconds: float) -> dict[str, Any]:
    """Measure; what the line of JSON says."""
    core = pin()  # before NumPy is imported, whose BLAS counts the cores
    from benchmarks import courses, trainings, workloads

    known = (*workloads.WORKLOADS, *trainings.WORKLOADS, *courses.WORKLOADS)
    (workload,) = [w for w in known if w.name == workload_name]
    package, _, choice = contender.partition(":")
    module = importlib.import_module(f"benchmarks.contenders.{package}")
    if choice:
        module.choose(choice)
    make = getattr(module, workload.function, None)
    rehearsal = make(*workload.rehearse()) if make and workload.rehearse else None
    if rehearsal is not None:
        measure(rehearsal.phases, seconds, 5, warm=False)
    task = make(*workload.inputs()) if make else None
    if task is None:
        return {"skipped": True}

    forget_peak()
    before = peak_memory()
    wall, busy = perf_counter(), process_time()
    numbers: list[float] = []
    first: list[dict[str, float]] = []
    for _ in range(workload.checked):
        first.append(sample(task.phases, 1))
        for value in task.read():
            numbers += [float(x) for x in workloads.np.ravel(workloads.np.asarray(value))]
    after = peak_memory()
    if workload.samples == 1:
        samples = first  # there is one call, and it was rehearsed
    else:
        warm = rehearsal is not None
        samples = measure(task.phases, seconds, workload.samples, warm)
    return {
        "share": (process_time() - busy) / (perf_counter() - wall),
        "seconds": {name: statistics.median(s[name] for s in samples) for name in samples[0]},
        "samples": len(samples),
        "numbers": numbers,
        "memory": None if before is None or after is None else after - before,
        "core_type": core_type(),
        "pinned": core is not None,
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], float(sys.argv[3]))))
