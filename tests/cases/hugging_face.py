"""Hugging Face models, built from a configuration, as users bring them. The code is the library's, not ours.

Widths are tiny, dropout is off (some of their attentions take its rate from the configuration), and keys and values
are not returned, since outputs cannot leave.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from tests.cases.case import case, image, integers


def built(model: str, configuration: str, attention: str | None = "sdpa", **settings: Any) -> nn.Module:
    import transformers

    chosen = getattr(transformers, configuration)(**settings)
    if attention is not None:
        chosen._attn_implementation = attention
    network = getattr(transformers, model)(chosen)
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = max(module.eps, 1e-6)  # 1e-12 makes noise of the only channel that is left
    return network


WORDS = integers(11, 3, 5)

BERT: dict[str, Any] = {
    "vocab_size": 11,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 10,
    "max_position_embeddings": 6,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


# stream 8; in each of two layers 4 heads and 10 units; the pooler's 8
@case("hf_bert", WORDS, needs="transformers", least=8 + 2 * (4 + 10) + 8)
def bert():
    return built("BertForSequenceClassification", "BertConfig", num_labels=3, **BERT)


@case("hf_bert_words", WORDS, needs="transformers", least=8 + 2 * (4 + 10), slow=True)
def bert_words():
    """The masked language model: its decoder is the table of words, after a layer of the stream's width."""
    return built("BertForMaskedLM", "BertConfig", "eager", **BERT)


@case("hf_distilbert", WORDS, needs="transformers", least=8 + 4 + 10 + 8, slow=True)
def distilbert():
    return built(
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        vocab_size=11,
        dim=8,
        n_layers=1,
        n_heads=4,
        hidden_dim=10,
        max_position_embeddings=6,
        dropout=0.0,
        attention_dropout=0.0,
        seq_classif_dropout=0.0,
    )


GPT: dict[str, Any] = {
    "vocab_size": 11,
    "n_embd": 8,
    "n_layer": 1,
    "n_head": 4,
    "n_inner": 10,
    "n_positions": 6,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "use_cache": False,
}


@case("hf_gpt2", WORDS, needs="transformers", least=8 + 4 + 10)
def gpt2():
    """The head is the table of words; each layer's output width is an integer that its view reads."""
    return built("GPT2LMHeadModel", "GPT2Config", **GPT)


@case("hf_gpt2_eager", WORDS, needs="transformers", least=8 + 4 + 10, slow=True)
def gpt2_eager():
    return built("GPT2LMHeadModel", "GPT2Config", "eager", **GPT)


LLAMA: dict[str, Any] = {
    "vocab_size": 11,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "intermediate_size": 10,
    "max_position_embeddings": 8,
    "use_cache": False,
    "attention_dropout": 0.0,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


# stream 8, 2 groups of heads and 10 units; the norms are written out
@case("hf_llama", WORDS, needs="transformers", least=8 + 2 + 10)
def llama():
    return built("LlamaForCausalLM", "LlamaConfig", **LLAMA)


@case("hf_llama_eager", WORDS, needs="transformers", least=8 + 2 + 10, slow=True)
def llama_eager():
    return built("LlamaForCausalLM", "LlamaConfig", "eager", tie_word_embeddings=True, **LLAMA)


@case("hf_mistral", WORDS, needs="transformers", least=8 + 2 + 10, slow=True)
def mistral():
    return built("MistralForCausalLM", "MistralConfig", sliding_window=3, **LLAMA)


@case("hf_qwen", WORDS, needs="transformers", least=8 + 2 + 10, slow=True)
def qwen():
    """Queries and keys are normalised within each head."""
    return built("Qwen3ForCausalLM", "Qwen3Config", "eager", **LLAMA)


@case("hf_gemma", WORDS, needs="transformers", least=8 + 2 + 10, slow=True)
def gemma():
    """The norms' scales are 1 + weight; they stand behind the branches too."""
    return built("Gemma3ForCausalLM", "Gemma3TextConfig", "eager", **LLAMA)


@case("hf_phi", WORDS, needs="transformers", least=8 + 10, slow=True)
def phi():
    """Queries, keys and values of one matrix, cut at positions that the configuration gives: its heads stay."""
    return built("Phi3ForCausalLM", "Phi3Config", **LLAMA)


@case("hf_t5_encoder", WORDS, needs="transformers", least=4 + 10, slow=True)
def t5_encoder():
    """A table of relative positions with a column for each head."""
    return built(
        "T5EncoderModel",
        "T5Config",
        None,
        vocab_size=11,
        d_model=8,
        d_kv=3,
        d_ff=10,
        num_layers=1,
        num_heads=4,
        relative_attention_num_buckets=8,
        dropout_rate=0.0,
    )


# stream 8; in each of two layers 4 heads and 10 units
@case("hf_vit", image(3, 8, 2), needs="transformers", least=8 + 2 * (4 + 10))
def vit():
    return built(
        "ViTForImageClassification",
        "ViTConfig",
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=10,
        image_size=8,
        patch_size=4,
        num_labels=3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


# stem 4; two stages of a block each: stream and inner width
@case("hf_resnet", image(3, 16, 3), needs="transformers", least=4 + (6 + 6) + (8 + 8))
def resnet():
    return built(
        "ResNetForImageClassification",
        "ResNetConfig",
        None,
        embedding_size=4,
        hidden_sizes=[6, 8],
        depths=[1, 1],
        layer_type="basic",
        num_labels=3,
    )


# stem and two stages: streams 4 and 6, inner widths four times as wide
@case("hf_convnext", image(3, 16, 2), needs="transformers", least=4 + 16 + 6 + 24, slow=True)
def convnext():
    return built(
        "ConvNextForImageClassification",
        "ConvNextConfig",
        None,
        num_stages=2,
        hidden_sizes=[4, 6],
        depths=[1, 1],
        patch_size=2,
        num_labels=3,
    )
