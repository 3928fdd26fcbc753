"""Two ranks of one process group, which wait for functions to run."""

import pytest

from tests.ranks import Ensemble


@pytest.fixture(scope="package")
def ranks(tmp_path_factory):
    with Ensemble(tmp_path_factory.mktemp("ranks")) as ensemble:
        yield ensemble
