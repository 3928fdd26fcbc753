"""Where a cut starves a network: right on cuts that ended in collapse, silent on those that did not."""

import math
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from earlycrop import Report, StarvationWarning, get_method
from earlycrop.evaluation import Evaluation, MeanLoss
from earlycrop.scores import AbstractLossScore
from earlycrop.starvation import bottlenecks, complaint, remaining, still, variation
from tests import dense
from tests.pruners import make_pruner

VGG = [16, 16, 32, 32, 64, 64, 64, 128, 128, 128, 128, 128, 256, 1024, 1024]
CNN = [16, 32, 64]
STREAMS, INNER = [16, 32, 64, 128], [16, 16, 32, 32, 64, 64, 128, 128]


def numbers(text: str) -> list[int]:
    return [int(one) for one in text.replace("/", " ").split()]


def named(dense_widths: list[int], left: list[int], outputs: int = 10) -> list[tuple[str, int, int]]:
    """Layers named by their place, and one of outputs, which keeps all."""
    layers = zip(map(str, range(len(left))), dense_widths, left, strict=True)
    return [*layers, ("head", outputs, outputs)]


def resnet(text: str) -> list[tuple[str, int, int]]:
    """ResNet18's layers in order: a stem, four stages of two blocks; every stream has the width of its stage."""
    streams, inner = map(numbers, text.split("/"))
    rows = [("stem", STREAMS[0], streams[0])]
    for stage in range(4):
        wide, left = STREAMS[stage], streams[stage]
        for block in (0, 1):
            number = 2 * stage + block
            rows += [(f"inner{number}", INNER[number], inner[number]), (f"stream{number}", wide, left)]
            rows += [(f"shortcut{stage}", wide, left)] if stage and not block else []
    return [*rows, ("head", 10, 10)]


def starved(widths: list[tuple[str, int, int]], sparsity: float = 0.98) -> set[str]:
    return {one.layer for one in bottlenecks(widths, 1 - sparsity, "channels")}


# VGG16, CNN and ResNet18 at 98 % (the CNN at 95 %): the cuts that left a few per cent of the accuracy -----------------


@pytest.mark.parametrize(
    ("left", "which"),
    [
        ("15 16 28 26 43 36 35 24 14 21 7 5 1 / 1 1", {"11", "12", "13", "14"}),
        ("15 16 27 28 40 37 45 18 12 16 5 1 1 / 1 1", {"10", "11", "12", "13", "14"}),
        ("1 1 1 1 1 1 1 1 1 1 1 3 23 157 288", set(map(str, range(11)))),
        ("1 1 1 1 1 1 1 20 24 26 30 34 60 157 288", set(map(str, range(7)))),
    ],
)
def test_a_starved_vgg(left, which):
    found = starved(named(VGG, numbers(left)))
    assert which - {"10", "11"} <= found <= which  # of the convolutions with 5 channels either answer is right
    assert {str(place) for place, width in enumerate(numbers(left)) if width == 1} <= found


def test_a_starved_resnet():
    assert starved(resnet("15 22 9 5 / 13 11 7 6 4 2 1 1")) == {"inner5", "inner6", "inner7"}


def test_a_starved_cnn():
    assert starved(named(CNN, [12, 9, 1]), 0.95) == {"2"}


@pytest.mark.parametrize(
    "left",
    [
        "9 13 19 16 16 22 23 26 24 27 30 30 35 / 28 44",
        "9 13 19 16 16 22 23 26 24 27 30 30 35 / 28 43",
        "14 13 20 20 21 19 19 29 26 28 27 29 34 / 24 24",
        "2 2 4 4 9 9 9 18 18 18 18 18 36 / 143 143",
        "12 11 14 17 13 10 12 17 19 19 26 37 52 55 68",
        "14 15 29 24 42 27 36 24 22 19 13 15 12 / 14 13",
    ],
)
def test_a_balanced_vgg(left):
    assert not starved(named(VGG, numbers(left)))


@pytest.mark.parametrize("left", ["11 9 13 16 / 9 4 5 6 10 5 11 9", "10 10 15 13 / 9 4 4 5 8 8 11 10"])
def test_a_balanced_resnet(left):
    assert not starved(resnet(left))


@pytest.mark.parametrize(
    ("whole", "left", "sparsity"),
    [
        (CNN, [7, 8, 8], 0.95),
        ([4, 4, 4], [1, 1, 1], 0.9),
        ([4, 9, 64], [1, 1, 30], 0.6),
        ([1, 64, 64], [1, 30, 30], 0.8),
        (VGG, VGG, 0.0),
    ],
)
def test_even_cuts_and_narrow_layers_are_no_matter(whole, left, sparsity):
    assert not starved(named(whole, left), sparsity)


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.98])
def test_a_uniform_cut_of_any_network_starves_nothing(sparsity):
    """The same part of each layer, √density, whatever the layers' widths are."""
    whole = [10, 3072, 768, 50, 20000, 128]
    left = [max(2, round(width * math.sqrt(1 - sparsity))) for width in whole]
    assert not starved(named(whole, left, 50257), sparsity)


def test_a_transformers_hidden_layer_between_wide_streams():
    rows = [("embed", 128, 60), ("a.qkv", 384, 180), ("a.mlp", 512, 4), ("a.out", 128, 60), ("head", 65, 65)]
    (one,) = bottlenecks(rows, 0.2, "channels")
    assert str(one) == "a.mlp: 4 of 512 channels, where an even cut leaves 229 and the median layer has 60"
    (one,) = bottlenecks(rows, 0.2, "channels", [0.2, 0.2, 0.004, 0.2, None])
    assert str(one).endswith("has 60, with 0.004 of the score's sum over 5 layers")


def test_single_weights():
    rows = [("a", 432, 20), ("b", 100_000, 19), ("c", 100_000, 20), ("d", 50, 0), ("e", 9, 0), ("f", 1000, 900)]
    found = bottlenecks(rows, 0.02, "weights")
    assert [one.layer for one in found] == ["b", "d"]  # below a hundredth of 2 %, and empty
    assert found[1].why == "0 of 50 weights, where an even cut leaves 1"


def test_a_complaint_names_three_layers_and_the_remedy():
    found = bottlenecks([(name, 64, 1) for name in "abcd"], 0.05, "channels")
    text = complaint("crop-s", "channels", found, 0.004)
    for words in (
        "crop-s leaves 4 layers starved of channels: a (1 of 64), b (1 of 64), c (1 of 64) and 1 more",
        "outputs that hardly depend on the input: 0.40% of their variation",
        "min_channels=0.1",
        'bn_mode="scaled"',
    ):
        assert words in text
    assert "hardly" not in complaint("crop-s", "channels", found, 0.5)
    assert "starved" not in complaint("crop-s", "channels", (), 0.004)
    assert complaint("crop-s", "channels", (), None) is None is complaint("crop-s", "channels", (), 0.01)


# What a pruner says at the cut --------------------------------------------------------------------------------------

BATCH = dense.images(12)


def wide(last: float = 1.0) -> nn.Module:
    """Three layers in a row; the scores of the last are small where its weights are."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3),
    )  # fmt: skip
    with torch.no_grad():
        net[6].weight.mul_(last)
    return net.double()


def cut(net: nn.Module, method="magnitude-s", sparsity=0.7, **options):
    loss = {"loss": dense.cross_entropy, "batches": [BATCH]}
    pruner = make_pruner(net, method, sparsity, example_inputs=BATCH[0], **loss, **options)
    return pruner, pruner.dry_run()


def test_the_plan_the_report_and_a_warning_name_what_is_starved():
    net = wide(1e-3)
    pruner, plan = cut(net)
    assert [(one.layer, one.after) for one in plan.bottlenecks] == [("6", 1)]
    assert plan.as_dict()["bottlenecks"] == ["6"]
    assert plan.bottlenecks[0].why.startswith("a single channel of 16, with ")
    with pytest.warns(StarvationWarning, match=r"^magnitude-s leaves 1 layer starved of channels: 6 \(1 of 16\)\. "):
        report = pruner.check(0)
    assert [(one.layer, one.before, one.after) for one in report.bottlenecks] == [("6", 16, 1)]
    assert net[6].out_features == 1
    for text in (str(plan), str(report)):
        assert "bottlenecks 6 (1 of 16)" in text
        assert "remedy      give every layer a floor (`min_channels=0.1`)" in text
    assert pruner.done  # the cut itself is as any other


def test_shares_are_of_the_scores_sum():
    net = wide()
    _, plan = cut(net, "snap", 0.3)
    scores = {row.layer: row.share for row in plan.rows}
    worth = [sum(abs(one.worth) for one in plan.classes if one.members[0].tensor == f"{k}.weight") for k in (0, 4, 6)]
    assert [scores["0"], scores["4"], scores["6"]] == pytest.approx([one / sum(worth) for one in worth])
    assert scores["8"] is None


def test_the_remedy_helps_and_an_even_cut_is_silent():
    for net, method, options in ((wide(1e-3), "magnitude-s", {"min_channels": 0.3}), (wide(), "random-s", {})):
        pruner, plan = cut(net, method, 0.5, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            report = pruner.check(0)
        assert plan.bottlenecks == report.bottlenecks == ()
        assert "remedy" not in str(plan) + str(report)


def test_where_warnings_are_errors_the_cut_is_complete_all_the_same():
    net = wide(1e-3)
    pruner, _ = cut(net)
    with pytest.raises(StarvationWarning):  # as the tests' own filter has it
        pruner.check(0)
    assert pruner.done
    assert pruner.report is not None
    assert pruner.check(1) is None


def test_an_empty_layer_of_single_weights_is_starved():
    net = wide(1e-3)
    with pytest.warns(StarvationWarning, match="starved of weights"):
        report = cut(net, "magnitude-u", 0.6)[0].check(0)
    assert [one.layer for one in report.bottlenecks] == ["6"]
    assert report.collapsed


# Outputs ------------------------------------------------------------------------------------------------------------


def deviation(outputs: torch.Tensor) -> float:
    """By its definition, entry by entry."""
    rows = outputs.reshape(len(outputs), -1).double()
    total = squares = 0.0
    for column in rows.T.tolist():
        mean = sum(column) / len(column)
        total += sum((value - mean) ** 2 for value in column)
        squares += sum(value**2 for value in column)
    return math.sqrt(total / squares)


def loss_of(net: nn.Module, micro_batch: int = 12, **options) -> MeanLoss:
    return MeanLoss(net, dense.cross_entropy, [BATCH], micro_batch=micro_batch, **options)


def test_the_spread_is_the_deviation_over_samples_relative_to_the_size():
    net = wide()
    assert variation(loss_of(net)) == pytest.approx(deviation(net(BATCH[0]).detach()), rel=1e-5)
    few = net(BATCH[0][:4]).detach()
    assert variation(loss_of(net, 4)) == pytest.approx(deviation(few), rel=1e-5)
    with torch.no_grad():
        net[8].weight.zero_()
    assert variation(loss_of(net)) == 0


def test_norms_use_the_batch_and_nothing_is_changed():
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    net = net.double()
    net[1].running_mean.fill_(1e6)  # stale
    net.eval()
    before = dense.everything(net)
    found = variation(loss_of(net))
    assert dense.everything(net) == before
    assert not net.training
    fresh = net.train()(BATCH[0]).detach()
    assert found == pytest.approx(deviation(fresh), rel=1e-5)


class Odd(nn.Module):
    """Its outputs in a form of choice."""

    def __init__(self, form):
        super().__init__()
        self.net, self.form = wide(), form

    def forward(self, x):
        return self.form(self.net(x))


@pytest.mark.parametrize("form", [lambda y: {"logits": y, "loss": y.sum()}, lambda y: (y.sum(), y), lambda y: [y]])
def test_outputs_in_containers(form):
    net = Odd(form)

    def loss(model, batch):
        model(batch[0])
        return torch.zeros(())

    found = variation(MeanLoss(net, loss, [BATCH], micro_batch=12))
    assert found == pytest.approx(deviation(net.net(BATCH[0]).detach()), rel=1e-5)


@pytest.mark.parametrize(
    "form",
    [lambda y: y.sum(), lambda y: y.T, lambda y: y.argmax(1), lambda y: "text", lambda y: y / 0, lambda y: 1 / 0],
)
def test_odd_outputs_are_passed_over(form):
    net = Odd(form)

    def loss(model, batch):
        model(batch[0])
        return torch.zeros(())

    assert variation(MeanLoss(net, loss, [BATCH], micro_batch=12)) is None


def test_what_is_not_run_or_has_one_sample_is_passed_over():
    assert variation(loss_of(wide(), 1)) is None
    assert variation(MeanLoss(wide(), lambda model, batch: torch.zeros(()), [BATCH])) is None


def test_what_remains():
    assert remaining(0.5, 0.25) == 0.5
    assert [remaining(None, 0.5), remaining(0.0, 0.5), remaining(0.5, None)] == [None] * 3
    assert [still(part) for part in (None, 1.2, 0.01, 0.0099, 0.0)] == [False, False, False, True, True]


class Worst(AbstractLossScore):
    """The least useful stay: |θ ∘ g| upside down."""

    def __call__(self, at: Evaluation):
        return -(at.values * at.gradient()).abs()


def test_outputs_that_stand_still_after_a_cut_are_noticed():
    """Two of the hidden units carry the input, the others a constant; and those two leave."""
    net = wide()
    with torch.no_grad():
        net[6].bias.fill_(1)
        net[6].weight.mul_(1e-4)
        net[6].weight[:2].mul_(1e6)
        net[8].weight[:, 2:].mul_(0.1)
    before = deviation(net(BATCH[0][:3]).detach())  # a micro-batch is a quarter of the batch
    worst = replace(get_method("snap"), name="worst-s", score=Worst())
    pruner, _ = cut(net, worst, 0.15, ignore=("0", "4"))
    with pytest.warns(StarvationWarning, match="worst-s leaves outputs that hardly depend on the input"):
        report = pruner.check(0)
    after = deviation(net(BATCH[0][:3]).detach())
    assert report.variation == pytest.approx(after / before, rel=1e-3)
    assert not report.bottlenecks
    assert "OUTPUTS     hardly depend on the input" in str(report)
    assert Report.from_dict(report.as_dict()) == report
    assert Report.from_dict({key: one for key, one in report.as_dict().items() if key != "variation"}).variation is None


def test_norms_are_no_remedy_where_nothing_is_scored_on_data():
    found = bottlenecks([("a", 64, 1)], 0.05, "channels")
    assert "bn_mode" not in complaint("magnitude-s", "channels", found, None, scored=False)


def test_methods_without_data_measure_no_outputs():
    assert cut(wide(), "random-s", 0.3)[0].check(0).variation is None
    assert cut(wide(), "snap", 0.3)[0].check(0).variation > 0.1
