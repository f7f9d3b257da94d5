"""A property test of an operation in one decorator: `given_op`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from microtensor import backend
from microtensor.nn.module import Module
from microtensor.tensor import Tensor
from microtensor.testing.gradients import check_grads
from microtensor.testing.report import at, literal
from microtensor.testing.strategies import arrays, broadcastable, shapes
from microtensor.testing.subject import flatten

# If Hypothesis is missing, strategies.py has said so.
from hypothesis import HealthCheck, given, settings  # isort: skip
from hypothesis import strategies as st  # isort: skip

__all__ = ["Call", "calls", "given_op"]

_RTOL = {"float64": 1e-10, "float32": 1e-4}
_CHECKS = frozenset(inspect.signature(check_grads).parameters) - {"f", "inputs", "order", "vjp"}


def given_op(
    op: Callable[..., Any],
    *inputs: Any,
    reference: Callable[..., Any] | None = None,
    order: int = 2,
    options: Mapping[str, Any] | None = None,
    domain: Any = "real",
    dtypes: Sequence[Any] = (np.float64, np.float32),
    rtol_of_values: float | None = None,
    **check: Any,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Test an operation on arrays drawn at random, and then run the body of the test.

        @given_op(softcap, reference=lambda x, cap: cap * np.tanh(x / cap),
                  options={"cap": st.sampled_from([0.5, 1.0, 4.0])})
        def test_softcap(x, cap, out):
            assert abs(out).max() <= cap

    For each example it draws the inputs and the options and calls `op` on tensors. Then, in this
    order: the values, their dtype and their shape must be those of `reference`, in float64 and in
    float32; the derivatives up to `order` must be right (`check_grads`); the test's own body runs.

    Parameters
    ----------
    op
        An operation made by `primitive`, or any function of tensors, module or bound method.
    inputs
        A strategy for each argument of `op`, in order (see `strategies`). One that draws a list
        stands for as many arguments: `broadcastable(2)`, `matmul_pair()`. Tuples are handed over as
        they are, with the arrays in them made tensors. What is no strategy is used as it is, except
        that a function names arguments before its own, and returns the strategy for their values:
        `lambda logits: labels(*logits.shape)`. If no input is given, operations declared as
        broadcasting receive `broadcastable` arrays, others arrays of one shape.
    reference
        The same function of bare NumPy arrays; None if there is nothing to compare values with.
    order
        The highest derivative to check; 0 checks none. None is checked of operations that are
        declared not to be differentiable.
    options
        For names of options of `op`: a strategy, a value, or a function that names arguments or
        options before it and returns a strategy: `{"axis": lambda x: axes(x.shape)}`.
    domain
        Where the numbers lie if no inputs are given: as in `strategies.arrays`, or a list with a
        domain for each argument.
    dtypes
        In which the values are compared. The derivatives are checked in the first.
    rtol_of_values
        How far values may be off, relative to the largest of the result or to 1. None: 1e-10 in
        float64 and 1e-4 in float32.
    check
        Further arguments of `check_grads`: `wrt`, which may be names of arguments, `kinks`,
        `rtol`, ...

    Returns
    -------
    callable
        The decorator. The names of a test's parameters say what it receives: an argument of `op`
        (as the tensor, requiring a gradient, that `out` was computed from; a tuple of them for
        `*args`), an option, or `out`, the result. Every other parameter is pytest's: a fixture, an
        argument of `parametrize`, or `self`. Hypothesis' `settings`, `seed` and so on may stand
        above or below; without them there is no deadline, because a check's first run is slow.

    Raises
    ------
    TypeError, ValueError
        At once, if an option, a domain or an argument of `check_grads` does not exist, or it is
        not known what to draw.

    Notes
    -----
    A failing example is printed as a call that can be pasted, shrunk to few and short numbers.
    """
    if order < 0:
        raise ValueError(f"given_op: order must be 0, 1, 2, ..., not {order}")
    if reference is not None and not callable(reference):
        raise TypeError(f"given_op: reference must be a function of arrays, not {reference!r}")
    if unknown := check.keys() - _CHECKS:
        known = ", ".join(sorted(_CHECKS))
        raise TypeError(
            f"given_op: {sorted(unknown)} is no argument of given_op, nor of check_grads ({known})"
        )
    chosen = dict(options or {})
    operation = _Operation(op, chosen)
    if not inputs:
        inputs = (operation.drawn_by_default(domain),)
    elif domain != "real":
        raise TypeError("given_op: domain goes to the strategies where inputs are given")
    experiment = _Experiment(
        operation,
        reference,
        [np.dtype(dtype) for dtype in dtypes],
        rtol_of_values,
        0 if operation.constant else order,
        check,
    )
    drawn = _calls(operation, inputs, chosen)

    def decorate(body: Callable[..., Any]) -> Callable[..., Any]:
        if not inspect.isfunction(body):
            raise TypeError(f"given_op decorates a test function, not {body!r}")
        return _property_test(body, experiment, drawn)

    return decorate


# -- the operation and its calls ------------------------------------------------------------------


class _Operation:
    """What is known of an operation: names, options, and how to draw arguments for it.

    Arguments are handed over by position, as far as the first that is among the options.
    """

    def __init__(self, op: Any, options: Mapping[str, Any]) -> None:
        if not callable(op):
            raise TypeError(f"given_op: {op!r} cannot be called; give it an operation first")
        self.op = op
        self.name = getattr(op, "__name__", type(op).__name__)
        self.broadcasts = self.constant = False
        self.never: frozenset[str] = frozenset()  # arguments without a gradient
        self.any_option = False
        self.variadic: str | None = None
        declaration = getattr(op, "declaration", None)
        if declaration is None:
            self._read(op.forward if isinstance(op, Module) else op)
        else:
            self.broadcasts, self.never = declaration.broadcasts, declaration.constant
            self.constant = self.never >= {*declaration.arguments}
            self.required = [] if declaration.variadic else list(declaration.arguments)
            self.variadic = declaration.arguments[0] if declaration.variadic else None
            self.defaults = dict(declaration.defaults)
            self.positional = [*self.required, *self.defaults]
        known = {*self.positional, *self.defaults}
        self.names = known | {*options} | {self.variadic or "out", "out"}
        unknown = options.keys() - known
        if unknown and not self.any_option:
            has = f"its options are {sorted(self.defaults)}" if self.defaults else "it has none"
            raise TypeError(f"given_op: {self.name} has no option {sorted(unknown)}; {has}")
        first = next((i for i, n in enumerate(self.positional) if n in options), None)
        self.positional = self.positional[:first]
        self.required = [name for name in self.required if name in self.positional]

    def _read(self, function: Any) -> None:
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):
            raise TypeError(
                f"given_op: the names of {self.name}'s arguments cannot be read; wrap it in a "
                f"function: lambda x: {self.name}(x)"
            ) from None
        self.required, self.positional, self.defaults = [], [], {}
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_POSITIONAL:
                self.variadic = name
            elif parameter.kind is parameter.VAR_KEYWORD:
                self.any_option = True
            else:
                by_position = parameter.kind is not parameter.KEYWORD_ONLY
                if by_position:
                    self.positional.append(name)
                if by_position and parameter.default is parameter.empty:
                    self.required.append(name)
                else:
                    self.defaults[name] = parameter.default

    def drawn_by_default(self, domain: Any) -> Any:
        """A strategy for a list of all arguments."""
        if self.never and not self.constant:
            raise TypeError(
                f"given_op: nothing says what to draw for {sorted(self.never)} of {self.name}, "
                "which has no gradient; give a strategy for each argument"
            )
        if bool(self.required) is (self.variadic is not None):
            raise TypeError(
                f"given_op: {self.name} does not tell how many arrays it takes; give a strategy "
                "for each argument"
            )
        count = st.just(len(self.required)) if self.required else st.integers(1, 3)
        if self.broadcasts and self.required:
            return broadcastable(len(self.required), domain=domain, layout="any")
        same = st.tuples(count, shapes()).map(lambda drawn: [drawn[1]] * drawn[0])
        return arrays(same, domain=domain, layout="any")

    def bound(self, arguments: Sequence[Any]) -> dict[str, Any]:
        """The arguments by name."""
        named = dict(zip(self.positional, arguments, strict=False))
        rest = tuple(arguments[len(self.positional) :])
        if self.variadic is not None:
            named[self.variadic] = rest
        elif rest:
            raise TypeError(
                f"given_op: {len(arguments)} arguments were drawn for {self.name}, which takes "
                f"{self.positional}; a strategy that draws a list stands for several arguments"
            )
        return named


class Call:
    """One call of an operation: what was drawn for it.

    Attributes
    ----------
    arguments
        By position.
    options
        By name.
    named
        All of them by name.
    """

    def __init__(self, operation: _Operation, arguments: list[Any], options: dict[str, Any]):
        self.operation, self.arguments, self.options = operation, arguments, options
        self.named = {**operation.bound(arguments), **options}

    def __repr__(self) -> str:
        variadic = self.operation.variadic
        shown = []
        for name, value in self.named.items():
            if name == variadic and name not in self.options:
                shown += [_short(part) for part in value]
            else:
                shown.append(f"{name}={_short(value)}")
        return f"{self.operation.name}({', '.join(shown)})"


def _short(value: Any) -> str:
    """A value as Python on one line; arrays with the place of their numbers in memory."""
    if isinstance(value, tuple):
        parts = [_short(part) for part in value]
        return f"({', '.join(parts)}{',' * (len(parts) == 1)})"
    if isinstance(value, list):
        return f"[{', '.join([_short(part) for part in value])}]"
    if isinstance(value, Tensor):
        value = _host(value)
    if not isinstance(value, np.ndarray):
        return repr(value)
    text = " ".join(literal(value).split())
    if value.flags.c_contiguous:
        return text
    layout = "reversed" if min(value.strides) < 0 else "strided"
    return f"laid_out({text}, {'Fortran' if value.flags.f_contiguous else layout!r})"


def calls(op: Any, *inputs: Any, options: Mapping[str, Any]) -> st.SearchStrategy[Call]:
    """A strategy for a `Call`, of inputs and options as `given_op` takes them."""
    return _calls(_Operation(op, options), inputs, options)


@st.composite
def _calls(draw: Any, operation: _Operation, inputs: Sequence[Any], options: Any) -> Call:
    arguments: list[Any] = []
    for each in inputs:
        found = _mapped(_drawn(draw, each, operation.bound(arguments)), np.asarray, _NUMBERS)
        if isinstance(found, list) and any(hasattr(part, "dtype") for part in found):
            arguments.extend(found)
        else:
            arguments.append(found)
    named = operation.bound(arguments)
    chosen: dict[str, Any] = {}
    for name, each in options.items():
        chosen[name] = _drawn(draw, each, {**named, **chosen})
    return Call(operation, arguments, chosen)


def _drawn(draw: Any, what: Any, known: Mapping[str, Any]) -> Any:
    """Draw from a strategy, or from the one that a function makes of what is known."""
    if inspect.isfunction(what):
        parameters = inspect.signature(what).parameters.values()
        if missing := [p.name for p in parameters if p.name not in known]:
            raise TypeError(
                f"given_op: a function for what to draw names {missing}; what is drawn before it "
                f"is {sorted(known)}"
            )
        what = what(**{p.name: known[p.name] for p in parameters})
    if isinstance(what, np.ndarray):
        return what.copy()
    return draw(what) if isinstance(what, st.SearchStrategy) else what


# -- nests of arrays ------------------------------------------------------------------------------


_ARRAYS = (np.ndarray, Tensor)
_NUMBERS = (np.floating, np.bool_)  # NumPy's results without axes; its integers may be axes


def _mapped(value: Any, change: Callable[[Any], Any], kinds: Any = _ARRAYS) -> Any:
    """The same nest with each array and tensor in it changed."""
    if isinstance(value, (tuple, list)):
        parts = [_mapped(part, change, kinds) for part in value]
        return value._make(parts) if hasattr(value, "_make") else type(value)(parts)
    if isinstance(value, dict):
        return {key: _mapped(part, change, kinds) for key, part in value.items()}
    return change(value) if isinstance(value, kinds) else value


def _host(value: Any) -> np.ndarray:
    bare = value.data if isinstance(value, Tensor) else value
    found = backend.of(bare)
    return np.asarray(bare if found is None else found.to_host(bare))


def _as(dtype: np.dtype[Any]) -> Callable[[Any], np.ndarray]:
    def change(value: Any) -> np.ndarray:
        array = _host(value)
        return array.astype(dtype, copy=False) if array.dtype.kind == "f" else array

    return change


def _tensor(array: np.ndarray, wanted: bool) -> Any:
    return Tensor(backend.default().from_host(array), wanted and array.dtype.kind == "f")


def _arrays_in(*values: Any) -> Iterator[np.ndarray]:
    for _, value in flatten(values):
        if isinstance(value, _ARRAYS):
            yield _host(value)


# -- what holds of a call -------------------------------------------------------------------------


class _Experiment:
    """All that is checked of one call before the body runs."""

    def __init__(
        self,
        operation: _Operation,
        reference: Callable[..., Any] | None,
        dtypes: list[np.dtype[Any]],
        rtol: float | None,
        order: int,
        check: dict[str, Any],
    ) -> None:
        self.operation, self.reference, self.dtypes = operation, reference, dtypes
        self.rtol, self.order, self.check = rtol, order, check
        wrt = check.get("wrt")
        if wrt is not None:
            names = operation.positional
            wrt = [wrt] if isinstance(wrt, (str, int)) else wrt
            wrt = [names.index(name) if name in names else name for name in wrt]
        self.wrt = wrt

    def run(self, call: Call) -> dict[str, Any]:
        """Check the call; its tensors, options and result by name, for the body."""
        for dtype in self.dtypes:
            self.values(call, dtype)
        tensors = self.tensors(call, self.dtypes[0])
        if self.order:
            self.derivatives(call, tensors)
            tensors = self.tensors(call, self.dtypes[0])
        given = {**self.operation.defaults, **self.operation.bound(tensors), **call.options}
        given["out"] = self.operation.op(*tensors, **call.options)
        return given

    def tensors(self, call: Call, dtype: np.dtype[Any]) -> list[Any]:
        """The arguments, of which those that are differentiated require a gradient."""
        count = len(call.arguments)
        found = []
        for i, argument in enumerate(_mapped(call.arguments, _as(dtype))):
            wanted = self.wrt is None or i in self.wrt or i - count in self.wrt
            found.append(_mapped(argument, functools.partial(_tensor, wanted=wanted)))
        return found

    def values(self, call: Call, dtype: np.dtype[Any]) -> None:
        """The result, against the reference."""
        tensors = self.tensors(call, dtype)
        hosts = _mapped(tensors, _host)
        before = [array.tobytes() for array in _arrays_in(tensors, call.options)]
        result = self.operation.op(*tensors, **call.options)
        if before != [array.tobytes() for array in _arrays_in(tensors, call.options)]:
            raise self.failure(call, dtype, "the call has changed an argument in place")
        if self.reference is None:
            return
        wanted = self.reference(*hosts, **call.options)
        ours, theirs = dict(flatten(result)), dict(flatten(wanted))
        if ours.keys() != theirs.keys():
            raise self.failure(
                call, dtype, f"returns {len(ours)} values, the reference {len(theirs)}"
            )
        for path, value in ours.items():
            self.compare(call, dtype, path, value, theirs[path])

    def compare(self, call: Call, dtype: np.dtype[Any], path: str, ours: Any, theirs: Any) -> None:
        """One result of the operation and one of the reference."""
        what = f"value{path}"
        if not isinstance(ours, Tensor):
            raise self.failure(call, dtype, f"{what} is a {type(ours).__name__}, not a tensor")
        got, wanted = _host(ours), np.asarray(theirs)
        for aspect in ("shape", "dtype"):
            mine, expected = getattr(got, aspect), getattr(wanted, aspect)
            if mine != expected:
                raise self.failure(
                    call, dtype, f"{what} has {aspect} {mine}, that of the reference {expected}"
                )
        rtol = _RTOL.get(dtype.name, 1e-10) if self.rtol is None else self.rtol
        finite = np.abs(wanted[np.isfinite(wanted)], dtype=np.float64)
        allowed = rtol * float(np.max(finite, initial=1.0))
        close = np.isclose(got, wanted, rtol=0, atol=allowed, equal_nan=True)
        if not close.all():
            first = tuple(int(i) for i in np.argwhere(~close)[0])
            a, b = got[first].item(), wanted[first].item()
            ratio = f", ratio {a / b:.4g}" if b and np.isfinite(a / b) else ""
            count = f" ({int((~close).sum())} of {got.size} differ)" if got.ndim else ""
            raise self.failure(
                call,
                dtype,
                f"{what}{at(first)} is {a!r}, that of the reference {b!r}{ratio}{count}",
            )

    def derivatives(self, call: Call, tensors: list[Any]) -> None:
        """All orders, by `check_grads`."""
        check = {**self.check, "wrt": self.wrt}
        op = self.operation.op
        f = functools.partial(op, **call.options) if call.options else op
        check_grads(f, *tensors, order=self.order, **check)

    def failure(self, call: Call, dtype: np.dtype[Any], what: str) -> AssertionError:
        return AssertionError(f"{call.operation.name} in {dtype}: {what}\n    in {call!r}")


# -- the test -------------------------------------------------------------------------------------


def _property_test(
    body: Callable[..., Any], experiment: _Experiment, drawn: st.SearchStrategy[Call]
) -> Callable[..., Any]:
    """The body as a test of Hypothesis', with a parameter for what is drawn.

    The other parameters stay as they are, for pytest to see.
    """
    operation = experiment.operation
    provided = operation.names - {"self"}
    its = inspect.signature(body)
    others = [p for name, p in its.parameters.items() if name not in provided]
    slot = "call"
    while any(p.name == slot for p in others):
        slot += "_"
    last = inspect.Parameter(slot, inspect.Parameter.KEYWORD_ONLY)
    catching = [p for p in others if p.kind is p.VAR_KEYWORD]
    others = [p for p in others if p.kind is not p.VAR_KEYWORD]
    signature = inspect.Signature([*others, last, *catching])

    def test(*args: Any, **kwargs: Any) -> Any:
        values = dict(signature.bind(*args, **kwargs).arguments)
        found = experiment.run(values.pop(slot))
        values.update({name: found[name] for name in its.parameters if name in found})
        bound = its.bind_partial()
        bound.arguments.update({name: values[name] for name in its.parameters if name in values})
        return body(*bound.args, **bound.kwargs)

    for name in ("__name__", "__qualname__", "__doc__", "__module__"):
        setattr(test, name, getattr(body, name))
    test.__dict__.update(body.__dict__)  # pytest's marks, settings
    hidden: Any = test
    hidden.__signature__ = signature
    key = f"{body.__module__}.{body.__qualname__}"  # all tests made here have the same source
    hidden._hypothesis_internal_add_digest = key.encode()
    made: Any = given(**{slot: drawn})(test)
    current = getattr(made, "_hypothesis_internal_use_settings", None)
    if current is not None and not hasattr(made, "_hypothesis_internal_settings_applied"):
        # A fixture for the whole test is what its reader expects, not one for each example.
        quiet = [*current.suppress_health_check, HealthCheck.function_scoped_fixture]
        made._hypothesis_internal_use_settings = settings(
            current, deadline=None, suppress_health_check=quiet
        )
    code = body.__code__  # where pytest says that the test stands
    made.__code__ = made.__code__.replace(
        co_filename=code.co_filename, co_firstlineno=code.co_firstlineno
    )
    return made  # type: ignore[no-any-return]
