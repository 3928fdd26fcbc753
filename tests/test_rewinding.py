"""Lottery tickets: what is left goes back to an early moment, bit for bit."""

from dataclasses import replace

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from earlycrop import METHODS
from earlycrop.steps import Remaining
from tests import dense
from tests.small import adam, make, small, through_a_file, train


def state_of(net):
    return {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}


def rounds(net, optimizer, pruner):
    """Train all rounds; the state after the rewind epoch, and (report, state) right after each cut."""
    early, cuts = None, []
    for epoch in range(int(pruner.total_epochs)):
        report = pruner.check(epoch)
        if report:
            assert not optimizer.state
            cuts.append((report, state_of(net)))
        if early is None and epoch >= pruner.method.timing.to:
            early = state_of(net)
        train(net, optimizer)
    return early, cuts


@pytest.mark.parametrize("name", ["ltr", "imp"])
def test_after_each_round_all_is_as_it_was_but_for_what_left(name):
    net = small()
    optimizer = adam(net)
    pruner = make(net, optimizer, name, sparsity=0.7, epochs=3)
    start = state_of(net)
    early, cuts = rounds(net, optimizer, pruner)
    assert (name == "imp") == all(torch.equal(early[key], start[key]) for key in start)
    prunable = dense.prunable(net)
    whole = sum(net.get_parameter(n).numel() for n in prunable)
    before = {n: torch.ones_like(net.get_parameter(n), dtype=torch.bool) for n in prunable}
    assert len(cuts) == 6
    for number, (report, state) in enumerate(cuts, start=1):
        kept = {n: state[n] != 0 for n in prunable}
        for key, value in state.items():
            if key in kept:
                assert torch.equal(value[kept[key]], early[key][kept[key]])
                assert not bool((kept[key] & ~before[key]).any())  # nothing comes back
            else:
                assert torch.equal(value, early[key])  # biases, norms and their statistics
        assert sum(int(mask.sum()) for mask in kept.values()) == whole - round(whole * (1 - 0.3 ** (number / 6)))
        assert report.reason == "round"
        assert report.before.prunable == whole
        before = kept
    assert pruner.done


def test_the_smallest_of_what_is_left_leave():
    """An independent round: rank |θ| over all layers at the end of the first training."""
    net, twin = small(), small()
    optimizer, plain = adam(net), adam(twin)
    pruner = make(net, optimizer, "ltr", sparsity=0.5, epochs=2)
    for epoch in range(2):
        assert pruner.check(epoch) is None
        train(net, optimizer)
        train(twin, plain)
    pruner.check(2)
    prunable = dense.prunable(twin)
    ranked = sorted(
        ((abs(float(v)), n, i) for n in prunable for i, v in enumerate(twin.get_parameter(n).detach().flatten())),
        reverse=True,
    )
    keep = len(ranked) - round(len(ranked) * (1 - 0.5 ** (1 / 6)))
    expected = {(n, i) for _, n, i in ranked[:keep]}
    found = {(n, int(i)) for n in prunable for i in net.get_parameter(n).detach().flatten().nonzero()}
    assert found == expected


def test_a_fifth_of_what_is_left_each_time():
    """Round r keeps 0.8^r, up to rounding; the last one what was asked for."""
    net = small()
    optimizer = adam(net)
    method = replace(METHODS["ltr"], steps=Remaining(0.2))
    pruner = make(net, optimizer, method, sparsity=0.6, epochs=2)
    _, cuts = rounds(net, optimizer, pruner)
    whole = cuts[0][0].before.prunable
    assert [report.after.prunable for report, _ in cuts] == [
        whole - round(whole * s) for s in (0.2, 0.36, 0.488, 0.5904, 0.6)
    ]


def test_it_goes_on_from_a_state_between_two_rounds():
    def one(stop):
        net = small()
        optimizer = adam(net)
        pruner = make(net, optimizer, "ltr", sparsity=0.6, epochs=2)
        for epoch in range(int(pruner.total_epochs)):
            if epoch == stop:
                kept = through_a_file({"p": pruner.state_dict(), "n": net.state_dict(), "o": optimizer.state_dict()})
                net = small(seed=5)
                optimizer = adam(net)
                pruner = make(net, optimizer, "ltr", sparsity=0.6, epochs=2)
                pruner.load_state_dict(kept["p"])
                net.load_state_dict(kept["n"])
                optimizer.load_state_dict(kept["o"])
            pruner.check(epoch)
            train(net, optimizer)
        return state_of(net), pruner.report

    (whole, report), (found, again) = one(None), one(5)
    assert all(torch.equal(whole[key], found[key]) for key in whole)
    assert again.after == report.after


def test_channels_cannot_be_rewound():
    with pytest.raises(ValueError, match="rewound"):
        replace(METHODS["snap"], timing=METHODS["ltr"].timing)


def test_scores_of_channels_say_so():
    for name in ("earlybird", "efficient-convnets", "gate-decorators"):
        with pytest.raises(ValueError, match="score of channels"):
            replace(METHODS[name], units=METHODS["snip"].units)


def test_averages_are_rewound_too():
    net = small()
    optimizer, average = adam(net), AveragedModel(net)
    pruner = make(net, optimizer, "imp", sparsity=0.5, epochs=2, copies=[average])
    for epoch in range(3):
        if pruner.check(epoch):
            break
        train(net, optimizer)
        average.update_parameters(net)
    assert pruner.cuts == 1
    found, expected = dict(average.module.named_parameters()), dict(net.named_parameters())
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("name", ["imp", "crop-u-spread"])
def test_a_pruner_of_weights_goes_back_to_an_earlier_state(name):
    """From the third cut to the first, and to before any: masks of later cuts are released."""
    net = small()
    optimizer = adam(net)
    pruner = make(net, optimizer, name, sparsity=0.9, epochs=12)
    states = [(pruner.state_dict(), state_of(net), 0.0, 0)]
    for epoch in range(int(pruner.total_epochs)):
        if pruner.check(epoch):
            states.append((pruner.state_dict(), state_of(net), float((~pruner.units.keep).sum()), pruner.cuts))
        if len(states) == 4:
            break
        train(net, optimizer)
    assert len({left for *_, left, _ in states}) == 4
    for state, values, left, cuts in (states[1], states[0]):
        pruner.load_state_dict(state)
        net.load_state_dict(values)
        train(net, optimizer)
        assert float((~pruner.units.keep).sum()) == left
        assert sum(int((net.get_parameter(one) == 0).sum()) for one in pruner.units.names) == left
        assert pruner.cuts == cuts
