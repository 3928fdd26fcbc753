"""A training step and inference of ResNet18, dense beside cut to 98 %: `python -m benchmarks.training_step`.

The scores are random, so the cut thins all layers alike (scores by gradient flow leave other widths; for those, see the
runs under results/). A step is forward, cross-entropy, backward and SGD with momentum on one batch of 32×32 images.
Dense and cut networks run in turn, so that other load on the machine affects all alike.
"""

import argparse
import copy
import os
import sys
from collections import defaultdict
from collections.abc import Callable
from statistics import median
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile

from benchmarks.record import interleaved, ratio, write
from earlycrop.allocation import Global
from earlycrop.budget import Budget
from earlycrop.counting import flops
from earlycrop.units import Channels
from earlycrop_lab.models import build

LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
KINDS = {
    "convolutions": ("convolution", "mkldnn", "slow_conv", "thnn_conv", "addmm", "linear"),
    "norms": ("batch_norm",),
    "optimizer": ("Optimizer", "_foreach", "mul_", "add_", "sgd"),
}


def networks(width: int, sparsity: float) -> dict[str, nn.Module]:
    """Three networks: dense, cut, and cut to multiples of 8 channels."""
    torch.manual_seed(0)
    dense, x = build("resnet18", classes=10, width=width), torch.zeros(2, 3, 32, 32)
    found = {"dense": dense}
    for name, round_to in (("cut", 1), ("cut, multiples of 8", 8)):
        model = copy.deepcopy(dense)
        units = Channels().of(model, x, None, ())
        scores = torch.rand(len(units.structure), generator=torch.Generator().manual_seed(1))
        units.keep_only(units.choose(Budget(sparsity, round_to=round_to), scores, Global()))
        found[name] = model
    return found


def step_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor, bfloat16: bool = False) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16):
            loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()

    return step


def inference_of(model: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    model = copy.deepcopy(model).eval()

    def infer() -> None:
        with torch.inference_mode():
            model(x)

    return infer


def where_time_goes(step: Callable[[], None], steps: int = 3) -> dict[str, float]:
    """Seconds per step of each kind of operator, without the operators it calls, by PyTorch's profiler."""
    step()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(steps):
            step()
    kinds: dict[str, float] = defaultdict(float)
    for event in seen.key_averages():
        kind = next((kind for kind, words in KINDS.items() if any(word in event.key for word in words)), "other")
        kinds[kind] += event.self_cpu_time_total / 1e6 / steps
        kinds["operators"] += event.count / steps
    return dict(kinds)


def measure(width: int, layout: str, threads: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    torch.set_num_threads(threads)
    memory_format = LAYOUTS[layout]
    models = {name: one.to(memory_format=memory_format) for name, one in networks(width, options.sparsity).items()}
    x = torch.randn(options.batch, 3, 32, 32).contiguous(memory_format=memory_format)
    y = torch.randint(10, (options.batch,))
    steps = {name: step_of(model.train(), x, y) for name, model in models.items()}
    trained = interleaved(steps, options.rounds)
    inferred = interleaved({name: inference_of(model, x) for name, model in models.items()}, options.rounds)
    operations = {name: flops(model, torch.zeros(1, 3, 32, 32)) for name, model in models.items()}
    weights = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    rows = []
    for name in models:
        kinds = where_time_goes(steps[name])
        rows.append(
            {
                "width": width,
                "layout": layout,
                "threads": threads,
                "network": name,
                "params": weights[name],
                "FLOPs ratio": operations[name] / operations["dense"],
                "step s": median(trained[name]),
                "step ratio": ratio(trained[name], trained["dense"])["median"],
                "inference s": median(inferred[name]),
                "inference ratio": ratio(inferred[name], inferred["dense"])["median"],
                "n": options.rounds,
                **{f"{kind} s": kinds.get(kind, 0.0) for kind in (*KINDS, "other")},
                "operators": kinds["operators"],
            }
        )
        print(f"width {width}, {layout}, {threads} threads, {name}", file=sys.stderr)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", nargs="*", type=int, default=[64, 16])
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sparsity", type=float, default=0.98)
    options = parser.parse_args()
    rows = []
    for width in options.widths:
        for threads in options.threads:
            for layout in LAYOUTS:
                rows += measure(width, layout, threads, options)
    write("training_step", rows, batch=options.batch, sparsity=options.sparsity, scores="random")


if __name__ == "__main__":
    main()
