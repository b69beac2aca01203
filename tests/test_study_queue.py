import signal
import subprocess
import sys
from collections import deque
from pathlib import Path

import pytest
from study_cases import GRID, write

from fpl_fast.trainer.cli import main
from fpl_fast.trainer.commands.quickstart import main as quickstart_command
from fpl_fast.trainer.commands.study import main as study_command
from fpl_fast.trainer.study.grid import Cell, read_study
from fpl_fast.trainer.study.launch import Launcher, TrialProcess
from fpl_fast.trainer.study.queue import Snapshot, run_study
from fpl_fast.trainer.study.results import markdown, write_results
from fpl_fast.trainer.study.state import StudyFolder, TrialState
from fpl_fast.trainer.study.statistics import CellResult


def hold(folder, study):
    with folder.hold(study):
        pass


class Job:
    """A job that ends at once: its outcome is the next of its run's."""

    def __init__(self, finish, code=1):
        self.finish, self.code = finish, code

    def done(self):
        self.finish()
        return True

    def result(self):
        return self.code


class Clusterless:
    """Launcher whose runs do what a script says: "done", "error", or "busy" for one that goes on elsewhere."""

    def __init__(self, folder, script, devices=0):
        self.folder, self.script, self.devices, self.is_remote = folder, script, devices, False
        self.submitted, self.gpus = [], []

    def command(self, config, out):
        return [out.name]

    def submit(self, process):
        (name,) = process.command
        self.submitted.append(name)
        self.gpus.append(process.environment["CUDA_VISIBLE_DEVICES"])
        outcomes = self.script.setdefault(name, deque(["done"]))
        outcome = outcomes.popleft() if outcomes else "done"

        def finish():
            process.log.write_text(f"line\n{outcome}\n\n")
            if outcome == "done":
                self.folder.states[name] = TrialState("done", 600, 0.5, 1.0, ((600, 0.5),))

        return Job(finish, 0 if outcome in ("done", "nothing") else 1)


class Stop:
    signal = None


class Scripted(StudyFolder):
    def __init__(self, path):
        super().__init__(path)
        self.states = {}

    def state(self, trial):
        return self.states.get(trial.name, TrialState("waiting", 0, None, 0.0, ()))


@pytest.fixture
def queue(tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    study = read_study(write(tmp_path, recipes=["synthetic/cps", "synthetic/fpl_cps"], seeds=2))
    folder = Scripted(tmp_path / "out")

    def run(script, *, jobs=1, gpus=(), devices=0, stop=Stop, show=lambda snapshot: None):
        launcher = Clusterless(folder, {name: deque(outcomes) for name, outcomes in script.items()}, devices)
        with folder.hold(study):
            snapshot = run_study(study, folder, launcher, jobs=jobs, gpus=gpus, stop=stop, show=show)
        return launcher, snapshot

    return study, folder, run


def test_every_cell_has_its_first_seed_first(queue):
    study, _, run = queue
    launcher, snapshot = run({})
    assert launcher.submitted == [
        "synthetic_cps-seed0", "synthetic_fpl_cps-seed0", "synthetic_cps-seed1", "synthetic_fpl_cps-seed1",
    ]  # fmt: skip
    assert all(snapshot.states[trial.name].phase == "done" for trial in study.trials) and not snapshot.failed
    again, _ = run({})
    assert again.submitted == []


def test_a_failure_is_tried_once_more_while_the_others_go_on(queue):
    _, _, run = queue
    script = {"synthetic_cps-seed0": ["error", "done"], "synthetic_cps-seed1": ["error", "error"]}
    launcher, snapshot = run(script)
    assert launcher.submitted.count("synthetic_cps-seed0") == launcher.submitted.count("synthetic_cps-seed1") == 2
    assert snapshot.failed == {"synthetic_cps-seed1": "error"}
    assert sum(state.phase == "done" for state in snapshot.states.values()) == 3


def test_a_run_that_ends_well_without_a_result_is_told(queue):
    _, _, run = queue
    _, snapshot = run({"synthetic_cps-seed0": ["nothing", "nothing"]})
    assert "evaluation.json must hold the result of step 600, but does not" in snapshot.failed["synthetic_cps-seed0"]


@pytest.mark.parametrize(
    "metrics", ["[1]\n", '{"a": 1}\n', '{"step": 2, "split": "val", "miou": "q"}\n', "\xff\xfe\x00"]
)
@pytest.mark.parametrize("evaluation", ["{", "[]", '{"step": 600, "miou": [1]}', '{"step": 600, "miou": 500}', "\xff"])
def test_a_damaged_run_does_not_hide_the_others(tmp_path, metrics, evaluation):
    study = read_study(write(tmp_path, recipes=["synthetic/cps"], seeds=2))
    folder = StudyFolder(tmp_path / "out")
    for trial in study.trials:
        folder.run(trial).path.mkdir(parents=True)
    damaged, sound = map(folder.run, study.trials)
    damaged.metrics.write_bytes(metrics.encode("latin-1"))
    damaged.evaluation.write_bytes(evaluation.encode("latin-1"))
    sound.evaluation.write_text('{"step": 600, "miou": 0.5}')
    states = {trial.name: folder.state(trial) for trial in study.trials}
    assert [state.phase for state in states.values()] == ["waiting", "done"]
    write_results(study, folder, Snapshot(states, {}, ()))
    assert "50.00 (1 of 2)" in (folder.path / "study.md").read_text()


def test_options_do_not_flatten_a_grid(tmp_path):
    path = write(tmp_path, **GRID)
    with pytest.raises(ValueError, match="cells must differ in a setting"):
        read_study(path, overrides=["--optim.lr", "0.1"])
    with pytest.raises(ValueError, match=r"--train\.seed must not be an option of a study"):
        read_study(path, overrides=["--train.seed=5"])


def test_a_run_that_goes_on_elsewhere_is_waited_for(queue):
    _, folder, run = queue
    folder.states["synthetic_cps-seed0"] = TrialState("running", 7, None, 1.0, ())
    seen = []

    def show(snapshot):
        seen.append(snapshot)
        if len(seen) == 6:
            folder.states["synthetic_cps-seed0"] = TrialState("done", 600, 0.25, 1.0, ())

    launcher, snapshot = run({}, show=show)
    assert "synthetic_cps-seed0" not in launcher.submitted
    assert snapshot.states["synthetic_cps-seed0"].miou == 0.25


def test_gpus_are_shared_out(queue):
    _, _, run = queue
    launcher, _ = run({}, jobs=1, gpus=("4", "5", "6"), devices=2)
    assert launcher.gpus == ["4,5"] * 4  # given back each time
    assert run({})[0].gpus == []  # all done


def test_a_stop_begins_nothing_new(queue):
    class Asked:
        signal = 2

    study, _, run = queue
    launcher, snapshot = run({}, stop=Asked)
    assert launcher.submitted == [] and len(snapshot.states) == len(study.trials)


def test_a_job_that_is_just_starting_is_asked_again(queue, monkeypatch):
    """It does not hear the first request to save."""
    asked = []

    class Starting(Job):
        def done(self):
            return len(asked) >= 2

    def show(snapshot):
        stop.signal = 2

    stop = type("Stop", (), {"signal": None})()
    monkeypatch.setattr(Clusterless, "submit", lambda *_: Starting(None))
    monkeypatch.setattr(Clusterless, "ask_to_save", lambda launcher, job: asked.append(job), raising=False)
    _, _, run = queue
    _, snapshot = run({}, stop=stop, show=show)
    assert len(asked) == 2 and any("stopped after step 0 or later" in event for event in snapshot.events)


def test_results_are_files(tmp_path, queue):
    study, folder, run = queue
    _, snapshot = run({"synthetic_fpl_cps-seed1": ["error", "error"]})
    write_results(study, folder, snapshot)
    text = (folder.path / "study.md").read_text()
    assert "| synthetic/cps | 50.00 ± 0.00 (2) |" in text
    assert "| synthetic/fpl_cps | synthetic/cps | mIoU | +0.00 | one seed | 1 |" in text
    assert "- synthetic_fpl_cps-seed1: failed, logged to step 0 of 600: error" in text
    runs = (folder.path / "runs.csv").read_text().splitlines()
    assert runs[0].startswith("recipe,variant,partition,backbone,seed,state,step,miou,best_miou,seconds,run")
    assert runs[-1].startswith("synthetic/fpl_cps,-,-,-,1,failed,0,,,0.0,")
    assert (folder.path / "cells.csv").read_text().splitlines()[1] == "synthetic/cps,-,-,-,2,2,50,0,,"
    page = (folder.path / "study.html").read_text()
    assert page.count("<tr>") == text.count("\n| ") - 2 and "mIoU, mean over the seeds" in page


def test_markdown_keeps_its_columns():
    cell = Cell("a/b", "x|y", "-", "-")
    study = type("Study", (), {"name": "s", "description": "", "trials": ()})
    text = markdown(study, Snapshot({}, {}, ()), [CellResult(cell, 1, {0: 1.0}, None)], [])
    assert "| a/b, x\\|y | 1.00 (1) |" in text


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    study = read_study(write(tmp_path, recipes=["synthetic/cps"]))
    with pytest.raises(ValueError, match="--out must be a new or an empty folder, or one of a study"):
        hold(StudyFolder(tmp_path), study)
    assert {path.name for path in tmp_path.iterdir()} == {"note.txt", "mine.yaml"}


@pytest.mark.parametrize("options", [[], ["--results"]])
@pytest.mark.parametrize(
    ("name", "recipe", "named"), [("other", "synthetic/cps", "another, mine,"), ("mine", "synthetic/ael", "another,")]
)
def test_a_study_is_not_written_over_by_another(tmp_path, queue, name, recipe, named, options):
    """Neither by one with another name nor by one of the same name without a run in common."""
    study, folder, run = queue
    _, snapshot = run({})
    write_results(study, folder, snapshot)
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    path = Path(write(tmp_path, recipes=[recipe])).rename(tmp_path / f"{name}.yaml")
    with pytest.raises(ValueError, match=rf"--out must be a folder of this study, {name}, got .* of {named}"):
        study_command([str(path), "--out", str(folder.path), *options])
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


def test_a_study_with_more_or_fewer_runs_is_the_same(tmp_path, queue):
    _, folder, run = queue
    run({})
    hold(folder, read_study(write(tmp_path, recipes=["synthetic/cps", "synthetic/ael"], seeds=3)))
    hold(folder, read_study(write(tmp_path, recipes=["synthetic/cps"])))


def test_a_folder_of_an_earlier_version_does_not_name_its_study(tmp_path, queue):
    study, folder, run = queue
    run({})
    folder.record.unlink()
    with pytest.raises(ValueError, match=r"--out must be a folder of this study, mine, got .* the runs of another,"):
        hold(folder, read_study(write(tmp_path, recipes=["synthetic/ael"])))
    hold(folder, study)


@pytest.mark.parametrize("command", [study_command, quickstart_command])
def test_a_start_that_is_stopped_is_continued(tmp_path, monkeypatch, command):
    """The folder is held before the launcher is there, and is one of a study afterwards."""
    out = tmp_path / "out"
    arguments = ["--out", str(out)] + (["quickstart"] if command is study_command else [])
    take = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    codes = []

    def stopped(*_, **__):
        codes.append(
            subprocess.run([sys.executable, "-c", take, str(out / "study.lock")], stderr=subprocess.DEVNULL).returncode
        )
        raise KeyboardInterrupt

    monkeypatch.setattr("fpl_fast.trainer.study.launch.Launcher", stopped)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            command(arguments)
    assert codes == [1, 1]


@pytest.mark.slow
def test_a_study_is_trained_from_the_command_line(tmp_path, capfd):
    """Real processes through the launcher; the same command again finds everything done."""
    settings = {
        "data": {"num_labelled": 2, "num_unlabelled": 2, "num_val": 2},
        "augment.crop": [32, 32],
        "model": {"head_channels": 8, "low_channels": 4},
        "train": {"steps": 2, "batch_labelled": 2, "batch_unlabelled": 2, "log_every": 1},
        "eval.every": 1,
    }
    variants = {"usual": {}, "diverging": {"optim.lr": 1e30, "train.steps": 3}}
    path = write(tmp_path, recipes=["synthetic/supervised"], variants=variants, settings=settings)
    out = tmp_path / "out"
    assert main(["study", path, "--out", str(out), "--jobs", "2"]) == 1
    printed = capfd.readouterr().out
    assert "synthetic_supervised-diverging-seed0 failed: error: the network must predict numbers" in printed
    assert (out / "logs" / "synthetic_supervised-diverging-seed0.txt").read_text().count("must predict numbers") == 2
    study = read_study(path)
    state = StudyFolder(out).state(study.trials[0])
    assert (state.phase, state.step, [step for step, _ in state.curve]) == ("done", 2, [1, 2])
    trained = StudyFolder(out).run(study.trials[0]).load_config()
    assert (trained.train, trained.model) == (study.trials[0].config.train, study.trials[0].config.model)

    del variants["diverging"]
    assert main(["study", write(tmp_path, recipes=["synthetic/supervised"], variants=variants, settings=settings),
                 "--out", str(out)]) == 0  # fmt: skip
    assert "started" not in capfd.readouterr().out
    settings["optim.lr"] = 0.123
    path = write(tmp_path, recipes=["synthetic/supervised"], variants=variants, settings=settings)
    with pytest.raises(ValueError, match=r"optim\.lr 0\.123 instead of 0\.05"):
        hold(StudyFolder(out), read_study(path))


def test_dry_run_counts_what_is_left(tmp_path, capfd):
    path = write(tmp_path, recipes=["synthetic/supervised"], seeds=3, settings={"augment.crop": [32, 32]})
    assert main(["study", path, "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    (row,) = (line for line in capfd.readouterr().out.splitlines() if "synthetic/supervised" in line)
    assert row.split()[1] == "3" and not (tmp_path / "out").exists()


def test_no_cluster_here_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    path = write(tmp_path, recipes=["synthetic/supervised"])
    assert main(["study", path, "--out", str(tmp_path / "out"), "--cluster", "slurm"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --cluster slurm with") and "srun" in line


@pytest.mark.parametrize("option", ["--jobs", "--devices"])
def test_numbers_on_the_command_line(tmp_path, option):
    with pytest.raises(ValueError, match=rf"{option} must be at least [01], got -1"):
        study_command([write(tmp_path, recipes=["synthetic/supervised"]), option, "-1"])


@pytest.mark.parametrize("number", ["-1", "0", "1001"])
@pytest.mark.parametrize(("command", "arguments"), [(study_command, ["quickstart"]), (quickstart_command, [])])
def test_a_number_of_seeds_on_the_command_line(command, arguments, number):
    with pytest.raises(ValueError, match=rf"^--seeds must be their number, 1 to 1000, got {number}$"):
        command([*arguments, "--seeds", number])


def test_several_gpus_go_through_torchrun(tmp_path):
    launcher = Launcher(tmp_path, cluster="local", devices=4, options={})
    command = launcher.command(tmp_path / "a.yaml", tmp_path / "run")
    assert command[1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    assert command[5:9] == ["4", "-m", "fpl_fast.trainer.cli", "train"] and command[-1] == "--auto-resume"


def test_a_job_asks_its_run_to_save_once_and_is_submitted_again(tmp_path):
    """As before a time limit: the run hears SIGTERM alone, and the new job has the same command."""
    script = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('asked', flush=True), time.sleep(0.2), os._exit(0)))\n"
        "print(signal.getsignal(signal.SIGUSR2) == signal.SIG_IGN, os.environ['COLOUR'], flush=True)\n"
        "time.sleep(1000)\n"
    )
    log = tmp_path / "log.txt"
    process = TrialProcess([sys.executable, "-c", script], log, {"COLOUR": "blue"})
    again = []

    def before_the_limit(number, frame):
        """Call it as submitit does: in the thread that waits for the run."""
        if "blue" not in log.read_text():
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            return
        again.append(process.checkpoint())
        again.append(process.checkpoint())

    previous = signal.signal(signal.SIGALRM, before_the_limit)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        assert process() == 0
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert log.read_text() == "True blue\nasked\n"
    assert isinstance(again[0].function, TrialProcess) and again[0].function.command == process.command
