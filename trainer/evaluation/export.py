"""Predictions as files: class indices, colours, and label ids for the Cityscapes benchmark."""

import io
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fpl_fast.trainer.config import FileData, RunConfig
from fpl_fast.trainer.data.cityscapes import CITYSCAPES_LABEL_IDS
from fpl_fast.trainer.data.folder import FolderDataset
from fpl_fast.trainer.data.sample import Palette, SegmentationDataset
from fpl_fast.trainer.evaluation.protocol import named_protocol
from fpl_fast.trainer.writing.outputs import Outputs

__all__ = ["Exporter", "index_png", "label_id_png", "overlay_jpeg"]


def index_png(prediction: np.ndarray, palette: Palette) -> bytes:
    """Encode class indices as an 8-bit PNG that carries the class colours as its palette.

    Args:
        prediction: (H, W) uint8.
        palette: Colour of each class.
    """
    picture = Image.fromarray(prediction)
    picture.putpalette([channel for color in palette for channel in color])
    return _encode(picture, "PNG")


def overlay_jpeg(pixels: np.ndarray, prediction: np.ndarray, palette: Palette) -> bytes:
    """Encode an image blended half and half with the class colours, as a JPEG.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        prediction: (H, W) uint8.
        palette: Colour of each class.
    """
    colors = np.array(palette, dtype=np.uint8)[prediction]
    return _encode(Image.blend(Image.fromarray(pixels), Image.fromarray(colors), 0.5), "JPEG", quality=90)


def label_id_png(prediction: np.ndarray) -> bytes:
    """Encode train ids as the 8-bit PNG of official label ids that the Cityscapes benchmark evaluates.

    Args:
        prediction: (H, W) uint8 in 0 ... 18.
    """
    return _encode(Image.fromarray(np.array(CITYSCAPES_LABEL_IDS, dtype=np.uint8)[prediction]), "PNG")


def _encode(picture: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


class Exporter:
    """Writes each prediction of an evaluation to ``NAME.png``: label ids for Cityscapes, class indices otherwise.

    Where images in several folders share a name, the files keep the folders of the images below their common folder.

    Args:
        out: The folder to write to.
        dataset: The images, with their names.
        config: The run.

    Raises:
        ValueError: The run's protocol does not predict whole images, two images would have one prediction, or a file
            in the folder would be lost (:class:`Outputs`).
    """

    def __init__(self, out: Path, dataset: SegmentationDataset, config: RunConfig) -> None:
        if named_protocol(config.eval.protocol, config.eval.window).centre is not None:
            raise ValueError(f"--export needs whole images: --protocol must not be {config.eval.protocol!r}")
        self.dataset = dataset
        self.places = _places(dataset)
        self.label_ids = config.data.kind == "city"
        reads: list[Path] = []
        if isinstance(dataset, FolderDataset) and isinstance(config.data, FileData):
            root = Path(config.data.root)
            reads = [root / name for pair in dataset.pairs for name in pair]
        self._outputs = Outputs(out, self.places, reads=reads, option="--export")

    def __call__(self, index: int, prediction: Tensor) -> None:
        """Write the (H, W) classes of the image ``index``."""
        indices = prediction.to("cpu", torch.uint8).numpy()
        picture = label_id_png(indices) if self.label_ids else index_png(indices, self.dataset.palette)
        self._outputs.write(self.places[index], picture)


def _places(dataset: SegmentationDataset) -> list[Path]:
    """Path of each prediction, relative to the folder of all predictions."""
    places = [Path(f"{dataset.name(index)}.png") for index in range(len(dataset))]
    if len(set(places)) < len(places) and isinstance(dataset, FolderDataset):
        images = [Path(pair.image) for pair in dataset.pairs]
        common = os.path.commonpath([image.parent for image in images])
        places = [image.relative_to(common).parent / place for image, place in zip(images, places, strict=True)]
    if len(set(places)) < len(places):
        name = max(places, key=places.count).with_suffix("")
        raise ValueError(
            f"--export needs images that differ in name, got {os.fspath(name)!r} twice: rename one of them"
        )
    return places
