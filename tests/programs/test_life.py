"""The life of tensors, in any order of events: made, combined, walked back, written, released."""

import collections
import contextlib
import gc
import weakref

import numpy as np
import pytest
from backends import Place
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from programs.language import Leaf
from programs.language import cotangent as direction
from programs.life import Past, Refused, World, root
from programs.naive import NAMES as NAIVE

import microtensor as mt
from microtensor import backend as backends
from microtensor.testing.planting import Edit, planted

LARGEST = 16.0  # where a step could lead to greater numbers, another is made
SHAPES = ((2,), (), (2, 2))
MOSTLY, SELDOM = st.sampled_from([True, True, True, False]), st.sampled_from([False] * 4 + [True])


def updated(y, x):
    y += x
    return y


# A step on tensors, on NumPy's arrays and in the naive engine; and for each thing that it takes,
# what the derivative is computed with: the result, one of the things taken, or nothing (None).
STEPS = {
    "tanh": (mt.tanh, np.tanh, NAIVE["tanh"], ["result"]),
    "sin": (mt.sin, np.sin, NAIVE["sin"], [0]),
    "negative": (lambda x: -x, np.negative, lambda x: -x, [None]),
    "half": (lambda x: x * 0.5, lambda x: x * 0.5, lambda x: x * 0.5, [None]),
    "sum": (mt.sum, lambda x: np.add.reduce(x, None), NAIVE["sum"], [None]),
    "transpose": (mt.transpose, np.transpose, NAIVE["transpose"], [None]),
    "row": (lambda x: x[0], lambda x: x[0], lambda x: x[0], [None]),
    "rows": (lambda x: x[[1, 1]], lambda x: x[[1, 1]], lambda x: x[[1, 1]], [None]),
    "unstack": (mt.unstack, tuple, tuple, [None]),
    "add": (mt.add, np.add, lambda a, b: a + b, [None, None]),
    "update": (updated, np.add, lambda a, b: a + b, [None, None]),
    "subtract": (mt.subtract, np.subtract, lambda a, b: a - b, [None, None]),
    "multiply": (mt.multiply, np.multiply, lambda a, b: a * b, [1, 0]),
}
OF_TWO = ["multiply", "multiply", "add", "subtract", "update"]
OF_ONE = [name for name in STEPS if name not in OF_TWO] + ["tanh", "sin"]  # which keep something
WITH_AXES = ("row", "rows", "unstack")

# Every rule is as likely as another; these are to happen less often than the others.
seldom = precondition(lambda life: life.moments % 3 == 0)


HAPPENED = collections.Counter()  # in all runs: refusals, by their reasons, and what went well


class Life(RuleBasedStateMachine):
    """A name stands for a tensor, and for the thing that the model has in its place."""

    place = Place("numpy")
    names = Bundle("names")

    def __init__(self):
        super().__init__()
        self.collecting = gc.isenabled()
        gc.disable()  # what is dead dies by reference counts
        self.world = World()
        self.tensors, self.things = {}, {}
        self.made = self.moments = 0
        self.cotangent = None  # the latest
        self.nodes = []  # weak references to nodes, each with the step it is in the model
        self.gradients = {}  # what was found as .grad, by name: the tensor and its numbers
        self.handed_out = collections.deque(maxlen=20)  # such ones that were replaced

    def teardown(self):
        if self.collecting:
            gc.enable()

    # -- helpers

    def enter(self, tensors, things):
        """Give names to what was made."""
        names = []
        for tensor, thing in zip(tensors, things, strict=True):
            self.made += 1
            names.append(f"t{self.made}")
            self.tensors[names[-1]], self.things[names[-1]] = tensor, thing
            if thing.past is not None:
                node = tensor.place[0] if isinstance(tensor.place, tuple) else tensor.place
                self.nodes.append((weakref.ref(node), thing.past))
        return multiple(*names)

    def compare(self, act, model):
        """Both do it, or both refuse: the library by an error with the model's reason."""
        try:
            wanted = model()
        except Refused as refusal:
            reason = str(refusal)
        else:
            HAPPENED["went well"] += 1
            return act(), wanted
        with pytest.raises(mt.GradientStateError, match=reason):
            act()
        HAPPENED[reason] += 1
        return None, None

    def take(self, name, names, quiet):
        """Make a step."""
        act, plain, naive, needs = STEPS[name]
        things = [self.things[n] for n in names]
        with mt.no_grad() if quiet else contextlib.nullcontext():
            tensors = act(*[self.tensors[n] for n in names])
        tensors = tensors if isinstance(tensors, tuple) else (tensors,)
        arrays = plain(*[thing.array for thing in things])
        arrays = [np.asarray(a) for a in (arrays if isinstance(arrays, tuple) else (arrays,))]
        kept = [arrays[0] if need == "result" else need for need in needs]
        kept = [things[need].array if isinstance(need, int) else need for need in kept]
        return self.enter(tensors, self.world.result(arrays, naive, things, kept, quiet))

    def latest(self, test, otherwise):
        """The name that was given last to something with a property."""
        found = [name for name, thing in self.things.items() if test(thing)]
        return found[-1] if found else otherwise

    def size(self, *names):
        return sum(np.max(np.abs(self.things[name].array)) for name in names)

    # -- events

    @initialize(target=names, dtype=st.sampled_from(["float64", "float32"]))
    def begin(self, dtype):
        arrays = [Leaf((2,), dtype, True, start).array() for start in (4, 9)]
        tensors = [self.place.tensor(array.copy(), requires_grad=True) for array in arrays]
        return self.enter(tensors, [self.world.leaf(array, True) for array in arrays])

    @rule(
        target=names,
        shape=st.sampled_from(SHAPES),
        dtype=st.sampled_from(["float64", "float32"]),
        wants=MOSTLY,
        start=st.integers(0, 31),
    )
    def create(self, shape, dtype, wants, start):
        array = Leaf(shape, dtype, wants, start).array()
        tensor = self.place.tensor(array.copy(), requires_grad=wants)
        return self.enter([tensor], [self.world.leaf(array, wants)])

    @rule(target=names, name=st.sampled_from(OF_ONE), x=names, quiet=SELDOM)
    def one(self, name, x, quiet):
        if name in WITH_AXES and not self.things[x].array.ndim:
            name = "negative"
        if name == "sum" and self.size(x) > LARGEST / 4:
            name = "sin"
        return self.take(name, [x], quiet)

    @rule(target=names, name=st.sampled_from(OF_TWO), a=names, b=names, quiet=SELDOM)
    def two(self, name, a, b, quiet):
        if self.size(a, b) > LARGEST:
            return self.take("tanh", [a], quiet)
        if name == "multiply" and self.size(a) * self.size(b) > LARGEST:
            name = "subtract"
        return self.take(name, [a, b], quiet)

    @seldom
    @rule(target=names, x=names)
    def detach(self, x):
        return self.enter(
            [self.tensors[x].detach()], [self.world.leaf(self.things[x].array, False)]
        )

    @rule(
        x=names,
        latest=MOSTLY,
        keep=st.booleans(),
        cotangent=st.sampled_from(["right", "right", "right", "none", "wrong"]),
    )
    def backward(self, x, latest, keep, cotangent):
        if latest:
            x = self.latest(lambda thing: thing.past is not None, x)
        tensor, thing = self.tensors[x], self.things[x]
        shape = thing.array.shape
        c = direction(0, (5,) if cotangent == "wrong" else shape)
        options = {"retain_graph": keep}
        if cotangent != "none":
            self.cotangent = self.place.tensor(c.astype(thing.array.dtype))
            options["gradient"] = self.cotangent
        if thing.wants and (cotangent == "wrong" or (cotangent == "none" and thing.array.size > 1)):
            with pytest.raises(ValueError, match="cotangent"):
                tensor.backward(**options)
            return
        c = np.ones(shape) if cotangent == "none" else c
        self.compare(
            lambda: tensor.backward(**options), lambda: self.world.backward(thing, c, keep)
        )

    @rule(y=names, x=names, latest=MOSTLY, keep=st.booleans())
    def ask(self, y, x, latest, keep):
        """`mt.grad`, which fills no `.grad`, with respect to a leaf."""
        if latest:
            y = self.latest(lambda thing: thing.past is not None, y)
        if self.things[x].past is not None:
            x = self.latest(lambda thing: thing.past is None and thing.wants, None)
        if x is None:
            return
        c = direction(1, self.things[y].array.shape)
        found, wanted = self.compare(
            lambda: mt.grad(
                [self.tensors[y]],
                [self.tensors[x]],
                [self.place.tensor(c.astype(self.things[y].array.dtype))],
                retain_graph=keep,
                allow_unused=True,
            )[0],
            lambda: self.world.grad(self.things[y], c, self.things[x], keep),
        )
        self.check_gradient(found, wanted, self.things[x], x)

    @seldom
    @rule(x=names)
    def clear(self, x):
        self.tensors[x].grad = self.things[x].grad = None
        self.things[x].slack = 0.0

    @rule(x=names, number=st.sampled_from([0.5, -1.25]))
    def overwrite_gradient(self, x, number):
        """It belongs to the user, and to this leaf alone."""
        x = self.latest(lambda thing: thing.grad is not None, x)
        if self.things[x].grad is not None:
            self.tensors[x].grad[...] = number
            self.things[x].grad = np.full(self.things[x].array.shape, number)
            self.things[x].slack = 0.0
            self.gradients.pop(x, None)

    @seldom
    @rule(x=names, wanted=MOSTLY, by_attribute=st.booleans())
    def switch(self, x, wanted, by_attribute):
        tensor = self.tensors[x]

        def act():
            if by_attribute:
                tensor.requires_grad = wanted
            else:
                assert tensor.requires_grad_(wanted) is tensor

        self.compare(act, lambda: self.world.switch(self.things[x], wanted))

    @rule(
        x=names,
        needed=MOSTLY,
        index=st.sampled_from([..., 0]),
        value=st.one_of(st.sampled_from([0.5, -1.25]), names),
        quiet=MOSTLY,
    )
    def assign(self, x, needed, index, value, quiet):
        if needed:
            steps = self.world.behind(self.things.values())
            kept = {id(root(a)) for s in steps if isinstance(s, Past) for a in s.needs}
            x = self.latest(lambda t: t.past is None and id(root(t.array)) in kept, x)
        tensor, thing = self.tensors[x], self.things[x]
        index = index if thing.array.ndim else ...
        given, wanted = value, value
        if isinstance(value, str):
            given, wanted = self.tensors[value], self.things[value]
            if wanted.array.ndim > np.ndim(thing.array[index]):
                return

        def act():
            with mt.no_grad() if quiet else contextlib.nullcontext():
                tensor[index] = given

        self.compare(act, lambda: self.world.assign(thing, index, wanted, quiet))

    @seldom
    @rule(x=consumes(names))
    def forget(self, x):
        del self.tensors[x], self.things[x]
        self.gradients.pop(x, None)

    # -- what holds at any moment

    def check_gradient(self, found, wanted, thing, name):
        assert (found is None) is (wanted is None), name
        if found is not None:
            g, slack = wanted
            assert (found.shape, found.dtype) == (thing.array.shape, thing.array.dtype), name
            assert not found.requires_grad, name
            off = np.abs(self.place.host(found) - g)
            assert np.all(off <= slack * self.world.eps), (name, found, g)

    @invariant()
    def all_is_well(self):
        self.moments += 1
        self.tensors_are_what_they_should_be()
        self.gradients_have_memory_of_their_own()
        self.gradients_that_were_handed_out_stay_as_they_were()
        self.nodes_are_alive_while_a_tensor_leads_to_them()

    def tensors_are_what_they_should_be(self):
        for name, thing in self.things.items():
            tensor = self.tensors[name]
            assert np.array_equal(self.place.host(tensor), thing.array), name
            assert tensor.dtype == thing.array.dtype, name
            assert tensor.requires_grad is thing.wants, name
            assert tensor.is_leaf is (thing.past is None), name
            wanted = None if thing.grad is None else (thing.grad, thing.slack)
            self.check_gradient(tensor.grad, wanted, thing, name)

    def gradients_have_memory_of_their_own(self):
        owner = backends.by_type[type(self.place.array(0.0))].owner
        owned = [owner(t.grad.data) for t in self.tensors.values() if t.grad is not None]
        others = [*self.tensors.values(), *([] if self.cotangent is None else [self.cotangent])]
        assert len(set(owned)) == len(owned)
        assert set(owned).isdisjoint([owner(t.data) for t in others])

    def gradients_that_were_handed_out_stay_as_they_were(self):
        for name, tensor in self.tensors.items():
            before = self.gradients.get(name)
            if before is not None and before[0] is not tensor.grad:
                self.handed_out.append(self.gradients.pop(name))
            if tensor.grad is not None and name not in self.gradients:
                self.gradients[name] = tensor.grad, self.place.host(tensor.grad).copy()
        for gradient, numbers in [*self.handed_out, *self.gradients.values()]:
            assert np.array_equal(self.place.host(gradient), numbers)

    def nodes_are_alive_while_a_tensor_leads_to_them(self):
        behind = self.world.behind(self.things.values())
        for node, step in self.nodes:
            assert (node() is not None) is (step in behind), node()
        self.nodes = [(node, step) for node, step in self.nodes if step in behind]
        assert all(isinstance(step, Past) for _, step in self.nodes)


class LifeInTheCage(Life):
    place = Place("cage")


def profile(divisor):
    return settings(
        max_examples=max(10, settings().max_examples // divisor), stateful_step_count=30
    )


TestLife = Life.TestCase
TestLife.settings = profile(1)
TestLifeInTheCage = LifeInTheCage.TestCase
TestLifeInTheCage.settings = profile(2)


# -- the machine itself


def run(examples):
    """The same lives every time, and as many whether the profile is patient or not."""
    HAPPENED.clear()
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        ),
    )


REASONS = (
    "second time",
    "changed in place",
    "needs no gradient",
    "assignment is not recorded",
    "result of a recorded operation",
)


def test_everything_that_can_be_refused_is_tried():
    run(150)
    assert HAPPENED.keys() == {"went well", *REASONS}
    assert min(HAPPENED.values()) >= 5, HAPPENED


ENGINE, TENSOR = "microtensor.engine", "microtensor.tensor"
FAULTS = {
    "a graph is never released": Edit(ENGINE, "if not keep:", "if False:"),
    "a graph is always released": Edit(ENGINE, "if not keep:", "if True:"),
    "a gradient replaces the one before": Edit(
        ENGINE, "c if tensor.grad is None else tensor.grad + c", "c"
    ),
    "a gradient that was handed out grows": Edit(
        ENGINE,
        "tensor.grad = c if tensor.grad is None else tensor.grad + c",
        "tensor.grad = c if tensor.grad is None else wrap(tensor.grad.data.__iadd__(c.data))",
    ),
    "leaves share a gradient": Edit(
        ENGINE, "c.copy() if getrefcount(c) > _ALONE or c.base is not None else c", "c"
    ),
    "a node that is never forgotten": Edit(
        ENGINE, "node.saved = saved\n", "node.saved = saved\n    plan.declaration.last = node\n"
    ),
    "a write that nobody notices": Edit(TENSOR, "writes.written(self.data)", "pass"),
    "a copy instead of an alias": Edit(
        TENSOR, "return engine.wrap(self.data)  #", "return engine.wrap(self.data.copy())  #"
    ),
    "a leaf may be assigned to": Edit(
        TENSOR, "or (self._requires_grad and recording)", "or (self._requires_grad and False)"
    ),
    "grad walks everything": Edit(ENGINE, "useful = _leading_to(wanted, ends)", "useful = None"),
}


NOTICED = (AssertionError, pytest.fail.Exception, mt.GradientStateError)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_noticed(fault):
    with planted(FAULTS[fault]), pytest.raises(NOTICED):
        run(200)
