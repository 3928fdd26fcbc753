"""The loss when one layer alone loses its worst units, against a slow loop that masks by hand in float64."""

import copy
import json

import pytest
import torch

from earlycrop import Budget, Pruner, Scoring, Sensitivity
from earlycrop.errors import BudgetError, EarlyCropError
from tests import dense
from tests.small import BATCH, adam, small, train

SPARSITIES = (0.1, 0.34, 0.5, 0.75, 0.95)


def pruner_of(net, method: str, batch, **options) -> Pruner:
    scoring = Scoring(dense.cross_entropy, [batch], micro_batch=7)
    return Pruner(net, method, Budget(0.5), example_inputs=batch[0][:2], scoring=scoring, **options)


@torch.no_grad()
def loss_of(net, batch) -> float:
    return float(dense.cross_entropy(net.eval(), batch))


@pytest.mark.parametrize("method", ["snip", "magnitude-u"])
def test_single_weights_masked_by_hand(method):
    torch.manual_seed(3)
    net, batch = dense.mlp(4, 7, 6, 3), dense.vectors(20)
    pruner = pruner_of(net, method, batch)
    found = pruner.sensitivity(sparsities=SPARSITIES)
    scores = dict(zip(("0", "2", "4"), pruner.scores().split([28, 42, 18]), strict=True))
    assert found.whole == pytest.approx(loss_of(net, batch), abs=1e-12)
    assert [(probe.layers, probe.sparsity) for probe in found.probes] == [((n,), s) for n in scores for s in SPARSITIES]
    for probe in found.probes:
        masked, (name,) = copy.deepcopy(net), probe.layers
        gone = round(probe.sparsity * len(scores[name]))
        for place in sorted(range(len(scores[name])), key=lambda i: (scores[name][i].item(), -i))[:gone]:
            masked.get_submodule(name).weight.data.view(-1)[place] = 0
        assert probe.after == probe.before - gone
        assert probe.value == pytest.approx(loss_of(masked, batch), abs=1e-12)


@pytest.mark.parametrize("method", ["snap", "magnitude-s"])
def test_channels_closed_by_hand(method):
    torch.manual_seed(4)
    net, batch = dense.mlp(4, 7, 6, 3), dense.vectors(20)
    pruner = pruner_of(net, method, batch)
    found = pruner.sensitivity(sparsities=SPARSITIES)
    scores, tensors = pruner.scores(), pruner.units.structure.tensors
    for probe in found.probes:
        closed, (name,) = copy.deepcopy(net), probe.layers
        classes = tensors[f"{name}.weight"].classes[0].tolist()
        gone = min(round(probe.sparsity * len(classes)), len(classes) - 1)
        for place in sorted(range(len(classes)), key=lambda i: (scores[classes[i]].item(), -i))[:gone]:
            closed.get_submodule(str(int(name) + 2)).weight.data[:, place] = 0  # nobody reads it
        assert (probe.before, probe.after) == (len(classes), len(classes) - gone)
        assert probe.value == pytest.approx(loss_of(closed, batch), abs=1e-12)
    assert list(found.by_layer) == [("0",), ("2",)]  # the last one's are outputs


def test_coupled_layers_lose_the_same_channels_and_are_one_row():
    net = small()
    found = pruner_of(net, "crop-s", BATCH).sensitivity(sparsities=(0.5,))
    stream, inner = sorted(found.probes, key=lambda probe: -len(probe.layers))
    assert (stream.layers, stream.before, stream.after) == (("stem", "conv2"), 8, 4)
    assert (inner.layers, inner.before, inner.after) == (("conv1",), 6, 3)


def test_any_figure_may_be_measured_and_the_same_width_only_once():
    seen, steps = [], []

    def width_of_the_stem(model) -> float:
        assert not model.training
        assert not torch.is_grad_enabled()
        for parameter in model.parameters():
            parameter.zero_()  # whatever is done to the copy
        seen.append(model.stem.out_channels)
        return seen[-1]

    net = small().train()
    before = dense.everything(net)
    found = pruner_of(net, "crop-s", BATCH).sensitivity(
        width_of_the_stem, (0.0, 0.5, 0.51, 0.99), lambda done, of: steps.append((done, of))
    )
    assert found.figure == "width_of_the_stem"
    assert found.whole == 8
    assert [probe.value for probe in found.by_layer["stem", "conv2"]] == [8, 4, 4, 1]
    assert [probe.value for probe in found.by_layer[("conv1",)]] == [8, 8, 8, 8]
    assert len(seen) == 1 + 2 + 2
    assert steps == [(done, 8) for done in range(1, 9)]
    assert dense.everything(net) == before
    assert net.training


@pytest.mark.parametrize("method", ["crop-s", "crop-u", "earlycrop-s"])
def test_everything_is_as_it_was_and_the_pruner_goes_on(method):
    def cut(ask: bool):
        net = small()
        optimizer = adam(net)
        train(net, optimizer)
        pruner = pruner_of(net, method, BATCH, optimizer=optimizer, epochs=8)
        if ask:
            before = dense.everything(net, optimizer)
            pruner.sensitivity(sparsities=(0.5,))
            assert dense.everything(net, optimizer) == before
        pruner.check(0)
        train(net, optimizer)
        return {name: tensor.tolist() for name, tensor in net.state_dict().items()}

    assert cut(ask=True) == cut(ask=False)


def test_after_a_cut_it_is_about_what_is_left():
    for method in ("crop-s", "crop-u"):
        pruner = pruner_of(small(), method, BATCH)
        pruner.check(0)
        found = pruner.sensitivity(sparsities=(0.5,))
        assert sum(probe.before for probe in found.probes) == int(pruner.units.alive.sum())


def test_the_answer_as_text_and_as_numbers():
    found = pruner_of(dense.mlp(4, 7, 6, 3), "snap", dense.vectors(20)).sensitivity(sparsities=(0.25, 0.5))
    again = Sensitivity.from_dict(json.loads(json.dumps(found.as_dict())))
    assert again == found
    assert again.sparsities == (0.25, 0.5)
    head, columns, first, second = str(found).splitlines()
    assert head == f"loss when one layer loses its lowest channels by snap; {found.whole:.4g} with all"
    assert columns.split() == ["layer", "channels", "25", "%", "50", "%"]
    assert first.split() == ["0", "7", *(f"{probe.value:.4g}" for probe in found.probes[:2])]
    assert second.split()[0] == "2"


def test_what_cannot_be_asked():
    net, batch = dense.mlp(4, 7, 3), dense.vectors(20)
    with pytest.raises(BudgetError, match=r"found 1\.0"):
        pruner_of(net, "snap", batch).sensitivity(sparsities=(0.5, 1.0))
    with pytest.raises(EarlyCropError, match="give `scoring="):
        Pruner(net, "magnitude-s", 0.5, example_inputs=batch[0][:2], epochs=4).sensitivity()
