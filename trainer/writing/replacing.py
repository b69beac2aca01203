"""Files that are written whole or not at all, and errors that name them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["naming", "replacing"]


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file so that ``path`` holds either the previous or the new content, whatever happens meanwhile.

    Yields a binary file beside it, ``.NAME.tmp``, which takes its place once the block has ended without an error. A
    file that a killed writer leaves under that name is overwritten by the next writer.

    Args:
        path: File to write; its folder exists, and no other process writes it.

    Raises:
        OSError: The file could not be written; the previous one is untouched.

    Example:
        >>> with replacing(Path("numbers.txt")) as file:  # doctest: +SKIP
        ...     file.write(b"1 2 3")
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with naming(path):
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # The new name is on the disk only once the folder is.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name a file in errors of its system, which names none where a disk is full.

    Args:
        path: The file that the block writes.
    """
    try:
        yield
    except OSError as error:
        if error.errno and error.filename is None:
            error.filename = str(path)
        raise
