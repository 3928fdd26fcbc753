"""Structure: which channels of a network belong together, and how they leave.

graph.py      words for the nodes of an exported graph
registry.py   what is known of an operator: one record, which all the others read
trace.py      the exported graph, without touching the model
labels.py     a label for every index, and what was found equal or immovable
walk.py       what a walk through the graph knows
operators/    each operator's record: what it does to labels, and other facts
heads.py      multi-head attention with fewer heads than its width has room for
strided.py    1×1 convolutions with a stride, where a cut has left them few channels
labelling.py  the walk
modules.py    which operator is what a module returns
gates.py      where a class is scaled once on every path
products.py   which parameters multiply activations, however a layer is written
layers.py     the layers of a model
named.py      what the user names: kept whole, or coupled
structure.py  the classes of coupled channels that came out
held.py       what holds channels, in a few lines
renumbering.py  new numbers for them
builder.py    from the labels of a walk to a structure
trial.py      a cut tried on a copy without data: what literal sizes forbid
surgery.py    the removal, on the same parameters, all or nothing
verify.py     cut network against gated dense network
flow.py       which classes are zero, or unread, in a network with masks
"""

from earlycrop.structure.gates import Gate
from earlycrop.structure.layers import Layer, layers_in, layers_of
from earlycrop.structure.named import ignoring, names_of
from earlycrop.structure.operators.pointwise import pointwise
from earlycrop.structure.registry import Kind, Operator, Weight, Zero, rule
from earlycrop.structure.structure import ChannelClass, ChannelGraph, Frozen, Layout, Member, Structure
from earlycrop.structure.surgery import cut
from earlycrop.structure.trial import trace
from earlycrop.structure.verify import Verification, Verifier, verify

__all__ = [
    "ChannelClass",
    "ChannelGraph",
    "Frozen",
    "Gate",
    "Kind",
    "Layer",
    "Layout",
    "Member",
    "Operator",
    "Structure",
    "Verification",
    "Verifier",
    "Weight",
    "Zero",
    "cut",
    "ignoring",
    "layers_in",
    "layers_of",
    "names_of",
    "pointwise",
    "rule",
    "trace",
    "verify",
]
