"""The experiments of the documents, one file each; `python -m tasks` lists and runs them."""
