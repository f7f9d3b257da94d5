"""Contributions to a few elements of an array.

The derivative of `x[index]` touches only the elements that `index` names. Were each such
contribution an array of x's full size, a loop over `x[:, t]` would cost T times T; here it adds
into one buffer in place and costs what it touches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from microtensor import backend


class IndexedCotangent(NamedTuple):
    """A contribution that is zero except at `index`, where it is `values`.

    `combine(*values, indices=, shape=)` adds such parts up as one differentiable operation, which
    is what a backward pass that is itself recorded does with them.
    """

    values: Any
    index: Any
    combine: Callable[..., Any]


_BASIC = frozenset((int, slice, type(None), type(...)))


def is_basic(index: tuple[Any, ...]) -> bool:
    """Whether an index is made of integers, slices, None and ... only: such a result is a view."""
    for part in index:  # noqa: SIM110 (a loop is three times as fast as all())
        if part.__class__ not in _BASIC:
            return False
    return True


def add_at(xp: Any, target: Any, index: Any, values: Any) -> None:
    """`target[index] += values` in place; an element that is named twice receives both."""
    index = index if index.__class__ is tuple else (index,)
    if is_basic(index):
        # The ellipsis ensures a view, also where every axis has its integer.
        view = target[index if ... in index else (*index, ...)]
        xp.add(view, values, out=view)
    else:
        backend.scatter_add(xp, target, index, values)


def add_to(total: Any, first: Any, part: IndexedCotangent, shape: tuple[int, ...]) -> Any:
    """`total + part`, in place.

    Without a total yet, a new one is made: of `first`, the one contribution that came before and
    that is not ours to change, or of zeros.
    """
    xp = backend.namespaces[part.values.__class__]
    if total is None:
        total = xp.zeros(shape, part.values.dtype) if first is None else first.copy()
    add_at(xp, total, part.index, part.values)
    return total


def combine(parts: list[Any], shape: tuple[int, ...]) -> Any:
    """The differentiable sum of a list of indexed and of whole contributions."""
    indexed = [part for part in parts if part.__class__ is IndexedCotangent]
    total = indexed[0].combine(
        *[part.values for part in indexed],
        indices=tuple([part.index for part in indexed]),
        shape=shape,
    )
    for part in parts:
        if part.__class__ is not IndexedCotangent:
            total = total + part
    return total
