"""File operations of a process below a folder: counted, and disturbed at one of them.

Operations are seen where Python hands them to the system: opening for writing, renaming, removing and making folders by
an audit hook, writes and truncations by the raw file behind every buffer, ``fsync`` by its function.
"""

import builtins
import errno
import io
import itertools
import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from sys import addaudithook
from typing import NamedTuple

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Point(NamedTuple):
    """A file operation of a run.

    Attributes:
        operation: open, write, truncate, fsync, rename, remove or mkdir.
        place: Path below the folder; the files of TensorBoard, whose names differ from run to run, by their folder.
        number: Operations of this kind in this place before.
    """

    operation: str
    place: str
    number: int

    def __str__(self) -> str:
        return f"{self.operation} {self.number + 1} of {self.place}"


class Disturbance:
    """Observer of the file operations of a process; it does nothing, unless a subclass acts.

    Args:
        folder: Operations elsewhere are none of ours.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = os.path.abspath(folder)
        self._seen: Counter[tuple[str, str]] = Counter()

    def install(self) -> None:
        """Watch this process until it ends: an audit hook cannot be removed."""
        addaudithook(self._audit)
        fsync, disturbance = os.fsync, self

        def watched_fsync(number: int) -> None:
            disturbance._meet("fsync", os.readlink(f"/proc/self/fd/{number}"))
            fsync(number)

        os.fsync = watched_fsync
        opened = io.open

        def watched_open(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, *rest, **options):
            if not (disturbance._has(file) and set(mode) & set("wax+")) or rest or options:
                return opened(file, mode, buffering, encoding, errors, newline, *rest, **options)
            raw = _Raw(file, "".join(sorted(set(mode) - set("tb"), key="wax+".find)), disturbance)
            if buffering == 0:
                return raw
            buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            if "b" in mode:
                return buffered
            return io.TextIOWrapper(buffered, encoding, errors, newline, line_buffering=buffering == 1)

        builtins.open = io.open = watched_open

    def at(self, point: Point) -> None:
        """Act before an operation; an error that this raises is the operation's own."""

    def at_write(self, point: Point, half: Callable[[], int]) -> int | None:
        """Act before a write: the bytes that ``half`` of it wrote, or None to write all."""
        self.at(point)
        return None

    def meet_write(self, path: str, half: Callable[[], int]) -> int | None:
        """Count a write and act at it."""
        return self.at_write(self._point("write", path), half)

    def meet_truncation(self, path: str) -> None:
        """Count a truncation and act at it."""
        self._meet("truncate", path)

    def _has(self, file: object) -> bool:
        if not isinstance(file, str | bytes | os.PathLike):
            return False
        path = os.path.abspath(os.fsdecode(file))
        return path == self.folder or path.startswith(self.folder + os.sep)

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and self._has(arguments[0]) and isinstance(arguments[2], int) and arguments[2] & WRITING:
            self._meet("open", arguments[0])
        elif event in ("os.rename", "os.remove", "os.mkdir"):
            path = arguments[event == "os.rename"]
            # The system says of a folder that is there no more than that, however full the disk is.
            if self._has(path) and not (event == "os.mkdir" and os.path.isdir(path)):
                self._meet(event.removeprefix("os."), path)

    def _meet(self, operation: str, path: object) -> None:
        if self._has(path):
            self.at(self._point(operation, path))

    def _point(self, operation: str, path: object) -> Point:
        place = re.sub(r"\.\d+$", "", os.path.relpath(os.fsdecode(path), self.folder))  # without number of the process
        if place.startswith("tensorboard" + os.sep):
            place = "tensorboard"
        self._seen[operation, place] += 1
        return Point(operation, place, self._seen[operation, place] - 1)


class _Raw(io.FileIO):
    """A file whose writes are watched."""

    def __init__(self, file: str | os.PathLike[str], mode: str, disturbance: Disturbance) -> None:
        self._disturbance, self._path = disturbance, os.path.abspath(os.fsdecode(file))
        super().__init__(file, mode)

    def write(self, content) -> int:
        def half() -> int:
            return io.FileIO.write(self, memoryview(content)[: len(content) // 2])

        written = self._disturbance.meet_write(self._path, half)
        return super().write(content) if written is None else written

    def truncate(self, size: int | None = None) -> int:
        self._disturbance.meet_truncation(self._path)
        return super().truncate(size)


class Recorder(Disturbance):
    """Writes down the operations, in a file that the parent reads."""

    def __init__(self, folder: Path, record: Path) -> None:
        super().__init__(folder)
        self._record = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def at(self, point: Point) -> None:
        os.write(self._record, "\t".join(map(str, point)).encode() + b"\n")


def every_operation(record: Path) -> list[Point]:
    """Read all operations that a Recorder wrote down."""
    lines = (line.split("\t") for line in record.read_text().splitlines())
    return [Point(operation, place, int(number)) for operation, place, number in lines]


def recorded(record: Path) -> list[Point]:
    """Read the operations that a Recorder wrote down; of writes that follow each other, the first two, one, the last.

    A checkpoint is written in a hundred and more.
    """
    kept = []
    for (operation, _), run in itertools.groupby(every_operation(record), lambda point: point[:2]):
        alike = list(run)
        places = {0, 1, len(alike) // 2, len(alike) - 1} if operation == "write" else range(len(alike))
        kept += [point for place, point in enumerate(alike) if place in places]
    return kept


class Signals(Disturbance):
    """Sends signals to the own process at operations: before each of them, and in the middle of a write.

    Args:
        points: Signal by operation.
    """

    def __init__(self, folder: Path, points: dict[Point, int]) -> None:
        super().__init__(folder)
        self._points = points

    def at(self, point: Point) -> None:
        if point in self._points:
            os.kill(os.getpid(), self._points[point])

    def at_write(self, point: Point, half: Callable[[], int]) -> int | None:
        if self._points.get(point) == signal.SIGKILL:
            half()
        self.at(point)
        return None


class FullDisk(Disturbance):
    """A disk that is full from an operation on, which may be in the middle of a write; or for that operation alone.

    Renaming and removing need no room.
    """

    def __init__(self, folder: Path, point: Point, *, stays: bool) -> None:
        super().__init__(folder)
        self._point_of_it, self._stays, self._full, self._short = point, stays, False, False

    def at(self, point: Point) -> None:
        if point == self._point_of_it:
            self._full = True
            self._fail(point)
        elif (
            self._full
            and self._stays
            and (
                point.operation in ("write", "fsync", "mkdir")
                or (point.operation == "open" and not self._exists(point))
            )
        ):
            self._fail(point)

    def at_write(self, point: Point, half: Callable[[], int]) -> int | None:
        if self._short:  # what did not fit comes again
            self._short = False
            self._fail(point)
        if point == self._point_of_it:
            self._full = self._short = True
            return half()
        self.at(point)
        return None

    def _exists(self, point: Point) -> bool:
        return point.place != "tensorboard" and os.path.exists(os.path.join(self.folder, point.place))

    def _fail(self, point: Point) -> None:
        """Fail as the system does, which names the file only where it is given its path."""
        path = [] if point.operation in ("write", "fsync") else [os.path.join(self.folder, point.place)]
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *path)
