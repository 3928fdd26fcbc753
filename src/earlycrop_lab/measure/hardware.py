"""The hardware and software of a run: recorded with every result, printed with every timing."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from earlycrop.counting.measuring import processor

PACKAGES = ("earlycrop", "torch", "safetensors", "jaxtyping", "numpy", "scikit-learn", "pillow", "codecarbon")


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, commit, hardware and load, JSON-ready."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "commit": commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu": processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "ranks": torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1,
        "load": load(),
    }


def find_device(name: str) -> str:
    """The device of that name; `auto` is a CUDA GPU where there is one.

    Raises:
        ValueError: There is no such device on this machine.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"there is no device {name!r}: use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"{name} is not there: torch sees {torch.cuda.device_count()} CUDA devices; use --device cpu")
    return name


def cpus() -> int:
    """The number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load() -> float | None:
    """Load average of the last minute; above the number of CPUs, the timings include other processes' work."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def commit() -> str | None:
    """The commit of this laboratory's own source, with `-changed` if files differ from it; None without git."""
    here = Path(__file__).parent
    try:
        head = _git(here, "rev-parse", "HEAD")
        _git(here, "ls-files", "--error-unmatch", __file__)  # an installed copy may lie in another repository
        return head + ("-changed" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(where: Path, *arguments: str) -> str:
    command = ["git", "-C", str(where), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":  # `make test-all` prints this above its summary
    for name, value in environment(torch.device("cuda" if torch.cuda.is_available() else "cpu")).items():
        print(f"{name}: {value}")
