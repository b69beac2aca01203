"""CutMix masks: boxes combined by exclusive or, as in Cross Pseudo Supervision, and single boxes, as in UniMatch."""

import numpy as np
import torch
from torch import Tensor


def cutmix_masks(
    num: int,
    size: tuple[int, int],
    rng: np.random.Generator,
    *,
    num_boxes: int = 3,
    area_range: tuple[float, float] = (0.25, 0.5),
) -> Tensor:
    """Draw box masks; True takes the pixel from the partner image.

    Each box has an area P / num_boxes of the image with P ~ U(area_range) and an aspect set by its height fraction
    P^u / sqrt(num_boxes), u ~ U(0, 1). Where boxes overlap they cancel: with three boxes of P in (0.25, 0.5) a mask
    covers 25 % of the image on average (French et al. 2020, as used by Chen et al. 2021). All P are drawn first, then
    all u, then all positions (y before x).

    Args:
        num: Number of masks.
        size: Height and width of a mask in pixels.
        rng: The only source of randomness.
        num_boxes: Boxes a mask, at least 1.
        area_range: Range of P, within (0, 1].

    Returns:
        (num, H, W) bool.

    Raises:
        ValueError: If num_boxes or area_range breaks its rule.
    """
    low, high = area_range
    if num_boxes < 1:
        raise ValueError(f"num_boxes must be at least 1, got {num_boxes}")
    if not 0 < low <= high <= 1:
        raise ValueError(f"area_range must satisfy 0 < low <= high <= 1, got {area_range}")

    area = rng.uniform(low, high, size=(num, num_boxes))
    height = area ** rng.uniform(size=(num, num_boxes))
    fractions = np.stack([height, area / height], axis=-1) / np.sqrt(num_boxes)
    box_size = np.round(fractions * size).astype(int)
    corner = np.round((size - box_size) * rng.uniform(size=box_size.shape)).astype(int)

    masks = np.zeros((num, *size), dtype=bool)
    for mask, corners, sizes in zip(masks, corner, box_size, strict=True):
        for (top, left), (box_height, box_width) in zip(corners, sizes, strict=True):
            box = mask[top : top + box_height, left : left + box_width]
            np.logical_not(box, out=box)
    return torch.from_numpy(masks)


def fitting_boxes(
    num: int,
    size: tuple[int, int],
    rng: np.random.Generator,
    *,
    probability: float = 0.5,
    area_range: tuple[float, float] = (0.02, 0.4),
    aspect_range: tuple[float, float] = (0.3, 1 / 0.3),
) -> Tensor:
    """Draw masks of one box or, with ``1 - probability``, none; True takes the pixel from the partner image.

    A box has an area A ~ U(area_range) of the image. Its aspect r ~ U(aspect_range), height over width in units of the
    image's sides, and its corner, uniform over the pixels, are drawn together until it fits (Yang et al. 2023). It
    fits with a chance that is proportional to the number of corners left, which favours r near 1. Here r is drawn with
    this chance at once, on a grid, so that no draw repeats.

    Args:
        num: Number of masks.
        size: Height and width of a mask in pixels.
        rng: The only source of randomness.
        probability: Probability that a mask has a box.
        area_range: Range of A, within (0, 1].
        aspect_range: Range of r, around 1.

    Returns:
        (num, H, W) bool.
    """
    masks = np.zeros((num, *size), dtype=bool)
    grid = np.append(np.linspace(*aspect_range, 1023), 1.0)  # with r = 1 every box fits
    for mask in masks:
        drawn, area = rng.random() < probability, rng.uniform(*area_range)
        lengths = np.stack([np.sqrt(area * grid), np.sqrt(area / grid)], axis=-1) * size
        lengths = lengths.astype(int)
        corners = np.clip(np.array(size) - lengths + 1, 0, size)  # positions at which each fits
        chance = corners.prod(-1) / corners.prod(-1).sum()
        chosen = rng.choice(len(grid), p=chance)
        (top, left), (height, width) = rng.integers(corners[chosen]), lengths[chosen]
        mask[top : top + height, left : left + width] = drawn
    return torch.from_numpy(masks)
