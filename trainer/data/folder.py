"""Images and labels in files that lists name."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fpl_fast.trainer.data.lists import Pair
from fpl_fast.trainer.data.public import image_id
from fpl_fast.trainer.data.sample import Palette, Sample, index_palette, value_ranges
from fpl_fast.trainer.data.store import DamagedPictureError, Store

__all__ = ["FolderDataset", "Inspection"]


@dataclass(frozen=True, slots=True, eq=False)
class Inspection:
    """Contents of the files of a part.

    Attributes:
        sizes: Number of images of each height and width, upright.
        turned: Images whose files have an EXIF orientation, which was applied.
        stored_pixels: (256,) int64, label pixels of each value as it is stored; zero without labels.
        label_pixels: (256,) int64, label pixels of each class, and of ``ignore_index``.
        problems: A line for each bad file, in the order of the list.
        damaged: Those of files that cannot be decoded.
        num_readable: Images that can be decoded, with their labels.
    """

    sizes: Counter[tuple[int, int]]
    turned: int
    stored_pixels: Tensor
    label_pixels: Tensor
    problems: tuple[str, ...]
    damaged: tuple[str, ...]
    num_readable: int


class FolderDataset:
    """A part of a data set in files.

    Args:
        store: Source of the pictures.
        pairs: Paths of images and labels.
        labelled: Whether labels are read; otherwise their files are never opened.
        num_classes: Labels are 0 ... num_classes - 1.
        ignore_index: Label of pixels that do not count.
        label_ignore: Further stored values that mean the same; they become ``ignore_index``.
        class_of_stored: Class of each value that files may hold, None for no label; default the value itself. If given,
            it is complete: ``ignore_index`` and ``label_ignore`` are not looked for in files.
        where_wrong: Maps label values without a class to the text to append to their message.
        class_names: For reports, default the indices.
        palette: Colours of the classes, default PASCAL VOC's rule.

    Raises:
        ValueError: If an argument breaks its rule. The contents of the files are checked by :meth:`check`.

    Example:
        >>> camvid = FolderDataset(
        ...     FileStore(Path("camvid")),
        ...     fill_templates(
        ...         read_list(Path("camvid/lists/train.txt")), "images/train/{}.jpg", "labels/train/{}.png"
        ...     ),
        ...     num_classes=11,
        ...     label_ignore=(11,),
        ... )  # doctest: +SKIP
    """

    def __init__(
        self,
        store: Store,
        pairs: Sequence[Pair],
        *,
        labelled: bool = True,
        num_classes: int,
        ignore_index: int = 255,
        label_ignore: Sequence[int] = (),
        class_of_stored: Mapping[int, int | None] | None = None,
        where_wrong: Callable[[Sequence[int]], str] | None = None,
        class_names: Sequence[str] = (),
        palette: Palette | None = None,
    ) -> None:
        if not 2 <= num_classes <= 255:
            raise ValueError(f"num_classes must be 2 ... 255 (labels are 8-bit), got {num_classes}")
        for value in (ignore_index, *label_ignore):
            if not num_classes <= value <= 255:
                raise ValueError(f"ignore_index and label_ignore must be {num_classes} ... 255, got {value}")
        if len(class_names) not in (0, num_classes):
            raise ValueError(f"class_names must have num_classes = {num_classes} entries, got {len(class_names)}")

        self.store = store
        self.pairs = tuple(pairs)
        self.labelled = labelled
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.class_names = tuple(class_names or map(str, range(num_classes)))
        self.palette = palette or index_palette(num_classes)
        self._where_wrong = where_wrong
        if class_of_stored is None:
            class_of_stored = {i: i for i in range(num_classes)} | dict.fromkeys((ignore_index, *label_ignore))
            self._rule = f"below num_classes = {num_classes} or an ignored value"
        else:
            self._rule = f"one of {value_ranges(sorted(class_of_stored))}"
        self._allowed = np.zeros(256, dtype=bool)
        self._class_of = np.zeros(256, dtype=np.uint8)  # of a stored value
        for value, index in class_of_stored.items():
            self._allowed[value] = True
            self._class_of[value] = ignore_index if index is None else index

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Read one image and its label.

        Raises:
            ValueError: If one is missing or unreadable, or the label breaks a rule of the data set.
        """
        pair = self.pairs[index]
        image = self.store.image(pair.image)
        if not self.labelled:
            return Sample(image, None)
        stored, _ = self._stored(pair.label, image.shape[-2:])
        return Sample(image, self._classes(stored))

    def label(self, index: int) -> Tensor:
        """Read the classes (H, W) uint8 of a label without reading its image.

        Raises:
            ValueError: If it is missing or unreadable, or breaks a rule of the data set.
        """
        stored, _ = self._stored(self.pairs[index].label, None)
        return self._classes(stored)

    def _classes(self, stored: Tensor) -> Tensor:
        return torch.from_numpy(np.take(self._class_of, stored.numpy()))

    def _stored(self, name: str, size: Sequence[int] | None) -> tuple[Tensor, Tensor]:
        """Read a label (H, W) uint8 as stored and count its pixels of each value (256,).

        It must have the size of its image, as far as that is known.
        """
        stored = self.store.label(name)
        if size is not None and stored.shape != size:
            turned = " (both after EXIF orientation: turn the label, or store the image upright)"
            raise ValueError(
                f"{self.store.where(name)}: a label must have its image's size, {size[0]} high and {size[1]} wide, got "
                f"{stored.shape[0]} high and {stored.shape[1]} wide"
                f"{turned if tuple(stored.shape) == tuple(size)[::-1] else ''}"
            )
        pixels = torch.from_numpy(np.bincount(stored.numpy().ravel(), minlength=256))
        wrong = np.flatnonzero(pixels.numpy() * ~self._allowed).tolist()
        if wrong:
            advice = "" if self._where_wrong is None else self._where_wrong(wrong)
            raise ValueError(
                f"{self.store.where(name)}: labels must be {self._rule}, got {value_ranges(wrong, limit=8)}{advice}"
            )
        return stored, pixels

    def name(self, index: int) -> str:
        """Name of the image, the same in every layout of its data set."""
        return image_id(self.pairs[index].image)

    def inspect(self, num_threads: int = 8, progress: Callable[[int, int], None] | None = None) -> Inspection:
        """Read all files and describe their contents.

        Args:
            num_threads: Images read at a time.
            progress: Called with (images done, images in all).
        """
        sizes: Counter[tuple[int, int]] = Counter()
        turned, stored_pixels = 0, torch.zeros(256, dtype=torch.int64)
        problems: list[str] = []
        damaged: list[str] = []
        num_readable = 0
        with ThreadPoolExecutor(num_threads) as pool:
            for done, look in enumerate(pool.map(self._look_at, range(len(self))), start=1):
                if look.size is not None:
                    sizes[look.size] += 1
                turned += look.orientation != 1
                if look.pixels is not None:
                    stored_pixels += look.pixels
                problems += map(str, look.problems)
                faults = [str(problem) for problem in look.problems if isinstance(problem, DamagedPictureError)]
                damaged += faults
                num_readable += not faults
                if progress is not None:
                    progress(done, len(self))
        classes = torch.from_numpy(self._class_of).long()
        label_pixels = torch.zeros_like(stored_pixels).index_add_(0, classes, stored_pixels)
        return Inspection(sizes, turned, stored_pixels, label_pixels, tuple(problems), tuple(damaged), num_readable)

    def _look_at(self, index: int) -> "_Look":
        """Inspect the image and its label; the label is read even if the image is bad."""
        size, orientation, pixels = None, 1, None
        problems: list[ValueError] = []
        try:
            image, orientation = self.store.read("image", self.pairs[index].image)
            size = (image.shape[-2], image.shape[-1])
        except ValueError as error:
            problems.append(error)
        if self.labelled:
            try:
                _, pixels = self._stored(self.pairs[index].label, size)
            except ValueError as error:
                problems.append(error)
        return _Look(size, orientation, pixels, problems)

    def check(
        self,
        num_threads: int = 8,
        progress: Callable[[int, int], None] | None = None,
        *,
        skip_damaged: bool = False,
    ) -> Inspection:
        """Read all files before training, and return a description of their contents.

        Args:
            num_threads: Images read at a time.
            progress: Called with (images done, images in all).
            skip_damaged: Whether files that cannot be decoded are let pass as long as one image can.

        Raises:
            ValueError: On the first bad file: a missing, truncated or unreadable image or label, a label whose size
                differs from the image's, an RGB or 16-bit label, a label value that is no class and not ignored.
        """
        found = self.inspect(num_threads, progress)
        passed = set(found.damaged) if skip_damaged and found.num_readable else set()
        if problems := [problem for problem in found.problems if problem not in passed]:
            first, *more = problems
            raise ValueError(f"{first} (and {len(more)} more bad files)" if more else first)
        return found


class _Look(NamedTuple):
    """Contents of the files of one image."""

    size: tuple[int, int] | None
    orientation: int
    pixels: Tensor | None  # of each stored label value
    problems: list[ValueError]
