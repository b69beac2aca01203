"""Files that commands write into the user's folders: never over a file that is read or that they did not write."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from fpl_fast.trainer.writing.json_text import read_records
from fpl_fast.trainer.writing.replacing import replacing

__all__ = ["Outputs", "WrittenFiles"]

_RECORD = ".fpl-fast-written.jsonl"


class WrittenFiles:
    """Files that commands have written into a folder, as recorded in its ``.fpl-fast-written.jsonl``.

    A line holds the path of a file below the folder and the SHA-256 of its content. A file is ours as long as its
    content is the one written: a mask that somebody corrects by hand belongs to that person from then on.

    Args:
        folder: The folder; it need not exist.

    Raises:
        ValueError: The record is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._record = self.folder / _RECORD
        self._digests: dict[str, set[str]] = {}
        for entry in read_records(self._record, {"file": str, "sha256": str}):
            self._digests.setdefault(entry["file"], set()).add(entry["sha256"])

    def __contains__(self, file: object) -> bool:
        """Whether a file was written by a command and is unchanged, however its path is spelt."""
        assert isinstance(file, Path)
        if not self._digests or file.is_symlink() or not file.is_file():
            return False
        place = self._place(file)
        return place in self._digests and _sha256(file.read_bytes()) in self._digests[place]

    def _place(self, file: Path) -> str:
        return os.path.relpath(file.resolve(), self.folder)

    def add(self, file: Path, content: bytes) -> None:
        """Record a file before it is written: after a kill in between, it must still be recognised as ours."""
        name, digest = self._place(file), _sha256(content)
        if digest not in self._digests.setdefault(name, set()):
            self._digests[name].add(digest)
            with self._record.open("a+b") as record:
                if not _ends_in_line_end(record):
                    record.write(b"\n")  # behind a line that a kill cut short
                record.write(json.dumps({"file": name, "sha256": digest}).encode() + b"\n")


class Outputs:
    """The files that a command is going to write into a folder.

    All of them are checked before the first is written. A file that exists may be replaced only if an earlier command
    wrote it there (:class:`WrittenFiles`), so that a command can be repeated, and never if the command reads it.

    Args:
        folder: The folder; it is made with the first file.
        places: Paths below it.
        reads: Files that the command reads.
        option: Name of the folder in messages.

    Raises:
        ValueError: The folder is not a folder, or one of the files is read or not ours.
    """

    def __init__(self, folder: Path, places: Iterable[Path], *, reads: Iterable[Path] = (), option: str) -> None:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{option} must be a folder, got the file {os.fspath(folder)!r}: choose another one")
        # Resolved now: where the path leads through folders that are missing, making them would lead it elsewhere.
        self.folder, self._option = folder.resolve(), option
        self.written = WrittenFiles(folder)
        self._reads = {identity for file in reads if (identity := _identity(file))}
        for place in places:
            self._require_ours(self.folder / place)

    def write(self, place: Path, content: bytes) -> None:
        """Write one of the files, whole or not at all.

        Raises:
            ValueError: Another file has appeared there meanwhile.
            OSError: It could not be written.
        """
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        self._require_ours(path)
        self.written.add(path, content)
        with replacing(path) as file:
            file.write(content)

    def _require_ours(self, path: Path) -> None:
        if not os.path.lexists(path):
            return
        if _identity(path) in self._reads:
            what = "a file that is read"
        elif path not in self.written:
            what = "what fpl-fast did not write, or what has changed since"
        else:
            return
        raise ValueError(f"{self._option} must not write over {what}, got {os.fspath(path)!r}: choose another folder")


def _identity(file: Path) -> tuple[int, int] | None:
    """Identity of a file, the same for all its paths and hard links; None if it does not exist."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _ends_in_line_end(file: BinaryIO) -> bool:
    """Whether a file opened at its end, which remains its place of writing, is empty or ends a line."""
    if file.tell() == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return file.read() == b"\n"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
