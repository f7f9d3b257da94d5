"""Optimizers: what they promise of arrays, groups and saved state; formulas: test_formulas.py."""

import copy
import math

import numpy as np
import pytest

import microtensor as mt
from microtensor import nn, optim
from microtensor.optim import optimizer as optimizer_module

VARIANTS = {
    "sgd": (optim.SGD, {"lr": 0.1}),
    "sgd_momentum": (optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    "sgd_dampened": (optim.SGD, {"lr": 0.1, "momentum": 0.5, "dampening": 0.3}),
    "sgd_nesterov": (optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "sgd_decay": (optim.SGD, {"lr": 0.1, "weight_decay": 0.2}),
    "adagrad": (optim.Adagrad, {"lr": 0.5}),
    "adagrad_decay": (optim.Adagrad, {"lr": 0.5, "lr_decay": 0.1, "weight_decay": 0.1}),
    "adagrad_tf1": (optim.Adagrad, {"lr": 0.5, "initial_accumulator_value": 0.1, "eps": 0.0}),
    "rmsprop": (optim.RMSprop, {"lr": 0.01}),
    "rmsprop_momentum": (optim.RMSprop, {"lr": 0.01, "momentum": 0.5}),
    "rmsprop_centered": (optim.RMSprop, {"lr": 0.01, "centered": True, "weight_decay": 0.1}),
    "adam": (optim.Adam, {"lr": 0.1}),
    "adam_amsgrad": (optim.Adam, {"lr": 0.1, "amsgrad": True, "weight_decay": 0.1}),
    "adam_maximize": (optim.Adam, {"lr": 0.1, "maximize": True}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_float32_stays_in_place_and_gradients_stay_as_they_are(name):
    kind, options = VARIANTS[name]
    parameter = nn.Parameter(np.ones((3, 2), np.float32))
    array = parameter.data
    optimizer = kind([parameter], **options)
    for step in range(3):
        parameter.grad = mt.tensor(np.full((3, 2), 0.5 + step, np.float32))
        before = parameter.grad.data.copy()
        optimizer.step()
        assert parameter.grad.data.tobytes() == before.tobytes()
    assert parameter.data is array
    assert array.dtype == np.float32
    assert not np.any(array == 1)
    for value in optimizer.state_dict().values():
        if value.shape == (3, 2):
            assert value.dtype == np.float32


def test_a_parameter_without_a_gradient_is_passed_over():
    a, b = nn.Parameter(np.ones(2)), nn.Parameter(np.ones(2))
    optimizer = optim.Adam([a, b], weight_decay=0.5)
    a.grad = mt.ones(2, dtype="float64")
    optimizer.step()
    assert np.all(b.data == 1)
    assert not any(name.startswith("1.") for name in optimizer.state_dict())


def test_zero_grad_sets_none():
    parameter = nn.Parameter(np.ones(2))
    parameter.grad = mt.ones(2, dtype="float64")
    optimizer = optim.SGD([parameter])
    optimizer.zero_grad()
    assert parameter.grad is None


def test_a_parameter_named_twice_is_updated_once():
    parameter = nn.Parameter(np.zeros(1))
    optimizer = optim.SGD([parameter, parameter], lr=1.0)
    parameter.grad = mt.ones(1, dtype="float64")
    optimizer.step()
    assert parameter.data.item() == -1.0


def test_a_step_between_forward_and_backward_is_noticed():
    layer = nn.Linear(2, 1)
    optimizer = optim.SGD(layer.parameters(), lr=0.1)
    x = mt.ones((1, 2), requires_grad=True)
    layer(x).sum().backward()
    loss = layer(x).sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


def test_groups_have_their_own_hyperparameters():
    a, b = nn.Parameter(np.zeros(1)), nn.Parameter(np.zeros(1))
    optimizer = optim.SGD([{"params": [a], "lr": 1.0}, {"params": b}], lr=0.1)
    for p in (a, b):
        p.grad = mt.ones(1, dtype="float64")
    optimizer.step()
    assert (a.data.item(), b.data.item()) == (-1.0, -0.1)
    optimizer.param_groups[1]["lr"] = 10.0
    optimizer.step()
    assert b.data.item() == pytest.approx(-10.1)
    with pytest.raises(ValueError, match="more than one"):
        optimizer.add_param_group({"params": [a]})
    with pytest.raises(ValueError, match=r"no hyperparameters \['rate'\]"):
        optimizer.add_param_group({"params": [nn.Parameter(np.zeros(1))], "rate": 1})
    for no_group in ([a], {"lr": 1.0}, {}):
        with pytest.raises(TypeError, match="a parameter group is a dictionary with"):
            optimizer.add_param_group(no_group)
    assert "group 1: 1 parameters, lr=10.0" in repr(optimizer)


def test_every_hyperparameter_may_be_a_groups_own():
    """Also one that is used only where state is made; betas as a list, as in a file of settings."""
    a, b = nn.Parameter(np.zeros(1)), nn.Parameter(np.zeros(1))
    groups = [{"params": a, "initial_accumulator_value": 3.0}, {"params": [b], "lr": 2.0}]
    adagrad = optim.Adagrad(groups, lr=1.0, eps=0.0)
    for p in (a, b):
        p.grad = mt.ones(1, dtype="float64")
    adagrad.step()
    assert (a.data.item(), b.data.item()) == (-0.5, -2.0)
    adam = optim.Adam([{"params": a, "betas": [0.5, 0.5]}, {"params": b}], lr=1.0)
    assert adam.param_groups[0]["betas"] == [0.5, 0.5]
    assert adam.param_groups[1]["betas"] == (0.9, 0.999)


def test_one_parameter_or_one_group_need_no_list():
    for form in (lambda p: p, lambda p: {"params": p}, lambda p: {"params": [p], "lr": 1.0}):
        parameter = nn.Parameter(np.zeros(1))
        optimizer = optim.SGD(form(parameter), lr=1.0)
        assert [group["params"] for group in optimizer.param_groups] == [[parameter]]
        parameter.grad = mt.ones(1, dtype="float64")
        optimizer.step()
        assert parameter.data.item() == -1.0


def test_nothing_to_optimize_is_refused():
    kind = optim.Adam
    for empty in ([], iter([]), nn.Tanh().parameters(), [{"params": []}]):
        with pytest.raises(ValueError, match="no parameters"):
            kind(empty)
    with pytest.raises(TypeError, match="parameter 1 is a ndarray"):
        kind([nn.Parameter(np.ones(1)), np.ones(1)])
    with pytest.raises(ValueError, match=r"parameter 0, of shape .* is the result of an operation"):
        kind([nn.Parameter(np.ones(1)) * 2])
    frozen = nn.Parameter(np.ones(1), requires_grad=False)
    with pytest.raises(ValueError, match="none of the parameters requires a gradient"):
        kind([frozen])
    kind([frozen, nn.Parameter(np.ones(1))])  # some frozen, as in fine-tuning, is usual


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (optim.SGD, {"lr": -1}),
        (optim.SGD, {"lr": math.nan}),
        (optim.SGD, {"lr": "fast"}),
        (optim.SGD, {"lr": True}),
        (optim.SGD, {"lr": None}),
        (optim.SGD, {"lr": math.inf}),
        (optim.SGD, {"momentum": -0.1}),
        (optim.SGD, {"weight_decay": -0.1}),
        (optim.SGD, {"nesterov": True}),
        (optim.SGD, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}),
        (optim.Adagrad, {"eps": -1}),
        (optim.Adagrad, {"lr_decay": -1}),
        (optim.Adagrad, {"initial_accumulator_value": -1}),
        (optim.RMSprop, {"alpha": 1.0}),
        (optim.RMSprop, {"eps": math.inf}),
        (optim.Adam, {"betas": (0.9, 1.0)}),
        (optim.Adam, {"betas": (0.9,)}),
        (optim.Adam, {"eps": -1e-8}),
    ],
)
def test_hyperparameters_out_of_range_are_refused(kind, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        kind([nn.Parameter(np.ones(1))], **options)


def test_bounds_themselves_and_numbers_of_numpy_are_accepted():
    parameter = nn.Parameter(np.ones(1))
    for zero in (0, 0.0, np.float32(0), np.int64(0)):
        options = {"lr": zero, "weight_decay": zero, "momentum": zero, "eps": zero, "alpha": zero}
        assert optim.RMSprop([parameter], **options).param_groups[0]["lr"] == 0
    optim.Adam([parameter], betas=(0.0, np.float64(0.9999)))
    for betas in (0.9, (0.9, 0.99, 0.999), "ab"):
        with pytest.raises(ValueError, match="betas"):
            optim.Adam([{"params": parameter, "betas": betas}])


# -- saved state


def training(kind, options, seed=0):
    rng = np.random.default_rng(seed)
    model = nn.Sequential(nn.Linear(3, 4, dtype="float64"), nn.Linear(4, 2, dtype="float64"))
    model.load_state_dict({n: rng.normal(size=p.shape) for n, p in model.named_parameters()})
    optimizer = kind(model.parameters(), **options)
    x, y = mt.tensor(rng.normal(size=(5, 3))), mt.tensor(rng.normal(size=(5, 2)))

    def run(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()

    return model, optimizer, run


@pytest.mark.parametrize("name", VARIANTS)
def test_a_resumed_run_ends_bitwise_equal(name, tmp_path):
    kind, options = VARIANTS[name]
    model, _, run = training(kind, options)
    run(7)
    first, optimizer, run_first = training(kind, options)
    run_first(4)
    mt.save(tmp_path / "o.safetensors", optimizer.state_dict())
    mt.save(tmp_path / "m.safetensors", first.state_dict())
    second, resumed, run_second = training(kind, {**options, "lr": 123.0})
    second.load_state_dict(mt.load(tmp_path / "m.safetensors"))
    resumed.load_state_dict(mt.load(tmp_path / "o.safetensors"))
    for key, value in optimizer.param_groups[0].items():
        if key != "params":
            assert resumed.param_groups[0][key] == value
            assert type(resumed.param_groups[0][key]) is type(value)
    run_second(3)
    for a, b in zip(model.parameters(), second.parameters(), strict=True):
        assert a.data.tobytes() == b.data.tobytes()


def test_a_run_in_groups_is_resumed():
    """Every parameter continues with its own state and its group's hyperparameters."""

    def start():
        ps = [nn.Parameter(np.full(n, 1.0)) for n in (2, 3, 2)]
        groups = [{"params": ps[:2], "lr": 0.1}, {"params": ps[2:], "betas": (0.5, 0.6)}]
        return ps, optim.Adam(groups, lr=0.2)

    def run(ps, optimizer, steps):
        for step in steps:
            for i, p in enumerate(ps):
                p.grad = mt.tensor(np.cos(np.arange(p.size) + 7 * i + 3 * step))
            optimizer.step()

    whole, first, second = start(), start(), start()
    run(*whole, range(5))
    run(*first, range(3))
    second[1].load_state_dict(first[1].state_dict())
    assert second[1].state_dict()["2.step"].item() == 3
    for p, q in zip(second[0], first[0], strict=True):
        p.data[...] = q.data
    run(*second, range(3, 5))
    for p, q in zip(second[0], whole[0], strict=True):
        assert p.data.tobytes() == q.data.tobytes()


def test_saved_state_holds_the_means_of_the_formulas():
    """As PyTorch's does, under its names: other programs read it."""
    parameter = nn.Parameter(np.array([1.0, 2.0]))
    kinds = {
        optim.RMSprop([parameter], alpha=0.5, momentum=0.5, centered=True, lr=0.0): {
            "square_avg": np.array([5.5, 3.0]),
            "grad_avg": np.array([2.0, -1.5]),
        },
        optim.Adam([parameter], betas=(0.5, 0.75), amsgrad=True, lr=0.0): {
            "exp_avg": np.array([2.0, -1.5]),
            "exp_avg_sq": np.array([3.0, 1.75]),
            "max_exp_avg_sq": np.array([3.0, 1.75]),
        },
        optim.Adagrad([parameter], initial_accumulator_value=1.0, lr=0.0): {
            "sum": np.array([14.0, 9.0])
        },
        optim.SGD([parameter], momentum=0.5, dampening=0.25, lr=0.0): {
            "momentum_buffer": np.array([3.25, -2.5])
        },
    }
    for optimizer, expected in kinds.items():
        for gradient in ([2.0, -2.0], [3.0, -2.0]):
            parameter.grad = mt.tensor(np.array(gradient))
            optimizer.step()
        state = optimizer.state_dict()
        for name, value in expected.items():
            np.testing.assert_allclose(state[f"0.{name}"].numpy(), value, rtol=1e-14, err_msg=name)
    assert parameter.data.tolist() == [1.0, 2.0]


def test_plain_numbers_and_arrays_are_loaded_too():
    _, optimizer, run = training(optim.Adam, {"lr": 0.1})
    run(2)
    state = {name: value.numpy() for name, value in optimizer.state_dict().items()}
    _, resumed, _ = training(optim.Adam, {"lr": 0.3})
    resumed.load_state_dict({**state, "group0.lr": 0.5, "group0.betas": [0.5, 0.25], "0.step": 7})
    assert resumed.param_groups[0]["lr"] == 0.5
    assert resumed.param_groups[0]["betas"] == (0.5, 0.25)
    again = resumed.state_dict()
    assert again["0.step"].item() == 7
    np.testing.assert_array_equal(again["1.exp_avg_sq"].numpy(), state["1.exp_avg_sq"])


def test_saved_state_is_a_copy_with_positions_and_hyperparameters():
    _, optimizer, run = training(optim.Adam, {"lr": 0.1})
    run(2)
    state = optimizer.state_dict()
    slots = {f"{i}.{n}" for i in range(4) for n in ("step", "exp_avg", "exp_avg_sq")}
    options = ("params", "lr", "betas", "eps", "weight_decay", "amsgrad", "maximize")
    assert set(state) == slots | {f"group0.{n}" for n in options}
    assert state["0.step"].item() == 2
    assert state["group0.betas"].numpy().tolist() == [0.9, 0.999]
    before = state["0.exp_avg"].numpy().copy()
    run(1)
    np.testing.assert_array_equal(state["0.exp_avg"].numpy(), before)


def test_loading_lists_every_fault_and_changes_nothing():
    _, optimizer, run = training(optim.Adam, {"lr": 0.1})
    run(2)
    good = optimizer.state_dict()
    bad = dict(good)
    bad["0.exp_avg"] = mt.zeros((9, 9))
    del bad["1.exp_avg_sq"], bad["group0.eps"]
    bad["5.exp_avg"] = mt.zeros(1)
    bad["group0.lr"] = np.array(-1.0)
    bad["group0.params"] = np.array(7)
    bad["group0.weight_decay"] = np.zeros((1, 1))
    bad["2.exp_avg"] = np.zeros((2, 4), bool)
    with pytest.raises(ValueError, match="nothing has been loaded") as caught:
        optimizer.load_state_dict(bad)
    for piece in (
        "0.exp_avg is float32 of shape (9, 9), must be (4, 3)",
        "missing: 1.exp_avg_sq",
        "missing: group0.eps",
        "unexpected: 5.exp_avg",
        "lr must be at least 0",
        "group0 had 7 parameters, here it has 4",
        "group0.weight_decay has shape (1, 1)",
        "2.exp_avg is bool of shape (2, 4), must be (2, 4)",
    ):
        assert piece in str(caught.value)
    for name, value in optimizer.state_dict().items():
        assert value.numpy().tobytes() == good[name].numpy().tobytes()


def test_state_of_another_kind_of_optimizer_is_refused():
    _, adam, run = training(optim.Adam, {"lr": 0.1})
    run(1)
    _, sgd, _ = training(optim.SGD, {"lr": 0.1})
    with pytest.raises(ValueError, match=r"unexpected: 0.exp_avg"):
        sgd.load_state_dict(adam.state_dict())


def test_converting_the_model_under_an_optimizer_with_state_is_refused():
    model, optimizer, run = training(optim.Adam, {"lr": 0.1})
    run(1)
    model.astype("float32")
    with pytest.raises(RuntimeError, match=r"was float64 .* is float32 .*astype"):
        optimizer.step()
    model, optimizer, run = training(optim.SGD, {"lr": 0.1})
    run(1)
    model.astype("float32")
    optimizer.step()  # keeps no state: it just goes on
    assert all(p.dtype == np.float32 for p in model.parameters())


def test_another_array_of_the_same_kind_goes_on_and_another_backend_does_not(device):
    a, b = (nn.Parameter(np.ones((2, 3))) for _ in range(2))
    optimizer = optim.Adam([a, b], lr=0.1)
    for copied in (False, True):
        if copied:
            b.data = b.data.copy()  # as loading with assignment does
        for p in (a, b):
            p.grad = mt.ones((2, 3), dtype="float64")
        optimizer.step()
    np.testing.assert_array_equal(a.data, b.data)
    assert optimizer.state_dict()["1.step"].item() == 2
    b.data = device.array(b.data)
    b.grad = device.tensor(np.ones((2, 3)))
    with pytest.raises(RuntimeError, match=r"parameter 1 was float64 \(2, 3\) .* on (cage|cupy)"):
        optimizer.step()


def test_scheduled_learning_rates_count():
    parameter = nn.Parameter(np.zeros(1, np.float32))
    optimizer = optim.SGD([parameter], lr=1.0)
    for rate in (1.0, 0.5, np.float64(0.25)):
        optimizer.param_groups[0]["lr"] = rate
        parameter.grad = mt.ones(1)
        optimizer.step()
    assert parameter.data.item() == -1.75
    assert parameter.dtype == np.float32


def test_zero_grad_may_leave_zeros():
    a, b = nn.Parameter(np.ones(2, np.float32)), nn.Parameter(np.ones(2))
    optimizer = optim.SGD([a, b], lr=0.1)
    a.grad = mt.ones(2)
    optimizer.zero_grad(set_to_none=False)
    assert b.grad is None
    assert a.grad.dtype == np.float32
    np.testing.assert_array_equal(a.grad.numpy(), [0, 0])
    optimizer.step()
    np.testing.assert_array_equal(a.data, [1, 1])
    optimizer.zero_grad(set_to_none=True)
    assert a.grad is None


@pytest.mark.parametrize("name", VARIANTS)
def test_a_parameter_frozen_later_stays_as_it_is(name):
    """Its old gradient is still there, and so are its momentum and weight decay."""
    kind, options = VARIANTS[name]
    a, b = nn.Parameter(np.ones(2)), nn.Parameter(np.ones(2))
    optimizer = kind([a, b], **options)
    for parameter in (a, b):
        parameter.grad = mt.ones(2, dtype="float64")
    optimizer.step()
    a.requires_grad_(False)
    frozen, before = a.data.copy(), optimizer.state_dict()
    optimizer.step()
    np.testing.assert_array_equal(a.data, frozen)
    assert not np.array_equal(b.data, frozen)
    after = optimizer.state_dict()
    assert after["0.step"].item() == before["0.step"].item() == 1
    assert after["1.step"].item() == 2
    a.requires_grad_(True)
    optimizer.step()
    assert not np.array_equal(a.data, frozen)


LATER = [
    (optim.SGD, {}, {"momentum": 0.9}),
    (optim.SGD, {}, {"momentum": 0.5, "dampening": 0.5}),
    (optim.RMSprop, {}, {"momentum": 0.9}),
    (optim.RMSprop, {"momentum": 0.9}, {"centered": True}),
    (optim.Adam, {"betas": (0.5, 0.5)}, {"amsgrad": True}),  # so that the square falls soon
]


@pytest.mark.parametrize(("kind", "options", "later"), LATER)
def test_a_hyperparameter_with_state_may_be_switched_on_later(kind, options, later):
    model, optimizer, run = training(kind, {"lr": 0.01, **options})
    plain, _, run_plain = training(kind, {"lr": 0.01, **options})
    run(3)
    run_plain(3)
    optimizer.param_groups[0].update(later)
    run(3)
    run_plain(3)
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        assert np.isfinite(a.data).all()
        assert not np.array_equal(a.data, b.data)


@pytest.mark.parametrize(("kind", "options", "later"), LATER)
@pytest.mark.parametrize("steps", [0, 2])
def test_what_is_saved_right_after_switching_loads(kind, options, later, steps):
    """On or off: the state has what the hyperparameters it is saved with ask for."""
    on = {"lr": 0.01, **options, **later}
    for start, change in (({"lr": 0.01, **options}, later), (on, dict.fromkeys(later, 0))):
        _, optimizer, run = training(kind, start)
        run(steps)
        optimizer.param_groups[0].update(change)
        state = optimizer.state_dict()
        _, resumed, run_resumed = training(kind, {"lr": 0.01})
        resumed.load_state_dict(state)
        assert resumed.state_dict().keys() == state.keys()
        run_resumed(1)


def test_the_base_class_alone_is_no_optimizer():
    with pytest.raises(TypeError, match="abstract"):
        mt.optim.Optimizer([mt.ones(2, requires_grad=True)], {"lr": 0.1})


@pytest.mark.parametrize(
    "make",
    [
        lambda p: mt.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        lambda p: mt.optim.Adagrad(p, lr=0.1, weight_decay=0.01),
        lambda p: mt.optim.RMSprop(p, lr=0.01, centered=True, momentum=0.5),
        lambda p: mt.optim.Adam(p, lr=0.01, amsgrad=True, maximize=True),
    ],
)
def test_parameters_that_are_updated_as_one_go_the_way_they_would_go_alone(make, monkeypatch):
    """Through all that can part them: a gradient that is missing, a copy, a loaded state."""

    def run(small):
        monkeypatch.setattr(optimizer_module, "SMALL", small)
        rng = np.random.default_rng(0)
        shapes = [(3, 4), (5,), (2, 1, 3), (40, 30), ()]
        parameters = [
            mt.tensor(rng.normal(size=s).astype(np.float32), requires_grad=True) for s in shapes
        ]
        optimizer, seen = make(parameters), []
        for step in range(12):
            for place, p in enumerate(parameters):
                missing = (step, place) in [(4, 1), (5, 1), (6, 0)]
                g = mt.tensor(rng.normal(size=p.shape).astype(np.float32))
                p.grad = None if missing else g
            if step == 2:
                optimizer.param_groups[0]["lr"] *= 0.5
            if step == 8:
                state = optimizer.state_dict()
                optimizer = make(parameters)
                optimizer.load_state_dict(state)
            if step == 10:
                p = parameters[0]
                p.data = p.data.copy()
                twin = copy.deepcopy(optimizer)
                for place, other in enumerate(twin.param_groups[0]["params"]):
                    other.grad = mt.tensor(np.ones(other.shape, np.float32) * place)
                twin.step()  # its own parameters; nothing of it is seen by the first
                seen += [value.numpy().copy() for value in twin.state_dict().values()]
            optimizer.step()
            seen += [p.detach().numpy().copy() for p in parameters]
            seen += [value.numpy().copy() for value in optimizer.state_dict().values()]
        return seen

    together, alone = run(500), run(0)
    assert len(together) == len(alone)
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_array_equal(a, b)


def test_many_small_parameters_are_one_from_the_second_step_on():
    parameters = [mt.tensor(np.ones(n), requires_grad=True) for n in (3, 4, 5000)]
    optimizer = mt.optim.Adam(parameters, lr=0.1)
    for _ in range(3):
        for p in parameters:
            p.grad = mt.ones(p.shape, dtype=np.float64)
        optimizer.step()
    (bundle,) = optimizer._bundles
    assert [slot.data.size for _, slot in bundle.members] == [3, 4]
    assert bundle.rest == [2]
