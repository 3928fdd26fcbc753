"""The table of rules, how a node finds its own, and the few words that rules share."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from earlycrop.structure.walk import Walk, operator_of, tensor_nodes, unlabelled

Rule = Callable[[Walk, Any], Any]  # the node is untyped here: its arguments are whatever the operator takes
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule under the names of aten operators; the in-place twin `name_` shares it."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


def apply(walk: Walk, node: Any) -> Any:
    """The labels of what this node returns."""
    target = node.target
    if target is operator.getitem:
        value = walk.values.get(node.args[0])
        return value[node.args[1]] if isinstance(value, tuple) else unlabelled(node)
    if (rule := rule_of(node)) is not None:
        return rule(walk, node)
    if any(labelled(walk.values.get(arg)) for arg in tensor_nodes((node.args, node.kwargs))):
        return unknown(walk, node)
    return unlabelled(node)


def rule_of(node: Any) -> Rule | None:
    """The rule of a node's operator, if there is one."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return None
    if target.namespace == "aten":
        name = target.overloadpacket.__name__
        found = RULES.get(name) or RULES.get(name.rstrip("_"))
        if found is not None:
            return found
    return RULES["add"] if torch.Tag.pointwise in target.tags else None


def unknown(walk: Walk, node: Any) -> Any:
    """No rule: freeze all that goes in; what comes out cannot shrink."""
    reason = f"the operator {getattr(node.target, '_name', node.target)} has no rule"
    for arg in tensor_nodes((node.args, node.kwargs)):
        walk.freeze(arg, f"{reason} ({walk.where(node)})")
        if walk.of_parameters(arg):
            walk.unruled.setdefault(walk.where(node), reason)
    return unlabelled(node)


def labelled(value: Any) -> bool:
    """Whether some dimension of a value has labels."""
    if isinstance(value, tuple):
        return any(labelled(part) for part in value)
    return isinstance(value, list) and any(labels is not None for labels in value)


def argument(node: Any, position: int, name: str, default: Any = None) -> Any:
    """An argument of an operator, given by position or by name."""
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


def name_of(node: Any) -> str:
    """The operator's name; the in-place twin has the same."""
    return operator_of(node).rstrip("_")


def input_reason(walk: Walk, node: Any) -> str:
    """Why channels that an operator reads cannot leave."""
    return f"reads or is read together with channels that cannot leave ({walk.where(node)})"


def same_in_each_group(walk: Walk, labels: Tensor | None, groups: int) -> None:
    """Equal parts of a dimension lose the same offsets, so that they stay equal."""
    if labels is not None:
        walk.labels.unite(labels.view(groups, -1), labels.view(groups, -1)[:1])
