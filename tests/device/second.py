"""A second device for machines without one: built with the system's C++ compiler, see `second.cpp`.

To PyTorch it is an accelerator (an HPU, which no build of PyTorch has by itself), so that `.to` moves a module's
parameters to it as it moves them to a GPU. A process that has loaded it keeps it, and other libraries would take it for
the machine's own: only processes of their own load it, see `test_second.py`.
"""

import functools
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("second.cpp")
KIND = "hpu"


class Module:
    """What PyTorch asks of a kind of device under its name."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def _lazy_init(self) -> None:
        pass

    def _is_in_bad_fork(self) -> bool:
        return False

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def manual_seed_all(self, seed: int) -> None:
        pass  # it has no generator of its own

    def get_rng_state(self, device: object) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: object) -> None:
        torch.set_rng_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


def built() -> Path:
    """The library, compiled once for each source and PyTorch."""
    from torch.utils import cpp_extension

    key = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    made = Path(tempfile.gettempdir()) / f"earlycrop-second-{os.getuid()}-{key}.so"
    if not made.exists():
        paths = [f"-I{path}" for path in cpp_extension.include_paths()]
        paths += [f"-L{path}" for path in cpp_extension.library_paths()]
        part = made.with_suffix(f".{os.getpid()}")
        command = ["c++", "-O0", "-w", "-shared", "-fPIC", "-std=c++20", *paths, str(SOURCE), "-o", str(part)]
        subprocess.run([*command, "-lc10", "-ltorch_cpu", "-ltorch"], check=True)
        os.replace(part, made)  # another process may have been as fast
    return made


@functools.cache
def device() -> torch.device:
    """The second device, in this process from now on."""
    torch.ops.load_library(built())
    torch._register_device_module(KIND, Module())
    return torch.device(KIND, 0)
