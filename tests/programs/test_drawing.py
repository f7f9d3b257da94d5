"""What programs are drawn: of every kind of step, long and entangled; and faults show in few lines.

The tests of programs would pass, and mean nothing, if all that is drawn were short and tame.
"""

import collections

import numpy as np
import pytest
from backends import Place
from hypothesis import HealthCheck, Phase, find, given, settings
from programs import naive
from programs.drawing import MARGIN, MOST_NUMBERS, MOST_STEPS, programs
from programs.machines import Ours
from programs.test_programs import ANY, by_the_naive_engine, check_gradients, check_values

import microtensor as mt
from microtensor.testing.planting import Edit, planted

KINDS = {
    "abs", "arithmetic", "assign", "astype", "axes", "clip", "concatenate", "cos", "cumsum",
    "detach", "division", "einsum", "exp", "expm1", "index", "integer index", "log", "log1p",
    "log_softmax", "logsumexp", "mask", "matmul", "max", "maximum", "mean", "min", "minimum",
    "negative", "power", "prod", "rebuilt", "relu", "reshape", "sigmoid", "sign", "sin", "softmax",
    "softplus", "split", "sqrt", "square", "stack", "std", "sum", "take_along_axis", "tanh",
    "transpose", "unstack", "update", "var", "where", "with a number",
}  # fmt: skip


def sample(strategy, count):
    """The same examples every time."""
    found = []

    @settings(max_examples=count, derandomize=True, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(strategy)
    def collect(example):
        found.append(example)

    collect()
    return found


@pytest.fixture(scope="module")
def drawn():
    return sample(ANY, 350)


def share(programs, has):
    return sum(map(bool, map(has, programs))) / len(programs)


def test_every_kind_of_step_is_drawn(drawn):
    assert {step.kind for program in drawn for step in program.steps} == KINDS


def test_programs_are_long_and_of_any_length(drawn):
    lengths = collections.Counter(len(program.steps) for program in drawn)
    # Not each one: what Hypothesis draws depends on the modules that happen to be imported.
    assert len(lengths.keys() & set(range(1, 9))) >= 6
    assert sum(lengths[n] for n in range(12, 20)) >= 15
    assert lengths[MOST_STEPS] >= 15
    assert np.mean([len(program.steps) for program in drawn]) >= 6


def test_values_are_reused_and_paths_are_deep(drawn):
    def uses(program):
        return collections.Counter(i for step in program.steps for i in step.sources())

    def depth(program):
        depths = [0] * len(program.leaves)
        for step in program.steps:
            depths += [1 + max(depths[i] for i in step.takes)] * step.makes
        return max(depths)

    assert share(drawn, lambda program: uses(program) and max(uses(program).values()) >= 2) > 0.6
    assert share(drawn, lambda program: uses(program) and max(uses(program).values()) >= 4) > 0.2
    assert share(drawn, lambda program: depth(program) >= 5) > 0.25
    assert max(map(depth, drawn)) >= 10


def test_paths_are_cut_on_the_way(drawn):
    def has(test):
        return share(drawn, lambda program: any(map(test, program.steps)))

    assert has(lambda step: step.quiet) > 0.25
    assert has(lambda step: step.kind == "detach") > 0.1
    assert has(lambda step: step.kind == "assign") > 0.1
    assert has(lambda step: step.kind == "update") > 0.1
    assert has(lambda step: step.makes > 1) > 0.1


def test_dtypes_are_mixed(drawn):
    for dtypes in ({"float32"}, {"float64"}, {"float32", "float64"}):
        assert share(drawn, lambda program: set(program.dtypes()) == dtypes) > 0.05  # noqa: B023


def test_most_of_a_program_matters(drawn):
    """Results depend on what was computed, and with them the gradients."""
    behind = [
        len(set().union(*[program.behind()[r] for r in program.results])) for program in drawn
    ]
    recorded = [sum(map(bool, program.behind())) for program in drawn]
    assert sum(behind) > 0.6 * sum(recorded)
    assert share(drawn, lambda program: len(program.results) > 1) > 0.2


def test_a_trimmed_program_has_the_same_results(drawn):
    shorter = 0
    for program in drawn[:100]:
        trimmed = program.trimmed()
        shorter += len(trimmed.steps) < len(program.steps)
        values, short = (by_the_naive_engine(p)[0] for p in (program, trimmed))
        for r, s in zip(program.results, trimmed.results, strict=True):
            assert np.array_equal(naive.values(values[r]), naive.values(short[s]))
        needed = {s for step in trimmed.steps for s in step.takes} | set(trimmed.results)
        assert needed >= set(range(len(trimmed.leaves)))
        assert all(needed & set(trimmed.made_by(i)) for i in range(len(trimmed.steps)))
    assert shorter > 20


def test_tolerances_are_tight(drawn):
    """They are computed, and so might be anything."""
    worst = []
    for program in drawn:
        _, gradients, _ = by_the_naive_engine(program)
        scale = max(1.0, *(float(np.max(np.abs(g))) for g, _ in gradients))
        worst.append(program.eps() * max(float(np.max(b)) for _, b in gradients) / scale)
    exact = [w for w, program in zip(worst, drawn, strict=True) if program.eps() < 1e-12]
    assert np.quantile(exact, 0.5) < 1e-12
    assert max(exact) < 1e-8
    # Nine in ten, less three standard errors: which are drawn depends on what is imported.
    n = len(worst)
    assert sum(w < 0.01 for w in worst) > 0.9 * n - 3 * (0.9 * 0.1 * n) ** 0.5


def test_numbers_are_few_bounded_and_off_the_kinks(drawn):
    for program in drawn[:100]:
        values = [naive.values(v) for v in by_the_naive_engine(program)[0]]
        assert all(0 < value.size <= MOST_NUMBERS for value in values)
        assert all(np.isfinite(value).all() for value in values)
        for step in program.steps:
            if step.kind in ("relu", "abs", "sign"):
                threshold = float(step.text.split(" - ")[1].rstrip(")"))
                assert np.min(np.abs(values[step.takes[0]] - threshold)) >= MARGIN


# -- faults: planted, found and cut down to a program that can be read


def disagrees(program):
    """Whether microtensor and the naive engine say different things."""
    machine = Ours(Place("numpy"))
    naives, wanted, bounds = by_the_naive_engine(program)
    try:
        values = machine.run(program)
        check_values(machine, program, values, naives, bounds)
        places = [i for i, behind in enumerate(program.behind()) if behind]
        gradients = mt.grad(
            [values[r] for r in program.results],
            [values[i] for i in places],
            machine.cotangents(program, values),
            allow_unused=True,
        )
        check_gradients(machine, program, values, gradients, wanted, places)
    except Exception:  # whatever a fault leads to
        return True
    return False


ELEMENTWISE = "microtensor.ops.elementwise"
FAULTS = {  # the edit, and how many steps the shortest program has that shows it
    "a slope": (Edit(ELEMENTWISE, "g * (1 - out * out)", "g * (1 + out * out)"), 1),
    "a sign": (Edit(ELEMENTWISE, '"b", lambda g: -g)', '"b", lambda g: g)'), 1),
    "one of two branches": (
        Edit("microtensor.engine", "                total += c\n", "                pass\n"),
        3,
    ),
    "elements that are named twice": (
        Edit("microtensor.backend", "xp.add.at(target, index, values)", "target[index] += values"),
        1,
    ),
    "the axes of a broadcast": (
        Edit("microtensor.engine", "shape[i - extra] != x.shape[i])", "False)"),
        1,
    ),
    "who is cut off": (Edit("microtensor.creation", "return tree.detach()", "return tree"), 1),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_shown_in_few_lines(fault):
    edit, steps = FAULTS[fault]
    with planted(edit):
        program = find(
            programs(most_steps=12),
            disagrees,
            settings=settings(max_examples=2000, derandomize=True, database=None),
        )
    assert len(program.steps) <= steps + 1, program
    assert len(repr(program).splitlines()) <= steps + 5
