"""Building the parts of a data set in files from its configuration, and the classes of its labels."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePosixPath

from fpl_fast.trainer.config import CityscapesData, FileData, FolderData, PublicData
from fpl_fast.trainer.config.label_map import read_label_map, show_label_map
from fpl_fast.trainer.data.advice import on_label_values, on_missing_file
from fpl_fast.trainer.data.cityscapes import CITYSCAPES, CITYSCAPES_WITH_LABEL_IDS
from fpl_fast.trainer.data.files import FileStore
from fpl_fast.trainer.data.folder import FolderDataset
from fpl_fast.trainer.data.lists import Pair, Split, fill_templates, read_list
from fpl_fast.trainer.data.pack import PackStore
from fpl_fast.trainer.data.pictures import find_pictures
from fpl_fast.trainer.data.public import PublicDataset, PublicLists
from fpl_fast.trainer.data.sample import ClassTable, index_palette
from fpl_fast.trainer.data.store import Store
from fpl_fast.trainer.data.voc import VOC

__all__ = ["class_table", "file_store", "labelled_split", "make_dataset", "unlabelled_split", "val_split"]


def labelled_split(data: FileData) -> Split:
    """Read the list of images trained on with their labels.

    Raises:
        ValueError: A list breaks its rule; as for the other parts.
    """
    if isinstance(data, PublicData):
        lists = _lists(data)
        return lists.read(data.labelled) if data.labelled else lists.labelled(_denominator(data), data.partition_seed)
    assert isinstance(data, FolderData)
    return _folder_split(data, "labelled", data.images, data.labels)


def unlabelled_split(data: FileData) -> Split:
    """Read the list of images trained on without labels."""
    if isinstance(data, PublicData):
        lists, labelled = _lists(data), labelled_split(data)
        if data.unlabelled:
            return lists.read(data.unlabelled)
        return lists.unlabelled(_denominator(data), labelled)
    assert isinstance(data, FolderData)
    return _folder_split(data, "unlabelled", data.images, data.labels)


def val_split(data: FileData) -> Split:
    """Read the list of validation images."""
    if isinstance(data, PublicData):
        return _lists(data).read(data.val or _public(data).val)
    assert isinstance(data, FolderData)
    return _folder_split(data, "val", data.val_images, data.val_labels)


def class_table(data: FileData) -> ClassTable:
    """Names and colours of the classes; no file need exist."""
    if isinstance(data, FolderData):
        return ClassTable(data.class_names or tuple(map(str, range(data.num_classes))), index_palette(data.num_classes))
    assert isinstance(data, PublicData)
    public = _public(data)
    return ClassTable(public.class_names, public.palette)


def make_dataset(data: FileData, split: Split, *, labelled: bool = True) -> FolderDataset:
    """Build the data set of a part.

    Args:
        data: The configuration that the part came from.
        split: The part.
        labelled: Whether samples carry labels.

    Raises:
        ValueError: The configuration's classes and ignored values exclude each other, or the pack does not hold the
            part.
    """
    classes = class_table(data)
    return FolderDataset(
        _store(data, split, labelled),
        split.pairs,
        labelled=labelled,
        num_classes=len(classes.names),
        ignore_index=data.ignore_index,
        label_ignore=_label_ignore(data),
        class_of_stored=_class_of_stored(data, len(classes.names)),
        where_wrong=partial(on_label_values, data),
        class_names=classes.names,
        palette=classes.palette,
    )


def _class_of_stored(data: FileData, num_classes: int) -> Mapping[int, int | None] | None:
    """Map stored label values to classes; None where each value is its own class.

    A value that ``data.label_map`` does not name keeps its meaning, unless the map gives its class to another value.
    Classes are merged, or an unlabelled 0 joined to the class that was 1, only if the map says so.
    """
    label_map = read_label_map(data.label_map)
    if not label_map:
        return _public(data).class_of_stored if isinstance(data, PublicData) else None
    if wrong := [index for index in label_map.values() if index is not None and index >= num_classes]:
        raise ValueError(
            f"data.label_map must map to classes 0 ... {num_classes - 1} or null, got {wrong[0]} in "
            f"{show_label_map(data.label_map or {})}"
        )
    taken = set(label_map.values())
    own = {index: index for index in range(num_classes) if index not in taken}
    return own | dict.fromkeys((data.ignore_index, *_label_ignore(data))) | label_map


def _label_ignore(data: FileData) -> tuple[int, ...]:
    return data.label_ignore if isinstance(data, FolderData) else ()


def file_store(data: FileData) -> FileStore:
    """Open the pictures of a data set as files."""
    if isinstance(data, PublicData):
        where_missing = _public(data).where_missing
    else:
        assert isinstance(data, FolderData)
        where_missing = partial(on_missing_file, data)
    return FileStore(Path(data.root), where_missing=where_missing)


def _store(data: FileData, split: Split, labelled: bool) -> Store:
    if data.packed is None:
        return file_store(data)
    store = PackStore(Path(data.packed), Path(data.root))
    store.require("image", (pair.image for pair in split.pairs), split.origin)
    if labelled:
        store.require("label", (pair.label for pair in split.pairs), split.origin)
    return store


def _lists(data: PublicData) -> PublicLists:
    return PublicLists(_public(data), Path(data.root), train=data.train)


def _public(data: PublicData) -> PublicDataset:
    if isinstance(data, CityscapesData):
        return CITYSCAPES_WITH_LABEL_IDS if data.label_ids else CITYSCAPES
    return VOC


def _denominator(data: PublicData) -> int:
    return int(data.partition.removeprefix("1/"))


def _folder_split(data: FolderData, part: str, images: str, labels: str) -> Split:
    name = getattr(data, part)
    if (folder := Path(data.root) / name).is_dir():
        return Split(tuple(_pictures_of(folder, name, labels)), name)
    advice = f"; --data.{part}, or --split of eval and analyze, names one, or a folder, below data.root"
    if (here := Path(name).absolute()).exists():
        advice += f"; {here} exists: give that path"
    pairs = read_list(Path(data.root) / name, Path(data.root), where_missing=advice)
    return Split(tuple(fill_templates(pairs, images, labels)), name)


def _pictures_of(folder: Path, name: str, labels: str) -> list[Pair]:
    """All images in a folder; ``{}`` of the labels stands for an image's path below the folder, without its suffix."""
    found = [PurePosixPath(picture) for picture in find_pictures(folder)]
    pairs = [Pair(str(name / picture), str(picture.with_suffix(""))) for picture in found]
    return fill_templates(pairs, "{}", labels)
