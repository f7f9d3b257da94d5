"""`--live`: the picture of an experiment, redrawn while it trains."""

from __future__ import annotations

import io
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from microtensor.io import write_atomically
from tasks.console import say
from tasks.harness import Task

SIZE = (8, 4.5)
"""Of the picture, in inches."""


class LivePicture:
    """Draws every frame into a window where there is a display, else a few a second into one PNG.

    Parameters
    ----------
    task
        The experiment, whose `live` draws a frame.
    path
        The PNG to rewrite where there is no display.
    """

    def __init__(self, task: Task, path: Path) -> None:
        assert task.live is not None
        self._draw_frame = task.live
        self._path = path
        self._window = _window()
        self._drawn = -math.inf
        self._waiting: tuple[int, dict[str, np.ndarray]] | None = None
        if self._window is None:
            say(f"--live: no display here, so the picture is rewritten in {path}")

    def draw(self, step: int, arrays: dict[str, np.ndarray]) -> None:
        """Draw a frame; into a file, only if the last one is a fifth of a second old."""
        if self._window is not None:
            figure = self._window.gcf()
            figure.clear()
            self._draw_frame(figure, step, arrays)
            self._window.pause(0.02)  # lets the window draw, and the eye see
        elif time.monotonic() - self._drawn > 0.2:
            self._write(step, arrays)
        else:
            self._waiting = (step, arrays)

    def close(self) -> None:
        """Draw the last frame, if it was passed over."""
        if self._waiting is not None:
            self._write(*self._waiting)

    def _write(self, step: int, arrays: dict[str, np.ndarray]) -> None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=SIZE, dpi=100)
        self._draw_frame(figure, step, arrays)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png")
        write_atomically(self._path, drawn.getvalue())  # a viewer never meets half a picture
        self._drawn, self._waiting = time.monotonic(), None


def _window() -> Any:
    """Pyplot with a window open, or None where this machine cannot open one."""
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return None
    import matplotlib

    if matplotlib.get_backend().lower() == "agg":
        return None
    try:
        from matplotlib import pyplot

        pyplot.ion()
        pyplot.figure(figsize=SIZE)
    except Exception as error:  # every toolkit fails in its own way where there is no display
        say(f"--live: no window could be opened ({error})")
        return None
    return pyplot
