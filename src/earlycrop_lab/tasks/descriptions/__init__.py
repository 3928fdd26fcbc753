"""What describes the runs of each task: the options of the command, and what is usual for the task's data.

Nothing here needs PyTorch, so that the command can answer at once; what trains is in the task's own file.
"""

from earlycrop_lab.tasks.descriptions.classification import Classification
from earlycrop_lab.tasks.descriptions.control import Control
from earlycrop_lab.tasks.descriptions.depth import Depth
from earlycrop_lab.tasks.descriptions.language import Language

__all__ = ["Classification", "Control", "Depth", "Language"]
