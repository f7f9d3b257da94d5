"""The comparison, document against ours, as text: one row's cells, and the Markdown report."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from microtensor.io import write_atomically
from tasks import registry
from tasks.harness import UsageError

MADE = "<!-- Made by `python -m tasks report`, which writes it anew: change nothing here. -->"
"""The first line of a report, by which it is known."""
FILES = ("result.json", "config.json")
"""What a report is made of, beside figures."""


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
    return [f"{owner}: {note}" for owner, note in _notes(rows)]


def _notes(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Whose note it is, and the note."""
    owners: dict[str, list[str]] = {}
    for row in rows:
        if row["note"]:
            owners.setdefault(row["note"], []).append(row["name"])
    return [
        (f"{names[0]}{f' (and {len(names) - 1} more)' if len(names) > 1 else ''}", note)
        for note, names in owners.items()
    ]


def clock(seconds: float) -> str:
    """A duration, to the second or the minute."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 10:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def reference_levels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows' reference levels, each once."""
    levels = [f"{number(lv['value'])}: {lv['name']}" for row in rows for lv in row["levels"]]
    return list(dict.fromkeys(levels))


def summary(result: Mapping[str, Any]) -> dict[str, Any]:
    """What `--json` prints of a run: the task, how it was run, its rows."""
    return {key: result[key] for key in ("task", "preset", "seed", "backend", "rows")}


# -- the page ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Finished:
    """A finished run: where it lies below the root, its result, its configuration, its heading."""

    folder: Path
    result: Mapping[str, Any]
    config: Mapping[str, Any] = field(default_factory=dict)
    heading: str = ""

    @property
    def link(self) -> str:
        """To its section, from elsewhere in the page."""
        return f"[{self.heading}](#{_slug(self.heading)})"


def markdown(root: Path, *, figures: str = "") -> str:
    """The report over every finished run at or below `root`: the same runs give the same text.

    Parameters
    ----------
    root
        A folder of runs.
    figures
        What the links to figures begin with; by default they hold for a page that lies in `root`.

    Raises
    ------
    UsageError
        There is no such folder, no finished run in it, or something that cannot be read.
    """
    runs = _runs(root)
    lines = [MADE, "", "# The documents' experiments: published and ours", ""]
    lines += _verdicts(runs)
    lines += _overview(runs)
    lines += _unfinished(root)
    lines += _missed(runs)
    document = ""
    for run in runs:
        first = run.result["documents"][0]
        if first != document:
            document = first
            title = registry.DOCUMENTS.get(document, "")
            lines += [f"## Document {document}{f': {title}' if title else ''}", ""]
        lines += _section(run, figures)
    lines += _versions(runs)
    lines += _data(runs)
    return "\n".join(lines).rstrip() + "\n"


def write_page(root: Path, page: Path) -> None:
    """Write the report as a page elsewhere, with what it was made of in a folder beside it.

    That folder is a folder of runs too: put a newer run into it, and the page can be made anew
    from it, though the other runs are long gone.

    Parameters
    ----------
    root
        A folder of runs.
    page
        The file, by custom NAME.md; figures, results and configurations are copied to NAME/. Those
        that only the report that stood there before was made of are removed.

    Raises
    ------
    UsageError
        As `markdown`; the name does not end in `.md`; a figure is missing; the disk refuses.
    """
    if page.suffix != ".md":
        raise UsageError(f"report --to: name a Markdown page, PAGE.md; got {page}")
    text = markdown(root, figures=page.stem)
    beside = page.with_suffix("")
    try:
        old = page.read_text(encoding="utf-8") if page.exists() else ""
        kept = set()
        for run in _runs(root):
            for name in (*run.result["figures"], *FILES):
                target = beside / run.folder / name
                if name != "config.json" or run.config:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    write_atomically(target, (root / run.folder / name).read_bytes())
                    kept.add(target)
        page.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(page, text.encode())
        if old.startswith(MADE):
            for link in _figure_links(old) - _figure_links(text):
                if Path(link).parts[0] == page.stem and ".." not in Path(link).parts:
                    (page.parent / link).unlink(missing_ok=True)
            for path in {path for name in FILES for path in beside.rglob(name)} - kept:
                path.unlink()
    except OSError as error:
        raise UsageError(
            f"report --to {page}: {error.filename}: {error.strerror or error}"
        ) from error


def _figure_links(text: str) -> set[str]:
    return set(re.findall(r"!\[[^\]]*\]\(([^)\s]+\.png)\)", text))


def _runs(root: Path) -> list[_Finished]:
    """Every finished run, by document, each with a heading of its own."""
    if not root.is_dir():
        raise UsageError(
            f"report: there is no folder {root}; run an experiment first, or name another"
        )
    found = []
    for path in _found(root, "result.json"):
        config = path.with_name("config.json")
        found.append(
            _Finished(
                path.parent.relative_to(root),
                _read(path, ("rows", "documents", "task", "preset")),
                _read(config, ("settings", "versions")) if config.exists() else {},
            )
        )
    if not found:
        raise UsageError(f"report: no finished run in {root}; `python -m tasks run NAME` makes one")
    found.sort(key=lambda run: (run.result["documents"], run.result["task"], str(run.folder)))
    tasks = Counter(run.result["task"] for run in found)
    presets = Counter((run.result["task"], run.result["preset"]) for run in found)
    named = []
    for run in found:
        task, preset = run.result["task"], run.result["preset"]
        heading = task if tasks[task] == 1 else f"{task}, preset {preset}"
        if presets[task, preset] > 1:
            heading = f"{task}, {run.folder.as_posix()}"
        named.append(_Finished(run.folder, run.result, run.config, heading))
    return named


def _found(root: Path, name: str) -> list[Path]:
    """Every file of that name at or below `root`, sorted; an unreadable folder is refused."""
    walk = os.walk(root, onerror=_refuse)
    return sorted(Path(folder) / name for folder, _, files in walk if name in files)


def _refuse(error: OSError) -> NoReturn:
    raise UsageError(
        f"report: {error.filename} cannot be read: {error.strerror or error}"
    ) from error


def _read(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for key in keys:
            content[key]
    except OSError as error:
        _refuse(error)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"report: {path} is no run's result ({error!r}); remove it") from error
    return dict(content)


# -- its parts ---------------------------------------------------------------------------------


def _verdicts(runs: Sequence[_Finished]) -> list[str]:
    verdicts = [row["ok"] for run in runs for row in run.result["rows"] if row["ok"] is not None]
    return [f"{sum(verdicts)} of {len(verdicts)} rows that have a target are within tolerance.", ""]


def _overview(runs: Sequence[_Finished]) -> list[str]:
    lines = [
        "| experiment | documents | preset | trials | rows ok | missed | time |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for run in runs:
        verdicts = [row["ok"] for row in run.result["rows"] if row["ok"] is not None]
        missed = verdicts.count(False)
        cells = (
            run.link,
            ", ".join(run.result["documents"]),
            run.result["preset"],
            str(run.config.get("settings", {}).get("trials", "")),
            f"{verdicts.count(True)} of {len(verdicts)}",
            f"**{missed}**" if missed else "0",
            clock(run.result["seconds"]),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _unfinished(root: Path) -> list[str]:
    begun = [path.parent for path in _found(root, "config.json")]
    names = [
        f"`{folder.relative_to(root).as_posix()}`"
        for folder in begun
        if not (folder / "result.json").exists()
    ]
    return [f"Not finished, and not in this report: {', '.join(names)}.", ""] if names else []


def _missed(runs: Sequence[_Finished]) -> list[str]:
    lines = ["## Missed rows", ""]
    for run in runs:
        for row in run.result["rows"]:
            if row["ok"] is False:
                cells = describe_row(row)
                spread = f" (spread {cells.spread})" if cells.spread else ""
                lines.append(
                    f"- {run.link}, **{_text(cells.name)}**: target {cells.target}, ours "
                    f"{cells.value}{spread}; passes if {_text(cells.tolerance)}."
                )
                if row["note"]:
                    lines += ["", f"  {_text(row['note'])}", ""]
    return [*lines, ""] if len(lines) > 2 else [*lines, "None.", ""]


def _section(run: _Finished, figures: str) -> list[str]:
    result = run.result
    lines = [
        f"### {run.heading}",
        "",
        f"{_text(result['title'][:1].upper() + result['title'][1:])}.",
        "",
        f"Documents {', '.join(result['documents'])}; preset `{result['preset']}`, "
        f"seed {result['seed']}, backend {result['backend']}, {clock(result['seconds'])}."
        f"{_other_settings(run)}",
        "",
        "| what is measured | target | ours | spread | passes if | verdict |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for row in result["rows"]:
        cells = describe_row(row)
        verdict = f"**{cells.verdict}**" if row["ok"] is False else cells.verdict
        texts = (cells.name, cells.target, cells.value, cells.spread, cells.tolerance)
        lines.append(
            "| "
            + " | ".join([*(_text(text).replace("|", "\\|") for text in texts), verdict])
            + " |"
        )
    levels = [f"- {_text(level)}" for level in reference_levels(result["rows"])]
    told = [f"- **{_text(owner)}**: {_text(note)}" for owner, note in _notes(result["rows"])]
    for heading, items in (("Reference levels:", levels), ("Notes:", told)):
        if items:
            lines += ["", heading, "", *items]
    if result.get("printout"):
        lines += ["", "```text", result["printout"].rstrip(), "```"]
    for figure in result["figures"]:
        link = (Path(figures) / run.folder / figure).as_posix()
        lines += ["", f"![{result['task']}: {figure}]({link})"]
    return [*lines, ""]


def _other_settings(run: _Finished) -> str:
    """A sentence on the settings that are not the preset's, as far as they can be known."""
    task, preset = run.result["task"], run.result["preset"]
    if task not in registry.names() or preset not in registry.load(task).presets:
        return ""
    usual = json.loads(json.dumps(registry.load(task).presets[preset].to_dict()))
    other = [
        f"`{name}` {value!r} instead of {usual[name]!r}"
        for name, value in run.config.get("settings", {}).items()
        if name in usual and value != usual[name]
    ]
    return f" Settings other than the preset's: {', '.join(other)}." if other else ""


def _versions(runs: Sequence[_Finished]) -> list[str]:
    """The versions the runs came from; runs of the same ones share a line."""
    groups: dict[tuple[str, ...], list[str]] = {}
    names = list(dict.fromkeys(name for run in runs for name in run.config.get("versions", {})))
    for run in runs:
        versions = run.config.get("versions", {})
        key = tuple(str(versions.get(name) or "")[:12] for name in names)
        groups.setdefault(key, []).append(run.link)
    lines = ["## Versions", "", f"| experiments | {' | '.join(names)} |"]
    lines.append("|---" * (1 + len(names)) + "|")
    lines += [f"| {', '.join(links)} | {' | '.join(key)} |" for key, links in groups.items()]
    return [*lines, ""] if names else []


def _data(runs: Sequence[_Finished]) -> list[str]:
    """The data sets that were read, each once, and by which experiments."""
    users: dict[str, list[str]] = {}
    for run in runs:
        for one in run.result.get("data", ()):
            member = f" (its `{one['member']}`)" if one["member"] else ""
            line = f"- **{_text(one['name'])}**: `{one['file']}`{member}, `{one['hash']}`."
            for text in (one["about"], one["citation"]):
                line += f" {_text(text.rstrip('.'))}." if text else ""
            users.setdefault(line, []).append(run.link)
    lines = [f"{line} Read by {', '.join(links)}." for line, links in users.items()]
    return ["## Data sets", "", *(lines or ["None: what these experiments read, they make."]), ""]


def _text(text: str) -> str:
    """Plain text as Markdown shows it: no tags and no emphasis, but code in backticks."""
    parts = " ".join(text.split()).split("`")
    parts[::2] = [part.replace("<", "&lt;").replace("*", "\\*") for part in parts[::2]]
    return "`".join(parts)


def _slug(heading: str) -> str:
    """How a heading is linked to, by the rule of GitHub."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
