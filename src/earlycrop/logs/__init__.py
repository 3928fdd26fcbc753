"""What happens in a training, for whoever looks at it while it runs.

Log          the protocol: a look of the detector, a cut, an epoch
Logs         several logs as one; none of them can stop a training
TensorBoard  event files, with `pip install "earlycrop[tensorboard]"`
Wandb        a run of Weights & Biases, with `pip install "earlycrop[wandb]"`
Notebook     a display below a notebook's cell that grows with the training
"""

from earlycrop.logs.log import Log, Logs, LogWarning
from earlycrop.logs.notebook import Notebook
from earlycrop.logs.tensorboard import TensorBoard
from earlycrop.logs.wandb import Wandb

__all__ = ["Log", "LogWarning", "Logs", "Notebook", "TensorBoard", "Wandb"]
