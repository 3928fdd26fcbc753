"""Depth: the loss and the errors against hand-computed cases and a loop over pixels."""

import functools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import earlycrop
from earlycrop.timing import AbstractDetector, AbstractPruningSchedule
from earlycrop_lab.checkpoints import Checkpoints
from earlycrop_lab.cli import main
from earlycrop_lab.data.depths import DEPTHS, load
from earlycrop_lab.data.scenes import scenes
from earlycrop_lab.models.fcrn import depth_size
from earlycrop_lab.runs import read
from earlycrop_lab.tasks.depth import NEAREST, Depth, berhu, errors, evaluate, mean_loss, prepare, train
from tests import dense


class Constant(nn.Module):
    """Predicts the same map of depths for every image."""

    def __init__(self, depths: torch.Tensor):
        super().__init__()
        self.depths = depths

    def forward(self, x):
        return self.depths.expand(len(x), 1, -1, -1)


def slow_berhu(prediction, truth) -> float:
    known = [(p - d).abs() for p, d in zip(prediction.flatten(), truth.flatten(), strict=True) if d > 0]
    c = max(known) / 5
    return sum(e if e <= c else (e * e + c * c) / (2 * c) for e in known) / len(known)


def slow_metrics(prediction, truth) -> list[float]:
    pairs = [(max(p, NEAREST), d) for p, d in zip(prediction, truth, strict=True) if d > 0]
    n = len(pairs)
    return [
        math.sqrt(sum((p - d) ** 2 for p, d in pairs) / n),
        sum(abs(p - d) / d for p, d in pairs) / n,
        sum(abs(math.log10(p) - math.log10(d)) for p, d in pairs) / n,
        *(sum(max(p / d, d / p) < 1.25**i for p, d in pairs) / n for i in (1, 2, 3)),
    ]


def test_berhu_by_hand():
    """Errors 5, 1, 0.5, 2 and one of an unknown depth: c = 1; 13, 1, 0.5, 2.5."""
    prediction, truth = torch.tensor([[[6.0, 1.0, 2.5, 5.0, 9.0]]]), torch.tensor([[[1.0, 2.0, 3.0, 3.0, 0.0]]])
    assert berhu(prediction, truth).item() == pytest.approx((13 + 1 + 0.5 + 2.5) / 4)


def test_berhu_against_a_loop_over_pixels():
    prediction, truth = 5 * torch.rand(2, 3, 4, 5, dtype=torch.float64) - 1
    truth = truth.clamp(min=0)
    assert (truth == 0).any()
    assert berhu(prediction, truth).item() == pytest.approx(slow_berhu(prediction, truth).item(), rel=1e-12)


def test_berhu_has_the_slope_of_its_pieces_and_is_smooth_between_them():
    """sign(e) up to c, e / c beyond; c does not move."""
    prediction = torch.tensor([[[6.0, 3.0, 2.5]]], dtype=torch.float64, requires_grad=True)
    berhu(prediction, torch.tensor([[[1.0, 4.0, 2.0]]], dtype=torch.float64)).backward()
    torch.testing.assert_close(3 * prediction.grad, torch.tensor([[[5.0, -1.0, 1.0]]], dtype=torch.float64))


def test_berhu_of_a_perfect_prediction_is_nothing_and_has_no_slope():
    prediction = torch.ones(1, 2, 2, requires_grad=True)
    loss = berhu(prediction, torch.ones(1, 2, 2))
    loss.backward()
    assert loss.item() == 0
    assert not prediction.grad.any()


def test_the_loss_of_a_batch_is_that_of_its_predictions():
    depths = 1 + torch.rand(2, 3, 4)
    found = mean_loss(Constant(torch.full((3, 4), 2.0)), (torch.zeros(2, 3, 6, 8), depths))
    assert torch.equal(found, berhu(torch.full((2, 3, 4), 2.0), depths))


def test_errors_by_hand():
    """Predictions 2, 2, 2 of 2, 1, 4, and one of an unknown depth."""
    found = evaluate(
        Constant(torch.full((1, 1), 2.0)), [(torch.zeros(1, 3, 4, 4), torch.tensor([[[2.0, 1.0], [4.0, 0.0]]]))]
    )
    assert found["rel"] == pytest.approx((0 + 1 + 0.5) / 3)
    assert found["rms_metres"] == pytest.approx(math.sqrt((0 + 1 + 4) / 3))
    assert found["log10"] == pytest.approx(2 * math.log10(2) / 3)
    assert [found[f"delta{i}"] for i in (1, 2, 3)] == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize(("ratio", "deltas"), [(1.2, (1, 1, 1)), (1.25, (0, 1, 1)), (1.9, (0, 0, 1)), (2, (0, 0, 0))])
def test_deltas_count_ratios_below_powers_of_five_quarters(ratio, deltas):
    for prediction, truth in ((ratio, 1.0), (1.0, ratio)):
        model = Constant(torch.full((2, 2), prediction, dtype=torch.float64))
        found = evaluate(model, [(torch.zeros(1, 3, 4, 4), torch.full((1, 2, 2), truth, dtype=torch.float64))])
        assert tuple(found[f"delta{i}"] for i in (1, 2, 3)) == deltas


def test_errors_against_a_loop_over_pixels_of_all_images_together():
    """Batches of different sizes and images with different numbers of known depths: a pixel is a pixel."""
    generator = torch.Generator().manual_seed(0)
    prediction = 4 * torch.rand(1, 1, 5, 6, generator=generator, dtype=torch.float64) - 0.3
    truths = [6 * torch.rand(n, 5, 6, generator=generator, dtype=torch.float64) - 1 for n in (3, 1)]
    truths = [truth.clamp(min=0) for truth in truths]
    found = evaluate(Constant(prediction), [(torch.zeros(len(truth), 3, 4, 4), truth) for truth in truths])
    flat = torch.cat(truths).flatten().tolist()
    expected = slow_metrics(prediction.flatten().tolist() * 4, flat)
    assert list(found) == [metric.name for metric in Depth.metrics]
    assert list(found.values()) == pytest.approx(expected, rel=1e-12)


def test_predictions_are_enlarged_to_the_truth():
    """Bilinearly, between the middles of places: 1 and 3 become 1, 1.5, 2.5, 3."""
    truth = torch.tensor([[[1.0, 1.5, 2.5, 3.0]]])
    count, rel, *_ = errors(torch.tensor([[[[1.0, 3.0]]]]), truth).tolist()
    assert (count, rel) == (4, 0)


def test_an_evaluation_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 1, 1), nn.BatchNorm2d(1), nn.Dropout()).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, [(torch.randn(2, 3, 4, 4), torch.ones(2, 8, 8))])
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# The task ----------------------------------------------------------------------------------------------------

TINY = Depth(method="snap", sparsity=0.5, width=4, image_width=40, train_size=32, epochs=2)  # 2 x 2 steps


@pytest.fixture(autouse=True, scope="module")
def little():
    """Few rooms, the same for all tests; and no CodeCarbon, which takes seconds to begin."""
    import codecarbon

    def absent(**_):
        raise OSError("not here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codecarbon, "OfflineEmissionsTracker", absent)
        kept = functools.cache(lambda size, depth_size: scenes(size, depth_size, train=64, test=8))
        patch.setitem(DEPTHS, "scenes", lambda _, size, depth_size: kept(size, depth_size))
        yield


def numbers(trained):
    """All that may not depend on having been cut off."""
    return {
        "epochs": [replace(epoch, seconds=0.0) for epoch in trained.epochs],
        "report": repr(trained.report and replace(trained.report, seconds=0.0)),
        "state": {name: dense.bits(tensor) for name, tensor in trained.model.state_dict().items()},
        "samples": {name: dense.bits(tensor) for name, tensor in trained.samples.items()},
        "metrics": trained.columns.metrics,
    }


def test_the_recipes_are_the_papers():
    """Laina et al., 2016: 304x228, 20 epochs, batches of 16, SGD at 1e-2."""
    paper = Depth(data="nyu-depth-v2")
    assert (paper.width, paper.image_size, paper.epochs, paper.batch_size) == (64, (228, 304), 20, 16)
    assert (paper.recipe, paper.learning_rate) == ("paper", 1e-2)
    assert Depth(data="nyu-depth-v2", recipe="usual").learning_rate == Depth().learning_rate == 5e-3


def test_a_recipe_has_its_augmentation():
    for recipe, zoom in (("usual", 1.0), ("paper", 1.5)):
        batches = prepare(replace(TINY, recipe=recipe), None, torch.device("cpu")).batches
        assert (batches.dataset.augmentation.zoom, batches.dataset.augmentation.flip) == (zoom, True)


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "kind"), [("paper", torch.optim.SGD), ("usual", torch.optim.Adam)])
def test_the_rate_is_constant_until_the_cut(recipe, kind, monkeypatch):
    """A budget of 8 epochs of 2 steps, capped at its quarter; then a third of the steps each at 1, 1/2, 1/4."""
    seen = []

    def spied(*args, **options):
        optimizer = kind(*args, **options)
        optimizer.register_step_post_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
        return optimizer

    monkeypatch.setattr(torch.optim, kind.__name__, spied)
    d = replace(TINY, method="earlycrop-s", recipe=recipe, learning_rate=1e-2, epochs=8)
    trained = train(d)
    until = round(2 * trained.report.epoch)
    assert 2 <= until <= 4
    assert seen[:until] == [1e-2] * until
    if recipe == "paper":
        after = 16 - until
        assert seen[until:] == [1e-2 * 0.5 ** (3 * step // after) for step in range(after)]
    else:
        assert seen[-1] < 1e-6 < max(seen[until:])


@pytest.fixture(scope="module")
def trained(little):
    """An trained, and what the pruner was given."""
    with pytest.MonkeyPatch.context() as patch:
        pruner, given = earlycrop.Pruner, {}
        patch.setattr(earlycrop, "Pruner", lambda *args, **options: given.update(options) or pruner(*args, **options))
        return train(TINY), given


def test_a_run_leaves_its_figures_and_samples(trained):
    trained, _ = trained
    data = load("scenes", size=TINY.image_size, depth_size=depth_size(*TINY.image_size))
    assert trained.columns.metrics == evaluate(trained.model, data.test_batches())
    assert trained.epochs[-1].test == trained.columns.metrics["rms_metres"]
    assert trained.columns.weight_sparsity == pytest.approx(0.5, abs=0.02)
    assert trained.columns.optimizer_steps == 4
    assert {name: tuple(tensor.shape) for name, tensor in trained.samples.items()} == {
        "images": (3, 3, 30, 40),
        "truths": (3, 16, 32),
        "predictions": (3, 16, 32),
    }
    assert torch.equal(trained.samples["images"], data.test_images[[0, 3, 7]])


def test_scoring_sees_the_training_split_alone_in_whole_batches(trained):
    """A fifth of the largest error is one of a whole batch, so no batch is cut into parts."""
    _, given = trained
    assert given["scoring"].micro_batch == TINY.batch_size == 16
    data = load("scenes", size=TINY.image_size, depth_size=depth_size(*TINY.image_size)).subset(32)
    training = {image.numpy().tobytes() for image in data.plain(data.train_images)}
    scored = [image.numpy().tobytes() for images, _ in given["scoring"].batches for image in images]
    assert len(set(scored)) == len(scored) == 32
    assert set(scored) == training


@pytest.mark.slow
def test_it_learns():
    """Better than the best constant."""
    trained = train(Depth(method="dense", width=4, image_width=40, epochs=12))
    data = load("scenes", size=(30, 40), depth_size=(16, 32))
    constant = (data.test_depths - data.test_depths.mean()).square().mean().sqrt().item()
    assert trained.columns.metrics["rms_metres"] < constant


@pytest.mark.slow
@pytest.mark.parametrize("method", earlycrop.METHODS)
@pytest.mark.timeout(1200)  # the kernel of all pixels takes minutes, more beside other work
def test_every_method_prunes_it(method):
    if method == "dense":
        assert train(TINY.dense_twin()).report is None
        return
    match earlycrop.get_method(method).timing:
        case AbstractDetector():
            said = {"epochs": 8}
        case AbstractPruningSchedule():
            said = {"epochs": 4, "rounds": 2}
        case _:
            said = {"epochs": 2}
    trained = train(replace(TINY, method=method, **said))
    assert all(math.isfinite(value) for value in trained.columns.metrics.values())
    assert trained.columns.weight_sparsity == pytest.approx(0.5, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "recipe", "backward"), [("earlycrop-s", "paper", 2), ("crop-u", "usual", 4)])
def test_cut_off_it_ends_as_if_it_had_not_been(method, recipe, backward, tmp_path):
    """In its first epoch, and in one after the cut."""
    d = replace(TINY, method=method, recipe=recipe, epochs=5)
    whole = train(d)

    class Cut(BaseException):
        pass

    with pytest.MonkeyPatch.context() as patch:
        original, calls = torch.optim.Optimizer.zero_grad, []

        def counted(*args, **options):
            calls.append(1)
            if len(calls) == 2 * backward:
                raise Cut
            return original(*args, **options)

        patch.setattr(torch.optim.Optimizer, "zero_grad", counted)
        with Checkpoints(tmp_path, of="a test") as checkpoints, pytest.raises(Cut):
            train(d, checkpoints=checkpoints)
    with Checkpoints(tmp_path, of="a test") as checkpoints:
        found = train(d, checkpoints=checkpoints)
        assert checkpoints.attempts == 2
    assert numbers(found) == numbers(whole)


def test_the_command_trains_prunes_draws_and_reports(tmp_path, capsys):
    said = (
        "--task depth --method snap --sparsity 0.5 --width 4 --image-width 40 --train-size 32 --epochs 1 --device cpu"
    )
    assert main(["train", *said.split(), f"--out={tmp_path}"]) == 0
    (folder,) = tmp_path.iterdir()
    assert folder.name == "scenes-fcrn-snap-0.5-train32-width4-epochs1-size40-seed0"
    assert {"samples.png", "progress.png", "result.json"} <= {path.name for path in folder.iterdir()}
    found = read(folder)
    assert found.description == replace(TINY, epochs=1)
    assert "rms error, last epoch" in capsys.readouterr().out
    assert main(["train", *said.split(), f"--out={tmp_path}", "--dry-run"]) == 0
    assert main(["report", str(tmp_path)]) == 0
    assert (tmp_path / "report" / "samples-0.5.svg").exists()
    page = (tmp_path / "report.html").read_text()
    assert "What they see at 50 % sparsity" in page
    assert "img-src data:" in page


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"data": "nyu-depth"}, "Did you mean 'nyu-depth-v2'?"),
        ({"network": "fcn"}, "network cannot be 'fcn'. Did you mean 'fcrn'"),
        ({"recipe": "papre"}, "recipe cannot be 'papre'. Did you mean 'paper'"),
        ({"image_width": 0}, "image_width has to be 1 or more"),
        ({"method": "earlycrop"}, "earlycrop-"),
    ],
)
def test_what_cannot_be_is_refused_at_once(said, message):
    with pytest.raises(ValueError, match=message):
        Depth(**said)


def test_absent_data_are_asked_for(tmp_path):
    with pytest.raises(ValueError, match=r"nyu_depth_v2/splits.mat is missing. Put http"):
        train(Depth(data="nyu-depth-v2"), root=str(tmp_path))
    with pytest.raises(ValueError, match="Use a train size from 1 to 64"):
        train(replace(TINY, train_size=65))


@pytest.mark.data
def test_the_real_pairs_train(data_root):
    d = Depth(data="nyu-depth-v2", method="snap", sparsity=0.5, width=4, image_width=76, train_size=32, epochs=1)
    trained = train(replace(d, max_steps=2), root=str(data_root))
    assert trained.columns.metrics["rms_metres"] > 0
