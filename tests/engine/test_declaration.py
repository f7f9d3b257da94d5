"""Declaring operations: every form of rule, toy fused operations, and what mistakes are told."""

import numpy as np
import pytest

import microtensor as mt
from microtensor.declaration import REGISTRY
from microtensor.testing import check_grads

RNG = np.random.Generator(np.random.Philox(11))
X, W = RNG.normal(size=(3, 4)), RNG.normal(size=(4,))


@pytest.fixture(autouse=True)
def registry():
    before = dict(REGISTRY)
    yield
    REGISTRY.clear()
    REGISTRY.update(before)


def toy_lstm_step():
    """One fused operation: two results, residuals, one rule for all arguments, a composite."""

    def in_steps(z, c, *, scale=1.0):
        i, g = mt.split(z, 2, axis=-1)
        new = mt.sigmoid(i) * mt.tanh(g) + c
        return mt.tanh(new) * scale, new

    @mt.primitive(residuals=("i", "g", "t"), composite=in_steps)
    def step(xp, z, c, *, scale=1.0):
        half = z.shape[-1] // 2
        i = 1 / (1 + xp.exp(-z[..., :half]))
        g = xp.tanh(z[..., half:])
        new = i * g + c
        t = xp.tanh(new)
        return (t * scale, new), i, g, t

    def rule(cotangents, needs, i, g, t, scale):
        gh, gc = cotangents
        total = 0.0 if gc is None else gc
        if gh is not None:
            total = total + gh * scale * (1 - t * t)
        xp = {np.ndarray: np}.get(type(t))
        if xp is None:
            from cage import xp
        gz = None
        if needs[0]:
            gz = xp.concatenate([total * g * i * (1 - i), total * i * (1 - g * g)], axis=-1)
        return gz, (total * 1.0 if needs[1] else None)

    step.vjp_all(rule)
    return step, in_steps


def test_a_fused_operation_to_the_third_order(backend):
    step, in_steps = toy_lstm_step()
    z, c = backend.tensor(RNG.normal(size=(3, 8))), backend.tensor(X)
    check_grads(lambda z, c: step(z, c, scale=2.0), z, c, order=3)
    check_grads(lambda z, c: step(z, c)[0], z, c, order=3)
    check_grads(lambda z, c: step(z, c)[1] ** 2, z, c, order=2)
    check_grads(lambda z: step(z, c)[0], z, order=2)
    check_grads(lambda c: step(z, c)[0], c, order=2)
    for a, b in zip(step(z, c), in_steps(z, c), strict=True):
        np.testing.assert_allclose(backend.host(a), backend.host(b), rtol=1e-14)


def test_a_fused_operation_whose_arguments_depend_on_one_another():
    """What reaches an argument is its own share, also where it was computed from the other."""
    step, in_steps = toy_lstm_step()

    def twice(operation):
        def f(z):
            h, c = operation(z, z[:, :4])
            h, c = operation(mt.concatenate([h, c], axis=1), h * c)
            return h * c

        return f

    z = RNG.normal(size=(2, 8))
    check_grads(twice(step), z, order=3)
    leaves = [mt.tensor(z, requires_grad=True) for _ in range(2)]
    results = [
        mt.grad([twice(operation)(x)], [x], [np.ones((2, 4))], create_graph=True)[0]
        for operation, x in zip((step, in_steps), leaves, strict=True)
    ]
    np.testing.assert_allclose(results[0].data, results[1].data, rtol=1e-12)


def test_residuals_are_computed_once_and_saved():
    calls = []

    @mt.primitive(residuals=("slope",))
    def soft_sign(xp, x):
        calls.append(1)
        slope = 1 / (1 + xp.absolute(x))
        return x * slope, slope

    soft_sign.vjp("x", lambda g, slope: g * slope * slope)
    x = mt.tensor(X, requires_grad=True)
    y = soft_sign(x)
    assert y.shape == X.shape
    assert len(y.place.saved) == 1
    (g,) = mt.grad([y], [x], [np.ones_like(X)])
    np.testing.assert_allclose(g.numpy(), (1 + np.abs(X)) ** -2.0, rtol=1e-14)
    assert calls == [1]
    np.testing.assert_allclose(soft_sign(X), X / (1 + np.abs(X)))


def test_a_variadic_operation_with_a_rule_for_all():
    @mt.primitive
    def weighted(xp, *parts, weight=2.0):
        total = parts[0] * weight
        for part in parts[1:]:
            total = total * part
        return total

    def rule(g, parts, weight):
        everything = []
        for i in range(len(parts)):
            product = g * weight
            for j, part in enumerate(parts):
                if j != i:
                    product = product * part
            everything.append(product)
        return everything

    weighted.vjp("parts", rule)
    for count in (1, 2, 4):
        arrays = [RNG.uniform(0.5, 2, (2, 3)) for _ in range(count)]
        check_grads(lambda *xs: weighted(*xs, weight=3.0), *arrays, order=3)
    a, b = mt.tensor(X, requires_grad=True), mt.tensor(X)
    y = weighted(a, b, a)
    assert len(y.place.parents) == 2


def polar_coordinates():
    @mt.primitive
    def polar(xp, x, y):
        r = xp.sqrt(x * x + y * y)
        return r, xp.arctan2(y, x)

    def rule(g, needs, x, y, out):
        gr, ga = g
        r = out[0]
        to_x = (0 if gr is None else gr * x / r) - (0 if ga is None else ga * y / (r * r))
        to_y = (0 if gr is None else gr * y / r) + (0 if ga is None else ga * x / (r * r))
        return to_x, to_y

    return polar.vjp_all(rule)


def test_several_results_with_one_unused():
    polar = polar_coordinates()
    x, y = RNG.uniform(0.5, 2, 5), RNG.uniform(0.5, 2, 5)
    check_grads(polar, x, y, order=3)
    check_grads(lambda x, y: polar(x, y)[0], x, y, order=3)
    check_grads(lambda x, y: polar(x, y)[1], x, y, order=3)
    check_grads(lambda x, y: polar(x, y)[1] * polar(y, x)[0], x, y, order=2)


def test_one_of_several_results_that_was_overwritten():
    r, angle = polar_coordinates()(mt.tensor(X, requires_grad=True), mt.tensor(X))
    r.detach()[...] = 1.0
    with pytest.raises(mt.GradientStateError, match=r"`polar`.*changed in place"):
        angle.sum().backward()


def test_options_reach_the_rule_whether_given_or_not():
    @mt.primitive
    def scaled(xp, x, factor=3.0, *, shift=0.0):
        return x * factor + shift

    scaled.vjp("x", lambda g, factor: g * factor)
    x = mt.tensor(X, requires_grad=True)
    for call, factor in [
        (lambda: scaled(x), 3.0),
        (lambda: scaled(x, 5.0), 5.0),
        (lambda: scaled(x, factor=7.0, shift=1.0), 7.0),
        (lambda: scaled(x=x, factor=2.0), 2.0),
    ]:
        g = mt.grad([call()], [x], [np.ones_like(X)])[0].numpy()
        np.testing.assert_array_equal(g, factor)


def test_broadcasting_operations_are_brought_back_by_the_engine():
    @mt.primitive(broadcasts=True)
    def hypot(xp, a, b):
        return xp.hypot(a, b)

    hypot.vjp("a", lambda g, a, out: g * a / out)
    hypot.vjp("b", lambda g, b, out: g * b / out)
    check_grads(hypot, X, W, order=3)
    check_grads(hypot, X[:, :1], W, order=2)
    check_grads(hypot, np.array(1.5), X, order=2)
    mixed = mt.grad(
        [hypot(mt.tensor(X, requires_grad=True), w := mt.tensor(W, np.float32, True)).sum()], [w]
    )
    assert mixed[0].dtype == np.float32


def test_rules_declared_for_some_arguments_only():
    @mt.primitive
    def partial(xp, a, b):
        return a * b

    partial.vjp("a", lambda g, b: g * b)
    a, b = mt.tensor(X, requires_grad=True), mt.tensor(X, requires_grad=True)
    mt.grad(partial(a, mt.tensor(X)).sum(), a)  # not asked for: not missed
    with pytest.raises(TypeError, match=r"`partial` has no derivative rule.*'b'.*\.vjp\('b'.*"):
        mt.grad(partial(a, b).sum(), [a, b])


def test_arguments_declared_constant_and_operations_without_derivative():
    @mt.primitive(constant=("n",))
    def times(xp, x, n):
        return x * n

    times.vjp("x", lambda g, n: g * n)
    x, n = mt.tensor(X, requires_grad=True), mt.tensor(X, requires_grad=True)
    y = times(x, n)
    gx, gn = mt.grad([y.sum()], [x, n], allow_unused=True)
    np.testing.assert_array_equal(gx.numpy(), X)
    assert gn is None
    assert not times(mt.tensor(X), n).requires_grad

    @mt.primitive(differentiable=False)
    def rounded(xp, x):
        return xp.floor(x)

    assert not rounded(x).requires_grad


# -- rules that are wrong are named


def faulty(rule, **properties):
    @mt.primitive(**properties)
    def doubtful(xp, x):
        return x * 2.0

    doubtful.vjp("x", rule)
    return doubtful


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (lambda g: g[0], r"shape \(4,\).*shape \(3, 4\)"),
        (lambda g: mt.stack([g, g]), r"shape \(2, 3, 4\)"),
        (lambda g: g.astype(np.float32), r"dtype float32.*float64"),
        (lambda g: None, "NoneType"),
        (lambda g: [1.0], "list"),
        (lambda g: 2.0, "float"),
    ],
)
def test_a_rule_that_returns_the_wrong_thing(rule, told, create_graph):
    x = mt.tensor(X, requires_grad=True)
    y = faulty(rule)(x).sum()
    with pytest.raises((TypeError, ValueError), match=rf"rule of `doubtful` for 'x'.*{told}"):
        mt.grad(y, x, create_graph=create_graph)


def test_a_rule_that_returns_an_array_of_another_backend(device):
    rule = lambda g: device.array(np.ones((3, 4)))  # noqa: E731
    x = mt.tensor(X, requires_grad=True)
    with pytest.raises(TypeError, match="rule of `doubtful` for 'x'"):
        mt.grad(faulty(rule)(x).sum(), x)
    with pytest.raises(TypeError, match="rule of `doubtful` for 'x'"):
        mt.grad(faulty(rule, broadcasts=True)(x).sum(), x)


def test_names_that_do_not_exist():
    @mt.primitive
    def plain(xp, x, *, factor=1.0):
        return x * factor

    with pytest.raises(TypeError, match=r"'y'.*plain\(x, factor=1\.0\)"):
        plain.vjp("y", lambda g: g)
    with pytest.raises(TypeError, match=r"names 'z'.*plain\(x, factor=1\.0\)"):
        plain.vjp("x", lambda g, z: g)
    with pytest.raises(TypeError, match="'nothing'"):
        plain.vjp_all(lambda g, needs, nothing: (g,))


def test_declaring_returns_the_operation_and_keeps_its_documentation():
    @mt.primitive
    def documented(xp, x):
        """What it does."""
        return x

    assert documented.vjp("x", lambda g: g) is documented
    assert documented.__doc__ == "What it does."
    assert documented.__name__ == "documented"
    assert documented.declaration is REGISTRY[f"{__name__}.documented"]


def test_plans_of_operations_with_many_arguments_are_bounded():
    """A sequence of another length each time must not leave a plan behind for each length."""
    declaration = mt.stack.__globals__["_stack"].declaration
    for count in range(1, 300):
        leaves = [mt.ones(1, requires_grad=i % 2 == 0) for i in range(count)]
        y = mt.stack(leaves)
        if count % 50 == 0:
            (g,) = mt.grad([y], [leaves[0]], [mt.ones_like(y)])
            assert g.item() == 1.0
    assert len(declaration.plans) <= 100
