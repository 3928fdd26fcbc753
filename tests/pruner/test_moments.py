"""When it prunes: looks between epochs, a fixed epoch, learning rates that move, looks that failed."""

import itertools
import warnings
from dataclasses import replace

import pytest

from earlycrop import get_method
from earlycrop.timing import AtEpoch, LazyRegime
from tests import dense
from tests.small import Failing, adam, interrupted, make, momentum, small, train, until_cut


def test_it_may_be_asked_at_every_step():
    net = small()
    optimizer = adam(net)
    method = replace(get_method("earlycrop-u"), timing=LazyRegime(tau=1e-9, interval=0.5, max_epochs=2.5))
    pruner, steps = make(net, optimizer, method), 7
    for step in range(8 * steps):
        if report := pruner.check(step / steps):
            break
        train(net, optimizer, 1)
    assert [check.epoch for check in report.curve] == [4 / 7, 1, 11 / 7, 2, 18 / 7]
    assert (report.epoch, report.reason) == (18 / 7, "cap")
    assert all(a.value != b.value for a, b in itertools.pairwise(report.curve))


def test_at_an_epoch():
    net = small()
    optimizer = adam(net)
    report = until_cut(net, optimizer, make(net, optimizer, replace(get_method("crop-s"), timing=AtEpoch(3))))
    assert (report.epoch, report.reason) == (3, "epoch")


def test_a_learning_rate_that_moves_is_told_once_and_recorded():
    net = small()
    optimizer = momentum(net)
    method = replace(get_method("earlycrop-s"), timing=LazyRegime(tau=1e-9, max_epochs=6))
    pruner, rates, told = make(net, optimizer, method), [], []
    for epoch in range(8):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            report = pruner.check(epoch)
        told += [(epoch, str(one.message)) for one in caught]
        if report:
            break
        train(net, optimizer)
        optimizer.param_groups[0]["lr"] *= 1.0 if epoch < 2 else 0.5
        rates.append(optimizer.param_groups[0]["lr"])
    assert [check.learning_rate for check in report.curve] == rates
    assert len(told) == 1
    assert told[0][0] == 3
    assert "0.05 to 0.025" in told[0][1]


def test_a_constant_learning_rate_is_no_news():
    net = small()
    optimizer = adam(net)
    report = until_cut(net, optimizer, make(net, optimizer))  # warnings are errors
    assert {check.learning_rate for check in report.curve} == {0.01}


@pytest.mark.parametrize("name", ["earlycrop-u-score", "earlycrop-u-ntk"])
def test_a_look_that_failed_can_be_had_again(name):
    net = small()
    optimizer, loss = adam(net), Failing(10**9, interrupted)
    pruner = make(net, optimizer, name, loss=loss)
    pruner.check(1)
    train(net, optimizer)
    loss.after = 0
    before = dense.everything(net, optimizer)
    with pytest.raises(KeyboardInterrupt):
        pruner.check(2)
    assert dense.everything(net, optimizer) == before
    loss.after = 10**9
    pruner.check(2)
    assert [check.epoch for check in pruner.curve] == [2]


def test_an_optimizer_that_comes_later_has_no_rate_to_compare_with():
    net = small()
    pruner = make(net, None, replace(get_method("earlycrop-u"), timing=LazyRegime(tau=1e-9)), epochs=99)
    optimizer = adam(net)
    train(net, optimizer)
    pruner.check(1)
    pruner.optimizer = optimizer
    train(net, optimizer)
    pruner.check(2)
    assert [check.learning_rate for check in pruner.curve] == [None, 0.01]
