import dataclasses
import json
import os

import pytest
import torch
from trainer_runs import tiny_run

from fpl_fast.trainer.config import FolderData
from fpl_fast.trainer.data.datasets import read_splits
from fpl_fast.trainer.evaluation.evaluate import EvaluationResult
from fpl_fast.trainer.evaluation.own_result import differences, place_evaluation
from fpl_fast.trainer.evaluation.validation import save_evaluation
from fpl_fast.trainer.report.run import read_run
from fpl_fast.trainer.run.folder import RunFolder

CONFUSION = torch.tensor([[5, 1, 0], [2, 7, 3], [0, 0, 4]])
RESULT = EvaluationResult.from_confusion(CONFUSION)
STEP = 6


def config(root, **changes):
    data = FolderData(root=str(root), num_classes=3, labelled="l.txt", unlabelled="l.txt", val="v.txt")
    return dataclasses.replace(tiny_run(), data=dataclasses.replace(data, **changes))


@pytest.fixture
def folder(tmp_path):
    """A run on a folder of images, evaluated at step 6."""
    for root in ("data", "other"):
        (tmp_path / root).mkdir()
        for name, text in (("l.txt", "a\n"), ("v.txt", "b\nc\n"), ("w.txt", "c\n")):
            (tmp_path / root / name).write_text(text)
    folder = RunFolder(tmp_path / "run")
    run = config(tmp_path / "data")
    folder.create(run)
    folder.write_splits(read_splits(run.data, unlabelled=True), run.data.root)
    save_evaluation(folder.evaluation, RESULT, "abc", run.eval, step=STEP)
    return folder


def placed(folder, run, split="val", step=STEP, result=RESULT):
    found = differences(folder, run, split, step, result)
    return found, place_evaluation(folder, run, split, step, found)


def test_the_same_again_is_the_runs_own(folder, tmp_path, monkeypatch):
    run = config(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    same = dataclasses.replace(
        run,
        train=dataclasses.replace(run.train, devices=8, workers=3, batch_labelled=16),
        eval=dataclasses.replace(run.eval, every=7, window=(5, 5)),  # whole images have no windows
        data=dataclasses.replace(run.data, packed="pack", check=False),
    )
    for own in (run, same):
        assert placed(folder, own) == ({}, folder.evaluation)
    folder.evaluation.unlink()  # stopped before its first evaluation
    assert placed(folder, run, step=3) == ({}, folder.evaluation)


def others(folder, tmp_path):
    run = config(tmp_path / "data")
    (tmp_path / "w2.txt").write_text("b\n")
    yield "data.root", placed(folder, config(tmp_path / "other"))
    yield "data.val", placed(folder, config(tmp_path / "data", val="w.txt"))
    yield "data.label_ignore", placed(folder, config(tmp_path / "data", label_ignore=(3,)))
    yield "step", placed(folder, run, step=4)
    yield "split", placed(folder, run, split="train")
    yield "split", placed(folder, run, split="w.txt")
    yield "split", placed(folder, run, split=str(tmp_path / "w2.txt"))
    yield "eval.protocol", placed(folder, dataclasses.replace(run, eval=dataclasses.replace(run.eval, protocol="cps")))
    yield (
        "eval.window",
        placed(folder, dataclasses.replace(run, eval=dataclasses.replace(run.eval, protocol="cps", window=(32, 64)))),
    )
    yield "labels", placed(folder, run, result=EvaluationResult.from_confusion(CONFUSION.T))
    yield (
        "model.output_stride",
        placed(folder, dataclasses.replace(run, model=dataclasses.replace(run.model, output_stride=8))),
    )
    yield (
        "train.precision",
        placed(folder, dataclasses.replace(run, train=dataclasses.replace(run.train, precision="bf16-mixed"))),
    )


def test_whatever_differs_goes_elsewhere(folder, tmp_path):
    """Every other evaluation has a place of its own, the same one again when it is repeated."""
    places = []
    for key, (found, path) in others(folder, tmp_path):
        assert key in found
        assert path.parent.parent == folder.path / "evaluations"
        places.append(path)
    assert len(set(places)) == len(places)
    assert places == [path for _, (_, path) in others(folder, tmp_path)]
    names = [path.parent.name for path in places]
    assert "val-whole-step4" in names
    assert "train-whole-step6" in names
    assert "val-cps-32x64-step6" in names


@pytest.mark.parametrize("what", ["list", "root"])
def test_data_that_changed_behind_the_same_settings(folder, tmp_path, monkeypatch, what):
    if what == "list":
        (tmp_path / "data" / "v.txt").write_text("b\n")
        assert placed(folder, config(tmp_path / "data"))[0].keys() == {"list"}
    else:
        run = config("data")  # a relative path, from another folder
        monkeypatch.chdir(tmp_path)
        folder.create(run)
        folder.write_splits(read_splits(run.data, unlabelled=True), run.data.root)
        assert placed(folder, run)[0] == {}
        (tmp_path / "elsewhere").mkdir()
        os.symlink(tmp_path / "other", tmp_path / "elsewhere" / "data")
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert placed(folder, run)[0] == {"root": str(tmp_path / "other")}


def test_labels_that_moved_between_the_images(folder, tmp_path):
    run, digests = config(tmp_path / "data"), torch.randint(256, (2, 32), dtype=torch.uint8)
    own, moved = (EvaluationResult.from_confusion(CONFUSION, rows) for rows in (digests, digests.flip(0)))
    assert placed(folder, run, result=moved)[0] == {}  # the run was evaluated before labels had a digest
    save_evaluation(folder.evaluation, own, "abc", run.eval, step=STEP)
    assert placed(folder, run, result=own) == ({}, folder.evaluation)
    found, path = placed(folder, run, result=moved)
    assert found == {"labels": moved.labels_sha256}
    assert path != folder.evaluation


def test_scores_without_pixels_are_null_and_read_back_as_nan(folder):
    nothing = EvaluationResult.from_confusion(torch.zeros(3, 3))
    save_evaluation(folder.evaluation, nothing, "abc", tiny_run().eval, step=STEP, differs={"split": "train"})
    content = json.loads(folder.evaluation.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert (content["miou"], content["iou"], content["differs"]) == (None, [None] * 3, {"split": "train"})
    evaluation = read_run(folder.path).evaluation
    assert evaluation.miou != evaluation.miou
    assert evaluation.pixel_accuracy != evaluation.pixel_accuracy
