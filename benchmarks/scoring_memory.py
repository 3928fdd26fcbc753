"""Peak live tensor bytes of scoring, against a training step (forward, backward, Adam) at the same batch size.

With the default micro-batch and without micro-batches, for CroP-U and CroP-S, through the pruner as users do.

    python -m benchmarks.scoring_memory [--batch 64] [--networks 0 3]
"""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.record import write
from earlycrop import Pruner, Scoring
from earlycrop_lab.measure.memory import LiveBytes, held_by
from earlycrop_lab.models import build

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18, 24 channels": lambda: build("resnet18", classes=10, width=24, seed=0),
    "resnet18, 64 channels": lambda: build("resnet18", classes=10, width=64, seed=0),
    "vgg16, 32 channels": lambda: build("vgg16", classes=10, width=32, seed=0),
    "mlp, 1024 hidden units": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(3072, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)
    ),
}


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def training(net: nn.Module, batch: tuple[Tensor, Tensor]) -> int:
    """Peak bytes of a training step once the optimizer has its state."""
    optimizer = torch.optim.Adam(net.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        with LiveBytes([*held_by(net, optimizer), *batch]) as live:
            loss(net, batch).backward()
            optimizer.step()
    return live.peak


def scoring(net: nn.Module, method: str, batches: list[tuple[Tensor, Tensor]], micro_batch: int | None) -> int:
    """Peak bytes of scoring before training, when the optimizer has no state; holds one batch, as a step does."""
    pruner = Pruner(
        net,
        method,
        0.5,
        example_inputs=batches[0][0][:2],
        scoring=Scoring(loss, batches, micro_batch=micro_batch),
        verify=False,
    )
    with LiveBytes([*held_by(net), *batches[0]]) as live:
        pruner.scores()
    return live.peak


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--networks", type=int, nargs="*", default=range(len(NETWORKS)), metavar="N")
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2 * arguments.batch, 3, 32, 32, generator=generator)
    y = torch.randint(10, (len(x),), generator=generator)
    batches = list(zip(x.split(arguments.batch), y.split(arguments.batch), strict=True))
    rows = []
    for name, make in [list(NETWORKS.items())[number] for number in arguments.networks]:
        step = training(make(), batches[0])
        for method in ("crop-u-poster", "crop-s-poster"):
            for what, micro_batch in (("default", None), ("whole batches", arguments.batch)):
                peak = scoring(make(), method, batches, micro_batch)
                rows.append(
                    {
                        "network": name,
                        "method": method,
                        "micro-batch": what,
                        "scoring_megabytes": peak / 1e6,
                        "step_megabytes": step / 1e6,
                        "ratio": peak / step,
                    }
                )
    write("scoring_memory", rows, batch=arguments.batch, samples=len(x))


if __name__ == "__main__":
    main()
