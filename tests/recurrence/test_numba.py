"""The Numba driver against the loop over the cell's equations, and the store of what it compiles.

A cell is compiled in about a second, for each dtype: so there are few cells here and many shapes;
test_fused.py has the many cells, on arrays. The same loops are also run as they are printed, by
Python (interpreted.py): there are more cells, and smaller shapes.
"""

import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrence.interpreted import interpreted
from recurrence.layers import bare, build, draw_state, host, spread
from recurrence.test_fused import FUSED, both_ways, cells, close, compare, flat, is_fused
from recurrence.test_memory_cell import without_recurrent_weights

import microtensor as mt
from microtensor import nn
from microtensor.recurrence import (
    cell,
    driver,
    gru,
    lstm,
    memory_cell,
    memory_cell_bptt,
    peephole_lstm,
    rnn_tanh,
)
from microtensor.recurrence.derivation import parts
from microtensor.recurrence.drivers import compiled, scalars
from microtensor.recurrence.drivers import loops as printed
from microtensor.recurrence.drivers import numba as loops
from microtensor.recurrence.drivers.arrays import _waiting
from microtensor.testing import check_grads

ROOT = Path(__file__).resolve().parents[2]
KINDS = ["lstm", "gru", "own_cell"]
TRIALS = 3
kinds, seeds = st.sampled_from(KINDS), st.integers(0, 2**32 - 1)
both = pytest.mark.parametrize("by", ["Python", pytest.param("Numba", marks=pytest.mark.numba)])


@contextmanager
def running(by):
    """The loops as Python runs them, or as Numba compiles them."""
    if by == "Numba":
        yield
        return
    with interpreted():
        yield


def plans():
    """The plans of the Numba driver that wait for a call."""
    found = [plan for home in list(_waiting.values()) for plan in home]
    return [plan for plan in found if isinstance(plan, loops.Plan)]


# -- the numbers


@pytest.mark.numba
@given(
    kind=kinds,
    seed=seeds,
    # Units fill registers of 4 or 8 exactly or not; sequences fill rows of 4 or 8.
    hidden=st.sampled_from([5, 8, 11]),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 11), st.integers(1, 9)),
    bias=st.sampled_from([True, False, "single"]),
    batch_first=st.booleans(),
    bidirectional=st.booleans(),
    dropped=st.booleans(),
    chosen=st.none() | st.just((0,)) | st.just((1,)),
    data=st.data(),
)
def test_numba_is_the_loop(
    kind, seed, hidden, sizes, bias, batch_first, bidirectional, dropped, chosen, data
):
    """Values and all gradients; lengths, directions, masks, cotangents on some results only."""
    steps, batch, inputs = sizes
    generator = mt.Generator(0)
    options = {"bias": bias, "batch_first": batch_first, "bidirectional": bidirectional}
    options |= {"recurrent_dropout": 0.4 * dropped, "generator": generator}
    layer = build(kind, inputs, hidden, **options)
    rng = np.random.default_rng(seed)
    lengths = data.draw(st.none() | st.lists(st.integers(1, steps), min_size=batch, max_size=batch))
    options = {"lengths": lengths, "chosen": chosen, "generator": generator, "fast": "numba"}
    compare(spread(layer, rng), rng, steps, batch, **options)


@given(
    kind=st.sampled_from(FUSED),
    seed=seeds,
    hidden=st.integers(1, 9),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 3)),
    bias=st.sampled_from([True, False, "single"]),
    batch_first=st.booleans(),
    bidirectional=st.booleans(),
    dropped=st.booleans(),
    chosen=st.none() | st.just((0,)) | st.just((1,)),
    fixed=st.sampled_from(["", "x", "state", "weights"]),
    data=st.data(),
)
def test_the_loops_as_they_are_printed_are_the_loop(
    kind, seed, hidden, sizes, bias, batch_first, bidirectional, dropped, chosen, fixed, data
):
    """The same in Python, for any cell; and gradients only where they are wanted."""
    steps, batch, inputs = sizes
    generator = mt.Generator(0)
    options = {"bias": bias, "batch_first": batch_first, "bidirectional": bidirectional}
    options |= {"recurrent_dropout": 0.4 * dropped, "generator": generator}
    layer = build(kind, inputs, hidden, **options)
    rng = np.random.default_rng(seed)
    lengths = data.draw(st.none() | st.lists(st.integers(1, steps), min_size=batch, max_size=batch))
    spread(layer, rng)
    for parameter in layer.parameters():
        parameter.requires_grad = fixed != "weights"
    x = rng.normal(size=(batch, steps, inputs) if batch_first else (steps, batch, inputs))
    x = mt.tensor(x, requires_grad=fixed != "x")
    state = [
        mt.tensor(value, requires_grad=fixed != "state") for value in draw_state(layer, rng, batch)
    ]
    options = {"lengths": lengths, "chosen": chosen, "generator": generator, "fast": "numba"}
    with interpreted():
        mine, theirs = both_ways(layer, x, bare(state), **options)
    for name, value in theirs.items():
        close(mine[name], value, name)


@cell(gates=("a", "b"), state=("h", "m"), feeds=("m",), biased=("b",))
def feeds_what_is_not_its_output(a, b, h, m):
    return mt.tanh(a) + 0.1 * h, 0.5 * m + mt.sigmoid(b)


@cell(gates=("a", "b"), apart=("a",), per_block=("a",), feeds=("b", "h", "a"), per_unit=("w",))
def feeds_blocks_and_units(a_x, a_h, b, h, y_a, w):
    return mt.tanh(b) * y_a + 0.2 * w * h, 0.3 * b + y_a, mt.tanh(a_x) / (2 + mt.cos(a_h))


@cell(gates=("a", "b", "d"), apart=("b",))
def has_a_gate_apart_between_two(a, b_x, b_h, d, h):
    return mt.tanh(a + 0.5 * b_x * b_h) * mt.sigmoid(d) + 0.1 * h


DECLARED = [
    *(memory_cell, memory_cell_bptt, without_recurrent_weights),
    *(feeds_what_is_not_its_output, feeds_blocks_and_units, has_a_gate_apart_between_two),
]


@given(
    one=st.sampled_from(DECLARED),
    seed=seeds,
    blocks=st.sampled_from([3, 1]),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3)),
    bias=st.sampled_from([True, False, "single"]),
    bidirectional=st.booleans(),
    masked=st.booleans(),
    chosen=st.none() | st.sampled_from([(0,), (1,), (2,)]),
    data=st.data(),
)
def test_whatever_a_cell_declares(
    one, seed, blocks, sizes, bias, bidirectional, masked, chosen, data
):
    """Gates of blocks, what is fed, gradients that are cut, gates without a bias."""
    steps, batch, inputs = sizes
    options = {"bias": bias, "bidirectional": bidirectional, "dtype": "float64"}
    block_size = data.draw(st.sampled_from([2, 1, 3])) if one.per_block else 1
    generator, lengths = None, None
    if masked:
        generator = mt.Generator(0)
        options |= {"recurrent_dropout": 0.4, "generator": generator}
        lengths = data.draw(st.lists(st.integers(1, steps), min_size=batch, max_size=batch))
    layer = nn.Recurrent(one, inputs, blocks * block_size, block_size=block_size, **options)
    if chosen and chosen[0] >= 1 + len(one.state):
        chosen = None
    options = {"lengths": lengths, "chosen": chosen, "generator": generator, "fast": "numba"}
    rng = np.random.default_rng(seed)
    with interpreted():
        compare(spread(layer, rng), rng, steps, batch, **options)


@both
def test_a_stack_of_blocks(by):
    rng = np.random.default_rng(5)
    layers = [nn.Recurrent(memory_cell, 2, 6, block_size=2, dtype="float64") for _ in range(TRIALS)]
    layer = spread(nn.stack(layers), rng)
    x = mt.tensor(rng.normal(size=(TRIALS, 4, 3, 2)), requires_grad=True)
    widths = [one.cell.width(name, 6, 2) for one in layers[:1] for name in one.cell.state]
    state = bare(
        [mt.tensor(rng.normal(size=(TRIALS, 1, 3, n)), requires_grad=True) for n in widths]
    )
    with running(by):
        mine, theirs = both_ways(layer, x, state, fast="numba")
    for name, value in theirs.items():
        close(mine[name], value, name)


@both
@pytest.mark.parametrize("length", [1, 3, 64])
def test_blocks_of_steps_make_no_difference(length, by, monkeypatch):
    rng = np.random.default_rng(0)
    layer = spread(build("lstm", 3, 5), rng)
    bytes_of_a_step = (3 + 1 + 8 + 5 * 8 + 7 * 8) * 2 * 8
    monkeypatch.setattr(loops, "CACHE", length * bytes_of_a_step)
    for lengths in (None, [65, 20]):
        _waiting.clear()
        with running(by):
            compare(layer, rng, 65, 2, lengths=lengths, fast="numba")
    _waiting.clear()


@given(one=cells(), seed=seeds)
def test_a_cell_made_up_on_the_spot_as_it_is_printed(one, seed):
    with interpreted():
        try_made_up(one, seed)


@both
@given(
    kind=kinds,
    seed=seeds,
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)),
    bias=st.sampled_from([True, False, "single"]),
    batch_first=st.booleans(),
    bidirectional=st.booleans(),
    dropped=st.booleans(),
    padded=st.booleans(),
    chosen=st.none() | st.just((0,)) | st.just((1,)),
    at_once=st.booleans(),
)
def test_a_stack_is_the_loop(
    by, kind, seed, sizes, bias, batch_first, bidirectional, dropped, padded, chosen, at_once
):
    """All trials of a stack, in one thread or in two."""
    steps, batch, inputs = sizes
    generators = [mt.Generator(k) for k in range(TRIALS)]
    options = {"bias": bias, "batch_first": batch_first, "bidirectional": bidirectional}
    options |= {"recurrent_dropout": 0.4 * dropped}
    layers = [build(kind, inputs, 5, generator=g, **options) for g in generators]
    layer = spread(nn.stack(layers), rng := np.random.default_rng(seed))
    order = (batch, steps) if batch_first else (steps, batch)
    x = mt.tensor(rng.normal(size=(TRIALS, *order, inputs)), requires_grad=True)
    shape = (TRIALS, 1 + bidirectional, batch, 5)
    state = bare([mt.tensor(rng.normal(size=shape), requires_grad=True) for _ in layer.cell.state])
    lengths = rng.integers(1, steps + 1, (TRIALS, batch)) if padded else None
    with running(by), pytest.MonkeyPatch.context() as patch:
        started = in_threads(patch, at_once)
        mine, theirs = both_ways(layer, x, state, lengths, chosen, All(generators), "numba")
        assert bool(started) is at_once
        assert plans(), "it has run on arrays"
    for name, value in theirs.items():
        close(mine[name], value, name)


class All:
    """Several generators that begin anew together."""

    def __init__(self, generators):
        self.generators = generators

    def manual_seed(self, seed):
        for k, generator in enumerate(self.generators):
            generator.manual_seed(seed + k)


def in_threads(patch, wanted):
    """Run stacks in two threads, whatever their size, or in one; a list of all that start."""
    started = []

    class Thread(threading.Thread):
        def start(self):
            started.append(self)
            super().start()

    _waiting.clear()  # a plan knows already
    patch.setattr(compiled.numba().config, "NUMBA_NUM_THREADS", 2 if wanted else 1)
    patch.setattr(loops, "WORTHWHILE", 0)
    patch.setattr(loops.threading, "Thread", Thread)
    return started


@both
def test_two_threads_change_no_bit(by):
    rng = np.random.default_rng(0)
    trials = 7  # of which a thread that begins or ends at the wrong one leaves one out
    layer = nn.stack([build("lstm", 3, 5, "float32") for _ in range(trials)])
    x = rng.normal(size=(trials, 7, 2, 3)).astype("float32")
    found = []
    for wanted in (False, True):
        with running(by), pytest.MonkeyPatch.context() as patch, driver("numba"):
            started = in_threads(patch, wanted)
            leaf = mt.tensor(x, requires_grad=True)
            output, _ = layer(leaf)
            gradients = mt.grad(mt.sum(output * output), [leaf, *layer.parameters()])
            found.append([host(value) for value in (output, *gradients)])
            assert len(started) == 2 * wanted  # forward and backward
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.numba
@settings(max_examples=2)
@given(one=cells(), seed=seeds)
def test_a_cell_made_up_on_the_spot(one, seed):
    try_made_up(one, seed)


def try_made_up(one, seed):
    rng = np.random.default_rng(seed)
    layer = nn.Recurrent(one, 2, 5, dtype="float64")
    for parameter in layer.parameters():
        parameter.data = 0.7 * rng.normal(size=parameter.shape)
    compare(layer, rng, 4, 3, fast="numba")


@cell(gates=("a", "b"), state=("h", "m"))
def many_operations(a, b, h, m):
    """Every operation that a cell may use and the cells above do not."""
    chosen = (a > 0.1) & (b <= h) | (m == a) | ((m < a) < (h < b))
    x = mt.where(chosen, mt.clip(a, -0.5, 0.7), mt.minimum(a, b))
    y = mt.log(1.5 + mt.sin(b)) + mt.log1p(mt.exp(-mt.abs(h))) - mt.sqrt(1 + mt.square(m))
    z = mt.expm1(-mt.relu(b)) * mt.cos(a) + (1.1 + mt.tanh(b)) ** 1.7 / (2 + mt.sign(m))
    return mt.tanh(x + 0.1 * y - z), mt.maximum(x, 0.5 * z)


@both
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_operation(dtype, by):
    rng = np.random.default_rng(2)
    layer = nn.Recurrent(many_operations, 2, 9, dtype=dtype, generator=mt.Generator(0))
    x = mt.tensor(rng.normal(size=(3, 5, 2)).astype(dtype), requires_grad=True)
    state = [mt.tensor(s.astype(dtype), requires_grad=True) for s in draw_state(layer, rng, 5)]
    with running(by):
        mine, theirs = both_ways(layer, x, bare(state), fast="numba")
    for name, value in theirs.items():
        close(mine[name], value, name, 1e-10 if dtype == "float64" else 1e-5)


@pytest.mark.numba
@pytest.mark.parametrize(("kind", "hidden"), [("lstm", 1), ("lstm", 20), ("gru", 20)])
def test_float32_rounds_no_worse_than_the_square_root_of_the_steps(kind, hidden):
    steps = 100
    rng = np.random.default_rng(0)
    narrow = build(kind, 4, hidden, dtype="float32", generator=mt.Generator(1))
    wide = build(kind, 4, hidden)
    wide.load_state_dict({name: p.detach().numpy() for name, p in narrow.named_parameters()})
    x = rng.normal(size=(steps, 3, 4)).astype("float32")
    found = []
    for layer, dtype, name in ((narrow, "float32", "numba"), (wide, "float64", "steps")):
        leaf = mt.tensor(x.astype(dtype), requires_grad=True)
        with driver(name):
            results = flat(layer(leaf))
        leaves = [leaf, *layer.parameters()]
        gradients = mt.grad(results, leaves, [np.ones(v.shape, dtype) for v in results])
        assert all(value.dtype == dtype for value in (*results, *gradients))
        found.append([host(value) for value in (*results, *gradients)])
    for a, b in zip(*found, strict=True):
        close(a, b, tolerance=2e-6 * np.sqrt(steps))


@pytest.mark.numba
@pytest.mark.parametrize("lengths", [None, [2, 3]])
def test_check_grads_through_the_driver(lengths):
    rng = np.random.default_rng(0)
    layer = spread(build("own_cell", 2, 5), rng)
    with driver("numba"):
        assert is_fused(layer(mt.ones((3, 2, 2), dtype="float64"))[0])
        check_grads(layer, rng.normal(size=(3, 2, 2)), bare(draw_state(layer, rng, 2)), lengths)


@both
def test_arrays_that_compiled_code_does_not_know(by):
    """Every second element, in reverse, transposed, not to be written: they are read as well."""
    rng = np.random.default_rng(0)
    layer = spread(build("own_cell", 3, 5), rng)
    for parameter in layer.parameters():
        parameter.data = np.repeat(parameter.data[::-1], 2, axis=-1)[..., ::2].copy("A")
        parameter.data = np.asfortranarray(parameter.data)
    x = np.asfortranarray(rng.normal(size=(3, 4, 12)).astype("float64"))[::-1, :, ::4].swapaxes(
        0, 1
    )
    state = [np.broadcast_to(rng.normal(size=(1, 1, 5)), (1, 3, 5)) for _ in range(2)]
    assert not state[0].flags.writeable
    leaves = [mt.Tensor(value, requires_grad=True) for value in (x, *state)]
    with running(by):
        mine, theirs = both_ways(layer, leaves[0], tuple(leaves[1:]), fast="numba")
    for name, value in theirs.items():
        close(mine[name], value, name)


@pytest.mark.numba
def test_weights_that_do_not_fit_are_refused():
    """Not read beyond their end."""
    layer, x = build("lstm", 3, 5), mt.ones((2, 2, 3), dtype="float64")
    layer(x)
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_hh_l0"):
        parameter = getattr(layer, name)
        whole = parameter.data
        parameter.data = whole[:-1].copy()
        for chosen in ("numba", "steps"):
            with driver(chosen), pytest.raises(ValueError):
                layer(x)
        parameter.data = whole


@pytest.mark.numba
def test_not_a_number_is_not_hidden():
    for dtype in ("float32", "float64"):
        layer, x = build("lstm", 4, 9, dtype=dtype), np.zeros((3, 2, 4), dtype)
        x[1, 0, 0] = np.nan
        x[1, 1, 0] = np.inf
        with driver("numba"):
            output = host(layer(mt.tensor(x))[0])
        assert np.isnan(output[1:, 0]).all()
        assert np.isfinite(output[:, 1]).all()
        assert np.isfinite(output[0]).all()


# -- buffers


@both
@given(kind=kinds, order=st.permutations(range(3)), seed=seeds)
def test_live_graphs_of_the_same_sizes_do_not_disturb_each_other(by, kind, order, seed):
    rng = np.random.default_rng(seed)
    layer, calls = build(kind, 4, 5), []
    with running(by), driver("numba"):
        for _ in order:
            x = mt.tensor(rng.normal(size=(6, 3, 4)), requires_grad=True)
            calls.append((x, layer(x)[0]))
        kept = [host(output).copy() for _, output in calls]
        for i in order:
            x, output = calls[i]
            (output * output).sum().backward(retain_graph=True)
            first = host(x.grad).copy()
            x.grad = None
            (output * output).sum().backward()
            np.testing.assert_array_equal(host(x.grad), first)
    for (x, output), before in zip(calls, kept, strict=True):
        np.testing.assert_array_equal(host(output), before)
        with driver("steps"):
            close(before, host(layer(x.detach())[0]))


@both
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_handed_out_never_changes(kind, by):
    rng = np.random.default_rng(0)
    layer = build(kind, 4, 5, bidirectional=True)
    with running(by), driver("numba"):
        x = mt.tensor(rng.normal(size=(6, 3, 4)), requires_grad=True)
        results = flat(layer(x))
        sum(mt.sum(value) for value in results).backward()
        given_out = [*results, x.grad, *[p.grad for p in layer.parameters()]]
        kept = [host(value).copy() for value in given_out]
        assert plans()
        for value in given_out:
            assert not any(np.shares_memory(host(value), plan.memory) for plan in plans())
        for _ in range(3):
            mt.sum(layer(mt.tensor(rng.normal(size=(6, 3, 4)), requires_grad=True))[0]).backward()
        with mt.no_grad():
            layer(x * 2)
    for value, before in zip(given_out[: len(results) + 1], kept, strict=False):
        np.testing.assert_array_equal(host(value), before)


def plan_of(
    one, dtype, hidden, steps=5, batch=3, inputs=4, general=False, recorded=True, block_size=1
):
    """A plan, and the numbers by their names that compiled code reads in it."""
    dtype = np.dtype(dtype)
    assert loops.prepare(one.program, dtype, hidden, general, False) is None
    width = loops.width_of(dtype, hidden)
    sizes = loops.Sizes(
        *(loops._loops(one.program, general), dtype, width, steps, batch, inputs, hidden),
        *(0, False, recorded, block_size, None),
    )
    plan = loops.Plan(sizes.loops, sizes)
    return plan, dict(zip(printed.NUMBERS, plan.numbers.tolist(), strict=False))


@given(
    one=st.sampled_from([lstm, gru, rnn_tanh]),
    dtype=st.sampled_from(["float32", "float64"]),
    sizes=st.tuples(*[st.integers(1, most) for most in (130, 40, 40)]),
    general=st.booleans(),
)
def test_rows_are_whole_registers_that_do_not_meet(one, dtype, sizes, general):
    hidden, inputs, batch = sizes
    with interpreted():
        plan, n = plan_of(one, dtype, hidden, batch=batch, inputs=inputs, general=general)
    width = plan.sizes.width
    assert n["P"] % width == n["X"] % width == n["M"] % width == 0
    assert 0 <= n["P"] - hidden < width
    assert 0 <= n["X"] - inputs < width
    assert 0 <= n["M"] - len(plan.sizes.loops.rows) * n["P"] <= width
    assert n["M"] * np.dtype(dtype).itemsize % 2048, "rows would meet in the same cache lines"


@given(
    one=st.sampled_from([lstm, gru, rnn_tanh]),
    cache=st.integers(0, 1 << 15),
    sizes=st.tuples(*[st.integers(1, most) for most in (40, 6, 9)]),
    general=st.booleans(),
)
def test_a_block_of_steps_fits_into_the_cache_and_is_no_shorter(one, cache, sizes, general):
    steps, batch, hidden = sizes
    with interpreted(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(loops, "CACHE", cache)
        _, n = plan_of(one, "float64", hidden, steps, batch, general=general)
    of_a_step = 8 * batch * (n["F"] + n["M"] + n["R"] + n["P"])  # of hx, dz, record and g
    assert n["C"] == 1 or n["C"] * of_a_step <= cache
    assert n["C"] == steps or (n["C"] + 1) * of_a_step > cache
    assert 1 <= n["C"] <= steps


@given(hidden=st.integers(1, 100), dtype=st.sampled_from([np.float32, np.float64]), data=st.data())
def test_a_register_is_filled_unless_there_are_few_units(hidden, dtype, data):
    dtype, register = np.dtype(dtype), data.draw(st.sampled_from([32, 64]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "register", lambda: register)
        width = loops.width_of(dtype, hidden)
    whole = register // dtype.itemsize
    assert width in (4, 8, 16)
    assert width <= whole
    assert width == whole if hidden > whole // 2 else width == 4 or hidden > width // 2


@given(one=cells())
def test_a_record_keeps_what_the_step_computes_anyway(one):
    d = one.program.derivation
    computed = {*parts(d.new.values()), *d.inputs.values()}
    for general in (False, True):
        assert set(printed.Loops(one.program, general).stored) <= computed


def test_rows_so_far_apart_that_they_would_meet():
    rng = np.random.default_rng(0)
    layer = spread(build("lstm", 1, 64), rng)  # 4 times 64 numbers of 8 bytes: 2048
    with interpreted():
        compare(layer, rng, 2, 2, fast="numba")


# -- which driver runs


class Refused(Exception):
    pass


def test_what_does_not_compile_runs_on_arrays(monkeypatch):
    """With one warning if Numba was asked for in so many words, else without a word."""

    def refuse(*arguments):
        raise Refused("not today")

    monkeypatch.setattr(compiled, "numba", lambda: sys)  # as if it were there
    monkeypatch.setattr(loops, "_compile", refuse)
    monkeypatch.setattr(loops, "width_of", lambda dtype, hidden: 4)

    @cell(gates=("a",))
    def fresh(a, h):
        return mt.tanh(a) + 0.1 * h

    layer, x = nn.Recurrent(fresh, 4, 3, dtype="float64"), mt.ones((2, 3, 4), dtype="float64")
    with driver("arrays"):
        expected = host(layer(x)[0])
    monkeypatch.delenv("MICROTENSOR_DRIVER")
    assert driver() == "numba"
    np.testing.assert_array_equal(host(layer(x)[0]), expected)
    with driver("numba"):
        with pytest.warns(RuntimeWarning, match="fresh, which runs on arrays.*not today"):
            np.testing.assert_array_equal(host(layer(x)[0]), expected)
        layer(x)  # without a second one


def test_without_numba(monkeypatch):
    monkeypatch.setattr(compiled, "_numba", False)
    with pytest.raises(ModuleNotFoundError, match=r"microtensor\[fast\]"):
        driver("numba")
    with pytest.raises(ModuleNotFoundError, match=r"microtensor\[fast\]"):
        compiled.load("nothing", "")
    monkeypatch.delenv("MICROTENSOR_DRIVER")
    assert driver() == "arrays"
    monkeypatch.setenv("MICROTENSOR_DRIVER", "numba")
    with pytest.raises(ModuleNotFoundError, match="MICROTENSOR_DRIVER"):
        driver()
    monkeypatch.setenv("MICROTENSOR_DRIVER", "none")
    with pytest.raises(ValueError, match="MICROTENSOR_DRIVER"):
        driver()


def test_the_source_can_be_read_without_numba(monkeypatch):
    monkeypatch.setattr(compiled, "_numba", False)
    for one in (lstm, gru, rnn_tanh):
        source = one.source("numba")
        compile(source, "source", "exec")
        assert "valid" not in source, "the variant for lengths and masks is longer to read"
        assert "def forward(" in source
        assert "def backward(" in source
    assert "c_new = c_ * v4 + v3 * v2" in lstm.source("numba")


# -- cells as scalar source


@pytest.mark.parametrize("one", [lstm, gru, peephole_lstm, memory_cell_bptt])
def test_what_is_dear_is_printed_once_and_lines_are_short(one):
    """Something needed twice has a name, and so has what would make a line too long to read."""
    forward, backward = one.source("numba").split("def backward")
    calls = re.findall(r"(?:tanh|sigmoid)\([^()]*\)", forward)
    assert len(calls) == len(set(calls)) >= 2
    for line in [*forward.splitlines(), *backward.splitlines()]:
        value = line.partition(" = ")[2]
        if "load(" not in value:
            assert len(value) <= 2 * scalars._LONGEST, line


@given(one=cells(), seed=seeds)
def test_scalar_source_is_the_cell_and_its_derivative(one, seed):
    """Executed on plain numbers, with NumPy's functions, against the equations as they stand."""
    rng = np.random.default_rng(seed)
    d = one.program.derivation
    values = {name: float(rng.normal()) for name in d.inputs}
    names = {name: f"v_{name}" for name in d.inputs}
    places = {symbol: names[name] for name, symbol in d.inputs.items()}
    lines = scalars.statements([(f"new_{name}", value) for name, value in d.new.items()], places)
    keys = {key: f"j{i}" for i, key in enumerate(d.jacobian)}
    lines += scalars.statements([(keys[key], d.jacobian[key]) for key in keys], places)
    space = {
        **{name: getattr(np, name) for name in ("tanh", "exp", "log1p", "sin", "cos", "where")},
        **{name: getattr(np, name) for name in ("maximum", "clip", "sign", "absolute", "log")},
        **{name: getattr(np, name) for name in ("logical_not", "minimum", "sqrt", "power")},
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "relu": lambda x: max(x, 0.0),
        "real": float,
        **{names[name]: value for name, value in values.items()},
    }
    exec("\n".join(lines), space)
    result = one(*[values[name] for name in one.arguments])
    result = result if isinstance(result, tuple) else (result,)
    for name, expected in zip(one.state, result, strict=True):
        assert float(space[f"new_{name}"]) == pytest.approx(float(expected), abs=1e-12)
    leaves = {n: mt.tensor(v, dtype="float64", requires_grad=True) for n, v in values.items()}
    again = one(*[leaves[name] for name in one.arguments])
    again = again if isinstance(again, tuple) else (again,)
    total = {name: {} for name in one.state}  # d new / d input, through other new values too
    for value in reversed(d.order):
        for name in d.inputs:
            share = float(space[keys[value, name]]) if (value, name) in keys else 0.0
            for other in d.order:
                if (value, (other,)) in keys:
                    share += float(space[keys[value, (other,)]]) * total[other][name]
            total[value][name] = share
    for name, value in zip(one.state, again, strict=True):
        found = mt.grad(value, list(leaves.values()), allow_unused=True, retain_graph=True)
        for leaf, g in zip(leaves, found, strict=True):
            expected = 0.0 if g is None else float(g)
            assert total[name][leaf] == pytest.approx(expected, abs=1e-9)


def logistic_like(x, kind):
    """What looks like the logistic function that `mt.sigmoid` is written as, and is not."""
    return {
        "another limit": lambda: 1 / (1 + mt.exp(mt.minimum(-x, 0.5))),
        "no limit": lambda: 1 / (1 + mt.exp(-x)),
        "not negative": lambda: 1 / (1 + mt.exp(mt.minimum(x, 709.0))),
        "two more": lambda: 1 / (2 + mt.exp(mt.minimum(-x, 709.0))),
        "twice": lambda: 2 / (1 + mt.exp(mt.minimum(-x, 709.0))),
        "a square": lambda: 1 / (1 + mt.square(x)),
        "a sine": lambda: 1 / (2 + mt.sin(x)),
        "a sum": lambda: 1 / (x + mt.exp(x)),
    }[kind]()


@pytest.mark.parametrize(
    "kind",
    [
        *("another limit", "no limit", "not negative", "two more"),
        *("twice", "a square", "a sine", "a sum"),
    ],
)
def test_what_looks_like_a_sigmoid_is_none(kind):
    @cell(gates=("a",))
    def alike(a, h):
        return logistic_like(a + 0.3 * h, kind)

    assert alike.program is not None, alike._program
    assert "sigmoid" not in alike.source("numba")
    rng = np.random.default_rng(1)
    compare(nn.Recurrent(alike, 2, 3, dtype="float64"), rng, 4, 3)


# -- lanes


def compiles(function):
    import numba

    try:
        numba.njit(function)(1.0)
    except numba.errors.TypingError:
        return False
    return True


@pytest.mark.numba
def test_lanes_of_different_kinds_do_not_mix():
    """Compiled code would read a register as what it is not."""
    from microtensor.recurrence.drivers import lanes

    four, eight = lanes.of("float64", 4).real, lanes.of("float64", 8).real
    where = lanes.where

    def use(function, other):
        def two(a):
            function(four(a), other(a))

        return two

    def truths(function, other):
        def two(a):
            x, y = four(a), other(a)
            function(x > x, y > y)

        return two

    def chosen(other):
        def three(a):
            x, y = four(a), other(a)
            where(x > x, x, y)

        return three

    def condition(other):
        def three(a):
            x, y = four(a), other(a)
            where(y > y, x, x)

        return three

    for other in (four, eight):
        fits = other is four
        assert compiles(use(lanes.maximum, other)) is fits
        assert compiles(use(lanes.power, other)) is fits
        assert compiles(truths(lanes.logical_and, other)) is fits
        assert compiles(chosen(other)) is fits
        assert compiles(condition(other)) is fits


# -- the store

SOURCE = """
from numba import njit

@njit("float64(float64[::1])", cache=on_disk)
def add(x):
    total = 0.0
    for value in x:
        total += value
    return total
"""
SCRIPT = f"""
import numpy as np
from microtensor.recurrence.drivers import compiled

module = compiled.load("adding", {SOURCE!r})
assert module.add(np.arange(4.0)) == 6
print(sum(module.add.stats.cache_hits.values()), module.__file__)
"""


def start(folder):
    environment = {**os.environ, "MICROTENSOR_CACHE": str(folder), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", SCRIPT]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ends_well(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert not err
    hits, file = out.split(maxsplit=1)
    return int(hits), file.strip()


@pytest.mark.numba
def test_the_store_is_filled_once_and_mends_itself(tmp_path):
    for process in [start(tmp_path) for _ in range(2)]:  # at the same time
        _, file = ends_well(process)
        assert Path(file).parent == tmp_path
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == ["", ".py"]
    source = Path(file).read_bytes()
    kept = list((tmp_path / "__pycache__").iterdir())
    assert {path.suffix for path in kept} == {".nbi", ".nbc"}
    for path in kept:  # as after a power failure
        path.write_bytes(b"\0" * 100)
    Path(file).write_text("raise SystemExit(3)")
    assert ends_well(start(tmp_path)) == (0, file)
    assert Path(file).read_bytes() == source
    assert ends_well(start(tmp_path)) == (1, file)


@pytest.mark.numba
def test_what_is_compiled_lies_in_the_folder_under_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("MICROTENSOR_CACHE", str(tmp_path / "new"))
    monkeypatch.setattr(compiled, "_loaded", {})
    module = compiled.load("adding", SOURCE)
    assert Path(module.__file__).read_text() == SOURCE
    assert [path.suffix for path in sorted((tmp_path / "new").iterdir())] == ["", ".py"]
    monkeypatch.setattr(compiled, "_loaded", {})
    again = compiled.load("adding", SOURCE)
    assert sum(again.add.stats.cache_hits.values()) == 1


@pytest.mark.numba
def test_a_folder_that_cannot_be_written_costs_time_only(tmp_path):
    (tmp_path / "file").write_text("")
    hits, file = ends_well(start(tmp_path / "file" / "below"))
    assert hits == 0
    assert file.startswith("<")


def test_where_the_store_is(monkeypatch, tmp_path):
    monkeypatch.delenv("MICROTENSOR_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Path(compiled.folder()) == tmp_path / "microtensor"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert Path(compiled.folder()) == Path.home() / ".cache" / "microtensor"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert Path(compiled.folder()) == Path.home() / "Library" / "Caches" / "microtensor"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert Path(compiled.folder()) == tmp_path / "local" / "microtensor"
    monkeypatch.setenv("MICROTENSOR_CACHE", str(tmp_path / "mine"))
    assert Path(compiled.folder()) == tmp_path / "mine"
