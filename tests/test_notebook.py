"""The quick start as a notebook: it runs, and what is kept in it is what it shows."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PATH = ROOT / "docs" / "quickstart.ipynb"


def shown(path: Path) -> str:
    """Everything that the cells show, but for its numbers, which differ between machines, and what PyTorch adds."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    text = ["".join(part) for each in outputs for part in (each.get("text", ""), *each.get("data", {}).values())]
    text = re.sub(r"\d[\d,.]*(e-\d+)?", "#", "\n".join(text).replace("affine=True, bias=True", "affine=True"))
    return re.sub(r"\s+", " ", text)


@pytest.mark.filterwarnings("ignore")  # what Jupyter warns of is not ours
def test_the_quick_start_runs_and_shows_what_is_kept(tmp_path):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    copy = tmp_path / PATH.name
    copy.write_bytes(PATH.read_bytes())
    command = [sys.executable, ROOT / ".ci" / "notebook.py", copy]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "earlycrop-s cut at epoch" in shown(copy)
    assert "<svg" in shown(copy)
    assert shown(copy) == shown(PATH)


def test_the_page_has_the_cells_and_what_they_show():
    sys.path.insert(0, str(ROOT / ".ci"))
    try:
        import notebook
    finally:
        sys.path.pop(0)
    page = notebook.on_page_markdown((ROOT / "docs" / "notebook.md").read_text(encoding="utf-8"))
    assert page.count("```python") == sum(cell["cell_type"] == "code" for cell in json.loads(PATH.read_text())["cells"])
    assert "<progress" in page
    assert "@notebook" not in page
