"""The zoo from a shell: `python -m microtensor.testing.zoo [number] [--hunt] [--hint] ...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

# The checks are there for the prompt of `python -i`.
from microtensor.testing.gradients import check_grads  # noqa: F401
from microtensor.testing.optimizers import check_optimizer  # noqa: F401
from microtensor.testing.zoo.exercise import Exercise, plant, visit

WHAT_NEXT = """
It is planted. What the check says of it, the backward pass, hints, and last the solution:

    python -m microtensor.testing.zoo {0} --hunt
    python -m microtensor.testing.zoo {0} --explain
    python -m microtensor.testing.zoo {0} --hint        (again: --hint --hint)
    python -m microtensor.testing.zoo {0} --solution

Or hunt it at Python's prompt, where it is called `bug` (try bug.hunt(), or help(bug)):

    python -im microtensor.testing.zoo {0}
"""


def main(arguments: Sequence[str] | None = None) -> Exercise | None:
    """Plant the bug that the arguments name, do what they ask, and leave it planted.

    Returns
    -------
    Exercise or None
        The exercise; None if the list was asked for.
    """
    parser = argparse.ArgumentParser(
        prog="python -m microtensor.testing.zoo",
        description="Plant a bug into the library, in this process only, and hunt it.",
    )
    parser.add_argument("number", type=int, nargs="?", help="which bug; without it, all are listed")
    parser.add_argument("--hunt", action="store_true", help="what the check says")
    parser.add_argument("--explain", action="store_true", help="the backward pass, rule by rule")
    parser.add_argument("--hint", action="count", default=0, help="a hint; give it again for more")
    parser.add_argument("--solution", action="store_true", help="what is wrong")
    given = parser.parse_args(arguments)
    if given.number is None:
        if given.hunt or given.explain or given.hint or given.solution:
            parser.error("which exercise? give its number")
        visit()
        return None
    try:
        bug = plant(given.number)
    except ValueError as error:
        parser.error(str(error))
    if not (given.hunt or given.explain or given.hint or given.solution):
        bug.show()
        sys.stdout.write(WHAT_NEXT.format(given.number))
    if given.hunt:
        bug.hunt()
    if given.explain:
        bug.explain()
    for _ in range(given.hint):
        bug.hint()
    if given.solution:
        bug.solution()
    return bug


if __name__ == "__main__":
    bug = main()
