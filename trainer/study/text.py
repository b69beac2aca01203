"""Numbers of a study as short texts, and the arrangement of its cells in a table."""

from collections.abc import Sequence

from fpl_fast.trainer.study.grid import Study
from fpl_fast.trainer.study.queue import Snapshot
from fpl_fast.trainer.study.statistics import CellResult, Difference

__all__ = ["cell_text", "difference_text", "missing_runs", "table_rows"]


def table_rows(results: Sequence[CellResult]) -> tuple[list[str], list[tuple[str, list[CellResult | None]]]]:
    """Arrange the cells: a row for each recipe and variant, a column for each part of the labels and backbone."""
    columns = list(dict.fromkeys(result.cell.column for result in results))
    rows = list(dict.fromkeys(result.cell.row for result in results))
    found = {(result.cell.row, result.cell.column): result for result in results}
    return columns, [(row, [found.get((row, column)) for column in columns]) for row in rows]


def cell_text(result: CellResult | None) -> str:
    """Describe a cell: mean ± standard deviation (seeds), and the paper's number with the difference.

    Example:
        >>> from fpl_fast.trainer.study.grid import Cell
        >>> cell_text(CellResult(Cell("voc/cps", "-", "1/8", "resnet50"), 3, {0: 70.0, 1: 72.0}, None))
        '71.00 ± 1.41 (2 of 3)'
    """
    if result is None or result.mean is None:
        return "–"
    text = f"{result.mean:.2f}"
    if result.deviation is not None:
        text += f" ± {result.deviation:.2f}"
    seeds = (
        str(len(result.scores))
        if len(result.scores) == result.num_seeds
        else (f"{len(result.scores)} of {result.num_seeds}")
    )
    text += f" ({seeds})"
    if result.published is not None and result.gap is not None:
        text += f"; paper {result.published.miou:.2f}, {signed(result.gap)}"
    return text


def difference_text(difference: Difference) -> tuple[str, str, str]:
    """Describe a difference: mean ± standard deviation, confidence interval, number of seeds."""
    mean = signed(difference.mean)
    if difference.deviation is not None:
        mean += f" ± {difference.deviation:.2f}"
    interval = "one seed" if difference.interval is None else " to ".join(map(signed, difference.interval))
    return mean, interval, str(len(difference.values))


def signed(value: float) -> str:
    """Format points with their sign.

    Example:
        >>> signed(-0.5)
        '−0.50'
    """
    return f"{value:+.2f}".replace("-", "−")


def missing_runs(study: Study, snapshot: Snapshot) -> list[str]:
    """List the runs without a result, and how far they are or how they failed."""
    lines = []
    for trial in study.trials:
        state, steps = snapshot.states[trial.name], trial.config.train.steps
        if trial.name in snapshot.failed:
            lines.append(f"{trial.name}: failed, logged to step {state.step} of {steps}: {snapshot.failed[trial.name]}")
        elif state.phase != "done":
            lines.append(f"{trial.name}: {state.phase}, logged to step {state.step} of {steps}")
        elif state.miou is None or state.miou != state.miou:
            lines.append(f"{trial.name}: done, but no labelled pixel was evaluated")
    return lines
