"""Batches of a run made from noise: what a dry run and the benchmark of the methods step on."""

import dataclasses
from collections.abc import Iterator

import torch
from lightning.fabric import Fabric

from fpl_fast.trainer.build import build_method_networks, check_batches
from fpl_fast.trainer.config import RunConfig
from fpl_fast.trainer.data.datasets import TrainDatasets, class_table
from fpl_fast.trainer.data.inputs import read_batches
from fpl_fast.trainer.data.sample import ClassTable, Sample
from fpl_fast.trainer.methods import Batch, Method, TrainingSet

__all__ = ["RandomImages", "prepared_method", "random_batches"]


class RandomImages:
    """Noise in the size of a crop, so that no augmentation has to enlarge it.

    Args:
        num_images: Length of the data set.
        size: Height and width, pixels.
        classes: Names and colours.
        ignore_index: Label of pixels that do not count; none of these has it.
    """

    def __init__(self, num_images: int, size: tuple[int, int], classes: ClassTable, ignore_index: int) -> None:
        self.num_images, self.size, self.ignore_index = num_images, size, ignore_index
        self.num_classes, self.class_names, self.palette = len(classes.names), classes.names, classes.palette

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, index: int) -> Sample:
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(256, (3, *self.size), dtype=torch.uint8, generator=generator)
        return Sample(image, torch.randint(self.num_classes, self.size, dtype=torch.uint8, generator=generator))

    def name(self, index: int) -> str:
        """Index of the image, as text."""
        return str(index)


def prepared_method(config: RunConfig, steps: int) -> Method:
    """Build the method of a run with its networks, and with banks for the unlabelled images of some batches."""
    num_classes = len(class_table(config.data).names)
    method = build_method_networks(config, num_classes)
    check_batches(config, unlabelled=method.num_unlabelled_views > 0)
    unlabelled = config.train.batch_unlabelled
    method.prepare(TrainingSet(num_classes, steps * unlabelled, unlabelled))
    return method


def random_batches(
    config: RunConfig, method: Method, fabric: Fabric, steps: int, *, num_processes: int | None = None
) -> Iterator[Batch]:
    """Make the batches of some steps of a run from noise: the share of one of ``num_processes``, default fabric's."""
    train = dataclasses.replace(config.train, steps=steps, workers=0)
    classes = class_table(config.data)
    labelled, unlabelled = (  # as many unlabelled ones as the method has banks for, whatever is labelled
        RandomImages(steps * batch, config.augment.crop, classes, config.data.ignore_index)
        for batch in (train.batch_labelled, train.batch_unlabelled)
    )
    return read_batches(
        dataclasses.replace(config, train=train),
        TrainDatasets(labelled, unlabelled if method.num_unlabelled_views else None),
        num_unlabelled_views=method.num_unlabelled_views,
        device=fabric.device,
        rank=fabric.global_rank,
        world_size=fabric.world_size if num_processes is None else num_processes,
        donors=method.donors,
        paste=method.reads_paste_sources,
    )
