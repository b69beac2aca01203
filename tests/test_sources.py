import dataclasses

import fresh
import numpy as np
import pytest
import torch
from data_trees import NUM_VAL, city_tree, voc_tree
from PIL import Image

from fpl_fast.trainer.config import CityscapesData, FolderData, VocData
from fpl_fast.trainer.data.pack_writer import write_pack
from fpl_fast.trainer.data.public import image_id
from fpl_fast.trainer.data.sources import file_store, labelled_split, make_dataset, unlabelled_split, val_split
from fpl_fast.trainer.export import save_label_ids


def test_voc(tmp_path):
    train = set(voc_tree(tmp_path, partitions=(16, 8)))
    data = VocData(root=str(tmp_path), partition="1/16")
    labelled, unlabelled, val = labelled_split(data), unlabelled_split(data), val_split(data)
    assert [len(part.pairs) for part in (labelled, unlabelled, val)] == [3, len(train) - 3, NUM_VAL]
    dataset = make_dataset(data, labelled)
    dataset.check()
    assert (dataset.num_classes, dataset.class_names[15], dataset.palette[15]) == (21, "person", (192, 128, 128))
    # most of these have no label files
    without = make_dataset(data, unlabelled, labelled=False)
    without.check()
    assert without[0].label is None
    assert any("train_aug/label" in line for line in make_dataset(data, unlabelled).inspect().problems)
    make_dataset(data, val).check()


@pytest.mark.parametrize("options", [{}, {"official": True}, {"official": True, "lists": False}])
def test_cityscapes(tmp_path, options):
    train = set(city_tree(tmp_path, **options))
    data = CityscapesData(root=str(tmp_path), partition="1/32")
    labelled, unlabelled, val = labelled_split(data), unlabelled_split(data), val_split(data)
    assert [len(part.pairs) for part in (labelled, unlabelled, val)] == [2, len(train) - 2, NUM_VAL]
    for part in (labelled, unlabelled, val):
        dataset = make_dataset(data, part)
        dataset.check()
    assert (dataset.num_classes, dataset.class_names[10], dataset.palette[10]) == (19, "sky", (70, 130, 180))


def packed(data, path):
    """The same data set from a pack of its labelled and its validation images."""
    pairs = labelled_split(data).pairs + val_split(data).pairs
    pictures = [(kind, getattr(pair, kind)) for pair in pairs for kind in ("image", "label")]
    assert write_pack(path, file_store(data), pictures) == []
    return dataclasses.replace(data, packed=str(path))


@pytest.mark.parametrize("in_pack", [False, True])
@pytest.mark.parametrize("options", [{}, {"official": True}, {"official": True, "lists": False}])
def test_label_ids_give_the_samples_of_train_ids(tmp_path, options, in_pack):
    seed = int(fresh.rng().integers(2**31))
    data = {}
    for label_ids in (False, True):
        root = tmp_path / f"{label_ids}"
        city_tree(root, label_ids=label_ids, seed=seed, **options)
        data[label_ids] = CityscapesData(root=str(root), label_ids=label_ids, ignore_index=254 if label_ids else 255)
        if in_pack:
            data[label_ids] = packed(data[label_ids], tmp_path / f"{label_ids}.pack")
    for read_split in (labelled_split, val_split):
        splits = [read_split(data[label_ids]) for label_ids in (False, True)]
        assert splits[0].sha256 == splits[1].sha256  # both name the same images
        expected, ours = (make_dataset(data[i], split) for i, split in enumerate(splits))
        ours.check()
        for index in range(len(expected)):
            assert torch.equal(ours[index].image, expected[index].image)
            label = expected[index].label
            assert torch.equal(ours[index].label, label.where(label != 255, 254))


def test_label_ids_are_those_of_the_export(tmp_path):
    city_tree(tmp_path, official=True, label_ids=True)
    data = CityscapesData(root=str(tmp_path), label_ids=True)
    split = val_split(data)
    prediction = np.resize(np.arange(19, dtype=np.uint8), (40, 80))
    save_label_ids(prediction, tmp_path / split.pairs[1].label)
    assert np.array_equal(make_dataset(data, split)[1].label, prediction)


@pytest.mark.parametrize("value", [34, 100, 254])
def test_a_value_that_is_no_label_id(tmp_path, value):
    city_tree(tmp_path, label_ids=True)
    data = CityscapesData(root=str(tmp_path), label_ids=True, ignore_index=100)
    dataset = make_dataset(data, val_split(data))
    path = tmp_path / val_split(data).pairs[0].label
    stored = np.array(Image.open(path))
    stored[3, 7] = value
    Image.fromarray(stored).save(path)
    with pytest.raises(ValueError, match=rf"{path.name}: labels must be one of 0-33, 255, got {value}"):
        dataset.check()
    with pytest.raises(ValueError, match="labels must be below num_classes = 19 or an ignored value, got"):
        make_dataset(dataclasses.replace(data, label_ids=False), val_split(data)).check()


def test_missing_train_ids_are_told_apart_from_missing_labels(tmp_path):
    city_tree(tmp_path, official=True, label_ids=True)
    data = CityscapesData(root=str(tmp_path))
    split = val_split(data)
    (tmp_path / split.pairs[1].label.replace("labelTrainIds", "labelIds")).unlink()
    first, second, _ = make_dataset(data, split).inspect().problems
    missing = "_gtFine_labelTrainIds.png: the file must exist, but is missing"
    assert first.endswith(f"{missing}; --data.label_ids true reads the _labelIds.png beside it")
    assert second.endswith(missing)


def test_lists_instead_of_a_partition(tmp_path):
    train = voc_tree(tmp_path)
    (tmp_path / "mine.txt").write_text("\r\n".join(train[:4]))
    (tmp_path / "train_rest.txt").write_text("\n".join(train[9:12]))
    (tmp_path / "train_mine.txt").write_text("\n".join(train[:4]))
    data = VocData(root=str(tmp_path), labelled="train_mine.txt", val="mine.txt")
    assert [image_id(pair.image) for pair in labelled_split(data).pairs] == train[:4]
    assert [image_id(pair.image) for pair in unlabelled_split(data).pairs] == train[4:]
    assert [pair.image for pair in val_split(data).pairs] == [f"val/image/{name}.jpg" for name in train[:4]]
    both = dataclasses.replace(data, unlabelled="train_rest.txt")
    assert [image_id(pair.image) for pair in unlabelled_split(both).pairs] == train[9:12]


def test_another_seed_is_another_part(tmp_path):
    city_tree(tmp_path, partitions=())
    parts = {labelled_split(CityscapesData(root=str(tmp_path), partition_seed=seed)).sha256 for seed in (0, 0, 1, 2)}
    assert len(parts) == 3


def test_folder(tmp_path):
    (tmp_path / "lists").mkdir()
    for name in ("labelled", "unlabelled", "val"):
        (tmp_path / "lists" / f"{name}.txt").write_text(f"{name}_1\n")
    data = FolderData(root=str(tmp_path), num_classes=3, label_ignore=(3,), class_names=("x", "y", "z"))
    assert labelled_split(data).pairs == (("images/train/labelled_1.jpg", "labels/train/labelled_1.png"),)
    assert unlabelled_split(data).pairs == (("images/train/unlabelled_1.jpg", "labels/train/unlabelled_1.png"),)
    assert val_split(data).pairs == (("images/val/val_1.jpg", "labels/val/val_1.png"),)
    assert make_dataset(data, val_split(data)).class_names == ("x", "y", "z")
