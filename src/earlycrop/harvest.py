"""Harvest: channels that masks have emptied really leave, and the report says how much of the sparsity became real.

Two passes through the exported graph decide, for every value in it and every class of channels:

    forward     may it be anything but zero?   nz(y_o) = bias_o ≠ 0 or some kept W_oi reads an x_i that may
    backward    does any output depend on it?  rd(x_i) = some kept W_oi writes a y_o on which one depends

A class is dead if at every place where it lives it is zero or nothing depends on it: then removing it changes
no output for any input, however many dead classes leave together. A weight counts as zero if it is masked, a
bias or a norm's shift if its value is. An operator that is not listed below bars the classes that it touches,
and so do norms over channels, whose statistics would change.
"""

import operator
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.fx import Node
from torch.optim import Optimizer

from earlycrop.counting import Counter, Counts
from earlycrop.errors import VerificationError
from earlycrop.report import Width
from earlycrop.structure import Frozen, Structure, Verification, Verifier, names_of, trace
from earlycrop.structure.rules.closed import MOVES, ZERO_AT_ZERO
from earlycrop.structure.surgery import unharmed
from earlycrop.structure.trace import module_of
from earlycrop.structure.walk import operator_of, tensor_nodes
from earlycrop.units import WeightUnits

Dead = Bool[Tensor, "classes"]


@dataclass(frozen=True)
class HarvestReport:
    """What masks had emptied, and what of it left.

    Attributes:
        before: The masked network as it was stored, zeros counted.
        after: The same after the harvest.
        masked: Prunable weights that were masked.
        lonely: Kept weights that no output depends on but through a constant: their channel has no kept
            input or no kept output.
        channels: Classes of channels that left.
        constants: Classes without a kept input that are a constant other than zero (a bias, a sigmoid): they stay.
        spared: Layers whose channels are all dead; one channel of each stays.
        barred: Operators whose channels were not judged: layer norms, attention, whatever is not known here.
        widths: Output channels of each layer.
        verification: The harvested network's outputs against the masked one's, in float64.
    """

    before: Counts
    after: Counts
    masked: int
    lonely: int
    channels: int
    constants: int
    spared: tuple[str, ...]
    barred: tuple[Frozen, ...]
    widths: tuple[Width, ...]
    verification: Verification

    @property
    def sparsity(self) -> float:
        """The part of the prunable weights that is masked."""
        return self.masked / self.before.prunable

    @property
    def effective_sparsity(self) -> float:
        """The part that is masked or lonely."""
        return (self.masked + self.lonely) / self.before.prunable

    @property
    def real_sparsity(self) -> float:
        """The part that is no longer stored nor multiplied."""
        return 1 - self.after.prunable / self.before.prunable

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        counts = {"before": self.before.as_dict(), "after": self.after.as_dict()}
        return (
            asdict(self)
            | counts
            | {name: getattr(self, name) for name in ("sparsity", "effective_sparsity", "real_sparsity")}
        )

    def __str__(self) -> str:
        before, after = self.before, self.after
        rows = [
            f"harvest: {self.channels} classes of channels left",
            f"  sparsity    {self.sparsity:.4f} masked, {self.effective_sparsity:.4f} effective "
            f"({self.lonely:,} lonely weights), {self.real_sparsity:.4f} real",
            f"  weights     {before.prunable:>13,} -> {after.prunable:>13,}   stored",
            f"  channels    {before.nodes:>13,} -> {after.nodes:>13,}",
            f"  FLOPs       {before.flops:>13,.0f} -> {after.flops:>13,.0f}   per example",
            f"  verified    harvested = masked, to {self.verification.max_error:.1e} of the largest output (float64)",
        ]
        if self.constants:
            rows.append(f"  constant    {self.constants} classes without a kept input emit a constant and stay")
        rows += [f"  dead whole  {layer}: one channel stays" for layer in self.spared]
        rows += [f"  not judged  {barred}" for barred in self.barred]
        return "\n".join(rows)


def harvest(
    model: nn.Module, example_inputs: object, optimizer: Optimizer | None = None, ignore: Sequence[str] = ()
) -> HarvestReport:
    """Remove the channels of a masked model that change no output, from the model and the optimizer's state.

    Every zero of a convolution's, linear or recurrent layer's weight is taken for a mask. Beside a `Pruner` call
    `pruner.harvest()`, whose masks then go on with the smaller weights.

    Args:
        model: The masked network; it is cut in place, on the same parameters.
        example_inputs: What `model(*example_inputs)` takes; the proof is on them.
        optimizer: Its state is cut with the model.
        ignore: Names of modules or parameters to keep whole; their zeros are no masks.

    Raises:
        TraceError: the model cannot be exported.
        VerificationError: the harvested outputs differ from the masked ones. The model is as it was.
    """
    units = WeightUnits(model, example_inputs, optimizer, names_of(ignore))
    units.keep = units.weights.values != 0
    with unharmed(model, optimizer):
        return harvest_units(units)


def harvest_units(units: WeightUnits) -> HarvestReport:
    """Harvest a model by its masks, which follow; if it raises, the caller puts the model back.

    Raises:
        VerificationError: the harvested outputs differ from the masked ones.
    """
    model = units.model
    structure = trace(model, units.example_inputs, units.ignore)
    masks = units.masks()
    ripe, starved = Flow(structure, model, masks), Flow(structure, model, masks, constants=False)
    spared = _spare(structure, ripe.dead)
    dead = ripe.dead & ~spared
    verifier = Verifier(structure, model, units.example_inputs)
    lonely = sum(int((masks[name] & _touching(structure, name, starved.dead)).sum()) for name in masks)
    after = structure.after(~dead)
    report = HarvestReport(
        before=Counter(structure, model, units.embeddings)(),
        after=Counter(after, model, units.embeddings)(),
        masked=int((~units.keep).sum()),
        lonely=lonely,
        channels=int(dead.sum()),
        constants=int((starved.dead & ~ripe.dead).sum()),
        spared=tuple(layer.name for layer in structure.layers if _of(structure, layer.weight, layer.dim, spared)),
        barred=tuple(Frozen(where, "not judged here", count) for where, count in ripe.barred.items()),
        widths=tuple(
            Width(layer.name, layer.channels, smaller.channels)
            for layer, smaller in zip(structure.layers, after.layers, strict=True)
        ),
        verification=Verification(0.0, 0.0),
    )
    if bool(dead.any()):
        units.reap(structure, ~dead)
    # nothing is gated: the reference is the masked network itself
    verification = verifier.compare(model, torch.ones_like(dead))
    if not verification.exact:
        raise VerificationError(
            f"The harvested network does not compute what the masked one does: outputs differ by "
            f"{verification.max_error:.1e} of the largest (allowed {verification.tolerance:.0e}). The model is as it "
            f"was. Please report the network; meanwhile keep the part that differs whole with `ignore=`."
        )
    return replace(report, verification=verification)


def _spare(structure: Structure, dead: Dead) -> Dead:
    """One dead class of each dimension in which all are dead, for no layer can be empty."""
    spared = torch.zeros_like(dead)
    for _, _, classes in structure.dimensions():
        if classes.numel() and bool((classes >= 0).all()) and bool((dead & ~spared)[classes].all()):
            spared[classes[0]] = True
    return spared


def _of(structure: Structure, name: str, dim: int, some: Dead) -> bool:
    classes = structure.tensors[name].classes[dim]
    return classes is not None and bool(torch.cat([some, torch.tensor([False])])[classes].any())


def _touching(structure: Structure, name: str, some: Dead) -> Tensor:
    """Of a tensor the entries that belong to one of these classes, in any dimension."""
    layout = structure.tensors[name]
    inside = torch.cat([some, torch.tensor([False])])
    touched = torch.zeros(layout.shape, dtype=torch.bool)
    for dim, classes in enumerate(layout.classes):
        if classes is not None:
            touched |= inside[classes].view([-1 if d == dim else 1 for d in range(len(layout.shape))])
    return touched


CONTRACTIONS = {"linear": (0, 1), "conv1d": (0, 1), "conv2d": (0, 1), "conv3d": (0, 1), "addmm": (1, 0)}
CONTRACTIONS |= {"matmul": (1, 0), "mm": (1, 0)}
CONTRACTIONS |= {f"conv_transpose{n}d": (1, 0) for n in (1, 2, 3)}
"""Operators that read channels through a weight: its dimension that writes, and the one that reads."""

SPATIAL = ("max_pool", "avg_pool", "adaptive_avg_pool", "_adaptive_avg_pool", "adaptive_max_pool", "upsample_")
"""Beginnings of operators that mix places of one channel, and of zeros make zeros."""

CONSTANTS = frozenset(
    {
        *("sigmoid", "hardsigmoid", "exp", "cos", "softplus", "log_sigmoid", "logsigmoid", "log1p", "pow"),
        *("rsqrt", "sqrt", "reciprocal", "hardtanh", "clamp", "div", "erf", "constant_pad_nd", "alpha_dropout"),
        *("feature_alpha_dropout", "softmax", "_softmax", "embedding"),
    }
)
"""Operators that act channel by channel, and may make something of zeros."""

CARRIES = frozenset(
    {
        *("batch_norm", "instance_norm", "mul", "add", "sub", "rsub"),
    }
)
"""Operators with rules of their own that mix no channels."""

BOUNDED = ("hardtanh", "clamp", "constant_pad_nd")
"""Operators whose numbers say whether zero stays zero."""


def _passes_zero(node: Node) -> bool:
    if operator_of(node).rstrip("_") == "constant_pad_nd":
        return not any(node.args[2:])
    low, high = (*node.args[1:], None, None)[:2] if len(node.args) > 1 else (-1, 1)
    numbers = all(isinstance(bound, int | float | None) for bound in (low, high)) and not node.kwargs
    return numbers and (low is None or low <= 0) and (high is None or high >= 0)  # type: ignore[operator]


@dataclass
class Flow:
    """What of each class may be anything but zero, and on what of it an output depends.

    Args:
        structure: The classes, with their graph.
        model: Where the values of biases and norms are.
        masks: Per prunable weight its entries that are kept.
        constants: Whether a channel without a kept input may be a constant; if not, such channels count as dead.
    """

    structure: Structure
    model: nn.Module
    masks: dict[str, Tensor]
    constants: bool = True
    barred: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.structure.graph is not None
        self.channels, size = self.structure.graph, len(self.structure)
        program = self.channels.program
        signature = program.graph_signature
        targets = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self._origin = {name: self.structure.names[target] for name, target in targets.items()}
        self._tensors = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        self._nz: dict[Node, Tensor] = {}
        self._rd: dict[Node, Tensor] = {}
        self._bar = torch.zeros(size + 1, dtype=torch.bool)
        nodes = list(program.graph.nodes)
        for node in nodes:
            self._rd[node] = torch.zeros(size + 1, dtype=torch.bool)
            self._nz[node] = self._forward(node) if node.op == "call_function" else self._present(node)
        for node in reversed(nodes):
            if node.op == "output":
                for arg in tensor_nodes(node.args):
                    self._rd[arg][:] = True
            elif node.op == "call_function":
                self._backward(node)
        alive = self._bar.clone()
        for node in nodes:
            if node.op == "call_function":
                alive |= self._present(node) & self._nz[node] & self._rd[node]
        self.dead: Dead = ~alive[:-1]

    def _forward(self, node: Node) -> Tensor:
        """In which classes the result may be anything but zero."""
        name, args = operator_of(node).rstrip("_"), tensor_nodes((node.args, node.kwargs))
        present = self._present(node)
        if node.target is operator.getitem:
            return self._nz[args[0]]
        if name in CONTRACTIONS and (weight := self._weight(node)) is not None:
            x, w, bias = weight
            made = self._nonzero(bias) if self.constants else torch.zeros_like(present)
            written, read, kept = self._entries(node, w)
            if read is None:  # a group reads what is of the class that it writes
                fed = kept & self._open(self._nz[x])[written]
            else:
                fed = (kept & self._open(self._nz[x])[read]).any(1)
                made = made | (self._present(x) & present)  # what passes along other dimensions
            return made | self._classes(written[fed])
        if not self._mixes(node):
            # what no argument shows may be anything: a tensor that was spread over the channels
            shown = sum((self._present(arg) for arg in args), torch.zeros_like(present))
            return self._carried(node, name, args, present) | (present & ~shown)
        touched = present.clone()
        for arg in args:
            touched |= self._present(arg)
        touched[-1] = False
        if bool(touched.any()):
            where = f"{name or node.target} in `{module_of(node)}`"
            self.barred[where] = int(touched.sum())
            self._bar |= touched
        return present

    def _carried(self, node: Node, name: str, args: list[Node], present: Tensor) -> Tensor:
        """Where an operator that keeps channels apart may return anything but zero."""
        nothing = torch.zeros_like(present)
        if name in ("batch_norm", "instance_norm"):
            shifts = [self._nonzero(one) for one in node.args[2:4]] if self.constants else []
            return self._nz[args[0]] | sum(shifts, nothing)
        if name == "mul":
            found = present.clone()
            for arg in args:
                found &= self._nz[arg] | ~self._present(arg)
            return found
        if name in ("add", "sub", "rsub"):
            lacking = [~self._present(arg) for arg in args] if self.constants else []
            number = self.constants and len(args) < 2
            return present & (sum([*(self._nz[arg] for arg in args), *lacking], nothing) | number)
        makes = name in CONSTANTS and not (name in BOUNDED and _passes_zero(node))
        if makes and (self.constants or name == "embedding"):
            return present
        return sum((self._nz[arg] for arg in (args[:1] if name == "prelu" else args)), nothing)

    def _mixes(self, node: Node) -> bool:
        """Whether an operator may carry something of one class into another, as far as is known here."""
        name, args = operator_of(node).rstrip("_"), tensor_nodes((node.args, node.kwargs))
        if name in MOVES or node.target is operator.getitem:
            return False
        if name not in ZERO_AT_ZERO | CONSTANTS | CARRIES and not name.startswith(SPATIAL):
            return True
        present = self._present(node)
        return any(bool((self._present(arg) & ~present)[:-1].any()) for arg in args if arg.name not in self._origin)

    def _backward(self, node: Node) -> None:
        """On which entries of the arguments an output depends."""
        name, args, wanted = operator_of(node).rstrip("_"), tensor_nodes((node.args, node.kwargs)), self._rd[node]
        if name in CONTRACTIONS and (weight := self._weight(node)) is not None:
            x, w, _ = weight
            written, read, kept = self._entries(node, w)
            if read is None:
                self._rd[x] |= self._classes(written[kept & wanted[written]])
            else:
                self._rd[x] |= self._classes(read[(kept & self._open(wanted)[written][:, None]).any(0)])
                self._rd[x] |= self._present(x) & self._present(node) & wanted
        elif name == "mul" and len(args) == 2:
            for arg, other in (args, args[::-1]):
                self._rd[arg] |= wanted & (self._nz[other] | ~self._present(other))
        else:
            for arg in args:
                self._rd[arg] |= wanted | self._mixes(node)

    def _weight(self, node: Node) -> tuple[Node, Node, Any] | None:
        """What a contraction reads, its weight and its bias; None if the weight is computed."""
        args = list(node.args)
        name = operator_of(node)
        x, w, bias = (args[1], args[2], args[0]) if name == "addmm" else (*args[:2], args[2] if len(args) > 2 else None)
        transposed_groups = name.startswith("conv_transpose") and len(args) > 6 and args[6] != 1
        if not isinstance(x, Node) or not isinstance(w, Node) or transposed_groups or node.kwargs:
            return None
        if w.name not in self._origin or x.name in self._origin:
            return None
        if isinstance(bias, Node) and (bias.name not in self._origin or bias.meta["val"].ndim != 1):
            return None
        plain = w.meta["val"].ndim == 2 if "conv" not in name else w.meta["val"].ndim > 2
        return (x, w, bias) if plain else None

    def _entries(self, node: Node, w: Node) -> tuple[Tensor, Tensor | None, Tensor]:
        """A weight's class per written channel, per read channel, and whether a kept entry joins the two.

        For a convolution of whole groups nothing is given as read: a group is of one class.
        """
        name = self._origin[w.name]
        out, in_ = CONTRACTIONS[operator_of(node)]
        mask = self.masks.get(name)
        kept = torch.ones(self._tensors[name].shape, dtype=torch.bool) if mask is None else mask
        kept = kept.movedim((out, in_), (0, 1)).flatten(2).any(2) if kept.ndim > 2 else kept.movedim(out, 0)
        written, read = (self._along(w, dim) for dim in (out, in_))
        groups = node.args[6] if len(node.args) > 6 else 1
        if isinstance(groups, int) and groups > 1 and 1 in (kept.shape[1], kept.shape[0] // groups):
            return written, None, kept.any(1)
        return written, read, kept

    def _along(self, node: Node, dim: int) -> Tensor:
        """The class of each index of a dimension."""
        classes = self.channels.nodes[node.name][dim]
        return torch.full((node.meta["val"].shape[dim],), -1) if classes is None else classes

    def _present(self, node: Node) -> Tensor:
        """The classes that live in a value."""
        dims = self.channels.nodes.get(node.name, ())
        return sum((self._classes(one) for one in dims if one is not None), self._bar & False)

    def _classes(self, classes: Tensor) -> Tensor:
        """These classes as a boolean vector; the last entry stands for what is in none."""
        found = torch.zeros_like(self._bar)
        found[classes] = True
        return found

    def _open(self, some: Tensor) -> Tensor:
        """The same, where what is in no class is not known to be zero or unread."""
        return torch.cat([some[:-1], torch.tensor([True])])

    def _nonzero(self, node: Any) -> Tensor:
        """The classes in which a bias, or another vector of the model, is anything but zero."""
        if not isinstance(node, Node):
            return torch.zeros_like(self._bar)
        value = self._tensors[self._origin[node.name]].detach().cpu()
        return self._classes(self._along(node, value.ndim - 1)[value != 0])
