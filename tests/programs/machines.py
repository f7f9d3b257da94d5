"""What runs programs: microtensor on any backend, and the naive engine with its error bounds."""

import functools

import numpy as np
from programs import naive
from programs.language import cotangent, name, statement
from programs.rounding import Bounds

import microtensor as mt


@functools.lru_cache(maxsize=4096)
def compiled(text):
    return compile(text, "<program>", "exec")


class Machine:
    """Runs the text of programs.

    Attributes
    ----------
    names
        What a text may use: a dictionary.
    text
        The statement of a step, where the library needs another than `statement` gives.
    """

    text = staticmethod(statement)

    def run(self, program):
        """All values of a program, leaves first."""
        env = dict(self.names)
        values = self.run_leaves(program, env)
        for i in range(len(program.steps)):
            values += self.step(program, i, env)
        return values

    def run_leaves(self, program, env):
        """Make the leaves."""
        values = [self.leaf(leaf) for leaf in program.leaves]
        env.update({name(program, i): value for i, value in enumerate(values)})
        return values

    def step(self, program, i, env):
        """Run one step; returns what it makes."""
        exec(compiled(self.text(program, i)), env)
        return [env[name(program, place)] for place in program.made_by(i)]


class Ours(Machine):
    """microtensor, on one of the backends of tests/backends.py."""

    def __init__(self, place):
        self.place = place
        self.names = {name: getattr(mt, name) for name in mt.__all__}
        self.names["array"] = lambda numbers: place.array(np.array(numbers))

    def leaf(self, leaf):
        return self.place.tensor(leaf.array(), requires_grad=leaf.wants)

    def cotangents(self, program, values):
        return [
            self.place.tensor(cotangent(r, values[r].shape).astype(values[r].dtype))
            for r in program.results
        ]

    def total(self, program, values):
        """The results, each weighted by its cotangent, as one number."""
        pairs = zip(program.results, self.cotangents(program, values), strict=True)
        return functools.reduce(mt.add, [mt.sum(values[r] * c) for r, c in pairs])


class Naive(Machine):
    """The naive engine.

    It knows derivatives with respect to its leaves only, so to every value that is made, zeros are
    added which are leaves: their derivatives are those of the value.
    """

    names = naive.NAMES

    def __init__(self):
        self.bounds = Bounds()
        self.probes = []

    def leaf(self, leaf):
        made = naive.numbers(leaf.array())
        self.probes.append(made)
        self.bounds.learn(*made.flat)
        return made

    def step(self, program, i, env):
        step = program.steps[i]
        with_names = {**env, "no_grad": _Nothing}
        made = super().step(program, i, with_names)
        for k, (place, value) in enumerate(zip(program.made_by(i), made, strict=True)):
            value = naive.numbers(value)
            if step.quiet or not step.sources():
                value = naive.without_past(value)
            probe = naive.numbers(np.zeros(value.shape))
            self.probes.append(probe)
            made[k] = env[name(program, place)] = value + probe
            self.bounds.learn(*made[k].flat)
        return made

    def differentiate(self, program, values):
        """The gradient of each value, and a bound of its rounding, in units of eps."""
        total = naive.scalar.Number(0.0)
        for r in program.results:
            for n, c in zip(values[r].flat, cotangent(r, values[r].shape).flat, strict=True):
                total = total + n * float(c)
        total.backward()
        bounds = self.bounds.of_gradients(total)
        found = []
        for probe in self.probes:
            gradient, bound = np.zeros(probe.shape), np.zeros(probe.shape)
            for i, n in np.ndenumerate(probe):
                gradient[i], bound[i] = n.grad, bounds.get(n, 0.0)
            found.append((gradient, bound))
        return found


class _Nothing:
    """In place of no_grad: the machine itself forgets the past of what is made."""

    def __enter__(self):
        pass

    def __exit__(self, *error):
        pass
