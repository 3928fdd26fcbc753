"""Environments: their rules, gymnasium's own scalar form as the oracle of the vectorised one, what is refused."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from earlycrop_lab import names
from earlycrop_lab.data.environments import load_environment
from earlycrop_lab.names import DataError
from tests.lab.data.corridor import registered


@pytest.mark.parametrize(("name", "limit", "solved"), [("cartpole-v0", 200, 195), ("cartpole-v1", 500, 475)])
def test_cartpole_has_the_rules_of_its_version(name, limit, solved):
    environment = load_environment(name)
    assert (environment.limit, environment.solved) == (limit, solved)
    assert (environment.observations, environment.actions) == (4, 2)


def test_another_environment_has_its_own_rules():
    environment = load_environment("gym:Acrobot-v1")
    assert (environment.observations, environment.actions) == (6, 3)
    assert (environment.limit, environment.solved) == (500, -100)
    with registered(limit=7) as name:
        environment = load_environment(name)
    assert (environment.observations, environment.actions, environment.limit, environment.solved) == (1, 2, 7, None)


@pytest.mark.parametrize("steps", [260])
def test_every_copy_of_the_vectorised_cartpole_does_what_the_scalar_one_does(steps):
    """Half of the copies are balanced until the limit ends their episodes, the others pushed about until they fall."""
    copies = 6
    vector = load_environment("cartpole-v0").copies(copies)
    seen, _ = vector.reset(seed=3)
    scalars = [gymnasium.make("CartPole-v1", max_episode_steps=200) for _ in range(copies)]
    chance, ends = np.random.default_rng(0), {"terminated": 0, "truncated": 0}

    def begin(k: int) -> None:
        """The scalar one, in the state in which the copy is."""
        scalars[k].reset(seed=0)
        scalars[k].unwrapped.state = vector.state[:, k].copy()

    for k in range(copies):
        begin(k)
    ended = np.zeros(copies, bool)
    for _ in range(steps):
        actions = np.where(np.arange(copies) % 2 == 0, seen[:, 2] + seen[:, 3] > 0, chance.integers(2, size=copies))
        seen, rewards, terminated, truncated, _ = vector.step(actions.astype(int))
        for k, scalar in enumerate(scalars):
            if ended[k]:  # this step has only begun the next episode
                assert np.abs(seen[k]).max() <= 0.05
                assert (rewards[k], terminated[k], truncated[k]) == (0, False, False)
                begin(k)
                continue
            expected, reward, over, cut, _ = scalar.step(int(actions[k]))
            np.testing.assert_allclose(seen[k], expected, rtol=0, atol=1e-6)
            assert (rewards[k], terminated[k], truncated[k]) == (reward, over, cut)
            ends["terminated"] += over
            ends["truncated"] += cut
        ended = terminated | truncated
    assert ends["terminated"] > 10
    assert ends["truncated"] == 3


@pytest.mark.parametrize(
    ("name", "near"), [("cartpole", "cartpole-v"), ("CartPole-v1", "cartpole-v1"), ("gym:", "gym:ID")]
)
def test_an_unknown_name_is_refused_with_the_nearest(name, near):
    with pytest.raises(DataError, match=f"No environment is called '{name}'. Did you mean '{near}"):
        names.ENVIRONMENTS.check(name)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gym:CartPole-v9", "cannot make 'CartPole-v9'.*v9.*doesn't exist"),
        ("gym:Nope-v1", "cannot make 'Nope-v1'.*doesn't exist"),
        ("gym:no_such_module:Nope-v1", "cannot make.*no_such_module"),
        ("gym:Pendulum-v1", "actions of gym:Pendulum-v1 are Box.*Discrete space that counts from 0 is needed"),
        ("gym:FrozenLake-v1", r"observations of gym:FrozenLake-v1 are Discrete\(16\).*FlattenObservation"),
    ],
)
def test_what_gymnasium_has_not_or_does_not_fit_is_refused(name, why):
    with pytest.raises(DataError, match=why):
        load_environment(name)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"observations": Box(0, 1, (4, 4))}, "one dimension is needed"),
        ({"actions": Discrete(2, start=1)}, "counts from 0"),
        ({"actions": MultiDiscrete([2, 2])}, "counts from 0"),
        ({"limit": None}, "may never end. Register it with `max_episode_steps`"),
    ],
)
def test_spaces_and_episodes_that_do_not_fit_are_refused(options, why):
    with registered(**options) as name, pytest.raises(DataError, match=why):
        load_environment(name)


def test_something_that_an_environment_needs_and_that_is_not_installed():
    def needy():
        raise gymnasium.error.DependencyNotInstalled("Box2D is not installed: `pip install gymnasium[box2d]`")

    gymnasium.register("Needy-v0", lambda **_: needy(), max_episode_steps=5)
    try:
        with pytest.raises(DataError, match=r"cannot make 'Needy-v0': Box2D is not installed"):
            load_environment("gym:Needy-v0")
    finally:
        del gymnasium.registry["Needy-v0"]


def test_without_gymnasium_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(DataError, match=r"Control needs gymnasium.*`pip install gymnasium`"):
        load_environment("cartpole-v0")


@pytest.mark.slow
def test_the_other_tasks_do_without_gymnasium():
    script = "import sys; sys.modules['gymnasium'] = None; import earlycrop_lab.cli, earlycrop_lab.tasks"
    subprocess.run([sys.executable, "-c", script], check=True)
