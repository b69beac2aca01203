"""Pictures of the report: image, truth, prediction and the map of K."""

from collections.abc import Sequence

import numpy as np

from fpl_fast.trainer.data.sample import outside_color
from fpl_fast.trainer.report.figures import count_colors, index_uri, jpeg_uri
from fpl_fast.trainer.report.run import Run, Sample
from fpl_fast.trainer.report.text import css_color, legend, missing

__all__ = ["pictures"]


def pictures(run: Run) -> str:
    """Render image, truth, prediction and the map of K, with the legends of both colour scales."""
    if not run.samples or run.palette is None:
        text = "No pictures yet: they are saved with the first evaluation."
        return f"<section><h2>Pictures</h2>{missing(text)}</section>"
    maps = [sample.num_positives for sample in run.samples if sample.num_positives is not None]
    largest = max((int(one.max(initial=1)) for one in maps), default=0)
    shown = "".join(_sample(sample, run.palette, largest) for sample in run.samples)
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
    return f"<section><h2>Pictures</h2>{legend(shown_classes)}{_scale(maps, largest) if maps else ''}{shown}</section>"


def _scale(maps: Sequence[np.ndarray], largest: int) -> str:
    """Render the colours of K with the share of the pixels that have each K."""
    counts = np.bincount(np.concatenate([one.ravel() for one in maps]), minlength=largest + 1)
    items = [
        (css_color(color), f"K = {value}: {100 * counts[value] / counts.sum():.1f} %")
        for value, color in enumerate(count_colors(largest), start=1)
    ]
    return f"<p class=note>K, the number of positive classes a pixel, with the share of pixels:</p>{legend(items)}"


def _sample(sample: Sample, palette: np.ndarray, largest: int) -> str:
    views = [
        ("image", f"<img src='{jpeg_uri(sample.image)}' alt='image'>"),
        ("truth", f"<img class=map src='{index_uri(sample.label, palette)}' alt='truth'>"),
        ("prediction", f"<img class=map src='{index_uri(sample.prediction, palette)}' alt='prediction'>"),
    ]
    if sample.num_positives is not None:
        scale = np.concatenate([np.zeros((1, 3), dtype=np.uint8), count_colors(largest)])  # K starts at 1
        views.append(("K", f"<img class=map src='{index_uri(sample.num_positives, scale)}' alt='map of K'>"))
    figures = "".join(f"<figure>{image}<figcaption>{caption}</figcaption></figure>" for caption, image in views)
    return f"<div class=sample>{figures}</div>"
