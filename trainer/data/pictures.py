"""Image files in a folder."""

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["IMAGE_SUFFIXES", "find_files", "find_pictures"]

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def find_files(folder: Path) -> Iterator[str]:
    """Find all files in a folder and below, in order, as paths below it with ``/``; hidden names are left out.

    Links to folders are followed, each folder once.
    """
    seen: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        status = Path(place).stat()
        known = (status.st_dev, status.st_ino) in seen
        seen.add((status.st_dev, status.st_ino))
        folders[:] = [] if known else sorted(name for name in folders if not name.startswith("."))
        for name in [] if known else sorted(files):
            if not name.startswith("."):
                yield (Path(place) / name).relative_to(folder).as_posix()


def find_pictures(folder: Path) -> list[str]:
    """Find all image files in a folder and below, sorted, as paths below it.

    Raises:
        ValueError: There is none.
    """
    found = sorted(name for name in find_files(folder) if Path(name).suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise ValueError(f"{folder}: the folder must hold at least one image, got none")
    return found
