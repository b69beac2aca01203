"""A trained network on image files."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fpl_fast.trainer.data.transforms import normalize
from fpl_fast.trainer.evaluate import predict_logits
from fpl_fast.trainer.trained import TrainedRun
from fpl_fast.trainer.validation import make_protocol

__all__ = ["predict_file"]


@torch.inference_mode()
def predict_file(run: TrainedRun, image_file: Path, target: Path) -> None:
    """Segment one image as the run's evaluation would.

    Args:
        run: Network, normalisation and protocol.
        image_file: Any picture that Pillow reads.
        target: PNG of class indices (uint8) of the picture's size, with the class colours as its palette.

    Raises:
        ValueError: The image cannot be read.
    """
    try:
        with Image.open(image_file) as picture:
            pixels = np.array(picture.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{image_file}: must be a readable image, got {error}") from None
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(run.fabric.device)
    with run.fabric.autocast():
        logits = predict_logits(
            run.network,
            normalize(image, mean=run.config.data.mean, std=run.config.data.std),
            make_protocol(run.config.eval),
        )
    prediction = Image.fromarray(logits.argmax(1)[0].to("cpu", torch.uint8).numpy(), mode="P")
    prediction.putpalette([channel for color in run.val.palette for channel in color])
    prediction.save(target)
