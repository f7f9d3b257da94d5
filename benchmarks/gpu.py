"""The training steps of W1 to W6 on a graphics card: `python -m benchmarks.gpu`.

microtensor's array driver on CuPy beside PyTorch's layers, which are cuDNN's. Without a card there
is one line that says so. See README.md in this folder.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import microtensor as mt
from benchmarks import _harness, recurrence

RESULTS = Path(__file__).resolve().parent / "results" / "gpu.md"
NAMES = ("microtensor:cupy", "torch:cuda")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line, with the options of `benchmarks.recurrence`."""
    if not mt.backend_available("cupy"):
        print("no graphics card that CuPy can use: nothing to measure")
        return 0
    here = [name for name in NAMES if _harness.installed(name.partition(":")[0]) is not None]
    return recurrence.main(arguments, here, "torch:cuda", RESULTS)


if __name__ == "__main__":
    sys.exit(main())
