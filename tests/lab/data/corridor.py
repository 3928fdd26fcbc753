"""An environment whose every number can be told beforehand, registered for as long as a test lasts."""

from collections.abc import Iterator
from contextlib import contextmanager

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete


class Corridor(gymnasium.Env):
    """The observation counts steps, step k is worth k + 1, and action 1 ends the episode."""

    observation_space = Box(-np.inf, np.inf, (1,), np.float32)
    action_space = Discrete(2)

    def __init__(self, observations=None, actions=None):
        self.observation_space = observations or self.observation_space
        self.action_space = actions or self.action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.at += 1
        return np.full(1, self.at, np.float32), float(self.at), bool(action == 1), False, {}


@contextmanager
def registered(limit: int | None = 5, **options) -> Iterator[str]:
    """Its name in the laboratory."""
    gymnasium.register("Corridor-v0", Corridor, max_episode_steps=limit, kwargs=options)
    try:
        yield "gym:Corridor-v0"
    finally:
        del gymnasium.registry["Corridor-v0"]
