"""The pictures hold the samples, all depths in one scale."""

import numpy as np
import pytest
import torch

from earlycrop_lab.reporting.depth_figures import beside


@pytest.fixture
def samples() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "images": torch.randint(0, 256, (2, 3, 6, 8), dtype=torch.uint8, generator=generator),
        "truths": (1 + torch.rand(2, 3, 5, generator=generator)).half(),
        "predictions": (4 * torch.rand(2, 3, 5, generator=generator)).half(),
    }


@pytest.mark.parametrize("across", [True, False])
def test_each_image_stands_beside_its_truth_and_predictions_in_one_scale(samples, across):
    other = {**samples, "predictions": samples["predictions"] + 1}
    figure = beside({"dense": samples, "snap": other}, 7.0, across)
    figure.draw_without_rendering()
    *pictures, bar = figure.axes
    assert len(pictures) == 4 * 2
    shown = [axes.images[0] for axes in pictures]
    grid = np.array(shown, dtype=object).reshape((2, 4) if across else (4, 2))
    grid = grid if across else grid.T
    for number, (image, *maps) in enumerate(grid):
        assert np.array_equal(image.get_array(), samples["images"][number].permute(1, 2, 0))
        expected = [samples["truths"], samples["predictions"], other["predictions"]]
        for drawn, tensor in zip(maps, expected, strict=True):
            assert np.array_equal(drawn.get_array(), tensor[number].float())
            assert drawn.get_clim() == (samples["truths"].min().item(), samples["truths"].max().item())
            assert drawn.get_cmap().name == "viridis"
    names = [axes.get_title() or axes.get_ylabel() for axes in pictures]
    assert [name for name in names if name] == ["input", "truth", "dense", "snap"]
    assert bar.get_ylabel() == "depth, metres"
    places = [axes.bbox for axes in pictures]
    assert len({(round(place.x0), round(place.y0)) for place in places}) == 8
    assert places[0].width / places[0].height == pytest.approx(8 / 6, rel=0.01)
