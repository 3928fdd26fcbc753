"""What left, what was frozen, and why: the record of a cut."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from earlycrop.counting import Counts
from earlycrop.parts import PartCount, part_lines
from earlycrop.reach import Reach
from earlycrop.starvation import Bottleneck, bottlenecks, complaint, remedy, still, summary
from earlycrop.structure import Frozen, Verification
from earlycrop.structure.held import grouped
from earlycrop.timing import Reason


@dataclass(frozen=True)
class Check:
    """One look of the detector.

    Attributes:
        epoch: Epochs finished.
        value: What the instrument saw.
        signal: The quantity that the rule compares with its threshold; nan while it is not defined.
        threshold: The rule's threshold.
        learning_rate: That of the optimizer's first group; None without an optimizer.
    """

    epoch: float
    value: float
    signal: float
    threshold: float
    learning_rate: float | None


@dataclass(frozen=True)
class Width:
    """A layer's width before and after: output channels where channels leave, weights where weights do."""

    layer: str
    before: int
    after: int


@dataclass(frozen=True)
class Rescaled:
    """A weight that was multiplied after a cut, see `rescaling`."""

    weight: str
    factor: float


@dataclass(frozen=True)
class Report:
    """The record of a cut.

    Attributes:
        method: The method's name.
        unit: `weights` or `channels`.
        target: What the requested sparsity counts.
        requested_sparsity: The sparsity that was asked for.
        epoch: Epochs finished at the cut.
        reason: `init`, `epoch`, `trigger`, `cap`, `round` (one of several cuts), or `static` (the weights did not
            move).
        seconds: The time that scoring, cutting and verifying took.
        samples: Size of the scoring set.
        before: The counts of the dense network.
        after: The counts of what is left.
        widths: The width of each layer before and after.
        frozen: Channels that could not leave, and why.
        collapsed: What no longer carries a signal; empty if all is well.
        verification: The proof that the cut network computes what the gated one did; None if it was not asked for, or
            impossible.
        curve: Every look of the detector.
        unverified: Why there is no proof although it was asked for.
        variation: The part that is left of the outputs' deviation over samples, relative to their size; None if it was
            not measured, as in methods that score without data.
        reach: What part of all parameters the method could have removed.
        parts: What each part cost before and after, if the budget has parts; `requested_sparsity` is then that of the
            rest.
        rescaled: The weights that were multiplied by a factor, to give layers back the scale that the cut took.
    """

    method: str
    unit: str
    target: str
    requested_sparsity: float
    epoch: float
    reason: Reason
    seconds: float
    samples: int
    before: Counts
    after: Counts
    widths: tuple[Width, ...]
    frozen: tuple[Frozen, ...]
    collapsed: tuple[str, ...]
    verification: Verification | None
    curve: tuple[Check, ...]
    unverified: str | None = None
    variation: float | None = None
    reach: Reach | None = None
    parts: tuple[PartCount, ...] = ()
    rescaled: tuple[Rescaled, ...] = ()

    @property
    def weight_sparsity(self) -> float:
        """The part of the prunable weights that left."""
        return 1 - self.after.prunable / self.before.prunable

    @property
    def all_sparsity(self) -> float:
        """The part of all parameters that left."""
        return 1 - self.after.params / self.before.params

    @property
    def node_sparsity(self) -> float | None:
        """The part of the output channels that left, the network's outputs excepted; None where weights leave."""
        return 1 - self.after.nodes / self.before.nodes if self.unit == "channels" and self.before.nodes else None

    @property
    def bottlenecks(self) -> tuple[Bottleneck, ...]:
        """The layers that the cut starves, see `starvation.bottlenecks`; in JSON only their names."""
        widths = ((width.layer, width.before, width.after) for width in self.widths)
        return bottlenecks(widths, self.after.prunable / self.before.prunable, self.unit)

    @property
    def complaint(self) -> str | None:
        """The text of a warning: where the network is starved, and what to do about it; None if all is well."""
        return complaint(self.method, self.unit, self.bottlenecks, self.variation, self.samples > 0)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain numbers, strings and lists, ready for JSON; None stands for nan and infinity."""
        record = asdict(self)
        record |= {
            "before": self.before.as_dict(),
            "after": self.after.as_dict(),
            "weight_sparsity": self.weight_sparsity,
            "all_sparsity": self.all_sparsity,
            "node_sparsity": self.node_sparsity,
            "bottlenecks": [one.layer for one in self.bottlenecks],
        }
        return plain(record)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "Report":
        """The report of which `as_dict` returned this record."""
        verification = record["verification"]
        special = {
            "unverified": record.get("unverified"),
            "variation": record.get("variation"),
            "reach": Reach(**record["reach"]) if record.get("reach") else None,
            "parts": tuple(PartCount(**part) for part in record.get("parts", ())),
            "rescaled": tuple(Rescaled(**one) for one in record.get("rescaled", ())),
            "before": _counts(record["before"]),
            "after": _counts(record["after"]),
            "widths": tuple(Width(**width) for width in record["widths"]),
            "frozen": tuple(Frozen(**frozen) for frozen in record["frozen"]),
            "collapsed": tuple(record["collapsed"]),
            "verification": None if verification is None else Verification(**verification),
            "curve": tuple(
                Check(**(check | {key: _number(check[key]) for key in ("value", "signal")}))
                for check in record["curve"]
            ),
        }
        plainly = {field.name: record[field.name] for field in fields(cls) if field.name not in special}
        return cls(**plainly, **special)

    def __str__(self) -> str:
        rows = [
            f"{self.method} cut at epoch {self.epoch:g} ({self.reason}), {self.seconds:.1f} s, {self.samples} samples",
            *count_lines(self.before, self.after, self.unit, self.target),
            *part_lines(self.parts),
        ]
        if self.verification is not None:
            rows.append(
                f"  verified    cut = gated, to {self.verification.max_error:.1e} of the largest output "
                f"({self.verification.precision})"
            )
        if self.unverified is not None:
            rows.append(f"  UNVERIFIED  {self.unverified}")
        rows += [f"  rescaled    {_factors(self.rescaled)}"] if self.rescaled else []
        rows += [f"  in reach    {self.reach}"] if self.reach is not None else []
        rows += [f"  frozen      {line}" for line in grouped(self.frozen)]
        rows += starvation_lines(self.unit, self.bottlenecks, self.variation, self.samples > 0)
        rows += [f"  COLLAPSED   {what}" for what in self.collapsed]
        return "\n".join(rows)


def count_lines(before: Counts, after: Counts, unit: str, target: str) -> list[str]:
    """Lines of text: what is left of each count, and of the target's cost if it is none of them.

    Args:
        before: The counts before the cut.
        after: The counts after it.
        unit: `weights` or `channels`.
        target: The name of the target.
    """
    pairs = [("weights", before.prunable, after.prunable), ("parameters", before.params, after.params)]
    if unit == "channels" and before.nodes:
        pairs.append(("channels", before.nodes, after.nodes))
    lines = [f"  {name:<11} {b:>13,} -> {a:>13,}   sparsity {1 - a / b:.4f}" for name, b, a in pairs]
    if math.isfinite(before.flops):
        lines.append(f"  FLOPs       {before.flops:>13,.0f} -> {after.flops:>13,.0f}   per example")
    if before.other is not None and after.other is not None:
        b, a = before.other, after.other
        form = ",.0f" if b >= 1e6 else ",.6g"
        lines.append(f"  {target:<11} {b:>13{form}} -> {a:>13{form}}   sparsity {1 - a / b:.4f}")
    return lines


def starvation_lines(unit: str, found: Sequence[Bottleneck], variation: float | None, scored: bool) -> list[str]:
    """Lines of text: where the network is starved, and what helps; empty if all is well.

    Args:
        unit: `weights` or `channels`.
        found: The starved layers.
        variation: The part that is left of the outputs' variation, None if not measured.
        scored: Whether the method scores by a loss on data.
    """
    lines = [f"  bottlenecks {summary(found)}"] if found else []
    if still(variation):
        lines.append(
            f"  OUTPUTS     hardly depend on the input: {variation:.2%} of their variation over samples is left"
        )
    return [*lines, f"  remedy      {remedy(unit, scored)}"] if lines else []


def _factors(found: Sequence[Rescaled], shown: int = 3) -> str:
    more = f" and {len(found) - shown} more" if len(found) > shown else ""
    return ", ".join(f"{one.weight} ×{one.factor:.3g}" for one in found[:shown]) + more


def narrow(layers: Sequence[str], shown: int = 3) -> str:
    """A sentence about which layers are starved, naming the first `shown` of them.

    >>> narrow(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more are starved'
    >>> narrow(["a"])
    'a is starved'
    """
    more = f" and {len(layers) - shown} more" if len(layers) > shown else ""
    return f"{', '.join(layers[:shown])}{more} {'is' if len(layers) == 1 else 'are'} starved"


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _counts(record: dict[str, Any]) -> Counts:
    return Counts(record["prunable"], record["params"], record["nodes"], _number(record["flops"]), record.get("other"))


def plain(value: Any) -> Any:
    """A value for JSON: tuples become lists, nan and infinity become None."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
