"""A small experiment, exact and instant, and a way to run the command line on it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import microtensor as mt
from tasks import cli, registry
from tasks.harness import Level, Row, Settings, Task, Trial, at_most, median_of


@dataclass(frozen=True, kw_only=True)
class WalkSettings(Settings):
    """A drunkard's walk."""

    length: int = 12
    """How many steps."""

    stride: float = 1.0
    """Length of a step."""

    sober: bool = False
    """Walk straight."""

    stops: tuple[int, ...] = ()
    """Where to rest."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length < 1:
            raise ValueError(f"length must be at least 1; got {self.length}")


def walk(work: Any) -> list[Trial]:
    """Uses every kind of thing that a loop can keep: all must survive an interruption."""
    settings = work.settings
    [number] = work.trials
    own = work.generator("steps")
    place = {"at": np.zeros(2), "path": [], "sum": mt.tensor([0.0])}
    if work.variant == "far":
        place["at"] = place["at"] + 100.0
    for step in work.steps(settings.length, own=own, place=place):
        keyed = work.generator("wind", step).normal((2,), np.float64)
        unnamed = mt.default_generator().normal((2,), np.float64)
        move = own.normal((2,), np.float64) + 0.1 * keyed + 0.01 * unnamed
        place["at"] = place["at"] + settings.stride * (1.0 if settings.sober else move)
        place["path"].append(float(place["at"][0]))
        place["sum"] = place["sum"] + float(place["at"][1])
        work.log(step, x=place["at"][0], y=place["at"][1])
    return [
        Trial(
            number,
            values={"distance": np.linalg.norm(place["at"]), "sum": place["sum"].item()},
            model={"at": place["at"], "sum": place["sum"]},
            arrays={"path": np.array(place["path"])},
        )
    ]


def walk_rows(run: Any) -> list[Row]:
    steps, x = run.curve("x", "near")
    assert x.shape == (len(run.of("near")), run.settings.length)
    return [
        Row(
            "distance walked",
            **median_of(run.values("distance", "near")),
            target=0.0,
            source="computed",
            tolerance=at_most(20.0),
            levels=(Level("at home", 0.0),),
            unit="m",
        ),
        Row("steps", float(len(steps))),
    ]


def walk_figures(run: Any) -> Any:
    from tasks import plots

    figure, axes = plots.new_figure()
    steps, x = run.curve("x", "near")
    plots.curves(axes, steps, x, label="x", color=plots.PALETTE[0])
    plots.reference_levels(axes, [Level("at home", 0.0)])
    return {"path": figure}


WALK = Task(
    name="walk",
    documents=("000",),
    title="a drunkard's walk",
    claim="He walks.",
    equations="x' = x + n",
    look_for="How far he gets.",
    settings=WalkSettings,
    presets={"quick": WalkSettings(trials=2, length=4), "document": WalkSettings(trials=3)},
    durations={"quick": "1 s", "document": "1 s"},
    train=walk,
    rows=walk_rows,
    figures=walk_figures,
    levels=lambda settings: (Level("at home", 0.0),),
    variants=lambda settings: ("near", "far"),
    printout=lambda run: "He fell.",
    tour=True,
)


@pytest.fixture
def walk_task(monkeypatch: pytest.MonkeyPatch) -> Task:
    """The only experiment there is, for this test."""
    monkeypatch.setattr(registry, "_all", lambda: {"walk": WALK})
    return WALK


@dataclass
class Outcome:
    """What a command left: exit code, both streams, and where --out pointed."""

    code: int
    stdout: str
    stderr: str
    out: Path

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.stdout.splitlines()[-1])


@pytest.fixture
def tasks_cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run `python -m tasks WORDS` in this process, with --out in a folder of its own."""

    def run(words: str, out: Path | None = None) -> Outcome:
        folder = out or tmp_path / "out"
        given = words.split()
        if given and given[0] in ("run", "tour"):
            given += ["--out", str(folder)]
            if "--jobs" not in given and "--cluster" not in given:
                given += ["--jobs", "1"]
        capsys.readouterr()
        code = cli.main(given)
        streams = capsys.readouterr()
        return Outcome(code, streams.out, streams.err, folder)

    return run


def _read_events(path: Path) -> list[tuple[int, str, float]]:
    """The scalars of a TensorBoard event file: (step, name, value)."""
    from tensorboardX.proto.event_pb2 import Event

    content, found = path.read_bytes(), []
    while content:
        length = int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12 : 12 + length])
        content = content[12 + length + 4 :]
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return found


@pytest.fixture
def read_events() -> Any:
    """A reader of TensorBoard event files: path -> [(step, name, value)]."""
    return _read_events
