"""What ``fpl-fast data check`` finds out: files, labels, overlaps, and whether the data fits in memory."""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fpl_fast.trainer.config import FileData, RunConfig
from fpl_fast.trainer.data.folder import FolderDataset, Inspection
from fpl_fast.trainer.data.lists import Split
from fpl_fast.trainer.data.sources import make_dataset
from fpl_fast.trainer.inputs import read_splits

__all__ = ["DataReport", "PartReport", "examine_data", "find_overlaps", "read_file_splits"]


@dataclass(frozen=True, slots=True)
class PartReport:
    """A part of a data set: its list, its samples, and what they hold."""

    split: Split
    dataset: FolderDataset
    found: Inspection

    @property
    def packed_bytes(self) -> int:
        """Size of the decoded pictures."""
        channels = 4 if self.dataset.labelled else 3
        return sum(channels * height * width * count for (height, width), count in self.found.sizes.items())


@dataclass(frozen=True, slots=True)
class DataReport:
    """What a data set is.

    Attributes:
        parts: By name: ``labelled``, ``unlabelled`` if the method reads it, ``val``.
        leaks: Sentences on validation images that are trained on.
        remarks: Sentences on what is unusual but may be meant.
        loader_bytes: Memory of the batches that loader processes hold ready, estimated.
    """

    parts: dict[str, PartReport]
    leaks: tuple[str, ...]
    remarks: tuple[str, ...]
    loader_bytes: int

    @property
    def problems(self) -> list[str]:
        """All that must not be: bad files and leaks; files named by two parts once."""
        bad = itertools.chain.from_iterable(part.found.problems for part in self.parts.values())
        return list(dict.fromkeys([*bad, *self.leaks]))

    @property
    def packed_bytes(self) -> int:
        """Size of a pack of all parts."""
        return sum(part.packed_bytes for part in self.parts.values())


def read_file_splits(config: RunConfig) -> dict[str, Split]:
    """The parts that a run reads.

    Raises:
        ValueError: The data set does not consist of files, or a list breaks its rule.
    """
    if not isinstance(config.data, FileData):
        raise ValueError(f"data.kind must be a data set in files, got {config.data.kind!r}")
    return read_splits(config.data, unlabelled=config.method.name != "supervised")


def examine_data(config: RunConfig, progress: Callable[[str], Callable[[int, int], None]]) -> DataReport:
    """Read every picture of a data set.

    Args:
        config: The run that would read it.
        progress: From the name of a part to what is called with (images done, images in all).

    Raises:
        ValueError: See ``read_file_splits``. What is wrong with files and labels is in the report.
    """
    parts = {}
    for name, split in read_file_splits(config).items():
        dataset = make_dataset(config.data, split, labelled=name != "unlabelled")
        parts[name] = PartReport(split, dataset, dataset.inspect(progress=progress(name)))
    leaks, remarks = find_overlaps({name: part.split for name, part in parts.items()})
    labelled = parts["labelled"]
    pixels = labelled.found.label_pixels[: labelled.dataset.num_classes].tolist()
    absent = [name for name, count in zip(labelled.dataset.class_names, pixels, strict=True) if count == 0]
    if absent:
        remarks.append(f"no labelled pixel of {', '.join(absent)}")
    return DataReport(parts, tuple(leaks), tuple(remarks), _loader_bytes(config))


def find_overlaps(splits: Mapping[str, Split]) -> tuple[list[str], list[str]]:
    """Sentences on images that are in validation and training; and on other images that are named twice."""
    leaks, remarks = [], []
    names = {part: [pair.image for pair in split.pairs] for part, split in splits.items()}
    for (one, images), (other, others) in itertools.combinations(names.items(), 2):
        shared = sorted(set(images) & set(others))
        if shared:
            text = f"{one} and {other} share {len(shared)} of {len(images)} and {len(others)} images: {shared[0]}, ..."
            (leaks if "val" in (one, other) else remarks).append(text)
    for part, images in names.items():
        if len(set(images)) < len(images):
            twice = max(images, key=images.count)
            remarks.append(f"{part} names {len(images) - len(set(images))} images more than once: {twice}, ...")
    return leaks, remarks


def _loader_bytes(config: RunConfig) -> int:
    """Crops that workers hold ready: two batches a worker; 3 bytes of image, 1 of validity and 1 of label a pixel."""
    train = config.train
    pixels = math.prod(config.augment.crop)
    views = 0 if config.method.name == "supervised" else 2
    return 2 * max(1, train.workers) * (5 * train.batch_labelled + 4 * views * train.batch_unlabelled) * pixels
