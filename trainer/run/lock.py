"""A lock by which only one process at a time trains in a run folder."""

import errno
import fcntl
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from fpl_fast.trainer.writing.replacing import naming

__all__ = ["RunLock"]


class RunLock:
    """Lock on a run folder, held as a context manager or until the process ends, however it ends.

    It is a POSIX record lock on a file of the folder, which holds host and process of the last holder.
    Unlike flock's, such a lock is not inherited: loader processes that outlive a killed run do not hold it. Network
    file systems pass it on to their server (NFS with its lock daemon, Lustre mounted with ``flock``); where one does
    not, it holds among the processes of one machine, and where it has no locks at all, training goes on without.

    Args:
        path: The file; its folder exists.

    Raises:
        ValueError: Another process holds it.
        OSError: The file could not be written.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+", encoding="utf-8")
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno == errno.ENOLCK:
                return
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise ValueError(
                f"{path.parent}: must be trained in by one process at a time, but {holder} is at it: "
                f"wait for it, stop it, or give another --out"
            ) from None
        with naming(path):
            self._file.truncate(0)
            self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()  # the file stays: removing it would let two processes in
