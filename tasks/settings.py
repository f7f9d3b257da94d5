"""Settings from the command line: which words are settings, and which value they give to which task."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.harness import Task, UsageError

Given = list[tuple[str, list[str]]]
"""Settings as given: ("learning_rate", ["0.01"]), in order."""


def split_settings(
    words: Sequence[str], options: Mapping[str, bool], names: Sequence[str]
) -> tuple[list[str], Given]:
    """Part a command line into what argparse knows and the settings of experiments.

    Parameters
    ----------
    words
        The command line.
    options
        argparse's own options, and whether a value follows them.
    names
        Words that are never the value of a setting: `run --iterations 5 sin_cos` means what it says.
    """
    ours: list[str] = []
    settings: Given = []
    place: list[str] = ours  # where a word that is no option goes
    left = 0  # values that an option of ours still waits for
    for word in words:
        option, equals, value = word.partition("=")
        if left:
            ours.append(word)
            left -= 1
        elif word.startswith("--") and option not in options and len(word) > 2:
            settings.append((option[2:].replace("-", "_"), [value] if equals else []))
            place = settings[-1][1]
        elif word in options or option in options:
            ours.append(word)
            left = int(options[option] and not equals)
            place = ours
        elif word in names:
            ours.append(word)
            place = ours
        else:
            place.append(word)
    return ours, settings


def with_settings(
    tasks: Sequence[Task], preset: str, given: Given, *, trials: int | None = None
) -> list[Any]:
    """Each task's settings: the preset, then what was given.

    Raises
    ------
    UsageError
        A setting that none of the tasks has, or a value that one of them refuses.
    """
    known = {name for task in tasks for name in task.settings.names()}
    for name, _ in given:
        if name not in known and name.removeprefix("no_") not in known:
            raise UsageError(_unknown(name, tasks, known))
    result = []
    for task in tasks:
        own = set(task.settings.names())
        settings: Any = task.presets[preset]
        for name, values in given:
            if name in own or name.removeprefix("no_") in own:
                settings = _parsed(task, settings, name, values)
        if trials is not None:
            settings = _replaced(task, settings, trials)
        result.append(settings)
    return result


def _parsed(task: Task, settings: Any, name: str, values: list[str]) -> Any:
    """`settings` with one setting read by tyro from its words."""
    import tyro

    option = f"--{name.replace('_', '-')}"
    words = [option, *values]
    kind = _type_of(task, name.removeprefix("no_") if name not in task.settings.names() else name)
    if kind == "bool" and [v.lower() for v in values] in (["true"], ["false"]):
        words = [option if values[0].lower() == "true" else f"--no-{name.replace('_', '-')}"]
    try:
        return tyro.cli(
            type(settings), default=settings, args=words, console_outputs=False,
            config=(tyro.conf.AvoidSubcommands,),
        )
    except SystemExit:
        got = " ".join(values) or "nothing"
        raise UsageError(
            f"{task.name}: {option} takes a value of type {kind}; got {got}"
        ) from None
    except ValueError as error:
        raise UsageError(f"{task.name}: {option} {' '.join(values)}: {error}") from error


def _replaced(task: Task, settings: Any, trials: int) -> Any:
    try:
        return dataclasses.replace(settings, trials=trials)
    except ValueError as error:
        raise UsageError(f"{task.name}: --trials {trials}: {error}") from error


def _type_of(task: Task, name: str) -> str:
    [kind] = [f.type for f in dataclasses.fields(task.settings) if f.name == name]
    return kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))


def _unknown(name: str, tasks: Sequence[Task], known: set[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    hint = f"did you mean --{near[0].replace('_', '-')}? " if near else ""
    which = tasks[0].name if len(tasks) == 1 else "any of these experiments"
    return (
        f"--{name.replace('_', '-')} is no setting of {which}; {hint}"
        f"`python -m tasks show {tasks[0].name}` lists them"
    )
