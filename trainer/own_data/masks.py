"""Contents of masks and sizes of images, and what is wrong with them."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from fpl_fast.trainer.data.files import FileStore, picture_size

__all__ = ["Contents", "is_index_png", "read_contents"]

_THREADS = 8


@dataclass(slots=True)
class Contents:
    """Contents of the pictures of a folder.

    Attributes:
        sizes: Height and width of each readable image, upright.
        values: Values that each sound mask holds, ascending.
        faults: Reason why each other image or mask cannot be used.
        pixels: Pixels of each value in all sound masks.
    """

    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    values: dict[str, tuple[int, ...]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    pixels: Counter[int] = field(default_factory=Counter)


def is_index_png(path: Path) -> bool:
    """Whether a file is a PNG of one channel or with a palette; its pixels are not read."""
    try:
        with Image.open(path) as picture:
            return picture.format == "PNG" and picture.mode in ("1", "L", "P", "I", "I;16")
    except MemoryError:
        raise
    except Exception:  # decoders of broken files fail in too many ways to list
        return False


def read_contents(
    root: Path, pairs: Mapping[str, str | None], progress: Callable[[int, int], None] | None = None
) -> Contents:
    """Read the header of every image and the pixels of every mask.

    Args:
        root: Folder of all.
        pairs: Mask of each image, None without one.
        progress: Called with (images done, images in all).
    """
    contents = Contents()
    for done, (image, mask, look) in enumerate(_looks(root, list(pairs.items())), start=1):
        if look.size is None:
            contents.faults[image] = look.fault
        else:
            contents.sizes[image] = look.size
            if mask is not None and look.fault:
                contents.faults[mask] = look.fault
            elif mask is not None:
                contents.values[mask] = tuple(sorted(look.pixels))
                contents.pixels += look.pixels
        if progress is not None:
            progress(done, len(pairs))
    return contents


class _Look(NamedTuple):
    size: tuple[int, int] | None
    pixels: Counter[int]
    fault: str


def _looks(root: Path, pairs: Sequence[tuple[str, str | None]]) -> Iterator[tuple[str, str | None, _Look]]:
    store = FileStore(root)

    def look(pair: tuple[str, str | None]) -> _Look:
        image, mask = pair
        try:
            size = picture_size(root / image)
        except ValueError as error:
            return _Look(None, Counter(), str(error))
        if mask is None:
            return _Look(size, Counter(), "")
        if fault := _unusual(root / mask):
            return _Look(size, Counter(), fault)
        try:
            label = store.label(mask)
        except ValueError as error:
            return _Look(size, Counter(), str(error).removeprefix(f"{root / mask}: "))
        if tuple(label.shape) != size:
            height, width = label.shape
            turned = " (both after EXIF orientation: turn the mask, or store the image upright)"
            fault = f"{height} high and {width} wide, its image {size[0]} high and {size[1]} wide"
            return _Look(size, Counter(), fault + (turned if (width, height) == size else ""))
        counts = np.bincount(label.numpy().ravel(), minlength=256).tolist()
        return _Look(size, Counter({value: count for value, count in enumerate(counts) if count}), "")

    with ThreadPoolExecutor(_THREADS) as pool:
        for (image, mask), found in zip(pairs, pool.map(look, pairs), strict=True):
            yield image, mask, found


def _unusual(path: Path) -> str:
    """Say in a few words why a mask that Pillow can read holds no 8-bit indices; empty where that is not so."""
    try:
        with Image.open(path) as picture:
            if picture.format != "PNG":
                return f"a {picture.format}, no PNG (save it as an 8-bit PNG of class indices)"
            if picture.mode in ("RGB", "RGBA"):
                pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(np.int32)
                if (pixels == pixels[:, :1]).all():
                    return "one channel stored three times, as RGB (save it as grey, 8-bit)"
                colors = np.unique(pixels @ (1 << 16, 1 << 8, 1)).tolist()  # one number a colour sorts ten times faster
                shown = ", ".join(str((color >> 16, color >> 8 & 255, color & 255)) for color in colors[:4])
                return (
                    f"colour-coded ({len(colors)} colours: {shown}{', ...' if len(colors) > 4 else ''}; save the class "
                    "index of each colour, as most tools can export)"
                )
            if picture.mode in ("I", "I;16"):
                highest = int(np.asarray(picture).max(initial=0))
                return f"16-bit with values up to {highest}" + (
                    " (objects numbered one by one?)" if highest > 255 else " (save it as an 8-bit PNG)"
                )
            if picture.mode == "1":
                return "1-bit (save it as an 8-bit PNG of 0 and 1)"
    except MemoryError:
        raise
    except Exception:  # the reader tells what is wrong
        return ""
    return ""
