"""What holds for every test: Hypothesis profiles, a quiet machine, and no test that leaves traces.

`HYPOTHESIS_PROFILE=thorough python -m pytest` chooses a profile (`dev` if nothing is said):

    dev         few examples, new ones each time: the whole suite stays under five minutes
    ci          the same examples every time: a red build is a change's fault, not the dice's
    thorough    four times as many as dev: with another --hypothesis-seed each time, as often as the
                machine has nothing else to do (the operations alone take two or three minutes)
"""

import atexit
import gc
import importlib.util
import os
import random
import shutil
import sys
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

# Before NumPy is imported: arrays in tests are small, and threads would only get in each other's
# way; figures are drawn without a window.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# Compiling cells is for the tests that are about it, and not into the user's cache folder. This
# also reaches processes that tests start.
os.environ.setdefault("MICROTENSOR_DRIVER", "arrays")
if "MICROTENSOR_CACHE" not in os.environ:
    os.environ["MICROTENSOR_CACHE"] = tempfile.mkdtemp(prefix="microtensor-")
    atexit.register(shutil.rmtree, os.environ["MICROTENSOR_CACHE"], ignore_errors=True)

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

import microtensor as mt  # noqa: E402
from microtensor import backend as backends  # noqa: E402
from microtensor import engine, modes  # noqa: E402
from microtensor.declaration import REGISTRY  # noqa: E402

# No deadlines: on a busy machine any example may be slow once. `too_slow` for the same reason.
common = settings(deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", common, max_examples=25)
settings.register_profile("ci", common, max_examples=50, derandomize=True)
settings.register_profile("thorough", common, max_examples=100)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a card, PyTorch or Numba where there is none, and say so."""
    missing = {}
    if importlib.util.find_spec("numba") is None:
        missing["numba"] = "Numba is not installed: pip install microtensor[fast]"
    if importlib.util.find_spec("torch") is None:
        missing["parity"] = "PyTorch is not installed: pip install torch==2.13.0"
    if not mt.backend_available("cupy"):
        missing["gpu"] = "needs CuPy and an NVIDIA GPU"
    for item in items:
        for mark, reason in missing.items():
            if item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))


class Trace(NamedTuple):
    """Something that a test may change for its own length, and no longer."""

    name: str
    read: Callable[[], Any]
    put_back: Callable[[Any], Any] | None = None
    # Libraries change it when they are imported: where that has happened, nobody is to blame.
    by_imports: bool = False


def _numpys_global_stream() -> tuple:
    kind, key, *rest = np.random.get_state()  # noqa: NPY002 - the very thing that must not move
    return (kind, key.tobytes(), *rest)


def _put_back_numpys_global_stream(was: tuple) -> None:
    kind, key, *rest = was
    np.random.set_state((kind, np.frombuffer(key, np.uint32), *rest))  # noqa: NPY002


def _environment() -> dict[str, str]:
    """Without what pytest itself notes there."""
    return {name: os.environ[name] for name in os.environ if name != "PYTEST_CURRENT_TEST"}


def _put_back_environment(was: dict[str, str]) -> None:
    for name in _environment().keys() - was.keys():
        del os.environ[name]
    os.environ.update(was)


def _put_back_registry(was: dict[str, Any]) -> None:
    REGISTRY.clear()
    REGISTRY.update(was)


def _retained() -> set[int]:
    """The results whose gradients `retain_grad` waits for; what only a cycle keeps dies now."""
    if engine.retaining:
        gc.collect()
    return {id(place) for place in engine.retaining}


def _planted() -> list[str]:
    """Modules with a bug planted in them."""
    planting = sys.modules.get("microtensor.testing.planting")
    return [] if planting is None else list(planting._sources)


def _uproot(was: list[str]) -> None:
    sys.modules["microtensor.testing.planting"].uproot()


# A fixture may throw these for a test (a backend to be the default); the test itself may not.
AROUND_THE_CALL = [
    Trace(
        "the engine's mode (no_grad, detect_anomaly, observer)",
        modes.current.get,
        modes.current.set,
    ),
    Trace("the default backend (use_backend)", backends._default.get, backends._default.set),
    Trace("NumPy's error state (np.errstate)", np.geterr, lambda was: np.seterr(**was)),
    Trace("the garbage collector", gc.isenabled, lambda was: gc.enable() if was else gc.disable()),
    Trace("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
    Trace("tracing of allocations", tracemalloc.is_tracing, lambda was: tracemalloc.stop()),
    Trace(
        "NumPy's global random stream (draw from mt.Generator)",
        _numpys_global_stream,
        _put_back_numpys_global_stream,
    ),
    Trace(
        "Python's global random stream (draw from mt.Generator)",
        random.getstate,
        random.setstate,
        by_imports=True,
    ),
    # pytest puts the filters back itself, after every test.
    Trace("the warnings filters", lambda: list(warnings.filters), by_imports=True),
]
# These may be changed by a test whose fixtures put them back (monkeypatch, `registry`).
AROUND_THE_TEST = [
    Trace("the environment (os.environ)", _environment, _put_back_environment, by_imports=True),
    Trace("the registry of operations", lambda: dict(REGISTRY), _put_back_registry),
    Trace("results with retain_grad that are still alive", _retained),
    Trace("bugs planted in modules", _planted, _uproot),
]


def _read(traces: list[Trace]) -> list[Any]:
    return [len(sys.modules), *[trace.read() for trace in traces]]


def _put_back(traces: list[Trace], before: list[Any]) -> list[str]:
    """What has changed; it is put back, so that no other test suffers."""
    changed = []
    imported = len(sys.modules) != before[0]
    for trace, was in zip(traces, before[1:], strict=True):
        now = trace.read()
        if now != was and not (trace.by_imports and imported):
            changed.append(f"{trace.name}: {_difference(was, now)}")
            if trace.put_back is not None:
                trace.put_back(was)
    return changed


def _difference(was: Any, now: Any) -> str:
    if isinstance(was, dict) and isinstance(now, dict):
        names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
        return f"{', '.join(sorted(names))} changed"
    if isinstance(was, (tuple, list, set)) and not hasattr(was, "_fields"):
        return "changed"  # long, and nothing to be read
    return f"{was!r} before, {now!r} after"


def _fail(changed: list[str]) -> None:
    if changed:
        pytest.fail("this test leaves traces:\n  " + "\n  ".join(changed), pytrace=False)


@pytest.fixture
def registry():
    """Operations that a test declares are forgotten after it."""
    before = dict(REGISTRY)
    yield
    _put_back_registry(before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    """Fail a test that leaves a switch of microtensor thrown, moves a global stream, and the like.

    A hook rather than a fixture, so that it also surrounds property tests, and so that fixtures
    that throw a switch for the length of a test (a parametrised backend) are no leak.
    """
    mt.manual_seed(0)  # no test depends on which ran before
    before = _read(AROUND_THE_CALL)
    changed: list[str] = []
    try:
        result = yield
    finally:
        changed = _put_back(AROUND_THE_CALL, before)
    _fail(changed)
    return result


_before = pytest.StashKey[list[Any]]()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item):
    """Remember what is to be as it was when the test and its fixtures are through."""
    item.stash[_before] = _read(AROUND_THE_TEST)
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item):
    """Fail a test that, with its fixtures, leaves traces."""
    changed: list[str] = []
    try:
        result = yield
    finally:
        if _before in item.stash:  # else its setup has not begun
            changed = _put_back(AROUND_THE_TEST, item.stash[_before])
    _fail(changed)
    return result
