"""A cell as loops for Numba: printed from its expressions (derivation.py, scalars.py).

Sizes: T steps, B sequences, I inputs, H units, and P, which is H rounded up to whole `Lanes`
(lanes.py): the units of a layer are computed side by side. All numbers of a call stand in one flat
array `m`, and all sizes and places in a second one, `s`. The places:

- `hx`: a row [x; 1; h] for each step and sequence, so that input product, recurrent product and
  biases are one matrix product. Its h is the one before the step. A cell that feeds back several
  values has them one after the other in the place of h, P numbers each, and a product for each.
- `record`: for each step and sequence the rest of the old state, and what the backward pass needs
  and would be dear to compute again. Without a backward pass all steps write to the same place.
- `z`, `dz`: a row of P numbers for each product, and what arrives at them.
- `weight` is [W_ih b W_hh] transposed, `back` is W_hh, `back_x` is W_ih, `dw` the gradient of the
  first. Padded units have weights 0, and no sum ever runs over them.

What units of a block share is computed for each of them, from the same weights; of a fed value that
they share, the next step's product meets the first unit's. How large the blocks are is known to the
table of moves alone.

Two functions are printed for a cell, in two variants: without and with masks for recurrent dropout
and for sequences of different lengths. What all cells share is a module of its own: the products,
and the moves of numbers between `m` and the user's arrays (moves.py). So are the loops over the
trials of a stack, of which each has its own `m` and `s`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from microtensor.recurrence import symbols
from microtensor.recurrence.derivation import Derivation, parts
from microtensor.recurrence.drivers import scalars
from microtensor.recurrence.drivers.moves import GROUPS, WEIGHTS, arrays_of, lines_of
from microtensor.recurrence.drivers.printing import DEAR, Program
from microtensor.recurrence.symbols import Symbol

# What `s` holds, in this order: sizes, the distances between rows, and places in `m`.
NUMBERS = (
    *("T", "B", "H", "P", "I", "X"),  # X: inputs, rounded up
    *("F", "M", "R"),  # the length of a row of hx, of z, of record
    "C",  # steps of a block of the backward pass
    "record_step",  # from step to step; 0 where all steps use the same place
    *("hx", "record", "z", "weight", "unit", "mask", "valid"),
    *("dz", "g", "dh", "edge", "back", "back_x", "dx", "dw", "d_unit"),
    *[f"{name}_end" for name in GROUPS],  # of each group in the table of moves
    "nothing",  # 0; behind it stand the addresses of the arrays that a pass is called with
)
ROWS_AT_ONCE = 256  # of the long product of a weight gradient: what stays in the nearest cache


def _at(place: str, row: int) -> str:
    """The place of one of several rows of P numbers."""
    return f"{place} + {row} * P" if row else place


def _flushed(variable: str) -> str:
    """The statement that makes something 0 where it is below 1e-31 (float64: 1e-292).

    What fades over many steps would end among the subnormal numbers, which some processors
    multiply a hundred times as slowly.
    """
    return f"{variable} = ({variable} + faint) - faint"


def common_source(dtype: str, width: int, rows: int) -> str:
    """What the loops of all cells call, as a module.

    `put` makes some of the moves into `m`, and `take` some of those out of it. An array without
    elements is not there, and counts as zeros.

    The product of matrices is
    c[r, j] = sum over k of a[r, k] b[k, j], where the k are `groups` times `count`. Blocks of
    `rows` times two lanes stay in registers.
    """
    lines: list[str] = []

    def tile(rows: int, lanes: int, sums: int = 1) -> None:
        """One block at row r and column j; `sums`: partial sums, where they would be a chain."""
        cells = [(i, v) for i in range(rows) for v in range(lanes)]
        write = [f"c{i}_{v}_{u} = real(0.0)" for i, v in cells for u in range(sums)]
        write += ["for group in range(groups):"]
        write += ["    p, q = a + r * a_row + group * a_group, b + group * count * b_k + j"]

        def terms(u: int) -> list[str]:
            found = [f"x{v} = load(m, q + {v * width})" for v in range(lanes)]
            for i in range(rows):
                found.append(f"w = spread(m, p + {i} * a_row)")
                found += [f"c{i}_{v}_{u} = c{i}_{v}_{u} + w * x{v}" for v in range(lanes)]
            return [*found, "p, q = p + a_k, q + b_k"]

        if sums > 1:
            write += [f"    for k in range(count // {sums}):"]
            write += [f"        {line}" for u in range(sums) for line in terms(u)]
            write += [f"    for k in range(count % {sums}):"]
        else:
            write += ["    for k in range(count):"]
        write += [f"        {line}" for line in terms(0)]
        write += ["at = c + r * c_row + j"]
        for i, v in cells:
            value = " + ".join([f"c{i}_{v}_{u}" for u in range(sums)])
            place = f"at + {i} * c_row + {v * width}"
            write += [f"c{i}_{v}_0 = {value}"]
            write += ["if more:", f"    c{i}_{v}_0 = load(m, {place}) + c{i}_{v}_0"]
            write += [f"store(m, {place}, c{i}_{v}_0)"]
        lines.extend(["    " * 3 + line for line in write])

    def columns(lanes: int) -> None:
        lines.append(f"        while j + {lanes * width} <= columns:")

    whole = f"range(0, rows - {rows - 1}, {rows})"
    lines += ["    j = 0", f"    while j + {2 * width} <= columns:", f"        for r in {whole}:"]
    tile(rows, 2)
    lines += [f"        j += {2 * width}", "    while j < columns:", f"        for r in {whole}:"]
    tile(rows, 1)
    lines += [f"        j += {width}", f"    for r in range(rows - rows % {rows}, rows):"]
    lines += ["        j = 0", f"        while j + {4 * width} <= columns:"]
    tile(1, 4)
    lines += [f"            j += {4 * width}", "        while j < columns:"]
    tile(1, 1, sums=4)
    lines += [f"            j += {width}"]
    arguments = "a, a_row, a_k, a_group, b, b_k, c, c_row, rows, groups, count, columns"
    kinds = ", ".join([f"{dtype}[::1]", *["intp"] * 12, "boolean"])
    some = f"{dtype}[::1], int64[::1], int64[:, ::1], intp, intp, intp, intp"
    return "\n".join(
        [
            *_header(dtype, width, ("stay_apart",), "from numpy import uint64"),
            *_function("put(m, s, moves, first, last, start, stop)", some),
            *lines_of(
                len(NUMBERS) - 1,
                ("if address != 0 and add", "m[p] += peek(address, q)"),
                ("elif address != 0", "m[p] = peek(address, q)"),
                ("elif not add", "m[p] = 0"),
            ),
            *("", ""),
            *_function("take(m, s, moves, first, last, start, stop)", some),
            *lines_of(
                len(NUMBERS) - 1,
                ("if address != 0 and add", "poke(address, q, peek(address, q) + m[p])"),
                ("elif address != 0", "poke(address, q, m[p])"),
            ),
            *("", ""),
            *_function(f"product(m, {arguments}, more)", kinds),
            *lines,
            "",
        ]
    )


def _header(dtype: str, width: int, functions: Sequence[str], *imports: str) -> list[str]:
    return [
        "from math import inf, nan",
        "",
        "from numba import njit",
        "",
        f"from microtensor.recurrence.drivers.lanes import {', '.join(['of', *functions])}",
        *imports,
        "",
        f'load, store, spread, real, peek, poke = of("{dtype}", {width})',
        "",
        "",
    ]


def _function(declaration: str, kinds: str) -> list[str]:
    options = 'cache=on_disk, error_model="numpy", nogil=True'
    return [f'@njit("void({kinds})", {options})', f"def {declaration}:"]


def _kinds(dtype: str, arrays: Mapping[str, int], stacked: bool = False) -> list[str]:
    """Numba's types of what a pass is called with; in a stack all but the moves has its trials."""
    trials = ":, " * stacked
    kinds = [f"{dtype}[{trials}{':, ' * (axes - 1)}::1]" for axes in arrays.values()]
    kinds[0] = f"{dtype}[{trials}:, :, :]"  # x, or what arrives at the outputs: in any order
    return [f"{dtype}[{trials}::1]", f"int64[{trials}::1]", "int64[:, ::1]", *kinds]


def stored_of(d: Derivation, names: Mapping[str, str]) -> dict[Symbol, str]:
    """What the Jacobian asks for and is dear to compute, with a name each; `names` of the products.

    The forward pass keeps it. The rest the backward pass computes again.
    """
    computed = parts(d.new.values())
    new = {value for value in d.new.values() if value.op != "input"}
    stored: dict[Symbol, str] = {}

    def visit(value: Symbol) -> None:
        if value in new or value.op == "constant":
            return
        if value.op == "input":
            if value.args[0] in d.products:
                stored.setdefault(value, names[value.args[0]])
        elif value.op in DEAR and value in computed:
            stored.setdefault(value, f"v{len(stored)}")
        else:
            for argument in value.args:
                visit(argument)

    for entry in d.jacobian.values():
        visit(entry)
    return stored


class Loops:
    """A cell's loops as source.

    Attributes
    ----------
    rows
        Names of the products in the order of their rows in `z`: those that meet h first.
    runs
        (first row, last + 1, kind) of rows that meet the same part of [x; 1; h]: kind "" for all,
        "h" and "x" for the two halves of gates apart.
    pieces
        (first row, last + 1, gate, kind) of rows that stand side by side in the user's weights too,
        from that gate on.
    fed
        Names of the state that stand in `hx`, P numbers each.
    kept
        What a row of `record` consists of, P numbers each: names of the old state, then variables.
    edges
        Values of the old state that something arrives at other than through the product.
    """

    def __init__(self, program: Program, general: bool) -> None:
        self.cell, self.derivation, self.general = program.cell, program.derivation, general
        self.fades = program.fades
        self.compiled: dict[Any, Any] = {}  # by dtype and width: the module, or why there is none
        cell, d = self.cell, self.derivation
        self.names = d.variables
        by_kind: dict[str, list[str]] = {"": [], "h": [], "x": []}
        for name in d.products:
            by_kind["" if name in cell.gates else name[-1]].append(name)
        self.rows = [name for names in by_kind.values() for name in names]
        self.runs: list[tuple[int, int, str]] = []
        for kind, names in by_kind.items():
            if names:
                first = self.runs[-1][1] if self.runs else 0
                self.runs.append((first, first + len(names), kind))
        self.heard = len(by_kind[""]) + len(by_kind["h"])
        # Gates with different numbers of rows, or some of which have no bias.
        apart = bool(cell.per_block) or cell.biased != cell.gates
        self.pieces: list[tuple[int, int, int, str]] = []
        for row, name in enumerate(self.rows):
            kind = "" if name in cell.gates else name[-1]
            gate = cell.gates.index(name[:-2] if kind else name)
            last = self.pieces[-1] if self.pieces and not apart else None
            if last and last[3] == kind and last[2] + row - last[0] == gate:
                self.pieces[-1] = (last[0], row + 1, *last[2:])
            else:
                self.pieces.append((row, row + 1, gate, kind))
        self.fed = cell.fed
        self.kept: list[str] = [name for name in cell.state if general or name not in self.fed]
        self.stored = stored_of(d, self.names)
        self.kept += list(self.stored.values())
        written = {name for _, name in d.jacobian}
        self.edges = [
            name for name in cell.state if name not in self.fed or name in written or general
        ]

    # -- places of numbers

    def _record(self, name: str, later: bool = False) -> str:
        return _at("at_record" + " + record_step" * later, self.kept.index(name))

    def _state(self, name: str, later: bool = False) -> str:
        """Where a value of the state stands, before the step or after it."""
        if name in self.kept:
            return self._record(name, later)
        return _at("at_h" + " + B * F" * later, self.fed.index(name))

    def _loads(self, lines: Sequence[str], places: dict[str, str]) -> list[str]:
        """Statements that bring the variables which the lines use."""
        used = scalars.words(lines)
        return [f"{name} = load(m, {place})" for name, place in places.items() if name in used]

    # -- forward

    @staticmethod
    def _whole(width: int, statement: str) -> list[str]:
        """What is done for all sequences and units."""
        return ["for b in range(B):", f"    for j in range(0, P, {width}):", f"        {statement}"]

    def forward(self, width: int) -> list[str]:
        """The loop over all steps."""
        d = self.derivation
        places = {symbol: self.names[name] for name, symbol in d.inputs.items()}
        values = [(name, value) for value, name in self.stored.items() if value.op != "input"]
        new = [(f"{self.names[name]}new", value) for name, value in d.new.items()]
        lines = scalars.statements([*values, *new], places)
        where = {self.names[name]: _at("at_z", row) for row, name in enumerate(self.rows)}
        where |= {self.names[name]: self._state(name) for name in self.cell.state}
        where |= {self.names[name]: _at("unit + j", k) for k, name in enumerate(self.cell.per_unit)}
        if self.fades:
            lines += [_flushed(f"{self.names[name]}new") for name in self.cell.state]
        if self.general:
            for name in self.cell.state:
                mine = self.names[name]
                lines.append(f"{mine}new = where(is_valid > real(0.0), {mine}new, {mine})")
            for k, name in enumerate(self.fed):
                place = _at("at_h + B * F", k)
                lines.append(f"store(m, {place}, {self.names[name]}new * dropped{k})")
                where |= {f"dropped{k}": self._mask(k)}
        lines = [*self._loads([*lines, *self.stored.values()], where), *lines]
        if self.general:
            lines.insert(0, "is_valid = spread(m, valid + t * B + b)")
        lines += [f"store(m, {self._record(name)}, {name})" for name in self.stored.values()]
        for name in self.cell.state:
            lines.append(f"store(m, {self._state(name, later=True)}, {self.names[name]}new)")
        first = [self._moves("put", "enter", "0", "T")]
        for k, name in enumerate(self.fed if self.general else ()):
            old = _at("record + b * R + j", self.kept.index(name))
            seen = f"load(m, {old}) * load(m, {self._mask(k)})"
            first += self._whole(width, f"store(m, {_at('hx + b * F + I + 1 + j', k)}, {seen})")
        return [
            *first,
            "for t in range(T):",
            *[f"    {line}" for run in self.runs for line in self._product_forward(*run)],
            "    for b in range(B):",
            f"        for j in range(0, P, {width}):",
            "            at_z, at_h = z + b * M + j, hx + (t * B + b) * F + I + 1 + j",
            "            at_record = record + t * record_step + b * R + j",
            *[f"            {line}" for line in lines],
            self._moves("take", "leave", "0", "T"),
        ]

    @staticmethod
    def _moves(function: str, group: str, start: str = "0", stop: str = "0") -> str:
        """The statement that makes a group of moves, the steps among them from start to stop."""
        at = GROUPS.index(group)
        before = f"{GROUPS[at - 1]}_end" if at else "0"
        return f"{function}(m, s, moves, {before}, {group}_end, {start}, {stop})"

    @property
    def _across(self) -> str:
        """How many numbers of a sequence are fed back."""
        return "P" if len(self.fed) == 1 else f"{len(self.fed)} * P"

    def _mask(self, k: int) -> str:
        """The place of what a fed value is multiplied by where it enters the product."""
        return _at(f"mask + b * {self._across} + j", k)

    def _parts(self, kind: str) -> list[tuple[str, str, str]]:
        """The parts of [x; 1; h] that products of this kind meet.

        The place of each in a row of `hx`, that of its weights beside `weight`, and its length.
        """
        start, count = ("I", "1") if kind == "h" else ("0", "I + 1")
        if kind == "x":
            return [(start, f"{start} * M", count)]
        if len(self.fed) == 1:
            return [(start, f"{start} * M", f"{count} + H")]
        ends = [(f"I + 1 + {k} * P", f"(I + 1 + {k} * H) * M", "H") for k in range(len(self.fed))]
        return [(start, f"{start} * M", count), *ends]

    def _product_forward(self, first: int, last: int, kind: str) -> list[str]:
        lines = []
        for part, (seen, place, count) in enumerate(self._parts(kind)):
            lines += [
                f"product(m, hx + t * B * F + {seen}, F, 1, 0, weight + {place} + {first} * P, M,",
                f"        z + {first} * P, M, B, 1, {count}, {last - first} * P, {part > 0})",
            ]
        return lines

    # -- backward

    def backward(self, width: int) -> list[str]:
        """The loop back over blocks of steps, and the products that follow each."""
        d = self.derivation
        symbols_of = {name: Symbol("input", ("arrives", name)) for name in self.cell.state}
        own = {name: Symbol("input", ("own", name)) for name in self.cell.state}
        below = d.cotangents(own if self.general else symbols_of)
        if self.general:  # of sequences that are over, what arrives is handed on
            for name in self.cell.state:
                below[name] = symbols.add(
                    below[name], symbols.subtract(symbols_of[name], own[name])
                )
        places = {symbol: self.names[name] for name, symbol in d.inputs.items()}
        places |= self.stored
        for name, value in d.new.items():
            if value.op not in ("input", "constant"):
                places.setdefault(value, f"{self.names[name]}new")
        for name in self.cell.state:
            places[symbols_of[name]] = f"arrives_{self.names[name]}"
            places[own[name]] = f"own_{self.names[name]}"
        wanted = [*self.rows, *self.edges, *self.cell.per_unit]
        lines = scalars.statements([(f"d_{self.names[n]}", below[n]) for n in wanted], places)
        where = {self.names[name]: self._state(name) for name in self.cell.state}
        where |= {
            f"{self.names[name]}new": self._state(name, later=True) for name in self.cell.state
        }
        where |= {self.names[name]: _at("unit + j", k) for k, name in enumerate(self.cell.per_unit)}
        where |= {name: self._record(name) for name in self.stored.values()}
        head = [line for name in self.cell.state for line in self._arrivals(name)]
        if self.general:
            head.insert(0, "is_valid = spread(m, valid + t * B + b)")
        lines = [*head, *self._loads(lines, where), *lines]
        for row, name in enumerate(self.rows):
            lines.append(f"store(m, {_at('at_dz', row)}, d_{self.names[name]})")
        for row, name in enumerate(self.edges):
            lines.append(f"store(m, {_at('at_edge', row)}, d_{self.names[name]})")
        for k, name in enumerate(self.cell.per_unit):
            place = _at("d_unit + j", k)
            lines.append(f"store(m, {place}, load(m, {place}) + d_{self.names[name]})")
        block = [
            "stop = min(T, start + C)",
            self._moves("put", "arrive", "start", "stop"),
            "for t in range(stop - 1, start - 1, -1):",
            "    for b in range(B):",
            f"        for j in range(0, P, {width}):",
            "            at_dz, at_h = dz + ((t - start) * B + b) * M + j, "
            "hx + (t * B + b) * F + I + 1 + j",
            "            at_record = record + t * record_step + b * R + j",
            f"            at_edge = edge + b * {len(self.edges)} * P + j",
            *[f"            {line}" for line in lines],
            *[f"    {line}" for line in self._carried(width)],
            *self._products_backward(),
            self._moves("take", "pass_on", "start", "stop"),
        ]
        gradients = [f"of_{name}.size" for name in WEIGHTS]
        last = []
        for name in self.edges:
            if name in self.fed:  # two ways lead to the first one
                place = _at(f"edge + b * {len(self.edges)} * P + j", self.edges.index(name))
                both = f"load(m, {place}) + {self._from_product(name)}"
                last += self._whole(width, f"store(m, {place}, {both})")
        return [
            f"weights_wanted, input_wanted = {' + '.join(gradients)} > 0, of_x.size > 0",
            self._moves("put", "return"),
            "if input_wanted:",
            f"    {self._moves('put', 'return_x')}",
            "for start in range((T - 1) // C * C, -1, -C):",
            *[f"    {line}" for line in block],
            *last,
            self._moves("take", "total"),
        ]

    def _arrivals(self, name: str) -> list[str]:
        """What arrives at a new value from the step after it and from outside."""
        terms = []
        if name in self.fed:
            terms += [self._from_product(name)]
        if name == self.cell.state[0]:
            terms += ["load(m, g + ((t - start) * B + b) * P + j)"]
        if name in self.edges:
            terms += [f"load(m, {_at('at_edge', self.edges.index(name))})"]
        variable = f"arrives_{self.names[name]}"
        lines = [f"{variable} = {' + '.join(terms)}"]
        lines += [_flushed(variable)]
        if self.general:
            lines += [f"own_{self.names[name]} = {variable} * is_valid"]
        return lines

    def _from_product(self, name: str) -> str:
        """What has come to a fed value through the product of the step after it."""
        k = self.fed.index(name)
        dropped = f" * load(m, {self._mask(k)})" if self.general else ""
        return f"load(m, {_at(f'dh + b * {self._across} + j', k)}){dropped}"

    def _carried(self, width: int) -> list[str]:
        """What goes through the product to the step before: nothing, if the gradient is cut."""
        across = self._across
        if not self.fed:
            return []
        if self.cell.truncated:
            nothing = [
                f"store(m, {_at(f'dh + b * {across} + j', k)}, real(0.0))"
                for k in range(len(self.fed))
            ]
            lines = [line for one in nothing for line in self._whole(width, one)]
            return ["if t == T - 1:", *[f"    {line}" for line in lines]]
        return [
            f"product(m, dz + (t - start) * B * M, M, 1, P, back, {across},",
            f"        dh, {across}, B, {self.heard}, H, {across}, False)",
        ]

    def _products_backward(self) -> list[str]:
        lines = ["rows = (stop - start) * B"]
        lines += [
            "if weights_wanted:",
            f"    for r in range(0, rows, {ROWS_AT_ONCE}):",
            f"        some = min({ROWS_AT_ONCE}, rows - r)",
        ]
        for first, last, kind in self.runs:
            for seen, place, count in self._parts(kind):
                lines += [
                    f"        product(m, hx + (start * B + r) * F + {seen}, 1, F, 0,",
                    f"                dz + r * M + {first} * P, M, dw + {place} + {first} * P, M,",
                    f"                {count}, 1, some, {last - first} * P, True)",
                ]
        lines += ["if input_wanted:"]
        more, at = False, 0
        for first, last, kind in self.runs:
            if kind != "h":
                lines += [
                    f"    product(m, dz + {first} * P, M, 1, P, back_x + {at} * H * X, X,",
                    f"            dx, X, rows, {last - first}, H, X, {more})",
                ]
                more, at = True, at + last - first
        return lines

    # -- whole modules

    def source(self, dtype: str = "float32", width: int = 16, common: str = "common") -> str:
        """The module of both passes; `common` is the name of the one that all cells share."""
        forward, backward = self.forward(width), self.backward(width)
        functions = scalars.functions([*forward, *backward])
        return "\n".join(
            [
                f"# cell {self.cell.name}: rows of z {', '.join(self.rows)}; "
                f"of record {', '.join(self.kept) or 'none'}",
                *_header(
                    *(dtype, width, ["address_of", *functions]),
                    f"from {common} import product, put, take",
                ),
                *self._pass("forward", dtype, arrays_of(self.cell), forward),
                "",
                "",
                *self._pass("backward", dtype, arrays_of(self.cell, backward=True), backward),
                "",
            ]
        )

    def stack_source(self, dtype: str = "float32", passes: str = "passes") -> str:
        """The module of both passes over a stack; `passes` is the name of the one for a trial.

        Trials `first` to `last` are run one after the other; others may be run at the same time.
        """
        lines = ["from numba import njit", "", f"from {passes} import backward, forward"]
        for title in ("forward", "backward"):
            arrays = arrays_of(self.cell, backward=title == "backward")
            kinds = [*_kinds(dtype, arrays, stacked=True), "intp", "intp"]
            mine = ", ".join([f"{name}[k]" for name in arrays])
            declaration = f"{title}_stack(m, s, moves, {', '.join(arrays)}, first, last)"
            lines += ["", "", *_function(declaration, ", ".join(kinds))]
            lines += ["    for k in range(first, last):"]
            lines += [f"        {title}(m[k], s[k], moves, {mine})"]
        return "\n".join([*lines, ""])

    @staticmethod
    def _pass(title: str, dtype: str, arrays: Mapping[str, int], lines: list[str]) -> list[str]:
        """One of the two functions: its head, the numbers that it uses, and its statements."""
        used = scalars.words(lines)
        head = [f"{number} = s[{i}]" for i, number in enumerate(NUMBERS) if number in used]
        if "faint" in used:
            head.append(f"faint = real({'2.0**-80' if dtype == 'float32' else '2.0**-920'})")
        head += [f"s[{len(NUMBERS) + i}] = address_of({name})" for i, name in enumerate(arrays)]
        return [
            *_function(
                f"{title}(m, s, moves, {', '.join(arrays)})", ", ".join(_kinds(dtype, arrays))
            ),
            *[f"    {line}" for line in [*head, *lines]],
        ]
