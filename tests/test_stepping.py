"""Masks and cuts under whatever way of stepping: no optimizer given, wrapped ones, several at once."""

import copy
import gc

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from earlycrop import EarlyCropError, OptimizerError, Pruner, load, save
from tests import dense
from tests.pruners import make_pruner

BATCH = dense.vectors(12)


def mlp() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)).double()


def pruner_of(net: nn.Module, optimizer=None, method="magnitude-u", sparsity=0.6, **options) -> Pruner:
    return make_pruner(net, method, sparsity, example_inputs=BATCH[0], optimizer=optimizer, **options)


def train(net: nn.Module, *optimizers, steps: int = 3) -> None:
    for _ in range(steps):
        for one in optimizers:
            one.zero_grad()
        dense.cross_entropy(net, BATCH).backward()
        for one in optimizers:
            one.step()


def returned(pruner: Pruner) -> int:
    """Masked weights that are not zero."""
    masks = pruner.units.masks().items()
    return sum(int((pruner.model.get_parameter(name)[~keep] != 0).sum()) for name, keep in masks)


class Wrapped:
    """An optimizer inside an object that is none, as libraries have them."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner = inner

    def zero_grad(self) -> None:
        self.inner.zero_grad()

    def step(self) -> None:
        self.inner.step()


class SharpnessAware(torch.optim.Optimizer):
    """Up to the worst point nearby, then a step of another optimizer from where it came (Foret et al., 2021)."""

    def __init__(self, parameters) -> None:
        super().__init__(parameters, {})
        self.base = torch.optim.Adam(self.param_groups, lr=0.01)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def up(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["up"] = 0.05 * parameter.grad
                parameter.add_(self.state[parameter]["up"])

    @torch.no_grad()
    def down(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(self.state[parameter]["up"])
        self.base.step()


@pytest.mark.parametrize("wrap", [lambda inner: inner, Wrapped])
@pytest.mark.parametrize("make", [lambda p: torch.optim.Adam(p, lr=0.01), lambda p: torch.optim.SGD(p, 0.1, 0.9)])
def test_masks_hold_though_the_pruner_knows_no_optimizer(make, wrap):
    """Its moments from before the cut would move masked weights for many steps."""
    net = mlp()
    inner = make(net.parameters())
    optimizer = wrap(inner)
    train(net, optimizer)
    pruner = pruner_of(net)
    pruner.check(0)
    for _ in range(3):
        train(net, optimizer, steps=1)
        assert returned(pruner) == 0
    for name, keep in pruner.units.masks().items():
        for value in inner.state[net.get_parameter(name)].values():
            if isinstance(value, torch.Tensor) and value.shape == keep.shape:
                assert not bool(value[~keep].any())


def test_masks_hold_under_two_step_optimizers():
    net = mlp()
    optimizer = SharpnessAware(net.parameters())
    pruner = pruner_of(net, optimizer)
    for step in range(6):
        if step == 3:
            pruner.check(0)
        for move in (optimizer.up, optimizer.down):
            optimizer.zero_grad()
            dense.cross_entropy(net, BATCH).backward()
            move()
    assert pruner.pruned
    assert returned(pruner) == 0


def test_an_optimizer_of_another_model_is_left_alone():
    net, other = mlp(), mlp()
    pruner = pruner_of(net)
    pruner.check(0)
    optimizer = torch.optim.SGD(other.parameters(), 0.1, 0.9)
    expected = mlp()
    train(other, optimizer)
    train(expected, torch.optim.SGD(expected.parameters(), 0.1, 0.9))
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), expected.parameters(), strict=True))


def test_a_pruner_that_is_gone_masks_nothing_and_is_not_kept_alive():
    import gc
    import weakref

    net = mlp()
    pruner = pruner_of(net)
    pruner.check(0)
    units = weakref.ref(pruner.units)
    del pruner
    gc.collect()
    assert units() is None
    train(net, torch.optim.SGD(net.parameters(), 0.1))


def two(net: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for a matrix between, AdamW for the rest; before PyTorch 2.9, which has no Muon, a plain momentum."""
    between = net[2].weight
    rest = [parameter for parameter in net.parameters() if parameter is not between]
    muon = getattr(torch.optim, "Muon", lambda these, lr: torch.optim.SGD(these, lr, momentum=0.9))
    return [muon([between], lr=0.02), torch.optim.AdamW(rest, lr=1e-3)]


@pytest.mark.parametrize("method", ["magnitude-u", "magnitude-s"])
def test_two_optimizers_are_cut_and_masked_as_each_alone_would_be(method):
    net = mlp()
    optimizers = two(net)
    train(net, *optimizers)
    before = [{p: copy.deepcopy(state) for p, state in one.state.items()} for one in optimizers]
    pruner = pruner_of(net, optimizers, method, 0.5)
    pruner.check(0)
    if method == "magnitude-u":
        assert returned(pruner) == 0
    for one, states in zip(optimizers, before, strict=True):
        for parameter, state in states.items():
            for key, value in state.items():
                now = one.state[parameter][key]
                if isinstance(value, torch.Tensor) and value.ndim:
                    assert now.shape == parameter.shape
                    assert set(now.flatten().tolist()) <= {*value.flatten().tolist(), 0.0}
    train(net, *optimizers)
    assert method == "magnitude-s" or returned(pruner) == 0


def test_a_cut_that_fails_puts_the_state_of_both_back():
    net = mlp()
    optimizers = two(net)
    train(net, *optimizers)
    pruner = pruner_of(net, optimizers, "magnitude-s", 0.5)
    before = [dense.everything(net, one) for one in optimizers]
    pruner.units.proof = lambda: (lambda: 1 / 0, None)
    with pytest.raises(ZeroDivisionError):
        pruner.check(0)
    assert [dense.everything(net, one) for one in optimizers] == before


@pytest.mark.parametrize("wrap", [lambda inner: inner, Wrapped])
def test_an_optimizer_that_was_forgotten_is_named_at_its_next_step(wrap):
    net = mlp()
    inner = torch.optim.Adam(net.parameters())
    train(net, inner)
    pruner = pruner_of(net, None, "magnitude-s", 0.5)
    pruner.check(0)
    with pytest.raises(OptimizerError, match=r"Adam still has the state of the network before the cut.*`0.weight`"):
        train(net, wrap(inner), steps=1)
    fresh = torch.optim.Adam(net.parameters())
    train(net, fresh)


def test_optimizers_that_lack_a_weight():
    net = mlp()
    with pytest.raises(OptimizerError, match=r"None of the optimizers holds 1 of .* `2.weight` first"):
        pruner_of(net, two(net)[1:] * 2)


def test_what_is_no_attribute_cannot_be_set():
    pruner = pruner_of(mlp())
    with pytest.raises(AttributeError, match="Did you mean 'copies'"):
        pruner.copy = ()
    twin = copy.deepcopy(pruner.model)
    pruner.copies = [twin]
    pruner.check(0)
    assert int((twin[0].weight == 0).sum()) == int((pruner.model[0].weight == 0).sum()) > 0


def test_a_masked_model_that_is_loaded_and_trained_on_without_its_pruner(tmp_path):
    net = mlp()
    pruner = pruner_of(net)
    pruner.check(0)
    save(net, tmp_path / "net")
    alone, beside = mlp(), mlp()
    load(alone, tmp_path / "net")
    with pytest.warns(UserWarning, match=r"weights of a loaded model that were zero .* step of SGD"):
        train(alone, torch.optim.SGD(alone.parameters(), 0.1), steps=1)
    train(alone, torch.optim.SGD(alone.parameters(), 0.1), steps=1)  # once is enough
    held = pruner_of(beside)
    held.load_state_dict(pruner.state_dict())
    load(beside, tmp_path / "net")
    train(beside, torch.optim.SGD(beside.parameters(), 0.1))
    assert returned(held) == 0


def test_epochs_that_are_plainly_steps():
    with pytest.warns(UserWarning, match="looks like a number of steps"):
        pruner_of(mlp(), epochs=60_000)
    with pytest.raises(EarlyCropError, match="above 0; found 0"):
        pruner_of(mlp(), epochs=0)


@pytest.mark.parametrize("method", ["magnitude-u", "magnitude-s"])
@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
def test_a_model_and_its_pruner_may_go_in_the_middle_of_a_step(method, before):
    """As they do whenever Python collects garbage; PyTorch walks through its hooks meanwhile."""
    going, seen = [], []

    def collect(*_):
        going.clear()
        gc.collect()
        seen.append(True)

    handle = (register_optimizer_step_pre_hook if before else register_optimizer_step_post_hook)(collect)
    try:
        nets = mlp(), mlp()
        optimizer = torch.optim.Adam(nets[0].parameters())
        pruner = pruner_of(nets[0], optimizer, method)
        going += [nets[1], pruner_of(nets[1], None, method)]
        for one in (going[1], pruner):
            one.check(0)
        net, nets = nets[0], None
        del one
        train(net, optimizer)
    finally:
        handle.remove()
    assert len(seen) == 3
    assert method == "magnitude-s" or returned(pruner) == 0


def test_masks_may_be_released_in_the_middle_of_a_step():
    net = mlp()
    optimizer = torch.optim.Adam(net.parameters())
    pruner = pruner_of(net, optimizer)
    pruner.check(0)
    handle = register_optimizer_step_post_hook(lambda *_: pruner.units.release())
    try:
        train(net, optimizer)
    finally:
        handle.remove()
    assert returned(pruner) > 0
