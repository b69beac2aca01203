"""From a configuration to data sets, and from data sets to the batches of a method."""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from fpl_fast.trainer.config import (
    CutMixPart,
    DataConfig,
    FileData,
    FolderData,
    PairedCutMixPart,
    PastePart,
    PublicData,
    RunConfig,
    SyntheticData,
)
from fpl_fast.trainer.data import sources
from fpl_fast.trainer.data.annotation import absent_classes, has_labelled_pixel, nothing_labelled
from fpl_fast.trainer.data.cutmix import cutmix_masks
from fpl_fast.trainer.data.donors import DonorQueue
from fpl_fast.trainer.data.folder import FolderDataset
from fpl_fast.trainer.data.lists import Split
from fpl_fast.trainer.data.one_line import in_one_line
from fpl_fast.trainer.data.sample import ClassTable, Sample, SegmentationDataset
from fpl_fast.trainer.data.sources import labelled_split, make_dataset, unlabelled_split, val_split
from fpl_fast.trainer.data.stream import SampleStream, make_loader
from fpl_fast.trainer.data.synthetic import SyntheticScenes
from fpl_fast.trainer.data.transforms import Augmentation, normalize
from fpl_fast.trainer.methods import Batch, View

__all__ = [
    "TrainDatasets",
    "build_split",
    "build_train_datasets",
    "build_val_dataset",
    "check_files",
    "class_table",
    "read_batches",
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
    return ClassTable(SyntheticScenes.class_names, SyntheticScenes.palette)


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
        if data.check:
            found = dataset.check(progress=progress)
        elif dataset.labelled and not has_labelled_pixel(dataset):
            found = dataset.inspect()
        else:
            continue
        if dataset.labelled and (problem := nothing_labelled(part, dataset, found)):
            raise ValueError(problem)
        if dataset.labelled and (warning := absent_classes(part, dataset, found)):
            _LOGGER.warning("warning: %s", warning)


class _RememberedScenes(SyntheticScenes):
    """Scenes that are drawn once, as far as they are few: drawing takes a fifth of a small network's step."""

    def __init__(self, num_images: int, size: tuple[int, int], *, seed: int, first: int, labelled: bool) -> None:
        super().__init__(num_images, size, seed=seed, first=first, labelled=labelled)
        self._drawn: dict[int, Sample] = {}

    def __getitem__(self, index: int) -> Sample:
        if index in self._drawn:
            return self._drawn[index]
        sample = super().__getitem__(index)
        if len(self._drawn) < 1024:
            self._drawn[index] = sample
        return sample


def _scenes(data: SyntheticData, num_images: int, *, first: int, labelled: bool = True) -> SyntheticScenes:
    """Scenes ``first`` ... ``first + num_images - 1``: validation, labelled and unlabelled ones follow each other."""
    return _RememberedScenes(num_images, data.size, seed=data.seed, first=first, labelled=labelled)


def read_batches(
    config: RunConfig,
    datasets: TrainDatasets,
    *,
    num_unlabelled_views: int,
    device: torch.device,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    donors: DonorQueue | None = None,
    paste: bool = False,
) -> Iterator[Batch]:
    """The batches of steps ``start_step`` ... ``config.train.steps - 1``, on the device, normalised.

    A step's batch depends on the seed and the step alone, not on where the run was resumed, the number of loader
    workers, or (taken over all processes) the number of processes.

    Args:
        config: The run.
        datasets: What to read.
        num_unlabelled_views: Views of unlabelled images a step, as the method asks.
        device: Where batches go.
        start_step: Step of the first batch.
        rank: Of this process.
        world_size: Number of processes, of which the batch sizes are multiples.
        donors: Chooses the images of the second unlabelled view. What it chooses depends on the training so far.
        paste: Whether batches hold labelled images to paste from.
    """
    pinned = device.type == "cuda"
    method = config.method
    mixed = num_unlabelled_views == 2 and donors is None
    same = mixed and isinstance(method, PairedCutMixPart) and method.partner == "same"
    loaders = [
        make_loader(
            stream,
            batch // world_size,
            start_step=start_step,
            num_steps=config.train.steps - start_step,
            rank=rank,
            world_size=world_size,
            num_workers=config.train.workers,
            pin_memory=pinned,
            donors=donors if view == 2 else None,
        )
        for view, (stream, batch) in enumerate(_streams(config, datasets, num_unlabelled_views, same=same, paste=paste))
    ]
    seeds = _seeds(config.train.seed)
    shown = slice(rank * config.train.batch_unlabelled // world_size, None)

    def batches() -> Iterator[Batch]:
        with torch.random.fork_rng(devices=[]):  # each new iterator draws a seed, which a resumed run must not notice
            iterators = [iter(loader) for loader in loaders]
        for step, items in enumerate(in_one_line(zip(*iterators, strict=True)), start=start_step):
            labelled = _to_view(items[0], config, device, with_label=True)
            sources = _to_view(items[-1], config, device, with_label=True) if paste else None
            unlabelled = tuple(
                _to_view(item, config, device, with_label=False) for item in items[1 : 1 + num_unlabelled_views]
            )
            mask = None
            if num_unlabelled_views == 2:
                assert isinstance(method, CutMixPart)
                rng = np.random.default_rng([seeds.mask, step])
                masks = cutmix_masks(
                    config.train.batch_unlabelled,
                    config.augment.crop,
                    rng,
                    num_boxes=method.mix_boxes,
                    area_range=method.mix_area,
                )
                mask = masks[shown][: len(unlabelled[0].image)]
                if pinned:  # a copy from pageable memory would wait for the device
                    mask = mask.pin_memory()
                mask = mask.to(device, non_blocking=True)
            (seed,) = np.random.SeedSequence([seeds.method, step]).generate_state(1, np.uint64) >> np.uint64(1)
            yield Batch(labelled, unlabelled, mask, sources, int(seed))

    return batches()


def _streams(
    config: RunConfig, datasets: TrainDatasets, num_unlabelled_views: int, *, same: bool, paste: bool
) -> list[tuple[SampleStream, int]]:
    """The labelled stream, the unlabelled ones and that of images to paste from, each with its images a step.

    With ``same`` both unlabelled streams have one order, that of the first epoch again and again.
    """
    augment, seeds = config.augment, _seeds(config.train.seed)
    augmentation = Augmentation(
        augment.crop,
        augment.scales,
        augment.flip,
        pad_label=config.data.ignore_index if augment.pad_label == "ignore" else 0,
        scale_range=augment.scale_range,
    )
    x_seeds: dict[str, Any] = {"order_seed": seeds.order_x, "augment_seed": seeds.augment_x}
    if num_unlabelled_views == 0:
        return [(SampleStream(datasets.labelled, augmentation, **x_seeds), config.train.batch_labelled)]
    assert datasets.unlabelled is not None
    length = max(len(datasets.labelled), len(datasets.unlabelled))
    x = SampleStream(datasets.labelled, augmentation, epoch_length=length, **x_seeds)
    unlabelled = [
        SampleStream(
            datasets.unlabelled,
            augmentation,
            epoch_length=length,
            order_seed=seeds.order_u if same else seeds.order_u + 1 + view,
            augment_seed=(seeds.augment_u, seeds.augment_partner)[view],
            reshuffle=not same,
        )
        for view in range(num_unlabelled_views)
    ]
    streams = [(x, config.train.batch_labelled), *((u, config.train.batch_unlabelled) for u in unlabelled)]
    if paste:
        assert isinstance(config.method, PastePart)
        source = SampleStream(
            datasets.labelled,
            replace(augmentation, pad_label=config.data.ignore_index, scale_range=config.method.paste_scales),
            order_seed=seeds.order_paste,
            augment_seed=seeds.augment_paste,
            blank=1 - config.method.paste_probability,
        )
        streams.append((source, config.train.batch_labelled))
    return streams


class _Seeds(NamedTuple):
    """Independent seeds of all that is random in the batches."""

    order_x: int
    order_u: int
    augment_x: int
    augment_u: int
    augment_partner: int
    mask: int
    order_paste: int
    augment_paste: int
    method: int


def _seeds(seed: int) -> _Seeds:
    return _Seeds(*map(int, np.random.SeedSequence(seed).generate_state(len(_Seeds._fields))))


def _to_view(item: dict[str, torch.Tensor], config: RunConfig, device: torch.device, *, with_label: bool) -> View:
    """A loader's batch on the device."""
    image, valid = item["image"].to(device, non_blocking=True), item["valid"].to(device, non_blocking=True)
    if config.train.channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    label = item["label"].to(device, non_blocking=True).long() if with_label else None
    index, wanted = (item[name].to(device, non_blocking=True) if name in item else None for name in ("index", "wanted"))
    return View(normalize(image, valid, config.data.mean, config.data.std), valid, label, index, wanted)
