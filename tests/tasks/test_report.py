"""The report: every run on one page, always the same text, and links that lead somewhere."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from snippets import broken_links

from tasks import report
from tasks.folder import to_json


def test_report_is_markdown_with_the_figures(walk_task: Any, tasks_cli: Any) -> None:
    done = tasks_cli("run walk")
    text = tasks_cli(f"report {done.out}")
    assert text.code == 0
    assert text.stdout == (done.out / "report.md").read_text()
    assert "| distance walked | 0 (computed) |" in text.stdout
    assert "1 of 1 rows that have a target are within tolerance" in text.stdout
    [link] = re.findall(r"!\[.*\]\((.*)\)", text.stdout)
    assert (done.out / link).read_bytes().startswith(b"\x89PNG")
    assert "He fell." in text.stdout
    missed = tasks_cli("run walk --no-plots --stride 1000")
    assert "**MISSED**" in tasks_cli(f"report {missed.out}").stdout
    empty = done.out / "empty"
    empty.mkdir()
    assert "no finished run" in tasks_cli(f"report {empty}").stderr


def test_report_says_what_it_may_not_read(walk_task: Any, tasks_cli: Any, monkeypatch: Any) -> None:
    done = tasks_cli("run walk --no-plots")
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def refused(path: Path) -> None:
        refusal = tasks_cli(f"report {done.out}")
        assert (refusal.code, refusal.stdout, refusal.stderr.count("\n")) == (2, "", 1)
        assert f"report: {path} cannot be read: {denied.strerror}" in refusal.stderr
        assert "remove" not in refusal.stderr

    real_scan, real_read = os.scandir, Path.read_text

    def deny(path: Path) -> None:
        raise PermissionError(denied.errno, denied.strerror, str(path))

    for folder in (done.out, done.out / "walk-document"):
        with monkeypatch.context() as patch:
            patch.setattr(
                os, "scandir", lambda at, no=folder: deny(no) if Path(at) == no else real_scan(at)
            )
            refused(folder)
    result = done.out / "walk-document" / "result.json"
    with monkeypatch.context() as patch:
        patch.setattr(
            Path,
            "read_text",
            lambda at, **how: deny(at) if at == result else real_read(at, **how),
        )
        refused(result)
    result.write_text("{")
    damaged = tasks_cli(f"report {done.out}").stderr
    assert "is no run's result" in damaged
    assert "remove it" in damaged


def test_numbers_are_readable() -> None:
    for value, text in (
        (871.0, "871"),
        (0.238312, "0.23831"),
        (None, "not a number"),
        (1e-12, "1e-12"),
        (1234567, "1,234,567"),
    ):
        assert report.number(value) == text
    rate = json.loads(
        to_json(
            {
                "name": "solved",
                "value": 0.5,
                "target": 0.5,
                "source": "document",
                "spread": [0.352, 0.648],
                "trials": 40,
                "solved": 20,
                "tolerance": [0.35, 0.65],
                "ok": True,
            }
        )
    )
    cells = report.describe_row(rate)
    assert (cells.value, cells.target) == ("20 of 40", "50 % (document)")


def planted(folder: Path, **changes: Any) -> None:
    """A run's result (and, under `config`, its configuration) as some other experiment's."""
    result = json.loads((folder / "result.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    config.update(changes.pop("config", {}))
    result["rows"][0].update(changes.pop("row", {}))
    result.update(changes)
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def runs(walk_task: Any, tasks_cli: Any) -> Path:
    """Runs of three experiments, one of them out of tolerance, and one that is not finished."""
    done = tasks_cli("run walk --trials 2")
    for name in ("b", "c", "d"):
        shutil.copytree(done.out / "walk-document", done.out / name)
    planted(
        done.out / "b",
        task="fall",
        documents=["003", "004"],
        seconds=7512.3,
        data=[
            {
                "name": "stairs",
                "file": "stairs.zip",
                "member": "stairs.csv",
                "hash": "sha256:0123",
                "about": "the first two floors",
                "citation": "Stairs & Steps (1997).",
            }
        ],
        row={"name": "steps a|b *c*", "ok": False, "note": "He <fell> *here*. " + "Why? " * 60},
    )
    planted(done.out / "c", documents=["003"], task="climb", config={"versions": {"numpy": "9"}})
    (done.out / "d" / "result.json").unlink()
    return done.out


def test_the_page_has_every_part_in_document_order(runs: Path) -> None:
    text = report.markdown(runs)
    assert text == report.markdown(runs)
    assert text.startswith(report.MADE)
    headings = re.findall(r"^#+ .*$", text, flags=re.M)
    assert headings == [
        "# The documents' experiments: published and ours",
        "## Missed rows",
        "## Document 000: A hand-worked LSTM, and an LSTM that turns a sine into a cosine",
        "### walk",
        "## Document 003: Memory in an LSTM",
        "### climb",
        "### fall",
        "## Versions",
        "## Data sets",
    ]
    assert "2 of 3 rows that have a target are within tolerance." in text
    assert "| [fall](#fall) | 003, 004 | document | 2 | 0 of 1 | **1** | 2 h 5 min |" in text
    assert "Not finished, and not in this report: `d`." in text
    assert "Settings other than the preset's: `trials` 2 instead of 3." in text
    missed = text.partition("## Missed rows")[2].partition("## Document")[0]
    assert "- [fall](#fall), **steps a|b \\*c\\***: target 0 (computed), ours" in missed
    assert "He &lt;fell> \\*here\\*." in missed
    assert "climb" not in missed
    assert "| steps a\\|b \\*c\\* |" in text
    versions = text.partition("## Versions")[2]
    assert "[walk](#walk), [fall](#fall) |" in versions.replace("[fall](#fall), [walk](#walk)", "")
    assert "| [climb](#climb) |" in versions
    assert (
        "- **stairs**: `stairs.zip` (its `stairs.csv`), `sha256:0123`. the first two floors. "
        "Stairs & Steps (1997). Read by [fall](#fall)."
    ) in text


def test_the_committed_page_is_made_of_what_lies_beside_it() -> None:
    page = Path(__file__).parents[2] / "docs" / "results.md"
    assert page.read_text() == report.markdown(page.with_suffix(""), figures="results")


def test_runs_of_one_experiment_are_told_apart(runs: Path, tasks_cli: Any) -> None:
    tasks_cli("run walk --preset quick --no-plots", runs)
    assert "### walk, preset quick\n" in report.markdown(runs)
    shutil.copytree(runs / "walk-quick", runs / "deeper" / "again")
    text = report.markdown(runs)
    headings = re.findall(r"^### (walk.*)$", text, flags=re.M)
    assert sorted(headings) == [
        "walk, deeper/again",
        "walk, preset document",
        "walk, walk-quick",
    ]
    (runs / "report.md").write_text(text)
    assert broken_links(runs / "report.md") == []


def test_a_page_elsewhere_takes_its_figures_along(
    runs: Path, tasks_cli: Any, tmp_path: Path
) -> None:
    page = tmp_path / "docs" / "results.md"
    done = tasks_cli(f"report {runs} --to {page}")
    assert (done.code, done.stdout) == (0, "")
    assert not (runs / "report.md").exists()
    text = page.read_text()
    assert text == report.markdown(runs, figures="results")
    pictures = sorted(page.with_suffix("").rglob("*.png"))
    assert [path.relative_to(page.parent).as_posix() for path in pictures] == [
        "results/b/path.png",
        "results/c/path.png",
        "results/walk-document/path.png",
    ]
    assert pictures[0].read_bytes() == (runs / "b" / "path.png").read_bytes()
    assert broken_links(page) == []
    beside = page.with_suffix("")
    assert report.markdown(beside, figures="results") == text.replace(
        "Not finished, and not in this report: `d`.\n\n", ""
    ), "the folder beside is one of runs, from which the page can be made again"
    shutil.copytree(runs / "b", beside / "newer")
    planted(beside / "newer", task="newer")
    assert tasks_cli(f"report {beside} --to {page}").code == 0
    assert "### newer" in page.read_text()
    assert broken_links(page) == []
    assert tasks_cli(f"report {runs} --to {page}").code == 0
    assert page.read_text() == text
    assert sorted(path.relative_to(beside).as_posix() for path in beside.rglob("*.json")) == [
        f"{run}/{name}.json" for run in ("b", "c", "walk-document") for name in ("config", "result")
    ]
    pictures[0].unlink()
    assert broken_links(page) == ["results/b/path.png"], "or else the line above says nothing"

    mine = page.with_suffix("") / "mine.png"
    mine.write_bytes(b"mine")
    shutil.rmtree(runs / "c")
    assert tasks_cli(f"report {runs} --to {page}").code == 0
    assert not pictures[1].exists(), "a figure that is shown no more"
    assert mine.read_bytes() == b"mine"
    before = page.read_bytes()
    (runs / "b" / "path.png").unlink()
    refused = tasks_cli(f"report {runs} --to {page}")
    assert (refused.code, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert str(runs / "b" / "path.png") in refused.stderr
    assert page.read_bytes() == before
    refused = tasks_cli(f"report {runs} --to {tmp_path / 'page'}")
    assert "name a Markdown page" in refused.stderr
