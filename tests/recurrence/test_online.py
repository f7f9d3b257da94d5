"""Online learning in one loop against the ordinary path: a layer, a readout, a loss, `mt.grad`.

The reference trains one trial and one sequence at a time, with nothing but operations.
"""

import threading
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recurrence.interpreted import interpreted
from recurrence.layers import CELLS
from recurrence.test_memory_cell import without_recurrent_weights

import microtensor as mt
from microtensor.nn.recurrent import parameter_shapes
from microtensor.recurrence import (
    Sequences,
    cell,
    fit_online,
    gru,
    lstm,
    memory_cell,
    memory_cell_bptt,
    rnn_relu,
    rnn_tanh,
)
from microtensor.recurrence.drivers import online_arrays, online_loops


@cell(
    gates=("i", "g", "o"),
    state=("h", "c"),
    per_block=("i", "o"),
    feeds=("o", "h"),
    truncated=True,
    biased=("i", "g"),
)
def blocks(i, g, o, c):
    """As the cell of 1997, with everything that can be declared."""
    o = mt.sigmoid(o)
    c = 0.9 * c + mt.sigmoid(i) * mt.tanh(g)
    return o * mt.tanh(c), c, o


@cell(gates=("i", "g"), state=("h",), feeds=())
def unfed(i, g, h):
    """Without any recurrent weights."""
    return 0.8 * h + mt.sigmoid(i) * mt.tanh(g)


KINDS = {"rnn_tanh": rnn_tanh, "rnn_relu": rnn_relu, "lstm": lstm, "gru": gru, **CELLS}
KINDS |= {"blocks": blocks, "memory_cell_bptt": memory_cell_bptt, "unfed": unfed}
own = CELLS["own_cell"]
BLOCKS = {"blocks": 2, "memory_cell_bptt": 3}  # units of a block
# Every cell costs a compilation, so the Numba driver is tried on those that have everything.
COMPILED = ["own_cell", "blocks"]
OUTPUTS = [
    ("linear", "squared_error"),
    ("sigmoid", "squared_error"),
    ("softmax", "squared_error"),
    ("sigmoid", "cross_entropy"),
    ("softmax", "cross_entropy"),
]


# -- what is tried


@pytest.fixture(
    scope="module",
    params=["arrays", "interpreted", pytest.param("numba", marks=pytest.mark.numba)],
)
def driver(request):
    return request.param


@contextmanager
def running(driver):
    """The name by which `fit_online` knows a driver; see interpreted.py."""
    if driver != "interpreted":
        yield driver
        return
    with interpreted():
        yield "numba"


def draw_weights(rng, kind, trials, inputs, hidden, outputs, bias=True, direct=False):
    """Weights of K trials, large enough that every nonlinearity is felt."""
    layer = {False: False, True: "single", "both": True}[bias]
    shapes = parameter_shapes(KINDS[kind], inputs, hidden, layer, BLOCKS.get(kind, 1))
    shapes["readout_weight"] = (outputs, hidden + inputs if direct else hidden)
    if bias:
        shapes["readout_bias"] = (outputs,)
    scale = 0.3 if kind == "rnn_relu" else 0.7
    return {name: scale * rng.normal(size=(trials, *shape)) for name, shape in shapes.items()}


def draw_chunk(rng, trials, sequences, steps, inputs, outputs, options):
    """Sequences of K trials; targets are probabilities, so that every loss takes them."""
    shape = (trials, sequences, steps)
    if options["symbols"]:
        x = rng.integers(0, inputs, size=shape)
    else:
        x = rng.normal(size=(*shape, inputs))
    axes = shape[:2] if options["last"] else shape
    if options["classes"]:
        targets = rng.integers(0, outputs, size=axes)
    else:
        targets = rng.dirichlet(np.ones(outputs), size=axes)
    lengths = rng.integers(1, steps + 1, size=shape[:2]) if options["lengths"] else None
    mask = rng.random(shape) < 0.6 if options["mask"] and not options["last"] else None
    return Sequences(x, targets, lengths, mask)


def fit(kind, weights, chunk, lr, pieces=1, driver=None, **options):
    """The errors of all chunks, one after the other, and the weights afterwards."""
    weights = {name: value.copy() for name, value in weights.items()}
    chunks = [
        Sequences(*[None if a is None else a[:, part] for a in chunk])
        for part in np.array_split(np.arange(chunk.inputs.shape[1]), pieces)
    ]
    size = BLOCKS.get(kind, 1)
    with running(driver) as name:
        run = fit_online(KINDS[kind], weights, chunks, lr, block_size=size, driver=name, **options)
        found = list(run)
    errors = [
        None if parts[0] is None else np.concatenate(parts, axis=1)
        for parts in zip(*found, strict=True)
    ]
    return errors, weights


# -- the reference


class Reference:
    """One trial, in operations. Weights of different steps may be different tensors."""

    def __init__(self, kind, weights, lr, output, loss, update, masks):
        self.cell, self.block_size = KINDS[kind], BLOCKS.get(kind, 1)
        self.weights, self.lr, self.masks = weights, lr, masks
        self.output, self.loss, self.update = output, loss, update
        self.hidden = weights["hidden"]
        del weights["hidden"]

    def leaves(self):
        return {name: mt.tensor(value, requires_grad=True) for name, value in self.weights.items()}

    def width(self, name):
        return self.cell.width(name, self.hidden, self.block_size)

    def start(self):
        return tuple(mt.zeros(self.width(name), dtype="float64") for name in self.cell.state)

    def bias(self, w, name):
        """A bias with zeros for the gates that have none."""
        if name not in w:
            return 0.0
        found, at = [], 0
        for gate in self.cell.gates:
            if gate in self.cell.biased:
                found.append(w[name][at : at + self.width(gate)])
                at += self.width(gate)
            else:
                found.append(mt.zeros(self.width(gate), dtype="float64"))
        return mt.concatenate(found)

    def step(self, w, x, state):
        row = w["weight_ih"] @ x + self.bias(w, "bias_ih")
        fed = self.cell.recurrent_vector(state)
        recurrent = w["weight_hh"] @ fed + self.bias(w, "bias_hh")
        units = {name: w[name] for name in self.cell.per_unit}
        return self.cell.step(row, recurrent, state, units, self.block_size)

    def read(self, w, h, x, target):
        """Loss, outputs, largest difference."""
        columns = w["readout_weight"].shape[1]
        seen = h if columns == h.shape[0] else mt.concatenate([h, x])
        net = w["readout_weight"] @ seen + w.get("readout_bias", 0.0)
        if self.output == "softmax":
            y, log_y = mt.softmax(net, axis=0), mt.log_softmax(net, axis=0)
        elif self.output == "sigmoid":
            y = mt.sigmoid(net)
            log_y = -mt.softplus(-net)
        else:
            y, log_y = net, None
        if self.loss == "squared_error":
            loss = 0.5 * ((y - target) ** 2).sum()
        elif self.output == "softmax":
            loss = -(target * log_y).sum()
        else:
            loss = -(target * log_y - (1 - target) * mt.softplus(net)).sum()
        y = y.detach().numpy()
        return loss, y, np.abs(y - target).max()

    def descend(self, gradients):
        for name, g in gradients.items():
            self.weights[name] = self.weights[name] - self.lr * self.masks.get(name, 1.0) * g

    def sequence(self, x, targets):
        """Train on x (T, I), with targets by their step; loss, largest difference, outputs."""
        used, state = [], None
        total, worst, outputs = 0.0, 0.0, {}
        summed = 0.0
        w = self.leaves()
        for t in range(len(x)):
            if self.update == "step":
                w = self.leaves()
            used.append(w)
            state = self.start() if state is None else state
            here = mt.tensor(x[t])
            state = self.step(w, here, state)
            if t in targets:
                loss, outputs[t], far = self.read(w, state[0], here, targets[t])
                total, worst = total + loss.item(), max(worst, far)
                if self.update == "step":
                    self.learn(loss, used)
                else:
                    summed = summed + loss
        if self.update == "sequence" and targets:
            self.learn(summed, [w])
        return total, worst, outputs

    def learn(self, loss, used):
        gradients = dict.fromkeys(self.weights, 0.0)
        leaves = [leaf for w in used for leaf in w.values()]
        found = mt.grad(loss, leaves, allow_unused=True, retain_graph=True)
        for name, g in zip([name for w in used for name in w], found, strict=True):
            if g is not None:
                gradients[name] = gradients[name] + g.numpy()
        self.descend(gradients)


def rows_of(kind, hidden):
    """How many rows of weights there are, 0 if the blocks cannot have so many units."""
    size = BLOCKS.get(kind, 1)
    if hidden % size:
        return 0
    return sum(KINDS[kind].width(gate, hidden, size) for gate in KINDS[kind].gates)


def reference(kind, weights, chunk, lr, masks, output, loss, update):
    """The same as `fit`, in operations."""
    K, N, T = chunk.inputs.shape[:3]
    I, O = weights["weight_ih"].shape[2], weights["readout_weight"].shape[1]
    rates = np.broadcast_to(lr, K)
    losses, worst = np.zeros((K, N)), np.zeros((K, N))
    last = chunk.targets.ndim == (2 if chunk.targets.dtype.kind == "i" else 3)
    outputs = np.zeros((K, N, O) if last else (K, N, T, O))
    trained = []
    rows = weights["weight_ih"].shape[1]
    hidden = next(h for h in range(1, rows + 1) if rows_of(kind, h) == rows)
    for k in range(K):
        own = {name: value[k] for name, value in weights.items()}
        own["hidden"] = hidden
        kept = {name: np.broadcast_to(m, weights[name].shape)[k] for name, m in masks.items()}
        trial = Reference(kind, own, rates[k], output, loss, update, kept)
        for n in range(N):
            length = T if chunk.lengths is None else chunk.lengths[k, n]
            x, y = chunk.inputs[k, n, :length], chunk.targets[k, n]
            x = np.eye(I)[x] if x.dtype.kind == "i" else x
            y = np.eye(O)[y] if y.dtype.kind == "i" else y
            if last:
                targets = {length - 1: y}
            else:
                steps = range(length) if chunk.mask is None else np.flatnonzero(chunk.mask[k, n])
                targets = {t: y[t] for t in steps if t < length}
            losses[k, n], worst[k, n], found = trial.sequence(x, targets)
            for t, value in found.items():
                outputs[(k, n) if last else (k, n, t)] = value
        trained.append(trial.weights)
    together = {name: np.stack([w[name] for w in trained]) for name in weights}
    return [losses, worst, outputs], together


def close(a, b, what, tolerance=1e-10):
    scale = max(1.0, float(np.max(np.abs(b), initial=0.0)))
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale, err_msg=what)


def compare(kind, weights, chunk, lr, masks, output, loss, update, **options):
    mine, trained = fit(
        kind,
        weights,
        chunk,
        lr,
        masks=masks,
        output=output,
        loss=loss,
        update=update,
        outputs=True,
        **options,
    )
    theirs, wanted = reference(kind, weights, chunk, lr, masks, output, loss, update)
    for what, a, b in zip(("loss", "worst", "outputs"), mine, theirs, strict=True):
        close(a, b, what)
    for name, value in wanted.items():
        close(trained[name], value, name)
    return trained


@st.composite
def problems(draw, sequences=3):
    """A cell, sizes, and every option."""
    truth = st.booleans()
    options = {name: draw(truth) for name in ("symbols", "classes", "last", "lengths", "mask")}
    output, loss = draw(st.sampled_from(OUTPUTS))
    return {
        "kind": draw(st.integers(0, 1000)),  # see `build`
        "sizes": [draw(st.integers(1, most)) for most in (3, sequences, 5, 4, 3, 3)],
        "bias": draw(st.sampled_from([False, True, "both"])),
        "direct": draw(truth),
        "masked": draw(truth),
        "how": {
            "output": output,
            "loss": loss,
            "update": draw(st.sampled_from(["sequence", "step"])),
        },
        "options": options,
        "seed": draw(st.integers(0, 2**32 - 1)),
    }


def build(p, driver="arrays"):
    """Weights, sequences and masks of a problem; and its kind, if that was a number."""
    rng = np.random.default_rng(p["seed"])
    trials, sequences, steps, inputs, hidden, outputs = p["sizes"]
    if isinstance(p["kind"], int):
        kinds = COMPILED if driver == "numba" else sorted(KINDS)
        p["kind"] = kinds[p["kind"] % len(kinds)]
    if driver != "arrays":
        trials = 4 * trials - 3  # less and more than a register holds
    hidden *= BLOCKS.get(p["kind"], 1)
    weights = draw_weights(rng, p["kind"], trials, inputs, hidden, outputs, p["bias"], p["direct"])
    chunk = draw_chunk(rng, trials, sequences, steps, inputs, outputs, p["options"])
    masks = {}
    if p["masked"]:
        masks = {name: (rng.random(value.shape) < 0.6) * 1.0 for name, value in weights.items()}
    return weights, chunk, masks


PLAIN = {
    "kind": "blocks",
    "sizes": (2, 50, 7, 3, 4, 2),
    "bias": True,
    "direct": False,
    "masked": False,
    "how": {"output": "linear", "loss": "squared_error", "update": "sequence"},
    "options": dict.fromkeys(("symbols", "classes", "lengths", "mask"), False) | {"last": True},
    "seed": 0,
}


def changed(p, **changes):
    """The same problem with other options, wherever they stand."""
    p = {**p, "how": dict(p["how"]), "options": dict(p["options"])}
    for name, value in changes.items():
        for place in (p, p["how"], p["options"]):
            if name in place:
                place[name] = value
    return p


FEW = changed(PLAIN, sizes=(2, 8, 7, 3, 4, 2))


# -- what holds


@given(p=problems(), pieces=st.integers(1, 2))
def test_every_option_is_the_ordinary_path(driver, p, pieces):
    weights, chunk, masks = build(p, driver)
    pieces = min(pieces, chunk.inputs.shape[1])
    compare(p["kind"], weights, chunk, 0.1, masks, **p["how"], pieces=pieces, driver=driver)


def test_targets_of_a_cross_entropy_need_not_add_up_to_one(driver):
    """The derivative of sum t (log sum exp - net) is y sum t - t."""
    p = changed(PLAIN, output="softmax", loss="cross_entropy")
    weights, chunk, masks = build(p)
    weighed = chunk._replace(targets=chunk.targets * np.array([0.5, 3.0])[:, None, None])
    compare(p["kind"], weights, weighed, 0.1, masks, **p["how"], driver=driver)


@pytest.mark.parametrize(
    "name", ["arrays", pytest.param("numba", marks=pytest.mark.numba), "steps"]
)
def test_without_a_driver_it_is_the_layers_own(name):
    weights, chunk, _ = build(PLAIN)
    with mt.recurrence.driver(name):
        made = fit_online(KINDS[PLAIN["kind"]], weights, iter([chunk]), 0.1, block_size=2)
    assert type(made._driver).__module__.endswith(
        "online_loops" if name == "numba" else "online_arrays"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"symbols": True, "classes": True, "output": "softmax", "last": False},
        {"kind": "own_cell", "lengths": True, "output": "sigmoid", "update": "step"},
    ],
    ids=["blocks-symbols", "own-steps"],
)
def test_fifty_sequences_stay_together(driver, changes):
    p = changed(PLAIN, **changes)
    weights, chunk, masks = build(p)
    rates = [0.1, 0.3]
    trained = compare(p["kind"], weights, chunk, rates, masks, **p["how"], pieces=4, driver=driver)
    assert all(np.abs(trained[name] - weights[name]).max() > 1e-3 for name in weights)


@given(p=problems(sequences=5), pieces=st.integers(1, 3), data=st.data())
def test_a_trial_is_the_same_in_every_stack_and_in_chunks_of_any_size(driver, p, pieces, data):
    """To the last bit, in both dtypes; others may have longer sequences."""
    p = changed(p, lengths=True)
    weights, chunk, masks = build(p, driver)
    dtype = "float64"
    if p["kind"] == "blocks" or driver != "numba":
        dtype = data.draw(st.sampled_from(["float32", "float64"]))
    weights = {name: value.astype(dtype) for name, value in weights.items()}
    K, N = chunk.inputs.shape[:2]
    lr = np.linspace(0.1, 0.5, K)
    how = {**p["how"], "driver": driver, "threads": data.draw(st.integers(1, 2))}
    errors, trained = fit(p["kind"], weights, chunk, lr, masks=masks, **how)
    k = data.draw(st.integers(0, K - 1))
    longest = chunk.lengths[k].max()
    own = [a if a is None else a[k : k + 1] for a in chunk]
    if chunk.mask is not None or chunk.targets.shape[1:3] == chunk.inputs.shape[1:3]:
        last = chunk.targets.ndim == (2 if chunk.targets.dtype.kind == "i" else 3)
        own[1] = own[1] if last else own[1][:, :, :longest]
        own[3] = own[3] if own[3] is None else own[3][:, :, :longest]
    own[0] = own[0][:, :, :longest]
    alone, apart = fit(
        p["kind"],
        {name: value[k : k + 1] for name, value in weights.items()},
        Sequences(*own),
        lr[k],
        pieces=min(pieces, N),
        masks={name: mask[k : k + 1] for name, mask in masks.items()},
        **how,
    )
    for name in weights:
        np.testing.assert_array_equal(apart[name][0], trained[name][k], err_msg=name)
    np.testing.assert_array_equal(alone[0][0], errors[0][k])
    np.testing.assert_array_equal(alone[1][0], errors[1][k])


def test_a_long_sequence_beside_a_short_one(driver):
    """More steps than a block has, in one trial only."""
    p = changed(PLAIN, sizes=(2, 2, 75, 2, 3, 1), lengths=True)
    weights, chunk, masks = build(p)
    chunk.lengths[...] = [[75, 33], [5, 6]]
    compare("blocks", weights, chunk, 0.1, masks, **p["how"], driver=driver)
    _, together = fit("blocks", weights, chunk, 0.1, driver=driver)
    short = Sequences(chunk.inputs[1:, :, :6], chunk.targets[1:], chunk.lengths[1:])
    _, alone = fit("blocks", {n: w[1:] for n, w in weights.items()}, short, 0.1, driver=driver)
    for name in weights:
        np.testing.assert_array_equal(alone[name][0], together[name][1])


def test_what_lies_behind_the_end_of_a_sequence_is_not_read(driver):
    weights, chunk, _ = build(changed(FEW, lengths=True))
    behind = np.arange(7) >= chunk.lengths[:, :, None]
    other = chunk._replace(inputs=np.where(behind[..., None], np.nan, chunk.inputs))
    before, after = (
        fit("blocks", weights, chunk, 0.1, driver=driver),
        fit("blocks", weights, other, 0.1, driver=driver),
    )
    np.testing.assert_array_equal(before[0][0], after[0][0])
    assert not any(np.isnan(value).any() for value in after[1].values())


def test_a_trial_that_diverges_disturbs_no_other(driver):
    weights, chunk, _ = build(FEW)
    one, _ = fit("blocks", weights, chunk, [0.01, 0.01], driver=driver)
    errors, trained = fit("blocks", weights, chunk, [0.01, 1e200], driver=driver)
    assert not np.isfinite(errors[0][1]).all()
    np.testing.assert_array_equal(errors[0][0], one[0][0])
    assert all(np.isfinite(value[0]).all() for value in trained.values())


def test_float32_follows_float64(driver):
    sizes = (3, 4, 20, 2, 5, 2) if driver == "interpreted" else (3, 20, 40, 2, 5, 2)
    weights, chunk, _ = build(changed(PLAIN, sizes=sizes))
    errors, trained = fit("blocks", weights, chunk, 0.05, driver=driver)
    narrow = {name: value.astype(np.float32) for name, value in weights.items()}
    found, near = fit("blocks", narrow, chunk, 0.05, driver=driver)
    assert found[0].dtype == np.float32
    close(found[0], errors[0], "loss", 1e-5)
    for name, value in trained.items():
        assert near[name].dtype == np.float32
        close(near[name], value, name, 1e-5)


@pytest.mark.parametrize(("output", "loss"), OUTPUTS)
def test_every_output_and_loss(driver, output, loss):
    p = changed(FEW, output=output, loss=loss, last=False, mask=True)
    weights, chunk, masks = build(p)
    compare("blocks", weights, chunk, 0.1, masks, **p["how"], driver=driver)


@pytest.mark.parametrize("one", [memory_cell, without_recurrent_weights, memory_cell_bptt])
def test_nothing_is_multiplied_by_the_recurrent_weights_on_the_way_back_if_nothing_goes_there(one):
    source = online_loops.Loops(one).source("float64", 8, 32, "common")
    backward = source.partition("def backward(")[2].partition("\ndef ")[0]
    assert ("load(old, at" in backward) is (one is memory_cell_bptt)


def test_a_cell_is_printed_and_compiled_once():
    with interpreted():
        dtypes = [np.dtype("float32"), np.dtype("float64")]
        first = [online_loops.prepare(lstm, dtype) for dtype in dtypes]
        for dtype, found in zip(dtypes, first, strict=True):
            assert online_loops.prepare(lstm, dtype) is found
        assert first[0][0] is not first[1][0]


# -- between the chunks


def test_rates_masks_and_weights_may_change_between_chunks(driver):
    weights, chunk, _ = build(changed(PLAIN, sizes=(3, 6, 4, 2, 3, 1)))
    given = {name: value.copy() for name, value in weights.items()}
    parts = [Sequences(*[None if a is None else a[:, i : i + 2] for a in chunk]) for i in (0, 2, 4)]
    with running(driver) as name:
        run = fit_online(blocks, given, parts, 0.2, block_size=2, driver=name)
        next(run)
        after_one = {name: value.copy() for name, value in given.items()}
        run.lr[1] = 0
        run.masks["bias_ih"] = np.zeros((3, 1))
        next(run)
        for name, value in given.items():
            moved = [not np.array_equal(value[k], after_one[name][k]) for k in range(3)]
            assert moved == ([False] * 3 if name == "bias_ih" else [True, False, True])
        for value in given.values():
            value[0] = 0
        errors = next(run)
        np.testing.assert_allclose(errors.loss[0, 0], 0.5 * chunk.targets[0, 4, 0] ** 2)
        with pytest.raises(StopIteration):
            next(run)
        with pytest.raises(StopIteration):
            next(run)


def test_with_rates_of_zero_it_only_measures(driver):
    weights, chunk, _ = build(changed(PLAIN, sizes=(2, 3, 4, 2, 3, 2), last=False, mask=True))
    errors, same = fit("blocks", weights, chunk, 0, outputs=True, driver=driver)
    for name, value in weights.items():
        np.testing.assert_array_equal(same[name], value)
    wanted, _ = reference("blocks", weights, chunk, 0, {}, *PLAIN["how"].values())
    for mine, theirs in zip(errors, wanted, strict=True):
        close(mine, theirs, "measured")


def test_all_trials_may_see_the_same(driver):
    weights, chunk, _ = build(changed(FEW, lengths=True, last=False, mask=True))
    shared = Sequences(*[a[:1] for a in chunk])
    spread = Sequences(*[np.repeat(a[:1], 2, axis=0) for a in chunk])
    one, two = (
        fit("blocks", weights, shared, 0.1, driver=driver),
        fit("blocks", weights, spread, 0.1, driver=driver),
    )
    np.testing.assert_array_equal(one[0][0], two[0][0])


def test_a_chunk_may_be_read_only(driver):
    """Even where it has the drivers' own form, and nothing of it need be copied."""
    weights, chunk, _ = build(changed(FEW, last=False))
    lengths = np.full(chunk.inputs.shape[:2], chunk.inputs.shape[2], np.int32)
    chunk = chunk._replace(lengths=lengths)
    wanted, _ = fit("blocks", weights, chunk, 0.1, driver=driver)
    for array in (chunk.inputs, chunk.targets, chunk.lengths):
        array.flags.writeable = False
    found, _ = fit("blocks", weights, chunk, 0.1, driver=driver)
    np.testing.assert_array_equal(found[0], wanted[0])


def test_a_chunk_is_drawn_ahead_in_another_thread():
    weights, chunk, _ = build(changed(PLAIN, kind="own_cell", sizes=(2, 3, 4, 2, 3, 1)))
    drawn, second = [], threading.Event()

    def draw():
        drawn.append(threading.current_thread())
        if len(drawn) == 2:
            second.set()
        return chunk if len(drawn) < 4 else None

    run = fit_online(own, weights, draw, 0.1, driver="arrays")
    assert not drawn
    next(run)
    assert second.wait(120)
    assert len(list(run)) == 2
    assert len(drawn) == 4
    assert threading.current_thread() not in drawn


def test_what_goes_wrong_while_drawing_is_raised_in_its_turn():
    weights, chunk, _ = build(changed(PLAIN, kind="own_cell", sizes=(2, 3, 4, 2, 3, 1)))
    chunks = [chunk, chunk._replace(targets=chunk.targets[:, :, :0]), chunk]
    run = fit_online(own, weights, chunks, 0.1, driver="arrays")
    next(run)
    with pytest.raises(ValueError, match="targets must be"):
        next(run)
    with pytest.raises(StopIteration):
        next(run)


# -- what is refused


def test_bad_arguments_are_refused():
    weights, chunk, _ = build(changed(PLAIN, kind="own_cell"))

    def refused(match, error=ValueError, cell=own, change=None, lr=0.1, **options):
        given = {**weights, **(change or {})}
        given = {name: value for name, value in given.items() if value is not None}
        with pytest.raises(error, match=match):
            fit_online(cell, given, [chunk], lr, **{"driver": "arrays", **options})

    refused("output must be 'linear' or 'sigmoid' or 'softmax', got 'tanh'", output="tanh")
    refused("loss must be", loss="mse")
    refused("update must be", update="batch")
    refused("driver must be", driver="steps")
    refused("cross-entropy needs probabilities", loss="cross_entropy")
    refused("threads must be a positive integer", threads=0)
    refused("block_size must be a positive integer", block_size=1.0)
    refused("cell must be a recurrence.Cell", TypeError, cell=mt.tanh)
    refused(r"missing \['weight_hh'\]", change={"weight_hh": None})
    refused(r"unknown \['p_i'\]", change={"p_i": np.ones((2, 4))})
    refused("must be a NumPy array", TypeError, change={"bias_ih": mt.zeros((2, 8))})
    refused("all be float32, or all float64", TypeError, change={"bias_ih": np.zeros((2, 8), "f4")})
    refused("all be float32, or all", TypeError, change={"bias_ih": np.zeros((2, 8), int)})
    refused("gates .* have 5 for each block", change={"w": None}, block_size=3, cell=blocks)
    refused("three axes", change={"weight_ih": weights["weight_ih"][0]})
    refused(r"bias_ih is \(2, 7\) instead of \(2, 8\)", change={"bias_ih": np.zeros((2, 7))})
    refused("readout_weight is", change={"readout_weight": np.zeros((2, 2, 5))})
    refused("read-only", change={"bias_ih": np.broadcast_to(0.0, (2, 8))})
    refused("lr must be one number or 2", lr=[0.1] * 3)
    refused("finite and not negative", lr=-0.1)
    refused("finite and not negative", lr=[0.1, np.nan])
    refused(r"masks for \['weight'\]", masks={"weight": 1})
    refused("mask of bias_ih has shape", masks={"bias_ih": np.ones(3)})
    with pytest.raises(TypeError, match="a function that draws a chunk, or an iterable"):
        fit_online(own, weights, 3, 0.1, driver="arrays")


def test_a_cell_that_cannot_be_derived_is_refused():
    @cell(gates=("a",))
    def deciding(a, h):
        return a if a > 0 else h

    weights, chunk, _ = build(changed(PLAIN, kind="rnn_tanh"))
    with pytest.raises(TypeError, match="deciding cannot be derived"):
        fit_online(deciding, weights, [chunk], 0.1)


def test_bad_chunks_are_refused():
    weights, chunk, _ = build(changed(PLAIN, kind="own_cell", last=False, lengths=True, mask=True))
    x = chunk.inputs
    symbols = np.zeros(x.shape[:3], int)

    def refused(match, error=ValueError, **changes):
        wrong = chunk._replace(**changes)
        with pytest.raises(error, match=match):
            next(fit_online(own, weights, [wrong], 0.1, driver="arrays"))

    refused(r"inputs must be \(K, N, T, I = 3\)", inputs=x[0])
    refused(r"inputs must be \(K, N, T, I = 3\)", inputs=x[..., :2])
    refused(r"inputs must be \(K, N, T\) integers", inputs=x.astype(int))
    refused("floats or integers", TypeError, inputs=x.astype(complex))
    refused("at least one sequence", inputs=x[:, :0])
    refused("K = 2 or 1 if all see the same", inputs=np.repeat(x, 2, axis=0))
    for wrong in (3, -1):
        symbols[0, 0, 0] = wrong
        message = rf"symbol {wrong} of trial 0, sequence 0, step 0 is not one of 0, \.\.\., 2"
        refused(message, inputs=symbols)
    symbols[0, 0, 0] = 0
    refused(r"lengths must be \(K, N = 50\) integers", lengths=chunk.lengths[0])
    refused(r"lengths must be \(K, N = 50\) integers", lengths=chunk.lengths * 1.0)
    refused("lengths must be from 1 to T = 7; got 0", lengths=chunk.lengths * 0)
    refused(r"targets must be \(K, N, O\)", targets=chunk.targets[0])
    refused(r"targets must be integers", targets=symbols[:, :, :3])
    refused("class 5 of trial", targets=np.full(x.shape[:3], 5), mask=None)
    refused("no axis T", targets=chunk.targets[:, :, 0])
    refused(r"mask must be \(K, N = 50, T = 7\) truths", mask=chunk.mask * 1)
    for wrong, what in ((x, "not ndarray"), ((x,), "not 1 values"), ((*chunk, x), "not 5 values")):
        with pytest.raises(TypeError, match=f"a chunk must be Sequences.*{what}"):
            next(fit_online(own, weights, [wrong], 0.1, driver="arrays"))


def test_a_chunk_may_be_a_pair():
    """Inputs and targets, where all steps have a target and all sequences are as long."""
    weights, chunk, _ = build(changed(PLAIN, kind="own_cell", last=False))
    pair = chunk.inputs, chunk.targets
    found = [
        next(
            fit_online(own, {n: w.copy() for n, w in weights.items()}, [one], 0.1, driver="arrays")
        )
        for one in (pair, Sequences(*pair))
    ]
    np.testing.assert_array_equal(found[0].loss, found[1].loss)


# -- that these tests can fail


@pytest.mark.parametrize("fault", ["no update", "forgets a block", "loss", "symbols"])
def test_planted_faults_are_seen(fault, monkeypatch):
    p = changed(PLAIN, sizes=(2, 3, 40, 2, 3, 2), last=False, symbols=fault == "symbols")
    if fault == "no update":
        monkeypatch.setattr(online_arrays.Lesson, "_update", lambda *_: None)
    if fault == "forgets a block":
        monkeypatch.setattr(online_arrays, "_in_turn", lambda shares: shares[:, 0].copy())
    if fault == "loss":
        judge = online_arrays.judge

        def double(*arguments):
            found = judge(*arguments)
            return found._replace(d=2 * found.d)

        monkeypatch.setattr(online_arrays, "judge", double)
    if fault == "symbols":
        load = online_arrays.Lesson._load

        def shifted(lesson):
            load(lesson)
            lesson.table = np.roll(lesson.table, 1, axis=1)

        monkeypatch.setattr(online_arrays.Lesson, "_load", shifted)
    weights, chunk, masks = build(p)
    with pytest.raises(AssertionError):
        compare("blocks", weights, chunk, 0.1, masks, **p["how"], driver="arrays")


@pytest.mark.numba
@pytest.mark.parametrize("fault", ["rates", "places", "numbers"])
def test_planted_faults_of_compiled_loops_are_seen(fault, monkeypatch):
    """In what is handed to the loops; they themselves are made from the cell's derivation."""
    p = changed(PLAIN, sizes=(3, 3, 9, 2, 3, 2), last=False, lengths=True)
    kind = online_loops.Online
    if fault == "rates":
        monkeypatch.setattr(kind, "_pack", lambda *_: None)
    if fault == "places":
        arrange = kind._arrange_weights

        def swapped(self):
            arrange(self)
            self.index[:2] = self.index[1::-1]

        monkeypatch.setattr(kind, "_arrange_weights", swapped)
    if fault == "numbers":
        remember = kind._arrange_memory

        def lossy(self, steps):
            remember(self, steps)
            self.numbers["loss_kind"] = 1

        monkeypatch.setattr(kind, "_arrange_memory", lossy)
    weights, chunk, masks = build(p)
    with pytest.raises(AssertionError):
        compare("blocks", weights, chunk, 0.1, masks, **p["how"], driver="numba")
