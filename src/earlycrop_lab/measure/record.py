"""What a run records. Every number has its unit in its name; None means not applicable or not measured."""

from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class History(list[T], Generic[T]):
    """A list of records of one kind that can be saved and restored.

    >>> history = History(Epoch)
    >>> history.append(Epoch(1, "dense", 0.5, None, 0.8, 1e-3, 1e-3, 2.0))
    >>> twin = History(Epoch)
    >>> twin.load_state_dict(history.state_dict())
    >>> twin == history
    True
    """

    def __init__(self, kind: type[T]):
        super().__init__()
        self.kind = kind

    def state_dict(self) -> dict[str, Any]:
        """The records, as plain containers."""
        return {"records": [asdict(record) for record in self]}  # type: ignore[call-overload]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replace the records by those of a state."""
        self[:] = [self.kind(**record) for record in state["records"]]


@dataclass(frozen=True)
class Epoch:
    """One finished epoch.

    Args:
        epoch: Epochs finished, so the first is 1.
        phase: "dense" before the cut, "sparse" after it.
        loss: Mean training loss over the epoch's batches.
        train: The task's main metric on the same batches, so on augmented samples and while the weights move; None
            where it is not computed.
        test: The main metric on the whole test split.
        first_learning_rate: Learning rate of the epoch's first step.
        learning_rate: Learning rate of its last step.
        seconds: Training time since the start: the phases "dense", "scoring" and "sparse", without evaluation.
    """

    epoch: int
    phase: str
    loss: float
    train: float | None
    test: float
    first_learning_rate: float
    learning_rate: float
    seconds: float

    @property
    def figures(self) -> dict[str, float | str | None]:
        """All but the number, by name, for a log."""
        return {name: value for name, value in asdict(self).items() if name != "epoch"}


@dataclass(frozen=True)
class Columns:
    """The columns of the poster's table (Rachwan et al., 2022), and how each is measured here.

    Args:
        metrics: The task's metrics by name, after the last epoch, never of the best one.
        weight_sparsity: Fraction of the prunable weights removed; None for dense.
        node_sparsity: Fraction of the channels removed; None for dense and for masks.
        parameters_before: All parameters of the dense network.
        parameters_after: Parameters after the cut (for masks: those not masked).
        flops_before: FLOPs of one forward pass per example, 2 per multiply-add; None where they cannot be counted.
        flops_after: FLOPs after the cut; masks save none.
        dense_seconds: Training before the cut.
        scoring_seconds: Tracing, the detector's observations, scoring and cutting.
        sparse_seconds: Training after the cut.
        evaluation_seconds: All evaluations; in no other time.
        dense_step_milliseconds: Median training step before the cut.
        dense_step_cpu_milliseconds: The same in CPU time of the process, which other programs do not affect.
        dense_steps_timed: The number of warm steps in that median.
        sparse_step_milliseconds: Median training step after the cut.
        sparse_step_cpu_milliseconds: The same in CPU time of the process.
        sparse_steps_timed: The number of warm steps in that median.
        dense_memory_bytes: Peak live tensor bytes in one training step before the cut, with what the method keeps.
        sparse_memory_bytes: The same after the cut.
        dense_cuda_bytes: Peak bytes allocated by CUDA's allocator in that step, with the data set on the device.
        sparse_cuda_bytes: The same after the cut.
        process_bytes: Peak resident memory of the process, which ran nothing else if `earlycrop` started it.
        disk_bytes: Size of the saved model's file; `earlycrop.save` packs masked layers as values and a bitmap.
        grams_co2: CO₂ equivalent of training and evaluation, in grams.
        kwh: Energy of training and evaluation, in kilowatt hours.
        optimizer_steps: The number of optimizer steps in all.
        inference_milliseconds: Median forward pass of the final network, in eval mode, on a batch of training size.
        attempts: Processes that worked on the run: 1 if it was never interrupted.
        lost_seconds: Work that was lost and done again, and setting up again; in no other time, but its energy is in
            `kwh` and `grams_co2`, at the run's mean power.
        saving_seconds: Writing checkpoints; in no other time.
    """

    metrics: dict[str, float]
    weight_sparsity: float | None
    node_sparsity: float | None
    parameters_before: int
    parameters_after: int
    flops_before: int | None
    flops_after: int | None
    dense_seconds: float
    scoring_seconds: float
    sparse_seconds: float
    evaluation_seconds: float
    dense_step_milliseconds: float | None
    dense_step_cpu_milliseconds: float | None
    dense_steps_timed: int
    sparse_step_milliseconds: float | None
    sparse_step_cpu_milliseconds: float | None
    sparse_steps_timed: int
    dense_memory_bytes: int | None
    sparse_memory_bytes: int | None
    dense_cuda_bytes: int | None
    sparse_cuda_bytes: int | None
    process_bytes: int | None
    disk_bytes: int | None
    grams_co2: float | None
    kwh: float | None
    optimizer_steps: int
    inference_milliseconds: float | None = None
    attempts: int = 1
    lost_seconds: float = 0.0
    saving_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """Training time: the dense phase, scoring and the sparse phase, without evaluation."""
        return self.dense_seconds + self.scoring_seconds + self.sparse_seconds

    @property
    def step_milliseconds(self) -> float | None:
        """Median training step of the final network: after the cut, or dense where nothing was cut."""
        return self.sparse_step_milliseconds or self.dense_step_milliseconds

    @property
    def step_cpu_milliseconds(self) -> float | None:
        """Median training step of the final network in CPU time of the process."""
        return self.sparse_step_cpu_milliseconds or self.dense_step_cpu_milliseconds

    @property
    def memory_bytes(self) -> int | None:
        """Peak live tensor bytes in a training step of the final network."""
        return self.sparse_memory_bytes or self.dense_memory_bytes

    @property
    def cuda_bytes(self) -> int | None:
        """Peak bytes allocated by CUDA's allocator in a training step of the final network."""
        return self.sparse_cuda_bytes or self.dense_cuda_bytes
