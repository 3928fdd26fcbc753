"""The recipe of docs/saving.md, as it stands there, cut off and gone on with."""

import os
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import earlycrop
from tests import dense

DOCS = Path(__file__).parents[1] / "docs" / "saving.md"


class Stop(Exception):
    pass


class Net(nn.Sequential):
    def __init__(self) -> None:
        torch.manual_seed(7)
        super().__init__(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))


def recipe(stops: int | None = None):
    """What the loop leaves; it is stopped within that epoch."""
    made = torch.Generator().manual_seed(0)
    batches = [(torch.randn(10, 6, generator=made), torch.randint(3, (10,), generator=made)) for _ in range(4)]

    def loader(epoch):
        yield from batches[epoch % 4 :]
        if epoch == stops:
            raise Stop

    (code,) = [block for block in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S) if "load_state(" in block]
    code = code.replace("0.95", "0.5")
    scope = {
        "torch": torch,
        "earlycrop": earlycrop,
        "Path": Path,
        "Net": Net,
        "loader": loader,
        "epochs": 8,
        "scoring": batches,
        "loss": lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
    }
    exec(code, scope)
    model, pruner = scope["model"], scope["pruner"]
    return {name: dense.bits(value) for name, value in model.state_dict().items()}, pruner.report, scope["first"]


@pytest.mark.parametrize("stops", [(1,), (4,), (0, 2, 3, 7)])
def test_the_recipe_stopped_is_the_recipe_not_stopped(stops, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole, report, _ = recipe()
    os.unlink("state.safetensors")
    for epoch in stops:
        with pytest.raises(Stop):
            recipe(epoch)
    found, again, first = recipe()
    assert first == stops[-1]
    assert found == whole
    assert [vars(width) for width in again.widths] == [vars(width) for width in report.widths]
    assert sum(width.after < width.before for width in again.widths) == 2
