"""A cell as straight-line source for arrays: printed from its expressions (derivation.py).

One statement is one call of an array function, into a buffer that was made before. The rows of
gates that meet a sigmoid are halved beforehand: sigmoid(x) = tanh(x / 2) / 2 + 1/2, so that one
tanh serves all gates. What arises is independent of all sizes; arrays.py brings the buffers.

Three functions are printed. `forward` is a loop over the steps. `jacobian` evaluates the local
Jacobian for a whole block of steps. `backward` is the loop that remains: it multiplies the Jacobian
by what arrives at each value of the state, and carries the result to the step before by one
product.

Where nothing goes back through that product, in a truncated cell or one that feeds nothing, hardly
anything remains of the loop: only what goes from one value of the state to the same one before.
All else is evaluated for a whole block of steps, by `before` and `after`.

Units that share a gate stand in an axis of their own, (blocks, units of one, batch), and what there
is of each block once is (blocks, 1, batch), so that arithmetic needs no other statements. Buffers
are of one or of the other kind.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from microtensor.recurrence import symbols
from microtensor.recurrence.derivation import Derivation, parts
from microtensor.recurrence.drivers.scalars import words
from microtensor.recurrence.symbols import Symbol

DEAR = {"tanh", "sigmoid", "exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "power"}
_SWITCHES = {"relu", "maximum", "minimum", "clip", "where"}
_BY_NAME = {"maximum", "minimum"}  # of which a third positional argument is deprecated
BUFFERS = ("t", "mask", "few_t", "few_mask")  # numbers and truths, of units and of blocks


# ---------------------------------------------------------------------------------------------
# Printing


class Printer:
    """Expressions as statements, each of which writes into a buffer that exists."""

    def __init__(
        self,
        places: dict[Symbol, str],
        constants: dict[tuple[float, bool], str],
        few: Callable[[Symbol], bool],
    ) -> None:
        self.places = dict(places)  # where each value stands
        self.constants = constants
        self.few = few  # whether there is one of it for each block
        self.joint: dict[Symbol, Joint] = {}  # what is computed side by side
        self.lines: list[str] = []
        self.buffers = dict.fromkeys(BUFFERS, 0)  # how many of each kind were needed at once

    def print(self, targets: Sequence[tuple[str, Symbol, bool]], early: bool = False) -> None:
        """Statements that put each expression into its target, in as few buffers as possible.

        Targets come with the truth of whether they have place for one of it for each block only.
        If `early`, what only leads to a target is computed in the target's place already.
        """
        wanted: dict[Symbol, str] = {}
        copies = []
        for target, value, few in targets:
            known = value in wanted or value in self.places or value.op == "constant"
            if known or few != self.few(value):
                copies.append((target, value))
            else:
                wanted[value] = target
        computed = [value for _, value in copies if value not in wanted]
        order = [part for part in self._needed([*wanted, *computed]) if part not in self.places]
        last = {}
        for i, part in enumerate(order):
            for argument in part.args:
                last[argument] = i
        last.update(dict.fromkeys(computed, len(order)))
        ahead = self._ahead(order, wanted) if early else {}
        free: dict[str, list[str]] = {kind: [] for kind in BUFFERS}
        held: dict[Symbol, str] = {}
        for i, part in enumerate(order):
            if part in self.joint:
                self.places[part] = self.joint[part].place
                if self.joint[part].statement not in self.lines:
                    self.lines.append(self.joint[part].statement)
                continue
            arguments = [self._place(argument) for argument in part.args]
            released = [a for a in dict.fromkeys(part.args) if a in held and last[a] == i]
            overwrites = part.op != "where"
            if overwrites:
                self._release(released, held, free)
            if part in wanted:
                out = wanted[part]
            elif part in ahead:
                out = ahead[part]
            else:
                out = held[part] = self._buffer(part, free)
            if not overwrites:
                self._release(released, held, free)
            whole = not self.few(part)
            if part.op in ("maximum", "minimum", "clip") and whole:
                arguments = [self._bound(*pair) for pair in zip(part.args, arguments, strict=True)]
            self._statement(part.op, arguments, out, whole)
            self.places[part] = out
        for target, value in copies:
            self.lines.append(f"{target}[...] = {self._place(value)}")

    def _ahead(self, order: list[Symbol], wanted: dict[Symbol, str]) -> dict[Symbol, str]:
        """The targets of what has a single use, on the way to a target, one at a time in each."""
        uses: dict[Symbol, list[Symbol]] = {}
        for part in order:
            for argument in dict.fromkeys(part.args):
                if argument in order:
                    uses.setdefault(argument, []).append(part)
        found: dict[Symbol, str] = {}
        for target, place in wanted.items():
            value = target
            while True:
                below = [
                    argument
                    for argument in value.args
                    if uses.get(argument) == [value]
                    and argument not in wanted
                    and value.op != "where"
                    and argument.dtype == target.dtype
                    and self.few(argument) == self.few(target)
                ]
                if not below:
                    break
                value = below[-1]
                found[value] = place
        return found

    def _needed(self, wanted: Iterable[Symbol]) -> list[Symbol]:
        found: dict[Symbol, None] = {}

        def visit(value: Symbol) -> None:
            if value in found or value in self.places or value.op == "constant":
                return
            for argument in value.args:
                visit(argument)
            found[value] = None

        for value in wanted:
            visit(value)
        return list(found)

    @staticmethod
    def _release(released: list[Symbol], held: Any, free: Any) -> None:
        for argument in released:
            name = held.pop(argument)
            free[name.rstrip("0123456789")].append(name)

    def _buffer(self, part: Symbol, free: dict[str, list[str]]) -> str:
        kind = ("few_" if self.few(part) else "") + ("mask" if part.dtype == symbols.TRUTH else "t")
        if free[kind]:
            return free[kind].pop()
        self.buffers[kind] += 1
        return f"{kind}{self.buffers[kind] - 1}"

    def _place(self, value: Symbol) -> str:
        if value.op == "constant":
            return self.constant(value.args[0])
        return self.places[value]

    def constant(self, value: float, full: bool = False) -> str:
        """A number as an array; `full`: of a step's shape, with which comparing is faster."""
        name = f"{'full' if full else 'k'}{len(self.constants)}"
        return self.constants.setdefault((value, full), name)

    def _bound(self, value: Symbol, place: str) -> str:
        constant = value.op == "constant"
        return self.constant(value.args[0], full=True) if constant else place

    def _statement(self, op: str, arguments: list[str], out: str, whole: bool) -> None:
        write = self.lines.append
        if op == "sigmoid":
            half = self.constant(0.5)
            write(f"multiply({arguments[0]}, {half}, {out})")
            write(f"tanh({out}, {out})")
            write(f"multiply({out}, {half}, {out})")
            write(f"add({out}, {half}, {out})")
        elif op == "relu":
            write(f"maximum({arguments[0]}, {self.constant(0.0, full=whole)}, out={out})")
        elif op == "clip":
            write(f"maximum({arguments[0]}, {arguments[1]}, out={out})")
            write(f"minimum({out}, {arguments[2]}, out={out})")
        elif op == "where":
            write(f"{out}[...] = {arguments[2]}")
            write(f"copyto({out}, {arguments[1]}, where={arguments[0]})")
        elif op == "astype":
            write(f"multiply({arguments[0]}, {self.constant(1.0)}, {out})")
        elif op in _BY_NAME:
            write(f"{op}({', '.join(arguments)}, out={out})")
        else:
            write(f"{op}({', '.join(arguments)}, {out})")


class Joint(NamedTuple):
    """One of several results that arise side by side, by one statement."""

    statement: str
    place: str


class View(NamedTuple):
    """A piece of a buffer: which buffer, whose rows of it, and whether of the step after."""

    buffer: str  # "gates", "values", "state", "unit"; "kept": two gates, or one and what is beside
    name: str  # of the first
    later: bool = False


class Statement(NamedTuple):
    """A statement of the loop backward."""

    call: str
    arguments: tuple[str, ...]
    out: str

    def __str__(self) -> str:
        if self.call == "copy":
            return f"{self.out}[...] = {self.arguments[0]}"
        if self.call == "name":
            return f"{self.out} = {self.arguments[0]}"
        if self.call == "sum":  # over the units of each block
            return f"sum({self.arguments[0]}, -2, None, {self.out}, True)"
        return f"{self.call}({', '.join([*self.arguments, self.out])})"


class Run(NamedTuple):
    """Gates whose rows stand side by side, in our order and in that of the weights."""

    names: tuple[str, ...]
    gates: tuple[str, ...]
    kind: str
    biased: bool


class Loop(NamedTuple):
    """The loop backward: what it does in each step, and before and after, for all at once."""

    before: list[Statement]
    inside: list[Statement]
    after: list[Statement]
    views: dict[str, tuple[Any, ...]]  # what each variable is
    buffers: dict[str, bool]  # those of one step, and whether they are of blocks


class Program:
    """A cell, printed for arrays of any size.

    Raises
    ------
    UnknownOperation, and whatever its equations raise on symbols
        If it cannot be derived.
    """

    def __init__(self, cell: Any) -> None:
        self.cell = cell
        d = self.derivation = Derivation(cell)
        self.constants: dict[tuple[float, bool], str] = {}
        self.names = d.variables
        self._few: dict[Symbol, bool] = {}
        # What is fed, and goes back through the product: the values with a variable in the loop.
        self.carried: tuple[str, ...] = () if cell.truncated else cell.fed
        self._arrange_gates()
        self._print_step()
        self._arrange_backward()
        self._print_jacobian()
        self._compiled: dict[str, Any] = {}
        self.loops: dict[bool, Any] = {}  # what the Numba driver makes of the cell
        self.runs = self._runs_of(self.gate_order)
        self.back_runs = self._runs_of(self.gate_rows)

    def few(self, value: Symbol) -> bool:
        """Whether there is one of an expression for each block: its inputs are all such."""
        found = self._few.get(value)
        if found is None:
            if value.op == "input":
                name = value.args[0]
                found = (name[0] if isinstance(name, tuple) else name) in self.cell.of_blocks
            else:
                inner = [a for a in value.args if isinstance(a, Symbol) and a.op != "constant"]
                found = bool(inner) and all(map(self.few, inner))
            self._few[value] = found
        return found

    def _runs_of(self, rows: Sequence[str]) -> list[Run]:
        """Rows of products that lie side by side in the weights too.

        The kind is "x" or "h" for the parts of a gate apart, which meet one product only.
        """
        runs: list[Run] = []
        gates = self.cell.gates
        for name in rows:
            kind = "" if name in gates else name[-1]
            gate = name[:-2] if kind else name
            biased = gate in self.cell.biased
            if (
                runs
                and runs[-1][2:] == (kind, biased)
                and gates.index(runs[-1].gates[-1]) + 1 == gates.index(gate)
            ):
                runs[-1] = runs[-1]._replace(
                    names=(*runs[-1].names, name), gates=(*runs[-1].gates, gate)
                )
            else:
                runs.append(Run((name,), (gate,), kind, biased))
        return runs

    # -- forward

    def _arrange_gates(self) -> None:
        """Which gates pass through one nonlinearity and no more: their result takes their place."""
        d = self.derivation
        new = set(d.new.values())
        self.forward_parts = parts(d.new.values())
        # Whether a unit can be switched off, and its old state be all that is left, less and less.
        carries = any(name in self.cell.state for _, name in d.jacobian)
        self.fades = carries and any(part.op in _SWITCHES for part in self.forward_parts)
        users: dict[Symbol, set[Symbol]] = {}
        for part in parts([*d.new.values(), *d.jacobian.values()]):
            for argument in part.args:
                if isinstance(argument, Symbol):
                    users.setdefault(argument, set()).add(part)
        whole = {*new, *d.jacobian.values()}
        groups: dict[str, list[str]] = {"sigmoid": [], "tanh": [], "": []}
        self.activated: dict[Symbol, str] = {}  # the nonlinearity's result -> the gate
        for name in d.products:
            symbol = d.inputs[name]
            only = users.get(symbol, set())
            kind = next(iter(only)).op if len(only) == 1 and symbol not in whole else ""
            if kind == "sigmoid" or (kind == "tanh" and not only & new):
                self.activated[next(iter(only))] = name
                groups[kind].append(name)
            else:
                groups[""].append(name)
        # What stands together in the weights shall stand together here: the last ones first?
        sigmoids, rest = groups["sigmoid"], [*groups["tanh"], *groups[""]]
        turned = [sigmoids[k:] + sigmoids[:k] for k in range(max(1, len(sigmoids)))]
        self.gate_order = min(
            [[*one, *rest] for one in turned], key=lambda order: len(self._runs_of(order))
        )
        self.tanh_rows, self.sigmoid_rows = len(groups["tanh"]), len(sigmoids)

    def _pair_up(self) -> None:
        """Two products of rows side by side are one call: [i, f] times [g, c] in the LSTM.

        For that an old value of the state may stand behind the gates.
        """
        d = self.derivation
        self.beside: tuple[str, ...] = ()
        self.joint: dict[Symbol, Joint] = {}
        names = {symbol: name for name, symbol in d.inputs.items()} | self.activated
        given = {*d.new.values(), *self.stored_values}
        products = [
            part.args
            for part in self.forward_parts
            if part.op == "multiply" and part not in given and not any(map(self.few, part.args))
        ]
        for name in [name for name in self.cell.state if name not in self.cell.fed]:
            rows = [*self.gate_order, name]
            for one, other in itertools.permutations(products, 2):
                for a, b in (one, one[::-1]):
                    pairs = [
                        (names.get(a), names.get(other[0])),
                        (names.get(b), names.get(other[1])),
                    ]
                    if set(pairs) <= set(itertools.pairwise(rows)):
                        self._join(
                            name, pairs, Symbol("multiply", *one), Symbol("multiply", *other)
                        )
                        return

    def _join(self, name: str, pairs: list[Any], one: Symbol, other: Symbol) -> None:
        self.beside = (name,)
        variables = []
        for first, second in pairs:
            variable = f"{self.names[first]}{self.names[second]}"[:-1]
            while variable in self.views:
                variable += "_"
            self.views[variable] = View("kept", first)
            variables.append(variable)
        statement = f"multiply({', '.join(variables)}, both)"
        self.joint = {one: Joint(statement, "both0"), other: Joint(statement, "both1")}

    def _print_step(self) -> None:
        d = self.derivation
        self.views: dict[str, View] = {}  # by the variable's name in the source
        places: dict[Symbol, str] = {}

        def place(symbol: Symbol, name: str, view: View) -> None:
            places[symbol] = name
            self.views[name] = view

        for name in d.products:
            place(d.inputs[name], self.names[name], View("gates", name))
        for value, name in self.activated.items():
            place(value, self.names[name], View("gates", name))
        for name in self.cell.per_unit:
            place(d.inputs[name], self.names[name], View("unit", name))
        for name in self.cell.state:
            place(d.inputs[name], self.names[name], View("state", name))
        # Where a new value of the state can be read as an operand: where it has its own width.
        kept = {}
        for name, value in d.new.items():
            fits = self.few(value) == (name in self.cell.of_blocks)
            if fits and value.op not in ("input", "constant"):
                kept[value] = f"{self.names[name]}new"
        self.jacobian = self._shortened(kept)
        # What the Jacobian asks for and is dear to compute is kept; the rest it computes again.
        stored: dict[Symbol, str] = {}
        self.reads: set[str] = set()  # variables that the Jacobian reads

        def visit(value: Symbol) -> None:
            if value.op == "constant":
                return
            if value in kept:
                return
            if value in places:
                self.reads.add(places[value])
            elif value.op in DEAR and value in self.forward_parts:
                stored.setdefault(value, f"v{len(stored)}")
            else:
                for argument in value.args:
                    visit(argument)

        for entry in self.jacobian.values():
            visit(entry)
        self.stored = {name: self.few(value) for value, name in stored.items()}
        targets = []
        for value, name in stored.items():
            self.views[name] = View("values", name)
            targets.append((name, value, self.few(value)))
        for name, value in d.new.items():
            variable = f"{self.names[name]}new"
            self.views[variable] = View("state", name, later=True)
            targets.append((variable, value, name in self.cell.of_blocks))
        printer = Printer(places, self.constants, self.few)
        if self.sigmoid_rows:
            printer.constant(0.5)
        self.stored_values = set(stored)
        self._pair_up()
        self.kept = [*self.gate_order, *self.beside]
        printer.joint = self.joint
        printer.print(targets)
        self.step_lines, self.step_buffers = printer.lines, names_of(printer.buffers)
        self.places = places | stored | kept
        keeps_gates = any(self.views[name].buffer == "gates" for name in self.reads)
        self.keeps_gates = keeps_gates
        self.step_views = [name for name, view in self.views.items() if view.buffer != "unit"]

    def _shortened(self, kept: dict[Symbol, str]) -> dict[tuple[str, Any], Symbol]:
        """The Jacobian's entries, by products that are at hand among the new values.

        If x y is one, x y z needs one product less, and x (1 - y y) is x - (x y) y.
        """
        found = {}
        for key, entry in self.derivation.jacobian.items():
            factors = _factors(entry)
            for value in kept:
                mine = _factors(value)
                if len(mine) == 2 and all(factors.count(x) == mine.count(x) for x in mine):
                    factors = [value, *[x for x in factors if x not in mine]]
                for x, y in itertools.permutations(mine) if len(mine) == 2 else ():
                    rest = symbols.subtract(1.0, symbols.multiply(y, y))
                    if x in factors and rest in factors:
                        factors = [f for f in factors if f not in (x, rest)]
                        factors.append(symbols.subtract(x, symbols.multiply(value, y)))
            found[key] = entry if factors == _factors(entry) else _product(factors)
        before = parts(self.derivation.jacobian.values())
        return found if len(parts(found.values())) < len(before) else self.derivation.jacobian

    def forward_of(self, masked: bool, padded: bool) -> str:
        """The loop forward over all steps."""
        lines = []
        names = [name for name in self.step_views if name in words(self.step_lines)]
        names += [self.names[n] for n in self.cell.state if padded]
        unpack = ["hx", "z", "zt", "zs", *dict.fromkeys(names)]
        lines.append("product(hx, z)")
        if self.tanh_rows or self.sigmoid_rows:
            lines.append("tanh(zt, zt)")
        if self.sigmoid_rows:
            half = self.constants[0.5, False]
            lines += [f"multiply(zs, {half}, zs)", f"add(zs, {half}, zs)"]
        lines += self.step_lines
        if padded:
            lines += [
                f"copyto({self.names[n]}new, {self.names[n]}, where=over)" for n in self.cell.state
            ]
        if masked:
            for i, name in enumerate(self.cell.fed):
                unpack.append(f"seen{i}")
                lines.append(f"multiply({self.names[name]}new, dropped{i}, seen{i})")
        if padded:
            unpack.append("over")
        text = f"    for {', '.join(unpack)} in steps:\n"
        text += "".join([f"        {line}\n" for line in lines])
        return f"def forward(steps, product):\n{text}"

    def forward_names(self, masked: bool, padded: bool) -> list[str]:
        """The variables of a step, in the order in which the source unpacks them."""
        head = self.forward_of(masked, padded).split(" in steps:")[0].split("for ")[1]
        return head.split(", ")

    # -- backward

    def _arrange_backward(self) -> None:
        """The order of the rows, such that what one value is multiplied with stands together."""
        d = self.derivation
        sources: dict[str, list[str]] = {name: [] for name in d.inputs}
        for value in d.order:
            for name in d.inputs:
                if (value, name) in d.jacobian:
                    sources[name].append(value)
        x_only = {f"{gate}_x" for gate in self.cell.apart}
        gates = sorted(d.products, key=lambda name: name in x_only)

        def of(value: str, names: Iterable[str]) -> list[str]:
            return [name for name in names if sources[name][:1] == [value]]

        others = (*self.cell.state, *self.cell.per_unit)
        first, *rest = d.order
        inner = [name for value in rest for name in of(value, gates)]
        outer = [name for value in rest for name in of(value, others)]
        mine, theirs = of(first, gates), of(first, others)
        # Both ways keep together what one value is multiplied with; the weights' order decides.
        ways = [[*theirs, *mine, *inner, *outer], [*outer, *inner, *mine, *theirs]]
        rows = min(ways, key=lambda way: len(self._runs_of([n for n in way if n in gates])))
        silent = [name for name in d.products if not sources[name]]
        at = max([rows.index(name) for name in rows if name in gates], default=-1) + 1
        rows[at:at] = silent
        # A value that nothing is computed from still has a row: its own cotangent arrives there.
        rows += [name for name in others if name not in rows]
        self.rows = rows
        self.row = {name: i for i, name in enumerate(rows)}
        self.written = {name for name in rows if sources[name]}
        self.gate_rows = [name for name in rows if name in gates]
        self.gates_at = self.row[self.gate_rows[0]]
        heard = [self.row[name] for name in self.gate_rows if name not in x_only]
        self.heard = (min(heard), max(heard) + 1)  # the rows that the old h acted on
        self.sources = sources
        self.entries: list[tuple[tuple[str, Any], int]] = []  # an entry of the Jacobian, its row
        extra = len(rows)
        position: dict[tuple[str, Any], int] = {}
        for value in d.order:
            for name in [name for name in rows if (value, name) in d.jacobian]:
                if sources[name][0] == value:
                    position[value, name] = self.row[name]
                else:
                    position[value, name] = extra
                    extra += 1
            for name in d.order:
                if (value, (name,)) in d.jacobian:
                    position[value, (name,)] = extra
                    extra += 1
        self.position = position
        of_blocks = {row for (value, _), row in position.items() if value in self.cell.of_blocks}
        self.jacobian_rows = [row in of_blocks for row in range(extra)]  # whether of blocks

    def _print_jacobian(self) -> None:
        printer = Printer(self.places, self.constants, self.few)
        targets = [
            (f"j{self.position[key]}", entry, key[0] in self.cell.of_blocks)
            for key, entry in self.jacobian.items()
        ]
        # The simple ones first: entries are computed from one another where they can be.
        targets.sort(key=lambda pair: len(parts([pair[1]])))
        printer.print(targets, early=True)
        self.jacobian_lines = printer.lines
        self.jacobian_buffers = names_of(printer.buffers)
        self.jacobian_names = sorted(words(printer.lines) & {*self.views, *self._targets()})

    def _targets(self) -> list[str]:
        return [f"j{i}" for i in range(len(self.jacobian_rows))]

    def jacobian_source(self) -> str:
        """The Jacobian of a block of steps."""
        names = [*self.jacobian_names, *self.jacobian_buffers]
        lines = "".join([f"    {line}\n" for line in self.jacobian_lines])
        return f"def jacobian({', '.join(names)}):\n{lines or '    pass'}"

    def loop_of(self, output: bool, masked: bool, padded: bool, blocks: bool) -> Loop:
        """The statements of a step backward, and what they need.

        `output`: whether a cotangent of the outputs arrives; `blocks`: whether units share gates.
        """
        d, carried = self.derivation, self.carried
        of_blocks = self.cell.of_blocks if blocks else frozenset()
        statements: list[Statement] = []
        views: dict[str, tuple[Any, ...]] = {}
        buffers: dict[str, bool] = {}

        def write(call: str, *arguments: str) -> None:
            statements.append(Statement(call, arguments[:-1], arguments[-1]))

        def view(*what: Any) -> str:
            name = "_".join([str(part) for part in what])
            views[name] = what
            return name

        def row(name: str, *later: str) -> str:
            return view("D", self.row[name], self.row[name] + 1, *later)

        def buffer(name: str, of: str) -> str:
            buffers[name] = of in of_blocks
            return name

        def part(of: str) -> str:
            """A buffer for a moment; those of a whole block of steps are not used twice."""
            name = "few_part" if of in of_blocks else "part"
            return buffer(name if carried else f"part{len(buffers)}", of)

        def share(entry: str, value: str, name: str) -> str:
            """What of a value's cotangent goes to `name`."""
            found = part(value)
            write("multiply", entry, arrives[value], found)
            if name in of_blocks and value not in of_blocks:
                found, every = part(name), found
                write("sum", every, found)
            return found

        arrives: dict[str, str] = {}
        for value in d.order:
            arrives[value] = f"d{self.names[value]}" if value in carried else row(value, "next")
            if value == self.cell.state[0] and output:
                write("add", arrives[value], view("g"), buffer("total", value))
                arrives[value] = "total"
        if padded:
            for i, value in enumerate(d.order):
                write("multiply", arrives[value], view("over"), buffer(f"keep{i}", value))
                write("multiply", arrives[value], view("valid"), buffer(f"own{i}", value))
                arrives[value] = f"own{i}"
        for i, value in enumerate(d.order):
            for other in d.order:
                if (other, (value,)) in d.jacobian:
                    p = self.position[other, (value,)]
                    found = share(view("J", p, p + 1), other, value)
                    write("add", arrives[value], found, buffer(f"sum{i}", value))
                    arrives[value] = f"sum{i}"
            own = [name for name in self.rows if self.sources[name][:1] == [value]]
            shared = [name for name in own if name in of_blocks and value not in of_blocks]
            for a, b in _runs([self.row[name] for name in own if name not in shared]):
                # For one or two rows, calls without broadcasting are faster.
                together = b - a > 2 and bool(carried)
                for k, m in [(a, b)] if together else [(k, k + 1) for k in range(a, b)]:
                    write("multiply", view("J", k, m), arrives[value], view("D", k, m))
            for name in shared:
                p, found = self.row[name], part(value)
                write("multiply", view("J", p, p + 1), arrives[value], found)
                write("sum", found, row(name))
            for name in self.rows:
                if (value, name) in d.jacobian and self.sources[name][0] != value:
                    p = self.position[value, name]
                    found = share(view("J", p, p + 1), value, name)
                    write("add", row(name), found, row(name))
        if carried:
            for call in ("add", "subtract") if self.fades else ():  # see Plan.flush
                write(call, view("dz"), "faint", view("dz"))
            write("product", view("dz"), view("dhx"))
        for i, value in enumerate(d.order):
            if value in carried:
                at, into = carried.index(value), f"d{self.names[value]}"
                write("name", view("fed", at), into)
                if masked:
                    write("multiply", into, f"dropped{at}", into)
                if value in self.written:
                    write("add", into, row(value), into)
                if padded:
                    write("add", into, f"keep{i}", into)
            elif padded:
                if value in self.written:
                    write("add", row(value), f"keep{i}", row(value))
                else:
                    write("copy", f"keep{i}", row(value))
        if carried:
            return Loop([], statements, [], views, buffers)
        recurring = [value for value in d.order if padded or value in self.written]
        parted = _parted(
            statements,
            {row(value, "next") for value in recurring},
            {row(value) for value in recurring},
        )
        return Loop(*parted, views, buffers)

    def loop_source(self, output: bool, masked: bool, padded: bool, blocks: bool) -> str:
        """The loop backward over the steps of a block, as `backward`."""
        loop = self.loop_of(output, masked, padded, blocks)
        carried = [f"d{self.names[value]}" for value in self.carried]
        heads = ["steps", "product", *carried, *loop.buffers] if carried else ["steps"]
        names = used(loop.inside, self.loop_variables(loop))
        text = f"def backward({', '.join(heads)}):\n"
        if loop.inside:
            text += f"    for {', '.join(names)}, in steps:\n"
            text += "".join([f"        {line}\n" for line in loop.inside])
        return text + f"    return {', '.join([*carried, ''])[:-1] or '()'}\n"

    def block_source(
        self, name: str, output: bool, masked: bool, padded: bool, blocks: bool
    ) -> str:
        """What is done for all steps of a block at once: `before` or `after` the loop."""
        loop = self.loop_of(output, masked, padded, blocks)
        statements = loop.before if name == "before" else loop.after
        names = used(statements, self.loop_variables(loop))
        lines = "".join([f"    {line}\n" for line in statements])
        return f"def {name}({', '.join(names)}):\n{lines or '    pass'}"

    def loop_variables(self, loop: Loop) -> dict[str, tuple[Any, ...]]:
        """What the variables of the loop are: views, and buffers where they last a whole block."""
        if self.carried:
            return loop.views
        return loop.views | {name: ("part", name) for name in loop.buffers}

    def source(self) -> str:
        """What is run, to be read."""
        kinds = {
            "gates": "the product's rows",
            "state": "old and new state",
            "values": "kept for the Jacobian",
        }
        about = [f"# cell {self.cell.name}: arrays are (features, batch); the last argument of a"]
        about += ["# call is where its result goes. Rows of the product, in order: "]
        about[-1] += ", ".join(self.gate_order)
        about += [f"# {name} = {value}" for (value, _), name in self.constants.items()]
        for buffer, text in kinds.items():
            names = [name for name, view in self.views.items() if view.buffer == buffer]
            about += [f"# {text}: {', '.join(names)}"] if names else []
        about += ["# j0, ...: the Jacobian, of " + ", ".join(self._entry_names())]
        about += [f"# rows of D: {', '.join(self.rows)}"]
        way = (True, False, False, bool(self.cell.per_block))
        sources = [self.forward_of(False, False), self.jacobian_source(), self.loop_source(*way)]
        if not self.carried:
            sources[2:2] = [self.block_source("before", *way)]
            sources.append(self.block_source("after", *way))
        return "\n".join(about) + "\n\n" + "\n\n".join([text.rstrip() for text in sources]) + "\n"

    def _entry_names(self) -> list[str]:
        texts = []
        for (value, name), row in sorted(self.position.items(), key=lambda pair: pair[1]):
            below = name if isinstance(name, str) else f"new {name[0]}"
            texts.append(f"j{row} = d {value} / d {below}")
        return texts

    def define(self, source: str, space: dict[str, Any]) -> Any:
        """The function of a source, with `space` as its globals."""
        code = self._compiled.get(source)
        if code is None:
            code = compile(source, f"<cell {self.cell.name}>", "exec")
            self._compiled[source] = code
        exec(code, space)
        return space.pop(source.split("(")[0].removeprefix("def "))


def _factors(value: Symbol) -> list[Symbol]:
    """What an expression is a product of."""
    if value.op != "multiply":
        return [value]
    return [factor for argument in value.args for factor in _factors(argument)]


def _product(factors: list[Symbol]) -> Symbol:
    product = factors[0]
    for factor in factors[1:]:
        product = symbols.multiply(product, factor)
    return product


def names_of(buffers: dict[str, int]) -> dict[str, str]:
    """The buffers that a printer needed, by name, and what kind each is."""
    return {f"{kind}{i}": kind for kind, count in buffers.items() for i in range(count)}


def used(statements: Iterable[Statement], among: Iterable[str]) -> list[str]:
    """Which variables appear in statements, in the order of `among`."""
    found = {name for s in statements for name in (*s.arguments, s.out)}
    return [name for name in among if name in found]


def _parted(
    statements: list[Statement], given: set[str], wanted: set[str]
) -> tuple[list[Statement], list[Statement], list[Statement]]:
    """What can be done before the loop, what must be done in it, and what can be done after.

    The loop is what depends on `given`, values of the step after, and is needed for `wanted`, those
    that go on to the step before.
    """
    late = set(given)
    before, rest = [], []
    for statement in statements:
        if late.intersection((*statement.arguments, statement.out)):
            late.add(statement.out)
            rest.append(statement)
        else:
            before.append(statement)
    needed = set(wanted)
    inside, after = [], []
    for statement in reversed(rest):
        if statement.out in needed:
            needed.update(statement.arguments)
            inside.append(statement)
        else:
            after.append(statement)
    return before, inside[::-1], after[::-1]


def _runs(rows: list[int]) -> list[tuple[int, int]]:
    """Consecutive numbers as pairs (first, last + 1)."""
    runs: list[tuple[int, int]] = []
    for row in sorted(rows):
        if runs and runs[-1][1] == row:
            runs[-1] = (runs[-1][0], row + 1)
        else:
            runs.append((row, row + 1))
    return runs
