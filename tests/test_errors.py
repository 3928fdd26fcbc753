"""What can be asked wrongly: the right error, before anything is touched, with words that help."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import earlycrop
from earlycrop import METHODS, Method, Pruner, Scoring, get_method
from earlycrop.errors import BudgetError, EarlyCropError, ScoreError, TraceError, nearest
from earlycrop.scores import Crop, CropGroupSum, CropMixed, Grasp
from earlycrop.steps import OneShot
from earlycrop.timing import AtInit
from earlycrop.units import Channels, Weights
from tests import dense
from tests.pruners import make_pruner

BATCH = dense.images(12)


def make(net, method, sparsity=0.5, **options) -> Pruner:
    options = {"loss": dense.cross_entropy, "batches": [BATCH], "example_inputs": BATCH[0]} | options
    return make_pruner(net, method, sparsity, **options)


def refused(error, message: str, method="crop-s", sparsity=0.5, net=None, optimizer=None, **options) -> None:
    """Refused when the pruner is made, with model and optimizer bit for bit as they were."""
    net = net if net is not None else dense.residual_net(torch.relu)
    optimizer = optimizer or torch.optim.Adam(net.parameters())
    optimizer.step()
    before = dense.everything(net, optimizer)
    with pytest.raises(error, match=message):
        make(net, method, sparsity, optimizer=optimizer, **options)
    assert dense.everything(net, optimizer) == before


def test_every_error_is_an_earlycrop_error_and_a_value_error():
    kinds = [kind for name in earlycrop.__all__ if name.endswith("Error") and (kind := getattr(earlycrop, name))]
    assert len(kinds) == 8
    assert all(issubclass(kind, EarlyCropError) and issubclass(kind, ValueError) for kind in kinds)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        *(("crop-s", target) for target in ("weight", "node", "params", "flops", "memory")),
        *(("random-s", "weight"), ("cropit-s", "node"), ("earlycrop-s-score", "params")),
    ],
)
def test_a_target_out_of_reach_says_the_most(name, target):
    refused(BudgetError, r"reach is 0\.\d+", name, 0.9999, target=target, epochs=8)


def test_a_target_out_of_reach_of_weights_says_the_most():
    refused(BudgetError, r"can reach is 0\.99", "snip", 0.9999)
    refused(BudgetError, r"can reach is 0\.98", "snip", 0.99, protect_layers=True)


@pytest.mark.parametrize("target", ["node", "flops"])
def test_weights_do_not_make_channels_fewer(target):
    refused(BudgetError, "-s", "snip", 0.5, target=target)


@pytest.mark.parametrize("sparsity", [1.0, -0.1, float("nan"), 95])
def test_a_sparsity_that_is_none(sparsity):
    refused(BudgetError, "sparsity", "crop-s", sparsity)


def test_the_scoring_set():
    refused(ScoreError, "empty", batches=[])
    refused(ScoreError, "empty", batches=None)
    refused(ScoreError, "empty", batches=[(torch.zeros(0, 2, 4, 4), torch.zeros(0))])
    refused(ScoreError, "micro_batch", micro_batch=0)
    refused(EarlyCropError, r"loss\(model, batch\)", loss=None)


@pytest.mark.parametrize("name", ["crop-u", "crop-s", "snip", "grasp", "cropit-u"])
def test_a_loss_that_is_not_finite(name):
    net = dense.residual_net(torch.relu)
    optimizer = torch.optim.Adam(net.parameters())
    for value in (torch.nan, torch.inf):
        pruner = make(net, name, optimizer=optimizer, loss=lambda m, b, v=value: dense.cross_entropy(m, b) * v)
        before = dense.everything(net, optimizer)
        with pytest.raises(ScoreError, match=r"loss on the scoring set is (nan|inf)"):
            pruner.check(0)
        assert dense.everything(net, optimizer) == before


@pytest.mark.parametrize("name", ["magnitude-u", "magnitude-s", "synflow"])
def test_weights_that_are_not_finite(name):
    net = dense.residual_net(torch.relu)
    with torch.no_grad():
        net.conv1.weight[0, 0, 0, 0] = torch.nan
    optimizer = torch.optim.Adam(net.parameters())
    pruner = make(net, name, optimizer=optimizer)
    before = dense.everything(net, optimizer)
    with pytest.raises(ScoreError):
        pruner.check(0)
    assert dense.everything(net, optimizer) == before


def test_a_temperature_needs_a_tensor():
    net = dense.Net(lambda n, x: {"logits": n.net(x)}, net=dense.residual_net())
    pruner = make(net, "grasp", loss=lambda m, b: nn.functional.cross_entropy(m(b[0])["logits"], b[1]))
    before = dense.everything(net)
    with pytest.raises(ScoreError, match=r"dict(.|\n)*Grasp\(temperature=1\)"):
        pruner.check(0)
    assert dense.everything(net) == before
    plain = Method("grasp", Grasp(temperature=1), Weights(), AtInit(), OneShot())
    make(net, plain, loss=lambda m, b: nn.functional.cross_entropy(m(b[0])["logits"], b[1])).check(0)


def test_gates_before_batch_statistics():
    method = Method("crop-s", Crop(), Channels("pre_norm"), AtInit(), OneShot())
    refused(EarlyCropError, "rounding noise", method, bn_mode="batch")
    for bn_mode in ("running", "calibrated"):
        make(dense.residual_net(torch.relu), method, bn_mode=bn_mode).check(0)


@pytest.mark.parametrize(
    ("norm", "gate", "bn_mode"),
    [
        ({"affine": False}, "pre_norm", "batch"),
        ({"track_running_stats": False}, "pre_norm", "running"),  # the batch's statistics in every mode
    ],
)
def test_gates_before_batch_statistics_by_another_way(norm, gate, bn_mode):
    """Scores of rounding size (section 2.2: must raise or warn)."""
    x, y = dense.vectors(12)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, **norm), nn.ReLU(), nn.Linear(8, 3)).double()
    method = Method("crop-s", Crop(), Channels(gate), AtInit(), OneShot())
    with pytest.raises(EarlyCropError, match="rounding noise"):
        make(net, method, batches=[(x, y)], example_inputs=x, bn_mode=bn_mode).check(0)


@pytest.mark.parametrize("name", ["crop-u", "crop-s"])
def test_ignoring_what_is_not_there(name):
    refused(EarlyCropError, r"conv3", name, ignore=["conv3"])


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.second = nn.Linear(6, 3)

    def forward(self, x):
        x = self.first(x)
        return self.second(x) if x.sum() > 0 else self.second(-x)


def test_a_model_that_cannot_be_traced():
    x = dense.vectors()[0]
    refused(
        TraceError, r"(.|\n)*weights instead", net=Branching().double(), example_inputs=x, batches=[dense.vectors()]
    )
    make(Branching().double(), "crop-u", example_inputs=x, batches=[dense.vectors()]).check(0)


# Names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("earlycrop_s", "earlycrop-s"),
        ("EarlyCroP-U", "earlycrop-u"),
        ("SNIP", "snip"),
        ("crop_u", "crop-u"),
        ("synflo", "synflow"),
    ],
)
def test_a_method_that_is_not_there(wrong, right):
    with pytest.raises(ValueError, match=f"Did you mean '{right}'") as caught:
        get_method(wrong)
    assert all(name in str(caught.value) for name in METHODS)
    refused(ValueError, right, wrong)


def test_the_nearest_name_is_always_one_of_them():
    for wrong in ("", "?", "zzzz", "earlycrop", "ﬀ", None, 3):
        assert nearest(wrong, METHODS) in METHODS


def test_readings():
    with pytest.raises(ValueError, match="snip"):
        get_method("snip").reading("mixed")
    for score in (CropMixed(), CropGroupSum()):
        with pytest.raises(ValueError, match="channels"):
            Method("wrong", score, Weights(), AtInit(), OneShot())
    for reading in ("mixed", "group_sum"):
        with pytest.raises(ValueError, match="channels"):
            get_method("crop-u").reading(reading)


# Where annotations are not checked, as for users -------------------------------------------------------------------

WRONG = """
import torch
from torch import nn
from earlycrop import Budget, Method, Pruner, Scoring, get_method
from earlycrop.errors import EarlyCropError
from earlycrop.scores import Snip
from earlycrop.steps import OneShot
from earlycrop.timing import AtInit, LazyRegime
from earlycrop.units import Channels

net, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(5, 4)
batches = [(x, torch.zeros(5, dtype=torch.int64))]
loss = lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1])


def pruner(target="weight", bn_mode="auto", **options):
    scoring = Scoring(loss, batches, bn_mode)
    return Pruner(net, "crop-s", Budget(0.5, target), example_inputs=x, scoring=scoring, **options)


for kind, words, ask in (
    (EarlyCropError, "weight", lambda: Budget(0.5, "weigth")),
    (EarlyCropError, "flops", lambda: pruner(target="flop")),
    (EarlyCropError, "Latency.measured", lambda: pruner(target="latency")),
    (EarlyCropError, "slice", lambda: pruner(optimizer_state="keep")),
    (EarlyCropError, "running", lambda: pruner(bn_mode="eval")),
    (EarlyCropError, "param_groups", lambda: pruner(optimizer=object())),
    (ValueError, "post_norm", lambda: Channels("after")),
    (ValueError, "gate_hessian", lambda: get_method("crop-s").reading("gate-hessian")),
    (ValueError, "reference", lambda: LazyRegime(reference="epoch2")),
    (ValueError, "params", lambda: LazyRegime(params="some")),
):
    try:
        ask()
    except kind as error:
        if words not in str(error):
            print(f"{words!r} is not in {error}")
    else:
        print(f"{words!r}: not refused")
"""


def test_words_that_are_not_among_the_choices():
    """In another process, for here the annotations would answer first."""
    found = subprocess.run([sys.executable, "-W", "error", "-c", WRONG], capture_output=True, text=True, timeout=120)
    assert found.stdout == ""
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("name", ["snap", "random-s", "crop-s", "earlycrop-s", "crop-s-balanced", "crop-s-spread"])
def test_a_network_of_which_nothing_may_leave_says_so(name):
    net, x = nn.Sequential(nn.Linear(6, 3)), torch.randn(16, 6)
    scoring = Scoring(lambda model, batch: model(batch).square().mean(), [x])
    with pytest.raises(BudgetError, match="the most that channels can reach is 0"):
        Pruner(net, name, 0.5, example_inputs=x[:2], scoring=scoring, epochs=8)
