"""`python -m tasks.baselines FOLDER…` keeps finished runs as baselines."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tasks.baselines import take
from tasks.console import say
from tasks.harness import UsageError


def main(words: Sequence[str]) -> int:
    """Take every folder; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tasks.baselines", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a finished run's")
    parser.add_argument("--no-curves", action="store_true", help="results only, a line a trial")
    parser.add_argument("--only", default="", metavar="PREFIX", help="variants that begin so")
    options = parser.parse_args(words)
    try:
        for folder in options.folders:
            say(f"kept in {take(folder, curves=not options.no_curves, only=options.only)}")
    except UsageError as error:
        say(f"baselines: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
