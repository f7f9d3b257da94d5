"""Bugs planted in modules that are running: noticed by everybody, and taken out again."""

import importlib
import linecache
import subprocess
import sys
import textwrap
import traceback

import numpy as np
import pytest

import microtensor as mt
from microtensor.declaration import REGISTRY
from microtensor.ops.elementwise import sin as imported_before
from microtensor.testing import GradientError, check_grads
from microtensor.testing.planting import (
    Edit,
    NotLive,
    Unchanged,
    plant,
    plant_source,
    planted,
    source_of,
    uproot,
)

ELEMENTWISE = "microtensor.ops.elementwise"
WRONG_SINE = Edit(ELEMENTWISE, "lambda g, x: g * cos(x)", "lambda g, x: g * sin(x)")
X = mt.tensor([0.3, 0.5], dtype=np.float64)


def derivative(f, x=0.5):
    x = mt.tensor(x, requires_grad=True, dtype=np.float64)
    return mt.grad(f(x), x).item()


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A user's module, made of a text."""
    monkeypatch.syspath_prepend(tmp_path)
    names = []

    def make(text, name="planting_ground"):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        names.append(name)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield make
    for name in names:
        sys.modules.pop(name, None)


# -- what a planted bug does


def test_a_wrong_rule_is_met_by_everybody_who_holds_the_operation_and_seen_by_check_grads():
    with planted(WRONG_SINE):
        assert derivative(mt.sin) == derivative(imported_before) == pytest.approx(np.sin(0.5))
        with pytest.raises(GradientError):
            check_grads(mt.sin, X)
    assert derivative(mt.sin) == derivative(imported_before) == pytest.approx(np.cos(0.5))
    check_grads(mt.sin, X)


def test_a_forward_held_by_a_recorder_changes():
    with planted(Edit(ELEMENTWISE, "return xp.sin(x)", "return xp.sin(x) + 1")):
        assert mt.sin(0.0) == 1
    assert mt.sin(0.0) == 0


def test_closures_of_the_engine_that_were_made_at_import_change():
    edit = Edit("microtensor.engine", "needs += 2", "needs += 1")
    a = mt.tensor([1.0], requires_grad=True)
    b = mt.tensor([2.0], requires_grad=True)
    with planted(edit):  # which argument is in need is forgotten: left and right are added, 1 + 1
        left, right = mt.grad((a * b).sum(), [a, b], allow_unused=True)
        assert left is None
        assert right.item() == 1
    assert [g.item() for g in mt.grad((a * b).sum(), [a, b])] == [2, 1]


def test_a_method_changes_on_instances_that_exist():
    optimizer = mt.optim.SGD([mt.nn.Parameter(mt.tensor([1.0]))], lr=0.5)
    (parameter,) = optimizer.param_groups[0]["params"]
    parameter.grad = mt.tensor([1.0])
    edit = Edit("microtensor.optim.optimizer", "if keep else None", "if keep else parameter.grad")
    with planted(edit):
        optimizer.zero_grad()
        assert parameter.grad is not None
    optimizer.zero_grad()
    assert parameter.grad is None


@pytest.mark.parametrize(
    ("text", "wrong", "expected"),
    [
        ("lambda g, out: g * (1 - out * out)", "lambda g, x: g * (1 - x * x)", 1 - 0.5**2),
        ("lambda g, out: g * (1 - out * out)", "lambda g: g", 1),
        ("lambda g, out: g * (1 - out * out)", "lambda g, x, out: g * x * out", 0.5 * np.tanh(0.5)),
    ],
)
def test_a_rule_that_names_other_values_is_handed_those(text, wrong, expected):
    with planted(Edit(ELEMENTWISE, text, wrong)):
        assert derivative(mt.tanh) == pytest.approx(expected)
    assert derivative(mt.tanh) == pytest.approx(1 - np.tanh(0.5) ** 2)


def test_a_rule_for_all_arguments_that_names_other_values_is_handed_those():
    def joined(x):
        return mt.concatenate([x, x * 2]).sum()

    edit = Edit(
        "microtensor.ops.shape",
        "lambda g, lengths, axis: _pieces(g, lengths=lengths, axis=axis)",
        "lambda g, lengths: _pieces(g * 3, lengths=lengths, axis=0)",
    )
    x = mt.ones(2, requires_grad=True)
    with planted(edit):
        assert mt.grad(joined(x), x).data.tolist() == [9, 9]
    assert mt.grad(joined(x), x).data.tolist() == [3, 3]


def test_a_rule_that_names_what_there_is_not_is_refused_and_leaves_no_trace():
    text = "lambda g, out: g * (1 - out * out)"
    with pytest.raises(TypeError, match="a rule names 'y'"):
        plant(Edit(ELEMENTWISE, text, "lambda g, y: g"))
    assert derivative(mt.tanh) == pytest.approx(1 - np.tanh(0.5) ** 2)


def test_several_edits_of_several_modules_are_planted_and_undone_together():
    one = Edit(ELEMENTWISE, "return xp.cos(x)", "return xp.cos(x) + 1")
    other = Edit("microtensor.ops.shape", "return xp.flip(x, axis)", "return xp.flip(x, axis) * 2")
    with planted(WRONG_SINE, one, other):
        assert derivative(mt.sin) == pytest.approx(np.sin(0.5))
        assert mt.cos(0.0) == 2
        assert mt.flip(np.ones(1)).tolist() == [2]
    assert derivative(mt.sin) == pytest.approx(np.cos(0.5))
    assert mt.cos(0.0) == 1
    assert mt.flip(np.ones(1)).tolist() == [1]


def test_if_one_of_several_edits_is_refused_none_is_planted():
    constant = '("mean", "sum", "none", "trial")'
    with pytest.raises(NotLive):
        plant(WRONG_SINE, Edit("microtensor.ops.loss", constant, '("mean",)'))
    assert derivative(mt.sin) == pytest.approx(np.cos(0.5))


# -- how it ends


def test_the_module_is_restored_when_the_body_fails():
    with pytest.raises(ZeroDivisionError), planted(WRONG_SINE):
        1 / 0  # noqa: B018
    assert derivative(mt.sin) == pytest.approx(np.cos(0.5))


def test_undoing_twice_does_no_harm():
    undo = plant(WRONG_SINE)
    undo()
    undo()
    again = plant(WRONG_SINE)
    undo()
    assert derivative(mt.sin) == pytest.approx(np.sin(0.5))
    again()
    assert derivative(mt.sin) == pytest.approx(np.cos(0.5))


def test_a_planting_on_top_of_another_is_undone_first():
    below = plant(WRONG_SINE)
    above = plant(Edit(ELEMENTWISE, "lambda g, x: g * sin(x)", "lambda g, x: g * 7"))
    assert derivative(mt.sin) == 7
    with pytest.raises(RuntimeError, match="planted on top"):
        below()
    assert derivative(mt.sin) == 7
    above()
    assert derivative(mt.sin) == pytest.approx(np.sin(0.5))
    below()
    assert derivative(mt.sin) == pytest.approx(np.cos(0.5))


def test_operations_declared_during_a_planting_are_healed_too():
    with planted(Edit("microtensor.engine", "result.data = out\n", "result.data = out + 1\n")):

        @mt.primitive
        def same(xp, x):
            return x.copy()

        same.vjp("x", lambda g: g)
        assert same(mt.tensor([1.0], requires_grad=True)).item() == 2
    try:
        assert same(mt.tensor([1.0], requires_grad=True)).item() == 1
    finally:
        REGISTRY.pop(f"{same.declaration.forward.__module__}.same")


# -- what is refused


@pytest.mark.parametrize(("text", "times"), [("g * cosine(x)", 0), ('.vjp("x", ', "1[0-9]")])
def test_a_text_that_does_not_stand_exactly_once_is_refused_with_its_count(text, times):
    with pytest.raises(ValueError, match=f"exactly once in .*elementwise.* {times} times"):
        plant(Edit(ELEMENTWISE, text, "g"))


def test_a_change_that_makes_no_difference_is_refused():
    with pytest.raises(Unchanged, match="the same as before"):
        plant(Edit(ELEMENTWISE, "g * cos(x))", "g *  (cos(x)))  # the cosine"))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("microtensor.ops.loss", '("mean", "sum", "none", "trial")', '("mean", "sum")'),
        ("microtensor.ops.shape", "value: float = 0)", "value: float = 1)"),
        ("microtensor.ops.comparison", "@primitive(differentiable=False)\ndef equal", "def equal"),
        ("microtensor.ops.elementwise", "def sin(xp: Any, x: Array)", "def sin(xp: Any, y: Array)"),
    ],
    ids=["constant", "default value", "decorator", "parameter of a forward"],
)
def test_what_ran_at_import_only_is_refused(name, old, new):
    source = source_of(importlib.import_module(name))
    if source.count(old) != 1:
        pytest.fail(f"choose another text: {old!r} stands {source.count(old)} times in {name}")
    with pytest.raises(NotLive):
        plant(Edit(name, old, new))


def test_a_source_that_is_no_python_is_refused():
    with pytest.raises(SyntaxError):
        plant(Edit(ELEMENTWISE, "g * cos(x)", "g * cos(x"))
    assert derivative(mt.sin) == pytest.approx(np.cos(0.5))


# -- modules of one's own


def test_a_users_module_with_closures_generators_and_classes(module):
    ground = module(
        """
        def scaled(factor, offset):
            def inner(x):
                return x * factor + offset
            return inner

        double = scaled(2, 1)

        class Box:
            size = 3

            def __init__(self):
                super().__init__()
                self.width = 1

            @property
            def area(self):
                return self.size * self.width

            @classmethod
            def other(cls):
                return cls.size + 1

        def total(n):
            return sum(i * i for i in range(n))
        """
    )
    box = ground.Box()
    with planted(
        Edit("planting_ground", "x * factor + offset", "x * factor"),
        Edit("planting_ground", "self.size * self.width", "self.size + self.width"),
        Edit("planting_ground", "cls.size + 1", "cls.size + 2"),
        Edit("planting_ground", "i * i for", "i + i for"),
    ):
        assert ground.double(5) == 10  # and the closure has kept its variable
        assert (box.area, box.other(), ground.total(4)) == (4, 5, 12)
    assert ground.double(5) == 11
    assert (box.area, box.other(), ground.total(4)) == (3, 4, 14)
    with pytest.raises(NotLive, match="class Box"):
        plant(Edit("planting_ground", "size = 3", "size = 4"))


def test_a_lambda_that_does_not_use_a_variable_around_it_any_more(module):
    ground = module(
        """
        def make(a, b):
            return (lambda x: x + a, lambda x: x + b), lambda: (a, b)

        (first, second), both = make(1, 10)
        """
    )
    with planted(Edit("planting_ground", "lambda x: x + b", "lambda x: x * x")):
        assert (ground.first(3), ground.second(3), ground.both()) == (4, 9, (1, 10))
    assert (ground.first(3), ground.second(3), ground.both()) == (4, 13, (1, 10))


def test_a_function_made_in_a_comprehension(module):
    ground = module(
        """
        def powers(n):
            return [lambda x, i=i: x**i for i in range(n)]

        early = powers(4)
        """
    )
    with planted(Edit("planting_ground", "x**i", "x*i")):
        assert [power(5) for power in ground.early] == [0, 5, 10, 15]
        assert [power(5) for power in ground.powers(3)] == [0, 5, 10]
    assert [power(5) for power in ground.early] == [1, 5, 25, 125]


def test_a_variable_that_a_living_closure_does_not_know_is_refused(module):
    module("def make(a, b):\n    return lambda x: x + a + 0 * len(str(b))\nf = make(1, 2)\n")
    other = module("def make(a, b):\n    return lambda x: x + a\nf = make(1, 2)\n", "other_ground")
    with pytest.raises(NotLive, match="closure"):
        plant(Edit("other_ground", "x + a", "x + b"))
    assert other.f(1) == 2


def test_the_number_of_lines_may_change_and_tracebacks_show_what_runs(module):
    ground = module(
        """
        class Holder:
            size = 1

            def first(self):
                return 1

        def fails(x):
            return 1 / x
        """
    )
    edit = Edit("planting_ground", "return 1\n", "one = 1\n        two = 2\n        return one\n")
    with planted(edit, Edit("planting_ground", "1 / x", "2 / x")):
        assert ground.Holder().first() == 1
        try:
            ground.fails(0)
        except ZeroDivisionError as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
        assert (frame.lineno, frame.line) == (11, "return 2 / x")
    assert linecache.getline(ground.__file__, 9).strip() == "return 1 / x"


def test_a_function_that_was_thrown_away_is_not_live(module):
    module("def f(x):\n    return x + 1\nvalue = f(1)\ndel f\n")
    with pytest.raises(NotLive, match="no function is alive"):
        plant(Edit("planting_ground", "x + 1", "x + 2"))


def test_a_file_that_has_changed_since_it_was_imported_is_noticed(module, tmp_path):
    ground = module("def f(x):\n    return x + 1\n")
    (tmp_path / "planting_ground.py").write_text("def f(x):\n    return x + 3\n")
    with pytest.raises(NotLive, match="changed since"):
        plant(Edit("planting_ground", "x + 3", "x + 2"))
    assert ground.f(1) == 2


def test_a_whole_source_can_be_planted(module):
    ground = module("def f(x):\n    return x + 1\n\n\ndef g(x):\n    return f(x) + 1\n")
    undo = plant_source(ground, source_of(ground).replace("+ 1", "- 1"))
    assert ground.g(0) == -2
    undo()
    assert ground.g(0) == 2


def test_everything_can_be_taken_out_at_once():
    right = derivative(mt.sin)
    undos = [plant(WRONG_SINE), plant(Edit(ELEMENTWISE, "lambda g, x: -g * sin(x)", "lambda g: g"))]
    assert uproot() == [ELEMENTWISE]
    assert derivative(mt.sin) == right
    assert derivative(mt.cos) == pytest.approx(-np.sin(0.5))
    assert linecache.getline(mt.ops.elementwise.__file__, 1).startswith('"""')
    for undo in undos:
        undo()  # nothing to do any more
    assert derivative(mt.sin) == right
    assert uproot() == []
    with planted(WRONG_SINE):
        assert derivative(mt.sin) != right


def test_importing_it_needs_no_hypothesis_and_plants_nothing():
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "import microtensor as mt, microtensor.testing.planting as p\n"
        "print(p._sources)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "{}\n"
