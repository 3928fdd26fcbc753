"""Images and depths: batches, what chance does to both at once, sizes."""

from dataclasses import replace

import pytest
import torch

from earlycrop_lab.data import DataError
from earlycrop_lab.data.pairs import PairAugmentation, Pairs, averaged, resized


@pytest.fixture
def pairs() -> Pairs:
    """20 training pairs of 6x8 pixels and 3x4 depths, 5 test pairs with depths of 9x12; all different."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (25, 3, 6, 8), dtype=torch.uint8, generator=generator)
    return Pairs(
        name="small",
        train_images=pixels[:20],
        train_depths=1 + torch.rand(20, 3, 4, generator=generator),
        test_images=pixels[20:],
        test_depths=1 + torch.rand(5, 9, 12, generator=generator),
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.25, 0.3),
    )


def by_hand(pairs, images):
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (pairs.mean, pairs.std))
    return (images.float() / 255 - mean) / std


def chances(n: int, **said: float) -> torch.Tensor:
    """Each in the middle, where it does nothing but for the enlargement, unless said."""
    names = ("zoom", "row", "column", "mirror", "red", "green", "blue")
    return torch.tensor([[said.get(name, 0.0 if name == "zoom" else 0.5) for name in names]] * n)


def test_an_epoch_shows_each_pair_at_most_once_and_depends_on_seed_and_number_alone(pairs):
    pairs = replace(pairs, augmentation=PairAugmentation(zoom=1.5, flip=True, colour=0.2))
    before = torch.get_rng_state()
    epoch = [list(pairs.batches(6, seed=1).epoch(number)) for number in (0, 1)]
    again = list(pairs.batches(6, seed=1).epoch(1))  # a run goes on here
    assert [len(batches) for batches in epoch] == [3, 3]
    assert all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(epoch[1], again, strict=True))
    assert not torch.equal(epoch[0][0][0], epoch[1][0][0])
    assert torch.equal(torch.get_rng_state(), before)
    plain = replace(pairs, augmentation=PairAugmentation()).batches(6, seed=1).epoch(0)
    depths = torch.cat([y for _, y in plain])
    which = [(pairs.train_depths == depth).all(2).all(1).nonzero().item() for depth in depths]
    assert len(set(which)) == 18


def test_parts_of_a_batch_are_the_batch(pairs):
    whole = list(pairs.batches(6, seed=1).epoch(0))
    halves = [list(pairs.batches(6, seed=1, part=part, parts=2).epoch(0)) for part in (0, 1)]
    for (x, y), (x0, y0), (x1, y1) in zip(whole, *halves, strict=True):
        assert torch.equal(x[::2], x0)
        assert torch.equal(x[1::2], x1)
        assert torch.equal(y[::2], y0)
        assert torch.equal(y[1::2], y1)


def test_without_augmentation_nothing_changes(pairs):
    images, depths = PairAugmentation()(pairs.train_images, pairs.train_depths, torch.rand(20, 7))
    torch.testing.assert_close(images, pairs.train_images.float(), atol=1e-3, rtol=0)
    assert torch.equal(depths, pairs.train_depths)


def test_image_and_depth_are_mirrored_together(pairs):
    flip = PairAugmentation(flip=True)
    for mirror, turned in ((0.2, True), (0.7, False)):
        images, depths = flip(pairs.train_images, pairs.train_depths, chances(20, mirror=mirror))
        expected = [x.flip(-1) if turned else x for x in (pairs.train_images.float(), pairs.train_depths)]
        torch.testing.assert_close(images, expected[0], atol=1e-3, rtol=0)
        assert torch.equal(depths, expected[1])


@pytest.mark.parametrize(("row", "column"), [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0)])
def test_a_corner_enlarged_twice_is_half_as_far(pairs, row, column):
    """Each of its places becomes 2 x 2; the values of a 2x-enlarged corner by hand."""
    zoom = PairAugmentation(zoom=2.0)
    images, depths = zoom(
        pairs.train_images[:, :, :4, :4], pairs.train_depths[:, :2, :4], chances(20, zoom=1.0, row=row, column=column)
    )
    corner = pairs.train_depths[:, row != 0 :, :][:, :1, 2 * (column != 0) :][:, :, :2]
    assert torch.equal(depths, corner.repeat_interleave(2, 1).repeat_interleave(2, 2) / 2)
    # A pixel of the enlarged image lies a quarter between two: 3/4 of one and 1/4 of the other, in both directions.
    top, left = 2 * (row != 0), 2 * (column != 0)
    source = pairs.train_images[:, :, :4, :4].float()
    a, b, c, d = (source[:, :, top + i, left + j] for i in (0, 1) for j in (0, 1))
    torch.testing.assert_close(images[:, :, 1, 1], (9 * a + 3 * b + 3 * c + d) / 16, atol=1e-3, rtol=0)


def test_depths_that_are_not_known_stay_so_and_others_are_never_mixed_with_them(pairs):
    depths = pairs.train_depths.clone()
    depths[:, ::2] = 0
    _, seen = PairAugmentation(zoom=1.5)(pairs.train_images, depths, torch.rand(20, 7))
    assert (seen == 0).any()
    assert seen[seen > 0].min() >= 1 / 1.5


def test_each_colour_grows_brighter_or_darker(pairs):
    colour = PairAugmentation(colour=0.2)
    images, depths = colour(pairs.train_images, pairs.train_depths, chances(20, red=0.0, green=1.0))
    expected = pairs.train_images * torch.tensor([0.8, 1.2, 1.0]).view(3, 1, 1)
    torch.testing.assert_close(images, expected.clamp(max=255), atol=1e-3, rtol=0)
    assert torch.equal(depths, pairs.train_depths)


def test_scoring_batches_are_a_fixed_plain_part_of_the_training_split(pairs):
    pairs = replace(pairs, augmentation=PairAugmentation(zoom=1.5, flip=True, colour=0.2))
    batches = pairs.scoring_batches(10, seed=1, batch_size=4)
    assert [len(x) for x, _ in batches] == [4, 4, 2]
    images, depths = (torch.cat(parts) for parts in zip(*batches, strict=True))
    which = [(pairs.train_depths == depth).all(2).all(1).nonzero().item() for depth in depths]
    assert len(set(which)) == 10
    torch.testing.assert_close(images, by_hand(pairs, pairs.train_images[which]))
    again = pairs.scoring_batches(10, seed=1, batch_size=4)
    assert all(torch.equal(x, u) for (x, _), (u, _) in zip(batches, again, strict=True))
    assert sum(len(x) for x, _ in pairs.scoring_batches()) == 20  # at most the training split
    with pytest.raises(DataError, match="0 pairs"):
        pairs.scoring_batches(0)


def test_test_batches_are_the_test_split_in_order(pairs):
    images, depths = (torch.cat(parts) for parts in zip(*pairs.test_batches(2), strict=True))
    torch.testing.assert_close(images, by_hand(pairs, pairs.test_images))
    assert torch.equal(depths, pairs.test_depths)
    assert torch.equal(next(pairs.tested_on(3).test_batches())[1], pairs.test_depths[:3])


def test_a_subset_is_fixed_and_lies_within_a_larger_one(pairs):
    small, large = (pairs.subset(size, seed=3).train_depths for size in (5, 12))
    assert torch.equal(small, pairs.subset(5, seed=3).train_depths)
    assert all((large == depth).all(2).all(1).sum() == 1 for depth in small)
    for size in (0, 21):
        with pytest.raises(DataError, match="from 1 to 20"):
            pairs.subset(size)


@pytest.mark.parametrize(
    "change",
    [
        {"train_depths": torch.ones(19, 3, 4)},
        {"test_depths": torch.full((5, 9, 12), -1.0)},
        {"test_depths": torch.full((5, 9, 12), torch.nan)},
        {"train_depths": torch.zeros(20, 3, 4)},
        {"test_images": torch.zeros(0, 3, 6, 8, dtype=torch.uint8), "test_depths": torch.zeros(0, 9, 12)},
    ],
    ids=["one missing", "behind the camera", "no numbers", "nothing known", "no test split"],
)
def test_data_that_do_not_agree_are_refused(pairs, change):
    with pytest.raises(DataError, match="small"):
        replace(pairs, **change)


def test_depths_are_averaged_over_what_is_known():
    depths = torch.tensor([[[1.0, 3.0, 0.0, 0.0], [5.0, 0.0, 0.0, 0.0]]])
    assert averaged(depths, (1, 2)).tolist() == [[[3.0, 0.0]]]
    assert averaged(depths[:, :, :2], (1, 1)).tolist() == [[[3.0]]]


def test_images_are_resized_only_if_they_must_be(pairs):
    assert resized(pairs.train_images, (6, 8)) is pairs.train_images
    assert torch.equal(resized(torch.full((1, 3, 6, 8), 200, dtype=torch.uint8), (3, 4)).unique(), torch.tensor([200]))
    assert resized(pairs.train_images, (12, 16)).shape == (20, 3, 12, 16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_epoch_is_the_same_on_every_device(pairs):
    pairs = replace(pairs, augmentation=PairAugmentation(zoom=1.5, flip=True, colour=0.2))
    for (x, y), (u, v) in zip(pairs.batches(6).epoch(1), pairs.to("cuda").batches(6).epoch(1), strict=True):
        torch.testing.assert_close(x, u.cpu(), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(y, v.cpu())
