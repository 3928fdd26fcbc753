"""Windows, paddings, spectra and pieces: what becomes of channels beside places."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases.case import case, conv, image, pooled_head, real


class Between(nn.Module):
    """Two convolutions around a function of a picture."""

    def __init__(self, function, outside: int = 6):
        super().__init__()
        self.first, self.second, self.head = conv(3, 6), conv(outside, 5), pooled_head(5)
        self.function = function

    def forward(self, x):
        return self.head(F.relu(self.second(self.function(torch.tanh(self.first(x))))))


def between(name: str, function, outside: int = 6, least: int = 6 + 5, most: int = 6 + 5):
    case(name, image(3), least=least, most=most)(lambda: Between(function, outside))


def around(x):
    return F.fold(F.unfold(x, 3, padding=1), x.shape[2:], 3, padding=1)


between("windows_and_back", around)
between("windows_weighted", lambda x: F.fold(F.unfold(x, 2, stride=2).softmax(-1), (8, 8), 2, stride=2))
between("windows_of_a_row", lambda x: x.unfold(3, 2, 1).amax(-1))
between("windows_of_channels", lambda x: x.unfold(1, 2, 1).sum(-1), 5, 5, 5)
between("windows_summed", lambda x: F.unfold(x, 3, padding=1).view(3, -1, 9, 8, 8).sum(2))
between("spectrum_of_places", lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * 0.5, s=x.shape[-2:]))
between("spectrum_of_a_row", lambda x: torch.fft.fft(x).abs() + torch.fft.ifft(x, dim=2).imag)
between("spectrum_of_channels", lambda x: torch.fft.fft(x, dim=1).real, 6, 5, 5)
between("spectrum_of_everything", lambda x: torch.fft.fftn(x).real, 6, 5, 5)
between("spectrum_shifted", lambda x: torch.view_as_real(torch.fft.fftshift(torch.fft.fft2(x), (-1, -2))).sum(-1))
between("spectrum_polar", lambda x: torch.polar(x, x * 0 + 1).real + torch.complex(x, -x).conj().imag)
between("maxout_pieces", lambda x: torch.maximum(*x.chunk(2, 1)), 3, 3 + 5, 3 + 5)
between("maxout_view", lambda x: x.view(3, -1, 2, 8, 8).amax(2), 3, 3 + 5, 3 + 5)
between("maxout_view_first", lambda x: x.view(3, 2, -1, 8, 8).max(1).values, 3, 3 + 5, 3 + 5)
between("maxout_unflattened", lambda x: x.unflatten(1, (-1, 3)).max(2)[0], 2, 2 + 5, 2 + 5)
between("pad_channels", lambda x: F.pad(x, (0, 0, 0, 0, 1, 2)), 9)
between("pad_channels_with_ones", lambda x: F.pad(x, (0, 0, 0, 0, 0, 2), value=1.0), 8)
between("pad_channels_summed", lambda x: F.pad(x, (0, 0, 0, 0, 2, 0)) + F.pad(x, (0, 0, 0, 0, 0, 2)), 8, 5, 6 + 5)


@case("pad_to_the_width", image(3), least=4 + 5)
class PadToTheWidth(nn.Module):
    """A shortcut is padded with zeros to the width of the branch, as in PyramidNet: what is added to zeros stays."""

    def __init__(self):
        super().__init__()
        self.first, self.branch, self.second, self.head = conv(3, 4), conv(4, 7), conv(7, 5), pooled_head(5)

    def forward(self, x):
        x = F.relu(self.first(x))
        y = self.branch(x)
        x = F.relu(y + F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1])))
        return self.head(F.relu(self.second(x)))


@case("fourier_filter", real(4, 9, 5), least=6 + 4, most=6 + 4)
class FourierFilter(nn.Module):
    """A filter in the spectrum over tokens, with a complex weight per channel (as in a global filter network)."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 6), nn.Linear(6, 4), nn.Linear(4, 3)
        self.filter = nn.Parameter(torch.randn(5, 6, 2))

    def forward(self, x):
        x = torch.fft.rfft(torch.tanh(self.first(x)), dim=1) * torch.view_as_complex(self.filter)
        return self.head(F.relu(self.second(torch.fft.irfft(x, n=9, dim=1)).mean(1)))


@case("convolution_by_windows", image(3), least=6 + 5, most=6 + 5)
class ConvolutionByWindows(nn.Module):
    """A convolution written as a product of its weight with windows."""

    def __init__(self):
        super().__init__()
        self.first, self.head = conv(3, 6), pooled_head(5)
        self.weight = nn.Parameter(torch.randn(5, 6, 3, 3))

    def forward(self, x):
        windows = F.unfold(F.relu(self.first(x)), 3, padding=1)
        x = (self.weight.view(self.weight.shape[0], -1) @ windows).unflatten(2, (8, 8))
        return self.head(F.relu(x))


@case("experts_in_one_tensor", real(4, 5), least=7 + 6, most=7 + 6)
class ExpertsInOneTensor(nn.Module):
    """Three experts, each for its share of the rows; hidden units leave all of them at once."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(5, 7), nn.Linear(7, 3)
        self.into, self.out = nn.Parameter(torch.randn(3, 6, 7)), nn.Parameter(torch.randn(3, 6, 7))
        self.bias, self.gate = nn.Parameter(torch.randn(3, 1, 6)), nn.Linear(7, 3)

    def forward(self, x):
        x = torch.tanh(self.first(x))
        y = F.relu(torch.bmm(x.expand(3, -1, -1), self.into.transpose(1, 2)) + self.bias)
        y = torch.einsum("ebh,ehd->ebd", y, self.out)
        return self.head(x + (y * self.gate(x).softmax(-1).t()[:, :, None]).sum(0))


@case("expert_of_each_row", real(4, 5), least=7 + 6, most=7 + 6)
class ExpertOfEachRow(nn.Module):
    """Every row picks the matrices of its experts out of one tensor."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(5, 7), nn.Linear(7, 3)
        self.into, self.out = nn.Parameter(torch.randn(3, 6, 7)), nn.Parameter(torch.randn(3, 7, 6))
        self.register_buffer("choice", torch.tensor([2, 0, 1, 2]))

    def forward(self, x):
        x = torch.tanh(self.first(x))
        y = F.relu(torch.bmm(self.into[self.choice], x[:, :, None]))
        return self.head(x + torch.bmm(self.out[self.choice], y)[:, :, 0])
