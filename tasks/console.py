"""What a person sees while experiments run: progress and tables, all on standard error.

On a terminal `rich` draws a bar; elsewhere (a log file, a pipe) plain lines appear now and then.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from tasks.report import clock, describe_row, notes, reference_levels

WIDTH = 130
"""Columns of a full table."""


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
        self._begun: tuple[float, float] | None = None

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
            from rich.table import Column

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:3.0f} %"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn(
                    "{task.fields[status]}",
                    markup=False,
                    table_column=Column(no_wrap=True, overflow="ellipsis"),
                ),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._line = self._bar.add_task(self._title, total=1.0, status="")
        return self

    def update(self, done: float, *, total: int, status: str = "") -> None:
        """Show that `done` of `total` units of work are done, and what the running ones say."""
        now = time.monotonic()
        part = done / max(total, 1)
        if self._begun is None:  # a run that goes on where it stopped does not begin at 0
            self._begun = (now, part)
        if self._bar is not None:
            if now - self._drawn > 0.05 or done >= total:
                self._drawn = now
                self._bar.update(self._line, completed=part, status=status)
        elif now - self._drawn > 10.0:
            self._drawn = now
            begun, before = self._begun
            left = ""
            if part > before:
                left = f", {clock((1 - part) * (now - begun) / (part - before))} left"
            say(
                f"{self._title}: {100 * part:.0f} % after {clock(now - self._start)}{left}"
                f"{f'; {status}' if status else ''}"
            )

    def say(self, text: str) -> None:
        """One line that stays, above the bar."""
        if self._bar is not None:
            self._bar.console.print(f"{self._title}: {text}", markup=False, highlight=False)
        else:
            say(f"{self._title}: {text}")

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
    from rich.text import Text

    console = Console(stderr=True, width=None if sys.stderr.isatty() else WIDTH, highlight=False)
    wide = console.width >= WIDTH  # else what is in result.json anyway is left out
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{result['task']}: {result['title']}",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("what is measured", ratio=1, overflow="fold")
    for heading in ("target", "ours", *(("spread", "passes if") if wide else ())):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for row in result["rows"]:
        cells = describe_row(row)
        style = {True: "green", False: "bold red", None: ""}[row["ok"]]
        verdict = Text(cells.verdict, style=style)
        extra = (cells.spread, cells.tolerance) if wide else ()
        table.add_row(Text(cells.name), cells.target, cells.value, *extra, verdict)
    console.print(table)
    for level in reference_levels(result["rows"]):
        say(f"  reference level {level}")
    for note in notes(result["rows"]):
        say(f"  {note}")
