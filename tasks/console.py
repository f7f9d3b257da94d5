"""What a person sees while experiments run: progress and tables, all on standard error.

On a terminal `rich` draws a bar; elsewhere (a log file, a pipe) plain lines appear now and then.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from tasks.report import describe_row


def say(text: str = "") -> None:
    """One line on standard error."""
    print(text, file=sys.stderr, flush=True)


class ProgressBar:
    """Progress of one run, as a context manager; see `tasks.runner.Progress`.

    Parameters
    ----------
    title
        What is being run.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar: Any = None
        self._drawn = time.monotonic()
        self._start = self._drawn
        self._total = 0

    def __enter__(self) -> ProgressBar:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:3.0f} %"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._line = self._bar.add_task(self._title, total=1.0)
        return self

    def update(self, done: float, *, total: int) -> None:
        """Show that `done` of `total` units of work are done."""
        now = time.monotonic()
        if self._bar is not None:
            if now - self._drawn > 0.05 or done >= total:
                self._drawn = now
                self._bar.update(self._line, completed=done / max(total, 1))
        elif now - self._drawn > 10.0:
            self._drawn = now
            part = 100 * done / max(total, 1)
            say(f"{self._title}: {part:.0f} % of {total} trials, {now - self._start:.0f} s")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def show_rows(result: Mapping[str, Any]) -> None:
    """The comparison as a table: target, ours, spread, verdict; below it what helps to read it."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(stderr=True, width=None if sys.stderr.isatty() else 130, highlight=False)
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{result['task']}: {result['title']}",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("what is measured", ratio=3, overflow="fold")
    table.add_column("target", justify="right")
    table.add_column("ours", justify="right")
    table.add_column("spread", justify="right")
    table.add_column("passes if", justify="right")
    table.add_column("verdict")
    for row in result["rows"]:
        cells = describe_row(row)
        style = {True: "green", False: "bold red", None: ""}[row["ok"]]
        table.add_row(
            cells.name,
            cells.target,
            cells.value,
            cells.spread,
            cells.tolerance,
            f"[{style}]{cells.verdict}[/]" if style else cells.verdict,
        )
    console.print(table)
    for level in _levels(result["rows"]):
        say(f"  reference level {level}")
    for row in result["rows"]:
        if row["note"]:
            say(f"  {row['name']}: {row['note']}")


def _levels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every reference level once, in order."""
    levels = [f"{lv['value']:.4g}: {lv['name']}" for row in rows for lv in row["levels"]]
    return list(dict.fromkeys(levels))
