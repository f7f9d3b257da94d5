"""What cannot be done is refused, by an error that says what was wrong and what to do."""

import numpy as np
import pytest

import microtensor as mt
from microtensor import GradientStateError, optim


def leaf(*numbers, dtype=np.float64):
    return mt.tensor(np.array(numbers, dtype), requires_grad=True)


# -- the state of the graph


@pytest.mark.parametrize("again", ["backward", "grad"])
def test_a_second_pass_over_a_released_graph(again):
    x = leaf(1.0, 2.0)
    y = mt.exp(x).sum()
    y.backward()
    with pytest.raises(GradientStateError, match=r"`sum`.*second time.*retain_graph=True.*detach"):
        y.backward() if again == "backward" else mt.grad(y, x)
    assert x.grad.numpy().tolist() == np.exp([1.0, 2.0]).tolist()  # unchanged by the failure


def test_a_second_pass_names_the_operation_where_it_stopped():
    x = leaf(1.0)
    h = mt.tanh(x)
    (h * 2.0).backward()
    with pytest.raises(GradientStateError, match=r"`tanh` \(called at .*test_errors\.py:\d+\)"):
        (h * 3.0).backward()


def test_retain_graph_allows_it():
    x = leaf(1.0, 2.0)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.numpy().tolist() == [6.0, 12.0]
    with pytest.raises(GradientStateError):
        y.backward()


def test_create_graph_retains_unless_told_otherwise():
    x = leaf(2.0)
    y = x * x
    mt.grad(y, x, create_graph=True)
    mt.grad(y, x, create_graph=True, retain_graph=False)
    with pytest.raises(GradientStateError, match="second time"):
        mt.grad(y, x)


def test_a_state_that_was_carried_over_without_detach():
    w, state = leaf(0.5), mt.tensor(np.ones(1))
    state = mt.tanh(state * w)
    state.sum().backward()
    state = mt.tanh(state * w)
    with pytest.raises(GradientStateError, match=r"carried.*mt\.detach\(state\)"):
        state.sum().backward()


def test_backward_of_a_constant():
    for y in (mt.tensor([1.0]), leaf(1.0).detach(), mt.tensor(1.0) * 2.0):
        with pytest.raises(GradientStateError, match=r"requires_grad=True.*no_grad.*detached"):
            y.backward()
    with mt.no_grad():
        y = leaf(1.0) * 2.0
    with pytest.raises(GradientStateError, match="needs no gradient"):
        mt.grad(y, leaf(1.0))


def test_an_unused_input_of_grad():
    x, unused = leaf(1.0), leaf(1.0, 2.0)
    y = x * x
    with pytest.raises(GradientStateError, match=r"input 1.*\(2,\).*allow_unused=True.*None"):
        mt.grad(y, [x, unused])
    y = x * x
    g, none = mt.grad(y, [x, unused], allow_unused=True)
    assert g.item() == 2.0
    assert none is None


def test_an_input_that_needs_no_gradient():
    x, constant = leaf(1.0), mt.tensor(1.0)
    with pytest.raises(GradientStateError, match=r"input 1.*requires_grad=True.*requires_grad_\("):
        mt.grad(x * 2.0, [x, constant])


def test_an_input_that_is_no_tensor():
    x = leaf(1.0)
    with pytest.raises((GradientStateError, TypeError)):
        mt.grad(x * 2.0, [x.data])


# -- the cotangent


def test_a_result_of_several_numbers_needs_a_cotangent():
    y = leaf(1.0, 2.0) * 2.0
    with pytest.raises(ValueError, match=r"shape \(2,\).*cotangent.*\.sum\(\)"):
        y.backward()
    with pytest.raises(ValueError, match="cotangent"):
        mt.grad(y, leaf(1.0))


def test_one_element_of_any_rank_needs_none():
    for shape in [(), (1,), (1, 1)]:
        x = mt.tensor(np.full(shape, 3.0), requires_grad=True)
        (x * x).backward()
        assert x.grad.shape == shape
        assert x.grad.item() == 6.0


def test_a_cotangent_of_another_shape_number_or_kind():
    x = leaf(1.0, 2.0)
    y = x * 2.0
    with pytest.raises(ValueError, match=r"\(3,\).*\(2,\)"):
        y.backward(mt.zeros(3, dtype=np.float64))
    with pytest.raises(ValueError, match=r"\(\).*\(2,\)"):
        y.backward(1.0)
    with pytest.raises(TypeError, match="cotangent"):
        y.backward([1.0, 1.0])
    with pytest.raises(ValueError, match="1 outputs, but 2 cotangents"):
        mt.grad([y], [x], [None, None])
    assert x.grad is None
    y.backward(np.ones(2, np.float32))  # another dtype is converted
    assert x.grad.dtype == np.float64


def test_a_cotangent_of_another_backend(device):
    y = leaf(1.0, 2.0) * 2.0
    with pytest.raises(TypeError, match="'numpy'"):
        y.backward(device.tensor(np.ones(2)))


def test_backward_starts_from_tensors():
    with pytest.raises((TypeError, GradientStateError), match=r"ndarray|recorded"):
        mt.grad([np.ones(2)], [leaf(1.0)], [np.ones(2)])


# -- what has a gradient


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.bool_, np.complex128, np.float16])
def test_numbers_without_gradient(dtype):
    with pytest.raises(TypeError, match=r"float32 and float64.*\.astype\(np\.float32\)"):
        mt.tensor(np.zeros(2, dtype), requires_grad=True)
    with pytest.raises(TypeError, match=str(np.dtype(dtype))):
        mt.tensor(np.zeros(2, dtype)).requires_grad_()


def test_python_integers_are_integers():
    with pytest.raises(TypeError, match="int64"):
        mt.tensor([1, 2], requires_grad=True)


@pytest.mark.parametrize(
    "data",
    ["text", [1.0, "x"], [object()], {"a": 1}, None],
    ids=["str", "list with str", "list with object", "dict", "None"],
)
def test_what_is_not_numbers(data):
    with pytest.raises(TypeError, match="numbers"):
        mt.tensor(data)


def test_lists_of_unequal_length():
    with pytest.raises((TypeError, ValueError)):
        mt.tensor([[1.0, 2.0], [3.0]])


def test_a_list_of_tensors():
    with pytest.raises(TypeError, match=r"mt\.stack"):
        mt.tensor([leaf(1.0), leaf(2.0)])


def test_a_result_cannot_be_told_to_need_no_gradient():
    y = leaf(1.0) * 2.0
    with pytest.raises(GradientStateError, match=r"\.detach\(\)"):
        y.requires_grad = False
    y.requires_grad = True  # it does already


def test_gradients_of_integers_through_operations_are_constants():
    n = mt.tensor([1, 2, 3])
    assert not (n * 2).requires_grad
    x = leaf(1.0, 2.0, 3.0)
    (x * n).sum().backward()
    assert x.grad.numpy().tolist() == [1.0, 2.0, 3.0]


# -- arguments


@pytest.mark.parametrize(
    "wrong", [[1.0, 2.0], "text", None, object(), {1.0}], ids=lambda wrong: type(wrong).__name__
)
def test_an_argument_that_is_no_array(wrong):
    x = leaf(1.0, 2.0)
    for call in (lambda: mt.multiply(x, wrong), lambda: mt.exp(wrong), lambda: mt.matmul(wrong, x)):
        with pytest.raises(TypeError, match=rf"is a {type(wrong).__name__}.*tensor"):
            call()


def test_mixed_backends(device):
    host, there = leaf(1.0, 2.0), device.tensor([1.0, 2.0], requires_grad=True)
    name = device.name
    for call in (
        lambda: host * there,
        lambda: mt.multiply(host, there),
        lambda: mt.concatenate([host, there]),
        lambda: mt.where(np.array([True, False]), there, there),
        lambda: there + np.ones(2),
        lambda: np.ones(2) + there,
        lambda: mt.linear(there, mt.ones(3, 2, dtype=np.float64)),
    ):
        with pytest.raises(TypeError) as caught:
            call()
        message = str(caught.value)
        assert f"'{name}'" in message
        assert "'numpy'" in message
        assert f".to('{name}')" in message
    np.testing.assert_array_equal(device.host((host.to(name) * there).detach()), [1.0, 4.0])


def test_calls_that_do_not_match_the_signature():
    x = leaf(1.0)
    with pytest.raises(TypeError, match=r"add\(\) missing.*'b'"):
        mt.add(x)
    with pytest.raises(TypeError, match=r"flip\(x, axis=None\)"):
        mt.flip(x, 0, 1)
    with pytest.raises(TypeError, match=r"twice|multiple values"):
        mt.flip(x, x=x)
    with pytest.raises(TypeError):
        mt.exp(x, nonsense=1)


# -- changes in place


SAVERS = {
    "multiply": lambda x: x * x,
    "exp of it": lambda x: mt.exp(x * 1.0) * x,
    "matmul": lambda x: x @ mt.tensor(np.ones((2, 2)), requires_grad=True),
    "power": lambda x: x**3,
    "softmax": lambda x: mt.softmax(x) * x,
    "where": lambda x: mt.where(x > 0, x, 1.0) * x,
}


def overwrite_leaf(x):
    with mt.no_grad():
        x[0] = 5.0


def overwrite_detached(x):
    x.detach()[...] = 5.0


def overwrite_view(x):
    x.detach()[1:][...] = 5.0


def step(x):
    x.grad = mt.ones_like(x)
    optim.SGD([x], lr=0.1).step()


WRITES = [overwrite_leaf, overwrite_detached, overwrite_view, step]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("name", SAVERS)
def test_backward_refuses_when_what_it_needs_was_overwritten(name, write):
    x = leaf(1.0, 2.0)
    y = SAVERS[name](x).sum()
    write(x)
    x.grad = None
    with pytest.raises(GradientStateError, match=r"\(2,\).*`\w+` \(called at .*changed in place.*"):
        y.backward()
    assert x.grad is None


@pytest.mark.parametrize("write", WRITES)
def test_backward_goes_on_when_it_needs_nothing_of_it(write):
    x = leaf(1.0, 2.0)
    y = (x + 1.0).sum() - x.reshape(2, 1).sum() * 3.0
    write(x)
    x.grad = None
    y.backward()
    assert x.grad.numpy().tolist() == [-2.0, -2.0]


def test_a_write_before_the_operation_is_no_matter():
    x = leaf(1.0, 2.0)
    overwrite_leaf(x)
    (x * x).sum().backward()
    assert x.grad.numpy().tolist() == [10.0, 4.0]


def test_a_view_of_a_saved_array_that_was_written_first():
    base = mt.tensor(np.ones((3, 2)))
    row = base[1]  # a view, which shares the memory
    w = leaf(1.0, 2.0)
    y = (row * w).sum()
    base[0] = 7.0  # another row, but nobody keeps books of single elements
    with pytest.raises(GradientStateError, match="changed in place"):
        y.backward()


def test_a_result_that_was_saved_and_written_through_detach():
    x = leaf(1.0, 2.0)
    h = mt.exp(x)
    h.detach()[0] = 0.0
    with pytest.raises(GradientStateError, match="`exp`"):
        h.sum().backward()


def test_the_first_pass_of_training_after_a_step_is_fine():
    w = leaf(1.0, 2.0)
    sgd = optim.SGD([w], lr=0.1)
    for _ in range(3):
        sgd.zero_grad()
        (w * w).sum().backward()
        sgd.step()
    np.testing.assert_allclose(w.detach().numpy(), [0.8**3, 2 * 0.8**3])


def test_assignment_to_a_result_or_a_recorded_leaf():
    x = leaf(1.0, 2.0)
    y = x * 2.0
    with pytest.raises(GradientStateError, match=r"mt\.where or mt\.concatenate"):
        y[0] = 1.0
    with mt.no_grad(), pytest.raises(GradientStateError, match="result of a recorded"):
        y[0] = 1.0
    with pytest.raises(GradientStateError, match=r"with mt\.no_grad\(\)"):
        x[0] = 1.0
    target = mt.zeros(2, dtype=np.float64)
    with pytest.raises(GradientStateError, match=r"value\.detach\(\)"):
        target[0] = y[0]
    target[0] = y[0].detach()
    target[1:] = 3.0
    target[mt.tensor([True, False])] = np.array([9.0])
    assert target.numpy().tolist() == [9.0, 3.0]


def test_augmented_assignment_makes_a_new_tensor():
    x = leaf(1.0, 2.0)
    kept = y = x * 1.0
    y += 1.0
    y *= x
    assert y is not kept
    assert kept.detach().numpy().tolist() == [1.0, 2.0]
    y.sum().backward()
    assert x.grad.numpy().tolist() == [3.0, 5.0]


def test_a_complex_cotangent_is_refused():
    """Its imaginary part would be dropped on the way."""
    x = leaf(1.0, 2.0)
    y = x * 2.0
    for c in (np.array([1j, 1.0]), mt.tensor(np.array([1j, 1.0]))):
        with pytest.raises(TypeError, match=r"complex.*float64.*\.real"):
            y.backward(c)
        with pytest.raises(TypeError, match="complex"):
            mt.grad([y], [x], [c])
    with pytest.raises(TypeError, match="complex"):
        (x[0] * 2.0).backward(np.complex128(1j))
    assert x.grad is None


@pytest.mark.parametrize("operate", [mt.multiply, mt.add, mt.subtract, mt.divide, mt.matmul])
@pytest.mark.parametrize("create_graph", [True, False])
def test_complex_contributions_are_refused(operate, create_graph):
    x, z = leaf(1.0, 2.0), mt.tensor(np.array([1j, 1.0]))
    y = operate(x, z)
    with pytest.raises(TypeError, match=rf"rule of `{operate.__name__}`.*complex.*no gradients"):
        mt.grad([y], [x], [np.ones(y.shape, y.dtype)], create_graph=create_graph)


def test_results_of_parameters_that_come_from_a_generator():
    """`model.parameters()` is an iterator, and may be given as it is."""
    model = mt.nn.Sequential(mt.nn.Linear(2, 3), mt.nn.Linear(3, 1))
    x = mt.ones((4, 2))
    wanted = mt.grad(model(x).sum(), list(model.parameters()))
    got = mt.grad(model(x).sum(), model.parameters())
    assert isinstance(got, tuple)
    assert len(got) == len(wanted) == 4
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    (g,) = mt.grad(model(x).sum(), (p for p in [model[0].weight]))
    assert g.shape == (3, 2)
