import dataclasses
import re

import pytest
from data_trees import city_tree, voc_tree
from PIL import Image
from trainer_runs import tiny_run

from fpl_fast.trainer import dry_run
from fpl_fast.trainer.cli import main
from fpl_fast.trainer.commands import progress
from fpl_fast.trainer.commands.data_tables import step_line
from fpl_fast.trainer.commands.progress import counting

SMALL = ["--backbone", "test_resnet"]


def run(capsys, *arguments):
    """Exit code, standard output, standard error."""
    code = main(["data", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_check_tells_what_there_is(tmp_path, capsys):
    city_tree(tmp_path, size=(20, 30), partitions=(16,))
    arguments = ["city/fpl_cps_cutmix", "--data.root", tmp_path, "--data.partition", "1/32", *SMALL]
    code, shown, _ = run(capsys, "check", *arguments)
    assert code == 0
    assert re.search(r"labelled +│ 2 +│ 30 x 20 +│ [0-9, -]*255 ", shown)
    assert re.search(r"unlabelled +│ 31 +│ 30 x 20 ", shown)
    assert re.search(r"labelled: 1/32 of the training images, .*_1-16\.txt, seed 0, SHA-256 [0-9a-f]{64}\n", shown)
    assert re.search(r"│ traffic light +│ +\d+\.\d\d │", shown)
    assert re.search(r"packed: 0\.00 GB, disk free [\d.]+ GB; .* estimated: [\d.]+ GB", shown)
    assert re.search(
        r"\na step on one device, predicted: [\d.]+ GB at least: .* momentum, [\d.]+ GB activations", shown
    )
    assert shown.endswith("nothing is wrong\n")


@pytest.mark.parametrize("available, fits", [(10**9, "; fits in the 1.0 GB"), (10**5, "; does not fit in the 0.0 GB")])
@pytest.mark.parametrize("accelerator", ["auto", "cpu"])
def test_a_step_against_the_memory_here(monkeypatch, available, fits, accelerator):
    monkeypatch.setattr(dry_run, "available_memory_bytes", lambda: available)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    config = tiny_run()
    shown = step_line(dataclasses.replace(config, train=dataclasses.replace(config.train, accelerator=accelerator)))
    assert shown.endswith(f"{fits} free on CPU")
    assert ("; there is no GPU here to compare with; " in shown) == (accelerator == "auto")


def test_a_step_where_the_system_does_not_tell_its_memory(monkeypatch):
    monkeypatch.setattr(dry_run, "available_memory_bytes", lambda: None)
    assert step_line(tiny_run()).endswith(" GB activations")


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        (["--train.precision", "16-mixed"], "train.precision must be '32-true' or 'bf16-mixed' on a CPU"),
        (["--backbone", "resnet_18"], "backbone must be"),
        (["--train.batch_labelled", "1"], "train.batch_labelled must give batch normalisation 2 images, got 1"),
        (["--train.devices", "3"], "train.batch_labelled must be a multiple of 3 processes x 1 micro-batches"),
    ],
)
def test_files_are_checked_where_no_step_can_be_predicted(tmp_path, capsys, option, reason):
    voc_tree(tmp_path)
    arguments = ["voc/cps", "--data.root", tmp_path, "--train.accelerator", "cpu", *option]
    code, shown, _ = run(capsys, "check", *arguments)
    assert f"\na step on one device cannot be predicted here: {reason}" in shown
    assert (code, shown.endswith("nothing is wrong\n")) == (0, True)


def test_words_of_a_device_are_one_line(monkeypatch):
    def refuse(*arguments, **options):
        raise RuntimeError("no bfloat16\n  on this device")

    monkeypatch.setattr(dry_run, "predict_memory", refuse)
    assert step_line(tiny_run()) == "a step on one device cannot be predicted here: no bfloat16 on this device"


def test_check_fails_on_what_is_wrong(tmp_path, capsys):
    voc_tree(tmp_path)
    labels = sorted(tmp_path.glob("val/label/*.png"))
    labels[0].unlink()
    labels[2].write_text("hello")
    code, shown, _ = run(capsys, "check", "voc/cps", "--data.root", tmp_path, *SMALL)
    assert code == 1
    wrong = [line for line in shown.splitlines() if line.startswith("wrong: ")]
    assert len(wrong) == 2
    assert str(labels[0]) in wrong[0]
    assert str(labels[2]) in wrong[1]
    assert shown.endswith("wrong in all: 2\n")


def test_label_maps_are_shown(tmp_path, capsys):
    voc_tree(tmp_path)
    for path in tmp_path.glob("*/label/*.png"):
        with Image.open(path) as label:
            label.point(lambda value: 200 if value == 255 else 100 if value == 3 else min(value, 20)).save(path)
    code, shown, _ = run(capsys, "check", "voc/cps", "--data.root", tmp_path, *SMALL)
    assert (code, "; if a class, --data.label_map '{100: CLASS, 200: CLASS}')\n" in shown) == (1, True)
    where = ["--data.root", tmp_path, "--data.label_map", "{100: 3, 200: null}"]
    code, shown, _ = run(capsys, "check", "voc/cps", *where, *SMALL)
    assert (code, "\nlabel map: {100: 3, 200: null}\n" in shown) == (0, True)
    # As stored; of many values, the last one may stand in a second line.
    assert re.search(r"labelled +│ 5 +│ [0-9x .]+ │ [0-9, -]*(?:│\n[│ ]+)?200 ", shown)


def test_pack_check_and_add(tmp_path, capsys):
    voc_tree(tmp_path / "voc")
    where = ["--data.root", tmp_path / "voc", "--data.packed", tmp_path / "pack", *SMALL]
    code, _, err = run(capsys, "check", "voc/cps", *where)
    assert (code, "must be a pack that fpl-fast data pack wrote" in err) == (2, True)
    code, shown, _ = run(capsys, "pack", "voc/cps", *where)
    assert (code, "44 of 44 pictures" in shown) == (0, True)  # 36 images, labels of 5 + 3
    assert run(capsys, "check", "voc/cps", *where)[0] == 0
    code, _, err = run(capsys, "check", "voc/cps", *where, "--data.partition", "1/4")
    assert (code, "the pack must hold all labels of subset_train_aug/train_aug_labeled_1-4.txt" in err) == (2, True)
    code, shown, _ = run(capsys, "pack", "voc/cps", *where, "--data.partition", "1/4")
    assert (code, "48 of 48 pictures" in shown) == (0, True)
    assert run(capsys, "check", "voc/cps", *where, "--data.partition", "1/4")[0] == 0


def test_pack_lists_bad_files(tmp_path, capsys):
    voc_tree(tmp_path / "voc")
    (bad, *_) = (tmp_path / "voc").glob("val/image/*.jpg")
    bad.unlink()
    code, shown, _ = run(capsys, "pack", "voc/cps", "--data.root", tmp_path / "voc", "--data.packed", tmp_path / "pack")
    assert code == 1
    assert "43 of 44 pictures" in shown
    assert f"wrong: {bad}: the file must exist, but is missing\nwrong in all: 1\n" in shown


def test_cityscapes_as_downloaded(tmp_path, capsys):
    """Both commands name the remedy where lists and train ids are missing."""
    city_tree(tmp_path / "city", size=(20, 30), official=True, lists=False, label_ids=True)
    arguments = ["city/supervised", "--data.root", tmp_path / "city", "--data.packed", tmp_path / "pack", *SMALL]
    code, shown, _ = run(capsys, "pack", *arguments)
    assert (code, shown.count("; --data.label_ids true reads the _labelIds.png beside it\n")) == (1, 8)  # 5 + 3
    assert run(capsys, "pack", *arguments, "--data.label_ids", "true")[0] == 0
    code, shown, _ = run(capsys, "check", *arguments, "--data.label_ids", "true")
    assert (code, shown.endswith("nothing is wrong\n")) == (0, True)
    code, _, err = run(capsys, "check", *arguments)
    assert (code, "the pack must hold all labels of" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the first argument must be check or pack, got ''"),
        (["chekc", "voc/cps"], "the first argument must be check or pack, got 'chekc'"),
        (["check"], "the first argument must be a recipe or a configuration file"),
        (["check", "synthetic/cps"], "data.kind must be a data set in files, got 'synthetic'"),
        (["check", "voc/cps", "--data.partition", "1/3"], "data.partition"),
        (["check", "voc/cps", "--data.root", "/nonexistent"], "/nonexistent/train_aug.txt: the list file must exist"),
        (["pack", "voc/cps", "--data.root", "/nonexistent"], "/nonexistent/train_aug.txt: the list file must exist"),
    ],
)
def test_user_errors_are_one_line(capsys, arguments, message):
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1


def test_pack_needs_a_folder(tmp_path, capsys):
    voc_tree(tmp_path)
    assert "data.packed must name the folder to pack into" in run(capsys, "pack", "voc/cps", "--data.root", tmp_path)[2]


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys, monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with counting() as count:
        show = count("files")
        for done in range(1, 8):
            show(done, 10)
    assert capsys.readouterr().out == "files  3/10  28 s left\nfiles  6/10  16 s left\n"
