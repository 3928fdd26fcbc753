"""What the user names: tensors that stay whole (`ignore`), and layers that leave together (`coupled`)."""

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, nn

from earlycrop.errors import EarlyCropError, nearest
from earlycrop.structure.walk import Walk


def names_of(ignore: Iterable[str]) -> tuple[str, ...]:
    """The names as a tuple; a string is a single name, not a sequence of letters."""
    return (ignore,) if isinstance(ignore, str) else tuple(ignore)


def ignoring(model: nn.Module, ignore: Iterable[str]) -> Callable[[str], bool]:
    """A function that says whether a parameter or buffer, by name, belongs to what the user keeps whole.

    Args:
        model: The network.
        ignore: Names of modules, parameters or buffers.

    Raises:
        EarlyCropError: the model has no module or parameter of that name; the message suggests the nearest one.
    """
    names = [name for name, _ in [*model.named_modules(), *model.named_parameters()] if name]
    kept = names_of(ignore)
    for name in kept:
        if name not in names:
            raise EarlyCropError(
                f"`ignore` names {name!r}, but the model has no module or parameter of that name. "
                f"Did you mean {nearest(name, names)!r}?"
            )
    return lambda tensor: any(tensor == name or tensor.startswith(name + ".") for name in kept)


def couple(walk: Walk, coupled: Sequence[Sequence[str]]) -> None:
    """Couple layers: output channel i of each layer in a group leaves with channel i of the others.

    Raises:
        EarlyCropError: a name is not that of a layer that creates channels, or layers differ in width.
    """
    creating = {name: dim for created in walk.created for name, dim in created.sites[:1]}  # its bias goes with it
    for group in coupled:
        found: list[tuple[str, Tensor]] = []
        for name in [group] if isinstance(group, str) else group:
            weight = next((walk.names[one] for one in (name, f"{name}.weight") if one in walk.names), None)
            labels = None if weight not in creating else walk.tensors[weight][creating[weight]]
            if labels is None:
                raise EarlyCropError(
                    f"`coupled` names {name!r}, which is not a layer that creates channels. "
                    f"Did you mean {nearest(name, creating)!r}?"
                )
            if found and labels.numel() != found[0][1].numel():
                raise EarlyCropError(
                    f"`coupled` couples {found[0][0]!r} with {name!r} index by index, but they have "
                    f"{found[0][1].numel()} and {labels.numel()} channels. Name layers of the same width."
                )
            found.append((name, labels))
        if len(found) < 2:
            raise EarlyCropError(f"`coupled` must be a list of tuples of two or more layers; found {group!r}.")
        for _, labels in found[1:]:
            walk.labels.unite(found[0][1], labels)
