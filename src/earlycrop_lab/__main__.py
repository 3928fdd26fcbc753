"""The command `earlycrop`. This file needs nothing but Python, so that it can say what else is needed."""

import os
import sys
from importlib.util import find_spec

NEEDED = ("codecarbon", "matplotlib", "numpy", "PIL", "rich", "sklearn")
"""What the extra `lab` installs, by the names that are imported."""


def main() -> int:
    """Run the command; the exit code."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        print(
            f'The laboratory needs `pip install "earlycrop[lab]"`: {", ".join(missing)} not found. '
            "(The library itself, `import earlycrop`, works without.)",
            file=sys.stderr,
        )
        return 1
    # Threads that wait for work sleep instead of spinning: on a shared machine spinning takes the others' CPUs. It has
    # to be said before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from earlycrop_lab.cli import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
