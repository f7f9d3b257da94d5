"""Online learning as one loop for Numba: printed from a cell's expressions, the trials as lanes.

A group of trials fills a vector register (lanes.py), one trial in each lane. All else is loops of
ordinary kind: over sequences, steps, units, and the numbers that a unit is connected with. So a
trial's numbers cannot depend on its neighbours, and whatever can differ from call to call (sizes,
output, loss, masks, lengths, update) is data: one source for each cell and dtype.

Places are counted in lanes. The weights of a group stand in one array `w`, as do the learning
rates, one for each weight; `m` is all other memory, and `s` holds sizes and places. Rows of weights
are in the order in which they are read: for each unit and each number that is fed back (or input),
the unit's gates side by side. Gates that are shared by a block of units (`Cell.per_block`) follow
in the same way, a block taking the place of a unit.
"""

from __future__ import annotations

import contextvars
import importlib
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from microtensor.backend import Array
from microtensor.recurrence.derivation import Derivation
from microtensor.recurrence.drivers import compiled, scalars
from microtensor.recurrence.drivers.loops import stored_of
from microtensor.recurrence.symbols import Symbol

# What `s` holds, in this order. Sizes and options first.
SIZES = (
    *("trials", "first", "N", "I", "H", "O", "S", "blocks", "F"),  # S: units of a block
    "X",  # inputs that stand among the numbers of a step: all, or none if they are symbols
    *("steps", "shared"),  # of the inputs: the length of axis T, whether all trials see the same
    *("symbols", "direct", "last", "per_step", "training", "keep"),
    *("output", "loss_kind"),  # as numbers: places in online.OUTPUTS and online.LOSSES
    *("row", "dz_row", "state_row"),  # from step to step
    *("h_at", "h_row"),  # where the first value of the state stands
    *("x_rows", "history_row"),
)
RUNS = ("w0", "w1", "w2", "w3", "w4", "w5")
# Places in `w`; those before wx are what a backward pass needs of an earlier step.
IN_W = (*RUNS, "units", "wx", "wo", "wox", "bo")
# Places in `m`.
IN_M = (
    *("seen", "zx", "states", "values", "dz"),
    *("dh", "edges", "g", "d_units", "dwx"),
    *("net", "y", "d", "target", "use", "total", "far", "alive"),
    *("dwo", "dwox", "dbo", "history"),
)
NUMBERS = (*SIZES, *IN_W, *IN_M)


def _indent(lines: Iterable[str], depth: int = 1) -> list[str]:
    return ["    " * depth + line for line in lines]


class Run(NamedTuple):
    """Products of a unit, or of a block, that meet the same numbers of a step."""

    place: str  # of their weights, one of RUNS
    of_blocks: bool
    kind: str  # "" for all numbers, "x" and "h" for the two halves of gates apart
    names: tuple[str, ...]
    at: int  # where they stand among the unit's or the block's products

    @property
    def first(self) -> str:
        """The first of the numbers."""
        return "X + 1" if self.kind == "h" else "0"

    @property
    def columns(self) -> str:
        """How many."""
        return {"": "X + 2 + F", "x": "X + 1", "h": "1 + F"}[self.kind]


class Loops:
    """A cell's loops as source.

    Attributes
    ----------
    unit, block
        Names of the products that there are for each unit, and for each block.
    runs
        The same by what they meet.
    stored
        What the backward pass needs and would be dear to compute again, by its variable.
    """

    def __init__(self, cell: Any) -> None:
        self.cell = cell
        d = self.derivation = Derivation(cell)
        self.names = d.variables
        self.runs: list[Run] = []
        products: dict[bool, list[str]] = {False: [], True: []}
        for of_blocks, found in products.items():
            for kind in ("", "x", "h"):
                names = [
                    name
                    for name in d.products
                    if (name in cell.of_blocks) == of_blocks
                    and kind == ("" if name in cell.gates else name[-1])
                ]
                if names:
                    place = RUNS[len(self.runs)]
                    self.runs.append(Run(place, of_blocks, kind, tuple(names), len(found)))
                    found += names
        self.unit, self.block = products[False], products[True]
        self.others = [name for name in cell.state if name not in cell.fed]
        written = {name for _, name in d.jacobian}
        # Values of the old state that something arrives at other than through the product.
        self.edges = [name for name in cell.state if name in written]
        self.stored = stored_of(d, self.names)

    def shown(self, of_blocks: bool) -> list[tuple[int, str]]:
        """The products that meet the input: their places among the unit's or block's, and names."""
        return [
            (run.at + i, name)
            for run in self.runs
            if run.of_blocks == of_blocks and run.kind != "h"
            for i, name in enumerate(run.names)
        ]

    # -- places

    def _fed_place(self, name: str) -> str:
        """Where a value that is fed back begins in a row of what is fed."""
        before = self.cell.fed[: self.cell.fed.index(name)]
        units = sum([other not in self.cell.of_blocks for other in before])
        return f"{units} * H + {len(before) - units} * blocks"

    def _index(self, name: str) -> str:
        return "b" if name in self.cell.of_blocks else "j"

    def _state(self, name: str, later: bool = False) -> str:
        """Where a value of the state stands before step t, or after it."""
        step = "(t + 1)" if later else "t"
        if name in self.cell.fed:
            return (
                f"(seen + {step} * row + X + 2 + {self._fed_place(name)} + {self._index(name)}) * L"
            )
        at = self.others.index(name)
        return f"(states + {step} * state_row + {at} * H + {self._index(name)}) * L"

    def _unit_weight(self, name: str) -> str:
        return f"(units + {self.cell.per_unit.index(name)} * H + j) * L"

    def _value(self, at: int) -> str:
        return f"(values + (t * H + j) * {len(self.stored)} + {at}) * L"

    def _loads(self, lines: Sequence[str], places: dict[str, tuple[str, str]]) -> list[str]:
        """Statements that bring the variables which the lines use: (array, place) by variable."""
        used = scalars.words(lines)
        return [
            f"{name} = load({array}, {place})"
            for name, (array, place) in places.items()
            if name in used
        ]

    def _over_units(self, of_block: list[str], of_unit: list[str], end: list[str]) -> list[str]:
        """A loop over blocks and their units j; without blocks over units alone."""
        if not self.block:
            return ["for j in range(H):", *_indent(of_unit)]
        return [
            "for b in range(blocks):",
            *_indent(of_block),
            "    for j in range(b * S, b * S + S):",
            *_indent(of_unit, 2),
            *_indent(end),
        ]

    # -- forward

    def _products(self, of_blocks: bool) -> list[str]:
        """The products of one unit or block, in registers."""
        index, shown = "b" if of_blocks else "j", self.shown(of_blocks)
        runs = [run for run in self.runs if run.of_blocks == of_blocks]
        lines = [f"{self.names[name]} = real(0.0)" for run in runs for name in run.names]
        before = f"{len(self.shown(False))} * H + " if of_blocks else ""
        lines += ["if symbols:", f"    at = (zx + t * x_rows + {before}{index} * {len(shown)}) * L"]
        lines += [
            f"    {self.names[name]} = load(m, at + {g} * L)" for g, (_, name) in enumerate(shown)
        ]
        for run in runs:
            size = len(run.names)
            lines += [
                f"at = ({run.place} + {index} * ({run.columns}) * {size}) * L",
                f"at_seen = (seen + t * row + {run.first}) * L",
                f"for k in range({run.columns}):",
                "    one = load(m, at_seen)",
            ]
            for i, name in enumerate(run.names):
                mine = self.names[name]
                lines.append(f"    {mine} = {mine} + load(w, at + {i} * L) * one")
            lines.append(f"    at, at_seen = at + {size} * L, at_seen + L")
        return lines

    def forward(self) -> list[str]:
        """Steps from `start` to `stop`."""
        d, cell = self.derivation, self.cell
        places = {symbol: self.names[name] for name, symbol in d.inputs.items()}
        values = [(name, value) for value, name in self.stored.items() if value.op != "input"]
        new = [(f"{self.names[name]}new", value) for name, value in d.new.items()]
        lines = scalars.statements([*values, *new], places)
        freeze = ["if late:", "    living = load(m, (alive + t) * L) > real(0.0)"]
        for name in cell.state:
            mine = self.names[name]
            freeze += [f"    {mine} = load(m, {self._state(name)})"]
            freeze += [f"    {mine}new = where(living, {mine}new, {mine})"]
        where = {self.names[name]: ("m", self._state(name)) for name in cell.state}
        where |= {self.names[name]: ("w", self._unit_weight(name)) for name in cell.per_unit}
        lines = [*self._loads(lines, where), *lines, *freeze]
        lines += [
            f"store(m, {self._value(i)}, {name})" for i, name in enumerate(self.stored.values())
        ]
        for name in cell.state:
            lines.append(f"store(m, {self._state(name, later=True)}, {self.names[name]}new)")
        of_block, of_unit = self._products(True), self._products(False)
        return [
            "for t in range(start, stop):",
            "    late = t >= shortest",
            *_indent(self._over_units(of_block, [*of_unit, *lines], [])),
        ]

    # -- backward

    def backward(self) -> list[str]:
        """From step `stop` - 1 to the first: what arrives at every product."""
        d, cell = self.derivation, self.cell
        arrives = {name: Symbol("input", ("arrives", name)) for name in cell.state}
        below = d.cotangents(arrives)
        places = {symbol: self.names[name] for name, symbol in d.inputs.items()}
        places |= self.stored
        for name, value in d.new.items():
            if value.op not in ("input", "constant"):
                places.setdefault(value, f"{self.names[name]}new")
        for name in cell.state:
            places[arrives[name]] = f"arrives_{self.names[name]}"
        wanted = [*d.products, *self.edges, *cell.per_unit]
        lines = scalars.statements([(f"d_{self.names[n]}", below[n]) for n in wanted], places)
        where = {self.names[name]: ("m", self._state(name)) for name in cell.state}
        where |= {
            f"{self.names[name]}new": ("m", self._state(name, later=True)) for name in cell.state
        }
        where |= {
            self.names[name]: ("old", f"{self._unit_weight(name)} + back") for name in cell.per_unit
        }
        where |= {name: ("m", self._value(i)) for i, name in enumerate(self.stored.values())}
        head = [line for name in cell.state for line in self._arrivals(name)]
        lines = [*head, *self._loads(lines, where), *lines]
        lines += ["if late:", "    living = load(m, (alive + t) * L) > real(0.0)"]
        lines += [
            f"    d_{self.names[name]} = where(living, d_{self.names[name]}, real(0.0))"
            for name in wanted
        ]
        for i, name in enumerate(self.unit):
            place = f"(dz + t * dz_row + j * {len(self.unit)} + {i}) * L"
            lines.append(f"store(m, {place}, d_{self.names[name]})")
        lines += [
            f"sum_{self.names[name]} = sum_{self.names[name]} + d_{self.names[name]}"
            for name in self.block
        ]
        for i, name in enumerate(self.edges):
            place, mine = f"(edges + {i} * H + {self._index(name)}) * L", f"d_{self.names[name]}"
            if name in cell.of_blocks:
                mine = f"{mine} if j == b * S else load(m, {place}) + {mine}"
            lines.append(f"store(m, {place}, {mine})")
        for i, name in enumerate(cell.per_unit):
            place = f"(d_units + {i} * H + j) * L"
            lines.append(f"store(m, {place}, load(m, {place}) + d_{self.names[name]})")
        start = [f"sum_{self.names[name]} = real(0.0)" for name in self.block]
        end = [
            f"store(m, (dz + t * dz_row + {len(self.unit)} * H + b * {len(self.block)} + {i}) * L, "
            f"sum_{self.names[name]})"
            for i, name in enumerate(self.block)
        ]
        text = [
            "zero = real(0.0)",
            "for k in range(F):",
            "    store(m, (dh + k) * L, zero)",
            f"for k in range({len(self.edges)} * H):",
            "    store(m, (edges + k) * L, zero)",
            "for t in range(stop - 1, -1, -1):",
            "    late = t >= shortest",
            "    back = (history + t * history_row) * L",
            *_indent(self._over_units(start, lines, end)),
        ]
        if not cell.truncated and cell.fed:
            text += ["    for k in range(F):", "        store(m, (dh + k) * L, zero)"]
            text += _indent([line for run in self.runs for line in self._back_product(run)])
        return text

    def _arrivals(self, name: str) -> list[str]:
        """What arrives at a new value from the step after it and from the readout."""
        index, variable = self._index(name), f"arrives_{self.names[name]}"
        terms = []
        if name in self.cell.fed and not self.cell.truncated:
            terms.append(f"load(m, (dh + {self._fed_place(name)} + {index}) * L)")
        if name in self.edges:
            terms.append(f"load(m, (edges + {self.edges.index(name)} * H + {index}) * L)")
        if not terms:
            lines = [f"{variable} = real(0.0)"]
        else:
            # What fades over many steps would end among the subnormal numbers, which some
            # processors multiply a hundred times as slowly: below 1e-31 (float64: 1e-292) it is 0.
            lines = [f"{variable} = ({' + '.join(terms)} + faint) - faint"]
        if name in self.cell.of_blocks and terms:  # once for the block
            lines += ["if j != b * S:", f"    {variable} = real(0.0)"]
        if name == self.cell.state[0]:
            lines += ["if marks[t]:", f"    {variable} = {variable} + load(m, (g + t * H + j) * L)"]
        return lines

    def _dz(self, of_blocks: bool) -> str:
        """Where in a step the cotangents of a unit's, or a block's, products stand."""
        if of_blocks:
            return f"{len(self.unit)} * H + b * {len(self.block)}"
        return f"j * {len(self.unit)}"

    def _back_product(self, run: Run) -> list[str]:
        """What goes on to the numbers that were fed back."""
        if run.kind == "x":
            return []
        index, count = ("b", "blocks") if run.of_blocks else ("j", "H")
        size, before = len(run.names), "1" if run.kind == "h" else "X + 2"
        lines = [
            f"at_z = (dz + t * dz_row + {self._dz(run.of_blocks)} + {run.at}) * L",
            *[f"z{i} = load(m, at_z + {i} * L)" for i in range(size)],
            f"at = ({run.place} + ({index} * ({run.columns}) + {before}) * {size}) * L + back",
            "for k in range(F):",
            "    sum = load(m, (dh + k) * L)",
            *[f"    sum = sum + load(old, at + {i} * L) * z{i}" for i in range(size)],
            "    store(m, (dh + k) * L, sum)",
            f"    at += {size} * L",
        ]
        return [f"for {index} in range({count}):", *_indent(lines)]

    # -- the update

    def _descent_of(self, run: Run, width: int) -> list[str]:
        """The update of a run's weights; the gradients of `width` columns at once in registers."""
        index, count = ("b", "blocks") if run.of_blocks else ("j", "H")
        size = len(run.names)
        text = [
            f"at = ({run.place} + {index} * ({run.columns}) * {size}) * L",
            "k = 0",
            f"while k < {run.columns}:",
        ]
        for some in (width, 1):
            cells = [(i, q) for q in range(some) for i in range(size)]
            lines = [
                *[f"c{i}_{q} = real(0.0)" for i, q in cells],
                f"at_z = (dz + {self._dz(run.of_blocks)} + {run.at}) * L",
                f"at_seen = (seen + {run.first} + k) * L",
                "for t in range(stop):",
                *[f"    z{i} = load(m, at_z + {i} * L)" for i in range(size)],
            ]
            for q in range(some):
                lines.append(f"    one = load(m, at_seen + {q} * L)")
                lines += [f"    c{i}_{q} = c{i}_{q} + z{i} * one" for i in range(size)]
            lines.append("    at_z, at_seen = at_z + dz_row * L, at_seen + row * L")
            for n, (i, q) in enumerate(cells):
                place = f"at + {n} * L"
                lines.append(
                    f"store(w, {place}, load(w, {place}) - load(rate, {place}) * c{i}_{q})"
                )
            lines.append(f"k, at = k + {some}, at + {len(cells)} * L")
            condition = f"if k + {width} <= {run.columns}:" if some > 1 else "else:"
            if width == 1:
                return [f"for {index} in range({count}):", *_indent([*text, *_indent(lines)])]
            text += _indent([condition, *_indent(lines)])
        return [f"for {index} in range({count}):", *_indent(text)]

    def descent(self, registers: int) -> list[str]:
        """The update of all weights of the recurrence."""
        lines = []
        for run in self.runs:
            size = len(run.names)
            width = max([1, *[n for n in (2, 4) if n * size + size < registers]])
            lines += self._descent_of(run, width)
        lines += [
            f"for k in range({len(self.cell.per_unit)} * H):",
            "    at = (units + k) * L",
            "    store(w, at, load(w, at) - load(rate, at) * load(m, (d_units + k) * L))",
            "    store(m, (d_units + k) * L, real(0.0))",
        ]
        return lines

    def gather(self) -> list[str]:
        """The gradient of the weights of symbols, from what arrived at the products."""
        lines = []
        for of_blocks, index, count in ((False, "j", "H"), (True, "b", "blocks")):
            shown = self.shown(of_blocks)
            if shown:
                before = f"{len(self.shown(False))} * H + " if of_blocks else ""
                lines += [
                    f"for {index} in range({count}):",
                    f"    at = to + {before}{index} * {len(shown)}",
                    f"    at_z = dz + t * dz_row + {self._dz(of_blocks)}",
                ]
                lines += [
                    f"    m[(at + {g}) * L + l] += m[(at_z + {i}) * L + l]"
                    for g, (i, _) in enumerate(shown)
                ]
        return [
            "for l in range(L):",
            "    k = min(first + l, trials - 1)",
            "    kk = k if shown.shape[0] > 1 else 0",
            "    for t in range(stop):",
            "        to = dwx + shown[kk, n, t] * x_rows",
            *_indent(lines, 2),
        ]

    # -- the module

    def source(self, dtype: str, width: int, registers: int, common: str) -> str:
        """The module: `width` lanes of a dtype, on a machine with so many registers.

        `common` is the name of the module that has what is the same for all cells.
        """
        faint = "2.0**-80" if dtype == "float32" else "2.0**-920"
        kinds = _kinds(dtype)
        text = [
            *_function(
                "forward(s, m, w, start, stop, shortest)", "ints mw i i i", kinds, self.forward()
            ),
            *_function(
                "backward(s, m, old, marks, stop, shortest)",
                "ints mw ints i i",
                kinds,
                [f"faint = real({faint})", *self.backward()],
            ),
            *_function(
                "descend(s, m, w, rate, stop)", "ints mw m i", kinds, self.descent(registers)
            ),
            *_function("gather(s, m, shown, n, stop)", "ints m shown i i", kinds, self.gather()),
            *_function(
                "run(s, m, w, rate, marks, inputs, shown, y_given, classes, lengths, used, loss, "
                "worst, out)",
                "ints mw m ints m shown four shown lengths used two two four",
                kinds,
                RUN.splitlines(),
            ),
        ]
        functions = "read, show, descend_symbols, descend_readout"
        head = [f"# cell {self.cell.name}: {width} trials side by side"]
        return _module(dtype, width, [*head, f"from {common} import {functions}"], text)


def _kinds(dtype: str) -> dict[str, str]:
    """Types of arguments by what they are called in the signatures here."""
    return {
        "ints": "int64[::1]",
        "m": f"{dtype}[::1]",
        "mw": f"{dtype}[::1], {dtype}[::1]",
        "i": "intp",
        "four": f"{dtype}[:, :, :, ::1]",
        "two": f"{dtype}[:, ::1]",
        "shown": "int32[:, :, ::1]",
        "lengths": "int32[:, ::1]",
        "used": "uint8[:, :, ::1]",
    }


def _function(
    declaration: str,
    arguments: str,
    kinds: dict[str, str],
    lines: Sequence[str],
    result: str = "void",
) -> list[str]:
    """A function of a module, which unpacks from `s` what it uses."""
    used = scalars.words(lines) - scalars.words([declaration])
    signature = ", ".join([kinds[name] for name in arguments.split(" ")])
    return [
        "",
        "",
        f'@njit("{result}({signature})", cache=on_disk, error_model="numpy", nogil=True)',
        f"def {declaration}:",
        *[f"    {name} = s[{i}]" for i, name in enumerate(NUMBERS) if name in used],
        *_indent(lines),
    ]


def _module(dtype: str, width: int, head: Sequence[str], text: Sequence[str]) -> str:
    functions = scalars.functions(text)
    first = [
        *head[:1],
        "from math import inf, nan",
        "",
        "from numba import njit",
        "",
        f"from microtensor.recurrence.drivers.lanes import {', '.join(['of', *functions])}",
        *head[1:],
        "",
        f'load, store, spread, real, *_ = of("{dtype}", {width})',
        f"L = {width}",
    ]
    return "\n".join([*first, *text, ""])


def common_source(dtype: str, width: int) -> str:
    """The module of what is the same for all cells."""
    kinds = _kinds(dtype)
    text = [
        *_function(
            "read(s, m, w, shown, y_given, classes, used, out, n, t, at)",
            "ints mw shown four shown used four i i i",
            kinds,
            READ.splitlines(),
            "boolean",
        ),
        *_function(
            "show(s, m, w, shown, n, start, stop)", "ints mw shown i i i", kinds, SHOW.splitlines()
        ),
        *_function(
            "descend_symbols(s, m, w, rate, shown, n, start, stop, place, found, rows)",
            "ints mw m shown i i i i i i",
            kinds,
            DESCEND_SYMBOLS.splitlines(),
        ),
        *_function(
            "descend_readout(s, m, w, rate)", "ints mw m", kinds, DESCEND_READOUT.splitlines()
        ),
    ]
    return _module(dtype, width, ["# online learning: what is the same for all cells"], text)


# The readout at step t: outputs, loss, and what is needed to learn. `at` is the target's place
# among the steps that may have one. Whether any trial has a target.
READ = """\
found = False
for l in range(L):
    k = min(first + l, trials - 1)
    here = used[k, n, at] != 0
    m[use * L + l] = 1.0 if here else 0.0
    found = found or here
if not found:
    return False
for l in range(L):
    k = min(first + l, trials - 1)
    if y_given.shape[0] > 0:
        kk = k if y_given.shape[0] > 1 else 0
        for o in range(O):
            m[(target + o) * L + l] = y_given[kk, n, at, o]
    else:
        kk = k if classes.shape[0] > 1 else 0
        for o in range(O):
            m[(target + o) * L + l] = 0.0
        m[(target + classes[kk, n, at]) * L + l] = 1.0
    if direct and symbols:
        kk = k if shown.shape[0] > 1 else 0
        to = wox + shown[kk, n, t] * O
        for o in range(O):
            m[(net + o) * L + l] = w[(to + o) * L + l]
zero = real(0.0)
half = real(0.5)
one = real(1.0)
counts = load(m, use * L) > zero
h = (h_at + (t + 1) * h_row) * L
for o in range(O):
    sum = load(w, (bo + o) * L)
    for k in range(H):
        sum = sum + load(w, (wo + o * H + k) * L) * load(m, h + k * L)
    if direct:
        if symbols:
            sum = sum + load(m, (net + o) * L)
        else:
            for i in range(I):
                sum = sum + load(w, (wox + i * O + o) * L) * load(m, (seen + t * row + i) * L)
    store(m, (net + o) * L, sum)
top = load(m, net * L)
weight = zero
if output == 0:
    for o in range(O):
        store(m, (y + o) * L, load(m, (net + o) * L))
elif output == 1:
    for o in range(O):
        store(m, (y + o) * L, sigmoid(load(m, (net + o) * L)))
else:
    for o in range(1, O):
        top = maximum(top, load(m, (net + o) * L))
    for o in range(O):
        e = exp(load(m, (net + o) * L) - top)
        store(m, (y + o) * L, e)
        weight = weight + e
    for o in range(O):
        store(m, (y + o) * L, load(m, (y + o) * L) / weight)
losses = zero
mean = zero
largest = load(m, far * L)
for o in range(O):
    value = load(m, (y + o) * L)
    wanted = load(m, (target + o) * L)
    error = value - wanted
    largest = maximum(largest, where(counts, absolute(error), zero))
    if loss_kind == 0:
        losses = losses + half * error * error
        mean = mean + error * value
        store(m, (d + o) * L, error)
    else:
        logit = load(m, (net + o) * L)
        if output == 1:
            losses = losses + (
                (maximum(logit, zero) - logit * wanted) + log1p(exp(-absolute(logit)))
            )
            store(m, (d + o) * L, error)
        else:
            losses = losses + wanted * (log(weight) - (logit - top))
            mean = mean + wanted
store(m, far * L, largest)
store(m, total * L, load(m, total * L) + where(counts, losses, zero))
for o in range(O):
    value = load(m, (y + o) * L)
    if loss_kind == 1 and output == 2:
        slope = value * mean - load(m, (target + o) * L)
    else:
        slope = load(m, (d + o) * L)
        if loss_kind == 0 and output == 1:
            slope = slope * value * (one - value)
        elif loss_kind == 0 and output == 2:
            slope = value * (slope - mean)
    store(m, (d + o) * L, where(counts, slope, zero))
if keep:
    for l in range(min(L, trials - first)):
        if m[use * L + l] > 0.0:
            for o in range(O):
                out[first + l, n, at, o] = m[(y + o) * L + l]
if training:
    for k in range(H):
        sum = zero
        one_h = load(m, h + k * L)
        for o in range(O):
            slope = load(m, (d + o) * L)
            sum = sum + slope * load(w, (wo + o * H + k) * L)
            place = (dwo + o * H + k) * L
            store(m, place, load(m, place) + slope * one_h)
        store(m, (g + t * H + k) * L, sum)
    for o in range(O):
        slope = load(m, (d + o) * L)
        store(m, (dbo + o) * L, load(m, (dbo + o) * L) + slope)
        if direct and not symbols:
            for i in range(I):
                place = (dwox + i * O + o) * L
                store(m, place, load(m, place) + slope * load(m, (seen + t * row + i) * L))
    if direct and symbols:
        for l in range(L):
            k = min(first + l, trials - 1)
            kk = k if shown.shape[0] > 1 else 0
            to = dwox + shown[kk, n, t] * O
            for o in range(O):
                m[(to + o) * L + l] += m[(d + o) * L + l]
return True
"""

# The products of symbols: rows of the weights.
SHOW = """\
for l in range(L):
    k = min(first + l, trials - 1)
    kk = k if shown.shape[0] > 1 else 0
    for t in range(start, stop):
        to = wx + shown[kk, n, t] * x_rows
        for r in range(x_rows):
            m[(zx + t * x_rows + r) * L + l] = w[(to + r) * L + l]
"""

# The weights at `place` of symbols that were shown: `rows` numbers each, their gradient at `found`.
DESCEND_SYMBOLS = """\
if I <= 4 * (stop - start):
    for r in range(I * rows):
        at = (place + r) * L
        store(w, at, load(w, at) - load(rate, at) * load(m, (found + r) * L))
        store(m, (found + r) * L, real(0.0))
else:
    for l in range(L):
        k = min(first + l, trials - 1)
        kk = k if shown.shape[0] > 1 else 0
        for t in range(start, stop):
            to = shown[kk, n, t] * rows
            for r in range(to, to + rows):
                w[(place + r) * L + l] -= rate[(place + r) * L + l] * m[(found + r) * L + l]
                m[(found + r) * L + l] = 0.0
"""

DESCEND_READOUT = """\
zero = real(0.0)
for k in range(O * H):
    at = (wo + k) * L
    store(w, at, load(w, at) - load(rate, at) * load(m, (dwo + k) * L))
    store(m, (dwo + k) * L, zero)
for o in range(O):
    at = (bo + o) * L
    store(w, at, load(w, at) - load(rate, at) * load(m, (dbo + o) * L))
    store(m, (dbo + o) * L, zero)
if direct and not symbols:
    for k in range(I * O):
        at = (wox + k) * L
        store(w, at, load(w, at) - load(rate, at) * load(m, (dwox + k) * L))
        store(m, (dwox + k) * L, zero)
"""

RUN = """\
zero = real(0.0)
for n in range(N):
    longest, shortest = 0, lengths[first, n]
    for l in range(L):
        k = min(first + l, trials - 1)
        longest, shortest = max(longest, lengths[k, n]), min(shortest, lengths[k, n])
    for t in range(shortest, longest):
        for l in range(L):
            k = min(first + l, trials - 1)
            m[(alive + t) * L + l] = 1.0 if t < lengths[k, n] else 0.0
    if not symbols:
        for l in range(L):
            k = min(first + l, trials - 1)
            source = 0 if shared else k * N * steps * I
            source += n * steps * I
            at = seen * L + l
            for _ in range(longest):
                for i in range(I):
                    m[at + i * L] = inputs[source + i]
                source, at = source + I, at + row * L
    store(m, total * L, zero)
    store(m, far * L, zero)
    if not per_step:
        if symbols:
            show(s, m, w, shown, n, 0, longest)
        forward(s, m, w, 0, longest, shortest)
    heard = False
    for t in range(longest):
        marks[t] = 0
        if per_step:
            if symbols:
                show(s, m, w, shown, n, t, t + 1)
            forward(s, m, w, t, t + 1, shortest)
            for k in range(history_row):
                store(m, (history + t * history_row + k) * L, load(w, k * L))
        if last:
            if t < shortest - 1:
                continue
            for l in range(L):
                k = min(first + l, trials - 1)
                used[k, n, 0] = 1 if lengths[k, n] == t + 1 else 0
            here = read(s, m, w, shown, y_given, classes, used, out, n, t, 0)
        else:
            here = read(s, m, w, shown, y_given, classes, used, out, n, t, t)
        if here and training:
            marks[t] = 1
            heard = True
            if per_step:
                backward(s, m, m, marks, t + 1, shortest)
                marks[t] = 0
                descend(s, m, w, rate, t + 1)
                if symbols:
                    gather(s, m, shown, n, t + 1)
                    descend_symbols(s, m, w, rate, shown, n, 0, t + 1, wx, dwx, x_rows)
                    if direct:
                        descend_symbols(s, m, w, rate, shown, n, t, t + 1, wox, dwox, O)
                descend_readout(s, m, w, rate)
    if heard and not per_step:
        backward(s, m, w, marks, longest, shortest)
        descend(s, m, w, rate, longest)
        if symbols:
            gather(s, m, shown, n, longest)
            descend_symbols(s, m, w, rate, shown, n, 0, longest, wx, dwx, x_rows)
            if direct:
                descend_symbols(s, m, w, rate, shown, n, 0, longest, wox, dwox, O)
        descend_readout(s, m, w, rate)
    for l in range(min(L, trials - first)):
        loss[first + l, n] = m[total * L + l]
        worst[first + l, n] = m[far * L + l]
"""


# ---------------------------------------------------------------------------------------------
# Around it


_modules: dict[tuple[Any, str], Any] = {}


def prepare(cell: Any, dtype: Any) -> Any:
    """The compiled loops of a cell, and how they arrange things: (module, loops, lanes).

    Raises
    ------
    ModuleNotFoundError
        If Numba cannot be imported.
    Exception
        Whatever the cell's derivation or Numba have to say.
    """
    found = _modules.get((cell, dtype.name))
    if found is None:
        if compiled.numba() is None:
            raise ModuleNotFoundError("Numba cannot be imported: pip install microtensor[fast]")
        lanes = importlib.import_module("microtensor.recurrence.drivers.lanes")
        loops = Loops(cell)
        width = compiled.register() // dtype.itemsize
        text = common_source(dtype.name, width)
        common = compiled.load(f"online_{dtype.name}x{width}", text, [lanes])
        registers = 32 if compiled.register() == 64 else 16
        text = loops.source(dtype.name, width, registers, common.__name__)
        name = f"online_{cell.name}" if cell.name.isidentifier() else "online_cell"
        module = compiled.load(name, text, [lanes])
        found = _modules[cell, dtype.name] = module, loops, width
    return found


class InThread:
    """Something that is done in a thread of its own, in a copy of this one's context."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._result: Any = None
        self._error: BaseException | None = None
        target = contextvars.copy_context().run
        self._thread = threading.Thread(target=target, args=(self._run, function), daemon=True)
        self._thread.start()

    def _run(self, function: Callable[[], Any]) -> None:
        try:
            self._result = function()
        except BaseException as error:
            self._error = error

    def result(self) -> Any:
        """What came of it, or its exception, once it is done."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result


class Online:
    """The driver for one problem; its memory grows with the longest sequence that was met."""

    def __init__(self, problem: Any, threads: int) -> None:
        self.problem, self.threads = problem, threads
        self.module, self.loops, self.width = prepare(problem.cell, problem.dtype)
        self.groups = -(-problem.trials // self.width)
        self.capacity, self.symbols = 0, False

    def _arrange_weights(self) -> None:
        """Where each number of `w` stands among the trial's weights, laid end to end; or -1."""
        p, loops, cell = self.problem, self.loops, self.problem.cell
        H, I, F, S = p.hidden, p.inputs, p.fed, p.block_size
        sizes = [int(np.prod(shape)) for shape in p.shapes.values()]
        starts = dict(zip(p.shapes, np.cumsum([0, *sizes]).tolist(), strict=False))

        def place(name: str, *at: Any) -> Any:
            """Of elements of a weight, -1 if there is no such weight or a row of it is negative."""
            at = np.broadcast_arrays(*at)
            if name not in starts:
                return np.full(at[0].shape, -1)
            found = starts[name] + np.ravel_multi_index(
                [np.maximum(i, 0) for i in at], p.shapes[name]
            )
            return np.where(at[0] < 0, -1, found)

        def rows(names: Sequence[str], of_blocks: bool, gates: Sequence[str]) -> Any:
            """The rows of weights (count, products) of units or blocks."""
            widths = [cell.width(gate, H, S) for gate in gates]
            offsets = dict(zip(gates, np.cumsum([0, *widths]).tolist(), strict=False))
            of = [name if name in cell.gates else name[:-2] for name in names]
            count = H // S if of_blocks else H
            return np.stack(
                [
                    np.arange(count) + offsets[gate] if gate in offsets else np.full(count, -1)
                    for gate in of
                ],
                axis=-1,
            )

        fed, shown, outputs = np.arange(F), np.arange(I), np.arange(p.outputs)
        parts: dict[str, list[Any]] = {name: [] for name in IN_W}
        for run in loops.runs:
            row = rows(run.names, run.of_blocks, cell.gates)[:, None, :]
            biased = rows(run.names, run.of_blocks, cell.biased)[:, None, :]
            columns = []
            if run.kind != "h":
                if not self.symbols:
                    columns.append(place("weight_ih", row, shown[:, None]))
                columns.append(place("bias_ih", biased))
            if run.kind != "x":
                columns += [place("bias_hh", biased), place("weight_hh", row, fed[:, None])]
            parts[run.place].append(np.concatenate(columns, axis=1).ravel())
        for name in cell.per_unit:
            parts["units"].append(place(name, np.arange(H)))
        row = np.concatenate(
            [
                rows([name for _, name in loops.shown(few)], few, cell.gates).ravel()
                for few in (False, True)
                if loops.shown(few)
            ]
        )
        self.x_rows = len(row)
        if self.symbols:
            parts["wx"].append(place("weight_ih", row, shown[:, None]).ravel())
        parts["wo"].append(place("readout_weight", outputs[:, None], np.arange(H)).ravel())
        if p.direct:
            parts["wox"].append(place("readout_weight", outputs, H + shown[:, None]).ravel())
        parts["bo"].append(place("readout_bias", outputs))
        self.places, at = {}, 0
        for name, found in parts.items():
            self.places[name] = at
            at += sum([len(part) for part in found])
        self.index = np.concatenate([part for found in parts.values() for part in found])
        self.history = self.places["wx"]
        self.home = np.empty(sum(sizes), int)  # and back: each number's place in `w`
        self.home[self.index[self.index >= 0]] = np.flatnonzero(self.index >= 0)
        shape = (self.groups, len(self.index) * self.width)
        self.w, self.rate = np.zeros(shape, p.dtype), np.zeros(shape, p.dtype)

    def _arrange_memory(self, T: int) -> None:
        """Places in `m` for sequences of T steps."""
        p, loops, cell = self.problem, self.loops, self.problem.cell
        H, I, O, F, blocks = p.hidden, p.inputs, p.outputs, p.fed, p.hidden // p.block_size
        X = 0 if self.symbols else I
        # Rows whose distance is a power of two would meet in the same lines of the cache.
        row = (X + 2 + F) | 1
        dz_row = (len(loops.unit) * H + len(loops.block) * blocks) | 1
        state_row = len(loops.others) * H | 1
        sizes = {
            "seen": (T + 1) * row,
            "zx": T * self.x_rows if self.symbols else 0,
            "states": (T + 1) * state_row,
            "values": T * H * len(loops.stored),
            "dz": T * dz_row,
            "dh": F,
            "edges": len(loops.edges) * H,
            "g": T * H,
            "d_units": len(cell.per_unit) * H,
            "dwx": I * self.x_rows if self.symbols else 0,
            **dict.fromkeys(("net", "y", "d", "target"), O),
            **dict.fromkeys(("use", "total", "far"), 1),
            "alive": T,
            "dwo": O * H,
            "dwox": O * I if p.direct else 0,
            "dbo": O,
            "history": T * self.history if p.steps else 0,
        }
        starts = np.cumsum([0, *sizes.values()]).tolist()
        at = dict(zip(sizes, starts, strict=False))
        h = cell.state[0]
        if h in cell.fed:
            before = cell.fed[: cell.fed.index(h)]
            h_at = at["seen"] + X + 2 + sum([cell.width(n, H, p.block_size) for n in before])
        else:
            h_at = at["states"]  # the first of those that are not fed
        self.numbers = {
            **self.places,
            **at,
            "history": at["history"] if p.steps else 0,
            "trials": p.trials,
            "I": I,
            "H": H,
            "O": O,
            "S": p.block_size,
            "blocks": blocks,
            "F": F,
            "X": X,
            "symbols": self.symbols,
            "direct": p.direct,
            "per_step": p.steps,
            "keep": p.keep,
            "output": ("linear", "sigmoid", "softmax").index(p.output),
            "loss_kind": ("squared_error", "cross_entropy").index(p.loss),
            "row": row,
            "dz_row": dz_row,
            "state_row": state_row,
            "h_at": h_at,
            "h_row": row if h in cell.fed else state_row,
            "x_rows": self.x_rows,
            "history_row": self.history if p.steps else 0,
        }
        self.memory, self.marks = [], []
        for _ in range(min(self.threads, self.groups)):
            memory = np.zeros((starts[-1], self.width), p.dtype)
            memory[: (T + 1) * row].reshape(T + 1, row, -1)[:, X : X + 2] = 1
            self.memory.append(memory.ravel())
            self.marks.append(np.zeros(T, np.int64))
        self.capacity = T

    def _pack(self, values: dict[str, Array], into: Array) -> None:
        """Weights by name (K, ...) into (groups, numbers * lanes)."""
        K, groups = self.problem.trials, self.groups
        parts = [values[name].reshape(K, -1) for name in self.problem.shapes]
        nothing = np.zeros((K, 1), into.dtype)  # the last one, where `index` is -1
        lanes = np.concatenate([*parts, nothing], axis=1).take(self.index, axis=1)
        whole = np.zeros((groups * self.width, len(self.index)), into.dtype)
        whole[:K] = lanes
        into.reshape(groups, -1, self.width)[...] = whole.reshape(groups, self.width, -1).swapaxes(
            1, 2
        )

    def _unpack(self, weights: dict[str, Array]) -> None:
        K, at = self.problem.trials, 0
        lanes = self.w.reshape(self.groups, -1, self.width).swapaxes(1, 2)
        flat = lanes.reshape(self.groups * self.width, -1)[:K].take(self.home, axis=1)
        for name, shape in self.problem.shapes.items():
            size = int(np.prod(shape))
            weights[name][...] = flat[:, at : at + size].reshape(K, *shape)
            at += size

    def run(self, weights: dict[str, Array], rates: dict[str, Array], chunk: Any) -> Any:
        """Train on a chunk, in place; `rates` broadcast to the weights.

        Returns loss (K, N), worst (K, N), and outputs (K, N, S, O) or None.
        """
        p = self.problem
        K, (N, T) = p.trials, chunk.inputs.shape[1:3]
        symbols = chunk.inputs.ndim == 3
        if not self.capacity or symbols != self.symbols:
            self.symbols, self.capacity = symbols, 0
            self._arrange_weights()
        if self.capacity < T:
            self._arrange_memory(T)
        self._pack(weights, self.w)
        self._pack({n: np.broadcast_to(r, weights[n].shape) for n, r in rates.items()}, self.rate)
        nothing = {n: np.zeros((0,) * n, np.int32 if n == 3 else p.dtype) for n in (1, 3, 4)}
        classes = chunk.targets.ndim == 3
        loss, worst = np.zeros((K, N), p.dtype), np.zeros((K, N), p.dtype)
        out = np.zeros((*chunk.used.shape, p.outputs), p.dtype) if p.keep else nothing[4]
        arrays = (
            nothing[1] if symbols else chunk.inputs.reshape(-1),
            chunk.inputs if symbols else nothing[3],
            nothing[4] if classes else chunk.targets,
            chunk.targets if classes else nothing[3],
            chunk.lengths,
            chunk.used.astype(np.uint8),
            loss,
            worst,
            out,
        )

        def work(thread: int) -> None:
            memory, marks = self.memory[thread], self.marks[thread]
            for group in range(thread, self.groups, len(self.memory)):
                mine = {
                    "first": group * self.width,
                    "N": N,
                    "steps": T,
                    "shared": len(chunk.inputs) == 1,
                    "last": chunk.last,
                    "training": bool(self.rate[group].any()),
                }
                known = self.numbers | mine
                numbers = np.array([known[name] for name in NUMBERS], np.int64)
                self.module.run(numbers, memory, self.w[group], self.rate[group], marks, *arrays)

        others = [InThread(partial(work, thread)) for thread in range(1, len(self.memory))]
        work(0)
        for other in others:
            other.result()
        self._unpack(weights)
        return loss, worst, out if p.keep else None
