"""Images and labels named by lists, in files."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from fpl_fast.trainer.data.lists import Pair
from fpl_fast.trainer.data.sample import Palette, Sample, index_palette

__all__ = ["FolderDataset", "Store"]


class Store(Protocol):
    """Where decoded pictures come from, by their paths below the root of the data set."""

    def where(self, name: str) -> str:
        """What messages call a picture."""

    def image(self, name: str) -> Tensor:
        """(3, H, W) uint8, RGB."""

    def label(self, name: str) -> Tensor:
        """(H, W) uint8, the indices as they are stored."""


class FolderDataset:
    """A part of a data set in files.

    Args:
        store: Where pictures come from.
        pairs: Paths of images and labels.
        labelled: Whether labels are read; otherwise their files are never looked at.
        num_classes: Labels are 0 ... num_classes - 1.
        ignore_index: Label of pixels that do not count.
        label_ignore: Further stored values that mean the same; they become ``ignore_index``.
        class_names: For reports, default the indices.
        palette: Colours of the classes, default those of PASCAL VOC's rule.

    Raises:
        ValueError: If an argument breaks its rule. What the files hold is looked at by :meth:`check`.

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
        self._class_of = torch.full((256,), -1, dtype=torch.int16)  # stored value -> class, -1 = not allowed
        self._class_of[:num_classes] = torch.arange(num_classes, dtype=torch.int16)
        self._class_of[[ignore_index, *label_ignore]] = ignore_index

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Read one image and its label.

        Raises:
            ValueError: If one is missing or unreadable, or the label is not as the class demands.
        """
        image = self.store.image(self.pairs[index].image)
        return Sample(image, self._label(self.pairs[index].label, image) if self.labelled else None)

    def _label(self, name: str, image: Tensor) -> Tensor:
        stored = self.store.label(name)
        if stored.shape != image.shape[-2:]:
            raise ValueError(
                f"{self.store.where(name)}: a label must have its image's size "
                f"{image.shape[-1]} x {image.shape[-2]}, got {stored.shape[1]} x {stored.shape[0]}"
            )
        label = self._class_of[stored.int()]
        if label.min() < 0:
            raise ValueError(
                f"{self.store.where(name)}: labels must be below num_classes = {self.num_classes} or an ignored "
                f"value, got {stored[label < 0].max()}"
            )
        return label.to(torch.uint8)

    def problems(self, num_threads: int = 8, progress: Callable[[int, int], None] | None = None) -> list[str]:
        """Read everything and describe all that is wrong, a line an image in the order of the list.

        Args:
            num_threads: Images read at a time.
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
        """Read everything, before hours are spent on training.

        Raises:
            ValueError: On the first bad file: a missing, truncated or unreadable image or label, a label whose size
                differs from the image's, an RGB or 16-bit label, a label value that is no class and not ignored.
        """
        found = self.problems(num_threads, progress)
        if found:
            others = f" (and {len(found) - 1} more bad files)" if len(found) > 1 else ""
            raise ValueError(found[0] + others)
