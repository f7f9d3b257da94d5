"""Memory: what nobody refers to any more is gone at once, without the garbage collector.

It is switched off in every test here: whatever dies, dies by its reference count. What must not
stay alive is watched by weak references; what must not grow is counted.
"""

import gc
import sys
import tracemalloc
import weakref

import numpy as np
import pytest
from backends import Place
from hypothesis import given, settings
from programs.drawing import programs
from programs.machines import Ours

import microtensor as mt
from microtensor import modes, nn, optim
from microtensor.declaration import REGISTRY, Node
from microtensor.nn import recurrent

pytestmark = pytest.mark.usefixtures("registry")

RNG = np.random.Generator(np.random.Philox(31))


@pytest.fixture(autouse=True)
def no_collector():
    gc.disable()
    yield
    gc.enable()


def nodes():
    """How many nodes there are, in the whole process."""
    return sum(type(found) is Node for found in gc.get_objects())


def leaf(*shape, dtype=np.float64):
    return mt.tensor(RNG.normal(size=shape).astype(dtype), requires_grad=True)


def behind(*tensors):
    """All nodes that tensors were computed from."""
    found, todo = [], [t.place for t in tensors]
    while todo:
        place = todo.pop()
        node = place[0] if isinstance(place, tuple) else place
        if isinstance(node, Node) and node not in found:
            found.append(node)
            todo += node.parents or ()
    return found


def arrays(value):
    """The arrays in something that a node has saved."""
    if isinstance(value, tuple):
        return [array for part in value for array in arrays(part)]
    return [value] if isinstance(value, np.ndarray) else []


class Watch:
    """Weak references to all nodes behind some tensors, and to the arrays that these hold."""

    def __init__(self, *tensors, spared=()):
        spared = {id(leaf.data) for leaf in spared}
        found = behind(*tensors)
        held = [array for node in found for array in arrays(node.saved)]
        held += [tensor.data for tensor in tensors]
        self.nodes = [weakref.ref(node) for node in found]
        self.arrays = [weakref.ref(array) for array in held if id(array) not in spared]

    def dead(self):
        return not any(ref() is not None for ref in self.nodes + self.arrays)

    def holds_arrays(self):
        return any(ref() is not None for ref in self.arrays)


def test_a_watch_sees_what_is_alive():
    x = leaf(3)
    y = mt.tanh(mt.tanh(x))
    watch = Watch(y, spared=[x])
    assert len(watch.nodes) == 2
    assert watch.holds_arrays()
    kept = y.data
    del y
    assert not watch.dead()
    del kept
    assert watch.dead()


# -- whole programs


@pytest.mark.parametrize("how", ["nothing", "backward", "grad", "create_graph"])
@settings(max_examples=max(settings().max_examples // 4, 10))
@given(program=programs())
def test_nothing_stays_of_a_program(how, program):
    machine = Ours(Place("numpy"))
    values = machine.run(program)
    leaves = values[: len(program.leaves)]
    total = machine.total(program, values)
    watch = Watch(total, *values, spared=leaves)
    wanting = [x for x in leaves if x.requires_grad]
    found = None
    if how == "backward":
        total.backward()
        assert not any(node.saved for node in behind(total))
    elif how == "grad":
        found = mt.grad(total, wanting, allow_unused=True)
    elif how == "create_graph":
        found = mt.grad(total, wanting, create_graph=True, allow_unused=True)
        watch_second = Watch(*[g for g in found if g is not None], spared=leaves)
    del values, total
    if how == "create_graph":
        del found
        assert watch_second.dead()
    assert watch.dead()


# -- exceptions


def failing(where):
    @mt.primitive
    def failing(xp, x):
        if where == "forward":
            raise ZeroDivisionError
        return x * 2.0

    def rule(g):
        raise ZeroDivisionError

    return failing.vjp("x", rule)


def overwritten(x):
    y = mt.exp(x)
    y.detach()[...] = 0.0
    y.sum().backward()


def backward_twice(x):
    y = mt.exp(x).sum()
    y.backward()
    y.backward()


def anomaly(x):
    with mt.detect_anomaly(), np.errstate(all="ignore"):
        mt.log(x * 0.0 - 1.0)


@mt.primitive
def without_rule(xp, x):
    return x * 2.0


del REGISTRY[f"{__name__}.without_rule"]

EXCEPTIONS = {
    "in a forward": lambda x: failing("forward")(mt.tanh(x)),
    "in a rule": lambda x: failing("backward")(mt.tanh(x)).sum().backward(),
    "in a recorded rule": lambda x: mt.grad(
        failing("backward")(mt.tanh(x)).sum(), x, create_graph=True
    ),
    "no rule": lambda x: without_rule(mt.tanh(x)).sum().backward(),
    "shapes that do not fit": lambda x: mt.tanh(x) @ mt.exp(x).reshape(3, 2).T @ mt.exp(x),
    "released": backward_twice,
    "overwritten": overwritten,
    "no cotangent": lambda x: mt.tanh(x).backward(),
    "an unused input": lambda x: mt.grad(mt.tanh(x).sum(), [x, leaf(2)]),
    "a constant": lambda x: mt.tanh(x).detach().backward(),
    "an anomaly": anomaly,
    "an assignment": lambda x: mt.tanh(x).__setitem__(0, mt.exp(x)[0]),
    "another kind of argument": lambda x: mt.tanh(x) + "text",
    "an index out of range": lambda x: mt.tanh(x)[7],
    "in a module": lambda x: nn.LSTM(4, 2, dtype=np.float64)(mt.tanh(x)),
}


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_an_exception_keeps_nothing_alive(name):
    """Neither the exception, once it is dealt with, nor a pass that broke off on the way."""
    x = leaf(2, 3)
    before = nodes()
    try:
        EXCEPTIONS[name](x)
    except Exception as error:
        assert not isinstance(error, AttributeError)  # noqa: PT017 (any other may come)
    else:
        pytest.fail("nothing was raised")
    assert nodes() == before
    assert x.grad is None or name == "released"


def test_a_pass_that_broke_off_leaves_what_is_behind_to_the_next():
    x = leaf(3)
    h = mt.tanh(x)
    bad, good = failing("backward")(h).sum(), (h * 2.0).sum()
    with pytest.raises(ZeroDivisionError):
        bad.backward()
    good.backward()
    np.testing.assert_allclose(x.grad.data, 2 * (1 - np.tanh(x.data) ** 2), rtol=1e-14)
    watch = Watch(bad, good, h, spared=[x])
    del bad, good, h
    assert watch.dead()


# -- modules


def sequences(*shape):
    return mt.tensor(RNG.normal(size=shape).astype(np.float32))


MODULES = {
    "layers": (
        lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 2)),
        lambda: (sequences(4, 3),),
    ),
    "embedding": (lambda: nn.Embedding(5, 3), lambda: (np.array([[0, 1], [1, 4]]),)),
    "rnn": (lambda: nn.RNN(3, 4), lambda: (sequences(6, 2, 3),)),
    "gru": (lambda: nn.GRU(3, 4, bidirectional=True), lambda: (sequences(6, 2, 3),)),
    "lstm": (
        lambda: nn.LSTM(3, 4, num_layers=2, dropout=0.5, recurrent_dropout=0.5),
        lambda: (sequences(6, 2, 3),),
    ),
    "lstm of sequences of several lengths": (
        lambda: nn.LSTM(3, 4),
        lambda: (sequences(6, 2, 3), None, np.array([6, 2])),
    ),
    "a cell of one's own": (
        lambda: nn.Recurrent(nn.GRUCell(3, 4)),
        lambda: (sequences(6, 2, 3),),
    ),
}


def tensors_in(nested):
    if isinstance(nested, (tuple, list)):
        return [tensor for part in nested for tensor in tensors_in(part)]
    return [nested]


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("name", MODULES)
def test_a_module_keeps_nothing_of_a_call(name, create_graph):
    make, inputs = MODULES[name]
    module = make()
    parameters = list(module.parameters())
    before = nodes()
    for walk in (False, True):
        outputs = tensors_in(module(*inputs()))
        # The zeros that a recurrent layer starts from are its own, and the same at each call.
        zeros = [z for first, _ in recurrent._made.get(module, {}).values() for z in first]
        watch = Watch(*outputs, spared=[*parameters, *zeros])
        loss = sum((mt.sum(y * y) for y in outputs), mt.tensor(0.0))
        if walk:
            gradients = mt.grad(loss, parameters, create_graph=create_graph)
            assert create_graph is any(g.requires_grad for g in gradients)
            del gradients
        assert nodes() > before
        del outputs, loss
        assert watch.dead()
        assert nodes() == before


def test_training_keeps_nothing_of_a_step():
    """With everything that belongs to it: gradients, clipping, the optimizer's state."""
    lstm, head = nn.LSTM(3, 4), nn.Linear(4, 2)
    parameters = [*lstm.parameters(), *head.parameters()]
    adam = optim.Adam(parameters, lr=0.01)
    x, labels = sequences(6, 2, 3), np.array([0, 1])

    def steps(count):
        for _ in range(count):
            adam.zero_grad()
            output, _ = lstm(x)
            loss = mt.cross_entropy(head(output[-1]), labels)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            adam.step()
        return nodes(), sys.getallocatedblocks()  # after the last step: of it there is the graph

    steps(50)  # until caches are filled
    grown = []
    for _ in range(5):  # what other threads take in the meantime counts too, but not every time
        few, blocks = steps(1)
        many, more_blocks = steps(150)
        assert few == many
        grown.append(more_blocks - blocks)
    assert min(grown) < 75  # a single object kept of each step would be 150


# -- truncated windows


def test_a_thousand_truncated_windows_keep_a_constant_number_of_nodes():
    rnn = nn.LSTM(1, 2)
    x = sequences(2, 1, 1)
    state, counts = None, []
    for window in range(1000):
        state = mt.detach(state)
        output, state = rnn(x, state)
        mt.sum(output[-1]).backward()
        rnn.zero_grad()
        if window % 50 == 0:
            counts.append(nodes())
    assert len(counts) == 20
    assert len(set(counts)) == 1


def test_windows_without_detach_grow_and_cannot_be_walked():
    """What the test above would see, if a state were carried over as it is."""
    rnn = nn.LSTM(1, 2)
    x = sequences(2, 1, 1)
    state, counts = None, []
    for _ in range(10):
        output, state = rnn(x, state)
        counts.append(nodes())
    growth = np.diff(counts)
    assert growth.min() == growth.max() > 0
    mt.sum(output).backward()
    output, state = rnn(x, state)
    with pytest.raises(mt.GradientStateError, match=r"mt\.detach\(state\)"):
        mt.sum(output).backward()


def test_evaluation_under_no_grad_keeps_nothing():
    rnn = nn.LSTM(1, 2)
    before, state = nodes(), None
    with mt.no_grad():
        for _ in range(5):
            _, state = rnn(sequences(2, 1, 1), state)
            assert nodes() == before


def test_a_state_kept_by_hand_over_windows_is_constant_too():
    w = leaf(2, 2)
    state, counts = mt.zeros(2, dtype=np.float64), []
    for _ in range(20):
        state = state.detach()
        for _ in range(3):
            state = mt.tanh(w @ state + 1.0)
        counts.append(nodes())
    assert len(set(counts)) == 1


# -- a running sum of losses


def test_a_sum_of_losses_grows_by_each_graph_and_is_freed_at_once():
    w = leaf(3)
    before = nodes()
    total, counts = mt.tensor(0.0), [before]
    for _ in range(20):
        total += mt.sum(mt.tanh(w) ** 2)
        counts.append(nodes())
    assert set(np.diff(counts)) == {4}  # tanh, power, sum, add
    watch = Watch(total, spared=[w])
    del total
    assert watch.dead()
    assert nodes() == before


@pytest.mark.parametrize("number", [lambda loss: loss.item(), lambda loss: loss.detach(), float])
def test_a_sum_of_numbers_does_not_grow(number):
    w = leaf(3)
    before, total = nodes(), 0.0
    for _ in range(5):
        loss = mt.sum(mt.tanh(w) ** 2)
        total += number(loss)
        del loss
        assert nodes() == before


def test_a_sum_of_losses_is_walked_once_and_in_one_go_or_piece_by_piece():
    w = leaf(3)
    total = mt.tensor(0.0)
    for k in range(5):
        total = total + mt.sum(w * float(k))
    total.backward()
    together = w.grad.numpy()
    w.grad = None
    for k in range(5):
        mt.sum(w * float(k)).backward()
    np.testing.assert_array_equal(w.grad.numpy(), together)
    assert not any(node.saved for node in behind(total))


# -- the backward pass itself


class Living:
    """An observer that counts, at each turn, the arrays that are still held of a graph."""

    def __init__(self, *tensors):
        self.watch = Watch(*tensors)
        self.counts = []

    def visit(self, node, cotangent):
        self.counts.append(sum(ref() is not None for ref in self.watch.arrays))

    def contribution(self, *anything):
        pass


def test_arrays_are_let_go_of_as_the_pass_comes_by():
    x = leaf(10)
    y = x
    for _ in range(20):
        y = mt.exp(y * 0.1)
    y = y.sum()
    living = Living(y)
    with modes.observing(living):
        y.backward()
    assert np.all(np.diff(living.counts) <= 0)
    assert living.counts[-1] <= 2


TIME_STEPS = {
    "slices": lambda x: [x[:, t] for t in range(x.shape[1])],
    "lists": lambda x: [x[:, [t]] for t in range(x.shape[1])],
    "take": lambda x: [mt.take(x, t, axis=1) for t in range(x.shape[1])],
    "unstack": lambda x: mt.unstack(x, axis=1),
    "split": lambda x: mt.split(x, x.shape[1], axis=1),
}


def peak_of_backward(steps, length, create_graph):
    x = leaf(20, length)
    total = sum((mt.sum(part * 2.0) for part in steps(x)), mt.tensor(0.0))
    tracemalloc.start()
    try:
        found = mt.grad(total, x, create_graph=create_graph)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(found.data, 2.0)
    return peak


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("name", TIME_STEPS)
def test_memory_of_a_loop_over_time_is_linear(name, create_graph):
    steps = TIME_STEPS[name]
    peak_of_backward(steps, 10, create_graph)  # what is made once
    short, long = (peak_of_backward(steps, length, create_graph) for length in (100, 400))
    assert long < 6 * short  # four times as much; sixteen, if it grew with the square


# -- length


@pytest.mark.parametrize(
    "link",
    [
        lambda y: mt.stack(mt.unstack(y)),
        lambda y: mt.concatenate(mt.split(y, 2)),
        lambda y: y[[0, 1]] * 1.0,
        lambda y: mt.where(np.array([True, False]), y, y),
        lambda y: mt.softmax(y) + y,
    ],
    ids=["stack", "concatenate", "index", "where", "softmax"],
)
def test_long_chains_of_any_kind_are_freed_without_recursion(link):
    before = nodes()
    x = leaf(2)
    y = x
    for _ in range(20_000):
        y = link(y)
    assert nodes() >= before + 20_000
    del y
    assert nodes() == before


def test_a_long_recorded_backward_pass_is_freed_without_recursion():
    before = nodes()
    x = leaf(1)
    y = x
    for _ in range(5_000):
        y = mt.sin(y)
    g = mt.grad(y, x, create_graph=True)
    h = mt.grad(g, x, create_graph=True)
    assert nodes() > before + 20_000
    del y, g, h
    assert nodes() == before


# -- the one cycle there is


def test_a_recorded_gradient_of_a_leaf_is_a_cycle_that_the_collector_knows():
    """The leaf refers to its `.grad`, and that, being recorded, to the leaf."""
    x = leaf(3)
    mt.sum(x**3).backward(create_graph=True)
    node, tensor = weakref.ref(x.grad.place), weakref.ref(x)
    del x
    assert tensor() is not None
    gc.collect()
    assert tensor() is None
    assert node() is None


def test_retained_gradients_and_switches_keep_nothing():
    x = leaf(3)
    h = mt.tanh(x)
    h.retain_grad()
    with mt.detect_anomaly():
        mt.sum(h * h).backward()
    gradient = weakref.ref(h.grad.data)
    watch = Watch(h, spared=[x])
    del h
    assert watch.dead()
    assert gradient() is None
