"""Tables on the terminal."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from fpl_fast.trainer.config import RunConfig
from fpl_fast.trainer.dry_run import DryRun, Prediction
from fpl_fast.trainer.evaluation.positives import PositivesAnalysis

__all__ = ["analysis_table", "class_table", "dry_run_table", "duration_text", "prediction_text"]


def class_table(class_names: Sequence[str], columns: Mapping[str, Sequence[float]]) -> Table:
    """Tabulate IoU in per cent by class, a column for each evaluation, with the means at the end.

    Args:
        class_names: C names.
        columns: For each title, C values in [0, 1]; NaN for a class that neither occurs nor is predicted.
    """
    table = Table("IoU, %")
    for title in columns:
        table.add_column(title, justify="right")
    for index, name in enumerate(class_names):
        table.add_row(name, *(_percent(column[index]) for column in columns.values()))
    table.add_section()
    table.add_row("mean", *(_percent(_mean(column)) for column in columns.values()), style="bold")
    return table


def analysis_table(analysis: PositivesAnalysis, threshold: str) -> Table:
    """Tabulate how often the truth is the pseudo-label, another positive or none, and the scores of both losses."""
    table = Table()
    table.add_column(f"T = {threshold}, mean K {analysis.mean_positives:.3f}", no_wrap=True)
    for title in ("pixels, %", "R of cross entropy", "R of fuzzy positives"):
        table.add_column(title, justify="right")
    rows = zip(("the truth is the pseudo-label", "another positive", "no positive"), *analysis.cases, strict=True)
    for name, share, vanilla, fuzzy in rows:
        table.add_row(name, _percent(float(share)), f"{vanilla:.3f}", f"{fuzzy:.3f}")
    table.add_section()
    table.add_row("all pixels", "100.0", f"{analysis.vanilla:.3f}", f"{analysis.fuzzy:.3f}", style="bold")
    vanilla_raised, fuzzy_raised = map(_percent, analysis.raised)
    table.add_row("true class raised, %", "", vanilla_raised, fuzzy_raised)
    table.caption = f"expected calibration error {100 * analysis.calibration.error:.1f} points"
    return table


def dry_run_table(config: RunConfig, result: DryRun) -> Table:
    """Tabulate the time and memory that a run will need: measured, or predicted where the table says so."""
    train, (height, width) = config.train, config.augment.crop
    views = result.num_unlabelled_views
    unlabelled = f" + {views} x {train.batch_unlabelled} unlabelled" if views else ""
    evaluations = -(-train.steps // config.eval.every)
    counted = "the whole process" if result.device == "CPU" else "all tensors"
    table = Table(show_header=False, box=None)
    for name, text in {
        "dry run of": config.recipe or "a configuration",
        "device": result.device,
        "network": f"{config.model.backbone}, {result.parameters / 1e6:.2f} M parameters",
        "trained": f"{result.trained / 1e6:.2f} M parameters",
        "a step": f"{train.batch_labelled} labelled{unlabelled} images of {height} x {width}, {train.precision}",
        "iterations": f"{train.steps}",
        "seconds a step": f"{result.step_s:.3g}; the first, with compilation, {result.first_step_s:.3g}",
        "expected": f"{duration_text(train.steps * result.step_s)}, besides reading images and {evaluations} "
        "evaluations",
        "memory": f"{result.peak_memory_mb / 1e3:.2f} GB at most, {counted}",
        "predicted": prediction_text(result.predicted),
    }.items():
        table.add_row(name, text)
    return table


def prediction_text(predicted: Prediction) -> str:
    """Describe the predicted memory of a step on one device and its parts."""
    return (
        f"{predicted.total / 1e9:.2f} GB at least: {predicted.state / 1e9:.2f} GB weights, gradients and momentum, "
        f"{predicted.activations / 1e9:.2f} GB activations"
    )


def duration_text(seconds: float) -> str:
    """Format seconds with the two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if value == value]  # NaN differs from itself
    return sum(known) / len(known) if known else float("nan")


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if value == value else "-"
