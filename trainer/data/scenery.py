"""A street drawn in perspective: the ground, the objects along it, and the people and cars on it.

Coordinates are metres: ``x`` to the right of the camera's path, ``z`` up from the ground. Depth is given as pixels a
metre, ``ppm``: a point lies ``x * ppm`` pixels from the vanishing column and ``(camera height - z) * ppm`` below the
horizon. Objects vary in appearance and share colours across classes, so that a network must learn shape and place.
"""

import random
from collections.abc import Sequence

from PIL import Image, ImageDraw

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PERSON, CYCLIST = range(11)

Color = tuple[int, int, int]
Point = tuple[float, float]  # x, z in metres

_SUPERSAMPLING = 2  # of the picture, not of the label


class Street:
    """A picture and its label, drawn together from far to near.

    Args:
        size: Height and width in pixels.
        rng: Source of all random choices.
    """

    def __init__(self, size: tuple[int, int], rng: random.Random) -> None:
        self.height, self.width = size
        self.rng = rng
        self.horizon = self.height * rng.uniform(0.36, 0.52)
        self.vanishing = self.width * rng.uniform(0.3, 0.7)
        self.camera_height = rng.uniform(1.5, 2.6)
        self.nearest = (self.height - self.horizon) / self.camera_height  # pixels a metre at the bottom row
        self.road_half = rng.uniform(3.2, 6.0)
        self.verge = self.road_half + rng.uniform(1.5, 3.5)  # where pavement ends and fronts begin
        self.picture = Image.new("RGB", (self.width * _SUPERSAMPLING, self.height * _SUPERSAMPLING))
        self.label = Image.new("L", (self.width, self.height), SKY)
        self._paint = ImageDraw.Draw(self.picture)
        self._mark = ImageDraw.Draw(self.label)

    def color(self, *choices: Color, spread: int = 14) -> Color:
        """Draw one of ``choices`` and vary it."""
        pick = self.rng.random
        shade = spread * (2 * pick() - 1)
        red, green, blue = self.rng.choice(choices)
        return (
            min(255, max(0, int(red + shade + spread * (2 * pick() - 1)))),
            min(255, max(0, int(green + shade + spread * (2 * pick() - 1)))),
            min(255, max(0, int(blue + shade + spread * (2 * pick() - 1)))),
        )

    def polygon(self, ppm: float, points: Sequence[Point], color: Color | None, label: int | None) -> None:
        """Fill a polygon at one depth, in the picture if ``color`` is given, in the label if ``label`` is given."""
        self._fill([self._pixel(ppm, point) for point in points], color, label)

    def box(self, ppm: float, low: Point, high: Point, color: Color | None, label: int | None) -> None:
        """Fill the rectangle between two corners."""
        (left, bottom), (right, top) = low, high
        self.polygon(ppm, [(left, bottom), (right, bottom), (right, top), (left, top)], color, label)

    def disc(self, ppm: float, center: Point, radii: Point, color: Color, label: int | None) -> None:
        """Fill an ellipse."""
        (x, y), (half_width, half_height) = self._pixel(ppm, center), (radii[0] * ppm, radii[1] * ppm)
        corners = [x - half_width, y - half_height, x + half_width, y + half_height]
        self._paint.ellipse([value * _SUPERSAMPLING for value in corners], fill=color)
        if label is not None:
            self._mark.ellipse(corners, fill=label)

    def strip(
        self, x: float, z: tuple[float, float], ppm: tuple[float, float], color: Color | None, label: int | None
    ) -> None:
        """Fill an upright strip that runs away from the camera between two depths (near, far)."""
        corners = [(ppm[0], z[0]), (ppm[0], z[1]), (ppm[1], z[1]), (ppm[1], z[0])]
        self._fill([self._pixel(depth, (x, up)) for depth, up in corners], color, label)

    def ground(self, x: tuple[float, float], ppm: tuple[float, float], color: Color, label: int | None) -> None:
        """Fill a piece of the ground between two lateral positions and two depths."""
        corners = [(ppm[0], x[0]), (ppm[0], x[1]), (ppm[1], x[1]), (ppm[1], x[0])]
        self._fill([self._pixel(depth, (across, 0.0)) for depth, across in corners], color, label)

    def _pixel(self, ppm: float, point: Point) -> Point:
        return self.vanishing + point[0] * ppm, self.horizon + (self.camera_height - point[1]) * ppm

    def _fill(self, pixels: list[Point], color: Color | None, label: int | None) -> None:
        if color is not None:
            self._paint.polygon([(x * _SUPERSAMPLING, y * _SUPERSAMPLING) for x, y in pixels], fill=color)
        if label is not None:
            self._mark.polygon(pixels, fill=label)


def depths(first: float, last: float, num: int) -> list[float]:
    """Compute ``num`` depths in geometric progression, both ends included; they look about evenly spaced."""
    ratio = (last / first) ** (1 / (num - 1))
    return [first * ratio**step for step in range(num)]


def draw_ground(street: Street) -> None:
    """Draw road, pavements and markings, up to the horizon."""
    rng, reach = street.rng, (1.2 * street.nearest, 0.0)
    street.ground((-60, 60), reach, street.color((128, 124, 112), (110, 118, 84), (150, 140, 128)), PAVEMENT)
    asphalt = street.color((96, 96, 100), (120, 118, 116), (80, 82, 90))
    street.ground((-street.road_half, street.road_half), reach, asphalt, ROAD)
    kerb = street.color((170, 168, 160), (120, 116, 110))
    for side in (-1, 1):
        street.ground((side * street.road_half, side * (street.road_half + 0.2)), reach, kerb, PAVEMENT)
    paint = street.color((215, 212, 200), (190, 170, 90))
    for middle in rng.sample([-2.2, 0.0, 2.2], rng.randint(1, 2)):
        far = street.nearest * 1.2
        while far > 1.0:
            street.ground((middle - 0.08, middle + 0.08), (far, far * 0.75), paint, ROAD)
            far *= 0.5
    if rng.random() < 0.25:  # zebra crossing
        near = street.nearest * rng.uniform(0.3, 0.8)
        for stripe in range(int(2 * street.road_half - 0.5)):
            x = 0.4 - street.road_half + stripe
            street.ground((x, x + 0.5), (near, near * 0.75), paint, ROAD)


def draw_building(street: Street, side: int, near: float, far: float) -> None:
    """Draw a front along the street with windows, a shop and perhaps a sign board that is not a traffic sign."""
    rng = street.rng
    x, top = side * (street.verge + rng.uniform(0, 1.5)), rng.uniform(4, 18)
    wall = street.color((150, 96, 78), (176, 164, 142), (128, 128, 132), (196, 200, 204), (104, 112, 96))
    street.strip(x, (0, top), (near, far), wall, BUILDING)
    if rng.random() < 0.6:
        glass = street.color((60, 68, 80), (150, 176, 200), (36, 36, 42))
        steps = depths(near, far, 2 * rng.randint(2, 5))
        floor, storey = 3.2, rng.uniform(2.6, 3.6)
        while floor < top - 1.0:
            for left, right in zip(steps[0::2], steps[1::2], strict=True):
                street.strip(x, (floor, floor + 1.5), (left, right), glass, None)
            floor += storey
    if rng.random() < 0.5:
        street.strip(x, (0.3, 2.4), (near * 0.95, far * 1.05), street.color((70, 60, 56), (120, 140, 150)), None)
    if rng.random() < 0.3:
        board = street.color((200, 40, 40), (230, 200, 40), (30, 70, 170))
        street.strip(x, (2.5, 3.1), (near * 0.9, far * 1.1), board, None)


def draw_fence(street: Street, side: int, near: float, far: float) -> None:
    """Draw rails and pickets, or boards; gaps between them are labelled as fence, too."""
    rng = street.rng
    x, top = side * (street.verge - rng.uniform(0.1, 0.6)), rng.uniform(0.9, 1.8)
    color = street.color((120, 112, 104), (84, 72, 60), (160, 164, 166), (70, 92, 66))
    solid = rng.random() < 0.35
    street.strip(x, (0, top), (near, far), color if solid else None, FENCE)
    for rail in (0.15, 0.5 * top, top - 0.1):
        street.strip(x, (rail, rail + 0.1), (near, far), color, None)
    red, green, blue = (value * 2 // 3 for value in color)
    dark = street.color((red, green, blue), spread=4) if solid else color
    for ppm in depths(near, far, rng.randint(8, 16)):
        street.box(ppm, (x - 0.04, 0), (x + 0.04, top), dark, None)


def draw_tree(street: Street, x: float, ppm: float) -> None:
    """Draw a trunk under a crown of leaves, or a bush."""
    rng = street.rng
    leaves = ((64, 92, 48), (86, 108, 56), (48, 70, 44), (132, 104, 52), (110, 116, 96))
    radius, foot = rng.uniform(0.9, 2.2), 0.0
    if rng.random() < 0.75:
        foot = rng.uniform(1.6, 3.2)
        street.box(ppm, (x - 0.12, 0), (x + 0.12, foot + radius), street.color((84, 70, 58), (108, 100, 92)), TREE)
    else:
        radius *= 0.6
    base = rng.choice(leaves)
    for _ in range(rng.randint(5, 8)):
        center = (x + radius * rng.uniform(-0.7, 0.7), foot + radius * rng.uniform(0.4, 1.5))
        size = radius * rng.uniform(0.35, 0.7)
        street.disc(ppm, center, (size, size * rng.uniform(0.7, 1.1)), street.color(base, spread=18), TREE)


def draw_pole(street: Street, x: float, ppm: float) -> None:
    """Draw a post with a lamp, or with traffic signs."""
    rng = street.rng
    signs = rng.choice((0, 0, 1, 1, 2))
    top = rng.uniform(2.6, 3.4) if signs else rng.uniform(4.5, 7.0)
    metal = street.color((110, 112, 114), (70, 74, 72), (150, 150, 146), (92, 82, 70))
    half = max(rng.uniform(0.05, 0.1), 0.5 / ppm)  # never thinner than a pixel
    street.box(ppm, (x - half, 0), (x + half, top), metal, POLE)
    if not signs:
        arm = rng.choice([-1, 1]) * rng.uniform(0.6, 1.4)
        street.box(ppm, (min(x, x + arm), top - 0.15), (max(x, x + arm), top), metal, POLE)
    for place in range(signs):
        z, size = top - 0.4 - 0.9 * place, rng.uniform(0.3, 0.45)
        face = street.color((205, 40, 44), (30, 80, 170), (235, 200, 50), (226, 226, 222), (40, 120, 70))
        inner = street.color((230, 230, 226), (30, 30, 34))
        shape = rng.randrange(3)
        if shape == 0:
            street.disc(ppm, (x, z), (size, size), face, SIGN)
            street.disc(ppm, (x, z), (0.6 * size, 0.6 * size), inner, None)
        elif shape == 1:
            street.polygon(ppm, [(x - size, z - size), (x + size, z - size), (x, z + size)], face, SIGN)
        else:
            street.box(ppm, (x - 1.3 * size, z - 0.8 * size), (x + 1.3 * size, z + 0.8 * size), face, SIGN)
            street.box(ppm, (x - 0.9 * size, z - 0.2 * size), (x + 0.9 * size, z + 0.2 * size), inner, None)


def draw_car(street: Street, x: float, ppm: float) -> None:
    """Draw a car or a van, seen from behind or from its side."""
    rng = street.rng
    body = street.color((150, 30, 34), (30, 44, 90), (210, 212, 214), (44, 46, 50), (110, 112, 116), (160, 150, 120))
    glass, tyre = street.color((40, 50, 60), (130, 150, 166)), street.color((24, 24, 26), spread=6)
    half, top = rng.uniform(0.8, 1.0), rng.uniform(1.35, 1.6)
    side_view = rng.random() < 0.3
    if side_view:
        half *= 2.4
    if rng.random() < 0.15:
        top *= 1.5
    street.ground((x - 1.1 * half, x + 1.1 * half), (ppm * 1.02, ppm * 0.93), (34, 34, 38), None)  # its shadow
    waist = 0.58 * top
    shrink = 0.62 if side_view else 0.82
    roof = [(x - half, waist), (x + half, waist), (x + shrink * half, top), (x - shrink * half, top)]
    street.polygon(ppm, roof, body, CAR)
    window = [(x + 0.86 * (px - x), waist + 0.86 * (pz - waist)) for px, pz in roof]
    street.polygon(ppm, window, glass, None)
    for wheel in (-0.68, 0.68):
        street.disc(ppm, (x + wheel * half, 0.28), (0.3 if side_view else 0.14, 0.3), tyre, CAR)
    street.box(ppm, (x - half, 0.25), (x + half, waist), body, CAR)
    lamp = street.color((190, 30, 30), (240, 236, 210))
    for edge in (-0.9, 0.72):
        street.box(ppm, (x + edge * half, 0.62), (x + (edge + 0.18) * half, 0.78), lamp, None)
    if not side_view:
        street.box(ppm, (x - 0.3 * half, 0.4), (x + 0.3 * half, 0.54), (220, 220, 210), None)


def draw_person(street: Street, x: float, ppm: float, label: int = PERSON, foot: float = 0.0) -> None:
    """Draw legs, body and head of a person; ``foot`` lifts a rider off the ground."""
    rng = street.rng
    size = rng.uniform(0.9, 1.08) * (0.75 if rng.random() < 0.12 else 1.0)
    trousers = street.color((40, 44, 62), (84, 76, 66), (110, 112, 116), (30, 30, 32))
    coat = street.color((150, 40, 44), (46, 60, 100), (204, 200, 190), (40, 42, 44), (120, 110, 60), (96, 110, 100))
    skin = street.color((222, 180, 150), (150, 104, 78), (90, 62, 48))
    stride = rng.uniform(0.02, 0.22)
    for leg in (-1, 1):
        hip, heel = x + 0.07 * leg, x + stride * leg
        steps = [(hip - 0.09, 0.85), (hip + 0.09, 0.85), (heel + 0.07, 0.0), (heel - 0.07, 0.0)]
        street.polygon(ppm, [(px, foot + size * pz) for px, pz in steps], trousers, label)
    street.disc(ppm, (x, foot + 1.12 * size), (0.24, 0.36 * size), coat, label)
    street.disc(ppm, (x, foot + 1.6 * size), (0.11, 0.14 * size), skin, label)


def draw_cyclist(street: Street, x: float, ppm: float) -> None:
    """Draw a person on two wheels, seen from the side or from behind."""
    rng = street.rng
    frame = street.color((30, 30, 34), (150, 40, 40), (60, 110, 140))
    side_view = rng.random() < 0.6
    for wheel in (-0.52, 0.52) if side_view else (0.0,):
        radii = (0.34, 0.34) if side_view else (0.06, 0.34)
        street.disc(ppm, (x + wheel, 0.34), radii, frame, CYCLIST)
        if side_view:
            street.disc(ppm, (x + wheel, 0.34), (0.25, 0.25), street.color((110, 110, 108)), None)
    if side_view:
        street.polygon(ppm, [(x - 0.5, 0.3), (x + 0.45, 0.85), (x + 0.1, 0.3)], frame, CYCLIST)
    draw_person(street, x, ppm, label=CYCLIST, foot=0.3)
