"""The built wheel as a user gets it: in a fresh environment, without the laboratory and without this folder.

    python .ci/wheel.py dist [--constraint constraints.txt]

The wheel has the marker for type checkers, nothing of the tests, and runs the first block of the README.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARKERS = {"earlycrop/py.typed", "earlycrop_lab/py.typed"}
FOREIGN = ("tests/", "benchmarks/", "results/", "docs/")
SAYS = "earlycrop-s cut at epoch"


def faults(names: list[str]) -> list[str]:
    """What is wrong with the names in a wheel; empty if nothing is."""
    missing = [f"{name} is missing" for name in sorted(MARKERS - set(names))]
    return missing + [f"{name} does not belong into the wheel" for name in names if name.startswith(FOREIGN)]


def first_block() -> str:
    """The first Python block of the README."""
    found = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    assert found is not None
    return found[1]


def tried(wheel: Path, options: list[str]) -> str:
    """Install the wheel in a fresh environment, run the README's block there, and return what it prints."""
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "venv" / "bin" / "python"
        venv.create(Path(folder) / "venv", with_pip=True)
        pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, wheel.resolve(), *options], check=True)
        (Path(folder) / "first.py").write_text(first_block(), encoding="utf-8")
        run = [python, "-I", "first.py"]
        printed = subprocess.run(run, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout
        assert (Path(folder) / "small.safetensors").exists()
    return printed


def main() -> int:
    """Check the wheel in a folder; 1 if something is wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("dist", type=Path)
    parser.add_argument("--constraint", type=Path)
    given = parser.parse_args()
    (wheel,) = given.dist.glob("*.whl")
    found = faults(zipfile.ZipFile(wheel).namelist())
    options = ["--constraint", str(given.constraint.resolve())] if given.constraint else []
    printed = "" if found else tried(wheel, options)
    if not found and SAYS not in printed:
        found = [f"the README's first block prints {printed!r}, without {SAYS!r}"]
    print("\n".join(found) or printed)
    return min(len(found), 1)


if __name__ == "__main__":
    sys.exit(main())
