"""Figures in one style: a colour-blind safe palette, titles, units, reference levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.harness import Level, Run, success_rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""The colours of Okabe and Ito (2008), told apart by every kind of colour vision."""


def new_figure(
    rows: int = 1, columns: int = 1, width: float = 8.0, height: float = 4.5, **subplots: Any
) -> tuple[Figure, Any]:
    """An empty figure of `width` × `height` inches and its axes (an array where more than one).

    Drawn without pyplot: no global state, no window, no display needed. `subplots` is passed on to
    matplotlib (`sharex=True`, `height_ratios=…`).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    axes = figure.subplots(rows, columns, **subplots)
    for axis in np.atleast_1d(axes).flat:
        axis.grid(True, color="0.9", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_prop_cycle(color=PALETTE)
    return figure, axes


def curves(
    axes: Axes,
    steps: np.ndarray,
    values: np.ndarray,
    *,
    label: str,
    color: str,
    style: str = "-",
) -> None:
    """All trials as thin lines, their median as a thick one in matplotlib's line style `style`.

    values : (trials, n), NaN where a trial has no number; the median is of those that have one.
    """
    for line in values:
        axes.plot(steps, line, color=color, linewidth=0.6, alpha=0.35)
    count = values.shape[0]
    text = f"{label} (median of {count} trials)" if count > 1 else label
    median = np.full(len(steps), np.nan)
    some = ~np.isnan(values).all(axis=0)  # elsewhere NumPy would warn and say NaN as well
    median[some] = np.nanmedian(values[:, some], axis=0)
    axes.plot(steps, median, style, color=color, linewidth=2.0, label=text)


def reference_levels(axes: Axes, levels: Sequence[Level], side: str = "right") -> None:
    """Dotted horizontal lines, each with its name and value written on it, at the side."""
    for level in levels:
        axes.axhline(level.value, color="0.35", linestyle=":", linewidth=1.2)
        axes.annotate(
            f"{level.name}: {level.value:.4g}",
            xy=(0.995 if side == "right" else 0.015, level.value),
            xycoords=("axes fraction", "data"),
            xytext=(0, 2),
            textcoords="offset points",
            ha=side,
            va="bottom",
            fontsize=8,
            color="0.25",
            bbox=_PALE,
        )


_PALE = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.8}
"""Behind words that curves may cross."""


def published(axes: Axes, place: float, name: str) -> None:
    """A dashed line where a published figure is on the x axis, its name above the axes.

    The title that the axes have makes room for it.
    """
    axes.axvline(place, color="0.35", linestyle="--", linewidth=1.2)
    axes.annotate(
        name,
        (place, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=8,
        color="0.25",
    )
    axes.set_title(axes.get_title(), pad=8 + 10 * len(name.splitlines()))


def filled(values: np.ndarray) -> np.ndarray:
    """Each trial's last number carried on: where others were logged, and where it had stopped."""
    known = ~np.isnan(values)
    latest = np.maximum.accumulate(np.where(known, np.arange(values.shape[1]), 0), axis=1)
    return np.take_along_axis(values, latest, axis=1)


def errors(
    axes: Axes,
    run: Run,
    variant: str,
    *,
    label: str,
    color: str,
    style: str = "-",
    per: int = 1,
) -> None:
    """The errors that `tasks.online` logs, over the sequences seen in units of `per`; if any were.

    A trial that has ended keeps its last one, so that the median is that of all trials to the end.
    """
    steps, values = run.curve("error", variant)
    if len(steps):
        curves(axes, steps / per, filled(values), label=label, color=color, style=style)


def cells_and_gates(
    panels: Sequence[Axes], found: Mapping[str, np.ndarray], names: Sequence[str]
) -> None:
    """Memory cells or gates over the steps of a sequence, a panel for each name.

    found : what `models.lstm1997.Lstm1997.inside` has found; `names` are of it.
    """
    for axes, name in zip(panels, names, strict=True):
        part = "cell" if name == "c" else "block"
        for number, values in enumerate(found[name].T, 1):
            axes.plot(values, label=f"{part} {number}", linewidth=1.4)


def name_rows(panels: np.ndarray, names: Sequence[str]) -> None:
    """A name at the left of every row of panels, and the legend of the last one beside it."""
    for row, name in zip(panels, names, strict=True):
        row[0].set_ylabel(name)
        if row[-1].get_legend_handles_labels()[0]:
            legend_beside(row[-1])


def legend_beside(axes: Axes, **given: Any) -> None:
    """A legend at the right of the axes, where nothing is drawn. `given` is matplotlib's."""
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), **given)


def legend_below(axes: Axes) -> None:
    """A legend below the axes, if there is anything to tell."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14))


Bar = tuple[str, Sequence[bool], bool]
"""Of what: its name, whether each trial succeeded, and whether to draw it pale."""


def solved_bars(bars: Sequence[Bar], title: str) -> Figure:
    """How many trials succeed, with Wilson's interval, a bar each."""
    figure, axes = new_figure(height=1.6 + 0.5 * len(bars))
    draw_solved(axes, bars)
    axes.set(title=title, xlabel="share of trials (line: 95 % interval of Wilson)")
    return figure


def draw_solved(axes: Axes, bars: Sequence[Bar]) -> None:
    """The bars of `solved_bars`, from the top down."""
    for place, (_, solved, pale) in enumerate(bars):
        rate = success_rate(solved)
        color = PALETTE[5] if pale else PALETTE[0]
        axes.barh(place, rate["value"], color=color, height=0.6)
        axes.plot(rate["spread"], [place, place], color="0.25", linewidth=1.5)
        axes.annotate(f"{rate['solved']} of {rate['trials']}", (1.02, place), va="center")
    axes.set_yticks(range(len(bars)), [name for name, _, _ in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, 1.28)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.grid(axis="y", visible=False)
