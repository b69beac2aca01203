"""Small data sets in the layouts of PASCAL VOC and Cityscapes, drawn afresh: what recipes are tested on without them.

>>> city_tree(tmp_path)  # then --data.root tmp_path, or CityscapesData(root=str(tmp_path))
"""

import math

import fresh
import numpy as np
from PIL import Image

from fpl_fast.trainer.data.cityscapes import CITYSCAPES_LABEL_IDS
from fpl_fast.trainer.data.sample import index_palette

NUM_TRAIN = 33  # parts 1/32 ... 1/2 hold 2, 3, 5, 9, 17 images
NUM_VAL = 3
VOID_LABEL_IDS = (*range(7), 9, 10, 14, 15, 16, 18, 29, 30, 255)  # of Cityscapes; 255 is the stored licence plate


def voc_tree(root, *, size=(40, 56), partitions=(16, 8, 4, 2), train_list=True, seed=None):
    """The layout and lists of CPS; images vary in size, training images in no list of labels lack them.

    Training labels are grey PNGs, validation labels have the palette: both hold indices.

    Args:
        root: Folder to fill.
        size: Largest height and width, pixels.
        partitions: Denominators that list files are written for.
        train_list: Whether train_aug.txt is written.
        seed: Of everything drawn, None for another tree each time.

    Returns:
        The ids of all training images.
    """
    rng = fresh.rng() if seed is None else np.random.default_rng(seed)
    numbers = rng.choice(10**6, NUM_TRAIN + NUM_VAL, replace=False)
    ids = [f"2099_{number:06d}" for number in numbers]
    train, val = sorted(ids[:NUM_TRAIN]), sorted(ids[NUM_TRAIN:])
    parts = _nested_parts(train, partitions, rng)
    for folder, names in (("train_aug", train), ("val", val)):
        for name in names:
            extent = tuple(int(rng.integers(side - 8, side + 1)) for side in size)
            image, label = root / folder / "image" / f"{name}.jpg", root / folder / "label" / f"{name}.png"
            _save_pair(image, label, extent, 21, rng, palette=index_palette(256) if folder == "val" else None)
    _write(root / "val.txt", val)
    if train_list:
        _write(root / "train_aug.txt", train)
    for denominator, labelled in parts.items():
        rest = [name for name in train if name not in labelled]
        _write(root / f"subset_train_aug/train_aug_labeled_1-{denominator}.txt", labelled)
        _write(root / f"subset_train_aug/train_aug_unlabeled_1-{denominator}.txt", rest)
    for name in set(train).difference(*parts.values()) if parts else ():
        (root / "train_aug" / "label" / f"{name}.png").unlink()
    return train


def city_tree(root, *, size=(40, 80), partitions=(16, 8, 4, 2), official=False, lists=True, label_ids=False, seed=None):
    """Write Cityscapes in the layout of CPS, or in the layout of the official download.

    Args:
        root: Folder to fill.
        size: Height and width of the images, pixels.
        partitions: Denominators that list files are written for.
        official: Whether files lie in leftImg8bit and gtFine.
        lists: Whether config_new and its lists are written, in the format of CPS in either layout.
        label_ids: Whether labels hold label ids, with all ids without a class among the void; otherwise train ids.
        seed: Of everything drawn, None for another tree each time.

    Returns:
        The names of all training images.
    """
    rng = fresh.rng() if seed is None else np.random.default_rng(seed)
    numbers = rng.choice(10**6, NUM_TRAIN + NUM_VAL, replace=False)
    names = [f"{rng.choice(['springfield', 'bad-hill', 'ulm'])}_{number:06d}_000019" for number in numbers]
    splits = {"train": sorted(names[:NUM_TRAIN]), "val": sorted(names[NUM_TRAIN:])}
    for split, members in splits.items():
        for name in members:
            if official:
                place = f"{split}/{name.split('_')[0]}/{name}"
                image = f"leftImg8bit/{place}_leftImg8bit.png"
                label = f"gtFine/{place}_gtFine_{'labelIds' if label_ids else 'labelTrainIds'}.png"
            else:
                image, label = f"images/{split}/{name}.png", f"segmentation/{split}/{name}_gtFine.png"
            _save_pair(root / image, root / label, size, 19, rng)
            if label_ids:
                _replace_train_ids(root / label)
    if lists:
        for split, members in splits.items():
            _write(root / f"config_new/{split}.txt", _city_lines(split, members))
        for denominator, labelled in _nested_parts(splits["train"], partitions, rng).items():
            rest = [name for name in splits["train"] if name not in labelled]
            for kind, members in (("labeled", labelled), ("unlabeled", rest)):
                path = root / f"config_new/subset_train/train_aug_{kind}_1-{denominator}.txt"
                _write(path, _city_lines("train", members))
    return splits["train"]


def _replace_train_ids(label):
    """Store the label ids in place of the train ids, and every id of no class in turn in place of void."""
    indices = np.array(Image.open(label))
    ids = np.take(np.array([*CITYSCAPES_LABEL_IDS, *[0] * 237], dtype=np.uint8), indices)
    ids[indices == 255] = np.resize(VOID_LABEL_IDS, (indices == 255).sum())
    Image.fromarray(ids).save(label)


def _nested_parts(names, denominators, rng):
    """Labelled parts by denominator, the smaller ones inside the larger ones but not at their beginning."""
    order = rng.permutation(names)
    return {d: rng.permutation(order[: math.ceil(len(names) / d)]).tolist() for d in denominators}


def _city_lines(split, names):
    return [f"/images/{split}/{name}.png\t/segmentation/{split}/{name}_gtFine.png" for name in names]


def _write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def _save_pair(image, label, size, num_classes, rng, palette=None):
    """Patches of a few classes with void between them; the picture shows the class as its brightness."""
    classes = rng.integers(num_classes, size=(3, 4), dtype=np.uint8)
    rows, columns = (np.arange(side) * cells // side for side, cells in zip(size, classes.shape, strict=True))
    indices = classes[np.ix_(rows, columns)]
    pixels = indices[..., None] * (200 // num_classes) + rng.integers(40, size=(*size, 3))
    indices[:, columns != np.roll(columns, 1)] = 255
    marked = Image.fromarray(indices)
    if palette is not None:
        marked.putpalette([channel for color in palette for channel in color])
    for path, picture in ((image, Image.fromarray(pixels.astype(np.uint8))), (label, marked)):
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
