"""Training past damaged images: the next readable one of the list takes the place of each."""

import logging
from dataclasses import replace

from fpl_fast.trainer.data.datasets import TrainDatasets
from fpl_fast.trainer.data.sample import Sample, SegmentationDataset
from fpl_fast.trainer.data.store import DamagedPictureError

__all__ = ["SkipDamaged", "skip_damaged"]

_LOGGER = logging.getLogger(__name__)


class SkipDamaged:
    """A data set in which the next readable image of the list, with its label, takes the place of a damaged one.

    Which one it is depends on the files alone: it is the same in every epoch, after a stop, and in all loaders, as long
    as the files stay as they are. Only damage is skipped, not a missing file or a label that breaks a rule.

    Args:
        dataset: The data set.
    """

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.dataset = dataset
        self.num_classes, self.ignore_index = dataset.num_classes, dataset.ignore_index
        self.class_names, self.palette = dataset.class_names, dataset.palette
        self._told: set[int] = set()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        """Read an image, or the next readable one, which is marked as ``replaced``.

        Raises:
            ValueError: Every image is damaged, or one breaks another rule.
        """
        fault = None
        for place in range(len(self)):
            try:
                sample = self.dataset[(index + place) % len(self)]
            except DamagedPictureError as error:
                fault = fault or error
            else:
                return replace(sample, replaced=fault is not None)
        raise ValueError(f"{fault} (all {len(self)} images of its list are damaged)")

    def name(self, index: int) -> str:
        """Name of the image that the list has in this place."""
        return self.dataset.name(index)

    def tell(self, index: int) -> None:
        """Log the fault of a replaced image, once; in the process that reads from the loaders."""
        if index in self._told:
            return
        self._told.add(index)
        try:
            _ = self.dataset[index]
        except DamagedPictureError as error:
            _LOGGER.warning("warning: %s; meanwhile the next readable image of its list takes its place", error)


def skip_damaged(datasets: TrainDatasets) -> TrainDatasets:
    """Make the training images of a run that skips damaged ones."""
    unlabelled = datasets.unlabelled
    return TrainDatasets(SkipDamaged(datasets.labelled), None if unlabelled is None else SkipDamaged(unlabelled))
