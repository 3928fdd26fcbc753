"""Masks: training with them is training a sparse network, entry for entry."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from earlycrop import Method, Pruner
from earlycrop.scores import Random
from earlycrop.steps import OneShot
from earlycrop.timing import AtInit
from earlycrop.units import Weights
from tests import dense
from tests.units.masks import keep_random, network

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam l2": lambda p: torch.optim.Adam(p, lr=0.02, weight_decay=0.01),
    "adam amsgrad": lambda p: torch.optim.Adam(p, lr=0.02, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
}


class Sparse:
    """The same network whose masked weights do not exist: kept ones are a vector of their own."""

    def __init__(self, net: nn.Module, keep: Tensor) -> None:
        self.net = copy.deepcopy(net)
        names = dense.prunable(net)
        parts = keep.split([net.get_parameter(name).numel() for name in names])
        self.masks = {name: part.view(net.get_parameter(name).shape) for name, part in zip(names, parts, strict=True)}
        self.values = {
            name: nn.Parameter(p.detach()[self.masks[name]] if name in self.masks else p.detach().clone())
            for name, p in net.named_parameters()
        }

    def __call__(self, x: Tensor) -> Tensor:
        return functional_call(self.net, self.dense(), (x,))

    def dense(self) -> dict[str, Tensor]:
        tensors = dict(self.values)
        for name, mask in self.masks.items():
            tensors[name] = torch.zeros(mask.shape, dtype=torch.float64).masked_scatter(mask, self.values[name])
        return tensors

    def take_state(self, optimizer, net: nn.Module, mine) -> None:
        for name, parameter in net.named_parameters():
            entries = {}
            for key, value in optimizer.state[parameter].items():
                shaped = isinstance(value, Tensor) and value.shape == parameter.shape
                sliced = value[self.masks[name]] if shaped and name in self.masks else value
                entries[key] = sliced.clone() if isinstance(sliced, Tensor) else sliced
            mine.state[self.values[name]] = entries


def step(model, parameters, optimizer, batch, clip: float | None) -> float:
    optimizer.zero_grad()
    dense.cross_entropy(model, batch).backward()
    norm = nn.utils.clip_grad_norm_(parameters, clip) if clip is not None else 0.0
    optimizer.step()
    return float(norm)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("before", [0, 3])
def test_masked_training_is_sparse_training(name, clip, before):
    """After a dense phase or none: 10 steps with decay, momentum and clipping, against a sparse parametrisation."""
    net, batch = network(), dense.vectors(12)
    optimizer = OPTIMIZERS[name](net.parameters())
    for _ in range(before):
        step(net, list(net.parameters()), optimizer, batch, clip)
    units = Weights().of(net, batch[0], optimizer, ())
    keep = keep_random(net)
    twin = Sparse(net, keep)
    other = OPTIMIZERS[name](twin.values.values())
    if before:
        twin.take_state(optimizer, net, other)
    units.keep_only(keep)
    for _ in range(10):
        mine = step(net, list(net.parameters()), optimizer, batch, clip)
        theirs = step(twin, list(twin.values.values()), other, batch, clip)
        assert mine == pytest.approx(theirs, rel=1e-12)
        for key, value in twin.dense().items():
            parameter = net.get_parameter(key).detach()
            torch.testing.assert_close(parameter, value.detach(), atol=1e-12, rtol=0)
            if key in twin.masks:
                assert not parameter[~twin.masks[key]].any()
                assert not net.get_parameter(key).grad[~twin.masks[key]].any()
    assert any((net.get_parameter(key) != 0).any() for key in twin.masks)


def test_moments_of_what_left_are_gone_and_others_untouched():
    net, batch = network(), dense.vectors(12)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.02)
    for _ in range(3):
        step(net, list(net.parameters()), optimizer, batch, None)
    before = {p: {k: v.clone() for k, v in entries.items()} for p, entries in optimizer.state.items()}
    keep = keep_random(net)
    Weights().of(net, batch[0], optimizer, ()).keep_only(keep)
    masks = Sparse(net, keep).masks
    for name, parameter in net.named_parameters():
        for key, value in optimizer.state[parameter].items():
            mask = masks.get(name) if value.shape == parameter.shape else None
            expected = before[parameter][key] if mask is None else before[parameter][key] * mask
            assert torch.equal(value, expected)


def test_the_forward_pass_is_the_models_own():
    net, batch = network(), dense.vectors(12)
    Weights().of(net, batch[0], None, ()).keep_only(keep_random(net))
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in net.modules())
    assert {type(m) for m in net.modules()} == {nn.Sequential, nn.Linear, nn.Tanh}


def test_zeros_are_zeros_and_not_minus_zeros():
    net, batch = network(), dense.vectors(12)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    keep = keep_random(net)
    Weights().of(net, batch[0], optimizer, ()).keep_only(keep)
    for _ in range(3):
        step(net, list(net.parameters()), optimizer, batch, 1.0)
    for name, mask in Sparse(net, keep).masks.items():
        gone = net.get_parameter(name).detach()[~mask]
        assert not torch.signbit(gone).any()
        assert not gone.any()


class Restless(torch.optim.SGD):
    """An optimizer that moves every weight, with a gradient or without."""

    @torch.no_grad()
    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.add_(0.1)


@pytest.mark.parametrize("optimizer_state", ["slice", "reset"])
def test_weights_stay_zero_whatever_the_optimizer_does(optimizer_state):
    net, batch = network(), dense.vectors(12)
    optimizer = Restless(net.parameters(), lr=0.1, momentum=0.9)
    method = Method("random", Random(), Weights(), AtInit(), OneShot())
    pruner = Pruner(net, method, 0.6, example_inputs=batch[0], optimizer=optimizer, optimizer_state=optimizer_state)
    pruner.check(0)
    gone = {name: net.get_parameter(name) == 0 for name in dense.prunable(net)}
    for _ in range(3):
        step(net, list(net.parameters()), optimizer, batch, None)
    for name, mask in gone.items():
        assert int(mask.sum()) > 0
        assert not net.get_parameter(name)[mask].any()
        assert net.get_parameter(name)[~mask].all()


def test_a_slope_that_is_infinite_at_zero_does_no_harm_there():
    """Σ √|θ| draws weights to zero, and its slope at zero is not finite."""
    net, batch = network(), dense.vectors(12)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    keep = keep_random(net)
    units = Weights().of(net, batch[0], optimizer, ())
    units.keep_only(keep)
    for _ in range(3):
        optimizer.zero_grad()
        penalty = sum(net.get_parameter(name).abs().sqrt().sum() for name in dense.prunable(net))
        (dense.cross_entropy(net, batch) + 0.01 * penalty).backward()
        optimizer.step()
    assert all(torch.isfinite(p).all() and torch.isfinite(p.grad).all() for p in net.parameters())
    assert torch.equal(units.coordinates.values != 0, keep)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_masks_hold_in_every_precision_and_memory_format(dtype):
    net = dense.conv_norm_net().to(dtype=dtype, memory_format=torch.channels_last)
    x = dense.images()[0].to(dtype)
    optimizer = Restless(net.parameters(), lr=0.1)
    units = Weights().of(net, x, optimizer, ())
    keep = keep_random(net)
    units.keep_only(keep)
    net(x).square().mean().backward()
    grads = torch.cat([net.get_parameter(name).grad.reshape(-1) for name in dense.prunable(net)])
    optimizer.step()
    now = torch.cat([net.get_parameter(name).detach().reshape(-1) for name in dense.prunable(net)])
    assert torch.equal(now != 0, keep)
    assert not grads[~keep].any()
    assert grads[keep].count_nonzero() > 0.5 * int(keep.sum())


def test_without_an_optimizer_gradients_alone_hold_the_zeros():
    net, batch = network(), dense.vectors(12)
    keep = keep_random(net)
    units = Weights().of(net, batch[0], None, ())
    units.keep_only(keep)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.02)
    for _ in range(3):
        step(net, list(net.parameters()), optimizer, batch, None)
    assert torch.equal(units.coordinates.values != 0, keep)


@pytest.mark.parametrize("frozen", ["0.weight", "4.weight"])
def test_weights_that_are_thawed_after_the_cut_train_as_sparse_ones(frozen):
    net, batch = network(), dense.vectors(12)
    keep = keep_random(net)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    net.get_parameter(frozen).requires_grad_(False)
    Weights().of(net, batch[0], optimizer, ()).keep_only(keep)
    assert not net.get_parameter(frozen).requires_grad
    step(net, list(net.parameters()), optimizer, batch, 0.05)
    net.get_parameter(frozen).requires_grad_(True)
    for _ in range(2):
        step(net, list(net.parameters()), optimizer, batch, 0.05)
        for name, mask in Sparse(net, keep).masks.items():
            parameter = net.get_parameter(name)
            entries = parameter, parameter.grad, *(v for v in optimizer.state[parameter].values() if v.ndim)
            assert all(not entry[~mask].any() for entry in entries)
            assert parameter.grad.any()


def test_integers_that_no_gradient_reaches_are_masked():
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    net[0].weight = nn.Parameter(torch.ones(3, 4, dtype=torch.int8), requires_grad=False)
    units = Weights().of(net, torch.zeros(1, 4), None, ())
    units.keep_only(torch.arange(18) % 2 == 0)
    assert net[0].weight.tolist() == [[1, 0, 1, 0]] * 3
    assert not net[0].weight.requires_grad


def test_gradients_that_add_up_over_batches_are_masked_too():
    net, batch = network(), dense.vectors(12)
    keep = keep_random(net)
    Weights().of(net, batch[0], None, ()).keep_only(keep)
    for _ in range(2):
        dense.cross_entropy(net, batch).backward()
    for name, mask in Sparse(net, keep).masks.items():
        assert not net.get_parameter(name).grad[~mask].any()


def test_release_lets_them_go():
    net, batch = network(), dense.vectors(12)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    units = Weights().of(net, batch[0], optimizer, ())
    before = dense.everything(net, optimizer)["hooks"]
    units.keep_only(keep_random(net))
    units.release()
    step(net, list(net.parameters()), optimizer, batch, None)
    assert dense.everything(net, optimizer)["hooks"] == before
    assert units.coordinates.leaves(net)[0].all()


def test_parameters_stay_the_same_objects():
    net, batch = network(), dense.vectors(12)
    before = [id(p) for p in net.parameters()]
    Weights().of(net, batch[0], None, ()).keep_only(keep_random(net))
    assert [id(p) for p in net.parameters()] == before
