"""What can go wrong with a computation or its backward pass, and the words for it.

The engine checks where it stands and asks here for the exception to raise: what was wrong, why,
and what to do. Nothing in this file is entered while all goes well.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from microtensor import backend


class GradientStateError(RuntimeError):
    """A gradient that cannot be had: never recorded, released, overwritten or not depended on."""


class AnomalyError(FloatingPointError):
    """The first NaN or infinity under `detect_anomaly`, and the line that made it."""


class CaptureError(RuntimeError):
    """A step does something that cannot be noted once and done again."""


# -- captured steps


def untold(what: str) -> CaptureError:
    """Something that is neither an argument nor held meets a captured step."""
    return CaptureError(
        f"{what} that a captured step was not told of: it would be the same in every step. Pass it "
        "as an argument; or make a tensor of it outside and name that too: "
        "mt.capture(step, model, optimizer, tensor)"
    )


def not_captured(what: str, instead: str) -> CaptureError:
    """Something that a captured step cannot do."""
    return CaptureError(
        f"{what} cannot be captured, because it looks at the numbers; {instead}, or leave this "
        "step uncaptured"
    )


# -- arguments of an operation


def not_an_array(operation: str, argument: str, value: Any) -> TypeError:
    """A list, a string, an object: nothing an operation can work on."""
    return TypeError(
        f"{operation}: argument {argument!r} is a {type(value).__name__}; it must be a tensor, an "
        "array or a number (mt.tensor(...) makes a tensor of a list)"
    )


def mixed_backends(
    operation: str, argument: str, value: Any, kind: type
) -> TypeError | CaptureError:
    """Arrays of two backends in one operation."""
    theirs, ours = backend.of(value), backend.by_type[kind].name
    name = theirs.name if theirs else type(value).__name__
    if "captured" in (name, ours):
        return untold(f"argument {argument!r} of {operation}: a tensor")
    return TypeError(
        f"{operation}: argument {argument!r} lives on backend {name!r}, those before it on "
        f"{ours!r}; move one of them with .to({ours!r}) or .to({name!r})"
    )


def wrong_arguments(signature: str, missing: list[str], twice: set[str], count: int) -> TypeError:
    """A call that does not match the operation's signature."""
    if missing or twice:
        wrong = f"missing {missing}" if missing else f"got {sorted(twice)} twice"
    else:
        wrong = f"got {count} positional arguments, more than it takes"
    return TypeError(f"{wrong}: {signature}")


def unknown_name(signature: str, name: str) -> TypeError:
    """A rule that asks for something the operation does not have."""
    return TypeError(
        f"a rule names {name!r}, which is no argument, option or residual, nor `out`: {signature}"
    )


def no_rule(operation: str, argument: str) -> TypeError:
    """A derivative was asked for that nobody declared."""
    return TypeError(
        f"`{operation}` has no derivative rule for its argument {argument!r}; declare one with "
        f"{operation}.vjp({argument!r}, rule), or pass the argument detached"
    )


# -- what a rule returned


def check_contribution(node: Any, argument: str, c: Any, kind: Any, shape: Any, dtype: Any) -> None:
    """Raise if a rule's result, bare, is no array or does not fit its argument.

    Operations declared as broadcasting may return another shape or dtype: the engine brings it
    back. `shape` None: not to be compared.
    """
    declaration = node.plan.declaration
    where = f"the rule of `{declaration.name}` for {argument!r} returned"
    if type(c) is not kind:
        what = f"a {type(c).__name__}; its argument is a {kind.__name__}"
        raise _misfit(TypeError, "backend", f"{where} {what}")
    if c.dtype.kind == "c" and dtype.kind != "c":
        what = "complex numbers; complex tensors have no gradients"
        raise _misfit(TypeError, "dtype", f"{where} {what}")
    if declaration.broadcasts:
        return
    if shape is not None and c.shape != shape:
        what = f"shape {c.shape}; its argument has shape {shape}"
        raise _misfit(ValueError, "shape", f"{where} {what}")
    if c.dtype != dtype:
        what = f"dtype {c.dtype}; its argument has dtype {dtype}"
        raise _misfit(TypeError, "dtype", f"{where} {what}")


def _misfit(kind: type[Exception], fault: str, text: str) -> Exception:
    """An error that remembers what does not fit: microtensor.testing makes a verdict of it."""
    error: Any = kind(text)
    error.fault = fault
    return error  # type: ignore[no-any-return]


# -- the state of a graph


def not_recorded(who: str, output: Any) -> Exception:
    """Backward from something that was never recorded."""
    if not hasattr(output, "requires_grad"):
        return TypeError(f"{who} starts from recorded tensors, not from a {type(output).__name__}")
    return GradientStateError(
        f"{who}: this output of shape {output.shape} needs no gradient: nothing it was computed "
        "from has requires_grad=True, or it was computed under no_grad, or detached"
    )


def needs_no_gradient(i: int) -> GradientStateError:
    """`grad` with respect to a constant."""
    return GradientStateError(
        f"grad: input {i} needs no gradient; make it with requires_grad=True, or call "
        ".requires_grad_() on it before the computation"
    )


def not_used(i: int, shape: Any) -> GradientStateError:
    """`grad` with respect to something the outputs do not depend on."""
    return GradientStateError(
        f"grad: the outputs do not depend on input {i}, of shape {shape}; leave it out, or pass "
        "allow_unused=True to get None for it"
    )


def released(node: Any) -> GradientStateError:
    """A second visit."""
    return GradientStateError(
        f"backward came to {node!r} a second time, but the first pass released its graph; pass "
        "retain_graph=True to the first one, or, if the way here leads through a state carried "
        "over from an earlier step, cut it there with mt.detach(state)"
    )


def overwritten(node: Any, shape: Any) -> GradientStateError:
    """A saved array was changed."""
    return GradientStateError(
        f"backward needs an array of shape {shape} that {node!r} saved, but it was "
        "changed in place afterwards, by an assignment or an optimizer step; change it after "
        "backward, or change a copy"
    )


def unassignable(place: Any) -> GradientStateError:
    """`t[...] = v` on a result, or on a leaf that is being recorded."""
    if place is not None:
        return GradientStateError(
            "this tensor is the result of a recorded operation, and what was computed from it may "
            "need its numbers; build the new value with mt.where or mt.concatenate, or assign to "
            "mt.tensor(t.detach())"
        )
    return GradientStateError(
        "this leaf needs a gradient, and an assignment is not recorded; assign inside "
        "`with mt.no_grad():`"
    )


def unrecorded_value() -> GradientStateError:
    """`t[...] = v` where v needs a gradient that the assignment would lose."""
    return GradientStateError(
        "the value needs a gradient, and an assignment is not recorded; build the result with "
        "mt.where, mt.stack or mt.concatenate instead, or assign value.detach()"
    )


# -- the cotangent a backward pass starts from


def check_cotangent(who: str, cotangent: Any, output: Any) -> None:
    """Raise unless `cotangent` (a bare array, a number or None) is a direction for `output`."""
    shape, kind = output.shape, output.data.__class__
    if cotangent is None:
        raise ValueError(
            f"{who}: the output has shape {shape}, so the direction to differentiate in must be "
            "given: pass a cotangent of that shape, or first reduce the output to a number, for "
            "example with .sum()"
        )
    if cotangent.__class__ is not kind and not isinstance(cotangent, (int, float, np.generic)):
        raise TypeError(
            f"{who}: the cotangent is a {type(cotangent).__name__}, but the output lives on "
            f"backend {output.backend!r}; pass a tensor or array of that backend"
        )
    if hasattr(cotangent, "dtype") and cotangent.dtype.kind == "c" != output.dtype.kind:
        raise TypeError(f"{who}: the cotangent is complex, the output {output.dtype}; pass .real")
    given = getattr(cotangent, "shape", ())
    if given != shape:
        raise ValueError(f"{who}: the cotangent has shape {given}, the output has {shape}")


def wrong_count(who: str, outputs: int, cotangents: int) -> ValueError:
    """One cotangent for each output."""
    return ValueError(f"{who}: {outputs} outputs, but {cotangents} cotangents")


# -- anomalies


def all_finite(value: Any) -> bool:
    """Whether no float in an array, a tuple of arrays or a number is NaN or infinite."""
    if isinstance(value, tuple):
        return all(all_finite(part) for part in value)
    if isinstance(value, float):
        return math.isfinite(value)
    xp = backend.namespaces.get(value.__class__)
    return xp is None or value.dtype.kind != "f" or bool(xp.isfinite(value).all())


def users_frame(frame: Any) -> Any:
    """The nearest frame that is not in the package."""
    package = __name__.partition(".")[0]
    while (
        frame.f_back is not None
        and frame.f_globals.get("__name__", "").partition(".")[0] == package
    ):
        frame = frame.f_back
    return frame


def _spoilt(out: Any, given: Any) -> bool:
    """Whether `out` has a NaN or an infinity that nothing in `given` accounts for."""
    if all_finite(out):
        return False
    return all_finite(given) or (_has_nan(out) and not _has_nan(given))


def _has_nan(value: Any) -> bool:
    if isinstance(value, tuple):
        return any(_has_nan(part) for part in value)
    xp = backend.namespaces.get(value.__class__)
    if xp is None or value.dtype.kind != "f":
        return isinstance(value, float) and math.isnan(value)
    return bool(xp.isnan(value).any())


def check_forward(operation: str, arguments: list[Any], out: Any, frame: Any) -> None:
    """Raise if a result has a NaN or infinity that its arguments do not account for."""
    if _spoilt(out, tuple(arguments)):
        raise AnomalyError(
            f"`{operation}` made the first NaN or infinity of the forward pass, which its "
            f"arguments do not account for, at {frame.f_code.co_filename}:{frame.f_lineno}"
        )


def _bare(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple([_bare(part) for part in value])
    return value.data if hasattr(value, "requires_grad") else value


def check_backward(node: Any, argument: str, contribution: Any, cotangent: Any) -> None:
    """Raise if a contribution, or the sum of them that arrived, has a NaN or infinity."""
    contribution = getattr(contribution, "values", contribution)  # indexed: some elements only
    contribution, cotangent = _bare(contribution), _bare(cotangent)
    file, line = node.line
    where = f"the operation was called at {file}:{line}"
    if not all_finite(cotangent):
        # Each contribution was looked at when it was made, and was finite.
        raise AnomalyError(
            f"what arrived at `{node.name}` in the backward pass has a NaN or an infinity: its "
            f"contributions are finite and their sum is not, or the pass was started so; {where}"
        )
    if not all_finite(contribution):
        raise AnomalyError(
            f"`{node.name}` made the first NaN or infinity of the backward pass, in the gradient "
            f"of its argument {argument!r}; {where}"
        )
