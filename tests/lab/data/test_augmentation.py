"""The batched augmentation against the same done image by image."""

import pytest
import torch
import torch.nn.functional as F

from earlycrop_lab.data import Augmentation
from earlycrop_lab.data.augmentation import rotate


def images(n: int, c: int = 3, side: int = 6) -> torch.Tensor:
    return torch.randint(1, 256, (n, c, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def one_by_one(augmentation: Augmentation, batch: torch.Tensor, chances: torch.Tensor) -> torch.Tensor:
    result = []
    for image, (row, column, mirror, _) in zip(batch, chances.tolist(), strict=True):
        places, side = 2 * augmentation.pad + 1, image.shape[-1]
        top, left = int(row * places), int(column * places)
        crop = F.pad(image, (augmentation.pad,) * 4)[:, top : top + side, left : left + side]
        result.append(crop.flip(-1) if augmentation.flip and mirror < 0.5 else crop)
    return torch.stack(result)


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(pad=2), Augmentation(pad=1, flip=True)], ids=str)
def test_a_batch_is_augmented_as_its_images_are_one_by_one(augmentation):
    batch = images(50)
    chances = augmentation.draw(50, torch.Generator().manual_seed(1))
    assert torch.equal(augmentation(batch, chances), one_by_one(augmentation, batch, chances))


def test_every_crop_and_its_mirror_image_occur_equally_often():
    image = images(1, c=1).expand(9000, -1, -1, -1)
    augmentation = Augmentation(pad=1, flip=True)
    seen = augmentation(image, augmentation.draw(9000, torch.Generator().manual_seed(1)))
    kinds, counts = seen.flatten(1).unique(dim=0, return_counts=True)
    assert len(kinds) == 18
    assert counts.min() > 400
    assert counts.max() < 600


def test_the_largest_number_below_one_is_still_inside():
    chances = torch.full((1, 4), 1 - 2**-24)
    augmentation = Augmentation(pad=8)
    assert augmentation(images(1), chances).eq(0).any()  # and no index error


@pytest.mark.parametrize("side", [5, 6])
def test_rotation_by_a_right_angle_is_exact(side):
    batch = images(3, side=side)
    assert torch.equal(rotate(batch, torch.tensor([0.0, 90.0, -90.0]))[0], batch[0])
    assert torch.equal(rotate(batch, torch.tensor([0.0, 90.0, -90.0]))[1], batch[1].rot90(1, (1, 2)))
    assert torch.equal(rotate(batch, torch.tensor([0.0, 90.0, -90.0]))[2], batch[2].rot90(-1, (1, 2)))


def test_a_small_rotation_moves_the_corners_out():
    turned = Augmentation(degrees=15)(images(1, side=32), torch.tensor([[0.0, 0.0, 0.0, 0.999]]))
    assert turned[0, :, 0, 0].eq(0).all()
    assert turned[0, :, 14:18, 14:18].gt(0).all()
