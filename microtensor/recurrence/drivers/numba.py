"""The Numba driver: all steps of a layer in one compiled call, on NumPy arrays.

The loops are printed (loops.py), compiled once for each cell and dtype, and kept (compiled.py).
Here are the buffers that they work on: one flat array for each set of sizes, and views into it. As
with the array driver (arrays.py) they belong to one graph at a time, never seen by the user.
"""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from microtensor.backend import Array
from microtensor.recurrence.drivers import compiled
from microtensor.recurrence.drivers.arrays import Call, Lease, take
from microtensor.recurrence.drivers.loops import NUMBERS, Loops, product_source

CACHE = 1 << 20  # bytes of a block of steps: what surely stays in a core's cache


class Sizes(NamedTuple):
    """All that the buffers depend on."""

    loops: Loops
    dtype: Any
    width: int
    steps: int
    batch: int
    inputs: int
    hidden: int
    recorded: bool


@cache
def _register() -> int:
    """Bytes of a vector register."""
    from llvmlite import binding

    return 64 if binding.get_host_cpu_features().get("avx512f") else 32


def width_of(dtype: Any, hidden: int) -> int:
    """How many units stand side by side: a whole register, less for very small layers."""
    width: int = _register() // dtype.itemsize
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


def _compile(loops: Loops, dtype: str, width: int) -> ModuleType:
    rows = 8 if _register() == 64 else 4  # as many as there are registers for
    text = product_source(dtype, width, rows)
    product = compiled.load(f"product_{dtype}x{width}", text, [_lanes()])
    text = loops.source(dtype, width, product.__name__)
    name = loops.cell.name if loops.cell.name.isidentifier() else "cell"
    return compiled.load(name, text, [_lanes()])


def prepare(program: Any, dtype: Any, hidden: int, general: bool) -> Exception | None:
    """Compile what calls need, the first time; what is in the way, or None."""
    loops, width = _loops(program, general), width_of(dtype, hidden)
    found = loops.compiled.get((dtype, width))
    if found is None:
        try:
            found = _compile(loops, dtype.name, width)
        except Exception as error:
            found = error.with_traceback(None)
        loops.compiled[dtype, width] = found
    return found if isinstance(found, Exception) else None


class Plan:
    """Buffers and views for calls of one set of sizes."""

    def __init__(self, loops: Loops, sizes: Sizes) -> None:
        self.sizes = sizes
        _, dtype, width, T, B, I, H, recorded = sizes
        self.compiled: Any = loops.compiled[dtype, width]
        P, X = -(-H // width) * width, -(-I // width) * width
        F, rows, units = I + 1 + P, len(loops.rows), len(loops.cell.per_unit)
        M = rows * P
        if M * dtype.itemsize % 2048 == 0:  # rows so far apart would meet in the same cache lines
            M += width
        kept, edges = len(loops.kept), len(loops.edges)
        deep = recorded or loops.general  # masked h stands in hx, so that h itself is kept apart
        step = (F + M + (kept + 1) * P) * B * dtype.itemsize
        C = self.length = max(1, min(T, CACHE // step))
        shapes: dict[str, tuple[int, ...]] = {
            "hx": (T + 1, B, F),
            "record": (T + 1 if deep else 1, B, kept, P),
            "z": (B, M),
            "weight": (I + 1 + H, M),
            "unit": (units, P),
            "mask": (B, P) if loops.general else (0,),
            "valid": (T, B) if loops.general else (0,),
        }
        if recorded:
            shapes |= {
                "dz": (C, B, M),
                "g": (C, B, P),
                "dh": (B, P),
                "edge": (B, edges, P),
                "back": (loops.heard * H, P),
                "back_x": (rows * H, X),
                "dx": (C, B, X),
                "dw": (I + 1 + H, M),
                "d_unit": (units, P),
            }
        at = dict.fromkeys(NUMBERS, 0)
        total = 0
        for name, shape in shapes.items():
            at[name] = total
            total += -(-int(np.prod(shape)) // 16) * 16
        self.memory = np.zeros(total, dtype)
        self.nbytes = self.memory.nbytes
        views = {
            name: self.memory[at[name] : at[name] + int(np.prod(shape))].reshape(shape)
            for name, shape in shapes.items()
        }
        at |= {"T": T, "B": B, "H": H, "P": P, "I": I, "X": X, "F": F, "M": M, "R": kept * P}
        at["record_step"] = B * kept * P if deep else 0
        self.numbers = np.array([at[name] for name in NUMBERS], np.int64)
        hx = views["hx"]
        self.x, self.h = hx[:T, :, :I], hx[:, :, I + 1 : I + 1 + H]
        hx[:, :, I] = 1
        self.state = {
            name: views["record"][:, :, loops.kept.index(name), :H]
            if name in loops.kept
            else self.h
            for name in loops.cell.state
        }
        self.weight = views["weight"][:, : rows * P].reshape(I + 1 + H, rows, P)[:, :, :H]
        self.unit = dict(zip(loops.cell.per_unit, views["unit"][:, :H], strict=True))
        self.mask, self.valid = views["mask"], views["valid"]
        if loops.general:
            self.mask = self.mask[:, :H]
        if recorded:
            self.g = views["g"]
            self.dh = views["dh"]
            self.edge = {name: views["edge"][:, i, :H] for i, name in enumerate(loops.edges)}
            self.back = views["back"].reshape(loops.heard, H, P)[:, :, :H]
            self.back_x = views["back_x"].reshape(rows, H, X)[:, :, :I]
            self.dx = views["dx"][:, :, :I]
            self.dw = views["dw"]
            self.d_weight = self.dw[:, : rows * P].reshape(I + 1 + H, rows, P)[:, :, :H]
            self.d_unit = views["d_unit"]
        # Rows of products beside those of the user's weights: first of ours, last + 1, first of
        # theirs, kind; whether a run meets x, and whether it meets h.
        gates = loops.cell.gates
        self.runs: list[tuple[int, int, int, str]] = []
        for row, name in enumerate(loops.rows):
            kind = "" if name in gates else name[-1]
            gate = gates.index(name[:-2] if kind else name)
            last = self.runs[-1] if self.runs else None
            if last and last[3] == kind and last[2] + row - last[0] == gate:
                self.runs[-1] = (last[0], row + 1, *last[2:])
            else:
                self.runs.append((row, row + 1, gate, kind))

    def set(self, **numbers: int) -> None:
        """Tell the loops something of one call."""
        for name, value in numbers.items():
            self.numbers[NUMBERS.index(name)] = value

    def load(self, weights: dict[str, Array]) -> None:
        """Put the weights beside one another, as the product of a step wants them."""
        I, H = self.sizes.inputs, self.sizes.hidden
        for first, last, gate, kind in self.runs:
            theirs = slice(gate, gate + last - first)
            rows = self.weight[:, first:last]
            biases = []
            if kind != "h":
                rows[:I] = _by_gate(weights["weight_ih"], H)[theirs].transpose(2, 0, 1)
                biases.append("bias_ih")
            if kind != "x":
                rows[I + 1 :] = _by_gate(weights["weight_hh"], H)[theirs].transpose(2, 0, 1)
                biases.append("bias_hh")
            found = [weights[name].reshape(-1, H)[theirs] for name in biases if name in weights]
            rows[I] = found[0] if len(found) == 1 else sum(found)
        for name, unit in self.unit.items():
            unit[...] = weights[name]

    def load_back(self, weights: dict[str, Array], inputs: bool) -> None:
        """The same for the products of the backward pass."""
        H = self.sizes.hidden
        at = 0
        for first, last, gate, kind in self.runs:
            theirs = slice(gate, gate + last - first)
            if kind != "x":
                self.back[first:last] = _by_gate(weights["weight_hh"], H)[theirs]
            if kind != "h" and inputs:
                self.back_x[at : at + last - first] = _by_gate(weights["weight_ih"], H)[theirs]
                at += last - first

    def gradients(self, weights: dict[str, Array], needed: dict[str, bool]) -> dict[str, Array]:
        """Of each weight and bias, in the user's order of rows, in memory of its own."""
        I, H = self.sizes.inputs, self.sizes.hidden
        parts: dict[str, tuple[Any, str]] = {
            "weight_ih": (self.d_weight[:I].transpose(1, 2, 0), "h"),
            "weight_hh": (self.d_weight[I + 1 :].transpose(1, 2, 0), "x"),
            "bias_ih": (self.d_weight[I], "h"),
            "bias_hh": (self.d_weight[I], "x"),
        }
        found = {}
        for name, (total, other) in parts.items():
            if needed.get(name):
                found[name] = np.empty(weights[name].shape, self.memory.dtype)
                by_gate = found[name].reshape(-1, *total.shape[1:])
                for first, last, gate, kind in self.runs:
                    if kind != other:
                        by_gate[gate : gate + last - first] = total[first:last]
        for k, name in enumerate(self.unit):
            if needed[name]:
                found[name] = self.d_unit[k, :H].copy()
        return found


def _by_gate(weight: Array, hidden: int) -> Array:
    return weight.reshape(-1, hidden, weight.shape[1])


def _inside(value: Array, time: int, reverse: bool) -> Array:
    """The user's (T, B, ·) or (B, T, ·) as (T, B, ·) in the order of processing: a view."""
    value = value.swapaxes(0, time)
    return value[::-1] if reverse else value


def forward(xp: Any, arrays: tuple[Array, ...], call: Call) -> tuple[tuple[Array, ...], Lease]:
    """The output and the final state, and the lease of the plan that backward will need."""
    cell = call.program.cell
    count = len(cell.state)
    x, states = arrays[0], arrays[1 : 1 + count]
    weights = dict(zip(call.names, arrays[1 + count :], strict=True))
    T, B = x.shape[call.time], x.shape[1 - call.time]
    I, H = x.shape[2], weights["weight_hh"].shape[1]
    general = call.mask is not None or call.valid is not None
    loops, width = _loops(call.program, general), width_of(x.dtype, H)
    sizes = Sizes(loops, x.dtype, width, T, B, I, H, call.recorded)
    lease = take(Plan, loops, sizes)
    plan: Plan = lease.plan
    plan.load(weights)
    plan.x[...] = _inside(x, call.time, call.reverse)
    for name, value in zip(cell.state, states, strict=True):
        plan.state[name][0] = value
    if general:
        plan.mask[...] = 1 if call.mask is None else call.mask
        valid = 1 if call.valid is None else call.valid[:: -1 if call.reverse else 1]
        plan.valid[...] = valid
        np.multiply(states[0][0], plan.mask, out=plan.h[0])
    plan.compiled.forward(plan.memory, plan.numbers)
    outputs = np.empty((T, B, H), x.dtype)
    outputs[...] = plan.state[cell.state[0]][1:][:: -1 if call.reverse else 1]
    finals = [plan.state[name][min(T, len(plan.state[name]) - 1)].copy() for name in cell.state]
    return (outputs.swapaxes(0, call.time), *[value[None] for value in finals]), lease


def backward(
    g: tuple[Any, ...], needs: tuple[bool, ...], arrays: tuple[Array, ...], lease: Lease, call: Call
) -> list[Any]:
    """A gradient for each array that needs one; `g` has None for a result that nothing used."""
    plan: Plan = lease.plan
    loops, dtype, _, T, _, _, H, _ = plan.sizes
    states = loops.cell.state
    weights = dict(zip(call.names, arrays[1 + len(states) :], strict=True))
    needed = dict(zip(call.names, needs[1 + len(states) :], strict=True))
    plan.load_back(weights, needs[0])
    plan.dh[...] = 0
    for name, c in zip(states, g[1:], strict=True):
        target = plan.edge[name] if name in plan.edge else plan.dh[:, :H]
        target[...] = 0 if c is None else c
    plan.dw[...] = 0
    plan.d_unit[...] = 0
    cotangents = None if g[0] is None else _inside(g[0], call.time, call.reverse)
    if cotangents is None:
        plan.g[0] = 0
    plan.set(
        g_step=0 if cotangents is None else plan.g[0].size,
        weights_wanted=any(needed.values()),
        input_wanted=needs[0],
    )
    outer: Any = np.empty(arrays[0].shape, dtype) if needs[0] else None
    inner = _inside(outer, call.time, call.reverse) if needs[0] else None
    C = plan.length
    for start in range((T - 1) // C * C, -1, -C):
        stop = min(T, start + C)
        if cotangents is not None:
            plan.g[: stop - start, :, :H] = cotangents[start:stop]
        plan.compiled.backward(plan.memory, plan.numbers, start, stop)
        if inner is not None:
            inner[start:stop] = plan.dx[: stop - start]
    first: list[Any] = [plan.edge[name].copy() if name in plan.edge else 0 for name in states]
    dh = plan.dh[:, :H]
    first[0] = first[0] + (dh * plan.mask if loops.general else dh)
    gradients = plan.gradients(weights, needed)
    starts = [value[None] for value in first]
    return [outer, *starts, *[gradients.get(name) for name in call.names]]
