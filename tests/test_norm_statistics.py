import dataclasses
import itertools
import os
import signal

import pytest
import torch
from method_cases import TinyNetwork
from torch import nn
from trainer_runs import Quiet, tiny_run

from fpl_fast.trainer.build import make_fabric
from fpl_fast.trainer.data.datasets import build_train_datasets
from fpl_fast.trainer.data.inputs import first_images, read_batches
from fpl_fast.trainer.evaluation.norm_statistics import renew_statistics
from fpl_fast.trainer.evaluation.trained import load_trained
from fpl_fast.trainer.loop import train
from fpl_fast.trainer.run.checkpoint import load_checkpoint
from fpl_fast.trainer.run.folder import RunFolder


def with_norm_batches(num, **method):
    run = tiny_run(**method)
    return dataclasses.replace(run, eval=dataclasses.replace(run.eval, norm_batches=num))


@pytest.mark.parametrize("training", [False, True])
def test_statistics_are_means_over_the_batches(training):
    network = nn.Sequential(TinyNetwork(), nn.Dropout(0.5)).train(training)
    network(torch.randn(2, 3, 14, 18))  # moves the statistics
    batches = [torch.randn(num, 3, 14, 18) for num in (2, 5, 3)]
    conv, norm = network[0].layers[:2]
    inputs = [conv(images) for images in batches]
    mean, var = (sum(f(x) for x in inputs) / 3 for f in (lambda x: x.mean((0, 2, 3)), lambda x: x.var((0, 2, 3))))
    state = torch.get_rng_state()
    renew_statistics(network, batches)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training == training for module in network.modules()) and norm.momentum == 0.1
    torch.testing.assert_close(norm.running_mean, mean.detach())
    torch.testing.assert_close(norm.running_var, var.detach())


@pytest.mark.parametrize("name", ["supervised", "cps", "unimatch"])
def test_first_images_are_those_of_the_first_steps(name):
    config = with_norm_batches(2, name=name)
    views = 0 if name == "supervised" else 2
    datasets = build_train_datasets(config.data, unlabelled=views > 0)
    fabric = make_fabric(config.train)
    images = list(first_images(config, datasets, views, fabric))
    batches = read_batches(config, datasets, num_unlabelled_views=views, device=fabric.device)
    of_a_step = [(batch.labelled, *batch.unlabelled) for batch in itertools.islice(batches, 2)]
    expected = [view.image for each in of_a_step for view in each]
    assert len(images) == 2 * (1 + views)
    assert all(torch.equal(a, b) for a, b in zip(images, expected, strict=True))


@pytest.mark.parametrize(("name", "views"), [("cps", 2), ("gct", 1)])
def test_runs_evaluate_and_keep_the_new_statistics(tmp_path, name, views):
    """Both networks have them: an analysis takes one for the teacher. Training passes use the batch's, as without."""
    moving, renewed = RunFolder(tmp_path / "moving"), RunFolder(tmp_path / "renewed")
    for folder, num in ((moving, 0), (renewed, 3)):
        train(with_norm_batches(num, name=name), folder, Quiet())
    old, new = (load_checkpoint(folder.last)["method"] for folder in (moving, renewed))
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert {name[:11] for name in changed} == {"networks.0.", "networks.1."}
    assert all(name.endswith(statistics) for name in changed)

    trained = load_trained(renewed, checkpoint="last")
    before = [{name: buffer.clone() for name, buffer in each.named_buffers()} for each in trained.networks]
    config = trained.config
    datasets = build_train_datasets(config.data, unlabelled=True)
    for network, expected in zip(trained.networks, before, strict=True):
        renew_statistics(network, first_images(config, datasets, views, trained.fabric))
        for name, buffer in network.named_buffers():
            if "running_" in name:
                torch.testing.assert_close(buffer, expected[name])


def test_resumed_equals_straight(tmp_path):
    config = with_norm_batches(2, name="fixmatch")  # evaluates its own weak views by the statistics
    straight, stopped = RunFolder(tmp_path / "straight"), RunFolder(tmp_path / "stopped")
    train(config, straight, Quiet())
    train(config, stopped, Quiet(lambda step: step == 5 and os.kill(os.getpid(), signal.SIGTERM)))
    train(config, stopped, Quiet(), resume=True)
    ours, theirs = (load_checkpoint(folder.last)["method"] for folder in (straight, stopped))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_negative_numbers_are_refused():
    with pytest.raises(ValueError, match=r"eval.norm_batches must be >= 0, got -1"):
        with_norm_batches(-1)
