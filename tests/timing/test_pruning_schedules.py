"""Methods that train in full before they prune: when, for how long, and what they ask of training."""

import pytest
import torch
from torch import nn

from earlycrop import METHODS
from earlycrop.timing import AfterTraining, Phase, Rewinding, TickTock
from tests.pruners import make_pruner
from tests.small import BATCH, make, small


@pytest.mark.parametrize(
    ("timing", "epochs", "cuts", "moments", "total"),
    [
        (AfterTraining(), 10, 1, [10], 15),
        (AfterTraining(retrain=0.25), 8, 3, [8, 8, 8], 10),
        (Rewinding(to=1), 10, 2, [10, 19], 28),
        (Rewinding(to=0), 4, 3, [4, 8, 12], 16),
        # 16 dense, 1 Tock, 2 Ticks, 1 Tock, 1 Tick, 4 of tuning
        (TickTock(ticks=2), 16, 3, [18, 19, 21], 25),
        # as the original: 160, 10, ten Ticks, 10, two Ticks, 40
        (TickTock(), 160, 12, [*range(171, 181), 191, 192], 232),
        (TickTock(tick=2), 8, 2, [11, 13], 15),
    ],
)
def test_moments_by_hand(timing, epochs, cuts, moments, total):
    assert timing.moments(epochs, cuts) == moments
    assert timing.total(epochs, cuts) == total


def test_a_budget_that_is_too_short_to_be_rewound():
    with pytest.raises(ValueError, match="train for longer"):
        Rewinding(to=3).total(3, 2)


def test_what_ticks_and_tocks_ask_of_training():
    timing = TickTock(ticks=2, penalty=0.5)
    asked = [timing.phase(epoch, 16, 3) for epoch in range(26)]
    tick, tock = Phase("tick", frozen=True, gated=True), Phase("tock", penalty=0.5, gated=True)
    assert asked == [Phase()] * 16 + [tock, tick, tick, tock, tick] + [Phase()] * 5


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: AfterTraining(-1), "retrain"),
        (lambda: Rewinding(-1), "epochs"),
        (lambda: TickTock(ticks=0), "ticks"),
        (lambda: TickTock(penalty=-1), "penalty"),
    ],
)
def test_settings_that_mean_nothing(make, what):
    with pytest.raises(ValueError, match=what):
        make()


@pytest.mark.parametrize("name", ["ltr", "imp", "efficient-convnets", "gate-decorators", "crop-s-spread"])
def test_the_budget_has_to_be_known(name):
    from earlycrop import EarlyCropError
    from tests import dense

    with pytest.raises(EarlyCropError, match="give `epochs`"):
        make_pruner(
            small(), name, 0.6, example_inputs=dense.images()[0], loss=dense.cross_entropy, batches=[dense.images()]
        )


def test_rounds_are_multiples_of_a_training():
    assert METHODS["ltr"].total_epochs(10, 0.98) == 10 + 6 * 9
    assert METHODS["imp"].total_epochs(10, 0.98) == 70
    assert METHODS["efficient-convnets"].total_epochs(10, 0.98) == 15
    assert METHODS["gate-decorators"].total_epochs(160, 0.98) == 160 + 10 + 10 + 10 + 10 + 40
    assert METHODS["earlycrop-s"].total_epochs(10, 0.98) == 10


def test_what_a_tick_freezes_does_not_move_by_momentum():
    """With gradients that are set to zero instead of None, an optimizer would go on with what it remembers."""
    net = small()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    pruner = make(net, optimizer, "gate-decorators", sparsity=0.3, epochs=2)
    frozen = 0
    for epoch in range(8):
        pruner.check(epoch)
        still = {name: p.detach().clone() for name, p in net.named_parameters() if not p.requires_grad}
        for _ in range(3):
            optimizer.zero_grad(set_to_none=False)
            nn.functional.cross_entropy(net(BATCH[0]), BATCH[1]).backward()
            optimizer.step()
        assert all(torch.equal(net.get_parameter(name), value) for name, value in still.items())
        frozen += len(still)
        if pruner.pruned:
            break
    assert frozen
