"""Parts of a network lose on two ranks what they lose in one process on the union of the batches."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from earlycrop import Pruner, RankError, Report
from earlycrop.errors import BudgetError
from tests import dense
from tests.distributed.helpers import EVEN, ONE_SIDED, UNEVEN, make, met, parts
from tests.small import momentum, small

PARTS = {"stem": 0.5, "conv1": 2 / 3}


def cut(net: nn.Module, method: str, batches, **options) -> tuple[dict, Report, dict[str, Tensor], Tensor]:
    """The plan, the report, and what is left."""
    pruner = make(net, method, batches, parts=PARTS, **options)
    plan = pruner.dry_run().as_dict()
    report = next(filter(None, (pruner.check(epoch) for epoch in range(8))))
    assert pruner.done
    plan = {name: plan[name] for name in ("parts", "before", "after")}  # sums in another order end in other bits
    return plan, replace(report, seconds=0.0, verification=None), dict(net.named_parameters()), pruner.units.keep


def cut_together(rank: int, method: str, sizes: list[list[int]], target: str):
    return cut(met(), method, parts(sizes)[rank], target=target, group=dist.group.WORLD)


@pytest.mark.parametrize("sizes", [EVEN, UNEVEN, ONE_SIDED])
@pytest.mark.parametrize(
    ("method", "target"),
    [
        *(("crop-s", "weight"), ("crop-s", "flops"), ("cropit-s", "weight"), ("earlycrop-s", "weight")),
        *(("crop-u", "weight"), ("cropit-u", "params"), ("earlycrop-u", "weight")),
    ],
)
def test_each_part_loses_what_it_loses_in_one_process(ranks, method, target, sizes):
    zero, one = ranks(cut_together, method, sizes, target)
    alone = cut(met(), method, [batch for part in parts(sizes) for batch in part], target=target)
    assert [part.part for part in alone[1].parts] == ["stem", "conv1", "the rest"]
    for part in alone[1].parts[:2]:
        assert abs(part.sparsity - part.requested) < 0.25
    for found in (zero, one):
        assert found[0] == alone[0]
        assert found[1].parts == alone[1].parts
        assert found[1].widths == alone[1].widths
        assert torch.equal(found[3], alone[3])
        for name, parameter in alone[2].items():
            assert torch.equal(found[2][name], parameter)
    assert repr(zero[1]) == repr(one[1])


def trained(rank: int | None, method: str) -> tuple[dict[str, Tensor], tuple]:
    """Steps before and after the cut, on one half of the batch or on the whole."""
    net = small().eval()  # so that both halves meet the same norms
    net.drop.p = 0.0
    optimizer = momentum(net)
    (first,), (second,) = parts([[8], [8]])
    whole = tuple(torch.cat(pair) for pair in zip(first, second, strict=True))
    batch, group = (whole, None) if rank is None else ((first, second)[rank], dist.group.WORLD)
    pruner = make(net, method, [batch], parts=PARTS, optimizer=optimizer, group=group)
    for epoch in range(4):
        pruner.check(epoch)
        subject = net if rank is None else DistributedDataParallel(net)
        for _ in range(3):
            optimizer.zero_grad()
            dense.cross_entropy(subject, batch).backward()
            optimizer.step()
    assert pruner.done
    return dict(net.named_parameters()), pruner.report.parts


@pytest.mark.parametrize("method", ["earlycrop-s", "earlycrop-u"])
def test_training_through_the_cut_is_that_of_one_process(ranks, method):
    alone, counted = trained(None, method)
    for found, here in ranks(trained, method):
        assert here == counted
        for name, parameter in alone.items():
            torch.testing.assert_close(found[name], parameter, rtol=0, atol=1e-9)


def restored(rank: int, method: str) -> bool:
    """A state goes to a new pruner on the same rank."""
    pruner = make(small(), method, parts(UNEVEN)[rank], parts=PARTS, group=dist.group.WORLD)
    pruner.check(0)
    again = make(small(), method, parts(UNEVEN)[rank], parts=PARTS, group=dist.group.WORLD)
    again.load_state_dict(pruner.state_dict())
    return again.report == pruner.report and torch.equal(again.units.keep, pruner.units.keep)


@pytest.mark.parametrize("method", ["crop-s", "crop-u"])
def test_a_state_with_parts_continues_on_every_rank(ranks, method):
    assert ranks(restored, method) == [True, True]


def unlike(rank: int) -> None:
    make(small(), "crop-s", parts(EVEN)[rank], parts={"stem": 0.5 + 0.1 * rank}, group=dist.group.WORLD)


def out_of_reach(rank: int) -> None:
    make(small(), "crop-s", parts(EVEN)[rank], parts={"conv1": 0.999}, group=dist.group.WORLD)


def test_parts_that_differ_or_are_out_of_reach_are_refused_on_every_rank(ranks):
    for error in ranks.outcomes(unlike):
        assert isinstance(error, RankError)
        assert "budget is" in str(error)
        assert "parts={'stem': 0.6}" in str(error)
    for error in ranks.outcomes(out_of_reach):
        assert isinstance(error, BudgetError)


def turned(rank: int) -> tuple:
    given = [*PARTS.items()][:: -1 if rank else 1]
    pruner: Pruner = make(met(), "crop-s", parts(EVEN)[rank], parts=dict(given), group=dist.group.WORLD)
    return pruner.check(0).parts


def test_equal_budgets_may_list_their_parts_in_any_order(ranks):
    zero, one = ranks(turned)
    assert sorted(zero, key=lambda part: part.part) == sorted(one, key=lambda part: part.part)
