"""Pruned Hugging Face models as folders: what was saved is loaded, the configuration is true, and nothing is drawn."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from earlycrop import Budget, CheckpointError, Pruner
from tests.integrations.words import IDS, LABELS, bert, gpt2, llama

transformers = pytest.importorskip("transformers")

from earlycrop.integrations.transformers import load, save

pytestmark = pytest.mark.filterwarnings("ignore")  # the frameworks' own


def pruned(model: Any, method: str = "random-s", sparsity: Any = 0.4, **options: Any) -> Any:
    Pruner(model, method, sparsity, example_inputs={"input_ids": IDS[:2]}, **options).check(0)
    return model.eval()


def configuration(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def refused(kind: Any, folder: Path) -> None:
    for options in ({}, {"ignore_mismatched_sizes": True}):
        for loader in (kind, transformers.AutoModel):
            with pytest.raises(ValueError, match="quant_method"):
                loader.from_pretrained(folder, **options)


@pytest.mark.parametrize("build", [gpt2, bert, llama])
def test_there_and_back_and_again(build, tmp_path):
    model = pruned(build())
    save(model, tmp_path / "a")
    found = load(tmp_path / "a")
    assert type(found) is type(model)
    assert torch.equal(found(IDS).logits, model(IDS).logits)
    save(found, tmp_path / "b")
    assert configuration(tmp_path / "a") == configuration(tmp_path / "b")
    assert torch.equal(load(tmp_path / "b")(IDS).logits, model(IDS).logits)
    found.train()(IDS, labels=LABELS if build is bert else IDS).loss.backward()
    refused(type(model), tmp_path / "a")


def test_what_a_configuration_can_say_it_says_and_the_folder_is_like_any_other(tmp_path):
    layers = [f"model.layers.{number}" for number in range(2)]
    coupled = [tuple(f"{layer}.mlp.gate_proj" for layer in layers)]
    model = pruned(llama(), sparsity=0.15, coupled=coupled, ignore=[f"{layer}.self_attn" for layer in layers])
    (width,) = {layer.mlp.gate_proj.out_features for layer in model.model.layers}
    assert width < 24
    save(model, tmp_path, inputs={"input_ids": IDS})
    assert configuration(tmp_path)["intermediate_size"] == width
    assert "earlycrop" not in configuration(tmp_path)
    for found in (load(tmp_path), type(model).from_pretrained(tmp_path)):
        assert torch.equal(found(IDS).logits, model(IDS).logits)


def test_the_hidden_size_is_true_though_layers_differ_inside(tmp_path):
    """The stream is one for all layers; rounded, it can be divided by the number of heads, as the class demands."""
    model = pruned(bert(), sparsity=Budget(0.5, round_to=4))
    hidden = model.bert.embeddings.word_embeddings.embedding_dim
    heads = [layer.attention.self.query.out_features for layer in model.bert.encoder.layer]
    assert hidden < 16
    assert heads[0] != heads[1]
    save(model, tmp_path)
    assert configuration(tmp_path)["hidden_size"] == hidden
    assert torch.equal(load(tmp_path)(IDS).logits, model(IDS).logits)
    refused(type(model), tmp_path)


def test_masked_models_are_ordinary_folders(tmp_path):
    model = pruned(bert(), "magnitude-u")
    save(model, tmp_path)
    assert "earlycrop" not in configuration(tmp_path)
    found = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(found(IDS).logits, model(IDS).logits)
    assert (found.bert.pooler.dense.weight == 0).any()


def test_options_of_from_pretrained_hold(tmp_path):
    model = pruned(gpt2())
    save(model, tmp_path, max_shard_size="4KB")
    assert len([*tmp_path.glob("*.safetensors")]) > 1
    found = load(tmp_path, dtype=torch.bfloat16, attn_implementation="eager")
    assert found.dtype == torch.bfloat16
    assert found.config._attn_implementation == "eager"


def test_a_compiled_model_is_saved_as_itself(tmp_path):
    model = pruned(gpt2())
    save(torch.compile(model), tmp_path)
    assert torch.equal(load(tmp_path)(IDS).logits, model(IDS).logits)


def test_what_is_not_of_this_class_is_refused(tmp_path):
    model = gpt2()
    model.transformer.h[0].mlp.act = nn.PReLU()
    with pytest.raises(CheckpointError, match=r"does not build this model.*act\.weight"):
        save(model, tmp_path)
    with pytest.raises(CheckpointError, match="Linear has no configuration"):
        save(nn.Linear(2, 2), tmp_path)
    save(pruned(bert()), tmp_path)
    with pytest.raises(CheckpointError, match="name its class"):
        load(tmp_path, transformers.BertForMaskedLM)
