"""scikit-learn's handwritten digits: 1,797 images of 8x8 pixels, inside the package (Alpaydin and Kaynak, 1998)."""

import numpy as np
import torch

from earlycrop_lab.data.augmentation import Augmentation
from earlycrop_lab.data.balance import balanced
from earlycrop_lab.data.dataset import Dataset, statistics


def digits() -> Dataset:
    """The digits: 36 fixed images of each for testing, 1,437 for training, augmented by crops with a 1-pixel border."""
    from sklearn.datasets import load_digits  # takes a second to import, and only this function needs it

    pixels, numbers = (torch.from_numpy(np.asarray(part)) for part in load_digits(return_X_y=True))
    images = (pixels.view(-1, 1, 8, 8) / 16 * 255).round().to(torch.uint8)  # from 0 to 16 in the source
    labels = numbers.long()
    test = torch.zeros(len(labels), dtype=torch.bool)
    test[balanced(labels, 360, seed=0)] = True
    mean, std = statistics(images[~test])
    return Dataset(
        name="digits",
        train_images=images[~test],
        train_labels=labels[~test],
        test_images=images[test],
        test_labels=labels[test],
        classes=tuple("0123456789"),
        mean=mean,
        std=std,
        augmentation=Augmentation(pad=1),
        enlargeable=True,
        note="inside scikit-learn",
    )
