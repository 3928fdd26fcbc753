"""Loops as people write them: each goes on through the cut as it would without, or is refused with the reason."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from earlycrop import EarlyCropError, Pruner
from earlycrop.units import channels as channels_module
from tests import dense
from tests.small import BATCH, adam, make, momentum, small, train

SINGLE = BATCH[0].float(), BATCH[1]
BOTH = pytest.mark.parametrize("name", ["crop-s", "crop-u"])


def shapes(net: nn.Module) -> dict:
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def masks_hold(pruner: Pruner, net: nn.Module) -> bool:
    if pruner.report.unit == "channels":
        return True
    return all(not net.get_parameter(name)[~keep].any() for name, keep in pruner.units.masks().items())


def single(name: str = "crop-s", **options):
    net = small().float()
    optimizer = momentum(net)
    options = {"batches": [SINGLE], "example_inputs": SINGLE[0][:2]} | options
    return net, optimizer, make(net, optimizer, name, **options)


# Precision --------------------------------------------------------------------------------------------------------


@BOTH
def test_scores_are_those_without_autocast(name):
    _, _, pruner = single(f"{name}-poster")
    plain = pruner.scores()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = pruner.scores()
    assert inside.dtype == torch.float32
    assert torch.equal(plain, inside)


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_with_a_grad_scaler(name, dtype):
    net, optimizer, pruner = single(name)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=2)
    scales = []
    for epoch in range(3):
        if epoch == 1:
            assert pruner.check(epoch)
        for _ in range(2):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=dtype):
                loss = dense.cross_entropy(net.train(), SINGLE)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            assert torch.isfinite(nn.utils.clip_grad_norm_(net.parameters(), 1.0))
            scaler.step(optimizer)
            scaler.update()
        scales.append(scaler.get_scale())
    assert scales == [512.0, 1024.0, 2048.0]  # the scaler's count went through the cut
    assert masks_hold(pruner, net)


@BOTH
def test_a_model_that_is_moved_after_the_pruner_was_made(name):
    net, optimizer, pruner = single(name, loss=lambda m, b: dense.cross_entropy(m, (b[0].to(m.stem.weight), b[1])))
    net.double()
    net.to(memory_format=torch.channels_last)
    assert pruner.check(0)
    assert all(p.dtype == torch.float64 for p in net.parameters())
    for step in range(2):
        optimizer.zero_grad()
        dense.cross_entropy(net, BATCH).backward()
        optimizer.step()
        assert masks_hold(pruner, net)
        if step == 0 and name == "crop-u":
            net.float().double()  # masks are kept by parameter, whatever its type


@BOTH
def test_example_inputs_follow_the_model(name):
    net, _, pruner = single(name)
    net.half().to("meta")  # a device that every machine has
    for inputs in (pruner.units.example_inputs, pruner._scorer.network(pruner.units).example_inputs):
        assert [(t.device.type, t.dtype, t.shape) for t in inputs] == [("meta", torch.float16, SINGLE[0][:2].shape)]


def test_the_proof_is_where_the_model_is(monkeypatch):
    net, _, pruner = single("crop-s-poster")
    net.to("meta")

    def verifier(structure, model, inputs):
        raise NotImplementedError(inputs[0].device.type)

    monkeypatch.setattr(channels_module, "Verifier", verifier)
    with pytest.raises(NotImplementedError, match="meta"):
        pruner.check(0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["crop-s", "crop-u", "synflow"])
def test_a_model_that_goes_to_a_gpu_after_the_pruner_was_made(name):
    net, _, pruner = single(name, loss=lambda m, b: dense.cross_entropy(m, tuple(t.cuda() for t in b)))
    net.cuda()
    assert pruner.check(0)


@BOTH
def test_channels_last_stays(name):
    net, _, pruner = single(name, sparsity=0.3)
    net.to(memory_format=torch.channels_last)
    pruner.check(0)
    wide = [p for p in (net.stem.weight, net.conv1.weight, net.conv2.weight) if min(p.shape[:2]) > 1]
    assert wide
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in wide)
    out = net.stem(SINGLE[0].to(memory_format=torch.channels_last))
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@BOTH
def test_on_a_gpu(name):
    batch = tuple(t.cuda() for t in SINGLE)
    net = small().float().cuda()
    optimizer, scaler = momentum(net), torch.amp.GradScaler("cuda")
    pruner = make(net, optimizer, name, batches=[batch], example_inputs=batch[0][:2])
    for epoch in range(2):
        if epoch:
            pruner.check(epoch)
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16):
            loss = dense.cross_entropy(net, batch)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert pruner.pruned
    assert masks_hold(pruner, net.cpu())


# Steps ------------------------------------------------------------------------------------------------------------


@BOTH
def test_gradients_that_wait_are_gone_at_the_cut_and_accumulation_goes_on(name):
    net = small()
    optimizer = momentum(net)
    pruner = make(net, optimizer, name)
    dense.cross_entropy(net, BATCH).backward()
    before = {parameter: parameter.shape for parameter in net.parameters()}
    pruner.check(0)
    if name == "crop-s":
        assert [p.grad for p, shape in before.items() if p.shape != shape and p.grad is not None] == []
        assert any(p.shape != shape for p, shape in before.items())
    optimizer.zero_grad()
    net.eval()
    for part in ((BATCH[0][:12], BATCH[1][:12]), (BATCH[0][12:], BATCH[1][12:])):
        (0.5 * dense.cross_entropy(net, part)).backward()
    grads = [p.grad.clone() for p in net.parameters()]
    optimizer.zero_grad()
    dense.cross_entropy(net, BATCH).backward()
    for whole, sum_ in zip(net.parameters(), grads, strict=True):
        torch.testing.assert_close(whole.grad, sum_, atol=1e-14, rtol=1e-12)
    optimizer.step()
    assert masks_hold(pruner, net)


@BOTH
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_asked_without_gradients(name, context):
    net = small()
    optimizer = adam(net)
    pruner = make(net, optimizer, name)
    with context():
        plan = pruner.dry_run()
        report = pruner.check(0)
        if name == "crop-u":
            pruner.harvest()
    assert report.after == plan.after
    train(net, optimizer)
    assert not any(p.is_inference() for p in net.parameters())


def test_the_models_mode_does_not_matter():
    kept = []
    for mode in (True, False):
        net = small().train(mode)
        pruner = make(net, None, "crop-s")
        pruner.check(0)
        assert all(module.training is mode for module in net.modules())
        kept.append(pruner.units.keep)
    assert torch.equal(*kept)


@BOTH
def test_groups_schedules_clipping_decay_and_frozen_parameters(name):
    net = small()
    net.norm1.requires_grad_(False)
    optimizer = torch.optim.AdamW(
        [
            {"params": [net.stem.weight, net.conv1.weight, net.conv2.weight], "lr": 0.02, "weight_decay": 0.1},
            {"params": [*net.norm0.parameters(), net.conv2.bias, *net.head.parameters()], "lr": 0.01},
        ]
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
    pruner, rates = make(net, optimizer, name), []
    for epoch in range(6):
        if epoch == 2:
            assert pruner.check(epoch)
        if epoch == 3:
            net.conv1.weight.requires_grad_(False)  # frozen after the cut
            still = net.conv1.weight.detach().clone()
        optimizer.zero_grad()
        dense.cross_entropy(net, BATCH).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimizer.step()
        scheduler.step()
        rates.append([group["lr"] for group in optimizer.param_groups])
    twin = torch.optim.AdamW([{"params": [nn.Parameter(torch.zeros(1))], "lr": 0.02}])
    other = torch.optim.lr_scheduler.CosineAnnealingLR(twin, 6)
    expected = []
    for _ in range(6):
        twin.step()
        other.step()
        expected.append(twin.param_groups[0]["lr"])
    assert [rate for rate, _ in rates] == expected
    assert torch.equal(net.conv1.weight, still)
    assert not net.norm1.weight.requires_grad
    assert masks_hold(pruner, net)


def test_a_pretrained_start_is_the_reference():
    net = small()
    optimizer = adam(net)
    train(net, optimizer, 5)
    start = {name: p.detach().clone() for name, p in net.named_parameters()}
    pruner = make(net, optimizer, "earlycrop-s")
    train(net, optimizer, 1)
    pruner.check(1)
    names = set(dense.prunable(net))
    moved = sum(float((net.get_parameter(n) - start[n]).detach().square().sum()) for n in names)
    size = sum(float(start[n].square().sum()) for n in names)
    assert pruner.curve[0].value == pytest.approx((moved / size) ** 0.5, rel=1e-12)


# Copies -----------------------------------------------------------------------------------------------------------


@BOTH
def test_averages_are_cut_with_the_model_and_go_on(name):
    """Against averages by hand of the same network, which is masked where theirs is cut."""
    net = small()
    optimizer = adam(net)
    ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    best = copy.deepcopy(net)
    pruner = make(net, optimizer, name, copies=[ema, best])
    train(net, optimizer)
    ema.update_parameters(net)
    before, dry = dense.everything(ema), dense.everything(best)
    pruner.dry_run()
    assert (dense.everything(ema), dense.everything(best)) == (before, dry)
    averages = {n: p.detach().clone() for n, p in ema.module.named_parameters()}
    scale = {one.weight: one.factor for one in pruner.check(0).rescaled}
    values = {n: set((p * scale.get(n, 1.0)).flatten().tolist()) for n, p in averages.items()}
    assert shapes(ema.module) == shapes(net) == shapes(best)
    assert all(set(p.flatten().tolist()) <= values[n] | {0.0} for n, p in ema.module.named_parameters())
    old = {n: p.detach().clone() for n, p in ema.module.named_parameters()}
    train(net, optimizer, 1)
    ema.update_parameters(net)
    for n, p in net.named_parameters():
        torch.testing.assert_close(ema.module.get_parameter(n), 0.5 * old[n] + 0.5 * p, atol=1e-14, rtol=1e-12)
    assert masks_hold(pruner, ema.module)
    assert masks_hold(pruner, best)
    if name == "crop-u":
        pruner.harvest()
        assert shapes(ema.module) == shapes(net) == shapes(best)
    best.load_state_dict(net.state_dict())
    assert torch.equal(best.eval()(BATCH[0]), net.eval()(BATCH[0]))


def test_copies_are_cut_all_or_none():
    net = small()
    best = copy.deepcopy(net)
    pruner = make(net, None, "crop-s", copies=[best])
    best.conv1 = nn.Conv2d(8, 5, 3)  # changed behind the pruner's back
    before, other = dense.everything(net), dense.everything(best)
    with pytest.raises(EarlyCropError, match="conv1"):
        pruner.check(0)
    assert dense.everything(net) == before
    assert dense.everything(best) == other
    assert not pruner.pruned


def test_what_is_no_copy_is_refused():
    net = small()
    with pytest.raises(EarlyCropError, match=r"weight.*missing in the copy"):
        make(net, None, "crop-s", copies=[nn.Linear(2, 2)])
    with pytest.raises(EarlyCropError, match="own"):
        make(net, None, "crop-s", copies=[net])


def test_a_copy_made_after_the_masks_holds_no_masks_and_survives_a_file():
    net = small()
    optimizer = adam(net)
    pruner = make(net, optimizer, "crop-u")
    pruner.check(0)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert masks_hold(pruner, twin)
        train(twin, adam(twin), 1)
        assert not masks_hold(pruner, twin)
    train(net, optimizer)
    assert masks_hold(pruner, net)


# Wrappers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@BOTH
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_a_compiled_model_goes_on_compiled(name, backend):
    """The same steps as the plain model's, before the cut and after it."""
    runs = []
    for compiled in (True, False):
        torch._dynamo.reset()
        net = small()
        net.drop = nn.Identity()
        model = torch.compile(net, backend=backend) if compiled else net
        optimizer = adam(net)
        pruner = make(model, optimizer, name)
        assert pruner.model is net
        train(model, optimizer, 2)
        pruner.check(0)
        train(model, optimizer, 2)
        if name == "crop-u":
            pruner.harvest()
            train(model, optimizer, 1)
        runs.append(net)
    assert masks_hold(pruner, net)
    for a, b in zip(*(each.parameters() for each in runs), strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-8)


def test_a_model_wrapped_for_several_devices_is_refused():
    net = small()
    with pytest.raises(EarlyCropError, match=r"(?s)The model is wrapped by DataParallel.*the module inside"):
        make(nn.DataParallel(net), None, "crop-s")
    with pytest.raises(EarlyCropError, match="`0` is wrapped by DataParallel"):
        make(nn.Sequential(nn.DataParallel(net)), None, "crop-s")


@pytest.mark.slow
def test_a_process_group_of_one_is_refused_and_wrapping_anew_works(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        net = small()
        with pytest.raises(EarlyCropError, match="DistributedDataParallel"):
            make(nn.parallel.DistributedDataParallel(net), None, "crop-s")
        optimizer = adam(net)
        make(net, optimizer, "crop-s").check(0)
        wrapped = nn.parallel.DistributedDataParallel(net)
        train(wrapped, optimizer)
    finally:
        torch.distributed.destroy_process_group()


# Hooks ------------------------------------------------------------------------------------------------------------


@BOTH
def test_hooks_of_the_user_stay_and_see_the_small_model(name):
    net = small()
    seen, slopes = [], []
    net.conv1.register_forward_hook(lambda _m, _a, out: seen.append(out.shape[1]))
    net.head.weight.register_hook(lambda slope: slopes.append(tuple(slope.shape)))
    optimizer = adam(net)
    pruner = make(net, optimizer, name)
    pruner.check(0)
    seen.clear(), slopes.clear()
    train(net, optimizer, 1)
    assert seen == [net.conv1.out_channels]
    assert slopes == [tuple(net.head.weight.shape)]
