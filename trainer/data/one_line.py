"""Errors of loader processes, as the user should read them."""

import re
from collections.abc import Iterable, Iterator
from typing import TypeVar

__all__ = ["in_one_line", "loader_fault"]

_Item = TypeVar("_Item")

# What torch, NumPy and the system say, and what that means here. The first that is found counts.
_FAULTS = (
    (
        r"Too many open files|ancdata",
        "a loader process must be able to open files, got too many open ones: raise the limit (ulimit -n 65536) or "
        "lower train.workers",
    ),
    (
        r"[Bb]us error|shared memory|No space left on device|unable to mmap|/torch_\d",
        "a loader process must find room for its batches in shared memory, got none: enlarge /dev/shm (docker run "
        "--shm-size 8g), or lower train.workers, train.batch_labelled or augment.crop",
    ),
    (
        r"allocate|MemoryError",
        "a loader must find memory for its images, got none: lower train.workers, train.batch_labelled or augment.crop",
    ),
    (
        r"DataLoader worker|Connection|EOFError",
        "loader processes must live as long as the run, got one that was killed, probably for want of memory: lower "
        "train.workers, train.batch_labelled or augment.crop",
    ),
)


def in_one_line(items: Iterable[_Item]) -> Iterator[_Item]:
    """Items as they come from a loader; of an error that torch wraps in the traceback of a process, the message.

    Raises:
        ValueError: What the loader raised.
        OSError: Likewise, or what has happened to a loader process, and the remedy.
    """
    try:
        yield from items
    except ValueError as error:
        raise ValueError(_message(error)) from None
    except (RuntimeError, MemoryError, EOFError, OSError) as error:
        if (fault := loader_fault(error)) is not None:
            raise fault from None
        if isinstance(error, OSError):
            raise OSError(_message(error)) from None
        raise


def loader_fault(error: Exception) -> OSError | None:
    """What has become of a loader process and what to do about it; None for an error that is another matter.

    Torch tells of a dead process in whatever the main process is doing, so that not only who reads batches may ask.
    """
    text = f"{type(error).__name__}: {_message(error)}"
    return next((ChildProcessError(sentence) for pattern, sentence in _FAULTS if re.search(pattern, text)), None)


def _message(error: Exception) -> str:
    """The last line, without the name of the error that a traceback puts before it."""
    return re.sub(r"^\w+(Error|Exception): ", "", (str(error).strip().splitlines() or [""])[-1])
