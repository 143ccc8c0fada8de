"""WHAT to run: the spec's YAML files, their schema, and the one function that reads them."""
