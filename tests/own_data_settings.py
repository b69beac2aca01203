"""Settings that ``init`` has chosen."""

from fpl_fast.trainer.config.io import config_to_dict
from fpl_fast.trainer.own_data import settings
from fpl_fast.trainer.recipes import make_recipe


def changed(config):
    """Settings in which a configuration differs from the recipe that ``init`` begins with, with their values."""
    recipe = config_to_dict(make_recipe(settings.RECIPE))
    return {
        f"{section}.{key}": value
        for section, values in config_to_dict(config).items()
        if section != "recipe"
        for key, value in values.items()
        if value != recipe[section][key]
    }
