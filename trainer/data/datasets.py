"""From a configuration to data sets."""

import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import NamedTuple

from fpl_fast.trainer.config import DataConfig, FileData, FolderData, PublicData, SyntheticData
from fpl_fast.trainer.data import sources
from fpl_fast.trainer.data.annotation import absent_classes, has_labelled_pixel, nothing_labelled
from fpl_fast.trainer.data.folder import FolderDataset
from fpl_fast.trainer.data.lists import Split
from fpl_fast.trainer.data.sample import ClassTable, Sample, SegmentationDataset
from fpl_fast.trainer.data.sources import labelled_split, make_dataset, unlabelled_split, val_split
from fpl_fast.trainer.data.synthetic import VIEWS, SyntheticScenes, View

__all__ = [
    "TrainDatasets",
    "build_split",
    "build_train_datasets",
    "build_val_dataset",
    "check_files",
    "class_table",
    "read_split",
    "read_splits",
]

_LOGGER = logging.getLogger(__name__)


class TrainDatasets(NamedTuple):
    """The training images of a run."""

    labelled: SegmentationDataset
    unlabelled: SegmentationDataset | None  # None for a method that reads none


def read_splits(data: DataConfig, *, unlabelled: bool) -> dict[str, Split]:
    """The parts of a data set in files: ``labelled``, ``unlabelled`` if it is wanted, ``val``. Others have none.

    Raises:
        ValueError: A list file or path breaks its rule.
    """
    if not isinstance(data, FileData):
        return {}
    readers = {"labelled": labelled_split, "unlabelled": unlabelled_split, "val": val_split}
    return {part: read(data) for part, read in readers.items() if unlabelled or part != "unlabelled"}


def build_train_datasets(data: DataConfig, *, unlabelled: bool) -> TrainDatasets:
    """The training images that a configuration describes.

    Args:
        data: The description.
        unlabelled: Whether the unlabelled images are wanted; otherwise their list need not exist.

    Raises:
        ValueError: A list file or path breaks its rule.
    """
    if isinstance(data, FileData):
        return TrainDatasets(
            labelled=make_dataset(data, labelled_split(data)),
            unlabelled=make_dataset(data, unlabelled_split(data), labelled=False) if unlabelled else None,
        )
    assert isinstance(data, SyntheticData)
    behind = data.num_val + data.num_labelled
    return TrainDatasets(
        labelled=_scenes(data, data.num_labelled, first=data.num_val),
        unlabelled=_scenes(data, data.num_unlabelled, first=behind, labelled=False) if unlabelled else None,
    )


def class_table(data: DataConfig) -> ClassTable:
    """Names and colours of the classes that a configuration describes; its files need not be there."""
    if isinstance(data, FileData):
        return sources.class_table(data)
    assert isinstance(data, SyntheticData)
    return ClassTable(VIEWS[data.view].class_names, VIEWS[data.view].palette)


def build_val_dataset(data: DataConfig) -> SegmentationDataset:
    """The validation images that a configuration describes.

    Raises:
        ValueError: A list file or path breaks its rule.
    """
    if isinstance(data, FileData):
        return make_dataset(data, val_split(data))
    assert isinstance(data, SyntheticData)
    return _scenes(data, data.num_val, first=0)


def build_split(data: DataConfig, split: str) -> SegmentationDataset:
    """A labelled part of a data set to evaluate on.

    Args:
        data: The description.
        split: "val", "train" for the labelled training images, or a list file to read like the one of ``data.val``.

    Raises:
        ValueError: A list file or path breaks its rule, or a list is asked of a data set that has no files.
    """
    if split == "val":
        return build_val_dataset(data)
    if split == "train":
        return build_train_datasets(data, unlabelled=False).labelled
    if not isinstance(data, FileData):
        raise ValueError(f"split must be val or train: this data set has no list files, got {split!r}")
    return build_val_dataset(_with_val(data, split))


def read_split(data: FileData, split: str) -> Split:
    """The images of ``build_split``.

    Raises:
        ValueError: A list file or path breaks its rule.
    """
    if split == "train":
        return labelled_split(data)
    return val_split(data if split == "val" else _with_val(data, split))


def _with_val(data: FileData, name: str) -> FileData:
    """The description with another list of validation images."""
    assert isinstance(data, FolderData | PublicData)
    return dataclasses.replace(data, val=name)


def check_files(
    data: DataConfig,
    datasets: TrainDatasets,
    val: SegmentationDataset,
    progress: Callable[[int, int], None],
) -> None:
    """Decode every image and label of a data set in files before hours are spent, and see that something is labelled.

    Classes without a labelled or a validation pixel are logged as warnings. Without ``data.check`` labels are read only
    until one of their pixels has a class.

    Args:
        data: The description.
        datasets: The training images that it describes.
        val: The validation images.
        progress: Called with (files done, files in all) of each part.

    Raises:
        ValueError: A file is missing, unreadable or breaks a rule, or no labelled or no validation pixel has a class.
    """
    for part, dataset in {**datasets._asdict(), "val": val}.items():
        if not isinstance(dataset, FolderDataset):
            continue
        assert isinstance(data, FileData)
        skip = data.skip_damaged and part != "val"
        if data.check:
            found = dataset.check(progress=progress, skip_damaged=skip)
            if found.damaged:
                count = f"{len(found.damaged)} files of data.{part}, which data.skip_damaged skips, are damaged"
                _LOGGER.warning("warning: %s: %s", count, found.damaged[0])
        elif dataset.labelled and not has_labelled_pixel(dataset, skip_damaged=skip):
            found = dataset.inspect()
        else:
            continue
        if dataset.labelled and (problem := nothing_labelled(part, dataset, found)):
            raise ValueError(problem)
        if dataset.labelled and (warning := absent_classes(part, dataset, found)):
            _LOGGER.warning("warning: %s", warning)


@functools.lru_cache(maxsize=2)  # a run's labelled and unlabelled scenes; what comes after it may have the same
def _drawn(size: tuple[int, int], seed: int, view: View, labelled: bool) -> dict[int, Sample]:
    """Scenes that this process has drawn, by their number."""
    return {}


class _RememberedScenes(SyntheticScenes):
    """Scenes that a process draws once, as far as they are few: drawing takes a fifth of a small network's step."""

    def __getitem__(self, index: int) -> Sample:
        number, drawn = self.first + index, _drawn(tuple(self.size), self.seed, self.view, self.labelled)
        if index in range(len(self)) and number in drawn:
            return drawn[number]
        sample = super().__getitem__(index)
        if len(drawn) < 2048:
            drawn[number] = sample
        return sample


def _scenes(data: SyntheticData, num_images: int, *, first: int, labelled: bool = True) -> SyntheticScenes:
    """Scenes ``first`` ... ``first + num_images - 1``: validation, labelled and unlabelled ones follow each other."""
    return _RememberedScenes(num_images, data.size, seed=data.seed, first=first, labelled=labelled, view=data.view)
