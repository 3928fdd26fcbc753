"""The command `earlycrop`. This file needs nothing but Python, so that it can say what else is needed."""

import os
import sys
from importlib.util import find_spec

NEEDED = {
    "codecarbon": "codecarbon",
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "PIL": "pillow",
    "rich": "rich",
    "sklearn": "scikit-learn",
}
"""What the extra `lab` installs: the names that are imported, and those of the packages."""


def main() -> int:
    """Run the command; the exit code."""
    missing = [package for name, package in NEEDED.items() if find_spec(name) is None]
    if missing:
        print(
            f"The laboratory needs more than there is here: `pip install {' '.join(missing)}`. "
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
