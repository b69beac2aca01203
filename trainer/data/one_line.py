"""Errors of loader processes, as the user should read them."""

import re
from collections.abc import Iterable, Iterator
from typing import TypeVar

from fpl_fast.trainer.data.loaders import ended

__all__ = ["in_one_line", "loader_fault"]

_Item = TypeVar("_Item")

# Messages of torch, NumPy and the system, and their meaning here. The first match counts.
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
    """Yield the items of a loader and end its processes; raise the bare message of an error that torch wraps.

    Raises:
        ValueError: If the loader raised it.
        OSError: If the loader raised it, or a loader process died; then with the remedy.
    """
    try:
        iterator = iter(items)
        with ended(iterator):
            yield from iterator
    except ValueError as error:
        raise ValueError(_message(error)) from None
    except (RuntimeError, MemoryError, EOFError, OSError) as error:
        if (fault := loader_fault(error)) is not None:
            raise fault from None
        if isinstance(error, OSError):
            raise OSError(_message(error)) from None
        raise


def loader_fault(error: Exception) -> OSError | None:
    """Explain the fault of a loader process, with the remedy; None for any other error.

    Torch raises the error of a dead process anywhere in the main process, so that not only the reader of batches needs
    this function.
    """
    text = f"{type(error).__name__}: {_message(error)}"
    return next((ChildProcessError(sentence) for pattern, sentence in _FAULTS if re.search(pattern, text)), None)


def _message(error: Exception) -> str:
    """Last line of a message, without the name of the error that a traceback puts before it."""
    return re.sub(r"^[\w.]+(Error|Exception): ", "", (str(error).strip().splitlines() or [""])[-1])
