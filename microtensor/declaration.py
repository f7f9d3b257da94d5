"""What is known of an operation, of one way to call it, and of one call.

`primitive` in engine.py makes a `Declaration` of a forward function by reading its signature. From
the names of the rules' parameters the declaration works out, once for each choice of arguments that
need a gradient, a `Plan`: what a call must save, and which rules a backward pass will run. Calls
then follow the plan and look at no signature; each recorded one leaves a `Node`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, Protocol

import numpy as np

from microtensor import backend, guards, modes

REGISTRY: dict[str, Declaration] = {}  # every operation there is: the property tests walk it
LIBRARY: set[int] = set()  # namespaces (their ids) of operations of our own: never the user's line


_HAS_VARARGS = 4  # inspect.CO_VARARGS, without importing inspect
REQUIRED = object()  # stands where an option has no default


def signature(function: Callable[..., Any]) -> tuple[tuple[str, ...], dict[str, Any], str | None]:
    """Names of positional parameters, options with their defaults, name of *args: read directly.

    `inspect.signature` takes 30 times as long, and an import declares a hundred operations.
    """
    its: Any = getattr(function, "__func__", function)
    code = its.__code__
    n, keywords = code.co_argcount, code.co_kwonlyargcount
    names = code.co_varnames[:n]
    values = its.__defaults__ or ()
    options = dict(zip(names[n - len(values) :], values, strict=True))
    for name in code.co_varnames[n : n + keywords]:
        options[name] = (its.__kwdefaults__ or {}).get(name, REQUIRED)
    variadic = code.co_varnames[n + keywords] if code.co_flags & _HAS_VARARGS else None
    return names, options, variadic


def picker(positions: Sequence[Any]) -> Callable[[Any], Any]:
    """What takes the values at some positions out of a tuple, as a tuple, at C's speed.

    A position may be a slice: then the value is a tuple itself.
    """
    if len(positions) > 1:
        return itemgetter(*positions)
    if positions and positions[0].__class__ is slice:
        return lambda values: (values[positions[0]],)
    return itemgetter(slice(positions[0], positions[0] + 1) if positions else slice(0, 0))


class Operation(Protocol):
    """What `primitive` makes: call it on arrays or tensors, and declare its derivatives."""

    declaration: Declaration
    __name__: str

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Compute, and record if an argument is a tensor that needs a gradient."""

    def vjp(self, argument: str, rule: Callable[..., Any]) -> Operation:
        """See `Declaration.vjp`."""

    def vjp_all(self, rule: Callable[..., Any]) -> Operation:
        """See `Declaration.vjp_all`."""


class Node:
    """One recorded operation. It refers to the past only, never to its own result."""

    __slots__ = (
        "__weakref__",
        "code",  # the user's code, and the instruction in it: the line, should anybody ask
        "dtype",  # of the result (a tuple of them if there are several results)
        "instruction",
        "kind",  # the type of the result's array
        "left",  # the place of the first argument that needs a gradient
        "more",  # all such places, as a tuple, of an operation that takes other than one or two
        "number",  # only grows
        "plan",  # which operation, which rules
        "right",  # the place of the second one, or None
        "saved",  # the values that its rules named; None once released
        "shape",  # of the result
    )
    code: Any
    dtype: Any
    instruction: int
    kind: Any
    left: Any
    more: Any
    number: int
    plan: Plan
    right: Any
    saved: Any
    shape: Any

    @property
    def parents(self) -> tuple[Any, ...] | None:
        """The places of the arguments that need a gradient; None once the node is released."""
        if self.saved is None:
            return None
        return tuple((self.more or (self.left, self.right))[: len(self.plan.needed)])

    @property
    def name(self) -> str:
        """The operation's name."""
        return str(self.plan.declaration.name)

    @property
    def line(self) -> tuple[str, int]:
        """File and line of the call that recorded this node."""
        for start, end, line in self.code.co_lines():
            if start <= self.instruction < end and line is not None:
                return self.code.co_filename, line
        return self.code.co_filename, self.code.co_firstlineno

    def __repr__(self) -> str:
        return "`{}` (called at {}:{})".format(self.name, *self.line)


class Plan:
    """How to record and walk one operation, for one choice of arguments that need a gradient."""

    __slots__ = (
        "arity",
        "declaration",
        "default_values",
        "defaults",
        "joint",
        "keep",
        "kept",
        "needed",
        "options",
        "rules",
    )

    def __init__(
        self,
        declaration: Declaration,
        arity: int,
        needed: tuple[int, ...],
        kept: list[int],
        options: list[str],
        rules: list[Any],
        joint: Any,
    ) -> None:
        self.declaration = declaration
        self.arity = arity  # how many arguments there are
        self.needed = needed  # which of them need a gradient
        self.kept = tuple(kept)  # what is saved, of [*arguments, out, *residuals, *options]
        self.keep = picker(kept)
        self.options = tuple(options)  # the options among it
        self.defaults = tuple([declaration.defaults[name] for name in options])
        self.default_values = self.option_values({})
        # For each argument in need: its rule, how many saved values that takes, the first of them,
        # what picks them all, and the argument's name.
        self.rules = tuple(rules)
        self.joint = joint  # or one rule for all of them: (rule, needs, pick)

    def option_values(self, given: dict[str, Any]) -> tuple[Any, ...]:
        """The values of the options that are saved."""
        return (*map(given.get, self.options, self.defaults),)


class Declaration:
    """What is known about an operation beside its forward function: arguments, options, rules."""

    def __init__(
        self,
        forward: Callable[..., Any],
        broadcasts: bool = False,
        differentiable: bool = True,
        constant: Iterable[str] = (),
        residuals: Sequence[str] = (),
        composite: Callable[..., Any] | None = None,
    ) -> None:
        names, defaults, variadic = signature(forward)
        self.variadic = variadic is not None
        self.arguments = (
            (variadic,) if variadic else tuple(name for name in names[1:] if name not in defaults)
        )
        self.defaults = defaults
        self.forward, self.name = forward, forward.__name__.strip("_")
        self.broadcasts, self.composite = broadcasts, composite
        self.residuals = tuple(residuals)
        self.constant = frozenset(self.arguments if not differentiable else constant)
        self.rules: dict[str, tuple[Any, tuple[str, ...]]] = {}
        self.joint: tuple[Any, tuple[str, ...]] | None = None
        self.plans: dict[
            Any, Plan
        ] = {}  # needs, or for a variadic operation (needs, count) -> plan
        self.operation: Any = None
        REGISTRY[f"{forward.__module__}.{forward.__name__}"] = self
        if forward.__module__.partition(".")[0] == __name__.partition(".")[0]:
            LIBRARY.add(id(forward.__globals__))
        self._make_plans()

    def __repr__(self) -> str:
        options = [
            name if value is REQUIRED else f"{name}={value!r}"
            for name, value in self.defaults.items()
        ]
        return f"{self.name}({', '.join([*self.arguments, *options])})"

    def vjp(self, argument: str, rule: Callable[..., Any]) -> Any:
        """Declare the contribution to `argument`: `rule(g, ...)`, where g is the cotangent.

        Further parameters of the rule name arguments, options, residuals or `out`: these are saved
        and handed to it. For a variadic argument the rule returns a sequence.

        Returns the operation.
        """
        names = self._names(rule, 1)
        if argument not in self.arguments:
            raise guards.unknown_name(repr(self), argument)
        if self.variadic:
            together: Any = lambda g, needs, *saved: rule(g, *saved)  # noqa: E731
            together.__wrapped__ = rule  # for those who want to read it
            self.joint = (together, names)
        else:
            self.rules[argument] = (rule, names)
        self._make_plans()
        return self.operation

    def vjp_all(self, rule: Callable[..., Any]) -> Any:
        """Declare all contributions at once: `rule(g, needs, ...)` returns one for each argument.

        `needs` has a boolean for each argument; where it is false, None may be returned.
        """
        self.joint = (rule, self._names(rule, 2))
        self._make_plans()
        return self.operation

    def _make_plans(self) -> None:
        self.plans.clear()
        count = len(self.arguments)
        if not self.variadic and count <= 2:  # the others wait for their first call
            for needs in range(1, 1 << count):
                self.plan(needs, count)

    def _names(self, rule: Callable[..., Any], skip: int) -> tuple[str, ...]:
        names = signature(rule)[0][skip:]
        for name in names:
            if name not in {*self.arguments, *self.defaults, *self.residuals, "out"}:
                raise guards.unknown_name(repr(self), name)
        return names

    def bind(self, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Sort options given by position, and arguments given by name, into their places."""
        names = [*self.arguments, *self.defaults]
        given = dict(zip(names, args, strict=False))
        twice = given.keys() & options.keys()
        given.update(options)
        missing = [name for name in self.arguments if name not in given]
        if twice or missing or len(args) > len(names):
            raise guards.wrong_arguments(repr(self), missing, twice, len(args))
        return [given.pop(name) for name in self.arguments], given

    def argument(self, position: int) -> str:
        """The name of the argument at a position."""
        return self.arguments[0 if self.variadic else position]

    def admit(self, argument: Any, position: int, kind: Any) -> Any:
        """An argument that is neither a Python number nor an array of the kind at work."""
        name = self.argument(position)
        if isinstance(argument, np.generic):
            # A NumPy scalar shall be as weak as a Python number. One of float32 promotes nothing,
            # and rules meet it as the result of an operator on 0-d arrays: it stays float32.
            noting = modes.noting.get() is not None  # of what NumPy does
            narrow = (kind is np.ndarray or noting) and argument.dtype == np.float32
            return np.asarray(argument) if narrow else argument.item()
        if isinstance(argument, np.ndarray) and kind in (None, np.ndarray):
            return np.asarray(argument)  # a subclass: matrix, memmap
        if backend.of(argument) is None:
            raise guards.not_an_array(self.name, name, argument)
        if kind is not None:
            raise guards.mixed_backends(self.name, name, argument, kind)
        return argument

    def numbers(self, arguments: tuple[Any, ...]) -> list[Any]:
        """Numbers without any array mean NumPy; its own scalars keep their dtype and decide."""
        weak = any(isinstance(argument, np.generic) for argument in arguments)
        return [
            argument if weak and not isinstance(argument, np.generic) else np.asarray(argument)
            for argument in arguments
        ]

    def narrowed(self, out: Any, values: Iterable[Any]) -> Any:
        """A float64 result, as float32 if only integers beside float32 made it float64.

        NumPy promotes so for arrays of integers; here float64 comes from float64 alone.
        """
        if not self.broadcasts or getattr(out, "dtype", None) != np.float64:
            return out
        dtypes = [value.dtype for value in values if hasattr(value, "dtype")]
        floats = {dtype for dtype in dtypes if dtype.kind == "f"}
        return out.astype(np.float32) if floats == {np.dtype(np.float32)} else out

    def plan(self, needs: int, count: int) -> Plan:
        """Work out what to save and which rules to run; done once for each choice of `needs`."""
        needed = tuple(
            i
            for i in range(count)
            if needs >> i & 1 and self.arguments[0 if self.variadic else i] not in self.constant
        )
        options: list[str] = []
        kept: list[int] = []

        def keep(name: str) -> list[int]:
            """Where the value, or for a variadic argument the values, stand among the saved."""
            if name in self.arguments:
                found = list(range(count)) if self.variadic else [self.arguments.index(name)]
            elif name == "out" or name in self.residuals:
                found = [count + ("out", *self.residuals).index(name)]
            else:
                options.extend([name] if name not in options else [])
                found = [count + 1 + len(self.residuals) + options.index(name)]
            kept.extend(position for position in found if position not in kept)
            return [kept.index(position) for position in found]

        joint: Any = None
        rules: list[Any] = []
        if self.joint is not None:
            rule, names = self.joint
            where: list[Any] = []
            for name in names:
                first = (keep(name) or [0])[0]
                group = self.variadic and name in self.arguments
                where.append(slice(first, first + count) if group else first)
            joint = (rule, tuple([i in needed for i in range(count)]), picker(where))
            rules = [(None, 0, 0, None, self.argument(i)) for i in needed]
        else:
            for i in needed:
                rule, names = self.rules.get(self.arguments[i]) or (self._no_rule(i), ())
                at = [keep(name)[0] for name in names]
                rules.append((rule, len(at), at[0] if at else 0, picker(at), self.arguments[i]))
        if self.composite is not None:
            for name in (*self.arguments, *self.defaults):
                keep(name)
        if len(self.plans) > 64:  # of a variadic operation there could be one for each length
            self.plans.clear()
        plan = self.plans[(needs, count) if self.variadic else needs] = Plan(
            self, count, needed, kept, options, rules, joint
        )
        return plan

    def _no_rule(self, i: int) -> Callable[..., Any]:
        def rule(g: Any) -> Any:
            raise guards.no_rule(self.name, self.arguments[i])

        return rule
