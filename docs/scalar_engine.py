"""Automatic differentiation of plain Python numbers: the whole idea, in at most a hundred lines.

A program computes one number y from many numbers x. Training asks how much y changes when each x
changes a little: dy/dx. The machine can find it, because it needs to know only two things.

1. *Each small step has a known slope.* If c = a * b, then c changes b times as fast as a does. This
   local derivative is known as soon as the step is taken; we write it down on the spot.
2. *Slopes multiply along a path and add up over paths.* If y changes 3 times as fast as c, it
   changes 3 * b times as fast as a by way of c; if a is used elsewhere too, that share is added.

So every result remembers its inputs, each with its slope. Afterwards we walk from y back to the
leaves, and every number hands its inputs their shares. It may do so only when everybody who used it
has paid in, so we first count how often each number was used. For x = 3, y = x * x remembers x
twice, with slope 3 each time; x receives 3 + 3 = 6, which is 2 x.

`microtensor/engine.py` is the same idea on arrays instead of numbers.
"""

import math


class Number:
    """A number that remembers where it came from: `inputs` lists (number, local derivative)."""

    def __init__(self, value, inputs=()):
        self.value, self.inputs, self.grad = float(value), inputs, 0.0

    def __add__(self, other):
        other = number(other)
        return Number(self.value + other.value, [(self, 1.0), (other, 1.0)])

    def __mul__(self, other):
        other = number(other)
        return Number(self.value * other.value, [(self, other.value), (other, self.value)])

    def __pow__(self, exponent):  # a constant exponent: the slope of a**n is n * a**(n - 1)
        slope = exponent * self.value ** (exponent - 1) if exponent else 0.0
        return Number(self.value**exponent, [(self, slope)])

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self):
        return self * -1.0

    def __sub__(self, other):
        return self + -number(other)

    def __rsub__(self, other):
        return number(other) + -self

    def __truediv__(self, other):
        return self * number(other) ** -1

    def __rtruediv__(self, other):
        return number(other) * self**-1

    def backward(self):
        """Add d(self)/d(leaf) to the `grad` of every leaf, that is, number not made of others."""
        uses, found = {self: 0}, [self]
        for node in found:  # the list grows while we walk it
            for source, _ in node.inputs:
                if source not in uses:
                    found.append(source)
                uses[source] = uses.get(source, 0) + 1

        total, ready = {self: 1.0}, [self]  # how much self changes when this number changes
        while ready:
            node = ready.pop()
            share = total.pop(node)
            if not node.inputs:
                node.grad += share
            for source, slope in node.inputs:
                total[source] = total.get(source, 0.0) + share * slope
                uses[source] -= 1
                if uses[source] == 0:  # everybody who used it has paid in
                    ready.append(source)


def number(x):
    """`x` itself if it is a Number; else a new one, with no past."""
    return x if isinstance(x, Number) else Number(x)


def function(f, slope):
    """Make a function of one number: `f(x)` is its result y, `slope(x, y)` its derivative."""
    return lambda x: Number(y := f(x.value), [(x, slope(x.value, y))])


exp = function(math.exp, lambda x, y: y)
log = function(math.log, lambda x, y: 1 / x)
sin = function(math.sin, lambda x, y: math.cos(x))
tanh = function(math.tanh, lambda x, y: 1 - y * y)
relu = function(lambda x: max(x, 0.0), lambda x, y: float(x > 0))
sigmoid = function(lambda x: (1 + math.tanh(x / 2)) / 2, lambda x, y: y * (1 - y))

if __name__ == "__main__":
    x = Number(3)
    (x * x).backward()
    print(x.grad)
