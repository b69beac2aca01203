"""Endless streams of augmented samples, each determined by its position alone.

A step is a range of positions, so that a run resumes bit for bit at any step, whatever the number of workers.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from fpl_fast.trainer.config.training import BATCHES_AHEAD
from fpl_fast.trainer.data.damaged import SkipDamaged
from fpl_fast.trainer.data.donors import Donor, DonorQueue
from fpl_fast.trainer.data.long_side import LongSideAugmentation
from fpl_fast.trainer.data.paired_crops import CropPair, PairedCrops
from fpl_fast.trainer.data.sample import SegmentationDataset
from fpl_fast.trainer.data.strong import StrongAugmentation
from fpl_fast.trainer.data.transforms import Augmentation
from fpl_fast.trainer.run.interrupt import leave_signals_to_the_run


class SampleStream(Dataset[dict[str, Any]]):
    """Endless, shuffled, augmented pass over a data set, with a sample at every position >= 0.

    Position p belongs to epoch p // epoch_length. An epoch has ``epoch_length`` entries. If the data set is longer,
    they are its first images; otherwise the whole data set as often as it fits, plus distinct random images (Chen et
    al. 2021). Their order is fixed by (order_seed, epoch), the augmentation by (augment_seed, p).

    Two unlabelled streams with the same order seed, ``reshuffle=False`` and different augmentation seeds give two views
    of the same image: the CutMix partner of the published CPS code. Different order seeds give different images, as its
    authors intended.

    Args:
        dataset: Source of the images.
        augmentation: Flip, scale and crop; may give a pair of crops of an unlabelled image.
        epoch_length: Samples an epoch, default one pass over ``dataset``.
        order_seed: Seed of the permutations.
        augment_seed: Seed of the augmentation.
        reshuffle: Whether each epoch has an order of its own; otherwise all have the order of epoch 0.
        blank: Share of the positions without an image: nothing is read, no pixel is valid or labelled.
        strong: Makes strong views of each crop.
        colours: Makes the colours of each crop.

    Raises:
        ValueError: If the data set is empty or epoch_length < 1.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        augmentation: Augmentation | LongSideAugmentation | PairedCrops,
        *,
        epoch_length: int | None = None,
        order_seed: int = 0,
        augment_seed: int = 0,
        reshuffle: bool = True,
        blank: float = 0.0,
        strong: StrongAugmentation | None = None,
        colours: StrongAugmentation | None = None,
    ) -> None:
        if len(dataset) == 0:
            raise ValueError("dataset must hold at least one image, got 0")
        if epoch_length is not None and epoch_length < 1:
            raise ValueError(f"epoch_length must be at least 1, got {epoch_length}")
        self.dataset = dataset
        self.augmentation = augmentation
        self.epoch_length = len(dataset) if epoch_length is None else epoch_length
        self.order_seed = order_seed
        self.augment_seed = augment_seed
        self.reshuffle = reshuffle
        self.blank = blank
        self.strong = strong
        self.colours = colours

    def index_at(self, position: int) -> int:
        """Index into the data set at a position."""
        epoch, place = divmod(position, self.epoch_length)
        order = _epoch_order(len(self.dataset), self.epoch_length, self.order_seed, epoch if self.reshuffle else 0)
        return int(order[place])

    def __getitem__(self, position: int | tuple[int, Donor]) -> dict[str, Any]:
        """Read ``image``, ``valid``, ``index``, for a labelled image ``label``, and with strong views ``strong``.

        Of a pair of crops, ``image`` and ``valid`` hold both, and ``offset`` and ``flipped`` tell their places.

        A pair of position and donor selects the donor's image instead of the one in the stream's own order, and adds
        ``wanted``, the class to paste from it.
        """
        if isinstance(position, tuple):
            position, donor = position
            return self._item(position, donor.index) | {"wanted": donor.wanted}
        return self._item(position, self.index_at(position))

    def _item(self, position: int, index: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.augment_seed, position])
        if self.blank and rng.random() < self.blank:
            return self._blank_item(index) | self._replaced(False)
        sample = self.dataset[index]
        view = self.augmentation(sample, rng)
        if isinstance(view, CropPair):
            return view._asdict() | {"index": index} | self._replaced(sample.replaced)
        image = view.image if self.colours is None else self.colours(view.image, rng)[0]
        item = {"image": image, "valid": view.valid, "index": index} | self._replaced(sample.replaced)
        if self.strong is not None:
            item["strong"] = self.strong(view.image, rng)
        return item if view.label is None else item | {"label": view.label}

    def _replaced(self, replaced: bool) -> dict[str, bool]:
        """Tell whether another image was read, of a data set in which that can be."""
        return {"replaced": replaced} if isinstance(self.dataset, SkipDamaged) else {}

    def _blank_item(self, index: int) -> dict[str, Any]:
        size = self.augmentation.crop_size
        return {
            "image": torch.zeros(3, *size, dtype=torch.uint8),
            "valid": torch.zeros(size, dtype=torch.bool),
            "index": index,
            "label": torch.full(size, self.dataset.ignore_index, dtype=torch.uint8),
        }


@lru_cache(maxsize=8)
def _epoch_order(num_images: int, epoch_length: int, order_seed: int, epoch: int) -> np.ndarray:
    """Indices of the data set in the order of one epoch."""
    rng = np.random.default_rng([order_seed, epoch])
    repeats, rest = divmod(epoch_length, num_images)
    if repeats == 0:
        entries = np.arange(epoch_length)
    else:
        entries = np.concatenate([np.tile(np.arange(num_images), repeats), rng.permutation(num_images)[:rest]])
    return rng.permutation(entries)


class _StepPositions(Sampler[list[Any]]):
    """Positions that one process reads in each step, with their donors if a method chooses them."""

    def __init__(
        self, batch_size: int, steps: range, rank: int, world_size: int, donors: DonorQueue | None = None
    ) -> None:
        self.batch_size, self.steps, self.rank, self.world_size = batch_size, steps, rank, world_size
        self.donors = donors

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[Any]]:
        chosen = None if self.donors is None else self.donors.steps(self.rank, self.world_size)
        for step in self.steps:
            first = (step * self.world_size + self.rank) * self.batch_size
            positions = range(first, first + self.batch_size)
            yield list(positions if chosen is None else zip(positions, next(chosen), strict=True))


def make_loader(
    stream: SampleStream,
    batch_size: int,
    *,
    start_step: int = 0,
    num_steps: int,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    pin_memory: bool = False,
    donors: DonorQueue | None = None,
) -> DataLoader[dict[str, Tensor]]:
    """Make a loader of the batches of a stream for steps start_step ... start_step + num_steps - 1.

    Args:
        stream: Samples to read.
        batch_size: Images a step **on this process**; step s covers positions s B W ... (s + 1) B W - 1 over all W
            processes.
        start_step: Step of the first batch.
        num_steps: Number of batches.
        rank: Rank of this process.
        world_size: Number of processes W.
        num_workers: Loader processes, 0 to load in this one. Does not change the batches.
        pin_memory: Whether batches lie in page-locked memory, for asynchronous copies to a GPU.
        donors: Chooses the images instead of the stream's order.

    Loader processes live as long as the iterator, of which a run has one, and each holds two batches ready.

    Returns:
        Dicts of ``image`` (B, 3, h, w) uint8, ``valid`` (B, h, w) bool, ``index`` (B,) int64 and, from a labelled data
        set, ``label`` (B, h, w) uint8; from donors ``wanted`` (B,) int64; with strong views ``strong`` (B, num_views,
        3, h, w) uint8. From pairs of crops ``image`` (B, 2, 3, h, w), ``valid`` (B, 2, h, w), ``offset`` (B, 2, 2)
        int64 and ``flipped`` (B, 2) bool.

    Raises:
        ValueError: If a count breaks its rule.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if start_step < 0 or num_steps < 0:
        raise ValueError(f"start_step and num_steps must be at least 0, got {start_step} and {num_steps}")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in [0, world_size = {world_size}), got {rank}")
    steps = range(start_step, start_step + num_steps)
    return DataLoader(
        stream,
        batch_sampler=_StepPositions(batch_size, steps, rank, world_size, donors),
        num_workers=num_workers,
        prefetch_factor=BATCHES_AHEAD if num_workers else None,
        pin_memory=pin_memory,
        worker_init_fn=leave_signals_to_the_run,
    )
