import pytest

from fpl_fast.trainer.commands.settings import expand_short_names, read_config, take_options
from fpl_fast.trainer.config.io import save_config
from fpl_fast.trainer.recipes import make_recipe


def test_short_names_are_written_out():
    arguments = ["city/cps", "--backbone", "resnet101", "--data-root=a=b", "--protocol", "ael", "--train.steps", "5"]
    assert expand_short_names(arguments) == [
        "city/cps", "--model.backbone", "resnet101", "--data.root=a=b", "--eval.protocol", "ael", "--train.steps", "5",
    ]  # fmt: skip


def test_own_options_are_taken_out():
    options, rest = take_options(["x", "--out", "o", "--other", "1", "--dry"], "--out", "--resume", flags=["--dry"])
    assert (options.out, options.resume, options.dry, rest) == ("o", None, True, ["x", "--other", "1"])
    assert take_options(["--ou", "o"], "--out")[1] == ["--ou", "o"]  # never by a part of its name
    with pytest.raises(ValueError, match="--out"):
        take_options(["--out"], "--out")


def test_a_run_in_the_place_of_a_recipe_is_answered(tmp_path):
    save_config(make_recipe("voc/cps"), tmp_path / "config.yaml")
    with pytest.raises(ValueError, match=rf"{tmp_path}: is a run: continue it with --resume {tmp_path}, or repeat it"):
        read_config([str(tmp_path)], prog="", description="")


def test_a_partition_brings_its_steps(tmp_path):
    arguments = ["voc/cps", "--partition", "1/4", "--backbone", "resnet101", "--data-root", "D"]
    config = read_config(arguments, prog="", description="")
    assert (config.data.partition, config.data.root, config.train.steps) == ("1/4", "D", 39_680)
    assert config.model.backbone == "resnet101"
    assert read_config([*arguments, "--train.steps", "7"], prog="", description="").train.steps == 7
    save_config(make_recipe("voc/cps"), tmp_path / "a.yaml")
    with pytest.raises(ValueError, match=r"--partition goes with a recipe; .*a\.yaml takes --data\.partition"):
        read_config([str(tmp_path / "a.yaml"), "--partition", "1/4"], prog="", description="")
