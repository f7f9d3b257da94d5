"""Programs at random, run by PyTorch too: values, gradients, gradients of the gradients."""

import functools
import re

import numpy as np
import pytest
from backends import Place
from hypothesis import given
from parity.against_torch import torch
from programs.drawing import programs
from programs.language import cotangent, name, statement
from programs.machines import Machine, Naive, Ours

import microtensor as mt

pytestmark = pytest.mark.parity

SECOND = 1e-10  # of the greatest second derivative; what is seen is 1e-15


def _reduced(function):
    def reduction(x, axis=None, keepdims=False):
        return function(x, dim=tuple(range(x.ndim)) if axis is None else axis, keepdim=keepdims)

    return reduction


def _prod(x, axis=None, keepdims=False):
    axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    axes = sorted(a % x.ndim for a in axes)
    for a in axes:
        x = torch.prod(x, dim=a, keepdim=True)
    return x if keepdims else x.reshape([n for i, n in enumerate(x.shape) if i not in axes])


def _take(x, indices, axis):
    return x.index_select(axis, indices % x.shape[axis])


def _take_along_axis(x, indices, axis):
    shape = [indices.shape[a] if a == axis else n for a, n in enumerate(x.shape)]
    return torch.take_along_dim(x, (indices % x.shape[axis]).expand(shape), dim=axis)


def _pad(x, widths, value):
    before, after = (widths, widths) if isinstance(widths, int) else widths
    return torch.nn.functional.pad(x, (before, after) * x.ndim, value=value)


SAME = ("abs", "broadcast_to", "clip", "concatenate", "cos", "einsum", "exp", "expm1", "log",
        "log1p", "maximum", "minimum", "moveaxis", "negative", "no_grad", "relu", "reshape",
        "sigmoid", "sign", "sin", "sqrt", "square", "squeeze", "stack", "swapaxes", "tanh",
        "where")  # fmt: skip
NAMES = {
    **{name: getattr(torch, name) for name in SAME},
    **{name: _reduced(getattr(torch, name)) for name in ("sum", "mean", "logsumexp")},
    "max": _reduced(torch.amax),
    "min": _reduced(torch.amin),
    "var": lambda x, axis, ddof: torch.var(x, dim=axis, correction=ddof),
    "std": lambda x, axis, ddof: torch.std(x, dim=axis, correction=ddof),
    "prod": _prod,
    "softplus": lambda x: torch.nn.functional.softplus(x, threshold=1e9),
    "softmax": lambda x, axis: torch.softmax(x, dim=axis),
    "log_softmax": lambda x, axis: torch.log_softmax(x, dim=axis),
    "cumsum": lambda x, axis: torch.cumsum(x, dim=axis),
    "transpose": lambda x, axes=None: x.permute(axes or tuple(range(x.ndim))[::-1]),
    "expand_dims": torch.unsqueeze,
    "flip": lambda x, axis: torch.flip(x, (axis,)),
    "split": lambda x, at, axis: torch.tensor_split(x, at, dim=axis),
    "unstack": lambda x, axis: torch.unbind(x, dim=axis),
    "take": _take,
    "take_along_axis": _take_along_axis,
    "pad": _pad,
    "array": torch.tensor,
    "detach": torch.Tensor.detach,
    "tensor": torch.clone,
}


class Theirs(Machine):
    names = NAMES

    def leaf(self, leaf):
        return torch.tensor(leaf.array(), requires_grad=leaf.wants)

    def text(self, program, i):
        text = statement(program, i)
        if program.steps[i].kind == "update":  # in place there, and so on a copy
            text = re.sub(r"= (\w+)\n", r"= \1.clone()\n", text)
        return text

    def step(self, program, i, env):
        made = super().step(program, i, env)
        if program.steps[i].quiet:  # a view of a view is recorded there all the same
            made = [value.detach() for value in made]
            env.update(
                zip([name(program, place) for place in program.made_by(i)], made, strict=True)
            )
        return made


def with_zeros(gradients, values):
    """As arrays; where there is no gradient, or no derivative of one, it is zero."""
    host = {mt.Tensor: lambda g: g.data, torch.Tensor: lambda g: g.numpy(force=True)}
    arrays = [None if g is None else host[type(g)](g) for g in gradients]
    pairs = zip(arrays, values, strict=True)
    return [np.zeros(tuple(v.shape)) if a is None else a for a, v in pairs]


def all_derivatives(library, program, values):
    """Of the results by all values, and of a weighted sum of those by the leaves.

    By the leaves only: how a first derivative depends on values on the way is a matter of how a
    rule is written, with a step's arguments or with its result.
    """
    grad = mt.grad if library is mt else torch.autograd.grad
    tensor = mt.tensor if library is mt else torch.tensor
    recorded = [v for v, behind in zip(values, program.behind(), strict=True) if behind]
    leaves = [v for v in recorded if v.is_leaf]
    results = [values[r] for r in program.results]
    cotangents = [tensor(cotangent(r, values[r].shape)) for r in program.results]
    first = grad(results, recorded, cotangents, create_graph=True, allow_unused=True)
    weighted = [
        (g * tensor(cotangent(i, g.shape))).sum()
        for i, g in enumerate(first)
        if g is not None and g.requires_grad
    ]
    second = [None] * len(leaves)
    if weighted:
        second = grad(functools.reduce(library.add, weighted), leaves, allow_unused=True)
    return with_zeros(first, recorded), with_zeros(second, leaves)


@given(programs(portable=True))
def test_values_and_derivatives_agree(program):
    ours, theirs, naive = Ours(Place("numpy")), Theirs(), Naive()
    values, torchs, naives = ours.run(program), theirs.run(program), naive.run(program)
    for i, (a, b, n) in enumerate(zip(values, torchs, naives, strict=True)):
        assert a.requires_grad is b.requires_grad, f"value {i}"
        within(a.data, b.numpy(force=True), naive.bounds.of_values(n), program, f"value {i}")
    bounds = [bound for _, bound in naive.differentiate(program, naives)]
    recorded = [i for i, behind in enumerate(program.behind()) if behind]
    first, second = all_derivatives(mt, program, values)
    torch_first, torch_second = all_derivatives(torch, program, torchs)
    for i, a, b in zip(recorded, first, torch_first, strict=True):
        within(a, b, bounds[i], program, f"gradient of value {i}")
    scale = max(1.0, *(float(np.max(np.abs(b))) for b in torch_second))
    for a, b in zip(second, torch_second, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=SECOND * scale, err_msg="second derivative")


def within(a, b, bound, program, what):
    """Both may be off by rounding."""
    assert a.shape == b.shape, what
    assert np.all(np.abs(a - b) <= 2 * bound * program.eps()), f"{what}: {a} and {b}"
