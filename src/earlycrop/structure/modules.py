"""Which operator computes what a leaf module returns: a gate on that output then scales what the operator made."""

from collections.abc import Callable, Sequence

from jaxtyping import Int
from torch import Tensor
from torch.fx import Node

from earlycrop.structure.graph import tensor_nodes, unread
from earlycrop.structure.registry import Kind, operator_of
from earlycrop.structure.walk import Place, Walk

Classes = Int[Tensor, "_"]
"""For each index of a dimension, the number of its class, or -1 if it cannot leave."""

Where = Sequence[Place]

Call = tuple[str, str]
"""A call of a module: a unique name of the call, and the module's path."""


class Modules:
    """Finds the operators whose result is what a leaf module returns.

    The graph records for each operator in which call of which module it ran. A module with two names is one module.
    """

    def __init__(self, walk: Walk, classes: Callable[[Tensor | None], Classes | None]) -> None:
        self.walk, self.classes = walk, classes
        self.inside: dict[Call, set[Node]] = {}
        for node in walk.program.graph.nodes:
            if node.op == "call_function" and not unread(node):
                self.inside.setdefault(_call(node), set()).add(node)
        self.paths: dict[int, str] = {}
        for path, module in walk.modules.items():
            self.paths.setdefault(id(module), path)
        self.calls: dict[str, int] = {}
        for call in self.inside:
            path = self._path(call)
            self.calls[path] = self.calls.get(path, 0) + 1

    def places(self, nodes: set[Node]) -> dict[Node, Where]:
        """For these operators, the outputs of the modules that return their results, if the modules do nothing else."""
        by_module: dict[str, list[Node]] = {}
        for node in nodes:
            if self.returned(node) is not None and self._owned(node):
                by_module.setdefault(self._path(_call(node)), []).append(node)
        found: dict[Node, Where] = {}
        for path, runs in by_module.items():
            outputs = [self._output(path, run) for run in runs]
            first = outputs[0]
            if first is None or len(runs) != self.calls[path]:
                continue
            if all(one is not None and one.dim == first.dim and self._alike(one, first) for one in outputs):
                found.update((run, (first,)) for run in runs)
        return found

    def returned(self, node: Node) -> Node | None:
        """What the leaf module that ran this operator returns, if that is the operator's result, moved at most."""
        call = _call(node)
        module = self.walk.modules.get(self._path(call))
        if module is None or any(name != "parametrizations" for name, _ in module.named_children()):
            return None
        inside = self.inside[call]
        while any(user in inside for user in node.users):
            (*others, user) = node.users
            if others or operator_of(user).kind is not Kind.REARRANGES:
                return None
            node = user
        alone = all(user in inside for other in inside - {node} for user in other.users)
        return node if alone else None

    def _output(self, path: str, node: Node) -> Place | None:
        """The dimension of the module's output that holds the operator's own channels; None if that is ambiguous."""
        last, before, channels = self.returned(node), self._dims(node), operator_of(node).channels_at(self.walk, node)
        if last is None or channels is None or not before or (labels := before[channels]) is None:
            return None
        after, numbers = self._dims(last), self.classes(labels)
        holding = [channels % len(before)]
        if last is not node:  # moved: look for the dimension with the same classes in the same order
            found = [self.classes(other) for other in after]
            holding = [
                dim for dim, one in enumerate(found) if one is not None and numbers is not None and one.equal(numbers)
            ]
        if len(holding) != 1:
            return None
        (dim,) = holding
        # another call may have more dimensions in front, so a dimension counted from the last stays counted that way
        return Place(path, "output", dim if channels > 0 else dim - len(after), labels)

    def _dims(self, node: Node) -> list[Tensor | None]:
        value = self.walk.values.get(node)
        return [one if isinstance(one, Tensor) else None for one in value] if isinstance(value, list) else []

    def _alike(self, one: Place, other: Place) -> bool:
        a, b = self.classes(one.labels), self.classes(other.labels)
        return a is b is None or (a is not None and b is not None and a.equal(b))

    def _owned(self, node: Node) -> bool:
        """Whether all operands but one at most are computed from the module's own parameters and buffers."""
        call = _call(node)
        path = self._path(call)
        module = self.walk.modules[path]
        tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
        own = {self.walk.names[f"{path}.{name}" if path else name] for name, _ in tensors}

        def made_of_own(arg: Node) -> bool:
            if arg in self.walk.origin:
                return self.walk.origin[arg] in own
            return arg in self.inside[call] and arg not in moved and all(map(made_of_own, arg.all_input_nodes))

        moved = {node}
        return sum(not made_of_own(arg) for arg in tensor_nodes((node.args, node.kwargs))) <= 1

    def _path(self, call: Call) -> str:
        """The first path of the called module."""
        module = self.walk.modules.get(call[1])
        return call[1] if module is None else self.paths[id(module)]


def _call(node: Node) -> Call:
    """The innermost call that ran this operator; operators that compute a parametrized weight belong to its owner."""
    stack = node.meta.get("nn_module_stack") or {}
    calls = ((name, path.split("@")[0]) for name, (path, _) in reversed(stack.items()))
    return next((call for call in calls if "parametrizations" not in call[1].split(".")), ("", ""))
