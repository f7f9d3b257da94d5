"""The parts that a newcomer reads stay short, stand alone, and follow one order.

`python tests/test_reading_path.py` prints the length of every file, and writes those that README.md
names into its table.
"""

import ast
import io
import re
import sys
import tokenize
from pathlib import Path

import pytest

import microtensor as mt

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "microtensor"
CORE = ["engine.py", "tensor.py", "ops/elementwise.py"]

# A file imports only what stands above it here; a folder is one entry, without circles inside.
ORDER = [
    "modes.py",
    "backend.py",
    "guards.py",
    "writes.py",
    "indexed.py",
    "declaration.py",
    "engine.py",
    "ops",
    "interop.py",
    "tensor.py",
    "creation.py",
    "capture.py",
    "recurrence",
    "nn",
    "optim",
    "summary.py",
    "io.py",
    "explain.py",
    "testing",
    "__init__.py",
]
# May be imported in functions.
OPTIONAL = {"cupy", "cupyx", "numba", "llvmlite", "safetensors", "hypothesis"}

FILES = sorted(path.relative_to(LIBRARY).as_posix() for path in LIBRARY.rglob("*.py"))


def code_lines(source: str) -> int:
    """Lines that hold code: not blank, not only a comment, not part of a docstring."""
    empty = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in empty:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                lines.difference_update(range(first.lineno, (first.end_lineno or 0) + 1))
    return len(lines)


def total_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_what_counts_as_a_line_of_code():
    source = '"""Doc\nstring."""\n\n# comment\nx = 1  # one\n\n\ndef f():\n    """Doc."""\n'
    source += '    return (\n        """no doc"""\n    )\n'
    assert code_lines(source) == 5


def test_the_core_is_at_most_700_lines_of_code_and_1200_in_all():
    code = {name: code_lines((LIBRARY / name).read_text(encoding="utf-8")) for name in CORE}
    total = {name: total_lines(LIBRARY / name) for name in CORE}
    assert sum(code.values()) <= 700, code
    assert sum(total.values()) <= 1200, total


@pytest.mark.parametrize("name", FILES)
def test_lines_are_at_most_100_characters(name):
    lines = (LIBRARY / name).read_text(encoding="utf-8").splitlines()
    assert [n for n, line in enumerate(lines, 1) if len(line) > 100] == []


def test_an_expression_and_its_backward_pass_enter_four_files_only():
    x = mt.tensor(0.5, requires_grad=True)
    y = mt.tensor(2.0, requires_grad=True)
    entered: set[str] = set()

    def trace(frame, event, argument):
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(LIBRARY):
            entered.add(path.relative_to(LIBRARY).as_posix())

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        ((x * y) + x).tanh().backward()
    finally:
        sys.settrace(before)
    assert entered <= {"backend.py", *CORE}
    assert set(CORE) - {"tensor.py"} <= entered  # it did trace
    assert x.grad is not None


# -- one order --------------------------------------------------------------------------------


def module_of(name: str) -> str:
    """microtensor.ops.shape for ops/shape.py, microtensor.ops for ops/__init__.py."""
    return ".".join(["microtensor", *name.removesuffix(".py").split("/")]).removesuffix(".__init__")


MODULES = {module_of(name): name for name in FILES}


def imports(name: str, source: str) -> list[tuple[str, int, bool]]:
    """What a file imports: (module, line, whether inside a function), as absolute names."""
    package = module_of(name).split(".")
    if not name.endswith("__init__.py"):
        package = package[:-1]
    found = []

    def walk(node: ast.AST, inside: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend((alias.name, node.lineno, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            for alias in node.names:
                full = f"{origin}.{alias.name}"
                found.append((full if full in MODULES else origin, node.lineno, inside))
        inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            walk(child, inside)

    walk(ast.parse(source), False)
    return found


def library_imports(name: str) -> list[tuple[str, int]]:
    source = (LIBRARY / name).read_text(encoding="utf-8")
    return [
        (MODULES[module], line) for module, line, _ in imports(name, source) if module in MODULES
    ]


def place(name: str) -> int:
    top = name.split("/")[0]
    assert top in ORDER, f"microtensor/{name} has no place in the order of test_reading_path.py"
    return ORDER.index(top)


def test_imports_are_understood():
    source = "from . import shape\nfrom ..engine import Node\ndef f():\n    import cupy\n"
    assert imports("ops/elementwise.py", source) == [
        ("microtensor.ops.shape" if "ops/shape.py" in FILES else "microtensor.ops", 1, False),
        ("microtensor.engine", 2, False),
        ("cupy", 4, True),
    ]


@pytest.mark.parametrize("name", FILES)
def test_a_file_imports_only_files_above_it(name):
    for other, line in library_imports(name):
        same_folder = place(other) == place(name) and "/" in name
        assert place(other) < place(name) or same_folder, (
            f"microtensor/{name}:{line} imports {other}, which does not stand above it"
        )


def test_there_are_no_circles():
    above = {name: {other for other, _ in library_imports(name)} for name in FILES}
    while above:
        free = [name for name, needs in above.items() if not needs & above.keys()]
        assert free, f"these files import one another in a circle: {sorted(above)}"
        for name in free:
            del above[name]


@pytest.mark.parametrize("name", FILES)
def test_only_optional_packages_are_imported_inside_functions(name):
    source = (LIBRARY / name).read_text(encoding="utf-8")
    for module, line, inside in imports(name, source):
        top = module.split(".")[0]
        where = f"microtensor/{name}:{line} imports {module}"
        if inside:
            assert top in OPTIONAL, f"{where} inside a function"
        elif not name.startswith("testing/") and "/drivers/" not in name:
            assert top in {"microtensor", "numpy"} | sys.stdlib_module_names, (
                f"{where} when it is itself imported; the library needs NumPy alone"
            )


# -- the table in the README --------------------------------------------------------------------

ROW = re.compile(r"(\[`(?P<path>[\w/.]+)`\]\((?P=path)\) \| )(?P<lines>\d+)")
PATH_IN_README = [
    "docs/scalar_engine.py",
    "microtensor/engine.py",
    "microtensor/tensor.py",
    "microtensor/ops/elementwise.py",
    "docs/engine.md",
    "microtensor/recurrence/cell.py",
    "microtensor/nn/recurrent.py",
]


def test_the_readme_gives_the_length_of_what_it_asks_to_read():
    rows = list(ROW.finditer((ROOT / "README.md").read_text(encoding="utf-8")))
    assert [row["path"] for row in rows] == PATH_IN_README
    for row in rows:
        actual = total_lines(ROOT / row["path"])
        assert abs(int(row["lines"]) - actual) <= max(5, actual // 20), (
            f"README.md says {row['lines']} lines for {row['path']}, which has {actual}; "
            "run python tests/test_reading_path.py"
        )


if __name__ == "__main__":
    for file in FILES:
        text = (LIBRARY / file).read_text(encoding="utf-8")
        print(f"{code_lines(text):6} of {len(text.splitlines()):6} lines are code   {file}")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    def recount(row: re.Match[str]) -> str:
        path = ROOT / row["path"]
        return f"{row[1]}{total_lines(path)}" if path.exists() else row[0]

    counted = ROW.sub(recount, readme)
    (ROOT / "README.md").write_text(counted, encoding="utf-8")
