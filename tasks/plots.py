"""Figures in one style: a colour-blind safe palette, titles, units, reference levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.harness import Level

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
        )
