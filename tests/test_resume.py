"""Runs that end early, and what they may go on from."""

import dataclasses
import json
import logging
import os
import signal

import pytest
from test_loop import assert_same_state, metrics
from test_run_lock import holder
from trainer_runs import STEPS, Quiet, tiny_run

from fpl_fast.trainer import loop
from fpl_fast.trainer.config.io import save_config
from fpl_fast.trainer.loop import train
from fpl_fast.trainer.run.checkpoint import load_checkpoint
from fpl_fast.trainer.run.folder import RunFolder


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that nothing interrupts."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "straight")
    train(tiny_run(), folder, Quiet())
    return folder


def test_a_run_repeated_with_its_seed_ends_in_the_same_checkpoint(tmp_path, straight):
    folder = RunFolder(tmp_path / "again")
    train(tiny_run(), folder, Quiet())
    assert_same_state(folder.last, straight.last)


def failing_loader(monkeypatch, after):
    read = loop.read_batches

    def read_batches(*args, **kwargs):
        for done, batch in enumerate(read(*args, **kwargs)):
            if done == after:
                raise ValueError("a.png: the image must be readable, got a truncated one")
            yield batch

    monkeypatch.setattr(loop, "read_batches", read_batches)


def failing_evaluation(monkeypatch):
    def validate(*_):
        raise RuntimeError("no memory")

    monkeypatch.setattr(loop, "validate", validate)


def failing_samples(monkeypatch):
    """Fail in the second evaluation, once the network was evaluated."""
    save = loop.save_samples

    def save_samples(folder, *rest):
        if folder.best.is_file():
            raise OSError("no room")
        return save(folder, *rest)

    monkeypatch.setattr(loop, "save_samples", save_samples)


def failing_monitor(at):
    def fail(step):
        if step == at:
            raise OSError("the terminal is gone")

    return Quiet(fail)


@pytest.mark.parametrize(
    ("what", "step"),
    [("loader", 3), ("loader", 4), ("evaluation", 4), ("samples", 6), ("monitor", 3), ("monitor", 4)],
)
def test_an_error_between_two_steps_loses_nothing(tmp_path, straight, monkeypatch, caplog, what, step):
    """Whether the log and the evaluation of the step are done by then or still to come."""
    folder, monitor = RunFolder(tmp_path / "run"), Quiet()
    if what == "loader":
        failing_loader(monkeypatch, step)
    elif what == "evaluation":
        failing_evaluation(monkeypatch)
    elif what == "samples":
        failing_samples(monkeypatch)
    else:
        monitor = failing_monitor(step)
    with pytest.raises((ValueError, RuntimeError, OSError)), caplog.at_level(logging.INFO):
        train(tiny_run(), folder, monitor)
    monkeypatch.undo()
    assert load_checkpoint(folder.last)["step"] == step
    if (what, step) not in (("loader", 4), ("evaluation", 4)):  # which was saved for the evaluation
        assert f"saved after step {step}" in caplog.text
    train(folder.load_config(), folder, Quiet(), resume=True)
    assert_same_state(folder.last, straight.last)
    assert metrics(folder) == metrics(straight)
    assert json.loads(folder.evaluation.read_text()) == json.loads(straight.evaluation.read_text())


def test_a_run_that_ends_in_its_first_evaluation_goes_on(tmp_path, straight, monkeypatch):
    """Though it has an evaluation and no checkpoint of it."""

    def end(*_):
        raise KeyboardInterrupt  # at once: nothing is saved on the way out

    monkeypatch.setattr(loop, "save_samples", end)
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(tiny_run(), folder, Quiet())
    monkeypatch.undo()
    assert json.loads(folder.evaluation.read_text())["step"] == load_checkpoint(folder.last)["step"] == 4
    train(folder.load_config(), folder, Quiet(), resume=True)
    assert_same_state(folder.last, straight.last)
    assert_same_state(folder.best, straight.best)
    assert metrics(folder) == metrics(straight)


def test_a_run_without_a_checkpoint_says_that_it_begins_again(tmp_path, caplog):
    folder = RunFolder(tmp_path / "run")
    folder.create(tiny_run())
    with caplog.at_level(logging.INFO):
        train(tiny_run(), folder, Quiet(lambda step: step == 1 and os.kill(os.getpid(), signal.SIGTERM)), resume=True)
    assert f"{folder.path} holds no checkpoint yet: the run begins again" in caplog.text


def test_half_a_step_is_not_saved(tmp_path, straight, monkeypatch):
    step = loop.train_step

    def train_step(fabric, module, optimizer, batch, progress, **options):
        values = step(fabric, module, optimizer, batch, progress, **options)
        if progress == 5 / STEPS:
            raise MemoryError
        return values

    monkeypatch.setattr(loop, "train_step", train_step)
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(MemoryError):
        train(tiny_run(), folder, Quiet())
    monkeypatch.undo()
    assert load_checkpoint(folder.last)["step"] == 4
    train(tiny_run(), folder, Quiet(), resume=True)
    assert_same_state(folder.last, straight.last)


def test_what_a_loss_that_is_not_finite_moved_is_not_saved(tmp_path, monkeypatch):
    config = tiny_run()
    config = dataclasses.replace(
        config,
        optim=dataclasses.replace(config.optim, lr=1e30),
        train=dataclasses.replace(config.train, log_every=100),
        eval=dataclasses.replace(config.eval, every=100),
    )
    failing_loader(monkeypatch, 4)
    with pytest.raises(ValueError, match="truncated"):
        train(config, RunFolder(tmp_path / "run"), Quiet())
    assert not RunFolder(tmp_path / "run").last.exists()


def test_a_disk_that_is_full_keeps_the_previous_checkpoint(tmp_path, straight, monkeypatch):
    folder, fsync = RunFolder(tmp_path / "run"), os.fsync

    def full(number):
        if folder.last.exists():
            raise OSError(28, "No space left on device")
        fsync(number)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        train(tiny_run(), folder, Quiet())
    monkeypatch.undo()
    assert load_checkpoint(folder.last)["step"] == 4
    train(tiny_run(), folder, Quiet(), resume=True)
    assert_same_state(folder.last, straight.last)
    assert metrics(folder) == metrics(straight)


def test_checkpoints_have_an_interval_of_their_own(tmp_path):
    config = tiny_run()
    config = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, checkpoint_every=3),
        eval=dataclasses.replace(config.eval, every=100),
    )
    straight, killed = RunFolder(tmp_path / "straight"), RunFolder(tmp_path / "killed")
    train(config, straight, Quiet())

    def interrupt(step):
        if step == 5:
            raise KeyboardInterrupt  # at once: nothing is saved on the way out

    with pytest.raises(KeyboardInterrupt):
        train(config, killed, Quiet(interrupt))
    assert load_checkpoint(killed.last)["step"] == 3
    assert not killed.best.exists()
    train(config, killed, Quiet(), resume=True)
    assert_same_state(killed.last, straight.last)
    assert metrics(killed) == metrics(straight)


def stopped(folder, at=3):
    train(tiny_run(), folder, Quiet(lambda step: step == at and os.kill(os.getpid(), signal.SIGTERM)))


def test_the_configuration_of_the_checkpoint_decides(tmp_path, straight):
    folder = RunFolder(tmp_path / "run")
    stopped(folder)
    config = tiny_run(name="supervised")
    save_config(dataclasses.replace(config, optim=dataclasses.replace(config.optim, lr=0.5)), folder.config)
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file() and path != folder.lock}
    with pytest.raises(
        ValueError,
        match=r"run/config\.yaml: must hold the settings that the run was trained with, got method\.name 'supervised' "
        r"instead of 'cps', optim\.lr 0\.5 instead of 0\.01: put them back",
    ):
        train(folder.load_config(), folder, Quiet(), resume=True)
    assert {path: path.read_bytes() for path in before} == before

    config = tiny_run()
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, workers=1, checkpoint_every=7))
    train(config, folder, Quiet(), resume=True)
    assert_same_state(folder.last, straight.last)


def test_one_process_at_a_time(tmp_path):
    folder = RunFolder(tmp_path / "run")
    stopped(folder)
    other = holder(folder.lock, "alone")
    before = folder.metrics.read_bytes()
    for resume, message in ((True, f"process {other.pid} on .* is at it"), (False, "new or an empty folder")):
        with pytest.raises(ValueError, match=message):
            train(tiny_run(), folder, Quiet(), resume=resume)
    assert folder.metrics.read_bytes() == before
    other.communicate("")
    assert train(tiny_run(), folder, Quiet(), resume=True).step == STEPS


def test_a_run_that_has_no_checkpoint_yet_is_held_as_well(tmp_path):
    """Such a run is not mistaken for one that has lost its checkpoints."""
    folder = RunFolder(tmp_path / "run")
    folder.create(tiny_run())
    folder.evaluation.write_text("{}")
    other = holder(folder.lock, "alone")
    with pytest.raises(ValueError, match=f"process {other.pid} on .* is at it"):
        train(tiny_run(), folder, Quiet(), resume=True)
    other.communicate("")


def test_two_processes_that_begin_at_once(tmp_path, monkeypatch):
    """Both processes find the folder free; the second one to create it is refused."""
    folder, others = RunFolder(tmp_path / "run"), []

    def leaks(*_):
        folder.path.mkdir()
        others.append(holder(folder.lock, "alone"))

    monkeypatch.setattr(loop, "require_no_leaks", leaks)
    with pytest.raises(ValueError, match=f"process {os.getpid()}|is at it"):
        train(tiny_run(), folder, Quiet())
    assert [path.name for path in folder.path.iterdir()] == [".fpl-fast.lock"]
    others[0].communicate("")


def test_a_run_killed_before_its_configuration_begins_anew(tmp_path, straight):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.lock.write_text("process 1 on nowhere\n")
    (folder.path / ".config.yaml.tmp").write_text("dat")
    train(tiny_run(), folder, Quiet())
    assert_same_state(folder.last, straight.last)


@pytest.mark.parametrize("trace", ["evaluation", "log"])
def test_a_run_that_lost_its_checkpoints_does_not_begin_anew(tmp_path, trace):
    folder = RunFolder(tmp_path / "run")
    stopped(folder, at=5)
    for path in (folder.last, folder.best, folder.metrics if trace == "evaluation" else folder.evaluation):
        path.unlink()
    with pytest.raises(ValueError, match=r"last\.ckpt: must be there to go on, but is missing, and the run had got to"):
        if trace == "log":
            folder.metrics.write_text('{"step": 5, "split": "train"}\n')
        train(tiny_run(), folder, Quiet(), resume=True)


def test_without_the_last_checkpoint_the_best_one_is_continued(tmp_path, straight):
    folder = RunFolder(tmp_path / "run")
    stopped(folder, at=5)
    folder.last.unlink()
    monitor = Quiet()
    train(tiny_run(), folder, monitor, resume=True)
    assert monitor.first_step == 4
    assert_same_state(folder.last, straight.last)
    assert metrics(folder) == metrics(straight)
