"""A tensor among NumPy's functions, Python's protocols and other libraries."""

import copy
import pickle

import numpy as np
import pytest

import microtensor as mt
from microtensor import nn

X = np.arange(6.0).reshape(2, 3) / 4 + 0.125


@pytest.fixture
def x():
    return mt.tensor(X, requires_grad=True)


# -- NumPy's functions give tensors


UFUNCS = ["tanh", "exp", "log", "log1p", "expm1", "sqrt", "square", "sin", "cos", "negative", "abs",
          "absolute", "sign"]  # fmt: skip
BINARY = ["add", "subtract", "multiply", "divide", "true_divide", "power", "maximum", "minimum"]
COMPARISONS = ["equal", "not_equal", "less", "less_equal", "greater", "greater_equal"]
FUNCTIONS = {
    "sum": lambda f, x: f(x, axis=1),
    "mean": lambda f, x: f(x, axis=0, keepdims=True),
    "var": lambda f, x: f(x, axis=1, ddof=1),
    "std": lambda f, x: f(x),
    "max": lambda f, x: f(x, axis=1),
    "min": lambda f, x: f(x),
    "amax": lambda f, x: f(x, axis=1),
    "amin": lambda f, x: f(x, 0),
    "prod": lambda f, x: f(x, axis=1),
    "cumsum": lambda f, x: f(x, axis=1),
    "reshape": lambda f, x: f(x, (3, 2)),
    "transpose": lambda f, x: f(x, (1, 0)),
    "swapaxes": lambda f, x: f(x, 0, 1),
    "moveaxis": lambda f, x: f(x, 0, -1),
    "expand_dims": lambda f, x: f(x, 1),
    "squeeze": lambda f, x: f(x[:1], 0),
    "broadcast_to": lambda f, x: f(x, (2, 2, 3)),
    "concatenate": lambda f, x: f([x, x], axis=1),
    "stack": lambda f, x: f([x, x], axis=-1),
    "split": lambda f, x: f(x, 3, axis=1)[1],
    "pad": lambda f, x: f(x, 1),
    "flip": lambda f, x: f(x, 0),
    "take": lambda f, x: f(x, [0, 0, 2], axis=1),
    "take_along_axis": lambda f, x: f(x, np.array([[2, 0], [1, 1]]), axis=1),
    "matmul": lambda f, x: f(x, X.T),
    "einsum": lambda f, x: f("ij,kj->ik", x, X),
    "outer": lambda f, x: f(x, x),
    "where": lambda f, x: f(X > 0.5, x, 0.0),
    "clip": lambda f, x: f(x, 0.25, 1.0),
    "argmax": lambda f, x: f(x, axis=1),
}


@pytest.mark.parametrize("name", UFUNCS)
def test_elementwise_functions_of_numpy(name, x):
    y = getattr(np, name)(x)
    assert isinstance(y, mt.Tensor)
    assert y.requires_grad
    np.testing.assert_allclose(y.detach().numpy(), getattr(np, name)(X), rtol=1e-14)


@pytest.mark.parametrize("name", BINARY + COMPARISONS)
def test_functions_of_two_arguments(name, x):
    f = getattr(np, name)
    for a, b in [(x, X), (X, x), (x, x), (x, 2.0), (2.0, x), (np.float64(2.0), x)]:
        y = f(a, b)
        assert isinstance(y, mt.Tensor)
        assert y.requires_grad is (name in BINARY)
        plain = [t.detach().numpy() if isinstance(t, mt.Tensor) else t for t in (a, b)]
        np.testing.assert_allclose(y.detach().numpy(), f(*plain), rtol=1e-14)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_other_functions_of_numpy(name, x):
    call, f = FUNCTIONS[name], getattr(np, name)
    y = call(f, x)
    assert isinstance(y, mt.Tensor)
    assert y.requires_grad is (name != "argmax")
    np.testing.assert_allclose(y.detach().numpy(), call(f, X), rtol=1e-14)
    if y.requires_grad:
        mt.grad([y], [x], [mt.ones_like(y)])


@pytest.mark.parametrize("name", ["tanh", "sum", "exp", "maximum", "concatenate"])
def test_numpys_functions_on_a_device(name, device):
    x = device.tensor(X, requires_grad=True)
    arguments = {"maximum": (x, 0.5), "concatenate": ([x, x],)}.get(name, (x,))
    y = getattr(np, name)(*arguments)
    assert isinstance(y, mt.Tensor)
    assert y.backend == device.name


@pytest.mark.parametrize(
    "call",
    [
        lambda x: np.arctan(x),
        lambda x: np.add.reduce(x),
        lambda x: np.add(x, x, out=np.zeros((2, 3))),
        lambda x: np.fft.fft(x),
        lambda x: np.linalg.norm(x),
        lambda x: np.median(x),
        lambda x: np.nan_to_num(x),
        lambda x: np.add.at(X.copy(), 0, x),
    ],
)
def test_functions_that_tensors_do_not_have(call, x):
    with pytest.raises(TypeError, match=r"(not available for tensors.*detach\(\)\.numpy\(\))"):
        call(x)


def test_operators_with_arrays_on_either_side(x):
    for y, wanted in [
        (X * x, X * X),
        (x * X, X * X),
        (X - x, X - X),
        (X / x, X / X),
        (X**x, X**X),
        (x @ X.T, X @ X.T),
        (X.T @ x, X.T @ X),
        (X @ x.T, X @ X.T),
        (X.tolist()[0] * np.ones(3) + x, X[0] + X),
    ]:
        assert isinstance(y, mt.Tensor)
        assert y.requires_grad
        np.testing.assert_allclose(y.detach().numpy(), wanted, rtol=1e-14)


def test_an_array_is_not_changed_by_an_operator_with_a_tensor(x):
    a = X.copy()
    with pytest.raises(TypeError):
        a += x  # would have to write a recorded value into a plain array
    np.testing.assert_array_equal(a, X)


# -- leaving


def test_a_recorded_tensor_does_not_become_an_array_by_itself(x):
    for convert in (np.asarray, np.array, lambda t: t.numpy(), lambda t: (t * 2).numpy()):
        with pytest.raises(TypeError, match=r"needs a gradient.*\.detach\(\)"):
            convert(x)
    with pytest.raises(TypeError, match=r"detach"):
        np.zeros((2, 3))[...] = x
    with pytest.raises((TypeError, BufferError), match="detach"):
        np.from_dlpack(x)


def test_a_detached_tensor_is_the_same_memory(x):
    array = np.asarray(x.detach())
    assert np.shares_memory(array, x.data)
    assert not x.detach().requires_grad
    assert np.array(x.detach()) is not array
    assert not np.shares_memory(np.array(x.detach()), x.data)
    assert np.asarray(x.detach(), dtype=np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="copy"):
        np.asarray(x.detach(), dtype=np.float32, copy=False)


def test_dlpack(x):
    array = np.from_dlpack(x.detach())
    assert np.shares_memory(array, x.data)
    np.testing.assert_array_equal(array, X)


def test_a_device_array_does_not_become_a_host_array_by_itself(device):
    t = device.tensor(X)
    np.testing.assert_array_equal(t.numpy(), X)  # asked for
    np.testing.assert_array_equal(t.to("numpy").numpy(), X)
    assert t.to(device.name) is t


def test_gradients_travel_between_backends(device):
    x = mt.tensor(X, requires_grad=True)
    y = (x.to(device.name) ** 2).sum().to("numpy") * 3.0
    y.backward()
    assert x.grad.backend == "numpy"
    np.testing.assert_array_equal(x.grad.numpy(), 6 * X)


# -- Python's protocols


def test_attributes(x):
    assert (x.shape, x.ndim, x.size, x.dtype, x.backend) == ((2, 3), 2, 6, np.float64, "numpy")
    assert len(x) == 2
    assert x.is_leaf
    assert not (x * 1).is_leaf
    np.testing.assert_array_equal(x.T.detach().numpy(), X.T)
    with pytest.raises(AttributeError):
        getattr(x, "nonsense")  # noqa: B009
    with pytest.raises(AttributeError):
        x.nonsense = 1


def test_iteration_is_one_operation(x):
    rows = list(x)
    assert len(rows) == 2
    assert rows[0].place[0] is rows[1].place[0]
    (rows[0] * rows[1]).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), X[::-1])
    with pytest.raises((TypeError, ValueError), match="0-d"):
        iter(mt.tensor(1.0))
    with pytest.raises(TypeError):
        len(mt.tensor(1.0))


def test_numbers():
    t = mt.tensor(2.5)
    assert float(t) == t.item() == 2.5
    assert int(t) == 2
    assert bool(t)
    assert [10, 20, 30][mt.tensor(1)] == 20
    assert list(range(mt.tensor(3)))[-1] == 2
    with pytest.raises(TypeError):
        [1, 2][mt.tensor(1.0)]
    with pytest.raises(ValueError, match="ambiguous"):
        bool(mt.tensor([1.0, 2.0]))
    with pytest.raises((TypeError, ValueError)):
        float(mt.tensor([1.0, 2.0]))
    with pytest.raises((TypeError, ValueError)):
        mt.tensor([1.0, 2.0]).item()


def test_comparisons_are_elementwise_and_tensors_are_hashable(x):
    assert (x == X).numpy().all()
    assert (x > 0.5).dtype == np.bool_
    assert not (x != X).requires_grad
    assert len({x, x, mt.tensor(X)}) == 2


def test_repr():
    assert repr(mt.tensor([1.0, 2.0])) == "tensor([1., 2.])"
    assert repr(mt.tensor(1.5, requires_grad=True)) == "tensor(1.5, requires_grad=True)"
    assert repr(mt.tensor([1, 2])) == "tensor([1, 2])"
    assert repr(mt.tensor([True])) == "tensor([ True])"
    assert repr(mt.tensor(X)).endswith("dtype=float64)")
    assert repr(mt.tensor(X[0, :2]) * 1).startswith("tensor([0.125, 0.375]")


def test_methods_are_the_functions(x):
    for name in (
        "sum",
        "mean",
        "var",
        "std",
        "prod",
        "max",
        "min",
        "exp",
        "tanh",
        "sigmoid",
        "relu",
        "sqrt",
        "square",
        "log",
        "abs",
        "sin",
        "cos",
        "cumsum",
        "squeeze",
    ):
        got, wanted = getattr(x, name)(), getattr(mt, name)(x)
        np.testing.assert_array_equal(got.detach().numpy(), wanted.detach().numpy())
    assert x.reshape(3, 2).shape == x.reshape((3, 2)).shape == x.reshape(-1, 2).shape == (3, 2)
    assert x.transpose().shape == x.transpose(1, 0).shape == x.swapaxes(0, 1).shape == (3, 2)
    assert x.take([0, 1], axis=1).shape == (2, 2)
    assert x.clip(0, 1).max().item() == 1.0
    assert x.argmax(axis=1).numpy().tolist() == [2, 2]
    assert (abs(-x) == x).numpy().all()


def test_astype(x):
    y = x.astype(np.float32)
    assert y.dtype == np.float32
    y.sum().backward()
    assert x.grad.dtype == np.float64
    whole = x.astype(np.int64)
    assert whole.dtype == np.int64
    assert not whole.requires_grad


# -- copies


def test_leaves_are_copied_and_pickled(x, tmp_path):
    (x * x).sum().backward()
    for duplicate in (copy.copy, copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))):
        y = duplicate(x)
        assert y.requires_grad
        assert y is not x
        np.testing.assert_array_equal(y.detach().numpy(), X)
        assert not np.shares_memory(y.data, x.data)
    p = nn.Parameter(mt.tensor(X))
    assert type(copy.deepcopy(p)) is nn.Parameter
    assert type(pickle.loads(pickle.dumps(p))) is nn.Parameter


def test_results_are_not_copied_or_pickled(x):
    y = x
    for _ in range(3000):
        y = y * 1.0
    for duplicate in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"leaves.*\.detach\(\)"):
            duplicate(y)
    np.testing.assert_array_equal(copy.deepcopy(y.detach()).numpy(), X)


def test_a_model_is_copied_after_a_forward_pass():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.LSTM(4, 2))
    model(mt.ones(5, 1, 3))[0].sum().backward()
    twin = copy.deepcopy(model)
    for (name, p), (_, q) in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        assert not np.shares_memory(p.data, q.data), name
        np.testing.assert_array_equal(p.detach().numpy(), q.detach().numpy())
    pickle.loads(pickle.dumps(model.state_dict()))


# -- making


def test_tensor_copies(x):
    array = X.copy()
    t = mt.tensor(array)
    array[0, 0] = 99.0
    assert t.numpy()[0, 0] == X[0, 0]
    assert not np.shares_memory(mt.tensor(t).data, t.data)
    assert not mt.tensor(x).requires_grad


def test_dtypes_of_what_is_made():
    assert mt.tensor(1.0).dtype == mt.tensor([1.0, 2]).dtype == np.float32
    assert mt.tensor([1, 2]).dtype == np.int64
    assert mt.tensor([True]).dtype == np.bool_
    assert mt.tensor(X).dtype == np.float64
    assert mt.tensor(np.float64(1.0)).dtype == np.float64
    assert mt.tensor(X, np.float32).dtype == np.float32
    assert mt.tensor(0.1, np.float64).item() == 0.1
    for make in (mt.zeros, mt.ones, mt.randn, mt.rand):
        assert make(2, 3).shape == make((2, 3)).shape == (2, 3)
        assert make(2).dtype == np.float32
        assert make().shape == ()
        assert make(2, dtype=np.float64, requires_grad=True).requires_grad
    assert mt.full((2,), 7).numpy().tolist() == [7.0, 7.0]
    assert mt.arange(3).dtype == np.int64
    assert mt.arange(0, 1, 0.5).numpy().tolist() == [0.0, 0.5]
    assert mt.eye(2, 3).shape == (2, 3)
    assert mt.zeros_like(mt.tensor(X)).dtype == np.float64
    assert mt.ones_like(mt.tensor([1, 2])).dtype == np.int64


def test_everything_is_made_on_the_default_backend(device):
    with device():
        made = [
            mt.tensor([1.0]), mt.zeros(2), mt.ones(2), mt.full((2,), 3.0), mt.arange(3),
            mt.eye(2), mt.randn(2), mt.rand(2), mt.tensor(X),
        ]  # fmt: skip
    assert {t.backend for t in made} == {device.name}
    assert mt.zeros_like(made[0]).backend == device.name


def test_the_same_seed_gives_the_same_numbers_on_every_backend(device):
    mt.manual_seed(5)
    host = mt.randn(3, 4), mt.rand(2)
    with device():
        mt.manual_seed(5)
        there = mt.randn(3, 4), mt.rand(2)
    for a, b in zip(host, there, strict=True):
        np.testing.assert_array_equal(a.numpy(), device.host(b))


def test_generators_are_independent_and_can_be_saved():
    a, b = mt.Generator(1), mt.Generator(1)
    first = a.normal((3,))
    np.testing.assert_array_equal(first, b.normal((3,)))
    state = a.get_state()
    rest = [a.uniform(0, 1, (5,)), a.integers(0, 9, (4,)), a.permutation(6), a.bernoulli(0.5, (9,))]
    b.set_state(state)
    again = [
        b.uniform(0, 1, (5,)),
        b.integers(0, 9, (4,)),
        b.permutation(6),
        b.bernoulli(0.5, (9,)),
    ]
    for x, y in zip(rest, again, strict=True):
        np.testing.assert_array_equal(x, y)
    assert not np.array_equal(mt.Generator(2).normal((3,)), first)
    assert not np.array_equal(mt.Generator((1, 2)).normal((3,)), mt.Generator((2, 1)).normal((3,)))


def test_detach_of_a_nesting(x):
    y = x * 2
    tree = {"h": y, "rest": (y, [y, 3], "name")}
    cut = mt.detach(tree)
    assert not cut["h"].requires_grad
    assert not cut["rest"][0].requires_grad
    assert cut["rest"][1][1] == 3
    assert cut["rest"][2] == "name"
    assert y.requires_grad


@pytest.mark.parametrize("shape", [(0,), (0, 3)])
def test_iteration_over_nothing(shape):
    x = mt.zeros(shape, requires_grad=True)
    assert list(x) == list(x * 2.0) == list(mt.unstack(x)) == []
    assert list(mt.zeros(shape)) == []


def test_formatting():
    loss = mt.tensor(np.array(1.23456), requires_grad=True) * 2.0
    assert f"{loss:.4f}" == "2.4691"
    assert f"{mt.tensor(7):03d}" == "007"
    assert f"{loss:10.2e}" == "  2.47e+00"
    assert f"{loss}" == str(loss)
    assert "requires_grad" in f"{loss}"
    several = mt.tensor([1.0, 2.0])
    assert f"{several}" == str(several)


def test_shape_ndim_and_size_of_numpy(x):
    assert np.shape(x) == (2, 3)
    assert np.ndim(x) == 2
    assert np.size(x) == 6
    with pytest.raises(TypeError):
        np.size(x, 0)


@pytest.mark.parametrize("call", [np.emath.sqrt, np.linalg.outer, np.linalg.matmul, np.fft.ifft])
def test_functions_of_numpys_other_modules_are_not_ours(call, x):
    """np.emath.sqrt(-1) is 1j, mt.sqrt(-1) is NaN: one name, two functions."""
    with pytest.raises(TypeError):
        call(x, x) if call.__module__ == "numpy.linalg" else call(x)


@pytest.mark.parametrize(
    ("call", "reference"),
    [
        (lambda x: np.pad(x, 1, mode="constant"), lambda X: np.pad(X, 1)),
        (lambda x: np.pad(x, 1, "constant"), lambda X: np.pad(X, 1)),
        (
            lambda x: np.pad(x, ((1, 0), (0, 2)), constant_values=np.float64(2)),
            lambda X: np.pad(X, ((1, 0), (0, 2)), constant_values=2),
        ),
        (lambda x: np.reshape(x, shape=(3, 2)), lambda X: X.reshape(3, 2)),
        (lambda x: np.reshape(x, shape=-1), lambda X: X.reshape(-1)),
        (lambda x: x.reshape(shape=[6, 1]), lambda X: X.reshape(6, 1)),
        (
            lambda x: np.concatenate([x, x[0]], axis=None),
            lambda X: np.concatenate([X, X[0]], axis=None),
        ),
        (lambda x: np.split(x, np.int64(3), axis=1)[1], lambda X: X[:, 1:2]),
        (lambda x: np.pad(x, np.int64(1)), lambda X: np.pad(X, 1)),
    ],
)
def test_numpys_own_spellings(call, reference, x):
    y = call(x)
    assert isinstance(y, mt.Tensor)
    np.testing.assert_array_equal(y.detach().numpy(), reference(X))
    assert mt.grad(y.sum(), x).shape == X.shape


@pytest.mark.parametrize(
    "options", [{"mode": "reflect"}, {"mode": "edge"}, {"constant_values": (1, 2)}]
)
def test_other_paddings_of_numpy_are_refused(options, x):
    with pytest.raises(TypeError, match=r"one number.*mt\.pad"):
        np.pad(x, 1, **options)


def test_logical_functions_of_numpy():
    a, b = mt.tensor([True, True, False]), np.array([True, False, False])
    for f in (np.logical_and, np.logical_or, np.bitwise_and, np.bitwise_or):
        for y in (f(a, b), f(b, a)):
            assert isinstance(y, mt.Tensor)
            assert y.numpy().tolist() == f(a.numpy(), b).tolist()
    for f in (np.logical_not, np.invert, np.bitwise_not):
        assert f(a).numpy().tolist() == [False, False, True]


def test_masks_are_combined_by_operators():
    x = mt.tensor([-1.0, 0.5, 2.0])
    np.testing.assert_array_equal(((x > 0) & (x < 1)).data, [False, True, False])
    np.testing.assert_array_equal(((x < 0) | (x > 1)).data, [True, False, True])
    np.testing.assert_array_equal((~(x > 0)).data, [True, False, False])
    np.testing.assert_array_equal((np.array([True, True, False]) & (x > 0)).data, [0, 1, 0])


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64, np.bool_])
def test_activations_of_integers_do_not_wrap(dtype):
    n = mt.tensor(np.array([0, 1], dtype))
    np.testing.assert_allclose(mt.sigmoid(n).data, [0.5, 1 / (1 + np.exp(-1.0))], rtol=1e-6)
    np.testing.assert_allclose(mt.softplus(n).data, np.log1p(np.exp([0.0, 1.0])), rtol=1e-6)
