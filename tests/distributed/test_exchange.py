"""What ranks exchange: checksums of tensors, and tensors of every kind."""

import pytest
import torch
import torch.distributed as dist

from earlycrop.distributed import Ranks, checksums


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.complex64, torch.int8])
def test_checksums_see_every_move(dtype):
    before = checksums([("w", torch.ones(4, 3, dtype=dtype)), ("none", torch.empty(0))])
    assert before == checksums([("w", torch.ones(3, 4, dtype=dtype).T), ("none", torch.empty(0))])
    moved = torch.ones(4, 3, dtype=dtype)
    moved[1, 2] = 2
    assert before != checksums([("w", moved), ("none", torch.empty(0))])
    assert before != checksums([("w", torch.ones(12, dtype=dtype)), ("none", torch.empty(0))])


def tensors(rank: int) -> None:
    """All kinds of buffers are shared, whatever they are and however they lie."""
    together = Ranks(dist.group.WORLD)
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.complex64):
        tensor = torch.ones(3, 2).to(dtype).T if rank == 0 else torch.zeros(2, 3).to(dtype)
        together.share([tensor, empty := torch.empty(0)])
        assert bool((tensor == torch.ones(2, 3).to(dtype)).all())
        assert empty.numel() == 0
    assert together.first(torch.tensor([rank, 7], dtype=torch.uint32)).tolist() == [0, 7]
    assert [one.tolist() for one in together.gather(torch.tensor([rank], dtype=torch.uint16))] == [[0], [1]]
    assert together.total(rank, 2.5) == [1, 5.0]
    stored = torch.zeros(1000, 1000)
    (first, name, labels), *_ = together.union([(stored[rank], f"rank {rank}", torch.arange(3))])
    assert name == "rank 0"
    assert len(labels) == 3
    assert first.untyped_storage().nbytes() == 4000  # not what it is a view of


def test_any_tensor_travels(ranks):
    ranks(tensors)
