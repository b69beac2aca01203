"""A teacher's prediction of each pixel: most probable class, its probability, entropy, and number of positives."""

import triton
import triton.language as tl

from fpl_fast.kernels.device.arithmetic import LOG2_E
from fpl_fast.kernels.device.assignment import assign_positives
from fpl_fast.kernels.device.classes import class_index, fold_max, fold_min, fold_sum
from fpl_fast.kernels.device.keys import make_key
from fpl_fast.kernels.device.strip import widened
from fpl_fast.kernels.device.teacher import teacher_logits


# No number decides how wide a thread loads its column: see ``upsampled``.
@triton.jit(do_not_specialize=["max_positives", "low_height", "width", "num_pixels"])
def pseudo_labels_kernel(
    teacher,  # Samples, float16, bfloat16 or float32
    partner_ptr,  # the teacher where mix_mask is true, with the strides of teacher, or None
    mix_mask,  # ColumnPixels, bool, or None
    rows,  # Axis of the rows that are upsampled, or None at full resolution
    columns,  # Axis of the columns, or None
    threshold,  # T, float32
    max_positives,  # cap on K, int32, at most C - 1
    label_ptr,  # out (N, P) contiguous, uint8 or int32: the most probable class, the lower one among equals
    confidence_ptr,  # out (N, P) contiguous float32: its probability
    entropy_ptr,  # out (N, P) contiguous float32, in nats
    positives_ptr,  # out (N, P) contiguous int32: K, or None
    low_height,  # h
    width,  # W
    num_pixels,  # P
    C: tl.constexpr,  # classes
    G: tl.constexpr,  # classes in a group: 1 or a power of two
    BLOCK: tl.constexpr,  # columns of a program
    KEY: tl.constexpr,  # see ``keys.make_key``
    CAPPED: tl.constexpr,  # 1, 2 or 3 if max_positives is that number, 0 if it is larger
):
    """The prediction of BLOCK columns of a row of one image."""
    y = tl.program_id(1)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if G > 1:
        column = column[None, :]
    in_bounds = column < width
    t = teacher_logits(teacher, partner_ptr, mix_mask, rows, columns, column, low_height, width, C, G, BLOCK)
    top = t[0]
    for g in tl.static_range(1, len(t)):
        top = tl.maximum(top, t[g])
    top = fold_max(top)

    label = tl.where(t[0] == top, class_index(0, G), C - 1)
    below = t[0] - top
    mass = tl.exp2(below * LOG2_E)
    total = mass
    moment = tl.where(mass > 0, mass * below, 0.0)  # 0 times -inf counts as 0
    for g in tl.static_range(1, len(t)):
        label = tl.minimum(label, tl.where(t[g] == top, class_index(g, G), C - 1))
        below = t[g] - top
        mass = tl.exp2(below * LOG2_E)
        total += mass
        moment += tl.where(mass > 0, mass * below, 0.0)
    total = fold_sum(total)

    out = tl.program_id(2).to(tl.int64) * num_pixels + widened(y) * width + column
    tl.store(label_ptr + out, fold_min(label), mask=in_bounds)
    tl.store(confidence_ptr + out, 1.0 / total, mask=in_bounds)
    tl.store(entropy_ptr + out, tl.log(total) - fold_sum(moment) / total, mask=in_bounds)
    if positives_ptr is not None:
        keys = ()
        for g in tl.static_range(len(t)):
            keys = keys + (make_key(t[g], class_index(g, G), KEY),)
        assigned = assign_positives(keys, t, in_bounds, threshold, max_positives, C, CAPPED, KEY)
        tl.store(positives_ptr + out, assigned[3].to(tl.int32), mask=in_bounds)
