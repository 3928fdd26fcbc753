"""What is known about an operator: one record, which everything that walks through a graph reads.

    sigmoid     Operator(pointwise, Kind.ENTRYWISE, Zero.LOST)
    xlogy       Operator(pointwise, Kind.ENTRYWISE, Zero.FIRST)
    linear      Operator(linear, Kind.CREATES, Zero.PARAMETERS, weight=Weight())
    batch_norm  Operator(batch_norm, Kind.CHANNEL_NORM, Zero.SCALED, channels=1)

Who reads what:

    labelling             rule      what the operator does to labels
    operators/closed.py   zero      whether a closed channel is still zero after it
    walk, gates           kind      whether it creates channels, normalises them, or joins those of several creators
                          channels  in which dimension of the result
    flow (harvest)        adds      whether what is zero adds nothing where it mixes
                          picks     which arguments are only positions
                          kind      whether each channel of the result comes from the same channel of the operands
                          zero      whether it is zero where they are
                          weight    which dimension of a parameter writes channels, and which one reads them
    products              factors   what is multiplied and summed over, so that a parameter among it is a weight
                          entries   which operand's entries, and zeros, a computed weight has
    statistics    powers    of which operands the result is a product of powers, as a norm's parts are
                  statistic whether it is a statistic that a norm may take over its channels
    trace         literal   whether a tensor that it takes may be a literal
    trial                 sizes     whether the integers among the arguments are sizes, which shrink with a cut
                          groups    which argument counts groups of channels
                          strides   whether it runs only where strides demand it
    verify                kind      whether its result on parameters counts as a parameter; whether it mixes channels
    trace                 like      whether the result has the shape of the first argument
    trace, verify         stand_in  what computes the same where PyTorch has no kernel

The records are in operators/, beside the rules. No other file knows an operator by its name. The defaults are
cautious: nothing that an operator without a record touches may leave, and a record with only a rule claims nothing
else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

from earlycrop.structure.graph import mutates, tensor_nodes, unlabelled

if TYPE_CHECKING:
    from earlycrop.structure.walk import Walk

Factors = list[tuple[Node, tuple[int, ...]]]
"""What an operator multiplies and sums over: each factor, and along which of its dimensions channels are created."""

Rule = Callable[["Walk", Any], Any]
"""Maps the walk and a node to the labels of the node's result. The node is untyped, since its arguments are whatever
its operator takes."""


class Kind(Enum):
    """What an operator does with channels."""

    OTHER = auto()
    """Nothing but its rule is known."""
    ENTRYWISE = auto()
    """Each entry depends only on the operands' entries at the same place."""
    SUM = auto()
    """Entrywise too, and each term may have its own creator."""
    MOVES = auto()
    """Entries move, are repeated, or only some of them are taken."""
    REARRANGES = auto()
    """Every entry appears exactly once in the result: a view, a permutation."""
    CONCATENATES = auto()
    """Operands are put side by side, and each may have its own creator."""
    FILLS = auto()
    """All entries are the same, whatever the entries of its arguments."""
    MIXES = auto()
    """Entries are mixed along some dimensions; the other dimensions pass. Along those that are mixed the rule lets
    nothing leave, except from a sum to which closed channels add nothing."""
    POOLS = auto()
    """Neighbours along the last dimensions are mixed; channels pass."""
    CREATES = auto()
    """A parameter makes all of the result's channels, along `channels`."""
    CONTRACTS = auto()
    """A sum over channels; only the rule knows which operands, if any, are parameters."""
    CHANNEL_NORM = auto()
    """Each channel is divided by its own scale."""
    GROUP_NORM = auto()
    """Groups of channels, in dimension 1, are divided by the scale of the group."""
    TRAILING_NORM = auto()
    """The last dimensions, as many as its second argument has sizes, are divided by one common scale."""
    ATTENTION = auto()
    """Scaled dot-product attention."""
    RECURRENT = auto()
    """A recurrent layer or cell."""

    @property
    def norm(self) -> bool:
        """Whether it divides by a scale that it computes from its input, and then multiplies by a parameter."""
        return self in (Kind.CHANNEL_NORM, Kind.GROUP_NORM, Kind.TRAILING_NORM)

    @property
    def norm_over_channels(self) -> bool:
        """Whether its statistics are taken over several channels, so that they change when a channel leaves."""
        return self in (Kind.GROUP_NORM, Kind.TRAILING_NORM)

    @property
    def joins(self) -> bool:
        """Whether its result may have several creators, one for each operand."""
        return self in (Kind.SUM, Kind.CONCATENATES)

    @property
    def moves(self) -> bool:
        """Whether its result consists of entries of its operands only."""
        return self in (Kind.MOVES, Kind.REARRANGES, Kind.CONCATENATES)

    @property
    def apart(self) -> bool:
        """Whether each channel of the result depends only on the same channel of the operands."""
        return self.moves or self in (Kind.ENTRYWISE, Kind.SUM, Kind.FILLS, Kind.MIXES, Kind.POOLS)


class Zero(Enum):
    """Where the result of an operator is zero, given where its tensor operands are zero."""

    UNKNOWN = auto()
    """Not recorded."""
    LOST = auto()
    """Possibly nowhere: a sigmoid turns zeros into other numbers."""
    EVERYWHERE = auto()
    """Everywhere, whatever the operands are."""
    FIRST = auto()
    """Where the first operand is zero, whatever the others are: a ReLU, a quotient."""
    ANY = auto()
    """Where any operand is zero: a product."""
    ALL = auto()
    """Where all operands are zero: a sum."""
    PARAMETERS = auto()
    """Where the parameters that create it are zero."""
    SCALED = auto()
    """Where its scale (the second operand) and its shift are zero."""


@dataclass(frozen=True)
class Weight:
    """Which arguments are multiplied and summed over channels, and what the parameter's dimensions mean.

    Attributes:
        x: The position, among the operator's arguments, of the tensor that is read.
        position: The position of the parameter.
        bias: The position of the bias; None if the operator takes none.
        writes: The parameter's dimension that writes channels.
        reads: Its dimension that reads channels; None for a table whose rows are picked.
        spatial: Whether it has further, spatial dimensions. If not, it has only these two.
    """

    x: int = 0
    position: int = 1
    bias: int | None = 2
    writes: int = 0
    reads: int | None = 1
    spatial: bool = False


@dataclass(frozen=True)
class Operator:
    """All that is known about an operator.

    Attributes:
        rule: Computes the labels of the result.
        kind: What it does with channels.
        zero: Where its result is zero; a function of the node if that depends on the arguments.
        channels: The dimension of the result in which it creates or normalises channels: 1, or counted from the last;
            a function of the walk and the node if that depends on the arguments, which returns None where there is no
            single one.
        weight: How it reads channels through a parameter.
        factors: What is multiplied and summed over, the parameter last; None where `weight` says it, if anything does.
        entries: Of an operator that computes weights and has no other record of its zeros: the position, among its
            tensors, of the one whose entries they are; the other is their scale.
        groups: The position of the argument that counts groups of channels.
        sizes: Whether integers among its arguments are sizes. Otherwise a cut must not change them.
        adds: Whether it adds up what it mixes, of one operand or of products, so that what is zero adds nothing.
        picks: The positions of arguments that only say from where entries are taken, or where they are put.
        strides: Whether it only copies, and only where strides demand it.
        powers: If the result is a product of powers of its tensor operands, up to small numbers that are added: their
            exponents; a function of the node if they depend on the arguments.
        statistic: Whether it is a statistic that a norm may take over its channels.
        homogeneous: Whether a positive factor of its operand passes it.
        literal: Whether it ends what makes a tensor of numbers in the code (`torch.tensor`).
        like: Says for given arguments whether the result has the shape and type of the first of them, which saves the
            time that PyTorch takes to find that out. It may raise an error where PyTorch would.
        stand_in: Computes the same where PyTorch's kernel does not run: without data, in float64, on another device.
    """

    rule: Rule
    kind: Kind = Kind.OTHER
    zero: Zero | Callable[[Node], Zero] = Zero.UNKNOWN
    channels: int | Callable[["Walk", Node], int | None] = -1
    weight: Weight | None = None
    factors: Callable[[Node], Factors] | None = None
    entries: int | None = None
    groups: int | None = None
    sizes: bool = False
    adds: bool = False
    picks: tuple[int, ...] = ()
    strides: bool = False
    powers: tuple[float, ...] | Callable[[Node], tuple[float, ...] | None] | None = None
    statistic: bool = False
    homogeneous: bool = False
    literal: bool = False
    like: Callable[..., bool] | None = None
    stand_in: Callable[..., torch.Tensor] | None = None

    def zero_at(self, node: Node) -> Zero:
        """Where the result of this node is zero."""
        return self.zero if isinstance(self.zero, Zero) else self.zero(node)

    def channels_at(self, walk: "Walk", node: Node) -> int | None:
        """The dimension of this node's result in which it creates or normalises channels; None if it does neither.

        Args:
            walk: The walk through the graph, which knows the classes of the node's operands.
            node: A node of this operator.
        """
        return self.channels(walk, node) if callable(self.channels) else self.channels


Key = str | torch.Tag | Callable[..., Any]

_OPERATORS: dict[Key, Operator] = {}


def rule(*names: Key, **facts: Any) -> Callable[[Rule], Rule]:
    """Register operators: `@rule("relu", kind=Kind.ENTRYWISE, zero=Zero.FIRST)` decorates their rule.

    A later record of the same name replaces the earlier one.

    Args:
        names: Names of ATen operators (`"relu"`; the in-place twin `relu_` shares the record), or of others with their
            namespace (`"mine::gate"`). A tag stands for all operators that bear it and have no record.
        facts: What else is known about all of them: attributes of `Operator`. What is left out counts as unknown.
    """

    def register(function: Rule) -> Rule:
        for name in names:
            _OPERATORS[name.removeprefix("aten::") if isinstance(name, str) else name] = Operator(function, **facts)
        return function

    return register


def operator_of(node: Node) -> Operator:
    """The record of the operator that a node runs."""
    return operator_for(node.target)


def operator_for(target: object) -> Operator:
    """The record of an operator: under its own name, that of its out-of-place twin, or a tag that it bears."""
    if not isinstance(target, torch._ops.OpOverload):
        return _OPERATORS.get(target, UNKNOWN) if callable(target) else UNKNOWN
    name = target.overloadpacket.__name__
    if target.namespace != "aten":
        name = f"{target.namespace}::{name}"
    found = _OPERATORS.get(name) or _OPERATORS.get(name.rstrip("_"))
    return found or next((_OPERATORS[tag] for tag in target.tags if tag in _OPERATORS), UNKNOWN)


def factors_of(operator: Operator, node: Node) -> Factors:
    """What is multiplied and summed over: each factor, and along which of its dimensions channels are created."""
    if operator.factors is not None:
        return operator.factors(node)
    weight = operator.weight
    if weight is None or len(node.args) <= max(weight.x, weight.position):
        return []
    x, parameter = node.args[weight.x], node.args[weight.position]
    if not isinstance(x, Node) or not isinstance(parameter, Node):
        return []
    return [(x, ()), (parameter, (weight.writes,))]


def written_in_part(node: Node) -> bool:
    """Whether a value may be changed through a view of it, where zeros need not stay zeros."""
    views = [user for user in node.users if user.op == "call_function" and operator_of(user).kind.moves]
    writers = [user for view in views for user in view.users if mutates(user) and user.args[0] is view]
    return any(operator_of(one).zero_at(one) not in (Zero.FIRST, Zero.ANY) for one in writers) or any(
        map(written_in_part, views)
    )


def known() -> frozenset[str]:
    """The names of all operators that have a record."""
    return frozenset(name for name in _OPERATORS if isinstance(name, str))


def unknown(walk: "Walk", node: Any) -> Any:
    """The rule of operators without a record: freeze every argument; no dimension of the result can shrink."""
    reason = f"the operator {getattr(node.target, '_name', node.target)} has no rule"
    for arg in tensor_nodes((node.args, node.kwargs)):
        walk.freeze(arg, f"{reason} ({walk.where(node)})")
        if walk.of_parameters(arg):
            walk.unruled.setdefault(walk.where(node), reason)
    return unlabelled(node)


UNKNOWN = Operator(unknown)
