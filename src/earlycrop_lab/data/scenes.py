"""Rendered rooms with exact depths, made on the spot, so that depth can be tried without a download.

A room has boxes and balls on its floor and one lamp, and is seen by a pinhole camera. The ray of a pixel leaves the
camera along (x, y, 1), so that the parameter t at which it meets a surface is the depth along the optical axis.
Intersections with every shape have a closed form, and a ray sees the nearest.

Coordinates, in metres: x to the right, y down to the floor at y = 0, z away. Walls are parallel to these axes; boxes
are rotated about the vertical, and the camera about the vertical and then downwards.
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
"""Focal length in widths of the image: a view of 58 degrees, like a Kinect's."""

BALLS, BOXES = 3, 3
TRAIN, TEST = 400, 100
SEED = 2022
WALLS = (-2, 2, 1, -1, 3, -3)
"""The normals of floor, ceiling, left, right, rear and front wall: the number of the axis, and its sign."""
BLOCK = 50
"""The number of rooms to render at once."""


@dataclass(frozen=True)
class Scenes:
    """n rooms with their lamps, cameras, balls and boxes; lengths in metres.

    Args:
        walls: The least and the largest x, y, z of each room.
        lamp: Position of the lamp.
        camera: Position of the camera.
        axes: The camera's axes right, down and ahead, as columns.
        middles: Centres of the balls.
        radii: Radii of the balls.
        centres: Centres of the boxes.
        halves: Half the sides of the boxes, along their own axes.
        box_axes: The boxes' own axes, as columns.
        colours: Colours of floor, ceiling, left, right, rear and front wall, balls and boxes; 0 to 1.
        grains: Density of the texture on each of these, in checks per metre.
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
        """A slice of the rooms."""
        return Scenes(**{each.name: getattr(self, each.name)[some] for each in fields(self)})


def scenes(size: tuple[int, int], depth_size: tuple[int, int], train: int = TRAIN, test: int = TEST) -> Pairs:
    """Rooms to train on and others to test on, always the same ones.

    Args:
        size: Height and width of the images and of the test depths, in pixels.
        depth_size: Height and width of the training depths, each the mean over the area it covers.
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
    """n random rooms, in float64; shapes may lie behind a wall, where they are not visible."""

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator, dtype=torch.float64)

    def before(camera: Tensor, ahead: Tensor, height: Tensor) -> Tensor:
        """Random places in front of the camera, at the given heights."""
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
    """The axes after a rotation to the right by an angle in radians, as columns."""
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([cos, zero, sin, zero, one, zero, -sin, zero, cos], -1).unflatten(-1, (3, 3))


def about_x(angle: Float[Tensor, "*n"]) -> Float[Tensor, "*n 3 3"]:
    """The axes after a rotation downwards by an angle in radians, as columns."""
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([one, zero, zero, zero, cos, sin, zero, -sin, cos], -1).unflatten(-1, (3, 3))


def rays(size: tuple[int, int]) -> Float[Tensor, "rays 3"]:
    """The points (x, y, 1) through the centre of each pixel, row by row, in the camera's axes."""
    rows, columns = size
    y, x = torch.meshgrid(
        (torch.arange(rows, dtype=torch.float64) + 0.5 - rows / 2) / (FOCAL * columns),
        (torch.arange(columns, dtype=torch.float64) + 0.5 - columns / 2) / (FOCAL * columns),
        indexing="ij",
    )
    return torch.stack([x, y, torch.ones_like(x)], dim=-1).flatten(0, 1)


def render(rooms: Scenes, size: tuple[int, int]) -> tuple[UInt8[Tensor, "n 3 h w"], Float[Tensor, "n h w"]]:
    """Render the rooms: images, and depths in metres along the optical axes; without shadows."""
    start, way = rooms.camera[:, None, None], (rays(size) @ rooms.axes.mT)[:, None]  # n x shapes x rays x 3

    # The depth at which each ray meets each shape, and the surface's normal there.
    room, room_normal = inside(start, way, rooms.walls[:, None, :1], rooms.walls[:, None, 1:])
    ball, ball_normal = balls(start, way, rooms.middles[:, :, None], rooms.radii[:, :, None])
    own_start, own_way = (start - rooms.centres[:, :, None]) @ rooms.box_axes, way @ rooms.box_axes
    box, box_normal = boxes(own_start, own_way, rooms.halves[:, :, None])
    depth, shape = torch.cat([room, ball, box], dim=1).min(dim=1)  # n x rays
    normals = torch.cat([room_normal, ball_normal, box_normal @ rooms.box_axes.mT], dim=1)
    normal = normals.gather(1, shape[:, None, :, None].expand(-1, -1, -1, 3))[:, 0]  # n x rays x 3

    # Lambertian light of one lamp, plus ambient light, on colours with blurred checks.
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
"""The depth in metres at which each ray first meets each shape, infinity if never, and the normal there."""


def inside(start: Tensor, way: Tensor, low: Tensor, high: Tensor) -> Shape:
    """The intersection of a ray from inside a room with the wall through which it leaves."""
    leaves, axis = torch.maximum((low - start) / way, (high - start) / way).min(-1)
    return leaves, facing(way, axis)


def boxes(start: Tensor, way: Tensor, halves: Tensor) -> Shape:
    """The first intersection with a box, in its coordinates: a ray is inside while between all three pairs of faces."""
    first, second = (-halves - start) / way, (halves - start) / way
    enters, axis = torch.minimum(first, second).max(-1)
    leaves = torch.maximum(first, second).amin(-1)
    return torch.where((enters > 0) & (enters < leaves), enters, torch.inf), facing(way, axis)


def balls(start: Tensor, way: Tensor, middles: Tensor, radii: Tensor) -> Shape:
    """The first intersection with a ball: the smaller root t of |start + t way - middle|² = radius²."""
    away = start - middles
    a, b, c = way.square().sum(-1), (way * away).sum(-1), away.square().sum(-1) - radii.square()
    root = (b.square() - a * c).sqrt()  # nan where the ray misses the ball
    depth = (-b - root) / a
    depth = torch.where(depth > 0, depth, torch.inf)
    return depth, (away + depth.nan_to_num(posinf=0)[..., None] * way) / radii[..., None]


def facing(way: Tensor, axis: Tensor) -> Tensor:
    """The normal of a face perpendicular to an axis, pointing against the ray."""
    across = one_hot(axis, 3).to(way.dtype)
    return -way.sign() * across
