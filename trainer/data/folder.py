"""Any folder of images, index-PNG labels and list files."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fpl_fast.trainer.data.sample import Sample, index_palette

T = TypeVar("T")


class FolderDataset:
    """Images and labels named by a list file.

    A line of the list is one of: an id (PASCAL VOC); image and label, separated by a TAB (Cityscapes in the CPS lists,
    where both start with "/"); image and label, separated by a space. Windows line ends, blank lines and a missing
    final newline do no harm. ``images`` and ``labels`` turn an entry into a path under ``root``; the label template
    applies to the second column, or to the id where there is none. Leading slashes are dropped.

    Labels are 8-bit single-channel or palette PNGs of class indices; they are read as stored.

    Args:
        root: The folder.
        list_file: The list, relative to ``root`` or absolute.
        images: Path template of an image; ``{}`` stands for the entry.
        labels: Path template of a label, or None for unlabelled images (a second column is then not looked at).
        num_classes: Labels are 0 ... num_classes - 1.
        ignore_index: Label of pixels that do not count.
        label_ignore: Further stored values that mean the same; they become ``ignore_index``.
        class_names: For reports, default the indices.

    Raises:
        ValueError: If the list is missing, empty or malformed, or an argument breaks its rule. What the files hold is
            looked at by :meth:`check`.

    Example:
        >>> camvid = FolderDataset(
        ...     "camvid",
        ...     list_file="lists/train.txt",
        ...     images="images/train/{}.jpg",
        ...     labels="labels/train/{}.png",
        ...     num_classes=11,
        ...     label_ignore=(11,),
        ... )  # doctest: +SKIP
    """

    def __init__(
        self,
        root: str | PathLike[str],
        *,
        list_file: str | PathLike[str],
        images: str = "{}",
        labels: str | None = "{}",
        num_classes: int,
        ignore_index: int = 255,
        label_ignore: Sequence[int] = (),
        class_names: Sequence[str] | None = None,
    ) -> None:
        if not 2 <= num_classes <= 255:
            raise ValueError(f"num_classes must be 2 ... 255 (labels are 8-bit), got {num_classes}")
        for value in (ignore_index, *label_ignore):
            if not num_classes <= value <= 255:
                raise ValueError(f"ignore_index and label_ignore must be {num_classes} ... 255, got {value}")
        for name, template in (("images", images), ("labels", labels)):
            if template is not None and template.count("{}") != 1:
                raise ValueError(f"{name} must contain '{{}}' once, got {template!r}")
        if class_names is not None and len(class_names) != num_classes:
            raise ValueError(f"class_names must have num_classes = {num_classes} entries, got {len(class_names)}")

        self.root = Path(root)
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.class_names = tuple(class_names or map(str, range(num_classes)))
        self.palette = index_palette(num_classes)
        self.files = [
            (
                self.root / images.replace("{}", image.lstrip("/")),
                None if labels is None else self.root / labels.replace("{}", label.lstrip("/")),
            )
            for image, label in _read_list(self.root / list_file)
        ]
        self._class_of = np.full(256, -1, dtype=np.int16)  # stored value -> class, -1 = not allowed
        self._class_of[:num_classes] = range(num_classes)
        self._class_of[[ignore_index, *label_ignore]] = ignore_index

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        """Decode one image and its label.

        Raises:
            ValueError: If a file is missing or unreadable, or the label is not as the class demands.
        """
        image_file, label_file = self.files[index]
        image = _open(image_file, _decode_image)
        if label_file is None:
            return Sample(image, None)
        stored = _open(label_file, _decode_label)
        if stored.shape != tuple(image.shape[-2:]):
            height, width = stored.shape
            raise ValueError(
                f"{label_file}: a label must have its image's size {image.shape[-1]} x {image.shape[-2]}, "
                f"got {width} x {height}"
            )
        label = self._class_of[stored]
        if label.min() < 0:
            raise ValueError(
                f"{label_file}: labels must be below num_classes = {self.num_classes} or an ignored value, "
                f"got {stored[label < 0].max()}"
            )
        return Sample(image, torch.from_numpy(label.astype(np.uint8)))

    def problems(self, num_threads: int = 8, progress: Callable[[int, int], None] | None = None) -> list[str]:
        """Decode everything and describe all that is wrong, a line a file in the order of the list.

        Args:
            num_threads: Files decoded at a time.
            progress: Called with (images done, images in all).
        """

        def problem(index: int) -> str | None:
            try:
                self[index]
            except ValueError as error:
                return str(error)
            return None

        found = []
        with ThreadPoolExecutor(num_threads) as pool:
            for done, message in enumerate(pool.map(problem, range(len(self))), start=1):
                if message is not None:
                    found.append(message)
                if progress is not None:
                    progress(done, len(self))
        return found

    def check(self, num_threads: int = 8, progress: Callable[[int, int], None] | None = None) -> None:
        """Decode everything, before hours are spent on training.

        Raises:
            ValueError: On the first bad file: a missing, truncated or unreadable image or label, a label whose size
                differs from the image's, an RGB or 16-bit label, a label value that is no class and not ignored.
        """
        found = self.problems(num_threads, progress)
        if found:
            others = f" (and {len(found) - 1} more bad files)" if len(found) > 1 else ""
            raise ValueError(found[0] + others)


def _read_list(path: Path) -> list[tuple[str, str]]:
    """The (image, label) entries of a list; an id stands for both."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: the list file must be a readable text file, got {error}") from None
    entries = []
    for number, line in enumerate(lines, start=1):
        columns = line.strip().split("\t" if "\t" in line.strip() else None)
        if len(columns) > 2:
            raise ValueError(f"{path}: line {number} must hold an id, or an image and a label, got {line.strip()!r}")
        if columns:
            entries.append((columns[0].strip(), columns[-1].strip()))
    if not entries:
        raise ValueError(f"{path}: the list must name at least one image, got 0")
    return entries


def _open(path: Path, decode: Callable[[Image.Image], T]) -> T:
    """Decode a picture, with every failure as one line that names the file."""
    try:
        with Image.open(path) as picture:
            return decode(picture)
    except FileNotFoundError:
        raise ValueError(f"{path}: the file must exist, but is missing") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's words for broken files
        raise ValueError(f"{path}: the image must be readable, got {' '.join(str(error).split())}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _decode_image(picture: Image.Image) -> Tensor:
    if picture.mode not in ("RGB", "RGBA", "L", "LA", "P", "CMYK"):
        raise ValueError(f"an image must have 8 bits a channel, got Pillow mode {picture.mode}")
    pixels = np.array(picture.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _decode_label(picture: Image.Image) -> np.ndarray:
    if picture.format != "PNG" or picture.mode not in ("L", "P"):
        raise ValueError(
            f"a label must be an 8-bit single-channel or palette PNG of class indices, "
            f"got {picture.format} of Pillow mode {picture.mode}"
        )
    return np.array(picture)
