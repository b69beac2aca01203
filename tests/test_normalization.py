import dataclasses

import pytest
import torch
from trainer_runs import Quiet, tiny_run

from fpl_fast.trainer import loop
from fpl_fast.trainer.build import make_network
from fpl_fast.trainer.config import ModelConfig
from fpl_fast.trainer.config.io import config_to_dict, load_config, override_config, save_config
from fpl_fast.trainer.data.datasets import build_val_dataset
from fpl_fast.trainer.evaluation.trained import load_trained
from fpl_fast.trainer.evaluation.validation import validate
from fpl_fast.trainer.models.normalization import own_normalization, with_normalization
from fpl_fast.trainer.recipes import make_recipe, recipe_names
from fpl_fast.trainer.recipes.published import BACKBONES
from fpl_fast.trainer.run.folder import RunFolder
from fpl_fast.trainer.run.same_run import require_same_run

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def open_run():
    """A run whose normalisation is still to be looked up."""
    config = tiny_run(name="supervised")
    return dataclasses.replace(config, data=dataclasses.replace(config.data, mean=None, std=None))


def numbers(config):
    return config.data.mean, config.data.std


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"backbone": "resnet50", "pretrained": True}, IMAGENET),
        ({"backbone": "tf_efficientnet_lite0", "pretrained": True}, HALVES),
        ({"backbone": "tf_efficientnet_lite0", "weights_file": "w.pth"}, HALVES),
        ({"backbone": "tf_efficientnet_lite0"}, IMAGENET),  # random weights expect no colours
        ({"backbone": "test_resnet.r160_in1k", "pretrained": True}, HALVES),
        ({"backbone": "no_such_network", "pretrained": True}, IMAGENET),  # refused where it is built
    ],
)
def test_colours_are_those_of_the_weights(model, expected):
    assert own_normalization(ModelConfig(**model)) == expected


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("backbone", [None, *BACKBONES])
def test_recipes_have_imagenets_colours(name, backbone):
    """The numbers of the public code, whichever of its networks is taken."""
    recipe = make_recipe(name)
    if backbone is not None:
        recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, backbone=backbone))
    resolved = with_normalization(recipe)
    assert numbers(resolved) == IMAGENET
    assert config_to_dict(resolved)["data"].pop("mean") == [0.485, 0.456, 0.406]
    assert dataclasses.replace(resolved, data=recipe.data) == recipe


def test_written_numbers_stay(tmp_path):
    config = override_config(
        make_recipe("folder/supervised"), ["--model.backbone", "tf_efficientnet_lite0", "--data.mean", "[0.1,0.2,0.3]"]
    )
    assert numbers(with_normalization(config)) == ((0.1, 0.2, 0.3), HALVES[1])
    save_config(with_normalization(config), tmp_path / "config.yaml")
    stored = load_config(tmp_path / "config.yaml")
    assert stored == with_normalization(config) == with_normalization(stored)
    other = override_config(stored, ["--model.backbone", "resnet50"])
    assert numbers(with_normalization(other)) == ((0.1, 0.2, 0.3), HALVES[1])


def test_a_run_stores_the_numbers_that_all_of_it_uses(tmp_path, monkeypatch, caplog):
    """Training, its evaluation and a later evaluation normalise alike, though they start from other configurations."""
    config = open_run()
    source = make_network(config.model, 11).backbone.encoder.state_dict()
    torch.save(source, tmp_path / "w.pth")
    model = dataclasses.replace(config.model, weights_file=str(tmp_path / "w.pth"))
    config = dataclasses.replace(config, model=model)
    assert numbers(config) == (None, None)
    with caplog.at_level("INFO", logger="fpl_fast"):
        outcome = loop.train(config, RunFolder(tmp_path / "run"), Quiet())
    assert (
        "w.pth in the backbone, from random weights elsewhere; images are normalised by mean 0.5, 0.5, 0.5"
        in caplog.text
    )
    assert numbers(RunFolder(tmp_path / "run").load_config()) == HALVES
    (tmp_path / "w.pth").unlink()
    run = load_trained(RunFolder(tmp_path / "run"), checkpoint="last")
    assert numbers(run.config) == HALVES
    again = validate(run.network, build_val_dataset(run.config.data), run.config, run.fabric)
    assert again.miou == outcome.miou
    elsewhere = dataclasses.replace(
        run.config, data=dataclasses.replace(run.config.data, mean=IMAGENET[0], std=IMAGENET[1])
    )
    differs = validate(run.network, build_val_dataset(run.config.data), elsewhere, run.fabric)
    assert differs.confusion.tolist() != again.confusion.tolist()


def test_a_run_may_be_compared_with_its_configuration_before_the_numbers_were_looked_up():
    """As with --auto-resume; a run whose written numbers differ is another one."""
    given = override_config(open_run(), ["--model.weights_file", "w.pth"])
    stored = with_normalization(given)
    assert stored.data != given.data
    require_same_run(stored, given, source="x")
    require_same_run(given, stored, source="x")
    other = dataclasses.replace(stored, data=dataclasses.replace(stored.data, std=IMAGENET[1]))
    with pytest.raises(
        ValueError, match=r"x: must hold the settings that the run was trained with, got data\.std \[0\.5"
    ):
        require_same_run(other, given, source="x")
