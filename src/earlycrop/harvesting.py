"""Harvest: channels that masks have emptied really leave, and the report states how much of the sparsity became real.

`structure/flow.py` finds these channels in the graph. They are cut, the masks follow, and the outputs of what is left
are compared with those of the masked network.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from earlycrop.counting import Counter, Counts
from earlycrop.errors import EarlyCropError, VerificationError
from earlycrop.report import Width
from earlycrop.structure import Frozen, Structure, Verification, Verifier, names_of, trace
from earlycrop.structure.flow import Dead, Flow
from earlycrop.structure.refusals import check_model
from earlycrop.structure.surgery import unharmed
from earlycrop.units import AbstractUnits, Weights, WeightUnits


@dataclass(frozen=True)
class HarvestReport:
    """What masks had emptied, and how much of it left.

    Attributes:
        before: The masked network as it was stored, zeros included.
        after: The same after the harvest.
        masked: The number of prunable weights that were masked.
        lonely: The number of kept weights on which no output depends except through a constant: their channel has no
            kept input or no kept output.
        channels: The number of channel classes that left.
        constants: The number of classes without a kept input that a bias or a sigmoid keeps from being zero, and that
            stay, even if what follows makes them zero.
        spared: Layers whose channels are all dead; one channel of each stays.
        barred: Operators whose channels were not judged: layer norms, attention, any operator that is not known here.
        widths: Output channels of each layer.
        verification: The harvested network's outputs against the masked one's.
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
        """The part of the prunable weights that is masked or lonely."""
        return (self.masked + self.lonely) / self.before.prunable

    @property
    def real_sparsity(self) -> float:
        """The part of the prunable weights that is no longer stored or multiplied."""
        return 1 - self.after.prunable / self.before.prunable

    def as_dict(self) -> dict[str, Any]:
        """All fields and the three sparsities, ready for JSON."""
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
            f"  verified    harvested = masked, to {self.verification.max_error:.1e} of the largest output "
            f"({self.verification.precision})",
        ]
        if self.constants:
            rows.append(f"  constant    {self.constants} classes without a kept input emit a constant and stay")
        rows += [f"  all dead    {layer}: one channel stays" for layer in self.spared]
        rows += [f"  not judged  {barred}" for barred in self.barred]
        return "\n".join(rows)


def harvest(
    model: nn.Module, example_inputs: object, optimizer: Optimizer | None = None, ignore: Sequence[str] = ()
) -> HarvestReport:
    """Remove the channels of a masked model that change no output, from the model and the optimizer's state.

    Every zero in the weight of a convolution, linear or recurrent layer is taken for a mask. With a `Pruner`, call
    `pruner.harvest()` instead: its masks then follow the smaller weights.

    Args:
        model: The masked network; it is cut in place, on the same parameters.
        example_inputs: What the model takes: a tensor, a tuple of arguments, or a mapping of arguments by name.
            Outputs are verified on them.
        optimizer: Its state is cut with the model.
        ignore: Names of modules or parameters to keep whole; their zeros are not taken for masks.

    Raises:
        TraceError: the model cannot be exported.
        VerificationError: the harvested outputs differ from the masked ones. The model is as it was.
    """
    check_model(model, names_of(ignore))
    units = Weights().of(model, example_inputs, optimizer, names_of(ignore))
    units.keep = units.weights.values != 0
    with unharmed(model, optimizer):
        return harvest_units(units)


def ripe(units: AbstractUnits, method: str, cuts: int, of: int) -> WeightUnits:
    """The masks of a pruner, if they can be harvested.

    Args:
        units: The pruner's.
        method: The method's name.
        cuts: How many cuts there have been.
        of: How many there will be.

    Raises:
        EarlyCropError: they cannot be; it says why.
    """
    masks, reason = units.masked, None
    if masks is None:
        reason = f"{method} removes no single weights"
    elif not cuts:
        reason = "it has pruned nothing yet"
    elif cuts < of:
        reason = f"more weights will leave after this cut, {cuts} of {of}"
    elif masks.left is not None:
        reason = "it was harvested already"
    if masks is None or reason is not None:
        raise EarlyCropError(
            f"Cannot harvest: {reason}. Call `harvest` once, after the last cut (`pruner.done`) of a method "
            f"for weights."
        )
    return masks


def harvest_units(units: WeightUnits) -> HarvestReport:
    """Harvest a model by its masks, which follow the cut; if it raises, the caller restores the model.

    Args:
        units: The weights of the model and their masks.

    Raises:
        VerificationError: the harvested outputs differ from the masked ones, or there are none to compare.
    """
    model = units.model
    structure = trace(model, units.example_inputs, units.ignore, ways=units.ways)
    masks = units.masks()
    ripe, starved = Flow(structure, model, masks), Flow(structure, model, masks, constants=False)
    spared = _spare(structure, ripe.dead)
    dead = ripe.dead & ~spared
    verifier = Verifier(structure, model, units.example_inputs)
    if verifier.blind is not None:
        raise VerificationError(f"Cannot verify a harvest: {verifier.blind}. Give other example inputs.")
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
    # no class is gated: the reference is the masked network itself
    verification = verifier.compare(model, torch.ones_like(dead))
    if not verification.exact:
        raise VerificationError(
            f"The harvested network does not compute what the masked one does: outputs differ by "
            f"{verification.max_error:.1e} of the largest (allowed {verification.tolerance:.0e}). The model is as it "
            f"was. Please report the network; until then, keep the part that differs whole with `ignore=`."
        )
    return replace(report, verification=verification)


def _spare(structure: Structure, dead: Dead) -> Dead:
    """One dead class of each dimension in which all are dead, because no layer can be empty."""
    spared = torch.zeros_like(dead)
    for _, _, classes in structure.dimensions():
        if classes.numel() and bool((classes >= 0).all()) and bool((dead & ~spared)[classes].all()):
            spared[classes[0]] = True
    return spared


def _of(structure: Structure, name: str, dim: int, some: Dead) -> bool:
    """Whether any of these classes lives in a dimension of a tensor."""
    classes = structure.tensors[name].classes[dim]
    return classes is not None and bool(torch.cat([some, torch.tensor([False])])[classes].any())


def _touching(structure: Structure, name: str, some: Dead) -> Tensor:
    """True for each entry of a tensor that belongs to one of these classes, in any dimension."""
    layout = structure.tensors[name]
    inside = torch.cat([some, torch.tensor([False])])
    touched = torch.zeros(layout.shape, dtype=torch.bool)
    for dim, classes in enumerate(layout.classes):
        if classes is not None:
            touched |= inside[classes].view([-1 if d == dim else 1 for d in range(len(layout.shape))])
    return touched
