"""How far rounding may lead two correct computations of one program apart.

A tolerance that is guessed either lets faults pass or fails at random, since a program may lose
many digits (by cancellation) or none. Here it is computed, by running along with the program: every
number's error is what its inputs' errors become, times the slopes, plus its own rounding; going
backward, every derivative's error is likewise what it inherits, plus what the slopes themselves are
off by. To first order in eps, in units of eps.
"""

import numpy as np

ROUNDINGS = 2.0  # of a number of size 1, in one step: functions are off by a last digit or two
# How much a slope changes at most when the input and the result of a step change by 1 in all: it is
# the second derivative, in the domain of drawing.py, divided by 1 + slope.
CURVATURE = 4.0


class Bounds:
    """The errors of the numbers of a naive run (naive.py)."""

    def __init__(self):
        self._of = {}

    def learn(self, *numbers):
        """Work out how far values may be off; returns the greatest of these errors."""
        for n in reversed(_latest_first(numbers, _value_depends_on, self._of)):
            inherited = sum(abs(slope) * self._of[source] for source, slope in _value_depends_on(n))
            own = ROUNDINGS * (1 + abs(n.value)) if n.inputs else 0.0  # leaves are exact
            self._of[n] = own + inherited
        return max(self._of[n] for n in numbers)

    def of_values(self, array):
        """The errors of an array of numbers that have been learnt."""
        return np.array([self._of[n] for n in array.flat]).reshape(array.shape)

    def of_gradients(self, total):
        """The errors of d(total)/dn, for each number n that it was computed from."""
        self.learn(total)
        order = _latest_first([total], lambda n: n.inputs, ())
        shares, found = dict.fromkeys(order, 0.0), dict.fromkeys(order, 0.0)
        shares[total] = 1.0
        for n in order:
            about = self._of[n] + sum(self._of[source] for source, _ in n.inputs)
            for source, slope in n.inputs:
                wobble = ROUNDINGS * (1 + abs(slope)) + CURVATURE * about
                found[source] += abs(slope) * found[n] + abs(shares[n]) * wobble
                shares[source] += slope * shares[n]
        return found


def _value_depends_on(n):
    """The inputs with their slopes, also where a copy keeps the value and forgets the past."""
    return n.inputs or ([(n.copied, 1.0)] if hasattr(n, "copied") else ())


def _latest_first(ends, inputs, known):
    """All numbers behind `ends` that are not `known`, each before those it was computed from."""
    order, seen = [], set()
    stack = [(n, False) for n in ends]
    while stack:
        n, done = stack.pop()
        if done:
            order.append(n)
        elif n not in seen and n not in known:
            seen.add(n)
            stack.append((n, True))
            stack.extend([(source, False) for source, _ in inputs(n)])
    return order[::-1]
