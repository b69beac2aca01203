"""Studies by name: the tables of the paper, and the quickstart."""

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


def _quickstart() -> dict[str, Any]:
    """Build three runs on the same few labels, for two CPU cores and four minutes (docs/studies.md has the search).

    Networks from scratch get further in so few steps by AdamW than by the SGD of the recipes. CPS ends higher where no
    scale is below 1: at 0.75, 44 % of a crop are padding. The crops have too few logits for "auto" to compile a loss,
    which would take a minute or two in the first quickstart on a machine.
    """
    return {
        "description": "Street scenes, six of them with labels: supervised training, CPS with CutMix, and FPL in it",
        "recipes": ["synthetic/supervised", "synthetic/cps_cutmix", "synthetic/fpl_cps_cutmix"],
        "settings": {
            "augment.scales": [1.0, 1.25, 1.5],
            "optim": {"algorithm": "adamw", "lr": 0.01, "weight_decay": 0.01},
            "train.steps": 850,
        },
    }


NAMED: Mapping[str, Callable[[], dict[str, Any]]] = {
    "voc-table": lambda: _table("voc"),
    "city-table": lambda: _table("city"),
    "quickstart": _quickstart,
}
