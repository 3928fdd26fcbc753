"""Docstrings as Markdown: examples become code blocks, and a paragraph that ends in `::` ends in a colon."""

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"(?:^>>>.*\n(?:(?!>>>)\S.*\n|\.\.\..*\n)*)+", re.M)


class Doctests(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Fence the examples of one object."""
        if obj.docstring:
            text = EXAMPLE.sub(lambda block: f"```pycon\n{block[0]}```\n", obj.docstring.value + "\n")
            obj.docstring.value = re.sub(r"::$", ":", text, flags=re.M).strip("\n")
