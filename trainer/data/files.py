"""Pictures from files: 8-bit images of any kind, and index PNGs as labels."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["FileStore"]

T = TypeVar("T")


class FileStore:
    """Images and labels below a folder, decoded when they are asked for.

    Args:
        root: The folder.
        where_missing: From a missing file to what the message about it adds.
    """

    def __init__(self, root: Path, *, where_missing: Callable[[Path], str] | None = None) -> None:
        self.root, self._where_missing = root, where_missing

    def where(self, name: str) -> str:
        """What messages call a file."""
        return str(self.root / name)

    def image(self, name: str) -> Tensor:
        """(3, H, W) uint8, RGB.

        Raises:
            ValueError: The file is missing, unreadable, or has more than 8 bits a channel.
        """
        pixels = self._open(self.root / name, _decode_image)
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()

    def label(self, name: str) -> Tensor:
        """(H, W) uint8, the indices as they are stored.

        Raises:
            ValueError: The file is missing, unreadable, or no 8-bit index PNG.
        """
        return torch.from_numpy(self._open(self.root / name, _decode_label))

    def _open(self, path: Path, decode: Callable[[Image.Image], T]) -> T:
        """Decode a picture, with every failure as one line that names the file."""
        try:
            with Image.open(path) as picture:
                return decode(picture)
        except FileNotFoundError:
            advice = "" if self._where_missing is None else self._where_missing(path)
            raise ValueError(f"{path}: the file must exist, but is missing{advice}") from None
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's words for broken files
            raise ValueError(f"{path}: the image must be readable, got {' '.join(str(error).split())}") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def _decode_image(picture: Image.Image) -> np.ndarray:
    if picture.mode not in ("RGB", "RGBA", "L", "LA", "P", "CMYK"):
        raise ValueError(f"an image must have 8 bits a channel, got Pillow mode {picture.mode}")
    return np.array(picture.convert("RGB"))


def _decode_label(picture: Image.Image) -> np.ndarray:
    # A palette's entries are read as indices. Grey of fewer bits would be stretched to 0 ... 255 by Pillow.
    if picture.format != "PNG" or picture.mode not in ("L", "P") or picture.tile[0].args in ("L;2", "L;4"):
        raise ValueError(
            f"a label must be an 8-bit single-channel or palette PNG of class indices, "
            f"got {picture.format} of Pillow mode {picture.mode}"
        )
    return np.array(picture)
