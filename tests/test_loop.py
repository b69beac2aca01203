import dataclasses
import functools
import json
import logging
import os
import signal

import numpy as np
import pytest
import torch
from data_trees import voc_tree
from trainer_runs import STEPS, Quiet, tiny_run

from fpl_fast.trainer.config import VocData
from fpl_fast.trainer.evaluation.trained import load_trained
from fpl_fast.trainer.loop import train
from fpl_fast.trainer.run.checkpoint import load_checkpoint, save_checkpoint
from fpl_fast.trainer.run.folder import RunFolder

pytestmark = pytest.mark.usefixtures("nothing_is_compiled")
TIMES = {"images_per_second", "loader_wait", "elapsed_s", "startup_s", "peak_memory_mb"}  # differ between two runs


def metrics(folder):
    """The log without what depends on the clock."""
    records = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return [{key: value for key, value in record.items() if key not in TIMES} for record in records]


def assert_same_state(ours, theirs):
    """Networks, optimiser and counters, bit for bit."""
    a, b = load_checkpoint(ours), load_checkpoint(theirs)
    assert a["step"] == b["step"]
    assert a["miou"] == b["miou"]
    assert a["method"].keys() == b["method"].keys()
    assert all(torch.equal(a["method"][name], b["method"][name]) for name in a["method"])
    for one, other in zip(
        (a["optimizer"], *a["later_optimizers"]), (b["optimizer"], *b["later_optimizers"]), strict=True
    ):
        for place, state in one["state"].items():
            assert state.keys() == other["state"][place].keys() != set()
            assert all(torch.equal(value, other["state"][place][name]) for name, value in state.items())
    assert [state["torch"].tolist() for state in a["random"]] == [state["torch"].tolist() for state in b["random"]]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that nothing interrupts."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "straight")
    monitor = Quiet()
    outcome = train(tiny_run(), folder, monitor)
    return folder, outcome, monitor


def test_run_folder(straight):
    folder, outcome, monitor = straight
    assert (outcome.step, outcome.stopped_by, outcome.is_first) == (STEPS, None, True)
    assert folder.load_config() == tiny_run()
    records = metrics(folder)
    assert [(r["step"], r["split"]) for r in records] == [
        (2, "train"), (4, "train"), (4, "val"), (6, "train"), (6, "val"),
    ]  # fmt: skip
    assert [record[:2] for record in monitor.records] == [(r["step"], r["split"]) for r in records]
    for record in records[:2]:
        assert record["loss"] == pytest.approx(record["loss_sup"] + record["loss_unsup"], rel=1e-5)
        assert 1 <= record["mean_positives"] <= 3
    # lr of the step that was logged, counted from 0: spec/cps.md section 3
    assert [r["lr"] for r in records if r["split"] == "train"] == pytest.approx(
        [0.01 * (1 - step / STEPS) ** 0.9 for step in (1, 3, 5)]
    )
    evaluation = json.loads(folder.evaluation.read_text())
    assert evaluation["miou"] == records[-1]["miou"] == outcome.miou
    assert evaluation["step"] == STEPS
    assert np.array(evaluation["confusion"]).shape == (11, 11)
    assert json.loads(folder.environment.read_text())["torch"] == torch.__version__
    with np.load(folder.samples) as samples:
        assert samples["palette"].shape == (11, 3)
        for place in range(2):
            assert samples[f"image_{place}"].shape == (32, 48, 3)
            for name in ("label", "prediction", "num_positives"):
                assert samples[f"{name}_{place}"].shape == (32, 48)
                assert samples[f"{name}_{place}"].dtype == np.uint8
            assert 1 <= samples[f"num_positives_{place}"].min() <= samples[f"num_positives_{place}"].max() <= 3
    assert list(folder.tensorboard.iterdir())
    assert load_checkpoint(folder.best)["miou"] == max(r["miou"] for r in records if r["split"] == "val")


def test_what_a_run_starts_from_is_said(tmp_path, caplog):
    folder = RunFolder(tmp_path / "run")
    with caplog.at_level(logging.INFO):
        train(tiny_run(), folder, Quiet(lambda step: step == 3 and os.kill(os.getpid(), signal.SIGTERM)))
    assert "2 networks start from random weights" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        train(tiny_run(), folder, Quiet(), resume=True)
    assert f"the run goes on from {folder.last}, after step 3" in caplog.text
    assert "random weights" not in caplog.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("at", [3, 4])  # between two log steps; on a log and evaluation step
def test_stopped_and_resumed_equals_straight(tmp_path, straight, at, number):
    folder = RunFolder(tmp_path / "run")
    before = signal.getsignal(number)
    outcome = train(tiny_run(), folder, Quiet(lambda step: step == at and os.kill(os.getpid(), number)))
    assert outcome.step == at
    assert outcome.stopped_by == number
    assert signal.getsignal(number) is before
    assert load_checkpoint(folder.last)["step"] == at

    monitor = Quiet()
    outcome = train(folder.load_config(), folder, monitor, resume=True)
    assert monitor.first_step == at
    assert outcome.stopped_by is None
    assert_same_state(folder.last, straight[0].last)
    assert metrics(folder) == metrics(straight[0])
    assert json.loads(folder.evaluation.read_text()) == json.loads(straight[0].evaluation.read_text())


@pytest.mark.parametrize("name", ["mean_teacher", "cutmix_seg", "cct", "gct", "cac", "ael", "u2pl"])
def test_every_method_resumes(tmp_path, name):
    """AEL also resumes its banks, and the donors that were chosen but not yet used; GCT its second optimiser."""
    straight, stopped = RunFolder(tmp_path / "straight"), RunFolder(tmp_path / "stopped")
    banks = {"donor_lead": 2, "bank_momentum": 0.5} if name == "ael" else {}
    ema = {} if name in ("cct", "gct", "cac") else {"ema_decay": 0.5}
    loss = {} if name == "cac" else {"loss": "fpl"}
    config = tiny_run(name=name, **loss, **ema, **banks)
    train(config, straight, Quiet())
    train(config, stopped, Quiet(lambda step: step == 3 and os.kill(os.getpid(), signal.SIGTERM)))
    train(config, stopped, Quiet(), resume=True)
    assert_same_state(stopped.last, straight.last)
    assert metrics(stopped) == metrics(straight)
    assert len(load_checkpoint(stopped.last)["later_optimizers"]) == (name == "gct")
    saved, trained = load_checkpoint(stopped.last)["method"], load_trained(stopped, checkpoint="last")
    place = 1 if name in ("cutmix_seg", "ael", "u2pl") else 0  # the student's average or the student
    for key, value in trained.network.state_dict().items():
        assert torch.equal(value, saved[f"networks.{place}.{key}"])


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [("fixmatch", "sgd"), ("unimatch", "sgd"), ("corrmatch", "sgd"), ("unimatch_v2", "sgd"), ("unimatch_v2", "adamw")],
)
def test_strong_views_resume_too(tmp_path, name, algorithm):
    """Their colours, boxes, dropped channels, regions and thresholds; with either optimiser."""
    straight, stopped = RunFolder(tmp_path / "straight"), RunFolder(tmp_path / "stopped")
    config = tiny_run(name=name, loss="fpl", engine="eager")
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, algorithm=algorithm))
    train(config, straight, Quiet())
    train(config, stopped, Quiet(lambda step: step == 3 and os.kill(os.getpid(), signal.SIGTERM)))
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, workers=1))
    train(config, stopped, Quiet(), resume=True)
    assert_same_state(stopped.last, straight.last)
    assert metrics(stopped) == metrics(straight)


def test_killed_and_resumed_equals_straight(tmp_path, straight):
    """A crash leaves a checkpoint and a log that runs past it."""
    folder = RunFolder(tmp_path / "run")

    def crash(step):
        if step == 5:
            raise MemoryError

    with pytest.raises(MemoryError):
        train(tiny_run(), folder, Quiet(crash))
    with folder.metrics.open("a") as file:
        file.write('{"step": 6, "split": "train", "loss": 1.0}\n{"step": 6, "spl')  # cut short by the crash
    train(folder.load_config(), folder, Quiet(), resume=True)
    assert_same_state(folder.last, straight[0].last)
    assert metrics(folder) == metrics(straight[0])


@pytest.mark.parametrize("workers", [1, 2])
def test_donors_reach_loader_workers(tmp_path, workers):
    """However far the loaders read ahead, they read what the banks chose."""
    folders = []
    for number in (0, workers):
        config = tiny_run(name="ael", loss="ce", donor_lead=5, bank_momentum=0.5)
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, workers=number))
        folders.append(RunFolder(tmp_path / str(number)))
        train(config, folders[-1], Quiet())
    assert_same_state(folders[0].last, folders[1].last)


def test_loader_workers_do_not_matter(tmp_path, straight):
    config = tiny_run()
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, workers=2))
    folder = RunFolder(tmp_path / "run")
    train(config, folder, Quiet())
    assert_same_state(folder.last, straight[0].last)


def test_a_finished_run_stays_finished(tmp_path, straight):
    before = straight[0].metrics.read_text()
    outcome = train(tiny_run(), straight[0], Quiet(), resume=True)
    assert (outcome.step, outcome.stopped_by) == (STEPS, None)
    assert straight[0].metrics.read_text() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        {"name": "supervised"},
        {"name": "supervised", "sup_loss": "ohem", "ohem_min_kept": 50},
        {"loss": "ce", "cutmix": False},
        {"loss": "fpl", "cutmix": False, "weighting": "concave"},
        {"loss": "ce", "partner": "same", "ignore_padding": True},
        {"name": "mean_teacher", "loss": "mse", "unsup_weight": 100.0},
        {"name": "cutmix_seg", "loss": "fpl", "mix_boxes": 1, "confidence_threshold": 0.5},
        {"name": "cct", "loss": "mse", "unsup_weight": 30.0},
        {"name": "cct", "loss": "fpl", "ramp_share": 0.5},
        {"name": "gct", "loss": "mse", "unsup_weight": 100.0, "detector_scale": 2, "detector_channels": 4},
        {"name": "gct", "loss": "fpl", "detector_scale": 2, "detector_channels": 4},
        {"name": "cac", "confidence_threshold": 0.2, "start_share": 0.2},
        {"name": "u2pl", "loss": "ce", "warmup_share": 0.2, "follow_share": 0.3},
        {"name": "u2pl", "loss": "fpl", "contrast_weight": 0.1},
        {"name": "fixmatch", "loss": "ce", "confidence_threshold": 0.5, "engine": "eager"},
        {"name": "unimatch", "loss": "fpl", "weighting": "concave", "engine": "eager"},
        {"name": "corrmatch", "loss": "ce", "gated": True, "confidence_threshold": 0.5, "engine": "eager"},
        {"name": "corrmatch", "loss": "fpl", "weighting": "concave", "engine": "eager"},
        {"name": "unimatch_v2", "loss": "ce", "confidence_threshold": 0.5, "engine": "eager"},
        {"name": "unimatch_v2", "loss": "fpl", "weighting": "concave", "engine": "eager"},
        {"name": "ael", "loss": "ce", "paste_draws": 1, "unsup_weight": 0.1},
        {"name": "ael", "loss": "fpl", "paste_probability": 0.0, "unsup_weight": 0.1},
    ],
)
def test_every_method_learns(tmp_path, method):
    """Shown the same two images 20 times, a network fits them: the supervised loss falls far, whatever the rounding."""
    config = tiny_run(**method)
    unscaled = {"scales": (1.0,), "scale_range": config.augment.scale_range and (1.0, 1.0)}
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, num_labelled=2, num_unlabelled=2),
        augment=dataclasses.replace(config.augment, crop=config.data.size, flip=0.0, **unscaled),
        optim=dataclasses.replace(config.optim, lr=0.1),
        train=dataclasses.replace(config.train, steps=20, log_every=1),
        eval=dataclasses.replace(config.eval, every=100),
    )
    monitor = Quiet()
    train(config, RunFolder(tmp_path / "run"), monitor)
    losses = [scalars["loss_sup"] for _, split, scalars in monitor.records if split == "train"]
    assert sum(losses[-3:]) / 3 < 0.8 * losses[0]  # at most 0.70 in three seeds of the nine that fall least


@pytest.mark.parametrize("name", ["cps", "gct", "ael"])
def test_bf16(tmp_path, name):
    config = tiny_run(name=name)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, precision="bf16-mixed"))
    outcome = train(config, RunFolder(tmp_path / "run"), Quiet())
    assert 0 <= outcome.miou <= 1
    state = load_checkpoint(RunFolder(tmp_path / "run").last)["method"]
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float32}


def test_networks_are_compiled_for_training_alone(tmp_path, straight, monkeypatch):
    """The first steps make all graphs, evaluation makes none. This compiler changes no value."""
    graphs, at_evaluation = [], set()

    def compiler(graph, _):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch.nn.Module, "compile", functools.partialmethod(torch.nn.Module.compile, backend=compiler))
    monitor = Quiet()
    monitor.validating = lambda done, total: at_evaluation.add(len(graphs))
    config = tiny_run()
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, compile=True))
    outcome = train(config, RunFolder(tmp_path / "run"), monitor)
    assert graphs and at_evaluation == {len(graphs)}
    assert outcome == straight[1]


@pytest.mark.parametrize(
    "name",
    [
        "cps",
        "mean_teacher",
        "cutmix_seg",
        "cct",
        "gct",
        "ael",
        "u2pl",
        "fixmatch",
        "unimatch",
        "corrmatch",
        "unimatch_v2",
    ],
)
def test_no_host_synchronisation_between_log_steps(tmp_path, monkeypatch, name):
    """The log is read on log steps only: Tensor.item, .tolist, float() and int() are never called in between.

    But for the four numbers of a loss, which never leave the host.
    """
    calls = []
    for call in ("item", "tolist", "__float__", "__int__"):
        original = getattr(torch.Tensor, call)

        def counted(self, *args, _original=original, _name=call):
            if (self.dtype, self.shape, self.device.type) != (torch.float64, (4,), "cpu"):
                calls.append(_name)
            return _original(self, *args)

        monkeypatch.setattr(torch.Tensor, call, counted)
    config = tiny_run(name=name)
    config = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, steps=9, log_every=100),
        eval=dataclasses.replace(config.eval, every=100),
    )
    counts = []
    train(config, RunFolder(tmp_path / "run"), Quiet(lambda step: counts.append(len(calls))))
    assert counts[1] == counts[-1]  # the first step may set things up


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"batch_labelled": 1}}, "train.batch_labelled must give batch normalisation 2 images"),
        ({"train": {"accumulate": 2}}, "train.batch_labelled must give batch normalisation 2 images"),
        (
            {"train": {"batch_labelled": 6, "accumulate": 4}},
            r"train.batch_labelled must be a multiple of 1 processes x 4 micro-batches \(train.accumulate\), got 6",
        ),
        ({"train": {"precision": "16-mixed"}}, "train.precision must be '32-true' or 'bf16-mixed' on a CPU"),
        ({"model": {"backbone": "resnet_18"}}, "backbone"),
    ],
)
def test_bad_configurations_stop_before_anything_is_written(tmp_path, changes, message):
    config = tiny_run()
    for section, values in changes.items():
        config = dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **values)})
    with pytest.raises(ValueError, match=message):
        train(config, RunFolder(tmp_path / "run"), Quiet())
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_not_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="--out must be a new or an empty folder"):
        train(tiny_run(), RunFolder(tmp_path), Quiet())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_checkpoint_of_other_networks(tmp_path, straight):
    folder = RunFolder(tmp_path / "run")
    folder.create(tiny_run())
    state = load_checkpoint(straight[0].last)
    del state["method"]["networks.1.classifier.bias"]
    save_checkpoint(folder.last, state)
    with pytest.raises(ValueError, match=r"last\.ckpt: must fit the run's config\.yaml, got other networks"):
        train(folder.load_config(), folder, Quiet(), resume=True)


def test_a_checkpoint_from_before_later_phases_is_continued(tmp_path, straight):
    folder = RunFolder(tmp_path / "run")
    train(tiny_run(), folder, Quiet(lambda step: step == 3 and os.kill(os.getpid(), signal.SIGTERM)))
    state = load_checkpoint(folder.last)
    assert state.pop("later_optimizers") == []
    save_checkpoint(folder.last, state)
    train(tiny_run(), folder, Quiet(), resume=True)
    assert_same_state(folder.last, straight[0].last)


@pytest.mark.parametrize("check", [True, False])
def test_validation_images_are_not_trained_on(tmp_path, check):
    (leaked, *_) = voc_tree(tmp_path)
    name = next(tmp_path.glob("val/image/*.jpg")).stem
    (tmp_path / "unlabelled.txt").write_text(f"{leaked}\n{name}\n")
    data = VocData(root=str(tmp_path), unlabelled="unlabelled.txt", check=check)
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(ValueError, match=rf"data\.val must name no image .*unlabelled and val share 1 of .*{name}"):
        train(dataclasses.replace(tiny_run(), data=data), folder, Quiet())
    assert not folder.path.exists()
