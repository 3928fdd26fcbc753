"""Saved and loaded bit for bit: dense, masked and cut; damaged and foreign files are refused."""

import json
import math
import random
import struct
import subprocess
import sys
from collections import Counter, OrderedDict, namedtuple
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from earlycrop import CheckpointError, Pruner, load, load_state, save, save_state
from earlycrop.files import DTYPES
from earlycrop.structure import cut, trace
from earlycrop.structure.gated_norms import gate_norms
from tests import dense, oracles
from tests.cases import CASES


def state(net: nn.Module):
    return {name: dense.bits(tensor) for name, tensor in net.state_dict().items()}


def attributes(net: nn.Module):
    return {name: {k: v for k, v in vars(m).items() if isinstance(v, int | tuple)} for name, m in net.named_modules()}


def there_and_back(net: nn.Module, anew: nn.Module, path: Path) -> None:
    size = save(net, path)
    assert size == path.stat().st_size
    objects = [id(t) for t in (*anew.parameters(), *anew.buffers())]
    load(anew, path)
    assert [id(t) for t in (*anew.parameters(), *anew.buffers())] == objects
    assert state(anew) == state(net)
    assert attributes(anew) == attributes(net)


@pytest.mark.parametrize("name", ["resnet", "mlp_layer_norm", "buffers", "mlp_tied_square", "autoencoder_tied"])
def test_dense(name, tmp_path):
    there_and_back(CASES[name].build(), CASES[name].build(), tmp_path / "model")


FAMILIES = [
    *("resnet", "mobilenet", "densenet", "group_norm_two", "mlp_layer_norm", "transposed_groups"),
    *("prelu_channels", "shared_block", "instance_norm_tracked"),
]


@pytest.mark.parametrize(
    "name", dense.some_of(FAMILIES, ["mobilenet", "group_norm_two", "mlp_layer_norm", "shared_block"])
)
def test_cut(name, tmp_path):
    net, anew, inputs = CASES[name].build().double(), CASES[name].build().double(), CASES[name].inputs()
    report = Pruner(net, "random-s", 0.4, example_inputs=inputs).check(0)
    assert report.after.params < report.before.params
    there_and_back(net, anew, tmp_path / "model")
    assert oracles.attribute_faults(anew) == []
    found, expected = anew.eval()(*inputs), net.eval()(*inputs)
    assert torch.equal(found, expected)
    anew(*inputs).sum().backward()


@pytest.mark.filterwarnings("ignore::earlycrop.StarvationWarning")  # so much is masked that a layer is empty
def test_masked_and_small(tmp_path):
    net, anew = dense.mlp(100, 200, 50, 3).float(), dense.mlp(100, 200, 50, 3).float()
    whole = save(net, tmp_path / "dense")
    Pruner(net, "magnitude-u", 0.98, example_inputs=torch.zeros(1, 100)).check(0)
    there_and_back(net, anew, tmp_path / "model")
    assert (tmp_path / "model").stat().st_size < whole * (1 / 32 + 0.02) + 4096


STRANGE = [0.0, -0.0, math.nan, -math.nan, math.inf, -math.inf, 5e-324, -5e-324, 1.0, 1e-45, 1e38]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("zeros", [0, 100, 1001])
def test_every_bit_of_every_value(dtype, zeros, tmp_path):
    values = torch.cat([torch.tensor(STRANGE, dtype=torch.float64).to(dtype), torch.zeros(zeros, dtype=dtype)])
    values = values[torch.randperm(len(values))]

    def make(filled):
        net = nn.Linear(len(values), 2, bias=False).to(dtype)
        if filled:
            net.weight.data = torch.stack([values, values.flip(0)])
        return net

    there_and_back(make(True), make(False), tmp_path / "model")


def test_a_nan_keeps_its_payload(tmp_path):
    odd = torch.tensor([0x7FC12345, -1, 0x7F800001, 0, 0, 0, 0, 0, 0, 0], dtype=torch.int32).view(torch.float32)
    net, anew = nn.Linear(10, 1, bias=False), nn.Linear(10, 1, bias=False)
    net.weight.data = odd[None]
    there_and_back(net, anew, tmp_path / "model")


class Assorted(nn.Module):
    """Buffers of every kind."""

    def __init__(self, fill: int) -> None:
        super().__init__()
        whole = torch.arange(10.0) * fill
        self.register_buffer("count", torch.tensor(fill))
        self.register_buffer("zero", torch.tensor(0))
        self.register_buffer("flags", torch.tensor([True, False, False, False, False]) & bool(fill))
        self.register_buffer("bytes", torch.zeros(20, dtype=torch.uint8))
        self.register_buffer("numbers", torch.tensor([0, 0, 0, -fill]))
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("part", whole[:5])
        self.register_buffer("other_part", whole[5:])
        self.register_buffer("turned", (torch.arange(6.0) * fill).view(2, 3).T)
        self.register_buffer("passing", torch.zeros(3), persistent=False)
        self.nothing = nn.Linear(2, 2)
        self.nothing.register_parameter("bias", None)


def test_buffers_of_every_kind(tmp_path):
    net, anew = Assorted(3), Assorted(0)
    anew.passing.fill_(7)
    there_and_back(net, anew, tmp_path / "model")
    assert anew.passing.tolist() == [7, 7, 7]


def test_modes_and_flags_are_the_loaders_own(tmp_path):
    save(dense.residual_net().eval(), tmp_path / "model")
    anew = dense.residual_net().train()
    anew.stem.weight.requires_grad_(False)
    load(anew, tmp_path / "model")
    assert anew.training
    assert not anew.stem.weight.requires_grad
    assert anew.conv1.weight.requires_grad


def test_the_file_of_a_gated_network_is_that_of_the_ordinary_one(tmp_path):
    x = dense.images()[0]
    net, anew = dense.conv_norm_net(), dense.conv_norm_net()
    kinds = [type(module) for module in net.modules()]
    gate_norms(net)
    expected, values = net.eval()(x), state(net)
    save(net, tmp_path / "model")
    assert state(net) == values
    load(anew, tmp_path / "model")
    assert [type(module) for module in anew.modules()] == kinds
    torch.testing.assert_close(anew.eval()(x), expected, atol=1e-14, rtol=0)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    load(net, tmp_path / "model")  # while it is gated
    assert [type(module) for module in net.modules()] != kinds
    torch.testing.assert_close(net(x), expected, atol=1e-14, rtol=0)


def test_training_goes_on_after_loading(tmp_path):
    net, anew = dense.residual_net(), dense.residual_net()
    batch = dense.images()
    Pruner(net, "random-s", 0.4, example_inputs=batch[0]).check(0)
    save(net, tmp_path / "model")
    load(anew, tmp_path / "model")
    for one in (net, anew):
        optimizer = torch.optim.SGD(one.parameters(), lr=0.1)
        dense.cross_entropy(one.train(), batch).backward()
        optimizer.step()
    assert state(net) == state(anew)


def test_numpy_is_not_needed(tmp_path):
    """The library is installed without it, and the format's own writer would import it."""
    code = """
import sys
sys.modules["numpy"] = None
import torch, earlycrop
from torch import nn

net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
x = torch.randn(8, 4)
scoring = earlycrop.Scoring(lambda m, b: m(b).square().mean(), [x])
earlycrop.Pruner(net, "snap", 0.5, example_inputs=x, scoring=scoring).check(0)
earlycrop.save(net, "model")
twin = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
earlycrop.load(twin, "model")
assert torch.equal(net(x), twin(x)) and net[0].out_features < 6
"""
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr


def test_folders_are_made(tmp_path):
    save(dense.residual_net(), tmp_path / "a" / "b" / "model")
    load(dense.residual_net(), str(tmp_path / "a" / "b" / "model"))


# Widths that follow -------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Its sizes are its own numbers."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads, self.sizes, self.parts = heads, (2 * heads, heads), [heads, heads]
        self.qkv = nn.Linear(4, 6 * heads)
        self.out = nn.Linear(2 * heads, 4)
        self.register_buffer("turn", torch.arange(float(heads)), persistent=False)
        self.cache: torch.Tensor | None = None

    def forward(self, x):
        q, k, v = self.qkv(x).view(*x.shape[:-1], 3, self.heads, 2).unbind(-3)
        sizes = v.flatten(-2).new_tensor([sum(self.sizes), *self.parts]).sum()
        return self.out((torch.softmax(q * k, -1) * v * self.turn[:, None]).flatten(-2)) * sizes


def weight_norm(width: int) -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.Linear(4, width))


def spectral_norm(width: int) -> nn.Module:
    return nn.utils.parametrizations.spectral_norm(nn.Linear(4, width))


def encoder(heads: int) -> nn.Module:
    return nn.TransformerEncoderLayer(2 * heads, heads, 3 * heads, batch_first=True)


NARROWED = {
    # made with a width, and what it then takes
    "linear": (lambda n: nn.Linear(4, n), lambda n: torch.randn(2, 4)),
    "grouped": (lambda n: nn.Conv2d(2 * n, 2 * n, 3, groups=n, padding=1), lambda n: torch.randn(2, 2 * n, 5, 5)),
    "transposed": (lambda n: nn.ConvTranspose2d(n, 3, 3), lambda n: torch.randn(2, n, 5, 5)),
    "batch norm": (nn.BatchNorm1d, lambda n: torch.randn(5, n)),
    "group norm": (lambda n: nn.GroupNorm(n, 2 * n), lambda n: torch.randn(2, 2 * n, 3)),
    "layer norm": (lambda n: nn.LayerNorm((3, n)), lambda n: torch.randn(2, 3, n)),
    "bilinear": (lambda n: nn.Bilinear(n, n + 1, 3), lambda n: (torch.randn(2, n), torch.randn(2, n + 1))),
    "embedding": (lambda n: nn.Embedding(5, n), lambda n: torch.tensor([0, 4])),
    "lstm": (lambda n: nn.LSTM(3, n, num_layers=2, bidirectional=True), lambda n: torch.randn(4, 2, 3)),
    "projected lstm": (lambda n: nn.LSTM(3, 2 * n, proj_size=n), lambda n: torch.randn(4, 2, 3)),
    "gru": (lambda n: nn.GRU(3, n), lambda n: torch.randn(4, 2, 3)),
    "cell": (lambda n: nn.LSTMCell(3, n), lambda n: torch.randn(2, 3)),
    "attention": (lambda n: nn.MultiheadAttention(2 * n, n), lambda n: (torch.randn(3, 2, 2 * n),) * 3),
    "encoder": (encoder, lambda n: torch.randn(2, 3, 2 * n)),
    "own": (Attention, lambda n: torch.randn(2, 4)),
    "weight norm": (weight_norm, lambda n: torch.randn(2, 4)),
    "spectral norm": (spectral_norm, lambda n: torch.randn(2, 4)),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # that one way of computing it is not there
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", NARROWED)
def test_whatever_its_class_the_wide_one_becomes_the_narrow_one(name, mode, tmp_path):
    """Built wide, it computes after loading what the narrow one does, and trains."""
    make, inputs = NARROWED[name]
    narrow, wide = make(2).eval(), make(4).eval()
    there_and_back(narrow, wide, tmp_path / "model")
    for net in (narrow, wide):
        getattr(net, mode)()
        torch.manual_seed(1)
        net.found = net(*given) if isinstance(given := inputs(2), tuple) else net(given)
    found, expected = (torch.utils._pytree.tree_leaves(net.found) for net in (wide, narrow))
    assert all(map(torch.equal, found, expected))
    sum(one.sum() for one in found).backward()
    assert all(p.grad is None or p.grad.shape == p.shape for p in wide.parameters())
    if isinstance(wide, nn.RNNBase):
        assert list(map(id, wide._flat_weights)) == list(map(id, wide.parameters()))


def test_a_number_that_the_model_does_not_have_is_left_out(tmp_path):
    net, anew = nn.Linear(2, 2), nn.Linear(2, 2)
    net.steps, net.flag, net.name, net._hidden, anew.flag = 5, True, "net", 3, False
    save(net, tmp_path / "model")
    load(anew, tmp_path / "model")
    assert not hasattr(anew, "steps")
    assert not hasattr(anew, "_hidden")
    assert anew.flag is False


def test_a_passing_buffer_that_only_one_has_is_no_other_network(tmp_path):
    net, anew = Attention(2), Attention(2)
    del net.cache
    net.register_buffer("cache", torch.ones(3), persistent=False)
    save(net, tmp_path / "model")
    load(anew, tmp_path / "model")
    assert anew.cache is None
    save(anew, tmp_path / "model")
    load(net, tmp_path / "model")
    assert net.cache.tolist() == [1, 1, 1]


def test_tied_weights_stay_tied(tmp_path):
    net, anew = tied(dense.residual_net()), tied(dense.residual_net())
    there_and_back(net, anew, tmp_path / "model")
    assert anew.conv1.weight is anew.conv2.weight


def tied(net: nn.Module) -> nn.Module:
    net.conv2.weight = net.conv1.weight
    return net.float()


# Refusals -----------------------------------------------------------------------------------------------------


def refused(path: Path, message: str | None = None, net: nn.Module | None = None) -> None:
    net = net if net is not None else masked()
    before = dense.everything(net)
    with pytest.raises(CheckpointError, match=message):
        load(net, path)
    assert dense.everything(net) == before


def masked() -> nn.Module:
    net = dense.residual_net().float()
    Pruner(net, "magnitude-u", 0.7, example_inputs=dense.images()[0].float()).check(0)
    return net


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "model"
    save(masked(), path)
    return path.read_bytes()


def test_a_file_that_is_not_there(tmp_path):
    refused(tmp_path / "nothing", "nothing")


def test_a_folder(tmp_path):
    refused(tmp_path)


@pytest.mark.parametrize("content", [b"", b"x", b"PK\x03\x04" * 100, b"\x80\x02}q\x00.", b"\xff" * 64, bytes(64)])
def test_a_file_of_another_kind(content, tmp_path):
    (tmp_path / "model").write_bytes(content)
    refused(tmp_path / "model", "Save it again")


def test_a_pickle(tmp_path):
    torch.save(dense.residual_net().state_dict(), tmp_path / "model")
    refused(tmp_path / "model")


def test_safetensors_that_somebody_else_wrote(tmp_path):
    safetensors.torch.save_file(dense.residual_net().state_dict(), tmp_path / "model")
    refused(tmp_path / "model", r"earlycrop\.save")
    safetensors.torch.save_file(dense.residual_net().state_dict(), tmp_path / "model", metadata={"format": "pt"})
    refused(tmp_path / "model", "'pt'")


def test_a_truncated_file(file, tmp_path):
    net = masked()
    for length in [*range(0, 200, 7), *range(200, len(file), 97), len(file) - 1]:
        (tmp_path / "model").write_bytes(file[:length])
        refused(tmp_path / "model", net=net)
    (tmp_path / "model").write_bytes(file + b"\0")
    refused(tmp_path / "model", net=net)


@pytest.mark.parametrize("flip", [1, 0x10, 0xFF])
def test_a_damaged_byte_is_never_loaded(file, tmp_path, flip):
    """Wherever it lies: in the header, in the widths, in a bitmap, in a value."""
    net, path = masked(), tmp_path / "model"
    path.write_bytes(file)
    load(net, path)
    (header,) = struct.unpack("<Q", file[:8])
    step = 13
    for place in [*range(0, header, step), *range(header, len(file), step)]:
        damaged = bytearray(file)
        damaged[place] ^= flip
        path.write_bytes(damaged)
        before = dense.everything(net)
        try:
            load(net, path)
        except CheckpointError:
            assert dense.everything(net) == before
        else:  # a byte that means nothing, such as a space at the header's end
            assert dense.everything(net) == before, f"byte {place} of {len(file)} was changed and nobody noticed"


@pytest.mark.parametrize(
    "other",
    [
        dense.conv_norm_net,
        lambda: nn.Sequential(dense.residual_net()),
        lambda: dense.residual_net().stem,
        lambda: nn.Identity(),
        lambda: tied(dense.residual_net()),
    ],
)
def test_another_network(file, tmp_path, other):
    (tmp_path / "model").write_bytes(file)
    refused(tmp_path / "model", "another network", net=other())


def test_a_network_that_is_too_small(tmp_path):
    save(dense.mlp(4, 10, 3), tmp_path / "model")
    refused(tmp_path / "model", r"0\.weight.*\(10, 4\).*\(9, 4\)", net=dense.mlp(4, 9, 3))


def test_nothing_is_unpickled(file):
    size = struct.unpack("<Q", file[:8])[0]
    header = json.loads(file[8 : 8 + size])
    assert header["__metadata__"]["format"] == "earlycrop-2"
    assert all(set(entry) == {"dtype", "shape", "data_offsets"} for name, entry in header.items() if name[0] != "_")


def test_another_geometry_is_another_network(tmp_path):
    save(nn.Conv2d(2, 3, 3, stride=2), tmp_path / "model")
    refused(tmp_path / "model", r"`stride` of `` is \(2, 2\), in this model \(1, 1\)", net=nn.Conv2d(2, 3, 3))
    save(nn.Conv2d(2, 3, 3), tmp_path / "model")
    refused(tmp_path / "model", r"`kernel_size`.*\(3, 3\).*\(5, 5\)", net=nn.Conv2d(2, 3, 5))
    save(nn.Sequential(nn.Linear(2, 2), nn.MaxPool1d(2)), tmp_path / "model")
    refused(tmp_path / "model", "`1` is 2, in this model", net=nn.Sequential(nn.Linear(2, 2), nn.MaxPool1d((3,))))


def test_another_type_is_refused_and_not_rounded(tmp_path):
    save(nn.Linear(2, 2).double(), tmp_path / "model")
    refused(tmp_path / "model", r"torch\.float64, in this model it is torch\.float32", net=nn.Linear(2, 2))
    with torch.device("meta"):
        net = nn.Linear(2, 2, dtype=torch.float64)
    with pytest.raises(CheckpointError, match="meta device"):
        load(net, tmp_path / "model")


class Extra(nn.Linear):
    def get_extra_state(self):
        return {"scale": 3}


def test_what_cannot_be_stored_is_said_and_nothing_is_written(tmp_path):
    lazy, meta, sparse = nn.LazyLinear(3), nn.Linear(2, 2, device="meta"), nn.Linear(2, 2)
    sparse.register_buffer("adjacency", torch.eye(3).to_sparse())
    complex_ = nn.Linear(2, 2, dtype=torch.complex128)
    for net, why in (
        (lazy, "`weight`: it has no shape yet"),
        (meta, "`weight`: it is on the meta device"),
        (sparse, r"`adjacency`: it is torch\.sparse_coo"),
        (complex_, r"`weight`: the format has no torch\.complex128"),
        (nn.Sequential(Extra(2, 2)), "`0` whole: it has an extra state"),
    ):
        with pytest.raises(CheckpointError, match=why):
            save(net, tmp_path / "model")
    assert not list(tmp_path.iterdir())


# States -------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("name", ["transformer_layer", "multihead_attention", "recurrent_lstm", "group_norm_two"])
def test_attributes_that_a_cut_changed_come_back_in_a_network_built_anew(name, tmp_path):
    """Heads, hidden units and groups live in integers of modules, and in one case in the kind of a module."""
    torch.manual_seed(0)
    case = CASES[name]
    net = case.build().double().eval()
    structure = trace(net, case.inputs())
    cut(structure, net, torch.arange(len(structure)) % 3 > 0, None)
    save(net, tmp_path / "small")
    again = case.build().double().eval()
    load(again, tmp_path / "small")
    with torch.no_grad():
        found, wanted = tree_leaves(again(*case.inputs())), tree_leaves(net(*case.inputs()))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
