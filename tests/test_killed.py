"""SIGKILL, which no process can catch: whatever it hits, the run goes on as if nothing had happened."""

import os
from pathlib import Path

import pytest
from fork_server import python
from killed_runs import PHASES
from test_loop import assert_same_state, metrics
from trainer_runs import Quiet, tiny_run

from fpl_fast.trainer.loop import train
from fpl_fast.trainer.run.checkpoint import load_checkpoint
from fpl_fast.trainer.run.folder import RunFolder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Killed runs and one that nothing interrupts."""
    parent = tmp_path_factory.mktemp("killed")
    script = str(Path(__file__).with_name("killed_runs.py"))
    done = python(script, str(parent), env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    train(tiny_run(), RunFolder(parent / "straight"), Quiet())
    train(tiny_run(**PHASES), RunFolder(parent / "straight_phases"), Quiet())
    return parent


@pytest.mark.parametrize(("name", "logged"), [("killed_between_two_steps", 4), ("killed_in_a_write", 6)])
def test_killed_and_resumed_equals_straight(runs, name, logged):
    folder, straight = RunFolder(runs / name), RunFolder(runs / "straight")
    assert load_checkpoint(folder.last)["step"] == 4
    assert metrics(folder)[-1]["step"] == logged
    outcome = train(folder.load_config(), folder, Quiet(), resume=True)
    assert outcome.stopped_by is None
    assert_same_state(folder.last, straight.last)
    assert metrics(folder) == metrics(straight)
    assert {path.name for path in folder.last.parent.iterdir()} == {"last.ckpt", "best.ckpt"}  # no half-written file


@pytest.mark.parametrize("name", ["killed_in_the_first_phase", "killed_in_the_second_phase"])
def test_killed_in_a_phase_of_a_step_and_resumed_equals_straight(runs, name):
    """The networks of step 6 may have moved, and the detector not: the whole step is done again."""
    folder, straight = RunFolder(runs / name), RunFolder(runs / "straight_phases")
    assert load_checkpoint(folder.last)["step"] == 4
    train(folder.load_config(), folder, Quiet(), resume=True)
    assert_same_state(folder.last, straight.last)
    assert metrics(folder) == metrics(straight)


def test_the_best_checkpoint_outlives_a_kill_between_two_writes(runs):
    """The last one, which holds the new best score, would otherwise keep the run from ever writing it."""
    folder, straight = RunFolder(runs / "killed_between_two_writes"), RunFolder(runs / "straight")
    assert load_checkpoint(folder.best)["step"] == 4
    train(folder.load_config(), folder, Quiet(), resume=True)
    assert_same_state(folder.best, straight.best)
    assert_same_state(folder.last, straight.last)
    assert metrics(folder) == metrics(straight)
