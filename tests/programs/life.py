"""What a tensor should be at every moment of its life: a model beside which the library is held.

The numbers of the model are NumPy's, the derivatives the naive engine's (naive.py). What is added
here is the bookkeeping that the naive engine does not have: which step is released, whose memory
was written when, which leaf has which `.grad`.
"""

import dataclasses
import itertools
from typing import Any

import numpy as np
from programs import naive
from programs.rounding import Bounds

_with_value = np.frompyfunc(lambda n, value: naive.scalar.Number(value, [(n, 1.0)]), 2, 1)


class Refused(Exception):
    """What the library should answer with a GradientStateError, and why: a word of its message."""


@dataclasses.dataclass(eq=False)
class Past:
    """A recorded step."""

    number: int
    parents: list[Any]  # what it sends derivatives to: earlier steps, and leaves
    needs: list[np.ndarray]  # the arrays that its derivative is computed with
    released: bool = False


@dataclasses.dataclass(eq=False)
class Thing:
    """A tensor."""

    array: np.ndarray
    wants: bool
    numbers: Any  # the same in the naive engine
    past: Past | None = None
    grad: np.ndarray | None = None
    slack: Any = 0.0  # how far `grad` may be off, in units of eps
    as_of: int = 0  # when its numbers were those of the array


def root(array):
    """Whoever owns the memory."""
    while array.base is not None:
        array = array.base
    return array


class World:
    """All tensors, and a clock."""

    def __init__(self):
        self.clock = itertools.count(1)
        self.bounds = Bounds()
        self.written = {}  # id -> an array that owns memory, and when it was last written
        self.eps = 2.0**-53

    # -- making

    def leaf(self, array, wants):
        if array.dtype == np.float32:
            self.eps = 2.0**-24
        return Thing(array, wants, self._learnt(naive.numbers(array)), as_of=next(self.clock))

    def _learnt(self, numbers):
        self.bounds.learn(*numbers.flat)
        return numbers

    def _last_write(self, array):
        return self.written.get(id(root(array)), (None, 0))[1]

    def numbers_of(self, thing):
        """Its numbers, by now: after an assignment others, from which derivatives go as before."""
        if self._last_write(thing.array) > thing.as_of:
            new = _with_value(np.asarray(thing.numbers, object), thing.array.astype(object))
            thing.numbers = self._learnt(naive.numbers(new))
            thing.as_of = next(self.clock)
        return thing.numbers

    def result(self, arrays, step, things, needs, quiet):
        """What a step makes of things: `step` of their numbers, as NumPy made `arrays`.

        Parameters
        ----------
        needs
            For each thing, the array that its share of the derivative is computed with, or None.
        """
        recorded = [t.wants and not quiet for t in things]
        if not any(recorded):
            return [self.leaf(array, False) for array in arrays]
        both = list(zip(things, recorded, strict=True))
        made = step(*[self.numbers_of(t) if r else naive.numbers(t.array) for t, r in both])
        made = made if isinstance(made, tuple) else (made,)
        kept = [array for array, r in zip(needs, recorded, strict=True) if r and array is not None]
        past = Past(next(self.clock), [t.past or t for t, r in both if r], kept)
        return [
            Thing(array, True, self._learnt(naive.numbers(part)), past, as_of=past.number)
            for array, part in zip(arrays, made, strict=True)
        ]

    # -- changing

    def assign(self, thing, index, value, quiet):
        if thing.past is not None:
            raise Refused("result of a recorded operation")
        if thing.wants and not quiet:
            raise Refused("assignment is not recorded")
        if isinstance(value, Thing):
            if value.wants and not quiet:
                raise Refused("assignment is not recorded")
            value = value.array
        thing.array[index] = value
        owner = root(thing.array)
        self.written[id(owner)] = owner, next(self.clock)

    def switch(self, thing, wanted):
        if thing.past is None:
            thing.wants = wanted
        elif not wanted:
            raise Refused("result of a recorded operation")

    # -- going back

    def _reached(self, thing, keep, towards):
        """Visit steps, the latest first; returns the leaves that something arrived at."""
        useful = self._leading_to(thing, towards)
        arrived = {thing.past or thing}
        while steps := [place for place in arrived if isinstance(place, Past)]:
            step = max(steps, key=lambda step: step.number)
            arrived.remove(step)
            if step not in useful:
                continue
            if step.released:
                raise Refused("second time")
            if any(self._last_write(array) > step.number for array in step.needs):
                raise Refused("changed in place")
            arrived.update(p for p in step.parents if p in useful)
            step.released = not keep
        return arrived

    def _leading_to(self, thing, towards):
        """The steps and leaves behind a thing that lead to one of some leaves (None: to any)."""
        behind = self.behind([thing])
        if towards is None:
            return behind
        useful = {place for place in behind if place in towards}
        for step in sorted(behind - useful, key=lambda p: p.number if isinstance(p, Past) else 0):
            if isinstance(step, Past) and (step.released or not useful.isdisjoint(step.parents)):
                useful.add(step)
        return useful

    def behind(self, things):
        """All steps and leaves that are still known to things."""
        found, todo = set(), [t.past or t for t in things]
        while todo:
            place = todo.pop()
            if place not in found:
                found.add(place)
                if isinstance(place, Past) and not place.released:
                    todo += place.parents
        return found

    def _shares(self, thing, cotangent, leaves):
        """Derivatives with respect to leaves, with bounds of their rounding."""
        total = naive.scalar.Number(0.0)
        for n, c in zip(self.numbers_of(thing).flat, cotangent.flat, strict=True):
            total = total + n * float(c)
        total.backward()
        bounds = self.bounds.of_gradients(total)
        found = {n: (n.grad, bounds[n]) for n in bounds if not n.inputs}
        for n in found:
            n.grad = 0.0  # not to be met again by the next pass
        for leaf in leaves:
            both = [found.get(_end(n), (0.0, 0.0)) for n in leaf.numbers.flat]
            g, slack = (np.reshape(part, leaf.array.shape) for part in zip(*both, strict=True))
            yield leaf, g, slack

    def backward(self, thing, cotangent, keep):
        if not thing.wants:
            raise Refused("needs no gradient")
        for leaf, g, slack in self._shares(thing, cotangent, self._reached(thing, keep, None)):
            leaf.slack = leaf.slack + slack + (0 if leaf.grad is None else np.abs(leaf.grad + g))
            leaf.grad = g if leaf.grad is None else leaf.grad + g

    def grad(self, thing, cotangent, leaf, keep):
        """The derivative with respect to one leaf, and a bound; None if there is none."""
        if not leaf.wants or not thing.wants:
            raise Refused("needs no gradient")
        reached = self._reached(thing, keep, {leaf})
        found = {t: (g, slack) for t, g, slack in self._shares(thing, cotangent, reached)}
        return found.get(leaf)


def _end(number):
    """The number of a leaf, before any assignment."""
    while number.inputs:
        number = number.inputs[0][0]
    return number
