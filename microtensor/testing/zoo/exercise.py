"""The learner's side of the zoo: visit it, plant a bug, hunt it, ask for a hint, take it out."""

from __future__ import annotations

import difflib
import inspect
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from microtensor import engine
from microtensor.explain import explain
from microtensor.guards import GradientStateError
from microtensor.tensor import Tensor
from microtensor.testing import planting
from microtensor.testing.gradients import check_grads
from microtensor.testing.optimizers import check_optimizer
from microtensor.testing.report import GradientError, literal
from microtensor.testing.zoo.bugs import ENTRIES
from microtensor.testing.zoo.entries import KINDS, Entry

__all__ = ["Exercise", "exercises", "plant", "release", "visit"]

_WIDTH = 88


def _say(text: str = "") -> None:
    sys.stdout.write(text + "\n")


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH)


class Exercise:
    """One bug of the zoo. It is in the library between `plant` and `release`.

        bug = zoo.plant(1)
        bug.show()           the program that meets it, and its inputs
        bug.hunt()           what the check says
        bug.explain()        the backward pass, rule by rule
        bug.hint()           a hint; call again for a sharper one
        bug.solution()       last
        bug.release()        the library is as before

    Or `with zoo.plant(1) as bug: ...`, which releases at the end.

    Attributes
    ----------
    number
        From 1 on.
    kind, title
        The class of the mistake, and a line that does not give it away.
    """

    def __init__(self, number: int, entry: Entry) -> None:
        self.number, self.kind, self.title = number, entry.kind, entry.title
        self._entry = entry
        self._undo: Callable[[], None] | None = None
        self._hints_given = 0

    @property
    def planted(self) -> bool:
        """Whether the bug is in the library now."""
        return self._undo is not None

    def __repr__(self) -> str:
        now = "planted" if self.planted else "not planted"
        return f"<exercise {self.number}, {self.kind}: {self.title}; {now}>"

    # -- in and out

    def plant(self) -> Exercise:
        """Put the bug into the running library; one that is planted already comes out first."""
        release()
        self._undo = planting.plant(*self._entry.edits)
        self._hints_given = 0
        _planted.append(self)
        return self

    def release(self) -> None:
        """Take the bug out: the library is as before. Releasing twice does no harm."""
        if self._undo is not None:
            self._undo()
            self._undo = None
            _planted.remove(self)

    def __enter__(self) -> Exercise:
        return self if self.planted else self.plant()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    # -- the program

    @property
    def program(self) -> Any:
        """What to check: a function, a module, or what makes an optimizer. It is itself right."""
        made = self._entry.program
        return made if inspect.signature(made).parameters else made()

    @property
    def vjp(self) -> Any:
        """The backward pass of the program if it is written by hand, else None."""
        return self._entry.vjp

    @property
    def formula(self) -> Any:
        """The formula of an optimizer, else None."""
        return self._entry.formula

    def inputs(self, rng: int = 0) -> dict[str, Any]:
        """The arrays to check the program at, by name; some are the same for every seed."""
        return self._entry.inputs(np.random.Generator(np.random.Philox(rng)))

    # -- looking

    def show(self) -> None:
        """Print the program and its inputs, and how to call the check by oneself."""
        entry, inputs = self._entry, self.inputs()
        _say(f"{self.number}. {self.title}\n")
        for function in (entry.program, entry.vjp, entry.formula):
            if function is not None:
                _say(textwrap.indent(_source(function), "    "))
        for name, value in inputs.items():
            _say(textwrap.indent(f"{name} = {literal(value)}", "    "))
        if inputs:
            _say()
        _say(f"    {self._call()}")

    def _call(self) -> str:
        name = "bug.program"
        if self.formula is not None:
            return f"check_optimizer({name}, bug.formula)"
        more = ", vjp=bug.vjp" if self.vjp is not None else ""
        return f"check_grads({name}, *bug.inputs().values(){more})"

    def check(self, rng: int = 0) -> Any:
        """Run the check with its default arguments; raises its `GradientError`.

        Parameters
        ----------
        rng
            Seed of the check, and of the inputs where they are drawn.
        """
        if self.formula is not None:
            return check_optimizer(self.program, self.formula, rng=rng)
        options = {} if self.vjp is None else {"vjp": self.vjp}
        return check_grads(self.program, *self.inputs(rng).values(), rng=rng, **options)

    def hunt(self, rng: int = 0) -> None:
        """Print what the check says."""
        try:
            self.check(rng)
        except GradientError as error:
            _say(str(error))
        else:
            _say("The check is content." if self.planted else "Nothing: the bug is not planted.")

    def explain(self) -> None:
        """Print the backward pass of the program as `mt.explain` does; or its text, if by hand.

        The cotangents are 1, 2, 3, ..., so that one sees where each number goes.
        """
        if self.formula is not None:
            _say("An optimizer has no backward pass; read its `_update`:\n")
            optimizer = self.program([Tensor(np.zeros(1), True)])
            _say(inspect.getsource(type(optimizer)._update))
            return
        if self.vjp is not None:
            _say("This backward pass is written by hand:\n")
            _say(_source(self.vjp))
            return
        arguments = {
            name: Tensor(value, value.dtype.kind == "f") for name, value in self.inputs().items()
        }
        program = self.program
        output = program(*arguments.values())
        output = output[0] if isinstance(output, tuple) else output
        counted = np.arange(1, output.size + 1, dtype=output.dtype).reshape(output.shape)
        try:
            explain(output, engine.wrap(counted), names=arguments)
        except (GradientStateError, TypeError, ValueError) as error:  # a bug can go so far
            _say(f"\nHere the engine refuses to go on. {type(error).__name__}: {error}")

    # -- being told

    def hint(self) -> None:
        """Print a hint; each call gives a sharper one, until there are no more."""
        hints = self._entry.hints
        if self._hints_given < len(hints):
            hint = hints[self._hints_given]
            self._hints_given += 1
            _say(_wrapped(f"Hint {self._hints_given} of {len(hints)}. {hint}"))
        else:
            _say("There are no more hints. bug.solution() tells.")

    def solution(self) -> None:
        """Print what was wrong, where, and why the check said what it said."""
        _say(_wrapped(self._entry.solution))
        for edit in self._entry.edits:
            _say(f"\n{edit.module}: the line that is there (-), and that should be there (+)\n")
            module = sys.modules[edit.module]
            right = Path(module.__file__ or "").read_text(encoding="utf-8")
            wrong = edit.apply(right)
            changes = difflib.unified_diff(wrong.splitlines(), right.splitlines(), n=0, lineterm="")
            for line in list(changes)[2:]:
                if not line.startswith("@@"):
                    _say(f"  {line[0]} {line[1:].strip()}")


_planted: list[Exercise] = []  # at most one
_exercises = tuple(Exercise(number, entry) for number, entry in enumerate(ENTRIES, 1))


def exercises() -> tuple[Exercise, ...]:
    """All of them, in the order of their numbers; those of a class stand together."""
    return _exercises


def plant(number: int) -> Exercise:
    """Put bug `number` into the running library, until it is released or another one is planted.

    Raises
    ------
    ValueError
        If there is no such number.
    """
    if not 1 <= number <= len(_exercises):
        raise ValueError(
            f"there is no exercise {number}; they are 1, ..., {len(_exercises)}, and zoo.visit() "
            "lists them"
        )
    return _exercises[number - 1].plant()


def release() -> None:
    """Take out whatever is planted; nothing happens if nothing is."""
    for exercise in tuple(_planted):
        exercise.release()


def visit() -> None:
    """Print all exercises, by the class of the mistake; no solutions."""
    for kind, meaning in KINDS.items():
        _say(f"{kind}: {meaning}")
        for exercise in _exercises:
            if exercise.kind == kind:
                _say(f"{exercise.number:4}. {exercise.title}")
        _say()
    _say("bug = zoo.plant(1) puts the first one into the running library; help(bug) says the rest.")


def _source(function: Any) -> str:
    """The text of a function as it runs now, without its decorators."""
    return textwrap.dedent(inspect.getsource(function))
