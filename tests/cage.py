"""The cage: arrays that refuse what CuPy's refuse, on a machine without a GPU.

Most code that breaks on a GPU breaks for one of four reasons, and NumPy forgives all of them:

- an array is turned into a NumPy array behind the reader's back (`np.asarray`, mixed operands);
- a name or a keyword is used that CuPy does not have;
- a number is fetched from the device (`float(t)`, `if t > 0`), so that the host waits for it;
- an index is out of range, or names an element twice in an assignment: on a GPU the result is
  silently another one.

`Caged` wraps a NumPy array and raises in all four cases. It is not a subclass of `np.ndarray`:
`np.asarray` would let a subclass pass without asking it. What names there are stands in
data/cupy_names.json. `xp` is the namespace, as `cupy` is for CuPy's arrays.

Errors that CuPy raises too have CuPy's type, and often its words. `CageError` is raised where CuPy
would go on, and be slow or wrong.
"""

import contextlib
import json
import types
from contextvars import ContextVar
from pathlib import Path

import numpy as np

from microtensor import backend

NAMES = json.loads((Path(__file__).parent / "data" / "cupy_names.json").read_text())
SCALARS = (bool, int, float, complex, np.generic)
# What atomic additions there are, by dtype.char.
SCATTER = {"add": "ilqfdILQe", "subtract": "iI", "maximum": "ilqfdILQ", "minimum": "ilqfdILQ"}


class CageError(AssertionError):
    """Something that CuPy does without a word, and that a program should not do."""


_watched: ContextVar[bool] = ContextVar("cage_watched", default=False)
_waits: ContextVar[list[str] | None] = ContextVar("cage_waits", default=None)


@contextlib.contextmanager
def device_only():
    """Inside the block every transfer to the host raises, as under cupyx.allow_synchronize(False).

    Explicit uploads (`xp.asarray` of a NumPy array) stay allowed.
    """
    token = _watched.set(True)
    try:
        yield
    finally:
        _watched.reset(token)


@contextlib.contextmanager
def counting_waits():
    """Yields a list that grows by one entry for each transfer to the host inside the block."""
    waits: list[str] = []
    token = _waits.set(waits)
    try:
        yield waits
    finally:
        _waits.reset(token)


def _wait(how):
    if _watched.get():
        raise CageError(f"{how}: the host would have to wait for the device here")
    waits = _waits.get()
    if waits is not None:
        waits.append(how)


# -- into the cage and out of it


def _refuse(value):
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}: a NumPy array among CuPy's")
    if isinstance(value, (list, tuple)):
        raise TypeError(f"Unsupported type {type(value)}: CuPy's functions take arrays")


def _open(value):
    """The NumPy array inside, or a scalar as it is."""
    if isinstance(value, Caged):
        return value._array
    _refuse(value)
    return value


def _open_all(value):
    """The same within tuples and lists: shapes, axes, operands of concatenate."""
    if isinstance(value, (tuple, list)):
        return type(value)([_open_all(part) for part in value])
    return _open(value)


def _close(value):
    """Put results into the cage; NumPy's scalars become arrays of no axes, as CuPy's results."""
    if isinstance(value, (np.ndarray, np.generic)):
        return Caged(np.asarray(value))
    if isinstance(value, (tuple, list)):
        return type(value)([_close(part) for part in value])
    return value


# -- indices


def _index(part):
    """One part of an index as NumPy's: arrays of the host are an upload that nobody sees."""
    if isinstance(part, (np.ndarray, list)):
        raise CageError("an index on the host: CuPy uploads it each time; upload it once instead")
    if isinstance(part, slice):
        for bound in (part.start, part.stop, part.step):
            if isinstance(bound, Caged):
                raise TypeError("'cupy.ndarray' object cannot be interpreted as an integer")
        return part
    return part._array if isinstance(part, Caged) else part


def _axes(part):
    """How many axes a part of an index takes up."""
    if part is None or part is Ellipsis:
        return 0
    return part.ndim if isinstance(part, np.ndarray) and part.dtype == np.bool_ else 1


def _inspected(shape, index, assigning):
    """The index for NumPy, after a look for what CuPy would not notice."""
    parts = index if isinstance(index, tuple) else (index,)
    opened = [_index(part) for part in parts]
    used = sum(_axes(part) for part in opened)
    axis, integers = 0, []
    for part in opened:
        if part is Ellipsis:
            axis += len(shape) - used
        elif isinstance(part, np.ndarray) and part.dtype == np.bool_:
            _wait("a boolean mask as index (its result's shape depends on numbers)")
            axis += part.ndim
        elif part is not None:
            if isinstance(part, np.ndarray):
                wrong = part[(part >= shape[axis]) | (part < -shape[axis])]
                if wrong.size:
                    raise CageError(
                        f"index {wrong[0]} is out of range for an axis of length "
                        f"{shape[axis]}: CuPy would wrap it around"
                    )
                integers.append(part % max(shape[axis], 1))
            axis += 1
    if assigning and integers:
        rows = np.stack([row.ravel() for row in np.broadcast_arrays(*integers)], axis=1)
        if len(np.unique(rows, axis=0)) < len(rows):
            raise CageError("an element is assigned twice: on a GPU either value may win")
    return tuple(opened) if isinstance(index, tuple) else opened[0]


# -- the array


class Caged:
    """An array of the cage. Attributes and methods are those that CuPy's array has."""

    __slots__ = ("__weakref__", "_array")
    __array_priority__ = 100
    __hash__ = None

    def __init__(self, array):
        self._array = array

    def __array__(self, dtype=None, copy=None):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        function = getattr(xp, ufunc.__name__, None)
        if function is None or method != "__call__":
            return NotImplemented
        return function(*inputs, **options)

    def __array_function__(self, function, types, args, kwargs):
        ours = getattr(xp, function.__name__, None)
        return NotImplemented if ours is None else ours(*args, **kwargs)

    def _fetch(self, how):
        _wait(how)
        return self._array

    def __bool__(self):
        return bool(self._fetch("bool()"))

    def __int__(self):
        return int(self._fetch("int()"))

    def __float__(self):
        return float(self._fetch("float()"))

    def __complex__(self):
        return complex(self._fetch("complex()"))

    def item(self, *at):
        return self._fetch(".item()").item(*at)

    def tolist(self):
        return self._fetch(".tolist()").tolist()

    def get(self):
        return self._fetch(".get()").copy()

    def __repr__(self):
        return f"caged {self._array!r}"

    def __len__(self):
        return len(self._array)

    def __iter__(self):
        return iter([self[i] for i in range(len(self))])

    def __reduce__(self):
        return Caged, (self._array,)

    def __getitem__(self, index):
        return _close(self._array[_inspected(self.shape, index, assigning=False)])

    def __setitem__(self, index, value):
        if isinstance(value, np.ndarray) and value.ndim:
            _refuse(value)
        at = _inspected(self.shape, index, assigning=True)
        self._array[at] = value._array if isinstance(value, Caged) else value

    def __getattr__(self, name):
        if name not in NAMES["ndarray"] or name.startswith("__"):
            raise AttributeError(f"'cupy.ndarray' object has no attribute {name!r}")
        if name == "data":
            raise CageError("`data` of CuPy's arrays is an address on the device, not numbers")
        found = getattr(self._array, name)
        if not callable(found):
            return _close(found)
        return _method(name, found)


def _method(name, found):
    def method(*args, **options):
        for keyword in ("where", "initial"):
            if keyword in options:
                raise TypeError(f"{name}() got an unexpected keyword argument {keyword!r}")
        if name == "reshape" and any(np.min(arg, initial=0) < -1 for arg in args):
            raise CageError(f"reshape{args}: a length to be inferred is -1; others go through")
        return _close(found(*_open_all(args), **{k: _open_all(v) for k, v in options.items()}))

    return method


def _operator(name, in_place):
    def operate(self, other):
        if not isinstance(other, (Caged, *SCALARS)):
            _refuse(other)
            return NotImplemented
        result = getattr(self._array, name)(_open(other))
        if in_place:  # NumPy answers with the array itself, whose memory it has changed
            assert result is self._array
            return self
        return NotImplemented if result is NotImplemented else _close(result)

    return operate


def _unary(name):
    return lambda self: _close(getattr(self._array, name)())


OPERATORS = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow", "matmul"),
    *("and", "or", "xor", "lshift", "rshift", "lt", "le", "gt", "ge", "eq", "ne"),
)
for _symbol in OPERATORS:
    for _prefix in ("", "r", "i"):
        _name = f"__{_prefix}{_symbol}__"
        if _name in NAMES["ndarray"] and hasattr(np.ndarray, _name):
            setattr(Caged, _name, _operator(_name, _prefix == "i"))
for _name in ("__neg__", "__pos__", "__abs__", "__invert__"):
    setattr(Caged, _name, _unary(_name))


# -- the namespace


class _Ufunc:
    """An elementwise function: arrays of the cage and scalars, out= and dtype=, nothing else."""

    def __init__(self, function):
        self._function = function
        self.__name__ = function.__name__

    def __call__(self, *args, out=None, dtype=None, casting=None, **others):
        if others:
            raise TypeError(f"Wrong arguments {others}")
        options = {"dtype": dtype, "casting": casting}
        options = {name: value for name, value in options.items() if value is not None}
        for arg in args:
            if not isinstance(arg, (Caged, *SCALARS)):
                raise TypeError(f"Unsupported type {type(arg)}")
        if out is not None:
            if not isinstance(out, Caged):
                raise TypeError(f"return arrays must be of ArrayType, not {type(out)}")
            self._function(*map(_open, args), out=out._array, **options)
            return out
        return _close(self._function(*map(_open, args), **options))

    def at(self, array, index, values=None):
        if array.dtype.char not in SCATTER.get(self.__name__, ""):
            raise TypeError(f"cupy.{self.__name__}.at does not support {array.dtype}")
        at = _inspected(array.shape, index, assigning=False)
        self._function.at(_open(array), at, _open(values))

    def reduce(self, array, axis=0, dtype=None, out=None, keepdims=False):
        if self.__name__ not in ("add", "multiply") or not isinstance(array, Caged):
            raise NotImplementedError(f"`cupy_{self.__name__}.reduce` is not supported")
        return _close(self._function.reduce(_open(array), axis, dtype, _open(out), keepdims))

    def outer(self, a, b):
        return _close(self._function.outer(_open(a), _open(b)))


def _function(name, function):
    """A function that takes CuPy's parameters and no others."""
    known = NAMES["functions"][name] or ["*args", "**kwargs"]
    names = {parameter.lstrip("=") for parameter in known}
    positional = [parameter for parameter in known if not parameter.startswith(("=", "*"))]

    def call(*args, **options):
        if not any(parameter.startswith("**") for parameter in known):
            for keyword in options.keys() - names:
                raise TypeError(f"{name}() got an unexpected keyword argument {keyword!r}")
        if len(args) > len(positional) and not any(p[0] == "*" and p[1] != "*" for p in known):
            raise TypeError(f"{name}() takes {len(positional)} positional arguments")
        if name == "einsum" and options.keys() - {"dtype", "optimize", "order", "casting"}:
            raise TypeError(f"einsum got an unexpected keyword argument: {sorted(options)}")
        out = options.pop("out", None)
        options.pop("blocking", None)
        args = _open_all(args)
        options = {keyword: _open_all(value) for keyword, value in options.items()}
        if out is not None:
            function(*args, out=_open(out), **options)
            return out
        return _close(function(*args, **options))

    call.__name__ = name
    return call


def asarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    """Upload an array, list or number of the host; one of the cage stays what it is."""
    if isinstance(a, Caged):
        if not copy and (dtype is None or np.dtype(dtype) == a.dtype):
            return a
        return Caged(np.array(a._array, dtype))
    return Caged(np.array(_without_arrays(a), dtype))


def array(a, dtype=None, copy=True, order="K", subok=False, ndmin=0, *, blocking=False):
    """As asarray, but always a copy."""
    return Caged(np.array(a._array if isinstance(a, Caged) else _without_arrays(a), dtype))


def _without_arrays(a):
    if isinstance(a, (list, tuple)) and any(isinstance(part, Caged) for part in a):
        return [_open(part) for part in a]
    return a


def asnumpy(a):
    """Fetch an array to the host."""
    return a.get() if isinstance(a, Caged) else np.asarray(a)


class _Namespace(types.ModuleType):
    """The names of CuPy that NumPy has too."""

    def __getattr__(self, name):
        found = getattr(np, name, None)
        if name in NAMES["ufuncs"] and isinstance(found, np.ufunc):
            made = _Ufunc(found)
        elif name in NAMES["functions"] and found is not None:
            made = _function(name, found)
        elif name in NAMES["classes"] + NAMES["constants"] and found is not None:
            made = found
        else:
            raise AttributeError(f"module 'cupy' has no attribute {name!r}")
        setattr(self, name, made)
        return made


xp = _Namespace("cage")
xp.ndarray, xp.asarray, xp.array, xp.asnumpy = Caged, asarray, array, asnumpy

BACKEND = backend.Backend(
    name="cage",
    xp=xp,
    array_type=Caged,
    from_host=asarray,
    to_host=asnumpy,
    owner=lambda caged: backend.NUMPY.owner(caged._array),
)


def register():
    """Make the cage a backend of this process: `mt.use_backend("cage")`."""
    if not backend.backend_available("cage"):
        backend.register(BACKEND)
