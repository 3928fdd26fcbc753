"""Five pruned networks as exported programs and in onnxruntime, beside the model itself: `python -m benchmarks.export`.

It needs `pip install ".[onnx]"` and transformers. Each network is cut by CroP-S at its initial weights; exporting asks
nothing of the training that follows. Errors are of the largest output, at batch sizes other than the traced one.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.record import write
from earlycrop import Budget, Pruner, Scoring

BATCHES = (1, 5, 8)
"""Batch sizes at which outputs are compared; the programs are traced with 2."""
WORDS, LENGTH = 96, 12


def block(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inside, outside, 3, stride, 1), nn.BatchNorm2d(outside), nn.ReLU())


class UNet(nn.Module):
    """Two scales, joined by concatenation (Ronneberger et al., 2015)."""

    def __init__(self, width: int):
        super().__init__()
        self.fine, self.coarse = block(3, width), nn.Sequential(block(width, 2 * width), block(2 * width, 2 * width))
        self.up = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.head = nn.Sequential(block(2 * width, width), nn.Conv2d(width, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        return self.head(torch.cat([fine, self.up(self.coarse(F.max_pool2d(fine, 2)))], 1))


class Lstm(nn.Module):
    """A language model of two recurrent layers."""

    def __init__(self, width: int):
        super().__init__()
        self.table, self.lstm = nn.Embedding(WORDS, width), nn.LSTM(width, width, 2, batch_first=True)
        self.head = nn.Linear(width, WORDS)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.lstm(self.table(words))[0])


def cnn(width: int) -> nn.Module:
    layers = [block(3, width), block(width, 2 * width, 2), block(2 * width, 2 * width)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 4))


def vit(width: int) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    shape = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 2 * width}
    return ViTForImageClassification(ViTConfig(**shape, image_size=16, patch_size=4, num_labels=4))


def gpt2(width: int) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    words = {"vocab_size": WORDS, "bos_token_id": 0, "eos_token_id": 0, "n_positions": 16}
    return GPT2LMHeadModel(GPT2Config(**words, n_embd=width, n_layer=2, n_head=4, use_cache=False))


def images(batch: int) -> Tensor:
    return torch.randn(batch, 3, 16, 16)


def words(batch: int) -> Tensor:
    return torch.randint(WORDS, (batch, LENGTH))


NETWORKS: dict[str, tuple[Callable[[int], nn.Module], Callable[[int], Tensor]]] = {
    "cnn": (cnn, images),
    "unet": (UNet, images),
    "lstm": (Lstm, words),
    "vit": (vit, images),
    "gpt2": (gpt2, words),
}


def outputs(model: Callable[[Tensor], Any], inputs: Tensor) -> Tensor:
    """The logits, whatever surrounds them."""
    with torch.no_grad():
        given = model(inputs)
    return given if isinstance(given, Tensor) else given["logits"]


def loss(model: nn.Module, inputs: Tensor) -> Tensor:
    given = model(inputs)
    logits = given if isinstance(given, Tensor) else given["logits"]
    return (logits - logits.detach().roll(1, -1)).square().mean()


def prune(name: str, width: int, method: str = "crop-s", sparsity: float = 0.7) -> tuple[nn.Module, Mapping[str, int]]:
    """A pruned network in evaluation mode, and its parameters before and after."""
    torch.manual_seed(0)
    build, draw = NETWORKS[name]
    model, batch = build(width), draw(8)
    budget = Budget(sparsity, min_channels=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # on starved layers: nothing is trained here
        pruner = Pruner(model, method, budget, example_inputs=batch[:2], scoring=Scoring(loss, [batch]))
        report = pruner.check(0)
    assert report is not None
    return model.eval(), {"before": report.before.params, "after": report.after.params}


def error(program: Callable[[Tensor], Any], model: nn.Module, inputs: Tensor) -> float:
    """The largest difference between the outputs of a program and of the model, relative to the largest output."""
    expected = outputs(model, inputs)
    return float((outputs(program, inputs) - expected).abs().max() / expected.abs().max())


def exported(model: nn.Module, inputs: Tensor) -> torch.export.ExportedProgram:
    """The model as a program of `torch.export`, for any batch size."""
    return torch.export.export(model, (inputs,), dynamic_shapes=({0: torch.export.Dim("batch")},))


def to_onnx(model: nn.Module, inputs: Tensor, path: Path) -> Callable[[Tensor], Tensor]:
    """Write the model as an ONNX file, for any batch size, and return what onnxruntime computes with it."""
    import onnxruntime

    shapes = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(model, (inputs,), path, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert given.shape[0] == "batch"
    return lambda inputs: torch.from_numpy(session.run(None, {given.name: inputs.numpy()})[0])


def row(name: str, width: int, method: str, sparsity: float) -> dict[str, Any]:
    """A row of the table."""
    draw, began = NETWORKS[name][1], time.perf_counter()
    model, parameters = prune(name, width, method, sparsity)
    torch.manual_seed(0)
    dense = NETWORKS[name][0](width).eval()
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small.onnx", Path(folder) / "large.onnx"
        programs = {"torch.export": exported(model, draw(2)).module(), "onnx": to_onnx(model, draw(2), small)}
        to_onnx(dense, draw(2), large)
        return {
            "network": name,
            "parameters": parameters["before"],
            "parameters_after": parameters["after"],
            "onnx_bytes": large.stat().st_size,
            "onnx_bytes_after": small.stat().st_size,
            **{f"error_{of}": max(error(one, model, draw(size)) for size in BATCHES) for of, one in programs.items()},
            "seconds": round(time.perf_counter() - began, 1),
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--method", default="crop-s")
    parser.add_argument("--sparsity", type=float, default=0.7)
    given = parser.parse_args()
    for noise in (".*LeafSpec", "The tensor attributes", "_check_is_size"):  # torch's own, while it exports
        warnings.filterwarnings("ignore", noise)
    rows = [row(name, given.width, given.method, given.sparsity) for name in NETWORKS]
    write("export", rows, **vars(given), batches=BATCHES, traced_batch=2)


if __name__ == "__main__":
    main()
