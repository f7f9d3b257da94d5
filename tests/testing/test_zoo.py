"""Every bug of the zoo is caught at every seed, and nothing else is; and the zoo keeps its secrets.

So many seeds as a property has examples: 100 with HYPOTHESIS_PROFILE=thorough.

`python tests/testing/test_zoo.py` writes the list of exercises into docs/bug_zoo.md.
"""

import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

import microtensor as mt
from microtensor.testing import GradientError, check_grads, planting, zoo
from microtensor.testing.zoo.__main__ import main
from microtensor.testing.zoo.bugs import ENTRIES
from microtensor.testing.zoo.entries import KINDS

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "bug_zoo.md"
LIST = "<!-- The list below is written by `python tests/testing/test_zoo.py`. -->\n"
SEEDS = range(settings().max_examples)
EXERCISES = zoo.exercises()
NAMES = [f"{exercise.number}-{exercise.kind}" for exercise in EXERCISES]


@pytest.fixture(scope="module")
def as_imported():
    """The functions of every module with bugs, and their code. To find them takes a while."""
    modules = {edit.module: sys.modules[edit.module] for e in ENTRIES for edit in e.edits}
    return {m: [(f, f.__code__) for f in planting._functions(m)] for m in modules.values()}


@pytest.fixture(autouse=True)
def nothing_is_left_planted():
    yield
    left = [exercise for exercise in EXERCISES if exercise.planted]
    zoo.release()
    assert not left


def verdicts(exercise: zoo.Exercise) -> set[tuple[str, str]]:
    found = set()
    for seed in SEEDS:
        try:
            exercise.check(seed)
        except GradientError as error:
            found.add((error.verdict, error.cause))
        else:
            found.add(("silent", ""))
    return found


@pytest.mark.parametrize("exercise", EXERCISES, ids=NAMES)
def test_every_seed_finds_the_bug_and_says_what_it_is(exercise, as_imported):
    entry = ENTRIES[exercise.number - 1]
    with exercise:
        found = verdicts(exercise)
    for module, functions in as_imported.items():  # after a release the library is as before
        assert planting.source_of(module) == Path(module.__file__).read_text(encoding="utf-8")
        assert all(f.__code__ == code for f, code in functions)
    assert {verdict for verdict, _ in found} == {entry.verdict}
    if entry.cause:
        assert {cause for _, cause in found} == {entry.cause}


# Several exercises have the same program.
PROGRAMS = {(ENTRIES[n].program, str(e.inputs())): n for n, e in enumerate(EXERCISES)}


@pytest.mark.parametrize(
    "exercise", [EXERCISES[n] for n in PROGRAMS.values()], ids=[NAMES[n] for n in PROGRAMS.values()]
)
def test_without_the_bug_every_seed_is_silent(exercise):
    assert verdicts(exercise) == {("silent", "")}


# -- the collection


def test_every_class_has_three_bugs_or_more_and_all_are_different():
    kinds = [exercise.kind for exercise in EXERCISES]
    assert set(kinds) == set(KINDS)
    assert len(KINDS) == 10
    assert all(kinds.count(kind) >= 3 for kind in KINDS)
    assert len({entry.edits for entry in ENTRIES}) == len(ENTRIES)


def test_numbers_are_consecutive_and_classes_stand_together():
    assert [exercise.number for exercise in EXERCISES] == list(range(1, len(ENTRIES) + 1))
    order = [list(KINDS).index(exercise.kind) for exercise in EXERCISES]
    assert order == sorted(order)


def test_titles_are_unique_and_hints_are_few():
    assert len({entry.title for entry in ENTRIES}) == len(ENTRIES)
    assert all(1 <= len(entry.hints) <= 3 for entry in ENTRIES)


@pytest.mark.parametrize("exercise", EXERCISES, ids=NAMES)
def test_the_solution_names_the_file(exercise):
    entry = ENTRIES[exercise.number - 1]
    for edit in entry.edits:
        file = inspect.getfile(sys.modules[edit.module])
        assert entry.solution.startswith(f"{Path(file).name}:") or (
            entry.solution.startswith(f"{Path(file).parent.name}/{Path(file).name}:")
        )


@pytest.mark.parametrize("exercise", EXERCISES, ids=NAMES)
def test_nothing_gives_the_solution_away_unasked(exercise, capsys):
    entry = ENTRIES[exercise.number - 1]
    with exercise:
        zoo.visit()
        shown = capsys.readouterr().out + repr(exercise) + repr(entry) + str(vars(zoo))
    for secret in (entry.solution, *entry.hints):
        assert secret not in shown
    for edit in entry.edits:
        assert repr(edit) not in shown


# -- planting


def test_planting_another_one_takes_the_first_out():
    first, second = zoo.plant(5), zoo.plant(6)
    assert (first.planted, second.planted) == (False, True)
    check_grads(first.program, *first.inputs().values())
    with pytest.raises(GradientError):
        check_grads(second.program, *second.inputs().values())
    zoo.release()
    zoo.release()
    assert not second.planted


def test_a_block_releases_also_when_it_fails():
    with pytest.raises(KeyError, match="planted"), zoo.plant(1) as bug:
        raise KeyError("planted" if bug.planted else "not yet")
    assert not bug.planted


@pytest.mark.parametrize("number", [0, -1, len(ENTRIES) + 1])
def test_a_number_that_is_none_is_refused(number):
    with pytest.raises(ValueError, match=rf"there is no exercise {number}; they are 1, ..., "):
        zoo.plant(number)


def test_the_bug_is_in_the_operation_for_everybody():
    x = mt.tensor([3.0], requires_grad=True)
    with zoo.plant(1):
        mt.square(x).sum().backward()
    assert x.grad.numpy() == [3.0]
    x.grad = None
    mt.square(x).sum().backward()
    assert x.grad.numpy() == [6.0]


# -- looking


def test_explain_and_getsource_show_what_is_planted(capsys):
    with zoo.plant(1) as bug:
        bug.explain()
        assert "x = x, by `g * x` with x = [ 1. , -2. , 0.5]" in capsys.readouterr().out
    bug.explain()
    assert "by `g * 2 * x`" in capsys.readouterr().out
    by_hand = next(e for e in EXERCISES if e.vjp is zoo.specimens.relu_backward)
    with by_hand:
        by_hand.explain()
        assert "passed = g\n" in capsys.readouterr().out
        assert "passed = g\n" in inspect.getsource(zoo.specimens.relu_backward)


@pytest.mark.parametrize("exercise", EXERCISES, ids=NAMES)
def test_all_can_be_shown_and_explained(exercise, capsys):
    entry = ENTRIES[exercise.number - 1]
    with exercise:
        exercise.show()
        shown = capsys.readouterr().out
        assert shown.startswith(f"{exercise.number}. {exercise.title}\n")
        assert f"def {entry.program.__name__}(" in shown
        assert all(f"    {name} = np.array(" in shown for name in exercise.inputs())
        exercise.explain()
        assert capsys.readouterr().out


def test_a_hunt_prints_the_verdict_and_how_to_see_it_again(capsys):
    with zoo.plant(1) as bug:
        bug.hunt()
        found = capsys.readouterr().out
        assert found.startswith("wrong gradient: ")
        program = found.partition("To see it again:\n")[2]
        with pytest.raises(GradientError):
            exec(inspect.cleandoc(program), {})
    bug.hunt()
    assert capsys.readouterr().out == "Nothing: the bug is not planted.\n"


def test_the_call_that_is_shown_is_the_hunt(capsys):
    from microtensor.testing import check_optimizer  # noqa: F401  (the call may name it)

    for number in (1, 9, len(ENTRIES)):
        with zoo.plant(number) as bug:
            bug.show()
            call = capsys.readouterr().out.splitlines()[-1].strip()
            with pytest.raises(GradientError) as caught:
                eval(call, {**globals(), **locals()})
            with pytest.raises(GradientError) as expected:
                bug.check()
            assert str(caught.value) == str(expected.value)


def test_hints_come_one_by_one_and_the_solution_last(capsys):
    entry = ENTRIES[0]
    with zoo.plant(1) as bug:
        for n, hint in enumerate(entry.hints, 1):
            bug.hint()
            out = " ".join(capsys.readouterr().out.split())
            assert out == f"Hint {n} of {len(entry.hints)}. {hint}"
        bug.hint()
        assert "no more hints" in capsys.readouterr().out
        bug.solution()
        told = capsys.readouterr().out
        assert entry.solution in " ".join(told.split())
        assert '\n  - square.vjp("x", lambda g, x: g * x)\n' in told
        assert '\n  + square.vjp("x", lambda g, x: g * 2 * x)\n' in told
    zoo.plant(1).hint()  # planted anew, the hints begin anew
    assert "Hint 1 of" in capsys.readouterr().out
    zoo.release()


def test_inputs_are_fresh_arrays_and_of_the_seed_alone():
    for exercise in EXERCISES:
        one, two = exercise.inputs(3), exercise.inputs(3)
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])
            assert not np.shares_memory(one[name], two[name])


# -- from a shell


def test_without_a_number_the_shell_lists_them(capsys):
    assert main([]) is None
    listed = capsys.readouterr().out
    zoo.visit()
    assert listed == capsys.readouterr().out
    assert all(f"{e.number:4}. {e.title}\n" in listed for e in EXERCISES)


def test_with_a_number_the_shell_plants_and_says_what_to_do(capsys):
    bug = main(["7"])
    assert bug is EXERCISES[6]
    assert bug.planted
    told = capsys.readouterr().out
    assert "python -m microtensor.testing.zoo 7 --hunt" in told
    for words, expected in (
        (["--hunt"], "wrong gradient: "),
        (["--explain"], "1. abs"),
        (["--hint", "--hint"], "Hint 2 of"),
        (["--solution"], "ops/piecewise.py"),
    ):
        assert main(["7", *words]).planted
        assert expected in capsys.readouterr().out
    zoo.release()


@pytest.mark.parametrize("words", [["1000"], ["--hunt"], ["seven"]])
def test_the_shell_says_what_it_did_not_understand(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert "python -m microtensor.testing.zoo: error: " in capsys.readouterr().err


def test_it_runs_as_a_module():
    command = [sys.executable, "-W", "error", "-m", "microtensor.testing.zoo", "1", "--hunt"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("wrong gradient: ")


# -- the page


def listing() -> str:
    """The exercises as they stand in docs/bug_zoo.md, hints folded away."""
    parts = []
    for kind, meaning in KINDS.items():
        parts.append(f"### {kind.capitalize()}\n\n{meaning}\n")
        for exercise, entry in zip(EXERCISES, ENTRIES, strict=True):
            if exercise.kind == kind:
                hints = "\n".join(f"{n}. {hint}" for n, hint in enumerate(entry.hints, 1))
                parts.append(
                    f"**{exercise.number}** {exercise.title}\n\n<details><summary>Hints</summary>"
                    f"\n\n{hints}\n\n</details>\n"
                )
    return "\n".join(parts)


def test_the_page_lists_every_exercise():
    _head, _, rest = PAGE.read_text(encoding="utf-8").partition(LIST)
    assert rest == f"\n{listing()}", "run python tests/testing/test_zoo.py"


def test_the_page_keeps_the_solutions_but_the_first():
    page = PAGE.read_text(encoding="utf-8")
    for entry in ENTRIES[1:]:
        assert entry.solution not in page


if __name__ == "__main__":
    before = PAGE.read_text(encoding="utf-8").partition(LIST)[0]
    PAGE.write_text(f"{before}{LIST}\n{listing()}", encoding="utf-8")
