"""What holds for every test: Hypothesis profiles, a quiet machine, and no test that leaves traces.

`HYPOTHESIS_PROFILE=thorough python -m pytest` chooses a profile (`dev` if nothing is said):

    dev         few examples, new ones each time: the whole suite stays under three minutes
    ci          the same examples every time: a red build is a change's fault, not the dice's
    thorough    many examples: for an hour when the machine has nothing else to do
"""

import importlib.util
import os

# Before NumPy is imported: arrays in tests are small, and threads would only get in each other's
# way; figures are drawn without a window.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

import microtensor as mt  # noqa: E402
from microtensor import backend as backends  # noqa: E402
from microtensor import modes  # noqa: E402

# No deadlines: on a busy machine any example may be slow once. `too_slow` for the same reason.
common = settings(deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", common, max_examples=25)
settings.register_profile("ci", common, max_examples=50, derandomize=True)
settings.register_profile("thorough", common, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a card or PyTorch where there is none, and say so once for each reason."""
    missing = {}
    if importlib.util.find_spec("torch") is None:
        missing["parity"] = "PyTorch is not installed: pip install torch==2.13.0"
    if not mt.backend_available("cupy"):
        missing["gpu"] = "needs CuPy and an NVIDIA GPU"
    for item in items:
        for mark, reason in missing.items():
            if item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))


def _numpys_global_stream() -> tuple:
    kind, key, *rest = np.random.get_state()  # noqa: NPY002 - the very thing that must not move
    return (kind, key.tobytes(), *rest)


def _switches() -> dict[str, object]:
    return {
        "the engine's mode (no_grad, detect_anomaly, observer)": modes.current.get(),
        "the default backend (use_backend)": backends._default.get(),
    }


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    """Fail a test that leaves a switch of microtensor thrown, or moves NumPy's global stream.

    A hook rather than a fixture, so that it also surrounds property tests, and so that fixtures
    that throw a switch for the length of a test (a parametrised backend) are no leak.
    """
    mt.manual_seed(0)  # no test depends on which ran before
    switches, stream = _switches(), _numpys_global_stream()
    try:
        result = yield
    finally:
        leaked = [
            f"{name}: {was!r} before, {_switches()[name]!r} after"
            for name, was in switches.items()
            if _switches()[name] != was
        ]
        mode, default = switches.values()
        modes.current.set(mode)
        backends._default.set(default)
        if _numpys_global_stream() != stream:
            leaked.append("NumPy's global random stream has moved; draw from mt.Generator")
    if leaked:
        pytest.fail("this test leaves traces:\n  " + "\n  ".join(leaked), pytrace=False)
    return result
