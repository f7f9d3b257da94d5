"""Programs as data: leaves, then steps that take any earlier values. Their text is Python.

    a = tensor([0.0625, -0.0625], dtype="float64", requires_grad=True)
    v1 = tanh(a)
    with no_grad():
        v2 = v1 * a
    v3, v4 = unstack(v1 + v2)

The names in a text are those of `from microtensor import *` (and NumPy's `array` for masks), and
NumPy and PyTorch can be given the same ones. So every machine (machines.py) runs the text itself,
and what a failing test prints is what has run: it may be pasted.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Leaf:
    """What a program starts from: numbers of a shape, on a grid of odd sixteenths."""

    shape: tuple[int, ...]
    dtype: str = "float64"
    wants: bool = True  # requires_grad
    start: int = 0
    stride: int = 1  # odd: so no two numbers of a leaf are equal

    def array(self):
        """1/16, -1/16, 3/16, -3/16, ... from `start`, every `stride`-th, going round at 31/16."""
        k = (self.start + self.stride * np.arange(int(np.prod(self.shape)))) % 32
        numbers = (2 * (k // 2) + 1) * np.where(k % 2, -1, 1) / 16
        return numbers.reshape(self.shape).astype(self.dtype)

    def text(self):
        wants = ", requires_grad=True" if self.wants else ""
        return f'tensor({self.array().tolist()}, dtype="{self.dtype}"{wants})'


@dataclasses.dataclass(frozen=True)
class Step:
    """A statement: an expression of the values it takes, or a few lines that set `{t}`."""

    kind: str
    text: str  # {0}, {1}, ... are the values taken; {t} the one that is made
    takes: tuple[int, ...]  # their places among the program's values
    dtype: str  # of what it makes
    makes: int = 1
    passes: tuple[int, ...] | None = None  # which of `takes` derivatives go to (None: all)
    quiet: bool = False  # under no_grad

    def sources(self):
        """The values that what it makes depends on, as far as derivatives are concerned."""
        if self.quiet:
            return ()
        passed = range(len(self.takes)) if self.passes is None else self.passes
        return tuple(self.takes[i] for i in passed)


@dataclasses.dataclass(frozen=True)
class Program:
    leaves: tuple[Leaf, ...]
    steps: tuple[Step, ...]
    results: tuple[int, ...] = ()  # the values that are differentiated

    def __repr__(self):
        lines = [f"{name(self, i)} = {leaf.text()}" for i, leaf in enumerate(self.leaves)]
        lines += [statement(self, i) for i in range(len(self.steps))]
        lines.append(f"results = [{', '.join(name(self, r) for r in self.results)}]")
        return "\n" + "\n".join(lines)

    def _repr_pretty_(self, printer, cycle):  # what Hypothesis prints
        printer.text(repr(self))

    def made_by(self, i):
        """The places of what step i makes."""
        first = len(self.leaves) + sum(step.makes for step in self.steps[:i])
        return range(first, first + self.steps[i].makes)

    def dtypes(self):
        """The dtype of every value."""
        made = [step.dtype for step in self.steps for _ in range(step.makes)]
        return [leaf.dtype for leaf in self.leaves] + made

    def behind(self):
        """For every value the set of values that it has a derivative with respect to.

        A leaf that wants one, and every recorded result, is in its own set; the set of a constant
        is empty.
        """
        found = [{i} if leaf.wants else set() for i, leaf in enumerate(self.leaves)]
        for i, step in enumerate(self.steps):
            past = set().union(*[found[source] for source in step.sources()])
            found += [past | {place} if past else set() for place in self.made_by(i)]
        return found

    def trimmed(self):
        """A program with the same results, without the steps and leaves that none of them needs."""
        needed, steps = set(self.results), []
        for i in reversed(range(len(self.steps))):
            if needed & set(self.made_by(i)):
                needed |= {*self.made_by(i), *self.steps[i].takes}
                steps.insert(0, self.steps[i])
        now = {place: i for i, place in enumerate(sorted(needed))}
        return Program(
            tuple(leaf for i, leaf in enumerate(self.leaves) if i in needed),
            tuple(dataclasses.replace(s, takes=tuple(now[i] for i in s.takes)) for s in steps),
            tuple(now[i] for i in self.results),
        )

    def eps(self):
        """The unit of rounding of its least exact numbers."""
        return 2.0**-24 if "float32" in self.dtypes() else 2.0**-53


def name(program, place):
    leaves = len(program.leaves)
    return "abcd"[place] if place < leaves else f"v{place - leaves + 1}"


def statement(program, i):
    """The text of step i."""
    step = program.steps[i]
    made = ", ".join(name(program, place) for place in program.made_by(i))
    text = step.text if "{t}" in step.text else "{t} = " + step.text
    text = text.format(*[name(program, place) for place in step.takes], t=made)
    if step.quiet:
        text = "with no_grad():\n    " + text.replace("\n", "\n    ")
    return text


def cotangent(place, shape):
    """A direction to differentiate a result in: no two numbers equal, none of them 1."""
    k = np.arange(int(np.prod(shape))) * 3 + 5 * place
    return ((2 * (k % 16) + 1) * np.where(k % 3, 1, -1) / 16).reshape(shape)
