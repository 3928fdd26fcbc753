"""What a policy learns from in an environment: transitions, collected by the policy as it is, with their advantages.

An epoch is so many steps of several copies of the environment, divided into rollouts. Each is collected by the policy
as it then is and gone through several times in minibatches, which is what proximal policy optimisation does (Schulman
et al., 2017). An epoch begins with fresh environments and depends on the seed, its number and the policy alone, so a
run that was cut off goes on with the epoch where it was.
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
"""What a stream of random numbers is for."""


class Transitions(NamedTuple):
    """Steps that a policy took, in any order; the mean over them is a loss."""

    observations: Float[Tensor, "n d"]
    actions: Int64[Tensor, "n"]
    log_probabilities: Float[Tensor, "n"]
    """Of the actions, when they were taken."""
    advantages: Float[Tensor, "n"]
    """With mean 0 and standard deviation 1 over the rollout."""
    returns: Float[Tensor, "n"]
    """What the value is to become."""


@dataclass(eq=False)
class Experience:
    """What the policy does in copies of an environment, epoch by epoch, as minibatches to learn from.

    The policy maps observations to the logits of the actions and to a value, which stands for (1 − γ) times the
    discounted sum of rewards, that is for a mean of rewards: so the loss of the value is of the size of the policy's,
    whatever the length of an episode.

    Args:
        environment: Where it acts.
        policy: Who acts, as it is whenever that is.
        batch_size: Transitions in a minibatch; a few less where an episode ended in the rollout.
        copies: Environments side by side.
        steps: Of each copy in a rollout.
        rollouts: In an epoch; by default, as many as the longest episode needs, so that its end is seen too.
        passes: Through each rollout.
        discount: γ.
        trace: λ of the advantages.
        seed: Of environments, actions and order.
        most: The most minibatches of an epoch; all of them by default.
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
    """Steps of environments so far, those of scoring included."""

    def __post_init__(self):
        self._env = self.environment.copies(self.copies)
        self._in_an_epoch = self.rollouts or -(-self.environment.limit // self.steps)

    @property
    def _minibatches(self) -> int:
        """Of a pass."""
        return -(-self.copies * self.steps // self.batch_size)

    def __len__(self) -> int:
        whole = self._in_an_epoch * self.passes * self._minibatches
        return whole if self.most is None else min(self.most, whole)

    def epoch(self, number: int) -> Iterator[Transitions]:
        """The minibatches of that epoch, counted from 0, each rollout collected when its first is asked for."""
        return islice(self._epoch(generator(TRAINING, self.seed, number)), len(self))

    def _epoch(self, chance: torch.Generator) -> Iterator[Transitions]:
        for rollout in self._rollouts(chance, self.steps, self._in_an_epoch):
            for _ in range(self.passes):
                order = torch.randperm(len(rollout.actions), generator=chance).to(rollout.actions.device)
                for some in order.tensor_split(self._minibatches):
                    yield Transitions(*(part[some] for part in rollout))

    def scoring(self) -> list[Transitions]:
        """One rollout of an epoch's length by the policy as it is, from the same beginnings each time."""
        steps = self.steps * (self._in_an_epoch if self.most is None else 1)
        return list(self._rollouts(generator(SCORING, self.seed), steps, 1))

    def _rollouts(self, chance: torch.Generator, steps: int, count: int) -> Iterator[Transitions]:
        """So many in a row, of so many steps, from fresh environments."""
        now, _ = self._env.reset(seed=_seed(chance))
        begins = np.zeros(self.copies, bool)  # the last episode has ended, and the next step only begins another
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
        """How many steps were taken."""
        return {"taken": self.taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Count on from there."""
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

    The sum ends with the episode. Where that was terminated nothing comes after it and V(s_{t+1}) counts as 0; where it
    was only cut (by its limit of steps, or because the rollout ends) the value stands for what would have come.

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
    """The return of each of so many episodes of the likeliest actions; the same beginnings for every policy."""
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
    """What is observed at the beginning of the episodes that are played."""
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
    """Logits and values on the host, where the environments are."""
    logits, value = policy(observations.to(next(policy.parameters()).device))
    return logits.cpu(), value.cpu()


def _seed(chance: torch.Generator) -> int:
    return int(torch.randint(2**31 - 1, (), generator=chance))
