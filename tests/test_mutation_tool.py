"""The mutation tool: what it changes, what it leaves alone, and a whole run on a toy."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from benchmarks._mutants import mutants
from benchmarks._mutation_workers import CACHE, COMPILERS, Outcome, Project, Task, _tried
from benchmarks.mutation import (
    COMPILER,
    COMPILING,
    ENOUGH,
    Equivalent,
    Score,
    equivalents,
    excused,
    functions_of,
    report,
    sample_of,
    wilson,
)
from benchmarks.mutation import (
    Tests as Judges,
)
from tasks import harness

ROOT = Path(__file__).parents[1]


def changes(source, kind=None):
    """What stands instead of what, in order."""
    found = mutants("ops/toy.py", textwrap.dedent(source))
    return [m.change for m in found if kind in (None, m.kind)]


# -- what is changed


def test_binary_operators_lose_a_side_swap_sides_and_become_another_one():
    assert changes("c = a - b") == [
        "a - b -> a",
        "a - b -> b",
        "a - b -> (a + b)",
        "a - b -> (b - a)",
    ]
    assert changes("c = a * b") == ["a * b -> a", "a * b -> b", "a * b -> (a / b)"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a + b", "a - b"),
        ("a / b", "a * b"),
        ("a @ b", "a * b"),
        ("a**b", "a * b"),
        ("a // b", "a * b"),
        ("a % b", "a // b"),
        ("a | b", "a & b"),
        ("a >> b", "a << b"),
        ("a == b", "a != b"),
        ("a is None", "a is not None"),
        ("a not in b", "a in b"),
        ("a and b", "a or b"),
    ],
)
def test_every_operator_has_a_partner(old, new):
    assert f"{old} -> ({new})" in changes(f"c = {old}", "operator")


def test_a_comparison_moves_its_boundary_and_turns_round():
    assert changes("c = a < b", "operator") == ["a < b -> (a <= b)", "a < b -> (a >= b)"]
    assert "0 <= a < b -> (0 <= a <= b)" in changes("c = 0 <= a < b")


def test_precedence_is_kept():
    (drop,) = (m for m in mutants("x.py", "c = d / (a - b)") if m.change == "a - b -> (a + b)")
    assert drop.apply("c = d / (a - b)") == "c = d / ((a + b))"
    assert "a * (b + c) -> (b + c)" in changes("d = a * (b + c)")
    assert "a and (b or c) -> (a or (b or c))" in changes("d = a and (b or c)")


def test_conditions_and_signs_are_turned_round():
    assert changes("if ready:\n    go()") == ["ready -> (not ready)"]
    assert changes("b = [x for x in y if x]", "negation") == ["x -> (not x)"]
    assert changes("if not ready:\n    go()") == ["not ready -> ready"]
    assert changes("b = -a") == ["-a -> a"]


def test_numbers_and_truth_values_change_and_texts_do_not():
    assert changes("a = [0, 1, 7, 0.5, True]") == [
        "0 -> 1",
        "1 -> 0",
        "1 -> 2",
        "7 -> 8",
        "0.5 -> 1.5",
        "True -> False",
    ]
    assert changes("a = 'text' + \"more\"") == []


def test_names_are_exchanged_for_the_next_parameter_of_the_same_function():
    assert changes("f = lambda g, x, out: x", "name") == ["x -> out"]
    assert changes("def f(self, xp, a, *, b):\n    return g(self, xp, b)", "name") == ["b -> a"]
    assert changes("def f(a, b):\n    return [a for a in c]", "name") == []


def test_the_first_two_arguments_of_a_call_are_swapped_where_that_matters():
    assert changes("f(a, b, c)") == ["a, b -> b, a"]
    assert changes("maximum(a, b), isinstance(a, b), f(a, a), f(*a, b), f('a', b)") == []


def test_adding_in_place_is_taken_apart():
    assert set(changes("a += b")) == {"a += b -> a -= b", "a += b -> a = b", "a += b -> pass"}


# -- what is left alone


@pytest.mark.parametrize(
    "source",
    [
        '"""1 + 1."""',
        'def f():\n    """1 + 1."""',
        "def f(a: 1 + 1) -> 2: ...",
        "a: 1 + 1",
        "def f(a):\n    raise ValueError(a + 1, a < 2)",
        "a = f'{b + 1}'",
        "__all__ = [f(1)]",
        "class A:\n    __slots__ = f(1)",
        "class A:\n    def __repr__(self):\n        return 1 + 1",
        "class A:\n    def extra_repr(self):\n        return 1 + 1",
        "if TYPE_CHECKING:\n    a = 1",
        "@overload\ndef f(a=1): ...",
        "Axis = int | None\ndef f(a: Axis): ...",
        "warnings.warn(f(1), stacklevel=2)",
        "zip(a, strict=True)",
    ],
)
def test_left_alone(source):
    assert changes(source) == []


def test_what_only_goes_into_a_message_is_left_alone():
    source = """
        def f(a):
            name = "one" if len(a) == 1 else "many"
            if bad(a):
                text = a[1]
                raise ValueError(name, text)
            return a
        """
    assert changes(source) == ["bad(a) -> (not bad(a))"]


def test_but_the_condition_for_raising_is_changed_and_so_is_what_is_used_elsewhere_too():
    source = """
        def f(a):
            name = a + 1
            if name > 3:
                raise ValueError(name)
        """
    assert "a + 1 -> a" in changes(source)
    assert "name > 3 -> (name >= 3)" in changes(source)


# -- where it is


SOURCE = '''"""ä ö ü."""

def f(a, b):
    σ = (a +
         b)  # one
    return σ - 1

x = (lambda g, y: g * y)
'''


def test_mutants_are_found_in_the_order_of_the_text_and_have_ids_of_their_own():
    found = mutants("ops/toy.py", SOURCE)
    assert found == mutants("ops/toy.py", SOURCE)
    assert [m.line for m in found] == sorted(m.line for m in found)
    assert len({m.id for m in found}) == len(found)
    assert found[0].id == "ops/toy.py:4:10 drop: a + b -> (a )"
    assert [m.id for m in found if m.function == "f" and m.kind == "constant"] == [
        "ops/toy.py:6:16 constant: 1 -> 0",
        "ops/toy.py:6:16 constant: 1 -> 2",
    ]


def test_every_mutant_compiles_differs_and_leaves_the_lines_below_where_they_were():
    for mutant in mutants("ops/toy.py", SOURCE):
        mutated = mutant.apply(SOURCE)
        assert mutated != SOURCE
        assert mutated.splitlines()[-1].startswith("x = ")
        compile(mutated, "toy.py", "exec")


def test_a_mutant_knows_its_function_and_its_statement():
    by_change = {m.change: m for m in mutants("ops/toy.py", SOURCE)}
    minus = by_change["σ - 1 -> (σ + 1)"]
    assert (minus.function, minus.entry, minus.statement) == ("f", 3, (6, 6))
    rule = by_change["g * y -> g"]
    assert (rule.function, rule.entry, rule.statement) == ("", 8, (8, 8))
    (default,) = mutants("ops/toy.py", "class A:\n    def f(self, a=3):\n        return a")
    assert (default.function, default.entry, default.statement) == ("A", 0, (1, 3))


def test_functions_are_known_by_their_first_line_with_the_names_they_use():
    source = "def f():\n    return LIMIT\n\n@decorated\ndef g():\n    return (lambda: other)\n"
    found = functions_of(source, "toy.py")
    assert "LIMIT" in found[1]
    assert "other" in found[6]
    assert 4 in found


# -- scores, and the list of equivalents


def test_survivors_count_against_the_score_even_if_they_are_called_equivalent():
    score = Score(mutants=100, killed=90, timeout=2, equivalent=3)
    assert (score.survived, score.share) == (5, 0.92)


def test_an_entry_of_the_list_that_speaks_of_no_living_mutant_is_stale():
    source = "def f(a):\n    return a + 1\n"
    tried = mutants("ops/toy.py", source)
    alive = next(m for m in tried if m.new == "a")
    results = {m.id: Outcome("survived" if m is alive else "killed") for m in tried}
    line = "return a + 1"
    entries = [
        Equivalent("ops/toy.py", "f", line, "return a", "it is so"),
        Equivalent("ops/toy.py", "f", line, "return (a - 1)", "but a test noticed"),
        Equivalent("ops/toy.py", "f", "return b + 1", "return b", "the line is gone"),
        Equivalent("ops/other.py", "f", "return b + 1", "return b", "not looked at this time"),
    ]
    reasons, stale = excused(entries, tried, {"ops/toy.py": source}, results)
    assert reasons == {alive.id: "it is so"}
    assert len(stale) == 2
    assert "was killed" in stale[0]
    assert "none of the mutants" in stale[1]


def test_the_list_of_equivalents_gives_a_reason_for_each():
    for entry in equivalents(ROOT / "benchmarks" / "mutation_equivalents.toml"):
        assert entry.reason
        source = (ROOT / "microtensor" / entry.file).read_text(encoding="utf-8")
        found = [m for m in mutants(entry.file, source) if entry.is_(m, source)]
        assert found, f"{entry} speaks of no mutant; its line has changed"


def test_an_entry_of_the_list_is_not_stale_because_its_mutant_was_not_in_the_sample():
    source = "def f(a):\n    return a + 1\n"
    found = mutants("ops/toy.py", source)
    alive = next(m for m in found if m.new == "a")
    entries = [Equivalent("ops/toy.py", "f", "return a + 1", "return a", "it is so")]
    others = {m.id: Outcome("killed") for m in found if m is not alive}
    assert excused(entries, found, {"ops/toy.py": source}, others) == ({}, [])
    assert excused([], found, {"ops/toy.py": source}, others) == ({}, [])


# -- a sample


MANY = "\n".join(f"a{i} = b + {i}" for i in range(2, 60))


def test_a_sample_is_the_same_each_time_and_another_draw_is_another_one():
    found = mutants("ops/toy.py", MANY)
    some = sample_of(found, 40, 0)
    assert len(some) == 40
    assert some == sample_of(found[::-1], 40, 0)
    assert some == [m for m in found if m in set(some)], "in the order of the text"
    assert set(sample_of(found, 20, 0)) < set(some), "a smaller one is a part of it"
    other = sample_of(found, 40, 1)
    assert 0 < len(set(some) & set(other)) < 40
    assert sample_of(found, len(found), 1) == sample_of(found, 10**6, 0) == found


def test_whether_a_mutant_is_in_the_sample_does_not_hang_on_its_neighbours():
    """By lot among all: what was drawn stays drawn when others go."""
    found = mutants("ops/toy.py", MANY)
    some = sample_of(found, 40, 0)
    assert sample_of([m for m in found if m not in set(some[:10])], 30, 0) == some[10:]


@pytest.mark.parametrize("of", [1, 2, 9, 250])
def test_the_interval_is_the_one_of_the_tasks(of):
    for count in range(of + 1):
        assert wilson(count, of) == pytest.approx(harness.wilson(count, of), abs=1e-15)
        low, high = wilson(count, of)
        assert low <= count / of <= high


def test_a_report_of_a_sample_says_so_and_a_whole_one_does_not():
    source = "def f(a, b, c):\n    return a - b / c\n"
    found = mutants("ops/toy.py", source)
    tried, left_out = found[:4], found[4:]
    results = {m.id: Outcome("survived" if m is tried[0] else "killed") for m in tried}
    text, reached = report(tried, {"ops/toy.py": source}, results, [], "how", left_out)
    low, high = wilson(3, 4)
    assert (
        f"- ops and engine: 75.0 % of a sample of 4 of {len(found)} mutants (95 % interval of "
        f"Wilson for all of them: {100 * low:.1f} to {100 * high:.1f} %) have died, the goal is 95"
    ) in text
    assert not reached
    whole, _ = report(tried, {"ops/toy.py": source}, results, [], "how")
    assert "- ops and engine: 75.0 % have died" in whole
    assert "sample" not in whole


# -- limits, and what is compiled


def test_a_test_that_compiles_is_given_the_time_for_it():
    seconds = {"quick": 0.1, "compiles": 0.1}
    entered = {"quick": {"ops/toy.py": [1]}, "compiles": {"ops/toy.py": [1], COMPILER: [5]}}
    found = [
        {"id": name, "seconds": seconds[name], "lines": entered[name], "entered": entered[name]}
        for name in seconds
    ]
    known = Judges({"tests": found, "failed": [], "at_import": {}})
    assert known.limit("compiles") - known.limit("quick") == COMPILING > ENOUGH


@pytest.mark.parametrize("file", ["ops/toy.py", *COMPILERS])
def test_a_mutant_has_a_folder_of_its_own_for_what_is_compiled(file, tmp_path, monkeypatch):
    """With what the survey left there, unless it might have made something else of it."""
    monkeypatch.setenv(CACHE, "")
    kept = tmp_path / "compiled"
    (kept / "below").mkdir(parents=True)
    (kept / "below" / "code").write_text("whole")
    project = Project(tmp_path, "toy", ("tests",), 10, (file,), kept)
    task = Task(file, "", [], [], fresh=False)

    def work(descriptor):
        folder = Path(os.environ[CACHE])
        found = [path.name for path in sorted(folder.rglob("*"))]
        (folder / "new").write_text("mine")
        for path in folder.rglob("code"):
            path.with_name("other").write_text("another")
            path.with_name("other").replace(path)
        os.write(descriptor, f"{folder}\n{' '.join(found)}".encode())

    outcome = _tried(project, task, work)
    assert outcome.by == ("" if file in COMPILERS else "below code")
    assert not Path(outcome.status).exists()
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["compiled", "below", "code"]
    assert (kept / "below" / "code").read_text() == "whole"


# -- a whole run


TOY = {
    "pytest.ini": "[pytest]\npythonpath = .\n",
    "toy/__init__.py": "",
    "toy/ops/__init__.py": "",
    "toy/ops/sums.py": """
        from functools import cache

        LIMIT = 10
        UNSEEN = 3


        @cache
        def table():
            return 2 + 3


        def bounded(a, b):
            total = a + b
            return total if total < LIMIT else LIMIT


        def unknown(a):
            return a * 2


        def elsewhere(a):
            return a - 1


        def eaten(bread):
            while bread:
                bread = bread[1:]
            return bread
        """,
    "tests/test_sums.py": """
        import inspect
        import threading

        from toy.ops import sums
        from toy.ops.sums import bounded, eaten


        def test_some_table():
            assert sums.table()


        def test_the_table():
            assert sums.table() == 5


        def test_the_source_is_what_runs():
            sums.table()
            assert "UNSEEN = 3\\n" in inspect.getsource(sums)


        def test_in_a_thread():
            found = []
            thread = threading.Thread(target=lambda: found.append(sums.elsewhere(5)))
            thread.start()
            thread.join()
            assert found == [4]


        def test_small():
            assert bounded(4, 1) == 5


        def test_large():
            assert bounded(40, 1) == 10


        def test_eaten():
            assert eaten([1, 2, 3]) == []
        """,
}


CHANGES = [
    m.lines(textwrap.dedent(TOY["toy/ops/sums.py"]))[1]
    for m in mutants("ops/sums.py", textwrap.dedent(TOY["toy/ops/sums.py"]))
]


@pytest.fixture
def toy(tmp_path):
    for name, text in TOY.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))

    def run(*options):
        command = [sys.executable, "-m", "benchmarks.mutation", "--root", str(tmp_path)]
        command += ["--package", "toy", "--equivalents", str(tmp_path / "equivalents.toml")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [*command, *options], capture_output=True, text=True, env=environment, cwd=ROOT
        )

    return run


def test_a_run_finds_the_survivors_of_a_toy_and_takes_its_results_up_again(toy, tmp_path):
    first = toy("--jobs", "2", "--out", str(tmp_path / "report.md"))
    assert first.returncode == 1, first.stderr
    assert (tmp_path / "report.md").read_text() in first.stdout
    survivors = first.stdout.partition("## Survivors")[2].splitlines()
    assert "`return a * 2` → `return a` (no test enters it)" in first.stdout
    moved = (
        "- `ops/sums.py:15`, bounded: `return total if total < LIMIT else LIMIT` → "
        "`return total if (total <= LIMIT) else LIMIT`"
    )
    assert moved in survivors
    for killed in ("(a - b)", "LIMIT = 11", "total >= LIMIT", "UNSEEN = 4", "(2 - 3)", "a - 2"):
        assert killed in " ".join(CHANGES)
        assert not any(killed in line for line in survivors)
    (row,) = [line for line in first.stdout.splitlines() if line.startswith("| `ops/sums.py`")]
    timed_out = int(row.split("|")[4])
    assert timed_out == 1, "a loop without end"

    (tmp_path / "equivalents.toml").write_text(
        '[[equivalent]]\nreason = "LIMIT is LIMIT"\nchanges = [\n'
        '{ file = "ops/sums.py", function = "bounded", '
        'line = "return total if total < LIMIT else LIMIT", '
        'becomes = "return total if (total <= LIMIT) else LIMIT" },\n'
        '{ file = "ops/sums.py", function = "bounded", line = "gone", becomes = "away" }]\n'
    )
    again = toy("--resume")
    assert again.returncode == 1
    assert ", 0 to be tried" in again.stderr
    assert f"{moved} (LIMIT is LIMIT)" in again.stdout.partition("## Called equivalent")[2]
    assert "`away` is none of the mutants" in again.stdout


def test_a_sample_of_a_toy(toy, tmp_path):
    whole = len(CHANGES)
    run = toy("--sample", "5", "--draw", "2", "--tests", "test_sums.py", "--jobs", "1")
    assert f"{5} mutants, 5 to be tried" in run.stderr
    (verdict,) = [line for line in run.stdout.splitlines() if line.startswith("- ops and engine")]
    assert f"of a sample of 5 of {whole} mutants" in verdict
    assert "--tests test_sums.py --sample 5 --draw 2`" in run.stdout
    refused = toy("--sample", "0")
    assert refused.returncode == 2
    assert "at least one mutant" in refused.stderr
    refused = toy("--tests", "nowhere")
    assert refused.returncode == 1
    assert "no such tests: nowhere" in refused.stderr


def test_a_file_that_is_not_mutated_is_refused(toy):
    refused = toy("--only", "ops/nothing.py")
    assert refused.returncode == 1
    assert "no such file" in refused.stderr


def test_tests_that_fail_without_any_mutant_are_no_judges(toy, tmp_path):
    path = tmp_path / "tests" / "test_sums.py"
    path.write_text(path.read_text() + "\n\nimport nowhere\n")
    broken = toy()
    assert broken.returncode == 1
    assert "cannot be collected" in broken.stderr
