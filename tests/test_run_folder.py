import dataclasses
import hashlib
import json

import pytest
from data_trees import city_tree
from trainer_runs import Quiet, tiny_run

from fpl_fast.trainer.config import CityscapesData
from fpl_fast.trainer.data.datasets import read_splits
from fpl_fast.trainer.data.lists import Pair, Split
from fpl_fast.trainer.loop import train
from fpl_fast.trainer.run.folder import RunFolder, free_path


def test_free_path(tmp_path):
    assert free_path(tmp_path / "run") == tmp_path / "run"
    for name in ("run", "run-2"):
        (tmp_path / name).mkdir()
    assert free_path(tmp_path / "run") == tmp_path / "run-3"


def test_a_run_begins_in_an_empty_folder(tmp_path):
    folder = RunFolder(tmp_path)
    folder.create(tiny_run())
    assert folder.load_config() == tiny_run()
    with pytest.raises(ValueError, match="--out must be a new or an empty folder"):
        folder.require_free()
    with pytest.raises(ValueError, match=r"run must be a folder with a config\.yaml"):
        RunFolder(tmp_path / "other").load_config()


def test_images_of_a_run_are_recorded(tmp_path):
    city_tree(tmp_path / "data", partitions=(16,))
    data = CityscapesData(root=str(tmp_path / "data"), partition="1/32")
    splits = read_splits(data, unlabelled=True)
    folder = RunFolder(tmp_path / "run")
    folder.create(tiny_run())
    folder.write_splits(splits)
    recorded = json.loads(folder.splits.read_text())
    assert {part: record["images"] for part, record in recorded.items()} == {"labelled": 2, "unlabelled": 31, "val": 3}
    for part, record in recorded.items():
        text = (folder.lists / f"{part}.txt").read_bytes()
        assert record["sha256"] == hashlib.sha256(text).hexdigest()
        assert text.decode().splitlines() == [pair.image for pair in splits[part].pairs]
    assert "train_aug_labeled_1-16.txt" in recorded["labelled"]["origin"]
    folder.check_splits(splits)
    others = read_splits(dataclasses.replace(data, partition="1/16"), unlabelled=True)
    with pytest.raises(ValueError, match=r"lists/labelled\.txt: the run must go on with the images that it began with"):
        folder.check_splits(others)


def test_label_files_of_a_run_are_recorded(tmp_path):
    splits = {part: Split((Pair("a.png", "l/a.png"), Pair("b.png", "l/b.png")), part) for part in ("labelled", "val")}
    folder = RunFolder(tmp_path)
    folder.write_splits(splits | {"unlabelled": splits["val"]})
    swapped = Split((Pair("a.png", "l/b.png"), Pair("b.png", "l/a.png")), "list.txt")
    folder.check_splits(splits | {"unlabelled": swapped})  # labels that are never read
    for part in splits:
        with pytest.raises(ValueError, match=rf"the label files that it began with, got others for data\.{part} from"):
            folder.check_splits(splits | {part: swapped})
    recorded = json.loads(folder.splits.read_text())
    for record in recorded.values():
        record.pop("pairs_sha256", None)  # as earlier versions wrote it
    folder.write_json(folder.splits, recorded)
    folder.check_splits({"labelled": swapped, "val": swapped})
    for wrong in ("\xff", "[]", '{"val": 3}', '{"val": {}}'):
        folder.splits.write_text(wrong, encoding="latin-1")
        with pytest.raises(ValueError, match=r"lists\.json must "):
            folder.check_splits({"val": splits["val"]})


def test_a_run_is_resumed_with_its_own_images_only(tmp_path):
    names = city_tree(tmp_path / "data", size=(40, 48))
    config = tiny_run()
    config = dataclasses.replace(
        config,
        data=CityscapesData(root=str(tmp_path / "data")),
        train=dataclasses.replace(config.train, steps=2),
    )
    folder = RunFolder(tmp_path / "run")
    train(config, folder, Quiet())
    train(config, folder, Quiet(), resume=True)
    part = tmp_path / "data/config_new/subset_train/train_aug_labeled_1-8.txt"
    part.write_text("".join(f"images/train/{name}.png segmentation/train/{name}_gtFine.png\n" for name in names[:5]))
    with pytest.raises(ValueError, match="the run must go on with the images that it began with"):
        train(config, folder, Quiet(), resume=True)


def test_synthetic_data_has_no_lists(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_splits({})
    folder.check_splits({})
    assert list(tmp_path.iterdir()) == []
