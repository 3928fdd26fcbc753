"""The bytes of a network against what is alive while it runs: what autograd saves, and what lives in a forward pass."""

import copy
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from earlycrop.allocation import PerCost
from earlycrop.budget import Budget
from earlycrop.counting import Counter, Memory
from earlycrop.structure import cut, trace
from earlycrop.structure.attempts import some
from earlycrop.units import Channels
from tests import dense
from tests.cases import CASES

EXACT = ["mlp_residual", "chain_with_bias", "lenet_flatten", "resnet", "mobilenet", "densenet", "unet", "resnext"]


def own(net: nn.Module) -> list[Tensor]:
    return [*net.parameters(), *net.buffers()]


def saved_in_training(net: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Parameters, gradients, buffers, inputs and outputs, and what the hooks of autograd see."""
    net = net.train()
    for module in net.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    seen: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        return seen.setdefault(tensor.untyped_storage()._cdata, tensor)

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = net(*inputs)
    for leaf in pytree.tree_leaves((inputs, outputs)):
        pack(leaf)
    mine = {tensor.untyped_storage()._cdata for tensor in own(net)}
    kept = sum(one.untyped_storage().nbytes() for place, one in seen.items() if place not in mine)
    return kept + sum(one.nbytes for one in own(net)) + sum(one.nbytes for one in net.parameters())


class Alive(TorchDispatchMode):
    """Counts the bytes of what operators make while it is alive, after each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {id(leaf) for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, Tensor) and id(leaf) not in given and leaf._base is None and not func.is_view:
                size = leaf.untyped_storage().nbytes()
                self.now += size
                weakref.finalize(leaf, self._freed, size)
        self.most = max(self.most, self.now)
        return result

    def _freed(self, size: int) -> None:
        self.now -= size


def alive_in_inference(net: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    with torch.no_grad(), Alive() as alive:
        net.eval()(*inputs)
    return alive.most + sum(one.nbytes for one in (*own(net), *inputs))


def after_a_cut(name: str, cost: Memory):
    """A network and what is left of it; each with its inputs and the price that the dense one's structure gives."""
    net, inputs = CASES[name].build().double(), CASES[name].inputs()
    structure = trace(net, inputs)
    keep = some(structure, structure.spaces().unique().tolist(), 0)
    counter, smaller = Counter(structure, net), copy.deepcopy(net)
    after = cut(structure, smaller, keep, None)
    assert counter.price(cost, keep) == Counter(after, smaller).price(cost) < counter.price(cost)
    return [(net, inputs, counter.price(cost)), (smaller, inputs, counter.price(cost, keep))]


@pytest.mark.parametrize("name", dense.some_of(EXACT, ["mlp_residual", "mobilenet", "resnet"]))
def test_in_training_it_is_what_autograd_saves(name):
    for net, inputs, price in after_a_cut(name, Memory()):
        assert price == saved_in_training(net, inputs)


class Plain(nn.Module):
    """Values that live for one operator, for several, and until the end; in place, and as views."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(5, 7), nn.Linear(7, 9), nn.Linear(9, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        y = torch.relu_(self.two(x))
        y = self.three(y)
        x = x + y
        return torch.relu(x).unflatten(0, (-1, 2))


def test_in_inference_it_is_what_is_alive():
    for net, inputs in (
        (Plain(), (torch.randn(4, 5),)),
        (dense.mlp(5, 30, 8, 3), (torch.randn(6, 5).double(),)),
    ):
        assert Counter(trace(net, inputs), net).price(Memory("inference")) == alive_in_inference(net, inputs)


@pytest.mark.parametrize("cost", [Memory(), Memory("inference"), Memory(batch=64, states=2)])
@pytest.mark.parametrize("name", dense.some_of(["resnet", "unet", "densenet"], ["resnet"]))
def test_it_never_rises_when_channels_leave(name, cost):
    net, inputs = CASES[name].build().double(), CASES[name].inputs()
    structure = trace(net, inputs)
    counter, keep = Counter(structure, net), torch.ones(len(structure), dtype=torch.bool)
    price = counter.price(cost)
    for one in torch.randperm(len(structure), generator=torch.Generator().manual_seed(1))[:-1].tolist():
        keep[one] = False
        assert counter.price(cost, keep) <= price
        price = counter.price(cost, keep)


def test_a_batch_may_be_larger_than_the_example():
    net = dense.residual_net()
    two, six = (Counter(trace(net, dense.images(n)[0]), net) for n in (2, 6))
    large = two.price(Memory(batch=6))
    norms = 2 * 8 * (4 + 3 + 4)  # means and deviations of the norms in training, which do not grow
    assert abs(large - six.price(Memory())) <= norms * 2
    assert six.price(Memory(states=2)) - six.price(Memory()) == 2 * 8 * sum(p.numel() for p in net.parameters())


def test_what_is_not_trained_has_no_gradient():
    net = dense.mlp(5, 30, 3)
    whole = Counter(trace(net, torch.zeros(2, 5).double()), net).price(Memory())
    net[0].requires_grad_(False)
    frozen = Counter(trace(net, torch.zeros(2, 5).double()), net).price(Memory())
    assert whole - frozen == 8 * (5 * 30 + 30)  # the gradients; the second layer's input is saved in both


def test_a_budget_of_memory_is_met():
    net = dense.residual_net()
    units = Channels().of(net, dense.images()[0], None, ())
    counter, cost = Counter(units.structure, net), Memory(batch=64)
    keep = units.choose(Budget(0.5, target=cost), torch.rand(len(units.keep)), PerCost())
    assert counter.price(cost, keep) / counter.price(cost) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("wrong", [{"when": "testing"}, {"batch": 0}, {"states": -1}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(Exception, match=next(iter(wrong))):
        Memory(**wrong)
