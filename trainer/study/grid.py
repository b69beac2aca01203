"""Grids of a study: recipes x variants x parts of the labels x backbones x seeds, from a YAML file or by name."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from fpl_fast.trainer.config import RunConfig
from fpl_fast.trainer.config.io import config_from_dict, config_to_dict, override_config
from fpl_fast.trainer.config.nearest import nearest
from fpl_fast.trainer.config.plain_yaml import load_yaml
from fpl_fast.trainer.recipes import make_recipe
from fpl_fast.trainer.recipes.schedule import NUM_IMAGES
from fpl_fast.trainer.study.named import NAMED

__all__ = ["USUAL", "Cell", "Study", "Trial", "read_study"]

_AXES = ("recipes", "variants", "partitions", "backbones", "seeds", "settings")
_KEYS = ("description", *_AXES, "grids")
_MAX_SEEDS = 1000
USUAL = "-"
"""Name of the only variant, part of the labels or backbone where a grid gives none."""


class Cell(NamedTuple):
    """Cell of a study's table: the runs that differ in the seed alone."""

    recipe: str
    variant: str
    partition: str
    backbone: str

    @property
    def row(self) -> str:
        """Recipe and variant, for a table."""
        return self.recipe if self.variant == USUAL else f"{self.recipe}, {self.variant}"

    @property
    def column(self) -> str:
        """Part of the labels and backbone, for a table."""
        return " ".join(name for name in (self.partition, self.backbone) if name != USUAL) or "mIoU"


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """One run of a study."""

    cell: Cell
    config: RunConfig

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.config.train.seed

    @property
    def name(self) -> str:
        """Name of the run's folder, the same in every extension of the study."""
        parts = [part for part in self.cell if part != USUAL] + [f"seed{self.seed}"]
        return "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", part) for part in parts)


@dataclasses.dataclass(frozen=True, slots=True)
class Study:
    """All runs of a study."""

    name: str
    description: str
    trials: tuple[Trial, ...]

    @property
    def cells(self) -> list[Cell]:
        """The cells, in order."""
        return list(dict.fromkeys(trial.cell for trial in self.trials))


def read_study(source: str, *, overrides: Sequence[str] = (), seeds: int | None = None) -> Study:
    """Read a study and build the configuration of each of its runs.

    Args:
        source: A YAML file, or a study by name: "voc-table" and "city-table", the paper's tables, or "quickstart".
        overrides: Options such as ``--data.root D``, for all runs.
        seeds: Number of seeds, 0, 1, ..., in place of the study's own.

    Raises:
        ValueError: The file or one of its runs breaks a rule; nothing is trained before all are checked.
    """
    if source in NAMED:
        name, values = source, NAMED[source]()
    elif source.endswith((".yaml", ".yml")):
        name, values = Path(source).stem, _load(source)
    else:
        raise ValueError(
            f"study must be a YAML file or one of {', '.join(NAMED)}, got {source!r}{nearest(source, NAMED)}"
        )
    unknown = [key for key in values if key not in _KEYS]
    if unknown:
        raise ValueError(f"{source}: unknown key {unknown[0]!r}{nearest(str(unknown[0]), _KEYS)}")
    if any(option.partition("=")[0] == "--train.seed" for option in overrides):
        raise ValueError("--train.seed must not be an option of a study: its seeds are 'seeds', or --seeds N")
    if seeds is not None:
        if not 1 <= seeds <= _MAX_SEEDS:
            raise ValueError(f"--seeds must be their number, 1 to {_MAX_SEEDS}, got {seeds}")
        values = {**values, "seeds": seeds}
    trials: dict[str, Trial] = {}
    cells: dict[str, Cell] = {}
    for grid in _grids(values, source, seeds):
        for trial in _trials(grid, overrides, source):
            if trials.setdefault(trial.name, trial) != trial:
                raise ValueError(
                    f"{source}: names must tell the runs of a study apart, got {trial.name} twice with other settings: "
                    "name the variants, or the parts of the labels, differently"
                )
            cell = cells.setdefault(repr(trial.config), trial.cell)
            if cell != trial.cell:
                raise ValueError(
                    f"{source}: cells must differ in a setting, got the same in {_place(cell)} and {_place(trial.cell)}"
                    ": give each its settings, and set nothing for all runs that tells them apart"
                )
    if not trials:
        raise ValueError(f"{source}: must have at least one recipe and one seed, got none")
    return Study(name, str(values.get("description", "")), tuple(trials.values()))


def _load(path: str) -> dict[str, Any]:
    try:
        values = load_yaml(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}): name a YAML file of a study") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: must be YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: must hold keys and values such as 'recipes: [synthetic/cps]', got {values!r}")
    return values


def _grids(values: Mapping[str, Any], source: str, seeds: int | None) -> Iterator[Mapping[str, Any]]:
    """Yield the grids of a study; each takes from the study what it does not give itself, and adds its settings."""
    shared = {key: values[key] for key in _AXES if key in values}
    grids = values.get("grids", [{}])
    if not isinstance(grids, list) or not all(isinstance(grid, Mapping) for grid in grids):
        raise ValueError(f"{source}: grids must be a list of keys and values, got {grids!r}")
    for grid in grids:
        unknown = [key for key in grid if key not in _AXES]
        if unknown:
            raise ValueError(f"{source}: unknown key {unknown[0]!r} in grids{nearest(str(unknown[0]), _AXES)}")
        own = dict(grid) if seeds is None else {**grid, "seeds": seeds}
        settings = _settings(shared.get("settings"), source) | _settings(own.get("settings"), source)
        yield {**shared, **own, "settings": settings}


def _trials(grid: Mapping[str, Any], overrides: Sequence[str], source: str) -> Iterator[Trial]:
    recipes = grid.get("recipes", [])
    if not isinstance(recipes, list) or not all(isinstance(recipe, str) for recipe in recipes):
        raise ValueError(f"{source}: recipes must be a list such as [voc/cps, voc/fpl_cps], got {recipes!r}")
    backbones = grid.get("backbones", [USUAL])
    if not isinstance(backbones, list) or not all(isinstance(name, str) for name in backbones):
        raise ValueError(f"{source}: backbones must be a list such as [resnet50, resnet101], got {backbones!r}")
    for recipe in recipes:
        for variant, of_variant in _named(grid, "variants", source).items():
            for partition, of_partition in _named(grid, "partitions", source).items():
                for backbone in backbones:
                    of_backbone = {} if backbone == USUAL else {"model.backbone": backbone}
                    cell = Cell(recipe, variant, partition, backbone)
                    settings = grid["settings"] | of_partition | of_backbone | of_variant
                    config = _config(cell, settings, overrides, source)
                    for seed in _seeds(grid.get("seeds", 1), source):
                        yield Trial(
                            cell, dataclasses.replace(config, train=dataclasses.replace(config.train, seed=seed))
                        )


def _named(grid: Mapping[str, Any], axis: str, source: str) -> dict[str, dict[str, Any]]:
    """Settings of each variant, or of each part of the labels, by name; a list has names alone."""
    given = grid.get(axis, [USUAL])
    if isinstance(given, list):
        given = dict.fromkeys(map(str, given))
    if isinstance(given, Mapping):
        unfit = [name for name in map(str, given) if not (name.strip() and name.isprintable() and len(name) <= 60)]
        if unfit:
            raise ValueError(f"{source}: {axis} must have names of one line and 1 to 60 characters, got {unfit[0]!r}")
        return {str(name): _settings(settings, f"{source}: {axis} {name}") for name, settings in given.items()}
    raise ValueError(f"{source}: {axis} must be a list of names, or names with settings, got {given!r}")


def _settings(given: Any, source: str) -> dict[str, Any]:
    """Settings by dotted key; written with dots or in sections."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ValueError(f"{source}: settings must be keys and values such as train.steps: 300, got {given!r}")
    flat: dict[str, Any] = {}
    for key, value in given.items():
        in_section = isinstance(value, Mapping) and "." not in str(key)
        more = {f"{key}.{name}": v for name, v in value.items()} if in_section else {str(key): value}
        twice = sorted(flat.keys() & more.keys())
        if twice:
            raise ValueError(f"{source}: settings must give a key once, got {twice[0]} twice")
        flat |= more
    if "train.seed" in flat:
        raise ValueError(f"{source}: train.seed must not be a setting of a study: its seeds are the list 'seeds'")
    return flat


def _seeds(given: Any, source: str) -> list[int]:
    if isinstance(given, int) and not isinstance(given, bool) and 1 <= given <= _MAX_SEEDS:
        return list(range(given))
    if isinstance(given, list) and all(
        isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32 for seed in given
    ):
        return given
    raise ValueError(
        f"{source}: seeds must be their number, 1 to {_MAX_SEEDS}, or a list of integers from 0 to 2^32 - 1, "
        f"got {given!r}"
    )


def _place(cell: Cell) -> str:
    """Row and column of a cell, for messages."""
    return f"{cell.row} {cell.column}".removesuffix(" mIoU")


def _config(cell: Cell, settings: Mapping[str, Any], overrides: Sequence[str], source: str) -> RunConfig:
    where = f"{source}: {_place(cell)}"
    data = cell.recipe.partition("/")[0]
    public = data in NUM_IMAGES and cell.partition != USUAL
    if not public and cell.partition != USUAL and not any(key.startswith("data.") for key in settings):
        raise ValueError(
            f"{where}: a part of the labels must have its settings, as in '{cell.partition}: {{data.labelled: LIST}}': "
            f"only {' and '.join(NUM_IMAGES)} have parts by name"
        )
    try:
        values = config_to_dict(make_recipe(cell.recipe, partition=cell.partition if public else None))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    for key, value in settings.items():
        section, _, name = key.partition(".")
        if isinstance(values.get(section, {}), dict) and name:
            values.setdefault(section, {})[name] = value
        else:
            raise ValueError(f"{where}: unknown key {key!r}: settings are named SECTION.KEY, such as train.steps")
    config = config_from_dict(values, source=where)
    return override_config(config, overrides) if overrides else config
