"""Which weights set no scale: a norm divides whatever they create by its own size, before anything else reads it."""

from collections.abc import Container

from torch.fx import Node

from earlycrop.structure.products import Products
from earlycrop.structure.registry import Kind, factors_of, operator_of


def scaled_weights(products: Products) -> frozenset[str]:
    """The parameters that set the scale of what they create: it is their only use, and no norm follows at once.

    Multiplying the weight of a layer by a positive number does nothing where a norm divides by the scale of the
    result, except that it slows the weight's training. A parameter that is read as a table too, or in any way
    other than as a factor of a contraction, is not among them.

    Args:
        products: What multiplies activations in the network.
    """
    found = set()
    for node, sources in products.made.items():
        if node.op == "placeholder" and sources:
            uses = _products(node)
            if uses and not all(_normed(one, products.made) for one in uses):
                found.add(sources[0].name)
    return frozenset(found)


def _products(node: Node) -> list[Node]:
    """The contractions in which a weight, or a view of it, is a factor; none if it has other uses."""
    found: list[Node] = []
    for user in node.users:
        if user.op != "call_function":
            return []
        operator = operator_of(user)
        if operator.weight is not None and operator.weight.reads is None:  # a table
            return []
        if any(factor is node for factor, _ in factors_of(operator, user)):
            found.append(user)
        elif operator.kind.moves and (inner := _products(user)):
            found += inner
        else:
            return []
    return found


def _normed(node: Node, fixed: Container[Node], joined: bool = False) -> bool:
    """Whether whatever reads a value divides it by its scale.

    Args:
        node: The value.
        fixed: What does not depend on the network's inputs.
        joined: Whether it has been put beside others: then only a norm of single channels divides by its scale alone.
    """
    users = list(node.users)
    return bool(users) and all(_divides(user, node, fixed, joined) for user in users)


def _divides(user: Node, node: Node, fixed: Container[Node], joined: bool) -> bool:
    if user.op != "call_function":
        return False
    operator = operator_of(user)
    kind = operator.kind
    if kind.norm:
        return user.args[0] is node and (kind is Kind.CHANNEL_NORM or not joined)
    if kind is Kind.CONCATENATES:
        return _normed(user, fixed, joined=True)
    if kind is Kind.SUM:  # a bias; of two activations each has a scale of its own
        return all(arg is node or arg in fixed for arg in user.all_input_nodes) and _normed(user, fixed, joined)
    return (kind.moves or kind is Kind.POOLS or operator.homogeneous) and _normed(user, fixed, joined)
