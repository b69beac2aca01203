import dataclasses

import pytest
from data_trees import NUM_VAL, city_tree, voc_tree

from fpl_fast.trainer.config import CityscapesData, FolderData, VocData
from fpl_fast.trainer.data.public import image_id
from fpl_fast.trainer.data.sources import labelled_split, make_dataset, unlabelled_split, val_split


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
