"""Run the Python of a Markdown page, and compare what it prints with what the page shows.

The rules, for authors:

- A block ```` ```python ```` is run. All blocks of a page share one namespace, from top to bottom,
  and run in an empty folder, so they may write files.
- A block ```` ```text ```` or ```` ```output ```` right behind it (only blank lines between) must
  be exactly what it prints, but for spaces at the ends of lines. A block that prints must have one.
- A block ```` ```python file=microtensor/engine.py ```` is not run: its lines must stand in that
  file, together and in this order, at whatever indentation.

After a change, `python tests/snippets.py docs/engine.md` writes the present output into the page;
read the difference before you commit it.
"""

import ast
import contextlib
import difflib
import io
import linecache
import os
import re
import sys
import tempfile
import textwrap
import traceback
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FENCE = "```"


class SnippetError(AssertionError):
    """A page and the code disagree; the message starts with the page and the line."""


@dataclass
class Block:
    """A fenced block: `line` is the page's line (from 1) of its first line of content."""

    language: str
    options: dict[str, str]
    line: int
    lines: list[str]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def end(self) -> int:
        """The page's line of the closing fence."""
        return self.line + len(self.lines)


def blocks(page: str, name: str) -> list[Block]:
    """All fenced blocks of a page, in order."""
    found: list[Block] = []
    current: Block | None = None
    for number, line in enumerate(page.splitlines(), 1):
        if current is not None:
            if line.rstrip() == FENCE:
                found.append(current)
                current = None
            else:
                current.lines.append(line)
        elif line.startswith(FENCE):
            language, *options = line[len(FENCE) :].split() or [""]
            pairs = dict(option.partition("=")[::2] for option in options)
            current = Block(language, pairs, number + 1, [])
    if current is not None:
        raise SnippetError(f"{name}:{current.line - 1}: this block is never closed")
    return found


def pairs(page: str, name: str) -> Iterator[tuple[Block, Block | None]]:
    """Each Python block with the output block that belongs to it, if one does."""
    lines = page.splitlines()
    previous: Block | None = None
    claimed: list[Block] = []
    result: list[tuple[Block, Block | None]] = []
    for block in blocks(page, name):
        adjacent = previous is not None and not any(
            line.strip() for line in lines[previous.end : block.line - 2]
        )
        if block.language == "python":
            result.append((block, None))
        elif block.language in ("text", "output"):
            if adjacent and previous is not None and previous.language == "python":
                result[-1] = (previous, block)
                claimed.append(block)
            elif block.language == "output":
                raise SnippetError(f"{name}:{block.line - 1}: no Python block stands right above")
        previous = block
    yield from result


def run_page(page: str, name: str) -> list[tuple[Block, Block | None, str]]:
    """Run all blocks; return each with the output block beside it and what it printed.

    Raises
    ------
    SnippetError
        A block raises, or its quoted file does not hold it.
    """
    # Under the page's own name, so that a traceback (and inspect.getsource) shows the page's lines.
    linecache.cache[name] = (len(page), None, page.splitlines(keepends=True), name)
    module = types.ModuleType("page_" + "".join(c if c.isalnum() else "_" for c in name))
    sys.modules[module.__name__] = module
    printed = []
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            for block, expected in pairs(page, name):
                if "file" in block.options:
                    _check_quotation(block, name)
                else:
                    printed.append((block, expected, _run(block, name, module)))
    finally:
        del sys.modules[module.__name__]
    return printed


def _run(block: Block, name: str, module: types.ModuleType) -> str:
    where = f"{name}:{block.line}"
    if any(line.startswith(">>>") for line in block.lines):
        raise SnippetError(f"{where}: write plain code and an output block, without >>>")
    try:
        tree = ast.increment_lineno(ast.parse(block.text), block.line - 1)
    except SyntaxError as error:
        line = block.line - 1 + (error.lineno or 1)
        raise SnippetError(f"{name}:{line}: {error.msg}: {error.text}") from None
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            exec(compile(tree, name, "exec"), module.__dict__)
    except Exception as error:
        trace = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == name]
        line = trace[-1].lineno if trace else block.line
        shown = "".join(traceback.format_exception(error))
        raise SnippetError(f"{name}:{line}: {type(error).__name__}: {error}\n\n{shown}") from None
    return output.getvalue()


def _check_quotation(block: Block, name: str) -> None:
    path = ROOT / block.options["file"]
    where = f"{name}:{block.line}"
    if not path.is_file():
        raise SnippetError(f"{where}: there is no file {block.options['file']}")
    wanted = textwrap.dedent(block.text).rstrip().splitlines()
    lines = path.read_text(encoding="utf-8").splitlines()
    for start in range(len(lines) - len(wanted) + 1):
        candidate = textwrap.dedent("\n".join(lines[start : start + len(wanted)])).splitlines()
        if candidate == wanted:
            return
    raise SnippetError(f"{where}: these lines do not stand like this in {block.options['file']}")


def normal(text: str) -> list[str]:
    """Lines without trailing spaces, without blank lines at the end."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


def check_page(page: str, name: str) -> int:
    """Run a page and compare; the number of blocks that ran.

    Raises
    ------
    SnippetError
        A block raises, prints something else than the page shows, or prints what is not shown.
    """
    printed = run_page(page, name)
    for block, expected, output in printed:
        if expected is None:
            if output.strip():
                raise SnippetError(
                    f"{name}:{block.line}: this block prints, but no ```text block stands behind "
                    f"it; it prints:\n{output}"
                )
        elif normal(output) != normal(expected.text):
            difference = difflib.unified_diff(
                normal(expected.text), normal(output), "the page", "the code", lineterm="", n=2
            )
            raise SnippetError(
                f"{name}:{expected.line}: the code of line {block.line} prints something else:\n"
                + "\n".join(difference)
                + f"\nIf the code is right: python tests/snippets.py {name}"
            )
    return len(printed)


def updated(page: str, name: str) -> str:
    """The page with every output block replaced by what its code prints now."""
    lines = page.splitlines()
    for _, expected, output in reversed(run_page(page, name)):
        if expected is not None:
            lines[expected.line - 1 : expected.end - 1] = normal(output)
    return "\n".join(lines) + "\n"


def broken_links(path: Path) -> list[str]:
    """The links of a page into the project that lead to no file, or to no heading of a page."""
    text = path.read_text(encoding="utf-8")
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = path.parent / target if target else path
        if not file.exists() or (
            anchor and file.suffix == ".md" and anchor not in _anchors(file.read_text("utf-8"))
        ):
            broken.append(link)
    return broken


def _anchors(page: str) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ +(.*)$", page, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    for argument in sys.argv[1:]:
        path = Path(argument).resolve()
        old = path.read_text(encoding="utf-8")
        new = updated(old, os.path.relpath(path, ROOT))
        if new != old:
            path.write_text(new, encoding="utf-8")
        print(f"{argument}: {'updated' if new != old else 'was right'}")
