"""What the authors' ResNet18 and VGG16 have in common: leaky ReLUs, a head with dropout, orthogonal initial weights.

Source: the public code of Rachwan et al. (2022), "Winning the Lottery Ahead of Time".
"""

from itertools import pairwise

from torch import nn

SLOPE = 0.05


def leaky() -> nn.LeakyReLU:
    """LeakyReLU with the authors' slope of 0.05."""
    return nn.LeakyReLU(SLOPE)


def head(*widths: int, classes: int) -> nn.Sequential:
    """A head: for each pair of widths dropout, Linear, batch norm and LeakyReLU; then dropout and the logits."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Dropout(0.3), nn.Linear(before, after), nn.BatchNorm1d(after), leaky()]
    return nn.Sequential(*layers, nn.Dropout(0.3), nn.Linear(widths[-1], classes))


def initialise(model: nn.Module) -> None:
    """Make every weight orthogonal, with gain √(2 / (1 + 0.05²)), and 1 for the logits.

    Biases keep PyTorch's default, U(±1/√fan_in).
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    gain = nn.init.calculate_gain("leaky_relu", SLOPE)
    for layer in layers[:-1]:
        nn.init.orthogonal_(layer.weight, gain)
    nn.init.orthogonal_(layers[-1].weight)
