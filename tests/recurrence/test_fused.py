"""The fused operation against the loop over the cell's equations: values and every gradient.

Both are one function; `recurrence.driver` chooses. What is not compared with the loop here is
memory: buffers that calls share must never be seen.
"""

import copy
import gc
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recurrence.layers import EVERY, bare, build, draw_state, host, parts, spread

import microtensor as mt
from microtensor import nn
from microtensor.nn import recurrent
from microtensor.recurrence import (
    Cell,
    cell,
    driver,
    gru,
    lstm,
    memory_cell,
    memory_cell_bptt,
    peephole_lstm,
    rnn_relu,
    rnn_tanh,
)
from microtensor.recurrence.drivers import arrays
from microtensor.recurrence.symbols import Symbol
from models.memory import keras_lstm

FUSED = [kind for kind in EVERY if kind != "gru_before"]
DOCUMENTED = [
    *(rnn_tanh, rnn_relu, lstm, gru, peephole_lstm, keras_lstm),
    *(memory_cell, memory_cell_bptt),
]
kinds = st.sampled_from(FUSED)
seeds = st.integers(0, 2**32 - 1)


def close(a, b, what="", tolerance=1e-10):
    scale = max(1.0, float(np.max(np.abs(b), initial=0.0)))
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale, err_msg=str(what))


def flat(pair):
    output, state = pair
    return (output, *parts(state))


def is_fused(output):
    """Whether a node of the fused operation stands behind a result."""
    seen, stack = set(), [output.place]
    while stack:
        node = stack.pop()
        node = node[0] if isinstance(node, tuple) else node
        if node is None or isinstance(node, mt.Tensor) or node in seen:
            continue
        seen.add(node)
        stack += node.parents
    return any(node.name == "sequence" for node in seen)


def both_ways(
    layer, x, state, lengths=None, chosen=None, generator=None, fast="arrays", heard=slice(None)
):
    """Results and gradients by names, fused and step by step.

    Of the outputs, only those of the steps `heard` have cotangents other than zero.
    """
    found = []
    leaves = {"x": x, **{f"state {i}": s for i, s in enumerate(parts(state))}}
    leaves |= dict(layer.named_parameters())
    leaves = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    for name in (fast, "steps"):
        if generator is not None:
            generator.manual_seed(5)
        with driver(name):
            results = flat(layer(x, state, lengths))
        assert is_fused(results[0]) is (name != "steps")
        rng = np.random.default_rng(1)
        cotangents = [rng.normal(size=value.shape).astype(value.dtype) for value in results]
        heard_only = np.zeros_like(cotangents[0])
        heard_only[heard] = cotangents[0][heard]
        cotangents[0] = heard_only
        use = range(len(results)) if chosen is None else chosen
        gradients = mt.grad(
            [results[i] for i in use],
            list(leaves.values()),
            [cotangents[i] for i in use],
            allow_unused=True,
        )
        values = {f"result {i}": host(value) for i, value in enumerate(results)}
        for key, g in zip(leaves, gradients, strict=True):
            values[key] = np.zeros(leaves[key].shape) if g is None else host(g)
        found.append(values)
    return found


def compare(layer, rng, steps, batch, **options):
    x = rng.normal(size=(batch, steps, layer.input_size))
    x = x if layer.batch_first else x.swapaxes(0, 1)
    state = bare([mt.tensor(s, requires_grad=True) for s in draw_state(layer, rng, batch)])
    mine, theirs = both_ways(layer, mt.tensor(x, requires_grad=True), state, **options)
    for name, value in theirs.items():
        close(mine[name], value, name)


@given(
    kind=kinds,
    seed=seeds,
    sizes=st.tuples(*[st.integers(1, 5)] * 4),
    bias=st.sampled_from([True, False, "single"]),
    batch_first=st.booleans(),
    bidirectional=st.booleans(),
    dropped=st.booleans(),
    chosen=st.none() | st.just((0,)) | st.just((1,)),
    data=st.data(),
)
def test_fused_is_the_loop(
    kind, seed, sizes, bias, batch_first, bidirectional, dropped, chosen, data
):
    """Any sizes, also 1; lengths, directions, masks, cotangents on some results only."""
    steps, batch, inputs, hidden = sizes
    generator = mt.Generator(0)
    layer = build(
        kind,
        inputs,
        hidden,
        bias=bias,
        batch_first=batch_first,
        bidirectional=bidirectional,
        recurrent_dropout=0.4 * dropped,
        generator=generator,
    )
    rng = np.random.default_rng(seed)
    lengths = data.draw(st.none() | st.lists(st.integers(1, steps), min_size=batch, max_size=batch))
    options = {"lengths": lengths, "chosen": chosen, "generator": generator}
    compare(spread(layer, rng), rng, steps, batch, **options)


@pytest.mark.parametrize("one", DOCUMENTED, ids=lambda one: one.name)
def test_blocks_of_steps_make_no_difference(one, monkeypatch):
    """Sequences that are longer than a block, whole blocks and not."""
    rng = np.random.default_rng(0)
    layer = nn.Recurrent(one, 3, 4, block_size=2 if one.per_block else 1, dtype="float64")
    spread(layer, rng)
    few = 3000  # bytes that two or three steps of most cells need
    sizes = [(64, 1 << 21, 131), (3, 1 << 20, 7), (3, 1 << 20, 6), (1, 1 << 20, 4)]
    sizes += [(3, 1 << 20, 5)]  # a block of two steps
    for length, cache, steps in [*sizes, (8, few, 19), (3, 0, 7)]:
        monkeypatch.setattr(arrays, "LONGEST", length)
        monkeypatch.setattr(arrays, "CACHE", cache)
        arrays._waiting.clear()
        for lengths in (None, [steps, 1 + steps // 2]):
            compare(layer, rng, steps, 2, lengths=lengths)


@pytest.mark.parametrize("one", DOCUMENTED, ids=lambda one: one.name)
def test_blocks_of_which_nothing_is_heard_make_no_difference(one, monkeypatch):
    """Where no cotangent of the outputs arrives, another loop runs."""
    rng = np.random.default_rng(0)
    layer = nn.Recurrent(one, 3, 4, block_size=2 if one.per_block else 1, dtype="float64")
    spread(layer, rng)
    monkeypatch.setattr(arrays, "LONGEST", 3)
    arrays._waiting.clear()
    for heard in (slice(0, 0), slice(6, 7), slice(0, 1), slice(2, 5)):
        compare(layer, rng, 7, 2, heard=heard)


# -- cells that nobody has seen before

ONE = st.sampled_from(
    [
        "tanh",
        "sigmoid",
        "relu",
        "square",
        "softplus",
        "abs",
        "sin",
        "exp of -square",
        "clip",
        "bipolar",
    ]
)
TWO = st.sampled_from(["add", "subtract", "multiply", "maximum", "where", "mixture"])


def apply_one(name, x):
    if name == "exp of -square":
        return mt.exp(-mt.square(x))
    if name == "bipolar":
        return 3 * mt.sigmoid(x) - 1.5
    return mt.clip(x, -0.7, 0.9) if name == "clip" else getattr(mt, name)(x)


def apply_two(name, x, y):
    if name == "where":
        return mt.where(x > 0.1, y, 0.5 * x)
    if name == "mixture":
        z = mt.sigmoid(x)
        return (1 - z) * x + z * y
    return getattr(mt, name)(x, y)


@st.composite
def cells(draw, blocks=False):
    """A cell of random equations: every name is used, values are bounded.

    With `blocks`, also what it shares, feeds, cuts and biases.
    """
    gates, state = ("a", "b", "d")[: draw(st.integers(1, 3))], ("h", "m")[: draw(st.integers(1, 2))]
    apart = draw(st.sets(st.sampled_from(gates)))
    per_unit = ("w",)[: draw(st.integers(0, 1))]
    declared = {}
    if blocks:
        some_gates = st.sets(st.sampled_from(gates))
        declared["per_block"] = tuple(draw(some_gates))
        fed = draw(st.lists(st.sampled_from((*state, *gates)), unique=True, max_size=4))
        declared |= {"feeds": tuple(fed), "truncated": draw(st.booleans())}
        biased = draw(some_gates)
        declared["biased"] = tuple([name for name in gates if name in biased])
    shared, fed = declared.get("per_block", ()), declared.get("feeds", ())
    fed_gates = [name for name in fed if name in gates]

    def numbers(gate):
        return [f"{gate}_x", f"{gate}_h"] if gate in apart else [gate]

    names = [n for g in gates for n in numbers(g)]
    names += [
        *state,
        *per_unit,
        *[f"y_{g}" for g in draw(st.sets(st.sampled_from(gates))) & {*fed}],
    ]
    of_blocks = [n for g in shared for n in (*numbers(g), f"y_{g}") if n in names]
    ones = draw(st.lists(ONE, min_size=2 * len(names), max_size=2 * len(names)))
    twos = draw(st.lists(TWO, min_size=2 * len(names), max_size=2 * len(names)))
    order = draw(st.permutations(names))
    last = draw(st.sampled_from(["nothing", "first of second", "same", "old", "of a block"]))

    def combined(values, chosen, k):
        total = values[chosen[0]]
        for i, name in enumerate(chosen[1:]):
            total = apply_two(twos[k + i], mt.tanh(apply_one(ones[k + i], total)), values[name])
        return mt.tanh(total) + 0.1 * values[chosen[-1]]

    def equations(*given):
        values = dict(zip(names, given, strict=True))
        made = [combined(values, order, k) for k in range(len(state))]
        if last == "first of second" and len(made) == 2:
            made[0] = 0.5 * made[0] - made[1] * mt.tanh(made[1])
        if last == "same" and len(made) == 2:
            made[0] = made[1]
        if last == "old" and len(made) == 2:
            made[1] = values["h"]
        if last == "of a block" and of_blocks:
            made[-1] = combined(values, of_blocks, 1)
        for gate in fed_gates:
            chosen = of_blocks if gate in shared else order
            made.append(combined(values, [*chosen, *numbers(gate)], 0 if gate == "a" else 1))
        return tuple(made) if len(made) > 1 else made[0]

    ones += ones[:2]
    twos += twos[:2]
    space = {"equations": equations}
    exec(f"def made_up({', '.join(names)}):\n    return equations({', '.join(names)})", space)
    options = {"apart": tuple(sorted(apart)), "state": state, "per_unit": per_unit, **declared}
    return Cell(space["made_up"], gates=gates, **options)


@given(
    one=st.booleans().flatmap(lambda blocks: cells(blocks=blocks)),
    seed=seeds,
    dropped=st.booleans(),
    lengths=st.none() | st.just([4, 1, 3]),
    bidirectional=st.booleans(),
    bias=st.sampled_from([True, False, "single"]),
)
def test_a_cell_made_up_on_the_spot(one, seed, dropped, lengths, bidirectional, bias):
    assert one.program is not None, one._program
    generator = mt.Generator(0)
    rng = np.random.default_rng(seed)
    layer = nn.Recurrent(
        one,
        2,
        6 if one.per_block else 3,
        bias=bias,
        bidirectional=bidirectional,
        recurrent_dropout=0.5 * dropped,
        block_size=int(rng.integers(1, 4)) if one.per_block else 1,
        generator=generator,
        dtype="float64",
    )
    for parameter in layer.parameters():
        parameter.data = 0.7 * rng.normal(size=parameter.shape)
    compare(layer, rng, 4, 3, lengths=lengths, generator=generator)
    arrays._waiting.clear()  # each cell has plans of its own


@pytest.mark.parametrize("one", DOCUMENTED, ids=lambda one: one.name)
def test_float32_rounds_no_worse_than_the_square_root_of_the_steps(one):
    steps, batch = 100, 3
    rng = np.random.default_rng(0)
    options = {"block_size": 3 if one.per_block else 1, "generator": mt.Generator(1)}
    narrow = nn.Recurrent(one, 4, 6, **options)
    wide = nn.Recurrent(one, 4, 6, dtype="float64", **options)
    wide.load_state_dict({name: p.detach().numpy() for name, p in narrow.named_parameters()})
    x = rng.normal(size=(steps, batch, 4)).astype("float32")
    found = []
    for layer, dtype in ((narrow, "float32"), (wide, "float64")):
        leaf = mt.tensor(x.astype(dtype), requires_grad=True)
        results = flat(layer(leaf))
        assert is_fused(results[0])
        assert all(value.dtype == dtype for value in results)
        leaves = [leaf, *layer.parameters()]
        gradients = mt.grad(results, leaves, [np.ones(v.shape, dtype) for v in results])
        assert all(g.dtype == dtype for g in gradients)
        found.append([host(value) for value in (*results, *gradients)])
    for a, b in zip(*found, strict=True):
        close(a, b, tolerance=2e-6 * np.sqrt(steps))


@pytest.mark.parametrize("kind", FUSED)
def test_what_needs_no_gradient_gets_none(kind):
    rng = np.random.default_rng(0)
    layer = spread(build(kind), rng)
    x, start = mt.tensor(rng.normal(size=(5, 3, 4))), draw_state(layer, rng)
    state = bare([mt.tensor(value) for value in start])
    names = [name for name, _ in layer.named_parameters()]
    for name in names:
        for other, parameter in layer.named_parameters():
            parameter.requires_grad_(other == name)
        mine, theirs = both_ways(layer, x, state)
        assert {"x", *names} & mine.keys() == {name}
        close(mine[name], theirs[name], name)


@pytest.mark.parametrize("kind", FUSED)
def test_a_layer_that_has_been_called_before_sees_what_has_changed(kind):
    """What a call depends on is looked at once; the results are those of a layer that is new."""
    rng = np.random.default_rng(0)
    layer = spread(build(kind, generator=mt.Generator(0)), rng)

    def check(*arguments):
        layer(*arguments)
        found, wanted = flat(layer(*arguments)), flat(copy.deepcopy(layer)(*arguments))
        for a, b in zip(found, wanted, strict=True):
            assert (a.dtype, a.requires_grad) == (b.dtype, b.requires_grad)
            np.testing.assert_array_equal(host(a), host(b))

    x, start = mt.tensor(rng.normal(size=(3, 3, 4))), draw_state(layer, rng)
    state = bare([mt.tensor(value) for value in start])
    check(x)
    check(x, state)
    check(x[:2], state)
    with mt.no_grad():
        check(x)
    for parameter in layer.parameters():
        parameter.data = 0.5 * parameter.data
    layer.weight_hh_l0 = nn.Parameter(2 * layer.weight_hh_l0.data)
    check(x)
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    check(x)
    check(x, None, [1, 2, 3])
    layer.batch_first = True
    check(x)
    layer.recurrent_dropout = 1.0
    check(x)
    layer.eval()
    check(x)
    with driver("steps"):
        assert not is_fused(layer(x)[0])
    with pytest.raises(ValueError, match="input_size"):
        layer(x[..., :2])
    with pytest.raises(ValueError, match="state"):
        layer(x, bare([value[:, :2] for value in parts(state)]))
    with pytest.raises(TypeError):
        layer(x.astype("float32"))
    layer.astype("float32")
    check(x.astype("float32"))


# -- buffers


def training_step(layer, rng):
    x = mt.tensor(rng.normal(size=(6, 3, 4)), requires_grad=True)
    return x, layer(x)[0]


@given(kind=kinds, order=st.permutations(range(4)), seed=seeds)
def test_live_graphs_of_the_same_sizes_do_not_disturb_each_other(kind, order, seed):
    rng = np.random.default_rng(seed)
    layer = build(kind)
    calls = [training_step(layer, rng) for _ in range(4)]
    kept = [host(output).copy() for _, output in calls]
    found = {}
    for i in order:
        x, output = calls[i]
        (output * output).sum().backward(retain_graph=True)
        first = host(x.grad).copy()
        x.grad = None
        (output * output).sum().backward()
        np.testing.assert_array_equal(host(x.grad), first)
        found[i] = first
    for i, (x, output) in enumerate(calls):
        np.testing.assert_array_equal(host(output), kept[i])
        with driver("steps"):
            again = layer(mt.tensor(x.detach(), requires_grad=True))[0]
        close(kept[i], host(again))


@pytest.mark.parametrize("kind", FUSED)
def test_what_was_handed_out_never_changes(kind):
    rng = np.random.default_rng(0)
    layer = build(kind, bidirectional=True)
    x = mt.tensor(rng.normal(size=(6, 3, 4)), requires_grad=True)
    results = flat(layer(x))
    sum(mt.sum(value) for value in results).backward()
    given_out = [*results, x.grad, *[p.grad for p in layer.parameters()]]
    kept = [host(value).copy() for value in given_out]
    plans = [plan for plans in arrays._waiting.values() for plan in plans if plan.xp is np]
    memory = [plan.hx for plan in plans] + [s for plan in plans for s in plan.state.values()]
    for value in given_out:
        assert not any(np.shares_memory(host(value), block) for block in memory)
    for _ in range(3):
        other = layer(mt.tensor(rng.normal(size=(6, 3, 4)), requires_grad=True))[0]
        mt.sum(other).backward()
    with mt.no_grad():
        layer(x * 2)
    for value, before in zip(given_out[: len(results) + 1], kept, strict=False):
        np.testing.assert_array_equal(host(value), before)


def test_a_plan_has_one_owner_and_goes_back_with_the_graph():
    layer, x = build("lstm"), mt.ones((7, 2, 4), dtype="float64")
    arrays._waiting.clear()
    gc.collect()
    gc.disable()
    try:

        def waiting():
            return sum(map(len, arrays._waiting.values()))

        one = layer(x)[0]
        two = layer(x)[0]
        assert waiting() == 0
        del one  # never walked
        assert waiting() == 1
        two.sum().backward()  # walked, and released although the output lives
        assert waiting() == 2
        layer(x)[0].sum().backward()
        assert waiting() == 2
        with mt.no_grad():
            layer(x)
        assert waiting() == 3  # a smaller one, for calls without a backward pass
        plans = [plan for plans in arrays._waiting.values() for plan in plans]
        assert sorted(plan.gates.shape[0] for plan in plans) == [2, 8, 8]
        watched = [weakref.ref(plan) for plan in plans]
        del plans
        arrays._waiting.clear()
        assert all(reference() is None for reference in watched)
    finally:
        gc.enable()


def test_plans_of_many_sizes_do_not_pile_up(monkeypatch):
    layer = build("gru")
    arrays._waiting.clear()
    layer(mt.ones((9, 2, 4), dtype="float64"))
    most = 2 * max(plan.nbytes for plans in arrays._waiting.values() for plan in plans)
    monkeypatch.setattr(arrays, "WAITING", most)
    for steps in range(3, 10):
        layer(mt.ones((steps, 2, 4), dtype="float64"))
        plans = [plan for plans in arrays._waiting.values() for plan in plans]
        assert sum(plan.nbytes for plan in plans[:-1]) <= most
    arrays._waiting.clear()


def test_a_quarter_of_a_gigabyte_may_wait_and_no_more():
    class Large:
        nbytes = 1 << 27

    arrays._waiting.clear()
    for size in range(3):  # at a time, as calls of three sizes leave them
        arrays._waiting[size] = [Large()]
    arrays._make_room()
    assert [len(plans) for plans in arrays._waiting.values()] == [0, 1, 1]  # the oldest has gone
    arrays._waiting.clear()


@pytest.mark.parametrize("cache", [1 << 21, 1 << 14, 0])
@pytest.mark.parametrize("batch", [1, 2, 100])
@pytest.mark.parametrize("one", DOCUMENTED, ids=lambda one: one.name)
def test_a_stretch_of_steps_fits_into_the_cache_and_a_block_is_not_long(
    one, batch, cache, monkeypatch
):
    monkeypatch.setattr(arrays, "CACHE", cache)
    arrays._waiting.clear()
    layer = nn.Recurrent(one, 3, 16, block_size=2 if one.per_block else 1)
    output, _ = layer(mt.ones((200, batch, 3)))
    mt.sum(output).backward()
    del output
    (plan,) = [plan for plans in arrays._waiting.values() for plan in plans]
    (back,) = plan._back.values()
    C, W = back.stretch, back.length
    touched = [back.jacobian, back.cotangent, back.rows[:C], *back.temporary]
    touched += [a[:C] for a in (plan.kept, plan.values, *plan.state.values())]
    assert C == 1 or sum(array.nbytes for array in touched) <= cache
    assert C <= arrays.LONGEST
    assert W % C == 0
    assert W in range(1, arrays.LONGEST + 1)
    assert W == C or W * batch <= arrays.JOINED
    arrays._waiting.clear()


def test_a_cell_keeps_no_more_than_its_derivative_asks_for():
    """tanh' is known from tanh, which is the output; and large layers hold nothing twice."""
    for hidden, twice in ((4, True), (1024, False)):
        arrays._waiting.clear()
        layer = nn.RNN(3, hidden)
        output, _ = layer(mt.ones((8, 2, 3)))
        mt.sum(output).backward()
        del output
        (plan,) = [plan for plans in arrays._waiting.values() for plan in plans]
        (back,) = plan._back.values()
        assert plan.values.size == 0
        assert (back.taken is not None) is twice
    arrays._waiting.clear()


# -- the choice of a driver


def test_the_driver_is_told_and_chosen():
    assert driver() == "arrays"
    with driver("steps"):
        assert driver() == "steps"
        assert not is_fused(build("lstm")(mt.ones((3, 2, 4), dtype="float64"))[0])
    choice = driver("steps")
    assert driver() == "steps"
    with choice:
        pass
    assert driver() == "arrays"
    with pytest.raises(ValueError, match="'arrays', 'steps'"):
        driver("cudnn")
    assert driver() == "arrays"


@cell(gates=("a",))
def undecided(a, h):
    return mt.tanh(a) if a.ndim == 0 and a > 0 else mt.tanh(a + mt.mean(h))


def test_a_cell_that_cannot_be_derived_runs_step_by_step():
    layer = nn.Recurrent(undecided, 4, 2, dtype="float64")
    output, _ = layer(mt.ones((3, 2, 4), dtype="float64"))
    assert not is_fused(output)
    with pytest.raises(TypeError, match=r"undecided cannot be derived.*cannot decide"):
        undecided.source()
    with pytest.raises(ValueError, match="'steps'"):
        lstm.source("steps")


@cell(gates=("a",), state=("h", "c"))
def half_detached(a, c):
    c = c + mt.tanh(a)
    return mt.sigmoid(a + mt.detach(c)) * mt.detach(a), c


def test_what_equations_detach_is_not_differentiated():
    """An expression does not show it, so such a cell runs step by step."""
    layer = nn.Recurrent(half_detached, 4, 2, dtype="float64")
    output, _ = layer(mt.ones((3, 2, 4), dtype="float64"))
    assert not is_fused(output)
    with pytest.raises(TypeError, match="the equations detach something"):
        half_detached.source()


@pytest.mark.parametrize("one", DOCUMENTED, ids=lambda one: one.name)
def test_the_source_is_what_runs(one):
    source = one.source("arrays")
    for name in ("forward", "jacobian", "backward"):
        assert f"def {name}(" in source
    compile(source, "source", "exec")


def test_the_source_does_not_depend_on_the_cells_before_it():
    """Compiled code is found again by its source, in processes with other histories too."""

    def source():
        @cell(gates=("first", "second"))
        def late(first, second):
            return mt.tanh(second) * mt.sigmoid(first) + mt.tanh(first) * mt.sigmoid(second)

        return late.source(), late.source("numba")

    alone = source()
    gc.collect()  # its symbols too
    inputs = [Symbol("input", name) for name in ("second", "first")]
    held = [Symbol(op, x) for op in ("sigmoid", "tanh") for x in inputs]
    assert source() == alone
    assert len(held) == 4


def test_the_lstm_in_few_statements():
    """One product and one tanh serve all gates; six derivatives suffice."""
    forward, jacobian, _ = lstm.source().split("def ")[1:]
    assert forward.count("product(") == 1
    assert forward.count("tanh(") == 2
    assert jacobian.count("j") - 1 >= len(lstm.program.derivation.jacobian) == 6


@pytest.mark.parametrize(
    ("one", "most"),
    [
        (rnn_tanh, (2, 2, 4)),
        (lstm, (8, 14, 7)),
        (gru, (10, 13, 5)),
        (peephole_lstm, (25, 24, 8)),
        (memory_cell, (13, 16, 6, 2, 5)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_cell_takes_no_more_statements_than_it_did(one, most):
    """Each of them costs a call of an array function at every step, or at every stretch."""
    functions = [text.strip().splitlines() for text in one.source().split("def ")[1:]]
    counts = []
    for head, *body in functions:
        loop = [line for line in body if line.startswith("        ")]
        body = loop or [line for line in body if "return" not in line]
        counts.append(len(body))
        assert head.endswith(":")
    assert all(count <= limit for count, limit in zip(counts, most, strict=True)), counts


def test_gates_that_stand_together_in_the_weights_are_copied_together():
    for one, forward, back in (
        *((rnn_tanh, 1, 1), (lstm, 2, 1), (gru, 3, 3)),
        *((peephole_lstm, 3, 1), (memory_cell, 1, 3)),
    ):
        assert len(one.program.runs) == forward
        assert len(one.program.back_runs) == back
        for run in (*one.program.runs, *one.program.back_runs):
            kinds = {"" if name in one.gates else name[-1] for name in run.names}
            assert kinds == {run.kind}
            at = [one.gates.index(gate) for gate in run.gates]
            assert at == list(range(at[0], at[0] + len(at)))


def test_the_truncated_cell_goes_back_without_a_product():
    """Its loop carries c alone; all else of a derivative is found for all steps at once."""
    forward, *back = memory_cell.source().split("def ")[1:]
    assert forward.count("product(") == 1
    assert len(forward.splitlines()) <= 16
    assert "product" not in "".join(back)
    [loop] = [text for text in back if text.startswith("backward(")]
    assert len(loop.strip().splitlines()) == 5


def test_anomalies_name_the_operation_of_the_step():
    layer = build("lstm")
    x = mt.ones((3, 2, 4), dtype="float64")
    layer.weight_ih_l0.data[0, 0] = np.nan
    with mt.detect_anomaly():
        assert not is_fused(layer(x)[0])


def test_numbers_that_do_not_fit_are_refused_in_the_words_of_the_loop():
    layer = nn.LSTM(4, 2)
    with pytest.raises(TypeError, match="the input is float64 and the weight float32"):
        layer(mt.ones((3, 2, 4), dtype="float64"))


def test_weights_changed_before_backward_are_noticed():
    layer = build("gru")
    output, _ = layer(mt.ones((3, 2, 4), dtype="float64"))
    with mt.no_grad():
        layer.weight_hh_l0[...] = 0.0
    with pytest.raises(mt.GradientStateError, match="changed in place"):
        output.sum().backward()


def test_the_composite_is_the_loop():
    assert recurrent.sequence.declaration.composite is recurrent.in_steps


# -- numbers that fade away


@cell(gates=("z", "n"), state=("h",))
def rectified(z, n, h):
    """A unit whose candidate is switched off keeps a share of its old state at each step."""
    return (1 - mt.sigmoid(z)) * mt.relu(n) + mt.sigmoid(z) * h


@pytest.mark.parametrize(
    ("dtype", "bias", "steps", "gone"), [("float32", 0, 200, 150), ("float64", -3, 400, 350)]
)
def test_what_fades_away_does_not_end_among_the_subnormal_numbers(dtype, bias, steps, gone):
    """Half of the state goes at every step, so that after 126 steps float32 has no normal number
    for what is left, nor for what the gradient becomes times that; processors are slow with both.
    In float64 a twentieth is left at every step, for some 230 steps.
    """
    batch, hidden = 3, 4
    layer = nn.Recurrent(rectified, 2, hidden, dtype=dtype, generator=mt.Generator(0))
    layer.bias_ih_l0.data[hidden:] = -100  # all candidates off
    layer.bias_ih_l0.data[:hidden] += bias
    rng = np.random.default_rng(0)
    x = mt.tensor(rng.normal(size=(steps, batch, 2)).astype(dtype), requires_grad=True)
    state = mt.tensor(np.ones((1, batch, hidden), dtype), requires_grad=True)
    arrays._waiting.clear()
    mine, theirs = both_ways(layer, x, state)
    for name, value in theirs.items():
        close(mine[name], value, name, tolerance=1e-6)
    (plan,) = [plan for plans in arrays._waiting.values() for plan in plans]
    (back,) = plan._back.values()
    for met in (plan.hx, back.rows[:-1, back.low : back.high]):  # what the two products meet
        magnitudes = np.abs(met[met != 0])
        assert magnitudes.min() > np.finfo(dtype).smallest_normal
    assert np.all(plan.hx[gone:, :hidden] == 0), "the state has not faded at all"
    states = plan.hx[:, :hidden]
    least = np.abs(states[states != 0]).min()
    assert least < 2.0**80 * np.finfo(dtype).smallest_normal, "faded before its time"


def test_the_printed_source_says_what_its_names_are():
    head, *functions = lstm.source("arrays").split("\n\n")
    assert head.startswith("# cell lstm: arrays are (features, batch)")
    assert "Rows of the product, in order: o, i, f, g\n" in head
    assert "# the product's rows: i_, f_, g_, o_\n" in head
    assert "# old and new state: h_, c_, h_new, c_new\n" in head
    assert "# kept for the Jacobian: v0\n" in head
    assert "j0 = d c / d c, j1 = d c / d i, " in head
    assert "d h / d new c\n" in head
    assert [text.split("(")[0] for text in functions] == [
        "def forward",
        "def jacobian",
        "def backward",
    ]


@cell(gates=("a", "b"))
def held_on_one_side(a, b, h):
    return 0.2 * h + mt.clip(a, None, 0.3) * mt.clip(b, -0.3, None)


def test_a_clip_may_have_one_bound():
    rng = np.random.default_rng(3)
    compare(spread(nn.Recurrent(held_on_one_side, 3, 4, dtype="float64"), rng), rng, 5, 3)


@pytest.mark.parametrize("time", [0, 1])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_an_output_lies_in_memory_as_its_longest_axis_is_written_at_once(time, bidirectional):
    """A few numbers lie as a layer likes them that comes next; many are not moved."""

    def order(hidden, batch, steps):
        options = {"batch_first": bool(time), "bidirectional": bidirectional}
        layer = nn.Recurrent(rnn_tanh, 2, hidden, **options)
        shape = (batch, steps) if time else (steps, batch)
        out = layer(mt.ones((*shape, 2)))[0].data
        names = "BTH" if time else "TBH"
        return "".join(sorted(names, key=lambda name: -out.strides[names.index(name)]))

    with mt.recurrence.driver("arrays"):
        assert order(hidden=2, batch=4, steps=3) == "HTB"
        assert order(hidden=4, batch=4, steps=3) == "HTB"
        assert order(hidden=4, batch=3, steps=2) == ("BTH" if time else "TBH")
        assert order(hidden=2, batch=512, steps=64) == "HTB"
        assert order(hidden=2, batch=512, steps=65) == "THB"
