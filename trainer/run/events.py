"""TensorBoard: the scalars of a run, its configuration, and pictures."""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import hparams, image, scalar, text

from fpl_fast.trainer.writing.replacing import naming

__all__ = ["Events"]

_PREFIX = "events.out.tfevents."  # TensorBoard's; the seconds, host, process and number of the writer follow


class Events:
    """Appends to the events of a run.

    Each call writes before it returns. ``SummaryWriter`` leaves that to a thread: a kill loses what it has not written,
    and an error of the disk appears as the thread's traceback, and later.

    Args:
        folder: Folder of the events.
        step: Step that the run continues from; later events, of steps that will be repeated, are dropped.

    Raises:
        OSError: The file could not be written; from the methods as well.
    """

    def __init__(self, folder: Path, *, step: int = 0) -> None:
        folder.mkdir(exist_ok=True)
        _put_before_now(folder)
        self._path = folder / f"{_PREFIX}{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.0"
        self._file = self._path.open("ab")
        start = SessionLog(status=SessionLog.START)
        self._write(Event(file_version="brain.Event:2"), Event(step=step + 1, session_log=start))

    def _write(self, *events: Event) -> None:
        records = RecordWriter(self._file)
        with naming(self._path):
            for event in events:
                event.wall_time = time.time()
                records.write(event.SerializeToString())
            self._file.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write values by name."""
        self._write(*(Event(step=step, summary=scalar(name, value)) for name, value in values.items()))

    def configuration(self, settings: Mapping[str, Any]) -> None:
        """Write all settings, by dotted key, as text and as hyperparameters, with mIoU as their score."""
        lines = yaml.safe_dump(dict(settings), sort_keys=False, default_flow_style=None, width=120).splitlines()
        plain = {key: value if isinstance(value, bool | int | float) else str(value) for key, value in settings.items()}
        summaries = [text("config", "".join(f"    {line}\n" for line in lines)), *hparams(plain, {"val/miou": 0.0})]
        self._write(*(Event(summary=summary) for summary in summaries))

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Write pictures (H, W, 3) uint8 by name."""
        drawn = (image(name, picture, dataformats="HWC") for name, picture in pictures.items())
        self._write(*(Event(step=step, summary=summary) for summary in drawn))

    def close(self) -> None:
        """Close the file."""
        with naming(self._path):
            self._file.close()


def _put_before_now(folder: Path) -> None:
    """Rename earlier files if a new one would not be the last by name, the order in which TensorBoard reads them.

    It would not be within the same second, or where the clock was set back.
    """
    earlier = sorted(folder.glob(f"{_PREFIX}*"))
    if earlier and earlier[-1].name >= f"{_PREFIX}{int(time.time()):010d}":
        for place, path in enumerate(earlier):
            path.rename(path.with_name(f"{_PREFIX}{place:010d}.{path.name.removeprefix(_PREFIX).partition('.')[2]}"))
