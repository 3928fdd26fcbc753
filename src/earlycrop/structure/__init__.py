"""Which channels of a network belong together, and how they are removed.

graph.py      helpers for the nodes of an exported graph
registry.py   what is known about an operator: one record, which all other files read
trace.py      exports the graph without touching the model
returned.py   what a call returns: outputs, and state for the next call
duplicates.py  copies of a model, whatever its modules keep, with or without data
caches.py     attributes in which a call leaves tensors, which a cut empties
labels.py     a label for every index, and which labels are equal or immovable
walk.py       the state of a walk through the graph
operators/    each operator's record: what it does to labels, and further facts
streams.py    widths that the code takes from the width of what a module reads
statistics.py  norms that are written out
heads.py      multi-head attention whose heads keep their width after a cut
strided.py    strided 1×1 convolutions to which a cut has left few channels
labelling.py  the walk
modules.py    which operator computes what a module returns
gates.py      where a gate scales a class exactly once on every path
products.py   which parameters multiply activations, however a layer is written
layers.py     the layers of a model
named.py      what the user names: kept whole (`ignore`), or coupled
layout.py     the classes along each dimension of a tensor
work.py       what a call does, operator by operator, and what it keeps in memory
structure.py  the result: classes of coupled channels
refusals.py   models of which nothing can be cut
held.py       sums up what holds channels
renumbering.py  gives classes new numbers
builder.py    turns the labels of a finished walk into a structure
trial.py      finds what can leave, and with trial cuts what sizes in the code forbid
attempts.py   trial cuts: channels leave a copy without data
following.py  a run of such a copy beside the dense graph
origins.py    where the integers in the code come from
choosing.py   which channels can leave together, with few trial cuts
progress.py   says how far tracing is where it takes long
surgery.py    removes channels from the same parameter objects, all or nothing
verify.py     compares the cut network with the gated dense one
distance.py   how far outputs are from each other
flow.py       which classes are zero, or read by nothing, in a network with masks
"""

from earlycrop.structure.gates import Gate
from earlycrop.structure.layers import Layer, layers_in, layers_of
from earlycrop.structure.layout import Layout
from earlycrop.structure.named import ignoring, names_of
from earlycrop.structure.operators.pointwise import pointwise
from earlycrop.structure.registry import Kind, Operator, Weight, Zero, rule
from earlycrop.structure.structure import ChannelClass, ChannelGraph, Frozen, Member, Structure
from earlycrop.structure.surgery import cut
from earlycrop.structure.trace import Call
from earlycrop.structure.trial import trace
from earlycrop.structure.verify import Verification, Verifier, verify

__all__ = [
    "Call",
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
