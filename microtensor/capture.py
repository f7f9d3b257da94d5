"""Capture: a step's array calls, noted once and made again on the same memory.

In a training step of a small network most of the time goes into finding out, in Python, what is to
be done: which operation, of which shapes, whose derivative, where to. All of that comes out the
same in every step. So `capture` runs the step once with arrays that note every call of NumPy made
with them, forward, backward and in the losses, and afterwards makes these calls again, one after
the other, in the memory that they were made in. It is what a CUDA graph does on a card.

What is noted comes from the unchanged engine: `Captured` is one more kind of array (backend.py).
A call that makes an array is made again with that array as its `out`; a view is still a view, and
costs nothing any more. Three things are not simply made again:

- *Reading a number.* `bool(array)`, of which control flow is made, is noted as a question: if a
  later step answers it differently, the step is not replayed but run as it stands. `float`,
  `.item()` and `.numpy()` would carry a number of this step into all others, and are refused.
- *The optimizer's update*, which counts its steps and asks for its learning rate: it is called as
  ever, with the gradients that have been computed.
- *Random numbers*, which would be the same in every step: refused.
"""

from __future__ import annotations

import functools
import operator
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from microtensor import backend, engine, guards, modes
from microtensor.creation import detach
from microtensor.guards import CaptureError
from microtensor.tensor import Tensor

__all__ = ["CaptureError", "capture"]

MOST = 16  # sets of shapes of one function
KEPT = 4  # programs for arguments that are alike, of different states of the modules
WARM = 2  # calls that run as they stand; in the second an optimizer gathers its small parameters


class _OtherwiseError(Exception):
    """A question was answered differently than when the step was noted."""


_recording = modes.noting


def recording() -> Recording | None:
    """What is being noted here, if anything is."""
    return _recording.get()  # type: ignore[no-any-return]


# -- the arrays


def _open(value: Any) -> Any:
    """The NumPy arrays inside."""
    if value.__class__ is Captured:
        return value._array
    if value.__class__ in (tuple, list):
        return value.__class__([_open(part) for part in value])
    return value


def _operands(values: Iterable[Any]) -> Iterator[np.ndarray]:
    for value in values:
        if isinstance(value, np.ndarray):
            yield value
        elif isinstance(value, tuple | list):
            yield from _operands(value)


# What takes its result's memory as `out`, beside ufuncs; and what makes arrays of no others.
_WITH_OUT = frozenset(
    (
        *("all", "any", "argmax", "argmin", "clip", "concatenate", "cumsum", "dot", "max", "mean"),
        *("min", "prod", "reduce", "stack", "std", "sum", "take", "var"),
    )
)
_MAKING = frozenset(
    (
        *("arange", "empty", "empty_like", "eye", "full", "full_like", "ones", "ones_like"),
        *("zeros", "zeros_like"),
    )
)
_WRITING = frozenset(("at", "copyto", "fill", "setitem"))
_OF_A_SIZE = frozenset(  # that only numbers tell
    ("argwhere", "compress", "extract", "flatnonzero", "nonzero", "unique")
)
_OF_SHAPES = frozenset(  # whose result is a number of Python, and no number of the array
    ("can_cast", "may_share_memory", "ndim", "shares_memory", "size")
)
_COPYING = frozenset(("array", "asarray", "ascontiguousarray", "astype", "copy"))


def _do(function: Any, name: str, args: Any, options: Any) -> Any:
    """Make a call, note it, and wrap what came out."""
    noted = _recording.get()
    if noted is None:
        raise _over(name)
    if name in _OF_A_SIZE or (name == "where" and len(args) == 1):
        raise _sized(name)
    args, options = _open(args), {key: _open(value) for key, value in options.items()}
    result = function(*args, **options)
    return noted.note(function, name, args, options, result)


def _over(name: str) -> CaptureError:
    return CaptureError(
        f"an array of a captured step was used by {name} after the step had ended; return it from "
        "the function instead of keeping it"
    )


class _Function:
    """A function of NumPy that notes its calls."""

    def __init__(self, function: Any) -> None:
        self.function, self.name = function, function.__name__

    def __call__(self, *args: Any, **options: Any) -> Any:
        return _do(self.function, self.name, args, options)

    def __getattr__(self, name: str) -> Any:  # add.reduce, add.at
        return _Function(getattr(self.function, name))


class _Namespace:
    """NumPy, with functions that note their calls."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        if callable(found) and not isinstance(found, type):
            found = _Function(found)
        setattr(self, name, found)
        return found


xp = _Namespace()


class Captured:
    """A NumPy array that notes what is done with it. Attributes and methods are the array's."""

    __slots__ = ("__weakref__", "_array")
    __array_ufunc__ = None  # NumPy's scalars and arrays leave operators to this class
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    shape = property(lambda self: self._array.shape)
    dtype = property(lambda self: self._array.dtype)
    ndim = property(lambda self: self._array.ndim)
    size = property(lambda self: self._array.size)
    nbytes = property(lambda self: self._array.nbytes)
    itemsize = property(lambda self: self._array.itemsize)
    strides = property(lambda self: self._array.strides)
    flags = property(lambda self: self._array.flags)
    base = property(lambda self: self._array.base)
    T = property(lambda self: Captured(self._array.T))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        method = getattr(np.ndarray, name)
        if name in ("item", "tolist", "tobytes"):
            raise _refused(f".{name}()")
        return lambda *args, **options: _do(method, name, (self, *args), options)

    def __array__(self, *args: Any, **options: Any) -> Any:
        raise _refused("turning it into a NumPy array")

    def __len__(self) -> int:
        return len(self._array)

    def __iter__(self) -> Iterator[Captured]:
        return iter([self[i] for i in range(len(self))])

    def __bool__(self) -> bool:
        noted = _recording.get()
        answer = bool(self._array)
        if noted is not None:
            noted.ask(self._array, answer)
        return answer

    def __float__(self) -> float:
        raise _refused("float()")

    def __int__(self) -> int:
        raise _refused("int()")

    def __index__(self) -> int:
        raise _refused("using it as an index of Python")

    def __getitem__(self, index: Any) -> Captured:
        parts = index if isinstance(index, tuple) else (index,)
        if all(isinstance(part, int | np.integer) for part in parts):
            index = (*parts, Ellipsis)  # a view, also where it is a single number
        if any(part.__class__ is Captured and part.dtype == bool for part in parts):
            raise _sized("an index of truth values")
        found: Captured = _do(operator.getitem, "getitem", (self, index), {})
        return found

    # For some exponents ** takes other ways, with other last bits than np.power.

    def __pow__(self, n: Any) -> Any:
        return NotImplemented if isinstance(n, Tensor) else _do(operator.pow, "**", (self, n), {})

    def __rpow__(self, a: Any) -> Any:
        return _do(operator.pow, "**", (a, self), {})

    def __setitem__(self, index: Any, value: Any) -> None:
        _do(_assign, "setitem", (self, index, value), {})

    def __repr__(self) -> str:
        return f"captured {self._array!r}"


def _refused(what: str) -> CaptureError:
    if _recording.get() is None:
        return _over(what)
    return CaptureError(
        f"{what} of an array inside a captured step: the number would be this step's for ever. "
        "Return the tensor and look at it outside; or leave this step uncaptured"
    )


def _sized(what: str) -> CaptureError:
    return CaptureError(
        f"{what} inside a captured step: how many numbers come out depends on other numbers, and "
        "memory is laid out only once; where(condition, x, 0) keeps the shape"
    )


def _stranger(value: Any) -> bool:
    """Whether it is an array of numbers that may be others in the next step."""
    return isinstance(value, np.ndarray) and value.ndim > 0


def _both(function: Any, name: str) -> None:
    def known(other: Any) -> bool:
        if _stranger(other):
            raise guards.untold("an array of NumPy's")
        return not isinstance(other, Tensor)  # those know better

    def ours(self: Captured, other: Any) -> Any:
        return _do(function, name, (self, other), {}) if known(other) else NotImplemented

    def reflected(self: Captured, other: Any) -> Any:
        return _do(function, name, (other, self), {}) if known(other) else NotImplemented

    def inplace(self: Captured, other: Any) -> Any:
        if not known(other):
            return NotImplemented
        _do(function, name, (self, other), {"out": self})
        return self

    for prefix, method in (("", ours), ("r", reflected), ("i", inplace)):
        setattr(Captured, f"__{prefix}{name}__", method)


_BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "truediv": np.divide,
    "floordiv": np.floor_divide,
    "mod": np.remainder,
    "matmul": np.matmul,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}
_OTHERS = {
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "neg": np.negative,
    "invert": np.invert,
    "abs": np.absolute,
}
for _name, _ufunc in _BINARY.items():
    _both(_ufunc, _name)
for _name, _ufunc in _OTHERS.items():
    setattr(
        Captured,
        f"__{_name}__",
        lambda self, *other, f=_ufunc, n=_name: _do(f, n, (self, *other), {}),
    )


def _from_host(array: Any) -> Captured:
    return array if array.__class__ is Captured else Captured(np.array(array))


def _to_host(array: Captured) -> Any:
    raise _refused(".numpy()")


backend.register(
    backend.Backend(
        "captured",
        xp,
        Captured,
        _from_host,
        _to_host,
        lambda array: backend.NUMPY.owner(array._array),
    )
)


# -- the notes


class Entry(NamedTuple):
    """A call to be made again, and the arrays it writes: None if that is not known."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    written: tuple[np.ndarray, ...] | None = None
    constant: bool = False  # whether it writes the same numbers every time


class Recording:
    """The calls of one step, and what else has to live as long as they."""

    def __init__(self, held: Iterable[np.ndarray], given: Iterable[np.ndarray]) -> None:
        self.entries: list[Entry] = []
        self.kept: list[Any] = []
        self.held = {backend.NUMPY.owner(array) for array in held}
        self.given = {backend.NUMPY.owner(array) for array in given}
        self.made: set[int] = set()  # owners of memory in which nothing else writes
        self.changed = False  # whether something has been changed that outlives the step
        self.modules: dict[int, tuple[Any, bool, list[tuple[str, Any]]]] = {}
        self.optimizers: list[Any] = []  # that have made an update
        self.watched: list[tuple[Callable[[], Any], Any]] = []  # what has to stay as it is

    def note(self, function: Any, name: str, args: Any, options: Any, result: Any) -> Any:
        """Note a call that has been made; its result, wrapped."""
        out = options.get("out")
        if isinstance(function, np.ufunc) and len(args) > function.nin:
            out = args[function.nin]
        if out is None and any(result is value for value in args[1:]):
            out = result  # a.dot(b, out)
        if name in _WRITING or out is not None or result is None:
            written = out if isinstance(out, tuple) else (args[0] if out is None else out,)
            owners = {backend.NUMPY.owner(array) for array in written}
            if owners & self.given:
                raise CaptureError(
                    "a captured step changes an argument in place, and the caller's array would "
                    "not see it; return what has become of it, or name the tensor as one that is "
                    "held: mt.capture(step, model, optimizer, tensor)"
                )
            self.changed |= bool(owners & self.held)
            others = list(_operands(args[1:])) or name not in ("fill", "setitem")
            fixed = not others and args[-1].__class__ in (int, float) and owners <= self.made
            called, given = _call(function, args, options)
            self.entries.append(Entry(called, given, written, fixed))
            return Captured(written[0])
        if isinstance(result, tuple | list):
            parts = [
                self._made(lambda *a, i=i, **o: function(*a, **o)[i], "", args, options, part)
                for i, part in enumerate(result)
            ]
            return result.__class__(parts)
        return self._made(function, name, args, options, result)

    def _made(self, function: Any, name: str, args: Any, options: Any, result: Any) -> Any:
        """Note a call that has made an array, which from now on is filled anew each time."""
        if not isinstance(result, np.ndarray | np.generic):
            if result.__class__ in (bool, int, float, complex) and name not in _OF_SHAPES:
                raise _refused(name)
            return result
        array = np.asarray(result)
        if name in _MAKING and not any(isinstance(value, np.ndarray) for value in args[1:]):
            self.made.add(backend.NUMPY.owner(array))
            self.kept.append(array)
            if not name.startswith("empty"):
                first = array.copy()
                self.entries.append(Entry(_assign, (array, ..., first), (array,), True))
            return Captured(array)
        if not array.size or any(np.may_share_memory(array, value) for value in _operands(args)):
            return Captured(array)  # a view, or nothing
        if array.base is not None:
            array = array.copy(order="K")
        self.made.add(backend.NUMPY.owner(array))
        if isinstance(function, np.ufunc):
            call: Any = _call(function, _as_arrays(args), {**options, "out": array})
        elif name in _COPYING:
            call = _assign, (array, ..., args[0])
        elif name in _WITH_OUT:
            call = _call(function, args, {**options, "out": array})
        else:
            call = (lambda: _assign(array, ..., function(*args, **options))), ()
        self.entries.append(Entry(call[0], call[1], (array,)))
        return Captured(array)

    def ask(self, array: np.ndarray, answer: bool) -> None:
        """Note a question: the rest holds only for steps that answer it in the same way."""
        if self.changed:
            raise CaptureError(
                "a captured step decides by a number after the parameters have been changed, when "
                "there is no way back; decide before it"
            )

        def question() -> None:
            if bool(array) is not answer:
                raise _OtherwiseError

        self.entries.append(Entry(question, (), ()))

    def whole(self, function: Callable[..., None], target: Captured, *args: Any) -> None:
        """Call a function of NumPy's arrays that changes the first of them; note it as one call."""
        given = _open((target, *args))
        function(*given)
        self.entries.append(Entry(function, given, given[:1]))

    def in_rows(self, array: np.ndarray) -> np.ndarray:
        """An array, or what is copied from it in every step, row by row."""
        if array.flags.c_contiguous:
            return array
        copied = np.array(array, order="C")
        self.entries.append(Entry(_assign, (copied, ..., array), (copied,)))
        return copied

    def uses(self, module: Any) -> None:
        """Note that a module is called, and what it is made of."""
        self.modules.setdefault(id(module), (module, module.training, _parts(module)))

    def watch(self, look: Callable[[], Any]) -> None:
        """Note that the step holds only as long as `look` says the same."""
        if all(look is not other for other, _ in self.watched):
            self.watched.append((look, look()))

    def compiled(self, function: Any, arguments: Any) -> None:
        """Note a call of compiled code that has been made, with NumPy's arrays."""
        self.entries.append(Entry(function, arguments))

    def update(self, optimizer: Any) -> None:
        """Make an optimizer's step, with NumPy's parameters and gradients, and note that."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if any(p.data.__class__ is not Captured for p in parameters):
            raise CaptureError(
                f"{type(optimizer).__name__} has parameters that the captured step was not told "
                "of; name the optimizer: mt.capture(step, model, optimizer)"
            )
        was = [(p, p.data, p.grad) for p in parameters]
        gradients = [None if g is None else engine.wrap(g.data._array) for _, _, g in was]

        def again() -> None:
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
            for parameter in parameters:
                parameter.grad = None

        token = _recording.set(None)
        try:
            for parameter, data, _ in was:
                parameter.data = data._array
            again()
            shortcut: Any = optimizer.repeat(gradients, again)
        finally:
            _recording.reset(token)
            for parameter, data, gradient in was:
                parameter.data, parameter.grad = data, gradient
        self.changed = True
        self.optimizers.append(optimizer)
        shortcut.__name__ = f"step_of_{type(optimizer).__name__}"
        self.entries.append(Entry(shortcut, ()))

    def calls(self) -> list[tuple[Callable[..., Any], tuple[Any, ...]]]:
        """All calls, without those that fill memory with what stays in it."""
        entries, writers = self.entries, defaultdict(list)
        for entry in entries:
            for owner in {backend.NUMPY.owner(array) for array in entry.written or ()}:
                writers[owner].append(entry)
        calls = []
        for entry in entries:
            if entry.constant and not any(
                other is not entry and _overlap(entry.written, other.written)
                for array in entry.written or ()
                for other in writers[backend.NUMPY.owner(array)]
            ):
                continue
            calls.append((entry.function, entry.arguments))
        return calls


_assign: Any = operator.setitem


def _overlap(some: Any, others: Any) -> bool:
    return any(np.may_share_memory(a, b) for a in some for b in others)


def _as_arrays(args: Any) -> tuple[Any, ...]:
    """Python's numbers as arrays of the dtype they take beside others: NumPy does it each time."""
    dtypes = {value.dtype for value in _operands(args)}
    if len(dtypes) != 1:
        return tuple(args)
    [dtype] = dtypes
    mine: Any = {"f": (int, float), "i": (int,), "u": (int,)}.get(dtype.kind, ())
    try:
        arrays = [np.asarray(value, dtype) if value.__class__ in mine else value for value in args]
    except OverflowError:  # NumPy compares with numbers that the dtype cannot hold, too
        return tuple(args)
    return tuple(arrays)


def _call(function: Any, args: Any, options: Any) -> tuple[Any, tuple[Any, ...]]:
    """A call with as little left to do as there can be."""
    if list(options) == ["out"]:
        out = options["out"]
        # (minimum and maximum do not like their `out` by position.)
        if isinstance(function, np.ufunc) and function not in (np.maximum, np.minimum):
            return function, (*args, *(out if isinstance(out, tuple) else (out,)))
        if function in (np.dot, np.ndarray.dot):
            return args[0].dot, (args[1], out)
    if not options:
        return function, tuple(args)
    return functools.partial(function, *args, **options), ()


# -- the function


class _Program:
    """A step for inputs of certain shapes: the calls that are made for it, in its own memory."""

    def __init__(self, function: Any, given: Any, holders: _Holders) -> None:
        held = holders.tensors()
        self.held = [(p, p.data, p._requires_grad) for p in held]
        found: list[Any] = []
        _structure(given, found)
        inputs = [np.array(_bare(value)) for value in found]
        self.shapes = [(array.shape, array.dtype, _turned(array)) for array in inputs]
        ours = iter(inputs)
        arguments, options = _mapped(lambda value: _like(value, Captured(next(ours))), given)
        noted = Recording([data for _, data, _ in self.held], inputs)
        before, rates = holders.saved(), holders.rates()
        for module in holders.modules():
            noted.uses(module)
        token = _recording.set(noted)
        try:
            try:
                inside = [Captured(data) for _, data, _ in self.held]
                for p, array in zip(held, inside, strict=True):
                    p.data, p.grad = array, None
                with backend.use_backend("captured"):
                    result = function(*arguments, **dict(options))
                if any(p.data is not array for p, array in zip(held, inside, strict=True)):
                    raise CaptureError(
                        "a captured step puts another array in the place of a tensor's `data`; "
                        "write into it: tensor.data[...] = ..."
                    )
                for module, _, parts in noted.modules.values():
                    if any(vars(module)[name] is not part for name, part in parts):
                        raise CaptureError(
                            "a captured step puts another tensor or module in the place of an "
                            f"attribute of {type(module).__name__}, which is done once and not "
                            "again; write into the tensor: module.name[...] = ..."
                        )
                if holders.rates() != rates:
                    raise CaptureError(
                        "a captured step changes a hyperparameter of its optimizer, which is done "
                        "once and not again; change it outside"
                    )
                result = _mapped(lambda value: _like(value, _bare(value)), result)
                calls = noted.calls()
            finally:
                _recording.reset(token)
                for p, data, _ in self.held:
                    p.data, p.grad = data, None
        except BaseException:
            holders.put_back(before)  # and it is as if nothing had been tried
            for module, _, parts in noted.modules.values():
                vars(module).update(parts)
            raise
        self.modules = list(noted.modules.values())
        optimizers = {id(o): o for o in (*holders.optimizers, *noted.optimizers)}
        self.optimizers = [
            (o, [len(group["params"]) for group in o.param_groups]) for o in optimizers.values()
        ]
        self.watched = noted.watched
        self.kept = noted.kept
        text = _Text()
        self.run: Callable[..., Any] = text.function(inputs, calls, result)
        self.source = text.source
        self.first = [text.returned(result)]  # to be popped

    def fits(self, given: list[Any], anew: bool = True) -> bool:
        """Whether these arrays are of the shapes it is for, and all else, if asked, as it was."""
        for value, (shape, dtype, order) in zip(given, self.shapes, strict=True):
            if value.shape != shape or value.__class__ is not _ndarray or _turned(value) != order:
                return False
            if value.dtype is not dtype and value.dtype != dtype:
                return False
        return not anew or self.current()

    def current(self) -> bool:
        """Whether the parameters and the modules are as they were."""
        for parameter, data, wanted in self.held:
            if parameter.data is not data or parameter._requires_grad is not wanted:
                return False
        for module, training, parts in self.modules:
            if module.training is not training:
                return False
            known = module.__dict__
            for name, part in parts:
                if known.get(name) is not part:
                    return False
        for optimizer, lengths in self.optimizers:
            if [len(group["params"]) for group in optimizer.param_groups] != lengths:
                return False
        return all(look() == seen for look, seen in self.watched)


class _Text:
    """A step as the text of a function: inputs are copied in, results are copied out."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.values: dict[str, Any] = {}

    def name(self, value: Any) -> str:
        """What a value is called in the text: functions by their names, all else by numbers."""
        if value is None or value is ... or value.__class__ in (int, bool, str):
            return "..." if value is ... else repr(value)
        if id(value) not in self.names:
            name = getattr(value, "__name__", "")
            if isinstance(getattr(value, "__self__", None), np.ufunc):
                name = f"{value.__self__.__name__}_{name}"
            if not name.isidentifier() or name in self.values or re.match(r"step$|x\d", name):
                name = f"{name if name.isidentifier() else 'a'}{len(self.names)}"
            self.names[id(value)], self.values[name] = name, value
        return self.names[id(value)]

    def statement(self, called: Any, arguments: Any) -> str:
        """A call as a line."""
        if called is _assign:
            target, index, value = [self.name(argument) for argument in arguments]
            return f"{target}[{index}] = {value}"
        options: dict[str, Any] = {}
        if isinstance(called, functools.partial):
            arguments, options = (*called.args, *arguments), called.keywords
            called = called.func
        given = [self.name(argument) for argument in arguments]
        given += [f"{key}={self.name(value)}" for key, value in options.items()]
        owner = getattr(called, "__self__", None)
        array = isinstance(owner, np.ndarray)
        name = f"{self.name(owner)}.{called.__name__}" if array else self.name(called)
        return f"{name}({', '.join(given)})"

    def result(self, value: Any) -> str:
        """The text of what the step returns."""
        if isinstance(value, Tensor) and value.data.__class__ is Captured:
            return f"{self.name(engine.wrap)}({self.result(value.data)})"
        if value.__class__ is Captured:
            order = "" if value.flags.c_contiguous else "'K'"
            return f"{self.name(value._array)}.copy({order})"
        if isinstance(value, tuple | list):
            parts = "".join([f"{self.result(part)}, " for part in value])
            if hasattr(value, "_fields"):
                return f"{self.name(type(value))}({parts})"
            return f"[{parts}]" if isinstance(value, list) else f"({parts})"
        if isinstance(value, dict):
            items = [f"{self.name(key)}: {self.result(part)}" for key, part in value.items()]
            return f"{{{', '.join(items)}}}"
        return self.name(value)

    def function(self, inputs: list[Any], calls: list[Any], result: Any) -> Callable[..., Any]:
        """The function."""
        given = [f"x{i}" for i in range(len(inputs))]
        lines = [f"def step({', '.join(given)}):"]
        lines += [f"    {self.name(a)}[...] = {x}" for a, x in zip(inputs, given, strict=True)]
        for called, arguments in calls:
            lines.append(f"    {self.statement(called, arguments)}")
        lines.append(f"    return {self.result(result)}")
        self.source = "\n".join(lines) + "\n"
        exec(compile(self.source, "<captured step>", "exec"), self.values)
        made: Callable[..., Any] = self.values["step"]
        return made

    def returned(self, result: Any) -> Any:
        """What the step has returned when it was noted."""
        return eval(self.result(result), self.values)


def _bare(value: Any) -> Any:
    return value.data if isinstance(value, Tensor) else value


def _like(value: Any, array: Any) -> Any:
    return engine.wrap(array) if isinstance(value, Tensor) else array


_ndarray = np.ndarray


def _turned(array: np.ndarray) -> list[int] | None:
    """In which order the axes of an array lie in memory, if not as they come.

    Sums and products of an array that lies in another order may end in other last bits.
    """
    if array.flags.c_contiguous:
        return None
    order = sorted(range(array.ndim), key=lambda i: -abs(array.strides[i]))
    return None if order == [*range(array.ndim)] else order


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """A nesting of tuples, lists and dictionaries with its tensors and arrays changed."""
    if isinstance(value, Tensor | np.ndarray):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*[_mapped(change, part) for part in value])
    if isinstance(value, tuple | list):
        return type(value)([_mapped(change, part) for part in value])
    if isinstance(value, dict):
        return {key: _mapped(change, part) for key, part in value.items()}
    return value


def _structure(value: Any, found: list[Any]) -> Any:
    """A nesting without its tensors and arrays, whose bare arrays are put into `found`."""
    cls = value.__class__
    if cls is Tensor or isinstance(value, Tensor):
        if value._requires_grad:
            raise CaptureError(
                "arguments of a captured step are constants, and a tensor that needs a gradient "
                "was passed; pass tensor.detach(), or name it beside the function as one that is "
                "held: mt.capture(step, model, optimizer, tensor)"
            )
        found.append(value.data)
        return Tensor
    if cls is tuple or cls is list:
        return cls, *[_structure(part, found) for part in value]
    if isinstance(value, np.ndarray):
        found.append(value)
        return np.ndarray
    if isinstance(value, tuple):  # one with names
        return type(value), *[_structure(part, found) for part in value]
    if isinstance(value, dict):
        return dict, *[(key, _structure(part, found)) for key, part in value.items()]
    if cls is slice:
        return cls, value.start, value.stop, value.step
    if isinstance(value, int | float | complex | np.generic):
        return cls, repr(value)  # 1, 1.0 and True are equal, and so are 0.0 and -0.0
    return value


def _parts(module: Any) -> list[tuple[str, Any]]:
    """The tensors and modules that are attributes of a module."""
    return [
        (name, value)
        for name, value in vars(module).items()
        if isinstance(value, Tensor) or hasattr(type(value), "named_modules")
    ]


class _Holders:
    """The modules, optimizers and tensors that a captured step was told of."""

    def __init__(self, holders: Iterable[Any]) -> None:
        self.roots: list[Any] = []
        self.optimizers: list[Any] = []
        self.single: list[Tensor] = []
        for holder in holders:
            if isinstance(holder, Tensor):
                self.single.append(holder)
            elif hasattr(holder, "param_groups"):
                self.optimizers.append(holder)
            elif hasattr(holder, "named_modules"):
                self.roots.append(holder)
            else:
                raise TypeError(
                    "capture takes modules, optimizers and tensors beside the function, not a "
                    f"{type(holder).__name__}"
                )

    def modules(self) -> list[Any]:
        """All modules, as they are now."""
        return [module for root in self.roots for module in root.modules()]

    def tensors(self) -> list[Tensor]:
        """Parameters, buffers and single tensors, as they are now, each once."""
        found = list(self.single)
        for root in self.roots:
            found += root.parameters()
            found += [tensor for _, tensor in root.named_buffers()]
        for optimizer in self.optimizers:
            found += [p for group in optimizer.param_groups for p in group["params"]]
        return list({id(tensor): tensor for tensor in found}.values())

    def rates(self) -> list[str]:
        """All hyperparameters."""
        return [
            f"{name}={value!r}"
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            for name, value in group.items()
            if name != "params"
        ]

    def saved(self) -> tuple[list[Any], list[Any]]:
        """All numbers that a step may change."""
        numbers = [(tensor.data, tensor.data.copy()) for tensor in self.tensors()]
        return numbers, [(optimizer, optimizer.state_dict()) for optimizer in self.optimizers]

    def put_back(self, saved: tuple[list[Any], list[Any]]) -> None:
        """As they were when `saved` was called."""
        for data, numbers in saved[0]:
            data[...] = numbers
        for optimizer, state in saved[1]:
            optimizer.load_state_dict(state)


_VARIED = (
    "has met too many different shapes, or values that are no arrays; pass what changes as a "
    "tensor, and pad what changes its length"
)


def capture(function: Callable[..., Any], *holders: Any) -> Callable[..., Any]:
    """A function that does what `function` does, two to three times as fast on small networks.

        def step(x, y):
            loss = criterion(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        step = mt.capture(step, model, optimizer)
        for x, y in batches:
            loss = step(x, y)

    Two calls run as they stand; the third notes every array call that is made, and from then on
    these alone are made, in the same order and in the same memory, with the same results to the
    last bit (but for that one, perhaps, where an argument is a view with gaps: a slice of a larger
    array, or one repeated by broadcasting). What Python does beside them is not done again: nothing
    is printed, no counter counts, no list grows.

    - What changes from step to step must come as an argument: tensors or NumPy's arrays, in tuples,
      lists, or by name. They are constants: no gradient goes back to them, and they are not written
      to. Anything else (a number, a string, None) must be hashable, and is a part of the step:
      another value is another step. So are other shapes and dtypes, `train()` and `eval()`, other
      parameters, modules or parameter groups in place of these.
    - What is returned (tensors, in tuples, lists or dictionaries) is computed anew and cut off from
      its graph, which stays inside, as does the memory of all that lies between.
    - The backward pass and the update belong into one step, or neither: of a step that leaves
      gradients for an optimizer outside nothing is learnt.
    - Gradients are None before and after a step. To have them, return them.
    - A decision about a number (`if loss > 1:`) is taken again in each step; where it comes out
      differently, the step is run as it stands. A number itself (`loss.item()`) is not to be had
      inside.
    - Learning rates, and all else that the optimizer looks up, may change at any time.
    - `step.source()` is the text of what is done: one line for each call.
    - One thread at a time calls it; other captured steps may run in others.
    - While recording is off (put `no_grad` into the function, not around its calls), anomalies are
      looked for, or a backward pass is observed, everything runs as it stands. So does everything
      on CuPy.

    Parameters
    ----------
    function
        Forward, backward, update; or a part of it.
    holders
        Modules (with their buffers), optimizers and tensors: all parameters that the function uses,
        and all other tensors that do not come as arguments.

    Raises
    ------
    CaptureError
        If an argument needs a gradient. When the step is noted (in the third call of its kind), if
        it cannot be: it reads a number (as do `lengths` that are no list, and `weight` and ignored
        labels of a cross-entropy), makes a shape of numbers (`x[x > 0]`), meets a tensor or an
        array that is neither an argument nor held, changes an argument, a hyperparameter or which
        tensor is an attribute, uses an optimizer that is not named, or decides by a number after
        the update. Parameters and optimizers are then as before the call. Also after 16 sets of
        shapes or values, each of which keeps memory of its own.
    RuntimeError
        When it is noted, if the step draws random numbers of the library's (dropout).
    TypeError
        If a holder is none of the three, or an argument is not hashable.
    """
    told = _Holders(holders)
    programs: dict[Any, list[_Program]] = {}  # by what is no array
    calls: dict[Any, int] = {}  # by that, and by shapes and dtypes

    @functools.wraps(function)
    def captured(*args: Any, **options: Any) -> Any:
        found: list[Any] = []
        key = _structure(args, found)
        if options:
            key = key, *[(name, _structure(value, found)) for name, value in options.items()]
        try:
            known = programs.get(key, ())
        except TypeError:
            raise TypeError(
                "what a captured step is called with must be tensors or arrays, in tuples, lists "
                "or dictionaries, or else hashable: it is a part of the step"
            ) from None
        plain = modes.current.get() is engine.PLAIN and _recording.get() is None
        if plain:
            for program in known:
                if program.fits(found):
                    try:
                        return program.run(*found)
                    except _OtherwiseError:
                        plain = False
                        break
        parameters = told.tensors()
        if plain:
            shapes = key, *[(value.shape, value.dtype) for value in found]
            calls[shapes] = calls.get(shapes, 0) + 1
            numpys = all(_bare(v).__class__ is np.ndarray for v in (*found, *parameters))
            if len(calls) > 10 * MOST:
                raise CaptureError("this captured step " + _VARIED)
            if calls[shapes] > WARM and numpys:
                alike = [other for other in known if other.fits(found, anew=False)]
                if len(alike) < KEPT and sum(map(len, programs.values())) >= MOST:
                    raise CaptureError("this captured step " + _VARIED)
                given = args, tuple(options.items())
                program = _Program(function, given, told)
                oldest = alike[0] if len(alike) == KEPT else None
                kept = [other for other in known if other is not oldest]
                programs[key] = [*kept, program]
                return program.first.pop()
        for parameter in parameters:
            parameter.grad = None
        try:
            return detach(function(*args, **options))
        finally:
            for parameter in parameters:
                parameter.grad = None

    def source() -> str:
        """The calls of the youngest program as text; empty if there is none yet."""
        texts = [program.source for found in programs.values() for program in found]
        return texts[-1] if texts else ""

    captured.source = source  # type: ignore[attr-defined]
    return captured
