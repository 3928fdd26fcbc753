"""What a policy learns from: advantages by the sum that defines them, transitions of an environment known by heart."""

from itertools import islice

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

from earlycrop_lab.data.environments import load_environment
from earlycrop_lab.data.rollouts import Experience, Transitions, advantages, beginnings, play
from earlycrop_lab.models.actor_critic import actor_critic
from tests.lab.data.corridor import registered


class Known(nn.Module):
    """Action 1 has the logit `slope` · (x + `shift`), action 0 has 0; the value is 2 + 3 x."""

    def __init__(self, slope: float, shift: float = 0.0, place: int = 0):
        super().__init__()
        self.slope, self.shift, self.place = nn.Parameter(torch.tensor(slope)), shift, place

    def forward(self, x):
        x = x[:, self.place]
        return torch.stack([torch.zeros_like(x), self.slope * (x + self.shift)], 1), 2 + 3 * x


NEVER = -1e9, 1.0
"""Action 0 always, so that a corridor goes on to its limit."""


def obvious(rewards, values, terminated, truncated, discount, trace):
    """Σ_k (γλ)^k δ_{t+k} for each t on its own, up to the end of the episode or of what is there."""
    found = torch.zeros_like(rewards)
    for t in range(len(rewards)):
        for k in range(t, len(rewards)):
            after = 0 if terminated[k] else values[k + 1]
            found[t] += (discount * trace) ** (k - t) * (rewards[k] + discount * after - values[k])
            if terminated[k] or truncated[k]:
                break
    return found


def test_advantages_are_the_sum_that_defines_them():
    generator = torch.Generator().manual_seed(0)
    t, n = 40, 5
    rewards = torch.randn(t, n, generator=generator, dtype=torch.float64)
    values = torch.randn(t + 1, n, generator=generator, dtype=torch.float64)
    terminated, truncated = (torch.rand(2, t, n, generator=generator) < 0.1).unbind()
    assert (terminated & truncated).any()
    found = advantages(rewards, values, terminated, truncated, 0.97, 0.9)
    for k in range(n):
        expected = obvious(rewards[:, k], values[:, k], terminated[:, k], truncated[:, k], 0.97, 0.9)
        torch.testing.assert_close(found[:, k], expected, rtol=0, atol=1e-12)


def test_advantages_by_hand():
    """One step that is terminated, one that is truncated, one that goes on: γ = ½, V = 4, then 6."""
    one, values = torch.ones(1, 3), torch.tensor([[4.0] * 3, [6.0] * 3])
    terminated, truncated = torch.tensor([[True, False, False]]), torch.tensor([[False, True, False]])
    assert advantages(one, values, terminated, truncated, 0.5, 0.9).tolist() == [[-3.0, 0.0, 0.0]]


def everything(experience: Experience, number: int = 0) -> Transitions:
    """All transitions of an epoch, once each."""
    return Transitions(*map(torch.cat, zip(*experience.epoch(number), strict=True)))


def collect(name: str, policy: nn.Module, steps: int, **options) -> list[Transitions]:
    """A rollout in one copy, in the order of its steps."""
    options = {"copies": 1, "steps": steps, "rollouts": 1, "trace": 1.0, "discount": 0.5} | options
    return Experience(load_environment(name), policy, **options).scoring()


def test_transitions_of_an_episode_that_its_limit_ends():
    """Steps 0 to 4, a step that only begins again, 0 to 4, again, 0: with λ = 1 and γ = ½ the return is
    (1 − γ) Σ γ^k r + γ^n V(last), by hand, and V(5) = 17, V(1) = 5."""
    with registered(limit=5) as name:
        (found,) = collect(name, Known(*NEVER), 13)
    assert found.observations.flatten().tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0]
    assert found.actions.tolist() == [0] * 11
    assert found.log_probabilities.tolist() == [0] * 11
    returns = [0.5 * 5 + 0.5 * 17]
    for reward in (4, 3, 2, 1):
        returns.insert(0, 0.5 * reward + 0.5 * returns[0])
    assert found.returns.tolist() == pytest.approx([*returns, *returns, 0.5 * 1 + 0.5 * 5])


def test_transitions_of_an_episode_that_is_terminated():
    """At 0 both actions are as likely, at 1 the episode ends for certain: nothing comes after it."""
    with registered(limit=5) as name:
        (found,) = collect(name, Known(1e9), 40)
    x, r, a = found.observations.flatten(), found.returns, found.actions
    assert set(x.tolist()) == {0.0, 1.0}
    assert set(a[x == 0].tolist()) == {0, 1}
    assert a[x == 1].eq(1).all()
    torch.testing.assert_close(r[x == 1], torch.full_like(r[x == 1], 0.5 * 2))
    ends = (x == 0) & (a == 1)
    torch.testing.assert_close(r[ends], torch.full_like(r[ends], 0.5 * 1))
    goes_on = (x == 0) & (a == 0)
    goes_on[-1] = False  # of which the rollout may have seen the end or not
    torch.testing.assert_close(r[goes_on], torch.full_like(r[goes_on], 0.5 * 1 + 0.5 * 0.5 * 2))
    resets = 40 - len(x)
    assert abs(resets - int((a == 1).sum())) <= 1
    torch.testing.assert_close(found.log_probabilities[x == 0], torch.full_like(r[x == 0], 0.5).log())
    torch.testing.assert_close(found.log_probabilities[x == 1], torch.zeros_like(r[x == 1]))


def test_a_rollout_goes_on_where_the_last_one_ended():
    with registered(limit=50) as name:
        environment = load_environment(name)
        found = everything(Experience(environment, Known(*NEVER), 4, copies=1, steps=4, rollouts=3, passes=1))
    assert sorted(found.observations.flatten().tolist()) == [*range(12)]


def pole(seed: int = 0, **options) -> Experience:
    environment = load_environment("cartpole-v0")
    policy = actor_critic(observations=4, actions=2, width=8, seed=1)
    return Experience(
        environment, policy, **{"copies": 4, "steps": 16, "rollouts": 2, "passes": 3, "seed": seed} | options
    )


def test_an_epoch_is_its_rollouts_each_gone_through_as_often_as_asked():
    experience = pole(batch_size=20)
    batches = list(experience.epoch(0))
    assert len(batches) == len(experience) == 2 * 3 * 4
    assert all(10 < len(batch.actions) <= 16 for batch in batches)
    first = batches[:12]  # the three passes through the first rollout
    passes = [torch.cat([batch.returns for batch in first[k : k + 4]]) for k in (0, 4, 8)]
    assert all(torch.equal(one.sort().values, passes[0].sort().values) for one in passes)
    assert not torch.equal(passes[0], passes[1])
    one = torch.cat([batch.advantages for batch in first[:4]])
    assert float(one.mean()) == pytest.approx(0, abs=1e-6)
    assert float(one.std()) == pytest.approx(1, abs=1e-5)
    assert experience.taken == 2 * 4 * 16


def test_an_epoch_depends_on_the_seed_its_number_and_the_policy_alone():
    before = torch.get_rng_state()
    experience, twin = pole(), pole()
    whole = [everything(experience, number) for number in range(3)]
    for alike in (everything(experience, 1), everything(twin, 1)):
        assert all(map(torch.equal, alike, whole[1]))
    others = (whole[0], everything(pole(seed=1), 1))
    assert not any(torch.equal(other.returns, whole[1].returns) for other in others)
    assert torch.equal(torch.get_rng_state(), before)


def test_each_rollout_is_by_the_policy_as_it_then_is():
    experience = pole(passes=1)
    batches = []
    for number, batch in enumerate(experience.epoch(0)):
        batches.append(batch)
        with torch.no_grad():
            if number == 0:
                experience.policy.policy.bias.add_(torch.tensor([50.0, 0.0]))  # from now on action 0
    assert set(batches[0].actions.tolist()) == {0, 1}
    assert set(batches[1].actions.tolist()) == {0}


def test_log_probabilities_and_values_are_the_policys():
    experience = pole(trace=0.0, rollouts=1, passes=1)
    batch = everything(experience)
    logits, _ = experience.policy(batch.observations)
    chosen = torch.distributions.Categorical(logits=logits).log_prob(batch.actions)
    torch.testing.assert_close(chosen, batch.log_probabilities, rtol=0, atol=1e-6)


def test_scoring_begins_with_the_same_observations_whatever_the_policy_and_counts_its_steps():
    experience = pole()
    (first,) = experience.scoring()
    assert 100 < len(first.actions) < 128
    assert experience.taken == 128
    with torch.no_grad():
        experience.policy.policy.bias.add_(torch.tensor([50.0, 0.0]))
    (second,) = experience.scoring()
    assert torch.equal(first.observations[:4], second.observations[:4])
    assert set(second.actions.tolist()) == {0}
    assert experience.taken == 256


def test_an_epoch_is_as_long_as_the_longest_episode_unless_it_is_said():
    experience = pole(rollouts=None, steps=32, passes=10, batch_size=64)
    assert len(experience) == 7 * 10 * 2  # 7 x 32 is the least that is not below 200


def test_a_smoke_run_ends_early():
    experience = pole(most=5, batch_size=16)
    assert len(experience) == len(list(experience.epoch(0))) == 5
    assert experience.taken == 4 * 16
    (scored,) = experience.scoring()
    assert len(scored.actions) <= 4 * 16


def test_what_was_taken_is_kept():
    experience, other = pole(), pole()
    next(experience.epoch(0))
    other.load_state_dict(experience.state_dict())
    assert other.taken == experience.taken == 64


@pytest.mark.parametrize("slope", [-1e9, 30.0])
def test_returns_are_those_of_the_scalar_environment(slope):
    """Always to the left; and a policy that pushes to where the pole falls, for a while."""
    environment, policy = load_environment("cartpole-v0"), Known(slope, place=2)
    expected = []
    for begun in beginnings(environment, 20):
        scalar = gymnasium.make("CartPole-v1", max_episode_steps=200)
        scalar.reset(seed=0)
        scalar.unwrapped.state = seen = begun.double().numpy()
        total, over = 0.0, False
        while not over:
            logits, _ = policy(torch.from_numpy(np.asarray(seen, np.float32))[None])
            seen, reward, terminated, truncated, _ = scalar.step(int(logits.argmax()))
            total, over = total + float(reward), terminated or truncated
        expected.append(total)
    assert play(environment, policy, 20).tolist() == expected


def test_what_is_played_is_the_same_each_time_and_is_not_trained_on():
    environment = load_environment("cartpole-v0")
    played = beginnings(environment, 8)
    assert torch.equal(played, beginnings(environment, 8))
    trained = next(iter(pole(copies=8, passes=1, batch_size=128).scoring())).observations[:8]
    assert not (played[:, None] == trained[None]).all(2).any()
    with registered(limit=6) as name:
        corridor = load_environment(name)
        assert play(corridor, Known(*NEVER), 3).tolist() == [1 + 2 + 3 + 4 + 5 + 6] * 3
        assert play(corridor, Known(1e9, -0.5), 2).tolist() == [1 + 2] * 2


def test_first_minibatches_are_the_same_however_many_are_taken():
    whole = list(islice(pole(batch_size=16).epoch(2), 3))
    some = list(pole(batch_size=16, most=3).epoch(2))
    assert all(all(map(torch.equal, one, other)) for one, other in zip(whole, some, strict=True))
