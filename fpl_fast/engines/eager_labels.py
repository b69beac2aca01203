"""The eager engine of the cross entropy with labels: chunk by chunk, with the gradient in closed form."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fpl_fast.engines.chunked import pixels_of, windows_on
from fpl_fast.engines.windows import GradientWindows, LogitWindows, Window
from fpl_fast.kernels.arguments import NUM_LABEL_SUMS, LabelInputs
from fpl_fast.reference import accumulate_dtype
from fpl_fast.valid_labels import is_labelled

# A chunk of 19 float32 classes is 1.2 MB and stays in a core's cache: on a CPU, 2 x 19 x 512 x 512 from 128 x 128 takes
# half the time of upsampling and PyTorch's cross entropy; with chunks four times as large it takes more (one thread).
CHUNK_PIXELS = 1 << 14


def cross_entropy_sums(inputs: LabelInputs, *, scale: Tensor | None, with_grad: bool) -> tuple[Tensor, Tensor | None]:
    """The sums of ``arguments.LABEL_SUMS``, and scale times the derivative of the first one, or None."""
    grad = torch.empty_like(inputs.student) if with_grad else None
    sums = torch.zeros(NUM_LABEL_SUMS, dtype=torch.float64, device=inputs.student.device)
    for image in range(len(inputs.student)):
        gradient = None if grad is None else GradientWindows(grad[image], inputs.size, inputs.align_corners)
        for window, chunk in _chunks(inputs, image):
            sums += torch.stack([chunk.weighted, chunk.valid, chunk.factor]).sum(dim=1, dtype=torch.float64)
            if gradient is not None:
                slope = chunk.factor if scale is None else chunk.factor * scale
                gradient.add(window, chunk.gradient() * slope)
        if gradient is not None:
            gradient.finish()
    return sums.to(accumulate_dtype(inputs.student)), grad


def cross_entropy_map(inputs: LabelInputs) -> Tensor:
    """The first term of every pixel, (N, H, W), 0 where ignored."""
    losses = torch.empty(inputs.pixels(), dtype=accumulate_dtype(inputs.student), device=inputs.student.device)
    for image in range(len(inputs.student)):
        for window, chunk in _chunks(inputs, image):
            target = losses[image, window.rows, window.columns]
            target.copy_(chunk.weighted.view_as(target))
    return losses


class _Chunk:
    """The cross entropy of (C, P) logits z with labels y: L = log sum exp(z) - z_y; ignored pixels are all zero."""

    def __init__(self, logits: Tensor, label: Tensor, pixel_weight: Tensor | None, inputs: LabelInputs) -> None:
        counts = is_labelled(label, inputs.ignore_index)
        # A fill, not a product: NaN in an ignored pixel must not survive.
        self.z = logits.to(accumulate_dtype(logits)).masked_fill(~counts, 0)
        self.valid = counts.to(self.z.dtype)
        label = label.long()
        exists = (label >= 0) & (label < len(logits))
        self.label = label.where(exists, 0)
        self.factor = self.valid if pixel_weight is None else pixel_weight.masked_fill(~counts, 0)
        if inputs.class_weight is not None:
            self.factor = self.factor * inputs.class_weight[self.label]
        # Less the largest: beside a large logit, the logarithm of the sum would be rounded off.
        shifted = self.z - self.z.amax(0)
        self.masses = shifted.exp()
        self.total = self.masses.sum(0)
        # A label that is no class, like a logit that is not finite, gives NaN.
        self.poison = (0 * self.z).sum(0).masked_fill(counts & ~exists, float("nan"))
        loss = self.total.log() - shifted.gather(0, self.label[None])[0] + self.poison
        self.weighted = self.factor * loss

    def gradient(self) -> Tensor:
        """The derivative of L, softmax(z) minus the label's one-hot vector, (C, P)."""
        gradient = self.masses / self.total + self.poison
        return gradient.scatter_add(0, self.label[None], -torch.ones_like(gradient[:1]))


def _chunks(inputs: LabelInputs, image: int) -> Iterator[tuple[Window, _Chunk]]:
    logits = LogitWindows([inputs.student[image]], inputs.size, inputs.align_corners, accumulate_dtype(inputs.student))
    _, height, width = inputs.pixels()
    for window in windows_on(inputs.student.device, inputs.student.shape[1], height, width, CHUNK_PIXELS):
        label = inputs.target[image, window.rows, window.columns].flatten()
        (z,) = logits.columns(window)
        yield window, _Chunk(z, label, pixels_of(inputs.pixel_weight, image, window), inputs)
