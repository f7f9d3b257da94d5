"""Numbers and shapes for the property tests.

Numbers lie on a grid of odd sixteenths, (2k + 1) / 16, and no two of them are equal. So none is at
a kink (0, a bound at a multiple of 1/8) and there are no ties, and what a failing test shrinks to
is readable.
"""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

LAYOUTS = ("as it is", "Fortran", "every other", "backward")


def fewer(divisor):
    """Settings with a fraction of the profile's examples."""
    return settings(max_examples=max(settings().max_examples // divisor, 3))


@st.composite
def numbers(draw, count, domain="real"):
    """`count` different floats.

    real: both signs, up to 4 or so; nonzero: the same, but not between -1/4 and 1/4; positive: from
    5/16; unit: well between 0 and 1; above -1: from -11/16; small: for long products. Near a pole
    the differences that derivatives are compared with would not be exact enough.
    """
    half = max(32, 2 * count)
    low, high, scale = {
        "real": (-half, half - 1, 16),
        "nonzero": (-half, half - 5, 16),
        "positive": (2, half, 16),
        "unit": (half // 8, half - 1 - half // 8, 2 * half),
        "above -1": (-6, half, 16),
        "small": (-half, half - 1, 2 * half),
    }[domain]
    ks = draw(st.lists(st.integers(low, high), min_size=count, max_size=count, unique=True))
    if domain == "nonzero":
        ks = [k if k < -2 else k + 4 for k in ks]
    return [(2 * k + 1) / scale for k in ks]


def laid_out(array, layout):
    """The same numbers with other strides."""
    if array.ndim == 0:
        return array
    if layout == "Fortran":
        return np.asfortranarray(array)
    if layout == "every other":
        wide = np.full((*array.shape[:-1], 2 * array.shape[-1]), 1e30, array.dtype)
        wide[..., ::2] = array
        return wide[..., ::2]
    if layout == "backward":
        back = (slice(None, None, -1),) * array.ndim
        return array[back].copy()[back]
    return array


@st.composite
def arrays(draw, *shapes, domain="real"):
    """Arrays of the given shapes, no two of their numbers equal, in any memory layout."""
    sizes = [int(np.prod(shape)) for shape in shapes]
    values = draw(numbers(sum(sizes), domain))
    found = []
    for shape, size in zip(shapes, sizes, strict=True):
        array = np.array(values[:size], np.float64).reshape(shape)
        found.append(laid_out(array, draw(st.sampled_from(LAYOUTS))))
        values = values[size:]
    return found


def shapes(min_dims=0, max_dims=3, min_side=0, max_side=3):
    return hnp.array_shapes(
        min_dims=min_dims, max_dims=max_dims, min_side=min_side, max_side=max_side
    )


@st.composite
def several_axes(draw, shape):
    """What `axis=` takes: None, an axis, or a tuple of different ones, counted from either end."""
    ndim = len(shape)
    if ndim == 0 or draw(st.booleans()):
        return None
    signed = draw(
        st.lists(st.integers(0, ndim - 1), min_size=1, unique=True).map(
            lambda found: [draw(st.sampled_from([a, a - ndim])) for a in found]
        )
    )
    signed = [draw(whole(a)) for a in signed]
    return tuple(signed) if len(signed) > 1 or draw(st.booleans()) else signed[0]


def whole(number):
    """A whole number as Python's or as NumPy's."""
    return st.sampled_from([int, np.int64, np.intp, np.int8]).map(lambda kind: kind(number))


def one_axis(shape):
    return st.integers(-len(shape), len(shape) - 1).flatmap(whole)


def without_empty(shape, axis):
    """`shape` with length 1 instead of 0 along `axis`: a maximum of nothing does not exist."""
    wanted = range(len(shape)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    wanted = {a % len(shape) for a in wanted}
    return tuple([max(n, 1) if i in wanted else n for i, n in enumerate(shape)])
