"""List files: which images belong to a part of a data set, and with which labels."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

__all__ = ["Pair", "Split", "fill_templates", "read_list"]


class Pair(NamedTuple):
    """An image and its label as paths below the root of a data set; of a bare id in a list, both are that id."""

    image: str
    label: str


@dataclass(frozen=True, slots=True)
class Split:
    """One part of a data set: the images trained on with labels, those without, or those evaluated on.

    Attributes:
        pairs: Paths below the root; the labels of unlabelled images are never looked at.
        origin: The list file they were read from, or how they were chosen without one.
    """

    pairs: tuple[Pair, ...]
    origin: str

    def to_text(self) -> str:
        """A list file of the images: one path a line."""
        return "".join(f"{pair.image}\n" for pair in self.pairs)

    @property
    def sha256(self) -> str:
        """Digest of ``to_text()``: two runs with one digest read the same images in the same order."""
        return hashlib.sha256(self.to_text().encode()).hexdigest()


def read_list(path: Path) -> list[Pair]:
    """Read a list file in any of the three public formats.

    A line holds an id (PASCAL VOC); image and label, separated by a TAB (Cityscapes of CPS, where both start with
    "/"); or image and label, separated by a space (AEL), if all that spaces separate looks like paths, with a "/" or a
    suffix: "my photo" is an id. Windows line ends, blank lines, a byte-order mark and a missing final newline do no
    harm. Leading slashes are dropped: entries lie below the root.

    Raises:
        ValueError: The list is missing, no text, empty, or a line holds more than two columns.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: the list file must be a readable text file, got {error}") from None
    pairs = []
    for number, line in enumerate(map(str.strip, lines), start=1):
        columns = [column.strip().lstrip("/") for column in _columns(line)]
        if len(columns) > 2 or "" in columns:
            raise ValueError(f"{path}: line {number} must hold an id, or an image and a label, got {line!r}")
        if columns:
            pairs.append(Pair(columns[0], columns[-1]))
    if not pairs:
        raise ValueError(f"{path}: the list must name at least one image, got 0")
    return pairs


def _columns(line: str) -> list[str]:
    """What a TAB separates; otherwise what spaces separate, unless a part is no path; nothing of a blank line."""
    if "\t" in line:
        return line.split("\t")
    parts = line.split()
    return parts if all("/" in part or PurePosixPath(part).suffix for part in parts) else [line]


def fill_templates(pairs: Iterable[Pair], images: str, labels: str) -> list[Pair]:
    """Paths from entries: ``{}`` of the templates stands for the first and the last column.

    Raises:
        ValueError: A template does not hold ``{}`` once.
    """
    for name, template in (("images", images), ("labels", labels)):
        if template.count("{}") != 1:
            raise ValueError(f"{name} must contain '{{}}' once, got {template!r}")
    return [Pair(images.replace("{}", pair.image), labels.replace("{}", pair.label)) for pair in pairs]
