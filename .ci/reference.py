"""The public names of the library, for the site's reference and for the test that reads it.

A line `@public MODULE` in a page of the documentation becomes the reference of all public names of that module: those
of its `__all__`, or else the classes and functions that it defines. After the build every one of them must be in the
inventory of the site.
"""

import importlib
import inspect
import re
import sys
import zlib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PUBLIC = re.compile(r"^@public (\S+)$", re.M)


def modules() -> list[str]:
    """The modules whose names the pages promise: `earlycrop`, whose page has an order of its own, and those marked."""
    pages = sorted((ROOT / "docs").rglob("*.md"))
    return ["earlycrop", *(name for page in pages for name in PUBLIC.findall(page.read_text(encoding="utf-8")))]


def names(module: str) -> list[str]:
    """The public names of a module, with its own in front of each."""
    found = importlib.import_module(module)
    public = getattr(found, "__all__", None) or [
        name
        for name, value in vars(found).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module
    ]
    return [_path(found, name) for name in public]


def _path(module: Any, name: str) -> str:
    """Where a name is imported from, or where it is defined if a module of that name hides it there."""
    path = f"{module.__name__}.{name}"
    return f"{getattr(module, name).__module__}.{name}" if path in sys.modules else path


def _block(module: str, path: str) -> str:
    """The reference of one name, under the path from which it is imported."""
    name = path.rsplit(".", 1)[1]
    hidden = path != f"{module}.{name}"
    return f"::: {path}" + f'\n    options: {{heading: "{module}.{name}", toc_label: "{name}"}}' * hidden


def on_config(config: Any) -> None:
    """Read the library that lies beside the site, not one that is installed elsewhere."""
    sys.path.insert(0, str(ROOT / "src"))


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the line of a module by one block for each of its names."""
    return PUBLIC.sub(lambda line: "\n\n".join(_block(line[1], path) for path in names(line[1])), markdown)


def on_post_build(config: Any) -> None:
    """Refuse a site without some public name."""
    raw = (Path(config["site_dir"]) / "objects.inv").read_bytes()
    listed = zlib.decompress(raw.split(b"\n", 4)[4]).decode().splitlines()
    documented = {line.split(" ", 1)[0] for line in listed}
    if missing := [name for module in modules() for name in names(module) if name not in documented]:
        raise SystemExit(f"The reference does not have {', '.join(missing)}.")
