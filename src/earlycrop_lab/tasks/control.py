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

from typing import Any

import torch
from torch import Tensor, nn

from earlycrop_lab.data.environments import load_environment
from earlycrop_lab.data.rollouts import Experience, Transitions, beginnings, play
from earlycrop_lab.models.actor_critic import actor_critic
from earlycrop_lab.tasks.descriptions.control import Control
from earlycrop_lab.tasks.session import Session, Setup, Trained

EPISODES = 100


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
