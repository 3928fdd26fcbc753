"""Small files in the official forms of the data sets."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def write_cifar10(folder: Path, rows: int = 20) -> np.ndarray:
    """CIFAR-10's folder with `rows` images a file; the training pixels, n x 3072."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (6, rows, 3072), dtype=np.uint8)
    for i, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        content = {"batch_label": name, "labels": [k % 10 for k in range(rows)], "data": pixels[i], "filenames": ["x"]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    names = {"label_names": [f"class {i}" for i in range(10)], "num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(names, protocol=2))
    return pixels[:5].reshape(-1, 3072)


def write_cifar100(folder: Path, rows: int = 200) -> None:
    folder.mkdir(parents=True)
    for name in ("train", "test"):
        labels = [k % 100 for k in range(rows)]
        content = {"fine_labels": labels, "coarse_labels": [0] * rows, "data": np.zeros((rows, 3072), np.uint8)}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"class {i}" for i in range(100)]}, protocol=2))


def write_picture(file: Path, colour: tuple[int, int, int], size: tuple[int, int] = (64, 64)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(file)


def write_tiny_imagenet(folder: Path, wnids: tuple[str, ...] = ("n02", "n01", "n03")) -> None:
    """Tiny-ImageNet's folder: three pictures of each class for training, two for validation."""
    notes = []
    for number, wnid in enumerate(wnids):
        for i in range(3):
            write_picture(folder / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", (40 * number, 100, 10 * i))
        for i in range(2):
            write_picture(folder / "val" / "images" / f"val_{2 * number + i}.JPEG", (40 * number, 100, 10 * i))
            notes.append(f"val_{2 * number + i}.JPEG\t{wnid}\t0\t0\t63\t63\n")
    (folder / "wnids.txt").write_text("\n".join(wnids) + "\n")
    (folder / "words.txt").write_text("".join(f"{wnid}\tthing {wnid}, object\n" for wnid in wnids) + "n99\tother\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(notes))


def write_nyu_depth(folder: Path, count: int = 12, columns: int = 40, rows: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """NYU-Depth-v2's two files with a third of the pairs for testing; pixels and depths in MATLAB's order of axes."""
    h5py, savemat = pytest.importorskip("h5py"), pytest.importorskip("scipy.io").savemat
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, 3, columns, rows), dtype=np.uint8)
    depths = random.uniform(0.7, 10, (count, columns, rows)).astype(np.float32)
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"], file["depths"], file["scenes"] = images, depths, [1.0]
    numbers = np.arange(1, count + 1, dtype=np.uint16)[:, None]
    savemat(folder / "splits.mat", {"trainNdxs": numbers[numbers % 3 > 0][:, None], "testNdxs": numbers[2::3]})
    return images, depths
