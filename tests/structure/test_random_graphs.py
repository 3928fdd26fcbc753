"""Networks that nobody thought of: whatever is cut from them, what is left computes what the gated network does.

A failure is shrunk and printed as source that builds the network again.
"""

import copy
from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st

from earlycrop.errors import TraceError
from earlycrop.structure import cut, trace
from tests.oracles import attribute_faults, choose, disagreement, make_unique, tensors
from tests.structure.random_graphs import CREATORS, OPERATIONS, Net, example


def a_step(operations):
    return st.tuples(st.sampled_from(operations), st.integers(0, 3), st.integers(0, 3), st.integers(0, 199))


GRAPHS = st.builds(
    lambda kind, first, second, steps: (kind, [first, second, *steps]),
    st.sampled_from(["image", "tokens", "vector"]),
    a_step(("layer",)),
    a_step(("layer", "conv", "functional")),
    st.lists(a_step((*CREATORS, *sorted(OPERATIONS))), min_size=3, max_size=9),
)


def cut_is_exact(kind, steps):
    """How many classes can leave the network, or None where it is refused; whatever leaves, the rest is right."""
    torch.manual_seed(0)
    model, inputs = make_unique(Net(kind, steps)), (example(kind),)
    try:
        structure = trace(model, inputs)
    except TraceError:
        return None
    sizes = {(name, dim): size for name, tensor in tensors(model).items() for dim, size in enumerate(tensor.shape)}
    classes = [[(member.tensor, member.dim, member.index) for member in one.members] for one in structure.classes]
    for part in (0.3, 0.7, 0.9) if classes else ():
        smaller = copy.deepcopy(model)
        cut(structure, smaller, choose(sizes, classes, part, seed=round(10 * part)), None)
        for training in (False, True):
            assert disagreement(model, smaller, inputs, training) <= 1e-9, model.source
        assert attribute_faults(smaller) == []
    return len(classes)


def survey(examples):
    """Cut so many random networks; count those that were cut, left whole and refused, and all classes."""
    found = Counter()

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(GRAPHS)
    def run(graph):
        kind, steps = graph
        note(f"Net({kind!r}, {steps!r})")
        classes = cut_is_exact(kind, steps)
        fate = "refused" if classes is None else "cut" if classes else "whole"
        event(fate)
        found[fate] += 1
        found["classes"] += classes or 0
        found["networks"] += 1

    run()
    return found


def test_random_networks():
    assert_most_are_cut(survey(25))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_random_networks():
    assert_most_are_cut(survey(500))


def assert_most_are_cut(found):
    """Networks that nothing leaves would prove nothing."""
    assert found["cut"] >= 0.8 * found["networks"], found
    assert found["classes"] >= 5 * found["networks"], found
    assert found["refused"] <= 0.02 * found["networks"], found


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_operation_is_made(name):
    """Behind layers that make its operand of any kind, each operation takes part in some network."""
    made = [Net(kind, [("layer", 0, 0, 1), (name, 0, 0, 0)]) for kind in ("image", "tokens", "vector")]
    made.append(Net("image", [("conv", 0, 0, 0), ("place", 0, 0, 2), (name, 0, 0, 0)]))
    assert any(len(net.plan) == 2 + (net is made[-1]) for net in made)
