"""The top of the report: the main numbers and the curves."""

import html
from collections.abc import Sequence

import numpy as np

from fpl_fast.trainer.report.figures import Curve, curves_svg
from fpl_fast.trainer.report.run import CLASS_PREFIX, Run
from fpl_fast.trainer.report.text import duration, legend, missing, percent, series_color

__all__ = ["curves", "header", "num_networks"]

# Title, unit and factor of the scalars that training logs; any other scalar is drawn under its own name.
_SCALARS = {
    "miou": ("mIoU on validation", "%", 100),
    "pixel_accuracy": ("Pixel accuracy on validation", "%", 100),
    "teacher_accuracy": ("Right pseudo-labels on validation", "%", 100),
    "teacher_inclusion": ("Truth among the fuzzy positives on validation", "%", 100),
    "teacher_positives": ("Mean K on validation", "", 1),
    "teacher_confidence": ("Confidence of the teacher on validation", "%", 100),
    "loss": ("Loss", "", 1),
    "loss_sup": ("Supervised loss", "", 1),
    "loss_unsup": ("Unsupervised loss", "", 1),
    "loss_unsup_2": ("Unsupervised loss of the second strong view", "", 1),
    "loss_features": ("Unsupervised loss of perturbed features", "", 1),
    "loss_contrast": ("Contrastive loss", "", 1),
    "loss_kl": ("Divergence of the strong from the weak view", "", 1),
    "loss_spread": ("Loss of spread predictions, strong view", "", 1),
    "loss_spread_weak": ("Loss of spread predictions, weak view", "", 1),
    "loss_sup_spread": ("Supervised loss of spread predictions", "", 1),
    "loss_flaw": ("Detected flaws where both networks are bad", "", 1),
    "loss_detector": ("Loss of the flaw detector", "", 1),
    "loss_labelled": ("Consistency loss on labelled images", "", 1),
    "confidence": ("Mean confidence of the teacher", "%", 100),
    "sure": ("Share of pixels that the teacher is sure of", "%", 100),
    "selected": ("Share of pixels above the confidence threshold", "%", 100),
    "confidence_threshold": ("Confidence threshold", "%", 100),
    "relabelled": ("Share of pixels that take the class of their region", "%", 100),
    "kept": ("Share of pixels below the entropy threshold", "%", 100),
    "keys": ("Pixels that a class gives to its memory bank", "", 1),
    "attracted": ("Share of overlapping cells that attract each other", "%", 100),
    "taught": ("Share of pixels that a network learns from the other", "%", 100),
    "both_bad": ("Share of pixels at which both networks are bad", "%", 100),
    "sampled": ("Share of unlabelled pixels sampled", "%", 100),
    "sampled_labelled": ("Share of labelled pixels sampled", "%", 100),
    "adaptive_boxes": ("Share of CutMix boxes around the wanted class", "%", 100),
    "bank_mean": ("Confidence bank, mean of the classes", "%", 100),
    "bank_min": ("Confidence bank, worst class", "%", 100),
    "mean_positives": ("Mean K (positives a pixel)", "", 1),
    "mean_threshold": ("Mean threshold that pixels chose", "", 1),
    "fpl_ce_ratio": ("Cross entropy ÷ FPL loss", "", 1),
    "lr": ("Learning rate", "", 1),
    "images_per_second": ("Images per second", "/s", 1),
    "loader_wait": ("Time spent waiting for batches", "%", 100),
    "peak_memory_mb": ("Peak memory", " MB", 1),
}
_NOT_DRAWN = {"step", "epoch", "elapsed_s", "startup_s"}

# Losses that are sums over the networks of a method; drawn per network, so that methods can be compared.
_SUMMED = {"loss", "loss_sup", "loss_unsup", "loss_flaw"}
_NUM_NETWORKS = {"cps": 2, "gct": 2}


def _is_drawn(key: str) -> bool:
    """Whether a scalar has a plot of its own."""
    return key not in _NOT_DRAWN and not key.startswith(CLASS_PREFIX)


def header(run: Run) -> str:
    """Render the name, the setup, the place and the main numbers of a run."""
    evaluation, best = run.evaluation, run.best_miou
    tiles = []
    if evaluation:
        tiles.append((percent(evaluation.miou), f"mIoU at step {evaluation.step}"))
    if best:
        tiles.append((percent(best[0]), f"best mIoU, step {best[1]}"))
    if evaluation:
        tiles.append((percent(evaluation.pixel_accuracy), "pixel accuracy"))
    if run.last_step is not None:
        tiles.append((f"{run.last_step:,}", "steps"))
    if run.elapsed_s is not None:
        tiles.append((duration(run.elapsed_s), "training time"))
    startup = sum(run.series("startup_s")[1])
    if startup:
        tiles.append((duration(startup), "start-up, compiling"))
    speed = run.series("images_per_second")[1]
    if speed:
        tiles.append((f"{float(np.median(speed)):.3g}", "images/s, median"))
    memory = run.series("peak_memory_mb")[1]
    if memory:
        tiles.append((f"{max(memory):,.0f} MB", "peak memory"))
    shown = "".join(f"<div class=tile><b>{value}</b><span>{label}</span></div>" for value, label in tiles)
    lines = "".join(
        f"<p class=sub>{html.escape(' · '.join(parts))}</p>" for parts in (_setup(run), _place(run)) if parts
    )
    absent = "" if run.metrics else missing("No metrics yet: training writes them to metrics.jsonl as it goes.")
    title = f"<h1>{html.escape(run.name)}</h1>{lines}"
    return f"<header>{title}<div class=tiles>{shown}</div>{absent}</header>"


def _setup(run: Run) -> list[str]:
    """List the main settings of the run that its configuration holds."""
    config = run.config
    model, augment, train = (config.get(part) or {} for part in ("model", "augment", "train"))
    parts = [config.get("recipe"), model.get("backbone")]
    crop = augment.get("crop")
    if crop:
        parts.append("crops of " + " × ".join(map(str, crop if isinstance(crop, list) else [crop])))
    if train.get("batch_labelled"):
        parts.append(f"{train['batch_labelled']} labelled images a step")
    parts += [f"{number:,} {part} images" for part, number in run.num_images.items() if part != "val"]
    return [str(part) for part in parts if part]


def _place(run: Run) -> list[str]:
    """List the device of training and the versions of the software."""
    environment = run.environment
    on_gpu = environment.get("device", "CPU") != "CPU"
    versions = [f"{key} {environment[key]}" for key in ("torch", "fpl_fast", "commit") if key in environment]
    return [part for part in (environment.get("device" if on_gpu else "cpu"), *versions) if part]


def num_networks(run: Run) -> int:
    """Number of networks that a run trains together and whose losses it sums."""
    return _NUM_NETWORKS.get((run.config.get("method") or {}).get("name", ""), 1)


def curves(run: Run, others: Sequence[Run]) -> str:
    """Render one small plot for each scalar, with all runs in it."""
    runs = [run, *others]
    logged = dict.fromkeys(key for one in runs for key in one.scalar_names() if _is_drawn(key))
    plots = []
    for key in [*(key for key in _SCALARS if key in logged), *(key for key in logged if key not in _SCALARS)]:
        title, unit, factor = _SCALARS.get(key, (key.replace("_", " "), "", 1))
        drawn = []
        for color, one in reversed(list(enumerate(runs))):  # this run comes last, on top
            steps, values = one.series(key)
            if steps:
                share = factor / (num_networks(one) if key in _SUMMED else 1)
                drawn.append(Curve(one.name, steps, [value * share for value in values], color))
        if key in _SUMMED and any(num_networks(one) > 1 for one in runs):
            title = f"{title} per network"
        heading = f"{title}, %" if unit == "%" else title
        plots.append(f"<div class=card><h3>{html.escape(heading)}</h3>{curves_svg(title, drawn, unit=unit)}</div>")
    body = f"<div class=plots>{''.join(plots)}</div>" if plots else missing("No scalar has been logged yet.")
    if not any(one.series("miou")[0] for one in runs):
        body += missing("No validation yet: the mIoU curve appears with the first evaluation.")
    key = legend([(series_color(color), one.name) for color, one in enumerate(runs)]) if others else ""
    return f"<section><h2>Curves</h2>{key}{body}</section>"
