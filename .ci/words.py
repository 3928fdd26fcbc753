"""Keep private words out of prose: pages, docstrings, comments and messages say it as an engineer would."""

import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORDS = {
    r"\banew\b": "again",
    r"\b(not )?told\b(?! apart)": "listed, reported; for a result: inconclusive",
    r"\btells\b(?! .*apart)|\btell\b(?!.* apart)": "prints, lists, reports",
    r"\bif (not|nothing is) said\b": "by default",
    r"\b(is|was|are|were|be) had\b": "computed, obtained",
    r"\bwhereof\b|\bthereof\b": "of which, of it",
    r"\bbeforehand\b": "before",
}
"""What is not written, and what is written instead."""


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a page, or the comments and strings of a module, with their numbers."""
    if path.suffix == ".md":
        yield from enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        return
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            name = tokenize.tok_name[token.type]
            if name in ("COMMENT", "STRING", "FSTRING_MIDDLE"):
                for offset, line in enumerate(token.string.splitlines()):
                    yield token.start[0] + offset, line


def main() -> int:
    """List every such word with its place; 1 if there is one."""
    pages = [*ROOT.glob("README.md"), *(ROOT / "docs").rglob("*.md")]
    found = 0
    for path in sorted([*pages, *(ROOT / "src").rglob("*.py")]):
        for number, line in prose(path):
            for word, instead in WORDS.items():
                if re.search(word, line):
                    found += 1
                    print(f"{path.relative_to(ROOT)}:{number}: {line.strip()}  ({instead})")
    return min(found, 1)


if __name__ == "__main__":
    sys.exit(main())
