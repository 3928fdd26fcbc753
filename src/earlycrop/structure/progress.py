"""What tracing says while it works on a large model: lines of the logger `earlycrop`, none where it takes moments."""

import logging
import time

LOG = logging.getLogger("earlycrop")

PATIENCE = 5.0
"""For so many seconds tracing says nothing."""


class Progress:
    """Says at level INFO how far tracing has come, once it has taken longer than a few seconds.

    Args:
        name: Of what is traced.
    """

    def __init__(self, name: str) -> None:
        self.name, self.began = name, time.monotonic()

    def __call__(self, what: str) -> None:
        """Say what begins now."""
        if (seconds := time.monotonic() - self.began) > PATIENCE:
            LOG.info("Tracing %s, %.0f s: %s", self.name, seconds, what)
