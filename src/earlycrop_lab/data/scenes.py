"""Rendered rooms with exact depths, made on the spot: what depth is tried on without a download.

A scene is a room with boxes and balls on its floor, under one lamp, seen through a pinhole. A ray of pixel (i, j)
leaves the camera along (x, y, 1), so that the number t at which it meets a surface is the depth along the optical
axis. Every shape is met in closed form, and a ray sees the nearest.

Coordinates, in metres: x to the right, y down to the floor at y = 0, z away. Walls are parallel to these axes; boxes
are turned about the vertical, and the camera about the vertical and then down.
"""

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import one_hot

from earlycrop_lab.data.dataset import statistics
from earlycrop_lab.data.pairs import Pairs, averaged

FOCAL = 0.9
"""Focal length in widths of the image: a view of 58 degrees, as a Kinect's."""

BALLS, BOXES = 3, 3
TRAIN, TEST = 400, 100
SEED = 2022
WALLS = (-2, 2, 1, -1, 3, -3)
"""Floor, ceiling, left, right, behind and ahead by their normals: the number of the axis, and its sign."""
BLOCK = 50
"""Scenes that are rendered at once."""


@dataclass(frozen=True)
class Scenes:
    """n rooms with their lamps, cameras, balls and boxes.

    Args:
        walls: The least x, y, z of each room, and the largest.
        lamp: Where it hangs.
        camera: Where it stands.
        axes: The camera's right, down and ahead, as columns.
        middles: Of the balls.
        radii: Of the balls.
        centres: Of the boxes.
        halves: Of the boxes' sides, along their own axes.
        box_axes: The boxes' own axes, as columns.
        colours: Of floor, ceiling, the walls left, right, behind and ahead, the balls and the boxes; 0 to 1.
        grains: Of the textures on these: checks in a metre.
    """

    walls: Float[Tensor, "n 2 3"]
    lamp: Float[Tensor, "n 3"]
    camera: Float[Tensor, "n 3"]
    axes: Float[Tensor, "n 3 3"]
    middles: Float[Tensor, "n balls 3"]
    radii: Float[Tensor, "n balls"]
    centres: Float[Tensor, "n boxes 3"]
    halves: Float[Tensor, "n boxes 3"]
    box_axes: Float[Tensor, "n boxes 3 3"]
    colours: Float[Tensor, "n surfaces 3"]
    grains: Float[Tensor, "n surfaces"]

    def __getitem__(self, some: slice) -> "Scenes":
        """Some of the rooms."""
        return Scenes(**{each.name: getattr(self, each.name)[some] for each in fields(self)})


def scenes(size: tuple[int, int], depth_size: tuple[int, int], train: int = TRAIN, test: int = TEST) -> Pairs:
    """So many rooms to train on and so many others to test on, always the same ones.

    Args:
        size: Rows and columns of the images and of the test depths.
        depth_size: Rows and columns of the training depths, each the mean of what it covers.
        train: Rooms in the training split.
        test: Rooms in the test split.
    """
    rooms = furnished(train + test, torch.Generator().manual_seed(SEED))
    images, depths = (
        torch.cat(parts)
        for parts in zip(*(render(rooms[i : i + BLOCK], size) for i in range(0, train + test, BLOCK)), strict=True)
    )
    mean, std = statistics(images[:train])
    return Pairs(
        name="scenes",
        train_images=images[:train],
        train_depths=averaged(depths[:train], depth_size),
        test_images=images[train:],
        test_depths=depths[train:],
        mean=mean,
        std=std,
        note="rooms rendered on the spot",
    )


def furnished(n: int, generator: torch.Generator) -> Scenes:
    """n rooms as chance has them, in float64; what would lie behind a wall is not seen."""

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator, dtype=torch.float64)

    def before(camera: Tensor, ahead: Tensor, height: Tensor) -> Tensor:
        """Places before the camera, at that height."""
        distance, bearing = between(1.2, 5.0, *height.shape[1:]), ahead + between(-0.45, 0.45, *height.shape[1:])
        x, z = camera[:, None, 0] + distance * bearing.sin(), camera[:, None, 2] + distance * bearing.cos()
        return torch.stack([x, height, z], dim=-1)

    wide, high, deep = between(3, 6), between(2.5, 2.7), between(3.5, 8)
    zero = torch.zeros_like(wide)
    lamp = torch.stack([wide * between(-0.3, 0.3), 0.1 - high, deep * between(0.3, 0.7)], dim=1)
    camera = torch.stack([(wide - 2) * between(-0.5, 0.5), between(-1.5, -1.3), deep * between(0.05, 0.3)], dim=1)
    ahead, down = between(-0.5, 0.5), between(0.15, 0.25)
    radii, halves = between(0.12, 0.4, BALLS), between(0.12, 0.4, BOXES, 3)
    return Scenes(
        walls=torch.stack([torch.stack([-wide / 2, -high, zero], 1), torch.stack([wide / 2, zero, deep], 1)], 1),
        lamp=lamp,
        camera=camera,
        axes=about_y(ahead) @ about_x(down),
        middles=before(camera, ahead[:, None], -radii),
        radii=radii,
        centres=before(camera, ahead[:, None], -halves[:, :, 1]),
        halves=halves,
        box_axes=about_y(between(0, math.pi, BOXES)),
        colours=between(0.25, 1, 6 + BALLS + BOXES, 3),
        grains=between(1.8, 2.2, 6 + BALLS + BOXES),
    )


def about_y(angle: Float[Tensor, "*n"]) -> Float[Tensor, "*n 3 3"]:
    """The axes after a turn to the right."""
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([cos, zero, sin, zero, one, zero, -sin, zero, cos], -1).unflatten(-1, (3, 3))


def about_x(angle: Float[Tensor, "*n"]) -> Float[Tensor, "*n 3 3"]:
    """The axes after a turn downwards."""
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([one, zero, zero, zero, cos, sin, zero, -sin, cos], -1).unflatten(-1, (3, 3))


def rays(size: tuple[int, int]) -> Float[Tensor, "rays 3"]:
    """Through the middle of each pixel, row by row; one metre ahead."""
    rows, columns = size
    y, x = torch.meshgrid(
        (torch.arange(rows, dtype=torch.float64) + 0.5 - rows / 2) / (FOCAL * columns),
        (torch.arange(columns, dtype=torch.float64) + 0.5 - columns / 2) / (FOCAL * columns),
        indexing="ij",
    )
    return torch.stack([x, y, torch.ones_like(x)], dim=-1).flatten(0, 1)


def render(rooms: Scenes, size: tuple[int, int]) -> tuple[UInt8[Tensor, "n 3 h w"], Float[Tensor, "n h w"]]:
    """What the cameras see, and how far away it is along their optical axes; without shadows."""
    start, way = rooms.camera[:, None, None], (rays(size) @ rooms.axes.mT)[:, None]  # n x shapes x rays x 3

    # The depth at which each ray meets each shape, and which way its surface looks there.
    room, room_normal = inside(start, way, rooms.walls[:, None, :1], rooms.walls[:, None, 1:])
    ball, ball_normal = balls(start, way, rooms.middles[:, :, None], rooms.radii[:, :, None])
    own_start, own_way = (start - rooms.centres[:, :, None]) @ rooms.box_axes, way @ rooms.box_axes
    box, box_normal = boxes(own_start, own_way, rooms.halves[:, :, None])
    depth, shape = torch.cat([room, ball, box], dim=1).min(dim=1)  # n x rays
    normals = torch.cat([room_normal, ball_normal, box_normal @ rooms.box_axes.mT], dim=1)
    normal = normals.gather(1, shape[:, None, :, None].expand(-1, -1, -1, 3))[:, 0]  # n x rays x 3

    # Lambert's light of one lamp, and some from everywhere, on colours with blurred checks.
    place = start[:, 0] + depth[:, :, None] * way[:, 0]
    wall = (normal * torch.tensor([1.0, 2.0, 3.0], dtype=normal.dtype)).sum(-1)  # ±1, ±2, ±3 on a wall
    surface = torch.where(shape > 0, shape + 5, sum((wall == code) * i for i, code in enumerate(WALLS)))
    colour = rooms.colours.gather(1, surface[:, :, None].expand(-1, -1, 3))
    checks = (math.pi * rooms.grains.gather(1, surface)[:, :, None] * place).sin().sum(-1)
    to_lamp = rooms.lamp[:, None] - place
    distance = to_lamp.norm(dim=-1)
    lit = (normal * to_lamp).sum(-1).clamp(min=0) / distance / (1 + distance.square() / 10)
    light = (0.3 + 0.7 * lit) * (0.8 + 0.2 * (2 * checks).tanh())
    images = (255 * colour * light[:, :, None]).round().to(torch.uint8)
    return images.mT.unflatten(2, size), depth.float().unflatten(1, size)


Shape = tuple[Float[Tensor, "n shapes rays"], Float[Tensor, "n shapes rays 3"]]
"""Where each ray meets each shape first, in metres ahead, infinity if never, and the normal there."""


def inside(start: Tensor, way: Tensor, low: Tensor, high: Tensor) -> Shape:
    """The first wall of a room that a ray from within meets: the one that it would leave through."""
    leaves, axis = torch.maximum((low - start) / way, (high - start) / way).min(-1)
    return leaves, facing(way, axis)


def boxes(start: Tensor, way: Tensor, halves: Tensor) -> Shape:
    """A box's first face, in its own coordinates: a ray is inside while it is between all three pairs of faces."""
    first, second = (-halves - start) / way, (halves - start) / way
    enters, axis = torch.minimum(first, second).max(-1)
    leaves = torch.maximum(first, second).amin(-1)
    return torch.where((enters > 0) & (enters < leaves), enters, torch.inf), facing(way, axis)


def balls(start: Tensor, way: Tensor, middles: Tensor, radii: Tensor) -> Shape:
    """The smaller root t of |start + t way - middle|² = radius²."""
    away = start - middles
    a, b, c = way.square().sum(-1), (way * away).sum(-1), away.square().sum(-1) - radii.square()
    root = (b.square() - a * c).sqrt()  # nan where there is none
    depth = (-b - root) / a
    depth = torch.where(depth > 0, depth, torch.inf)
    return depth, (away + depth.nan_to_num(posinf=0)[..., None] * way) / radii[..., None]


def facing(way: Tensor, axis: Tensor) -> Tensor:
    """The normal of a face across that axis, against the ray."""
    across = one_hot(axis, 3).to(way.dtype)
    return -way.sign() * across
