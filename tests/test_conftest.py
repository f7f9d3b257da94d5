"""The watch over the tests themselves: a test that leaves traces would fail, and only that one."""

import gc
import os
import random
import sys
import tracemalloc
import types
import warnings
from pathlib import Path

import numpy as np
import pytest

import microtensor as mt
from microtensor import backend as backends
from microtensor import modes
from microtensor.declaration import REGISTRY
from microtensor.testing.planting import Edit, plant, uproot


@pytest.fixture
def conftest(request):
    here = str(Path(__file__).with_name("conftest.py"))
    plugins = request.config.pluginmanager.get_plugins()
    return next(plugin for plugin in plugins if getattr(plugin, "__file__", None) == here)


def through(hook, body):
    """Run a function where a hook would run the test, or its setup, or its teardown."""
    next(hook)
    try:
        result = body()
    except Exception as error:
        hook.throw(error)
    else:
        hook.send(result)


@pytest.fixture
def call(conftest):
    """Run a function as if it were a test's body, under the hook of conftest.py."""
    return lambda body: through(conftest.pytest_runtest_call(None), body)


@pytest.fixture
def whole(conftest):
    """The same with setup and teardown: `body` is a generator, like a fixture."""

    def whole(body):
        item = types.SimpleNamespace(stash=pytest.Stash())
        steps = body()
        with pytest.raises(StopIteration):
            through(conftest.pytest_runtest_setup(item), lambda: None)
        next(steps)
        through(conftest.pytest_runtest_teardown(item), lambda: next(steps, None))

    return whole


def run(call, body):
    with pytest.raises(StopIteration):  # the hook has come to its end without a complaint
        call(body)


def moves_numpys_stream():
    np.random.rand()  # noqa: NPY002 - the fault


def moves_pythons_stream():
    random.random()


def leaves_recording_off():
    mt.no_grad().__enter__()


def leaves_the_anomaly_mode_on():
    mt.detect_anomaly().__enter__()


def leaves_an_observer():
    modes.observing("an observer").__enter__()


def leaves_another_backend():
    backends._default.set("another")


def leaves_numpys_errors_ignored():
    np.seterr(all="ignore")


def leaves_a_warning_ignored():
    warnings.simplefilter("ignore")


def leaves_the_collector_off():
    gc.disable()


def leaves_another_recursion_limit():
    sys.setrecursionlimit(sys.getrecursionlimit() + 1)


def leaves_allocations_traced():
    tracemalloc.start()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (moves_numpys_stream, "NumPy's global random stream.*changed"),
        (moves_pythons_stream, "Python's global random stream.*changed"),
        (leaves_recording_off, "recording=True.*recording=False"),
        (leaves_the_anomaly_mode_on, "anomaly=False.*anomaly=True"),
        (leaves_an_observer, "observer=None.*observer='an observer'"),
        (leaves_another_backend, "'numpy' before, 'another' after"),
        (leaves_numpys_errors_ignored, "error state.*divide"),
        (leaves_a_warning_ignored, "warnings filters"),
        (leaves_the_collector_off, "garbage collector: True before, False after"),
        (leaves_another_recursion_limit, r"recursion limit: \d+ before, \d+ after"),
        (leaves_allocations_traced, "tracing of allocations: False before, True after"),
    ],
)
def test_a_test_that_leaves_traces_fails_and_the_next_one_does_not_suffer(call, fault, message):
    with warnings.catch_warnings(), pytest.raises(pytest.fail.Exception, match=message) as caught:
        call(fault)
    assert len(str(caught.value).splitlines()) == 2  # it, and nothing else
    assert mt.is_grad_enabled()
    assert backends.default().name == "numpy"
    run(call, lambda: None)


def leaves_a_variable():
    os.environ["MICROTENSOR_TRACE"] = "1"
    yield


def loses_a_variable():
    del os.environ["OMP_NUM_THREADS"]
    yield


def leaves_an_operation():
    mt.primitive(lambda xp, x: x)
    yield


RESULT = []


def leaves_a_result_that_waits_for_its_gradient():
    y = mt.tensor(1.0, requires_grad=True) * 2.0
    y.retain_grad()
    RESULT.append(y)
    yield


def leaves_a_bug():
    plant(Edit("microtensor.ops.elementwise", "g * cos(x)", "g * sin(x)"))
    yield


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (leaves_a_bug, "bugs planted in modules"),
        (leaves_a_variable, "environment.*MICROTENSOR_TRACE changed"),
        (loses_a_variable, "environment.*OMP_NUM_THREADS changed"),
        (leaves_an_operation, "registry of operations.*<lambda> changed"),
        (leaves_a_result_that_waits_for_its_gradient, "retain_grad.*still alive"),
    ],
)
def test_what_a_test_and_its_fixtures_leave_behind_is_noticed_too(whole, fault, message):
    with pytest.raises(pytest.fail.Exception, match=message):
        whole(fault)
    RESULT.clear()
    assert "MICROTENSOR_TRACE" not in os.environ
    assert "OMP_NUM_THREADS" in os.environ
    assert not any("<lambda>" in name for name in REGISTRY)
    assert uproot() == []
    run(whole, lambda: iter([None]))


def test_fixtures_may_put_back_what_they_change(whole):
    def body():
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MICROTENSOR_TRACE", "1")
            mt.primitive(forgotten)
            yield
        del REGISTRY[f"{__name__}.forgotten"]

    def forgotten(xp, x):
        return x

    run(whole, body)


def test_the_fixture_registry_forgets_operations(registry):
    """Or else the hook would fail this very test."""

    @mt.primitive
    def forgotten(xp, x):
        return x

    assert f"{__name__}.forgotten" in REGISTRY


def test_a_result_that_only_a_cycle_keeps_is_no_trace(whole):
    def body():
        y = mt.tensor(1.0, requires_grad=True) * 2.0
        y.retain_grad()
        y.grad = [y]  # a cycle
        yield
        del y

    run(whole, body)


def test_what_a_library_does_when_it_is_imported_is_nobodys_fault(call, monkeypatch):
    def body():
        monkeypatch.setitem(sys.modules, "a_library_that_was_never_there", types.ModuleType("x"))
        moves_pythons_stream()

    state = random.getstate()
    run(call, body)
    random.setstate(state)


def test_a_test_that_tidies_up_passes(call):
    def body():
        with mt.no_grad(), mt.detect_anomaly(), mt.use_backend("numpy"):
            mt.rand(3)

    run(call, body)


def test_a_failure_of_the_test_itself_is_what_is_reported(call):
    def body():
        mt.no_grad().__enter__()
        raise KeyError("its own")

    with pytest.raises(KeyError, match="its own"):
        call(body)
    assert mt.is_grad_enabled()


def test_every_test_starts_with_the_same_random_numbers():
    assert mt.rand().item() == mt.Generator(0).uniform().item()
