import os
from pathlib import Path

import fresh
import numpy as np
import pytest
import torch
from PIL import Image

from fpl_fast.trainer.data.files import FileStore
from fpl_fast.trainer.data.folder import FolderDataset
from fpl_fast.trainer.data.lists import Pair, fill_templates, read_list

NUM_CLASSES = 5
CAMVID = Path(os.environ.get("FPL_FAST_CAMVID", Path(__file__).parents[2] / "shared" / "camvid"))


@pytest.fixture
def tree(tmp_path):
    """Three images of different sizes with labels; the ids are a, b, c."""
    rng = fresh.rng()
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name, size in (("a", (13, 17)), ("b", (8, 30)), ("c", (21, 5))):
        Image.fromarray(rng.integers(256, size=(*size, 3), dtype=np.uint8)).save(tmp_path / f"images/{name}.png")
        Image.fromarray(rng.integers(NUM_CLASSES, size=size, dtype=np.uint8)).save(tmp_path / f"labels/{name}.png")
    return tmp_path


def open_tree(root, **options):
    pairs = [(f"images/{name}.png", f"labels/{name}.png") for name in "abc"]
    return FolderDataset(FileStore(root), [Pair(*pair) for pair in pairs], **{"num_classes": NUM_CLASSES} | options)


def stored(path):
    return torch.from_numpy(np.array(Image.open(path)))


def test_images_and_labels_are_read_as_stored(tree):
    dataset = open_tree(tree)
    dataset.check()
    assert len(dataset) == 3
    for sample, name in zip((dataset[i] for i in range(3)), "abc", strict=True):
        assert torch.equal(sample.image, stored(tree / f"images/{name}.png").permute(2, 0, 1))
        assert torch.equal(sample.label, stored(tree / f"labels/{name}.png"))
        assert sample.image.dtype == sample.label.dtype == torch.uint8


def test_unlabelled_images_need_no_label_files(tree):
    for file in (tree / "labels").iterdir():
        file.unlink()
    dataset = open_tree(tree, labelled=False)
    dataset.check()
    assert [dataset[i].label for i in range(3)] == [None] * 3


def test_further_ignored_values_become_the_ignore_index(tree):
    label = np.array([[0, 4, 11], [200, 255, 1]], dtype=np.uint8)
    Image.fromarray(label).save(tree / "labels/a.png")
    Image.new("RGB", (3, 2)).save(tree / "images/a.png")
    dataset = open_tree(tree, label_ignore=(11, 255), ignore_index=200)
    assert dataset[0].label.tolist() == [[0, 4, 200], [200, 200, 1]]


def test_stored_values_stand_for_classes(tree):
    Image.new("RGB", (3, 2)).save(tree / "images/a.png")
    Image.fromarray(np.array([[7, 8, 11], [12, 13, 0]], dtype=np.uint8)).save(tree / "labels/a.png")
    class_of_stored = {0: None, 7: 0, 8: 1, 11: 2, 12: 3, 13: 4}
    dataset = open_tree(tree, class_of_stored=class_of_stored, ignore_index=13)  # which is a class in the file
    assert dataset[0].label.tolist() == [[0, 1, 2], [3, 4, 13]]
    Image.fromarray(np.array([[7, 8, 11], [200, 9, 7]], dtype=np.uint8)).save(tree / "labels/a.png")
    dataset = open_tree(tree, class_of_stored=class_of_stored, ignore_index=200)
    with pytest.raises(ValueError, match=r"labels/a\.png: labels must be one of 0, 7-8, 11-13, got 9, 200"):
        dataset[0]


def test_many_wrong_values_are_shown_in_short(tree):
    Image.fromarray(np.arange(0, 221, dtype=np.uint8).reshape(13, 17)).save(tree / "labels/a.png")
    with pytest.raises(ValueError, match=r"a\.png: labels must be below num_classes = 5 .*, got 5-220!$"):
        open_tree(tree, where_wrong=lambda values: "!" if values == [*range(5, 221)] else "?")[0]
    Image.fromarray(np.arange(0, 221, dtype=np.uint8).reshape(13, 17) & 254).save(tree / "labels/a.png")
    with pytest.raises(ValueError, match=r", got 6, 8, 10, 12, 14, 16, 18, 20, \.\.\.$"):
        open_tree(tree)[0]


def spoil(tree, what):
    """Break the tree in one way; returns what the message must say."""
    image, label = tree / "images/b.png", tree / "labels/b.png"
    values = np.array(Image.open(label))
    if what == "missing image":
        image.unlink()
        return "images/b.png: the file must exist, but is missing"
    if what == "missing label":
        label.unlink()
        return "labels/b.png: the file must exist, but is missing"
    if what == "truncated image":
        image.write_bytes(image.read_bytes()[:-200])
        return "images/b.png: the image must be readable, got .*truncated"
    if what == "truncated label":
        label.write_bytes(label.read_bytes()[:60])
        return "labels/b.png: the image must be readable, got "
    if what == "no image":
        image.write_text("hello")
        return "images/b.png: the image must be readable, got cannot identify"
    if what == "folder":
        image.unlink()
        image.mkdir()
        return "images/b.png: the image must be readable, got .*directory"
    if what == "size":
        Image.fromarray(values[:, 1:]).save(label)
        return "labels/b.png: a label must have its image's size, 8 high and 30 wide, got 8 high and 29 wide"
    if what == "value":
        values[3, 4] = NUM_CLASSES
        Image.fromarray(values).save(label)
        return "labels/b.png: labels must be below num_classes = 5 or an ignored value, got 5"
    if what == "rgb":
        Image.fromarray(values).convert("RGB").save(label)
        return "labels/b.png: a label must be an 8-bit .* PNG of class indices, got PNG of Pillow mode RGB"
    if what == "rgba":
        Image.fromarray(values).convert("RGBA").save(label)
        return "labels/b.png: .* got PNG of Pillow mode RGBA"
    if what == "16 bit":
        Image.fromarray(values.astype(np.uint16)).save(label)
        return "labels/b.png: .* got PNG of Pillow mode I"
    if what == "jpeg label":
        Image.fromarray(values).save(label, format="JPEG")
        return "labels/b.png: .* got JPEG of Pillow mode L"
    if what == "16-bit image":
        Image.fromarray(values.astype(np.uint16)).save(image)
        return "images/b.png: an image must have 8 bits a channel, got Pillow mode I"
    raise AssertionError(what)


@pytest.mark.parametrize(
    "what",
    [
        "missing image",
        "missing label",
        "truncated image",
        "truncated label",
        "no image",
        "folder",
        "size",
        "value",
        "rgb",
        "rgba",
        "16 bit",
        "jpeg label",
        "16-bit image",
    ],
)
def test_bad_files(tree, what):
    message = spoil(tree, what)
    dataset = open_tree(tree)
    with pytest.raises(ValueError, match=message) as error:
        dataset.check()
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=message):
        dataset[1]
    dataset[0], dataset[2]  # the others stay readable


def test_sizes_are_those_after_orientation(tree):
    """The picture of a camera held upright, and a label drawn on it as viewers show it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(tree / "images/a.png").transpose(Image.Transpose.ROTATE_90).save(tree / "images/a.png", exif=exif)
    dataset = open_tree(tree)
    dataset.check()
    assert (dataset.inspect().turned, dataset.inspect().sizes[13, 17]) == (1, 1)
    Image.open(tree / "labels/a.png").transpose(Image.Transpose.ROTATE_90).save(tree / "labels/a.png")
    with pytest.raises(
        ValueError,
        match=r"a\.png: .* image's size, 13 high and 17 wide, got 17 high and 13 wide \(both after EXIF orientation: ",
    ):
        dataset.check()
    Image.new("L", (3, 2)).save(tree / "labels/a.png")
    with pytest.raises(ValueError, match=r"a\.png: .* image's size, 13 high and 17 wide, got 2 high and 3 wide$"):
        dataset[0]


def test_all_bad_files_are_listed_and_progress_is_told(tree):
    (tree / "images/a.png").unlink()
    (tree / "labels/a.png").unlink()
    (tree / "labels/c.png").unlink()
    seen = []
    with pytest.raises(ValueError, match=r"images/a.png: .* \(and 2 more bad files\)"):
        open_tree(tree).check(progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    problems = open_tree(tree).inspect().problems
    assert [line.split(":")[0] for line in problems] == [
        str(tree / name) for name in ("images/a.png", "labels/a.png", "labels/c.png")
    ]


def test_inspection_counts_sizes_and_pixels(tree):
    Image.open(tree / "images/a.png").save(tree / "images/c.png")
    Image.open(tree / "labels/a.png").save(tree / "labels/c.png")
    dataset = open_tree(tree, label_ignore=(9,))
    stored = np.array(Image.open(tree / "labels/b.png"))
    stored[0, :3] = 9
    Image.fromarray(stored).save(tree / "labels/b.png")
    found = dataset.inspect()
    assert found.sizes == {(13, 17): 2, (8, 30): 1}
    labels = torch.cat([dataset[i].label.flatten() for i in range(3)])
    assert found.label_pixels.tolist() == [(labels == value).sum() for value in range(256)]
    assert found.label_pixels[255] == 3
    assert (found.stored_pixels[9], found.stored_pixels[255]) == (3, 0)
    assert torch.equal(found.stored_pixels[:NUM_CLASSES], found.label_pixels[:NUM_CLASSES])
    assert found.problems == ()
    assert open_tree(tree, labelled=False).inspect().label_pixels.sum() == 0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_classes": 1}, "num_classes must be 2 ... 255 .*, got 1"),
        ({"num_classes": 256}, "num_classes must be 2 ... 255 .*, got 256"),
        ({"ignore_index": 4}, "ignore_index and label_ignore must be 5 ... 255, got 4"),
        ({"label_ignore": (256,)}, "ignore_index and label_ignore must be 5 ... 255, got 256"),
        ({"class_names": ("one",)}, "class_names must have num_classes = 5 entries, got 1"),
    ],
)
def test_wrong_arguments(tree, options, message):
    with pytest.raises(ValueError, match=message):
        open_tree(tree, **options)


@pytest.mark.skipif(not CAMVID.is_dir(), reason="CamVid is not here")
def test_camvid():
    def camvid(name, split="train", **options):
        pairs = fill_templates(
            read_list(CAMVID / f"lists/{name}.txt"), f"images/{split}/{{}}.jpg", f"labels/{split}/{{}}.png"
        )
        return FolderDataset(FileStore(CAMVID), pairs, num_classes=11, label_ignore=(11,), **options)

    val = camvid("val", split="val")
    val.check()
    assert len(val) == 101
    assert val[0].image.shape == (3, 360, 480)
    seen = torch.unique(torch.stack([val[i].label for i in range(0, 101, 10)])).tolist()
    assert seen == [*range(11), 255]
    labelled, unlabelled = camvid("labelled_1_8"), camvid("unlabelled_1_8", labelled=False)
    assert len(labelled) + len(unlabelled) == len(camvid("train")) == 367
    assert unlabelled[0].label is None
