import torch

from earlycrop_lab.data.balance import balanced, held_out, ranks

LABELS = torch.tensor([0] * 50 + [1] * 10 + [3] * 30)[torch.randperm(90, generator=torch.Generator().manual_seed(5))]


def test_ranks_number_the_samples_of_each_class():
    found = ranks(LABELS, seed=0)
    for label in (0, 1, 3):
        mine = found[label == LABELS]
        assert mine.sort().values.tolist() == list(range(len(mine)))
        assert mine.tolist() != list(range(len(mine)))


def test_a_balanced_part_has_as_many_of_each_class_as_there_can_be():
    assert LABELS[balanced(LABELS, 30, seed=0)].bincount().tolist() == [10, 10, 0, 10]
    assert LABELS[balanced(LABELS, 31, seed=0)].bincount().tolist() == [11, 10, 0, 10]
    assert LABELS[balanced(LABELS, 60, seed=0)].bincount().tolist() == [25, 10, 0, 25]  # one class has no more
    assert LABELS[balanced(LABELS, 85, seed=0)].bincount().tolist() == [45, 10, 0, 30]
    assert balanced(LABELS, 90, seed=0).tolist() == list(range(90))
    assert balanced(LABELS, 999, seed=0).tolist() == list(range(90))


def test_a_smaller_part_lies_within_a_larger_one_and_the_seed_decides():
    small, large = balanced(LABELS, 20, seed=1), balanced(LABELS, 50, seed=1)
    assert set(small.tolist()) < set(large.tolist())
    assert torch.equal(small, balanced(LABELS, 20, seed=1))
    assert not torch.equal(small, balanced(LABELS, 20, seed=2))


def test_the_same_part_of_each_class_is_held_out():
    assert LABELS[held_out(LABELS, 0.2, seed=0)].bincount().tolist() == [10, 2, 0, 6]
    assert LABELS[held_out(LABELS, 0.01, seed=0)].bincount().tolist() == [1, 1, 0, 1]
