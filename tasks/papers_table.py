"""A table of the 1997 paper: its figures, and ours beside them, line by line.

An experiment says for each of its variants which line of which table it is (`Line`), and gets the
rows that judge it and the table as text.

The results of our own runs are committed (`python -m tasks.baselines --no-curves FOLDER`), and

    python -m tasks.papers_table docs/lstm1997.md

makes the tables of a page from them: each block

    <!-- table: NAME -->
    …
    <!-- end -->

gets what experiment NAME prints.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tasks import baselines
from tasks.harness import (
    Level,
    Row,
    Run,
    Task,
    Trial,
    UsageError,
    at_least,
    at_most,
    judged,
    mean_of,
    success_rate,
)


class Line(NamedTuple):
    """A line of a table, and the variant that rebuilds it.

    variant, title : the variant's name in files, and in words.
    stage : what is to be reached; see `online.Stage`.
    sequences : the paper's mean number of sequences until then; None where it has none.
    factor : the verdict's: our mean may be so many times the paper's.
    success : the paper's share of trials that succeed; None where it has none.
    least : the verdict's: at least this share of ours, or, where the paper's is 0, fails.
    wrong, most_wrong : of the test on new sequences, the paper's, and the most that passes.
    note : what is to be known of the line.
    unit : what is counted until success.
    """

    variant: str
    title: str
    stage: str = "solved"
    sequences: float | None = None
    factor: float = 2.0
    success: float | None = None
    least: float = 0.9
    wrong: float | None = None
    most_wrong: float = math.inf
    note: str = ""
    unit: str = "sequences"

    @property
    def name(self) -> str:
        """The title, and the stage if it is another one than that the task is solved."""
        return self.title if self.stage == "solved" else f"{self.title}, {self.stage}"


def reached(run: Run, line: Line) -> list[int]:
    """After how many sequences each trial that reached the stage did."""
    pairs = zip(
        run.values(line.stage, line.variant),
        run.values(f"{line.stage}_sequences", line.variant),
        strict=True,
    )
    return [int(sequences) for done, sequences in pairs if done]


def results(run: Run, line: Line, name: str) -> list[Any]:
    """A result of the test with the stage's weights, of the trials that have reached it."""
    values = run.values(f"{line.stage}_{name}", line.variant)
    pairs = zip(values, run.values(line.stage, line.variant), strict=True)
    return [value for value, done in pairs if done]


def rows(run: Run, line: Line, *, judge: bool) -> list[Row]:
    """How many trials succeed, after how many sequences, and how well; verdicts only if `judge`.

    Where no trial succeeds there is no number of sequences, and no row for it.
    """
    solved = run.values(line.stage, line.variant)
    made = [
        Row(
            f"{line.name}: trials that succeed",
            **success_rate(solved),
            **_judged(
                line.success,
                at_least(line.least) if line.success else at_most(1 - line.least),
                judge,
            ),
            note=line.note,
        )
    ]
    found = reached(run, line)
    if found:
        unsolved = len(solved) - len(found)
        made.append(
            Row(
                f"{line.name}: {line.unit} until success, mean",
                **mean_of(found),
                **_judged(line.sequences, at_most(line.factor * (line.sequences or 0)), judge),
                levels=_level("the paper", line.sequences, judge),
                note=f"Of those that succeed; {unsolved} do not." if unsolved else "",
            )
        )
    name = f"{line.stage}_wrong"
    if name in run.of(line.variant)[0].values:
        made.append(
            Row(
                f"{line.name}: wrong in the test, mean",
                **mean_of(results(run, line, "wrong") or run.values(name, line.variant)),
                **_judged(line.wrong, at_most(line.most_wrong), judge),
                levels=_level("the paper", line.wrong, judge),
                note="" if found else "Of all trials: none succeeds.",
            )
        )
    return made


def _judged(target: float | None, tolerance: tuple[float, float], judge: bool) -> dict:  # type: ignore[type-arg]
    return {} if target is None else judged(target, "paper", tolerance, when=judge)


def _level(name: str, value: float | None, judge: bool) -> tuple[Level, ...]:
    """The paper's figure where no verdict names it."""
    return () if judge or value is None else (Level(name, value),)


def number(value: float | None) -> str:
    """A number for a table: whole from 100 up, else three digits; a dash for None."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 or float(value).is_integer() else f"{value:.3g}"


def text(run: Run, title: str, lines: Iterable[Line]) -> str:
    """The table: paper and ours, for the lines whose variants were run."""
    table = [
        [title, "paper", "ours: mean", "median", "least … most", "succeed", "wrong: paper", "ours"]
    ]
    for line in lines:
        if all(trial.variant != line.variant for trial in run.trials):
            continue
        found, solved = reached(run, line), run.values(line.stage, line.variant)
        has_test = f"{line.stage}_wrong" in run.of(line.variant)[0].values
        wrong = results(run, line, "wrong") if has_test else []
        table.append(
            [
                line.name,
                number(line.sequences),
                number(float(np.mean(found)) if found else None),
                number(float(np.median(found)) if found else None),
                f"{min(found):,} … {max(found):,}" if found else "–",
                f"{len(found)} of {len(solved)}",
                number(line.wrong),
                number(float(np.mean(wrong)) if wrong else None),
            ]
        )
    return aligned(table)


def aligned(table: Sequence[Sequence[str]]) -> str:
    """Lines of cells as text: the first column to the left, the others to the right."""
    widths = [max([len(line[i]) for line in table]) for i in range(len(table[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    )


# -- a page of tables --------------------------------------------------------------------------

_BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def committed(task: Task) -> Run:
    """The latest committed run of an experiment, without curves and weights.

    Raises
    ------
    UsageError
        There is none, or it is of another version of the experiment.
    """
    runs = baselines.committed(task.name)
    if not runs:
        raise UsageError(f"there is no committed run of {task.name}; see tasks/baselines")
    held = runs[-1]
    try:
        settings = task.settings(
            **{
                name: tuple(value) if isinstance(value, list) else value
                for name, value in held.settings.items()
            }
        )
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the committed run of {task.name} does not fit any more: {error}"
        ) from None
    trials = tuple(
        Trial(int(values["trial"]), values, variant=variant)
        for variant, column in held.columns.items()
        for values in column.trials
    )
    return Run(settings, "document", held.seed, "numpy", trials, ())


def filled(page: str) -> str:
    """The page with its tables made from the committed runs."""
    from tasks import registry  # which imports all experiments, and they this file

    def block(found: re.Match[str]) -> str:
        task = registry.load(found[2])
        if task.printout is None:
            raise UsageError(f"{task.name} prints no table")
        return f"{found[1]}```text\n{task.printout(committed(task))}\n```\n{found[3]}"

    return _BLOCK.sub(block, page)


def main(pages: Sequence[str]) -> int:
    """Fill the pages in place; returns the exit code."""
    for page in map(Path, pages):
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
