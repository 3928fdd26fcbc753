"""Texts in figures."""

from typing import Any

AS_IT_IS: dict[str, Any] = {"parse_math": False}
"""For a text with parts from the user, such as a path: a dollar sign in it is a dollar sign, and begins no formula."""
