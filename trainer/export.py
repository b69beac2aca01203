"""Predictions as files: indices, colours, and what the Cityscapes benchmark reads."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fpl_fast.trainer.config import RunConfig
from fpl_fast.trainer.data.cityscapes import CITYSCAPES_LABEL_IDS
from fpl_fast.trainer.data.sample import Palette, SegmentationDataset
from fpl_fast.trainer.protocol import named_protocol

__all__ = ["Exporter", "save_index_png", "save_label_ids", "save_overlay"]


def save_index_png(prediction: np.ndarray, palette: Palette, path: Path) -> None:
    """Write class indices as an 8-bit PNG that carries the class colours as its palette.

    Args:
        prediction: (H, W) uint8.
        palette: Colour of each class.
        path: The file; its folder is made.
    """
    picture = Image.fromarray(prediction)
    picture.putpalette([channel for color in palette for channel in color])
    _save(picture, path)


def save_overlay(pixels: np.ndarray, prediction: np.ndarray, palette: Palette, path: Path) -> None:
    """Write an image with the class colours laid half over it.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        prediction: (H, W) uint8.
        palette: Colour of each class.
        path: The file; its folder is made.
    """
    colors = np.array(palette, dtype=np.uint8)[prediction]
    _save(Image.blend(Image.fromarray(pixels), Image.fromarray(colors), 0.5), path, quality=90)


def save_label_ids(prediction: np.ndarray, path: Path) -> None:
    """Write train ids as the 8-bit PNG of official label ids that the Cityscapes benchmark evaluates.

    Args:
        prediction: (H, W) uint8 in 0 ... 18.
        path: The file; its folder is made. The benchmark finds it by the beginning of its name, CITY_SEQUENCE_FRAME.
    """
    _save(Image.fromarray(np.array(CITYSCAPES_LABEL_IDS, dtype=np.uint8)[prediction]), path)


def _save(picture: Image.Image, path: Path, **options: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)


class Exporter:
    """Writes each prediction of an evaluation to ``NAME.png``: label ids for Cityscapes, class indices otherwise.

    Args:
        out: The folder.
        dataset: Names the images.
        config: The run.

    Raises:
        ValueError: The run's protocol does not predict whole images, or two images have one name.
    """

    def __init__(self, out: Path, dataset: SegmentationDataset, config: RunConfig) -> None:
        if named_protocol(config.eval.protocol, config.eval.window).centre is not None:
            raise ValueError(f"--export needs whole images: --protocol must not be {config.eval.protocol!r}")
        names = [dataset.name(index) for index in range(len(dataset))]
        if len(set(names)) < len(names):
            raise ValueError(f"--export needs images that differ in name, got {max(names, key=names.count)!r} twice")
        self.out, self.dataset = out, dataset
        self.label_ids = config.data.kind == "city"

    def __call__(self, index: int, prediction: Tensor) -> None:
        """Write (H, W) classes of the image ``index``."""
        indices = prediction.to("cpu", torch.uint8).numpy()
        path = self.out / f"{self.dataset.name(index)}.png"
        if self.label_ids:
            save_label_ids(indices, path)
        else:
            save_index_png(indices, self.dataset.palette, path)
