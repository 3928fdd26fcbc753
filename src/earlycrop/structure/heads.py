"""Multi-head attention whose heads keep their width when heads or channels leave.

`nn.MultiheadAttention` computes the width of a head as `embed_dim // num_heads`, so neither a head nor a
channel of its stream could leave alone. `HeadedAttention` is the same layer, with the same parameters under the same
names, but keeps the width of a head with which it was built. A module becomes one only when a cut makes it necessary.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class HeadedAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` whose heads keep their width (`head_dim`), however many heads and channels are left."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Takes and returns what `nn.MultiheadAttention.forward` does, except nested tensors."""
        if is_causal and attn_mask is None:
            raise RuntimeError("`is_causal` only says that `attn_mask` is a causal mask: give the mask as well.")
        batched, padding = query.dim() == 3, key_padding_mask
        along, shared = (0 if self.batch_first and batched else 1), query is key and key is value
        if not batched:
            query, key, value = (one.unsqueeze(1) for one in (query, key, value))
            padding = None if padding is None else padding.unsqueeze(0)
        if along == 1:
            query, key, value = (one.transpose(0, 1) for one in (query, key, value))
        q, k, v = self._heads(query, key, value, shared)
        extra = 0
        if self.bias_k is not None and self.bias_v is not None:
            heads = (1, 1, -1, self.head_dim)
            k, v = (
                torch.cat([one, bias.reshape(heads).transpose(1, 2).expand(one.shape[0], -1, -1, -1)], 2)
                for one, bias in ((k, self.bias_k), (v, self.bias_v))
            )
            extra += 1
        if self.add_zero_attn:
            k, v = (F.pad(one, (0, 0, 0, 1)) for one in (k, v))
            extra += 1
        mask = self._mask(q, attn_mask, padding, extra)
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            scores = (q / math.sqrt(self.head_dim)) @ k.transpose(-2, -1)
            weights = torch.softmax(scores if mask is None else scores + mask, -1)
            weights = F.dropout(weights, dropout) if dropout else weights
            out = weights @ v
        else:
            out, weights = F.scaled_dot_product_attention(q, k, v, mask, dropout), None
        out = F.linear(out.transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias)
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return (out if along == 0 else out.transpose(0, 1)), weights

    def _reset_parameters(self) -> None:
        self._qkv_same_embed_dim = self.in_proj_weight is not None  # torch would draw three weights that do not exist
        super()._reset_parameters()
        self._qkv_same_embed_dim = False

    def _heads(self, query: Tensor, key: Tensor, value: Tensor, shared: bool) -> list[Tensor]:
        """q, k and v, each of shape (batch, heads, positions, head width)."""
        if self.in_proj_weight is not None and shared:
            joined = F.linear(query, self.in_proj_weight, self.in_proj_bias)
            return [one.transpose(1, 2) for one in joined.unflatten(-1, (3, -1, self.head_dim)).unbind(-3)]
        if self.in_proj_weight is not None:
            weights: Any = self.in_proj_weight.chunk(3)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        every = zip((query, key, value), weights, biases, strict=True)
        return [F.linear(x, w, b).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for x, w, b in every]

    def _mask(self, q: Tensor, attention: Tensor | None, padding: Tensor | None, extra: int) -> Tensor | None:
        """Both masks as one that can be added to scores of shape (batch, heads, positions, positions)."""
        total = None
        if attention is not None:
            attention = attention if attention.dim() == 2 else attention.unflatten(0, (q.shape[0], -1))
        for mask in (attention, None if padding is None else padding[:, None, None]):
            if mask is None:
                continue
            if mask.dtype == torch.bool:
                mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(mask, -torch.inf)
            mask = F.pad(mask, (0, extra)) if extra else mask
            total = mask if total is None else total + mask
        return total


def head(model: nn.Module) -> None:
    """Turn every `nn.MultiheadAttention` into one that keeps its heads' width; its sizes follow its weights."""
    for module in model.modules():
        if type(module) in (nn.MultiheadAttention, HeadedAttention):
            _head(cast(nn.MultiheadAttention, module))
        elif isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False  # only PyTorch's own attention reads nested tensors


def _head(module: nn.MultiheadAttention) -> None:
    module.__class__ = HeadedAttention
    module._qkv_same_embed_dim = False  # torch checks this before it runs a fused kernel for the whole layer
    joined = module.in_proj_weight
    key, value = (joined, joined) if joined is not None else (module.k_proj_weight, module.v_proj_weight)
    assert key is not None
    assert value is not None
    module.embed_dim, inside = module.out_proj.weight.shape
    module.num_heads = inside // module.head_dim
    module.kdim, module.vdim = key.shape[1], value.shape[1]


def fit(model: nn.Module) -> None:
    """The same, only for modules whose sizes are no longer those that `nn.MultiheadAttention` expects."""
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            query = module.q_proj_weight if module.in_proj_weight is None else module.in_proj_weight
            assert query is not None
            widths = {*module.out_proj.weight.shape, query.shape[1]}
            if widths != {module.embed_dim} or isinstance(module, HeadedAttention):
                _head(module)
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and not all(map(_takes_nested, module.layers)):
            # it asks only its first layer, and hands nested tensors to all of them
            module.use_nested_tensor = False


def _takes_nested(layer: nn.Module) -> bool:
    """Whether a layer of a transformer may still take PyTorch's fused kernel, which alone knows nested tensors."""
    attention = getattr(layer, "self_attn", None)
    if not isinstance(attention, nn.MultiheadAttention):
        return True  # a layer of somebody else's
    return attention._qkv_same_embed_dim and attention.num_heads % 2 == 0
