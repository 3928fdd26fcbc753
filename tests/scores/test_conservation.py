"""A conservation law of channels' scores, what breaks it, and what becomes of a cut where it is broken.

In a chain of positively homogeneous layers without biases, whose norms only divide by a number, the network with the
gates of any one layer at s is s times the network. So s ↦ ½‖∇_W L‖² is one function, whichever layer has the s, and its
slope at 1 is each layer's signed sum of the mixed reading. The same with gates: for a layer l

    Σ_{k ∈ l} (H_c g_c)ₖ + ‖g_{c,l}‖²

is one number, for the slope of the loss along a layer's own gates does not grow with s as those of all others do.
"""

import itertools

import pytest
import torch
from torch import Tensor, nn

from earlycrop import Pruner, get_method
from earlycrop.evaluation import Evaluation
from earlycrop.scores import Crop, CropMixed
from earlycrop.scores.crop import _flow
from earlycrop.units import Channels
from tests import dense
from tests.cases.chains import vgg
from tests.pruners import make_pruner
from tests.scores.worth import classes, pruner

BATCH = dense.images(24, size=8)
LAYERS = ["conv1", "conv2", "conv3", "fc1", "fc2"]


def chain(act=nn.ReLU, norm=nn.Identity, init: str = "default", bias: bool = False) -> nn.Module:
    """Convolutions, pools of both kinds and linear layers."""
    torch.manual_seed(3)
    widths = {"conv1": 6, "conv2": 7, "conv3": 5}
    parts: dict[str, nn.Module] = {}
    for inside, (name, outside) in zip((2, 6, 7), widths.items(), strict=True):
        parts[name] = nn.Conv2d(inside, outside, 3, padding=1, bias=bias)
        parts[f"norm{name[-1]}"], parts[f"act{name[-1]}"] = norm(outside), act()
    parts["pool1"], parts["pool2"] = nn.MaxPool2d(2), nn.AvgPool2d(2)
    parts |= {"fc1": nn.Linear(20, 8, bias=bias), "fc2": nn.Linear(8, 6, bias=bias), "act": act()}
    parts["head"] = nn.Linear(6, 3, bias=bias)

    def forward(n, x: Tensor) -> Tensor:
        x = n.pool1(n.act1(n.norm1(n.conv1(x))))
        x = n.pool2(n.act2(n.norm2(n.conv2(x))))
        x = n.act3(n.norm3(n.conv3(x)))
        return n.head(n.act(n.fc2(n.act(n.fc1(x.flatten(1))))))

    net = dense.Net(forward, **parts).double()
    for parameter in net.parameters():
        if init == "orthogonal" and parameter.ndim > 1:
            nn.init.orthogonal_(parameter)
    return net


def ranked(net: nn.Module, bn_mode: str) -> Pruner:
    return pruner(net, Crop(), Channels(), [BATCH], bn_mode=bn_mode, micro_batch=7)


def mixed_sums(net: nn.Module, bn_mode: str = "scaled") -> Tensor:
    """Of each layer Σₖ ⟨∂²L/∂cₖ∂W, g_W⟩, with signs."""
    here = ranked(net, bn_mode)
    with here._scorer.session():
        signed = _flow(here._scorer.network(here.units), here.units.coordinates)
    assert torch.equal(
        signed.abs(), pruner(net, CropMixed(), Channels(), [BATCH], bn_mode=bn_mode, micro_batch=7).scores()
    )
    return torch.stack([signed[classes(here, layer)].sum() for layer in LAYERS])


def gate_sums(net: nn.Module, bn_mode: str = "scaled") -> tuple[Tensor, Tensor]:
    """Of each layer Σₖ (H_c g_c)ₖ with signs, and ‖g_c‖²."""
    here = ranked(net, bn_mode)
    with here._scorer.session():
        at = Evaluation(here._scorer.loss(here.model), here.units.coordinates)
        gradient, product = at.gradient(), at.hessian_gradient()
    assert torch.equal(product.abs(), here.scores())
    inside = [classes(here, layer) for layer in LAYERS]
    sums, squares = [product[one].sum() for one in inside], [gradient[one].square().sum() for one in inside]
    return torch.stack(sums), torch.stack(squares)


def spread(sums: Tensor) -> float:
    """How far sums differ, relative to the largest."""
    return float((sums.max() - sums.min()) / sums.abs().max())


HOMOGENEOUS = list(itertools.product([nn.ReLU, nn.LeakyReLU], [nn.Identity, nn.BatchNorm2d], ["default", "orthogonal"]))


@pytest.mark.parametrize(("act", "norm", "init"), HOMOGENEOUS)
def test_every_layer_has_the_same_sum_of_the_mixed_reading(act, norm, init):
    sums = mixed_sums(chain(act, norm, init))
    assert sums.abs().min() > 1e-6
    assert spread(sums) <= 1e-9


@pytest.mark.parametrize(("act", "norm", "init"), HOMOGENEOUS)
def test_sums_over_gates_are_the_same_but_for_their_own_squared_slopes(act, norm, init):
    sums, squares = gate_sums(chain(act, norm, init))
    assert spread(sums + squares) <= 1e-9
    assert spread(sums) > 1e-6  # so the second term is not nothing


@pytest.mark.parametrize("init", ["default", "orthogonal"])
def test_the_law_is_that_of_the_scaled_network_by_hand(init):
    """½ of the slope of ‖g_W‖² as one whole layer is scaled, by differences: no Hessian, no gates of the library."""
    net = chain(norm=nn.BatchNorm2d, init=init)
    x, y = BATCH
    numbers: dict[str, Tensor] = {}

    def loss_at(layer: str, scale: float) -> Tensor:
        def gate(name: str, value: Tensor) -> Tensor:
            return value * scale if name == layer else value

        for number, pool in ((1, net.pool1), (2, net.pool2), (3, nn.Identity())):
            value = net.get_submodule(f"conv{number}")(x if number == 1 else value)
            divisor = numbers.setdefault(f"conv{number}", value.detach().square().mean().sqrt())
            value = pool(torch.relu(gate(f"conv{number}", value / divisor)))
        value = value.flatten(1)
        for name in ("fc1", "fc2"):
            value = torch.relu(gate(name, net.get_submodule(name)(value)))
        return nn.functional.cross_entropy(net.head(value), y)

    def flow(layer: str, scale: float) -> float:
        weights = [net.get_parameter(name) for name in dense.prunable(net)]
        return float(sum(g.square().sum() for g in torch.autograd.grad(loss_at(layer, scale), weights)))

    loss_at("none", 1.0)  # takes the numbers
    step = 1e-5
    slopes = [(flow(layer, 1 + step) - flow(layer, 1 - step)) / (4 * step) for layer in LAYERS]
    torch.testing.assert_close(mixed_sums(net), dense.f64(*slopes), atol=0, rtol=1e-6)


def test_shifts_of_norms_are_biases_and_their_scales_are_not():
    net = chain(norm=nn.BatchNorm2d)
    with torch.no_grad():
        for number in (1, 2, 3):
            net.get_submodule(f"norm{number}").weight.uniform_(0.5, 2)
    assert spread(mixed_sums(net)) <= 1e-9
    with torch.no_grad():
        net.norm2.bias.uniform_(-0.5, 0.5)
    assert spread(mixed_sums(net)) > 0.01


@pytest.mark.parametrize(("init", "far"), [("default", 0.05), ("orthogonal", 0.3)])
def test_calibrated_norms_break_it_by_far(init, far):
    """Real statistics take each channel's mean away and give each the same variance."""
    assert spread(mixed_sums(chain(norm=nn.BatchNorm2d, init=init), "calibrated")) > far
    sums, squares = gate_sums(chain(norm=nn.BatchNorm2d, init=init), "calibrated")
    assert spread(sums + squares) > far


def test_norms_at_birth_in_evaluation_mode_are_the_identity_and_keep_it():
    sums = mixed_sums(chain(norm=nn.BatchNorm2d), "running")
    assert spread(sums) <= 1e-9


@pytest.mark.parametrize(("act", "bias"), [(nn.ReLU, True), (nn.Tanh, False)])
def test_biases_and_what_is_not_homogeneous_break_it(act, bias):
    assert spread(mixed_sums(chain(act, bias=bias))) > 0.01


# What becomes of a cut ------------------------------------------------------------------------------------------------


def deep(init: str) -> nn.Module:
    """Late layers are wide and the statistics of norms real: the poster's network, small."""
    torch.manual_seed(0)
    net = vgg([8, 8, "M", 12, 12, "M", 16, 16, "M", 24, 24, "M", 32, 32], 3, 64, 10)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.zeros_(module.bias)
            if init == "orthogonal":
                nn.init.orthogonal_(module.weight)
    return net


@pytest.mark.parametrize("init", ["orthogonal", "default"])
def test_one_shot_with_calibrated_norms_empties_layers_and_the_default_does_not(init):
    batch = torch.randn(64, 3, 16, 16), torch.randint(10, (64,))

    def left(name: str, **options) -> list[int]:
        here = make_pruner(
            deep(init), name, 0.95, example_inputs=batch[0][:2], loss=dense.cross_entropy, batches=[batch], **options
        )
        return [row.after for row in here.dry_run().rows]

    assert get_method("crop-s-poster").bn_mode == "auto"  # these norms never saw a batch
    assert min(left("crop-s-poster")) == 1
    assert min(left("crop-s")) > 1
    assert min(left("crop-s-poster", bn_mode="scaled")) > 1  # it is the norms
