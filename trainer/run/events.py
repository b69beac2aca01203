"""TensorBoard: the scalars of a run, its configuration, IoU by class, and pictures."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from fpl_fast.trainer.data.sample import color_table

__all__ = ["Events"]

_PICTURES = 3
_PIXELS = 384  # of the longer side: pictures are shown small, and every evaluation adds some
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

    def scalars(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Write each value as ``SPLIT/NAME``."""
        for name, value in values.items():
            self._writer.add_scalar(f"{split}/{name}", value, step)

    def configuration(self, settings: Mapping[str, Any]) -> None:
        """Write all settings, by dotted key, as text and as hyperparameters, with mIoU as their score."""
        text = yaml.safe_dump(dict(settings), sort_keys=False, default_flow_style=None, width=120)
        self._writer.add_text("config", "".join(f"    {line}\n" for line in text.splitlines()), 0)
        plain = {key: value if isinstance(value, bool | int | float) else str(value) for key, value in settings.items()}
        for summary in hparams(plain, {"val/miou": 0.0}):
            writer = self._writer.file_writer
            assert writer is not None
            writer.add_summary(summary)

    def evaluation(
        self, step: int, class_names: Sequence[str], iou: Sequence[float], samples: Mapping[str, np.ndarray]
    ) -> None:
        """Write ``iou/CLASS``, and pictures: image, truth and prediction side by side.

        Args:
            step: Step of the weights.
            class_names: C names.
            iou: C values in [0, 1].
            samples: The arrays of ``samples.npz``.
        """
        for name, value in zip(class_names, iou, strict=True):
            self._writer.add_scalar(f"iou/{name}", value, step)
        palette = color_table(samples["palette"])
        for place in range(_PICTURES):
            if f"image_{place}" not in samples:
                break
            image, label, prediction = (samples[f"{name}_{place}"] for name in ("image", "label", "prediction"))
            stride = -(-max(label.shape) // _PIXELS)
            picture = np.concatenate([image, palette[label], palette[prediction]], axis=1)[::stride, ::stride]
            self._writer.add_image(f"samples/{place}", picture, step, dataformats="HWC")

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
