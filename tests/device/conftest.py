"""What loads the second device is never collected with other tests, nor imported for its docstrings."""

collect_ignore = ["on_second.py"]
