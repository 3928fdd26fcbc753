"""Images and their depths in memory, and the batches made from them.

Images have the size that the network reads and training depths the size that it writes, so that a batch is a gather,
an augmentation and a normalisation, as in `dataset`. Test depths keep their own resolution: errors are measured there.
A depth is along the optical axis, in metres; 0 means unknown.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Num, UInt8
from torch import Tensor

from earlycrop_lab.data.dataset import Batches
from earlycrop_lab.names import DataError

PairBatch = tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "n i j"]]


@dataclass(frozen=True)
class PairAugmentation:
    """Random zoom into a part of the view, flip and colour scaling (Eigen et al., 2014; Laina et al., 2016).

    What is enlarged by s looks s times nearer, so its depths are divided by s. Images are sampled bilinearly, depths
    at the nearest pixel: a depth interpolated between two objects belongs to neither.

    Args:
        zoom: The largest zoom factor; the least is 1.
        flip: Whether to mirror half of the pairs.
        colour: The largest relative change of a colour channel's brightness, up or down.
    """

    zoom: float = 1.0
    flip: bool = False
    colour: float = 0.0

    @staticmethod
    def draw(n: int, generator: torch.Generator) -> Float[Tensor, "n 7"]:
        """Random numbers for n pairs: zoom, row, column, flip and three colours, uniform in [0, 1)."""
        return torch.rand(n, 7, generator=generator)

    def __call__(
        self, images: UInt8[Tensor, "n 3 h w"], depths: Float[Tensor, "n i j"], chances: Float[Tensor, "n 7"]
    ) -> PairBatch:
        """The pairs, augmented as the random numbers decide; pixels still run from 0 to 255."""
        zoom, row, column, mirror = chances[:, :4].unbind(1)
        scale = 1 + zoom * (self.zoom - 1)
        spare = 1 - 1 / scale  # how far the part's centre may be from the view's, whose coordinates run from -1 to 1
        across = torch.where(mirror < 0.5, -1, 1) / scale if self.flip else 1 / scale
        zero = torch.zeros_like(scale)
        part = torch.stack(
            [across, zero, (2 * column - 1) * spare, zero, 1 / scale, (2 * row - 1) * spare], dim=1
        ).view(-1, 2, 3)
        seen = sample(images.float(), part, "bilinear")
        brightness = 1 + (2 * chances[:, 4:] - 1) * self.colour
        seen = (seen * brightness[:, :, None, None]).clamp(max=255)
        return seen, sample(depths[:, None], part, "nearest")[:, 0] / scale[:, None, None]


def sample(maps: Float[Tensor, "n c h w"], part: Float[Tensor, "n 2 3"], mode: str) -> Float[Tensor, "n c h w"]:
    """The part of each map under an affine transform, enlarged to the map's own size."""
    grid = F.affine_grid(part, list(maps.shape), align_corners=False)
    return F.grid_sample(maps, grid, mode=mode, padding_mode="border", align_corners=False)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Images and depths of a training and a test split, and how they become batches.

    Args:
        name: Its name on the command line.
        train_images: Pixels from 0 to 255, at the size of the network's input.
        train_depths: Depths in metres, at the size of the network's output; 0 where unknown.
        test_images: As `train_images`.
        test_depths: Depths in metres, at any size; 0 where unknown.
        mean: Mean of each channel, for pixels in [0, 1]; subtracted in every batch.
        std: Standard deviation of each channel; every batch is divided by it.
        augmentation: The augmentation of training pairs.
        note: What readers of results must know about this data set.
    """

    unit: ClassVar[str] = "pairs"

    name: str
    train_images: UInt8[Tensor, "n 3 h w"]
    train_depths: Float[Tensor, "n i j"]
    test_images: UInt8[Tensor, "m 3 h w"]
    test_depths: Float[Tensor, "m p q"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: PairAugmentation = field(default_factory=PairAugmentation)
    note: str = ""

    def __post_init__(self):
        for split, images, depths in (
            ("training", self.train_images, self.train_depths),
            ("test", self.test_images, self.test_depths),
        ):
            if not len(images) or len(images) != len(depths):
                raise DataError(f"The {split} split of {self.name} has {len(images)} images and {len(depths)} depths.")
            if not (depths.isfinite().all() and depths.min() >= 0 and depths.max() > 0):
                raise DataError(
                    f"The {split} depths of {self.name} run from {depths.min():g} to {depths.max():g}, but a depth is "
                    f"a number of metres above 0, or 0 where it is not known."
                )

    def __str__(self) -> str:
        sizes = f"{len(self.train_images):,} training and {len(self.test_images):,} test pairs"
        text = f"{self.name}: {sizes}, images of {self.size[1]}x{self.size[0]} pixels"
        return f"{text} ({self.note})" if self.note else text

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an image, in pixels."""
        return self.train_images.shape[-2], self.train_images.shape[-1]

    @property
    def device(self) -> torch.device:
        """The device of the pairs and the batches."""
        return self.train_images.device

    @property
    def train_size(self) -> int:
        """The number of training pairs."""
        return len(self.train_images)

    def to(self, device: torch.device | str) -> "Pairs":
        """The data set on that device."""
        names = ("train_images", "train_depths", "test_images", "test_depths")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def subset(self, train_size: int, seed: int = 0) -> "Pairs":
        """The data set with a fixed part of the training split and the whole test split.

        With the same seed, a smaller part is contained in a larger one.

        Raises:
            DataError: There are fewer training pairs.
        """
        if not 1 <= train_size <= self.train_size:
            raise DataError(
                f"Cannot train on {train_size:,} pairs of {self.name}: it has {self.train_size:,}. "
                f"Use a train size from 1 to {self.train_size:,}."
            )
        part = self._part(train_size, seed).sort().values
        return replace(self, train_images=self.train_images[part], train_depths=self.train_depths[part])

    def tested_on(self, test_size: int) -> "Pairs":
        """The data set with at most the first `test_size` test pairs and the whole training split."""
        return replace(self, test_images=self.test_images[:test_size], test_depths=self.test_depths[:test_size])

    def batches(self, batch_size: int, seed: int = 0, part: int = 0, parts: int = 1) -> Batches:
        """Shuffled and augmented batches of the training split, or one of several parts of each batch."""
        return Batches(self, batch_size, seed, part=part, parts=parts)

    def training_batch(self, which: Int64[Tensor, "b"], chances: Float[Tensor, "b 7"]) -> PairBatch:
        """Training pairs by index, augmented as the random numbers decide."""
        images, depths = self.augmentation(self.train_images[which], self.train_depths[which], chances)
        return self.plain(images), depths

    def test_batches(self, batch_size: int = 32) -> Iterator[PairBatch]:
        """The whole test split in its own order, with the plain transform; depths keep their resolution."""
        for images, depths in zip(self.test_images.split(batch_size), self.test_depths.split(batch_size), strict=True):
            yield self.plain(images), depths

    def scoring_batches(self, samples: int = 128, seed: int = 0, batch_size: int = 16) -> list[PairBatch]:
        """A fixed part of the TRAINING split with the plain transform.

        A pair has thousands of depths, so fewer pairs are needed than images with one label each.

        Args:
            samples: The number of pairs, at most the training split.
            seed: Seed of the selection.
            batch_size: The most pairs in a batch.
        """
        if samples < 1:
            raise DataError(f"Cannot score on {samples} pairs of {self.name}; use 1 or more.")
        part = self._part(samples, seed)
        return [(self.plain(self.train_images[some]), self.train_depths[some]) for some in part.split(batch_size)]

    def _part(self, size: int, seed: int) -> Int64[Tensor, "size"]:
        """Indices of a random part of the training split."""
        return torch.randperm(self.train_size, generator=torch.Generator().manual_seed(seed))[:size].to(self.device)

    def plain(self, images: Num[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """The test-time transform: normalised."""
        scale, shift = self._normalisation
        return images.float() * scale + shift

    @cached_property
    def _normalisation(self) -> tuple[Tensor, Tensor]:
        """(x / 255 - mean) / std as one product and one sum."""
        mean, std = (torch.tensor(values, device=self.device).view(-1, 1, 1) for values in (self.mean, self.std))
        return 1 / (255 * std), -mean / std


def resized(images: UInt8[Tensor, "n 3 h w"], size: tuple[int, int]) -> UInt8[Tensor, "n 3 i j"]:
    """The images at that size: bilinear, with antialiasing where they shrink."""
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images.float(), size, mode="bilinear", antialias=True).round().clamp(0, 255).to(torch.uint8)


def averaged(depths: Float[Tensor, "n h w"], size: tuple[int, int]) -> Float[Tensor, "n i j"]:
    """The depths at that size: the mean of the known depths in each area, 0 where none is known."""
    total, known = (
        F.interpolate(each[:, None], size, mode="area")[:, 0] for each in (depths, (depths > 0).to(depths.dtype))
    )
    return torch.where(known > 0, total / known.clamp(min=torch.finfo(known.dtype).tiny), 0)
