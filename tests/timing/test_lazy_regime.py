"""The poster's rule on sequences whose answers are known: section 8.7."""

import math

import pytest
import torch
from torch import nn

from earlycrop.methods import METHODS, replace
from earlycrop.timing import Drift, LazyRegime, Now
from tests import dense
from tests.pruners import make_pruner

R = [1.0, 1.5, 1.75, 1.875, 1.94]


def fires(
    rule: LazyRegime, r: list[float], epochs: float | None = None, sparsity: float = 0.9
) -> tuple[int, str] | None:
    """The first check (from one, an epoch each) at which the rule says why."""
    for t in range(1, len(r) + 1):
        if reason := rule.reason(Now(t, epochs, r[:t], sparsity)):
            return t, reason
    return None


@pytest.mark.parametrize(("tau", "at"), [(0.2, 4), (0.1, 5), (0.3, 3), (0.6, 2)])
def test_the_distance_itself(tau, at):
    assert fires(LazyRegime(tau, power=1), R) == (at, "trigger")


def test_the_distance_itself_never_comes_so_near_and_the_cap_decides():
    assert fires(LazyRegime(0.02, power=1), R) is None
    assert fires(LazyRegime(0.02, power=1, max_epochs=5), R) == (5, "cap")
    assert fires(LazyRegime(0.02, power=1), R, epochs=16) == (4, "cap")


def test_the_squared_distance():
    assert fires(LazyRegime(0.3), R) == (5, "trigger")
    assert fires(LazyRegime(0.2), R) is None
    assert LazyRegime().signal(R)[1:] == pytest.approx([1.25, 0.8125, 0.453125, 0.247975], abs=1e-9)
    assert math.isnan(LazyRegime().signal(R)[0])


def test_the_posters_power_is_two():
    assert LazyRegime().power == 2


@pytest.mark.parametrize(
    ("sparsity", "tau"), [(0.9, 0.1), (0.98, 0.02), (0.995, 0.01), (0.999, 0.01), (0.5, 0.5), (0.0, 1.0)]
)
def test_tau_is_what_stays_and_no_less_than_a_hundredth(sparsity, tau):
    assert LazyRegime().threshold(sparsity) == pytest.approx(tau)
    assert LazyRegime(0.3).threshold(sparsity) == 0.3


def test_a_distance_that_shrinks_is_a_move_too():
    assert fires(LazyRegime(0.1, power=1), [1.0, 0.4]) is None
    assert fires(LazyRegime(0.1), [1.0, 0.4]) is None
    assert LazyRegime(power=1).signal([1.0, 0.4])[1] == pytest.approx(0.6)


@pytest.mark.parametrize("power", [1, 2])
def test_weights_that_never_move_are_pruned_at_once_and_it_is_said_why(power):
    assert fires(LazyRegime(power=power), [0.0, 0.0]) == (1, "static")


def test_a_first_look_cannot_fire():
    assert fires(LazyRegime(1e9), [1.0]) is None


def test_not_before_min_epochs():
    assert fires(LazyRegime(0.6, power=1, min_epochs=4), R) == (4, "trigger")


@pytest.mark.parametrize(("epochs", "at"), [(40, 10), (20, 5), (3, 1), (6, 2), (None, None)])
def test_the_cap_is_a_quarter_of_the_budget(epochs, at):
    found = fires(LazyRegime(1e-9), [float(t) for t in range(1, 30)], epochs)
    assert found == (None if at is None else (at, "cap"))


def test_the_trigger_goes_before_the_cap():
    assert fires(LazyRegime(0.2, power=1, max_epochs=4), R) == (4, "trigger")


def test_looks_are_an_interval_apart():
    rule = LazyRegime(interval=0.5)
    looks, last = [], None
    for step in range(21):
        epoch = step / 10
        if rule.due(epoch, last):
            looks.append(epoch)
            last = epoch
    assert looks == [0.5, 1.0, 1.5, 2.0]


@pytest.mark.parametrize("steps", [3, 7, 10, 391])
def test_an_interval_of_an_epoch_is_an_epoch_however_often_it_is_asked(steps):
    """Δ(1) is the drift of the first epoch, not of the first step after which somebody asked."""
    rule = LazyRegime()
    looks, last = [], None
    for step in range(4 * steps + 1):
        epoch = step / steps
        if rule.due(epoch, last):
            looks.append(epoch)
            last = epoch
    assert looks == [1.0, 2.0, 3.0, 4.0]


def test_looks_do_not_drift_away_from_their_interval():
    rule = LazyRegime(interval=0.5)
    looks, last = [], None
    for step in range(22):
        epoch = step / 7
        if rule.due(epoch, last):
            looks.append(step)
            last = epoch
    assert looks == [4, 7, 11, 14, 18, 21]  # the first chance after each half epoch


@pytest.mark.parametrize(
    "options",
    [
        {"tau": 0},
        {"tau": -1},
        {"power": 3},
        {"interval": 0},
        {"interval": -1},
        {"reference": "epoch2"},
        {"params": "some"},
    ],
)
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises(Exception, match=next(iter(options))):
        LazyRegime(**options)


# The drift itself -----------------------------------------------------------------------------------------------


def test_the_drift_by_hand():
    now = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([[0.0]])}
    drift = Drift(lambda: now)
    now = {"a": torch.tensor([3.0, 4.0 + 5.0]), "b": torch.tensor([[12.0]])}
    assert drift.read(1.0) == pytest.approx(13 / 5)


def test_the_reference_is_a_copy():
    parameter = nn.Parameter(torch.ones(4))
    drift = Drift(lambda: {"p": parameter})
    with torch.no_grad():
        parameter.mul_(2)
    assert drift.read(1.0) == pytest.approx(1.0)


def test_the_reference_may_be_the_end_of_the_first_epoch():
    parameter = nn.Parameter(torch.ones(4))
    drift = Drift(lambda: {"p": parameter}, from_epoch=1)
    seen = []
    for epoch in (0.5, 1.0, 2.0, 3.0):
        with torch.no_grad():
            parameter.add_(1)
        seen.append(drift.read(epoch))
    assert seen[:2] == [None, None]
    assert seen[2:] == pytest.approx([1 / 3, 2 / 3])


def run(method, *, epochs=40, checks=10, lr=0.05, **options):
    """A little training with a pruner beside it."""
    net, batch = dense.mlp(4, 12, 3), dense.vectors(12)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    pruner = make_pruner(
        net, method, 0.5, example_inputs=batch[0], loss=dense.cross_entropy, batches=[batch], optimizer=optimizer,
        epochs=epochs, **options,
    )  # fmt: skip
    start = {name: p.detach().clone() for name, p in net.named_parameters()}
    history = []
    for epoch in range(checks):
        report = pruner.check(epoch)
        if report is not None:
            return pruner, report, history
        for _ in range(3):
            optimizer.zero_grad()
            dense.cross_entropy(net, batch).backward()
            optimizer.step()
        history.append({name: p.detach().clone() for name, p in net.named_parameters()})
    return pruner, None, (start, history)


def lazy(**options):
    return replace(METHODS["earlycrop-u"], timing=LazyRegime(**options))


def test_the_curve_is_the_drift_of_the_prunable_weights_since_the_pruner_was_made():
    pruner, report, (start, history) = run(lazy(tau=1e-9))
    assert report is None
    names = ["0.weight", "2.weight"]
    norm = sum(start[name].square().sum() for name in names).sqrt()
    expected = [
        float(sum((now[name] - start[name]).square().sum() for name in names).sqrt() / norm) for now in history[:-1]
    ]
    assert [check.value for check in pruner.curve] == pytest.approx(expected, rel=1e-12)
    assert [check.epoch for check in pruner.curve] == list(range(1, 10))
    assert {check.learning_rate for check in pruner.curve} == {0.05}
    assert {check.threshold for check in pruner.curve} == {1e-9}


def test_the_authors_preset_looks_from_epoch_one_and_fires_at_epoch_three_at_the_earliest():
    method = lazy(tau=1e9, power=1, reference="epoch1", params="all")
    pruner, report, _ = run(method)
    assert (report.epoch, report.reason) == (3, "trigger")
    assert [check.epoch for check in pruner.curve] == [2, 3]
    assert report.curve == tuple(pruner.curve)


def test_from_initialisation_it_fires_at_epoch_two_at_the_earliest():
    _, report, _ = run(lazy(tau=1e9))
    assert (report.epoch, report.reason) == (2, "trigger")


def test_without_learning_it_prunes_at_the_first_look():
    _, report, _ = run(lazy(), lr=0.0)
    assert (report.epoch, report.reason) == (1, "static")


def test_at_the_cap_it_prunes_and_says_so():
    _, report, _ = run(lazy(tau=1e-9), epochs=12)
    assert (report.epoch, report.reason) == (3, "cap")
