"""Random networks from short descriptions: any list of steps is a network, so any part of one is one, too.

A step is `(operation, which, other, number)`. `which` counts the values that the operation accepts, from the newest;
`other` does so for a second operand; `number` is read digit by digit for widths, groups and forms. A step that no value
suits does nothing. Values nobody reads become outputs, the three newest of them, each through a layer of its own; what
is older stays a dead end, as dead ends must not disturb either.
"""

from tests.structure.random_graphs import blocks, moves, weighted  # noqa: F401
from tests.structure.random_graphs.net import CREATORS, Net, example, random_steps
from tests.structure.random_graphs.operation import OPERATIONS

__all__ = ["CREATORS", "OPERATIONS", "Net", "example", "random_steps"]
