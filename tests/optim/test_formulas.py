"""Every optimizer with every option against its formula; and that losses fall."""

from functools import partial

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from optim import formulas  # tests/optim/formulas.py

import microtensor as mt
from microtensor import nn, optim
from microtensor.testing import GradientError, check_optimizer

seeds = st.integers(0, 2**32 - 1)
rates = st.sampled_from([1e-3, 0.03, 0.5])
decays = st.sampled_from([0.0, 0.01, 0.3])
epsilons = st.sampled_from([0.0, 1e-10, 1e-8, 1e-3])
OF_ALL = {"lr": rates, "weight_decay": decays, "maximize": st.booleans()}
OPTIONS = {
    optim.SGD: {
        "momentum": st.sampled_from([0.0, 0.5, 0.9]),
        "dampening": st.sampled_from([0.0, 0.3]),
        "nesterov": st.booleans(),
    },
    optim.Adagrad: {
        "lr_decay": st.sampled_from([0.0, 0.1, 2.0]),
        "initial_accumulator_value": st.sampled_from([0.0, 0.1]),
        "eps": epsilons,
    },
    optim.RMSprop: {
        "alpha": st.sampled_from([0.5, 0.9, 0.99]),
        "eps": epsilons,
        "momentum": st.sampled_from([0.0, 0.7]),
        "centered": st.booleans(),
    },
    optim.Adam: {
        "betas": st.sampled_from([(0.9, 0.999), (0.0, 0.9), (0.7, 0.5), (0.5, 0.0)]),
        "eps": epsilons,
        "amsgrad": st.booleans(),
    },
}
FORMULAS = {
    optim.SGD: formulas.sgd,
    optim.Adagrad: formulas.adagrad,
    optim.RMSprop: formulas.rmsprop,
    optim.Adam: formulas.adam,
}
KINDS = pytest.mark.parametrize("kind", OPTIONS, ids=lambda kind: kind.__name__)


def options_of(kind):
    """Any of its options, left out or chosen."""
    drawn = st.fixed_dictionaries({}, optional={**OPTIONS[kind], **OF_ALL})
    if kind is optim.SGD:
        return drawn.filter(
            lambda o: not o.get("nesterov") or (o.get("momentum") and not o.get("dampening"))
        )
    return drawn


@KINDS
@given(data=st.data(), rng=seeds)
def test_every_option_follows_the_formula(kind, data, rng):
    options = data.draw(options_of(kind))
    check_optimizer(partial(kind, **options), partial(FORMULAS[kind], **options), rng=rng)


@KINDS
def test_the_defaults_are_pytorchs(kind):
    check_optimizer(kind, FORMULAS[kind], steps=20)


MANY = [
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.2, "weight_decay": 0.1}),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True}),
    (optim.Adagrad, {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-3}),
    (optim.RMSprop, {"alpha": 0.9, "momentum": 0.5, "centered": True, "weight_decay": 0.1}),
    (optim.Adam, {"lr": 0.1, "betas": (0.8, 0.9), "amsgrad": True, "weight_decay": 0.1}),
]


@pytest.mark.parametrize(("kind", "options"), MANY)
def test_many_options_for_many_steps_on_both_backends(kind, options, backend):
    with backend():
        check_optimizer(partial(kind, **options), partial(FORMULAS[kind], **options), steps=10)


@KINDS
def test_every_option_matters(kind):
    """An option that the optimizer ignores would be found: the formula without it differs."""
    chosen = {
        "lr": 0.02,
        "weight_decay": 0.1,
        "maximize": True,
        "momentum": 0.5,
        "dampening": 0.3,
        "lr_decay": 0.1,
        "initial_accumulator_value": 0.1,
        "eps": 1e-6,
        "alpha": 0.9,
        "centered": True,
        "betas": (0.8, 0.9),
        "amsgrad": True,
    }
    mine = {name: chosen[name] for name in {**OPTIONS[kind], **OF_ALL} if name in chosen}
    check_optimizer(partial(kind, **mine), partial(FORMULAS[kind], **mine))
    for name in mine:
        less = {key: value for key, value in mine.items() if key != name}
        with pytest.raises(GradientError):
            check_optimizer(partial(kind, **less), partial(FORMULAS[kind], **mine))


# -- closed forms of the first step, with Python's numbers


def away_from_zero(low, high):
    return st.floats(low, high) | st.floats(-high, -low)


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        (optim.Adam, lambda g: 1e-3 * g / (abs(g) + 1e-8)),
        (optim.RMSprop, lambda g: 1e-2 * g / (0.1 * abs(g) + 1e-8)),
        (optim.Adagrad, lambda g: 1e-2 * g / (abs(g) + 1e-10)),
        (optim.SGD, lambda g: 1e-3 * g),
    ],
)
@given(g=away_from_zero(1e-6, 1e6), start=st.floats(-2, 2))
def test_the_first_step_with_defaults_has_a_closed_form(kind, size, g, start):
    parameter = nn.Parameter(np.array(start))
    parameter.grad = mt.tensor(np.array(g))
    kind([parameter]).step()
    assert parameter.data.item() == pytest.approx(start - size(g), rel=1e-9, abs=1e-11)


# -- convex quadratics


def quadratic(seed, size, flattest):
    """A positive definite matrix whose eigenvalues go from flattest * top to top, and a start."""
    rng = np.random.Generator(np.random.Philox(seed))
    top = 10.0 ** rng.uniform(-2, 2)
    q, _ = np.linalg.qr(rng.normal(size=(size, size)))
    values = top * flattest ** np.linspace(0.0, 1.0, size)
    start = rng.normal(size=size)
    return (q * values) @ q.T, top, start / np.linalg.norm(start)


def losses(make, matrix, start, steps):
    """Of 0.5 p . H p before the first step and after each."""
    hessian, parameter = mt.tensor(matrix), nn.Parameter(start.copy())
    optimizer, found = make([parameter]), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = 0.5 * (parameter * (hessian @ parameter)).sum()
        loss.backward()
        found.append(loss.item())
        optimizer.step()
    return np.array([*found, 0.5 * parameter.data @ matrix @ parameter.data])


shapes_of_quadratics = {
    "seed": seeds,
    "size": st.integers(1, 5),
    "flattest": st.sampled_from([1.0, 0.1, 0.01]),
}


@given(**shapes_of_quadratics, share=st.floats(0.01, 1.95))
@example(seed=0, size=3, flattest=0.1, share=1.95)
def test_descent_falls_in_every_step_below_two_over_the_largest_curvature(
    seed, size, flattest, share
):
    matrix, top, start = quadratic(seed, size, flattest)
    path = losses(lambda ps: optim.SGD(ps, lr=share / top), matrix, start, 10)
    far = path[:-1] > 1e-20 * path[0]  # where it has not arrived yet
    assert np.all(path[1:][far] < path[:-1][far])


@given(**shapes_of_quadratics, share=st.floats(2.05, 3.0))
def test_and_above_it_rises_where_the_curvature_is_largest(seed, size, flattest, share):
    matrix, top, _ = quadratic(seed, size, flattest)
    steepest = np.linalg.eigh(matrix)[1][:, -1]
    path = losses(lambda ps: optim.SGD(ps, lr=share / top), matrix, steepest, 5)
    assert np.all(path[1:] > path[:-1])


@pytest.mark.parametrize("options", [{}, {"nesterov": True}, {"dampening": 0.5}], ids=str)
@settings(max_examples=settings.default.max_examples // 2)
@given(**shapes_of_quadratics, momentum=st.sampled_from([0.3, 0.9]))
def test_descent_with_momentum_arrives(options, seed, size, flattest, momentum):
    """With 1 / the largest curvature every direction is stable, and the slowest decides."""
    matrix, top, start = quadratic(seed, size, flattest)
    path = losses(
        lambda ps: optim.SGD(ps, lr=1.0 / top, momentum=momentum, **options), matrix, start, 100
    )
    assert path[-1] < 0.9 * path[0]


# So long is the largest step, in learning rates.
LONGEST = {
    "Adagrad": (optim.Adagrad, {}, 1.0),
    "RMSprop": (optim.RMSprop, {}, 10.0),
    "RMSprop with momentum": (optim.RMSprop, {"momentum": 0.5}, 20.0),
    "RMSprop centered": (optim.RMSprop, {"centered": True}, 10.1),
    "Adam": (optim.Adam, {}, 2.0),
    "AMSGrad": (optim.Adam, {"amsgrad": True}, 2.0),
}


@pytest.mark.parametrize("name", LONGEST)
@settings(max_examples=settings.default.max_examples // 2)
@given(**shapes_of_quadratics)
def test_scaled_descent_falls_when_steps_are_short(name, seed, size, flattest):
    """Short beside the way to the minimum, as the largest curvature measures it."""
    kind, options, longest = LONGEST[name]
    matrix, top, start = quadratic(seed, size, flattest)
    way = np.sqrt(start @ matrix @ start / top)
    path = losses(lambda ps: kind(ps, lr=0.02 * way / longest, **options), matrix, start, 40)
    assert path[-1] < path[0]
