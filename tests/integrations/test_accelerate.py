"""accelerate and Fabric: the plain loop with their wrappers, before and after the cut resumed."""

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from earlycrop import CheckpointError, Pruner
from tests.integrations.small import BATCHES, CUT, EPOCHS, adam, equal, loss, net, plain, pruner_of

BOTH = pytest.mark.parametrize("method", ["snap", "snip"])
PRECISIONS = pytest.mark.parametrize("bf16", [False, True])
pytestmark = pytest.mark.filterwarnings("ignore")  # the frameworks' own


def trained(step: Any, prune: Any, first: int, last: int, save: Any) -> None:
    for epoch in range(first, last):
        prune.check(epoch)
        for batch in BATCHES:
            step(batch)
        save(epoch)


def accelerated(
    method: str, bf16: bool, folder: Path, first: int = 0, resume: Path | None = None
) -> tuple[nn.Module, Pruner]:
    accelerate = pytest.importorskip("accelerate")
    from accelerate.state import AcceleratorState

    from earlycrop.integrations.accelerate import Prune

    AcceleratorState._reset_state(True)  # one process may have only one precision
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16" if bf16 else "no")
    model = net()
    optimizer, schedule = adam(model)
    pruner = pruner_of(model, method, optimizer=optimizer)
    wrapped, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
    prune = Prune(pruner, accelerator)
    if resume is not None:
        accelerator.load_state(resume)

    def step(batch: Any) -> None:
        accelerator.backward(loss(wrapped, batch))
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()

    trained(step, prune, first, EPOCHS, lambda epoch: accelerator.save_state(folder / str(epoch)))
    return model, pruner


def in_fabric(
    method: str, bf16: bool, folder: Path, first: int = 0, resume: Path | None = None
) -> tuple[nn.Module, Pruner]:
    fabric = pytest.importorskip("lightning.fabric").Fabric(
        accelerator="cpu", devices=1, precision="bf16-mixed" if bf16 else "32-true"
    )
    model = net()
    optimizer, schedule = adam(model)
    pruner = pruner_of(model, method, optimizer=optimizer)
    wrapped, optimizer = fabric.setup(model, optimizer)
    state = {"pruner": pruner, "model": wrapped, "optimizer": optimizer, "schedule": schedule}
    if resume is not None:
        fabric.load(resume, state)

    def step(batch: Any) -> None:
        fabric.backward(loss(wrapped, batch))
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()

    trained(step, pruner, first, EPOCHS, lambda epoch: fabric.save(folder / str(epoch), state))
    return model, pruner


@BOTH
@PRECISIONS
@pytest.mark.parametrize("loop", [accelerated, in_fabric])
def test_it_repeats_the_plain_loop_and_so_does_a_resumed_one(loop, method, bf16, tmp_path):
    expected = plain(method, bf16)
    model, pruner = loop(method, bf16, tmp_path / "a")
    assert pruner.report is not None
    assert pruner.report.epoch == CUT
    assert equal(model, expected)
    for epoch in range(EPOCHS - 1):  # before the cut, and after it
        resumed, _ = loop(method, bf16, tmp_path / "b", epoch + 1, tmp_path / "a" / str(epoch))
        assert equal(resumed, expected)


def test_a_state_from_before_is_refused(tmp_path):
    accelerated("snap", False, tmp_path / "a")
    (tmp_path / "a" / "0" / "earlycrop.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no earlycrop\.safetensors"):
        accelerated("snap", False, tmp_path / "b", 1, tmp_path / "a" / "0")


def test_looks_and_report_go_to_the_trackers(tmp_path):
    pytest.importorskip("accelerate")
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.tracking import GeneralTracker

    from earlycrop.integrations.accelerate import Prune

    class Tracker(GeneralTracker):
        name, requires_logging_directory, main_process_only = "list", False, False
        tracker = None

        def __init__(self) -> None:
            super().__init__()
            self.logged: list[Any] = []

        def store_init_configuration(self, values):
            pass

        def log(self, values, step, **options):
            self.logged.append((step, values))

    AcceleratorState._reset_state(True)
    tracker = Tracker()
    accelerator = Accelerator(cpu=True, log_with=tracker)
    accelerator.init_trackers("pruning")
    model = net()
    prune = Prune(pruner_of(model, "snap", optimizer=adam(model)[0]), accelerator)
    assert prune.check(0) is None
    report = prune.check(CUT, step=7)
    assert report is not None
    ((step, values),) = tracker.logged
    assert step == 7
    assert values["earlycrop/sparsity"] == report.weight_sparsity
