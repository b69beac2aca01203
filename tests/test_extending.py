"""The example of docs/extending.md is a method that trains."""

import importlib.util
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from trainer_runs import Quiet, tiny_run

from fpl_fast.trainer.config.io import config_from_dict, config_to_dict, override_config
from fpl_fast.trainer.loop import train
from fpl_fast.trainer.methods import METHODS
from fpl_fast.trainer.recipes import make_recipe
from fpl_fast.trainer.recipes import methods as recipes
from fpl_fast.trainer.run.folder import RunFolder

METHOD, RECIPE = re.findall(
    r"```python\n(.*?)```",
    (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8"),
    flags=re.S,
)


@pytest.fixture
def example(monkeypatch, tmp_path):
    """The file, the line and the entry, put where the text puts them."""
    file = tmp_path / "self_training.py"
    file.write_text(METHOD, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("fpl_fast.trainer.methods.self_training", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(METHODS, "self_training", module.SelfTraining)
    entry = eval(f"{{{RECIPE}}}", {**vars(recipes), **vars(module)})
    for name, recipe in entry.items():
        monkeypatch.setitem(recipes.METHODS, name, recipe)


def test_it_fits_on_a_page():
    assert len(METHOD.splitlines()) <= 60


def test_it_trains(example, tmp_path):
    config = tiny_run(name="self_training", start=0.0)
    monitor = Quiet()
    train(config, RunFolder(tmp_path / "run"), monitor)
    assert all(scalars["loss_unsup"] > 0 for _, split, scalars in monitor.records if split == "train")
    assert RunFolder(tmp_path / "run").load_config() == config


def test_it_is_configured_like_any_other(example):
    config = make_recipe("city/self_training", partition="1/8")
    assert (config.method.unsup_weight, config.method.start, config.method.loss) == (5.0, 0.1, "ce")
    assert make_recipe("city/fpl_self_training", partition="1/8").method == replace(config.method, loss="fpl")
    assert override_config(config, ["--method.start", "0.5"]).method.start == 0.5
    assert config_from_dict(config_to_dict(config)) == config
    with pytest.raises(ValueError, match=r"unknown option --method\.ema_decay: a setting of mean_teacher"):
        override_config(config, ["--method.ema_decay", "0.5"])
    with pytest.raises(ValueError, match=r"method\.start must be in \[0, 1\), got 1.0"):
        override_config(config, ["--method.start", "1.0"])
