"""TensorBoard: the scalars of a run, its configuration, and pictures."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

__all__ = ["Events"]

_PREFIX = "events.out.tfevents."  # TensorBoard's; the seconds, host, process and number of the writer follow


class Events:
    """Appends to the events of a run.

    Args:
        folder: Folder of the events.
        step: Step that the run continues from; later events, of steps that will be repeated, are dropped.
    """

    def __init__(self, folder: Path, *, step: int = 0) -> None:
        _put_before_now(folder)
        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write values by name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def configuration(self, settings: Mapping[str, Any]) -> None:
        """Write all settings, by dotted key, as text and as hyperparameters, with mIoU as their score."""
        text = yaml.safe_dump(dict(settings), sort_keys=False, default_flow_style=None, width=120)
        self._writer.add_text("config", "".join(f"    {line}\n" for line in text.splitlines()), 0)
        plain = {key: value if isinstance(value, bool | int | float) else str(value) for key, value in settings.items()}
        for summary in hparams(plain, {"val/miou": 0.0}):
            writer = self._writer.file_writer
            assert writer is not None
            writer.add_summary(summary)

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Write pictures (H, W, 3) uint8 by name."""
        for name, picture in pictures.items():
            self._writer.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


def _put_before_now(folder: Path) -> None:
    """Rename earlier files if a new one would not be the last by name, the order in which TensorBoard reads them.

    It would not be within the same second, or where the clock was set back.
    """
    earlier = sorted(folder.glob(f"{_PREFIX}*"))
    if earlier and earlier[-1].name >= f"{_PREFIX}{int(time.time()):010d}":
        for place, path in enumerate(earlier):
            path.rename(path.with_name(f"{_PREFIX}{place:010d}.{path.name.removeprefix(_PREFIX).partition('.')[2]}"))
