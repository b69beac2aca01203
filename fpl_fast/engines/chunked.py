"""Evaluation of a batch in chunks of pixels, for the engines that run as PyTorch operations.

A chunk is (C, P): all classes of P pixels of one image. Memory beyond the inputs and the gradient is bounded by the
chunk, whatever the batch, and any strides are accepted, because only the chunk is ever made contiguous. How large a
chunk is depends on the device: ``windows_on``.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fpl_fast.engines.windows import EAGERLY, GradientWindows, Interpolation, LogitWindows, Window
from fpl_fast.kernels.arguments import NUM_SUMS, LossInputs, LossOptions, TeacherInputs
from fpl_fast.reference import accumulate_dtype

# PyTorch's grain: it splits operations on as many numbers, or more, among threads.
UNSPLIT_NUMBERS = (1 << 15) - 1

# Logits of a chunk beside a CPU: 64 MB a temporary in float32, of which the eager engine has about ten.
DEVICE_CHUNK_LOGITS = 1 << 24


class PixelFunction(Protocol):
    """Loss of one chunk, the function that an engine implements."""

    def __call__(
        self,
        student: Tensor,
        teacher: Tensor,
        pixel_weight: Tensor | None,
        valid: Tensor | None,
        scale: Tensor | None,
        *,
        options: LossOptions,
        with_grad: bool,
        with_stats: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Evaluate (C, P) logits; ``options.threshold`` may be a tensor of these pixels' thresholds, (P,).

        Returns:
            The terms of every pixel in the order of ``arguments.SUMS``, (NUM_SUMS, P), or the first one alone, (1, P),
            without ``with_stats``; zero where not valid.
            scale times the derivative of the first term, (C, P) of the student's dtype, or None.
        """
        ...


class Engine(NamedTuple):
    """Evaluation of chunks by an engine."""

    evaluate: PixelFunction
    chunk_pixels: int  # beside a CPU
    interpolation: Interpolation = EAGERLY


def fuzzy_positive_sums(
    engine: Engine,
    inputs: LossInputs,
    options: LossOptions,
    *,
    scale: Tensor | None,
    with_grad: bool,
    with_stats: bool,
) -> tuple[Tensor, Tensor | None]:
    """The sums over all pixels, and the gradient with the student's strides."""
    grad = torch.empty_like(inputs.student) if with_grad else None
    sums = torch.zeros(NUM_SUMS, dtype=torch.float64, device=inputs.student.device)
    for image in range(len(inputs.student)):
        gradient = None
        if grad is not None:
            gradient = GradientWindows(grad[image], inputs.size, inputs.align_corners, engine.interpolation)
        for window, student, teacher in logit_chunks(inputs, image, engine.chunk_pixels, engine.interpolation):
            terms, grad_chunk = engine.evaluate(
                student,
                teacher,
                pixels_of(inputs.pixel_weight, image, window),
                pixels_of(inputs.valid_mask, image, window),
                scale,
                options=_options_of(inputs, options, image, window),
                with_grad=with_grad,
                with_stats=with_stats,
            )
            sums[: len(terms)] += _sum_of_pixels(terms)
            if gradient is not None and grad_chunk is not None:
                gradient.add(window, grad_chunk)
        if gradient is not None:
            gradient.finish()
    return sums.to(accumulate_dtype(inputs.student, inputs.teacher)), grad


def _sum_of_pixels(terms: Tensor) -> Tensor:
    """Sums over the pixels, (R, P) to (R,) float64.

    On a CPU in parts that PyTorch does not split among threads: their order would depend on the number of threads, and
    a part takes less time than to wait for a thread.
    """
    part = terms.shape[1] if terms.device.type != "cpu" else max(1, UNSPLIT_NUMBERS // len(terms))
    return torch.stack([x.sum(1, dtype=torch.float64) for x in terms.split(max(1, part), 1)]).sum(0)


def fuzzy_positive_map(engine: Engine, inputs: LossInputs, options: LossOptions) -> Tensor:
    """The first term of every pixel, (N, H, W)."""
    dtype = accumulate_dtype(inputs.student, inputs.teacher)
    losses = torch.empty(inputs.pixels(), dtype=dtype, device=inputs.student.device)
    for image in range(len(inputs.student)):
        for window, student, teacher in logit_chunks(inputs, image, engine.chunk_pixels, engine.interpolation):
            terms, _ = engine.evaluate(
                student,
                teacher,
                pixels_of(inputs.pixel_weight, image, window),
                pixels_of(inputs.valid_mask, image, window),
                None,
                options=_options_of(inputs, options, image, window),
                with_grad=False,
                with_stats=False,
            )
            target = losses[image, window.rows, window.columns]
            target.copy_(terms[0].view_as(target))
    return losses


class TeacherWindows:
    """Reads windows of one image's teacher, the partner where the mask mixes it in."""

    def __init__(self, inputs: LossInputs | TeacherInputs, image: int, dtype: torch.dtype) -> None:
        self.logits = LogitWindows(_teachers(inputs, image), inputs.size, inputs.align_corners, dtype)
        self.inputs, self.image = inputs, image

    def columns(self, window: Window) -> Tensor:
        """The logits of a window, (C, P)."""
        return _mix(self.logits.columns(window), self.inputs, self.image, window)


def logit_chunks(
    inputs: LossInputs, image: int, chunk_pixels: int, interpolation: Interpolation = EAGERLY
) -> Iterator[tuple[Window, Tensor, Tensor]]:
    """The windows of one image with the student's and the (mixed) teacher's logits there, (C, P)."""
    dtype = accumulate_dtype(inputs.student, inputs.teacher)
    given = [inputs.student[image], *_teachers(inputs, image)]
    logits = LogitWindows(given, inputs.size, inputs.align_corners, dtype, interpolation)
    _, height, width = inputs.pixels()
    if inputs.size is not None:
        chunk_pixels = min(chunk_pixels, interpolation.window_pixels)
    for window in windows_on(inputs.student.device, inputs.student.shape[1], height, width, chunk_pixels):
        student, *teachers = logits.columns(window)
        yield window, student, _mix(teachers, inputs, image, window)


def _teachers(inputs: LossInputs | TeacherInputs, image: int) -> list[Tensor]:
    """The teacher's logits of one image, and its partner's if there is one."""
    return [x[image] for x in (inputs.teacher, inputs.partner) if x is not None]


def _mix(teachers: Sequence[Tensor], inputs: LossInputs | TeacherInputs, image: int, window: Window) -> Tensor:
    """The teacher's logits of a window, (C, P), the partner's where the mask mixes them in."""
    own, *partner = teachers
    mixed = pixels_of(inputs.mix_mask, image, window)
    return torch.where(mixed, partner[0], own) if partner and mixed is not None else own


def _options_of(inputs: LossInputs, options: LossOptions, image: int, window: Window) -> LossOptions:
    """The options with the thresholds of a window's pixels, where pixels have thresholds of their own."""
    threshold: Any = pixels_of(inputs.threshold, image, window)
    return options if threshold is None else options._replace(threshold=threshold)


def pixels_on(device: torch.device, num_channels: int, cpu_pixels: int) -> int:
    """Choose the pixels of a chunk of (num_channels, P) numbers for a device.

    On a CPU the chunk should stay in cache: ``cpu_pixels``. Elsewhere each operation on a chunk is a launch, and there
    should be few: ``DEVICE_CHUNK_LOGITS`` numbers, at least ``cpu_pixels``.

    Measured on an H200 in bfloat16, with chunks of a CPU's size: the eager engine took 36 ms for 8 x 19 x 512 x 512 and
    792 ms for 16 x 19 x 800 x 800 from 200 x 200, the equations on the whole batch 12 and 61 ms. With chunks of this
    size it has not been measured yet.
    """
    return cpu_pixels if device.type == "cpu" else max(cpu_pixels, DEVICE_CHUNK_LOGITS // num_channels)


def windows_on(device: torch.device, num_classes: int, height: int, width: int, cpu_pixels: int) -> Iterator[Window]:
    """Windows that cover an image, as large as ``pixels_on`` says."""
    return windows(height, width, pixels_on(device, num_classes, cpu_pixels))


def windows(height: int, width: int, chunk_pixels: int) -> Iterator[Window]:
    """Yield windows that cover an image: whole rows where a row fits into a chunk, otherwise parts of one row."""
    num_columns = max(1, min(width, chunk_pixels))
    num_rows = max(1, chunk_pixels // num_columns)
    for row in range(0, height, num_rows):
        for column in range(0, width, num_columns):
            yield Window(slice(row, min(row + num_rows, height)), slice(column, min(column + num_columns, width)))


def pixels_of(mask: Tensor | None, image: int, window: Window) -> Tensor | None:
    """The window of a per-pixel tensor, (N, H, W) to (P,)."""
    return None if mask is None else mask[image, window.rows, window.columns].flatten()
