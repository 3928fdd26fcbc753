"""States: going on after a stop is as good as not stopping, states of others are refused, and what a pruner holds."""

import warnings
from dataclasses import replace

import pytest
import torch

from earlycrop import METHODS, get_method
from earlycrop.steps import Exponential
from earlycrop.timing import LazyRegime
from tests import dense
from tests.small import adam, make, momentum, small, through_a_file, train

GOING_ON = {
    "crop-u": get_method("crop-u"),
    "crop-s": get_method("crop-s"),
    "synflow": replace(get_method("synflow"), steps=Exponential(4)),
    "lazy-u": replace(get_method("earlycrop-u"), timing=LazyRegime(tau=1e-9, max_epochs=3)),
    "lazy-s": replace(get_method("earlycrop-s"), timing=LazyRegime(tau=1e-9, max_epochs=3)),
    "lazy-epoch1": replace(
        get_method("earlycrop-u"), timing=LazyRegime(reference="epoch1", params="all", max_epochs=3)
    ),
} | {name: METHODS[name] for name in ("earlycrop-u-rate", "earlycrop-u-score", "earlycrop-u-ntk", "earlycrop-s-score")}


@pytest.mark.parametrize(
    ("name", "make_optimizer"), [*((name, adam) for name in GOING_ON), ("lazy-s", momentum), ("lazy-u", momentum)]
)
def test_going_on_is_not_stopping(name, make_optimizer):
    """Stopped before the cut (or after it, where that is at once) and after it, and gone on with on networks anew."""

    def epoch_of(net, optimizer, pruner, epoch):
        torch.manual_seed(100 + epoch)
        pruner.check(epoch)
        train(net, optimizer)

    net = small()
    optimizer = make_optimizer(net)
    pruner = make(net, optimizer, GOING_ON[name])
    for epoch in range(5):
        epoch_of(net, optimizer, pruner, epoch)
    assert pruner.pruned

    other = small()
    other_optimizer = make_optimizer(other)
    going_on = make(other, other_optimizer, GOING_ON[name])
    for epoch in range(5):
        epoch_of(other, other_optimizer, going_on, epoch)
        if epoch not in (1, 3):
            continue
        state = through_a_file(
            {"pruner": going_on.state_dict(), "model": other.state_dict(), "optimizer": other_optimizer.state_dict()}
        )
        other = small(seed=50 + epoch)
        other_optimizer = make_optimizer(other)
        going_on = make(other, other_optimizer, GOING_ON[name])
        going_on.load_state_dict(state["pruner"])
        other.load_state_dict(state["model"])
        other_optimizer.load_state_dict(state["optimizer"])

    assert {n: dense.bits(t) for n, t in net.state_dict().items()} == {
        n: dense.bits(t) for n, t in other.state_dict().items()
    }
    assert repr(replace(pruner.report, seconds=0.0)) == repr(replace(going_on.report, seconds=0.0))
    assert torch.equal(pruner.units.keep, going_on.units.keep)
    train(other, other_optimizer)
    train(net, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_going_on_between_two_looks():
    method = replace(get_method("earlycrop-u"), timing=LazyRegime(tau=1e-9))
    net = small()
    pruner = make(net, None, method, epochs=99)
    for epoch in (1.2, 1.5, 1.9, 2.1):
        with torch.no_grad():
            net.stem.weight.mul_(1.1)
        pruner.check(epoch)
        if epoch == 1.2:
            going_on = make(net, None, method, epochs=99)
            going_on.load_state_dict(through_a_file(pruner.state_dict()))
        else:
            going_on.check(epoch)
    assert [check.epoch for check in going_on.curve] == [check.epoch for check in pruner.curve] == [1.2, 2.1]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"method": "snap"}, "method"),
        ({"sparsity": 0.5}, "budget"),
        ({"target": "node"}, "budget"),
        ({"seed": 1}, "seed"),
        ({"bn_mode": "batch"}, "bn_mode"),
    ],
)
def test_a_state_of_another_run_is_refused(options, what):
    state = make(small(), None, "crop-s").state_dict()
    net = small()
    pruner = make(net, None, **({"method": "crop-s"} | options))
    before = dense.everything(net)
    with pytest.raises(ValueError, match=what):
        pruner.load_state_dict(state)
    assert dense.everything(net) == before


def test_a_state_of_something_else_is_refused():
    with pytest.raises(ValueError, match="another method"):
        make(small(), None, "crop-s").load_state_dict(small().state_dict())


def test_the_dense_method_has_a_state_too():
    net = small()
    pruner = make(net, adam(net), "dense")
    state = through_a_file(pruner.state_dict())
    twin = make(small(), None, "dense")
    twin.load_state_dict(state)
    assert twin.report is None
    assert twin.done


def test_what_it_holds_beside_the_model_is_told():
    """θ(0) until it prunes, then a mask in truths and in bits; no memory at all for dense."""
    net = small()
    numbers = sum(net.get_parameter(name).numel() for name in dense.prunable(net))
    pruner = make(net, adam(net), replace(get_method("earlycrop-u"), timing=LazyRegime(max_epochs=1)))

    def size() -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in pruner.held())

    assert size() == 8 * numbers + 1  # float64; the mask is one truth yet
    assert pruner.check(1) is not None
    assert size() == (1 + 8) * numbers
    pruner = make(net := small(), adam(net), "dense")
    assert size() == 1
    pruner = make(net := small(), adam(net), "ltr", epochs=4)
    pruner.check(1)
    assert size() == 1 + sum(tensor.untyped_storage().nbytes() for _, tensor in net.state_dict(keep_vars=True).items())


@pytest.mark.parametrize("stopped_after", [1, 2])
def test_a_rate_that_moves_is_warned_of_once_however_often_one_stops(stopped_after):
    """It moves between the looks at 1 and 2 epochs and again before the third."""
    method = replace(get_method("earlycrop-u"), timing=LazyRegime(tau=1e-9))
    net = small()
    optimizer = adam(net)
    pruner = make(net, optimizer, method, epochs=99)
    warned = []
    for epoch in (1, 2, 3):
        train(net, optimizer)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pruner.check(epoch)
        warned += [epoch] * len(caught)
        optimizer.param_groups[0]["lr"] *= 0.5
        if epoch == stopped_after:
            state = through_a_file(pruner.state_dict())
            pruner = make(net, optimizer, method, epochs=99)
            pruner.load_state_dict(state)
    assert warned == [2]


def test_after_the_cut_the_state_holds_nothing_of_the_dense_size():
    net = small()
    pruner = make(net, None, replace(get_method("earlycrop-s"), timing=LazyRegime(max_epochs=1)))
    assert pruner.state_dict()["instrument"]["reference"]
    train(net, adam(net))
    assert pruner.check(1)
    assert pruner.state_dict()["instrument"] is None


def test_a_look_that_saw_infinity_comes_back():
    """JSON's None for what is not a number would come back as nan."""
    net = small()
    pruner = make(net, None, replace(get_method("earlycrop-u"), timing=LazyRegime(max_epochs=1)))
    train(net, adam(net))
    report = pruner.check(1)
    pruner.report = replace(report, curve=(replace(report.curve[0], value=float("inf")),))
    twin = make(small(), None, pruner.method)
    twin.load_state_dict(through_a_file(pruner.state_dict()))
    assert twin.report.curve[0].value == float("inf")
    assert repr(twin.report) == repr(pruner.report)
