"""A scoring, a cut or a report that fails: everything is as it was, and the next try succeeds."""

import pytest
import torch

from earlycrop.errors import ScoreError, VerificationError
from earlycrop.structure import Verification
from earlycrop.units import channels as channels_module
from tests import dense
from tests.small import Failing, adam, interrupted, make, small, train


def nan(loss):
    return loss * torch.nan


def bad_scores(loss):
    """A finite loss whose slope is not."""
    return loss + (loss - loss.detach()).abs().sqrt()


@pytest.mark.parametrize(
    ("how", "error", "scorings", "optimizer_state"),
    [
        (nan, ScoreError, 0, "slice"),
        (nan, ScoreError, 2, "slice"),
        (interrupted, KeyboardInterrupt, 2, "reset"),
        (bad_scores, ScoreError, 2, "slice"),
    ],
)
@pytest.mark.parametrize("name", ["cropit-s", "cropit-u"])
def test_a_failure_at_any_step_leaves_model_and_optimizer_bit_for_bit(name, optimizer_state, scorings, how, error):
    """Two passes a scoring; after two scorings two cuts were made, and all is undone."""
    net = small()
    optimizer = adam(net)
    loss = Failing(10**9, how)
    options = {"bn_mode": "running", "optimizer_state": optimizer_state}
    pruner = make(net, optimizer, name, loss=loss, **options)
    train(net, optimizer)
    before, keep = dense.everything(net, optimizer), pruner.units.keep.clone()
    scores_before = pruner.scores()
    loss.calls, loss.after = 0, 2 * scorings
    with pytest.raises(error):
        pruner.check(0)
    assert loss.calls >= 2 * scorings + 1
    assert dense.everything(net, optimizer) == before
    assert torch.equal(pruner.units.keep, keep)
    assert not pruner.pruned
    loss.after = 10**9  # mended: it goes on as if nothing had been
    assert torch.equal(pruner.scores(), scores_before)
    report = pruner.check(0)
    twin = small()
    other = adam(twin)
    train(twin, other)
    expected = make(twin, other, name, **options).check(0)
    assert report.after == expected.after
    train(net, optimizer)
    train(twin, other)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize("name", ["snip", "crop-s"])
def test_a_report_that_cannot_be_made_undoes_the_cut(name, monkeypatch):
    net = small()
    optimizer = adam(net)
    pruner = make(net, optimizer, name)
    train(net, optimizer)
    before = dense.everything(net, optimizer)
    with monkeypatch.context() as patch:
        patch.setattr(type(pruner.units), "collapsed", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pruner.check(0)
    assert dense.everything(net, optimizer) == before
    assert (pruner.report, pruner.cuts, bool(pruner.units.keep.all())) == (None, 0, True)
    assert pruner.check(0)


@pytest.mark.parametrize("optimizer_state", ["slice", "reset"])
def test_a_cut_that_is_not_exact_is_undone(monkeypatch, optimizer_state):
    net = small()
    optimizer = adam(net)
    pruner = make(net, optimizer, "cropit-s", optimizer_state=optimizer_state)
    train(net, optimizer)
    before = dense.everything(net, optimizer)
    monkeypatch.setattr(channels_module.Verifier, "compare", lambda *_: Verification(0.5, 0.5))
    with pytest.raises(VerificationError, match=r"5\.0e-01"):
        pruner.check(0)
    assert dense.everything(net, optimizer) == before
    assert bool(pruner.units.keep.all())
    assert not pruner.pruned


def test_without_verification_nothing_is_compared(monkeypatch):
    monkeypatch.setattr(channels_module.Verifier, "compare", lambda *_: pytest.fail("compared"))
    assert make(small(), None, "crop-s", verify=False).check(0).verification is None
