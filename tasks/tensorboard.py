"""`--tensorboard`: the logged metrics as event files."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path
from typing import Any

from tasks.folder import RunFolder, UnitResult
from tasks.harness import Metric


class Board:
    """TensorBoard event files, one series a trial, under tensorboard/ in the run's folder.

    Written by tensorboardX's `RecordWriter` in this thread: the thread of its `SummaryWriter` dies
    of a full disk, and whoever goes on to write then waits for it for ever.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._path = folder.path / "tensorboard"
        self._writers: dict[Path, Any] = {}

    def write(self, metric: Metric) -> None:
        """Add one line of metrics.csv."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        series = self._path / f"{metric.variant or 'run'}-trial-{metric.trial}"
        if series not in self._writers:
            self._begin(series)
        for key, value in metric.values.items():
            event = Event(wall_time=time.time(), step=metric.step, summary=scalar(key, value))
            self._writers[series].write(event.SerializeToString())

    def replay(self, result: UnitResult) -> None:
        """Add a unit that was computed elsewhere."""
        for metric in result.metrics:
            self.write(metric)

    def close(self) -> None:
        """Flush everything to disk."""
        with contextlib.ExitStack() as closing:  # each of them, though one may fail
            for writer in self._writers.values():
                closing.callback(writer.close)

    def _begin(self, series: Path) -> None:
        """A file of its own for a series, whose first event says what it is."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import RecordWriter

        series.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}"
        self._writers[series] = RecordWriter(str(series / name))
        version = Event(wall_time=time.time(), file_version="brain.Event:2")
        self._writers[series].write(version.SerializeToString())
