"""A data set in memory and the batches made from it.

All images of a split are one uint8 tensor on the device. A batch is a gather, an augmentation and a normalisation of
the whole batch: there is no worker, no queue and no loop over samples.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from earlycrop_lab.data.augmentation import Augmentation
from earlycrop_lab.data.balance import balanced
from earlycrop_lab.data.chance import generator
from earlycrop_lab.names import DataError

Batch = tuple[Float[Tensor, "n c h w"], Int64[Tensor, "n"]]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels of a training and a test split, and how they become batches.

    Args:
        name: Its name on the command line.
        train_images: Square images of pixels from 0 to 255.
        train_labels: Numbers of the classes, from 0.
        test_images: As `train_images`.
        test_labels: As `train_labels`.
        classes: Names of the classes.
        mean: Mean of each channel, for pixels in [0, 1]; subtracted in every batch.
        std: Standard deviation of each channel; every batch is divided by it.
        augmentation: The augmentation of training images.
        resize: Pixels per side of the images in a batch, if not their own size.
        enlargeable: Whether images may be enlarged for a network that needs larger ones.
        note: What readers of results must know about this data set.
    """

    unit: ClassVar[str] = "images"

    name: str
    train_images: UInt8[Tensor, "n c h w"]
    train_labels: Int64[Tensor, "n"]
    test_images: UInt8[Tensor, "m c h w"]
    test_labels: Int64[Tensor, "m"]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation = field(default_factory=Augmentation)
    resize: int | None = None
    enlargeable: bool = False
    note: str = ""

    def __post_init__(self):
        for split, images, labels in (
            ("training", self.train_images, self.train_labels),
            ("test", self.test_images, self.test_labels),
        ):
            if not len(images) or len(images) != len(labels):
                raise DataError(f"The {split} split of {self.name} has {len(images)} images and {len(labels)} labels.")
            if labels.min() < 0 or labels.max() >= len(self.classes):
                raise DataError(
                    f"The {split} labels of {self.name} run from {labels.min()} to {labels.max()}, "
                    f"but there are {len(self.classes)} classes, numbered from 0."
                )

    def __str__(self) -> str:
        sizes = f"{len(self.train_images):,} training and {len(self.test_images):,} test images"
        text = f"{self.name}: {sizes} of {self.size}x{self.size} pixels, {len(self.classes)} classes"
        return f"{text} ({self.note})" if self.note else text

    @property
    def channels(self) -> int:
        """The number of channels of an image."""
        return self.train_images.shape[1]

    @property
    def size(self) -> int:
        """Pixels per side of the images in a batch."""
        return self.resize or self.train_images.shape[-1]

    @property
    def device(self) -> torch.device:
        """The device of the images and the batches."""
        return self.train_images.device

    @property
    def train_size(self) -> int:
        """The number of training images."""
        return len(self.train_labels)

    def to(self, device: torch.device | str) -> "Dataset":
        """The data set on that device."""
        names = ("train_images", "train_labels", "test_images", "test_labels")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def at(self, size: int) -> "Dataset":
        """The data set with images of that size in its batches, in pixels per side."""
        if size < 1:
            raise DataError(f"Images of {self.name} cannot have {size} pixels per side; the least is 1.")
        return replace(self, resize=size)

    def enlarged(self, least: int) -> "Dataset":
        """The data set for a network that needs `least` pixels per side: enlarged if necessary and allowed.

        Only the digits, of eight pixels, allow it. For other data sets the network itself refuses images too small.
        """
        return self.at(least) if self.enlargeable and self.size < least else self

    def subset(self, train_size: int, seed: int = 0) -> "Dataset":
        """The data set with a fixed, class-balanced part of the training split and the whole test split.

        With the same seed, a smaller part is contained in a larger one.

        Raises:
            DataError: There are fewer training images, or a class would have none.
        """
        n, classes = len(self.train_labels), len(self.classes)
        if not classes <= train_size <= n:
            raise DataError(
                f"Cannot train on {train_size:,} images of {self.name}: it has {n:,}, of {classes} classes. "
                f"Use a train size from {classes:,} to {n:,}."
            )
        part = balanced(self.train_labels.cpu(), train_size, seed).to(self.device)
        return replace(self, train_images=self.train_images[part], train_labels=self.train_labels[part])

    def tested_on(self, test_size: int) -> "Dataset":
        """The data set with at most the first `test_size` test images and the whole training split."""
        return replace(self, test_images=self.test_images[:test_size], test_labels=self.test_labels[:test_size])

    def batches(self, batch_size: int, seed: int = 0, part: int = 0, parts: int = 1) -> "Batches":
        """Shuffled and augmented batches of the training split, or one of several parts of each batch."""
        return Batches(self, batch_size, seed, part=part, parts=parts)

    def training_batch(self, which: Int64[Tensor, "b"], chances: Float[Tensor, "b k"]) -> Batch:
        """Training images by index, augmented as the random numbers decide, and their labels."""
        return self.plain(self.augmentation(self.train_images[which], chances)), self.train_labels[which]

    def test_batches(self, batch_size: int = 250) -> Iterator[Batch]:
        """The whole test split in its own order, with the plain transform."""
        for images, labels in zip(self.test_images.split(batch_size), self.test_labels.split(batch_size), strict=True):
            yield self.plain(images), labels

    def scoring_batches(self, samples: int | None = None, seed: int = 0, batch_size: int = 256) -> list[Batch]:
        """A fixed, class-balanced part of the TRAINING split with the plain transform.

        Args:
            samples: The number of samples, at most the training split; by default ten per class and at least 512.
            seed: Seed of the selection.
            batch_size: The most samples in a batch.
        """
        if samples is None:
            samples = max(10 * len(self.classes), 512)
        if samples < 1:
            raise DataError(f"Cannot score on {samples} samples of {self.name}; use 1 or more.")
        part = balanced(self.train_labels.cpu(), samples, seed)
        part = part[torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))]  # mix classes in batches
        return [
            (self.plain(self.train_images[some]), self.train_labels[some])
            for some in part.to(self.device).split(batch_size)
        ]

    def plain(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n c s s"]:
        """The test-time transform: resized to `size` and normalised."""
        pixels = images.float()
        if self.size != images.shape[-1]:
            shrinks = self.size < images.shape[-1]
            pixels = F.interpolate(pixels, (self.size, self.size), mode="bilinear", antialias=shrinks)
        scale, shift = self._normalisation
        return pixels * scale + shift

    @cached_property
    def _normalisation(self) -> tuple[Tensor, Tensor]:
        """(x / 255 - mean) / std as one product and one sum."""
        mean, std = (torch.tensor(values, device=self.device).view(-1, 1, 1) for values in (self.mean, self.std))
        return 1 / (255 * std), -mean / std


class Chances(Protocol):
    """An augmentation, as the source of its random numbers."""

    def draw(self, n: int, generator: torch.Generator) -> Float[Tensor, "n k"]:
        """Random numbers for n samples, on the CPU."""
        ...


class Trainable(Protocol):
    """A data set whose training split makes batches."""

    unit: ClassVar[str]
    """The plural noun for its samples, such as "images"."""

    @property
    def device(self) -> torch.device:
        """The device of the batches."""
        ...

    @property
    def train_size(self) -> int:
        """The number of training samples."""
        ...

    @property
    def augmentation(self) -> Chances:
        """The augmentation of training samples."""
        ...

    def training_batch(self, which: Int64[Tensor, "b"], chances: Float[Tensor, "b k"]) -> Any:
        """Training samples by index, augmented as the random numbers decide."""
        ...


@dataclass(frozen=True, eq=False)
class Batches:
    """The training split, epoch by epoch: shuffled, augmented, normalised; the last, smaller batch is left out.

    An epoch depends only on the seed and its own number, so an interrupted run can resume at any epoch. It is the same
    on every device.

    Args:
        dataset: The data set of the samples.
        batch_size: Samples in each batch; the whole split if that is smaller.
        seed: Decides order and augmentation, together with the epoch's number.
        most: The most batches of an epoch; by default all.
        part: The part of each batch to yield, counted from 0.
        parts: The number of parts into which each batch is divided.
    """

    dataset: Trainable
    batch_size: int
    seed: int = 0
    most: int | None = None
    part: int = 0
    parts: int = 1

    def __post_init__(self):
        if self.batch_size < 1:
            raise DataError(f"A batch cannot have {self.batch_size} {self.dataset.unit}; use 1 or more.")
        object.__setattr__(self, "batch_size", min(self.batch_size, self.dataset.train_size))
        if self.batch_size < self.parts:
            raise DataError(
                f"A batch of {self.batch_size} {self.dataset.unit} cannot be divided between {self.parts} processes."
            )

    def __len__(self) -> int:
        whole = self.dataset.train_size // self.batch_size
        return whole if self.most is None else min(self.most, whole)

    def epoch(self, number: int) -> Iterator[Any]:
        """The batches of an epoch, whose number counts from 0."""
        data, n = self.dataset, self.dataset.train_size
        chance = generator(self.seed, number)
        order = torch.randperm(n, generator=chance).to(data.device)
        chances = data.augmentation.draw(n, chance).to(data.device)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            now = slice(start + self.part, start + self.batch_size, self.parts)
            yield data.training_batch(order[now], chances[now])


def statistics(images: UInt8[Tensor, "n c h w"]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, for pixels in [0, 1]; exact, from counts of the 256 values.

    >>> statistics(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1))
    ((0.5,), (0.5,))
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in images.unbind(1):
        part = channel.flatten().bincount(minlength=256) / channel.numel()
        mean.append((part * values).sum().item())
        std.append((part * (values - mean[-1]) ** 2).sum().sqrt().item())
    return tuple(mean), tuple(std)
