"""Checks of ``fpl-fast data check``: files, labels, overlaps, and whether the data fits in memory."""

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from fpl_fast.trainer.config import DataConfig, FileData, MethodConfig, PublicData, RunConfig, WeakStrongConfig
from fpl_fast.trainer.config.training import BATCHES_AHEAD
from fpl_fast.trainer.data.annotation import absent_classes, nothing_labelled
from fpl_fast.trainer.data.datasets import read_splits
from fpl_fast.trainer.data.folder import FolderDataset, Inspection
from fpl_fast.trainer.data.lists import Split
from fpl_fast.trainer.data.public import image_id
from fpl_fast.trainer.data.sources import make_dataset
from fpl_fast.trainer.methods import Method, build_method

__all__ = [
    "DataReport",
    "PartReport",
    "examine_data",
    "find_copies",
    "find_overlaps",
    "read_file_splits",
    "require_no_leaks",
]


@dataclass(frozen=True, slots=True)
class PartReport:
    """A part of a data set: its list, its samples, and their contents."""

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
    """Result of checking a data set.

    Attributes:
        parts: By name: ``labelled``, ``unlabelled`` if the method reads it, ``val``.
        wrong: Sentences on parts without a labelled pixel, and on validation images that are trained on, also under
            another name.
        remarks: Sentences on what is unusual but may be meant.
        loader_bytes: Memory of the batches that loader processes hold ready, estimated.
    """

    parts: dict[str, PartReport]
    wrong: tuple[str, ...]
    remarks: tuple[str, ...]
    loader_bytes: int

    @property
    def problems(self) -> list[str]:
        """All faults; a fault of a file that two parts name is listed once."""
        bad = itertools.chain.from_iterable(part.found.problems for part in self.parts.values())
        return list(dict.fromkeys([*bad, *self.wrong]))

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
    return read_splits(config.data, unlabelled=_method(config.method).num_unlabelled_views > 0)


def examine_data(config: RunConfig, progress: Callable[[str], Callable[[int, int], None]]) -> DataReport:
    """Read every picture of a data set.

    Args:
        config: The run that would read it.
        progress: Maps the name of a part to a function that is called with (images done, images in all).

    Raises:
        ValueError: See ``read_file_splits``. Faults of files and labels are in the report.
    """
    splits, parts = read_file_splits(config), {}
    assert isinstance(config.data, FileData)
    for name, split in splits.items():
        dataset = make_dataset(config.data, split, labelled=name != "unlabelled")
        parts[name] = PartReport(split, dataset, dataset.inspect(progress=progress(name)))
    leaks, remarks = find_overlaps(config.data, {name: part.split for name, part in parts.items()})
    nothing = []
    for name in ("labelled", "val"):
        if problem := nothing_labelled(name, parts[name].dataset, parts[name].found):
            nothing.append(problem)
        elif remark := absent_classes(name, parts[name].dataset, parts[name].found):
            remarks.append(remark)
    turned = sum(part.found.turned for part in parts.values())
    if turned:
        remarks.append(f"{turned} images have an EXIF orientation, which is applied: their labels must be upright, too")
    return DataReport(parts, (*nothing, *leaks, *find_copies(parts)), tuple(remarks), _loader_bytes(config))


def find_overlaps(data: DataConfig, splits: Mapping[str, Split]) -> tuple[list[str], list[str]]:
    """Find images that are in validation and training, and other images that are named twice; one sentence each.

    Images of a public data set are known by their public names, since lists may place one of them in two folders;
    others by their paths.
    """
    leaks: list[str] = []
    remarks: list[str] = []
    name = image_id if isinstance(data, PublicData) else str
    names = {part: [name(pair.image) for pair in split.pairs] for part, split in splits.items()}
    for (one, images), (other, others) in itertools.combinations(names.items(), 2):
        shared = sorted(set(images) & set(others))
        if shared:
            text = f"{one} and {other} share {len(shared)} of {len(images)} and {len(others)} images: {shared[0]}, ..."
            (leaks if "val" in (one, other) else remarks).append(text)
    for part, images in names.items():
        if len(set(images)) < len(images):
            ((twice, _),) = Counter(images).most_common(1)
            remarks.append(f"{part} names {len(images) - len(set(images))} images more than once: {twice}, ...")
    return leaks, remarks


def find_copies(parts: Mapping[str, PartReport]) -> list[str]:
    """Find validation images that are trained on under other names, with equal size and checksum; one sentence each.

    Images of the same name are left to ``find_overlaps``.
    """
    val = parts["val"]
    store, names = val.dataset.store, {pair.image for pair in val.split.pairs}
    of_size: dict[int, list[str]] = {}
    for name in sorted(names):
        of_size.setdefault(store.size(name), []).append(name)
    of_size.pop(-1, None)
    checksum = functools.cache(store.checksum)
    sentences = []
    for part, report in parts.items():
        candidates = dict.fromkeys(pair.image for pair in report.split.pairs if pair.image not in names)
        copies = [
            (name, original)
            for name in candidates
            for original in of_size.get(store.size(name), ())
            if checksum(name) == checksum(original)
        ]
        if copies:
            copy, original = copies[0]
            sentences.append(
                f"{part} and val hold {len(copies)} images of the same contents under two names: {copy} and {original}"
                f"{', ...' if len(copies) > 1 else ''}"
            )
    return sentences


def require_no_leaks(data: DataConfig, splits: Mapping[str, Split]) -> None:
    """Refuse to train on validation images.

    Raises:
        ValueError: A validation image is among the labelled or the unlabelled ones.
    """
    leaks, _ = find_overlaps(data, splits)
    if leaks:
        raise ValueError(f"data.val must name no image that is trained on, got: {'; '.join(leaks)}")


class _Placeholder(nn.Module):
    """A network without layers but the last, whose channels the heads of some methods ask for."""

    fused_channels = 1
    feature_channels = (1, 1)

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(1, 2, 1)


def _method(config: MethodConfig) -> Method:
    """Build the method with placeholder networks, to ask it for its inputs."""
    return build_method(config, _Placeholder)


def _loader_bytes(config: RunConfig) -> int:
    """Bytes of the crops that workers hold ready: 3 of image, 1 of validity, 1 of label, 3 of a strong view a pixel."""
    train, method = config.train, _method(config.method)
    strong = config.method.num_strong_views if isinstance(config.method, WeakStrongConfig) else 0
    labelled = (1 + method.reads_paste_sources) * train.batch_labelled
    unlabelled = method.num_unlabelled_views * train.batch_unlabelled
    batch = (5 * labelled + (4 + 3 * strong) * unlabelled) * math.prod(config.augment.crop)
    return BATCHES_AHEAD * max(1, train.workers) * batch
