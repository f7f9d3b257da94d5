"""Each verdict of check_grads, each guess, and what else its errors say."""

import copy
import pickle
import re
import textwrap

import numpy as np
import pytest

import microtensor as mt
from microtensor.declaration import REGISTRY
from microtensor.testing import GradientError, check_grads

RNG = np.random.Generator(np.random.Philox(3))
X, SQUARE = RNG.normal(size=(3, 4)), RNG.normal(size=(3, 3))
SEQUENCE = RNG.normal(size=(5, 2, 3))


@pytest.fixture(autouse=True)
def registry():
    """Operations that these tests declare are forgotten with them."""
    before = dict(REGISTRY)
    yield
    REGISTRY.clear()
    REGISTRY.update(before)


def caught(f, *inputs, **options):
    with pytest.raises(GradientError) as error:
        check_grads(f, *inputs, **options)
    return error.value


def is_tensor(g):
    return isinstance(g, mt.Tensor)


def operation(forward, **rules):
    made = mt.primitive(forward)
    for argument, rule in rules.items():
        made.vjp(argument, rule)
    return made


# -- wrong_gradient, by hand and by rule; the guesses

HAND = {
    "twice": (np.tanh, lambda g, x: 2 * g / np.cosh(x) ** 2, "scale", "added twice"),
    "half": (np.tanh, lambda g, x: g / np.cosh(x) ** 2 / 2, "scale", "one of two equal"),
    "three times": (np.tanh, lambda g, x: 3 * g / np.cosh(x) ** 2, "scale", "3 is the length of"),
    "seven times": (np.tanh, lambda g, x: 7 * g / np.cosh(x) ** 2, "scale", "added 7 times"),
    "mean for sum": (np.sum, lambda g, x: g * np.ones_like(x) / x.size, "scale", "1/12, and 12 is"),
    "a third off": (np.tanh, lambda g, x: g / np.cosh(x) ** 2 / 0.7, "scale", "constant factor"),
    "sign": (np.tanh, lambda g, x: -g / np.cosh(x) ** 2, "sign", "ratio is -1"),
    "sign of some": (np.abs, lambda g, x: g * 1, "sign", "numbers the sign is wrong"),
    "nothing": (np.tanh, lambda g, x: 0 * g, "cut", "Nothing arrives"),
    "no gradient": (np.tanh, lambda g, x: None, "cut", "Nothing arrives"),
    "backward": (np.sinh, lambda g, x: (g * np.cosh(x))[::-1].copy(), "reversed", "axis 0"),
    "a step late": (np.sinh, lambda g, x: np.roll(g * np.cosh(x), 1, 0), "shift", "along axis 0"),
    "a step early": (np.sinh, lambda g, x: np.roll(g * np.cosh(x), -1, 1), "shift", "along axis 1"),
    "gates": (
        np.sinh,
        lambda g, x: (g * np.cosh(x))[:, [1, 0, 2, 3]],
        "blocks",
        "4 blocks along axis 1",
    ),
    "a factor too much": (np.sinh, lambda g, x: g * np.cosh(x) * x, "factor", "too much"),
    "a factor missing": (lambda x: x * x * x / 3, lambda g, x: g * x, "factor", "missing"),
    "its result for its input": (
        lambda x: np.exp(np.sin(x)) * x,
        lambda g, x: g * np.exp(np.sin(x)) * (np.cos(x) * x + 1) * np.exp(np.sin(x)) * x,
        "factor",
        "output 0",
    ),
    "a forgotten step": (
        lambda x: np.cumsum(x, 0),
        lambda g, x: np.cumsum(g[::-1], 0)[::-1] * np.array([[1], [1], [0]]),
        "partial",
        r"4 of 12 numbers, all at index 2 of axis 0 \(it is zero there\)",
    ),
    "float32's precision": (
        np.tanh,
        lambda g, x: g / np.cosh(x.astype(np.float32)).astype(np.float64) ** 2,
        "precision",
        "float32's precision",
    ),
}


@pytest.mark.parametrize("name", HAND)
def test_the_pattern_of_the_numbers_tells_the_mistake(name):
    f, vjp, cause, text = HAND[name]
    for rng in range(3):
        error = caught(f, X, vjp=vjp, rng=rng)
        assert error.verdict == ("dtype" if cause == "precision" else "wrong_gradient")
        assert error.cause == cause
        assert error.input == 0
        assert re.search(text, str(error))


def test_a_transpose_is_recognised_square_or_of_other_axes():
    error = caught(lambda a: a @ SQUARE, SQUARE, vjp=lambda g, a: SQUARE @ g.T)
    assert (error.verdict, error.cause) == ("wrong_gradient", "transpose")
    error = caught(lambda a: a @ X, SQUARE, vjp=lambda g, a: X @ g.T)
    assert (error.verdict, error.cause) == ("wrong_gradient", "transpose")
    cube = RNG.normal(size=(2, 2, 2))
    error = caught(np.sinh, cube, vjp=lambda g, x: (g * np.cosh(x)).transpose(1, 2, 0))
    assert error.cause == "transpose"
    # and a wrong shape that is the transposed one
    error = caught(lambda a: a @ SQUARE[:, :2], X[:, :3], vjp=lambda g, a: SQUARE[:, :2] @ g.T)
    assert (error.verdict, error.cause) == ("wrong_gradient", "transpose")
    error = caught(lambda a: a * 2, X, vjp=lambda g, a: (2 * g).T)
    assert (error.verdict, error.cause) == ("shape", "transpose")


def test_exchanged_rules_and_operands_are_recognised():
    a, b = RNG.normal(size=(2, 3, 4))
    error = caught(lambda x, y: x * y * y, a, b, vjp=lambda g, x, y: (2 * g * x * y, g * y * y))
    assert error.cause == "exchanged"
    error = caught(lambda x, y: x * y, a, b, vjp=lambda g, x, y: (g * y, g * y))
    assert (error.cause, error.input) == ("factor", 1)
    assert "input 1 `y` / input 0 `x`: one stands for the other" in str(error)


BROADCAST = {
    "the first row": lambda g, x, b: (g + 0, g[0] + 0),
    "the last row": lambda g, x, b: (g + 0, g[-1] + 0),
    "all rows": lambda g, x, b: (g + 0, g + 0),
}


@pytest.mark.parametrize("name", BROADCAST)
def test_a_missing_sum_over_a_repeated_axis_is_recognised(name):
    error = caught(lambda x, b: x + b, X, X[0], vjp=BROADCAST[name])
    assert error.cause == "broadcast"
    assert error.verdict == ("shape" if name == "all rows" else "wrong_gradient")
    assert error.input == 1
    assert "sum over the ax" in str(error)


def test_a_missing_sum_over_two_axes():
    error = caught(
        lambda x, b: x * b,
        SEQUENCE,
        RNG.normal(size=(2, 1)),
        vjp=lambda g, x, b: (g * b, (g * x)[0].sum(1, keepdims=True)),
    )
    assert error.cause == "broadcast"
    assert "axis 0" in str(error)


def test_a_broken_gate_order_and_a_step_in_a_module_name_the_parameter():
    lstm = mt.nn.LSTM(3, 4).astype(np.float64)

    class Exchanged(mt.nn.Module):
        def __init__(self):
            self.inner = lstm

        def forward(self, x):
            return self.inner(x.detach() + (x - x.detach()) * 2)[0]

    error = caught(Exchanged(), SEQUENCE)
    assert (error.input, error.cause) == (0, "scale")


# -- second order


def test_a_wrong_rule_of_second_order_is_named_by_input_or_cotangent():
    frozen = operation(
        lambda xp, x: x * x * x,
        x=lambda g, x: g * 3 * x * (x.detach() if is_tensor(x) else x),
    )
    check_grads(frozen, X)
    error = caught(frozen, X, order=2)
    assert (error.verdict, error.order, error.input, error.cause) == (
        "wrong_gradient",
        2,
        0,
        "scale",
    )
    cut = operation(
        lambda xp, x: x * x * x, x=lambda g, x: (g.detach() if is_tensor(g) else g) * 3 * x * x
    )
    check_grads(cut, X)
    error = caught(cut, X, order=2)
    assert (error.input, error.cause) == ("cotangent 0", "cut")


# -- kinks


@pytest.mark.parametrize("rng", range(5))
def test_a_subgradient_at_a_kink_passes_and_is_reported(rng):
    x = np.array([0.0, 1.0, -1.0, 0.0])
    report = check_grads(mt.relu, x, rng=rng)
    assert sorted(kink.element for kink in report.kinks) == [(0,), (3,)]
    for kink in report.kinks:
        low, high = sorted([kink.left, kink.right])
        assert low <= kink.analytic <= high
        assert high - low > 0
    assert check_grads(mt.relu, X, rng=rng).kinks == ()
    assert len(check_grads(mt.abs, x, rng=rng).kinks) == 2
    assert check_grads(mt.maximum, x, x[::-1].copy(), rng=rng).kinks


def test_a_value_outside_the_one_sided_derivatives_is_the_verdict_kink():
    wild = operation(lambda xp, x: xp.maximum(x, 0), x=lambda g, x: g * ((x > 0) + 1.5 * (x == 0)))
    check_grads(wild, np.array([1.0, -1.0]))
    error = caught(wild, np.array([1.0, 0.0, -1.0]))
    assert (error.verdict, error.element) == ("kink", (1,))
    assert "outside the one-sided derivatives" in str(error)
    check_grads(wild, np.array([1.0, 0.0, -1.0]), kinks="skip")


def test_kinks_can_be_refused():
    error = caught(mt.abs, np.array([1.0, 0.0]), kinks="refuse")
    assert (error.verdict, error.element) == ("kink", (1,))
    assert "between the one-sided derivatives" in str(error)
    check_grads(mt.abs, np.array([1.0, 2.0]), kinks="refuse")


def test_a_kink_does_not_hide_a_wrong_number_elsewhere():
    half = operation(
        lambda xp, x: xp.maximum(x, 0), x=lambda g, x: g * ((x > 0) - 0.001 * (x > 0.9))
    )
    error = caught(half, np.array([0.0, 0.5, 1.0, 0.0]))
    assert (error.verdict, error.element) == ("wrong_gradient", (2,))


def test_at_a_tie_both_operands_cannot_have_all_of_the_gradient():
    def rule(g, a, b):
        return g * ((a > b) + 1.0 * (a == b))

    greedy = mt.primitive(lambda xp, a, b: xp.maximum(a, b))
    greedy.vjp("a", rule)
    greedy.vjp("b", lambda g, a, b: rule(g, b, a))
    x, y = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0])
    check_grads(mt.maximum, x, y)
    assert caught(greedy, x, y).verdict == "kink"
    first = mt.primitive(lambda xp, a, b: xp.maximum(a, b))
    first.vjp("a", rule)
    first.vjp("b", lambda g, a, b: g * (b > a))
    check_grads(first, x, y)  # all of it to one of them is a subgradient as well
    check_grads(lambda x: mt.max(x, axis=0), np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 0.0]]))


# -- what is no wrong gradient


def test_a_function_that_swings_too_fast_is_ill_conditioned():
    error = caught(lambda x: mt.sin(x * 1e12), np.array([0.3, 1.0]))
    assert error.verdict == "ill_conditioned"


def test_cancellation_by_central_differences_is_ill_conditioned_not_wrong():
    def f(x):
        return (np.abs(x) + 1e9 - 1e9) * x

    error = caught(f, X, vjp=lambda g, x: g * 2 * np.abs(x))
    assert error.verdict == "ill_conditioned"
    # Where the complex step is possible, it does not mind.
    check_grads(lambda x: ((x + 1e5) - 1e5) * x, X)


@pytest.mark.parametrize("rng", range(3))
def test_saturation_and_steep_places_are_no_mistakes(rng):
    far = np.array([40.0, -40.0, 700.0, -700.0, 1e-9])
    for f in (mt.sigmoid, mt.tanh, mt.softplus, mt.square, mt.sin):
        check_grads(f, far, order=2, rng=rng)
    small = np.array([1e-3, 0.5, 3.0])
    for f in (mt.log, mt.sqrt, lambda x: 1 / x, lambda x: x**-3.5):
        check_grads(f, small, order=2, rng=rng)
    check_grads(lambda x: 1e-12 * mt.tanh(x), X, order=2, rng=rng)
    # A mistake stays one however small the whole function is.
    error = caught(lambda x: 1e-12 * (mt.tanh(x) + 0.01 * x.detach()), X)
    assert error.verdict == "wrong_gradient"


def test_a_minimum_where_value_and_gradient_are_zero_is_no_mistake():
    for rng in range(30):
        x = RNG.integers(-20, 20, (3,)) / 16
        for reduction in ("mean", "sum", "none"):
            check_grads(mt.nn.MSELoss(reduction), x, x.copy(), order=2, rng=rng)
        check_grads(lambda x: mt.abs(x) ** 3, np.zeros(2), mode="central", rng=rng)


@pytest.mark.parametrize("mode", ["auto", "complex", "central"])
def test_methods(mode):
    report = check_grads(lambda x: mt.tanh(x) * x, X, mode=mode, order=2)
    assert report.method == ("central differences" if mode == "central" else "complex step")
    error = caught(np.tanh, X, vjp=lambda g, x: 1.001 * g / np.cosh(x) ** 2, mode=mode)
    assert error.verdict == "wrong_gradient"


def test_complex_numbers_are_not_believed_where_they_mislead():
    # Of a complex number abs is its length: the imaginary part is lost on the way.
    both = operation(lambda xp, x: xp.absolute(x) * x, x=lambda g, x: g * 2 * mt.abs(x))
    assert check_grads(both, X).method == "central differences"
    lost = operation(lambda xp, x: xp.absolute(x) + x, x=lambda g, x: g * 1)
    assert caught(lost, X).verdict == "wrong_gradient"
    tiny = operation(
        lambda xp, x: x + 1e-6 * xp.absolute(x), x=lambda g, x: g * (1 + 1e-6 * mt.sign(x))
    )
    check_grads(tiny, X)
    # What complex numbers do not see is not believed to be zero, small as it is.
    forgotten = operation(lambda xp, x: x + 1e-6 * xp.absolute(x), x=lambda g: g * 1)
    assert caught(forgotten, X).verdict in ("wrong_gradient", "dtype")
    with pytest.raises(ValueError, match="does not take complex numbers"):
        check_grads(lambda x: x.real * 1, X, vjp=lambda g, x: g * 1, mode="complex")
    check_grads(lambda x: x.real * 1, X, vjp=lambda g, x: g * 1)


# -- form


def test_a_state_or_random_numbers_are_nondeterministic():
    calls = []

    def counting(x):
        calls.append(1)
        return x * len(calls)

    assert caught(counting, X).verdict == "nondeterministic"
    error = caught(mt.nn.Dropout(0.5), X)
    assert error.verdict == "nondeterministic"
    assert "differ: output 0[" in str(error)
    assert caught(lambda x: x[: 1 + len(calls.append(1) or calls) % 2], X).verdict == (
        "nondeterministic"
    )
    check_grads(mt.nn.Dropout(0.5).eval(), X)


SHAPES = {
    "shape": (lambda g, x: g[0], "shape"),
    "dtype": (lambda g, x: g.astype(np.float32), "dtype"),
    "backend": (lambda g, x: [1.0], "backend"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_form_of_a_rules_result(name):
    rule, verdict = SHAPES[name]
    error = caught(operation(lambda xp, x: x * 1, x=rule), X)
    assert error.verdict == verdict
    by_hand = {"backend": lambda g, x: mt.tensor(g)}.get(name, rule)
    error = caught(lambda x: x * 1, X, vjp=by_hand)
    assert error.verdict == verdict
    assert error.input == 0


def test_a_gradient_on_another_backend(device):
    def move(xp, x):
        return x * 1

    there = operation(move, x=lambda g, x: device.host(g))
    assert caught(there, device.tensor(X)).verdict == "backend"


def test_float32_stays_float32():
    widening = operation(lambda xp, x: x * np.ones(4), x=lambda g: g.astype(np.float32))
    x = X.astype(np.float32)
    error = caught(widening, x)
    assert error.verdict == "dtype"
    assert "makes float64 of float32" in str(error)
    assert caught(lambda x: mt.tanh(x) * np.ones(4), x).verdict == "dtype"
    check_grads(lambda x: mt.tanh(x.astype(np.float64)), x)
    check_grads(lambda x, n: x * n, x, 2.5)


def test_a_function_that_rounds_to_float32_on_its_way():
    error = caught(lambda x: mt.tanh(x).astype(np.float32).astype(np.float64) * 2, X)
    assert (error.verdict, error.cause) == ("dtype", "precision")


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_float32_inputs_are_checked_by_a_derivative_in_float64(factor):
    f = operation(
        lambda xp, x: xp.sin(x) * x, x=lambda g, x: g * factor * (mt.cos(x) * x + mt.sin(x))
    )
    x = X.astype(np.float32)
    if factor == 1:
        assert check_grads(f, x, order=2).method == "complex step"
    else:
        assert caught(f, x).verdict == "wrong_gradient"
        assert caught(f, x).cause == "scale"


MUTATING = {
    "input in the forward pass": (lambda x: np.multiply(x, 2, out=x), lambda g, x: 2 * g, 0),
    "input in the backward pass": (lambda x: x * x, lambda g, x: np.multiply(x, 2 * g, out=x), 0),
    "cotangent": (lambda x: x * x, lambda g, x: np.multiply(g, 2 * x, out=g), None),
}


@pytest.mark.parametrize("name", MUTATING)
def test_whatever_is_changed_in_place_is_named_and_restored(name):
    f, vjp, which = MUTATING[name]
    x = X.copy()
    error = caught(f, x, vjp=vjp)
    assert error.verdict == "mutated_input"
    assert error.input == which
    np.testing.assert_array_equal(x, X)


def test_a_result_that_the_backward_pass_overwrites():
    kept = []

    def f(x):
        kept[:] = [np.tanh(x)]
        return kept[0]

    error = caught(f, X, vjp=lambda g, x: g * (1 - np.square(kept[0], out=kept[0])))
    assert error.verdict == "mutated_input"
    assert "its own result" in str(error)


def test_memory_that_is_somebody_elses():
    assert caught(lambda x: x + 0, X, vjp=lambda g, x: g).verdict == "aliased_gradient"
    error = caught(lambda x, y: x + y, X, X + 1, vjp=lambda g, x, y: [g.copy()] * 2)
    assert error.verdict == "aliased_gradient"
    assert "shares memory with the gradient of input 1 `y`" in str(error)
    buffer = np.zeros_like(X)
    error = caught(np.sinh, X, vjp=lambda g, x: np.multiply(g, np.cosh(x), out=buffer))
    assert error.verdict == "aliased_gradient"
    assert "memory that is used again" in str(error)


def test_a_backward_pass_that_works_only_once():
    kept = {}

    def f(x):
        kept["slope"] = 1 - np.tanh(x) ** 2
        return np.tanh(x)

    def once(g, x):
        slope = kept.pop("slope", 1.0)
        return g * slope

    assert caught(f, X, vjp=once).verdict == "wrong_gradient"
    check_grads(f, X, vjp=lambda g: g * kept["slope"])
    assert caught(np.sin, X, vjp=lambda g, x: np.cos(x) + 0 * g).verdict == "wrong_gradient"


def test_what_is_not_finite():
    error = caught(mt.log, np.array([1.0, -1.0]))
    assert (error.verdict, "nan at these inputs" in str(error)) == ("nan", True)
    error = caught(mt.sqrt, np.array([1.0, 0.0]))
    assert (error.verdict, error.element) == ("nan", (1,))
    error = caught(lambda x: x**1.5, np.array([1.0, 0.0]))
    assert (error.verdict, error.element) == ("nan", (1,))
    assert "edge of its domain" in str(error)

    def picky(x):
        if np.any(x.real < 0):
            raise ValueError("no negative numbers here")
        return x * x

    error = caught(picky, np.array([1.0, 0.0]), vjp=lambda g, x: 2 * g * x)
    assert error.verdict == "nan"


# -- several inputs and outputs, nests, modules


def test_a_module_brings_its_parameters_and_states(backend):
    lstm = mt.nn.LSTM(3, 4, num_layers=2).astype(np.float64)
    if backend.name != "numpy":
        lstm.to(backend.name)
    h, c = RNG.normal(size=(2, 2, 2, 4))
    before = {name: backend.host(p).copy() for name, p in lstm.named_parameters()}
    state = (backend.tensor(h), backend.tensor(c))
    report = check_grads(lstm, backend.tensor(SEQUENCE), state)
    assert report.wrt == (0, "1[0]", "1[1]", *[name for name, _ in lstm.named_parameters()])
    for name, parameter in lstm.named_parameters():
        np.testing.assert_array_equal(backend.host(parameter), before[name])
        assert parameter.grad is None
        assert parameter.requires_grad
    chosen = check_grads(lstm, backend.tensor(SEQUENCE), state, wrt=[1, "weight_hh_l1"])
    assert chosen.wrt == ("1[0]", "1[1]", "weight_hh_l1")
    with pytest.raises(ValueError, match="no float32 or float64 input 'weight'"):
        check_grads(lstm, backend.tensor(SEQUENCE), wrt=["weight"])


def test_a_parameter_is_named():
    class Scaled(mt.nn.Module):
        def __init__(self):
            self.scale = mt.nn.Parameter(np.array([2.0, 3.0, 0.5, 1.0]))

        def forward(self, x):
            return {"out": x * self.scale.detach(), "more": [self.scale * 1, None]}

    error = caught(Scaled(), X)
    assert (error.input, error.verdict) == ("scale", "wrong_gradient")
    assert "parameter `scale`[" in str(error)


def test_nests_of_inputs_and_outputs():
    def f(state, scale):
        return {"a": (state["h"] * scale, state["c"][0])}, [state["c"][1] * state["h"]]

    state = {"h": X, "c": [X + 1, mt.tensor(X - 1)]}
    assert check_grads(f, state, 2.0).wrt == ("0['h']", "0['c'][0]", "0['c'][1]")
    assert check_grads(f, state, 2.0, wrt=[0], order=2).wrt == ("0['h']", "0['c'][0]", "0['c'][1]")


def test_by_hand_with_several_results_and_inputs_that_are_no_arrays():
    def f(x, n, w):
        return np.sin(x) * n, x @ w

    def vjp(g, x, n, w):
        return g[0] * n * np.cos(x) + g[1] @ w.T, x.T @ g[1]

    assert check_grads(f, X, 3, X.T.copy(), vjp=vjp).wrt == (0, 2)
    with pytest.raises(ValueError, match="returned 1 gradients for 2 float inputs"):
        check_grads(f, X, 3, X.T.copy(), vjp=lambda g, x, n, w: vjp(g, x, n, w)[0])
    with pytest.raises(ValueError, match="cannot be differentiated"):
        check_grads(f, X, 3, X.T.copy(), vjp=vjp, order=2)
    with pytest.raises(TypeError, match="must return an array"):
        check_grads(lambda x: "text", X, vjp=lambda g, x: g)
    with pytest.raises(TypeError, match="pass vjp="):
        check_grads(lambda x: x.data, X)


def test_cotangents():
    check_grads(mt.sin, X, cotangent="ones")
    check_grads(mt.sin, X, cotangent=X)
    check_grads(lambda x: (mt.sin(x), x.sum()), X, cotangent=[X, np.array(1.0)])
    zero = operation(lambda xp, x: x - xp.mean(x), x=lambda g: g * 0)
    check_grads(zero, X, cotangent="ones")  # why random is the default
    assert caught(zero, X).cause == "cut"
    with pytest.raises(ValueError, match="the outputs have shapes"):
        check_grads(mt.sin, X, cotangent=X[0])
    with pytest.raises(ValueError, match="cotangent is"):
        check_grads(mt.sin, X, cotangent="twos")


def test_arguments_that_make_no_sense():
    for options in ({"mode": "exact"}, {"kinks": "maybe"}):
        with pytest.raises(ValueError, match="is one of"):
            check_grads(mt.sin, X, **options)


def test_tolerances_and_steps():
    near = operation(lambda xp, x: xp.sin(x), x=lambda g, x: g * mt.cos(x) * (1 + 1e-7))
    assert caught(near, X).verdict in ("wrong_gradient", "dtype")
    check_grads(near, X, rtol=1e-6)
    check_grads(near, X, atol=1e-5)
    check_grads(near, X, mode="central", eps=1e-4, rtol=1e-6)
    far = operation(lambda xp, x: xp.sin(x), x=lambda g, x: g * mt.cos(x) * 1.1)
    for options in ({"rtol": 1e-2}, {"atol": 1e-3}, {"eps": 1e-3, "mode": "central"}):
        assert caught(far, X, **options).verdict == "wrong_gradient"


# -- large inputs


def test_ten_thousand_numbers():
    big = np.linspace(-3, 3, 10_000)
    assert check_grads(lambda x: mt.sin(x) * x, big, order=2).error < 1
    twice = operation(lambda xp, x: x * x * x, x=lambda g, x: 6 * g * x * x)
    error = caught(twice, big)
    assert error.cause == "scale"
    assert "of 10000 numbers" in str(error).lower()
    assert len(error.reproducer) < 300  # cut down to the number that is wrong
    step = np.where(np.arange(10_000) == 7_777, 0.0, big)
    assert [kink.element for kink in check_grads(mt.relu, step).kinks] == [(7_777,)]


def test_one_wrong_number_in_a_large_matrix_is_found():
    wrong = np.full((100, 100), 3.0)
    wrong[12, 34] = 3.01
    cube = operation(lambda xp, x: x * x * x, x=lambda g, x: g * wrong * x * x)
    for rng in range(5):
        error = caught(cube, RNG.uniform(0.5, 1.5, (100, 100)), rng=rng)
        assert error.element == (12, 34)
        assert error.ratio == pytest.approx(3.01 / 3)


# -- the reproducer


def run(text, **names):
    exec(textwrap.dedent(text), names)


def sour(x):
    return x * x


def sour_vjp(g, x):
    return g * x


def test_the_reproducer_runs_and_raises_the_same():
    inputs = {
        "float64": X,
        "float32": X.astype(np.float32),
        "three axes": SEQUENCE,
        "one number": np.array(0.3),
        "Fortran": np.asfortranarray(X),
    }
    for value in inputs.values():
        error = caught(sour, value, vjp=sour_vjp, rng=5)
        assert "rng=5" in error.reproducer
        assert all(
            len(line) < 110 and line == line.rstrip() for line in error.reproducer.split("\n")
        )
        assert error.reproducer in textwrap.dedent(str(error).replace("\n    ", "\n"))
        source = "\n".join(
            line for line in error.reproducer.splitlines() if "test_verdicts" not in line
        )
        with pytest.raises(GradientError) as again:
            run(source, sour=sour, sour_vjp=sour_vjp)
        assert (again.value.analytic, again.value.numeric) == (error.analytic, error.numeric)


def test_the_reproducer_holds_nests_and_options():
    def f(pair, n):
        return pair[0] * pair[1].detach()

    error = caught(f, (X, X + 1), 3, order=2, kinks="skip", atol=1e-9)
    assert "check_grads(f, x0, x1, order=2, atol=1e-09, kinks='skip')" in error.reproducer
    with pytest.raises(GradientError):
        run(error.reproducer.replace("f = ...", "f = g"), g=f)


def test_the_error_has_everything_as_attributes():
    error = caught(sour, X, vjp=sour_vjp)
    assert isinstance(error, AssertionError)
    assert error.ratio == pytest.approx(0.5)
    assert error.inputs[0] is X
    assert (error.order, error.input, error.verdict, error.cause) == (
        1,
        0,
        "wrong_gradient",
        "scale",
    )
    assert error.analytic == pytest.approx(error.numeric / 2)
    assert error.element is not None


# -- what reviewers found: mistakes that hid, and correct functions that were accused

Y = np.array([2.04, -2.56, 0.42, -0.57])
FAR = np.random.default_rng(7).normal(size=(5, 4))

HIDDEN = {
    "a small number beside a large one": (
        np.exp,
        [np.array([25.0, 0.3])],
        lambda g, x: g * np.exp(x) * np.array([1.0, -1.0]),
    ),
    "a small input beside a large one": (
        lambda x, b: (x * x, b * b),
        [np.array([1e5, 2e5]), Y],
        lambda g, x, b: (2 * g[0] * x, 0 * b),
    ),
    "a penalty that complex numbers do not see": (
        lambda w: ((FAR @ w) ** 2).sum() + 1e-5 * np.abs(w).sum(),
        [Y],
        lambda g, w: g * 2 * FAR.T @ (FAR @ w),
    ),
    "beside a jump": (lambda x: np.heaviside(x, 0.5), [np.array([0.0, 2.0])], lambda g, x: 7 * g),
    "beside a vertical tangent": (np.cbrt, [np.array([0.0, 2.0])], lambda g, x: 5 * g),
    "a slope too steep for the steps": (
        lambda x: np.tanh((x - Y) * 1e8),
        [Y.copy()],
        lambda g, x: 0 * g,
    ),
    "a bump too narrow for the steps": (
        lambda x: np.exp(-(((x - Y) * 1e5 + 1) ** 2)),
        [Y.copy()],
        lambda g, x: 0 * g,
    ),
    "a large constant": (lambda x: x * x + 1e12, [Y], lambda g, x: -2 * g * x),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_no_mistake_hides(name):
    f, inputs, vjp = HIDDEN[name]
    for rng in range(10):
        assert caught(f, *inputs, vjp=vjp, rng=rng).verdict in ("wrong_gradient", "ill_conditioned")


ACCUSED = {
    "softmax, float32": (mt.softmax, np.array([10, 0, 0], np.float32), 2),
    "tanh, float32": (mt.tanh, np.full(3, 6, np.float32), 2),
    "tanh": (mt.tanh, np.full(3, 9.0), 2),
    "sigmoid, float32": (mt.sigmoid, np.full(3, 10, np.float32), 2),
    "several outputs at one kink": (
        lambda a: mt.relu(a @ FAR.T),
        np.array([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]]),
        1,
    ),
    "a kink at second order": (mt.relu, np.array([0.0, 1.0, -2.0]), 2),
    "tiny numbers": (mt.log, 1e-8 * np.array([1.0, 2.0, 3.5]), 1),
    "the deviation of tiny numbers": (mt.std, 1e-8 * np.array([1.0, 2.0, 3.5]), 1),
    "a small kink on a steep slope": (lambda x: 1e4 * x + mt.relu(x), np.array([0.0, 1.0]), 1),
    "an infinite mask": (mt.exp, np.array([0.0, -np.inf, 1.0]), 1),
    "many zeros": (mt.relu, np.where(np.arange(3000) % 2, np.linspace(-1, 1, 3000), 0.0), 1),
}


@pytest.mark.parametrize("name", ACCUSED)
def test_nothing_that_is_right_is_accused(name):
    f, x, order = ACCUSED[name]
    for rng in range(10):
        check_grads(f, x, order=order, rng=rng)


def test_rounding_is_not_called_a_wrong_gradient():
    error = caught(lambda z: mt.cross_entropy(z, np.array([0])), np.array([[35.0, 0.0, 0.0]]))
    assert error.verdict == "ill_conditioned"
    x = np.array([2.04, -2.56], np.float32)
    assert caught(lambda a: (a * a + 1e10) - 1e10, x).verdict == "ill_conditioned"


def test_a_function_that_returns_nothing_to_differentiate():
    for f in (lambda a: None, lambda a: (), mt.argmax):
        with pytest.raises(TypeError, match="was `return` forgotten"):
            check_grads(f, Y)


def test_arguments_that_would_switch_the_check_off():
    for options in ({"rtol": -1}, {"atol": np.inf}, {"eps": 1e-30}, {"rtol": "a"}):
        with pytest.raises(ValueError, match="is a number from"):
            check_grads(mt.sin, Y, **options)
    with pytest.raises(ValueError, match="every gradient would be right"):
        check_grads(mt.sin, Y, cotangent=0 * Y)
    with pytest.raises(ValueError, match="real and finite"):
        check_grads(mt.sin, Y, cotangent=np.nan * Y)
    with pytest.raises(ValueError, match="order from 1"):
        check_grads(mt.sin, Y, order=1.5)
    with pytest.raises(TypeError, match="vjp is a function"):
        check_grads(mt.sin, Y, vjp=3)
    assert check_grads(lambda a, b: a * b, Y, Y, wrt=1).wrt == (1,)


def test_what_f_knows_by_itself_keeps_its_gradient():
    own = mt.nn.Parameter(Y.copy())
    check_grads(lambda x: x * own, Y)
    assert own.grad is None
    with mt.no_grad():
        check_grads(lambda x: x * own, Y)  # recording is the check's own business


def test_results_by_hand_may_be_nested():
    def f(x):
        return {"a": np.sin(x), "b": (x * x, None)}

    check_grads(f, Y, vjp=lambda g, x: g["a"] * np.cos(x) + 2 * x * g["b"][0])
    error = caught(f, Y, vjp=lambda g, x: g["a"] * np.cos(x) + x * g["b"][0])
    assert error.verdict == "wrong_gradient"


def test_an_error_can_be_copied_and_pickled():
    error = caught(sour, X, vjp=sour_vjp)
    for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (str(again), again.verdict, again.element) == (
            str(error),
            error.verdict,
            error.element,
        )


# -- many seeds: always the same verdict, and silence for what is right

RIGHT = {
    "tanh": (mt.tanh, (X,)),
    "divide": (lambda a, b: a / (b * b + 1), (X, X[0])),
    "matmul": (mt.matmul, (X, X.T)),
    "softmax": (lambda x: mt.log_softmax(x) * mt.softmax(x), (X,)),
    "max": (lambda x: mt.max(x, axis=1), (X,)),
    "float32": (lambda x: mt.logsumexp(mt.sin(x), axis=0), (X.astype(np.float32),)),
    "index": (lambda x: x[np.array([0, 0, 2])] * x[0], (X,)),
    "abs": (lambda x: mt.abs(x) * x, (X,)),
    "std": (lambda x: mt.std(x, axis=1), (X,)),
    "loss": (lambda x: mt.cross_entropy(x, mt.tensor([1, 0, 3])), (X,)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_stays_silent_for_a_hundred_seeds(name):
    f, inputs = RIGHT[name]
    for rng in range(100):
        assert check_grads(f, *inputs, rng=rng).error < 1


@pytest.mark.parametrize("factor", [1.0 + 1e-7, 1.001, 1.5, -1.0])
@pytest.mark.parametrize("function", ["sin", "abs"])
def test_a_wrong_factor_is_caught_for_a_hundred_seeds(factor, function):
    f, slope = {"sin": (np.sin, np.cos), "abs": (np.abs, np.sign)}[function]
    for rng in range(100):
        caught(f, X, vjp=lambda g, x: factor * g * slope(x), rng=rng)
