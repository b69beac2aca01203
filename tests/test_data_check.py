import dataclasses

import pytest
from data_trees import city_tree, voc_tree
from PIL import Image
from trainer_runs import tiny_run

from fpl_fast.trainer.config import CityscapesData, FolderData, VocData
from fpl_fast.trainer.data.check import examine_data, find_overlaps, read_file_splits, require_no_leaks
from fpl_fast.trainer.data.files import FileStore
from fpl_fast.trainer.data.lists import Pair, Split
from fpl_fast.trainer.data.pack_writer import write_pack
from fpl_fast.trainer.methods.cps import CpsConfig
from fpl_fast.trainer.run.clock import available_memory_bytes


def quiet(title):
    return lambda done, total: None


def run_on(data, **method):
    return dataclasses.replace(tiny_run(**method), data=data)


def split(*names):
    return Split(tuple(Pair(name, name) for name in names), "list.txt")


def test_a_sound_data_set(tmp_path):
    city_tree(tmp_path, size=(20, 30))
    counts = {}
    report = examine_data(
        run_on(CityscapesData(root=str(tmp_path))),
        lambda title: lambda done, total: counts.setdefault(title, []).append((done, total)),
    )
    assert {name: len(seen) for name, seen in counts.items()} == {"labelled": 5, "unlabelled": 28, "val": 3}
    assert report.problems == []
    assert all(remark.startswith(("no labelled pixel of", "no validation pixel of")) for remark in report.remarks)
    assert report.parts["val"].found.sizes == {(20, 30): 3}
    assert report.packed_bytes == 600 * (4 * 5 + 3 * 28 + 4 * 3)
    assert report.loader_bytes == 2 * 32 * 32 * (5 * 2 + 4 * 2 * 2)  # two batches of crops


def test_missing_classes_are_remarked(tmp_path):
    voc_tree(tmp_path)
    for folder, kept in (("train_aug", (0, 7, 255)), ("val", (255,))):
        for path in (tmp_path / folder / "label").glob("*.png"):
            with Image.open(path) as label:
                label.point(lambda value, kept=kept: value if value in kept else 3).save(path)
    labelled, val = examine_data(run_on(VocData(root=str(tmp_path), partition="1/2")), quiet).remarks
    assert labelled.startswith("no labelled pixel of aeroplane, bicycle, boat")
    assert val.startswith("no validation pixel of background, aeroplane, bicycle, boat")
    assert "bird" not in labelled + val


def test_parts_without_a_labelled_pixel_are_wrong(tmp_path):
    voc_tree(tmp_path)
    for path in tmp_path.glob("val/label/*.png"):
        with Image.open(path) as label:
            label.point(lambda value: 255).save(path)
    (problem,) = examine_data(run_on(VocData(root=str(tmp_path))), quiet).problems
    assert problem.startswith(
        "data.val must name labels in which at least one pixel has a class, got the ignored values"
    )
    assert problem.endswith("--data.label_map '{255: 1}' says so")


def test_turned_images_are_remarked(tmp_path):
    city_tree(tmp_path, size=(20, 30))
    exif = Image.Exif()
    for orientation, path in zip((1, 3, 8), sorted(tmp_path.glob("images/val/*.png")), strict=True):
        exif[0x0112] = orientation
        picture = Image.open(path)
        (picture.transpose(Image.Transpose.ROTATE_90) if orientation == 8 else picture).save(path, exif=exif)
    report = examine_data(run_on(CityscapesData(root=str(tmp_path))), quiet)
    assert report.problems == []
    assert "2 images have an EXIF orientation, which is applied: their labels must be upright, too" in report.remarks


def test_all_that_is_wrong_is_listed(tmp_path):
    voc_tree(tmp_path)
    data = VocData(root=str(tmp_path))
    splits = read_file_splits(run_on(data))
    missing, colour = (tmp_path / splits["labelled"].pairs[i].label for i in (0, 2))
    corrupt = tmp_path / splits["unlabelled"].pairs[5].image
    missing.unlink()
    Image.open(colour).convert("RGB").save(colour)
    corrupt.write_bytes(corrupt.read_bytes()[:100])
    report = examine_data(run_on(data), quiet)
    assert [line.split(":")[0] for line in report.problems] == [str(missing), str(colour), str(corrupt)]
    assert report.parts["labelled"].found.sizes.total() == 5  # the image of a bad label is sound


def test_trained_validation_images_are_wrong_and_files_named_once(tmp_path):
    train = voc_tree(tmp_path)
    lists = tmp_path / "subset_train_aug"
    (tmp_path / "train_part.txt").write_text("\n".join((lists / "train_aug_labeled_1-8.txt").read_text().split()[:2]))
    leaking = VocData(root=str(tmp_path), val="train_part.txt")
    (problem,) = examine_data(run_on(leaking), quiet).problems
    assert problem.startswith("labelled and val share 2 of 5 and 2 images: 2099_")
    gone = tmp_path / examine_data(run_on(leaking), quiet).parts["val"].split.pairs[0].image
    gone.unlink()
    first, second = examine_data(run_on(leaking), quiet).problems
    assert (first, second) == (f"{gone}: the file must exist, but is missing", problem)
    assert len(train) == 33


def test_overlaps():
    leaks, remarks = find_overlaps(
        FolderData(),
        {"labelled": split("a", "b"), "unlabelled": split("b", "c", "d", "c", "c"), "val": split("e", "a", "f")},
    )
    assert leaks == ["labelled and val share 1 of 2 and 3 images: a, ..."]
    assert remarks == [
        "labelled and unlabelled share 1 of 2 and 5 images: b, ...",
        "unlabelled names 2 images more than once: c, ...",
    ]
    assert find_overlaps(FolderData(), {"labelled": split("a"), "val": split("b")}) == ([], [])


@pytest.mark.parametrize("in_pack", [False, True])
def test_the_same_contents_under_two_names_are_a_leak(tmp_path, in_pack):
    city_tree(tmp_path, size=(20, 30))
    data = CityscapesData(root=str(tmp_path))
    splits = read_file_splits(run_on(data))
    val = [pair.image for pair in splits["val"].pairs]
    labelled = splits["labelled"].pairs[1].image
    unlabelled = [splits["unlabelled"].pairs[place].image for place in (3, 8)]
    for original, copy in ((val[1], labelled), (val[0], unlabelled[0]), (val[2], unlabelled[1])):
        (tmp_path / copy).write_bytes((tmp_path / original).read_bytes())
    other = (tmp_path / val[0]).read_bytes()  # as many bytes, and other ones behind the picture, which a pack has not
    (tmp_path / val[0]).write_bytes(other + b"a")
    (tmp_path / unlabelled[0]).write_bytes(other + b"a")
    (tmp_path / splits["unlabelled"].pairs[12].image).write_bytes(other + b"b")
    if in_pack:
        pictures = [("image", pair.image) for split in splits.values() for pair in split.pairs]
        pictures += [("label", pair.label) for part in ("labelled", "val") for pair in splits[part].pairs]
        assert write_pack(tmp_path / "pack", FileStore(tmp_path), pictures) == []
        data = dataclasses.replace(data, packed=str(tmp_path / "pack"))
    same = "images of the same contents under two names:"
    assert examine_data(run_on(data), quiet).problems[-2:] == [
        f"labelled and val hold 1 {same} {labelled} and {val[1]}",
        f"unlabelled and val hold {3 if in_pack else 2} {same} {unlabelled[0]} and {val[0]}, ...",
    ]


@pytest.mark.parametrize("part", ["labelled", "unlabelled"])
def test_public_images_are_known_in_every_folder(part):
    splits = {"labelled": split("train_aug/image/2007_000032.jpg"), "val": split("val/image/2007_000033.jpg")}
    require_no_leaks(VocData(), splits)
    splits[part] = split("train_aug/image/2007_000032.jpg", "train_aug/image/2007_000033.jpg")
    with pytest.raises(
        ValueError, match=rf"data\.val must name no image that is trained on, got: .*{part}.* share 1 of"
    ):
        require_no_leaks(VocData(), splits)
    require_no_leaks(FolderData(), splits)  # whose names say nothing across folders


@pytest.mark.parametrize(
    ("method", "labelled_streams", "unlabelled_streams", "strong"),
    [
        ({"name": "supervised"}, 1, 0, 0),
        ({"name": "cps", "cutmix": False}, 1, 1, 0),
        ({"name": "cps"}, 1, 2, 0),
        ({"name": "mean_teacher"}, 1, 1, 0),
        ({"name": "ael"}, 2, 2, 0),
        ({"name": "ael", "paste_probability": 0.0}, 1, 2, 0),
        ({"name": "fixmatch"}, 1, 2, 1),
        ({"name": "unimatch"}, 1, 2, 2),
        ({"name": "unimatch_v2"}, 1, 1, 2),
        ({"name": "cct"}, 1, 1, 0),
        ({"name": "cac"}, 1, 2, 0),
        ({"name": "u2pl"}, 1, 2, 0),
        ({"name": "corrmatch"}, 1, 2, 1),
    ],
)
def test_the_method_says_what_loaders_hold(tmp_path, method, labelled_streams, unlabelled_streams, strong):
    voc_tree(tmp_path)
    report = examine_data(run_on(VocData(root=str(tmp_path)), **method), quiet)
    of_unlabelled = (4 + 3 * strong) * 2 * unlabelled_streams
    assert report.loader_bytes == 2 * 32 * 32 * (5 * 2 * labelled_streams + of_unlabelled)


def test_supervised_reads_no_unlabelled_images(tmp_path):
    voc_tree(tmp_path, partitions=())
    config = run_on(VocData(root=str(tmp_path), unlabelled="nowhere.txt"), name="supervised")
    assert read_file_splits(config).keys() == {"labelled", "val"}
    with pytest.raises(ValueError, match=r"nowhere\.txt"):
        read_file_splits(dataclasses.replace(config, method=CpsConfig()))


def test_drawn_data_has_no_files():
    with pytest.raises(ValueError, match=r"data\.kind must be a data set in files, got 'synthetic'"):
        read_file_splits(tiny_run())


def test_available_memory_is_plausible():
    available = available_memory_bytes()
    assert available is None or 1e6 < available < 1e15
