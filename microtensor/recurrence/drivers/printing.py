"""A cell as straight-line source for arrays: printed from its expressions (derivation.py).

One statement is one call of an array function, into a buffer that was made before. The rows of
gates that meet a sigmoid are halved beforehand: sigmoid(x) = tanh(x / 2) / 2 + 1/2, so that one
tanh serves all gates. What arises is independent of all sizes; arrays.py brings the buffers.

Three functions are printed. `forward` is a loop over the steps. `jacobian` evaluates the local
Jacobian for a whole block of steps. `backward` is the loop that remains: it multiplies the Jacobian
by what arrives at each value of the state, and carries the result to the step before by one
product.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from microtensor.recurrence import symbols
from microtensor.recurrence.derivation import Derivation, parts
from microtensor.recurrence.symbols import Symbol

_DEAR = {"tanh", "sigmoid", "exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "power"}
_BY_NAME = {"maximum", "minimum"}  # of which a third positional argument is deprecated


# ---------------------------------------------------------------------------------------------
# Printing


class Printer:
    """Expressions as statements, each of which writes into a buffer that exists."""

    def __init__(self, places: dict[Symbol, str], constants: dict[tuple[float, bool], str]) -> None:
        self.places = dict(places)  # where each value stands
        self.constants = constants
        self.lines: list[str] = []
        self.buffers = 0  # how many of floats were needed at once
        self.masks = 0  # and of booleans

    def print(self, targets: Sequence[tuple[str, Symbol]]) -> None:
        """Statements that put each expression into its target, in as few buffers as possible."""
        wanted: dict[Symbol, str] = {}
        copies = []
        for target, value in targets:
            if value in wanted or value in self.places or value.op == "constant":
                copies.append((target, value))
            else:
                wanted[value] = target
        order = [part for part in self._needed(wanted) if part not in self.places]
        last = {}
        for i, part in enumerate(order):
            for argument in part.args:
                last[argument] = i
        free: dict[bool, list[str]] = {False: [], True: []}
        held: dict[Symbol, str] = {}
        for i, part in enumerate(order):
            arguments = [self._place(argument) for argument in part.args]
            released = [a for a in dict.fromkeys(part.args) if a in held and last[a] == i]
            overwrites = part.op != "where"
            if overwrites:
                self._release(released, held, free)
            if part in wanted:
                out = wanted[part]
            else:
                out = held[part] = self._buffer(part, free)
            if not overwrites:
                self._release(released, held, free)
            if part.op in ("maximum", "minimum", "clip"):
                arguments = [self._bound(*pair) for pair in zip(part.args, arguments, strict=True)]
            self._statement(part.op, arguments, out)
            self.places[part] = out
        for target, value in copies:
            self.lines.append(f"{target}[...] = {self._place(value)}")

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
            free[held[argument].startswith("mask")].append(held.pop(argument))

    def _buffer(self, part: Symbol, free: dict[bool, list[str]]) -> str:
        mask = part.dtype == symbols.TRUTH
        if free[mask]:
            return free[mask].pop()
        if mask:
            self.masks += 1
            return f"mask{self.masks - 1}"
        self.buffers += 1
        return f"t{self.buffers - 1}"

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

    def _statement(self, op: str, arguments: list[str], out: str) -> None:
        write = self.lines.append
        if op == "sigmoid":
            half = self.constant(0.5)
            write(f"multiply({arguments[0]}, {half}, {out})")
            write(f"tanh({out}, {out})")
            write(f"multiply({out}, {half}, {out})")
            write(f"add({out}, {half}, {out})")
        elif op == "relu":
            write(f"maximum({arguments[0]}, {self.constant(0.0, full=True)}, out={out})")
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


class View(NamedTuple):
    """A piece of a buffer: which buffer, which rows of it, and whether of the step after."""

    buffer: str  # "gates", "values", "state", "unit"
    row: Any
    rows: int = 1
    later: bool = False


class Program:
    """A cell, printed for arrays of any size.

    Raises
    ------
    UnknownOperation, and whatever its equations raise on symbols
        If it cannot be derived.
    """

    def __init__(self, cell: Any) -> None:
        if not cell.plain:
            raise symbols.UnknownOperation("blocks, other feeds and truncation are not printed yet")
        self.cell = cell
        d = self.derivation = Derivation(cell)
        self.constants: dict[tuple[float, bool], str] = {}
        self.names = {name: name if name.isascii() else f"u{i}" for i, name in enumerate(d.inputs)}
        for name in self.names:  # no name of a cell is mistaken for one of ours
            self.names[name] = f"{self.names[name]}_"
        self._arrange_gates()
        self._print_step()
        self._arrange_backward()
        self._print_jacobian()
        self._compiled: dict[str, Any] = {}
        self.runs = self._runs_of(self.gate_order)
        self.back_runs = self._runs_of(self.gate_rows)

    def _runs_of(self, rows: Sequence[str]) -> list[tuple[int, int, int, str]]:
        """Rows that lie side by side in the weights too: (first, last + 1, first gate, kind).

        The kind is "x" or "h" for the parts of a gate apart, which meet one product only.
        """
        runs: list[tuple[int, int, int, str]] = []
        for row, name in enumerate(rows):
            kind = "" if name in self.cell.gates else name[-1]
            gate = self.cell.gates.index(name[:-2] if kind else name)
            if runs and runs[-1][3] == kind and runs[-1][2] + row - runs[-1][0] == gate:
                runs[-1] = (runs[-1][0], row + 1, *runs[-1][2:])
            else:
                runs.append((row, row + 1, gate, kind))
        return runs

    # -- forward

    def _arrange_gates(self) -> None:
        """Which gates pass through one nonlinearity and no more: their result takes their place."""
        d = self.derivation
        new = set(d.new.values())
        self.forward_parts = parts(d.new.values())
        users: dict[Symbol, set[Symbol]] = {}
        for part in parts([*d.new.values(), *d.jacobian.values()]):
            for argument in part.args:
                if isinstance(argument, Symbol):
                    users.setdefault(argument, set()).add(part)
        whole = {*new, *d.jacobian.values()}
        groups: dict[str, list[str]] = {"tanh": [], "sigmoid": [], "": []}
        self.activated: dict[Symbol, str] = {}  # the nonlinearity's result -> the gate
        for name in d.products:
            symbol = d.inputs[name]
            only = users.get(symbol, set())
            kind = next(iter(only)).op if len(only) == 1 and symbol not in whole else ""
            if kind in ("tanh", "sigmoid") and not only & new:
                self.activated[next(iter(only))] = name
                groups[kind].append(name)
            else:
                groups[""].append(name)
        self.gate_order = [*groups["tanh"], *groups["sigmoid"], *groups[""]]
        self.tanh_rows, self.sigmoid_rows = len(groups["tanh"]), len(groups["sigmoid"])

    def _print_step(self) -> None:
        d = self.derivation
        rows = {name: i for i, name in enumerate(self.gate_order)}
        self.views: dict[str, View] = {}  # by the variable's name in the source
        places: dict[Symbol, str] = {}

        def place(symbol: Symbol, name: str, view: View) -> None:
            places[symbol] = name
            self.views[name] = view

        for name in d.products:
            place(d.inputs[name], self.names[name], View("gates", rows[name]))
        for value, name in self.activated.items():
            place(value, self.names[name], View("gates", rows[name]))
        for name in self.cell.per_unit:
            place(d.inputs[name], self.names[name], View("unit", name))
        for name in self.cell.state:
            place(d.inputs[name], self.names[name], View("state", name))
        # What the Jacobian asks for and is dear to compute is kept; the rest it computes again.
        stored: dict[Symbol, str] = {}
        self.reads: set[str] = set()  # variables that the Jacobian reads

        def visit(value: Symbol) -> None:
            if value.op == "constant":
                return
            if value in d.new.values() and value.op != "input":
                return
            if value in places:
                self.reads.add(places[value])
            elif value.op in _DEAR and value in self.forward_parts:
                stored.setdefault(value, f"v{len(stored)}")
            else:
                for argument in value.args:
                    visit(argument)

        for entry in d.jacobian.values():
            visit(entry)
        self.stored = list(stored)
        targets = []
        for value, name in stored.items():
            self.views[name] = View("values", len(self.views_of("values")))
            targets.append((name, value))
        for name, value in d.new.items():
            variable = f"{self.names[name]}new"
            self.views[variable] = View("state", name, later=True)
            targets.append((variable, value))
        printer = Printer(places, self.constants)
        if self.sigmoid_rows:
            printer.constant(0.5)
        printer.print(targets)
        self.step_lines, self.step_buffers = printer.lines, printer.buffers
        self.step_masks = printer.masks
        self.places = places | stored
        for name, value in d.new.items():
            if value not in self.places and value.op not in ("input", "constant"):
                self.places[value] = f"{self.names[name]}new"
        keeps_gates = any(self.views[name].buffer == "gates" for name in self.reads)
        self.keeps_gates = keeps_gates
        self.step_views = [name for name, view in self.views.items() if view.buffer != "unit"]

    def views_of(self, buffer: str) -> list[View]:
        """The views into one of the buffers."""
        return [view for view in self.views.values() if view.buffer == buffer]

    def forward_of(self, masked: bool, padded: bool) -> str:
        """The loop forward over all steps."""
        lines = []
        names = [name for name in self.step_views if self._appears(name)]
        names += [f"{self.names[n]}new" for n in self.cell.state if masked or padded]
        names += [self.names[n] for n in self.cell.state if padded]
        self_names = list(dict.fromkeys(names))
        unpack = ["hx", "z", "zt", "zs", *self_names]
        h = f"{self.names[self.cell.state[0]]}new"
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
            unpack.append("seen")
            lines.append(f"multiply({h}, dropped, seen)")
        if padded:
            unpack.append("over")
        text = f"    for {', '.join(unpack)} in steps:\n"
        text += "".join([f"        {line}\n" for line in lines])
        return f"def forward(steps, product, dropped):\n{text}"

    def forward_names(self, masked: bool, padded: bool) -> list[str]:
        """The variables of a step, in the order in which the source unpacks them."""
        head = self.forward_of(masked, padded).split(" in steps:")[0].split("for ")[1]
        return head.split(", ")

    def _appears(self, name: str) -> bool:
        return any(
            name
            in line.replace("(", " ")
            .replace(")", " ")
            .replace(",", " ")
            .replace("[", " ")
            .replace("=", " ")
            .split()
            for line in self.step_lines
        )

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
        rows = [*of(first, others), *of(first, gates)]
        for value in rest:
            rows += of(value, gates)
        for value in rest:
            rows += of(value, others)
        silent = [name for name in d.products if not sources[name]]
        at = max([rows.index(name) for name in rows if name in gates], default=-1) + 1
        rows[at:at] = silent
        # A value that nothing is computed from still has a row: its own cotangent arrives there.
        rows += [name for name in self.cell.state if name not in rows]
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
        self.loop: list[str] = []
        self.loop_views: dict[str, tuple[str, Any]] = {}
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
        self.position, self.jacobian_rows = position, extra

    def _print_jacobian(self) -> None:
        d = self.derivation
        printer = Printer(self.places, self.constants)
        targets = [(f"j{self.position[key]}", entry) for key, entry in d.jacobian.items()]
        # The simple ones first: entries are computed from one another where they can be.
        targets.sort(key=lambda pair: len(parts([pair[1]])))
        printer.print(targets)
        self.jacobian_lines = printer.lines
        self.jacobian_buffers, self.jacobian_masks = printer.buffers, printer.masks
        used = " ".join(printer.lines)
        for sign in "(),[]=":
            used = used.replace(sign, " ")
        self.jacobian_names = sorted(set(used.split()) & {*self.views, *self._targets()})

    def _targets(self) -> list[str]:
        return [f"j{i}" for i in range(self.jacobian_rows)]

    def jacobian_source(self) -> str:
        """The Jacobian of a block of steps."""
        names = [*self.jacobian_names]
        buffers = [f"t{i}" for i in range(self.jacobian_buffers)]
        masks = [f"mask{i}" for i in range(self.jacobian_masks)]
        lines = "".join([f"    {line}\n" for line in self.jacobian_lines])
        return f"def jacobian({', '.join([*names, *buffers, *masks])}):\n{lines or '    pass'}"

    def loop_of(self, output: bool, masked: bool, padded: bool) -> tuple[list[str], list[Any]]:
        """The statements of a step backward, and the views that they need, by what they are."""
        d = self.derivation
        lines: list[str] = []
        views: dict[str, Any] = {}
        h = self.cell.state[0]

        def view(*what: Any) -> str:
            name = "_".join([str(part) for part in what])
            views[name] = what
            return name

        arrives: dict[str, str] = {}
        for value in d.order:
            if value == h:
                arrives[value] = "dh"
                if output:
                    lines.append(f"add(dh, {view('g')}, total)")
                    arrives[value] = "total"
            else:
                arrives[value] = view("D", self.row[value], self.row[value] + 1, "next")
        if padded:
            for i, value in enumerate(d.order):
                lines.append(f"multiply({arrives[value]}, {view('over')}, keep{i})")
                lines.append(f"multiply({arrives[value]}, {view('valid')}, own{i})")
                arrives[value] = f"own{i}"
        for i, value in enumerate(d.order):
            for other in d.order:
                if (other, (value,)) in d.jacobian:
                    p = self.position[other, (value,)]
                    entry = view("J", p, p + 1)
                    lines.append(f"multiply({entry}, {arrives[other]}, part)")
                    lines.append(f"add({arrives[value]}, part, sum{i})")
                    arrives[value] = f"sum{i}"
            for a, b in _runs([self.row[n] for n in self.rows if self.sources[n][:1] == [value]]):
                # For one or two rows, calls without broadcasting are faster.
                for k, m in [(a, b)] if b - a > 2 else [(k, k + 1) for k in range(a, b)]:
                    entry, row = view("J", k, m), view("D", k, m)
                    lines.append(f"multiply({entry}, {arrives[value]}, {row})")
            for name in self.rows:
                if (value, name) in d.jacobian and self.sources[name][0] != value:
                    p, r = self.position[value, name], self.row[name]
                    lines.append(f"multiply({view('J', p, p + 1)}, {arrives[value]}, part)")
                    row = view("D", r, r + 1)
                    lines.append(f"add({row}, part, {row})")
        lines.append(f"product({view('dz')}, {view('dhx')})")
        lines.append(f"dh = {view('dh')}")
        if masked:
            lines.append("multiply(dh, dropped, dh)")
        if h in self.written:
            lines.append(f"add(dh, {view('D', self.row[h], self.row[h] + 1)}, dh)")
        if padded:
            for i, value in enumerate(d.order):
                if value == h:
                    lines.append(f"add(dh, keep{i}, dh)")
                else:
                    row = view("D", self.row[value], self.row[value] + 1)
                    if value in self.written:
                        lines.append(f"add({row}, keep{i}, {row})")
                    else:
                        lines.append(f"{row}[...] = keep{i}")
        return lines, list(views.items())

    def backward_source(self, output: bool, masked: bool, padded: bool) -> str:
        """The loop backward over the steps of a block."""
        lines, views = self.loop_of(output, masked, padded)
        names = [f"v_{name}" if name == "dh" else name for name, _ in views]
        lines = [line.replace("dh = dh", "dh = v_dh") for line in lines]
        count = len(self.derivation.order)
        buffers = ["part", "total", *[f"sum{i}" for i in range(count)]]
        if padded:
            buffers += [f"{kind}{i}" for kind in ("keep", "own") for i in range(count)]
        text = f"def backward(steps, product, dh, dropped, {', '.join(buffers)}):\n"
        text += f"    for {', '.join(names)}, in steps:\n"
        text += "".join([f"        {line}\n" for line in lines])
        return text + "    return dh\n"

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
        sources = (
            self.forward_of(False, False),
            self.jacobian_source(),
            self.backward_source(True, False, False),
        )
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


def _runs(rows: list[int]) -> list[tuple[int, int]]:
    """Consecutive numbers as pairs (first, last + 1)."""
    runs: list[tuple[int, int]] = []
    for row in sorted(rows):
        if runs and runs[-1][1] == row:
            runs[-1] = (runs[-1][0], row + 1)
        else:
            runs.append((row, row + 1))
    return runs
