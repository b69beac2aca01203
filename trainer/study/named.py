"""Studies by name: the tables of the paper."""

from collections.abc import Callable, Mapping
from typing import Any

from fpl_fast.trainer.recipes.published import BACKBONES, PARTITIONS
from fpl_fast.trainer.recipes.tables import grid

__all__ = ["NAMED"]


def _table(data: str) -> dict[str, Any]:
    """Build the rows of a table that can be trained, without the cells for which it has no number."""
    cells = [cell for cell in grid() if cell.recipe.startswith(f"{data}/") and cell.published is not None]
    return {
        "description": f"Fuzzy Positive Learning (CVPR 2023), table {'2' if data == 'voc' else '1'}",
        "grids": [
            {
                "recipes": [c.recipe for c in cells if (c.backbone, c.partition) == (backbone, partition)],
                "partitions": [partition],
                "backbones": [backbone],
            }
            for backbone in BACKBONES
            for partition in PARTITIONS[data]
        ],
    }


NAMED: Mapping[str, Callable[[], dict[str, Any]]] = {
    "voc-table": lambda: _table("voc"),
    "city-table": lambda: _table("city"),
}
