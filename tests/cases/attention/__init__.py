"""Attention: fused, separate, grouped, rotary, written by hand or torch's own. Whole heads may leave."""

from tests.cases.attention import forms, fused, grouped, positions, separate, torch_layers  # noqa: F401
