"""A small GPT-2, pruned by channels to a fifth of its parameters, beside dense ones: `python -m benchmarks.gpt2`.

The network has four layers of width 128 and is built from a configuration. It is trained on the bytes of the four
Sherlock Holmes stories that come with the laboratory: 300 steps of 16 sequences of 128 bytes, with AdamW, and with
One-Cycle from the cut on. The test loss is that of the last tenth of the text, in nats per byte. EarlyCroP cuts after a
quarter of the steps, with a constant learning rate until then. The narrow dense networks have the parameters, or the
FLOPs, of the cut one. Every run is written as soon as it ends, and finished runs are not repeated.
"""

import argparse
import json
import os
import warnings
from importlib import resources
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported

import lzma
from statistics import mean, stdev

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.flop_counter import FlopCounterMode

import earlycrop
from benchmarks.record import RESULTS, write
from earlycrop.timing import AtInit

LENGTH, BATCH, RATE = 128, 16, 2e-3
METHODS = ("random-s", "crop-s", "earlycrop-s", "earlycrop-s-random", "earlycrop-s-poster", "snap")


class Gpt2(nn.Module):
    """The logits of Hugging Face's GPT-2, without a cache."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        from transformers import GPT2Config, GPT2LMHeadModel

        self.gpt2 = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=256,
                bos_token_id=None,
                eos_token_id=None,
                n_positions=LENGTH,
                n_embd=width,
                n_layer=4,
                n_head=heads,
                use_cache=False,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
            )
        )

    def forward(self, tokens: Tensor) -> Tensor:
        return self.gpt2(tokens).logits


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    tokens, targets = batch
    return cross_entropy(model(tokens).flatten(0, 1), targets.flatten())


def text() -> tuple[Tensor, Tensor]:
    """The training bytes and the test bytes."""
    packed = resources.files("earlycrop_lab.data").joinpath("sherlock.txt.xz").read_bytes()
    found = torch.frombuffer(bytearray(lzma.decompress(packed)), dtype=torch.uint8).long()
    return found[: -len(found) // 10], found[-len(found) // 10 :]


def batch_of(source: Tensor, generator: torch.Generator, count: int = BATCH) -> tuple[Tensor, Tensor]:
    starts = torch.randint(len(source) - LENGTH - 1, (count,), generator=generator)
    windows = torch.stack([source[start : start + LENGTH + 1] for start in starts.tolist()])
    return windows[:, :-1], windows[:, 1:]


def flops(model: nn.Module) -> float:
    """The FLOPs of one forward pass over one sequence, counted with data, since its masks read values."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.zeros(1, LENGTH, dtype=torch.int64))
    return float(counter.get_total_flops())


def trained(method: str, width: int, seed: int, steps: int, sparsity: float) -> dict[str, Any]:
    """Train one network; its test loss, and the size of what is left of it."""
    torch.manual_seed(seed)
    train, test = text()
    model = Gpt2(width)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    example = batch_of(train, torch.Generator().manual_seed(0), 2)[0]
    scoring = [batch_of(train, torch.Generator().manual_seed(1000 + seed + k), 16) for k in range(4)]
    pruner, scheduler = None, None
    row = earlycrop.get_method(method) if method != "dense" else None
    if row is not None:
        pruner = earlycrop.Pruner(
            model,
            row,
            earlycrop.Budget(sparsity, target="params"),
            example_inputs=example,
            optimizer=optimizer,
            scoring=earlycrop.Scoring(loss, scoring),
            epochs=steps,
            seed=seed,
        )
    at = 0 if row is None or isinstance(row.timing, AtInit) else steps // 4
    stream = torch.Generator().manual_seed(seed)
    for step in range(steps):
        if pruner is not None and step in (0, at):
            pruner.check(step)
        if step == at:
            scheduler = OneCycleLR(optimizer, RATE, total_steps=steps - at)
        model.train()
        optimizer.zero_grad()
        value = loss(model, batch_of(train, stream))
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    model.eval()
    with torch.no_grad():
        chunks = test[: (len(test) - 1) // LENGTH * LENGTH + 1]
        tokens, targets = chunks[:-1].view(-1, LENGTH), chunks[1:].view(-1, LENGTH)
        parts = zip(tokens.split(64), targets.split(64), strict=True)
        test_loss = sum(float(loss(model, part)) * len(part[0]) for part in parts) / len(tokens)
    return {
        "method": method,
        "width": width,
        "seed": seed,
        "steps": steps,
        "test_loss": test_loss,
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "flops": flops(model),
        "bottlenecks": [] if pruner is None or pruner.report is None else [b.layer for b in pruner.report.bottlenecks],
    }


def narrow(goal: float, what: str) -> int:
    """The width, a multiple of four for the heads, whose dense network comes nearest to `goal` parameters or FLOPs."""

    def cost(width: int) -> float:
        model = Gpt2(width)
        if what == "params":
            return sum(parameter.numel() for parameter in model.parameters())
        return flops(model)

    return min(range(4, 132, 4), key=lambda width: abs(cost(width) / goal - 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--sparsity", type=float, default=0.8)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", earlycrop.StarvationWarning)  # the table has a column for it
    kept = RESULTS / "gpt2-runs.jsonl"
    done = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    runs: list[dict[str, Any]] = []

    def run(name: str, method: str, width: int, seed: int) -> dict[str, Any]:
        key = {"row": name, "seed": seed, "steps": arguments.steps, "sparsity": arguments.sparsity}
        found = next((one for one in done if key.items() <= one.items()), None)
        if found is None:
            found = {**trained(method, width, seed, arguments.steps, arguments.sparsity), **key}
            with kept.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(name, seed, round(found["test_loss"], 3), found["params"], flush=True)
        runs.append(found)
        return found

    for seed in range(arguments.seeds):
        run("dense", "dense", 128, seed)
        cut = [run(method, method, 128, seed) for method in arguments.methods]
        ours = next(one for one in cut if one["method"] in ("earlycrop-s", arguments.methods[-1]))
        run("narrow dense, equal parameters", "dense", narrow(ours["params"], "params"), seed)
        run("narrow dense, equal FLOPs", "dense", narrow(ours["flops"], "flops"), seed)
    rows = []
    for name in dict.fromkeys(one["row"] for one in runs):
        mine = [one for one in runs if one["row"] == name]
        losses = [one["test_loss"] for one in mine]
        rows.append(
            {
                "row": name,
                "test loss": mean(losses),
                "sd": stdev(losses) if len(losses) > 1 else float("nan"),
                "n": len(losses),
                "parameters": round(mean(one["params"] for one in mine)),
                "MFLOPs": mean(one["flops"] for one in mine) / 1e6,
                "starved": max(len(one["bottlenecks"]) for one in mine),
            }
        )
    write("gpt2", rows, runs=runs)


if __name__ == "__main__":
    main()
