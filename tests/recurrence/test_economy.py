"""What a pass takes: memory, products and calls. None of it changes a number, so it is counted."""

import gc
import re
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recurrence.interpreted import interpreted
from recurrence.layers import own_cell
from recurrence.test_fused import DOCUMENTED, cells, compare
from recurrence.test_numba import DECLARED, has_a_gate_apart_between_two, plan_of
from recurrence.test_online import BLOCKS, KINDS, PLAIN, changed
from recurrence.test_online import build as build_online

import microtensor as mt
from microtensor import nn
from microtensor.recurrence import (
    cell,
    fit_online,
    gru,
    lstm,
    memory_cell,
    peephole_lstm,
    rnn_relu,
    rnn_tanh,
)
from microtensor.recurrence.drivers import arrays, compiled, online_arrays, online_loops
from microtensor.recurrence.drivers import loops as printed
from microtensor.recurrence.drivers import numba as loops
from microtensor.recurrence.drivers.printing import DEAR, Printer
from microtensor.recurrence.symbols import Symbol

EVERY = list(dict.fromkeys([*DOCUMENTED, own_cell, *DECLARED]))
each_cell = pytest.mark.parametrize("one", EVERY, ids=lambda one: one.name)


@pytest.fixture(autouse=True)
def no_plan_waits():
    gc.disable()  # what earlier tests have left might give its plans back in the middle
    arrays._waiting.clear()
    yield
    arrays._waiting.clear()
    gc.enable()


def layer_of(one, inputs=3, hidden=4, **options):
    block_size = 2 if one.per_block else 1
    return nn.Recurrent(one, inputs, hidden, block_size=block_size, dtype="float64", **options)


def plan_after(layer, steps, batch, inputs=False, recorded=True, dtype="float64"):
    """The plan of a layer's call, and what its backward pass needs."""
    arrays._waiting.clear()
    x = mt.ones((steps, batch, layer.input_size), dtype=dtype, requires_grad=inputs)
    if recorded:
        output, _ = layer(x)
        mt.sum(output).backward()
        del output
    else:
        with mt.no_grad():
            layer(x)
    (plan,) = [plan for plans in arrays._waiting.values() for plan in plans]
    return plan, plan._back.get(inputs)


# -- printed source


def statements(text):
    """(function, arguments, where the result goes) of each statement of a printed function."""
    for line in text.splitlines():
        call = re.match(r"\s+(\w+)\((.*)\)$", line)
        copy = re.match(r"\s+(\w+)\[\.\.\.\] = (\w+)$", line)
        if call and call[1] != "sum":
            *arguments, out = [part.partition("=")[::2] for part in call[2].split(", ")]
            arguments = [value or name for name, value in arguments]
            if call[1] == "copyto":
                yield "copyto", [*arguments, out[1]], arguments[0]
            else:
                yield call[1], arguments, out[1] or out[0]
        elif copy:
            yield "copy", [copy[2]], copy[1]


def functions_of(one):
    return ["def " + text for text in one.program.source().split("def ")[1:]]


@given(one=cells(blocks=True))
def test_nothing_is_computed_twice_and_nothing_for_nothing(one):
    for text in functions_of(one):
        value, seen, unread = {}, set(), {}
        for i, (function, arguments, out) in enumerate(statements(text)):
            for name in arguments:
                unread.pop(name, None)
            of = [value.get(name, name) for name in arguments]
            found = function, *(sorted(of) if function in ("add", "multiply") else of)
            if function == "copy":
                value[out] = found[1]
                continue
            # The half of a sigmoid's argument, and a bound of a clip, may stand elsewhere too.
            whole = function not in ("maximum", "minimum") and "k0" not in arguments
            assert found not in seen or not whole or function == "product", text
            seen.add(found)
            value[out] = f"{out} of statement {i}"
            unread[out] = i
        assert not [name for name in unread if re.fullmatch(r"(few_)?(t|mask)\d+", name)], text


@given(one=cells(blocks=True))
def test_there_are_as_many_buffers_as_values_that_are_needed_at_once(one):
    for text in functions_of(one)[:2]:
        lives = {}  # of each buffer's values: (statement that writes it first, last that reads it)
        for i, (function, arguments, out) in enumerate(statements(text)):
            for name in arguments:
                if name in lives:
                    lives[name][-1][1] = i
            begins = function != "copyto" and out not in arguments
            if re.fullmatch(r"(few_)?(t|mask)\d+", out) and (begins or out not in lives):
                # What `where` chooses from is needed after it has begun to write.
                lives.setdefault(out, []).append([i - 0.5 * (function == "copy"), i])
        for kind in ("t", "mask", "few_t", "few_mask"):
            own = {name: v for name, v in lives.items() if re.fullmatch(rf"{kind}\d+", name)}
            spans = [span for found in own.values() for span in found]
            most = max([sum(a <= i < b for a, b in spans) for i, _ in spans], default=0)
            assert len(own) == most, text


@pytest.mark.parametrize(
    ("one", "most"),
    [
        (rnn_tanh, (0, 0, 1)),
        (rnn_relu, (0, 1, 1)),
        (lstm, (0, 0, 3)),
        (gru, (1, 1, 1)),
        (peephole_lstm, (2, 1, 3)),
        (memory_cell, (1, 1, 9)),
        (own_cell, (2, 1, 3)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_cell_takes_no_more_buffers_than_it_did(one, most):
    program = one.program
    way = (True, False, False, bool(one.per_block))
    found = program.step_buffers, program.jacobian_buffers, program.loop_of(*way).buffers
    assert tuple(map(len, found)) == most


def test_what_there_is_once_a_block_is_computed_once_a_block():
    few, many = Symbol("input", "few"), Symbol("input", "many")

    def is_few(value):
        return (few in value.args and many not in value.args) or value is few

    def printed(value, of_blocks):
        printer = Printer({few: "a", many: "b"}, {}, is_few)
        printer.print([("z", value, of_blocks)])
        return printer.lines

    value = Symbol("tanh", few)
    assert printed(value, True) == ["tanh(a, z)"]
    assert printed(value, False) == ["tanh(a, few_t0)", "z[...] = few_t0"]
    assert printed(Symbol("tanh", many), False) == ["tanh(b, z)"]
    assert printed(few, True) == ["z[...] = a"]


@cell(gates=("a", "silent", "b"), state=("h", "m"))
def has_a_silent_gate(a, silent, b, h, m):
    """Whose derivative by one of its gates is zero everywhere."""
    return mt.tanh(b) * mt.sign(silent) + 0.1 * h, 0.5 * m + mt.tanh(a)


@cell(gates=("silent", "b"), state=("h", "m"), feeds=("m",))
def begins_with_a_silent_gate(silent, b, h, m):
    return 0.3 * h + mt.sign(silent) * m, mt.tanh(b) - 0.2 * m


@cell(gates=("a", "b", "o"), state=("h", "m", "k"))
def keeps_a_factor(a, b, o, m, k):
    """New values are x y and y (1 - y y) x', of which one looks like part of the other."""
    y = mt.tanh(a)
    return mt.sigmoid(o) * y, 0.2 * m + y, mt.tanh(b) * mt.tanh(0.1 * k) + 0.3 * y


@pytest.mark.parametrize("lengths", [None, [5, 2]])
@pytest.mark.parametrize(
    "one", [has_a_silent_gate, begins_with_a_silent_gate, keeps_a_factor], ids=lambda o: o.name
)
def test_cells_whose_derivatives_have_an_unusual_form(one, lengths):
    rng = np.random.default_rng(0)
    layer = layer_of(one)
    for parameter in layer.parameters():
        parameter.data = 0.7 * rng.normal(size=parameter.shape)
    compare(layer, rng, 5, 2, lengths=lengths)


@given(one=cells(blocks=True))
def test_rows_that_one_product_takes_stand_together(one):
    program = one.program
    first, count = program.gates_at, len(program.gate_rows)
    assert sorted(program.gate_rows) == sorted(program.derivation.products)
    assert program.rows[first : first + count] == program.gate_rows
    low, high = program.heard
    halves = {f"{gate}_x" for gate in one.apart}
    assert {*program.rows[low:high]} >= {*program.gate_rows} - halves
    assert not halves & {program.rows[low], program.rows[high - 1]}
    assert sorted(program.rows) == sorted(program.derivation.inputs)
    for value in program.derivation.order[:2]:  # what it is multiplied with, by one call
        own = [name for name in program.rows if program.sources[name][:1] == [value]]
        at = [program.row[name] for name in own]
        whole = not own or at == list(range(at[0], at[0] + len(at)))
        silent = any(not program.sources[name] for name in program.gate_rows)
        assert whole or silent or len(program.derivation.order) > 2


def test_bounds_of_units_are_arrays_and_those_of_blocks_are_numbers():
    """Comparing two arrays of one shape is faster than comparing with a number."""

    @cell(gates=("a", "b"), per_block=("b",), feeds=("h", "b"))
    def bounded(a, b, h, y_b):
        b = mt.relu(b)
        return mt.relu(a) * b + mt.clip(h, -0.5, 2.0) * mt.minimum(a, 0.3), mt.clip(b, 0.1, 0.7)

    forward = functions_of(bounded)[0]
    compared = re.findall(r"(?:maximum|minimum)\((\w+), (\w+), out=(\w+)\)", forward)
    assert len(compared) == 7
    few = {"b_", "y_b_new", "few_t0"}
    for value, bound, out in compared:
        assert bound.startswith("k" if few & {value, out} else "full"), forward


@given(one=cells(blocks=True))
def test_only_what_is_dear_is_kept_and_nothing_twice(one):
    program = one.program
    new = {value for value in program.derivation.new.values() if value.op != "input"}
    kept = set(printed.Loops(program, False).stored)
    assert {value.op for value in kept} <= {*DEAR, "input"}
    assert {value.args[0] for value in kept if value.op == "input"} <= {
        *program.derivation.products
    }
    assert not kept & new
    kept = program.stored_values
    assert {value.op for value in kept} <= DEAR
    assert not kept & (new | {*program.activated})


@pytest.mark.parametrize(
    ("one", "pieces"),
    [
        (rnn_tanh, [(0, 1, 0, "")]),
        (lstm, [(0, 4, 0, "")]),
        (gru, [(0, 2, 0, ""), (2, 3, 2, "h"), (3, 4, 2, "x")]),
        (
            has_a_gate_apart_between_two,
            [(0, 1, 0, ""), (1, 2, 2, ""), (2, 3, 1, "h"), (3, 4, 1, "x")],
        ),
        (memory_cell, [(0, 1, 0, ""), (1, 2, 1, ""), (2, 3, 2, "")]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_rows_that_stand_together_move_together(one, pieces):
    assert printed.Loops(one.program, False).pieces == pieces


@each_cell
def test_only_a_state_that_may_fade_is_looked_at_in_compiled_loops(one):
    forward = printed.Loops(one.program, general=False).source().partition("def backward")[0]
    assert (" + faint" in forward) is one.program.fades


# -- the array driver


@pytest.mark.parametrize("dtype", ["float32", "float64", "bool"])
def test_buffers_begin_with_a_cache_line(dtype):
    kept = []
    for size in [size for size in range(60) if size % 7]:
        found = arrays.empty(np, (size % 7, size), np.dtype(dtype))
        assert found.ctypes.data % 64 == 0
        assert found.shape == (size % 7, size)
        assert found.flags.c_contiguous
        assert found.base is None or found.base.nbytes <= found.nbytes + 64
        kept.append((found, bytes(size)))  # so that the next one lies elsewhere


@each_cell
@pytest.mark.parametrize("recorded", [True, False])
def test_what_a_pass_keeps(one, recorded):
    """All steps of what is handed out and of what backward reads; of the rest the last one."""
    T, B = 11, 2
    plan, _ = plan_after(layer_of(one), T, B, recorded=recorded)
    program = one.program
    assert len(plan.hx) == T + 1
    assert len(plan.values) == (T if recorded else 1)
    if program.beside:
        assert len(plan.kept) == (T + 1 if recorded else 2)
    else:
        assert len(plan.kept) == (T if recorded and program.keeps_gates else 1)
    width = 4 // (2 if one.per_block else 1)
    gates = [width if name in one.of_blocks else 4 for name in program.gate_order]
    assert plan.kept.shape[1] == sum(gates) + 4 * len(program.beside)
    for name, state in plan.state.items():
        whole = recorded or name == one.state[0] or name in one.fed
        assert len(state) == (T + 1 if whole else 2), name
    assert all(unit.shape == (4, 1) for unit in plan.units.values())
    assert plan.dropped is None
    assert plan.over is None
    own = {id(a): a for a in (plan.hx, plan.kept, plan.values, *plan.state.values())}
    if not recorded:
        assert plan.nbytes == sum(array.nbytes for array in own.values())


@each_cell
@pytest.mark.parametrize("inputs", [True, False])
def test_what_a_backward_pass_keeps(one, inputs, monkeypatch):
    T, B, S = 23, 2, 2 if one.per_block else 1
    monkeypatch.setattr(arrays, "LONGEST", 8)
    plan, back = plan_after(layer_of(one), T, B, inputs)
    program, C, W = one.program, back.stretch, back.length
    assert (C, W) == (8, 8)
    assert len(back.rows) == W + 1
    rows = [4 // S if name in one.of_blocks else 4 for name in program.rows]
    assert back.rows.shape[1:] == (sum(rows), B)
    assert back.cotangent.shape == (C, 4, B)
    assert all(len(buffer) == C for buffer in back.temporary)
    F = plan.F if program.carried else 0
    assert back.dhx.shape == (C, F + 3 * inputs, B)
    # The product meets the gates that the old state acted on; all of them if it is for x too.
    first = program.gates_at
    low, high = (first, first + len(program.gate_rows)) if inputs else program.heard
    assert back.weight.shape == (F + 3 * inputs, sum(rows[low:high]))
    assert all(target.size for target, _ in back._copies), "copies of nothing"
    (way,) = back._ways.values()
    loop = way.loop.buffers
    assert {name: buffer.size for name, buffer in way.scratch.items()} == {
        name: 4 // (S if few else 1) * B * (1 if program.carried else C)
        for name, few in loop.items()
    }
    # Whole stretches have the same views, wherever they stand.
    assert {tuple(map(len, way.steps.values()))} <= {(7, 8), (8, 7)}
    parts = [back.jacobian, back.rows, back.dhx, *back.temporary, back.cotangent]
    parts += [back.total.total, back.total.share, *(back.total.joined or ())]
    parts += [] if back.taken is None else [back.taken]
    assert back.nbytes == sum(array.nbytes for array in parts)
    own = [plan.hx, plan.kept, plan.values, *plan.state.values()]
    assert plan.nbytes == back.nbytes + sum(array.nbytes for array in own)


@pytest.mark.parametrize("one", [rnn_tanh, lstm, memory_cell], ids=lambda one: one.name)
@pytest.mark.parametrize(("hidden", "batch"), [(16, 2), (400, 1), (400, 3), (16, 300)])
def test_stretches_and_blocks_are_as_long_as_they_may_be(one, hidden, batch):
    steps = 70
    _, back = plan_after(layer_of(one, hidden=hidden), steps, batch)
    C, W = back.stretch, back.length
    program = one.program
    touched = len(program.jacobian_rows) + len(program.jacobian_buffers)
    touched += len(program.rows) + len(program.views) + 2  # and what comes in, and goes on
    of_a_step = touched * hidden * batch * 8
    assert C == 64 or (C + 1) * of_a_step > 2**21
    assert C == 1 or C * of_a_step <= 2**21
    if program.carried:
        assert max(C, min(64, 256 // batch) // C * C) == W
    else:
        assert W == C
    blocks = [(block.start, block.stop) for block in back.blocks]
    assert [stop - start for start, stop in blocks[1:]] == [W] * (len(blocks) - 1)
    stretches = [stretch for block in back.blocks for stretch in block.stretches]
    assert sum(stretch.stop - stretch.start for stretch in stretches) == steps
    assert all(stretch.stop - stretch.start <= C for stretch in stretches)


@pytest.mark.parametrize("length", [1, 3, 8, 20])
def test_what_may_fade_is_looked_at_once_in_eight_steps(length, monkeypatch):
    monkeypatch.setattr(arrays, "LONGEST", length)
    _, back = plan_after(layer_of(gru), 67, 2)
    stretches = [stretch for block in back.blocks for stretch in block.stretches]
    for stretch in stretches:
        passed = any(stretch.start < step <= stretch.stop for step in range(0, 80, 8))
        assert stretch.fading is (passed and stretch.start >= 8)


def test_a_state_that_may_fade_is_looked_at_once_in_eight_steps():
    for one, fades in ((rnn_relu, False), (gru, False), (keras_like, True)):
        plan, _ = plan_after(layer_of(one), 19, 2)
        assert one.program.fades is fades
        stops = [8, 16, 19] if fades else [19]
        assert [stop for stop, _ in plan.parts] == stops
        assert [step for _, steps in plan.parts for step in steps] == plan.steps


@cell(gates=("f", "i"), state=("h", "c"))
def keras_like(f, i, c):
    """A memory that fades and is not fed back itself."""
    c = mt.sigmoid(f) * c + mt.relu(i)
    return mt.tanh(c), c


@cell(gates=("f", "i"), state=("h", "c"))
def never_off(f, i, c):
    c = mt.sigmoid(f) * c + mt.softplus(i)
    return mt.tanh(c), c


@pytest.mark.parametrize("length", [8, 64])
@pytest.mark.parametrize("dropped", [0.0, 0.3])
@pytest.mark.parametrize("one", [keras_like, never_off], ids=lambda one: one.name)
def test_a_memory_that_fades_does_not_end_among_the_subnormal_numbers(
    one, dropped, length, monkeypatch
):
    monkeypatch.setattr(arrays, "LONGEST", length)
    steps, hidden = 203, 3
    layer = nn.Recurrent(one, 2, hidden, recurrent_dropout=dropped, generator=mt.Generator(0))
    layer.weight_hh_l0.data *= 0.1
    layer.bias_ih_l0.data[hidden:] = -100  # nothing comes in
    x = mt.tensor(np.ones((steps, 2, 2), "float32"))
    state = [mt.tensor(np.ones((1, 2, hidden), "float32"), requires_grad=True) for _ in range(2)]
    output, last = layer(x, tuple(state))
    gradient = mt.grad(mt.sum(last[1]), state[1])
    del output
    smallest = np.finfo("float32").smallest_normal
    (plan,) = [plan for plans in arrays._waiting.values() for plan in plans]
    (back,) = plan._back.values()
    for met in (back.own["c"], *([plan.state["c"]] if one is keras_like else [])):
        assert np.abs(met[met != 0]).min(initial=1) > smallest
    assert np.all(gradient.numpy() == 0)
    assert np.all(last[1].detach().numpy() == 0)


def test_below_which_number_all_is_zero():
    for dtype, least in (("float32", -104), ("float64", -973)):
        plan, _ = plan_after(nn.RNN(2, 3, dtype=dtype), 2, 1, dtype=dtype)
        values = np.array([0.5, 1, 1.5, 4], dtype) * np.asarray(2.0**least, dtype)
        plan.flush(values)
        assert np.flatnonzero(values).tolist() == [2, 3]


def test_the_last_cotangent_alone_is_heard():
    """Where no cotangent of the outputs arrives, the loop without one runs."""
    layer = layer_of(lstm)
    x = mt.ones((130, 2, 3), dtype="float64")
    for heard, ways in ((slice(-1, None), {True, False}), (slice(None), {True})):
        arrays._waiting.clear()
        output, _ = layer(x)
        mt.sum(output[heard]).backward()
        del output
        (plan,) = [plan for plans in arrays._waiting.values() for plan in plans]
        assert plan._back[False]._ways.keys() == ways


@pytest.mark.parametrize(
    ("one", "copies"),
    [
        *((rnn_tanh, 1), (rnn_relu, 1), (lstm, 2), (gru, 2), (peephole_lstm, 1), (own_cell, 1)),
        (memory_cell, 0),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_what_the_jacobian_reads_is_put_in_one_piece_in_few_copies(one, copies):
    _, back = plan_after(layer_of(one), 5, 2)
    assert [len(s.taken) for block in back.blocks for s in block.stretches] == [copies]


@given(one=cells())
def test_gates_are_copied_together_if_most_of_them_are_read(one):
    _, back = plan_after(layer_of(one, hidden=3), 4, 2)
    program = one.program
    views = [program.views.get(name) for name in program.jacobian_names]
    read = {view.name for view in views if view is not None and view.name in program.kept}
    (stretch,) = back.blocks[0].stretches
    together = [target for target, _ in stretch.taken if target.ndim == 4]
    assert len(together) == (2 * len(read) > len(program.kept))
    if together:
        assert len(together[0]) == len(program.kept)


@pytest.mark.parametrize(
    ("batch", "steps", "joined"),
    [(1, 9, False), (2, 9, True), (63, 9, True), (64, 9, False), (2, 1, False)],
)
def test_the_gradient_of_all_weights_is_one_product_for_each_block(batch, steps, joined):
    layer = layer_of(lstm)
    plan, back = plan_after(layer, steps, batch)
    total = back.total
    assert (total.joined is not None) is joined
    if joined:
        height, width = total.total.shape
        assert [part.shape for part in total.joined] == [(n, 9, batch) for n in (height, width)]
    assert total.total.shape == (16, plan.features)
    calls = []
    total.xp = SimpleNamespace(matmul=lambda *a: calls.append(a) or np.matmul(*a), add=np.add)
    for n in {1, steps}:
        calls.clear()
        for part in total.joined or ():
            part[...] = np.nan
        total.begun = False
        total._multiply(total.rows[:n], plan.hx[:n])
        one_by_one = np.einsum("trb,tcb->rc", total.rows[:n], plan.hx[:n])
        np.testing.assert_allclose(total.total, one_by_one, rtol=1e-12, atol=1e-12)
        assert len(calls) == (batch >= 64 and n > 1), "a product for each step"
        for part in total.joined or ():
            assert np.isnan(part).all() == (n == 1), "copied for nothing"


def test_in_a_stack_the_steps_of_a_block_are_not_joined():
    layer = nn.stack([layer_of(lstm), layer_of(lstm)])
    output, _ = layer(mt.ones((2, 9, 3, 3), dtype="float64"))
    mt.sum(output).backward()
    del output
    (plan,) = [plan for plans in arrays._waiting.values() for plan in plans]
    (back,) = plan._back.values()
    assert back.total.joined is None
    assert not plan.weight.flags.f_contiguous


def test_what_needs_no_gradient_costs_no_product():
    layer = layer_of(peephole_lstm)
    x = mt.ones((9, 2, 3), dtype="float64", requires_grad=True)
    for wanted, product in (("", False), ("p_i_l0", False), ("weight_hh_l0", True)):
        for name, parameter in layer.named_parameters():
            parameter.requires_grad_(name == wanted)
        arrays._waiting.clear()
        mt.sum(layer(x)[0]).backward()
        (plan,) = [plan for plans in arrays._waiting.values() for plan in plans]
        total = plan._back[True].total
        assert total.product is product
        assert dict(zip(total.names, total.needs, strict=True)) == {
            name: wanted == f"{name}_l0" for name in total.names
        }


def test_weights_are_looked_at_anew_only_where_they_are_others():
    layer = layer_of(lstm)

    def copies():
        plan, back = plan_after_again(layer)
        return plan._copies, back._copies

    def plan_after_again(layer):
        output, _ = layer(mt.ones((5, 2, 3), dtype="float64"))
        mt.sum(output).backward()
        del output
        (plan,) = [plan for plans in arrays._waiting.values() for plan in plans]
        return plan, plan._back[False]

    first, again = copies(), copies()
    assert all(a is b for a, b in zip(first, again, strict=True))
    layer.weight_hh_l0.data = layer.weight_hh_l0.data.copy()
    other = copies()
    assert not any(a is b for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("steps", [8, 9])
def test_weights_lie_as_the_product_of_so_many_steps_wants_them(steps):
    plan, back = plan_after(layer_of(lstm), steps, 2)
    assert plan.weight.flags.f_contiguous is (steps > 8)
    assert plan.weight.flags.c_contiguous is (steps <= 8)
    assert back.weight.flags.f_contiguous


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(
    ("steps", "batch", "order"),
    [
        (8, 15, "tbh"),
        (8, 16, "htb"),
        (64, 64, "htb"),
        (65, 64, "thb"),
        (512, 8, "tbh"),
        (513, 8, "thb"),
    ],
)
def test_outputs_lie_as_what_comes_next_likes_it(steps, batch, order, batch_first):
    """With 16 units; from 65,536 numbers on they stay as they arise."""
    layer = nn.RNN(1, 16, batch_first=batch_first)
    x = mt.ones((batch, steps, 1) if batch_first else (steps, batch, 1))
    with mt.no_grad():
        output = layer(x)[0].numpy()
    axes = "bth" if batch_first else "tbh"
    order = axes if order == "tbh" else order
    assert output.transpose([axes.index(axis) for axis in order]).flags.c_contiguous


def test_inputs_are_transposed_sixteen_steps_at_a_time():
    plan, _ = plan_after(layer_of(rnn_tanh), 37, 2)
    assert [(piece.start, piece.stop) for _, piece in plan.pieces] == [(0, 16), (16, 32), (32, 37)]


def test_sizes_that_nobody_uses_are_forgotten_when_there_are_a_hundred():
    arrays._waiting.update({size: [] for size in range(103)})
    arrays._make_room()
    assert list(arrays._waiting) == list(range(3, 103))
    arrays._make_room()
    assert len(arrays._waiting) == 100


def test_a_plan_that_waits_is_the_next_one():
    made = []

    def make(program, sizes):
        made.append(sizes)
        return SimpleNamespace(nbytes=1)

    arrays._waiting.update({"old": [], "new": []})
    lease = arrays.take(make, None, "old")
    plan = lease.plan
    assert list(arrays._waiting) == ["new", "old"], "used last, forgotten last"
    del lease
    assert arrays.take(make, None, "old").plan is plan
    assert made == ["old"]


# -- the Numba driver


@given(
    one=st.sampled_from(EVERY),
    sizes=st.tuples(*[st.integers(1, most) for most in (9, 3, 9, 5)]),
    general=st.booleans(),
    recorded=st.booleans(),
)
def test_memory_is_laid_out_without_gaps(one, sizes, general, recorded):
    """One place behind the other, each at a whole sixteen numbers; see loops.py."""
    T, B, H, I = sizes
    size = 2 if one.per_block else 1
    H *= size
    with interpreted(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(loops, "_shares", lambda *given: [given])
        plan, n = plan_of(one, "float64", H, T, B, I, general, recorded=recorded, block_size=size)
    cell, own = one, plan.sizes.loops
    P, X, F, M, C = [n[name] for name in "PXFMC"]
    across, fed = len(cell.fed) * P, len(cell.fed) * H
    deep = recorded or general or cell.state[0] not in cell.fed
    assert I + 1 + across == F
    assert n["R"] == len(own.kept) * P
    assert n["record_step"] == (B * n["R"] if deep else 0)
    expected = {
        "hx": (T + 1) * B * F,
        "record": (T + 1 if deep else 1) * B * n["R"],
        "z": B * M,
        "weight": (I + 1 + fed) * M,
        "unit": len(cell.per_unit) * P,
        "mask": B * across * general,
        "valid": T * B * general,
    }
    if recorded:
        expected |= {
            "dz": C * B * M,
            "g": C * B * P,
            "dh": B * across,
            "edge": B * len(own.edges) * P,
            "back": own.heard * H * across,
            "back_x": len(own.rows) * H * X,
            "dx": C * B * X,
            "dw": (I + 1 + fed) * M,
            "d_unit": len(cell.per_unit) * P,
        }
    at = 0
    for name, count in expected.items():
        assert n[name] == at, name
        at += count + -count % 16
    assert plan.memory.shape == (at,)
    assert plan.nbytes == plan.memory.nbytes
    assert plan.shares == [(None, T * B * M * F)], "multiplications of a trial"
    assert [array.size for array in plan.nothing] == [1, 0, 0, 0]
    assert [array.ndim for array in plan.nothing] == [0, 1, 2, 3]


def test_a_block_of_steps_takes_a_megabyte():
    for hidden, batch in ((100, 10), (32, 64), (700, 1)):
        with interpreted():
            _, n = plan_of(lstm, "float32", hidden, 500, batch)
        of_a_step = 4 * batch * (n["F"] + n["M"] + n["R"] + n["P"])
        assert n["C"] * of_a_step <= 2**20 < (n["C"] + 1) * of_a_step


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_trials_are_shared_among_two_threads_where_that_is_worth_a_start(threads, monkeypatch):
    numba = SimpleNamespace(config=SimpleNamespace(NUMBA_NUM_THREADS=threads))
    monkeypatch.setattr(compiled, "numba", lambda: numba)
    worthwhile = 2**26
    assert loops._shares(None, worthwhile) == [()]
    assert loops._shares(1, worthwhile) == [(0, 1)]
    for trials, halves in ((2, [(0, 1), (1, 2)]), (7, [(0, 3), (3, 7)])):
        enough = -(-worthwhile // trials)
        assert loops._shares(trials, enough - 1) == [(0, trials)]
        shared = loops._shares(trials, enough)
        assert shared == ([(0, 0), *halves] if threads > 1 else [(0, trials)])


@pytest.mark.parametrize(("register", "rows"), [(64, 8), (32, 4)])
def test_a_product_fills_the_registers(register, rows):
    texts = {}

    def load(name, source, uses=()):
        texts[name] = source
        return SimpleNamespace(__name__=name)

    with interpreted(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "load", load)
        patch.setattr(compiled, "register", lambda: register)
        loops._compile(printed.Loops(lstm.program, False), np.dtype("float32"), 8)
        patch.setattr(online_loops, "_modules", {})
        online_loops.prepare(lstm, np.dtype("float32"))
    assert list(texts)[:2] == ["common_float32x8", "lstm"]
    assert list(texts)[2:] == [f"online_float32x{register // 4}", "online_lstm"]
    common = texts["common_float32x8"]
    tiles = []  # rows, lanes, and partial sums
    for part in common.split("at = c + r")[:-1]:
        found = re.findall(r"\bc(\d+)_(\d+)_(\d+) = real", part)
        tiles.append(tuple([1 + max(map(int, axis)) for axis in zip(*found, strict=True)]))
    assert tiles == [(rows, 2, 1), (rows, 1, 1), (1, 4, 1), (1, 1, 4)]
    assert "// 1)" not in common
    assert "% 1)" not in common
    names = "float32", register // 4, register // 2, list(texts)[2]
    assert online_loops.Loops(lstm).source(*names) == texts["online_lstm"]


def test_what_a_call_needs_is_found_out_and_compiled_once():
    @cell(gates=("a",))
    def fresh(a, h):
        return mt.tanh(a) + 0.1 * h

    looked, made = [], []
    sizes = loops._sizes
    with interpreted(), pytest.MonkeyPatch.context() as patch, mt.recurrence.driver("numba"):
        load = compiled.load
        patch.setattr(loops, "_sizes", lambda *given: looked.append(given) or sizes(*given))
        patch.setattr(compiled, "load", lambda *given: made.append(given[0]) or load(*given))
        for one in (layer_of(fresh), layer_of(fresh)):
            x = mt.ones((3, 2, 3), dtype="float64")
            one(x)
            one(x)
            looked.clear()
            one(x)
            assert not looked
        assert made == ["common_float64x4", "fresh"], "once for each cell"
        stack = nn.stack([layer_of(fresh), layer_of(fresh)])
        for _ in range(2):
            stack(mt.ones((2, 3, 2, 3), dtype="float64"))
        assert made[2:] == ["fresh_stack"]


def test_a_name_that_is_none_of_a_file_is_not_used():
    odd = SimpleNamespace(cell=SimpleNamespace(name="<lambda>"))
    assert loops._name(odd) == "cell"
    assert loops._name(SimpleNamespace(cell=lstm)) == "lstm"


# -- online learning


def online(name, steps=(7,), lr=0.1, threads=1, **changes):
    """The driver of `fit_online`, before and after each chunk, all sequences of so many steps."""
    p = changed(PLAIN, **changes)
    p["sizes"] = (*p["sizes"][:2], max(steps), *p["sizes"][3:])
    weights, chunk, _ = build_online(p)
    parts = [
        chunk._replace(
            inputs=chunk.inputs[:, :, :T],
            targets=chunk.targets if p["options"]["last"] else chunk.targets[:, :, :T],
            lengths=None if chunk.lengths is None else np.minimum(chunk.lengths, T),
        )
        for T in steps
    ]
    options = {"driver": name, "threads": threads, "block_size": BLOCKS.get(p["kind"], 1)}
    run = fit_online(KINDS[p["kind"]], weights, parts, lr, **options, **p["how"])
    yield run._driver
    for _ in run:
        yield run._driver


@pytest.mark.parametrize("last", [True, False])
def test_a_sequence_is_summed_in_as_many_blocks_as_it_has(last, monkeypatch):
    """Not in as many as the longest so far."""
    summed = []
    in_turn = online_arrays._in_turn

    def noted(shares):
        summed.append(shares.shape[1])
        return in_turn(shares)

    monkeypatch.setattr(online_arrays, "_in_turn", noted)
    for driver in online("arrays", (100, 31, 32, 33, 64), sizes=(2, 1, 0, 2, 1, 1), last=last):
        ends = {buffers.capacity for buffers in driver._buffers.values()}
        assert ends <= {128}
    blocks = [4, 1, 1, 2, 2]
    assert summed[1::2] == blocks
    assert summed[::2] == ([1] * 5 if last else blocks)


def test_outputs_are_kept_only_if_they_are_wanted():
    p = changed(PLAIN, sizes=(2, 1, 3, 2, 4, 1))
    weights, chunk, _ = build_online(p)
    for options, wanted in (({}, False), ({"outputs": True}, True)):
        run = fit_online(KINDS["blocks"], weights, [chunk], 0.1, block_size=2, **options)
        assert (next(run).outputs is not None) is wanted


def test_buffers_are_made_anew_only_for_longer_sequences():
    made = []
    for driver in online("arrays", (31, 32, 7, 33, 33), sizes=(2, 1, 0, 2, 2, 1)):
        made += [buffers for buffers in driver._buffers.values() if buffers not in made]
        assert driver._buffers.keys() <= {(False, False)}, "sequences that are all as long"
    assert [buffers.capacity for buffers in made] == [32, 64]
    assert [buffers.length for buffers in made] == [32, 32]
    assert all(buffers.plan.over is buffers.back.valid is None for buffers in made)
    assert not any(buffers.back.inputs for buffers in made), "no gradient of inputs"
    (padded,) = list(online("arrays", lengths=True))[-1]._buffers
    assert padded == (False, True)
    (symbols,) = list(online("arrays", symbols=True))[-1]._buffers
    assert symbols == (True, False)


@pytest.mark.parametrize("name", ["arrays", "numba"])
@pytest.mark.parametrize("fed", ["c", "h"])
def test_what_fades_while_learning_does_not_end_among_the_subnormal_numbers(fed, name):
    """Half of it goes at every step, and what is left is looked at between two blocks."""

    @cell(gates=("i",), state=("h", "c"), feeds=(fed,))
    def halving(i, h, c):
        return mt.tanh(i) + c, 0.5 * c

    shapes = {"weight_ih": (1, 1), "weight_hh": (1, 1), "readout_weight": (1, 1)}
    weights = {name: np.full((2, *shape), 0.0, "float32") for name, shape in shapes.items()}
    weights["readout_weight"][...] = 1
    x = np.ones((2, 1, 140, 1), "float32")
    chunks = [(x, np.ones((2, 1, 1), "float32"))]
    with interpreted():
        run = fit_online(halving, weights, chunks, 0.1, driver=name)
        next(run)
    if name == "numba":
        (arrived,) = run._driver.memory
    else:
        (buffers,) = run._driver._buffers.values()
        arrived = buffers.back.own["c"]
    assert np.abs(arrived[arrived != 0]).min(initial=1) > np.finfo("float32").smallest_normal


def test_a_trial_that_has_diverged_and_begins_anew_is_well():
    """What the longer sequences before have left in the buffers is not met again."""
    p = changed(PLAIN, sizes=(2, 1, 40, 2, 4, 1), lengths=False)
    weights, chunk, _ = build_online(p)
    start = {name: value.copy() for name, value in weights.items()}
    short = chunk._replace(inputs=chunk.inputs[:, :, :5])
    options = {"block_size": 2, "driver": "arrays"}
    run = fit_online(KINDS["blocks"], weights, [chunk, chunk, short], [0.1, 1e200], **options)
    for _ in range(2):
        next(run)
    for name, value in weights.items():
        value[...] = start[name]
    run.lr[...] = 0.1
    next(run)
    next(fit_online(KINDS["blocks"], start, [short], 0.1, **options))
    for name, value in weights.items():
        np.testing.assert_array_equal(value, start[name])


def test_what_only_measures_does_not_learn(monkeypatch):
    learned = []
    monkeypatch.setattr(online_arrays.Lesson, "_learn", lambda *_: learned.append(1))
    for update in ("sequence", "step"):
        list(online("arrays", lr=0, update=update))
    assert not learned
    list(online("arrays", lr=[0, 0.1]))
    assert learned


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "own_cell", "direct": True},
        {"kind": "lstm", "update": "step", "symbols": True, "direct": True},
        {"kind": "gru", "symbols": True},
        {"kind": "blocks", "lengths": True},
        {"kind": "unfed", "update": "step"},
    ],
    ids=lambda changes: changes["kind"],
)
def test_what_compiled_learning_keeps(changes, threads):
    """One place behind the other; rows of an odd length, which do not meet in the same lines."""
    memories, steps = [], (5, 5, 4, 6)
    with interpreted():
        for driver in online("numba", steps, threads=threads, sizes=(9, 1, 0, 3, 4, 2), **changes):
            if driver.capacity:
                memories.append((driver.memory, driver.w))
    assert [a[0] is b[0] for a, b in pairwise(memories)] == [True, True, False]
    assert all(a[1] is b[1] for a, b in pairwise(memories))
    p, own, n, width = driver.problem, driver.loops, driver.numbers, driver.width
    assert (driver.capacity, driver.groups) == (6, 3)
    assert len(driver.memory) == len(driver.marks) == min(threads, 3)
    T, K, I, H, O, F = 6, p.trials, p.inputs, p.hidden, p.outputs, p.fed
    shown = bool(n["symbols"])
    X, blocks = 0 if shown else I, H // p.block_size
    needed = {
        "row": X + 2 + F,
        "dz_row": len(own.unit) * H + len(own.block) * blocks,
        "state_row": len(own.others) * H,
    }
    for name, count in needed.items():
        assert n[name] == count + 1 - count % 2, name
    expected = {
        "seen": (T + 1) * n["row"],
        "zx": T * n["x_rows"] * shown,
        "states": (T + 1) * n["state_row"],
        "values": T * H * len(own.stored),
        "dz": T * n["dz_row"],
        "dh": F,
        "edges": len(own.edges) * H,
        "g": T * H,
        "d_units": len(p.cell.per_unit) * H,
        "dwx": I * n["x_rows"] * shown,
        **dict.fromkeys(("net", "y", "d", "target"), O),
        **dict.fromkeys(("use", "total", "far"), 1),
        "alive": T,
        "dwo": O * H,
        "dwox": O * I * p.direct,
        "dbo": O,
        "history": T * n["wx"] * p.steps,
    }
    at = 0
    for name, count in expected.items():
        assert n[name] == (at if name != "history" or p.steps else 0), name
        at += count
    assert {memory.size for memory in driver.memory} == {at * width}
    assert n["history_row"] == n["wx"] * p.steps
    assert n["h_row"] == n["row" if p.cell.state[0] in p.cell.fed else "state_row"]
    assert all(marks.size == T for marks in driver.marks)
    assert K == 9


@pytest.mark.parametrize("one", [rnn_tanh, lstm, gru, memory_cell], ids=lambda one: one.name)
@pytest.mark.parametrize("registers", [16, 32])
def test_as_many_columns_are_updated_at_once_as_there_are_registers_for(one, registers):
    own = online_loops.Loops(one)
    text = "\n".join(own.descent(registers))
    for run in own.runs:
        part = text.partition(f"at = ({run.place} + ")[2].partition("at = (")[0]
        columns = {int(q) for _, q in re.findall(r"\bc(\d+)_(\d+) = real", part)}
        rows = {int(i) for i, _ in re.findall(r"\bc(\d+)_(\d+) = real", part)}
        size, width = len(run.names), len(columns)
        assert len(rows) == size
        assert width in (1, 2, 4)
        assert width == 1 or (width + 1) * size < registers
        assert width == 4 or (2 * width + 1) * size >= registers


@pytest.mark.parametrize(("dtype", "faint"), [("float32", -80), ("float64", -920)])
def test_how_faint_a_number_of_compiled_loops_is(dtype, faint):
    texts = (
        online_loops.Loops(lstm).source(dtype, 4, 16, "common"),
        printed.Loops(keras_like.program, False).source(dtype, 4, "common"),
    )
    for text in texts:
        assert set(re.findall(r"faint = real\((.*)\)", text)) == {f"2.0**{faint}"}


def test_a_thread_that_draws_ends_with_the_program():
    assert online_loops.InThread(int)._thread.daemon
