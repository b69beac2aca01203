"""Which files are images, which are masks, and which belong together, by the names that data sets usually have."""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from fpl_fast.trainer.data.pictures import IMAGE_SUFFIXES

__all__ = ["Pairing", "pair_up", "place_of_mask"]

_MASK_WORDS = {
    "annot", "annotation", "annotations", "annots", "gt", "gtcoarse", "gtfine", "groundtruth", "groundtruths", "label",
    "labels", "mask", "masks", "seg", "segmentation", "segmentationclass", "segmentationclassaug", "segmentations",
    "target", "targets",
}  # fmt: skip
_IMAGE_WORDS = {
    "frames", "image", "images", "img", "imgs", "input", "inputs", "jpegimages", "leftimg8bit", "photo", "photos",
    "picture", "pictures", "raw", "rgb",
}  # fmt: skip
_OTHER_WORDS = {
    "depth", "disparity", "instance", "instances", "panoptic", "segmentationclassvisualization", "segmentationobject",
    "segmentationobjectvisualization",
}  # fmt: skip
_MASK_ENDING = re.compile(
    r"[_\-. ](?:gt(?:fine|coarse)(?:_label(?:train)?ids)?|labelids|labeltrainids|gt|l|label|labels|mask|masks|seg|"
    r"segmentation|annotation|annot|groundtruth)$",
    re.IGNORECASE,
)
_IMAGE_ENDING = re.compile(r"[_\-. ](?:leftimg8bit|image|img|rgb|photo|sat)$", re.IGNORECASE)
_OTHER_ENDING = re.compile(
    r"[_\-. ](?:color|colour|instanceids|instance|panoptic|overlay|disparity|depth)$", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Pairing:
    """Images and masks of a folder, as paths below it."""

    masks: Mapping[str, str | None]
    """Mask of each image, in the order of the images; None where there is none."""
    lonely: tuple[str, ...]
    """Masks without an image."""
    passed_over: tuple[str, ...]
    """Pictures that are neither: instances, depth, colours for viewing, further masks of an image."""


def pair_up(files: Iterable[str], is_index: Callable[[str], bool]) -> Pairing:
    """Tell masks from images and join them.

    A folder says what its pictures are (``images``, ``gtFine``, ``train_labels``), the deepest one that does; elsewhere
    the end of a name does (``x_mask.png``), if there is an ``x`` too; elsewhere, of two pictures that differ in suffix
    or folder alone, the one that holds indices is the mask. An image and a mask belong together if they agree in name,
    without such words, and in the folders, without such words: or, where folders differ, if no other has that name.

    Args:
        files: Paths of all pictures.
        is_index: Whether a picture is a grey or palette PNG.
    """
    names = [name for name in files if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES]
    roles = {name: _role(name) for name in names}
    images = {name for name in names if roles[name] == "image"}
    masks = {name for name in names if roles[name] == "mask"}
    open_names = [name for name in names if roles[name] == "?"]
    stems = {_IMAGE_ENDING.sub("", PurePosixPath(name).stem.lower()) for name in [*open_names, *images]}
    for name in open_names:
        stem = PurePosixPath(name).stem.lower()
        if _MASK_ENDING.sub("", stem) in stems - {stem}:
            masks.add(name)
    of_key = defaultdict(list)
    for name in open_names:
        if name not in masks:
            of_key[PurePosixPath(name).stem.lower()].append(name)
    for group in of_key.values():
        index = [name for name in group if len(group) > 1 and is_index(name)]
        masks.update(index if len(index) < len(group) else ())
    images.update(name for name in open_names if name not in masks)
    others = {name for name in names if roles[name] == "other"}
    return _join(sorted(images), sorted(masks), others)


def place_of_mask(image: str) -> str:
    """Choose a path for the mask of an image, where ``pair_up`` finds it.

    Example:
        >>> place_of_mask("photos/rome/a.jpg")
        'labels/rome/a.png'
    """
    path = PurePosixPath(image).with_suffix(".png")
    named = [part for part in path.parts[:-1] if _words(part) & _IMAGE_WORDS]
    return str(PurePosixPath("labels", *(part for part in path.parts if part not in named)))


def _join(images: list[str], masks: list[str], others: set[str]) -> Pairing:
    """Join images and masks: by whole names before shortened ones, and within agreeing folders before elsewhere."""
    sizes = Counter(map(_folder, masks))
    matches: dict[str, list[str]] = {}
    used: set[str] = set()
    for folders, (of_image, of_mask) in itertools.product(
        (True, False), itertools.product((None, _IMAGE_ENDING), (None, _MASK_ENDING))
    ):
        by_key = defaultdict(list)
        for name in masks:
            if name not in used:
                by_key[_key(name, of_mask, folders)].append(name)
        keys = {name: _key(name, of_image, folders) for name in images}
        shared = Counter(keys.values())
        for name, key in keys.items():
            if name not in matches and key in by_key and (folders or shared[key] == 1):
                matches[name] = by_key[key]
                used.update(by_key[key])

    def best(found: list[str]) -> str:
        return min(found, key=lambda mask: (*_preference(mask), -sizes[_folder(mask)], mask))

    chosen = {name: best(matches[name]) if name in matches else None for name in images}
    passed_over = others | (used - set(chosen.values()))
    return Pairing(chosen, tuple(name for name in masks if name not in used), tuple(sorted(passed_over)))


def _role(name: str) -> str:
    """Find the role of a picture: image, mask, other, or ? where only its neighbours tell."""
    path = PurePosixPath(name)
    if _OTHER_ENDING.search(path.stem):
        return "other"
    for folder in reversed(path.parts[:-1]):
        words = _words(folder)
        for kind, known in (("other", _OTHER_WORDS), ("mask", _MASK_WORDS), ("image", _IMAGE_WORDS)):
            if words & known:
                return kind
    return "?"


def _words(folder: str) -> set[str]:
    """Words of a folder's name; those of CamVid's, ``trainannot`` and ``LabeledApproved``, are of two."""
    words = {word for word in re.split(r"[^a-z0-9]+", folder.lower()) if word}
    glued = {"annot" for word in words if re.fullmatch(r"(?:train|val|test)annot", word)}
    return words | glued | {"label" for word in words if word == "labeledapproved"}


def _folder(name: str) -> str:
    return str(PurePosixPath(name).parent)


def _key(name: str, ending: re.Pattern[str] | None, folders: bool) -> tuple[tuple[str, ...], str]:
    """Folders and stem of a picture in lower case, without the words that tell images from masks, as far as asked."""
    path = PurePosixPath(name)
    rest = []
    for folder in path.parts[:-1] if folders else ():
        words = re.split(r"[^a-z0-9]+", re.sub("^(train|val|test)annot$", r"\1", folder.lower()))
        rest.append("_".join(word for word in words if word not in _MASK_WORDS | _IMAGE_WORDS))
    stem = path.stem.lower()
    return tuple(filter(None, rest)), stem if ending is None else ending.sub("", stem)


def _preference(mask: str) -> tuple[bool, bool]:
    """Train ids before label ids, fine masks before coarse ones."""
    return "labelids" in mask.lower(), "coarse" in mask.lower()
