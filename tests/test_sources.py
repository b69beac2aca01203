import dataclasses
import re
import shlex

import fresh
import numpy as np
import pytest
import torch
from data_trees import NUM_VAL, city_tree, voc_tree
from PIL import Image

from fpl_fast.trainer.config import CityscapesData, FolderData, RunConfig, VocData
from fpl_fast.trainer.config.io import override_config
from fpl_fast.trainer.data.pack_writer import write_pack
from fpl_fast.trainer.data.public import PublicLists, image_id
from fpl_fast.trainer.data.sources import file_store, labelled_split, make_dataset, unlabelled_split, val_split
from fpl_fast.trainer.data.voc import VOC
from fpl_fast.trainer.evaluation.export import label_id_png
from fpl_fast.trainer.methods.cps import CpsConfig


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
    (tmp_path / split.pairs[1].label).write_bytes(label_id_png(prediction))
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


def one_label(tmp_path, values, **options):
    """The classes that a folder with one label of these values yields, or an error."""
    for folder in ("images/val", "labels/val", "lists"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "lists" / "val.txt").write_text("x")
    Image.new("RGB", (len(values), 1)).save(tmp_path / "images/val/x.jpg")
    Image.fromarray(np.array([values], dtype=np.uint8)).save(tmp_path / "labels/val/x.png")
    data = FolderData(root=str(tmp_path), **options)
    return make_dataset(data, val_split(data))[0].label[0].tolist()


@pytest.mark.parametrize(
    ("label_map", "num_classes", "stored", "classes"),
    [
        ({0: None, "1-150": "0-149"}, 150, [0, 1, 2, 150, 255], [255, 0, 1, 149, 255]),  # ADE20K
        ({255: 1}, 2, [0, 255, 0], [0, 1, 0]),  # binary masks
        ({"1-2": 1, "3-5": 2, 6: None}, 3, [0, 1, 2, 3, 4, 5, 6, 255], [0, 1, 1, 2, 2, 2, 255, 255]),  # merged
        ({5: 0}, 3, [5, 1, 2, 255], [0, 1, 2, 255]),  # what is not named keeps its meaning
        ({}, 3, [0, 1, 2, 255], [0, 1, 2, 255]),
    ],
)
def test_label_maps(tmp_path, label_map, num_classes, stored, classes):
    assert one_label(tmp_path, stored, label_map=label_map, num_classes=num_classes) == classes


@pytest.mark.parametrize(
    ("options", "stored", "message"),
    [
        # void that was forgotten does not become the class that was 1
        ({"label_map": {"1-3": "0-2"}}, [0, 1, 2],
         "labels must be one of 1-3, 9, 255, got 0 (if that means no label, --data.label_map '{1-3: 0-2, 0: null}'; if "
         "a class, --data.label_map null, where the values are the classes, or --data.label_map '{1-3: 0-2, 0: "
         "CLASS}')"),
        ({}, [0, 1, 2, 3], "got 3 (if that means no label, --data.label_ignore '[9, 3]'; if a class, a larger "
         "data.num_classes or --data.label_map '{3: CLASS}'; if 0 means no label, --data.label_map '{0: null, "
         "1-3: 0-2}')"),
        ({"label_map": {4: 1}}, [0, 1, 2], "labels must be one of 0, 2, 4, 9, 255, got 1 "),
        ({}, [0, 1, 2, 3, 11], "labels must be below num_classes = 3 or an ignored value, got 3, 11 (if that means no "
         "label, --data.label_ignore '[9, 3, 11]'; if a class, a larger data.num_classes or --data.label_map "
         "'{3: CLASS, 11: CLASS}')"),
        ({}, [*range(100, 110)], "got 100-109 (if that means no label, --data.label_map '{100-109: null}'; if a class, "
         "a larger data.num_classes or --data.label_map '{100-109: CLASS}')"),
        ({}, [*range(10, 50, 2)], "got 10, 12, 14, 16, 18, 20, 22, 24, ... (so many values are no classes: "),
        ({"label_map": {4: 3}}, [0], "data.label_map must map to classes 0 ... 2 or null, got 3 in {4: 3}"),
        ({"label_map": {9: None}}, [0],
         "data.label_map must be without the values of data.label_ignore (null means no label), got [9]"),
        ({"label_map": {"7-9": 0}}, [0], "data.label_map must be without the values of data.label_ignore "),
    ],
)  # fmt: skip
def test_values_that_stand_for_nothing(tmp_path, options, stored, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        one_label(tmp_path, stored, num_classes=3, label_ignore=(9,), **options)


def test_the_advice_can_be_typed(tmp_path):
    """Both remedies work as the message words them, with a class for CLASS."""
    with pytest.raises(ValueError, match="got 11 ") as error:
        one_label(tmp_path / "a", [0, 11], num_classes=3)
    ignore, label_map = re.findall(r"--data\.\S+ '[^']*'", str(error.value))
    no_label = label_map.replace("CLASS", "null")  # what public data sets are told
    for option, expected in ((ignore, 255), (no_label, 255), (label_map.replace("CLASS", "2"), 2)):
        name, value = shlex.split(option)
        changed = override_config(RunConfig(method=CpsConfig(), data=FolderData(num_classes=3)), [name, value]).data
        values = {"label_ignore": changed.label_ignore, "label_map": changed.label_map}
        place = tmp_path / f"{name}{value}"
        assert one_label(place, [0, 11], num_classes=3, **values) == [0, expected]


def test_public_labels_may_be_mapped_too(tmp_path):
    """Train ids with void as 19, as some tools write them."""
    city_tree(tmp_path)
    data = CityscapesData(root=str(tmp_path))
    expected = make_dataset(data, val_split(data))[0].label
    for path in tmp_path.glob("segmentation/val/*.png"):
        Image.open(path).point(lambda value: 19 if value == 255 else value).save(path)
    with pytest.raises(ValueError, match=r"got 19 \(if that means no label, --data\.label_map '\{19: null\}'; if"):
        make_dataset(data, val_split(data))[0]
    mapped = dataclasses.replace(data, label_map={19: None})
    assert torch.equal(make_dataset(mapped, val_split(mapped))[0].label, expected)
    with pytest.raises(ValueError, match=r"data\.label_map must be null with data\.label_ids true, which is a map"):
        CityscapesData(label_ids=True, label_map={19: None})


@pytest.mark.parametrize(
    ("entry", "stored", "options", "message"),
    [
        ("a.jpg", "a.jpg", {}, "images/val/a.jpg.jpg: the file must exist, but is missing; a.jpg is there: entries of "
         "lists go without the suffix that data.val_images adds"),
        ("a", "a.JPG", {}, "images/val/a.jpg: the file must exist, but is missing; a.JPG is there: rename it, or "
         "--data.val_images 'images/val/{}.JPG' if all are named so"),
        ("a", "a.jpeg", {}, "; a.jpeg is there: rename it, or --data.val_images 'images/val/{}.jpeg' if all are "
         "named so"),
        ("a", "a_rgb.png", {"val_images": "images/val/{}_rgb.jpg"},
         "a_rgb.png is there: rename it, or --data.val_images 'images/val/{}_rgb.png' if all are named so"),
        ("images/val/a.jpg", "a.JPG", {"val_images": "{}"}, "a.JPG is there: rename it, or name it so in the list"),
        ("a", "b.jpg", {}, "images/val/a.jpg: the file must exist, but is missing$"),
    ],
)  # fmt: skip
def test_where_a_missing_image_is(tmp_path, entry, stored, options, message):
    for folder in ("images/val", "lists"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "lists" / "val.txt").write_text(entry)
    (tmp_path / "images/val" / stored).write_text("")
    data = FolderData(root=str(tmp_path), **options)
    (problem, *_) = make_dataset(data, val_split(data)).inspect().problems
    assert re.search(message if message.endswith("$") else re.escape(message) + "$", problem)


def test_a_missing_label_whose_list_has_suffixes(tmp_path):
    one_label(tmp_path, [0], num_classes=3)
    (tmp_path / "lists" / "val.txt").write_text("x.jpg")
    data = FolderData(root=str(tmp_path))
    _, problem = make_dataset(data, val_split(data)).inspect().problems
    assert problem.endswith("x.png is there: entries of lists go without the suffix that data.val_labels adds")


def test_a_list_in_the_folder_one_works_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("a\n")
    (tmp_path / "data").mkdir()
    with pytest.raises(
        ValueError, match=rf"below data\.root; {re.escape(str(tmp_path))}/mine\.txt exists: give that path$"
    ):
        val_split(FolderData(root="data", val="mine.txt"))


@pytest.mark.parametrize("part", ["labelled", "unlabelled", "val"])
def test_a_missing_list_is_named_with_its_option(tmp_path, part):
    message = rf"{part}\.txt: the list file must exist, but is missing; --data\.{part}, or --split .* below data\.root$"
    with pytest.raises(ValueError, match=message):
        {"labelled": labelled_split, "unlabelled": unlabelled_split, "val": val_split}[part](
            FolderData(root=str(tmp_path))
        )


def voc_download(root):
    """The official download: own lists and labels, and of two images neither."""
    voc_tree(root / "drawn", partitions=(), seed=3)
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    names = {"train": [], "val": []}
    for part, folder in (("train", "train_aug"), ("val", "val")):
        for image in sorted((root / "drawn" / folder / "image").iterdir()):
            names[part].append(image.stem)
            image.rename(root / "JPEGImages" / image.name)
            label = root / "drawn" / folder / "label" / f"{image.stem}.png"
            if image.stem not in names["train"][:2]:
                label.rename(root / "SegmentationClass" / label.name)
    (root / "train_aug.txt").write_text("\n".join(names["train"]))
    (root / "ImageSets/Segmentation/train.txt").write_text("\n".join(names["train"][2:]))
    (root / "ImageSets/Segmentation/val.txt").write_text("\n".join(names["val"]))
    return names


def test_voc_without_the_labels_of_sbd(tmp_path):
    names = voc_download(tmp_path)
    data = VocData(root=str(tmp_path), partition="1/2", val="ImageSets/Segmentation/val.txt")
    problems = make_dataset(data, PublicLists(VOC, tmp_path).train()).inspect().problems
    assert [line.split(": ", 1)[0] for line in problems] == [
        f"{tmp_path}/SegmentationClass/{name}.png" for name in names["train"][:2]
    ]
    assert problems[0].endswith(
        "; SBD's labels, the folder SegmentationClassAug, are not here: add them, or take images that the download has "
        "labels of, --data.train ImageSets/Segmentation/train.txt"
    )
    own = dataclasses.replace(data, train="ImageSets/Segmentation/train.txt")
    for split in (labelled_split(own), val_split(own)):
        make_dataset(own, split).check()
    assert len(labelled_split(own).pairs) + len(unlabelled_split(own).pairs) == len(names["train"]) - 2
    (tmp_path / "train_aug.txt").unlink()
    with pytest.raises(
        ValueError,
        match=r"train_aug\.txt: the list file must exist, but is missing; it is not in the official download: add it "
        r"with SBD's labels, the folder SegmentationClassAug, or take the lists of the download, --data\.train ",
    ):
        labelled_split(data)
    (tmp_path / "SegmentationClassAug").mkdir()
    with pytest.raises(ValueError, match="official download: add it, or take the lists of the download, "):
        labelled_split(data)
