"""The watch over the tests themselves: a test that leaves traces would fail, and only that one."""

from pathlib import Path

import numpy as np
import pytest

import microtensor as mt
from microtensor import backend as backends


@pytest.fixture
def call(request):
    """Run a function as if it were a test's body, under the hook of conftest.py."""
    here = str(Path(__file__).with_name("conftest.py"))
    plugins = request.config.pluginmanager.get_plugins()
    conftest = next(plugin for plugin in plugins if getattr(plugin, "__file__", None) == here)

    def call(body):
        hook = conftest.pytest_runtest_call(None)
        next(hook)
        try:
            result = body()
        except Exception as error:
            hook.throw(error)
        else:
            hook.send(result)

    return call


def run(call, body):
    with pytest.raises(StopIteration):  # the hook has come to its end without a complaint
        call(body)


def moves_numpys_stream():
    np.random.rand()  # noqa: NPY002 - the fault


def leaves_recording_off():
    mt.no_grad().__enter__()


def leaves_the_anomaly_mode_on():
    mt.detect_anomaly().__enter__()


def leaves_another_backend():
    backends._default.set("another")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (moves_numpys_stream, "global random stream has moved"),
        (leaves_recording_off, "recording=True.*recording=False"),
        (leaves_the_anomaly_mode_on, "anomaly=False.*anomaly=True"),
        (leaves_another_backend, "'numpy' before, 'another' after"),
    ],
)
def test_a_test_that_leaves_traces_fails_and_the_next_one_does_not_suffer(call, fault, message):
    stream = np.random.get_state()  # noqa: NPY002
    with pytest.raises(pytest.fail.Exception, match=message):
        call(fault)
    np.random.set_state(stream)  # noqa: NPY002
    assert mt.is_grad_enabled()
    assert backends.default().name == "numpy"
    run(call, lambda: None)


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
