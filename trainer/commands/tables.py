"""Tables on the terminal."""

from collections.abc import Mapping, Sequence

from rich.table import Table

__all__ = ["class_table"]


def class_table(class_names: Sequence[str], columns: Mapping[str, Sequence[float]]) -> Table:
    """IoU in per cent by class, a column for each evaluation, with the means at the end.

    Args:
        class_names: C names.
        columns: For each title, C fractions; NaN for a class that neither occurs nor is predicted.
    """
    table = Table("IoU, %")
    for title in columns:
        table.add_column(title, justify="right")
    for index, name in enumerate(class_names):
        table.add_row(name, *(_percent(column[index]) for column in columns.values()))
    table.add_section()
    table.add_row("mean", *(_percent(_mean(column)) for column in columns.values()), style="bold")
    return table


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if value == value]  # NaN differs from itself
    return sum(known) / len(known) if known else float("nan")


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if value == value else "-"
