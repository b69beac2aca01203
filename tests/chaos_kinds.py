"""Ways to disturb a run, and what must come of each: ``KIND(campaign, folder, draw)`` yields where, then disturbs.

Every kind ends with the command repeated, which must end as the run did that nothing disturbed.
"""

import os
import resource
import signal
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from chaos_files import Disturbance, FullDisk, Point, Signals
from chaos_run import STEPS

from fpl_fast.trainer.run.folder import RunFolder

if TYPE_CHECKING:
    from chaos import Campaign, Draw


def killed_at_a_moment(campaign: "Campaign", folder: RunFolder, draw: "Draw") -> Iterator[str]:
    """SIGKILL from outside, at any time between the start and the end."""
    tiny, moment = campaign.tiny, draw.rng.uniform(0, campaign.duration)
    yield f"after {moment:.2f} s"
    process = tiny.start(folder)
    time.sleep(moment)
    process.send(signal.SIGKILL)
    tiny.require_continues(folder, process.wait())


def killed_at_an_operation(campaign: "Campaign", folder: RunFolder, draw: "Draw") -> Iterator[str]:
    """SIGKILL before an operation on a file of the run, or in the middle of a write."""
    tiny, point = campaign.tiny, draw.pick(campaign.operations)
    yield str(point)
    ended = tiny.start(folder, Signals(folder.path, {point: signal.SIGKILL}).install).wait()
    _require_killed(ended.code, point)
    tiny.require_continues(folder, ended)


def killed_while_continuing(campaign: "Campaign", folder: RunFolder, draw: "Draw") -> Iterator[str]:
    """The same in a run that has been continued."""
    tiny, point = campaign.tiny, draw.pick(campaign.continued_operations)
    yield str(point)
    since = campaign.copy_stopped(folder)
    ended = tiny.start(folder, Signals(folder.path, {point: signal.SIGKILL}).install).wait()
    _require_killed(ended.code, point)
    tiny.require_continues(folder, ended, since=since)


def _require_killed(code: int, point: Point) -> None:
    # TensorBoard's thread joins its records to writes as they come.
    assert code == -signal.SIGKILL or (code == 0 and point.place == "tensorboard"), (code, point)


def stopped(campaign: "Campaign", folder: RunFolder, draw: "Draw") -> Iterator[str]:
    """SIGTERM or Ctrl-C, to the loaders as well: the step is finished and saved."""
    tiny, step = campaign.tiny, int(draw.rng.integers(1, STEPS))
    number, workers = draw.rng.choice([signal.SIGTERM, signal.SIGINT]), str(draw.rng.integers(2))
    yield f"{signal.Signals(number).name} at step {step}, {workers} workers"
    ended = tiny.start(
        folder, on_step=lambda done: done == step and os.killpg(0, number), options=("--train.workers", workers)
    ).wait()
    assert ended.code == 128 + number, ended
    assert "continue with: fpl-fast train --resume" in ended.said, ended.said
    assert tiny.require_kept(folder, step) == step
    tiny.require_continues(folder, ended)


class _SecondInterrupt(Disturbance):
    """Ctrl-C once more, some operations after the first."""

    def __init__(self, folder, later: int) -> None:
        super().__init__(folder)
        self._later: int = later
        self.first = False

    def at(self, point: Point) -> None:
        if self.first:
            self._later -= 1
            if self._later == 0:
                os.kill(os.getpid(), signal.SIGINT)


def interrupted_twice(campaign: "Campaign", folder: RunFolder, draw: "Draw") -> Iterator[str]:
    """Ctrl-C, and again while the step is finished and saved."""
    tiny, step, later = campaign.tiny, int(draw.rng.integers(1, STEPS)), int(draw.rng.integers(12))
    yield f"at step {step} and {later} operations later"
    second = _SecondInterrupt(folder.path, later)

    def interrupt(done: int) -> None:
        if done == step:
            os.kill(os.getpid(), signal.SIGINT)
            second.first = True
            if later == 0:
                os.kill(os.getpid(), signal.SIGINT)

    ended = tiny.start(folder, second.install, interrupt).wait()
    assert ended.code == 130 and "Traceback" not in ended.said, ended
    tiny.require_continues(folder, ended)


def interrupted_in_set_up(campaign: "Campaign", folder: RunFolder, draw: "Draw") -> Iterator[str]:
    """Ctrl-C or SIGTERM before the first step, at a moment or at an operation."""
    tiny, number = campaign.tiny, draw.rng.choice([signal.SIGTERM, signal.SIGINT])
    name = signal.Signals(number).name
    if draw.rng.integers(2):
        point = campaign.set_up_operations[draw.rng.integers(len(campaign.set_up_operations))]
        yield f"{name} before {point}"
        process = tiny.start(folder, Signals(folder.path, {point: number}).install)
    else:
        moment = draw.rng.uniform(0, campaign.set_up)
        yield f"{name} after {moment:.2f} s"
        process = tiny.start(folder)
        time.sleep(moment)
        process.send(number)
    ended = process.wait()
    # Python acts on SIGTERM itself only once the loop listens to it.
    assert ended.code in (128 + number, -number if number == signal.SIGTERM else 130), ended
    assert "Traceback" not in ended.said, ended.said
    tiny.require_continues(folder, ended)


def full_disk(campaign: "Campaign", folder: RunFolder, draw: "Draw") -> Iterator[str]:
    """A disk that is full at an operation, in the middle of a write, for good or for a moment."""
    tiny, stays = campaign.tiny, bool(draw.rng.integers(2))
    points = [point for point in campaign.operations if point.operation in ("open", "write", "fsync", "mkdir")]
    point = draw.pick(points)
    yield f"{point}, {'stays full' if stays else 'once'}"
    ended = tiny.start(folder, FullDisk(folder.path, point, stays=stays).install).wait()
    if ended.code or point.place != "tensorboard":
        ended.require_one_line(str(folder.path))
        ended.require_one_line("No space left on device")
    tiny.require_continues(folder, ended)


def file_size_limit(campaign: "Campaign", folder: RunFolder, draw: "Draw") -> Iterator[str]:
    """The system's own limit on the size of files, which any of them may meet."""
    tiny, largest = campaign.tiny, campaign.tiny.straight.last.stat().st_size
    limit = int(2 ** draw.rng.uniform(12, largest.bit_length()))
    yield f"{limit} bytes"
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    ended = tiny.start(folder, partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, hard))).wait()
    if ended.code:
        ended.require_one_line(str(folder.path))
        ended.require_one_line("File too large")
    tiny.require_continues(folder, ended)


def address_space(campaign: "Campaign", folder: RunFolder, draw: "Draw") -> Iterator[str]:
    """No more memory than the process has and a little, from the start or from a step on."""
    tiny, step, room = campaign.tiny, int(draw.rng.integers(STEPS)), int(2 ** draw.rng.uniform(10, 28))
    yield f"{room} bytes from step {step}"

    def limit(done: int = 0) -> None:
        if done == step:
            with open("/proc/self/statm") as statm:
                size = int(statm.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + room, resource.getrlimit(resource.RLIMIT_AS)[1]))

    ended = tiny.start(folder, limit, limit).wait()
    if ended.code:
        ended.require_one_line("memory")
    tiny.require_continues(folder, ended)
