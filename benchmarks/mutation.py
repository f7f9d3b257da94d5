"""Do the tests notice when the library is wrong? `python -m benchmarks.mutation`.

Changes one operator, constant or operand at a time, and runs the tests that enter the changed
line until one fails. Prints a Markdown report of the mutants that no test noticed; a full run
writes it to benchmarks/results/mutation.md too. `--sample 250` tries so many of each group, and
says how far the score of all may be from theirs. See README.md in this folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import statistics
import sys
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from benchmarks._mutants import Mutant, mutants
from benchmarks._mutation_workers import Outcome, Project, Task, Worker, prepare, survey

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / "benchmarks" / "results" / "mutation.md"
EQUIVALENTS = ROOT / "benchmarks" / "mutation_equivalents.toml"
STATE = Path("runs") / "mutation"  # relative to the root: nothing there is kept in Git
TESTS = ("engine", "nn", "ops", "optim", "programs", "recurrence", "testing")
EXAMPLES = 10
ENOUGH = 10.0  # seconds of processor time for one mutant: tests beyond that are not run
# A test that enters this file compiles, and a mutant may make it do that anew: it is given so many
# seconds of processor time more. Else slow compilers would look like loops without end.
COMPILER, COMPILING = "recurrence/drivers/compiled.py", 120.0

# Which files belong together, and how many of their mutants must die.
GROUPS = [
    ("ops and engine", ("ops/*.py", "engine.py"), 0.95),
    ("nn and optim", ("nn/*.py", "optim/*.py"), 0.90),
    ("recurrence", ("recurrence/*.py", "recurrence/drivers/*.py"), 0.90),
]
MOST_EQUIVALENT = 0.03
DEAD = ("killed", "timeout")


# ---------------------------------------------------------------------------------------------
# Which tests, in which order


class Tests:
    """What is known of the tests from a survey, and from the mutants they have killed."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.failing = set(found["failed"])
        self.tests = [test for test in found["tests"] if test["id"] not in self.failing]
        self.seconds = {test["id"]: test["seconds"] for test in self.tests}
        self.compiling = {test["id"] for test in self.tests if COMPILER in test["entered"]}
        self.at_import = {file: set(lines) for file, lines in found["at_import"].items()}
        self._by_line = self._sorted_in("lines")
        self._by_entry = self._sorted_in("entered")
        self._killers: dict[tuple[str, int], list[str]] = defaultdict(list)

    def _sorted_in(self, what: str) -> dict[tuple[str, int], list[str]]:
        table: dict[tuple[str, int], list[str]] = defaultdict(list)
        for test in sorted(self.tests, key=lambda test: (test["seconds"], test["id"])):
            for file, lines in test.get(what, {}).items():
                for line in lines:
                    table[file, line].append(test["id"])
        return table

    def belonging_to(self, mutant: Mutant, functions: dict[int, set[str]]) -> list[str]:
        """The tests that can notice a mutant, those first that noticed its neighbours.

        `functions` has for each function of the file, by its first line, the names it uses.
        """
        first, last = mutant.statement
        if mutant.entry:
            found = self._by_line.get((mutant.file, mutant.line))
            if not found:  # an expression's later lines need not count as lines of their own
                found = self._united(mutant.file, range(first, last + 1), self._by_line)
            if not found:
                found = self._by_entry.get((mutant.file, mutant.entry), [])
            if mutant.entry in self.at_import.get(mutant.file, ()):  # all may live by what it did
                found = [*found, *self._united(mutant.file, functions, self._by_entry)]
        else:
            # At import: what is defined in the statement, else what uses a name it defines.
            inside = [line for line in functions if first <= line <= last]
            users = [line for line, names in functions.items() if mutant.function in names]
            found = self._united(mutant.file, inside, self._by_entry)
            found = found or self._united(mutant.file, users, self._by_entry)
            found = found or self._united(mutant.file, functions, self._by_entry)
        proven = [name for name in self._killers[mutant.file, mutant.entry] if name in set(found)]
        chosen, total = [], 0.0
        for name in dict.fromkeys([*proven, *found]):
            total += self.seconds[name]
            if chosen and total > ENOUGH:
                break
            chosen.append(name)
        return chosen

    def limit(self, name: str) -> float:
        """Seconds of processor time after which a mutant has made a test run without end."""
        return 3.0 + 20 * self.seconds[name] + COMPILING * (name in self.compiling)

    def _united(
        self, file: str, lines: Iterable[int], table: dict[tuple[str, int], list[str]]
    ) -> list[str]:
        names = {name for line in lines for name in table.get((file, line), ())}
        return sorted(names, key=lambda name: (self.seconds[name], name))

    def has_killed(self, mutant: Mutant, name: str) -> None:
        """Try this test first on the next mutant of the same function."""
        if name in self.seconds:
            killers = self._killers[mutant.file, mutant.entry]
            if name in killers:
                killers.remove(name)
            killers.insert(0, name)


def functions_of(source: str, file: str) -> dict[int, set[str]]:
    """The functions of a source by their first line, each with the names that it uses."""
    found: dict[int, set[str]] = {}
    todo = [compile(source, file, "exec", dont_inherit=True)]
    while todo:
        code = todo.pop()
        for inner in code.co_consts:
            if isinstance(inner, type(code)):
                todo.append(inner)
                names = {*inner.co_names, *inner.co_freevars, inner.co_name}
                found.setdefault(inner.co_firstlineno, set()).update(names)
    return found


# ---------------------------------------------------------------------------------------------
# Results on disk


def digest(*parts: bytes) -> str:
    """A short name for some bytes."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


@dataclass(frozen=True)
class Keys:
    """What a result is valid for: the text of the mutated file, and of the tests."""

    tests: str
    files: dict[str, str]

    @classmethod
    def of(cls, project: Project, files: Iterable[str]) -> Keys:
        tests = sorted((project.root / "tests").rglob("*.py"))
        texts = [os.fspath(t.relative_to(project.root)).encode() + t.read_bytes() for t in tests]
        options = repr((project.tests, project.examples)).encode()
        return cls(
            digest(options, *texts),
            {file: digest(project.path(file).read_bytes()) for file in files},
        )


class Results:
    """What became of each mutant, in a file of JSON lines that grows as they are tried."""

    def __init__(self, path: Path, keys: Keys) -> None:
        self.path, self.keys = path, keys
        self.found: dict[str, Outcome] = {}

    def load(self, also_older_kills: bool) -> None:
        """Take over what is valid still.

        `also_older_kills`: what other tests have killed counts too. That is right while tests are
        only added, and so for the next look at the survivors; not for a report.
        """
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            entry = json.loads(line)
            same_file = self.keys.files.get(entry["file"]) == entry["source"]
            same_tests = entry["tests"] == self.keys.tests
            if same_file and (same_tests or (also_older_kills and entry["status"] in DEAD)):
                outcome = Outcome(entry["status"], entry["by"], entry["seconds"])
                self.found[entry["id"]] = outcome

    def add(self, mutant: Mutant, outcome: Outcome) -> None:
        """Note a result, and write it down."""
        self.found[mutant.id] = outcome
        entry = {
            "id": mutant.id,
            "file": mutant.file,
            "source": self.keys.files[mutant.file],
            "tests": self.keys.tests,
            "status": outcome.status,
            "by": outcome.by,
            "seconds": round(outcome.seconds, 3),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def surveyed(project: Project, keys: Keys, path: Path) -> dict[str, Any]:
    """The survey of the tests, or the one on disk if nothing has changed since."""
    key = digest(keys.tests.encode(), repr(sorted(keys.files.items())).encode())
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text())
        if found["key"] == key:
            return found
    found = {"key": key, **survey(project)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))
    return found


# ---------------------------------------------------------------------------------------------
# Trying them


class Run:
    """All mutants, tried by several workers at a time."""

    def __init__(
        self, project: Project, sources: dict[str, str], tests: Tests, results: Results
    ) -> None:
        self.project, self.sources, self.tests, self.results = project, sources, tests, results
        self.functions = {file: functions_of(text, file) for file, text in sources.items()}

    def task(self, mutant: Mutant, fresh: bool) -> Task:
        """What a worker is to do."""
        names = self.tests.belonging_to(mutant, self.functions[mutant.file])
        limits = [self.tests.limit(name) for name in names]
        text = mutant.apply(self.sources[mutant.file])
        return Task(mutant.file, text, names, limits, fresh)

    def trial(self, workers: Sequence[Worker]) -> None:
        """A mutant that changes nothing must survive, in either way; else every kill is a lie."""
        file, text = next(iter(self.sources.items()))
        names = [test["id"] for test in self.tests.tests][::10]
        for fresh in (False, True):
            for worker in workers:
                worker.start(Task(file, text, names, [600.0] * len(names), fresh))
            for worker in workers:
                outcome = worker.outcome()
                if outcome.status != "survived":
                    raise RuntimeError(f"without any mutant the tests fail: {outcome}")

    def all(self, todo: Sequence[Mutant], jobs: int) -> None:
        """Try them in their order, and say from time to time how far it has come."""
        queue = [(mutant, mutant.entry == 0) for mutant in reversed(todo)]
        workers = [Worker(self.project) for _ in range(min(jobs, len(todo)))]
        try:
            self.trial(workers)
            busy: dict[Any, tuple[Worker, Mutant, Task]] = {}
            idle = list(workers)
            done, begin, told = 0, time.monotonic(), 0.0
            while queue or busy:
                while queue and idle:
                    mutant, fresh = queue.pop()
                    task = self.task(mutant, fresh)
                    if task.tests:
                        worker = idle.pop()
                        worker.start(task)
                        busy[worker.connection] = worker, mutant, task
                    else:
                        self.results.add(mutant, Outcome("survived", "no test enters it"))
                        done += 1
                for connection in wait(list(busy)) if busy else ():
                    worker, mutant, task = busy.pop(connection)
                    idle.append(worker)
                    outcome = worker.outcome()
                    if self._needs_a_fresh_process(mutant, task, outcome):
                        queue.append((mutant, True))
                        continue
                    self.results.add(mutant, outcome)
                    self.tests.has_killed(mutant, outcome.by)
                    done += 1
                spent = time.monotonic() - begin
                if spent - told > 30:
                    told = spent
                    alive = sum(
                        self.results.found[m.id].status == "survived"
                        for m in todo[:done]
                        if m.id in self.results.found
                    )
                    print(f"{done} of {len(todo)} in {spent:.0f} s, {alive} alive", file=sys.stderr)
        finally:
            for worker in workers:
                worker.stop()

    def _needs_a_fresh_process(self, mutant: Mutant, task: Task, outcome: Outcome) -> bool:
        """Whether a live module could not show the mutant: what it changes ran at import too."""
        ran = mutant.entry in self.tests.at_import.get(mutant.file, ())
        unseen = outcome.status == "survived" and ran
        return not task.fresh and (outcome.status == "not live" or unseen)


# ---------------------------------------------------------------------------------------------
# Those that are no mutants


@dataclass(frozen=True)
class Equivalent:
    """A survivor that does nothing wrong, with the reason."""

    file: str
    function: str
    line: str
    becomes: str
    reason: str

    def is_(self, mutant: Mutant, source: str) -> bool:
        """Whether it speaks of this mutant."""
        return (self.file, self.function) == (mutant.file, mutant.function) and (
            self.line,
            self.becomes,
        ) == mutant.lines(source)


def equivalents(path: Path) -> list[Equivalent]:
    """The list kept by hand: reasons, each with the changes that it holds for."""
    if not path.exists():
        return []
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    return [
        Equivalent(
            change["file"],
            change.get("function", ""),
            change["line"],
            change["becomes"],
            " ".join(group["reason"].split()),
        )
        for group in found.get("equivalent", [])
        for change in group["changes"]
    ]


def excused(
    known: Sequence[Equivalent],
    tried: Sequence[Mutant],
    sources: dict[str, str],
    results: dict[str, Outcome],
) -> tuple[dict[str, str], list[str]]:
    """The reasons by mutant; and what is wrong with the list.

    Wrong is an entry that speaks of no mutant (its line has changed), or of one that was killed.
    `tried` may have mutants without a result: an entry that speaks of these only is taken as it is.
    """
    reasons: dict[str, str] = {}
    stale = []
    for entry in known:
        if entry.file not in sources:
            continue
        found = [m for m in tried if entry.is_(m, sources[entry.file])]
        judged = [m for m in found if m.id in results]
        alive = [m for m in judged if results[m.id].status == "survived"]
        if not alive and (judged or not found):
            what = "was killed" if found else "is none of the mutants"
            stale.append(f"{entry.file}, {entry.function}: `{entry.becomes}` {what}")
        reasons.update({m.id: entry.reason for m in alive})
    return reasons, stale


# ---------------------------------------------------------------------------------------------
# The report


@dataclass
class Score:
    """How many of some mutants have died."""

    mutants: int = 0
    killed: int = 0
    timeout: int = 0
    equivalent: int = 0

    @property
    def survived(self) -> int:
        """Those alive, without the ones called equivalent."""
        return self.mutants - self.killed - self.timeout - self.equivalent

    @property
    def share(self) -> float:
        """Of all mutants, those called equivalent among them, how many have died."""
        return (self.killed + self.timeout) / self.mutants if self.mutants else 1.0

    def row(self, name: str) -> str:
        """One line of the table."""
        return (
            f"| {name} | {self.mutants} | {self.killed} | {self.timeout} | {self.survived} | "
            f"{self.equivalent} | {100 * self.share:.1f} % |"
        )


def score(tried: Iterable[Mutant], results: dict[str, Outcome], reasons: dict[str, str]) -> Score:
    """Count."""
    tried = list(tried)
    status = Counter(results[m.id].status for m in tried)
    return Score(
        len(tried), status["killed"], status["timeout"], sum(m.id in reasons for m in tried)
    )


_Z95 = statistics.NormalDist().inv_cdf(0.975)


def wilson(count: int, of: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share: the p with |count / of - p| <= z sqrt(p (1 - p) / of).

    As tasks.harness has it, which cannot be imported here: it imports what is to be mutated.
    """
    share, z2 = count / of, _Z95 * _Z95
    middle = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = _Z95 / (1 + z2 / of) * math.sqrt(share * (1 - share) / of + z2 / (4 * of * of))
    return (middle - half if count else 0.0, middle + half if count < of else 1.0)


def sample_of(found: Sequence[Mutant], size: int, draw: int) -> list[Mutant]:
    """So many of some mutants, in their order: those whose names have the smallest hashes.

    Another `draw` gives another sample, and the same one always the same.
    """
    lot = {m.id: digest(str(draw).encode(), m.id.encode()) for m in found}
    chosen = sorted(found, key=lambda m: (lot[m.id], m.id))[:size]
    return sorted(chosen)


def groups_of(files: Iterable[str], goals: list[tuple[str, tuple[str, ...], float]]) -> Any:
    """Each group's name, the files of it, and its goal; empty groups left out."""
    for name, patterns, goal in goals:
        found = [f for f in files if any(fnmatch(f, pattern) for pattern in patterns)]
        if found:
            yield name, found, goal


def report(
    tried: Sequence[Mutant],
    sources: dict[str, str],
    results: dict[str, Outcome],
    known: Sequence[Equivalent],
    about: str,
    left_out: Sequence[Mutant] = (),
) -> tuple[str, bool]:
    """The report in Markdown, and whether every goal is reached.

    `left_out` are the mutants that a sample does not have; of a group of which there are some, the
    report gives the interval in which the score of all may lie.
    """
    same = {m.id for m in tried if results[m.id].status == "same"}
    tried = [m for m in tried if m.id not in same]
    judged = {m.id: results[m.id] for m in tried}
    reasons, stale = excused(known, [*tried, *left_out], sources, judged)
    lines = ["# Do the tests notice when the library is wrong?", "", about, ""]
    if same:
        lines += [
            f"{len(same)} more changes compile to the same instructions and do not count.",
            "",
        ]
    head = "| | mutants | killed | timed out | survived | called equivalent | score |"
    lines += [head, "|---|--:|--:|--:|--:|--:|--:|"]
    reached, verdicts = not stale, []
    for name, files, goal in groups_of(sources, GROUPS):
        for file in files:
            part = score([m for m in tried if m.file == file], results, reasons)
            if part.mutants:
                lines.append(part.row(f"`{file}`"))
        total = score([m for m in tried if m.file in files], results, reasons)
        lines.append(total.row(f"**{name}**"))
        good = total.share >= goal and total.equivalent <= MOST_EQUIVALENT * total.mutants
        reached = reached and good
        others = sum(m.file in files for m in left_out)
        sample = ""
        if others and total.mutants:
            low, high = wilson(total.killed + total.timeout, total.mutants)
            sample = (
                f" of a sample of {total.mutants} of {total.mutants + others} mutants (95 % "
                f"interval of Wilson for all of them: {100 * low:.1f} to {100 * high:.1f} %)"
            )
        verdicts.append(
            f"{name}: {100 * total.share:.1f} %{sample} have died, the goal is {100 * goal:.0f} %; "
            f"{100 * total.equivalent / max(total.mutants, 1):.1f} % are called equivalent, "
            f"{100 * MOST_EQUIVALENT:.0f} % may be: {'reached' if good else 'NOT reached'}."
        )
    lines += ["", *[f"- {verdict}" for verdict in verdicts]]
    for complaint in stale:
        lines.append(f"- NOT reached: in the list of equivalents, {complaint}.")
    alive = [m for m in tried if results[m.id].status == "survived"]
    for title, some in (
        ("Survivors", [m for m in alive if m.id not in reasons]),
        ("Called equivalent", [m for m in alive if m.id in reasons]),
    ):
        if some:
            lines += ["", f"## {title}", ""]
        for m in some:
            old, new = m.lines(sources[m.file])
            where = f"`{m.file}:{m.line}`{f', {m.function}' if m.function else ''}"
            note = reasons.get(m.id) or results[m.id].by
            lines.append(f"- {where}: `{old}` → `{new}`{f' ({note})' if note else ''}")
    return "\n".join(lines) + "\n", reached


# ---------------------------------------------------------------------------------------------


def chosen_files(package: Path, only: Sequence[str]) -> list[str]:
    """The files to mutate, below the package, in a fixed order."""
    files = [path.relative_to(package).as_posix() for path in sorted(package.rglob("*.py"))]
    wanted = [f for _, found, _ in groups_of(files, GROUPS) for f in found]
    if only:
        unknown = [name for name in only if not any(fnmatch(f, name) for f in wanted)]
        if unknown:
            raise SystemExit(f"no such file among those that are mutated: {', '.join(unknown)}")
        wanted = [f for f in wanted if any(fnmatch(f, name) for name in only)]
    return wanted


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"a sample has at least one mutant, not {number}")
    return number


def _chosen(options: argparse.Namespace) -> str:
    """The options that say what a report is about."""
    found = "".join(
        [
            f" --{name} {' '.join(chosen)}"
            for name in ("only", "tests")
            if (chosen := getattr(options, name))
        ]
    )
    if options.sample:
        found += f" --sample {options.sample} --draw {options.draw}"
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutation", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="FILE", help="ops/linalg.py …")
    parser.add_argument("--resume", action="store_true", help="take over what is valid still")
    parser.add_argument(
        "--survivors",
        action="store_true",
        help="as --resume, and what older tests have killed counts too: for a quick look",
    )
    parser.add_argument(
        "--sample", type=_positive, metavar="N", help="only N mutants of each group, by lot"
    )
    parser.add_argument("--draw", type=int, default=0, help="which sample (0)")
    parser.add_argument(
        "--tests", nargs="+", default=[], metavar="FOLDER", help="judges: recurrence …, below tests"
    )
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time (2)")
    parser.add_argument("--out", type=Path, help="write the report there")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    parser.add_argument("--package", default="microtensor", help=argparse.SUPPRESS)
    parser.add_argument("--equivalents", type=Path, default=EQUIVALENTS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)

    root = options.root.resolve()
    judges = options.tests or [name for name in TESTS if (root / "tests" / name).is_dir()]
    absent = [name for name in judges if not (root / "tests" / name).exists()]
    if absent:
        raise SystemExit(f"no such tests: {', '.join(absent)}")
    tests = tuple(f"tests/{name}" for name in judges) or ("tests",)
    state = root / STATE
    every = tuple(chosen_files(root / options.package, []))
    project = Project(root, options.package, tests, EXAMPLES, every, state / "compiled")
    out = options.out.resolve() if options.out else None
    begin = time.monotonic()
    prepare(project)
    files = chosen_files(root / options.package, options.only)
    sources = {file: project.path(file).read_text(encoding="utf-8") for file in files}
    keys = Keys.of(project, every)
    results = Results(state / "results.jsonl", keys)
    if options.resume or options.survivors:
        results.load(options.survivors)
    known_tests = Tests(surveyed(project, keys, state / "tests.json"))
    tried = [mutant for file in files for mutant in mutants(file, sources[file])]
    left_out: list[Mutant] = []
    if options.sample:
        every_one = tried
        tried = [
            mutant
            for _, some, _ in groups_of(files, GROUPS)
            for mutant in sample_of(
                [m for m in every_one if m.file in some], options.sample, options.draw
            )
        ]
        left_out = sorted(set(every_one) - set(tried))
    todo = [mutant for mutant in tried if mutant.id not in results.found]
    print(f"{len(tried)} mutants, {len(todo)} to be tried", file=sys.stderr)
    Run(project, sources, known_tests, results).all(todo, options.jobs)

    minutes = (time.monotonic() - begin) / 60
    about = (
        f"`python -m benchmarks.mutation{_chosen(options)}`, {options.jobs} at a time, "
        f"Python {platform.python_version()}: {len(todo)} mutants tried in {minutes:.0f} minutes"
        f"{f', {len(tried) - len(todo)} taken over from before' if len(todo) < len(tried) else ''}."
        f" A property test runs {EXAMPLES} examples, the same ones each time; a mutant that has "
        f"seen {ENOUGH:.0f} seconds of tests pass has survived. {len(known_tests.tests)} tests are "
        f"the judges; {len(known_tests.failing)} are not, because they need Hypothesis to shrink."
    )
    known = equivalents(options.equivalents)
    text, reached = report(tried, sources, results.found, known, about, left_out)
    print(text)
    some = options.only or options.survivors or options.sample or options.tests
    full = root == ROOT and not some
    if out or full:
        (out or REPORT).write_text(text, encoding="utf-8")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
