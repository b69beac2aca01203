"""Street-like scenes drawn on demand: no download, any number of images, each fixed by (seed, index)."""

import itertools
import random
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFilter

from fpl_fast.trainer.config import SyntheticData
from fpl_fast.trainer.data import scenery
from fpl_fast.trainer.data.sample import Palette, Sample


class View(NamedTuple):
    """Things that scenes show, and their classes."""

    class_names: tuple[str, ...]
    palette: Palette
    class_of_kind: tuple[int, ...]  # of each kind that is drawn
    farthest: float  # pixels a metre of a thing at the end of the street
    num_people: float  # mean numbers
    num_cyclists: float


_SKY, _BUILDING, _POLE, _ROAD, _PAVEMENT, _TREE = (
    (70, 130, 180), (70, 70, 70), (153, 153, 153), (128, 64, 128), (244, 35, 232), (107, 142, 35),
)  # fmt: skip
_SIGN, _FENCE, _CAR, _PERSON, _CYCLIST = (220, 220, 0), (190, 153, 153), (0, 0, 142), (220, 20, 60), (119, 11, 32)
_VOID = SyntheticData.ignore_index
VIEWS: Mapping[str, View] = {
    "far": View(
        ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "person", "cyclist"),
        (_SKY, _BUILDING, _POLE, _ROAD, _PAVEMENT, _TREE, _SIGN, _FENCE, _CAR, _PERSON, _CYCLIST),
        class_of_kind=tuple(range(11)),
        farthest=3.0,
        num_people=2.5,
        num_cyclists=0.7,
    ),
    # Cyclists are people; posts and signs, a pixel or two wide, are void: networks that answer at a quarter of the
    # resolution did not learn them from 400 labels either.
    "near": View(
        ("sky", "building", "road", "pavement", "tree", "fence", "car", "person"),
        (_SKY, _BUILDING, _ROAD, _PAVEMENT, _TREE, _FENCE, _CAR, _PERSON),
        class_of_kind=(0, 1, _VOID, 2, 3, 4, _VOID, 5, 6, 7, 7),
        farthest=5.0,
        num_people=5.0,
        num_cyclists=1.4,
    ),
}

# Strength of each kind's mottle (low frequency) and grain (per pixel), relative to its brightness.
_MOTTLE = np.array([0.03, 0.09, 0.05, 0.06, 0.12, 0.30, 0.04, 0.12, 0.05, 0.10, 0.10], dtype=np.float32)
_GRAIN = np.array([0.01, 0.05, 0.03, 0.06, 0.09, 0.16, 0.02, 0.10, 0.02, 0.04, 0.04], dtype=np.float32)


class SyntheticScenes:
    """Synthetic streets with eleven or eight classes under varying light: the built-in data set.

    Road, building and sky fill most of an image. The long tail of the far view follows CamVid: signs, cyclists and
    poles have well under one per cent each; in the near view fences have one, and people three. Colours overlap between
    classes, light, haze, blur and noise vary, and some edges are void, so that a few labelled images do not suffice to
    learn the classes well.

    Args:
        num_images: Length of the data set.
        size: Height and width in pixels, at least 32 each.
        seed: Together with the index, determines an image.
        first: Index of the first image: disjoint ranges of one seed are disjoint sets.
        labelled: Whether samples carry labels.
        view: "far" or "near", see ``SyntheticData.view``.

    Raises:
        ValueError: If an argument breaks its rule.

    Example:
        >>> scenes = SyntheticScenes(100, size=(128, 192))
        >>> scenes[7].image.shape, scenes[7].label.shape
        (torch.Size([3, 128, 192]), torch.Size([128, 192]))
    """

    ignore_index: int = SyntheticData.ignore_index

    def __init__(
        self,
        num_images: int,
        size: tuple[int, int] = (128, 192),
        *,
        seed: int = 0,
        first: int = 0,
        labelled: bool = True,
        view: str = "far",
    ) -> None:
        if num_images < 1:
            raise ValueError(f"num_images must be at least 1, got {num_images}")
        if min(size) < 32:
            raise ValueError(f"size must be at least 32 x 32, got {tuple(size)}")
        if seed < 0 or first < 0:
            raise ValueError(f"seed and first must be at least 0, got {seed} and {first}")
        if view not in VIEWS:
            raise ValueError(f"view must be one of {', '.join(VIEWS)}, got {view!r}")
        self.num_images, self.size, self.seed, self.first, self.labelled = num_images, size, seed, first, labelled
        self.view = VIEWS[view]
        self.class_names, self.palette = self.view.class_names, self.view.palette
        self.num_classes = len(self.class_names)

    def __len__(self) -> int:
        return self.num_images

    def name(self, index: int) -> str:
        """Number of the scene, in six digits."""
        return f"{self.first + index:06d}"

    def __getitem__(self, index: int) -> Sample:
        """Draw one scene.

        Raises:
            IndexError: Outside 0 ... len - 1.
        """
        if not 0 <= index < self.num_images:
            raise IndexError(f"index must be in [0, {self.num_images}), got {index}")
        rng = np.random.default_rng([self.seed, self.first + index])
        street = _draw(self.size, self.view, rng)
        kind = np.array(street.label)
        image = _photograph(street, kind, rng)
        if not self.labelled:
            return Sample(torch.from_numpy(image), None)
        label = np.array(self.view.class_of_kind, dtype=np.uint8)[kind]
        _blur_annotation(label, rng)
        return Sample(torch.from_numpy(image), torch.from_numpy(label))


def _draw(size: tuple[int, int], view: View, rng: np.random.Generator) -> scenery.Street:
    """Compose a street: the backdrop, both fronts, haze, then all things from far to near."""
    pick = random.Random(int(rng.integers(2**63)))  # many times faster than NumPy for one number at a time
    street = scenery.Street(size, pick)
    street.picture.paste(_sky(street, rng))
    for _ in range(pick.randint(2, 9)):  # beyond the end of the street
        x = pick.uniform(-60, 60)
        if pick.random() < 0.5:
            wall = street.color((150, 150, 154), (170, 160, 150), (130, 120, 116))
            street.box(1.3, (x, 0), (x + pick.uniform(4, 16), pick.uniform(4, 20)), wall, scenery.BUILDING)
        else:
            scenery.draw_tree(street, x, 1.3 * pick.uniform(0.8, 1.6))
    scenery.draw_ground(street)
    for side in (-1, 1):
        _draw_front(street, side)
    rows = (np.arange(street.height) - street.horizon) / (0.12 * street.height)
    haze = 255 * pick.uniform(0, 0.6) * np.exp(-np.abs(rows))
    haze = Image.fromarray(haze.astype(np.uint8)[:, None]).resize(street.picture.size, Image.Resampling.NEAREST)
    street.picture.paste(street.color((205, 208, 212), spread=20), mask=haze)

    # Things with their mean number, and where they stand: at a distance x from the middle of the road, on either side.
    road, verge = street.road_half, street.verge
    kinds = (
        (scenery.draw_tree, 2.5, (verge - 0.5, verge + 2.0)),
        (scenery.draw_pole, 2.0, (road + 0.2, road + 0.8)),
        (scenery.draw_car, 1.8, (road - 1.4, road - 0.8)),
        (scenery.draw_car, 0.7, (0.0, 0.6 * road)),
        (scenery.draw_person, view.num_people, (road - 0.5, verge)),
        (scenery.draw_cyclist, view.num_cyclists, (0.3 * road, road - 0.4)),
    )
    things = [(draw, where) for draw, mean, where in kinds for _ in range(rng.poisson(mean))]
    for ppm in sorted(view.farthest * (0.8 * street.nearest / view.farthest) ** pick.random() for _ in things):
        draw, where = things.pop(pick.randrange(len(things)))
        draw(street, pick.choice((-1, 1)) * pick.uniform(*where), ppm)
    return street


def _draw_front(street: scenery.Street, side: int) -> None:
    """Draw buildings, trees and gaps along one side, far to near, with fences before some of them."""
    pick = street.rng
    edges = scenery.depths(1.2, 1.6 * street.nearest, pick.randint(5, 8))
    for far, near in itertools.pairwise(edges):
        kind = pick.random()
        if kind < 0.6:
            scenery.draw_building(street, side, near, far)
        elif kind < 0.85:
            for ppm in scenery.depths(far, near, pick.randint(2, 4)):
                scenery.draw_tree(street, side * (street.verge + pick.uniform(0.5, 3.0)), ppm)
        if pick.random() < 0.25:
            scenery.draw_fence(street, side, near, far)


def _sky(street: scenery.Street, rng: np.random.Generator) -> Image.Image:
    """Draw the sky, a vertical gradient with clouds."""
    top = np.array(street.color((96, 140, 200), (150, 166, 186), (186, 188, 190), (120, 110, 130)), dtype=np.float32)
    low = np.array(street.color((200, 214, 226), (216, 216, 214), (230, 196, 160)), dtype=np.float32)
    fade = np.linspace(0, 1, street.height, dtype=np.float32)[:, None, None]
    sky = top + (low - top) * fade
    clouds = np.clip(_mottle((street.height, street.width), 6, rng) * np.float32(rng.uniform(0, 0.8)), 0, 1)
    sky = sky + (235 - sky) * clouds[..., None]
    return Image.fromarray(sky.astype(np.uint8)).resize(street.picture.size, Image.Resampling.NEAREST)


def _photograph(street: scenery.Street, kind: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn the drawing into a photograph with texture, shadow, light, blur and noise, (3, H, W) uint8."""
    height, width = kind.shape
    picture = street.picture.resize((width, height), Image.Resampling.BOX)
    if rng.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
    pixels = np.asarray(picture, dtype=np.float32).transpose(2, 0, 1) / 255
    texture = _MOTTLE[kind] * (_mottle(kind.shape, 24, rng) + _mottle(kind.shape, 7, rng))
    texture += _GRAIN[kind] * rng.standard_normal(kind.shape, dtype=np.float32)
    pixels = pixels * (1 + texture)

    rows = np.arange(height, dtype=np.float32)[:, None]
    if rng.random() < 0.5:  # the shadow of one side falls on the street
        edge = street.vanishing + rng.uniform(-1, 1) * np.maximum(rows - street.horizon, 0) * street.road_half / 2
        shaded = (np.arange(width) < edge) == (rng.random() < 0.5)
        pixels = np.where(shaded & (kind != scenery.SKY), pixels * rng.uniform(0.45, 0.8), pixels)

    cast = rng.uniform(0.92, 1.08, size=(3, 1, 1)).astype(np.float32)
    left, right = rng.uniform(0.8, 1.15, size=2)
    light = np.linspace(left, right, width, dtype=np.float32)
    pixels = np.clip(pixels * cast * light * np.float32(rng.uniform(0.85, 1.15)), 0, 1) ** rng.uniform(0.75, 1.25)
    noise = rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(rng.uniform(0.005, 0.03))
    shown: np.ndarray = (np.clip(pixels + noise, 0, 1) * 255).astype(np.uint8)
    return shown


def _blur_annotation(label: np.ndarray, rng: np.random.Generator) -> None:
    """Make about a third of the edges void, in place, like the edges that annotators leave out."""
    edge = np.zeros(label.shape, dtype=bool)
    edge[:, 1:] |= label[:, 1:] != label[:, :-1]
    edge[1:] |= label[1:] != label[:-1]
    label[edge & (_mottle(label.shape, 10, rng) > 0.45)] = SyntheticScenes.ignore_index


def _mottle(size: tuple[int, int], cells: int, rng: np.random.Generator) -> np.ndarray:
    """Draw smooth noise of unit variance at its nodes, with about ``cells`` nodes across."""
    height, width = size
    nodes = rng.standard_normal((max(2, cells * height // width), max(2, cells)), dtype=np.float32)
    return np.asarray(Image.fromarray(nodes).resize((width, height), Image.Resampling.BICUBIC))
