"""Images of a step, as methods see them.

Shapes: N images, (H, W) pixels of a crop.
"""

from typing import NamedTuple

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

__all__ = ["Batch", "Place", "View", "mix_views"]


class Place(NamedTuple):
    """Places of crops in their images, which are resized equally for both crops of a pair."""

    offset: Tensor  # (N, 2) int64, row and column of the first pixel
    flipped: Tensor  # (N,) bool, whether left and right are exchanged in the crop


class View(NamedTuple):
    """Augmented images on the device."""

    image: Tensor  # (N, 3, H, W) float32, normalised
    valid: Tensor  # (N, H, W) bool, False on padding
    label: Tensor | None = None  # (N, H, W) int64, only with labelled images
    index: Tensor | None = None  # type: ignore[assignment]  # hides tuple.index; (N,) int64, indices into the data set
    wanted: Tensor | None = None  # (N,) int64, the class to paste from each, where the method chose the images
    strong: tuple[Tensor, ...] = ()  # the same pixels in other colours, each (N, 3, H, W), if the method wants them
    place: "Place | None" = None  # of each crop in its image, where two views show parts of one image


class Batch(NamedTuple):
    """Images of one step."""

    labelled: View
    unlabelled: tuple[View, ...] = ()  # as many as the method's num_unlabelled_views
    mix_mask: Tensor | None = None  # (N, H, W) bool, True: taken from the second unlabelled view
    paste: View | None = None  # labelled images to paste from, for a method that reads_paste_sources
    seed: int = 0  # of the method's random draws; the same in all processes
    strong_masks: tuple[Tensor, ...] = ()  # as mix_mask, one for each strong view
    replaced: int | None = None  # images that take the place of damaged ones, where the run skips these

    def split(self, num: int) -> list["Batch"]:
        """Split into ``num`` batches of consecutive images and seeds; ``num`` divides the images of each view."""
        parts = [apply_to_collection(self, Tensor, lambda x, i=i: x.chunk(num)[i]) for i in range(num)]
        return [part._replace(seed=self.seed + i) for i, part in enumerate(parts)]


def mix_views(view: View, partner: View, mix_mask: Tensor) -> View:
    """Mix two views (CutMix): image and validity of the partner where ``mix_mask`` (N, H, W) is True."""
    image = torch.where(mix_mask.unsqueeze(1), partner.image, view.image)
    return View(image, torch.where(mix_mask, partner.valid, view.valid))
