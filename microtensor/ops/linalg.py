"""Products: matrix multiplication, the linear map of a layer, einsum, outer.

Their rules use methods that arrays and tensors share, so one text serves both.
"""

from __future__ import annotations

import math
from typing import Any

from microtensor import engine
from microtensor.backend import Array, order_from
from microtensor.engine import broadcast_to, primitive
from microtensor.ops.shape import expand_dims, inverse, reshape


@primitive(broadcasts=True)
def matmul(xp: Any, a: Array, b: Array) -> Array:
    """a @ b: (..., n, k) @ (..., k, m) -> (..., n, m), a vector on either side as in NumPy."""
    return a.dot(b) if a.ndim == 2 and b.ndim == 2 else xp.matmul(a, b)


def _matmul_a(g: Any, b: Any) -> Any:
    if b.ndim == 1:  # (..., n, k) @ (k,) -> (..., n)
        return expand_dims(g, -1) * b
    if g.ndim == b.ndim - 1:  # (k,) @ (..., k, m) -> (..., m)
        return (b @ expand_dims(g, -1)).reshape(b.shape[:-1])
    return g @ b.swapaxes(-1, -2)


def _matmul_b(g: Any, a: Any) -> Any:
    if a.ndim == 1:  # (k,) @ (..., k, m) -> (..., m), or a product of two vectors
        return expand_dims(a, -1) * expand_dims(g, -2) if g.ndim else a * g
    if g.ndim == a.ndim - 1:  # (..., n, k) @ (k,) -> (..., n)
        return (a.swapaxes(-1, -2) @ expand_dims(g, -1)).reshape((*a.shape[:-2], a.shape[-1]))
    return a.swapaxes(-1, -2) @ g


matmul.vjp("a", _matmul_a)
matmul.vjp("b", _matmul_b)


def _rows(x: Any) -> Any:
    """All axes but the last as one; -1 would be no length where there are no numbers."""
    return x.reshape((math.prod(x.shape[:-1]), x.shape[-1]))


def _order(x: Any) -> tuple[int, ...] | None:
    """The order of the axes of an array (..., in) that lies in memory as (in, ...)."""
    return None if isinstance(x, engine.Tensor) else order_from(x.ndim - 1, x)


def _columns(x: Any, order: tuple[int, ...]) -> Any:
    """(..., in) as (in, n)."""
    return x.transpose(order).reshape((x.shape[-1], math.prod(x.shape[:-1])))


def _of_columns(out: Any, shape: tuple[int, ...], order: tuple[int, ...]) -> Any:
    """(out, n) as (..., out), in memory as it is; x was of the given shape."""
    lengths = [shape[i] for i in order[1:]]
    return out.reshape((len(out), *lengths)).transpose(inverse(order))


FEW = 16  # features; so few are added to every row slowly, to every column fast


@primitive(broadcasts=True)
def _affine(xp: Any, x: Array, weight: Array, bias: Array) -> Array:
    if x.shape[-1:] != weight.shape[-1:] or bias.shape != weight.shape[:1]:
        raise _misfit(x, weight, bias)
    order = _order(x) if x.ndim > 2 else None
    if order:
        out = weight.dot(_columns(x, order))
        out += bias[:, None]
        return _of_columns(out, x.shape, order)
    rows = x if x.ndim == 2 else _rows(x)
    if len(rows) > FEW >= len(weight) > 1:
        out = weight.dot(rows.T)
        out += bias[:, None]
        out = out.T
    else:
        out = rows.dot(weight.T)
        out += bias
    return out if x.ndim == 2 else out.reshape((*x.shape[:-1], weight.shape[0]))


@primitive(broadcasts=True)
def _linear(xp: Any, x: Array, weight: Array) -> Array:
    if x.shape[-1:] != weight.shape[-1:]:
        raise _misfit(x, weight, None)
    if x.ndim == 2:
        return x.dot(weight.T)
    order = _order(x)
    if order:
        return _of_columns(weight.dot(_columns(x, order)), x.shape, order)
    return _rows(x).dot(weight.T).reshape((*x.shape[:-1], weight.shape[0]))


def _misfit(x: Array, weight: Array, bias: Array | None) -> ValueError:
    if bias is None or x.shape[-1:] != weight.shape[-1:]:
        return ValueError(
            f"linear: x of shape {x.shape} must end in the {weight.shape[-1]} features that the "
            f"weight of shape {weight.shape} (out, in) takes"
        )
    return ValueError(
        f"linear: bias of shape {bias.shape} must be ({weight.shape[0]},), one number for each "
        f"row of the weight of shape {weight.shape}"
    )


def _times(a: Any, b: Any) -> Any:
    """The product of two matrices; of bare arrays as `matmul` does it, without the detour."""
    bare = not isinstance(a, engine.Tensor) and not isinstance(b, engine.Tensor)
    return a.dot(b) if bare else a @ b


def _linear_x(g: Any, weight: Any) -> Any:
    if g.ndim == 2:
        return _times(g, weight)
    order = _order(g)
    if order:
        return _of_columns(weight.T.dot(_columns(g, order)), g.shape, order)
    return _times(_rows(g), weight).reshape((*g.shape[:-1], weight.shape[1]))


def _linear_weight(g: Any, x: Any) -> Any:
    if g.ndim == 2:
        return _times(g.T, x)
    order = None if isinstance(g, engine.Tensor) else _order(x)
    if order:
        return _columns(g, order).dot(_columns(x, order).T)
    return _times(_rows(g).T, _rows(x))


for _operation in (_affine, _linear):
    _operation.vjp("x", _linear_x)
    _operation.vjp("weight", _linear_weight)


@primitive(residuals=("shape",))
def _column_sums(xp: Any, x: Array) -> Any:
    """The sum over all axes but the last: as a product with ones, several times faster."""
    order = _order(x) if x.ndim > 2 else None
    flat = _columns(x, order).T if order else x if x.ndim == 2 else _rows(x)
    ones = xp.empty(flat.shape[0], x.dtype)
    ones.fill(1)
    return ones.dot(flat), x.shape


_affine.vjp("bias", lambda g: _column_sums(g))
_column_sums.vjp("x", lambda g, shape: broadcast_to(g, shape=shape))


# The same for K trials at once, each with numbers of its own: x (K, ..., in), weight (K, out, in),
# bias (K, out).


def _rows_of_trials(x: Any) -> Any:
    return x.reshape((x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1]))


@primitive(broadcasts=True)
def _affine_of_trials(xp: Any, x: Array, weight: Array, bias: Array) -> Array:
    out = xp.matmul(_rows_of_trials(x), weight.swapaxes(-1, -2))
    out += bias[:, None]
    return out.reshape(*x.shape[:-1], weight.shape[1])


@primitive(broadcasts=True)
def _linear_of_trials(xp: Any, x: Array, weight: Array) -> Array:
    out = xp.matmul(_rows_of_trials(x), weight.swapaxes(-1, -2))
    return out.reshape(*x.shape[:-1], weight.shape[1])


for _operation in (_affine_of_trials, _linear_of_trials):
    _operation.vjp(
        "x",
        lambda g, weight: (_rows_of_trials(g) @ weight).reshape((*g.shape[:-1], weight.shape[2])),
    )
    _operation.vjp("weight", lambda g, x: _rows_of_trials(g).swapaxes(-1, -2) @ _rows_of_trials(x))
_affine_of_trials.vjp("bias", lambda g: _rows_of_trials(g).sum(1))


def linear(x: Any, weight: Any, bias: Any = None, trials: int | None = None) -> Any:
    """x @ weight.T + bias, for x (..., in), weight (out, in), bias (out,): -> (..., out).

    With K `trials` each operand has them as its first axis: x (K, ..., in), weight (K, out, in),
    bias (K, out).

    Raises
    ------
    ValueError
        If the last axis of `x` is not as long as the weight's, or a first one not the trials'.
    """
    if trials is not None:
        return _each_linear(x, weight, bias, trials)
    return _linear(x, weight) if bias is None else _affine(x, weight, bias)


def _each_linear(x: Any, weight: Any, bias: Any, trials: int) -> Any:
    if weight.ndim != 3 or weight.shape[0] != trials:
        raise ValueError(
            f"linear: the weight of {trials} trials must be ({trials}, out, in), not {weight.shape}"
        )
    if x.ndim < 2 or x.shape[0] != trials or x.shape[-1] != weight.shape[-1]:
        raise ValueError(
            f"linear: x of shape {x.shape} must be ({trials}, ..., {weight.shape[-1]}): first the "
            f"trials, last the features that the weight of shape {weight.shape} takes"
        )
    if bias is not None and bias.shape != weight.shape[:2]:
        raise ValueError(
            f"linear: bias of shape {bias.shape} must be {weight.shape[:2]}, one number for each "
            f"row of the weight of shape {weight.shape}"
        )
    if bias is None:
        return _linear_of_trials(x, weight)
    return _affine_of_trials(x, weight, bias)


def outer(a: Any, b: Any) -> Any:
    """All products of an element of `a` and one of `b`, both taken flat: (n,), (m,) -> (n, m)."""
    return reshape(a, (-1, 1)) * reshape(b, (1, -1))


@primitive(broadcasts=True)
def _einsum(xp: Any, *operands: Array, subscripts: str) -> Array:
    return xp.einsum(subscripts, *operands)


def _einsum_rule(g: Any, operands: tuple[Any, ...], subscripts: str) -> list[Any]:
    """Each contribution is again an einsum: of the cotangent with all other operands."""
    inputs, output = subscripts.split("->")
    terms = inputs.split(",")
    contributions = []
    for i, term in enumerate(terms):
        others = [t for j, t in enumerate(terms) if j != i]
        reachable = "".join(
            [label for label in term if label in output or label in "".join(others)]
        )
        c = _einsum(
            g,
            *[operand for j, operand in enumerate(operands) if j != i],
            subscripts=f"{','.join([output, *others])}->{reachable}",
        )
        # Labels that only this operand has were summed over: the cotangent is the same all along.
        shape = operands[i].shape
        kept = [c.shape[reachable.index(label)] if label in reachable else 1 for label in term]
        full = [m if n == 1 else n for n, m in zip(kept, shape, strict=True)]
        c = reshape(c, kept)
        contributions.append(c if kept == full else broadcast_to(c, shape=tuple(full)))
    return contributions


_einsum.vjp("operands", _einsum_rule)


_LABELS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def einsum(subscripts: str, *operands: Any) -> Any:
    """A sum of products in Einstein's notation, as NumPy's einsum with subscripts as a string.

    Ellipses, implicit outputs and repeated labels (traces and diagonals) are understood.

    Raises
    ------
    ValueError
        If the subscripts do not match the operands.
    """
    inputs, arrow, output = subscripts.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if len(terms) != len(operands):
        raise ValueError(f"einsum: {subscripts!r} names {len(terms)} operands, got {len(operands)}")
    free = [label for label in _LABELS if label not in subscripts]
    if not arrow:
        labels = sorted({c for c in inputs if c.isalpha() and inputs.count(c) == 1})
        output = ("..." if "..." in inputs else "") + "".join(labels)
    # Spell out the ellipses, aligned on the right, with axes of length 1 where one is shorter.
    widths = [
        op.ndim - len(t) + 3 if "..." in t else 0 for op, t in zip(operands, terms, strict=True)
    ]
    widest = max(widths, default=0)
    dots = "".join(free[:widest])
    spread = []
    for i, (operand, term) in enumerate(zip(operands, terms, strict=True)):
        if "..." in term:
            at, missing = term.index("..."), widest - widths[i]
            if missing:
                shape = operand.shape
                operand = reshape(operand, (*shape[:at], *[1] * missing, *shape[at:]))
            terms[i] = term.replace("...", dots)
        if operand.ndim != len(terms[i]):
            raise ValueError(
                f"einsum: term {term!r} of {subscripts!r} does not fit the shape {operand.shape}"
            )
        spread.append(operand)
    free = free[widest:]
    # A label that a term repeats becomes two labels and an identity matrix between them.
    for i, term in enumerate(list(terms)):
        for label in sorted(set(term)):
            while terms[i].count(label) > 1:
                other = free.pop(0)
                n = spread[i].shape[terms[i].index(label)]
                terms[i] = terms[i].replace(label, other, 1)
                terms.append(other + label)
                spread.append(_identity(spread[i], n=n))
    return _einsum(*spread, subscripts=f"{','.join(terms)}->{output.replace('...', dots)}")


@primitive(differentiable=False)
def _identity(xp: Any, x: Array, *, n: int) -> Array:
    """The identity matrix, of the backend and dtype of `x`."""
    return xp.eye(n, dtype=x.dtype)
