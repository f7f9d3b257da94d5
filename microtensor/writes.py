"""Writing in place, and noticing when backward still needs what was overwritten.

A write takes a number from the same counter as the nodes of the graph. A node that is younger than
the last write has nothing to fear; an older one compares the memory of the arrays it saved with the
memory that was written. So a write costs little, and a node pays nothing to be guarded.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Any

from microtensor import backend, guards
from microtensor.backend import Array

next_number = count(1).__next__

last = 0  # the number of the last write
_numbers: dict[int, int] = {}  # a block of memory (Backend.owner) -> its last write


def written(array: Array) -> None:
    """To be called after every change in place of an array that operations may have saved."""
    all_written([owner(array)])


def owner(array: Array) -> int:
    """The block of memory that an array lives in; the same as long as the array is."""
    return backend.by_type[array.__class__].owner(array)


def all_written(owners: Iterable[int]) -> None:
    """`written` of several arrays at once, given by their owners."""
    global last
    last = next_number()
    _numbers.update(dict.fromkeys(owners, last))


def check(node: Any) -> None:
    """Raise if something that `node` saved was written since.

    Raises
    ------
    GradientStateError
        Naming the operation and the line that called it.
    """
    values = list(node.saved)
    for value in values:
        if value.__class__ is tuple:  # several results, or an index with arrays in it
            values.extend(value)
        known = backend.by_type.get(value.__class__)
        if known is not None and _numbers.get(known.owner(value), 0) > node.number:
            raise guards.overwritten(node, value.shape)
