"""Networks that others wrote: those of torchvision and timm, cut to half their parameters, then trained for a step.

    pip install torch==2.11.0 torchvision==0.26.0 timm && pip install -e '.[bench]'
    python -m benchmarks.architectures [--only resnet18 ...] [--seconds 300]

Every classification and segmentation network of torchvision, and one of each family of timm (a family is a module of
its code; the smallest of its networks is taken). Each gets ten outputs and the smallest square images that it takes,
in both modes. `random-s` cuts it to half its parameters and proves the cut; then come a forward and a backward pass in
training mode, a step of SGD, and a forward pass in evaluation mode. Its fate:

    cut        all of that
    refused    before anything was touched, with an error of the library
    disproved  the cut was made, and taken back since the outputs did not agree
    broken     cut, and then it failed in training or in evaluation
    crash      an error that is not of the library
    time       not done within the seconds of processor time that one network has

Each runs in a process of its own, on one thread. What is found is a line of .cache/architectures.jsonl, and a network
that has a line is not run again: delete the line, or the file, to do so. When all have one, the record is written to
results/benchmarks/architectures.json; the exit code is 1 if fewer than 95 % were cut, or any broke.
"""

import argparse
import json
import math
import multiprocessing
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from benchmarks.record import write
from earlycrop import Budget, Pruner
from earlycrop.errors import EarlyCropError, VerificationError
from earlycrop.scores import trees

LINES = Path(__file__).parent.parent / ".cache" / "architectures.jsonl"
SIDES = (32, 64, 96, 128, 160, 192, 224, 240, 256, 288, 299, 320, 384, 448, 512)
OUTPUTS = 10
IMAGES = 4
SMALLEST = """
    beit_base_patch16_224 halonet_h1 mobileone_s1 cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32
    convnext_zepto_rms cpubone_nano crossvit_tiny_240 csatv2 cs3darknet_focus_s cspnext_tiny davit_tiny
    deepseek_vit_412m deit_tiny_patch16_224 densenet121 dla46x_c dpn48b edgenext_xx_small efficientformer_l1
    efficientformerv2_s0 mobilenetv2_035 efficientvim_m1 efficientvit_b0 efficientvit_m0
    vit_tiny_patch16_dinov3_qkvb fasternet_t0 fastvit_t8 focalnet_tiny_srf gcvit_xxtiny gemma4_vit_167m_enc
    ghostnet_050 hardcorenas_b hgnetv2_b0 hiera_tiny_224 sam2_hiera_tiny hrnet_w18_small iformer_t
    inception_next_atto inception_resnet_v2 inception_v3 inception_v4 lcnetv2_small levit_128s lowformer_b0
    mambaout_femto maxvit_pico_rw_256 poolformerv2_s12 gmlp_ti16_224 lcnet_035 mobilenetv5_base mobilevit_xxs
    mvitv2_tiny naflexvit_base_patch16_parfac_gap nasnetalarge nest_tiny nextvit_small nf_regnet_b0 pit_ti_224
    pnasnet5large pvt_v2_b0 qwen3_vit_88m rdnet_tiny regnetx_002 repghostnet_050 repvit_m1 res2next50 resnest14d
    resnet10t resnetv2_18 rexnet_100 selecsls42 legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 starnet_s050
    swiftformer_xs swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224 tiny_vit_5m_224
    tnt_s_legacy_patch16_224 tresnet_m twins_svt_small vgg11 visformer_tiny vit_tiny_patch16_224
    vit_tiny_r_s16_p8_224 vit_srelpos_small_patch16_224 samvit_base_patch16_224 vitamin_small_224 volo_d1_224
    ese_vovnet19b_slim_dw legacy_xception xception41p xcit_nano_12_p8_224
"""  # of each family of timm 1.0.31, as `--choose` finds them
FATES = ("cut", "refused", "disproved", "broken", "crash", "time")


def torchvision_networks() -> dict[str, Callable[[], nn.Module]]:
    """Each classification and segmentation network of torchvision, by name."""
    plain = {name: {"weights": None} for name in torchvision.models.list_models(module=torchvision.models)}
    for name in torchvision.models.list_models(module=torchvision.models.segmentation):
        plain[name] = {"weights": None, "weights_backbone": None}
    for name in ("googlenet", "inception_v3"):  # without a choice they warn, and draw their values for a minute
        plain[name]["init_weights"] = False
    return {
        name: partial(torchvision.models.get_model, name, num_classes=OUTPUTS, **options)
        for name, options in plain.items()
    }


def timm_networks() -> dict[str, Callable[[], nn.Module]]:
    """The smallest network of each family of timm, by name."""
    return {f"timm {name}": partial(timm.create_model, name, num_classes=OUTPUTS) for name in SMALLEST.split()}


def smallest_of_families() -> list[str]:
    """The network with the fewest parameters in each module of timm, but for those made for its tests."""
    found = []
    for family in timm.list_modules():
        sizes = {}
        for name in timm.list_models(module=family):
            if not name.startswith("test_"):
                with warnings.catch_warnings(), torch.device("meta"):
                    warnings.simplefilter("ignore")
                    try:
                        sizes[name] = parameters(timm.create_model(name, num_classes=OUTPUTS))
                    except Exception as error:
                        print(f"{name}: {error}", file=sys.stderr)
        if sizes:
            found.append(min(sizes, key=lambda name: sizes[name]))
            print(family, found[-1], f"{sizes[found[-1]]:,}", flush=True)
    return found


def parameters(model: nn.Module) -> int:
    return sum(one.numel() for one in model.parameters())


def floats(outputs: Any) -> list[Tensor]:
    """The float tensors among the outputs, whatever holds them."""
    # the outputs of segmentation and of GoogLeNet are containers of their own
    return trees.floats([dict(one) if hasattr(one, "keys") else one for one in pytree.tree_leaves(outputs)])


def images(side: int) -> Tensor:
    return torch.randn(IMAGES, 3, side, side, generator=torch.Generator().manual_seed(0))


def smallest_side(build: Callable[[], nn.Module]) -> int:
    """The side of the smallest square images with which the dense network does what is asked of the cut one."""
    model, error = build(), None
    for side in SIDES:
        try:
            with torch.no_grad():
                model.eval()(images(side))
        except Exception as failed:
            error = failed
            continue
        try:
            stepped(model, torch.optim.SGD(model.parameters(), 1e-3), images(side))
            return side
        except Exception as failed:
            error, model = failed, build()  # what is left of a step that failed is no network to go on with
    raise ValueError(f"it takes no square images of up to {SIDES[-1]} pixels: {error}")


def met(model: nn.Module, x: Tensor) -> None:
    """Give batch norms the statistics of these images; without any, the layers behind hear nothing but biases."""
    norms = {one: one.momentum for one in model.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)}
    for norm in norms:
        norm.momentum = None  # the average of all batches, of which this is the first
    with torch.no_grad():
        model.train()(x)
    for norm, momentum in norms.items():
        norm.momentum = momentum


def stepped(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    """A step in training mode, then the outputs in evaluation mode; all numbers must be finite."""
    loss = torch.stack([one.square().mean() for one in floats(model.train()(x))]).sum()
    loss.backward()
    for name, one in model.named_parameters():
        if one.grad is not None and not (one.grad.shape == one.shape and bool(one.grad.isfinite().all())):
            raise ValueError(f"the gradient of `{name}` does not fit, or is not finite")
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # norms over a few values have steep slopes
    optimizer.step()
    with torch.no_grad():
        outputs = floats(model.eval()(x))
    if not outputs or not all(bool(one.isfinite().all()) for one in outputs):
        raise ValueError("outputs that are not finite")


def judge(name: str, build: Callable[[], nn.Module]) -> dict[str, Any]:
    """What becomes of one network."""
    torch.manual_seed(0)
    side = smallest_side(build)
    torch.manual_seed(0)
    model, x = build(), images(side)
    met(model, x)
    found: dict[str, Any] = {"network": name, "side": side, "parameters": parameters(model)}
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    began = time.process_time()
    try:
        pruner = Pruner(model, "random-s", Budget(0.5, target="params"), example_inputs=x, optimizer=optimizer)
        found["trace_seconds"] = round(time.process_time() - began, 1)
        report = pruner.check(0)
    except EarlyCropError as error:
        fate = "disproved" if isinstance(error, VerificationError) else "refused"
        return {**found, "fate": fate, "why": f"{type(error).__name__}: {error}", **since(began)}
    except Exception as error:
        return {**found, "fate": "crash", "why": in_a_line(error), **since(began)}
    assert report is not None
    found |= {"left": parameters(model), "reach": round(report.reach.part, 3) if report.reach else None}
    if report.verification is not None:
        found |= {"error": report.verification.max_error, "precision": report.verification.precision}
    else:
        found |= {"unverified": report.unverified}
    try:
        stepped(model, optimizer, x)
    except Exception as error:
        return {**found, "fate": "broken", "why": in_a_line(error), **since(began)}
    return {**found, "fate": "cut", **since(began)}


def since(began: float) -> dict[str, float]:
    return {"seconds": round(time.process_time() - began, 1)}


def in_a_line(error: Exception) -> str:
    """An error in a line, with the place where it was raised."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:400]
    return f"{type(error).__name__}: {text} ({Path(last.filename).name}, line {last.lineno})"


def apart(name: str, build: Callable[[], nn.Module], seconds: float) -> dict[str, Any]:
    """The same in a process of its own, which is ended after so many seconds of processor time."""
    context = multiprocessing.get_context("fork")  # what is imported need not be imported again
    ours, theirs = context.Pipe(duplex=False)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), math.ceil(seconds) + 5))
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        try:
            theirs.send(judge(name, build))
        except Exception as error:
            theirs.send({"network": name, "fate": "crash", "why": in_a_line(error)})

    process = context.Process(target=work)
    process.start()
    theirs.close()
    try:
        found = ours.recv()
    except EOFError:
        process.join()
        late = process.exitcode == -signal.SIGXCPU
        found = {"network": name, "fate": "time" if late else "crash", "why": f"it ended with {process.exitcode}"}
    process.kill()
    process.join()
    return found


def lines() -> Iterator[dict[str, Any]]:
    yield from map(json.loads, LINES.read_text().splitlines() if LINES.exists() else ())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="only these networks; timm's as 'timm NAME'")
    parser.add_argument("--seconds", type=float, default=300, help="of processor time for one network")
    parser.add_argument("--choose", action="store_true", help="print the smallest network of each family of timm")
    arguments = parser.parse_args()
    if arguments.choose:
        print(smallest_of_families())
        return 0
    networks = {**torchvision_networks(), **timm_networks()}
    if unknown := [name for name in arguments.only or () if name not in networks]:
        parser.error(f"unknown networks: {', '.join(unknown)}")
    LINES.parent.mkdir(exist_ok=True)
    done = {one["network"] for one in lines()}
    for name, build in networks.items():
        if name not in done and (not arguments.only or name in arguments.only):
            found = apart(name, build, arguments.seconds)
            with LINES.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(json.dumps(found), flush=True)
    return recorded(networks) if not arguments.only else 0


def recorded(networks: dict[str, Callable[[], nn.Module]]) -> int:
    """Write the record; gives the exit code."""
    results = [one for one in lines() if one["network"] in networks]
    rows = []
    for source, among in (("torchvision", False), ("timm", True), ("both", None)):
        these = [one for one in results if among in (None, one["network"].startswith("timm "))]
        counts = {fate: sum(one["fate"] == fate for one in these) for fate in FATES}
        worst = max((one["error"] for one in these if one["fate"] == "cut" and one.get("error") is not None), default=0)
        rows.append({"source": source, "networks": len(these), **counts, "largest_error": worst})
    versions = {"torchvision": torchvision.__version__, "timm": timm.__version__}
    print(f"wrote {write('architectures', rows, **versions, networks=results)}")
    harm = sum(rows[-1][fate] for fate in ("broken", "crash"))
    return int(harm > 0 or rows[-1]["cut"] < math.ceil(0.95 * len(results)))


if __name__ == "__main__":
    sys.exit(main())
