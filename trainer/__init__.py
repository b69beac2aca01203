"""The trainer: methods, networks, data and the command line around the fused losses.

What a script needs is imported from here; names are imported when they are first used, because most of them need torch.

Example:
    >>> config = override_config(make_recipe("synthetic/fpl_cps_cutmix"), ["--train.steps", "200"])
    >>> outcome = train(config, "runs/mine")
    >>> classes = predict_image(load_trained("runs/mine"), read_image("photo.jpg"))
"""

from typing import TYPE_CHECKING

from fpl_fast.on_demand import names_on_demand

if TYPE_CHECKING:
    from fpl_fast.trainer.config.io import load_config, override_config, save_config
    from fpl_fast.trainer.evaluation.predict import predict_image, read_image
    from fpl_fast.trainer.evaluation.trained import TrainedRun, load_trained
    from fpl_fast.trainer.loop import Outcome, train
    from fpl_fast.trainer.recipes import make_recipe
    from fpl_fast.trainer.run.monitor import Monitor

__all__ = [
    "Monitor",
    "Outcome",
    "TrainedRun",
    "load_config",
    "load_trained",
    "make_recipe",
    "override_config",
    "predict_image",
    "read_image",
    "save_config",
    "train",
]

_HOMES = {
    "config.io": ("load_config", "override_config", "save_config"),
    "evaluation.predict": ("predict_image", "read_image"),
    "evaluation.trained": ("TrainedRun", "load_trained"),
    "loop": ("Outcome", "train"),
    "recipes": ("make_recipe",),
    "run.monitor": ("Monitor",),
}

if not TYPE_CHECKING:  # a type checker would take every name for one that exists
    __getattr__, __dir__ = names_on_demand(globals(), _HOMES)
