"""The eager engine of a teacher's predictions, in chunks. Runs on every device."""

from torch import Tensor

from fpl_fast.engines.chunked import TeacherWindows, windows_on
from fpl_fast.engines.windows import UPSAMPLED_CHUNK_PIXELS
from fpl_fast.kernels.arguments import PseudoLabelOptions, PseudoLabels, TeacherInputs
from fpl_fast.reference import accumulate_dtype


def pseudo_labels(inputs: TeacherInputs, options: PseudoLabelOptions) -> PseudoLabels:
    """The predictions of every pixel."""
    dtype = accumulate_dtype(inputs.teacher)
    found = PseudoLabels.empty(inputs, options, dtype)
    n, height, width = inputs.pixels()
    for image in range(n):
        teacher = TeacherWindows(inputs, image, dtype)
        for window in windows_on(inputs.teacher.device, inputs.teacher.shape[1], height, width, UPSAMPLED_CHUNK_PIXELS):
            logits = teacher.columns(window).to(dtype)
            for target, values in zip(found, _predict(logits, options), strict=True):
                if target is not None and values is not None:
                    there = target[image, window.rows, window.columns]
                    there.copy_(values.view_as(there))
    return found


def _predict(logits: Tensor, options: PseudoLabelOptions) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Label, confidence, entropy and K of (C, P) logits."""
    top, label = logits.max(0)
    below = logits - top
    masses = below.exp()
    total = masses.sum(0)
    moment = (masses * below).masked_fill(masses == 0, 0).sum(0)  # 0 times -inf counts as 0
    entropy = total.log() - moment / total
    if options.threshold is None:
        return label, 1 / total, entropy, None
    cumulative = masses.sort(0, descending=True).values.cumsum(0) / total
    k = (cumulative < options.threshold).sum(0).clamp(1, options.max_positives)
    return label, 1 / total, entropy, k
