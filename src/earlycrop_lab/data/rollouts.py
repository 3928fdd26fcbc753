"""A policy's experience in an environment: transitions collected by the current policy, with their advantages.

An epoch is a number of steps in several copies of the environment, divided into rollouts. Each rollout is collected by
the current policy and used for several passes in minibatches, as in proximal policy optimisation (Schulman et al.,
2017). An epoch begins with fresh environments and depends only on the seed, its number and the policy, so an
interrupted run can resume at any epoch.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from earlycrop_lab.data.chance import generator
from earlycrop_lab.data.environments import Environment

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

TRAINING, SCORING, EVALUATION = range(3)
"""The purposes of the streams of random numbers."""


class Transitions(NamedTuple):
    """Steps that a policy took, in any order; losses are means over them."""

    observations: Float[Tensor, "n d"]
    actions: Int64[Tensor, "n"]
    log_probabilities: Float[Tensor, "n"]
    """Log-probabilities of the actions when they were taken."""
    advantages: Float[Tensor, "n"]
    """Advantages, normalised to mean 0 and standard deviation 1 over the rollout."""
    returns: Float[Tensor, "n"]
    """Targets of the value."""


@dataclass(eq=False)
class Experience:
    """A policy's experience in copies of an environment, epoch by epoch, as minibatches.

    The policy maps observations to the logits of the actions and to a value, which estimates (1 − γ) times the
    discounted sum of rewards, that is, a weighted mean of rewards: so the value's loss has the scale of the policy's,
    whatever the length of an episode.

    Args:
        environment: The environment to act in.
        policy: The policy that acts, always in its current state.
        batch_size: Transitions in a minibatch; a few less where an episode ended in the rollout.
        copies: The number of environments side by side.
        steps: Steps of each copy in a rollout.
        rollouts: Rollouts in an epoch; by default enough for the longest episode, so that its end is seen too.
        passes: Passes through each rollout.
        discount: The discount factor γ.
        trace: λ of the advantages.
        seed: Seed of environments, actions and order.
        most: The most minibatches of an epoch; by default all.
    """

    environment: Environment
    policy: nn.Module
    batch_size: int = 128
    copies: int = 16
    steps: int = 32
    rollouts: int | None = None
    passes: int = 5
    discount: float = 0.99
    trace: float = 0.95
    seed: int = 0
    most: int | None = None
    taken: int = field(default=0, init=False)
    """Environment steps so far, those for scoring included."""

    def __post_init__(self):
        self._env = self.environment.copies(self.copies)
        self._in_an_epoch = self.rollouts or -(-self.environment.limit // self.steps)

    @property
    def _minibatches(self) -> int:
        """The number of minibatches in a pass."""
        return -(-self.copies * self.steps // self.batch_size)

    def __len__(self) -> int:
        whole = self._in_an_epoch * self.passes * self._minibatches
        return whole if self.most is None else min(self.most, whole)

    def epoch(self, number: int) -> Iterator[Transitions]:
        """The minibatches of an epoch, counted from 0; each rollout is collected just before its first minibatch."""
        return islice(self._epoch(generator(TRAINING, self.seed, number)), len(self))

    def _epoch(self, chance: torch.Generator) -> Iterator[Transitions]:
        for rollout in self._rollouts(chance, self.steps, self._in_an_epoch):
            for _ in range(self.passes):
                order = torch.randperm(len(rollout.actions), generator=chance).to(rollout.actions.device)
                for some in order.tensor_split(self._minibatches):
                    yield Transitions(*(part[some] for part in rollout))

    def scoring(self) -> list[Transitions]:
        """One rollout of an epoch's length by the current policy, always from the same initial states."""
        steps = self.steps * (self._in_an_epoch if self.most is None else 1)
        return list(self._rollouts(generator(SCORING, self.seed), steps, 1))

    def _rollouts(self, chance: torch.Generator, steps: int, count: int) -> Iterator[Transitions]:
        """Collect `count` consecutive rollouts of `steps` steps each, beginning with fresh environments."""
        now, _ = self._env.reset(seed=_seed(chance))
        begins = np.zeros(self.copies, bool)  # whether the last episode has ended, so that a step only begins another
        for _ in range(count):
            taken: list[tuple[Tensor, ...]] = []
            for _ in range(steps):
                observed = torch.from_numpy(now).float()
                logits, value = _act(self.policy, observed)
                log_chances = logits.log_softmax(1)
                action = torch.multinomial(log_chances.exp(), 1, generator=chance)
                now, *outcome, _ = self._env.step(action.squeeze(1).numpy())
                step = (observed, action.squeeze(1), log_chances.gather(1, action).squeeze(1), value)
                taken.append((*step, *map(torch.from_numpy, (*outcome, begins))))
                begins = outcome[1] | outcome[2]
            self.taken += steps * self.copies
            observations, actions, log_probabilities, values, rewards, terminated, truncated, begun = map(
                torch.stack, zip(*taken, strict=True)
            )
            _, last = _act(self.policy, torch.from_numpy(now).float())
            found = advantages(
                (1 - self.discount) * rewards.float(),
                torch.cat([values, last[None]]),
                terminated,
                truncated | begun,
                self.discount,
                self.trace,
            )
            standard = (found - found[~begun].mean()) / found[~begun].std().clamp_min(1e-8)
            parts = (observations, actions, log_probabilities, standard, found + values)
            device = next(self.policy.parameters()).device
            yield Transitions(*(part[~begun].to(device) for part in parts))

    def state_dict(self) -> dict[str, int]:
        """The number of steps taken."""
        return {"taken": self.taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue counting from there."""
        self.taken = state["taken"]


def advantages(
    rewards: Float[Tensor, "t n"],
    values: Float[Tensor, "t+1 n"],
    terminated: Bool[Tensor, "t n"],
    cut: Bool[Tensor, "t n"],
    discount: float,
    trace: float,
) -> Float[Tensor, "t n"]:
    """Â_t = Σ_k (γλ)^k δ_{t+k} with δ_t = r_t + γ V(s_{t+1}) − V(s_t) (Schulman et al., 2016, equation 16).

    The sum ends with the episode. After a terminated episode V(s_{t+1}) counts as 0; where an episode was only cut (by
    its limit of steps, or by the end of the rollout) the value stands for the rest.

    >>> one = torch.ones(2, 1)
    >>> ends = torch.tensor([[False], [True]])
    >>> advantages(one, torch.zeros(3, 1), ends, torch.zeros_like(ends), discount=0.5, trace=1.0).tolist()
    [[1.5], [1.0]]
    """
    found, later = torch.empty_like(rewards), torch.zeros_like(rewards[0])
    for t in reversed(range(len(rewards))):
        surprise = rewards[t] + discount * values[t + 1] * ~terminated[t] - values[t]
        found[t] = later = surprise + discount * trace * later * ~(terminated[t] | cut[t])
    return found


def play(environment: Environment, policy: nn.Module, episodes: int = 100) -> Float[Tensor, "episodes"]:
    """The returns of episodes in which the likeliest action is taken, always from the same initial states."""
    env, observed = _begun(environment, episodes)
    returns, going = np.zeros(episodes), np.ones(episodes, bool)
    while going.any():
        logits, _ = _act(policy, observed)
        now, reward, terminated, truncated, _ = env.step(logits.argmax(1).numpy())
        observed = torch.from_numpy(now).float()
        returns += reward * going
        going &= ~(terminated | truncated)
    env.close()
    return torch.from_numpy(returns)


def beginnings(environment: Environment, episodes: int) -> Float[Tensor, "episodes d"]:
    """The observations at the beginning of the episodes of `play`."""
    env, observed = _begun(environment, episodes)
    env.close()
    return observed


def _begun(environment: Environment, episodes: int) -> tuple["VectorEnv", Float[Tensor, "episodes d"]]:
    env = environment.copies(episodes)
    now, _ = env.reset(seed=_seed(generator(EVALUATION)))
    return env, torch.from_numpy(now).float()


@torch.no_grad()
def _act(
    policy: nn.Module, observations: Float[Tensor, "n d"]
) -> tuple[Float[Tensor, "n actions"], Float[Tensor, "n"]]:
    """The policy's logits and values, on the CPU, where the environments are."""
    logits, value = policy(observations.to(next(policy.parameters()).device))
    return logits.cpu(), value.cpu()


def _seed(chance: torch.Generator) -> int:
    return int(torch.randint(2**31 - 1, (), generator=chance))
