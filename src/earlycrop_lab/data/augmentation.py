"""Random crops, mirror images and rotations of a whole batch at once, on its device.

An augmentation is a pure function of images and of random numbers drawn beforehand, four for each image. The numbers of
a whole epoch are drawn together on the CPU, so an epoch is the same on every device and nothing waits for a transfer.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """A random crop of the image with a black border, then a random horizontal flip, then a random rotation.

    Args:
        pad: Width of the border in pixels; the crop has the image's own size.
        flip: Whether to mirror half of the images.
        degrees: The largest rotation in either direction; pixels are taken from the nearest place.
    """

    pad: int = 0
    flip: bool = False
    degrees: float = 0.0

    @staticmethod
    def draw(n: int, generator: torch.Generator) -> Float[Tensor, "n 4"]:
        """Random numbers for n images: row, column, flip and angle, uniform in [0, 1)."""
        return torch.rand(n, 4, generator=generator)

    def __call__(self, images: UInt8[Tensor, "n c h w"], chances: Float[Tensor, "n 4"]) -> UInt8[Tensor, "n c h w"]:
        """The images, augmented as the random numbers decide."""
        n, c, h, w = images.shape
        row, column, mirror, turn = chances[:, :, None].unbind(1)  # n x 1 each
        places = 2 * self.pad + 1
        rows = torch.arange(h, device=images.device) + (row * places).long().clamp(max=places - 1)
        columns = torch.arange(w, device=images.device).expand(n, w)
        if self.flip:
            columns = torch.where(mirror < 0.5, columns.flip(1), columns)
        columns = columns + (column * places).long().clamp(max=places - 1)

        images = F.pad(images, (self.pad,) * 4)
        which, channel = (torch.arange(k, device=images.device) for k in (n, c))
        images = images[
            which[:, None, None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None]
        ]
        return rotate(images, (2 * turn[:, 0] - 1) * self.degrees) if self.degrees else images


def rotate(images: UInt8[Tensor, "n c h w"], degrees: Float[Tensor, "n"]) -> UInt8[Tensor, "n c h w"]:
    """Each image rotated about its centre, counter-clockwise, by the nearest pixel; black outside the image."""
    angle = degrees.deg2rad()
    cos, sin = angle.cos(), angle.sin()
    h, w = images.shape[-2:]
    zero = torch.zeros_like(cos)  # the grid's coordinates run from -1 to 1 along either side, hence h / w
    turn = torch.stack([cos, -sin * h / w, zero, sin * w / h, cos, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(turn, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, mode="nearest", align_corners=False).to(images.dtype)
