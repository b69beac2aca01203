"""Recipes: named runs ``<data>/<method>``, generated from the settings of each data set and each method.

A recipe is a function that returns a RunConfig; nothing else in the trainer knows of recipes. On the public data sets a
recipe with a backbone and a part of the labels is a cell of the paper's tables; that grid is generated, too.
docs/choices.md explains the choices where the papers and their code leave something open.
"""

import dataclasses
from typing import Any, cast

from fpl_fast.trainer.config import CityscapesData, RunConfig, VocData
from fpl_fast.trainer.config.nearest import nearest
from fpl_fast.trainer.recipes.data import DATA
from fpl_fast.trainer.recipes.methods import METHODS
from fpl_fast.trainer.recipes.schedule import LABELLED_PARTS, NUM_IMAGES, num_steps

__all__ = ["DATA_SUMMARIES", "METHOD_SUMMARIES", "make_recipe", "recipe_names"]

DATA_SUMMARIES = {name: data.summary for name, data in DATA.items()}
METHOD_SUMMARIES = {name: method.summary for name, method in METHODS.items()}


def recipe_names() -> list[str]:
    """List the name of every recipe.

    Example:
        >>> "folder/fpl_cps_cutmix" in recipe_names()
        True
    """
    return [f"{data}/{method}" for data in DATA for method in METHODS]


def make_recipe(name: str, *, partition: str | None = None) -> RunConfig:
    """Build the configuration of the recipe ``<data>/<method>``.

    Args:
        name: One of ``recipe_names()``.
        partition: Part of a public data set that is labelled, "1/32" ... "1/2", with the steps that belong to it;
            default "1/8".

    Raises:
        ValueError: There is no such recipe (the nearest name is given) or no such part.

    Example:
        >>> make_recipe("city/fpl_cps_cutmix", partition="1/16").train.steps
        44544
    """
    data, _, method = name.partition("/")
    if data not in DATA or method not in METHODS:
        remedy = nearest(name, recipe_names()) or ": fpl-fast recipes lists them"
        raise ValueError(f"recipe: no such recipe {name!r}{remedy}")
    how, settings = METHODS[method], DATA[data].settings
    setting = how.setting if how.setting in settings else next(iter(settings))
    config = settings[setting](dataclasses.replace(how.method, **how.numbers.get(data, {})))
    config = dataclasses.replace(config, recipe=name)
    if data in NUM_IMAGES:
        return _at_partition(config, setting, partition or "1/8")
    if partition is not None:
        raise ValueError(f"--partition goes with the data sets {' and '.join(NUM_IMAGES)}, got {name!r}")
    return config


def _at_partition(config: RunConfig, setting: str, partition: str) -> RunConfig:
    if partition not in LABELLED_PARTS:
        raise ValueError(f"--partition must be one of {', '.join(LABELLED_PARTS)}, got {partition!r}")
    assert isinstance(config.data, VocData | CityscapesData)
    steps = num_steps(config.data.kind, setting, partition)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, partition=cast("Any", partition)),
        train=dataclasses.replace(config.train, steps=steps),
    )
