"""Are these derivatives right? `check_grads`, and how it comes to its verdict.

1. Before any number is compared: the value is computed twice (is it deterministic, is it finite?),
   the gradient is pulled back twice (is it linear in the cotangent?), by `backward` too; whoever
   wrote into an input, handed out somebody else's memory, or changed shape, dtype or backend is
   named (form.py).
2. Along a direction u and for cotangents v, both random, g . u must be the derivative of
   v . f(x + t u) at t = 0. All inputs move at once, and one comparison costs a few calls of f
   however many numbers there are. The derivative is had by the complex step if f takes complex
   numbers, and if a central difference confirms it; else by central differences (differences.py).
3. Only if that disagrees, single numbers are moved, to say which derivative is wrong; and it is
   found out whether it is wrong at all, or at a kink, or drowned in rounding (comparison.py). The
   pattern of the wrong numbers gives a guess at the mistake (diagnosis.py).

A second order is checked by doing the same with the gradient as the function, whose inputs are
those of f and the cotangents, a third with the gradient of that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from microtensor import backend, modes
from microtensor.declaration import LIBRARY
from microtensor.tensor import Tensor
from microtensor.testing.comparison import Comparison, Settings
from microtensor.testing.form import Form
from microtensor.testing.report import MOST_NUMBERS, GradientError, GradReport, reproducer
from microtensor.testing.subject import Gradient, HandWritten, Leaf, Tensors

__all__ = ["check_grads"]

LIBRARY.add(id(globals()))


def check_grads(
    f: Callable[..., Any],
    *inputs: Any,
    wrt: int | str | Sequence[int | str] | None = None,
    order: int = 1,
    mode: str = "auto",
    cotangent: Any = "random",
    vjp: Callable[..., Any] | None = None,
    eps: float | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    kinks: str = "subgradient",
    rng: int = 0,
) -> GradReport:
    """Raise `GradientError` unless the derivatives of `f` at `inputs` are right.

    Also checked: f gives the same result twice, and finite numbers; a gradient has shape, dtype and
    backend of its input; it shares no memory with another, with a cotangent, an input or an output;
    neither f nor its backward pass writes into what it was given; `backward` fills and adds up
    `.grad` accordingly; float32 stays float32.

    Parameters
    ----------
    f
        A function of tensors that returns a tensor, or several in tuples, lists or dictionaries;
        or an `nn.Module`, whose parameters are then inputs too (they are left as they were); or,
        with `vjp`, a function of arrays.
    inputs
        Tensors or arrays of any backend, or nests of them such as an LSTM's state; anything else is
        passed on as it is. Nothing is written into them; should f do so, they are restored.
    wrt
        Which inputs to differentiate: positions, or names of parameters. None: all of float32 and
        float64.
    order
        1 for the gradient; 2 differentiates the gradient too, with respect to the inputs and to
        its cotangent; and so on.
    mode
        "complex" for the complex step, "central" for central differences, or "auto": the complex
        step where f takes complex numbers and central differences confirm it.
    cotangent
        "random" (normal numbers), "ones", or what to use: an array or tensor of the output's shape,
        a sequence of them for several outputs.
    vjp
        A backward pass written by hand, `vjp(g, *inputs)` or, for code that remembers its forward
        pass, `vjp(g)`. It takes the cotangent (a tuple of them if f returns one) and returns the
        gradient, or a tuple with one for each array, or for each float array, among the inputs.
    eps
        The step of central differences, relative to max(1, |x|). None: a ladder of steps around the
        cube root of the precision.
    rtol, atol
        A derivative may be off by atol + rtol * |derivative|, and by the rounding of the value.
        None: rtol 1e-9 for the complex step, 1e-6 for central differences, 1e-4 for float32
        (5e-3 where f computes in nothing better); atol 0.
    kinks
        What to do at a number where only one-sided derivatives exist: "subgradient" asks that the
        gradient lies between them, "refuse" raises, "skip" compares nothing there.
    rng
        Seed of the random cotangents and directions. No global random state is touched.

    Returns
    -------
    GradReport

    Raises
    ------
    GradientError
        With a verdict, the worst number, a guess at the cause, and lines of Python to see it again.
    ValueError, TypeError
        If there is nothing to differentiate, or the arguments make no sense.
    """
    _check_arguments(order, mode, kinks, vjp, eps, rtol, atol)
    wrt = [wrt] if isinstance(wrt, (int, str)) else wrt
    options = {
        "wrt": wrt,
        "order": order,
        "mode": mode,
        "cotangent": cotangent,
        "vjp": vjp,
        "eps": eps,
        "rtol": rtol,
        "atol": atol,
        "kinks": kinks,
        "rng": rng,
    }
    try:
        return _checked(f, inputs, **options)
    except GradientError as error:
        usual = check_grads.__kwdefaults__ or {}
        given = {name: v for name, v in options.items() if v is not usual[name]}
        error.inputs = inputs
        error.reproducer = reproducer("check_grads", f, _smaller(f, inputs, error, options), given)
        raise


def _checked(
    f: Callable[..., Any],
    inputs: Sequence[Any],
    wrt: Sequence[int | str] | None,
    order: int,
    cotangent: Any,
    vjp: Any,
    rng: int,
    **settings: Any,
) -> GradReport:
    """The check itself, whose errors have no reproducer yet."""
    subject: Any = Tensors(f, inputs) if vjp is None else HandWritten(f, vjp, inputs)
    subject.wrt, named = _chosen(subject.leaves, len(inputs), wrt)
    if not subject.wrt:
        raise ValueError(
            "check_grads: it needs an input to differentiate, an array or tensor of float32 or "
            "float64"
        )
    generator = backend.Generator(rng)
    worst, methods, found = 0.0, [], []
    comparison: Comparison | None = None
    for k in range(1, order + 1):
        with subject.loaded(), modes.enable_grad(), np.errstate(all="ignore"):
            form = Form(subject, k, generator, cotangent if k == 1 else "random")
            comparison = Comparison(form, Settings(**settings), generator, comparison)
            worst = max(worst, comparison.run())
        methods.append(comparison.method)
        found += comparison.kinks
        if k < order:
            subject = Gradient(subject, form.cotangents)
    differences = [method for method in methods if method != "complex step"]
    return GradReport(order, named, worst, (differences or methods)[0], tuple(found))


def _smaller(
    f: Any, inputs: Sequence[Any], error: GradientError, options: Mapping[str, Any]
) -> list[Any]:
    """Inputs that one can print and that show the same fault: cut down to the worst number.

    Axes of one length that would meet in broadcasting are cut together; a cut is kept if the check
    still comes to the same verdict.
    """
    kept = [value.data if isinstance(value, Tensor) else value for value in inputs]
    which, element = error.input, error.element
    if not any(backend.of(value) is not None and value.size > MOST_NUMBERS for value in kept):
        return kept
    if not isinstance(which, int) or element is None or backend.of(kept[which]) is None:
        return kept
    for axis in range(1, kept[which].ndim + 1):
        length, where = kept[which].shape[-axis], element[-axis]
        cut = [_cut(value, axis, length, where) for value in kept]
        if length == 1:
            continue
        try:
            _checked(f, cut, **options)
        except GradientError as other:
            if (other.verdict, other.input) == (error.verdict, error.input):
                kept = cut
        except Exception:  # f does not take these shapes: then it stays as it was
            continue
    return kept


def _cut(value: Any, axis: int, length: int, where: int) -> Any:
    if backend.of(value) is None or value.ndim < axis or value.shape[-axis] != length:
        return value
    return value[(..., slice(where, where + 1), *[slice(None)] * (axis - 1))]


def _check_arguments(
    order: Any, mode: str, kinks: str, vjp: Any, eps: Any, rtol: Any, atol: Any
) -> None:
    if not isinstance(order, int) or order < 1:
        raise ValueError(f"check_grads: order from 1 up, not {order!r}")
    if vjp is not None and not callable(vjp):
        raise TypeError(f"check_grads: vjp is a function of the cotangent, not {vjp!r}")
    for name, number, least in (("eps", eps, 1e-12), ("rtol", rtol, 0.0), ("atol", atol, 0.0)):
        if number is not None and not (isinstance(number, (int, float)) and least <= number < 1e3):
            raise ValueError(f"check_grads: {name} is a number from {least:g} up, not {number!r}")
    if vjp is not None and order > 1:
        raise ValueError(
            "check_grads: a backward pass written by hand cannot be differentiated; order must be "
            "1 with vjp="
        )
    for name, value, known in (
        ("mode", mode, ("auto", "complex", "central")),
        ("kinks", kinks, ("subgradient", "refuse", "skip")),
    ):
        if value not in known:
            raise ValueError(f"check_grads: {name} is one of {known}, not {value!r}")


def _chosen(
    leaves: Sequence[Leaf], count: int, wrt: Sequence[int | str] | None
) -> tuple[list[int], tuple[int | str, ...]]:
    """The positions among the leaves that wrt means, and how they are called."""
    if wrt is None:
        found = [i for i, leaf in enumerate(leaves) if leaf.is_float]
        return found, tuple(leaves[i].key for i in found)
    found = []
    for wanted in wrt:
        key = wanted % count if isinstance(wanted, int) and -count <= wanted < count else wanted
        hits = [
            i
            for i, leaf in enumerate(leaves)
            if leaf.is_float and (leaf.key == key or str(leaf.key).startswith(f"{key}["))
        ]
        if not hits:
            known = ", ".join(repr(leaf.key) for leaf in leaves if leaf.is_float)
            raise ValueError(
                f"check_grads: there is no float32 or float64 input {wanted!r}; there are {known}"
            )
        found += [i for i in hits if i not in found]
    return found, tuple(leaves[i].key for i in found)
