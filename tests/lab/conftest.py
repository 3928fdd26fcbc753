"""Where the real data sets are."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def data_root() -> Path:
    root = os.environ.get("EARLYCROP_DATA")
    if not root:
        pytest.skip("EARLYCROP_DATA does not name a folder with the real data sets")
    return Path(root)
