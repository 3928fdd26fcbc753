from dataclasses import replace
from itertools import islice

import pytest
import torch
import torch.nn.functional as F

from earlycrop_lab.data import Augmentation, DataError


def by_hand(dataset, images):
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (dataset.mean, dataset.std))
    return (images.float() / 255 - mean) / std


def indices(dataset, images) -> list[int]:
    """Which training images these normalised ones are."""
    distances = (images[:, None] - by_hand(dataset, dataset.train_images)).flatten(2).abs().amax(2)
    assert distances.amin(1).max() < 1e-4
    return distances.argmin(1).tolist()


def test_an_epoch_shows_each_image_at_most_once_with_its_label(small):
    seen = []
    for images, labels in small.batches(16, seed=0).epoch(0):
        which = indices(small, images)
        assert images.shape == (16, 3, 8, 8)
        assert torch.equal(small.train_labels[which], labels)
        seen += which
    assert len(seen) == len(set(seen)) == 80  # five batches; the ten left over make no batch
    assert len(small.batches(16)) == 5


def test_an_epoch_depends_on_the_seed_and_its_number_alone(small):
    small = replace(small, augmentation=Augmentation(pad=1, flip=True))
    before = torch.get_rng_state()
    batches = small.batches(16, seed=3)
    epochs = [torch.cat([x for x, _ in batches.epoch(number)]) for number in range(3)]
    assert torch.equal(torch.cat([x for x, _ in small.batches(16, seed=3).epoch(2)]), epochs[2])  # a run goes on here
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(torch.cat([x for x, _ in small.batches(16, seed=4).epoch(0)]), epochs[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_an_epoch_augments(small):
    plain = next(small.batches(90, seed=0).epoch(0))
    moved = next(replace(small, augmentation=Augmentation(pad=2)).batches(90, seed=0).epoch(0))
    assert torch.equal(plain[1], moved[1])
    assert not torch.equal(plain[0], moved[0])


def test_an_epoch_may_end_early_with_the_batches_that_it_begins_with(small):
    whole, early = small.batches(16, seed=3), replace(small.batches(16, seed=3), most=2)
    assert len(early) == 2
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(list(whole.epoch(1))[:2], early.epoch(1), strict=True))
    assert len(replace(whole, most=99)) == len(whole) == 5


def test_the_test_split_may_be_shortened(small):
    short = small.tested_on(7)
    assert torch.equal(short.test_images, small.test_images[:7])
    assert sum(len(y) for _, y in short.test_batches()) == 7
    assert torch.equal(short.train_images, small.train_images)


def test_a_batch_is_no_larger_than_the_training_split(small):
    assert len(small.batches(256)) == 1
    assert next(small.batches(256).epoch(0))[0].shape[0] == 90
    with pytest.raises(DataError, match="0 images"):
        small.batches(0)


def test_test_batches_are_the_test_split_in_order(small):
    images, labels = (torch.cat(parts) for parts in zip(*small.test_batches(7), strict=True))
    torch.testing.assert_close(images, by_hand(small, small.test_images))
    assert torch.equal(labels, small.test_labels)


def test_scoring_batches_are_a_fixed_balanced_plain_part_of_the_training_split(small):
    small = replace(small, augmentation=Augmentation(pad=4, flip=True))
    batches = small.scoring_batches(samples=30, batch_size=8)
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    which = indices(small, images)  # plain ones of the training split
    assert len(set(which)) == 30
    assert torch.equal(small.train_labels[which], labels)
    assert labels.bincount().tolist() == [10, 10, 10]
    assert [len(y) for _, y in batches] == [8, 8, 8, 6]
    again = torch.cat([x for x, _ in small.scoring_batches(samples=30, batch_size=30)])
    assert torch.equal(again, images)  # however they are cut into batches
    assert not torch.equal(torch.cat([x for x, _ in small.scoring_batches(samples=30, seed=1)]), images)


def test_scoring_never_sees_the_test_split(small):
    small = replace(small, train_images=torch.full_like(small.train_images, 10), mean=(0,) * 3, std=(1 / 255,) * 3)
    assert all(x.sub(10).abs().max() < 1e-4 for x, _ in small.scoring_batches())


def test_the_scoring_set_has_ten_of_each_class_and_512_at_least(small):
    def size(n: int, classes: int) -> int:
        labels = torch.arange(n) % classes
        data = replace(
            small,
            train_images=torch.zeros(n, 1, 1, 1, dtype=torch.uint8),
            train_labels=labels,
            classes=tuple(str(i) for i in range(classes)),
            mean=(0.0,),
            std=(1.0,),
        )
        return sum(len(y) for _, y in data.scoring_batches())

    assert size(3000, 10) == 512
    assert size(3000, 100) == 1000
    assert size(300, 100) == 300  # at most the training split
    with pytest.raises(DataError, match="0 samples"):
        small.scoring_batches(samples=0)


def test_a_subset_is_fixed_and_balanced_and_leaves_the_test_split(small):
    part = small.subset(30)
    assert part.train_labels.bincount().tolist() == [10, 10, 10]
    assert torch.equal(part.train_images, small.subset(30).train_images)
    assert torch.equal(part.test_images, small.test_images)
    assert len(part.batches(16)) == 1


@pytest.mark.parametrize("train_size", [2, 91, 0, -5])
def test_a_subset_that_cannot_be_is_refused(small, train_size):
    with pytest.raises(DataError, match="from 3 to 90"):
        small.subset(train_size)


def test_images_are_enlarged_only_where_that_is_allowed(small):
    assert small.enlarged(16) is small
    digits = replace(small, enlargeable=True)
    assert digits.enlarged(4) is digits
    large = digits.enlarged(16)
    assert large.size == 16
    images, _ = next(large.test_batches())
    expected = F.interpolate(large.test_images.float(), (16, 16), mode="bilinear")
    torch.testing.assert_close(images, by_hand(large, expected))
    assert next(large.batches(4).epoch(0))[0].shape == (4, 3, 16, 16)
    assert large.scoring_batches(4)[0][0].shape == (4, 3, 16, 16)


def test_images_can_be_made_smaller(small):
    assert next(small.at(4).test_batches())[0].shape[-2:] == (4, 4)
    with pytest.raises(DataError, match="0 pixels"):
        small.at(0)


@pytest.mark.parametrize(
    "change",
    [
        {"train_labels": torch.full((90,), 3)},
        {"test_labels": torch.full((30,), -1)},
        {"train_labels": torch.zeros(89, dtype=torch.long)},
        {"test_images": torch.zeros(0, 3, 8, 8, dtype=torch.uint8), "test_labels": torch.zeros(0, dtype=torch.long)},
    ],
    ids=["label too large", "label below 0", "label missing", "no test split"],
)
def test_data_that_do_not_agree_are_refused(small, change):
    with pytest.raises(DataError, match="small"):
        replace(small, **change)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_epoch_is_the_same_on_every_device(small):
    small = replace(small, augmentation=Augmentation(pad=2, flip=True, degrees=10))
    here, there = (list(islice(data.batches(16).epoch(1), 3)) for data in (small, small.to("cuda")))
    for (x, y), (u, v) in zip(here, there, strict=True):
        assert u.is_cuda
        torch.testing.assert_close(x, u.cpu())
        assert torch.equal(y, v.cpu())
