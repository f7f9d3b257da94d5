"""The array driver: all steps of a layer in a few array calls a step, on NumPy or CuPy.

Sizes: T steps, B sequences, I inputs, H hidden units, S of them in a block, N = H / S blocks, F
numbers that are fed back. Inside, arrays are (time, feature, batch), so
that what belongs to one gate at one step is one block of memory.

- What is fed back, the input and a one for the biases stand in one buffer [h; x; 1], so input
  product, recurrent product and biases of a step are a single matrix product.
- The cell itself is printed source (printing.py). In it a number of every unit is (N, S, B), and
  one of every block (N, 1, B); where S is 1 both are (H, B).
- Backward goes in stretches of steps that fit into the cache. For each the local Jacobian is
  evaluated at once, then the loop carries the cotangents through it; where no cotangent of the
  outputs arrives, a shorter loop. The gradients of all weights are one product for each block, of
  as many stretches as make that product long enough to be fast.

In a stack of K trials (see `nn.stack`) their batches stand side by side, (time, feature, K * B):
only the products, of which each trial has its own, know whose sequence is whose.

A `Plan` is the buffers for one set of sizes, and views into them. It belongs to one graph, by a
`Lease`, and waits for the next call of the same sizes when that graph goes. Nothing of it is ever
handed to the user. The direction matters only here: a reversed layer reads the flipped sequence.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from operator import is_
from typing import Any, NamedTuple

import numpy as np

from microtensor.backend import Array
from microtensor.capture import Captured
from microtensor.capture import xp as captured
from microtensor.recurrence.drivers.printing import Program, used

LONGEST = 64  # steps of a stretch, and of a block
PIECE = 16  # steps of an input that are transposed at once
CACHE = 1 << 21  # bytes of a stretch of steps: what surely stays in a core's cache
JOINED = 256  # columns of a product that is as fast as a longer one: steps of a block times B
SHORT = 2048  # numbers of a step; of fewer, what the Jacobian reads is first put in one piece
FEW = 8  # steps that are not worth writing the weights transposed
FADING = 8  # steps after which a state that may fade is looked at
LONG = 64  # sequences; with fewer, the steps of a block are joined for the weights' gradient
ROOMY = 1 << 16  # numbers of an output that is laid out as what comes next likes it
LINE = 64  # bytes of a cache line
WAITING = 1 << 28  # bytes of plans that may wait for their next call


class Call(NamedTuple):
    """What a driver must know of one call beside its arrays."""

    program: Any  # a Program; None where the cell runs step by step
    names: tuple[str, ...]  # of the weights, as they come behind the input and the states
    time: int  # the input's time axis, 0 or 1; in a stack 1 or 2
    reverse: bool
    mask: Array | None  # (B, F), on what is fed before its product
    valid: Array | None  # bool, which steps of which sequences there are: (T, B)
    recorded: bool  # whether a backward pass may come
    block_size: int = 1  # how many units share a gate that the cell has per block
    trials: int | None = None  # K, if every array has them as its first axis
    kept: dict[str, Any] | None = None  # a driver's notes, of a call that comes with new numbers


class Sizes(NamedTuple):
    """All that the buffers depend on."""

    program: Program
    xp: Any
    dtype: Any
    steps: int
    batch: int  # in a stack of all trials together
    inputs: int
    hidden: int
    block_size: int
    ones: bool
    masked: bool
    padded: bool
    recorded: bool
    trials: int | None = None


class Lease:
    """The right of one graph to a plan. When it goes, the plan waits for the next call."""

    __slots__ = ("_home", "plan")

    def __init__(self, plan: Any, home: list[Any]) -> None:
        self.plan, self._home = plan, home

    def __del__(self) -> None:
        self._home.append(self.plan)


_waiting: dict[Any, list[Any]] = {}


def take(make: Callable[[Any, Any], Any], program: Any, sizes: Any) -> Lease:
    """A plan that nobody uses, made if there is none."""
    home = _waiting.pop(sizes, None)
    _waiting[sizes] = home = [] if home is None else home  # now the youngest
    try:
        return Lease(home.pop(), home)
    except IndexError:
        _make_room()
        return Lease(make(program, sizes), home)


def empty(xp: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    """An array that begins with a cache line: what straddles lines is computed half as fast."""
    if xp is captured:
        return Captured(empty(np, shape, dtype))
    if xp is not np:
        return xp.empty(shape, dtype)
    size, dtype = math.prod(shape), np.dtype(dtype)
    memory = np.empty(size + LINE // dtype.itemsize, dtype)
    first = -memory.ctypes.data % LINE // dtype.itemsize
    return memory[first : first + size].reshape(shape)


def zeros(xp: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    """The same, of zeros."""
    if xp is captured:  # not noted: a plan is filled once, and not in every step
        return Captured(zeros(np, shape, dtype))
    found = empty(xp, shape, dtype)
    found[...] = 0
    return found


def _make_room() -> None:
    """Forget plans of other sizes if many bytes wait; those used longest ago first."""
    total = sum([plan.nbytes for plans in list(_waiting.values()) for plan in list(plans)])
    for sizes, plans in list(_waiting.items()):
        while total > WAITING and plans:
            total -= plans.pop().nbytes
        if not plans and len(_waiting) > 100:  # what is still leased of them will be forgotten
            _waiting.pop(sizes, None)


class Plan:
    """Buffers and views for calls of one set of sizes."""

    def __init__(self, program: Program, sizes: Sizes) -> None:
        self.program, self.sizes = program, sizes
        _, self.xp, dtype, T, B, I, H, S, *_ = sizes
        xp, cell = self.xp, program.cell
        self.fed = self.places([name in cell.of_blocks for name in cell.fed])
        self.F = F = self.fed[-1].stop if self.fed else 0
        self.features = F + I + sizes.ones
        self.hx = zeros(xp, (T + 1, self.features, B), dtype)
        if sizes.ones:
            self.hx[:, F + I] = 1
        depth = T if sizes.recorded else 1
        order = program.gate_order
        gates = self.places([name in cell.of_blocks for name in order])
        rows = gates[-1].stop
        beside = [slice(rows, rows + H) for _ in program.beside]  # one at most
        self.gate_rows = dict(zip(program.kept, [*gates, *beside], strict=True))
        self.forward_runs, self.backward_runs = self.runs(), self.runs(back=True)
        ends = [0, *[where.stop for where in gates]]
        self.halved = slice(0, ends[program.sigmoid_rows])
        self.bent = slice(0, ends[program.sigmoid_rows + program.tanh_rows])
        length = depth if program.keeps_gates else 1
        if program.beside:
            length = T + 1 if sizes.recorded else 2
        self.kept = zeros(xp, (length, rows + len(beside) * H, B), dtype)
        self.gates = self.kept[:, :rows]  # behind them, what is beside them
        values = self.places(list(program.stored.values()))
        self.value_rows = dict(zip(program.stored, values, strict=True))
        self.values = empty(xp, (depth, values[-1].stop if values else 0, B), dtype)
        self.state = {}
        for name in cell.state:
            if name in program.beside:
                self.state[name] = self.kept[:, self.gate_rows[name]]
            elif name in cell.fed and not sizes.masked:
                self.state[name] = self.hx[:, self.fed[cell.fed.index(name)]]
            else:
                length = T + 1 if sizes.recorded or name == cell.state[0] else 2
                self.state[name] = zeros(xp, (length, cell.width(name, H, S), B), dtype)
        trials = sizes.trials
        width = 1 if trials is None else B
        self.units = {name: empty(xp, (H, width), dtype) for name in cell.per_unit}
        dropped: Any = empty(xp, (F, B), dtype) if sizes.masked else None
        self.dropped = dropped
        self.over: Any = empty(xp, (T, B), bool) if sizes.padded else None
        self.weight = self.matrix(rows, self.features, across=T > FEW)
        self.product = self.multiplied_by(self.weight)
        self.space: dict[str, Any] = {name: getattr(xp, name) for name in OPERATIONS}
        self.space["sum"] = xp.add.reduce
        self.faint = xp.asarray(2.0**-80 if dtype.itemsize == 4 else 2.0**-920, dtype=dtype)
        self.space["faint"] = self.faint
        for (value, full), name in program.constants.items():
            number = xp.asarray(value, dtype=dtype)
            if full:
                number = empty(xp, self.shape(False), dtype)
                number[...] = value
            self.space[name] = number
        for name, kind in program.step_buffers.items():
            shape = self.shape(kind.startswith("few"))
            self.space[name] = empty(xp, shape, bool if kind.endswith("mask") else dtype)
        if program.joint:
            both = self.space["both"] = empty(xp, (2, *self.shape(False)), dtype)
            self.space["both0"], self.space["both1"] = both
        for name, unit in self.units.items():
            self.space[program.names[name]] = self.apart(unit, False)
        for i, name in enumerate(cell.fed if sizes.masked else ()):
            self.space[f"dropped{i}"] = self.apart(dropped[self.fed[i]], name in cell.of_blocks)
        self.halves = self.weight[..., self.halved, :]
        self.half = self.space[program.constants[0.5, False]] if program.sigmoid_rows else None
        # A function refers to its globals; were it one of them, plans would be garbage in a circle.
        self.forward = program.define(program.forward_of(sizes.masked, sizes.padded), self.space)
        names = program.forward_names(sizes.masked, sizes.padded)
        self.steps = [tuple([self._at(name, t) for name in names]) for t in range(T)]
        length = FADING if program.fades else T
        stops = [min(T, start + length) for start in range(0, T, length)]
        self.parts = [(stop, self.steps[(stop - 1) // length * length : stop]) for stop in stops]
        # What every call reads and writes of the states, and of the inputs, in pieces.
        states = self.state.values()
        self.first = [_of_layer(self.split(value[0])) for value in states]
        self.last = [_of_layer(self.split(value[T % len(value)])) for value in states]
        self.outputs = self.split(self.state[cell.state[0]][1:])
        pieces = [slice(t, min(T, t + PIECE)) for t in range(0, T, PIECE)]
        self.pieces = [(self.split(self.hx[piece, F : F + I]), piece) for piece in pieces]
        self._loaded: tuple[Array, ...] = ()
        self._copies: list[Any] = []
        self._sums: list[Any] = []
        self._back: dict[bool, Back] = {}
        arrays = [self.hx, self.kept, self.values, *self.state.values()]
        self.nbytes = sum([array.nbytes for array in arrays])

    def each(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of what every trial has of its own."""
        return shape if self.sizes.trials is None else (self.sizes.trials, *shape)

    def split(self, rows: Array) -> Array:
        """(..., B) with the batches of the trials apart, in a stack: (..., K, B / K), a view."""
        return _split(rows, self.sizes.trials)

    def factor(self, rows: Array) -> Array:
        """(..., rows, B) as a product takes it: in a stack (..., K, rows, B / K), a view."""
        return rows if self.sizes.trials is None else self.split(rows).swapaxes(-2, -3)

    def matrix(self, rows: int, columns: int, across: bool) -> Array:
        """Zeros for the weights of a product; column by column in memory, if `across`."""
        xp, dtype = self.xp, self.sizes.dtype
        if across and self.sizes.trials is None:  # BLAS takes a tenth less time for them
            return zeros(xp, (columns, rows), dtype).T
        return zeros(xp, self.each((rows, columns)), dtype)

    def multiplied_by(self, weight: Array) -> Any:
        """What multiplies by a weight, of each trial its own: (factor, where the result goes)."""
        if self.sizes.trials is None:
            return weight.dot
        matmul = self.xp.matmul
        return lambda rows, out: matmul(weight, rows, out=out)

    def shape(self, few: bool) -> tuple[int, ...]:
        """Of the numbers of one step, one for each unit, or `few`, one for each block."""
        H, S, B = self.sizes.hidden, self.sizes.block_size, self.sizes.batch
        return (H, B) if S == 1 else (H // S, 1 if few else S, B)

    def places(self, few: list[bool]) -> list[slice]:
        """Where in a buffer each of several values stands."""
        H, S = self.sizes.hidden, self.sizes.block_size
        ends = list(itertools.accumulate([H // S if one else H for one in few]))
        return [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]

    def apart(self, rows: Array, few: bool, several: int = 1) -> Array:
        """Rows (..., H, B) as the statements want them: a view with an axis for the blocks."""
        if self.sizes.block_size == 1 and several == 1:
            return rows
        H, S = self.sizes.hidden, self.sizes.block_size
        lengths = (H,) if S == 1 else (H // S, 1 if few else S)
        lengths = lengths if several == 1 else (several, *lengths)
        return rows.reshape(rows.shape[:-2] + lengths + rows.shape[-1:])

    def _at(self, name: str, t: int) -> Array:
        """The array that a variable of the forward source stands for at step t."""
        program, of_blocks = self.program, self.program.cell.of_blocks
        z = self.gates[t % len(self.gates)]
        if name == "hx":
            return self.factor(self.hx[t])
        if name == "z":
            return self.factor(z)
        if name in ("zt", "zs"):
            return z[self.bent if name == "zt" else self.halved]
        if name.startswith("seen"):
            at = int(name[4:])
            part = self.hx[t + 1, self.fed[at]]
            return self.apart(part, program.cell.fed[at] in of_blocks)
        if name == "over":
            return self.over[t]
        view = program.views[name]
        if view.buffer == "kept":
            first = self.gate_rows[view.name].start
            rows = slice(first, first + 2 * self.sizes.hidden)
            return self.apart(self.kept[t % len(self.kept), rows], False, 2)
        if view.buffer == "gates":
            return self.apart(z[self.gate_rows[view.name]], view.name in of_blocks)
        if view.buffer == "values":
            value = self.values[t % len(self.values), self.value_rows[view.name]]
            return self.apart(value, program.stored[view.name])
        state = self.state[view.name]
        return self.apart(state[(t + view.later) % len(state)], view.name in of_blocks)

    def of_block(self, name: str, start: int, stop: int) -> Array:
        """The array that a variable of the Jacobian stands for in a stretch of steps."""
        view = self.program.views[name]
        few = view.name in self.program.cell.of_blocks
        if view.buffer == "gates":
            return self.apart(self.gates[start:stop, self.gate_rows[view.name]], few)
        if view.buffer == "values":
            rows = self.values[start:stop, self.value_rows[view.name]]
            return self.apart(rows, self.program.stored[view.name])
        if view.buffer == "unit":
            return self.apart(self.units[view.name], False)
        return self.apart(self.state[view.name][start + view.later : stop + view.later], few)

    def back(self, inputs: bool) -> Back:
        """The buffers of a backward pass, made when first needed."""
        found = self._back.get(inputs)
        if found is None:
            found = self._back[inputs] = Back(self, inputs)
            self.nbytes += found.nbytes
        return found

    def run(self) -> None:
        """All steps forward."""
        for stop, steps in self.parts:
            self.forward(steps, self.product)
            if self.program.fades:
                for state in self.state.values():
                    self.flush(state[stop % len(state)])

    def flush(self, c: Array) -> None:
        """Set to zero what is vanishingly small, below 1e-31 (float64: 1e-292).

        What fades over many steps, a cotangent or the state of a unit that its ReLU has switched
        off, would end among the subnormal numbers, which some processors multiply a hundred times
        as slowly.
        """
        self.xp.add(c, self.faint, out=c)
        self.xp.subtract(c, self.faint, out=c)

    def runs(self, back: bool = False) -> list[tuple[slice, slice, slice | None, str]]:
        """Runs of gates: their rows here, in the weights, in the biases; and their kind.

        Here is `weight`, or the cotangents of the gates if `back`.
        """
        program, cell = self.program, self.program.cell
        found = []
        names = program.gate_rows if back else program.gate_order
        ours, theirs, biased = [
            dict(zip(some, self.places([name in cell.of_blocks for name in some]), strict=True))
            for some in (names, cell.gates, cell.biased)
        ]
        for run in program.back_runs if back else program.runs:
            rows = slice(ours[run.names[0]].start, ours[run.names[-1]].stop)
            of_weights = slice(theirs[run.gates[0]].start, theirs[run.gates[-1]].stop)
            of_biases = None
            if run.biased:
                of_biases = slice(biased[run.gates[0]].start, biased[run.gates[-1]].stop)
            found.append((rows, of_weights, of_biases, run.kind))
        return found

    def load(self, names: tuple[str, ...], weights: tuple[Array, ...]) -> None:
        """Put the weights into one matrix beside [h; x; 1], rows of sigmoids halved."""
        if not _same(weights, self._loaded):
            self._copies, self._sums = self._loads(dict(zip(names, weights, strict=True)))
            self._loaded = weights
        for target, source in self._copies:
            target[...] = source
        add = self.xp.add
        for target, one, other in self._sums:
            add(one, other, target)
        if self.half is not None:
            self.xp.multiply(self.halves, self.half, self.halves)

    def _loads(self, weights: dict[str, Array]) -> tuple[list[Any], list[Any]]:
        """What `load` copies and adds: views that last as long as the arrays do."""
        weight, F, I = self.weight, self.F, self.sizes.inputs
        copies: list[Any] = []
        sums: list[Any] = []
        for rows, theirs, of_biases, kind in self.forward_runs:
            if kind != "x":
                copies.append((weight[..., rows, :F], weights["weight_hh"][..., theirs, :]))
            if kind != "h":
                copies.append((weight[..., rows, F : F + I], weights["weight_ih"][..., theirs, :]))
            names = {"x": ("bias_ih",), "h": ("bias_hh",)}.get(kind, ("bias_ih", "bias_hh"))
            biases = [weights[n][..., of_biases] for n in names if n in weights and of_biases]
            if self.sizes.ones:
                biases = biases or [0]
                (copies if len(biases) == 1 else sums).append((weight[..., rows, -1], *biases))
        for name, unit in self.units.items():
            copies.append((self.split(unit), weights[name].T[..., None]))
        return copies, sums


OPERATIONS = (
    *("add", "subtract", "multiply", "divide", "negative", "power", "maximum", "minimum"),
    *("tanh", "exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "sign", "absolute"),
    *("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"),
    *("logical_and", "logical_or", "logical_not", "copyto"),
)


class Stretch(NamedTuple):
    """Steps whose Jacobian is evaluated at once, and views of it."""

    start: int
    stop: int
    at: int  # where its first step stands in its block
    taken: list[tuple[Array, Array]]  # what is copied before: where to, where from
    jacobian: list[Array]
    cotangent: Array
    inputs: Array  # where their gradient arises
    fading: bool  # whether it is time to look at what goes on from here


class Block(NamedTuple):
    """Stretches, the last one first, whose gradients of the weights are one product."""

    start: int
    stop: int
    stretches: list[Stretch]


class Way:
    """The loop backward, with or without a cotangent of the outputs, and what it works on."""

    def __init__(self, plan: Plan, back: Back, output: bool) -> None:
        program, sizes = plan.program, plan.sizes
        way = (output, sizes.masked, sizes.padded, sizes.block_size > 1)
        loop = self.loop = program.loop_of(*way)
        whole = not program.carried  # buffers last a stretch of steps
        names = {
            *program.constants.values(),
            *[f"dropped{i}" for i in range(len(program.cell.fed))],
        }
        space = {n: plan.space[n] for n in (*OPERATIONS, "sum", "faint", *names) if n in plan.space}
        self.walk = program.define(program.loop_source(*way), space)
        self.around = {}
        for name in ("before", "after") if whole else ():
            self.around[name] = program.define(program.block_source(name, *way), space)
        self.scratch = {}
        for name, few in loop.buffers.items():
            shape = plan.shape(few)
            shape = (back.stretch, *shape) if whole else shape
            self.scratch[name] = empty(plan.xp, shape, sizes.dtype)
        self.variables = program.loop_variables(loop)
        self.names = used(loop.inside, self.variables)
        self.steps: dict[Any, list[tuple[Any, ...]]] = {}  # of a stretch, the last one first


class Back:
    """What a backward pass needs beside the plan.

    The Jacobian is there for C steps at once, a stretch, what arises of it for a block of
    stretches, `length` steps.
    """

    def __init__(self, plan: Plan, inputs: bool, length: int | None = None) -> None:
        program, sizes, xp = plan.program, plan.sizes, plan.xp
        _, _, dtype, T, B, I, H, _, _, _, padded, *_ = sizes
        of_blocks = program.cell.of_blocks
        blocks = len(program.jacobian_rows) + len(program.rows) + len(program.views) + 2
        blocks += len(program.jacobian_buffers)
        longest = min(T, LONGEST, CACHE // (blocks * H * B * dtype.itemsize))
        C = self.stretch = max(1, longest) if length is None else length
        several = max(1, min(T, LONGEST, JOINED // B) // C) if program.carried else 1
        W = self.length = C * several if length is None else length
        self.program, self.sizes, self.inputs = program, sizes, inputs
        self.row_of = plan.places([name in of_blocks for name in program.rows])
        self.ends = [where.stop * C * B for where in plan.places(program.jacobian_rows)]
        self.jacobian = empty(xp, (self.ends[-1],), dtype)  # (C, H, B) of one entry after another
        # A call on rows of many short steps takes several times as long as on a single long array.
        self.taken: Any = None
        if C > 1 and sizes.block_size == 1 and H * B < SHORT:
            read = len(program.kept) + len(program.jacobian_names)
            self.taken = empty(xp, (read, C, H, B), dtype)
        self.rows = zeros(xp, (W + 1, self.row_of[-1].stop, B), dtype)
        self.cotangent = empty(xp, (C, H, B), dtype)
        self.start = [
            empty(xp, (plan.fed[i].stop - plan.fed[i].start, B), dtype)
            for i in range(len(program.carried))
        ]
        self.temporary = [
            empty(xp, (C, *plan.shape(kind.startswith("few"))), bool if "mask" in kind else dtype)
            for kind in program.jacobian_buffers.values()
        ]
        # The cotangents by name; those of the gates; those of the gates that the product takes.
        self.own = {
            name: self.rows[:, at] for name, at in zip(program.rows, self.row_of, strict=True)
        }
        last = program.gates_at + len(program.gate_rows)
        low, high = (program.gates_at, last) if inputs else program.heard
        self.gates = slice(self.row_of[program.gates_at].start, self.row_of[last - 1].stop)
        self.low, self.high = self.row_of[low].start, self.row_of[high - 1].stop
        self.columns = self._columns(plan)
        self.F = plan.F if program.carried else 0
        height = self.F + I if inputs else self.F
        self.weight = plan.matrix(height, self.high - self.low, across=True)
        self.product = plan.multiplied_by(self.weight)
        self.dhx = empty(xp, (C, height, B), dtype)
        self.valid: Any = empty(xp, (T, 1, B), dtype) if padded else None
        self.padding: Any = empty(xp, (T, 1, B), dtype) if padded else None
        space = {n: plan.space[n] for n in (*OPERATIONS, *program.constants.values())}
        self.jacobian_of = program.define(program.jacobian_source(), space)
        self._ways: dict[bool, Way] = {}
        # What carries the cotangents into the last step, and out of the first.
        n = T - (T - 1) // W * W
        start = dict(zip(program.carried, self.start, strict=True))
        self.flowing = [plan.apart(d, name in of_blocks) for name, d in start.items()]
        self.last = [
            _of_layer(plan.split(start[name] if name in start else self.own[name][n]))
            for name in program.cell.state
        ]
        self.blocks = [self._block(plan, start) for start in range((T - 1) // W * W, -1, -W)]
        self._loaded: tuple[Array, ...] = ()
        self._copies: list[Any] = []
        self.total = _Weights(plan, self)
        arrays = [self.jacobian, self.rows, self.dhx, *self.temporary, self.cotangent]
        arrays += [] if self.taken is None else [self.taken]
        arrays += [self.total.total, self.total.share, *(self.total.joined or ())]
        self.nbytes = sum([array.nbytes for array in arrays])

    def _block(self, plan: Plan, start: int) -> Block:
        stop, C = min(plan.sizes.steps, start + self.length), self.stretch
        stretches = []
        for first in range(start + (stop - start - 1) // C * C, start - 1, -C):
            last = min(stop, first + C)
            n = last - first
            stretches.append(
                Stretch(
                    *(first, last, first - start),
                    *self._taken(plan, first, last),
                    plan.split(self.cotangent[:n]),
                    plan.split(self.dhx[:n, self.F :]),
                    0 < first // FADING != last // FADING,
                )
            )
        return Block(start, stop, stretches)

    def way(self, plan: Plan, output: bool) -> Way:
        """The loop with or without a cotangent of the outputs, made when first needed."""
        found = self._ways.get(output)
        if found is None:
            found = self._ways[output] = Way(plan, self, output)
        return found

    def _views(self, plan: Plan, way: Way, names: list[str], k: Any, t: Any) -> tuple[Any, ...]:
        """The arrays of variables of the loop: in step k of a block, or in several steps."""
        found = []
        program, of_blocks = self.program, self.program.cell.of_blocks
        several = isinstance(k, slice)
        after = slice(k.start + 1, k.stop + 1) if several else k + 1
        within = slice(0, k.stop - k.start) if several else k % self.stretch  # in its stretch
        for kind, *at in [way.variables[name] for name in names]:
            if kind in ("J", "D"):
                first, last = at[0], at[1]
                if kind == "J":
                    entries = self.entries(plan, first, last)[:, within]
                    found.append(entries[0] if last - first == 1 else entries)
                else:
                    few = program.rows[first] in of_blocks
                    rows = slice(self.row_of[first].start, self.row_of[last - 1].stop)
                    array = self.rows[after if len(at) > 2 else k, rows]
                    found.append(plan.apart(array, few, last - first))
            elif kind == "g":
                found.append(plan.apart(self.cotangent[within], False))
            elif kind == "part":
                found.append(way.scratch[at[0]][within])
            elif kind == "dz":
                found.append(plan.factor(self.rows[k, self.low : self.high]))
            elif kind == "dhx":
                found.append(plan.factor(self.dhx[within]))
            elif kind == "fed":
                name = program.carried[at[0]]
                found.append(plan.apart(self.dhx[within, plan.fed[at[0]]], name in of_blocks))
            else:
                truths: Any = self.padding if kind == "over" else self.valid
                truths = truths[t]
                found.append(truths[:, None] if self.sizes.block_size > 1 else truths)
        return tuple(found)

    def steps_of(self, plan: Plan, way: Way, start: int, stop: int) -> list[tuple[Any, ...]]:
        """The steps of a stretch, the last one first."""
        # Unless sequences end at times of their own, the views are those of any other block.
        key = (start if self.sizes.padded else start % self.length, stop - start)
        found = way.steps.get(key)
        if found is None:
            at = start % self.length - start
            found = way.steps[key] = [
                self._views(plan, way, way.names, t + at, t) for t in reversed(range(start, stop))
            ]
        return found

    def entries(self, plan: Plan, first: int, last: int) -> Array:
        """Some entries of the Jacobian, (entries, C, H, B), or with an axis for the blocks."""
        memory = self.jacobian[self.ends[first - 1] if first else 0 : self.ends[last - 1]]
        shape = plan.shape(self.program.jacobian_rows[first])
        return memory.reshape(last - first, self.stretch, *shape)

    def jacobian_views(self, plan: Plan, start: int, stop: int, at: int = 0) -> list[Array]:
        """The arrays of the Jacobian's variables for some steps, put at a place in the stretch."""
        n = stop - start
        found = []
        for name in self.program.jacobian_names:
            if name in self.program.views:
                found.append(plan.of_block(name, start, stop))
            else:
                j = int(name[1:])
                found.append(self.entries(plan, j, j + 1)[0, at : at + n])
        return found + [buffer[:n] for buffer in self.temporary]

    def _taken(self, plan: Plan, start: int, stop: int) -> tuple[list[Any], list[Array]]:
        """The same, and what is copied before, so that of each variable all is in one piece."""
        arrays = self.jacobian_views(plan, start, stop)
        copies: list[Any] = []
        if self.taken is None:
            return copies, arrays
        kept, n, unit = self.program.kept, stop - start, plan.shape(False)
        views = [self.program.views.get(name) for name in self.program.jacobian_names]
        rows = {view.name for view in views if view is not None} & set(kept)
        together = len(rows) > len(kept) // 2  # else one by one
        if together:
            source = plan.kept[start:stop].reshape(n, len(kept), *unit).swapaxes(0, 1)
            copies.append((self.taken[: len(kept), :n], source))
        for i, view in enumerate(views):
            if view is None:
                continue
            if together and view.name in kept and not view.later:
                arrays[i] = self.taken[kept.index(view.name), :n]
            elif view.name in kept or view.name in self.program.cell.fed:
                copy = self.taken[len(kept) + i, :n]
                copies.append((copy, arrays[i]))
                arrays[i] = copy
        return copies, arrays

    def walk(
        self,
        plan: Plan,
        way: Way,
        steps: list[tuple[Any, ...]],
        times: slice,
        carried: list[Array],
        product: Any,
    ) -> list[Array]:
        """Take the cotangents through a stretch of steps, the last one first."""
        first = times.start % self.length
        if self.program.carried:
            length = FADING if self.program.fades else len(steps)
            for k in range(0, len(steps), length):
                if k:
                    self.flush(plan, first + len(steps) - k, carried)
                part = steps[k : k + length]
                carried = way.walk(part, product, *carried, *way.scratch.values())
            return carried
        several = slice(first, first + times.stop - times.start)
        before, inside, after, *_ = way.loop
        names = used(before, way.variables)
        way.around["before"](*self._views(plan, way, names, several, times))
        if inside:
            way.walk(steps)
        names = used(after, way.variables)
        way.around["after"](*self._views(plan, way, names, several, times))
        return carried

    def hand_over(self, plan: Plan, n: int, carried: list[Array]) -> None:
        """After a block of n steps: what goes on to the block before."""
        for own in self._kept():
            own[self.length] = own[0]
            if n < self.length:
                own[n] = 0

    def flush(self, plan: Plan, k: int, carried: list[Array]) -> None:
        """What step k of the block hands to the step before."""
        for d in (*carried, *[own[k] for own in self._kept()]):
            plan.flush(d)

    def _kept(self) -> list[Array]:
        """The cotangents of those values of the state that are not carried by the product."""
        kept = [name for name in self.program.cell.state if name not in self.program.carried]
        return [self.own[name] for name in kept]

    def _columns(self, plan: Plan) -> list[tuple[slice, slice, str]]:
        """Runs of gates: their columns in `weight`, their rows in the weights, and their kind."""
        found = []
        for rows, theirs, _, kind in plan.backward_runs:
            start = rows.start + self.gates.start
            low, high = max(start, self.low), min(rows.stop + self.gates.start, self.high)
            if low < high:
                columns = slice(low - self.low, high - self.low)
                theirs = slice(low + theirs.start - start, high + theirs.start - start)
                found.append((columns, theirs, kind))
        return found

    def load(self, names: tuple[str, ...], weights: tuple[Array, ...]) -> None:
        """The weights transposed, rows in the order of the cotangents."""
        if not _same(weights, self._loaded):
            self._copies = self._loads(dict(zip(names, weights, strict=True)))
            self._loaded = weights
        for target, source in self._copies:
            target[...] = source

    def _loads(self, weights: dict[str, Array]) -> list[Any]:
        """What `load` copies: views that last as long as the arrays do."""
        w_ih, w_hh, F = weights["weight_ih"], weights["weight_hh"], self.F
        copies = []
        for columns, theirs, kind in self.columns:
            if kind != "x" and F:
                source = w_hh[..., theirs, :].swapaxes(-1, -2)
                copies.append((self.weight[..., :F, columns], source))
            if self.inputs and kind != "h":
                source = w_ih[..., theirs, :].swapaxes(-1, -2)
                copies.append((self.weight[..., F:, columns], source))
        return copies


# ---------------------------------------------------------------------------------------------
# The two passes


def _split(rows: Array, trials: int | None) -> Array:
    """(..., B) with the batches of K trials apart: (..., K, B / K), a view."""
    if trials is None:
        return rows
    return rows.reshape(*rows.shape[:-1], trials, rows.shape[-1] // trials)


def _same(some: tuple[Array, ...], others: tuple[Array, ...]) -> bool:
    """Whether these are the very same arrays."""
    return len(some) == len(others) and all(map(is_, some, others))


def _inside(value: Array, time: int, reverse: bool) -> Array:
    """The user's (T, B, ·) or (B, T, ·) as (T, ·, B) in the order of processing: a view.

    In a stack (K, T, B, ·) or (K, B, T, ·) as (T, ·, K, B).
    """
    if value.ndim == 4:
        value = value.transpose((1, 3, 0, 2) if time == 1 else (2, 3, 0, 1))
    else:
        value = value.transpose((0, 2, 1) if time == 0 else (1, 2, 0))
    return value[::-1] if reverse else value


def _outside(value: Array, time: int) -> Array:
    """(T, ·, B) as the user's (T, B, ·) or (B, T, ·), and likewise in a stack: a view."""
    if value.ndim == 4:
        return value.transpose((2, 0, 3, 1) if time == 1 else (2, 3, 0, 1))
    return value.transpose((0, 2, 1) if time == 0 else (2, 0, 1))


def _laid_out(value: Array, time: int) -> Array:
    """A copy of all outputs, as the user's. Next, features are mixed of all steps at once.

    Then they lie best apart, (·, T, B), or together, as the user sees them; what takes less time
    to write is chosen. Where there are many, moving them at all would take longest.
    """
    if value.size > ROOMY:
        return _outside(value.copy(), time)
    if value.ndim == 3 and value.shape[1] <= value.shape[2]:
        apart = value.transpose(1, 0, 2).copy()
        return _outside(apart.transpose(1, 0, 2), time)
    return _outside(value, time).copy()


def _first_last(value: Array) -> Array:
    """(B, ·) as (·, B), or in a stack (K, B, ·) as (·, K, B): a view."""
    return value.T if value.ndim == 2 else value.transpose(2, 0, 1)


def _of_layer(value: Array) -> Array:
    """(H, B) as the state (1, B, H), or in a stack (H, K, B) as (K, 1, B, H): a view."""
    value = value.T if value.ndim == 2 else value.transpose(1, 2, 0)
    return value[..., None, :, :]


def _steps_first(valid: Array, reverse: bool) -> Array:
    """(T, B), or in a stack (K, T, B) as (T, K, B), in the order of processing: a view."""
    valid = valid if valid.ndim == 2 else valid.swapaxes(0, 1)
    return valid[::-1] if reverse else valid


def forward(xp: Any, arrays: tuple[Array, ...], call: Call) -> tuple[tuple[Array, ...], Lease]:
    """The output and the final state, and the lease of the plan that backward will need."""
    program = call.program
    count = 1 + len(program.cell.state)
    x = arrays[0]
    T, I, H = x.shape[call.time], x.shape[-1], arrays[1].shape[-1]
    masked, padded = call.mask is not None, call.valid is not None
    sizes = Sizes(
        *(program, xp, x.dtype, T, x.size // (T * I), I, H, call.block_size),
        *("bias_ih" in call.names, masked, padded, call.recorded, call.trials),
    )
    lease = take(Plan, program, sizes)
    plan = lease.plan
    plan.load(call.names, arrays[count:])
    inputs = _inside(x, call.time, call.reverse)
    for target, piece in plan.pieces:  # transposed in pieces that stay in the cache
        target[...] = inputs[piece]
    for target, value in zip(plan.first, arrays[1:count], strict=True):
        target[...] = value
    if call.mask is not None:
        plan.split(plan.dropped)[...] = _first_last(call.mask)
        for name, rows in zip(program.cell.fed, plan.fed, strict=True):
            xp.multiply(plan.state[name][0], plan.dropped[rows], out=plan.hx[0, rows])
    if call.valid is not None:
        plan.split(plan.over)[...] = xp.logical_not(_steps_first(call.valid, call.reverse))
    plan.run()
    outputs = plan.outputs[::-1] if call.reverse else plan.outputs
    return (_laid_out(outputs, call.time), *[value.copy() for value in plan.last]), lease


def backward(
    g: tuple[Any, ...], needs: tuple[bool, ...], arrays: tuple[Array, ...], lease: Lease, call: Call
) -> list[Any]:
    """A gradient for each array that needs one; `g` has None for a result that nothing used."""
    plan, program = lease.plan, call.program
    xp, count = plan.xp, 1 + len(program.cell.state)
    weights = arrays[count:]
    back = plan.back(needs[0])
    back.load(call.names, weights)
    if call.valid is not None:
        plan.split(back.valid[:, 0])[...] = _steps_first(call.valid, call.reverse)
        xp.subtract(1, back.valid, out=back.padding)
    for target, c in zip(back.last, g[1:], strict=True):
        target[...] = 0 if c is None else c
    cotangents = None if g[0] is None else _inside(g[0], call.time, call.reverse)
    total = back.total
    total.begin(call.names, needs[count:])
    inner: Any = None
    outer: Any = None
    if needs[0]:
        outer = xp.empty_like(arrays[0])
        inner = _inside(outer, call.time, call.reverse)
    flowing = back.flowing
    for block in back.blocks:
        for start, stop, at, taken, jacobian, cotangent, of_inputs, fading in block.stretches:
            for target, source in taken:
                target[...] = source
            back.jacobian_of(*jacobian)
            part = None if cotangents is None else cotangents[start:stop]
            heard = part is not None and not (xp is np and _silent(part))
            if heard:
                cotangent[...] = part
            way = back.way(plan, heard)
            steps = back.steps_of(plan, way, start, stop)
            flowing = back.walk(plan, way, steps, slice(start, stop), flowing, back.product)
            if fading:
                back.flush(plan, at, flowing)
            if inner is not None:
                if not program.carried:  # else the loop has it
                    rows, dhx = back.rows[at : at + stop - start, back.gates], back.dhx
                    dhx = plan.factor(dhx[: stop - start])
                    xp.matmul(back.weight, plan.factor(rows), out=dhx)
                inner[start:stop] = of_inputs
        total.add(block)
        if block.start:
            back.hand_over(plan, block.stop - block.start, flowing)
    first: list[Any] = []
    last = dict(zip(program.carried, flowing, strict=True))
    for name, need in zip(program.cell.state, needs[1:count], strict=True):
        d = None
        if need:
            own = back.own[name][0]
            d = _of_layer(plan.split(last[name].reshape(own.shape) if name in last else own)).copy()
        first.append(d)
    return [outer, *first, *total.gradients(weights)]


def _silent(cotangents: Array) -> bool:
    """Whether no cotangent of some outputs is anything but zero: a look at the first one tells."""
    return not cotangents.item(0) and not cotangents.any()


class _Weights:
    """The gradients of the weights: of the matrix beside [h; x; 1] a product for each block."""

    def __init__(self, plan: Plan, back: Back) -> None:
        # Not the plan itself, to which this belongs: it would be garbage in a circle.
        self.xp, self.hx, self.rows = plan.xp, plan.hx, back.rows[:, back.gates]
        self.trials = plan.sizes.trials
        W, (_, height, B), width = back.length, self.rows.shape, plan.features
        xp, dtype, shape = plan.xp, plan.sizes.dtype, plan.each((height, width))
        self.total, self.share = empty(xp, shape, dtype), empty(xp, shape, dtype)
        self.joined: Any = None  # the steps of a block side by side, for one long product
        if 1 < B < LONG and W > 1 and self.trials is None:
            self.joined = empty(xp, (height, W, B), dtype), empty(xp, (width, W, B), dtype)
        self.units = {name: back.own[name] for name in plan.units}
        F, I = plan.F, plan.sizes.inputs
        # Of each weight and bias: pieces in the user's order of rows, and where they are here.
        self.pieces: dict[str, list[tuple[Any, Array]]] = {}
        for name, columns, other in (
            ("weight_hh", slice(0, F), "x"),
            ("weight_ih", slice(F, F + I), "h"),
            ("bias_hh", -1, "x"),
            ("bias_ih", -1, "h"),
        ):
            pieces = self.pieces[name] = []
            for rows, of_weights, of_biases, kind in plan.backward_runs:
                theirs = of_biases if columns == -1 else of_weights
                if kind != other and theirs is not None:
                    at = (..., theirs) if columns == -1 else (..., theirs, slice(None))
                    pieces.append((at, self.total[..., rows, columns]))

    def begin(self, names: tuple[str, ...], needs: tuple[bool, ...]) -> None:
        """Forget what was added up, and hear what is wanted."""
        self.begun, self.names, self.needs = False, names, needs
        self.sums: dict[str, Any] = {}
        product = [need and name in self.pieces for name, need in zip(names, needs, strict=True)]
        self.product = any(product)

    def add(self, block: Block) -> None:
        """Of the steps that have just been walked."""
        start, stop = block.start, block.stop
        xp, K, n = self.xp, self.trials, stop - start
        for name, own in self.units.items():
            share = xp.add.reduce(_split(own[:n], K), (0, -1)).T
            self.sums[name] = self.sums[name] + share if self.begun else share
        if self.product:
            self._multiply(self.rows[:n], self.hx[start:stop])
        self.begun = True

    def _multiply(self, rows: Array, hx: Array) -> None:
        xp, K, n = self.xp, self.trials, len(rows)
        out = self.share if self.begun else self.total
        if K is not None:
            of_trials = _split(rows, K).transpose(2, 1, 0, 3).reshape(K, rows.shape[1], -1)
            seen = _split(hx, K).transpose(2, 0, 3, 1).reshape(K, -1, hx.shape[1])
            xp.matmul(of_trials, seen, out=out)
        elif hx.shape[2] == 1:
            rows[:, :, 0].T.dot(hx[:, :, 0], out)
        elif n == 1:
            rows[0].dot(hx[0].T, out)
        elif self.joined is not None:
            ours, theirs = [joined[:, :n] for joined in self.joined]
            ours[...], theirs[...] = rows.transpose(1, 0, 2), hx.transpose(1, 0, 2)
            ours.reshape(len(ours), -1).dot(theirs.reshape(len(theirs), -1).T, out)
        else:
            xp.add.reduce(xp.matmul(rows, hx.transpose(0, 2, 1)), 0, None, out)
        if self.begun:
            xp.add(self.total, self.share, self.total)

    def gradients(self, weights: tuple[Array, ...]) -> list[Any]:
        """Of each weight and bias, in the user's order of rows, in memory of its own."""
        found: list[Any] = []
        for name, weight, need in zip(self.names, weights, self.needs, strict=True):
            if not need:
                found.append(None)
            elif name in self.units:
                found.append(self.sums[name])
            else:
                gradient = self.xp.empty(weight.shape, self.total.dtype)
                for at, piece in self.pieces[name]:
                    gradient[at] = piece
                found.append(gradient)
        return found
