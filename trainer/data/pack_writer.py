"""Writing packs (pack.py): decoded in threads, appended in order, and safe whenever the writer is killed."""

import fcntl
import itertools
import json
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from fpl_fast.trainer.data.files import FileStore
from fpl_fast.trainer.data.pack import HEADER, Record, data_file, index_file, parse_line, read_index
from fpl_fast.trainer.data.store import Kind, Picture

__all__ = ["write_pack"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_BYTES_PER_COMMIT = 256 << 20  # the most that a killed writer can lose; a commit waits for the disk


def write_pack(
    path: Path,
    store: FileStore,
    pictures: Iterable[tuple[Kind, str]],
    *,
    num_threads: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Add pictures to a pack, which is created if it does not exist.

    Pictures whose files have kept size and time since they were packed are skipped, so that a call that was cut short,
    even by SIGKILL, is simply repeated. If the file has changed but not the picture, or if its orientation had not been
    read, the existing array is used again.

    Args:
        path: Folder of the pack.
        store: Source of the pictures.
        pictures: Kind and name of each.
        num_threads: Files decoded at a time.
        progress: Called with (pictures done, pictures in all).

    Returns:
        A line for each file that could not be packed.

    Raises:
        ValueError: The folder is not a pack, or another process is writing to it.
    """
    pictures = list(dict.fromkeys(pictures))

    def source(name: str) -> tuple[int, int]:
        try:
            status = (store.root / name).stat()
        except OSError:
            return -1, -1  # decoding reports the fault
        return status.st_size, status.st_mtime_ns

    def decode(picture: tuple[Kind, str]) -> Picture | str:
        try:
            return store.read(*picture)
        except ValueError as error:
            return str(error)

    problems = []
    with _Writer.open(path) as writer, ThreadPoolExecutor(num_threads) as pool:
        packed = read_index(path)
        sources = {picture: source(picture[1]) for picture in pictures}
        missing = [
            p for p in pictures if p not in packed or packed[p].source != sources[p] or packed[p].orientation is None
        ]
        decoded = _map_ahead(pool, decode, missing, 2 * num_threads)
        for done, (picture, content) in enumerate(
            zip(missing, decoded, strict=True), start=1 + len(pictures) - len(missing)
        ):
            if isinstance(content, str):
                problems.append(content)
            else:
                writer.append(picture, content, sources[picture], packed.get(picture))
            if progress is not None:
                progress(done, len(pictures))
    return problems


class _Writer:
    """Appends to the two files of a pack."""

    def __init__(self, data: BinaryIO, index: BinaryIO) -> None:
        self._data, self._index = data, index
        self._lines: list[bytes] = []
        self._committed = data.tell()

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator["_Writer"]:
        """Open a pack for a single writer, and commit at the end, whatever happens.

        The remains of a killed writer are cut off, and so are lines of the index whose arrays were lost when the data
        were cut short.
        """
        path = path.resolve()  # before missing folders on the way are made, which would lead it elsewhere
        if path.exists() and not index_file(path).is_file() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError(f"{path}: must be a pack, a new or an empty folder, got something else")
        path.mkdir(parents=True, exist_ok=True)
        with index_file(path).open("ab+") as index, data_file(path).open("ab") as data:
            try:
                fcntl.flock(index, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"{path}: must be written by one process at a time, got a second one") from None
            index.seek(0)
            text = index.read()
            begun = b"\n" not in text  # killed with the header, the first that is written
            if not begun:
                read_index(path)  # which must be one
            elif not _line(HEADER).startswith(text) or (not text and data.seek(0, os.SEEK_END)):
                raise ValueError(f"{path}: must be a pack, a new or an empty folder, got something else")
            index.truncate(text.rfind(b"\n") + 1)
            if begun:
                index.write(_line(HEADER))
                index.flush()
            index.seek(0)
            header, *lines = index.readlines()
            size = data.seek(0, os.SEEK_END)
            # Both files only grow: a line comes after the lines of all arrays that lie before its own.
            whole = list(itertools.takewhile(lambda line: parse_line(line)[1].end <= size, lines))
            index.truncate(len(header) + sum(map(len, whole)))
            data.truncate(max((parse_line(line)[1].end for line in whole), default=0))
            data.seek(0, os.SEEK_END)
            writer = cls(data, index)
            try:
                yield writer
            finally:
                writer.commit()

    def append(
        self, picture: tuple[Kind, str], content: Picture, source: tuple[int, int], packed: Record | None
    ) -> None:
        """Write an array, unless it equals the one packed before; its line of the index waits for the next commit."""
        kind, name = picture
        array, offset = content.pixels.contiguous().numpy(), self._data.tell()
        crc32 = zlib.crc32(array.data)
        if packed is not None and (packed.shape, packed.crc32) == (array.shape, crc32):
            offset = packed.offset
        else:
            self._data.write(array.data)
        record = {"kind": kind, "name": name, "offset": offset, "shape": list(array.shape), "crc32": crc32}
        self._lines.append(_line(record | {"source": source, "orientation": content.orientation}))
        if self._data.tell() - self._committed >= _BYTES_PER_COMMIT:
            self.commit()

    def commit(self) -> None:
        """Write the data to the disk, and only then the lines of the index."""
        self._data.flush()
        os.fsync(self._data.fileno())
        self._index.write(b"".join(self._lines))
        self._index.flush()
        os.fsync(self._index.fileno())
        self._lines.clear()
        self._committed = self._data.tell()


def _line(content: dict[str, object]) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _map_ahead(
    pool: ThreadPoolExecutor, function: Callable[[_Item], _Result], items: Iterable[_Item], ahead: int
) -> Iterator[_Result]:
    """Map in order with at most ``ahead`` results waiting; an executor's own map would hold the whole data set."""
    waiting: deque[Future[_Result]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) == ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
