"""The command `earlycrop`. This file imports only the standard library, so that it can report what is missing."""

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
"""What the extra `lab` installs: import names, and the names of the packages that provide them."""


def main() -> int:
    """Run the command and return its exit code."""
    missing = [package for name, package in NEEDED.items() if find_spec(name) is None]
    if missing:
        print(
            f"The laboratory needs packages that are not installed: `pip install {' '.join(missing)}`. "
            "(The library itself, `import earlycrop`, works without them.)",
            file=sys.stderr,
        )
        return 1
    # Idle threads sleep instead of spinning: on a shared machine spinning takes CPU time from other processes. OpenMP
    # reads this once, so it has to be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from earlycrop_lab.cli import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
