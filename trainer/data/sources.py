"""From the configuration of a data set in files to the parts of it, and what its labels mean."""

from pathlib import Path

from fpl_fast.trainer.config import CityscapesData, FileData, FolderData, PublicData, VocData
from fpl_fast.trainer.data.cityscapes import CITYSCAPES
from fpl_fast.trainer.data.files import FileStore
from fpl_fast.trainer.data.folder import FolderDataset, Store
from fpl_fast.trainer.data.lists import Split, fill_templates, read_list
from fpl_fast.trainer.data.pack import PackStore
from fpl_fast.trainer.data.public import PublicLists
from fpl_fast.trainer.data.voc import VOC

__all__ = ["labelled_split", "make_dataset", "unlabelled_split", "val_split"]

_PUBLIC = {VocData: VOC, CityscapesData: CITYSCAPES}


def labelled_split(data: FileData) -> Split:
    """The images trained on with their labels.

    Raises:
        ValueError: A list breaks its rule; as for the other parts.
    """
    if isinstance(data, PublicData):
        lists = _lists(data)
        return lists.read(data.labelled) if data.labelled else lists.labelled(_denominator(data), data.partition_seed)
    return _folder_split(data, data.labelled, data.images, data.labels)


def unlabelled_split(data: FileData) -> Split:
    """The images trained on without labels."""
    if isinstance(data, PublicData):
        lists, labelled = _lists(data), labelled_split(data)
        if data.unlabelled:
            return lists.read(data.unlabelled)
        return lists.unlabelled(_denominator(data), labelled)
    return _folder_split(data, data.unlabelled, data.images, data.labels)


def val_split(data: FileData) -> Split:
    """The images evaluated on."""
    if isinstance(data, PublicData):
        return _lists(data).read(data.val or _PUBLIC[type(data)].val)
    return _folder_split(data, data.val, data.val_images, data.val_labels)


def make_dataset(data: FileData, split: Split, *, labelled: bool = True) -> FolderDataset:
    """The samples of a part.

    Args:
        data: The configuration that the part came from.
        split: The part.
        labelled: Whether samples carry labels.

    Raises:
        ValueError: The configuration's classes and ignored values exclude each other, or the pack does not hold the
            part.
    """
    if isinstance(data, FolderData):
        classes = {
            "num_classes": data.num_classes,
            "label_ignore": data.label_ignore,
            "class_names": data.class_names,
        }
    else:
        public = _PUBLIC[type(data)]
        classes = {
            "num_classes": len(public.class_names),
            "class_names": public.class_names,
            "palette": public.palette,
        }
    store = _store(data, split, labelled)
    return FolderDataset(store, split.pairs, labelled=labelled, ignore_index=data.ignore_index, **classes)


def _store(data: FileData, split: Split, labelled: bool) -> Store:
    if data.packed is None:
        return FileStore(Path(data.root))
    store = PackStore(Path(data.packed), Path(data.root))
    store.require("image", (pair.image for pair in split.pairs), split.origin)
    if labelled:
        store.require("label", (pair.label for pair in split.pairs), split.origin)
    return store


def _lists(data: PublicData) -> PublicLists:
    return PublicLists(_PUBLIC[type(data)], Path(data.root), train=data.train)


def _denominator(data: PublicData) -> int:
    return int(data.partition.removeprefix("1/"))


def _folder_split(data: FolderData, name: str, images: str, labels: str) -> Split:
    pairs = fill_templates(read_list(Path(data.root) / name), images, labels)
    return Split(tuple(pairs), name)
