"""`python -m tasks.baselines [--no-curves] FOLDER…` keeps finished runs as baselines."""

import sys
from pathlib import Path

from tasks.baselines import take
from tasks.console import say
from tasks.harness import UsageError


def main(folders: list[str]) -> int:
    """Take every folder; returns the exit code."""
    curves = folders[:1] != ["--no-curves"]
    folders = folders if curves else folders[1:]
    if not folders or folders[0].startswith("-"):
        say("usage: python -m tasks.baselines [--no-curves] FOLDER…   (folders of finished runs)")
        return 2
    try:
        for folder in folders:
            say(f"kept in {take(Path(folder), curves=curves)}")
    except UsageError as error:
        say(f"baselines: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
