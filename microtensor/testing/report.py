"""What a check says: a report if all is well, otherwise an error with a verdict."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from microtensor import backend

__all__ = ["GradReport", "GradientError", "Kink"]

MOST_NUMBERS = 100  # that a reproducer prints of one array

# What a verdict means, as the first words of its message.
VERDICTS = {
    "wrong_gradient": "wrong gradient",
    "kink": "kink",
    "ill_conditioned": "ill-conditioned",
    "nondeterministic": "not deterministic",
    "shape": "wrong shape",
    "dtype": "wrong dtype",
    "backend": "wrong backend",
    "mutated_input": "changed in place",
    "aliased_gradient": "shared memory",
    "nan": "not finite",
    "wrong_update": "wrong update",
}


@dataclass(frozen=True)
class Kink:
    """A number at which the function has no derivative, only one from either side.

    Attributes
    ----------
    input
        The position of the input, or a parameter's name.
    element
        The index of the number in it.
    analytic
        What the chain rule gives there.
    left, right
        The one-sided derivatives.
    """

    input: int | str
    element: tuple[int, ...]
    analytic: float
    left: float
    right: float


@dataclass(frozen=True)
class GradReport:
    """What a successful check found.

    Attributes
    ----------
    order
        The highest derivative that was checked.
    wrt
        The inputs that were differentiated: positions, and names of a module's parameters.
    error
        The largest difference along a direction, as a fraction of what was allowed.
    method
        "complex step", or "central differences" where that is not possible.
    kinks
        Numbers at a kink where the gradient lies between the one-sided derivatives.
    """

    order: int
    wrt: tuple[int | str, ...]
    error: float
    method: str = "central differences"
    kinks: tuple[Kink, ...] = ()


class GradientError(AssertionError):
    """A derivative that is wrong, or that could not be confirmed, and why.

    Attributes
    ----------
    verdict
        `wrong_gradient`, `kink`, `ill_conditioned`, `nondeterministic`, `shape`, `dtype`,
        `backend`, `mutated_input`, `aliased_gradient` or `nan`; of an optimizer `wrong_update`.
    cause
        A guess from the pattern of the numbers, or "": `scale`, `sign`, `cut` (nothing arrives),
        `broadcast` (a sum is missing), `transpose`, `shift` (one step off), `reversed`, `blocks`
        (blocks such as gates exchanged), `exchanged` (another input's gradient), `factor`,
        `partial` (right in some places), `precision` (float32's).
    order
        Which derivative: 1 for the gradient.
    input
        The position of the input among the arguments, a parameter's name, or None.
    element
        The index of the number in it whose derivative is worst, or None.
    analytic, numeric
        Both values of that derivative, as floats, or None.
    ratio
        analytic / numeric, or None.
    inputs
        The inputs as they were given.
    reproducer
        Lines of Python that repeat the check.
    """

    def __init__(
        self,
        message: str,
        *,
        verdict: str,
        cause: str = "",
        order: int = 1,
        input: int | str | None = None,
        element: tuple[int, ...] | None = None,
        analytic: float | None = None,
        numeric: float | None = None,
        inputs: tuple[Any, ...] = (),
        reproducer: str = "",
    ) -> None:
        self.summary = message
        self.verdict, self.cause = verdict, cause
        self.order, self.input, self.element = order, input, element
        self.analytic, self.numeric = analytic, numeric
        self.ratio = None if analytic is None or not numeric else analytic / numeric
        self.inputs, self.reproducer = inputs, reproducer
        super().__init__(message)

    def __reduce__(self) -> Any:
        """For copying and pickling, as pytest does between processes."""
        return _again, (type(self), self.__dict__)

    def __str__(self) -> str:
        text = f"{VERDICTS[self.verdict]}: {self.summary}"
        if self.reproducer:
            lines = "\n".join(f"    {line}" for line in self.reproducer.splitlines())
            text += f"\nTo see it again:\n{lines}"
        return text


def _again(kind: type[GradientError], attributes: dict[str, Any]) -> GradientError:
    error = kind.__new__(kind)
    error.args = (attributes["summary"],)
    error.__dict__.update(attributes)
    return error


def at(element: Sequence[int] | None) -> str:
    """An index as it is written behind a name; nothing for a number without axes."""
    return f"[{', '.join(map(str, element))}]" if element else ""


def literal(array: np.ndarray, indent: int = 0) -> str:
    """Python that makes this array again, exactly; it begins at column `indent`."""
    dtype = "" if array.dtype in (np.float64, np.int64, np.bool_) else f", np.{array.dtype.name}"
    if array.size == 0:
        return f"np.zeros({array.shape}, np.{array.dtype.name})"
    if array.size > MOST_NUMBERS:
        return f"...  # {array.dtype} {array.shape}: error.inputs has it"
    text = np.array2string(
        array,
        separator=", ",
        floatmode="unique",
        threshold=MOST_NUMBERS + 1,
        max_line_width=96,
        prefix=" " * (indent + len("np.array(")),
    )
    text = "\n".join(line.rstrip() for line in text.splitlines() if line.strip())
    return f"np.array({text.replace('nan', 'np.nan').replace('inf', 'np.inf')}{dtype})"


def where_from(f: Any, instead: str = "f") -> tuple[str, str]:
    """How code refers to f: an import line or a comment, and its name, or one instead of it."""
    if isinstance(f, functools.partial) and not f.args:
        imported, inner = where_from(f.func, instead)
        given = ", ".join(f"{key}={value!r}" for key, value in f.keywords.items())
        return f"from functools import partial\n{imported}", f"partial({inner}, {given})"
    f = inspect.unwrap(f)
    name: Any = getattr(f, "__qualname__", None)
    module = getattr(f, "__module__", None)
    if name is None:
        what = " ".join(repr(f).split())
        # Not the address of an object, which would tell nothing and differ each time.
        return f"{instead} = ...  # {type(f).__name__ if ' at 0x' in what else what}", instead
    if name.isidentifier() and module not in (None, "__main__"):
        return f"from {module} import {name}", name
    code = getattr(f, "__code__", None)
    declaration = getattr(f, "declaration", None)
    if declaration is not None:
        code = declaration.forward.__code__
    if name.isidentifier():
        return f"# {name}: as in your program", name
    place = f", {code.co_filename}:{code.co_firstlineno}" if code is not None else ""
    return f"{instead} = ...  # {name.rpartition('.')[2]}{place}", instead


def _expression(value: Any, indent: int) -> str:
    """Python that makes an input again: arrays, tensors as arrays, nests of them, the rest."""
    value = getattr(value, "data", value) if hasattr(value, "requires_grad") else value
    place = backend.of(value)
    if place is not None:
        array = np.asarray(place.to_host(value))
        if array.ndim > 1 and array.flags.f_contiguous and not array.flags.c_contiguous:
            return f"np.asfortranarray({literal(array, indent + len('np.asfortranarray('))})"
        return literal(array, indent)
    if isinstance(value, dict):
        inner = ", ".join(f"{k!r}: {_expression(v, indent + 1)}" for k, v in value.items())
        return f"{{{inner}}}"
    if isinstance(value, float) and not np.isfinite(value):
        return f"float('{value}')"
    if isinstance(value, (tuple, list)) and not hasattr(value, "_make"):
        inner = ", ".join(_expression(part, indent + 1) for part in value)
        inner += "," * (isinstance(value, tuple) and len(value) == 1)
        return f"({inner})" if isinstance(value, tuple) else f"[{inner}]"
    return repr(value)


def reproducer(call: str, f: Any, inputs: Sequence[Any], options: Mapping[str, Any]) -> str:
    """The call of a check as a program: imports, the inputs x0, x1, ..., and the call."""
    imported, name = where_from(f)
    heads = ["import numpy as np", f"from microtensor.testing import {call}", imported]
    lines, arguments = [], [name]
    for i, value in enumerate(inputs):
        lines.append(f"x{i} = {_expression(value, len(f'x{i} = '))}")
        arguments.append(f"x{i}")
    for key, value in options.items():
        if callable(value):
            imported, name = where_from(value, key)
            heads.append(imported)
            arguments.append(f"{key}={name}")
        else:
            arguments.append(f"{key}={_expression(value, 0)}")
    return "\n".join([*heads, *lines, f"{call}({', '.join(arguments)})"])
