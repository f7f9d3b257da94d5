"""The experiments of the documents, one file each; `python -m tasks` lists and runs them."""

BLAS_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""Set to 1 for experiments, before NumPy is imported: these matrices are small, and a sum split
over threads is a sum in another order. Whoever has set one of them already is obeyed."""
