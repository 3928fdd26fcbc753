"""Classes of coupled channels: what a model's channels are, which of them may leave, and where they live."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from earlycrop.errors import EarlyCropError, nearest
from earlycrop.structure.gates import Classes, Gate, find_gates
from earlycrop.structure.labels import Axis
from earlycrop.structure.trace import Program
from earlycrop.structure.walk import OUTPUT, Site, Walk, tensors_of


@dataclass(frozen=True)
class Member:
    """The entries of one parameter or buffer dimension that belong to a class."""

    tensor: str
    dim: int
    index: Int[Tensor, "_"]


@dataclass(frozen=True)
class ChannelClass:
    """Channels that only leave together, and every place where they live."""

    members: tuple[Member, ...]


@dataclass(frozen=True)
class Frozen:
    """A dimension with channels that cannot leave, and why."""

    where: str
    reason: str
    channels: int

    def __str__(self) -> str:
        channels = f" ({self.channels} channels)" if self.channels else ""
        return f"{self.where}{channels}: {self.reason}"


@dataclass(frozen=True)
class Layer:
    """A convolution, linear, recurrent or embedding layer: what node and weight sparsity count.

    Attributes:
        name: The module's path.
        weight: Its weight's name (the first name where it is tied); of a recurrent layer that which reads its input.
        dim: The weight's dimension along which output channels are created.
        channels: Its output channels; hidden units, one layer and direction each, if it is recurrent.
        width: The module's integer that counts them.
        others: Further weights that its channels have, those of a recurrence.
    """

    name: str
    weight: str
    dim: int
    channels: int
    width: str
    others: tuple[str, ...] = ()

    @property
    def weights(self) -> tuple[str, ...]:
        """All its weights."""
        return (self.weight, *self.others)

    @property
    def table(self) -> bool:
        """Whether it is an embedding, of which rows are picked and nothing is multiplied."""
        return self.width == "embedding_dim"


@dataclass(frozen=True)
class Layout:
    """How many classes each dimension holds: what is needed to count what a cut leaves.

    Attributes:
        shape: The tensor's shape.
        classes: Per dimension the class of each index (-1: stays), or None where all stay.
    """

    shape: tuple[int, ...]
    classes: tuple[Classes | None, ...]


@dataclass(frozen=True)
class Structure:
    """All removable classes of a model's channels, found in its exported graph.

    Attributes:
        count: How many classes may leave.
        tensors: Per parameter and buffer its layout.
        creators: Parameter dimensions (and biases) that create channels.
        gates: Where the classes' gates multiply: behind the norms that directly follow creators.
        creating_gates: The same before these norms, on the creators themselves.
        attributes: Module integers that count channels: (module, attribute, position or None) to classes.
        frozen: What cannot leave, and why.
        layers: Every convolution, linear, recurrent and embedding layer.
        outputs: Weights whose output channels are outputs of the network: no nodes in node sparsity.
        products: Multiply-adds: (weight, uses of each of its entries for one example).
        names: From every name of a tensor to its name in `tensors` (they differ where weights are tied).
        program: The graph in which all this was found; None after a cut.
    """

    count: int
    tensors: dict[str, Layout]
    creators: tuple[Site, ...]
    gates: tuple[Gate, ...]
    creating_gates: tuple[Gate, ...]
    attributes: dict[tuple[str, str, int | None], Classes]
    frozen: tuple[Frozen, ...]
    layers: tuple[Layer, ...]
    outputs: frozenset[str]
    products: tuple[tuple[str, float], ...]
    names: dict[str, str]
    program: Program | None = field(default=None, repr=False, compare=False)
    nodes: dict[str, tuple[Classes | None, ...]] = field(default_factory=dict, repr=False, compare=False)
    arguments: dict[str, Classes] = field(default_factory=dict, repr=False, compare=False)
    positions: dict[str, tuple[Classes, int, int]] = field(default_factory=dict, repr=False, compare=False)
    split: bool = field(default=False, repr=False, compare=False)

    def __len__(self) -> int:
        return self.count

    @property
    def classes(self) -> list[ChannelClass]:
        """Every class with its members, in the order of its number."""
        members: list[list[Member]] = [[] for _ in range(self.count)]
        for name, dim, classes in self.dimensions():
            order = torch.argsort(classes, stable=True)
            numbers, sizes = torch.unique_consecutive(classes[order], return_counts=True)
            for number, index in zip(numbers.tolist(), order.split(sizes.tolist()), strict=True):
                if number >= 0:
                    members[number].append(Member(name, dim, index))
        return [ChannelClass(tuple(found)) for found in members]

    def dimensions(self) -> Iterator[tuple[str, int, Classes]]:
        """Every tensor dimension in which something may leave: name, dimension, class per index."""
        for name, layout in self.tensors.items():
            for dim, classes in enumerate(layout.classes):
                if classes is not None:
                    yield name, dim, classes

    def with_graph_of(self, found: "Structure") -> "Structure":
        """These classes with the graph of a new trace of the model, or as they are if that finds others.

        The last class of a dimension can leave no more, so a trace does not find it.
        """
        stays = torch.zeros(self.count + 1, dtype=torch.bool)
        for _, _, classes in self.dimensions():
            if bool((classes == classes[0]).all()):
                stays[classes[0]] = True
        stays[-1] = True
        number = torch.full((found.count + 1,), -1)  # of each class that was found, here; number[-1] stays -1
        pairs = []
        for name, layout in self.tensors.items():
            for size, mine, theirs in zip(layout.shape, layout.classes, found.tensors[name].classes, strict=True):
                mine, theirs = (torch.full((size,), -1) if one is None else one for one in (mine, theirs))
                pairs.append((torch.where(stays[mine], -1, mine), theirs))
        for mine, theirs in pairs:
            number[theirs] = mine
        number[-1] = -1
        if not all(torch.equal(number[theirs], mine) for mine, theirs in pairs):
            return self
        return replace(
            self,
            program=found.program,
            nodes={
                name: tuple(None if one is None else number[one] for one in dims) for name, dims in found.nodes.items()
            },
            arguments={key: number[one] for key, one in found.arguments.items()},
            positions={key: (number[one], start, stop) for key, (one, start, stop) in found.positions.items()},
        )

    def after(self, keep: Bool[Tensor, "classes"]) -> "Structure":
        """The structure of the model from which the classes that are not in `keep` have left.

        Classes are renumbered in their order; the graph is gone, for its literal sizes are stale.
        """
        number = torch.where(keep, keep.cumsum(0) - 1, -2)
        table = torch.cat([number, torch.tensor([-1])])  # table[-1] is -1: what stays, stays

        def shrink(classes: Classes) -> Classes:
            now = table[classes]
            return now[now != -2]

        tensors = {}
        for name, layout in self.tensors.items():
            left = tuple(None if classes is None else shrink(classes) for classes in layout.classes)
            shape = tuple(
                size if classes is None else classes.numel() for size, classes in zip(layout.shape, left, strict=True)
            )
            tensors[name] = Layout(shape, left)
        attributes = {key: shrink(classes) for key, classes in self.attributes.items()}
        widths = {(path, name): len(classes) for (path, name, _), classes in attributes.items()}
        return replace(
            self,
            count=int(keep.sum()),
            tensors=tensors,
            gates=_renumbered(self.gates, shrink),
            creating_gates=_renumbered(self.creating_gates, shrink),
            attributes=attributes,
            layers=tuple(
                replace(layer, channels=widths.get((layer.name, layer.width), layer.channels)) for layer in self.layers
            ),
            program=None,
            nodes={},
            arguments={},
            positions={},
            split=False,
        )

    def without(self, classes: Bool[Tensor, "classes"], reason: str) -> "Structure":
        """The same structure with more classes frozen, for one reason."""
        number = torch.where(classes, -1, (~classes).cumsum(0) - 1)
        table = torch.cat([number, torch.tensor([-1])])
        frozen = [
            Frozen(f"{name} dim {dim}", reason, int(stuck.sum()))
            for name, dim, old in self.dimensions()
            if (name, dim) in self.creators and bool((stuck := (old >= 0) & (table[old] < 0)).any())
        ]
        tensors = {
            name: Layout(layout.shape, tuple(None if old is None else table[old] for old in layout.classes))
            for name, layout in self.tensors.items()
        }
        return replace(
            self,
            count=int((~classes).sum()),
            tensors=tensors,
            gates=_renumbered(self.gates, table.__getitem__),
            creating_gates=_renumbered(self.creating_gates, table.__getitem__),
            attributes={key: table[old] for key, old in self.attributes.items()},
            nodes={
                name: tuple(None if old is None else table[old] for old in dims) for name, dims in self.nodes.items()
            },
            arguments={key: table[old] for key, old in self.arguments.items()},
            positions={key: (table[old], start, stop) for key, (old, start, stop) in self.positions.items()},
            frozen=(*self.frozen, *frozen),
        )

    def index(self, name: str, keep: Bool[Tensor, "classes"]) -> list[Int[Tensor, "_"] | None]:
        """Per dimension of a tensor the indices that stay, or None where all do."""
        stays = torch.cat([keep, torch.tensor([True])])
        found: list[Tensor | None] = []
        for classes in self.tensors[name].classes:
            kept = None if classes is None else stays[classes]
            found.append(None if kept is None or bool(kept.all()) else kept.nonzero().flatten())
        return found

    def spaces(self) -> Int[Tensor, "classes"]:
        """For each class the number of its space: classes of one space live in the same dimensions.

        The channels of a layer are one space, and so are those of a whole residual stream.
        """
        key = torch.zeros(self.count + 1, dtype=torch.int64)
        generator = torch.Generator().manual_seed(0)
        for _, _, classes in self.dimensions():
            # a hash of the set of dimensions; a class that is here several times is written as often, and alike
            key[classes] = key[classes] + torch.randint(2**62, (1,), generator=generator)
        return torch.unique(key[:-1], return_inverse=True)[1]


def build(
    walk: Walk, ignored: Callable[[str], bool], examples: int, guessed: Callable[[str], bool] = lambda _: True
) -> Structure:
    """Read the classes off a finished walk.

    Args:
        walk: The walk through the whole graph.
        ignored: Whether the user keeps this tensor whole.
        examples: How many examples the traced batch has.
        guessed: Whether an integer of a module, by its name, is taken for the size of what its code splits.
    """
    layers = layers_of(walk.model)
    for name, dims in walk.tensors.items():
        if ignored(name):
            for labels in dims:
                walk.labels.freeze(labels, "kept by `ignore`")
    root = walk.labels.components()
    reasons: dict[int, str] = {}
    free = torch.zeros(walk.labels.count, dtype=torch.bool)

    for created in walk.created:
        for name, dim in created.sites:
            if (labels := walk.tensors[name][dim]) is not None:
                free[root[labels]] = True
    stuck = torch.zeros_like(free)

    def freeze(roots: Tensor, reason: str) -> None:
        for one in roots[~stuck[roots]].unique().tolist():
            reasons.setdefault(one, reason)
        stuck[roots] = True

    for labels, reason in walk.labels.prohibitions():
        freeze(root[labels], reason)
    for name, dims in walk.tensors.items():
        for dim, labels in enumerate(dims):
            if labels is not None:
                roots = root[labels]
                if bool((roots == roots[0]).all()):
                    freeze(roots[:1], f"all channels of {name} dim {dim} are coupled into one")
                freeze(roots[~free[roots]], "no parameter of a layer creates these channels")

    removable = torch.zeros_like(free)
    for dims in walk.tensors.values():
        for labels in dims:
            if labels is not None:
                removable[root[labels]] = True
    removable &= ~stuck
    number = torch.full((walk.labels.count,), -1)
    number[removable] = torch.arange(int(removable.sum()))

    def classes(labels: Tensor | None) -> Classes | None:
        return None if labels is None or bool(stuck[root[labels]].all()) else number[root[labels]]

    parameters = dict(walk.model.named_parameters())
    sites = dict.fromkeys(site for created in walk.created for site in created.sites)
    creators = tuple((name, dim) for name, dim in sites if name in parameters)
    frozen, outputs = [], set()
    for name, dim in dict.fromkeys([*((layer.weight, layer.dim) for layer in layers), *creators]):
        labels = walk.tensors[name][dim]
        if labels is None or not bool(stuck[root[labels]].any()):
            continue
        held = root[labels][stuck[root[labels]]]
        why = reasons[int(held[0])]
        if why == OUTPUT:
            outputs.add(name)
        else:
            frozen.append(Frozen(f"{name} dim {dim}", why, held.numel()))
    told = " ".join(one.reason for one in frozen)
    frozen += [Frozen(where, why, 0) for where, why in walk.unruled.items() if where not in told]
    gates, creating_gates = find_gates(walk, classes)

    def shrinks(labels: Tensor) -> bool:
        found = classes(labels)
        return found is not None and len(found.unique()) > 1

    guesses = {
        key: shrinking[0]
        for key, sizes in walk.guesses.items()
        if guessed(key[1]) and (shrinking := [labels for labels in sizes if shrinks(labels)])
    }
    attributes = {**guesses, **_own_attributes(walk, layers), **walk.attributes}

    def along(labels: Tensor | Axis | None) -> Classes | None:
        if isinstance(labels, Axis):
            labels = labels.along()
            if bool((root[labels] == root[labels[0]]).all()):
                return None  # another axis of the grid may shrink, this one cannot
        return classes(labels)

    return Structure(
        count=int(removable.sum()),
        tensors={
            name: Layout(tuple(tensor.shape), tuple(classes(labels) for labels in walk.tensors[name]))
            for name, tensor in tensors_of(walk.model)
        },
        creators=creators,
        gates=gates,
        creating_gates=creating_gates,
        attributes={key: found for key, labels in attributes.items() if (found := classes(labels)) is not None},
        frozen=tuple(frozen),
        layers=layers,
        outputs=frozenset(outputs),
        products=tuple((name, uses / examples) for name, uses in walk.products),
        names=walk.names,
        program=walk.program,
        nodes={
            node.name: tuple(along(labels) for labels in dims)
            for node, dims in walk.values.items()
            if isinstance(dims, list)
        },
        arguments={key: found for key, labels in walk.arguments.items() if (found := classes(labels)) is not None},
        positions={
            key: (found, start, stop)
            for key, (labels, start, stop) in walk.positions.items()
            if (found := classes(labels)) is not None
        },
        split=bool(walk.positions or walk.grids or guesses),
    )


def _own_attributes(walk: Walk, layers: tuple[Layer, ...]) -> dict[tuple[str, str, int | None], Tensor]:
    """What a layer says of its weight's sizes, also where the weight is not used by the layer itself."""
    found = {}
    reads = {"out_features": "in_features", "out_channels": "in_channels"}
    for layer in layers:
        module, dims = walk.modules[layer.name], walk.tensors[layer.weight]
        for name, labels in ((layer.width, dims[layer.dim]), (reads.get(layer.width, ""), dims[1 - layer.dim])):
            if labels is not None and getattr(module, name, None) == labels.numel():
                found[layer.name, name, None] = labels
    return found


def _renumbered(gates: tuple[Gate, ...], number: Callable[[Classes], Classes]) -> tuple[Gate, ...]:
    """The same places with other numbers of classes, without those where no gate is left."""
    moved = (replace(gate, classes=number(gate.classes)) for gate in gates)
    return tuple(gate for gate in moved if bool((gate.classes >= 0).any()))


def names_of(ignore: Iterable[str]) -> tuple[str, ...]:
    """These names; a single one is a name, not its letters."""
    return (ignore,) if isinstance(ignore, str) else tuple(ignore)


def ignoring(model: nn.Module, ignore: Iterable[str]) -> Callable[[str], bool]:
    """Whether a parameter or buffer belongs to what the user keeps whole.

    Raises:
        EarlyCropError: the model has no module or parameter of a name; names the nearest.
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


def couple(walk: Walk, together: Sequence[Sequence[str]]) -> None:
    """Output channel i of each of these layers leaves with channel i of the others.

    Raises:
        EarlyCropError: a name is of no layer that creates channels, or the layers are not equally wide.
    """
    creating = {name: dim for created in walk.created for name, dim in created.sites[:1]}  # its bias goes with it
    for group in together:
        found: list[tuple[str, Tensor]] = []
        for name in [group] if isinstance(group, str) else group:
            weight = next((walk.names[one] for one in (name, f"{name}.weight") if one in walk.names), None)
            labels = None if weight not in creating else walk.tensors[weight][creating[weight]]
            if labels is None:
                raise EarlyCropError(
                    f"`together` names {name!r}, which is no layer that creates channels. "
                    f"Did you mean {nearest(name, creating)!r}?"
                )
            if found and labels.numel() != found[0][1].numel():
                raise EarlyCropError(
                    f"`together` couples {found[0][0]!r} with {name!r} index by index, but they have "
                    f"{found[0][1].numel()} and {labels.numel()} channels. Name layers of the same width."
                )
            found.append((name, labels))
        if len(found) < 2:
            raise EarlyCropError(f"`together` is a list of tuples of two or more layers; found {group!r}.")
        for _, labels in found[1:]:
            walk.labels.unite(found[0][1], labels)


def layers_of(model: nn.Module) -> tuple[Layer, ...]:
    """Every convolution, linear, recurrent and embedding layer, in module order; a layer in two places is one."""
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    layers = []
    for path, module in model.named_modules():
        for names, dim, width in _weights(module):
            # a parametrized weight is computed: not one of ours
            found = [first[id(weight)] for name in names if id(weight := module._parameters.get(name)) in first]
            if len(found) == len(names):
                layers.append(Layer(path, found[0], dim, getattr(module, width), width, tuple(found[1:])))
    return tuple(layers)


def _weights(module: nn.Module) -> list[tuple[tuple[str, ...], int, str]]:
    """For each layer that a module is: its weights, where the first creates channels, and which integer counts them."""
    if isinstance(module, nn.Linear):
        return [(("weight",), 0, "out_features")]
    if isinstance(module, nn.modules.conv._ConvNd):
        return [(("weight",), int(isinstance(module, nn.modules.conv._ConvTransposeNd)), "out_channels")]
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return [(("weight",), 1, "embedding_dim")]
    if isinstance(module, nn.RNNCellBase):
        return [(("weight_ih", "weight_hh"), 0, "hidden_size")]
    if isinstance(module, nn.RNNBase):
        kinds = ("ih", "hh", "hr") if module.proj_size else ("ih", "hh")
        ways = [f"l{n}{way}" for n in range(module.num_layers) for way in ("", "_reverse")[: 1 + module.bidirectional]]
        return [(tuple(f"weight_{kind}_{way}" for kind in kinds), 0, "hidden_size") for way in ways]
    return []
