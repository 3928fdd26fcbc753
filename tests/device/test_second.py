"""The library on a device that is not the CPU, in a process of its own."""

import shutil
import subprocess
import sys

import pytest
import torch

RUN = "import os, sys, pytest; code = pytest.main(sys.argv[1:]); sys.stdout.flush(); os._exit(code)"
"""PyTorch's threads of the device outlive Python's, so the process ends without waiting for them."""


@pytest.mark.skipif(torch.version.cuda is not None, reason="a PyTorch that is built for CUDA has no other accelerator")
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_on_a_second_device(which):
    command = [sys.executable, "-c", RUN, "tests/device/on_second.py", "-q", "-p", "no:cacheprovider", "-m", which]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-20000:] + found.stderr[-5000:]
