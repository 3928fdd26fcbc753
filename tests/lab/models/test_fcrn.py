"""FCRN: the published sizes, its transposed convolutions, and what a cut of it computes."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from earlycrop import Pruner
from earlycrop.structure import cut, trace, verify
from earlycrop_lab.models.fcrn import Fcrn, UpProjection, depth_size, doubling
from earlycrop_lab.tasks.depth import mean_loss
from tests import dense
from tests.oracles import attribute_faults, choose, disagreement, make_unique, tensors
from tests.pruners import make_pruner


def on_meta(**options) -> Fcrn:
    with torch.device("meta"):
        return Fcrn(**options)


def unpooled(x: torch.Tensor) -> torch.Tensor:
    """Laina et al.'s unpooling: each place becomes the upper left of 2 x 2, the others are 0."""
    n, c, h, w = x.shape
    result = x.new_zeros(n, c, 2 * h, 2 * w)
    for row in range(h):
        for column in range(w):
            result[:, :, 2 * row, 2 * column] = x[:, :, row, column]
    return result


def test_zeros_between_and_a_convolution_are_one_transposed_convolution():
    layer = doubling(3, 4).double()
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    turned = layer.weight.flip(2, 3).transpose(0, 1)  # ConvTranspose2d keeps its inputs first
    torch.testing.assert_close(layer(x), F.conv2d(unpooled(x), turned, padding=2), atol=1e-12, rtol=0)


def test_an_up_projection_is_the_papers():
    block = UpProjection(4, 2).double().eval()
    make_unique(block)
    x = unpooled(torch.randn(2, 4, 3, 3, dtype=torch.float64).abs())

    def branch(layer, norm):
        kernel = layer.weight.flip(2, 3).transpose(0, 1)
        return norm(F.conv2d(x, kernel, padding=2))

    above = block.bn2(F.conv2d(branch(block.conv1, block.bn1).relu(), block.conv2.weight, padding=1))
    expected = (above + branch(*block.shortcut)).relu()
    torch.testing.assert_close(block(x[:, :, ::2, ::2]), expected, atol=1e-12, rtol=0)


def test_the_published_network_has_the_published_number_of_parameters():
    """63.6 million; by hand: ResNet50 without its head, the 1x1 and its norm, four blocks, the last convolution."""
    blocks = sum(2 * (2 * c * c * 25) + 9 * c * c + 3 * 2 * c for c in (512, 256, 128, 64))
    by_hand = (25_557_032 - 2_049_000) + 2048 * 1024 + 2 * 1024 + blocks + (64 * 9 + 1)
    assert sum(p.numel() for p in on_meta().parameters()) == by_hand == 63_563_009


@pytest.mark.parametrize("size", [(228, 304), (114, 152), (57, 76), (32, 33), (1, 1)])
def test_the_map_of_depths_has_the_promised_size(size):
    model = on_meta(width=16)
    assert model(torch.zeros(2, 3, *size, device="meta")).shape == (2, 1, *depth_size(*size))


def test_the_encoder_takes_published_weights():
    names = set(on_meta().encoder.state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer1.0.downsample.0.weight", "layer4.2.bn3.bias"} <= names
    assert not any(name.startswith("fc") for name in names)


def test_every_parameter_learns():
    model = Fcrn(width=4)
    model(torch.randn(2, 3, 40, 52)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


# Cut equals gated --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole():
    """Two base channels in float64, unique values, an image whose sides are no multiples, and the structure."""
    torch.manual_seed(0)
    model = make_unique(Fcrn(width=2))
    inputs = (torch.randn(3, 3, 33, 40, dtype=torch.float64),)
    return model, inputs, trace(copy.deepcopy(model), inputs)


def kept(structure, model, part, seed):
    sizes = {(name, dim): size for name, tensor in tensors(model).items() for dim, size in enumerate(tensor.shape)}
    classes = [[(member.tensor, member.dim, member.index) for member in one.members] for one in structure.classes]
    return choose(sizes, classes, part, seed)


def test_all_channels_but_the_depth_can_leave(whole):
    """ResNet50's: stem, per stage one stream and two in each block; the 1x1; in each up-projection two."""
    _, _, structure = whole
    encoder = 2 + sum(c * (4 + 2 * blocks) for c, blocks in zip((2, 4, 8, 16), (3, 4, 6, 3), strict=True))
    assert len(structure) == encoder + 32 + sum(2 * c for c in (16, 8, 4, 2))
    assert structure.frozen == ()


@pytest.mark.parametrize("part", [pytest.param(part, marks=pytest.mark.slow) for part in (0.1, 0.5, 0.7, 1.0)] + [0.3])
def test_the_cut_network_is_the_gated_one(whole, part):
    model, inputs, structure = whole
    smaller = copy.deepcopy(model)
    cut(structure, smaller, kept(structure, model, part, seed=round(10 * part)), None)
    assert disagreement(model, smaller, inputs, training=False) <= 1e-9
    assert disagreement(model, smaller, inputs, training=True) <= 1e-9
    assert attribute_faults(smaller) == []


@pytest.mark.slow
def test_a_cut_network_can_be_cut_again_and_agrees_with_verify(whole):
    model, inputs, structure = whole
    smaller = copy.deepcopy(model)
    keep = kept(structure, model, 0.5, seed=1)
    assert verify(structure, model, inputs, keep).max_error <= 1e-9
    left = cut(structure, smaller, keep, None)
    cut(left, smaller, kept(left, smaller, 0.6, seed=2), None)
    assert disagreement(model, smaller, inputs, training=True) <= 1e-9


# Scores ------------------------------------------------------------------------------------------------------


@pytest.fixture
def scored():
    """Two base channels in float64, with norms that are awake, and a batch with places of unknown depth."""
    torch.manual_seed(0)
    model = dense.awake(Fcrn(width=2)).eval()
    depths = 1 + 4 * torch.rand(3, *depth_size(33, 40), dtype=torch.float64)
    depths[:, :5] = 0
    return model, (torch.randn(3, 3, 33, 40, dtype=torch.float64), depths)


def pruner_of(model, method: str, batch) -> Pruner:
    """It scores the batch whole: a fifth of the largest error is another number in each part of it."""
    options = {"micro_batch": len(batch[0]), "bn_mode": "running"}
    return make_pruner(model, method, 0.5, example_inputs=batch[0], loss=mean_loss, batches=[batch], **options)


def hessian_gradient(loss: torch.Tensor, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
    """Hg of the leaves together, by differentiating the gradient once more."""
    gradient = torch.autograd.grad(loss, leaves, create_graph=True)
    slope = sum((g * g.detach()).sum() for g in gradient)
    return list(torch.autograd.grad(slope, leaves))


def test_crop_of_channels_against_gates_written_out(scored):
    model, batch = scored
    pruner = pruner_of(model, "crop-s-poster", batch)
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)]
    layers = dict(model.named_modules())
    norms = {name: name.replace("conv", "bn") if "conv" in name else name[:-1] + "1" for name in names[:-1]}
    assert all(isinstance(layers[norm], nn.BatchNorm2d) for norm in norms.values())
    structure = pruner.units.structure
    places = {  # a transposed convolution's outputs are its second dimension
        norm: structure.tensors[f"{name}.weight"].classes[isinstance(layers[name], nn.ConvTranspose2d)]
        for name, norm in norms.items()
    }
    gates = torch.ones(len(pruner.units.keep), dtype=torch.float64, requires_grad=True)
    with dense.gated(model, places, gates):
        (expected,) = hessian_gradient(mean_loss(model, batch), [gates])
    assert torch.cat(list(places.values())).unique().tolist() == list(range(len(gates)))
    torch.testing.assert_close(pruner.scores(), expected.abs(), atol=1e-9 * expected.abs().max().item(), rtol=0)


@pytest.mark.slow
def test_crop_of_weights_against_the_gradient_differentiated_once_more(scored):
    model, batch = scored
    pruner = pruner_of(model, "crop-u-poster", batch)
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    products = hessian_gradient(mean_loss(model, batch), weights)
    expected = torch.cat([(w * hg).abs().flatten() for w, hg in zip(weights, products, strict=True)]).detach()
    torch.testing.assert_close(pruner.scores(), expected, atol=1e-9 * expected.max().item(), rtol=0)
