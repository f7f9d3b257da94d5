"""Products: shapes of vectors, matrices and stacks, dtypes that differ, einsum's whole notation."""

import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import microtensor as mt
from microtensor.testing import check_grads

RNG = np.random.Generator(np.random.Philox(3))


def numbers(*shape):
    return RNG.uniform(-1, 1, shape)


# -- matmul and linear


@pytest.mark.parametrize(
    ("a", "b"),
    [
        *[((3,), (3,)), ((3,), (3, 2)), ((3,), (2, 3, 4)), ((3,), (5, 2, 3, 4))],
        *[((2, 3), (3,)), ((5, 2, 3), (3,)), ((4, 5, 2, 3), (3,))],
        *[((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((2, 3), (5, 3, 4)), ((5, 2, 3), (5, 3, 4))],
        *[((1, 2, 3), (5, 3, 4)), ((5, 1, 2, 3), (4, 3, 2)), ((1, 1), (1, 1)), ((2, 0), (0, 3))],
    ],
)
def test_matrix_products_of_all_kinds_of_shapes(a, b):
    a, b = numbers(*a), numbers(*b)
    np.testing.assert_allclose(mt.matmul(mt.tensor(a), mt.tensor(b)).numpy(), a @ b, rtol=1e-13)
    check_grads(mt.matmul, mt.tensor(a), mt.tensor(b), order=2)


@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 5, 3), (2, 1, 5, 3), (0, 3), (2, 0, 3)])
@pytest.mark.parametrize("biased", [False, True])
def test_a_linear_map_of_all_kinds_of_shapes(shape, biased):
    x, weight, bias = numbers(*shape), numbers(4, 3), numbers(4)
    operands = [mt.tensor(v) for v in ((x, weight, bias) if biased else (x, weight))]
    wanted = x @ weight.T + (bias if biased else 0)
    np.testing.assert_allclose(mt.linear(*operands).numpy(), wanted, rtol=1e-13, atol=1e-15)
    check_grads(mt.linear, *operands, order=2)


@given(values=st.data())
@pytest.mark.parametrize("biased", [False, True])
def test_a_linear_map_of_features_that_lie_apart_copies_nothing(biased, values):
    """They stay apart in the result, whatever the order of the other axes."""
    lengths = [*values.draw(st.lists(st.integers(2, 4), min_size=2, max_size=3)), 3]
    order, other = [
        (len(lengths) - 1, *values.draw(st.permutations(range(len(lengths) - 1)))) for _ in range(2)
    ]

    def apart(order, length):
        memory = numbers(*[[*lengths[:-1], length][i] for i in order])
        return memory.transpose(np.argsort(order))

    x, weight, bias = apart(order, 3), numbers(5, 3), numbers(5)
    operands = [
        mt.tensor(v, requires_grad=True) for v in ((x, weight, bias) if biased else (x, weight))
    ]
    out = mt.linear(*operands)
    for cotangent in (apart(order, 5), apart(other, 5), numbers(*lengths[:-1], 5)):
        gradients = mt.grad(out, operands, mt.tensor(cotangent), retain_graph=True)
        rows, flat = cotangent.reshape(-1, 5), x.reshape(-1, 3)
        wanted = [cotangent @ weight, rows.T @ flat, rows.sum(0)]
        for g, expected in zip(gradients, wanted, strict=False):
            np.testing.assert_allclose(g.numpy(), expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(out.data, x @ weight.T + (bias if biased else 0), rtol=1e-12)
    assert out.data.transpose(order).flags.c_contiguous


@pytest.mark.parametrize("biased", [False, True])
def test_a_linear_map_of_dtypes_that_differ_gives_each_its_own_gradient(biased):
    kinds = [np.float32, np.float64, np.float32]
    shapes = [(2, 3), (4, 3), (4,)]
    operands = [
        mt.tensor(numbers(*shape).astype(kind), requires_grad=True)
        for shape, kind in zip(shapes, kinds, strict=True)
    ][: 3 if biased else 2]
    out = mt.linear(*operands)
    assert out.dtype == np.float64
    for operand, g in zip(operands, mt.grad(out.sum(), operands), strict=True):
        assert g.dtype == operand.dtype


@pytest.mark.parametrize("biased", [False, True])
def test_a_linear_map_of_integers_is_as_precise_as_its_weight(biased):
    weight, bias = mt.tensor(numbers(4, 3), np.float32), mt.tensor(numbers(4), np.float32)
    out = mt.linear(mt.tensor(np.arange(6).reshape(2, 3)), weight, bias if biased else None)
    assert out.dtype == np.float32


def test_a_number_is_no_input_of_a_linear_map():
    with pytest.raises(ValueError, match=r"linear: x of shape \(\) must end in the 3 features"):
        mt.linear(mt.tensor(1.0), mt.ones((4, 3)))


def test_all_products_of_two_arrays_taken_flat(backend):
    a, b = numbers(2, 3), numbers(4)
    got = mt.outer(backend.tensor(a), backend.tensor(b))
    np.testing.assert_allclose(backend.host(got), np.outer(a, b), rtol=1e-15)


# -- einsum


@pytest.mark.parametrize(
    ("subscripts", "shapes"),
    [
        ("...i,...i->...", [(2, 3, 4), (4,)]),
        ("...i,...i->...i", [(4,), (2, 3, 4)]),
        ("i...,i...", [(4, 2, 3), (4, 3)]),
        ("...ij,j...->i...", [(2, 3, 4, 5), (5, 3)]),
        ("...,...->...", [(2, 3), ()]),
        ("...,...,...i->i...", [(3,), (2, 1), (2, 3, 4)]),
        ("a...b,...c->...abc", [(2, 5, 6, 3), (6, 4)]),
        ("...", [(2, 3)]),
    ],
)
def test_ellipses_that_stand_for_different_numbers_of_axes(subscripts, shapes):
    operands = [numbers(*shape) for shape in shapes]
    tensors = [mt.tensor(operand) for operand in operands]

    def product(*arguments):
        return mt.einsum(subscripts, *arguments)

    wanted = np.einsum(subscripts, *operands)
    np.testing.assert_allclose(product(*tensors).numpy(), wanted, rtol=1e-13)
    check_grads(product, *tensors)


def test_every_letter_may_be_a_label():
    """Axes of length 1, so that an array may have 26 of them; none is left for another use."""
    letters = string.ascii_lowercase, string.ascii_uppercase
    a, b = (mt.tensor(np.full((1,) * 26, value), requires_grad=True) for value in (2.0, 3.0))
    out = mt.einsum(",".join(letters) + "->", a, b)
    assert out.item() == 6
    assert [g.item() for g in mt.grad(out, [a, b])] == [3, 2]


def test_a_repeated_label_takes_the_last_letter_that_is_free():
    lower, upper = string.ascii_lowercase, string.ascii_uppercase[:25]  # Z is free
    a, b = np.full((1,) * 26, 2.0), np.full((*(1,) * 24, 2, 2), 3.0)
    out = mt.einsum(f"{lower},{upper}{upper[-1]}->", mt.tensor(a), mt.tensor(b))
    assert out.item() == 12  # the trace of a matrix of threes, times 2


def test_a_trace_and_a_diagonal_of_every_repetition():
    x = numbers(3, 3, 3)
    for subscripts in ("iii->i", "iij->j", "iji->ij", "iii"):
        got = mt.einsum(subscripts, mt.tensor(x)).numpy()
        np.testing.assert_allclose(got, np.einsum(subscripts, x), rtol=1e-14)


@pytest.mark.parametrize(
    ("subscripts", "shapes"),
    [
        *[("ii", [(3, 3)]), ("ii->i", [(3, 3)]), ("iij->j", [(2, 2, 3)]), ("iji", [(2, 3, 2)])],
        *[("iii->i", [(2, 2, 2)]), ("ii,ij->j", [(2, 2), (2, 3)])],
        *[("ij,ik->kj", [(1, 3), (2, 1)]), ("ij,ij->j", [(1, 3), (2, 3)]), ("i,i", [(1,), (3,)])],
    ],
)
def test_gradients_of_repeated_labels_and_of_axes_of_length_1_that_are_repeated(subscripts, shapes):
    operands = [mt.tensor(numbers(*shape)) for shape in shapes]
    check_grads(lambda *arguments: mt.einsum(subscripts, *arguments), *operands, order=2)


def test_subscripts_may_have_spaces():
    a, b = numbers(2, 3), numbers(3, 4)
    got = mt.einsum(" ij , jk -> ik ", mt.tensor(a), mt.tensor(b)).numpy()
    np.testing.assert_allclose(got, a @ b, rtol=1e-14)
