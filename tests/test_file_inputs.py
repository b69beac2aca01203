"""Images and labels in files: what is read, refused and warned of."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from data_trees import city_tree, voc_tree
from input_cases import assert_equal, batches, changed
from PIL import Image
from trainer_runs import tiny_run

from fpl_fast.trainer.config import CityscapesData, FolderData, VocData
from fpl_fast.trainer.data.datasets import (
    build_split,
    build_train_datasets,
    build_val_dataset,
    check_files,
    read_splits,
)
from fpl_fast.trainer.data.files import FileStore
from fpl_fast.trainer.data.pack_writer import write_pack


@pytest.fixture
def folder(tmp_path):
    """A small tree in the default layout of the folder recipe."""
    for part, names in {"train": "abcd", "val": "ef"}.items():
        for kind in ("images", "labels"):
            (tmp_path / kind / part).mkdir(parents=True)
        for name in names:
            rng = np.random.default_rng(ord(name))
            Image.fromarray(rng.integers(0, 256, (36, 52, 3), dtype=np.uint8)).save(
                tmp_path / "images" / part / f"{name}.jpg"
            )
            if name not in "cd":  # unlabelled images need no label files
                label = rng.integers(0, 4, (36, 52), dtype=np.uint8)
                Image.fromarray(label).save(tmp_path / "labels" / part / f"{name}.png")
    (tmp_path / "lists").mkdir()
    for name, entries in {"labelled": "ab", "unlabelled": "cd", "val": "ef"}.items():
        (tmp_path / "lists" / f"{name}.txt").write_text("\n".join(entries))
    return FolderData(root=str(tmp_path), num_classes=3, label_ignore=(3,), class_names=("x", "y", "z"))


def test_padding_of_labels(folder):
    config = dataclasses.replace(tiny_run(), data=folder)
    config = changed(config, augment={"crop": (64, 64), "scales": (1.0,), "pad_label": "zero"})
    x = batches(config)[0].labelled
    assert (x.label[~x.valid] == 0).all()


def test_folder(folder):
    datasets, val = build_train_datasets(folder, unlabelled=True), build_val_dataset(folder)
    assert [len(part) for part in (*datasets, val)] == [2, 2, 2]
    assert val.class_names == ("x", "y", "z")
    assert set(datasets.labelled[0].label.unique().tolist()) == {0, 1, 2, 255}
    assert datasets.unlabelled[0].label is None
    counts = []
    check_files(folder, datasets, val, lambda done, total: counts.append((done, total)))
    assert counts == [(1, 2), (2, 2)] * 3
    batch = batches(dataclasses.replace(tiny_run(), data=folder))[0]
    assert set(batch.labelled.label.unique().tolist()) <= {0, 1, 2, 255}


def test_public_data_sets(tmp_path):
    voc_tree(tmp_path / "voc")
    city_tree(tmp_path / "city", official=True)
    for data, num_classes in (
        (VocData(root=str(tmp_path / "voc")), 21),
        (CityscapesData(root=str(tmp_path / "city")), 19),
    ):
        splits = read_splits(data, unlabelled=True)
        datasets, val = build_train_datasets(data, unlabelled=True), build_val_dataset(data)
        assert [len(part) for part in (*datasets, val)] == [len(split.pairs) for split in splits.values()] == [5, 28, 3]
        assert val.num_classes == num_classes
        check_files(data, datasets, val, lambda done, total: None)
        batch = batches(dataclasses.replace(tiny_run(), data=data))[0]
        assert set(batch.labelled.label.unique().tolist()) <= {*range(num_classes), 255}
    assert read_splits(data, unlabelled=False).keys() == {"labelled", "val"}
    assert read_splits(tiny_run().data, unlabelled=True) == {}


def test_packed_batches_are_those_of_the_files(tmp_path):
    voc_tree(tmp_path / "voc")
    files = VocData(root=str(tmp_path / "voc"), partition="1/4")
    splits = read_splits(files, unlabelled=True)
    pictures = [("image", pair.image) for split in splits.values() for pair in split.pairs]
    pictures += [("label", pair.label) for part in ("labelled", "val") for pair in splits[part].pairs]
    assert write_pack(tmp_path / "pack", FileStore(tmp_path / "voc"), pictures) == []
    packed = dataclasses.replace(files, packed=str(tmp_path / "pack"))
    for ours, theirs in zip(*(batches(dataclasses.replace(tiny_run(), data=d)) for d in (packed, files)), strict=True):
        assert_equal(ours, theirs)
    ours, theirs = (build_val_dataset(data) for data in (packed, files))
    check_files(packed, build_train_datasets(packed, unlabelled=True), ours, lambda done, total: None)
    for index in range(len(ours)):
        assert torch.equal(ours[index].image, theirs[index].image)
        assert torch.equal(ours[index].label, theirs[index].label)
    with pytest.raises(ValueError, match=r"pack: the pack must hold all labels of .*1-2\.txt, got none of train_aug/"):
        build_train_datasets(dataclasses.replace(packed, partition="1/2"), unlabelled=False)


def test_supervised_needs_no_unlabelled_list(folder, tmp_path):
    (tmp_path / "lists" / "unlabelled.txt").unlink()
    assert build_train_datasets(folder, unlabelled=False).unlabelled is None
    with pytest.raises(ValueError, match=r"unlabelled\.txt"):
        build_train_datasets(folder, unlabelled=True)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_goes_bad_is_one_line(folder, tmp_path, workers):
    config = changed(dataclasses.replace(tiny_run(), data=folder), train={"workers": workers})
    (tmp_path / "images" / "train" / "d.jpg").unlink()
    message = f"{tmp_path}/images/train/d.jpg: the file must exist, but is missing"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        batches(config)


def test_a_bad_file_is_named(folder, tmp_path):
    (tmp_path / "images" / "train" / "d.jpg").write_bytes(b"\xff\xd8 truncated")
    datasets = build_train_datasets(folder, unlabelled=True)
    with pytest.raises(ValueError, match=r"d\.jpg"):
        check_files(folder, datasets, build_val_dataset(folder), lambda done, total: None)


def paint(tmp_path, values):
    """Fill the labels of the named images with a value each."""
    for path in tmp_path.glob("labels/*/*.png"):
        if path.stem in values:
            Image.new("L", Image.open(path).size, values[path.stem]).save(path)


def check(data):
    check_files(data, build_train_datasets(data, unlabelled=True), build_val_dataset(data), lambda done, total: None)


@pytest.mark.parametrize("in_pack", [False, True])
@pytest.mark.parametrize("looked_at", [True, False])
@pytest.mark.parametrize(("part", "names"), [("labelled", "ab"), ("val", "ef")])
def test_a_part_without_labels_is_refused(folder, tmp_path, part, names, looked_at, in_pack):
    paint(tmp_path, dict.fromkeys(names, 3))
    data = dataclasses.replace(folder, check=looked_at)
    if in_pack:
        data = dataclasses.replace(data, packed=str(tmp_path / "pack"))
        pairs = [(part, pair) for part, split in read_splits(folder, unlabelled=True).items() for pair in split.pairs]
        pictures = [("image", pair.image) for _, pair in pairs]
        pictures += [("label", pair.label) for part, pair in pairs if part != "unlabelled"]
        assert write_pack(tmp_path / "pack", FileStore(tmp_path), pictures) == []
    message = (
        rf"^data\.{part} must name labels in which at least one pixel has a class, got the ignored values 3 in all 2$"
    )
    with pytest.raises(ValueError, match=message):
        check(data)
    paint(tmp_path, {names[0]: 255})
    if not in_pack:
        with pytest.raises(ValueError, match=r"got the ignored values 3, 255 in all 2$"):
            check(data)
        paint(tmp_path, {names[1]: 1})
        check(data)


def test_classes_without_pixels_are_warned_of(folder, tmp_path, caplog):
    paint(tmp_path, {"a": 0, "b": 2, "e": 1, "f": 3})
    check(folder)
    assert caplog.messages == [
        "warning: no labelled pixel of y",
        "warning: no validation pixel of x, z",
    ]
    caplog.clear()
    paint(tmp_path, {"a": 0, "b": 2, "e": 2, "f": 0})
    check(dataclasses.replace(folder, label_map={2: 1}, num_classes=2, class_names=()))
    assert caplog.messages == []


def test_masks_of_0_and_255_are_recognised(folder, tmp_path, caplog):
    data = dataclasses.replace(folder, num_classes=2, class_names=(), label_ignore=())
    paint(tmp_path, {"a": 0, "b": 255, "e": 255, "f": 255})
    advice = ": the labels hold no value but 0 and 255; if 255 is a class, --data.label_map '{255: 1}' says so"
    with pytest.raises(
        ValueError, match=rf"^data\.val must .* got the ignored values 255 in all 2{re.escape(advice)}$"
    ):
        check(data)
    assert caplog.messages == [f"warning: no labelled pixel of 1{advice}"]
    caplog.clear()
    paint(tmp_path, {"e": 0})
    check(dataclasses.replace(data, label_map={255: 1}))
    assert caplog.messages == []
    paint(tmp_path, {"a": 1})  # a third value: 255 may well be void
    check(dataclasses.replace(data, num_classes=3))
    assert caplog.messages[0] == "warning: no labelled pixel of 0, 2"


def test_parts_to_evaluate(folder, tmp_path):
    parts = {split: build_split(folder, split) for split in ("val", "train")}
    assert [parts["val"].name(0), parts["train"].name(0)] == ["e", "a"]
    (tmp_path / "some.txt").write_text("f")
    listed = build_split(folder, "some.txt")
    assert [listed.name(index) for index in range(len(listed))] == ["f"]
    with pytest.raises(ValueError, match=r"absent\.txt"):
        build_split(folder, "absent.txt")
