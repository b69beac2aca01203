"""The losses from low-resolution logits, interpolated in registers: no upsampled tensor is ever written.

Shapes: logits (N, C, h, w), per-pixel tensors (N, P), P = H * W, by strides (see ``operands``). A program owns BLOCK
high-resolution columns of a strip of cell rows (see ``interpolation``) and marches down it. The gradient of a cell
row's pixels is summed over the rows of each column, weighted once for the row of samples above the cell and once for
that below, which the next cell goes on from. It goes to a buffer that is small, because it has low-resolution rows, and
that no two programs share.
"""

import triton
import triton.language as tl

from fpl_fast.kernels.device.classes import keep, widen
from fpl_fast.kernels.device.distance import distance_pixels
from fpl_fast.kernels.device.interpolation import (
    add,
    add_scaled,
    interpolate,
    load_row,
    own_columns,
    zero_times_change,
    zeros_like,
)
from fpl_fast.kernels.device.labels import labelled_pixels, load_labels
from fpl_fast.kernels.device.pixels import fuzzy_positive_pixels
from fpl_fast.kernels.device.strip import (
    is_on_side,
    load_sides_rows,
    pixels_of_image,
    samples_of_image,
    store_row,
    store_sums,
    widened,
    zero_groups,
    zero_terms,
)


# No number that varies from launch to launch, or with the size, is worth a compilation: a thread loads and stores one
# column at a time, whatever the alignment.
@triton.jit(
    do_not_specialize=[
        "first_image",
        "first_program",
        "num_programs",
        "low_height",
        "width",
        "num_pixels",
        "row_cells",
        "strip_cells",
        "ignore_index",
    ]
)
def upsampled_kernel(
    student,  # Samples, float16, bfloat16 or float32
    teacher,  # Samples, float16, bfloat16 or float32; None for a loss with labels
    partner_ptr,  # the teacher where mix_mask is true, with the strides of teacher, or None
    mix_mask,  # ColumnPixels, bool, or None
    target,  # ColumnPixels, uint8, int32 or int64, instead of a teacher
    class_weight_ptr,  # (C,) float32, for labels, or None for 1
    pixel_weight,  # ColumnPixels, float32, or None for 1
    valid_mask,  # ColumnPixels, bool, or None for all
    threshold,  # ColumnPixels, float32, or None for that of loss_options
    scale_ptr,  # () float32, factor of the gradient; None for the next argument
    scale,  # a number, or None for 1
    rows,  # Axis of the rows
    columns,  # Axis of the columns
    buffer_ptr,  # out (images, strips, strip_cells + 1, C, W) contiguous float32, or None without gradient
    sums_ptr,  # out (terms, programs of all launches) float32, or None
    map_ptr,  # out (N, P) contiguous float32: the first term, or None
    first_image,  # of this launch
    first_program,  # of this launch, in sums_ptr
    num_programs,  # of all launches
    low_height,  # h
    width,  # W
    num_pixels,  # P
    row_cells,  # max(h - 1, 1)
    strip_cells,  # cell rows of a strip
    ignore_index,  # of the labels
    loss_options,  # LossOptions, their names constexpr; None but for the fuzzy positive loss
    C: tl.constexpr,  # classes
    G: tl.constexpr,  # classes in a group: 1 or a power of two
    BLOCK: tl.constexpr,  # columns of a program
    CAPPED: tl.constexpr,  # max_positives if that is 1, 2 or 3, otherwise 0
    CONFIDENCE: tl.constexpr,  # whether confidence_threshold and confidence_power are looked at
    DISTANCE: tl.constexpr,  # "mse" or "kl" for the consistency loss, otherwise None
    KEY: tl.constexpr,  # "float32", or "int64" in tiles
    NUM_TERMS: tl.constexpr,  # of the loss: all, or the first only
    FAST: tl.constexpr,  # libdevice approximations
):
    """One of the losses of a strip of BLOCK columns of one image, and its gradient.

    It is the cross entropy with labels without a teacher, the consistency loss with a distance, or the fuzzy positive
    loss.
    """
    strip = tl.program_id(1)
    image = first_image + tl.program_id(2).to(tl.int64)
    at = own_columns(columns, width, G, BLOCK)
    student = samples_of_image(student, image)
    if teacher is not None:
        teacher = samples_of_image(teacher, image)
    if target is not None:
        target = pixels_of_image(target, image)
    if mix_mask is not None:
        partner_ptr += image * teacher.stride_n
        mix_mask = pixels_of_image(mix_mask, image)
    if valid_mask is not None:
        valid_mask = pixels_of_image(valid_mask, image)
    if pixel_weight is not None:
        pixel_weight = pixels_of_image(pixel_weight, image)
    if threshold is not None:
        threshold = pixels_of_image(threshold, image)
    if scale_ptr is not None:
        scale = tl.load(scale_ptr)
    if buffer_ptr is not None:
        row_size = tl.full((), C, tl.int64) * width
        strip_number = tl.program_id(2).to(tl.int64) * tl.num_programs(1) + strip
        buffer_ptr += strip_number * (strip_cells + 1) * row_size

    MASKED: tl.constexpr = valid_mask is not None or mix_mask is not None
    SIDES: tl.constexpr = 1 if mix_mask is None else 2
    totals = zero_terms(at.in_bounds, NUM_TERMS)
    carried = zero_groups(at.in_bounds, C, G)  # gradient of the row of samples that the cell above and this one share
    first_cell = strip * strip_cells
    last_cell = tl.minimum(first_cell + strip_cells, row_cells)
    student_top = load_row(student, widened(first_cell), at, C, G)
    # With a mask, whether a cell row needs its teacher's rows, and whose, shows when it is reached.
    CARRY_TEACHER: tl.constexpr = teacher is not None and not MASKED
    if CARRY_TEACHER:
        teacher_top = load_row(teacher, widened(first_cell), at, C, G)
    # With a gradient there is a row more than cells: a last turn without pixels stores what the last cell carries.
    turns = last_cell if buffer_ptr is None else last_cell + 1
    for row_cell in range(first_cell, turns):
        row = widened(row_cell)
        next_row = tl.minimum(row + 1, low_height - 1)
        begin = tl.load(rows.start_ptr + row_cell)
        end = tl.load(rows.start_ptr + tl.minimum(row_cell + 1, last_cell))
        student_rows = student_top, load_row(student, next_row, at, C, G)
        if CARRY_TEACHER:
            teacher_rows = teacher_top, load_row(teacher, next_row, at, C, G)
        upper = carried  # gradient of the row above the cell, on top of what the cell above has left
        lower = zeros_like(carried)
        for side in range(SIDES):
            active = begin < end
            if MASKED:
                # Pixels of this side in the cell row: a block wholly on the other side does not load this teacher.
                count = tl.zeros_like(at.column)
                for y in range(begin, end):
                    count += is_on_side(valid_mask, mix_mask, y, width, at, side).to(tl.int32)
                active = tl.max(count) > 0
            if active:
                if teacher is not None and not CARRY_TEACHER:
                    teacher_rows = load_sides_rows(teacher, partner_ptr, side, row, next_row, at, C, G)
                poison = zero_times_change(student_rows)
                if teacher is not None:
                    poison += zero_times_change(teacher_rows)
                for y in range(begin, end):
                    valid = is_on_side(valid_mask, mix_mask, y, width, at, side)
                    pixel = widened(y) * width + at.column
                    fraction = tl.load(rows.fraction_ptr + y)
                    z = interpolate(student_rows, fraction)
                    weight = None
                    if pixel_weight is not None:
                        weight = tl.load(pixel_weight.ptr + pixel * pixel_weight.stride_p, mask=at.in_bounds, other=0.0)
                    if teacher is None:
                        label, valid = load_labels(target.ptr, pixel * target.stride_p, at.in_bounds, ignore_index)
                        terms, gradient = labelled_pixels(
                            widen(z, C, G, FAST), label, poison, valid, weight, class_weight_ptr, scale, C, G, FAST
                        )
                    elif DISTANCE is not None:
                        t = interpolate(teacher_rows, fraction)
                        terms, gradient = distance_pixels(
                            widen(z, C, G, FAST),
                            widen(t, C, G, FAST),
                            poison,
                            valid,
                            weight,
                            scale,
                            DISTANCE,
                            FAST,
                        )
                    else:
                        t = interpolate(teacher_rows, fraction)
                        limit = loss_options.threshold
                        if threshold is not None:
                            limit = tl.load(threshold.ptr + pixel * threshold.stride_p, mask=at.in_bounds, other=0.0)
                        terms, gradient = fuzzy_positive_pixels(
                            widen(z, C, G, FAST),
                            widen(t, C, G, FAST),
                            poison,
                            valid,
                            weight,
                            limit,
                            scale,
                            loss_options,
                            C,
                            G,
                            CAPPED,
                            CONFIDENCE,
                            KEY,
                            NUM_TERMS > 1,
                            FAST,
                        )
                    if MASKED:
                        gradient = keep(valid, gradient)
                    totals = add(totals, terms)
                    if buffer_ptr is not None:
                        upper = add_scaled(upper, gradient, 1.0 - fraction)
                        lower = add_scaled(lower, gradient, fraction)
                    if map_ptr is not None:
                        tl.store(map_ptr + image * num_pixels + pixel, terms[0], mask=valid)
        if buffer_ptr is not None:
            store_row(buffer_ptr, upper, at, width, C, G)
            buffer_ptr += row_size
            carried = lower
        student_top = student_rows[1]
        if CARRY_TEACHER:
            teacher_top = teacher_rows[1]
    if sums_ptr is not None:
        store_sums(sums_ptr + first_program, totals, num_programs)
