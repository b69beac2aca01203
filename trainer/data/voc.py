"""PASCAL VOC 2012 with the labels of SBD: 21 classes, 10 582 training images, 1 449 validation images."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from fpl_fast.trainer.data.lists import Pair
from fpl_fast.trainer.data.public import PublicDataset, name_others
from fpl_fast.trainer.data.sample import index_palette

__all__ = ["VOC"]

_CLASS_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tv/monitor",
)  # fmt: skip


_OFFICIAL = "JPEGImages"  # a folder of the official download
_OWN, _SBD = "SegmentationClass", "SegmentationClassAug"  # its labels, of 2 913 images, and those with SBD's


def _locate(root: Path, pairs: Sequence[Pair], list_name: str) -> list[Pair]:
    """Locate ids in the folders of the official download, or in the folder of the list's name (Chen et al. 2021)."""
    if (root / _OFFICIAL).is_dir():
        images, labels = _OFFICIAL, _SBD if (root / _SBD).is_dir() else _OWN
    else:
        stem = PurePosixPath(list_name).stem
        folder = "train_aug" if "train" in stem or "pseudoseg" in stem else "val"
        images, labels = f"{folder}/image", f"{folder}/label"
    return [
        pair if "/" in pair.image else Pair(f"{images}/{pair.image}.jpg", f"{labels}/{pair.label}.png")
        for pair in pairs
    ]


def _where_no_list(root: Path) -> str:
    """Give advice on the official download, which has neither the list nor the labels of SBD."""
    if not (root / _OFFICIAL).is_dir():
        return name_others(root)
    sbd = "" if (root / _SBD).is_dir() else f" with SBD's labels, the folder {_SBD}"
    return (
        f"; it is not in the official download: add it{sbd}, or take the lists of the download, --data.train "
        "ImageSets/Segmentation/train.txt --data.val ImageSets/Segmentation/val.txt"
    )


def _where_missing(file: Path) -> str:
    """Give advice where the official download has no label of an image."""
    if file.parent.name != _OWN or file.suffix != ".png":
        return ""
    return (
        f"; SBD's labels, the folder {_SBD}, are not here: add them, or take images that the download has labels of, "
        "--data.train ImageSets/Segmentation/train.txt"
    )


VOC = PublicDataset(
    class_names=_CLASS_NAMES,
    palette=index_palette(len(_CLASS_NAMES)),
    train="train_aug.txt",
    val="val.txt",
    partitions="subset_train_aug/train_aug_{}_1-{}.txt",
    locate=_locate,
    scan=lambda root, list_name: [],  # its folders contain more images than its lists
    where_missing=_where_missing,
    where_no_list=_where_no_list,
)
