"""Rarer constructions, each of which some pruning library once got wrong."""

from tests.cases.traps import norms, parts, sizes, weights  # noqa: F401
