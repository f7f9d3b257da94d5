"""What microtensor costs, measured beside other frameworks: `python -m benchmarks.overhead`."""
