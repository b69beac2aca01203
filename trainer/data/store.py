"""Interface to the sources of decoded pictures: files (files.py) or a pack (pack.py)."""

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

from torch import Tensor

__all__ = ["DamagedPictureError", "Kind", "Picture", "Store"]

Kind = Literal["image", "label"]


class DamagedPictureError(ValueError):
    """A picture is there but its bytes are not what they were: cut short, overwritten, or no picture at all."""


class Picture(NamedTuple):
    """A decoded image or label.

    Attributes:
        pixels: (3, H, W) uint8 RGB of an image, (H, W) uint8 stored indices of a label; upright.
        orientation: EXIF orientation 1 ... 8 of the file, which has been applied; 1 is upright as stored.
    """

    pixels: Tensor
    orientation: int


class Store(ABC):
    """Images and labels by their paths below the root of a data set."""

    @abstractmethod
    def where(self, name: str) -> str:
        """Name of a picture in messages."""

    @abstractmethod
    def read(self, kind: Kind, name: str) -> Picture:
        """Decode a picture.

        Raises:
            DamagedPictureError: It cannot be decoded.
            ValueError: It is missing or breaks a rule of its kind.
        """

    @abstractmethod
    def size(self, name: str) -> int:
        """Bytes of an image as it is stored; equal for equal contents. -1 if it cannot be read."""

    @abstractmethod
    def checksum(self, name: str) -> str:
        """Digest of an image as it is stored."""

    def image(self, name: str) -> Tensor:
        """Read an image, (3, H, W) uint8, RGB."""
        return self.read("image", name).pixels

    def label(self, name: str) -> Tensor:
        """Read a label, (H, W) uint8, the indices as they are stored."""
        return self.read("label", name).pixels
