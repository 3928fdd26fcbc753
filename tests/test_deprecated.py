"""The arguments of version 0.5 do what they did, and say what takes their place."""

import pytest
import torch
from torch import nn

from earlycrop import Budget, EarlyCropError, Pruner, Scoring
from tests import dense

BATCH = dense.images(12)


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return dense.residual_net(torch.relu)


OLD = {
    "sparsity": 0.4,
    "target": "params",
    "min_channels": 2,
    "loss": dense.cross_entropy,
    "batches": [BATCH],
    "bn_mode": "running",
    "micro_batch": 5,
}


def test_old_arguments_do_what_they_did():
    with pytest.warns(DeprecationWarning, match=r"`loss`, `batches`, `bn_mode`, `micro_batch` as `scoring=Scoring"):
        old = Pruner(net(), "crop-s", example_inputs=BATCH[0], **OLD)
    scoring = Scoring(dense.cross_entropy, [BATCH], "running", 5)
    new = Pruner(net(), "crop-s", Budget(0.4, "params", 2), example_inputs=BATCH[0], scoring=scoring)
    assert old.budget == new.budget
    assert old.check(0).widths == new.check(0).widths


def test_layers_that_are_coupled_had_another_name():
    with (
        pytest.warns(DeprecationWarning, match="`together` as `coupled=…`"),
        pytest.raises(EarlyCropError, match="nope"),
    ):
        Pruner(net(), "random-s", 0.4, example_inputs=BATCH[0], together=[("nope", "nor this")])


def test_a_number_and_old_fields_of_a_budget():
    with pytest.warns(DeprecationWarning, match="`target` as"):
        pruner = Pruner(net(), "random-s", 0.4, example_inputs=BATCH[0], target="flops")
    assert pruner.budget == Budget(0.4, "flops", 1)


def test_what_never_was_an_argument_is_refused():
    with pytest.raises(TypeError, match=r"no argument 'batchs'. Did you mean 'batches'"):
        Pruner(net(), "random-s", 0.4, example_inputs=BATCH[0], batchs=[BATCH])


def test_a_budget_has_to_be_given():
    with pytest.raises(EarlyCropError, match="how much is to leave"):
        Pruner(net(), "random-s", example_inputs=BATCH[0])


def test_the_method_gives_the_floor_where_the_budget_does_not():
    scoring = Scoring(dense.cross_entropy, [BATCH])
    floors = {
        Pruner(net(), name, budget, example_inputs=BATCH[0], scoring=scoring, epochs=8).budget.min_channels
        for name, budget in (("crop-s", 0.3), ("crop-s", Budget(0.3)), ("gate-decorators", Budget(0.3, min_channels=1)))
    }
    assert floors == {1}
    assert Pruner(net(), "gate-decorators", 0.3, example_inputs=BATCH[0], scoring=scoring, epochs=8).budget.least == 0.1
