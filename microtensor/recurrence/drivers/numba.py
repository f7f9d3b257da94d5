"""The Numba driver: all steps of a layer in one compiled call, on NumPy arrays.

The loops are printed (loops.py), compiled once for each cell and dtype, and kept (compiled.py).
Here is the memory that they work on: one flat array for each set of sizes. As with the array driver
(arrays.py) it belongs to one graph at a time, never seen by the user.

Small layers are computed in a few millionths of a second. So a pass is one call: compiled code
brings in what it needs of the user's arrays, and fills those that are handed out.

In a stack of K trials (see `nn.stack`) every trial has such memory of its own, and the same code
runs one after the other: half of them in a second thread, where that is worth its start.
"""

from __future__ import annotations

import importlib
import itertools
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from microtensor.backend import Array
from microtensor.recurrence.drivers import compiled
from microtensor.recurrence.drivers.arrays import Call, Lease, take
from microtensor.recurrence.drivers.loops import NUMBERS, Loops, common_source
from microtensor.recurrence.drivers.moves import WEIGHTS, Move, arrays_of, table

CACHE = 1 << 20  # bytes of a block of steps: what surely stays in a core's cache
WORTHWHILE = 1 << 26  # multiplications of a stack's pass: many times the start of a thread


class Sizes(NamedTuple):
    """All that the buffers depend on."""

    loops: Loops
    dtype: Any
    width: int
    steps: int
    batch: int
    inputs: int
    hidden: int
    time: int
    reverse: bool
    recorded: bool
    block_size: int
    trials: int | None


def width_of(dtype: Any, hidden: int) -> int:
    """How many units stand side by side: a whole register, less for very small layers."""
    width: int = compiled.register() // dtype.itemsize
    while width > 4 and hidden <= width // 2:
        width //= 2
    return width


def _lanes() -> ModuleType:
    return importlib.import_module("microtensor.recurrence.drivers.lanes")  # which imports Numba


def _loops(program: Any, general: bool) -> Loops:
    """The printed loops of a cell; its program keeps them."""
    found: Loops | None = program.loops.get(general)
    if found is None:
        found = program.loops[general] = Loops(program, general)
    return found


def _compile(loops: Loops, dtype: Any, width: int) -> ModuleType:
    rows = 8 if compiled.register() == 64 else 4  # as many as there are registers for
    text = common_source(dtype.name, width, rows)
    common = compiled.load(f"common_{dtype.name}x{width}", text, [_lanes()])
    text = loops.source(dtype.name, width, common.__name__)
    return compiled.load(_name(loops), text, [_lanes()])


def _compile_stack(loops: Loops, dtype: Any, width: int) -> ModuleType:
    passes: Any = loops.compiled[dtype, width, False]
    text = loops.stack_source(dtype.name, passes.__name__)
    return compiled.load(f"{_name(loops)}_stack", text, [_lanes()])


def _name(loops: Loops) -> str:
    return loops.cell.name if loops.cell.name.isidentifier() else "cell"


def _compiled(loops: Loops, dtype: Any, width: int, stacked: bool) -> ModuleType | Exception:
    """The module of some passes, or why there is none."""
    key = dtype, width, stacked
    found: ModuleType | Exception | None = loops.compiled.get(key)
    if found is None:
        try:
            found = (_compile_stack if stacked else _compile)(loops, dtype, width)
        except Exception as error:
            found = error.with_traceback(None)
        loops.compiled[key] = found
    return found


def prepare(
    program: Any, dtype: Any, hidden: int, general: bool, stacked: bool
) -> Exception | None:
    """Compile what calls need, the first time; what is in the way, or None."""
    loops, width = _loops(program, general), width_of(dtype, hidden)
    found = _compiled(loops, dtype, width, False)
    if stacked and not isinstance(found, Exception):
        found = _compiled(loops, dtype, width, True)
    return found if isinstance(found, Exception) else None


class Plan:
    """The memory of calls of one set of sizes, and all that compiled code must know about it."""

    def __init__(self, loops: Loops, sizes: Sizes) -> None:
        self.sizes = sizes
        _, dtype, width, T, B, I, H, time, reverse, recorded, block_size, trials = sizes
        lead = () if trials is None else (trials,)
        module: Any = loops.compiled[dtype, width, trials is not None]
        names = ("forward", "backward") if trials is None else ("forward_stack", "backward_stack")
        self.forward, self.backward = [getattr(module, name) for name in names]
        P, X = -(-H // width) * width, -(-I // width) * width
        cell = loops.cell
        across, fed = len(cell.fed) * P, len(cell.fed) * H
        F, rows, units = I + 1 + across, len(loops.rows), len(cell.per_unit)
        M = rows * P
        if M * dtype.itemsize % 2048 == 0:  # rows so far apart would meet in the same cache lines
            M += width
        kept, edges = len(loops.kept), len(loops.edges)
        # Whether all steps are kept: also where outputs are not fed, or not as they are.
        deep = recorded or loops.general or cell.state[0] not in cell.fed
        step = (F + M + (kept + 1) * P) * B * dtype.itemsize
        C = max(1, min(T, CACHE // step))
        shapes: dict[str, tuple[int, ...]] = {
            "hx": (T + 1, B, F),
            "record": (T + 1 if deep else 1, B, kept, P),
            "z": (B, M),
            "weight": (I + 1 + fed, M),
            "unit": (units, P),
            "mask": (B, across) if loops.general else (0,),
            "valid": (T, B) if loops.general else (0,),
        }
        if recorded:
            shapes |= {
                "dz": (C, B, M),
                "g": (C, B, P),
                "dh": (B, across),
                "edge": (B, edges, P),
                "back": (loops.heard * H, across),
                "back_x": (rows * H, X),
                "dx": (C, B, X),
                "dw": (I + 1 + fed, M),
                "d_unit": (units, P),
            }
        at = dict.fromkeys(NUMBERS, 0)
        total = 0
        for name, shape in shapes.items():
            at[name] = total
            total += -(-int(np.prod(shape)) // 16) * 16
        self.memory = np.zeros((*lead, total), dtype)
        self.shares = _shares(trials, T * B * M * F)
        self.nbytes = self.memory.nbytes
        at |= {
            "T": T,
            "B": B,
            "H": H,
            "P": P,
            "I": I,
            "X": X,
            "F": F,
            "M": M,
            "R": kept * P,
            "C": C,
        }
        at["record_step"] = B * kept * P if deep else 0
        along = (B, 1) if time == 0 else (1, T)  # rows of the user's, to the next t and b
        at |= {"next_step": -along[0] if reverse else along[0], "next_sequence": along[1]}
        at["first_row"] = (T - 1) * along[0] if reverse else 0
        moves = table(loops, at, block_size)
        ends = itertools.accumulate([len(group) for group in moves.values()])
        at |= {f"{name}_end": end for name, end in zip(moves, ends, strict=True)}
        whole = [move for group in moves.values() for move in group]
        self.moves = np.array(whole, np.int64)
        # The two of them that read sequences, and how these lay in memory when last looked at.
        self.reading = [row for row, move in enumerate(whole) if move.n_i == -1][::2]
        self.strides: list[Any] = [None, None]
        numbers = [at[name] for name in NUMBERS] + [0] * len(arrays_of(cell, backward=True))
        self.numbers = np.empty((*lead, len(numbers)), np.int64)  # a trial puts addresses into them
        self.numbers[...] = numbers
        hx, self.mask, self.valid = [
            self.memory[..., at[name] : at[name] + int(np.prod(shapes[name]))].reshape(
                *lead, *shapes[name]
            )
            for name in ("hx", "mask", "valid")
        ]
        hx[..., I] = 1
        results = [(T, B, H) if time == 0 else (B, T, H)]
        results += [(1, B, cell.width(name, H, block_size)) for name in cell.state]
        self.results = [(*lead, *shape) for shape in results]
        self.nothing = [np.empty((*lead, *(0,) * ndim), dtype) for ndim in range(4)]  # of each rank
        self.absent = 3 + len(cell.state), len(WEIGHTS) + units + 1 + len(cell.state)
        # Which columns of the mask are whose: of what there is once a block, the first unit's.
        self.masks, at_column = [], 0
        for k, name in enumerate(cell.fed):
            width = cell.width(name, H, block_size)
            ours = slice(k * P, k * P + H, H // width)
            self.masks.append((ours, slice(at_column, at_column + width)))
            at_column += width

    def read(self, which: int, array: Array) -> None:
        """Tell the moves how the inputs (0), or what arrives at the outputs (1), lie in memory."""
        if array.strides == self.strides[which]:
            return
        self.strides[which] = array.strides
        T, time, reverse = self.sizes.steps, self.sizes.time, self.sizes.reverse
        *rows, k = [stride // array.itemsize for stride in array.strides[-3:]]
        t, b = rows[time], rows[1 - time]
        where = ((T - 1) * t, -t, b, k) if reverse else (0, t, b, k)
        first = Move._fields.index("u_0")
        self.moves[self.reading[which], first : first + 4] = where

    def with_absent(self, arrays: Sequence[Array]) -> Sequence[Array]:
        """An empty array for each of the two biases that the layer does not have."""
        biases, whole = self.absent
        missing = whole - len(arrays)
        at = biases + 2 - missing
        return (*arrays[:at], *[self.nothing[1]] * missing, *arrays[at:]) if missing else arrays


def _shares(trials: int | None, work: int) -> list[tuple[int, ...]]:
    """Which trials a pass runs: what is called alone first, then what is called at once.

    The first call also tells whether the arrays are such as compiled code knows. `work` is how many
    multiplications a trial takes.
    """
    if trials is None:
        return [()]
    threads: int = compiled.numba().config.NUMBA_NUM_THREADS
    if min(threads, trials) < 2 or trials * work < WORTHWHILE:
        return [(0, trials)]
    return [(0, 0), (0, trials // 2), (trials // 2, trials)]


def _run(plan: Plan, back: bool, given: Sequence[Array], found: Sequence[Array]) -> None:
    """Run a compiled pass on arrays that it reads and arrays that it fills."""
    function = plan.backward if back else plan.forward
    first, *rest = plan.shares
    plan.read(back, given[0])
    try:
        function(plan.memory, plan.numbers, plan.moves, *given, *found, *first)
    except TypeError:  # some may not be written, or are not contiguous: it knows no such arrays
        given = [np.array(array, order="C") for array in given]
        plan.read(back, given[0])
        function(plan.memory, plan.numbers, plan.moves, *given, *found, *first)
    if rest:
        arguments = (plan.memory, plan.numbers, plan.moves, *given, *found)
        other = threading.Thread(target=function, args=(*arguments, *rest[1]))
        other.start()
        function(*arguments, *rest[0])
        other.join()


def fits(arrays: Sequence[Array], call: Call) -> bool:
    """Whether the shapes belong together: compiled code looks at none of them."""
    cell, lead = call.program.cell, () if call.trials is None else (call.trials,)
    count = len(cell.state)
    x, states = arrays[0], arrays[1 : 1 + count]
    B, I, H = x.shape[-2 - _time(call)], x.shape[-1], states[0].shape[-1]

    def together(names: Sequence[str]) -> int:
        return sum([cell.width(name, H, call.block_size) for name in names])

    rows, biased = together(cell.gates), together(cell.biased)
    shapes = {
        "weight_ih": (rows, I),
        "weight_hh": (rows, together(cell.fed)),
        "bias_ih": (biased,),
        "bias_hh": (biased,),
    }
    pairs = zip(cell.state, states, strict=True)
    weights = zip(call.names, arrays[1 + count :], strict=True)
    return all(state.shape == (*lead, 1, B, together([name])) for name, state in pairs) and all(
        weight.shape == (*lead, *shapes.get(name, (H,))) for name, weight in weights
    )


def _time(call: Call) -> int:
    """The input's time axis, 0 or 1, behind that of the trials."""
    return call.time if call.trials is None else call.time - 1


def _sizes(arrays: Sequence[Array], call: Call) -> Sizes:
    x, H, time = arrays[0], arrays[1].shape[-1], _time(call)
    loops = _loops(call.program, call.mask is not None or call.valid is not None)
    return Sizes(
        *(loops, x.dtype, width_of(x.dtype, H)),
        *(x.shape[time - 3], x.shape[-2 - time], x.shape[-1], H),
        *(time, call.reverse, call.recorded),
        *(call.block_size, call.trials),
    )


def forward(
    xp: Any, arrays: tuple[Array, ...], call: Call, run: Any = _run
) -> tuple[tuple[Array, ...], Lease]:
    """The output and the final state, and the lease of the plan that backward will need."""
    kept = call.kept
    sizes = None if kept is None else kept.get("sizes")
    if sizes is None:
        sizes = _sizes(arrays, call)
        if kept is not None:
            kept["sizes"] = sizes
    lease = take(Plan, sizes.loops, sizes)
    plan: Plan = lease.plan
    if sizes.loops.general:
        for ours, theirs in plan.masks:
            plan.mask[..., ours] = 1 if call.mask is None else call.mask[..., theirs]
        order = -1 if call.reverse else 1
        plan.valid[...] = 1 if call.valid is None else call.valid[..., ::order, :]
    found = [np.empty(shape, sizes.dtype) for shape in plan.results]
    run(plan, False, plan.with_absent(arrays), found)
    return tuple(found), lease


def backward(
    g: tuple[Any, ...],
    needs: tuple[bool, ...],
    arrays: tuple[Array, ...],
    lease: Lease,
    call: Call,
    run: Any = _run,
) -> list[Any]:
    """A gradient for each array that needs one; `g` has None for a result that nothing used."""
    plan: Plan = lease.plan
    nothing, lead = plan.nothing, plan.memory.ndim - 1
    weights = arrays[len(g) : len(g) + 2]
    given = [nothing[3] if c is None else np.ascontiguousarray(c) for c in g]
    if g[0] is not None:
        given[0] = g[0]  # may lie in any order
    found = [
        np.empty(array.shape, array.dtype) if need else nothing[array.ndim - lead]
        for array, need in zip(arrays, needs, strict=True)
    ]
    run(plan, True, (*given, *weights), plan.with_absent(found))
    return [value if need else None for value, need in zip(found, needs, strict=True)]
