import dataclasses

import pytest
import torch
from trainer_runs import STEPS, Quiet, tiny_run

from fpl_fast.trainer.config.io import save_config
from fpl_fast.trainer.evaluation.trained import load_trained
from fpl_fast.trainer.loop import train
from fpl_fast.trainer.run.checkpoint import load_checkpoint, save_checkpoint
from fpl_fast.trainer.run.folder import RunFolder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run whose pretrained weights are gone since."""
    folder = RunFolder(tmp_path_factory.mktemp("trained") / "run")
    config = tiny_run()
    train(config, folder, Quiet())
    model = dataclasses.replace(config.model, weights_file="gone.pth")
    save_config(dataclasses.replace(config, model=model), folder.config)
    return folder


def test_the_weights_of_the_checkpoint_alone(folder):
    run = load_trained(folder, checkpoint="last")
    stored = torch.load(folder.last, weights_only=False)["method"]
    assert run.step == STEPS
    assert not run.network.training
    for name, value in run.network.state_dict().items():
        assert torch.equal(value, stored[f"networks.0.{name}"])
    assert len(run.classes.names) == len(run.classes.palette) == 11


def test_settings_can_be_changed(folder):
    run = load_trained(folder, changes=["--eval.protocol", "cps", "--eval.window", "[16,16]"])
    assert (run.config.eval.protocol, run.config.eval.window) == ("cps", (16, 16))
    with pytest.raises(ValueError, match=r"unknown option --eval.protocl: did you mean '--eval.protocol'"):
        load_trained(folder, changes=["--eval.protocl", "cps"])
    with pytest.raises(ValueError, match=r"best.ckpt: must fit .*config.yaml, got other networks"):
        load_trained(folder, changes=["--model.head_channels", "5"])


def test_weights_of_a_run_that_diverged(folder, tmp_path):
    other = RunFolder(tmp_path / "run")
    other.create(folder.load_config())
    state = load_checkpoint(folder.last)
    name = next(name for name in state["method"] if name.startswith("networks.0"))
    state["method"][name].fill_(torch.nan)
    save_checkpoint(other.last, state)
    with pytest.raises(ValueError, match=r"last\.ckpt: must hold finite weights, got infinity or NaN: the run has div"):
        load_trained(other, checkpoint="last")


@pytest.mark.parametrize(
    "train", [{"devices": 4}, {"batch_labelled": 1}, {"accumulate": 8}, {"precision": "16-mixed"}, {"compile": True}]
)
def test_a_run_of_other_hardware(folder, tmp_path, train):
    """Neither its processes nor the batches and the precision that it was trained with matter to its network."""
    config = folder.load_config()
    other = RunFolder(tmp_path / "run")
    other.create(dataclasses.replace(config, train=dataclasses.replace(config.train, **train)))
    other.last.write_bytes(folder.last.read_bytes())
    run = load_trained(other, checkpoint="last")
    assert run.fabric.world_size == 1
    assert run.config.train.precision == "32-true"
    assert not run.config.train.compile
    stored = torch.load(folder.last, weights_only=False)["method"]
    assert all(torch.equal(value, stored[f"networks.0.{name}"]) for name, value in run.network.state_dict().items())
