"""Choice of the labelled, unlabelled and validation images of a folder, by its lists, its folders, or a fixed draw."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from fpl_fast.trainer.data.lists import read_list
from fpl_fast.trainer.data.partition import choose_labelled
from fpl_fast.trainer.writing.counted import counted

__all__ = ["Parts", "choose_parts"]

_VAL = frozenset({"val", "valid", "validation", "dev"})
_TEST = frozenset({"test", "testing"})
_VAL_SHARE = 5  # a fifth


@dataclass(slots=True)
class Parts:
    """Images of each part, sorted, and the reason of each choice."""

    labelled: list[str] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)
    val: list[str] = field(default_factory=list)
    why: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def choose_parts(root: Path, files: Iterable[str], masks: Mapping[str, str | None], *, seed: int = 0) -> Parts:
    """Choose the parts.

    Validation images are those of a list ``val.txt`` all of whose images have masks; otherwise those with a mask in
    folders named so; otherwise a fifth of the images with masks, drawn by the hash of their names and the seed. Of
    lists such as ``labelled_1_8.txt`` and ``unlabelled_1_8.txt`` the pair with most labels is taken; otherwise training
    images with a mask are labelled and the others not. Where all have one, they serve as unlabelled ones, too.

    Args:
        root: The folder.
        files: All of its files.
        masks: Usable mask of each usable image, None without one.
        seed: Of the draw.
    """
    parts = Parts()
    lists = _lists(root, files, list(masks))
    test = [name for name in masks if _words(name) & _TEST]
    trained = [name for name in masks if name not in set(test)] or list(masks)
    test = test if len(trained) < len(masks) else []
    _choose_val(parts, masks, trained, lists, seed)
    if test:
        parts.notes.append(
            f"{counted(len(test), 'image')} in folders of test images, unseen, in no list: {test[0]}, ..."
        )
    rest = [name for name in trained if name not in set(parts.val)]
    pairs = _labelled_lists(lists, masks, rest)
    if pairs:
        name, other = max(pairs, key=lambda pair: (len(lists[pair[0]]), pair[0]))
        parts.labelled, parts.unlabelled = sorted(lists[name]), sorted(lists[other])
        parts.why["labelled"], parts.why["unlabelled"] = name, other
        if len(pairs) > 1:
            more = ", ".join(sorted(one for one, _ in pairs if one != name))
            parts.notes.append(f"{name} has the most labels of the lists here; others: {more}")
        return parts
    parts.labelled = [name for name in rest if masks[name] is not None]
    parts.unlabelled = [name for name in rest if masks[name] is None]
    parts.why["labelled"], parts.why["unlabelled"] = "the other images with masks", "the images without masks"
    if not parts.unlabelled and parts.labelled:
        parts.unlabelled = list(parts.labelled)
        parts.why["unlabelled"] = "the labelled images again, without their masks, as every image has one"
    return parts


def _choose_val(
    parts: Parts, masks: Mapping[str, str | None], trained: list[str], lists: Mapping[str, list[str]], seed: int
) -> None:
    listed = [name for name, images in lists.items() if _stem(name) in _VAL and all(masks[image] for image in images)]
    in_folders = [name for name in trained if _words(name) & _VAL and masks[name] is not None]
    with_masks = [name for name in trained if masks[name] is not None]
    if listed:
        name = min(listed, key=lambda name: ("segmentation" not in name.lower(), name.count("/"), name))
        parts.val, parts.why["val"] = sorted(set(lists[name])), name
    elif in_folders and len(in_folders) < len(with_masks):
        parts.val, parts.why["val"] = in_folders, "the images with masks in folders of validation images"
    elif len(with_masks) >= 2:
        parts.val = sorted(choose_labelled(with_masks, _VAL_SHARE, seed=seed))
        parts.why["val"] = f"a fifth of the images with masks, drawn by the hash of their names with seed {seed}"


def _labelled_lists(
    lists: Mapping[str, list[str]], masks: Mapping[str, str | None], rest: list[str]
) -> list[tuple[str, str]]:
    """Pairs of lists of labelled and unlabelled training images."""
    trained, found = set(rest), []
    for name, images in lists.items():
        other = re.sub(r"(?<![a-z])label", "unlabel", PurePosixPath(name).name.lower())
        partner = next((one for one in lists if one.lower() == str(PurePosixPath(name.lower()).with_name(other))), None)
        if partner in (None, name) or not all(image in trained and masks[image] for image in images):
            continue
        if set(lists[partner]) <= trained and not set(lists[partner]) & set(images):
            found.append((name, partner))
    return found


def _lists(root: Path, files: Iterable[str], images: list[str]) -> dict[str, list[str]]:
    """Images that each list file names; lists that name anything else are left out."""
    by_stem = defaultdict(list)
    for image in images:
        by_stem[_id(image)].append(image)
    lists = {}
    for file in files:
        if not file.lower().endswith((".txt", ".lst")):
            continue
        try:
            entries = [pair.image for pair in read_list(root / file, root)]
        except ValueError:
            continue  # a text of another kind
        found = [_find(entry, by_stem, _stem(file)) for entry in entries]
        if all(found):
            lists[file] = [image for image in found if image]
    return lists


def _find(entry: str, by_stem: Mapping[str, list[str]], hint: str) -> str | None:
    """The image that an entry names, by its whole path, its end, or its name; None where several or none would do."""
    found = by_stem.get(_id(entry), [])
    if len(found) > 1:
        end = entry.rpartition(".")[0] or entry
        ends = [image for image in found if str(PurePosixPath(image).with_suffix("")).endswith(end)]
        hinted = [image for image in found if hint in _words(image)]
        found = next((some for some in (ends, hinted) if len(some) == 1), found)
    return found[0] if len(found) == 1 else None


def _id(path: str) -> str:
    name = PurePosixPath(path).name
    for suffix in (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".tif", ".tiff", ".webp"):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
    return name.removesuffix("_leftImg8bit").lower()


def _stem(path: str) -> str:
    return PurePosixPath(path).stem.lower()


def _words(path: str) -> set[str]:
    """Words of the folders of an image."""
    words = set()
    for folder in PurePosixPath(path).parts[:-1]:
        words |= set(re.split(r"[^a-z]+", folder.lower()))
    return words
