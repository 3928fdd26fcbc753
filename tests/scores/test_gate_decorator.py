"""What the loss feels of each gate, gathered from training's own steps."""

import pytest
import torch
import torch.nn.functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from earlycrop.errors import EarlyCropError, VerificationError
from earlycrop.structure import Verification, Verifier
from earlycrop.timing import Phase
from tests import dense
from tests.scores.worth import classes
from tests.small import BATCH, make, small, until_cut


def by_gates(net, batch):
    """|∂L/∂c| with c behind each norm, by hooks, for one batch in training mode without dropout."""
    widths = {"norm0": 8, "norm1": 6}
    gates = {name: torch.ones(n, dtype=torch.float64, requires_grad=True) for name, n in widths.items()}
    handles = [
        getattr(net, name).register_forward_hook(lambda _m, _a, out, c=c: out * c.view(1, -1, 1, 1))
        for name, c in gates.items()
    ]
    slopes = torch.autograd.grad(F.cross_entropy(net(batch[0]), batch[1]), list(gates.values()))
    for handle in handles:
        handle.remove()
    return {name: slope.abs() for name, slope in zip(gates, slopes, strict=True)}


def expected_scores(pruner, net, sums):
    """Norm 0 goes with the stem's stream, norm 1 with conv1."""
    scores = torch.zeros(len(pruner.units.structure), dtype=torch.float64)
    for layer, norm in (("stem", "norm0"), ("conv1", "norm1")):
        scores[classes(pruner, layer)] += sums[norm]
    return scores


def test_each_step_adds_its_absolute_value_gated_or_not():
    for gated in (False, True):
        net = small()
        with torch.no_grad():
            for norm in (net.norm0, net.norm1):
                norm.weight.uniform_(-2, 2)
                norm.bias.normal_()
        net.drop.p = 0.0
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        pruner = make(net, optimizer, "gate-decorators")
        pruner._phases.enter(Phase(gated=gated))
        pruner._removal._gathering.reset()
        sums = {"norm0": 0.0, "norm1": 0.0}
        for seed in range(3):
            batch = tuple(part[seed::3] for part in dense.images(36))
            for name, slope in by_gates(net, batch).items():
                sums[name] = sums[name] + slope
            pruner._removal._gathering.reset() if seed == 0 else None  # what the oracle's own pass added
            optimizer.zero_grad()
            dense.cross_entropy(net, batch).backward()
            optimizer.step()
        torch.testing.assert_close(pruner.scores(), expected_scores(pruner, net, sums), atol=1e-12, rtol=0)


def test_before_any_step_it_is_the_slope_on_the_scoring_set():
    net = small().eval()
    pruner = make(net, None, "gate-decorators", bn_mode="running")
    alike = make(small().eval(), None, "snap", bn_mode="running")
    assert torch.isfinite(pruner.scores()).all()
    conv1 = classes(pruner, "conv1")  # with a single creator, where summed and shared gates are the same
    torch.testing.assert_close(pruner.scores()[conv1], alike.scores()[conv1], atol=1e-14, rtol=0)


def test_in_a_tick_layers_stand_still_and_gates_learn():
    net = small()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=0.1)
    pruner = make(net, optimizer, "gate-decorators", sparsity=0.5, epochs=1)  # dense, Tock, Tick, ...
    seen = {}
    for epoch in range(int(pruner.total_epochs)):
        pruner.check(epoch)
        name = pruner._phases.now.name or ("dense" if epoch == 0 else "tune")
        before = {key: p.detach().clone() for key, p in net.named_parameters()}
        net.train()
        optimizer.zero_grad()
        dense.cross_entropy(net, dense.images(24)).backward()
        optimizer.step()
        moved = {key for key, p in net.named_parameters() if not torch.equal(p, before[key])}
        seen.setdefault(name, []).append(moved)
    norms = {"norm0.weight", "norm0.bias", "norm1.weight", "norm1.bias"}
    assert all(moved == norms for moved in seen["tick"])
    assert all(moved > norms for name in ("dense", "tock", "tune") for moved in seen[name])
    assert (len(seen["tick"]), len(seen["tock"])) == (20, 2)
    assert all(type(module) is not None and "Gated" not in type(module).__name__ for module in net.modules())
    assert pruner.report.verification.exact


def test_averages_are_gated_with_the_model():
    """An average that forgets at once is the model, in every regime and after the last cut."""
    net = small()
    net.drop.p = 0.0
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.0), use_buffers=True)
    pruner = make(net, optimizer, "gate-decorators", sparsity=0.5, epochs=1, copies=[ema])
    seen = set()
    for epoch in range(int(pruner.total_epochs)):
        net.train()
        optimizer.zero_grad()
        dense.cross_entropy(net, BATCH).backward()
        optimizer.step()
        ema.update_parameters(net)
        pruner.check(epoch)
        seen.add(pruner._phases.now.name)
        torch.testing.assert_close(ema.module.eval()(BATCH[0]), net.eval()(BATCH[0]), atol=1e-12, rtol=0)
    assert seen == {"", "tick", "tock"}


def planned(pruner, monkeypatch):
    pruner.dry_run()


def undone(pruner, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Verifier, "compare", lambda *_: Verification(0.5, 0.5))
        with pytest.raises(VerificationError):
            pruner._prune(0, "round")


def moved(pruner, monkeypatch):
    pruner.model.float().double()


@pytest.mark.parametrize("what", [planned, undone, moved])
def test_it_goes_on_watching(what, monkeypatch):
    """As one does that begins to watch only then."""
    net = small()
    pruner = make(net, None, "gate-decorators")
    what(pruner, monkeypatch)
    anew = make(net, None, "gate-decorators")
    for _ in range(2):
        dense.cross_entropy(net, BATCH).backward()
    assert pruner._removal._gathering.total is not None
    assert torch.equal(pruner._removal._gathering.total, anew._removal._gathering.total)


def test_sums_follow_a_model_that_moves_between_two_steps():
    net = small()
    net.drop.p = 0.0
    pruner, expected = make(net, None, "gate-decorators"), 0.0
    for dtype in (torch.float64, torch.float32):
        net.to(dtype)
        anew = make(net, None, "gate-decorators", example_inputs=BATCH[0][:2].to(dtype))
        dense.cross_entropy(net, (BATCH[0].to(dtype), BATCH[1])).backward()
        expected = expected + anew._removal._gathering.total
    assert pruner._removal._gathering.total.dtype == torch.float32
    torch.testing.assert_close(pruner._removal._gathering.total, expected.float())


def test_a_backward_pass_that_fails_is_not_mixed_with_the_next():
    net = small()
    pruner = make(net, None, "gate-decorators")
    failing = net.stem.weight.register_hook(lambda slope: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dense.cross_entropy(net, BATCH).backward()
    failing.remove()
    gathering = pruner._removal._gathering
    before, anew = gathering.total, make(net, None, "gate-decorators")
    dense.cross_entropy(net, BATCH).backward()
    torch.testing.assert_close(
        pruner._removal._gathering.total, before + anew._removal._gathering.total, atol=1e-12, rtol=0
    )


def test_norms_that_are_frozen_are_refused_by_name():
    net = small()
    net.norm1.bias.requires_grad_(False)
    with pytest.raises(EarlyCropError, match=r"1 of their parameters are frozen, `norm1\.bias`"):
        make(net, None, "gate-decorators")
    net.norm1.bias.requires_grad_(True)
    pruner = make(net, None, "gate-decorators")
    net.norm0.weight.requires_grad_(False)
    before = dense.everything(net)
    with pytest.raises(EarlyCropError, match=r"`norm0\.weight`"):
        pruner.scores()
    assert dense.everything(net) == before


@pytest.mark.parametrize(("floor", "left"), [({}, 3), ({"min_channels": 1}, 2)])
def test_a_tenth_of_each_dense_layer_stays_through_all_ticks_unless_said_otherwise(floor, left):
    net = small()
    net.conv1, net.norm1 = torch.nn.Conv2d(8, 30, 3, padding=1).double(), torch.nn.BatchNorm2d(30).double()
    net.conv2 = torch.nn.Conv2d(30, 8, 3, padding=1).double()
    torch.nn.init.constant_(net.norm1.weight, 1e-9)  # the lowest of all scores
    pruner = make(net, torch.optim.SGD(net.parameters(), lr=1e-9), "gate-decorators", sparsity=0.9, epochs=1, **floor)
    report = until_cut(net, pruner.optimizer, pruner)
    assert {width.layer: (width.before, width.after) for width in report.widths}["conv1"] == (30, left)
    assert report.weight_sparsity == pytest.approx(0.9, abs=0.02)
