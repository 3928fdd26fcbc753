"""Language: its figure by hand, its rate, what is scored and when, what leaves, going on after a stop, bad input."""

import copy
import math
import random
from dataclasses import replace

import pytest
import torch
from torch import nn

import earlycrop
from earlycrop import units
from earlycrop.errors import EarlyCropError, ScoreError
from earlycrop_lab.checkpoints import Checkpoints
from earlycrop_lab.comparing.grids import get_preset, runs_of
from earlycrop_lab.data import DataError
from earlycrop_lab.data.text import load
from earlycrop_lab.runs import folder_name, run
from earlycrop_lab.tasks import get_task, plan
from earlycrop_lab.tasks.language import Language, mean_loss, perplexity, prepare, train
from earlycrop_lab.tasks.session import Session
from tests.lab.test_resume import Cut, at_call, numbers
from tests.pruners import make_pruner

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_power_meter(monkeypatch):
    """CodeCarbon takes seconds to begin; it has tests of its own."""
    import codecarbon

    def absent(**_):
        raise OSError("not here")

    monkeypatch.setattr(codecarbon, "OfflineEmissionsTracker", absent)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Language:
    """Five epochs of five steps on sentences of a small grammar."""
    drawn = random.Random(0)
    nouns, verbs = ("cat", "dog", "bird", "fish"), ("sees", "hears", "likes")
    lines = [f"the {drawn.choice(nouns)} {drawn.choice(verbs)} the {drawn.choice(nouns)} .\n\n" for _ in range(260)]
    file = tmp_path_factory.mktemp("text") / "sentences.txt"
    file.write_text("".join(lines))
    return Language("earlycrop-s", 0.5, data=f"text:{file}", width=6, epochs=5, batch_size=4, learning_rate=1e-2)


# The figure -------------------------------------------------------------------------------------------------------


class Known(nn.Module):
    """−log p of a token is its number."""

    def forward(self, tokens):
        return -tokens[:, 1:].float()


def test_perplexity_by_hand_with_a_short_last_chunk():
    """Tokens 1 to 6 in batches of 4 and 2: each token counts once, so the mean of the batches' means would be wrong."""
    batches = [torch.tensor([[9, 1, 2], [2, 3, 4]]), torch.tensor([[4, 5, 6]])]
    assert perplexity(Known(), batches) == pytest.approx(math.exp(21 / 6), rel=1e-12)


def test_perplexity_does_not_depend_on_the_batches(small):
    text, setup = load(small.data), prepare(small, None, CPU)
    model = setup.model.double().train()
    found = [perplexity(model, text.whole(text.test, size)) for size in (1, 2, 100)]
    assert found == pytest.approx([found[0]] * 3, rel=1e-12)
    assert model.training
    assert 1 < found[0] < 2 * len(text.vocabulary)


def test_a_model_that_knows_nothing_is_as_perplexed_as_there_are_words(small):
    setup = prepare(replace(small, network="lstm"), None, CPU)
    with torch.no_grad():
        for parameter in setup.model.parameters():
            parameter.zero_()
    words = len(load(small.data).vocabulary)
    assert setup.evaluate(setup.model) == pytest.approx({"test_perplexity": words, "valid_perplexity": words})


WILD = {"prune_at": 4, "epochs": 8, "learning_rate": 1.0, "clip_norm": 100.0, "seed": 1}
"""Validation perplexity rises in the third epoch, before the cut, and in the seventh, after it."""

# The rate ---------------------------------------------------------------------------------------------------------


class Looks:
    """What each evaluation said."""

    def __init__(self, monkeypatch):
        self.valid: list[float] = []
        evaluate = Session.evaluate

        def noted(session):
            figures = evaluate(session)
            self.valid.append(figures["valid_perplexity"])
            return figures

        monkeypatch.setattr(Session, "evaluate", noted)


def rates(valid: list[float], peak: float) -> list[float]:
    """Of each epoch, from its definition."""
    found = [peak]
    for number in range(1, len(valid)):
        better = valid[number - 1] < min(valid[: number - 1], default=math.inf)
        found.append(found[-1] * (1 if better else 0.25))
    return found


def test_a_quarter_of_the_rate_after_each_epoch_that_does_not_improve(small, monkeypatch):
    looks = Looks(monkeypatch)
    wild = replace(small.dense_twin(), learning_rate=0.3, clip_norm=100.0, epochs=8)
    trained = train(wild)
    assert len(looks.valid) == 8
    expected = rates(looks.valid, 0.3)
    assert [epoch.learning_rate for epoch in trained.epochs] == pytest.approx(expected)
    assert [epoch.first_learning_rate for epoch in trained.epochs] == pytest.approx(expected)
    assert expected[-1] < 0.3


def test_until_the_cut_the_rate_is_constant(small, monkeypatch):
    looks = Looks(monkeypatch)
    trained = train(replace(small, method="snap", **WILD))
    assert trained.report.epoch == 4
    found = [epoch.learning_rate for epoch in trained.epochs]
    assert rates(looks.valid[:4], 1.0)[-1] < 1.0  # it would have fallen
    assert found[:4] == [1.0] * 4
    assert found[4:] == pytest.approx(rates(looks.valid[4:], 1.0))


# What is scored, and what leaves ----------------------------------------------------------------------------------


def test_scores_are_of_the_trained_network_on_the_training_split(small, monkeypatch):
    """The authors' code scores a network that it has just made again."""
    seen, cuts = [], []
    pruner, keep_only = earlycrop.Pruner, units.ChannelUnits.keep_only

    def spied(*args, **options):
        seen.extend(options["scoring"].batches)
        return pruner(*args, **options)

    def noted(self, keep):
        cuts.append((copy.deepcopy(self.model), keep.clone()))
        keep_only(self, keep)

    monkeypatch.setattr(earlycrop, "Pruner", spied)
    monkeypatch.setattr(units.ChannelUnits, "keep_only", noted)
    train(replace(small, method="snap", prune_at=3, max_steps=2))
    monkeypatch.undo()
    text = load(small.data)
    rows = [row for batch in seen for row in batch.tolist()]
    assert len(rows) == 8
    assert all(row in text.chunks(text.train).tolist() for row in rows)

    (model, keep), first = cuts[0], prepare(small, None, CPU).model
    assert all(not torch.equal(a, b) for a, b in zip(model.parameters(), first.parameters(), strict=True))
    options = {"example_inputs": rows_of(seen)[:2], "loss": mean_loss, "batches": seen, "epochs": 5}
    method = replace(earlycrop.get_method("snap"), units=units.Channels(embeddings=True))
    own = make_pruner(model, method, sparsity=0.5, min_channels=0.25, **options)
    own.check(0)
    assert torch.equal(own.units.keep, keep)
    other = make_pruner(first, method, sparsity=0.5, min_channels=0.25, **options)
    other.check(0)
    assert not torch.equal(other.units.keep, keep)  # of the network as it was made others would stay


def rows_of(batches):
    return torch.cat(batches)


def test_weights_of_all_layers_leave_one_by_one_and_the_sentinel_learns(small):
    trained = train(replace(small, method="snip", sparsity=0.6, prune_at=2))
    first = prepare(small, None, CPU).model
    now = dict(trained.model.named_parameters())
    weights = [name for name in now if "weight" in name]
    assert len(weights) == 5
    left = sum(int(now[name].count_nonzero()) for name in weights)
    total = sum(now[name].numel() for name in weights)
    assert left == total - round(0.6 * total)
    assert all(0 < int(now[name].count_nonzero()) < now[name].numel() for name in weights)
    assert trained.report.weight_sparsity == pytest.approx(0.6, abs=1 / total)
    assert bool((now["sentinel"] != first.sentinel).all())


def test_units_and_embedding_really_leave(small):
    trained = train(replace(small, network="lstm", method="snap"))
    model, words = trained.model, len(load(small.data).vocabulary)
    width, hidden = model.embedding.embedding_dim, model.lstm.hidden_size
    assert width < 6 or hidden < 6
    assert model.decoder.weight.shape == (words, hidden)
    counted = words * width + 4 * hidden * (width + hidden) + words * hidden
    before = words * 6 + 4 * 6 * 12 + words * 6
    assert trained.report.weight_sparsity == pytest.approx(1 - counted / before)
    assert trained.report.node_sparsity == pytest.approx(1 - (width + hidden) / 12)
    assert trained.columns.parameters_after == sum(p.numel() for p in model.parameters())
    assert trained.columns.metrics["test_perplexity"] == trained.epochs[-1].test


def test_it_learns_the_grammar(small):
    trained = train(replace(small.dense_twin(), epochs=12, learning_rate=3e-2))
    assert trained.columns.metrics["test_perplexity"] < 3.5  # a word of 14 by chance; 8.9 by frequency
    assert trained.epochs[0].test > 1.5 * trained.epochs[-1].test


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", ["random-u", "snip", "grasp", "crop-u", "synflow", "ntk-sap", "ltr", "random-s", "crop-s", "cropit-s"]
)
@pytest.mark.parametrize("network", ["psmm", "lstm"])
def test_methods_without_norms_and_paths_go_all_the_way(small, method, network):
    trained = train(replace(small, method=method, network=network, max_steps=1, epochs=2))
    assert trained.report.weight_sparsity == pytest.approx(0.5, abs=0.1)
    assert math.isfinite(trained.columns.metrics["test_perplexity"])


def test_methods_of_norms_and_paths_say_what_they_lack(small):
    with pytest.raises(EarlyCropError, match="this Psmm has no norm"):
        train(replace(small, method="earlybird", max_steps=1, epochs=24))
    with pytest.raises(ScoreError, match="paths"):
        train(replace(small, method="px", max_steps=1))


# A run ------------------------------------------------------------------------------------------------------------


def cut_off(folder, d):
    with Checkpoints(folder, of="a test") as checkpoints, pytest.raises(Cut):
        train(d, checkpoints=checkpoints)


@pytest.mark.parametrize(
    ("method", "where", "name", "number"),
    [
        # in the seventh epoch, at whose end the rate falls
        pytest.param("earlycrop-s", torch.Tensor, "backward", 32, marks=pytest.mark.slow),
        ("snip", units.WeightUnits, "keep_only", 1),
    ],
)
def test_cut_off_it_ends_as_if_it_had_not_been(small, method, where, name, number, tmp_path, monkeypatch):
    wild = replace(small, method=method, **(WILD | {"seed": 2} if method == "earlycrop-s" else {"prune_at": 2}))
    whole = train(wild)
    with monkeypatch.context() as patched:
        at_call(patched, where, name, number)
        cut_off(tmp_path, wild)
    with Checkpoints(tmp_path, of="a test") as checkpoints:
        found = train(wild, checkpoints=checkpoints)
        assert checkpoints.attempts == 2
    assert numbers(found) == numbers(whole)
    if method == "earlycrop-s":
        assert [epoch.learning_rate for epoch in whole.epochs] == [1.0] * 7 + [0.25]


def test_a_run_is_kept_with_its_figures(small, tmp_path):
    result = run(small.dense_twin(), tmp_path)
    assert set(result.columns.metrics) == {"test_perplexity", "valid_perplexity"}
    assert run(small.dense_twin(), tmp_path).columns == result.columns


def test_a_smoke_run_ends_early(small):
    setup = prepare(replace(small, max_steps=2, batch_size=1), None, CPU)
    assert len(list(setup.batches.epoch(0))) == 2
    assert [len(batch) for batch in setup.scoring] == [1, 1]
    assert setup.evaluate(setup.model).keys() == {"test_perplexity", "valid_perplexity"}


def test_what_would_leave_is_told_beforehand(small):
    found = str(plan(replace(small, method="crop-s")))
    for layer in ("embedding", "lstm", "query", "decoder"):
        assert layer in found


# Descriptions -----------------------------------------------------------------------------------------------------


def test_the_default_needs_no_download_and_the_full_recipe_is_the_authors():
    usual = Language()
    assert (usual.data, usual.network, usual.width, usual.sparsity) == ("sherlock", "psmm", 128, 0.8)
    assert (usual.min_part, Language(sparsity=0.95).min_part, Language(min_part=0.3).min_part) == (0.1, 0.025, 0.3)
    assert Language(method="snip").min_part is usual.dense_twin().min_part is None
    assert Language(min_channels=8).min_part is None  # what is asked for counts
    assert folder_name(Language(sparsity=0.95)) == "sherlock-psmm-earlycrop-s-0.95-seed0"
    full = runs_of(get_preset("language"))
    recipe = ("network", "width", "epochs", "batch_size", "learning_rate", "clip_norm", "dropout")
    assert {tuple(getattr(d, name) for name in recipe) for d in full} == {("psmm", 300, 30, 128, 1e-3, 0.25, 0.3)}
    assert {
        (d.method[-2:] == "-s" or d.method == "snap", d.target, d.sparsity) for d in full if d.method != "dense"
    } == {
        (True, "node", 0.7),
        (False, "weight", 0.9),
    }
    assert all(d.prune_at is None for d in full)  # the moment is found, not fixed
    assert get_task("language").description is Language
    assert folder_name(Language(method="snap")) == "sherlock-psmm-snap-0.8-seed0"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"network": "psm"}, "Did you mean 'psmm'"),
        ({"data": "ptv"}, "Did you mean 'ptb'"),
        ({"dropout": 1.0}, "dropout is a fraction"),
        ({"width": 0}, "width has to be 1 or more"),
    ],
)
def test_what_cannot_be_described_is_refused(fields, told):
    with pytest.raises(ValueError, match=told):
        Language(**fields)


def test_texts_that_do_not_fit_are_told_before_anything_is_trained(small, tmp_path):
    with pytest.raises(DataError, match="Cannot train on 99,999 tokens"):
        train(replace(small, train_size=99_999))
    with pytest.raises(DataError, match=r"ptb.train.txt is missing"):
        train(Language(data="ptb"), root=str(tmp_path))


@pytest.mark.data
def test_a_smoke_run_on_penn_treebank(data_root):
    smoke = Language(method="crop-s", data="ptb", network="lstm", width=8, batch_size=4, epochs=1, max_steps=1)
    trained = train(smoke, root=str(data_root))
    assert 9_000 < trained.columns.metrics["valid_perplexity"] < 11_000
