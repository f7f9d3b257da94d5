"""The same function of the same numbers in microtensor and in PyTorch, float64, on the CPU."""

import numpy as np
import pytest

import microtensor as mt

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch==2.13.0")
torch.set_num_threads(1)

TOLERANCE = 1e-12


def close(ours, theirs, tolerance=TOLERANCE, what=""):
    """Equal up to `tolerance`, relative to the largest number (or to 1)."""
    ours = ours.detach().numpy() if isinstance(ours, mt.Tensor) else np.asarray(ours)
    theirs = theirs.numpy(force=True) if isinstance(theirs, torch.Tensor) else np.asarray(theirs)
    assert ours.shape == theirs.shape, what
    scale = max(1.0, float(np.max(np.abs(theirs), initial=0.0)))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * scale, err_msg=what)


def generator(seed):
    return np.random.Generator(np.random.Philox(seed))


def both(arrays):
    """Leaves of both libraries with the same numbers."""
    return (
        [mt.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays],
        [torch.tensor(np.array(a), requires_grad=a.dtype.kind == "f") for a in arrays],
    )


def agree(ours, theirs, *arrays, second=TOLERANCE):
    """Values, gradients, and gradients of the gradients (to `second`; None: not compared) agree."""
    rng = generator(0)
    arrays = [np.asarray(a) for a in arrays]
    xs, us = both(arrays)
    y, u = ours(*xs), theirs(*us)
    ys, ws = (list(v) if isinstance(v, (tuple, list)) else [v] for v in (y, u))
    assert len(ys) == len(ws)
    for a, b in zip(ys, ws, strict=True):
        close(a, b, what="value")
    xs = [x for x in xs if x.requires_grad]
    us = [u for u in us if u.requires_grad]
    cotangents = [rng.normal(size=y.shape) for y in ys]
    first = mt.grad(ys, xs, cotangents, create_graph=second is not None, allow_unused=True)
    torchs = torch.autograd.grad(
        ws,
        us,
        [torch.tensor(c) for c in cotangents],
        create_graph=second is not None,
        allow_unused=True,
    )
    for i, (a, b) in enumerate(zip(first, torchs, strict=True)):
        close(a, b, what=f"gradient {i}")
    if second is None:
        return
    weights = [rng.normal(size=x.shape) for x in xs]
    total = sum((mt.sum(g * w) for g, w in zip(first, weights, strict=True)), mt.tensor(0.0))
    theirs_total = sum(
        (g * torch.tensor(w)).sum() for g, w in zip(torchs, weights, strict=True)
    ) + torch.zeros(())
    if not theirs_total.requires_grad:
        assert not total.requires_grad or all(
            not g.data.any() for g in mt.grad(total, xs, allow_unused=True) if g is not None
        )
        return
    seconds = [None] * len(xs)
    if total.requires_grad:
        seconds = mt.grad([total], xs, allow_unused=True)
    torchs = torch.autograd.grad(theirs_total, us, allow_unused=True)
    for i, (a, b) in enumerate(zip(seconds, torchs, strict=True)):
        zero = np.zeros(xs[i].shape)
        close(zero if a is None else a, zero if b is None else b, second, f"second derivative {i}")
