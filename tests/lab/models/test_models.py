"""The networks against the published counts, on the meta device where they are large."""

import pytest
import torch
from torch import nn

from earlycrop_lab.models import NETWORKS, build, get_network

PARAMETERS = {  # name, classes, channels, size -> parameters
    ("resnet18", 10, 3, 32): 11_173_962,
    ("resnet18-paper", 10, 3, 64): 11_707_978,
    ("resnet18-imagenet", 1000, 3, 224): 11_689_512,
    ("resnet50-imagenet", 1000, 3, 224): 25_557_032,
    ("resnext101-32x16d", 1000, 3, 224): 194_026_792,
    ("resnext101-32x48d", 1000, 3, 224): 828_411_176,
    ("resnext101-32x48d", 10, 3, 32): 826_382_666,
    ("vgg16", 10, 3, 32): 14_728_266,
    ("vgg16-paper", 200, 3, 64): 51_482_376,
    ("lenet", 10, 1, 32): 61_706,
    ("mlp", 10, 1, 8): 64 * 128 + 128 + 128 * 128 + 128 + 1290,
}
NODES = {  # output channels of every convolution and linear layer but the logits
    "resnet18": 4_800,
    "resnet18-paper": 5_056,
    "vgg16-paper": 12_928,
    "resnext101-32x16d": 166_464,
    "resnext101-32x48d": 426_560,
}


def layers(model: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def on_meta(name: str, **options) -> nn.Module:
    with torch.device("meta"):
        return build(name, **options)


@pytest.mark.parametrize("case", PARAMETERS, ids=str)
def test_a_network_has_the_published_number_of_parameters(case):
    name, classes, channels, size = case
    model = on_meta(name, classes=classes, channels=channels, size=size)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[case]


@pytest.mark.parametrize("name", NODES)
def test_a_network_has_the_published_number_of_nodes(name):
    model = on_meta(name, classes=10)
    assert sum(layer.weight.shape[0] for layer in layers(model)[:-1]) == NODES[name]


def test_the_papers_resnet_has_the_published_number_of_weights():
    model = on_meta("resnet18-paper", classes=10)
    assert sum(layer.weight.numel() for layer in layers(model)) == 11_693_760


@pytest.mark.parametrize(("classes", "head"), [(10, 33_595_392), (100, 33_964_032), (200, 34_373_632)])
def test_the_papers_vgg_has_the_published_number_of_weights(classes, head):
    model = on_meta("vgg16-paper", classes=classes)
    assert sum(layer.weight.numel() for layer in layers(model.features)) == 17_069_760
    assert sum(layer.weight.numel() for layer in layers(model.classifier)) == head
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert sum(norm.weight.numel() for norm in norms) == 12_928


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_learns_from_images_of_its_least_size(name):
    network = NETWORKS[name]
    width = 4 if network.width >= 64 else network.width
    model = build(name, classes=3, channels=1, size=network.least, width=width, seed=0)
    logits = model(torch.randn(2, 1, network.least, network.least))
    logits.square().mean().backward()
    assert logits.shape == (2, 3)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_images_below_the_least_size_are_refused_with_it(name):
    least = NETWORKS[name].least
    if least == 1:
        pytest.skip("takes any image")
    with pytest.raises(ValueError, match=f"The least is {least}x{least}"):
        build(name, classes=10, size=least - 1)


@pytest.mark.parametrize("name", ["vgg16", "vgg16-paper", "lenet"])
def test_one_pixel_less_than_the_least_leaves_a_map_of_nothing(name):
    model = on_meta(name, classes=10, channels=1)
    maps = model[:6] if isinstance(model, nn.Sequential) else model.features
    side = NETWORKS[name].least
    assert maps(torch.zeros(2, 1, side, side, device="meta")).shape[-2:] == (1, 1)
    with pytest.raises(RuntimeError, match="too small"):
        maps(torch.zeros(2, 1, side - 1, side - 1, device="meta"))


def test_width_scales_every_layer():
    narrow, wide = (layers(on_meta("resnet18", classes=10, width=width)) for width in (16, 64))
    for a, b in zip(narrow[:-1], wide[:-1], strict=True):
        assert 4 * a.out_channels == b.out_channels


def test_names_are_those_of_published_weights():
    names = set(on_meta("resnet50-imagenet", classes=1000).state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer1.0.downsample.0.weight", "layer4.2.bn3.bias", "fc.bias"} <= names
    names = set(on_meta("vgg16", classes=10).state_dict())
    assert {"features.0.weight", "features.1.running_mean", "features.41.weight", "classifier.weight"} <= names


def test_the_papers_weights_start_orthogonal():
    model = build("resnet18-paper", classes=10, width=8, seed=0)
    gain = 2 / (1 + 0.05**2)  # of the squares
    for layer in layers(model):
        rows = layer.weight.detach().double().flatten(1)
        if len(rows) > rows.shape[1]:
            rows = rows.T
        expected = (1.0 if layer.out_features == 10 else gain) if isinstance(layer, nn.Linear) else gain
        torch.testing.assert_close(
            rows @ rows.T, expected * torch.eye(len(rows), dtype=torch.double), atol=1e-5, rtol=0
        )
        if layer.bias is not None:
            assert layer.bias.abs().max() <= layer.weight[0].numel() ** -0.5


def test_the_seed_decides_the_weights_and_nothing_else():
    before = torch.get_rng_state()
    one, same, other = (build("lenet", classes=10, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not any(torch.equal(one[key], other[key]) for key in one)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'resnet18'"):
        get_network("resnet-18")
    with pytest.raises(ValueError, match="'vgg16'"):
        build("vgg_16", classes=10)


@pytest.mark.parametrize("option", [{"classes": 1}, {"classes": 10, "width": 0}, {"classes": 10, "channels": 0}])
def test_numbers_that_make_no_network_are_refused(option):
    with pytest.raises(ValueError, match="cannot have"):
        build("mlp", **option)


def test_a_width_that_splits_a_group_is_refused():
    with pytest.raises(ValueError, match="not a whole number"):
        build("resnext101-32x16d", classes=10, width=2)
