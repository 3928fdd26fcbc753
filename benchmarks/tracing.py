"""What tracing costs: the process time of `trace` over that of `torch.export.export` of the same model and run.

    python -m benchmarks.tracing [--repeats 2] [--only vit_12 swin_t]

The models are deep ones from torchvision, timm and Hugging Face's transformers, at their usual sizes and without
trained weights; those whose package is not installed are left out. Export and trace take turns, and ratios are taken
within a round. `classes` says how many classes of channels can leave, and `trial cuts` how many copies were cut to find
out what sizes in the model's code forbid. The rows are written to results/benchmarks/tracing.json; with `--only`, those
of other models stay as they were.
"""

import argparse
import importlib
import json
import time
import warnings
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.record import RESULTS, interleaved, ratio, table, write
from earlycrop.structure import trace
from earlycrop.structure.attempts import Attempts

Built = tuple[nn.Module, Tensor]


class Attention(nn.Module):
    """Attention whose heads are as wide as the stream allows: `C // num_heads`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))


class Block(nn.Module):
    """A block of a transformer, with its norms in front."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.first, self.second, self.attention = nn.LayerNorm(width), nn.LayerNorm(width), Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.first(x))
        return x + self.mlp(self.second(x))


class Logits(nn.Module):
    """The logits of a model of Hugging Face."""

    def __init__(self, model: nn.Module, **settings: Any) -> None:
        super().__init__()
        self.model, self.settings = model, settings

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x, **self.settings).logits


def vit(blocks: int) -> Built:
    layers = [Block(96, 6) for _ in range(blocks)]
    return nn.Sequential(nn.Linear(10, 96), *layers, nn.Linear(96, 4)), torch.randn(2, 7, 10)


def of_torchvision(name: str, size: int = 224) -> Built:
    return importlib.import_module("torchvision").models.get_model(name, weights=None), torch.randn(1, 3, size, size)


def of_timm(name: str, size: int = 224) -> Built:
    return importlib.import_module("timm").create_model(name, pretrained=False), torch.randn(1, 3, size, size)


def of_transformers(name: str, task: str, size: int | None = None, **settings: Any) -> Built:
    """For pictures of this size, or for tokens."""
    package = importlib.import_module("transformers")
    model = getattr(package, f"{name}{task}")(getattr(package, f"{name}Config")(**settings))
    if size is not None:
        return Logits(model), torch.randn(1, 3, size, size)
    return Logits(model, use_cache=False), torch.zeros(1, 16, dtype=torch.int64)


LLAMA = {"hidden_size": 512, "intermediate_size": 1376, "num_attention_heads": 8, "num_key_value_heads": 4}
MODELS: dict[str, Callable[[], Built]] = {
    "vit_12": partial(vit, 12),
    "resnet50": partial(of_torchvision, "resnet50"),
    "vit_tiny (timm)": partial(of_timm, "vit_tiny_patch16_224"),
    "swin_t (torchvision)": partial(of_torchvision, "swin_t"),
    "swin_t (timm)": partial(of_timm, "swin_tiny_patch4_window7_224"),
    "swin_s (torchvision)": partial(of_torchvision, "swin_s"),
    "maxvit_pico (timm)": partial(of_timm, "maxvit_rmlp_pico_rw_256", 256),
    "cait_xxs24 (timm)": partial(of_timm, "cait_xxs24_224"),
    "segformer_b0": partial(of_transformers, "Segformer", "ForSemanticSegmentation", 64),
    "gpt2": partial(of_transformers, "GPT2", "LMHeadModel"),
    "llama_16": partial(of_transformers, "Llama", "ForCausalLM", num_hidden_layers=16, vocab_size=1000, **LLAMA),
}


def measured(name: str, build: Callable[[], Built], repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model, x = build()
    model.eval()
    cuts, faults = [0], Attempts.faults

    def counting(*args: Any, **kwargs: Any) -> Any:
        cuts[0] += 1
        return faults(*args, **kwargs)

    Attempts.faults = counting  # type: ignore[method-assign]
    found = trace(model, x)
    Attempts.faults = faults  # type: ignore[method-assign]
    works = {"export": lambda: torch.export.export(model, (x,), strict=False), "trace": lambda: trace(model, x)}
    with torch.no_grad():
        seconds = interleaved(works, repeats, warm=0, clock=time.process_time)
    assert found.graph is not None
    return {
        "model": name,
        "operators": sum(node.op == "call_function" for node in found.graph.program.graph.nodes),
        "classes": len(found),
        "trial cuts": cuts[0],
        "export s": median(seconds["export"]),
        "trace s": median(seconds["trace"]),
        **ratio(seconds["trace"], seconds["export"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="beginnings of names")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows, missing, record = [], [], RESULTS / "tracing.json"
    kept = json.loads(record.read_text()) if arguments.only and record.exists() else {"rows": [], "missing": []}
    for name, build in MODELS.items():
        if arguments.only and not name.startswith(tuple(arguments.only)):
            continue
        try:
            rows.append(measured(name, build, arguments.repeats))
            table(rows[-1:])
        except ModuleNotFoundError as error:
            missing.append(f"{name}: {error}")
    new = {row["model"]: row for row in rows}
    every = {**{row["model"]: row for row in kept["rows"]}, **new}
    write("tracing", [every[name] for name in MODELS if name in every], missing=[*kept["missing"], *missing])


if __name__ == "__main__":
    main()
