import dataclasses
import json
import logging
import os
import re
import shutil
import signal
import time
from types import SimpleNamespace

import pytest
from cli_cases import error_of, finished_run
from fork_server import Python
from PIL import Image
from rich.table import Table
from trainer_runs import STEPS, Quiet, tiny_run

from fpl_fast.trainer.cli import StderrHandler, main
from fpl_fast.trainer.commands.console import out_console
from fpl_fast.trainer.config.io import load_config, save_config
from fpl_fast.trainer.loop import train
from fpl_fast.trainer.recipes import METHOD_SUMMARIES
from fpl_fast.trainer.recipes.tables import grid
from fpl_fast.trainer.run.folder import RunFolder
from fpl_fast.trainer.study.grid import read_study
from fpl_fast.trainer.study.named import NAMED
from fpl_fast.trainer.study.state import StudyFolder


@pytest.fixture
def config_file(tmp_path):
    """The tiny run as a file that a person could have written."""
    save_config(tiny_run(), tmp_path / "tiny.yaml")
    return str(tmp_path / "tiny.yaml")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run."""
    return finished_run(tmp_path_factory.mktemp("cli"))


COMMANDS = ("init", "train", "warmup", "study", "eval", "predict", "report", "recipes", "data", "quickstart", "bench")


def test_an_empty_cache_variable_is_unset(monkeypatch):
    """For the processes of a run, too: Inductor would tell them the current folder."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    assert main(["--version"]) == 0
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "elsewhere")
    assert main(["--version"]) == 0
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "elsewhere"


def test_help_lists_every_command(capsys):
    for arguments in ([], ["--help"], ["-h"]):
        assert main(arguments) == 0
        shown = capsys.readouterr().out
        for command in COMMANDS:
            assert re.search(rf"^  {command} ", shown, re.MULTILINE)


@pytest.mark.parametrize("command", ["eval", "predict", "report", "recipes", "data", "quickstart", "bench"])
def test_help_of_commands(capsys, command):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    assert f"usage: fpl-fast {command}" in capsys.readouterr().out


def test_a_run_without_an_evaluation(tmp_path, capsys):
    """Stopped before its first checkpoint, or before its first evaluation."""
    folder = RunFolder(tmp_path / "run")
    folder.create(tiny_run())
    Image.new("RGB", (48, 32)).save(tmp_path / "a.png")
    predict = ["predict", str(folder.path), str(tmp_path / "a.png"), "--out", str(tmp_path / "out")]
    resume = f"go on with fpl-fast train --resume {folder.path}"
    for command in (["eval", str(folder.path)], predict):
        assert f"best.ckpt: must be a checkpoint, but is missing: {resume}" in error_of(capsys, *command)
    train(tiny_run(), folder, Quiet(lambda step: step == 3 and os.kill(os.getpid(), signal.SIGTERM)), resume=True)
    for command in (["eval", str(folder.path)], predict):
        assert "stopped before its first evaluation: take --checkpoint last, or" in error_of(capsys, *command)
        assert main([*command, "--checkpoint", "last"]) == 0
    (folder.path / "evaluation.json").unlink()
    assert main(["report", str(folder.path)]) == 0


def test_an_edited_configuration_is_refused(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    config = tiny_run()
    save_config(
        dataclasses.replace(config, data=dataclasses.replace(config.data, std=(1.0, 1.0, 1.0))),
        tmp_path / "run/config.yaml",
    )
    for command in (["eval", str(tmp_path / "run")], ["train", "--resume", str(tmp_path / "run")]):
        error = error_of(capsys, *command)
        assert "run/config.yaml: must hold the settings that the run was trained with, got data.std" in error


def test_text_is_printed_as_it_is(capsys):
    out_console().print("a:100:b [red]x[/red]")
    table = Table()
    table.add_row("road:100:[b]")
    out_console().print(table)
    shown = capsys.readouterr().out
    assert "a:100:b [red]x[/red]\n" in shown
    assert "road:100:[b]" in shown


def test_names_cannot_command_the_terminal(capsys):
    """Escape sequences, ends of lines, bytes that are no text, turned directions; letters of all scripts stay."""
    name = "a\x1b]0;title\x07\r\n\x9b31m\udcff\u202e \u2067 Größe 写真 می‌خواهم"
    shown = r"a\x1b]0;title\x07\r\n\x9b31m\udcff\u202e \u2067 Größe 写真 می‌خواهم"
    out_console().print(f"{name}: 3 images")
    assert capsys.readouterr().out == f"{shown}: 3 images\n"
    table = Table("two\nlines")
    table.add_row(name.replace("\n", ""))
    out_console().print(table)
    assert shown.replace(r"\n", "") in capsys.readouterr().out
    assert shown.replace(r"\r\n", " ") in error_of(capsys, "train", f"{name}.yaml")
    record = logging.LogRecord("fpl_fast", logging.WARNING, "", 0, "damaged: %s", (name,), None)
    assert StderrHandler().format(record) == f"damaged: {shown}".replace(r"\n", "\n")


def test_help_of_train_shows_the_recipe(capsys):
    with pytest.raises(SystemExit) as left:
        main(["train", "folder/cps", "--help"])
    assert left.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--resume" in shown
    assert "Learning rate at the first step" in shown
    assert "default: 0.0025" in shown
    assert "--data.root" in shown


def test_recipes(capsys):
    assert main(["recipes"]) == 0
    shown = capsys.readouterr().out
    for word in ("synthetic", "folder", *METHOD_SUMMARIES):
        assert re.search(rf"^ {word} ", shown, re.MULTILINE)
    for cell in grid():
        if cell.published:
            assert f"{cell.published.miou:.2f}" in shown
    assert "…" not in shown


def test_cells_by_pattern(capsys):
    assert main(["recipes", "city/fpl_cps*"]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["city/fpl_cps_cutmix", "resnet101", "1/16", "186", "44", "544", "75.74", "+1.02"] in shown
    assert len([row for row in shown if row and row[0].startswith("city/")]) == 16
    assert main(["recipes", "voc/*_v2"]) == 0
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert "--backbone vit_base_patch14_dinov2" in " ".join(shown.split())
    assert main(["recipes", "folder"]) == 0
    assert "folder/fpl_cps_cutmix" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown command 'trian': did you mean 'train'?"),
        (["train"], "the first argument must be a recipe or a configuration file"),
        (["train", "folder/fpl_cp"], "no such recipe 'folder/fpl_cp': did you mean 'folder/fpl_cps'?"),
        (["train", "absent.yaml"], "absent.yaml: cannot be read"),
        (["train", "synthetic/cps", "--optim.rl", "1"], "unknown option --optim.rl: did you mean '--optim.lr'?"),
        (["train", "synthetic/cps", "--augment.crop", "512"], "augment.crop must be two integers such as '[512, 512]'"),
        (["train", "synthetic/cps", "--optim.lr", "-1"], "optim.lr must be > 0, got -1.0"),
        (["train", "synthetic/cps", "--out"], "--out"),
        (["train", "folder/cps", "--data.root", "/nonexistent"], "/nonexistent"),
        (["train", "--resume", "/nonexistent"], "run must be a folder with a config.yaml"),
        (["train", "synthetic/cps", "--resume", "x"], "--resume goes alone"),
        (["train", "--auto-resume", "--resume", "x"], "--resume goes alone"),
        (["train", "synthetic/cps", "--auto-resume"], "--auto-resume must come with --out"),
        (["train", "folder/cps", "--partition", "1/8"], "--partition goes with the data sets voc and city"),
        (
            ["train", "city/cps", "--partition", "1/3"],
            "--partition must be one of 1/32, 1/16, 1/8, 1/4, 1/2, got",
        ),
        (["train", "absent.yaml", "--partition", "1/8"], "--partition goes with a recipe; absent.yaml takes"),
        (["train", "voc/cps", "--data-root", "/nonexistent"], "/nonexistent"),
        (["train", "voc/cps", "--bakbone", "resnet18"], "unknown option --bakbone"),
        (["recipes", "ctiy"], "PATTERN must match a recipe, got 'ctiy': did you mean 'city'?"),
        (["eval", "/nonexistent"], "run must be a folder with a config.yaml"),
        (["eval"], "RUN"),
        (["report", "/nonexistent"], "run must be a folder"),
        (["report", "a", "b"], "unrecognized arguments: b; runs to set beside a come after --compare"),
        (["predict", "run", "absent.png"], "absent.png: the image or folder must exist"),
        (["bench", "adit"], "adit"),
        (["bench"], "COMMAND"),
        (["bench", "report", "absent.json"], "absent.json"),
        (["bench", "train", "--crop", "8"], "--crop must be >= 32 pixels, got 8"),
        (["bench", "train", "--backbone", "resnet_18"], "resnet_18"),
    ],
)
def test_user_errors_are_one_line(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in error_of(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_train_writes_run_and_report(run):
    assert load_config(run / "config.yaml") == tiny_run()
    assert "<title>" in (run / "report.html").read_text()
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == STEPS


def test_overrides_reach_the_run(config_file, tmp_path, capsys):
    arguments = ["--train.steps", "2", "--method.loss", "ce", "--out", str(tmp_path / "run"), "--eval.samples=1"]
    assert main(["train", config_file, *arguments]) == 0
    config = load_config(tmp_path / "run" / "config.yaml")
    assert (config.train.steps, config.method.loss, config.eval.samples) == (2, "ce", 1)
    assert "mIoU" in capsys.readouterr().out


def test_dry_run_needs_no_data_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["--backbone", "test_resnet", "--partition", "1/16", "--augment.crop", "[40,56]", "--train.accelerator",
                 "cpu", "--train.batch_labelled", "2", "--train.batch_unlabelled", "2"]  # fmt: skip
    assert main(["train", "city/fpl_cps_cutmix", *arguments, "--dry-run"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        "iterations 44544",
        "2 labelled + 2 x 2 unlabelled images of 40 x 56, bf16-mixed",
        "predicted",
        "expected",
    ):
        assert words in shown
    assert list(tmp_path.iterdir()) == []
    assert "--resume goes alone" in error_of(capsys, "train", "--resume", "x", "--dry-run")


def test_run_folders_get_free_names(config_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main(["train", config_file, "--train.steps", "1"]) == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["run", "run-2"]


def test_out_in_use(run, capsys):
    assert "must be a new or an empty folder" in error_of(capsys, "train", str(run / "config.yaml"), "--out", str(run))


def test_auto_resume_begins_continues_and_finishes(config_file, tmp_path, capsys):
    """One command, given again and again, as a launcher does."""
    run = RunFolder(tmp_path / "run")
    run.create(tiny_run())  # killed before its first checkpoint
    run.metrics.write_text('{"step": 2, "split": "train", "loss": 1.0}\n')
    command = ["train", config_file, "--out", str(run.path), "--auto-resume"]
    assert main(command) == 0
    log = run.metrics.read_text()
    assert [json.loads(line)["step"] for line in log.splitlines()] == [2, 4, 4, 6, 6]
    assert main(command) == 0  # finished
    assert run.metrics.read_text() == log
    assert (
        "--auto-resume: must hold the settings that the run was trained with, got optim.lr 0.5 instead of 0.01"
        in error_of(capsys, *command, "--optim.lr", "0.5")
    )


def test_auto_resume_leaves_other_folders_alone(config_file, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    error = error_of(capsys, "train", config_file, "--out", str(tmp_path), "--auto-resume")
    assert "--out must be a new or an empty folder" in error


@pytest.mark.parametrize("group", [False, True])
def test_signal_saves_and_says_how_to_go_on(config_file, tmp_path, group):
    """A whole process, alone or with its loaders, as schedulers signal it: exit code 128 + signal."""
    run = tmp_path / "run"
    options = ("--train.steps", "100000", "--train.workers", "1", "--out", str(run))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = Python(["-m", "fpl_fast.trainer.cli", "train", config_file, *options], env=environment)
    while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_text():
        assert process.poll() is None, process.wait()
        time.sleep(0.05)
    (os.killpg if group else os.kill)(process.pid, signal.SIGTERM)
    ended = process.wait()
    out, err = ended.stdout, ended.stderr
    assert ended.returncode == 128 + signal.SIGTERM, err
    assert re.search(rf"stopped after step \d+ of 100000; continue with: fpl-fast train --resume {run}\n", out)
    assert "Traceback" not in err and "want of memory" not in err
    assert "stopping after this step" in err
    assert (run / "checkpoints" / "last.ckpt").exists()


class InThisProcess:
    """Launcher of a study that trains in this process, which spares imports."""

    def __init__(self, folder, *, cluster, devices, options):
        self.devices, self.is_remote = devices, False

    def command(self, config, out):
        return ["train", str(config), "--out", str(out), "--auto-resume"]

    def submit(self, process):
        code = main(process.command)
        return SimpleNamespace(done=lambda: True, result=lambda: code)


@pytest.mark.parametrize("name", ["", " "])
@pytest.mark.parametrize("command", [
    "quickstart", "study quickstart", "train synthetic/cps", "init DATA", "analyze RUN", "predict RUN IMAGES",
    "bench report RESULTS", "bench train", "bench methods",
])  # fmt: skip
def test_a_folder_to_write_to_has_a_name(command, name, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert f"--out: must name a folder, got {name!r}" in error_of(capsys, *command.split(), "--out", name)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small_quickstart(monkeypatch):
    settings = {
        "data": {"num_labelled": 3, "num_unlabelled": 4, "num_val": 2},
        "augment.crop": [32, 32],
        "model": {"head_channels": 8, "low_channels": 4},
        "train": {"steps": 2, "batch_labelled": 2, "batch_unlabelled": 2},
    }
    study = NAMED["quickstart"]()
    monkeypatch.setitem(NAMED, "quickstart", lambda: {**study, "settings": settings})
    monkeypatch.setattr("fpl_fast.trainer.study.launch.Launcher", InThisProcess)
    monkeypatch.setattr("fpl_fast.trainer.study.queue._POLL_S", 0.0)


def test_quickstart_compares_three_runs(tmp_path, small_quickstart, capsys):
    out = tmp_path / "all"
    assert main(["quickstart", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    first, second = shown.splitlines()[:2]
    assert first.startswith("Street scenes") and second.startswith("3 of 3 runs to train") and "logs" in second
    methods = ("supervised", "cps_cutmix", "fpl_cps_cutmix")
    for word in (*methods, "road", "3 labelled images", "study.md"):
        assert word in shown
    assert re.search(r"IoU, %.* supervised .* cps_cutmix .* fpl_cps_cutmix", shown)
    names = {f"synthetic_{method}-seed0" for method in methods}
    for name in names:
        report = (out / "runs" / name / "report.html").read_text()
        assert set(re.findall(r"synthetic_\w+-seed\d", report)) == names

    assert main(["quickstart", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("all 3 runs of quickstart are done in ") and "started" not in shown
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("mine")
    error = error_of(capsys, "quickstart", "--out", str(tmp_path / "mine"))
    assert "must be a new or an empty folder, or one of a study" in error


def test_quickstart_goes_on_in_its_folder_until_all_is_done(tmp_path, small_quickstart, monkeypatch, capsys):
    """A folder of something else is passed over, one of fewer seeds is not; done, it begins another."""
    monkeypatch.chdir(tmp_path)
    study = read_study("quickstart", seeds=2)
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    (tmp_path / "runs" / "quickstart" / "note.txt").write_text("mine")
    with StudyFolder("runs/quickstart-2").hold(study):
        pass  # stopped before its first run
    chosen = []
    monkeypatch.setattr(
        "fpl_fast.trainer.commands.study.train_study", lambda _, folder, *__, **___: chosen.append(folder) or 1
    )

    def choose(*arguments):
        main(["quickstart", *arguments])
        return chosen[-1].path.name

    assert choose() == "quickstart-2"
    for trial in study.trials:
        assert choose("--seeds", "2") == "quickstart-2"
        chosen[-1].config(trial).touch()
        run = chosen[-1].run(trial)
        run.path.mkdir()
        run.evaluation.write_text('{"step": 2, "miou": 0.5}')
    assert choose() == choose("--seeds", "2") == "quickstart-3"
    assert choose("--seeds", "3") == "quickstart-2"
    other = {"recipes": ["synthetic/cps"]}
    monkeypatch.setitem(NAMED, "quickstart", lambda: other)
    assert choose() == "quickstart-3"
