"""Prediction of image files by a trained network."""

import os
from collections.abc import Container, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.ImageFile import StubImageFile

from fpl_fast.trainer.data.files import FileStore
from fpl_fast.trainer.data.transforms import normalize
from fpl_fast.trainer.evaluation.protocol import Protocol, named_protocol, predict_classes
from fpl_fast.trainer.evaluation.trained import TrainedRun
from fpl_fast.trainer.models.normalization import normalization

__all__ = ["find_images", "predict_image", "read_image"]


def find_images(paths: Sequence[str | Path], *, skip: Container[Path] = ()) -> dict[Path, Path]:
    """Find the image files that paths name, each with the relative path of its prediction in a folder of predictions.

    Args:
        paths: Image files, and folders that are searched recursively for files of the types that Pillow can read; names
            that begin with a dot are hidden.
        skip: Files in folders that are not to be predicted, such as earlier predictions.

    Returns:
        For each image, in order, its name without suffix: ``NAME``, or its path from the searched folder, ``SUB/NAME``.

    Raises:
        ValueError: A path does not exist, a folder holds no image, or two images would be predicted to the same place.
    """
    suffixes = _readable_suffixes()
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise ValueError(f"{path}: the image or folder must exist, but is missing")
        if path.is_file() and path.suffix.lower() not in suffixes:
            raise ValueError(f"{path}: must be an image or a folder of images, got a file of another type")
        files = [path]
        if path.is_dir():
            files = sorted(
                file
                for file in path.rglob("*")
                if file.suffix.lower() in suffixes
                and file.is_file()
                and not _is_hidden(file.relative_to(path))
                and file not in skip
            )
            if not files:
                raise ValueError(f"{path}: the folder must hold at least one image, got none")
        base = path if path.is_dir() else path.parent
        found |= {file: file.relative_to(base).with_suffix("") for file in files}
    places = list(found.values())
    if len(set(places)) < len(places):
        name = max(places, key=places.count)
        raise ValueError(
            f"IMAGE must differ in name, got {os.fspath(name)!r} more than once: rename one, or predict their folder"
        )
    return found


def _readable_suffixes() -> set[str]:
    """Suffixes of the types that Pillow decodes; others it only writes, or only identifies."""
    suffixes = Image.registered_extensions()  # first, as it loads the types
    openers: dict[str, object] = {kind: opener for kind, (opener, _) in Image.OPEN.items() if kind != "MPEG"}
    return {suffix for suffix, kind in suffixes.items() if kind in openers and not _is_stub(openers[kind])}


def _is_stub(opener: object) -> bool:
    """Whether Pillow identifies a type of files but needs another program to decode it."""
    return isinstance(opener, type) and issubclass(opener, StubImageFile)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def read_image(file: str | Path) -> np.ndarray:
    """Read an image as (H, W, 3) uint8 RGB.

    Raises:
        ValueError: The image is missing, unreadable, or has more than 8 bits a channel.
    """
    file = Path(file)
    return FileStore(file.parent).image(file.name).permute(1, 2, 0).contiguous().numpy()


@torch.inference_mode()
def predict_image(run: TrainedRun, pixels: np.ndarray) -> np.ndarray:
    """Segment one whole image by the protocol of the run's evaluation.

    Args:
        run: Network, normalisation and protocol.
        pixels: (H, W, 3) uint8 RGB.

    Returns:
        (H, W) uint8 class indices.
    """
    config = run.config
    protocol = named_protocol(config.eval.protocol, config.eval.window)
    if protocol.centre is not None:  # such a protocol predicts only a part of an image
        protocol = Protocol()
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(run.fabric.device)
    with run.fabric.autocast():
        prediction = predict_classes(run.network, normalize(image, None, *normalization(config)), protocol)
    return prediction[0].to("cpu", torch.uint8).numpy()
