"""Tiny language models, built from a configuration, and words for them."""

from typing import Any

import torch

MADE = torch.Generator().manual_seed(0)
IDS, LABELS = torch.randint(17, (16, 5), generator=MADE), torch.randint(3, (16,), generator=MADE)


def built(model: str, configuration: str, **settings: Any) -> Any:
    import transformers

    with torch.random.fork_rng():
        torch.manual_seed(1)
        return getattr(transformers, model)(getattr(transformers, configuration)(vocab_size=17, **settings))


def gpt2() -> Any:
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_inner": 24, "n_positions": 8}
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}
    return built("GPT2LMHeadModel", "GPT2Config", **sizes, **still)


def bert() -> Any:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
    still = {
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": 8,
        "num_labels": 3,
    }
    return built("BertForSequenceClassification", "BertConfig", **sizes, **still)


def llama() -> Any:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    rest = {
        "intermediate_size": 24,
        "max_position_embeddings": 8,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return built("LlamaForCausalLM", "LlamaConfig", **sizes, **rest)
