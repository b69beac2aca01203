"""The settings that ``fpl-fast init`` chooses for a data set."""

import pytest
from own_data_settings import changed

from fpl_fast.trainer.dry_run import Prediction, PreparedRun
from fpl_fast.trainer.own_data import settings
from fpl_fast.trainer.own_data.settings import choose_settings
from fpl_fast.trainer.recipes import make_recipe


def assert_reasons(config, why):
    """Every setting but those of the data set, which are not chosen here, has a reason."""
    missing = [key for key in changed(config) if not why.get(key) and not key.startswith(("data.", "model."))]
    assert not missing


@pytest.mark.parametrize(
    ("size", "crop", "scales", "protocol"),
    [
        ((40, 56), (32, 32), make_recipe("folder/cps").augment.scales, "whole"),
        ((360, 480), (256, 256), make_recipe("folder/cps").augment.scales, "whole"),
        ((20, 30), (32, 32), make_recipe("folder/cps").augment.scales, "whole"),
        ((3000, 4000), (256, 256), (0.5, 0.75, 1.0), "cps"),
    ],
)
def test_settings_fit_the_images(monkeypatch, size, crop, scales, protocol):
    monkeypatch.setattr(settings, "_choose_backbone", lambda *_: ({"backbone": "test_resnet", "pretrained": False}, {}))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    config, why = choose_settings(make_recipe("folder/cps").data, [size, size, (5, 5)], print)
    assert (config.augment.crop, config.augment.scales, config.eval.protocol) == (crop, scales, protocol)
    assert config.train.batch_labelled == config.train.batch_unlabelled
    assert f"{size[0]} high and {size[1]} wide" in why["augment.crop"]
    assert_reasons(config, why)


@pytest.mark.parametrize(("free", "images"), [(50, 8), (30, 4), (15, 2), (5, 2)])
def test_settings_fit_a_gpu(monkeypatch, free, images):
    """A step of 8 + 8 images needs 40 GB here."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "GPU X")
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    monkeypatch.setattr(settings, "Backbone", lambda name, pretrained: None)

    def prepare(config, *, alone):
        need = Prediction(0, 5 * 10**9 * config.train.batch_labelled)
        return PreparedRun(None, None, need, free * 10**9)

    monkeypatch.setattr(settings, "prepare_run", prepare)
    recipe = make_recipe("folder/fpl_cps_cutmix")
    config, why = choose_settings(recipe.data, [(1024, 2048)], print)
    assert (config.train.batch_labelled, config.train.batch_unlabelled) == (images, images)
    assert (config.model.backbone, config.model.pretrained) == ("resnet50", True)
    assert (config.augment.crop, config.train.precision) == ((512, 512), "bf16-mixed")
    assert (config.train.steps, config.optim) == (recipe.train.steps, recipe.optim)
    assert "GPU X" in why["train.batch_labelled"]
    assert ("lower the crop" in why["train.batch_labelled"]) == (free == 5)
    assert_reasons(config, why)
