"""Images, their true depths and the networks' predictions, side by side and on one scale of metres."""

from collections.abc import Mapping

from matplotlib.figure import Figure
from torch import Tensor

from earlycrop_lab.reporting.texts import AS_IT_IS

Samples = Mapping[str, Tensor]
"""The tensors that a run of the task `depth` keeps: `images`, `truths`, `predictions`."""

COLOURS = "viridis"
"""A colour map in which equal steps of depth are equal steps of lightness."""


def beside(runs: Mapping[str, Samples], width: float, across: bool = True) -> Figure:
    """Plot each image with its true depths and each run's prediction, on the scale of the true depths.

    Args:
        runs: By name, samples of the same images.
        width: Width of the figure, in inches.
        across: Whether the panels of one image form a row; otherwise they form a column.
    """
    first = next(iter(runs.values()))
    truths = first["truths"].float()
    span = {"cmap": COLOURS, "vmin": truths.min().item(), "vmax": truths.max().item()}
    maps = {"truth": truths, **{name: samples["predictions"].float() for name, samples in runs.items()}}
    count, shape = len(truths), (1 + len(maps), len(truths))
    columns, rows = shape if across else shape[::-1]
    height, breadth = first["images"].shape[-2:]
    cell = (width - 0.7) / columns
    figure = Figure(figsize=(width, 0.35 + (cell * height / breadth + 0.04) * rows), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)  # type: ignore[union-attr]
    grid = figure.subplots(rows, columns, squeeze=False)
    grid = grid.T if across else grid  # panels by `input`, `truth` and the runs, then by image
    drawn = None
    for place, name in enumerate(["input", *maps]):
        for number in range(count):
            axes = grid[place][number]
            if name == "input":
                axes.imshow(first["images"][number].permute(1, 2, 0).numpy(), aspect="auto")
            else:
                drawn = axes.imshow(maps[name][number].numpy(), aspect="auto", **span)
            axes.set_box_aspect(height / breadth)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        (grid[place][0].set_title if across else grid[place][0].set_ylabel)(name, fontsize=9, **AS_IT_IS)
    assert drawn is not None
    bar = figure.colorbar(drawn, ax=grid.ravel().tolist(), fraction=0.05, aspect=30, pad=0.02)
    bar.set_label("depth, metres", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)  # type: ignore[operator]
    return figure
