"""accelerate: the pruner in a loop that the user wrote around an `Accelerator`.

    prune = Prune(pruner, accelerator)          # after accelerator.prepare
    for epoch in range(epochs):
        report = prune.check(epoch)
        ...
        accelerator.save_state("state")         # accelerator.load_state("state") resumes, before or after the cut

`Accelerator.load_state` loads weights first, so the pruner's state goes through the hooks that accelerate has for that.
"""

from pathlib import Path
from typing import Any

from earlycrop.checkpoint import load_state, save_state
from earlycrop.errors import CheckpointError, EarlyCropError
from earlycrop.integrations.following import Follower
from earlycrop.pruner import Pruner
from earlycrop.report import Report

__all__ = ["Prune"]

FILE = "earlycrop.safetensors"
"""The pruner's state, in the folder of the others."""


class Prune:
    """Asks a pruner without accelerate's mixed precision, logs what it says, and keeps its state with the others.

    Args:
        pruner: The pruner. Its model is the network before or after `prepare`, its optimizer the one before.
        accelerator: The accelerator, whose `save_state` and `load_state` include the pruner from now on.

    Attributes:
        pruner: The pruner.

    Raises:
        EarlyCropError: it is no pruner, or there are several processes.
    """

    def __init__(self, pruner: Pruner, accelerator: Any) -> None:
        self._follower, self._accelerator = Follower(pruner, schedule_from_cut=False), accelerator
        self.pruner = pruner
        if accelerator.num_processes > 1:
            raise EarlyCropError(
                f"This accelerator has {accelerator.num_processes} processes, and what it prepares remembers the "
                f"shapes from before the cut. Use one process, or `Pruner(group=...)` in a loop without accelerate."
            )
        accelerator.register_save_state_pre_hook(self._save)
        accelerator.register_load_state_pre_hook(self._load)

    def check(self, epoch: float, step: int | None = None) -> Report | None:
        """`Pruner.check`; looks and report go to the accelerator's trackers.

        Args:
            epoch: Epochs finished.
            step: The step under which they are logged.

        Returns:
            The report if it cut, else None.
        """
        report, numbers = self._follower.check(epoch)
        if numbers:
            self._accelerator.log(numbers, step=step)
        return report

    def _save(self, models: Any, weights: Any, folder: Any) -> None:
        save_state(self._follower.state_dict(), Path(folder) / FILE)

    def _load(self, models: Any, folder: Any) -> None:
        path = Path(folder) / FILE
        if not path.exists():
            raise CheckpointError(
                f"{folder} has no {FILE}: it was saved before `Prune` joined this accelerator, so what had left is not "
                f"known. Load it without `Prune`, or train from the beginning."
            )
        self._follower.load_state_dict(load_state(path))
