"""What the figures of several experiments are made of."""

from __future__ import annotations

import io

import numpy as np

from tasks import papers_table, plots
from tasks.harness import Metric, Run, Settings, Trial
from tasks.papers_table import Line


def a_run() -> Run:
    """Two trials of one variant; the second has ended after 200 sequences, solved."""
    trials = tuple(
        Trial(k, {"solved": k == 1, "solved_sequences": 200, "solved_wrong": 9 - k}, variant="v")
        for k in range(2)
    )
    logged = [(0, 100, 0.8), (1, 100, 0.4), (0, 200, 0.6), (1, 200, 0.1), (0, 300, 0.5)]
    metrics = tuple(Metric("v", trial, step, {"error": error}) for trial, step, error in logged)
    return Run(Settings(trials=2), "document", 0, "numpy", trials, metrics)


def test_a_trial_that_has_ended_keeps_its_last_number() -> None:
    values = np.array([[np.nan, 3.0, np.nan, 1.0, np.nan], [np.nan, 2.0, np.nan, np.nan, np.nan]])
    expected = [[np.nan, 3.0, 3.0, 1.0, 1.0], [np.nan, 2.0, 2.0, 2.0, 2.0]]
    np.testing.assert_array_equal(plots.filled(values), expected)


def test_errors_are_drawn_over_sequences_to_the_end_of_all_trials() -> None:
    """Both trials and their median; nothing of a variant that logged nothing."""
    _, axes = plots.new_figure()
    run = a_run()
    plots.errors(axes, run, "v", label="mine", color="k", per=100)
    one, other, median = axes.get_lines()
    np.testing.assert_array_equal(median.get_xdata(), [1, 2, 3])
    np.testing.assert_allclose(one.get_ydata(), [0.8, 0.6, 0.5])
    np.testing.assert_allclose(other.get_ydata(), [0.4, 0.1, 0.1])
    np.testing.assert_allclose(median.get_ydata(), [0.6, 0.35, 0.3])
    silent = Run(run.settings, "document", 0, "numpy", run.trials, ())
    plots.errors(axes, silent, "v", label="none", color="k")
    assert len(axes.get_lines()) == 3


def test_a_published_figure_stands_above_the_axes_and_below_the_title() -> None:
    figure, axes = plots.new_figure()
    axes.set_title("what it is")
    plots.published(axes, 0.5, "paper,\n13 wrong")
    figure.savefig(io.BytesIO())  # which lays it out
    [name] = axes.texts
    title, words, inside = (part.get_window_extent() for part in (axes.title, name, axes.patch))
    assert inside.y1 <= words.y0 < words.y1 <= title.y0
    assert axes.get_title() == "what it is"


def test_cells_gates_and_the_names_of_their_rows() -> None:
    """Each cell and gate a line; a legend only where there is something to tell."""
    _, axes = plots.new_figure(3, 2)
    found = {"c": np.arange(8.0).reshape(2, 4), "y_i": np.ones((2, 2))}
    for column in range(2):
        plots.cells_and_gates(axes[1:, column], found, ("c", "y_i"))
    plots.name_rows(axes, ("input", "cell state", "input gate"))
    assert [row[0].get_ylabel() for row in axes] == ["input", "cell state", "input gate"]
    assert axes[0, 1].get_legend() is None
    legends = [[text.get_text() for text in row[1].get_legend().get_texts()] for row in axes[1:]]
    assert legends == [["cell 1", "cell 2", "cell 3", "cell 4"], ["block 1", "block 2"]]
    np.testing.assert_array_equal(axes[1, 0].get_lines()[2].get_ydata(), [2.0, 6.0])


def test_a_line_of_a_table_tells_of_the_trials_that_reached_its_stage() -> None:
    """Where none did, of all, and says so."""
    run, line = a_run(), Line("v", "mine")
    assert (line.name, line._replace(stage="inner").name) == ("mine", "mine, inner")
    assert papers_table.results(run, line, "wrong") == [8]
    wrong = papers_table.rows(run, line, judge=False)[-1]
    assert (wrong.name, wrong.value, wrong.note) == ("mine: wrong in the test, mean", 8, "")
    [failed] = [trial for trial in run.trials if not trial.values["solved"]]
    none = Run(run.settings, "document", 0, "numpy", (failed,), ())
    wrong = papers_table.rows(none, line, judge=False)[-1]
    assert (wrong.value, wrong.note) == (9, "Of all trials: none succeeds.")
