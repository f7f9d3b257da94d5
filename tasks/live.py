"""`--live`: the picture of an experiment, redrawn while it trains."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tasks.console import say
from tasks.harness import Task


class LivePicture:
    """Draws frames into a window where there is a display, else again and again into one PNG.

    Parameters
    ----------
    task
        The experiment, whose `live` draws a frame.
    path
        The PNG to rewrite where there is no display.
    pause
        Least time between two frames of the window or the file, in seconds.
    """

    def __init__(self, task: Task, path: Path, pause: float = 0.05) -> None:
        self._draw_frame = task.live
        self._path = path
        self._window = _window()
        self._pause = pause if self._window else max(pause, 0.5)
        self._drawn = -float("inf")
        if self._window is None:
            say(f"--live: no display here, so the picture is rewritten in {path}")

    def draw(self, step: int, arrays: dict[str, np.ndarray]) -> None:
        """Draw a frame, unless the last one was only just drawn."""
        if time.monotonic() - self._drawn < self._pause:
            return
        if self._window:
            figure = self._window.gcf()
        else:
            from matplotlib.figure import Figure

            figure = Figure(figsize=(8, 4.5), dpi=100)
        figure.clear()
        assert self._draw_frame is not None
        self._draw_frame(figure, step, arrays)
        if self._window:
            self._window.pause(self._pause)
        else:
            temporary = self._path.with_suffix(".tmp.png")
            figure.savefig(temporary)
            os.replace(temporary, self._path)  # a viewer that reloads never meets half a picture
        self._drawn = time.monotonic()


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
        pyplot.figure(figsize=(8, 4.5))
    except Exception as error:  # every toolkit fails in its own way where there is no display
        say(f"--live: no window could be opened ({error})")
        return None
    return pyplot
