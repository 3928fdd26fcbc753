"""Rendered rooms: depths by hand, and against a walk along each ray in small steps."""

from dataclasses import replace

import pytest
import torch

from earlycrop_lab.data.scenes import FOCAL, SEED, about_x, about_y, furnished, rays, render, scenes

FAR = 50.0


def empty(turn: float = 0.0, down: float = 0.0):
    """A room of 4 x 3 x 10 metres, everything in it far outside, the camera at (0, -1.5, 2)."""
    room = furnished(1, torch.Generator().manual_seed(0))
    f64 = torch.tensor([0.0, -1.5, 2.0], dtype=torch.float64)
    return replace(
        room,
        walls=torch.tensor([[[-2, -3, 0], [2, 0, 10]]], dtype=torch.float64),
        camera=f64[None],
        axes=about_y(torch.tensor([turn], dtype=torch.float64)) @ about_x(torch.tensor([down], dtype=torch.float64)),
        middles=torch.full_like(room.middles, FAR),
        centres=torch.full_like(room.centres, FAR),
        box_axes=about_y(torch.zeros(room.box_axes.shape[:2], dtype=torch.float64)),
    )


def centre(room) -> float:
    """The depth in the middle of an image with a middle pixel."""
    return render(room, (9, 13))[1][0, 4, 6].item()


def test_the_wall_ahead_is_as_far_as_it_is_everywhere():
    """Depth is along the optical axis: the same for all pixels that see a wall across it."""
    depths = render(empty(), (9, 13))[1][0]
    assert centre(empty()) == 8
    assert torch.equal(depths[3:6, 5:8], torch.full((3, 3), 8.0))


def test_the_floor_is_as_far_as_its_row_says():
    """1.5 metres below the camera: depth y f / (row from the middle), with f in pixels."""
    depths = render(empty(), (9, 13))[1][0]
    for below in (3, 4):
        assert depths[4 + below, 6].item() == pytest.approx(1.5 * FOCAL * 13 / below)


def test_a_camera_turned_by_45_degrees_sees_the_corner_along_its_axis():
    """The right wall is 2 m to the right: 2 / sin 45° along the axis; downwards 1.5 / sin."""
    assert centre(empty(turn=torch.pi / 4)) == pytest.approx(2 * 2**0.5)
    assert centre(empty(turn=-torch.pi / 4)) == pytest.approx(2 * 2**0.5)
    assert centre(empty(down=0.5)) == pytest.approx(1.5 / torch.tensor(0.5).sin().item())


def test_a_ball_is_its_radius_nearer_than_its_middle():
    room = empty()
    room.middles[0, 1] = torch.tensor([0.0, -1.5, 5.0])
    room = replace(room, radii=torch.full_like(room.radii, 0.5))
    assert centre(room) == pytest.approx(5 - 2 - 0.5)


def test_a_box_turned_by_45_degrees_shows_its_edge():
    room = empty()
    room.centres[0, 2] = torch.tensor([0.0, -1.5, 6.0])
    room = replace(room, halves=torch.full_like(room.halves, 0.5))
    assert centre(room) == pytest.approx(6 - 2 - 0.5)
    turned = replace(room, box_axes=about_y(torch.full(room.box_axes.shape[:2], torch.pi / 4, dtype=torch.float64)))
    assert centre(turned) == pytest.approx(6 - 2 - 0.5 * 2**0.5)


def test_what_lies_behind_the_camera_is_not_seen():
    room = empty()
    room.middles[0, 0], room.centres[0, 0] = torch.tensor([0.0, -1.5, 0.5]), torch.tensor([0.0, -1.5, 0.5])
    assert centre(room) == 8


def walked(room, way, step: float = 0.004) -> float:
    """The depth at which a walk along the ray first leaves the room or enters something; from definitions alone."""
    t = torch.arange(1, int(12 / step), dtype=torch.float64) * step
    places = room.camera[0] + t[:, None] * way
    out = ((places < room.walls[0, 0]) | (places > room.walls[0, 1])).any(1)
    for middle, radius in zip(room.middles[0], room.radii[0], strict=True):
        out |= (places - middle).square().sum(1) < radius**2
    for middle, halves, axes in zip(room.centres[0], room.halves[0], room.box_axes[0], strict=True):
        own = torch.linalg.solve(axes, (places - middle).T).T
        out |= (own.abs() < halves).all(1)
    return t[out.int().argmax()].item()


def test_depths_are_those_of_a_walk_along_each_ray():
    rooms = furnished(4, torch.Generator().manual_seed(5))
    size, step = (7, 9), 0.004
    for number in range(4):
        room = rooms[number : number + 1]
        depths = render(room, size)[1][0].flatten()
        expected = [walked(room, room.axes[0] @ ray, step) for ray in rays(size)]
        missed = (depths - torch.tensor(expected)).abs() > 1.5 * step
        assert missed.sum() <= 1  # an edge that is thinner than a step


def test_a_surface_is_lit_as_lambert_says():
    """The wall ahead at 8 m, the lamp a metre before it in the middle of the view: cos = 1, 1 / (1 + 1 / 10)."""
    room = empty()
    room = replace(room, lamp=torch.tensor([[0.0, -1.5, 9.0]], dtype=torch.float64))
    image = render(room, (9, 13))[0][0, :, 4, 6]
    place = torch.tensor([0.0, -1.5, 10.0], dtype=torch.float64)
    grain, colour = room.grains[0, 5], room.colours[0, 5]
    checks = 0.8 + 0.2 * (2 * (torch.pi * grain * place).sin().sum()).tanh()
    assert torch.equal(image, (255 * colour * (0.3 + 0.7 / 1.1) * checks).round().to(torch.uint8))


def test_the_scenes_are_always_the_same_and_their_splits_differ():
    one, same = (scenes((12, 16), (6, 8), train=5, test=3) for _ in range(2))
    assert torch.equal(one.train_images, same.train_images)
    assert torch.equal(one.test_depths, same.test_depths)
    assert one.train_images.shape == (5, 3, 12, 16)
    assert one.train_depths.shape == (5, 6, 8)
    assert one.test_depths.shape == (3, 12, 16)
    both = torch.cat([one.train_images, one.test_images]).flatten(1)
    assert len(both.unique(dim=0)) == 8
    assert 0.5 < one.test_depths.min() < one.test_depths.max() < 10


def test_rooms_do_not_depend_on_how_many_are_rendered_at_once():
    rooms = furnished(60, torch.Generator().manual_seed(SEED))
    images, depths = render(rooms[40:60], (6, 8))
    pairs = scenes((6, 8), (6, 8), train=50, test=10)
    assert torch.equal(images[10:], pairs.test_images)
    assert torch.equal(depths[10:], pairs.test_depths)
