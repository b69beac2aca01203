"""``fpl-fast recipes``."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch

from rich import box
from rich.table import Table

from fpl_fast.trainer.commands.console import Parser, out_console
from fpl_fast.trainer.config.nearest import nearest
from fpl_fast.trainer.recipes import DATA_SUMMARIES, METHOD_SUMMARIES, recipe_names
from fpl_fast.trainer.recipes.published import BACKBONES, PARTITIONS
from fpl_fast.trainer.recipes.schedule import num_labelled
from fpl_fast.trainer.recipes.tables import Cell, grid

__all__ = ["main"]

_DESCRIPTION = """
List the recipes DATA/METHOD that fpl-fast train knows, and the paper's tables with its numbers. With a PATTERN such as
city, voc/cps or '*/fpl_*': the recipes and cells that it matches, with labelled images, steps, mIoU and gain.
"""


def main(arguments: list[str]) -> int:
    """List every recipe and every cell of the paper's tables."""
    parser = Parser("fpl-fast recipes", _DESCRIPTION)
    parser.add_argument("pattern", metavar="PATTERN", nargs="?", help="data set, or DATA/METHOD with * and ?")
    pattern = parser.parse_args(arguments).pattern

    names, cells = recipe_names(), grid()
    console = out_console()
    if pattern is None:
        console.print(_summaries("METHOD", METHOD_SUMMARIES))
        console.print(_summaries("DATA", DATA_SUMMARIES))
        for data in PARTITIONS:
            console.print(_overview(data, [cell for cell in cells if cell.recipe.startswith(f"{data}/")]))
        shown = next(cell for cell in reversed(cells) if cell.recipe == "city/fpl_cps_cutmix")
        console.print(f"train one: {shown.command} --data-root DIR")
        return 0

    matching = [name for name in names if fnmatch(name, pattern) or fnmatch(name, f"{pattern}/*")]
    if not matching:
        raise ValueError(f"PATTERN must match a recipe, got {pattern!r}{nearest(pattern, [*names, *DATA_SUMMARIES])}")
    in_tables = {cell.recipe for cell in cells}
    own = {name: METHOD_SUMMARIES[name.partition("/")[2]] for name in matching if name not in in_tables}
    if own:
        console.print(_summaries("recipe", own))
    cells = [cell for cell in cells if cell.recipe in matching]
    if cells:
        console.print(_cells(cells))
        console.print(f"the last one: {cells[-1].command} --data-root DIR")
    return 0


def _table(*titles: str) -> Table:
    return Table(*titles, box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False, collapse_padding=True)


def _summaries(title: str, summaries: Mapping[str, str]) -> Table:
    table = _table(title, "")
    for name, text in summaries.items():
        table.add_row(name, text)
    table.add_row()
    return table


def _overview(data: str, cells: Sequence[Cell]) -> Table:
    """Make the paper's table of a data set: trainable rows, a column for each backbone and part of the labels."""
    columns = list(dict.fromkeys((cell.backbone, cell.partition) for cell in cells if cell.backbone in BACKBONES))
    table = _table(f"{data}/METHOD\nmIoU, %")
    for backbone, partition in columns:
        table.add_column(f"{backbone.replace('resnet', 'R')}\n{partition}", justify="right")
    found = {(cell.recipe, cell.backbone, cell.partition): cell.published for cell in cells}
    for recipe in dict.fromkeys(cell.recipe for cell in cells if cell.published):
        numbers = [found[recipe, *column] for column in columns]
        table.add_row(recipe.partition("/")[2], *(f"{one.miou:.2f}" if one else "-" for one in numbers))
    table.add_row()
    return table


def _cells(cells: Sequence[Cell]) -> Table:
    """Make a table with a row for each cell."""
    table = _table("recipe", "backbone", "part")
    recipe, backbone = table.columns[:2]  # what one types is not cut
    recipe.no_wrap, backbone.overflow = True, "fold"
    for title in ("labelled", "steps", "paper, %", "gain"):
        table.add_column(title, justify="right")
    for cell in cells:
        published = cell.published
        table.add_row(
            cell.recipe,
            cell.backbone,
            cell.partition,
            str(num_labelled(cell.recipe.partition("/")[0], cell.partition)),
            f"{cell.steps:,}".replace(",", " "),
            f"{published.miou:.2f}" if published else "-",
            f"{published.gain:+.2f}" if published and published.gain is not None else "",
        )
    table.add_row()
    return table
