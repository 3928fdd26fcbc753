"""Control with early pruning: a small policy learns to balance a pole (CartPole; Barto et al., 1983).

Proximal policy optimisation (Schulman et al., 2017): rollouts by the policy as it is, advantages against a value
function on the same trunk, a clipped surrogate, several passes through each rollout. Plain advantage actor-critic was
tried first and did not learn reliably within this budget of steps, whatever was pruned.

The scoring set is a rollout by the policy as it is when a cut begins; its steps in the environment are counted with the
others. The scoring loss is the training loss on it. At the first scoring of a cut its gradient is the policy gradient,
which the next update would follow. A cut of several steps scores the same rollout again, as training makes several
passes through one: the pruned policy is compared with the one that acted, and the clip zeroes the gradient of actions
whose probability has moved too far in the profitable direction. The main metric is the mean return of the likeliest
actions over a hundred episodes after the last epoch, from initial states that training has never seen.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from earlycrop_lab.data.environments import ENVIRONMENTS, GYM, check_environment, load_environment
from earlycrop_lab.data.rollouts import Experience, Transitions, beginnings, play
from earlycrop_lab.models.actor_critic import actor_critic
from earlycrop_lab.tasks.description import Description, Metric, option
from earlycrop_lab.tasks.session import Session, Setup, Trained

NETWORK = "actor-critic"
EPISODES = 100


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
    samples: ClassVar[str] = "transitions"

    data: str = option("cartpole-v0", help=f"{', '.join(ENVIRONMENTS)}, or {GYM}ID for another one of gymnasium")
    network: str = option(help=f"{NETWORK}, the only network of this task")
    width: int = option(tag="width", help="units in each of its two hidden layers (default: 128)")
    learning_rate: float = option(1e-3, tag="lr", help="constant until the cut; the peak of One-Cycle after it")
    clip_norm: float = option(0.5, tag="clip", help="the greatest norm of the gradient; larger ones are scaled down")
    discount: float = option(0.99, tag="discount", help="discount factor of rewards, per step")
    clip_ratio: float = option(0.2, tag="ratio", help="the clip range ε of PPO's probability ratio")

    @staticmethod
    def check_data(name: str) -> None:
        """See `Description`."""
        check_environment(name)

    def usually(self) -> dict[str, Any]:
        """See `Description`."""
        usual = USUAL.get(self.data, Usual())
        return {"network": NETWORK, "width": usual.width, "epochs": usual.epochs, "batch_size": usual.batch_size}

    def _check(self) -> None:
        super()._check()
        if self.network != NETWORK:
            raise ValueError(f"The network of control is {NETWORK}, not {self.network!r}.")
        if self.train_size is not None:
            raise ValueError("An environment has no fixed training set: leave out train_size, give epochs instead.")
        for name in ("discount", "clip_ratio"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is between 0 and 1; {getattr(self, name):g} is not.")


def train(d: Control, *, root: str | None = None, device: torch.device | str = "cpu", **around: Any) -> Trained:
    """Train as described and measure.

    Args:
        d: The description.
        root: Not used: environments need no data.
        device: The device to train on; environments are stepped on the host.
        around: See `Session`.

    Raises:
        ValueError: The environment is not installed, or the loss is no longer finite.
    """
    device = torch.device(device)
    setup = prepare(d, root, device)
    model = setup.model
    optimizer = setup.optimizer(model)
    with Session(d, setup, optimizer, device=device, **around) as session:
        for epoch in session.epochs():
            with session.looking():
                session.pruner.check(epoch)
            with session.training():
                for batch in setup.batches.epoch(epoch):
                    with session.step(*batch):
                        optimizer.zero_grad()
                        loss = setup.loss(model, batch)
                        loss.backward()
                        nn.utils.clip_grad_norm_(model.parameters(), d.clip_norm)
                        optimizer.step()
                    session.note(loss, len(batch.actions))
            session.evaluate()
    return session.trained()


def prepare(d: Control, root: str | None, device: torch.device) -> Setup:
    """The environment, the network, and its experience there."""
    environment = load_environment(d.data)
    sizes = {"observations": environment.observations, "actions": environment.actions}
    model = actor_critic(**sizes, width=d.width, seed=d.seed).to(device)
    experience = Experience(environment, model, d.batch_size, discount=d.discount, seed=d.seed, most=d.max_steps)

    def evaluate(policy: nn.Module) -> dict[str, float]:
        returns = play(environment, policy, EPISODES if d.max_steps is None else d.max_steps)
        figures = {"mean_return": float(returns.mean()), "return_deviation": float(returns.std(correction=0))}
        if environment.solved is not None:
            figures["solved"] = float(figures["mean_return"] >= environment.solved)
        return figures | {"environment_steps": float(experience.taken)}

    return Setup(
        model=model,
        batches=experience,
        scoring=experience.scoring,
        loss=lambda policy, batch: surrogate(policy, batch, d.clip_ratio),
        evaluate=evaluate,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), d.learning_rate, weight_decay=d.weight_decay),
        inputs=beginnings(environment, d.batch_size).to(device),
        data=str(environment),
        in_width=lambda width: actor_critic(**sizes, width=width, seed=d.seed),
        parts={"experience": experience},
    )


def surrogate(policy: nn.Module, batch: Transitions, clip_ratio: float) -> Tensor:
    """−mean min(r Â, clip(r, 1 − ε, 1 + ε) Â) + ½ mean (V − R)², with r = π(a|s) / π_old(a|s) and ε `clip_ratio`.

    Schulman et al. (2017), equations 7 and 9, without the entropy bonus.
    """
    logits, value = policy(batch.observations)
    log_probability = logits.log_softmax(1).gather(1, batch.actions[:, None]).squeeze(1)
    ratio = (log_probability - batch.log_probabilities).exp()
    clipped = ratio.clamp(1 - clip_ratio, 1 + clip_ratio)
    gain = torch.minimum(ratio * batch.advantages, clipped * batch.advantages)
    return (value - batch.returns).square().mean() / 2 - gain.mean()
