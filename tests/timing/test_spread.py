"""Cuts that are spread over training: when they come, that training goes on between them, and that one may stop."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from earlycrop import METHODS, Method, Pruner, get_method
from earlycrop.scores import Crop
from earlycrop.steps import Bounded, Exponential, Halving, OneShot
from earlycrop.timing import Spread
from earlycrop.units import Channels, Weights
from tests import dense
from tests.pruners import make_pruner
from tests.small import adam, make, momentum, small, through_a_file, train

EPOCHS = 10
ROW = {
    unit: Method(f"spread-{unit}", Crop(), units, Spread(0.1, 0.4), Exponential(4), bn_mode="scaled")
    for unit, units in (("u", Weights()), ("s", Channels()))
}


@pytest.mark.parametrize(
    ("timing", "epochs", "cuts", "moments"),
    [
        (Spread(), 30, 5, [3, 6, 9, 12, 15]),
        (Spread(0.1, 0.4), 10, 4, [1, 2, 3, 4]),
        (Spread(0, 0.5), 4, 3, [0, 1, 2]),
        (Spread(0.25, 0.25), 8, 3, [2, 2, 2]),
        (Spread(0.1, 0.3), 20, 1, [6]),
    ],
)
def test_moments_by_hand(timing, epochs, cuts, moments):
    assert timing.moments(epochs, cuts) == pytest.approx(moments)
    assert timing.total(epochs, cuts) == epochs


@pytest.mark.parametrize(("first", "last"), [(0.3, 0.1), (-0.1, 0.2), (0.5, 1.0)])
def test_parts_of_the_budget_that_cannot_be(first, last):
    with pytest.raises(ValueError, match="parts of the budget"):
        Spread(first, last)


@pytest.mark.parametrize("name", ["crop-u-spread", "crop-s-spread"])
def test_no_epoch_is_added(name):
    assert METHODS[name].total_epochs(EPOCHS, 0.98) == EPOCHS
    assert METHODS[name].timing.moments(EPOCHS, 5) == pytest.approx([1, 2, 3, 4, 5])


def cuts_of(net: nn.Module, optimizer, pruner: Pruner, looks: int = 1) -> list[tuple]:
    """Train the whole budget, looking so often in each epoch; the reports, and the weights before each."""
    found = []
    for look in range(EPOCHS * looks):
        before = net.stem.weight.detach().clone()
        if report := pruner.check(look / looks):
            found.append((report, before, pruner.cuts, pruner.done))
        train(net, optimizer, 1)
    return found


@pytest.mark.parametrize("unit", ["u", "s"])
def test_each_cut_comes_at_its_epoch_and_training_goes_on_between_them(unit):
    net = small()
    optimizer = adam(net)
    pruner = make(net, optimizer, ROW[unit], 0.7, epochs=EPOCHS)
    whole = pruner.units.counts().prunable
    found = cuts_of(net, optimizer, pruner)
    assert [report.epoch for report, *_ in found] == [1, 2, 3, 4]
    assert [cuts for _, _, cuts, _ in found] == [1, 2, 3, 4]
    assert [done for *_, done in found] == [False, False, False, True]
    assert {report.reason for report, *_ in found} == {"round"}
    for number, (report, *_) in enumerate(found, start=1):
        density = 0.3 ** (number / 4)
        assert report.before.prunable == whole  # what earlier cuts removed counts too
        if unit == "u":
            assert report.after.prunable == whole - round(whole * (1 - density))
        else:
            assert report.after.prunable / whole == pytest.approx(density, abs=0.08)  # one class
            assert report.verification.exact
    if unit == "u":
        assert all(not torch.equal(one[1], other[1]) for one, other in pairwise(found))
        masks = pruner.units.masks()
        assert all(not net.get_parameter(name)[~keep].any() for name, keep in masks.items())
    assert pruner.check(EPOCHS) is None


def test_moments_between_two_checks_come_at_the_next_and_together_if_there_are_several():
    net = small()
    optimizer = adam(net)
    pruner = make(net, optimizer, replace(ROW["u"], timing=Spread(0.1, 0.3)), 0.7, epochs=EPOCHS)  # 1, 1⅔, 2⅓, 3
    assert [(report.epoch, cuts) for report, _, cuts, _ in cuts_of(net, optimizer, pruner)] == [(1, 1), (2, 2), (3, 4)]
    net = small()
    optimizer = adam(net)
    pruner = make(net, optimizer, replace(ROW["u"], timing=Spread(0.1, 0.3)), 0.7, epochs=EPOCHS)
    found = [(report.epoch, cuts) for report, _, cuts, _ in cuts_of(net, optimizer, pruner, looks=3)]
    assert found == [(pytest.approx(epoch), cut) for epoch, cut in ((1, 1), (5 / 3, 2), (7 / 3, 3), (3, 4))]


def test_each_cut_is_scored_on_what_is_left_then():
    """An independent course on a small network: dense Hessians, masks kept by hand, the same training."""
    net, batch = dense.mlp(4, 5, 3), dense.vectors(12)
    x = batch[0]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    twin = dense.mlp(4, 5, 3)
    twin.load_state_dict(net.state_dict())
    plain = torch.optim.SGD(twin.parameters(), lr=0.1)
    pruner = make_pruner(
        net, ROW["u"], 0.6, example_inputs=x, loss=dense.cross_entropy, batches=[batch], optimizer=optimizer, epochs=10
    )
    names = dense.prunable(twin)
    keep, cut = torch.ones(35, dtype=torch.bool), 0

    def masked() -> None:
        with torch.no_grad():
            pieces = keep.split([twin.get_parameter(name).numel() for name in names])
            for name, piece in zip(names, pieces, strict=True):
                parameter = twin.get_parameter(name)
                parameter.mul_(piece.view_as(parameter))

    for epoch in range(6):
        pruner.check(epoch)
        if 1 <= epoch <= 4:
            cut += 1
            theta, g, hessian = dense.full_hessian(twin, dense.cross_entropy, batch, names)
            scores = (theta * (hessian @ (g * keep))).abs()
            stays = 35 - round(35 * (1 - 0.4 ** (cut / 4)))
            alive = sorted(keep.nonzero().flatten().tolist(), key=lambda unit: -float(scores[unit]))[:stays]
            keep = torch.zeros(35, dtype=torch.bool)
            keep[alive] = True
            masked()
        assert torch.equal(pruner.units.keep, keep)
        for model, steps in ((net, optimizer), (twin, plain)):
            steps.zero_grad()
            dense.cross_entropy(model, batch).backward()
            steps.step()
        masked()
        for mine, theirs in zip(net.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=0)
    assert pruner.done


@pytest.mark.parametrize("make_optimizer", [adam, momentum])
@pytest.mark.parametrize("unit", ["u", "s"])
def test_going_on_between_two_cuts_is_not_stopping(unit, make_optimizer):
    def one(stops: tuple[int, ...]):
        net = small()
        optimizer = make_optimizer(net)
        pruner = make(net, optimizer, ROW[unit], 0.7, epochs=EPOCHS)
        for epoch in range(6):
            if epoch in stops:
                state = through_a_file({"p": pruner.state_dict(), "n": net.state_dict(), "o": optimizer.state_dict()})
                net = small(seed=20 + epoch)
                optimizer = make_optimizer(net)
                pruner = make(net, optimizer, ROW[unit], 0.7, epochs=EPOCHS)
                pruner.load_state_dict(state["p"])
                net.load_state_dict(state["n"])
                optimizer.load_state_dict(state["o"])
            pruner.check(epoch)
            train(net, optimizer)
        return net, pruner

    (whole, pruner), (found, again) = one(()), one((1, 2, 3, 5))
    assert (pruner.cuts, pruner.done) == (again.cuts, again.done) == (4, True)
    assert torch.equal(pruner.units.keep, again.units.keep)
    assert all(torch.equal(mine, found.state_dict()[name]) for name, mine in whole.state_dict().items())
    assert repr(replace(pruner.report, seconds=0.0)) == repr(replace(again.report, seconds=0.0))


@pytest.mark.parametrize(("steps", "cuts"), [(OneShot(), 1), (Bounded(0.4), 1), (Halving(1), 3), (Exponential(2), 2)])
def test_a_cut_for_each_step_that_has_a_number(steps, cuts):
    """A bound divides a cut further, all at its moment."""
    net = small()
    optimizer = adam(net)
    pruner = make(net, optimizer, replace(ROW["u"], steps=steps), 0.7, epochs=EPOCHS)
    found = cuts_of(net, optimizer, pruner)
    assert pruner.cuts == cuts
    assert [report.epoch for report, *_ in found][-1] == 4  # the last part of the budget in which one cuts
    assert pruner.report.weight_sparsity == pytest.approx(0.7, abs=1e-3)


@pytest.mark.parametrize("unit", ["u", "s"])
def test_the_rows_of_the_table_cut_to_the_widths_of_each_moment(unit):
    """Eight cuts; the last of them leaves what was asked for, as CroP's own ranking would have shared it then."""
    row = get_method(f"crop-{unit}-spread")
    assert len(row.steps.towards(0.98)) == 8
    net = small()
    optimizer = adam(net)
    pruner = make(net, optimizer, row, 0.7, epochs=EPOCHS)
    for look in range(51):
        if pruner.cuts == 7 and look / 10 >= row.timing.moments(EPOCHS, 8)[-1] - 1e-9:
            expected = pruner._removal.widths_of(pruner.units, row.allocation, 0.7)
        pruner.check(look / 10)
        train(net, optimizer, 1)
    assert pruner.done
    layer = pruner.units.layer if unit == "u" else pruner.units.dense.spaces()
    assert torch.equal(torch.bincount(layer[pruner.units.keep], minlength=len(expected)), expected)
    assert pruner.report.weight_sparsity == pytest.approx(0.7, abs=1e-3 if unit == "u" else 0.08)
