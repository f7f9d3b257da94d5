"""The one-cell LSTM of document 000, with weights set by hand.

The cell reads `x = (x1, x2, x3)` and is meant to behave like a person with a slate:

- `x2 = 1` says *write*: add `x1` to the memory;
- `x2 = -1` says *wipe*: forget what is there;
- `x3 = 1` says *speak*: let the memory out.

Four logits, each a weighted sum of the input and a bias, one row of `weight` each:

    z = x1                     what might be written
    i = 100 x2 - 10            input gate: closed unless x2 = 1
    f = 100 x2 + 10            forget gate: open unless x2 = -1
    o = 100 x3 - 10            output gate: closed unless x3 = 1

and the 1997 memory cell with a forget gate, its squashing functions g and h left out (linear):

    c' = sigmoid(i) z + sigmoid(f) c
    y  = sigmoid(o) c'

Nothing is fed back from `y`. Source: Hung-yi Lee's lecture slide, retold by document 000.
"""

from __future__ import annotations

from typing import NamedTuple

import microtensor as mt
from microtensor import nn

WEIGHT = [
    [1.0, 0.0, 0.0],  # z
    [0.0, 100.0, 0.0],  # input gate
    [0.0, 100.0, 0.0],  # forget gate
    [0.0, 0.0, 100.0],  # output gate
]
BIAS = [0.0, -10.0, 10.0, -10.0]


class Step(NamedTuple):
    """Everything the cell computes in one time step; 0-d tensors except `logits`.

    `logits` has shape `(4,)`, in the order z, input, forget, output.
    """

    logits: mt.Tensor
    input_gate: mt.Tensor
    forget_gate: mt.Tensor
    output_gate: mt.Tensor
    memory: mt.Tensor
    output: mt.Tensor


class HandLSTM(nn.Module):
    """One memory cell whose sixteen weights are those of document 000.

    Parameters
    ----------
    dtype : str
        `"float64"` (default) or `"float32"`. In float32 `exp(110)` overflows, so a sigmoid
        written as `1 / (1 + exp(-x))` would warn here; the library's does not.

    Attributes
    ----------
    weight : Parameter, shape (4, 3)
        One row a logit: z, input gate, forget gate, output gate.
    bias : Parameter, shape (4,)
    """

    def __init__(self, dtype: str = "float64") -> None:
        self.weight = nn.Parameter(mt.tensor(WEIGHT, dtype=dtype))
        self.bias = nn.Parameter(mt.tensor(BIAS, dtype=dtype))

    def step(self, x: mt.Tensor, memory: mt.Tensor) -> Step:
        """Advance one step: `x` has shape `(3,)`, `memory` is 0-d."""
        logits = self.weight @ x + self.bias
        z, i, f, o = mt.unstack(logits)
        input_gate, forget_gate, output_gate = mt.sigmoid(i), mt.sigmoid(f), mt.sigmoid(o)
        memory = input_gate * z + forget_gate * memory
        return Step(logits, input_gate, forget_gate, output_gate, memory, output_gate * memory)

    def forward(self, xs: mt.Tensor, memory: mt.Tensor | None = None) -> list[Step]:
        """Run a whole sequence `xs` of shape `(T, 3)`, from an empty memory unless one is given."""
        if memory is None:
            memory = mt.zeros((), dtype=self.weight.dtype)
        steps = []
        for x in mt.unstack(xs):
            steps.append(self.step(x, memory))
            memory = steps[-1].memory
        return steps
