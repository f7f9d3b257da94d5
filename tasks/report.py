"""The comparison, document against ours, as text: one row's cells, and the Markdown report."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tasks.harness import UsageError


@dataclass(frozen=True)
class Cells:
    """A row of the comparison in words."""

    name: str
    target: str
    value: str
    spread: str
    tolerance: str
    verdict: str


def describe_row(row: Mapping[str, Any]) -> Cells:
    """The cells of a row, given as result.json has it."""
    target = "" if row["target"] is None else f"{number(row['target'])} ({row['source']})"
    value = number(row["value"])
    if row["solved"] is not None:
        value = f"{row['solved']} of {row['trials']}"
        if row["target"] is not None and 0 <= row["target"] <= 1:
            target = f"{100 * row['target']:.3g} % ({row['source']})"
    elif row["trials"] is not None and row["trials"] > 1:
        value += f" (n = {row['trials']})"
    spread = ""
    if row["spread"] is not None:
        spread = " … ".join(number(limit) for limit in row["spread"])
    verdict = {True: "ok", False: "MISSED", None: ""}[row["ok"]]
    return Cells(row["name"], target, value, spread, _interval(row["tolerance"]), verdict)


def number(value: float | None) -> str:
    """A number in at most five significant digits; null stands for what was not finite."""
    if value is None:
        return "not a number"
    if float(value).is_integer() and abs(value) < 1e7:
        return f"{int(value):,}"
    return f"{value:.5g}"


def _interval(tolerance: Sequence[float | None] | None) -> str:
    if tolerance is None:
        return ""
    low, high = tolerance
    if low is None:
        return f"≤ {number(high)}"
    if high is None:
        return f"≥ {number(low)}"
    if low == high:
        return f"= {number(low)}"
    if number(low) == number(high):  # too narrow for the digits shown
        return f"{number(low)} ± {(high - low) / 2:.2g}"
    return f"{number(low)} … {number(high)}"


def notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows' notes; one that several rows share is told once."""
    owners: dict[str, list[str]] = {}
    for row in rows:
        if row["note"]:
            owners.setdefault(row["note"], []).append(row["name"])
    return [
        f"{names[0]}{f' (and {len(names) - 1} more)' if len(names) > 1 else ''}: {note}"
        for note, names in owners.items()
    ]


def reference_levels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows' reference levels, each once."""
    levels = [f"{number(lv['value'])}: {lv['name']}" for row in rows for lv in row["levels"]]
    return list(dict.fromkeys(levels))


def summary(result: Mapping[str, Any]) -> dict[str, Any]:
    """What `--json` prints of a run: the task, how it was run, its rows."""
    return {key: result[key] for key in ("task", "preset", "seed", "backend", "rows")}


def markdown(root: Path) -> str:
    """The report over every finished run at or below `root`.

    Raises
    ------
    UsageError
        There is no such folder, no finished run in it, or something that cannot be read.
    """
    if not root.is_dir():
        raise UsageError(
            f"report: there is no folder {root}; run an experiment first, or name another"
        )
    # `.part` names a run's folder relative to the report, so that the figures' links hold.
    results = [(path.parent, _read(path)) for path in _found(root)]
    if not results:
        raise UsageError(f"report: no finished run in {root}; `python -m tasks run NAME` makes one")
    results.sort(key=lambda item: (item[1]["documents"], item[1]["task"], str(item[0])))
    lines = ["# The documents' experiments: published and ours", ""]
    lines += _verdicts([result for _, result in results])
    for folder, result in results:
        lines += _section(folder.relative_to(root), result)
    return "\n".join(lines).rstrip() + "\n"


def _found(root: Path) -> list[Path]:
    """Every result.json at or below `root`, sorted; a folder that may not be read is refused."""
    walk = os.walk(root, onerror=_refuse)
    return sorted(
        Path(folder) / "result.json" for folder, _, files in walk if "result.json" in files
    )


def _refuse(error: OSError) -> NoReturn:
    raise UsageError(
        f"report: {error.filename} cannot be read: {error.strerror or error}"
    ) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        result["rows"], result["documents"]
    except OSError as error:
        _refuse(error)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"report: {path} is no run's result ({error!r}); remove it") from error
    return dict(result)


def _verdicts(results: Sequence[Mapping[str, Any]]) -> list[str]:
    verdicts = [row["ok"] for result in results for row in result["rows"] if row["ok"] is not None]
    return [f"{sum(verdicts)} of {len(verdicts)} rows that have a target are within tolerance.", ""]


def _section(folder: Path, result: Mapping[str, Any]) -> list[str]:
    documents = ", ".join(result["documents"])
    lines = [
        f"## {result['task']} (document {documents})",
        "",
        f"{result['title'][:1].upper()}{result['title'][1:]}.",
        "",
        f"Preset `{result['preset']}`, seed {result['seed']}, backend {result['backend']}, "
        f"{result['seconds']:.1f} s.",
        "",
        "| what is measured | target | ours | spread | passes if | verdict |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for row in result["rows"]:
        cells = describe_row(row)
        verdict = f"**{cells.verdict}**" if row["ok"] is False else cells.verdict
        texts = (cells.name, cells.target, cells.value, cells.spread, cells.tolerance, verdict)
        lines.append("| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |")
    for heading, items in (
        ("Reference levels:", reference_levels(result["rows"])),
        ("Notes:", notes(result["rows"])),
    ):
        if items:
            lines += ["", heading, "", *(f"- {item}" for item in items)]
    if result.get("printout"):
        lines += ["", "```text", result["printout"].rstrip(), "```"]
    for figure in result["figures"]:
        lines += ["", f"![{result['task']}: {figure}]({(folder / figure).as_posix()})"]
    return [*lines, ""]
