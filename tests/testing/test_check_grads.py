"""The check itself is checked: it passes what is right and catches every mistake planted here."""

import numpy as np
import pytest

import microtensor as mt
from microtensor.declaration import REGISTRY
from microtensor.testing import GradientError, GradReport, check_grads

RNG = np.random.Generator(np.random.Philox(3))
X, W, B = RNG.uniform(0.5, 1.5, (3, 4)), RNG.normal(size=(4, 2)), RNG.normal(size=2)


@pytest.fixture(autouse=True)
def registry():
    """Operations that these tests declare are forgotten with them."""
    before = dict(REGISTRY)
    yield
    REGISTRY.clear()
    REGISTRY.update(before)


def planted(rule, forward=lambda xp, x: x * x * x, **properties):
    """A cube whose rule is `rule`."""

    def cube(xp, x):
        return forward(xp, x)

    operation = mt.primitive(cube, **properties)
    operation.vjp("x", rule)
    return operation


def layer(x, w, b):
    return mt.tanh(x @ w + b), (x * x).sum(axis=1)


def test_what_is_right_passes(backend):
    report = check_grads(layer, *map(backend.tensor, (X, W, B)), order=3)
    assert report == GradReport(3, (0, 1, 2), report.error, "complex step")
    assert 0 <= report.error < 1


def test_float32_passes_with_its_own_tolerance_and_a_wrong_gradient_does_not():
    x = X.astype(np.float32)
    assert check_grads(lambda x: mt.exp(-x * x), x, order=2).error < 1
    with pytest.raises(GradientError, match=r"input 0 `x`\["):
        check_grads(planted(lambda g, x: g * 2.9 * x * x), x)


MISTAKES = {
    "a factor": (lambda g, x: g * 6 * x * x, 2),
    "a sign": (lambda g, x: -g * 3 * x * x, -1),
    "half of it forgotten": (lambda g, x: g * 1.5 * x * x, 0.5),
    "a power": (lambda g, x: g * 3 * x, None),
    "the cotangent forgotten": (lambda g, x: 3 * x * x + 0 * g, None),
    "nothing at all": (lambda g: g * 0, 0),
    "not a number": (lambda g, x: g * 3 * x * x + float("nan"), None),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_rule_is_caught_and_its_ratio_told(name):
    rule, ratio = MISTAKES[name]
    with pytest.raises(GradientError) as caught:
        check_grads(planted(rule), X)
    error = caught.value
    assert (error.order, error.input) == (1, 0)
    assert len(error.element) == 2
    if ratio is not None:
        assert error.analytic / error.numeric == pytest.approx(ratio, abs=1e-6)
        assert f"ratio {ratio:g}" in str(error).replace("-0,", "0,").replace("-0;", "0;")


def test_the_message_names_input_and_element():
    target = np.zeros((3, 4))
    target[1, 2] = 1.0  # the only derivative that is wrong
    rule = planted(lambda g, x: g * x * x * (3 + (target if isinstance(x, np.ndarray) else 0)))
    with pytest.raises(GradientError, match=r"input 1 `b`\[1, 2\] .* ratio 1\.333"):
        check_grads(lambda a, b: a * rule(b), X, X)


def test_one_wrong_number_among_many_is_found():
    wrong = np.full(10_000, 3.0)
    wrong[1234] = 3.1
    x = np.linspace(0.5, 1.5, 10_000)
    with pytest.raises(GradientError) as caught:
        check_grads(planted(lambda g, x: g * wrong * x * x), x)
    assert caught.value.element == (1234,)


def test_a_rule_that_is_right_once_but_not_twice_is_caught_at_order_two():
    frozen = planted(lambda g, x: g * 3 * (x.detach() if isinstance(x, mt.Tensor) else x) ** 2)
    check_grads(frozen, X)
    with pytest.raises(GradientError, match="derivative of order 2 of input 0") as caught:
        check_grads(frozen, X, order=2)
    assert caught.value.order == 2


def test_a_path_that_was_cut_is_caught():
    with pytest.raises(GradientError, match="input 1"):
        check_grads(lambda a, b: a * b.detach(), X, X)


def test_a_dropped_sum_of_broadcasting_is_caught():
    def row(xp, x, b):
        return x + b

    operation = mt.primitive(row)
    operation.vjp("x", lambda g: g)
    operation.vjp("b", lambda g: g[0])  # of one row where the sum of all is due
    with pytest.raises(GradientError, match="input 1"):
        check_grads(operation, X, X[0])


def test_a_transposed_contribution_of_a_square_matrix_is_caught():
    def product(xp, a, b):
        return a @ b

    operation = mt.primitive(product)
    operation.vjp("a", lambda g, b: g @ b)
    operation.vjp("b", lambda g, a: a.T @ g)
    with pytest.raises(GradientError, match="input 0"):
        check_grads(operation, X[:, :3], X[:, 1:])


def test_a_rule_that_writes_into_the_cotangent_is_caught():
    def rule(g, x):
        array = g.data if isinstance(g, mt.Tensor) else g
        result = g * 3 * x * x
        array *= 2
        return result

    with pytest.raises(GradientError, match="changed the cotangent in place"):
        check_grads(planted(rule), X)


def test_a_forward_that_writes_into_its_argument_is_caught():
    def forward(xp, x):
        x += 1.0
        return x * x * x

    x = X.copy()
    with pytest.raises(GradientError, match="changed input 0 `x` in place"):
        check_grads(planted(lambda g, x: g * 3 * x * x, forward), x)


def test_inputs_keep_numbers_flags_and_gradients(backend):
    x = backend.tensor(X, requires_grad=True)
    check_grads(lambda x, n: mt.sin(x) * n, x, 3)
    assert x.grad is None
    np.testing.assert_array_equal(backend.host(x.detach()), X)


def test_only_the_inputs_named_are_differentiated():
    labels = mt.tensor([1, 0, 3])
    report = check_grads(lambda x, y: mt.cross_entropy(x, y), X, labels)
    assert report.wrt == (0,)
    assert check_grads(lambda a, b: a * b.detach(), X, X, wrt=[-2]).wrt == (0,)


def test_a_function_that_ignores_its_input_has_gradient_zero():
    assert check_grads(lambda a, b: a * 2, X, B, order=2).wrt == (0, 1)


def test_the_same_seed_gives_the_same_report_and_touches_no_global_stream():
    first, again, other = (check_grads(layer, X, W, B, rng=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    state = mt.default_generator().get_state()
    check_grads(layer, X, W, B)
    assert mt.default_generator().get_state() == state


def test_zero_sizes_and_single_numbers():
    check_grads(mt.exp, np.zeros((0, 3)), order=2)
    check_grads(mt.exp, np.array(0.5), order=3)


def test_calls_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="no float32 or float64 input 1"):
        check_grads(lambda x, n: x, X, 3, wrt=[1])
    with pytest.raises(ValueError, match="needs an input"):
        check_grads(lambda n: mt.tensor(1.0), 3)
    with pytest.raises(ValueError, match="order from 1"):
        check_grads(mt.exp, X, order=0)
    with pytest.raises(TypeError, match="must return a tensor or several, not a float"):
        check_grads(lambda x: 1.0, X)
