"""`python -m tasks`: see `tasks.cli`."""

import os
import sys

from tasks import BLAS_THREADS

if __name__ == "__main__":  # worker processes import this file again, under another name
    for name in BLAS_THREADS:
        os.environ.setdefault(name, "1")
    from tasks.cli import main

    sys.exit(main())
