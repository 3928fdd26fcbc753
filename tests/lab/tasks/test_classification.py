"""The training loop: its schedule, its seeds, what it scores on, what it measures."""

import math
import shutil
from dataclasses import replace

import pytest
import torch

import earlycrop
from earlycrop_lab.data import load
from earlycrop_lab.measure.record import Epoch
from earlycrop_lab.runs import folder_name
from earlycrop_lab.tasks import classification
from earlycrop_lab.tasks.classification import Classification, train
from earlycrop_lab.tasks.description import prunes
from earlycrop_lab.tasks.progress import Silent
from earlycrop_lab.tasks.session import Trained

SMALL = Classification(method="snap", sparsity=0.5, network="mlp", width=32, train_size=256, epochs=4)  # 4 x 4 steps
STEPS = 4


@pytest.fixture(autouse=True)
def no_power_meter(monkeypatch):
    """CodeCarbon takes seconds to begin; it has tests of its own."""
    import codecarbon

    def absent(**_):
        raise OSError("not here")

    monkeypatch.setattr(codecarbon, "OfflineEmissionsTracker", absent)


def one_cycle(step: int, steps: int, peak: float = 2e-3) -> float:
    """One-Cycle's learning rate at a step, from its definition: cosine from peak/25 up to 30 %, down to peak/25e4."""
    top, end = 0.3 * steps - 1, steps - 1
    if step <= top:
        low, part = peak / 25, step / top
    else:
        low, part = peak / 25 / 1e4, (end - step) / (end - top)
    return low + (peak - low) * (1 - math.cos(math.pi * part)) / 2


def test_the_oracle_has_the_values_of_one_cycle():
    """8e-5, 2e-3 (step 299) and 8e-9 at the first step, at 30 % and at the last of 1000."""
    assert one_cycle(0, 1000) == pytest.approx(8e-5)
    assert one_cycle(299, 1000) == pytest.approx(2e-3)
    assert one_cycle(999, 1000) == pytest.approx(8e-9)


def test_the_library_schedule_has_them_too_and_cycles_beta1():
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=2e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=1000)
    seen = []
    for _ in range(1000):
        seen.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"][0]))
        optimizer.step()
        scheduler.step() if len(seen) < 1000 else None
    assert [rate for rate, _ in seen] == pytest.approx([one_cycle(step, 1000) for step in range(1000)])
    assert [seen[step][1] for step in (0, 299, 999)] == pytest.approx([0.95, 0.85, 0.95])


class Watcher(Silent):
    """Notes the learning rate of every step, and everything it is told."""

    def __init__(self, monkeypatch):
        self.rates: list[float] = []
        self.cuts: list[earlycrop.Report] = []
        self.epochs: list[Epoch] = []
        adam = torch.optim.Adam

        def spied(*args, **options):
            self.optimizer = adam(*args, **options)
            self.optimizer.register_step_post_hook(lambda o, *_: self.rates.append(o.param_groups[0]["lr"]))
            return self.optimizer

        monkeypatch.setattr(torch.optim, "Adam", spied)

    def begin(self, epochs, steps, done):
        self.planned = (epochs, steps)

    def step(self):
        self.steps = getattr(self, "steps", 0) + 1

    def cut(self, report):
        self.cuts.append(report)

    def epoch(self, epoch, figures):
        self.epochs.append(Epoch(epoch=epoch, **figures))


@pytest.mark.parametrize("method", ["dense", "snap", "snip"])
def test_without_a_dense_phase_one_cycle_runs_from_the_first_step(monkeypatch, method):
    watcher = Watcher(monkeypatch)
    description = SMALL.dense_twin() if method == "dense" else replace(SMALL, method=method)
    trained = train(description, progress=watcher)
    assert watcher.rates == pytest.approx([one_cycle(step, 16) for step in range(16)])
    assert watcher.planned == (4, STEPS)
    assert watcher.steps == trained.columns.optimizer_steps == 16
    assert watcher.epochs == trained.epochs
    assert [e.epoch for e in trained.epochs] == [1, 2, 3, 4]
    assert [e.first_learning_rate for e in trained.epochs] == watcher.rates[::4]
    assert [e.learning_rate for e in trained.epochs] == watcher.rates[3::4]
    assert {e.phase for e in trained.epochs} == {"dense" if method == "dense" else "sparse"}


def test_the_rate_is_constant_until_the_cut_and_then_cycles_over_what_remains(monkeypatch):
    """A budget of 8 epochs of 4 steps, capped at its quarter: 8 steps at 2e-3, then One-Cycle over the other 24."""
    watcher = Watcher(monkeypatch)
    trained = train(replace(SMALL, method="earlycrop-s", epochs=8), progress=watcher)
    (report,) = watcher.cuts
    assert trained.report == report
    dense = round(report.epoch) * STEPS
    assert 4 <= dense <= 8
    assert watcher.rates[:dense] == [2e-3] * dense
    assert watcher.rates[dense:] == pytest.approx([one_cycle(step, 32 - dense) for step in range(32 - dense)])
    assert [e.phase for e in trained.epochs] == ["dense"] * round(report.epoch) + ["sparse"] * (8 - round(report.epoch))
    assert [check.learning_rate for check in report.curve] == [2e-3] * len(report.curve)


@pytest.mark.parametrize("method", ["dense", "snap", "earlycrop-s"])
def test_the_rate_may_stay_constant(monkeypatch, method):
    watcher = Watcher(monkeypatch)
    description = SMALL.dense_twin() if method == "dense" else replace(SMALL, method=method)
    train(replace(description, schedule="constant", epochs=8), progress=watcher)
    assert watcher.rates == [2e-3] * 32


@pytest.mark.parametrize("state", ["slice", "reset"])
def test_the_optimizer_may_forget_at_the_cut(monkeypatch, state):
    watcher, known = Watcher(monkeypatch), []
    monkeypatch.setattr(watcher, "cut", lambda _: known.append(len(watcher.optimizer.state)))
    trained = train(replace(SMALL, method="earlycrop-s", epochs=8, optimizer_state=state), progress=watcher)
    (left,) = known
    assert left == (0 if state == "reset" else sum(1 for _ in trained.model.parameters()))


def test_the_floor_is_the_methods_own_unless_said_otherwise():
    ours = Classification(method="gate-decorators")
    floors = {None: ours, 3: replace(ours, min_channels=3), 0.2: replace(ours, min_part=0.2)}
    assert {each.floor: each for each in floors.values()} == floors


def test_efficient_convnets_may_cut_within_one_training(monkeypatch):
    watcher = Watcher(monkeypatch)
    trained = train(replace(SMALL, method="efficient-convnets", prune_at=2.0), progress=watcher)
    (report,) = watcher.cuts
    assert (report.reason, report.epoch, len(trained.epochs)) == ("epoch", 2.0, 4)
    assert watcher.rates[:8] == [2e-3] * 8
    assert watcher.rates[8:] == pytest.approx([one_cycle(step, 8) for step in range(8)])


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train(replace(SMALL, method="earlycrop-s", epochs=8))


def test_the_accuracy_is_of_the_last_epoch_and_of_the_model_that_is_kept(trained):
    assert trained.columns.metrics["test_accuracy"] == trained.epochs[-1].test
    data = load("digits")
    hits = (trained.model.eval()(data.plain(data.test_images)).argmax(1) == data.test_labels).float().mean()
    assert trained.columns.metrics["test_accuracy"] == pytest.approx(hits.item())


def test_it_learns():
    trained = train(Classification(method="dense", network="mlp", epochs=5, learning_rate=1e-2))
    assert trained.columns.metrics["test_accuracy"] > 0.8  # chance is 0.1
    assert trained.epochs[-1].train > 0.8


def test_the_columns_agree_with_the_model_and_the_report(trained):
    columns, report = trained.columns, trained.report
    assert columns.parameters_after == sum(p.numel() for p in trained.model.parameters()) == report.after.params
    assert columns.weight_sparsity == report.weight_sparsity == pytest.approx(0.5, abs=0.05)
    weights = [p for p in trained.model.parameters() if p.ndim == 2]
    assert columns.flops_after == 2 * sum(w.numel() for w in weights)
    assert columns.flops_after < columns.flops_before
    assert columns.optimizer_steps == 32
    assert columns.dense_memory_bytes > columns.sparse_memory_bytes > 0
    assert columns.sparse_steps_timed == 4 * (8 - round(report.epoch)) - 1 - 5  # one was watched, five were warming up
    seconds = columns.dense_seconds + columns.scoring_seconds + columns.sparse_seconds
    assert columns.seconds == seconds == pytest.approx(trained.epochs[-1].seconds)


def test_a_dense_run_counts_itself():
    columns = train(SMALL.dense_twin()).columns
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Linear(32, 32), torch.nn.Linear(32, 10))
    weights = 64 * 32 + 32 * 32 + 32 * 10
    assert columns.flops_before == columns.flops_after == 2 * weights
    assert columns.parameters_before == columns.parameters_after >= sum(p.numel() for p in model.parameters())
    assert columns.weight_sparsity is columns.node_sparsity is columns.sparse_step_milliseconds is None
    assert columns.sparse_seconds == 0


def test_a_seed_repeats_a_run_and_another_does_not(trained):
    def numbers(found):
        return [(e.loss, e.test) for e in found.epochs]

    again = train(replace(SMALL, method="earlycrop-s", epochs=8))
    assert numbers(again) == numbers(trained)
    assert all(map(torch.equal, again.model.state_dict().values(), trained.model.state_dict().values()))
    other = train(replace(SMALL, method="earlycrop-s", epochs=8, seed=1))
    assert numbers(other) != numbers(trained)


def test_a_pruned_run_and_its_twin_start_and_train_alike(trained):
    """The first epoch of the dense phase differs from the twin's in its learning rate alone."""
    same_rate = train(replace(SMALL, method="earlycrop-u", epochs=8))
    assert same_rate.epochs[0].loss == trained.epochs[0].loss


def test_scoring_sees_the_training_split_alone(monkeypatch):
    seen = []
    pruner = earlycrop.Pruner

    def spied(*args, **options):
        seen.extend(options["scoring"].batches)
        return pruner(*args, **options)

    monkeypatch.setattr(earlycrop, "Pruner", spied)
    train(replace(SMALL, epochs=1))
    data = load("digits").subset(256)
    training = {image.numpy().tobytes() for image in data.plain(data.train_images)}
    scored = {image.numpy().tobytes() for images, _ in seen for image in images}
    assert len(scored) > 200
    assert scored <= training


@pytest.mark.parametrize("method", ["dense", "snap", "earlycrop-s"])
def test_a_smoke_run_takes_so_many_steps_an_epoch_and_is_no_result(method, monkeypatch):
    cut = {} if method == "dense" else {"sparsity": 0.5}
    smoke = Classification(method=method, network="mlp", width=16, batch_size=32, epochs=8, max_steps=2, **cut)
    scored = []
    pruner = earlycrop.Pruner

    def spied(*args, **options):
        scored.append(sum(len(y) for _, y in options["scoring"].batches))
        return pruner(*args, **options)

    monkeypatch.setattr(earlycrop, "Pruner", spied)
    evaluated = []
    monkeypatch.setattr(
        classification, "accuracy", lambda model, batches: evaluated.append(sum(len(y) for _, y in batches)) or 0.5
    )
    trained = train(smoke)
    assert trained.columns.optimizer_steps == 8 * 2
    assert scored == [64]
    assert evaluated == [64] * 8
    assert "-smoke2-" in folder_name(smoke)


def test_a_loss_that_is_not_finite_is_an_error(monkeypatch):
    monkeypatch.setattr(classification.F, "cross_entropy", lambda *_: torch.tensor(math.nan, requires_grad=True))
    with pytest.raises(ValueError, match="The loss is nan in epoch 1: try a smaller --learning-rate"):
        train(replace(SMALL.dense_twin(), epochs=1))


def test_a_network_that_cannot_take_the_images_says_the_least_size():
    with pytest.raises(ValueError, match="The least is 32x32"):
        train(Classification(method="snap", data="digits", network="vgg16", image_size=16, train_size=100, epochs=1))


def test_evaluation_leaves_the_mode_and_counts_every_image():
    model = torch.nn.Flatten()
    model.train()
    one_hot = torch.eye(4).view(4, 4, 1)
    batches = [(one_hot[:3], torch.tensor([0, 1, 0])), (one_hot[3:], torch.tensor([3]))]
    assert classification.accuracy(model, batches) == 0.75
    assert model.training


def test_only_dense_never_prunes():
    assert [name for name, method in earlycrop.METHODS.items() if not prunes(method)] == ["dense"]


CONVOLUTIONS = Classification(
    method="crop-s", prune_at=1.0, sparsity=0.5, network="cnn", width=8, train_size=512, epochs=3, batch_size=128
)


def test_steps_in_bfloat16_with_channels_last(monkeypatch):
    """Steps compute in bfloat16 on kernels with the channels innermost, before and after the cut; scores in float32."""
    seen = set()
    conv = torch.nn.Conv2d.forward

    def spied(layer, x):
        out = conv(layer, x)
        innermost = layer.weight.is_contiguous(memory_format=torch.channels_last)
        seen.add((torch.is_autocast_enabled("cpu"), out.dtype, innermost))
        return out

    monkeypatch.setattr(torch.nn.Conv2d, "forward", spied)
    trained = train(replace(CONVOLUTIONS, precision="bfloat16", channels_last=True))
    assert {(True, torch.bfloat16, True), (False, torch.float32, True)} <= seen
    assert all(innermost for *_, innermost in seen)
    assert trained.report.verification.exact
    assert {p.dtype for p in trained.model.parameters()} == {torch.float32}
    plain = train(CONVOLUTIONS)
    assert trained.epochs[0].loss == pytest.approx(plain.epochs[0].loss, rel=0.01)
    assert trained.epochs[0].loss != plain.epochs[0].loss


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_steps_are_the_same_steps():
    """Compiled before the cut and again after it."""
    compiled, plain = train(replace(CONVOLUTIONS, compiled=True)), train(CONVOLUTIONS)
    assert [each.loss for each in compiled.epochs] == pytest.approx([each.loss for each in plain.epochs], rel=1e-3)
    assert compiled.report.widths == plain.report.widths
