"""Who looks on while a run trains."""

from typing import Protocol

__all__ = ["Monitor"]


class Monitor(Protocol):
    """Looks on while a run trains."""

    def checking(self, done: int, total: int) -> None:
        """So many files of a data set have been looked at before training."""

    def started(self, step: int, steps: int) -> None:
        """Training begins, ``step`` steps after the beginning of the run."""

    def stepped(self, step: int) -> None:
        """One more step was given to the device."""

    def logged(self, step: int, split: str, scalars: dict[str, float]) -> None:
        """A record was written to the log."""

    def validating(self, done: int, total: int) -> None:
        """So many validation images are done."""
