"""Table B at reduced width: the large network is made small before it has a training state."""

import pytest
import torch

import earlycrop
from earlycrop_lab.tasks import session
from earlycrop_lab.tasks.classification import Classification, train

TWIN = Classification(
    method="crop-s",
    sparsity=0.985,
    network="resnext101-32x48d",
    width=4,
    data="digits",
    train_size=40,
    batch_size=20,
    epochs=2,
)


def test_beyond_a_size_there_is_no_proof_which_holds_a_copy(monkeypatch):
    run = Classification(method="crop-s", network="mlp", data="digits", train_size=40, batch_size=20, epochs=1)
    for parameters, proved in ((0, False), (10**9, True)):
        monkeypatch.setattr(session, "PROVED", parameters)
        report = train(run).report
        assert report is not None
        assert (report.verification is not None) == proved


@pytest.mark.slow
@pytest.mark.parametrize("method", ["crop-s", "earlycrop-s"])
def test_a_resnext_is_cut_before_or_after_a_dense_phase(method, monkeypatch):
    held = []
    prune = earlycrop.Pruner._prune

    def spied(self, *args):
        assert self.optimizer is not None
        held.append(sum(t.numel() for s in self.optimizer.state.values() for t in s.values()))
        return prune(self, *args)

    monkeypatch.setattr(earlycrop.Pruner, "_prune", spied)
    trained = train(Classification(**{**vars(TWIN), "method": method, "epochs": 2 if method == "crop-s" else 5}))
    report, columns = trained.report, trained.columns
    assert report is not None
    assert report.verification is not None
    assert report.verification.exact
    assert columns.weight_sparsity == pytest.approx(0.985, abs=0.002)
    assert (held == [0]) == (method == "crop-s")
    parameters = [parameter.numel() for parameter in trained.model.parameters()]
    assert sum(parameters) == columns.parameters_after < 0.03 * columns.parameters_before
    assert (columns.dense_memory_bytes is None) == (method == "crop-s")
    assert isinstance(trained.model, torch.nn.Module)
