"""Evaluation: how a network is run over an image (the protocol, as data), and what is counted."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset
from torchmetrics.classification import MulticlassConfusionMatrix

from fpl_fast.trainer.data.sample import Sample, SegmentationDataset
from fpl_fast.trainer.data.transforms import IMAGENET_MEAN, IMAGENET_STD, normalize


@dataclass(frozen=True, slots=True)
class Protocol:
    """How logits of a whole image are made.

    Args:
        window: Height and width of a sliding window in pixels, or None to run the image as it is. An image smaller
            than the window is padded around its centre with 0 after normalisation, and the padding is cut off again.
        stride: Step of the window as a part of its size, rounded up to pixels; the last window of a row or column is
            moved back to the border. Logits of overlapping windows are summed.
        align_corners: Of the bilinear upsampling of logits to the size of their input.

    Raises:
        ValueError: If a field breaks its rule.

    Example:
        >>> cityscapes = Protocol(window=(800, 800))  # the CPS protocol: eight windows on 1024 x 2048
        >>> voc = Protocol(window=(512, 512))  # no side is longer, so that this pads and runs once
    """

    window: tuple[int, int] | None = None
    stride: float = 2 / 3
    align_corners: bool = True

    def __post_init__(self) -> None:
        if self.window is not None and min(self.window) < 1:
            raise ValueError(f"window must be at least 1 x 1 or None, got {self.window}")
        if not 0 < self.stride <= 1:
            raise ValueError(f"stride must be in (0, 1], got {self.stride}")

    def starts(self, length: int, axis: int) -> list[int]:
        """First pixel of each window along a side (0 = rows, 1 = columns) that is at least as long as the window."""
        assert self.window is not None and length >= self.window[axis]
        extent = self.window[axis]
        step = math.ceil(extent * self.stride - 1e-9)  # 2/3 of 768 is 512
        return [*range(0, length - extent, step), length - extent]


def predict_logits(network: Callable[[Tensor], Tensor], image: Tensor, protocol: Protocol) -> Tensor:
    """Logits at the size of the image.

    Args:
        network: Images (N, 3, h, w) to logits (N, C, h', w') of any, usually lower, resolution.
        image: (N, 3, H, W) normalised.
        protocol: Whole image or sliding window.

    Returns:
        (N, C, H, W) float32.
    """

    def run(crop: Tensor) -> Tensor:
        logits = network(crop).float()
        return F.interpolate(logits, crop.shape[-2:], mode="bilinear", align_corners=protocol.align_corners)

    if protocol.window is None:
        return run(image)
    height, width = image.shape[-2:]
    missing = [max(0, extent - side) for extent, side in zip(protocol.window, (height, width), strict=True)]
    top, left = missing[0] // 2, missing[1] // 2
    padded = F.pad(image, (left, missing[1] - left, top, missing[0] - top))

    total: Tensor | None = None
    for rows, columns in _windows(protocol, padded.shape[-2:]):
        logits = run(padded[..., rows, columns])
        if total is None:
            total = logits.new_zeros(*logits.shape[:2], *padded.shape[-2:])
        total[..., rows, columns] += logits
    assert total is not None
    return total[..., top : top + height, left : left + width]


def _windows(protocol: Protocol, size: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of each window."""
    assert protocol.window is not None
    for top in protocol.starts(size[0], axis=0):
        for left in protocol.starts(size[1], axis=1):
            yield slice(top, top + protocol.window[0]), slice(left, left + protocol.window[1])


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationResult:
    """Counts over a data set, and what follows from them.

    Attributes:
        confusion: (C, C) int64 on the CPU; row = truth, column = prediction, in pixels.
        per_class_iou: Intersection over union of each class in [0, 1]; NaN if it neither occurs nor is predicted.
        miou: Mean over the classes that are not NaN; NaN without any.
        pixel_accuracy: Part of the pixels that are right; NaN without any.
    """

    confusion: Tensor
    per_class_iou: tuple[float, ...]
    miou: float
    pixel_accuracy: float

    @classmethod
    def from_confusion(cls, confusion: Tensor) -> "EvaluationResult":
        """The result of a (C, C) confusion matrix; matrices of several processes may be added before."""
        confusion = confusion.to("cpu", torch.int64)
        counts = confusion.double()
        right = counts.diagonal()
        iou = right / (counts.sum(0) + counts.sum(1) - right)
        return cls(confusion, tuple(iou.tolist()), iou.nanmean().item(), (right.sum() / counts.sum()).item())


def evaluate(
    network: nn.Module,
    dataset: SegmentationDataset,
    *,
    num_classes: int,
    ignore_index: int = 255,
    protocol: Protocol | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    device: torch.device | str = "cpu",
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    indices: Sequence[int] | None = None,
    num_workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """Run a network over a labelled data set, one image at a time, and count its confusions on the device.

    The network runs in evaluation mode, without gradients, and is given back in the mode it came in.

    Args:
        network: Images (1, 3, h, w) to logits.
        dataset: Labelled; its images may differ in size.
        num_classes: C.
        ignore_index: Label of pixels that do not count.
        protocol: How an image is run, default whole.
        mean: Of the normalisation.
        std: Of the normalisation.
        device: Where the network lies.
        autocast: Makes the context of each forward pass, for mixed precision.
        indices: Images to look at, default all. With several processes, give each its share and add the confusion
            matrices.
        num_workers: Processes that decode images, 0 for none.
        progress: Called with (images done, images in all).

    Raises:
        ValueError: If there is nothing to look at, an image has no label, or the logits have not num_classes channels.
    """
    protocol = Protocol() if protocol is None else protocol
    indices = range(len(dataset)) if indices is None else indices
    if len(indices) == 0:
        raise ValueError("dataset must hold at least one image to evaluate on, got 0")
    samples = DataLoader(Subset(dataset, indices), batch_size=None, collate_fn=_as_is, num_workers=num_workers)
    confusion = MulticlassConfusionMatrix(
        num_classes, ignore_index=ignore_index, validate_args=False, sync_on_compute=False
    ).to(device)
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            for done, sample in enumerate(samples, start=1):
                if sample.label is None:
                    raise ValueError(f"dataset must be labelled, got no label for image {indices[done - 1]}")
                image = normalize(sample.image[None].to(device, non_blocking=True), mean=mean, std=std)
                with autocast():
                    logits = predict_logits(network, image, protocol)
                if logits.shape[1] != num_classes:
                    raise ValueError(f"network must return num_classes = {num_classes} channels, got {logits.shape[1]}")
                label = sample.label.to(device, torch.int64, non_blocking=True)
                confusion.update(logits.argmax(1), label[None])
                if progress is not None:
                    progress(done, len(indices))
    finally:
        network.train(was_training)
    return EvaluationResult.from_confusion(confusion.compute())


def _as_is(sample: Sample) -> Sample:
    return sample
