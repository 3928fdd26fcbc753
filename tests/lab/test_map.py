"""The map of the laboratory is that of its imports."""

import re
from configparser import ConfigParser
from pathlib import Path

import earlycrop_lab


def test_the_map_lists_what_the_contract_of_imports_does():
    contracts = ConfigParser()
    contracts.read(Path(__file__).parents[2] / ".importlinter")
    layers = re.findall(r"\w+", contracts["importlinter:contract:laboratory"]["layers"])
    assert re.findall(r"^    (\w+)", earlycrop_lab.__doc__ or "", re.M) == layers[1:]  # but for `__main__`
