"""Control: the loss by hand, scores of its network against slow oracles, the loop, going on after a stop."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import earlycrop
from earlycrop import METHODS, EarlyCropError
from earlycrop_lab.checkpoints import Checkpoints
from earlycrop_lab.comparing.grids import get_preset, runs_of
from earlycrop_lab.data.rollouts import Transitions
from earlycrop_lab.models.actor_critic import ActorCritic, actor_critic
from earlycrop_lab.runs import folder_name, run
from earlycrop_lab.tasks import get_task, plan
from earlycrop_lab.tasks.control import Control, prepare, surrogate, train
from earlycrop_lab.tasks.description import prunes
from tests import dense
from tests.lab.data.corridor import registered
from tests.lab.test_resume import Cut, at_call, numbers
from tests.pruners import make_pruner
from tests.scores.worth import classes

SMALL = Control(method="earlycrop-s", sparsity=0.5, width=8, epochs=5, max_steps=20)
"""Of each epoch one rollout: a few steps, not a training."""

pytestmark = pytest.mark.filterwarnings("ignore::earlycrop.StarvationWarning")  # half of 8 units may be too few


@pytest.fixture(autouse=True)
def no_power_meter(monkeypatch):
    """CodeCarbon takes seconds to begin; it has tests of its own."""
    import codecarbon

    def absent(**_):
        raise OSError("not here")

    monkeypatch.setattr(codecarbon, "OfflineEmissionsTracker", absent)


# The loss ---------------------------------------------------------------------------------------------------------


def test_the_surrogate_by_hand():
    """Ratios 1.1, 2, 2, ½, ½ with ε = 0.2: what would move too far with profit is held, what would not is not."""
    probabilities = torch.tensor([0.55, 0.8, 0.8, 0.2, 0.2], dtype=torch.float64)
    old = torch.tensor([0.5, 0.4, 0.4, 0.4, 0.4], dtype=torch.float64)
    logits = torch.stack([probabilities.log(), (1 - probabilities).log()], 1)
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64)
    batch = Transitions(
        observations=torch.zeros(5, 4, dtype=torch.float64),
        actions=torch.zeros(5, dtype=torch.long),
        log_probabilities=old.log(),
        advantages=torch.tensor([1.0, 3.0, -3.0, 5.0, -5.0], dtype=torch.float64),
        returns=torch.tensor([1.0, 2.0, 3.0, 4.0, 1.0], dtype=torch.float64),
    )
    gains = 1.1 * 1, 1.2 * 3, 2 * -3, 0.5 * 5, 0.8 * -5
    expected = -sum(gains) / 5 + 0.5 * 4**2 / 5
    assert float(surrogate(lambda _: (logits, values), batch, 0.2)) == pytest.approx(expected, abs=1e-12)  # type: ignore[arg-type]


def experienced(width: int = 5, samples: int = 40) -> tuple[ActorCritic, Transitions]:
    """A small network in float64, and transitions that it took."""
    setup = prepare(Control(width=width, method="dense"), None, torch.device("cpu"))
    (batch,) = setup.scoring_now()
    pick = torch.linspace(0, len(batch.actions) - 1, samples).long()
    batch = Transitions(*(part[pick].double() if part.is_floating_point() else part[pick] for part in batch))
    return setup.model.double(), batch


def loss(model: nn.Module, batch: Transitions):
    return surrogate(model, batch, 0.2)


def test_where_the_policy_has_not_moved_its_slope_is_that_of_the_policy_gradient():
    """∇ = −mean Â ∇ log π(a|s) + mean (V − R) ∇V, though its value says nothing of it."""
    model, batch = experienced()
    logits, value = model(batch.observations)
    chosen = torch.distributions.Categorical(logits=logits).log_prob(batch.actions)
    batch = batch._replace(log_probabilities=chosen.detach())
    plain = -(batch.advantages * chosen).mean() + ((value - batch.returns).detach() * value).mean()
    slopes = [torch.autograd.grad(value, model.parameters()) for value in (loss(model, batch), plain)]
    for found, expected in zip(*slopes, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_on_a_new_rollout_the_scoring_loss_has_the_slope_of_the_policy_gradient():
    """In float32, as it is scored: no action is held for more or less likely than it was."""
    setup = prepare(Control(width=8, method="dense"), None, torch.device("cpu"))
    (batch,) = setup.scoring_now()
    logits, value = setup.model(batch.observations)
    log_chance = torch.distributions.Categorical(logits=logits).log_prob(batch.actions)
    plain = (value - batch.returns).square().mean() / 2 - (batch.advantages * log_chance).mean()
    losses = setup.loss(setup.model, batch), plain
    slopes = [torch.autograd.grad(loss, setup.model.parameters()) for loss in losses]
    for found, expected in zip(*slopes, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_of_a_policy_that_is_left_the_scoring_loss_is_the_training_loss_of_the_same_rollout():
    """Actions that have moved too far with profit have no slope; the others, and the value, have theirs."""
    setup = prepare(Control(width=8, method="dense"), None, torch.device("cpu"))
    (batch,) = setup.scoring_now()
    with torch.no_grad():
        for p in setup.model.parameters():
            p.mul_(8)
    logits, value = setup.model(batch.observations)
    log_chance = torch.distributions.Categorical(logits=logits).log_prob(batch.actions)
    moved = (log_chance - batch.log_probabilities).exp()
    held = ((moved > 1.2) & (batch.advantages > 0)) | ((moved < 0.8) & (batch.advantages < 0))
    assert held.float().mean() > 0.2
    plain = (value - batch.returns).square().mean() / 2 - (moved * batch.advantages * ~held).mean()
    slopes = [torch.autograd.grad(loss, setup.model.parameters()) for loss in (setup.loss(setup.model, batch), plain)]
    for found, expected in zip(*slopes, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


# Scores -----------------------------------------------------------------------------------------------------------


def scored(method: str, model: ActorCritic, batch: Transitions) -> earlycrop.Pruner:
    example = batch.observations[:2]
    return make_pruner(model, method, 0.5, example_inputs=example, loss=loss, batches=[batch], epochs=8)


def test_weights_are_worth_what_the_whole_hessian_says():
    model, batch = experienced()
    names = ["fc1.weight", "fc2.weight", "policy.weight", "value.weight"]
    theta, gradient, hessian = dense.full_hessian(model, loss, batch, names)
    for method, expected in (("snip", theta * gradient), ("crop-u-poster", theta * (hessian @ gradient))):
        found = scored(method, model, batch).scores()
        torch.testing.assert_close(found, expected.abs(), rtol=0, atol=1e-12)


def test_channels_are_worth_what_gates_written_by_hand_say():
    """c multiplies what each hidden layer computes before its rectifier; H(c) g(c) from the whole Hessian."""
    model, batch = experienced()

    def gated(c):
        def forward(x):
            hidden = torch.relu(c[:5] * model.fc1(x))
            hidden = torch.relu(c[5:] * model.fc2(hidden))
            return model.policy(hidden), model.value(hidden).squeeze(1)

        return surrogate(forward, batch, 0.2)  # type: ignore[arg-type]

    ones = torch.ones(10, dtype=torch.float64)
    gradient = torch.autograd.functional.jacobian(gated, ones)
    hessian = torch.autograd.functional.hessian(gated, ones)
    for method, expected in (("snap", gradient), ("crop-s-poster", hessian @ gradient)):
        pruner = scored(method, model, batch)
        found = torch.cat([pruner.scores()[classes(pruner, layer)] for layer in ("fc1", "fc2")])
        torch.testing.assert_close(found, expected.abs(), rtol=0, atol=1e-12)


def test_both_heads_lose_the_same_inputs():
    model, batch = experienced(width=16)
    report = scored("crop-s", model, batch).check(0)
    assert report.verification.exact
    assert model.policy.in_features == model.value.in_features == model.fc2.out_features < 16
    assert (model.policy.out_features, model.value.out_features, model.fc1.in_features) == (2, 1, 4)


def test_the_network_has_the_specified_size():
    model = actor_critic(observations=4, actions=2, seed=0)
    assert sum(p.numel() for p in model.parameters()) == 4 * 128 + 128 + 128 * 128 + 128 + 128 * 2 + 2 + 128 + 1
    assert get_task("control").description().width == 128


def test_the_seed_decides_its_weights_and_nothing_else():
    before = torch.get_rng_state()
    one, same, other = (actor_critic(observations=4, actions=2, width=4, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not any(torch.equal(one[key], other[key]) for key in one)


# The loop ---------------------------------------------------------------------------------------------------------


def test_a_run_from_its_description_to_its_numbers(tmp_path):
    result = run(SMALL, tmp_path)
    figures, (report, columns) = result.columns.metrics, (result.report, result.columns)
    assert [epoch.phase for epoch in result.epochs] == ["dense"] * 2 + ["sparse"] * 3
    assert columns.optimizer_steps == 5 * 20
    assert figures["environment_steps"] == (5 + 2) * 16 * 32  # a rollout an epoch, one for the widths, one at the cut
    assert figures["mean_return"] == result.epochs[-1].test
    assert 8 <= figures["mean_return"] <= 200
    assert figures["solved"] == 0
    assert report["samples"] <= 16 * 32
    assert columns.weight_sparsity == pytest.approx(0.5, abs=0.1)
    assert (
        tmp_path / folder_name(SMALL)
    ).name == "cartpole-v0-actor-critic-earlycrop-s-0.5-width8-epochs5-smoke20-seed0"


def test_dense_training_scores_on_nothing():
    trained = train(replace(SMALL.dense_twin(), epochs=2))
    assert trained.columns.metrics["environment_steps"] == 2 * 16 * 32


def test_a_seed_repeats_a_run():
    one, again = (train(replace(SMALL, epochs=3, method="snap")) for _ in range(2))
    assert numbers(one) == numbers(again)


@pytest.mark.parametrize("number", [30, pytest.param(70, marks=pytest.mark.slow)])
def test_cut_off_before_the_cut_and_after_it_it_ends_as_if_it_had_not_been(number, tmp_path):
    whole = train(SMALL)
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, torch.Tensor, "backward", number)
        with Checkpoints(tmp_path, of="a test") as checkpoints, pytest.raises(Cut):
            train(SMALL, checkpoints=checkpoints)
    with Checkpoints(tmp_path, of="a test") as checkpoints:
        found = train(SMALL, checkpoints=checkpoints)
    assert checkpoints.attempts == 2
    assert numbers(found) == numbers(whole)


QUICK = ("dense", "random-s", "snip", "snap", "grasp", "crop-u", "crop-s", "earlycrop-u", "earlycrop-s")
OF_NORMS = ("earlybird", "gate-decorators")
EVERY = [name for name in METHODS if name not in OF_NORMS]


def described(method: str) -> Control:
    return replace(SMALL.dense_twin(), method=method) if method == "dense" else replace(SMALL, method=method, epochs=10)


@pytest.mark.parametrize("method", QUICK)
def test_the_main_methods_find_what_to_remove(method):
    d = described(method)
    if prunes(METHODS[method]):
        found = plan(d)
        assert found.after.prunable < found.before.prunable == 4 * 8 + 8 * 8 + 8 * 2 + 8


@pytest.mark.slow
@pytest.mark.parametrize("method", EVERY)
def test_every_method_trains(method):
    d = replace(described(method), max_steps=4)
    if method == "crop-u-spread":  # at half its 120 weights, after four steps between cuts, it starves the network
        d = replace(d, sparsity=0.3)
    trained = train(d)
    assert (trained.report is None) == (method == "dense")
    assert math.isfinite(trained.columns.metrics["mean_return"])


@pytest.mark.parametrize("method", OF_NORMS)
def test_methods_of_norms_say_that_there_are_none(method):
    with pytest.raises(EarlyCropError, match="this ActorCritic has no norm"):
        plan(described(method))


@pytest.mark.slow
def test_it_solves_the_pole():
    trained = train(Control(method="dense", epochs=20))
    assert trained.columns.metrics["solved"] == 1
    assert trained.columns.metrics["mean_return"] >= 195


def test_any_environment_that_fits_trains():
    with registered(limit=6) as name:
        trained = train(Control(data=name, method="snap", sparsity=0.5, width=8, epochs=2, max_steps=3))
    assert "solved" not in trained.columns.metrics
    assert 1 <= trained.columns.metrics["mean_return"] <= 21


# Descriptions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"data": "cartpole"}, "Did you mean 'cartpole-v"),
        ({"network": "resnet18"}, "network of control is actor-critic, not 'resnet18'"),
        ({"train_size": 100}, "leave out train_size"),
        ({"discount": 1.0}, "discount is between 0 and 1; 1 is not"),
        ({"clip_ratio": 0.0}, "clip_ratio is between 0 and 1; 0 is not"),
        ({"width": 0}, "width has to be 1 or more"),
    ],
)
def test_what_cannot_be_is_refused(said, why):
    with pytest.raises(ValueError, match=why):
        Control(**said)


def test_an_environment_that_is_not_there_is_refused_when_it_is_needed():
    with pytest.raises(ValueError, match="gymnasium cannot make 'Nope-v1'"):
        train(Control(data="gym:Nope-v1", method="dense"))


def test_the_preset_has_ten_seeds_where_they_were_asked_for():
    runs = runs_of(get_preset("control"))
    assert {run.task for run in runs} == {"control"}
    seeds = {method: {run.seed for run in runs if run.method == method} for method in {run.method for run in runs}}
    assert {len(seeds[method]) for method in ("dense", "random-s", "snap", "earlycrop-s")} == {10}
    assert {len(found) for found in seeds.values()} == {3, 10}
