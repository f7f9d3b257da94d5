"""For those who write operations of their own: is the derivative right?"""

import importlib
from typing import TYPE_CHECKING, Any

from microtensor.testing.gradients import check_grads
from microtensor.testing.optimizers import OptimizerReport, check_optimizer
from microtensor.testing.report import GradientError, GradReport

if TYPE_CHECKING:
    from microtensor.testing import strategies
    from microtensor.testing.given import given_op

__all__ = [
    "GradReport",
    "GradientError",
    "OptimizerReport",
    "check_grads",
    "check_optimizer",
    "given_op",
    "strategies",
]


def __getattr__(name: str) -> Any:
    """Import what needs Hypothesis when it is asked for, and not before."""
    if name in ("given_op", "strategies"):
        strategies = importlib.import_module("microtensor.testing.strategies")
        if name == "strategies":
            return strategies
        return importlib.import_module("microtensor.testing.given").given_op
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
