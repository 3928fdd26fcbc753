"""What makes a training step of ResNet18 faster, dense and cut to 98 %: `python -m benchmarks.fast_steps`.

The options are those of `earlycrop train`: bfloat16 autocast, channels last, torch.compile (on a GPU with captured
graphs), and all of them. A step is forward, cross-entropy, backward and SGD with momentum on one batch of 32×32 images.
All steps run in turn, and ratios are taken within a round. It runs on a GPU if there is one.
"""

import argparse
import copy
import os
import sys
import time
from collections.abc import Callable
from statistics import median

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported

import torch
from torch import nn

from benchmarks.record import DEVICE, interleaved, ratio, write
from benchmarks.training_step import networks, step_of

OPTIONS = {
    "float32": (),
    "bfloat16": ("bfloat16",),
    "channels last": ("channels last",),
    "compiled": ("compiled",),
    "all": ("bfloat16", "channels last", "compiled"),
}


def faster(dense_or_cut: nn.Module, options: tuple[str, ...], batch: int) -> Callable[[], None]:
    layout = torch.channels_last if "channels last" in options else torch.preserve_format
    model = copy.deepcopy(dense_or_cut).to(DEVICE, memory_format=layout).train()
    if "compiled" in options:
        model = torch.compile(model, mode="reduce-overhead" if DEVICE.type == "cuda" else "default")
    x, y = torch.randn(batch, 3, 32, 32, device=DEVICE), torch.randint(10, (batch,), device=DEVICE)
    return step_of(model, x, y, "bfloat16" in options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", nargs="*", type=int, default=[64, 16])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sparsity", type=float, default=0.98)
    asked = parser.parse_args()
    rows = []
    for width in asked.widths:
        models = networks(width, asked.sparsity)
        torch.compiler.reset()
        steps, first = {}, {}
        for network in ("dense", "cut"):
            for name, options in OPTIONS.items():
                steps[network, name] = faster(models[network], options, asked.batch)
                began = time.perf_counter()
                steps[network, name]()
                first[network, name] = time.perf_counter() - began
                print(f"width {width}, {network}, {name}", file=sys.stderr)
        seconds = interleaved(steps, asked.rounds, warm=2)
        rows += [
            {
                "width": width,
                "network": network,
                "option": name,
                "step s": median(taken),
                "by float32": ratio(taken, seconds[network, "float32"])["median"],
                "by dense": ratio(taken, seconds["dense", name])["median"],
                "first step s": first[network, name],
                "n": asked.rounds,
            }
            for (network, name), taken in seconds.items()
        ]
    write("fast_steps", rows, batch=asked.batch, sparsity=asked.sparsity, scores="random")


if __name__ == "__main__":
    main()
