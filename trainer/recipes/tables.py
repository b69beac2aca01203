"""Cells of the paper's tables: method x data set x backbone x part of the labels, and methods outside the tables."""

from typing import NamedTuple

from fpl_fast.trainer.config import CityscapesData, RunConfig, VocData
from fpl_fast.trainer.recipes import make_recipe
from fpl_fast.trainer.recipes.methods import METHODS
from fpl_fast.trainer.recipes.published import BACKBONES, PARTITIONS, Published, find_published

__all__ = ["TRANSFORMERS", "Cell", "grid", "published_number"]

TRANSFORMERS = ("vit_small_patch14_dinov2", "vit_base_patch14_dinov2")
"""Backbones of the methods whose head reads a transformer."""


class Cell(NamedTuple):
    """A cell of the paper's tables, or a run that they have no number for."""

    recipe: str
    backbone: str
    partition: str
    steps: int
    published: Published | None

    @property
    def command(self) -> str:
        """Command that trains the cell, without the folder of the data."""
        return f"fpl-fast train {self.recipe} --backbone {self.backbone} --partition {self.partition}"


def published_number(config: RunConfig) -> Published | None:
    """Find the paper's number for the recipe, backbone and partition of a run; other settings are not compared."""
    data, _, method = config.recipe.partition("/")
    if data not in PARTITIONS or not isinstance(config.data, VocData | CityscapesData) or data != config.data.kind:
        return None
    return find_published(data, method, config.model.backbone, config.data.partition)


def grid() -> list[Cell]:
    """List every cell: method x data set x backbone of the method x part of the labels.

    Example:
        >>> next(cell for cell in grid() if cell.recipe == "voc/fpl_cps_cutmix").command
        'fpl-fast train voc/fpl_cps_cutmix --backbone resnet50 --partition 1/16'
    """
    return [
        Cell(
            f"{data}/{method}",
            backbone,
            partition,
            make_recipe(f"{data}/{method}", partition=partition).train.steps,
            find_published(data, method, backbone, partition),
        )
        for data, partitions in PARTITIONS.items()
        for method in METHODS
        for backbone in _backbones(f"{data}/{method}")
        for partition in partitions
    ]


def _backbones(recipe: str) -> tuple[str, ...]:
    return TRANSFORMERS if make_recipe(recipe).model.head == "dpt" else BACKBONES
