"""The protocol by which a network predicts an image, as data.

Shapes: N images, C classes, (H, W) pixels of an image, (h, w) pixels of a network's input or output.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

from fpl_fast import pseudo_labels
from fpl_fast.trainer.upsample import pixel_size, upsample

__all__ = ["PROTOCOLS", "Protocol", "named_protocol", "predict_classes", "predict_logits"]

Window = tuple[slice, slice]  # rows, columns

# Of the windows that go through a network together on a GPU; a single one may have more. Of 800 x 800, six: a step of
# the papers keeps all activations of sixteen such crops, a prediction those of a layer or two.
BATCH_PIXELS = 1 << 22


@dataclass(frozen=True, slots=True)
class Protocol:
    """Rules by which the logits of a whole image are computed, and the part of it that counts.

    Args:
        window: Height and width of a sliding window in pixels, or None to run the image as it is. An image smaller
            than the window, on one side or on both, is padded around its centre with 0 after normalisation, as crops
            are in training, and the padding is cut off again. (The published code of CPS pads with black where one
            side alone is longer than the window; PASCAL VOC and Cityscapes have no such image.)
        stride: Step of the window as a fraction of its size, rounded up to pixels (down where borders cut); the last
            window of a row or column is moved back to the border.
        combine: Quantity that is summed where windows overlap: raw "logits", or "probabilities", whose average is then
            returned as its logarithm.
        centre: Height and width of the centred crop that alone is evaluated, or None for all. A smaller image is
            padded: the image with 0 after normalisation, the label with class 0.
        border: Fate of a window that reaches over the right or the lower border: "shift" moves it back, "cut" ends it
            there, so that an image smaller than a window runs as it is.
        multiple: Number of pixels that the sides of an image without windows are brought to a multiple of, by
            reflecting its right and its lower border; what belongs to these pixels is cut off again.

    Raises:
        ValueError: If a field breaks its rule.

    Example:
        >>> cityscapes = Protocol(window=(800, 800))  # the CPS protocol: eight windows on 1024 x 2048
        >>> voc = Protocol(window=(512, 512))  # no side is longer, so that this pads and runs once
    """

    window: tuple[int, int] | None = None
    stride: float = 2 / 3
    combine: Literal["logits", "probabilities"] = "logits"
    centre: tuple[int, int] | None = None
    border: Literal["shift", "cut"] = "shift"
    multiple: int = 1

    def __post_init__(self) -> None:
        for name in ("window", "centre"):
            size = getattr(self, name)
            if size is not None and min(size) < 1:
                raise ValueError(f"{name} must be at least 1 x 1 or None, got {size}")
        if not 0 < self.stride <= 1:
            raise ValueError(f"stride must be in (0, 1], got {self.stride}")
        if self.combine not in ("logits", "probabilities"):
            raise ValueError(f"combine must be 'logits' or 'probabilities', got {self.combine!r}")
        if self.border not in ("shift", "cut"):
            raise ValueError(f"border must be 'shift' or 'cut', got {self.border!r}")
        if self.multiple < 1:
            raise ValueError(f"multiple must be at least 1 pixel, got {self.multiple}")

    def starts(self, length: int, axis: int) -> list[int]:
        """First pixel of each window along a side (0 = rows, 1 = columns).

        Where windows are moved back, the side is at least as long as one.
        """
        assert self.window is not None
        extent = self.window[axis]
        if self.border == "cut":
            return [*range(0, length, max(1, math.floor(extent * self.stride + 1e-9)))]
        assert length >= extent
        step = math.ceil(extent * self.stride - 1e-9)  # 2/3 of 768 is 512
        return [*range(0, length - extent, step), length - extent]

    def part(self, plane: Tensor) -> Tensor:
        """Cut (..., H, W), a normalised image, a label or a prediction, to the part that counts."""
        return plane if self.centre is None else tv.center_crop(plane, list(self.centre))


# The protocols of the published evaluations, as functions of the size of window or crop.
PROTOCOLS: dict[str, Callable[[tuple[int, int]], Protocol]] = {
    "cps": lambda size: Protocol(window=size),
    "ael": lambda size: Protocol(window=size, combine="probabilities"),
    "ael_crop": lambda size: Protocol(centre=size),
    "cac": lambda size: Protocol(multiple=8),
    "unimatch": lambda size: Protocol(window=size, combine="probabilities", border="cut"),
    "whole": lambda size: Protocol(),
}


def named_protocol(name: str, size: tuple[int, int]) -> Protocol:
    """A published protocol at the size of its window or crop.

    | name       | runs                                                                | source                     |
    |------------|---------------------------------------------------------------------|----------------------------|
    | "cps"      | windows 2/3 apart, raw logits summed                                | CPS, FPL on CPS            |
    | "ael"      | windows 2/3 apart, probabilities averaged                           | AEL, final evaluation      |
    | "ael_crop" | the centred crop alone, padded with class 0 as if that were labelled | AEL, while it trains       |
    | "cac"      | the image, reflected to multiples of 8                              | CAC, CCT                   |
    | "unimatch" | windows 2/3 apart that the border cuts, probabilities averaged      | UniMatch, CorrMatch        |
    | "whole"    | the image as it is                                                  | most later work            |

    Args:
        name: One of ``PROTOCOLS``.
        size: Height and width of the window or crop, pixels: the crop of training. "whole" and "cac" ignore it.

    Raises:
        ValueError: There is no such protocol, or the size is none.

    Example:
        >>> named_protocol("ael", (769, 769)).starts(2048, axis=1)
        [0, 513, 1026, 1279]
    """
    if name not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {name!r}")
    return PROTOCOLS[name](size)


def predict_classes(
    network: Callable[[Tensor], Tensor], image: Tensor, protocol: Protocol, *, num_classes: int | None = None
) -> Tensor:
    """Predict the class of every pixel, (N, H, W) int64, without logits at the size of the image where that can be.

    It can where no windows overlap: nothing is summed then, and the class is all that is needed of a pixel.

    Args:
        network: As in :func:`predict_logits`.
        image: As in :func:`predict_logits`.
        protocol: As in :func:`predict_logits`.
        num_classes: Channels that the network must return; None for any.

    Raises:
        ValueError: The network does not have as many classes.
    """
    padded, inside = _padded(image, protocol)
    if len(_windows(protocol, padded)) == 1:
        logits = _logits_of(network, padded)
        label = pseudo_labels(logits, size=pixel_size(padded)).label.long()
    else:
        logits = _sum_over_windows(network, padded, protocol)
        label = logits.argmax(1)
    if num_classes is not None and logits.shape[1] != num_classes:
        raise ValueError(f"network must return num_classes = {num_classes} channels, got {logits.shape[1]}")
    return label[inside]


def predict_logits(network: Callable[[Tensor], Tensor], image: Tensor, protocol: Protocol) -> Tensor:
    """Compute logits at the size of the image.

    Args:
        network: Images (N, 3, h, w) to logits (N, C, h', w') of any, usually lower, resolution, each image by itself:
            on a GPU, windows go through it several at once. Where it has a ``size_multiple``, as transformers have, it
            sees each image or window resized to the nearest multiple of it; the logits are resized to this size and
            then to the size before (Yang et al. 2025).
        image: (N, 3, H, W) normalised; already cut down to ``protocol.part`` where only a part counts.
        protocol: Whole image or sliding window.

    Returns:
        (N, C, H, W) float32.
    """
    padded, inside = _padded(image, protocol)
    if protocol.window is None:
        return upsample(_logits_of(network, padded), pixel_size(padded))[inside]
    total = _sum_over_windows(network, padded, protocol)
    if protocol.combine == "probabilities":
        # Dividing by the number of windows over a pixel would only shift all its logits equally.
        total = total.clamp_(min=torch.finfo(total.dtype).tiny).log_()
    return total[inside]


def _logits_of(network: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """Logits, float32, to be upsampled to the size of the image."""
    multiple = getattr(network, "size_multiple", 1)
    size = pixel_size(image)
    seen = [max(1, int(side / multiple + 0.5)) * multiple for side in size]
    if seen == list(size):
        return network(image).float()
    return upsample(network(upsample(image, seen)).float(), seen)


def _sum_over_windows(network: Callable[[Tensor], Tensor], image: Tensor, protocol: Protocol) -> Tensor:
    """Sum what the protocol combines over the windows of a padded image, (N, C, H, W) float32."""
    num_images, total = len(image), None
    for batch in _batches(_windows(protocol, image), num_images, batch_pixels(image.device)):
        seen = torch.cat([image[(..., *window)] for window in batch])
        size = pixel_size(seen)
        for window, low in zip(batch, _logits_of(network, seen).split(num_images), strict=True):
            logits = upsample(low, size)  # of one window at a time: only the network sees them together
            if total is None:
                total = logits.new_zeros(*logits.shape[:2], *pixel_size(image))
            total[(..., *window)] += logits.softmax(1) if protocol.combine == "probabilities" else logits
    assert total is not None
    return total


def batch_pixels(device: torch.device) -> int:
    """Pixels that windows may have together: those of one window on a CPU, where more of them mainly take more memory.

    Eight at once took 3.3 times the memory there, and 0.86 (160 x 160) or 1.11 (400 x 400) of the time of one after the
    other (``python -m fpl_fast.bench.windows``).
    """
    return 0 if device.type == "cpu" else BATCH_PIXELS


def _batches(windows: Sequence[Window], num_images: int, pixels: int) -> Iterator[list[Window]]:
    """Yield windows of one size that go through a network together, in parts of nearly equal length."""
    by_size: dict[tuple[int, int], list[Window]] = {}
    for rows, columns in windows:
        by_size.setdefault((rows.stop - rows.start, columns.stop - columns.start), []).append((rows, columns))
    for (height, width), same in by_size.items():
        most = max(1, pixels // (num_images * height * width))
        length = math.ceil(len(same) / math.ceil(len(same) / most))
        yield from (same[first : first + length] for first in range(0, len(same), length))


def _padded(image: Tensor, protocol: Protocol) -> tuple[Tensor, tuple[Any, ...]]:
    """The image as networks or windows see it, and the index of its own pixels there."""
    height, width = pixel_size(image)
    if protocol.window is None:
        return reflected(image, protocol.multiple), (..., slice(height), slice(width))
    missing = [0, 0]
    if protocol.border == "shift":
        missing = [max(0, extent - side) for extent, side in zip(protocol.window, (height, width), strict=True)]
    top, left = missing[0] // 2, missing[1] // 2
    padded = F.pad(image, (left, missing[1] - left, top, missing[0] - top))
    return padded, (..., slice(top, top + height), slice(left, left + width))


def reflected(image: Tensor, multiple: int) -> Tensor:
    """Reflect the right and the lower border of (N, 3, H, W) up to sides that are multiples of a number of pixels.

    A side that is too short for that is reflected again and again.
    """
    for axis in (-2, -1):
        length = image.shape[axis]
        period = max(1, 2 * (length - 1))
        place = torch.arange(-(-length // multiple) * multiple, device=image.device) % period
        image = image.index_select(axis, torch.minimum(place, period - place)) if len(place) > length else image
    return image


def _windows(protocol: Protocol, image: Tensor) -> list[Window]:
    """Rows and columns of each window of a padded image: one window, all of it, where the protocol has none."""
    height, width = pixel_size(image)
    if protocol.window is None:
        return [(slice(0, height), slice(0, width))]
    return [
        (slice(top, min(top + protocol.window[0], height)), slice(left, min(left + protocol.window[1], width)))
        for top in protocol.starts(height, axis=0)
        for left in protocol.starts(width, axis=1)
    ]
