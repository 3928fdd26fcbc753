"""What is shipped: a version that follows the changes, extras that are tried, a wheel with what belongs into it."""

import re
import tomllib
import zipfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def test_the_version_follows_the_changes():
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert newest is not None
    assert PROJECT["version"] == newest[1]


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_asks_for_versions_that_are_tried(extra):
    """Each package is pinned in constraints.txt, at a version that the extra admits."""
    requirements = pytest.importorskip("packaging.requirements")
    utils = pytest.importorskip("packaging.utils")
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    pinned = {utils.canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    for each in map(requirements.Requirement, EXTRAS[extra]):
        assert pinned[utils.canonicalize_name(each.name)] in each.specifier, each


def test_what_the_makefile_installs_is_an_extra():
    (named,) = re.findall(r"^EXTRAS := (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert set(named.split(",")) <= set(EXTRAS)
    pages = "".join(path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    for names in re.findall(r'pip install "\.\[([\w,]+)\]"', pages):
        assert set(names.split(",")) <= set(EXTRAS), names


def test_the_wheel_has_the_markers_and_nothing_else_of_the_folder(tmp_path, monkeypatch):
    """Built as pip builds it, without an environment of its own; `make dist` installs it and runs the README."""
    hatchling = pytest.importorskip("hatchling.build")
    monkeypatch.chdir(ROOT)
    wheel = loaded("wheel")
    names = zipfile.ZipFile(tmp_path / hatchling.build_wheel(str(tmp_path))).namelist()
    assert wheel.faults(names) == []
    assert wheel.faults([*names, "tests/x.py"]) == ["tests/x.py does not belong into the wheel"]
    assert "earlycrop/logs/tensorboard.py" in names
    assert "from earlycrop import" in wheel.first_block()


def loaded(name: str) -> ModuleType:
    """A script of CI; `wheel` is also a package."""
    spec = spec_from_file_location(f"ci_{name}", ROOT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
