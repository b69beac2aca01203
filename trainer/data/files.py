"""Pictures from files: 8-bit images of any kind, and index PNGs as labels."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile

from fpl_fast.trainer.data.store import DamagedPictureError, Kind, Picture, Store

__all__ = ["FileStore", "picture_size"]


# Turn that undoes each EXIF orientation. PIL.ImageOps.exif_transpose writes EXIF anew, too, and fails if it is damaged.
_TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class FileStore(Store):
    """Images and labels below a folder, decoded on demand.

    All pictures, labels included, are turned upright by their EXIF orientation, as viewers and OpenCV do.

    Args:
        root: The folder.
        where_missing: Maps a missing file to the text to append to its message.
    """

    def __init__(self, root: Path, *, where_missing: Callable[[Path], str] | None = None) -> None:
        self.root, self._where_missing = root, where_missing

    def where(self, name: str) -> str:
        """Name of a file in messages."""
        return str(self.root / name)

    def read(self, kind: Kind, name: str) -> Picture:
        """Decode a file.

        Raises:
            DamagedPictureError: The file cannot be decoded.
            ValueError: The file is missing, the system does not let it be read, an image has more than 8 bits a
                channel, or a label is not an 8-bit index PNG.
        """
        path = self.root / name
        with _naming(path, self._where_missing), Image.open(path) as picture:
            (_require_8_bits if kind == "image" else _require_indices)(picture)
            upright, orientation = _turn_upright(picture)
            if kind == "label":
                return Picture(torch.from_numpy(np.array(upright)), orientation)
            pixels = torch.from_numpy(np.array(upright.convert("RGB")))
            return Picture(pixels.permute(2, 0, 1).contiguous(), orientation)

    def size(self, name: str) -> int:
        """Bytes of the file, -1 if it does not exist."""
        path = self.root / name
        return path.stat().st_size if path.is_file() else -1

    def checksum(self, name: str) -> str:
        """SHA-256 of the file."""
        with (self.root / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width of an image, upright by its EXIF orientation; its pixels are not read.

    Raises:
        DamagedPictureError: The file cannot be decoded.
        ValueError: The file is no image that training could read.
    """
    with _naming(path), Image.open(path) as picture:
        _require_8_bits(picture)
        width, height = picture.size
        return (width, height) if _orientation(picture) >= 5 else (height, width)


class _UnfitError(ValueError):
    """A rule of this project that a picture which can be decoded breaks."""


@contextmanager
def _naming(path: Path, where_missing: Callable[[Path], str] | None = None) -> Iterator[None]:
    """Turn every error of reading a picture into one that names its file."""
    try:
        yield
    except FileNotFoundError:
        advice = "" if where_missing is None else where_missing(path)
        raise ValueError(f"{path}: the file must exist, but is missing{advice}") from None
    except _UnfitError as error:
        raise ValueError(f"{path}: {error}") from None
    except MemoryError:
        raise ValueError(
            f"{path}: the image must fit in memory, got no room: lower train.workers, or make the image smaller"
        ) from None
    except Exception as error:  # decoders of broken files fail in too many ways to list
        if str(error).startswith("DataLoader worker"):  # which torch reports from wherever this process happens to be
            raise
        got = (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())
        # An error of the system may pass, and a bomb is whole.
        damaged = not (getattr(error, "errno", None) or isinstance(error, Image.DecompressionBombError))
        unreadable = DamagedPictureError if damaged else ValueError
        raise unreadable(
            f"{path}: the image must be readable, got {got or type(error).__name__}: replace the file"
        ) from None


def _require_8_bits(picture: Image.Image) -> None:
    if picture.mode not in ("RGB", "RGBA", "L", "LA", "P", "CMYK"):
        raise _UnfitError(
            f"an image must have 8 bits a channel, got Pillow mode {picture.mode}: convert it to 8-bit RGB or grey"
        )


def _require_indices(picture: Image.Image) -> None:
    # A palette's entries are read as indices. Grey of fewer bits would be stretched to 0 ... 255 by Pillow.
    if (
        picture.format != "PNG"
        or picture.mode not in ("L", "P")
        or cast("ImageFile", picture).tile[0].args in ("L;2", "L;4")
    ):
        raise _UnfitError(
            f"a label must be an 8-bit single-channel or palette PNG of class indices, "
            f"got {picture.format} of Pillow mode {picture.mode}: store the index of each pixel's class"
        )


def _turn_upright(picture: Image.Image) -> tuple[Image.Image, int]:
    """Decode, undo the rotation or reflection that the EXIF orientation records, and return that orientation, too."""
    orientation = _orientation(picture)
    picture.load()
    turn = _TURNS.get(_orientation(picture))  # TIFF files are turned and lose the record when they are decoded
    return picture if turn is None else picture.transpose(turn), orientation


def _orientation(picture: Image.Image) -> int:
    """EXIF orientation of a picture, 1 ... 8; 1 without a sound one."""
    try:
        found = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except MemoryError:
        raise
    except Exception:  # damaged EXIF fails in many ways, and says nothing about the pixels
        return 1
    return found if found in _TURNS else 1
