"""Evaluation of a network on a labelled data set, and its metrics."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchmetrics.classification import MulticlassConfusionMatrix

from fpl_fast.trainer.data.one_line import in_one_line
from fpl_fast.trainer.data.sample import Sample, SegmentationDataset
from fpl_fast.trainer.data.transforms import IMAGENET_MEAN, IMAGENET_STD, normalize
from fpl_fast.trainer.evaluation.protocol import Protocol, predict_classes
from fpl_fast.trainer.run.interrupt import leave_signals_to_the_run

__all__ = ["EvaluationResult", "evaluate"]


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationResult:
    """Confusion matrix over a data set, and the metrics that follow from it.

    Attributes:
        confusion: (C, C) int64 on the CPU; row = truth, column = prediction, in pixels.
        per_class_iou: Intersection over union of each class in [0, 1]; NaN if it neither occurs nor is predicted.
        miou: Mean of ``per_class_iou`` over the classes that are not NaN; NaN without any.
        pixel_accuracy: Share of the pixels that are predicted right; NaN without any pixel.
        label_digests: (N, 32) uint8 on the CPU, SHA-256 of each label of the data set as it was read, 0 where it was
            not; None where it is not known.
    """

    confusion: Tensor
    per_class_iou: tuple[float, ...]
    miou: float
    pixel_accuracy: float
    label_digests: Tensor | None = None

    @classmethod
    def from_confusion(cls, confusion: Tensor, label_digests: Tensor | None = None) -> "EvaluationResult":
        """Compute the result from a (C, C) confusion matrix; those of several processes may be added before.

        So may the digests of their labels.
        """
        confusion = confusion.to("cpu", torch.int64)
        counts = confusion.double()
        right = counts.diagonal()
        iou = right / (counts.sum(0) + counts.sum(1) - right)
        accuracy = (right.sum() / counts.sum()).item()
        return cls(confusion, tuple(iou.tolist()), iou.nanmean().item(), accuracy, label_digests)

    @property
    def labels_sha256(self) -> str | None:
        """Digest of all labels in their order; None where they are not known."""
        digests = self.label_digests
        return None if digests is None else hashlib.sha256(digests.cpu().numpy().tobytes()).hexdigest()


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
    on_prediction: Callable[[int, Tensor], None] | None = None,
) -> EvaluationResult:
    """Run a network over a labelled data set, one image at a time, and count its confusions on the device.

    The network runs in evaluation mode, without gradients; afterwards it is back in its previous mode.

    Args:
        network: Images (1, 3, h, w) to logits.
        dataset: Labelled images, which may differ in size.
        num_classes: C.
        ignore_index: Label of pixels that do not count.
        protocol: Protocol of the predictions; default whole images.
        mean: Of the normalisation.
        std: Of the normalisation.
        device: Device of the network.
        autocast: Makes the context of each forward pass, for mixed precision.
        indices: Images to evaluate, default all. With several processes, give each its share and add the confusion
            matrices.
        num_workers: Processes that decode images, 0 for none.
        progress: Called with (images done, images in all).
        on_prediction: Called with (index of the image, classes (H, W) int64 on the device), to keep predictions.

    Raises:
        ValueError: If there is no image, an image is bad or has no label, or the logits do not have num_classes
            channels.
        FloatingPointError: If a logit is NaN: that pixel has no prediction to score.
    """
    protocol = Protocol() if protocol is None else protocol
    indices = range(len(dataset)) if indices is None else indices
    if len(indices) == 0:
        raise ValueError("dataset must hold at least one image to evaluate on, got 0")
    part = Subset(cast("Dataset[Sample]", dataset), indices)
    samples = DataLoader[Any](
        part,
        batch_size=None,
        collate_fn=cast("Any", _as_is),
        num_workers=num_workers,
        worker_init_fn=leave_signals_to_the_run,
    )
    confusion = MulticlassConfusionMatrix(
        num_classes, ignore_index=ignore_index, validate_args=False, sync_on_compute=False
    ).to(device)
    digests = torch.zeros(len(dataset), hashlib.sha256().digest_size, dtype=torch.uint8)
    unpredicted = torch.zeros((), dtype=torch.bool, device=device)

    def watch(_: nn.Module, __: object, logits: Tensor) -> None:
        unpredicted.logical_or_(logits.isnan().any())

    watched = network.register_forward_hook(watch)
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            for done, (index, sample) in enumerate(zip(indices, in_one_line(samples), strict=True), start=1):
                if sample.label is None:
                    raise ValueError(f"dataset must be labelled, got no label for image {index}")
                digests[index] = _digest(sample.label)
                image = normalize(sample.image[None].to(device, non_blocking=True), mean=mean, std=std)
                with autocast():
                    prediction = predict_classes(network, protocol.part(image), protocol, num_classes=num_classes)
                label = protocol.part(sample.label[None].to(device, torch.int64, non_blocking=True))
                confusion.update(prediction, label)
                if on_prediction is not None:
                    on_prediction(index, prediction[0])
                if progress is not None:
                    progress(done, len(indices))
    finally:
        watched.remove()
        network.train(was_training)
    if unpredicted:
        raise FloatingPointError("the network must predict numbers to be evaluated, got NaN: a lower optim.lr may help")
    return EvaluationResult.from_confusion(confusion.compute(), digests)


def _digest(label: Tensor) -> Tensor:
    """SHA-256 of size and pixels of a label (H, W) uint8."""
    digest = hashlib.sha256(f"{tuple(label.shape)}".encode())
    digest.update(label.contiguous().numpy().tobytes())
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)


def _as_is(sample: Sample) -> Sample:
    return sample
