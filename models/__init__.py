"""The networks of the documents, one file each, made of `microtensor.nn`.

What an old framework did differently (initialisers, defaults, gate order) is said and rebuilt here,
in the network that relied on it, and never becomes a switch of the library.
"""
