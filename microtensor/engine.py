"""The engine: how a computation is remembered, and how it is walked backward.

1. An operation called on tensors computes its result with plain array functions and, if one of its
   arguments needs a gradient, leaves a `Node` behind: which operation it was, the few arrays that
   its derivative will ask for, and the *places* its arguments came from. A place is where a
   derivative can be sent: a leaf tensor itself, the node of a result, or (node, i) for one of
   several results. Nodes know places, not the tensors of results, so nothing points in a circle,
   and memory is freed when the last tensor goes, without any garbage collector.

2. Every node has a number that only grows. Whoever used a node's result was made after it, so
   visiting the highest number first is always right: when a node's turn comes, everybody who used
   its result has sent a contribution back to it already. That replaces a topological sort, and
   being a loop over a heap it needs no recursion, however long the computation was.

3. At its turn a node has one array, the *cotangent* of its result: how the final output changes
   when the result changes. The operation's rules turn it into one contribution for each argument,
   and contributions to the same place are added up. That is the chain rule, all of it.

4. Rules are written with operations and operators, so one text runs on bare arrays (a first
   derivative, at NumPy's speed) and on tensors (`create_graph=True`: the backward pass is itself
   recorded, and can be walked backward again, to any order).

An operation is declared by its forward function and one rule for each argument, side by side:

    @primitive
    def tanh(xp, x):
        return xp.tanh(x)

    tanh.vjp("x", lambda g, out: g * (1 - out * out))

The names of a rule's parameters say what is saved for it: arguments, options, residuals or `out`.
What no rule names is not kept alive.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from heapq import heappop, heappush, heappushpop
from sys import getrefcount
from typing import Any, overload
from weakref import WeakValueDictionary

import numpy as np

from microtensor import guards, indexed, modes, writes
from microtensor.backend import Array, namespaces
from microtensor.declaration import LIBRARY, Declaration, Node, Operation, Plan
from microtensor.indexed import IndexedCotangent
from microtensor.writes import next_number

Tensor: Any = None  # tensor.py fills this slot: the class to open arguments and wrap results


def bind(tensor_class: type, its_globals: dict[str, Any]) -> None:
    """Tell the engine what a tensor is. Called once, by tensor.py."""
    global Tensor
    Tensor = tensor_class
    LIBRARY.add(id(its_globals))


# ---------------------------------------------------------------------------------------------
# The graph. What one recorded call leaves behind is a `Node`; it stands in declaration.py, beside
# the plan that says what is to be kept. Here are the tensors around it.


def wrap(array: Array, place: Any = None) -> Any:
    """A tensor around a bare array: recorded if it has a place, a constant if not."""
    result = _new(Tensor)
    result.data = array
    result.grad = None
    result._requires_grad = place is not None
    result.place = place
    return result


def _node_of(place: Any) -> Any:
    return place[0] if place.__class__ is tuple else place


def _bare(value: Any) -> Any:
    return value.data if isinstance(value, Tensor) else value


# ---------------------------------------------------------------------------------------------
# Operations

_SCALARS = frozenset((float, int, bool, complex))
_new = object.__new__
_frame = sys._getframe
_mode = modes.current.get
PLAIN = _mode()  # the switches as they are when nobody has touched them
_FLOAT64 = np.dtype(np.float64)


@overload
def primitive(forward: Callable[..., Any]) -> Operation: ...
@overload
def primitive(**properties: Any) -> Callable[[Callable[..., Any]], Operation]: ...
def primitive(forward: Callable[..., Any] | None = None, **properties: Any) -> Any:
    """Make an operation of `forward(xp, *arrays, **options)`: `@primitive` or `@primitive(...)`.

    `xp` is the namespace of the arrays (NumPy or CuPy), which the engine finds at each call.
    Parameters without a default are arrays; keyword-only ones and those with a default are options
    (callers may give them by position all the same). The operation has `.vjp(argument, rule)` and
    `.vjp_all(rule)` to declare derivatives.

    Parameters
    ----------
    broadcasts
        The arguments meet by NumPy's rules of broadcasting and promotion, and the engine brings
        each contribution back to its argument's shape and dtype. Without it a contribution of
        another shape or dtype is an error that names the rule.
    differentiable
        False for operations that have no derivative, such as comparisons.
    constant
        Names of arguments that never receive a gradient. For any other argument a missing rule is
        an error when its gradient is asked for, never a silent zero.
    residuals
        Names of values that the forward returns beside its result, `(out, *residuals)`, for rules
        to use. To a recorded backward pass they are constants.
    composite
        For fused operations: the same function written in primitives, which a recorded backward
        pass walks instead of the rules.
    """
    if forward is None:
        return lambda function: _operation(Declaration(function, **properties))
    return _operation(Declaration(forward, **properties))


def _operation(declaration: Declaration) -> Operation:
    operation: Any = _recorder(declaration)
    plain = not (declaration.variadic or declaration.constant)
    if plain and len(declaration.arguments) == 1:
        operation = _unary_recorder(declaration, operation)
    elif plain and len(declaration.arguments) == 2 and not declaration.defaults:
        operation = _binary_recorder(declaration, operation)
    for name in ("__doc__", "__module__", "__name__", "__qualname__"):
        setattr(operation, name, getattr(declaration.forward, name))
    declaration.operation, operation.declaration = operation, declaration
    operation.vjp, operation.vjp_all = declaration.vjp, declaration.vjp_all
    made: Operation = operation
    return made


def _recorder(declaration: Declaration) -> Callable[..., Any]:
    """The call of an operation: compute, and record if an argument needs a gradient."""
    forward, plans = declaration.forward, declaration.plans
    arity = -1 if declaration.variadic else len(declaration.arguments)
    has_residuals = bool(declaration.residuals)

    def operation(*args: Any, **options: Any) -> Any:
        if len(args) != arity and arity >= 0:
            args, options = declaration.bind(args, options)
        kind: Any = None  # the type of the arrays
        tensors, needs, bit = False, 0, 1
        values: list[Any] = []
        parents = []
        for value in args:
            if isinstance(value, Tensor):
                tensors = True
                if value._requires_grad:
                    needs |= bit
                    parents.append(value.place or value)
                value = value.data
            bit += bit
            cls = value.__class__
            if cls is not kind and cls not in _SCALARS:
                if kind is not None or cls not in namespaces:
                    value = declaration.admit(value, len(values), kind)
                if kind is None and value.__class__ not in _SCALARS:
                    kind = value.__class__
            values.append(value)
        if kind is None:
            kind, values = np.ndarray, declaration.numbers(args)
        xp = namespaces[kind]
        out = forward(xp, *values, **options)
        residuals = ()
        if has_residuals:
            out, *residuals = out
        if out.__class__ is not kind:
            out = _arrays(out, xp)
        if declaration.broadcasts and out.__class__ is kind and out.dtype == _FLOAT64:
            out = declaration.narrowed(out, values)
        recording, anomaly, _ = _mode()
        if anomaly and tensors:
            guards.check_forward(declaration.name, values, out, guards.users_frame(_frame(1)))
        plan = None
        if needs and recording:
            plan = plans.get(needs if arity >= 0 else (needs, len(values)))
            if plan is None:
                plan = declaration.plan(needs, len(values))
        if plan is None or not plan.needed:
            return _constants(out) if tensors else out
        if len(parents) != len(plan.needed):  # some arguments are declared constant
            parents = [args[i].place or args[i] for i in plan.needed]
        kept = plan.option_values(options) if options else plan.default_values
        saved = plan.keep((*values, out, *residuals, *kept)) if plan.kept else ()
        frame = guards.users_frame(_frame(1)) if anomaly else _frame(1)
        return _record(plan, None, None, tuple(parents), saved, out, frame)

    return operation


# The same call again for the most frequent kinds of operation: one array (and options), and two
# arrays. What is not plain there, other types or other switches, goes to the general one above.


def _unary_recorder(declaration: Declaration, general: Callable[..., Any]) -> Callable[..., Any]:
    forward, plans, find = declaration.forward, declaration.plans, namespaces.get
    has_residuals = bool(declaration.residuals)

    def operation(x: Any, *rest: Any, **options: Any) -> Any:
        tensor = isinstance(x, Tensor)
        value = x.data if tensor else x
        kind = value.__class__
        xp = np if kind is np.ndarray else find(kind)
        if rest or xp is None or (tensor and _mode() is not PLAIN):
            return general(x, *rest, **options)
        out = forward(xp, value, **options) if options else forward(xp, value)
        residuals = ()
        if has_residuals:
            out, *residuals = out
        if out.__class__ is not kind:
            out = _arrays(out, xp)
        if not tensor:
            return out
        if not x._requires_grad:
            return _constants(out)
        plan = plans[1]
        rest = plan.option_values(options) if options else plan.default_values
        saved = plan.keep((value, out, *residuals, *rest))
        return _record(plan, x.place or x, None, None, saved, out, _frame(1))

    return operation


def _binary_recorder(declaration: Declaration, general: Callable[..., Any]) -> Callable[..., Any]:
    forward, plans, find = declaration.forward, declaration.plans, namespaces.get

    def operation(a: Any, b: Any) -> Any:
        needs = 0
        x, y = a, b
        if isinstance(a, Tensor):
            x = a.data
            if a._requires_grad:
                needs = 1
        if isinstance(b, Tensor):
            y = b.data
            if b._requires_grad:
                needs += 2
        kind = x.__class__
        xp = np if kind is np.ndarray else find(kind)
        if (
            xp is not None
            and (y.__class__ is kind or y.__class__ in _SCALARS)
            and (_mode() is PLAIN or (x is a and y is b))
        ):
            out = forward(xp, x, y)
            if out.__class__ is not kind:
                out = _arrays(out, xp)
            if getattr(out, "dtype", None) is not x.dtype:
                out = declaration.narrowed(out, (x, y))
            if not needs:
                return out if x is a and y is b else _constants(out)
            plan = plans[needs]
            saved = plan.keep((x, y, out)) if plan.kept else ()
            left = b.place or b if needs == 2 else a.place or a
            right = b.place or b if needs == 3 else None
            return _record(plan, left, right, None, saved, out, _frame(1))
        return general(a, b)

    return operation


def _arrays(out: Any, xp: Any) -> Any:
    """A result that is no array yet: several of them, or one of the scalars NumPy makes of 0-d."""
    if out.__class__ in (tuple, list):
        return tuple([xp.asarray(part) for part in out])
    return out if out.__class__ in namespaces else xp.asarray(out)


def _constants(out: Any) -> Any:
    return tuple([wrap(part) for part in out]) if out.__class__ is tuple else wrap(out)


def _record(
    plan: Plan, left: Any, right: Any, parents: Any, saved: Any, out: Any, frame: Any
) -> Any:
    """Leave a node behind, and return the tensor that knows it."""
    node = _new(Node)
    node.number = next_number()
    node.plan = plan
    node.left = left
    node.right = right
    node.more = parents
    node.saved = saved
    while id(frame.f_globals) in LIBRARY and frame.f_back is not None:
        frame = frame.f_back  # the user's line, or that of a layer
    node.code = frame.f_code
    node.instruction = frame.f_lasti
    node.kind = out.__class__
    if out.__class__ is tuple:
        node.kind = out[0].__class__ if out else None
        node.shape = tuple([part.shape for part in out])
        node.dtype = tuple([part.dtype for part in out])
        return tuple([wrap(part, (node, i)) for i, part in enumerate(out)])
    node.shape = out.shape
    node.dtype = out.dtype
    result = _new(Tensor)  # `wrap`, written out: no line of the library is busier
    result.data = out
    result.grad = None
    result._requires_grad = True
    result.place = node
    return result


# The engine's own operations: they undo broadcasting and promotion.


@primitive(residuals=("before",))
def sum_to(xp: Any, x: Array, *, shape: tuple[int, ...]) -> Any:
    """Add up `x` over the axes along which an array of `shape` would be repeated to match it."""
    extra = x.ndim - len(shape)
    axes = tuple(i for i in range(x.ndim) if i < extra or shape[i - extra] != x.shape[i])
    return xp.add.reduce(x, axes, keepdims=True).reshape(shape), x.shape


@primitive(residuals=("before",))
def broadcast_to(xp: Any, x: Array, *, shape: tuple[int, ...]) -> Any:
    """Repeat `x` to `shape` by NumPy's rules of broadcasting (a copy, never a view)."""
    out = xp.empty(shape, x.dtype)
    out[...] = x
    return out, x.shape


@primitive(residuals=("before",))
def astype(xp: Any, x: Array, *, dtype: Any) -> Any:
    """`x` with its numbers as another `dtype`; differentiable between floats."""
    return x.astype(dtype), x.dtype


sum_to.vjp("x", lambda g, before: broadcast_to(g, shape=before))
broadcast_to.vjp("x", lambda g, before: sum_to(g, shape=before))
astype.vjp("x", lambda g, before: astype(g, dtype=before))


# ---------------------------------------------------------------------------------------------
# Walking backward


def _settled(total: Any, shape: Any) -> Any:
    return indexed.combine(total, shape) if total.__class__ is list else total


class _Arrivals:
    """What has arrived at each place: the state of one backward pass, and at its end the result."""

    def __init__(self, create: bool) -> None:
        self.create = create
        self.first: dict[Any, Any] = {}  # place -> its only contribution so far, or a list of them
        self.sums: dict[Any, Any] = {}  # place -> the sum so far: an array of our own making
        self.heap: list[tuple[int, Node]] = []  # nodes whose turn will come, highest number first
        self.captured: dict[Any, Any] = {}  # wanted place on the way -> all that arrived there

    def add(self, place: Any, c: Any) -> None:
        """Add a contribution to what has arrived at its place."""
        first, sums, node = self.first, self.sums, _node_of(place)
        if node.__class__ is Node and node not in first and node not in sums:
            heappush(self.heap, (-node.number, node))
            first[node] = None  # also for one of several results: its node is on the heap
        old = first.get(place)
        if self.create:
            # By reference; indexed parts are collected, to be summed as one operation.
            listed = c.__class__ is IndexedCotangent or old.__class__ is list
            parts = old if old.__class__ is list else [] if old is None else [old]
            first[place] = [*parts, c] if listed else c if old is None else old + c
        elif c.__class__ is IndexedCotangent:
            shape = node.shape[place[1]] if place.__class__ is tuple else node.shape
            sums[place] = indexed.add_to(sums.get(place), old, c, shape)
            first.pop(place, None)
        elif place in sums:
            sums[place] += c
        elif old is None:
            first[place] = c
        else:
            total = old + c  # of two 0-d arrays NumPy makes a scalar
            sums[place] = total if total.__class__ is c.__class__ else np.asarray(total)
            del first[place]

    def take(self, place: Any, shape: tuple[int, ...]) -> Any:
        """Everything that arrived at a place; None if nothing did."""
        total = self.first.pop(place, None)
        if total is None:
            return self.sums.pop(place, None)
        return _settled(total, shape)


def _walk(arrivals: _Arrivals, keep: bool, wanted: set[Any], useful: set[Any] | None) -> None:
    """Visit every node that something arrived at, and those behind it, the newest first.

    What arrives at leaves stays in `arrivals`, and at `wanted` places is captured. `useful` limits
    the walk to nodes that lead to wanted places (None: all of them).
    """
    _, anomaly, observer = _mode()
    first, sums, heap, create = arrivals.first, arrivals.sums, arrivals.heap, arrivals.create
    latest: Any = None  # a node for the heap; often its turn is next, and it need not go there
    while heap or latest is not None:
        if latest is None:
            node: Any = heappop(heap)[1]
        else:
            node = heappushpop(heap, (-latest.number, latest))[1] if heap else latest
            latest = None
        plan, saved, g = node.plan, node.saved, first.pop(node, None)
        if g is None:
            g = sums.pop(node, None)
        if node.dtype.__class__ is tuple:
            if sums or create:
                g = tuple([arrivals.take((node, i), shape) for i, shape in enumerate(node.shape)])
            else:
                g = tuple([first.pop((node, i), None) for i in range(len(node.shape))])
            for i, c in enumerate(g if wanted else ()):
                if c is not None and (node, i) in wanted:
                    arrivals.captured[(node, i)] = c
        elif g.__class__ is list:
            g = indexed.combine(g, node.shape)
        if wanted and node in wanted:
            arrivals.captured[node] = g
        if useful is not None and node not in useful:
            continue
        if saved is None:
            raise guards.released(node)
        if node.number < writes.last:
            writes.check(node)
        if observer is not None:
            observer.visit(node, g)
        kind, together = node.kind, None
        if create:
            kind, saved = Tensor, _revive(node)
        if create and plan.declaration.composite is not None:
            together = _through_composite(node, g, saved)
        elif plan.joint is not None:
            rule, needs, pick = plan.joint
            together = rule(g, needs, *pick(saved))
        places = zip(node.more or (node.left, node.right), plan.needed, plan.rules)  # noqa: B905
        for place, position, (rule, n, i, pick, argument) in places:
            if useful is not None and place not in wanted and _node_of(place) not in useful:
                continue
            if together is not None:
                raw = together[position]
            elif n == 0:
                raw = rule(g)
            elif n == 1:
                raw = rule(g, saved[i])
            else:
                raw = rule(g, *pick(saved))
            c, cls = raw, place.__class__
            if cls is tuple:
                shape, dtype = place[0].shape[place[1]], place[0].dtype[place[1]]
            else:
                like = place if cls is Node else place.data
                shape, dtype = like.shape, like.dtype
            if raw.__class__ is not kind or raw.dtype is not dtype or raw.shape != shape:
                c = _fit(raw, node, argument, place, create)
            if anomaly:
                guards.check_backward(node, argument, c, g)
            # What `arrivals.add` does most often, written out: a sum goes on, or a node is reached.
            if c.__class__ is not kind or cls is tuple:
                arrivals.add(place, c)
            elif place in sums:
                total = sums[place]
                total += c
            elif place not in first:
                first[place] = c
                if cls is Node:
                    if latest is not None:
                        heappush(heap, (-latest.number, latest))
                    latest = place
            else:
                arrivals.add(place, c)
            if observer is not None:
                total = sums[place] if place in sums else first[place]
                observer.contribution(node, argument, place, raw, c, total)
        if not keep:
            node.left = node.right = node.more = node.saved = None


def _fit(c: Any, node: Any, argument: str, place: Any, create: bool) -> Any:
    """Bring a contribution to its argument's shape and dtype, or refuse it."""
    owner, several = _node_of(place), place.__class__ is tuple
    shape = owner.shape[place[1]] if several else owner.shape
    dtype = owner.dtype[place[1]] if several else owner.dtype
    kind = owner.data.__class__ if isinstance(owner, Tensor) else owner.kind
    c = np.asarray(c) if isinstance(c, np.generic) else c
    if create and c.__class__ in namespaces:
        c = wrap(c)  # the rule came to a constant
    if c.__class__ is kind and c.shape == shape and c.dtype == dtype:
        return c
    if c.__class__ is IndexedCotangent:
        if c.values.__class__ is not kind or c.values.dtype != dtype:
            guards.check_contribution(node, argument, _bare(c.values), kind, None, dtype)
        return c
    guards.check_contribution(node, argument, _bare(c), kind, shape, dtype)
    if c.shape != shape:
        c = sum_to(c, shape=shape)
    return c if c.dtype == dtype else astype(c, dtype=dtype)


def _revive(node: Any) -> tuple[Any, ...]:
    """What a node saved, as tensors at their old places: for a backward pass that is recorded."""
    plan = node.plan
    places = dict(zip(plan.needed, node.parents, strict=True))
    revived = []
    for position, value in zip(plan.kept, node.saved, strict=True):
        if position in places:
            place = places[position]
            value = place if isinstance(place, Tensor) else wrap(value, place)
        elif position == plan.arity and value.__class__ is tuple:
            value = tuple([wrap(part, (node, i)) for i, part in enumerate(value)])
        elif position == plan.arity:
            value = wrap(value, node)
        revived.append(value)
    return tuple(revived)


@primitive
def _here(xp: Any, x: Array) -> Array:
    """The same numbers at a place, and in memory, of their own."""
    return x.copy()


_here.vjp("x", lambda g: g)


def _through_composite(node: Any, g: Any, saved: tuple[Any, ...]) -> dict[int, Any]:
    """The contributions of a fused operation, by walking its composite, all of it recorded.

    A dictionary: position of the argument -> its contribution.
    """
    plan, declaration = node.plan, node.plan.declaration
    values = dict(zip(plan.kept, saved, strict=True))
    first = plan.arity + 1 + len(declaration.residuals)
    options = {name: values[first + i] for i, name in enumerate(plan.options)}
    arguments = [values[i] for i in range(plan.arity)]
    # Each argument at a place of its own: what reaches it there is its own share, also where one
    # argument was computed from another.
    for i in plan.needed:
        arguments[i] = _here(arguments[i])
    out = declaration.composite(*arguments, **options)
    pairs = zip(out, g, strict=True) if g.__class__ is tuple else [(out, g)]
    outputs, cotangents = zip(*[(o, c) for o, c in pairs if c is not None], strict=True)
    inputs = [arguments[i] for i in plan.needed]
    found = grad(outputs, inputs, cotangents, create_graph=True)
    return dict(zip(plan.needed, found, strict=True))


# ---------------------------------------------------------------------------------------------
# The two ways in: `backward` fills the leaves' .grad, `grad` returns what was asked for

retaining: WeakValueDictionary[Any, Any] = WeakValueDictionary()  # place -> a result to be filled


def backward(
    output: Any, gradient: Any = None, retain_graph: bool | None = None, create_graph: bool = False
) -> None:
    """Add the derivative of this tensor to the `.grad` of every leaf it was computed from.

    `gradient` is the cotangent, of this tensor's shape; for a tensor of one element it is 1. The
    graph is released on the way unless `retain_graph`, which defaults to `create_graph`; with
    `create_graph` the gradients are recorded, and can be differentiated themselves.

    Raises
    ------
    GradientStateError, ValueError, TypeError
        As `mt.grad`. No `.grad` has changed then.
    """
    wanted = set(retaining) if retaining else set()
    arrivals = _start("backward", [output], [gradient], retain_graph, create_graph, wanted, None)
    arrivals.first.update({retaining[place]: c for place, c in arrivals.captured.items()})
    for arrived in (arrivals.first, arrivals.sums):
        for tensor, c in arrived.items():
            if not create_graph:
                # An array that anything else refers to, or a view, is not to be handed out.
                c = wrap(c.copy() if getrefcount(c) > _ALONE or c.base is not None else c)
            # Never added in place: a gradient that was handed out stays as it was.
            tensor.grad = c if tensor.grad is None else tensor.grad + c


def _references() -> int:
    arrived = {0: object()}
    for _, value in arrived.items():  # noqa: PERF102 (counted as `backward` holds it)
        count = getrefcount(value)
    return count


_ALONE = _references()


def grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> Any:
    """The derivatives of `outputs` with respect to `inputs`; no `.grad` is touched.

    Parameters
    ----------
    outputs, inputs
        A tensor each, or sequences of tensors. Inputs may be leaves, or results on the way.
    grad_outputs
        A cotangent for each output, of its shape; not needed for an output of one element.
    retain_graph
        Keep the graph for another pass. Defaults to `create_graph`.
    create_graph
        Record the backward pass too, so that the derivatives can be differentiated again.
    allow_unused
        Return None for an input that the outputs do not depend on, instead of raising.

    Returns
    -------
    Tensor or tuple of Tensor
        Of the shape and dtype of each input; a single tensor if `inputs` was one.

    Raises
    ------
    GradientStateError
        If an output was not recorded, an input needs no gradient or is not used, the graph was
        released, or an array that backward needs was changed in place.
    ValueError, TypeError
        If a cotangent is missing or does not fit its output.
    """
    results = []
    sources = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    ends = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
    given = grad_outputs if isinstance(grad_outputs, (tuple, list)) else [grad_outputs] * len(ends)
    for i, x in enumerate(sources):
        if not isinstance(x, Tensor) or not x.requires_grad:
            raise guards.needs_no_gradient(i)
    wanted = {x.place or x for x in sources}
    useful = _leading_to(wanted, ends)
    arrivals = _start("grad", ends, list(given), retain_graph, create_graph, wanted, useful)
    arrived = arrivals.captured
    arrived.update({x: arrivals.take(x, x.shape) for x in {x for x in sources if x.is_leaf}})
    for i, x in enumerate(sources):
        c = arrived.get(x.place or x)
        if c is None and not allow_unused:
            raise guards.not_used(i, x.shape)
        results.append(c if c is None or isinstance(c, Tensor) else wrap(c.copy()))
    return results[0] if isinstance(inputs, Tensor) else tuple(results)


def _start(
    who: str, outputs: Any, cotangents: Any, keep: Any, create: bool, wanted: Any, useful: Any
) -> _Arrivals:
    """Let the cotangents arrive at the outputs, and walk."""
    if len(cotangents) != len(outputs):
        raise guards.wrong_count(who, len(outputs), len(cotangents))
    arrivals = _Arrivals(create)
    for output, c in zip(outputs, cotangents, strict=True):
        if not isinstance(output, Tensor) or not output._requires_grad:
            raise guards.not_recorded(who, output)
        data = output.data
        xp = namespaces[data.__class__]
        if c is None and data.size == 1:
            c = xp.empty(data.shape, data.dtype)
            c[...] = 1
        else:
            guards.check_cotangent(who, _bare(c), output)
            if _bare(c).__class__ is not data.__class__:  # a number
                c = xp.asarray(c, dtype=data.dtype)
            elif c.dtype != data.dtype:
                c = astype(c, dtype=data.dtype)
        if create:
            c = c if isinstance(c, Tensor) else wrap(c)
        elif c.__class__ is not data.__class__:
            c = c.data
        arrivals.add(output.place or output, c)
    keep = create if keep is None else keep
    if create:
        with modes.enable_grad():
            _walk(arrivals, keep, wanted, useful)
            # Rules may have handed on what belongs to others: gradients get memory of their own.
            for found in (arrivals.first, arrivals.captured):
                for place in found:
                    found[place] = _here(_settled(found[place], _node_of(place).shape))
    else:
        _walk(arrivals, keep, wanted, useful)
    return arrivals


def _leading_to(wanted: set[Any], outputs: list[Any]) -> set[Any]:
    """The nodes behind the outputs from which a wanted place can be reached."""
    seen: set[Any] = set()
    stack = [_node_of(output.place) for output in outputs if isinstance(output, Tensor)]
    while stack:
        node = stack.pop()
        if node.__class__ is Node and node not in seen:
            seen.add(node)
            stack.extend([_node_of(place) for place in node.parents or ()])
    useful: set[Any] = set()
    for node in sorted(seen, key=lambda node: node.number):  # the past first
        # What a released node led to is not known any more; its turn raises the error for that.
        if node.parents is None or any(p in wanted or _node_of(p) in useful for p in node.parents):
            useful.add(node)
    return useful
