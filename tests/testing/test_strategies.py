"""What the public strategies draw, and what it shrinks to."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from microtensor.testing.strategies import (
    DOMAINS,
    LAYOUTS,
    arrays,
    axes,
    broadcastable,
    indices,
    labels,
    laid_out,
    matmul_pair,
    sequences,
    shapes,
    sizes,
)


def minimal(strategy, condition=lambda value: True):
    """What a failing test shrinks to."""
    quiet = settings(database=None, derandomize=True, max_examples=200)
    return find(strategy, condition, settings=quiet)


def drawn(strategy, count):
    """Values that do not depend on the day."""
    found = []

    @settings(max_examples=count, derandomize=True, database=None)
    @given(strategy)
    def collect(value):
        found.append(value)

    collect()
    return found


def lies_in(numbers, domain):
    intervals = DOMAINS[domain] if isinstance(domain, str) else (domain,)
    inside = [(low < numbers) & (numbers < high) for low, high in intervals]
    return bool(np.any(inside, axis=0).all())


# -- the grid


def test_zeros_and_ties_are_never_drawn_where_plain_floats_draw_both_all_the_time():
    shape = hnp.array_shapes(min_dims=1, max_dims=3, max_side=4)
    plain = drawn(hnp.arrays(np.float64, shape, elements=st.floats(-10, 10)), 150)
    ours = drawn(arrays(shape), 150)

    def share(condition, among):
        return sum(condition(x) for x in among) / len(among)

    def zero(x):
        return bool((x == 0).any())

    def tie(x):
        return len(np.unique(x)) < x.size

    assert share(zero, plain) > 0.25
    assert share(tie, plain) > 0.5
    assert share(zero, ours) == share(tie, ours) == 0


@given(data=st.data())
def test_numbers_are_distinct_odd_sixteenths_inside_their_domain(data):
    domain = data.draw(st.sampled_from([*DOMAINS]))
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    x = data.draw(arrays(shapes(max_dims=2, max_side=2), dtype, domain))
    assert x.dtype == dtype
    assert np.isin((16 * x) % 2, 1).all()
    assert len(np.unique(x)) == x.size
    assert lies_in(x, domain)


@given(data=st.data())
def test_where_the_grid_has_too_few_numbers_its_spacing_is_halved(data):
    shape = data.draw(st.sampled_from([(70,), (12, 12), (500,), (41, 100)]))
    domain = data.draw(st.sampled_from([*DOMAINS, (-1.0, 0.5)]))
    x = data.draw(arrays(shape, np.float32, domain))
    spacing = next(2.0**k for k in range(4, 30) if (x * 2.0**k % 2 == 1).all())
    assert len(np.unique(x)) == x.size
    assert np.abs(x).min() >= 1 / spacing
    assert lies_in(x, domain)


@given(data=st.data())
def test_any_interval_is_a_domain(data):
    ends = data.draw(
        st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)).filter(
            lambda ends: abs(ends[0] - ends[1]) > 1e-3
        )
    )
    low, high = sorted(ends)
    x = data.draw(arrays(shapes(max_dims=2), domain=(low, high)))
    assert lies_in(x, (low, high))
    assert len(np.unique(x)) == x.size


@pytest.mark.parametrize(
    ("domain", "inside"),
    [
        ((-math.inf, math.inf), (-4, 4)),
        ((1, math.inf), (1, 5)),
        ((-math.inf, -7), (-11, -7)),
        ((0, math.inf), (0, 4)),
        ((10, math.inf), (10, 14)),
    ],
)
def test_an_infinite_end_is_used_for_a_stretch(domain, inside):
    assert all(lies_in(x, inside) for x in drawn(arrays((4,), domain=domain), 10))


@given(data=st.data())
def test_nothing_is_drawn_near_what_shall_be_avoided(data):
    avoid = data.draw(st.lists(st.floats(-4, 4), max_size=3) | st.floats(-4, 4))
    x = data.draw(arrays(shapes(min_dims=1, max_dims=2), avoid=avoid))
    for value in np.ravel(avoid):
        assert np.abs(x - value).min() >= 1 / 16


def test_a_kink_on_the_grid_itself_is_avoided():
    kink = 5 / 16
    assert any((x == kink).any() for x in drawn(arrays((4,)), 50))
    assert not any((x == kink).any() for x in drawn(arrays((4,), avoid=kink), 50))


@given(data=st.data())
def test_arrays_drawn_together_share_no_number(data):
    found = data.draw(arrays([(2, 3), (), (4,)], domain=data.draw(st.sampled_from([*DOMAINS]))))
    assert [x.shape for x in found] == [(2, 3), (), (4,)]
    together = np.concatenate([x.ravel() for x in found])
    assert len(np.unique(together)) == len(together)


@given(arrays([(3,), (3,), (3,)], domain=["positive", "unit", (-1, 0)]))
def test_each_array_may_have_a_domain_of_its_own(found):
    for x, domain in zip(found, ["positive", "unit", (-1, 0)], strict=True):
        assert lies_in(x, domain)
    assert len(np.unique(np.concatenate(found))) == 9


def test_both_signs_and_all_sizes_occur():
    numbers = np.concatenate([x.ravel() for x in drawn(arrays((4,)), 200)])
    assert len(np.unique(numbers)) > 50
    assert 0.3 < np.mean(numbers < 0) < 0.7


def test_a_shape_may_be_a_strategy_of_one_or_of_several():
    assert {x.shape for x in drawn(arrays(st.sampled_from([(2,), (3, 1)])), 20)} == {(2,), (3, 1)}
    one_or_two = st.sampled_from([[(2,)], [(1,), (0, 2)]])
    assert {len(found) for found in drawn(arrays(one_or_two), 20)} == {1, 2}


# -- what it shrinks to


def test_values_shrink_to_short_readable_numbers():
    assert minimal(arrays((3,))).tolist() == [1 / 16, 3 / 16, 5 / 16]
    assert minimal(arrays((2,), domain="positive")).tolist() == [5 / 16, 7 / 16]
    assert minimal(arrays((3,)), lambda x: x.sum() > 2).tolist() == [1 / 16, 3 / 16, 29 / 16]
    assert minimal(arrays((2,)), lambda x: (x < 0).any()).tolist() == [1 / 16, -1 / 16]
    assert minimal(arrays((2,)), lambda x: (x < -1).any()).tolist() == [1 / 16, -17 / 16]


def test_shapes_shrink_to_few_and_short_axes():
    assert minimal(arrays(shapes())).shape == ()
    assert minimal(arrays(shapes()), lambda x: x.ndim == 2).tolist() == [[1 / 16]]
    assert minimal(arrays(shapes()), lambda x: x.size > 2).tolist() == [1 / 16, 3 / 16, 5 / 16]


def test_a_failure_of_a_broadcast_pair_is_readable():
    a, b = minimal(broadcastable(2), lambda found: found[0].size > found[1].size)
    assert (a.tolist(), b.tolist()) == ([1 / 16, 3 / 16], [5 / 16])


def test_the_layout_shrinks_away_if_it_does_not_matter():
    x = minimal(arrays((2, 2), layout="any"), lambda x: x.sum() > 1)
    assert x.flags.c_contiguous
    x = minimal(arrays((2, 2), layout="any"), lambda x: not x.flags.c_contiguous)
    assert x.flags.f_contiguous
    assert x.ravel().tolist() == [1 / 16, 3 / 16, 5 / 16, 7 / 16]


def test_large_arrays_shrink_to_the_grid_in_order():
    x = minimal(arrays((20, 20)))
    assert x.ravel()[:4].tolist() == [1 / 128, 3 / 128, 5 / 128, 7 / 128]
    assert any((x.ravel()[:4] != [1 / 128, 3 / 128, 5 / 128, 7 / 128]).all() for x in drawn(
        arrays((20, 20)), 10
    ))  # fmt: skip


# -- memory


@given(hnp.arrays(hnp.scalar_dtypes().filter(lambda d: d.kind in "biuf"), shapes(min_side=0)))
def test_layouts_hold_the_same_numbers_in_other_places(x):
    for layout in LAYOUTS:
        y = laid_out(x, layout)
        assert y.dtype == x.dtype
        assert np.array_equal(x, y, equal_nan=x.dtype.kind == "f")
        assert not np.shares_memory(x, y)
        assert y.flags.writeable


def test_layouts_are_what_they_are_called():
    x = np.arange(6.0).reshape(2, 3)
    strides = {layout: laid_out(x, layout).strides for layout in LAYOUTS}
    assert strides == {
        "C": (24, 8),
        "Fortran": (8, 16),
        "strided": (48, 16),
        "reversed": (-24, -8),
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_may_be_asked_for(layout):
    for x in drawn(arrays((2, 3), layout=layout), 5):
        assert x.strides == laid_out(np.zeros((2, 3)), layout).strides


def test_any_layout_draws_all_of_them():
    found = {x.strides for x in drawn(arrays((2, 3), layout="any"), 60)}
    assert found == {laid_out(np.zeros((2, 3)), layout).strides for layout in LAYOUTS}


# -- shapes that go together


@given(st.data())
def test_broadcastable_arrays_broadcast(data):
    n = data.draw(st.integers(1, 4))
    found = data.draw(broadcastable(n, min_side=0))
    assert len(found) == n
    np.broadcast_arrays(*found)


def test_broadcastable_arrays_do_differ_in_shape():
    found = {(a.shape, b.shape) for a, b in drawn(broadcastable(2), 200)}
    assert sum(a != b for a, b in found) > 10
    assert sum(len(a) != len(b) for a, b in found) > 5


@given(matmul_pair(min_side=0))
def test_matmul_pairs_can_be_multiplied(pair):
    a, b = pair
    assert (a @ b).dtype == np.float64


def test_matmul_pairs_are_vectors_matrices_and_batches():
    kinds = {(min(a.ndim, 3), min(b.ndim, 3)) for a, b in drawn(matmul_pair(), 200)}
    assert kinds >= {(1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (2, 3), (3, 2)}


@given(st.data())
def test_sizes_are_different(data):
    T, B, I, H = data.draw(sizes(3, 1, 1, 1))
    assert len({T, B, I, H}) == 4
    assert T >= 3
    assert max(T, B, I, H) <= 6


@given(st.data())
def test_sequences_have_three_steps_or_more_and_sizes_that_all_differ(data):
    given_sizes = data.draw(
        st.fixed_dictionaries(
            {}, optional={"T": st.integers(3, 5), "B": st.just(2), "I": st.integers(7, 9)}
        )
    )
    x = data.draw(sequences(**given_sizes))
    assert x.ndim == 3
    assert len(set(x.shape)) == 3
    assert x.shape[0] >= 3
    for name, n in given_sizes.items():
        assert x.shape["TBI".index(name)] == n


def test_sequences_shrink_to_the_smallest_sizes_that_differ():
    assert minimal(sequences()).shape == (3, 1, 2)
    assert minimal(sequences(B=4), lambda x: x.shape[2] > 4).shape == (3, 4, 5)


@given(st.data())
def test_labels_are_integers_below_the_number_of_classes(data):
    n = data.draw(st.sampled_from([4, (2, 3), 0, ()]))
    found = data.draw(labels(n, 3))
    assert found.dtype == np.int64
    assert found.shape == (n if isinstance(n, tuple) else (n,))
    assert np.isin(found, [0, 1, 2]).all()


def test_every_class_occurs():
    assert set(np.concatenate(drawn(labels(5, 4), 40)).tolist()) == {0, 1, 2, 3}


# -- axes and indices


@given(st.data())
def test_axes_are_what_numpy_takes(data):
    x = np.zeros(data.draw(shapes(min_side=0, max_dims=4)))
    np.sum(x, axis=data.draw(axes(x.shape)))


def test_axes_are_none_integers_of_both_signs_and_tuples_in_any_order():
    found = drawn(axes((2, 3, 4)), 400)
    assert {a for a in found if not isinstance(a, tuple)} == {None, -3, -2, -1, 0, 1, 2}
    tuples = {tuple(i % 3 for i in a) for a in found if isinstance(a, tuple)}
    assert {(0,), (0, 1), (1, 0)} <= tuples
    assert all(len(set(a)) == len(a) for a in tuples)


@given(axes((2, 3, 4), none=False, several=False))
def test_a_single_axis_may_be_asked_for(axis):
    assert axis in range(-3, 3)


@given(st.data())
def test_indices_are_what_numpy_takes(data):
    x = np.zeros(data.draw(shapes(min_side=0, max_dims=4)))
    x[data.draw(indices(x.shape))]


def _forms(index):
    """What stands in an index."""
    parts = index if isinstance(index, tuple) else (index,)
    return {
        "mask"
        if isinstance(part, np.ndarray) and part.dtype == bool
        else "array"
        if isinstance(part, (np.ndarray, list))
        else type(part).__name__
        for part in parts
    }


@pytest.mark.parametrize(
    ("kind", "never", "sometimes"),
    [
        ("basic", {"array", "mask"}, {"int", "slice", "ellipsis", "NoneType"}),
        ("array", {"mask", "slice", "int", "NoneType"}, {"array", "ellipsis"}),
        ("mask", {"array", "int", "ellipsis", "NoneType"}, {"mask", "slice"}),
        ("mixed", set(), {"array", "mask", "int", "slice", "ellipsis", "NoneType"}),
    ],
)
def test_each_kind_of_index_has_its_forms(kind, never, sometimes):
    found = set().union(*[_forms(index) for index in drawn(indices((2, 3, 2), kinds=kind), 120)])
    assert not found & never
    assert found >= sometimes


def test_arrays_name_elements_twice_and_stand_next_to_each_other_or_apart():
    found = drawn(indices((3, 3, 3), kinds=("array", "mixed")), 400)
    lists = [
        [np.ravel(part) for part in index if isinstance(part, np.ndarray) and part.dtype != bool]
        for index in found
        if isinstance(index, tuple)
    ]
    assert any(len(parts) == 1 and len(np.unique(parts[0])) < len(parts[0]) for parts in lists)
    places = [
        [i for i, part in enumerate(index) if isinstance(part, np.ndarray)]
        for index in found
        if isinstance(index, tuple)
    ]
    assert any(len(at) == 2 and at[1] - at[0] == 1 for at in places)
    assert any(len(at) == 2 and at[1] - at[0] == 2 for at in places)


def test_an_index_that_picks_twice_shrinks_to_the_shortest():
    x = np.arange(9).reshape(3, 3)
    found = minimal(indices(x.shape), lambda index: len(np.unique(x[index])) < x[index].size)
    assert found == [0, 0]


# -- at the door


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: arrays((2,), domain="postive"), ValueError, "no domain 'postive'; use 'real'"),
        (lambda: arrays((2,), domain=(2, 1)), ValueError, "low < high"),
        (lambda: arrays((2,), domain=(1, math.nan)), ValueError, "no domain"),
        (lambda: arrays((2,), np.int64), ValueError, "float32 or float64.* not int64.*labels"),
        (lambda: arrays((2,), np.float16), ValueError, "not float16"),
        (lambda: arrays((2, -1)), ValueError, "must be at least 0, not -1"),
        (lambda: arrays((2, 1.5)), TypeError, r"shape such as \(2, 1.5\) must be an integer"),
        (lambda: arrays([2, 3]), TypeError, "a list stands for several shapes"),
        (lambda: arrays([(2,)], domain=["real", "real"]), ValueError, "2 domains for 1 shapes"),
        (lambda: arrays((2,), layout="F"), ValueError, "no layout 'F'; use 'C', 'Fortran'"),
        (lambda: arrays((2,), avoid=math.inf), ValueError, "finite"),
        (lambda: arrays((9,), np.float32, (1e6, 1e6 + 1e-3)), ValueError, "float32 has no 4 short"),
        (lambda: broadcastable(0), ValueError, "n must be at least 1"),
        (lambda: shapes(2, 1), ValueError, "max_dims must be at least 2, not 1"),
        (lambda: shapes(min_side=4), ValueError, "max_side must be at least 4, not 3"),
        (lambda: sequences(T=2), ValueError, "T must be at least 3, not 2"),
        (lambda: sizes(3, 3, at_most=3), ValueError, "too few integers for 2 different"),
        (lambda: labels(3, 0), ValueError, "classes must be at least 1"),
        (lambda: labels(2.5, 3), TypeError, "must be an integer"),
        (lambda: axes((), none=False), ValueError, "no axis"),
        (lambda: indices((2,), kinds=("fancy",)), ValueError, "basic, array, mask, mixed"),
        (lambda: laid_out(np.zeros(2), "F"), ValueError, "no layout 'F'"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(make, error, message):
    with pytest.raises(error, match=message):
        make()


# -- without Hypothesis

WITHOUT = """
import sys
sys.modules["hypothesis"] = None
import microtensor.testing as mtt
assert callable(mtt.check_grads)
for get in (
    lambda: mtt.strategies,
    lambda: mtt.given_op,
    lambda: __import__("microtensor.testing.strategies"),
):
    try:
        get()
    except ImportError as error:
        assert 'pip install "microtensor[testing]"' in str(error), error
    else:
        raise SystemExit("imported")
print(*[name for name in sys.modules if name.startswith("hypothesis.")])
"""


def test_without_hypothesis_the_kit_works_and_says_what_the_strategies_need():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_importing_the_kit_does_not_import_hypothesis():
    code = "import sys, microtensor.testing as t; print('hypothesis' in sys.modules, dir(t))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.startswith("False")
    assert "given_op" in done.stdout
    assert "strategies" in done.stdout
