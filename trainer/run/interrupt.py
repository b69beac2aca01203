"""Ctrl-C and SIGTERM as a request that the loop reads between two steps."""

import atexit
import logging
import multiprocessing
import signal
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["StopRequest", "end_loaders_at_exit", "leave_signals_to_the_run"]

_LOGGER = logging.getLogger(__name__)


class StopRequest:
    """Context manager that notes the first SIGINT or SIGTERM; a second one acts at once, as without it.

    Example:
        >>> with StopRequest() as stop:
        ...     stop.signal is None
        True
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()
        _LOGGER.info("stopping after this step; once more stops at once")

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def leave_signals_to_the_run(worker: int) -> None:
    """Let a loader process outlive signals that a launcher sends to all processes of a run.

    Terminals and schedulers signal whole groups. The run saves and ends its loaders itself, or they notice that it is
    gone; loaders that died at once would keep it from finishing its step.

    Args:
        worker: Number of the loader process, as DataLoader's ``worker_init_fn`` is given it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def end_loaders_at_exit() -> None:
    """Kill loader processes that are left when this process ends; call it once they have been started.

    An error that is kept keeps its loaders. Multiprocessing would end them by the signal that they ignore, and wait.
    """
    atexit.unregister(_kill_loaders)
    atexit.register(_kill_loaders)  # the last one registered is called first, before torch waits for each of them


def _kill_loaders() -> None:
    left = [child for child in multiprocessing.active_children() if child.daemon]
    if left:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises an error for each that was killed
    for child in left:
        child.kill()
