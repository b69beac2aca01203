import pytest

from fpl_fast.trainer.own_data.classes import Names, choose_classes, find_names

MASKS = ["labels/a.png"]


def named(*names, first=0):
    return Names(dict(enumerate(names, start=first)), "classes.txt")


def choose(values, names=None, masks=MASKS):
    return choose_classes(list(values), names, masks)


def settings(classes):
    return classes.num_classes, classes.names, classes.label_ignore, classes.label_map


@pytest.mark.parametrize(
    ("values", "names", "expected"),
    [
        # without names: 255 is no label, all others are classes
        ([0, 1, 2], None, (3, ("class_0", "class_1", "class_2"), (), None)),
        ([0, 2, 255], None, (3, ("class_0", "class_1", "class_2"), (), None)),  # class 1 may be in another mask
        ([1, 2, 3], None, (3, ("class_0", "class_1", "class_2"), (), {1: 0, 2: 1, 3: 2})),
        ([0, 127, 254], None, (3, ("class_0", "class_1", "class_2"), (), {0: 0, 127: 1, 254: 2})),
        # masks of 0 and 255 are of two classes
        ([0, 255], None, (2, ("class_0", "class_1"), (), {255: 1})),
        ([0, 255], named("ground", "roof"), (2, ("ground", "roof"), (), {255: 1})),
        # a value that is named void, or that has no name, is no label
        ([0, 1, 2], named("sky", "road", "void"), (2, ("sky", "road"), (2,), None)),
        ([0, 1, 2], named("sky", "road"), (2, ("sky", "road"), (2,), None)),
        ([0, 1, 255], named("sky", "road", "tree"), (3, ("sky", "road", "tree"), (), None)),
        ([0, 1, 2], named("void", "wall", "floor"), (2, ("wall", "floor"), (), {1: 0, 2: 1, 0: None})),
        ([0, 1, 2], named("wall", "floor", first=1), (2, ("wall", "floor"), (), {1: 0, 2: 1, 0: None})),
        # where 255 is no label, one value more than names is the background
        ([0, 1, 2, 255], named("cat", "dog"), (3, ("background", "cat", "dog"), (), None)),
        ([0, 1, 2, 255], named("_background_", "dog"), (2, ("_background_", "dog"), (2,), None)),
        # names that are too few for the values are none
        ([0, 1, 2, 3], named("sky", "road"), (4, ("class_0", "class_1", "class_2", "class_3"), (), None)),
    ],
)
def test_choices(values, names, expected):
    classes = choose(values, names)
    assert settings(classes) == expected
    assert classes.why["num_classes"]


def test_what_is_no_label_is_said():
    assert "11 has no name there" in choose(range(12), named(*"abcdefghijk")).why["ignored"]
    assert "2 is 'void' there" in choose(range(3), named("sky", "road", "void")).why["ignored"]
    assert "if 11 does, set num_classes to 11" in choose(range(12)).why["ignored"]
    assert (
        "if 0 does, set num_classes to 11, drop its name, and set label_map to {0: null, 1-11: 0-10}"
        in (choose(range(12)).why["ignored"])
    )
    assert "ignored" not in choose([0, 1, 255]).why
    assert "ignored" not in choose([0, 1]).why  # two classes are the fewest
    assert "254: null" in choose([0, 127, 254]).why["ignored"]


def test_public_data_sets_are_known_by_their_names():
    ids = choose([0, 7, 8, 33], masks=["gtFine/train/ulm/ulm_1_gtFine_labelIds.png"])
    assert (ids.num_classes, ids.names[0], ids.label_map[7], ids.label_map[0]) == (19, "road", 0, None)
    train_ids = choose([0, 18, 255], masks=["gtFine/x_gtFine_labelTrainIds.png"])
    assert train_ids.names[0] == "road"
    voc = choose([0, 20, 255], masks=["VOC2012/SegmentationClass/2007_000032.png"])
    assert (voc.num_classes, voc.names[15], voc.label_map) == (21, "person", None)
    for classes, name in ((ids, "Cityscapes"), (train_ids, "Cityscapes"), (voc, "PASCAL VOC")):
        assert f"recognised as {name}" in classes.why["num_classes"] and name in classes.why["class_names"]
    assert choose(range(30), masks=["SegmentationClass/2007_000032.png"]).names[0] == "class_0"  # of something else


@pytest.mark.parametrize(
    "mask",
    ["SegmentationClass/2007_000032.png", "gtFine/a_gtFine_labelTrainIds.png", "gtFine/a_gtFine_labelIds.png"],
)
def test_names_of_the_user_go_before_a_public_data_set(mask):
    names = named("_background_", "cell", "nucleus", "debris")
    classes = choose([0, 1, 2, 3, 255], names, [mask])
    assert settings(classes) == (4, tuple(names.of_value.values()), (), None)
    few = choose([0, 1, 2, 3, 11, 255], named("sky", "road"), [mask])  # names that do not fit the values are none
    assert few.num_classes in (19, 21)


def test_a_folder_of_vocs_name_alone_is_not_voc():
    """labelme, CVAT and others export any classes in its layout."""
    for mask in ("SegmentationClass/a.png", "SegmentationClass/000032.png", "labels/2007_000032.png"):
        assert choose([0, 1, 2, 3, 255], masks=[mask]).num_classes == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            range(256),
            r"hold class indices, got 256 different values \(0-255\), which seem to be grey levels",
        ),
        ([0], "masks must hold two classes or more, got the values 0 alone"),
        ([1, 255], "masks must hold two classes or more, got the values 1, 255 alone"),
        ([255], "masks must hold two classes or more, got the values 255 alone"),
    ],
)
def test_what_cannot_be_classes_is_one_line(values, message):
    with pytest.raises(ValueError, match=message) as error:
        choose(values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("classes.txt", "sky\nroad\n", {0: "sky", 1: "road"}),
        ("labels.txt", "\ufeff# classes\r\n0 sky\r\n1: road sign\r\n\r\n", {0: "sky", 1: "road sign"}),
        ("class_names.txt", "1,wall\n2,floor\n", {1: "wall", 2: "floor"}),
        ("class_names.txt", "_background_\ncell\n", {0: "_background_", 1: "cell"}),  # labelme's export, its labels
        ("labels.txt", "__ignore__\n_background_\ncell\n", {0: "_background_", 1: "cell"}),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nground:0,0,0::\ncat:1,2,3::\n", {0: "ground", 1: "cat"}),
        ("_classes.csv", "Pixel Value, Class\n0, ground\n1, roof\n", {0: "ground", 1: "roof"}),
        ("classes.json", '["sky", "road"]', {0: "sky", 1: "road"}),
        ("labels.json", '{"0": "sky", "11": "void"}', {0: "sky", 11: "void"}),
        ("labels.json", '{"shapes": []}', None),
        ("labels.json", "not json", None),
        ("labels.json", "[" * 60_000, None),
        ("names.txt", f"{'9' * 5000} sky\n1 road\n", None),
        ("classes.txt", "one\n", None),
        ("classes.txt", "0 sky\n0 road\n", None),
        ("train.txt", "a\nb\n", None),  # a list of images
        ("README.md", "# Data\n\nClasses: 0 sky, 1 tree, 2 road; 3 = void (ignore). 300 images.\n",
         {0: "sky", 1: "tree", 2: "road", 3: "void"}),
        ("README.md", "300 images, 1 camera; 0 sky, 1 tree.\n", None),
    ],
)  # fmt: skip
def test_names_in_files(tmp_path, file, text, expected):
    (tmp_path / file).write_bytes(text.encode())
    found = find_names(tmp_path, [file])
    assert (found and found.of_value) == expected
    assert found is None or found.origin == file


def test_a_list_of_images_is_none_of_classes(tmp_path):
    for text in ("a\nb\n", "labels/a.png\nlabels/b.png\n", "0 a\n1 b\n"):
        (tmp_path / "labels.txt").write_text(text)
        assert find_names(tmp_path, ["labels.txt", "images/a.jpg"]) is None


def test_a_list_of_names_comes_before_a_readme(tmp_path):
    (tmp_path / "README").write_text("0 a, 1 b, 2 c")
    (tmp_path / "classes.txt").write_text("sky\nroad")
    assert find_names(tmp_path, ["README", "classes.txt"]).origin == "classes.txt"
    (tmp_path / "classes.txt").write_bytes(b"\xff\xfe\xfa")
    assert find_names(tmp_path, ["README", "classes.txt"]).origin == "README"
