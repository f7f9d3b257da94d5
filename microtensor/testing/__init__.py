"""For those who write operations of their own: is the derivative right?"""

from microtensor.testing.gradients import GradientError, GradReport, check_grads

__all__ = ["GradReport", "GradientError", "check_grads"]
