"""States of a training, written without pickle: they come back equal, or are refused."""

import math
import random
import struct
from collections import Counter, OrderedDict, namedtuple

import numpy as np
import pytest
import torch
from torch import nn

from earlycrop import CheckpointError, load_state, save, save_state
from earlycrop.files import DTYPES
from tests import dense
from tests.checkpoint.helpers import STRANGE, refused


def same(a, b) -> bool:
    """Of the same types and, to the bit, of the same values, all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return (
            a.dtype == b.dtype and a.shape == b.shape and dense.bits(a.resolve_conj()) == dense.bits(b.resolve_conj())
        )
    if isinstance(a, dict):
        entries = zip(a.items(), b.items(), strict=True)
        return len(a) == len(b) and getattr(a, "_metadata", None) == getattr(b, "_metadata", None) and same_all(entries)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and same_all(zip(a, b, strict=True))
    return struct.pack(">d", a) == struct.pack(">d", b) if isinstance(a, float) else a == b


def same_all(pairs) -> bool:
    return all(same(a, b) for a, b in pairs)


ODD = struct.unpack(">d", bytes.fromhex("fff8000000001234"))[0]  # a nan with a sign and a payload

STATES = {
    "nothing": {},
    "numbers": {"int": 3, "large": 2**200, "true": True, "none": None, "tenth": 0.1, "least": 5e-324, "minus": -0.0},
    "not finite": {"inf": math.inf, "minus": -math.inf, "nan": math.nan, "odd": ODD},
    "texts": {"": "", "ü ∘ 🜁": 'a "quoted"\n\0 text', "half": "\ud800"},
    "keys": {0: "zero", "0": "text", None: 1, True: 2, 2.5: 3, (1, "a"): 4, -1: 5},
    "nested": {"a": [[], (), {}, [{"b": ({"c": [1]},)}]], "size": torch.Size([2, 3])},
    "like the skeleton": {"list": ["tensor", "0"], "tuple": ("float", "7ff8"), "dict": [["dict"]]},
    "ordered": {"ordered": OrderedDict([("b", 1), ("a", 2)]), "counter": Counter({3: 2})},
    "tensors": {
        "one": torch.tensor(STRANGE, dtype=torch.float64),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "bool": torch.tensor([True, False, True]),
        "zeros": torch.zeros(1000),
        "view": torch.arange(12.0).view(3, 4).T[1:],
        "complex": torch.tensor([1 + 2j, 0]).conj(),
        "many": [torch.tensor([1, 0, 0, 0, 0]).to(dtype) for dtype in DTYPES],
    },
}


@pytest.mark.parametrize("name", STATES)
def test_a_state_comes_back_equal(name, tmp_path):
    size = save_state(STATES[name], tmp_path / "state")
    assert size == (tmp_path / "state").stat().st_size
    assert same(load_state(tmp_path / "state"), STATES[name])


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")  # L-BFGS itself, in PyTorch 2.8
def test_states_of_every_part_of_a_training_come_back_equal(tmp_path):
    """And can be written again, so nothing was lost that the first writing needed."""
    net = dense.residual_net().float()
    images, labels = dense.images()
    adam = torch.optim.Adam([{"params": [*net.parameters()][:2]}, {"params": [*net.parameters()][2:], "lr": 0.1}])
    lbfgs = torch.optim.LBFGS(net.parameters())
    schedulers = [
        torch.optim.lr_scheduler.OneCycleLR(adam, 0.1, 10),
        torch.optim.lr_scheduler.MultiStepLR(adam, [2, 5, 5]),
        torch.optim.lr_scheduler.ReduceLROnPlateau(adam),
        torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(adam, 3),
    ]
    dense.cross_entropy(net, (images.float(), labels)).backward()
    adam.step()
    lbfgs.step(lambda: dense.cross_entropy(net, (images.float(), labels)))
    average = torch.optim.swa_utils.AveragedModel(net)
    random.seed(0)
    state = {
        "model": net.state_dict(),
        "average": average.state_dict(),
        "optimizers": [adam.state_dict(), lbfgs.state_dict()],
        "schedulers": [each.state_dict() for each in schedulers],
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
        "random": {"torch": torch.get_rng_state(), "python": random.getstate()},
    }
    save_state(state, tmp_path / "state")
    found = load_state(tmp_path / "state")
    assert same(found, state)
    save_state(found, tmp_path / "again")
    assert same(load_state(tmp_path / "again"), state)
    adam.load_state_dict(found["optimizers"][0])
    assert same(adam.state_dict(), state["optimizers"][0])
    random.setstate(found["random"]["python"])


@pytest.mark.parametrize(
    ("state", "where"),
    [
        ({"a": [1, {2: {3}}]}, r"state\['a'\]\[1\]\[2\], of type builtins\.set"),
        ({"a": np.zeros(3)}, r"state\['a'\], of type numpy\.ndarray.*from_numpy"),
        ({"f": len}, r"state\['f'\], of type builtins\.builtin_function_or_method"),
        ({"n": nn.Linear(1, 1)}, r"Linear"),
        ({"z": 1j}, "complex"),
        ({"b": b""}, "bytes"),
        ({"p": namedtuple("Pair", "a b")(1, 2)}, "Pair"),
        ({"d": torch.float32}, "dtype"),
        ({frozenset(): 1}, "frozenset"),
    ],
)
def test_what_a_state_cannot_hold_is_named_and_nothing_is_written(state, where, tmp_path):
    with pytest.raises(CheckpointError, match=where):
        save_state(state, tmp_path / "state")
    assert not list(tmp_path.iterdir())


def test_a_state_is_no_model_and_a_model_no_state(tmp_path):
    save(dense.residual_net(), tmp_path / "model")
    save_state({"a": torch.ones(3)}, tmp_path / "state")
    with pytest.raises(
        CheckpointError, match=r"not written by earlycrop\.save_state: it was written by earlycrop\.save\."
    ):
        load_state(tmp_path / "model")
    refused(tmp_path / "state", r"not written by earlycrop\.save: it was written by earlycrop\.save_state\.")


@pytest.mark.parametrize("flip", [1, 0x10, 0xFF])
def test_a_damaged_state_is_never_loaded(flip, tmp_path):
    state = {"a": torch.arange(20.0), 3: [0.5, math.nan, None], "masked": torch.eye(9)}
    save_state(state, tmp_path / "state")
    whole = (tmp_path / "state").read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= flip
        (tmp_path / "state").write_bytes(damaged)
        try:
            found = load_state(tmp_path / "state")
        except CheckpointError:
            continue
        assert same(found, state), f"byte {place} of {len(whole)} was changed and nobody noticed"
    for length in range(0, len(whole), 3):
        (tmp_path / "state").write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            load_state(tmp_path / "state")


def test_a_state_loaded_is_its_own(tmp_path):
    """Whoever writes over the file afterwards changes nothing that was read."""
    state = {"a": torch.arange(1000.0)}
    save_state(state, tmp_path / "state")
    found = load_state(tmp_path / "state")
    with open(tmp_path / "state", "r+b") as file:
        file.write(bytes(8000))
    assert same(found, state)
