"""Notebooks of the documentation: run in CI, kept with what they showed, and shown on the site as a page.

    python .ci/notebook.py docs/quickstart.ipynb    run it and keep what it shows

A line `@notebook FILE` in a page becomes the cells of that notebook.
"""

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = re.compile(r"^@notebook (\S+)$", re.M)
BLANK = re.compile(r"\n\s*\n")


def run(path: Path, folder: Path) -> Any:
    """The notebook after it has been run in a folder, without what differs from run to run."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in notebook.cells:
        cell.metadata.clear()
    return notebook


def keep(path: Path) -> None:
    """Run a notebook and write it back with its outputs."""
    import nbformat

    with tempfile.TemporaryDirectory() as folder:
        notebook = run(path, Path(folder))
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    nbformat.write(notebook, path)


def shown(output: dict[str, Any]) -> str:
    """An output as Markdown: HTML as it is, everything else as text."""
    data = output.get("data", {})
    if "text/html" in data:
        return BLANK.sub("\n", "".join(data["text/html"]))  # a blank line would end the HTML
    text = "".join(output.get("text", data.get("text/plain", "")))
    return f"```text\n{text.rstrip()}\n```"


def markdown(path: Path) -> str:
    """The cells of a notebook as Markdown, without its title."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(re.sub(r"\A# .*\n*", "", source))
        else:
            parts += [f"```python\n{source}\n```", *map(shown, cell["outputs"])]
    return "\n\n".join(parts)


def on_page_markdown(text: str, **_: Any) -> str:
    """Replace the line of a notebook by its cells."""
    return NOTEBOOK.sub(lambda line: markdown(ROOT / "docs" / line[1]), text)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        keep(Path(name))
