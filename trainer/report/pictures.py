"""Pictures of the report: image, truth, prediction, errors, the map of K, and what compared runs predict."""

import html
import math
from collections.abc import Sequence

import numpy as np
import torch

from fpl_fast.trainer.data.sample import color_table, outside_color
from fpl_fast.trainer.evaluation.evaluate import EvaluationResult
from fpl_fast.trainer.report.figures import count_colors, index_uri, jpeg_uri
from fpl_fast.trainer.report.run import Run, Sample
from fpl_fast.trainer.report.text import css_color, legend, missing, percent

__all__ = ["pictures", "sample_miou"]

_OVERLAY = 0.55
"""Share of the class colours in the prediction that lies over the image."""
_ERRORS = np.array([(226, 232, 240), (200, 50, 90), (150, 150, 150)], dtype=np.uint8)
"""Colours of right, wrong and unlabelled pixels."""


def pictures(run: Run, others: Sequence[Run] = ()) -> str:
    """Render the pictures of a run with the legends of their colours.

    Args:
        run: The run.
        others: Compared runs; the prediction of each for the same image stands beside.
    """
    if not run.samples or run.palette is None:
        text = "No pictures yet: they are saved with the first evaluation."
        return f"<section><h2>Pictures</h2>{missing(text)}</section>"
    maps = [sample.num_positives for sample in run.samples if sample.num_positives is not None]
    largest = max((int(one.max(initial=1)) for one in maps), default=0)
    shown = "".join(_sample(sample, others, run.palette, largest) for sample in run.samples)
    present = set(np.unique(np.concatenate([one.label.ravel() for one in run.samples])).tolist())
    present |= set(np.unique(np.concatenate([one.prediction.ravel() for one in run.samples])).tolist())
    names = run.evaluation.class_names if run.evaluation else [f"class {index}" for index in range(len(run.palette))]
    shown_classes = [
        (css_color(color), name)
        for index, (color, name) in enumerate(zip(run.palette, names, strict=False))
        if index in present
    ]
    if any(index >= len(run.palette) for index in present):
        shown_classes.append((css_color(outside_color(run.palette)), "ignored"))
    judged = list(zip(map(css_color, _ERRORS), ("right", "wrong", "ignored"), strict=True))
    return (
        f"<section><h2>Pictures</h2>{legend(shown_classes)}<p class=note>Errors:</p>{legend(judged)}"
        f"{_scale(maps, largest) if maps else ''}{shown}</section>"
    )


def sample_miou(label: np.ndarray, prediction: np.ndarray, num_classes: int) -> float:
    """Compute the mIoU of one picture over the classes that are in its truth or prediction; NaN without labels.

    Args:
        label: (H, W) uint8; values from ``num_classes`` on are ignored.
        prediction: (H, W) uint8.
        num_classes: Number of classes.

    Example:
        >>> sample_miou(np.array([[0, 0, 1, 255]]), np.array([[0, 1, 1, 1]]), 2)
        0.5
    """
    known = label < num_classes
    pairs = torch.from_numpy(label[known].astype(np.int64) * num_classes + prediction[known])
    confusion = torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)
    return EvaluationResult.from_confusion(confusion).miou if known.any() else math.nan


def _scale(maps: Sequence[np.ndarray], largest: int) -> str:
    """Render the colours of K with the share of the pixels that have each K."""
    counts = np.bincount(np.concatenate([one.ravel() for one in maps]), minlength=largest + 1)
    items = [
        (css_color(color), f"K = {value}: {100 * counts[value] / counts.sum():.1f} %")
        for value, color in enumerate(count_colors(largest), start=1)
    ]
    return f"<p class=note>K, the number of positive classes a pixel, with the share of pixels:</p>{legend(items)}"


def _sample(sample: Sample, others: Sequence[Run], palette: np.ndarray, largest: int) -> str:
    errors = np.where(sample.label >= len(palette), 2, sample.label != sample.prediction).astype(np.uint8)
    mixed = (1 - _OVERLAY) * sample.image + _OVERLAY * color_table(palette)[sample.prediction]
    views = [
        _photo("image", sample.image),
        _map("truth", sample.label, palette),
        _map(_scored("prediction", sample.label, sample.prediction, palette), sample.prediction, palette),
        _photo("prediction over the image", mixed.round().astype(np.uint8)),
        _map("errors", errors, _ERRORS),
    ]
    if sample.num_positives is not None:
        scale = np.concatenate([np.zeros((1, 3), dtype=np.uint8), count_colors(largest)])  # K starts at 1
        views.append(_map("K", sample.num_positives, scale))
    for other in others:
        theirs = next((one for one in other.samples if np.array_equal(one.image, sample.image)), None)
        if theirs is not None:
            caption = _scored(f"prediction of {other.name}", sample.label, theirs.prediction, palette)
            views.append(_map(caption, theirs.prediction, palette))
    name = f"<h3>{html.escape(sample.name)}</h3>" if sample.name is not None else ""
    return f"{name}<div class=sample>{''.join(views)}</div>"


def _scored(text: str, label: np.ndarray, prediction: np.ndarray, palette: np.ndarray) -> str:
    """Put the mIoU of a picture behind a caption."""
    miou = percent(sample_miou(label, prediction, len(palette)))
    return f"{html.escape(text)}, mIoU {miou}"


def _photo(caption: str, pixels: np.ndarray) -> str:
    return f"<figure><img src='{jpeg_uri(pixels)}' alt='{caption}'><figcaption>{caption}</figcaption></figure>"


def _map(caption: str, indices: np.ndarray, palette: np.ndarray) -> str:
    """Render an index map; the caption is HTML."""
    image = f"<img class=map src='{index_uri(indices, palette)}' alt='{caption}'>"
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
