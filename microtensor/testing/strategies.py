"""What to feed an operation whose derivative is tested: Hypothesis strategies.

A strategy that draws plain floats makes gradient tests flake, and not rarely: of arrays drawn by
`hypothesis.extra.numpy.arrays` from `floats(-10, 10)`, with up to three axes of up to four numbers,
39 % contain an exact zero and 75 % a tie. At a zero `abs` and `relu` have no derivative, at a tie
`maximum` has none, and shrinking makes straight for both: its favourite array is all zeros.

Here numbers lie on a grid of *odd sixteenths*, ±1/16, ±3/16, ±5/16, ..., and no two drawn together
are equal. So none is zero or at any other multiple of an eighth, none is nearer to one than 1/16,
and there are no ties; what a failing test shrinks to is short, such as [0.0625, 0.1875]; float32
holds every number exactly. Where the grid has too few numbers, its spacing is halved.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

try:
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp
except ImportError as _missing:
    raise ImportError(
        "microtensor.testing.strategies and given_op are built on Hypothesis, which cannot be "
        'imported here; install it with: pip install "microtensor[testing]"'
    ) from _missing

__all__ = [
    "DOMAINS",
    "LAYOUTS",
    "arrays",
    "axes",
    "broadcastable",
    "indices",
    "labels",
    "laid_out",
    "matmul_pair",
    "sequences",
    "shapes",
    "sizes",
]

Shape = tuple[int, ...]
Strategy = st.SearchStrategy[Any]
Intervals = tuple[tuple[float, float], ...]

DOMAINS: dict[str, Intervals] = {
    "real": ((-4, 4),),
    "nonzero": ((-4, -1 / 4), (1 / 4, 4)),
    "positive": ((1 / 4, 4),),
    "unit": ((1 / 8, 7 / 8),),
    "above -1": ((-3 / 4, 4),),
    "small": ((-1, 1),),
}
"""The intervals in which the numbers of a named domain lie, their ends excluded."""

LAYOUTS = ("C", "Fortran", "strided", "reversed")
"""How the numbers of an array may lie in memory; see `laid_out`."""

_WIDTH = 4.0  # how far an interval without an end is used
_SPACING = 16  # one over the distance that the grid keeps from zero; twice that lies between two
_MANY = 256  # numbers; of more than that nobody could read each, and a seed is drawn instead
_LARGEST = 2**12  # grid of odd sixteenths; in wider intervals the spacing grows
_EXACT = {"float32": 2**24, "float64": 2**53}  # up to here all integers are floats
_INDEX_KINDS = ("basic", "array", "mask", "mixed")


# -- the grid -------------------------------------------------------------------------------------


@lru_cache(maxsize=512)
def _grid(intervals: Intervals, avoid: tuple[float, ...], count: int, dtype: str) -> np.ndarray:
    """At least `count` numbers, the shortest first: positive before negative, then by size."""
    width = sum(high - low for low, high in intervals)
    farthest = max(abs(end) for interval in intervals for end in interval)
    spacing = float(_SPACING)
    while width * spacing / 2 > max(_LARGEST, 4 * count):
        spacing /= 2
    while farthest * spacing < _EXACT[dtype]:
        parts = []
        for low, high in intervals:
            first = math.floor(low * spacing / 2)
            odd = 2 * np.arange(first, math.ceil(high * spacing / 2) + 1) + 1
            parts.append(odd[(odd >= low * spacing + 1) & (odd <= high * spacing - 1)])
        numbers = np.concatenate(parts) / spacing
        for value in avoid:
            numbers = numbers[np.abs(numbers - value) >= 1 / spacing]
        if len(numbers) >= max(count, 4):
            numbers = numbers[np.lexsort((np.abs(numbers), numbers < 0))]
            numbers.flags.writeable = False  # it is cached
            return numbers
        spacing *= 2
    where = " and ".join(f"({low:g}, {high:g})" for low, high in intervals)
    besides = f", away from {', '.join(f'{value:g}' for value in avoid)}" if avoid else ""
    raise ValueError(
        f"{dtype} has no {max(count, 4)} short numbers between the ends of {where}{besides}; "
        "widen the domain, or draw smaller arrays"
    )


def _picked(draw: Any, grid: np.ndarray, count: int, taken: set[float]) -> list[float]:
    """`count` numbers of the grid that nobody has taken yet."""
    if count > _MANY:
        free = np.array([x for x in grid.tolist() if x not in taken])
        if seed := draw(st.integers(0, 2**32 - 1)):
            np.random.Generator(np.random.Philox(seed)).shuffle(free)
        found = free[:count].tolist()
        taken.update(found)
        return list(found)
    found = []
    place = st.integers(0, len(grid) - 1)
    for i in draw(st.lists(place, min_size=count, max_size=count)):
        while (number := float(grid[i])) in taken:  # the next one: nothing is ever rejected
            i = (i + 1) % len(grid)
        taken.add(number)
        found.append(number)
    return found


# -- what may be asked for ------------------------------------------------------------------------


def _intervals(name: str, domain: Any) -> Intervals:
    if isinstance(domain, str) and domain in DOMAINS:
        return DOMAINS[domain]
    if isinstance(domain, tuple) and len(domain) == 2:
        low, high = (float(end) for end in domain)
        if low == -math.inf:
            low = min(-_WIDTH, high - _WIDTH)
        if high == math.inf:
            high = max(_WIDTH, low + _WIDTH)
        if -math.inf < low < high < math.inf:
            return ((low, high),)
    known = ", ".join(repr(name) for name in DOMAINS)
    raise ValueError(
        f"{name}: there is no domain {domain!r}; use {known}, or an interval (low, high) with "
        "low < high"
    )


def _checked(name: str, dtype: Any, avoid: Any, layout: str) -> tuple[str, tuple[float, ...]]:
    kind = np.dtype(dtype).name
    if kind not in _EXACT:
        raise ValueError(
            f"{name}: dtype must be float32 or float64, which have derivatives, not {kind}; "
            "integers are drawn by labels, indices or hypothesis.extra.numpy.arrays"
        )
    if layout not in (*LAYOUTS, "any"):
        known = ", ".join(repr(name) for name in LAYOUTS)
        raise ValueError(f"{name}: there is no layout {layout!r}; use {known} or 'any'")
    values = tuple(float(value) for value in np.ravel(avoid))
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{name}: avoid must be finite numbers, not {avoid!r}")
    return kind, values


def _length(name: str, what: str, value: Any, least: int = 0) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: {what} must be an integer, not {value!r}") from None
    if number < least:
        raise ValueError(f"{name}: {what} must be at least {least}, not {number}")
    return number


def _shape(name: str, shape: Any) -> Shape:
    if not isinstance(shape, tuple):
        shape = (shape,)
    return tuple([_length(name, f"each length in a shape such as {shape}", n) for n in shape])


def _shapes_or_shape(name: str, shape: Any) -> Shape | list[Shape]:
    """A shape, or several if it is a list."""
    if not isinstance(shape, list):
        return _shape(name, shape)
    if not all(isinstance(each, tuple) for each in shape):
        raise TypeError(
            f"{name}: a list stands for several shapes, so each must be a tuple: {shape!r}; one "
            "shape is a tuple itself"
        )
    return [_shape(name, each) for each in shape]


# -- memory ---------------------------------------------------------------------------------------


def laid_out(array: np.ndarray, layout: str) -> np.ndarray:
    """The same numbers in other places of memory; always a copy.

    Parameters
    ----------
    array
        Of any shape and dtype.
    layout
        "C" (rows one after the other, as NumPy makes arrays), "Fortran" (columns one after the
        other), "strided" (every other number of a wider array) or "reversed" (negative strides
        along all axes). An array without axes has but one layout.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"there is no layout {layout!r}; use one of {', '.join(LAYOUTS)}")
    if layout == "Fortran":
        return array.copy(order="F")
    if array.ndim and layout == "strided":
        # Between the numbers stands one that spoils any result it gets into.
        kind = array.dtype.kind
        limits = {"f": np.finfo, "i": np.iinfo, "u": np.iinfo}.get(kind)
        between = limits(array.dtype).max if limits else True
        wide = np.full((*array.shape[:-1], 2 * array.shape[-1]), between, array.dtype)
        wide[..., ::2] = array
        return wide[..., ::2]
    if array.ndim and layout == "reversed":
        back = (slice(None, None, -1),) * array.ndim
        return array[back].copy()[back]
    return array.copy()


# -- arrays ---------------------------------------------------------------------------------------


def arrays(
    shape: Any,
    dtype: Any = np.float64,
    domain: Any = "real",
    avoid: Any = (),
    *,
    layout: str = "C",
) -> Strategy:
    """An array of distinct odd sixteenths, or several that share no number.

    Plain float strategies draw an exact zero in 39 % of arrays and a tie in 75 %, where many
    functions have no derivative (see the top of this file); these arrays have neither. They shrink
    to 1/16, 3/16, 5/16, ...; negative numbers count as longer than positive ones.

    Parameters
    ----------
    shape
        A tuple, a strategy that draws one, or a list of shapes. For a list a list of arrays is
        drawn, and no number occurs twice in all of them together: so `maximum(a, b)` has no ties
        either.
    dtype
        np.float64 or np.float32.
    domain
        Where the numbers lie: "real", between -4 and 4; "nonzero", the same without -1/4 ... 1/4;
        "positive", between 1/4 and 4; "unit", between 1/8 and 7/8; "above -1", between -3/4 and 4;
        "small", between -1 and 1, for long products; or any interval (low, high), of which an
        infinite end is used as far as 4 or so. Neither end is ever drawn, nor anything very near
        it, so that a pole may stand there. For several shapes a list of domains gives each its own.
    avoid
        A number or several, such as kinks, near which none shall be drawn: the next one is 1/16
        away, or half the spacing where the grid had to be made finer.
    layout
        "C", "Fortran", "strided" or "reversed" (see `laid_out`), or "any" to draw one of them for
        each array; a failure shrinks to "C" if the layout does not matter.

    Raises
    ------
    ValueError, TypeError
        At once, if the domain, dtype, layout or shape is none, or the domain without the
        surroundings of `avoid` has too few numbers.

    Notes
    -----
    Of more than 256 numbers not each is drawn by itself: a seed is, which shuffles the grid, and 0
    leaves it in order.
    """
    return _arrays("arrays", shape, dtype, domain, avoid, layout)


def _arrays(name: str, shape: Any, dtype: Any, domain: Any, avoid: Any, layout: str) -> Strategy:
    kind, values = _checked(name, dtype, avoid, layout)
    per_shape = isinstance(domain, list)
    domains = [_intervals(name, each) for each in (domain if per_shape else [domain])]
    for intervals in domains:
        _grid(intervals, values, 1, kind)

    def grids(found: list[Shape]) -> list[np.ndarray]:
        if per_shape and len(found) != len(domains):
            raise ValueError(f"{name}: {len(domains)} domains for {len(found)} shapes")
        total = sum([math.prod(one) for one in found])
        chosen = domains if per_shape else domains * len(found)
        return [_grid(intervals, values, total, kind) for intervals in chosen]

    if not isinstance(shape, st.SearchStrategy):
        shape = _shapes_or_shape(name, shape)
        grids(shape if isinstance(shape, list) else [shape])

    @st.composite
    def strategy(draw: Any) -> Any:
        found = shape
        if isinstance(shape, st.SearchStrategy):
            found = _shapes_or_shape(name, draw(shape))
        every = found if isinstance(found, list) else [found]
        taken: set[float] = set()
        numbers = [
            _picked(draw, grid, math.prod(one), taken)
            for one, grid in zip(every, grids(every), strict=True)
        ]
        made = []
        for one, drawn in zip(every, numbers, strict=True):
            place = draw(st.sampled_from(LAYOUTS)) if layout == "any" and one else layout
            array = np.array(drawn, kind).reshape(one)
            made.append(array if place in ("C", "any") else laid_out(array, place))
        return made if isinstance(found, list) else made[0]

    return strategy()


def shapes(
    min_dims: int = 0, max_dims: int = 3, min_side: int = 1, max_side: int = 3
) -> st.SearchStrategy[Shape]:
    """A shape: a tuple of `min_dims` ... `max_dims` lengths from `min_side` to `max_side`.

    `min_side=0` includes empty arrays, which an operation should accept wherever NumPy does.
    """
    least = _length("shapes", "min_dims", min_dims)
    most = _length("shapes", "max_dims", max_dims, least)
    low = _length("shapes", "min_side", min_side)
    side = st.integers(low, _length("shapes", "max_side", max_side, low))
    return st.integers(least, most).flatmap(lambda ndim: st.tuples(*[side] * ndim))


@st.composite
def _shapes_that_meet(draw: Any, result: Any, count: int) -> list[Shape]:
    """Shapes that broadcast to the one that is drawn: each of its lengths is that of one or more.

    Where a shape has 1 instead, and no other length before, the axis may be missing.
    """
    shape = draw(result)
    full = [draw(st.integers(1, 2**count - 1)) for _ in shape]  # a bit for each that is not 1
    found = []
    for i in range(count):
        lengths = [n if bits >> i & 1 else 1 for n, bits in zip(shape, full, strict=True)]
        ones = next((k for k, n in enumerate(lengths) if n != 1), len(lengths))
        found.append(tuple(lengths[draw(st.integers(0, ones)) if ones else 0 :]))
    return found


def broadcastable(
    n: int,
    dtype: Any = np.float64,
    domain: Any = "real",
    avoid: Any = (),
    *,
    layout: str = "C",
    max_dims: int = 3,
    min_side: int = 1,
    max_side: int = 3,
) -> st.SearchStrategy[list[np.ndarray]]:
    """A list of `n` arrays whose shapes meet by NumPy's rules of broadcasting.

    They differ in their number of axes, and have length 1 where another has more: this is where a
    gradient must be summed, and where the sum is forgotten. All numbers are distinct, as in
    `arrays`, which describes the other parameters; a list of `n` domains gives each array its own.
    """
    count = _length("broadcastable", "n", n, 1)
    drawn = _shapes_that_meet(shapes(0, max_dims, min_side, max_side), count)
    return _arrays("broadcastable", drawn, dtype, domain, avoid, layout)


def matmul_pair(
    dtype: Any = np.float64,
    domain: Any = "real",
    avoid: Any = (),
    *,
    layout: str = "C",
    max_dims: int = 2,
    min_side: int = 1,
    max_side: int = 3,
) -> st.SearchStrategy[list[np.ndarray]]:
    """A list of two arrays `a`, `b` for which `a @ b` exists.

    Either may be a vector, which `@` treats by rules of its own; otherwise there may be up to
    `max_dims` axes in front of the matrices', which broadcast. The other parameters are those of
    `arrays`; a list of two domains gives each array its own.
    """
    found = hnp.mutually_broadcastable_shapes(
        signature=np.matmul.signature, max_dims=max_dims, min_side=min_side, max_side=max_side
    )
    drawn = found.map(lambda both: list(both.input_shapes))
    return _arrays("matmul_pair", drawn, dtype, domain, avoid, layout)


# -- sequences and labels -------------------------------------------------------------------------


@st.composite
def _different(draw: Any, least: Sequence[int], most: int, not_these: tuple[int, ...]) -> Shape:
    found: list[int] = []
    for low in least:
        free = [n for n in range(low, most + 1) if n not in found and n not in not_these]
        found.append(draw(st.sampled_from(free)))
    return tuple(found)


def sizes(
    *at_least: int, at_most: int = 6, different_from: Sequence[int] = ()
) -> st.SearchStrategy[Shape]:
    """As many integers as there are arguments, none below its argument, and all different.

    Where two sizes are equal a transposed matrix fits as well as the right one, and a test cannot
    see the difference: `T, B, I, H = draw(sizes(3, 1, 1, 1))` are a recurrent layer's sizes.

    Parameters
    ----------
    at_least
        The smallest value of each.
    at_most
        The largest value of all.
    different_from
        Sizes that are given already.
    """
    least = [_length("sizes", "each argument", n) for n in at_least]
    given = tuple([_length("sizes", "each of different_from", n) for n in different_from])
    needed = len(least) + len([n for n in {*given} if n <= at_most])
    if least and at_most - max(least) + 1 < needed:
        raise ValueError(
            f"sizes: from {max(least)} to at_most={at_most} there are too few integers for "
            f"{needed} different ones; raise at_most"
        )
    return _different(least, at_most, given)


def sequences(
    T: int | None = None,
    B: int | None = None,
    I: int | None = None,
    dtype: Any = np.float64,
    domain: Any = "real",
    avoid: Any = (),
    *,
    layout: str = "C",
) -> Strategy:
    """A batch of sequences for a recurrent layer: an array of shape (T, B, I).

    `T` time steps, at least three: the first has no past, the last no future, and only one between
    them shows whether a gradient that flows through time arrives at the right step. `B` sequences
    of `I` features. A size that is not given is drawn, from 1 (T from 3) to 6, and differs from all
    the others, so that a transpose cannot hide; see `sizes`, which draws a hidden size beside them.
    The other parameters are those of `arrays`.
    """
    least = {"T": 3, "B": 1, "I": 1}
    given = {
        name: None if n is None else _length("sequences", name, n, 3 if name == "T" else 0)
        for name, n in (("T", T), ("B", B), ("I", I))
    }
    known = [n for n in given.values() if n is not None]
    missing = [name for name, n in given.items() if n is None]
    drawn = sizes(*[least[name] for name in missing], at_most=6, different_from=known)

    def shape(found: Shape) -> Shape:
        remaining = iter(found)
        return tuple([next(remaining) if n is None else n for n in given.values()])

    return _arrays("sequences", drawn.map(shape), dtype, domain, avoid, layout)


def labels(n: Any, classes: int) -> st.SearchStrategy[np.ndarray]:
    """Class labels: an int64 array of integers from 0 to `classes - 1`.

    `n` is how many, a shape, or a strategy of either. Labels repeat, and some class may not occur.
    """
    last = _length("labels", "classes", classes, 1) - 1
    if not isinstance(n, st.SearchStrategy):
        n = _shape("labels", n)
    return hnp.arrays(np.int64, n, elements=st.integers(0, last))


# -- axes and indices -----------------------------------------------------------------------------


@st.composite
def _axes(draw: Any, ndim: int, none: bool, several: bool) -> Any:
    if none and (ndim == 0 or draw(st.booleans())):
        return None
    positions = st.integers(0, ndim - 1)
    count = draw(st.integers(1, ndim)) if several else 1
    found = [
        draw(st.sampled_from([axis, axis - ndim]))
        for axis in draw(st.lists(positions, min_size=count, max_size=count, unique=True))
    ]
    return tuple(found) if len(found) > 1 or (several and draw(st.booleans())) else found[0]


def axes(shape: Any, *, none: bool = True, several: bool = True) -> Strategy:
    """What `axis=` takes for an array of `shape`.

    None, an integer counted from either end, or a tuple of different ones in any order: operations
    that work for `axis=0` are often wrong for one of the others.

    Parameters
    ----------
    shape
        The array's shape.
    none, several
        Whether None, and whether tuples, are among what is drawn.
    """
    ndim = len(_shape("axes", shape))
    if ndim == 0 and not none:
        raise ValueError("axes: an array of shape () has no axis; draw None too, or more axes")
    return _axes(ndim, none, several)


def indices(shape: Any, *, kinds: Sequence[str] = _INDEX_KINDS) -> Strategy:
    """An index that fits an array of `shape`, in any of NumPy's forms.

    Parameters
    ----------
    shape
        The array's shape.
    kinds
        Which forms: "basic" (integers, slices with any step, `...` and None), "array" (integer
        arrays, which may name an element several times, or a list), "mask" (booleans), "mixed"
        (integer arrays or a mask together with integers, slices, `...` and None: next to each other
        or apart, which decides where NumPy puts the new axes).

    Notes
    -----
    An element that is picked twice receives two contributions. Code with `total[index] += g` is
    wrong there, and only there: basic indices do not show it.
    """
    found = _shape("indices", shape)
    if isinstance(kinds, str):
        kinds = (kinds,)
    unknown = [kind for kind in kinds if kind not in _INDEX_KINDS]
    if unknown or not kinds:
        known = ", ".join(_INDEX_KINDS)
        raise ValueError(f"indices: kinds must be some of {known}, not {tuple(kinds)}")
    forms: dict[str, Callable[[Shape], Strategy]] = {
        "basic": lambda shape: hnp.basic_indices(shape, allow_newaxis=True),
        "array": _array_index,
        "mask": _mask,
        "mixed": _mixed_index,
    }
    wanted = [forms[kind](found) for kind in _INDEX_KINDS if kind in kinds]
    return st.one_of(wanted)


def _integers(n: int, shape: Any) -> Strategy:
    """An array of positions along an axis of length n, from either end; none if n is 0."""
    if n == 0:
        return st.just(np.zeros(0, np.int64))
    return hnp.arrays(np.int64, shape, elements=st.integers(-n, n - 1))


@st.composite
def _array_index(draw: Any, shape: Shape) -> Any:
    """Integer arrays for the first axes."""
    if not shape:
        return ()
    count = draw(st.integers(1, len(shape)))
    if 0 in shape[:count]:
        return tuple([np.zeros(0, np.int64)] * count)
    if count == 1 and draw(st.booleans()):
        return draw(_integers(shape[0], shapes(min_dims=1, max_dims=1, min_side=0))).tolist()
    result = draw(shapes(max_dims=2, min_side=0))
    index = tuple([draw(_integers(n, _broadcasting_to(draw, result))) for n in shape[:count]])
    return (*index, ...) if draw(st.booleans()) else index


def _broadcasting_to(draw: Any, shape: Shape) -> Shape:
    """A shape that broadcasts to `shape`."""
    dropped = draw(st.integers(0, len(shape)))
    return tuple([draw(st.sampled_from([1, n, n])) for n in shape[dropped:]])


@st.composite
def _mask(draw: Any, shape: Shape) -> Any:
    """Booleans for one or more axes next to each other."""
    start = draw(st.integers(0, max(len(shape) - 1, 0)))
    end = draw(st.integers(min(start + 1, len(shape)), len(shape)))
    mask = draw(hnp.arrays(np.bool_, shape[start:end]))
    return (slice(None),) * start + (mask,) if start else mask


@st.composite
def _mixed_index(draw: Any, shape: Shape) -> Any:
    """A part for each axis: a slice, an integer, an integer array or, once, a mask."""
    result = draw(shapes(max_dims=2, min_side=0))
    masked = draw(st.booleans())
    parts: list[Any] = []
    for n in shape:
        kind = draw(st.sampled_from(("all", "slice", "integer", "array")))
        if kind == "array" and masked:
            parts.append(draw(hnp.arrays(np.bool_, (n,))))
            masked, result = False, ()  # its length meets that of no other array
        elif kind == "array" and (n or 0 in result):
            within = _broadcasting_to(draw, result)
            parts.append(draw(_integers(n, within)) if n else np.zeros(result, np.int64))
        elif kind == "integer" and n:
            parts.append(draw(st.integers(-n, n - 1)))
        elif kind == "slice":
            parts.append(draw(st.slices(n)))
        else:
            parts.append(slice(None))
    # `...` may stand for any run of whole axes, and None anywhere: also between two arrays, which
    # are then no longer next to each other.
    whole = [i for i, part in enumerate(parts) if isinstance(part, slice) and part == slice(None)]
    if whole and draw(st.booleans()):
        i = draw(st.sampled_from(whole))
        parts[i] = ...
    if draw(st.booleans()):
        parts.insert(draw(st.integers(0, len(parts))), None)
    return tuple(parts)
