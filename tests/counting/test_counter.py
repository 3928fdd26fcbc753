"""Counts before a cut and after it, against the networks themselves and PyTorch's own counter of operations."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from earlycrop.counting import Counter, Counts, flops, size_of
from earlycrop.counting.costs import COSTS
from earlycrop.structure import cut, trace
from earlycrop_lab.models import build
from tests import dense
from tests.cases import CASES

CUT = [
    *("mlp_residual", "mlp_of_tokens", "chain_with_bias", "conv3d", "lenet_flatten", "resnext", "densenet", "unet"),
    *("mobilenet", "depthwise_multiplier", "transposed_groups", "squeeze_conv", "shared_convolution", "grouped"),
]


def test_the_price_of_a_channel_is_what_its_leaving_saves():
    """Hidden layers of 3 and 4: a unit of the first takes 2 + 4 weights and a bias with it, one of the second 3 + 5."""
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5))
    structure = trace(net, torch.zeros(1, 2))
    counter = Counter(structure, net)
    first = torch.isin(torch.arange(7), structure.tensors["0.weight"].classes[0])
    for target, (one, other) in {"weight": (6, 8), "params": (7, 9), "flops": (12, 16), "node": (1, 1)}.items():
        expected = torch.where(first, one, other).double()
        torch.testing.assert_close(counter.prices(COSTS[target]), expected)


def operations(net: nn.Module, inputs) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.eval()(*inputs)
    return counter.get_total_flops() / len(inputs[0])


def weights(net: nn.Module) -> int:
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    return sum(w.numel() for w in {m.weight for m in net.modules() if isinstance(m, kinds)})


@pytest.mark.parametrize(
    "name", dense.some_of(CUT, ["mlp_of_tokens", "conv3d", "resnext", "mobilenet", "transposed_groups", "squeeze_conv"])
)
def test_what_a_cut_will_leave_is_what_it_leaves(name):
    net, inputs = CASES[name].build().double(), CASES[name].inputs()
    structure = trace(net, inputs)
    generator = torch.Generator().manual_seed(3)
    keep = torch.rand(len(structure), generator=generator) < 0.5
    for space in structure.spaces().unique():
        keep[(structure.spaces() == space).nonzero()[0]] = True
    counter = Counter(structure, net)
    whole, promised = counter(), counter(keep)
    assert whole == counter(torch.ones(len(structure), dtype=torch.bool))
    assert (whole.prunable, whole.params) == (weights(net), sum(p.numel() for p in net.parameters())) == size_of(net)
    assert whole.flops == pytest.approx(operations(net, inputs), abs=1e-6)
    for target in COSTS:
        assert counter.price(COSTS[target], keep) == counter(keep, COSTS[target]).of(target)

    smaller = copy.deepcopy(net)
    after = cut(structure, smaller, keep, None)
    assert promised.prunable == weights(smaller)
    assert promised.params == sum(p.numel() for p in smaller.parameters())
    assert promised.flops == pytest.approx(operations(smaller, inputs), abs=1e-6)
    assert Counter(after, smaller)() == promised
    assert promised.flops < whole.flops


@pytest.mark.parametrize(
    ("network", "size", "classes", "nodes"),
    [
        ("vgg16-paper", 32, 200, 12_928),
        ("resnet18-paper", 32, 10, 5_056),
        ("resnet18", 32, 10, 4_800),
    ],
)
def test_nodes_of_the_papers_networks(network, size, classes, nodes):
    with torch.device("meta"):
        net = build(network, classes=classes, size=size)
    structure = trace(net, torch.zeros(2, 3, size, size, device="meta"))
    assert Counter(structure, net)().nodes == nodes


def test_parameters_of_the_papers_networks():
    with torch.device("meta"):
        vgg, resnet = build("vgg16-paper", classes=200, size=32), build("resnet18-paper", classes=10, size=32)
    assert size_of(vgg) == (17_069_760 + 34_373_632, 51_482_376)
    assert size_of(resnet) == (11_693_760, 11_707_978)


def test_outputs_are_no_nodes_and_side_branches_are():
    net = dense.residual_net()
    structure = trace(net, dense.images()[0])
    assert Counter(structure, net)().nodes == 4 + 3 + 4


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_operations_are_of_one_example(batch):
    net = dense.residual_net()
    x = dense.images(batch)[0]
    one = operations(net, (x,))
    assert flops(net, x) == one
    assert Counter(trace(net, x), net)().flops == one


def test_operations_of_a_linear_layer_by_hand():
    assert flops(nn.Linear(5, 7), torch.zeros(3, 5)) == 2 * 5 * 7


def test_counting_operations_touches_nothing_and_never_fails():
    net = dense.residual_net().train()
    before = dense.everything(net)
    flops(net, dense.images()[0])
    assert dense.everything(net) == before
    assert flops(net, torch.zeros(1)) != flops(net, torch.zeros(1))  # nan


def test_each_target_names_its_count():
    counts = Counts(1, 2, 3, 4.0)
    assert [counts.of(target) for target in ("weight", "params", "node", "flops")] == [1, 2, 3, 4]


class Recurrent(nn.Module):
    def __init__(self, layer: nn.Module, width: int):
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.layer(x)[0])


@pytest.mark.parametrize(
    ("make", "options", "width"),
    [
        (nn.LSTM, {}, 7),
        (nn.LSTM, {"num_layers": 2, "bidirectional": True}, 14),
        (nn.LSTM, {"proj_size": 4}, 4),
        (nn.GRU, {"num_layers": 2}, 7),
        (nn.RNN, {"bidirectional": True, "bias": False}, 14),
    ],
)
def test_operations_of_recurrent_layers_by_hand(make, options, width):
    """Each weight once for each time step, which PyTorch's counter does not see on the CPU."""
    steps, net = 6, Recurrent(make(5, 7, batch_first=True, **options), width).double()
    x = torch.randn(2, steps, 5, dtype=torch.float64)

    def by_hand(net):
        return sum(2 * steps * weight.numel() for name, weight in net.named_parameters() if "weight" in name)

    assert flops(net, x) == by_hand(net)
    structure = trace(net, x)
    assert Counter(structure, net)().flops == by_hand(net)
    keep = torch.ones(len(structure), dtype=torch.bool)
    for space in structure.spaces().unique():
        keep[(structure.spaces() == space).nonzero().flatten()[2:4]] = False
    promised = Counter(structure, net)(keep).flops
    after = cut(structure, net, keep, None)
    assert len(after) < len(structure)
    assert promised == by_hand(net) == flops(net, x)


@pytest.mark.parametrize(
    ("make", "options", "units"),
    [
        (nn.LSTM, {}, 7),
        (nn.GRU, {"num_layers": 2, "bidirectional": True}, 4 * 7),
        (nn.LSTM, {"proj_size": 4}, 7),
    ],
)
def test_weights_of_recurrent_layers_are_prunable_and_hidden_units_are_nodes(make, options, units):
    width = options.get("proj_size", 7) * (2 if options.get("bidirectional") else 1)
    net = Recurrent(make(5, 7, batch_first=True, **options), width).double()
    x = torch.randn(2, 6, 5, dtype=torch.float64)

    def by_hand(net):
        return sum(weight.numel() for name, weight in net.named_parameters() if "weight" in name)

    structure = trace(net, x)
    assert size_of(net)[0] == Counter(structure, net)().prunable == by_hand(net)
    assert Counter(structure, net)().nodes == units
    keep = torch.ones(len(structure), dtype=torch.bool)
    keep[1:3] = False
    promised = Counter(structure, net)(keep)
    after = cut(structure, net, keep, None)
    assert promised == Counter(after, net)()
    assert promised.prunable == by_hand(net) == size_of(net)[0]
    assert promised.nodes == (units if "proj_size" in options else units * 5 // 7)


def test_embeddings_count_if_asked():
    net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3)).double()
    structure = trace(net, torch.zeros(2, 5, dtype=torch.long))
    assert (size_of(net), size_of(net, embeddings=True)) == ((12, 51), (48, 51))
    keep = torch.tensor([True, False, True, False])
    plain, asked = (Counter(structure, net, embeddings=embeddings)(keep) for embeddings in (False, True))
    assert (plain.prunable, plain.nodes) == (2 * 3, 0)
    assert (asked.prunable, asked.nodes) == (2 * 3 + 9 * 2, 2)


def test_logits_behind_a_log_softmax_are_the_output_and_no_nodes():
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3), nn.LogSoftmax(-1)).double()
    structure = trace(net, torch.zeros(2, 4, dtype=torch.float64))
    assert structure.outputs == {"2.weight", "2.bias"}
    assert structure.frozen == ()
    assert Counter(structure, net)().nodes == 5
