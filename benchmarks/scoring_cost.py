"""What a score costs in gradient passes over the same samples: weights and channels, every way to H g, and `auto`.

A gradient pass is PyTorch's own: forward and backward for all parameters in eval mode, in the given batches. A score
is timed as a whole, including its first pass, in the library's micro-batches; the calibration of batch norm is timed
separately.

    python -m benchmarks.scoring_cost [--samples 128] [--repeats 5] [--cpu-time]
"""

import argparse
import time
from collections.abc import Callable
from typing import get_args

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.record import DEVICE, interleaved, ratio, write
from earlycrop.evaluation import Evaluation, MeanLoss, ScoringSet
from earlycrop.hessian_products import AutodiffMode
from earlycrop.units import Channels, Weights
from earlycrop_lab.models import build


def plain(width: int) -> nn.Module:
    """Convolutions without norms."""
    layers: list[nn.Module] = []
    for inside, outside, stride in ((3, 1, 1), (1, 1, 1), (1, 2, 2), (2, 2, 1), (2, 4, 2), (4, 4, 1)):
        layers += [nn.Conv2d(3 if not layers else inside * width, outside * width, 3, stride, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18, 24 channels": lambda: build("resnet18", classes=10, width=24, seed=0),
    "resnet18, 64 channels": lambda: build("resnet18", classes=10, width=64, seed=0),
    "six convolutions without norms, 32 channels": lambda: plain(32),
}


def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def gradient(net: nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    net.eval()
    for batch in batches:
        torch.autograd.grad(loss(net, batch), list(net.parameters()))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cpu-time", action="store_true", help="CPU time of this process, disturbed less by others")
    parser.add_argument("--networks", type=int, nargs="*", default=range(len(NETWORKS)), help="their numbers")
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(arguments.samples, 3, 32, 32, generator=generator)
    y = torch.randint(10, (arguments.samples,), generator=generator)
    x, y = x.to(DEVICE), y.to(DEVICE)
    batches = list(zip(x.split(arguments.batch), y.split(arguments.batch), strict=True))
    scoring = ScoringSet(batches)  # one for all, as in a pruner, which asks once whether its batches may be cut
    rows = []
    for name, make in [list(NETWORKS.items())[number] for number in arguments.networks]:
        net = make().to(DEVICE)
        weights = Weights().of(net, x[:2], None, ()).coordinates
        units = {"weights": weights, "channels": Channels().of(net, x[:2], None, ()).coordinates}
        works: dict[str, Callable[[], object]] = {
            "gradient": lambda net=net: gradient(net, batches),
        }
        for kind, chart in units.items():
            for way in get_args(AutodiffMode):

                def score(net=net, chart=chart, way=way) -> object:
                    at = Evaluation(MeanLoss(net, loss, scoring, "running", hessian=way), chart)
                    return (at.values * at.hessian_gradient()).abs()

                works[f"{kind}, {way}"] = score
        if any(isinstance(module, nn.BatchNorm2d) for module in net.modules()):

            def calibration(net=net) -> None:
                with MeanLoss(net, loss, scoring, "calibrated").scoring([]):
                    pass

            works["calibration"] = calibration
        seconds = interleaved(
            works, arguments.repeats, clock=time.process_time if arguments.cpu_time else time.perf_counter
        )
        rows += [
            {"network": name, "work": work, **ratio(found, seconds["gradient"]), "seconds": min(found)}
            for work, found in seconds.items()
        ]
    write(
        "scoring_cost",
        rows,
        samples=arguments.samples,
        batch=arguments.batch,
        unit="gradient passes",
        cpu_time=arguments.cpu_time,
    )


if __name__ == "__main__":
    main()
