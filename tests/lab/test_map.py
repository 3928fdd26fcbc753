"""The maps of the laboratory and of its packages are those of their imports."""

import re
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path

import pytest

CONTRACTS = ConfigParser()
CONTRACTS.read(Path(__file__).parents[2] / ".importlinter")
LAYERS = {
    contract["containers"]: contract["layers"]
    for contract in map(CONTRACTS.__getitem__, CONTRACTS.sections())
    if contract.get("containers", "").startswith("earlycrop_lab")
}


@pytest.mark.parametrize("package", LAYERS)
def test_the_map_lists_what_the_contract_of_imports_does(package):
    """From the top down, but for siblings, which may stand in any order."""
    floors = [set(re.findall(r"\w+", floor)) for floor in LAYERS[package].strip().splitlines()]
    floors = [floor for floor in floors if floor != {"__main__"}]
    lines = re.findall(r"^    (\w[\w |]*?)(?: {2}|$)", import_module(package).__doc__ or "", re.M)
    names = [name for line in lines for name in line.split(" | ")]
    assert sorted(names) == sorted(name for floor in floors for name in floor)
    assert [{name for name in names if name in floor} for floor in floors] == floors
    order = [next(place for place, floor in enumerate(floors) if name in floor) for name in names]
    assert order == sorted(order)
