"""The poster's largest network on a laptop: ResNeXt-101 32x48d with ten outputs, scored by CroP-S and cut.

Run it in a fresh process, since the memory reported is the peak of the whole process, or of a GPU:

    python -m benchmarks.large [--group-width 48] [--sparsity 0.985] [--samples 100]
"""

import argparse
import time

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.record import DEVICE, write
from earlycrop import Pruner, Scoring
from earlycrop_lab.measure.memory import process_peak_bytes
from earlycrop_lab.models import build


def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--group-width", type=int, default=48, choices=(16, 48))
    parser.add_argument("--sparsity", type=float, default=0.985)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--batch", type=int, default=100)
    arguments = parser.parse_args()
    rows, began = [], time.perf_counter()

    def stated(step: str) -> None:
        peak = torch.cuda.max_memory_allocated() if DEVICE.type == "cuda" else process_peak_bytes()
        seconds = time.perf_counter() - began
        rows.append({"after": step, "seconds": round(seconds, 1), "peak_gigabytes": round((peak or 0) / 1e9, 2)})
        print(rows[-1], flush=True)

    model = build(f"resnext101-32x{arguments.group_width}d", classes=10).to(DEVICE)
    stated("building")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(arguments.samples, 3, 32, 32, generator=generator)
    y = torch.randint(10, (arguments.samples,), generator=generator)
    x, y = x.to(DEVICE), y.to(DEVICE)
    batches = list(zip(x.split(arguments.batch), y.split(arguments.batch), strict=True))
    parameters = sum(p.numel() for p in model.parameters())
    pruner = Pruner(
        model, "crop-s-poster", arguments.sparsity, example_inputs=x[:2], scoring=Scoring(loss, batches), verify=False
    )
    stated("tracing")
    report = pruner.check(0)
    stated("scoring and cutting")
    assert report is not None
    with torch.no_grad():
        model.eval()(x[:2])
    stated("a forward pass of what is left")
    write(
        "large",
        rows,
        network=f"ResNeXt-101 32x{arguments.group_width}d",
        parameters=parameters,
        parameters_after=report.after.params,
        weight_sparsity=report.weight_sparsity,
        node_sparsity=report.node_sparsity,
        samples=arguments.samples,
        batch=arguments.batch,
    )


if __name__ == "__main__":
    main()
