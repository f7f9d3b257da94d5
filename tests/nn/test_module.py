"""Module: order, names, attributes, state dictionaries, containers."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import microtensor as mt
from microtensor import nn


class Small(nn.Module):
    def __init__(self):
        self.second = nn.Parameter(np.full((2,), 2.0))
        self.first = nn.Linear(3, 2)
        self.third = nn.Parameter(np.ones((2, 2)))
        self.register_buffer("count", mt.zeros((1,)))

    def forward(self, x):
        return self.first(x)


NAMES = ["second", "first.weight", "first.bias", "third"]


def test_parameters_come_in_order_of_assignment():
    model = Small()
    assert [name for name, _ in model.named_parameters()] == NAMES
    assert list(model.state_dict()) == [*NAMES, "count"]
    model.second = nn.Parameter(np.zeros(2))  # reassigning keeps the place
    assert [name for name, _ in model.named_parameters()] == NAMES
    assert next(model.parameters()) is model.second


def test_a_shared_parameter_is_trained_once_and_saved_under_both_names():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert len(list(model.parameters())) == 3
    assert "0.weight" in model.state_dict()
    assert "1.weight" in model.state_dict()
    shared = nn.Linear(2, 2)
    twice = nn.Sequential(shared, nn.Tanh(), shared)
    assert len(list(twice.parameters())) == 2
    assert len(list(twice.modules())) == 3
    assert len(list(twice.children())) == 2


def test_walking_modules_names_paths():
    model = nn.Sequential(nn.Sequential(nn.Linear(1, 1), nn.Tanh()), nn.ReLU())
    assert [name for name, _ in model.named_modules()] == ["", "0", "0.0", "0.1", "1"]
    assert [name for name, _ in model.named_children()] == ["0", "1"]
    seen = []
    model.apply(lambda module: seen.append(type(module).__name__))
    assert seen == ["Linear", "Tanh", "Sequential", "ReLU", "Sequential"]


def test_a_missing_attribute_raises_and_suggests():
    model = Small()
    with pytest.raises(AttributeError, match=r"Small has no attribute 'frist'.*'first'"):
        model.frist  # noqa: B018
    with pytest.raises(AttributeError, match=r"no attribute 'zzzzz'$"):
        model.zzzzz  # noqa: B018
    assert not hasattr(model, "__array_interface__")
    # The first three letters or the last four are enough, and fewer are not.
    for name, hint in (
        ("secXYZ", "'second'"),
        ("secXnd", "'second'"),
        ("aaahird", "'third'"),
        ("seXYZ", None),
        ("aaaird", None),
        ("fi", None),
    ):
        with pytest.raises(AttributeError) as caught:
            getattr(model, name)
        end = f"; did you mean {hint}?" if hint else ""
        assert str(caught.value) == f"Small has no attribute {name!r}{end}"
        assert (caught.value.name, caught.value.obj) == (name, model)


@pytest.mark.parametrize(
    "holder", [[nn.Linear(1, 1)], (nn.Parameter(np.ones(1)),), {"a": nn.Tanh()}]
)
def test_a_plain_list_of_modules_is_refused(holder):
    with pytest.raises(TypeError, match="ModuleList"):
        Small().layers = holder


def test_forward_must_be_defined():
    with pytest.raises(NotImplementedError, match="ModuleList does not define forward"):
        nn.ModuleList()(1)


def test_state_dict_is_a_copy_and_round_trips():
    model, other = Small(), Small()
    saved = model.state_dict()
    before = saved["first.weight"].detach().numpy().copy()
    model.first.weight.data[...] = 7
    np.testing.assert_array_equal(saved["first.weight"].detach().numpy(), before)
    result = other.load_state_dict(saved)
    assert result == ([], [])
    for name, value in other.state_dict().items():
        np.testing.assert_array_equal(value.detach().numpy(), saved[name].detach().numpy())
        assert value.dtype == saved[name].dtype


@given(st.lists(st.integers(1, 5), min_size=2, max_size=5), st.sampled_from(["float32", "float64"]))
def test_state_dict_round_trips_any_stack(sizes, dtype):
    def build():
        layers = [nn.Linear(a, b, dtype=dtype) for a, b in itertools.pairwise(sizes)]
        return nn.Sequential(*layers)

    one, two = build(), build()
    two.load_state_dict({name: value.detach().numpy() for name, value in one.state_dict().items()})
    x = mt.ones((3, sizes[0]), dtype=dtype)
    assert two(x).detach().numpy().tobytes() == one(x).detach().numpy().tobytes()


def test_loading_lists_every_fault_at_once_and_changes_nothing():
    model = Small()
    before = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    state = model.state_dict()
    del state["second"], state["first.bias"]
    state["first.weight"] = mt.zeros((2, 4))
    state["third"] = np.array([["a", "b"], ["c", "d"]])
    state["extra"] = state["more.extra"] = mt.zeros(1)
    with pytest.raises(nn.StateDictError) as caught:
        model.load_state_dict(state)
    text = str(caught.value)
    for piece in (
        "missing: second",
        "missing: first.bias",
        "unexpected: extra",
        "unexpected: more.extra",
        "first.weight: shape (2, 4), must be (2, 3)",
        "third: not an array of real numbers",
        "nothing has been loaded",
    ):
        assert piece in text
    assert isinstance(caught.value, RuntimeError)  # as in PyTorch
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.detach().numpy(), before[name])


def test_loading_without_strict_passes_over_names_but_not_shapes():
    model = Small()
    result = model.load_state_dict({"second": np.zeros(2), "other": np.zeros(1)}, strict=False)
    assert result.missing_keys == ["first.weight", "first.bias", "third", "count"]
    assert result.unexpected_keys == ["other"]
    assert model.second.detach().numpy().tolist() == [0.0, 0.0]
    with pytest.raises(nn.StateDictError, match=r"second: shape \(3,\)"):
        model.load_state_dict({"second": np.zeros(3)}, strict=False)


def test_loading_keeps_the_parameter_its_dtype_and_its_place_in_the_optimizer():
    layer = nn.Linear(2, 2)
    weight, array = layer.weight, layer.weight.data
    layer.load_state_dict({"weight": np.eye(2), "bias": [1, 2]})
    assert layer.weight is weight
    assert layer.weight.data is array
    assert array.dtype == np.float32
    assert layer.bias.detach().numpy().tolist() == [1.0, 2.0]


def test_loading_between_forward_and_backward_is_noticed():
    layer = nn.Linear(2, 2)
    x = mt.ones((1, 2), requires_grad=True)
    loss = layer(x).sum()
    layer.load_state_dict(layer.state_dict())
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


def test_train_and_eval_reach_every_module():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout()))
    assert all(module.training for module in model.modules())
    assert model.eval() is model
    assert not any(module.training for module in model.modules())
    model.train()
    assert all(module.training for module in model.modules())


def test_zero_grad_forgets():
    layer = nn.Linear(2, 1)
    layer(mt.ones((1, 2))).sum().backward()
    assert layer.weight.grad is not None
    layer.zero_grad()
    assert layer.weight.grad is None
    assert layer.bias.grad is None


def test_astype_converts_parameters_buffers_and_gradients_in_place():
    model = nn.Sequential(nn.Linear(2, 2))
    model.register_buffer("steps", mt.tensor([1, 2]))
    weight = model[0].weight
    model(mt.ones((1, 2))).sum().backward()
    assert model.astype("float64") is model
    assert model[0].weight is weight
    assert weight.dtype == weight.grad.dtype == np.float64
    assert model.steps.dtype == np.int64
    assert model(mt.ones((1, 2), dtype="float64")).dtype == np.float64
    with pytest.raises(TypeError, match="floating"):
        model.astype("int32")


def test_to_moves_parameters_buffers_and_gradients(device):
    model = nn.Sequential(nn.Linear(2, 2))
    model.register_buffer("steps", mt.tensor([1, 2]))
    model.register_buffer("nothing", None)
    weight, before = model[0].weight, model.state_dict()
    model(mt.ones((1, 2))).sum().backward()
    gradient = weight.grad.numpy()
    assert model.to(device.name) is model
    assert model[0].weight is weight
    assert {t.backend for t in (weight, weight.grad, model.steps)} == {device.name}
    np.testing.assert_array_equal(device.host(weight.grad), gradient)
    array = weight.data
    assert model.to(device.name)[0].weight.data is array  # it is there already
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(device.host(value), before[name].numpy())
    model.load_state_dict({name: 2 * value.numpy() for name, value in before.items()})
    np.testing.assert_array_equal(device.host(weight), 2 * before["0.weight"].numpy())
    other = nn.Sequential(nn.Linear(2, 2))
    other.register_buffer("steps", mt.tensor([0, 0]))
    other.load_state_dict(model.state_dict())  # from the device to the host
    assert other.steps.numpy().tolist() == [2, 4]
    assert [name for name, _ in model.named_buffers()] == ["steps"]
    assert model.to("numpy")[0].weight.backend == "numpy"


def test_to_moves_and_refuses_an_unknown_backend():
    layer = nn.Linear(2, 2)
    assert layer.to("numpy") is layer
    with pytest.raises(ValueError, match="unknown backend"):
        layer.to("abacus")


def test_repr_is_nested():
    model = nn.Sequential(nn.Linear(2, 50), nn.Sequential(nn.ReLU(), nn.Dropout(0.1)))
    assert repr(model) == (
        "Sequential(\n"
        "  (0): Linear(in_features=2, out_features=50, bias=True)\n"
        "  (1): Sequential(\n"
        "    (0): ReLU()\n"
        "    (1): Dropout(p=0.1)\n"
        "  )\n"
        ")"
    )


def test_repr_shows_sizes_before_the_modules_inside():
    assert repr(nn.Recurrent(nn.RNNCell(4, 2))) == (
        "Recurrent(\n  4, 2\n  (cell): RNNCell(4, 2)\n)"
    )


def test_names_begin_with_a_prefix_if_one_is_given():
    model = nn.Sequential(nn.Tanh(), nn.Sequential(nn.ReLU()))
    assert [name for name, _ in model.named_modules("net")] == [
        "net",
        "net.0",
        "net.1",
        "net.1.0",
    ]


@pytest.mark.parametrize("value", [np.ones(2, bool), np.ones(2, np.uint8), [1, 0], mt.ones(2)])
def test_real_numbers_of_any_type_are_loaded(value):
    model = nn.Module()
    model.weight = nn.Parameter(np.zeros(2))
    model.load_state_dict({"weight": value})
    assert model.weight.data.tolist() == np.asarray(value, float).tolist()


@pytest.mark.parametrize("value", [np.ones(2, complex), np.array(["a", "b"]), None, [[1], [1, 2]]])
def test_what_is_no_array_of_real_numbers_is_not_loaded(value):
    model = nn.Module()
    model.weight = nn.Parameter(np.zeros(2))
    with pytest.raises(nn.StateDictError, match="weight: not an array of real numbers"):
        model.load_state_dict({"weight": value})


def test_buffers_are_tensors():
    model = nn.Module()
    with pytest.raises(TypeError, match="buffer 'table' must be a tensor or None"):
        model.register_buffer("table", np.ones(2))
    model.register_buffer("table", None)
    assert model.table is None
    assert list(model.state_dict()) == []
    model.register_buffer("table", mt.ones(2))
    assert list(model.state_dict()) == ["table"]
    assert list(model.parameters()) == []


def test_module_list_is_a_list():
    a, b, c = nn.Tanh(), nn.ReLU(), nn.Sigmoid()
    modules = nn.ModuleList([a]).append(b).extend([c])
    assert list(modules) == [a, b, c]
    assert len(modules) == 3
    assert modules[-1] is c
    assert list(modules[1:]) == [b, c]
    assert isinstance(modules[:1], nn.ModuleList)
    modules[-1] = a
    assert list(modules) == [a, b, a]
    with pytest.raises(IndexError):
        modules[3]
    with pytest.raises(TypeError, match="holds modules, not str"):
        modules.append("tanh")


def test_sequential_applies_in_order():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x = mt.randn((5, 3))
    expected = model[2](mt.tanh(model[0](x)))
    np.testing.assert_array_equal(model(x).detach().numpy(), expected.detach().numpy())
    assert isinstance(model[:2], nn.Sequential)
    assert model[:2](x).shape == (5, 4)


def test_parameter_is_a_leaf_and_wraps_without_copy():
    array = np.ones(3, np.float32)
    parameter = nn.Parameter(array)
    assert parameter.data is array
    assert parameter.requires_grad
    assert parameter.is_leaf
    assert isinstance(parameter, mt.Tensor)
    assert isinstance(parameter * 2, mt.Tensor)
    assert not isinstance(parameter * 2, nn.Parameter)
    assert repr(parameter).startswith("Parameter containing:\n")
    assert not nn.Parameter(array, requires_grad=False).requires_grad
    with pytest.raises(TypeError):
        nn.Parameter(np.array([1, 2]))


def test_zero_grad_may_leave_zeros():
    layer = nn.Linear(2, 1)
    layer.weight.grad = mt.ones((1, 2))
    handed_out = layer.weight.grad
    layer.zero_grad(set_to_none=False)
    assert layer.bias.grad is None
    np.testing.assert_array_equal(layer.weight.grad.numpy(), np.zeros((1, 2)))
    np.testing.assert_array_equal(handed_out.numpy(), np.ones((1, 2)))
    layer.zero_grad(set_to_none=True)
    assert layer.weight.grad is None
