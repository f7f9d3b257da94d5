"""Tables of the 1997 paper: made of committed runs, and the page holds what they make."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tasks import baselines, papers_table, registry
from tasks.harness import UsageError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "lstm1997.md"


def test_the_page_holds_the_tables_of_the_committed_runs() -> None:
    """Made again, it is the same: no figure of a table was typed."""
    page = PAGE.read_text(encoding="utf-8")
    assert len(re.findall("<!-- table: ", page)) >= 6
    assert papers_table.filled(page) == page


FEWER = {"paper_1000": 4}
"""Trials of adding at T = 1000, of which one can take 2.5 billion steps; it stands in no preset."""


def test_committed_runs_are_of_whole_documents() -> None:
    """A line for each trial of every variant, by the document's settings."""
    for name in re.findall(r"<!-- table: (\w+) -->", PAGE.read_text(encoding="utf-8")):
        task = registry.load(name)
        run = papers_table.committed(task)
        for variant in {trial.variant for trial in run.trials}:
            trials = FEWER.get(variant, run.settings.trials)
            assert [trial.number for trial in run.of(variant)] == list(range(trials))


def test_a_table_without_a_committed_run_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By name; and a run of another version of the experiment, too."""
    monkeypatch.setattr(baselines, "FOLDER", tmp_path)
    block = "<!-- table: temporal_order -->\nold\n<!-- end -->"
    with pytest.raises(UsageError, match="no committed run of temporal_order"):
        papers_table.filled(block)
    kept: list[dict[str, Any]] = [{"settings": {"no_such": 1}, "seed": 0, "columns": {}}]
    (tmp_path / "temporal_order.json").write_text(json.dumps(kept), encoding="utf-8")
    with pytest.raises(UsageError, match="does not fit any more"):
        papers_table.filled(block)


def test_runs_are_kept_without_curves(tasks_cli: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """A line for each trial and nothing else; the table made of it is the run's own."""
    monkeypatch.setattr(baselines, "FOLDER", tmp_path)
    ran = tasks_cli("run temporal_order --preset quick --trials 2 --no-plots")
    assert ran.code == 0
    path = baselines.take(ran.out / "temporal_order-quick", curves=False)
    assert '"curves": [\n{},\n{}\n]' in path.read_text(encoding="utf-8")
    [table] = re.findall(
        r"```text\n(.*)\n```",
        papers_table.filled("<!-- table: temporal_order -->\n<!-- end -->"),
        re.DOTALL,
    )
    assert table == (ran.out / "temporal_order-quick" / "printout.txt").read_text().rstrip("\n")
