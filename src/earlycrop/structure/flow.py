"""Which classes of channels a masked network does not need.

Two passes through the exported graph decide, for every value in it and every class of channels:

    forward     can it be nonzero?             nz(y_o) = bias_o ≠ 0, or some kept W_oi reads an x_i with nz(x_i)
    backward    does any output depend on it?  rd(x_i) = some kept W_oi writes a y_o with rd(y_o)

A class is dead if, wherever it lives, it is zero or nothing depends on it: then removing it changes no output for
any input, no matter how many dead classes leave together. A weight counts as zero if it is masked, a bias or a
norm's shift if its value is zero. The operators' records say whether zeros stay zeros. An operator for which that is
unknown bars the classes that it touches, and so do norms over channels, whose statistics would change.
"""

from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.fx import Node

from earlycrop.structure.graph import argument, name_of, tensor_nodes, unread
from earlycrop.structure.registry import Kind, Zero, factors_of, operator_of, written_in_part
from earlycrop.structure.structure import Structure
from earlycrop.structure.trace import module_of

Dead = Bool[Tensor, "classes"]


@dataclass
class Flow:
    """Where each class can be nonzero, and where an output depends on it.

    Args:
        structure: The classes, with their graph.
        model: Holds the values of biases and norms.
        masks: For each prunable weight, by name, a boolean tensor of its shape: True where an entry is kept.
        constants: Whether a channel without a kept input may be a nonzero constant; if not, such channels count as
            dead.

    Attributes:
        dead: For each class, whether it is dead.
        barred: For each operator that may carry classes into others, the number of classes that it bars.
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
        nodes = [node for node in program.graph.nodes if not unread(node)]
        for node in nodes:
            self._rd[node] = torch.zeros(size + 1, dtype=torch.bool)
            self._nz[node] = self._forward(node) if node.op == "call_function" else self._present(node)
        for node in reversed(nodes):
            if node.op == "output":
                for arg in tensor_nodes(node.args):
                    self._rd[arg][:] = True
            elif node.op == "call_function":
                self._backward(node)
        alive = self._bar.clone()  # a class lives if, at any single place, it can be nonzero and is read there
        for node in nodes:
            if node.op == "call_function":
                alive |= self._present(node) & self._nz[node] & self._rd[node]
        self.dead: Dead = ~alive[:-1]

    def _forward(self, node: Node) -> Tensor:
        """The classes in which the result can be nonzero."""
        args, present = tensor_nodes((node.args, node.kwargs)), self._present(node)
        if (weighted := self._weighted(node)) is not None:
            return self._contracted(node, *weighted)
        if not self._mixes(node):
            # classes that no argument has come from a tensor spread over the channels, whose entries may be nonzero
            return self._carried(node, args, present) | (present & ~self._shown(args))
        if operator_of(node).adds and not written_in_part(node):
            return self._added(node, args, present)
        touched = present | self._shown(args)
        touched[-1] = False  # indices in no class stay anyway
        if bool(touched.any()):
            where = f"{name_of(node) or node.target} in `{module_of(node)}`"
            self.barred[where] = int(touched.sum())
            self._bar |= touched
        return present

    def _contracted(self, node: Node, x: Node, w: Node, bias: Any) -> Tensor:
        """The classes in which a sum over channels can be nonzero: a kept entry reads something that can be."""
        present = self._present(node)
        made = self._nonzero(bias) if self.constants else torch.zeros_like(present)
        written, read, kept = self._entries(node, w)
        if read is None:  # each group reads the class that it writes
            fed = kept & self._open(self._nz[x])[written]
        else:
            fed = (kept & self._open(self._nz[x])[read]).any(1)
            made = made | (self._present(x) & present)  # classes along other dimensions, which pass through
        return made | self._classes(written[fed])

    def _added(self, node: Node, args: list[Node], present: Tensor) -> Tensor:
        """The same for sums and products that are summed, in which what is zero adds nothing to other classes.

        Those along dimensions that pass are zero where the operand is that has them.
        """
        operator = operator_of(node)
        zero = operator.zero_at(node)
        if zero is Zero.FIRST:
            return present & self._nz[args[0]]
        for arg, dims in factors_of(operator, node) if zero is Zero.ANY else ():
            for dim in dims:
                present = present & (self._nz[arg] | ~self._classes(self._along(arg, dim)))
        return present

    def _carried(self, node: Node, args: list[Node], present: Tensor) -> Tensor:
        """The classes in which an operator that keeps channels apart can return anything but zero."""
        operator, nothing = operator_of(node), torch.zeros_like(present)
        zero = operator.zero_at(node)
        if zero is Zero.SCALED:  # zero where the shift and the mean subtracted before it are zero too
            shifts = [self._nonzero(one) for one in node.args[2:4]] if self.constants else []
            return self._nz[args[0]] | sum(shifts, nothing)
        if zero is Zero.ANY:  # a factor without these channels is one number for all of them
            return reduce(Tensor.__and__, (self._nz[arg] | ~self._present(arg) for arg in args), present)
        if zero is Zero.PARAMETERS or (zero is Zero.LOST and self.constants):
            return present
        if zero is Zero.EVERYWHERE:
            return nothing
        at = tensor_nodes([node.args[place] for place in operator.picks])
        found = sum((self._nz[arg] for arg in args if arg not in at), nothing)
        if zero is Zero.FIRST:
            # for classes that only another operand has, the first operand has one entry, shared by all of them
            brought = present & ~self._present(args[0])
            return self._nz[args[0]] | (brought if self.constants else brought & found)
        if operator.kind is Kind.SUM and self.constants:  # a term without these channels is added to all of them
            found = present & (found | sum((~self._present(arg) for arg in args), nothing))
        return found

    def _mixes(self, node: Node) -> bool:
        """Whether an operator may carry entries of one class into another; True if that is unknown."""
        operator, args = operator_of(node), tensor_nodes((node.args, node.kwargs))
        table = operator.weight is not None and operator.weight.reads is None  # rows are picked, nothing is summed
        if operator.zero_at(node) is Zero.UNKNOWN or written_in_part(node):
            return True
        if not (operator.kind.apart or operator.kind is Kind.CHANNEL_NORM or table):
            return True
        if operator.kind.moves:
            return False
        # classes that an argument has along more dimensions than the result must have gone into others
        often = self._often(node)
        return any(bool((self._often(arg) > often)[:-1].any()) for arg in args if arg.name not in self._origin)

    def _backward(self, node: Node) -> None:
        """Record in which classes of the arguments an output depends on them."""
        args, wanted = tensor_nodes((node.args, node.kwargs)), self._rd[node]
        if (weighted := self._weighted(node)) is not None:
            x, w, _ = weighted
            written, read, kept = self._entries(node, w)
            if read is None:
                self._rd[x] |= self._classes(written[kept & wanted[written]])
            else:
                self._rd[x] |= self._classes(read[(kept & self._open(wanted)[written][:, None]).any(0)])
                self._rd[x] |= self._present(x) & self._present(node) & wanted
            return
        mixes, decide = self._mixes(node), self._deciding(node, args)
        for arg in args:
            others = [other for other in decide if other is not arg]
            open_ = [self._nz[other] | ~self._present(other) for other in others if not mixes]
            self._rd[arg] |= reduce(Tensor.__and__, open_, wanted) | mixes

    def _deciding(self, node: Node, args: list[Node]) -> list[Node]:
        """Those of an entrywise operator's two arguments whose zeros make the result independent of the other one."""
        operator = operator_of(node)
        if operator.kind is not Kind.ENTRYWISE or len(args) != 2:
            return []
        return {Zero.ANY: args, Zero.FIRST: args[:1]}.get(operator.zero_at(node), [])

    def _weighted(self, node: Node) -> tuple[Node, Node, Any] | None:
        """What an operator reads through a parameter, that parameter and its bias; None where it is not that simple."""
        operator = operator_of(node)
        weight = operator.weight
        if weight is None or weight.reads is None or node.kwargs:
            return None
        x, w = node.args[weight.x], self._turned(node.args[weight.position])[0]
        bias = None if weight.bias is None else argument(node, weight.bias, "bias")
        # in a transposed convolution all groups share one column dimension of the weight
        if weight.writes == 1 and self._groups(node) != 1:
            return None
        if not isinstance(x, Node) or not isinstance(w, Node) or w.name not in self._origin or x.name in self._origin:
            return None
        if isinstance(bias, Node) and (bias.name not in self._origin or bias.meta["val"].ndim != 1):
            return None
        matrix: Any = node.args[weight.position]
        return (x, matrix, bias) if weight.spatial or w.meta["val"].ndim == 2 else None

    def _turned(self, w: Any) -> tuple[Any, bool]:
        """The matrix of which a weight is the transpose, if it is one; and whether it is."""
        if isinstance(w, Node) and w.op == "call_function" and operator_of(w).kind is Kind.REARRANGES:
            of, value = w.all_input_nodes[0], w.meta["val"]
            matrix = of.meta["val"]
            if value.ndim == matrix.ndim == 2 and (*value.shape, *value.stride()) == (
                *matrix.shape[::-1],
                *matrix.stride()[::-1],
            ):
                return of, True
        return w, False

    def _groups(self, node: Node) -> int:
        """The number of groups of channels in which an operator works."""
        position = operator_of(node).groups
        return 1 if position is None else argument(node, position, "groups", 1)

    def _entries(self, node: Node, w: Node) -> tuple[Tensor, Tensor | None, Tensor]:
        """The class of each channel that a weight writes and reads, and whether a kept entry connects the two.

        Where whole groups of a convolution leave, there are no read classes: all of a group is one class.
        """
        of, turned = self._turned(w)
        weight, name = operator_of(node).weight, self._origin[of.name]
        assert weight is not None
        assert weight.reads is not None
        mask = self.masks.get(name)
        kept = torch.ones(self._tensors[name].shape, dtype=torch.bool) if mask is None else mask
        kept = kept.t() if turned else kept
        kept = (
            kept.movedim((weight.writes, weight.reads), (0, 1)).flatten(2).any(2)
            if kept.ndim > 2
            else kept.movedim(weight.writes, 0)
        )
        written, read = (self._along(w, dim) for dim in (weight.writes, weight.reads))
        groups = self._groups(node)
        if groups > 1 and 1 in (kept.shape[1], kept.shape[0] // groups):
            return written, None, kept.any(1)
        return written, read, kept

    def _along(self, node: Node, dim: int) -> Tensor:
        """The class of each index of a dimension."""
        classes = self.channels.nodes[node.name][dim]
        return torch.full((node.meta["val"].shape[dim],), -1) if classes is None else classes

    def _present(self, node: Node) -> Tensor:
        """The classes that live in a value; for several results at once, those that may live in any of them."""
        dims = self.channels.nodes.get(node.name)
        if dims is None and node.op == "call_function":
            return self._shown(tensor_nodes((node.args, node.kwargs)))
        return sum((self._classes(one) for one in dims or () if one is not None), self._bar & False)

    def _often(self, node: Node) -> Tensor:
        """Along how many dimensions of a value each class lives."""
        dims = self.channels.nodes.get(node.name)
        if dims is None:
            return self._present(node).long()
        return sum((self._classes(one).long() for one in dims if one is not None), torch.zeros(len(self._bar)).long())

    def _shown(self, nodes: list[Node]) -> Tensor:
        """The classes that live in any of these values."""
        return sum((self._present(node) for node in nodes), self._bar & False)

    def _classes(self, classes: Tensor) -> Tensor:
        """These classes as a boolean vector; the last entry stands for indices in no class."""
        found = torch.zeros_like(self._bar)
        found[classes] = True
        return found

    def _open(self, some: Tensor) -> Tensor:
        """The same vector, in which indices in no class may be nonzero and read."""
        return torch.cat([some[:-1], torch.tensor([True])])

    def _nonzero(self, node: Any) -> Tensor:
        """The classes in which a bias, or another vector of the model, is nonzero."""
        if not isinstance(node, Node):
            return torch.zeros_like(self._bar)
        if node.name not in self._origin:  # computed, so its values are unknown here
            return self._present(node)
        value = self._tensors[self._origin[node.name]].detach().cpu()
        return self._classes(self._along(node, value.ndim - 1)[value != 0])
