"""The array driver: all steps of a layer in a few array calls a step, on NumPy or CuPy.

Sizes: T steps, B sequences, I inputs, H hidden units. Inside, arrays are (time, feature, batch), so
that what belongs to one gate at one step is one block of memory.

- h, the input and a one for the biases stand in one buffer [h; x; 1], so input product, recurrent
  product and biases of a step are a single matrix product.
- The cell itself is printed source (printing.py).
- Backward goes in blocks of steps that fit into the cache. For each the local Jacobian is evaluated
  at once, then the loop carries the cotangents through it. The gradients of all weights are one
  product for each block.

A `Plan` is the buffers for one set of sizes, and views into them. It belongs to one graph, by a
`Lease`, and waits for the next call of the same sizes when that graph goes. Nothing of it is ever
handed to the user. The direction matters only here: a reversed layer reads the flipped sequence.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from microtensor.backend import Array
from microtensor.recurrence.drivers.printing import Program

LONGEST = 64  # steps of a block
PIECE = 16  # steps of an input that are transposed at once
CACHE = 1 << 20  # bytes of a block of steps: what surely stays in a core's cache
WAITING = 1 << 28  # bytes of plans that may wait for their next call


class Call(NamedTuple):
    """What a driver must know of one call beside its arrays."""

    program: Any  # a Program; None where the cell runs step by step
    names: tuple[str, ...]  # of the weights, as they come behind the input and the states
    time: int  # the input's time axis, 0 or 1
    reverse: bool
    mask: Array | None  # (B, H), on h before its product
    valid: Array | None  # bool, which steps of which sequences there are: (T, B)
    recorded: bool  # whether a backward pass may come


class Sizes(NamedTuple):
    """All that the buffers depend on."""

    program: Program
    xp: Any
    dtype: Any
    steps: int
    batch: int
    inputs: int
    hidden: int
    ones: bool
    masked: bool
    padded: bool
    recorded: bool


class Lease:
    """The right of one graph to a plan. When it goes, the plan waits for the next call."""

    __slots__ = ("_home", "plan")

    def __init__(self, plan: Plan, home: list[Plan]) -> None:
        self.plan, self._home = plan, home

    def __del__(self) -> None:
        self._home.append(self.plan)


_waiting: dict[Sizes, list[Plan]] = {}


def take(program: Program, sizes: Sizes) -> Lease:
    """A plan that nobody uses, made if there is none."""
    home = _waiting.pop(sizes, None)
    _waiting[sizes] = home = [] if home is None else home  # now the youngest
    try:
        return Lease(home.pop(), home)
    except IndexError:
        _make_room()
        return Lease(Plan(program, sizes), home)


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
        _, self.xp, dtype, T, B, I, H, *_ = sizes
        xp, cell = self.xp, program.cell
        self.features = H + I + sizes.ones
        self.hx = xp.zeros((T + 1, self.features, B), dtype)
        if sizes.ones:
            self.hx[:, H + I] = 1
        depth = T if sizes.recorded else 1
        rows = len(program.gate_order)
        self.gates = xp.empty((depth if program.keeps_gates else 1, rows, H, B), dtype)
        self.values = xp.empty((depth, len(program.stored), H, B), dtype)
        self.state = {}
        for name in cell.state:
            is_h = name == cell.state[0]
            if is_h and not sizes.masked:
                self.state[name] = self.hx[:, :H]
            else:
                length = T + 1 if sizes.recorded or is_h else 2
                self.state[name] = xp.zeros((length, H, B), dtype)
        self.units = {name: xp.empty((H, 1), dtype) for name in cell.per_unit}
        self.dropped: Any = xp.empty((H, B), dtype) if sizes.masked else None
        self.over: Any = xp.empty((T, B), bool) if sizes.padded else None
        self.weight = xp.zeros((rows * H, self.features), dtype)
        self.space: dict[str, Any] = {name: getattr(xp, name) for name in OPERATIONS}
        for (value, full), name in program.constants.items():
            number = xp.asarray(value, dtype=dtype)
            if full:
                number = xp.empty((H, B), dtype)
                number[...] = value
            self.space[name] = number
        for i in range(program.step_buffers):
            self.space[f"t{i}"] = xp.empty((H, B), dtype)
        for i in range(program.step_masks):
            self.space[f"mask{i}"] = xp.empty((H, B), bool)
        for name, unit in self.units.items():
            self.space[program.names[name]] = unit
        # A function refers to its globals; were it one of them, plans would be garbage in a circle.
        self.forward = program.define(program.forward_of(sizes.masked, sizes.padded), self.space)
        names = program.forward_names(sizes.masked, sizes.padded)
        self.steps = [tuple([self._at(name, t) for name in names]) for t in range(T)]
        self.faint = xp.asarray(2.0**-80 if dtype.itemsize == 4 else 2.0**-920, dtype=dtype)
        self._back: dict[Any, Back] = {}
        arrays = [self.hx, self.gates, self.values, *self.state.values()]
        self.nbytes = sum([array.nbytes for array in arrays])

    def _at(self, name: str, t: int) -> Array:
        """The array that a variable of the forward source stands for at step t."""
        program, H = self.program, self.sizes.hidden
        z = self.gates[t % len(self.gates)]
        tanhs, both = program.tanh_rows, program.tanh_rows + program.sigmoid_rows
        if name == "hx":
            return self.hx[t]
        if name == "z":
            return z.reshape(-1, self.sizes.batch)
        if name == "zt":
            return z[:both]
        if name == "zs":
            return z[tanhs:both]
        if name == "seen":
            return self.hx[t + 1, :H]
        if name == "over":
            return self.over[t]
        view = program.views[name]
        if view.buffer == "gates":
            return z[view.row]
        if view.buffer == "values":
            return self.values[t % len(self.values), view.row]
        state = self.state[view.row]
        return state[(t + view.later) % len(state)]

    def of_block(self, name: str, start: int, stop: int) -> Array:
        """The array that a variable of the Jacobian stands for in a block of steps."""
        view = self.program.views[name]
        if view.buffer == "gates":
            return self.gates[start:stop, view.row]
        if view.buffer == "values":
            return self.values[start:stop, view.row]
        if view.buffer == "unit":
            return self.units[view.row]
        return self.state[view.row][start + view.later : stop + view.later]

    def back(self, output: bool, inputs: bool) -> Back:
        """The buffers of a backward pass, made when first needed."""
        found = self._back.get((output, inputs))
        if found is None:
            found = self._back[output, inputs] = Back(self, output, inputs)
            self.nbytes += found.nbytes
        return found

    def flush(self, c: Array) -> None:
        """Set to zero what is vanishingly small, below 1e-31 (float64: 1e-292).

        A cotangent that fades over many steps would end among the subnormal numbers, which some
        processors multiply a hundred times as slowly.
        """
        self.xp.add(c, self.faint, out=c)
        self.xp.subtract(c, self.faint, out=c)

    def load(self, weights: dict[str, Array]) -> None:
        """Put the weights into one matrix beside [h; x; 1], rows of sigmoids halved."""
        _, xp, _, _, _, I, H, ones, *_ = self.sizes
        weight, program = self.weight, self.program
        w_ih, w_hh = weights["weight_ih"], weights["weight_hh"]
        b_ih, b_hh = weights.get("bias_ih"), weights.get("bias_hh")
        for first, last, gate, kind in program.runs:
            rows = slice(first * H, last * H)
            theirs = slice(gate * H, (gate + last - first) * H)
            if kind != "x":
                weight[rows, :H] = w_hh[theirs]
            if kind != "h":
                weight[rows, H : H + I] = w_ih[theirs]
            biases: list[Any] = [b_ih] if kind != "h" else []
            biases += [b_hh] if kind != "x" else []
            biases = [bias[theirs] for bias in biases if bias is not None]
            if ones:
                weight[rows, -1] = sum(biases[1:], start=biases[0]) if biases else 0
        if program.sigmoid_rows:
            first = program.tanh_rows * H
            halved = weight[first : first + program.sigmoid_rows * H]
            xp.multiply(halved, self.space[program.constants[0.5, False]], out=halved)
        for name, unit in self.units.items():
            unit[:, 0] = weights[name]


OPERATIONS = (
    *("add", "subtract", "multiply", "divide", "negative", "power", "maximum", "minimum"),
    *("tanh", "exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "sign", "absolute"),
    *("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"),
    *("logical_and", "logical_or", "logical_not", "copyto"),
)


class Back:
    """What a backward pass needs beside the plan, for blocks of C steps: `length`, or what fits."""

    def __init__(self, plan: Plan, output: bool, inputs: bool, length: int | None = None) -> None:
        program, sizes, xp = plan.program, plan.sizes, plan.xp
        _, _, dtype, T, B, I, H, _, masked, padded, _ = sizes
        buffers = program.jacobian_buffers
        blocks = program.jacobian_rows + len(program.rows) + len(program.views) + buffers + 2
        longest = min(T, LONGEST, CACHE // (blocks * H * B * dtype.itemsize))
        C = self.length = max(1, longest) if length is None else length
        self.program, self.sizes, self.inputs = program, sizes, inputs
        self.jacobian = xp.empty((C, program.jacobian_rows, H, B), dtype)
        self.rows = xp.zeros((C + 1, len(program.rows), H, B), dtype)
        self.cotangent: Any = xp.empty((C, H, B), dtype) if output else None
        self.start = xp.empty((H, B), dtype)
        self.temporary = [xp.empty((C, H, B), dtype) for _ in range(buffers)]
        self.masks = [xp.empty((C, H, B), bool) for _ in range(program.jacobian_masks)]
        low, high = program.heard
        if inputs:
            low = program.gates_at
            high = low + len(program.gate_rows)
        self.low, self.high = low, high
        height = H + I if inputs else H
        self.weight = xp.zeros((height, (high - low) * H), dtype)
        self.dhx = xp.empty((C, height, B), dtype)
        self.valid: Any = xp.empty((T, 1, B), dtype) if padded else None
        self.padding: Any = xp.empty((T, 1, B), dtype) if padded else None
        _, views = program.loop_of(output, masked, padded)
        space = {name: plan.space[name] for name in (*OPERATIONS, *program.constants.values())}
        self.loop = program.define(program.backward_source(output, masked, padded), space)
        self.jacobian_of = program.define(program.jacobian_source(), space)
        count = len(program.cell.state)
        self.scratch = [xp.empty((H, B), dtype) for _ in range(2 + count + 2 * count * padded)]
        self.views = views
        self.steps = [self._step(k) for k in range(C)]
        self._blocks: dict[int, Any] = {}
        arrays = [self.jacobian, self.rows, self.dhx, *self.temporary]
        self.nbytes = sum([array.nbytes for array in arrays])

    def _step(self, k: int, t: int | None = None) -> tuple[Any, ...]:
        """The arrays of the loop's variables in step k of a block, in their order."""
        found = []
        H, B = self.sizes.hidden, self.sizes.batch
        for _, (kind, *at) in self.views:
            if kind in ("J", "D"):
                buffer = self.jacobian if kind == "J" else self.rows
                first, last = at[0], at[1]
                row = buffer[k + 1 if len(at) > 2 else k]
                found.append(row[first] if last - first == 1 else row[first:last])
            elif kind == "g":
                found.append(self.cotangent[k])
            elif kind == "dz":
                found.append(self.rows[k, self.low : self.high].reshape(-1, B))
            elif kind == "dhx":
                found.append(self.dhx[k])
            elif kind == "dh":
                found.append(self.dhx[k, :H])
            elif kind == "over":
                found.append(None if t is None or self.padding is None else self.padding[t])
            else:
                found.append(None if t is None or self.valid is None else self.valid[t])
        return tuple(found)

    def steps_of(self, start: int, stop: int) -> list[tuple[Any, ...]]:
        """The steps of a block, the last one first."""
        if self.valid is None:
            return self.steps[stop - start - 1 :: -1] if stop > start else []
        return [self._step(t - start, t) for t in reversed(range(start, stop))]

    def evaluate(self, plan: Plan, start: int, stop: int) -> None:
        """The Jacobian of a block of steps."""
        arrays = self._blocks.get(start)
        if arrays is None:
            n, program = stop - start, self.program
            arrays = self._blocks[start] = [
                self.jacobian[:n, int(name[1:])]
                if name not in program.views
                else plan.of_block(name, start, stop)
                for name in program.jacobian_names
            ] + [buffer[:n] for buffer in (*self.temporary, *self.masks)]
        self.jacobian_of(*arrays)

    def load(self, weights: dict[str, Array]) -> None:
        """The weights transposed, rows in the order of the cotangents."""
        program, H = self.program, self.sizes.hidden
        offset = self.low - program.gates_at
        w_ih, w_hh = weights["weight_ih"], weights["weight_hh"]
        for first, last, gate, kind in program.back_runs:
            low, high = max(first, offset), min(last, offset + self.high - self.low)
            if low >= high:
                continue
            columns = slice((low - offset) * H, (high - offset) * H)
            theirs = slice((gate + low - first) * H, (gate + high - first) * H)
            if kind != "x":
                self.weight[:H, columns] = w_hh[theirs].T
            if self.inputs and kind != "h":
                self.weight[H:, columns] = w_ih[theirs].T


# ---------------------------------------------------------------------------------------------
# The two passes


def _inside(value: Array, time: int, reverse: bool) -> Array:
    """The user's (T, B, ·) or (B, T, ·) as (T, ·, B) in the order of processing: a view."""
    value = value.transpose((0, 2, 1) if time == 0 else (1, 2, 0))
    return value[::-1] if reverse else value


def _outside(value: Array, time: int) -> Array:
    """(T, ·, B) as the user's (T, B, ·) or (B, T, ·): a view."""
    return value.transpose((0, 2, 1) if time == 0 else (2, 0, 1))


def forward(xp: Any, arrays: tuple[Array, ...], call: Call) -> tuple[tuple[Array, ...], Lease]:
    """The output and the final state, and the lease of the plan that backward will need."""
    program = call.program
    count = len(program.cell.state)
    x, states = arrays[0], arrays[1 : 1 + count]
    weights = dict(zip(call.names, arrays[1 + count :], strict=True))
    T, B = x.shape[call.time], x.shape[1 - call.time]
    I, H = x.shape[2], weights["weight_hh"].shape[1]
    masked, padded = call.mask is not None, call.valid is not None
    ones = "bias_ih" in weights
    sizes = Sizes(program, xp, x.dtype, T, B, I, H, ones, masked, padded, call.recorded)
    lease = take(program, sizes)
    plan = lease.plan
    plan.load(weights)
    inputs = _inside(x, call.time, call.reverse)
    for t in range(0, T, PIECE):  # transposed in pieces that stay in the cache
        plan.hx[t : min(T, t + PIECE), H : H + I] = inputs[t : t + PIECE]
    for name, value in zip(program.cell.state, states, strict=True):
        plan.state[name][0] = value.T
    if call.mask is not None:
        plan.dropped[...] = call.mask.T
        xp.multiply(plan.state[program.cell.state[0]][0], plan.dropped, out=plan.hx[0, :H])
    if call.valid is not None:
        over = xp.logical_not(call.valid)
        plan.over[...] = over[::-1] if call.reverse else over
    plan.forward(plan.steps, plan.weight.dot, plan.dropped)
    outputs = xp.empty((T, H, B), x.dtype)
    outputs[...] = plan.state[program.cell.state[0]][1:][:: -1 if call.reverse else 1]
    finals = [plan.state[name][T % len(plan.state[name])].T.copy() for name in program.cell.state]
    return (_outside(outputs, call.time), *finals), lease


def backward(
    g: tuple[Any, ...], needs: tuple[bool, ...], arrays: tuple[Array, ...], lease: Lease, call: Call
) -> list[Any]:
    """A gradient for each array that needs one; `g` has None for a result that nothing used."""
    plan, program = lease.plan, call.program
    _, xp, dtype, T, _, _, H, *_ = plan.sizes
    states = program.cell.state
    weights = dict(zip(call.names, arrays[1 + len(states) :], strict=True))
    needed = dict(zip(call.names, needs[1 + len(states) :], strict=True))
    back = plan.back(g[0] is not None, needs[0])
    back.load(weights)
    if call.valid is not None:
        valid = call.valid[::-1] if call.reverse else call.valid
        back.valid[...] = valid[:, None]
        xp.subtract(1, back.valid, out=back.padding)
    C, rows = back.length, back.rows
    starts = range((T - 1) // C * C, -1, -C)
    for name, c in zip(states, g[1:], strict=True):
        target = back.start if name == states[0] else rows[T - starts[0], program.row[name]]
        target[...] = 0 if c is None else c.T
    dh = back.start
    cotangents = None if g[0] is None else _inside(g[0], call.time, call.reverse)
    total = _Weights(plan, rows, any(needed[n] for n in needed if n not in plan.units))
    units: dict[str, Any] = {name: None for name in plan.units if needed[name]}
    inner: Any = None
    outer: Any = None
    if needs[0]:
        outer = xp.empty(arrays[0].shape, dtype)
        inner = _inside(outer, call.time, call.reverse)
    dot = back.weight.dot
    for start in starts:
        stop = min(T, start + C)
        n = stop - start
        back.evaluate(plan, start, stop)
        if cotangents is not None:
            back.cotangent[:n] = cotangents[start:stop]
        steps = back.steps_of(start, stop)
        dh = back.loop(steps, dot, dh, plan.dropped, *back.scratch)
        total.add(start, stop)
        for name, sum_so_far in units.items():
            share = xp.add.reduce(rows[:n, program.row[name]], (0, 2))
            units[name] = share if sum_so_far is None else sum_so_far + share
        if inner is not None:
            inner[start:stop] = back.dhx[:n, H:]
        if start:
            plan.flush(dh)
            for name in states[1:]:
                plan.flush(rows[0, program.row[name]])
                row = program.row[name]
                rows[C, row] = rows[0, row]
                if name not in program.written and n < C:
                    rows[n, row] = 0
    gradients: dict[str, Any] = {**total.gradients(weights, needed), **units}
    first = [dh.T.copy(), *[rows[0, program.row[name]].T.copy() for name in states[1:]]]
    return [outer, *first, *[gradients.get(name) for name in call.names]]


class _Weights:
    """The gradient of the matrix beside [h; x; 1], a product for each block."""

    def __init__(self, plan: Plan, rows: Array, needed: bool) -> None:
        self.plan, self.needed = plan, needed
        H = plan.sizes.hidden
        first = plan.program.gates_at * H
        last = first + len(plan.program.gate_rows) * H
        self.rows = rows.reshape(len(rows), -1, plan.sizes.batch)[:, first:last]
        self.total: Any = None

    def add(self, start: int, stop: int) -> None:
        """Of the steps that have just been walked."""
        if not self.needed:
            return
        xp, n = self.plan.xp, stop - start
        rows, hx = self.rows[:n], self.plan.hx[start:stop]
        if self.plan.sizes.batch == 1:
            share = rows[:, :, 0].T.dot(hx[:, :, 0])
        elif n == 1:
            share = rows[0].dot(hx[0].T)
        else:
            share = xp.add.reduce(xp.matmul(rows, hx.transpose(0, 2, 1)), 0)
        if self.total is None:
            self.total = share
        else:
            self.total += share

    def gradients(self, weights: dict[str, Array], needed: dict[str, bool]) -> dict[str, Array]:
        """Of each weight and bias, in the user's order of rows, in memory of its own."""
        xp, total, H = self.plan.xp, self.total, self.plan.sizes.hidden
        columns = {
            "weight_hh": (slice(0, H), "x"),
            "weight_ih": (slice(H, H + self.plan.sizes.inputs), "h"),
            "bias_hh": (-1, "x"),
            "bias_ih": (-1, "h"),
        }
        found = {}
        for name, (column, other) in columns.items():
            if needed.get(name):
                found[name] = xp.empty(weights[name].shape, total.dtype)
                for first, last, gate, kind in self.plan.program.back_runs:
                    if kind != other:
                        theirs = slice(gate * H, (gate + last - first) * H)
                        found[name][theirs] = total[first * H : last * H, column]
        return found
