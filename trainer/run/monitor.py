"""Interface to follow a run while it trains."""

__all__ = ["Monitor"]


class Monitor:
    """Receiver of the progress of a run; override what is of interest."""

    def checking(self, done: int, total: int) -> None:
        """Called when ``done`` of ``total`` files have been checked before training."""

    def started(self, step: int, steps: int) -> None:
        """Called when training begins, ``step`` steps after the beginning of the run."""

    def stepped(self, step: int) -> None:
        """Called when one more step was given to the device."""

    def logged(self, step: int, split: str, scalars: dict[str, float]) -> None:
        """Called when a record was written to the log."""

    def validating(self, done: int, total: int) -> None:
        """Called when ``done`` of ``total`` validation images are done."""
