"""What the mutation tool changes: every operator, constant and operand of a source, one at a time.

A mutant is a place in a file and a text to stand there instead. Lines keep their numbers. Left out
is what no test of behaviour should pin down: docstrings, annotations, what is raised and what only
goes into its message, `__all__`, `__slots__`, `__repr__`, `extra_repr`, stubs for type checkers,
and the `strict` of `zip`, which is an assertion.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

# What stands instead of an operator. One partner each, of the same arity; comparisons have two: the
# boundary moved, and the direction turned.
BINARY: dict[type[ast.operator], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.MatMult: "*",
    ast.Pow: "*",
    ast.FloorDiv: "*",
    ast.Mod: "//",
    ast.BitOr: "&",
    ast.BitAnd: "|",
    ast.BitXor: "&",
    ast.LShift: ">>",
    ast.RShift: "<<",
}
SYMBOLS: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.MatMult: "@",
    ast.Pow: "**",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.BitOr: "|",
    ast.BitAnd: "&",
    ast.BitXor: "^",
    ast.LShift: "<<",
    ast.RShift: ">>",
}
COMPARISONS: dict[type[ast.cmpop], tuple[str, list[str]]] = {
    ast.Lt: ("<", ["<=", ">="]),
    ast.LtE: ("<=", ["<", ">"]),
    ast.Gt: (">", [">=", "<="]),
    ast.GtE: (">=", [">", "<"]),
    ast.Eq: ("==", ["!="]),
    ast.NotEq: ("!=", ["=="]),
    ast.Is: ("is", ["is not"]),
    ast.IsNot: ("is not", ["is"]),
    ast.In: ("in", ["not in"]),
    ast.NotIn: ("not in", ["in"]),
}
COMMUTES = (ast.Add, ast.Mult, ast.BitOr, ast.BitAnd, ast.BitXor)
# Calls whose first two arguments are not exchanged: the result is the same, or no call at all.
COMMUTING_CALLS = frozenset(
    (
        *("add", "equal", "logical_and", "logical_or", "max", "maximum", "min", "minimum"),
        *("multiply", "not_equal", "swapaxes"),
    )
)
TYPED_CALLS = frozenset(["getattr", "hasattr", "isinstance", "issubclass", "setattr"])
UNTESTED_FUNCTIONS = frozenset(("__repr__", "extra_repr"))
UNTESTED_NAMES = frozenset(("__all__", "__slots__"))
NOT_EXCHANGED = frozenset(("self", "cls", "xp"))
ATOMS = (ast.Name, ast.Constant, ast.Call, ast.Attribute, ast.Subscript, ast.List, ast.Dict)


@dataclass(frozen=True, order=True)
class Mutant:
    """One change of one file.

    Attributes
    ----------
    file
        Below the package, "ops/linalg.py".
    line, column
        Where it begins, both counted from 1.
    kind
        operator, drop, swap, negation, constant or name.
    old, new
        The text there, and the one in its place.
    function
        The qualified name of the function or class around it, "" at the top of the module.
    start
        Where it begins, in characters from the file's beginning.
    entry
        The first line of the innermost function in whose body it stands, decorators included; 0 for
        what runs at import.
    statement
        First and last line of the statement it stands in; of the outermost one at import.
    """

    file: str
    line: int
    column: int
    kind: str
    old: str
    new: str
    function: str
    start: int
    entry: int
    statement: tuple[int, int]

    @property
    def id(self) -> str:
        """What names it for good, as long as nothing is written above it."""
        return f"{self.file}:{self.line}:{self.column} {self.kind}: {self.change}"

    @property
    def change(self) -> str:
        """Old and new on one line."""
        return f"{' '.join(self.old.split())} -> {' '.join(self.new.split())}"

    def apply(self, source: str) -> str:
        """The source with this change."""
        end = self.start + len(self.old)
        assert source[self.start : end] == self.old, "another source than the mutant's"
        return source[: self.start] + self.new + source[end:]

    def lines(self, source: str) -> tuple[str, str]:
        """The source lines it stands in, before and after, each on one line."""
        first = source.rfind("\n", 0, self.start) + 1
        end = self.start + len(self.old)
        last = source.find("\n", end)
        last = len(source) if last < 0 else last
        before, after = source[first : self.start], source[end:last]
        old, new = (" ".join(f"{before}{text}{after}".split()) for text in (self.old, self.new))
        return old, new


def mutants(file: str, source: str) -> list[Mutant]:
    """All mutants of a source, by line and column."""
    return sorted(set(_Finder(file, source).found()))


class _Finder:
    """Walks a module and notes what could stand there instead."""

    def __init__(self, file: str, source: str) -> None:
        self.file, self.source = file, source
        self.tree = ast.parse(source)
        self.lines = source.splitlines(keepends=True)
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))
        self.names: list[str] = []  # of the functions and classes around
        self.scopes: list[list[str]] = []  # what may be exchanged in the function around
        self.entries = [0]
        self.statements: list[ast.stmt] = []
        self.only_annotations = self._names_of_annotations()

    def found(self) -> Iterator[Mutant]:
        for statement in self.tree.body:
            yield from self.visit(statement)

    # -- texts and places

    def _offset(self, line: int, column: int) -> int:
        """Where a place is in the text: `ast` counts bytes."""
        text = self.lines[line - 1]
        return self.starts[line - 1] + len(text.encode()[:column].decode())

    def _span(self, node: ast.AST) -> tuple[int, int]:
        place: ast.expr = node  # type: ignore[assignment]
        assert place.end_lineno is not None
        assert place.end_col_offset is not None
        return (
            self._offset(place.lineno, place.col_offset),
            self._offset(place.end_lineno, place.end_col_offset),
        )

    def _text(self, node: ast.AST) -> str:
        start, end = self._span(node)
        return self.source[start:end]

    def _part(self, node: ast.AST) -> str:
        """A node's text, as part of any expression."""
        text = self._text(node)
        return text if isinstance(node, ATOMS) or _enclosed(text) else f"({text})"

    def _mutant(self, kind: str, node: ast.AST, new: str) -> Mutant:
        start, end = self._span(node)
        return self._replace(kind, start, end, new)

    def _replace(self, kind: str, start: int, end: int, new: str) -> Mutant:
        old = self.source[start:end]
        missing = old.count("\n") - new.count("\n")
        if missing > 0:  # lines below keep their numbers
            breaks = "\n" * missing
            new = f"{new[:-1]}{breaks})" if _enclosed(new) else f"({new}{breaks})"
        line = self.source.count("\n", 0, start) + 1
        column = start - self.starts[line - 1] + 1
        names, entry = ".".join(self.names), self.entries[-1]
        here = self.statements[-1]
        statement = _first_line(here), here.end_lineno or here.lineno
        return Mutant(self.file, line, column, kind, old, new, names, start, entry, statement)

    # -- what is left out

    def _names_of_annotations(self) -> set[str]:
        """Names assigned at the top of the module that are used in annotations only."""
        assigned = {
            target.id
            for statement in self.tree.body
            if isinstance(statement, ast.Assign)
            for target in statement.targets
            if isinstance(target, ast.Name)
        }
        in_annotations: set[str] = set()
        elsewhere: set[str] = set()

        def look(node: ast.AST, found: set[str]) -> None:
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                found.add(node.id)
            for name, value in ast.iter_fields(node):
                inner = in_annotations if name in ("annotation", "returns") else found
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        look(child, inner)

        look(self.tree, elsewhere)
        return (assigned & in_annotations) - elsewhere

    def _is_left_out(self, node: ast.AST) -> bool:
        if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom, ast.Global)):
            return True
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            stub = any(_called(decorator) == "overload" for decorator in node.decorator_list)
            return stub or node.name in UNTESTED_FUNCTIONS
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {target.id for target in targets if isinstance(target, ast.Name)}
            if not self.scopes and names & self.only_annotations:
                return True
            return bool(names & UNTESTED_NAMES)
        if isinstance(node, ast.If):
            return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return isinstance(node, ast.Call) and _called(node) == "warn"

    # -- the walk

    def visit(self, node: ast.AST) -> Iterator[Mutant]:
        if self._is_left_out(node):
            return
        # At import the outermost statement tells the place, in a function by its innermost.
        statement = isinstance(node, ast.stmt) and (self.entries[-1] > 0 or not self.statements)
        if statement:
            self.statements.append(node)  # type: ignore[arg-type]
        specific = getattr(self, f"visit_{type(node).__name__}", self.inside)
        yield from specific(node)
        if statement:
            self.statements.pop()

    def inside(self, node: ast.AST, *leave_out: str) -> Iterator[Mutant]:
        for name, value in ast.iter_fields(node):
            if name in leave_out or name in (
                "annotation",
                "returns",
                "ctx",
                "bases",
                "type_params",
            ):
                continue
            children = value if isinstance(value, list) else [value]
            if name in ("body", "orelse", "handlers") and _prepares_a_message(node, children):
                continue
            for child in children:
                if isinstance(child, ast.AST):
                    yield from self.visit(child)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Mutant]:
        for around in (*node.decorator_list, *node.args.defaults, *node.args.kw_defaults):
            if around is not None:
                yield from self.visit(around)
        messages = _names_of_messages(node)
        self.names.append(node.name)
        self.scopes.append(_parameters(node.args))
        self.entries.append(_first_line(node))
        for statement in node.body:
            if isinstance(statement, ast.Assign) and {_name(t) for t in statement.targets} <= (
                messages
            ):
                continue
            yield from self.visit(statement)
        self.entries.pop()
        self.scopes.pop()
        self.names.pop()

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> Iterator[Mutant]:
        self.names.append(node.name)
        yield from self.inside(node, "keywords")
        self.names.pop()

    def visit_Lambda(self, node: ast.Lambda) -> Iterator[Mutant]:
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                yield from self.visit(default)
        self.scopes.append(_parameters(node.args))
        self.entries.append(node.lineno)
        yield from self.visit(node.body)
        self.entries.pop()
        self.scopes.pop()

    def _comprehension(self, node: ast.AST) -> Iterator[Mutant]:
        bound = {
            name.id
            for generator in node.generators  # type: ignore[attr-defined]
            for name in ast.walk(generator.target)
            if isinstance(name, ast.Name)
        }
        around = self.scopes[-1] if self.scopes else []
        self.scopes.append([name for name in around if name not in bound])
        yield from self.inside(node)
        self.scopes.pop()

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension

    def _condition(self, test: ast.expr) -> Iterator[Mutant]:
        """A condition turned round, where no operator of its own says that already."""
        turned = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
        compared = isinstance(test, ast.Compare) and len(test.ops) == 1
        if not turned and not compared and not isinstance(test, ast.Constant):
            yield self._mutant("negation", test, f"(not {self._part(test)})")

    def visit_If(self, node: ast.If | ast.While | ast.IfExp | ast.Assert) -> Iterator[Mutant]:
        yield from self._condition(node.test)
        yield from self.inside(node)

    visit_While = visit_IfExp = visit_Assert = visit_If

    def visit_comprehension(self, node: ast.comprehension) -> Iterator[Mutant]:
        for test in node.ifs:
            yield from self._condition(test)
        yield from self.inside(node, "target")

    def visit_BinOp(self, node: ast.BinOp) -> Iterator[Mutant]:
        left, right = self._part(node.left), self._part(node.right)
        symbol = SYMBOLS[type(node.op)]
        if not any(_is_text(side) for side in (node.left, node.right)):
            yield self._mutant("operator", node, f"({left} {BINARY[type(node.op)]} {right})")
            yield self._mutant("drop", node, left)
            yield self._mutant("drop", node, right)
            if not isinstance(node.op, COMMUTES) and left != right:
                yield self._mutant("swap", node, f"({right} {symbol} {left})")
        yield from self.inside(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> Iterator[Mutant]:
        target, value = self._text(node.target), self._part(node.value)
        if not _is_text(node.value):
            yield self._mutant("operator", node, f"{target} {BINARY[type(node.op)]}= {value}")
            yield self._mutant("drop", node, f"{target} = {value}")
            yield self._mutant("drop", node, "pass")
        yield from self.inside(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> Iterator[Mutant]:
        parts = [self._part(value) for value in node.values]
        is_and = isinstance(node.op, ast.And)
        ours, other = (" and ", " or ") if is_and else (" or ", " and ")
        yield self._mutant("operator", node, f"({other.join(parts)})")
        for i in range(len(parts)):
            rest = parts[:i] + parts[i + 1 :]
            yield self._mutant("drop", node, rest[0] if len(rest) == 1 else f"({ours.join(rest)})")
        yield from self.inside(node)

    def visit_Compare(self, node: ast.Compare) -> Iterator[Mutant]:
        parts = [self._part(value) for value in (node.left, *node.comparators)]
        symbols = [COMPARISONS[type(op)][0] for op in node.ops]
        for i, op in enumerate(node.ops):
            for other in COMPARISONS[type(op)][1]:
                text = parts[0]
                for j, part in enumerate(parts[1:]):
                    text += f" {other if j == i else symbols[j]} {part}"
                yield self._mutant("operator", node, f"({text})")
        yield from self.inside(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> Iterator[Mutant]:
        if not isinstance(node.op, ast.UAdd):
            yield self._mutant("negation", node, self._part(node.operand))
        yield from self.inside(node)

    def visit_Constant(self, node: ast.Constant) -> Iterator[Mutant]:
        value = node.value
        if isinstance(value, bool):
            yield self._mutant("constant", node, str(not value))
        elif isinstance(value, (int, float)):
            for other in (0, 2) if value == 1 else (value + 1,):
                yield self._mutant("constant", node, repr(type(value)(other)))

    def visit_Call(self, node: ast.Call) -> Iterator[Mutant]:
        called = _called(node)
        if len(node.args) > 1 and called not in COMMUTING_CALLS | TYPED_CALLS:
            first, second = node.args[:2]
            texts = self._text(first), self._text(second)
            starred = isinstance(first, ast.Starred) or isinstance(second, ast.Starred)
            if not starred and texts[0] != texts[1] and not (_is_text(first) or _is_text(second)):
                (start, middle), (back, end) = self._span(first), self._span(second)
                between = self.source[middle:back]
                if isinstance(second, ast.GeneratorExp) or "(" in between or ")" in between:
                    return (yield from self.inside(node))
                yield self._replace("swap", start, end, texts[1] + between + texts[0])
        if called == "zip":  # `strict=True` there is an assertion, and it holds
            for argument in node.args:
                yield from self.visit(argument)
        elif isinstance(node.func, ast.Name):
            yield from self.inside(node, "func")
        else:
            yield from self.inside(node)

    def visit_Name(self, node: ast.Name) -> Iterator[Mutant]:
        names = self.scopes[-1] if self.scopes else []
        if isinstance(node.ctx, ast.Load) and node.id in names and len(names) > 1:
            other = names[(names.index(node.id) + 1) % len(names)]
            yield self._mutant("name", node, other)


def _first_line(node: ast.stmt) -> int:
    """The line where a statement begins, with its decorators: a code's `co_firstlineno`."""
    return min([node.lineno, *[one.lineno for one in getattr(node, "decorator_list", ())]])


def _enclosed(text: str) -> bool:
    """Whether one pair of brackets holds all of a text."""
    if not text or text[0] not in "([{":
        return False
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if depth == 0:
            return i == len(text) - 1
    return False


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes))
    )


def _called(node: ast.AST) -> str:
    """The last name of what is called, or of a decorator."""
    if isinstance(node, ast.Call):
        node = node.func
    if isinstance(node, ast.Attribute):
        return node.attr
    return _name(node)


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _parameters(arguments: ast.arguments) -> list[str]:
    every = [
        *arguments.posonlyargs,
        *arguments.args,
        *([arguments.vararg] if arguments.vararg else []),
        *arguments.kwonlyargs,
        *([arguments.kwarg] if arguments.kwarg else []),
    ]
    return [one.arg for one in every if one.arg not in NOT_EXCHANGED]


def _prepares_a_message(node: ast.AST, block: list[ast.AST]) -> bool:
    """Whether a branch only works out what to say, and raises."""
    return (
        isinstance(node, (ast.If, ast.Try, ast.ExceptHandler))
        and bool(block)
        and isinstance(block[-1], ast.Raise)
        and all(isinstance(one, (ast.Assign, ast.AnnAssign)) for one in block[:-1])
    )


def _names_of_messages(function: ast.AST) -> set[str]:
    """Variables of a function that are used in what it raises, and nowhere else."""
    raised: set[str] = set()
    elsewhere: set[str] = set()

    def look(node: ast.AST, found: set[str]) -> None:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            found.add(node.id)
        blocks: list[ast.AST] = []
        for name in ("body", "orelse"):
            block = getattr(node, name, None)
            if isinstance(block, list) and _prepares_a_message(node, block):
                blocks.extend(block)
        for child in ast.iter_child_nodes(node):
            message = isinstance(child, ast.Raise) or any(child is one for one in blocks)
            look(child, raised if message else found)

    look(function, elsewhere)
    return raised - elsewhere
