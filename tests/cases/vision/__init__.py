"""Vision networks with tokens or with several constructions at once: mixers, ViT, Swin, EfficientNet and others."""

from tests.cases.vision import classifiers, conditioned, maps, tokens  # noqa: F401
