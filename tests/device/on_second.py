"""What runs on the second device, in a process of its own: see `test_second.py`.

Its operators are the CPU's, so what comes out must be what the CPU gives.
"""

import copy
import re
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from earlycrop import BudgetError, Pruner, Report, load, save
from earlycrop.units.weights import WeightUnits
from tests import dense
from tests.cases import CASES
from tests.device.second import KIND, device
from tests.oracles import make_unique
from tests.small import BATCH, PRUNING, make, momentum, small
from tests.structure.test_zoo import QUICK

QUICKEST = ("random-s", "crop-s", "earlycrop-s", "crop-u", "earlycrop-u", "synflow", "ntk-sap", "px", "earlybird")
CPU, SECOND = torch.device("cpu"), device()  # before anything asks PyTorch which devices there are


def on(where: torch.device, batch):
    return tuple(tensor.to(where) for tensor in batch)


def same(net: nn.Module, other: nn.Module) -> bool:
    ours, theirs = net.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(close(ours[name].cpu(), theirs[name].cpu()) for name in ours)


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-9, atol=1e-12)


def told(report: Report) -> str:
    """Its first line without the seconds."""
    return re.sub(r"[\d.]+ s,", "", str(report).splitlines()[0])


def kinds(tensors) -> set[str]:
    return {tensor.device.type for tensor in tensors}


def test_tensors_of_two_devices_do_not_meet():
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(2, device=SECOND) + torch.ones(2)
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(2, 2, device=SECOND).masked_fill(torch.ones(2, 2, dtype=torch.bool), 0)
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(2)[torch.zeros(1, dtype=torch.long, device=SECOND)]


def step(net: nn.Module, optimizer, where: torch.device) -> None:
    optimizer.zero_grad()
    dense.cross_entropy(net, on(where, BATCH)).backward()
    optimizer.step()


def pruned(name: str, born: torch.device, goes: torch.device) -> tuple[nn.Module, Pruner]:
    """A network after its last cut and a step; it moves once its pruner was made."""
    net = small().to(born)
    net.drop.p = 0.0  # the devices draw different masks
    optimizer = momentum(net)
    pruner = make(net, optimizer, name, loss=lambda m, b: dense.cross_entropy(m, on(m.head.weight.device, b)))
    net.to(goes).train()
    for epoch in range(9):
        if pruner.check(epoch) and pruner.done:
            break
        step(net, optimizer, goes)
    assert pruner.pruned
    step(net, optimizer, goes)
    return net, pruner


METHODS = [
    pytest.param(name, marks=[] if name in QUICKEST else [pytest.mark.slow])
    for name in PRUNING
    if name != "gate-decorators"  # it is asked at steps
]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "moves", [pytest.param(False, marks=pytest.mark.slow), True], ids=["born there", "moves there"]
)
def test_every_method_leaves_what_it_leaves_on_the_cpu(name, moves):
    ours, pruner = pruned(name, CPU if moves else SECOND, SECOND)
    theirs, other = pruned(name, CPU, CPU)
    assert same(ours, theirs)
    assert kinds(ours.state_dict().values()) == {KIND}
    assert told(pruner.report) == told(other.report)
    if isinstance(pruner.units, WeightUnits):
        assert all(not ours.get_parameter(key)[~keep].any() for key, keep in pruner.units.masks().items())


@pytest.mark.parametrize("name", ["crop-s", "crop-u"])
def test_a_network_that_comes_back_after_the_cut(name):
    net, pruner = pruned(name, SECOND, SECOND)
    net.to(CPU)
    optimizer = momentum(net)
    step(net, optimizer, CPU)
    if isinstance(pruner.units, WeightUnits):
        assert all(not net.get_parameter(key)[~keep].any() for key, keep in pruner.units.masks().items())


@pytest.mark.parametrize("name", ["crop-s", "crop-u"])
def test_files_go_between_devices(name, tmp_path):
    net, _ = pruned(name, SECOND, SECOND)
    save(net, tmp_path / "small.safetensors")
    for where in (CPU, SECOND):
        other = small(seed=2).to(where)
        load(other, tmp_path / "small.safetensors")
        assert same(net, other)
        assert kinds(other.state_dict().values()) == {where.type}
    other = small(seed=2)
    load(other, tmp_path / "small.safetensors", device=SECOND)
    assert kinds(other.state_dict().values()) == {KIND}


@pytest.mark.parametrize("name", ["earlycrop-s", "earlycrop-u"])
def test_a_state_goes_between_devices(name):
    net, pruner = pruned(name, SECOND, SECOND)
    other, _ = pruned(name, CPU, CPU)
    fresh = small(seed=2)
    again = make(fresh, momentum(fresh), name)
    again.load_state_dict(copy.deepcopy(pruner.state_dict()))
    fresh.load_state_dict(net.state_dict())
    assert same(fresh, other)
    assert again.report == pruner.report


@contextmanager
def room(size: int):
    """No more than this many bytes are free on the second device."""
    before = torch.ops.second.limit(size)
    try:
        yield
    finally:
        torch.ops.second.limit(before - size + torch.ops.second.limit(0))


@pytest.mark.parametrize("name", ["crop-s-poster", "crop-u-poster"])
def test_batches_are_as_large_as_memory_allows_and_scores_the_same(name):
    sizes = []

    def loss(model, batch):
        if torch.is_grad_enabled():
            sizes.append(len(batch[1]))
        return dense.cross_entropy(model, batch)

    def scores():
        sizes.clear()
        net = small().to(SECOND)
        return make(net, momentum(net), name, loss=loss, batches=[on(SECOND, BATCH)]).scores()

    expected = scores()
    whole = len(BATCH[1])
    assert set(sizes) == {whole}
    with room(100_000):
        found = scores()
    assert sizes[-1] < whole // 2
    assert sizes[0] == whole
    assert close(found.cpu(), expected.cpu())
    with room(60_000), pytest.raises(torch.OutOfMemoryError):
        scores()


def of_zoo(name: str, where: torch.device) -> tuple[nn.Module, str]:
    """A network of the zoo after a cut, and what is said of it."""
    torch.manual_seed(0)
    net, inputs = make_unique(CASES[name].build()).to(where), on(where, CASES[name].inputs())
    net(*inputs)
    try:
        report = Pruner(net, "random-s", 0.3, example_inputs=inputs).check(0)
    except BudgetError as error:  # not so much can leave
        return net, str(error)
    net(*inputs)
    return net, told(report)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if number % 24 else [])
        for number, name in enumerate(QUICK)
        if not name.startswith("spectrum")  # its Fourier transforms are not the CPU's
    ],
)
@pytest.mark.filterwarnings("ignore::earlycrop.reach.ReachWarning")
def test_networks_are_cut_as_on_the_cpu(name):
    if not computes(name):
        pytest.skip("the network itself does not compute there")
    ours, said = of_zoo(name, SECOND)
    theirs, expected = of_zoo(name, CPU)
    assert same(ours, theirs)
    assert said == expected
    assert kinds(ours.state_dict().values()) <= {KIND}


def computes(name: str) -> bool:
    """Whether a network itself computes there: some make tensors on the CPU, or use kernels that only CUDA has."""
    try:
        make_unique(CASES[name].build()).to(SECOND)(*on(SECOND, CASES[name].inputs()))
    except (NotImplementedError, RuntimeError, UserWarning):
        return False
    return True
