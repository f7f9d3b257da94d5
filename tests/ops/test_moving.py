"""Operations that move numbers and pick them: where to cut, how wide to pad, which axes."""

import numpy as np
import pytest

import microtensor as mt

X = np.arange(24.0).reshape(2, 3, 4)


# -- split


@pytest.mark.parametrize("sections", [0, -1, -2, 3, 5, np.int64(3)])
def test_sections_that_do_not_share_an_axis_evenly_are_refused(sections):
    with pytest.raises(ValueError, match="split: axis 2 has length 4"):
        mt.split(mt.tensor(X), sections, axis=2)


@pytest.mark.parametrize(
    "cuts", [[0], [0, 2], [2, 2], [-1], [-4], [-10, 1], [3, 9], [1, -1], [], [0, 0, 4, 4]]
)
def test_cutting_before_indices_as_numpy_does(cuts):
    pieces = mt.split(mt.tensor(X, requires_grad=True), cuts, axis=2)
    wanted = np.split(X, cuts, axis=2)
    assert len(pieces) == len(wanted)
    for piece, array in zip(pieces, wanted, strict=True):
        np.testing.assert_array_equal(piece.detach().numpy(), array)


@pytest.mark.parametrize("cuts", [[2, 1], [-1, 1], [0, 3, 2]])
def test_indices_to_cut_at_that_go_back_are_refused(cuts):
    """NumPy's pieces overlap then."""
    with pytest.raises(ValueError, match=r"split: the indices .* must not decrease"):
        mt.split(mt.tensor(X), cuts, axis=2)


# -- pad


@pytest.mark.parametrize(
    "widths",
    [-1, (-1, 0), (0, -1), ((1, 1), (0, -2), (0, 0)), ((1, 1), (-2, 0), (0, 0)), ((1, 1),),
     ((1, 1), (1, 1)), ((0, 0),) * 4],
)  # fmt: skip
def test_widths_that_are_negative_or_too_few_are_refused(widths):
    with pytest.raises(ValueError, match=r"pad: pad_width .* for each of 3 axes"):
        mt.pad(mt.tensor(X), widths)


@pytest.mark.parametrize("widths", [0, 2, (0, 1), (1, 0), ((0, 1), (2, 0), (0, 0))])
def test_padding_as_numpy_does(widths):
    np.testing.assert_array_equal(mt.pad(mt.tensor(X), widths).numpy(), np.pad(X, widths))


# -- transpose, and others with an axis


def test_axes_by_keyword():
    for axes in ((1, 0, 2), (2, 0, 1), [0, 2, 1], (-1, 0, 1), None):
        got = mt.transpose(mt.tensor(X), axes=axes).numpy()
        np.testing.assert_array_equal(got, np.transpose(X, axes))


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_is_taken_over_the_last_axis_unless_another_is_named(name):
    operation = getattr(mt, name)
    for x in (X, X[0], X[0, 0], X[None]):
        by_default = operation(mt.tensor(x / 10)).numpy()
        np.testing.assert_array_equal(by_default, operation(mt.tensor(x / 10), axis=-1).numpy())
        total = (by_default if name == "softmax" else np.exp(by_default)).sum(-1)
        np.testing.assert_allclose(total, 1, rtol=1e-14)


def test_elements_and_running_sums_without_an_axis_are_those_of_the_flat_array(backend):
    x = backend.tensor(X)
    np.testing.assert_array_equal(backend.host(mt.cumsum(x)), np.cumsum(X))
    np.testing.assert_array_equal(backend.host(mt.take(x, backend.array([5, 0]))), X.flat[[5, 0]])
    joined = mt.concatenate([x, x], axis=None)
    np.testing.assert_array_equal(backend.host(joined), np.concatenate([X, X], axis=None))


def test_indices_of_another_number_of_axes_are_refused():
    for indices in (np.zeros((2, 3), int), np.zeros((1, 2, 3, 4), int), mt.tensor([0])):
        with pytest.raises(ValueError, match=r"take_along_axis: .* as many axes"):
            mt.take_along_axis(mt.tensor(X), indices, axis=0)


# -- ties and kinks, with cotangents that are not 1


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_equal_numbers_share_the_cotangent_whatever_it_is(name):
    a = mt.tensor(np.array([1.0, 2.0, 5.0]), requires_grad=True)
    b = mt.tensor(np.array([1.0, 4.0, 3.0]), requires_grad=True)
    gradients = mt.grad(getattr(mt, name)(a, b), [a, b], mt.tensor(np.array([6.0, 7.0, 8.0])))
    wins, loses = [3, 0, 8], [3, 7, 0]
    wanted = (wins, loses) if name == "maximum" else (loses, wins)
    for g, numbers in zip(gradients, wanted, strict=True):
        np.testing.assert_array_equal(g.numpy(), numbers)


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_a_cotangent_that_equals_an_operand_is_no_tie(name):
    a = mt.tensor(np.array([2.0, 2.0]), requires_grad=True)
    b = mt.tensor(np.array([1.0, 3.0]), requires_grad=True)
    gradients = mt.grad(getattr(mt, name)(a, b), [a, b], mt.tensor(np.array([2.0, 3.0])))
    wanted = ([2, 0], [0, 3]) if name == "maximum" else ([0, 3], [2, 0])
    for g, numbers in zip(gradients, wanted, strict=True):
        np.testing.assert_array_equal(g.numpy(), numbers)


# -- truths


def test_each_operand_of_a_logical_operation_is_looked_at():
    truth, numbers = mt.tensor([True, False]), mt.tensor([1.0, 0.0])
    for operation in (mt.logical_and, mt.logical_or):
        for operands in ((truth, numbers), (numbers, truth), (numbers, numbers)):
            with pytest.raises(TypeError, match="joins booleans"):
                operation(*operands)


# -- numbers of half precision, and zero to the power of zero


def test_the_sigmoid_of_half_precision_does_not_overflow():
    """Warnings are errors in these tests."""
    x = mt.tensor(np.array([-60000.0, -15.0, -11.5, 0.0, 11.5, 60000.0], np.float16))
    y = mt.sigmoid(x)
    assert y.dtype == np.float16
    assert np.isfinite(y.numpy()).all()
    np.testing.assert_array_equal(y.numpy()[[3, 5]], [0.5, 1])


def test_the_mixed_second_derivative_of_zero_to_the_power_of_zero_is_zero():
    x, p = (mt.tensor(np.array(0.0), requires_grad=True) for _ in range(2))
    (gx,) = mt.grad([x**p], [x], create_graph=True)
    assert gx.item() == 0
    assert mt.grad(gx, p).item() == 0
