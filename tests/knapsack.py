"""The oracle of a budget that is met by worth for the price: every choice of twelve channels in three layers."""

import torch
from torch import Tensor


def assert_as_a_knapsack(layer: Tensor, keep: Tensor, scores: Tensor, price: Tensor) -> None:
    """Half of the price stays, as near as channels allow, and no choice as cheap is worth more by over one channel."""
    spent = float(price[keep].sum())
    assert abs(spent - float(price.sum()) / 2) <= float(price.max()) / 2
    choices = torch.cartesian_prod(*[torch.tensor([False, True])] * 12)
    affordable = (choices * price).sum(1) <= spent
    whole = torch.stack([choices[:, layer == one].any(1) for one in range(3)]).all(0)  # no layer is emptied
    best = float((choices[affordable & whole] * scores).sum(1).max())
    assert best - float(scores[keep].sum()) <= float(scores.max())
