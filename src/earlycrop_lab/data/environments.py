"""Environments of gymnasium in which a small policy network can be trained: flat observations, discrete actions.

CartPole has the rules of its two versions: 200 steps, solved at a mean return of 195, and 500 steps, solved at 475,
over a hundred episodes. Both are built as version 1, whose vectorised form steps all copies at once; gymnasium warns
that the original version is out of date, and its dynamics are the same. Any other environment is stepped copy by copy.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from earlycrop_lab import names
from earlycrop_lab.names import DataError

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv


@dataclass(frozen=True)
class Rules:
    """How an environment is built, and when it counts as solved.

    Args:
        id: Its id in gymnasium.
        limit: The most steps of an episode; by default gymnasium's.
        solved: The least mean return over a hundred episodes at which it counts as solved; by default gymnasium's.
        vectorised: Whether it has a vectorised form that steps all copies at once.
    """

    id: str
    limit: int | None = None
    solved: float | None = None
    vectorised: bool = False


ENVIRONMENTS = {
    "cartpole-v0": Rules("CartPole-v1", limit=200, solved=195, vectorised=True),
    "cartpole-v1": Rules("CartPole-v1", limit=500, solved=475, vectorised=True),
}


@dataclass(frozen=True)
class Environment:
    """An environment that is installed and suitable.

    Args:
        name: Its name on the command line.
        rules: How it is built.
        observations: Numbers in an observation.
        actions: Number of actions.
        limit: The most steps of an episode.
        solved: The least mean return at which it counts as solved; None if it is not defined.
    """

    name: str
    rules: Rules
    observations: int
    actions: int
    limit: int
    solved: float | None

    def __str__(self) -> str:
        solved = "" if self.solved is None else f", solved at a mean return of {self.solved:g}"
        episodes = f"episodes of at most {self.limit:,} steps{solved}"
        return f"{self.name}: {self.rules.id} of gymnasium, simulated on the spot, {episodes}"

    def copies(self, count: int) -> "VectorEnv":
        """A number of copies side by side.

        A copy whose episode has ended ignores the action of the next step: that step begins the next episode.
        """
        return _make(self.rules, count)


def load_environment(name: str) -> Environment:
    """The environment of that name.

    Raises:
        DataError: The name is unknown, gymnasium or what the environment needs is not installed, or its observations
            are not flat or its actions not discrete.
    """
    names.ENVIRONMENTS.check(name)
    rules = ENVIRONMENTS.get(name) or Rules(name.removeprefix(names.ENVIRONMENTS.own))
    env = _make(rules, 1)
    try:
        observations, actions, spec = env.single_observation_space, env.single_action_space, env.spec
    finally:
        env.close()
    from gymnasium.spaces import Box, Discrete

    if not isinstance(observations, Box) or len(observations.shape) != 1:
        raise DataError(
            f"The observations of {name} are {observations}; a Box of one dimension is needed. Register it with "
            f"`gymnasium.wrappers.FlattenObservation`, or choose another."
        )
    if not isinstance(actions, Discrete) or actions.start != 0:
        raise DataError(f"The actions of {name} are {actions}; a Discrete space that counts from 0 is needed.")
    assert spec is not None
    limit = rules.limit or spec.max_episode_steps
    if limit is None:
        raise DataError(f"An episode of {name} may never end. Register it with `max_episode_steps`.")
    solved = spec.reward_threshold if rules.solved is None else rules.solved
    return Environment(name, rules, observations.shape[0], int(actions.n), limit, solved)


def _make(rules: Rules, count: int) -> "VectorEnv":
    try:
        import gymnasium
    except ImportError as error:
        raise DataError("Control needs gymnasium, which is not installed: `pip install gymnasium`.") from error
    way = gymnasium.VectorizeMode.VECTOR_ENTRY_POINT if rules.vectorised else gymnasium.VectorizeMode.SYNC
    options: dict[str, Any] = {} if rules.limit is None else {"max_episode_steps": rules.limit}
    try:
        return gymnasium.make_vec(rules.id, count, way, **options)
    except (gymnasium.error.Error, ImportError) as error:  # no such id, or something that it needs is not installed
        raise DataError(f"gymnasium cannot make {rules.id!r}: {error}") from error
