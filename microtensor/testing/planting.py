"""Plant a bug in a module that is running, see whether a test notices, and take it out again.

    with planted(Edit("microtensor.ops.elementwise", "g * cos(x)", "g * sin(x)")):
        ...  # every `sin` there is has a wrong derivative

Nothing is written to disk, and no object is exchanged: the source with the edit is compiled beside
the source as it is, and each function whose code differs is given the new code. So it does not
matter who holds the function already: a `from ... import`, a rule in a declaration, a closure. What
cannot be reached in this way, because it ran once at import and will not run again, is refused
with `NotLive`.
"""

from __future__ import annotations

import ast
import dis
import gc
import importlib
import inspect
import linecache
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any

from microtensor.declaration import Declaration

__all__ = ["Edit", "NotLive", "Unchanged", "plant", "plant_source", "planted", "uproot"]


class NotLive(ValueError):
    """An edit of what ran at import and will not run again: a fresh process would be needed."""


class Unchanged(ValueError):
    """An edit with which a module does the very same as before."""


@dataclass(frozen=True)
class Edit:
    """One text in the source of a module, and what stands there instead.

    Attributes
    ----------
    module
        The module's dotted name.
    old
        The text as it stands in the source, long enough to stand there exactly once.
    new
        The text in its place. It may have more lines, or fewer.
    """

    module: str
    old: str
    new: str

    def apply(self, source: str) -> str:
        """The source with the edit.

        Raises
        ------
        ValueError
            If `old` stands there more than once, or not at all.
        """
        count = source.count(self.old)
        if count != 1:
            raise ValueError(
                f"the text {self.old!r} must stand exactly once in {self.module}, and it stands "
                f"there {count} times; {'give more of its surroundings' if count else 'look again'}"
            )
        return source.replace(self.old, self.new)


@contextmanager
def planted(*edits: Edit) -> Iterator[None]:
    """For the length of a `with` block, modules run as if they had been written with the edits.

    Raises
    ------
    ValueError
        If an edit's text does not stand in its module exactly once; `Unchanged` if the new one
        does the same.
    NotLive
        If an edit concerns what ran at import only.
    """
    undo = plant(*edits)
    try:
        yield
    finally:
        undo()


def plant(*edits: Edit) -> Callable[[], None]:
    """As `planted`, but until the function that is returned is called.

    Further edits of the same module may be planted on top, and are undone first. Graphs recorded
    before a planting should not be walked during it: they hold what the old rules asked for.

    Returns
    -------
    Callable
        Takes the edits out again; calling it twice does no harm.
    """
    sources: dict[str, str] = {}
    for edit in edits:
        before = sources.get(edit.module)
        if before is None:
            before = source_of(importlib.import_module(edit.module))
        sources[edit.module] = edit.apply(before)
    undos: list[Callable[[], None]] = []

    def undo() -> None:
        while undos:
            undos[-1]()
            undos.pop()

    try:
        for name, source in sources.items():
            undos.append(plant_source(name, source))
    except BaseException:
        undo()
        raise
    return undo


# What is planted now: the sources of a module, one on top of the other, the first from its file.
_sources: dict[str, list[str]] = {}


def source_of(module: ModuleType) -> str:
    """The source that a module runs by now: what is planted in it, or its file.

    Raises
    ------
    OSError
        If there is no source to be had.
    """
    if module.__name__ in _sources:
        return _sources[module.__name__][-1]
    loader: Any = getattr(module, "__loader__", None)
    source = loader.get_source(module.__name__) if hasattr(loader, "get_source") else None
    return source if isinstance(source, str) else inspect.getsource(module)


def plant_source(module: str | ModuleType, source: str) -> Callable[[], None]:
    """As `plant`, with the whole source of one module.

    Functions are matched by their order in the source, so there must be as many as before.

    Parameters
    ----------
    module
        The module, or its dotted name.
    source
        The text that shall run in place of the one that does.

    Returns
    -------
    Callable
        Brings the old source back.

    Raises
    ------
    Unchanged
        If the two do the same.
    NotLive
        If they differ in what ran at import only.
    SyntaxError
        If it is no Python.
    """
    live = importlib.import_module(module) if isinstance(module, str) else module
    name, before = live.__name__, source_of(live)
    file = getattr(live, "__file__", None) or f"<{name}>"
    pairs = _differences(*_compiled(before, source, file))
    if not any(pair.differs for pair in pairs):
        raise Unchanged(f"{name}: with this change the module does the same as before")
    there = {pair.old: pair.new for pair in pairs}
    back = {pair.new: pair.old for pair in pairs}
    functions = _functions(live)
    _refuse_what_is_out_of_reach(live, functions, pairs)
    _exchange(live, functions, there, back)
    stack = _sources.setdefault(name, [before])
    stack.append(source)
    shown, depth = linecache.cache.get(file), len(stack)
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)

    def undo() -> None:
        if len(stack) < depth:
            return
        if len(stack) > depth:
            raise RuntimeError(f"{name}: something was planted on top of this; undo that first")
        _exchange(live, _functions(live), back, there)
        stack.pop()
        if len(stack) == 1:
            _sources.pop(name, None)
        if shown is None:
            linecache.cache.pop(file, None)
        else:
            linecache.cache[file] = shown

    return undo


def uproot() -> list[str]:
    """Take out whatever is planted, by whomever; the names of the modules it was in."""
    names = list(_sources)
    for name in names:
        stack = _sources[name]
        first = stack[0]
        if stack[-1] != first:
            plant_source(name, first)
        del stack[1:]
        _sources.pop(name, None)
        linecache.cache.pop(getattr(importlib.import_module(name), "__file__", None) or "", None)
    return names


# ---------------------------------------------------------------------------------------------
# Where two sources differ


@dataclass
class _Pair:
    """A function as it was, and as it will be."""

    old: CodeType
    new: CodeType
    around: _Pair | None  # the function in which it stands
    differs: bool  # in what it does itself: not only in its lines, or in a function within it


def _differences(old: CodeType, new: CodeType) -> list[_Pair]:
    """The functions of two modules that differ, each before those within it."""
    pairs: list[_Pair] = []
    if not _alike(old, new):
        raise NotLive("the change is in what ran at import: it needs a fresh process")
    todo: list[tuple[CodeType, CodeType, _Pair | None]] = [(old, new, None)]
    while todo:
        a, b, around = todo.pop()
        for x, y in zip(_within(a), _within(b), strict=True):
            if x == y:
                continue
            if _is_function(x):
                pairs.append(_Pair(x, y, around, not _alike(x, y)))
                if len(_within(x)) == len(_within(y)):
                    todo.append((x, y, pairs[-1]))
            elif _alike(x, y):
                todo.append((x, y, around))
            elif around is None:
                raise NotLive(
                    f"the change is in the body of class {x.co_name}, which ran at import: it "
                    "needs a fresh process"
                )
    return pairs


def _is_function(code: CodeType) -> bool:
    return bool(code.co_flags & inspect.CO_OPTIMIZED)


def _within(code: CodeType) -> list[CodeType]:
    """Functions and classes that stand in a code; comprehensions are a part of it themselves."""
    found = []
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inside = constant.co_name in _COMPREHENSIONS
            found.extend(_within(constant) if inside else [constant])
    return found


_COMPREHENSIONS = frozenset(("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"))


def _alike(a: CodeType, b: CodeType) -> bool:
    """Whether two codes do the same, whatever their lines and the functions within them do."""
    return _gist(a) == _gist(b) or _steps(a) == _steps(b)


def _gist(code: CodeType) -> tuple[Any, ...]:
    return (
        code.co_code,
        code.co_exceptiontable,
        code.co_names,
        code.co_varnames,
        code.co_freevars,
        code.co_cellvars,
        _parameters(code),
        [_constant(constant) for constant in code.co_consts],
    )


def _parameters(code: CodeType) -> tuple[Any, ...]:
    count = code.co_argcount + code.co_kwonlyargcount
    stars = code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS)
    count += stars.bit_count()
    kinds = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, stars
    return *kinds, *code.co_varnames[:count]


def _constant(constant: Any) -> Any:
    """A constant, told from equal ones of other types; functions stand for themselves."""
    if isinstance(constant, CodeType):
        if constant.co_name in _COMPREHENSIONS:
            return _gist(constant)
        return constant.co_name
    return type(constant), repr(constant)


def _steps(code: CodeType) -> list[Any]:
    """The instructions, without what Python 3.13 notes of itself in the body of a class."""
    steps = [(step.opname, _constant(step.argval)) for step in dis.get_instructions(code)]
    for i, (name, value) in enumerate(steps):
        if name == "STORE_NAME" and value[1] in _NOTES:
            steps[i - 1] = ("LOAD_CONST", None)
    return steps


_NOTES = ("'__firstlineno__'", "'__static_attributes__'")


# ---------------------------------------------------------------------------------------------
# Compiling


def _compiled(before: str, after: str, file: str) -> tuple[CodeType, CodeType]:
    """Both sources compiled, the second so that closures there are fit the functions in it.

    A function that does not use a variable around it any more would have another closure than the
    live ones. Where that happens, the variable is named in a branch that is never taken.
    """
    old, new = [compile(text, file, "exec", dont_inherit=True) for text in (before, after)]
    tree: ast.Module | None = None
    todo = [(old, new)]
    while todo:
        a, b = todo.pop()
        if len(_within(a)) != len(_within(b)):
            continue
        unused = set(a.co_freevars) - set(b.co_freevars)
        if unused and _is_function(b):
            tree = ast.parse(after) if tree is None else tree
            _name(_node_of(tree, b), sorted(unused))
            new = compile(tree, file, "exec", dont_inherit=True)
            todo = [(old, new)]
        else:
            todo.extend(zip(_within(a), _within(b), strict=True))
    return old, new


def _node_of(tree: ast.Module, code: CodeType) -> Any:
    """The function in the source that was compiled to `code`: the innermost one around it."""
    spots = [(line, column) for line, _, column, _ in code.co_positions() if line and column]
    found: Any = None
    for node in ast.walk(tree):  # from the outside inward
        if isinstance(node, ast.Lambda):
            name = "<lambda>"
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            name = node.name
        else:
            continue
        start = node.lineno, node.col_offset
        end = node.end_lineno or 0, node.end_col_offset or 0
        if name == code.co_name and all(start <= spot <= end for spot in spots):
            found = node
    return found


def _name(function: Any, variables: list[str]) -> None:
    """Name variables in a function, where it makes no difference."""
    unused: ast.expr = ast.Tuple([ast.Name(name, ast.Load()) for name in variables], ast.Load())
    if isinstance(function, ast.Lambda):
        body = function.body
        function.body = ast.IfExp(ast.Constant(True), body, unused)
        ast.copy_location(function.body, body)
    else:
        never = ast.If(ast.Constant(False), [ast.Expr(unused)], [])
        function.body.append(ast.copy_location(never, function.body[-1]))
    ast.fix_missing_locations(function)


# ---------------------------------------------------------------------------------------------
# Functions that are alive


def _functions(module: ModuleType) -> list[FunctionType]:
    """All functions there are that were made from a module's source, whoever holds them.

    This looks at every object that is alive: a tenth of a second where there are many.
    """
    names = vars(module)
    return [
        found
        for found in gc.get_referrers(names)
        if isinstance(found, FunctionType) and found.__globals__ is names
    ]


def _refuse_what_is_out_of_reach(
    module: ModuleType, alive: list[FunctionType], pairs: list[_Pair]
) -> None:
    """Raise `NotLive` unless every change will be met by a call of a live function."""
    functions: dict[CodeType, list[FunctionType]] = {}
    for function in alive:
        functions.setdefault(function.__code__, []).append(function)
    for pair in pairs:
        where = f"{module.__name__}, line {pair.old.co_firstlineno}, {pair.old.co_name}"
        outer: _Pair | None = pair
        while outer is not None and outer.old not in functions:
            outer = outer.around
        if pair.differs and outer is None:
            raise NotLive(
                f"{where}: no function is alive that runs this; if it ran at import, the change "
                "needs a fresh process, and if the file has changed since, so does everything"
            )
        if len(_within(pair.old)) != len(_within(pair.new)) and any(
            code in functions for code in _all_within(pair.old)
        ):
            raise NotLive(f"{where}: functions made in it are alive, and now there are others")
        for function in functions.get(pair.old, []):
            if pair.old.co_freevars != pair.new.co_freevars:
                raise NotLive(
                    f"{where}: a closure that is alive knows the variables "
                    f"{pair.old.co_freevars}, not {pair.new.co_freevars}"
                )
            if _parameters(pair.old) == _parameters(pair.new):
                continue
            if function.__defaults__ or function.__kwdefaults__:
                raise NotLive(f"{where}: its default values belong to its old parameters")
            if any(declaration.forward is function for declaration in _declarations()):
                raise NotLive(f"{where}: the operation's parameters were read when it was declared")


def _all_within(code: CodeType) -> Iterator[CodeType]:
    for inner in _within(code):
        yield inner
        yield from _all_within(inner)


def _exchange(
    module: ModuleType,
    alive: list[FunctionType],
    there: dict[CodeType, CodeType],
    back: dict[CodeType, CodeType],
) -> None:
    """Give functions their new code, all of them or none."""
    changed = []
    for function in alive:
        new = there.get(function.__code__)
        if new is not None:
            if _parameters(function.__code__) != _parameters(new):
                changed.append(function)
            function.__code__ = new
    try:
        _declare_again(changed)
    except Exception:
        for function in _functions(module):
            function.__code__ = back.get(function.__code__, function.__code__)
        _declare_again(changed)
        raise


def _declarations() -> list[Declaration]:
    return [found for found in gc.get_referrers(Declaration) if isinstance(found, Declaration)]


def _declare_again(changed: list[FunctionType]) -> None:
    """Declare rules whose parameters have changed once more: they say what is saved."""
    functions = set(changed)
    for declaration in _declarations() if functions else ():
        for argument, (rule, _) in list(declaration.rules.items()):
            if _plain(rule) in functions:
                declaration.vjp(argument, rule)
        if declaration.joint is None:
            continue
        rule = declaration.joint[0]
        if _plain(rule) in functions:
            declaration.vjp_all(rule)
        elif declaration.variadic:  # `vjp` has put a function around it
            for cell in getattr(rule, "__closure__", None) or ():
                if _plain(cell.cell_contents) in functions:
                    declaration.vjp(declaration.arguments[0], cell.cell_contents)


def _plain(rule: Any) -> Any:
    return getattr(rule, "__func__", rule)
