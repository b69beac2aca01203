"""List files: the images of a part of a data set, with their labels."""

import codecs
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

__all__ = ["Pair", "Split", "fill_templates", "read_list"]


class Pair(NamedTuple):
    """An image and its label as paths below the root of a data set; for a bare id in a list, both are that id."""

    image: str
    label: str


@dataclass(frozen=True, slots=True)
class Split:
    """One part of a data set: the labelled training images, the unlabelled ones, or the validation images.

    Attributes:
        pairs: Paths below the root; the labels of unlabelled images are never read.
        origin: The list file they were read from, or a description of their choice without one.
    """

    pairs: tuple[Pair, ...]
    origin: str

    def to_text(self) -> str:
        """Format a list file of the images: one path a line."""
        return "".join(f"{pair.image}\n" for pair in self.pairs)

    @property
    def sha256(self) -> str:
        """Digest of ``to_text()``: two runs with one digest read the same images in the same order."""
        return _sha256(self.to_text())

    @property
    def pairs_sha256(self) -> str:
        """Digest of images and labels: two runs with one digest read the same pairs of files in the same order."""
        return _sha256("".join(f"{pair.image}\t{pair.label}\n" for pair in self.pairs))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def read_list(path: Path, root: Path = Path(), *, where_missing: str = "") -> list[Pair]:
    """Read a list file in any of the three public formats.

    A line holds one of three forms: an id (PASCAL VOC); image and label, separated by a TAB (Cityscapes of CPS, where
    both start with "/"); or image and label, separated by a space (AEL), if all parts between spaces look like paths,
    with a "/" or a suffix: "my photo" is an id. Windows line ends, blank lines, a byte-order mark and a missing final
    newline do no harm, and UTF-16 is read if it has a byte-order mark. Lines that start with "#" are comments. Leading
    slashes are dropped: entries are below the root.

    Args:
        path: The list.
        root: Folder that contains all entries.
        where_missing: Text to append to the message about a missing list.

    Raises:
        ValueError: The list is missing, not a text or empty, or a line has more than two columns or leaves the root.
    """
    pairs = []
    for number, line in enumerate(map(str.strip, _read_lines(path, where_missing)), start=1):
        where = f"{path}: line {number} must"
        columns = [] if line.startswith("#") else [column.strip() for column in _columns(line)]
        for column in columns:
            _require_below(root, column, where)
        columns = [column.lstrip("/") for column in columns]
        if len(columns) > 2 or "" in columns:
            raise ValueError(
                f"{where} hold an id, or an image and a label, got {line!r} (a TAB separates paths that hold spaces)"
            )
        if columns:
            pairs.append(Pair(columns[0], columns[-1]))
    if not pairs:
        raise ValueError(f"{path}: the list must name at least one image, got 0: write one a line")
    return pairs


def _read_lines(path: Path, where_missing: str) -> list[str]:
    """Read the lines of a list, in UTF-8, or in UTF-16 with a byte-order mark."""
    try:
        content = path.read_bytes()
        marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if marked else "utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{path}: the list file must exist, but is missing{where_missing}") from None
    except OSError as error:
        raise ValueError(f"{path}: the list file must be a readable text file, got {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: the list file must be UTF-8 text, got byte {content[error.start]:#04x} at {error.start}: "
            f"save it as UTF-8"
        ) from None
    if "\0" in text:
        raise ValueError(f"{path}: the list file must be UTF-8 text, got zero bytes: save it as UTF-8")
    return re.split("\r\n|\r|\n", text)  # str.splitlines would also split at characters that names may contain


def _require_below(root: Path, column: str, where: str) -> None:
    """Check that an entry names a path below the root."""
    if ".." in PurePosixPath(column).parts:
        raise ValueError(f"{where} stay below data.root, got {column!r}: choose a data.root above all files")
    if "\\" in column:
        raise ValueError(f"{where} be a path below data.root, written with /, got {column!r}")
    if column.startswith("/") and Path(column).is_file() and not (root / column.lstrip("/")).is_file():
        raise ValueError(f"{where} be a path below data.root, got the absolute {column!r}: leave out what comes before")


def _columns(line: str) -> list[str]:
    """Split a line at TABs, otherwise at spaces unless a part is not a path; a blank line has no columns."""
    if "\t" in line:
        return line.split("\t")
    parts = line.split()
    return parts if all("/" in part or PurePosixPath(part).suffix for part in parts) else [line]


def fill_templates(pairs: Iterable[Pair], images: str, labels: str) -> list[Pair]:
    """Make paths from entries: ``{}`` of the templates stands for the first and the last column.

    Raises:
        ValueError: A template does not hold ``{}`` once.
    """
    for name, template in (("images", images), ("labels", labels)):
        if template.count("{}") != 1:
            raise ValueError(f"{name} must contain '{{}}' once, got {template!r}")
    return [Pair(images.replace("{}", pair.image), labels.replace("{}", pair.label)) for pair in pairs]
