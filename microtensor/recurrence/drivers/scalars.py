"""A cell as straight-line source on single numbers: printed from its expressions (derivation.py).

What is printed reads like the equations:

    c = sigmoid(f) * c_old + sigmoid(i) * tanh(g)

An expression that is needed twice gets a name, all others stand where they are used. Functions are
called by the operation's name and numbers are written as `real(0.5)`; whoever compiles the source
chooses what these are: functions of one float, or of a register full of them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence

from microtensor.recurrence import symbols
from microtensor.recurrence.symbols import Symbol

# How operators are written, and how strongly they bind; all other operations are called by name.
_INFIX = {
    "less": ("<", 1),
    "less_equal": ("<=", 1),
    "greater": (">", 1),
    "greater_equal": (">=", 1),
    "equal": ("==", 1),
    "not_equal": ("!=", 1),
    "add": ("+", 2),
    "subtract": ("-", 2),
    "multiply": ("*", 3),
    "divide": ("/", 3),
}
_NEGATIVE, _ATOM = 4, 5
_LONGEST = 72  # characters of one expression: longer ones are cut into parts with a name


def statements(
    targets: Sequence[tuple[str, Symbol]], places: dict[Symbol, str], prefix: str = "t"
) -> list[str]:
    """Assignments that give each expression to its variable.

    Parameters
    ----------
    targets
        Variables and what they shall be. A target may be part of another one, in any order.
    places
        The variable of every symbol that is known. What is computed here is added, so that later
        statements can use it.
    prefix
        Of the names of expressions that are needed more than once.
    """
    printer = _Printer(places, prefix)
    wanted: dict[Symbol, str] = {}
    copies = []
    for target, value in targets:
        if value in wanted or value in places or value.op == "constant":
            copies.append((target, value))
        else:
            wanted[value] = target
    order = _needed(wanted, places)
    uses: dict[Symbol, int] = {}
    for part in order:
        for argument in part.args:
            uses[argument] = uses.get(argument, 0) + 1
    for part in order:
        if part in wanted:
            printer.assign(wanted[part], part)
        elif uses[part] > 1 or len(printer.text(part)[0]) > _LONGEST:
            printer.assign(printer.fresh(), part)
        else:
            printer.inside[part] = printer.text(part)
    printer.lines += [f"{target} = {printer.of(value)[0]}" for target, value in copies]
    return printer.lines


def words(lines: Iterable[str]) -> set[str]:
    """The variables and functions that appear in some source."""
    return set(re.findall(r"\w+", "\n".join(lines)))


def functions(lines: Iterable[str]) -> list[str]:
    """Which functions of numbers some source calls, in an order of their own."""
    known = ("tanh", "sigmoid", "relu", "where", *sorted(symbols.PLAIN), "maximum", "clip", "power")
    text = "\n".join(lines)
    return [name for name in dict.fromkeys(known) if re.search(rf"\b{name}\(", text)]


def _needed(wanted: dict[Symbol, str], places: dict[Symbol, str]) -> list[Symbol]:
    """What must be computed, arguments first."""
    found: dict[Symbol, None] = {}

    def visit(value: Symbol) -> None:
        if value not in found and value not in places and value.op != "constant":
            for argument in value.args:
                visit(argument)
            found[value] = None

    for value in wanted:
        visit(value)
    return list(found)


class _Printer:
    """Texts of expressions, each with the strength by which its outermost operator binds."""

    def __init__(self, places: dict[Symbol, str], prefix: str) -> None:
        self.places, self.prefix = places, prefix
        self.inside: dict[Symbol, tuple[str, int]] = {}  # those that stand where they are used
        self.lines: list[str] = []

    def fresh(self) -> str:
        """A name that nothing has."""
        taken = set(self.places.values())
        return next(name for i in itertools.count() if (name := f"{self.prefix}{i}") not in taken)

    def assign(self, name: str, value: Symbol) -> None:
        self.lines.append(f"{name} = {self.text(value)[0]}")
        self.places[value] = name

    def of(self, value: Symbol, at_least: int = 0) -> tuple[str, int]:
        """A value as an argument, in parentheses where its operator binds less than that."""
        if value.op == "constant":
            return f"real({value.args[0]!r})", _ATOM
        if value in self.places:
            return self.places[value], _ATOM
        text, strength = self.inside[value]
        return (text, strength) if strength >= at_least else (f"({text})", _ATOM)

    def text(self, value: Symbol) -> tuple[str, int]:
        """An operation on its arguments."""
        op, args = value.op, value.args
        truths = [x for x in args if x.dtype == symbols.TRUTH]
        if op == "astype" or (op == "multiply" and truths):  # a truth counts as 0 or 1
            (condition,) = truths[:1]
            others = [x for x in args if x is not condition]
            one = self.of(others[0])[0] if others else "real(1.0)"
            return f"where({self.of(condition)[0]}, {one}, real(0.0))", _ATOM
        if op in _INFIX:
            sign, strength = _INFIX[op]
            left, right = self.of(args[0], strength)[0], self.of(args[1], strength + 1)[0]
            return f"{left} {sign} {right}", strength
        if op == "negative":
            return f"-{self.of(args[0], _NEGATIVE)[0]}", _NEGATIVE
        return f"{op}({', '.join([self.of(x)[0] for x in args])})", _ATOM
