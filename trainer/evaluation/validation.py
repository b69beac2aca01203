"""Evaluation of a run on its validation images, and the files that it keeps for the report."""

import csv
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from fpl_fast import fuzzy_positive_assignment
from fpl_fast.trainer.config import EvalConfig, RunConfig
from fpl_fast.trainer.data.sample import SegmentationDataset, color_table
from fpl_fast.trainer.data.transforms import normalize
from fpl_fast.trainer.evaluation.evaluate import EvaluationResult, evaluate
from fpl_fast.trainer.evaluation.loss_settings import loss_settings, loss_threshold, spread
from fpl_fast.trainer.evaluation.protocol import named_protocol, predict_logits
from fpl_fast.trainer.models.normalization import normalization
from fpl_fast.trainer.run.folder import RunFolder
from fpl_fast.trainer.writing.replacing import replacing

__all__ = ["class_scalars", "logged_pictures", "save_evaluation", "save_samples", "validate"]

_LOGGED_PICTURES = 3
_LOGGED_PIXELS = 384  # of the longer side: pictures are shown small, and every evaluation adds some


def validate(
    network: nn.Module,
    dataset: SegmentationDataset,
    config: RunConfig,
    fabric: Fabric,
    progress: Callable[[int, int], None] | None = None,
    on_prediction: Callable[[int, Tensor], None] | None = None,
) -> EvaluationResult:
    """Evaluate a network on a data set; with n processes, each takes every n-th image."""
    share = range(fabric.global_rank, len(dataset), fabric.world_size)
    if fabric.global_rank >= len(dataset) > 0:  # more processes than images
        nothing = torch.zeros(dataset.num_classes, dataset.num_classes, dtype=torch.int64, device=fabric.device)
        unread = torch.zeros(len(dataset), hashlib.sha256().digest_size, dtype=torch.uint8, device=fabric.device)
        return EvaluationResult.from_confusion(_sum(fabric, nothing), _sum(fabric, unread))
    result = evaluate(
        network,
        dataset,
        num_classes=dataset.num_classes,
        ignore_index=dataset.ignore_index,
        protocol=named_protocol(config.eval.protocol, config.eval.window),
        **normalization(config)._asdict(),
        device=fabric.device,
        autocast=fabric.autocast,
        indices=share,
        num_workers=config.train.workers,
        progress=progress,
        on_prediction=on_prediction,
    )
    if fabric.world_size == 1:
        return result
    assert result.label_digests is not None
    return EvaluationResult.from_confusion(
        _sum(fabric, result.confusion.to(fabric.device)), _sum(fabric, result.label_digests.to(fabric.device))
    )


def _sum(fabric: Fabric, share: Tensor) -> Tensor:
    """Sum the shares of all processes."""
    total = fabric.all_reduce(share, reduce_op="sum")
    assert isinstance(total, Tensor)
    return total


def save_evaluation(
    path: Path,
    result: EvaluationResult,
    class_names: Sequence[str],
    config: EvalConfig,
    *,
    step: int,
    split: str = "val",
    differs: Mapping[str, Any] | None = None,
) -> None:
    """Write an evaluation, and its confusion matrix as ``confusion.csv`` beside it (rows truth, columns prediction).

    Args:
        path: The JSON file, whose folder is made; a class that neither occurs nor is predicted has IoU null in it.
        result: Metrics of the evaluation.
        class_names: C names.
        config: Protocol of the evaluation.
        step: Step of the weights.
        split: The part of the data set that was evaluated.
        differs: Differences from the run's own evaluation (own_result.py).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    RunFolder.write_json(
        path,
        {
            "protocol": config.described,
            "split": split,
            "step": step,
            "miou": result.miou,
            "pixel_accuracy": result.pixel_accuracy,
            "class_names": list(class_names),
            "iou": result.per_class_iou,
            "confusion": result.confusion.tolist(),
            **({} if result.labels_sha256 is None else {"labels_sha256": result.labels_sha256}),
            **({"differs": differs} if differs else {}),
        },
    )
    table, rows = io.StringIO(newline=""), zip(class_names, result.confusion.tolist(), strict=True)
    csv.writer(table).writerows([["", *class_names], *([name, *counts] for name, counts in rows)])
    with replacing(path.with_name("confusion.csv")) as file:
        file.write(table.getvalue().encode())


def class_scalars(class_names: Sequence[str], iou: Sequence[float]) -> dict[str, float]:
    """Name the IoU of each class for the log: ``iou/CLASS``, with the index where several classes have one name.

    Example:
        >>> class_scalars(["road", "sky"], [0.5, 0.25])
        {'iou/road': 0.5, 'iou/sky': 0.25}
    """
    return {
        f"iou/{name}" if class_names.count(name) == 1 else f"iou/{name} {index}": value
        for index, (name, value) in enumerate(zip(class_names, iou, strict=True))
    }


def logged_pictures(samples: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Draw the first pictures for the log: image, truth and prediction side by side, (H, W, 3) uint8.

    Args:
        samples: The arrays of ``samples.npz``.
    """
    palette, pictures = color_table(samples["palette"]), {}
    for place in range(_LOGGED_PICTURES):
        if f"image_{place}" not in samples:
            break
        image, label, prediction = (samples[f"{name}_{place}"] for name in ("image", "label", "prediction"))
        stride = -(-max(label.shape) // _LOGGED_PIXELS)
        views = np.concatenate([image, palette[label], palette[prediction]], axis=1)
        pictures[f"samples/{place}"] = views[::stride, ::stride]
    return pictures


@torch.inference_mode()
def save_samples(
    folder: RunFolder, network: nn.Module, dataset: SegmentationDataset, config: RunConfig, fabric: Fabric
) -> dict[str, np.ndarray]:
    """Write ``samples.npz``: images spread evenly over the data set with truth, prediction and the map of K.

    Returns:
        The arrays written: ``palette``, ``names`` of the pictures, and for each ``image_0`` and so on, (H, W, 3) or
        (H, W) uint8.
    """
    protocol = named_protocol(config.eval.protocol, config.eval.window)
    arrays: dict[str, Any] = {"palette": np.array(dataset.palette, dtype=np.uint8)}
    settings = loss_settings(config.method)
    was_training = network.training
    network.eval()
    shown = spread(config.eval.samples, len(dataset))
    arrays["names"] = np.array([dataset.name(index) for index in shown], dtype=np.str_)
    for place, index in enumerate(shown):
        sample = dataset[index]
        assert sample.label is not None
        image = normalize(sample.image[None].to(fabric.device), None, *normalization(config))
        with fabric.autocast():
            logits = predict_logits(network, protocol.part(image), protocol)
        threshold = loss_threshold(settings, logits)
        num_positives, _ = fuzzy_positive_assignment(logits, threshold=threshold, max_positives=settings.max_positives)
        arrays |= {
            f"image_{place}": protocol.part(sample.image).permute(1, 2, 0).numpy(),
            f"label_{place}": protocol.part(sample.label[None])[0].numpy(),
            f"prediction_{place}": logits.argmax(1)[0].to("cpu", torch.uint8).numpy(),
            f"num_positives_{place}": num_positives[0].to("cpu", torch.uint8).numpy(),
        }
    network.train(was_training)
    with replacing(folder.samples) as file:
        np.savez_compressed(file, **arrays)
    return arrays
