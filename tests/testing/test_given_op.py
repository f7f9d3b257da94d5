"""The decorator is itself tested: it checks what it says, and the body of a test does run."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st

import microtensor as mt
from microtensor import nn
from microtensor.declaration import REGISTRY
from microtensor.testing import GradientError, given_op
from microtensor.testing.strategies import arrays, axes, broadcastable, labels, matmul_pair, shapes

few = settings(
    max_examples=10,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
unshrunk = settings(few, phases=[Phase.generate])  # where the smallest example is not looked at


def softcap(x, cap=1.0):
    """A composite with an option."""
    return cap * mt.tanh(x / cap)


def softcap_of_arrays(x, cap):
    return cap * np.tanh(x / cap)


def cube(rule=lambda g, x: g * 3 * x * x):
    """A primitive with a rule of one's own."""

    def cube(xp, x):
        return x * x * x

    operation = mt.primitive(cube)
    operation.vjp("x", rule)
    REGISTRY.pop(f"{__name__}.cube")  # it goes with the test
    return operation


def refused(test, error=AssertionError):
    """What a failing property test says, without the notes that Hypothesis adds."""
    with pytest.raises(error) as caught:
        few(test)()
    return str(caught.value), "\n".join(getattr(caught.value, "__notes__", []))


# -- the body


def test_the_body_runs_once_for_each_example():
    calls, bodies = [], []

    def op(x):
        calls.append(x)
        return x * x

    @few
    @given_op(op, order=0, dtypes=[np.float64])
    def test(x, out):
        bodies.append((x, out))

    test()
    assert len(bodies) >= 5
    assert len(calls) == 2 * len(bodies)  # for the value, and for the body


def test_a_body_that_fails_fails_the_test_and_shows_the_shortest_call():
    @given_op(mt.exp, reference=np.exp)
    def test(x, out):
        assert out.sum().item() < 20

    message, notes = refused(test)
    assert "< 20" in message
    assert "call=exp(x=np.array(3.0625))" in notes


def test_the_body_receives_arguments_options_and_result_by_name():
    seen = []

    @few
    @given_op(
        softcap, reference=softcap_of_arrays, options={"cap": st.sampled_from([0.5, 1.0, 4.0])}
    )
    def test(out, cap, x):
        assert isinstance(x, mt.Tensor)
        assert x.requires_grad
        assert x.is_leaf
        np.testing.assert_allclose(out.detach().numpy(), cap * np.tanh(x.detach().numpy() / cap))
        out.sum().backward()
        assert x.grad.shape == x.shape
        seen.append(cap)

    test()
    assert len(set(seen)) > 1


def test_an_option_that_is_not_drawn_has_its_default():
    @few
    @given_op(softcap, reference=lambda x: np.tanh(x))
    def test(cap):
        assert cap == 1.0

    test()


def test_an_option_need_not_have_a_default():
    seen = set()

    @few
    @given_op(
        lambda x, power: x**power,
        reference=lambda x, power: x**power,
        options={"power": st.sampled_from([2, 3])},
    )
    def test(power):
        seen.add(power)

    test()
    assert seen == {2, 3}


def test_a_body_may_ask_for_nothing():
    ran = []

    @few
    @given_op(mt.sin, reference=np.sin)
    def test():
        ran.append(True)

    test()
    assert ran


def test_arguments_of_a_variadic_operation_come_as_a_tuple():
    counts = set()

    @few
    @given_op(lambda *xs: mt.stack(xs), reference=lambda *xs: np.stack(xs))
    def test(xs, out):
        counts.add(len(xs))
        assert out.shape == (len(xs), *xs[0].shape)

    test()
    assert len(counts) > 1


# -- what is drawn


def test_a_broadcasting_operation_receives_arrays_that_broadcast():
    pairs = []

    @few
    @given_op(mt.multiply, reference=np.multiply)
    def test(a, b):
        pairs.append((a.shape, b.shape))

    test()
    assert any(a != b for a, b in pairs)


def test_another_operation_receives_arrays_of_one_shape():
    seen = set()

    @few
    @given_op(lambda p, target: (p - target) ** 2, reference=lambda p, target: (p - target) ** 2)
    def test(p, target):
        assert p.shape == target.shape
        seen.add(p.shape)

    test()
    assert len(seen) > 2


def test_a_domain_holds_for_what_is_drawn_by_default():
    @few
    @given_op(mt.log, reference=np.log, domain="positive")
    def unary(x):
        assert (x.detach() > 0).numpy().all()

    @few
    @given_op(mt.divide, reference=np.divide, domain=["real", (1, 2)])
    def binary(b):
        assert ((b.detach() > 1) * (b.detach() < 2)).numpy().all()

    unary()
    binary()


def test_a_strategy_for_each_argument_or_one_for_several():
    seen = []

    @few
    @given_op(mt.matmul, matmul_pair(), reference=np.matmul)
    def both(a, b, out):
        seen.append(out.shape)

    @few
    @given_op(mt.multiply, arrays((2, 3)), arrays((3,)), reference=np.multiply)
    def each(a, b):
        assert (a.shape, b.shape) == ((2, 3), (3,))

    both()
    each()
    assert len(set(seen)) > 1


def test_options_and_inputs_may_depend_on_what_was_drawn_before():
    @few
    @given_op(
        mt.cross_entropy,
        arrays(st.tuples(st.integers(1, 3), st.integers(2, 4))),
        lambda logits: labels(*logits.shape),
        reference=lambda logits, target, reduction: {"mean": np.mean, "sum": np.sum}[reduction](
            np.log(np.exp(logits).sum(1)) - logits[np.arange(len(target)), target]
        ),
        options={"reduction": st.sampled_from(["mean", "sum"])},
    )
    def losses(logits, target):
        assert target.dtype == np.int64
        assert len(target) == len(logits)

    seen = set()

    @few
    @given_op(
        mt.sum,
        arrays(shapes()),
        reference=np.sum,
        options={"axis": lambda x: axes(x.shape), "keepdims": True},
    )
    def sums(axis, keepdims, out, x):
        assert keepdims is True
        assert out.ndim == x.ndim
        seen.add(axis)

    losses()
    sums()
    assert len(seen) > 2


def test_inputs_may_be_nested_and_need_not_be_arrays():
    def step(x, state, slope):
        h, c = state
        return mt.tanh(x + h) * slope, (h * c, c)

    @few
    @given_op(
        step,
        arrays((2,)),
        st.tuples(arrays((2,)), arrays((2,))),
        st.just(2.0),
        reference=lambda x, state, slope: (
            np.tanh(x + state[0]) * slope,
            (state[0] * state[1], state[1]),
        ),
    )
    def test(x, state, slope, out):
        assert all(isinstance(part, mt.Tensor) for part in (x, *state))
        assert slope == 2.0
        assert out[1][1] is state[1]

    test()


def test_numbers_that_numpy_makes_of_arrays_without_axes_are_arrays():
    @few
    @given_op(mt.less, arrays(()).map(np.floor), arrays(()).map(np.floor), reference=np.less)
    def test(a):
        assert isinstance(a, mt.Tensor)

    test()


def test_modules_and_methods_are_operations_too():
    layer = nn.Linear(3, 2).astype(np.float64)
    weight, bias = layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()

    @few
    @given_op(
        layer,
        arrays((4, 3)),
        reference=lambda x: x @ weight.T + bias,
        dtypes=[np.float64],
    )
    def module(out):
        assert out.shape == (4, 2)

    class Scale:
        factor = 3.0

        def __call__(self, x):
            return x * self.factor

        def apply(self, x):
            return self(x)

    module()
    assert (layer.weight.detach().numpy() == weight).all()
    assert layer.weight.grad is None
    for op in (Scale(), Scale().apply):
        few(given_op(op, reference=lambda x: x * 3.0)(lambda x, out: None))()


def test_it_works_where_new_tensors_live(backend):
    with backend():

        @few
        @given_op(mt.add, reference=np.add)
        def test(a, out):
            assert a.backend == out.backend == backend.name

        test()


def test_memory_layouts_reach_the_operation():
    seen = set()

    @few
    @given_op(mt.exp, arrays((2, 3), layout="any"), reference=np.exp)
    def test(x):
        seen.add(x.data.strides)

    test()
    assert len(seen) > 1


# -- what is checked


def test_wrong_values_are_shown_with_the_shortest_call():
    @given_op(mt.exp, reference=np.expm1)
    def test():
        pass

    message, notes = refused(test)
    assert "exp in float64: value is 1.0644" in message
    assert "that of the reference 0.0644" in message
    assert "in exp(x=np.array(0.0625))" in message
    assert "call=exp(x=np.array(0.0625))" in notes


def test_a_wrong_number_is_named_by_its_index():
    def op(x):
        return x * np.array([1.0, 1.0, 2.0])

    @given_op(op, arrays((3,)), reference=lambda x: x * 1.0)
    def test():
        pass

    message, _ = refused(test)
    assert "value[2] is 0.625, that of the reference 0.3125, ratio 2 (1 of 3 differ)" in message


def test_a_layout_that_matters_is_shown():
    def op(x):
        return x * (1 if x.data.flags.c_contiguous else 2)

    @given_op(op, arrays((2, 2), layout="any"), reference=lambda x: x * 1.0)
    def test():
        pass

    message, _ = refused(test)
    assert "op(x=laid_out(np.array([[0.0625, 0.1875], [0.3125, 0.4375]]), 'Fortran'))" in message


@pytest.mark.parametrize(
    ("op", "reference", "message"),
    [
        (lambda x: x[None], np.copy, r"value has shape \(1,\), that of the reference \(\)"),
        (lambda x: x > 0, np.copy, "value has dtype bool, that of the reference float64"),
        (lambda x: (x, x), np.copy, "returns 2 values, the reference 1"),
        (lambda x: (x, x * 2), lambda x: (x, x), r"value\[1\] is 0.125"),
        (lambda x: x.data, np.copy, "value is a ndarray, not a tensor"),
        (lambda x: x.astype(np.float64), np.copy, "in float32: value has dtype float64"),
        (
            lambda x: x * 1e-9 if x.dtype == np.float32 else x,
            np.copy,
            "in float32: value is 6.2.*e-11, that of the reference 0.0625",
        ),
    ],
)
def test_what_differs_from_the_reference_is_named(op, reference, message):
    found, _ = refused(given_op(op, reference=reference)(lambda: None))
    assert re.search(message, found), found


def test_the_tolerance_of_values_may_be_chosen():
    def op(x):
        return mt.tanh(x) * (1 + 1e-8)

    refused(given_op(op, reference=np.tanh)(lambda: None))
    few(given_op(op, reference=np.tanh, rtol_of_values=1e-6)(lambda: None))()


def test_not_a_number_equals_itself_and_nothing_else():
    nan = lambda x: x * np.nan  # noqa: E731
    few(given_op(nan, reference=nan, order=0)(lambda: None))()
    refused(given_op(nan, reference=np.copy, order=0)(lambda: None))
    refused(given_op(lambda x: x * 1.0, reference=nan, order=0)(lambda: None))


def test_without_a_reference_the_derivatives_are_checked():
    few(given_op(cube())(lambda: None))()
    with pytest.raises(GradientError) as caught:
        unshrunk(given_op(cube(lambda g, x: g * 2 * x * x))(lambda: None))()
    assert caught.value.verdict == "wrong_gradient"


def test_a_second_derivative_is_checked_unless_order_says_otherwise():
    def rule(g, x):
        return g * 3 * (x.detach() if isinstance(x, mt.Tensor) else x) ** 2

    with pytest.raises(GradientError) as caught:
        unshrunk(given_op(cube(rule))(lambda: None))()
    assert caught.value.order == 2
    few(given_op(cube(rule), order=1)(lambda: None))()
    few(given_op(cube(lambda g, x: g * 0), order=0)(lambda: None))()


def test_arguments_of_check_grads_are_passed_on():
    def op(a, b):
        return a * b.detach()

    with pytest.raises(GradientError):
        unshrunk(given_op(op, broadcastable(2))(lambda: None))()
    for wrt in ("a", ["a"], [0], 0):
        few(given_op(op, broadcastable(2), wrt=wrt)(lambda: None))()
    with pytest.raises(GradientError):
        unshrunk(given_op(op, broadcastable(2), wrt="b")(lambda: None))()

    @few
    @given_op(mt.add, broadcastable(2), wrt="a")
    def test(a, b):
        assert (a.requires_grad, b.requires_grad) == (True, False)

    test()


def test_an_operation_without_derivative_is_checked_for_its_values():
    ran = []

    @few
    @given_op(mt.less, reference=np.less)
    def test(a, b, out):
        assert out.dtype == np.bool_
        ran.append(True)

    test()
    assert ran
    refused(given_op(mt.less, reference=np.greater)(lambda: None))


def test_an_operation_that_writes_into_its_argument_is_caught():
    def op(x):
        x.data[...] = 7.25
        return x * 2

    message, _ = refused(given_op(op, order=0)(lambda: None))
    assert "changed an argument in place" in message


# -- with pytest and Hypothesis

FILE = """
import time
import numpy as np
import pytest
from hypothesis import example, seed, settings, strategies as st
import microtensor as mt
from microtensor.testing import given_op

SEEN = []

@pytest.fixture(scope="module")
def bound():
    return 100.0

@pytest.mark.parametrize("cap", [1.0, 3.0])
@given_op(lambda x, scale=1.0: mt.tanh(x) * scale, options={"scale": st.just(2.0)})
def test_with_fixture_and_parameters(bound, scale, x, cap, out):
    SEEN.append(cap)
    assert abs(out.data).max() < bound * cap * scale

class TestMethods:
    limit = 1.0

    @pytest.mark.parametrize("cap", [5.0])
    @settings(max_examples=3)
    @given_op(mt.sin, reference=np.sin)
    def test_method(self, out, bound, cap):
        SEEN.append(cap)
        assert abs(out.data).max() < self.limit * bound

    @given_op(mt.sin, reference=np.sin)
    @settings(max_examples=4)
    def test_settings_below(self, out):
        SEEN.append("below")

@seed(3)
@given_op(mt.cos)
def test_slow_is_no_failure():
    if "slow" not in SEEN:
        time.sleep(0.3)
    SEEN.append("slow")

@given_op(mt.cos)
def test_fails(out, call):
    assert call == 3

@pytest.fixture(scope="module")
def call():
    return 4

def test_all_bodies_ran():
    assert {1.0, 3.0, 5.0, "below", "slow"} <= set(SEEN)
    assert 1 < SEEN.count(5.0) <= 3
    assert 1 < SEEN.count("below") <= 4
"""


def test_it_goes_with_fixtures_parameters_methods_settings_and_has_no_deadline(tmp_path):
    path = tmp_path / "test_inside.py"
    path.write_text(FILE, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", str(path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
        env={**os.environ, "HYPOTHESIS_PROFILE": "", "PYTEST_ADDOPTS": ""},
    )
    assert "1 failed, 6 passed" in done.stdout, done.stdout + done.stderr
    assert "FAILED test_inside.py::test_fails - assert 4 == 3" in done.stdout
    assert "call_=cos(x=np.array(0.0625))" in done.stdout


# -- at the door


class Unreadable:
    __signature__ = "none"

    def __call__(self, x):
        return x


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: given_op(3), TypeError, "3 cannot be called"),
        (lambda: given_op(mt.exp, reference=3), TypeError, "reference must be a function"),
        (lambda: given_op(mt.exp, order=-1), ValueError, "order must be 0, 1"),
        (lambda: given_op(mt.exp, tol=1e-3), TypeError, r"\['tol'\] is no argument of given_op"),
        (lambda: given_op(mt.exp, vjp=mt.exp), TypeError, r"\['vjp'\] is no argument"),
        (lambda: given_op(mt.exp, options={"base": 2}), TypeError, "exp has no option.*has none"),
        (lambda: given_op(softcap, options={"c": 2}), TypeError, r"its options are \['cap'\]"),
        (lambda: given_op(mt.where), TypeError, r"what to draw for \['condition'\] of where"),
        (lambda: given_op(lambda k=1: k), TypeError, "does not tell how many arrays"),
        (lambda: given_op(mt.einsum), TypeError, "does not tell how many arrays"),
        (lambda: given_op(Unreadable()), TypeError, "cannot be read; wrap it"),
        (lambda: given_op(mt.exp, domain="postive"), ValueError, "no domain 'postive'"),
        (lambda: given_op(mt.exp, arrays((2,)), domain="unit"), TypeError, "goes to the strat"),
        (lambda: given_op(mt.exp)(3), TypeError, "decorates a test function, not 3"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_too_many_arrays_are_refused_with_the_reason():
    message, _ = refused(given_op(mt.exp, broadcastable(2))(lambda: None), TypeError)
    assert "2 arguments were drawn for exp, which takes ['x']" in message


def test_a_strategy_that_depends_on_something_unknown_is_refused():
    message, _ = refused(
        given_op(mt.sum, arrays((2,)), options={"axis": lambda y: axes(y.shape)})(lambda: None),
        TypeError,
    )
    assert "names ['y']; what is drawn before it is ['x']" in message
