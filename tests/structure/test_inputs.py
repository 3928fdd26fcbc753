"""Inputs by keyword and in a mapping, wherever example inputs go; and language models that return a cache."""

from collections import UserDict

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import earlycrop
from earlycrop import Pruner, Scoring
from earlycrop.counting import flops
from earlycrop.errors import TraceError
from earlycrop.structure import cut, trace, verify
from earlycrop.structure.trace import Call, export
from tests.cases.hugging_face import GPT, LLAMA, built

INPUTS = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randint(0, 3, (6,), generator=torch.Generator().manual_seed(1))
SCALE = torch.ones(6, 1)


class Net(nn.Module):
    """Takes its arguments in another order than that of the mappings below."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.o = nn.Linear(5, 12), nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, values=None, other=None, *, scale=None):
        hidden = F.relu(self.b(F.relu(self.a(values))))
        return self.o(hidden) * (1 if scale is None else scale)


class Constant(Net):
    """A literal, so that the graph has to be exported."""

    def forward(self, values=None, other=None, *, scale=None):
        return super().forward(values - torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]), scale=scale)


class KeywordsOnly(Net):
    def forward(self, **inputs):
        return super().forward(inputs["values"], scale=inputs["scale"])


class Batch(UserDict):
    """A mapping that is no dict, as a tokenizer returns it."""


def of(kind, model):
    torch.manual_seed(0)
    return kind({"scale": SCALE[:2], "values": INPUTS[:2]}), model()


@pytest.mark.parametrize("kind", [dict, Batch])
@pytest.mark.parametrize("model", [Net, Constant, KeywordsOnly])
def test_a_mapping_holds_inputs_by_keyword(kind, model):
    inputs, network = of(kind, model)
    structure = trace(network, inputs)
    assert len(structure) == 12 + 8
    keep = torch.arange(20) % 3 == 0
    assert verify(structure, network, inputs, keep).exact
    cut(structure, network, keep, None)
    assert network(**inputs).shape == (2, 3)


def test_the_ways_of_tracing_agree():
    assert export(Net(), of(dict, Net)[0]).tracing == "recorded"
    assert export(Constant(), of(dict, Constant)[0]).tracing != "recorded"


def test_keywords_and_positions_give_the_same_classes():
    by_keyword, by_position = trace(Net(), {"values": INPUTS}), trace(Net(), (INPUTS,))
    assert [one.members[0].tensor for one in by_keyword.classes] == [
        one.members[0].tensor for one in by_position.classes
    ]
    assert flops(Net(), {"values": INPUTS}) == flops(Net(), INPUTS)


def loss(model, batch):
    return F.cross_entropy(model(values=batch[0], scale=batch[1]), batch[2])


@pytest.mark.parametrize("method", ["random-s", "earlycrop-s", "crop-u", "synflow", "ntk-sap", "magnitude-u"])
def test_every_method_takes_them(method):
    inputs, network = of(Batch, Net)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    pruner = Pruner(
        network, method, 0.5, example_inputs=inputs, scoring=Scoring(loss, [(INPUTS, SCALE, TARGETS)]),
        optimizer=optimizer, epochs=4,
    )  # fmt: skip
    reports = []
    for epoch in range(4):
        reports.append(pruner.check(epoch))
        optimizer.zero_grad()
        loss(network, (INPUTS, SCALE, TARGETS)).backward()
        optimizer.step()
    assert pruner.pruned
    assert next(report for report in reversed(reports) if report is not None).weight_sparsity > 0.3
    assert network(**inputs).shape == (2, 3)


def test_a_mask_is_harvested_with_them():
    inputs, network = of(dict, Net)
    with torch.no_grad():
        network.a.weight[::2] = 0
        network.a.bias[::2] = 0
    earlycrop.harvest(network, inputs)
    assert network.a.out_features == 6


def test_an_unknown_keyword_is_refused():
    with pytest.raises(TraceError, match="mapping of arguments by name"):
        trace(Net(), {"value": INPUTS})


def test_calls_are_told_apart_by_their_keywords():
    assert Call.of({"values": INPUTS}).args == ()
    assert Call.of((INPUTS,)).kwargs == {}


# Language models as they are configured by default


WORDS = {"input_ids": torch.randint(3, 11, (2, 5), generator=torch.Generator().manual_seed(2))}


@pytest.mark.parametrize(
    ("model", "configuration", "settings"),
    [
        ("GPT2LMHeadModel", "GPT2Config", GPT),
        ("LlamaForCausalLM", "LlamaConfig", LLAMA),
        ("Gemma3ForCausalLM", "Gemma3TextConfig", LLAMA),
    ],
)
def test_a_model_that_returns_a_cache_is_cut_and_generates(model, configuration, settings):
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    network = built(model, configuration, **{**settings, "use_cache": True}).eval()
    structure = trace(network, WORDS)
    keep = torch.rand(len(structure), generator=torch.Generator().manual_seed(0)) > 0.4
    for _, _, classes in structure.dimensions():
        keep[classes[:1]] = True
    assert verify(structure, network, WORDS, keep).exact
    cut(structure, network, keep, None)
    with torch.no_grad():
        cached = network(**WORDS).past_key_values
        more = network(input_ids=WORDS["input_ids"][:, :1], past_key_values=cached).logits
    assert more.shape == (2, 1, 11)


class Opaque:
    def __init__(self, tensor):
        self.tensor = tensor


class ReturnsAnObject(Net):
    def forward(self, values):
        return Opaque(super().forward(values))


def test_an_output_of_which_nothing_is_known_is_refused_with_a_way_out():
    with pytest.raises(TraceError, match=r"object of type Opaque.*return tensors.*use_cache = False"):
        trace(ReturnsAnObject(), INPUTS)
