"""A small data set."""

import pytest
import torch

from earlycrop_lab.data import Dataset


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def small() -> Dataset:
    """90 training images, as many of each of three classes but one; pixels of 8x8x3 that differ from each other."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (120, 3, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.tensor([0] * 50 + [1] * 10 + [2] * 30)
    return Dataset(
        name="small",
        train_images=pixels[:90],
        train_labels=labels[torch.randperm(90, generator=generator)],
        test_images=pixels[90:],
        test_labels=torch.arange(30) % 3,
        classes=("a", "b", "c"),
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.25, 0.3),
    )
