"""What part of transformers' parameters can leave, and a cut of 70 % of them with its proof.

    python -m benchmarks.transformers_reach [NAME ...]

Language models are Hugging Face's, built from small configurations and called by keyword, as they are configured by
default (they return a cache). Vision transformers are timm's, the smallest of each family, on small images; without
timm they are left out, and the record says so. `reach` is the part of all parameters that leaves if every dimension
keeps one class of channels. Then `random-s` cuts 70 % of the parameters, on trained-like weights (none is zero), and
compares the cut network with the gated one. Rows are written to results/benchmarks/transformers_reach.json; the exit
code is 1 if a network has less than 0.9 in reach, is not cut, or computes something else.
"""

import argparse
import importlib.machinery
import sys
import time
import types
import warnings
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.record import write
from earlycrop import Budget, Pruner
from earlycrop.counting import Counter, Parameters
from earlycrop.structure import Structure, trace
from earlycrop.structure.attempts import unemptied

ASKED, LEAST = 0.7, 0.9
TOKENS = torch.randint(3, 250, (2, 12), generator=torch.Generator().manual_seed(0))
COMMON = {
    "vocab_size": 256,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LANGUAGE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Llama": ("LlamaForCausalLM", "LlamaConfig", COMMON),
    "Mistral": ("MistralForCausalLM", "MistralConfig", COMMON),
    "Qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**COMMON, "head_dim": 8}),
    "Gemma 3": ("Gemma3ForCausalLM", "Gemma3TextConfig", {**COMMON, "head_dim": 8}),
    "Phi-3": ("Phi3ForCausalLM", "Phi3Config", COMMON),
    "Mixtral": ("MixtralForCausalLM", "MixtralConfig", {**COMMON, "num_local_experts": 4}),
    "GPT-2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {
            "vocab_size": 256,
            "n_embd": 64,
            "n_layer": 4,
            "n_head": 8,
            "n_positions": 64,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "T5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {
            "vocab_size": 256,
            "d_model": 64,
            "d_kv": 8,
            "d_ff": 128,
            "num_layers": 4,
            "num_heads": 8,
            "decoder_start_token_id": 0,
        },
    ),
}
VISION: dict[str, tuple[str, int, dict[str, Any]]] = {
    "DeiT": ("deit_tiny_patch16_224", 64, {"img_size": 64}),
    "CaiT": ("cait_xxs24_224", 64, {"img_size": 64}),
    "XCiT": ("xcit_nano_12_p16_224", 64, {"img_size": 64}),
    "PVT": ("pvt_v2_b0", 64, {}),
    "DaViT": ("davit_tiny", 64, {}),
    "BEiT": ("beit_base_patch16_224", 64, {"img_size": 64}),
    "EVA": ("eva02_tiny_patch14_224", 56, {"img_size": 56}),
}


class Logits(nn.Module):
    """T5 also returns the encoder's last state, which is the stream itself: as an output it could not leave."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> Tensor:
        return self.model(**inputs).logits


def language(name: str) -> tuple[nn.Module, Any]:
    import transformers

    model, configuration, settings = LANGUAGE[name]
    network = getattr(transformers, model)(getattr(transformers, configuration)(**settings))
    if name == "T5":
        return Logits(network), {"input_ids": TOKENS, "decoder_input_ids": TOKENS}
    return network, {"input_ids": TOKENS}


def vision(name: str) -> tuple[nn.Module, Any]:
    import timm

    model, size, settings = VISION[name]
    image = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    return timm.create_model(model, num_classes=10, **settings), image


def stand_in() -> None:
    """Modules in torchvision's place, of which timm takes names that its models do not use."""

    class Names(types.ModuleType):
        def __getattr__(self, name: str) -> type:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (nn.Module,), {})

    paths = ("", ".ops", ".ops.misc", ".transforms", ".transforms.functional", ".datasets", ".datasets.folder", ".io")
    for path in (f"torchvision{path}" for path in paths):
        module = sys.modules[path] = Names(path)
        module.__spec__, module.__path__ = importlib.machinery.ModuleSpec(path, None), []
        parent, _, leaf = path.rpartition(".")
        if parent:
            setattr(sys.modules[parent], leaf, module)
    modes = Enum("InterpolationMode", {name: name.lower() for name in MODES})
    sys.modules["torchvision.transforms"].InterpolationMode = modes
    sys.modules["torchvision.transforms.functional"].InterpolationMode = modes


MODES = ("NEAREST", "NEAREST_EXACT", "BILINEAR", "BICUBIC", "BOX", "HAMMING", "LANCZOS")


def has_timm() -> bool:
    """Whether timm can be imported, if need be with a stand-in for torchvision."""
    import transformers.utils  # noqa: F401 - it asks for torchvision too, and must find what there is

    try:
        import torchvision  # noqa: F401
    except ImportError:
        stand_in()
    try:
        import timm  # noqa: F401
    except ImportError:
        return False
    return True


def trained(model: nn.Module) -> nn.Module:
    """Weights of which none is zero, as heads and scales are at the start."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model


def reach(structure: Structure, model: nn.Module) -> float:
    """The part of all parameters that leaves if every dimension keeps one class."""
    counter = Counter(structure, model)
    keep = unemptied(structure, torch.zeros(len(structure), dtype=torch.bool))
    return 1 - counter.price(Parameters(), keep) / counter.price(Parameters())


def judge(build: Callable[[], tuple[nn.Module, Any]]) -> dict[str, Any]:
    torch.manual_seed(0)
    model, example = build()
    model = trained(model).eval()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    began = time.process_time()
    structure = trace(model, example)
    row = {
        "parameters": parameters,
        "trace_seconds": round(time.process_time() - began, 2),
        "classes": len(structure),
        "reach": round(reach(structure, model), 4),
    }
    aligned = 8 if "Mixtral" in type(model).__name__ else 1  # PyTorch's product of grouped matrices takes aligned rows
    budget = Budget(ASKED, target="params", round_to=aligned)
    report = Pruner(model, "random-s", budget, example_inputs=example).check(0)
    assert report is not None
    proof = report.verification
    return {
        **row,
        "removed": round(1 - report.after.params / parameters, 4),
        "error": float("nan") if proof is None else proof.max_error,
        "precision": "" if proof is None else proof.precision,
        "good": row["reach"] >= LEAST and proof is not None and proof.exact,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join((*LANGUAGE, *VISION))}; all by default")
    names = parser.parse_args().names or [*LANGUAGE, *VISION]
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    timm, rows, skipped = has_timm(), [], []
    for name in names:
        if name in VISION and not timm:
            skipped.append(name)
            continue
        try:
            found = judge(partial(language if name in LANGUAGE else vision, name))
        except Exception as error:  # whatever it is, it is this network's row
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
            found = {"parameters": 0, "trace_seconds": 0.0, "classes": 0, "reach": 0.0, "removed": 0.0,
                     "error": float("nan"), "precision": "", "good": False}  # fmt: skip
        rows.append({"network": name, **found})
        print(rows[-1], flush=True)
    if skipped:
        print(f"left out, for timm cannot be imported: {', '.join(skipped)}", file=sys.stderr)
    print(f"wrote {write('transformers_reach', rows, asked=ASKED, skipped=skipped)}")
    return int(not all(row["good"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
