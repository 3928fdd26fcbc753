"""The opposite of a score."""

import pytest
import torch

from earlycrop import EarlyCropError, Method
from earlycrop.scores import Crop, CropMixed, Grasp, Inverted, Magnitude, NormScale, PathNorm, Random, Snip
from earlycrop.steps import OneShot
from earlycrop.timing import AtInit
from earlycrop.units import Channels, Weights
from earlycrop.widths import WidthsOf
from tests import dense
from tests.scores.worth import pruner, worth
from tests.small import make, small

BATCH = dense.images(12)


@pytest.mark.parametrize(
    ("score", "units"),
    [
        *((score, Weights()) for score in (Crop(), Snip(), Grasp(), Magnitude(), Random())),
        *((score, Channels()) for score in (Crop(), CropMixed(), Snip(), Magnitude(), PathNorm(), NormScale())),
    ],
)
def test_it_is_minus_the_score(score, units):
    net = dense.residual_net()
    found = worth(net, Inverted(score), units, [BATCH])
    assert torch.equal(found, -worth(net, score, units, [BATCH]))
    assert torch.equal(worth(net, Inverted(Inverted(score)), units, [BATCH]), -found)


@pytest.mark.parametrize("score", [Crop(), CropMixed(), Magnitude(), NormScale(), Random()])
def test_it_asks_for_what_the_score_asks_for(score):
    assert Inverted(score).needs_data == score.needs_data
    assert Inverted(score).needs_norms == getattr(score, "needs_norms", False)


def test_norms_and_data_are_missed_before_anything_is_touched():
    x = dense.vectors()[0]
    with pytest.raises(EarlyCropError, match="by their norms"):
        pruner(dense.mlp(4, 6, 3), Inverted(NormScale()), Channels(), None, example_inputs=x)
    with pytest.raises(EarlyCropError, match="give `scoring"):
        pruner(dense.mlp(4, 6, 3), Inverted(Snip()), Weights(), None, loss=None, example_inputs=x)


@pytest.mark.parametrize(("score", "units"), [(Magnitude(), Weights()), (PathNorm(), Channels()), (Crop(), Channels())])
def test_inside_widths_the_least_stay(score, units):
    """Of each layer as many as the best would be, from the other end."""
    pruners = {}
    for one in (score, Inverted(score)):
        row = Method("tested", one, units, AtInit(), OneShot(), WidthsOf(Snip(), OneShot()), bn_mode="running")
        pruners[one] = make(small(), None, row, 0.5)
    scores, layer = pruners[score].scores(), pruners[score].units.layer
    widths = [pruners[one].check(0).widths for one in pruners]
    assert widths[0] == widths[1]
    kept = pruners[Inverted(score)].units.keep
    for number in layer.unique():
        mine = scores[layer == number]
        stays = kept[layer == number]
        if bool(stays.any()) and not bool(stays.all()):
            assert mine[stays].max() <= mine[~stays].min()
