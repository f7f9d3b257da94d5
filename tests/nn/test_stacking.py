"""Trials as an axis: a stack of K models ends where K separate runs end, and refuses the rest."""

import copy
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optim.test_optimizers import VARIANTS
from recurrence.layers import EVERY, STEPS, as_state, build, build_cell, host, parts, spread
from recurrence.test_fused import is_fused

import microtensor as mt
from microtensor import nn, optim
from microtensor.nn.utils import clip_grad_norm_, clip_grad_value_
from microtensor.recurrence import driver, memory_cell, memory_cell_bptt
from microtensor.testing import check_grads

# All different, so that no axis goes unnoticed.
K, T, B, I, H, O = 3, 5, 2, 4, 7, 6
UPDATES = 10

seeds = st.integers(0, 2**32 - 1)
fewer = settings(max_examples=max(settings().max_examples // 4, 4))


def sgd(parameters):
    return optim.SGD(parameters, lr=0.05)


def of_trial(value, k):
    """The input of trial k, of the stack's."""
    if isinstance(value, tuple):
        return tuple(of_trial(item, k) for item in value)
    return None if value is None else value[k]


def train(model, batches, loss, make_optimizer=sgd, clip=None):
    """Ten updates; what was seen in them: losses, and what clipping returned."""
    optimizer = make_optimizer(list(model.parameters()))
    seen = []
    for inputs, target in batches:
        optimizer.zero_grad()
        value = loss(model(*inputs), target)
        value.sum().backward()
        seen.append(host(value))
        if clip is not None:
            norm = clip(model.parameters())
            if norm is not None:
                seen.append(host(norm))
        optimizer.step()
    return seen


def assert_a_stack_trains_as_separate_runs(
    models, batches, loss=nn.MSELoss, make_optimizer=sgd, clip=None
):
    """`batches` are the stack's; `loss` is made with a reduction."""
    before = [host(p).copy() for p in models[0].parameters()]
    stacked = nn.stack(copy.deepcopy(models))
    seen = train(stacked, batches, loss(reduction="trial"), make_optimizer, clip)
    for k, (model, unstacked) in enumerate(zip(models, nn.unstack(stacked), strict=True)):
        mine = [(of_trial(inputs, k), of_trial(target, k)) for inputs, target in batches]
        alone = train(model, mine, loss(reduction="mean"), make_optimizer, clip)
        for together, value in zip(seen, alone, strict=True):
            np.testing.assert_allclose(together[k], value, rtol=1e-10, atol=1e-12)
        state = unstacked.state_dict()
        assert list(state) == list(model.state_dict())
        for name, value in model.state_dict().items():
            np.testing.assert_allclose(
                host(state[name]), host(value), rtol=1e-10, atol=1e-10, err_msg=name
            )
    moved = [np.any(a != host(b)) for a, b in zip(before, models[0].parameters(), strict=True)]
    assert any(moved) or not before


def batches_of(draw, target):
    return [(draw(), mt.tensor(target())) for _ in range(UPDATES)]


# -- plain layers


def linear(k):
    return nn.Linear(I, O, dtype="float64", generator=mt.Generator(k))


def embedding(k):
    return nn.Embedding(I, O, padding_idx=1, dtype="float64", generator=mt.Generator(k))


def network(k):
    generator = mt.Generator(k)
    return nn.Sequential(
        nn.Embedding(9, I, dtype="float64", generator=generator),
        nn.Dropout(0.3, generator=generator),
        nn.Linear(I, H, dtype="float64", generator=generator),
        nn.Tanh(),
        nn.ModuleList([nn.Linear(H, H, bias=False, dtype="float64", generator=generator)])[0],
        nn.ReLU(),
        nn.Dropout(0.5, generator=generator),
        nn.Linear(H, O, dtype="float64", generator=generator),
        nn.Sigmoid(),
    )


@pytest.mark.parametrize("lead", [(), (B,), (T, B), (2, T, B)], ids=str)
@pytest.mark.parametrize("model", [linear, embedding, network])
def test_plain_layers(model, lead):
    rng = np.random.default_rng(len(lead))
    words = {embedding: I, network: 9}.get(model)

    def draw():
        if words is None:
            return (mt.tensor(rng.normal(size=(K, *lead, I))),)
        return (rng.integers(0, words, (K, *lead)),)

    batches = batches_of(draw, lambda: rng.normal(size=(K, *lead, O)))
    assert_a_stack_trains_as_separate_runs([model(k) for k in range(K)], batches)


def test_dropout_draws_what_each_trial_would_draw_alone():
    generators = [mt.Generator(k) for k in range(K)]
    alone = [nn.Dropout(0.4, generator=mt.Generator(k)) for k in range(K)]
    stacked = nn.stack([nn.Dropout(0.4, generator=g) for g in generators])
    assert stacked.generator == tuple(generators)
    x = mt.ones((K, T, B))
    for _ in range(3):
        y = stacked(x)
        for k in range(K):
            np.testing.assert_array_equal(host(y)[k], host(alone[k](x[k])))
    assert stacked.eval()(x) is x


# -- losses


def probabilities(rng, *shape):
    p = rng.uniform(0.1, 1.0, (*shape, O))
    return p / p.sum(-1, keepdims=True)


def some_labels(rng, *shape):
    labels = rng.integers(0, O, shape)
    labels[:, 0] = 1  # of each trial one that is not ignored
    return labels


LOSSES = {
    "mse": (nn.MSELoss, lambda rng, *shape: rng.normal(size=(*shape, O))),
    "l1": (nn.L1Loss, lambda rng, *shape: rng.normal(size=(*shape, O))),
    "bce": (nn.BCELoss, lambda rng, *shape: rng.uniform(size=(*shape, O))),
    "bce_logits": (nn.BCEWithLogitsLoss, lambda rng, *shape: rng.integers(0, 2, (*shape, O))),
    "cross_entropy": (lambda reduction: nn.CrossEntropyLoss(None, 4, reduction, axis=-1), None),
    "cross_entropy_weighted": (
        lambda reduction: nn.CrossEntropyLoss(
            mt.tensor(np.arange(1.0, O + 1)), 4, reduction, axis=-1
        ),
        None,
    ),
    "cross_entropy_soft": (
        lambda reduction: nn.CrossEntropyLoss(reduction=reduction, axis=-1),
        probabilities,
    ),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("lead", [(T,), (T, B)], ids=str)
def test_losses(name, lead):
    loss, target = LOSSES[name]
    target = some_labels if target is None else target
    rng = np.random.default_rng(3)
    models = [nn.Sequential(linear(k), nn.Sigmoid()) for k in range(K)]
    batches = batches_of(
        lambda: (mt.tensor(rng.normal(size=(K, *lead, I))),), lambda: target(rng, K, *lead)
    )
    assert_a_stack_trains_as_separate_runs(models, batches, loss)


class Judged(nn.Module):
    """A network and its loss as one module."""

    knows_trials = True

    def __init__(self, k, loss):
        self.net = linear(k)
        self.loss = loss

    def forward(self, x, target):
        return self.loss(self.net(x), target)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("axis", [1, -1])
def test_a_loss_inside_a_stack_reduces_for_each_trial(reduction, axis):
    rng = np.random.default_rng(4)

    def cross_entropy(k):
        weight = mt.tensor(np.random.default_rng(k).uniform(0.5, 2.0, O))
        return nn.CrossEntropyLoss(weight, 4, reduction, axis=axis)

    x, labels = mt.tensor(rng.normal(size=(K, T, I))), some_labels(rng, K, T)
    numbers = mt.tensor(rng.uniform(size=(K, T, O)))
    for make, target in ((cross_entropy, labels), (lambda k: nn.MSELoss(reduction), numbers)):
        models = [Judged(k, make(k)) for k in range(K)]
        together = nn.stack(models)(x, target)
        for k, model in enumerate(models):
            np.testing.assert_allclose(host(together[k]), host(model(x[k], target[k])), rtol=1e-12)


def test_a_loss_for_each_trial_needs_an_axis_of_trials():
    with pytest.raises(ValueError, match="needs a first axis"):
        nn.functional.mse_loss(mt.tensor(1.0), mt.tensor(2.0), "trial")
    with pytest.raises(ValueError, match=r"trials and cannot be the classes.*axis=-1"):
        nn.functional.cross_entropy(mt.zeros((3,)), np.array(1), reduction="trial")
    with pytest.raises(ValueError, match=r"must be \(6,\), a factor for each class, or \(3, 6\)"):
        nn.functional.cross_entropy(
            mt.zeros((3, 5, 6)), np.zeros((3, 5), int), mt.ones((2, 6)), reduction="trial", axis=-1
        )
    with pytest.raises(ValueError, match=r"must be \(6,\), a factor for each class$"):
        nn.functional.cross_entropy(mt.zeros((1, 6)), np.zeros(1, int), mt.ones((1, 6)))
    one = nn.functional.mse_loss(mt.ones(3), mt.zeros(3), "trial")
    assert one.shape == (3,)
    labels = np.zeros(3, int)
    one = nn.functional.cross_entropy(mt.zeros((3, 6)), labels, None, -100, "trial", -1)
    assert one.shape == (3,)
    empty = nn.functional.cross_entropy(
        mt.zeros((0, 2, 6)), np.zeros((0, 2), int), reduction="trial", axis=-1
    )
    assert empty.shape == (0,)


# -- clipping and optimizers

CLIPPERS = {
    **{f"norm {p}": lambda ps, p=p: clip_grad_norm_(ps, 0.3, p) for p in (0.5, 1.0, 2.0, math.inf)},
    "value": lambda ps: clip_grad_value_(ps, 0.05),
}


def recurrent_network(k, kind="lstm", inputs=I, **options):
    generator = mt.Generator((k, 1))
    return Reader(build(kind, inputs, H, generator=generator, **options), generator)


class Reader(nn.Module):
    """A recurrent layer, and a reading of all its steps and of its last state."""

    knows_trials = True

    def __init__(self, layer, generator):
        self.layer = layer
        width = layer.hidden_size * layer.directions
        self.readout = nn.Linear(width, O, dtype="float64", generator=generator)

    def forward(self, x, state=None, lengths=None):
        outputs, final = self.layer(x, state, lengths)
        total = sum(mt.mean(value, axis=(-3, -1)) for value in parts(final))  # (..., B)
        steps, batch = (-2, -3) if self.layer.batch_first else (-3, -2)
        assert total.shape[-1] == x.shape[batch]
        return self.readout(outputs) + mt.expand_dims(total, (steps, -1))


def sequences(rng, **more):
    return batches_of(
        lambda: (mt.tensor(rng.normal(size=(K, T, B, I))),),
        lambda: rng.normal(size=(K, T, B, O)),
    )


@pytest.mark.parametrize("name", CLIPPERS)
def test_clippers(name):
    """The trials' gradients differ in size by orders of magnitude: one norm for all would show."""
    models = [recurrent_network(k) for k in range(K)]
    for k, model in enumerate(models):
        model.readout.weight.data *= 10.0**k
    batches = sequences(np.random.default_rng(5))
    assert_a_stack_trains_as_separate_runs(models, batches, clip=CLIPPERS[name])


@pytest.mark.parametrize("name", VARIANTS)
def test_optimizers(name):
    kind, options = VARIANTS[name]
    models = [recurrent_network(k, "gru") for k in range(K)]
    batches = sequences(np.random.default_rng(6))
    assert_a_stack_trains_as_separate_runs(
        models, batches, make_optimizer=lambda parameters: kind(parameters, **options)
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_a_learning_rate_for_each_trial(name):
    """Trial 1 rests, with the bits that it has."""
    kind, options = VARIANTS[name]
    rates = [0.01, 0.0, 0.1]
    rng = np.random.default_rng(7)
    x, target = mt.tensor(rng.normal(size=(K, B, I))), mt.tensor(rng.normal(size=(K, B, O)))
    models = [linear(k) for k in range(K)]
    stacked = nn.stack(models)
    together = kind(stacked.parameters(), **{**options, "lr": rates})
    for _ in range(3):
        together.zero_grad()
        nn.MSELoss("trial")(stacked(x), target).sum().backward()
        together.step()
    resting = models[1].weight.data.tobytes()
    for k, model in enumerate(models):
        alone = kind(model.parameters(), **{**options, "lr": rates[k]})
        for _ in range(3):
            alone.zero_grad()
            nn.MSELoss()(model(x[k]), target[k]).backward()
            alone.step()
        for mine, value in zip(stacked.parameters(), model.parameters(), strict=True):
            np.testing.assert_allclose(mine.data[k], value.data, rtol=1e-12)
    assert stacked.weight.data[1].tobytes() == resting
    # Saved and loaded, it goes on with its three rates.
    other = kind(stacked.parameters(), **options)
    other.load_state_dict(together.state_dict())
    assert tuple(other.param_groups[0]["lr"]) == tuple(rates)
    other.step()
    assert stacked.weight.data[1].tobytes() == resting


def test_learning_rates_that_do_not_fit_are_refused():
    stacked, single = nn.stack([linear(k) for k in range(K)]), linear(0)
    with pytest.raises(ValueError, match=r"lr has 2 numbers.*parameter 0 is of a stack of 3"):
        optim.SGD(stacked.parameters(), lr=[0.1, 0.2])
    with pytest.raises(ValueError, match=r"lr has 3 numbers.*is not of a stack"):
        optim.Adam(single.parameters(), lr=np.ones(3))
    with pytest.raises(ValueError, match=r"lr\[1\] must be at least 0"):
        optim.SGD(stacked.parameters(), lr=(0.1, -1.0, 0.1))
    with pytest.raises(ValueError, match="lr must be a number, got 'fast'"):
        optim.SGD(stacked.parameters(), lr="fast")
    optimizer = optim.SGD(stacked.parameters())
    optimizer.param_groups[0]["lr"] = (0.1, 0.2)
    stacked.weight.grad = mt.ones((K, O, I), dtype="float64")
    with pytest.raises(ValueError, match="lr has 2 numbers"):
        optimizer.step()


def test_parameters_of_different_stacks_have_no_norm_in_common():
    stacked, single = nn.stack([linear(k) for k in range(K)]), linear(0)
    assert clip_grad_norm_(stacked.parameters(), 1.0).shape == (K,)
    with pytest.raises(ValueError, match=r"different numbers of trials \(3, None\)"):
        clip_grad_norm_([*stacked.parameters(), *single.parameters()], 1.0)
    for parameter in stacked.parameters():
        parameter.grad = mt.tensor(np.full(parameter.shape, np.nan))
        parameter.grad.data[1] = 0.0
    with pytest.raises(RuntimeError, match=r"norm is \[nan, 0.0, nan\]"):
        clip_grad_norm_(stacked.parameters(), 1.0, error_if_nonfinite=True)
    clip_grad_norm_(stacked.parameters(), 1.0)
    assert not stacked.weight.grad.data[1].any()  # a trial that fails spoils no other


# -- recurrent layers


@fewer
@given(
    kind=st.sampled_from(EVERY),
    seed=seeds,
    options=st.fixed_dictionaries(
        {
            "num_layers": st.integers(1, 2),
            "bidirectional": st.booleans(),
            "batch_first": st.booleans(),
            "bias": st.sampled_from([True, False, "single"]),
            "dropout": st.sampled_from([0.0, 0.3]),
            "recurrent_dropout": st.sampled_from([0.0, 0.4]),
        }
    ),
    padded=st.booleans(),
    with_state=st.booleans(),
)
def test_recurrent_layers(kind, seed, options, padded, with_state):
    rng = np.random.default_rng(seed)
    models = [recurrent_network(k, kind, **options) for k in range(K)]
    layer = models[0].layer
    order = (K, B, T) if options["batch_first"] else (K, T, B)

    def draw():
        state = None
        if with_state:
            shape = (K, layer.num_layers * layer.directions, B, H)
            state = as_state([rng.normal(size=shape) for _ in layer.cell.state])
        lengths = rng.integers(1, T + 1, (K, B)) if padded else None
        return mt.tensor(rng.normal(size=(*order, I))), state, lengths

    # Clipped, because a run that diverges magnifies the last bit too.
    batches = batches_of(draw, lambda: rng.normal(size=(*order, O)))
    assert_a_stack_trains_as_separate_runs(models, batches, clip=CLIPPERS["norm 2.0"])


def run(layer, x, state, lengths, cotangents):
    """Outputs, last states and all gradients."""
    state = tuple(mt.tensor(value, requires_grad=True) for value in state)
    x = mt.tensor(x, requires_grad=True)
    output, final = layer(x, state if len(state) > 1 else state[0], lengths)
    results = [output, *parts(final)]
    wanted = [x, *state, *layer.parameters()]
    total = sum((r * c).sum() for r, c in zip(results, cotangents, strict=False))
    return [host(r) for r in results], [host(g) for g in mt.grad(total, wanted)]


@fewer
@given(
    kind=st.sampled_from([kind for kind in EVERY if kind != "gru_before"]),
    seed=seeds,
    batch=st.integers(1, 3),
    steps=st.sampled_from([1, 4, 70]),
    reverse=st.booleans(),
    padded=st.booleans(),
    dropped=st.booleans(),
    batch_first=st.booleans(),
    finals=st.booleans(),
)
def test_fused_and_step_by_step(
    kind, seed, batch, steps, reverse, padded, dropped, batch_first, finals
):
    """A stack's one operation against the loop; longer than what goes backward at once, too."""
    rng = np.random.default_rng(seed)
    options = {
        "bidirectional": reverse,
        "batch_first": batch_first,
        "recurrent_dropout": 0.4 if dropped else 0.0,
    }
    generators = [mt.Generator(k) for k in range(K)]
    stacked = nn.stack([build(kind, I, H, generator=g, **options) for g in generators])
    shape = (batch, steps) if batch_first else (steps, batch)
    x = rng.normal(size=(K, *shape, I))
    state = [rng.normal(size=(K, 1 + reverse, batch, H)) for _ in stacked.cell.state]
    lengths = rng.integers(1, steps + 1, (K, batch)) if padded else None
    cotangents = [rng.normal(size=(K, *shape, H * (1 + reverse)))]
    cotangents += [rng.normal(size=value.shape) for value in state] if finals else []
    found = []
    for name in ("arrays", "steps"):
        for k, generator in enumerate(generators):
            generator.manual_seed(k)
        with driver(name):
            found.append(run(stacked, x, state, lengths, cotangents))
    for together, by_steps in zip(*found, strict=True):
        for a, b in zip(together, by_steps, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10 * max(1, abs(b).max()))


def test_a_stack_s_sequence_is_one_operation_with_derivatives_of_any_order(backend):
    rng = np.random.default_rng(12)
    with backend():
        stacked = nn.stack([build("lstm", I, H) for _ in range(K)])
    x = backend.tensor(rng.normal(size=(K, 2, B, I)))
    check_grads(lambda x: stacked(x)[0], x, order=2 if backend.name == "numpy" else 1)
    output, _ = stacked(x)
    assert is_fused(output)


@pytest.mark.parametrize("kind", [memory_cell, memory_cell_bptt], ids=lambda kind: kind.name)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "recurrent_dropout": 0.4}], ids=str)
def test_memory_cells_in_blocks(kind, options):
    rng = np.random.default_rng(11)
    width = 6  # three blocks of two

    def model(k):
        g = mt.Generator(k)
        layer = nn.Recurrent(kind, I, width, block_size=2, dtype="float64", generator=g, **options)
        return Reader(layer, g)

    models = [model(k) for k in range(K)]
    layer = models[0].layer

    def draw():
        widths = [kind.width(name, width, 2) for name in kind.state]
        state = [rng.normal(size=(K, layer.num_layers, B, n)) for n in widths]
        return mt.tensor(rng.normal(size=(K, T, B, I))), as_state(state)

    batches = batches_of(draw, lambda: rng.normal(size=(K, T, B, O)))
    assert_a_stack_trains_as_separate_runs(models, batches)


class ByHand(nn.Module):
    """A loop over a module of one step, without a batch."""

    knows_trials = True

    def __init__(self, kind, k):
        self.cell = build_cell(kind, I, H, generator=mt.Generator(k))
        self.readout = nn.Linear(H, O, dtype="float64", generator=mt.Generator(k))

    def forward(self, xs):
        state, outputs = None, []
        for x in mt.unstack(xs, axis=-2):
            state = self.cell(x, state)
            outputs.append(self.readout(parts(state)[0]))
        return mt.stack(outputs, axis=-2)


@pytest.mark.parametrize("kind", STEPS)
def test_single_steps_by_hand_and_in_a_layer(kind):
    rng = np.random.default_rng(8)
    batches = batches_of(
        lambda: (mt.tensor(rng.normal(size=(K, T, I))),), lambda: rng.normal(size=(K, T, O))
    )
    assert_a_stack_trains_as_separate_runs([ByHand(kind, k) for k in range(K)], batches)

    def layer(k):
        cell = build_cell(kind, I, H, generator=mt.Generator(k))
        return Reader(nn.Recurrent(cell), mt.Generator(k))

    assert_a_stack_trains_as_separate_runs([layer(k) for k in range(K)], sequences(rng))


@pytest.mark.parametrize("kind", EVERY)
def test_one_sequence_a_trial_without_a_batch_axis(kind):
    rng = np.random.default_rng(9)
    stacked = nn.stack([spread(build(kind, I, H, num_layers=2), rng) for _ in range(K)])
    x = mt.tensor(rng.normal(size=(K, T, I)))
    state = [rng.normal(size=(K, 2, 1, H)) for _ in stacked.cell.state]
    alone = as_state([value[:, :, 0] for value in state])
    output, final = stacked(x, alone)
    batched, batched_final = stacked(mt.expand_dims(x, -2), as_state(state))
    np.testing.assert_array_equal(host(output), host(batched)[:, :, 0])
    for a, b in zip(parts(final), parts(batched_final), strict=True):
        assert a.shape == (K, 2, H)
        np.testing.assert_array_equal(host(a), host(b)[:, :, 0])


# -- what a stack is


def test_shapes_names_and_trials():
    models = [recurrent_network(k, num_layers=2) for k in range(K)]
    stacked = nn.stack(models)
    assert type(stacked) is Reader
    assert {module.trials for module in stacked.modules()} == {K}
    assert {parameter.trials for parameter in stacked.parameters()} == {K}
    assert {parameter.trials for parameter in models[0].parameters()} == {None}
    assert models[0].trials is None
    for (name, value), (own, alone) in zip(
        stacked.state_dict().items(), models[0].state_dict().items(), strict=True
    ):
        assert (name, value.shape) == (own, (K, *alone.shape))
    assert repr(stacked.readout) == "Linear(in_features=7, out_features=6, bias=True, trials=3)"
    copied = copy.deepcopy(stacked)
    assert {parameter.trials for parameter in copied.parameters()} == {K}


def test_a_stack_is_independent_of_what_it_was_made_of():
    models = [linear(k) for k in range(K)]
    stacked = nn.stack(models)
    stacked.weight.data[...] = 7.0
    assert not np.any(models[0].weight.data == 7.0)
    alone = nn.unstack(stacked)
    alone[1].weight.data[...] = 8.0
    assert np.all(stacked.weight.data == 7.0)
    assert [model.trials for model in alone] == [None] * K
    nn.stack(alone)  # and back


def test_what_is_used_twice_stays_one():
    def tied(k):
        model = nn.Sequential(linear(k), nn.Tanh(), nn.Linear(O, I, dtype="float64"))
        model.append(model[0])
        model[2].bias = model[2].bias if k < 9 else model[0].bias
        return model

    stacked = nn.stack([tied(k) for k in range(K)])
    assert stacked[3] is stacked[0]
    assert len(list(stacked.parameters())) == 4
    back = nn.unstack(stacked)[2]
    assert back[3] is back[0]
    rng = np.random.default_rng(10)
    batches = batches_of(
        lambda: (mt.tensor(rng.normal(size=(K, B, I))),), lambda: rng.normal(size=(K, B, O))
    )
    assert_a_stack_trains_as_separate_runs([tied(k) for k in range(K)], batches)
    apart = nn.Sequential(linear(0), nn.Tanh(), nn.Linear(O, I, dtype="float64"), linear(1))
    with pytest.raises(ValueError, match=r"3: it is one with other attributes in some"):
        nn.stack([tied(0), apart])


def test_frozen_parameters_buffers_and_slices_stay_what_they_are():
    class Scaled(nn.Module):
        knows_trials = True

        def __init__(self, k):
            self.net = linear(k)
            self.net.bias.requires_grad_(False)
            self.register_buffer("scale", mt.tensor([1.0 + k]))
            self.register_buffer("nothing", None)
            self.constant = mt.tensor([2.0])  # saved with no model, the same for all trials
            self.table = np.arange(3)

        def forward(self, x):
            return self.net(x) * mt.expand_dims(self.scale, -2) * self.constant

    stacked = nn.stack([Scaled(k) for k in range(K)])
    assert not stacked.net.bias.requires_grad
    assert host(stacked.scale).tolist() == [[1.0], [2.0], [3.0]]
    assert stacked.constant.shape == (1,)
    assert list(stacked.state_dict()) == ["net.weight", "net.bias", "scale"]
    x = mt.ones((K, T, I), dtype="float64")
    for k, alone in enumerate(nn.unstack(stacked)):
        np.testing.assert_allclose(host(stacked(x))[k], host(alone(x[k])), rtol=1e-12)
        assert host(alone.scale).tolist() == [1.0 + k]
    part = nn.stack([nn.Sequential(linear(k), nn.Tanh()) for k in range(K)])[:1]
    assert part(x).shape == (K, T, O)
    assert part.trials == K


def test_summary_explain_and_saving(tmp_path, capsys):
    stacked = nn.stack([recurrent_network(k) for k in range(K)])
    x = mt.randn((K, T, B, I), dtype="float64")
    table = mt.summary(stacked, x)
    one = sum(p.size for p in nn.unstack(stacked)[0].parameters())
    assert (table.parameters, table.trials) == (K * one, K)
    assert table.rows[0].output == (K, T, B, O)
    assert "for 3 trials together" in capsys.readouterr().out
    mt.explain(stacked(x).sum())
    assert "linear" in capsys.readouterr().out
    mt.save(tmp_path / "stack.safetensors", stacked.state_dict(), {"trials": stacked.trials})
    state = mt.load(tmp_path / "stack.safetensors")
    other = nn.stack([recurrent_network(k + K) for k in range(state.metadata["trials"])])
    other.load_state_dict(state)
    np.testing.assert_array_equal(host(other(x)), host(stacked(x)))
    second = recurrent_network(0)
    second.load_state_dict({name: value[1] for name, value in state.items()})
    np.testing.assert_allclose(host(second(x[1])), host(stacked(x))[1], rtol=1e-12)


def test_a_stack_moves_and_converts_as_any_module(backend):
    with backend():
        models = [nn.Sequential(nn.Linear(I, O), nn.Dropout(0.5)) for _ in range(K)]
        stacked = nn.stack(models).eval()
        x = backend.tensor(np.random.default_rng(0).normal(size=(K, B, I)), "float32")
        optimizer = optim.Adam(stacked.parameters(), lr=(0.1, 0.0, 0.1))
        nn.MSELoss("trial")(stacked(x), x @ backend.tensor(np.ones((I, O)), "float32")).sum()
        stacked(x).sum().backward()
        with backend.device_only():
            clip_grad_norm_(stacked.parameters(), 0.1)
        before = backend.host(stacked[0].weight).copy()
        optimizer.step()
        moved = (backend.host(stacked[0].weight) != before).any(axis=(1, 2))
        assert moved.tolist() == [True, False, True]
        assert {p.trials for p in stacked.astype("float64").parameters()} == {K}
        words = nn.stack([nn.Embedding(I, O) for _ in range(K)])
        assert words(backend.tensor(np.zeros((K, B), int))).shape == (K, B, O)


@pytest.mark.parametrize(
    "fill",
    [nn.init.xavier_uniform_, nn.init.kaiming_normal_, nn.init.orthogonal_, nn.init.uniform_],
    ids=lambda fill: fill.__name__,
)
def test_first_values_of_a_stack_are_those_of_its_trials_in_turn(fill):
    stacked = fill(nn.stack([linear(k) for k in range(K)]).weight, generator=mt.Generator(5))
    generator = mt.Generator(5)
    for k in range(K):
        np.testing.assert_array_equal(
            stacked.data[k], fill(linear(k).weight, generator=generator).data
        )
    with pytest.raises(ValueError, match=r"at least two axes.* got shape \(6,\)"):
        nn.init.xavier_normal_(nn.stack([linear(k) for k in range(K)]).bias)


# -- what is refused


class Unaware(nn.Module):
    def __init__(self):
        self.net = nn.Linear(I, O)

    def forward(self, x):
        return self.net(x)[:, 0]


class Aware(Unaware):
    knows_trials = True


class UnawareAgain(Aware):
    def forward(self, x):
        return self.net(x)[0]


def test_modules_that_do_not_know_trials_are_refused_by_name():
    with pytest.raises(TypeError, match=r"nn.stack: Unaware does not know .* knows_trials = True"):
        nn.stack([Unaware(), Unaware()])
    with pytest.raises(TypeError, match=r"nn.stack: 1 \(Unaware\) does not"):
        nn.stack([nn.Sequential(nn.Linear(I, O), Unaware())])
    nn.stack([Aware(), Aware()])
    with pytest.raises(TypeError, match="UnawareAgain does not know"):  # a forward of its own
        nn.stack([UnawareAgain(), UnawareAgain()])


def test_models_that_differ_are_refused_and_told_apart():
    with pytest.raises(ValueError, match="at least one model"):
        nn.stack([])
    with pytest.raises(TypeError, match="model 1 is a int"):
        nn.stack([linear(0), 3])
    with pytest.raises(ValueError, match="model 0 is a Linear and model 1 a Embedding"):
        nn.stack([linear(0), embedding(0)])
    with pytest.raises(ValueError, match="model 0 is a stack of 3 trials already"):
        nn.stack([nn.stack([linear(k) for k in range(K)])])
    with pytest.raises(ValueError, match="Linear is none"):
        nn.unstack(linear(0))
    with pytest.raises(ValueError, match="nothing was stacked") as refusal:
        nn.stack(
            [
                nn.Sequential(nn.Linear(I, O), nn.Dropout(0.1), nn.Tanh()),
                nn.Sequential(nn.Linear(I, H, bias=False), nn.Dropout(0.2), nn.ReLU()),
            ]
        )
    for line in (
        "0.out_features: 6 in model 0, 7 in model 1",
        "0.weight: shape (6, 4) in model 0, shape (7, 4) in model 1",
        "0.bias: a Parameter in model 0, None in model 1",
        "1.p: 0.1 in model 0, 0.2 in model 1",
        "2: a Tanh in model 0, a ReLU in model 1",
    ):
        assert f"\n  {line}" in str(refusal.value)
    longer = nn.Sequential(nn.Tanh(), nn.Tanh())
    with pytest.raises(ValueError, match="1: nothing in model 0, a Tanh in model 1"):
        nn.stack([nn.Sequential(nn.Tanh()), longer])
    with pytest.raises(ValueError, match=r"0\.training: True in model 0, False in model 1"):
        nn.stack([nn.Sequential(nn.Tanh()), nn.Sequential(nn.Tanh()).eval()])
    with pytest.raises(ValueError, match=r"weight: dtype float64 .* dtype float32"):
        nn.stack([linear(0), linear(0).astype("float32")])
    frozen = linear(1)
    frozen.weight.requires_grad_(False)
    with pytest.raises(ValueError, match="weight: requires_grad True"):
        nn.stack([linear(0), frozen])


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Linear(I, O), (T, B, I)),
        (lambda: nn.Linear(I, O), (I,)),
        (lambda: nn.Dropout(0.5, generator=mt.Generator(0)), (T, B)),
        (lambda: nn.Dropout(0.5), (T, B)),
        (lambda: nn.LSTM(I, H), (T, B, I)),  # might be (3, T, I): but T is not 3
        (lambda: nn.LSTM(I, H), (T, I)),
        (lambda: nn.GRU(I, H, batch_first=True), (2, B, T, I)),
        (lambda: nn.LSTMCell(I, H), (B, I)),
        (lambda: nn.LSTMCell(I, H), (I,)),
    ],
)
def test_activations_without_the_axis_of_trials_are_refused(make, shape):
    stacked = nn.stack([make() for _ in range(K)])
    with pytest.raises(ValueError, match=r"3 trials|\(3, "):
        stacked(mt.zeros(shape))


def test_indices_states_and_lengths_without_the_axis_of_trials_are_refused():
    with pytest.raises(ValueError, match=r"embedding: this is a stack of 3 trials.*broadcast_to"):
        nn.stack([embedding(k) for k in range(K)])(np.zeros((B, T), int))
    stacked = nn.stack([nn.GRU(I, H) for _ in range(K)])
    x = mt.zeros((K, T, B, I))
    with pytest.raises(ValueError, match=r"\(3, layers \* directions, B, H\) = \(3, 1, 2, 7\)"):
        stacked(x, mt.zeros((1, B, H)))
    with pytest.raises(ValueError, match=r"lengths must be integers of shape \(3, 2\)"):
        stacked(x, lengths=[T, T])
    with pytest.raises(ValueError, match=r"lengths\[1, 0\] is 6; with T = 5"):
        stacked(x, lengths=[[1, 1], [6, 1], [1, 1]])
    with pytest.raises(ValueError, match=r"h must have shape \(3, 2, 7\)"):
        nn.stack([nn.GRUCell(I, H) for _ in range(K)])(mt.zeros((K, B, I)), mt.zeros((B, H)))
