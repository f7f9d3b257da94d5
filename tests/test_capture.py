"""`mt.capture`: a captured step does what the step does, to the last bit, or says why it cannot."""

import copy
import itertools
import re
from collections import namedtuple

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from ops.table import TABLE

import microtensor as mt
from microtensor import nn, optim
from microtensor.recurrence.driver import DRIVERS

DRIVER = [
    pytest.param(name, marks=[pytest.mark.numba] if name == "numba" else []) for name in DRIVERS
]

LOSSES = {
    "mse": (nn.MSELoss(), False),
    "l1": (nn.L1Loss(), False),
    "bce": (nn.BCEWithLogitsLoss(), False),
    "cross entropy": (nn.CrossEntropyLoss(axis=-1), True),
}
OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1),
    "momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: optim.Adam(p, lr=0.01),
    "decay": lambda p: optim.Adam(p, lr=0.01, weight_decay=0.1, amsgrad=True),
    "adagrad": lambda p: optim.Adagrad(p, lr=0.1),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.01),
}


class Network(nn.Module):
    def __init__(self, layer, inputs, hidden, outputs, dtype=np.float32, **options):
        generator = mt.Generator(7)
        self.recurrent = layer(inputs, hidden, dtype=dtype, generator=generator, **options)
        width = hidden * (2 if options.get("bidirectional") else 1)
        self.readout = nn.Linear(width, outputs, dtype=dtype, generator=generator)

    def forward(self, x, state=None, lengths=None):
        x, state = self.recurrent(x, state, lengths)
        return self.readout(x), state


def trainer(model, criterion, optimizer, lengths=None):
    def step(x, y, state=None):
        out, new = model(x, state, lengths)
        loss = criterion(out, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss, mt.detach(new)

    return step


def pair(network, criterion, make, **options):
    """The same training twice, the second one captured: (step, model) and (step, model)."""
    twins = []
    for captured in (False, True):
        model = copy.deepcopy(network)
        optimizer = make(model.parameters())
        step = trainer(model, criterion, optimizer, **options)
        twins.append((mt.capture(step, model, optimizer) if captured else step, model, optimizer))
    return twins


def numbers(value):
    """All numbers of a nesting of tensors, as bytes."""
    if isinstance(value, mt.Tensor):
        return value.data.tobytes()
    return tuple(map(numbers, value))


def data(rng, shape, inputs, outputs, labels, dtype=np.float32):
    x = rng.standard_normal((*shape, inputs)).astype(dtype)
    if labels:
        return mt.tensor(x), mt.tensor(rng.integers(0, outputs, shape))
    return mt.tensor(x), mt.tensor(rng.random((*shape, outputs)).astype(dtype))


def assert_alike(first, second, batches, *, carried=False):
    (step, model, _), (captured, twin, _) = first, second
    state = other = None
    for x, y in batches:
        loss, new = step(x, y, state)
        found, latest = captured(x, y, other)
        assert numbers((loss, new)) == numbers((found, latest))
        if carried:
            state, other = new, latest
    assert numbers(list(model.parameters())) == numbers(list(twin.parameters()))
    assert captured.source(), "it was captured"


@pytest.mark.parametrize("driver", DRIVER)
@given(values=st.data())
def test_a_captured_training_is_the_training_to_the_last_bit(driver, values):
    layer = values.draw(st.sampled_from([nn.RNN, nn.LSTM, nn.GRU]))
    options = values.draw(
        st.fixed_dictionaries(
            {
                "batch_first": st.booleans(),
                "bidirectional": st.booleans(),
                "num_layers": st.integers(1, 2),
                "bias": st.sampled_from([True, False, "single"]),
                "dtype": st.sampled_from([np.float32, np.float64]),
            }
        )
    )
    inputs, hidden, outputs, steps, batch = [values.draw(st.integers(1, 5)) for _ in range(5)]
    criterion, labels = LOSSES[values.draw(st.sampled_from(sorted(LOSSES)))]
    make = OPTIMIZERS[values.draw(st.sampled_from(sorted(OPTIMIZERS)))]
    rng = np.random.default_rng(values.draw(st.integers(0, 99)))
    carried = values.draw(st.booleans())
    with mt.recurrence.driver(driver):
        network = Network(layer, inputs, hidden, outputs, **options)
        shape = (batch, steps) if options["batch_first"] else (steps, batch)
        batches = [data(rng, shape, inputs, outputs, labels, options["dtype"]) for _ in range(6)]
        assert_alike(*pair(network, criterion, make), batches, carried=carried)


@pytest.mark.parametrize("driver", DRIVER)
@pytest.mark.parametrize("options", [{}, {"batch_first": True, "bidirectional": True}])
def test_lengths_that_are_always_the_same(driver, options):
    rng = np.random.default_rng(0)
    network = Network(nn.LSTM, 2, 3, 1, **options)
    with mt.recurrence.driver(driver):
        twins = pair(network, nn.MSELoss(), OPTIMIZERS["adam"], lengths=[4, 1, 3, 4])
        assert_alike(*twins, [data(rng, (4, 4), 2, 1, labels=False) for _ in range(6)])


@pytest.mark.parametrize("driver", DRIVER)
@pytest.mark.parametrize("size", [1, 2])
def test_stacks_and_blocks(driver, size):
    rng = np.random.default_rng(0)
    cell = mt.recurrence.memory_cell if size == 2 else mt.recurrence.peephole_lstm

    def twin():
        layers = [
            nn.Recurrent(cell, 2, 4, block_size=size, generator=mt.Generator(k)) for k in range(3)
        ]
        model = nn.stack(layers)
        optimizer = optim.SGD(model.parameters(), lr=(0.1, 0.0, 0.3))

        def step(x):
            loss = (model(x)[0] ** 2).sum(axis=(1, 2, 3))
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
            return loss

        return step, model, optimizer

    with mt.recurrence.driver(driver):
        (step, model, _), (other, same, optimizer) = twin(), twin()
        captured = mt.capture(other, same, optimizer)
        for _ in range(6):
            x = mt.tensor(rng.standard_normal((3, 5, 2, 2)).astype(np.float32))
            assert numbers(step(x)) == numbers(captured(x))
        assert numbers(list(model.parameters())) == numbers(list(same.parameters()))
        assert captured.source()


@pytest.mark.parametrize("driver", DRIVER)
def test_shapes_may_change_and_come_again(driver):
    rng = np.random.default_rng(0)
    network = Network(nn.LSTM, 2, 3, 1)
    with mt.recurrence.driver(driver):
        twins = pair(network, nn.MSELoss(), OPTIMIZERS["adam"])
        shapes = [
            (4, 2),
            (4, 2),
            (5, 2),
            (4, 2),
            (4, 3),
            (5, 2),
            (4, 2),
            (5, 2),
            (5, 2),
            (4, 3),
        ] * 2
        assert_alike(*twins, [data(rng, shape, 2, 1, labels=False) for shape in shapes])


@pytest.mark.parametrize("driver", DRIVER)
def test_captured_and_other_steps_take_turns(driver):
    """Buffers that the layers keep are not mixed up with the captured step's own."""
    rng = np.random.default_rng(0)
    network = Network(nn.LSTM, 2, 3, 1)
    with mt.recurrence.driver(driver):
        (step, model, _), (captured, twin, optimizer) = pair(
            network, nn.MSELoss(), OPTIMIZERS["adam"]
        )
        plain = trainer(twin, nn.MSELoss(), optimizer)
        for i in range(12):
            x, y = data(rng, (4, 2), 2, 1, labels=False)
            expected = step(x, y)
            assert numbers((captured if i < 6 or i % 2 else plain)(x, y)) == numbers(expected)
        assert numbers(list(model.parameters())) == numbers(list(twin.parameters()))


def spiral(make=OPTIMIZERS["adam"]):
    generator = mt.Generator(0)
    model = nn.Sequential(
        nn.Linear(2, 8, generator=generator), nn.ReLU(), nn.Linear(8, 3, generator=generator)
    )
    criterion = nn.CrossEntropyLoss()
    twins = []
    for _ in range(2):
        ours = copy.deepcopy(model)
        optimizer = make(ours.parameters())

        def step(x, y, ours=ours, optimizer=optimizer):
            loss = criterion(ours(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        twins.append((step, ours, optimizer))
    return twins


def batches(count, rows=6):
    rng = np.random.default_rng(1)
    for _ in range(count):
        x = rng.standard_normal((rows, 2)).astype(np.float32)
        yield mt.tensor(x), mt.tensor(rng.integers(0, 3, rows))


def test_a_learning_rate_that_changes_is_followed():
    (step, _, optimizer), (other, twin, same) = spiral()
    captured = mt.capture(other, twin, same)
    for i, (x, y) in enumerate(batches(10)):
        for group in (*optimizer.param_groups, *same.param_groups):
            group["lr"] = 0.1 / (i + 1)
            group["weight_decay"] = 0.1 * (i > 7)
        assert numbers(step(x, y)) == numbers(captured(x, y))


def test_states_that_are_loaded_are_followed():
    (step, model, optimizer), (other, twin, same) = spiral()
    captured = mt.capture(other, twin, same)
    start = {name: value.numpy() for name, value in model.state_dict().items()}
    for i, (x, y) in enumerate(batches(12)):
        if i == 6:
            for ours, theirs in ((model, optimizer), (twin, same)):
                ours.load_state_dict(start)
                theirs.load_state_dict(theirs.state_dict())
        if i == 9:
            for ours in (model, twin):  # other arrays in the old one's places
                for parameter in ours.parameters():
                    parameter.data = parameter.data.copy()
        assert numbers(step(x, y)) == numbers(captured(x, y))
    assert numbers(list(model.parameters())) == numbers(list(twin.parameters()))


def test_train_eval_and_frozen_parameters_are_followed():
    (step, model, _), (other, twin, same) = spiral()
    captured = mt.capture(other, twin, same)
    for i, (x, y) in enumerate(batches(12)):
        if i == 5:
            for ours in (model, twin):
                next(iter(ours.parameters())).requires_grad_(False)
        if i == 9:
            model.eval()
            twin.eval()
        assert numbers(step(x, y)) == numbers(captured(x, y))


def test_dropout_runs_where_it_does_nothing_and_is_refused_where_it_draws():
    model = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5))
    step = mt.capture(model, model)
    x = mt.ones(4, 2)
    step(x)
    step(x)
    with pytest.raises(RuntimeError, match="draws random numbers"):
        step(x)
    model.eval()
    for _ in range(5):
        assert numbers(step(x)) == numbers(model(x))
    assert step.source()


def test_a_decision_is_taken_again_each_time():
    weight = mt.tensor([2.0, -1.0], requires_grad=True)

    def step(x):
        y = (weight * x).sum()
        return y * y if y > 1 else -y

    captured = mt.capture(step, weight)
    for value in (3.0, 3.0, 3.0, 4.0, 0.1, 5.0, -2.0, 3.0):
        x = mt.tensor([value, 1.0])
        assert numbers(captured(x)) == numbers(step(x))
    assert "question()" in captured.source()


def test_results_and_arguments_are_what_they_were():
    """Nothing that was given out changes later; nothing that came in is kept or changed."""
    weight = mt.tensor([2.0, -1.0], requires_grad=True)
    captured = mt.capture(lambda x: (weight * x, {"x": x + 0}, [weight.sum(), 3]), weight)
    kept = []
    for i in range(6):
        x = mt.tensor([float(i), 1.0])
        result = captured(x)
        assert not result[0].requires_grad
        kept.append((result, numbers((result[0], result[1]["x"], result[2][0]))))
        x.data[...] = 99
        assert result[2][1] == 3
    for result, was in kept:
        assert numbers((result[0], result[1]["x"], result[2][0])) == was


Pair = namedtuple("Pair", "a b")


def test_arguments_come_in_nestings_by_name_and_as_bare_arrays():
    def step(both, *, more, how="sum", bare=None):
        total = both.a * both.b + more["c"]
        return Pair(total.sum() if how == "sum" else total.mean(), mt.tensor(bare) + total)

    captured = mt.capture(step)
    for i, how in itertools.product(range(5), ("sum", "mean")):
        a, b, c = (mt.tensor([i + k, 2.0 * k]) for k in range(3))
        options = {"more": {"c": c}, "how": how, "bare": np.float32([i, 1])}
        found, expected = captured(Pair(a, b), **options), step(Pair(a, b), **options)
        assert type(found) is Pair
        assert numbers(found) == numbers(expected)
    assert captured.source()


def test_gradients_are_returned_and_none_outside():
    weight = mt.tensor([2.0, -1.0], requires_grad=True)

    def step(x):
        (weight * weight * x).sum().backward()
        return weight.grad

    captured = mt.capture(step, weight)
    for i in range(6):
        assert captured(mt.tensor([1.0 * i, 1.0])).numpy().tolist() == [4.0 * i, -2.0]
        assert weight.grad is None


def test_derivatives_of_derivatives():
    x = mt.tensor([0.3, -2.0], requires_grad=True)

    def step(c):
        first = mt.grad((mt.tanh(x * c) * x).sum(), x, create_graph=True)
        return first, mt.grad((first * first).sum(), x)

    captured = mt.capture(step, x)
    for i in range(5):
        c = mt.tensor([1.0 + i, 2.0])
        assert numbers(captured(c)) == numbers(step(c))


@pytest.mark.parametrize("padding", [None, 1])
@pytest.mark.parametrize("count", [4, 300])
def test_an_embedding_looks_up_other_rows_and_refuses_those_it_has_not(padding, count):
    model = nn.Sequential(nn.Embedding(5, 3, padding_idx=padding), nn.Linear(3, 2))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    twin = copy.deepcopy(model)
    theirs = optim.SGD(twin.parameters(), lr=0.1)

    def trained(model, optimizer):
        def step(rows):
            loss = (model(rows) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        return step

    captured, step = mt.capture(trained(model, optimizer), model, optimizer), trained(twin, theirs)
    rng = np.random.default_rng(0)
    for _ in range(8):
        rows = mt.tensor(rng.integers(0, 5, (2, count)))
        assert numbers(captured(rows)) == numbers(step(rows))
    assert captured.source()
    with pytest.raises(IndexError, match=r"index 5 at position \(0, 0\) is out of range"):
        captured(mt.tensor(5 * np.eye(2, count, dtype=int)))


def test_labels_out_of_range_are_refused_in_a_captured_step_too():
    (_, _, _), (step, model, optimizer) = spiral()
    captured = mt.capture(step, model, optimizer)
    for x, y in batches(5):
        captured(x, y)
    before = numbers(list(model.parameters()))
    with pytest.raises(ValueError, match="label 3 at position"):
        captured(x, mt.tensor([0, 1, 2, 3, 0, 0]))
    assert numbers(list(model.parameters())) == before


def test_in_other_modes_it_runs_as_it_stands():
    seen = []
    weight = mt.tensor([2.0, -1.0], requires_grad=True)

    def step(x):
        seen.append(None)
        return (weight * x).sum()

    captured = mt.capture(step, weight)
    x = mt.ones(2)
    for _ in range(5):
        captured(x)
    assert len(seen) == 3
    with mt.no_grad():
        captured(x)
    with mt.detect_anomaly():
        captured(x)
    assert len(seen) == 5
    captured(x)
    assert len(seen) == 5


@pytest.mark.parametrize(
    "name", [name for name in TABLE if not TABLE[name].waits or name == "binary_cross_entropy"]
)
@given(values=st.data())
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_every_operation_and_its_derivatives(name, values):
    """First the numbers that were drawn, then the same in the opposite order."""
    entry = TABLE[name]
    call = values.draw(entry.calls)
    if name == "cross_entropy":  # others are refused
        assume(call.options["weight"] is None and call.options["ignore_index"] < 0)
        assume(np.min(call.options["target"], initial=0) >= 0)
    arrays = [isinstance(argument, np.ndarray) for argument in call.arguments]
    drawn = [
        np.array(argument, order="C") if array else argument
        for argument, array in zip(call.arguments, arrays, strict=True)
    ]
    wrt = [
        i
        for i, array in enumerate(arrays)
        if array and drawn[i].dtype.kind == "f" and entry.differentiable
        if entry.wrt is None or i in entry.wrt
    ]

    def step(arguments, options, cotangents):
        arguments = list(arguments)
        for i in wrt:
            arguments[i] = arguments[i].detach().requires_grad_()
        out = entry.op(*arguments, **(call.options if name == "split" else options))
        outs = list(out) if isinstance(out, tuple | list) else [out]
        ends = [o for o in outs if isinstance(o, mt.Tensor) and o.requires_grad]
        leaves = [arguments[i] for i in wrt]
        if cotangents is None or not ends:
            return outs, [o.shape for o in ends], ()
        return outs, ends, mt.grad(ends, leaves, cotangents, allow_unused=True)

    def given_as(change):
        return tuple(
            mt.tensor(change(value)) if array else value
            for value, array in zip(drawn, arrays, strict=True)
        )

    one, other = given_as(np.copy), given_as(lambda a: a.reshape(-1)[::-1].reshape(a.shape).copy())
    rng = np.random.default_rng(0)
    shapes = step(one, call.options, None)[1]
    cotangents = [mt.tensor(rng.standard_normal(shape)) for shape in shapes]
    captured = mt.capture(step)
    for arguments in (one, one, one, other, one):
        try:
            expected = step(arguments, call.options, cotangents)
        except (ValueError, IndexError, TypeError):
            assume(False)
        assert bits(captured(arguments, call.options, cotangents)) == bits(expected)


def test_what_has_no_numbers_takes_no_call():
    captured = mt.capture(lambda x: x[:0].sum() + mt.concatenate([x * 2, x[:0] * 3]).sum())
    assert third(captured, mt.ones(2)).item() == 4
    assert "3" not in re.sub(r"[a-z]\d+", "", captured.source())


def bits(value):
    if isinstance(value, mt.Tensor):
        return value.shape, str(value.dtype), value.data.tobytes()
    return tuple(map(bits, value)) if isinstance(value, tuple | list) else value


# -- what cannot be captured


def third(step, *args):
    for _ in range(2):
        step(*args)
    return step(*args)


@pytest.mark.parametrize(
    ("look", "how"),
    [
        (lambda y: y.item(), r"\.item\(\)"),
        (float, r"float\(\)"),
        (lambda y: y.numpy(), r"\.numpy\(\)"),
        (lambda y: y.data.tolist(), r"\.tolist\(\)"),
        (lambda y: np.asarray(y.data), "NumPy array"),
        (int, r"int\(\)"),
    ],
)
def test_numbers_are_not_to_be_had_inside(look, how):
    def step(x):
        y = x.sum()
        look(y)
        return y

    with pytest.raises(mt.CaptureError, match=how):
        third(mt.capture(step), mt.ones(2))


def test_a_tensor_that_it_was_not_told_of_is_refused():
    weight = mt.ones(2, requires_grad=True)
    with pytest.raises(mt.CaptureError, match=r"not told of.*mt\.capture\(step, model"):
        third(mt.capture(lambda x: weight * x), mt.ones(2))
    model = nn.Linear(2, 1)
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    def step(x):
        (x * 2).sum()
        optimizer.step()

    with pytest.raises(mt.CaptureError, match="SGD has parameters"):
        third(mt.capture(step), mt.ones(2))
    with pytest.raises(TypeError, match="modules, optimizers and tensors beside the function"):
        mt.capture(step, 3)


@pytest.mark.parametrize(
    "take", [lambda x: x[x > 0], lambda x: mt.tensor(x.data.nonzero()[0])], ids=["mask", "nonzero"]
)
def test_shapes_of_numbers_are_refused(take):
    with pytest.raises(mt.CaptureError, match="how many numbers come out"):
        third(mt.capture(take), mt.ones(2))


def test_a_decision_after_the_update_is_refused():
    model = nn.Linear(2, 1)
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    def step(x):
        loss = model(x).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return 1 if loss > 0 else 0

    with pytest.raises(mt.CaptureError, match="after the parameters have been changed"):
        third(mt.capture(step, model, optimizer), mt.ones(3, 2))


def test_a_tensor_that_was_kept_says_so():
    kept = []

    def step(x):
        kept.append(x * 2)
        return x

    third(mt.capture(step), mt.ones(2))
    with pytest.raises(mt.CaptureError, match="after the step had ended"):
        kept[-1] + 1


def test_too_many_shapes_are_refused():
    def lengthen(captured):
        for n in range(1, 40):
            third(captured, mt.ones(n))

    def count(captured):
        for n in range(1000):
            captured(mt.ones(2), 1.0 * n)

    with pytest.raises(mt.CaptureError, match="too many different shapes"):
        lengthen(mt.capture(lambda x: x * 2))
    with pytest.raises(mt.CaptureError, match="pass what changes as a tensor"):
        count(mt.capture(lambda x, c: x * c))
    with pytest.raises(TypeError, match="hashable"):
        mt.capture(lambda x, c: x)(mt.ones(2), bytearray(2))


def test_the_text_is_a_call_a_line():
    weight = mt.tensor([2.0, -1.0], requires_grad=True)
    captured = mt.capture(lambda x: mt.tanh(weight * x), weight)
    assert captured.source() == ""
    third(captured, mt.ones(2))
    text = re.sub(r"\d+", "", captured.source())
    assert text.splitlines() == [
        "def step(x):",
        "    a[...] = x",
        "    multiply(a, a, a)",
        "    tanh(a, a)",
        "    return wrap(a.copy())",
    ]


# -- what goes on around a step


def twice(make, calls):
    """The results of a step and of its captured twin; `make` gives the step and what it holds."""
    step, _ = make()
    other, holders = make()
    captured = mt.capture(other, *holders)
    for args in calls:
        assert bits(captured(*args)) == bits(mt.detach(step(*args)))
    assert captured.source()


def inputs_of(*shape, count=8):
    rng = np.random.default_rng(0)
    return [(mt.tensor(rng.standard_normal(shape).astype(np.float32)),) for _ in range(count)]


def drawn(*shape, seed):
    rng = np.random.default_rng(seed)
    return mt.tensor(rng.standard_normal(shape).astype(np.float32), requires_grad=True)


def test_gradients_that_lie_in_another_order_are_not_those_of_the_first_step():
    def make():
        w, u = drawn(4, 4, seed=1), drawn(4, 2, seed=2)
        optimizer = optim.SGD([w, u], lr=0.1)

        def step(x):
            h = mt.zeros(5, 4)
            for part in mt.unstack(x):
                h = mt.tanh(part @ u.T + h @ w.T)
            loss = (h**2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        return step, [optimizer]

    twice(make, inputs_of(3, 5, 2))


@pytest.mark.parametrize("driver", DRIVER)
def test_programs_of_the_same_sizes_share_no_memory(driver):
    def make():
        models = [nn.LSTM(2, 3, generator=mt.Generator(seed)) for seed in range(2)]
        optimizer = optim.SGD([p for model in models for p in model.parameters()], lr=0.1)

        def step(x, which, whose):
            y, (_, c) = models[whose](x)
            loss = ((y if which == "y" else c) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        return step, [*models, optimizer]

    cases = itertools.cycle([("y", 0), ("c", 0), ("c", 1), ("y", 1)])
    with mt.recurrence.driver(driver):
        twice(make, [(*x, *next(cases)) for x in inputs_of(4, 2, 2, count=24)])


@pytest.mark.parametrize("driver", DRIVER)
def test_a_write_of_a_number_is_made_again_where_others_write_too(driver):
    def make():
        w = mt.tensor([1.0, 2.0], requires_grad=True)
        gru = nn.GRU(2, 3, generator=mt.Generator(0))
        held = mt.zeros(2)
        optimizer = optim.SGD([w], lr=0.1)

        def step(x):
            loss = ((w * x) ** 2).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with mt.no_grad():
                w[0] = 0.5
                out = gru(x)[0]
                out[0] = 0
                held[...] = 0
                held[...] = held + x[0]
            return loss, out.sum(), held

        return step, [optimizer, gru, held]

    with mt.recurrence.driver(driver):
        twice(make, inputs_of(4, 2))


def test_states_and_weights_that_lie_in_another_order():
    def make():
        gru = nn.GRU(2, 3, num_layers=2, generator=mt.Generator(0))
        gru.weight_hh_l0.data = np.asfortranarray(gru.weight_hh_l0.data)
        optimizer = optim.Adam(gru.parameters(), lr=0.1)

        def step(x, h):
            loss = (gru(x, mt.swapaxes(h, 0, 1))[0] ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        return step, [gru, optimizer]

    states = inputs_of(4, 2, 3)
    twice(make, [(*x, *h) for x, h in zip(inputs_of(5, 4, 2), states, strict=True)])


def test_the_norm_that_gradients_are_clipped_to_is_rounded_alike():
    def make():
        w = drawn(40, seed=0)
        optimizer = optim.SGD([w], lr=0.1)

        def step(x, p):
            loss = ((w * x) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_([w], 0.01, p)
            optimizer.step()
            return loss, norm, w**0.5, w ** (1 / 3)

        return step, [optimizer]

    with np.errstate(invalid="ignore"):
        twice(make, [(*x, p) for x in inputs_of(40, count=40) for p in (2.0, 3.0)])


def test_numbers_that_are_equal_and_not_the_same_are_other_steps():
    step = lambda x, c: (x * c, x / c)  # noqa: E731
    captured = mt.capture(step)
    for dtype in (np.int64, np.float32):
        x = mt.tensor(np.arange(1, 3, dtype=dtype))
        for c in (1, 1.0, True, np.float32(1), np.float64(1), -1.0) * 3:
            assert bits(captured(x, c)) == bits(step(x, c))


def test_what_the_modules_and_the_optimizer_are_made_of_may_change():
    def make():
        model = nn.Sequential(nn.Linear(2, 2, generator=mt.Generator(0)), nn.Dropout(0.5))
        extra = mt.tensor([1.0, 2.0], requires_grad=True)
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        seen = []

        def step(x):
            loss = ((model(x) * extra) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append(None)
            return loss

        def call(x, what):
            if what == "grown":
                optimizer.add_param_group({"params": [extra]})
            if what == "replaced":
                vars(model)["0"] = nn.Linear(2, 2, generator=mt.Generator(1))
            return inner(x)

        model.eval()
        inner = step
        return step, call, [model, extra, optimizer], model, optimizer, extra

    (step, _, _, model, optimizer, extra), (other, _, holders, twin, theirs, more) = make(), make()
    captured = mt.capture(other, *holders)
    for i, x in enumerate(inputs_of(3, 2, count=16)):
        if i == 5:
            optimizer.add_param_group({"params": [extra]})
            theirs.add_param_group({"params": [more]})
        if i == 10:
            for one in (model, twin):
                [first, *_] = [name for name, _ in one.named_children()]
                setattr(one, first, nn.Linear(2, 2, generator=mt.Generator(1)))
        assert bits(captured(*x)) == bits(mt.detach(step(*x)))


def test_training_and_evaluation_may_take_turns():
    model, runs = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), []

    def step(x):
        runs.append(None)
        return model(x).sum()

    captured = mt.capture(step, model)
    for [x] in inputs_of(3, 2, count=20):
        model.train(not model.training)
        captured(x)
    assert len(runs) == 4, "two as they stand, and one noted for either"


def test_inputs_in_another_order_are_another_step():
    weight = drawn(5, 3, seed=0)
    step = lambda x: mt.linear(x, weight)  # noqa: E731
    captured = mt.capture(step, weight)
    for i, [x] in enumerate(inputs_of(20, 4, 3, count=12)):
        turned = mt.Tensor(np.asfortranarray(x.data)) if i % 2 else x
        assert bits(captured(turned)) == bits(step(turned).detach())


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ("argument", "changes an argument in place"),
        ("data", "another array in the place of a tensor's `data`"),
        ("attribute", "another tensor or module in the place of an attribute of Linear"),
        ("rate", "changes a hyperparameter"),
        ("labels", "labels that a captured step was not told of"),
        ("indices", "indices that a captured step was not told of"),
        ("index", "an index that a captured step was not told of"),
        ("array", "array of NumPy's that a captured step was not told of"),
        ("tensor", "argument 'b' of multiply: a tensor"),
        ("made", r"mt\.tensor of an array"),
        ("weight", "cross_entropy with weights of classes"),
        ("ignored", "cross_entropy with labels to be ignored"),
        ("lengths", "a layer with lengths"),
        ("truth", "allclose"),
    ],
)
def test_what_is_refused_leaves_everything_as_it_was(what, match):
    model, table = nn.Linear(2, 2), nn.Embedding(3, 2)
    rnn = nn.RNN(2, 2)
    held = mt.zeros(2)
    optimizer = optim.Adam([*model.parameters(), *table.parameters(), *rnn.parameters()], lr=0.1)
    [group] = optimizer.param_groups
    labels, numbers_ = np.array([0, 1, 1]), np.ones(2, np.float32)

    more = {
        "argument": lambda out, y, x: x.data.fill(0),
        "data": lambda out, y, x: setattr(held, "data", held.data + 1),
        "attribute": lambda out, y, x: setattr(model, "bias", nn.Parameter(numbers_)),
        "rate": lambda out, y, x: group.update(lr=group["lr"] / 2),
        "labels": lambda out, y, x: nn.functional.cross_entropy(out, labels),
        "indices": lambda out, y, x: table(mt.Tensor(labels)),
        "index": lambda out, y, x: out[labels],
        "array": lambda out, y, x: out.data * numbers_,
        "tensor": lambda out, y, x: out.data * mt.Tensor(numbers_),
        "made": lambda out, y, x: mt.tensor(numbers_),
        "weight": lambda out, y, x: nn.functional.cross_entropy(out, y, weight=held + 1),
        "ignored": lambda out, y, x: nn.functional.cross_entropy(out, y, ignore_index=1),
        "lengths": lambda out, y, x: rnn(mt.ones(3, 3, 2), lengths=labels + 1),
        "truth": lambda out, y, x: mt.engine.namespaces[out.data.__class__].allclose(out.data, 0),
    }

    def step(x, y):
        out = model(x)
        if what in ("weight", "ignored"):  # which look at labels, before the update
            more[what](out, y, x)
        loss = nn.functional.cross_entropy(out, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        held[...] = held + 1
        if what not in ("weight", "ignored"):
            more[what](out, y, x)

    captured = mt.capture(step, model, table, rnn, optimizer, held)
    x, y = mt.ones(3, 2), mt.tensor(np.array([0, 1, 0]))
    for _ in range(2):
        captured(mt.tensor(x), y)
    everything = [*model.parameters(), *rnn.parameters(), held]
    parts = vars(model).copy()
    before, state = numbers(everything), numbers(list(optimizer.state_dict().values()))
    for _ in range(2):
        with pytest.raises(mt.CaptureError, match=match):
            captured(mt.tensor(x), y)
    assert numbers(everything) == before
    assert numbers(list(optimizer.state_dict().values())) == state
    assert all(vars(model)[name] is part for name, part in parts.items())


def test_arguments_that_need_a_gradient_are_refused_at_once():
    captured = mt.capture(lambda x: x.sum())
    for x in (mt.ones(2, requires_grad=True), mt.ones(2, requires_grad=True) * 2):
        with pytest.raises(mt.CaptureError, match="arguments of a captured step are constants"):
            captured({"x": x})


def test_another_driver_is_another_step():
    model = nn.LSTM(3, 5, generator=mt.Generator(0))
    captured = mt.capture(lambda x: model(x)[0], model)
    for [x] in inputs_of(4, 2, 3):
        for driver in ("steps", "arrays"):
            with mt.recurrence.driver(driver):
                assert bits(captured(x)) == bits(model(x)[0].detach())
