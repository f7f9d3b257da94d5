"""microtensor: reverse-mode automatic differentiation from scratch, on NumPy and CuPy."""

import importlib
from typing import Any

from microtensor import nn, ops, optim, recurrence
from microtensor.backend import (
    Generator,
    backend_available,
    default_generator,
    manual_seed,
    use_backend,
)
from microtensor.capture import CaptureError, capture
from microtensor.creation import (
    arange,
    detach,
    eye,
    full,
    ones,
    ones_like,
    rand,
    randn,
    tensor,
    zeros,
    zeros_like,
)
from microtensor.engine import grad, primitive
from microtensor.explain import explain
from microtensor.guards import AnomalyError, GradientStateError
from microtensor.io import LoadError, load, save
from microtensor.modes import detect_anomaly, enable_grad, is_grad_enabled, no_grad
from microtensor.ops import *  # noqa: F403  (named in ops.__all__)
from microtensor.summary import summary
from microtensor.tensor import Tensor

__version__ = "0.1.0"

__all__ = [
    "AnomalyError",
    "CaptureError",
    "Generator",
    "GradientStateError",
    "LoadError",
    "Tensor",
    "arange",
    "backend_available",
    "capture",
    "default_generator",
    "detach",
    "detect_anomaly",
    "enable_grad",
    "explain",
    "eye",
    "full",
    "grad",
    "is_grad_enabled",
    "load",
    "manual_seed",
    "nn",
    "no_grad",
    "ones",
    "ones_like",
    "optim",
    "primitive",
    "rand",
    "randn",
    "recurrence",
    "save",
    "summary",
    "tensor",
    "use_backend",
    "zeros",
    "zeros_like",
    *ops.__all__,
]


def __getattr__(name: str) -> Any:
    """Import `mt.testing` when it is first used: most programs never do."""
    if name == "testing":
        return importlib.import_module("microtensor.testing")
    raise AttributeError(f"module 'microtensor' has no attribute {name!r}")
