"""The kinds of data sets."""

from typing import ClassVar, Literal

from fpl_fast.trainer.config.label_map import LabelMap, read_label_map
from fpl_fast.trainer.config.rules import config_class, require
from fpl_fast.trainer.writing.printable import printable

__all__ = [
    "DATA_KINDS",
    "CityscapesData",
    "DataConfig",
    "FileData",
    "FolderData",
    "PublicData",
    "SyntheticData",
    "VocData",
]


@config_class
class DataConfig:
    """Settings of every data set: the colours that normalise it."""

    mean: tuple[float, float, float] | None = None
    """Mean of red, green and blue, in units of full scale; null is the mean that the weights of the backbone were
    trained with, or ImageNet's for random weights. A run stores its numbers."""
    std: tuple[float, float, float] | None = None
    """Standard deviation of red, green and blue, in units of full scale; null as for the mean."""

    def __post_init__(self) -> None:
        require(self.std is None or min(self.std) > 0, "data.std", "> 0", self.std)


@config_class
class SyntheticData(DataConfig):
    """Procedurally drawn street scenes: nothing to download, the same pictures for the same seed on any machine."""

    ignore_index: ClassVar[int] = 255
    """Label value of void pixels, as they are drawn."""
    kind: Literal["synthetic"] = "synthetic"
    """Names the kind of data set; fixed by the recipe."""
    num_labelled: int = 6
    """Images trained on with their labels."""
    num_unlabelled: int = 400
    """Further images trained on without labels."""
    num_val: int = 100
    """Images evaluated on."""
    size: tuple[int, int] = (64, 96)
    """Height and width of the images, pixels."""
    seed: int = 0
    """Seed of the scenes; another seed is another data set."""
    view: Literal["far", "near"] = "far"
    """far: eleven classes, down to posts, signs and cyclists a pixel or two wide; near: eight that a tiny network can
    learn, things nearer and more people. The recipes take near; runs from before there was a choice have far."""

    def __post_init__(self) -> None:
        DataConfig.__post_init__(self)
        for name in ("num_labelled", "num_unlabelled", "num_val"):
            require(getattr(self, name) >= 1, f"data.{name}", ">= 1", getattr(self, name))
        require(min(self.size) >= 32, "data.size", ">= 32 pixels on either side", self.size)
        require(self.seed >= 0, "data.seed", ">= 0", self.seed)


@config_class
class FileData(DataConfig):
    """Settings of data sets of images, 8-bit index PNGs and list files."""

    root: str = "data"
    """Folder that all other paths of the data set start from."""
    packed: str | None = None
    """Folder of decoded pictures, written by fpl-fast data pack and read by training; null decodes the files."""
    check: bool = True
    """Whether every picture is read before a run begins, so that a bad one is known at once."""
    skip_damaged: bool = False
    """Whether the next readable image of its list takes the place of a training image whose file, or whose label's, is
    damaged: each is logged once, and counted in replaced_images. Otherwise it stops the run."""
    ignore_index: int = 255
    """Label value of pixels that no loss and no metric counts."""
    label_map: LabelMap | None = None
    """Class of each value in the label files that differs from its class, null for no label: {0: null, 1-150: 0-149}
    where 0 is void, {255: 1} for masks of 0 and 255."""

    def __post_init__(self) -> None:
        DataConfig.__post_init__(self)
        require(0 <= self.ignore_index <= 255, "data.ignore_index", "in [0, 255]", self.ignore_index)
        read_label_map(self.label_map)


@config_class
class FolderData(FileData):
    """Images, index-PNG labels and list files in a folder; unlabelled images need no label files.

    A folder may stand in place of a list file, for all images in it: {} of the labels then stands for the path of an
    image below that folder, without suffix.
    """

    kind: Literal["folder"] = "folder"
    """Names the kind of data set; fixed by the recipe."""
    images: str = "images/train/{}.jpg"
    """Path of a training image; {} stands for its entry in the list file ("{}" where lists hold whole paths)."""
    labels: str = "labels/train/{}.png"
    """Path of a training label, an 8-bit index PNG of the image's size."""
    labelled: str = "lists/labelled.txt"
    """List file, or folder, of the images trained on with their labels."""
    unlabelled: str = "lists/unlabelled.txt"
    """List file, or folder, of the images trained on without labels."""
    val_images: str = "images/val/{}.jpg"
    """Path of a validation image."""
    val_labels: str = "labels/val/{}.png"
    """Path of a validation label."""
    val: str = "lists/val.txt"
    """List file, or folder, of the validation images."""
    num_classes: int = 11
    """Number of classes; labels run from 0 to num_classes - 1."""
    label_ignore: tuple[int, ...] = ()
    """Label values in the files, besides ignore_index, that mean "no label"."""
    class_names: tuple[str, ...] = ()
    """Names of the classes in order, for reports; empty means "0", "1", ..."""

    def __post_init__(self) -> None:
        FileData.__post_init__(self)
        require(2 <= self.num_classes <= 255, "data.num_classes", "in [2, 255]", self.num_classes)
        require(
            len(self.class_names) in (0, self.num_classes),
            "data.class_names",
            f"empty or {self.num_classes} names",
            self.class_names,
        )
        require(
            all(printable(name) == name for name in self.class_names),
            "data.class_names",
            "names without control characters",
            self.class_names,
        )
        twice = sorted(read_label_map(self.label_map).keys() & set(self.label_ignore))
        require(not twice, "data.label_map", "without the values of data.label_ignore (null means no label)", twice)


@config_class
class PublicData(FileData):
    """A public data set whose training images are partly labelled: list files of the public names, or chosen."""

    partition: Literal["1/32", "1/16", "1/8", "1/4", "1/2"] = "1/8"
    """Part of the training images that is labelled. Its list file is read where there is one; otherwise the images
    are chosen by name, the smaller parts inside the larger ones."""
    partition_seed: int = 0
    """Seed of that choice; list files do not depend on it."""
    train: str | None = None
    """List file of all training images; null takes the public name."""
    labelled: str | None = None
    """List file of the images trained on with their labels, instead of a partition."""
    unlabelled: str | None = None
    """List file of the images trained on without labels; null takes the rest of the training images."""
    val: str | None = None
    """List file of the validation images; null takes the public name."""


@config_class
class VocData(PublicData):
    """PASCAL VOC 2012 with SBD's labels: train_aug and val; or the official JPEGImages and SegmentationClassAug."""

    kind: Literal["voc"] = "voc"
    """Names the kind of data set; fixed by the recipe."""
    root: str = "data/pascal_voc"
    """Folder that all other paths of the data set start from."""


@config_class
class CityscapesData(PublicData):
    """Cityscapes: images/SPLIT, segmentation/SPLIT and config_new; or the official leftImg8bit and gtFine."""

    kind: Literal["city"] = "city"
    """Names the kind of data set; fixed by the recipe."""
    root: str = "data/city"
    """Folder that all other paths of the data set start from."""
    label_ids: bool = False
    """Whether label files hold the data set's label ids (7 is road), as downloaded, instead of train ids (0 is road).
    In the official layout NAME_gtFine_labelIds.png is read then."""

    def __post_init__(self) -> None:
        PublicData.__post_init__(self)
        alone = not (self.label_ids and self.label_map)
        require(alone, "data.label_map", "null with data.label_ids true, which is a map itself", self.label_map)


DATA_KINDS: dict[str, type[DataConfig]] = {
    "synthetic": SyntheticData,
    "folder": FolderData,
    "voc": VocData,
    "city": CityscapesData,
}
"""Class of each ``data.kind``."""
