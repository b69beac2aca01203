"""Evaluation of a batch in chunks of pixels, for the engines that run as PyTorch operations.

A chunk is (C, P): all classes of P pixels of one image. Memory beyond the inputs and the gradient is bounded by the
chunk, whatever the batch, and any strides are accepted, because only the chunk is ever made contiguous. How large a
chunk is depends on the device: ``windows_on``.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fpl_fast.engines.windows import EAGERLY, GradientWindows, Interpolation, LogitWindows, Spare, Window
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
        place: Callable[[], Tensor] | None,
        with_stats: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Evaluate (C, P) logits; ``options.threshold`` may be a tensor of these pixels' thresholds, (P,).

        Returns:
            The terms of every pixel in the order of ``arguments.SUMS``, (NUM_SUMS, P), or the first one alone, (1, P),
            without ``with_stats``; zero where not valid.
            scale times the derivative of the first term, (C, P) of the student's dtype, in the ``Chunk.place`` or in
            new memory; None without a place.
        """
        ...


class Chunking(NamedTuple):
    """The way that an engine goes through an image."""

    pixels: int  # of a chunk beside a CPU
    interpolation: Interpolation = EAGERLY


class Engine(NamedTuple):
    """Evaluation of chunks of the fuzzy positive loss by an engine."""

    evaluate: PixelFunction
    chunking: Chunking


class Chunk(NamedTuple):
    """The pixels of a window of one image, side by side."""

    student: Tensor  # (C, P)
    teacher: Tensor  # (C, P), the partner's where the mask mixes it in
    pixel_weight: Tensor | None  # (P,)
    valid: Tensor | None  # (P,) bool
    threshold: Tensor | None  # (P,), where pixels have thresholds of their own
    place: Callable[[], Tensor] | None = None
    """Gives memory for the gradient, (C, P), which an engine may use; None where no gradient is wanted."""


ChunkLoss = Callable[[Chunk], tuple[Tensor, Tensor | None]]
"""Terms of every pixel, (R, P), zero where not valid, and the derivative of the first one, (C, P), or None without a
place."""


def loss_sums(
    inputs: LossInputs, evaluate: ChunkLoss, num_sums: int, chunking: Chunking, *, with_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """The sums of the terms over all pixels, (num_sums,), 0 for terms that there are not; the gradient."""
    grad = torch.empty_like(inputs.student) if with_grad else None
    sums = torch.zeros(num_sums, dtype=torch.float64, device=inputs.student.device)
    of_logits, of_gradient = Spare(), Spare()
    for image in range(len(inputs.student)):
        gradient = None
        if grad is not None:
            gradient = GradientWindows(
                grad[image], inputs.size, inputs.align_corners, chunking.interpolation, of_gradient
            )
        for window, chunk in _chunks(inputs, image, chunking, of_logits):
            place = None if gradient is None else partial(gradient.place, window)
            terms, grad_chunk = evaluate(chunk._replace(place=place))
            sums[: len(terms)] += _sum_of_pixels(terms)
            if gradient is not None and grad_chunk is not None:
                gradient.add(window, grad_chunk)
        if gradient is not None:
            gradient.finish()
    return sums.to(accumulate_dtype(inputs.student, inputs.teacher)), grad


def loss_map(inputs: LossInputs, evaluate: ChunkLoss, chunking: Chunking) -> Tensor:
    """The first term of every pixel, (N, H, W)."""
    dtype = accumulate_dtype(inputs.student, inputs.teacher)
    losses = torch.empty(inputs.pixels(), dtype=dtype, device=inputs.student.device)
    spare = Spare()
    for image in range(len(inputs.student)):
        for window, chunk in _chunks(inputs, image, chunking, spare):
            terms, _ = evaluate(chunk)
            target = losses[image, window.rows, window.columns]
            target.copy_(terms[0].view_as(target))
    return losses


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
    evaluate = partial(_fuzzy, engine, options, scale, with_stats=with_stats)
    return loss_sums(inputs, evaluate, NUM_SUMS, engine.chunking, with_grad=with_grad)


def fuzzy_positive_map(engine: Engine, inputs: LossInputs, options: LossOptions) -> Tensor:
    """The first term of every pixel, (N, H, W)."""
    evaluate = partial(_fuzzy, engine, options, None, with_stats=False)
    return loss_map(inputs, evaluate, engine.chunking)


def _fuzzy(
    engine: Engine, options: LossOptions, scale: Tensor | None, chunk: Chunk, *, with_stats: bool
) -> tuple[Tensor, Tensor | None]:
    student, teacher, pixel_weight, valid, threshold, place = chunk
    of_pixels: Any = threshold
    options = options if threshold is None else options._replace(threshold=of_pixels)
    return engine.evaluate(
        student, teacher, pixel_weight, valid, scale, options=options, place=place, with_stats=with_stats
    )


def _sum_of_pixels(terms: Tensor) -> Tensor:
    """Sums over the pixels, (R, P) to (R,) float64.

    On a CPU in parts that PyTorch does not split among threads: their order would depend on the number of threads, and
    a part takes less time than to wait for a thread.
    """
    part = terms.shape[1] if terms.device.type != "cpu" else max(1, UNSPLIT_NUMBERS // len(terms))
    return torch.stack([x.sum(1, dtype=torch.float64) for x in terms.split(max(1, part), 1)]).sum(0)


class TeacherWindows:
    """Reads windows of one image's teacher, the partner where the mask mixes it in."""

    def __init__(self, inputs: LossInputs | TeacherInputs, image: int, dtype: torch.dtype) -> None:
        self.logits = LogitWindows(_teachers(inputs, image), inputs.size, inputs.align_corners, dtype)
        self.inputs, self.image = inputs, image

    def columns(self, window: Window) -> Tensor:
        """The logits of a window, (C, P)."""
        return _mix(self.logits.columns(window), self.inputs, self.image, window)


def _chunks(inputs: LossInputs, image: int, chunking: Chunking, spare: Spare) -> Iterator[tuple[Window, Chunk]]:
    """The windows of one image, each with its chunk."""
    dtype, chunk_pixels = accumulate_dtype(inputs.student, inputs.teacher), chunking.pixels
    given = [inputs.student[image], *_teachers(inputs, image)]
    logits = LogitWindows(given, inputs.size, inputs.align_corners, dtype, chunking.interpolation, spare)
    _, height, width = inputs.pixels()
    if inputs.size is not None:
        chunk_pixels = min(chunk_pixels, chunking.interpolation.window_pixels)
    for window in windows_on(inputs.student.device, inputs.student.shape[1], height, width, chunk_pixels):
        student, *teachers = logits.columns(window)
        weight, valid, threshold = (
            pixels_of(x, image, window) for x in (inputs.pixel_weight, inputs.valid_mask, inputs.threshold)
        )
        yield window, Chunk(student, _mix(teachers, inputs, image, window), weight, valid, threshold)


def _teachers(inputs: LossInputs | TeacherInputs, image: int) -> list[Tensor]:
    """The teacher's logits of one image, and its partner's if there is one."""
    return [x[image] for x in (inputs.teacher, inputs.partner) if x is not None]


def _mix(teachers: Sequence[Tensor], inputs: LossInputs | TeacherInputs, image: int, window: Window) -> Tensor:
    """The teacher's logits of a window, (C, P), the partner's where the mask mixes them in."""
    own, *partner = teachers
    mixed = pixels_of(inputs.mix_mask, image, window)
    return torch.where(mixed, partner[0], own) if partner and mixed is not None else own


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
