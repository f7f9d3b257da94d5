"""Derivatives of derivatives, as they are used."""

import numpy as np
import pytest

import microtensor as mt
from microtensor.testing import check_grads

RNG = np.random.Generator(np.random.Philox(7))


def leaf(array, dtype=np.float64):
    return mt.tensor(np.asarray(array, dtype), requires_grad=True)


def test_every_derivative_of_an_exponential_is_itself():
    x = leaf(0.3)
    y = mt.exp(x)
    for _ in range(6):
        (y,) = mt.grad([y], [x], create_graph=True)
        assert y.item() == pytest.approx(np.exp(0.3), rel=1e-15)


def test_powers_come_down_to_zero():
    x = leaf(2.0)
    y = x**4
    for wanted in (32.0, 48.0, 48.0, 24.0):
        (y,) = mt.grad([y], [x], create_graph=True)
        assert y.item() == wanted
    if y.requires_grad:
        assert mt.grad(y, x, allow_unused=True).item() == 0.0


def test_tanh_to_the_fourth_order():
    x = leaf(0.5)
    y, t = mt.tanh(x), np.tanh(0.5)
    exact = [
        1 - t**2,
        -2 * t * (1 - t**2),
        (6 * t**2 - 2) * (1 - t**2),
        (16 * t - 24 * t**3) * (1 - t**2),
    ]
    for wanted in exact:
        (y,) = mt.grad([y], [x], create_graph=True)
        assert y.item() == pytest.approx(wanted, rel=1e-13)


def network(x, w1, b1, w2):
    return mt.tanh(x @ w1 + b1) @ w2


def test_a_gradient_penalty():
    """(|dy/dx| - 1)^2, differentiated with respect to the weights: what a WGAN-GP trains on."""
    arrays = [RNG.normal(size=s) for s in ((5, 3), (3, 4), (4,), (4, 1))]

    def penalty(x, *weights):
        if not x.requires_grad:
            x = mt.Tensor(x.data, requires_grad=True)
        (g,) = mt.grad([network(x, *weights).sum()], [x], create_graph=True)
        return mt.mean((mt.sqrt(mt.sum(g * g, axis=1)) - 1.0) ** 2)

    check_grads(penalty, *arrays, order=2)


def test_hessian_vector_products_agree_with_the_hessian():
    x = leaf(RNG.normal(size=4))
    a = mt.tensor(RNG.normal(size=(4, 4)))

    def f(x):
        return mt.sum(mt.tanh(a @ x) ** 2) + mt.prod(x)

    (g,) = mt.grad([f(x)], [x], create_graph=True)
    hessian = np.stack([mt.grad(g[i], x, retain_graph=True).numpy() for i in range(4)])
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-12)
    v = RNG.normal(size=4)
    np.testing.assert_allclose(mt.grad([g], [x], [v])[0].numpy(), hessian @ v, atol=1e-12)

    # The same product as the derivative of a derivative along v, the cotangent being a variable.
    dummy = leaf(np.zeros(4))
    (jvp_of,) = mt.grad([f(x)], [x], create_graph=True)
    product = mt.sum(jvp_of * mt.tensor(v)) + mt.sum(dummy * 0.0)
    np.testing.assert_allclose(mt.grad(product, x).numpy(), hessian @ v, atol=1e-12)


def test_forward_mode_by_two_reverse_passes():
    """The gradient is linear in its cotangent; its derivative there is the Jacobian times v."""
    x, u = leaf(RNG.normal(size=3)), leaf(np.zeros(2))
    a, v = RNG.normal(size=(2, 3)), RNG.normal(size=3)
    y = mt.tanh(mt.tensor(a) @ x)
    (g,) = mt.grad([y], [x], [u], create_graph=True)
    (jvp,) = mt.grad([g], [u], [v])
    exact = (1 - np.tanh(a @ x.detach().numpy()) ** 2) * (a @ v)
    np.testing.assert_allclose(jvp.numpy(), exact, rtol=1e-13)


def test_perturbation_confusion():
    """d/dx (x * d/dy (x + y)) is 1: the inner derivative must not see the outer variable."""
    x, y = leaf(1.0), leaf(1.0)
    (inner,) = mt.grad([x + y], [y], create_graph=True)
    (outer,) = mt.grad([x * inner], [x])
    assert outer.item() == 1.0

    # d/dx (x * d/dy (x * y) at y = x): 2x, where one that confuses them would say x.
    x = leaf(3.0)
    y = leaf(3.0)
    (inner,) = mt.grad([x * y], [y], create_graph=True)
    assert mt.grad(x * inner, x).item() == 6.0


def test_cotangents_can_be_differentiated():
    x, v = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    (g,) = mt.grad([x * x], [x], [v], create_graph=True)
    assert mt.grad(g.sum(), v).numpy().tolist() == [2.0, 4.0]


def test_backward_with_create_graph_fills_grad_with_something_differentiable():
    x = leaf(2.0)
    (x**3).backward(create_graph=True)
    g = x.grad
    assert g.requires_grad
    x.grad = None
    g.backward()
    assert x.grad.item() == 12.0


def test_create_graph_under_no_grad_records_all_the_same():
    x = leaf([2.0, 3.0])
    y = (x[:1] * x[1:] * x[0]).sum()
    with mt.no_grad():
        (g,) = mt.grad([y], [x], create_graph=True)
        assert not mt.is_grad_enabled()
    np.testing.assert_allclose(mt.grad(g.sum(), x).numpy(), [2 * 3.0 + 2 * 2.0, 2 * 2.0])


def test_meta_gradients_through_steps_of_descent():
    """The derivative of the loss after three steps with respect to the learning rate."""

    def after_three_steps(rate, start):
        w = start
        for _ in range(3):
            if not w.requires_grad:
                w = mt.Tensor(w.data, requires_grad=True)
            (g,) = mt.grad([mt.sum(mt.sin(w) ** 2)], [w], create_graph=True)
            w = w - rate * g
        return mt.sum(mt.sin(w) ** 2)

    check_grads(after_three_steps, np.array(0.1), RNG.normal(size=3), order=2)


def test_first_order_passes_record_nothing():
    x = leaf([1.0, 2.0])
    (g,) = mt.grad([mt.sum(mt.exp(x) * x)], [x])
    assert not g.requires_grad
    assert g.is_leaf
    mt.sum(mt.exp(x) * x).backward()
    assert not x.grad.requires_grad


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_second_derivative_keeps_the_dtype(dtype):
    x = leaf(RNG.normal(size=(2, 3)), dtype)
    w = leaf(RNG.normal(size=3), dtype)
    y = mt.mean(mt.softmax(x * w, axis=1)[:, 0] * mt.std(x, axis=1))
    gradients = mt.grad([y], [x, w], create_graph=True)
    second = mt.grad([mt.sum(g * g) for g in gradients], [x, w])
    for g, h, p in zip(gradients, second, (x, w), strict=True):
        assert g.dtype == h.dtype == dtype
        assert g.shape == h.shape == p.shape


def test_on_a_device_nothing_waits(device):
    x, w = (
        device.tensor(RNG.normal(size=(4, 3)), requires_grad=True),
        device.tensor(RNG.normal(size=(3, 2)), requires_grad=True),
    )
    with device.device_only():
        y = mt.mean(mt.logsumexp(mt.tanh(x @ w), axis=1) * mt.max(x, axis=1))
        gradients = mt.grad([y], [x, w], create_graph=True)
        mt.sum(mt.stack([mt.sum(g * g) for g in gradients])).backward()
    assert np.isfinite(device.host(x.grad)).all()
    assert np.isfinite(device.host(w.grad)).all()
