"""`--tensorboard`: the logged metrics as event files."""

from __future__ import annotations

from typing import Any

from tasks.folder import RunFolder, UnitResult
from tasks.harness import Metric


class Board:
    """TensorBoard event files, one series a trial, under tensorboard/ in the run's folder."""

    def __init__(self, folder: RunFolder) -> None:
        from tensorboardX import SummaryWriter

        self._make, self._path = SummaryWriter, folder.path / "tensorboard"
        self._writers: dict[str, Any] = {}

    def write(self, metric: Metric) -> None:
        """Add one line of metrics.csv."""
        name = f"{metric.variant or 'run'}-trial-{metric.trial}"
        if name not in self._writers:
            self._writers[name] = self._make(str(self._path / name))
        for key, value in metric.values.items():
            self._writers[name].add_scalar(key, value, metric.step)

    def replay(self, result: UnitResult) -> None:
        """Add a unit that was computed elsewhere."""
        for metric in result.metrics:
            self.write(metric)

    def close(self) -> None:
        """Flush everything to disk."""
        for writer in self._writers.values():
            writer.close()
