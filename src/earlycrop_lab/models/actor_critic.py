"""A policy and a value function on one trunk, for control."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from earlycrop_lab.models.seeded import seeded


class ActorCritic(nn.Module):
    """Two hidden layers of `width` ReLU units, shared by both heads (for CartPole 4 → 128 → 128 → 2 and 1).

    Args:
        observations: Numbers in an observation.
        actions: Number of actions.
        width: Units in each hidden layer.
    """

    def __init__(self, observations: int, actions: int, width: int = 128):
        super().__init__()
        self.fc1 = nn.Linear(observations, width)
        self.fc2 = nn.Linear(width, width)
        self.policy = nn.Linear(width, actions)
        self.value = nn.Linear(width, 1)

    def forward(self, observations: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n actions"], Float[Tensor, "n"]]:
        """The logits of the actions, and the value."""
        hidden = torch.relu(self.fc2(torch.relu(self.fc1(observations))))
        return self.policy(hidden), self.value(hidden).squeeze(1)


def actor_critic(*, observations: int, actions: int, width: int = 128, seed: int) -> ActorCritic:
    """The network at PyTorch's default initial weights; the global random state stays as it was."""
    with seeded(seed):
        return ActorCritic(observations, actions, width)
