"""PASCAL VOC 2012 with the labels of SBD: 21 classes, 10 582 training images, 1 449 validation images."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from fpl_fast.trainer.data.lists import Pair
from fpl_fast.trainer.data.public import PublicDataset
from fpl_fast.trainer.data.sample import index_palette

__all__ = ["VOC"]

_CLASS_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tv/monitor",
)  # fmt: skip


def _locate(root: Path, pairs: Sequence[Pair], list_name: str) -> list[Pair]:
    """Ids lie in the folders of the official download, or in one that the list's name tells (Chen et al. 2021)."""
    if (root / "JPEGImages").is_dir():
        images, labels = "JPEGImages", "SegmentationClassAug"
    else:
        stem = PurePosixPath(list_name).stem
        folder = "train_aug" if "train" in stem or "pseudoseg" in stem else "val"
        images, labels = f"{folder}/image", f"{folder}/label"
    return [
        pair if "/" in pair.image else Pair(f"{images}/{pair.image}.jpg", f"{labels}/{pair.label}.png")
        for pair in pairs
    ]


VOC = PublicDataset(
    class_names=_CLASS_NAMES,
    palette=index_palette(len(_CLASS_NAMES)),
    train="train_aug.txt",
    val="val.txt",
    partitions="subset_train_aug/train_aug_{}_1-{}.txt",
    locate=_locate,
    scan=lambda root, list_name: [],  # its folders hold more images than its lists
)
