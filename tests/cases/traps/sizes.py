"""Sizes and types in the code: reshapes, literal widths, and attributes of layers that a cut changes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases.case import case, conv, image, pooled_head, real


@case("channels_last_linear", image(3), least=6 + 5, most=6 + 5)
class ChannelsLastLinear(nn.Module):
    """Places become rows for a linear layer, and then places again."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = conv(3, 6), nn.Linear(6, 5), pooled_head(5)

    def forward(self, x):
        x = F.relu(self.first(x))
        batch, channels, height, width = x.shape
        x = self.second(x.permute(0, 2, 3, 1).reshape(-1, channels))
        return self.head(F.relu(x.view(batch, height, width, -1).permute(0, 3, 1, 2)))


@case("channels_last_flatten", image(3, 4), least=6)
class ChannelsLastFlatten(nn.Module):
    """Flattened with the channels innermost: a channel's columns are not consecutive."""

    def __init__(self):
        super().__init__()
        self.first, self.head = conv(3, 6), nn.Linear(6 * 16, 3)

    def forward(self, x):
        return self.head(F.relu(self.first(x)).permute(0, 2, 3, 1).flatten(1))


@case("unflatten", real(4, 5), least=7 + 6)
def unflatten():
    """Features become channels and places; integers of the module are the widths."""
    return nn.Sequential(
        nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 24), nn.ReLU(), nn.Unflatten(1, (6, 2, 2)), nn.ConvTranspose2d(6, 2, 2)
    )


@case("generator", real(4, 5), least=7 + 6 + 5)
class Generator(nn.Module):
    """The same, but every size except that of the places is read from the tensor."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 24)
        self.norm, self.up, self.last = nn.BatchNorm2d(6), nn.ConvTranspose2d(6, 5, 2, 2), conv(5, 2)

    def forward(self, x):
        x = self.second(F.relu(self.first(x)))
        x = x.view(x.shape[0], -1, 2, 2)
        return torch.tanh(self.last(F.relu(self.up(F.relu(self.norm(x))))))


@case("expand_literal", real(4, 5), least=7, whole=("first.weight",))
class ExpandLiteral(nn.Module):
    """One feature is expanded to six, a literal in the code."""

    def __init__(self):
        super().__init__()
        self.first, self.one, self.second, self.head = (
            nn.Linear(5, 6),
            nn.Linear(5, 1),
            nn.Linear(6, 7),
            nn.Linear(7, 3),
        )

    def forward(self, x):
        return self.head(F.relu(self.second(torch.tanh(self.first(x)) + self.one(x).expand(-1, 6))))


@case("expand_like", real(4, 5), least=6 + 7)
class ExpandLike(ExpandLiteral):
    def forward(self, x):
        y = torch.tanh(self.first(x))
        return self.head(F.relu(self.second(y + self.one(x).expand_as(y))))


@case("state_literal", real(4, 3, 5), least=0)
class RecurrentByHand(nn.Module):
    """A recurrence whose first state has a literal width."""

    def __init__(self):
        super().__init__()
        self.inputs, self.states, self.head = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        state = torch.zeros(x.shape[0], 6, dtype=x.dtype)
        for step in range(x.shape[1]):
            state = torch.tanh(self.inputs(x[:, step]) + self.states(state))
        return self.head(state)


@case("width_of_layer", real(4, 5), least=7, most=7, whole=("first.weight",))
class WidthOfLayer(nn.Module):
    """The layer's own attribute is a factor, which a cut would change."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 6), nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x):
        x = torch.tanh(self.first(x)) / self.first.out_features
        return self.head(F.relu(self.second(x)))


@case("width_in_branch", real(4, 5), least=7, most=7, whole=("first.weight",))
class WidthInBranch(nn.Module):
    """The code takes another branch when the layer is narrow."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 6), nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x):
        x = self.first(x)
        x = torch.tanh(x) if x.shape[1] >= 6 else torch.sin(x)
        return self.head(F.relu(self.second(x)))


@case("half_precision_inside", real(4, 6), least=8 + 5)
class CastInside(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = F.relu(self.first(x)).type_as(self.second.weight)
        return self.head(F.relu(self.second(x.to(self.second.weight.dtype))))
