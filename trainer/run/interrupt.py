"""Ctrl-C and SIGTERM as a request that the loop reads between two steps."""

import logging
import signal
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["StopRequest", "leave_signals_to_the_run"]

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

    Terminals and schedulers signal whole groups. The run saves and ends its loaders itself (loaders.py), or they notice
    that it is gone; loaders that died at once would keep it from finishing its step.

    Args:
        worker: Number of the loader process, as DataLoader's ``worker_init_fn`` is given it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
