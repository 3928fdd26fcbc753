"""The empirical NTK against an explicit Jacobian, and its relative change."""

import pytest
import torch
from torch import nn

from earlycrop import METHODS
from earlycrop.evaluation import MeanLoss
from earlycrop.kernel import empirical_ntk
from earlycrop.timing import KernelChange, Now, NtkSettled
from tests import dense
from tests.pruners import make_pruner


def kernel(net: nn.Module, batches, samples: int, loss=dense.cross_entropy):
    return empirical_ntk(MeanLoss(net, loss, batches, "running"), list(net.parameters()), samples)


@pytest.mark.parametrize("make", [dense.conv_norm_net, dense.residual_net, dense.concat_net])
def test_against_an_explicit_jacobian(make):
    net, batch = make(), dense.images(8)
    before = dense.everything(net)
    found = kernel(net, [batch], 8)
    assert dense.everything(net) == before
    expected = dense.explicit_kernel(net.eval(), batch[0])
    assert found.shape == (24, 24)
    torch.testing.assert_close(found, expected, atol=1e-11, rtol=0)


@pytest.mark.parametrize("sizes", [(64,), (60,), (9, 3), (12,), (4, 4, 4), (8,)])
def test_it_sees_the_first_samples_of_the_set_however_it_is_cut(sizes):
    net, (x, y) = dense.mlp(4, 5, 3), dense.vectors(sum(sizes))
    batches = list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))
    expected = dense.explicit_kernel(net, x[:8])
    torch.testing.assert_close(kernel(net, batches, 8), expected, atol=1e-12, rtol=0)


def test_a_set_smaller_than_asked_is_taken_whole():
    net, batch = dense.mlp(4, 5, 3), dense.vectors(3)
    torch.testing.assert_close(kernel(net, [batch], 8), dense.explicit_kernel(net, batch[0]), atol=1e-12, rtol=0)


def test_parameters_that_the_outputs_do_not_use_add_nothing():
    net, batch = dense.mlp(4, 5, 3), dense.vectors()
    both = dense.Net(lambda n, x: n.used(x), used=net, unused=nn.Linear(2, 2).double())
    torch.testing.assert_close(kernel(both, [batch], 6), dense.explicit_kernel(net, batch[0]), atol=1e-12, rtol=0)


def test_a_linear_network_has_one():
    net, batch = nn.Linear(4, 3).double(), dense.vectors()
    gram = batch[0] @ batch[0].T + 1
    expected = torch.kron(gram, torch.eye(3).double()).detach()
    torch.testing.assert_close(kernel(net, [batch], 6), expected, atol=1e-12, rtol=0)


def test_of_many_outputs_a_block_is_taken():
    """Five of the 24: 0, 4, 9, 14, 19."""
    net, batch = dense.mlp(4, 5, 3), dense.vectors(8)
    few = make_pruner(
        net, "earlycrop-u-ntk", 0.5, example_inputs=batch[0], loss=dense.cross_entropy, batches=[batch], epochs=8
    ).kernel(8, most=5)
    taken = torch.tensor([0, 4, 9, 14, 19])
    expected = dense.explicit_kernel(net, batch[0])[taken][:, taken]
    torch.testing.assert_close(few, expected, atol=1e-12, rtol=0)


def test_the_change_by_hand():
    kernels = iter([torch.diag(torch.tensor([3.0, 4.0])), torch.diag(torch.tensor([3.0, 4.5])), torch.zeros(2, 2)])
    change = KernelChange(lambda: next(kernels))
    assert change.read(1.0) is None
    assert change.read(2.0) == pytest.approx(0.1)
    assert change.read(3.0) == pytest.approx(1.0)


@pytest.mark.parametrize(("change", "fires"), [(0.0999, True), (0.1001, False)])
def test_a_tenth_is_the_limit(change, fires):
    assert NtkSettled().reason(Now(2, None, [change], 0.95)) == ("trigger" if fires else None)
    assert NtkSettled().samples == 8


@pytest.mark.parametrize("what", ["samples", "outputs"])
def test_none_at_all_are_refused(what):
    with pytest.raises(ValueError, match=f"`{what}` counts"):
        NtkSettled(**{what: 0})


@pytest.mark.parametrize("name", ["earlycrop-u-ntk", "earlycrop-s-ntk"])
def test_in_training(name):
    net, batch = dense.mlp(4, 12, 3), dense.vectors(12)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    pruner = make_pruner(
        net,
        name,
        0.5,
        example_inputs=batch[0],
        loss=dense.cross_entropy,
        batches=[batch],
        optimizer=optimizer,
        epochs=99,
    )
    kernels, expected, report = [], [], None
    for epoch in range(1, 9):
        for _ in range(2):
            dense.cross_entropy(net, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
        kernels.append(dense.explicit_kernel(net, batch[0][:8]).detach())
        if len(kernels) > 1:
            expected.append(float((kernels[-1] - kernels[-2]).norm() / kernels[-2].norm()))
        if report := pruner.check(epoch):
            break
    assert METHODS[name].timing == NtkSettled()
    assert [check.value for check in pruner.curve] == pytest.approx(expected, rel=1e-9)
    assert report is not None
    assert report.reason == "trigger"
    assert expected[-1] < 0.1
    assert all(change >= 0.1 for change in expected[:-1])
