"""What a cut must equal, found without asking the engine: slow, obvious, in float64.

Every value of a network is made unique, so that the survivors of a cut can be recognised *by value*. All other
entries are then set to zero in a copy of the dense network, where a norm that mixes channels takes its statistics over
the survivors only, and both must compute the same outputs and the same gradients.
"""

from __future__ import annotations

import copy
import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_flatten


class NotASubnetwork(AssertionError):
    """The cut network is not what is left of the dense one."""


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers; a tensor with two names is listed under both."""
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}


def make_unique(model: nn.Module, seed: int = 0) -> nn.Module:
    """Fill every tensor with distinct values of a sensible magnitude, and turn dropout off; in place, in float64."""
    generator = torch.Generator().manual_seed(seed)
    model.double()
    with torch.no_grad():
        for name, tensor in tensors(model).items():
            if not tensor.is_floating_point():
                continue
            drawn = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            uniform = 0.5 + torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
            if tensor.dim() < 2:
                # Weights of norms have either sign and keep away from zero; variances are positive.
                positive = name.endswith("running_var")
                tensor.copy_(
                    uniform if positive else drawn.sign() * uniform if name.endswith("weight") else 0.5 * drawn
                )
            elif isinstance(tensor, nn.Parameter):
                tensor.copy_(drawn * math.sqrt(2 * tensor.shape[0] / tensor.numel()))
            else:
                tensor.copy_(uniform)
            assert tensor.unique().numel() == tensor.numel()
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(module, nn.RNNBase | nn.MultiheadAttention):
            module.dropout = 0.0
    return model


def survivors(dense: Tensor, cut: Tensor) -> tuple[Tensor, ...]:
    """For each dimension the indices of `dense` that make up `cut`, found by value.

    >>> dense = torch.arange(12.0).reshape(3, 4)
    >>> survivors(dense, dense[1:, [0, 3]])
    (tensor([1, 2]), tensor([0, 3]))
    """
    if dense.dim() != cut.dim() or dense.dtype != cut.dtype:
        raise NotASubnetwork(f"{tuple(dense.shape)} {dense.dtype} became {tuple(cut.shape)} {cut.dtype}")
    if not cut.is_floating_point() or dense.dim() == 0:
        if not torch.equal(dense, cut):
            raise NotASubnetwork("a tensor that cannot be cut has changed")
        return tuple(torch.arange(size) for size in dense.shape)
    if cut.numel() == 0:
        raise NotASubnetwork(f"nothing is left of {tuple(dense.shape)}")
    values, order = dense.detach().flatten().sort()
    wanted = cut.detach().flatten()
    found = torch.searchsorted(values, wanted).clamp(max=len(values) - 1)
    if not torch.equal(values[found], wanted):
        raise NotASubnetwork("the cut tensor has a value that the dense one does not have")
    coordinates = torch.unravel_index(order[found], dense.shape)
    kept = []
    for dim, coordinate in enumerate(coordinates):
        rows = coordinate.reshape(cut.shape).movedim(dim, 0).reshape(cut.shape[dim], -1)
        if not torch.equal(rows, rows[:, :1].expand_as(rows)):
            raise NotASubnetwork(f"along dimension {dim} the survivors of one index come from several")
        if not (rows[:, 0].diff() > 0).all():
            raise NotASubnetwork(f"along dimension {dim} the survivors changed their order: {rows[:, 0].tolist()}")
        kept.append(rows[:, 0])
    return tuple(kept)


def all_survivors(dense: nn.Module, cut: nn.Module) -> dict[str, tuple[Tensor, ...]]:
    """`survivors` of every parameter and buffer, by name."""
    before, after = tensors(dense), tensors(cut)
    if list(before) != list(after):
        raise NotASubnetwork(f"names changed: {set(before) ^ set(after)}")
    kept = {}
    for name, tensor in before.items():
        try:
            kept[name] = survivors(tensor, after[name])
        except NotASubnetwork as error:
            raise NotASubnetwork(f"{name}: {error}") from error
    return kept


def entries(tensor: Tensor, kept: tuple[Tensor, ...]) -> Tensor:
    """The block of `tensor` at the kept indices of every dimension."""
    for dim, index in enumerate(kept):
        tensor = tensor.index_select(dim, index)
    return tensor


def mask(tensor: Tensor, kept: tuple[Tensor, ...]) -> Tensor:
    """A boolean tensor of the same shape: True at the block of kept entries."""
    result = torch.ones(tensor.shape, dtype=torch.bool)
    for dim, index in enumerate(kept):
        along = torch.zeros(tensor.shape[dim], dtype=torch.bool)
        along[index] = True
        result &= along.reshape([-1 if other == dim else 1 for other in range(tensor.dim())])
    return result


ALIKE = ("LlamaRMSNorm", "MistralRMSNorm", "MixtralRMSNorm", "Qwen3RMSNorm", "Phi3RMSNorm", "T5LayerNorm")
EPSILONS = {**dict.fromkeys(ALIKE, "variance_epsilon"), "Gemma3RMSNorm": "eps"}
"""Hugging Face's norms that are written out, and compute in float32: the attribute that holds their epsilon."""


def written_out(module: nn.Module) -> bool:
    """Whether a module computes a norm over channels in its own code."""
    return type(module).__name__ in EPSILONS or hasattr(module, "centred")


class KeptLayerNorm(nn.Module):
    """Layer norm (or RMS norm) whose statistics are those of the kept entries only."""

    def __init__(self, norm: nn.Module, keep: Tensor):
        super().__init__()
        self.weight, self.bias = norm.weight, getattr(norm, "bias", None)
        self.centred = isinstance(norm, nn.LayerNorm) or getattr(norm, "centred", False)
        self.channels_first = getattr(norm, "dim", -1) == 1 or getattr(norm, "data_format", "") == "channels_first"
        self.keep = keep
        self.eps = getattr(norm, EPSILONS.get(type(norm).__name__, "eps"))
        self.more = 1 if type(norm).__name__ == "Gemma3RMSNorm" else 0

    def forward(self, x: Tensor) -> Tensor:
        return self.normed(x.movedim(1, -1)).movedim(-1, 1) if self.channels_first else self.normed(x)

    def normed(self, x: Tensor) -> Tensor:
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        keep = self.keep.to(x.dtype)
        dims = tuple(range(-keep.dim(), 0))
        if self.centred:
            x = x - (x * keep).sum(dims, keepdim=True) / keep.sum()
        x = x / ((x.square() * keep).sum(dims, keepdim=True) / keep.sum() + eps).sqrt() * keep
        x = x if self.weight is None else x * (self.more + self.weight)
        return x if self.bias is None else x + self.bias


class KeptGroupNorm(nn.Module):
    """Group norm whose statistics are those of the kept entries of each of the dense network's groups."""

    def __init__(self, norm: nn.GroupNorm, keep: Tensor):
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.keep = keep
        self.groups, self.eps = norm.num_groups, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[1] // self.groups
        channels = []
        for start in range(0, x.shape[1], size):
            members = [channel for channel in range(start, start + size) if self.keep[channel]]
            seen = x[:, members].flatten(1)
            for channel in range(start, start + size):
                if channel not in members:
                    channels.append(torch.zeros_like(x[:, channel]))
                    continue
                shape = [-1] + [1] * (x.dim() - 2)
                mean = seen.mean(1).reshape(shape)
                variance = seen.var(1, correction=0).reshape(shape)
                y = (x[:, channel] - mean) / (variance + self.eps).sqrt()
                channels.append(y if self.weight is None else y * self.weight[channel] + self.bias[channel])
        return torch.stack(channels, 1)


class Masked(nn.Module):
    """The last step of a parametrization: sets to zero what has left, and keeps the rest of the weight."""

    def __init__(self, keep: Tensor):
        super().__init__()
        self.keep = keep

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.keep


def gated(dense: nn.Module, cut: nn.Module, norms: dict[str, tuple[str, int]] | None = None) -> nn.Module:
    """A copy of the dense network in which everything that has left is zero.

    For a weight that a parametrization computes, the result is gated, not what it is computed from.

    Args:
        norms: for each norm without a weight, the tensor and the dimension whose survivors are its channels.
    """
    kept = all_survivors(dense, cut)
    model = copy.deepcopy(dense)
    with torch.no_grad():
        for name, tensor in tensors(model).items():
            if tensor.is_floating_point() and ".parametrizations." not in f".{name}":
                tensor.mul_(mask(tensor, kept[name]))
    for name, module in list(model.named_modules()):
        for of, steps in module.parametrizations.items() if parametrize.is_parametrized(module) else ():
            weight = getattr(copy.deepcopy(module), of)  # reading it runs a power iteration, which changes its buffers
            originals = [f"{name}.parametrizations.{of}.{leaf}".lstrip(".") for leaf, _ in steps.named_parameters()]
            alike = next(original for original in originals if tensors(dense)[original].shape == weight.shape)
            steps.append(Masked(mask(weight, kept[alike]).to(weight.dtype)))
        if hasattr(module, "averaged"):  # a mean over the channels of `gamma`
            there = mask(module.gamma, kept[f"{name}.gamma".lstrip(".")])
            module.averaged = lambda x, there=there: (x * there).sum(-1, keepdim=True) / there.sum()
        if hasattr(module, "standardised"):  # a layer that standardises its weight
            module.filters = partial(module.standardised, mask(module.weight, kept[f"{name}.weight".lstrip(".")]))
        if not isinstance(module, nn.LayerNorm | nn.RMSNorm | nn.GroupNorm) and not written_out(module):
            continue
        if module.weight is not None:
            keep = mask(module.weight, kept[f"{name}.weight".lstrip(".")])
        elif norms and name in norms:
            tensor, dim = norms[name]
            keep = mask(torch.empty(tensors(dense)[tensor].shape[dim]), (kept[tensor][dim],))
        else:
            raise NotImplementedError(f"the survivors that `{name}` normalises are not known: add it to `norms`")
        replacement = KeptGroupNorm(module, keep) if isinstance(module, nn.GroupNorm) else KeptLayerNorm(module, keep)
        model.set_submodule(name, replacement)
    return model


def exactly(model: nn.Module) -> nn.Module:
    """A copy in which Hugging Face's norms, which compute in float32, do not."""
    model = copy.deepcopy(model)
    for name in [name for name, module in model.named_modules() if type(module).__name__ in EPSILONS]:
        norm = model.get_submodule(name)
        model.set_submodule(name, KeptLayerNorm(norm, torch.ones(norm.weight.shape, dtype=torch.bool)))
    return model


def named_outputs(model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """The float outputs, named by their number and the layout of all outputs."""
    leaves, layout = tree_flatten(model(*inputs))
    found = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    return {f"output {number} of {layout}": output for number, output in enumerate(found)}


def without_gradients(model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """The outputs of a copy in eval mode, under `torch.no_grad()`."""
    with torch.no_grad():
        return named_outputs(copy.deepcopy(model).eval(), inputs)


def run(model: nn.Module, inputs: tuple[Tensor, ...], training: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The outputs of a copy of the network, and by name all gradients of a fixed weighted sum of them."""
    model = copy.deepcopy(model).train(training)
    model.zero_grad(set_to_none=True)
    inputs = tuple(x.clone().requires_grad_() if x.is_floating_point() else x for x in inputs)
    outputs = named_outputs(model, inputs)
    generator = torch.Generator().manual_seed(1)
    loss = sum((y * torch.randn(y.shape, generator=generator, dtype=y.dtype)).sum() for y in outputs.values())
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters(remove_duplicate=False) if p.grad is not None}
    gradients |= {f"input {number}": x.grad for number, x in enumerate(inputs) if x.grad is not None}
    # A forward pass computes running statistics too.
    outputs |= {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}
    return {name: y.detach() for name, y in outputs.items()}, gradients


def disagreement(
    dense: nn.Module,
    cut: nn.Module,
    inputs: tuple[Tensor, ...],
    training: bool,
    norms: dict[str, tuple[str, int]] | None = None,
) -> float:
    """The largest difference between the cut and the gated dense network, over outputs and kept entries' gradients.

    It is relative to the largest value of each tensor or, for a gradient that is almost zero (a bias in front of a
    batch norm), to a thousandth of the largest gradient.

    Raises:
        NotASubnetwork: the two networks cannot be compared.
    """
    kept = all_survivors(dense, cut)
    expected = run(gated(dense, cut, norms), inputs, training)
    cut = exactly(cut)
    try:
        actual = run(cut, inputs, training)
        # without gradients torch's own transformer layers run other code
        pairs = [*zip(actual, expected, strict=True)]
        if not training:
            pairs.append(
                (without_gradients(cut, inputs), {n: y for n, y in expected[0].items() if n.startswith("output ")})
            )
    except RuntimeError as error:
        raise NotASubnetwork(f"the cut network does not run: {error}") from error
    worst = 0.0
    for ours, theirs in pairs:
        if list(ours) != list(theirs):
            raise NotASubnetwork(f"only one network has these outputs or gradients: {set(ours) ^ set(theirs)}")
        wanted = {name: entries(value, kept[name]) if name in kept else value for name, value in theirs.items()}
        largest = max((value.abs().max().item() for value in wanted.values()), default=0.0)
        assert math.isfinite(largest)
        for name, value in wanted.items():
            if ours[name].shape != value.shape:
                raise NotASubnetwork(f"{name}: {tuple(value.shape)} became {tuple(ours[name].shape)}")
            scale = max(value.abs().max().item(), 1e-3 * largest)
            if scale > 0:
                error = ((ours[name] - value).abs().max() / scale).item()
                worst = math.inf if math.isnan(error) else max(worst, error)
            elif ours[name].any():
                worst = math.inf
    return worst


def choose(sizes: dict[tuple[str, int], int], classes: list[list[tuple[str, int, Tensor]]], part: float, seed: int):
    """Which classes to keep: all but a random share of about `part`, with at least one entry left in each dimension.

    The engine's classes are used to choose, never to judge.
    """
    generator = torch.Generator().manual_seed(seed)
    left = dict(sizes)
    keep = torch.ones(len(classes), dtype=torch.bool)
    quota = round(part * len(classes))
    for number in torch.randperm(len(classes), generator=generator).tolist():
        loss: dict[tuple[str, int], int] = {}
        for tensor, dim, index in classes[number]:
            loss[tensor, dim] = loss.get((tensor, dim), 0) + len(index)
        if quota and all(left[place] - lost >= 1 for place, lost in loss.items()):
            keep[number] = False
            quota -= 1
            for place, lost in loss.items():
                left[place] -= lost
    return keep


def attribute_faults(model: nn.Module) -> list[str]:
    """Every attribute of a module that contradicts the shapes of its tensors."""
    faults = []

    def check(name: str, module: nn.Module, **attributes):
        faults.extend(
            f"{name}.{attribute} is {getattr(module, attribute)}, but its tensors have {value}"
            for attribute, value in attributes.items()
            if getattr(module, attribute) != value
        )

    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.Linear):
            check(name, module, out_features=weight.shape[0], in_features=weight.shape[1])
        elif isinstance(module, nn.modules.conv._ConvTransposeNd):
            check(name, module, in_channels=weight.shape[0], out_channels=weight.shape[1] * module.groups)
        elif isinstance(module, nn.modules.conv._ConvNd):
            check(name, module, out_channels=weight.shape[0], in_channels=weight.shape[1] * module.groups)
        elif isinstance(module, nn.modules.batchnorm._NormBase):
            known = [tensor for tensor in (weight, module.running_mean) if tensor is not None]
            check(name, module, **({"num_features": len(known[0])} if known else {}))
        elif isinstance(module, nn.GroupNorm) and weight is not None:
            check(name, module, num_channels=len(weight))
            if len(weight) % module.num_groups:
                faults.append(f"{name}: {len(weight)} channels do not divide into {module.num_groups} groups")
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm) and weight is not None:
            check(name, module, normalized_shape=tuple(weight.shape))
        elif isinstance(module, nn.PReLU):
            check(name, module, num_parameters=len(weight))
        elif isinstance(module, nn.Embedding | nn.EmbeddingBag):
            check(name, module, num_embeddings=weight.shape[0], embedding_dim=weight.shape[1])
        elif isinstance(module, nn.Bilinear):
            sizes = dict(zip(("out_features", "in1_features", "in2_features"), weight.shape, strict=True))
            check(name, module, **sizes)
        elif isinstance(module, nn.RNNCellBase):
            check(name, module, input_size=module.weight_ih.shape[1], hidden_size=module.weight_hh.shape[1])
            faults.extend(gate_faults(name, module, [""], module.weight_ih.shape[1], module.weight_hh.shape[1]))
        elif isinstance(module, nn.RNNBase):
            hidden = module.weight_hr_l0.shape[1] if module.proj_size else module.weight_hh_l0.shape[1]
            check(name, module, input_size=module.weight_ih_l0.shape[1], hidden_size=hidden)
            if module.proj_size:
                check(name, module, proj_size=module.weight_hr_l0.shape[0])
            ways = ["", "_reverse"][: 1 + module.bidirectional]
            for layer in range(module.num_layers):
                read = len(ways) * (module.proj_size or hidden) if layer else module.input_size
                faults.extend(gate_faults(name, module, [f"_l{layer}{way}" for way in ways], read, hidden))
        elif isinstance(module, nn.MultiheadAttention):
            rows = module.q_proj_weight if module.in_proj_weight is None else module.in_proj_weight.chunk(3)[0]
            heads = len(rows) / module.head_dim
            check(name, module, embed_dim=module.out_proj.out_features, num_heads=heads)
        bias = getattr(module, "bias", None)
        for attribute in ("out_features", "out_channels", "num_features"):
            if isinstance(bias, Tensor) and hasattr(module, attribute):
                check(name, module, **{attribute: len(bias)})
    return faults


def gate_faults(name: str, module: nn.Module, suffixes: list[str], read: int, hidden: int) -> list[str]:
    """Every tensor of a recurrent layer whose shape does not fit its role.

    Args:
        suffixes: the endings of its tensors' names, one for each direction.
        read: the number of features that it reads.
        hidden: the number of its units, each with a row in every gate.
    """
    gates = {"LSTM": 4, "GRU": 3}.get(type(module).__name__.removesuffix("Cell"), 1)
    recurred = getattr(module, "proj_size", 0) or hidden
    shapes = {
        "weight_ih": (gates * hidden, read),
        "weight_hh": (gates * hidden, recurred),
        "bias_ih": (gates * hidden,),
        "bias_hh": (gates * hidden,),
        "weight_hr": (recurred, hidden),
    }
    found = {f"{tensor}{suffix}": shape for suffix in suffixes for tensor, shape in shapes.items()}
    return [
        f"{name}.{tensor} has shape {tuple(value.shape)} instead of {shape}"
        for tensor, shape in found.items()
        if (value := getattr(module, tensor, None)) is not None and tuple(value.shape) != shape
    ]


def step_of_gated(dense: nn.Module, cut: nn.Module, optimizer: torch.optim.Optimizer, loss) -> dict[str, Tensor]:
    """Every parameter of the gated dense network after one step of a copy of `optimizer`, at the kept entries.

    Args:
        dense: the network before the cut, to which `optimizer` belongs.
        loss: takes a network and returns its loss.
    """
    kept = all_survivors(dense, cut)
    twin = gated(dense, cut)
    names = {id(parameter): name for name, parameter in dense.named_parameters()}
    parameters = dict(twin.named_parameters())
    groups = [
        {**group, "params": [parameters[names[id(parameter)]] for parameter in group["params"]]}
        for group in optimizer.param_groups
    ]
    copied = type(optimizer)(groups)
    copied.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    copied.zero_grad()
    loss(twin).backward()
    copied.step()
    return {name: entries(parameter.detach(), kept[name]) for name, parameter in parameters.items()}
