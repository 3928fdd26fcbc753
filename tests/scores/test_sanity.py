"""Signals, not identities: scores on real images depend on the labels, and hardly on which images."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.pruners import make_pruner

datasets = pytest.importorskip("sklearn.datasets")


def kept(x, y, sparsity: float):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10))
    pruner = make_pruner(
        net,
        "crop-u",
        sparsity,
        example_inputs=x[:2],
        loss=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        batches=[(x, y)],
    )
    pruner.check(0)
    return pruner.units.keep


@pytest.mark.slow
def test_labels_matter_and_the_draw_does_not():
    images, labels = datasets.load_digits(return_X_y=True)
    x, y = torch.tensor(images).float() / 16, torch.tensor(labels)
    order = torch.randperm(len(x))
    first, second = order[:800], order[800:1600]
    density = 0.05
    mine = kept(x[first], y[first], 1 - density)

    def overlap(other) -> float:
        return float((mine & other).sum()) / float(mine.sum())

    of_other_images = overlap(kept(x[second], y[second], 1 - density))
    of_shuffled_labels = overlap(kept(x[first], y[first][torch.randperm(800)], 1 - density))
    assert of_other_images > 5 * density
    assert of_shuffled_labels < of_other_images
