"""Programs at random: what may be a step, given the values so far.

A program is drawn step by step while the naive engine runs it, so that each step can be one that
is fit for comparison: no number near a kink, a tie or a pole, none too large, none that has lost
too many digits to rounding. Where a step needs a number that lies clear of others (the threshold of
`relu(x - c)`), it is chosen so. Nothing is drawn in vain, and no tolerance has to allow for it.
"""

import dataclasses
import functools
import itertools

import numpy as np
from hypothesis import strategies as st
from programs import naive
from programs.language import Leaf, Program, Step
from programs.machines import Naive

MOST_STEPS = 20
LARGEST = 4.0  # the greatest number that steps take, but for those that squash
MARGIN = 1 / 64  # from any kink
MOST_ROUNDING = 2.0**13  # in units of eps: of float32's it is half a thousandth
MOST_NUMBERS = 12  # of one value
GRID = [(2 * k + 1) / 16 for k in sorted(range(-24, 24), key=lambda k: (abs(2 * k + 1), k < 0))]

FLOAT32 = "float32"
FLOAT64 = "float64"


class Unfit(Exception):
    """No value so far is fit for a step of some kind."""


class Draft:
    """A program that is being written, and what the naive engine knows of its values."""

    def __init__(self, draw, leaves, portable):
        self.draw = draw
        self.portable = portable  # only what PyTorch understands too
        self.program = Program(tuple(leaves), ())
        self.machine, self.env = Naive(), dict(Naive.names)
        self.values, self.errors = [], []
        for value in self.machine.run_leaves(self.program, self.env):
            self._append(value)
        self.dtypes = self.program.dtypes()

    def _append(self, array):
        self.values.append(naive.values(array))
        self.errors.append(float(np.max(self.machine.bounds.of_values(array))))

    def add(self, step):
        before = self.program
        self.program = Program(before.leaves, (*before.steps, step))
        for value in self.machine.step(self.program, len(before.steps), self.env):
            self._append(value)
            self.dtypes.append(step.dtype)

    # -- which values a step may take

    def exact(self):
        """All that have not lost their digits (leaves have not, so there is always one)."""
        return [i for i, error in enumerate(self.errors) if error <= MOST_ROUNDING]

    def calm(self, low=-LARGEST, high=LARGEST, least_size=0):
        """Those whose numbers all lie between two bounds, or are at least so far from zero."""
        return [
            i
            for i in self.exact()
            if np.all((self.values[i] >= low) & (self.values[i] <= high))
            and np.all(np.abs(self.values[i]) >= least_size)
        ]

    def with_axes(self):
        """Calm values that are no single numbers."""
        return [i for i in self.calm() if self.ndim(i)]

    def pairs(self, fits, right=None):
        """Pairs of calm values, the second perhaps of some only, whose shapes fit."""
        calm = self.calm()
        second = calm if right is None else right
        return [(a, b) for a in calm for b in second if fits(self.shape(a), self.shape(b))]

    def ndim(self, i):
        return self.values[i].ndim

    def shape(self, i):
        return self.values[i].shape

    # -- drawing

    def one_of(self, choices):
        return choices[self.draw(_below(len(choices)))]  # much faster than st.sampled_from

    def chosen(self, choices):
        """One of some values, or tuples of them; every other time one of the latest, if they fit.

        Raises
        ------
        Unfit
            If there are none.
        """
        if not choices:
            raise Unfit
        last = len(self.values) - 2
        late = [c for c in choices if max(c if isinstance(c, tuple) else (c,)) >= last]
        return self.one_of([*choices, *late * (len(choices) // max(len(late), 1))])

    def clear(self, array):
        """A number of the grid that lies clear of all numbers of an array."""
        return self.one_of([c for c in GRID if np.all(np.abs(array - c) >= MARGIN)])

    def an_axis(self, i):
        return self.one_of(range(-self.ndim(i), self.ndim(i)))

    def step(self, kind, text, *takes, dtype=None, **others):
        if dtype is None:
            dtype = str(np.result_type(*[self.dtypes[i] for i in takes]))
        return Step(kind, text, takes, dtype, **others)


@functools.cache
def _below(n):
    return st.integers(0, n - 1)


@functools.cache
def together(*shapes):
    """The shape to which some broadcast; None if they do not, or to too many numbers."""
    try:
        found = np.broadcast_shapes(*shapes)
    except ValueError:
        return None
    return found if np.prod(found) <= MOST_NUMBERS else None


def meet(*shapes):
    return together(*shapes) is not None


# -- kinds of steps: each returns one, or raises Unfit
#
# A step is drawn by few choices, five at most with that of its kind and whether it is the last: the
# fewer they are, the better does Hypothesis leave out steps that a fault does not need.

DOMAINS = {  # bounds of what a function takes, and what it takes where no value lies within
    "negative": (-LARGEST, LARGEST, ""),
    "square": (-LARGEST, LARGEST, ""),
    "softplus": (-LARGEST, LARGEST, ""),
    "exp": (-LARGEST, 2, "-{0} * {0}"),
    "expm1": (-LARGEST, 2, "-{0} * {0}"),
    "log": (0.25, LARGEST, "{0} * {0} + 0.5"),
    "sqrt": (0.25, LARGEST, "{0} * {0} + 0.5"),
    "log1p": (-0.75, LARGEST, "{0} * {0}"),
}


def smooth(d):
    name = d.one_of(list(DOMAINS))
    low, high, otherwise = DOMAINS[name]
    fit = d.calm(low, high)
    return d.step(name, f"{name}({'{0}' if fit else otherwise})", d.chosen(fit or d.calm()))


def squash(d):
    """What makes any number small."""
    name = d.one_of(["tanh", "sin", "cos", "sigmoid"])
    return d.step(name, f"{name}({{0}})", d.chosen(d.exact()))


def with_a_number(d):
    text = d.one_of([
        "{0} * 2.0", "{0} + 0.4375", "{0} - 0.4375", "0.5 - {0}", "{0} / 4.0", "-{0}",
        "{0} ** 2", "{0} ** 3", "2.0 ** {0}", "1.5 / ({0} * {0} + 1.0)",
        "({0} * {0} + 1.0) ** -0.5",
    ])  # fmt: skip
    return d.step("with a number", text, d.chosen(d.calm()))


def kink(d):
    name, i = d.one_of(["relu", "abs", "clip", "sign"]), d.chosen(d.calm())
    low = d.clear(d.values[i])
    if name == "clip":
        high = d.clear(d.values[i])
        return d.step(name, f"clip({{0}}, {min(low, high)}, {max(low, high)})", i)
    return d.step(name, f"{name}({{0}} - {low})", i)


def arithmetic(d):
    text = d.one_of(["{0} + {1}", "{0} * {1}", "{0} - {1}", "{0} / ({1} * {1} + 1.0)"])
    return d.step("arithmetic", text, *d.chosen(d.pairs(meet)))


def division(d):
    return d.step("division", "{0} / {1}", *d.chosen(d.pairs(meet, d.calm(least_size=0.5))))


def power(d):
    return d.step("power", "({0} * {0} + 0.5) ** {1}", *d.chosen(d.pairs(meet, d.calm(-2, 2))))


def extreme(d):
    name = d.one_of(["maximum", "minimum"])
    a, b = d.chosen(d.pairs(meet))
    c = d.clear(d.values[a] - d.values[b])
    return d.step(name, f"{name}({{0}}, {{1}} + {c})", a, b)


def where(d):
    a, b = d.chosen(d.pairs(meet))
    shape = together(d.shape(a), d.shape(b))
    by = d.one_of([None, *[i for i in d.calm() if meet(d.shape(i), shape)]])
    if by is None:
        mask = d.one_of(masks(shape[-1:])).tolist()
        return d.step("where", f"where(array({mask}), {{0}}, {{1}})", a, b)
    text = f"where({{2}} > {d.clear(d.values[by])}, {{0}}, {{1}})"
    dtype = str(np.result_type(d.dtypes[a], d.dtypes[b]))
    return d.step("where", text, a, b, by, dtype=dtype, passes=(0, 1))


@functools.cache
def _matmul_fits(a, b):
    if not a or not b:
        return False
    try:
        shape = np.matmul(np.empty(a), np.empty(b)).shape
    except ValueError:
        return False
    return np.prod(shape) <= MOST_NUMBERS


def matmul(d):
    return d.step("matmul", "{0} @ {1}", *d.chosen(d.pairs(_matmul_fits)))


EINSUM = {"ij,kj->ik": (2, 2), "i,j->ij": (1, 1), "ij,ij->i": (2, 2), "ij,j->ji": (2, 1)}


def einsum(d):
    spec = d.one_of(list(EINSUM))
    letters, _, out = spec.partition("->")
    first, second = letters.split(",")

    def fits(a, b):
        if (len(a), len(b)) != EINSUM[spec]:
            return False
        lengths = dict(zip(first, a, strict=True))
        agree = all(lengths.setdefault(x, n) == n for x, n in zip(second, b, strict=True))
        return agree and np.prod([lengths[x] for x in out]) <= MOST_NUMBERS

    return d.step("einsum", f"einsum({spec!r}, {{0}}, {{1}})", *d.chosen(d.pairs(fits)))


def reduction(d):
    name = d.one_of(["sum", "mean", "prod", "logsumexp"])
    i = d.chosen(d.calm())
    ndim = d.ndim(i)
    axes = [None, *range(-ndim, ndim), *itertools.combinations(range(ndim), 2)]
    texts = [f"axis={axis}{keep}" for keep in ("", ", keepdims=True") for axis in axes]
    return d.step(name, f"{name}({{0}}, {d.one_of(texts)})", i)


def spread(d):
    """var and std: there must be something to compute it of."""
    name, axis = d.one_of([("var", 0), ("std", -1), ("var", -1), ("std", 0)])

    def varied(i):
        return d.shape(i)[axis] > 1 and d.values[i].var(axis=axis).min() >= 1 / 8

    i = d.chosen([i for i in d.with_axes() if varied(i)])
    return d.step(name, f"{name}({{0}}, axis={axis}, ddof={d.one_of([0, 1])})", i)


def greatest(d):
    name, axis = d.one_of([("max", 0), ("min", -1), ("max", -1), ("min", 0)])

    def apart(i):
        steps = np.diff(np.sort(d.values[i], axis=axis), axis=axis)
        return np.all(steps >= MARGIN)

    i = d.chosen([i for i in d.with_axes() if apart(i)])
    return d.step(name, f"{name}({{0}}, axis={axis}{d.one_of(['', ', keepdims=True'])})", i)


def along(d):
    name, i = d.one_of(["cumsum", "softmax", "log_softmax"]), d.chosen(d.with_axes())
    return d.step(name, f"{name}({{0}}, axis={d.an_axis(i)})", i)


@functools.cache
def shapes_of(size):
    """All shapes of a number of elements, of up to three axes."""
    sides = [n for n in range(1, size + 1) if size % n == 0]
    found = [s for ndim in (1, 2, 3) for s in itertools.product(sides, repeat=ndim)]
    return [s for s in found if np.prod(s) == size]


def reshape(d):
    i = d.chosen(d.calm())
    return d.step("reshape", f"reshape({{0}}, {d.one_of(shapes_of(d.values[i].size))})", i)


@functools.cache
def orders(ndim):
    axes = range(-ndim, ndim)
    two = list(itertools.product(axes, repeat=2))
    return [
        "transpose({0})",
        *[f"transpose({{0}}, {order})" for order in itertools.permutations(range(ndim))] * 2,
        *[f"swapaxes({{0}}, {a}, {b})" for a, b in two],
        *[f"moveaxis({{0}}, {a}, {b})" for a, b in two],
        *[f"flip({{0}}, {a})" for a in axes] * 2,
    ]


def transpose(d):
    i = d.chosen(d.with_axes())
    return d.step("transpose", d.one_of(orders(d.ndim(i))), i)


@functools.cache
def with_other_axes(shape):
    texts = [f"squeeze({{0}}, {a})" for a, n in enumerate(shape) if n == 1]
    if len(shape) < 3:
        texts += [f"expand_dims({{0}}, {a})" for a in range(len(shape) + 1)]
        wider = [(1, *shape), (2, *shape)]
        texts += [f"broadcast_to({{0}}, {s})" for s in wider if np.prod(s) <= MOST_NUMBERS]
    if shape and np.prod([n + 2 for n in shape]) <= MOST_NUMBERS:
        texts += ["pad({0}, 1, 0.25)", "pad({0}, (0, 1), 0.25)"]
    return texts


def axes(d):
    i = d.chosen([i for i in d.calm() if with_other_axes(d.shape(i))])
    return d.step("axes", d.one_of(with_other_axes(d.shape(i))), i)


def join(d):
    name, axis = d.one_of([("concatenate", 0), ("stack", 0), ("concatenate", 1), ("stack", 1)])

    def fits(a, b):
        if np.prod(a) + np.prod(b) > MOST_NUMBERS or len(a) != len(b):
            return False
        if name == "stack":
            return a == b and axis <= len(a) < 3
        return axis < len(a) and a[:axis] + a[axis + 1 :] == b[:axis] + b[axis + 1 :]

    return d.step(name, f"{name}([{{0}}, {{1}}], axis={axis})", *d.chosen(d.pairs(fits)))


def cut(d):
    """Several results of one step."""
    i = d.chosen(d.with_axes())
    axis = d.an_axis(i)
    n = d.shape(i)[axis]
    at = d.one_of(range(n))
    if at > 0:
        return d.step("split", f"split({{0}}, [{at}], axis={axis})", i, makes=2)
    comma = "{t}, = " if n == 1 else "{t} = "
    return d.step("unstack", f"{comma}unstack({{0}}, axis={axis})", i, makes=n)


@functools.cache
def basic_indices(shape, portable):
    each = []
    for n in shape:
        parts = ["0", "-1", ":", *([":-1", "1:"] if n > 1 else []), "::2"]
        each.append(parts if portable else [*parts, "::-1"])
    found = [", ".join(parts) for parts in itertools.product(*each)]
    if len(shape) < 3:
        found += [f"{parts}, None" for parts in found] + [f"None, {parts}" for parts in found]
    return [*found, *[f"..., {part}" for part in each[-1]], *[f"{part}, ..." for part in each[0]]]


def basic_index(d):
    i = d.chosen(d.with_axes())
    return d.step("index", f"{{0}}[{d.one_of(basic_indices(d.shape(i), d.portable))}]", i)


@functools.cache
def picks(n, most=3):
    """One to three positions on an axis of length n, also the same one twice."""
    axis = [k for i in range(n) for k in (i, i - n)]
    counts = range(1, max(1, min(most, 3)) + 1)
    return [list(p) for count in counts for p in itertools.product(axis, repeat=count)][::-1]


def integer_index(d):
    i = d.chosen(d.with_axes())
    shape, size = d.shape(i), d.values[i].size
    rows = d.one_of(picks(shape[0], MOST_NUMBERS * shape[0] // size))
    texts = [f"{{0}}[{rows}]", f"take({{0}}, array({rows}), axis=0)"]
    if len(shape) > 1:
        columns = [k % shape[1] for k in rows]
        texts += [f"{{0}}[{rows}, {columns}]", f"{{0}}[{rows}, {columns[0]}]"]
        texts += [f"{{0}}[array([{rows}]), 0]"]
        if size // shape[1] * len(columns) <= MOST_NUMBERS:
            texts += [f"{{0}}[:, {columns}]"]
    return d.step("integer index", d.one_of(texts), i)


@functools.cache
def masks(shape):
    """All masks of a shape."""
    size = int(np.prod(shape))
    bits = np.arange(2**size)[::-1, None] >> np.arange(size) & 1
    return list(bits.astype(bool).reshape(-1, *shape))


def mask_index(d):
    i = d.chosen(d.with_axes())
    shape = d.shape(i)
    possible = [*masks(shape[:1]), *(masks(shape) if d.values[i].size <= 6 else [])]
    mask = d.one_of([mask for mask in possible if mask.any()])  # something must be left
    return d.step("mask", f"{{0}}[array({mask.tolist()})]", i)


def take_along(d):
    i = d.chosen(d.with_axes())
    axis = d.an_axis(i) % d.ndim(i)
    shape = [1 if a == axis else n for a, n in enumerate(d.shape(i))]
    indices = np.resize(d.one_of(picks(d.shape(i)[axis])), shape).tolist()
    return d.step("take_along_axis", f"take_along_axis({{0}}, array({indices}), axis={axis})", i)


def update(d):
    """`y += x`, which looks as if it changed y, and makes another."""
    symbol = d.one_of(["+=", "-=", "*="])
    a, b = d.chosen(d.pairs(lambda a, b: together(a, b) == a))
    return d.step("update", f"{{t}} = {{0}}\n{{t}} {symbol} {{1}}", a, b)


def rebuilt(d):
    """A row of a value exchanged, as it is done where results cannot be assigned to."""
    a, b = d.chosen(d.pairs(lambda a, b: len(a) > 0 and a[1:] == b))
    rows = np.arange(d.shape(a)[0])
    row, masked = d.one_of([(row, masked) for masked in (False, True) for row in rows])
    text = f"concatenate([{{0}}[:{row}], {{1}}[None], {{0}}[{row + 1}:]])"
    if masked:
        mask = (rows == row).reshape(-1, *(1,) * (d.ndim(a) - 1)).tolist()
        text = f"where(array({mask}), {{1}}, {{0}})"
    return d.step("rebuilt", text, a, b)


def assign(d):
    """`t[...] = v`, on a tensor that is not recorded."""
    index = d.one_of(["...", "1:", ":1", "array(mask)"])
    part = {"...": slice(None), "1:": slice(1, None)}.get(index, slice(1))  # its shape, at least

    def fits(a, b):
        if not a:
            return False
        target = np.empty(a)[part].shape
        return target[0] > 0 and together(target, b) == target

    a, b = d.chosen(d.pairs(fits))
    last = [row == d.shape(a)[0] - 1 for row in range(d.shape(a)[0])]
    text = (
        f"{{t}} = tensor(detach({{0}}))\n{{t}}[{index.replace('mask', str(last))}] = detach({{1}})"
    )
    return d.step("assign", text, a, b, dtype=d.dtypes[a], passes=())


def detach(d):
    return d.step("detach", "detach({0})", d.chosen(d.exact()), passes=())


def astype(d):
    i = d.chosen(d.exact())
    other = FLOAT64 if d.dtypes[i] == FLOAT32 else FLOAT32
    return d.step("astype", f'{{0}}.astype("{other}")', i, dtype=other)


# What shrinks well comes first.
KINDS = (
    *(squash, squash, with_a_number, arithmetic, arithmetic, arithmetic, smooth, smooth),
    *(division, power, extreme, where, kink),
    *(matmul, matmul, einsum, reduction, spread, greatest, along),
    *(reshape, transpose, axes, join, cut, update, rebuilt),
    *(basic_index, integer_index, integer_index, mask_index, take_along, assign, detach),
)
SHAPES = ((), (2,), (2, 2), (1,), (3,), (2, 3), (3, 2), (1, 2), (3, 1),
          (2, 1, 2), (2, 3, 2), (1, 3, 2), (2, 2, 3))  # fmt: skip


@st.composite
def programs(draw, dtypes=(FLOAT64,), portable=False, most_steps=MOST_STEPS):
    """A program: up to three leaves, up to twenty steps, and what is differentiated.

    Parameters
    ----------
    dtypes
        Those of the leaves; with several, steps convert, too.
    portable
        Whether to leave out what PyTorch does not understand: negative steps, mixed dtypes.
    """
    leaves = [draw(_leaf(dtypes, first=True)), *draw(st.lists(_leaf(dtypes), max_size=2))]
    draft = Draft(draw, leaves, portable)
    kinds = (*KINDS, astype) if len(dtypes) > 1 else KINDS
    kinds = [(kind, quiet) for quiet in [False] * 9 + [True] for kind in kinds]
    least = min(8, most_steps) * draw(_below(2))
    for count in range(1, most_steps + 1):
        kind, quiet = draft.one_of(kinds)
        try:
            step = kind(draft)
        except Unfit:
            step = squash(draft)  # what is always possible
        draft.add(dataclasses.replace(step, quiet=quiet))
        # Asked after every step, not once how many there shall be: so a step goes, when an example
        # shrinks, by leaving out what was drawn for it.
        if draw(st.integers(int(count < least), 24)) == 0:
            break
    results = draw(st.sampled_from([_last, _loose_ends, _loose_ends]))
    # Leaving out what was drawn for a step changes what those after it mean, so that an example may
    # shrink no further though most of its steps are idle. Zero, which it shrinks to, drops these.
    if results is _last and draw(_below(16)) == 0:
        recorded = [i for i, behind in enumerate(draft.program.behind()) if behind]
        result = recorded[-1 - draw(_below(len(recorded)))]
        return dataclasses.replace(draft.program, results=(result,)).trimmed()
    return dataclasses.replace(draft.program, results=results(draft.program))


@st.composite
def _leaf(draw, dtypes, first=False):
    shape, dtype = draw(st.sampled_from(SHAPES)), draw(st.sampled_from(dtypes))
    wants = first or draw(_below(4)) < 3
    order = draw(_below(128))
    return Leaf(shape, dtype, wants, start=order % 32, stride=2 * (order // 32) + 1)


def _last(program):
    """The last value that has a derivative."""
    return tuple([i for i, behind in enumerate(program.behind()) if behind][-1:])


def _loose_ends(program):
    """All values that have a derivative and that no step with one has taken."""
    taken = {source for step in program.steps for source in step.sources()}
    return tuple([i for i, behind in enumerate(program.behind()) if behind and i not in taken])
