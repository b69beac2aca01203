import math
import signal
import sys
from collections import deque

import pytest
import yaml

from fpl_fast.trainer.cli import main
from fpl_fast.trainer.commands.study import main as study_command
from fpl_fast.trainer.recipes import make_recipe
from fpl_fast.trainer.recipes.published import Published
from fpl_fast.trainer.study.grid import Cell, read_study
from fpl_fast.trainer.study.launch import Launcher, TrialProcess
from fpl_fast.trainer.study.queue import Snapshot, run_study
from fpl_fast.trainer.study.results import markdown, write_results
from fpl_fast.trainer.study.state import StudyFolder, TrialState
from fpl_fast.trainer.study.statistics import CellResult, Difference, cell_results, differences
from fpl_fast.trainer.study.text import cell_text, difference_text


def write(tmp_path, **values):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return str(path)


GRID = {
    "recipes": ["synthetic/cps", "synthetic/fpl_cps"],
    "partitions": {"1/8": {"data.num_labelled": 8}, "1/4": {"data": {"num_labelled": 16}}},
    "variants": {"usual": {}, "fast": {"optim.lr": 0.1}},
    "seeds": [3, 5],
    "settings": {"train": {"steps": 30}, "eval.every": 10},
}


def test_a_grid_is_a_product_and_every_setting_arrives(tmp_path):
    study = read_study(write(tmp_path, **GRID), overrides=["--optim.momentum", "0.5"])
    assert (study.name, len(study.cells), len(study.trials)) == ("mine", 8, 16)
    last = study.trials[-1]
    assert last.cell == ("synthetic/fpl_cps", "fast", "1/4", "-")
    assert last.name == "synthetic_fpl_cps-fast-1_4-seed5"
    config = last.config
    assert (config.data.num_labelled, config.optim.lr, config.train.steps, config.train.seed) == (16, 0.1, 30, 5)
    assert (config.eval.every, config.optim.momentum, config.recipe) == (10, 0.5, "synthetic/fpl_cps")
    assert len({trial.name for trial in study.trials}) == 16


def test_names_stay_when_a_study_is_extended(tmp_path):
    before = read_study(write(tmp_path, **GRID))
    after = read_study(write(tmp_path, **GRID | {"seeds": 6, "recipes": ["synthetic/supervised", *GRID["recipes"]]}))
    of_after = {trial.name: trial for trial in after.trials}
    assert all(of_after[trial.name] == trial for trial in before.trials)


def test_grids_share_what_they_do_not_give(tmp_path):
    grids = [{}, {"recipes": ["synthetic/ael"], "seeds": 1, "settings": {"train.steps": 40}}]
    study = read_study(write(tmp_path, recipes=["synthetic/cps"], seeds=2, settings={"eval.every": 5}, grids=grids))
    assert [(t.cell.recipe, t.seed, t.config.train.steps, t.config.eval.every) for t in study.trials] == [
        ("synthetic/cps", 0, 600, 5),
        ("synthetic/cps", 1, 600, 5),
        ("synthetic/ael", 0, 40, 5),
    ]
    assert len(read_study(write(tmp_path, recipes=["synthetic/cps"], grids=grids), seeds=3).trials) == 6


@pytest.mark.parametrize(("name", "cells"), [("voc-table", 48), ("city-table", 54)])
def test_the_papers_tables_by_name(name, cells):
    study = read_study(name, overrides=["--data.root", "D"])
    assert len(study.cells) == len(study.trials) == cells
    results = cell_results(study, {trial.name: TrialState("waiting", 0, None, 0.0, ()) for trial in study.trials})
    assert all(result.published is not None and result.mean is None for result in results)
    for trial in study.trials:
        recipe = make_recipe(trial.cell.recipe, partition=trial.cell.partition)
        assert trial.config.train.steps == recipe.train.steps and trial.config.method == recipe.method
        assert trial.config.model.backbone == trial.cell.backbone
    assert all(trial.config.data.root == "D" for trial in study.trials)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": []}, r"mine\.yaml: unknown key 'recipe': did you mean 'recipes'"),
        ({"recipes": "synthetic/cps"}, r"recipes must be a list such as \[voc/cps, voc/fpl_cps\], got 'synthetic/cps'"),
        ({"recipes": ["synthetic/csp"]}, r"mine\.yaml: synthetic/csp, usual 1/8: recipe: no such recipe"),
        ({"recipes": []}, "must have at least one recipe and one seed, got none"),
        ({"seeds": 0}, "seeds must be their number, at least 1, or a list of integers, got 0"),
        ({"seeds": [True]}, r"seeds must be .* got \[True\]"),
        ({"partitions": 3}, "partitions must be a list of names, or names with settings, got 3"),
        ({"variants": {"a": 3}}, r"settings must be keys and values such as train.steps: 300, got 3"),
        ({"settings": {"optim.lrr": 1}}, r"synthetic/cps, usual 1/8: unknown key 'optim\.lrr'"),
        ({"settings": {"steps": 1}}, "unknown key 'steps': settings are named SECTION.KEY"),
        ({"settings": {"optim.lr": "big"}}, "optim.lr must be a number, got 'big'"),
        ({"grids": [3]}, "grids must be a list of keys and values"),
        ({"grids": [{"recipe": 1}]}, "unknown key 'recipe' in grids"),
        (
            {"grids": [{}, {"settings": {"optim.lr": 0.2}}]},
            "names must tell the runs of a study apart, got synthetic_cps-usual-1_8-seed3 twice with other settings",
        ),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_study(write(tmp_path, **GRID | changes))


def test_no_such_study(tmp_path):
    with pytest.raises(ValueError, match="one of voc-table, city-table, got 'voc-tabel': did you mean 'voc-table'"):
        read_study("voc-tabel")
    with pytest.raises(ValueError, match="cannot be read"):
        read_study(str(tmp_path / "none.yaml"))


BASE = Cell("city/cps", "-", "1/8", "resnet50")


def test_mean_and_deviation_by_hand():
    result = CellResult(BASE, 4, {0: 70.0, 1: 71.0, 2: 74.0}, Published(73.06, None))
    assert result.mean == pytest.approx(215 / 3)
    # (1.6667^2 + 0.6667^2 + 2.3333^2) / 2 = 4.3333
    assert result.deviation == pytest.approx(math.sqrt(13 / 3))
    assert result.gap == pytest.approx(215 / 3 - 73.06)
    assert cell_text(result) == "71.67 ± 2.08 (3 of 4); paper 73.06, −1.39"
    one = CellResult(BASE, 1, {0: 70.0}, None)
    assert (one.mean, one.deviation, one.gap, cell_text(one)) == (70.0, None, None, "70.00 (1)")
    assert cell_text(CellResult(BASE, 1, {}, None)) == "–"


def test_confidence_interval_by_hand():
    difference = Difference(BASE, BASE, (1.0, 2.0, 3.0, 6.0))
    # Mean 3, deviation sqrt(14 / 3), and 3.18245 from a table of Student's t with three degrees of freedom.
    half = 3.18245 * math.sqrt(14 / 3) / 2
    assert difference.interval == pytest.approx((3 - half, 3 + half), rel=1e-5)
    assert difference_text(difference) == ("+3.00 ± 2.16", "−0.44 to +6.44", "4")
    assert difference_text(Difference(BASE, BASE, (-0.5,))) == ("−0.50", "one seed", "1")


def result(recipe, variant="-", partition="1/8", **scores):
    return CellResult(Cell(recipe, variant, partition, "-"), 3, {int(k[1:]): v for k, v in scores.items()}, None)


def test_only_seeds_that_both_have_are_compared():
    found = differences([result("city/cps", s0=70.0, s1=71.0), result("city/fpl_cps", s1=72.5, s2=99.0)])
    assert [(d.cell.recipe, d.baseline.recipe, d.values) for d in found] == [("city/fpl_cps", "city/cps", (1.5,))]


def test_baselines_have_the_same_part_and_variant():
    results = [
        result("city/supervised", s0=1.0),
        result("city/cps", s0=2.0),
        result("city/cps", partition="1/4", s0=7.0),
        result("city/fpl_cps", s0=4.0),
        result("city/fpl_cps", "cap 1", s0=5.0),
        result("city/cps", "cap 1", s0=3.5),
        result("city/fpl_ael", partition="1/2", s0=9.0),  # nothing to hold it against
    ]
    found = {(d.cell.row, d.baseline.row): d.values for d in differences(results)}
    assert found == {
        ("city/cps", "city/supervised"): (1.0,),
        ("city/fpl_cps", "city/cps"): (2.0,),
        ("city/fpl_cps", "city/supervised"): (3.0,),
        ("city/fpl_cps, cap 1", "city/cps, cap 1"): (1.5,),
        ("city/fpl_cps, cap 1", "city/supervised"): (4.0,),
        ("city/fpl_cps, cap 1", "city/fpl_cps"): (1.0,),
        ("city/cps, cap 1", "city/supervised"): (2.5,),
        ("city/cps, cap 1", "city/cps"): (1.5,),
    }


class Job:
    """A job that ends at once: its outcome is the next of its run's."""

    def __init__(self, finish):
        self.finish, self.cancelled = finish, False

    def done(self):
        self.finish()
        return True

    def cancel(self):
        self.cancelled = True


class Clusterless:
    """Launcher whose runs do what a script says: "done", "error", or "busy" for one that goes on elsewhere."""

    def __init__(self, folder, script, devices=0):
        self.folder, self.script, self.devices, self.is_remote = folder, script, devices, False
        self.submitted, self.gpus = [], []

    def command(self, config, out):
        return [out.name]

    def submit(self, process, gpus):
        (name,) = process.command
        self.submitted.append(name)
        self.gpus.append(gpus)
        outcomes = self.script.setdefault(name, deque(["done"]))
        outcome = outcomes.popleft() if outcomes else "done"

        def finish():
            process.log.write_text(f"line\n{outcome}\n\n")
            if outcome == "done":
                self.folder.states[name] = TrialState("done", 600, 0.5, 1.0, ((600, 0.5),))

        return Job(finish)


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
    folder.create(study)

    def run(script, *, jobs=1, gpus=(), devices=0, stop=Stop, show=lambda snapshot: None):
        launcher = Clusterless(folder, {name: deque(outcomes) for name, outcomes in script.items()}, devices)
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
    launcher, _ = run({}, jobs=2, gpus=(4, 5, 6), devices=2)
    assert all(len(set(gpus)) == 2 and set(gpus) <= {4, 5, 6} for gpus in launcher.gpus)


def test_a_stop_begins_nothing_new(queue):
    class Asked:
        signal = 2

    study, _, run = queue
    launcher, snapshot = run({}, stop=Asked)
    assert launcher.submitted == [] and len(snapshot.states) == len(study.trials)


def test_results_are_files(tmp_path, queue):
    study, folder, run = queue
    _, snapshot = run({"synthetic_fpl_cps-seed1": ["error", "error"]})
    write_results(study, folder, snapshot)
    text = (folder.path / "study.md").read_text()
    assert "| synthetic/cps | 50.00 ± 0.00 (2) |" in text
    assert "| synthetic/fpl_cps | synthetic/cps | mIoU | +0.00 | one seed | 1 |" in text
    assert "- synthetic_fpl_cps-seed1: failed after step 0 of 600: error" in text
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
        StudyFolder(tmp_path).create(study)
    assert {path.name for path in tmp_path.iterdir()} == {"note.txt", "mine.yaml"}


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
    assert "synthetic_supervised-diverging-seed0 failed: error: the loss is nan" in printed
    assert (out / "logs" / "synthetic_supervised-diverging-seed0.txt").read_text().count("the loss is nan") == 2
    study = read_study(path)
    state = StudyFolder(out).state(study.trials[0])
    assert (state.phase, state.step, [step for step, _ in state.curve]) == ("done", 2, [1, 2])
    assert StudyFolder(out).run(study.trials[0]).load_config() == study.trials[0].config

    del variants["diverging"]
    assert main(["study", write(tmp_path, recipes=["synthetic/supervised"], variants=variants, settings=settings),
                 "--out", str(out)]) == 0  # fmt: skip
    assert "started" not in capfd.readouterr().out
    settings["optim.lr"] = 0.123
    path = write(tmp_path, recipes=["synthetic/supervised"], variants=variants, settings=settings)
    with pytest.raises(ValueError, match=r"optim\.lr 0\.123 instead of 0\.05"):
        StudyFolder(out).create(read_study(path))


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


@pytest.mark.parametrize("option", ["--seeds", "--jobs", "--devices"])
def test_numbers_on_the_command_line(tmp_path, option):
    with pytest.raises(ValueError, match=rf"{option} must be at least [01], got -1"):
        study_command([write(tmp_path, recipes=["synthetic/supervised"]), option, "-1"])


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
