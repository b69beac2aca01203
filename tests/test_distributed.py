"""Two and four processes against one, and the order among them."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributed_runs import EXACT, SCALED, config
from fork_server import python
from test_loop import assert_same_state, metrics
from trainer_runs import HANGS

from fpl_fast.trainer.config.io import save_config
from fpl_fast.trainer.run.checkpoint import load_checkpoint
from fpl_fast.trainer.run.folder import RunFolder

LOGGED = {"step", "loss", "loss_sup", "loss_labelled", "loss_unsup", "loss_unsup_2", "loss_contrast", "loss_flaw",
          "loss_detector", "loss_kl", "loss_spread", "loss_spread_weak", "confidence_threshold", "miou",
          "pixel_accuracy"}  # fmt: skip
CLOSE = {"rtol": 1e-5, "atol": 1e-7}  # the losses are float32, summed in another order


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All runs of distributed_runs.py."""
    parent = tmp_path_factory.mktemp("distributed")
    script = str(Path(__file__).with_name("distributed_runs.py"))
    done = python(script, str(parent), env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return parent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "processes"),
    [*itertools.product(EXACT, ["2_1", "2_2", "4_1"]), *((name, "4_1") for name in SCALED)],
)
def test_processes_and_micro_batches_equal_one_process(runs, name, processes):
    """Weights, momentum, logged losses and scores, without batch normalisation."""
    one, many = RunFolder(runs / f"{name}_1_1"), RunFolder(runs / f"{name}_{processes}")
    a, b = load_checkpoint(one.last), load_checkpoint(many.last)
    torch.testing.assert_close(b["method"], a["method"], **CLOSE)
    for key, state in a["optimizer"]["state"].items():
        torch.testing.assert_close(b["optimizer"]["state"][key]["momentum_buffer"], state["momentum_buffer"], **CLOSE)
    torch.testing.assert_close(b["later_optimizers"], a["later_optimizers"], **CLOSE)
    for ours, theirs in zip(metrics(many), metrics(one), strict=True):
        for key in theirs.keys() & LOGGED:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-5), key
        assert all(theirs[key] > 0 for key in theirs.keys() & LOGGED if key.startswith("loss"))
        assert all(0 < theirs[key] < 1 for key in theirs.keys() & {"sure"})


def test_processes_draw_on_their_own(runs):
    draws = [torch.load(runs / "random" / f"draws_{rank}.pt") for rank in range(2)]
    assert not torch.equal(*draws)


def test_stopped_and_resumed_equals_straight(runs):
    """Every process goes on with its own generators and the common part of the log."""
    straight, stopped = RunFolder(runs / "random"), RunFolder(runs / "stopped")
    assert_same_state(stopped.last, straight.last)
    assert metrics(stopped) == metrics(straight)
    for rank in range(2):
        assert torch.equal(*(torch.load(run.path / f"draws_{rank}.pt") for run in (straight, stopped)))


@pytest.mark.parametrize("name", ["real", "real_ael", "real_gct"])
def test_one_process_speaks_and_writes(runs, name):
    assert [record["step"] for record in metrics(RunFolder(runs / name))] == [2, 4, 4, 6, 6]
    assert (runs / f"{name}.1").read_text() == ""
    assert len(list((runs / name / "tensorboard").iterdir())) == 1
    header, *rows = (runs / name / "csv" / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[header.split(",").index("step")] for row in rows] == ["2", "4", "4", "6", "6"]


def test_what_the_first_process_refuses_stops_all(runs):
    first, second = ((runs / f"refused.{rank}").read_text() for rank in range(2))
    assert first.startswith("error: --out must be a new or an empty folder")
    assert len(first.splitlines()) == 1
    assert second == ""


@pytest.mark.slow
def test_torchrun_restarts_from_the_last_checkpoint(runs):
    """One process of two is killed; the launcher starts both again with the same command."""
    save_config(config(), runs / "config.yaml")
    folder = RunFolder(runs / "elastic")
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"),
        *(str(Path(__file__).with_name("elastic_run.py")), "train", str(runs / "config.yaml")),
        *("--out", str(folder.path), "--auto-resume"),
    ]
    # Otherwise the processes of the second attempt may read the addresses of the first one's.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS, env=environment)
    assert done.returncode == 0, done.stderr
    assert "exitcode: -9" in done.stderr
    assert f"the run goes on from {folder.last}, after step 4" in done.stderr
    assert_same_state(folder.last, RunFolder(runs / "real").last)
    assert metrics(folder) == metrics(RunFolder(runs / "real"))
    assert done.stdout.count("mIoU") == 3  # one process reports: step 4, step 6 and the end
