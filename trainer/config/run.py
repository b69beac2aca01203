"""A whole run, and the rules between its sections."""

import math
from collections.abc import Iterator
from dataclasses import field, fields

from fpl_fast.trainer.config.data import CityscapesData, FolderData, SyntheticData, VocData
from fpl_fast.trainer.config.method import MethodConfig
from fpl_fast.trainer.config.rules import config_class, require
from fpl_fast.trainer.config.training import AugmentConfig, EvalConfig, ModelConfig, OptimConfig, TrainConfig

__all__ = ["RunConfig"]


@config_class
class RunConfig:
    """Configuration of a whole run, made by recipes (recipes.py) and kept in ``config.yaml`` of the run folder."""

    recipe: str = ""
    """Name of the recipe this configuration started from, for the reader."""
    data: SyntheticData | FolderData | VocData | CityscapesData = field(default_factory=SyntheticData)
    """Data set."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Network."""
    method: MethodConfig
    """Training method."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Length, batches, hardware."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Evaluation."""

    def __post_init__(self) -> None:
        for section in fields(self):
            for key, value in vars(getattr(self, section.name)).items() if section.name != "recipe" else ():
                require(all(map(math.isfinite, _floats(value))), f"{section.name}.{key}", "finite", value)
        self.method.check_run(self.train, self.augment)


def _floats(value: object) -> Iterator[float]:
    """Yield the floats of a setting, a number or a tuple of them."""
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, float):
            yield item
