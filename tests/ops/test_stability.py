"""Where the formula of the textbook overflows, loses all digits or divides by zero."""

import numpy as np
import pytest

import microtensor as mt
from microtensor.ops import reduction

DTYPES = [np.float32, np.float64]


def value_and_gradient(f, numbers, dtype):
    x = mt.tensor(np.asarray(numbers, dtype), requires_grad=True)
    y = f(x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == dtype
    return y.detach().numpy(), x.grad.numpy()


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_far_out(dtype):
    """Warnings are errors in these tests, so an overflow inside would show."""
    x = [-np.inf, -1e30, -1000.0, -80.0, -20.0, 0.0, 20.0, 1000.0, 1e30, np.inf]
    y, g = value_and_gradient(mt.sigmoid, x, dtype)
    exact = [0, 0, 0, np.exp(-80.0), 2.0611536181902037e-09, 0.5, 0.9999999979388463, 1, 1, 1]
    limits = np.finfo(dtype)
    np.testing.assert_allclose(y, np.array(exact), rtol=4 * limits.eps, atol=limits.tiny)
    assert np.isfinite(g).all()
    np.testing.assert_allclose(g[3:6], np.array(exact[3:6]) * (1 - np.array(exact[3:6])), rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_softplus_far_out(dtype):
    y, g = value_and_gradient(mt.softplus, [-1000.0, -30.0, 0.0, 30.0, 1000.0], dtype)
    tail, limits = np.log1p(np.exp(-30.0)), np.finfo(dtype)
    np.testing.assert_allclose(y, [0, tail, np.log(2), 30 + tail, 1000.0], rtol=4 * limits.eps)
    np.testing.assert_allclose(g, [0, tail, 0.5, 1, 1], rtol=1e-6, atol=limits.tiny)


@pytest.mark.parametrize("dtype", DTYPES)
def test_logsumexp_and_softmax_of_huge_numbers(dtype):
    x = [[1000.0, 1000.0, -1000.0], [-1e4, -1e4, -1e4]]
    y, g = value_and_gradient(lambda t: mt.logsumexp(t, axis=1), x, dtype)
    np.testing.assert_allclose(y, [1000 + np.log(2), -1e4 + np.log(3)], rtol=1e-6)
    np.testing.assert_allclose(g, [[0.5, 0.5, 0], [1 / 3] * 3], rtol=1e-3)
    y, g = value_and_gradient(lambda t: mt.softmax(t, axis=1), x, dtype)
    np.testing.assert_allclose(y, [[0.5, 0.5, 0], [1 / 3] * 3], rtol=1e-6)
    np.testing.assert_allclose(g, 0, atol=1e-6)
    y, g = value_and_gradient(lambda t: mt.log_softmax(t, axis=1), x, dtype)
    np.testing.assert_allclose(y[0], [-np.log(2), -np.log(2), -2000 - np.log(2)], rtol=1e-6)
    assert np.isfinite(g).all()


def test_logsumexp_of_minus_infinity():
    """A probability of zero among others, as a mask makes it; and nothing but such."""
    y, g = value_and_gradient(mt.logsumexp, [0.0, -np.inf, 0.0], np.float64)
    np.testing.assert_allclose(y, np.log(2))
    np.testing.assert_allclose(g, [0.5, 0, 0.5])
    assert mt.logsumexp(mt.tensor([-np.inf, -np.inf])).item() == -np.inf


@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_of_hopeless_logits(dtype):
    y, g = value_and_gradient(
        lambda t: mt.cross_entropy(t, np.array([1, 0])), [[1000.0, 0.0], [1000.0, 0.0]], dtype
    )
    np.testing.assert_allclose(y, 500.0)
    np.testing.assert_allclose(g, [[0.5, -0.5], [0, 0]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_binary_cross_entropy_of_hopeless_logits(dtype):
    x, target = [-1000.0, -1000.0, 1000.0, 1000.0, 0.0], np.array([0, 1, 0, 1, 1], dtype)
    y, g = value_and_gradient(
        lambda t: mt.binary_cross_entropy_with_logits(t, target, "none"), x, dtype
    )
    np.testing.assert_allclose(y, [0, 1000, 1000, 0, np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(g, [0, -1, 1, 0, -0.5], atol=1e-7)


def test_binary_cross_entropy_at_the_ends_is_bounded_as_pytorchs():
    target = np.array([0.0, 1.0, 1.0, 0.0])
    y, g = value_and_gradient(
        lambda p: mt.binary_cross_entropy(p, target, "none"), [0.0, 1.0, 0.0, 1.0], np.float64
    )
    np.testing.assert_allclose(y, [0, 0, 100, 100])
    np.testing.assert_allclose(g, [1, -1, -1e12, 1e12])


def test_log1p_and_expm1_keep_the_digits_of_small_numbers():
    tiny = [1e-18, -1e-18, 1e-300]
    for f in (mt.log1p, mt.expm1):
        y, g = value_and_gradient(f, tiny, np.float64)
        np.testing.assert_array_equal(y, tiny)
        np.testing.assert_array_equal(g, 1.0)
    y, _ = value_and_gradient(lambda x: mt.log(1 + x), tiny, np.float64)
    np.testing.assert_array_equal(y, 0.0)  # what the textbook's formula makes of them


@pytest.mark.parametrize("exponent", [0, 0.0, 1, 1.0, 2, 2.0, 3, 0.5])
def test_powers_of_zero(exponent):
    wanted = {0: 0.0, 1: 1.0}.get(exponent, 0.0)
    x = mt.tensor(np.zeros(2), requires_grad=True)
    if exponent == 0.5:
        with pytest.warns(RuntimeWarning, match="divide by zero"):
            assert np.isinf(mt.grad((x**exponent).sum(), x).numpy()).all()
        return
    g = mt.grad((x**exponent).sum(), x)
    np.testing.assert_array_equal(g.numpy(), wanted)
    p = mt.tensor(np.full(2, float(exponent)), requires_grad=True)
    gx, gp = mt.grad((x**p).sum(), [x, p])
    np.testing.assert_array_equal(gx.numpy(), wanted)
    np.testing.assert_array_equal(gp.numpy(), 0.0)


def test_the_second_derivative_of_a_square_at_zero():
    x = mt.tensor(np.zeros(2), requires_grad=True)
    (g,) = mt.grad([(x**2).sum()], [x], create_graph=True)
    np.testing.assert_array_equal(mt.grad(g.sum(), x).numpy(), 2.0)
    (g,) = mt.grad([(x**1).sum()], [x], create_graph=True)
    np.testing.assert_array_equal(mt.grad(g.sum(), x).numpy(), 0.0)


def test_negative_bases_with_whole_exponents():
    x = mt.tensor(np.array([-2.0, -0.5]), requires_grad=True)
    np.testing.assert_allclose(mt.grad((x**3).sum(), x).numpy(), [12.0, 0.75])
    np.testing.assert_allclose(mt.grad((x**-2).sum(), x).numpy(), [0.25, 16.0])


def test_sqrt_at_zero_is_infinite_and_says_so():
    x = mt.tensor(np.zeros(2), requires_grad=True)
    y = mt.sqrt(x).sum()
    with pytest.warns(RuntimeWarning, match="divide by zero"):
        y.backward()
    assert np.isinf(x.grad.numpy()).all()
    assert "infinite" in mt.sqrt.__doc__


@pytest.mark.parametrize("dtype", DTYPES)
def test_std_of_equal_numbers_has_gradient_zero(dtype):
    y, g = value_and_gradient(
        lambda t: mt.std(t, axis=1), [[3.0, 3.0, 3.0], [1.0, 2.0, 3.0]], dtype
    )
    np.testing.assert_allclose(y, [0, np.sqrt(2 / 3)], rtol=1e-6)
    np.testing.assert_allclose(g, [[0, 0, 0], [-0.40824829, 0, 0.40824829]], atol=1e-6)
    assert "gradient given there is 0" in mt.std.__doc__
    _, g = value_and_gradient(reduction._root, [0.0, 4.0], dtype)
    np.testing.assert_array_equal(g, [0, 0.25])


def test_products_with_zeros_have_exact_derivatives():
    for numbers, wanted in [([2.0, 0.0, 3.0], [0, 6, 0]), ([0.0, 0.0, 3.0], [0, 0, 0])]:
        _, g = value_and_gradient(mt.prod, numbers, np.float64)
        np.testing.assert_array_equal(g, wanted)
    x = mt.tensor(np.array([0.0, 0.0, 3.0]), requires_grad=True)
    (g,) = mt.grad([mt.prod(x)], [x], create_graph=True)
    np.testing.assert_array_equal(mt.grad(g[0], x).numpy(), [0, 3, 0])


# -- kinks and ties, where a derivative has to be chosen: the choices that are documented


def test_choices_at_kinks():
    zero = [0.0]
    assert value_and_gradient(mt.abs, zero, np.float64)[1] == 0
    assert value_and_gradient(mt.relu, zero, np.float64)[1] == 0
    assert value_and_gradient(mt.sign, zero, np.float64)[1] == 0
    _, g = value_and_gradient(lambda t: mt.clip(t, -1, 1), [-2.0, -1.0, 0.0, 1.0, 2.0], np.float64)
    np.testing.assert_array_equal(g, [0, 1, 1, 1, 0])


@pytest.mark.parametrize("f", [mt.maximum, mt.minimum])
def test_equal_arguments_share(f):
    a, b = (mt.tensor(np.ones(2), requires_grad=True) for _ in range(2))
    f(a, b).sum().backward()
    np.testing.assert_array_equal(a.grad.numpy(), 0.5)
    np.testing.assert_array_equal(b.grad.numpy(), 0.5)


@pytest.mark.parametrize("f", [mt.max, mt.min])
def test_equal_extremes_share_evenly(f):
    _, g = value_and_gradient(lambda t: f(t, axis=0), [[1.0, 2.0], [1.0, 5.0], [1.0, 2.0]], float)
    rows = {"max": [1 / 3, 0, 1 / 3, 1, 1 / 3, 0], "min": [1 / 3, 0.5, 1 / 3, 0, 1 / 3, 0.5]}
    np.testing.assert_allclose(g.ravel(), rows[f.__name__])


@pytest.mark.parametrize("base", [0.5, 1.0, 3.0])
def test_the_mixed_second_derivative_of_a_power_with_exponent_zero(base):
    """d2(x^p)/dx dp = x^(p-1) (1 + p log x), which at p = 0 is 1/x, not 1."""
    x = mt.tensor(np.array(base), requires_grad=True)
    p = mt.tensor(np.array(0.0), requires_grad=True)
    (gx,) = mt.grad([x**p], [x], create_graph=True)
    assert gx.item() == 0
    assert mt.grad(gx, p).item() == pytest.approx(1 / base, rel=1e-14)
    (gp,) = mt.grad([x**p], [p], create_graph=True)
    assert mt.grad(gp, x).item() == pytest.approx(1 / base, rel=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("keepdims", [True, False])
def test_logsumexp_at_both_infinities_is_silent(dtype, keepdims):
    """Warnings are errors here: log(0) must not be taken on the way."""
    x = np.array([[-np.inf, -np.inf], [np.inf, 0], [-np.inf, 3], [np.nan, 1]], dtype)
    y = mt.logsumexp(mt.tensor(x), axis=1, keepdims=keepdims)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y.numpy().ravel(), np.array([-np.inf, np.inf, 3, np.nan], dtype))
