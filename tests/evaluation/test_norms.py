"""What norms with running statistics do while scores are computed."""

import pytest
import torch
from torch import Tensor, nn

from tests import dense
from tests.evaluation.helpers import at_weights, cut, tagged


def test_calibrated_statistics_are_those_of_the_scoring_set():
    net, batch = dense.residual_net(), dense.images(20)
    at = at_weights(net, dense.cross_entropy, [batch], bn_mode="calibrated", micro_batch=3)
    twin = dense.residual_net()
    twin.load_state_dict(net.state_dict())
    for module in twin.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    twin.train()(batch[0])
    _, g, _ = dense.full_hessian(twin.eval(), dense.cross_entropy, batch, dense.prunable(twin))
    torch.testing.assert_close(at.gradient(), g, atol=1e-12, rtol=0)


@pytest.mark.parametrize("sizes", [(300,), (20, 20, 20, 4)])
def test_calibrated_statistics_are_a_mean_by_samples(sizes):
    """A large set in even pieces; one that does not join by its own batches, which count by their sizes."""
    x, y = dense.images(sum(sizes))
    net, pieces = dense.conv_norm_net(), (150, 150) if sizes == (300,) else sizes
    seen = []

    def loss(model, batch):
        if not seen and torch.is_grad_enabled():
            seen.extend(t.clone() for t in (model.norm1.running_mean, model.norm1.running_var))
        return dense.cross_entropy(model, batch[:2])

    at_weights(net, loss, tagged(cut((x, y), *sizes)) if len(sizes) > 1 else [(x, y)], bn_mode="calibrated").gradient()
    created = [net.conv1(part).transpose(0, 1).flatten(1).detach() for part in x.split(list(pieces))]
    mean = sum(part.mean(1) * n for part, n in zip(created, pieces, strict=True)) / len(x)
    var = sum(part.var(1) * n for part, n in zip(created, pieces, strict=True)) / len(x)
    torch.testing.assert_close(seen[0], mean, atol=1e-12, rtol=0)
    torch.testing.assert_close(seen[1], var, atol=1e-12, rtol=0)


def test_batch_mode_uses_the_statistics_of_the_batch():
    net, batch = dense.residual_net(), dense.images()
    at = at_weights(net, dense.cross_entropy, [batch], bn_mode="batch")
    _, g, hessian = dense.full_hessian(net.train(), dense.cross_entropy, batch, dense.prunable(net))
    torch.testing.assert_close(at.gradient(), g, atol=1e-12, rtol=0)
    torch.testing.assert_close(at.hessian_gradient(), hessian @ g, atol=1e-11, rtol=0)


def test_auto_calibrates_norms_that_never_saw_a_batch_and_trusts_others():
    net, batch = dense.conv_norm_net(), dense.images()

    def gradient(mode: str) -> Tensor:
        return at_weights(net, dense.cross_entropy, [batch], bn_mode=mode).gradient()

    assert torch.equal(gradient("auto"), gradient("running"))
    net.norm1.num_batches_tracked.zero_()
    assert torch.equal(gradient("auto"), gradient("calibrated"))
    assert not torch.allclose(gradient("running"), gradient("calibrated"))


def test_a_filter_before_batch_statistics_has_no_scale():
    """8.3: θₖᵀgₖ = 0 and θₖᵀ(Hg)ₖ = −‖gₖ‖², if eps is nothing beside the variance."""
    net, batch = dense.conv_norm_net(torch.relu), dense.images(16)
    net.norm1.eps = 1e-300
    at = at_weights(net, dense.cross_entropy, [batch], bn_mode="batch")
    filters = slice(0, 4 * 18)  # conv1, without a bias
    theta, g, hg = (v[filters].view(4, 18) for v in (at.values, at.gradient(), at.hessian_gradient()))
    assert g.norm() > 1e-3
    torch.testing.assert_close((theta * g).sum(1), torch.zeros(4).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close((theta * hg).sum(1), -g.square().sum(1), atol=1e-12, rtol=0)
