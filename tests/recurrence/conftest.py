import pytest
from backends import backend  # noqa: F401  (fixture)

from microtensor.recurrence.drivers import arrays


@pytest.fixture(autouse=True)
def no_plan_waits():
    """Which plans there are is for a test to say, not for those that ran before it."""
    arrays._waiting.clear()
