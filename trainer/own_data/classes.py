"""Classes of the masks of a folder: their number, names and stored values, and the values that mean no label."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fpl_fast.trainer.config.label_map import LabelMap
from fpl_fast.trainer.data.cityscapes import CITYSCAPES, CITYSCAPES_WITH_LABEL_IDS
from fpl_fast.trainer.data.pictures import IMAGE_SUFFIXES
from fpl_fast.trainer.data.sample import value_ranges
from fpl_fast.trainer.data.voc import VOC

__all__ = ["Classes", "Names", "choose_classes", "find_names"]

_NAME_FILES = re.compile(
    r"_?(?:class|label|category)(?:es|s|_?names|_?map|_?list)?|categories|names|obj", re.IGNORECASE
)
_NO_LABEL = {
    "void", "ignore", "ignored", "unlabeled", "unlabelled", "unlabel", "unknown", "undefined", "nolabel", "none",
}  # fmt: skip
_VOC_MASK = re.compile(r"(?:.*/)?SegmentationClass(?:Aug)?/20\d\d_\d{6}\.png")  # 2007_000032: of VOC 2012 and SBD
_MOST = 200  # more values than that are grey levels


@dataclass(frozen=True, slots=True)
class Names:
    """Names of stored values, and where they come from."""

    of_value: dict[int, str]
    origin: str


@dataclass(frozen=True, slots=True)
class Classes:
    """Settings of the data set, each with its reason."""

    num_classes: int
    names: tuple[str, ...]
    label_ignore: tuple[int, ...]
    label_map: LabelMap | None
    why: dict[str, str]
    """Reason of each of these settings."""


def find_names(root: Path, files: Iterable[str]) -> Names | None:
    """Find names of the stored values in a file: a list of classes, otherwise a line of a README.

    ``classes.txt``, ``labels.txt`` and their like hold a name a line, with its value before it or not, or CVAT's
    ``name:colour:...``; ``.csv`` (Roboflow) values and names below a title; ``.json`` a list, or names by value. A
    README may have a line such as "0 sky, 1 building, ...". A list that names an image is none of classes.
    """
    files = list(files)
    images = {PurePosixPath(file).stem for file in files if PurePosixPath(file).suffix.lower() in IMAGE_SUFFIXES}
    texts = [
        file for file in files if PurePosixPath(file).suffix.lower() in (".txt", ".csv", ".json", ".names", ".md", "")
    ]
    texts.sort(key=lambda file: (file.count("/"), file))
    for file in texts:
        path = PurePosixPath(file)
        named = bool(path.suffix) and _NAME_FILES.fullmatch(path.stem)
        found = _read_names(_text(root / file), path.suffix.lower()) if named else {}
        if found and not images & {PurePosixPath(name).stem for name in found.values()}:
            return Names(found, file)
    for file in texts:
        if PurePosixPath(file).stem.lower() == "readme" and (found := _enumerated(_text(root / file))):
            return Names(found, file)
    return None


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(1 << 16).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return ""


def _read_names(text: str, suffix: str) -> dict[int, str]:
    """Read the file of names; empty where it is none."""
    if suffix == ".json":
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            return {}
        if isinstance(content, list):
            content = dict(enumerate(content))
        entries = [(str(value), name) for value, name in content.items()] if isinstance(content, dict) else []
    else:
        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
        lines = lines[suffix == ".csv" :]
        numbered = [re.fullmatch(r"(\d+)[\s:=,;\t]+(.+)", line) for line in lines]
        if lines and all(numbered):
            entries = [(found[1], found[2]) for found in numbered if found]
        else:
            lines = lines[lines[:1] == ["__ignore__"] :]  # labelme's name of -1, which masks store as 255
            entries = [(str(value), re.split(r":|,", line)[0]) for value, line in enumerate(lines)]
    sound = all(
        value.isdecimal() and len(value) < 10 and isinstance(name, str) and name.strip() for value, name in entries
    )
    values = {int(value): str(name).strip() for value, name in entries} if sound else {}
    return values if 2 <= len(values) <= 256 and len(set(values)) == len(entries) and max(values) <= 255 else {}


def _enumerated(text: str) -> dict[int, str]:
    """Find "0 sky, 1 building, ..." in a line, and "11 = void" anywhere."""
    names: dict[int, str] = {}
    for line in text.splitlines():
        found = re.findall(r"\b(\d{1,3})\s*[:=]?\s*([A-Za-z][\w/ -]*?)\s*(?=[,;.()]|$)", line)
        values = [int(value) for value, _ in found]
        run = next((n for n, value in enumerate(values) if value != n), len(values))
        if run >= 3 and run > len(names):
            names = {int(value): name for value, name in found[:run]}
    return names


def choose_classes(values: Sequence[int], names: Names | None, masks: Iterable[str]) -> Classes:
    """Choose the classes of masks.

    Args:
        values: All values that the masks hold, ascending.
        names: Names of values, if a file has them.
        masks: Paths of the masks; without names that fit the values, some tell of a public data set.

    Raises:
        ValueError: The values cannot be classes.
    """
    shown = value_ranges(values, limit=8)
    if len(values) > _MOST:
        raise ValueError(
            f"masks must hold class indices, got {len(values)} different values ({shown}), which seem to be grey "
            "levels of smoothing or JPEG: export masks of indices"
        )
    known = [value for value in values if value != 255]
    named = names is not None and max(known, default=0) <= max(names.of_value) + 1
    if not named and (public := _public(values, list(masks))):
        return public
    if values == [0, 255] and (names is None or len(names.of_value) == 2):
        found = tuple(names.of_value.values()) if names else ("class_0", "class_1")
        return Classes(2, found, (), {255: 1}, {
            "num_classes": "the masks hold 0 and 255 alone: two classes, background and object",
            "class_names": f"from {names.origin}" if names else "no file names them",
            "label_map": "255 is the second class here, not \"no label\"",
        })  # fmt: skip
    if names is not None and named:
        return _named(values, known, names)
    why = "" if names is None else f"; {names.origin} names {len(names.of_value)}, too few for them"
    return _unnamed(values, known, why)


def _public(values: Sequence[int], masks: Sequence[str]) -> Classes | None:
    """Classes of Cityscapes or PASCAL VOC, if the names of the masks tell and all values fit.

    The endings are those of Cityscapes' own tools. The folder of VOC is that of every tool that exports in its format,
    so that files must have its names, too.
    """
    if masks and all(mask.endswith("_labelIds.png") for mask in masks):
        table = CITYSCAPES_WITH_LABEL_IDS.class_of_stored or {}
        if all(value in table for value in values):
            label_map: LabelMap = {value: table[value] for value in sorted(table)}
            return Classes(19, CITYSCAPES.class_names, (), label_map, {
                "num_classes": "recognised as Cityscapes: files named ..._labelIds.png hold its label ids",
                "class_names": "those of Cityscapes",
                "label_map": "the train id of each label id of Cityscapes; the others mean no label",
            })  # fmt: skip
    for name, data, fits, what in (
        ("Cityscapes", CITYSCAPES, lambda mask: mask.endswith("_labelTrainIds.png"), "..._labelTrainIds.png"),
        ("PASCAL VOC", VOC, _VOC_MASK.fullmatch, "SegmentationClass/2007_000032.png and its like"),
    ):
        if masks and all(map(fits, masks)) and set(values) <= {*range(len(data.class_names)), 255}:
            return Classes(len(data.class_names), data.class_names, (), None, {
                "num_classes": f"recognised as {name}: files named {what}, and no value that it lacks; to name classes "
                "of your own, write them to classes.txt",
                "class_names": f"those of {name}",
            })  # fmt: skip
    return None


def _named(values: Sequence[int], known: Sequence[int], names: Names) -> Classes:
    """Classes of values that a file names; what is named void, and what is behind the names, is no label."""
    if (
        255 in values
        and list(known) == list(range(len(names.of_value) + 1))
        and not any("background" in _words(name) for name in names.of_value.values())
    ):
        # No label has its own value, so that the value too many is the background, which such files leave out.
        names = Names({0: "background"} | {value + 1: name for value, name in names.of_value.items()}, names.origin)
    void = [value for value, name in names.of_value.items() if _words(name) & _NO_LABEL]
    classes = [value for value in sorted(names.of_value) if value not in void and value != 255]
    no_label = sorted({*void, *(value for value in known if value not in names.of_value)} - {255})
    _require_two(classes, values)
    reason = f"{names.origin} names {len(classes)} classes"
    why = {"num_classes": reason, "class_names": f"from {names.origin}"}
    if no_label:
        named = [f"{value} is {names.of_value[value]!r} there" for value in no_label if value in names.of_value]
        others = [f"{value} has no name there" for value in no_label if value not in names.of_value]
        why["ignored"] = "; ".join([*named, *others])
    label_map: LabelMap | None = None
    if classes != list(range(len(classes))):
        label_map = {value: classes.index(value) if value in classes else None for value in [*classes, *no_label]}
        why["label_map"] = f"classes are numbered from 0; the values come from {names.origin}"
        no_label = []
    return Classes(len(classes), tuple(names.of_value[v] for v in classes), tuple(no_label), label_map, why)


def _unnamed(values: Sequence[int], known: Sequence[int], note: str) -> Classes:
    """Classes by their values alone, numbered through where 0 is missing or more than half would be empty."""
    highest = max(known, default=0)
    label_map: LabelMap | None = None
    _require_two(known, values)
    if 0 in known and 2 * len(known) > highest:
        number = highest + 1
        why = {"num_classes": f"the masks hold the values {value_ranges(known)}{note}"}
    else:
        number = len(known)
        label_map = {value: index for index, value in enumerate(known)}
        why = {
            "num_classes": f"the masks hold {len(known)} values{note}",
            "label_map": f"the values {value_ranges(known, limit=8)} are numbered from 0",
        }
    why["class_names"] = "no file names them: write the names here"
    if 255 not in values and number > 2:
        how = f"label_ignore to [{highest}]" if label_map is None else f"it to null in label_map: {highest}: null"
        why["ignored"] = (
            f"no mask holds 255, and no file says that a value means no label; if {highest} does, set num_classes to "
            f"{number - 1}, drop its name, and set {how}"
        )
        if label_map is None:
            why["ignored"] += (
                f"; if 0 does, set num_classes to {number - 1}, drop its name, and set label_map to "
                f"{{0: null, {_span(1, highest)}: {_span(0, highest - 1)}}}"
            )
    return Classes(number, tuple(f"class_{index}" for index in range(number)), (), label_map, why)


def _span(first: int, last: int) -> str:
    """A range of values as ``data.label_map`` takes it."""
    return str(first) if first == last else f"{first}-{last}"


def _require_two(classes: Sequence[int], values: Sequence[int]) -> None:
    if len(classes) < 2:
        raise ValueError(
            f"masks must hold two classes or more, got the values {value_ranges(values)} alone: "
            "give the pixels of everything else a value of their own (0, say), and repeat the command"
        )


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z]+", name.lower()))
