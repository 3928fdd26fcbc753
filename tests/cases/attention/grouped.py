"""Heads of queries that share heads of keys and values."""

from __future__ import annotations

import torch.nn.functional as F

from tests.cases.attention.blocks import AROUND, Separate, around


@around("grouped_query_interleave", least=AROUND + 2)
class GroupedInterleave(Separate):
    """Two heads of queries share a head of keys and values, which is repeated."""

    def __init__(self):
        super().__init__(4, 2, groups=2)

    def attend(self, q, k, v):
        k, v = (one.repeat_interleave(self.heads // self.groups, dim=1) for one in (k, v))
        return F.scaled_dot_product_attention(q, k, v)


@around("grouped_query_expand", least=AROUND + 2)
class GroupedExpand(GroupedInterleave):
    def attend(self, q, k, v):
        batch, groups, tokens, width = k.shape
        k, v = (
            one[:, :, None].expand(batch, groups, self.heads // self.groups, tokens, width).reshape(q.shape)
            for one in (k, v)
        )
        return F.scaled_dot_product_attention(q, k, v)


@around("grouped_query_fused", least=AROUND + 2)
class GroupedFused(GroupedInterleave):
    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


@around("grouped_query_by_view", least=AROUND + 2)
class GroupedView(GroupedInterleave):
    """The queries are seen as (groups, heads of a group)."""

    def attend(self, q, k, v):
        batch, _, tokens, width = q.shape
        q = q.reshape(batch, -1, self.heads // self.groups, tokens, width)
        weights = (q @ k.unsqueeze(2).transpose(-2, -1) * 0.7).softmax(-1)
        return (weights @ v.unsqueeze(2)).reshape(batch, -1, tokens, width)


@around("multi_query", least=AROUND + 3)
class MultiQuery(Separate):
    """One head of keys and values for all heads of queries, by broadcasting."""

    def __init__(self):
        super().__init__(3, 2, groups=1)

    def attend(self, q, k, v):
        return (q @ k.transpose(-2, -1) * 0.7).softmax(-1) @ v


@around("multi_query_expand", least=AROUND)
class MultiQueryExpand(MultiQuery):
    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k.expand(-1, q.shape[1], -1, -1), v.expand_as(q))
