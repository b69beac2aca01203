"""The end of loader processes, which ignore the signals that a run handles itself (run/interrupt.py)."""

import atexit
import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["ended"]


@contextmanager
def ended(*iterators: Iterator[Any]) -> Iterator[None]:
    """End the processes of loaders on the way out, whatever the way.

    An iterator that is left to the garbage collector has lost the queues by which it would end its processes: it waits
    five seconds for each of them, and then sends the signal that they ignore. So does multiprocessing at the end of a
    process that still has an iterator, as an error that is kept has: there they are killed.

    Args:
        iterators: Iterators of loaders, with processes or without.
    """
    atexit.unregister(_kill_loaders)
    atexit.register(_kill_loaders)  # the last one registered is called first, before torch waits for each of them
    try:
        yield
    finally:
        for iterator in iterators:
            shut_down = getattr(iterator, "_shutdown_workers", None)  # which iterators with processes have
            if shut_down is not None:
                shut_down()


def _kill_loaders() -> None:
    left = [child for child in multiprocessing.active_children() if child.daemon]
    if left:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises an error for each that was killed
    for child in left:
        child.kill()
