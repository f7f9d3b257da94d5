"""Switches: local to a thread or task, put back whatever happens."""

import asyncio
import contextvars
import threading
from pathlib import Path

import numpy as np
import pytest

import microtensor as mt
from microtensor import modes


def leaf(*numbers):
    return mt.tensor(np.array(numbers, np.float64), requires_grad=True)


def test_no_grad_records_nothing_and_enable_grad_does_again():
    x = leaf(1.0, 2.0)
    with mt.no_grad():
        assert not mt.is_grad_enabled()
        y = mt.tanh(x) * x
        assert not y.requires_grad
        assert y.is_leaf
        with mt.enable_grad():
            assert mt.is_grad_enabled()
            assert (x * x).requires_grad
        assert not mt.is_grad_enabled()
    assert mt.is_grad_enabled()
    assert (x * x).requires_grad


@pytest.mark.parametrize("switch", [mt.no_grad, mt.detect_anomaly, mt.enable_grad])
def test_a_switch_is_put_back_by_an_exception(switch):
    before = modes.current.get()
    with pytest.raises(KeyError), switch():
        raise KeyError
    assert modes.current.get() == before


def test_switches_nest_and_one_object_may_be_entered_again():
    switch = mt.no_grad()
    with switch, mt.detect_anomaly(), switch:
        assert modes.current.get() == (False, True, None)
    assert modes.current.get() == (True, False, None)


def test_as_a_decorator():
    @mt.no_grad()
    def evaluate(x):
        return x * 2.0

    assert not evaluate(leaf(1.0)).requires_grad
    assert evaluate.__name__ == "evaluate"
    assert mt.is_grad_enabled()


def test_threads_do_not_see_one_anothers_switches():
    seen, barrier = {}, threading.Barrier(2)

    def work(name, switch):
        with switch():
            barrier.wait()
            seen[name] = (mt.is_grad_enabled(), (leaf(1.0) * 2.0).requires_grad)
            barrier.wait()

    threads = [
        threading.Thread(target=work, args=("off", mt.no_grad)),
        threading.Thread(target=work, args=("on", mt.enable_grad)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"off": (False, False), "on": (True, True)}
    assert mt.is_grad_enabled()


def test_tasks_do_not_see_one_anothers_switches():
    async def work(switch):
        with switch():
            await asyncio.sleep(0)
            return mt.is_grad_enabled()

    async def both():
        return await asyncio.gather(work(mt.no_grad), work(mt.enable_grad))

    assert asyncio.run(both()) == [False, True]


def test_graphs_built_in_threads_are_walked_anywhere():
    results = {}

    def work(i):
        x = leaf(*range(1, 50))
        y = x
        for _ in range(50):
            y = mt.tanh(y) + x * 0.5
        results[i] = (x, y.sum())

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gradients = [mt.grad(y, x).numpy() for x, y in results.values()]
    for g in gradients[1:]:
        np.testing.assert_array_equal(g, gradients[0])


def test_the_default_backend_is_local_and_put_back(device):
    name = device.name
    with mt.use_backend(name):
        assert mt.zeros(1).backend == name
        assert mt.zeros(1).to("numpy").backend == "numpy"
    with pytest.raises(KeyError), mt.use_backend(name):
        raise KeyError
    assert mt.zeros(1).backend == "numpy"

    def work():
        mt.use_backend(name)
        return mt.ones(2).backend

    assert contextvars.copy_context().run(work) == name
    assert mt.ones(2).backend == "numpy"


def test_an_unknown_backend_changes_nothing():
    with pytest.raises(ValueError, match=r"unknown backend 'abacus'.*'cupy'.*'numpy'"):
        mt.use_backend("abacus")
    assert mt.zeros(1).backend == "numpy"
    with pytest.raises(ValueError, match="abacus"):
        mt.zeros(1).to("abacus")


@pytest.mark.skipif(mt.backend_available("cupy"), reason="for machines without a GPU")
def test_cupy_without_a_gpu():
    with pytest.raises(RuntimeError, match=r"CuPy and an NVIDIA GPU.*microtensor\[cupy\].*'numpy'"):
        mt.use_backend("cupy")
    assert not mt.backend_available("cupy")
    assert mt.backend_available("numpy")


# -- gradients of results, and the observer


def test_retain_grad():
    x = leaf(2.0, 3.0)
    h = x * x
    h.retain_grad()
    k = h * 2.0
    k.sum().backward()
    assert h.grad.numpy().tolist() == [2.0, 2.0]
    assert k.grad is None
    assert x.grad.numpy().tolist() == [8.0, 12.0]
    x.retain_grad()  # of a leaf: nothing to do
    with pytest.raises(mt.GradientStateError):
        h.sum().backward()


def test_retain_grad_of_one_of_several_results_and_of_the_output():
    x = leaf(1.0, 2.0, 3.0)
    parts = mt.unstack(x * 1.0)
    parts[1].retain_grad()
    y = parts[0] * 5.0 + parts[1] * 7.0
    y.retain_grad()
    y.backward()
    assert parts[1].grad.item() == 7.0
    assert y.grad.item() == 1.0
    assert x.grad.numpy().tolist() == [5.0, 7.0, 0.0]


def test_retained_gradients_are_forgotten_with_their_tensors():
    from microtensor import engine

    x = leaf(1.0)
    h = x * 2.0
    h.retain_grad()
    before = len(engine.retaining)
    del h
    assert len(engine.retaining) == before - 1


class Observer:
    def __init__(self):
        self.events = []

    def visit(self, node, cotangent):
        self.events.append(("visit", node.name, np.asarray(cotangent).tolist()))

    def contribution(self, node, argument, place, raw, fitted, total):
        self.events.append((node.name, argument, np.shape(raw), np.shape(fitted), total.tolist()))


def test_the_observer_sees_each_step_of_a_pass():
    x, b = leaf(1.0, 2.0), leaf(5.0)
    observer = Observer()
    y = (x * x + b).sum()
    with modes.observing(observer):
        y.backward()
    assert observer.events == [
        ("visit", "sum", 1.0),
        ("sum", "x", (2,), (2,), [1.0, 1.0]),
        ("visit", "add", [1.0, 1.0]),
        ("add", "a", (2,), (2,), [1.0, 1.0]),
        ("add", "b", (2,), (1,), [2.0]),
        ("visit", "multiply", [1.0, 1.0]),
        ("multiply", "a", (2,), (2,), [1.0, 2.0]),
        ("multiply", "b", (2,), (2,), [2.0, 4.0]),
    ]


class Silent:
    visits = 0

    def visit(self, node, cotangent):
        self.visits += 1

    def contribution(self, *anything):
        pass


def test_the_observer_changes_nothing():
    x = leaf(0.3, 0.7)

    def gradient():
        return mt.grad(mt.sum(mt.exp(x) * x[0] + x[[0, 0]]), x).numpy()

    plain = gradient()
    observer = Silent()
    with modes.observing(observer):
        observed = gradient()
    assert observer.visits == 6
    np.testing.assert_array_equal(plain, observed)


def test_nodes_know_their_name_and_line():
    x = leaf(1.0)
    y = mt.tanh(x)
    z = x + 1.0
    file, line = y.place.line
    assert file == z.place.line[0] == __file__
    text = Path(file).read_text().splitlines()
    assert "y = mt.tanh(x)" in text[line - 1]
    assert "z = x + 1.0" in text[z.place.line[1] - 1]
    assert repr(y.place) == f"`tanh` (called at {file}:{line})"


@pytest.mark.parametrize("switch", [mt.no_grad, mt.enable_grad, mt.detect_anomaly])
def test_a_decorated_function_runs_in_several_threads_at_once(switch):
    """Each call has a switch of its own: whoever came first may leave first."""
    entered, leave = ({name: threading.Event() for name in "ab"} for _ in range(2))
    faults = []

    @switch()
    def work(name):
        entered[name].set()
        leave[name].wait(120)

    def run(name):
        before = modes.current.get()
        try:
            work(name)
        except (RuntimeError, ValueError) as error:  # of another thread's token
            faults.append(error)
        if modes.current.get() != before:
            faults.append(f"{name}: {modes.current.get()} after")

    threads = {name: threading.Thread(target=run, args=(name,)) for name in "ab"}
    for name, thread in threads.items():
        thread.start()
        assert entered[name].wait(120)
    for name, thread in threads.items():
        leave[name].set()
        thread.join(120)
    assert not faults


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x[0],
        lambda x: mt.mean(x[:, 0]),
        lambda x: mt.var(x),
        lambda x: mt.mse_loss(x, np.ones((2, 2))),
        lambda x: mt.einsum("ij,jk->ik", x, x),
        lambda x: mt.cross_entropy(x, np.array([0, 1])),
        lambda x: mt.stack([x, x]),
        lambda x: x.reshape(4),
        lambda x: mt.split(x, 2)[1],
        lambda x: x.clip(0, 1),
    ],
)
def test_nodes_know_the_users_line_through_composites(call):
    """Not a line of the library, whatever function of it makes the node."""
    node = call(mt.tensor(np.eye(2), requires_grad=True)).place
    node = node[0] if isinstance(node, tuple) else node
    seen = [node]
    while seen:
        node = seen.pop()
        file, line = node.line
        assert file == __file__, f"`{node.name}` is said to be called at {file}:{line}"
        assert line == call.__code__.co_firstlineno
        places = [place[0] if isinstance(place, tuple) else place for place in node.parents]
        seen += [place for place in places if not isinstance(place, mt.Tensor)]
