"""The runs of control: their options, and what is usual for their data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from earlycrop_lab.names import ENVIRONMENTS, Names
from earlycrop_lab.tasks.description import Description, Metric, option

NETWORK = "actor-critic"


@dataclass(frozen=True)
class Usual:
    """The usual width, epochs and batch size of an environment."""

    width: int = 128
    epochs: int = 50
    batch_size: int = 128


USUAL = {"cartpole-v0": Usual(epochs=25), "cartpole-v1": Usual(epochs=25)}
"""The usual settings by environment; any other gets the defaults."""


@dataclass(frozen=True)
class Control(Description):
    """One training run. Fields that are not given get the environment's usual values on construction.

    >>> usual = Control(data="cartpole-v0")
    >>> usual.method, usual.network, usual.width, usual.epochs, usual.batch_size
    ('earlycrop-s', 'actor-critic', 128, 25, 128)
    """

    task: ClassVar[str] = "control"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("mean_return", "mean return"),
        Metric("return_deviation", "its deviation over episodes", "lower"),
        Metric("solved", "solved", unit="%"),
        Metric("environment_steps", "environment steps", "lower"),
    )
    names: ClassVar[Names] = ENVIRONMENTS
    samples: ClassVar[str] = "transitions"

    data: str = option("cartpole-v0", help=str(ENVIRONMENTS))
    network: str = option(help=f"{NETWORK}, the only network of this task")
    width: int = option(tag="width", help="units in each of its two hidden layers (default: 128)")
    learning_rate: float = option(1e-3, tag="lr", help="constant until the cut; the peak of One-Cycle after it")
    clip_norm: float = option(0.5, tag="clip", help="the greatest norm of the gradient; larger ones are scaled down")
    discount: float = option(0.99, tag="discount", help="discount factor of rewards, per step")
    clip_ratio: float = option(0.2, tag="ratio", help="the clip range ε of PPO's probability ratio")

    def usually(self) -> dict[str, Any]:
        """See `Description`."""
        usual = USUAL.get(self.data, Usual())
        return {"network": NETWORK, "width": usual.width, "epochs": usual.epochs, "batch_size": usual.batch_size}

    @classmethod
    def check_fields(cls, given: Mapping[str, Any]) -> None:
        """See `Description`."""
        super().check_fields(given)
        if given.get("network") not in (None, NETWORK):
            raise ValueError(f"The network of control is {NETWORK}, not {given['network']!r}.")
        if given.get("train_size") is not None:
            raise ValueError("An environment has no fixed training set: leave out train_size, give epochs instead.")
        for name in ("discount", "clip_ratio"):
            if not 0 < given.get(name, 0.5) < 1:
                raise ValueError(f"{name} is between 0 and 1; {given[name]:g} is not.")
