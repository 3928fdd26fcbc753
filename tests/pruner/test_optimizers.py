"""The optimizer through a cut: its state is sliced or reset, it holds what is cut, and it may come later."""

import copy

import pytest
import torch
from torch import Tensor

from earlycrop import Pruner
from earlycrop.errors import OptimizerError
from tests import dense
from tests.small import BATCH, adam, make, momentum, small, train


def test_state_that_cannot_be_cut_is_refused_and_reset_is_the_way_out():
    for optimizer_state in ("slice", "reset"):
        net = small().float()
        optimizer = torch.optim.Adafactor(net.parameters(), lr=0.01)
        batch = BATCH[0].float(), BATCH[1]
        pruner = make(
            net, optimizer, "crop-s", batches=[batch], example_inputs=batch[0], optimizer_state=optimizer_state
        )
        dense.cross_entropy(net, batch).backward()
        optimizer.step()
        before = dense.everything(net, optimizer)
        if optimizer_state == "slice":
            with pytest.raises(OptimizerError, match=r"Adafactor(.|\n)*reset"):
                pruner.check(0)
            assert dense.everything(net, optimizer) == before
        else:
            pruner.check(0)
            dense.cross_entropy(net, batch).backward()
            optimizer.step()


@pytest.mark.parametrize("make_optimizer", [adam, momentum])
@pytest.mark.parametrize("name", ["crop-s", "crop-u"])
def test_momentum_is_carried_through_or_forgotten(name, make_optimizer):
    for optimizer_state in ("slice", "reset"):
        net = small()
        optimizer = make_optimizer(net)
        pruner = make(net, optimizer, name, optimizer_state=optimizer_state)
        train(net, optimizer)
        before = {n: dict(optimizer.state[p]) for n, p in net.named_parameters()}
        pruner.check(0)
        if optimizer_state == "reset":
            assert not optimizer.state
        else:
            for n, parameter in net.named_parameters():
                for key, value in optimizer.state[parameter].items():
                    if isinstance(value, Tensor) and value.ndim:
                        assert value.shape == parameter.shape
                        assert set(value.reshape(-1).tolist()) <= {0.0, *before[n][key].reshape(-1).tolist()}
                    else:
                        assert value == before[n][key]
        values = [p.detach().clone() for p in net.parameters()]
        train(net, optimizer, 1)
        assert any(not torch.equal(a, b) for a, b in zip(values, net.parameters(), strict=True))


def test_the_optimizer_must_hold_what_will_be_cut():
    net = small()
    for optimizer in (adam(small()), torch.optim.SGD(net.head.parameters(), lr=0.1)):
        before = dense.everything(net, optimizer)
        with pytest.raises(OptimizerError, match=r"stem\.weight"):
            make(net, optimizer)
        assert dense.everything(net, optimizer) == before
    for name in ("stem", "conv1", "conv2"):
        net.get_submodule(name).requires_grad_(False)
    make(net, torch.optim.SGD(net.head.parameters(), lr=0.1))  # frozen weights need no optimizer


@pytest.mark.parametrize("name", ["crop-s", "crop-u"])
@pytest.mark.parametrize("given", ["before the cut", "after it"])
def test_an_optimizer_that_is_made_later(name, given):
    net = small()
    pruner = make(net, None, name)
    if given == "after it":
        pruner.check(0)
    optimizer = adam(net)
    with pytest.raises(OptimizerError):
        pruner.optimizer = adam(small())
    assert pruner.optimizer is None
    pruner.optimizer = optimizer
    if given == "before the cut":
        train(net, optimizer)
        pruner.check(0)
    expected = pruner.report.after
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1)  # as something else than the gradient may
    train(net, optimizer)
    assert all(v.shape == p.shape for p in net.parameters() for v in optimizer.state[p].values() if v.ndim)
    left = sum(int((net.get_parameter(n) != 0).sum()) for n in dense.prunable(net))
    assert left == expected.prunable


def lbfgs_step(net, x, optimizer):
    def closure():
        optimizer.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)


@pytest.mark.parametrize("method", ["random-s", "random-u"])
def test_an_optimizer_with_a_memory_of_its_own_is_as_good_as_new(method):
    """L-BFGS counts the entries of all parameters once; after a reset it steps as one that was just made."""
    x, net = torch.randn(8, 4), torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=2)
    lbfgs_step(net, x, optimizer)
    pruner = Pruner(net, method, 0.9, example_inputs=x, optimizer=optimizer, optimizer_state="reset")
    pruner.dry_run()
    lbfgs_step(net, x, optimizer)  # what is undone leaves it able to go on
    assert pruner.check(0) is not None
    if method == "random-u":  # the masks keep all shapes
        lbfgs_step(net, x, optimizer)
        assert pruner.harvest().channels
    assert net[0].out_features < 16
    twin = copy.deepcopy(net)
    lbfgs_step(net, x, optimizer)
    if method == "random-s":  # a copy has no masks
        lbfgs_step(twin, x, torch.optim.LBFGS(twin.parameters(), max_iter=2))
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


def test_a_cut_that_fails_leaves_the_count_of_entries_right(monkeypatch):
    x, net = torch.randn(8, 4), torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=2)
    lbfgs_step(net, x, optimizer)
    pruner = Pruner(net, "random-s", 0.5, example_inputs=x, optimizer=optimizer, optimizer_state="reset")
    before = copy.deepcopy(optimizer.state_dict())
    monkeypatch.setattr(pruner.units, "collapsed", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pruner.check(0)
    after = optimizer.state_dict()
    assert after["state"].keys() == before["state"].keys()
    assert after["state"][0]["func_evals"] == before["state"][0]["func_evals"]
    lbfgs_step(net, x, optimizer)
