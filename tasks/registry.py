"""Which experiments there are: every file of this folder that holds a `TASK`."""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil

import tasks
from tasks.harness import Task, UsageError

DOCUMENTS = {
    "000": "A hand-worked LSTM, and an LSTM that turns a sine into a cosine",
    "001": "A recurrent network on a binary echo task; truncated back-propagation",
    "002": "RNN, LSTM and GRU in NumPy and Keras",
    "003": "Memory in an LSTM",
    "004": "Long Short-Term Memory (Hochreiter & Schmidhuber 1997)",
}
"""The five documents whose experiments these are."""


@functools.cache
def _all() -> dict[str, Task]:
    found = {}
    for module in pkgutil.iter_modules(tasks.__path__):
        if module.name == "__main__":
            continue
        task = getattr(importlib.import_module(f"tasks.{module.name}"), "TASK", None)
        if isinstance(task, Task):
            if task.name != module.name:
                raise ValueError(f"tasks/{module.name}.py calls its task {task.name!r}")
            found[task.name] = task
    return dict(sorted(found.items(), key=lambda item: (item[1].documents, item[0])))


def names() -> list[str]:
    """The names of all experiments, by document."""
    return list(_all())


def load(name: str) -> Task:
    """The experiment of that name.

    Raises UsageError, with the nearest names, where there is none.
    """
    try:
        return _all()[name]
    except KeyError:
        raise UsageError(_unknown(name)) from None


def select(words: list[str]) -> list[Task]:
    """The experiments meant by names, documents ("000" … "004") and "all", each once, in order.

    Raises UsageError for a word that means nothing, with what it may have been meant to be.
    """
    chosen: dict[str, Task] = {}
    for word in words:
        if word == "all":
            chosen |= _all()
        elif word in DOCUMENTS:
            own = {name: task for name, task in _all().items() if word in task.documents}
            if not own:
                raise UsageError(f"document {word} has no experiment here yet; see python -m tasks")
            chosen |= own
        else:
            chosen[word] = load(word)
    return list(chosen.values())


def _unknown(word: str) -> str:
    known = [*_all(), *DOCUMENTS, "all"]
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"no experiment is called {word!r}; {hint}`python -m tasks` lists them all"
