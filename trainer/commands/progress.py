"""Progress of a training run: a bar on a terminal, otherwise a line for each log step."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from fpl_fast.trainer.commands.console import out_console
from fpl_fast.trainer.run.monitor import Monitor
from fpl_fast.trainer.writing.printable import printable

__all__ = ["ProgressMonitor", "counting"]


_SECONDS_A_LINE = 10


class _Bar(Progress):
    """Bar with steps done, time elapsed and time left in one line of at most 80 columns, and notes below it."""

    def get_renderables(self) -> Iterator[RenderableType]:
        """Yield the table of tasks and the notes."""
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if task.fields["note"]:
                yield Text(printable(task.fields["note"]), style="dim")


def _make_bar(console: Console) -> Progress:
    """Make a bar on the console, which shows nothing if the console is not a terminal."""
    whole = Column(no_wrap=True)
    return _Bar(
        TextColumn("{task.description}", markup=False, table_column=Column(overflow="ellipsis")),  # this one gives way
        BarColumn(bar_width=12, table_column=whole),
        MofNCompleteColumn(table_column=whole),
        TimeElapsedColumn(table_column=whole),
        TextColumn("left", table_column=whole),
        TimeRemainingColumn(table_column=whole),
        console=console,
        disable=not console.is_terminal,
        redirect_stderr=sys.stderr.isatty(),  # a log that goes to a file must still go there
    )


@contextmanager
def counting() -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Show bars for counted work; yields a function from a title to a function to call with (done, in all).

    Without a terminal, a line is written every ten seconds.
    """
    console = out_console()
    bar = _make_bar(console)

    def count(title: str) -> Callable[[int, int], None]:
        task = bar.add_task(title, total=None, note="")
        begin = told = time.monotonic()

        def show(done: int, total: int) -> None:
            nonlocal told
            bar.update(task, completed=done, total=total)
            now = time.monotonic()
            if bar.disable and now - told >= _SECONDS_A_LINE:
                told = now
                console.print(f"{title}  {done}/{total}  {(now - begin) / done * (total - done):.0f} s left")

        return show

    with bar:
        yield count


class ProgressMonitor(Monitor):
    """Shows steps, time left, and the newest record of the log; a context manager, too.

    Args:
        title: Name of the run.
    """

    def __init__(self, title: str) -> None:
        self.title = printable(title)
        self.console = out_console()
        self._bar = _make_bar(self.console)
        self._tasks: dict[str, TaskID] = {}
        self._steps = 0
        self._starting = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def checking(self, done: int, total: int) -> None:
        """Count files."""
        self._show("files", done, total)

    def started(self, step: int, steps: int) -> None:
        """Open the bar of the run."""
        self._steps = steps
        self._show(self.title, step, steps)
        self._starting = True
        self._note("the first step: compiling the loss, once, may take a minute")

    def stepped(self, step: int) -> None:
        """Move the bar of the run."""
        if self._starting:
            self._starting = False
            self._note("")
        self._show(self.title, step, self._steps)

    def logged(self, step: int, split: str, scalars: dict[str, float]) -> None:
        """Show the record below the bar, or as a line; scores always as a line."""
        text = describe_record(split, scalars)
        if split == "train" and self._bar.disable is False:
            self._note(text)
        else:
            self._bar.console.print(f"{self.title}  step {step}/{self._steps}  {text}")

    def validating(self, done: int, total: int) -> None:
        """Count validation images; the bar is removed when they are done."""
        self._show("validation", done, total)
        if done == total:
            self._bar.remove_task(self._tasks.pop("validation"))

    def _note(self, text: str) -> None:
        self._bar.update(self._tasks[self.title], note=text, refresh=self._starting)

    def _show(self, name: str, done: int, total: int) -> None:
        self._bar.start()  # not before: only one of several processes has anything to show
        if name not in self._tasks:
            self._tasks[name] = self._bar.add_task(name, total=total, completed=done, note="")
        self._bar.update(self._tasks[name], completed=done, total=total)


def describe_record(split: str, scalars: dict[str, float]) -> str:
    """Describe a record of the log in a few words.

    Example:
        >>> describe_record("val", {"miou": 0.5, "pixel_accuracy": 0.75, "elapsed_s": 9.0})
        'mIoU 50.00 %  accuracy 75.00 %'
    """
    if split == "val":
        return f"mIoU {100 * scalars['miou']:.2f} %  accuracy {100 * scalars['pixel_accuracy']:.2f} %"
    text = f"loss {scalars['loss']:.3f}"
    text += "".join(
        f"  {name.removeprefix('loss_')} {value:.3f}" for name, value in scalars.items() if name.startswith("loss_")
    )
    if "mean_positives" in scalars:
        text += f"  K {scalars['mean_positives']:.2f}"
    if scalars.get("replaced_images"):
        text += f"  damaged images {scalars['replaced_images']:.2f}/step"
    if math.isfinite(scalars["images_per_second"]):  # not of the first step alone
        text += f"  {scalars['images_per_second']:.1f} images/s  waiting {100 * scalars['loader_wait']:.0f} %"
    if "startup_s" in scalars:
        text += f"  start-up {scalars['startup_s']:.0f} s"
    return f"{text}  {scalars['peak_memory_mb']:.0f} MB"
