"""Studies on a machine with GPUs: everything is real but their number, and the command that each job runs."""

import stat
import sys

import pytest
from study_cases import write

from fpl_fast.trainer.cli import main
from fpl_fast.trainer.commands.study import main as study_command
from fpl_fast.trainer.study.gpus import GpuPool, visible_gpus
from fpl_fast.trainer.study.launch import Launcher, TrialProcess

# A run: says which GPUs it sees, waits until as many runs have said so as should run at the same time, and is done.
RUN = """
import json, os, pathlib, sys, time
out, together = pathlib.Path(sys.argv[1]), int(sys.argv[2])
out.mkdir(parents=True)
(out / "gpus").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
until = time.monotonic() + 120
while len(list(out.parent.glob("*/gpus"))) < together:
    assert time.monotonic() < until, "the other runs have not been started"
    time.sleep(0.05)
(out / "evaluation.json").write_text(json.dumps({"step": 600, "split": "val", "miou": 0.5}))
"""


@pytest.fixture
def study(tmp_path, monkeypatch, capfd):
    """Function that trains a study of ``together`` runs at the same time; returns the GPUs of each, in order."""

    def train(together, *arguments, gpus, environment=None):
        monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
        if environment is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", environment)
        monkeypatch.setattr(
            Launcher, "command", lambda self, config, out: [sys.executable, "-c", RUN, str(out), str(together)]
        )
        path = write(tmp_path, recipes=["synthetic/supervised"], seeds=together)
        assert main(["study", path, "--out", str(tmp_path / "out"), *arguments]) == 0, capfd.readouterr()
        return sorted(file.read_text() for file in tmp_path.glob("out/runs/*/gpus"))

    return train


@pytest.mark.parametrize(
    ("together", "arguments", "gpus", "environment", "seen"),
    [
        (2, [], 2, None, ["0", "1"]),
        (3, ["--jobs", "3"], 1, None, ["0", "0", "0"]),
        (3, ["--jobs", "3"], 2, "5, 3", ["3", "5", "5"]),
        (2, ["--devices", "2"], 4, None, ["0,1", "2,3"]),
        (2, ["--jobs", "2", "--devices", "2"], 3, "GPU-a,GPU-b,GPU-c", ["GPU-a,GPU-b", "GPU-c,GPU-a"]),
        (1, ["--devices", "0"], 2, None, [""]),
        (1, [], 0, None, [""]),
    ],
    ids=["one each", "sharing one", "sharing two", "two each", "two each of three", "none wanted", "none here"],
)
def test_a_run_sees_its_gpus(study, together, arguments, gpus, environment, seen):
    assert study(together, *arguments, gpus=gpus, environment=environment) == seen


@pytest.mark.parametrize(
    ("count", "environment", "names"),
    [(2, None, ("0", "1")), (0, "", ()), (0, "-1", ()), (1, "2,-1,3", ("2",)), (1, "MIG-x", ("MIG-x",))],
)
def test_gpus_have_the_names_of_the_environment(monkeypatch, count, environment, names):
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if environment is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", environment)
    assert visible_gpus() == names


def test_a_gpu_given_back_is_the_next_one():
    pool = GpuPool(["a", "b", "c"])
    assert [pool.take(1) for _ in range(3)] == [("a",), ("b",), ("c",)]
    pool.give_back(("b",))
    assert pool.take(1) == ("b",) and pool.take(2) == ("a", "b") and pool.take(1) == ("c",)


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_a_run_has_no_more_gpus_than_there_are(tmp_path, monkeypatch, dry_run):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    path = write(tmp_path, recipes=["synthetic/supervised"])
    arguments = [path, "--out", str(tmp_path / "out"), "--devices", "3", *dry_run]
    with pytest.raises(ValueError, match="--devices must be at most the number of GPUs here, 2, got 3"):
        study_command(arguments)


@pytest.mark.parametrize("where", [["--devices", "0"], ["--cluster", "slurm"]])
def test_a_dry_run_on_a_machine_with_gpus(tmp_path, monkeypatch, capfd, where):
    monkeypatch.setattr("fpl_fast.trainer.study.gpus.visible_gpus", lambda: ("0", "1"))
    path = write(tmp_path, recipes=["synthetic/supervised"], settings={"augment.crop": [32, 32]})
    assert main(["study", path, "--out", str(tmp_path / "out"), "--dry-run", *where]) == 0
    assert "at a time" in capfd.readouterr().out


def test_slurm_is_asked_for_gpus(tmp_path, monkeypatch):
    """With stand-ins for srun and sbatch; every parameter goes through submitit's own checks."""
    for name, script in (("srun", "exit 0"), ("sbatch", f'cp "$1" {tmp_path}/asked; echo Submitted batch job 7')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    options = {"slurm_partition": "gpu", "timeout_min": 90, "slurm_mem": "8GB", "cpus_per_task": 4}
    launcher = Launcher(tmp_path / "jobs", cluster="slurm", devices=2, options=options)
    assert launcher.submit(TrialProcess(["true"], tmp_path / "log", {})).job_id == "7"
    text = (tmp_path / "asked").read_text()
    for flag in ("gpus-per-node=2", "partition=gpu", "time=90", "mem=8GB", "cpus-per-task=4", "job-name=fpl-fast"):
        assert f"#SBATCH --{flag}\n" in text


@pytest.mark.parametrize("options", [{"visible_gpus": (0,)}, {"local_visible_gpus": (0,)}, {"nodes": 2}])
def test_what_submitit_refuses_is_one_line(tmp_path, options):
    with pytest.raises(ValueError, match=r"^--cluster local with \{.*\} must be what submitit takes: [^\n]+$"):
        Launcher(tmp_path, cluster="local", devices=1, options=options)
