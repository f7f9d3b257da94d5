from backends import backend, device  # noqa: F401  (fixtures)
