"""What part of a network a method can reach, and what holds the rest: told in the report, in the plan, and in time."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from earlycrop import BudgetError, Pruner, ReachWarning
from earlycrop.budget import Budget
from earlycrop.plan import Plan
from earlycrop.report import Report
from earlycrop.structure import Frozen
from earlycrop.structure.held import grouped

X = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))


class Features(nn.Module):
    """Returns what its layers compute, as a list, a dictionary, or all of it beside the logits."""

    def __init__(self, form):
        super().__init__()
        self.form = form
        self.a, self.b, self.o = nn.Linear(10, 32), nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x):
        h = F.relu(self.a(x))
        g = F.relu(self.b(h))
        return {"list": (self.o(g), [h, g]), "dictionary": {"out": self.o(g), "all": {"h": h, "g": g}}}.get(
            self.form, torch.cat([self.o(g), h, g], 1)
        )


@pytest.mark.parametrize("form", ["list", "dictionary", "together"])
def test_a_budget_out_of_reach_names_what_holds_the_channels(form):
    with pytest.raises(
        BudgetError, match=r"outputs of the network.*: 3 tensors \(a.weight, b.weight, …; 68 channels\)"
    ):
        Pruner(Features(form), "random-s", Budget(0.5, "params"), example_inputs=X)


def test_what_is_kept_is_named_with_its_reason():
    model = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    with pytest.raises(
        BudgetError, match=r"kept by `ignore`: 2 tensors \(0.weight dim 0, 0.bias dim 0; 128 channels\)"
    ):
        Pruner(model, "random-s", Budget(0.9, "params"), example_inputs=X, ignore=("0",))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.body, self.head = nn.Embedding(100, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        return self.head(F.relu(self.body(self.table(x)))).mean(1)


TOKENS = torch.arange(12).view(3, 4)


def test_little_in_reach_is_warned_of_once_and_told():
    pruner = Pruner(Tokens(), "magnitude-u", 0.2, example_inputs=TOKENS)
    assert "in reach    320 of 1,940 parameters (16%)" in str(pruner.dry_run())
    with pytest.warns(ReachWarning, match=r"Only 16% of all parameters are in reach of magnitude-u \(320 of 1,940\)"):
        report = pruner.check(0)
    assert report is not None
    assert "in reach    320 of 1,940 parameters (16%)" in str(report)
    assert report.as_dict()["reach"] == {"parameters": 320, "total": 1940, "held": None, "chosen": False}
    assert Report.from_dict(report.as_dict()) == report


def test_channels_take_with_them_what_they_hold():
    """All but the bias of the head belongs to a class; with the features returned, nothing does."""
    whole = Pruner(Tokens(), "random-s", 0.2, example_inputs=TOKENS).units.reach
    assert (whole.parameters, whole.total) == (1936, 1940)
    none = Pruner(Features("list"), "random-s", 0.0, example_inputs=X)
    with pytest.warns(ReachWarning, match=r"Only 0% .*cannot leave \(outputs of the network"):
        none.check(0)


def test_what_the_user_keeps_is_no_surprise():
    model = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    report = Pruner(model, "random-u", 0.1, example_inputs=X, ignore=("2",)).check(0)
    assert report is not None
    assert report.reach is not None
    assert report.reach.part < 0.2


def test_reasons_are_told_once():
    blocks = [Frozen(f"h.{n}.fc.weight dim 0", f"mixed (mean in `h.{n}`)", 8) for n in range(16)]
    same = [Frozen(f"{name}.weight dim 1", "kept by `ignore`", 4) for name in "ab"]
    assert grouped([*blocks, *same, Frozen("where", "why", 0)]) == [
        "mixed (mean in `h.*`): 16 tensors (h.0.fc.weight dim 0, h.1.fc.weight dim 0, …; 128 channels)",
        "kept by `ignore`: 2 tensors (a.weight dim 1, b.weight dim 1; 8 channels)",
        "where: why",
    ]


def test_a_deep_llama_has_one_line_and_as_dict_has_all():
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 16}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, num_attention_heads=4, use_cache=False))
    kept = tuple(f"model.layers.{number}.mlp.up_proj" for number in range(16))
    pruner = Pruner(model, "random-s", 0.2, example_inputs=torch.arange(10).view(2, 5), ignore=kept)
    plan, report = pruner.dry_run(), pruner.check(0)
    assert report is not None
    for told in (plan, report):
        assert isinstance(told, Plan | Report)
        assert sum(line.startswith("  frozen") for line in str(told).splitlines()) <= 1
        assert len(told.as_dict()["frozen"]) >= 16
