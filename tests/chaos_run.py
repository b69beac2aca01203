"""The tiny run as a process of its own, which may be disturbed, and what must hold once it has ended.

Processes are forked from one that has imported everything, because importing takes longer than a run. They go through
the command line as a user's do: ``fpl-fast train CONFIG --out FOLDER --auto-resume``, repeated until the run is done.
"""

import atexit
import csv
import dataclasses
import importlib
import json
import mmap
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from test_loop import TIMES, assert_same_state, metrics
from trainer_runs import HANGS, tiny_run

from fpl_fast.trainer import loop
from fpl_fast.trainer.cli import main
from fpl_fast.trainer.config import RunConfig
from fpl_fast.trainer.config.io import save_config
from fpl_fast.trainer.run.checkpoint import load_checkpoint
from fpl_fast.trainer.run.folder import RunFolder

for _name in ("commands.train", "commands.progress", "report"):  # which a command imports when it needs them
    importlib.import_module(f"fpl_fast.trainer.{_name}")

STEPS, INTERVAL, EVALUATIONS = 5, 3, 2
SAVES = (2, 3, 4, 5)
"""Steps after which a checkpoint is written: of an evaluation, by the interval alone, and at the end."""


def chaos_config(**changes) -> RunConfig:
    """Configure five steps with every file that a run writes; ``changes`` are of its sections."""
    config = tiny_run()
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, head="ael"),  # which has dropout: the generators move
        train=dataclasses.replace(config.train, steps=STEPS, checkpoint_every=INTERVAL, loggers=("csv",)),
        eval=dataclasses.replace(config.eval, every=EVALUATIONS),
    )
    return dataclasses.replace(config, **changes)


class Ended(NamedTuple):
    """The end of a process.

    Attributes:
        code: Exit code; of a process that a signal ended, its negative number.
        reached: Steps of the run that were done by then.
        said: Standard output and standard error.
    """

    code: int
    reached: int
    said: str

    def require_one_line(self, pattern: str) -> None:
        """Require a user's error: exit code 2 and one line that says why."""
        # Python reports by itself what a signal raises where nobody can take it, and goes on.
        said = re.sub(r"^Exception ignored in: (?:.*\n)+?\w+: .*\n", "", self.said, flags=re.M)
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert self.code == 2 and len(errors) == 1 and "Traceback" not in said, self
        assert pattern in errors[0], errors[0]


class Process:
    """A process that trains.

    Args:
        arguments: Of ``fpl-fast``.
        output: File for what it says.
        prepare: Called in it before the command.
        on_step: Called in it after each step, with the steps done.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        output: Path,
        prepare: Callable[[], object] = lambda: None,
        on_step: Callable[[int], object] = lambda step: None,
    ) -> None:
        self._output, self._reached = output, mmap.mmap(-1, 1)
        self._code: int | None = None
        sys.stdout.flush(), sys.stderr.flush()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])  # until it runs the command
        self.number = os.fork()
        if self.number == 0:
            code = 1
            try:
                os.setpgid(0, 0)
                _write_to(output)
                torch.set_num_threads(1)  # before threads ask PyTorch all at once for a pool that a fork broke
                # A shell that starts the campaign in the background may have told it to ignore Ctrl-C.
                signal.signal(signal.SIGINT, signal.default_int_handler)
                self._count(on_step)
                prepare()
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                code = main(arguments)
            except KeyboardInterrupt:  # before the command
                code = 130
            except BaseException:
                traceback.print_exc()
            finally:
                atexit._run_exitfuncs()
                sys.stdout.flush(), sys.stderr.flush()
                os._exit(code)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        with suppress(OSError):  # it may have ended
            os.setpgid(self.number, self.number)  # whichever of the two comes first

    def _count(self, on_step: Callable[[int], object]) -> None:
        take = loop.train_step

        def train_step(fabric, module, optimizer, batch, progress, **options):
            values = take(fabric, module, optimizer, batch, progress, **options)
            self._reached[0] = round(progress * STEPS) + 1
            on_step(self._reached[0])
            return values

        loop.train_step = train_step

    @property
    def reached(self) -> int:
        """Steps of the run that are done; 0 before the first."""
        return self._reached[0]

    def send(self, number: int) -> None:
        """Send a signal to the process and its loaders, as a terminal or a scheduler does."""
        with suppress(ProcessLookupError):  # it may have ended
            os.killpg(self.number, number)

    def wait(self) -> Ended:
        """Wait until it ends, and end the loaders that it left."""
        deadline = time.monotonic() + HANGS
        while self.lives():
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
                raise AssertionError(f"a process hangs: {self._output.read_text()}")
            time.sleep(0.01)
        self.send(signal.SIGKILL)
        assert self._code is not None
        return Ended(self._code, self.reached, self._output.read_text())

    def lives(self) -> bool:
        """Whether it has not ended."""
        if self._code is None:
            ended, status = os.waitpid(self.number, os.WNOHANG)
            if ended:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code is None


def _write_to(output: Path) -> None:
    number = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(number, 1), os.dup2(number, 2)
    sys.stdout, sys.stderr = (os.fdopen(os.dup(place), "w", buffering=1) for place in (1, 2))


class TinyRun:
    """A configuration, the run of it that nothing disturbs, and the requirements on every other.

    Args:
        parent: Folder of its runs.
        config: The configuration.
        defect: Called in every process that is not the straight run's, to damage the product.
    """

    def __init__(self, parent: Path, config: RunConfig, defect: Callable[[], object] = lambda: None) -> None:
        parent.mkdir(parents=True)
        self.parent, self._config, self.defect = parent, parent / "config.yaml", defect
        save_config(config, self._config)
        self.straight = RunFolder(parent / "straight")

    def train_straight(self, prepare: Callable[[], object] = lambda: None) -> None:
        """Train without a disturbance."""
        ended = Process(self.arguments(self.straight), self.parent / "straight.txt", prepare).wait()
        assert ended.code == 0, ended.said

    def arguments(self, folder: RunFolder) -> list[str]:
        """Arguments of ``fpl-fast`` to begin or to continue a run."""
        return ["train", str(self._config), "--out", str(folder.path), "--auto-resume"]

    def start(
        self,
        folder: RunFolder,
        prepare: Callable[[], object] = lambda: None,
        on_step: Callable[[int], object] = lambda step: None,
        options: Sequence[str] = (),
    ) -> Process:
        """Start a process that begins or continues the run in ``folder``, with further options."""

        def prepare_all() -> None:
            self.defect()
            prepare()

        number = len(list(self.parent.glob(f"{folder.path.name}.*.txt")))
        output = self.parent / f"{folder.path.name}.{number}.txt"
        return Process([*self.arguments(folder), *options], output, prepare_all, on_step)

    def require_kept(self, folder: RunFolder, reached: int, *, since: int = 0) -> int:
        """Require that checkpoints can be read and that at most one interval is lost; return the step kept.

        A step whose checkpoint is due may have ended in the middle of it; all earlier ones must be there.

        Args:
            folder: The run.
            reached: Steps that were done.
            since: Step that the process continued from.
        """
        kept = {path.name: load_checkpoint(path)["step"] for path in (folder.last, folder.best) if path.is_file()}
        newest = folder.newest_checkpoint()
        step = kept[newest.name] if newest else 0
        promised = max((save for save in SAVES if save < reached), default=0)
        assert max(promised, since) <= step <= max(reached, since), (kept, promised, reached)
        return step

    def require_continues(
        self, folder: RunFolder, ended: Ended, *, since: int = 0, options: Sequence[str] = ()
    ) -> None:
        """Require what was promised at the end of a process, and that the same command ends as the straight run did."""
        self.require_kept(folder, ended.reached, since=since)
        again = self.start(folder, options=options).wait()
        assert again.code == 0, again.said
        self.require_same(folder)

    def require_same(self, folder: RunFolder) -> None:
        """Require a finished run equal to the straight one, in every file but for the clock's times."""
        straight = self.straight
        assert_same_state(folder.last, straight.last)
        assert_same_state(folder.best, straight.best)
        assert metrics(folder) == metrics(straight), (metrics(folder), metrics(straight))
        assert _table(folder) == _table(straight), (_table(folder), _table(straight))
        for name in ("evaluation.json", "confusion.csv"):
            assert (folder.path / name).read_bytes() == (straight.path / name).read_bytes(), name
        with np.load(folder.samples) as ours, np.load(straight.samples) as theirs:
            assert ours.files == theirs.files and all(np.array_equal(ours[name], theirs[name]) for name in ours.files)
        names = [sorted(_names(run)) for run in (folder, straight)]
        assert names[0] == names[1], names
        # The code may have got another commit meanwhile.
        assert json.loads(folder.environment.read_text()).keys() == json.loads(straight.environment.read_text()).keys()


def _table(folder: RunFolder) -> list[dict[str, str]]:
    """Rows of the CSV file without the clock's columns."""
    with (folder.csv / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if name.partition("/")[2] not in TIMES} for row in rows]


def _names(folder: RunFolder) -> set[str]:
    """Files of a run but for TensorBoard's, of which each process writes one."""
    paths = (path.relative_to(folder.path) for path in folder.path.rglob("*"))
    return {str(path) for path in paths if path.parts[0] != "tensorboard"}
