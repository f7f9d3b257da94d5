"""Parameter: a tensor that a module trains."""

from __future__ import annotations

from typing import Any

from microtensor.tensor import Tensor

__all__ = ["Parameter"]


class Parameter(Tensor):
    """A leaf tensor that belongs to the module it is assigned to.

    Parameters
    ----------
    data
        A tensor or an array; it is not copied. Floating point, unless `requires_grad` is False.
    requires_grad
        Whether it is trained. A frozen parameter is still saved and moved with its module.
    trials
        K, if its first axis is that of the K trials of a stack (see `nn.stack`); else None.
        Clipping and optimizers read it here.
    """

    __slots__ = ("trials",)

    def __init__(self, data: Any, requires_grad: bool = True, trials: int | None = None) -> None:
        super().__init__(data.data if isinstance(data, Tensor) else data, requires_grad)
        self.trials = trials

    def __repr__(self) -> str:
        return "Parameter containing:\n" + super().__repr__()

    def __reduce__(self) -> Any:
        kind, arguments = super().__reduce__()
        return kind, (*arguments, self.trials)
