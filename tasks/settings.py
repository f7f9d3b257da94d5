"""Settings from the command line: which words are settings, and what they set in which task."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import typing
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
        Words that are never the value of a setting: `run --iterations 5 sin_cos` means what it
        says.
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
    tasks: Sequence[Task], preset: str, given: Given, *, trials: Sequence[int | None] = ()
) -> list[Any]:
    """Each task's settings: the preset, then its number of trials (None: the preset's), then
    what was given.

    Raises
    ------
    UsageError
        A setting that none of the tasks has, or a value that one of them refuses.
    """
    known = {name for task in tasks for name in task.settings.names()}
    for name, _ in given:
        if name not in known and name.removeprefix("no_") not in known:
            raise UsageError(_unknown(name, tasks, known))
    return [
        _replaced(task, task.presets[preset], given, {} if n is None else {"trials": n})
        for task, n in zip(tasks, trials or [None] * len(tasks), strict=True)
    ]


def _replaced(task: Task, preset: Any, given: Given, values: dict[str, Any]) -> Any:
    hints = typing.get_type_hints(task.settings)
    for name, words in given:
        field = name if name in hints else name.removeprefix("no_")
        if field in hints:
            values[field] = _value(task, field, hints[field], name, words)
    try:
        return dataclasses.replace(preset, **values)
    except ValueError as error:
        raise UsageError(f"{task.name}: {error}") from error


def _value(task: Task, field: str, hint: Any, name: str, words: list[str]) -> Any:
    """One setting, read from its words by tyro as the type that it is declared with."""
    import tyro

    option = f"--{name.replace('_', '-')}"
    arguments = [option, *words]
    holder = dataclasses.make_dataclass("Value", [(field, hint)])
    if (
        hint is bool
    ):  # with a default tyro has --name and --no-name; --name False is also meant well
        holder = dataclasses.make_dataclass(
            "Value", [(field, hint, dataclasses.field(default=False))]
        )
        if name == field and [word.lower() for word in words] in (["true"], ["false"]):
            arguments = [f"--{'no-' if words[0].lower() == 'false' else ''}{option[2:]}"]
    try:
        # tyro frames its errors in a box of several lines; ours is one line, below.
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return getattr(tyro.cli(holder, args=arguments), field)
    except SystemExit:
        kind = getattr(hint, "__name__", str(hint))
        got = " ".join(words) or "nothing"
        raise UsageError(f"{task.name}: {option} takes a value of type {kind}; got {got}") from None


def _unknown(name: str, tasks: Sequence[Task], known: set[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    hint = f"did you mean --{near[0].replace('_', '-')}? " if near else ""
    which = tasks[0].name if len(tasks) == 1 else "any of these experiments"
    return (
        f"--{name.replace('_', '-')} is no setting of {which}; {hint}"
        f"`python -m tasks show {tasks[0].name}` lists them"
    )
