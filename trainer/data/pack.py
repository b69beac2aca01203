"""A pack: decoded pictures, back to back in one memory-mapped file, so that training decodes nothing.

Format. ``data.bin`` holds the bytes of the arrays, images (3, H, W) and labels (H, W) uint8. ``index.jsonl`` holds a
line of JSON for each: a header, then ``{"kind": "image" | "label", "name": path below the root of the data set,
"offset": bytes, "shape": [...], "crc32": of the array, "source": [bytes, mtime in ns] of the file, "orientation": its
EXIF orientation, which was applied}``. Both files only grow, the index after the data (pack_writer.py): every array in
the index exists, and of two lines with the same kind and name the later one counts. Lines without an orientation come
from writers that decoded every file as if it had none.
"""

import json
import math
import operator
import zlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from fpl_fast.trainer.data.files import FileStore
from fpl_fast.trainer.data.store import DamagedPictureError, Kind, Picture, Store
from fpl_fast.trainer.writing.json_text import begin_of_line

__all__ = ["HEADER", "PackStore", "Record", "data_file", "index_file", "parse_line", "read_index"]

HEADER = {"format": "fpl-fast pack", "version": 1}


class Record(NamedTuple):
    """Place and shape of an array, and the file that it was made from."""

    offset: int
    shape: tuple[int, ...]
    crc32: int
    source: tuple[int, int]
    orientation: int | None  # None where it was not read

    @property
    def end(self) -> int:
        """Offset of the first byte behind the array."""
        return self.offset + math.prod(self.shape)


def data_file(path: Path) -> Path:
    """Path of the arrays of a pack."""
    return path / "data.bin"


def index_file(path: Path) -> Path:
    """Path of the index of a pack."""
    return path / "index.jsonl"


def read_index(path: Path) -> dict[tuple[Kind, str], Record]:
    """Read the complete lines of an index; a last line that a killed writer cut short is left out.

    Raises:
        ValueError: There is no index, or it is not one of this version.
    """
    file = index_file(path)
    try:
        header, *lines = file.read_bytes().split(b"\n")[:-1]
        if json.loads(header) != HEADER:
            raise ValueError
    except OSError as error:
        raise ValueError(f"{path}: must be a pack that fpl-fast data pack wrote, got {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ValueError(
            f"{file}: must be the index of a pack of version {HEADER['version']}, got other text"
        ) from None
    index = {}
    for number, line in enumerate(lines, start=2):
        try:
            picture, record = parse_line(line)
        except (ValueError, TypeError, KeyError, RecursionError):
            raise ValueError(
                f"{file}: line {number} must name a picture and its place in the pack, got {begin_of_line(line)}: "
                f"delete {path} and pack anew"
            ) from None
        index[picture] = record
    return index


def parse_line(line: bytes) -> tuple[tuple[Kind, str], Record]:
    """Parse kind, name and record from a line of the index after the header.

    Raises:
        ValueError: The line is not one.
        TypeError: A value is of another type.
        KeyError: A value is missing.
    """
    entry = json.loads(line)
    offset, *shape, crc32 = map(operator.index, (entry["offset"], *entry["shape"], entry["crc32"]))
    size, time = map(operator.index, entry["source"])
    if entry["kind"] not in ("image", "label") or not isinstance(entry["name"], str) or min(offset, *shape) < 0:
        raise ValueError("no picture")
    return (entry["kind"], entry["name"]), Record(offset, tuple(shape), crc32, (size, time), entry.get("orientation"))


class PackStore(Store):
    """Images and labels of a pack, memory-mapped.

    The first time a process reads a picture it compares the checksum, and the size of the file that the picture was
    made from if the file still exists. A picture that was packed before orientations were applied is read only if its
    file exists and has none.

    Args:
        path: The pack.
        root: Root of the data set that it was made from.

    Raises:
        ValueError: The pack does not exist or is incomplete; from the methods: a picture is not in it, is damaged, or
            was made from another file.
    """

    def __init__(self, path: Path, root: Path) -> None:
        self.path, self.root = path, root
        self._index = read_index(path)
        self._verified: set[tuple[Kind, str]] = set()
        needed = max((record.end for record in self._index.values()), default=0)
        size = data_file(path).stat().st_size if data_file(path).is_file() else 0
        if size < needed:
            raise ValueError(f"{data_file(path)}: must hold the {needed} bytes that its index tells of, got {size}")

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the mapping, which a loader process makes anew."""
        return {name: value for name, value in self.__dict__.items() if name != "_data"}

    def where(self, name: str) -> str:
        """Name of a picture in messages."""
        return f"{self.path}: {name}"

    def read(self, kind: Kind, name: str) -> Picture:
        """Copy a picture out of the pack."""
        record = self._index[kind, name]
        array = np.asarray(self._data[record.offset : record.end])
        if (kind, name) not in self._verified:
            self._verify(kind, name, record, array)
            self._verified.add((kind, name))
        pixels = torch.from_numpy(array.copy()).view(record.shape)  # tensors must be writable, the mapping is not
        return Picture(pixels, record.orientation or 1)

    def size(self, name: str) -> int:
        """Bytes of the decoded image."""
        record = self._index["image", name]
        return record.end - record.offset

    def checksum(self, name: str) -> str:
        """Shape and CRC-32 of the decoded image."""
        record = self._index["image", name]
        return f"{record.shape} {record.crc32:08x}"

    def require(self, kind: Kind, names: Iterable[str], origin: str) -> None:
        """Check that pictures are in the pack.

        Raises:
            ValueError: A picture is missing.
        """
        absent = [name for name in names if (kind, name) not in self._index]
        if absent:
            others = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            raise ValueError(
                f"{self.path}: the pack must hold all {kind}s of {origin}, got none of {absent[0]}{others} "
                f"(fpl-fast data pack adds them)"
            )

    @cached_property
    def _data(self) -> np.ndarray:
        return np.memmap(data_file(self.path), dtype=np.uint8, mode="r")

    def _verify(self, kind: Kind, name: str, record: Record, array: np.ndarray) -> None:
        if (crc32 := zlib.crc32(array.data)) != record.crc32:
            raise DamagedPictureError(
                f"{self.where(name)}: the packed picture must have checksum {record.crc32:08x}, got {crc32:08x}: "
                f"delete {self.path} and pack anew"
            )
        source = self.root / name
        if source.is_file() and (size := source.stat().st_size) != record.source[0]:
            raise ValueError(
                f"{source}: must be the file of {record.source[0]} bytes that was packed in {self.path}, got {size} "
                f"bytes (fpl-fast data pack adds the new one)"
            )
        if record.orientation is None and not self._is_upright(kind, name):
            found = "has one" if source.is_file() else "is not here to tell"
            raise ValueError(
                f"{self.where(name)}: must be packed with its EXIF orientation applied, got a pack made before that "
                f"was done, and the file {found}: repeat fpl-fast data pack where the files are (what stays as it is "
                f"takes no more room)"
            )

    def _is_upright(self, kind: Kind, name: str) -> bool:
        """Whether the file of a picture exists and is stored upright."""
        return (self.root / name).is_file() and FileStore(self.root).read(kind, name).orientation == 1
